//! Producers: a queue ends by itself when those that have begun are gone, by whatever end.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use penstock_core::{Error, Leave, Options, Patience, Queue, Statistics};

#[path = "common/awaited.rs"]
mod awaited;
#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/get.rs"]
mod get;
#[path = "common/soon.rs"]
mod soon;
#[path = "common/stops.rs"]
mod stops;

use awaited::{outcome, until};
use child::Child;
use common::{PLAIN, wait};
use soon::soon;

const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    ..PLAIN
};
const KILLED: i32 = -libc::SIGKILL;

fn put(queue: &Queue, item: u8) -> Result<(), Error> {
    wait(soon(), |wait| queue.put(&[&[item]], wait)).map(drop)
}

fn get(queue: &Arc<Queue>, patience: Patience) -> Result<u8, Error> {
    get::get(queue, patience).map(|bytes| bytes[0])
}

/// What a consumer takes until the queue is shut down.
fn consume(queue: &Arc<Queue>) -> Vec<u8> {
    let mut items = Vec::new();
    loop {
        match get(queue, soon()) {
            Ok(item) => items.push(item),
            Err(error) => {
                assert_eq!(error, Error::ShutDown);
                return items;
            }
        }
    }
}

fn consumer(queue: &Arc<Queue>) -> JoinHandle<Vec<u8>> {
    let queue = queue.clone();
    thread::spawn(move || consume(&queue))
}

fn is_sound(queue: &Queue) -> Statistics {
    assert_eq!(queue.check().unwrap().findings, []);
    queue.statistics().unwrap()
}

fn killed(child: Child) {
    child.signal(libc::SIGKILL);
    assert_eq!(outcome(child), KILLED);
}

fn stay() -> ! {
    loop {
        thread::park();
    }
}

/// A process that begins to produce, puts an item, and stays.
fn producer(queue: &Arc<Queue>, expect: u32, item: u8) -> Child {
    let before = queue.statistics().unwrap().puts;
    let child = Child::run(|| {
        let _production = queue.produce(expect).unwrap();
        put(queue, item).unwrap();
        stay();
    });
    until("it has put", || queue.statistics().unwrap().puts == before + 1);
    child
}

fn producers(queue: &Queue) -> u64 {
    is_sound(queue).producers
}

#[test]
fn the_last_one_shuts_the_queue_down() {
    for options in [&PLAIN, &ACKNOWLEDGED] {
        let queue = Queue::create(options).unwrap();
        let production = queue.produce(0).unwrap();
        assert_eq!(producers(&queue), 1);
        put(&queue, 1).unwrap();
        assert!(!queue.is_shut_down());
        queue.end_producing(production).unwrap();
        assert!(queue.is_shut_down());
        assert_eq!(put(&queue, 2), Err(Error::ShutDown));
        assert_eq!(queue.produce(0).unwrap_err(), Error::ShutDown);
        assert_eq!(get(&queue, Patience::NoWait), Ok(1));
        let s = is_sound(&queue);
        assert_eq!((s.producers, s.discarded), (0, 0));
    }
}

#[test]
fn a_queue_without_producers_does_not_end() {
    let queue = Queue::create(&PLAIN).unwrap();
    let mut child = Child::run(|| put(&queue, 1).unwrap());
    assert_eq!(child.reap(), 0);
    queue.statistics().unwrap();
    assert!(!queue.is_shut_down());
}

#[test]
fn blocks_inside_each_other_and_in_several_threads() {
    let queue = Queue::create(&PLAIN).unwrap();
    let outer = queue.produce(0).unwrap();
    let inner = queue.produce(0).unwrap();
    let here = queue.clone();
    let third = thread::spawn(move || here.produce(0).unwrap()).join().unwrap();
    assert_eq!(producers(&queue), 1, "the process counts once");
    for block in [outer, third] {
        queue.end_producing(block).unwrap();
        assert!(!queue.is_shut_down());
    }
    queue.end_producing(inner).unwrap();
    assert!(queue.is_shut_down());
}

