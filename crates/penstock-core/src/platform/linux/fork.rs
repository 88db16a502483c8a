//! Linux: `fork`, and a process's own end.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::units::PAGE;

/// A function that is called around forks. Not a `OnceLock`: if one thread sets it while another one forks,
/// the child waits for the first thread for ever.
pub(crate) struct Hook(AtomicPtr<()>);

impl Hook {
    pub(crate) const fn new() -> Hook {
        Hook(AtomicPtr::new(ptr::null_mut()))
    }

    pub(crate) fn set(&self, function: fn()) {
        self.0.store(function as *mut (), Ordering::Relaxed); // code, which is no shared memory
    }

    pub(crate) fn call(&self) {
        let function = self.0.load(Ordering::Relaxed);
        if !function.is_null() {
            // SAFETY: `set` alone stores another value than null, and stores a `fn()`.
            unsafe { std::mem::transmute::<*mut (), fn()>(function)() };
        }
    }
}

/// What `word_wiped_on_fork` returns. No `OnceLock`, for the same reason.
static WIPED: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// Stands in for it if the kernel has no such pages. Reads 1 in a child, too.
static NEVER_WIPED: AtomicU32 = AtomicU32::new(1);

/// Makes the word, and stores 1 in it. Does nothing if there is one.
pub(crate) fn make_word_wiped_on_fork() {
    if word_wiped_on_fork().is_none() {
        let word = map_wiped_on_fork().unwrap_or(&NEVER_WIPED);
        word.store(1, Ordering::Relaxed);
        let word = ptr::from_ref(word).cast_mut();
        // Release: pairs with the acquire in `word_wiped_on_fork`. If another thread was faster, its word
        // stays, and this page is never used.
        let _ = WIPED.compare_exchange(ptr::null_mut(), word, Ordering::Release, Ordering::Relaxed);
    }
}

/// A word that reads 0 in a child, also in a child that a bare `clone` system call made.
#[inline(always)]
pub(crate) fn word_wiped_on_fork() -> Option<&'static AtomicU32> {
    // SAFETY: null, or the address of an atomic that lives as long as the process.
    unsafe { WIPED.load(Ordering::Acquire).as_ref() }
}

fn map_wiped_on_fork() -> Option<&'static AtomicU32> {
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
