//! Leases: items that their holder settles one by one, by name.
//!
//! The class `Lease`, and what the end of a `with` means, are Python's (python/penstock/leases.py). Here is
//! what they need of the core: taking, and one settlement.
//!
//! The object of a lease never reads the item's payload in shared memory: the item may go back to the queue
//! while the program still has the object. So large buffers are copied once more than by `get()`.

use std::time::Duration;

use penstock_core::{BATCH, Batch, Buffer, Delivery, Held, Own, Queue, Taken, Verdict};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;
use pyo3::{PyTraverseError, PyVisit};

use crate::interpreter::gil::{Deadline, seconds};
use crate::interpreter::once::once;
use crate::interpreter::reserve;
use crate::queue::attempt::{attempt, attempt_or_wait, try_now};
use crate::queue::cooperation::Source;
use crate::queue::handle::{Call, Handle};
use crate::queue::send_receive::{trim_if_due, trim_if_ended};
use crate::queue::{payload_buffer, tasks};

/// One item in hand, and its queue.
#[pyclass(frozen, module = "penstock._native")]
pub struct Hold {
    handle: Py<Handle>,
    held: Held,
}

#[pymethods]
impl Hold {
    /// The item's number, which it has at each delivery.
    #[getter]
    fn id(&self) -> u64 {
        self.held.id()
    }

    /// How often the item was delivered, this time included.
    #[getter]
    fn deliveries(&self) -> u32 {
        self.held.deliveries()
    }

    /// Seconds from the item's put to this delivery; None if that is not known.
    #[getter]
    fn waited(&self) -> Option<f64> {
        self.held.waited().map(|waited| waited.as_secs_f64())
    }

    /// Whether this process has the item in hand.
    #[getter]
    fn is_in_hand(&self, py: Python<'_>) -> PyResult<bool> {
        Handle::ask(self.handle.bind(py), |queue| Ok(queue.holds(&self.held)))
    }

    /// Finishes the item. Like the others, false if this process has it in hand no more.
    fn finish(&self, py: Python<'_>) -> PyResult<bool> {
        self.settle(py, Verdict::Done)
    }

    #[pyo3(signature = (delay = None))]
    fn release(&self, py: Python<'_>, delay: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        self.settle_noting(py, Verdict::Released, delay, &[])
    }

    /// `text` says why; what reads a dead letter finds the last one.
    #[pyo3(signature = (delay = None, text = None))]
    fn fail(&self, py: Python<'_>, delay: Option<&Bound<'_, PyAny>>, text: Option<&[u8]>) -> PyResult<bool> {
        self.settle_noting(py, Verdict::Failed, delay, text.unwrap_or_default())
    }

    // The same for a task, which does not wait for the lock longer than 5 ms: None if it could not be had.

    fn finish_now(&self, py: Python<'_>) -> PyResult<Option<bool>> {
        self.settle_now(py, Verdict::Done, &[])
    }

    fn release_now(&self, py: Python<'_>) -> PyResult<Option<bool>> {
        self.settle_now(py, Verdict::Released, &[])
    }

    #[pyo3(signature = (text = None))]
    fn fail_now(&self, py: Python<'_>, text: Option<&[u8]>) -> PyResult<Option<bool>> {
        self.settle_now(py, Verdict::Failed, text.unwrap_or_default())
    }

    #[pyo3(signature = (text = None))]
    fn reject(&self, py: Python<'_>, text: Option<&[u8]>) -> PyResult<bool> {
        self.settle_noting(py, Verdict::Rejected, None, text.unwrap_or_default())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.handle)
    }
}