#[test]
fn it_waits_for_those_that_are_expected() {
    let queue = Queue::create(&PLAIN).unwrap();
    for expect in [2, 3, 1] {
        let mut child = Child::run(|| {
            let production = queue.produce(expect).unwrap();
            put(&queue, expect as u8).unwrap();
            queue.end_producing(production).unwrap();
        });
        assert_eq!(child.reap(), 0);
        queue.statistics().unwrap();
        assert_eq!(queue.is_shut_down(), expect == 1, "the largest number counts");
    }
    assert_eq!(consume(&queue), [2, 3, 1]);
}

/// However often a process begins, it is one producer.
#[test]
fn a_process_that_begins_again_is_the_same_producer() {
    let queue = Queue::create(&PLAIN).unwrap();
    for _ in 0..3 {
        let production = queue.produce(2).unwrap();
        queue.end_producing(production).unwrap();
        assert!(!queue.is_shut_down());
    }
    let child = producer(&queue, 0, 1);
    assert_eq!(producers(&queue), 1);
    killed(child);
    queue.statistics().unwrap();
    assert!(queue.is_shut_down());
}

#[test]
fn a_waiting_consumer_learns_of_the_end_and_of_a_death() {
    for dies in [false, true] {
        for expect in [0, 1] {
            let queue = Queue::create(&PLAIN).unwrap();
            let consumer = consumer(&queue);
            let child = Child::run(|| {
                let production = queue.produce(expect).unwrap();
                put(&queue, 1).unwrap();
                until("taken", || queue.is_empty());
                if dies {
                    stay();
                }
                queue.end_producing(production).unwrap();
            });
            until("taken", || queue.statistics().unwrap().gets == 1);
            if dies {
                child.signal(libc::SIGKILL);
            }
            assert_eq!(outcome(child), if dies { KILLED } else { 0 });
            assert_eq!(consumer.join().unwrap(), [1]);
            is_sound(&queue);
        }
    }
}

/// A program that asks without waiting, or for short times, finds the dead producer, too.
#[test]
fn a_consumer_that_does_not_wait_learns_of_a_death() {
    let waits: [fn(&Arc<Queue>) -> bool; 4] = [
        |queue| get(queue, Patience::NoWait) == Err(Error::ShutDown),
        |queue| {
            let briefly = Patience::Until(Instant::now() + Duration::from_millis(1));
            get(queue, briefly) == Err(Error::ShutDown)
        },
        |queue| queue.is_empty() && queue.is_shut_down(),
        |queue| match get(queue, Patience::TryLock) {
            Err(Error::Busy) => get(queue, Patience::NoWait) == Err(Error::ShutDown),
            answer => answer == Err(Error::ShutDown),
        },
    ];
    for has_ended in waits {
        let queue = Queue::create(&PLAIN).unwrap();
        let child = producer(&queue, 0, 1);
        assert_eq!(get(&queue, soon()), Ok(1));
        assert!(!has_ended(&queue));
        killed(child);
        until("it has ended", || has_ended(&queue));
    }
}

/// A stopped producer is alive.
#[test]
fn a_stopped_producer_is_waited_for() {
    let queue = Queue::create(&PLAIN).unwrap();
    let child = producer(&queue, 0, 1);
    child.signal(libc::SIGSTOP);
    assert!(child.stops());
    assert_eq!(get(&queue, soon()), Ok(1));
    let for_long = Patience::Until(Instant::now() + Duration::from_millis(400));
    assert_eq!(get(&queue, for_long), Err(Error::Empty));
    assert!(!queue.is_shut_down());
    killed(child);
    assert_eq!(get(&queue, soon()), Err(Error::ShutDown));
}

/// The starter is a producer until all have begun; one that dies before it begins is not counted.
#[test]
fn a_producer_that_dies_before_it_begins() {
    let queue = Queue::create(&PLAIN).unwrap();
    let starter = queue.produce(0).unwrap();
    let consumer = consumer(&queue);
    let stillborn = Child::run(|| stay());
    let child = producer(&queue, 0, 7);
    killed(stillborn);
    killed(child);
    queue.statistics().unwrap();
    assert!(!queue.is_shut_down());
    queue.end_producing(starter).unwrap();
    assert_eq!(consumer.join().unwrap(), [7]);
}

