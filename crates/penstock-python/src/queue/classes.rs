//! The methods of the three queue classes. The classes in Python inherit them, so that no Python code runs
//! for a message.

use penstock_core::Queue;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::interpreter::errors;
use crate::interpreter::gil::{Deadline, seconds};
use crate::queue::attempt::{ask, attempt, wait_for};
use crate::queue::cooperation::Source;
use crate::queue::handle::{Call, Handle, is_closed};
use crate::queue::iteration::{QueueIterator, over_queue, over_simple_queue};
use crate::queue::producing::{Producing, expected};
use crate::queue::send_receive::{self, trim_if_due};
use crate::queue::{awaiting, batches, leases, proof, tasks};

/// An argument that is read as `if` reads it.
struct Truth(bool);

impl<'a, 'py> FromPyObject<'a, 'py> for Truth {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Truth> {
        object.is_truthy().map(Truth)
    }
}

/// How many items a `get_many` may take.
pub fn at_most(max_items: Option<&Bound<'_, PyAny>>) -> PyResult<Option<usize>> {
    let Some(max_items) = max_items else {
        return Ok(None);
    };
    let bounds = match max_items.extract::<usize>() {
        Ok(most) if most > 0 => return Ok(Some(most)),
        Ok(_) => "at least 1",
        Err(error) if !error.is_instance_of::<PyOverflowError>(max_items.py()) => return Err(error),
        Err(_) if max_items.call_method0("__index__")?.lt(0)? => "at least 1",
        Err(_) => "less than 2**64",
    };
    Err(PyValueError::new_err(format!(
        "max_items must be {bounds} or None, not {}",
        max_items.repr()?
    )))
}

/// A queue with a bound on its items, for any number of producers and consumers.
#[pyclass(frozen, subclass, extends = Handle, module = "penstock._native")]
pub struct QueueBase;

/// A class whose items come in the order of putting.
#[cold]
fn lacks_orders(queue: &Bound<'_, QueueBase>, is_priority: bool) -> PyErr {
    let name = queue.get_type().name();
    let class = name.map_or_else(|_| "this class".to_owned(), |name| name.to_string());
    let argument = if is_priority { "priority" } else { "key" };
    PyTypeError::new_err(format!(
        "{class} has no {argument}: its items come in the order of putting"
    ))
}

#[inline]
pub fn open<'a>(handle: &'a Bound<'_, Handle>) -> PyResult<Call<'a>> {
    match Handle::call(handle)? {
        Some(call) => Ok(call),
        None => open_closed(handle),
    }
}

/// A handle that was closed here, or in the process that it was inherited from.
#[cold]
fn open_closed<'a>(handle: &'a Bound<'_, Handle>) -> PyResult<Call<'a>> {
    if handle.get().is_closed_here() {
        return Err(PyValueError::new_err(format!(
            "Queue {} is closed",
            handle.repr()?
        )));
    }
    if handle.get().opened()?.has_put() {
        return Err(is_closed());
    }
    Handle::open_in_child(handle)?;
    Handle::open_call(handle)
}

/// Shuts the queue down, for all processes.
fn shut_down(py: Python<'_>, call: &Call<'_>, immediate: &Truth) -> PyResult<()> {
    let queue = call.queue();
    attempt(py, Deadline::Never, |wait| {
        queue.shut_down_within(immediate.0, wait)
    })?;
    trim_if_due(py, queue)
}

/// Whether the queue was shut down, also by the death of its last producer, which this finds if a check for
/// the dead is due.
fn is_shut_down(py: Python<'_>, queue: &Queue) -> bool {
    ask(py, queue, |queue| {
        queue.len();
        queue.is_shut_down()
    })
}

#[pymethods]
impl QueueBase {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<QueueBase> {
        PyClassInitializer::from(Handle::new(args, kwargs)).add_subclass(QueueBase)
    }

