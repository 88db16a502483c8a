//! Waiters: which threads sleep, which of them are notified, and why no wake-up is lost.
//!
//! Requirements. A waiter sleeps on a word of its own; a burst of items costs one system call, not one an
//! item; a waiter that is killed, stopped, interrupted or timed out at any moment leaves no other waiter
//! asleep beside an item.
//!
//! Protocol. A thread that finds nothing enlists a cell under the lock, in the same critical section in which
//! it found nothing. The last step of each critical section restores the invariant (`settle`):
//!
//! > If there are items and getters, then some getter is on its way (or as many as there are items, up to
//! > cores - 1). The same for room and putters. If nothing is unfinished, no joiner sleeps.
//!
//! *On its way* is a waiter that was notified and has not been back under the lock, and a participant that
//! spins. Since every way back leads through a critical section, whose end restores the invariant again, the
//! wake-ups chain: the notified getter takes an item, and its own `settle` notifies the next.
//!
//! A sender of a connection sleeps in `poll` instead of on its cell's word (notifier.rs), so that the end of
//! its readers wakes it, too. All else is the same for it.
//!
//! A notified waiter that dies is swept, and the `settle` of the sweep's section notifies the next. If a
//! notified waiter is stopped (SIGSTOP), another waiter's slice ends: that waiter finds the item still there,
//! marks the notified ones LATE, and goes on.
//!
//! Getters are notified last come, first served: the warmest cache, and the fewest processes awake. Putters
//! are notified in the order in which they came. The waiter that will be notified last is the *watcher*: it
//! sleeps in slices of 100 ms, at whose end it reaps the dead. The next two sleep 200 and 300 ms, the others
//! a second (joiners 300 ms). These reap only if the watcher has not, because it was killed or stopped
//! itself. The waiter that takes the watcher's place is woken to learn it, and would find out by itself at
//! the end of its slice.
//!
//! ```text
//! cell.word:  FREE --enlist--> SLEEPING --notified--> WOKEN --back under the lock--> FREE
//!                                  |                    \--another's slice ended--> LATE --back--> FREE
//!                                  \--leaves without the lock--> ABANDONED (freed by a later section)
//!
//! WOKEN, LATE --leaves without the lock--> WOKEN_LEFT, LATE_LEFT (freed by its process's next section)
//! ```
//!
//! A slice ends by the clock, whatever ended the sleeps in it (slice.rs).
//!
//! Writers: every word is written under the lock, except that a cell's owner may compare-and-swap its word
//! without it, from SLEEPING to ABANDONED, from WOKEN to WOKEN_LEFT and from LATE to LATE_LEFT. SLEEPING and
//! ABANDONED cells are on a list, the others are not. The word is the truth; the lists and their numbers are
//! caches, and after a take-over the order of the waiters may be another.

use crate::error::Error;
use crate::memory::layout::{Kind, ParticipantId, WaiterCell, WaiterList};
use crate::platform;
use crate::slice::Slice;
use crate::state::Section;
use crate::state::list::{Links, append, remove};
use crate::sync::{Count, LockedU32, Ordering, Word};
use crate::units::PAGE;

pub(crate) const FREE: u32 = 0;
pub(crate) const SLEEPING: u32 = 1;
pub(crate) const WOKEN: u32 = 2;
pub(crate) const LATE: u32 = 3;
pub(crate) const ABANDONED: u32 = 4;
/// Its owner has left after it was notified. It counts as on its way until it is freed.
pub(crate) const WOKEN_LEFT: u32 = 5;
/// The same of a LATE cell: it does not count any more.
pub(crate) const LATE_LEFT: u32 = 6;

/// One call's wait, from its first unlocked read to its end.
pub(crate) struct Waiting {
    pub kind: Kind,
    pub cell: u32,
    pub has_spun: bool,
    was_chosen: bool,
    pub slice: Slice,
    /// Slices that have ended.
    pub slices: u32,
    /// Whether the last sleep was one of FOR_NOW, and whether it ended before its slice did.
    pub is_displaced: bool,
    pub is_early: bool,
}

impl Waiting {
    pub(crate) fn new(kind: Kind) -> Waiting {
        Waiting {
            kind,
            cell: 0,
            has_spun: false,
            was_chosen: false,
            slice: Slice::new(),
            slices: 0,
            is_displaced: false,
            is_early: false,
        }
    }

