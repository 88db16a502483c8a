//! Plain objects to bytes and back, without pickle's fixed cost.
//!
//! A message is plain if it consists of a few objects of exactly the built-in types below. Its bytes are a
//! pickle, of the protocol's own opcodes, which `pickle.loads` can read; this file only writes and reads it
//! faster. Objects that are not plain (of a subclass, a huge int, an object that occurs twice, a deep
//! nesting) are left to pickle, and so are pickles with any other opcode: the answer is `None` then. No
//! reducer is passed over, because pickle asks none for these types. If a program has put a pickler of its
//! own in the place of multiprocessing's, nothing is plain (mod.rs).
//!
//! | object | opcodes (protocol 4) |
//! |---|---|
//! | None, True, False | `N`, `\x88`, `\x89` |
//! | int of 64 bits | `K` u8, `M` u16, `J` i32, `\x8a\x08` i64 |
//! | float | `G` f64, the highest byte first |
//! | str, UTF-8 | `\x8c` u8 length, `X` u32 length |
//! | bytes | `C` u8 length, `B` u32 length |
//! | tuple | `)`; or its items, then `\x85`, `\x86`, `\x87`; or `(` its items `t` |
//! | list | `]`, and if it has items `(` items `e` |
//! | dict | `}`, and if it has items `(` keys and values in turn `u` |

use arrayvec::ArrayVec;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::codec::{HIGHEST_PROTOCOL, interned_keys};
use crate::interpreter::ffi::{self, new_bytes};
use crate::interpreter::gil::LARGE;

/// Objects in a plain message, containers included.
const OBJECTS: usize = 32;
/// Bytes of a plain container. In a larger one the contents take most of the time, and pickle is fast with
/// those.
const BYTES: usize = 512;
/// Containers inside each other.
const DEPTH: usize = 4;
/// From this length (bytes) on, a string that is a message by itself is sent from where it lies.
const COPIED: usize = 128;

/// Protocols from here on have all the opcodes.
const PROTOCOL: u8 = 4;

mod opcode {
    pub const PROTO: u8 = 0x80;
    pub const STOP: u8 = b'.';
    pub const NONE: u8 = b'N';
    pub const TRUE: u8 = 0x88;
    pub const FALSE: u8 = 0x89;
    pub const BININT1: u8 = b'K';
    pub const BININT2: u8 = b'M';
    pub const BININT: u8 = b'J';
    pub const LONG1: u8 = 0x8a;
    pub const BINFLOAT: u8 = b'G';
    pub const SHORT_BINUNICODE: u8 = 0x8c;
    pub const BINUNICODE: u8 = b'X';
    pub const SHORT_BINBYTES: u8 = b'C';
    pub const BINBYTES: u8 = b'B';
    pub const MARK: u8 = b'(';
    pub const EMPTY_TUPLE: u8 = b')';
    pub const TUPLE1: u8 = 0x85;
    pub const TUPLE2: u8 = 0x86;
    pub const TUPLE3: u8 = 0x87;
    pub const TUPLE: u8 = b't';
    pub const EMPTY_LIST: u8 = b']';
    pub const APPENDS: u8 = b'e';
    pub const EMPTY_DICT: u8 = b'}';
    pub const SETITEMS: u8 = b'u';
}

// ------------------------------------------------------------------------------------------------- to bytes

/// The bytes of a plain message.
pub struct Written<'a> {
    head: &'a [u8],
    /// A long string, which is sent from where it lies.
    body: Option<&'a [u8]>,
}

impl Written<'_> {
    /// Lends the bytes, in pieces, to `operation`.
    #[inline]
    pub fn lend<T>(&self, operation: impl FnOnce(&[&[u8]]) -> T) -> T {
        match self.body {
            None => operation(&[self.head]),
            Some(body) => operation(&[self.head, body, &[opcode::STOP]]),
        }
    }

    pub fn is_large(&self) -> bool {
        self.body.is_some_and(|body| body.len() > LARGE)
    }
}

/// Writes one plain message after the other.
#[derive(Default)]
pub struct Writer {
    bytes: ArrayVec<u8, BYTES>,
    /// Objects written so far. The reader may need a place for each.
    objects: usize,
    /// The objects written so far that must arrive as one object if they occur again.
    seen: ArrayVec<*mut pyo3::ffi::PyObject, OBJECTS>,
}

