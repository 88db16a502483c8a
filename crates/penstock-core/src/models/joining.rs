//! Processes that register and leave while others work and die.

use Preemptions::AtMost;

use crate::handle::queue::Queue;
use crate::models::run::*;
use crate::models::world::How;
use crate::units::Leave;

fn leave(queue: &Queue) {
    queue.leave(Leave::Clean).expect("the queue is whole");
    queue.depart();
}

#[test]
fn strangers() {
    Model::new("two processes register, work and leave at once", AtMost(2)).check(|| {
        let queue = create(&PLAIN);
        let mut processes = Processes::of(&queue);
        for process in [1, 2] {
            processes.start_stranger(process, move |queue| {
                put(queue, process as u8);
                leave(queue);
            });
        }
        let mut queued = processes.finish();
        queued.sort_unstable();
        assert_eq!(queued, [1, 2]);
        assert_no_slice_ended();
    });
}

#[test]
fn a_stranger_dies() {
    Model::new("a process dies while it registers, works and leaves", AtMost(1)).check_stopping(
        1,
        How::Dies,
        || {
            let queue = create(&PLAIN);
            let mut processes = Processes::of(&queue);
            for process in [1, 2] {
                processes.start_stranger(process, move |queue| {
                    put(queue, process as u8);
                    leave(queue);
                });
            }
            let mut queued = processes.finish();
            queued.sort_unstable();
            assert!(queued == [1, 2] || queued == [2], "{queued:?}");
        },
    );
}
