//! Done: items of an acknowledged queue are finished, and `join` waits for all of them.
//!
//! What `task_done` costs does not grow with leases, queued items or participants. A participant's leases are one list, in the order
//! of taking. The calling thread's oldest one mostly is among its first ([`NEAR`]), or all of the thread's are among its last. If not,
//! the thread reads the list once, in portions, and notes its own leases (holding.rs): afterwards it reads only what was added. Of other participants a bitmap says which
//! may have leases. Of the ready list `Hot::marked_slot` says up to where its items are finished.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | lease found | it is redelivered |
//! | leave in order, one lease after the other: **state = ORPHAN** | it is counted as unfinished for good (aside.rs); the younger ones come back |
//! | the same while the payload is looked at: **state = LEFT** | the sweep makes it an orphan; the younger ones come back |
//! | **state = FREE** (or CLAIMED while the payload is looked at, or READY_DONE) | the item is finished |
//! | lists, counters, joiners marked | the rebuild computes them |

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::memory::layout::{Hot, Kind, Slot};
use crate::options::{Wait, surely};
use crate::platform;
use crate::state::Section;
use crate::state::holding::{self, Found, Lease};
use crate::state::recovery::{PORTION, Portion};
use crate::state::slot::{KEPT, State, StateWord, lessee};
use crate::state::waiters::Waiting;
use crate::sync::{Count, Word};
use crate::units::{Leave, Ticket};

/// Leases of its process that `task_done` compares with the calling thread, before it reads the list once and for all.
const NEAR: u32 = if cfg!(loom) { 4 } else { 32 };

impl Queue {
    /// Finishes one item: the calling thread's oldest, else the process's oldest, else one that somebody else holds or
    /// left unfinished, else the oldest that nobody has taken yet (which is still delivered).
    pub fn task_done(&self) -> Result<(), Error> {
        surely(|wait| self.task_done_within(wait))
    }

    /// The same, waiting for the lock as long as `wait` allows. If it ends in vain, the item is as it was.
    pub fn task_done_within(&self, mut wait: Wait<'_>) -> Result<(), Error> {
        let done = self
            .acknowledge_from_now_on(&mut wait)
            .and_then(|()| self.finish_one(&mut wait));
        self.shared.report(done)
    }

    fn finish_one(&self, wait: &mut Wait<'_>) -> Result<(), Error> {
        let mut section = self.enter(wait)?;
        section.check_unfinished()?;
        if section.hot().given_up_of_living.get() != 0 && section.forget_one_given_up(Whose::Mine)? {
            return Ok(());
        }
        match section.near_lease()? {
            Near::Mine(index) => section.finish_own_lease(index),
            Near::NoneOfMine => section.finish_any(),
            Near::Unknown => {
                drop(section);
                self.finish_distant_lease(wait)
            }
        }
    }

    /// The calling thread's leases stand behind many of other threads.
    #[cold]
    fn finish_distant_lease(&self, wait: &mut Wait<'_>) -> Result<(), Error> {
        let (id, me) = (self.shared.segment.id, self.member()?);
        let mut found = holding::take_found(id, me);
        let finished = self
            .read_leases(&mut found, wait)
            .and_then(|()| self.enter(wait)?.finish_found(&mut found));
        holding::keep_found(id, found);
        finished
    }

    /// Notes those of the calling thread's leases that it has not noted yet, in portions.
    fn read_leases(&self, found: &mut Found, wait: &mut Wait<'_>) -> Result<(), Error> {
        loop {
            let room = PORTION as usize;
            found
                .leases
                .try_reserve(room)
                .map_err(|_| platform::no_memory((room * size_of::<Lease>()) as u64))?;
            if self.enter(wait)?.read_leases(found)? == Portion::Last {
                return Ok(());
            }
        }
    }

    /// Waits until every item that was put is finished.
    pub fn join(&self, mut wait: Wait<'_>) -> Result<(), Error> {
        let mut waiting = Waiting::new(Kind::Finish);
        let joined = self
            .acknowledge_from_now_on(&mut wait)
            .and_then(|()| self.wait_until_finished(&mut waiting, &mut wait));
        self.shared.report(joined.map_err(|error| {
            self.abandon(&mut waiting);
            Kind::Finish.conclude(error, wait.patience)
        }))
    }

    fn wait_until_finished(&self, waiting: &mut Waiting, wait: &mut Wait<'_>) -> Result<(), Error> {
        let mut section = self.enter(wait)?;
        // A joiner that was woken has seen its moment, even if new items have come since.
        while section.hot().unfinished.get() > 0 && !waiting.was_chosen() {
            section = self.wait_for(section, waiting, wait)?;
        }
        section.withdraw(waiting)
    }

