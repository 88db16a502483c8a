//! Calls of the C API that pyo3 does not offer, or that panic there where they raise here.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyTuple};

use crate::interpreter::gil::LARGE;
use crate::interpreter::reserve::no_memory;

/// `callable(argument)` without a tuple of arguments, which pyo3 makes under the stable ABI of 3.11. The
/// tuple costs 4 % of a put and a get of a small instance.
pub fn call_one<'py>(
    callable: &Bound<'py, PyAny>,
    argument: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: both are live objects while they are borrowed, the list of arguments ends with a null pointer,
    // and the answer is a new reference, or null with an exception set.
    unsafe {
        let answer = ffi::PyObject_CallFunctionObjArgs(
            callable.as_ptr(),
            argument.as_ptr(),
            std::ptr::null_mut::<ffi::PyObject>(),
        );
        Bound::from_owned_ptr_or_err(callable.py(), answer)
    }
}

// New objects. Where there is no memory, these raise MemoryError; those of pyo3 panic.

pub fn new_int(py: Python<'_>, value: i64) -> PyResult<Bound<'_, PyInt>> {
    // SAFETY: the answer is a new int, or null with an exception set.
    unsafe { Ok(Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromLongLong(value))?.cast_into_unchecked()) }
}

pub fn new_float(py: Python<'_>, value: f64) -> PyResult<Bound<'_, PyFloat>> {
    // SAFETY: the answer is a new float, or null with an exception set.
    unsafe { Ok(Bound::from_owned_ptr_or_err(py, ffi::PyFloat_FromDouble(value))?.cast_into_unchecked()) }
}

pub fn new_dict(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // SAFETY: the answer is a new dict, or null with an exception set.
    unsafe { Ok(Bound::from_owned_ptr_or_err(py, ffi::PyDict_New())?.cast_into_unchecked()) }
}

pub fn new_list(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    // SAFETY: the answer is a new list, or null with an exception set.
    unsafe { Ok(Bound::from_owned_ptr_or_err(py, ffi::PyList_New(0))?.cast_into_unchecked()) }
}

/// A list of all that the iterator gives.
pub fn new_list_of<'py>(
    py: Python<'py>,
    items: impl ExactSizeIterator<Item = Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyList>> {
    // SAFETY: the two functions belong together, and make and fill a list.
    unsafe { Ok(filled(py, items, ffi::PyList_New, ffi::PyList_SetItem)?.cast_into_unchecked()) }
}

/// A tuple of all that the iterator gives.
pub fn new_tuple_of<'py>(
    py: Python<'py>,
    items: impl ExactSizeIterator<Item = Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyTuple>> {
    // SAFETY: the two functions belong together, and make and fill a tuple.
    unsafe { Ok(filled(py, items, ffi::PyTuple_New, ffi::PyTuple_SetItem)?.cast_into_unchecked()) }
}

/// # Safety
/// `make` makes a new container with that many empty places, and `set` fills one of them with a reference
/// that it takes over.
#[inline(always)]
unsafe fn filled<'py>(
    py: Python<'py>,
    items: impl ExactSizeIterator<Item = Bound<'py, PyAny>>,
    make: unsafe extern "C" fn(ffi::Py_ssize_t) -> *mut ffi::PyObject,
    set: unsafe extern "C" fn(*mut ffi::PyObject, ffi::Py_ssize_t, *mut ffi::PyObject) -> c_int,
) -> PyResult<Bound<'py, PyAny>> {
    let len = items.len();
    // SAFETY: the answer is a new object, or null with an exception set.
    let container = unsafe { Bound::from_owned_ptr_or_err(py, make(len as ffi::Py_ssize_t)) }?;
    for (place, item) in (0..len).zip(items) {
        // SAFETY: the place is one of them, no other code has the container yet, and the reference is handed
        // over.
        unsafe { set(container.as_ptr(), place as ffi::Py_ssize_t, item.into_ptr()) };
    }
    Ok(container)
}

/// New `bytes`. More than [`LARGE`] of them are copied without the GIL.
pub fn new_bytes<'py>(py: Python<'py>, contents: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    new_bytes_of(py, &[contents])
}

/// The same, of contents in pieces.
#[inline]
pub fn new_bytes_of<'py>(py: Python<'py>, pieces: &[&[u8]]) -> PyResult<Bound<'py, PyBytes>> {
    // SAFETY: the two functions belong together, and make and fill `bytes`.
    unsafe {
        let bytes = new_with(py, pieces, ffi::PyBytes_FromStringAndSize, ffi::PyBytes_AsString)?;
        Ok(bytes.cast_into_unchecked())
    }
}

/// A new `bytearray`. More than [`LARGE`] bytes are copied without the GIL.
pub fn new_bytearray<'py>(py: Python<'py>, contents: &[u8]) -> PyResult<Bound<'py, PyByteArray>> {
    // SAFETY: the two functions belong together, and make and fill a `bytearray`.
    unsafe {
        let bytes = new_with(
            py,
            &[contents],
            ffi::PyByteArray_FromStringAndSize,
            ffi::PyByteArray_AsString,
        )?;
        Ok(bytes.cast_into_unchecked())
    }
}

/// # Safety
/// `make` makes a new object of that many bytes: those at an address, or any bytes if the address is null.
/// `room` returns their address in the object.
#[inline]
unsafe fn new_with<'py>(
    py: Python<'py>,
    pieces: &[&[u8]],
    make: unsafe extern "C" fn(*const c_char, ffi::Py_ssize_t) -> *mut ffi::PyObject,
    room: unsafe extern "C" fn(*mut ffi::PyObject) -> *mut c_char,
) -> PyResult<Bound<'py, PyAny>> {
    struct Target(*mut u8);
    // SAFETY: an address that one closure below writes to, in the thread that made it.
    unsafe impl Send for Target {}

    if let [contents] = pieces {
        if contents.len() <= LARGE {
            let size = contents.len() as ffi::Py_ssize_t; // at most isize::MAX
            // SAFETY: the caller's promise; that many bytes are at the address. The answer is null with an
            // exception set, or new.
            return unsafe { Bound::from_owned_ptr_or_err(py, make(contents.as_ptr().cast(), size)) };
        }
    }
    let len = pieces
        .iter()
        .map(|piece| piece.len())
        .fold(0, usize::saturating_add);
    let size = ffi::Py_ssize_t::try_from(len).map_err(|_| no_memory())?;
    // SAFETY: the caller's promise. The answer is null with an exception set, or new.
    let object = unsafe { Bound::from_owned_ptr_or_err(py, make(std::ptr::null(), size)) }?;
    // SAFETY: the object is what `make` makes.
    let target = Target(unsafe { room(object.as_ptr()) }.cast());
    let copy = move || {
        let Target(mut target) = { target };
        for piece in pieces {
            // SAFETY: the object has room for all pieces. No other code has it yet, so the pieces do not
            // overlap it.
            unsafe {
                std::ptr::copy_nonoverlapping(piece.as_ptr(), target, piece.len());
                target = target.add(piece.len());
            }
        }
    };
    if len > LARGE {
        py.detach(copy)
    } else {
        copy()
    }
    Ok(object)
}
