//! A value that calls use, and that goes when it was closed and no call uses it any more.
//!
//! One word counts the calls, so that a close neither waits for them nor takes the value from them: the last
//! call that ends drops it.
//!
//! ```text
//!    bits 32..64    bit 31    bit 30    bit 29    bits 0..29
//!    forks          closed    gone      left      calls
//! ```
//!
//! A forked child has the word as its parent had it. The number of forks tells. Calls that were counted then
//! are of threads that do not exist in the child, or of the one that forked in the middle of a call, which
//! goes on there. So the child leaves such a value behind as it is, until the whole closable is dropped, and
//! goes on with another one.
//!
//! With a GIL all of this runs while it is held, and plain loads and stores are enough.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

use penstock_core::forks;

const CLOSED: u64 = 1 << 31;
/// The value was taken out, or must not be.
const GONE: u64 = 1 << 30;
/// The value was left behind by a fork, open.
const LEFT: u64 = 1 << 29;
const CALLS: u64 = LEFT - 1;

pub struct Closable<T> {
    word: AtomicU64,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: calls get shared references to the value only. It is taken out by the one thread that sets GONE,
// when no call is counted and none can begin.
unsafe impl<T: Send + Sync> Sync for Closable<T> {}

/// A call that uses the value.
pub struct Using<'a, T> {
    closable: &'a Closable<T>,
    forks: u64,
    value: &'a T,
}

#[cfg(not(Py_GIL_DISABLED))]
fn exchange(word: &AtomicU64, _: u64, new: u64) -> bool {
    word.store(new, Ordering::Relaxed);
    true
}

#[cfg(Py_GIL_DISABLED)]
fn exchange(word: &AtomicU64, old: u64, new: u64) -> bool {
    // Both: the drop of the value comes after all calls that used it.
    word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}

impl<T> Closable<T> {
    pub fn new(value: T) -> Closable<T> {
        Closable {
            word: AtomicU64::new(u64::from(forks()) << 32),
            value: UnsafeCell::new(Some(value)),
        }
    }

    /// Begins a call. `None` if the value was closed.
    #[inline]
    pub fn enter(&self) -> Option<Using<'_, T>> {
        let forks = u64::from(forks());
        loop {
            let word = self.word.load(Ordering::Acquire);
            if word >> 31 != forks << 1 {
                if word >> 32 == forks {
                    return None;
                }
                self.begin_in_child(word);
            } else if exchange(&self.word, word, word + 1) {
                // SAFETY: the value was there when this call was counted, because the word did not say
                // CLOSED, and stays until the call is discounted.
                let value = unsafe { (*self.value.get()).as_ref() };
                return value.map(|value| Using {
                    closable: self,
                    forks,
                    value,
                });
            }
        }
    }

    /// No call begins any more. The value goes now, or with the last call.
    pub fn close(&self) {
        loop {
            let word = self.word.load(Ordering::Acquire);
            if word >> 32 != u64::from(forks()) {
                self.begin_in_child(word);
            } else if word & CLOSED != 0 {
                return;
            } else if exchange(&self.word, word, word | CLOSED) {
                return self.drop_if_unused();
            }
        }
    }

    #[cold]
    fn begin_in_child(&self, word: u64) {
        let marks = match (word & CALLS != 0, word & CLOSED != 0) {
            (false, _) => word & (CLOSED | GONE | LEFT),
            (true, true) => CLOSED | GONE,
            (true, false) => CLOSED | GONE | LEFT,
        };
        exchange(&self.word, word, u64::from(forks()) << 32 | marks);
    }

    /// The value that a fork has left behind open.
    pub fn left_behind(&self) -> Option<&T> {
        let word = self.word.load(Ordering::Acquire);
        if word & LEFT == 0 {
            return None;
        }
        // SAFETY: LEFT stays, and with it GONE, which was set without taking the value out: no thread ever
        // does.
        unsafe { (*self.value.get()).as_ref() }
    }

    /// Called after each change that may leave the value closed and unused.
    #[cold]
    fn drop_if_unused(&self) {
        let word = self.word.load(Ordering::Acquire);
        let low = word as u32;
        if u64::from(low) == CLOSED && exchange(&self.word, word, word | GONE) {
            // SAFETY: this thread has set GONE, which one thread can; no call is counted, and none begins.
            drop(unsafe { (*self.value.get()).take() });
        }
    }
}

impl<T> Using<'_, T> {
    #[inline]
    pub fn value(&self) -> &T {
        self.value
    }
}

impl<T> Drop for Using<'_, T> {
    #[inline]
    fn drop(&mut self) {
        loop {
            let word = self.closable.word.load(Ordering::Acquire);
            if word >> 32 != self.forks {
                return; // a child, which has left the value behind
            }
            if exchange(&self.closable.word, word, word - 1) {
                if word & CLOSED != 0 {
                    self.closable.drop_if_unused();
                }
                return;
            }
        }
    }
}
