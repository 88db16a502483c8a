//! Waiting under gevent: the other greenlets of the thread run meanwhile.
//!
//! A core's wait blocks the thread, and with it all of its greenlets. So if gevent has patched the modules
//! that `multiprocessing` waits with, a wait for an item, for room or for the end of all work sleeps in
//! gevent's hub instead, on a descriptor of the queue. It is woken when the descriptor becomes ready, when a
//! delayed item is due, and at the end of each slice, and then tries again. The attempt of a slice's end does
//! the upkeep of a wait: it checks for the dead.
//!
//! The descriptor of a queue that was shut down is readable, also while an item may come back. So a wait for
//! that item sleeps without the descriptor, as one does for which the system has none left: it tries again
//! every 10 ms.
//!
//! A program without gevent pays one look-up in `sys.modules` for each wait, and nothing for a call that need
//! not wait.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use penstock_core::{Acting, Awaited, Error, Own, Patience, Queue, Wait};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::interpreter::errors;
use crate::interpreter::gil::Deadline;
use crate::interpreter::once::{name, once};
use crate::queue::attempt::{Ending, patiently, patiently_until};
use crate::queue::tasks;

const SLICE: Duration = Duration::from_millis(100);

/// Between two attempts without a descriptor.
const WITHOUT_DESCRIPTOR: Duration = Duration::from_millis(10);

/// What a call waits for.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A queue's items, or those that arrive at a connection's end. The end is in use as long as the call
    /// waits: the hub waits with the number.
    Items {
        queue: &'a Arc<Queue>,
        end: Option<RawFd>,
        /// Whose items in hand end the wait once the queue was shut down.
        own: Own,
    },
    /// Room in a queue.
    Room(&'a Arc<Queue>),
    /// The end of all work.
    Finish(&'a Arc<Queue>),
    /// What no descriptor tells: the thread blocks.
    Thread,
}

impl<'a> Source<'a> {
    pub fn items(queue: &'a Arc<Queue>, own: Own) -> Source<'a> {
        let end = None;
        Source::Items { queue, end, own }
    }

    /// Makes an attempt at what is awaited the current task's, while the result lives. No other task or
    /// greenlet runs meanwhile: it would act as this one.
    #[inline(always)]
    pub fn act(self, py: Python<'_>) -> PyResult<Option<Acting>> {
        match self {
            Source::Items { queue, .. } => tasks::act(py, queue),
            _ => Ok(None),
        }
    }

    /// Whether an item is there again or may come back, of a queue that was shut down.
    pub fn may_return(self, patience: Patience) -> Result<bool, Error> {
        let Source::Items { queue, own, .. } = self else {
            return Ok(false);
        };
        let wait = Wait {
            patience,
            interrupted: &mut || false,
        };
        queue.may_return(own, wait)
    }

    /// Whether the queue was shut down, so that its descriptor is readable for good.
    fn has_ended(self) -> bool {
        matches!(self, Source::Items { queue, .. } if queue.is_shut_down())
    }

    /// The descriptor to wait with, and whether it is to be writable. `None` if there is none for now: the
    /// system has none left, or a stopped process holds the lock for as long as this waits, a slice at most.
    fn descriptor(self, py: Python<'_>, deadline: Deadline) -> PyResult<Option<(RawFd, bool)>> {
        let watched = patiently(py, deadline.within(SLICE), |wait| {
            Ok(match self {
                Source::Items { queue, end: None, .. } => queue.watch(wait).map(|fd| (fd, false)),
                Source::Items {
                    queue,
                    end: Some(end),
                    ..
                } => queue.watch_at(end, wait).map(|()| (end, false)),
                Source::Room(queue) => queue.watch_for(Awaited::Room, wait).map(|fd| (fd, true)),
                Source::Finish(queue) => queue.watch_for(Awaited::Finish, wait).map(|fd| (fd, false)),
                Source::Thread => Err(Error::Closed),
            })
        })?;
        // What is wrong with the queue or the end, the operation itself raises.
        Ok(watched.ok())
    }

    /// Sweeps the dead.
    fn tend(self) {
        match self {
            Source::Items { queue, .. } | Source::Room(queue) | Source::Finish(queue) => {
                queue.len();
            }
            Source::Thread => {}
        }
    }

    /// How long until the wait is to try again, because a delayed item is due then.
    fn time_until_due(self) -> Option<Duration> {
        match self {
            Source::Items { queue, .. } => queue.time_until_due(),
            _ => None,
        }
    }
}

/// Whether the program has imported gevent's patches. From then on items are its greenlets'.
pub fn find_gevent(py: Python<'_>) -> PyResult<bool> {
    static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let modules = once(&MODULES, py, || {
        let modules = py.import("sys")?.getattr("modules")?;
        Ok(modules.cast_into::<PyDict>()?.unbind())
    })?;
    let is_there = modules.bind(py).contains(name!(py, "gevent.monkey"))?;
    if is_there {
        tasks::note();
    }
    Ok(is_there)
}

/// What sleeps in gevent's hub (`_multiprocessing/greenlets.py`). `None` if the thread may block.
pub fn sleeper<'py>(py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
    if !find_gevent(py)? {
        return Ok(None);
    }
    let greenlets = py.import("penstock._multiprocessing.greenlets")?;
    let sleeper = greenlets.getattr("sleeper")?.call0()?;
    Ok((!sleeper.is_none()).then_some(sleeper))
}

/// Repeats `operation`, and sleeps in between. It waits for nothing itself. The inner error is a time-out, or
/// tells that the queue was shut down.
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
        let acting = source.act(py)?;
        let tried = patiently_until(py, Deadline::Now, None, |wait| {
            let tried = match operation(wait) {
                // The attempt waits for nothing, but this call does.
                Err(Error::ShutDown) if source.may_return(Patience::NoWait)? => {
                    awaits_return = true;
                    Err(Error::Empty)
                }
                tried => tried,
            };
            match tried {
                Err(error) if errors::is_time_out(&error) => {
                    source.tend();
                    Ok(Err(error))
                }
                Err(Error::ShutDown) => Ok(Err(Error::ShutDown)),
                done => done.map(Ok),
            }
        })?;
        drop(acting);
        // It waits for what comes back, or is delayed.
        awaits_return |= source.has_ended();
        let due = source.time_until_due();
        let left = deadline.left(due.map_or(SLICE, |due| due.min(SLICE)));
        if matches!(tried, Ok(_) | Err(Error::ShutDown)) || deadline.left(SLICE).is_zero() {
            return Ok(tried);
        }
        if let Some(ending) = ending {
            ending.check(py)?;
        }
        let (watched, left) = match descriptor.filter(|_| !awaits_return) {
            None => (None, left.min(WITHOUT_DESCRIPTOR)),
            watched => (watched, left),
        };
        let (fd, is_writing) = watched.unzip();
        sleeper.call1((fd, left.as_secs_f64(), is_writing.unwrap_or(false)))?;
    }
}
