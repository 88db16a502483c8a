//! Places at which a process can be told to die or to stop, for tests. Only in builds with the feature
//! `fault-points`.

use penstock_core::fault;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The names of the places at which this process can be told to die.
#[pyfunction]
pub fn fault_points() -> Vec<&'static str> {
    fault::POINTS.to_vec()
}

/// The names of the places that this process has passed since this was last called.
#[pyfunction]
pub fn passed_points() -> Vec<&'static str> {
    fault::passed_points()
}

/// Lets this process stop itself by SIGSTOP the next time it passes `point`.
#[pyfunction]
pub fn suspend_at(point: &str) -> PyResult<()> {
    if fault::suspend_at(point) {
        Ok(())
    } else {
        Err(PyValueError::new_err(format!("no fault point {point:?}")))
    }
}

/// Lets this process die by SIGKILL when it passes `point` for the `hits`-th time.
#[pyfunction]
#[pyo3(signature = (point, hits = 1))]
pub fn arm_fault(point: &str, hits: u64) -> PyResult<()> {
    if fault::arm(point, hits) {
        Ok(())
    } else {
        Err(PyValueError::new_err(format!("no fault point {point:?}")))
    }
}
