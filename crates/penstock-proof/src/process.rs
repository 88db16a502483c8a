//! Processes and pipes, by the plain system calls: everything here may run in a forked child.
#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

/// A forked child, killed and reaped when dropped.
pub struct Child {
    pub pid: i32,
    is_reaped: bool,
}

impl Child {
    /// Runs `work` in a child, which ends by _exit, and by SIGKILL if this process ends before.
    pub fn run(work: impl FnOnce()) -> Child {
        // SAFETY: plain calls. This process has one thread, so a copy of it is whole.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
        if pid == 0 {
            // SAFETY: affects this process alone.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            exit(if ended.is_ok() { 0 } else { 3 });
        }
        Child {
            pid,
            is_reaped: false,
        }
    }

    /// Waits for its end: its wait status.
    pub fn reap(mut self) -> i32 {
        self.wait()
    }

    /// Notes that the wait status was seen elsewhere.
    pub fn was_reaped(&mut self) {
        self.is_reaped = true;
    }

    fn wait(&mut self) -> i32 {
        let status = wait_for(self.pid, 0).map_or(-1, |status| status);
        self.is_reaped = true;
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.is_reaped {
            kill(self.pid);
            // A traced child reports its stops first.
            while !is_end(self.wait()) {}
        }
    }
}

pub fn kill(pid: i32) {
    // SAFETY: the callers' pids are those of their own children, not yet reaped.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

pub fn stop(pid: i32) {
    // SAFETY: as in kill.
    unsafe { libc::kill(pid, libc::SIGSTOP) };
    while state_of(pid) != Some(b'T') {
        std::thread::yield_now();
    }
}

/// Lets a child go on that is stopped.
pub fn go_on(pid: i32) {
    // SAFETY: as in kill.
    unsafe { libc::kill(pid, libc::SIGCONT) };
}

/// The wait status of a child. `None` if it has none yet (with WNOHANG).
pub fn wait_for(pid: i32, options: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: the pointer leads to a local.
    match unsafe { libc::waitpid(pid, &raw mut status, options) } {
        0 => None,
        found if found == pid => Some(status),
        _ => panic!("waitpid: {}", io::Error::last_os_error()),
    }
}

pub fn is_end(status: i32) -> bool {
    libc::WIFEXITED(status) || libc::WIFSIGNALED(status)
}

pub fn was_killed(status: i32) -> bool {
    libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL
}

/// Ends this process without running anything else.
pub fn exit(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// The state letter of a process, as /proc has it.
pub fn state_of(pid: i32) -> Option<u8> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(end + 2).copied()
}

/// A pipe that carries records of one size, each written whole or not at all.
pub struct Pipe {
    reader: i32,
    writer: i32,
}

impl Pipe {
    pub fn new() -> Pipe {
        let mut ends = [0; 2];
        // SAFETY: the pointer leads to room for two descriptors.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        Pipe {
            reader: ends[0],
            writer: ends[1],
        }
    }

    /// Sends a record. POSIX promises that so short a write is not mixed with others.
    pub fn send<T: Copy>(&self, record: &T) {
        const { assert!(size_of::<T>() <= 4096) };
        // SAFETY: the record is plain data without padding that matters.
        let sent = unsafe { libc::write(self.writer, (&raw const *record).cast(), size_of::<T>()) };
        assert_eq!(
            sent,
            size_of::<T>() as isize,
            "write: {}",
            io::Error::last_os_error()
        );
    }

    /// The next record. `None` if there is none in that time, or never will be.
    pub fn receive<T: Copy>(&self, at_most: Duration) -> Option<T> {
        let mut poll = libc::pollfd {
            fd: self.reader,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: the pointer leads to one pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, at_most.as_millis() as i32) };
        if ready <= 0 || poll.revents & libc::POLLIN == 0 {
            return None;
        }
        let mut record = std::mem::MaybeUninit::<T>::uninit();
        // SAFETY: the pointer leads to room for the record.
        let received = unsafe { libc::read(self.reader, record.as_mut_ptr().cast(), size_of::<T>()) };
        // SAFETY: only records of this type are sent on this pipe, each whole.
        (received == size_of::<T>() as isize).then(|| unsafe { record.assume_init() })
    }

    pub fn writer(&self) -> i32 {
        self.writer
    }

    pub fn close_writer(&mut self) {
        close(&mut self.writer);
    }

    pub fn close_reader(&mut self) {
        close(&mut self.reader);
    }
}

fn close(fd: &mut i32) {
    if *fd >= 0 {
        // SAFETY: the descriptor is this pipe's own, and open.
        unsafe { libc::close(*fd) };
        *fd = -1;
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.close_writer();
        self.close_reader();
    }
}

/// Runs `work` in a child that this process does not wait for.
pub fn run_detached(work: impl FnOnce()) {
    let child = Child::run(|| {
        // SAFETY: this process waits for its own children again.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        work();
    });
    std::mem::forget(child);
}

/// Lets the kernel reap this process's children.
pub fn let_children_go() {
    // SAFETY: affects this process alone.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}
