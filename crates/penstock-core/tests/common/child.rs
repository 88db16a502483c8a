//! A forked child that does a part of a test.
#![allow(unsafe_code)]

/// Its pid, or 0 once it was reaped. Killed and reaped when dropped.
pub struct Child(pub i32);

impl Child {
    pub fn run(work: impl FnOnce()) -> Child {
        // SAFETY: the child runs `work` alone and leaves by _exit; what it needs of this process is memory.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(if ended.is_ok() { 0 } else { 3 }) };
        }
        Child(pid)
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the process is a child of this one that has not been reaped, so the pid is its own.
        unsafe { libc::kill(self.0, signal) };
    }

    /// Waits for its end. Returns its status, as `waitpid` does.
    pub fn reap(&mut self) -> i32 {
        let mut status = 0;
        // SAFETY: as above.
        assert_eq!(unsafe { libc::waitpid(self.0, &raw mut status, 0) }, self.0);
        self.0 = 0;
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.0 != 0 {
            self.signal(libc::SIGKILL);
            self.reap();
        }
    }
}
