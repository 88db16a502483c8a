//! A child that is stopped.
#![allow(unsafe_code)]

use crate::child::Child;

impl Child {
    /// Waits until it is stopped. False if it has ended instead.
    pub fn stops(&self) -> bool {
        let mut status = 0;
        // SAFETY: the process is a child of this one that has not been reaped, so the pid is its own.
        let seen = unsafe { libc::waitpid(self.0, &raw mut status, libc::WUNTRACED) };
        seen == self.0 && libc::WIFSTOPPED(status)
    }
}
