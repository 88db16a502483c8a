//! Many objects at once: their way into a queue and out of it.

use std::sync::Arc;

use arrayvec::ArrayVec;
use penstock_core::{BATCH, Batch, Error, Own, Queue, SMALL, Taken, Wait};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyByteArray, PyBytes, PyDict, PyFrozenSet, PyList, PyRange, PySet, PyString, PyTuple, PyType,
};

use crate::codec::plain::Writer;
use crate::interpreter::errors;
use crate::interpreter::ffi::{new_list, new_tuple_of};
use crate::interpreter::gil::{Deadline, at_once};
use crate::interpreter::once::{name, once};
use crate::interpreter::reserve;
use crate::queue::attempt::{ask, attempt_or_wait, in_time, patiently, try_now};
use crate::queue::cooperation::Source;
use crate::queue::handle::{Call, Handle};
use crate::queue::send_receive::{self, trim_if_due, trim_if_ended};
use crate::queue::{awaiting, payload_buffer, tasks};

/// Small messages that go into the queue together.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    ends: ArrayVec<usize, BATCH>,
}

impl Pending {
    /// False if the message is too large to be one of many, or if there is no memory for it here.
    fn push(&mut self, pieces: &[&[u8]]) -> bool {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        if len > SMALL || self.bytes.try_reserve(len).is_err() {
            return false;
        }
        for piece in pieces {
            self.bytes.extend_from_slice(piece);
        }
        self.ends.push(self.bytes.len());
        true
    }

    /// Puts the messages and forgets them. Adds to `count` how many were put, also on an error.
    fn send(
        &mut self,
        py: Python<'_>,
        call: &Call<'_>,
        deadline: Deadline,
        count: &mut usize,
    ) -> PyResult<()> {
        self.send_by(count, |rest, count| {
            attempt_or_wait(py, deadline, None, Source::Room(call.queue()), |wait| {
                let (put, result) = call.put_many(rest, wait);
                *count += put;
                *rest = &rest[put..];
                result.map(|()| true)
            })
        })?;
        Ok(())
    }

    /// The same, as far as there is room now. False if there is not enough.
    fn send_some(&mut self, py: Python<'_>, call: &Call<'_>, count: &mut usize) -> PyResult<bool> {
        self.send_by(count, |rest, count| {
            let tried = try_now(py, |wait| {
                let (put, result) = call.put_many(rest, wait);
                *count += put;
                *rest = &rest[put..];
                result
            })?;
            Ok(tried.done().is_some())
        })
    }

    /// `put` puts messages and removes them from the slice; false ends the call.
    fn send_by(
        &mut self,
        count: &mut usize,
        mut put: impl FnMut(&mut &[&[u8]], &mut usize) -> PyResult<bool>,
    ) -> PyResult<bool> {
        let mut start = 0;
        let mut messages: ArrayVec<&[u8], BATCH> = ArrayVec::new();
        for &end in &self.ends {
            messages.push(&self.bytes[start..end]);
            start = end;
        }
        let mut rest = messages.as_slice();
        let mut has_room = true;
        while has_room && !rest.is_empty() {
            has_room = put(&mut rest, count)?;
        }
        drop(messages);
        self.bytes.clear();
        self.ends.clear();
        Ok(has_room)
    }
}

/// Whether the iterable is a built-in container, so that asking it for its next item runs no code of the
/// program.
fn is_container(objects: &Bound<'_, PyAny>) -> bool {
    let class = objects.get_type();
    let py = objects.py();
    let is = |known: &Bound<'_, PyType>| class.is(known);
    is(&py.get_type::<PyList>())
        || is(&py.get_type::<PyTuple>())
        || is(&py.get_type::<PyRange>())
        || is(&py.get_type::<PyDict>())
        || is(&py.get_type::<PySet>())
        || is(&py.get_type::<PyFrozenSet>())
        || is(&py.get_type::<PyString>())
        || is(&py.get_type::<PyBytes>())
        || is(&py.get_type::<PyByteArray>())
        || deque(py).is_ok_and(is)
}

fn deque(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static DEQUE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let import = || {
        let class = py.import("collections")?.getattr("deque")?;
        Ok(class.cast_into()?.unbind())
    };
    Ok(once(&DEQUE, py, import)?.bind(py))
}

/// Puts the objects of an iterable. An exception gets the attribute `items_put`.
pub fn put_many(call: &Call<'_>, objects: &Bound<'_, PyAny>, deadline: Deadline) -> PyResult<()> {
    let mut count = 0;
    let put = if is_container(objects) {
        put_together(call, objects, deadline, &mut count)
    } else {
        put_one_by_one(call, objects, deadline, &mut count)
    };
    put.inspect_err(|error| {
        let py = objects.py();
        // An exception whose class refuses attributes is raised without.
        let _ = error.value(py).setattr(name!(py, "items_put"), count);
    })
}

