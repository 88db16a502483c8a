//! Time-outs, the GIL and signals: what an operation needs that may wait.

use std::time::{Duration, Instant};

use penstock_core::{Error, Patience, Wait};
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;

use crate::interpreter::errors;

/// Above this many bytes a copy is made with the GIL released.
pub const LARGE: usize = 64 * 1024;

/// The longest delay: three centuries.
const MOST_SECONDS: f64 = 1e10;

/// How long the caller waits at most, fixed when the call begins.
#[derive(Clone, Copy)]
pub enum Deadline {
    Now,
    /// The same, for a thread that has other work to do while a stopped process holds the lock.
    Briefly,
    At(Instant),
    Never,
}

impl Deadline {
    /// As `multiprocessing` reads `block` (a truth) and `timeout` (seconds). Without `block` the time-out is
    /// ignored, whatever it is. A negative one is zero. One that no clock can hold (infinity) is no limit.
    pub fn new(block: bool, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Deadline> {
        if !block {
            return Ok(Deadline::Now);
        }
        let Some(timeout) = timeout else {
            return Ok(Deadline::Never);
        };
        let seconds: f64 = timeout.extract()?;
        if seconds.is_nan() {
            return Err(PyValueError::new_err("timeout must not be NaN"));
        }
        if seconds <= 0.0 {
            return Ok(Deadline::Now);
        }
        let deadline = Duration::try_from_secs_f64(seconds)
            .ok()
            .and_then(|left| Instant::now().checked_add(left));
        Ok(deadline.map_or(Deadline::Never, Deadline::At))
    }

    /// The time that is left, `at_most` if that is less.
    pub fn left(self, at_most: Duration) -> Duration {
        match self {
            Deadline::Now | Deadline::Briefly => Duration::ZERO,
            Deadline::At(instant) => instant.saturating_duration_since(Instant::now()).min(at_most),
            Deadline::Never => at_most,
        }
    }

    /// The same deadline, but not later than after that time.
    pub fn within(self, at_most: Duration) -> Deadline {
        match self {
            Deadline::Now | Deadline::Briefly => self,
            _ => Deadline::At(Instant::now() + self.left(at_most)),
        }
    }

    fn patience(self) -> Patience {
        match self {
            Deadline::Now => Patience::NoWait,
            Deadline::Briefly => Patience::Briefly,
            Deadline::At(instant) => Patience::Until(instant),
            Deadline::Never => Patience::Forever,
        }
    }
}

/// A time in seconds. `None` for none, and for 0.
pub fn seconds(name: &str, time: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    let Some(time) = time else {
        return Ok(None);
    };
    let seconds = match time.extract::<f64>() {
        // An int that no float can hold is out of range, too.
        Err(error) if error.is_instance_of::<PyOverflowError>(time.py()) => f64::INFINITY,
        seconds => seconds?,
    };
    if !(0.0..=MOST_SECONDS).contains(&seconds) {
        return Err(PyValueError::new_err(format!(
            "{name} must be from 0 to {MOST_SECONDS:.0} seconds, not {seconds}"
        )));
    }
    Ok(Some(Duration::from_secs_f64(seconds)).filter(|time| !time.is_zero()))
}

/// One attempt with the GIL held. It waits for nothing but the ends of critical sections, so it needs no
/// interruption.
pub fn at_once<T>(operation: impl FnOnce(Wait<'_>) -> Result<T, Error>) -> Result<T, Error> {
    operation(Wait {
        patience: Patience::TryLock,
        interrupted: &mut || false,
    })
}

/// Runs `operation` with the GIL released. While it waits, `check` and the handlers of signals that have
/// arrived run now and then, with the GIL. If one of them raises (Ctrl-C does), the operation ends with that
/// exception. An item of a put that another process has published meanwhile is in the queue all the same, as
/// if the signal had come after the put.
pub fn released<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    mut check: impl FnMut(Python<'_>) -> PyResult<()> + Send,
    operation: impl FnOnce(Wait<'_>) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let mut raised: Option<PyErr> = None;
    let result = py.detach(|| {
        // No thread can attach to an interpreter that shuts down. A daemon thread, which is left then, waits
        // on.
        let mut interrupted = || {
            if raised.is_some() {
                return true;
            }
            let checked = Python::try_attach(|py| check(py).and_then(|()| py.check_signals()));
            raised = checked.and_then(Result::err);
            raised.is_some()
        };
        operation(Wait {
            patience: deadline.patience(),
            interrupted: &mut interrupted,
        })
    });
    match (result, raised) {
        (_, Some(raised)) => Err(raised),
        (result, None) => result.map_err(errors::to_python),
    }
}
