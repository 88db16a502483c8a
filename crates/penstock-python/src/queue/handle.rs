//! What the queue classes and connections share: opening, closing, passing to other processes, figures.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use penstock_core::{
    DeadLetter, Death, Ended, Error, Id, LetterTicket, OpenHandle, Own, Queue, Remainder, Ticket, Wait,
};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyGenericAlias, PyList, PyTuple, PyType};

use crate::codec::Codec;
use crate::codec::forking_pickler::Home;
use crate::interpreter::gil::Deadline;
use crate::interpreter::once::lock;
use crate::interpreter::{errors, ffi, reserve};
use crate::queue::attempt::{Ending, patiently, wait_for, was_stuck};
use crate::queue::channel::Channel;
use crate::queue::classes::{QueueBase, at_most};
use crate::queue::closable::{Closable, Using};
use crate::queue::cooperation::Source;
use crate::queue::options::Options;
use crate::queue::{awaiting, cooperation, iteration, pins, process_exit, proof, send_receive, tasks};

/// One Python object of a queue. The handles of a queue in one process share the core's `Queue`.
#[pyclass(frozen, subclass, module = "penstock._native")]
pub struct Handle {
    opened: OnceLock<Box<Opened>>,
    /// The process that closed this handle, or 0. A child that inherits a handle which was closed before its
    /// first put may use it, as with `multiprocessing`.
    closed_by: AtomicU32,
}

/// A queue that a handle has opened. It goes when the handle was closed and no call uses it any more.
pub struct Opened {
    held: Closable<Held>,
    id: Id,
    pub codec: Codec,
    /// Whether an item of this handle has come into the queue. With `multiprocessing` it has a thread then,
    /// which closes the pipe when the queue is closed.
    has_put: AtomicBool,
    /// What is left of the queue after a close, for the calls that a closed queue answers.
    remainder: Mutex<Option<Arc<Remainder>>>,
    /// Tells whether no process is left on the other side; see `_end_when`.
    has_ended: OnceLock<Py<PyAny>>,
    /// What takes the place of this one: the queue of another call of `__init__()`, or the same queue as a
    /// child has opened it anew.
    next: OnceLock<Box<Opened>>,
}

/// A handle's part in its queue.
struct Held {
    queue: ManuallyDrop<Arc<Queue>>,
    remainder: Arc<Remainder>,
    /// Whether it counts as a handle of this process. What a fork has left behind does not, once another has
    /// taken its place.
    is_counted: AtomicBool,
}

impl Held {
    fn new(queue: Arc<Queue>, remainder: Arc<Remainder>) -> Held {
        Held {
            queue: ManuallyDrop::new(queue),
            remainder,
            is_counted: AtomicBool::new(true),
        }
    }

    /// One that can take its place. Of the two one counts at the end: see [`discount`](Self::discount).
    fn another(&self) -> Held {
        Held::new(Arc::clone(&self.queue), Arc::clone(&self.remainder))
    }

    /// Its drop closes nothing: the other one counts.
    fn discount(&self) {
        self.is_counted.store(false, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: this destructor alone takes it.
        #[allow(unsafe_code)]
        let queue = unsafe { ManuallyDrop::take(&mut self.queue) };
        if *self.is_counted.get_mut() {
            self.remainder.close(queue);
        }
    }
}

/// An opened queue while a call uses it.
pub struct Call<'a> {
    opened: &'a Opened,
    held: Using<'a, Held>,
}

impl Call<'_> {
    #[inline]
    pub fn queue(&self) -> &Arc<Queue> {
        &self.held.value().queue
    }

    /// The puts into a queue go through these two, so that the handle knows that it has put something.
    #[inline]
    pub fn put(&self, pieces: &[&[u8]], wait: Wait<'_>) -> Result<Ticket, Error> {
        let put = self.queue().put(pieces, wait);
        self.note_put(put.is_ok());
        put
    }

    pub fn put_delayed(&self, pieces: &[&[u8]], delay: Duration, wait: Wait<'_>) -> Result<Ticket, Error> {
        let put = self.queue().put_delayed(pieces, delay, wait);
        self.note_put(put.is_ok());
        put
    }

    #[inline]
    pub fn put_many(&self, messages: &[&[u8]], wait: Wait<'_>) -> (usize, Result<(), Error>) {
        let (count, result) = self.queue().put_many(messages, wait);
        self.note_put(count > 0);
        (count, result)
    }

    #[inline]
    fn note_put(&self, has_put: bool) {
        if has_put {
            self.opened.has_put.store(true, Ordering::Relaxed);
        }
    }
}

