//! Objects to bytes.
//!
//! A pickler is kept for the next object, because making one costs five times as much as pickling a small
//! tuple. It writes into a sink that collects the pieces without copying them, so that they go from there to
//! shared memory at once.
#![allow(unsafe_code)]

use std::mem;

use pyo3::exceptions::{PyKeyError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict};
use pyo3::{ffi, intern};

use crate::calls::{call_one, new_bytes};
use crate::sync::Exclusive;

/// Above this many bytes a copy is made with the GIL released, and a pickler is not worth the memory that it
/// keeps.
pub const LARGE: usize = 64 * 1024;

/// A pickled object, in pieces. Most have one.
#[derive(Default)]
pub struct Pickled {
    first: Option<Py<PyBytes>>,
    rest: Vec<Py<PyBytes>>,
    len: usize,
}

impl Pickled {
    pub fn is_large(&self) -> bool {
        self.len > LARGE
    }

    fn push(&mut self, piece: Py<PyBytes>, len: usize) {
        self.len += len;
        match self.first {
            None => self.first = Some(piece),
            Some(_) => self.rest.push(piece),
        }
    }

    /// Makes it at least `len` bytes long. `pickle.loads` does not look behind the end of a pickle.
    pub fn pad(&mut self, py: Python<'_>, len: usize) {
        let missing = len.saturating_sub(self.len);
        self.push(PyBytes::new(py, &vec![0; missing]).unbind(), missing);
    }

    /// Lends the pieces to `operation`.
    pub fn lend<T>(&self, py: Python<'_>, operation: impl FnOnce(&[&[u8]]) -> T) -> T {
        match &self.first {
            None => operation(&[]),
            Some(first) if self.rest.is_empty() => operation(&[first.as_bytes(py)]),
            Some(first) => {
                let pieces: Vec<&[u8]> = std::iter::once(first)
                    .chain(&self.rest)
                    .map(|piece| piece.as_bytes(py))
                    .collect();
                operation(&pieces)
            }
        }
    }
}

/// The file that a pickler writes to.
#[pyclass(frozen)]
struct Sink(Exclusive<Pickled>);

#[pymethods]
impl Sink {
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let piece = match data.cast::<PyBytes>() {
            Ok(bytes) => bytes.clone(),
            Err(_) => copy(data)?,
        };
        let len = piece.as_bytes().len();
        self.0
            .with(|pickled| pickled.push(piece.unbind(), len))
            .ok_or_else(in_use)
    }
}

/// Only a program that gets hold of the pickler by itself can see this.
#[cold]
fn in_use() -> PyErr {
    PyRuntimeError::new_err("the pickler of a queue is in use by another thread")
}

/// What is not immutable may change after `write` has returned: a bytearray, or the memory of an array.
fn copy<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let py = data.py();
    let mut view = ffi::Py_buffer::new();
    // SAFETY: `view` is ours, and it is released below if this succeeds, and only then.
    if unsafe { ffi::PyObject_GetBuffer(data.as_ptr(), &raw mut view, ffi::PyBUF_SIMPLE) } != 0 {
        return Err(PyErr::fetch(py));
    }
    let contents = match view.len {
        0 => &[], // which may have no address
        // SAFETY: a simple view is `len` bytes at `buf`, which stay where they are until it is released.
        len => unsafe { std::slice::from_raw_parts(view.buf.cast::<u8>(), len as usize) },
    };
    let bytes = new_bytes(py, contents);
    // SAFETY: filled in by the successful call above, released once.
    unsafe { ffi::PyBuffer_Release(&raw mut view) };
    bytes
}

/// The reducers that count now: those of `ForkingPickler.register`, then those of `copyreg.pickle`. A
/// ForkingPickler copies both when it is made, which is too early for one that is kept.
#[pyclass(frozen, mapping)]
struct Reducers {
    registered: Py<PyDict>,
    copyreg: Py<PyDict>,
}

#[pymethods]
impl Reducers {
    fn __getitem__<'py>(&self, class: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = class.py();
        for table in [&self.registered, &self.copyreg] {
            if let Some(reducer) = table.bind(py).get_item(class)? {
                return Ok(reducer);
            }
        }
        // The pickler clears it at once, so one serves for all. Making one costs 5 % of a put and a get of a
        // small instance.
        static MISSING: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let missing = MISSING.get_or_init(py, || PyKeyError::new_err(()).into_value(py).into_any());
        Err(PyErr::from_value(missing.bind(py).clone()))
    }
}

fn pickler_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CLASS.import(py, "multiprocessing.reduction", "ForkingPickler")
}

/// Whether pickling means what it means in the standard library: programs may have put a pickler of their own, which
/// may want to see every object, in the place of multiprocessing's.
pub fn is_standard(py: Python<'_>) -> bool {
    static ANSWER: PyOnceLock<bool> = PyOnceLock::new();
    *ANSWER.get_or_init(py, || {
        let home = pickler_class(py).and_then(|class| class.getattr(intern!(py, "__module__")));
        home.is_ok_and(|home| home.eq("multiprocessing.reduction").unwrap_or(false))
    })
}

/// A `multiprocessing` pickler with its sink.
struct Pickler {
    dump: Py<PyAny>,
    clear_memo: Py<PyAny>,
    sink: Py<Sink>,
}

impl Pickler {
    fn new(py: Python<'_>, protocol: u8) -> PyResult<Pickler> {
        static REDUCERS: PyOnceLock<Py<Reducers>> = PyOnceLock::new();
        let class = pickler_class(py)?;
        let reducers = REDUCERS.get_or_try_init(py, || {
            let registered = class
                .getattr(intern!(py, "_extra_reducers"))?
                .cast_into()?
                .unbind();
            let copyreg = py
                .import("copyreg")?
                .getattr("dispatch_table")?
                .cast_into()?
                .unbind();
            Py::new(py, Reducers { registered, copyreg })
        })?;
        let sink = Py::new(py, Sink(Exclusive::default()))?;
        let pickler = class.call1((&sink, protocol))?;
        pickler.setattr(intern!(py, "dispatch_table"), reducers)?;
        Ok(Pickler {
            dump: pickler.getattr(intern!(py, "dump"))?.unbind(),
            clear_memo: pickler.getattr(intern!(py, "clear_memo"))?.unbind(),
            sink,
        })
    }

    fn dump(&self, object: &Bound<'_, PyAny>) -> PyResult<Pickled> {
        let py = object.py();
        call_one(self.dump.bind(py), object)?;
        self.clear_memo.bind(py).call0()?; // it held the object and its parts
        self.sink.get().0.with(mem::take).ok_or_else(in_use)
    }
}

/// The pickler of one handle, for one thread at a time.
pub struct Picklers {
    protocol: u8,
    idle: Exclusive<Option<Pickler>>,
}

impl Picklers {
    pub fn new(protocol: u8) -> Picklers {
        Picklers {
            protocol,
            idle: Exclusive::default(),
        }
    }

    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// While the pickler is out, another thread, or a reducer that itself puts into this queue, makes its
    /// own. One that failed is not used again: it holds half an object.
    pub fn dump(&self, object: &Bound<'_, PyAny>) -> PyResult<Pickled> {
        let idle = self.idle.with(Option::take).flatten();
        let pickler = match idle {
            Some(pickler) => pickler,
            None => Pickler::new(object.py(), self.protocol)?,
        };
        let pickled = pickler.dump(object)?;
        if !pickled.is_large() {
            let mut pickler = Some(pickler);
            self.idle.with(|idle| mem::swap(idle, &mut pickler));
            drop(pickler); // a surplus one, when nobody is turned away for it
        }
        Ok(pickled)
    }
}
