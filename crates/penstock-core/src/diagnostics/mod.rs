//! Diagnostics: statistics, dead letters and the check. They change nothing, except that they sweep the dead.

pub(crate) mod check;
mod dead_letters;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub(crate) mod statistics;
