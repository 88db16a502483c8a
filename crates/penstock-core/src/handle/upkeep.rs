//! Upkeep: work under the lock that its caller does not wait for.
//!
//! The end of a look, the end of a wait and a leaving need the lock, and their callers must not wait for it for long: they
//! run in destructors, with an interpreter's lock held, or after the caller's time is over. If the lock is not to be had
//! soon, because its holder is stopped, the work is *put off*. One store into what the process owns anyway says what is to be
//! done; the next section of the process does it, and so does the sweep if the process ends before.
//!
//! | put off | the mark | the sweep of the process |
//! |---|---|---|
//! | end of a look | the slot's `reading` = ENDED | plain: frees it. Acknowledged: the item is redelivered, or set aside, or an orphan |
//! | an item that its reader could not use returns to the queue | `reading` = UNDELIVERED | returns it, as any lease |
//! | an item is kept while it is looked at | `reading` = KEPT | as at the end of a look |
//! | memory claimed and not needed | `reading` = RELEASED | frees it, as any claimed slot |
//! | end of a wait | the cell's word = ABANDONED, WOKEN_LEFT or LATE_LEFT (waiter.rs) | frees the cell |
//! | leaving in order, the process goes on | the record's bit LEFT | its leases become orphans |
//! | leaving, the last handle is dropped | the record's bits LEFT and GONE, set by one store | the same; it need not be dead |
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | `reading` marked, or the cell's word | the sweep does what is put off |
//! | **the record is marked LEFT** | its items are unfinished for good, as if it had left under the lock |
//! | **the record is marked GONE** | any sweeper sweeps it; before, the death would have been found by its life byte |
//! | put-off work begun, some of it done | the sweep does the rest: each mark goes with the state that it belongs to |
//!
//! `Queue::me` has the bit WORK_PUT_OFF while there is such work. With it the name is no participant's, so the check of the
//! name that each operation makes anyway leads to `enter_in_vain` (lock.rs), and an operation without such work pays nothing.

use crate::error::Error;
use crate::fault::fault;
use crate::fork;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::memory::layout::{CELLS, Kind, Participant, index_of};
use crate::options::{Patience, Wait};
use crate::state::Section;
use crate::state::holding::Lease;
use crate::state::participant::{self, GONE, LEFT, free_record, name_of};
use crate::state::recovery::Portion;
use crate::state::slot::{ENDED, KEPT, RELEASED, State, UNDELIVERED};
use crate::state::waiters::{LATE_LEFT, WOKEN_LEFT};
use crate::sync::{Count, Ordering, Word, spin_loop};
use crate::units::Leave;

/// Reads of a taken lock before its holder's life is looked into.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 100 };

/// Portions of a leaving that was put off which are done in one section: a millisecond or less.
const PORTIONS: u32 = 8;

