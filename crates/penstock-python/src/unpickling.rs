//! Bytes to objects.

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::calls::{call_one, new_bytes};
use crate::handle::Handle;

/// `pickle.loads`. What it raises is raised as it is, because programs catch it by its type; a note on it
/// tells which queue the item came from and which types the item names.
pub fn load<'py>(handle: &Bound<'py, Handle>, payload: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = payload.py();
    let loads = LOADS.import(py, "pickle", "loads")?;
    call_one(loads, payload).inspect_err(|error| {
        if error.is_instance_of::<PyException>(py) {
            // A note that cannot be made must not hide the error itself.
            let _ = note(handle, payload).and_then(|note| error.add_note(py, note));
        }
    })
}

#[cold]
fn note(handle: &Bound<'_, Handle>, payload: &Bound<'_, PyAny>) -> PyResult<String> {
    let py = payload.py();
    py.import("penstock.errors")?
        .getattr("_describe_lost_item")?
        .call1((handle, payload))?
        .extract()
}

/// The same for bytes that are not Python's.
pub fn load_slice<'py>(handle: &Bound<'py, Handle>, payload: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    load(handle, new_bytes(handle.py(), payload)?.as_any())
}
