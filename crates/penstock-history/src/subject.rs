//! What is under test: a queue, or a queue broken on purpose, which the checkers must reject.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use penstock_core::{Buffer, Delivery, Error, Held, Leave, Patience, Production, Queue, Verdict, Wait};

use crate::history::{Answer, LATER, Value};

/// How long a caller waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Not at all: a miss then is an answer about the queue.
    No,
    /// A miss then says only that the time was over.
    For(Duration),
}

impl Waits {
    fn patience(self) -> Patience {
        match self {
            Waits::No => Patience::NoWait,
            Waits::For(time) => Patience::Until(Instant::now() + time),
        }
    }

    fn missed(self, answer: Answer) -> Answer {
        match self {
            Waits::No => answer,
            Waits::For(_) => Answer::TimedOut,
        }
    }
}

/// A queue of values, as one process holds it. A call that does not wait, and found the lock taken by a
/// process that did not run, has not looked: it says that its time is over.
/// `len` and `is_empty` are two questions, whose answers must agree.
pub trait Subject: Sync {
    fn put(&self, value: Value, waits: Waits) -> Answer;
    /// With a delay: it waits for nothing.
    fn put_later(&self, value: Value) -> Answer;
    fn get(&self, waits: Waits) -> Answer;
    fn len(&self) -> u64;
    fn is_empty(&self) -> bool;
    fn is_full(&self) -> bool;
    fn task_done(&self) -> Answer;
    /// A get by name. The second value settles the item.
    fn hold(&self, waits: Waits) -> (Answer, Option<Held>);
    fn settle(&self, held: &Held, verdict: Verdict, is_later: bool) -> Answer;
    fn requeue(&self) -> Answer;
    fn purge(&self) -> Answer;
    fn join(&self) -> Answer;
    fn leave(&self, how: Leave) -> Answer;
    fn shut_down(&self, is_immediate: bool) -> Answer;
    fn produce(&self, expect: u32) -> Answer;
    /// Ends one of the blocks that this process has begun.
    fn end_producing(&self) -> Answer;
}

/// The real one, and the blocks in which its process produces.
pub struct Penstock(Arc<Queue>, Mutex<Vec<Production>>);

impl Penstock {
    pub fn new(queue: Arc<Queue>) -> Penstock {
        Penstock(queue, Mutex::default())
    }

