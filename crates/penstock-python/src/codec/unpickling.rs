//! Bytes to objects.

use std::fmt::Write;

use penstock_core::Lent;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyMemoryView, PyTuple};

use crate::codec::envelope::{self, Envelope, Part};
use crate::codec::{mentioned, numpy, plain};
use crate::interpreter::ffi::{call_one, new_bytearray, new_bytes, new_tuple_of};
use crate::interpreter::once::{name, once};
use crate::interpreter::{errors, reserve};
use crate::queue::handle::Handle;
use crate::queue::payload_buffer::{Mapped, Payload, Shared};

/// From this length on a buffer is mapped, not copied: about where a copy begins to take longer than the system calls.
/// Shorter ones are copied however many a message has: who reads or writes them, and drops them, is faster by that.
const MAPPED: usize = 256 * 1024;

fn loads(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let import = || Ok(py.import("pickle")?.getattr("loads")?.unbind());
    Ok(once(&LOADS, py, import)?.bind(py))
}

/// What rebuilding raises is raised as it is, because programs catch it by its type; a note on it tells which queue the
/// item came from and which types the item names.
#[cold]
fn explain(handle: &Bound<'_, Handle>, pickle: &[u8], error: &PyErr) {
    let py = handle.py();
    if error.is_instance_of::<PyException>(py) {
        // A note that cannot be made, for want of memory for instance, must not hide the error itself.
        let _ = note(handle, pickle).map(|note| error.add_note(py, note));
    }
}

/// `None` if there is no memory for it.
fn note(handle: &Bound<'_, Handle>, pickle: &[u8]) -> Option<String> {
    let mut note = String::new();
    note.try_reserve(mentioned::LONGEST_NOTE).ok()?;
    write!(
        note,
        "This item of {handle:?} could not be rebuilt. Types named in it: "
    )
    .ok()?;
    let types = mentioned::types(pickle);
    for (i, name) in types.iter().enumerate() {
        note.push_str(if i == 0 { "" } else { ", " });
        note.push_str(name);
    }
    note.push_str(if types.is_empty() { "none." } else { "." });
    Some(note)
}

/// `pickle.loads(pickle)`
fn load<'py>(py: Python<'py>, pickle: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    call_one(loads(py)?, pickle)
}

/// `pickle.loads(pickle, buffers=buffers)`
fn load_with<'py>(pickle: &Bound<'py, PyAny>, buffers: Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    let py = pickle.py();
    let named = PyDict::new(py);
    named.set_item(name!(py, "buffers"), buffers)?;
    loads(py)?.call((pickle,), Some(&named))
}

#[cold]
fn damaged(handle: &Bound<'_, Handle>) -> PyErr {
    let text = format!("an item of {handle:?} was damaged in the queue's memory");
    let error = handle
        .py()
        .import("pickle")
        .and_then(|pickle| pickle.getattr("UnpicklingError")?.call1((text,)));
    error.map_or_else(|error| error, PyErr::from_value)
}

/// The object, if it is plain, or if the program has put a pickler in the place of multiprocessing's.
#[inline]
fn plain_or_other<'py>(handle: &Bound<'py, Handle>, message: &[u8]) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = handle.py();
    let other = &handle.get().opened()?.picklers.other;
    if !other.is_there() {
        if let Some(object) = read(py, message) {
            return Ok(Some(object));
        }
    }
    // What has buffers beside its pickle was not written by such a pickler.
    if envelope::is_sealed(message) {
        return Ok(None);
    }
    match other.class(py)? {
        None => Ok(None),
        Some(other) => {
            let bytes = new_bytes(py, envelope::open_raw(message))?;
            other
                .call_method1(name!(py, "loads"), (&bytes,))
                .inspect_err(|error| explain(handle, bytes.as_bytes(), error))
                .map(Some)
        }
    }
}

/// The object in bytes that nobody else changes and that this call does not keep.
#[inline]
pub fn load_slice<'py>(handle: &Bound<'py, Handle>, message: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    reserve::with_reserve(handle.py(), || load_copied(handle, message))
}

