//! The warning in a process whose death the other processes could not prove.

use std::sync::atomic::{AtomicU32, Ordering};

use pyo3::exceptions::PyRuntimeWarning;
use pyo3::prelude::*;

const WARNING: &std::ffi::CStr = c"if this process dies, the other processes of a queue cannot find out: \
it has no /proc, and it is in another pid namespace than the process that made the queue. The items that it \
holds then never come back, and if it dies inside an operation the others may wait for ever. Mount /proc in \
its root folder, or start it in the pid namespace of the queue's maker";

/// Warns once a process, if it has joined such a queue. An error if the program turns warnings into
/// exceptions.
pub fn warn_if_impossible(py: Python<'_>) -> PyResult<()> {
    static WARNED: AtomicU32 = AtomicU32::new(0);
    if !penstock_core::joined_without_proof() {
        return Ok(());
    }
    let me = std::process::id();
    if WARNED.swap(me, Ordering::Relaxed) == me {
        return Ok(());
    }
    PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), WARNING, 1)
}
