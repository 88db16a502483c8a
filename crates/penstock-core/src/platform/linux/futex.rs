//! Linux: sleeping and waking, time, thread ids and the number of cores.

use std::cell::Cell;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::Timespec;

use super::Remembered;
#[cfg(not(loom))]
use crate::sync::AtomicU32;

/// How a sleep on a futex ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slept {
    /// Woken, or the word had another value already.
    Changed,
    TimedOut,
    /// A signal was delivered to this thread.
    Interrupted,
}

#[cfg(not(loom))]
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, at_most: Duration) -> Slept {
    let timeout = Timespec {
        tv_sec: at_most.as_secs() as i64,
        tv_nsec: i64::from(at_most.subsec_nanos()),
    };
    match futex::wait(word, futex::Flags::empty(), expected, Some(&timeout)) {
        Err(Errno::TIMEDOUT) => Slept::TimedOut,
        Err(Errno::INTR) => Slept::Interrupted,
        Ok(()) | Err(_) => Slept::Changed,
    }
}

#[cfg(not(loom))]
pub(crate) fn futex_wake(word: &AtomicU32, count: u32) {
    // The only possible error is a word that is not mapped, and a reference to it is mapped.
    let _ = futex::wake(word, futex::Flags::empty(), count);
}

/// Lets other threads run for that long.
pub(crate) fn sleep(time: Duration) {
    std::thread::sleep(time);
}

pub(crate) fn cores() -> u32 {
    static CORES: Remembered = Remembered::new();
    let find_out = || std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    CORES.or_else(|| Some(find_out())).unwrap_or(1) as u32
}

/// The numbers of threads are from 1 to this one. The bits above it say something else (state/acting.rs,
/// state/slot.rs `BY_NAME`).
const NUMBERS: u32 = (1 << 30) - 1;

thread_local! {
    static OWN_NUMBER: Cell<u32> = Cell::new(next_number());
    static NUMBER: Cell<u32> = Cell::new(OWN_NUMBER.get());
}

/// A number that no thread has, and the successor of the last such number.
pub(crate) fn next_number() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static LAST: AtomicU32 = AtomicU32::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) % (NUMBERS - 1) + 1
}

/// A number of the calling thread, not 0; or that which it acts under (state/acting.rs). No other thread of
/// this process has it, until a thousand million threads have been counted. Counted here, because the
/// kernel's own number would cost a system call for each item that is acknowledged.
pub(crate) fn thread_id() -> u32 {
    // A thread whose locals are gone already acknowledges nothing, so the shared number does no harm.
    NUMBER.try_with(Cell::get).unwrap_or(NUMBERS)
}

/// The same, also while it acts under another number.
pub(crate) fn own_thread_id() -> u32 {
    OWN_NUMBER.try_with(Cell::get).unwrap_or(u32::MAX)
}

/// Gives the calling thread, which acts under its own number, another number of its own.
pub(crate) fn renumber(number: u32) {
    let _ = OWN_NUMBER.try_with(|place| place.set(number));
    replace_thread_id(number);
}

/// Makes the calling thread act under another number. Returns the former one.
pub(crate) fn replace_thread_id(number: u32) -> u32 {
    NUMBER.try_with(|place| place.replace(number)).unwrap_or(number)
}

/// Microseconds of the monotonic clock, the same in every process of the machine.
pub(crate) fn micros() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

/// Milliseconds of the monotonic clock, the same in every process of the machine; coarse, and therefore
/// cheap.
pub(crate) fn coarse_millis() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}
