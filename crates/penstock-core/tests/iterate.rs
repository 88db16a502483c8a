//! A loop over a queue: which item it finishes when it asks for the next one, beside what its body finishes.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::sync::Arc;
use std::thread;

use penstock_core::{Buffer, Delivery, Error, InHand, Leave, Options, Patience, Queue, Statistics};

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/soon.rs"]
mod soon;

use child::Child;
use common::{PLAIN, wait};
use soon::soon;

const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    ..PLAIN
};
const LARGE: usize = 100_000;

/// One loop.
struct Loop {
    queue: Arc<Queue>,
    in_hand: Option<InHand>,
}

fn bytes_of(delivery: Delivery, buffer: &Buffer) -> Vec<u8> {
    match delivery {
        Delivery::Copied => buffer.bytes().to_vec(),
        Delivery::Lent(lent) => lent.bytes().to_vec(),
    }
}

impl Loop {
    fn over(queue: &Arc<Queue>) -> Loop {
        Loop {
            queue: queue.clone(),
            in_hand: None,
        }
    }

    /// The first byte of the next item.
    fn next(&mut self, patience: Patience) -> Result<u8, Error> {
        let mut buffer = Buffer::default();
        let in_hand = &mut self.in_hand;
        let delivery = wait(patience, |wait| self.queue.get_next(in_hand, &mut buffer, wait))?;
        Ok(bytes_of(delivery, &buffer)[0])
    }

    fn leave(mut self) {
        if let Some(in_hand) = self.in_hand.take() {
            in_hand.leave();
        }
    }
}

fn get(queue: &Arc<Queue>) -> u8 {
    let mut buffer = Buffer::default();
    let delivery = wait(soon(), |wait| queue.get(&mut buffer, wait)).unwrap();
    bytes_of(delivery, &buffer)[0]
}

fn with_items(options: &Options, items: u8) -> Arc<Queue> {
    let queue = Queue::create(options).unwrap();
    for item in 0..items {
        wait(soon(), |wait| queue.put(&[&[item]], wait)).unwrap();
    }
    queue
}

fn is_sound(queue: &Queue) -> Statistics {
    assert_eq!(queue.check().unwrap().findings, []);
    queue.statistics().unwrap()
}

fn unfinished(queue: &Queue) -> u64 {
    is_sound(queue).unfinished
}

