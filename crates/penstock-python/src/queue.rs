//! The three queue classes' own methods. Python's classes inherit them, so that no Python code runs for a message.

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::handle::{Handle, Opened};
use crate::waiting::{Deadline, patiently};
use crate::{errors, transfer, unpickling};

/// An argument that is read as `if` reads it.
struct Truth(bool);

impl<'a, 'py> FromPyObject<'a, 'py> for Truth {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Truth> {
        object.is_truthy().map(Truth)
    }
}

/// A queue with a bound on its items, for any number of producers and consumers.
#[pyclass(frozen, subclass, extends = Handle, module = "penstock._native")]
pub struct QueueBase;

fn open<'a>(handle: &'a Bound<'_, Handle>) -> PyResult<&'a Opened> {
    if handle.get().is_closed_here() {
        return Err(PyValueError::new_err(format!("Queue {} is closed", handle.repr()?)));
    }
    handle.get().opened()
}

#[pymethods]
impl QueueBase {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<QueueBase> {
        PyClassInitializer::from(Handle::new(args, kwargs)).add_subclass(QueueBase)
    }

    #[pyo3(signature = (obj, block = Truth(true), timeout = None), text_signature = "($self, obj, block=True, timeout=None)")]
    fn put(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>, block: Truth, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        transfer::put(open(slf.as_super())?, obj, Deadline::new(block.0, timeout)?)
    }

    #[pyo3(signature = (block = Truth(true), timeout = None), text_signature = "($self, block=True, timeout=None)")]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        block: Truth,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let handle = slf.as_super();
        transfer::get(handle, open(handle)?, Deadline::new(block.0, timeout)?)
    }

    fn qsize(slf: &Bound<'_, Self>) -> PyResult<u64> {
        Ok(slf.as_super().get().opened()?.queue.len())
    }

    fn empty(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(slf.as_super().get().opened()?.queue.is_empty())
    }

    fn full(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(slf.as_super().get().opened()?.queue.is_full())
    }

    #[getter]
    fn _closed(slf: &Bound<'_, Self>) -> bool {
        slf.as_super().get().is_closed_here()
    }
}

/// What a queue has more whose items are accounted for until they are done.
#[pyclass(frozen, subclass, extends = QueueBase, module = "penstock._native")]
pub struct JoinableQueueBase;

#[pymethods]
impl JoinableQueueBase {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<JoinableQueueBase> {
        QueueBase::new(args, kwargs).add_subclass(JoinableQueueBase)
    }

    fn task_done(slf: &Bound<'_, Self>) -> PyResult<()> {
        let queue = &slf.as_super().as_super().get().opened()?.queue;
        slf.py().detach(|| queue.task_done()).map_err(errors::to_python)
    }

    fn join(slf: &Bound<'_, Self>) -> PyResult<()> {
        let queue = &slf.as_super().as_super().get().opened()?.queue;
        patiently(slf.py(), Deadline::Never, |wait| queue.join(wait))
    }

    fn dead_letters<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        let py = slf.py();
        let handle = slf.as_super().as_super();
        let queue = &handle.get().opened()?.queue;
        let letters = PyList::empty(py);
        for letter in py.detach(|| queue.dead_letters()).map_err(errors::to_python)? {
            letters.append(unpickling::load_slice(handle, &letter)?)?;
        }
        Ok(letters)
    }
}

/// A queue without a bound on its items and without time-outs.
#[pyclass(frozen, subclass, extends = Handle, module = "penstock._native")]
pub struct SimpleQueueBase;

fn open_simple<'a>(handle: &'a Bound<'_, Handle>) -> PyResult<&'a Opened> {
    if handle.get().was_closed() {
        return Err(PyOSError::new_err("handle is closed"));
    }
    handle.get().opened()
}

#[pymethods]
impl SimpleQueueBase {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<SimpleQueueBase> {
        PyClassInitializer::from(Handle::new(args, kwargs)).add_subclass(SimpleQueueBase)
    }

    fn put(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        transfer::put(open_simple(slf.as_super())?, obj, Deadline::Never)
    }

    fn get<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let handle = slf.as_super();
        transfer::get(handle, open_simple(handle)?, Deadline::Never)
    }

    fn empty(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(open_simple(slf.as_super())?.queue.is_empty())
    }

    #[getter]
    fn _closed(slf: &Bound<'_, Self>) -> bool {
        slf.as_super().get().was_closed()
    }
}
