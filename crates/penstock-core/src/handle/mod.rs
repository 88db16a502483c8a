//! The handle of one process to a queue.

pub(crate) mod begun;
pub(crate) mod enter;
pub(crate) mod membership;
pub(crate) mod put_off;
pub(crate) mod queue;
#[cfg_attr(loom, path = "../models/registry.rs")]
pub(crate) mod registry;
#[cfg(not(loom))]
pub(crate) mod remainder;
pub(crate) mod spare;
pub(crate) mod spin_budget;
pub(crate) mod upkeep;
