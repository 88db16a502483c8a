//! The lock's holder has died. The process that takes over dies as well, or is one of several.

use std::time::Duration;

use Preemptions::{Any, AtMost};

use crate::handle::queue::Queue;
use crate::models::run::*;
use crate::models::world::{self, How};
use crate::state::participant::id_of;
use crate::sync::Word;

/// Steps of a put at which the caches are half changed: the lock is taken, the slot numbered, the item
/// committed, counted, and the lock still held.
const IN_PUT: [u64; 5] = [2, 7, 8, 11, 15];
/// The same of a get, which is shorter.
const IN_GET: [u64; 5] = [2, 6, 10, 12, 14];

/// Checks that the step numbers are right: the lock is taken, and its word names the dead process.
fn assert_died_in_section(queue: &Queue, process: u32) {
    let holder = queue.shared.named_holder();
    assert!(!holder.is_none(), "it did not die in its section");
    let index = holder.index();
    let record = queue
        .shared
        .segment
        .participant(index)
        .expect("it exists")
        .word
        .get();
    assert_eq!(
        id_of(index, record),
        Some(holder),
        "the lock names no participant"
    );
    // A record's upper half is the process's number.
    assert_eq!((record >> 32) as u32, process, "the lock names another process");
    assert!(world::is_gone(process), "it lives");
}

#[test]
fn two_survivors() {
    for at in IN_PUT {
        Model::new("a putter died in its section, two others take over", Any)
            .with_death(1, at)
            .check(|| {
                let queue = create(&PLAIN);
                let mut processes = Processes::of(&queue);
                for process in [1, 2, 3] {
                    processes.start(process, move |queue| put(queue, process as u8));
                }
                processes.run_first();
                assert_died_in_section(&queue, 1);
                let mut queued = processes.finish();
                queued.sort_unstable();
                assert!(queued == [1, 2, 3] || queued == [2, 3], "{queued:?}");
                assert!(
                    world::elapsed().0 <= Duration::from_millis(150),
                    "{:?}",
                    world::elapsed()
                );
            });
    }
}

#[test]
fn the_survivor_dies() {
    for at in IN_GET {
        let model = Model::new("and the one that takes over dies, too", AtMost(1)).with_death(1, at);
        model.check_stopping(2, How::Dies, || {
            let queue = create(&ACKNOWLEDGED);
            let got = Log::default();
            put(&queue, 1);
            put(&queue, 2);
            let mut processes = Processes::of(&queue);
            processes.start(1, |queue| {
                let _ = get(queue);
            });
            processes.start(2, |queue| {
                let _ = get(queue);
            });
            let log = got.clone();
            processes.start(3, move |queue| {
                get_all(queue, &log, |queue| queue.task_done().expect("it is unfinished"));
            });
            processes.run_first();
            assert_died_in_section(&queue, 1);
            assert_eq!(processes.finish(), []);
            let mut items = got.items();
            items.sort_unstable();
            // Process 3 finishes both items: the other two acknowledge none.
            assert_eq!(items, [1, 2]);
        });
    }
}
