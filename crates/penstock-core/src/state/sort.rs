//! Sorting a list of slots, after a death in the critical section.
//!
//! The slots of a list are ordered without comparisons where their keys allow it, because a million items lie
//! in memory in any order and each comparison would miss the cache. Places in the order of publication are
//! distinct, and with n slots in use those of queued items mostly are among the last n. So they serve as
//! indices: each slot's `prev` holds, for a moment, the slot whose key belongs to that index (`scatter`), and
//! one walk over the indices links the list (`gather`). The indices count the slots that have memory, because
//! no other may be touched (state/pages.rs).

use crate::error::Error;
use crate::memory::layout::{List, Slot};
use crate::state::Section;
use crate::state::slot::StateWord;
use crate::sync::Word;

/// What a list is sorted by.
pub(crate) struct Order<B: Fn(StateWord) -> bool, K: Fn(&Slot) -> u64> {
    /// How many slots the list has.
    pub length: u64,
    /// How many slots have memory; their pages are numbered.
    pub numbered: u32,
    /// The greatest key that a slot can have.
    pub greatest: u64,
    /// Whether a slot in that state is on the list.
    pub belongs: B,
    /// Distinct for the slots of the list.
    pub key: K,
}

/// The greatest keys that a slot can have, as many as there are slots in use, and the slot whose index stands
/// for each.
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
    /// Sorts a list that is linked forwards only, and notes its end.
    pub(crate) fn sort(
        &mut self,
        list: &List,
        order: &Order<impl Fn(StateWord) -> bool, impl Fn(&Slot) -> u64>,
    ) -> Result<(), Error> {
        let slots = order.numbered;
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

    /// Writes each slot whose key lies in the window to the `prev` of the slot that its key names. Returns
    /// the list of the others, and how many were written.
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
                self.numbered_slot(place)?.prev.set(index);
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

    /// Appends the slots that [`scatter`](Self::scatter) has written, by ascending keys, behind `tail`. Any
    /// other value in a slot's `prev` names no slot of this list with this key.
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
            let index = self.numbered_slot(place)?.prev.get();
            if let Some(slot) = self.used_slot(index).filter(|_| index != 0) {
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

    /// A bottom-up merge sort of a list that is linked forwards only; returns its head. It needs no memory
    /// but a few words of stack, and little time where the list is in order already.
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
