//! Operations of a queue: a first attempt with the GIL held, and waiting without it.

use std::cell::Cell;

use penstock_core::{Error, Queue, Wait};
use pyo3::prelude::*;

use crate::interpreter::errors;
use crate::interpreter::gil::{Deadline, at_once, released};
use crate::queue::cooperation::{self, Source};
use crate::queue::proof;

/// Reads one of the numbers for which a queue does not wait. Releases the GIL if that needs system calls.
pub fn ask<T: Send>(py: Python<'_>, queue: &Queue, number: impl FnOnce(&Queue) -> T + Send) -> T {
    if queue.is_settled() {
        number(queue)
    } else {
        py.detach(|| number(queue))
    }
}

/// The end of a wait because no process is left on the queue's other side: how that is found out, and what is
/// raised.
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

/// Runs `operation` with the GIL released. It ends with the exception of a signal handler (Ctrl-C), or with
/// the warning of proof.rs, if the program turns warnings into exceptions. The queue is unchanged then.
pub fn patiently<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    operation: impl FnOnce(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    patiently_until(py, deadline, None, operation)
}

/// The same. The ending, too, is checked now and then.
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

/// Whether an operation succeeded before its time was over.
pub fn in_time(result: Result<(), Error>) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if errors::is_time_out(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What an attempt has come to that waits for nothing, and for the lock some milliseconds at most.
pub enum Tried<T> {
    Done(T),
    /// There is no item, no room, or work is left.
    Early,
    /// A stopped process holds the lock, or another for long.
    Stuck,
}

thread_local! {
    /// Whether the last attempt of this thread that was not done was stuck.
    static STUCK: Cell<bool> = const { Cell::new(false) };
}

impl<T> Tried<T> {
    /// The result, if it is done. If not, notes for [`was_stuck`] why.
    pub fn done(self) -> Option<T> {
        if let Tried::Done(done) = self {
            return Some(done);
        }
        STUCK.set(matches!(self, Tried::Stuck));
        None
    }
}

/// Why the attempt was not done that this thread has just made.
pub fn was_stuck() -> bool {
    STUCK.get()
}

/// Makes such an attempt: with the GIL held, and if that does not do, without it.
#[inline]
pub fn try_now<T: Send>(
    py: Python<'_>,
    mut operation: impl FnMut(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<Tried<T>> {
    match at_once(&mut operation) {
        Ok(done) => Ok(Tried::Done(done)),
        Err(Error::Full | Error::Empty) => Ok(Tried::Early),
        Err(Error::Busy) => try_briefly(py, operation),
        Err(error) => Err(errors::to_python(error)),
    }
}

/// The same without the GIL from the beginning.
#[cold]
pub fn try_briefly<T: Send>(
    py: Python<'_>,
    mut operation: impl FnMut(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<Tried<T>> {
    patiently(py, Deadline::Briefly, |wait| match operation(wait) {
        Ok(done) => Ok(Tried::Done(done)),
        Err(Error::Full | Error::Empty) => Ok(Tried::Early),
        Err(error) if errors::is_stuck(&error) => Ok(Tried::Stuck),
        Err(error) => Err(error),
    })
}

/// Tries with the GIL held. If the operation has to wait, waits with the GIL released.
#[inline]
pub fn attempt<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    mut operation: impl FnMut(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    match at_once(&mut operation) {
        Ok(done) => Ok(done),
        Err(error) if is_worth_waiting(&error, deadline) => patiently(py, deadline, operation),
        Err(error) => Err(errors::to_python(error)),
    }
}

/// Whether an attempt that ended with that error is to be followed by one that may wait.
pub fn is_worth_waiting(error: &Error, deadline: Deadline) -> bool {
    *error == Error::Busy || errors::is_time_out(error) && !matches!(deadline, Deadline::Now)
}

/// The same, as the current task. If the thread may not block, waits with a descriptor of the source.
#[inline]
pub fn attempt_or_wait<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    ending: Option<Ending<'_>>,
    source: Source<'_>,
    mut operation: impl FnMut(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let tried = {
        let _acting = source.act(py)?;
        at_once(&mut operation)
    };
    match tried {
        Ok(done) => Ok(done),
        Err(error) if is_worth_waiting(&error, deadline) => {
            wait_for(py, deadline, ending, source, operation)?.map_err(errors::to_python)
        }
        Err(error) => Err(errors::to_python(error)),
    }
}

/// Waits without a first attempt. The inner error is a time-out, or tells that the queue was shut down.
#[cold]
pub fn wait_for<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    ending: Option<Ending<'_>>,
    source: Source<'_>,
    mut operation: impl FnMut(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<Result<T, Error>> {
    if !matches!(deadline, Deadline::Now) && !matches!(source, Source::Thread) {
        if let Some(sleeper) = cooperation::sleeper(py)? {
            return cooperation::wait(&sleeper, deadline, ending, source, operation);
        }
    }
    let _acting = source.act(py)?;
    patiently_until(py, deadline, ending, |wait| match operation(wait) {
        Err(error) if errors::is_time_out(&error) || error == Error::ShutDown => Ok(Err(error)),
        done => done.map(Ok),
    })
}
