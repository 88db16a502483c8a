//! Put off: work under the lock for which its caller does not wait.
//!
//! The end of a borrow, the end of a wait and a leave need the lock, and their callers must not wait for it
//! for long: they run in destructors, with an interpreter's lock held, or after the caller's time is over. If
//! the lock stays taken for 10 ms, because its holder is stopped, the work is *put off*. One store into what
//! the process owns anyway marks what is to be done. The next section of the process does it, or the sweep if
//! the process ends before.
//!
//! | put off | the mark | the sweep of the process |
//! |---|---|---|
//! | end of a borrow | the slot's `borrowed` = ENDED | plain: frees it; acknowledged: as any lease (below) |
//! | its reader could not use an item: it returns | `borrowed` = UNDELIVERED | returns it, as any lease |
//! | an item is kept while it is borrowed | `borrowed` = KEPT | as at the end of a borrow |
//! | memory claimed and not needed | `borrowed` = RELEASED | frees it, as any claimed slot |
//! | end of a wait | the cell's word = ABANDONED, or one that ends in _LEFT (waiters.rs) | frees the cell |
//! | leave in order, the process goes on | the record's bit LEFT | its leases become orphans |
//! | leave, last handle dropped | the record's bits LEFT and GONE, by one store | the same, though it lives |
//!
//! The sweep makes a lease of an acknowledged queue ready again, or leaves it set aside, or makes it an
//! orphan. A lease that is settled by name never becomes an orphan: it comes back. What comes back of a
//! process that has dropped its last handle tells of no death (notes.rs).
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | `borrowed` marked, or the cell's word | the sweep does what is put off |
//! | **the record is marked LEFT** | its items are unfinished for good, as if it had left under the lock |
//! | leave: a portion done, and how far it has come noted, in private memory | the same |
//! | **the record is marked GONE** | any sweeper sweeps it; before that, its life byte proves the death |
//! | put-off work begun, some of it done | the sweep does the rest: a mark ends with its state |
//!
//! `Shared::me` has the bit WORK_PUT_OFF while there is such work. With that bit `me` is no participant's id,
//! so the check of the id that each operation makes anyway leads to `enter_in_vain` (enter.rs), and an
//! operation without such work pays nothing.

use std::sync::atomic::AtomicU64;

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::memory::layout::ParticipantId;
use crate::state::Section;
use crate::state::holding::Lease;
use crate::state::leases::Leaving;
use crate::state::participant::LEFT;
use crate::state::recovery::Portion;
use crate::state::slot::RELEASED;
use crate::sync::{AtomicU32, Ordering, Word};
use crate::units::Leave;

#[cfg(all(test, not(loom)))]
mod tests;

/// Portions that one section does of a leave that was put off: they take a millisecond or less.
const PORTIONS: u32 = 8;

// Values of `LeavePutOff::how`.
const IN_ORDER: u32 = 1;
const BY_CRASH: u32 = 2;
/// Beside one of them: a section has done some of it.
const BEGUN: u32 = 4;

/// A leave of this process that was put off, and how far its sections have come.
pub(crate) struct LeavePutOff {
    /// 0 if there is none.
    how: AtomicU32,
    // The rest is read and written in this process's sections only, one of which is at a time.
    /// The lease that was read last: its slot and its number, or 0.
    slot: AtomicU64,
    number: AtomicU64,
    /// The youngest lease of which the process leaves.
    until: AtomicU64,
}

impl LeavePutOff {
    pub(crate) fn new() -> LeavePutOff {
        LeavePutOff {
            how: AtomicU32::new(0),
            slot: AtomicU64::new(0),
            number: AtomicU64::new(0),
            until: AtomicU64::new(0),
        }
    }

    /// In a forked child, which has not left.
    pub(crate) fn forget(&self) {
        self.how.set(0);
    }

    /// Notes a leave, without the lock. One that was noted before begins anew with it.
    fn note(&self, how: Leave) {
        self.how.set(match how {
            Leave::Clean => IN_ORDER,
            Leave::Crashed => BY_CRASH,
        });
    }

    /// The leave that was noted, which a section is to go on with, and the value for `keep` or `end`.
    fn begin(&self) -> Option<(Leaving, u32)> {
        let noted = self.how.get();
        if noted == 0 || !self.exchange(noted, noted | BEGUN) {
            return None;
        }
        let mut leaving = Leaving::new(how_of(noted));
        if noted & BEGUN != 0 {
            let read = |word: &AtomicU64| word.load(Ordering::Relaxed);
            let (slot, number) = (read(&self.slot) as u32, read(&self.number));
            leaving.from = (number != 0).then_some(Lease { slot, number });
            leaving.until = Some(read(&self.until));
        }
        Some((leaving, noted | BEGUN))
    }

