//! What coroutines need of a queue: attempts that wait for nothing, and descriptors to wait with. The
//! coroutines themselves are written in Python (python/penstock/_async/).

use std::os::fd::RawFd;
use std::sync::Arc;

use penstock_core::{Awaited, Buffer, Error, Own, Queue, TakenItem, Wait};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::interpreter::ffi::new_list;
use crate::interpreter::gil::Deadline;
use crate::interpreter::{errors, reserve};
use crate::queue::attempt::{attempt, in_time, patiently};
use crate::queue::classes::{QueueBase, open};
use crate::queue::cooperation::Source;
use crate::queue::handle::{Call, Handle};
use crate::queue::leases::Pair;
use crate::queue::{batches, leases, send_receive, tasks};

/// Begins a call, or raises what the class raises once its handle was closed.
fn open_any<'a>(handle: &'a Bound<'_, Handle>) -> PyResult<Call<'a>> {
    match handle.is_instance_of::<QueueBase>() {
        true => open(handle),
        false => Handle::open_call(handle),
    }
}

/// `None` for an operation that would have to wait for an item, beside what those have in hand.
fn unless_early<T>(queue: &Arc<Queue>, own: Own, taken: Result<T, Error>) -> Result<Option<T>, Error> {
    match taken {
        Err(error) if errors::is_time_out(&error) => Ok(None),
        // The attempt waits for nothing, but the task does.
        Err(Error::ShutDown) if Source::items(queue, own).may_return()? => Ok(None),
        taken => taken.map(Some),
    }
}

/// Whether the queue was shut down, and an operation would not wait for an item.
pub fn is_over(handle: &Bound<'_, Handle>, own: Own) -> PyResult<bool> {
    let call = open_any(handle)?;
    let queue = call.queue();
    if !queue.is_shut_down() {
        return Ok(false);
    }
    let _acting = tasks::act(handle.py(), queue)?;
    let may_return = Source::items(queue, own).may_return();
    may_return
        .map(|may_return| !may_return)
        .map_err(errors::to_python)
}

/// Takes an item if there is one.
pub fn get_now<'py>(handle: &Bound<'py, Handle>, own: Own) -> PyResult<Option<Bound<'py, PyAny>>> {
    let call = open_any(handle)?;
    let queue = call.queue();
    reserve::hold()?;
    tasks::note();
    let _ = queue.last_taken(); // what was taken before is not asked for any more
    let mut buffer = Buffer::default();
    let taken = {
        let _acting = tasks::act(handle.py(), queue)?;
        attempt(handle.py(), Deadline::Now, |wait| {
            unless_early(queue, own, queue.get_beside(own, &mut buffer, wait))
        })?
    };
    taken
        .map(|delivery| send_receive::rebuild(handle, &call, delivery, &buffer))
        .transpose()
}

/// Names the item that this thread has taken last from a `JoinableQueue`.
pub fn last_taken(handle: &Bound<'_, Handle>) -> PyResult<Option<(u32, u32, u64)>> {
    let call = open_any(handle)?;
    let taken = call.queue().last_taken();
    Ok(taken.map(|item| (item.participant, item.slot, item.number)))
}

/// Finishes that item, unless it was finished.
pub fn finish_taken(handle: &Bound<'_, Handle>, named: (u32, u32, u64)) -> PyResult<bool> {
    let (participant, slot, number) = named;
    let item = TakenItem {
        participant,
        slot,
        number,
    };
    Handle::ask(handle, |queue| {
        attempt(handle.py(), Deadline::Never, |wait| {
            queue.finish_taken(item, wait)
        })
    })
}

/// Takes the items that are there, `most` at most.
pub fn get_many_now<'py>(handle: &Bound<'py, Handle>, most: Option<usize>) -> PyResult<Bound<'py, PyList>> {
    let call = open_any(handle)?;
    let queue = call.queue();
    tasks::note();
    batches::get_many_by(handle, &call, most, |batch| {
        let _acting = tasks::act(handle.py(), queue)?;
        attempt(handle.py(), Deadline::Now, |wait| {
            unless_early(queue, Own::OfProcess, queue.get_many(batch, wait)).map(drop)
        })
    })
}

