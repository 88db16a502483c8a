//! Values that are made once, and locks within this process.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// Locks a mutex, poisoned or not: every section under these locks leaves its data whole at each step, so a
/// panic in one is no reason to refuse the next.
///
/// No such section calls into Python or waits. So no other thread holds one of these locks while this one
/// forks: it would have to have the GIL. Without a GIL it would have to have been stopped inside the section,
/// and a fork stops threads only where they call into Python.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The value of a cell, made by the first call. If several threads make it at once, one of the values is
/// kept.
///
/// Unlike `PyOnceLock::get_or_init` this holds no lock while `make` runs Python. A child that another thread
/// forks meanwhile would wait for such a lock for ever.
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
    Ok(cell.get(py).expect("this thread or another one has set it"))
}

/// A Python string that is made once. (pyo3's `intern!` is a `PyOnceLock::get_or_init`.)
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

/// A value for one thread at a time. A second caller gets `None` and does not wait. It costs half of a mutex,
/// whose unlocking is a second atomic exchange: a small put uses it four times, and the difference is 5 % of
/// the put.
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

    /// `None` if another thread, or a caller further up the stack, uses the value at this moment.
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
        // SAFETY: this call has raised the flag, so it has the only reference until it lowers the flag.
        Some(operation(unsafe { &mut *self.value.get() }))
    }
}
