//! Rebuild: every cache computed anew from the truth, after a participant died in the critical section.
//!
//! Lists, counters and the heap's marks may be half changed. The new holder of the lock clears them, reads each slot's state
//! once, and links the slots anew. The rebuild only ever stores what the slots' states say, so it can be run again from
//! the start by any participant.
//!
//! The slots of a list are ordered without comparisons where their keys allow it, because a million items lie in memory in any
//! order and each comparison would miss the cache. Places in the order of publication are distinct, and those of queued items
//! mostly lie within the last as many as there are slots. So they serve as indices: each slot's `prev` holds, for a moment,
//! the slot whose key belongs to that index (`scatter`), and one walk over the indices links the list (`gather`).

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{Hot, List, PARTICIPANTS, Slot, index_of};
use crate::memory::segment::Extent;
use crate::operations::aside::unfinished_without_slot;
use crate::state::Section;
use crate::state::slot::{State, StateWord, lent_bytes, lessee};
use crate::sync::{Count, Ordering, Word};

/// What the rebuild counts. It is stored at the end, all at once: who looks without the lock sees the old number or the
/// new one, none in between.
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
}

impl Books {
    fn enter_into(&self, hot: &Hot) {
        // Release: pairs with the acquire in Queue::ready_count.
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

/// What a list is sorted by.
struct Order<B: Fn(StateWord) -> bool, K: Fn(&Slot) -> u64> {
    /// How many slots the list has, or 0 if it is known to be short.
    length: u64,
    /// The greatest key that a slot can have.
    greatest: u64,
    /// Whether a slot in that state is on the list.
    belongs: B,
    /// Distinct for the slots of the list.
    key: K,
}

/// The greatest keys that a slot can have, as many as there are slots in use, and the slot whose index stands for each.
#[derive(Clone, Copy)]
struct Window {
    /// The key of place 0, which stands for none.
    base: u64,
    /// Places are below it.
    places: u32,
}

impl Window {
    const EMPTY: Window = Window { base: 0, places: 0 };

    fn of(greatest: u64, places: u32) -> Window {
        let base = (greatest.saturating_add(1)).saturating_sub(u64::from(places));
        Window { base, places }
    }

    fn place_of(self, key: u64) -> Option<u32> {
        let place = key.checked_sub(self.base)?;
        (1..u64::from(self.places))
            .contains(&place)
            .then_some(place as u32)
    }

    fn key_at(self, place: u32) -> u64 {
        self.base + u64::from(place)
    }
}

impl Section<'_> {
    /// Computes every cache anew from the truth. Under the lock, after a take-over.
    pub(crate) fn rebuild(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        self.clear_caches()?;
        fault!("rebuild.cleared");

        let high = hot.slots_high.get();
        if high == 0 || high > self.slots_backed()? {
            return Err(self.corrupt("more slots are used than are backed"));
        }
        let mut books = Books::default();
        let held = &self.shared.segment.participant(self.my_index())?.leased;
        // Downwards, so that low slots are handed out first, and the lists come out nearly sorted.
        for index in (1..high).rev() {
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
                Some(State::Leased | State::Aside | State::Left | State::Claimed) => held,
                Some(State::Dead) => &hot.dead,
                // Its payload is free, and so is the slot once it is counted.
                Some(State::Orphan | State::GivenUp) => {
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
        let published = hot.published.get();
        let by_publication = |slot: &Slot| slot.seq.get();
        self.sort(
            &hot.ready,
            &Order {
                length: books.ready_count,
                greatest: published,
                belongs: StateWord::is_ready,
                key: by_publication,
            },
        )?;
        self.sort(
            &hot.dead,
            &Order {
                length: 0,
                greatest: published,
                belongs: |word: StateWord| word.state() == Some(State::Dead),
                key: by_publication,
            },
        )?;
        self.sort(
            held,
            &Order {
                length: books.owned_count,
                greatest: hot.leases.get(),
                belongs: StateWord::is_held,
                key: |slot: &Slot| slot.lease.get(),
            },
        )?;
        // Only now, because to sort a list overwrites the links back of any.
        self.link_back(&hot.dead)?;
        self.hand_out_held(held)?;
        hot.given_up_of_living.set(0);
        for index in self.shared.participants() {
            hot.given_up_of_living
                .add(self.shared.segment.participant(index)?.given_up.get());
        }
        books.unfinished += unfinished_without_slot(hot);
        self.rebuild_waiters()?;
        self.rebuild_bell()?;
        books.enter_into(hot);
        fault!("rebuild.done");
        Ok(())
    }

    fn clear_caches(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        for list in [&hot.ready, &hot.dead, &hot.aside] {
            clear(list);
        }
        hot.returned.set(0);
        hot.marked_slot.set(0);
        for word in &hot.lessees {
            word.set(0);
        }
        for index in 1..=hot.participants_high.get().min(PARTICIPANTS - 1) {
            let record = self.shared.segment.participant(index)?;
            clear(&record.leased);
            clear(&record.claimed);
        }
        for list in [&hot.free, &hot.kept] {
            list.next.set(0);
            list.freed.set(0);
        }
        hot.kept_sum.set(0);
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
                if seq >= hot.published.get() {
                    // Its putter may have died between the commit and the books.
                    hot.published.set(seq);
                    hot.count_bytes(seq, len);
                }
            }
            Some(State::Leased | State::Aside | State::Left) => {
                books.owned_count += 1;
                books.unfinished += acknowledged;
                books.taken_bytes += slot.extent_bytes();
            }
            Some(State::Claimed) => books.owned_count += 1,
            Some(State::Dead) => books.dead_count += 1,
            Some(State::Free | State::Orphan | State::GivenUp) | None => {}
        }
        if word.is_held() {
            books.lent_bytes += lent_bytes(slot);
            hot.leases.set(hot.leases.get().max(slot.lease.get()));
        }
        Ok(())
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
            if word.owner() == 0 && word.state() == Some(State::Aside) {
                self.push_back(&self.hot().aside, index)?;
            } else {
                let Some(holder) = self.shared.participant_named(word.owner())? else {
                    return Err(self.corrupt("a slot is held by nobody"));
                };
                self.push_back(self.list_of_holder(holder, index)?, index)?;
                if word.is_lease() {
                    let (lessees, bit) = lessee(self.hot(), index_of(word.owner()));
                    lessees.set(lessees.get() | bit);
                }
            }
            index = next;
        }
        Ok(())
    }

