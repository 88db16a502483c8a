//! Concurrent runs of a queue, recorded and proven linearizable.
//!
//! A *history* is what callers saw: of every operation the call, the answer, when it was invoked and when it
//! responded. It is *linearizable* if every operation can be given one moment between the two at which it
//! happened at once, so that all of them in that order are a run of a sequential queue (Herlihy and Wing,
//! 1990). An operation that was invoked by a process that was killed before the response is *pending*: it may
//! have happened or not.
//!
//! ```text
//! run.rs:    processes and threads, killed at random -> log.rs (outlives a SIGKILL) -> history.rs
//! search.rs: a small history -> every order -> specification.rs says which are runs of a queue
//! stays.rs:  a large one -> when each item was surely in the queue -> aspects.rs finds what no queue can do
//! ```
//!
//! `subject.rs` is the queue under test, and wrappers around it that are broken on purpose, which both must
//! reject.

pub mod aspects;
pub mod history;
pub mod log;
pub mod mutation;
pub mod random;
mod ranges;
pub mod run;
pub mod search;
pub mod specification;
mod stays;
pub mod subject;
mod violation;

pub use history::{Answer, Call, Death, Event, History, Rules, Time, Value};
pub use violation::Violation;