/// A child is no producer until it says so, and the end of its parent's block is not its own.
#[test]
fn a_fork_in_a_block() {
    let queue = Queue::create(&PLAIN).unwrap();
    let production = queue.produce(0).unwrap();
    let mut child = Child::run(|| {
        put(&queue, 1).unwrap();
        assert_eq!(queue.statistics().unwrap().producers, 1);
        let own = queue.produce(0).unwrap();
        assert_eq!(queue.statistics().unwrap().producers, 2);
        queue.end_producing(production).unwrap();
        assert_eq!(queue.statistics().unwrap().producers, 2);
        queue.end_producing(own).unwrap();
    });
    assert_eq!(child.reap(), 0);
    assert_eq!(producers(&queue), 1);
    let mut child = Child::run(|| ());
    assert_eq!(child.reap(), 0);
    queue.statistics().unwrap();
    assert!(!queue.is_shut_down());
}

#[test]
fn a_process_that_leaves_in_a_block() {
    for how in [Leave::Clean, Leave::Crashed] {
        for item in [None, Some(1)] {
            let queue = Queue::create(&ACKNOWLEDGED).unwrap();
            let child = Child::run(|| {
                let _production = queue.produce(0).unwrap();
                if let Some(item) = item {
                    put(&queue, item).unwrap();
                    assert_eq!(get(&queue, soon()), Ok(item));
                }
                queue.leave(how).unwrap();
                assert!(queue.is_shut_down());
            });
            assert_eq!(outcome(child), 0);
            assert!(queue.is_shut_down());
            is_sound(&queue);
        }
    }
}

/// A block that ended when its process left does not end a newer one.
#[test]
fn the_late_end_of_a_block() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    let late = queue.produce(2).unwrap();
    queue.leave(Leave::Clean).unwrap();
    let newer = queue.produce(0).unwrap();
    queue.end_producing(late).unwrap();
    assert_eq!(queue.statistics().unwrap().producers, 1);
    let mut child = Child::run(|| queue.end_producing(queue.produce(0).unwrap()).unwrap());
    assert_eq!(child.reap(), 0);
    assert!(!queue.is_shut_down());
    queue.end_producing(newer).unwrap();
    assert!(queue.is_shut_down());
    is_sound(&queue);
}

/// A process that opens the queue anew is another participant, and the same producer. Its child is another.
#[test]
fn a_process_that_opens_the_queue_anew_is_the_same_producer() {
    let queue = Queue::create(&PLAIN).unwrap();
    let child = Child::run(|| {
        let fd = queue.duplicate_fd().unwrap();
        let id = queue.id();
        let handle: *const Arc<Queue> = &raw const queue;
        // SAFETY: the child uses this handle no more.
        drop(unsafe { handle.read() });
        for _ in 0..3 {
            let queue = Queue::attach_as(fd.try_clone().unwrap(), id).unwrap().unwrap();
            let production = queue.produce(2).unwrap();
            queue.end_producing(production).unwrap();
            assert!(!queue.is_shut_down());
        }
        let queue = Queue::attach_as(fd, id).unwrap().unwrap();
        let mut child = Child::run(|| queue.end_producing(queue.produce(0).unwrap()).unwrap());
        assert_eq!(child.reap(), 0);
        assert!(queue.is_shut_down());
    });
    assert_eq!(outcome(child), 0);
    assert!(queue.is_shut_down());
    is_sound(&queue);
}

/// The last handle of a process ends its blocks, also while it has an item in hand.
#[test]
fn a_handle_that_is_closed_in_a_block() {
    for holds in [false, true] {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        let fd = queue.duplicate_fd().unwrap();
        wait(soon(), |wait| queue.join(wait)).unwrap();
        let id = queue.id();
        let handle = queue.open_handle().unwrap();
        let production = queue.produce(0).unwrap();
        put(&queue, 1).unwrap();
        if holds {
            assert_eq!(get(&queue, soon()), Ok(1));
        }
        handle.close(queue);
        let mut child = Child::run(|| {
            let queue = Queue::attach_as(fd, id).unwrap().unwrap();
            assert!(queue.is_shut_down());
            assert_eq!(queue.statistics().unwrap().producers, 0);
        });
        assert_eq!(child.reap(), 0);
        wait(soon(), |wait| production.end(wait)).unwrap();
    }
}

