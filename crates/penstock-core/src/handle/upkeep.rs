//! Upkeep: any participant reaps the dead, at the end of its slices, or because a program asks for counters.
//!
//! state/recovery.rs has the crash table of the sweep.

use std::time::Duration;

use crate::error::Error;
use crate::handle::put_off::is_stuck;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::options::{Patience, Wait};
use crate::platform::{self, Instant};
use crate::state::hand::LateCheck;
use crate::state::recovery::Portion;
use crate::sync::{Ordering, Word, spin_loop};

/// Reads of a taken lock before its holder's life is checked.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 100 };

/// Interval at which the callers of get check for the dead while there are leases, in milliseconds.
const REAP_EVERY: u64 = if cfg!(feature = "fuzzing") { 1 } else { 100 };

/// For so long a check for the dead discards what is left in a closed queue, and a call that is to go on with
/// other work soon.
const DISCARDING: Duration = Duration::from_millis(4);

impl Queue {
    /// Checks for dead participants and sweeps them. `thorough` checks all participants, not only holders.
    /// True if a dead one was swept. Makes system calls; the caller does not hold the lock.
    ///
    /// Waits for the lock briefly only: the next check finds what this one could not sweep.
    pub(crate) fn reap_dead(&self, thorough: bool) -> Result<bool, Error> {
        self.reap_dead_entering(thorough, &mut || self.enter_briefly())
    }

    /// The same, waiting for the lock as long as `wait` allows. If that is not long enough, the dead are
    /// swept later.
    pub(crate) fn reap_dead_within(&self, thorough: bool, wait: &mut Wait<'_>) -> Result<bool, Error> {
        self.reap_dead_entering(thorough, &mut || self.enter(wait))
    }

