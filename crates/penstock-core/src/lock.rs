//! The lock of a queue, which a survivor takes over when its holder died, and the critical section it guards.
//!
//! Requirements. Held for tens of nanoseconds; never held by nobody knows whom; taken over from a holder that is
//! proven dead, within one time slice; a stopped holder is alive and is waited for.
//!
//! Protocol. The lock word is a futex:
//!
//! ```text
//!    bit 31      bits 12..31    bits 0..12
//!    contended   incarnation    participant's index        all zero: free
//! ```
//!
//! To take it is one compare-and-swap from 0 to one's own name, so at every instant the word says who holds it. Who finds
//! it taken spins briefly, sets `contended`, and sleeps on the word in slices of 50 ms. At the end of a slice it asks the
//! kernel whether the holder lives (participant.rs); if the holder is proven dead, one compare-and-swap from the dead
//! name to one's own takes the lock over: of several survivors one wins. The winner rebuilds (recovery.rs) before it
//! does anything else; if it dies in that, the next one starts the same from the beginning.
//!
//! Limits. The lock is a process's, not a thread's: threads of one process exclude each other by the same
//! compare-and-swap from 0. It is not fair.

use std::time::Duration;

use crate::bell::Errand;
use crate::error::Error;
use crate::fault::fault;
use crate::layout::{Hot, Slot, WaiterCell};
use crate::platform::{self, Instant, Slept};
use crate::queue::{Patience, Queue, Wait};
use crate::sync::{Ordering, Word, spin_loop};

pub(crate) const CONTENDED: u32 = 1 << 31;
const SLICE: Duration = Duration::from_micros(if cfg!(feature = "fuzzing") { 50 } else { 50_000 });
/// Rounds of looking at a taken lock before sleeping: a few microseconds, some dozens of critical sections.
const SPINS: u32 = if cfg!(loom) { 1 } else { 100 };
/// Woken after the lock is released; more than these are woken before.
const WAKES: usize = 8;

/// A participant's name, as it stands in the lock word: index (bits 0..12), incarnation (bits 12..31).
pub(crate) fn index_of(name: u32) -> u32 {
    name & 0xfff
}

/// The critical section: whoever has one holds the lock. Dropping it restores the waiters' invariant (waiter.rs),
/// releases the lock, has the next operation's place fetched, and then makes the wake-up calls.
///
/// Inside it there is no Python, no allocation, no logging and no panic.
pub(crate) struct Section<'q> {
    pub queue: &'q Queue,
    pub me: u32,
    wakes: [u32; WAKES],
    wake_count: usize,
    /// What is due at the bell once the lock is released. See bell.rs.
    pub errand: Errand,
    pub ahead: Ahead,
}

/// The place where the same operation will probably find its next payload, or write it: once the lock is released the
/// processor is told to fetch it from the cache of whoever wrote or read there last. Inside the next critical section that would take
/// longer than all the rest. The length is that of the present payload.
#[derive(Clone, Copy)]
pub(crate) enum Ahead {
    Nothing,
    ToRead { start: u32, len: u64 },
    ToWrite { start: u32, len: u64 },
}

impl Queue {
    /// Takes the lock. `Error::Busy` if the wait's patience ended first.
    #[inline(always)]
    pub(crate) fn enter(&self, wait: &mut Wait<'_>) -> Result<Section<'_>, Error> {
        self.acquire(wait).map(|me| Section::new(self, me))
    }

    /// The same without the guard, which the caller makes of the name that this answers. So it is made in its place: to
    /// move one costs as much as all else in here.
    #[inline(always)]
    pub(crate) fn acquire(&self, wait: &mut Wait<'_>) -> Result<u32, Error> {
        let me = match self.member_now() {
            Some(me) => me,
            // To register makes system calls, and may have to sweep.
            None if wait.patience == Patience::Try => return Err(Error::Busy),
            None => self.join_in(wait)?,
        };
        let hot = self.segment.hot();
        // Acquire: pairs with the release in Section::drop of the holder before, or with the release of the commits of
        // a dead holder, whose stores the kernel made visible before it reported the death.
        // Release: pairs with the acquire in enter_slow: whoever sees this name finds the record that belongs to it.
        if hot
            .lock
            .compare_exchange(0, me, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            self.enter_slow(me, wait)?;
        }
        fault!("lock.taken");
        if hot.damaged.get() == 0 && matches!(self.participant_named(me), Ok(Some(_))) {
            return Ok(me);
        }
        self.enter_in_vain(me, wait)
    }

    /// The lock is held, and this process has no business in the section, or nobody has.
    #[cold]
    fn enter_in_vain(&self, me: u32, wait: &mut Wait<'_>) -> Result<u32, Error> {
        let section = Section::new(self, me);
        if self.segment.hot().damaged.get() != 0 {
            return Err(section.corrupt("found damaged before"));
        }
        if self.participant_named(me)?.is_none() {
            // Wrongly taken for dead (participant.rs says when that can happen): what it held is gone, and it goes on
            // under a new name.
            drop(section);
            self.forget_name(me);
            return self.acquire(wait);
        }
        core::mem::forget(section);
        Ok(me)
    }

    /// Takes the lock however long it takes; for work that must be finished.
    pub(crate) fn enter_surely(&self) -> Result<Section<'_>, Error> {
        #[cfg(not(feature = "fuzzing"))]
        let mut interrupted = || false;
        #[cfg(feature = "fuzzing")]
        let mut interrupted = crate::fuzzing::interrupted_after_slices();
        self.enter(&mut Wait {
            patience: Patience::Forever,
            interrupted: &mut interrupted,
        })
    }

