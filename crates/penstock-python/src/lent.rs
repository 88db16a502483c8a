//! A payload that is read where it lies, in shared memory.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::Mutex;

use penstock_core::Lent;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::sync::lock;

/// Gives `pickle.loads` the payload through the buffer protocol. Whoever keeps a view of it keeps the
/// payload.
#[pyclass(frozen)]
pub struct Payload(Mutex<Loan>);

struct Loan {
    lent: Option<Lent>,
    views: usize,
}

impl Payload {
    pub fn new(lent: Lent) -> Payload {
        Payload(Mutex::new(Loan {
            lent: Some(lent),
            views: 0,
        }))
    }

    /// Ends the reading now, if nobody has kept a view. Giving back large memory takes a while, hence the
    /// GIL.
    pub fn give_back(&self, py: Python<'_>) {
        let mut loan = lock(&self.0);
        let lent = if loan.views == 0 { loan.lent.take() } else { None };
        drop(loan);
        if lent.is_some() {
            py.detach(|| drop(lent));
        }
    }
}

#[pymethods]
impl Payload {
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let mut loan = lock(&slf.get().0);
        let Some(lent) = &loan.lent else {
            return Err(PyBufferError::new_err("the item was given back to the queue"));
        };
        let bytes = lent.bytes();
        // SAFETY: `view` is the caller's, as the buffer protocol has it. The view holds a reference to `slf`,
        // and `views` keeps `give_back` from ending the loan, so the memory outlives the view; it is
        // read-only (the 1).
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                bytes.as_ptr().cast::<c_void>().cast_mut(),
                bytes.len() as ffi::Py_ssize_t,
                1,
                flags,
            )
        };
        if filled != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        loan.views += 1;
        Ok(())
    }

    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        lock(&self.0).views -= 1;
    }
}
