//! The descriptor of a queue's memory file, which one thread may close while others use it.
//!
//! A descriptor's number can be another file's as soon as it is closed. So each use counts itself before it
//! compares the number with the file, and discounts itself at its end. A close forbids new uses, and the last
//! use that ends closes the number; without a use in progress the close does so itself. No thread waits.
//!
//! ```text
//!    bit 31      bits 0..31
//!    closed      uses in progress
//! ```
//!
//! A forked child has the word as its parent had it, with uses of threads that do not exist there. The hook
//! of the fork (`begin_in_child`) forgets them, and a use that began before a fork does not end in the child.

use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::fork;
use crate::platform::{self, FileIdentity};

const CLOSED: u32 = 1 << 31;

pub(crate) struct Descriptor {
    /// -1 once it is closed.
    fd: AtomicI32,
    identity: FileIdentity,
    uses: AtomicU32,
}

/// A descriptor in use: its number stays this file's. Other code of the process may close it all the same.
pub struct InUse<'a> {
    descriptor: &'a Descriptor,
    fd: BorrowedFd<'a>,
    use_: Use,
}

/// One use, for a holder that ends it by [`Descriptor::end`].
pub(crate) struct Use {
    forks: u32,
}

impl Descriptor {
    pub(crate) fn new(fd: OwnedFd, identity: FileIdentity) -> Descriptor {
        Descriptor {
            fd: AtomicI32::new(fd.into_raw_fd()),
            identity,
            uses: AtomicU32::new(0),
        }
    }

    /// That of a process which has the file mapped, and no descriptor of it.
    #[cfg(any(not(loom), test))]
    pub(crate) fn closed(identity: FileIdentity) -> Descriptor {
        Descriptor {
            fd: AtomicI32::new(-1),
            identity,
            // Every process of a model has a descriptor.
            uses: AtomicU32::new(if cfg!(loom) { 0 } else { CLOSED }),
        }
    }

    pub(crate) fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Begins a use. `None` if the descriptor was closed.
    pub(crate) fn begin(&self) -> Option<Use> {
        // Acquire: pairs with the release in `reopen`, so that the use sees the new number.
        self.uses
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |uses| {
                (uses & CLOSED == 0).then_some(uses + 1)
            })
            .ok()
            .map(|_| Use { forks: fork::count() })
    }

    pub(crate) fn end(&self, use_: &Use) {
        // Both: the last use that ends comes after all others, and after the close.
        if use_.forks == fork::count() && self.uses.fetch_sub(1, Ordering::AcqRel) == CLOSED | 1 {
            self.close_number();
        }
    }

    /// The descriptor, if it still leads to the file.
    pub(crate) fn lend(&self) -> Option<InUse<'_>> {
        let use_ = self.begin()?;
        match platform::borrow_checked(self.fd.load(Ordering::Relaxed), self.identity) {
            Some(fd) => Some(InUse {
                descriptor: self,
                fd,
                use_,
            }),
            None => {
                self.end(&use_);
                None
            }
        }
    }

    /// Closes the descriptor, now or at the end of the last use.
    #[cfg(not(loom))]
    pub(crate) fn close(&self) {
        // Both: see `end`.
        if self.uses.fetch_or(CLOSED, Ordering::AcqRel) == 0 {
            self.close_number();
        }
    }

    fn close_number(&self) {
        platform::close_checked(self.fd.swap(-1, Ordering::Relaxed), self.identity);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.uses.load(Ordering::Relaxed) & CLOSED != 0
    }

    /// Takes over a descriptor of the same file, unless there is one. One thread at a time calls this.
    pub(crate) fn reopen(&self, fd: OwnedFd) {
        loop {
            let uses = self.uses.load(Ordering::Acquire);
            if uses & CLOSED == 0 {
                return;
            }
            if uses != CLOSED {
                // A use keeps the former number open.
                let kept =
                    self.uses
                        .compare_exchange(uses, uses & !CLOSED, Ordering::Release, Ordering::Relaxed);
                if kept.is_ok() {
                    return;
                }
            } else if self.fd.load(Ordering::Relaxed) < 0 {
                self.fd.store(fd.into_raw_fd(), Ordering::Relaxed);
                // Release: pairs with the acquire in `begin`.
                self.uses.store(0, Ordering::Release);
                return;
            }
            // The last use is about to close the former number.
            std::thread::yield_now();
        }
    }

    /// In a forked child: forgets the uses of its parent's threads.
    #[cfg(not(loom))]
    pub(crate) fn begin_in_child(&self) {
        if self.uses.fetch_and(CLOSED, Ordering::Relaxed) & CLOSED != 0 {
            self.close_number();
        }
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.close_number();
    }
}

impl<'a> InUse<'a> {
    pub(crate) fn get(&self) -> BorrowedFd<'a> {
        self.fd
    }
}

impl AsRawFd for InUse<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.descriptor.end(&self.use_);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    fn file() -> OwnedFd {
        File::open("/proc/self/exe").unwrap().into()
    }

    fn descriptor() -> Descriptor {
        let fd = file();
        let (identity, _) = platform::identify(fd.as_fd()).unwrap();
        Descriptor::new(fd, identity)
    }

    #[test]
    fn a_use_keeps_the_number_until_its_end() {
        let descriptor = descriptor();
        let in_use = descriptor.lend().unwrap();
        let number = in_use.as_raw_fd();
        descriptor.close();
        assert!(descriptor.lend().is_none());
        assert!(platform::borrow_checked(number, descriptor.identity).is_some());
        drop(in_use);
        assert_eq!(descriptor.fd.load(Ordering::Relaxed), -1);
    }

    #[test]
    fn without_a_use_a_close_closes_at_once() {
        let descriptor = descriptor();
        descriptor.close();
        descriptor.close();
        assert_eq!(descriptor.fd.load(Ordering::Relaxed), -1);
    }

    #[test]
    fn reopened_while_a_use_keeps_the_number() {
        let descriptor = descriptor();
        let in_use = descriptor.lend().unwrap();
        descriptor.close();
        descriptor.reopen(file());
        assert_eq!(descriptor.lend().unwrap().as_raw_fd(), in_use.as_raw_fd());
        drop(in_use);
        assert!(descriptor.lend().is_some());
    }

    #[test]
    fn reopened_after_the_last_use() {
        let descriptor = descriptor();
        descriptor.close();
        descriptor.reopen(file());
        assert!(descriptor.lend().is_some());
        descriptor.close();
        assert!(descriptor.lend().is_none());
    }

    #[test]
    fn a_child_forgets_the_uses_of_its_parent() {
        let descriptor = descriptor();
        std::mem::forget(descriptor.lend().unwrap());
        descriptor.close();
        descriptor.begin_in_child();
        assert_eq!(descriptor.fd.load(Ordering::Relaxed), -1);
        assert_eq!(descriptor.uses.load(Ordering::Relaxed), CLOSED);
    }
}
