//! Upkeep: work under the lock that its caller does not wait for.
//!
//! The end of a look, the end of a wait and a leaving need the lock, and their callers must not wait for it for long: they
//! run in destructors, with an interpreter's lock held, or after the caller's time is over. If the lock is not to be had
//! soon, because its holder is stopped, the work is *put off*. One store into what the process owns anyway says what is to be
//! done; the next section of the process does it, and so does the sweep if the process ends before.
//!
//! | put off | the mark | the sweep of the process |
//! |---|---|---|
//! | end of a look | the slot's `borrowed` = ENDED | plain: frees it. Acknowledged: the item is redelivered, or set aside, or an orphan |
//! | an item that its reader could not use returns to the queue | `borrowed` = UNDELIVERED | returns it, as any lease |
//! | an item is kept while it is looked at | `borrowed` = KEPT | as at the end of a look |
//! | memory claimed and not needed | `borrowed` = RELEASED | frees it, as any claimed slot |
//! | end of a wait | the cell's word = ABANDONED, WOKEN_LEFT or LATE_LEFT (waiters.rs) | frees the cell |
//! | leaving in order, the process goes on | the record's bit LEFT | its leases become orphans |
//! | leaving, the last handle is dropped | the record's bits LEFT and GONE, set by one store | the same; it need not be dead |
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | `borrowed` marked, or the cell's word | the sweep does what is put off |
//! | **the record is marked LEFT** | its items are unfinished for good, as if it had left under the lock |
//! | **the record is marked GONE** | any sweeper sweeps it; before, the death would have been found by its life byte |
//! | put-off work begun, some of it done | the sweep does the rest: each mark goes with the state that it belongs to |
//!
//! `Shared::me` has the bit WORK_PUT_OFF while there is such work. With it the name is no participant's, so the check of the
//! name that each operation makes anyway leads to `enter_in_vain` (enter.rs), and an operation without such work pays nothing.

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::options::{Patience, Wait};
use crate::platform;
use crate::state::Section;
use crate::state::participant::LEFT;
use crate::state::recovery::Portion;
use crate::state::slot::RELEASED;
use crate::sync::{Ordering, Word, spin_loop};

/// Reads of a taken lock before its holder's life is looked into.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 100 };

/// Portions of a leaving that was put off which are done in one section: a millisecond or less.
const PORTIONS: u32 = 8;

/// Whether the lock was not to be had in the caller's time, so that the work is put off.
pub(crate) fn is_stuck(error: &Error) -> bool {
    matches!(error, Error::Busy | Error::Stopped { .. })
}

impl Queue {
    /// Marks a slot that this participant was lent under that lease. Without the lock.
    pub(crate) fn put_off_for_slot(&self, index: u32, mark: u32, me: u32) -> Result<(), Error> {
        let slot = self.shared.segment.slot(index)?;
        if slot.word().owner() == me {
            // Release: the reads of the payload come before it, and its memory is reused after it.
            slot.borrowed.store(mark, Ordering::Release);
            fault!("upkeep.slot-marked");
            self.shared.put_off_work();
        }
        Ok(())
    }

