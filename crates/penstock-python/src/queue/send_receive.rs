//! An object's way into a queue and out of it.

use std::os::fd::RawFd;

use penstock_core::{Buffer, Delivery, Error, Queue, Ticket, Wait};
use pyo3::prelude::*;

use crate::codec::plain::Writer;
use crate::interpreter::gil::Deadline;
use crate::interpreter::{errors, reserve};
use crate::queue::attempt::{ask, attempt_until, patiently_until};
use crate::queue::handle::{Handle, Opened};
use crate::queue::{payload_buffer, pins};

pub fn put(opened: &Opened, object: &Bound<'_, PyAny>, deadline: Deadline) -> PyResult<()> {
    if matches!(deadline, Deadline::Now) && ask(object.py(), &opened.queue, Queue::is_full) {
        return Err(errors::to_python(Error::Full)); // not worth pickling for
    }
    if let Some(ending) = opened.end_of_room() {
        ending.check(object.py())?;
    }
    send_object(opened, None, object, deadline)
}

/// Puts an object; into a connection by its end of the line.
#[inline]
pub fn send_object(
    opened: &Opened,
    end: Option<RawFd>,
    object: &Bound<'_, PyAny>,
    deadline: Deadline,
) -> PyResult<()> {
    let mut writer = Writer::default();
    let Some(plain) = opened.codec.write_plain(object, &mut writer) else {
        return send_encoded(opened, end, object, deadline);
    };
    plain.lend(|pieces| send(object.py(), opened, end, pieces, plain.is_large(), deadline))?;
    Ok(())
}

/// The same for an object that is not plain.
fn send_encoded(
    opened: &Opened,
    end: Option<RawFd>,
    object: &Bound<'_, PyAny>,
    deadline: Deadline,
) -> PyResult<()> {
    let py = object.py();
    let (message, carried) = pins::collect(|| opened.codec.encode(object));
    let mut message = message?;
    if !carried.is_empty() {
        pins::enlarge(py, &mut message)?;
    }
    let ticket = message.lend(py, |pieces| {
        send(py, opened, end, pieces, message.is_large(), deadline)
    })?;
    if !carried.is_empty() {
        pins::pin(&opened.queue, ticket, carried);
    }
    Ok(())
}

pub fn send(
    py: Python<'_>,
    opened: &Opened,
    end: Option<RawFd>,
    pieces: &[&[u8]],
    is_large: bool,
    deadline: Deadline,
) -> PyResult<Ticket> {
    let put = |wait: Wait<'_>| match end {
        None => opened.queue.put(pieces, wait),
        Some(end) => opened.queue.put_at(end, pieces, wait),
    };
    if is_large {
        return patiently_until(py, deadline, opened.end_of_room(), put);
    }
    attempt_until(py, deadline, opened.end_of_room(), put)
}

pub fn get<'py>(
    handle: &Bound<'py, Handle>,
    opened: &Opened,
    end: Option<RawFd>,
    deadline: Deadline,
) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let queue = &opened.queue;
    reserve::hold()?;
    let mut buffer = Buffer::default();
    let delivery = attempt_until(py, deadline, opened.end_of_items(), |wait| match end {
        None => queue.get(&mut buffer, wait),
        Some(end) => queue.get_at(end, &mut buffer, wait),
    })?;
    trim_if_due(py, queue)?;
    match delivery {
        Delivery::Copied => opened.codec.load(py, buffer.bytes(), Some(handle)),
        Delivery::Lent(lent) => payload_buffer::load(handle, opened, lent),
    }
}

pub fn trim_if_due(py: Python<'_>, queue: &Queue) -> PyResult<()> {
    if queue.is_trim_due() {
        py.detach(|| queue.trim_if_due()).map_err(errors::to_python)?;
    }
    Ok(())
}
