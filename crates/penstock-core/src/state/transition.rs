//! Transitions: each change of a slot's state, with the lists and counters that go with it (slot.rs has the
//! picture).

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{List, Participant, ParticipantId, Slot};
use crate::memory::payload::Extent;
use crate::state::Section;
use crate::state::discard::Discarded;
use crate::state::holding::Lease;
use crate::state::slot::{Past, State, StateWord, lent_bytes, lessee};
use crate::sync::{Count, Word};
use crate::units::Ticket;

impl Slot {
    /// Books the extent and the length of a payload in a slot that is still FREE.
    #[inline(always)]
    pub(crate) fn fill(&self, extent: Option<Extent>, len: u64) {
        self.len.set(len);
        self.extent.set(extent.map_or(0, Extent::pack));
    }
}

impl Section<'_> {
    /// FREE -> CLAIMED: the memory is this participant's; a death gives it back. `seq` is 0, or names the
    /// pages that the slot claims (pages.rs). Returns the claim, whose number never repeats.
    pub(crate) fn claim(&mut self, index: u32, seq: u64) -> Result<Lease, Error> {
        let slot = self.slot(index)?;
        slot.seq.set(seq);
        // What its last item left.
        slot.borrowed.set(0);
        self.own(slot, State::Claimed, Past::NONE);
        Ok(Lease {
            slot: index,
            number: slot.lease.get(),
        })
    }

    /// Whether a claim is this participant's still. If not, its process was wrongly taken for dead, and the
    /// slot may be claimed by any process.
    pub(crate) fn is_my_claim(&self, claim: Lease) -> bool {
        self.used_slot(claim.slot)
            .is_some_and(|slot| slot.lease.get() == claim.number && slot.word().owner() == self.me)
    }

    /// To READY: from here on the item exists. The slot is on no list.
    #[inline(always)]
    pub(crate) fn publish(&mut self, (index, slot): (u32, &Slot), len: u64) -> Result<Ticket, Error> {
        let hot = self.hot();
        let seq = hot.published.get().wrapping_add(1);
        slot.seq.set(seq);
        self.note_time(slot);
        fault!("put.numbered");
        slot.commit(StateWord::unowned(State::Ready, 0));
        fault!("put.committed");
        hot.published.set(seq);
        fault!("put.ordered");
        hot.count_bytes(len);
        self.push_ready((index, slot), len)?;
        if self.shared.options.acknowledged {
            hot.unfinished.add(1);
        }
        fault!("put.linked");
        Ok(Ticket { slot: index, seq })
    }

    /// Notes when an item is put, before it is published.
    #[inline(always)]
    pub(crate) fn note_time(&self, slot: &Slot) {
        if self.hot().timed.get() != 0 {
            slot.note_time();
        }
    }

    /// To LEASED or CLAIMED with this participant as the owner. [`hold`](Self::hold) puts the slot on the
    /// participant's list.
    #[inline(always)]
    pub(crate) fn own(&mut self, slot: &Slot, state: State, past: Past) {
        self.give(slot, state, past, self.me);
    }

    /// The same with another owner.
    #[inline(always)]
    pub(crate) fn give(&mut self, slot: &Slot, state: State, past: Past, owner: ParticipantId) {
        self.give_as(slot, StateWord::with(state, past, owner));
    }

    /// The same with a word that says it all.
    #[inline(always)]
    pub(crate) fn give_as(&mut self, slot: &Slot, word: StateWord) {
        let hot = self.hot();
        let lease = hot.leases.get().wrapping_add(1);
        slot.lease.set(lease);
        slot.commit(word);
        hot.leases.set(lease);
    }

    /// The second half of [`own`](Self::own), for a slot that is on no list.
    pub(crate) fn hold(&mut self, index: u32) -> Result<(), Error> {
        let me = self.shared.segment.participant(self.my_index())?;
        self.push_back(self.list_of_holder(me, index)?, index)?;
        self.hot().owned_count.add(1);
        Ok(())
    }

    /// The same for a slot that was leased just now. Books that this participant may have leases, and how
    /// much memory they take.
    #[inline(always)]
    pub(crate) fn hold_lease(&mut self, index: u32, slot: &Slot) -> Result<(), Error> {
        let (hot, me) = (self.hot(), self.my_index());
        let list = &self.shared.segment.participant(me)?.leased;
        if list.tail.get() == 0 {
            let (lessees, bit) = lessee(hot, me);
            lessees.set(lessees.get() | bit);
        }
        self.push_back(list, index)?;
        hot.owned_count.add(1);
        if let Some(extent) = Extent::unpack(slot.extent.get()) {
            hot.taken_bytes.add(extent.bytes());
        }
        Ok(())
    }

    /// [`let_go`](Self::let_go) of a lease whose payload is not borrowed.
    #[inline(always)]
    pub(crate) fn let_go_of_lease(&mut self, index: u32, slot: &Slot) -> Result<(), Error> {
        let owner = self.shared.segment.participant(slot.word().owner().index())?;
        self.unlink(&owner.leased, index)?;
        self.hot().owned_count.sub(1);
        if slot.extent.get() != 0 {
            self.uncount_lease(slot);
        }
        Ok(())
    }

    fn uncount_lease(&self, slot: &Slot) {
        if let Some(extent) = Extent::unpack(slot.extent.get()) {
            if slot.word().is_lease() {
                self.hot().taken_bytes.sub(extent.bytes());
            }
        }
    }

    /// Takes a slot out of its owner's hands, before its state changes.
    pub(crate) fn let_go(&mut self, index: u32, owner: ParticipantId) -> Result<(), Error> {
        let owner = self.shared.segment.participant(owner.index())?;
        self.unlink(self.list_of_holder(owner, index)?, index)?;
        self.hot().owned_count.sub(1);
        let slot = self.slot(index)?;
        if slot.extent.get() != 0 {
            // `borrowed` stays until the state has changed, because a death in between must find it.
            // Afterwards it means nothing.
            self.hot().lent_bytes.sub(lent_bytes(slot));
            self.uncount_lease(slot);
        }
        Ok(())
    }

    /// LEASED (or ASIDE, or LEFT) -> CLAIMED with the same owner: the item is finished or kept, and its
    /// payload is still borrowed.
    pub(crate) fn keep_memory(&mut self, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        let (owner, note) = (slot.word().owner(), slot.word().past().note());
        let holder = self.shared.segment.participant(owner.index())?;
        self.unlink(&holder.leased, index)?;
        self.uncount_lease(slot);
        slot.commit(StateWord::new(State::Claimed, 0, owner));
        self.push_back(&holder.claimed, index)?;
        if note != 0 {
            self.free_note(note, index)?;
        }
        Ok(())
    }

    /// The list of its holder on which a held slot stands.
    pub(crate) fn list_of_holder<'a>(&self, holder: &'a Participant, index: u32) -> Result<&'a List, Error> {
        match self.slot(index)?.word().state() {
            Some(State::Leased | State::Aside | State::Left) => Ok(&holder.leased),
            Some(State::Claimed | State::Handed | State::HandedDone) => Ok(&holder.claimed),
            _ => Err(self.corrupt("a held slot is in a state without a holder")),
        }
    }

    /// Frees what this participant holds.
    pub(crate) fn finish_held(&mut self, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        let note = slot.word().past().note();
        self.let_go(index, slot.word().owner())?;
        self.free_slot((index, slot))?;
        if note != 0 {
            self.free_note(note, index)?;
        }
        Ok(())
    }

    /// CLAIMED -> FREE: the claimed memory is not needed, or could not be had.
    pub(crate) fn release_claim(&mut self, slot: u32) -> Result<(), Error> {
        if self.slot(slot)?.word().state() != Some(State::Claimed) {
            return Err(self.corrupt("a claimed slot is not CLAIMED any more"));
        }
        self.free_claim(slot)
    }

    /// Frees a slot that is CLAIMED, and the pages that it may have claimed.
    pub(crate) fn free_claim(&mut self, index: u32) -> Result<(), Error> {
        self.release_pages(index)?;
        self.finish_held(index)
    }

    /// LEASED (or ASIDE, or LEFT) -> ORPHAN -> FREE: unfinished for good, unless a process calls `task_done`
    /// for it. Only its number is kept.
    pub(crate) fn orphan(&mut self, index: u32) -> Result<(), Error> {
        self.let_go(index, self.slot(index)?.word().owner())?;
        self.free_counted(index, State::Orphan, ParticipantId::NONE, &self.hot().orphans)
    }

    /// Returns a lease of a participant that is dead, or that leaves by a failure. The item goes back to the
    /// queue; or, if it was set aside and nothing is acknowledged yet, to the list `Hot::aside`.
    pub(crate) fn return_lease(&mut self, index: u32) -> Result<(), Error> {
        let word = self.slot(index)?.word();
        if word.state() == Some(State::Aside) && self.hot().sets_aside() {
            return self.disown(index);
        }
        self.let_go(index, word.owner())?;
        self.return_to_queue(index)
    }

    /// To READY in its old place, or to DEAD if the item came back too often; or it is discarded, if the
    /// queue is closed. The slot is on no list.
    pub(crate) fn return_to_queue(&mut self, index: u32) -> Result<(), Error> {
        self.return_or_delay(index, None)
    }

    /// The same, or to DELAYED until then.
    pub(crate) fn return_or_delay(&mut self, index: u32, due: Option<u64>) -> Result<(), Error> {
        let hot = self.hot();
        if hot.is_closed() {
            return self.discard_one(index, Discarded::Unfinished);
        }
        let slot = self.slot(index)?;
        let word = slot.word();
        if word.redeliveries() >= self.shared.options.max_deliveries {
            self.bury(index)?;
        } else if let Some(due) = due {
            self.delay((index, slot), due, word.past().once_more())?;
            hot.redeliveries.add(1);
        } else {
            slot.commit(StateWord::unowned_with(State::Ready, word.past().once_more()));
            self.put_back(index, slot.len.get())?;
            hot.redeliveries.add(1);
        }
        fault!("sweep.slot-returned");
        Ok(())
    }
}
