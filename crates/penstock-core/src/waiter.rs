//! Waiting and waking: who sleeps, who is chosen, and why no wake-up is lost.
//!
//! Requirements. A waiter sleeps on a word of its own; a burst of items costs one system call, not one an item; a
//! waiter that is killed, stopped, interrupted or timed out at any moment leaves nobody asleep beside an item.
//!
//! Protocol. A thread that finds nothing enlists a cell under the lock, in the same critical section in which it found
//! nothing. Whoever ends a critical section first restores the invariant (`settle`):
//!
//! > If there are items and getters, then some getter is on its way (or as many as there are items, up to cores - 1).
//! > The same for room and putters. If nothing is unfinished, no joiner sleeps.
//!
//! *On its way* is a waiter that was chosen and has not been back under the lock, and a participant that spins. Since
//! every way back leads through a critical section, whose end restores the invariant again, the wake-ups chain: the
//! chosen one takes an item and its own `settle` chooses the next.
//!
//! A sender of a connection sleeps in `poll` instead of on its cell's word (bell.rs), so that the end of its readers wakes it, too.
//! All else is the same for it.
//!
//! Who was chosen and then dies is found by the sweep, which settles too. Who was chosen and is stopped is found by the
//! others at the end of their slice: they see an item in spite of everything, declare those on their way late, and go on.
//!
//! Getters are chosen last come, first served: the warmest cache, and the fewest processes awake. Putters are chosen in
//! the order in which they came. The waiter that will be chosen last is the *watcher*: it sleeps in slices of 100 ms,
//! at whose end it looks for dead participants. The next two sleep two and three times as long, the others a second; they
//! look only if the watcher has not, because it was killed or stopped itself. Who takes the watcher's place is told so, and
//! would find out by itself at the end of its slice.
//!
//! ```text
//! cell.word:  FREE --enlist--> SLEEPING --chosen--> WOKEN --back under the lock--> FREE
//!                                  |                  \--others' patience ended--> LATE --back--> FREE
//!                                  \--leaves without the lock--> ABANDONED (freed by whoever chooses it)
//!
//! WOKEN, LATE --leaves without the lock--> WOKEN_LEFT, LATE_LEFT (freed by its process's next section, see upkeep.rs)
//! ```
//!
//! A slice ends by the clock, whatever ended the sleeps in it (slice.rs).
//!
//! Who may write: everything under the lock, except that a cell's owner may compare-and-swap its word without it, from
//! SLEEPING to ABANDONED, from WOKEN to WOKEN_LEFT and from LATE to LATE_LEFT. SLEEPING and ABANDONED cells are on a list, the others are not. The word is the truth; the lists
//! and their numbers are caches, and after a take-over the order of the waiters may be another.

use std::time::Duration;

use crate::bell::Place;
use crate::error::Error;
use crate::fault::fault;
use crate::layout::{CELLS, PAGE, WaiterCell, WaiterList};
use crate::lock::Section;
use crate::platform::{self, Instant, Slept};
use crate::queue::{Patience, Queue, Wait};
use crate::slice::Slice;
use crate::sync::{AtomicU32, Count, LockedU32, Ordering, Word, spin_loop};

pub(crate) const FREE: u32 = 0;
pub(crate) const SLEEPING: u32 = 1;
pub(crate) const WOKEN: u32 = 2;
pub(crate) const LATE: u32 = 3;
pub(crate) const ABANDONED: u32 = 4;
/// Its owner has left after it was chosen. It counts as on its way until it is freed.
pub(crate) const WOKEN_LEFT: u32 = 5;
/// The same, of one that does not count any more.
pub(crate) const LATE_LEFT: u32 = 6;