/// A leaving that was put off; in `Queue::leaving`.
const IN_ORDER: u32 = 1;
const BY_CRASH: u32 = 2;

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
            slot.reading.store(mark, Ordering::Release);
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

    /// Ends this process's part: what it has taken and not acknowledged is given up as `how` says. It may go on to use
    /// the queue. Does not wait for a holder of the lock that does not run.
    pub fn leave(&self, how: Leave) -> Result<(), Error> {
        fork::notice();
        let Some(me) = self.shared.member_if_any() else {
            return Ok(());
        };
        let mut from = None;
        let left = self.in_portions(&mut || self.enter_briefly(), &mut |section| {
            section.give_up_leases(how, &mut from)
        });
        match left {
            Err(error) if is_stuck(&error) => {
                self.leaving.set(match how {
                    Leave::Clean => IN_ORDER,
                    Leave::Crashed => BY_CRASH,
                });
                if how == Leave::Clean {
                    if let Ok(Some(record)) = self.shared.participant_named(me) {
                        record.mark(me, LEFT);
                        fault!("leave.marked");
                    }
                }
                self.shared.put_off_work();
                Ok(())
            }
            left => self.shared.report(left),
        }
    }

    /// How the leaving is to be done that was put off, or else one in order.
    fn how_to_leave(&self) -> Leave {
        match self.leaving.get() {
            BY_CRASH => Leave::Crashed,
            _ => Leave::Clean,
        }
    }

    /// The end of a handle that no thread uses any more. Never waits: if the lock is taken, the record is marked, and
    /// others sweep it.
    pub(crate) fn depart(&self) {
        fork::notice();
        let Some(me) = self.shared.member_if_any() else {
            return;
        };
        let how = self.how_to_leave();
        let mut try_once = Wait {
            patience: Patience::Try,
            interrupted: &mut || false,
        };
        let mut from = None;
        let mut holds_nothing = false;
        let left = self.in_portions(&mut || self.enter(&mut try_once), &mut |section| {
            section.give_up_everything(how, &mut from, &mut holds_nothing)
        });
        match left {
            Err(error) if is_stuck(&error) => {
                if let Ok(Some(record)) = self.shared.participant_named(me) {
                    record.mark(me, if how == Leave::Clean { LEFT | GONE } else { GONE });
                    fault!("depart.marked");
                }
            }
            // What a crash has given up, or what is borrowed still, is left to a sweeper.
            Ok(()) if !holds_nothing => {
                if let Ok(Some(record)) = self.shared.participant_named(me) {
                    record.mark(me, GONE);
                }
            }
            // An error is damage, which the others report as well.
            _ => {}
        }
        fault!("unregister.checked");
        // The record is freed after the lock was released: a lock word must never name a record that is free. No other
        // process writes the record of a living participant, and this one takes nothing any more.
        if let (true, Ok(Some(record))) = (holds_nothing, self.shared.participant_named(me)) {
            free_record(record, me);
            fault!("unregister.freed");
        }
        self.forget_membership();
    }

    /// Does in a section of this process what it has put off.
    #[cold]
    pub(crate) fn finish_put_off(&self, section: &mut Section<'_>) -> Result<(), Error> {
        if !self.shared.take_up_work(section.me) {
            return Ok(());
        }
        section.finish_marked_slots()?;
        section.free_cells_left()?;
        section.announce_bell()?;
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

    // ---------------------------------------------------------------------------------------- for len, empty and full

    /// Whether the numbers of the queue are what they seem: no holder of the lock may have died, and no look for the dead is
    /// due. If not, [`len`](Self::len) makes system calls, though it does not wait.
    #[inline(always)]
    pub fn is_settled(&self) -> bool {
        !self.is_look_due() && !self.is_lock_stuck()
    }

    #[inline(always)]
    fn is_look_due(&self) -> bool {
        self.shared.segment.hot().owned_count.get() > 0 && self.is_time_to_look()
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
    pub(crate) fn look_after(&self) {
        // Damage is noted in the segment, and the next operation reports it.
        if self.is_lock_stuck() {
            let _ = self
                .shared
                .report(self.member().and_then(|me| self.shared.take_over_from_dead(me)));
        }
        if self.is_look_due() {
            let mut try_once = Wait {
                patience: Patience::Try,
                interrupted: &mut || false,
            };
            let _ = self
                .member()
                .and_then(|_| self.look_for_dead_within(false, &mut try_once));
        }
    }
}

impl Participant {
    /// Sets bits in the record of the participant `me`, by one store; not if the record is another's by now, because this process
    /// was wrongly taken for dead.
    fn mark(&self, me: u32, bits: u64) {
        let word = self.word.get();
        if name_of(index_of(me), word) == Some(me) {
            // Release: what this process did before is complete for the sweeper of the record.
            let _ = self
                .word
                .compare_exchange(word, word | bits, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// Clears bits of the record of the participant whose process is in the critical section.
    fn unmark(&self, bits: u64) {
        let word = self.word.get();
        if word & bits != 0 {
            let _ = self
                .word
                .compare_exchange(word, word & !bits, Ordering::Release, Ordering::Relaxed);
        }
    }
}

impl Section<'_> {
    pub(crate) fn finish_marked_slots(&mut self) -> Result<(), Error> {
        let record = self.shared.segment.participant(self.my_index())?;
        for list in [&record.leased, &record.claimed] {
            let mut index = list.head.get();
            let mut walk = self.walk();
            while index != 0 {
                self.step(&mut walk)?;
                let slot = self.slot(index)?;
                let next = slot.next.get();
                // Acquire: pairs with the release in put_off_for_slot.
                match slot.reading.load(Ordering::Acquire) {
                    ENDED => self.finish_look(index)?,
                    UNDELIVERED => self.undeliver(index)?,
                    RELEASED => self.release_claim(index)?,
                    KEPT if slot.word().state() == Some(State::Leased)
                        && !self.shared.options.acknowledged =>
                    {
                        self.keep_memory(index)?;
                    }
                    _ => {}
                }
                fault!("upkeep.slot-finished");
                index = next;
            }
        }
        Ok(())
    }

    /// Frees the cells that this process's threads have left after they were chosen.
    pub(crate) fn free_cells_left(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        for index in 1..hot.cells_high.get().min(CELLS) {
            let cell = self.cell(index)?;
            let word = cell.word.get();
            if !matches!(word, WOKEN_LEFT | LATE_LEFT) || cell.owner.get() != self.me {
                continue;
            }
            if let (WOKEN_LEFT, Some(kind)) = (word, Kind::ALL.get(cell.kind.get() as usize)) {
                hot.waiters[*kind as usize].on_way.sub(1);
            }
            self.free_cell(index)?;
        }
        Ok(())
    }

    /// A portion of everything that a participant holds that departs. The last one tells whether it holds nothing any more.
    fn give_up_everything(
        &mut self,
        how: Leave,
        from: &mut Option<Lease>,
        holds_nothing: &mut bool,
    ) -> Result<Portion, Error> {
        if self.give_up_leases(how, from)? == Portion::MoreToCome {
            return Ok(Portion::MoreToCome);
        }
        let record = self.shared.segment.participant(self.my_index())?;
        self.discount_watchers_of(record);
        *holds_nothing = participant::holds_nothing(record);
        Ok(Portion::Last)
    }
}