    /// Put `obj`, any object that pickles, into the queue. When this returns, the item is in the queue, and
    /// it stays there even if this process dies.
    ///
    /// If the queue is full, waits for room if `block` is true: `timeout` seconds at most (a float), or as
    /// long as it takes if `timeout` is None. A signal handler that raises, as for Ctrl-C, ends the wait. If
    /// another process is stopped (SIGSTOP) in the middle of a change of the queue, waits in the same way for
    /// it to go on; without `block` 0.1 s at most.
    ///
    /// With a `delay` (seconds, a float from 0 to 1e10) no `get` finds the item before that time is over.
    /// Until then it is undone, but not counted by `qsize()`, and it takes no place: `put` does not wait for
    /// room. Then it stands where it would stand without a delay, before everything that was put later. If
    /// more than 256 come due at once, each call brings 256 to their places.
    ///
    /// Raises `queue.Full` if there was no room in that time (with the pid, if a process is stopped in that
    /// way), `QueueMemoryError` (a `queue.Full` too) if there is no memory, `ShutDown` if the queue was shut
    /// down, `ValueError` if this handle was closed or `delay` is out of range, `TypeError` if `priority` or
    /// `key` is given or `delay` is no number, and whatever pickling `obj` raises. In each case the queue is
    /// as it was.
    ///
    /// >>> import penstock
    /// >>> q = penstock.Queue(maxsize=1)
    /// >>> q.put([1, 2])
    /// >>> q.put([3], timeout=0.01)
    /// Traceback (most recent call last):
    ///     ...
    /// queue.Full
    #[pyo3(
        signature = (obj, block = Truth(true), timeout = None, *, delay = None, priority = None, key = None),
        text_signature = "($self, obj, block=True, timeout=None, *, delay=None, priority=None, key=None)"
    )]
    fn put(
        slf: &Bound<'_, Self>,
        obj: &Bound<'_, PyAny>,
        block: Truth,
        timeout: Option<&Bound<'_, PyAny>>,
        delay: Option<&Bound<'_, PyAny>>,
        priority: Option<&Bound<'_, PyAny>>,
        key: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        if priority.is_some() || key.is_some() {
            return Err(lacks_orders(slf, priority.is_some()));
        }
        let call = open(slf.as_super())?;
        let deadline = Deadline::new(block.0, timeout)?;
        match seconds("delay", delay)? {
            None => send_receive::put(&call, obj, deadline),
            Some(delay) => send_receive::put_later(&call, obj, delay, deadline),
        }
    }

    /// Take the item that was put first out of the queue, and return it.
    ///
    /// If the queue is empty, waits for an item if `block` is true: `timeout` seconds at most (a float), or
    /// as long as it takes if `timeout` is None. A signal handler that raises, as for Ctrl-C, ends the wait.
    /// If another process is stopped (SIGSTOP) in the middle of a change of the queue, waits in the same way
    /// for it to go on; without `block` 0.1 s at most.
    ///
    /// Raises `queue.Empty` if there was no item in that time (with the pid, if a process is stopped in that
    /// way), `ShutDown` if the queue was shut down and no item is left, and `ValueError` if this handle was
    /// closed. Raises `MemoryError` if there is no memory for the object; the item stays in the queue, and
    /// is a dead letter after four such calls. Any other exception that rebuilding the object raises gets a
    /// note that names the queue and the types in the item; then this item is lost, and no other. If this
    /// process is killed inside `get`, the item is lost or goes to another process; one from a
    /// `JoinableQueue` is never lost.
    ///
    /// >>> import penstock
    /// >>> q = penstock.Queue()
    /// >>> q.put([1, 2])
    /// >>> q.get()
    /// [1, 2]
    /// >>> q.get(timeout=0.01)
    /// Traceback (most recent call last):
    ///     ...
    /// _queue.Empty
    #[pyo3(
        signature = (block = Truth(true), timeout = None),
        text_signature = "($self, block=True, timeout=None)"
    )]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        block: Truth,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let handle = slf.as_super();
        let call = open(handle)?;
        send_receive::get(handle, &call, None, Deadline::new(block.0, timeout)?)
    }

    /// Put all objects of an iterable, in order, as `put` would one after the other.
    ///
    /// If `objs` is a list, tuple, range, dict, set, frozenset, deque, str, bytes or bytearray itself (not of
    /// a subclass), up to 64 small plain objects go into the queue in one step. Of any other iterable each
    /// object is in the queue before the iterable is asked for the next one, so it may be a generator that
    /// waits for the answer to the last object. No object is held back while code of the program runs.
    /// `timeout` (seconds) is for all objects together.
    ///
    /// Raises what `put` raises, and what `objs` itself raises. The objects put so far stay in the queue: the
    /// exception's attribute `items_put` tells how many objects of the iterable were put. If this process is
    /// killed meanwhile, the first ones are in the queue and the others are not.
    ///
    /// >>> import penstock
    /// >>> q = penstock.Queue(maxsize=2)
    /// >>> try:
    /// ...     q.put_many(["a", "b", "c"], timeout=0.01)
    /// ... except Exception as error:
    /// ...     print(type(error).__name__, error.items_put)
    /// Full 2
    #[pyo3(
        signature = (objs, block = Truth(true), timeout = None),
        text_signature = "($self, objs, block=True, timeout=None)"
    )]
    fn put_many(
        slf: &Bound<'_, Self>,
        objs: &Bound<'_, PyAny>,
        block: Truth,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let call = open(slf.as_super())?;
        batches::put_many(&call, objs, Deadline::new(block.0, timeout)?)
    }

    /// Take the items that are there, `max_items` at most, and return them as a list, oldest first. If
    /// `max_items` is None, as many as are there at the start.
    ///
    /// If the queue is empty, waits for the first item as `get` does; for more it does not wait, so the list
    /// has at least one.
    ///
    /// Raises `queue.Empty` if there was no item in that time, `ShutDown` as `get` does, and `ValueError` if
    /// this handle was closed or `max_items` is less than 1. Raises `MemoryError` if there is no memory;
    /// then its attribute `items`, if there is one, is the list of what was taken, and the other items stay
    /// in the queue. Any other exception that rebuilding an object raises is raised when all have been
    /// rebuilt; its attribute `items` is the list, with the exception in the place of the object. If this
    /// process is killed meanwhile, up to 64 items are lost or go to another process; those of a
    /// `JoinableQueue` are never lost, and each wants its own `task_done()`.
    ///
    /// >>> import penstock
    /// >>> q = penstock.Queue()
    /// >>> q.put_many("abc")
    /// >>> q.get_many(2)
    /// ['a', 'b']
    /// >>> q.get_many()
    /// ['c']
    #[pyo3(
        signature = (max_items = None, block = Truth(true), timeout = None),
        text_signature = "($self, max_items=None, block=True, timeout=None)"
    )]
    fn get_many<'py>(
        slf: &Bound<'py, Self>,
        max_items: Option<&Bound<'py, PyAny>>,
        block: Truth,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let handle = slf.as_super();
        let deadline = Deadline::new(block.0, timeout)?;
        batches::get_many(handle, &open(handle)?, at_most(max_items)?, deadline)
    }

    /// Return how many items a `get` would find now. Exact, and does not wait; another process may change it
    /// at once. If a process is stopped (SIGSTOP) in the middle of a change, the number is that before the
    /// change.
    ///
    /// >>> import penstock
    /// >>> q = penstock.Queue()
    /// >>> q.put("a")
    /// >>> q.qsize()
    /// 1
    fn qsize(slf: &Bound<'_, Self>) -> PyResult<u64> {
        Handle::ask(slf.as_super(), |queue| Ok(ask(slf.py(), queue, Queue::len)))
    }

    /// Return whether a `get` would find nothing now. Exact, and does not wait; another process may change it
    /// at once. If a process is stopped (SIGSTOP) in the middle of a change, the answer is that before the
    /// change.
    ///
    /// Raises `OSError` if this handle was closed after a put, as `multiprocessing` does.
    ///
    /// >>> import penstock
    /// >>> penstock.Queue().empty()
    /// True
    fn empty(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let handle = slf.as_super();
        if handle.get().was_closed() && handle.get().opened()?.has_put() {
            return Err(is_closed());
        }
        Handle::ask(handle, |queue| Ok(ask(slf.py(), queue, Queue::is_empty)))
    }

    /// Return whether `maxsize` items are queued. Exact, and does not wait; another process may change it at
    /// once. If a process is stopped (SIGSTOP) in the middle of a change, the answer is that before the
    /// change.
    ///
    /// >>> import penstock
    /// >>> q = penstock.Queue(maxsize=1)
    /// >>> q.put("a")
    /// >>> q.full()
    /// True
    fn full(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Handle::ask(slf.as_super(), |queue| Ok(ask(slf.py(), queue, Queue::is_full)))
    }

    /// Shut the queue down, for all processes and for good: from now on `put` raises `ShutDown`, also where
    /// it waits for room.
    ///
    /// `get` takes what is left, and then raises `ShutDown`. If `immediate` is true, it raises at once: what
    /// is queued is discarded, and what a worker of a `JoinableQueue` has in hand is discarded if it comes
    /// back. A second call does no more, except that an immediate one discards what is left.
    ///
    /// After a shutdown, a `get` of a `JoinableQueue` that may wait does so while another process has an
    /// item in hand, since that item comes back if the process dies. It raises at once if this process has
    /// one in hand itself. `task_done` never raises `ShutDown`, and `join` returns when all items are done.
    ///
    /// Does not wait, unless another process is stopped (SIGSTOP) in the middle of a change of the queue. If
    /// this process is killed meanwhile, the queue is as it was, or is shut down, and the others complete
    /// it. Raises `ValueError` if this handle was closed.
    ///
    /// >>> import penstock
    /// >>> q = penstock.Queue()
    /// >>> q.put("last")
    /// >>> q.shutdown()
    /// >>> q.get()
    /// 'last'
    /// >>> q.get()
    /// Traceback (most recent call last):
    ///     ...
    /// penstock.errors.ShutDown
    #[pyo3(
        signature = (immediate = Truth(false)),
        text_signature = "($self, immediate=False)"
    )]
    fn shutdown(slf: &Bound<'_, Self>, immediate: Truth) -> PyResult<()> {
        shut_down(slf.py(), &open(slf.as_super())?, &immediate)
    }

    /// Whether the queue was shut down, by whatever process, or by the death of its last producer.
    ///
    /// Does not wait; if a process is stopped (SIGSTOP) in the middle of a change, the answer is that before
    /// the change. A queue that this process has closed tells it still.
    ///
    /// >>> import penstock
    /// >>> q = penstock.Queue()
    /// >>> q.is_shutdown
    /// False
    /// >>> q.shutdown()
    /// >>> q.is_shutdown
    /// True
    #[getter]
    fn is_shutdown(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Handle::ask(slf.as_super(), |queue| Ok(is_shut_down(slf.py(), queue)))
    }

    /// Count this process as a producer, in a `with` block, until the block ends or the process does, by
    /// whatever death. When the last producer has gone, the queue is shut down, as by `shutdown()`: so the
    /// loops of its consumers end, also if producers were killed.
    ///
    /// With `expect`, the queue does not end before so many processes have begun; of several such numbers the
    /// largest counts. A process that dies before it begins is not counted; one that is started again after
    /// it has begun counts again. So a program that starts its producers is one itself, until they have ended
    /// or have begun.
    ///
    /// A process counts once, also for blocks inside each other and in several threads, and for each task of
    /// a pool's worker, and is a producer until the last of them ends. A child that is forked in a block is
    /// none until it says so. Closing the process's last handle of the queue ends its blocks, too.
    ///
    /// The block raises `ShutDown` at its beginning if the queue was shut down, and `ValueError` if this
    /// handle was closed; `expect` less than 1 is a `ValueError`. Neither end of it waits, unless another
    /// process is stopped (SIGSTOP) in the middle of a change of the queue.
    ///
    /// >>> import penstock
    /// >>> q = penstock.Queue()
    /// >>> with q.producing():
    /// ...     q.put("a")
    /// >>> list(q)
    /// ['a']
    #[pyo3(signature = (expect = None), text_signature = "($self, expect=None)")]
    fn producing(slf: &Bound<'_, Self>, expect: Option<&Bound<'_, PyAny>>) -> PyResult<Producing> {
        Ok(Producing::new(slf.as_super(), open, expected(expect)?))
    }

    /// Iterate over the items until the queue is shut down: `for item in queue` takes each of them as `get`
    /// does, and ends where `get` raises `ShutDown`.
    ///
    /// On a `JoinableQueue` an item is done when the loop asks for the next one, unless the loop's body has
    /// called `task_done()` for it. After `break`, or an exception, the item in hand stays in hand, as after
    /// `get`: it wants its `task_done()`. In the body, `task_done()` finishes what the thread has taken
    /// otherwise before it finishes the loop's own item.
    ///
    /// Each loop has an iterator of its own; threads iterate over the queue, and do not share an iterator. A
    /// class that overrides `get` overrides `__iter__` as well. `item in queue` raises `TypeError`.
    ///
    /// >>> import penstock
    /// >>> q = penstock.Queue()
    /// >>> q.put_many("ab")
    /// >>> q.shutdown()
    /// >>> list(q)
    /// ['a', 'b']
    fn __iter__(slf: &Bound<'_, Self>) -> QueueIterator {
        over_queue(slf.as_super())
    }

    #[getter]
    fn _closed(slf: &Bound<'_, Self>) -> bool {
        slf.as_super().get().is_closed_here()
    }
}

