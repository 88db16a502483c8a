//! Objects to bytes.
//!
//! A pickler is kept for the next object, because making one costs five times as much as pickling a small
//! tuple. It writes into a sink that collects the pieces without copying them, so that they go from there to
//! shared memory at once. Large buffers travel beside the pickle (envelope.rs).

use std::mem;

use pyo3::exceptions::{PyBufferError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::codec::envelope;
use crate::codec::forking_pickler;
use crate::codec::memory::Memory;
use crate::codec::reducers::Reducers;
use crate::interpreter::ffi::{call_one, new_bytes};
use crate::interpreter::gil::LARGE;
use crate::interpreter::once::{Exclusive, name};
use crate::interpreter::reserve;

/// Objects that a pickler has remembered which is worth keeping. No pickle of fewer bytes has more.
const MEMO: usize = 512;
/// The opcode by which it remembers one. As a part of contents it counts, too, which does no harm.
const MEMOIZE: u8 = 0x94;

/// The first protocol that can leave buffers out.
pub const BUFFERS: u8 = 5;

/// A part of a pickle.
enum Piece {
    Bytes(Py<PyBytes>),
    /// Not immutable, and not copied either: a bytearray, which cannot be resized while it is lent. What another thread
    /// writes to it before it is sent may be sent.
    Memory(Memory),
}

impl Piece {
    fn bytes<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        match self {
            Piece::Bytes(bytes) => bytes.as_bytes(py),
            Piece::Memory(memory) => memory.bytes(),
        }
    }
}

/// A pickled object: the pickle in pieces, most have one, and the buffers that travel beside it.
#[derive(Default)]
pub struct Pickled {
    first: Option<Piece>,
    rest: Vec<Piece>,
    len: usize,
    buffers: Vec<Memory>,
}

impl Pickled {
    /// What a pickler that a program has put in the place of multiprocessing's makes of an object.
    pub fn by(other: &Bound<'_, PyAny>, object: &Bound<'_, PyAny>) -> PyResult<Pickled> {
        let py = object.py();
        let bytes = other.call_method1(name!(py, "dumps"), (object,))?;
        let scattered = || PyBufferError::new_err("dumps() has returned a buffer in more than one piece");
        let memory = Memory::of(&bytes)?.ok_or_else(scattered)?;
        let mark = envelope::raw_mark(memory.bytes());
        let mut pickled = Pickled::default();
        if !mark.is_empty() {
            pickled.push(Piece::Bytes(new_bytes(py, mark)?.unbind()), mark.len())?;
        }
        let len = memory.len();
        pickled.push(Piece::Memory(memory), len)?;
        Ok(pickled)
    }

    pub fn is_large(&self) -> bool {
        self.len + self.buffers.iter().map(Memory::len).sum::<usize>() > LARGE
    }

    /// Whether its pickler has become one that takes long to empty: as much memory, and a memo of as many places, as the
    /// largest object that it ever pickled took, would be gone through for each object after it.
    fn has_swollen_its_pickler(&self, py: Python<'_>) -> bool {
        if self.len > LARGE {
            return true;
        }
        let mut memorized = 0;
        let pieces = self.first.iter().chain(&self.rest).map(|piece| piece.bytes(py));
        // A compiler makes no vectors of a loop that may end at each byte.
        for part in pieces.flat_map(|bytes| bytes.chunks(MEMO)) {
            memorized += part
                .iter()
                .map(|byte| usize::from(*byte == MEMOIZE))
                .sum::<usize>();
            if memorized > MEMO {
                return true;
            }
        }
        false
    }

    fn push(&mut self, piece: Piece, len: usize) -> PyResult<()> {
        match self.first {
            None => self.first = Some(piece),
            Some(_) => {
                reserve::make_room(&mut self.rest, 1)?;
                self.rest.push(piece);
            }
        }
        self.len += len;
        Ok(())
    }

    /// False if the pickle so far ends with how long a bytearray is that comes next, and that is not `len`.
    fn announces(&self, py: Python<'_>, len: usize) -> bool {
        const BYTEARRAY8: u8 = 0x96;
        let last = self.rest.last().or(self.first.as_ref());
        let end = last.and_then(|last| last.bytes(py).last_chunk::<9>());
        !matches!(end, Some([BYTEARRAY8, length @ ..]) if *length != (len as u64).to_le_bytes())
    }

    /// The length of the pickle, without the buffers beside it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Appends bytes to the pickle. `pickle.loads` does not look behind the end of a pickle.
    pub fn pad(&mut self, py: Python<'_>, padding: &[u8]) -> PyResult<()> {
        self.push(Piece::Bytes(new_bytes(py, padding)?.unbind()), padding.len())
    }

    /// Lends the message's pieces to `operation`.
    pub fn lend<T>(&self, py: Python<'_>, operation: impl FnOnce(&[&[u8]]) -> PyResult<T>) -> PyResult<T> {
        match &self.first {
            Some(first) if self.rest.is_empty() && self.buffers.is_empty() => operation(&[first.bytes(py)]),
            first => {
                let pickle = first.iter().chain(&self.rest).map(|piece| piece.bytes(py));
                if self.buffers.is_empty() {
                    let mut pieces = Vec::new();
                    reserve::make_room(&mut pieces, 1 + self.rest.len())?;
                    pieces.extend(pickle);
                    operation(&pieces)
                } else {
                    self.lend_sealed(pickle, operation)
                }
            }
        }
    }

