//! What the core asks of the operating system: memory that grows, sleeping and waking, and whether a process
//! lives.
//!
//! Everything else in the core is free of system calls, so another system needs only another file here.

#[cfg(target_os = "linux")]
#[cfg_attr(loom, allow(dead_code, unused_imports))]
mod linux;
#[cfg(all(target_os = "linux", not(loom)))]
pub(crate) use linux::*;

/// The models' kernel. What it does not model is the real one's.
#[cfg(loom)]
mod model;
#[cfg(loom)]
pub(crate) use model::*;

#[cfg(not(target_os = "linux"))]
compile_error!(
    "Penstock runs on Linux: memory files, futexes and open-file-description locks have no port yet"
);
