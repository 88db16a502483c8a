//! How long a process spins before it sleeps.

use std::time::Duration;

use crate::platform::Instant;
use crate::sync::{AtomicU32, Word, spin_loop};

/// The most that a spin may cost, and the least, while spinning does not pay. In nanoseconds.
const SPIN_MOST: u32 = 50_000;
const SPIN_LEAST: u32 = 500;

/// While spinning does not pay, every 32nd wait tries the full budget again.
const PROBE_EVERY: u32 = 32;

/// Pauses of the processor between two reads of a spinner, about 1.5 us. Measured: a getter that reads more
/// often takes the cache line from the putter for every single item, and both are slower.
const LOOK_AFTER: u32 = if cfg!(loom) { 1 } else { 64 };

/// How long a process spins before it sleeps. A spin that succeeds restores the full budget; a spin that
/// fails halves it. So two processes on different cores find each other spinning, and two that share a core
/// soon sleep instead.
pub(crate) struct SpinBudget {
    nanoseconds: AtomicU32,
    waits: AtomicU32,
}

impl SpinBudget {
    pub(crate) fn new() -> SpinBudget {
        SpinBudget {
            nanoseconds: AtomicU32::new(SPIN_MOST),
            waits: AtomicU32::new(0),
        }
    }

    pub(crate) fn next(&self) -> Duration {
        let wait = self.waits.get().wrapping_add(1);
        self.waits.set(wait);
        let budget = if wait % PROBE_EVERY == 0 {
            SPIN_MOST
        } else {
            self.nanoseconds.get()
        };
        Duration::from_nanos(u64::from(budget))
    }

    pub(crate) fn adapt(&self, paid: bool) {
        let halved = (self.nanoseconds.get() / 2).max(SPIN_LEAST);
        self.nanoseconds.set(if paid { SPIN_MOST } else { halved });
    }
}

pub(crate) fn spin_until(budget: &SpinBudget, at_most: Duration, is_there: impl Fn() -> bool) {
    let end = Instant::now() + budget.next().min(at_most);
    loop {
        if is_there() {
            return budget.adapt(true);
        }
        // Not more often: each read takes the cache line from the processes that write it.
        for _ in 0..LOOK_AFTER {
            spin_loop();
        }
        if Instant::now() >= end {
            return budget.adapt(false);
        }
    }
}
