//! Many objects at once: their way into a queue and out of it.

use penstock_core::{BATCH, Batch, Error, Queue, SMALL, Taken};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::errors;
use crate::handle::{Handle, Opened};
use crate::plain::Writer;
use crate::sync::name;
use crate::transfer::{Message, attempt, tidy};
use crate::unpickling::{load_lent, load_slice};
use crate::waiting::{Deadline, ask, at_once};

/// Small messages that go into the queue together.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Pending {
    /// False if the message is too large to be one of many.
    fn push(&mut self, pieces: &[&[u8]]) -> bool {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        if len > SMALL {
            return false;
        }
        for piece in pieces {
            self.bytes.extend_from_slice(piece);
        }
        self.ends.push(self.bytes.len());
        true
    }

    /// Puts the messages and forgets them. On an error `count` tells how many of them were put.
    fn send(&mut self, py: Python<'_>, queue: &Queue, deadline: Deadline, count: &mut usize) -> PyResult<()> {
        let mut start = 0;
        let mut messages = Vec::with_capacity(self.ends.len());
        for &end in &self.ends {
            messages.push(&self.bytes[start..end]);
            start = end;
        }
        let mut rest = messages.as_slice();
        while !rest.is_empty() {
            attempt(py, deadline, |wait| {
                let (put, result) = queue.put_many(rest, wait);
                *count += put;
                rest = &rest[put..];
                result
            })?;
        }
        self.bytes.clear();
        self.ends.clear();
        Ok(())
    }
}

/// Puts the objects of an iterable. Whatever is raised has the attribute `items_put`.
pub fn put_many(opened: &Opened, objects: &Bound<'_, PyAny>, deadline: Deadline) -> PyResult<()> {
    let mut count = 0;
    put_all(opened, objects, deadline, &mut count).inspect_err(|error| {
        let py = objects.py();
        // An exception that takes no attributes is raised as it is.
        let _ = error.value(py).setattr(name!(py, "items_put"), count);
    })
}

fn put_all(
    opened: &Opened,
    objects: &Bound<'_, PyAny>,
    deadline: Deadline,
    count: &mut usize,
) -> PyResult<()> {
    let py = objects.py();
    let queue = &opened.queue;
    let mut pending = Pending::default();
    let mut writer = Writer::default();
    for object in objects.try_iter()? {
        let message = match object.as_ref() {
            Ok(object) => Message::of(opened, object, &mut writer),
            Err(error) => Err(error.clone_ref(py)),
        };
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                // What came before it is put all the same.
                pending.send(py, queue, deadline, count)?;
                return Err(error);
            }
        };
        let is_pending = match &message {
            Message::Plain(written) => written.lend(|pieces| pending.push(pieces)),
            Message::Pickled(pickled) => pickled.lend(py, |pieces| pending.push(pieces)),
            Message::Array(_) | Message::Carrier(..) => false,
        };
        if !is_pending {
            pending.send(py, queue, deadline, count)?;
            message.send(py, opened, None, deadline)?;
            *count += 1;
        } else if pending.ends.len() == BATCH {
            pending.send(py, queue, deadline, count)?;
        }
    }
    pending.send(py, queue, deadline, count)
}

/// Takes as many objects as are there, `most` at most; waits for the first. If one cannot be rebuilt, its error is
/// raised, and has the attribute `items`, where errors stand in the place of such objects.
pub fn get_many<'py>(
    handle: &Bound<'py, Handle>,
    opened: &Opened,
    most: Option<usize>,
    deadline: Deadline,
) -> PyResult<Bound<'py, PyList>> {
    let py = handle.py();
    let queue = &opened.queue;
    let most = most.unwrap_or_else(|| ask(py, queue, Queue::len).max(1) as usize);
    let items = PyList::empty(py);
    let mut batch = Batch::with_room_for(most);
    attempt(py, deadline, |wait| queue.get_many(&mut batch, wait))?;
    loop {
        tidy(py, queue)?;
        append(handle, &items, batch)?;
        if items.len() >= most {
            break;
        }
        batch = Batch::with_room_for(most - items.len());
        // What is not to be had at once is not waited for.
        match at_once(|wait| queue.get_many(&mut batch, wait)) {
            Ok(()) => {}
            Err(Error::Empty | Error::Busy) => break, // with Patience::Try a stopped holder is Busy, too
            Err(error) => return Err(errors::to_python(error)),
        }
    }
    Ok(items)
}

fn append<'py>(handle: &Bound<'py, Handle>, items: &Bound<'py, PyList>, batch: Batch) -> PyResult<()> {
    let py = handle.py();
    let mut first_error: Option<PyErr> = None;
    let mut appended = Ok(());
    batch.into_items(|taken| {
        let object = match taken {
            Taken::Copied(bytes) => load_slice(handle, bytes),
            Taken::Lent(lent) => load_lent(handle, lent),
        };
        let item = object.unwrap_or_else(|error| {
            let value = error.value(py).clone().into_any();
            first_error.get_or_insert(error);
            value
        });
        if let Err(error) = items.append(item) {
            appended = Err(error);
        }
    });
    appended?;
    match first_error {
        None => Ok(()),
        Some(error) => {
            // An exception that takes no attributes is raised as it is.
            let _ = error.value(py).setattr(name!(py, "items"), items);
            Err(error)
        }
    }
}
