//! An object's way into a queue and out of it.

use penstock_core::{Delivery, Error, SMALL};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::handle::{Handle, Opened};
use crate::lent::Payload;
use crate::waiting::{Deadline, at_once, patiently};
use crate::{carrying, errors, unpickling};

pub fn put(opened: &Opened, object: &Bound<'_, PyAny>, deadline: Deadline) -> PyResult<()> {
    let py = object.py();
    let Opened { queue, picklers } = opened;
    if matches!(deadline, Deadline::Now) && queue.is_full() {
        return Err(errors::to_python(Error::Full)); // not worth pickling for
    }
    let (pickled, carried) = carrying::collect(|| picklers.dump(object));
    let mut pickled = pickled?;
    if !carried.is_empty() {
        pickled.pad(py, carrying::NOT_SMALL);
    }
    let ticket = pickled.lend(py, |pieces| {
        if !pickled.is_large() {
            match at_once(|wait| queue.put(pieces, wait)) {
                Ok(ticket) => return Ok(ticket),
                Err(Error::Busy) => {}
                Err(Error::Full) if !matches!(deadline, Deadline::Now) => {}
                Err(error) => return Err(errors::to_python(error)),
            }
        }
        patiently(py, deadline, |wait| queue.put(pieces, wait))
    })?;
    if !carried.is_empty() {
        carrying::pin(queue, ticket, carried);
    }
    Ok(())
}

pub fn get<'py>(
    handle: &Bound<'py, Handle>,
    opened: &Opened,
    deadline: Deadline,
) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let queue = &opened.queue;
    let mut buffer = [0; SMALL];
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
        Delivery::Copied(len) => unpickling::load(handle, &PyBytes::new(py, &buffer[..len])),
        Delivery::Lent(lent) => {
            let payload = Bound::new(py, Payload::new(lent))?;
            let object = unpickling::load(handle, &payload);
            payload.get().give_back(py);
            object
        }
    }
}
