//! Which task of an event loop, or which greenlet, makes a call: what it takes from a `JoinableQueue` is its
//! own, and not the thread's (python/penstock/_async/tasks.py).
//!
//! A program that has not awaited a queue, and not imported gevent, pays one load for each call.

use std::sync::atomic::{AtomicBool, Ordering};

use penstock_core::{Acting, Queue};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::interpreter::once::once;

/// Whether this process may run tasks or greenlets that use queues.
static RUNS_TASKS: AtomicBool = AtomicBool::new(false);

pub fn note() {
    if !RUNS_TASKS.load(Ordering::Relaxed) {
        RUNS_TASKS.store(true, Ordering::Relaxed);
    }
}

/// Makes the calls of this thread those of the current task, while the result lives. `None` if there is none,
/// or if it makes no difference to that queue. The caller runs no code of the program meanwhile, and does not
/// sleep in gevent's hub.
#[inline]
pub fn act(py: Python<'_>, queue: &Queue) -> PyResult<Option<Acting>> {
    if RUNS_TASKS.load(Ordering::Relaxed) && queue.options().acknowledged {
        return act_as_current(py);
    }
    Ok(None)
}

#[cold]
fn act_as_current(py: Python<'_>) -> PyResult<Option<Acting>> {
    static CURRENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let find = || {
        let module = py.import("penstock._async.tasks")?;
        Ok(module.getattr("current")?.unbind())
    };
    let task = once(&CURRENT, py, find)?.bind(py).call0()?;
    // An address of another object may be the same after 32 GiB, or after the task has ended. Then its items
    // are finished first, as those of an ended thread may be.
    Ok((!task.is_none()).then(|| Acting::of_task((task.as_ptr() as usize >> 4) as u32)))
}
