//! One direction of a connection: a queue, and this process's end of the line beside it.

use std::os::fd::{IntoRawFd, RawFd};
use std::sync::OnceLock;

use penstock_core::{Buffer, Delivery, EndInUse, Error, LineEnd, Own, Queue};
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::codec::memory::Memory;
use crate::codec::{self, forking_pickler};
use crate::interpreter::ffi::new_bytes;
use crate::interpreter::gil::{Deadline, LARGE};
use crate::interpreter::{errors, reserve};
use crate::queue::attempt::{attempt_or_wait, patiently, wait_for};
use crate::queue::cooperation::Source;
use crate::queue::handle::{Call, Handle, Opened, is_closed};
use crate::queue::send_receive::{self, Way, trim_if_due};

/// Sends by the writing end of a line, or receives by the reading end. A Connection has one or two of them,
/// and owns the end's descriptor: of a duplex connection, one socket is the end of both.
///
/// The core counts the uses of the end, so another thread may close it while a call uses it by number.
#[pyclass(frozen, extends = Handle, module = "penstock._native")]
pub struct Channel {
    end: OnceLock<LineEnd>,
}

impl Channel {
    fn end(&self) -> PyResult<EndInUse> {
        let begun = self.end.get().and_then(|end| EndInUse::begin(*end));
        begun.ok_or_else(is_closed)
    }
}

/// The use of the end lasts as long as the call: while `send` pickles, another thread may close the end, and
/// the number does not become another connection's.
fn parts<'a>(channel: &'a Bound<'_, Channel>) -> PyResult<(Call<'a>, EndInUse)> {
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
        PyClassInitializer::from(Handle::new(args, kwargs)).add_subclass(Channel { end: OnceLock::new() })
    }

    /// Make the two ends of a new line, as descriptors that the caller owns: two sockets, or the reading and
    /// the writing end of a pipe.
    #[staticmethod]
    fn _make_line(is_duplex: bool) -> PyResult<(RawFd, RawFd)> {
        let [first, second] = Queue::make_line(is_duplex).map_err(errors::to_python)?;
        Ok((first.into_raw_fd(), second.into_raw_fd()))
    }

    /// Make the queue, which is new, that of a connection with these ends.
    fn _set_line(slf: &Bound<'_, Self>, reading: RawFd, writing: RawFd) -> PyResult<()> {
        let call = Handle::open_call(slf.as_super())?;
        call.queue().set_line(reading, writing).map_err(errors::to_python)
    }

    /// Use that end of the line from now on, until `_close_end`. The two channels of a duplex connection have
    /// the same one.
    fn _use_end(&self, end: RawFd) -> PyResult<()> {
        let end = LineEnd::keep(end).map_err(errors::to_python)?;
        let _ = self.end.set(end);
        Ok(())
    }

    /// Close the end: the descriptor is closed now, or by the last call that uses it. `is_receiving` says
    /// that it is the reading end. Safe to repeat, also by another thread, or by a child that a thread forks
    /// meanwhile: it has the end open, or closed, and never lost.
    fn _close_end(slf: &Bound<'_, Self>, is_receiving: bool) -> PyResult<()> {
        let Some(end) = slf.get().end.get().filter(|end| end.is_open()) else {
            return Ok(());
        };
        let called = match is_receiving {
            true => Handle::call(slf.as_super()),
            false => Ok(None),
        };
        let failed = match called {
            Ok(Some(call)) => {
                let queue = call.queue();
                slf.py().detach(|| queue.before_closing(end.fd()));
                Ok(())
            }
            called => called.map(drop),
        };
        // Also after an error: no later call would close it.
        end.close();
        failed
    }

    /// Call `function` with the end's descriptor, which no other thread closes meanwhile.
    fn _with_end<'py>(slf: &Bound<'py, Self>, function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let end = slf.get().end()?;
        function.call1((end.fd(),))
    }

    fn send(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        let (call, end) = parts(slf)?;
        send_receive::send_object(&call, Way::Line(end.fd()), obj, Deadline::Never)
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
        send_receive::send(
            slf.py(),
            &call,
            Way::Line(end.fd()),
            &pieces,
            is_large,
            Deadline::Never,
        )?;
        Ok(())
    }

    fn recv<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let (call, end) = parts(slf)?;
        send_receive::get(slf.as_super(), &call, Some(end.fd()), Deadline::Never)
    }

    /// The message as bytes.
    fn recv_bytes<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyBytes>> {
        let (call, end) = parts(slf)?;
        let (py, queue) = (slf.py(), call.queue());
        reserve::hold()?;
        let mut buffer = Buffer::default();
        let source = Source::Items {
            queue,
            end: Some(end.fd()),
            own: Own::OfProcess,
        };
        let delivery = attempt_or_wait(py, Deadline::Never, None, source, |wait| {
            queue.get_at(end.fd(), &mut buffer, wait)
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
        let source = Source::Items {
            queue,
            end: Some(end.fd()),
            own: Own::OfProcess,
        };
        let awaited = wait_for(py, deadline, None, source, |mut wait| {
            match queue.await_at(end.fd(), &mut wait) {
                Err(Error::Ended) => Ok(()),
                awaited => awaited,
            }
        })?;
        Ok(awaited.is_ok())
    }

    /// From now on the end is readable exactly while a message is there, or the end of all messages.
    fn watch(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (call, end) = parts(slf)?;
        let queue = call.queue();
        patiently(slf.py(), Deadline::Never, |wait| queue.watch_at(end.fd(), wait))
    }

    /// From now on the end is writable exactly while a send would not wait.
    fn watch_room(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (call, end) = parts(slf)?;
        let queue = call.queue();
        patiently(slf.py(), Deadline::Never, |wait| {
            queue.watch_room_at(end.fd(), wait)
        })
    }
}