impl Hold {
    fn new<'py>(handle: &Bound<'py, Handle>, held: Held) -> PyResult<Bound<'py, Hold>> {
        let hold = Hold {
            handle: handle.clone().unbind(),
            held,
        };
        Bound::new(handle.py(), hold)
    }

    fn settle(&self, py: Python<'_>, verdict: Verdict) -> PyResult<bool> {
        self.settle_noting(py, verdict, None, &[])
    }

    fn settle_now(&self, py: Python<'_>, verdict: Verdict, text: &[u8]) -> PyResult<Option<bool>> {
        Handle::ask(self.handle.bind(py), |queue| {
            let delay = match verdict {
                Verdict::Failed => queue.retry_delay(&self.held),
                _ => Duration::ZERO,
            };
            let _acting = tasks::act(py, queue)?;
            let tried = try_now(py, |wait| {
                queue.settle_noting(&self.held, verdict, (delay, text), wait)
            })?;
            let settled = tried.done();
            if settled.is_some() {
                trim_if_due(py, queue)?;
            }
            Ok(settled)
        })
    }

    fn settle_noting(
        &self,
        py: Python<'_>,
        verdict: Verdict,
        delay: Option<&Bound<'_, PyAny>>,
        text: &[u8],
    ) -> PyResult<bool> {
        let given = seconds("delay", delay)?;
        Handle::ask(self.handle.bind(py), |queue| {
            let delay = match (given, verdict) {
                (None, Verdict::Failed) if delay.is_none() => queue.retry_delay(&self.held),
                (given, _) => given.unwrap_or_default(),
            };
            let _acting = tasks::act(py, queue)?;
            let is_settled = attempt(py, Deadline::Never, |wait| {
                queue.settle_noting(&self.held, verdict, (delay, text), wait)
            })?;
            trim_if_due(py, queue)?;
            Ok(is_settled)
        })
    }
}

/// Releases an item for which there is no memory for a hold.
fn release(py: Python<'_>, queue: &Queue, held: &Held) -> PyResult<()> {
    let released = attempt(py, Deadline::Never, |wait| {
        queue.settle(held, Verdict::Released, wait)
    });
    released.map(drop)
}

/// An item whose object could not be rebuilt: it has failed, and a dead letter tells why. It is released if
/// what ended the rebuilding is no failure (Ctrl-C).
fn give_back(py: Python<'_>, hold: &Bound<'_, Hold>, error: &PyErr) -> PyResult<()> {
    let (verdict, text) = match error.is_instance_of::<PyException>(py) {
        true => (Verdict::Failed, told(py, error)),
        false => (Verdict::Released, Vec::new()),
    };
    // False if there was no memory for the object of a large item, which has gone back by itself.
    hold.get().settle_noting(py, verdict, None, &text).map(drop)
}

/// What a dead letter tells of an error; nothing if that cannot be told, for want of memory for instance.
fn told(py: Python<'_>, error: &PyErr) -> Vec<u8> {
    static TEXT_IF_ANY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let find = || Ok(py.import("penstock.leases")?.getattr("_text_if_any")?.unbind());
    // `into_value` gives the exception its traceback, which an error of pyo3 has beside it.
    let tell = || -> PyResult<Vec<u8>> {
        let text_if_any = once(&TEXT_IF_ANY, py, find)?.bind(py);
        let text = text_if_any.call1((error.clone_ref(py).into_value(py),))?;
        Ok(text.extract::<Option<Vec<u8>>>()?.unwrap_or_default())
    };
    tell().unwrap_or_default()
}

/// Takes an item. If its object cannot be rebuilt, the item goes back.
///
/// The pair is appended to a list of the caller's: a signal handler that raises right after this call does
/// not take it away from the caller.
pub fn take(
    handle: &Bound<'_, Handle>,
    call: &Call<'_>,
    deadline: Deadline,
    list: &Bound<'_, PyList>,
) -> PyResult<()> {
    let py = handle.py();
    let queue = call.queue();
    reserve::hold()?;
    let mut buffer = Buffer::default();
    let source = Source::items(queue, Own::OfCaller);
    let taken = attempt_or_wait(py, deadline, None, source, |wait| queue.hold(&mut buffer, wait))
        .inspect_err(|_| trim_if_ended(py, queue))?;
    rebuild_into(list, handle, call, &buffer, taken)
}

/// Appends an item that was taken for a lease to a list.
pub fn rebuild_into(
    list: &Bound<'_, PyList>,
    handle: &Bound<'_, Handle>,
    call: &Call<'_>,
    buffer: &Buffer,
    taken: (Delivery, Held),
) -> PyResult<()> {
    let (object, hold) = rebuild(handle, call, buffer, taken)?;
    list.append((object, &hold))
        .or_else(|error| give_back(handle.py(), &hold, &error).and(Err(error)))
}

