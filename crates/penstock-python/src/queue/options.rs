//! What a queue is asked to be.

use pyo3::prelude::*;

/// The options of a new queue, fixed when it is created.
#[pyclass(frozen, module = "penstock._native")]
pub struct Options(pub penstock_core::Options);

#[pymethods]
impl Options {
    #[new]
    #[pyo3(signature = (
        *, maxsize = 0, max_bytes = None, soft_bytes = 0, acknowledged = false, max_deliveries
    ))]
    fn new(
        maxsize: u64,
        max_bytes: Option<u64>,
        soft_bytes: u64,
        acknowledged: bool,
        max_deliveries: u8,
    ) -> Options {
        Options(penstock_core::Options {
            maxsize,
            max_bytes,
            soft_bytes,
            acknowledged,
            max_deliveries,
        })
    }
}
