//! The calls into Python that every message makes, without the argument tuple that the stable ABI of 3.11
//! otherwise costs: 4 % of a put and a get of a small tuple.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;

/// `callable(argument)`
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
