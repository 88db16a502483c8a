//! Set aside: items of a queue whose users never acknowledge any.
//!
//! Requirements. A program that uses an acknowledged queue as a plain one, without acknowledging, is served
//! as by a plain queue: what its workers have finished is not delivered again, and does not use memory up. A
//! program that acknowledges loses nothing.
//!
//! Protocol. A process *acknowledges* by `task_done`, `join`, a get by name (operations/held.rs) or a loop
//! (operations/iterate.rs). `Hot::acknowledging` is NOT_YET until one does so for the first time. Meanwhile
//! an item is in hand (LEASED) until the thread that took it asks for its next one; then that thread sets it
//! aside (ASIDE).
//!
//! - A holder dies: what it had in hand comes back. What it had set aside goes to the list `Hot::aside`,
//!   without an owner.
//! - A put finds no memory, or more than 64 MiB are set aside: payloads of items that were set aside are
//!   given up, the oldest leases first. Such an item is unfinished still, and only counted: in its holder's
//!   record, or in `Hot::given_up` if the holder has died.
//!
//! The first acknowledgement stores BEGINNING. From then on an item that is set aside is a lease like
//! any other, what dead holders had set aside comes back to its old place, and what was given up of the dead
//! counts as finished. Once the list `Hot::aside` is empty, YES is stored, and no operation has to do with
//! all this any more.
//!
//! ```text
//! NOT_YET --first acknowledgement--> BEGINNING --nothing is left of dead holders--> YES
//! ```
//!
//! An item leaves its slot in three steps, so that it is counted once at whatever step the process dies: the
//! slot notes what the counter will be (`next`, as it is on no list) and becomes GIVEN_UP (or ORPHAN), the
//! counter gets that value, the slot becomes FREE.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | state = ASIDE | the item is set aside, and its holder is dead |
//! | sweep: owner removed from an ASIDE slot | the rebuild puts the slot on the list of the dead holders' |
//! | the counter's next value noted | the slot is what it was, also whose, and how it is settled |
//! | state = GIVEN_UP, counter not changed | the rebuild counts it and frees the slot |
//! | counter changed, slot not FREE | the slot's note agrees with the counter: the rebuild frees the slot |
//! | `acknowledging` = BEGINNING | `task_done`, `join` and `reap_dead` return what the dead had set aside |
//! | one of those returned | its state says so |

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{Hot, Participant, ParticipantId, Slot};
use crate::state::Section;
use crate::state::holding;
use crate::state::recovery::{PORTION, Portion};
use crate::state::slot::{State, StateWord};
use crate::sync::{AtomicU64, Count, Word};
use crate::units::BATCH;

impl<'q> Section<'q> {
    /// LEASED -> ASIDE, if the lease is this participant's still and no process acknowledges yet.
    pub(crate) fn set_lease_aside(&mut self, lease: holding::Lease) -> Result<(), Error> {
        if !self.hot().sets_aside() || !self.is_mine(&lease) {
            return Ok(());
        }
        let slot = self.slot(lease.slot)?;
        let word = slot.word();
        if word.state() == Some(State::Leased) {
            slot.commit(StateWord::with(State::Aside, word.past(), word.owner()));
            fault!("aside.committed");
        }
        Ok(())
    }

    /// ASIDE of a dead holder -> ASIDE without an owner.
    pub(crate) fn disown(&mut self, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        let word = slot.word();
        self.let_go(index, word.owner())?;
        slot.set_mark(0);
        slot.commit(StateWord::unowned_with(State::Aside, word.past()));
        fault!("aside.disowned");
        self.list_aside(index)
    }

    /// Lists and counts an item that a dead holder had set aside.
    pub(crate) fn list_aside(&mut self, index: u32) -> Result<(), Error> {
        let hot = self.hot();
        self.push_back(&hot.aside, index)?;
        hot.owned_count.add(1);
        hot.taken_bytes.add(self.slot(index)?.extent_bytes());
        Ok(())
    }

    /// Takes such an item off the list, before its state changes.
    fn unlist_aside(&mut self, index: u32) -> Result<(), Error> {
        let hot = self.hot();
        self.unlink(&hot.aside, index)?;
        hot.owned_count.sub(1);
        hot.taken_bytes.sub(self.slot(index)?.extent_bytes());
        Ok(())
    }

    pub(crate) fn begin_to_acknowledge(&mut self) -> Result<Portion, Error> {
        let hot = self.hot();
        if hot.sets_aside() {
            hot.store_beginning();
            fault!("aside.beginning");
            // What was given up of dead holders cannot come back: it counts as finished.
            hot.unfinished.sub(hot.given_up.get());
        }
        for _ in 0..PORTION {
            let index = hot.aside.head.get();
            if index == 0 {
                hot.store_acknowledged();
                return Ok(Portion::Last);
            }
            if self.slot(index)?.word()
                != StateWord::unowned_with(State::Aside, self.slot(index)?.word().past())
            {
                return Err(self.corrupt("an item on the list of dead holders is not set aside"));
            }
            self.unlist_aside(index)?;
            // Its holder has died, and that was not noted.
            self.note_silence(index)?;
            self.return_to_queue(index)?;
        }
        Ok(Portion::MoreToCome)
    }

