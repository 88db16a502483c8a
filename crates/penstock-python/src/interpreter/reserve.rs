//! What happens when this process has no memory left.
//!
//! An item that was taken must reach the caller. So there is a reserve: it is taken when a queue is opened, given up when an
//! item that was taken cannot be rebuilt, and taken again before the next items are. While it cannot be, nothing is taken.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use crate::interpreter::once::lock;

/// Bytes of the reserve. The allocator maps it by itself, so it costs one page until it is given up. It serves a batch of
/// small items and what Python allocates at a time (an arena of 1 MiB).
const RESERVE: usize = 4 << 20;

static HELD: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static IS_HELD: AtomicBool = AtomicBool::new(false);

pub fn no_memory() -> PyErr {
    PyMemoryError::new_err(())
}

/// Makes room in a vector, or raises MemoryError where `Vec::reserve` ends the process.
pub fn make_room<T>(vec: &mut Vec<T>, more: usize) -> PyResult<()> {
    vec.try_reserve(more).map_err(|_| no_memory())
}

/// Takes the reserve if this process does not have it. Raises MemoryError if there is no memory for it.
#[inline]
pub fn hold() -> PyResult<()> {
    if IS_HELD.load(Ordering::Relaxed) {
        return Ok(());
    }
    allocate()
}

#[cold]
fn allocate() -> PyResult<()> {
    let mut held = lock(&HELD);
    held.try_reserve_exact(RESERVE).map_err(|_| no_memory())?;
    IS_HELD.store(true, Ordering::Relaxed);
    Ok(())
}

/// NumPy's error is a subclass.
pub fn is_no_memory(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyMemoryError>(py)
}

/// Rebuilds an object; once more, with the reserve given up, if there was no memory for it.
#[inline]
pub fn with_reserve<T>(py: Python<'_>, rebuild: impl Fn() -> PyResult<T>) -> PyResult<T> {
    match rebuild() {
        Err(error) if is_no_memory(py, &error) && free() => {
            drop(error); // its traceback keeps memory
            rebuild()
        }
        result => result,
    }
}

/// Gives the reserve up, so that an exception can be made. False if there is none.
#[cold]
pub fn free() -> bool {
    let held = std::mem::take(&mut *lock(&HELD));
    IS_HELD.store(false, Ordering::Relaxed);
    held.capacity() > 0
}