    /// Gives claimed memory back, now or with the next section of this process.
    pub(crate) fn release_claim_or_put_off(
        &self,
        slot: u32,
        entered: Result<Guard<'_>, Error>,
        finish: impl FnOnce(&mut Section<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match entered {
            Ok(mut section) => {
                finish(&mut section)?;
                section.release_claim(slot)
            }
            Err(error) if is_stuck(&error) || error == Error::Interrupted => {
                let me = self.shared.member_if_any().unwrap_or_default();
                self.put_off_for_slot(slot, RELEASED, me)
            }
            Err(error) => Err(error),
        }
    }

    /// Does in a section of this process what it has put off.
    #[cold]
    pub(crate) fn finish_put_off(&self, section: &mut Section<'_>) -> Result<(), Error> {
        if !self.shared.take_up_work(section.me) {
            return Ok(());
        }
        section.finish_marked_slots()?;
        section.free_cells_left()?;
        section.announce_notifier()?;
        if self.leaving.get() != 0 {
            let (mut from, before) = (None, section.hot().owned_count.get());
            let mut portions = 0;
            while section.give_up_leases(self.how_to_leave(), &mut from)? == Portion::MoreToCome {
                portions += 1;
                if portions >= PORTIONS && section.hot().owned_count.get() < before {
                    // The next section goes on.
                    self.shared.put_off_work();
                    return Ok(());
                }
            }
            self.leaving.set(0);
            self.shared.segment.participant(section.my_index())?.unmark(LEFT);
        }
        Ok(())
    }

    /// Whether the numbers of the queue are what they seem: no holder of the lock may have died, and no look for the dead is
    /// due. If not, [`len`](Self::len) makes system calls, though it does not wait.
    #[inline(always)]
    pub fn is_settled(&self) -> bool {
        !self.is_maintenance_due() && !self.is_lock_stuck()
    }

    #[inline(always)]
    fn is_maintenance_due(&self) -> bool {
        self.shared.segment.hot().owned_count.get() > 0 && self.is_reaping_due()
    }

    /// Whether the same participant has held the lock for a microsecond or so.
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

    /// Repairs what the dead have left, for a program that only asks for numbers. Waits for no holder of the lock that
    /// lives: then the numbers are those committed last.
    pub(crate) fn maintain(&self) {
        // Damage is noted in the segment, and the next operation reports it.
        if self.is_lock_stuck() {
            let _ = self
                .shared
                .report(self.member().and_then(|me| self.shared.take_over_from_dead(me)));
        }
        if self.is_maintenance_due() {
            let mut try_once = Wait {
                patience: Patience::Try,
                interrupted: &mut || false,
            };
            let _ = self
                .member()
                .and_then(|_| self.reap_dead_within(false, &mut try_once));
        }
    }

    #[cold]
    pub(crate) fn begin_to_acknowledge<'q>(
        &'q self,
        enter: &mut dyn FnMut() -> Result<Guard<'q>, Error>,
    ) -> Result<(), Error> {
        self.in_portions(enter, &mut |section| section.begin_to_acknowledge())
    }

    /// Goes on where a process has died that was the first to acknowledge.
    pub(crate) fn return_what_is_aside<'q>(
        &'q self,
        enter: &mut dyn FnMut() -> Result<Guard<'q>, Error>,
    ) -> Result<(), Error> {
        if self.shared.segment.hot().begins_to_acknowledge() {
            self.begin_to_acknowledge(enter)?;
        }
        Ok(())
    }

    /// Looks for dead participants and returns what they held. `thorough` looks at everybody, not only at holders.
    /// True if any was found. Makes system calls; the caller does not hold the lock.
    ///
    /// Waits for the lock briefly only: the next look finds what this one could not sweep.
    pub(crate) fn reap_dead(&self, thorough: bool) -> Result<bool, Error> {
        self.reap_dead_entering(thorough, &mut || self.enter_briefly())
    }

    /// The same, waiting for the lock as long as `wait` allows. If that is not long enough, the dead stay for now.
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
        // Somebody chosen or spinning who never comes back may be dead without holding anything.
        let is_somebody_on_way = hot.spinning.getter.get() | hot.spinning.putter.get() != 0
            || hot.waiters.iter().any(|list| list.notified.get() > 0);
        let mut from = 1;
        let mut found = false;
        while let Some((index, word)) = self.shared.next_dead(from, !thorough && !is_somebody_on_way)? {
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
        Ok(found)
    }

    /// Sweeps a dead participant. `word` is its record as it was when its death was proven. The caller does not hold the lock.
    pub(crate) fn sweep_in_portions<'q>(
        &'q self,
        index: u32,
        word: u64,
        enter: &mut dyn FnMut() -> Result<Guard<'q>, Error>,
    ) -> Result<(), Error> {
        self.in_portions(enter, &mut |section| section.sweep(index, word))
    }

    /// The same for callers that come often: every 100 ms one of them, in whichever process, really looks.
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
        // Wraps, so that a clock of another namespace costs a look too many, not all of them.
        platform::coarse_millis().wrapping_sub(self.shared.segment.hot().reaped_at.get()) >= REAP_EVERY
    }
}

/// How often the callers of get look for the dead while there are leases, in milliseconds.
const REAP_EVERY: u64 = if cfg!(feature = "fuzzing") { 1 } else { 100 };
