//! What a test waits for: a condition, and the end of a child.

use std::thread;
use std::time::{Duration, Instant};

use crate::child::Child;

pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}: it never came to that");
        thread::yield_now();
    }
}

/// Waits for the end of a child, and returns its exit status, or its signal as a negative number.
pub fn outcome(mut child: Child) -> i32 {
    let status = child.reap();
    if libc::WIFSIGNALED(status) {
        -libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    }
}
