//! What a queue is asked to be.

use penstock_core::Retry;
use pyo3::prelude::*;

/// The options of a new queue, fixed when it is created.
#[pyclass(frozen, module = "penstock._native")]
pub struct Options {
    pub queue: penstock_core::Options,
    pub retry: Retry,
}

#[pymethods]
impl Options {
    #[new]
    #[pyo3(signature = (
        *, maxsize = 0, max_bytes = None, soft_bytes = 0, acknowledged = false, max_deliveries,
        retry = (0.0, 1.0, 0.0, 0.0)
    ))]
    fn new(
        maxsize: u64,
        max_bytes: Option<u64>,
        soft_bytes: u64,
        acknowledged: bool,
        max_deliveries: u8,
        retry: (f64, f64, f64, f64),
    ) -> Options {
        let (first, factor, most, jitter) = retry;
        let queue = penstock_core::Options {
            maxsize,
            max_bytes,
            soft_bytes,
            acknowledged,
            max_deliveries,
        };
        let retry = Retry {
            first,
            factor,
            most,
            jitter,
        };
        Options { queue, retry }
    }
}
