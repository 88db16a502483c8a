//! The operations: what a process does with a queue that it holds.

pub(crate) mod acknowledge;
pub(crate) mod aside;
#[cfg(not(loom))]
mod connection;
pub(crate) mod delivery;
pub(crate) mod get;
pub(crate) mod lease;
mod put;
pub(crate) mod spin;
pub(crate) mod trim;
#[cfg(not(loom))]
pub(crate) mod view;
pub(crate) mod wait;
#[cfg_attr(loom, path = "../models/watch.rs")]
mod watch;
