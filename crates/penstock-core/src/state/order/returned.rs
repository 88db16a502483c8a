//! Returned items: a heap of the items that came back, ordered by their place in the order of publication.
//!
//! A get takes the oldest item: the root of this heap or the head of the ready list, whichever was published
//! first. So an item comes back to its old place in a time that grows with the logarithm of the heap's size,
//! however many items are queued.
//!
//! The heap is leftist: of a slot's two subtrees (`Slot::next` and `Slot::prev`) the second has no greater
//! rank than the first. The rank (`Slot::holder`) is the length of the path along second subtrees. That path
//! has at most log2(n + 1) slots, and inserting and removing only merge along it. (C. A. Crane, Linear Lists
//! and Priority Queues as Balanced Binary Trees, 1972.)
//!
//! The heap is a cache: the rebuild makes it anew from the slots' states.

use crate::error::Error;
use crate::memory::layout::Slot;
use crate::state::Section;
use crate::sync::Word;

/// Longest path along second subtrees in a heap of 2^32 slots, and one more.
const PATH: usize = 33;

impl Section<'_> {
    /// Inserts a slot that is on no list. Its state is READY.
    pub(crate) fn insert_returned(&mut self, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        slot.next.set(0);
        slot.prev.set(0);
        slot.holder.set(1);
        let root = self.merge_heaps(self.hot().returned.get(), index)?;
        self.hot().returned.set(root);
        Ok(())
    }

    /// Removes the root.
    #[cold]
    pub(crate) fn pop_returned(&mut self) -> Result<(), Error> {
        let root = self.slot(self.hot().returned.get())?;
        let rest = self.merge_heaps(root.next.get(), root.prev.get())?;
        self.hot().returned.set(rest);
        Ok(())
    }

    /// Merges two heaps, either of which may be empty (0), and returns the root.
    fn merge_heaps(&self, mut a: u32, mut b: u32) -> Result<u32, Error> {
        let mut path = [0u32; 2 * PATH];
        let mut depth = 0;
        // Downwards: the older root keeps its first subtree, and its second one is merged with the other
        // heap.
        while a != 0 && b != 0 {
            if self.slot(b)?.seq.get() < self.slot(a)?.seq.get() {
                core::mem::swap(&mut a, &mut b);
            }
            let Some(place) = path.get_mut(depth) else {
                return Err(self.corrupt("the heap of returned items is too deep"));
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
    /// The two subtrees of a returned item's slot.
    pub(crate) fn subtrees(&self) -> [u32; 2] {
        [self.next.get(), self.prev.get()]
    }
}
