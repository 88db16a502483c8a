//! Arrays of NumPy, without the cost of pickling them.
//!
//! `ndarray.__reduce_ex__` takes as long as several copies of 64 KiB, because it runs Python code and pickles
//! a `dtype`. So this file writes an array whose `dtype` a short name describes in full, as
//! `numpy.ndarray(shape, name, buffer)`: as a message of its own, or, inside another object, as the answer of
//! a reducer. The bytes are a pickle, as those of plain.rs are. A buffer of less than
//! [`envelope::OUT_OF_BAND`] bytes lies in the pickle, as a bytearray; a larger one lies beside it. All other
//! arrays are left to penstock/buffers.py.
//!
//! The buffer is never marked as read-only: `multiprocessing` delivers arrays that may be written to, even if
//! the sender's may not.
//!
//! A reducer that a program has registered, for arrays or for the type of their numbers, takes precedence
//! over both.

use arrayvec::ArrayVec;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyInt, PyString, PyTuple, PyType};

use crate::codec::memory::{Contents, Memory};
use crate::codec::{envelope, reducers};
use crate::interpreter::ffi::new_bytearray;
use crate::interpreter::once::{name, once};
use crate::interpreter::reserve;

/// protocol 5; "numpy" and "ndarray" on the stack; the class of that name; a mark
const START: &[u8] = b"\x80\x05\x8c\x05numpy\x8c\x07ndarray\x93(";
/// One number of the shape: LONG1 of 8 bytes.
const NUMBER: &[u8] = b"\x8a\x08";
/// The shape is a tuple; the type's name follows.
const TYPE: &[u8] = b"t\x8c";
/// A bytearray, with 8 bytes for its length.
const WITHIN: &[u8] = b"\x96";
/// The next of the buffers beside the pickle.
const BESIDE: &[u8] = b"\x97";
/// A call with three arguments.
const END: &[u8] = b"\x87R.";

/// Dimensions of an array that is written here.
const DIMENSIONS: usize = 8;
const LONGEST_NAME: usize = 32;
const LONGEST: usize = 160;

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
    // A module that is being imported may not have it yet.
    let class = numpy
        .getattr(name!(py, "ndarray"))
        .ok()?
        .cast_into::<PyType>()
        .ok()?;
    Some(once(&CLASS, py, || Ok(class.unbind())).ok()?.bind(py))
}

/// Whether the program has imported NumPy, so that there can be arrays.
pub fn is_there(py: Python<'_>) -> bool {
    class(py).is_some()
}

/// Whether a class is `numpy.ndarray` itself.
fn is_class(class: &Bound<'_, PyAny>) -> bool {
    self::class(class.py()).is_some_and(|ndarray| ndarray.is(class))
}

/// The name that NumPy gives to a type of numbers, of the machine's own byte order, whose buffers have this
/// format.
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

/// An array that this file writes: its memory, and a name that describes the type of its items in full.
struct Named<'py> {
    memory: Memory,
    type_name: TypeName<'py>,
}

