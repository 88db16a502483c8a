//! The operating system: memory that grows, sleeping and waking, and whether a process lives.
//!
//! The rest of the core makes no system calls, so another system needs only another folder here.

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
