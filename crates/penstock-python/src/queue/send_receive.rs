//! An object's way into a queue and out of it.

use std::os::fd::RawFd;
use std::time::Duration;

use penstock_core::{Buffer, Delivery, Error, Queue, Ticket, Wait};
use pyo3::prelude::*;

use crate::codec::plain::Writer;
use crate::interpreter::gil::Deadline;
use crate::interpreter::{errors, reserve};
use crate::queue::attempt::{ask, attempt_item, attempt_until, patiently_until};
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
    let mut writer = Writer::default();
    let Some(plain) = call.codec.write_plain(object, &mut writer) else {
        return send_encoded(call, way, object, deadline);
    };
    plain.lend(|pieces| send(object.py(), call, way, pieces, plain.is_large(), deadline))?;
    Ok(())
}

/// The same for an object that is not plain.
fn send_encoded(call: &Call<'_>, way: Way, object: &Bound<'_, PyAny>, deadline: Deadline) -> PyResult<()> {
    let py = object.py();
    let (message, carried) = pins::collect(|| call.codec.encode(object));
    let mut message = message?;
    if !carried.is_empty() {
        pins::enlarge(py, &mut message)?;
    }
    let ticket = message.lend(py, |pieces| {
        send(py, call, way, pieces, message.is_large(), deadline)
    })?;
    if !carried.is_empty() {
        pins::pin(call.queue(), ticket, carried);
    }
    Ok(())
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
    if is_large {
        return patiently_until(py, deadline, call.end_of_room(), put);
    }
    attempt_until(py, deadline, call.end_of_room(), put)
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
    let delivery = attempt_item(
        py,
        deadline,
        call.end_of_items(),
        Source { queue, end },
        |wait| match end {
            None => queue.get(&mut buffer, wait),
            Some(end) => queue.get_at(end, &mut buffer, wait),
        },
    )?;
    trim_if_due(py, queue)?;
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
