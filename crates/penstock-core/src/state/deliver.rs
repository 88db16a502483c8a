//! Delivery: an item passes from the queue to a getter, which copies its payload or borrows it.
#![allow(unsafe_code)]

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{ParticipantId, Slot};
use crate::platform;
use crate::state::Section;
use crate::state::holding::{self, Lease};
use crate::state::slot::{BORROWED, KEPT, Past, State, lent_bytes};
use crate::sync::{Count, Word, note_read};
use crate::units::SMALL;

/// Private memory with room for at least one small payload more.
pub(crate) trait CopyTarget {
    /// Copies a payload to it.
    ///
    /// # Safety
    /// `len` bytes at `source` are readable and not being written, and `len` is at most SMALL.
    unsafe fn fill(&mut self, source: *const u8, len: usize);
}

/// How an item was delivered.
pub(crate) enum Delivered {
    /// Its payload was copied.
    Copied,
    /// Its payload stays where it is.
    Borrowed(Borrowed),
}

/// A payload in shared memory that its holder reads in place, and the lease that allows it.
pub(crate) struct Borrowed {
    pub lease: Lease,
    pub bytes: *const u8,
    pub len: usize,
}

impl Section<'_> {
    /// Notes that a lent item is its reader's for good. On a plain queue: LEASED -> CLAIMED.
    pub(crate) fn keep_lent(&mut self, lease: Lease, me: ParticipantId) -> Result<(), Error> {
        let index = lease.slot;
        let Some(slot) = self.lent_to_me(lease, me)? else {
            return Ok(());
        };
        slot.set_mark(KEPT);
        if slot.word().state() == Some(State::Leased) && !self.shared.options.acknowledged {
            self.keep_memory(index)?;
            fault!("lent.kept");
        }
        Ok(())
    }

    /// Ends the borrow of a slot that this participant holds.
    pub(crate) fn finish_borrow(&mut self, index: u32) -> Result<(), Error> {
        match self.slot(index)?.word().state() {
            // Finished while it was borrowed, or of a plain queue: the payload is not needed any more.
            Some(State::Claimed) => self.finish_held(index),
            Some(State::Leased) if !self.shared.options.acknowledged => self.finish_held(index),
            Some(State::Leased | State::Aside) => self.unborrow(index),
            Some(State::Left) => self.orphan(index),
            _ => Err(self.corrupt("a lent slot is in a state that cannot be lent")),
        }
    }

    /// The same for an item that its reader could not use: if it is still a lease, it returns to the queue.
    pub(crate) fn undeliver(&mut self, index: u32) -> Result<(), Error> {
        let word = self.slot(index)?.word();
        if !matches!(word.state(), Some(State::Leased | State::Aside)) {
            return self.finish_borrow(index);
        }
        self.note_silence(index)?;
        self.let_go(index, word.owner())?;
        self.return_to_queue(index)
    }

    #[inline(always)]
    pub(crate) fn deliver(&mut self, index: u32, target: &mut impl CopyTarget) -> Result<Delivered, Error> {
        let slot = self.slot(index)?;
        let is_finished = match slot.word().state() {
            Some(State::Ready) => false,
            Some(State::ReadyDone) => true,
            _ => return self.deliver_handed(index, target),
        };
        let (source, len) = self.copy_small(slot, target)?;
        self.pop_ready((index, slot), len as u64)?;
        self.pass_on((index, slot), (source, len), is_finished, |section| {
            section.hot().ready_done.sub(1);
        })
    }

    /// The same of an item that this participant was handed (hand.rs).
    #[cold]
    fn deliver_handed(&mut self, index: u32, target: &mut impl CopyTarget) -> Result<Delivered, Error> {
        let slot = self.slot(index)?;
        let word = slot.word();
        if !word.is_handed() || word.owner() != self.me {
            return Err(self.corrupt("an item on the ready list is not ready"));
        }
        let (source, len) = self.copy_small(slot, target)?;
        self.let_go(index, self.me)?;
        self.pass_on(
            (index, slot),
            (source, len),
            word.state() == Some(State::HandedDone),
            |_| (),
        )
    }

    /// The payload of a slot that no process writes. A small one is copied.
    #[inline(always)]
    fn copy_small(&self, slot: &Slot, target: &mut impl CopyTarget) -> Result<(*const u8, usize), Error> {
        let (source, len) = self.shared.segment.payload(slot)?;
        if len <= SMALL {
            note_read(source, len);
            // SAFETY: `payload` has checked `len` bytes at `source`; the item is READY, or HANDED to this
            // participant, and this thread holds the lock, so no process writes them; `len` was compared with
            // SMALL.
            unsafe { target.fill(source, len) };
            fault!("get.copied");
        }
        Ok((source, len))
    }

    /// The second half of a delivery, of a slot that is on no list. Calls `uncount` for an item that is
    /// finished already, after the commit.
    #[inline(always)]
    fn pass_on(
        &mut self,
        (index, slot): (u32, &Slot),
        (source, len): (*const u8, usize),
        is_finished: bool,
        uncount: impl FnOnce(&mut Self),
    ) -> Result<Delivered, Error> {
        let stays_leased = self.shared.options.acknowledged && !is_finished;
        let is_small = len <= SMALL;
        if is_small && !stays_leased {
            fault!("get.unlinked");
            if is_finished {
                uncount(self);
                self.forget_note((index, slot))?;
            }
            self.free_slot((index, slot))?;
            fault!("get.freed");
            return Ok(Delivered::Copied);
        }
        let word = slot.word();
        slot.holder.set(platform::thread_id());
        slot.set_mark(0);
        if !is_small {
            self.borrow(index)?;
        }
        if is_finished {
            // It must not come back: only its memory is held.
            self.own(slot, State::Claimed, Past::NONE);
            if word.past().note() != 0 {
                self.free_note(word.past().note(), index)?;
            }
            fault!("get.leased");
            self.hold(index)?;
            uncount(self);
        } else {
            self.give_as(slot, word.given(State::Leased, self.me));
            fault!("get.leased");
            self.hold_lease(index, slot)?;
            holding::note_taken();
            if self.hot().sets_aside() {
                let number = slot.lease.get();
                holding::note(self.shared.segment.id, Lease { slot: index, number });
            }
        }
        if is_small {
            return Ok(Delivered::Copied);
        }
        Ok(Delivered::Borrowed(Borrowed {
            lease: Lease {
                slot: index,
                number: slot.lease.get(),
            },
            bytes: source,
            len,
        }))
    }

    /// The slot that `me` was lent. `None` if this process was wrongly taken for dead since (participant.rs):
    /// then it has another id, or the slot another lease, whose number never repeats. Nothing of the slot is
    /// read in the first case: its memory may have been given back.
    pub(crate) fn lent_to_me(&self, lease: Lease, me: ParticipantId) -> Result<Option<&Slot>, Error> {
        if me != self.me {
            return Ok(None);
        }
        let Some(slot) = self.used_slot(lease.slot) else {
            return Err(self.corrupt("there is no memory behind a slot that is lent"));
        };
        let is_mine = slot.lease.get() == lease.number && slot.word().owner() == me;
        Ok(is_mine.then_some(slot))
    }

    /// Books that a payload is borrowed.
    pub(crate) fn borrow(&self, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        slot.set_mark(BORROWED);
        self.hot().lent_bytes.add(lent_bytes(slot));
        Ok(())
    }

    /// Books that a payload is not borrowed any more. Its holder keeps the slot.
    pub(crate) fn unborrow(&self, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        self.hot().lent_bytes.sub(lent_bytes(slot));
        slot.set_mark(0);
        Ok(())
    }
}
