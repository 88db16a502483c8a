//! Model checking of the core's own code with loom: the interleavings of two or three processes, of which one
//! may stop at any step.
//!
//! Under `--cfg loom` the shared words are loom's (words.rs), the kernel is a model (platform/model.rs,
//! world.rs), and everything between is the core as it is; only the rounds of spinning are fewer, and
//! payloads above `INLINE` bytes are large. Each thread of a model is a process with its own handle and its
//! own membership; processes do not fork. `make test-loom` runs the models, and says for each how many
//! executions it has explored.
//!
//! What is explored. A load may see any value that the memory model allows. But a thread that slept until its
//! slice ended sees the stores of the process that went to sleep last. Without a bound the search is
//! exhaustive; elsewhere a running thread is preempted at most as often as the model says, while switches at
//! sleeping, waking and ending are free. The words that are accessed under the lock only (`Locked*` in
//! layout.rs) and the payload bytes are no points of a switch: loom proves instead that their accesses never
//! race.
//!
//! A process can stop before every store and every call of the kernel; between two of them it does nothing
//! that another process could observe. After each execution audit.rs compares every cache with the truth.
//!
//! Not modelled: how a process opens a notifier, the pause for memory, a lack of memory, holes in the file,
//! `fork`, other pid namespaces, descriptors closed behind the queue's back.
#![allow(unsafe_code)]
#![cfg_attr(not(test), allow(dead_code))]

#[cfg(test)]
mod aging;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod delaying;
#[cfg(test)]
mod dying;
#[cfg(test)]
mod ending;
#[cfg(test)]
mod handing;
#[cfg(test)]
mod joining;
#[cfg(test)]
mod leasing;
#[cfg(test)]
mod notifying;
#[cfg(test)]
mod pausing;
#[cfg(test)]
mod recovering;
#[cfg(test)]
mod run;
pub(crate) mod words;
pub(crate) mod world;
