//! Calling Python and being called: nothing here knows what a queue is for.

pub mod allocator;
pub mod errors;
pub mod ffi;
pub mod gil;
pub mod once;
pub mod reserve;
