//! Locks of this process, and what is found out once.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// Every section under these locks leaves its data whole at each step, so a panic in one is no reason to
/// refuse the next. None of them calls into Python or waits. So none is held by another thread while this one forks: that
/// thread would have to have the GIL; or, where there is none, to have been stopped in the middle, and a fork stops
/// threads only where they call into Python.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `make` answers the first time; several threads may make it at once, and one of them is heard.
///
/// Unlike `PyOnceLock::get_or_init`, under which Python may run: a child that another thread forks meanwhile would wait
/// for this one for ever.
#[inline]
pub fn once<'a, T>(
    cell: &'a PyOnceLock<T>,
    py: Python<'_>,
    make: impl FnOnce() -> PyResult<T>,
) -> PyResult<&'a T> {
    if let Some(value) = cell.get(py) {
        return Ok(value);
    }
    let value = make()?;
    let surplus = cell.set(py, value);
    drop(surplus);
    Ok(cell.get(py).expect("somebody has set it"))
}

/// A Python string that is made once. pyo3's `intern!` is a `PyOnceLock::get_or_init`.
macro_rules! name {
    ($py:expr, $text:literal) => {{
        static NAME: pyo3::sync::PyOnceLock<pyo3::Py<pyo3::types::PyString>> = pyo3::sync::PyOnceLock::new();
        let py: pyo3::Python<'_> = $py;
        crate::interpreter::once::once(
            &NAME,
            py,
            || Ok(pyo3::types::PyString::intern(py, $text).unbind()),
        )
        .expect("making a string raises nothing")
        .bind(py)
    }};
}
pub(crate) use name;

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
