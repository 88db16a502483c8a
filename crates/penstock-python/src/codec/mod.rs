//! Objects to bytes and back.

pub mod envelope;
pub mod forking_pickler;
mod interned_keys;
pub mod memory;
mod mentioned;
pub mod numpy;
pub mod pickling;
pub mod plain;
pub mod reducers;
pub mod unpickling;
