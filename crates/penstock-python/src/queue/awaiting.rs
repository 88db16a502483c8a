//! What coroutines need of a queue: attempts that wait for nothing, and descriptors to wait with. The
//! coroutines themselves are written in Python (python/penstock/_async/).

use std::os::fd::RawFd;
use std::sync::Arc;

use penstock_core::{Awaited, Buffer, Error, InHand, Own, Patience, Queue, Wait};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::interpreter::gil::Deadline;
use crate::interpreter::{errors, reserve};
use crate::queue::attempt::{Tried, try_briefly, try_now};
use crate::queue::classes::{QueueBase, open};
use crate::queue::cooperation::Source;
use crate::queue::handle::{Call, Handle};
use crate::queue::{batches, leases, send_receive, tasks};

/// Begins a call, or raises what the class raises once its handle was closed.
fn open_any<'a>(handle: &'a Bound<'_, Handle>) -> PyResult<Call<'a>> {
    match handle.is_instance_of::<QueueBase>() {
        true => open(handle),
        false => Handle::open_call(handle),
    }
}

/// An operation that finds a queue shut down is early, too, if an item may come back, beside what those have
/// in hand: the attempt waits for nothing, but the task does.
fn unless_early<T>(queue: &Arc<Queue>, own: Own, taken: Result<T, Error>) -> Result<T, Error> {
    match taken {
        Err(Error::ShutDown) if Source::items(queue, own).may_return(Patience::Briefly)? => Err(Error::Empty),
        taken => taken,
    }
}

/// Whether the queue was shut down, and an operation of that task would not wait for an item.
pub fn is_over(handle: &Bound<'_, Handle>, own: Own, task: u32) -> PyResult<bool> {
    let call = open_any(handle)?;
    let queue = call.queue();
    if !queue.is_shut_down() {
        return Ok(false);
    }
    let _acting = tasks::act_for(handle.py(), queue, task)?;
    match Source::items(queue, own).may_return(Patience::Briefly) {
        Ok(may_return) => Ok(!may_return),
        // A stopped process keeps the lock: the next slice tells.
        Err(error) if errors::is_time_out(&error) => Ok(false),
        Err(error) => Err(errors::to_python(error)),
    }
}

/// Takes an item if there is one, for that task.
pub fn get_now<'py>(handle: &Bound<'py, Handle>, task: u32) -> PyResult<Option<Bound<'py, PyAny>>> {
    let call = open_any(handle)?;
    let queue = call.queue();
    reserve::hold()?;
    tasks::note();
    let mut buffer = Buffer::default();
    let tried = {
        let _acting = tasks::act_for(handle.py(), queue, task)?;
        try_now(handle.py(), |wait| {
            unless_early(queue, Own::OfProcess, queue.get(&mut buffer, wait))
        })?
    };
    tried
        .done()
        .map(|delivery| send_receive::rebuild(handle, &call, delivery, &buffer))
        .transpose()
}

/// Finishes the item that a loop has in hand, and takes its next one if there is one.
pub fn get_next_now<'py>(
    handle: &Bound<'py, Handle>,
    call: &Call<'_>,
    in_hand: &mut Option<InHand>,
    task: u32,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let queue = call.queue();
    reserve::hold()?;
    tasks::note();
    let mut buffer = Buffer::default();
    let tried = {
        let _acting = tasks::act_for(handle.py(), queue, task)?;
        try_now(handle.py(), |wait| {
            unless_early(queue, Own::OfCaller, queue.get_next(in_hand, &mut buffer, wait))
        })?
    };
    tried
        .done()
        .map(|delivery| send_receive::rebuild(handle, call, delivery, &buffer))
        .transpose()
}

