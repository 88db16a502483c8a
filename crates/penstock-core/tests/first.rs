//! The first queues of a process.
#![cfg(not(loom))]

use std::sync::Barrier;
use std::thread;

use penstock_core::{Patience, Queue};

mod common;

use common::{PLAIN, wait};

/// A process that no fork has made counts none, also while its threads make their first queues at once: what
/// a thread began before a fork would never end.
#[test]
fn the_first_queues_are_no_fork() {
    let together = Barrier::new(4);
    let made: Vec<_> = thread::scope(|scope| {
        let makers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let before = penstock_core::forks();
                    together.wait();
                    let queue = Queue::create(&PLAIN).unwrap();
                    wait(Patience::NoWait, |wait| queue.put(&[b"x"], wait)).unwrap();
                    (before, queue)
                })
            })
            .collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect()
    });
    for (before, _queue) in &made {
        assert_eq!((*before, penstock_core::forks()), (0, 0));
    }
}
