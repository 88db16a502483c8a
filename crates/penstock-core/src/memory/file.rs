//! The memory file of one or two queues, as this process has it open: by one descriptor.
//!
//! The two queues of a duplex connection lie one after the other in one file, so that a connection takes few
//! descriptors. Each queue's life bytes (state/participant.rs) are bytes of its part.
//!
//! A process locks its life bytes through the same descriptor. So its open file description must be this
//! process's *own*: the kernel unlocks the bytes when no process has the description any more. A description
//! that came from another process is replaced under the same number, by one that the kernel opens anew:
//!
//! | where it came from | when it is replaced |
//! |---|---|
//! | made here | when this process registers, if it can; only then a child could replace its copy |
//! | received from another process | at once, because the sender's life bytes may be locked through it |
//! | inherited by fork from a process that has registered | in the child, before other code runs |
//!
//! The descriptor is open while a queue *needs* it: until the last queue of the file is closed, or what this
//! process has in hand of a closed queue needs no descriptor any more (handle/remainder.rs).
//!
//! Without /proc, or under another user, the kernel opens no second description. Then this process is
//! lifeless, and while it has a description of another process, only the pid proves that one's death.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::error::Error;
use crate::memory::descriptor::{Descriptor, InUse};
use crate::platform::{self, FileIdentity};

pub(crate) struct MemoryFile {
    descriptor: Descriptor,
    /// Whether the open file description is this process's own.
    is_own: AtomicBool,
}

/// What keeps the descriptor open for one queue.
pub(crate) struct Need {
    file: Arc<MemoryFile>,
    is_there: AtomicBool,
}

impl MemoryFile {
    pub(crate) fn open(fd: OwnedFd) -> Result<Need, Error> {
        let (identity, _) = platform::identify(fd.as_fd())?;
        let file = MemoryFile {
            descriptor: Descriptor::new(fd, identity),
            is_own: AtomicBool::new(false),
        };
        Ok(Need::new(Arc::new(file), true))
    }

    pub(crate) fn identity(&self) -> FileIdentity {
        self.descriptor.identity()
    }

    #[cfg(not(loom))]
    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The descriptor, with an open file description of this process's own. `None` if it cannot have one. One
    /// thread at a time, in a process that does not fork meanwhile.
    fn own(&self) -> Option<InUse<'_>> {
        let fd = self.descriptor.lend()?;
        if !self.is_own.load(Relaxed) {
            if !platform::own_description(fd.get()) {
                return None;
            }
            self.is_own.store(true, Relaxed);
        }
        Some(fd)
    }

    /// Takes over a descriptor of the same file that came from another process, unless there is one, for a
    /// queue that begins to need it. As [`own`](Self::own).
    fn reopen(&self, fd: OwnedFd) -> Result<(), Error> {
        platform::close_on_exec(fd.as_fd())?;
        if self.descriptor.reopen(fd) {
            // No life byte is locked: the last queue that needed the descriptor has unlocked its own.
            self.is_own.store(false, Relaxed);
            self.own();
        }
        Ok(())
    }

    /// After a fork, in the child, once its needs were counted: the description is the parent's. Safe to
    /// repeat.
    #[cfg(not(loom))]
    pub(crate) fn begin_in_child(&self) {
        self.descriptor.close_if_unused();
        if self.is_own.swap(false, Relaxed) {
            let _ = self.own();
        }
    }

    /// Unlocks a life byte of this process. Not one that its parent holds.
    pub(crate) fn release_life(&self, at: u64) {
        if let (true, Some(fd)) = (self.is_own.load(Relaxed), self.descriptor.lend()) {
            platform::release_life(fd.get(), at);
        }
    }
}

impl Need {
    fn new(file: Arc<MemoryFile>, is_there: bool) -> Need {
        Need {
            file,
            is_there: AtomicBool::new(is_there),
        }
    }

    /// That of a queue which needs a file with a descriptor that came from another process.
    pub(crate) fn of(file: Arc<MemoryFile>, fd: OwnedFd) -> Result<Need, Error> {
        file.reopen(fd)?;
        Ok(Need::new(file, true))
    }

    /// That of another queue of the file.
    pub(crate) fn another(&self) -> Need {
        let is_there = self.is_there() && self.file.descriptor.acquire();
        Need::new(Arc::clone(&self.file), is_there)
    }

    /// That of a queue which has the file mapped, and does not need the descriptor.
    #[cfg(not(loom))]
    pub(crate) fn none(&self) -> Need {
        Need::new(Arc::clone(&self.file), false)
    }

    pub(crate) fn file(&self) -> &Arc<MemoryFile> {
        &self.file
    }

    pub(crate) fn is_there(&self) -> bool {
        self.is_there.load(Relaxed)
    }

    /// The descriptor, if it still leads to the file. Other threads do not close it while it is in use.
    pub(crate) fn lend(&self) -> Option<InUse<'_>> {
        self.is_there().then(|| self.file.descriptor.lend())?
    }

    /// The same, with an open file description of this process's own. `None` if it cannot have one. One
    /// thread at a time, in a process that does not fork meanwhile.
    pub(crate) fn own(&self) -> Option<InUse<'_>> {
        self.is_there().then(|| self.file.own())?
    }

    /// The queue needs the descriptor again, which came from another process. One thread at a time.
    pub(crate) fn begin(&self, fd: OwnedFd) -> Result<(), Error> {
        if !self.is_there() {
            self.file.reopen(fd)?;
            self.is_there.store(true, Relaxed);
        }
        Ok(())
    }

    /// The queue needs the descriptor no more. Uses in progress keep it open until their ends.
    pub(crate) fn end(&self) {
        if self.is_there.swap(false, Relaxed) {
            self.file.descriptor.release();
        }
    }
}

impl Drop for Need {
    fn drop(&mut self) {
        self.end();
    }
}
