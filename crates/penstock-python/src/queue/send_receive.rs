//! An object's way into a queue and out of it.

use std::os::fd::RawFd;
use std::sync::Arc;

use penstock_core::{Buffer, Delivery, Error, Queue, Ticket, Wait};
use pyo3::prelude::*;

use crate::codec::pickling::Pickled;
use crate::codec::plain::{Writer, Written};
use crate::codec::{numpy, pickling, unpickling};
use crate::interpreter::gil::{Deadline, LARGE};
use crate::interpreter::{errors, reserve};
use crate::queue::attempt::{ask, attempt_until, patiently_until};
use crate::queue::handle::{Handle, Opened};
use crate::queue::pins;

/// Of a connection: the writing end of the pipe that leads there, and the reading end of the one that leads back, or -1.
pub type Ends = (RawFd, RawFd);

pub fn put(opened: &Opened, object: &Bound<'_, PyAny>, deadline: Deadline) -> PyResult<()> {
    if matches!(deadline, Deadline::Now) && ask(object.py(), &opened.queue, Queue::is_full) {
        return Err(errors::to_python(Error::Full)); // not worth pickling for
    }
    if let Some(ending) = opened.end_of_room() {
        ending.look(object.py())?;
    }
    let mut writer = Writer::default();
    Message::of(opened, object, &mut writer)?.send(object.py(), opened, None, deadline)
}

/// An object as bytes.
pub enum Message<'a> {
    Plain(Written<'a>),
    Array(numpy::Written),
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
        // Another pickler may want to see every object.
        if !picklers.other.is_there() {
            if let Some(written) = writer.write(object, picklers.protocol()) {
                return Ok(Message::Plain(written));
            }
            if picklers.protocol() >= pickling::BUFFERS {
                if let Some(written) = numpy::write(object) {
                    return Ok(Message::Array(written));
                }
            }
        }
        let (pickled, carried) = pins::collect(|| picklers.dump(object));
        let mut pickled = pickled?;
        if carried.is_empty() {
            return Ok(Message::Pickled(pickled));
        }
        pickled.pad(object.py(), pins::NOT_SMALL)?;
        Ok(Message::Carrier(pickled, carried))
    }

    /// Puts the message; into a connection by the end of its pipe.
    pub fn send(
        self,
        py: Python<'_>,
        opened: &Opened,
        ends: Option<Ends>,
        deadline: Deadline,
    ) -> PyResult<()> {
        match self {
            Message::Plain(written) => {
                let is_large = written.is_large();
                written.lend(|pieces| send(py, opened, ends, pieces, is_large, deadline))?;
            }
            Message::Array(written) => {
                let is_large = written.len() > LARGE;
                written.lend(|pieces| send(py, opened, ends, pieces, is_large, deadline))?;
            }
            Message::Pickled(pickled) => {
                let is_large = pickled.is_large();
                pickled.lend(py, |pieces| send(py, opened, ends, pieces, is_large, deadline))?;
            }
            Message::Carrier(pickled, carried) => {
                let is_large = pickled.is_large();
                let ticket = pickled.lend(py, |pieces| send(py, opened, ends, pieces, is_large, deadline))?;
                pins::pin(&opened.queue, ticket, carried);
            }
        }
        Ok(())
    }
}

pub fn send(
    py: Python<'_>,
    opened: &Opened,
    ends: Option<Ends>,
    pieces: &[&[u8]],
    is_large: bool,
    deadline: Deadline,
) -> PyResult<Ticket> {
    let put = |wait: Wait<'_>| match ends {
        None => opened.queue.put(pieces, wait),
        Some(ends) => opened.queue.put_at(ends, pieces, wait),
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
    reserve::keep()?;
    let mut buffer = Buffer::default();
    let delivery = attempt_until(py, deadline, opened.end_of_items(), |wait| match end {
        None => queue.get(&mut buffer, wait),
        Some(end) => queue.get_at(end, &mut buffer, wait),
    })?;
    tidy(py, queue)?;
    match delivery {
        Delivery::Copied => unpickling::load_slice(handle, buffer.bytes()),
        Delivery::Lent(lent) => unpickling::load_lent(handle, lent),
    }
}

pub fn tidy(py: Python<'_>, queue: &Queue) -> PyResult<()> {
    if queue.is_untidy() {
        py.detach(|| queue.tidy()).map_err(errors::to_python)?;
    }
    Ok(())
}
