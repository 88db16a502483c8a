//! Spinning: a process reads the counters of a queue for up to 50 microseconds before it sleeps.

use std::time::Duration;

use crate::error::Error;
#[cfg(not(loom))]
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::handle::spin_budget::spin_until;
#[cfg(not(loom))]
use crate::lock::guard::Guard;
use crate::memory::layout::{Kind, ParticipantId};
use crate::options::Wait;
use crate::platform;
use crate::state::waiters::Waiting;
use crate::sync::Ordering;
#[cfg(not(loom))]
use crate::sync::Word;

impl Queue {
    /// Spins, once in a wait, and takes the lock. `None` if it has spun in this wait, or
    /// [`start_spinning`](Self::start_spinning) refuses.
    pub(crate) fn spin_and_acquire(
        &self,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
        me: ParticipantId,
    ) -> Option<Result<ParticipantId, Error>> {
        if core::mem::replace(&mut waiting.has_spun, true) || !self.start_spinning(waiting.kind, me) {
            return None;
        }
        self.spin(waiting.kind);
        Some(self.acquire_from_spin(waiting.kind, wait))
    }

    /// Spins once, unless [`start_spinning`](Self::start_spinning) refuses, for receivers of a connection,
    /// which the notifier wakes (notifier.rs) and not a list. Does not take the lock afterwards: no getter of
    /// a connection is on a list, so none misses a wake-up because of this spinner. True if the wait can end.
    #[cfg(not(loom))]
    pub(crate) fn spin_without_lock(&self, kind: Kind) -> Result<bool, Error> {
        let me = self.member()?;
        if !self.start_spinning(kind, me) {
            return Ok(false);
        }
        self.spin(kind);
        self.stop_spinning(kind);
        Ok(self.looks_ready(kind))
    }

    /// Takes the lock after a pause in which a getter may free memory, because new memory costs more. The
    /// pause lasts `at_most` nanoseconds, the time that new memory would take.
    #[cfg(not(loom))]
    pub(crate) fn pause_for_memory<'q>(
        &'q self,
        section: Guard<'q>,
        at_most: u64,
        wait: &mut Wait<'_>,
    ) -> Result<Guard<'q>, Error> {
        let (hot, me) = (section.hot(), section.me);
        let used = hot.used_bytes.get();
        // Still under the lock: a putter that pauses counts as on its way, so no other one is notified of its
        // room meanwhile.
        let is_alone = self.start_spinning(Kind::Room, me);
        drop(section);
        if !is_alone {
            return self.enter(wait);
        }
        fault!("put.pausing");
        let at_most = Duration::from_nanos(at_most);
        spin_until(&self.memory_budget, at_most, || hot.used_bytes.get() < used);
        self.acquire_from_spin(Kind::Room, wait)
            .map(|me| Guard::new(&self.shared, me))
    }

    /// Takes the lock after a spin.
    fn acquire_from_spin(&self, kind: Kind, wait: &mut Wait<'_>) -> Result<ParticipantId, Error> {
        let acquired = self.acquire_for(Some(kind), wait);
        // Only after the lock is taken: until then the spinner counts as on its way.
        self.stop_spinning(kind);
        if acquired.is_err() {
            // A section may have notified no waiter because of this spinner. The end of any section notifies
            // the next one.
            let _ = self.enter_briefly();
        }
        acquired
    }

    /// Reads the queue's counters, without the lock, until [`looks_ready`](Self::looks_ready) or the budget
    /// is spent.
    fn spin(&self, kind: Kind) {
        let budget = &self.spin_budgets[kind as usize];
        spin_until(budget, Duration::MAX, || self.looks_ready(kind));
    }

    /// Registers as the one participant that spins for that kind. False if another one spins, or on a single
    /// core. The spinner takes the lock afterwards.
    fn start_spinning(&self, kind: Kind, me: ParticipantId) -> bool {
        platform::cores() > 1
            && self.shared.spinning_word(kind).is_some_and(|word| {
                word.compare_exchange(0, me.0, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            })
    }

    fn stop_spinning(&self, kind: Kind) {
        if let (Some(word), Some(me)) = (self.shared.spinning_word(kind), self.shared.member_if_any()) {
            // Only if the word still names this process: others may have cleared it.
            let _ = word.compare_exchange(me.0, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}
