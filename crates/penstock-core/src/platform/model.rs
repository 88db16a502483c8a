//! The kernel of the models: time, futexes and liveness from models/world.rs, and memory that is always
//! backed.
//!
//! What is exact: `futex_wait` compares and goes to sleep in one step; a wake-up reaches the threads that
//! went to sleep before it; a sleeper that dies takes no wake-up with it. A process is reported as gone only
//! after its last store, and the report orders its stores before what the caller does next.

#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::time::Duration;

use crate::error::Error;
use crate::models::world;
use crate::sync::AtomicU32;
use crate::units::Ended;

// Functions of the real kernel: called by code that the models do not run, or harmless.
pub(crate) use super::linux::{
    FileIdentity, Life, Seen, Slept, await_writable, backed_bytes, close_on_exec, create_file, duplicate,
    identify, is_too_long, is_trustworthy, name_file, no_memory, open_file, read_at,
};

/// A moment of the virtual clock.
pub type Instant = world::Moment;

// ---------------------------------------------------------------------------------------------------- memory

/// Enough for every model: the geometry alone decides what lies in it.
pub(crate) fn memory_limit() -> u64 {
    1 << 20
}

pub(crate) fn create_memory(_: &str, _: u64) -> Result<OwnedFd, Error> {
    world::any_file()
}

pub(crate) fn address_space_left() -> Option<u64> {
    None
}

/// The near memory; the models need no more.
pub(crate) fn map(_: BorrowedFd<'_>, _: u64, length: u64) -> Result<NonNull<u8>, Error> {
    Ok(world::memory(length as usize))
}

pub(crate) fn map_again(_: NonNull<u8>, _: u64, _: u64, _: u64) -> Result<NonNull<u8>, Error> {
    unreachable!("every process of a model has its descriptor")
}

/// # Safety
/// No condition: the memory stays for the next execution.
pub(crate) unsafe fn unmap(_: NonNull<u8>, _: u64, _: u64) {}

pub(crate) fn back(_: BorrowedFd<'_>, _: u64, _: u64) -> Result<(), Error> {
    Ok(())
}

pub(crate) fn back_mapped(_: NonNull<u8>, _: u64) -> Result<(), Error> {
    Ok(())
}

pub(crate) fn punch(_: BorrowedFd<'_>, _: u64, _: u64) -> Result<(), Error> {
    Ok(())
}

pub(crate) fn punch_mapped(_: NonNull<u8>, _: u64) -> Result<(), Error> {
    Ok(())
}

pub(crate) fn random_id() -> Result<[u8; 16], Error> {
    Ok([7; 16])
}

// ---------------------------------------------------------------------------------------- waiting and waking

pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, at_most: Duration) -> Slept {
    if std::thread::panicking() {
        return Slept::Changed;
    }
    world::step();
    world::mark_disturbance(world::process());
    // From the read of the word to the sleep no other thread runs, as under the kernel's own lock.
    if word.read_as_kernel() != expected {
        return Slept::Changed;
    }
    world::sleep(&raw const *word as usize, at_most)
}

pub(crate) fn futex_wake(word: &AtomicU32, count: u32) {
    if std::thread::panicking() {
        return;
    }
    world::step();
    word.read_as_kernel();
    world::wake(&raw const *word as usize, count);
}

/// Other threads may run at any step.
pub(crate) fn sleep(_: Duration) {}

pub(crate) fn cores() -> u32 {
    world::cores()
}

pub(crate) fn thread_id() -> u32 {
    world::process()
}

pub(crate) fn own_thread_id() -> u32 {
    thread_id()
}

/// Never called: a model's threads have their numbers.
pub(crate) fn next_number() -> u32 {
    thread_id()
}

/// As above.
pub(crate) fn renumber(_: u32) {}

pub(crate) fn micros() -> u64 {
    Instant::now().as_micros()
}

pub(crate) fn coarse_millis() -> u64 {
    Instant::now().as_millis()
}

// -------------------------------------------------------------------------------------------------- liveness

pub(crate) fn process_id() -> u32 {
    world::process()
}

pub(crate) fn own_birth() -> u64 {
    1
}

/// The models' kernel does not tell; the time bound decides.
pub(crate) fn is_running(_: u32) -> bool {
    true
}

pub(crate) fn is_stopped(_: u32) -> Option<bool> {
    None
}

pub(crate) fn pid_namespace() -> u64 {
    1
}

pub(crate) fn ticks_since_boot() -> u64 {
    1
}

pub(crate) fn probe_process(pid: u32, _: (u64, u64)) -> Seen {
    if world::is_gone(pid) {
        Seen::Ended
    } else {
        Seen::Running
    }
}

pub(crate) fn maps_file(_: u32, _: FileIdentity) -> bool {
    true
}

/// Each process of a model has a description of its own.
pub(crate) fn own_description(_: BorrowedFd<'_>) -> bool {
    true
}

pub(crate) fn hold_life(_: BorrowedFd<'_>, at: u64) -> bool {
    world::hold_life(at as usize)
}

pub(crate) fn release_life(_: BorrowedFd<'_>, at: u64) {
    world::release_life(at as usize);
}

pub(crate) fn probe_life(_: BorrowedFd<'_>, at: u64) -> Life {
    if world::is_life_held(at as usize) {
        Life::Held
    } else {
        Life::Free
    }
}

// ----------------------------------------------------------------------------------------------- descriptors

pub(crate) fn borrow_checked(_: RawFd, _: FileIdentity) -> Option<BorrowedFd<'static>> {
    world::borrow_any_file()
}

pub(crate) fn close_checked(fd: RawFd, _: FileIdentity) {
    world::close(fd);
}

pub(crate) fn ended(_: u32) -> Ended {
    Ended::Unknown
}

pub(crate) fn seconds() -> u32 {
    0
}
