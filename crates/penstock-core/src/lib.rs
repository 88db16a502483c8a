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

#[cfg_attr(loom, path = "models/after_release.rs")]
mod after_release;
mod aside;
#[cfg_attr(loom, path = "models/bell.rs")]
mod bell;
mod check;
#[cfg(not(loom))]
mod connection;
mod deliver;
mod delivery;
mod done;
mod enter;
mod error;
pub mod fault;
#[cfg_attr(loom, path = "models/fork.rs")]
mod fork;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod get;
mod guard;
mod heap;
mod holding;
mod layout;
mod lease;
mod lock;
mod membership;
#[cfg(loom)]
mod models;
mod options;
mod participant;
mod platform;
mod put;
mod queue;
mod rebuild;
mod recovery;
#[cfg_attr(loom, path = "models/registry.rs")]
mod registry;
mod returned;
mod segment;
mod slice;
mod slot;
mod spin;
mod state;
mod statistics;
#[cfg(not(loom))]
mod substitute;
mod sync;
mod trim;
mod units;
mod upkeep;
#[cfg(not(loom))]
mod view;
mod wait;
mod waiter;
#[cfg_attr(loom, path = "models/watch.rs")]
mod watch;

pub use check::{Check, Fault};
pub use delivery::{Batch, Buffer, Taken};
pub use error::Error;
pub use get::Delivery;
pub use lease::Lent;
pub use membership::joined_without_proof;
pub use options::{Options, Patience, Wait};
pub use participant::Proof;
pub use queue::Queue;
pub use statistics::Statistics;
pub use units::{BATCH, Id, Leave, SMALL, Ticket};
#[cfg(not(loom))]
pub use view::View;
