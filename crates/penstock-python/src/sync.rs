//! Locks of this process.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Every section under these locks leaves its data whole at each step, so a panic in one is no reason to
/// refuse the next. None of them calls into Python or waits, and so none is held by another thread while this
/// one forks with the GIL.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value for one thread at a time. Who comes second is turned away and does not wait. It costs half of a mutex,
/// whose unlocking is a second atomic exchange; there are four uses in a small put, and the difference is 5 % of it.
#[derive(Default)]
pub struct Exclusive<T> {
    is_in_use: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `with` lets one thread at a time at the value, whose type may go from thread to thread.
unsafe impl<T: Send> Sync for Exclusive<T> {}

impl<T> Exclusive<T> {
    pub const fn new(value: T) -> Exclusive<T> {
        Exclusive {
            is_in_use: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// `None` if another thread, or a caller further up, uses the value just now.
    pub fn with<R>(&self, operation: impl FnOnce(&mut T) -> R) -> Option<R> {
        struct InUse<'a>(&'a AtomicBool);
        impl Drop for InUse<'_> {
            fn drop(&mut self) {
                // Release: pairs with the acquire below of the next user.
                self.0.store(false, Ordering::Release);
            }
        }
        // Acquire: pairs with the release above of the user before.
        if self.is_in_use.swap(true, Ordering::Acquire) {
            return None;
        }
        let _in_use = InUse(&self.is_in_use);
        // SAFETY: the flag was down and is up now, so nobody else has a reference until it is down again.
        Some(operation(unsafe { &mut *self.value.get() }))
    }
}
