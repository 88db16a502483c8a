//! An object's way into a queue and out of it.

use std::os::fd::RawFd;
use std::time::Duration;

use penstock_core::{Buffer, Delivery, Error, InHand, Own, Queue, Ticket, Wait};
use pyo3::prelude::*;

use crate::codec::plain::Writer;
use crate::interpreter::gil::{Deadline, at_once};
use crate::interpreter::{errors, reserve};
use crate::queue::attempt::{ask, attempt_or_wait, is_worth_waiting, wait_for};
use crate::queue::cooperation::Source;
use crate::queue::handle::{Call, Handle};
use crate::queue::{payload_buffer, pins};

/// Where a message goes.
#[derive(Clone, Copy)]
pub enum Way {
    Queue,
    /// Into a connection, by its end of the line.
    Line(RawFd),
    /// Into the queue, where it is ready after that time.
    Later(Duration),
}

/// Puts an object that is ready after that time.
pub fn put_later(
    call: &Call<'_>,
    object: &Bound<'_, PyAny>,
    delay: Duration,
    deadline: Deadline,
) -> PyResult<()> {
    send_object(call, Way::Later(delay), object, deadline)
}

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
    send_object(call, Way::Queue, object, deadline)
}

/// Puts an object on its way.
#[inline]
pub fn send_object(call: &Call<'_>, way: Way, object: &Bound<'_, PyAny>, deadline: Deadline) -> PyResult<()> {
    let py = object.py();
    send_by(call, object, |pieces, is_large| {
        send(py, call, way, pieces, is_large, deadline).map(Some)
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
    way: Way,
    pieces: &[&[u8]],
    is_large: bool,
    deadline: Deadline,
) -> PyResult<Ticket> {
    let put = |wait: Wait<'_>| match way {
        Way::Queue => call.put(pieces, wait),
        Way::Line(end) => call.queue().put_at(end, pieces, wait),
        Way::Later(delay) => call.put_delayed(pieces, delay, wait),
    };
    let room = match way {
        Way::Queue => Source::Room(call.queue()),
        // What is delayed takes no room.
        Way::Line(_) | Way::Later(_) => Source::Thread,
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
    let mut buffer = Buffer::default();
    let delivery = attempt_or_wait(
        py,
        deadline,
        call.end_of_items(),
        Source::Items {
            queue,
            end,
            own: Own::OfProcess,
        },
        |wait| match end {
            None => queue.get(&mut buffer, wait),
            Some(end) => queue.get_at(end, &mut buffer, wait),
        },
    )
    .inspect_err(|_| trim_if_ended(py, queue))?;
    rebuild(handle, call, delivery, &buffer)
}

/// Takes the next item of a loop, which has `in_hand`. `None` if the queue was shut down and none is left.
pub fn get_next<'py>(
    handle: &Bound<'py, Handle>,
    call: &Call<'_>,
    in_hand: &mut Option<InHand>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = handle.py();
    let queue = call.queue();
    reserve::hold()?;
    let mut buffer = Buffer::default();
    let mut next = |wait: Wait<'_>| queue.get_next(in_hand, &mut buffer, wait);
    let source = Source::items(queue, Own::OfCaller);
    let tried = {
        let _acting = source.act(py)?;
        at_once(&mut next)
    };
    let taken = match tried {
        Err(error) if is_worth_waiting(&error, Deadline::Never) => {
            wait_for(py, Deadline::Never, call.end_of_items(), source, next)?
        }
        taken => taken,
    };
    let delivery = match taken {
        Err(Error::ShutDown) => {
            trim_if_ended(py, queue);
            return Ok(None);
        }
        taken => taken.map_err(errors::to_python)?,
    };
    rebuild(handle, call, delivery, &buffer).map(Some)
}

/// The object of an item that was taken.
#[inline(always)]
pub fn rebuild<'py>(
    handle: &Bound<'py, Handle>,
    call: &Call<'_>,
    delivery: Delivery,
    buffer: &Buffer,
) -> PyResult<Bound<'py, PyAny>> {
    trim_if_due(handle.py(), call.queue())?;
    match delivery {
        Delivery::Copied => call.codec.load(handle.py(), buffer.bytes(), Some(handle)),
        Delivery::Lent(lent) => payload_buffer::load(handle, call, lent),
    }
}

/// After a get that has found nothing. What was discarded has left memory, perhaps by the get's own section.
pub fn trim_if_ended(py: Python<'_>, queue: &Queue) {
    if queue.is_shut_down() {
        // Damage is noted in the segment, and the next operation reports it.
        let _ = trim_if_due(py, queue);
    }
}

pub fn trim_if_due(py: Python<'_>, queue: &Queue) -> PyResult<()> {
    if queue.is_trim_due() {
        py.detach(|| queue.trim_if_due()).map_err(errors::to_python)?;
    }
    Ok(())
}
