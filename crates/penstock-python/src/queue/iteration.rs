//! `for item in queue`: one loop over a queue, until it is shut down.
//!
//! The core finishes the item of a `JoinableQueue` when the loop asks for its next one
//! (operations/iterate.rs). Here is what belongs to Python: the end of the loop, a handle that is closed
//! meanwhile, and an iterator that several threads, or a parent and its child, have in common.

use std::sync::Mutex;

use penstock_core::{Error, InHand, forks};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use crate::interpreter::errors;
use crate::interpreter::gil::Deadline;
use crate::interpreter::once::lock;
use crate::queue::attempt::{patiently, try_now};
use crate::queue::handle::{Call, Handle};
use crate::queue::{awaiting, classes, send_receive, tasks};

/// The items of a queue, for one loop.
#[pyclass(frozen, module = "penstock._native")]
pub struct QueueIterator {
    handle: Py<Handle>,
    opens: Opens,
    state: Mutex<State>,
}

/// Begins a call of a handle, or raises what its class raises if it is closed.
pub type Opens = for<'a, 'b> fn(&'a Bound<'b, Handle>) -> PyResult<Call<'a>>;

#[derive(Default)]
struct State {
    /// Of a `JoinableQueue`: what the loop finishes when it asks for the next one.
    in_hand: Option<InHand>,
    /// The number of forks at which a thread of this process has begun a call, plus 1; 0 if none is in one. A
    /// child is not in the calls of its parent's threads.
    in_call: u64,
    has_ended: bool,
}

/// One call of `next`. No other begins before it is dropped.
struct Turn<'a> {
    state: &'a Mutex<State>,
    in_hand: Option<InHand>,
    has_ended: bool,
}

impl QueueIterator {
    pub fn new(handle: &Bound<'_, Handle>, opens: Opens) -> QueueIterator {
        QueueIterator {
            handle: handle.clone().unbind(),
            opens,
            state: Mutex::default(),
        }
    }

    /// `None` if the loop has ended.
    fn begin(&self) -> PyResult<Option<Turn<'_>>> {
        let now = u64::from(forks()) + 1;
        let mut state = lock(&self.state);
        if state.in_call == now {
            drop(state);
            return Err(PyValueError::new_err(
                "this iterator waits in another call: each thread, and a signal handler, needs its own",
            ));
        }
        if state.has_ended {
            return Ok(None);
        }
        state.in_call = now;
        Ok(Some(Turn {
            state: &self.state,
            in_hand: state.in_hand.take(),
            has_ended: false,
        }))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = lock(self.state);
        state.in_hand = self.in_hand;
        state.has_ended = self.has_ended;
        state.in_call = 0;
    }
}

impl Drop for QueueIterator {
    fn drop(&mut self) {
        if let Some(in_hand) = lock(&self.state).in_hand.take() {
            in_hand.leave();
        }
    }
}

#[pymethods]
impl QueueIterator {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (py, iterator) = (slf.py(), slf.get());
        let Some(mut turn) = iterator.begin()? else {
            return Ok(None);
        };
        let handle = iterator.handle.bind(py);
        let call = match (iterator.opens)(handle) {
            Ok(call) => call,
            Err(closed) => {
                if turn.in_hand.is_some() {
                    // The loop has asked for the next one all the same.
                    Handle::ask(handle, |queue| {
                        let in_hand = &mut turn.in_hand;
                        let _acting = tasks::act(py, queue)?;
                        patiently(py, Deadline::Never, |wait| queue.finish_in_hand(in_hand, wait))
                    })?;
                }
                return Err(closed);
            }
        };
        let next = send_receive::get_next(handle, &call, &mut turn.in_hand);
        turn.has_ended = matches!(next, Ok(None));
        next
    }

    /// The next item, as a task takes it that waits otherwise (python/penstock/_async/): `nothing` if this
    /// would wait. Raises `ShutDown` at the end.
    fn _next_now<'py>(
        slf: &Bound<'py, Self>,
        nothing: &Bound<'py, PyAny>,
        task: u32,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, iterator) = (slf.py(), slf.get());
        let Some(mut turn) = iterator.begin()? else {
            return Err(errors::to_python(Error::ShutDown));
        };
        let handle = iterator.handle.bind(py);
        let call = match (iterator.opens)(handle) {
            Ok(call) => call,
            Err(closed) if finish_now(handle, &mut turn, task)? => return Err(closed),
            Err(_) => return Ok(nothing.clone()),
        };
        let next = awaiting::get_next_now(handle, &call, &mut turn.in_hand, task);
        turn.has_ended = matches!(&next, Err(error) if errors::is_shut_down(py, error));
        Ok(next?.unwrap_or_else(|| nothing.clone()))
    }

    /// Finishes the item that the loop has in hand, because the task asks for the next one. False if it could
    /// not, because the lock stays taken.
    fn _finish_now(slf: &Bound<'_, Self>, task: u32) -> PyResult<bool> {
        match slf.get().begin()? {
            Some(mut turn) => finish_now(slf.get().handle.bind(slf.py()), &mut turn, task),
            None => Ok(true),
        }
    }

    fn __reduce__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "an iterator over a queue cannot be pickled: pass the queue, and iterate over it there",
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.handle)
    }
}

fn finish_now(handle: &Bound<'_, Handle>, turn: &mut Turn<'_>, task: u32) -> PyResult<bool> {
    let py = handle.py();
    let in_hand = &mut turn.in_hand;
    if in_hand.is_none() {
        return Ok(true);
    }
    Handle::ask(handle, |queue| {
        let _acting = tasks::act_for(py, queue, task)?;
        let tried = try_now(py, |wait| queue.finish_in_hand(in_hand, wait))?;
        Ok(tried.done().is_some())
    })
}

/// The iterator of whatever queue.
pub fn over_any(handle: &Bound<'_, Handle>) -> QueueIterator {
    match handle.is_instance_of::<classes::QueueBase>() {
        true => over_queue(handle),
        false => over_simple_queue(handle),
    }
}

/// The iterator of a `Queue` or a `JoinableQueue`.
pub fn over_queue(handle: &Bound<'_, Handle>) -> QueueIterator {
    QueueIterator::new(handle, classes::open)
}

/// The iterator of a `SimpleQueue`.
pub fn over_simple_queue(handle: &Bound<'_, Handle>) -> QueueIterator {
    QueueIterator::new(handle, classes::open_simple)
}
