//! Leases: which of them an acknowledgement finishes, and what a leaving process gives up.
//!
//! operations/acknowledge.rs says how they are found, and what a death in between means.

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{Hot, Slot};
use crate::platform;
use crate::state::Section;
use crate::state::holding::{self, Found, Lease};
use crate::state::recovery::{PORTION, Portion};
use crate::state::slot::{BY_NAME, State, StateWord, lessee};
use crate::sync::{Count, Word};
use crate::units::Leave;

/// So many leases of its process `task_done` compares with the calling thread, before it reads the whole list
/// once.
const NEAR: u32 = if cfg!(loom) { 4 } else { 32 };

/// What a process's first leases say about the calling thread.
pub(crate) enum Near {
    /// Its oldest lease.
    Mine(u32),
    /// It has no lease.
    NoneOfMine,
    /// All of them are other threads'; there are more.
    Unknown,
}

/// A leave, and how far it has come.
pub(crate) struct Leaving {
    pub how: Leave,
    /// The process drops the queue: none of its threads settles anything by name any more.
    is_for_good: bool,
    /// The last lease that was read.
    pub from: Option<Lease>,
    /// The youngest lease of which it leaves, once it has begun: what other threads take meanwhile is theirs.
    pub until: Option<u64>,
}

impl Leaving {
    pub(crate) fn new(how: Leave) -> Leaving {
        Leaving {
            how,
            is_for_good: false,
            from: None,
            until: None,
        }
    }

    pub(crate) fn for_good(how: Leave) -> Leaving {
        Leaving {
            is_for_good: true,
            ..Leaving::new(how)
        }
    }
}

/// Whose items: those of this participant, or of all others.
#[derive(PartialEq)]
pub(crate) enum Whose {
    Mine,
    Others,
}