impl Writer {
    /// Writes an object as a pickle of `protocol`, if it is plain.
    #[inline]
    pub fn write<'a>(&'a mut self, object: &'a Bound<'_, PyAny>, protocol: u8) -> Option<Written<'a>> {
        if protocol < PROTOCOL {
            return None;
        }
        self.bytes.clear();
        self.seen.clear();
        self.objects = 0;
        self.push(&[opcode::PROTO, protocol])?;
        let body = self.message(object)?;
        if body.is_none() {
            self.push(&[opcode::STOP])?;
        }
        Some(Written {
            head: &self.bytes,
            body,
        })
    }

    #[inline(always)]
    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        self.bytes.try_extend_from_slice(bytes).ok()
    }

    /// Writes the object. Of a long string all but the contents, which it returns.
    #[inline]
    fn message<'a>(&mut self, object: &'a Bound<'_, PyAny>) -> Option<Option<&'a [u8]>> {
        let (contents, short, long) = if let Ok(string) = object.cast_exact::<PyString>() {
            let contents = string.to_str().ok()?;
            (contents.as_bytes(), opcode::SHORT_BINUNICODE, opcode::BINUNICODE)
        } else if let Ok(bytes) = object.cast_exact::<PyBytes>() {
            (bytes.as_bytes(), opcode::SHORT_BINBYTES, opcode::BINBYTES)
        } else {
            return self.object(object, 0).map(|()| None);
        };
        self.length(contents.len(), short, long)?;
        if contents.len() < COPIED {
            self.push(contents)?;
            return Some(None);
        }
        Some(Some(contents))
    }

    fn object(&mut self, object: &Bound<'_, PyAny>, depth: usize) -> Option<()> {
        if self.objects == OBJECTS {
            return None;
        }
        self.objects += 1;
        if let Ok(int) = object.cast_exact::<PyInt>() {
            return self.int(int.extract().ok()?);
        }
        if let Ok(string) = object.cast_exact::<PyString>() {
            self.see(object)?;
            let contents = string.to_str().ok()?.as_bytes();
            self.length(contents.len(), opcode::SHORT_BINUNICODE, opcode::BINUNICODE)?;
            return self.push(contents);
        }
        if let Ok(float) = object.cast_exact::<PyFloat>() {
            self.push(&[opcode::BINFLOAT])?;
            return self.push(&float.value().to_be_bytes());
        }
        if object.is_none() {
            return self.push(&[opcode::NONE]);
        }
        if let Ok(truth) = object.cast_exact::<PyBool>() {
            let is_true = truth.is_true();
            return self.push(&[if is_true { opcode::TRUE } else { opcode::FALSE }]);
        }
        if let Ok(bytes) = object.cast_exact::<PyBytes>() {
            self.see(object)?;
            let contents = bytes.as_bytes();
            self.length(contents.len(), opcode::SHORT_BINBYTES, opcode::BINBYTES)?;
            return self.push(contents);
        }
        if depth == DEPTH {
            return None;
        }
        if let Ok(tuple) = object.cast_exact::<PyTuple>() {
            self.tuple(tuple, depth + 1)
        } else if let Ok(list) = object.cast_exact::<PyList>() {
            self.list(list, depth + 1)
        } else if let Ok(dict) = object.cast_exact::<PyDict>() {
            self.dict(dict, depth + 1)
        } else {
            None
        }
    }

    /// Remembers an object. `None` if it occurs twice: pickle lets it arrive as one object.
    #[inline]
    fn see(&mut self, object: &Bound<'_, PyAny>) -> Option<()> {
        let object = object.as_ptr();
        if self.seen.contains(&object) {
            return None;
        }
        self.seen.try_push(object).ok()
    }

    #[inline]
    fn int(&mut self, value: i64) -> Option<()> {
        if let Ok(value) = u8::try_from(value) {
            self.push(&[opcode::BININT1, value])
        } else if let Ok(value) = u16::try_from(value) {
            let [low, high] = value.to_le_bytes();
            self.push(&[opcode::BININT2, low, high])
        } else if let Ok(value) = i32::try_from(value) {
            self.push(&[opcode::BININT])?;
            self.push(&value.to_le_bytes())
        } else {
            self.push(&[opcode::LONG1, 8])?;
            self.push(&value.to_le_bytes())
        }
    }

    #[inline]
    fn length(&mut self, length: usize, short: u8, long: u8) -> Option<()> {
        if let Ok(length) = u8::try_from(length) {
            self.push(&[short, length])
        } else {
            self.push(&[long])?;
            self.push(&u32::try_from(length).ok()?.to_le_bytes())
        }
    }

    fn tuple(&mut self, tuple: &Bound<'_, PyTuple>, depth: usize) -> Option<()> {
        let end = match tuple.len() {
            // There is only one empty tuple.
            0 => return self.push(&[opcode::EMPTY_TUPLE]),
            1 => opcode::TUPLE1,
            2 => opcode::TUPLE2,
            3 => opcode::TUPLE3,
            _ => {
                self.push(&[opcode::MARK])?;
                opcode::TUPLE
            }
        };
        self.see(tuple)?;
        for item in tuple.iter_borrowed() {
            self.object(&item, depth)?;
        }
        self.push(&[end])
    }

    fn list(&mut self, list: &Bound<'_, PyList>, depth: usize) -> Option<()> {
        self.see(list)?;
        self.push(&[opcode::EMPTY_LIST])?;
        if list.is_empty() {
            return Some(());
        }
        self.push(&[opcode::MARK])?;
        for item in list.iter() {
            self.object(&item, depth)?;
        }
        self.push(&[opcode::APPENDS])
    }

    fn dict(&mut self, dict: &Bound<'_, PyDict>, depth: usize) -> Option<()> {
        self.see(dict)?;
        self.push(&[opcode::EMPTY_DICT])?;
        if dict.is_empty() {
            return Some(());
        }
        self.push(&[opcode::MARK])?;
        // Without a GIL another thread may change the dict meanwhile, and its iterator would panic. A copy is
        // whole.
        #[cfg(Py_GIL_DISABLED)]
        let dict = &dict.copy().ok()?;
        for (key, value) in dict.iter() {
            self.object(&key, depth)?;
            self.object(&value, depth)?;
        }
        self.push(&[opcode::SETITEMS])
    }
}

