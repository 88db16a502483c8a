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
//! > If the queue is shut down, and putters sleep, or getters that will find nothing any more, then one of
//! > them is on its way.
//! > If items are delayed, a waiter sleeps until the first is due, or one is on its way (delay.rs).
//!
//! *On its way* is a waiter that was notified and has not been back under the lock, and a participant that
//! spins. One that was handed something is not: it does not come for what is there. Since every way back
//! leads through a critical section, whose end restores the invariant again, the wake-ups chain: the notified
//! getter takes an item, and its own `settle` notifies the next.
//!
//! A sender of a connection sleeps in `poll` instead of on its cell's word (line.rs), so that the end of its
//! readers wakes it, too. All else is the same for it.
//!
//! A notified waiter that dies is swept, and the `settle` of the sweep's section notifies the next. If a
//! notified waiter is stopped (SIGSTOP), another waiter's slice ends: that waiter finds the item still there,
//! marks the notified ones LATE, and goes on.
//!
//! Getters are notified last come, first served: the warmest cache, and the fewest processes awake. Putters
//! are notified in the order in which they came.
//!
//! A getter or a putter that has waited for `AGE` has *aged*. It comes back under the lock to say so: its
//! cell moves to the front of the list, where the aged ones stand in the order of their age. They are served
//! before all others, and served under the lock (hand.rs). So no clock is read for them but their own. A wait
//! that takes nothing (`await_item`, `join`) does not age.
//!
//! The waiter that will be served last is the *watcher*: it sleeps in slices of 100 ms, at whose end it reaps
//! the dead. The n-th from the end sleeps n times as long, up to a second. Those farther than `NEAR` from the
//! end sleep up to `FAR` times the number of waiters, so that all of them together wake up some 30 times a
//! second (joiners 300 ms). These reap only if the watcher has not, because it was killed or stopped itself.
//! The waiter that takes the watcher's place is woken to learn it, whether the watcher has left, has aged or
//! was handed something: its own slice may be long. If that wake-up is lost with its waker, the waiter finds
//! out at the end of its slice. (If the watcher is notified, no other waiter is left, or all others have aged
//! and are served next.)
//!
//! ```text
//! cell.word:  FREE --enlist--> SLEEPING --notified--> WOKEN --back under the lock--> FREE
//!                                  |  |                 \--another's slice ended--> LATE --back--> FREE
//!                                  |  \--aged, handed--> HANDED --back under the lock--> FREE
//!                                  |                       \--not back for long: a getter--> LATE
//!                                  \--leaves without the lock--> ABANDONED (freed by a later section)
//!
//! WOKEN, LATE, HANDED --leaves without the lock--> WOKEN_LEFT, LATE_LEFT, HANDED_LEFT
//!                                                  (freed by its process's next section)
//! ```
//!
//! A slice ends by the clock, whatever ended the sleeps in it (slice.rs).
//!
//! Writers: every word is written under the lock, except that a cell's owner may compare-and-swap its word
//! without it, from SLEEPING to ABANDONED, from WOKEN to WOKEN_LEFT, from LATE to LATE_LEFT and from HANDED
//! to HANDED_LEFT. SLEEPING and ABANDONED cells are on a list, the others are not. The word is the truth; the
//! lists and their numbers are caches, and after a take-over the order of the waiters may be another.

use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{Kind, ParticipantId, WaiterCell};
use crate::platform::{self, Instant};
use crate::slice::Slice;
use crate::state::Section;
use crate::state::holding::Lease;
use crate::state::list::{Links, append, remove};
use crate::sync::{Count, LockedU32, Ordering, Word};
use crate::units::{BATCH, PAGE, Ticket};

pub(crate) const FREE: u32 = 0;
pub(crate) const SLEEPING: u32 = 1;
pub(crate) const WOKEN: u32 = 2;
pub(crate) const LATE: u32 = 3;
pub(crate) const ABANDONED: u32 = 4;
/// Its owner has left after it was notified. It counts as on its way until it is freed.
pub(crate) const WOKEN_LEFT: u32 = 5;
/// The same of a LATE cell: it does not count any more.
pub(crate) const LATE_LEFT: u32 = 6;

