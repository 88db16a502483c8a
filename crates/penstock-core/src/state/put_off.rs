//! Work that this process has put off (handle/put_off.rs), done in one of its sections.

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::Kind;
use crate::state::Section;
use crate::state::leases::Leaving;
use crate::state::participant;
use crate::state::recovery::Portion;
use crate::state::slot::{ENDED, KEPT, MARK, RELEASED, State, UNDELIVERED};
use crate::state::waiters::{HANDED_LEFT, LATE_LEFT, WOKEN_LEFT};
use crate::sync::{Count, Ordering, Word};

impl Section<'_> {
    /// Does what this process's slots are marked with.
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
                match slot.borrowed.load(Ordering::Acquire) & MARK {
                    ENDED => self.finish_borrow(index)?,
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

    /// Frees the cells that this process's threads have left after they were notified.
    pub(crate) fn free_cells_left(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        for index in 1..hot.cells_high.get().min(self.shared.segment.geometry.cells) {
            let cell = self.cell(index)?;
            let word = cell.word.get();
            if !matches!(word, WOKEN_LEFT | LATE_LEFT | HANDED_LEFT) || cell.owner.get() != self.me.0 {
                continue;
            }
            match (word, Kind::ALL.get(cell.kind.get() as usize)) {
                (WOKEN_LEFT, Some(kind)) => hot.waiters[*kind as usize].notified.sub(1),
                (HANDED_LEFT, Some(kind)) => {
                    self.return_handed_by(index)?;
                    self.end_handed(*kind, index)?;
                }
                _ => {}
            }
            self.free_cell(index)?;
        }
        Ok(())
    }

    /// Gives up a portion of everything that this participant holds, which departs. The last portion tells
    /// whether it holds nothing any more.
    pub(crate) fn give_up_everything(
        &mut self,
        leaving: &mut Leaving,
        holds_nothing: &mut bool,
    ) -> Result<Portion, Error> {
        if self.give_up_leases(leaving)? == Portion::MoreToCome {
            return Ok(Portion::MoreToCome);
        }
        let record = self.shared.segment.participant(self.my_index())?;
        self.discount_watchers_of(record);
        *holds_nothing = participant::holds_nothing(record);
        Ok(Portion::Last)
    }
}
