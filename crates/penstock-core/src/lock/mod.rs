//! The lock: its word, the guard that holds it, and what happens after its release.

#[cfg_attr(loom, path = "../models/after_release.rs")]
mod after_release;
pub(crate) mod guard;
pub(crate) mod word;
