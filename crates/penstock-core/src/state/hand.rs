//! Handing: an aged getter gets the next item, and an aged putter the next place, before any other call.
//!
//! A waiter that has waited for `AGE` has *aged* (waiters.rs). The end of each section serves aged waiters
//! first, under the lock (`hand_over`). So a call that has not waited, a spinner or a younger waiter finds
//! only what the aged ones have left.
//!
//! - *A getter* is handed the oldest item: it is HANDED to the getter's participant, counts as taken, and is
//!   delivered in the getter's next section. No caller has seen it until then. So the sweep, a getter that
//!   gives up, and the late rule return it to its old place, and that is no redelivery. A getter is notified
//!   instead if its process has not mapped all that the queue has grown by (memory/ranges.rs), and only as
//!   many as any getters are (waiters.rs).
//! - *A putter* writes its item when it has aged, into a slot that is CLAIMED, and its cell names the slot.
//!   Until then, and if there is no memory for it, it is passed over, and notified like any other putter.
//!   The section that makes room publishes the item for it. So no place is ever reserved, and the number of
//!   items is exact. A putter whose patience ends learns from its cell whether its item was published.
//!
//! A cell names a slot by its number too: the number of a lease or of a claim never repeats.
//!
//! A section of a process that has not mapped all that the queue has grown by serves no aged waiter: it may
//! not find their slots. It leaves them to the next section, and notifies as ever.
//!
//! What a queue that was shut down does about either: operations/shutdown.rs.
//!
//! A handed waiter that has not come back after `LATE_AFTER` is *late*: stopped, slow, or its wake-up was
//! lost with its waker. Any participant that checks for the dead wakes it again. It takes a getter's item
//! back if the kernel says that the getter's process is stopped, or after `LOST_AFTER` in any case. Not
//! sooner: others may have taken younger items meanwhile, so that the item comes out of order. The getter
//! keeps its age, so that it is the first in line when it comes back.
//!
//! A handed getter whose time is over waits for the lock: the item is its result. It leaves its cell without
//! the lock (HANDED_LEFT) if the lock's holder does not run, if the getter is interrupted while the lock
//! stays taken, or if its process cannot map a range that was added since. That getter does not come back.
//! So the next section of its process returns the item, or the next check for the dead, which is due at once.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | item: cell = HANDED, which names slot and number | the slot is READY still: the cell is SLEEPING again |
//! | **slot = HANDED**, of the getter's participant | it is on its way; the rebuild wakes it again |
//! | getter back: the cell freed, the item delivered | as in get.rs: until the commit the sweep returns it |
//! | item returned: **slot = READY**, in its old place | the cell names nothing: it is SLEEPING again |
//! | late: the cell = LATE | its waiter reads that when it comes back |
//! | getter gone: the cell = HANDED_LEFT | the sweep returns the item, as does any check for the dead |
//! | putter: payload copied, **slot = CLAIMED** | the sweep frees slot and extent |
//! | its cell names slot and number | the same, and its cell is freed |
//! | place: cell = HANDED | the slot is CLAIMED still: the cell is SLEEPING again |
//! | **slot = READY** | the item exists; the rebuild stores its number in the cell |
//! | the number stored in the cell | the same |
//! | lock released, wake-up call not yet made | the waiter is late |
//!
//! A putter that cannot get the lock when its patience ends leaves its cell without it, and must know whether
//! its item was published. If its cell is HANDED and has the publication number, it was. Between these two
//! stores the lock's holder is publishing it: the putter waits for the lock then, or takes it over. A putter
//! that cannot map all that the queue has grown by takes the lock as well, and reads its cell. If the holder
//! is dead, it waits until another participant has repaired the queue.

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{Aged, Hot, Kind, ParticipantId, Ranges, Slot, WaiterCell};
use crate::platform;
use crate::state::discard::Discarded;
use crate::state::holding::Lease;
use crate::state::recovery::Portion;
use crate::state::slot::{State, StateWord};
use crate::state::waiters::{ABANDONED, HANDED, HANDED_LEFT, LATE, SLEEPING, most_on_their_way};
use crate::state::{Section, WAKES};
use crate::sync::{Count, Ordering, Word};
use crate::units::{BATCH, Ticket};

