//! Lists of slots through `Slot::next` and `Slot::prev`, in bounded walks: a damaged list may be a ring.

use crate::error::Error;
use crate::memory::layout::List;
use crate::state::Section;
use crate::sync::Word;

/// How many slots a walk along a list may still meet.
pub(crate) struct Walk {
    steps_left: u32,
}

impl Section<'_> {
    /// A walk along a list of slots; a damaged list may be a ring.
    pub(crate) fn walk(&self) -> Walk {
        Walk {
            steps_left: self
                .hot()
                .slots_high
                .get()
                .min(self.shared.segment.geometry.slots),
        }
    }

    #[inline(always)]
    pub(crate) fn step(&self, walk: &mut Walk) -> Result<(), Error> {
        match walk.steps_left.checked_sub(1) {
            Some(left) => walk.steps_left = left,
            None => return Err(self.corrupt("a list of slots has a cycle")),
        }
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn push_back(&self, list: &List, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        let tail = list.tail.get();
        let end = if tail == 0 {
            &list.head
        } else {
            &self.slot(tail)?.next
        };
        if end.get() != 0 {
            return Err(self.corrupt("a list of slots does not end at its end"));
        }
        slot.next.set(0);
        slot.prev.set(tail);
        end.set(index);
        list.tail.set(index);
        Ok(())
    }

    /// Takes a slot out of its list; its neighbours must agree that it was there.
    #[inline(always)]
    pub(crate) fn unlink(&self, list: &List, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        let (next, prev) = (slot.next.get(), slot.prev.get());
        let before = if prev == 0 {
            &list.head
        } else {
            &self.slot(prev)?.next
        };
        let after = if next == 0 {
            &list.tail
        } else {
            &self.slot(next)?.prev
        };
        if before.get() != index || after.get() != index {
            return Err(self.corrupt("a list of slots is torn"));
        }
        before.set(next);
        after.set(prev);
        Ok(())
    }

    /// Links a list backwards that is linked forwards.
    pub(crate) fn link_back(&self, list: &List) -> Result<(), Error> {
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
}

pub(crate) fn clear(list: &List) {
    list.head.set(0);
    list.tail.set(0);
}
