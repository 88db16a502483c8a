//! One process dies before any of its steps; the others finish, soon, and the counters add up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use Preemptions::{Any, AtMost};

use crate::handle::queue::Queue;
use crate::models::run::*;
use crate::models::world::How;
use crate::operations::delivery::{Batch, Taken};

/// In virtual time: one slice of the lock, and one of the watcher.
const SOON: Duration = Duration::from_millis(200);

#[test]
fn a_putter_dies() {
    let model = Model::new("a putter dies, a getter goes on", AtMost(2));
    check_a_putter(model, |_| (), put);
}

fn check_a_putter(model: Model, prepare: fn(&Arc<Queue>), put: fn(&Queue, u8)) {
    model.check_stopping(1, How::Dies, move || {
        let queue = create(&PLAIN);
        prepare(&queue);
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
        // The getter gets what was put, in order. An item whose put was cut short exists or does not.
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
        // Patient, not for ever: otherwise each further slice would have further steps at which to stop.
        processes.start(1, move |queue| {
            if let Ok(item) = try_get(queue, patient()) {
                log.note(item);
            }
        });
        let log = got.clone();
        processes.start(2, move |queue| get_all(queue, &log, |_| ()));
        processes.start(3, |queue| {
            put(queue, 1);
            put(queue, 2);
        });
        assert_eq!(processes.finish(), []);
        is_whole(&lost, &got, SOON);
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
                // Patient, as in a_getter_dies.
                if let Ok(item) = try_get(queue, patient()) {
                    queue.task_done().expect("it is unfinished");
                    log.note(item);
                }
            });
            let log = done.clone();
            processes.start(2, move |queue| {
                get_all(queue, &log, |queue| queue.task_done().expect("it is unfinished"));
            });
            processes.start(3, |queue| {
                queue.join(forever()).expect("all is finished");
            });
            assert_eq!(processes.finish(), []);
            // The other worker does both items, or all but one that the dead process has done.
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
        // Patient, as in a_getter_dies.
        processes.start(1, move |queue| {
            if let Ok(item) = try_get(queue, patient()) {
                log.note(item);
            }
        });
        let log = got.clone();
        processes.start(2, move |queue| get_all(queue, &log, |_| ()));
        processes.start(3, |queue| put(queue, 1));
        assert_eq!(processes.finish(), []);
        let all = [lost.items(), got.items()].concat();
        assert!(all == [1] || all.is_empty(), "{all:?}");
        assert!(got.last_at() <= SOON, "{:?}", got.last_at());
    });
}

/// It also dies while its slot is CLAIMED, with the payload half written outside the lock.
#[test]
fn a_large_putter_dies() {
    let model = Model::new("a putter of large payloads dies, a getter goes on", AtMost(1));
    check_a_putter(model, prepare_heap, put_large);
}

/// Until the holder has kept the item, the item is redelivered; from then on it is not.
#[test]
fn a_holder_dies() {
    let model = Model::new("a holder of a lent payload dies, another goes on", AtMost(1));
    model.check_stopping(1, How::Dies, || {
        let queue = create(&PLAIN);
        put_large(&queue, 1);
        let (taken, kept, got) = (Log::default(), Log::default(), Log::default());
        let mut processes = Processes::of(&queue);
        let logs = (taken.clone(), kept.clone());
        processes.start(1, move |queue| {
            if let Some(lent) = take_large(queue) {
                logs.0.note(lent.bytes()[0]);
                lent.keep().expect("it is held");
                logs.1.note(lent.bytes()[0]);
            }
        });
        let log = got.clone();
        processes.start(2, move |queue| get_all(queue, &log, |_| ()));
        assert_eq!(processes.finish(), []);
        let (taken, kept, items) = (taken.items(), kept.items(), got.items());
        // A holder that noted that it kept the item has it alone. A holder that died in `keep` may have
        // committed it.
        let is_sound = match (taken.as_slice(), kept.as_slice()) {
            ([1], [1]) => items.is_empty(),
            ([1], []) => items.is_empty() || items == [1],
            ([], []) => items == [1],
            _ => false,
        };
        assert!(is_sound, "{taken:?} {kept:?} {items:?}");
        assert!(got.last_at() <= SOON, "{:?}", got.last_at());
    });
}

/// The same without a race. It shows that one step is the commit: before it the item is redelivered, after it
/// never.
#[test]
fn a_holder_dies_alone() {
    let came: Arc<Mutex<Vec<bool>>> = Arc::default();
    let found = came.clone();
    Model::new("a holder dies alone: the item's commit", Any).check_stopping(1, How::Dies, move || {
        let queue = create(&PLAIN);
        put_large(&queue, 1);
        let (kept, got) = (Log::default(), Log::default());
        let mut processes = Processes::of(&queue);
        let log = kept.clone();
        processes.start(1, move |queue| {
            if let Some(lent) = take_large(queue) {
                lent.keep().expect("it is held");
                log.note(lent.bytes()[0]);
            }
        });
        let log = got.clone();
        processes.start(2, move |queue| get_all(queue, &log, |_| ()));
        processes.run_first();
        assert_eq!(processes.finish(), []);
        assert!(kept.items().is_empty() || got.items().is_empty());
        found.lock().expect("nobody panics here").push(got.items() == [1]);
    });
    let came = came.lock().expect("nobody panics here");
    // By place of death, in order: it is redelivered up to one place, and never after it.
    assert!(came.is_sorted_by(|before, after| before >= after), "{came:?}");
    assert!(came[0] && !came[came.len() - 1], "{came:?}");
}

/// It dies between the commits of items that are put together, or taken together.
#[test]
fn a_batcher_dies() {
    let model = Model::new("a process that batches dies, another goes on", AtMost(1));
    model.check_stopping(1, How::Dies, || {
        let queue = create(&PLAIN);
        let (lost, got) = (Log::default(), Log::default());
        let mut processes = Processes::of(&queue);
        let log = lost.clone();
        processes.start(1, move |queue| {
            let (count, put) = queue.put_many(&[&[1], &[2]], forever());
            assert_eq!((count, put), (2, Ok(())));
            let mut batch = Batch::with_room_for(2).expect("there is memory");
            if queue.get_many(&mut batch, patient()).is_ok() {
                batch.into_items(|item| match item {
                    Taken::Copied(bytes) => log.note(bytes[0]),
                    Taken::Lent(_) => unreachable!("it is small"),
                });
            }
        });
        let log = got.clone();
        processes.start(2, move |queue| get_all(queue, &log, |_| ()));
        assert_eq!(processes.finish(), []);
        // In order, none twice, and none missing but those that the dead process held.
        let (lost, items) = (lost.items(), got.items());
        let mut all = [lost.clone(), items.clone()].concat();
        all.sort_unstable();
        assert!(
            [1, 2]
                .iter()
                .all(|item| all.iter().filter(|other| other == &item).count() <= 1)
        );
        assert!(items.is_sorted() && lost.is_sorted(), "{lost:?} {items:?}");
        assert!(got.last_at() <= SOON, "{:?}", got.last_at());
    });
}