    /// Gives up a portion of what is set aside, and adds its memory to `freed`.
    pub(crate) fn give_up(&mut self, needed: u64, freed: &mut u64) -> Result<Portion, Error> {
        let mut left = PORTION;
        while *freed < needed && self.hot().sets_aside() {
            let Some((mut oldest, until)) = self.oldest_aside()? else {
                return Ok(Portion::Last);
            };
            while let Some(index) = oldest {
                if left == 0 {
                    return Ok(Portion::MoreToCome);
                }
                left -= 1;
                let next = self.slot(index)?.next.get();
                *freed += size_of::<Slot>() as u64 + self.slot(index)?.extent_bytes();
                self.give_up_one(index)?;
                oldest = self.first_aside(next)?;
                if *freed >= needed
                    || oldest.is_some_and(|next| self.slot(next).is_ok_and(|slot| slot.lease.get() > until))
                {
                    break;
                }
            }
        }
        Ok(Portion::Last)
    }

    /// The slot with the oldest lease among those that are set aside, and the lease up to which its
    /// successors may be given up before another holder's: leases are given up in their order but for some
    /// that were taken within a batch.
    fn oldest_aside(&self) -> Result<Option<(Option<u32>, u64)>, Error> {
        let hot = self.hot();
        let mut oldest: Option<(u64, u32)> = None;
        let mut second = u64::MAX;
        let mut note = |lease: u64, index: u32| match oldest {
            Some((least, _)) if least <= lease => second = second.min(lease),
            _ => {
                second = oldest.map_or(second, |(least, _)| least);
                oldest = Some((lease, index));
            }
        };
        if let Some(index) = self.first_aside(hot.aside.head.get())? {
            note(self.slot(index)?.lease.get(), index);
        }
        let mut participant = 0;
        while let Some(index) = self.next_lessee(participant) {
            participant = index;
            let head = self.shared.segment.participant(index)?.leased.head.get();
            if let Some(slot) = self.first_aside(head)? {
                note(self.slot(slot)?.lease.get(), slot);
            }
        }
        Ok(oldest.map(|(_, index)| (Some(index), second.saturating_add(BATCH as u64))))
    }

    /// The first slot of a list, from this one on, that is set aside and not borrowed: a borrowed payload
    /// cannot be given up.
    fn first_aside(&self, mut index: u32) -> Result<Option<u32>, Error> {
        let mut walk = self.walk();
        while index != 0 {
            self.step(&mut walk)?;
            let slot = self.slot(index)?;
            if slot.word().state() == Some(State::Aside) && slot.mark() == 0 {
                return Ok(Some(index));
            }
            index = slot.next.get();
        }
        Ok(None)
    }

    /// ASIDE -> GIVEN_UP -> FREE.
    fn give_up_one(&mut self, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        let owner = slot.word().owner();
        let counter = self.counter_of_given_up(owner)?;
        if owner.is_none() {
            self.unlist_aside(index)?;
        } else {
            self.let_go(index, owner)?;
            self.hot().given_up_of_living.add(1);
        }
        self.free_counted(index, State::GivenUp, owner, counter)
    }

    /// Where an item that was given up is counted.
    fn counter_of_given_up(&self, owner: ParticipantId) -> Result<&'q AtomicU64, Error> {
        match owner {
            ParticipantId::NONE => Ok(&self.hot().given_up),
            owner => Ok(&self.shared.segment.participant(owner.index())?.given_up),
        }
    }

    /// Frees a slot whose item is only counted from now on. It is on no list.
    pub(crate) fn free_counted(
        &mut self,
        index: u32,
        state: State,
        owner: ParticipantId,
        counter: &AtomicU64,
    ) -> Result<(), Error> {
        let slot = self.slot(index)?;
        let note = slot.word().past().note();
        let count = counter.get().wrapping_add(1);
        // Not where the state before has something that the rebuild does not find again.
        slot.next.set(count as u32);
        fault!("aside.counting");
        slot.commit(StateWord::new(state, 0, owner));
        fault!("aside.noted");
        counter.set(count);
        fault!("aside.counted");
        self.free_slot((index, slot))?;
        if note != 0 {
            self.free_note(note, index)?;
        }
        Ok(())
    }

    /// Rebuild: what a dead holder of the lock was about to count.
    pub(crate) fn finish_counting(&mut self, slot: &Slot) -> Result<(), Error> {
        let word = slot.word();
        let counter = match word.state() {
            Some(State::Orphan) => &self.hot().orphans,
            Some(State::Discarded) => &self.hot().discarded,
            _ => match self.shared.participant_of(word.owner()) {
                Ok(Some(record)) if !word.owner().is_none() => &record.given_up,
                _ => &self.hot().given_up,
            },
        };
        if counter.get() as u32 != slot.next.get() {
            counter.add(1);
        }
        slot.commit(StateWord::FREE);
        Ok(())
    }

    /// Settles what a participant has given up: these items become orphans if it leaves in order. Else they
    /// are counted in `Hot::given_up`, as finished once items are acknowledged.
    pub(crate) fn settle_given_up(&mut self, record: &Participant, leaves_in_order: bool) {
        let (hot, count) = (self.hot(), record.given_up.get());
        if count == 0 {
            return;
        }
        hot.given_up_of_living.sub(count);
        // If this process dies in between, they count as finished. They never count twice.
        record.given_up.set(0);
        fault!("aside.settling");
        if leaves_in_order {
            hot.orphans.add(count);
        } else {
            hot.given_up.add(count);
            if !self.hot().sets_aside() {
                hot.unfinished.sub(count);
            }
        }
    }
}

/// Unfinished items whose payloads were given up: those of the dead count as finished once items are
/// acknowledged.
pub(crate) fn unfinished_given_up(hot: &Hot) -> u64 {
    let of_the_dead = if hot.sets_aside() { hot.given_up.get() } else { 0 };
    hot.given_up_of_living.get().saturating_add(of_the_dead)
}

/// Unfinished items that have no slot.
pub(crate) fn unfinished_without_slot(hot: &Hot) -> u64 {
    hot.orphans.get().saturating_add(unfinished_given_up(hot))
}