/// What is waited for; also the index of the waiters' list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Item = 0,
    Room = 1,
    Finish = 2,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Item, Kind::Room, Kind::Finish];

    /// What a caller hears whose patience ended.
    fn missed(self) -> Error {
        match self {
            Kind::Room => Error::Full,
            Kind::Item | Kind::Finish => Error::Empty,
        }
    }

    /// What a caller hears whose operation failed: that the lock was not to be had is for those who come again.
    pub(crate) fn conclude(self, error: Error, patience: Patience) -> Error {
        match (error, self) {
            (Error::Busy, _) if patience != Patience::Try => self.missed(),
            (Error::Stopped { pid }, Kind::Room) => Error::FullBehindStopped { pid },
            (Error::Stopped { pid }, Kind::Item | Kind::Finish) => Error::EmptyBehindStopped { pid },
            (error, _) => error,
        }
    }
}

const SLICE: Duration = Duration::from_micros(if cfg!(feature = "fuzzing") { 50 } else { 100_000 });

/// Poll interval of a sender that may not fill the pipe yet, because notified senders have not come back (bell.rs). After
/// a slice it treats those as late.
const FOR_NOW: Duration = Duration::from_millis(1);

/// What a spin may cost, in nanoseconds, and what it costs while it does not pay.
const SPIN_MOST: u32 = 50_000;
const SPIN_LEAST: u32 = 500;
/// While it does not pay, one wait in so many tries the full budget again.
const PROBE_EVERY: u32 = 32;
/// Pauses of the processor between two looks of a spinner, about a microsecond and a half. Measured: a consumer that looks
/// more often takes the line away from the producer for every single item, and both are slower.
const LOOK_AFTER: u32 = if cfg!(loom) { 1 } else { 64 };

/// How long a process spins before it sleeps. A spin that is rewarded restores the full budget, one that is not halves it:
/// so two processes on cores of their own find each other spinning, and two that share a core soon give way to each other.
pub(crate) struct SpinBudget {
    nanoseconds: AtomicU32,
    waits: AtomicU32,
}

impl SpinBudget {
    pub(crate) fn new() -> SpinBudget {
        SpinBudget {
            nanoseconds: AtomicU32::new(SPIN_MOST),
            waits: AtomicU32::new(0),
        }
    }

    fn next(&self) -> Duration {
        let wait = self.waits.get().wrapping_add(1);
        self.waits.set(wait);
        let budget = if wait % PROBE_EVERY == 0 {
            SPIN_MOST
        } else {
            self.nanoseconds.get()
        };
        Duration::from_nanos(u64::from(budget))
    }

    fn adapt(&self, paid: bool) {
        let halved = (self.nanoseconds.get() / 2).max(SPIN_LEAST);
        self.nanoseconds.set(if paid { SPIN_MOST } else { halved });
    }
}

/// One call's wait, from the first look to the end.
pub(crate) struct Waiting {
    kind: Kind,
    cell: u32,
    has_spun: bool,
    was_chosen: bool,
    slice: Slice,
    /// Slices that have ended.
    slices: u32,
    /// Whether the last sleep was one of FOR_NOW, and whether it ended before its slice did.
    is_displaced: bool,
    is_early: bool,
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

    /// Whether somebody has woken this waiter on purpose.
    pub(crate) fn was_chosen(&self) -> bool {
        self.was_chosen
    }
}