    fn lend_sealed<'a, T>(
        &'a self,
        pickle: impl Iterator<Item = &'a [u8]>,
        operation: impl FnOnce(&[&[u8]]) -> PyResult<T>,
    ) -> PyResult<T> {
        let lengths = self
            .buffers
            .iter()
            .map(|buffer| (buffer.len(), buffer.is_read_only()));
        let (head, starts) = envelope::seal(self.len, lengths).ok_or_else(reserve::no_memory)?;
        let mut pieces = Vec::new();
        reserve::make_room(&mut pieces, 2 + self.rest.len() + 2 * self.buffers.len())?;
        pieces.push(head.as_slice());
        for piece in pickle {
            pieces.push(piece);
        }
        let mut end = head.len() + self.len;
        for (buffer, start) in self.buffers.iter().zip(starts) {
            pieces.push(envelope::padding(end, start));
            pieces.push(buffer.bytes());
            end = start + buffer.len();
        }
        operation(&pieces)
    }
}

/// Makes the classes, which needs memory, before there may be none.
pub fn prepare(py: Python<'_>) {
    use pyo3::PyTypeInfo;
    Sink::type_object(py);
}

/// The file that a pickler writes to, and where it leaves buffers.
#[pyclass(frozen)]
struct Sink(Exclusive<Pickled>);

#[pymethods]
impl Sink {
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let piece = match data.cast::<PyBytes>() {
            Ok(bytes) => Piece::Bytes(bytes.clone().unbind()),
            Err(_) => {
                let scattered =
                    || PyBufferError::new_err("a pickler has written a buffer in more than one piece");
                Piece::Memory(Memory::of(data)?.ok_or_else(scattered)?)
            }
        };
        let len = piece.bytes(data.py()).len();
        let is_bytearray = data.is_exact_instance_of::<PyByteArray>();
        let push = |pickled: &mut Pickled| {
            // Without a GIL another thread may resize it after the pickler has written how long it is.
            let is_announced = !is_bytearray || pickled.announces(data.py(), len);
            if is_announced {
                pickled.push(piece, len)?;
            }
            PyResult::Ok(is_announced)
        };
        if self.0.with(push).ok_or_else(in_use)?? {
            return Ok(());
        }
        let resized = "a bytearray was resized by another thread while it was pickled";
        Err(PyBufferError::new_err(resized))
    }

    /// The pickler's `buffer_callback`: true leaves the buffer to the pickle.
    fn leave_to_pickle(&self, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        // What cannot be lent in one piece, too: pickle says best what is wrong with it.
        let memory = Memory::of(buffer).ok().flatten();
        let Some(memory) = memory.filter(|memory| memory.len() >= envelope::OUT_OF_BAND) else {
            return Ok(true);
        };
        let push = |pickled: &mut Pickled| {
            reserve::make_room(&mut pickled.buffers, 1)?;
            pickled.buffers.push(memory);
            Ok(false)
        };
        self.0.with(push).ok_or_else(in_use)?
    }
}

/// Only a program that gets hold of the pickler by itself can see this.
#[cold]
fn in_use() -> PyErr {
    PyRuntimeError::new_err("the pickler of a queue is in use by another thread")
}

/// A `multiprocessing` pickler with its sink.
struct Pickler {
    dump: Py<PyAny>,
    clear_memo: Py<PyAny>,
    sink: Py<Sink>,
    reducers: Reducers,
}

impl Pickler {
    fn new(py: Python<'_>, protocol: u8) -> PyResult<Pickler> {
        let class = forking_pickler::standard(py)?;
        let with_buffers = protocol >= BUFFERS;
        let reducers = Reducers::new(py, with_buffers);
        let sink = Py::new(py, Sink(Exclusive::default()))?;
        let pickler = if with_buffers {
            let fix_imports = true; // the default, which stands before the callback
            class.call1((
                &sink,
                protocol,
                fix_imports,
                sink.getattr(py, name!(py, "leave_to_pickle"))?,
            ))?
        } else {
            class.call1((&sink, protocol))?
        };
        pickler.setattr(name!(py, "dispatch_table"), &reducers.dict)?;
        Ok(Pickler {
            dump: pickler.getattr(name!(py, "dump"))?.unbind(),
            clear_memo: pickler.getattr(name!(py, "clear_memo"))?.unbind(),
            sink,
            reducers,
        })
    }

    fn dump(&mut self, object: &Bound<'_, PyAny>) -> PyResult<Pickled> {
        let py = object.py();
        self.reducers.refresh(py)?;
        call_one(self.dump.bind(py), object)?;
        self.clear_memo.bind(py).call0()?; // it held the object and its parts
        self.sink.get().0.with(mem::take).ok_or_else(in_use)
    }
}

/// Threads that may pickle at the same time without making a pickler each time.
const THREADS: usize = if cfg!(Py_GIL_DISABLED) { 8 } else { 1 };

/// The picklers of one handle, each for one thread at a time.
pub struct Picklers {
    protocol: u8,
    idle: [Exclusive<Option<Pickler>>; THREADS],
}

impl Picklers {
    pub fn new(protocol: u8) -> Picklers {
        Picklers {
            protocol,
            idle: Default::default(),
        }
    }

    /// While the pickler is out, another thread, or a reducer that itself puts into this queue, makes its
    /// own. One that failed is not used again: it holds half an object.
    pub fn dump(&self, object: &Bound<'_, PyAny>) -> PyResult<Pickled> {
        let idle = self
            .idle
            .iter()
            .find_map(|idle| idle.with(Option::take).flatten());
        let mut pickler = match idle {
            Some(pickler) => pickler,
            None => Pickler::new(object.py(), self.protocol)?,
        };
        let pickled = pickler.dump(object)?;
        if !pickled.has_swollen_its_pickler(object.py()) {
            let mut pickler = Some(pickler);
            for idle in &self.idle {
                if pickler.is_some() {
                    idle.with(|idle| mem::swap(idle, &mut pickler));
                }
            }
            drop(pickler); // a surplus one, when nobody is turned away for it
        }
        Ok(pickled)
    }
}
