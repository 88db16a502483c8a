//! The note of a process whether a queue has memory to give back (operations/trim.rs).

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

/// Memory that a queue has and does not use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpareMemory {
    /// No more than every queue keeps.
    None,
    BesideItems,
    OfEmptyQueue,
}

/// What a thread has found last, under the lock. A hint: each section may change it.
pub(crate) struct SpareNote(AtomicU8);

impl SpareNote {
    pub(crate) fn new() -> SpareNote {
        SpareNote(AtomicU8::new(SpareMemory::None as u8))
    }

    #[inline(always)]
    pub(crate) fn note(&self, found: SpareMemory) {
        // The threads of a process share its cache line, and find the same most of the time.
        if self.0.load(Relaxed) != found as u8 {
            self.0.store(found as u8, Relaxed);
        }
    }

    #[inline(always)]
    pub(crate) fn noted(&self) -> SpareMemory {
        match self.0.load(Relaxed) {
            1 => SpareMemory::BesideItems,
            2 => SpareMemory::OfEmptyQueue,
            _ => SpareMemory::None,
        }
    }
}
