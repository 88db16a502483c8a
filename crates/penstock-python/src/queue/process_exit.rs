//! What a process does with its queues when it ends.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, Weak};

use penstock_core::{Id, Leave, Queue, leave_by_id};
use pyo3::prelude::*;

use crate::interpreter::errors;
use crate::interpreter::once::lock;

/// The queues of this process. A child after a fork has the same.
static QUEUES: Mutex<BTreeMap<Id, Weak<Queue>>> = Mutex::new(BTreeMap::new());

pub fn remember(queue: &Arc<Queue>) {
    let mut queues = lock(&QUEUES);
    queues.insert(queue.id(), Arc::downgrade(queue));
    // Each time their number has doubled.
    if queues.len().is_power_of_two() {
        queues.retain(|_, queue| queue.strong_count() > 0);
    }
}

fn next_after(last: Bound<Id>) -> Option<Id> {
    let queues = lock(&QUEUES);
    let mut rest = queues.range((last, Bound::Unbounded));
    rest.find_map(|(id, queue)| (queue.strong_count() > 0).then_some(*id))
}

/// Leaves all queues, when the process ends. If `crashed` (an exception was not caught), the items of
/// joinable queues that it holds unfinished go to other processes. Otherwise they stay unfinished.
#[pyfunction]
pub fn _leave_all(py: Python<'_>, crashed: bool) -> PyResult<()> {
    let how = if crashed { Leave::Crashed } else { Leave::Clean };
    // All of them, even if one fails.
    let mut left = Ok(());
    let mut last = Bound::Unbounded;
    while let Some(id) = next_after(last) {
        left = left.and(py.detach(|| leave_by_id(id, how)));
        last = Bound::Excluded(id);
    }
    left.map_err(errors::to_python)
}