    /// Whether the item put under that ticket is still queued, or in the hands of somebody who has not finished with it.
    pub fn is_pending(&self, ticket: Ticket) -> bool {
        let is_backed = ticket.slot < self.shared.segment.hot().slots_backed.get();
        is_backed
            && self.shared.segment.slot(ticket.slot).is_ok_and(|slot| {
                let state = slot.word().state();
                // One that was finished, or kept, may still be looked at.
                let is_at_work = slot.reading.get() < KEPT;
                slot.seq.get() == ticket.seq
                    && match state {
                        Some(State::Ready | State::ReadyDone) => true,
                        Some(State::Leased | State::Aside) => self.shared.options.acknowledged || is_at_work,
                        Some(State::Claimed) => is_at_work,
                        _ => false,
                    }
            })
    }
}

/// What the first of a process's leases say of the calling thread.
enum Near {
    /// Its oldest lease.
    Mine(u32),
    /// It has no lease.
    NoneOfMine,
    /// All of them are other threads'; there are more.
    Unknown,
}

/// Whose items that were given up.
enum Whose {
    Mine,
    Others,
}

impl Section<'_> {
    fn check_unfinished(&self) -> Result<(), Error> {
        if self.hot().unfinished.get() == 0 || !self.shared.options.acknowledged {
            return Err(Error::TooManyDone);
        }
        Ok(())
    }

    #[inline(always)]
    fn near_lease(&self) -> Result<Near, Error> {
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
            if slot.word().is_finishable() && slot.holder.get() == thread {
                return Ok(Near::Mine(index));
            }
            index = slot.next.get();
        }
        self.recent_lease(thread)
    }

    /// The same by the last leases of the process, which tell it if all that the thread may hold are among them.
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
        for _ in 0..NEAR {
            if index == 0 {
                break;
            }
            let slot = self.slot(index)?;
            if slot.word().is_finishable() && slot.holder.get() == thread {
                left -= 1;
                if left == 0 {
                    return Ok(Near::Mine(index));
                }
            }
            index = slot.prev.get();
        }
        Ok(Near::Unknown)
    }

    /// Notes a portion of the calling thread's leases that are not noted yet, and for which there is room.
    fn read_leases(&mut self, found: &mut Found) -> Result<Portion, Error> {
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
            if slot.holder.get() == thread && slot.word().is_finishable() {
                found.leases.push_back(lease);
            }
            found.last_read = lease;
            index = slot.next.get();
        }
        Ok(Portion::MoreToCome)
    }

    /// The oldest of this participant's leases that is younger than those that were read, or 0. `None` if a portion of the list was
    /// read backwards, from its youngest lease, and did not come to it.
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

    fn finish_found(&mut self, found: &mut Found) -> Result<(), Error> {
        self.check_unfinished()?;
        while let Some(lease) = found.leases.pop_front() {
            // Another thread, or another process, may have finished it.
            if self.is_mine(&lease) && self.slot(lease.slot)?.word().is_finishable() {
                return self.finish_own_lease(lease.slot);
            }
        }
        self.finish_any()
    }

    /// Finishes an item of which the calling thread has none: the process's oldest, else another's, else one that was left, else
    /// the oldest that no getter has taken yet.
    fn finish_any(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        if let Some(index) = self.first_lease(self.my_index(), |slot| slot.word().is_finishable())? {
            return self.finish_lease(index);
        }
        if let Some(index) = self.lease_of_another()? {
            return self.finish_lease(index);
        }
        if hot.orphans.get() != 0 {
            hot.orphans.sub(1);
        } else if self.forget_one_given_up(Whose::Others)? {
            return Ok(());
        } else {
            self.finish_before_any_get()?;
        }
        self.count_finished();
        Ok(())
    }

    /// Finishes a lease of the calling thread's.
    #[inline(always)]
    fn finish_own_lease(&mut self, index: u32) -> Result<(), Error> {
        self.finish_lease(index)?;
        holding::count_finished();
        Ok(())
    }

    #[inline(always)]
    fn finish_lease(&mut self, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        if slot.reading.get() != 0 {
            // The payload is still borrowed: the item is finished, and its memory stays until it is not.
            self.keep_memory(index)?;
        } else {
            self.let_go_of_lease(index, slot)?;
            self.free_slot(index)?;
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

    /// Finishes an item that a living participant took and whose payload was given up since: these are older than its leases.
    #[cold]
    fn forget_one_given_up(&self, whose: Whose) -> Result<bool, Error> {
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
            slot.commit(StateWord::new(State::ReadyDone, word.redeliveries(), 0));
            hot.ready_done.add(1);
        }
        hot.marked_slot.set(index);
        hot.marked_seq.set(slot.seq.get());
        Ok(())
    }

    /// The item of the ready list that was finished last, if no getter has taken it since, or 0.
    fn last_marked(&self) -> u32 {
        let (hot, index) = (self.hot(), self.hot().marked_slot.get());
        let is_there = self.used_slot(index).is_some_and(|slot| {
            slot.word().state() == Some(State::ReadyDone) && slot.seq.get() == hot.marked_seq.get()
        });
        if is_there { index } else { 0 }
    }

    fn first_unmarked(&self) -> Result<u32, Error> {
        let mut index = match self.last_marked() {
            0 => self.hot().ready.head.get(),
            marked => self.slot(marked)?.next.get(),
        };
        let mut walk = self.walk();
        while index != 0 && self.slot(index)?.word().state() != Some(State::Ready) {
            index = self.slot(index)?.next.get();
            self.step(&mut walk)?;
        }
        Ok(index)
    }

    /// Inserts a slot that is on no list into the ready list, in its place in the order of publication, which mostly is right behind
    /// the item that was finished last.
    fn insert_marked(&self, index: u32) -> Result<(), Error> {
        let list = &self.hot().ready;
        let slot = self.slot(index)?;
        let seq = slot.seq.get();
        let marked = self.last_marked();
        let is_behind = marked != 0 && self.slot(marked)?.seq.get() < seq;
        let mut prev = if is_behind { marked } else { 0 };
        let mut next = match prev {
            0 => list.head.get(),
            prev => self.slot(prev)?.next.get(),
        };
        let mut walk = self.walk();
        while next != 0 && self.slot(next)?.seq.get() < seq {
            self.step(&mut walk)?;
            (prev, next) = (next, self.slot(next)?.next.get());
        }
        let before = if prev == 0 {
            &list.head
        } else {
            &self.slot(prev)?.next
        };
        if next == 0 && list.tail.get() != prev {
            return Err(self.corrupt("a list of slots is torn"));
        }
        slot.next.set(next);
        before.set(index);
        if next == 0 {
            list.tail.set(index);
        }
        Ok(())
    }

    /// Gives up a portion of what this participant has taken and not acknowledged, behind the lease `from`, which then is the last one
    /// that was read. What is still borrowed stays the participant's own until it is not.
    pub(crate) fn give_up_leases(&mut self, how: Leave, from: &mut Option<Lease>) -> Result<Portion, Error> {
        let record = self.shared.segment.participant(self.my_index())?;
        let (mut index, mut last) = match from.filter(|lease| self.is_mine(lease)) {
            Some(lease) => (self.slot(lease.slot)?.next.get(), lease.number),
            None => (record.leased.head.get(), 0),
        };
        for _ in 0..PORTION {
            if index == 0 {
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
                match how {
                    Leave::Clean if slot.reading.get() == 0 => self.orphan(index)?,
                    Leave::Crashed if slot.reading.get() == 0 => self.return_lease(index)?,
                    Leave::Clean if self.shared.options.acknowledged => {
                        slot.commit(StateWord::new(State::Left, word.redeliveries(), word.owner()));
                    }
                    // It comes back when this process has ended.
                    Leave::Clean | Leave::Crashed => {}
                }
                fault!("leave.orphaned");
            }
            if self.is_mine(&lease) {
                *from = Some(lease);
            }
            index = next;
        }
        Ok(Portion::MoreToCome)
    }

    /// The leases of a participant ascend. A damaged list that does not could be a ring, which no portion would come to the end of.
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

    /// LEASED (or ASIDE, or LEFT) -> ORPHAN -> FREE: unfinished for good, unless a process calls `task_done` for it. Only its
    /// number is kept.
    pub(crate) fn orphan(&mut self, index: u32) -> Result<(), Error> {
        self.let_go(index, self.slot(index)?.word().owner())?;
        self.free_counted(index, State::Orphan, 0, &self.hot().orphans)
    }

    /// Returns what a participant has taken that is dead, or that leaves by a failure: to the queue; or if it was set aside, and nothing is
    /// acknowledged yet, to the others of that kind.
    pub(crate) fn return_lease(&mut self, index: u32) -> Result<(), Error> {
        let word = self.slot(index)?.word();
        if word.state() == Some(State::Aside) && self.shared.sets_aside() {
            return self.disown(index);
        }
        self.let_go(index, word.owner())?;
        self.return_to_queue(index)
    }

    /// To READY in its old place, or to DEAD if the item came back too often. The slot is on no list.
    pub(crate) fn return_to_queue(&mut self, index: u32) -> Result<(), Error> {
        let hot = self.hot();
        let slot = self.slot(index)?;
        let word = slot.word();
        if word.redeliveries() >= self.shared.options.max_deliveries {
            slot.commit(StateWord::new(State::Dead, word.redeliveries(), 0));
            self.push_back(&hot.dead, index)?;
            hot.dead_count.add(1);
            // A dead letter counts as finished: join() must not wait for it.
            if self.shared.options.acknowledged {
                hot.unfinished.sub(1);
            }
        } else {
            slot.commit(StateWord::new(State::Ready, word.redeliveries() + 1, 0));
            self.insert_returned(index)?;
            self.count_ready(slot.len.get());
            hot.redeliveries.add(1);
        }
        fault!("sweep.slot-returned");
        Ok(())
    }
}

impl StateWord {
    /// `task_done` finishes it for its own process.
    #[inline(always)]
    fn is_finishable(self) -> bool {
        matches!(self.state(), Some(State::Leased | State::Aside))
    }
}

/// Items that are taken and not finished.
pub(crate) fn taken_items(hot: &Hot) -> u64 {
    let queued = hot.ready_count.get().saturating_sub(hot.ready_done.get());
    hot.unfinished
        .get()
        .saturating_sub(queued)
        .saturating_sub(hot.orphans.get())
}