impl Section<'_> {
    /// An error if no item is unfinished.
    pub(crate) fn check_unfinished(&self) -> Result<(), Error> {
        if self.hot().unfinished.get() == 0 || !self.shared.options.acknowledged {
            return Err(Error::TooManyDone);
        }
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn near_lease(&self) -> Result<Near, Error> {
        let thread = platform::thread_id();
        let mut index = self
            .shared
            .segment
            .participant(self.my_index())?
            .leased
            .head
            .get();
        for _ in 0..NEAR {
            if index == 0 {
                return Ok(Near::NoneOfMine);
            }
            let slot = self.slot(index)?;
            if slot.word().is_finishable() && slot.is_leased_by(thread) && !self.is_in_loop(index, slot) {
                return Ok(Near::Mine(index));
            }
            index = slot.next.get();
        }
        self.recent_lease(thread)
    }

    /// The same by the last leases of the process, which tell if they include all that the thread may hold.
    #[cold]
    fn recent_lease(&self, thread: u32) -> Result<Near, Error> {
        let mut left = holding::held();
        if left == 0 {
            return Ok(Near::NoneOfMine);
        }
        let mut index = self
            .shared
            .segment
            .participant(self.my_index())?
            .leased
            .tail
            .get();
        let mut oldest = Near::NoneOfMine;
        for _ in 0..NEAR {
            if index == 0 {
                break;
            }
            let slot = self.slot(index)?;
            if slot.word().is_finishable() && slot.is_leased_by(thread) {
                if !self.is_in_loop(index, slot) {
                    oldest = Near::Mine(index);
                }
                left -= 1;
                if left == 0 {
                    return Ok(oldest);
                }
            }
            index = slot.prev.get();
        }
        Ok(Near::Unknown)
    }

    /// Whether a lease of the calling thread is the item of one of its loops, which is finished last.
    #[inline(always)]
    fn is_in_loop(&self, index: u32, slot: &Slot) -> bool {
        holding::is_in_loop(self.shared.segment.id, || Lease {
            slot: index,
            number: slot.lease.get(),
        })
    }

    /// Notes a portion of the calling thread's leases that are not noted yet, and for which there is room.
    pub(crate) fn read_leases(&mut self, found: &mut Found) -> Result<Portion, Error> {
        let Some(mut index) = self.first_unread(found)? else {
            return Ok(Portion::MoreToCome);
        };
        let mut last = found.last_read.number;
        let thread = platform::thread_id();
        for _ in 0..PORTION {
            if index == 0 {
                return Ok(Portion::Last);
            }
            let slot = self.slot(index)?;
            let lease = Lease {
                slot: index,
                number: slot.lease.get(),
            };
            self.check_order(&mut last, lease)?;
            if slot.is_leased_by(thread) && slot.word().is_finishable() {
                found.leases.push_back(lease);
            }
            found.last_read = lease;
            index = slot.next.get();
        }
        Ok(Portion::MoreToCome)
    }

    /// The oldest of this participant's leases that is younger than those that were read, or 0. `None` if a
    /// portion of the list was read backwards, from its youngest lease, and did not come to it.
    fn first_unread(&self, found: &mut Found) -> Result<Option<u32>, Error> {
        let list = &self.shared.segment.participant(self.my_index())?.leased;
        if self.is_mine(&found.last_read) {
            return Ok(Some(self.slot(found.last_read.slot)?.next.get()));
        }
        if found.last_read.number == 0 {
            return Ok(Some(list.head.get()));
        }
        // The last one that was read is finished.
        let mut first = found.backwards.take().filter(|lease| self.is_mine(lease));
        for _ in 0..PORTION {
            let index = match first {
                Some(lease) => self.slot(lease.slot)?.prev.get(),
                None => list.tail.get(),
            };
            let number = if index == 0 {
                0
            } else {
                self.slot(index)?.lease.get()
            };
            if number <= found.last_read.number {
                return Ok(Some(first.map_or(0, |lease| lease.slot)));
            }
            if first.is_some_and(|lease| number >= lease.number) {
                return Err(self.corrupt("leases are out of order"));
            }
            first = Some(Lease { slot: index, number });
        }
        found.backwards = first;
        Ok(None)
    }

    pub(crate) fn finish_found(&mut self, found: &mut Found) -> Result<(), Error> {
        self.check_unfinished()?;
        let mut at = 0;
        while let Some(lease) = found.leases.get(at).copied() {
            if !self.is_mine_to_finish(&lease) {
                // Another thread, or another process, may have finished it.
                found.leases.remove(at);
            } else if holding::is_in_loop(self.shared.segment.id, || lease) {
                at += 1;
            } else {
                found.leases.remove(at);
                return self.finish_own_lease(lease.slot);
            }
        }
        self.finish_any()
    }

    /// Finishes an item of which the calling thread has none, except in its loops: the item of its youngest
    /// loop, else the process's oldest, else another's, else one that was left, else the oldest that no
    /// getter has taken yet. An item that a getter was handed is that getter's, after its leases.
    pub(crate) fn finish_any(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        let id = self.shared.segment.id;
        let thread = platform::thread_id();
        let is_of_task = |lease: &Lease| {
            self.used_slot(lease.slot)
                .is_some_and(|slot| slot.is_leased_by(thread))
        };
        if let Some(lease) = holding::last_in_loop(id, |lease| self.is_mine_to_finish(lease), is_of_task) {
            return self.finish_own_lease(lease.slot);
        }
        if let Some(index) = self.first_lease(self.my_index(), |slot| slot.word().is_finishable())? {
            return self.finish_lease(index);
        }
        if self.finish_handed(Whose::Mine)? {
            self.count_finished();
            return Ok(());
        }
        if let Some(index) = self.lease_of_another()? {
            return self.finish_lease(index);
        }
        if self.finish_handed(Whose::Others)? {
            // As a lease of another.
        } else if hot.orphans.get() != 0 {
            hot.orphans.sub(1);
        } else if self.forget_one_given_up(Whose::Others)? {
            return Ok(());
        } else {
            self.finish_before_any_get()?;
        }
        self.count_finished();
        Ok(())
    }

    /// Finishes the item of a loop, if it is this participant's still and not finished: the loop asks for its
    /// next one. The thread that does so may be another than the one that took the item.
    pub(crate) fn finish_in_loop(&mut self, lease: Lease) -> Result<(), Error> {
        if holding::has_many_in_loops() {
            let is_mine = |lease: &Lease| self.is_mine_to_finish(lease);
            holding::last_in_loop(self.shared.segment.id, is_mine, |_| false);
        }
        if !self.is_mine_to_finish(&lease) {
            return Ok(());
        }
        if self.slot(lease.slot)?.is_leased_by(platform::thread_id()) {
            self.finish_own_lease(lease.slot)
        } else {
            self.finish_lease(lease.slot)
        }
    }

    /// Marks a lease of this section's: a leave in order does not give it up.
    pub(crate) fn mark_by_name(&mut self, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        // An item that was finished before it was taken is no lease.
        if slot.word().state() == Some(State::Leased) {
            slot.holder.set(slot.holder.get() | BY_NAME);
            fault!("lease.named");
        }
        Ok(())
    }

    /// Unmarks the item of a loop that was left: it is in hand as after a get.
    pub(crate) fn unmark_by_name(&mut self, lease: Lease) -> Result<(), Error> {
        if self.is_mine_to_finish(&lease) {
            let slot = self.slot(lease.slot)?;
            slot.holder.set(slot.holder.get() & !BY_NAME);
            fault!("lease.unnamed");
        }
        Ok(())
    }

    /// Finishes a lease of the calling thread's.
    #[inline(always)]
    pub(crate) fn finish_own_lease(&mut self, index: u32) -> Result<(), Error> {
        self.finish_lease(index)?;
        holding::count_finished();
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn finish_lease(&mut self, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        if slot.word().past().note() != 0 {
            return self.finish_noted_lease((index, slot));
        }
        self.finish_plain_lease((index, slot))
    }

    #[cold]
    fn finish_noted_lease(&mut self, (index, slot): (u32, &Slot)) -> Result<(), Error> {
        let note = slot.word().past().note();
        self.finish_plain_lease((index, slot))?;
        self.free_note(note, index)
    }

    #[inline(always)]
    fn finish_plain_lease(&mut self, (index, slot): (u32, &Slot)) -> Result<(), Error> {
        if slot.mark() != 0 {
            // The payload is still borrowed: the item is finished, and its memory stays until the borrow
            // ends.
            self.keep_memory(index)?;
        } else {
            self.let_go_of_lease(index, slot)?;
            self.free_slot((index, slot))?;
        }
        self.count_finished();
        Ok(())
    }

    fn count_finished(&self) {
        fault!("done.committed");
        self.hot().unfinished.sub(1);
    }

    /// The first of a participant's leases that suits.
    fn first_lease(&self, participant: u32, suits: impl Fn(&Slot) -> bool) -> Result<Option<u32>, Error> {
        let mut index = self.shared.segment.participant(participant)?.leased.head.get();
        let mut walk = self.walk();
        while index != 0 {
            let slot = self.slot(index)?;
            if suits(slot) {
                return Ok(Some(index));
            }
            index = slot.next.get();
            self.step(&mut walk)?;
        }
        Ok(None)
    }

    /// The oldest lease of the first participant that has any. One whose holder has left is unfinished, too.
    fn lease_of_another(&self) -> Result<Option<u32>, Error> {
        let mut participant = 0;
        while let Some(index) = self.next_lessee(participant) {
            participant = index;
            if let Some(lease) = self.first_lease(index, |slot| slot.word().is_lease())? {
                return Ok(Some(lease));
            }
            // Its next lease sets the bit again.
            let (lessees, bit) = lessee(self.hot(), index);
            lessees.set(lessees.get() & !bit);
        }
        Ok(None)
    }

    /// The next participant that may have leases.
    pub(crate) fn next_lessee(&self, after: u32) -> Option<u32> {
        let from = after + 1;
        let words = self.hot().lessees.iter().enumerate().skip(from as usize / 64);
        for (at, word) in words {
            let first = (at as u32 * 64).max(from);
            let bits = word.get() & (u64::MAX << (first % 64));
            if bits != 0 {
                return Some(at as u32 * 64 + bits.trailing_zeros());
            }
        }
        None
    }

    /// Finishes an item that a living participant took and whose payload was given up since: these are older
    /// than its leases.
    #[cold]
    pub(crate) fn forget_one_given_up(&self, whose: Whose) -> Result<bool, Error> {
        let hot = self.hot();
        if hot.given_up_of_living.get() == 0 {
            return Ok(false);
        }
        let holders = match whose {
            Whose::Mine => self.my_index()..=self.my_index(),
            Whose::Others => self.shared.participants(),
        };
        for index in holders {
            let given_up = &self.shared.segment.participant(index)?.given_up;
            if given_up.get() > 0 {
                given_up.sub(1);
                hot.given_up_of_living.sub(1);
                self.count_finished();
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// READY -> READY_DONE: the oldest that is not finished is delivered as usual.
    fn finish_before_any_get(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        if hot.is_closed() {
            // What is still to be discarded is gone for every caller.
            return Err(Error::TooManyDone);
        }
        let (mut index, returned) = (self.first_unmarked()?, hot.returned.get());
        if returned != 0 && (index == 0 || self.slot(returned)?.seq.get() < self.slot(index)?.seq.get()) {
            // So what is finished in advance stays at the ready list's head.
            self.pop_returned()?;
            self.insert_marked(returned)?;
            index = returned;
        }
        if index == 0 {
            return Err(Error::TooManyDone);
        }
        let slot = self.slot(index)?;
        let word = slot.word();
        if word.state() == Some(State::Ready) {
            slot.commit(StateWord::unowned_with(State::ReadyDone, word.past()));
            hot.ready_done.add(1);
        }
        hot.marked_slot.set(index);
        hot.marked_seq.set(slot.seq.get());
        Ok(())
    }

    /// HANDED -> HANDED_DONE: a getter that is on its way has it, and it is delivered as usual. False if no
    /// getter has one.
    fn finish_handed(&self, whose: Whose) -> Result<bool, Error> {
        let hot = self.hot();
        if !hot.is_getter_handed() {
            return Ok(false);
        }
        for index in 1..hot.cells_high.get().min(self.shared.segment.geometry.cells) {
            let Some((_, slot)) = self.handed_by(index)? else {
                continue;
            };
            let word = slot.word();
            let is_meant = (word.owner() == self.me) == (whose == Whose::Mine);
            if word.state() == Some(State::Handed) && is_meant {
                slot.commit(word.given(State::HandedDone, word.owner()));
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives up a portion of what this participant has taken and not acknowledged. A borrowed payload stays
    /// the participant's own until the borrow ends. A leave in order passes over leases that are settled by
    /// name, unless it is for good.
    pub(crate) fn give_up_leases(&mut self, leaving: &mut Leaving) -> Result<Portion, Error> {
        let record = self.shared.segment.participant(self.my_index())?;
        let how = leaving.how;
        let until = *leaving.until.get_or_insert(self.hot().leases.get());
        let (mut index, mut last) = match leaving.from.filter(|lease| self.is_mine(lease)) {
            Some(lease) => (self.slot(lease.slot)?.next.get(), lease.number),
            None => (record.leased.head.get(), 0),
        };
        for _ in 0..PORTION {
            if index == 0 || self.slot(index)?.lease.get() > until {
                if how == Leave::Clean {
                    self.settle_given_up(record, true);
                }
                fault!("leave.released");
                return Ok(Portion::Last);
            }
            let slot = self.slot(index)?;
            let next = slot.next.get();
            let word = slot.word();
            let lease = Lease {
                slot: index,
                number: slot.lease.get(),
            };
            self.check_order(&mut last, lease)?;
            if word.is_finishable() {
                let is_borrowed = slot.mark() != 0;
                match how {
                    // It ends with the process, and until then its holder can settle it.
                    Leave::Clean if slot.is_by_name() && !leaving.is_for_good => {}
                    Leave::Clean if !slot.is_by_name() && !is_borrowed => self.orphan(index)?,
                    Leave::Clean if !slot.is_by_name() && self.shared.options.acknowledged => {
                        slot.commit(StateWord::with(State::Left, word.past(), word.owner()));
                    }
                    _ if !is_borrowed => {
                        self.note_silence(index)?;
                        self.return_lease(index)?;
                    }
                    // It comes back when this process has ended.
                    Leave::Clean | Leave::Crashed => {}
                }
                fault!("leave.orphaned");
            }
            if self.is_mine(&lease) {
                leaving.from = Some(lease);
            }
            index = next;
        }
        Ok(Portion::MoreToCome)
    }

    /// The leases of a participant ascend. A damaged list that does not could be a ring, of which no portion
    /// would reach the end.
    fn check_order(&self, last: &mut u64, lease: Lease) -> Result<(), Error> {
        if lease.number <= *last {
            return Err(self.corrupt("leases are out of order"));
        }
        *last = lease.number;
        Ok(())
    }

    /// Whether this participant still has that lease.
    pub(crate) fn is_mine(&self, lease: &Lease) -> bool {
        self.used_slot(lease.slot).is_some_and(|slot| {
            let word = slot.word();
            slot.lease.get() == lease.number && word.is_lease() && word.owner() == self.me
        })
    }

    /// Whether this participant still has that lease, and `task_done` finishes it.
    fn is_mine_to_finish(&self, lease: &Lease) -> bool {
        self.is_mine(lease)
            && self
                .used_slot(lease.slot)
                .is_some_and(|slot| slot.word().is_finishable())
    }
}

impl StateWord {
    /// `task_done` finishes it for its own process.
    #[inline(always)]
    pub(crate) fn is_finishable(self) -> bool {
        matches!(self.state(), Some(State::Leased | State::Aside))
    }
}

/// Items that are taken and not finished.
pub(crate) fn taken_items(hot: &Hot) -> u64 {
    let queued = hot.ready_count.get().saturating_sub(hot.ready_done.get());
    hot.unfinished
        .get()
        .saturating_sub(queued)
        .saturating_sub(hot.delayed_count.get())
        .saturating_sub(hot.orphans.get())
}
