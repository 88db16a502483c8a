//! Functions for the fuzzer (`fuzz/`), compiled in with the feature `fuzzing` only.
//!
//! The feature also surrounds the memory of a queue with address space that no access survives (platform/),
//! and shortens the slices in which a waiter sleeps (lock/word.rs, operations/wait.rs).

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::memory::layout::*;
use crate::state::slot::State;
use crate::state::waiters::Waiting;
use crate::sync::{AtomicU8, AtomicU64};

/// States of a slot, numbered from 0.
pub const STATES: u8 = State::COUNT as u8;

/// Elements of one size, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    pub start: u64,
    pub size: u64,
    pub count: u64,
}

/// The regions of a queue's near memory, without payload bytes, in their order: the fuzzer poisons what lies
/// between two of them.
pub fn regions(queue: &Queue) -> [Region; 9] {
    fn region<T>(start: u64, count: u32) -> Region {
        Region {
            start,
            size: size_of::<T>() as u64,
            count: u64::from(count),
        }
    }
    let geometry = &queue.shared.segment.geometry;
    [
        region::<Header>(HEADER_AT, 1),
        region::<Hot>(HOT_AT, 1),
        region::<Participant>(geometry.participants_at, geometry.participants),
        region::<WaiterCell>(geometry.cells_at, geometry.cells),
        region::<AtomicU8>(geometry.backing_at, geometry.near_spans),
        region::<AtomicU64>(geometry.bitmap_at, 1),
        region::<SlotPage>(geometry.pages_at, NEAR_PAGES),
        region::<SpanDescriptor>(geometry.descriptors_at, geometry.near_spans),
        region::<Slot>(geometry.slots_at, NEAR_SLOTS),
    ]
}

/// Where the memory is mapped in this process.
pub fn base(queue: &Queue) -> *const u8 {
    std::ptr::from_ref(queue.shared.segment.header()).cast()
}

/// This process's participant id in the queue, as in the lock word and in the slots that it holds; 0 if it
/// has none.
pub fn name(queue: &Queue) -> u32 {
    queue.shared.member_if_any().map_or(0, |me| me.0)
}

/// Ends the membership as the death of the process would: what it holds stays as it is. The others then see
/// it as a process that has called `exec`.
pub fn vanish(queue: &Queue) {
    queue.forget_membership();
}

/// The same inside the critical section.
pub fn vanish_in_section(queue: &Queue) -> Result<(), Error> {
    core::mem::forget(queue.shared.report(queue.enter_uninterruptible())?);
    queue.forget_membership();
    Ok(())
}

/// Adds the cell of a sleeping waiter without a thread that sleeps there.
pub fn enlist(queue: &Queue, kind: usize) -> Result<(), Error> {
    let mut waiting = Waiting::new(Kind::ALL[kind % Kind::ALL.len()]);
    let enlisted = queue
        .enter_uninterruptible()
        .and_then(|mut section| section.enlist(&mut waiting));
    queue.shared.report(enlisted)
}

/// Whether the lock is held by a participant that is not proven dead. It may be stopped, so callers wait for
/// it without a limit; no process can tell such a holder from damage.
pub fn is_lock_held_by_the_living(queue: &Queue) -> bool {
    let holder = queue.shared.named_holder();
    !holder.is_none()
        && queue.shared.participant_of(holder).is_ok_and(|record| {
            record.is_some_and(|record| !queue.shared.is_dead(holder.index(), record, true))
        })
}
