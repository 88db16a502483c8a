//! `with queue.producing():` a block in which this process is a producer.
//!
//! The core counts the producers, and ends the queue when none is left (state/producers.rs).

use std::sync::Mutex;

use penstock_core::Production;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use crate::interpreter::gil::{Deadline, at_once};
use crate::interpreter::once::lock;
use crate::queue::attempt::{attempt, patiently};
use crate::queue::handle::Handle;
use crate::queue::iteration::Opens;

/// A block, or several that were entered by the same object.
#[pyclass(frozen, module = "penstock._native")]
pub struct Producing {
    handle: Py<Handle>,
    opens: Opens,
    expect: u32,
    entered: Mutex<Vec<Production>>,
}

impl Producing {
    pub fn new(handle: &Bound<'_, Handle>, opens: Opens, expect: u32) -> Producing {
        Producing {
            handle: handle.clone().unbind(),
            opens,
            expect,
            entered: Mutex::default(),
        }
    }
}

/// How many producers are to begin. 0 if the caller names no number.
pub fn expected(expect: Option<&Bound<'_, PyAny>>) -> PyResult<u32> {
    let Some(expect) = expect else {
        return Ok(0);
    };
    match expect.extract::<u32>() {
        Ok(number) if number > 0 => Ok(number),
        Err(error) if !error.is_instance_of::<PyOverflowError>(expect.py()) => Err(error),
        Ok(_) | Err(_) => Err(PyValueError::new_err(format!(
            "expect must be from 1 to {} or None, not {}",
            u32::MAX,
            expect.repr()?
        ))),
    }
}

impl Drop for Producing {
    fn drop(&mut self) {
        // Entered and never left, by a program that did so without `with`. What this could not do, other
        // processes do when they check for the dead.
        for production in lock(&self.entered).drain(..) {
            let _ = at_once(|wait| production.end(wait));
        }
    }
}

#[pymethods]
impl Producing {
    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, producing) = (slf.py(), slf.get());
        let call = (producing.opens)(producing.handle.bind(py))?;
        let queue = call.queue();
        let production = attempt(py, Deadline::Never, |wait| {
            queue.produce_within(producing.expect, wait)
        })?;
        lock(&producing.entered).push(production);
        Ok(())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(slf: &Bound<'_, Self>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        let Some(production) = lock(&slf.get().entered).pop() else {
            return Ok(());
        };
        patiently(slf.py(), Deadline::Never, |wait| production.end(wait))
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a block of producing() cannot be pickled: pass the queue, and produce there",
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.handle)
    }
}