/// Takes an item for a lease if there is one.
pub fn hold_now<'py>(handle: &Bound<'py, Handle>) -> PyResult<Option<Pair<'py>>> {
    let call = open_any(handle)?;
    let queue = call.queue();
    reserve::hold()?;
    tasks::note();
    let mut buffer = Buffer::default();
    let taken = {
        let _acting = tasks::act(handle.py(), queue)?;
        attempt(handle.py(), Deadline::Now, |wait| {
            unless_early(queue, Own::OfCaller, queue.hold(&mut buffer, wait))
        })?
    };
    taken
        .map(|taken| leases::rebuild(handle, &call, &buffer, taken))
        .transpose()
}

/// The same for the items that are there, `most` at most.
pub fn hold_many_now<'py>(handle: &Bound<'py, Handle>, most: usize) -> PyResult<Bound<'py, PyList>> {
    let call = open_any(handle)?;
    let queue = call.queue();
    tasks::note();
    let list = new_list(handle.py())?;
    leases::take_many_by(handle, &call, (most, &list), |batch, held| {
        let _acting = tasks::act(handle.py(), queue)?;
        attempt(handle.py(), Deadline::Now, |wait| {
            unless_early(queue, Own::OfCaller, queue.hold_many(batch, held, wait)).map(drop)
        })
    })?;
    Ok(list)
}

/// Puts an object if there is room. It is not pickled if there is none.
pub fn put_if_room(handle: &Bound<'_, Handle>, object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let call = open_any(handle)?;
    if !call.queue().is_ready(Awaited::Room) {
        return Ok(false);
    }
    put_now(&call, object)
}

/// The same with an object that is pickled in any case.
pub fn put_now(call: &Call<'_>, object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = object.py();
    send_receive::send_by(call, object, |pieces, is_large| {
        let put = |wait: Wait<'_>| match call.put(pieces, wait) {
            Err(error) if errors::is_time_out(&error) => Ok(None),
            put => put.map(Some),
        };
        match is_large {
            true => patiently(py, Deadline::Now, put),
            false => attempt(py, Deadline::Now, put),
        }
    })
}

/// Puts the objects of a tuple, from the one at that index on, as far as there is room. Returns the index of
/// the first that was not put, and the exception because of which it was not.
pub fn put_many_now(
    handle: &Bound<'_, Handle>,
    objects: &Bound<'_, PyTuple>,
    start: usize,
) -> PyResult<(usize, Option<PyErr>)> {
    let call = open_any(handle)?;
    let mut count = 0;
    let put = batches::put_some(&call, objects, start, &mut count);
    Ok((start + count, put.err()))
}

/// Whether all items are done. Begins to acknowledge, as `join` does.
pub fn join_now(handle: &Bound<'_, Handle>) -> PyResult<bool> {
    Handle::ask(handle, |queue| {
        attempt(handle.py(), Deadline::Now, |wait| in_time(queue.join(wait)))
    })
}

/// What a number of `penstock/_async/turns.py` stands for.
pub fn awaited(kind: u32) -> PyResult<Awaited> {
    match kind {
        0 => Ok(Awaited::Item),
        1 => Ok(Awaited::Room),
        2 => Ok(Awaited::Finish),
        _ => Err(PyValueError::new_err(
            "a task waits for 0 (an item), 1 (room) or 2 (the end of work)",
        )),
    }
}

/// The descriptor to wait with. `None` for now, while a stopped process holds the lock.
pub fn descriptor(handle: &Bound<'_, Handle>, awaited: Awaited) -> PyResult<Option<RawFd>> {
    let py = handle.py();
    Handle::ask(handle, |queue| {
        patiently(py, Deadline::Now, |wait| match queue.watch_for(awaited, wait) {
            Err(Error::Busy | Error::Stopped { .. }) => Ok(None),
            watched => watched.map(Some),
        })
    })
}

/// What a waiting thread does at the end of a slice, for tasks that sleep.
pub fn tend(handle: &Bound<'_, Handle>, slices: u32) -> PyResult<()> {
    let call = open_any(handle)?;
    let queue = call.queue();
    if !queue.is_tending_due(slices) {
        return Ok(());
    }
    handle
        .py()
        .detach(|| queue.tend(slices))
        .map_err(errors::to_python)
}
