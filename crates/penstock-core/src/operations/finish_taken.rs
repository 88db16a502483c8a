//! Finishing one item that its caller names: the one that it took last. `task_done` chooses by age.
//!
//! The crash table is that of acknowledge.rs.

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::memory::layout::ParticipantId;
use crate::options::Wait;
use crate::state::holding::{self, Lease};
use crate::sync::Word;

/// Names an item that this process has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenItem {
    /// The participant's id, and the slot and the number of the lease, which never repeats.
    pub participant: u32,
    pub slot: u32,
    pub number: u64,
}

impl Queue {
    /// The item that the calling thread has taken last, to be called right after the get. `None` if the
    /// queue's items are not acknowledged, if that item was finished already when it was taken, or if this
    /// was called since.
    pub fn last_taken(&self) -> Option<TakenItem> {
        let lease = holding::last_taken()?;
        let me = self.shared.member_if_any()?;
        self.shared.options.acknowledged.then_some(TakenItem {
            participant: me.0,
            slot: lease.slot,
            number: lease.number,
        })
    }

    /// Finishes that item. False if it is not in the hands of this process any more, because it was finished.
    pub fn finish_taken(&self, item: TakenItem, mut wait: Wait<'_>) -> Result<bool, Error> {
        let finished = self
            .acknowledge_from_now_on(&mut wait)
            .and_then(|()| self.finish_if_held(item, &mut wait));
        self.shared.report(finished)
    }

    fn finish_if_held(&self, item: TakenItem, wait: &mut Wait<'_>) -> Result<bool, Error> {
        let mut section = self.enter(wait)?;
        let lease = Lease {
            slot: item.slot,
            number: item.number,
        };
        let is_held = section.me == ParticipantId(item.participant)
            && section.hot().unfinished.get() != 0
            && section.is_mine(&lease)
            && section.slot(item.slot)?.word().is_finishable();
        if is_held {
            section.finish_own_lease(item.slot)?;
        }
        Ok(is_held)
    }
}
