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

mod diagnostics;
mod error;
pub mod fault;
#[cfg_attr(loom, path = "models/fork.rs")]
mod fork;
mod handle;
mod lock;
mod memory;
#[cfg(loom)]
mod models;
mod operations;
mod options;
mod platform;
mod slice;
mod state;
mod sync;
mod units;

pub use diagnostics::check::{Check, Fault};
#[cfg(feature = "fuzzing")]
pub use diagnostics::fuzzing;
pub use diagnostics::statistics::Statistics;
pub use error::Error;
pub use handle::membership::joined_without_proof;
pub use handle::queue::Queue;
pub use operations::delivery::{Batch, Buffer, Taken};
pub use operations::get::Delivery;
pub use operations::lease::Lent;
#[cfg(not(loom))]
pub use operations::view::View;
pub use options::{Options, Patience, Wait};
pub use state::participant::Proof;
pub use units::{BATCH, Id, Leave, SMALL, Ticket};
