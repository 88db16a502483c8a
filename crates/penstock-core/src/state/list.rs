//! Lists: doubly linked through their elements, which are slots, waiters' cells or spans; and bounded walks
//! along those of slots, because a damaged list may be a ring.

use crate::error::Error;
use crate::memory::layout::List;
use crate::state::Section;
use crate::sync::Word;

/// An element's links: to the next one, and to the one before it. 0 is none.
pub(crate) type Links<'a, W> = (&'a W, &'a W);

/// Appends an element to a list that has a tail. False if its last element has a successor, which is damage.
#[inline(always)]
pub(crate) fn append<'a, W: Word<Value = u32> + 'a>(
    (head, tail): (&'a W, &'a W),
    index: u32,
    links_of: impl Fn(u32) -> Result<Links<'a, W>, Error>,
) -> Result<bool, Error> {
    let (next, prev) = links_of(index)?;
    let last = tail.get();
    let end = if last == 0 { head } else { links_of(last)?.0 };
    if end.get() != 0 {
        return Ok(false);
    }
    next.set(0);
    prev.set(last);
    end.set(index);
    tail.set(index);
    Ok(true)
}

/// Puts an element at the beginning of a list that has no tail.
pub(crate) fn prepend<'a, W: Word<Value = u32> + 'a>(
    head: &'a W,
    index: u32,
    links_of: impl Fn(u32) -> Result<Links<'a, W>, Error>,
) -> Result<(), Error> {
    let (next, prev) = links_of(index)?;
    let first = head.get();
    prev.set(0);
    next.set(first);
    if first != 0 {
        links_of(first)?.1.set(index);
    }
    head.set(index);
    Ok(())
}

/// Takes an element out of a list. False if its neighbours do not agree that it was there, which is damage.
#[inline(always)]
pub(crate) fn remove<'a, W: Word<Value = u32> + 'a>(
    (head, tail): (&'a W, Option<&'a W>),
    index: u32,
    links_of: impl Fn(u32) -> Result<Links<'a, W>, Error>,
) -> Result<bool, Error> {
    let (next, prev) = links_of(index)?;
    let (next, prev) = (next.get(), prev.get());
    let before = if prev == 0 { head } else { links_of(prev)?.0 };
    let after = if next == 0 { tail } else { Some(links_of(next)?.1) };
    if before.get() != index || after.is_some_and(|after| after.get() != index) {
        return Ok(false);
    }
    before.set(next);
    if let Some(after) = after {
        after.set(prev);
    }
    Ok(true)
}

/// How many slots a walk along a list may still meet.
pub(crate) struct Walk {
    steps_left: u32,
}

impl Section<'_> {
    /// A walk along a list of slots; a damaged list may be a ring.
    pub(crate) fn walk(&self) -> Walk {
        Walk {
            steps_left: self.hot().slots_high.get().min(self.shared.segment.slots_end()),
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

    /// Appends a slot. Without `append`, whose calls of a closure the compiler does not inline here.
    #[inline(always)]
    pub(crate) fn push_back(&self, list: &List, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        let last = list.tail.get();
        let end = if last == 0 {
            &list.head
        } else {
            &self.slot(last)?.next
        };
        if end.get() != 0 {
            return Err(self.corrupt("the last slot of a list has a successor"));
        }
        slot.next.set(0);
        slot.prev.set(last);
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
