//! A queue is shut down, or its last producer ends, beside processes that wait: each learns it, no wake-up is
//! lost, and a process that dies has shut it down for all or for none.

use std::sync::Arc;
use std::time::Duration;

use Preemptions::AtMost;

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::models::run::*;
use crate::models::world::How;
use crate::operations::delivery::Buffer;
use crate::operations::get::Delivery;
use crate::operations::iterate::InHand;
use crate::options::Wait;
use crate::units::Leave;

/// In virtual time: a slice of the lock, and one of a waiter behind the watcher.
const SOON: Duration = Duration::from_millis(400);

fn try_put(queue: &Queue, byte: u8) -> Result<(), Error> {
    queue.put(&[&[byte]], patient()).map(drop)
}

#[test]
fn a_waiting_getter_learns_it() {
    Model::new("a shutdown beside a getter", AtMost(2)).check(|| {
        let queue = create(&PLAIN);
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| queue.shut_down(false).expect("the queue is whole"));
        processes.start(2, |queue| {
            assert_eq!(try_get(queue, forever()), Err(Error::ShutDown));
        });
        assert_eq!(processes.finish(), []);
        assert_no_slice_ended();
    });
}

#[test]
fn a_waiting_putter_learns_it() {
    Model::new("a shutdown beside a putter without room", AtMost(2)).check(|| {
        let queue = create(&NARROW);
        put(&queue, 1);
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| queue.shut_down(false).expect("the queue is whole"));
        processes.start(2, |queue| {
            assert_eq!(queue.put(&[&[2]], forever()).map(drop), Err(Error::ShutDown));
        });
        assert_eq!(processes.finish(), [1]);
        assert_no_slice_ended();
    });
}

#[test]
fn a_joiner_learns_it() {
    Model::new("an immediate shutdown beside a joiner", AtMost(2)).check(|| {
        let queue = create(&ACKNOWLEDGED);
        put(&queue, 1);
        put(&queue, 2);
        put(&queue, 3);
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| queue.shut_down(true).expect("the queue is whole"));
        processes.start(2, |queue| queue.join(forever()).expect("all is discarded"));
        assert_eq!(processes.finish(), []);
        assert_no_slice_ended();
    });
}

/// The last item is done, and the worker that waits for it in case it comes back ends.
#[test]
fn a_getter_ends_with_the_last_item_in_hand() {
    Model::new("a shutdown, and the last item is done", AtMost(1)).check(|| {
        let queue = create(&ACKNOWLEDGED);
        put(&queue, 1);
        let log = Log::default();
        let mut processes = Processes::of(&queue);
        for process in [1, 2] {
            let done = log.clone();
            processes.start(process, move |queue| {
                while let Ok(item) = try_get(queue, forever()) {
                    queue.task_done().expect("it is unfinished");
                    done.note(item);
                }
            });
        }
        processes.start(3, |queue| queue.shut_down(false).expect("the queue is whole"));
        assert_eq!(processes.finish(), []);
        assert_eq!(log.items(), [1]);
        assert_no_slice_ended();
    });
}

#[test]
fn a_put_beside_it_is_taken_or_refused() {
    Model::new("a put and a get beside a shutdown", AtMost(2)).check(|| {
        let queue = create(&PLAIN);
        let (put_, got) = (Log::default(), Log::default());
        let mut processes = Processes::of(&queue);
        let log = put_.clone();
        processes.start(1, move |queue| {
            if try_put(queue, 1).is_ok() {
                log.note(1);
            }
        });
        let log = got.clone();
        processes.start(2, move |queue| {
            while let Ok(item) = try_get(queue, forever()) {
                log.note(item);
            }
        });
        processes.start(3, |queue| queue.shut_down(false).expect("the queue is whole"));
        assert_eq!(processes.finish(), []);
        assert_eq!(put_.items(), got.items());
        assert_no_slice_ended();
    });
}

/// Waiters of both kinds in turn, and a process that dies in an immediate shutdown of a queue with one item.
fn check_death(name: &'static str, how: How, is_told: fn(&Arc<Queue>) -> bool) {
    Model::new(name, AtMost(1)).check_stopping(1, how, move || {
        let queue = create(&NARROW);
        put(&queue, 1);
        let told = Log::default();
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| queue.shut_down(true).expect("the queue is whole"));
        let log = told.clone();
        processes.start(2, move |queue| {
            if is_told(queue) {
                log.note(1);
            }
        });
        let left = processes.finish();
        // Before the commit nothing has happened.
        let is_over = queue.is_shut_down();
        assert!(!is_over || left.is_empty() && told.items() == [1], "{left:?}");
        assert!(told.last_at() <= SOON, "{:?}", told.last_at());
    });
}