enum TypeName<'py> {
    Short(&'static str),
    Full(Bound<'py, PyString>),
}

impl<'py> Named<'py> {
    /// `None` if the items need more than a name, or if an attribute of NumPy is not as expected. NumPy
    /// pickles the array then.
    fn of(array: &Bound<'py, PyAny>) -> Option<Named<'py>> {
        if cfg!(target_endian = "big") {
            return None;
        }
        let py = array.py();
        let dtype = array.getattr(name!(py, "dtype")).ok()?;
        // Metadata that a program has attached to the type is not in the name.
        if !dtype.getattr(name!(py, "metadata")).ok()?.is_none()
            || reducers::is_registered(dtype.get_type().as_any())
        {
            return None;
        }
        let memory = Memory::of(array);
        let short = |memory: Memory| {
            let name = type_name(memory.format(), memory.item_size())?;
            let type_name = TypeName::Short(name);
            Some(Named { memory, type_name })
        };
        // The usual case first: the buffer's format tells the name.
        if let Ok(Some(memory)) = memory {
            return short(memory).or_else(|| Named::by_kind(array, &dtype));
        }
        match kind(&dtype)?.to_str().ok()? {
            "b" | "i" | "u" | "f" | "c" => short(memory_of(array)?),
            _ => Named::by_kind(array, &dtype),
        }
    }

    fn by_kind(array: &Bound<'py, PyAny>, dtype: &Bound<'py, PyAny>) -> Option<Named<'py>> {
        let py = array.py();
        let memory = match kind(dtype)?.to_str().ok()? {
            "S" | "U" => memory_of(array)?,
            // Times have no buffers. They are numbers of 8 bytes.
            "M" | "m" => memory_of(&array.call_method1(name!(py, "view"), (name!(py, "i8"),)).ok()?)?,
            _ => return None,
        };
        let type_name = TypeName::Full(full_name(dtype)?);
        Some(Named { memory, type_name })
    }
}

impl<'py> TypeName<'py> {
    fn text(&self) -> Option<&str> {
        match self {
            TypeName::Short(name) => Some(name),
            TypeName::Full(name) => name.to_str().ok(),
        }
    }

    /// The same object for the same name, so that pickle writes it once.
    fn interned(self, py: Python<'py>) -> Bound<'py, PyString> {
        match self {
            TypeName::Short(name) => PyString::intern(py, name),
            TypeName::Full(name) => name,
        }
    }
}

/// The kind of the items, in one character.
fn kind<'py>(dtype: &Bound<'py, PyAny>) -> Option<Bound<'py, PyString>> {
    let kind = dtype.getattr(name!(dtype.py(), "kind")).ok()?;
    kind.cast_into().ok()
}

/// The name of a type of strings or times, of the machine's own byte order.
fn full_name<'py>(dtype: &Bound<'py, PyAny>) -> Option<Bound<'py, PyString>> {
    let name = dtype.getattr(name!(dtype.py(), "str")).ok()?;
    let name = name.cast_into::<PyString>().ok()?;
    let text = name.to_str().ok()?;
    (text.starts_with(['<', '|']) && text.len() <= LONGEST_NAME).then(|| PyString::intern(dtype.py(), text))
}

/// The array's items in one piece. `None` if it has none.
fn memory_of(array: &Bound<'_, PyAny>) -> Option<Memory> {
    let memory = match Memory::of(array).ok()? {
        Some(memory) => memory,
        // The items have gaps between them. NumPy's copy has none, and is in C order.
        None => Memory::of(&array.call_method0(name!(array.py(), "copy")).ok()?).ok()??,
    };
    (memory.item_size() > 0).then_some(memory)
}

/// An array as a message.
pub struct Written {
    pickle: ArrayVec<u8, LONGEST>,
    memory: Memory,
}

/// Writes an object if it is such an array.
pub fn write(object: &Bound<'_, PyAny>) -> Option<Written> {
    let class = object.get_type().into_any();
    if !is_class(&class) || reducers::is_registered(&class) {
        return None;
    }
    let Named { memory, type_name } = Named::of(object)?;
    let shape = memory.shape();
    if shape.len() > DIMENSIONS || !memory.is_in_c_order() {
        return None;
    }
    let mut pickle = ArrayVec::new();
    let mut push = |bytes: &[u8]| pickle.try_extend_from_slice(bytes).ok();
    push(START)?;
    for number in shape {
        push(NUMBER)?;
        push(&i64::try_from(*number).ok()?.to_le_bytes())?;
    }
    let type_name = type_name.text()?;
    push(TYPE)?;
    push(&[u8::try_from(type_name.len()).ok()?])?;
    push(type_name.as_bytes())?;
    if memory.len() < envelope::OUT_OF_BAND {
        push(WITHIN)?;
        push(&(memory.len() as u64).to_le_bytes())?;
    } else {
        push(BESIDE)?;
        push(END)?;
    }
    Some(Written { pickle, memory })
}

