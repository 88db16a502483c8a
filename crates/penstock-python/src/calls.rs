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
    // SAFETY: the two functions belong together, and make and fill `bytes`.
    unsafe {
        let bytes = new_with(
            py,
            contents,
            ffi::PyBytes_FromStringAndSize,
            ffi::PyBytes_AsString,
        )?;
        Ok(bytes.cast_into_unchecked())
    }
}

/// A new `bytearray`, or MemoryError where `PyByteArray::new` panics. Much is copied without the GIL.
pub fn new_bytearray<'py>(py: Python<'py>, contents: &[u8]) -> PyResult<Bound<'py, PyByteArray>> {
    // SAFETY: the two functions belong together, and make and fill a `bytearray`.
    unsafe {
        let bytes = new_with(
            py,
            contents,
            ffi::PyByteArray_FromStringAndSize,
            ffi::PyByteArray_AsString,
        )?;
        Ok(bytes.cast_into_unchecked())
    }
}

/// # Safety
/// `make` makes a new object of so many bytes, with those at an address, or with any if that is null; `room` answers where
/// they lie in it.
unsafe fn new_with<'py>(
    py: Python<'py>,
    contents: &[u8],
    make: unsafe extern "C" fn(*const c_char, ffi::Py_ssize_t) -> *mut ffi::PyObject,
    room: unsafe extern "C" fn(*mut ffi::PyObject) -> *mut c_char,
) -> PyResult<Bound<'py, PyAny>> {
    struct Target(*mut c_char);
    // SAFETY: an address, which is written to below, and by nobody else.
    unsafe impl Send for Target {}

    let size = contents.len() as ffi::Py_ssize_t; // at most isize::MAX
    if contents.len() <= LARGE {
        // SAFETY: the caller's promise; so many bytes are at the address. The answer is null with an exception set, or new.
        return unsafe { Bound::from_owned_ptr_or_err(py, make(contents.as_ptr().cast(), size)) };
    }
    // SAFETY: as above.
    let object = unsafe { Bound::from_owned_ptr_or_err(py, make(std::ptr::null(), size)) }?;
    // SAFETY: the object is what `make` makes.
    let target = Target(unsafe { room(object.as_ptr()) });
    py.detach(move || {
        let Target(target) = { target };
        // SAFETY: there is room for the contents, which nobody else knows yet, and which does not overlap them.
        unsafe { std::ptr::copy_nonoverlapping(contents.as_ptr(), target.cast(), contents.len()) };
    });
    Ok(object)
}
