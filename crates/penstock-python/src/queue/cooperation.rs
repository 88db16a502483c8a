//! Waiting for items under gevent: the other greenlets of the thread run meanwhile.
//!
//! A core's wait blocks the thread, and with it all of its greenlets. So if gevent has patched the modules
//! that `multiprocessing` waits with, a wait for an item sleeps in gevent's hub instead, on the queue's
//! descriptor. It is woken when the descriptor becomes readable, when a delayed item is due, and at the end
//! of each slice, and then tries again. The attempt of a slice's end does the upkeep of a wait: it checks for
//! the dead.
//!
//! A program without gevent pays one look-up in `sys.modules` for each wait, and nothing for a call that
//! finds an item at once.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use penstock_core::{EndInUse, Error, Patience, Queue, Wait};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::interpreter::errors;
use crate::interpreter::gil::Deadline;
use crate::interpreter::once::{name, once};
use crate::queue::attempt::{Ending, patiently, patiently_until};

const SLICE: Duration = Duration::from_millis(100);

/// Whose items a call waits for: a queue's, or those that arrive at a connection's end.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub queue: &'a Arc<Queue>,
    pub end: Option<RawFd>,
}

impl Source<'_> {
    /// Whether an item may come back, of a queue that was shut down.
    fn may_return(self) -> Result<bool, Error> {
        self.queue.may_return(Wait {
            patience: Patience::NoWait,
            interrupted: &mut || false,
        })
    }

    /// The descriptor that is readable while there is an item. `None` if there is none for now: the system
    /// has none left, or a stopped process holds the lock for as long as this waits, a slice at most.
    fn descriptor(self, py: Python<'_>, deadline: Deadline) -> PyResult<Option<RawFd>> {
        let watched = patiently(py, deadline.within(SLICE), |wait| {
            Ok(match self.end {
                None => self.queue.watch(wait),
                Some(end) => self.queue.watch_at(end, wait).map(|()| end),
            })
        })?;
        // What is wrong with the queue or the end, the operation itself raises.
        Ok(watched.ok())
    }
}

/// What sleeps in gevent's hub (`_multiprocessing/greenlets.py`). `None` if the thread may block.
pub fn sleeper<'py>(py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
    static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let modules = once(&MODULES, py, || {
        let modules = py.import("sys")?.getattr("modules")?;
        Ok(modules.cast_into::<PyDict>()?.unbind())
    })?;
    if !modules.bind(py).contains(name!(py, "gevent.monkey"))? {
        return Ok(None);
    }
    let greenlets = py.import("penstock._multiprocessing.greenlets")?;
    let sleeper = greenlets.getattr("sleeper")?.call0()?;
    Ok((!sleeper.is_none()).then_some(sleeper))
}

/// Repeats `operation`, and sleeps in between. It waits for nothing itself. The inner error is a time-out.
pub fn wait<T: Send>(
    sleeper: &Bound<'_, PyAny>,
    deadline: Deadline,
    ending: Option<Ending<'_>>,
    source: Source<'_>,
    mut operation: impl FnMut(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<Result<T, Error>> {
    let py = sleeper.py();
    // The hub waits with the number: no other greenlet or thread closes it meanwhile.
    let _in_use = source.end.and_then(EndInUse::begin);
    let mut descriptor = None;
    loop {
        if descriptor.is_none() {
            descriptor = source.descriptor(py, deadline)?;
        }
        let tried = patiently_until(py, Deadline::Now, None, |wait| match operation(wait) {
            Err(error) if errors::is_time_out(&error) => {
                // Its upkeep sweeps the dead.
                source.queue.len();
                Ok(Err(error))
            }
            // The attempt waits for nothing, but this call does.
            Err(Error::ShutDown) if source.may_return()? => Ok(Err(Error::Empty)),
            done => done.map(Ok),
        })?;
        let due = source.queue.time_until_due();
        let left = deadline.left(due.map_or(SLICE, |due| due.min(SLICE)));
        if tried.is_ok() || deadline.left(SLICE).is_zero() {
            return Ok(tried);
        }
        if let Some(ending) = ending {
            ending.check(py)?;
        }
        sleeper.call1((descriptor, left.as_secs_f64()))?;
    }
}
