//! Delayed items beside processes that wait: each is ready when its time has come, whichever waiter keeps the
//! time, and whatever dies.

use std::time::Duration;

use Preemptions::AtMost;

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::models::run::*;
use crate::models::world::{self, How};

const DELAY: Duration = Duration::from_millis(7);
/// The clock of a model takes some microseconds to read, and is ahead by that in the process that reads it.
const EARLIEST: Duration = Duration::from_millis(6);
const LATEST: Duration = Duration::from_millis(8);

fn put_delayed(queue: &Queue, byte: u8, delay: Duration) {
    queue
        .put_delayed(&[&[byte]], delay, forever())
        .expect("a put succeeds");
}

/// The getter sleeps already, is about to, or comes later: it has the item when its time has come.
#[test]
fn a_getter_has_it_in_time() {
    Model::new("a delayed put beside a getter", AtMost(2)).check(|| {
        let queue = create(&PLAIN);
        let got = Log::default();
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| put_delayed(queue, 1, DELAY));
        let log = got.clone();
        processes.start(2, move |queue| log.note(get(queue)));
        assert_eq!(processes.finish(), []);
        assert_eq!(got.items(), [1]);
        assert!((EARLIEST..LATEST).contains(&got.last_at()), "{:?}", got.last_at());
    });
}

/// A second item whose time comes first.
#[test]
fn an_earlier_one_is_had_in_time() {
    Model::new("two delayed puts beside a getter", AtMost(1)).check(|| {
        let queue = create(&PLAIN);
        let got = Log::default();
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| {
            put_delayed(queue, 1, 5 * DELAY);
            put_delayed(queue, 2, DELAY);
        });
        let log = got.clone();
        processes.start(2, move |queue| log.note(get(queue)));
        assert_eq!(processes.finish(), []);
        assert_eq!(got.items(), [2]);
        assert!(got.last_at() < LATEST, "{:?}", got.last_at());
    });
}

/// The getter that keeps the time gives up; the other one keeps it then.
#[test]
fn the_time_is_kept_when_a_getter_leaves() {
    Model::new("two getters, of which one gives up", AtMost(1)).check(|| {
        let queue = create(&PLAIN);
        let got = Log::default();
        let mut processes = Processes::of(&queue);
        put_delayed(&queue, 1, DELAY);
        processes.start(1, |queue| {
            let soon = crate::platform::Instant::now() + Duration::from_millis(2);
            let wait = crate::options::Wait {
                patience: crate::options::Patience::Until(soon),
                interrupted: &mut || false,
            };
            assert_eq!(try_get(queue, wait), Err(Error::Empty));
        });
        let log = got.clone();
        processes.start(2, move |queue| log.note(get(queue)));
        assert_eq!(processes.finish(), []);
        assert!(got.last_at() < LATEST, "{:?}", got.last_at());
    });
}

/// In virtual time: a slice of the lock, and one of the watcher.
const SOON: Duration = Duration::from_millis(400);

#[test]
fn a_putter_dies() {
    Model::new("a process dies in a delayed put, a getter waits", AtMost(1)).check_stopping(
        1,
        How::Dies,
        || {
            let queue = create(&ACKNOWLEDGED);
            let got = Log::default();
            let mut processes = Processes::of(&queue);
            processes.start(1, |queue| put_delayed(queue, 1, DELAY));
            let log = got.clone();
            processes.start(2, move |queue| {
                if let Ok(item) = try_get(queue, patient()) {
                    queue.task_done().expect("it is unfinished");
                    log.note(item);
                }
            });
            assert_eq!(processes.finish(), []);
            assert!(got.last_at() <= SOON, "{:?}", got.last_at());
        },
    );
}

/// One of two getters keeps the time, and dies.
#[test]
fn a_timekeeper_dies() {
    Model::new("a getter of a delayed item dies, another waits", AtMost(1)).check_stopping(
        1,
        How::Dies,
        || {
            let queue = create(&ACKNOWLEDGED);
            queue.join(forever()).expect("nothing was put");
            put_delayed(&queue, 1, DELAY);
            let done = Log::default();
            let mut processes = Processes::of(&queue);
            for process in [1, 2] {
                let log = done.clone();
                processes.start(process, move |queue| {
                    if let Ok(item) = try_get(queue, patient()) {
                        queue.task_done().expect("it is unfinished");
                        log.note(item);
                    }
                });
            }
            assert_eq!(processes.finish(), []);
            assert!(done.items().len() <= 1, "{:?}", done.items());
            assert!(world::elapsed().0 <= 3 * SOON);
        },
    );
}