/// A queue whose items are accounted for until they are done.
#[pyclass(frozen, subclass, extends = QueueBase, module = "penstock._native")]
pub struct JoinableQueueBase;

#[pymethods]
impl JoinableQueueBase {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<JoinableQueueBase> {
        QueueBase::new(args, kwargs).add_subclass(JoinableQueueBase)
    }

    /// Report that an item taken with `get` is done: the oldest that this thread holds (in an event loop this
    /// task, and under gevent this greenlet), else the oldest that this process holds, else another
    /// process's. In a `for` loop over the queue, the loop's own item is the last of this thread. Does not
    /// wait, unless another process is stopped (SIGSTOP) in the middle of a change of the queue. A signal
    /// handler that raises, as for Ctrl-C, ends that wait, and then no item is done.
    ///
    /// Raises `ValueError` if all items are done already.
    ///
    /// >>> import penstock
    /// >>> q = penstock.JoinableQueue()
    /// >>> q.task_done()
    /// Traceback (most recent call last):
    ///     ...
    /// ValueError: task_done() called too many times
    fn task_done(slf: &Bound<'_, Self>) -> PyResult<()> {
        Handle::ask(slf.as_super().as_super(), |queue| {
            let _acting = tasks::act(slf.py(), queue)?;
            attempt(slf.py(), Deadline::Never, |wait| queue.task_done_within(wait))?;
            trim_if_due(slf.py(), queue)
        })?;
        proof::warn_if_impossible(slf.py())
    }

