//! Registry: this process's handles, one a queue, so that one process is one participant.
//!
//! After a fork the child forgets the parent's memberships: it closes its copies of the parent's life
//! descriptors (which would keep the parent's life bytes locked after the parent's death), and registers on
//! first use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::Error;
use crate::fork;
use crate::handle::queue::Queue;
use crate::platform;
use crate::units::Id;

/// Locked only while this process cannot fork (fork.rs).
static OPEN: Mutex<Vec<(Id, Weak<Queue>)>> = Mutex::new(Vec::new());

/// The open queues of this process. While this lives, the process does not fork.
pub(crate) struct OpenQueues {
    list: MutexGuard<'static, Vec<(Id, Weak<Queue>)>>,
    _no_fork: fork::NoFork,
}

/// A panic elsewhere leaves the list whole, so poison means nothing.
fn lock() -> MutexGuard<'static, Vec<(Id, Weak<Queue>)>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn open_queues() -> OpenQueues {
    fork::install(forget_memberships);
    let no_fork = fork::hold_off();
    OpenQueues {
        list: lock(),
        _no_fork: no_fork,
    }
}

/// The same, once no thread is dropping a handle of that queue: its membership must end before another
/// begins.
pub(crate) fn open_queues_without_leaving(id: Id) -> OpenQueues {
    loop {
        let open = open_queues();
        if !open
            .list
            .iter()
            .any(|(known, queue)| *known == id && queue.strong_count() == 0)
        {
            return open;
        }
        drop(open);
        std::thread::yield_now();
    }
}

impl OpenQueues {
    /// Makes room for one more, which [`add`](Self::add) takes.
    pub(crate) fn reserve(&mut self) -> Result<(), Error> {
        let size = size_of_val(self.list.as_slice()) as u64;
        self.list.try_reserve(1).map_err(|_| platform::no_memory(size))
    }

    pub(crate) fn add(&mut self, id: Id, queue: &Arc<Queue>) {
        self.list.push((id, Arc::downgrade(queue)));
    }

    pub(crate) fn find(&self, id: Id) -> Option<Arc<Queue>> {
        self.list.iter().find(|(known, _)| *known == id)?.1.upgrade()
    }
}

/// Removes a queue whose last handle is gone from the list.
pub(crate) fn forget(id: Id) {
    open_queues()
        .list
        .retain(|(known, queue)| *known != id || queue.strong_count() > 0);
}

/// In a child after a fork.
fn forget_memberships() {
    let mut open = lock();
    // A handle that another thread of the parent was dropping will never be dropped in this child.
    open.retain(|(_, queue)| queue.strong_count() > 0);
    for (_, queue) in open.iter() {
        if let Some(queue) = queue.upgrade() {
            queue.forget_membership();
            queue.shared.notifier.forget_watcher();
        }
    }
}