/// The object of an item that was taken for a lease.
fn rebuild<'py>(
    handle: &Bound<'py, Handle>,
    call: &Call<'_>,
    buffer: &Buffer,
    (delivery, held): (Delivery, Held),
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, Hold>)> {
    let (py, queue) = (handle.py(), call.queue());
    let hold = match Hold::new(handle, held) {
        Ok(hold) => hold,
        Err(error) => {
            drop(delivery);
            release(py, queue, &held)?;
            return Err(error);
        }
    };
    let trimmed = trim_if_due(py, queue);
    let object = trimmed.and_then(|()| match delivery {
        Delivery::Copied => call.codec.load(py, buffer.bytes(), Some(handle)),
        Delivery::Lent(lent) => payload_buffer::load_apart(handle, call, lent),
    });
    match object {
        Ok(object) => Ok((object, hold)),
        Err(error) => {
            give_back(py, &hold, &error)?;
            Err(error)
        }
    }
}

/// Takes the items that are there, `most` at most, and waits for the first. If an object cannot be rebuilt,
/// its item goes back, and so do the others; the error is raised. The pairs are appended to `list`.
pub fn take_many(
    handle: &Bound<'_, Handle>,
    call: &Call<'_>,
    (most, list): (usize, &Bound<'_, PyList>),
    deadline: Deadline,
) -> PyResult<()> {
    let (py, queue) = (handle.py(), call.queue());
    let source = Source::items(queue, Own::OfCaller);
    take_many_by(handle, call, (most, list), |batch, held| {
        attempt_or_wait(py, deadline, None, source, |wait| {
            queue.hold_many(batch, held, wait)
        })
        .inspect_err(|_| trim_if_ended(py, queue))
    })
}

/// The same. The items are taken by `take`, which may leave the batch empty.
pub fn take_many_by(
    handle: &Bound<'_, Handle>,
    call: &Call<'_>,
    (most, list): (usize, &Bound<'_, PyList>),
    take: impl FnOnce(&mut Batch, &mut Vec<Held>) -> PyResult<()>,
) -> PyResult<()> {
    let (py, queue) = (handle.py(), call.queue());
    reserve::hold()?;
    let most = most.min(BATCH);
    let mut batch = Batch::with_room_for(most).map_err(|_| reserve::no_memory())?;
    let mut held: Vec<Held> = Vec::new();
    held.try_reserve_exact(most).map_err(|_| reserve::no_memory())?;
    take(&mut batch, &mut held)?;
    let mut first_error = trim_if_due(py, queue).err();
    let mut leases = held.into_iter();
    batch.into_items(|taken| {
        let Some(held) = leases.next() else {
            return;
        };
        let hold = match Hold::new(handle, held) {
            Ok(hold) => hold,
            Err(error) => {
                drop(taken);
                let released = release(py, queue, &held);
                first_error.get_or_insert(error);
                drop(released);
                return;
            }
        };
        let entered = (|| {
            if first_error.is_some() {
                drop(taken);
                return hold.get().settle(py, Verdict::Released).map(drop);
            }
            let object = match taken {
                Taken::Copied(bytes) => call.codec.load(py, bytes, Some(handle)),
                Taken::Lent(lent) => payload_buffer::load_apart(handle, call, lent),
            };
            match object.and_then(|object| list.append((object, &hold))) {
                Ok(()) => Ok(()),
                Err(error) => {
                    let returned = give_back(py, &hold, &error);
                    first_error = Some(error);
                    returned
                }
            }
        })();
        if let Err(error) = entered {
            first_error.get_or_insert(error);
        }
    });
    let Some(error) = first_error else {
        return Ok(());
    };
    for pair in list {
        let (_, hold) = pair.extract::<(Bound<'_, PyAny>, Bound<'_, Hold>)>()?;
        hold.get().settle(py, Verdict::Released)?;
    }
    Err(error)
}
