//! Objects to bytes.
//!
//! A pickler is kept for the next object, because making one takes five times as long as pickling a small
//! tuple. It writes into a sink, which collects the pieces without copying them. They are copied once, to
//! where the message is kept. Large buffers lie beside the pickle (envelope.rs).

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

/// Most objects in the memo of a pickler that is worth keeping. A pickle has no more of them than bytes.
const MEMO: usize = 512;
/// The opcode that adds an object to the memo. Bytes of contents with this value are counted, too, which does
/// no harm.
const MEMOIZE: u8 = 0x94;

/// The first protocol that can leave buffers out.
pub const BUFFERS: u8 = 5;

/// A part of a pickle.
enum Piece {
    Bytes(Py<PyBytes>),
    /// Mutable memory that is not copied: of a bytearray, which cannot be resized while it is lent. If
    /// another thread writes to it before it is sent, the message may have the new bytes.
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

/// A pickled object: the pickle in pieces (mostly one), and the buffers that lie beside it.
#[derive(Default)]
pub struct Pickled {
    first: Option<Piece>,
    rest: Vec<Piece>,
    len: usize,
    buffers: Vec<Memory>,
}

impl Pickled {
    /// Pickles an object by the pickler that a program has put in the place of multiprocessing's.
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

    /// Whether this object has made its pickler too large to be kept. A pickler keeps the memory and the memo
    /// of its largest object, and clears all of it for each object that follows.
    fn has_swollen_its_pickler(&self, py: Python<'_>) -> bool {
        if self.len > LARGE {
            return true;
        }
        let mut memorized = 0;
        let pieces = self.first.iter().chain(&self.rest).map(|piece| piece.bytes(py));
        // In parts, because the compiler does not vectorize a loop that may end at each byte.
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

    /// Whether a bytearray of `len` bytes may come next. False if the pickle ends with the length of a
    /// bytearray, and it is another one.
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

    /// Appends bytes to the pickle. `pickle.loads` does not read beyond the end of a pickle.
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

/// Makes the classes when the module is loaded: later there may be no memory for them.
pub fn prepare(py: Python<'_>) {
    use pyo3::PyTypeInfo;
    Sink::type_object(py);
}

/// The file that a pickler writes to, with its `buffer_callback`.
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
            // Without a GIL another thread may resize it after the pickler has written its length.
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

    /// The pickler's `buffer_callback`. If it returns true, the buffer goes into the pickle.
    fn leave_to_pickle(&self, buffer: &Bound<'_, PyAny>) -> PyResult<bool> {
        // So does a buffer that cannot be lent in one piece: pickle raises the fitting error.
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

/// Raised only if the program has got hold of the pickler itself.
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

/// Picklers that a handle keeps, so many threads pickle at the same time without making one for each object.
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

    /// Pickles an object with a kept pickler, or with a new one: if another thread uses it, or a reducer that
    /// runs inside it pickles by itself. A pickler that failed is not used again: it holds half an object.
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
            drop(pickler); // no place was free for it; outside `with`, which keeps other threads out
        }
        Ok(pickled)
    }
}