impl Deref for Call<'_> {
    type Target = Opened;
    #[inline]
    fn deref(&self) -> &Opened {
        self.opened
    }
}

pub fn is_closed() -> PyErr {
    PyOSError::new_err("handle is closed")
}

impl Opened {
    #[inline]
    fn last(&self) -> &Opened {
        let mut last = self;
        while let Some(next) = last.next.get() {
            last = next;
        }
        last
    }

    /// The name of the queue, which it has after a close, too.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// Whether this handle, in this process or in the one that it was inherited from, has put anything.
    pub fn has_put(&self) -> bool {
        self.has_put.load(Ordering::Relaxed)
    }

    /// The end of a wait for items.
    pub fn end_of_items(&self) -> Option<Ending<'_>> {
        let has_ended = self.has_ended.get()?;
        Some(Ending {
            has_ended,
            raise: || errors::to_python(Error::Ended),
        })
    }

    /// The end of a wait for room.
    pub fn end_of_room(&self) -> Option<Ending<'_>> {
        let has_ended = self.has_ended.get()?;
        Some(Ending {
            has_ended,
            raise: || errors::to_python(Error::Broken),
        })
    }
}

impl Handle {
    pub fn opened(&self) -> PyResult<&Opened> {
        self.opened
            .get()
            .map(|first| first.last())
            .ok_or_else(|| PyRuntimeError::new_err("__init__() of the queue was not called"))
    }

    /// Begins a call. `None` if the handle is closed, here or in the process that it was inherited from.
    #[inline]
    pub fn call<'a>(slf: &'a Bound<'_, Handle>) -> PyResult<Option<Call<'a>>> {
        let opened = slf.get().opened()?;
        match opened.held.enter() {
            Some(held) => Ok(Some(Call { opened, held })),
            None => Handle::call_in_child(slf),
        }
    }

    /// The first call in a forked child, if its parent was in the middle of one.
    ///
    /// What takes the place of the handle's part is whole before it does, and the former part counts until
    /// then: a call that fails halfway leaves the handle as it was. Of several threads one comes first, and
    /// the others find its part.
    #[cold]
    fn call_in_child<'a>(slf: &'a Bound<'_, Handle>) -> PyResult<Option<Call<'a>>> {
        let former = slf.get().opened()?;
        if let Some(left) = former.held.left_behind() {
            let codec = Handle::codec(slf, former.codec.protocol())?;
            let next = Opened {
                id: former.id,
                held: Closable::new(left.another()),
                codec,
                has_put: AtomicBool::new(former.has_put()),
                remainder: Mutex::new(None),
                has_ended: match former.has_ended.get() {
                    Some(has_ended) => OnceLock::from(has_ended.clone_ref(slf.py())),
                    None => OnceLock::new(),
                },
                next: OnceLock::new(),
            };
            // The one that is not in place, or no more, is dropped without closing anything.
            match former.next.set(Box::new(next)) {
                Ok(()) => {
                    left.discount();
                    slf.get().closed_by.store(0, Ordering::Relaxed);
                }
                Err(late) => {
                    if let Some(held) = late.held.enter() {
                        held.value().discount();
                    }
                }
            }
        }
        let opened = slf.get().opened()?;
        Ok(opened.held.enter().map(|held| Call { opened, held }))
    }

    /// Begins a call that a closed handle does not answer.
    pub fn open_call<'a>(slf: &'a Bound<'_, Handle>) -> PyResult<Call<'a>> {
        Handle::call(slf)?.ok_or_else(is_closed)
    }

