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
//! Without /proc, or under another user, the kernel opens no second description. Then this process is
//! lifeless, and while it has a description of another process, only the pid proves that one's death.

use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::error::Error;
use crate::platform::{self, FileIdentity};

pub(crate) struct MemoryFile {
    fd: RawFd,
    identity: FileIdentity,
    /// Whether the open file description is this process's own.
    is_own: AtomicBool,
}

impl MemoryFile {
    pub(crate) fn new(fd: OwnedFd) -> Result<MemoryFile, Error> {
        let (identity, _) = platform::identify(fd.as_fd())?;
        Ok(MemoryFile {
            fd: fd.into_raw_fd(),
            identity,
            is_own: AtomicBool::new(false),
        })
    }

    /// The descriptor, if it still leads to this file.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        platform::borrow_checked(self.fd, self.identity)
    }

    pub(crate) fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// The same, with an open file description of this process's own. `None` if it cannot have one. One
    /// thread at a time, in a process that does not fork meanwhile.
    pub(crate) fn own(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.fd()?;
        if !self.is_own.load(Relaxed) {
            if !platform::own_description(fd) {
                return None;
            }
            self.is_own.store(true, Relaxed);
        }
        Some(fd)
    }

    /// After a fork, in the child: the description is the parent's. Safe to repeat.
    #[cfg(not(loom))]
    pub(crate) fn begin_in_child(&self) {
        if self.is_own.swap(false, Relaxed) {
            let _ = self.own();
        }
    }

    /// Unlocks a life byte of this process. Not one that its parent holds.
    pub(crate) fn release_life(&self, at: u64) {
        if let (true, Some(fd)) = (self.is_own.load(Relaxed), self.fd()) {
            platform::release_life(fd, at);
        }
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        platform::close_checked(self.fd, self.identity);
    }
}
