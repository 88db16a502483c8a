//! Locks of this process.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Every section under these locks leaves its data whole at each step, so a panic in one is no reason to
/// refuse the next. None of them calls into Python or waits, and so none is held by another thread while this
/// one forks with the GIL.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
