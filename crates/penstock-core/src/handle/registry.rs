//! Registry: this process's handles, one a queue, so that one process is one participant.
//!
//! After a fork the child forgets the parent's memberships: it replaces its copies of the descriptors through
//! which the parent's life bytes are locked (memory/file.rs), and registers on first use. With a queue that
//! the parent watches it registers at once (state/notifier.rs). What other threads of the parent have mapped
//! for growth it unmaps (memory/ranges.rs).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::Error;
use crate::fork;
use crate::handle::begun;
use crate::handle::queue::Queue;
use crate::handle::remainder::Remainder;
use crate::memory::file::MemoryFile;
use crate::memory::ranges::unmap_new_ranges;
use crate::platform::{self, FileIdentity};
use crate::state::{holding, line_end};
use crate::units::Id;

/// Locked only while this process cannot fork (fork.rs).
static OPEN: Mutex<Lists> = Mutex::new(Lists {
    queues: Vec::new(),
    remainders: Vec::new(),
    closing: Vec::new(),
});

/// An open queue, and the file in which it lies: the other queue of a connection lies there, too.
type Open = (Id, Weak<Queue>, Weak<MemoryFile>);

struct Lists {
    queues: Vec<Open>,
    /// Of queues that have handles of a program, open or closed.
    remainders: Vec<(Id, Weak<Remainder>)>,
    /// Those whose last handle a thread is closing.
    closing: Vec<Id>,
}

/// The open queues of this process. While this lives, the process does not fork.
pub(crate) struct OpenQueues {
    lists: MutexGuard<'static, Lists>,
    _no_fork: fork::NoFork,
}

/// A panic elsewhere leaves the lists whole, so poison means nothing.
fn lock() -> MutexGuard<'static, Lists> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn open_queues() -> OpenQueues {
    fork::install(forget_memberships, watch_again);
    let no_fork = fork::hold_off();
    OpenQueues {
        lists: lock(),
        _no_fork: no_fork,
    }
}

/// The same, once no thread is dropping or closing a handle of that queue: its membership must end before
/// another begins.
pub(crate) fn open_queues_without_leaving(id: Id) -> OpenQueues {
    loop {
        let open = open_queues();
        let is_dropped = open
            .lists
            .queues
            .iter()
            .any(|(known, queue, _)| *known == id && queue.strong_count() == 0);
        if !is_dropped && !open.lists.closing.contains(&id) {
            return open;
        }
        drop(open);
        std::thread::yield_now();
    }
}

impl OpenQueues {
    /// Makes room for one more, which [`add`](Self::add) takes.
    pub(crate) fn reserve(&mut self) -> Result<(), Error> {
        let Lists {
            queues,
            remainders,
            closing,
        } = &mut *self.lists;
        let size = (size_of_val(queues.as_slice()) + size_of_val(remainders.as_slice())) as u64;
        queues
            .try_reserve(1)
            .and_then(|()| remainders.try_reserve(1))
            // So that a close needs no memory.
            .and_then(|()| closing.try_reserve(remainders.len() + 1))
            .map_err(|_| platform::no_memory(size))
    }

    pub(crate) fn add(&mut self, id: Id, queue: &Arc<Queue>) {
        let file = Arc::downgrade(queue.shared.segment.file());
        self.lists.queues.push((id, Arc::downgrade(queue), file));
    }

    pub(crate) fn find(&self, id: Id) -> Option<Arc<Queue>> {
        let (_, queue, _) = self.lists.queues.iter().find(|(known, ..)| *known == id)?;
        queue.upgrade()
    }

    /// The file of an open queue, or of one that is being dropped. The descriptor may be closed.
    pub(crate) fn find_file(&self, identity: FileIdentity) -> Option<Arc<MemoryFile>> {
        let mut files = self.lists.queues.iter().filter_map(|(.., file)| file.upgrade());
        files.find(|file| file.identity() == identity)
    }

    pub(crate) fn add_remainder(&mut self, id: Id, remainder: &Arc<Remainder>) {
        self.lists.remainders.push((id, Arc::downgrade(remainder)));
    }

    /// A reference that the caller must not drop while this lives: it may become the last.
    pub(crate) fn find_remainder(&self, id: Id) -> Option<Arc<Remainder>> {
        let mut remainders = self.lists.remainders.iter();
        // One whose last reference is being dropped may be in the list still.
        remainders.find_map(|(known, remainder)| (*known == id).then(|| remainder.upgrade())?)
    }

    /// From now on until [`end_closing`](Self::end_closing) no other thread opens that queue.
    pub(crate) fn begin_closing(&mut self, id: Id) {
        self.lists.closing.push(id);
    }

    pub(crate) fn end_closing(&mut self, id: Id) {
        self.lists.closing.retain(|known| *known != id);
    }
}

/// Removes a queue whose last handle is gone from the list.
pub(crate) fn forget(id: Id) {
    open_queues()
        .lists
        .queues
        .retain(|(known, queue, _)| *known != id || queue.strong_count() > 0);
}

pub(crate) fn forget_remainder(id: Id) {
    open_queues()
        .lists
        .remainders
        .retain(|(known, remainder)| *known != id || remainder.strong_count() > 0);
}

/// In a child after a fork.
fn forget_memberships() {
    unmap_new_ranges();
    let mut open = lock();
    // Which queues need the descriptors here is counted anew, for all queues of a file before it is used.
    for (_, _, file) in open.queues.iter() {
        if let Some(file) = file.upgrade() {
            file.descriptor().forget_uses();
        }
    }
    for (_, queue, _) in open.queues.iter() {
        if let Some(queue) = queue.upgrade() {
            let need = queue.shared.segment.need();
            if need.is_there() {
                need.file().descriptor().count();
            }
            queue.forget_membership();
            for notifier in &queue.shared.notifiers {
                notifier.forget_promises();
            }
        }
    }
    for (_, _, file) in open.queues.iter() {
        if let Some(file) = file.upgrade() {
            file.begin_in_child();
        }
    }
    begun::forget();
    holding::begin_in_child();
    line_end::begin_in_child();
    // A handle that another thread of the parent was dropping will never be dropped in this child.
    open.queues.retain(|(_, queue, _)| queue.strong_count() > 0);
    open.remainders
        .retain(|(_, remainder)| remainder.strong_count() > 0);
    // The threads that were closing queues do not exist here.
    open.closing.clear();
}

/// In a child after a fork, once it may take locks again: it watches what its parent watches.
fn watch_again() {
    let inherited: Vec<Arc<Queue>> = open_queues()
        .lists
        .queues
        .iter()
        .filter_map(|(_, queue, _)| queue.upgrade())
        .filter(|queue| queue.shared.is_watched())
        .collect();
    for queue in inherited {
        queue.join_as_child_of_watcher();
    }
}
