//! The order in which items are delivered: that of their publication.
//!
//! The ready list has the items in that order. Items that came back lie in a heap beside it (heap.rs),
//! and a get takes the older of the two heads. Items at the front of the list may be finished already
//! (`Hot::marked_slot` says up to where), and are delivered as usual.

mod heap;

use crate::error::Error;
use crate::memory::layout::Slot;
use crate::memory::payload::Ahead;
use crate::state::Section;
use crate::state::list::clear;
use crate::state::slot::{State, StateWord};
use crate::state::sort::Order;
use crate::sync::{Count, Ordering, Word};

impl Section<'_> {
    /// Appends an item that has just become READY, and notes in the slot before it where its payload lies.
    #[inline(always)]
    pub(crate) fn push_ready(&mut self, (index, slot): (u32, &Slot), len: u64) -> Result<(), Error> {
        let list = &self.hot().ready;
        let end = match list.tail.get() {
            0 => &list.head,
            last => {
                let last = self.slot(last)?;
                last.prev.set(slot.extent.get() as u32);
                &last.next
            }
        };
        if end.get() != 0 {
            return Err(self.corrupt("the last slot of a list has a successor"));
        }
        slot.next.set(0);
        end.set(index);
        list.tail.set(index);
        self.count_ready(len);
        Ok(())
    }

    /// Puts an item back in its old place that has just become READY again. The slot is on no list.
    pub(crate) fn put_back(&mut self, index: u32, len: u64) -> Result<(), Error> {
        self.insert_returned(index)?;
        self.count_ready(len);
        Ok(())
    }

    /// The same of an item that is finished already: these stay at the front of the ready list.
    pub(crate) fn put_back_done(&mut self, index: u32, len: u64) -> Result<(), Error> {
        self.insert_marked(index)?;
        self.count_ready(len);
        Ok(())
    }

    /// Takes the first slot off the ready list. The slot behind it is not touched: a putter may be at work
    /// there.
    #[inline(always)]
    fn unlink_ready(&mut self, (index, slot): (u32, &Slot)) -> Result<(), Error> {
        let list = &self.hot().ready;
        let (next, last) = (slot.next.get(), list.tail.get());
        if list.head.get() != index || (last == index) != (next == 0) {
            return Err(self.corrupt("a list of slots is torn"));
        }
        list.head.set(next);
        if next == 0 {
            list.tail.set(0);
            return Ok(());
        }
        self.ahead = Ahead::to_read(slot.prev.get(), slot.len.get());
        if next != last {
            // The next get's slot; but not the last slot, to which a put will link its own.
            self.shared.segment.prefetch_slot(next);
        }
        Ok(())
    }

    /// Books an item that has just become READY.
    #[inline(always)]
    fn count_ready(&mut self, len: u64) {
        let hot = self.hot();
        let ready = hot.ready_count.get().wrapping_add(1);
        // Release: pairs with the acquire in Shared::ready_count.
        hot.ready_count.store(ready, Ordering::Release);
        if self.shared.options.soft_bytes != 0 {
            hot.ready_bytes.add(len);
        }
        if ready > hot.high_water.get() {
            hot.high_water.set(ready);
        }
    }

    /// Takes an item out of the order that is about to be READY no more: the oldest one.
    #[inline(always)]
    pub(crate) fn pop_ready(&mut self, (index, slot): (u32, &Slot), len: u64) -> Result<(), Error> {
        let hot = self.hot();
        if index == hot.returned.get() {
            self.pop_returned()?;
        } else {
            self.unlink_ready((index, slot))?;
        }
        hot.ready_count
            .store(hot.ready_count.get().saturating_sub(1), Ordering::Release);
        if self.shared.options.soft_bytes != 0 {
            hot.ready_bytes.sub(len);
        }
        Ok(())
    }

    /// The slot of the oldest item that a get would find, or 0.
    #[inline(always)]
    pub(crate) fn oldest(&self) -> Result<u32, Error> {
        let hot = self.hot();
        if hot.returned.get() == 0 {
            return Ok(hot.ready.head.get());
        }
        self.older_of_returned_and_ready()
    }

    #[cold]
    fn older_of_returned_and_ready(&self) -> Result<u32, Error> {
        let hot = self.hot();
        let (returned, ready) = (hot.returned.get(), hot.ready.head.get());
        let is_returned = ready == 0 || self.slot(returned)?.seq.get() < self.slot(ready)?.seq.get();
        Ok(if is_returned { returned } else { ready })
    }

    /// There is no room, so there are items: no putter may wait for room in a queue that no get can empty.
    pub(crate) fn check_full(&self) -> Result<(), Error> {
        if self.oldest()? == 0 {
            return Err(self.corrupt("the queue is full but has no item"));
        }
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

    pub(crate) fn first_unmarked(&self) -> Result<u32, Error> {
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

    /// Inserts a slot that is on no list into the ready list, in its place in the order of publication, which
    /// mostly is right behind the item that was finished last.
    pub(crate) fn insert_marked(&self, index: u32) -> Result<(), Error> {
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

    // ---------------------------------------------------------------------------------------------- rebuild

    pub(crate) fn clear_order(&self) {
        let hot = self.hot();
        clear(&hot.ready);
        hot.returned.set(0);
        hot.marked_slot.set(0);
    }

    /// Sorts the slots that are READY, and gathered in the ready list in any order.
    /// `numbered` slots have memory (state/pages.rs).
    pub(crate) fn rebuild_order(&mut self, ready_count: u64, numbered: u32) -> Result<(), Error> {
        let hot = self.hot();
        self.sort(
            &hot.ready,
            &Order {
                length: ready_count,
                numbered,
                greatest: hot.published.get(),
                belongs: StateWord::is_ready,
                key: |slot: &Slot| slot.seq.get(),
            },
        )
    }
}
