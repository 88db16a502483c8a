//! Payloads that are read in shared memory, where they lie.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use penstock_core::{Error, Lent, View};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::codec::unpickling::Source;
use crate::interpreter::once::lock;
use crate::interpreter::{errors, reserve};
use crate::queue::handle::Call;

/// A payload that several objects borrow. When the last of them is dropped, the payload is given back, with
/// the GIL released: that may have to wait for the queue's lock, and takes a while if much memory goes back
/// to the system.
#[derive(Clone)]
struct Shared(Option<Arc<Lent>>);

impl Shared {
    fn new(lent: Lent) -> Shared {
        Shared(Some(Arc::new(lent)))
    }

    /// `None` only while it is dropped.
    fn lent(&self) -> Option<&Arc<Lent>> {
        self.0.as_ref()
    }

    fn bytes(&self) -> &[u8] {
        self.lent().map_or(&[], |lent| lent.bytes())
    }

    /// A part of it as private memory, if that can be had.
    fn view(&self, part: Range<usize>) -> Option<View> {
        View::new(self.lent()?, part)
    }

    /// See `Lent::keep`. It may have to wait for the queue's lock.
    fn keep(&self, py: Python<'_>) -> Result<(), Error> {
        self.lent().map_or(Ok(()), |lent| py.detach(|| lent.keep()))
    }

    /// See `Lent::undeliver`.
    fn undeliver(&self) {
        if let Some(lent) = self.lent() {
            lent.undeliver();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(lent) = self.0.take().and_then(Arc::into_inner) {
            Python::attach(|py| py.detach(|| drop(lent)));
        }
    }
}

/// A payload as the codec reads it.
struct Reading {
    payload: Shared,
    /// Whether buffers may stay where they are.
    may_stay: bool,
    /// Whether one does.
    stays: Cell<bool>,
}

impl Source for Reading {
    fn bytes(&self) -> &[u8] {
        self.payload.bytes()
    }

    fn lend<'py, T>(
        &self,
        py: Python<'py>,
        part: Range<usize>,
        load: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
    ) -> PyResult<T> {
        let payload = Bound::new(py, Payload::new(self.payload.clone(), part))?;
        let loaded = load(payload.as_any());
        payload.get().give_back();
        loaded
    }

    fn map<'py>(&self, py: Python<'py>, part: Range<usize>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if !self.may_stay {
            return Ok(None);
        }
        let Some(view) = self.payload.view(part) else {
            return Ok(None);
        };
        self.stays.set(true);
        Ok(Some(Bound::new(py, Mapped::new(view))?.into_any()))
    }
}

/// Rebuilds the object in a payload that lies in shared memory. Its buffers may stay there. If there is no
/// memory for the object, the item returns to the queue.
pub fn load<'py>(handle: &Bound<'py, PyAny>, call: &Call<'_>, lent: Lent) -> PyResult<Bound<'py, PyAny>> {
    let may_stay = !call.queue().is_lent_out();
    load_as(handle, call, lent, may_stay)
}

/// The same, and its buffers are copied: the item can go back to the queue while the program has the object.
pub fn load_apart<'py>(
    handle: &Bound<'py, PyAny>,
    call: &Call<'_>,
    lent: Lent,
) -> PyResult<Bound<'py, PyAny>> {
    load_as(handle, call, lent, false)
}

fn load_as<'py>(
    handle: &Bound<'py, PyAny>,
    call: &Call<'_>,
    lent: Lent,
    may_stay: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let reading = Reading {
        payload: Shared::new(lent),
        may_stay,
        stays: Cell::new(false),
    };
    let object = call.codec.load(py, &reading, Some(handle));
    if object
        .as_ref()
        .is_err_and(|error| reserve::is_no_memory(py, error))
    {
        reading.payload.undeliver();
    } else if reading.stays.get() {
        // From here on the item is the caller's, however long it holds the buffers.
        reading.payload.keep(py).map_err(errors::to_python)?;
    }
    object
}

/// Makes the classes when the module is loaded: later there may be no memory for them.
pub fn prepare(py: Python<'_>) {
    use pyo3::PyTypeInfo;
    Payload::type_object(py);
    Mapped::type_object(py);
}

/// Gives `pickle.loads` the pickle of a payload through the buffer protocol. A view of it keeps the payload.
#[pyclass(frozen, module = "penstock._native")]
struct Payload {
    loan: Mutex<Loan>,
    pickle: Range<usize>,
}

struct Loan {
    lent: Option<Shared>,
    views: usize,
}

impl Payload {
    fn new(lent: Shared, pickle: Range<usize>) -> Payload {
        let loan = Loan {
            lent: Some(lent),
            views: 0,
        };
        Payload {
            loan: Mutex::new(loan),
            pickle,
        }
    }

    /// Gives the payload back now, if no view of it is left.
    fn give_back(&self) {
        let mut loan = lock(&self.loan);
        let lent = if loan.views == 0 { loan.lent.take() } else { None };
        drop(loan);
        drop(lent);
    }
}

#[pymethods]
impl Payload {
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let payload = slf.get();
        let memory = {
            let mut loan = lock(&payload.loan);
            let memory = loan.lent.as_ref().map(|lent| {
                let bytes = &lent.bytes()[payload.pickle.clone()];
                (bytes.as_ptr(), bytes.len())
            });
            // Counted before the call below, which runs Python without this lock; uncounted if that fails.
            loan.views += usize::from(memory.is_some());
            memory
        };
        let Some((bytes, len)) = memory else {
            return Err(PyBufferError::new_err("the item was given back to the queue"));
        };
        // SAFETY: `view` is the caller's, as the buffer protocol has it. The view holds a reference to `slf`,
        // and `views` keeps `give_back` from ending the loan, so the memory outlives the view; it is
        // read-only (the 1).
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                bytes.cast::<c_void>().cast_mut(),
                len as ffi::Py_ssize_t,
                1,
                flags,
            )
        };
        if filled == 0 {
            return Ok(());
        }
        lock(&payload.loan).views -= 1;
        Err(PyErr::fetch(slf.py()))
    }

    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        lock(&self.loan).views -= 1;
    }
}

/// A buffer of a message as the receiver has it: its own memory, which costs no copy until it is written to.
/// Freed with the last array that is made of it.
#[pyclass(frozen, module = "penstock._native")]
struct Mapped(ManuallyDrop<View>);

impl Mapped {
    fn new(view: View) -> Mapped {
        Mapped(ManuallyDrop::new(view))
    }
}

#[pymethods]
impl Mapped {
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, buffer: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let view = &slf.get().0;
        // SAFETY: `buffer` is the caller's, as the buffer protocol has it. It holds a reference to `slf`, so
        // the mapping outlives it; the mapping is private to this object, and writable (the 0).
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
        // SAFETY: only this destructor takes it, and no reference to the object is left.
        let view = unsafe { ManuallyDrop::take(&mut self.0) };
        // Unmapping and giving the item back can take a while, and may have to wait for the queue's lock.
        Python::attach(|py| py.detach(|| drop(view)));
    }
}
