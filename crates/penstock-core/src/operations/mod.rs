//! The operations on a handle.

mod acknowledge;
mod aside;
#[cfg(not(loom))]
mod connection;
pub(crate) mod delivery;
#[cfg(not(loom))]
pub(crate) mod finish_taken;
pub(crate) mod get;
mod grow;
mod join;
pub(crate) mod lease;
mod put;
mod shutdown;
mod spin;
mod trim;
#[cfg(not(loom))]
pub(crate) mod view;
pub(crate) mod wait;
#[cfg_attr(loom, path = "../models/watch.rs")]
mod watch;
