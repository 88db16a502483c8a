//! Memory of objects that is not copied until it goes into the queue.
#![allow(unsafe_code)]

use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;

/// An object's memory in one piece, which stays where it is until this is dropped.
pub struct Memory(PyUntypedBuffer);

impl Memory {
    /// `None` if the object's memory is in more than one piece.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Option<Memory>> {
        let buffer = PyUntypedBuffer::get(object)?;
        Ok((buffer.is_c_contiguous() || buffer.is_fortran_contiguous()).then_some(Memory(buffer)))
    }

    pub fn len(&self) -> usize {
        self.0.len_bytes()
    }

    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// What the items are, in the characters of the `struct` module.
    pub fn format(&self) -> &[u8] {
        self.0.format().to_bytes()
    }

    pub fn item_size(&self) -> usize {
        self.0.item_size()
    }

    pub fn is_in_c_order(&self) -> bool {
        self.0.is_c_contiguous()
    }

    pub fn is_read_only(&self) -> bool {
        self.0.readonly()
    }

    pub fn bytes(&self) -> &[u8] {
        match self.len() {
            0 => &[], // which may have no address
            // SAFETY: a contiguous buffer is `len` bytes at its pointer, which its owner keeps there until the buffer is
            // released. Another thread of the program may store into it meanwhile, as into anything that it puts;
            // then the item has the old bytes or the new ones, and SAFETY.md says what this means for the compiler.
            len => unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast::<u8>(), len) },
        }
    }
}