    /// Sorts a list that is linked forwards only, and notes its end.
    fn sort(
        &mut self,
        list: &List,
        order: &Order<impl Fn(StateWord) -> bool, impl Fn(&Slot) -> u64>,
    ) -> Result<(), Error> {
        let slots = self.hot().slots_high.get();
        // A walk over all indices pays only for a list that is not short.
        let window = if order.length > u64::from(slots) / 8 {
            Window::of(order.greatest, slots)
        } else {
            Window::EMPTY
        };
        let (outside, scattered) = self.scatter(list.head.get(), window, order)?;
        let outside = self.sort_by_merging(outside, &order.key)?;
        list.head.set(outside);
        let tail = self.last(outside)?;
        self.gather(list, tail, window, scattered, order)
    }

    /// Writes each slot whose key lies in the window to the `prev` of the slot that its key names. Returns the list of the others,
    /// and how many were written.
    fn scatter(
        &self,
        mut index: u32,
        window: Window,
        order: &Order<impl Fn(StateWord) -> bool, impl Fn(&Slot) -> u64>,
    ) -> Result<(u32, u32), Error> {
        let (mut outside, mut last, mut scattered) = (0, 0, 0);
        let mut walk = self.walk();
        while index != 0 {
            self.step(&mut walk)?;
            let slot = self.slot(index)?;
            let next = slot.next.get();
            if let Some(place) = window.place_of((order.key)(slot)) {
                self.slot(place)?.prev.set(index);
                scattered += 1;
            } else {
                match last {
                    0 => outside = index,
                    last => self.slot(last)?.next.set(index),
                }
                slot.next.set(0);
                last = index;
            }
            index = next;
        }
        Ok((outside, scattered))
    }

