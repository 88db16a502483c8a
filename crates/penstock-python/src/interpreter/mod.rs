//! Calling Python and being called. Nothing here knows what is sent, or how.

pub mod allocator;
pub mod errors;
pub mod ffi;
pub mod gil;
pub mod once;
pub mod reserve;
