//! The shared memory: what lies where, and checked access to it.

pub(crate) mod descriptor;
pub(crate) mod file;
pub(crate) mod layout;
pub(crate) mod payload;
pub(crate) mod ranges;
pub(crate) mod segment;