/// One of two handles is closed: the process is a producer still, and the block's end ends that.
#[test]
fn one_handle_of_two_is_closed_in_a_block() {
    let queue = Queue::create(&PLAIN).unwrap();
    let (first, second) = (queue.open_handle().unwrap(), queue.open_handle().unwrap());
    let production = queue.produce(0).unwrap();
    first.close(queue.clone());
    assert_eq!(producers(&queue), 1);
    wait(soon(), |wait| production.end(wait)).unwrap();
    assert!(queue.is_shut_down());
    second.close(queue);
}

#[test]
fn a_queue_that_is_dropped_in_a_block() {
    let queue = Queue::create(&PLAIN).unwrap();
    let mut child = Child::run(|| {
        let queue = Queue::attach(queue.duplicate_fd().unwrap()).unwrap();
        let _production = queue.produce(0).unwrap();
    });
    assert_eq!(child.reap(), 0);
    queue.statistics().unwrap();
    assert!(queue.is_shut_down());
}

/// A watcher's descriptor is readable once the last producer has ended, or is swept.
#[test]
fn a_watcher_learns_it() {
    for dies in [false, true] {
        let queue = Queue::create(&PLAIN).unwrap();
        let fd = wait(soon(), |wait| queue.watch(wait)).unwrap();
        let child = producer(&queue, 0, 1);
        assert_eq!(get(&queue, soon()), Ok(1));
        let production = queue.produce(0).unwrap();
        killed(child);
        queue.statistics().unwrap();
        let is_readable = || {
            let mut polled = libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: the call reads and writes one struct.
            unsafe { libc::poll(&raw mut polled, 1, 0) == 1 }
        };
        assert!(!is_readable());
        if dies {
            let last = producer(&queue, 0, 2);
            queue.end_producing(production).unwrap();
            assert_eq!(get(&queue, soon()), Ok(2));
            killed(last);
            queue.statistics().unwrap();
        } else {
            queue.end_producing(production).unwrap();
        }
        assert!(is_readable());
    }
}

/// What a dead worker had in hand comes back after the end that a dead producer has brought.
#[test]
fn a_worker_that_is_a_producer_dies() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    wait(soon(), |wait| queue.join(wait)).unwrap();
    let child = Child::run(|| {
        let _production = queue.produce(0).unwrap();
        put(&queue, 1).unwrap();
        put(&queue, 2).unwrap();
        assert_eq!(get(&queue, soon()), Ok(1));
        stay();
    });
    until("taken", || {
        queue.len() == 1 && queue.statistics().unwrap().puts == 2
    });
    killed(child);
    // Sweeps it.
    queue.statistics().unwrap();
    for item in [1, 2] {
        assert_eq!(get(&queue, soon()), Ok(item));
        queue.task_done().unwrap();
    }
    assert_eq!(get(&queue, soon()), Err(Error::ShutDown));
    assert_eq!(is_sound(&queue).redeliveries, 1);
}

#[cfg(feature = "fault-points")]
mod points {
    use super::*;
    use penstock_core::fault;

    fn killed_at(point: &str, hit: u64, victim: impl FnOnce()) {
        let child = Child::run(|| {
            assert!(fault::arm(point, hit));
            victim();
        });
        assert_eq!(outcome(child), KILLED, "it did not pass {point}");
    }

    /// A producer dies at each step of its block: before it has begun nothing has happened, and afterwards
    /// the queue ends.
    #[test]
    fn death_at_each_step() {
        for (point, has_begun) in [
            ("produce.expected", false),
            ("produce.begun", true),
            ("produce.counted", true),
            ("put.committed", true),
            ("produce.left", true),
            ("produce.ended", true),
        ] {
            for others in [false, true] {
                if others && point == "produce.ended" {
                    continue;
                }
                let queue = Queue::create(&PLAIN).unwrap();
                let consumer = consumer(&queue);
                let other = others.then(|| queue.produce(0).unwrap());
                killed_at(point, 1, || {
                    let production = queue.produce(1).unwrap();
                    put(&queue, 1).unwrap();
                    queue.end_producing(production).unwrap();
                });
                is_sound(&queue);
                assert_eq!(queue.is_shut_down(), has_begun && !others, "{point}");
                if let Some(other) = other {
                    queue.end_producing(other).unwrap();
                } else if !has_begun {
                    // It has named a number, and so many have not begun.
                    let production = queue.produce(0).unwrap();
                    queue.end_producing(production).unwrap();
                }
                assert!(queue.is_shut_down(), "{point}");
                let got = consumer.join().unwrap();
                let has_put = !matches!(point, "produce.expected" | "produce.begun" | "produce.counted");
                assert_eq!(got.len(), usize::from(has_put), "{point}");
                is_sound(&queue);
            }
        }
    }