    /// `get` for `lease()`: appends a pair to `taken`, of the object and the hold by which it is settled.
    fn _hold(
        slf: &Bound<'_, Self>,
        timeout: Option<&Bound<'_, PyAny>>,
        taken: &Bound<'_, PyList>,
    ) -> PyResult<()> {
        let handle = slf.as_super().as_super();
        let deadline = Deadline::new(true, timeout)?;
        leases::take(handle, &open(handle)?, deadline, taken)
    }

    /// The same for `leases()`: a pair for each item.
    fn _hold_many(
        slf: &Bound<'_, Self>,
        max_items: &Bound<'_, PyAny>,
        timeout: Option<&Bound<'_, PyAny>>,
        taken: &Bound<'_, PyList>,
    ) -> PyResult<()> {
        let handle = slf.as_super().as_super();
        let most = at_most(Some(max_items))?.unwrap_or(1);
        let deadline = Deadline::new(true, timeout)?;
        leases::take_many(handle, &open(handle)?, (most, taken), deadline)
    }

    /// `_hold` if it need not wait. False if it had to.
    fn _hold_now(slf: &Bound<'_, Self>, taken: &Bound<'_, PyList>) -> PyResult<bool> {
        awaiting::hold_now(slf.as_super().as_super(), taken)
    }

