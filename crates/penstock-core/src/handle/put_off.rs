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
//! orphan. A lease that is settled by name never becomes an orphan: it comes back.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | `borrowed` marked, or the cell's word | the sweep does what is put off |
//! | **the record is marked LEFT** | its items are unfinished for good, as if it had left under the lock |
//! | **the record is marked GONE** | any sweeper sweeps it; before that, its life byte proves the death |
//! | put-off work begun, some of it done | the sweep does the rest: a mark ends with its state |
//!
//! `Shared::me` has the bit WORK_PUT_OFF while there is such work. With that bit `me` is no participant's id,
//! so the check of the id that each operation makes anyway leads to `enter_in_vain` (enter.rs), and an
//! operation without such work pays nothing.

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::memory::layout::ParticipantId;
use crate::state::Section;
use crate::state::participant::LEFT;
use crate::state::recovery::Portion;
use crate::state::slot::RELEASED;
use crate::sync::{Ordering, Word};

/// Portions that one section does of a leave that was put off: they take a millisecond or less.
const PORTIONS: u32 = 8;

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
    pub(crate) fn put_off_for_slot(&self, index: u32, mark: u32, me: ParticipantId) -> Result<(), Error> {
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
        if slot.word().owner() == me {
            // Release: the reads of the payload come before the mark, and the reuse of its memory after it.
            slot.borrowed.store(slot.marked(mark), Ordering::Release);
            fault!("upkeep.slot-marked");
            self.shared.put_off_work();
        }
        Ok(())
    }

    /// Frees claimed memory, now or in the next section of this process.
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

    /// Does in a section of this process the work that it has put off.
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
}