#[test]
fn a_putter_learns_it_though_its_waker_dies() {
    check_death(
        "a process dies in a shutdown, a putter waits",
        How::Dies,
        |queue| try_put(queue, 2) == Err(Error::ShutDown),
    );
}

#[test]
fn a_getter_learns_it_though_its_waker_dies() {
    check_death(
        "a process dies in a shutdown, a getter waits",
        How::Dies,
        |queue| {
            while let Ok(item) = try_get(queue, patient()) {
                assert_eq!(item, 1);
            }
            queue.is_shut_down()
        },
    );
}

#[test]
fn a_joiner_learns_it_though_its_waker_dies() {
    Model::new("a process dies in a shutdown, a joiner waits", AtMost(1)).check_stopping(
        1,
        How::Dies,
        || {
            let queue = create(&ACKNOWLEDGED);
            for item in [1, 2, 3] {
                put(&queue, item);
            }
            let joined = Log::default();
            let mut processes = Processes::of(&queue);
            processes.start(1, |queue| queue.shut_down(true).expect("the queue is whole"));
            let log = joined.clone();
            processes.start(2, move |queue| {
                if queue.join(patient()).is_ok() {
                    log.note(1);
                }
            });
            let left = processes.finish();
            if queue.is_shut_down() {
                assert_eq!((left, joined.items()), (vec![], vec![1]));
            } else {
                assert_eq!((left.len(), joined.items()), (3, vec![]));
            }
        },
    );
}

/// The worker that has the last item dies after the shutdown, or before: the other one does it.
#[test]
fn what_comes_back_after_it_is_done() {
    Model::new("a worker dies beside a shutdown", AtMost(1)).check_stopping(1, How::Dies, || {
        let queue = create(&ACKNOWLEDGED);
        queue.join(forever()).expect("nothing was put");
        put(&queue, 1);
        let done = Log::default();
        let mut processes = Processes::of(&queue);
        let log = done.clone();
        processes.start(1, move |queue| {
            if try_get(queue, patient()).is_ok() {
                queue.task_done().expect("it is unfinished");
                log.note(1);
            }
        });
        let log = done.clone();
        processes.start(2, move |queue| {
            queue.shut_down(false).expect("the queue is whole");
            while let Ok(item) = try_get(queue, patient()) {
                queue.task_done().expect("it is unfinished");
                log.note(item);
            }
        });
        assert_eq!(processes.finish(), []);
        // Once; or the dead process has finished it, and not noted that.
        assert!(done.items().len() <= 1, "{:?}", done.items());
    });
}

fn try_next(queue: &Arc<Queue>, in_hand: &mut Option<InHand>, wait: Wait<'_>) -> Result<u8, Error> {
    let mut buffer = Buffer::default();
    match queue.get_next(in_hand, &mut buffer, wait)? {
        Delivery::Copied => Ok(buffer.bytes()[0]),
        Delivery::Lent(lent) => Ok(lent.bytes()[0]),
    }
}

/// Each finishes its item before it waits, so none waits for another.
#[test]
fn loops_end_together() {
    Model::new("loops of two processes, and a shutdown", AtMost(1)).check(|| {
        let queue = create(&ACKNOWLEDGED);
        queue.join(forever()).expect("nothing was put");
        put(&queue, 1);
        put(&queue, 2);
        let log = Log::default();
        let mut processes = Processes::of(&queue);
        for process in [1, 2] {
            let done = log.clone();
            processes.start(process, move |queue| {
                let mut in_hand = None;
                while let Ok(item) = try_next(queue, &mut in_hand, forever()) {
                    done.note(item);
                }
            });
        }
        processes.start(3, |queue| queue.shut_down(false).expect("the queue is whole"));
        assert_eq!(processes.finish(), []);
        let mut items = log.items();
        items.sort_unstable();
        assert_eq!(items, [1, 2]);
        assert_no_slice_ended();
    });
}

/// A loop dies with its item, or between two of them: the other one does what is left, and ends.
#[test]
fn a_loop_dies() {
    Model::new("a loop dies beside another", AtMost(1)).check_stopping(1, How::Dies, || {
        let queue = create(&ACKNOWLEDGED);
        queue.join(forever()).expect("nothing was put");
        put(&queue, 1);
        put(&queue, 2);
        queue.shut_down(false).expect("the queue is whole");
        let taken = Log::default();
        let mut processes = Processes::of(&queue);
        let log = taken.clone();
        processes.start(1, move |queue| {
            let mut in_hand = None;
            // Two at most: otherwise each further slice would have further steps at which to stop.
            for _ in 0..2 {
                if let Ok(item) = try_next(queue, &mut in_hand, patient()) {
                    log.note(item);
                }
            }
            queue.leave(Leave::Crashed).expect("the queue is whole");
        });
        let log = taken.clone();
        processes.start(2, move |queue| {
            let mut in_hand = None;
            while let Ok(item) = try_next(queue, &mut in_hand, patient()) {
                log.note(item);
            }
            assert!(in_hand.is_none(), "it is finished before the wait");
        });
        assert_eq!(processes.finish(), []);
        for item in [1, 2] {
            // Once, or again because the first one died with it.
            assert!((1..=2).contains(&taken.items().iter().filter(|taken| **taken == item).count()));
        }
    });
}