    fn reap_dead_entering<'q>(
        &'q self,
        thorough: bool,
        enter: &mut dyn FnMut() -> Result<Guard<'q>, Error>,
    ) -> Result<bool, Error> {
        let hot = self.shared.segment.hot();
        hot.reaped_at.set(platform::coarse_millis());
        let enter = &mut || {
            let entered = enter();
            if matches!(entered, Err(Error::NoAddressSpace { .. })) {
                // This process cannot sweep: it leaves that to others, whose check is due at once.
                hot.reaped_at.set(0);
            }
            entered
        };
        // A notified waiter, or a spinner, that never comes back may be dead without holding anything. A dead
        // one that was handed something may have dead ones behind it, which would be next.
        let is_any_notified = hot.is_any_handed()
            || hot.spinning.getter.get() | hot.spinning.putter.get() != 0
            || hot.waiters.iter().any(|list| list.notified.get() > 0);
        let mut from = 1;
        let mut found = false;
        while let Some((index, word)) = self.shared.next_dead(from, !thorough && !is_any_notified)? {
            match self.sweep_in_portions(index, word, &mut *enter) {
                Err(error) if is_stuck(&error) => return Ok(found),
                swept => swept?,
            }
            found = true;
            from = index + 1;
        }
        match self.return_what_is_aside(&mut *enter) {
            Err(error) if is_stuck(&error) => {}
            returned => returned?,
        }
        match self.discard_some_leftovers(&mut *enter) {
            Err(error) if is_stuck(&error) => {}
            discarded => {
                discarded?;
            }
        }
        if self.shared.is_production_over()? {
            match enter().and_then(|section| section.end_if_unproduced()) {
                Err(error) if is_stuck(&error) => {}
                ended => ended?,
            }
        }
        if hot.is_any_handed() {
            match self.give_up_on_the_handed(&mut *enter) {
                Err(error) if is_stuck(&error) => {}
                given_up => given_up?,
            }
        }
        Ok(found)
    }

    /// Wakes late waiters that were handed something, and takes the items of stopped ones back.
    #[cold]
    fn give_up_on_the_handed<'q>(
        &'q self,
        enter: &mut dyn FnMut() -> Result<Guard<'q>, Error>,
    ) -> Result<(), Error> {
        let mut check = LateCheck::new();
        self.in_portions(enter, &mut |section| section.wake_the_handed(&mut check))?;
        if check.keep_stopped(|owner| self.shared.is_stopped(owner) == Some(true)) {
            self.in_portions(enter, &mut |section| section.take_back_from(&mut check))?;
        }
        Ok(())
    }

    /// Sweeps a dead participant. `word` is the word of its record from which its death was proven. The
    /// caller does not hold the lock.
    pub(crate) fn sweep_in_portions<'q>(
        &'q self,
        index: u32,
        word: u64,
        enter: &mut dyn FnMut() -> Result<Guard<'q>, Error>,
    ) -> Result<(), Error> {
        self.in_portions(enter, &mut |section| section.sweep(index, word))
    }

    /// Reaps the dead holders for callers that call often: every 100 ms one caller, in whichever process,
    /// checks.
    pub(crate) fn reap_dead_if_due(&self, wait: &mut Wait<'_>) -> Result<(), Error> {
        let reaped_at = &self.shared.segment.hot().reaped_at;
        let last = reaped_at.get();
        if self.is_reaping_due()
            && reaped_at
                .compare_exchange(
                    last,
                    platform::coarse_millis(),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
        {
            self.reap_dead_within(false, wait)?;
        }
        Ok(())
    }

    pub(crate) fn is_reaping_due(&self) -> bool {
        self.since_reaped() >= REAP_EVERY
    }

    /// Whether the watcher has not checked: for the waiter at that position. The next two find out at once.
    /// The others allow for a watcher that is on its way.
    pub(crate) fn is_reaping_overdue(&self, position: u32) -> bool {
        self.since_reaped()
            >= if position < 3 {
                REAP_EVERY
            } else {
                REAP_EVERY * 3 / 2
            }
    }

    fn since_reaped(&self) -> u64 {
        // Wraps, so that a clock of another namespace costs one check too many, and does not prevent all
        // checks.
        platform::coarse_millis().wrapping_sub(self.shared.segment.hot().reaped_at.get())
    }

    #[cold]
    pub(crate) fn begin_to_acknowledge<'q>(
        &'q self,
        enter: &mut dyn FnMut() -> Result<Guard<'q>, Error>,
    ) -> Result<(), Error> {
        self.in_portions(enter, &mut |section| section.begin_to_acknowledge())
    }

    /// Continues the return of what is set aside if the first process that acknowledged has died in it.
    pub(crate) fn return_what_is_aside<'q>(
        &'q self,
        enter: &mut dyn FnMut() -> Result<Guard<'q>, Error>,
    ) -> Result<(), Error> {
        if self.shared.segment.hot().begins_to_acknowledge() {
            self.begin_to_acknowledge(enter)?;
        }
        Ok(())
    }

    /// Discards what is queued in a closed queue, in portions, and notes the memory that this leaves.
    pub(crate) fn discard_leftovers<'q>(
        &'q self,
        enter: &mut dyn FnMut() -> Result<Guard<'q>, Error>,
    ) -> Result<(), Error> {
        while self.discard_some_leftovers(&mut *enter)? == Portion::MoreToCome {}
        Ok(())
    }

    /// The same for a few milliseconds. `Last` if none is left.
    pub(crate) fn discard_some_leftovers<'q>(
        &'q self,
        enter: &mut dyn FnMut() -> Result<Guard<'q>, Error>,
    ) -> Result<Portion, Error> {
        if !self.shared.segment.hot().has_leftovers() {
            return Ok(Portion::Last);
        }
        let end = Instant::now() + DISCARDING;
        let mut last = Portion::Last;
        self.in_portions(enter, &mut |section| {
            last = section.discard()?;
            self.note_spare(section);
            Ok(if Instant::now() < end { last } else { Portion::Last })
        })?;
        Ok(last)
    }

    /// Whether the counters of the queue need no maintenance: the lock is not stuck, and neither a check for
    /// the dead nor a delayed item is due. If not, [`len`](Self::len) makes system calls, though it does not
    /// wait.
    #[inline(always)]
    pub fn is_settled(&self) -> bool {
        !self.is_maintenance_due() && !self.is_lock_stuck() && !self.shared.segment.hot().is_any_due()
    }

    #[inline(always)]
    fn is_maintenance_due(&self) -> bool {
        let hot = self.shared.segment.hot();
        (hot.owned_count.get() > 0 || hot.producers_begun.get() > 0) && self.is_reaping_due()
    }

    /// A get has found nothing. Unless it has waited for a slice, no thread may check whether the producers
    /// live: so it does, if a check is due. `Error::Busy` if it may not, because its caller holds a lock.
    #[cold]
    pub(crate) fn check_producers(&self, error: Error, patience: Patience) -> Error {
        if !self.shared.segment.hot().is_open() || !self.is_reaping_due() {
            return error;
        }
        if patience == Patience::TryLock {
            return Error::Busy;
        }
        let mut briefly = Wait {
            patience: Patience::NoWait,
            interrupted: &mut || false,
        };
        // The next call says what was found, and reports damage.
        let _ = self.reap_dead_if_due(&mut briefly);
        error
    }

    /// Whether the lock word stayed the same, and not 0, for about a microsecond.
    #[inline(always)]
    fn is_lock_stuck(&self) -> bool {
        let lock = &self.shared.segment.hot().lock;
        let seen = lock.get();
        for _ in 0..LOOKS {
            if seen == 0 || lock.get() != seen {
                return false;
            }
            spin_loop();
        }
        true
    }

    /// Takes the lock over from a dead holder, and reaps the dead, for a program that only asks for counters.
    /// Does not wait for a living holder of the lock: then the counters are those committed last.
    pub(crate) fn maintain(&self) {
        // Damage is noted in the segment, and the next operation reports it.
        if self.is_lock_stuck() {
            let _ = self
                .shared
                .report(self.member().and_then(|me| self.shared.take_over_from_dead(me)));
        }
        if self.shared.segment.hot().is_any_due() {
            let mut try_once = Wait {
                patience: Patience::TryLock,
                interrupted: &mut || false,
            };
            // The slow path of entering does it.
            let _ = self
                .member()
                .and_then(|_| self.shared.report(self.enter(&mut try_once).map(drop)));
        }
        if self.is_maintenance_due() {
            let mut try_once = Wait {
                patience: Patience::TryLock,
                interrupted: &mut || false,
            };
            let _ = self
                .member()
                .and_then(|_| self.reap_dead_within(false, &mut try_once));
        }
    }
}
