//! One process dies before any of its steps; the others finish, soon, and the books balance.

use std::time::Duration;

use crate::models::run::*;
use crate::models::world::How;
use Preemptions::AtMost;

/// In virtual time: one slice of the lock, and one of the watcher's.
const SOON: Duration = Duration::from_millis(200);

#[test]
fn a_putter_dies() {
    Model::new("a putter dies, a getter goes on", AtMost(2)).check_stopping(1, How::Dies, || {
        let queue = create(&PLAIN);
        let (put_, got) = (Log::default(), Log::default());
        let mut processes = Processes::of(&queue);
        let log = put_.clone();
        processes.start(1, move |queue| {
            for item in [1, 2] {
                put(queue, item);
                log.note(item);
            }
        });
        let log = got.clone();
        processes.start(2, move |queue| get_all(queue, &log, |_| ()));
        assert_eq!(processes.finish(), []);
        // What was put is got, in order; of what was being put, nothing or all.
        let (put_, items) = (put_.items(), got.items());
        assert!(
            items.starts_with(&put_) && [1, 2].starts_with(&items),
            "{put_:?} {items:?}"
        );
        assert!(got.last_at() <= SOON, "{:?}", got.last_at());
    });
}

#[test]
fn a_getter_dies() {
    Model::new("a getter dies, a putter and a getter go on", AtMost(1)).check_stopping(1, How::Dies, || {
        let queue = create(&NARROW);
        let (lost, got) = (Log::default(), Log::default());
        let mut processes = Processes::of(&queue);
        let log = lost.clone();
        processes.start(1, move |queue| log.note(get(queue)));
        let log = got.clone();
        processes.start(2, move |queue| get_all(queue, &log, |_| ()));
        processes.start(3, |queue| {
            put(queue, 1);
            put(queue, 2);
        });
        assert_eq!(processes.finish(), []);
        // At most one item was in the hands of the dead, and the other came soon.
        let mut all = [lost.items(), got.items()].concat();
        all.sort_unstable();
        let is_whole = all == [1, 2] || lost.items().is_empty() && matches!(all[..], [1] | [2]);
        assert!(is_whole, "{:?} {:?}", lost.items(), got.items());
        assert!(got.last_at() <= SOON, "{:?}", got.last_at());
    });
}

#[test]
fn a_worker_dies() {
    Model::new("a worker dies, its items are done by another", AtMost(1)).check_stopping(
        1,
        How::Dies,
        || {
            let queue = create(&ACKNOWLEDGED);
            let (given_up, done) = (Log::default(), Log::default());
            put(&queue, 1);
            put(&queue, 2);
            let mut processes = Processes::of(&queue);
            let log = given_up.clone();
            processes.start(1, move |queue| {
                let item = get(queue);
                queue.task_done().expect("it is unfinished");
                log.note(item);
            });
            let log = done.clone();
            processes.start(2, move |queue| {
                get_all(queue, &log, |queue| queue.task_done().expect("it is unfinished"));
            });
            processes.start(3, |queue| {
                queue.join(forever()).expect("all is finished");
            });
            assert_eq!(processes.finish(), []);
            // Each item was done, and twice only if the dead had not said so.
            let (given_up, items) = (given_up.items(), done.items());
            let missing: Vec<u8> = [1, 2].into_iter().filter(|item| !items.contains(item)).collect();
            assert!(missing.is_empty() || missing.len() == 1, "{given_up:?} {items:?}");
            assert!(done.last_at() <= SOON * 2, "{:?}", done.last_at());
        },
    );
}

#[test]
fn a_spinner_dies() {
    let model = Model::new("a getter that may spin dies, another goes on", AtMost(1)).on_cores(2);
    model.check_stopping(1, How::Dies, || {
        let queue = create(&PLAIN);
        let (lost, got) = (Log::default(), Log::default());
        let mut processes = Processes::of(&queue);
        let log = lost.clone();
        processes.start(1, move |queue| log.note(get(queue)));
        let log = got.clone();
        processes.start(2, move |queue| get_all(queue, &log, |_| ()));
        processes.start(3, |queue| put(queue, 1));
        assert_eq!(processes.finish(), []);
        let all = [lost.items(), got.items()].concat();
        assert!(all == [1] || all.is_empty(), "{all:?}");
        assert!(got.last_at() <= SOON, "{:?}", got.last_at());
    });
}