// ----------------------------------------------------------------------------------------------- from bytes

/// Reads what a [`Writer`] wrote. `None` for other opcodes, and on any error, which `pickle.loads` then
/// raises.
#[inline]
pub fn read<'py>(py: Python<'py>, bytes: &[u8]) -> Option<Bound<'py, PyAny>> {
    let [opcode::PROTO, PROTOCOL..=HIGHEST_PROTOCOL, rest @ ..] = bytes else {
        return None;
    };
    let mut reader = Reader {
        py,
        rest,
        stack: ArrayVec::new(),
        marks: ArrayVec::new(),
    };
    while reader.step()? {}
    let object = reader.stack.pop()?;
    (reader.stack.is_empty() && reader.marks.is_empty()).then_some(object)
}

struct Reader<'a, 'py> {
    py: Python<'py>,
    rest: &'a [u8],
    stack: ArrayVec<Bound<'py, PyAny>, OBJECTS>,
    marks: ArrayVec<Mark, DEPTH>,
}

/// The beginning of a container's items on the stack.
#[derive(Clone, Copy)]
struct Mark {
    start: usize,
    container: Container,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Container {
    Tuple,
    /// The place below the items is kept for it.
    List,
    /// It lies below the items.
    Dict,
}

impl<'a, 'py> Reader<'a, 'py> {
    /// Does what the next opcode says. False if it was the last.
    #[inline(always)]
    fn step(&mut self) -> Option<bool> {
        let py = self.py;
        match self.take::<1>()?[0] {
            opcode::STOP => return Some(false),
            opcode::NONE => self.push(py.None().into_bound(py))?,
            opcode::TRUE => self.push(PyBool::new(py, true).to_owned().into_any())?,
            opcode::FALSE => self.push(PyBool::new(py, false).to_owned().into_any())?,
            opcode::BININT1 => {
                let [value] = self.take()?;
                self.int(value.into())?;
            }
            opcode::BININT2 => {
                let value = u16::from_le_bytes(self.take()?);
                self.int(value.into())?;
            }
            opcode::BININT => {
                let value = i32::from_le_bytes(self.take()?);
                self.int(value.into())?;
            }
            opcode::LONG1 => {
                let [8] = self.take()? else { return None };
                let value = i64::from_le_bytes(self.take()?);
                self.int(value)?;
            }
            opcode::BINFLOAT => {
                let value = f64::from_be_bytes(self.take()?);
                self.push(ffi::new_float(py, value).ok()?.into_any())?;
            }
            opcode::SHORT_BINUNICODE => {
                let [length] = self.take()?;
                self.string(length.into())?;
            }
            opcode::BINUNICODE => {
                let length = u32::from_le_bytes(self.take()?);
                self.string(length as usize)?;
            }
            opcode::SHORT_BINBYTES => {
                let [length] = self.take()?;
                self.bytes(length.into())?;
            }
            opcode::BINBYTES => {
                let length = u32::from_le_bytes(self.take()?);
                self.bytes(length as usize)?;
            }
            opcode::MARK => self.mark(Container::Tuple)?,
            opcode::EMPTY_TUPLE => self.push(PyTuple::empty(py).into_any())?,
            opcode::TUPLE1 => self.tuple_of(1)?,
            opcode::TUPLE2 => self.tuple_of(2)?,
            opcode::TUPLE3 => self.tuple_of(3)?,
            opcode::TUPLE => {
                let start = self.end(Container::Tuple)?;
                self.tuple(start)?;
            }
            opcode::EMPTY_LIST if self.is_marked() => {
                self.push(py.None().into_bound(py))?;
                self.mark(Container::List)?;
            }
            opcode::EMPTY_LIST => self.push(ffi::new_list(py).ok()?.into_any())?,
            opcode::APPENDS => self.list()?,
            opcode::EMPTY_DICT => {
                self.push(ffi::new_dict(py).ok()?.into_any())?;
                if self.is_marked() {
                    self.mark(Container::Dict)?;
                }
            }
            opcode::SETITEMS => self.dict()?,
            _ => return None,
        }
        Some(true)
    }

    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    #[inline(always)]
    fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        // A longer one is a message by itself. In any other message it is not ours, and a copy would be in
        // vain.
        if length > BYTES && rest != [opcode::STOP] {
            return None;
        }
        self.rest = rest;
        Some(taken)
    }

