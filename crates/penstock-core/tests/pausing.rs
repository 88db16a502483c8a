//! A putter that runs ahead pauses for memory that getters free, before it takes new memory.
#![cfg(not(loom))]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use penstock_core::{Buffer, Error, Options, Patience, Queue, Wait};

mod common;

use common::{PLAIN, wait};

fn create(options: &Options) -> Arc<Queue> {
    Queue::create(options).unwrap()
}

fn put(queue: &Queue, payload: &[u8]) -> Result<(), Error> {
    wait(Patience::Forever, |wait| queue.put(&[payload], wait)).map(|_| ())
}

fn get(queue: &Arc<Queue>, patience: Patience) -> Result<(), Error> {
    let mut buffer = Buffer::default();
    wait(patience, |wait| queue.get(&mut buffer, wait)).map(|_| ())
}

/// A putter that pauses for memory counts as on its way, until it has put.
#[test]
fn a_waiting_putter_is_woken_after_another_has_paused_for_memory() {
    const ROUNDS: usize = 20;
    let queue = create(&Options { maxsize: 2, ..PLAIN });
    let slices = AtomicU64::new(0);
    for round in 1..=ROUNDS {
        put(&queue, b"an item is queued").unwrap();
        // Larger than any payload before, so it needs new memory.
        put(&queue, &vec![7; round * 200_000]).unwrap();
        thread::scope(|scope| {
            let putter = scope.spawn(|| {
                queue.put(
                    &[b"waits"],
                    Wait {
                        patience: Patience::Forever,
                        interrupted: &mut || {
                            slices.fetch_add(1, Ordering::Relaxed);
                            false
                        },
                    },
                )
            });
            while queue.statistics().unwrap().waiting_putters == 0 {
                thread::yield_now();
            }
            get(&queue, Patience::NoWait).unwrap();
            putter.join().unwrap().unwrap();
        });
        get(&queue, Patience::NoWait).unwrap();
        get(&queue, Patience::NoWait).unwrap();
    }
    // A putter that was not woken would have ended a slice each time.
    assert!(slices.into_inner() < ROUNDS as u64);
}

/// A putter that must not block gets `Busy`, and one that may block gets the memory.
#[test]
fn a_bounded_attempt_does_not_pause_for_memory() {
    let queue = create(&PLAIN);
    let large = vec![1; 100_000];
    put(&queue, &large).unwrap();
    get(&queue, Patience::NoWait).unwrap();
    // There is backed memory for one item.
    assert_eq!(
        wait(Patience::TryLock, |wait| queue.put(&[&large], wait)).map(|_| ()),
        Ok(())
    );
    let again = wait(Patience::TryLock, |wait| queue.put(&[&large], wait)).map(|_| ());
    assert_eq!(again, Err(Error::Busy));
    put(&queue, &large).unwrap();
    assert_eq!(queue.len(), 2);
}
