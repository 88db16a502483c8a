//! An object's way into a queue and out of it.

use std::sync::Arc;

use penstock_core::{Buffer, Delivery, Error, Lent, Queue, Ticket, Wait};
use pyo3::prelude::*;

use crate::handle::{Handle, Opened};
use crate::lent::Payload;
use crate::pickling::Pickled;
use crate::plain::{Writer, Written};
use crate::waiting::{Deadline, at_once, patiently};
use crate::{carrying, errors, pickling, plain, unpickling};

pub fn put(opened: &Opened, object: &Bound<'_, PyAny>, deadline: Deadline) -> PyResult<()> {
    if matches!(deadline, Deadline::Now) && opened.queue.is_full() {
        return Err(errors::to_python(Error::Full)); // not worth pickling for
    }
    let mut writer = Writer::default();
    Message::of(opened, object, &mut writer)?.send(object.py(), opened, deadline)
}

/// An object as bytes.
pub enum Message<'a> {
    Plain(Written<'a>),
    Pickled(Pickled),
    /// A pickle that names queues, which stay open here until it was received.
    Carrier(Pickled, Vec<Arc<Queue>>),
}

impl<'a> Message<'a> {
    #[inline]
    pub fn of(
        opened: &Opened,
        object: &'a Bound<'_, PyAny>,
        writer: &'a mut Writer,
    ) -> PyResult<Message<'a>> {
        let picklers = &opened.picklers;
        if pickling::is_standard(object.py()) {
            if let Some(written) = writer.write(object, picklers.protocol()) {
                return Ok(Message::Plain(written));
            }
        }
        let (pickled, carried) = carrying::collect(|| picklers.dump(object));
        let mut pickled = pickled?;
        if carried.is_empty() {
            return Ok(Message::Pickled(pickled));
        }
        pickled.pad(object.py(), carrying::NOT_SMALL);
        Ok(Message::Carrier(pickled, carried))
    }

    pub fn send(self, py: Python<'_>, Opened { queue, .. }: &Opened, deadline: Deadline) -> PyResult<()> {
        match self {
            Message::Plain(written) => {
                let is_large = written.is_large();
                written.lend(|pieces| send(py, queue, pieces, is_large, deadline))?;
            }
            Message::Pickled(pickled) => {
                let is_large = pickled.is_large();
                pickled.lend(py, |pieces| send(py, queue, pieces, is_large, deadline))?;
            }
            Message::Carrier(pickled, carried) => {
                let is_large = pickled.is_large();
                let ticket = pickled.lend(py, |pieces| send(py, queue, pieces, is_large, deadline))?;
                carrying::pin(queue, ticket, carried);
            }
        }
        Ok(())
    }
}

fn send(
    py: Python<'_>,
    queue: &Queue,
    pieces: &[&[u8]],
    is_large: bool,
    deadline: Deadline,
) -> PyResult<Ticket> {
    if is_large {
        return patiently(py, deadline, |wait| queue.put(pieces, wait));
    }
    attempt(py, deadline, |wait| queue.put(pieces, wait))
}

/// Tries with the GIL held, and if that is not enough, waits without it.
#[inline]
pub fn attempt<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    mut operation: impl FnMut(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    match at_once(&mut operation) {
        Ok(done) => Ok(done),
        Err(Error::Busy) => patiently(py, deadline, operation),
        Err(Error::Full | Error::Empty) if !matches!(deadline, Deadline::Now) => {
            patiently(py, deadline, operation)
        }
        Err(error) => Err(errors::to_python(error)),
    }
}

pub fn get<'py>(
    handle: &Bound<'py, Handle>,
    opened: &Opened,
    deadline: Deadline,
) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let queue = &opened.queue;
    let mut buffer = Buffer::default();
    let delivery = attempt(py, deadline, |wait| queue.get(&mut buffer, wait))?;
    tidy(py, queue)?;
    match delivery {
        Delivery::Copied => rebuild(handle, buffer.bytes()),
        Delivery::Lent(lent) => rebuild_lent(handle, lent),
    }
}

pub fn tidy(py: Python<'_>, queue: &Queue) -> PyResult<()> {
    if queue.is_untidy() {
        py.detach(|| queue.tidy()).map_err(errors::to_python)?;
    }
    Ok(())
}

#[inline]
pub fn rebuild<'py>(handle: &Bound<'py, Handle>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    match plain::read(py, bytes) {
        Some(object) => Ok(object),
        None => unpickling::load_slice(handle, bytes),
    }
}

pub fn rebuild_lent<'py>(handle: &Bound<'py, Handle>, lent: Lent) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    if let Some(object) = plain::read(py, lent.bytes()) {
        py.detach(|| drop(lent));
        return Ok(object);
    }
    let payload = Bound::new(py, Payload::new(lent))?;
    let object = unpickling::load(handle, &payload);
    payload.get().give_back(py);
    object
}
