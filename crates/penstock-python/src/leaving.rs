//! The end of this process's part in its queues.

use std::sync::{Arc, Mutex, Weak};

use penstock_core::{Leave, Queue};
use pyo3::prelude::*;

use crate::sync::lock;

/// The queues of this process. A child after a fork has the same.
static QUEUES: Mutex<Vec<Weak<Queue>>> = Mutex::new(Vec::new());

pub fn remember(queue: &Arc<Queue>) {
    let mut queues = lock(&QUEUES);
    if queues.len() == queues.capacity() {
        queues.retain(|queue| queue.strong_count() > 0);
    }
    queues.push(Arc::downgrade(queue));
}

/// To be called when the process ends, because an exception went uncaught if `crashed`: what it holds unfinished of
/// a joinable queue is then given to another process; otherwise it stays unfinished.
#[pyfunction]
pub fn _leave_all(py: Python<'_>, crashed: bool) {
    let how = || if crashed { Leave::Crashed } else { Leave::Clean };
    let queues: Vec<Arc<Queue>> = lock(&QUEUES).iter().filter_map(Weak::upgrade).collect();
    py.detach(|| {
        for queue in queues {
            queue.leave(how());
        }
    });
}
