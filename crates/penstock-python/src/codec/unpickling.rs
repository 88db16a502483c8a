//! Bytes to objects.

use std::fmt::Write;
use std::ops::Range;

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyMemoryView, PyTuple};

use crate::codec::envelope::{self, Part};
use crate::codec::forking_pickler::Other;
use crate::codec::{mentioned, numpy, plain};
use crate::interpreter::ffi::{call_one, new_bytearray, new_bytes, new_dict, new_tuple_of};
use crate::interpreter::once::{name, once};
use crate::interpreter::reserve;

/// Buffers of at least this many bytes are mapped and not copied: about here a copy begins to take longer
/// than the system calls. Shorter ones are copied, however many a message has, because a program reads,
/// writes and drops copies faster.
const MAPPED: usize = 256 * 1024;

fn loads(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let import = || Ok(py.import("pickle")?.getattr("loads")?.unbind());
    Ok(once(&LOADS, py, import)?.bind(py))
}

/// Adds to an error of rebuilding from which queue the item came, and which types it names. The error stays
/// as it is, because programs catch it by its type.
#[cold]
fn add_note(py: Python<'_>, origin: Option<&Bound<'_, PyAny>>, pickle: &[u8], error: &PyErr) {
    if error.is_instance_of::<PyException>(py) {
        // If the note cannot be made, for want of memory for instance, that must not hide the error.
        let _ = note(origin, pickle).map(|note| error.add_note(py, note));
    }
}

/// `None` if there is no memory for it.
fn note(origin: Option<&Bound<'_, PyAny>>, pickle: &[u8]) -> Option<String> {
    let mut note = String::new();
    note.try_reserve(mentioned::LONGEST_NOTE).ok()?;
    match origin {
        Some(origin) => write!(note, "This item of {origin:?} could not be rebuilt."),
        None => write!(note, "These bytes could not be rebuilt."),
    }
    .ok()?;
    note.push_str(" Types named in it: ");
    let types = mentioned::types(pickle);
    for (i, name) in types.iter().enumerate() {
        note.push_str(if i == 0 { "" } else { ", " });
        note.push_str(name);
    }
    note.push_str(if types.is_empty() { "none." } else { "." });
    Some(note)
}

/// `pickle.loads(pickle, buffers=buffers)`
fn load_with<'py>(pickle: &Bound<'py, PyAny>, buffers: Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
    let py = pickle.py();
    let named = new_dict(py)?;
    named.set_item(name!(py, "buffers"), buffers)?;
    loads(py)?.call((pickle,), Some(&named))
}

#[cold]
fn damaged(py: Python<'_>, origin: Option<&Bound<'_, PyAny>>) -> PyErr {
    let text = match origin {
        Some(origin) => format!("an item of {origin:?} was damaged in the queue's memory"),
        None => "the bytes are damaged: a buffer lies outside them".to_owned(),
    };
    let error = py
        .import("pickle")
        .and_then(|pickle| pickle.getattr("UnpicklingError")?.call1((text,)));
    error.map_or_else(|error| error, PyErr::from_value)
}

/// A message in the place where its backend keeps it. Its bytes do not change while it is read.
pub trait Source {
    fn bytes(&self) -> &[u8];

    /// Calls `load` with a bytes-like object of a part of the message.
    fn lend<'py, T>(
        &self,
        py: Python<'py>,
        part: Range<usize>,
        load: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
    ) -> PyResult<T>;

    /// An object with the buffer of a large part, which outlives the message and may be written to, and for
    /// which nothing is copied now. `None` if the backend has no such memory: the part is copied then.
    fn map<'py>(&self, _py: Python<'py>, _part: Range<usize>) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(None)
    }
}

/// Bytes that are there for as long as the call takes.
impl Source for [u8] {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn lend<'py, T>(
        &self,
        py: Python<'py>,
        part: Range<usize>,
        load: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
    ) -> PyResult<T> {
        load(new_bytes(py, &self[part])?.as_any())
    }
}

/// A Python object, which `pickle.loads` reads as it is.
impl Source for Bound<'_, PyBytes> {
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    fn lend<'py, T>(
        &self,
        py: Python<'py>,
        part: Range<usize>,
        load: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
    ) -> PyResult<T> {
        if part == (0..self.as_bytes().len()) {
            return load(self.as_unbound().bind(py));
        }
        self.as_bytes().lend(py, part, load)
    }
}

/// The object in a message, by the pickler `other` if the program has one.
#[inline]
pub fn rebuild<'py>(
    py: Python<'py>,
    other: &Other,
    message: &(impl Source + ?Sized),
    origin: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    if !other.is_there() {
        if let Some(object) = read(py, message.bytes()) {
            return Ok(object);
        }
    }
    // No other pickler writes a message with buffers beside the pickle.
    if envelope::is_sealed(message.bytes()) {
        return rebuild_sealed(py, message, origin);
    }
    match other.class(py)? {
        Some(other) => {
            let bytes = new_bytes(py, envelope::open_raw(message.bytes()))?;
            other
                .call_method1(name!(py, "loads"), (&bytes,))
                .inspect_err(|error| add_note(py, origin, bytes.as_bytes(), error))
        }
        None => message
            .lend(py, 0..message.bytes().len(), |pickle| {
                call_one(loads(py)?, pickle)
            })
            .inspect_err(|error| add_note(py, origin, message.bytes(), error)),
    }
}

/// The object in a pickle that the binding reads itself.
#[inline]
fn read<'py>(py: Python<'py>, pickle: &[u8]) -> Option<Bound<'py, PyAny>> {
    if numpy::is_array(pickle) {
        return numpy::read(py, pickle, None);
    }
    plain::read(py, pickle)
}

/// The object in a message with buffers beside its pickle.
fn rebuild_sealed<'py>(
    py: Python<'py>,
    message: &(impl Source + ?Sized),
    origin: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let bytes = message.bytes();
    let envelope = envelope::open(bytes).ok_or_else(|| damaged(py, origin))?;
    let mut buffers = Vec::new();
    let parts = envelope.parts();
    reserve::make_room(&mut buffers, parts.len())?;
    for part in parts {
        let Part { range, is_read_only } = part.ok_or_else(|| damaged(py, origin))?;
        let mapped = match range.len() >= MAPPED {
            true => message.map(py, range.clone())?,
            false => None,
        };
        let memory = match mapped {
            Some(memory) => memory,
            None => copy(py, &bytes[range], is_read_only)?,
        };
        // A memoryview either way, so that the type of a large buffer does not depend on where its memory is.
        buffers.push(PyMemoryView::from(&memory)?.into_any());
    }
    let pickle = envelope.pickle;
    if let [buffer] = buffers.as_slice() {
        if let Some(array) = numpy::read(py, &bytes[pickle.clone()], Some(buffer)) {
            return Ok(array);
        }
    }
    let buffers = new_tuple_of(py, buffers.into_iter())?;
    message
        .lend(py, pickle.clone(), |pickle| load_with(pickle, buffers))
        .inspect_err(|error| add_note(py, origin, &bytes[pickle], error))
}

/// Memory of its own with these contents, as `pickle.loads` makes it of a buffer inside a pickle.
fn copy<'py>(py: Python<'py>, contents: &[u8], is_read_only: bool) -> PyResult<Bound<'py, PyAny>> {
    Ok(match is_read_only {
        true => new_bytes(py, contents)?.into_any(),
        false => new_bytearray(py, contents)?.into_any(),
    })
}
