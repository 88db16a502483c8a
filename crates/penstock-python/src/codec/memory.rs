//! Memory of objects, lent to the codec instead of copied.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::interpreter::once::once;

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

    /// The type of the items, in the characters of the `struct` module.
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
            // SAFETY: a contiguous buffer is `len` bytes at its pointer, which its owner keeps there until
            // the buffer is released. Another thread of the program may store into it meanwhile, as into
            // anything that it puts; then the item has the old bytes or the new ones, and SAFETY.md says what
            // this means for the compiler.
            len => unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast::<u8>(), len) },
        }
    }
}

/// An array's memory for a pickler: bytes that say they may be written to, whether or not they may. A pickler
/// marks a buffer of read-only memory, and the receiver's array would not be writable. Only picklers and the
/// binding have it, and they only read.
#[pyclass(frozen, name = "_Contents", module = "penstock._native")]
pub struct Contents(Memory);

impl Contents {
    /// A `pickle.PickleBuffer` of the memory.
    pub fn lend(py: Python<'_>, memory: Memory) -> PyResult<Bound<'_, PyAny>> {
        static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let import = || Ok(py.import("pickle")?.getattr("PickleBuffer")?.unbind());
        once(&CLASS, py, import)?.bind(py).call1((Contents(memory),))
    }
}

#[pymethods]
impl Contents {
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, buffer: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let bytes = slf.get().0.bytes();
        // SAFETY: `buffer` is the caller's, as the buffer protocol has it. It holds a reference to `slf`,
        // which keeps the memory where it is. The 0 says writable, and nothing writes: see the class.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                buffer,
                slf.as_ptr(),
                bytes.as_ptr().cast::<c_void>().cast_mut(),
                bytes.len() as ffi::Py_ssize_t,
                0,
                flags,
            )
        };
        if filled != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }
}

/// A `pickle.PickleBuffer` of an object's memory. Pickle does not mark it as read-only, even if the memory
/// is.
#[pyfunction]
pub fn _unmarked<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let scattered = || PyBufferError::new_err("the memory of an array is in more than one piece");
    Contents::lend(object.py(), Memory::of(object)?.ok_or_else(scattered)?)
}
