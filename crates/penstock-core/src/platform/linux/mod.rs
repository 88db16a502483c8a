//! Linux: memfd and fallocate, futex, pidfd, /proc and open-file-description locks.

mod fork;
mod futex;
mod line;
mod memory;
mod pipe;
mod process;

pub(crate) use std::time::Instant;

use rustix::io::Errno;

pub(crate) use self::fork::*;
pub(crate) use self::futex::*;
pub(crate) use self::line::*;
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

/// A number, not 0, that is found out once. Not a `OnceLock`: if one thread initialises it while another one
/// forks, the child waits for the first thread for ever.
struct Remembered(std::sync::atomic::AtomicU64);

impl Remembered {
    const fn new() -> Remembered {
        Remembered(std::sync::atomic::AtomicU64::new(0))
    }

    /// The number. If it is not known, calls `find_out`, maybe in several threads at once. A failure is not
    /// remembered.
    fn or_else(&self, find_out: impl FnOnce() -> Option<u64>) -> Option<u64> {
        use std::sync::atomic::Ordering::Relaxed; // no other memory depends on it
        match self.0.load(Relaxed) {
            0 => find_out().inspect(|number| self.0.store(*number, Relaxed)),
            number => Some(number),
        }
    }
}