/// A handed waiter that is not back after so many milliseconds is late.
pub(crate) const LATE_AFTER: u64 = if cfg!(feature = "fuzzing") { 1 } else { 50 };

/// After so many its item goes back, whatever the kernel says of its process.
const LOST_AFTER: u64 = 20 * LATE_AFTER;

/// Participants of late getters that one check asks the kernel about.
const LATE_AT_ONCE: usize = 8;

/// Late waiters that one section wakes, or takes items back from: not more than it wakes after its release.
const LATE_IN_A_SECTION: usize = if cfg!(loom) { 1 } else { WAKES };

/// One check for late waiters, which takes several sections.
pub(crate) struct LateCheck {
    /// Cells from this one on have not been read yet.
    from: u32,
    /// Participants of late getters.
    owners: [ParticipantId; LATE_AT_ONCE],
}

impl LateCheck {
    pub(crate) fn new() -> LateCheck {
        LateCheck {
            from: 1,
            owners: [ParticipantId::NONE; LATE_AT_ONCE],
        }
    }

    fn note(&mut self, owner: ParticipantId) {
        let free = ParticipantId::NONE;
        if let Some(place) = self.owners.iter_mut().find(|place| [owner, free].contains(place)) {
            *place = owner;
        }
    }

    /// Keeps those participants that are stopped, and begins anew with the first cell. False if there are
    /// none.
    pub(crate) fn keep_stopped(&mut self, is_stopped: impl Fn(ParticipantId) -> bool) -> bool {
        self.from = 1;
        for owner in &mut self.owners {
            if !owner.is_none() && !is_stopped(*owner) {
                *owner = ParticipantId::NONE;
            }
        }
        self.owners.iter().any(|owner| !owner.is_none())
    }

    fn has(&self, owner: ParticipantId) -> bool {
        !owner.is_none() && self.owners.contains(&owner)
    }
}

impl Hot {
    /// The aged waiters of a kind. `None` for joiners, which are woken all at once.
    pub(crate) fn aged(&self, kind: Kind) -> Option<&Aged> {
        self.spinning.aged.get(kind as usize)
    }

    /// Whether a waiter was handed something and is not back.
    pub(crate) fn is_any_handed(&self) -> bool {
        self.spinning.aged.iter().any(|aged| aged.handed.get() > 0)
    }

    /// Whether a getter was handed an item that it has not come back for.
    pub(crate) fn is_getter_handed(&self) -> bool {
        self.spinning.aged[Kind::Item as usize].handed.get() > 0
    }

    /// Whether a putter's item was published for it, and it is neither back nor late.
    #[cfg(not(loom))]
    pub(crate) fn is_putter_handed(&self) -> bool {
        self.spinning.aged[Kind::Room as usize].handed.get() > 0
    }
}