    fn blocks(&self) -> std::sync::MutexGuard<'_, Vec<Production>> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a call that waits for nothing but the lock.
fn patiently<T>(call: impl FnOnce(Wait<'_>) -> T) -> T {
    call(Wait {
        patience: Patience::Forever,
        interrupted: &mut || false,
    })
}

fn payload(value: Value) -> Vec<u8> {
    let mut bytes = value.0.to_le_bytes().to_vec();
    bytes.resize(value.payload_len(), value.0 as u8 ^ 0x5a);
    bytes
}

fn value_of(bytes: &[u8]) -> Value {
    let head = bytes.first_chunk().expect("a payload has at least 8 bytes");
    let value = Value(u64::from_le_bytes(*head));
    assert!(bytes == payload(value), "the payload of {value:?} is torn");
    value
}

impl Subject for Penstock {
    fn put(&self, value: Value, waits: Waits) -> Answer {
        let wait = Wait {
            patience: waits.patience(),
            interrupted: &mut || false,
        };
        match self.0.put(&[&payload(value)], wait) {
            Ok(_) => Answer::Done,
            Err(Error::Full) => waits.missed(Answer::Full),
            Err(Error::FullBehindStopped { .. }) => Answer::TimedOut,
            Err(Error::ShutDown) => Answer::ShutDown,
            Err(error) => panic!("put: {error}"),
        }
    }

    fn put_later(&self, value: Value) -> Answer {
        let later = Duration::from_nanos(LATER);
        match patiently(|wait| self.0.put_delayed(&[&payload(value)], later, wait)) {
            Ok(_) => Answer::Done,
            Err(Error::ShutDown) => Answer::ShutDown,
            Err(error) => panic!("put_delayed: {error}"),
        }
    }

    fn get(&self, waits: Waits) -> Answer {
        let mut buffer = Buffer::default();
        let wait = Wait {
            patience: waits.patience(),
            interrupted: &mut || false,
        };
        match self.0.get(&mut buffer, wait) {
            Ok(Delivery::Copied) => Answer::Got(value_of(buffer.bytes())),
            Ok(Delivery::Lent(lent)) => Answer::Got(value_of(lent.bytes())),
            Err(Error::Empty) => waits.missed(Answer::Empty),
            Err(Error::EmptyBehindStopped { .. }) => Answer::TimedOut,
            Err(Error::ShutDown) => Answer::ShutDown,
            Err(error) => panic!("get: {error}"),
        }
    }

    fn hold(&self, waits: Waits) -> (Answer, Option<Held>) {
        let mut buffer = Buffer::default();
        let wait = Wait {
            patience: waits.patience(),
            interrupted: &mut || false,
        };
        match self.0.hold(&mut buffer, wait) {
            Ok((Delivery::Copied, held)) => (Answer::Got(value_of(buffer.bytes())), Some(held)),
            Ok((Delivery::Lent(lent), held)) => (Answer::Got(value_of(lent.bytes())), Some(held)),
            Err(Error::Empty) => (waits.missed(Answer::Empty), None),
            Err(Error::EmptyBehindStopped { .. }) => (Answer::TimedOut, None),
            Err(Error::ShutDown) => (Answer::ShutDown, None),
            Err(error) => panic!("hold: {error}"),
        }
    }

    fn requeue(&self) -> Answer {
        match patiently(|wait| self.0.requeue(None, wait)) {
            Ok(count) => Answer::Count(count),
            Err(Error::ShutDown) => Answer::ShutDown,
            Err(error) => panic!("requeue: {error}"),
        }
    }

    fn purge(&self) -> Answer {
        match patiently(|wait| self.0.purge(None, wait)) {
            Ok(count) => Answer::Count(count),
            Err(error) => panic!("purge: {error}"),
        }
    }

    fn settle(&self, held: &Held, verdict: Verdict, is_later: bool) -> Answer {
        let delay = Duration::from_nanos(if is_later { LATER } else { 0 });
        match patiently(|wait| self.0.settle_after(held, verdict, delay, wait)) {
            Ok(is_settled) => Answer::Is(is_settled),
            Err(error) => panic!("settle: {error}"),
        }
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn is_full(&self) -> bool {
        self.0.is_full()
    }

    fn task_done(&self) -> Answer {
        match self.0.task_done() {
            Ok(()) => Answer::Done,
            Err(Error::TooManyDone) => Answer::TooManyDone,
            Err(error) => panic!("task_done: {error}"),
        }
    }

    fn join(&self) -> Answer {
        let wait = Wait {
            patience: Patience::NoWait,
            interrupted: &mut || false,
        };
        match self.0.join(wait) {
            Ok(()) => Answer::Done,
            Err(Error::Empty) => Answer::Empty,
            Err(Error::EmptyBehindStopped { .. }) => Answer::TimedOut,
            Err(error) => panic!("join: {error}"),
        }
    }

    fn leave(&self, how: Leave) -> Answer {
        match self.0.leave(how) {
            Ok(()) => Answer::Done,
            Err(error) => panic!("leave: {error}"),
        }
    }

    fn shut_down(&self, is_immediate: bool) -> Answer {
        match self.0.shut_down(is_immediate) {
            Ok(()) => Answer::Done,
            Err(error) => panic!("shut_down: {error}"),
        }
    }

    fn produce(&self, expect: u32) -> Answer {
        match self.0.produce(expect) {
            Ok(production) => {
                self.blocks().push(production);
                Answer::Done
            }
            Err(Error::ShutDown) => Answer::ShutDown,
            Err(error) => panic!("produce: {error}"),
        }
    }

    fn end_producing(&self) -> Answer {
        let production = self.blocks().pop().expect("it has begun a block");
        match self.0.end_producing(production) {
            Ok(()) => Answer::Done,
            Err(error) => panic!("end_producing: {error}"),
        }
    }
}

/// The dead letters of a queue, sorted.
pub fn dead_letters(queue: &Queue) -> Vec<Value> {
    let letters = queue.dead_letters().expect("a queue that is not damaged");
    let mut values: Vec<Value> = letters.iter().map(|letter| value_of(&letter.payload)).collect();
    values.sort_unstable();
    values
}

/// What a broken queue does wrong. Whether it shows in a history is a matter of chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Gives the second item first.
    Swaps,
    /// Drops an item.
    Loses,
    /// Gives an item again.
    Doubles,
    /// Answers a get with an old "empty".
    SaysEmpty,
    /// Answers `is_empty` with an answer that is too old.
    IsEmptyLate,
    /// Takes one more than `maxsize`. The queue under it has to be one larger.
    Overfills,
    /// Gives a delayed item before its time.
    Hurries,
    /// Drops a delayed item.
    Forgets,
    /// Removes the dead letters that are to go back.
    Purges,
    /// Counts one dead letter more.
    Miscounts,
}

impl Fault {
    /// A `maxsize` at which it shows often: one that is exceeded, or one at which the queue is empty now and
    /// then.
    pub fn showing_maxsize(self) -> u64 {
        match self {
            Fault::Overfills => 5,
            Fault::IsEmptyLate => 3,
            _ => 0,
        }
    }
}

/// A queue that does one thing wrong, now and then: every so many operations of each process.
pub struct Broken<S> {
    queue: S,
    fault: Fault,
    maxsize: u64,
    every: u64,
    operations: AtomicU64,
    kept: Mutex<Vec<Value>>,
    was_empty: Mutex<Option<bool>>,
}

impl<S: Subject> Broken<S> {
    pub fn new(queue: S, fault: Fault, maxsize: u64, every: u64) -> Broken<S> {
        Broken {
            queue,
            fault,
            maxsize,
            every,
            operations: AtomicU64::new(0),
            kept: Mutex::new(Vec::new()),
            was_empty: Mutex::new(None),
        }
    }

    fn is_time_for(&self, fault: Fault) -> bool {
        self.fault == fault && self.operations.fetch_add(1, Ordering::Relaxed) % self.every == self.every - 1
    }

    fn keep(&self, answer: Answer) {
        if let Answer::Got(value) = answer {
            self.kept
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(value);
        }
    }
}

impl<S: Subject> Subject for Broken<S> {
    fn put(&self, value: Value, waits: Waits) -> Answer {
        // Two reads instead of one: what the real queue does in one critical section.
        if self.fault == Fault::Overfills && self.queue.len() > self.maxsize {
            return waits.missed(Answer::Full);
        }
        self.queue.put(value, waits)
    }

    fn put_later(&self, value: Value) -> Answer {
        match self.fault {
            Fault::Hurries => self.queue.put(value, Waits::No),
            Fault::Forgets if self.is_time_for(Fault::Forgets) => Answer::Done,
            _ => self.queue.put_later(value),
        }
    }

    fn requeue(&self) -> Answer {
        match self.fault {
            Fault::Purges => self.queue.purge(),
            Fault::Miscounts => match self.queue.requeue() {
                Answer::Count(count) => Answer::Count(count + 1),
                answer => answer,
            },
            _ => self.queue.requeue(),
        }
    }

    fn purge(&self) -> Answer {
        self.queue.purge()
    }

    fn get(&self, waits: Waits) -> Answer {
        if let Some(value) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Answer::Got(value);
        }
        if self.is_time_for(Fault::SaysEmpty) {
            return Answer::Empty;
        }
        if self.is_time_for(Fault::Swaps) {
            let first = self.queue.get(waits);
            let second = self.queue.get(Waits::No);
            return match second {
                Answer::Got(_) => {
                    self.keep(first);
                    second
                }
                _ => first,
            };
        }
        if self.is_time_for(Fault::Loses) {
            self.queue.get(waits);
        }
        let answer = self.queue.get(waits);
        if self.is_time_for(Fault::Doubles) {
            self.keep(answer);
        }
        answer
    }

    fn len(&self) -> u64 {
        self.queue.len()
    }

    fn is_empty(&self) -> bool {
        if self.fault != Fault::IsEmptyLate {
            return self.queue.is_empty();
        }
        let mut was_empty = self.was_empty.lock().unwrap_or_else(PoisonError::into_inner);
        match *was_empty {
            Some(answer) if !self.is_time_for(Fault::IsEmptyLate) => answer,
            _ => *was_empty.insert(self.queue.is_empty()),
        }
    }

    fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    fn task_done(&self) -> Answer {
        self.queue.task_done()
    }

    fn join(&self) -> Answer {
        self.queue.join()
    }

    fn leave(&self, how: Leave) -> Answer {
        self.queue.leave(how)
    }

    fn shut_down(&self, is_immediate: bool) -> Answer {
        self.queue.shut_down(is_immediate)
    }

    fn produce(&self, expect: u32) -> Answer {
        self.queue.produce(expect)
    }

    fn end_producing(&self) -> Answer {
        self.queue.end_producing()
    }

    fn hold(&self, waits: Waits) -> (Answer, Option<Held>) {
        self.queue.hold(waits)
    }

    fn settle(&self, held: &Held, verdict: Verdict, is_later: bool) -> Answer {
        self.queue.settle(held, verdict, is_later)
    }
}
