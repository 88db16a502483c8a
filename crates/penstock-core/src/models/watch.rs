//! In the place of operations/watch.rs: no process of a model watches.

use crate::handle::queue::Queue;

impl Queue {
    pub(crate) fn found_nothing(&self) {}
}