impl Written {
    /// Lends the message's pieces to `operation`.
    pub fn lend<T>(&self, operation: impl FnOnce(&[&[u8]]) -> PyResult<T>) -> PyResult<T> {
        if self.len() < envelope::OUT_OF_BAND {
            return operation(&[&self.pickle, self.memory.bytes(), END]);
        }
        let is_read_only = false;
        let buffer = (self.len(), is_read_only);
        let sealed = envelope::seal(self.pickle.len(), [buffer].into_iter());
        let (head, starts) = sealed.ok_or_else(reserve::no_memory)?;
        let padding = envelope::padding(head.len() + self.pickle.len(), starts[0]);
        operation(&[&head, &self.pickle, padding, self.memory.bytes()])
    }

    pub fn len(&self) -> usize {
        self.memory.len()
    }
}

/// Whether a pickle may be an array that [`write`] wrote.
#[inline]
pub fn is_array(pickle: &[u8]) -> bool {
    pickle.starts_with(START)
}

/// Reads the array that [`write`] wrote. Its memory is `beside`, or a copy of the buffer in the pickle.
/// `None` for any other pickle, and on any error, which `pickle.loads` then raises.
pub fn read<'py>(
    py: Python<'py>,
    pickle: &[u8],
    beside: Option<&Bound<'py, PyAny>>,
) -> Option<Bound<'py, PyAny>> {
    let mut rest = pickle.strip_prefix(START)?.strip_suffix(END)?;
    let mut shape: ArrayVec<Bound<'py, PyInt>, DIMENSIONS> = ArrayVec::new();
    while let Some(number) = rest.strip_prefix(NUMBER) {
        let (number, after) = number.split_first_chunk()?;
        let Ok(number) = i64::from_le_bytes(*number).into_pyobject(py);
        shape.try_push(number).ok()?;
        rest = after;
    }
    let (length, rest) = rest.strip_prefix(TYPE)?.split_first()?;
    let (type_name, rest) = rest.split_at_checked(usize::from(*length))?;
    let type_name = PyString::intern(py, std::str::from_utf8(type_name).ok()?);
    let shape = PyTuple::new(py, shape).ok()?;
    let class = class(py)?;
    if let Some(buffer) = beside {
        return (rest == BESIDE).then(|| class.call1((shape, type_name, buffer)).ok())?;
    }
    let (length, contents) = rest.strip_prefix(WITHIN)?.split_first_chunk()?;
    if u64::from_le_bytes(*length) != contents.len() as u64 {
        return None;
    }
    class
        .call1((shape, type_name, new_bytearray(py, contents).ok()?))
        .ok()
}

/// The reducer of `numpy.ndarray` itself.
#[pyfunction]
pub fn _reduce_ndarray<'py>(array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match reduce(array) {
        Some(reduced) => Ok(reduced.into_any()),
        None => with_more_than_a_name(array),
    }
}

fn reduce<'py>(array: &Bound<'py, PyAny>) -> Option<Bound<'py, PyTuple>> {
    let py = array.py();
    let Named { memory, type_name } = Named::of(array)?;
    let type_name = type_name.interned(py);
    let shape = PyTuple::new(py, memory.shape()).ok()?;
    let is_in_c_order = memory.is_in_c_order();
    let buffer = if memory.len() < envelope::OUT_OF_BAND {
        new_bytearray(py, memory.bytes()).ok()?.into_any()
    } else {
        Contents::lend(py, memory).ok()?
    };
    let arguments = if is_in_c_order {
        (shape, type_name, buffer).into_pyobject(py)
    } else {
        (shape, type_name, buffer, 0, py.None(), name!(py, "F")).into_pyobject(py)
    };
    (class(py)?, arguments.ok()?).into_pyobject(py).ok()
}

#[cold]
fn with_more_than_a_name<'py>(array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static REDUCER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = array.py();
    let import = || {
        let module = py.import("penstock.buffers")?;
        Ok(module.getattr("_reduce_ndarray")?.unbind())
    };
    once(&REDUCER, py, import)?.bind(py).call1((array,))
}