    /// Notes how far it has come.
    fn keep(&self, leaving: &Leaving) {
        let from = leaving.from.unwrap_or_default();
        let until = leaving.until.unwrap_or_default();
        for (word, value) in [
            (&self.slot, u64::from(from.slot)),
            (&self.number, from.number),
            (&self.until, until),
        ] {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// False if another thread has left anew meanwhile. That leave is still to be done.
    fn end(&self, noted: u32) -> bool {
        self.exchange(noted, 0)
    }

    fn exchange(&self, old: u32, new: u32) -> bool {
        self.how
            .compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}

fn how_of(noted: u32) -> Leave {
    match noted & !BEGUN {
        BY_CRASH => Leave::Crashed,
        _ => Leave::Clean,
    }
}

/// Whether the lock stayed taken for the caller's time, or this process cannot map what the queue has grown
/// by, so that the work is put off.
pub(crate) fn is_stuck(error: &Error) -> bool {
    matches!(
        error,
        Error::Busy | Error::Stopped { .. } | Error::NoAddressSpace { .. }
    )
}

impl Queue {
    /// Marks a slot that this participant holds. Without the lock.
    pub(crate) fn put_off_for_slot(&self, held: Lease, mark: u32, me: ParticipantId) -> Result<(), Error> {
        let index = held.slot;
        let segment = &self.shared.segment;
        // If this process was wrongly taken for dead, others may have given the slot's memory back.
        if me.is_none() || self.shared.participant_of(me)?.is_none() {
            return Ok(());
        }
        if index >= segment.hot().slots_backed.get() || !segment.is_present(index)? {
            return Err(Error::Corrupt {
                id: segment.id,
                what: "there is no memory behind a slot that is held",
            });
        }
        let slot = segment.slot(index)?;
        if slot.word().owner() == me && slot.lease.get() == held.number {
            // Release: the reads of the payload come before the mark, and the reuse of its memory after it.
            slot.borrowed.store(slot.marked(mark), Ordering::Release);
            fault!("upkeep.slot-marked");
            self.shared.put_off_work();
        }
        Ok(())
    }

    /// Frees claimed memory, now or in the next section of this process. `finish` comes first. Neither is
    /// done if the memory is not this process's any more, because it was wrongly taken for dead.
    pub(crate) fn release_claim_or_put_off(
        &self,
        claim: Lease,
        entered: Result<Guard<'_>, Error>,
        finish: impl FnOnce(&mut Section<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match entered {
            Ok(mut section) if section.is_my_claim(claim) => {
                finish(&mut section)?;
                section.release_claim(claim.slot)
            }
            Ok(_) => Ok(()),
            Err(error) if is_stuck(&error) || error == Error::Interrupted => {
                let me = self.shared.member_if_any().unwrap_or_default();
                self.put_off_for_slot(claim, RELEASED, me)
            }
            Err(error) => Err(error),
        }
    }

    /// Does in a section of this process the work that it has put off.
    #[cold]
    pub(crate) fn finish_put_off(&self, section: &mut Section<'_>) -> Result<(), Error> {
        if !self.shared.take_up_work(section.me) {
            return Ok(());
        }
        section.finish_marked_slots()?;
        section.free_cells_left()?;
        section.announce_notifier()?;
        self.go_on_leaving(section)
    }

    /// Puts off a leave, whose record is marked if it is one in order.
    pub(crate) fn put_off_leave(&self, how: Leave) {
        self.leaving.note(how);
        self.shared.put_off_work();
    }

    /// How the leave that was put off is to be done, or `Clean` if none was.
    pub(crate) fn how_to_leave(&self) -> Leave {
        how_of(self.leaving.how.get())
    }

    /// Does a part of the leave that was put off, if one was. The record stays marked until all is done: what
    /// is taken meanwhile counts as left if the process is killed meanwhile.
    fn go_on_leaving(&self, section: &mut Section<'_>) -> Result<(), Error> {
        let Some((mut leaving, noted)) = self.leaving.begin() else {
            return Ok(());
        };
        for _ in 0..PORTIONS {
            if section.give_up_leases(&mut leaving)? == Portion::Last {
                if self.leaving.end(noted) {
                    self.shared.segment.participant(section.my_index())?.unmark(LEFT);
                }
                return Ok(());
            }
        }
        self.leaving.keep(&leaving);
        // The next section goes on.
        self.shared.put_off_work();
        Ok(())
    }
}
