//! Set aside: the calls that set items aside, give their memory up, and begin to acknowledge (state/aside.rs
//! has the protocol).

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::operations::get::Asks;
use crate::options::{Patience, Wait};
use crate::state::holding;
use crate::state::recovery::PORTION;
use crate::sync::Word;

/// Bytes of payloads that stay in memory at most while they are set aside and no put needs the memory.
const MOST_ASIDE: u64 = 64 << 20;

impl Queue {
    /// Sets aside the leases of the calling thread, and those of ended threads of this process, when the
    /// calling thread asks for its next items. Also reserves the memory to note those items.
    #[cold]
    pub(crate) fn set_aside(&self, asks: Asks, wait: &mut Wait<'_>) -> Result<(), Error> {
        match asks {
            Asks::Anew(count) => holding::reserve(count)?,
            Asks::ForMore(count) => return holding::reserve(count),
        }
        let mut taken = holding::take(self.shared.segment.id);
        let set_aside = self.set_these_aside(&mut taken, wait);
        // An interrupted call leaves some leases, which are not set aside yet.
        holding::put_back(self.shared.segment.id, taken);
        set_aside?;
        if self.shared.segment.hot().taken_bytes.get() > self.most_aside() {
            self.give_up_aside(0, wait)?;
        }
        Ok(())
    }

    /// Bytes of payloads that stay in memory while set aside: at most `MOST_ASIDE`, however large `max_bytes`
    /// is, because a program may have many such queues.
    fn most_aside(&self) -> u64 {
        self.shared.options.max_bytes.unwrap_or(u64::MAX).min(MOST_ASIDE)
    }

    fn set_these_aside(&self, taken: &mut Vec<holding::Lease>, wait: &mut Wait<'_>) -> Result<(), Error> {
        while !taken.is_empty() {
            let mut section = self.enter(wait)?;
            let portion = taken.len().min(PORTION as usize);
            for lease in taken.drain(..portion) {
                section.set_lease_aside(lease)?;
            }
        }
        Ok(())
    }

    /// Marks the queue as one whose items are acknowledged. The first such call returns what dead holders had
    /// set aside, in portions.
    #[inline(always)]
    pub(crate) fn acknowledge_from_now_on(&self, wait: &mut Wait<'_>) -> Result<(), Error> {
        if self.shared.segment.hot().acknowledges() {
            return Ok(());
        }
        // It may take many sections.
        if wait.patience == Patience::TryLock {
            return Err(Error::Busy);
        }
        self.begin_to_acknowledge(&mut || self.enter(wait))
    }

    /// Gives up items that are set aside, until `needed` bytes are freed or none is left. Frees at least 1/32
    /// of [`most_aside`](Self::most_aside) if there is as much, so that the next call need not do the same.
    /// False if nothing was freed.
    pub(crate) fn give_up_aside(&self, needed: u64, wait: &mut Wait<'_>) -> Result<bool, Error> {
        let mut freed = 0;
        let needed = needed.max(self.most_aside() / 32);
        if self.shared.segment.hot().sets_aside() {
            self.in_portions(&mut || self.enter(wait), &mut |section| {
                section.give_up(needed, &mut freed)
            })?;
        }
        Ok(freed > 0)
    }
}
