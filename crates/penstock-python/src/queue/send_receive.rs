//! An object's way into a queue and out of it.

use std::os::fd::RawFd;

use penstock_core::{Buffer, Delivery, Error, Queue, Ticket, Wait};
use pyo3::prelude::*;

use crate::codec::plain::Writer;
use crate::interpreter::gil::Deadline;
use crate::interpreter::{errors, reserve};
use crate::queue::attempt::{ask, attempt_or_wait, wait_for};
use crate::queue::cooperation::Source;
use crate::queue::handle::{Call, Handle};
use crate::queue::{payload_buffer, pins, tasks};

pub fn put(call: &Call<'_>, object: &Bound<'_, PyAny>, deadline: Deadline) -> PyResult<()> {
    if matches!(deadline, Deadline::Now)
        && ask(object.py(), call.queue(), Queue::is_full)
        && !call.queue().is_shut_down()
    {
        return Err(errors::to_python(Error::Full)); // not worth pickling for
    }
    if let Some(ending) = call.end_of_room() {
        ending.check(object.py())?;
    }
    send_object(call, None, object, deadline)
}

/// Puts an object; into a connection by its end of the line.
#[inline]
pub fn send_object(
    call: &Call<'_>,
    end: Option<RawFd>,
    object: &Bound<'_, PyAny>,
    deadline: Deadline,
) -> PyResult<()> {
    let py = object.py();
    send_by(call, object, |pieces, is_large| {
        send(py, call, end, pieces, is_large, deadline).map(Some)
    })?;
    Ok(())
}

/// Writes an object's message, and puts it by `send`, which is told whether it is large. False if `send`
/// finds no room.
#[inline]
pub fn send_by(
    call: &Call<'_>,
    object: &Bound<'_, PyAny>,
    send: impl FnOnce(&[&[u8]], bool) -> PyResult<Option<Ticket>>,
) -> PyResult<bool> {
    let mut writer = Writer::default();
    let Some(plain) = call.codec.write_plain(object, &mut writer) else {
        return send_encoded(call, object, send);
    };
    Ok(plain.lend(|pieces| send(pieces, plain.is_large()))?.is_some())
}

/// The same for an object that is not plain.
fn send_encoded(
    call: &Call<'_>,
    object: &Bound<'_, PyAny>,
    send: impl FnOnce(&[&[u8]], bool) -> PyResult<Option<Ticket>>,
) -> PyResult<bool> {
    let py = object.py();
    let (message, carried) = pins::collect(|| call.codec.encode(object));
    let mut message = message?;
    if !carried.is_empty() {
        pins::enlarge(py, &mut message)?;
    }
    let Some(ticket) = message.lend(py, |pieces| send(pieces, message.is_large()))? else {
        return Ok(false);
    };
    if !carried.is_empty() {
        pins::pin(call.queue(), ticket, carried);
    }
    Ok(true)
}

pub fn send(
    py: Python<'_>,
    call: &Call<'_>,
    end: Option<RawFd>,
    pieces: &[&[u8]],
    is_large: bool,
    deadline: Deadline,
) -> PyResult<Ticket> {
    let put = |wait: Wait<'_>| match end {
        None => call.put(pieces, wait),
        Some(end) => call.queue().put_at(end, pieces, wait),
    };
    let room = match end {
        None => Source::Room(call.queue()),
        Some(_) => Source::Thread,
    };
    if is_large {
        return wait_for(py, deadline, call.end_of_room(), room, put)?.map_err(errors::to_python);
    }
    attempt_or_wait(py, deadline, call.end_of_room(), room, put)
}

pub fn get<'py>(
    handle: &Bound<'py, Handle>,
    call: &Call<'_>,
    end: Option<RawFd>,
    deadline: Deadline,
) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let queue = call.queue();
    reserve::hold()?;
    let _acting = tasks::act(py, queue)?;
    let mut buffer = Buffer::default();
    let delivery = attempt_or_wait(
        py,
        deadline,
        call.end_of_items(),
        Source::Items { queue, end },
        |wait| match end {
            None => queue.get(&mut buffer, wait),
            Some(end) => queue.get_at(end, &mut buffer, wait),
        },
    )?;
    rebuild(handle, call, &buffer, delivery)
}

/// The object of an item that was taken.
pub fn rebuild<'py>(
    handle: &Bound<'py, Handle>,
    call: &Call<'_>,
    buffer: &Buffer,
    delivery: Delivery,
) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    trim_if_due(py, call.queue())?;
    match delivery {
        Delivery::Copied => call.codec.load(py, buffer.bytes(), Some(handle)),
        Delivery::Lent(lent) => payload_buffer::load(handle, call, lent),
    }
}

pub fn trim_if_due(py: Python<'_>, queue: &Queue) -> PyResult<()> {
    if queue.is_trim_due() {
        py.detach(|| queue.trim_if_due()).map_err(errors::to_python)?;
    }
    Ok(())
}
