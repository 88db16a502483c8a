//! Heaps of slots: of the items that came back, ordered by their place in the order of publication; and of
//! the delayed ones, ordered by their time.
//!
//! A get takes the oldest item: the root of the first heap or the head of the ready list, whichever was
//! published first. So an item comes back to its old place in a time that grows with the logarithm of the
//! heap's size, however many items are queued.
//!
//! A heap is leftist: of a slot's two subtrees (`Slot::next` and `Slot::prev`) the second has no greater rank
//! than the first. The rank (`Slot::holder`) is the length of the path along second subtrees. That path has
//! at most log2(n + 1) slots, and inserting and removing only merge along it. (C. A. Crane, Linear Lists and
//! Priority Queues as Balanced Binary Trees, 1972.)
//!
//! The heaps are caches: the rebuild makes them anew from the slots' states.

use crate::error::Error;
use crate::memory::layout::Slot;
use crate::state::Section;
use crate::sync::Word;

/// Longest path along second subtrees in a heap of 2^32 slots, and one more.
const PATH: usize = 33;

/// What a heap is ordered by.
type Key = fn(&Slot) -> u64;

const PLACE: Key = |slot| slot.seq.get();
const TIME: Key = |slot| slot.lease.get();

impl Section<'_> {
    /// Inserts a slot that is on no list. Its state is READY.
    pub(crate) fn insert_returned(&mut self, index: u32) -> Result<(), Error> {
        let root = self.insert(self.hot().returned.get(), index, PLACE)?;
        self.hot().returned.set(root);
        Ok(())
    }

    /// Removes the root.
    #[cold]
    pub(crate) fn pop_returned(&mut self) -> Result<(), Error> {
        let root = self.slot(self.hot().returned.get())?;
        let rest = self.merge_heaps(root.next.get(), root.prev.get(), PLACE)?;
        self.hot().returned.set(rest);
        Ok(())
    }

    /// Inserts a slot that is on no list. Its state is DELAYED.
    pub(crate) fn insert_delayed(&mut self, index: u32) -> Result<(), Error> {
        let root = self.insert(self.hot().delayed.head.get(), index, TIME)?;
        self.hot().delayed.head.set(root);
        Ok(())
    }

    /// Removes the root.
    pub(crate) fn remove_first_delayed(&mut self) -> Result<(), Error> {
        let root = self.slot(self.hot().delayed.head.get())?;
        let rest = self.merge_heaps(root.next.get(), root.prev.get(), TIME)?;
        self.hot().delayed.head.set(rest);
        Ok(())
    }

    /// Makes a heap of delayed items, which are linked as a list. Its root.
    ///
    /// In a time that grows with their number only, because few of the heaps that are merged are large.
    pub(crate) fn delayed_heap_of(&self, mut list: u32) -> Result<u32, Error> {
        // heaps[i] is empty or has 2^i slots, as in a binary counter.
        let mut heaps = [0u32; 32];
        let mut walk = self.walk();
        while list != 0 {
            self.step(&mut walk)?;
            let next = self.slot(list)?.next.get();
            let mut heap = self.insert(0, list, TIME)?;
            for place in &mut heaps {
                let other = core::mem::take(place);
                if other == 0 {
                    *place = heap;
                    break;
                }
                heap = self.merge_heaps(other, heap, TIME)?;
            }
            list = next;
        }
        heaps
            .into_iter()
            .try_fold(0, |all, heap| self.merge_heaps(all, heap, TIME))
    }

    fn insert(&self, root: u32, index: u32, key: Key) -> Result<u32, Error> {
        let slot = self.slot(index)?;
        slot.next.set(0);
        slot.prev.set(0);
        slot.holder.set(1);
        self.merge_heaps(root, index, key)
    }

    /// Merges two heaps, either of which may be empty (0), and returns the root.
    fn merge_heaps(&self, mut a: u32, mut b: u32, key: Key) -> Result<u32, Error> {
        let mut path = [0u32; 2 * PATH];
        let mut depth = 0;
        // Downwards: the root that comes first keeps its first subtree, and its second one is merged with the
        // other heap.
        while a != 0 && b != 0 {
            if key(self.slot(b)?) < key(self.slot(a)?) {
                core::mem::swap(&mut a, &mut b);
            }
            let Some(place) = path.get_mut(depth) else {
                return Err(self.corrupt("a heap of items is too deep"));
            };
            *place = a;
            depth += 1;
            a = self.slot(a)?.prev.get();
        }
        let mut merged = if a == 0 { b } else { a };
        // Upwards: each merged heap becomes the subtree that its rank says.
        for &index in path[..depth].iter().rev() {
            let slot = self.slot(index)?;
            slot.prev.set(merged);
            let (first, second) = (self.rank(slot.next.get())?, self.rank(merged)?);
            if first < second {
                slot.prev.set(slot.next.get());
                slot.next.set(merged);
            }
            slot.holder.set(first.min(second).saturating_add(1));
            merged = index;
        }
        Ok(merged)
    }

    fn rank(&self, index: u32) -> Result<u32, Error> {
        match index {
            0 => Ok(0),
            index => Ok(self.slot(index)?.holder.get()),
        }
    }
}

impl Slot {
    /// The two subtrees of a slot in a heap.
    pub(crate) fn subtrees(&self) -> [u32; 2] {
        [self.next.get(), self.prev.get()]
    }
}
