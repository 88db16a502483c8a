//! What the core asks of the operating system: memory that grows, sleeping and waking, and whether a process lives.
//!
//! Everything else in the core is free of system calls, so another system needs only another file here.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;

#[cfg(not(target_os = "linux"))]
compile_error!(
    "Penstock runs on Linux: memory files, futexes and open-file-description locks have no port yet"
);