    /// The same for several.
    fn _hold_many_now(
        slf: &Bound<'_, Self>,
        max_items: &Bound<'_, PyAny>,
        taken: &Bound<'_, PyList>,
    ) -> PyResult<bool> {
        let most = at_most(Some(max_items))?.unwrap_or(1);
        awaiting::hold_many_now(slf.as_super().as_super(), most, taken)
    }

    /// Wait until every item that was put is done. Items of a worker that was killed go to other workers, so
    /// they do not keep this waiting for ever. A signal handler that raises, as for Ctrl-C, ends the wait.
    ///
    /// >>> import penstock
    /// >>> q = penstock.JoinableQueue()
    /// >>> q.put("a")
    /// >>> _ = q.get()
    /// >>> q.task_done()
    /// >>> q.join()
    fn join(slf: &Bound<'_, Self>) -> PyResult<()> {
        Handle::ask(slf.as_super().as_super(), |queue| {
            let mut since = None;
            let joined = wait_for(slf.py(), Deadline::Never, None, Source::Finish(queue), |wait| {
                queue.join_since(&mut since, wait)
            })?;
            joined.map_err(errors::to_python)
        })
    }
}

/// A queue without a bound on its items and without time-outs.
#[pyclass(frozen, subclass, extends = Handle, module = "penstock._native")]
pub struct SimpleQueueBase;