    /// What a producer expects outlives it, whether it has begun or not.
    #[test]
    fn what_a_dead_producer_has_named_counts() {
        for (point, begun) in [("produce.expected", 0), ("produce.begun", 1)] {
            let queue = Queue::create(&PLAIN).unwrap();
            killed_at(point, 1, || {
                let _ = queue.produce(3).unwrap();
            });
            is_sound(&queue);
            for number in begun + 1..=3 {
                assert!(!queue.is_shut_down(), "{point}");
                let mut child = Child::run(|| {
                    let production = queue.produce(0).unwrap();
                    queue.end_producing(production).unwrap();
                });
                assert_eq!(child.reap(), 0, "{number}");
                queue.statistics().unwrap();
            }
            assert!(queue.is_shut_down(), "{point}");
        }
    }

    /// The sweeper of a dead producer dies, at each step; so does a second one.
    #[test]
    fn the_sweeper_dies() {
        for first in [
            "sweep.cells-freed",
            "produce.left",
            "produce.ended",
            "sweep.released",
        ] {
            for second in [
                None,
                Some("rebuild.done"),
                Some("produce.left"),
                Some("produce.ended"),
            ] {
                let queue = Queue::create(&PLAIN).unwrap();
                let child = producer(&queue, 0, 1);
                assert_eq!(get(&queue, soon()), Ok(1));
                let sweep = || drop(queue.statistics());
                let by = Child::run(|| {
                    assert!(fault::arm(first, 1));
                    until("it is dead", || {
                        sweep();
                        false
                    });
                });
                killed(child);
                let _ = outcome(by);
                if let Some(second) = second {
                    let by = Child::run(|| {
                        assert!(fault::arm(second, 1));
                        sweep();
                    });
                    let _ = outcome(by);
                }
                until("it has ended", || {
                    sweep();
                    queue.is_shut_down()
                });
                assert_eq!(is_sound(&queue).producers, 0, "{first} {second:?}");
                assert_eq!(get(&queue, soon()), Err(Error::ShutDown));
            }
        }
    }

    /// It dies right after the last store, before its wake-up calls: waiters learn of it.
    #[test]
    fn death_before_the_waiters_are_woken() {
        for point in ["produce.left", "produce.ended", "unlock.before-wake"] {
            let queue = Queue::create(&PLAIN).unwrap();
            let consumers = [consumer(&queue), consumer(&queue)];
            until("waiting", || queue.statistics().unwrap().waiting_getters == 2);
            killed_at(point, 1, || {
                let production = queue.produce(0).unwrap();
                queue.end_producing(production).unwrap();
            });
            for consumer in consumers {
                assert_eq!(consumer.join().unwrap(), [], "{point}");
            }
        }
    }

    /// The lock stays taken, by a process that is stopped: the block ends at once for its process, and the
    /// queue as soon as that goes on.
    #[test]
    fn a_block_ends_beside_a_stopped_process() {
        let queue = Queue::create(&PLAIN).unwrap();
        let production = queue.produce(0).unwrap();
        let stopped = Child::run(|| {
            assert!(fault::suspend_at("lock.taken"));
            put(&queue, 1).unwrap();
        });
        assert!(stopped.stops());
        wait(Patience::NoWait, |wait| {
            queue.end_producing_within(production, wait)
        })
        .unwrap();
        assert!(!queue.is_shut_down(), "a stopped process has the lock");
        stopped.signal(libc::SIGCONT);
        assert_eq!(outcome(stopped), 0);
        assert_eq!(consume(&queue), [1]);
    }
}
