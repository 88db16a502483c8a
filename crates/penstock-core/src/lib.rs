//! Queues of bytes in shared memory, between processes, that stay consistent when any participant is killed
//! at any moment.
//!
//! The way of an item:
//!
//! ```text
//! operations/put.rs:  bytes -> slot (and an extent for what does not fit) -> READY -> one getter is woken
//! operations/get.rs:  READY -> LEASED -> copy or view -> FREE, or LEASED until task_done (acknowledge.rs)
//! ```
//!
//! A folder imports those above it in this list and itself; `tools/check_layers.py` holds that:
//!
//! | folder | what it knows |
//! |---|---|
//! | (beside this file) | errors, options, atomics, fault points, fork |
//! | `platform/` | the system calls |
//! | `memory/` | the layout of the shared memory, and checked access to it |
//! | `state/` | what changes under the lock: slots, lists, heap, waiters, participants; sweep, rebuild |
//! | `lock/` | the lock, which a survivor takes over; what a section does when it ends |
//! | `handle/` | the handle of one process to a queue: membership, entering, upkeep |
//! | `operations/` | put, get, iterate, acknowledge, join, produce, wait, watch, grow, trim |
//! | `diagnostics/` | statistics, dead letters, the check |
//!
//! The first rule: `Slot::state` alone is the truth about an item.

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

pub use diagnostics::check::{Check, Finding};
#[cfg(feature = "fuzzing")]
pub use diagnostics::fuzzing;
pub use diagnostics::statistics::Statistics;
pub use error::Error;
pub use fork::count as forks;
pub use handle::membership::joined_without_proof;
pub use handle::queue::Queue;
#[cfg(not(loom))]
pub use handle::remainder::{KeptOpen, OpenHandle, Remainder, leave_by_id};
pub use memory::descriptor::InUse;
pub use memory::layout::Kind as Awaited;
pub use operations::delivery::{Batch, Buffer, Taken};
#[cfg(not(loom))]
pub use operations::get::Delivery;
pub use operations::iterate::InHand;
pub use operations::lease::Lent;
pub use operations::letters::DeadLetter;
pub use operations::produce::Production;
#[cfg(not(loom))]
pub use operations::view::View;
pub use options::{Options, Own, Patience, Retry, Wait};
#[cfg(not(loom))]
pub use state::acting::Acting;
pub use state::held::{Held, Verdict};
#[cfg(not(loom))]
pub use state::line_end::{EndInUse, LineEnd};
pub use state::notes::Death;
pub use state::participant::Proof;
#[cfg(feature = "early-aging")]
pub use state::waiters::early::age_waiters_after;
pub use units::{BATCH, Ended, Id, Leave, LetterTicket, SMALL, Ticket};