#[inline]
fn load_copied<'py>(handle: &Bound<'py, Handle>, message: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    if let Some(object) = plain_or_other(handle, message)? {
        return Ok(object);
    }
    if !envelope::is_sealed(message) {
        let pickle = new_bytes(py, message)?.into_any();
        return load(py, &pickle).inspect_err(|error| explain(handle, message, error));
    }
    let Envelope { pickle, parts } = envelope::open(message).ok_or_else(|| damaged(handle))?;
    let mut buffers = Vec::new();
    reserve::reserve(&mut buffers, parts.len())?;
    for part in &parts {
        buffers.push(copy(py, message, part)?);
    }
    let pickle = &message[pickle];
    let buffers = new_tuple_of(py, buffers.into_iter())?;
    load_with(new_bytes(py, pickle)?.as_any(), buffers).inspect_err(|error| explain(handle, pickle, error))
}

/// The object in a pickle that the binding reads itself.
#[inline]
fn read<'py>(py: Python<'py>, pickle: &[u8]) -> Option<Bound<'py, PyAny>> {
    if numpy::is_array(pickle) {
        return numpy::read(py, pickle, None);
    }
    plain::read(py, pickle)
}

/// A part's contents as private memory. It is a memoryview of what pickle makes of a buffer that lies in the pickle
/// itself: a large buffer shall have one type, whether it is copied or mapped.
fn copy<'py>(py: Python<'py>, message: &[u8], part: &Part) -> PyResult<Bound<'py, PyAny>> {
    let contents = &message[part.range.clone()];
    let copy = if part.is_read_only {
        new_bytes(py, contents)?.into_any()
    } else {
        new_bytearray(py, contents)?.into_any()
    };
    Ok(PyMemoryView::from(&copy)?.into_any())
}

/// The object in a payload that lies in shared memory. Its buffers may stay there. If there is no memory for the object, the item
/// returns to the queue.
pub fn load_lent<'py>(handle: &Bound<'py, Handle>, lent: Lent) -> PyResult<Bound<'py, PyAny>> {
    let lent = Shared::new(lent);
    let py = handle.py();
    reserve::with_reserve(py, || load_shared(handle, &lent)).inspect_err(|error| {
        if reserve::is_no_memory(py, error) {
            lent.undeliver();
        }
    })
}

fn load_shared<'py>(handle: &Bound<'py, Handle>, lent: &Shared) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    if let Some(object) = plain_or_other(handle, lent.bytes())? {
        return Ok(object);
    }
    if !envelope::is_sealed(lent.bytes()) {
        let len = lent.bytes().len();
        let payload = Bound::new(py, Payload::new(lent.clone(), 0..len))?;
        let object = load(py, &payload).inspect_err(|error| explain(handle, lent.bytes(), error));
        payload.get().give_back();
        return object;
    }
    let Envelope { pickle, parts } = envelope::open(lent.bytes()).ok_or_else(|| damaged(handle))?;
    let may_stay = !handle.get().opened()?.queue.is_lent_out();
    let mut stays = false;
    let mut buffers = Vec::new();
    reserve::reserve(&mut buffers, parts.len())?;
    for part in &parts {
        let view = if may_stay && part.range.len() >= MAPPED {
            lent.view(part.range.clone())
        } else {
            None
        };
        buffers.push(match view {
            Some(view) => {
                stays = true;
                PyMemoryView::from(Bound::new(py, Mapped::new(view))?.as_any())?.into_any()
            }
            None => copy(py, lent.bytes(), part)?,
        });
    }
    let bytes = &lent.bytes()[pickle.clone()];
    let array = match buffers.as_slice() {
        [buffer] => numpy::read(py, bytes, Some(buffer)),
        _ => None,
    };
    let object = match array {
        Some(array) => Ok(array),
        None => {
            let payload = Bound::new(py, Payload::new(lent.clone(), pickle))?;
            let object = load_with(&payload, new_tuple_of(py, buffers.into_iter())?)
                .inspect_err(|error| explain(handle, bytes, error));
            payload.get().give_back();
            object
        }
    };
    if stays {
        // From here on the item is the caller's, even if it holds the buffers for long.
        lent.keep(py).map_err(errors::to_python)?;
    }
    object
}
