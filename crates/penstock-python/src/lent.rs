//! A payload that is read where it lies, in shared memory.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use penstock_core::{Lent, View};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::sync::lock;

/// Gives `pickle.loads` the pickle of a payload through the buffer protocol. Whoever keeps a view of it keeps the
/// payload.
#[pyclass(frozen)]
pub struct Payload {
    loan: Mutex<Loan>,
    pickle: Range<usize>,
}

struct Loan {
    lent: Option<Arc<Lent>>,
    views: usize,
}

impl Payload {
    pub fn new(lent: Arc<Lent>, pickle: Range<usize>) -> Payload {
        let loan = Loan {
            lent: Some(lent),
            views: 0,
        };
        Payload {
            loan: Mutex::new(loan),
            pickle,
        }
    }

    /// Ends the reading now, if nobody has kept a view.
    pub fn give_back(&self, py: Python<'_>) {
        let mut loan = lock(&self.loan);
        let lent = if loan.views == 0 { loan.lent.take() } else { None };
        drop(loan);
        if let Some(lent) = lent {
            give_back(py, lent);
        }
    }
}

/// Ends this reference's part in a loan. Giving back large memory takes a while, hence the GIL.
pub fn give_back(py: Python<'_>, lent: Arc<Lent>) {
    if let Some(lent) = Arc::into_inner(lent) {
        py.detach(|| drop(lent));
    }
}

#[pymethods]
impl Payload {
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let payload = slf.get();
        let mut loan = lock(&payload.loan);
        let Some(lent) = &loan.lent else {
            return Err(PyBufferError::new_err("the item was given back to the queue"));
        };
        let bytes = &lent.bytes()[payload.pickle.clone()];
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
        lock(&self.loan).views -= 1;
    }
}

/// A buffer of a message as the receiver has it: its own memory, which costs no copy until it is written to. Freed with
/// the last array that is made of it.
#[pyclass(frozen)]
pub struct Mapped {
    /// Always there; taken out by drop.
    view: Option<View>,
}

impl Mapped {
    pub fn new(view: View) -> Mapped {
        Mapped { view: Some(view) }
    }
}

#[pymethods]
impl Mapped {
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, buffer: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let Some(view) = &slf.get().view else {
            return Err(PyBufferError::new_err("the buffer is gone"));
        };
        // SAFETY: `buffer` is the caller's, as the buffer protocol has it. It holds a reference to `slf`, so the
        // mapping outlives it; the mapping is private to this object, and writable (the 0).
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                buffer,
                slf.as_ptr(),
                view.pointer().cast::<c_void>(),
                view.len() as ffi::Py_ssize_t,
                0,
                flags,
            )
        };
        if filled != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // To unmap, and to give the item back, can take a while, and may have to wait for the queue's lock.
        let view = self.view.take();
        Python::attach(|py| py.detach(|| drop(view)));
    }
}