    /// Appends the slots that [`scatter`](Self::scatter) has written, by ascending keys, behind `tail`. What else stands in a
    /// slot's `prev` names no slot of this list with this key.
    fn gather(
        &self,
        list: &List,
        mut tail: u32,
        window: Window,
        scattered: u32,
        order: &Order<impl Fn(StateWord) -> bool, impl Fn(&Slot) -> u64>,
    ) -> Result<(), Error> {
        let mut left = scattered;
        let mut place = 1;
        while left > 0 && place < window.places {
            let index = self.slot(place)?.prev.get();
            if (1..window.places).contains(&index) {
                let slot = self.slot(index)?;
                if (order.belongs)(slot.word()) && (order.key)(slot) == window.key_at(place) {
                    match tail {
                        0 => list.head.set(index),
                        tail => self.slot(tail)?.next.set(index),
                    }
                    tail = index;
                    left -= 1;
                }
            }
            place += 1;
        }
        if left > 0 {
            return Err(self.corrupt("two slots have the same place in an order"));
        }
        if tail != 0 {
            self.slot(tail)?.next.set(0);
        }
        list.tail.set(tail);
        Ok(())
    }

    /// The last slot of a list.
    fn last(&self, mut index: u32) -> Result<u32, Error> {
        let mut last = 0;
        let mut walk = self.walk();
        while index != 0 {
            self.step(&mut walk)?;
            last = index;
            index = self.slot(index)?.next.get();
        }
        Ok(last)
    }

    /// Links a list backwards that is linked forwards.
    fn link_back(&self, list: &List) -> Result<(), Error> {
        let (mut prev, mut index) = (0, list.head.get());
        let mut walk = self.walk();
        while index != 0 {
            self.step(&mut walk)?;
            let slot = self.slot(index)?;
            slot.prev.set(prev);
            (prev, index) = (index, slot.next.get());
        }
        Ok(())
    }

    /// A bottom-up merge sort of a list that is linked forwards only; returns its head. It needs no memory but a few words of stack,
    /// and little time where the list is in order already.
    fn sort_by_merging(&self, mut rest: u32, key: &impl Fn(&Slot) -> u64) -> Result<u32, Error> {
        let mut runs = [0u32; 32];
        let mut walk = self.walk();
        while rest != 0 {
            // One ascending run.
            self.step(&mut walk)?;
            let mut run = rest;
            let mut last = rest;
            rest = self.slot(rest)?.next.get();
            while rest != 0 && key(self.slot(rest)?) >= key(self.slot(last)?) {
                self.step(&mut walk)?;
                last = rest;
                rest = self.slot(rest)?.next.get();
            }
            self.slot(last)?.next.set(0);
            // runs[i] is empty or the merge of 2^i runs, as in a binary counter.
            for (i, place) in runs.iter_mut().enumerate() {
                if *place == 0 || i == 31 {
                    *place = if *place == 0 {
                        run
                    } else {
                        self.merge(*place, run, key)?
                    };
                    break;
                }
                run = self.merge(*place, run, key)?;
                *place = 0;
            }
        }
        let mut all = 0;
        for run in runs {
            all = match (all, run) {
                (0, run) => run,
                (all, 0) => all,
                (all, run) => self.merge(run, all, key)?,
            };
        }
        Ok(all)
    }

    fn merge(&self, mut a: u32, mut b: u32, key: &impl Fn(&Slot) -> u64) -> Result<u32, Error> {
        let (mut head, mut last) = (0, 0);
        let mut walk = self.walk();
        while a != 0 || b != 0 {
            self.step(&mut walk)?;
            let takes_a = b == 0 || a != 0 && key(self.slot(a)?) <= key(self.slot(b)?);
            let side = if takes_a { &mut a } else { &mut b };
            let index = *side;
            *side = self.slot(index)?.next.get();
            if last == 0 {
                head = index
            } else {
                self.slot(last)?.next.set(index)
            }
            last = index;
        }
        Ok(head)
    }
}

fn clear(list: &List) {
    list.head.set(0);
    list.tail.set(0);
}
