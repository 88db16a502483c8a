//! The Python binding of `penstock_core`: the module `penstock._native`.
//!
//! It translates, and has no algorithm of a queue. Three folders, each of which imports those before it only
//! (tools/check_binding_layers.py):
//!
//! - interpreter/: calling Python and being called
//! - codec/: objects to bytes and back, for any backend
//! - queue/: the classes, and what connects them with the core
//!
//! ```text
//! put:  queue/classes.rs -> send_receive.rs -> codec/ (plain.rs; numpy.rs; pickling.rs) -> core
//! get:  core -> queue/send_receive.rs (for a payload in shared memory: payload_buffer.rs)
//!       -> codec/unpickling.rs
//! ```

mod codec;
mod interpreter;
mod queue;

#[global_allocator]
static ALLOCATOR: interpreter::allocator::Small = interpreter::allocator::Small;

#[pyo3::pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use crate::codec::functions::{dumps, loads};
    #[pymodule_export]
    use crate::codec::memory::_unmarked;
    #[pymodule_export]
    use crate::codec::numpy::_reduce_ndarray;
    #[pymodule_export]
    use crate::codec::reducers::_reduce_complex;
    #[pymodule_export]
    use crate::queue::channel::Channel;
    #[cfg(feature = "fault-points")]
    #[pymodule_export]
    use crate::queue::failpoints::{arm_fault, fault_points, passed_points, suspend_at};
    #[pymodule_export]
    use crate::queue::handle::Handle;
    #[pymodule_export]
    use crate::queue::iteration::QueueIterator;
    #[pymodule_export]
    use crate::queue::leases::Hold;
    #[pymodule_export]
    use crate::queue::options::Options;
    #[pymodule_export]
    use crate::queue::pins::_forget_carried;
    #[pymodule_export]
    use crate::queue::process_exit::_leave_all;
    #[pymodule_export]
    use crate::queue::producing::Producing;
    #[allow(non_upper_case_globals)]
    #[pymodule_export]
    const __version__: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    use crate::queue::classes::{JoinableQueueBase, QueueBase, SimpleQueueBase};

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        crate::interpreter::errors::import(module.py());
        crate::queue::payload_buffer::prepare(module.py());
        crate::codec::pickling::prepare(module.py());
        Ok(())
    }
}
