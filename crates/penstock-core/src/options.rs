//! The options of a queue, and how long a call may take.

use std::time::Duration;

use crate::platform::Instant;

/// The options of a queue, fixed when it is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Items that may be queued at once; 0 for any number.
    pub maxsize: u64,
    /// Bytes of memory that items may take; `None` for half of what the machine or its control group has.
    pub max_bytes: Option<u64>,
    /// A put waits while at least this many bytes are queued; 0 for never.
    pub soft_bytes: u64,
    /// Items stay leased until `task_done`, and are redelivered if their holder dies.
    pub acknowledged: bool,
    /// How often an item is redelivered before it becomes a dead letter.
    pub max_deliveries: u8,
}

/// How long an item that has failed waits until it is delivered again, in seconds: `first` after the first
/// failure, and each time `factor` times as long, up to `most`. Up to the part `jitter` of that is left out
/// at random, so that items that failed together do not come back together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Retry {
    pub first: f64,
    pub factor: f64,
    pub most: f64,
    pub jitter: f64,
}

/// Longer delays than this are cut, in seconds: three centuries.
const LONGEST: f64 = 1e10;

impl Retry {
    /// The delay after so many deliveries. `chance` is from 0 to 1.
    pub fn delay(&self, deliveries: u32, chance: f64) -> Duration {
        // Cut, because an infinite growth of no time is no number.
        let growth = self
            .factor
            .max(1.0)
            .powf(f64::from(deliveries.saturating_sub(1)))
            .min(f64::MAX);
        // What is no number counts as the other one.
        let whole = (self.first * growth).min(self.most).min(LONGEST);
        let left = whole * (1.0 - self.jitter.clamp(0.0, 1.0) * chance.clamp(0.0, 1.0));
        Duration::try_from_secs_f64(left).unwrap_or_default()
    }
}

/// How long an operation may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A bounded attempt, for callers that must not block at all. It may end with `Error::Busy`, and does
    /// whenever the queue needs upkeep that takes longer (growth, a check for the dead, a dead holder of the
    /// lock). The caller then calls again with another patience.
    TryLock,
    /// Takes the lock, but does not wait for room or for an item. Ends with `Error::Stopped`, as
    /// `Error::FullBehindStopped` or `Error::EmptyBehindStopped`, if a stopped process holds the lock.
    NoWait,
    /// The same, and waits for the lock 5 ms at most each time. Ends with `Error::Busy` if a process that is
    /// not stopped has kept the lock for so long.
    Briefly,
    Until(Instant),
    Forever,
}

/// Whose items in hand end a wait for an item of a queue that was shut down, and has none left: the caller
/// could be what is to finish them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// Those of the calling process: another thread of it may wait for this one before it finishes its item.
    OfProcess,
    /// Those of the calling thread, or of the task that it acts for. For callers that finish each item before
    /// they ask for the next: what the others have in hand by name is finished, or comes back. (What they
    /// have by a get ends no wait, and is not waited for.)
    OfCaller,
}

/// How long to wait, and what can end the wait earlier.
pub struct Wait<'a> {
    pub patience: Patience,
    /// Called after a signal, at the end of each slice, and after a poll of a connection's pipe in vain; true
    /// ends the wait with `Error::Interrupted`, unless the item of a put was published meanwhile. Also called
    /// before the first operation of a process whose death nothing could prove: see
    /// [`joined_without_proof`](crate::joined_without_proof).
    pub interrupted: &'a mut dyn FnMut() -> bool,
}

/// Makes a call that waits without a limit.
pub(crate) fn uninterruptible<T>(call: impl FnOnce(Wait<'_>) -> T) -> T {
    #[cfg(not(feature = "fuzzing"))]
    let mut interrupted = || false;
    #[cfg(feature = "fuzzing")]
    let mut interrupted = interrupted_after_slices();
    call(Wait {
        patience: Patience::Forever,
        interrupted: &mut interrupted,
    })
}

#[cfg(feature = "fuzzing")]
/// Ends work that must be finished after a few slices. They are enough to take over a dead holder's lock; a
/// lock that damage has given to a living participant would never be released.
fn interrupted_after_slices() -> impl FnMut() -> bool {
    let mut slices = 0;
    move || {
        slices += 1;
        slices > 3
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod testing;
