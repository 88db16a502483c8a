//! Time-outs, the GIL and signals: everything about an operation that may take a while.

use std::time::{Duration, Instant};

use penstock_core::{Error, Patience, Queue, Wait};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::interpreter::errors;
use crate::queue::proof;

/// How long the caller agreed to wait, fixed when the call began.
#[derive(Clone, Copy)]
pub enum Deadline {
    Now,
    At(Instant),
    Never,
}

impl Deadline {
    /// As `multiprocessing` reads `block` and `timeout`: without `block` the time-out is not even looked at,
    /// and a negative one is zero. One that no clock can hold (infinity) is no limit.
    pub fn new(block: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Deadline> {
        if !block {
            return Ok(Deadline::Now);
        }
        let Some(timeout) = timeout else {
            return Ok(Deadline::Never);
        };
        let seconds: f64 = timeout.extract()?;
        if seconds.is_nan() {
            return Err(PyValueError::new_err("timeout must not be NaN"));
        }
        if seconds <= 0.0 {
            return Ok(Deadline::Now);
        }
        let deadline = Duration::try_from_secs_f64(seconds)
            .ok()
            .and_then(|left| Instant::now().checked_add(left));
        Ok(deadline.map_or(Deadline::Never, Deadline::At))
    }

    fn patience(self) -> Patience {
        match self {
            Deadline::Now => Patience::Now,
            Deadline::At(instant) => Patience::Until(instant),
            Deadline::Never => Patience::Forever,
        }
    }
}

/// The attempt that is made with the GIL held. It waits for nothing but the ends of critical sections, so nothing can
/// interrupt it.
pub fn at_once<T>(operation: impl FnOnce(Wait<'_>) -> Result<T, Error>) -> Result<T, Error> {
    operation(Wait {
        patience: Patience::Try,
        interrupted: &mut || false,
    })
}

/// Asks for one of the numbers that a queue answers without waiting. Releases the GIL if the answer needs system calls.
pub fn ask<T: Send>(py: Python<'_>, queue: &Queue, number: impl FnOnce(&Queue) -> T + Send) -> T {
    if queue.is_settled() {
        number(queue)
    } else {
        py.detach(|| number(queue))
    }
}

/// Runs `operation` with the GIL released. A signal handler that raises (Ctrl-C) ends it with that exception; so does the
/// warning of proof.rs, if the program has warnings raised, before anything is done.
pub fn patiently<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    operation: impl FnOnce(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    patiently_until(py, deadline, None, operation)
}

/// That nobody is left on a queue's other side, and what is raised then.
#[derive(Clone, Copy)]
pub struct Ending<'a> {
    pub has_ended: &'a Py<PyAny>,
    pub raise: fn() -> PyErr,
}

impl Ending<'_> {
    pub fn look(&self, py: Python<'_>) -> PyResult<()> {
        if self.has_ended.call0(py)?.is_truthy(py)? {
            return Err((self.raise)());
        }
        Ok(())
    }
}

/// The same, until the ending that is looked for now and then.
pub fn patiently_until<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    ending: Option<Ending<'_>>,
    operation: impl FnOnce(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let mut raised = None;
    let result = py.detach(|| {
        // An interpreter that shuts down cannot be attached to any more: what is left is a daemon thread, and
        // it waits on.
        let mut interrupted = || {
            let look = |py: Python<'_>| {
                proof::warn_if_impossible(py)?;
                py.check_signals()?;
                ending.map_or(Ok(()), |ending| ending.look(py))
            };
            raised = Python::try_attach(|py| look(py).err()).flatten();
            raised.is_some()
        };
        operation(Wait {
            patience: deadline.patience(),
            interrupted: &mut interrupted,
        })
    });
    result.map_err(|error| raised.unwrap_or_else(|| errors::to_python(error)))
}