impl Section<'_> {
    /// Serves the aged waiters, the oldest first, as far as there are items and room. Part of `settle`,
    /// unless the queue is closed. While it is draining, no place is handed.
    #[inline(always)]
    pub(crate) fn hand_over(&mut self) -> Result<(), Error> {
        let [getters, putters] = &self.hot().spinning.aged;
        if getters.count.get() | putters.count.get() != 0 {
            self.serve_aged()?;
        }
        Ok(())
    }

    #[cold]
    fn serve_aged(&mut self) -> Result<(), Error> {
        // A slot that is not mapped is no damage. It may be one of those that the last section has left.
        if !self.shared.segment.is_all_mapped() {
            return Ok(());
        }
        let hot = self.hot();
        let [getters, putters] = &hot.spinning.aged;
        // A place that is taken is an item for a getter, and the reverse, so each step takes one waiter off.
        // Those that a section leaves are served by the next: each handed waiter comes back through one.
        for _ in 0..BATCH {
            let is_served = getters.count.get() > 0
                && hot.ready_count.get() > 0
                && self.hand_item(hot.waiters[Kind::Item as usize].head.get())?;
            if !is_served
                && (putters.count.get() == 0
                    || self.check_put().is_err()
                    || !self.shared.has_room()
                    || !self.hand_first_place()?)
            {
                break;
            }
        }
        Ok(())
    }

    /// Publishes the item of the oldest aged putter that has written one. False if there is none.
    fn hand_first_place(&mut self) -> Result<bool, Error> {
        let hot = self.hot();
        let mut index = hot.waiters[Kind::Room as usize].head.get();
        for _ in 0..hot.spinning.aged[Kind::Room as usize].count.get() {
            if index == 0 {
                return Err(self.corrupt("more putters have aged than wait"));
            }
            let next = self.cell(index)?.next.get();
            if self.hand_place(index)? {
                return Ok(true);
            }
            index = next;
        }
        Ok(false)
    }

    /// Hands the oldest item to that getter, if its process has mapped all that the queue has grown by. Else
    /// it is notified: it maps that, and comes for an item. It may have no address space for it, and then it
    /// must not have taken one. False if as many getters are on their way already as are to be.
    fn hand_item(&mut self, index: u32) -> Result<bool, Error> {
        let (hot, cell) = (self.hot(), self.cell(index)?);
        if !Ranges(cell.ranges.get()).cover(Ranges(hot.ranges.get())) {
            let lacks_getters = self.lacks_getters(most_on_their_way());
            if lacks_getters {
                self.choose(Kind::Item, index)?;
            }
            return Ok(lacks_getters);
        }
        let item = self.oldest()?;
        if item == 0 {
            return Err(self.corrupt("items are counted that are on no list"));
        }
        let number = hot.leases.get().wrapping_add(1);
        if !self.mark_handed(Kind::Item, index, Lease { slot: item, number })? {
            return Ok(true);
        }
        let owner = ParticipantId(cell.owner.get());
        let Some(record) = self.shared.participant_of(owner)? else {
            return Err(self.corrupt("a waiter's owner is no participant"));
        };
        let slot = self.slot(item)?;
        let word = slot.word();
        let state = match word.state() {
            Some(State::Ready) => State::Handed,
            Some(State::ReadyDone) => State::HandedDone,
            _ => return Err(self.corrupt("an item on the ready list is not ready")),
        };
        self.pop_ready((item, slot), slot.len.get())?;
        slot.set_mark(0);
        self.give(slot, state, word.past(), owner);
        fault!("hand.committed");
        if state == State::HandedDone {
            hot.ready_done.sub(1);
        }
        self.push_back(&record.claimed, item)?;
        hot.owned_count.add(1);
        self.wake_later(index);
        Ok(true)
    }

    /// Publishes that putter's item for it. False if it has not written one.
    fn hand_place(&mut self, index: u32) -> Result<bool, Error> {
        let cell = self.cell(index)?;
        let written = Lease {
            slot: cell.slot.get(),
            number: cell.number.get(),
        };
        let owner = ParticipantId(cell.owner.get());
        // A sweep may have freed the slot of a dead putter, and not the cell yet.
        let is_there = self.used_slot(written.slot).is_some_and(|slot| {
            let word = slot.word();
            written.slot != 0
                && slot.lease.get() == written.number
                && word.state() == Some(State::Claimed)
                && word.owner() == owner
        });
        if !is_there {
            return Ok(false);
        }
        if !self.mark_handed(Kind::Room, index, written)? {
            return Ok(true);
        }
        self.let_go(written.slot, owner)?;
        let slot = self.slot(written.slot)?;
        let ticket = self.publish((written.slot, slot), slot.len.get())?;
        fault!("hand.published");
        // Release: pairs with the acquire in published_for, whose caller returns without the lock.
        cell.seq.store(ticket.seq, Ordering::Release);
        fault!("hand.numbered");
        self.wake_later(index);
        Ok(true)
    }

    /// Takes a waiter off its list: it is handed that slot next. False if it has left meanwhile.
    fn mark_handed(&mut self, kind: Kind, index: u32, what: Lease) -> Result<bool, Error> {
        let cell = self.cell(index)?;
        self.leave_list(kind, index)?;
        cell.slot.set(what.slot);
        cell.number.set(what.number);
        cell.handed_at.set(platform::coarse_millis());
        // Release: pairs with the acquire in published_for.
        match cell
            .word
            .compare_exchange(SLEEPING, HANDED, Ordering::Release, Ordering::Relaxed)
        {
            Ok(_) => {
                self.count_handed(kind, cell, true);
                fault!("hand.marked");
                Ok(true)
            }
            Err(ABANDONED) => {
                self.free_cell(index)?;
                Ok(false)
            }
            Err(_) => Err(self.corrupt("a listed waiter's cell is neither SLEEPING nor ABANDONED")),
        }
    }

    /// Counts a handed waiter, or discounts one. A late one does not count.
    fn count_handed(&self, kind: Kind, cell: &WaiterCell, is_more: bool) {
        if let Some(aged) = self.hot().aged(kind).filter(|_| cell.number.get() != 0) {
            if is_more {
                aged.handed.add(1);
            } else {
                aged.handed.sub(1);
            }
        }
    }

    /// The slot that a handed getter's cell names, if it is that getter's still.
    pub(crate) fn handed_by(&self, index: u32) -> Result<Option<(u32, &Slot)>, Error> {
        let cell = self.cell(index)?;
        let is_handed =
            matches!(cell.word.get(), HANDED | HANDED_LEFT) && cell.kind.get() == Kind::Item as u32;
        let slot = cell.slot.get();
        Ok(self
            .used_slot(slot)
            .filter(|found| {
                let word = found.word();
                is_handed
                    && slot != 0
                    && word.is_handed()
                    && word.owner().0 == cell.owner.get()
                    && found.lease.get() == cell.number.get()
            })
            .map(|found| (slot, found)))
    }

    /// The ticket of the item that was published for a handed putter, else `None`.
    pub(crate) fn ticket_of(cell: &WaiterCell) -> Option<Ticket> {
        // Acquire: pairs with the release in hand_place.
        let seq = cell.seq.load(Ordering::Acquire);
        (seq != 0).then(|| Ticket {
            slot: cell.slot.get(),
            seq,
        })
    }

    /// Ends a handed waiter's state, before its cell is freed: it is back, or has left, or is dead.
    pub(crate) fn end_handed(&self, kind: Kind, index: u32) -> Result<(), Error> {
        self.count_handed(kind, self.cell(index)?, false);
        Ok(())
    }

    /// Returns what a getter was handed that gives up.
    pub(crate) fn return_handed_by(&mut self, index: u32) -> Result<(), Error> {
        match self.handed_by(index)? {
            Some((slot, _)) => self.return_handed(slot),
            None => Ok(()),
        }
    }

    /// HANDED -> READY in its old place. No caller has seen the item, so this is no redelivery. If the queue
    /// is closed, the item is discarded.
    pub(crate) fn return_handed(&mut self, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        let (word, len) = (slot.word(), slot.len.get());
        self.let_go(index, word.owner())?;
        let is_done = word.state() == Some(State::HandedDone);
        if self.hot().is_closed() {
            let item = if is_done {
                Discarded::Finished
            } else {
                Discarded::Unfinished
            };
            return self.discard_one(index, item);
        }
        if is_done {
            slot.commit(StateWord::unowned_with(State::ReadyDone, word.past()));
            fault!("hand.returned");
            self.put_back_done(index, len)?;
            self.hot().ready_done.add(1);
        } else {
            slot.commit(StateWord::unowned_with(State::Ready, word.past()));
            fault!("hand.returned");
            self.put_back(index, len)?;
        }
        Ok(())
    }

    /// Wakes a portion of the handed waiters that are late, and notes the participants of some late getters:
    /// the item goes back if such a participant is stopped, or now if its getter has left or is late for
    /// `LOST_AFTER`.
    pub(crate) fn wake_the_handed(&mut self, check: &mut LateCheck) -> Result<Portion, Error> {
        self.for_late(check, |section, check, index, time| {
            let cell = section.cell(index)?;
            if cell.kind.get() == Kind::Room as u32 {
                section.end_handed(Kind::Room, index)?;
                cell.number.set(0);
                section.wake_later(index);
            } else if time >= LOST_AFTER {
                section.take_back(index)?;
            } else {
                // Its wake-up may have been lost with its waker.
                section.wake_later(index);
                check.note(ParticipantId(cell.owner.get()));
            }
            Ok(true)
        })
    }

    /// Takes a portion of the items back that late getters of these participants were handed. The end of the
    /// section hands these to the next.
    pub(crate) fn take_back_from(&mut self, check: &mut LateCheck) -> Result<Portion, Error> {
        self.for_late(check, |section, check, index, _| {
            let cell = section.cell(index)?;
            let is_theirs =
                check.has(ParticipantId(cell.owner.get())) && cell.kind.get() == Kind::Item as u32;
            if is_theirs {
                section.take_back(index)?;
            }
            Ok(is_theirs)
        })
    }

    /// Calls `mend` with late waiters, and how late they are, until it has been true for a portion of them.
    fn for_late(
        &mut self,
        check: &mut LateCheck,
        mend: impl Fn(&mut Self, &mut LateCheck, u32, u64) -> Result<bool, Error>,
    ) -> Result<Portion, Error> {
        let mut left = LATE_IN_A_SECTION;
        while check.from
            < self
                .hot()
                .cells_high
                .get()
                .min(self.shared.segment.geometry.cells)
        {
            if left == 0 {
                return Ok(Portion::MoreToCome);
            }
            let index = check.from;
            check.from += 1;
            if let Some(time) = Self::late_for(self.cell(index)?) {
                left -= usize::from(mend(self, check, index, time)?);
            }
        }
        Ok(Portion::Last)
    }

    /// How long ago a late waiter was handed something, in milliseconds. `None` if it is not late. A getter
    /// that has left is late in any case, and does not come back.
    fn late_for(cell: &WaiterCell) -> Option<u64> {
        let word = cell.word.get();
        if word == HANDED_LEFT && cell.kind.get() == Kind::Item as u32 {
            return Some(u64::MAX);
        }
        // Wraps, so that the clock of another namespace makes a waiter late too early, and not never.
        let time = platform::coarse_millis().wrapping_sub(cell.handed_at.get());
        let is_handed = matches!(word, HANDED | HANDED_LEFT) && cell.number.get() != 0;
        Some(time).filter(|time| is_handed && *time >= LATE_AFTER)
    }

    /// HANDED -> LATE, and its item returns.
    fn take_back(&mut self, index: u32) -> Result<(), Error> {
        self.return_handed_by(index)?;
        self.end_handed(Kind::Item, index)?;
        let late =
            self.cell(index)?
                .word
                .compare_exchange(HANDED, LATE, Ordering::Relaxed, Ordering::Relaxed);
        fault!("hand.late");
        if late == Err(HANDED_LEFT) {
            return self.free_cell(index);
        }
        self.wake_later(index);
        Ok(())
    }

    /// Rebuild: what a HANDED cell says, compared with the slot that it names. If the slot was not handed
    /// over, the waiter sleeps on.
    pub(crate) fn rebuild_handed(&mut self, kind: Kind, index: u32) -> Result<(), Error> {
        let cell = self.cell(index)?;
        let is_handed = match kind {
            Kind::Item => self.handed_by(index)?.is_some(),
            _ => self.rebuild_place(cell)?,
        };
        if !is_handed {
            // The getter may leave its cell meanwhile, without the lock.
            return match cell
                .word
                .compare_exchange(HANDED, SLEEPING, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => self.list_cell(kind, index),
                Err(_) => self.free_cell(index),
            };
        }
        self.count_handed(kind, cell, true);
        // The wake-up may have been lost with the dead holder.
        self.wake_later(index);
        Ok(())
    }

    /// Whether the item of a HANDED putter was published. The dead holder may not have stored its number.
    fn rebuild_place(&self, cell: &WaiterCell) -> Result<bool, Error> {
        if cell.seq.get() != 0 {
            return Ok(true);
        }
        let slot = self.slot(cell.slot.get())?;
        let (word, number) = (slot.word(), cell.number.get());
        if word.state() == Some(State::Claimed) && slot.lease.get() == number {
            return Ok(false);
        }
        // It was published in the section in which the holder died, so its slot was not used again.
        cell.seq.store(slot.seq.get(), Ordering::Release);
        Ok(true)
    }
}
