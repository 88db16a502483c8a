//! Queues of bytes in shared memory, between processes, that stay right when any participant is killed at any moment.
//!
//! The data's way, and the files it passes:
//!
//! ```text
//! put.rs:  bytes -> slot.rs (and heap.rs for what does not fit) -> READY -> waiter.rs wakes one getter
//! get.rs:  READY -> LEASED -> copy or view -> FREE, or LEASED until done.rs finishes the item
//! ```
//!
//! returned.rs holds the items that came back from a dead holder.
//!
//! Under them lie lock.rs (one short lock a queue, which a survivor takes over), recovery.rs and rebuild.rs (what a survivor does then),
//! participant.rs (who takes part, and who is dead), trim.rs (memory given back), segment.rs and layout.rs (the shared
//! memory) and platform/ (the system calls). The rule above all: `Slot::state` alone is the truth about an item.

mod aside;
#[cfg_attr(loom, path = "models/bell.rs")]
mod bell;
mod check;
#[cfg(not(loom))]
mod connection;
mod delivery;
mod done;
mod error;
pub mod fault;
#[cfg_attr(loom, path = "models/fork.rs")]
mod fork;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod get;
mod heap;
mod holding;
mod layout;
mod lock;
#[cfg(loom)]
mod models;
mod participant;
mod platform;
mod put;
mod queue;
mod rebuild;
mod recovery;
mod returned;
mod segment;
mod slice;
mod slot;
mod statistics;
#[cfg(not(loom))]
mod substitute;
mod sync;
mod trim;
mod upkeep;
#[cfg(not(loom))]
mod view;
mod waiter;

pub use check::{Check, Fault};
pub use delivery::{Batch, Buffer, Taken};
pub use error::Error;
pub use get::{Delivery, Lent};
pub use participant::{Proof, joined_without_proof};
pub use queue::{Options, Patience, Queue, Wait};
pub use statistics::Statistics;
#[cfg(not(loom))]
pub use view::View;

/// Names a queue for ever, on every machine.
pub type Id = [u8; 16];

/// Payloads up to this size are copied inside the critical section; larger ones outside it.
pub const SMALL: usize = if cfg!(loom) { layout::INLINE } else { 2048 };

/// Items that change hands in one critical section at most, which takes a few microseconds then.
pub const BATCH: usize = 64;

/// Names an item: where it was put, and its place in the order of publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub slot: u32,
    pub seq: u64,
}

/// How a participant's part in a queue ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// In order: items taken and not acknowledged stay unfinished for ever, as `multiprocessing` has it.
    Clean,
    /// By a failure: items taken and not acknowledged go to somebody else.
    Crashed,
}