#[inline]
pub fn open_simple<'a>(handle: &'a Bound<'_, Handle>) -> PyResult<Call<'a>> {
    Handle::open_call(handle)
}

#[pymethods]
impl SimpleQueueBase {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<SimpleQueueBase> {
        PyClassInitializer::from(Handle::new(args, kwargs)).add_subclass(SimpleQueueBase)
    }

    /// Put `obj`, any object that pickles, into the queue. When this returns, the item is in the queue, and
    /// it stays there even if this process dies.
    ///
    /// Waits while 1 MiB is queued. A signal handler that raises, as for Ctrl-C, ends the wait.
    ///
    /// Raises `QueueMemoryError` if there is no memory, `ShutDown` if the queue was shut down, `OSError` if
    /// this handle was closed, and whatever pickling `obj` raises. In each case the queue is as it was.
    ///
    /// >>> import penstock
    /// >>> q = penstock.SimpleQueue()
    /// >>> q.put([1, 2])
    fn put(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        send_receive::put(&open_simple(slf.as_super())?, obj, Deadline::Never)
    }

    /// Take the item that was put first out of the queue, and return it. Waits until there is one; a signal
    /// handler that raises, as for Ctrl-C, ends the wait.
    ///
    /// Raises `ShutDown` if the queue was shut down and no item is left, `OSError` if this handle was
    /// closed, and what rebuilding the object raises, with a note that names the queue and the types in the
    /// item; then this item is lost, and no other. If this process is killed inside `get`, the item is lost
    /// or goes to another process.
    ///
    /// >>> import penstock
    /// >>> q = penstock.SimpleQueue()
    /// >>> q.put([1, 2])
    /// >>> q.get()
    /// [1, 2]
    fn get<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let handle = slf.as_super();
        send_receive::get(handle, &open_simple(handle)?, None, Deadline::Never)
    }

    /// Put all objects of an iterable, in order, as `put` would one after the other.
    ///
    /// If `objs` is a list, tuple, range, dict, set, frozenset, deque, str, bytes or bytearray itself (not of
    /// a subclass), up to 64 small plain objects go into the queue in one step. Of any other iterable each
    /// object is in the queue before the iterable is asked for the next one, so it may be a generator that
    /// waits for the answer to the last object. No object is held back while code of the program runs.
    ///
    /// Raises what `put` raises, and what `objs` itself raises. The objects put so far stay in the queue: the
    /// exception's attribute `items_put` tells how many objects of the iterable were put. If this process is
    /// killed meanwhile, the first ones are in the queue and the others are not.
    ///
    /// >>> import penstock
    /// >>> q = penstock.SimpleQueue()
    /// >>> q.put_many(range(3))
    /// >>> q.get_many()
    /// [0, 1, 2]
    fn put_many(slf: &Bound<'_, Self>, objs: &Bound<'_, PyAny>) -> PyResult<()> {
        batches::put_many(&open_simple(slf.as_super())?, objs, Deadline::Never)
    }

    /// Take the items that are there, `max_items` at most, and return them as a list, oldest first. If
    /// `max_items` is None, as many as are there at the start. Waits until there is at least one.
    ///
    /// Raises `ShutDown` as `get` does, `OSError` if this handle was closed, and `ValueError` if `max_items`
    /// is less than 1. Raises `MemoryError` if there is no memory; then its attribute `items`, if there is
    /// one, is the list of what was taken, and the other items stay in the queue. Any other exception that
    /// rebuilding an object raises is raised when all have been rebuilt; its attribute `items` is the list,
    /// with the exception in the place of the object. If this process is killed meanwhile, up to 64 items
    /// are lost or go to another process.
    ///
    /// >>> import penstock
    /// >>> q = penstock.SimpleQueue()
    /// >>> q.put_many("abc")
    /// >>> q.get_many(2)
    /// ['a', 'b']
    #[pyo3(signature = (max_items = None))]
    fn get_many<'py>(
        slf: &Bound<'py, Self>,
        max_items: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let handle = slf.as_super();
        batches::get_many(
            handle,
            &open_simple(handle)?,
            at_most(max_items)?,
            Deadline::Never,
        )
    }

    /// Return whether a `get` would find nothing now. Exact, and does not wait; another process may change it
    /// at once. If a process is stopped (SIGSTOP) in the middle of a change, the answer is that before the
    /// change.
    ///
    /// Raises `OSError` if this handle was closed.
    ///
    /// >>> import penstock
    /// >>> penstock.SimpleQueue().empty()
    /// True
    fn empty(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let call = open_simple(slf.as_super())?;
        Ok(ask(slf.py(), call.queue(), Queue::is_empty))
    }

    /// Shut the queue down, for all processes and for good: from now on `put` raises `ShutDown`, also where
    /// it waits for room.
    ///
    /// `get` takes what is left, and then raises `ShutDown`. If `immediate` is true, it raises at once, and
    /// what is queued is discarded. A second call does no more, except that an immediate one discards what
    /// is left.
    ///
    /// Does not wait, unless another process is stopped (SIGSTOP) in the middle of a change of the queue. If
    /// this process is killed meanwhile, the queue is as it was, or is shut down, and the others complete
    /// it. Raises `OSError` if this handle was closed.
    ///
    /// >>> import penstock
    /// >>> q = penstock.SimpleQueue()
    /// >>> q.shutdown()
    /// >>> q.get()
    /// Traceback (most recent call last):
    ///     ...
    /// penstock.errors.ShutDown
    #[pyo3(
        signature = (immediate = Truth(false)),
        text_signature = "($self, immediate=False)"
    )]
    fn shutdown(slf: &Bound<'_, Self>, immediate: Truth) -> PyResult<()> {
        shut_down(slf.py(), &open_simple(slf.as_super())?, &immediate)
    }

    /// Whether the queue was shut down, by whatever process, or by the death of its last producer.
    ///
    /// Does not wait; if a process is stopped (SIGSTOP) in the middle of a change, the answer is that before
    /// the change. Raises `OSError` if this handle was closed.
    ///
    /// >>> import penstock
    /// >>> q = penstock.SimpleQueue()
    /// >>> q.is_shutdown
    /// False
    #[getter]
    fn is_shutdown(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let call = open_simple(slf.as_super())?;
        Ok(is_shut_down(slf.py(), call.queue()))
    }

    /// Count this process as a producer, in a `with` block, until the block ends or the process does, by
    /// whatever death. When the last producer has gone, the queue is shut down, as by `shutdown()`: so the
    /// loops of its consumers end, also if producers were killed.
    ///
    /// With `expect`, the queue does not end before so many processes have begun; of several such numbers the
    /// largest counts. A process that dies before it begins is not counted; one that is started again after
    /// it has begun counts again. So a program that starts its producers is one itself, until they have ended
    /// or have begun.
    ///
    /// A process counts once, also for blocks inside each other and in several threads, and for each task of
    /// a pool's worker, and is a producer until the last of them ends. A child that is forked in a block is
    /// none until it says so. Closing the process's last handle of the queue ends its blocks, too.
    ///
    /// The block raises `ShutDown` at its beginning if the queue was shut down, and `OSError` if this
    /// handle was closed; `expect` less than 1 is a `ValueError`. Neither end of it waits, unless another
    /// process is stopped (SIGSTOP) in the middle of a change of the queue.
    ///
    /// >>> import penstock
    /// >>> q = penstock.SimpleQueue()
    /// >>> with q.producing():
    /// ...     q.put("a")
    /// >>> list(q)
    /// ['a']
    #[pyo3(signature = (expect = None), text_signature = "($self, expect=None)")]
    fn producing(slf: &Bound<'_, Self>, expect: Option<&Bound<'_, PyAny>>) -> PyResult<Producing> {
        Ok(Producing::new(slf.as_super(), open_simple, expected(expect)?))
    }

    /// Iterate over the items until the queue is shut down: `for item in queue` takes each of them as `get`
    /// does, and ends where `get` raises `ShutDown`.
    ///
    /// Each loop has an iterator of its own; threads iterate over the queue, and do not share an iterator.
    /// `item in queue` raises `TypeError`.
    ///
    /// >>> import penstock
    /// >>> q = penstock.SimpleQueue()
    /// >>> q.put_many("ab")
    /// >>> q.shutdown()
    /// >>> list(q)
    /// ['a', 'b']
    fn __iter__(slf: &Bound<'_, Self>) -> QueueIterator {
        over_simple_queue(slf.as_super())
    }

    #[getter]
    fn _closed(slf: &Bound<'_, Self>) -> bool {
        slf.as_super().get().was_closed()
    }
}