/// It was handed an item, or its item was published for it (hand.rs).
pub(crate) const HANDED: u32 = 7;
/// Its owner has left after that.
pub(crate) const HANDED_LEFT: u32 = 8;

/// A waiter that has waited for so long has aged.
pub(crate) const AGE: Duration = Duration::from_micros(if cfg!(feature = "fuzzing") { 50 } else { 100_000 });

/// Places from the end of a list that are counted.
pub(crate) const NEAR: u32 = 32;

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
    /// Of a wait that takes an item or a place, once it has enlisted.
    aging: Option<Aging>,
    pub takes: bool,
    pub needs_no_room: bool,
}

/// How long a wait has lasted, and what was handed to it.
struct Aging {
    began: Instant,
    /// The same moment by the coarse clock that all processes share.
    since: u64,
    has_aged: bool,
    /// The item that a putter has written; or it could not, for want of memory.
    written: Option<Lease>,
    lacks_memory: bool,
    /// What the waiter was handed: the slot of a getter's item, the ticket of a putter's.
    item: u32,
    ticket: Option<Ticket>,
}

/// Where a waiter stands.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// How many waiters of its kind will be served after it, counted up to `NEAR`.
    pub position: u32,
    /// How many are listed.
    pub length: u32,
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
            aging: None,
            takes: true,
            needs_no_room: false,
        }
    }

    /// A wait that takes nothing when it ends, and so does not age.
    pub(crate) fn taking_nothing(kind: Kind) -> Waiting {
        Waiting {
            takes: false,
            ..Waiting::new(kind)
        }
    }

    /// Of a put whose item takes no place: it waits for nothing but the lock.
    pub(crate) fn needing_no_room() -> Waiting {
        Waiting {
            needs_no_room: true,
            ..Waiting::new(Kind::Room)
        }
    }

    /// The time until it ages begins, unless it has begun.
    fn begin_aging(&mut self) -> &mut Aging {
        let slice = &mut self.slice;
        self.aging.get_or_insert_with(|| Aging {
            began: slice.begin(),
            since: platform::coarse_millis().max(1),
            has_aged: age().is_zero(),
            written: None,
            lacks_memory: false,
            item: 0,
            ticket: None,
        })
    }

    /// The moment at which this wait ages. `None` if it has aged, or does not age.
    pub(crate) fn ages_at(&self) -> Option<Instant> {
        self.aging
            .as_ref()
            .filter(|aging| !aging.has_aged)
            .map(|aging| aging.began + age())
    }

    /// Notes that the time has passed. The next section moves the cell.
    pub(crate) fn note_age(&mut self) {
        if let Some(aging) = &mut self.aging {
            aging.has_aged = true;
        }
    }

    /// Whether a putter writes its item though there is no room.
    pub(crate) fn writes_early(&self) -> bool {
        match &self.aging {
            Some(aging) => aging.has_aged && !aging.lacks_memory,
            None => age().is_zero(),
        }
    }

    /// Notes whether there was no memory for that.
    pub(crate) fn note_memory(&mut self, lacks_memory: bool) {
        self.begin_aging().lacks_memory = lacks_memory;
    }

    /// What a getter was handed: a slot, which it delivers in the section in which it came back.
    #[inline(always)]
    pub(crate) fn take_item(&mut self) -> u32 {
        match &mut self.aging {
            Some(aging) => core::mem::take(&mut aging.item),
            None => 0,
        }
    }

    /// The ticket of the item that was published for a putter.
    #[inline(always)]
    pub(crate) fn take_ticket(&mut self) -> Option<Ticket> {
        self.aging.as_mut().and_then(|aging| aging.ticket.take())
    }

    pub(crate) fn note_ticket(&mut self, ticket: Option<Ticket>) {
        if let Some(aging) = &mut self.aging {
            aging.ticket = ticket;
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
        if waiting | hot.watching.get() != 0 {
            self.settle_all(waiting != 0);
        }
    }

    /// The same if there are waiters, or a process watches. Apart, so that other sections stay short.
    #[inline(never)]
    fn settle_all(&mut self, has_waiters: bool) {
        let hot = self.hot();
        if has_waiters && !hot.is_damaged() && self.settle_waiters().is_err() {
            // It is damage, and the next operation reports it.
            hot.note_damage();
        }
        if hot.watching.get() != 0 {
            self.update_notifier();
        }
    }

    fn settle_waiters(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        if hot.is_ended() && self.settle_ended()? {
            return self.settle_joiners();
        }
        self.hand_over()?;
        let most = most_on_their_way();
        let [getters, putters, _] = &hot.waiters;
        while getters.length.get() > 0 && self.lacks_getters(most) {
            self.choose(Kind::Item, getters.tail.get())?;
        }
        while putters.length.get() > 0
            && hot.is_open()
            && self.shared.has_room()
            && u64::from(putters.notified.get()) + u64::from(hot.spinning.putter.get() != 0) < most
        {
            self.choose(Kind::Room, putters.head.get())?;
        }
        if hot.has_delayed() {
            self.appoint_timekeeper()?;
        }
        self.settle_joiners()
    }

    fn settle_joiners(&mut self) -> Result<(), Error> {
        let joiners = &self.hot().waiters[Kind::Finish as usize];
        if self.hot().unfinished.get() == 0 {
            while joiners.length.get() > 0 {
                self.choose(Kind::Finish, joiners.head.get())?;
            }
        }
        Ok(())
    }

    /// Whether fewer getters are on their way than there are items, and than `most`.
    #[inline(always)]
    pub(crate) fn lacks_getters(&self, most: u64) -> bool {
        let hot = self.hot();
        let notified = hot.waiters[Kind::Item as usize].notified.get();
        u64::from(notified) + u64::from(hot.spinning.getter.get() != 0) < most.min(hot.ready_count.get())
    }

    /// Notifies putters of a queue that is shut down, and getters if none of them finds an item any more.
    /// False if getters are to be served as usual.
    #[cold]
    fn settle_ended(&mut self) -> Result<bool, Error> {
        self.notify_from_the_end(Kind::Room)?;
        let is_over = self.is_over()? == Some(true);
        if is_over {
            self.notify_from_the_end(Kind::Item)?;
        }
        Ok(is_over)
    }

    /// Notifies the watcher: it comes back through a section, which notifies the next one. Its slice is
    /// short, in case the wake-up call is lost with its waker; those of others that would be served late need
    /// not be. The new watcher is woken to learn that it is, in case this one does not come back. It finds
    /// the queue shut down then, too, so that the wake-ups multiply.
    fn notify_from_the_end(&mut self, kind: Kind) -> Result<(), Error> {
        let notified = &self.hot().waiters[kind as usize].notified;
        let before = notified.get();
        for _ in 0..NEAR {
            match self.watcher(kind)? {
                0 => return Ok(()),
                last => self.choose(kind, last)?,
            }
            // Not if it had left.
            if notified.get() != before {
                break;
            }
        }
        self.tell_watcher(kind)
    }

    /// Wakes a notified waiter of a queue that is shut down, because its waker may have died before it did:
    /// its slice may be long. `BATCH` at most after a death.
    fn wake_again(&mut self, index: u32, left: &mut usize) {
        if !self.hot().is_open() && *left > 0 {
            *left -= 1;
            self.wake_later(index);
        }
    }

    /// Marks one listed waiter as on its way. One that has left meanwhile is freed instead.
    pub(crate) fn choose(&mut self, kind: Kind, index: u32) -> Result<(), Error> {
        let (list, cell) = (&self.hot().waiters[kind as usize], self.cell(index)?);
        self.delist(kind, index)?;
        // Relaxed: the woken waiter learns what happened from the lock, which it takes next.
        match cell
            .word
            .compare_exchange(SLEEPING, WOKEN, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => {
                list.notified.add(1);
                self.wake_later(index);
                Ok(())
            }
            Err(ABANDONED) => self.free_cell(index),
            Err(_) => Err(self.corrupt("a listed waiter's cell is neither SLEEPING nor ABANDONED")),
        }
    }

    /// Takes a cell for a wait and puts it into the list of its kind.
    pub(crate) fn enlist(&mut self, waiting: &mut Waiting) -> Result<(), Error> {
        let (hot, kind) = (self.hot(), waiting.kind);
        if waiting.takes && kind != Kind::Finish {
            waiting.begin_aging();
        }
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
        let aging = waiting.aging.as_ref();
        let has_aged = aging.filter(|aging| aging.has_aged);
        cell.since.set(has_aged.map_or(0, |aging| aging.since));
        let written = aging.and_then(|aging| aging.written).unwrap_or_default();
        cell.slot.set(written.slot);
        cell.number.set(written.number);
        cell.seq.set(0);
        cell.ranges.set(self.shared.segment.ranges().0);
        // Release: the commit of the enlisting; the fields above belong to it.
        cell.word.store(SLEEPING, Ordering::Release);
        waiting.cell = index;
        match has_aged {
            Some(_) => self.list_aged(kind, index),
            None => self.list_cell(kind, index),
        }
    }

    /// Puts a cell, whose word is SLEEPING, at the end of a list, or at the end of its aged ones.
    pub(crate) fn list_cell(&self, kind: Kind, index: u32) -> Result<(), Error> {
        let list = &self.hot().waiters[kind as usize];
        if self.cell(index)?.since.get() != 0 {
            let last = self.hot().aged(kind).map_or(0, |aged| aged.tail.get());
            return self.insert_aged(kind, index, last);
        }
        if !append((&list.head, &list.tail), index, |index| self.links_of_cell(index))? {
            return Err(self.corrupt("the last waiter of a list has a successor"));
        }
        list.length.add(1);
        Ok(())
    }

    /// Puts a cell that has aged into its list, in the order of age. Mostly it is the youngest of the aged.
    fn list_aged(&self, kind: Kind, index: u32) -> Result<(), Error> {
        let since = self.cell(index)?.since.get();
        let mut before = self.hot().aged(kind).map_or(0, |aged| aged.tail.get());
        let mut left = self.shared.segment.geometry.cells;
        while before != 0 && self.cell(before)?.since.get() > since {
            before = self.cell(before)?.prev.get();
            left = match left.checked_sub(1) {
                Some(left) => left,
                None => return Err(self.corrupt("a list of waiters has a cycle")),
            };
        }
        self.insert_aged(kind, index, before)
    }

    /// Puts a cell behind an aged one, or at the head of the list (0).
    fn insert_aged(&self, kind: Kind, index: u32, before: u32) -> Result<(), Error> {
        let list = &self.hot().waiters[kind as usize];
        let Some(aged) = self.hot().aged(kind) else {
            return Err(self.corrupt("a joiner has aged"));
        };
        let next = match before {
            0 => list.head.get(),
            before => self.cell(before)?.next.get(),
        };
        let cell = self.cell(index)?;
        cell.next.set(next);
        cell.prev.set(before);
        match before {
            0 => list.head.set(index),
            before => self.cell(before)?.next.set(index),
        }
        match next {
            0 => list.tail.set(index),
            next => self.cell(next)?.prev.set(index),
        }
        if aged.tail.get() == before {
            aged.tail.set(index);
        }
        aged.count.add(1);
        list.length.add(1);
        Ok(())
    }

    /// Moves the cell of a wait that has aged, and sleeps still, to the aged ones.
    fn move_to_aged(&mut self, waiting: &Waiting) -> Result<(), Error> {
        let cell = self.cell(waiting.cell)?;
        let Some(aging) = waiting.aging.as_ref().filter(|aging| aging.has_aged) else {
            return Ok(());
        };
        if cell.since.get() == 0 {
            let was_watcher = self.watcher(waiting.kind)? == waiting.cell;
            self.delist(waiting.kind, waiting.cell)?;
            cell.since.set(aging.since);
            self.list_aged(waiting.kind, waiting.cell)?;
            fault!("wait.aged");
            if was_watcher {
                self.pass_watch(waiting.kind, waiting.cell)?;
            }
        }
        Ok(())
    }

    /// Notes what a putter has written, for which it waits for a place.
    pub(crate) fn name_written(&self, waiting: &mut Waiting, slot: u32) -> Result<(), Error> {
        let number = self.slot(slot)?.lease.get();
        waiting.begin_aging().written = Some(Lease { slot, number });
        if waiting.cell != 0 {
            let cell = self.cell(waiting.cell)?;
            cell.slot.set(slot);
            cell.number.set(number);
        }
        fault!("put.named");
        Ok(())
    }

    /// Takes a cell off its list.
    pub(crate) fn delist(&self, kind: Kind, index: u32) -> Result<(), Error> {
        let list = &self.hot().waiters[kind as usize];
        let cell = self.cell(index)?;
        if let Some(aged) = self.hot().aged(kind).filter(|_| cell.since.get() != 0) {
            aged.count.sub(1);
            if aged.tail.get() == index {
                aged.tail.set(cell.prev.get());
            }
        }
        let ends = (&list.head, Some(&list.tail));
        if !remove(ends, index, |index| self.links_of_cell(index))? {
            return Err(self.corrupt("a list of waiters is torn"));
        }
        list.length.sub(1);
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

    /// Where a listed waiter stands.
    pub(crate) fn place(&self, waiting: &Waiting) -> Result<Place, Error> {
        let (list, cell) = (
            &self.hot().waiters[waiting.kind as usize],
            self.cell(waiting.cell)?,
        );
        let length = list.length.get();
        let aged = self.hot().aged(waiting.kind);
        let has_aged = cell.since.get() != 0;
        // Getters that have not aged are served from the end of the list, and all others from its beginning.
        let is_from_the_end = waiting.kind != Kind::Room && !has_aged;
        let later = |cell: &WaiterCell| {
            if is_from_the_end {
                cell.prev.get()
            } else {
                cell.next.get()
            }
        };
        // Behind the aged getters come the others, whatever their places.
        let mut position = match aged {
            Some(aged) if has_aged && waiting.kind == Kind::Item => length.saturating_sub(aged.count.get()),
            _ => 0,
        };
        let mut index = later(cell);
        while index != 0 && position < NEAR {
            let other = self.cell(index)?;
            if waiting.kind == Kind::Item && (other.since.get() != 0) != has_aged {
                break;
            }
            position += 1;
            index = later(other);
        }
        Ok(Place {
            position: position.min(NEAR),
            length,
        })
    }

    /// Reads, back under the lock, how a sleep ended. A waiter that was not notified stays on the list.
    pub(crate) fn arrive(&mut self, waiting: &mut Waiting) -> Result<(), Error> {
        let hot = self.hot();
        let list = &hot.waiters[waiting.kind as usize];
        match self.cell(waiting.cell)?.word.get() {
            SLEEPING => {
                let cell = self.cell(waiting.cell)?;
                cell.ranges.set(self.shared.segment.ranges().0);
                if !waiting.is_early {
                    self.give_up_on_the_late(waiting)?;
                }
                return self.move_to_aged(waiting);
            }
            WOKEN => list.notified.sub(1),
            LATE => {}
            HANDED => self.accept(waiting)?,
            _ => return Err(self.corrupt("a waiter's cell was freed while it waited")),
        }
        waiting.was_chosen = true;
        self.free_cell(waiting.cell)?;
        waiting.cell = 0;
        Ok(())
    }

    /// Notes what a waiter was handed, under the lock.
    fn accept(&mut self, waiting: &mut Waiting) -> Result<(), Error> {
        let item = self.handed_by(waiting.cell)?.map_or(0, |(slot, _)| slot);
        self.end_handed(waiting.kind, waiting.cell)?;
        let ticket = Self::ticket_of(self.cell(waiting.cell)?);
        if let Some(aging) = &mut waiting.aging {
            aging.item = item;
            aging.ticket = ticket;
        }
        Ok(())
    }

    /// A slice has ended and there is an item (or room) that no waiter on its way has come for: these are
    /// stopped or dead. They become LATE and do not count any more. One that comes back reads that in its
    /// cell. The same if they have kept this waiter from its place at the line.
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
            match late {
                // Its wake-up may have been lost with its waker, and its slice may be long.
                Ok(_) => self.wake_later(index),
                Err(WOKEN_LEFT) => self.free_cell(index)?,
                Err(_) => {}
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
        if waiting.cell == 0 {
            return Ok(());
        }
        self.leave_cell(waiting)
    }

    #[cold]
    fn leave_cell(&mut self, waiting: &mut Waiting) -> Result<(), Error> {
        let index = core::mem::take(&mut waiting.cell);
        let list = &self.hot().waiters[waiting.kind as usize];
        let cell = self.cell(index)?;
        match cell.word.get() {
            SLEEPING => {
                self.leave_list(waiting.kind, index)?;
            }
            WOKEN => list.notified.sub(1),
            LATE => {}
            HANDED => {
                self.return_handed_by(index)?;
                self.end_handed(waiting.kind, index)?;
                waiting.note_ticket(Self::ticket_of(cell));
            }
            _ => return Err(self.corrupt("a waiter's cell was freed while it waited")),
        }
        self.free_cell(index)
    }

    /// Takes a sleeping waiter off its list. If it was the watcher, the new watcher is woken to learn it.
    pub(crate) fn leave_list(&mut self, kind: Kind, index: u32) -> Result<(), Error> {
        let was_watcher = self.watcher(kind)? == index;
        self.delist(kind, index)?;
        if was_watcher {
            self.pass_watch(kind, index)?;
        }
        Ok(())
    }

    /// Wakes the new watcher, unless the former one is it still.
    fn pass_watch(&mut self, kind: Kind, former: u32) -> Result<(), Error> {
        self.free_abandoned(kind)?;
        if self.watcher(kind)? != former {
            self.tell_watcher(kind)?;
        }
        Ok(())
    }

    /// The waiter that will be served last, or 0: the getter that came first of those that have not aged, or
    /// the youngest of those that have; the putter that came last.
    pub(crate) fn watcher(&self, kind: Kind) -> Result<u32, Error> {
        let list = &self.hot().waiters[kind as usize];
        if kind == Kind::Room {
            return Ok(list.tail.get());
        }
        let last_aged = self.hot().aged(kind).map_or(0, |aged| aged.tail.get());
        let first = match last_aged {
            0 => list.head.get(),
            last => self.cell(last)?.next.get(),
        };
        Ok(if first == 0 { last_aged } else { first })
    }

    /// Wakes the watcher, so that it reads its position, which is new. If this call is lost (the caller may
    /// die, and the watcher may not be asleep yet), the watcher does so at the end of its slice.
    pub(crate) fn tell_watcher(&mut self, kind: Kind) -> Result<(), Error> {
        let watcher = self.watcher(kind)?;
        if watcher != 0 {
            self.wake_later(watcher);
        }
        Ok(())
    }

    /// Frees cells that were abandoned in the watcher's place.
    pub(crate) fn free_abandoned(&mut self, kind: Kind) -> Result<(), Error> {
        let mut index = self.watcher(kind)?;
        while index != 0 && self.cell(index)?.word.get() == ABANDONED {
            self.delist(kind, index)?;
            self.free_cell(index)?;
            self.tell_watcher(kind)?;
            index = self.watcher(kind)?;
        }
        Ok(())
    }

    /// Frees the cells of a participant that is dead.
    pub(crate) fn free_cells_of(&mut self, owner: ParticipantId) -> Result<(), Error> {
        let hot = self.hot();
        let mut left = BATCH;
        for kind in Kind::ALL {
            if let Some(word) = self.shared.spinning_word(kind) {
                let _ = word.compare_exchange(owner.0, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        for index in 1..hot.cells_high.get().min(self.shared.segment.geometry.cells) {
            let cell = self.cell(index)?;
            let word = cell.word.get();
            if word == WOKEN && cell.owner.get() != owner.0 {
                self.wake_again(index, &mut left);
            }
            if word == FREE || cell.owner.get() != owner.0 {
                continue;
            }
            let Some(kind) = Kind::ALL.get(cell.kind.get() as usize).copied() else {
                return Err(self.corrupt("a waiter's kind is unknown"));
            };
            let list = &hot.waiters[kind as usize];
            match word {
                WOKEN | WOKEN_LEFT => list.notified.sub(1),
                SLEEPING | ABANDONED => self.leave_list(kind, index)?,
                HANDED | HANDED_LEFT => {
                    self.return_handed_by(index)?;
                    self.end_handed(kind, index)?;
                }
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
        for aged in &hot.spinning.aged {
            aged.count.set(0);
            aged.tail.set(0);
            aged.handed.set(0);
        }
        hot.cells_free.set(0);
        hot.timekeeper.set(0);
        hot.spinning.getter.set(0);
        hot.spinning.putter.set(0);
        let mut left = BATCH;
        let high = hot.cells_high.get().clamp(1, self.shared.segment.geometry.cells);
        for index in 1..high {
            let cell = self.cell(index)?;
            let Some(kind) = Kind::ALL.get(cell.kind.get() as usize).copied() else {
                return Err(self.corrupt("a waiter's kind is unknown"));
            };
            match cell.word.get() {
                SLEEPING => self.list_cell(kind, index)?,
                WOKEN => {
                    hot.waiters[kind as usize].notified.add(1);
                    self.wake_again(index, &mut left);
                }
                HANDED => self.rebuild_handed(kind, index)?,
                HANDED_LEFT if kind == Kind::Item => self.rebuild_handed(kind, index)?,
                // Its owner frees it when it comes back, if it does; a dead owner's cells are swept.
                LATE => {}
                FREE | ABANDONED | WOKEN_LEFT | LATE_LEFT | HANDED_LEFT => self.free_cell(index)?,
                _ => return Err(self.corrupt("a waiter's cell is in no known state")),
            }
        }
        for kind in Kind::ALL {
            self.tell_watcher(kind)?;
        }
        Ok(())
    }
}

/// How many waiters of a kind are on their way at most.
pub(crate) fn most_on_their_way() -> u64 {
    u64::from(platform::cores().saturating_sub(1).max(1))
}

/// How long a waiter waits until it has aged.
fn age() -> Duration {
    #[cfg(feature = "early-aging")]
    return early::age();
    #[cfg(not(feature = "early-aging"))]
    AGE
}

/// Waiters that age sooner, for proofs that need many of them. Never in a released build.
#[cfg(feature = "early-aging")]
pub mod early {
    use core::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use crate::memory::layout::Kind;
    use crate::state::Shared;
    use crate::sync::Word;

    impl Shared {
        /// How many waiters sleep and have aged, by an unlocked read.
        pub(crate) fn aged_waiters(&self) -> u32 {
            let aged = &self.segment.hot().spinning.aged;
            aged.iter().map(|aged| aged.count.get()).sum()
        }

        /// How many getters were handed an item and are not back, by an unlocked read.
        pub(crate) fn handed_getters(&self) -> u32 {
            self.segment.hot().spinning.aged[Kind::Item as usize].handed.get()
        }
    }

    static NANOSECONDS: AtomicU64 = AtomicU64::new(super::AGE.as_nanos() as u64);

    /// Lets the waiters of this process age after that time; after none, they have aged before they sleep.
    pub fn age_waiters_after(time: Duration) {
        NANOSECONDS.store(time.as_nanos() as u64, Ordering::Relaxed);
    }

    pub(super) fn age() -> Duration {
        Duration::from_nanos(NANOSECONDS.load(Ordering::Relaxed))
    }
}
