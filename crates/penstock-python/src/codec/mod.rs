//! Objects to bytes and back. Nothing here knows what keeps the bytes: a queue in shared memory, or any other
//! store.
//!
//! Out: [`Codec::write_plain`] (plain.rs) makes a message of a plain object, and [`Codec::encode`] of any
//! other: an array (numpy.rs), or what goes to a pickler (pickling.rs, with reducers.rs and
//! forking_pickler.rs). Large buffers lie beside the pickle (memory.rs, envelope.rs). Back: [`Codec::load`]
//! (unpickling.rs).

mod envelope;
pub mod forking_pickler;
pub mod functions;
mod interned_keys;
pub mod memory;
mod mentioned;
pub mod numpy;
pub mod pickling;
pub mod plain;
pub mod reducers;
pub mod unpickling;

use pyo3::prelude::*;

use crate::interpreter::gil::LARGE;
use crate::interpreter::reserve;
use forking_pickler::{Home, Other};
use pickling::{Pickled, Picklers};
use plain::Writer;
use unpickling::Source;

pub use envelope::{is_sealed, open_raw, raw_mark};

pub const HIGHEST_PROTOCOL: u8 = 5;

/// How the objects of one handle become bytes, and objects again.
pub struct Codec {
    protocol: u8,
    other: Other,
    picklers: Picklers,
}

impl Codec {
    pub fn new(py: Python<'_>, home: Home, protocol: u8) -> PyResult<Codec> {
        Ok(Codec {
            protocol,
            other: Other::new(py, home)?,
            picklers: Picklers::new(protocol),
        })
    }

    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The message of a plain object. `None` if it is not plain, or if the program has another pickler, which
    /// every object goes to.
    #[inline]
    pub fn write_plain<'a>(
        &self,
        object: &'a Bound<'_, PyAny>,
        writer: &'a mut Writer,
    ) -> Option<plain::Written<'a>> {
        if self.other.is_there() {
            return None;
        }
        writer.write(object, self.protocol)
    }

    /// The message of any other object. Its reducers, which are code of the program, may run.
    pub fn encode(&self, object: &Bound<'_, PyAny>) -> PyResult<Encoded> {
        if !self.other.is_there() && self.protocol >= pickling::BUFFERS {
            if let Some(written) = numpy::write(object) {
                return Ok(Encoded::Array(written));
            }
        }
        let pickled = match self.other.class(object.py())? {
            Some(other) => Pickled::by(&other, object)?,
            None => self.picklers.dump(object)?,
        };
        Ok(Encoded::Pickled(pickled))
    }

    /// Rebuilds the object in a message. Errors name `origin`, the queue that the message came from, if there
    /// is one. If there is no memory for the object, the reserve is freed, and the object rebuilt once more.
    #[inline]
    pub fn load<'py>(
        &self,
        py: Python<'py>,
        message: &(impl Source + ?Sized),
        origin: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        reserve::with_reserve(py, || unpickling::rebuild(py, &self.other, message, origin))
    }
}

/// The message of an object that is not plain.
pub enum Encoded {
    Array(numpy::Written),
    Pickled(Pickled),
}

impl Encoded {
    /// Lends the bytes, in pieces, to `operation`.
    pub fn lend<T>(&self, py: Python<'_>, operation: impl FnOnce(&[&[u8]]) -> PyResult<T>) -> PyResult<T> {
        match self {
            Encoded::Array(written) => written.lend(operation),
            Encoded::Pickled(pickled) => pickled.lend(py, operation),
        }
    }

    /// Whether the bytes are so many that the GIL is released while they are copied.
    pub fn is_large(&self) -> bool {
        match self {
            Encoded::Array(written) => written.len() > LARGE,
            Encoded::Pickled(pickled) => pickled.is_large(),
        }
    }
}
