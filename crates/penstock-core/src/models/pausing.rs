//! One process is stopped before any of its steps and continued much later, as by SIGSTOP and SIGCONT. It is
//! alive, so nothing is taken from it. It delays the others only if it holds the lock.

use std::time::Duration;

use Preemptions::AtMost;

use crate::error::Error;
use crate::models::run::*;
use crate::models::world::How;
use crate::options::{Patience, Wait};

/// Longer than every slice of the waiters.
const PAUSE: How = How::Pauses(Duration::from_millis(450));

#[test]
fn a_getter_pauses() {
    Model::new("a getter pauses, another goes on", AtMost(1)).check_stopping(1, PAUSE, || {
        let queue = create(&PLAIN);
        let got = Log::default();
        let mut processes = Processes::of(&queue);
        for process in [1, 2] {
            let log = got.clone();
            processes.start(process, move |queue| log.note(get(queue)));
        }
        processes.start(3, |queue| {
            put(queue, 1);
            put(queue, 2);
        });
        assert_eq!(processes.finish(), []);
        assert_eq!(got.items().iter().sum::<u8>(), 3);
    });
}

/// A getter gives up after a slice. If the lock is taken then, it leaves its cell behind, and a wake-up of
/// that cell is passed on to the other getter.
#[test]
fn a_putter_pauses() {
    Model::new("a putter pauses, a getter gives up, another goes on", AtMost(1)).check_stopping(
        3,
        PAUSE,
        || {
            let queue = create(&PLAIN);
            let got = Log::default();
            let mut processes = Processes::of(&queue);
            let log = got.clone();
            processes.start(1, move |queue| log.note(get(queue)));
            let log = got.clone();
            processes.start(2, move |queue| {
                let wait = Wait {
                    patience: Patience::Forever,
                    interrupted: &mut || true,
                };
                match try_get(queue, wait) {
                    Ok(item) => log.note(item),
                    Err(error) => assert_eq!(error, Error::Interrupted),
                }
            });
            processes.start(3, |queue| {
                put(queue, 1);
                put(queue, 2);
            });
            let queued = processes.finish();
            let mut all = [got.items(), queued].concat();
            all.sort_unstable();
            assert_eq!(all, [1, 2]);
            assert!(got.last_at() <= Duration::from_millis(600), "{:?}", got.last_at());
        },
    );
}

/// A reader ends its borrow. If the lock stays taken, it puts the end off, and its next call does it.
#[test]
fn a_putter_pauses_beside_a_reader() {
    let model = Model::new("a putter pauses, a reader puts its return off", AtMost(1));
    model.check_stopping(1, PAUSE, || {
        let queue = create(&PLAIN);
        prepare_heap(&queue);
        put_large(&queue, 7);
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| put(queue, 1));
        processes.start(2, |queue| {
            assert_eq!(get(queue), 7);
            put(queue, 2);
        });
        let mut queued = processes.finish();
        queued.sort_unstable();
        assert_eq!(queued, [1, 2]);
    });
}

/// A worker leaves in order. If the lock is taken, it marks its record, and its item stays unfinished.
#[test]
fn a_putter_pauses_beside_a_leaver() {
    let model = Model::new("a putter pauses, a worker lets go of the queue", AtMost(1));
    model.check_stopping(1, PAUSE, || {
        let queue = create(&ACKNOWLEDGED);
        put(&queue, 7);
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| put(queue, 1));
        processes.start(2, |queue| {
            assert!([1, 7].contains(&get(queue)));
            queue.depart();
        });
        assert_eq!(processes.finish().len(), 1);
        let statistics = queue.statistics().expect("the queue is whole");
        assert_eq!((statistics.unfinished, statistics.redeliveries), (2, 0));
    });
}
