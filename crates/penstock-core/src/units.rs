//! Sizes and small types that every layer knows.

/// The unit in which memory is backed.
pub(crate) const PAGE: u64 = 4096;

/// Payload bytes that fit in the slot itself.
pub(crate) const INLINE: usize = 72;

/// Payloads up to this size are copied inside the critical section; larger ones outside it.
pub const SMALL: usize = if cfg!(loom) { INLINE } else { 2048 };

/// Items that one critical section puts or gets at most, which takes it a few microseconds.
pub const BATCH: usize = 64;

/// Names a queue: random, and so different from every other queue's on any machine.
pub type Id = [u8; 16];

/// Names an item: where it was put, and its place in the order of publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub slot: u32,
    pub seq: u64,
}

/// Names a dead letter: its item, and which of the item's burials made it one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LetterTicket {
    pub slot: u32,
    pub seq: u64,
    pub burial: u64,
}

/// How a participant leaves a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// In order: items taken and not acknowledged stay unfinished for ever, as in `multiprocessing`.
    Clean,
    /// By a failure: items taken and not acknowledged are redelivered to other getters.
    Crashed,
}

/// How a process has ended, as far as this one can tell: its parent can, until it has reaped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Unknown,
    /// With that status.
    Exited(u8),
    /// By that signal.
    Killed(u8),
}

impl Ended {
    pub(crate) fn pack(self) -> u64 {
        match self {
            Ended::Unknown => 0,
            Ended::Exited(status) => 1 << 8 | u64::from(status),
            Ended::Killed(signal) => 2 << 8 | u64::from(signal),
        }
    }

    pub(crate) fn unpack(word: u64) -> Ended {
        match word >> 8 & 3 {
            1 => Ended::Exited(word as u8),
            2 => Ended::Killed(word as u8),
            _ => Ended::Unknown,
        }
    }
}
