//! One direction of a connection: a queue, and this process's end of the pipe beside it.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use penstock_core::{Buffer, Delivery, Error};
use pyo3::exceptions::{PyBufferError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::codec::memory::Memory;
use crate::codec::{self, forking_pickler};
use crate::interpreter::ffi::new_bytes;
use crate::interpreter::gil::{Deadline, LARGE};
use crate::interpreter::{errors, reserve};
use crate::queue::attempt::{attempt_item, await_item, patiently};
use crate::queue::cooperation::Source;
use crate::queue::handle::{Call, Handle, Opened};
use crate::queue::send_receive::{self, trim_if_due};

/// Sends through the writing end of a pipe, or receives through the reading end. A Connection has one or two
/// of them.
#[pyclass(frozen, extends = Handle, module = "penstock._native")]
pub struct Channel {
    /// The end's descriptor, or -1.
    end: AtomicI32,
    /// Of a sending channel: the reading end of the pipe that leads back, which belongs to another channel,
    /// or -1.
    back: AtomicI32,
}

impl Channel {
    fn end(&self) -> PyResult<RawFd> {
        match self.end.load(Ordering::Relaxed) {
            -1 => Err(PyOSError::new_err("handle is closed")),
            end => Ok(end),
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let end = *self.end.get_mut();
        if end >= 0 {
            // SAFETY: `_hold` was given the descriptor to own, and `_let_go` was not called, so this is its
            // only owner.
            #[allow(unsafe_code)]
            drop(unsafe { OwnedFd::from_raw_fd(end) });
        }
    }
}

fn parts<'a>(channel: &'a Bound<'_, Channel>) -> PyResult<(Call<'a>, RawFd)> {
    let end = channel.get().end()?;
    Ok((Handle::open_call(channel.as_super())?, end))
}

/// A message as bytes: those that `send_bytes` was given, or a pickle.
fn received<'py>(
    channel: &Bound<'py, Channel>,
    opened: &Opened,
    message: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let py = channel.py();
    if !codec::is_sealed(message) {
        return new_bytes(py, codec::open_raw(message));
    }
    // It was sent as an object, with buffers beside its pickle, and the program expects a pickle.
    let object = opened.codec.load(py, message, Some(channel))?;
    let pickle = forking_pickler::standard(py)?.call_method1("dumps", (object,))?;
    pickle.call_method0("tobytes")?.cast_into().map_err(PyErr::from)
}

#[pymethods]
impl Channel {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Channel> {
        PyClassInitializer::from(Handle::new(args, kwargs)).add_subclass(Channel {
            end: AtomicI32::new(-1),
            back: AtomicI32::new(-1),
        })
    }

    /// Take over the descriptor of this end of the pipe. `is_new` says that the pipe was made for this queue
    /// just now.
    fn _hold(slf: &Bound<'_, Self>, end: RawFd, is_new: bool) -> PyResult<()> {
        // First, so that it is closed if anything fails.
        slf.get().end.store(end, Ordering::Relaxed);
        let call = Handle::open_call(slf.as_super())?;
        if is_new {
            call.queue().give_notifier(end).map_err(errors::to_python)?;
        }
        Ok(())
    }

    /// Tell a sending channel the reading end of the pipe that leads back.
    fn _pair(&self, back: RawFd) {
        self.back.store(back, Ordering::Relaxed);
    }

    /// Give the descriptor of the end back to the caller, or -1 if there is none.
    fn _let_go(&self) -> RawFd {
        self.end.swap(-1, Ordering::Relaxed)
    }

    #[getter]
    fn _end(&self) -> PyResult<RawFd> {
        self.end()
    }

    fn send(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        let (call, end) = parts(slf)?;
        let ends = (end, slf.get().back.load(Ordering::Relaxed));
        send_receive::send_object(&call, Some(ends), obj, Deadline::Never)
    }

    fn send_bytes(slf: &Bound<'_, Self>, buf: &Bound<'_, PyAny>) -> PyResult<()> {
        let (call, end) = parts(slf)?;
        let memory = Memory::of(buf)?
            .ok_or_else(|| PyBufferError::new_err("memoryview: underlying buffer is not C-contiguous"))?;
        let bytes = memory.bytes();
        // The first byte is read once, so the mark fits what is sent, even if another thread writes to the
        // buffer meanwhile.
        let first = bytes.first().copied();
        let first = first.as_slice();
        let pieces = [codec::raw_mark(first), first, &bytes[first.len()..]];
        let is_large = bytes.len() > LARGE;
        let ends = (end, slf.get().back.load(Ordering::Relaxed));
        send_receive::send(slf.py(), &call, Some(ends), &pieces, is_large, Deadline::Never)?;
        Ok(())
    }

    fn recv<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (call, end) = parts(slf)?;
        send_receive::get(slf.as_super(), &call, Some(end), Deadline::Never)
    }

    /// The message as bytes.
    fn recv_bytes<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyBytes>> {
        let (call, end) = parts(slf)?;
        let (py, queue) = (slf.py(), call.queue());
        reserve::hold()?;
        let mut buffer = Buffer::default();
        let source = Source {
            queue,
            end: Some(end),
        };
        let delivery = attempt_item(py, Deadline::Never, None, source, |wait| {
            queue.get_at(end, &mut buffer, wait)
        })?;
        trim_if_due(py, queue)?;
        match delivery {
            Delivery::Copied => reserve::with_reserve(py, || received(slf, &call, buffer.bytes())),
            Delivery::Lent(lent) => {
                let message = reserve::with_reserve(py, || received(slf, &call, lent.bytes()));
                if message
                    .as_ref()
                    .is_err_and(|error| reserve::is_no_memory(py, error))
                {
                    lent.undeliver();
                }
                py.detach(|| drop(lent));
                message
            }
        }
    }

    /// Whether a message is there, or the end of all messages, within `timeout` seconds (None for ever).
    fn poll(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let (call, end) = parts(slf)?;
        let (py, queue) = (slf.py(), call.queue());
        let deadline = Deadline::new(true, timeout)?;
        let source = Source {
            queue,
            end: Some(end),
        };
        let awaited = await_item(py, deadline, None, source, |mut wait| {
            match queue.await_at(end, &mut wait) {
                Err(Error::Ended) => Ok(()),
                awaited => awaited,
            }
        })?;
        Ok(awaited.is_ok())
    }

    /// The end's descriptor, or one in its place, readable exactly while a message is there, or the end of
    /// all messages.
    fn watch(slf: &Bound<'_, Self>) -> PyResult<RawFd> {
        let (call, end) = parts(slf)?;
        let queue = call.queue();
        patiently(slf.py(), Deadline::Never, |wait| queue.watch_at(end, wait))
    }
}