    /// Runs `operation` on the queue, also if the handle is closed: then over what is left of it.
    pub fn ask<T>(
        slf: &Bound<'_, Handle>,
        operation: impl FnOnce(&Arc<Queue>) -> PyResult<T>,
    ) -> PyResult<T> {
        if let Some(call) = Handle::call(slf)? {
            return operation(call.queue());
        }
        let remainder = lock(&slf.get().opened()?.remainder)
            .clone()
            .ok_or_else(is_closed)?;
        let queue = remainder.reopen().map_err(errors::to_python)?;
        let held = Held::new(queue, remainder);
        operation(&held.queue)
    }

    /// Opens the queue anew, in a child that has inherited this handle closed.
    #[cold]
    pub fn open_in_child(slf: &Bound<'_, Handle>) -> PyResult<()> {
        let opened = slf.get().opened()?;
        let remainder = lock(&opened.remainder).clone().ok_or_else(is_closed)?;
        let queue = remainder.reopen().map_err(errors::to_python)?;
        Handle::hold(slf, Held::new(queue, remainder), opened.codec.protocol())
    }

    fn hold_if_any(slf: &Bound<'_, Handle>, opened: Option<OpenHandle>, protocol: u8) -> PyResult<bool> {
        let Some((queue, remainder)) = opened else {
            return Ok(false);
        };
        Handle::hold(slf, Held::new(queue, remainder), protocol)?;
        Ok(true)
    }

    /// Opens a new queue, which no other thread has yet.
    fn open(slf: &Bound<'_, Handle>, queue: Arc<Queue>, protocol: u8) -> PyResult<()> {
        let remainder = queue.open_handle().map_err(errors::to_python)?;
        Handle::hold(slf, Held::new(queue, remainder), protocol)
    }

    fn codec(slf: &Bound<'_, Handle>, protocol: u8) -> PyResult<Codec> {
        let home = match slf.is_instance_of::<Channel>() {
            true => Home::Connection,
            false => Home::Queues,
        };
        let codec = Codec::new(slf.py(), home, protocol)?;
        reserve::hold()?;
        Ok(codec)
    }

    fn hold(slf: &Bound<'_, Handle>, held: Held, protocol: u8) -> PyResult<()> {
        let codec = Handle::codec(slf, protocol)?;
        process_exit::remember(&held.queue);
        cooperation::find_gevent(slf.py())?;
        tasks::note_if_loop_runs(slf.py())?;
        pins::let_go();
        let handle = slf.get();
        let mut opened = Opened {
            id: held.queue.id(),
            held: Closable::new(held),
            codec,
            has_put: AtomicBool::new(false),
            remainder: Mutex::new(None),
            has_ended: OnceLock::new(),
            next: OnceLock::new(),
        };
        // Another thread may do the same at once. Then one of the two comes first.
        let former = loop {
            let former = handle.opened.get().map(|first| first.last());
            let place = former.map_or(&handle.opened, |former| &former.next);
            match place.set(Box::new(opened)) {
                Ok(()) => break former,
                Err(again) => opened = *again,
            }
        };
        handle.closed_by.store(0, Ordering::Relaxed);
        if let Some(former) = former {
            former.held.close();
            let left = lock(&former.remainder).take();
            drop(left);
        }
        Ok(())
    }

    pub fn is_closed_here(&self) -> bool {
        let closer = self.closed_by.load(Ordering::Relaxed);
        closer != 0 && closer == std::process::id()
    }

    pub fn was_closed(&self) -> bool {
        self.closed_by.load(Ordering::Relaxed) != 0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        pins::let_go();
    }
}

/// A dead letter as Python gets it.
type Letter<'py> = (
    u32,
    u64,
    u64,
    u32,
    Bound<'py, PyBytes>,
    Bound<'py, PyBytes>,
    Vec<Obituary>,
    bool,
);

/// A death: the pid, the status that the process exited with, the signal that killed it, and when.
type Obituary = (u32, Option<u8>, Option<u8>, u32);

fn described(death: &Death) -> Obituary {
    let (status, signal) = match death.ended {
        Ended::Exited(status) => (Some(status), None),
        Ended::Killed(signal) => (None, Some(signal)),
        Ended::Unknown => (None, None),
    };
    (death.pid, status, signal, death.at)
}

