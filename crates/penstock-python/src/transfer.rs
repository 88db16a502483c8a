//! An object's way into a queue and out of it.

use penstock_core::{Buffer, Delivery, Error, Queue, Ticket};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::handle::{Handle, Opened};
use crate::lent::Payload;
use crate::waiting::{Deadline, at_once, patiently};
use crate::{carrying, errors, plain, unpickling};

pub fn put(opened: &Opened, object: &Bound<'_, PyAny>, deadline: Deadline) -> PyResult<()> {
    let py = object.py();
    let Opened { queue, picklers } = opened;
    if matches!(deadline, Deadline::Now) && queue.is_full() {
        return Err(errors::to_python(Error::Full)); // not worth pickling for
    }
    if let Some(written) = plain::write(object, picklers.protocol()) {
        let is_large = written.is_large();
        return written
            .lend(|pieces| send(py, queue, pieces, is_large, deadline))
            .map(drop);
    }
    let (pickled, carried) = carrying::collect(|| picklers.dump(object));
    let mut pickled = pickled?;
    if !carried.is_empty() {
        pickled.pad(py, carrying::NOT_SMALL);
    }
    let ticket = pickled.lend(py, |pieces| send(py, queue, pieces, pickled.is_large(), deadline))?;
    if !carried.is_empty() {
        carrying::pin(queue, ticket, carried);
    }
    Ok(())
}

fn send(
    py: Python<'_>,
    queue: &Queue,
    pieces: &[&[u8]],
    is_large: bool,
    deadline: Deadline,
) -> PyResult<Ticket> {
    if !is_large {
        match at_once(|wait| queue.put(pieces, wait)) {
            Ok(ticket) => return Ok(ticket),
            Err(Error::Busy) => {}
            Err(Error::Full) if !matches!(deadline, Deadline::Now) => {}
            Err(error) => return Err(errors::to_python(error)),
        }
    }
    patiently(py, deadline, |wait| queue.put(pieces, wait))
}

pub fn get<'py>(
    handle: &Bound<'py, Handle>,
    opened: &Opened,
    deadline: Deadline,
) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let queue = &opened.queue;
    let mut buffer = Buffer::default();
    let delivery = match at_once(|wait| queue.get(&mut buffer, wait)) {
        Ok(delivery) => delivery,
        Err(Error::Busy) => patiently(py, deadline, |wait| queue.get(&mut buffer, wait))?,
        Err(Error::Empty) if !matches!(deadline, Deadline::Now) => {
            patiently(py, deadline, |wait| queue.get(&mut buffer, wait))?
        }
        Err(error) => return Err(errors::to_python(error)),
    };
    if queue.is_untidy() {
        py.detach(|| queue.tidy()).map_err(errors::to_python)?;
    }
    match delivery {
        Delivery::Copied => match plain::read(py, buffer.bytes()) {
            Some(object) => Ok(object),
            None => unpickling::load(handle, &PyBytes::new(py, buffer.bytes())),
        },
        Delivery::Lent(lent) => {
            if let Some(object) = plain::read(py, lent.bytes()) {
                py.detach(|| drop(lent));
                return Ok(object);
            }
            let payload = Bound::new(py, Payload::new(lent))?;
            let object = unpickling::load(handle, &payload);
            payload.get().give_back(py);
            object
        }
    }
}
