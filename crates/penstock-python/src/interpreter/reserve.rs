//! The reserve: memory for the moment in which this process has no more.
//!
//! An item that was taken from a queue must reach the caller. So the process allocates a reserve when it
//! opens a queue, frees it when it has no memory to rebuild an item that it has taken, and allocates it again
//! before it takes the next items. While it cannot, it takes none.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

use crate::interpreter::once::lock;

/// Bytes of the reserve: enough for a batch of small items and for what Python allocates at a time (an arena
/// of 1 MiB). The allocator maps so large a block by itself, and no page but the first is touched, so it
/// costs one page.
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

/// Allocates the reserve if this process does not have it. Raises MemoryError if there is no memory for it.
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

/// Whether it is a MemoryError. (NumPy's own is a subclass.)
pub fn is_no_memory(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyMemoryError>(py)
}

/// Rebuilds an object. If there is no memory for it, frees the reserve and tries once more.
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

/// Frees the reserve, so that an exception can be made. False if there is none.
#[cold]
pub fn free() -> bool {
    let held = std::mem::take(&mut *lock(&HELD));
    IS_HELD.store(false, Ordering::Relaxed);
    held.capacity() > 0
}
