//! Diagnostics: statistics and the check. They change nothing, except that they sweep the dead.

pub(crate) mod check;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub(crate) mod statistics;
