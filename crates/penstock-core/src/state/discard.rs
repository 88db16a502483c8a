//! Discarding: items of a closed queue leave it without being delivered (operations/shutdown.rs).

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::ParticipantId;
use crate::state::Section;
use crate::state::delay::DUE;
use crate::state::recovery::{PORTION, Portion};
use crate::state::slot::State;
use crate::sync::{Count, Word};

/// Whether `unfinished` counts an item.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Discarded {
    Unfinished,
    /// `task_done` was called for it before it was taken.
    Finished,
}

impl Section<'_> {
    /// Discards a portion of what is queued, if the queue is closed.
    pub(crate) fn discard(&mut self) -> Result<Portion, Error> {
        let mut left = PORTION;
        while left > 0 {
            left -= 1;
            if !self.hot().has_leftovers() {
                return Ok(Portion::Last);
            }
            let index = self.oldest()?;
            if index == 0 && self.hot().has_delayed() {
                // It takes as long as several others.
                left = left.saturating_sub(PORTION / DUE - 1);
                let delayed = self.pop_delayed()?;
                fault!("discard.unlinked");
                self.discard_one(delayed, Discarded::Unfinished)?;
                continue;
            }
            // No join may try again and again to discard an item that no section can find.
            if index == 0 {
                return Err(self.corrupt("items are counted that are on no list"));
            }
            let slot = self.slot(index)?;
            let item = match slot.word().state() {
                Some(State::Ready) => Discarded::Unfinished,
                Some(State::ReadyDone) => Discarded::Finished,
                _ => return Err(self.corrupt("an item on the ready list is not ready")),
            };
            self.pop_ready((index, slot), slot.len.get())?;
            fault!("discard.unlinked");
            if item == Discarded::Finished {
                self.hot().ready_done.sub(1);
            }
            self.discard_one(index, item)?;
        }
        Ok(Portion::MoreToCome)
    }

    /// To DISCARDED, then FREE. The slot is on no list.
    pub(crate) fn discard_one(&mut self, index: u32, item: Discarded) -> Result<(), Error> {
        let hot = self.hot();
        self.free_counted(index, State::Discarded, ParticipantId::NONE, &hot.discarded)?;
        fault!("discard.freed");
        if self.shared.options.acknowledged && item == Discarded::Unfinished {
            hot.unfinished.sub(1);
        }
        Ok(())
    }
}
