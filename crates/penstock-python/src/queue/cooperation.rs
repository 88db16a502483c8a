//! Waiting for items under gevent: the other greenlets of the thread run meanwhile.
//!
//! A core's wait blocks the thread, and with it all of its greenlets. So if gevent has patched the modules
//! that `multiprocessing` waits with, a wait for an item sleeps in gevent's hub instead, on the queue's
//! descriptor. It is woken when the descriptor becomes readable, and at the end of each slice, and then tries
//! again. The attempt of a slice's end does the upkeep of a wait: it checks for the dead.
//!
//! The descriptor of a queue that was shut down is readable, also while an item may come back. So a wait for
//! that item sleeps without the descriptor, as one does for which the system has none left: it tries again
//! every 10 ms.
//!
//! A program without gevent pays one look-up in `sys.modules` for each wait, and nothing for a call that
//! finds an item at once.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use penstock_core::{Error, Patience, Queue, Wait};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::interpreter::errors;
use crate::interpreter::gil::Deadline;
use crate::interpreter::once::{name, once};
use crate::queue::attempt::{Ending, patiently, patiently_until};

const SLICE: Duration = Duration::from_millis(100);

/// Between two attempts without a descriptor.
const WITHOUT_DESCRIPTOR: Duration = Duration::from_millis(10);

/// Whose items a call waits for: a queue's, or those that arrive at a connection's end.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub queue: &'a Arc<Queue>,
    /// In use as long as the call waits: the hub waits with the number.
    pub end: Option<RawFd>,
}

impl Source<'_> {
    /// Whether an item is there again or may come back, of a queue that was shut down.
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

/// Repeats `operation`, and sleeps in between. It waits for nothing itself. The inner error is a time-out, or
/// that the queue was shut down.
pub fn wait<T: Send>(
    sleeper: &Bound<'_, PyAny>,
    deadline: Deadline,
    ending: Option<Ending<'_>>,
    source: Source<'_>,
    mut operation: impl FnMut(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<Result<T, Error>> {
    let py = sleeper.py();
    let mut descriptor = None;
    loop {
        if descriptor.is_none() {
            descriptor = source.descriptor(py, deadline)?;
        }
        let mut awaits_return = false;
        let tried = patiently_until(py, Deadline::Now, None, |wait| {
            let tried = match operation(wait) {
                // The attempt waits for nothing, but this call does.
                Err(Error::ShutDown) if source.may_return()? => {
                    awaits_return = true;
                    Err(Error::Empty)
                }
                tried => tried,
            };
            match tried {
                Err(error) if errors::is_time_out(&error) => {
                    // Its upkeep sweeps the dead.
                    source.queue.len();
                    Ok(Err(error))
                }
                Err(Error::ShutDown) => Ok(Err(Error::ShutDown)),
                done => done.map(Ok),
            }
        })?;
        let left = deadline.left(SLICE);
        if matches!(tried, Ok(_) | Err(Error::ShutDown)) || left.is_zero() {
            return Ok(tried);
        }
        if let Some(ending) = ending {
            ending.check(py)?;
        }
        let (watched, left) = match descriptor.filter(|_| !awaits_return) {
            None => (None, left.min(WITHOUT_DESCRIPTOR)),
            watched => (watched, left),
        };
        sleeper.call1((watched, left.as_secs_f64()))?;
    }
}
