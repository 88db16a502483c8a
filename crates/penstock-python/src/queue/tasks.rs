//! Which task of an event loop, or which greenlet, makes a call: what it takes from a `JoinableQueue` is its
//! own, and not the thread's (python/penstock/_async/tasks.py).
//!
//! A program that has not awaited a queue, nor opened one while an event loop ran, and that has not imported
//! gevent, pays one load for each call.

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

/// The same for a task that has made the call, but may have another one run it: `asyncio.wait_for` does that.
/// Its number is that of [`caller`], or 0 if the call was made outside of any task.
#[inline]
pub fn act_for(py: Python<'_>, queue: &Queue, task: u32) -> PyResult<Option<Acting>> {
    match task {
        0 => act(py, queue),
        task => Ok(queue.options().acknowledged.then(|| Acting::of_task(task))),
    }
}

/// The number of the current task; 0 if there is none, or if it makes no difference to that queue.
pub fn caller(py: Python<'_>, queue: &Queue) -> PyResult<u32> {
    note();
    if !queue.options().acknowledged {
        return Ok(0);
    }
    Ok(current(py)?.map_or(0, |task| task | IS_TASK))
}

/// Notes it if the calling thread runs an event loop.
pub fn note_if_loop_runs(py: Python<'_>) -> PyResult<()> {
    static RUNS_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if RUNS_TASKS.load(Ordering::Relaxed) {
        return Ok(());
    }
    if in_module(py, &RUNS_LOOP, "runs_loop")?.call0()?.is_truthy()? {
        note();
    }
    Ok(())
}

/// So that no task has the number 0.
const IS_TASK: u32 = 1 << 31;

#[cold]
fn act_as_current(py: Python<'_>) -> PyResult<Option<Acting>> {
    Ok(current(py)?.map(Acting::of_task))
}

fn current(py: Python<'_>) -> PyResult<Option<u32>> {
    static CURRENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let task = in_module(py, &CURRENT, "current")?.call0()?;
    // An address of another object may be the same after 32 GiB, or after the task has ended. Then its items
    // are finished first, as those of an ended thread may be.
    Ok((!task.is_none()).then(|| (task.as_ptr() as usize >> 4) as u32))
}

fn in_module<'py>(
    py: Python<'py>,
    place: &'static PyOnceLock<Py<PyAny>>,
    name: &str,
) -> PyResult<&'py Bound<'py, PyAny>> {
    let find = || {
        let module = py.import("penstock._async.tasks")?;
        Ok(module.getattr(name)?.unbind())
    };
    Ok(once(place, py, find)?.bind(py))
}
