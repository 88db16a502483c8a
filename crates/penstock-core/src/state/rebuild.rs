//! Rebuild: every cache computed anew from the truth, after a participant died in the critical section.
//!
//! Lists, counters and the heap's marks may be half changed. The new holder of the lock clears them, reads
//! each slot's state once, and links the slots anew. The rebuild only ever stores what the slots' states say,
//! so it can be run again from the start by any participant.

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{Hot, List, Slot};
use crate::memory::payload::Extent;
use crate::state::Section;
use crate::state::aside::unfinished_without_slot;
use crate::state::list::clear;
use crate::state::slot::{State, StateWord, lent_bytes, lessee};
use crate::state::sort::Order;
use crate::sync::{Count, Ordering, Word};

/// What the rebuild counts. Each number is stored once, at the end: an unlocked reader sees the old number or
/// the new one, none in between.
#[derive(Default)]
struct Books {
    ready_count: u64,
    ready_bytes: u64,
    unfinished: u64,
    dead_count: u64,
    owned_count: u64,
    used_bytes: u64,
    lent_bytes: u64,
    taken_bytes: u64,
    ready_done: u64,
    delayed: u64,
}

impl Books {
    fn enter_into(&self, hot: &Hot) {
        // Release: pairs with the acquire in Shared::ready_count.
        hot.ready_count.store(self.ready_count, Ordering::Release);
        hot.ready_bytes.set(self.ready_bytes);
        hot.unfinished.set(self.unfinished);
        hot.dead_count.set(self.dead_count);
        hot.owned_count.set(self.owned_count);
        hot.used_bytes.set(self.used_bytes);
        hot.lent_bytes.set(self.lent_bytes);
        hot.taken_bytes.set(self.taken_bytes);
        hot.ready_done.set(self.ready_done);
        hot.high_water.set(hot.high_water.get().max(self.ready_count));
    }
}

