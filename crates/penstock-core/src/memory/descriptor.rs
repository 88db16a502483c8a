//! The descriptor of a memory file, which one thread may close while others use it.
//!
//! A descriptor's number can be another file's as soon as it is closed. So each use counts itself before it
//! compares the number with the file, and discounts itself at its end. A queue that needs the descriptor
//! (memory/file.rs) counts as a use until it is closed. The use that ends last closes the number. No thread
//! waits.
//!
//! A forked child has the count as its parent had it, with uses of threads that do not exist there. The hook
//! of the fork (handle/registry.rs) counts the needs of the child anew, and a use that began before a fork
//! does not end in the child.

use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::fork;
use crate::platform::{self, FileIdentity};

pub(crate) struct Descriptor {
    /// -1 once it is closed.
    fd: AtomicI32,
    identity: FileIdentity,
    /// Needs, and uses in progress. With none it is closed.
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
    /// With one use, which [`release`](Self::release) ends.
    pub(crate) fn new(fd: OwnedFd, identity: FileIdentity) -> Descriptor {
        Descriptor {
            fd: AtomicI32::new(fd.into_raw_fd()),
            identity,
            uses: AtomicU32::new(1),
        }
    }

    pub(crate) fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Begins a use, which [`release`](Self::release) ends, in a forked child, too. False if the descriptor
    /// was closed.
    pub(crate) fn acquire(&self) -> bool {
        // Acquire: pairs with the release in `reopen`, so that the use sees the new number.
        self.uses
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |uses| {
                (uses != 0).then_some(uses + 1)
            })
            .is_ok()
    }

    /// Ends a use. The last one closes the descriptor.
    pub(crate) fn release(&self) {
        // Both: the last use that ends comes after all others.
        if self.uses.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.close_number();
        }
    }

    /// Begins a use of a process that does not end in its children. `None` if the descriptor was closed.
    pub(crate) fn begin(&self) -> Option<Use> {
        self.acquire().then(|| Use { forks: fork::count() })
    }

    pub(crate) fn end(&self, use_: &Use) {
        if use_.forks == fork::count() {
            self.release();
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

    fn close_number(&self) {
        platform::close_checked(self.fd.swap(-1, Ordering::Relaxed), self.identity);
    }

    /// Begins a use as [`acquire`](Self::acquire) does; of that descriptor, which leads to the same file, if
    /// there is none. True if it was taken over. One thread at a time calls this.
    pub(crate) fn reopen(&self, fd: OwnedFd) -> bool {
        while !self.acquire() {
            if self.fd.load(Ordering::Relaxed) < 0 {
                self.fd.store(fd.into_raw_fd(), Ordering::Relaxed);
                // Release: pairs with the acquire in `acquire`.
                self.uses.store(1, Ordering::Release);
                return true;
            }
            // The last use is about to close the former number.
            std::thread::yield_now();
        }
        false
    }

    /// In a forked child: forgets all uses. Those of the child are counted by [`count`](Self::count) then.
    #[cfg(not(loom))]
    pub(crate) fn forget_uses(&self) {
        self.uses.store(0, Ordering::Relaxed);
    }

    #[cfg(not(loom))]
    pub(crate) fn count(&self) {
        self.uses.fetch_add(1, Ordering::Relaxed);
    }

    #[cfg(not(loom))]
    pub(crate) fn close_if_unused(&self) {
        if self.uses.load(Ordering::Relaxed) == 0 {
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
        descriptor.release();
        assert!(platform::borrow_checked(number, descriptor.identity).is_some());
        drop(in_use);
        assert_eq!(descriptor.fd.load(Ordering::Relaxed), -1);
        assert!(descriptor.lend().is_none());
    }

    #[test]
    fn the_last_use_closes_at_once() {
        let descriptor = descriptor();
        assert!(descriptor.acquire());
        descriptor.release();
        assert!(descriptor.lend().is_some());
        descriptor.release();
        assert_eq!(descriptor.fd.load(Ordering::Relaxed), -1);
        assert!(!descriptor.acquire());
    }

    #[test]
    fn reopened_while_a_use_keeps_the_number() {
        let descriptor = descriptor();
        let in_use = descriptor.lend().unwrap();
        descriptor.release();
        assert!(!descriptor.reopen(file()));
        assert_eq!(descriptor.lend().unwrap().as_raw_fd(), in_use.as_raw_fd());
        drop(in_use);
        assert!(descriptor.lend().is_some());
    }

    #[test]
    fn reopened_after_the_last_use() {
        let descriptor = descriptor();
        descriptor.release();
        assert!(descriptor.reopen(file()));
        assert!(descriptor.lend().is_some());
        descriptor.release();
        assert!(descriptor.lend().is_none());
    }

    #[test]
    fn a_child_forgets_the_uses_of_its_parent() {
        let descriptor = descriptor();
        std::mem::forget(descriptor.lend().unwrap());
        descriptor.forget_uses();
        descriptor.count();
        descriptor.close_if_unused();
        assert!(descriptor.lend().is_some());
        descriptor.release();
        assert_eq!(descriptor.fd.load(Ordering::Relaxed), -1);
    }
}
