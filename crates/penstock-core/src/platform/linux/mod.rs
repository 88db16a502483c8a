//! Linux: memfd and fallocate, futex, pidfd, /proc and open-file-description locks.

mod fork;
mod futex;
mod memory;
mod pipe;
mod process;

pub(crate) use std::time::Instant;

use rustix::io::Errno;

pub(crate) use self::fork::*;
pub(crate) use self::futex::*;
pub(crate) use self::memory::*;
pub(crate) use self::pipe::*;
pub(crate) use self::process::*;
use crate::error::Error;

fn os(call: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::Os {
        call,
        errno: errno.raw_os_error(),
    }
}

/// A number that is found out once, and not 0. Not a `OnceLock`: if a thread were just inside of one when
/// another forks, the child would wait for that thread for ever.
struct Remembered(std::sync::atomic::AtomicU64);

impl Remembered {
    const fn new() -> Remembered {
        Remembered(std::sync::atomic::AtomicU64::new(0))
    }

    /// The number, or what `find_out` answers; several threads may find it out at once. A failure is not
    /// remembered.
    fn or_else(&self, find_out: impl FnOnce() -> Option<u64>) -> Option<u64> {
        use std::sync::atomic::Ordering::Relaxed; // nothing else is said by it
        match self.0.load(Relaxed) {
            0 => find_out().inspect(|number| self.0.store(*number, Relaxed)),
            number => Some(number),
        }
    }
}
