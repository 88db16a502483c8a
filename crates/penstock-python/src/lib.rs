//! The Python binding of `penstock_core`: the module `penstock._native`.
//!
//! It knows buffers, threads of the interpreter and exceptions, and has no algorithm. A message's way: queue.rs (the methods),
//! transfer.rs, plain.rs, arrays.rs or pickling.rs (with buffers.rs and envelope.rs), the core; back: the core, plain.rs, arrays.rs or lent.rs
//! and unpickling.rs.

mod arrays;
mod batches;
mod buffers;
mod calls;
mod carrying;
mod channel;
mod envelope;
mod errors;
#[cfg(feature = "fault-points")]
mod fault;
mod handle;
mod keys;
mod leaving;
mod lent;
mod mentioned;
mod pickling;
mod plain;
mod proof;
mod queue;
mod reducers;
mod room;
mod small;
mod sync;
mod transfer;
mod unpickling;
mod waiting;

#[global_allocator]
static ALLOCATOR: small::Small = small::Small;

#[pyo3::pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use crate::arrays::_reduce_ndarray;
    #[pymodule_export]
    use crate::buffers::_unmarked;
    #[pymodule_export]
    use crate::carrying::_forget_carried;
    #[pymodule_export]
    use crate::channel::Channel;
    #[cfg(feature = "fault-points")]
    #[pymodule_export]
    use crate::fault::{arm_fault, fault_points, passed_points, suspend_at};
    #[pymodule_export]
    use crate::handle::Handle;
    #[pymodule_export]
    use crate::leaving::_leave_all;
    #[pymodule_export]
    use crate::pickling::_reduce_complex;
    #[allow(non_upper_case_globals)]
    #[pymodule_export]
    const __version__: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    use crate::queue::{JoinableQueueBase, QueueBase, SimpleQueueBase};

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        crate::errors::import(module.py());
        crate::lent::prepare(module.py());
        crate::pickling::prepare(module.py());
        Ok(())
    }
}
