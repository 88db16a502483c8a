//! Threads of one process on one queue: every write of a payload happens before its reads by the getter.
//!
//! Run by `make test-sanitizers` under ThreadSanitizer, which sees a payload that is read without an edge
//! from its writer. Payloads are of every kind: inline, in an object of the heap, in a run of spans (copied
//! outside the lock, and lent). Few bytes are reused again and again, so that a missing edge in either
//! direction shows: from put to get, and from the end of a borrow to the next put.

#![cfg(not(loom))]

use std::sync::{Arc, Mutex};
use std::thread;

use penstock_core::{Buffer, Delivery, Options, Patience, Queue};

mod common;

use common::{PLAIN, wait};

const LENGTHS: [usize; 6] = [16, 72, 200, 2048, 5000, 70_000];
const PRODUCERS: u64 = 2;
const CONSUMERS: u64 = 2;
const EACH: u64 = 1500;
/// The payload that tells a getter to stop.
const END: u64 = u64::MAX;

fn put(queue: &Queue, number: u64) {
    let len = LENGTHS[(number % LENGTHS.len() as u64) as usize];
    // Written by this thread just now: the queue alone orders what the other thread reads.
    let rest: Vec<u8> = (8..len).map(|i| (number as usize + i) as u8).collect();
    wait(Patience::Forever, |wait| {
        queue.put(&[&number.to_le_bytes(), &rest], wait)
    })
    .unwrap();
}

fn check(payload: &[u8]) -> u64 {
    let number = u64::from_le_bytes(payload[..8].try_into().unwrap());
    if number != END {
        assert_eq!(payload.len(), LENGTHS[(number % LENGTHS.len() as u64) as usize]);
    }
    for (i, byte) in payload.iter().enumerate().skip(8) {
        assert_eq!(*byte, (number as usize + i) as u8, "byte {i} of item {number}");
    }
    number
}

fn take(queue: &Arc<Queue>) -> u64 {
    let mut buffer = Buffer::default();
    match wait(Patience::Forever, |wait| queue.get(&mut buffer, wait)).unwrap() {
        Delivery::Copied => check(buffer.bytes()),
        Delivery::Lent(lent) => check(lent.bytes()),
    }
}

/// Queues are kept to the end, because ThreadSanitizer does not understand the fence with which the last
/// owner of an `Arc` drops it.
static KEPT: Mutex<Vec<Arc<Queue>>> = Mutex::new(Vec::new());

fn exchange(options: &Options) {
    let queue = Queue::create(options).unwrap();
    KEPT.lock().unwrap().push(queue.clone());
    let is_acknowledged = options.acknowledged;
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let queue = queue.clone();
            thread::spawn(move || (0..EACH).for_each(|i| put(&queue, producer * EACH + i)))
        })
        .collect();
    let consumers: Vec<_> = (0..CONSUMERS)
        .map(|_| {
            let queue = queue.clone();
            thread::spawn(move || {
                let mut sum = 0;
                loop {
                    let number = take(&queue);
                    if is_acknowledged {
                        queue.task_done().unwrap();
                    }
                    if number == END {
                        return sum;
                    }
                    sum += number;
                }
            })
        })
        .collect();
    let asker = {
        let queue = queue.clone();
        thread::spawn(move || {
            loop {
                let statistics = queue.statistics().unwrap();
                assert_eq!(statistics.puts, statistics.gets + statistics.queued);
                if statistics.puts >= PRODUCERS * EACH {
                    return;
                }
                thread::yield_now();
            }
        })
    };
    for producer in producers {
        producer.join().unwrap();
    }
    asker.join().unwrap();
    if is_acknowledged {
        wait(Patience::Forever, |wait| queue.join(wait)).unwrap();
    }
    for _ in 0..CONSUMERS {
        wait(Patience::Forever, |wait| queue.put(&[&END.to_le_bytes()], wait)).unwrap();
    }
    let taken: u64 = consumers
        .into_iter()
        .map(|consumer| consumer.join().unwrap())
        .sum();
    let all = PRODUCERS * EACH;
    assert_eq!(taken, all * (all - 1) / 2);
    assert_eq!(queue.statistics().unwrap().queued, 0);
}

#[test]
fn payloads_happen_before_their_getters() {
    exchange(&PLAIN);
}

#[test]
fn acknowledged_payloads_happen_before_their_getters() {
    exchange(&Options {
        acknowledged: true,
        ..PLAIN
    });
}

#[test]
fn payloads_of_an_unbounded_queue_happen_before_their_getters() {
    exchange(&Options { maxsize: 0, ..PLAIN });
}
