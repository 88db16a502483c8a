//! The substitute: a descriptor in the place of a connection's reading end, for a process that cannot signal
//! by that end.
//!
//! A process that begins to watch a connection beside messages has to put a byte into the pipe, whose writing
//! end it does not have, and must not keep: the other side would never learn of its end. Usually the kernel
//! opens the pipe again for a moment (notifier.rs, `with_access`). Without /proc, or under another user than
//! the pipe's, it does not. Such a process hands out an epoll descriptor instead, which is readable while the
//! pipe is, and while a counter of this process's own says so.
//!
//! The counter is set exactly while a message is there whose byte is missing in the pipe, as far as this
//! process's own critical sections know: each of them sets it right (notifier.rs, `update_notifier`). When
//! another receiver takes that message, the next section of this process, of `watch_at`, `poll` or a get,
//! finds the counter to be wrong, as with a byte too many in the pipe.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};

use crate::error::Error;
use crate::fork;
use crate::platform;

pub(crate) struct Substitute {
    /// The epoll descriptor and the counter, or -1.
    epoll: AtomicI32,
    counter: AtomicI32,
    is_set: AtomicBool,
    /// An end could not be opened in the other direction.
    is_needed: AtomicBool,
}

impl Substitute {
    pub(crate) fn new() -> Substitute {
        Substitute {
            epoll: AtomicI32::new(-1),
            counter: AtomicI32::new(-1),
            is_set: AtomicBool::new(false),
            is_needed: AtomicBool::new(false),
        }
    }

    pub(crate) fn note_need(&self) {
        self.is_needed.store(true, Relaxed);
    }

    pub(crate) fn is_needed(&self) -> bool {
        self.is_needed.load(Relaxed)
    }

    /// The epoll descriptor, which shows that end too from now on; and whether the caller has to end a
    /// critical section once more, because it is new.
    pub(crate) fn with_end(&self, end: RawFd) -> Result<(RawFd, bool), Error> {
        // One thread at a time.
        let _no_fork = fork::hold_off();
        let is_new = self.current().is_none();
        if is_new {
            let (epoll, counter) = platform::make_substitute()?;
            self.keep(epoll, counter);
        }
        let epoll = self.epoll.load(Relaxed);
        platform::watch_end_too(epoll, end)?;
        Ok((epoll, is_new))
    }

    /// Both descriptors, unless other code has closed them.
    fn current(&self) -> Option<(RawFd, RawFd)> {
        let (epoll, counter) = (self.epoll.load(Relaxed), self.counter.load(Relaxed));
        platform::is_substitute(epoll, counter).then_some((epoll, counter))
    }

    fn keep(&self, epoll: OwnedFd, counter: OwnedFd) {
        self.is_set.store(false, Relaxed);
        self.counter.store(counter.as_raw_fd(), Relaxed);
        self.epoll.store(epoll.into_raw_fd(), Relaxed);
        let _ = counter.into_raw_fd();
    }

    /// Sets the counter if a message is there whose byte is missing in the pipe, and else clears it. Called
    /// under the queue's lock.
    pub(crate) fn tell(&self, is_there: bool) {
        let counter = self.counter.load(Relaxed);
        if counter >= 0
            && self.is_set.load(Relaxed) != is_there
            && self.current().is_some()
            && platform::set_counter(counter, is_there)
        {
            self.is_set.store(is_there, Relaxed);
        }
    }

    /// For a queue that this process does not use any more, and for a child, which makes its own.
    pub(crate) fn close(&self) {
        if let Some((epoll, counter)) = self.current() {
            platform::close_substitute(epoll, counter);
        }
        self.epoll.store(-1, Relaxed);
        self.counter.store(-1, Relaxed);
    }
}