fn produce(queue: &Queue, expect: u32, item: u8) {
    let production = queue.produce(expect).expect("it is open");
    put(queue, item);
    queue.end_producing(production).expect("the queue is whole");
}

/// Two producers that expect each other, and a consumer that ends with the last of them.
#[test]
fn the_last_producer_ends_it() {
    Model::new("two producers and a consumer", AtMost(2)).check(|| {
        let queue = create(&PLAIN);
        let log = Log::default();
        let mut processes = Processes::of(&queue);
        for process in [1, 2] {
            processes.start(process, move |queue| produce(queue, 2, process as u8));
        }
        let got = log.clone();
        processes.start(3, move |queue| {
            loop {
                match try_get(queue, forever()) {
                    Ok(item) => got.note(item),
                    Err(error) => {
                        assert_eq!(error, Error::ShutDown);
                        break;
                    }
                }
            }
        });
        assert_eq!(processes.finish(), []);
        let mut items = log.items();
        items.sort_unstable();
        assert_eq!(items, [1, 2]);
        assert!(queue.is_shut_down());
        assert_no_slice_ended();
    });
}

/// One that begins beside the end of the last one: it has begun before the end, or is refused.
#[test]
fn one_begins_beside_the_end() {
    Model::new("a producer begins beside the end of another", AtMost(2)).check(|| {
        let queue = create(&PLAIN);
        let (begun, got) = (Log::default(), Log::default());
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| {
            let production = queue
                .produce(0)
                .expect("it is open, unless the other is over already");
            queue.end_producing(production).expect("the queue is whole");
        });
        let log = begun.clone();
        processes.start(2, move |queue| match queue.produce(2) {
            Ok(production) => {
                log.note(2);
                put(queue, 2);
                queue.end_producing(production).expect("the queue is whole");
            }
            Err(error) => assert_eq!(error, Error::ShutDown),
        });
        let log = got.clone();
        processes.start(3, move |queue| {
            while let Ok(item) = try_get(queue, forever()) {
                log.note(item);
            }
        });
        assert_eq!(processes.finish(), []);
        assert_eq!(begun.items(), got.items());
        assert_no_slice_ended();
    });
}

/// A producer dies at any step beside a consumer: once it has begun, the consumer ends.
#[test]
fn a_producer_dies() {
    Model::new("a producer dies beside a consumer", AtMost(1)).check_stopping(1, How::Dies, || {
        let queue = create(&PLAIN);
        let (put_, got, told) = (Log::default(), Log::default(), Log::default());
        let mut processes = Processes::of(&queue);
        let log = put_.clone();
        processes.start(1, move |queue| {
            let production = queue.produce(1).expect("it is open");
            log.note(0);
            put(queue, 1);
            log.note(1);
            queue.end_producing(production).expect("the queue is whole");
        });
        let (log, end) = (got.clone(), told.clone());
        processes.start(2, move |queue| {
            loop {
                match try_get(queue, patient()) {
                    Ok(item) => log.note(item),
                    Err(error) => {
                        if error == Error::ShutDown {
                            end.note(1);
                        }
                        break;
                    }
                }
            }
        });
        assert_eq!(processes.finish(), []);
        let noted = put_.items();
        assert!(
            noted.is_empty() || told.items() == [1],
            "{noted:?}: the consumer waited on"
        );
        assert!(!noted.contains(&1) || got.items() == [1]);
        assert!(told.last_at() <= SOON, "{:?}", told.last_at());
    });
}

/// The consumer that sweeps a dead producer dies: another one ends all the same.
#[test]
fn the_sweeper_of_a_producer_dies() {
    Model::new("a producer dies, and its sweeper", AtMost(1))
        .with_death(1, 1)
        .check_stopping(2, How::Dies, || {
            let queue = create(&PLAIN);
            let told = Log::default();
            let mut processes = Processes::of(&queue);
            processes.start(1, |queue| put(queue, 1));
            // It has begun before it dies, at its first step.
            processes.begin_to_produce(1);
            for process in [2, 3] {
                let log = told.clone();
                processes.start(process, move |queue| {
                    if try_get(queue, patient()) == Err(Error::ShutDown) {
                        log.note(process as u8);
                    }
                });
            }
            assert_eq!(processes.finish(), []);
            assert!(told.items().contains(&3), "{:?}", told.items());
        });
}
