//! How long a process spins before it sleeps.

use std::time::Duration;

use crate::platform::Instant;
use crate::sync::{AtomicU32, Word, spin_loop};

/// What a spin may cost, in nanoseconds, and what it costs while it does not pay.
const SPIN_MOST: u32 = 50_000;
const SPIN_LEAST: u32 = 500;

/// While it does not pay, one wait in so many tries the full budget again.
const PROBE_EVERY: u32 = 32;

/// Pauses of the processor between two reads of a spinner, about a microsecond and a half. Measured: a
/// consumer that reads more often takes the line away from the producer for every single item, and both are
/// slower.
const LOOK_AFTER: u32 = if cfg!(loom) { 1 } else { 64 };

/// How long a process spins before it sleeps. A spin that is rewarded restores the full budget, one that is
/// not halves it: so two processes on cores of their own find each other spinning, and two that share a core
/// soon give way to each other.
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
        // Not too often: each read takes the line away from the processes that write it.
        for _ in 0..LOOK_AFTER {
            spin_loop();
        }
        if Instant::now() >= end {
            return budget.adapt(false);
        }
    }
}