    /// Whether a section has notified this waiter.
    pub(crate) fn was_chosen(&self) -> bool {
        self.was_chosen
    }
}

impl Section<'_> {
    /// Restores the invariant of the head comment. Called at the end of every critical section.
    #[inline(always)]
    pub(crate) fn settle(&mut self) {
        let hot = self.hot();
        let [getters, putters, joiners] = &hot.waiters;
        let waiting = getters.length.get() | putters.length.get() | joiners.length.get();
        if waiting | hot.watching.get() == 0 {
            return;
        }
        if hot.watching.get() != 0 {
            self.update_notifier();
        }
        if waiting == 0 || hot.is_damaged() {
            return;
        }
        if self.settle_waiters().is_err() {
            // It is damage, and the next operation reports it.
            hot.note_damage();
        }
    }

    fn settle_waiters(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        let most = u64::from(platform::cores().saturating_sub(1).max(1));
        let [getters, putters, joiners] = &hot.waiters;
        let ready = hot.ready_count.get();
        while getters.length.get() > 0
            && u64::from(getters.notified.get()) + u64::from(hot.spinning.getter.get() != 0) < most.min(ready)
        {
            self.choose(getters, getters.tail.get())?;
        }
        while putters.length.get() > 0
            && self.shared.has_room()
            && u64::from(putters.notified.get()) + u64::from(hot.spinning.putter.get() != 0) < most
        {
            self.choose(putters, putters.head.get())?;
        }
        if hot.unfinished.get() == 0 {
            while joiners.length.get() > 0 {
                self.choose(joiners, joiners.head.get())?;
            }
        }
        Ok(())
    }

    /// Marks one listed waiter as on its way. One that has left meanwhile is freed instead.
    fn choose(&mut self, list: &WaiterList, index: u32) -> Result<(), Error> {
        let cell = self.cell(index)?;
        self.delist(list, index)?;
        // Relaxed: the woken waiter learns what happened from the lock, which it takes next.
        match cell
            .word
            .compare_exchange(SLEEPING, WOKEN, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => {
                list.notified.add(1);
                self.wake_later(index);
                if cell.kind.get() == Kind::Room as u32 && list.length.get() > 0 {
                    self.wake_senders();
                }
                Ok(())
            }
            Err(ABANDONED) => self.free_cell(index),
            Err(_) => Err(self.corrupt("a listed waiter's cell is neither SLEEPING nor ABANDONED")),
        }
    }

    /// Takes a cell and appends it to the list of its kind.
    pub(crate) fn enlist(&mut self, kind: Kind) -> Result<u32, Error> {
        let hot = self.hot();
        let mut index = hot.cells_free.get();
        if index == 0 {
            index = hot.cells_high.get();
            let cells = self.shared.segment.geometry.cells;
            if index >= cells {
                return Err(Error::TooManyWaiters { limit: cells - 1 });
            }
            if index >= hot.cells_backed.get() {
                // One page for 64 waiters, so rarely that it may happen under the lock.
                let per_page = (PAGE / size_of::<WaiterCell>() as u64) as u32;
                let start = self.shared.segment.geometry.cells_at + u64::from(index / per_page) * PAGE;
                self.shared.segment.back(start, PAGE)?;
                hot.cells_backed.set((index / per_page + 1) * per_page);
            }
            hot.cells_high.set(index + 1);
        } else {
            hot.cells_free.set(self.cell(index)?.next.get());
        }
        let cell = self.cell(index)?;
        if cell.word.get() != FREE {
            return Err(self.corrupt("a cell on the list of free ones is not FREE"));
        }
        cell.owner.set(self.me.0);
        cell.kind.set(kind as u32);
        // Release: the commit of the enlisting; the fields above belong to it.
        cell.word.store(SLEEPING, Ordering::Release);
        self.list_cell(&hot.waiters[kind as usize], index)?;
        Ok(index)
    }

    /// Appends a cell, whose word is SLEEPING, to a list.
    pub(crate) fn list_cell(&self, list: &WaiterList, index: u32) -> Result<(), Error> {
        if !append((&list.head, &list.tail), index, |index| self.links_of_cell(index))? {
            return Err(self.corrupt("the last waiter of a list has a successor"));
        }
        list.length.add(1);
        Ok(())
    }

    /// Takes a cell off its list. After the last sender, the pipe becomes writable.
    fn delist(&mut self, list: &WaiterList, index: u32) -> Result<(), Error> {
        let ends = (&list.head, Some(&list.tail));
        if !remove(ends, index, |index| self.links_of_cell(index))? {
            return Err(self.corrupt("a list of waiters is torn"));
        }
        list.length.sub(1);
        if list.length.get() == 0 && self.cell(index)?.kind.get() == Kind::Room as u32 {
            self.wake_senders();
        }
        Ok(())
    }

    fn links_of_cell(&self, index: u32) -> Result<Links<'_, LockedU32>, Error> {
        let cell = self.cell(index)?;
        Ok((&cell.next, &cell.prev))
    }

    pub(crate) fn free_cell(&self, index: u32) -> Result<(), Error> {
        let hot = self.hot();
        let cell = self.cell(index)?;
        cell.word.store(FREE, Ordering::Release);
        cell.next.set(hot.cells_free.get());
        hot.cells_free.set(index);
        Ok(())
    }

    /// How many waiters would be notified after this one, counted up to 3.
    pub(crate) fn position(&self, waiting: &Waiting) -> Result<u32, Error> {
        let cell = self.cell(waiting.cell)?;
        let later = |cell: &WaiterCell| {
            if waiting.kind == Kind::Room {
                cell.next.get()
            } else {
                cell.prev.get()
            }
        };
        let mut index = later(cell);
        let mut position = 0;
        while index != 0 && position < 3 {
            index = later(self.cell(index)?);
            position += 1;
        }
        Ok(position)
    }

    /// Reads, back under the lock, how a sleep ended. A waiter that was not notified stays on the list.
    pub(crate) fn arrive(&mut self, waiting: &mut Waiting) -> Result<(), Error> {
        let hot = self.hot();
        let list = &hot.waiters[waiting.kind as usize];
        match self.cell(waiting.cell)?.word.get() {
            SLEEPING if waiting.is_early => return Ok(()),
            SLEEPING => {
                self.give_up_on_the_late(waiting)?;
                return Ok(());
            }
            WOKEN => list.notified.sub(1),
            LATE => {}
            _ => return Err(self.corrupt("a waiter's cell was freed while it waited")),
        }
        waiting.was_chosen = true;
        self.free_cell(waiting.cell)?;
        waiting.cell = 0;
        Ok(())
    }

    /// A slice has ended and there is an item (or room) that no waiter on its way has come for: these are
    /// stopped or dead. They become LATE and do not count any more. One that comes back reads that in its
    /// cell. The same if they have kept this waiter from its place at the pipe.
    fn give_up_on_the_late(&mut self, waiting: &Waiting) -> Result<(), Error> {
        let (hot, kind) = (self.hot(), waiting.kind);
        let list = &hot.waiters[kind as usize];
        let spinning = self.shared.spinning_word(kind);
        let promising = match kind {
            Kind::Item => hot.ready_count.get() > 0,
            Kind::Room => self.shared.has_room() || waiting.is_displaced,
            Kind::Finish => false,
        };
        if !promising || (list.notified.get() == 0 && spinning.is_none_or(|word| word.get() == 0)) {
            return Ok(());
        }
        for index in 1..hot.cells_high.get().min(self.shared.segment.geometry.cells) {
            let cell = self.cell(index)?;
            if cell.kind.get() != kind as u32 {
                continue;
            }
            let late = cell
                .word
                .compare_exchange(WOKEN, LATE, Ordering::Relaxed, Ordering::Relaxed);
            if late == Err(WOKEN_LEFT) {
                self.free_cell(index)?;
            }
        }
        list.notified.set(0);
        if let Some(word) = spinning {
            word.set(0);
        }
        Ok(())
    }

    /// Ends a wait under the lock, whatever its state. The end of the section passes a wake-up on.
    #[inline(always)]
    pub(crate) fn withdraw(&mut self, waiting: &mut Waiting) -> Result<(), Error> {
        let index = core::mem::take(&mut waiting.cell);
        if index == 0 {
            return Ok(());
        }
        let hot = self.hot();
        let list = &hot.waiters[waiting.kind as usize];
        let cell = self.cell(index)?;
        match cell.word.get() {
            SLEEPING => {
                self.leave_list(list, waiting.kind, index)?;
            }
            WOKEN => list.notified.sub(1),
            LATE => {}
            _ => return Err(self.corrupt("a waiter's cell was freed while it waited")),
        }
        self.free_cell(index)
    }

    /// Takes a sleeping waiter off its list. If it was the watcher, the new watcher is woken to learn it.
    fn leave_list(&mut self, list: &WaiterList, kind: Kind, index: u32) -> Result<(), Error> {
        let end = watcher_of(list, kind);
        let was_watcher = end.get() == index;
        self.delist(list, index)?;
        if was_watcher {
            self.free_abandoned(list, kind)?;
            self.tell_watcher(list, kind);
        }
        Ok(())
    }

    /// Wakes the watcher, so that it reads its position, which is new. If this call is lost (the caller may
    /// die, and the watcher may not be asleep yet), the watcher does so at the end of its slice.
    fn tell_watcher(&mut self, list: &WaiterList, kind: Kind) {
        let watcher = watcher_of(list, kind).get();
        if watcher != 0 {
            self.wake_later(watcher);
        }
    }

    /// Frees cells that were abandoned in the watcher's place.
    pub(crate) fn free_abandoned(&mut self, list: &WaiterList, kind: Kind) -> Result<(), Error> {
        let end = watcher_of(list, kind);
        while end.get() != 0 && self.cell(end.get())?.word.get() == ABANDONED {
            let index = end.get();
            self.delist(list, index)?;
            self.free_cell(index)?;
            self.tell_watcher(list, kind);
        }
        Ok(())
    }

    /// Frees the cells of a participant that is dead.
    pub(crate) fn free_cells_of(&mut self, owner: ParticipantId) -> Result<(), Error> {
        let hot = self.hot();
        for kind in Kind::ALL {
            if let Some(word) = self.shared.spinning_word(kind) {
                let _ = word.compare_exchange(owner.0, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        for index in 1..hot.cells_high.get().min(self.shared.segment.geometry.cells) {
            let cell = self.cell(index)?;
            let word = cell.word.get();
            if word == FREE || cell.owner.get() != owner.0 {
                continue;
            }
            let Some(kind) = Kind::ALL.get(cell.kind.get() as usize).copied() else {
                return Err(self.corrupt("a waiter's kind is unknown"));
            };
            let list = &hot.waiters[kind as usize];
            match word {
                WOKEN | WOKEN_LEFT => list.notified.sub(1),
                SLEEPING | ABANDONED => self.leave_list(list, kind, index)?,
                _ => {}
            }
            self.free_cell(index)?;
        }
        Ok(())
    }

    /// Rebuilds lists and numbers of the waiters from the cells' words.
    pub(crate) fn rebuild_waiters(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        for list in &hot.waiters {
            list.head.set(0);
            list.tail.set(0);
            list.length.set(0);
            list.notified.set(0);
        }
        hot.cells_free.set(0);
        hot.spinning.getter.set(0);
        hot.spinning.putter.set(0);
        let high = hot.cells_high.get().clamp(1, self.shared.segment.geometry.cells);
        for index in 1..high {
            let cell = self.cell(index)?;
            let Some(list) = hot.waiters.get(cell.kind.get() as usize) else {
                return Err(self.corrupt("a waiter's kind is unknown"));
            };
            match cell.word.get() {
                SLEEPING => self.list_cell(list, index)?,
                WOKEN => list.notified.add(1),
                // Its owner frees it when it comes back, if it does; a dead owner's cells are swept.
                LATE => {}
                FREE | ABANDONED | WOKEN_LEFT | LATE_LEFT => self.free_cell(index)?,
                _ => return Err(self.corrupt("a waiter's cell is in no known state")),
            }
        }
        for kind in Kind::ALL {
            self.tell_watcher(&hot.waiters[kind as usize], kind);
        }
        Ok(())
    }
}

/// The end of the list at which the waiter stands that is notified last.
fn watcher_of(list: &WaiterList, kind: Kind) -> &LockedU32 {
    if kind == Kind::Room {
        &list.tail
    } else {
        &list.head
    }
}