fn parse_id(id: &[u8]) -> PyResult<Id> {
    id.try_into()
        .map_err(|_| PyValueError::new_err("the id of a queue has 16 bytes"))
}

#[pymethods]
impl Handle {
    /// Accepts all arguments and ignores them: a subclass's `__init__` may have its own.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    pub fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Handle {
        Handle {
            opened: OnceLock::new(),
            closed_by: AtomicU32::new(0),
        }
    }

    #[classmethod]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyGenericAlias>> {
        PyGenericAlias::new(cls.py(), cls, item)
    }

    /// Makes a new queue.
    fn _create(slf: &Bound<'_, Self>, options: &Options, protocol: u8) -> PyResult<()> {
        let queue = Queue::create(&options.queue).map_err(errors::to_python)?;
        queue.set_retry(options.retry);
        Handle::open(slf, queue, protocol)
    }

    /// Makes two new queues in one memory file, this one and another's.
    fn _create_pair(
        slf: &Bound<'_, Self>,
        other: &Bound<'_, Handle>,
        options: &Options,
        protocol: u8,
    ) -> PyResult<()> {
        let [first, second] = Queue::create_pair(&options.queue).map_err(errors::to_python)?;
        Handle::open(slf, first, protocol)?;
        Handle::open(other, second, protocol)
    }

    /// Uses the queue of that id if this process has it already.
    fn _adopt(slf: &Bound<'_, Self>, id: &[u8], protocol: u8) -> PyResult<bool> {
        let opened = Queue::open_handle_by_id(parse_id(id)?).map_err(errors::to_python)?;
        Handle::hold_if_any(slf, opened, protocol)
    }

    /// Opens the queue behind a descriptor, which this takes over. False if it is another queue's.
    fn _attach(slf: &Bound<'_, Self>, fd: RawFd, id: &[u8], protocol: u8) -> PyResult<bool> {
        // SAFETY: the caller hands over a descriptor that it owns.
        #[allow(unsafe_code)]
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let id = parse_id(id)?;
        let opened = Queue::attach_handle(fd, id).map_err(errors::to_python)?;
        Handle::hold_if_any(slf, opened, protocol)
    }

    #[getter]
    fn _id<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, self.opened()?.id()))
    }

    #[getter]
    fn _protocol(&self) -> PyResult<u8> {
        Ok(self.opened()?.codec.protocol())
    }

    /// The queue's descriptor. It stays this process's.
    #[getter]
    fn _fd(slf: &Bound<'_, Self>) -> PyResult<RawFd> {
        let call = Handle::open_call(slf)?;
        let fd = call.queue().fd().map_err(errors::to_python)?.as_raw_fd();
        Ok(fd)
    }

    /// Duplicates another process's descriptor, for a process that has no /proc.
    #[staticmethod]
    fn _duplicate_of(pid: u32, fd: u32) -> PyResult<RawFd> {
        Ok(Queue::duplicate_of(pid, fd)
            .map_err(errors::to_python)?
            .into_raw_fd())
    }

    /// To be called when the handle is pickled into a message.
    fn _carried(slf: &Bound<'_, Self>) -> PyResult<()> {
        pins::pickled(Handle::open_call(slf)?.queue())
    }

    /// Close this handle, for this process: it puts and gets no more. What was put stays for the others.
    ///
    /// With its last handle a process gives back the queue's descriptors, and is no participant any more.
    /// Arrays that it has received, items that it has not finished, and calls of other threads keep what they
    /// need of that, and the last of them gives it back. A `Queue` or `JoinableQueue` keeps the mapping of
    /// its memory as long as this object lives, because it still tells its size and counts what is done.
    ///
    /// Does not wait, except 10 ms at most if another process is stopped (SIGSTOP) in the middle of a change.
    ///
    /// >>> import penstock
    /// >>> q = penstock.Queue()
    /// >>> q.close()
    /// >>> q.get()
    /// Traceback (most recent call last):
    ///     ...
    /// ValueError: Queue ... is closed
    fn close(slf: &Bound<'_, Self>) {
        let call = Handle::call(slf);
        slf.get().closed_by.store(std::process::id(), Ordering::Relaxed);
        if let Ok(Some(call)) = call {
            if slf.is_instance_of::<QueueBase>() {
                *lock(&call.opened.remainder) = Some(Arc::clone(&call.held.value().remainder));
            }
            // The end of this call, or of another thread's, gives the queue back.
            call.opened.held.close();
        }
        pins::let_go();
    }

    /// Return a descriptor for `select`, `poll` and `selectors`, and for `multiprocessing.connection.wait`,
    /// which is readable exactly while a `get(block=False)` would not raise `Empty`: it finds an item, or the
    /// queue was shut down and no item is delayed. The descriptor belongs to the queue: only wait with it.
    /// Another consumer may take the item first, so a `get` after the wait may still find none. So call
    /// `get(block=False)`: after a shutdown of a `JoinableQueue` another `get` may wait for an item that
    /// comes back.
    ///
    /// From the first call on, until this process closes the queue, a put into the empty queue and a get that
    /// empties it make one or two system calls more, in all processes. Does not wait for items.
    ///
    /// If a process is killed or stopped within about a microsecond of its `put` or `shutdown`, or a worker
    /// is killed with items that come back, the descriptor may stay unreadable until a process calls the
    /// queue. So does that of a queue whose delayed item is due. So poll with a time-out, and call `qsize()`
    /// then.
    /// A put with a delay may make it readable once too often: a `get(block=False)` ends that.
    ///
    /// Raises `OSError` if this handle was closed, if the system has no descriptor, if more processes use the
    /// queue than there is room for, or if another process waits with a descriptor that this one cannot open
    /// (in another pid namespace, or without /proc); and `CorruptQueueError`.
    ///
    /// >>> import penstock, select
    /// >>> q = penstock.Queue()
    /// >>> select.select([q], [], [], 0)[0]
    /// []
    /// >>> q.put("a")
    /// >>> select.select([q], [], [], 0)[0] == [q]
    /// True
    fn fileno(slf: &Bound<'_, Self>) -> PyResult<RawFd> {
        let call = Handle::open_call(slf)?;
        patiently(slf.py(), Deadline::Never, |wait| call.queue().watch(wait))
    }

    /// Let a `get` that waits raise EOFError, and a `put` BrokenPipeError, once `has_ended()` is true: no
    /// process is left on the other side. Every `put` calls it, and every wait calls it now and then. Only
    /// the first call counts.
    fn _end_when(&self, has_ended: Py<PyAny>) -> PyResult<()> {
        let _ = self.opened()?.has_ended.set(has_ended);
        Ok(())
    }

    /// `get`, also of a queue whose own one has no time-out.
    fn _take<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let deadline = Deadline::new(true, timeout)?;
        send_receive::get(slf, &Handle::open_call(slf)?, None, deadline)
    }

    /// Whether a `get` would find an item, or that the queue was shut down, within `timeout` seconds (None
    /// for ever).
    fn _wait(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let call = Handle::open_call(slf)?;
        let deadline = Deadline::new(true, timeout)?;
        let queue = call.queue();
        let source = Source::items(queue, Own::OfProcess);
        let awaited = wait_for(slf.py(), deadline, None, source, |wait| queue.await_item(wait))?;
        // A get would not wait, but raise.
        Ok(awaited.is_ok() || awaited == Err(Error::ShutDown))
    }

    // What coroutines need (python/penstock/_async/): each waits for nothing but the lock, and for that 5 ms.

    /// The number of the task that makes a call now; 0 if it makes no difference. What a coroutine takes is
    /// that task's, also if another one runs it.
    fn _caller(slf: &Bound<'_, Self>) -> PyResult<u32> {
        match Handle::call(slf)? {
            Some(call) => tasks::caller(slf.py(), call.queue()),
            None => Ok(0),
        }
    }

    /// Whether the attempt that this thread has just made was not done because another process, which is
    /// stopped, keeps the lock.
    #[staticmethod]
    fn _was_stuck() -> bool {
        was_stuck()
    }

    /// Takes an item and returns it, or `nothing` if a get would wait.
    fn _get_now<'py>(
        slf: &Bound<'py, Self>,
        nothing: &Bound<'py, PyAny>,
        task: u32,
    ) -> PyResult<Bound<'py, PyAny>> {
        Ok(awaiting::get_now(slf, task)?.unwrap_or_else(|| nothing.clone()))
    }

    /// Whether a get of that task, or if `in_loop` its loop or lease, would raise that the queue was shut
    /// down.
    fn _is_over(slf: &Bound<'_, Self>, in_loop: bool, task: u32) -> PyResult<bool> {
        let own = if in_loop { Own::OfCaller } else { Own::OfProcess };
        awaiting::is_over(slf, own, task)
    }

    /// Takes what is there; an empty list if a get would wait.
    fn _get_many_now<'py>(
        slf: &Bound<'py, Self>,
        max_items: Option<&Bound<'py, PyAny>>,
        task: u32,
    ) -> PyResult<Bound<'py, PyList>> {
        awaiting::get_many_now(slf, at_most(max_items)?, task)
    }

    /// Raises what a call with these arguments raises, before the call waits for its turn.
    #[staticmethod]
    #[pyo3(signature = (*, max_items = None, timeout = None))]
    fn _check_arguments(
        max_items: Option<&Bound<'_, PyAny>>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        at_most(max_items)?;
        Deadline::new(true, timeout).map(drop)
    }

    /// A loop over the items.
    fn _new_loop(slf: &Bound<'_, Self>) -> iteration::QueueIterator {
        iteration::over_any(slf)
    }

    /// Puts `obj`. False if a put would wait.
    fn _put_now(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<bool> {
        awaiting::put_if_room(slf, obj)
    }

    /// Puts the objects from that index on as far as there is room. The index of the first that was not put,
    /// and the exception because of which it was not, or None.
    fn _put_many_now<'py>(
        slf: &Bound<'py, Self>,
        objs: &Bound<'py, PyTuple>,
        start: usize,
    ) -> PyResult<(usize, Option<Bound<'py, PyAny>>)> {
        let (next, error) = awaiting::put_many_now(slf, objs, start)?;
        Ok((
            next,
            error.map(|error| error.into_value(slf.py()).into_bound(slf.py()).into_any()),
        ))
    }

    /// None if all items are done, or were at a moment since this has returned the number `since`. Else such
    /// a number.
    fn _join_now(slf: &Bound<'_, Self>, since: u64) -> PyResult<Option<u64>> {
        awaiting::join_now(slf, since)
    }

    /// How often all items were done, while a process waited for that with a descriptor.
    fn _finishes(slf: &Bound<'_, Self>) -> PyResult<u64> {
        Handle::ask(slf, |queue| Ok(queue.finishes()))
    }

    /// Seconds until the first delayed item is due. None if none is delayed.
    fn _time_until_due(slf: &Bound<'_, Self>) -> PyResult<Option<f64>> {
        Handle::ask(slf, |queue| {
            Ok(queue.time_until_due().map(|time| time.as_secs_f64()))
        })
    }

    /// The descriptor that tells when that would not wait: readable, or of room writable. None if there is
    /// none for now, because a stopped process holds the lock, and if the handle is closed.
    fn _descriptor(slf: &Bound<'_, Self>, awaited: u32) -> PyResult<Option<RawFd>> {
        awaiting::descriptor(slf, awaiting::awaited(awaited)?)
    }

    /// Whether that would not wait. A hint.
    fn _is_ready(slf: &Bound<'_, Self>, awaited: u32) -> PyResult<bool> {
        let awaited = awaiting::awaited(awaited)?;
        Handle::ask(slf, |queue| Ok(queue.is_ready(awaited)))
    }

    /// Whether the queue was shut down. (`is_shutdown` of a closed `SimpleQueue` raises.)
    fn _has_ended(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Handle::ask(slf, |queue| Ok(queue.is_shut_down()))
    }

    /// What a waiting thread does at the end of each slice of 100 ms, of which this is one: it checks for the
    /// dead.
    fn _tend(slf: &Bound<'_, Self>, slices: u32) -> PyResult<()> {
        awaiting::tend(slf, slices)
    }

    /// The dead letters: of each its slot, its number, that of its burial, how often it was delivered, its
    /// bytes, the text of its last failure, the deaths of its holders, and whether the last failure was one.
    fn _dead_letters<'py>(slf: &Bound<'py, Self>) -> PyResult<Vec<Letter<'py>>> {
        let py = slf.py();
        let found = Handle::ask(slf, |queue| {
            patiently(py, Deadline::Never, |wait| queue.dead_letters_within(wait))
        })?;
        proof::warn_if_impossible(py)?;
        let letters = found.into_iter().map(|letter| {
            let DeadLetter {
                ticket,
                deliveries,
                payload,
                text,
                deaths,
                died_last,
            } = letter;
            let (payload, text) = (ffi::new_bytes(py, &payload)?, ffi::new_bytes(py, &text)?);
            let deaths = deaths.iter().map(described).collect();
            Ok((
                ticket.slot,
                ticket.seq,
                ticket.burial,
                deliveries,
                payload,
                text,
                deaths,
                died_last,
            ))
        });
        letters.collect()
    }

    /// Requeues dead letters, or purges them; all if `tickets` is None. Returns how many there were.
    fn _decide_on_letters(
        slf: &Bound<'_, Self>,
        tickets: Option<Vec<(u32, u64, u64)>>,
        is_purge: bool,
    ) -> PyResult<u64> {
        let tickets: Option<Vec<LetterTicket>> = tickets.map(|tickets| {
            tickets
                .into_iter()
                .map(|(slot, seq, burial)| LetterTicket { slot, seq, burial })
                .collect()
        });
        Handle::ask(slf, |queue| {
            patiently(slf.py(), Deadline::Never, |wait| match is_purge {
                true => queue.purge(tickets.as_deref(), wait),
                false => queue.requeue(tickets.as_deref(), wait),
            })
        })
    }

    /// Rebuilds the object in the bytes of an item.
    fn _rebuild<'py>(slf: &Bound<'py, Self>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        slf.get().opened()?.codec.load(slf.py(), bytes, Some(slf))
    }

    /// Check the queue's shared memory, and return what is wrong there, in words: an empty list if the queue
    /// is sound. Changes nothing. Meanwhile other processes wait, about 0.1 s for a million items.
    ///
    /// >>> import penstock
    /// >>> q = penstock.Queue()
    /// >>> q.put("a")
    /// >>> q.check()
    /// []
    fn check<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyList>> {
        let py = slf.py();
        let check = Handle::ask(slf, |queue| {
            patiently(py, Deadline::Never, |wait| queue.check_within(wait))
        })?;
        proof::warn_if_impossible(py)?;
        let faults = ffi::new_list(py)?;
        for fault in &check.findings {
            faults.append(fault.to_string())?;
        }
        Ok(faults)
    }

    /// How long items that have failed wait: first, factor, most, jitter.
    #[getter]
    fn _retry(slf: &Bound<'_, Self>) -> PyResult<(f64, f64, f64, f64)> {
        let retry = Handle::ask(slf, |queue| Ok(queue.retry()))?;
        Ok((retry.first, retry.factor, retry.most, retry.jitter))
    }

    /// The figures of the queue by name.
    fn _statistics<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        let py = slf.py();
        let statistics = Handle::ask(slf, |queue| {
            patiently(py, Deadline::Never, |wait| queue.statistics_within(wait))
        })?;
        proof::warn_if_impossible(py)?;
        let dict = PyDict::new(py);
        for (name, value) in [
            ("puts", statistics.puts),
            ("gets", statistics.gets),
            ("bytes", statistics.bytes),
            ("queued", statistics.queued),
            ("unfinished", statistics.unfinished),
            ("redeliveries", statistics.redeliveries),
            ("dead_letters", statistics.dead_letters),
            ("taken", statistics.taken),
            ("taken_bytes", statistics.taken_bytes),
            ("given_up", statistics.given_up),
            ("discarded", statistics.discarded),
            ("delayed", statistics.delayed),
            ("waiting_getters", statistics.waiting_getters),
            ("waiting_putters", statistics.waiting_putters),
            ("waiting_joiners", statistics.waiting_joiners),
            ("high_water", statistics.high_water),
            ("participants", statistics.participants),
            ("producers", statistics.producers),
            ("memory_bytes", statistics.memory_bytes),
        ] {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }
}
