//! Operations of a queue: tried with the GIL held, waited for without it.

use penstock_core::{Error, Queue, Wait};
use pyo3::prelude::*;

use crate::interpreter::errors;
use crate::interpreter::gil::{Deadline, at_once, released};
use crate::queue::proof;

/// Asks for one of the numbers that a queue answers without waiting. Releases the GIL if the answer needs system calls.
pub fn ask<T: Send>(py: Python<'_>, queue: &Queue, number: impl FnOnce(&Queue) -> T + Send) -> T {
    if queue.is_settled() {
        number(queue)
    } else {
        py.detach(|| number(queue))
    }
}

/// That nobody is left on a queue's other side, and what is raised then.
#[derive(Clone, Copy)]
pub struct Ending<'a> {
    pub has_ended: &'a Py<PyAny>,
    pub raise: fn() -> PyErr,
}

impl Ending<'_> {
    pub fn check(&self, py: Python<'_>) -> PyResult<()> {
        if self.has_ended.call0(py)?.is_truthy(py)? {
            return Err((self.raise)());
        }
        Ok(())
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

/// The same, until the ending that is looked for now and then.
pub fn patiently_until<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    ending: Option<Ending<'_>>,
    operation: impl FnOnce(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let check = |py: Python<'_>| {
        proof::warn_if_impossible(py)?;
        ending.map_or(Ok(()), |ending| ending.check(py))
    };
    released(py, deadline, check, operation)
}

/// Whether an operation came to its end before its time was over.
pub fn in_time(result: Result<(), Error>) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if errors::is_time_out(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Tries with the GIL held, and if that is not enough, waits without it.
#[inline]
pub fn attempt<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    operation: impl FnMut(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    attempt_until(py, deadline, None, operation)
}

#[inline]
pub fn attempt_until<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    ending: Option<Ending<'_>>,
    mut operation: impl FnMut(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    match at_once(&mut operation) {
        Ok(done) => Ok(done),
        Err(Error::Busy) => patiently_until(py, deadline, ending, operation),
        Err(error) if errors::is_time_out(&error) && !matches!(deadline, Deadline::Now) => {
            patiently_until(py, deadline, ending, operation)
        }
        Err(error) => Err(errors::to_python(error)),
    }
}
