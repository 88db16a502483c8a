//! The ends of a connection's pipe, which each process of a case inherits.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use penstock_core::Queue;

/// For reading and for writing; -1 while the queue is not that of a connection.
static ENDS: [AtomicI32; 2] = [AtomicI32::new(-1), AtomicI32::new(-1)];

pub fn reading() -> RawFd {
    ENDS[0].load(Ordering::Relaxed)
}

pub fn writing() -> RawFd {
    ENDS[1].load(Ordering::Relaxed)
}

/// Whether the queue is that of a connection.
pub fn are_open() -> bool {
    reading() >= 0
}

/// Makes the queue that of a connection.
pub fn connect(queue: &Queue) {
    let mut ends = [0; 2];
    // SAFETY: the call writes two descriptors to the array.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    for (place, end) in ENDS.iter().zip(ends) {
        place.store(end, Ordering::Relaxed);
        queue.give_notifier(end).unwrap();
    }
}