    #[cold]
    fn enter_slow(&self, me: u32, wait: &mut Wait<'_>) -> Result<(), Error> {
        let word = &self.segment.hot().lock;
        if platform::cores() > 1 {
            for _ in 0..SPINS {
                if word.get() == 0
                    && word
                        .compare_exchange(0, me, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
                {
                    return Ok(());
                }
                spin_loop();
            }
        }
        loop {
            let is_over = match wait.patience {
                Patience::Try => true,
                Patience::Until(deadline) => Instant::now() >= deadline,
                Patience::Now | Patience::Forever => false,
            };
            if is_over {
                return Err(Error::Busy);
            }
            let seen = word.get();
            if seen == 0 {
                // Others may sleep, so the word says contended: the release then wakes one, perhaps for nothing.
                if word
                    .compare_exchange(0, me | CONTENDED, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
                {
                    return Ok(());
                }
                continue;
            }
            if seen & CONTENDED == 0
                && word
                    .compare_exchange(seen, seen | CONTENDED, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            let taken = seen | CONTENDED;
            let slice = match wait.patience {
                Patience::Until(deadline) => deadline.saturating_duration_since(Instant::now()).min(SLICE),
                _ => SLICE,
            };
            let slept = platform::futex_wait(word, taken, slice);
            // Acquire: pairs with the release of whoever put its name there (see enter), whose record is looked at now.
            if slept == Slept::TimedOut
                && word.load(Ordering::Acquire) == taken
                && self.is_dead_holder(taken & !CONTENDED)?
            {
                // Both: see enter. Of all survivors that have seen the dead name, one succeeds.
                if word
                    .compare_exchange(taken, me | CONTENDED, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
                {
                    fault!("takeover.taken");
                    return self.recover(me, taken & !CONTENDED);
                }
                continue;
            }
            if slept != Slept::Changed && (wait.interrupted)() {
                return Err(Error::Interrupted);
            }
        }
    }

    /// Whether the participant named in the lock word is proven dead.
    fn is_dead_holder(&self, holder: u32) -> Result<bool, Error> {
        match self.participant_named(holder)? {
            Some(record) => Ok(self.is_dead(index_of(holder), record, true)),
            // It let go, left, and its record was freed in the meantime; or the word is garbage.
            None if self.segment.hot().lock.get() & !CONTENDED != holder => Ok(false),
            None => Err(Error::Corrupt {
                id: self.segment.id,
                what: "the lock's holder is nobody",
            }),
        }
    }

    /// What the new holder does first after a take-over: it rebuilds, and sweeps the former holder. Other dead are found
    /// as usual, outside the lock. On damage the queue is marked and the lock released.
    fn recover(&self, me: u32, former: u32) -> Result<(), Error> {
        let mut section = Section::new(self, me);
        let recovered = section.rebuild().and_then(|()| section.sweep_named(former));
        if recovered.is_err() {
            self.segment.hot().damaged.set(1);
            return recovered;
        }
        section.wake_chosen();
        // The caller goes on inside the section: it makes its own guard.
        core::mem::forget(section);
        Ok(())
    }
}

impl<'q> Section<'q> {
    /// The guard of a lock that was just acquired.
    #[inline(always)]
    pub(crate) fn new(queue: &'q Queue, me: u32) -> Section<'q> {
        Section {
            queue,
            me,
            wakes: [0; WAKES],
            wake_count: 0,
            errand: Errand::None,
            ahead: Ahead::Nothing,
        }
    }

    #[inline(always)]
    pub(crate) fn hot(&self) -> &'q Hot {
        self.queue.segment.hot()
    }

    #[inline(always)]
    pub(crate) fn slot(&self, index: u32) -> Result<&'q Slot, Error> {
        self.queue.segment.slot(index)
    }

    pub(crate) fn cell(&self, index: u32) -> Result<&'q WaiterCell, Error> {
        self.queue.segment.cell(index)
    }

    /// Whether another thread sleeps until the lock is released.
    pub(crate) fn is_contended(&self) -> bool {
        self.hot().lock.get() & CONTENDED != 0
    }

    pub(crate) fn my_index(&self) -> u32 {
        index_of(self.me)
    }

    /// Notes the damage, so that every later operation answers the same.
    #[cold]
    pub(crate) fn corrupt(&self, what: &'static str) -> Error {
        self.hot().damaged.set(1);
        Error::Corrupt {
            id: self.queue.segment.id,
            what,
        }
    }

    /// Has a cell woken once the lock is released.
    pub(crate) fn wake_later(&mut self, cell: u32) {
        match self.wakes.get_mut(self.wake_count) {
            Some(place) => {
                *place = cell;
                self.wake_count += 1;
            }
            None => self.wake(cell),
        }
    }

    /// Makes the calls that were put off.
    fn wake_chosen(&mut self) {
        for i in 0..core::mem::take(&mut self.wake_count).min(WAKES) {
            self.wake(self.wakes[i]);
        }
    }

    fn wake(&self, cell: u32) {
        if let Ok(cell) = self.queue.segment.cell(cell) {
            platform::futex_wake(&cell.word, 1);
        }
    }
}

impl Drop for Section<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.settle();
        let word = &self.hot().lock;
        // Release: pairs with the acquire in Queue::enter of the next holder.
        if word.swap(0, Ordering::Release) & CONTENDED != 0 {
            platform::futex_wake(word, 1);
        }
        self.queue.segment.fetch_ahead(self.ahead);
        if self.wake_count > 0 {
            fault!("unlock.before-wake");
            self.wake_chosen();
        }
        if !matches!(self.errand, Errand::None) {
            self.queue.run(self.errand);
        }
    }
}