    #[inline(always)]
    fn push(&mut self, object: Bound<'py, PyAny>) -> Option<()> {
        self.stack.try_push(object).ok()
    }

    #[inline(always)]
    fn int(&mut self, value: i64) -> Option<()> {
        self.push(ffi::new_int(self.py, value).ok()?.into_any())
    }

    #[inline]
    fn string(&mut self, length: usize) -> Option<()> {
        let contents = self.slice(length)?;
        let string = if self.is_at_key() {
            interned_keys::string(self.py, contents)?
        } else {
            PyString::from_bytes(self.py, contents).ok()?
        };
        self.push(string.into_any())
    }

    #[inline]
    fn bytes(&mut self, length: usize) -> Option<()> {
        let contents = self.slice(length)?;
        self.push(new_bytes(self.py, contents).ok()?.into_any())
    }

    /// Replaces what lies on the stack from `start` on by a tuple of it.
    #[inline]
    fn tuple(&mut self, start: usize) -> Option<()> {
        let py = self.py;
        let tuple = ffi::new_tuple_of(py, self.above(start)?).ok()?;
        self.push(tuple.into_any())
    }

    /// Replaces the last objects by a tuple of them.
    #[inline]
    fn tuple_of(&mut self, count: usize) -> Option<()> {
        let start = self.stack.len().checked_sub(count)?;
        (start >= self.lowest()).then(|| self.tuple(start))?
    }

    /// What lies lower on the stack belongs to a container further out.
    #[inline]
    fn lowest(&self) -> usize {
        self.marks.last().map_or(0, |mark| mark.start)
    }

    /// Whether the next opcode marks the beginning of items; takes it then.
    #[inline]
    fn is_marked(&mut self) -> bool {
        let [opcode::MARK, rest @ ..] = self.rest else {
            return false;
        };
        self.rest = rest;
        true
    }

    #[inline]
    fn mark(&mut self, container: Container) -> Option<()> {
        let start = self.stack.len();
        self.marks.try_push(Mark { start, container }).ok()
    }

    /// Where the items of the innermost container begin. `None` if the mark is another container's: pickle
    /// reads it then.
    #[inline]
    fn end(&mut self, container: Container) -> Option<usize> {
        let mark = self.marks.pop()?;
        (mark.container == container).then_some(mark.start)
    }

    /// Whether the next object is a key of a dict.
    #[inline]
    fn is_at_key(&self) -> bool {
        let is_key =
            |mark: &Mark| mark.container == Container::Dict && (self.stack.len() - mark.start) % 2 == 0;
        self.marks.last().is_some_and(is_key)
    }

    /// Replaces what lies above the mark, and the place below it, by a list of it.
    fn list(&mut self) -> Option<()> {
        let start = self.end(Container::List)?;
        let py = self.py;
        let list = ffi::new_list_of(py, self.above(start)?).ok()?;
        *self.stack.last_mut()? = list.into_any();
        Some(())
    }

    fn dict(&mut self) -> Option<()> {
        let start = self.end(Container::Dict)?;
        let dict = self
            .stack
            .get(start.checked_sub(1)?)?
            .clone()
            .cast_into_exact::<PyDict>()
            .ok()?;
        let mut items = self.above(start)?;
        while let Some(key) = items.next() {
            dict.set_item(key, items.next()?).ok()?;
        }
        Some(())
    }

    #[inline(always)]
    fn above(&mut self, start: usize) -> Option<arrayvec::Drain<'_, Bound<'py, PyAny>, OBJECTS>> {
        (start <= self.stack.len()).then(|| self.stack.drain(start..))
    }
}