impl Section<'_> {
    /// Computes every cache anew from the truth. Under the lock, after a take-over.
    pub(crate) fn rebuild(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        self.clear_caches()?;
        fault!("rebuild.cleared");

        self.clear_pages()?;
        let high = hot.slots_high.get();
        if high == 0 || high > self.slots_backed()? {
            return Err(self.corrupt("more slots are used than are backed"));
        }
        let mut books = Books::default();
        let mut notes = 0;
        let held = &self.shared.segment.participant(self.my_index())?.leased;
        // Downwards, so that low slots are handed out first, and the lists come out nearly sorted.
        for index in (1..high).rev() {
            if !self.is_present(index)? {
                continue; // FREE, and not to be touched
            }
            let slot = self.slot(index)?;
            let word = slot.word();
            let list = match word.state() {
                Some(State::Free) => {
                    slot.extent.set(0);
                    slot.next.set(hot.free.next.get());
                    hot.free.next.set(index);
                    continue;
                }
                Some(State::Ready | State::ReadyDone) => &hot.ready,
                // All held slots are gathered in one list first, and handed to their owners when sorted.
                Some(
                    State::Leased
                    | State::Aside
                    | State::Left
                    | State::Claimed
                    | State::Handed
                    | State::HandedDone,
                ) => held,
                Some(State::Dead) => &hot.dead,
                Some(State::Delayed) => &hot.delayed,
                Some(State::Note) => {
                    slot.next.set(notes);
                    notes = index;
                    self.book(slot, word, &mut books)?;
                    continue;
                }
                // Its payload is free, and so is the slot once it is counted.
                Some(State::Orphan | State::GivenUp | State::Discarded) => {
                    self.finish_counting(slot)?;
                    slot.extent.set(0);
                    slot.next.set(hot.free.next.get());
                    hot.free.next.set(index);
                    continue;
                }
                None => return Err(self.corrupt("a slot is in no known state")),
            };
            slot.next.set(list.head.get());
            list.head.set(index);
            self.book(slot, word, &mut books)?;
        }
        fault!("rebuild.scanned");

        self.relist_spans()?;
        let numbered = self.number_pages()?;
        fault!("rebuild.numbered");
        self.rebuild_order(books.ready_count, numbered)?;
        self.sort(
            &hot.dead,
            &Order {
                length: books.dead_count,
                numbered,
                greatest: hot.leases.get(),
                belongs: |word: StateWord| word.state() == Some(State::Dead),
                key: |slot: &Slot| slot.lease.get(),
            },
        )?;
        self.sort(
            held,
            &Order {
                length: books.owned_count,
                numbered,
                greatest: hot.leases.get(),
                belongs: StateWord::is_held,
                key: |slot: &Slot| slot.lease.get(),
            },
        )?;
        self.rebuild_delayed(books.delayed)?;
        self.unnumber_pages()?;
        // Only now, because to sort a list overwrites the links back of any.
        self.link_back(&hot.dead)?;
        self.hand_out_held(held)?;
        hot.given_up_of_living.set(0);
        for index in self.shared.participants() {
            hot.given_up_of_living
                .add(self.shared.segment.participant(index)?.given_up.get());
        }
        // A damaged counter may have any value.
        books.unfinished = books.unfinished.saturating_add(unfinished_without_slot(hot));
        self.rebuild_waiters()?;
        self.rebuild_notifier()?;
        self.rebuild_producers()?;
        books.enter_into(hot);
        self.rebuild_notes(notes)?;
        fault!("rebuild.done");
        Ok(())
    }

    fn clear_caches(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        for list in [&hot.dead, &hot.aside, &hot.delayed] {
            clear(list);
        }
        self.clear_order();
        for word in &hot.lessees {
            word.set(0);
        }
        for index in self.shared.participants() {
            let record = self.shared.segment.participant(index)?;
            clear(&record.leased);
            clear(&record.claimed);
        }
        for list in [&hot.free, &hot.cached] {
            list.next.set(0);
            list.freed.set(0);
        }
        hot.cached_sum.set(0);
        self.clear_heap()
    }

    /// Counts one slot that is not FREE, and marks its extent.
    fn book(&mut self, slot: &Slot, word: StateWord, books: &mut Books) -> Result<(), Error> {
        let hot = self.hot();
        let acknowledged = u64::from(self.shared.options.acknowledged);
        let (_, len) = self.shared.segment.payload(slot)?;
        let len = len as u64;
        if let Some(extent) = Extent::unpack(slot.extent.get()) {
            self.mark_extent(extent)?;
            if len > 0 {
                books.used_bytes += extent.bytes();
            }
        }
        match word.state() {
            Some(state @ (State::Ready | State::ReadyDone)) => {
                books.ready_count += 1;
                books.ready_bytes += len;
                if state == State::Ready {
                    books.unfinished += acknowledged;
                } else {
                    books.ready_done += 1;
                }
                let seq = slot.seq.get();
                self.book_published(seq, len);
            }
            Some(State::Delayed) => {
                books.delayed += 1;
                books.owned_count += 1;
                books.unfinished += acknowledged;
                self.book_published(slot.seq.get(), len);
            }
            Some(State::Leased | State::Aside | State::Left) => {
                books.owned_count += 1;
                books.unfinished += acknowledged;
                books.taken_bytes += slot.extent_bytes();
            }
            Some(State::Handed) => {
                books.owned_count += 1;
                books.unfinished += acknowledged;
            }
            Some(State::HandedDone) => books.owned_count += 1,
            Some(State::Claimed) => {
                books.owned_count += 1;
                self.mark_claim(slot)?;
            }
            Some(State::Dead) => {
                books.dead_count += 1;
                hot.leases.set(hot.leases.get().max(slot.lease.get()));
            }
            Some(State::Free | State::Orphan | State::GivenUp | State::Discarded | State::Note) | None => {}
        }
        if word.is_held() {
            books.lent_bytes += lent_bytes(slot);
            hot.leases.set(hot.leases.get().max(slot.lease.get()));
        }
        Ok(())
    }

    /// Its putter may have died between the commit and the books.
    fn book_published(&self, seq: u64, len: u64) {
        let hot = self.hot();
        if seq >= hot.published.get() {
            hot.published.set(seq);
            hot.count_bytes_once(seq, len);
        }
    }

    /// Gives each held slot to the list of its owner, in the order of taking.
    fn hand_out_held(&mut self, gathered: &List) -> Result<(), Error> {
        let mut index = gathered.head.get();
        clear(gathered);
        let mut walk = self.walk();
        while index != 0 {
            self.step(&mut walk)?;
            let slot = self.slot(index)?;
            let next = slot.next.get();
            let word = slot.word();
            if word.owner().is_none() && word.state() == Some(State::Aside) {
                self.push_back(&self.hot().aside, index)?;
            } else {
                let Some(holder) = self.shared.participant_of(word.owner())? else {
                    return Err(self.corrupt("a slot's owner is no participant"));
                };
                self.push_back(self.list_of_holder(holder, index)?, index)?;
                if word.is_lease() {
                    let (lessees, bit) = lessee(self.hot(), word.owner().index());
                    lessees.set(lessees.get() | bit);
                }
            }
            index = next;
        }
        Ok(())
    }
}
