//! Slices: how long a waiter sleeps before it checks for dead participants.
//!
//! A slice has a start of its own, and ends by the clock. A signal, a wake-up in vain or a spurious return of
//! the kernel ends a sleep, and the next sleep goes on in the same slice. So a waiter that is interrupted
//! several times in each slice checks for the dead as often as one that sleeps undisturbed.

use std::time::Duration;

use crate::platform::Instant;

/// One waiter's slice. It begins with the first sleep in it.
#[derive(Clone, Copy)]
pub(crate) struct Slice {
    began: Option<Instant>,
}

impl Slice {
    pub(crate) const fn new() -> Slice {
        Slice { began: None }
    }

    /// Its beginning: now, unless it has begun.
    pub(crate) fn begin(&mut self) -> Instant {
        *self.began.get_or_insert_with(Instant::now)
    }

    /// The end of a slice of that length.
    pub(crate) fn end(&mut self, length: Duration) -> Instant {
        self.begin() + length
    }

    /// The next sleep begins another slice.
    pub(crate) fn restart(&mut self) {
        self.began = None;
    }
}
