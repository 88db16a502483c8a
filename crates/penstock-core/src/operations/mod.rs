//! The operations on a handle.

mod acknowledge;
mod aside;
#[cfg(not(loom))]
mod connection;
mod delay;
pub(crate) mod delivery;
pub(crate) mod get;
mod grow;
pub(crate) mod held;
pub(crate) mod iterate;
mod join;
pub(crate) mod lease;
pub(crate) mod letters;
pub(crate) mod produce;
mod put;
mod shutdown;
mod spin;
mod trim;
#[cfg(not(loom))]
pub(crate) mod view;
pub(crate) mod wait;
#[cfg_attr(loom, path = "../models/watch.rs")]
mod watch;
