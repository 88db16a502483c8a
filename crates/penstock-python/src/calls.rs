//! Calls into Python that the binding library does not make as they are needed here.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

/// `callable(argument)`, without the argument tuple that the stable ABI of 3.11 otherwise costs: 4 % of a put and a
/// get of a small instance.
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

/// New `bytes`, or MemoryError where `PyBytes::new` panics.
pub fn new_bytes<'py>(py: Python<'py>, contents: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    // SAFETY: the slice is as long as it says, at most isize::MAX, and the answer is new `bytes`, or null with an
    // exception set.
    unsafe {
        let answer =
            ffi::PyBytes_FromStringAndSize(contents.as_ptr().cast(), contents.len() as ffi::Py_ssize_t);
        Ok(Bound::from_owned_ptr_or_err(py, answer)?.cast_into_unchecked())
    }
}

/// A new `bytearray`, or MemoryError where `PyByteArray::new` panics.
pub fn new_bytearray<'py>(py: Python<'py>, contents: &[u8]) -> PyResult<Bound<'py, PyByteArray>> {
    // SAFETY: as in `new_bytes`, with a new `bytearray`.
    unsafe {
        let answer =
            ffi::PyByteArray_FromStringAndSize(contents.as_ptr().cast(), contents.len() as ffi::Py_ssize_t);
        Ok(Bound::from_owned_ptr_or_err(py, answer)?.cast_into_unchecked())
    }
}
