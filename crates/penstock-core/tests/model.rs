//! Random operations against a plain model that is too simple to be wrong.

use std::collections::VecDeque;
use std::sync::Arc;

use penstock_core::{Buffer, Delivery, Error, Leave, Lent, Options, Patience, Queue, Wait};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    Put(usize),
    Get,
    /// Takes an item and keeps looking at it.
    Look,
    EndLook,
    TaskDone,
    LeaveInOrder,
    Crash,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => prop_oneof![0usize..100, 0usize..5000, 30_000usize..200_000].prop_map(Operation::Put),
        5 => Just(Operation::Get),
        1 => Just(Operation::Look),
        1 => Just(Operation::EndLook),
        3 => Just(Operation::TaskDone),
        1 => Just(Operation::LeaveInOrder),
        1 => Just(Operation::Crash),
    ]
}

/// An item: its number, its length, whether it is finished, how often it was redelivered.
#[derive(Clone, Debug, PartialEq)]
struct Item {
    number: u64,
    len: usize,
    is_finished: bool,
    redeliveries: u8,
}

#[derive(Default)]
struct Model {
    ready: VecDeque<Item>,
    /// Taken and not acknowledged, in the order of taking.
    leased: Vec<Item>,
    orphans: u64,
    dead: Vec<u64>,
    puts: u64,
}

impl Model {
    fn unfinished(&self) -> u64 {
        self.ready.iter().filter(|item| !item.is_finished).count() as u64
            + self.leased.len() as u64
            + self.orphans
    }
}

fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend((0..len).map(|i| (number as usize + i) as u8));
    bytes
}

enum Taken {
    Copied(Vec<u8>),
    Lent(Lent),
}

fn take(queue: &Arc<Queue>) -> Result<Taken, Error> {
    let mut buffer = Buffer::default();
    let wait = Wait {
        patience: Patience::Now,
        interrupted: &mut || false,
    };
    Ok(match queue.get(&mut buffer, wait)? {
        Delivery::Copied => Taken::Copied(buffer.bytes().to_vec()),
        Delivery::Lent(lent) => Taken::Lent(lent),
    })
}

fn bytes(taken: &Taken) -> &[u8] {
    match taken {
        Taken::Copied(bytes) => bytes,
        Taken::Lent(lent) => lent.bytes(),
    }
}

fn run(options: &Options, operations: &[Operation]) -> Result<(), TestCaseError> {
    let queue = Queue::create(options).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let mut model = Model::default();
    let mut looking: Vec<(Taken, Item)> = Vec::new();
    for operation in operations {
        match operation {
            Operation::Put(len) => {
                let item = Item {
                    number: model.puts,
                    len: *len,
                    is_finished: false,
                    redeliveries: 0,
                };
                let wait = Wait {
                    patience: Patience::Now,
                    interrupted: &mut || false,
                };
                let result = queue.put(&[&payload(item.number, item.len)], wait);
                if options.maxsize != 0 && model.ready.len() as u64 >= options.maxsize {
                    prop_assert_eq!(result.err(), Some(Error::Full));
                } else {
                    prop_assert!(result.is_ok(), "{:?}", result);
                    model.ready.push_back(item);
                    model.puts += 1;
                }
            }
            Operation::Get | Operation::Look => {
                let taken = take(&queue);
                match (model.ready.pop_front(), taken) {
                    (None, result) => prop_assert_eq!(result.err(), Some(Error::Empty)),
                    (Some(item), Ok(taken)) => {
                        prop_assert!(bytes(&taken) == payload(item.number, item.len), "item {:?}", item);
                        if options.acknowledged && !item.is_finished {
                            model.leased.push(item.clone());
                        }
                        if matches!(operation, Operation::Look) {
                            looking.push((taken, item));
                        }
                    }
                    (Some(item), Err(error)) => {
                        return Err(TestCaseError::fail(format!("{item:?}: {error}")));
                    }
                }
            }
            Operation::EndLook => {
                if !looking.is_empty() {
                    let (taken, item) = looking.remove(0);
                    prop_assert!(
                        bytes(&taken) == payload(item.number, item.len),
                        "kept while looked at"
                    );
                }
            }
            Operation::TaskDone => {
                let result = queue.task_done();
                if !options.acknowledged || model.unfinished() == 0 {
                    prop_assert_eq!(result, Err(Error::TooManyDone));
                } else {
                    prop_assert_eq!(result, Ok(()));
                    if !model.leased.is_empty() {
                        model.leased.remove(0);
                    } else if model.orphans > 0 {
                        model.orphans -= 1;
                    } else if let Some(item) = model.ready.iter_mut().find(|item| !item.is_finished) {
                        item.is_finished = true;
                    }
                }
            }
            Operation::LeaveInOrder | Operation::Crash => {
                // What is being looked at stays where it is; here nothing is, to keep the model simple.
                looking.clear();
                if matches!(operation, Operation::LeaveInOrder) {
                    queue
                        .leave(Leave::Clean)
                        .map_err(|error| TestCaseError::fail(error.to_string()))?;
                    model.orphans += model.leased.len() as u64;
                    model.leased.clear();
                } else {
                    queue
                        .leave(Leave::Crashed)
                        .map_err(|error| TestCaseError::fail(error.to_string()))?;
                    for mut item in model.leased.drain(..) {
                        if item.redeliveries >= options.max_deliveries {
                            model.dead.push(item.number);
                        } else {
                            item.redeliveries += 1;
                            let place = model.ready.partition_point(|other| other.number < item.number);
                            model.ready.insert(place, item);
                        }
                    }
                }
            }
        }
        let statistics = queue
            .statistics()
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(statistics.puts, model.puts);
        prop_assert_eq!(statistics.queued, model.ready.len() as u64);
        prop_assert_eq!(queue.len(), statistics.queued);
        prop_assert_eq!(queue.is_empty(), model.ready.is_empty());
        prop_assert_eq!(
            queue.is_full(),
            options.maxsize != 0 && statistics.queued >= options.maxsize
        );
        prop_assert_eq!(
            statistics.unfinished,
            if options.acknowledged {
                model.unfinished()
            } else {
                0
            }
        );
        prop_assert_eq!(statistics.dead_letters, model.dead.len() as u64);
        prop_assert_eq!(
            statistics.puts,
            statistics.gets + statistics.queued + statistics.dead_letters
        );
    }
    let letters = queue
        .dead_letters()
        .map_err(|error| TestCaseError::fail(error.to_string()))?;
    let mut numbers: Vec<u64> = letters
        .iter()
        .map(|letter| u64::from_le_bytes(letter[..8].try_into().unwrap_or_default()))
        .collect();
    numbers.sort_unstable();
    model.dead.sort_unstable();
    prop_assert_eq!(numbers, model.dead);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_queue_behaves_like_its_model(
        operations in prop::collection::vec(operation(), 1..200),
        maxsize in prop_oneof![Just(0u64), 1u64..8],
        acknowledged: bool,
        max_deliveries in 0u8..4,
    ) {
        let options = Options { maxsize, max_bytes: None, soft_bytes: 0, acknowledged, max_deliveries };
        run(&options, &operations)?;
    }
}
