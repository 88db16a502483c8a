//! The codec as two functions, without a queue: for whatever keeps bytes, and for tests.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBytes;

use crate::codec::forking_pickler::Home;
use crate::codec::plain::Writer;
use crate::codec::{Codec, HIGHEST_PROTOCOL};
use crate::interpreter::ffi::new_bytes_of;
use crate::interpreter::once::once;

/// The codec of a protocol, as a queue has it that is opened now.
fn codec(py: Python<'_>, protocol: u8) -> PyResult<&Codec> {
    const COUNT: usize = HIGHEST_PROTOCOL as usize + 1;
    static CODECS: [PyOnceLock<Codec>; COUNT] = [const { PyOnceLock::new() }; COUNT];
    let make = || Codec::new(py, Home::Queues, protocol);
    let codec = once(&CODECS[usize::from(protocol)], py, make)?;
    codec.other.find(py)?;
    Ok(codec)
}

/// Return the bytes that a queue would keep of `obj`. They go back into an object by `loads`, in any process.
///
/// Reducers that were registered with `multiprocessing` or `copyreg` are used, and so is a pickler that the
/// program has put in the place of multiprocessing's. `protocol` is the pickle protocol from 0 to 5, by
/// default the highest. The bytes are a pickle, unless `obj` has buffers of 4 KiB or more (an array) and the
/// protocol is 5: then these lie beside the pickle, and only `loads` reads the whole.
///
/// What is inside `obj` travels as it does in a message. A Penstock queue is named by its id and its
/// descriptor: a process must keep it open until `loads` has opened it, and `loads` raises `QueueGoneError`
/// otherwise. A connection is loaded once, while this process lives. What `multiprocessing` shares only with
/// a process that it is starting (its locks and queues) raises RuntimeError.
///
/// Raises ValueError for another protocol, MemoryError if there is no memory for the bytes, and whatever
/// pickling raises.
///
/// >>> from penstock._native import dumps, loads
/// >>> loads(dumps({"a": [1, 2.5, None]}))
/// {'a': [1, 2.5, None]}
/// >>> import pickle
/// >>> pickle.loads(dumps("text", protocol=4))
/// 'text'
#[pyfunction]
#[pyo3(signature = (obj, protocol = None))]
pub fn dumps<'py>(obj: &Bound<'py, PyAny>, protocol: Option<i64>) -> PyResult<Bound<'py, PyBytes>> {
    let py = obj.py();
    let protocol = match protocol {
        None => HIGHEST_PROTOCOL,
        Some(number) => u8::try_from(number)
            .ok()
            .filter(|protocol| *protocol <= HIGHEST_PROTOCOL)
            .ok_or_else(|| {
                PyValueError::new_err(format!(
                    "protocol must be from 0 to {HIGHEST_PROTOCOL}, not {number}"
                ))
            })?,
    };
    let codec = codec(py, protocol)?;
    let mut writer = Writer::default();
    match codec.write_plain(obj, &mut writer) {
        Some(plain) => plain.lend(|pieces| new_bytes_of(py, pieces)),
        None => codec.encode(obj)?.lend(py, |pieces| new_bytes_of(py, pieces)),
    }
}

/// Return the object in bytes that `dumps` made, or in a pickle. It is what a `get` would return, but nothing
/// of it lies in shared memory: arrays have memory of their own, which may be written to.
///
/// Unpickling runs code that the bytes name, so they must come from a program that is trusted.
///
/// Raises `pickle.UnpicklingError` if buffers lie outside the bytes, MemoryError if there is no memory for
/// the object, and whatever else rebuilding it raises, with a note that names the types in the bytes.
///
/// >>> from penstock._native import dumps, loads
/// >>> loads(dumps((1, "two")))
/// (1, 'two')
/// >>> loads(b"damaged")
/// Traceback (most recent call last):
///     ...
/// _pickle.UnpicklingError: ...
#[pyfunction]
pub fn loads<'py>(message: &Bound<'py, PyBytes>) -> PyResult<Bound<'py, PyAny>> {
    codec(message.py(), HIGHEST_PROTOCOL)?.load(message.py(), message, None)
}
