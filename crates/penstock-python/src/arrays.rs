//! Arrays of NumPy, without the cost that pickling one has.
//!
//! `ndarray.__reduce_ex__` takes as long as copying 64 KiB several times, because it goes through Python code and pickles a
//! `dtype`. A message that is one large array of plain numbers is therefore written and read here. As with plain.rs the
//! bytes are a pickle all the same, which any reader of pickles reads: `numpy.ndarray(shape, dtype, buffer)`. Arrays
//! inside other objects go the same way through pickle, with a reducer of penstock/buffers.py.
//!
//! A reducer that a program has registered, for arrays or for the type of their numbers, takes precedence over both.

use arrayvec::ArrayVec;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyInt, PyString, PyTuple, PyType};

use crate::buffers::Memory;
use crate::sync::{name, once};
use crate::{envelope, pickling, room};

/// protocol 5; "numpy" and "ndarray" on the stack; the class of that name; a mark
const START: &[u8] = b"\x80\x05\x8c\x05numpy\x8c\x07ndarray\x93(";
/// One number of the shape: LONG1 of 8 bytes.
const NUMBER: &[u8] = b"\x8a\x08";
/// The shape is a tuple; the type's name follows.
const TYPE: &[u8] = b"t\x8c";
/// The next buffer, read-only if the envelope says so; a call with three arguments.
const END: &[u8] = b"\x97\x87R.";
const READ_ONLY_END: &[u8] = b"\x97\x98\x87R.";

/// Dimensions of an array that is written here.
const DIMENSIONS: usize = 8;
const LONGEST: usize = 128;

/// `numpy.ndarray`, once the program has imported it.
fn class(py: Python<'_>) -> Option<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    if let Some(class) = CLASS.get(py) {
        return Some(class.bind(py));
    }
    static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let modules = once(&MODULES, py, || {
        let modules = py.import("sys")?.getattr("modules")?;
        Ok(modules.cast_into()?.unbind())
    });
    let numpy = modules.ok()?.bind(py).get_item(name!(py, "numpy")).ok()??;
    // While it is being imported it may not be there yet.
    let class = numpy
        .getattr(name!(py, "ndarray"))
        .ok()?
        .cast_into::<PyType>()
        .ok()?;
    Some(once(&CLASS, py, || Ok(class.unbind())).ok()?.bind(py))
}

/// Whether a class is `numpy.ndarray` itself.
pub fn is_class(class: &Bound<'_, PyAny>) -> bool {
    self::class(class.py()).is_some_and(|ndarray| ndarray.is(class))
}

/// The name that NumPy gives to a type of numbers, of the machine's own byte order, whose buffers have this format.
fn type_name(format: &[u8], item_size: usize) -> Option<&'static str> {
    Some(match (format, item_size) {
        (b"?", 1) => "|b1",
        (b"b", 1) => "|i1",
        (b"B", 1) => "|u1",
        (b"e", 2) => "<f2",
        (b"f", 4) => "<f4",
        (b"d", 8) => "<f8",
        (b"Zf", 8) => "<c8",
        (b"Zd", 16) => "<c16",
        (b"h" | b"i" | b"l" | b"q", 2) => "<i2",
        (b"h" | b"i" | b"l" | b"q", 4) => "<i4",
        (b"h" | b"i" | b"l" | b"q", 8) => "<i8",
        (b"H" | b"I" | b"L" | b"Q", 2) => "<u2",
        (b"H" | b"I" | b"L" | b"Q", 4) => "<u4",
        (b"H" | b"I" | b"L" | b"Q", 8) => "<u8",
        _ => return None,
    })
}

/// An array as a message.
pub struct Written {
    pickle: ArrayVec<u8, LONGEST>,
    memory: Memory,
}

/// Writes an object if it is such an array.
pub fn write(object: &Bound<'_, PyAny>) -> Option<Written> {
    let class = object.get_type().into_any();
    if cfg!(target_endian = "big") || !is_class(&class) || pickling::is_registered(&class) {
        return None;
    }
    let dtype = object.getattr(name!(object.py(), "dtype")).ok()?;
    // What a program has attached to the type of the numbers is not in the buffer.
    if !dtype.getattr(name!(object.py(), "metadata")).ok()?.is_none()
        || pickling::is_registered(dtype.get_type().as_any())
    {
        return None;
    }
    // What cannot be lent in one piece is pickle's to judge.
    let memory = Memory::of(object).ok()??;
    let shape = memory.shape();
    if memory.len() < envelope::OUT_OF_BAND || shape.len() > DIMENSIONS || !memory.is_in_c_order() {
        return None;
    }
    let mut pickle = ArrayVec::new();
    let mut push = |bytes: &[u8]| pickle.try_extend_from_slice(bytes).ok();
    push(START)?;
    for number in shape {
        push(NUMBER)?;
        push(&i64::try_from(*number).ok()?.to_le_bytes())?;
    }
    let name = type_name(memory.format(), memory.item_size())?;
    push(TYPE)?;
    push(&[name.len() as u8])?;
    push(name.as_bytes())?;
    push(if memory.is_read_only() { READ_ONLY_END } else { END })?;
    Some(Written { pickle, memory })
}

impl Written {
    /// Lends the message's pieces to `operation`.
    pub fn lend<T>(&self, operation: impl FnOnce(&[&[u8]]) -> PyResult<T>) -> PyResult<T> {
        let buffer = (self.memory.len(), self.memory.is_read_only());
        let sealed = envelope::seal(self.pickle.len(), [buffer].into_iter());
        let (head, starts) = sealed.ok_or_else(room::no_memory)?;
        let padding = envelope::padding(head.len() + self.pickle.len(), starts[0]);
        operation(&[&head, &self.pickle, padding, self.memory.bytes()])
    }

    pub fn len(&self) -> usize {
        self.memory.len()
    }
}

/// The array that [`write`] wrote, in memory that is its own. `None` for any other pickle (a read-only array's among them,
/// for which pickle has to make the memory read-only first), and on any error: pickle shall raise it.
pub fn read<'py>(pickle: &[u8], buffer: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let py = buffer.py();
    let mut rest = pickle.strip_prefix(START)?.strip_suffix(END)?;
    let mut shape: ArrayVec<Bound<'py, PyInt>, DIMENSIONS> = ArrayVec::new();
    while let Some(number) = rest.strip_prefix(NUMBER) {
        let (number, after) = number.split_first_chunk()?;
        let Ok(number) = i64::from_le_bytes(*number).into_pyobject(py);
        shape.try_push(number).ok()?;
        rest = after;
    }
    let [length, name @ ..] = rest.strip_prefix(TYPE)? else {
        return None;
    };
    if usize::from(*length) != name.len() {
        return None;
    }
    let name = PyString::intern(py, std::str::from_utf8(name).ok()?);
    let arguments = (PyTuple::new(py, shape).ok()?, name, buffer);
    class(py)?.call1(arguments).ok()
}
