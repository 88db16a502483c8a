//! Queues and connections as Python has them, on those of the core.

mod attempt;
mod awaiting;
mod batches;
pub mod channel;
pub mod classes;
mod closable;
mod cooperation;
#[cfg(feature = "fault-points")]
pub mod failpoints;
pub mod handle;
pub mod iteration;
pub mod leases;
pub mod options;
pub mod payload_buffer;
pub mod pins;
pub mod process_exit;
pub mod producing;
pub mod proof;
mod send_receive;
mod tasks;
