//! Items go from putters to getters while no process stops: no wake-up is lost, and no slice ever ends.

use Preemptions::{Any, AtMost};

use crate::error::Error;
use crate::models::run::*;
use crate::models::world;
use crate::options::{Patience, Wait};
use crate::platform::Slept;

#[test]
fn one_putter_one_getter() {
    Model::new("one putter, one getter", Any).check(|| {
        let queue = create(&PLAIN);
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| put(queue, 1));
        processes.start(2, |queue| assert_eq!(get(queue), 1));
        assert_eq!(processes.finish(), []);
        assert_no_slice_ended();
    });
}

#[test]
fn one_putter_two_getters() {
    Model::new("one putter, two getters: the chain of wake-ups", AtMost(2)).check(|| {
        let queue = create(&PLAIN);
        let log = Log::default();
        let mut processes = Processes::of(&queue);
        for process in [1, 2] {
            let log = log.clone();
            processes.start(process, move |queue| log.note(get(queue)));
        }
        processes.start(3, |queue| {
            put(queue, 1);
            put(queue, 2);
        });
        assert_eq!(processes.finish(), []);
        assert_eq!(log.items().iter().sum::<u8>(), 3);
        assert_no_slice_ended();
    });
}

#[test]
fn two_putters_one_getter() {
    Model::new("two putters, one place, one getter", AtMost(2)).check(|| {
        let queue = create(&NARROW);
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| put(queue, 1));
        processes.start(2, |queue| put(queue, 2));
        processes.start(3, |queue| assert_eq!(get(queue) + get(queue), 3));
        assert_eq!(processes.finish(), []);
        assert_no_slice_ended();
    });
}

#[test]
fn a_joiner() {
    Model::new("one putter, one worker, one joiner", AtMost(2)).check(|| {
        let queue = create(&ACKNOWLEDGED);
        let log = Log::default();
        put(&queue, 1);
        let mut processes = Processes::of(&queue);
        let done = log.clone();
        processes.start(1, move |queue| {
            for _ in 0..2 {
                let item = get(queue);
                done.note(item);
                queue.task_done().expect("it is unfinished");
            }
        });
        processes.start(2, |queue| put(queue, 2));
        let done = log.clone();
        processes.start(3, move |queue| {
            queue.join(forever()).expect("all is finished");
            assert!(done.items().contains(&1), "the item put before was not finished");
        });
        assert_eq!(processes.finish(), []);
        assert_eq!(log.items(), [1, 2]);
        assert_no_slice_ended();
    });
}

#[test]
fn spinning() {
    Model::new("one putter, two getters, of which one spins", AtMost(1))
        .on_cores(2)
        .check(|| {
            let queue = create(&PLAIN);
            let log = Log::default();
            let mut processes = Processes::of(&queue);
            for process in [1, 2] {
                let log = log.clone();
                processes.start(process, move |queue| log.note(get(queue)));
            }
            processes.start(3, |queue| {
                put(queue, 1);
                put(queue, 2);
            });
            assert_eq!(processes.finish(), []);
            assert_eq!(log.items().iter().sum::<u8>(), 3);
            assert_no_slice_ended();
        });
}

#[test]
fn large_payloads() {
    Model::new("large payloads, written and read without the lock", AtMost(2)).check(|| {
        let queue = create(&PLAIN);
        prepare_heap(&queue);
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| {
            put_large(queue, 1);
            put_large(queue, 2);
        });
        processes.start(2, |queue| {
            assert_eq!(get(queue), 1);
            assert_eq!(get(queue), 2);
        });
        assert_eq!(processes.finish(), []);
        assert_no_slice_ended();
    });
}

#[test]
fn growing() {
    Model::new("two putters extend the heap at once", AtMost(1)).check(|| {
        let queue = create(&PLAIN);
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| put_large(queue, 1));
        processes.start(2, |queue| put_large(queue, 2));
        let mut queued = processes.finish();
        queued.sort_unstable();
        assert_eq!(queued, [1, 2]);
    });
}

/// A signal comes to a getter at any moment. A getter that was notified passes the wake-up on.
#[test]
fn an_interrupted_getter() {
    Model::new("a getter is interrupted, another getter goes on", AtMost(2)).check(|| {
        let queue = create(&PLAIN);
        let log = Log::default();
        world::expect_disturbance(1);
        let mut processes = Processes::of(&queue);
        let got = log.clone();
        processes.start(1, move |queue| {
            let wait = Wait {
                patience: Patience::Forever,
                interrupted: &mut || true,
            };
            match try_get(queue, wait) {
                Ok(item) => got.note(item),
                Err(error) => assert_eq!(error, Error::Interrupted),
            }
        });
        let got = log.clone();
        processes.start(2, move |queue| got.note(get(queue)));
        processes.start(3, |queue| {
            put(queue, 1);
            world::disturb(1, Slept::Interrupted);
            put(queue, 2);
        });
        let queued = processes.finish();
        let mut all = [log.items(), queued].concat();
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
        assert_no_slice_ended();
    });
}

/// A slice ends at any moment, also while a notified getter is on its way. That one is marked late, and comes
/// later.
#[test]
fn a_late_getter() {
    Model::new("a slice ends while another getter is on its way", AtMost(1)).check(|| {
        let queue = create(&PLAIN);
        let log = Log::default();
        world::expect_disturbance(1);
        let mut processes = Processes::of(&queue);
        for process in [1, 2] {
            let log = log.clone();
            processes.start(process, move |queue| log.note(get(queue)));
        }
        processes.start(3, |queue| {
            put(queue, 1);
            world::disturb(1, Slept::TimedOut);
            put(queue, 2);
        });
        assert_eq!(processes.finish(), []);
        assert_eq!(log.items().iter().sum::<u8>(), 3);
        assert_no_slice_ended();
    });
}
