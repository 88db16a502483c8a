//! An object's way into a queue and out of it.

use std::cell::RefCell;

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
    let pickled = pickled?;
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

/// An item as it came out.
enum Taken<'py> {
    Copied(Bound<'py, PyBytes>),
    Lent(penstock_core::Lent),
}

impl<'py> Taken<'py> {
    fn new(py: Python<'py>, delivery: Delivery, buffer: &[u8; SMALL]) -> Taken<'py> {
        match delivery {
            Delivery::Copied(len) => Taken::Copied(PyBytes::new(py, &buffer[..len])),
            Delivery::Lent(lent) => Taken::Lent(lent),
        }
    }
}

thread_local! {
    /// Never borrowed while Python code can run.
    static BUFFER: RefCell<[u8; SMALL]> = const { RefCell::new([0; SMALL]) };
}

pub fn get<'py>(handle: &Bound<'py, Handle>, opened: &Opened, deadline: Deadline) -> PyResult<Bound<'py, PyAny>> {
    let py = handle.py();
    let queue = &opened.queue;
    let taken = BUFFER.with_borrow_mut(|buffer| {
        at_once(|wait| queue.get(buffer, wait)).map(|delivery| Taken::new(py, delivery, buffer))
    });
    let taken = match taken {
        Ok(taken) => taken,
        Err(error @ Error::Empty) if matches!(deadline, Deadline::Now) => return Err(errors::to_python(error)),
        Err(Error::Empty | Error::Busy) => {
            let mut buffer = [0; SMALL];
            let delivery = patiently(py, deadline, |wait| queue.get(&mut buffer, wait))?;
            Taken::new(py, delivery, &buffer)
        }
        Err(error) => return Err(errors::to_python(error)),
    };
    match taken {
        Taken::Copied(bytes) => unpickling::load(handle, &bytes),
        Taken::Lent(lent) => {
            let payload = Bound::new(py, Payload::new(lent))?;
            let object = unpickling::load(handle, &payload);
            payload.get().give_back(py);
            object
        }
    }
}
