//! The ends of a connection's line, which each process of a case inherits.

use std::os::fd::{IntoRawFd, RawFd};
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
    let ends = Queue::make_line(true).unwrap().map(IntoRawFd::into_raw_fd);
    for (place, end) in ENDS.iter().zip(ends) {
        place.store(end, Ordering::Relaxed);
    }
    queue.set_line(ends[0], ends[1]).unwrap();
}
