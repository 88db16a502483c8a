//! Diagnostics: what a queue tells of itself. They change nothing but to sweep the dead.

pub(crate) mod check;
mod dead_letters;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub(crate) mod statistics;