/// The iterable runs code of the program, which may wait for the answer to the item before. So each item is
/// in the queue before the next one is asked for.
fn put_one_by_one(
    call: &Call<'_>,
    objects: &Bound<'_, PyAny>,
    deadline: Deadline,
    count: &mut usize,
) -> PyResult<()> {
    for object in objects.try_iter()? {
        send_receive::put(call, &object?, deadline)?;
        *count += 1;
    }
    Ok(())
}

/// Puts up to [`BATCH`] plain objects at a time. Pickling any other object may run code of the program, so
/// the objects before it are put first.
fn put_together(
    call: &Call<'_>,
    objects: &Bound<'_, PyAny>,
    deadline: Deadline,
    count: &mut usize,
) -> PyResult<()> {
    let py = objects.py();
    let mut pending = Pending::default();
    let mut writer = Writer::default();
    for object in objects.try_iter()? {
        let object = match object {
            Ok(object) => object,
            Err(error) => {
                // Another thread has changed the container. The objects so far are put, if that needs no
                // waiting.
                let _ = pending.send(py, call, Deadline::Now, count);
                return Err(error);
            }
        };
        let plain = call.codec.write_plain(&object, &mut writer);
        if plain.is_some_and(|written| written.lend(|pieces| pending.push(pieces))) {
            if pending.ends.is_full() {
                pending.send(py, call, deadline, count)?;
            }
        } else {
            pending.send(py, call, deadline, count)?;
            send_receive::put(call, &object, deadline)?;
            *count += 1;
        }
    }
    pending.send(py, call, deadline, count)
}

/// Puts the objects of a tuple, from the one at that index on, as far as there is room now. Adds to `count`
/// how many were put, also on an error; those that were pickled in vain are pickled again by the next call.
/// Where there is no room, none is pickled.
pub fn put_some(
    call: &Call<'_>,
    objects: &Bound<'_, PyTuple>,
    start: usize,
    count: &mut usize,
) -> PyResult<()> {
    let py = objects.py();
    let mut pending = Pending::default();
    let mut writer = Writer::default();
    if !awaiting::is_worth_pickling(call) {
        return Ok(());
    }
    for index in start..objects.len() {
        let object = objects.get_borrowed_item(index)?;
        let plain = call.codec.write_plain(&object, &mut writer);
        let is_pending = plain.is_some_and(|written| written.lend(|pieces| pending.push(pieces)));
        if is_pending && !pending.ends.is_full() {
            continue;
        }
        if !pending.send_some(py, call, count)? {
            return Ok(());
        }
        if !is_pending {
            if !(awaiting::is_worth_pickling(call) && awaiting::put_now(call, &object)?) {
                return Ok(());
            }
            *count += 1;
        }
    }
    pending.send_some(py, call, count)?;
    Ok(())
}

/// Takes as many objects as are there, `most` at most, and waits for the first. If one cannot be rebuilt, its
/// error is raised with the attribute `items`: the list, with errors in the place of such objects. If the
/// reserve cannot be held, no item is taken. A large item for which there is no memory returns to the queue,
/// and the call takes no more.
pub fn get_many<'py>(
    handle: &Bound<'py, Handle>,
    call: &Call<'_>,
    most: Option<usize>,
    deadline: Deadline,
) -> PyResult<Bound<'py, PyList>> {
    let (py, queue) = (handle.py(), call.queue());
    let source = Source::items(queue, Own::OfProcess);
    get_many_by(handle, call, most, (0, Deadline::Now), |batch| {
        attempt_or_wait(py, deadline, None, source, |wait| queue.get_many(batch, wait))
    })
}

/// The same. The first of them are taken by `take_first`, which may leave the batch empty: then so is the
/// list.
pub fn get_many_by<'py>(
    handle: &Bound<'py, Handle>,
    call: &Call<'_>,
    most: Option<usize>,
    (task, patience): (u32, Deadline),
    take_first: impl FnOnce(&mut Batch) -> PyResult<()>,
) -> PyResult<Bound<'py, PyList>> {
    let py = handle.py();
    let queue = call.queue();
    let most = most.unwrap_or_else(|| ask(py, queue, Queue::len).max(1) as usize);
    let mut received = Received::new(py)?;
    let mut batch = received.prepare(most)?;
    take_first(&mut batch).inspect_err(|_| trim_if_ended(py, queue))?;
    loop {
        let trimmed = trim_if_due(py, queue);
        received.rebuild(handle, call, batch)?;
        if let Err(error) = trimmed {
            received.first_error.get_or_insert(error);
            break;
        }
        if received.count == 0 || received.count >= most || received.lacks_memory {
            break;
        }
        batch = match received.prepare(most - received.count) {
            Ok(batch) => batch,
            Err(_) => break, // what is there is delivered first
        };
        match more(py, queue, &mut batch, (task, patience)) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                received.first_error.get_or_insert(error);
                break;
            }
        }
    }
    received.finish()
}