/// Takes the items that are there, `most` at most.
pub fn get_many_now<'py>(
    handle: &Bound<'py, Handle>,
    most: Option<usize>,
    task: u32,
) -> PyResult<Bound<'py, PyList>> {
    let call = open_any(handle)?;
    let queue = call.queue();
    tasks::note();
    batches::get_many_by(handle, &call, most, (task, Deadline::Briefly), |batch| {
        let _acting = tasks::act_for(handle.py(), queue, task)?;
        let tried = try_now(handle.py(), |wait| {
            unless_early(queue, Own::OfProcess, queue.get_many(batch, wait))
        })?;
        tried.done();
        Ok(())
    })
}

/// Takes an item for a lease if there is one, and appends it to `list`.
pub fn hold_now(handle: &Bound<'_, Handle>, list: &Bound<'_, PyList>) -> PyResult<bool> {
    let call = open_any(handle)?;
    let queue = call.queue();
    reserve::hold()?;
    tasks::note();
    let mut buffer = Buffer::default();
    let tried = {
        let _acting = tasks::act(handle.py(), queue)?;
        try_now(handle.py(), |wait| {
            unless_early(queue, Own::OfCaller, queue.hold(&mut buffer, wait))
        })?
    };
    match tried.done() {
        Some(taken) => leases::rebuild_into(list, handle, &call, &buffer, taken).map(|()| true),
        None => Ok(false),
    }
}

/// The same for the items that are there, `most` at most.
pub fn hold_many_now(handle: &Bound<'_, Handle>, most: usize, list: &Bound<'_, PyList>) -> PyResult<bool> {
    let call = open_any(handle)?;
    let queue = call.queue();
    tasks::note();
    leases::take_many_by(handle, &call, (most, list), |batch, held| {
        let _acting = tasks::act(handle.py(), queue)?;
        let tried = try_now(handle.py(), |wait| {
            unless_early(queue, Own::OfCaller, queue.hold_many(batch, held, wait))
        })?;
        tried.done();
        Ok(())
    })?;
    Ok(!list.is_empty())
}

/// Whether it is worth while to pickle an object: there is room for it, or the put raises.
pub fn is_worth_pickling(call: &Call<'_>) -> bool {
    let is_ready = call.queue().is_ready(Awaited::Room);
    if !is_ready {
        call.queue().was_in_vain(Awaited::Room);
        Tried::<()>::Early.done();
    }
    is_ready
}

/// Puts an object if there is room. It is not pickled if there is none.
pub fn put_if_room(handle: &Bound<'_, Handle>, object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let call = open_any(handle)?;
    Ok(is_worth_pickling(&call) && put_now(&call, object)?)
}

/// The same with an object that is pickled in any case.
pub fn put_now(call: &Call<'_>, object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = object.py();
    send_receive::send_by(call, object, |pieces, is_large| {
        let put = |wait: Wait<'_>| call.put(pieces, wait);
        let tried = match is_large {
            true => try_briefly(py, put),
            false => try_now(py, put),
        };
        Ok(tried?.done())
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

/// `None` if all items are done, or were at a moment since this has returned the number `since`. Begins to
/// acknowledge, as `join` does.
pub fn join_now(handle: &Bound<'_, Handle>, since: u64) -> PyResult<Option<u64>> {
    // 0 is no such number.
    let mut since = since.checked_sub(1);
    Handle::ask(handle, |queue| {
        let tried = try_now(handle.py(), |wait| queue.join_since(&mut since, wait))?;
        let number = since.map_or(0, |since| since.wrapping_add(1));
        Ok(if tried.done().is_some() {
            None
        } else {
            Some(number)
        })
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

/// The descriptor to wait with. `None` for now, while a stopped process holds the lock; and if the handle is
/// closed: the end of a call of what is left of the queue may close the descriptor.
pub fn descriptor(handle: &Bound<'_, Handle>, awaited: Awaited) -> PyResult<Option<RawFd>> {
    match Handle::call(handle)? {
        Some(call) => Ok(try_briefly(handle.py(), |wait| call.queue().watch_for(awaited, wait))?.done()),
        None => Ok(None),
    }
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
