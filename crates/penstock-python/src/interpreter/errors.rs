//! The one place where an error of the core becomes a Python exception.

use libc::{EACCES, EBADF, EINVAL, EPIPE, EUCLEAN, EUSERS};
use penstock_core::Error;
use pyo3::exceptions::{PyBrokenPipeError, PyEOFError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::{PyErr, Python};

use crate::interpreter::reserve;

mod imported {
    pyo3::import_exception!(queue, Empty);
    pyo3::import_exception!(queue, Full);
    pyo3::import_exception!(penstock.errors, CorruptQueueError);
    pyo3::import_exception!(penstock.errors, QueueMemoryError);
    pyo3::import_exception!(penstock.errors, ShutDown);
}

/// Imports the exceptions when the module is loaded: no thread imports them later, while another one forks.
pub fn import(py: Python<'_>) {
    use pyo3::PyTypeInfo;
    imported::Empty::type_object(py);
    imported::Full::type_object(py);
    imported::CorruptQueueError::type_object(py);
    imported::QueueMemoryError::type_object(py);
    imported::ShutDown::type_object(py);
}

/// Whether an operation ended because its time was over: there was no room, no item, or work that was not
/// finished.
pub fn is_time_out(error: &Error) -> bool {
    matches!(
        error,
        Error::Full | Error::Empty | Error::FullBehindStopped { .. } | Error::EmptyBehindStopped { .. }
    )
}

pub fn is_shut_down(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<imported::ShutDown>(py)
}

/// Whether an operation ended because another process kept the lock.
pub fn is_stuck(error: &Error) -> bool {
    matches!(
        error,
        Error::Busy
            | Error::Stopped { .. }
            | Error::FullBehindStopped { .. }
            | Error::EmptyBehindStopped { .. }
    )
}

pub fn to_python(error: Error) -> PyErr {
    match error {
        Error::Full => imported::Full::new_err(()),
        Error::Empty => imported::Empty::new_err(()),
        Error::FullBehindStopped { .. } => imported::Full::new_err(error.to_string()),
        Error::EmptyBehindStopped { .. } => imported::Empty::new_err(error.to_string()),
        Error::StillBorrowed => PyValueError::new_err(error.to_string()),
        Error::TooManyDone => PyValueError::new_err("task_done() called too many times"),
        Error::OutOfMemory {
            needed,
            used,
            limit,
            taken,
            taken_bytes,
        } => {
            let message = error.to_string();
            imported::QueueMemoryError::new_err((message, needed, used, limit, taken, taken_bytes))
        }
        Error::NoMemory { needed, .. } | Error::NoAddressSpace { needed, .. } => {
            reserve::free();
            imported::QueueMemoryError::new_err((error.to_string(), needed))
        }
        Error::TooManyParticipants { .. } | Error::TooManyWaiters { .. } => {
            PyOSError::new_err((EUSERS, error.to_string()))
        }
        Error::ShutDown => imported::ShutDown::new_err(()),
        Error::Ended => PyEOFError::new_err(()),
        Error::Broken => PyBrokenPipeError::new_err((EPIPE, "Broken pipe")),
        Error::EndClosed => PyOSError::new_err((EBADF, error.to_string())),
        Error::NotifierUnreachable { .. } => PyOSError::new_err((EACCES, error.to_string())),
        Error::Corrupt { .. } => imported::CorruptQueueError::new_err((EUCLEAN, error.to_string())),
        Error::NotAQueue { .. } => PyOSError::new_err((EINVAL, error.to_string())),
        Error::Closed => PyOSError::new_err((EBADF, error.to_string())),
        Error::Os { errno, .. } => PyOSError::new_err((errno, error.to_string())),
        // Busy and Interrupted are answered by gil.rs, and an error that is newer than this binding has
        // its own words.
        _ => PyRuntimeError::new_err(error.to_string()),
    }
}