/// Takes further items without waiting for them. False if there are none, if the queue was shut down, or if a
/// stopped process holds the lock.
fn more(
    py: Python<'_>,
    queue: &Arc<Queue>,
    batch: &mut Batch,
    (task, patience): (u32, Deadline),
) -> PyResult<bool> {
    let mut get_more = |wait: Wait<'_>| match queue.get_more(batch, wait) {
        // The next call says so.
        Err(Error::ShutDown) => Ok(false),
        taken => in_time(taken),
    };
    let _acting = tasks::act_for(py, queue, task)?;
    match at_once(&mut get_more) {
        // The attempt with the GIL held is bounded, and has not got the lock.
        Err(Error::Busy) => patiently(py, patience, |wait| match get_more(wait) {
            Err(Error::Busy) => Ok(false),
            taken => taken,
        }),
        taken => taken.map_err(errors::to_python),
    }
}

/// As many `None`s as a batch has items at most.
fn nones(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static NONES: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = || {
        let nones = (0..BATCH).map(|_| py.None().into_bound(py));
        Ok(new_tuple_of(py, nones)?.into_any().unbind())
    };
    Ok(once(&NONES, py, make)?.bind(py))
}

/// The objects that a `get_many` has taken so far.
struct Received<'py> {
    /// The objects, followed by `None`s: the places of the next.
    items: Bound<'py, PyList>,
    count: usize,
    first_error: Option<PyErr>,
    /// Whether items have returned to the queue for want of memory. The next batch would take them again.
    lacks_memory: bool,
}

impl<'py> Received<'py> {
    fn new(py: Python<'py>) -> PyResult<Received<'py>> {
        Ok(Received {
            items: new_list(py)?,
            count: 0,
            first_error: None,
            lacks_memory: false,
        })
    }

    /// Makes room for the next objects before they are taken, so that each can be delivered.
    fn prepare(&mut self, most: usize) -> PyResult<Batch> {
        let py = self.items.py();
        reserve::hold()?;
        let batch = Batch::with_room_for(most).map_err(|_| reserve::no_memory())?;
        let (len, needed) = (self.items.len(), self.count + most.min(BATCH));
        if needed == len + BATCH {
            self.items.set_slice(len, len, nones(py)?)?;
        } else {
            for _ in len..needed {
                self.items.append(py.None())?;
            }
        }
        Ok(batch)
    }

    fn rebuild(&mut self, handle: &Bound<'py, Handle>, call: &Call<'_>, batch: Batch) -> PyResult<()> {
        let py = handle.py();
        let mut entered = Ok(());
        batch.into_items(|taken| {
            let (object, can_return) = match taken {
                Taken::Copied(bytes) => (call.codec.load(py, bytes, Some(handle)), false),
                Taken::Lent(lent) => (payload_buffer::load(handle, call, lent), true),
            };
            let item = match object {
                Ok(object) => object,
                Err(error) => {
                    // An item that has returned to the queue is not among those taken.
                    let has_returned = can_return && reserve::is_no_memory(py, &error);
                    let value = error.value(py).clone().into_any();
                    self.first_error.get_or_insert(error);
                    if has_returned {
                        self.lacks_memory = true;
                        return;
                    }
                    value
                }
            };
            if let Err(error) = self.items.set_item(self.count, item) {
                entered = Err(error);
            }
            self.count += 1;
        });
        entered
    }

    /// The list, or the first error with the list as its attribute.
    fn finish(self) -> PyResult<Bound<'py, PyList>> {
        let py = self.items.py();
        // Deleting many at once may need memory. Deleting the last one does not.
        if self.items.del_slice(self.count, self.items.len()).is_err() {
            while self.items.len() > self.count {
                self.items.del_item(self.items.len() - 1)?;
            }
        }
        match self.first_error {
            None => Ok(self.items),
            Some(error) => {
                // An exception whose class refuses attributes is raised without.
                let _ = error.value(py).setattr(name!(py, "items"), self.items);
                Err(error)
            }
        }
    }
}
