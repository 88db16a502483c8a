//! Registry: this process's handles, one a queue, so that one process is one participant.
//!
//! After a fork the child forgets the parent's memberships: it replaces its copies of the descriptors through
//! which the parent's life bytes are locked (memory/file.rs), and registers on first use. With a queue that
//! the parent watches it registers at once (state/notifier.rs).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::Error;
use crate::fork;
use crate::handle::queue::Queue;
use crate::memory::file::MemoryFile;
use crate::platform::{self, FileIdentity};
use crate::units::Id;

/// Locked only while this process cannot fork (fork.rs).
static OPEN: Mutex<Vec<Open>> = Mutex::new(Vec::new());

/// An open queue, and the file in which it lies: the other queue of a connection lies there, too.
type Open = (Id, Weak<Queue>, Weak<MemoryFile>);

/// The open queues of this process. While this lives, the process does not fork.
pub(crate) struct OpenQueues {
    list: MutexGuard<'static, Vec<Open>>,
    _no_fork: fork::NoFork,
}

/// A panic elsewhere leaves the list whole, so poison means nothing.
fn lock() -> MutexGuard<'static, Vec<Open>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn open_queues() -> OpenQueues {
    fork::install(forget_memberships, watch_again);
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
            .any(|(known, queue, _)| *known == id && queue.strong_count() == 0)
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
        let file = Arc::downgrade(queue.shared.segment.file());
        self.list.push((id, Arc::downgrade(queue), file));
    }

    pub(crate) fn find(&self, id: Id) -> Option<Arc<Queue>> {
        self.list.iter().find(|(known, ..)| *known == id)?.1.upgrade()
    }

    /// The file, if this process has it open.
    pub(crate) fn find_file(&self, identity: FileIdentity) -> Option<Arc<MemoryFile>> {
        let files = self.list.iter().filter_map(|(.., file)| file.upgrade());
        files.into_iter().find(|file| file.identity() == identity)
    }
}

/// Removes a queue whose last handle is gone from the list.
pub(crate) fn forget(id: Id) {
    open_queues()
        .list
        .retain(|(known, queue, _)| *known != id || queue.strong_count() > 0);
}

/// In a child after a fork.
fn forget_memberships() {
    let mut open = lock();
    // A handle that another thread of the parent was dropping will never be dropped in this child.
    open.retain(|(_, queue, _)| queue.strong_count() > 0);
    for (_, queue, file) in open.iter() {
        if let Some(file) = file.upgrade() {
            file.begin_in_child();
        }
        if let Some(queue) = queue.upgrade() {
            queue.forget_membership();
        }
    }
}

/// In a child after a fork, once it may take locks again: it watches what its parent watches.
fn watch_again() {
    let inherited: Vec<Arc<Queue>> = open_queues()
        .list
        .iter()
        .filter_map(|(_, queue, _)| queue.upgrade())
        .filter(|queue| queue.shared.notifier.is_watched())
        .collect();
    for queue in inherited {
        queue.join_as_child_of_watcher();
    }
}
