//! Calls into Python that the binding library does not make as they are needed here.
#![allow(unsafe_code)]

use std::ffi::c_char;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::pickling::LARGE;

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

/// New `bytes`, or MemoryError where `PyBytes::new` panics. Much is copied without the GIL.
pub fn new_bytes<'py>(py: Python<'py>, contents: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let (source, size) = (contents.as_ptr().cast(), contents.len() as ffi::Py_ssize_t);
    // SAFETY: the slice is as long as it says, at most isize::MAX; without a source the object has room for as much. The
    // answer is new `bytes`, or null with an exception set. Its room is written before anybody else sees the object, and
    // so much room is at the address that AsString answers.
    unsafe {
        if contents.len() <= LARGE {
            let bytes = ffi::PyBytes_FromStringAndSize(source, size);
            return Ok(Bound::from_owned_ptr_or_err(py, bytes)?.cast_into_unchecked());
        }
        let bytes = ffi::PyBytes_FromStringAndSize(std::ptr::null(), size);
        let bytes = Bound::from_owned_ptr_or_err(py, bytes)?;
        fill(py, ffi::PyBytes_AsString(bytes.as_ptr()), contents);
        Ok(bytes.cast_into_unchecked())
    }
}

/// Copies much without the GIL.
///
/// # Safety
/// There is room for the contents at `target`, which nobody else reads or writes meanwhile.
unsafe fn fill(py: Python<'_>, target: *mut c_char, contents: &[u8]) {
    struct Target(*mut c_char);
    // SAFETY: an address; who uses it promises what is above.
    unsafe impl Send for Target {}
    let target = Target(target);
    py.detach(move || {
        let Target(target) = { target };
        // SAFETY: the caller's promise; private memory does not overlap the contents.
        unsafe { std::ptr::copy_nonoverlapping(contents.as_ptr(), target.cast(), contents.len()) };
    });
}

/// A new `bytearray`, or MemoryError where `PyByteArray::new` panics. Much is copied without the GIL.
pub fn new_bytearray<'py>(py: Python<'py>, contents: &[u8]) -> PyResult<Bound<'py, PyByteArray>> {
    let (source, size) = (contents.as_ptr().cast(), contents.len() as ffi::Py_ssize_t);
    // SAFETY: as in `new_bytes`, with a new `bytearray`.
    unsafe {
        if contents.len() <= LARGE {
            let bytes = ffi::PyByteArray_FromStringAndSize(source, size);
            return Ok(Bound::from_owned_ptr_or_err(py, bytes)?.cast_into_unchecked());
        }
        let bytes = ffi::PyByteArray_FromStringAndSize(std::ptr::null(), size);
        let bytes = Bound::from_owned_ptr_or_err(py, bytes)?;
        fill(py, ffi::PyByteArray_AsString(bytes.as_ptr()), contents);
        Ok(bytes.cast_into_unchecked())
    }
}