impl Queue {
    /// Takes the lock for an operation that may have to wait, after a look without it: who would find nothing does not
    /// trouble those who are at work, and spins first.
    #[inline(always)]
    pub(crate) fn approach<'q>(
        &'q self,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
    ) -> Result<Section<'q>, Error> {
        self.acquire_unless_quiet(waiting, wait)
            .map(|me| Section::new(self, me))
    }

    #[inline(always)]
    fn acquire_unless_quiet(&self, waiting: &mut Waiting, wait: &mut Wait<'_>) -> Result<u32, Error> {
        if self.is_quiet(waiting.kind) {
            match wait.patience {
                Patience::Try => return Err(waiting.kind.missed()),
                Patience::Now => {}
                Patience::Until(_) | Patience::Forever => {
                    let me = self.member()?;
                    if let Some(acquired) = self.spin_and_acquire(waiting, wait, me) {
                        return acquired;
                    }
                }
            }
        }
        self.acquire(wait)
    }

    /// Whether a waiter would find nothing, by a look without the lock. A lock that is taken may be a dead holder's, whose
    /// books are half changed: then only the lock tells.
    #[inline(always)]
    fn is_quiet(&self, kind: Kind) -> bool {
        let hot = self.segment.hot();
        !self.promises(kind) && hot.lock.get() == 0 && hot.damaged.get() == 0
    }

    /// The same after all that was done under the lock so far. A mere look may see old numbers slice after slice.
    fn is_surely_quiet(&self, kind: Kind) -> bool {
        let lock = &self.segment.hot().lock;
        // An exchange of nothing, which does not take the lock, because an exchange reads the last value there is.
        // Acquire: pairs with the release in Section::drop of whoever held the lock last.
        lock.compare_exchange(0, 0, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            && self.is_quiet(kind)
    }

    /// Whether there is what is waited for, by a look without the lock: a hint.
    #[inline(always)]
    pub(crate) fn promises(&self, kind: Kind) -> bool {
        match kind {
            Kind::Item => self.ready_count() > 0,
            Kind::Room => self.has_room(),
            Kind::Finish => self.segment.hot().unfinished.get() == 0,
        }
    }

    /// Spins once in a wait, if this process may. `None` if not.
    fn spin_and_acquire(
        &self,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
        me: u32,
    ) -> Option<Result<u32, Error>> {
        if core::mem::replace(&mut waiting.has_spun, true) || !self.start_spinning(waiting.kind, me) {
            return None;
        }
        self.spin(waiting.kind);
        Some(self.acquire_from_spin(waiting.kind, wait))
    }

    /// Spins once, if this process may, for those whose wake-up comes by the bell (bell.rs) and not by a list: that they are
    /// on their way matters to nobody. True if there is what was waited for.
    #[cfg(not(loom))]
    pub(crate) fn spin_without_lock(&self, kind: Kind) -> Result<bool, Error> {
        let me = self.member()?;
        if !self.start_spinning(kind, me) {
            return Ok(false);
        }
        self.spin(kind);
        self.stop_spinning(kind);
        Ok(self.promises(kind))
    }

    /// Waits for a change, with the section's lock released meanwhile. The caller looks again, in a loop.
    pub(crate) fn wait_for<'q>(
        &'q self,
        mut section: Section<'q>,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
    ) -> Result<Section<'q>, Error> {
        let timed_out = match wait.patience {
            Patience::Try | Patience::Now => true,
            Patience::Until(deadline) => Instant::now() >= deadline,
            Patience::Forever => false,
        };
        if timed_out {
            section.withdraw(waiting)?;
            drop(section);
            return Err(waiting.kind.missed());
        }
        if !waiting.has_spun {
            let me = section.me;
            drop(section);
            return self
                .spin_and_acquire(waiting, wait, me)
                .unwrap_or_else(|| self.acquire(wait))
                .map(|me| Section::new(self, me));
        }
        if waiting.cell == 0 {
            section.free_abandoned(&self.segment.hot().waiters[waiting.kind as usize], waiting.kind)?;
            waiting.cell = section.enlist(waiting.kind)?;
        }
        let position = section.position(waiting)?;
        let place = section.place_to_sleep(waiting.kind);
        drop(section);
        fault!("wait.enlisted");
        let entered = self
            .sleep(waiting, (position, place), wait)
            .and_then(|()| self.enter(wait));
        let mut section = match entered {
            Ok(section) => section,
            Err(error) => {
                self.abandon(waiting);
                return Err(error);
            }
        };
        fault!("wait.back");
        section.arrive(waiting)?;
        Ok(section)
    }

    /// Sleeps until chosen, until the caller's patience ends, or until a slice has ended. Only the watcher sleeps on beside
    /// an idle queue, and looks at its place in the list once a second; the others do so after each of their slices.
    fn sleep(
        &self,
        waiting: &mut Waiting,
        (position, place): (u32, Place),
        wait: &mut Wait<'_>,
    ) -> Result<(), Error> {
        let cell = self.segment.cell(waiting.cell)?;
        let slice = match (place, waiting.kind, position) {
            (Place::CellForNow, ..) => SLICE,
            (_, _, 0..3) => SLICE * (position + 1),
            // Joiners are woken all at once: a waker that dies before it calls them leaves them all asleep.
            (_, Kind::Finish, _) => SLICE * 3,
            _ => SLICE * 10,
        };
        loop {
            let slice_end = waiting.slice.end(slice);
            let (end, is_last) = match wait.patience {
                Patience::Until(deadline) => (deadline.min(slice_end), deadline <= slice_end),
                _ => (slice_end, false),
            };
            let at_most = end.saturating_duration_since(Instant::now());
            fault!("wait.asleep");
            let slept = match place {
                Place::Cell => platform::futex_wait(&cell.word, SLEEPING, at_most),
                Place::CellForNow => platform::futex_wait(&cell.word, SLEEPING, at_most.min(FOR_NOW)),
                Place::Pipe(there, back) => platform::await_unplugged((there, back), at_most),
            };
            let is_whole = place != Place::CellForNow || at_most <= FOR_NOW;
            let is_over = slept == Slept::TimedOut && is_whole || Instant::now() >= end;
            waiting.is_displaced = place == Place::CellForNow;
            waiting.is_early = !is_over;
            if is_over {
                waiting.slice.restart();
                waiting.slices += 1;
                self.end_slice(waiting.slices, position)?;
            }
            // Room, or the end of all readers.
            let is_pipe_ready = matches!(place, Place::Pipe(..)) && cell.word.get() == SLEEPING;
            if (is_over || is_pipe_ready || slept != Slept::Changed) && (wait.interrupted)() {
                return Err(Error::Interrupted);
            }
            let sleeps_on = is_over && position == 0 && waiting.slices % 10 != 0 && !is_last;
            if !sleeps_on || !self.is_surely_quiet(waiting.kind) {
                return Ok(());
            }
        }
    }

    /// What a waiter does at the end of its slice: the watcher looks at those who hold something each time, and at all
    /// participants at each tenth; any other waiter looks if the watcher has not, because it is dead or stopped.
    fn end_slice(&self, slices: u32, position: u32) -> Result<(), Error> {
        if position == 0 {
            self.look_for_dead(slices % 10 == 0)?;
            self.tidy()?;
        } else if self.is_time_to_look() {
            self.look_for_dead(true)?;
        }
        Ok(())
    }

    /// Ends the wait of an operation that has failed. Answers what its caller hears.
    #[cold]
    pub(crate) fn end_in_vain(&self, error: Error, waiting: &mut Waiting, patience: Patience) -> Error {
        self.abandon(waiting);
        waiting.kind.conclude(error, patience)
    }

    /// Leaves the list; without the lock if need be, which may be stuck behind a stopped process.
    pub(crate) fn abandon(&self, waiting: &mut Waiting) {
        if waiting.cell == 0 {
            return;
        }
        if let Ok(mut section) = self.enter_briefly() {
            // An error here means damage, of which the caller has an error already.
            let _ = section.withdraw(waiting);
        } else if let Ok(cell) = self.segment.cell(waiting.cell) {
            self.leave_cell(cell);
        }
        waiting.cell = 0;
    }

    /// Leaves without the lock. If this waiter was chosen already, its next section passes the wake-up on; or the end of
    /// another waiter's slice, which takes it for late.
    fn leave_cell(&self, cell: &WaiterCell) {
        for (word, left) in [(SLEEPING, ABANDONED), (WOKEN, WOKEN_LEFT), (LATE, LATE_LEFT)] {
            // From one to the next it is changed by others, never back.
            let has_left = cell
                .word
                .compare_exchange(word, left, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
            if has_left {
                fault!("wait.left");
                if left != ABANDONED {
                    self.put_off_work();
                }
                return;
            }
        }
    }

    /// Takes the lock after a pause in which a consumer may give memory back, because new memory costs more: for so many
    /// nanoseconds at most, in which it would have been had.
    #[cfg(not(loom))]
    pub(crate) fn pause_for_memory<'q>(
        &'q self,
        section: Section<'q>,
        at_most: u64,
        wait: &mut Wait<'_>,
    ) -> Result<Section<'q>, Error> {
        let (hot, me) = (section.hot(), section.me);
        let used = hot.used_bytes.get();
        // Still under the lock: who pauses counts as on its way, so nobody else is sent for its room meanwhile.
        let is_alone = self.start_spinning(Kind::Room, me);
        drop(section);
        if !is_alone {
            return self.enter(wait);
        }
        fault!("put.pausing");
        let at_most = Duration::from_nanos(at_most);
        spin_until(&self.memory_budget, at_most, || hot.used_bytes.get() < used);
        self.acquire_from_spin(Kind::Room, wait)
            .map(|me| Section::new(self, me))
    }

    /// Takes the lock, as who was spinning does.
    fn acquire_from_spin(&self, kind: Kind, wait: &mut Wait<'_>) -> Result<u32, Error> {
        let acquired = self.acquire(wait);
        // Not before the lock is taken: until then the spinner counts as on its way.
        self.stop_spinning(kind);
        if acquired.is_err() {
            // Others may have relied on it. The end of any section sends the next one.
            let _ = self.enter_briefly();
        }
        acquired
    }

    /// Looks at the queue's numbers, without the lock, until they promise something or the budget is spent.
    fn spin(&self, kind: Kind) {
        let budget = &self.spin_budgets[kind as usize];
        spin_until(budget, Duration::MAX, || self.promises(kind));
    }

    /// Registers as the one participant that spins, if spinning can pay at all. Whoever does takes the lock afterwards.
    fn start_spinning(&self, kind: Kind, me: u32) -> bool {
        platform::cores() > 1
            && self.spinning_word(kind).is_some_and(|word| {
                word.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            })
    }

    fn stop_spinning(&self, kind: Kind) {
        if let (Some(word), Some(me)) = (self.spinning_word(kind), self.member_if_any()) {
            // Only if it is still this process's: others may have given up on it.
            let _ = word.compare_exchange(me, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    pub(crate) fn spinning_word(&self, kind: Kind) -> Option<&AtomicU32> {
        match kind {
            Kind::Item => Some(&self.segment.hot().spinning.getter),
            Kind::Room => Some(&self.segment.hot().spinning.putter),
            Kind::Finish => None,
        }
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
            self.toll();
        }
        if waiting == 0 || hot.damaged.get() != 0 {
            return;
        }
        if self.settle_waiters().is_err() {
            // It is damage, and the next operation reports it.
            hot.damaged.set(1);
        }
    }

    fn settle_waiters(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        let most = u64::from(platform::cores().saturating_sub(1).max(1));
        let [getters, putters, joiners] = &hot.waiters;
        let ready = hot.ready_count.get();
        while getters.length.get() > 0
            && u64::from(getters.on_way.get()) + u64::from(hot.spinning.getter.get() != 0) < most.min(ready)
        {
            self.choose(getters, getters.tail.get())?;
        }
        while putters.length.get() > 0
            && self.queue.has_room()
            && u64::from(putters.on_way.get()) + u64::from(hot.spinning.putter.get() != 0) < most
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
                list.on_way.add(1);
                self.wake_later(index);
                if cell.kind.get() == Kind::Room as u32 && list.length.get() > 0 {
                    self.call_senders();
                }
                Ok(())
            }
            Err(ABANDONED) => self.free_cell(index),
            Err(_) => Err(self.corrupt("a listed waiter does not wait")),
        }
    }

    /// Takes a cell and appends it to the list of its kind.
    pub(crate) fn enlist(&mut self, kind: Kind) -> Result<u32, Error> {
        let hot = self.hot();
        let mut index = hot.cells_free.get();
        if index == 0 {
            index = hot.cells_high.get();
            if index >= CELLS {
                return Err(Error::TooManyWaiters { limit: CELLS - 1 });
            }
            if index >= hot.cells_backed.get() {
                // One page for 64 waiters, so rarely that it may happen under the lock.
                let per_page = (PAGE / size_of::<WaiterCell>() as u64) as u32;
                let start = self.queue.segment.geometry.cells_at + u64::from(index / per_page) * PAGE;
                self.queue.segment.back(start, PAGE)?;
                hot.cells_backed.set((index / per_page + 1) * per_page);
            }
            hot.cells_high.set(index + 1);
        } else {
            hot.cells_free.set(self.cell(index)?.next.get());
        }
        let cell = self.cell(index)?;
        if cell.word.get() != FREE {
            return Err(self.corrupt("a free waiter's cell is not free"));
        }
        cell.owner.set(self.me);
        cell.kind.set(kind as u32);
        // Release: the commit of the enlisting; the fields above belong to it.
        cell.word.store(SLEEPING, Ordering::Release);
        self.list_cell(&hot.waiters[kind as usize], index)?;
        Ok(index)
    }

    /// Appends a cell, whose word is SLEEPING, to a list.
    pub(crate) fn list_cell(&self, list: &WaiterList, index: u32) -> Result<(), Error> {
        let cell = self.cell(index)?;
        let tail = list.tail.get();
        let end = if tail == 0 {
            &list.head
        } else {
            &self.cell(tail)?.next
        };
        if end.get() != 0 {
            return Err(self.corrupt("a list of waiters does not end at its end"));
        }
        cell.next.set(0);
        cell.prev.set(tail);
        end.set(index);
        list.tail.set(index);
        list.length.add(1);
        Ok(())
    }

    /// Of senders the last one leaves a pipe that can be written to.
    fn delist(&mut self, list: &WaiterList, index: u32) -> Result<(), Error> {
        let cell = self.cell(index)?;
        let (next, prev) = (cell.next.get(), cell.prev.get());
        let before = if prev == 0 {
            &list.head
        } else {
            &self.cell(prev)?.next
        };
        let after = if next == 0 {
            &list.tail
        } else {
            &self.cell(next)?.prev
        };
        if before.get() != index || after.get() != index {
            return Err(self.corrupt("a list of waiters is torn"));
        }
        before.set(next);
        after.set(prev);
        list.length.sub(1);
        if list.length.get() == 0 && cell.kind.get() == Kind::Room as u32 {
            self.call_senders();
        }
        Ok(())
    }

    pub(crate) fn free_cell(&self, index: u32) -> Result<(), Error> {
        let hot = self.hot();
        let cell = self.cell(index)?;
        cell.word.store(FREE, Ordering::Release);
        cell.next.set(hot.cells_free.get());
        hot.cells_free.set(index);
        Ok(())
    }

    /// How many would be chosen after this waiter, counted up to 3.
    fn position(&self, waiting: &Waiting) -> Result<u32, Error> {
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

    /// Back under the lock after a sleep. Who was not chosen stays on the list.
    fn arrive(&mut self, waiting: &mut Waiting) -> Result<(), Error> {
        let hot = self.hot();
        let list = &hot.waiters[waiting.kind as usize];
        match self.cell(waiting.cell)?.word.get() {
            SLEEPING if waiting.is_early => return Ok(()),
            SLEEPING => {
                self.give_up_on_the_late(waiting)?;
                return Ok(());
            }
            WOKEN => list.on_way.sub(1),
            LATE => {}
            _ => return Err(self.corrupt("a waiter's cell was freed under it")),
        }
        waiting.was_chosen = true;
        self.free_cell(waiting.cell)?;
        waiting.cell = 0;
        Ok(())
    }

    /// A slice has ended and there is an item (or room) although nobody came for it: whoever was on the way is stopped
    /// or dead. They count no more; should they come, they will find out. The same if they have kept this waiter from its place.
    fn give_up_on_the_late(&mut self, waiting: &Waiting) -> Result<(), Error> {
        let (hot, kind) = (self.hot(), waiting.kind);
        let list = &hot.waiters[kind as usize];
        let spinning = self.queue.spinning_word(kind);
        let promising = match kind {
            Kind::Item => hot.ready_count.get() > 0,
            Kind::Room => self.queue.has_room() || waiting.is_displaced,
            Kind::Finish => false,
        };
        if !promising || (list.on_way.get() == 0 && spinning.is_none_or(|word| word.get() == 0)) {
            return Ok(());
        }
        for index in 1..hot.cells_high.get().min(CELLS) {
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
        list.on_way.set(0);
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
            WOKEN => list.on_way.sub(1),
            LATE => {}
            _ => return Err(self.corrupt("a waiter's cell was freed under it")),
        }
        self.free_cell(index)
    }

    /// Takes a sleeping waiter off its list. If it was the watcher, the one who is now learns of it.
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

    /// Has the watcher look at its place, because it is new there. Should this call be lost (its maker may die, and the
    /// watcher may not be asleep yet), then it looks at the end of its slice.
    fn tell_watcher(&mut self, list: &WaiterList, kind: Kind) {
        let watcher = watcher_of(list, kind).get();
        if watcher != 0 {
            self.wake_later(watcher);
        }
    }

    /// Frees cells that were abandoned in the watcher's place.
    fn free_abandoned(&mut self, list: &WaiterList, kind: Kind) -> Result<(), Error> {
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
    pub(crate) fn free_cells_of(&mut self, owner: u32) -> Result<(), Error> {
        let hot = self.hot();
        for kind in Kind::ALL {
            if let Some(word) = self.queue.spinning_word(kind) {
                let _ = word.compare_exchange(owner, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        for index in 1..hot.cells_high.get().min(CELLS) {
            let cell = self.cell(index)?;
            let word = cell.word.get();
            if word == FREE || cell.owner.get() != owner {
                continue;
            }
            let Some(kind) = Kind::ALL.get(cell.kind.get() as usize).copied() else {
                return Err(self.corrupt("a waiter waits for nothing known"));
            };
            let list = &hot.waiters[kind as usize];
            match word {
                WOKEN | WOKEN_LEFT => list.on_way.sub(1),
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
            list.on_way.set(0);
        }
        hot.cells_free.set(0);
        hot.spinning.getter.set(0);
        hot.spinning.putter.set(0);
        let high = hot.cells_high.get().clamp(1, CELLS);
        for index in 1..high {
            let cell = self.cell(index)?;
            let Some(list) = hot.waiters.get(cell.kind.get() as usize) else {
                return Err(self.corrupt("a waiter waits for nothing known"));
            };
            match cell.word.get() {
                SLEEPING => self.list_cell(list, index)?,
                WOKEN => list.on_way.add(1),
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

fn spin_until(budget: &SpinBudget, at_most: Duration, is_there: impl Fn() -> bool) {
    let end = Instant::now() + budget.next().min(at_most);
    loop {
        if is_there() {
            return budget.adapt(true);
        }
        // Not too often: each look takes the line away from those who are at work on it.
        for _ in 0..LOOK_AFTER {
            spin_loop();
        }
        if Instant::now() >= end {
            return budget.adapt(false);
        }
    }
}

/// The end of the list at which the waiter stands that is chosen last.
fn watcher_of(list: &WaiterList, kind: Kind) -> &LockedU32 {
    if kind == Kind::Room {
        &list.tail
    } else {
        &list.head
    }
}
