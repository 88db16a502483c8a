//! The only door to atomics, so that a model checker can take their place.
//!
//! The core uses two kinds of access:
//!
//! - [`Word::get`] and [`Word::set`] are relaxed. They serve fields that are accessed only under the queue's
//!   lock, whose acquire and release order them, and fields that are read outside it as a hint.
//! - An ordering written out at the call is half of a happens-before edge; a comment there names the other
//!   half.

#[cfg(not(loom))]
mod words {
    pub(crate) use core::hint::spin_loop;
    pub(crate) use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, compiler_fence};

    // Words that are accessed under the lock only, which the models prove (models/words.rs).
    pub(crate) type LockedU8 = AtomicU8;
    pub(crate) type LockedU32 = AtomicU32;
    pub(crate) type LockedU64 = AtomicU64;

    /// Says that payload bytes are read or written next. The models check those accesses for races. Compiles
    /// to nothing.
    #[inline(always)]
    pub(crate) fn note_read(_: *const u8, _: usize) {}
    #[inline(always)]
    pub(crate) fn note_write(_: *mut u8, _: usize) {}
}
#[cfg(not(loom))]
pub(crate) use words::*;

#[cfg(loom)]
pub(crate) use crate::models::words::*;

pub(crate) use core::sync::atomic::Ordering;

/// Relaxed access to a shared word.
pub(crate) trait Word {
    type Value: Copy;
    fn get(&self) -> Self::Value;
    fn set(&self, value: Self::Value);
}

macro_rules! word {
    ($atomic:ty, $value:ty) => {
        impl Word for $atomic {
            type Value = $value;
            #[inline(always)]
            fn get(&self) -> $value {
                self.load(Ordering::Relaxed)
            }
            #[inline(always)]
            fn set(&self, value: $value) {
                self.store(value, Ordering::Relaxed);
            }
        }
    };
}
#[cfg(not(loom))]
word!(AtomicU8, u8);
word!(AtomicU32, u32);
word!(AtomicU64, u64);

/// Adds to a counter that only the holder of the lock changes. Wraps, so that a damaged counter cannot panic.
pub(crate) trait Count: Word {
    fn add(&self, amount: Self::Value);
    fn sub(&self, amount: Self::Value);
}

macro_rules! count {
    ($atomic:ty) => {
        impl Count for $atomic {
            #[inline(always)]
            fn add(&self, amount: Self::Value) {
                self.set(self.get().wrapping_add(amount));
            }
            #[inline(always)]
            fn sub(&self, amount: Self::Value) {
                self.set(self.get().saturating_sub(amount));
            }
        }
    };
}
count!(AtomicU32);
count!(AtomicU64);
#[cfg(loom)]
count!(LockedU32);
#[cfg(loom)]
count!(LockedU64);
