//! Slots, their lists and counters, and the participants that hold them.

use super::{Inspection, Use, is_clear};
use crate::memory::layout::*;
use crate::memory::payload::Extent;
use crate::state::aside::unfinished_without_slot;
use crate::state::heap::extent_for;
use crate::state::participant::id_of;
use crate::state::slot::{BORROWED, CACHED_MOST, ENDED, State, StateWord, lent_bytes, lessee};
use crate::sync::Word;
use crate::units::SMALL;

/// What the slots add up to.
#[derive(Default)]
struct Sums {
    ready_bytes: u64,
    unfinished: u64,
    used_bytes: u64,
    kept_bytes: u64,
    kept: u64,
    lent_bytes: u64,
    taken_bytes: u64,
    ready_done: u64,
    /// Payload bytes of items that exist.
    bytes: u64,
}

impl Inspection<'_> {
    pub(super) fn inspect_slots(&mut self) {
        let hot = self.hot();
        let high = self.slots_high();
        self.at_least("slots_high", u64::from(hot.slots_high.get()), 1);
        self.at_most("slots_high", u64::from(hot.slots_high.get()), u64::from(high));
        let capacity = u64::from(self.segment().slots_end());
        self.at_most("slots_backed", u64::from(hot.slots_backed.get()), capacity);

        self.walk_free_list("free list", hot.free.next.get(), false);
        self.walk_free_list("list of the freed", hot.free.freed.get(), false);
        self.walk_free_list("list of the kept", hot.cached.next.get(), true);
        self.walk_free_list("list of the freed that are kept", hot.cached.freed.get(), true);
        self.walk("ready list", None, &hot.ready, StateWord::is_ready, |slot| {
            slot.seq.get()
        });
        self.walk_heaps();
        let is_dead = |word: StateWord| word.state() == Some(State::Dead);
        self.walk("list of dead letters", None, &hot.dead, is_dead, |slot| {
            slot.lease.get()
        });
        // In the order in which the sweeps left them.
        let is_aside = |word: StateWord| word.state() == Some(State::Aside) && word.owner().is_none();
        self.walk(
            "list of what dead holders set aside",
            None,
            &hot.aside,
            is_aside,
            |_| 0,
        );
        self.inspect_participants();
        self.inspect_pages();
        self.inspect_notes();

        let mut sums = Sums::default();
        for index in 1..high {
            if !self.is_present(index) {
                self.found.free += 1;
            } else if let Ok(slot) = self.segment().slot(index) {
                self.inspect_slot(index, slot, &mut sums);
            }
        }
        self.compare_claimed_pages();
        self.compare_counters(&sums);
        self.compare_numbers(
            "slots",
            "two items have the same place in the order",
            |slot, state| {
                (!matches!(state, State::Free | State::Claimed | State::Note)).then(|| slot.seq.get())
            },
        );
        self.compare_numbers("slots", "two leases have the same number", |slot, state| {
            let is_free = matches!(
                state,
                State::Free
                    | State::Ready
                    | State::ReadyDone
                    | State::Orphan
                    | State::GivenUp
                    | State::Discarded
                    | State::Delayed
                    | State::Note
            );
            (!is_free).then(|| slot.lease.get())
        });
        for index in high..hot.slots_backed.get().min(self.segment().slots_end()) {
            let is_there = self.is_present(index);
            if is_there && self.segment().slot(index).is_ok_and(|slot| slot.state.get() != 0) {
                self.finding("slot", Some(index), "it was never used but is not free");
            }
        }
    }

    fn slots_high(&self) -> u32 {
        self.sizes().0 as u32
    }

    // ------------------------------------------------------------------------------------------------ lists

    /// Notes that a slot was found on a list. False if the walk must end here.
    pub(super) fn list_slot(&mut self, list: &'static str, owner: Option<u32>, index: u32) -> bool {
        if index >= self.slots_high() {
            self.finding_in_numbers(
                list,
                owner,
                "it leads out of the slots",
                u64::from(index),
                u64::from(self.slots_high()),
            );
            return false;
        }
        if !self.is_present(index) {
            self.finding("slot", Some(index), "it is on a list but has no memory");
            return false;
        }
        if core::mem::replace(&mut self.is_listed[index as usize], true) {
            self.finding("slot", Some(index), "it is on two lists, or twice on one");
            return false;
        }
        true
    }

    fn walk_free_list(&mut self, name: &'static str, mut index: u32, keeps_extents: bool) {
        while index != 0 && self.list_slot(name, None, index) {
            let Ok(slot) = self.segment().slot(index) else {
                return;
            };
            if slot.word().state() != Some(State::Free) {
                self.finding("slot", Some(index), "it is on a free list but not free");
            } else if (slot.extent.get() != 0) != keeps_extents {
                self.finding(
                    "slot",
                    Some(index),
                    "it keeps memory and should not, or the reverse",
                );
            }
            index = slot.next.get();
        }
    }

    /// Walks a list. Its slots must be in the right states, linked both ways unless it is the ready list, and
    /// their keys must ascend unless they are all 0.
    fn walk(
        &mut self,
        name: &'static str,
        owner: Option<u32>,
        list: &List,
        belongs: impl Fn(StateWord) -> bool,
        key: impl Fn(&Slot) -> u64,
    ) {
        let (mut prev, mut index) = (0, list.head.get());
        let mut last_key = 0;
        let is_linked_back = !core::ptr::eq(list, &self.hot().ready);
        while index != 0 {
            if !self.list_slot(name, owner, index) {
                return;
            }
            let Ok(slot) = self.segment().slot(index) else {
                return;
            };
            if !belongs(slot.word()) {
                self.finding("slot", Some(index), "it is on a list that is not its state's");
            }
            if is_linked_back && slot.prev.get() != prev {
                self.finding_in_numbers(
                    "slot",
                    Some(index),
                    "the link back is wrong",
                    u64::from(slot.prev.get()),
                    u64::from(prev),
                );
            }
            let key = key(slot);
            if key != 0 && key <= last_key {
                self.finding_in_numbers(name, owner, "the order is wrong", key, last_key + 1);
            }
            last_key = key;
            (prev, index) = (index, slot.next.get());
        }
        if list.tail.get() != prev {
            let tail = u64::from(list.tail.get());
            self.finding_in_numbers(name, owner, "its end is wrong", tail, u64::from(prev));
        }
    }

    fn walk_heaps(&mut self) {
        let (hot, high) = (self.hot(), self.slots_high());
        let place = |slot: &Slot| slot.seq.get();
        self.walk_heap(
            "heap of returned items",
            hot.returned.get(),
            StateWord::is_ready,
            place,
        );
        let is_delayed = |word: StateWord| word.state() == Some(State::Delayed);
        // Several may be due at once.
        let time = |slot: &Slot| slot.lease.get();
        self.walk_heap("heap of delayed items", hot.delayed.head.get(), is_delayed, time);
        let first = match hot.delayed.head.get() {
            index if index == 0 || index >= high => 0,
            index => self.segment().slot(index).map_or(0, time),
        };
        self.compare("due_at", hot.due_at.get(), first);
        let keeps = u64::from(hot.timekeeper.get());
        self.at_most(
            "timekeeper",
            keeps,
            if first == 0 {
                0
            } else {
                u64::from(hot.cells_high.get())
            },
        );
    }

    /// Walks a heap: no item comes before its parent, and each rank is right.
    fn walk_heap(
        &mut self,
        name: &'static str,
        root: u32,
        belongs: impl Fn(StateWord) -> bool,
        key: impl Fn(&Slot) -> u64,
    ) {
        self.subtrees.clear();
        self.subtrees.push((root, 0));
        while let Some((index, parent)) = self.subtrees.pop() {
            if index == 0 {
                continue;
            }
            if !self.list_slot(name, None, index) {
                return;
            }
            let Ok(slot) = self.segment().slot(index) else {
                return;
            };
            if !belongs(slot.word()) {
                self.finding("slot", Some(index), "it is on a list that is not its state's");
            }
            let key_of = |index: u32| self.segment().slot(index).map_or(0, &key);
            if parent != 0 && key_of(parent) > key_of(index) {
                self.finding_in_numbers(
                    name,
                    Some(index),
                    "the order is wrong",
                    key_of(parent),
                    key_of(index),
                );
            }
            let rank_of = |index: u32| match index {
                0 => 0,
                index => self.segment().slot(index).map_or(0, |slot| slot.holder.get()),
            };
            let [first, second] = slot.subtrees();
            if rank_of(first) < rank_of(second) || rank_of(index) != rank_of(second).saturating_add(1) {
                self.finding(name, Some(index), "its rank is wrong");
            }
            // Two for each slot that was taken off, and each of those was noted as listed; so they fit.
            for subtree in [first, second] {
                if subtree != 0 && self.subtrees.len() < self.subtrees.capacity() {
                    self.subtrees.push((subtree, index));
                }
            }
        }
    }

    fn is_note_of(&self, note: u32, item: u32, slot: &Slot) -> bool {
        note < self.slots_high()
            && self.is_present(note)
            && self.segment().slot(note).is_ok_and(|note| {
                note.word().state() == Some(State::Note)
                    && note.holder.get() == item
                    && note.seq.get() == slot.seq.get()
            })
    }

    /// Each note is of an item that names it.
    fn inspect_notes(&mut self) {
        for index in 1..self.slots_high() {
            let Some(slot) = self.is_present(index).then(|| self.segment().slot(index)) else {
                continue;
            };
            let Ok(slot) = slot else { return };
            if slot.word().state() != Some(State::Note) {
                continue;
            }
            let item = slot.holder.get();
            let is_there = (1..self.slots_high()).contains(&item) && self.is_present(item);
            let is_named = is_there
                && self.segment().slot(item).is_ok_and(|named| {
                    named.word().past().note() == index && named.seq.get() == slot.seq.get()
                });
            if !is_named {
                self.finding("slot", Some(index), "it is a note, and no item names it");
            }
            self.list_slot("notes", None, index);
        }
    }

    // ------------------------------------------------------------------------------------------ participants

    fn inspect_participants(&mut self) {
        let hot = self.hot();
        let high = hot.participants_high.get();
        self.at_most(
            "participants_high",
            u64::from(high),
            u64::from(self.shared.last_place()),
        );
        for index in 1..=high.min(self.shared.last_place()) {
            let Ok(record) = self.segment().participant(index) else {
                return;
            };
            let word = record.word.get();
            // Bits that have no meaning.
            if word & 0x3fc0_0000 != 0 {
                self.finding("participant", Some(index), "its word is impossible");
            }
            let Some(id) = id_of(index, word) else {
                if !is_clear(&record.leased) || !is_clear(&record.claimed) || record.given_up.get() != 0 {
                    self.finding("participant", Some(index), "it is free but holds something");
                }
                continue;
            };
            self.found.participants += 1;
            if word >> 32 == 0 {
                self.finding("participant", Some(index), "it has no pid");
            }
            let is_leased = |word: StateWord| word.is_lease() && word.owner() == id;
            let (lessees, bit) = lessee(hot, index);
            if record.leased.head.get() != 0 && lessees.get() & bit == 0 {
                self.finding(
                    "participant",
                    Some(index),
                    "it has leases and is not noted for them",
                );
            }
            self.given_up = self.given_up.saturating_add(record.given_up.get());
            self.walk("list of leases", Some(index), &record.leased, is_leased, |slot| {
                slot.lease.get()
            });
            let is_claimed = |word: StateWord| {
                (word.is_handed() || word.state() == Some(State::Claimed)) && word.owner() == id
            };
            // In the order of claiming, which is another than that of taking.
            self.walk("list of claims", Some(index), &record.claimed, is_claimed, |_| 0);
        }
    }

    /// Whether a participant id from a word is that of a record in use.
    pub(super) fn is_participant(&self, id: ParticipantId) -> bool {
        id.index() <= self.hot().participants_high.get()
            && self
                .shared
                .participant_of(id)
                .is_ok_and(|record| record.is_some())
    }

    // ---------------------------------------------------------------------------------------------- one slot

    fn inspect_slot(&mut self, index: u32, slot: &Slot, sums: &mut Sums) {
        let word = slot.word();
        let Some(state) = word.state() else {
            return self.finding("slot", Some(index), "it is in no known state");
        };
        if !self.is_listed[index as usize] {
            self.finding("slot", Some(index), "it is on no list");
        }
        let acknowledged = u64::from(self.shared.options.acknowledged);
        let is_disowned = state == State::Aside && word.owner().is_none();
        let is_owned = word.is_held() && !is_disowned;
        if state == State::Free && word != StateWord::FREE {
            self.finding("slot", Some(index), "its state has bits without a meaning");
        }
        let note = word.past().note();
        if note != 0 && !self.is_note_of(note, index, slot) {
            self.finding("slot", Some(index), "it names a note that is none of its own");
        }
        if is_owned && !self.is_participant(word.owner()) {
            self.finding("slot", Some(index), "its holder is no participant");
        }
        if !is_owned && !word.owner().is_none() {
            self.finding("slot", Some(index), "it names a holder in a state without one");
        }
        if word.redeliveries() > self.shared.options.max_deliveries {
            self.finding("slot", Some(index), "it was redelivered too often");
        }
        match state {
            State::Free => {
                self.found.free += 1;
                if let Some(extent) = Extent::unpack(slot.extent.get()) {
                    if extent.bytes() > SMALL as u64 {
                        self.finding("slot", Some(index), "it keeps more than a small payload needs");
                    }
                    sums.kept += 1;
                    sums.kept_bytes += extent.bytes();
                    sums.used_bytes += extent.bytes();
                    self.uses.push(Use {
                        extent,
                        slot: index,
                        backed: 0,
                    });
                }
                return;
            }
            State::Claimed => self.found.claimed += 1,
            State::Ready | State::ReadyDone => {
                self.found.ready += 1;
                sums.ready_bytes += slot.len.get();
                if state == State::Ready {
                    sums.unfinished += acknowledged;
                } else {
                    sums.ready_done += 1;
                }
            }
            State::Leased | State::Aside | State::Left => {
                self.found.leased += 1;
                sums.unfinished += acknowledged;
                sums.taken_bytes += slot.extent_bytes();
            }
            State::Handed | State::HandedDone => {
                self.found.leased += 1;
                self.handed += 1;
                if state == State::Handed {
                    sums.unfinished += acknowledged;
                }
                if slot.mark() != 0 {
                    self.finding("slot", Some(index), "it is handed and borrowed");
                }
            }
            State::Dead => self.found.dead += 1,
            State::Note => self.found.notes += 1,
            State::Delayed => {
                self.found.delayed += 1;
                sums.unfinished += acknowledged;
            }
            State::Orphan | State::GivenUp | State::Discarded => {
                self.finding(
                    "slot",
                    Some(index),
                    "its item is only counted, and the slot is not free",
                );
            }
        }
        if matches!(
            state,
            State::ReadyDone | State::HandedDone | State::Aside | State::Left
        ) && acknowledged == 0
        {
            self.finding("slot", Some(index), "its state needs an acknowledged queue");
        }
        if is_owned {
            sums.lent_bytes += lent_bytes(slot);
        }
        if word.is_lease() {
            let is_lent = (BORROWED..=ENDED).contains(&slot.mark()) && slot.len.get() > SMALL as u64;
            if !is_lent && (slot.mark() != 0 || acknowledged == 0 || state == State::Left) {
                self.finding("slot", Some(index), "it is leased but not as a get does it");
            }
            if slot.holder.get() == 0 {
                self.finding("slot", Some(index), "no thread holds it");
            }
        }
        let is_numbered = is_owned || state == State::Dead;
        if is_numbered && !(1..=self.hot().leases.get()).contains(&slot.lease.get()) {
            self.finding("slot", Some(index), "its lease has an impossible number");
        }
        if state != State::Claimed && !(1..=self.hot().published.get()).contains(&slot.seq.get()) {
            self.finding("slot", Some(index), "its place in the order is impossible");
        }
        self.inspect_payload(index, slot, state, sums);
    }

    fn inspect_payload(&mut self, index: u32, slot: &Slot, state: State, sums: &mut Sums) {
        let len = slot.len.get();
        let extent = Extent::unpack(slot.extent.get());
        let needed = extent_for(len);
        let fits = match extent {
            // Memory that is extended or given back: whole spans.
            Some(extent) if state == State::Claimed && len == 0 => {
                extent.granules > 0 && extent.granules % GRANULES_PER_SPAN == 0
            }
            Some(extent) => needed == Some(u64::from(extent.granules)),
            None if state == State::Claimed && len == 0 => self.claims_pages(index, slot),
            None => needed.is_none(),
        };
        if !fits {
            self.finding("slot", Some(index), "payload and extent do not fit each other");
        }
        if !matches!(state, State::Claimed | State::Note) {
            sums.bytes += len;
        }
        if let Some(extent) = extent {
            self.found.extents += 1;
            if len > 0 {
                sums.used_bytes += extent.bytes();
            }
            self.uses.push(Use {
                extent,
                slot: index,
                backed: if state == State::Claimed { 0 } else { len },
            });
        }
    }

    // ---------------------------------------------------------------------------------------------- counters

    fn compare_counters(&mut self, sums: &Sums) {
        let hot = self.hot();
        let found = &self.found;
        let (ready, dead, notes) = (found.ready, found.dead, found.notes);
        let unfinished = sums.unfinished.saturating_add(unfinished_without_slot(hot));
        let (leased, delayed) = (found.leased, found.delayed);
        let owned = leased + found.claimed + delayed;
        self.compare("ready_count", hot.ready_count.get(), ready);
        self.compare("dead_count", hot.dead_count.get(), dead);
        self.compare("notes", u64::from(hot.notes.get()), notes);
        self.compare("owned_count", hot.owned_count.get(), owned);
        self.compare("delayed_count", hot.delayed_count.get(), delayed);
        let is_marked = u64::from(hot.phase.get() & DELAYING != 0);
        if !hot.is_damaged() {
            self.compare("phase's mark of delays", is_marked, u64::from(delayed > 0));
        }
        self.compare("unfinished", hot.unfinished.get(), unfinished);
        self.compare("given_up_of_living", hot.given_up_of_living.get(), self.given_up);
        self.compare("taken_bytes", hot.taken_bytes.get(), sums.taken_bytes);
        self.compare("ready_done", hot.ready_done.get(), sums.ready_done);
        self.compare("used_bytes", hot.used_bytes.get(), sums.used_bytes);
        self.compare("kept_bytes", hot.bytes_cached(), sums.kept_bytes);
        self.compare("kept", u64::from(hot.cached_sum.get() / ONE_CACHED), sums.kept);
        self.at_most("kept", sums.kept, u64::from(CACHED_MOST));
        self.compare("lent_bytes", hot.lent_bytes.get(), sums.lent_bytes);
        if self.shared.options.soft_bytes != 0 {
            self.compare("ready_bytes", hot.ready_bytes.get(), sums.ready_bytes);
        }
        self.at_least("high_water", hot.high_water.get(), ready);
        let discarded = hot.discarded.get();
        self.at_least(
            "published",
            hot.published.get(),
            (ready + leased + dead + delayed).saturating_add(discarded),
        );
        if hot.is_open() || hot.is_draining() {
            self.compare("discarded", discarded, 0);
        }
        self.at_most("high_water", hot.high_water.get(), hot.published.get());
        // It says up to where the items are counted.
        self.compare("put_bytes", hot.put_bytes.get() & 1, hot.published.get() & 1);
        self.at_least("put_bytes", hot.bytes_put(), sums.bytes);
    }

    /// Numbers that slots in some states have must all be different.
    fn compare_numbers(
        &mut self,
        place: &'static str,
        what: &'static str,
        number: impl Fn(&Slot, State) -> Option<u64>,
    ) {
        self.numbers.clear();
        for index in 1..self.slots_high() {
            if !self.is_present(index) {
                continue;
            }
            let Ok(slot) = self.segment().slot(index) else {
                return;
            };
            self.numbers
                .extend(slot.word().state().and_then(|state| number(slot, state)));
        }
        self.numbers.sort_unstable();
        if self.numbers.windows(2).any(|pair| pair[0] == pair[1]) {
            self.finding(place, None, what);
        }
    }
}