/// The items that come back when the process dies after `work`, and so were not finished.
fn unfinished_after(queue: &Arc<Queue>, work: impl FnOnce()) -> Vec<u8> {
    let mut child = Child::run(|| {
        work();
        // SAFETY: ends this process, as a crash does.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    });
    assert!(libc::WIFSIGNALED(child.reap()), "its work failed");
    queue.shut_down(false).unwrap();
    // Sweeps it.
    queue.statistics().unwrap();
    let mut left = Loop::over(queue);
    std::iter::from_fn(|| left.next(soon()).ok()).collect()
}

#[test]
fn it_finishes_the_item_before() {
    let queue = with_items(&ACKNOWLEDGED, 3);
    let mut over = Loop::over(&queue);
    for item in 0..3 {
        assert_eq!(over.next(Patience::NoWait), Ok(item));
        assert_eq!(unfinished(&queue), 3 - u64::from(item));
    }
    assert_eq!(over.next(Patience::NoWait), Err(Error::Empty));
    assert_eq!(unfinished(&queue), 0, "it is finished though none follows");
    queue.shut_down(false).unwrap();
    assert_eq!(over.next(soon()), Err(Error::ShutDown));
    assert_eq!(queue.task_done(), Err(Error::TooManyDone));
}

#[test]
fn a_plain_queue_has_nothing_in_hand() {
    let queue = with_items(&PLAIN, 2);
    let mut over = Loop::over(&queue);
    for item in 0..2 {
        assert_eq!(over.next(Patience::NoWait), Ok(item));
        assert!(over.in_hand.is_none());
    }
    assert_eq!(over.next(Patience::NoWait), Err(Error::Empty));
    is_sound(&queue);
}

#[test]
fn large_items() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    for item in 0..3 {
        wait(soon(), |wait| queue.put(&[&[item; LARGE]], wait)).unwrap();
    }
    let mut over = Loop::over(&queue);
    let mut buffer = Buffer::default();
    let Delivery::Lent(lent) = wait(soon(), |wait| {
        queue.get_next(&mut over.in_hand, &mut buffer, wait)
    })
    .unwrap() else {
        panic!("it is large");
    };
    assert_eq!(over.next(soon()), Ok(1));
    assert_eq!(unfinished(&queue), 2, "finished, while its payload is read");
    assert_eq!(lent.bytes(), [0; LARGE]);
    drop(lent);
    assert_eq!(over.next(soon()), Ok(2));
    over.leave();
    queue.task_done().unwrap();
    assert_eq!(unfinished(&queue), 0);
}

#[test]
fn what_the_body_has_finished_is_not_finished_twice() {
    let queue = with_items(&ACKNOWLEDGED, 3);
    let mut over = Loop::over(&queue);
    for item in 0..3 {
        assert_eq!(over.next(Patience::NoWait), Ok(item));
        queue.task_done().unwrap();
        assert_eq!(unfinished(&queue), 2 - u64::from(item));
    }
    assert_eq!(over.next(Patience::NoWait), Err(Error::Empty));
    assert_eq!(queue.task_done(), Err(Error::TooManyDone));
}

/// `task_done` finishes what the body has taken, the oldest first, and the loop's item as the last one.
#[test]
fn the_body_finishes_what_it_has_taken() {
    for (done, left) in [
        (0, vec![0, 1, 2, 3]),
        (1, vec![0, 2, 3]),
        (2, vec![0, 3]),
        (3, vec![3]),
    ] {
        let queue = with_items(&ACKNOWLEDGED, 4);
        let found = unfinished_after(&queue, || {
            let mut over = Loop::over(&queue);
            assert_eq!(over.next(soon()), Ok(0));
            assert_eq!((get(&queue), get(&queue)), (1, 2));
            for _ in 0..done {
                queue.task_done().unwrap();
            }
        });
        assert_eq!(found, left, "{done}");
    }
}

/// The same if the thread's leases lie behind, or before, many of another thread.
#[test]
fn the_body_finishes_its_own_among_those_of_other_threads() {
    for others in [20, 50, 600u16] {
        for are_older in [false, true] {
            let queue = Queue::create(&ACKNOWLEDGED).unwrap();
            for item in [9, 7, 8] {
                let before = usize::from(item == 9 && are_older || item == 7 && !are_older);
                for _ in 0..before * usize::from(others) {
                    wait(soon(), |wait| queue.put(&[&[0]], wait)).unwrap();
                }
                wait(soon(), |wait| queue.put(&[&[item]], wait)).unwrap();
            }
            let take_others = || {
                let queue = queue.clone();
                let take = move || (0..others).for_each(|_| assert_eq!(get(&queue), 0));
                thread::spawn(take).join().unwrap();
            };
            let found = unfinished_after(&queue, || {
                if are_older {
                    take_others();
                }
                let mut over = Loop::over(&queue);
                assert_eq!(over.next(soon()), Ok(9));
                if !are_older {
                    take_others();
                }
                assert_eq!((get(&queue), get(&queue)), (7, 8));
                queue.task_done().unwrap();
                queue.task_done().unwrap();
                if others == 20 {
                    queue.task_done().unwrap();
                }
            });
            let loops: Vec<u8> = found.into_iter().filter(|item| *item > 0).collect();
            assert_eq!(
                loops,
                if others == 20 { vec![] } else { vec![9] },
                "{others} {are_older}"
            );
        }
    }
}

#[test]
fn loops_inside_each_other() {
    let queue = with_items(&ACKNOWLEDGED, 4);
    let found = unfinished_after(&queue, || {
        let (mut outer, mut inner) = (Loop::over(&queue), Loop::over(&queue));
        assert_eq!((outer.next(soon()), inner.next(soon())), (Ok(0), Ok(1)));
        // That of the inner loop.
        queue.task_done().unwrap();
        assert_eq!(inner.next(soon()), Ok(2));
        assert_eq!(outer.next(soon()), Ok(3));
    });
    assert_eq!(found, [2, 3]);
}

/// Its item is in hand as any other then: `task_done` finishes the oldest first.
#[test]
fn a_loop_that_is_left() {
    let queue = with_items(&ACKNOWLEDGED, 2);
    let found = unfinished_after(&queue, || {
        let mut over = Loop::over(&queue);
        assert_eq!(over.next(soon()), Ok(0));
        over.leave();
        assert_eq!(get(&queue), 1);
        queue.task_done().unwrap();
    });
    assert_eq!(found, [1]);
}

/// The next one may be asked for by another thread, however often they take turns.
#[test]
fn threads_take_turns() {
    let queue = with_items(&ACKNOWLEDGED, 100);
    let mut over = Loop::over(&queue);
    let mut own = Loop::over(&queue);
    for item in (0..90).step_by(2) {
        assert_eq!(over.next(soon()), Ok(item));
        over = thread::spawn(move || {
            assert_eq!(over.next(soon()), Ok(item + 1));
            over
        })
        .join()
        .unwrap();
        assert_eq!(unfinished(&queue), 100 - u64::from(item) - 1);
    }
    // This thread holds one of its own, and the other loop's item is another thread's.
    assert_eq!((get(&queue), own.next(soon())), (90, Ok(91)));
    queue.task_done().unwrap();
    assert_eq!(own.next(soon()), Ok(92));
    assert_eq!(unfinished(&queue), 100 - 91);
    over.leave();
    own.leave();
}

/// A child that inherits a loop finishes nothing of its parent.
#[test]
fn a_loop_in_a_forked_child() {
    let queue = with_items(&ACKNOWLEDGED, 3);
    let mut over = Loop::over(&queue);
    assert_eq!(over.next(soon()), Ok(0));
    let mut child = Child::run(|| {
        assert_eq!(over.next(soon()), Ok(1));
        assert_eq!(over.next(soon()), Ok(2));
        queue.task_done().unwrap();
    });
    assert_eq!(child.reap(), 0);
    assert_eq!(unfinished(&queue), 1);
    assert_eq!(over.next(Patience::NoWait), Err(Error::Empty));
    assert_eq!(unfinished(&queue), 0);
}

/// A thread goes on with its loop after its process has left, as a daemon thread does.
#[test]
fn a_loop_outlasts_a_leave_in_order() {
    let queue = with_items(&ACKNOWLEDGED, 2);
    let mut over = Loop::over(&queue);
    assert_eq!(over.next(soon()), Ok(0));
    queue.leave(Leave::Clean).unwrap();
    assert_eq!(over.next(soon()), Ok(1));
    assert_eq!(unfinished(&queue), 1);
    assert_eq!(over.next(Patience::NoWait), Err(Error::Empty));
    assert_eq!(unfinished(&queue), 0);
}

/// At an orderly end the item of a loop that is under way comes back. That of a loop that was left stays
/// unfinished, as after a get.
#[test]
fn what_an_orderly_end_leaves_of_loops() {
    for large in [false, true] {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        for item in 0..3 {
            let payload = vec![item; if large { LARGE } else { 1 }];
            wait(soon(), |wait| queue.put(&[&payload], wait)).unwrap();
        }
        let mut child = Child::run(|| {
            let (mut left, mut under_way) = (Loop::over(&queue), Loop::over(&queue));
            assert_eq!(left.next(soon()), Ok(0));
            assert_eq!(under_way.next(soon()), Ok(1));
            left.leave();
            queue.leave(Leave::Clean).unwrap();
        });
        assert_eq!(child.reap(), 0);
        let found = queue.statistics().unwrap();
        assert_eq!((found.unfinished, found.queued, found.redeliveries), (3, 2, 1));
        assert_eq!((get(&queue), get(&queue)), (1, 2));
        assert_eq!(queue.check().unwrap().findings, []);
    }
}

/// An item that another process has finished for it is not finished again.
#[test]
fn an_item_finished_by_another_process() {
    let queue = with_items(&ACKNOWLEDGED, 3);
    let mut over = Loop::over(&queue);
    assert_eq!(over.next(soon()), Ok(0));
    let mut child = Child::run(|| queue.task_done().unwrap());
    assert_eq!(child.reap(), 0);
    assert_eq!(unfinished(&queue), 2);
    assert_eq!(over.next(soon()), Ok(1));
    assert_eq!(unfinished(&queue), 2);
}

/// A loop finishes its item before it waits. So after a shutdown two loops do not wait for each other.
#[test]
fn loops_end_together() {
    let queue = with_items(&ACKNOWLEDGED, 2);
    let mut over = Loop::over(&queue);
    assert_eq!(over.next(soon()), Ok(0));
    let mut child = Child::run(|| {
        let mut over = Loop::over(&queue);
        assert_eq!(over.next(soon()), Ok(1));
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !queue.is_shut_down() && std::time::Instant::now() < end {
            thread::yield_now();
        }
        assert_eq!(over.next(Patience::Forever), Err(Error::ShutDown));
    });
    while !queue.is_empty() {
        thread::yield_now();
    }
    queue.shut_down(false).unwrap();
    assert_eq!(over.next(Patience::Forever), Err(Error::ShutDown));
    assert_eq!(child.reap(), 0);
    assert_eq!(unfinished(&queue), 0);
}

#[cfg(feature = "fault-points")]
mod points {
    use super::*;
    use penstock_core::fault;

    /// A loop dies between its items: the one before is finished, or it comes back; the next one comes back.
    #[test]
    fn death_between_two_items() {
        for (point, hit, left) in [
            ("lock.taken", 1, [0, 1].as_slice()),
            ("slot.freed", 1, &[1]),
            ("done.committed", 1, &[1]),
            ("lock.taken", 2, &[1]),
            ("get.leased", 1, &[1]),
            ("lease.named", 1, &[1]),
        ] {
            let queue = with_items(&ACKNOWLEDGED, 2);
            let found = unfinished_after(&queue, || {
                let mut over = Loop::over(&queue);
                assert_eq!(over.next(soon()), Ok(0));
                assert!(fault::arm(point, hit));
                let _ = over.next(soon());
                panic!("it did not pass {point}");
            });
            assert_eq!(found, left, "{point} {hit}");
            assert_eq!(unfinished(&queue), 0);
        }
    }

    /// It dies when it has left its loop.
    #[test]
    fn death_after_a_loop() {
        let queue = with_items(&ACKNOWLEDGED, 2);
        let found = unfinished_after(&queue, || {
            let mut over = Loop::over(&queue);
            assert_eq!(over.next(soon()), Ok(0));
            assert!(fault::arm("lease.unnamed", 1));
            over.leave();
            panic!("it did not pass the point");
        });
        assert_eq!(found, [0, 1]);
        assert_eq!(unfinished(&queue), 0);
    }
}
