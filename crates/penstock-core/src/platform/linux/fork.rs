//! Linux: `fork`, and a process's own end.
#![allow(unsafe_code)]

use std::ptr;

use rustix::mm::{Advice, MapFlags, ProtFlags};

#[cfg(not(loom))]
use crate::sync::AtomicU32;
use crate::units::PAGE;

/// A word that reads 0 in a child, also in a child that a bare `clone` system call made.
#[cfg(not(loom))]
pub(crate) fn wiped_on_fork() -> Option<&'static AtomicU32> {
    // SAFETY: a new anonymous mapping; no memory of this process is replaced.
    let page = unsafe {
        rustix::mm::mmap_anonymous(
            ptr::null_mut(),
            PAGE as usize,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }
    .ok()?;
    // SAFETY: the range is the mapping just made, which holds nothing yet.
    unsafe { rustix::mm::madvise(page, PAGE as usize, Advice::LinuxWipeOnFork) }.ok()?;
    // SAFETY: the page is mapped for the rest of the process's life, aligned, zeroed, and used as this atomic
    // alone.
    Some(unsafe { &*page.cast::<AtomicU32>() })
}

/// Calls the functions around every `fork`: before it in the parent, after it in the parent, after it in the
/// child.
pub(crate) fn at_fork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) {
    // SAFETY: the three are functions of this library, which is never unloaded (CPython does not unload
    // extensions).
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

#[cfg(feature = "fault-points")]
pub(crate) fn stop_self() {
    // SAFETY: raise with a valid signal number; the call returns once the process was continued.
    unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
}

#[cfg(feature = "fault-points")]
pub(crate) fn kill_self() {
    // SAFETY: raise with a valid signal number; SIGKILL does not return.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    loop {
        std::thread::park();
    }
}
