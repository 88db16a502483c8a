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
//! it taken spins briefly, sets `contended`, and sleeps on the word in slices of 50 ms (slice.rs). At the end of a slice it asks the
//! kernel whether the holder lives (participant.rs); if the holder is proven dead, one compare-and-swap from the dead
//! name to one's own takes the lock over: of several survivors one wins. The winner rebuilds (rebuild.rs) before it
//! does anything else; if it dies in that, the next one starts the same from the beginning.
//!
//! A caller that does not block (`Patience::Now`) waits for a holder that runs. Of a holder that kept the lock for a whole
//! slice it reads the state of the process: if it is stopped, the call ends with `Error::Stopped`. If the kernel does not
//! tell (another pid namespace), the call ends after two slices with the same holder.
//!
//! Limits. The lock is a process's, not a thread's: threads of one process exclude each other by the same
//! compare-and-swap from 0. It is not fair.

use std::time::Duration;

use crate::bell::Errand;
use crate::error::Error;
use crate::fault::fault;
use crate::layout::{Hot, Participant, Slot, WaiterCell};
use crate::platform::{self, Instant, Slept};
use crate::queue::{Patience, Queue, Wait};
use crate::slice::Slice;
use crate::sync::{Ordering, Word, spin_loop};
use crate::upkeep::WORK_PUT_OFF;

pub(crate) const CONTENDED: u32 = 1 << 31;
const SLICE: Duration = Duration::from_micros(if cfg!(feature = "fuzzing") { 50 } else { 50_000 });
/// Rounds of looking at a taken lock before sleeping: a few microseconds, some dozens of critical sections.
const SPINS: u32 = if cfg!(loom) { 1 } else { 100 };
/// Woken after the lock is released; more than these are woken before.
const WAKES: usize = 8;
/// How long work that can be put off waits for the lock.
const BRIEFLY: Duration = Duration::from_millis(10);

/// Makes a call that waits however long it takes.
pub(crate) fn surely<T>(call: impl FnOnce(Wait<'_>) -> T) -> T {
    #[cfg(not(feature = "fuzzing"))]
    let mut interrupted = || false;
    #[cfg(feature = "fuzzing")]
    let mut interrupted = crate::fuzzing::interrupted_after_slices();
    call(Wait {
        patience: Patience::Forever,
        interrupted: &mut interrupted,
    })
}

/// The holder that a waiter has seen at each of its looks so far.
struct Suspect {
    name: u32,
    since: Option<Instant>,
}

impl Suspect {
    fn new() -> Suspect {
        Suspect { name: 0, since: None }
    }

    fn see(&mut self, taken: u32) {
        let name = taken & !CONTENDED;
        if self.since.is_none() || self.name != name {
            *self = Suspect {
                name,
                since: Some(Instant::now()),
            };
        }
    }

    /// The lock was released meanwhile, perhaps by the same holder, which runs then.
    fn clear(&mut self) {
        self.since = None;
    }

    fn held_for(&self) -> Duration {
        self.since.map_or(Duration::ZERO, |since| {
            Instant::now().saturating_duration_since(since)
        })
    }
}

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
        let me = match self.member_word_now() {
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

    /// The lock is held, and there is something else to be done first: nothing at all in a damaged queue, or the work that
    /// this process has put off, or to register anew. `me` may say that work was put off (upkeep.rs).
    #[cold]
    fn enter_in_vain(&self, me: u32, wait: &mut Wait<'_>) -> Result<u32, Error> {
        let name = me & !WORK_PUT_OFF;
        let mut section = Section::new(self, name);
        if self.segment.hot().damaged.get() != 0 {
            return Err(section.corrupt("found damaged before"));
        }
        if self.participant_named(name)?.is_none() {
            // Wrongly taken for dead (participant.rs says when that can happen): what it held is gone, and it goes on
            // under a new name.
            drop(section);
            self.forget_name(name);
            return self.acquire(wait);
        }
        section.finish_put_off()?;
        core::mem::forget(section);
        Ok(name)
    }

    /// Takes the lock however long it takes; for work that must be finished.
    #[cfg(any(not(loom), test))]
    pub(crate) fn enter_surely(&self) -> Result<Section<'_>, Error> {
        surely(|mut wait| self.enter(&mut wait))
    }

    /// Takes the lock, or gives up soon: for work that can be put off (upkeep.rs), or that another participant does as well.
    /// Waits 10 ms at most, and not at all while other work of this process is put off already.
    pub(crate) fn enter_briefly(&self) -> Result<Section<'_>, Error> {
        let mut wait = Wait {
            patience: Patience::Try,
            interrupted: &mut || false,
        };
        match self.enter(&mut wait) {
            Err(Error::Busy) if !self.has_work_put_off() => {
                wait.patience = Patience::Until(Instant::now() + BRIEFLY);
                self.enter(&mut wait)
            }
            entered => entered,
        }
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
        let mut slice = Slice::new();
        let mut suspect = Suspect::new();
        loop {
            match wait.patience {
                Patience::Try => return Err(Error::Busy),
                Patience::Until(deadline) if Instant::now() >= deadline => {
                    // However short the time was: or a caller that comes again and again would never take over.
                    if self.take_over(me)? {
                        return Ok(());
                    }
                    return Err(self.why_in_vain(word.load(Ordering::Acquire)));
                }
                _ => {}
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
            suspect.see(seen);
            let slice_end = slice.end(SLICE);
            let end = match wait.patience {
                Patience::Until(deadline) => deadline.min(slice_end),
                _ => slice_end,
            };
            let at_most = end.saturating_duration_since(Instant::now());
            let slept = platform::futex_wait(word, seen | CONTENDED, at_most);
            if slept == Slept::Changed {
                suspect.clear();
            }
            let is_over = slept == Slept::TimedOut || Instant::now() >= end;
            if is_over {
                slice.restart();
                if self.take_over(me)? {
                    return Ok(());
                }
            }
            if (is_over || slept != Slept::Changed) && (wait.interrupted)() {
                return Err(Error::Interrupted);
            }
            if is_over && wait.patience == Patience::Now {
                self.give_up_behind_stopped(&mut suspect)?;
            }
        }
    }

    /// Takes the lock over if its holder is proven dead, and repairs what it left. False if it is not, or another
    /// participant was quicker. Never waits.
    fn take_over(&self, me: u32) -> Result<bool, Error> {
        let word = &self.segment.hot().lock;
        // Acquire: pairs with the release of whoever put its name there (see enter), whose record is looked at now.
        let taken = word.load(Ordering::Acquire);
        let former = taken & !CONTENDED;
        if former == 0 || !self.is_dead_holder(former)? {
            return Ok(false);
        }
        // Both: see enter. Of all survivors that have seen the dead name, one succeeds.
        if word
            .compare_exchange(taken, me | CONTENDED, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            return Ok(false);
        }
        fault!("takeover.taken");
        self.recover(me & !CONTENDED, former)?;
        Ok(true)
    }

    /// Repairs the queue if the lock's holder is dead. Never waits for a holder that lives.
    pub(crate) fn take_over_from_dead(&self) -> Result<(), Error> {
        let me = self.member()?;
        if self.take_over(me)? {
            drop(Section::new(self, me));
        }
        Ok(())
    }

    /// An error if the holder has kept the lock for a slice and is stopped; or for two, and none of its threads runs or the kernel
    /// does not tell.
    fn give_up_behind_stopped(&self, suspect: &mut Suspect) -> Result<(), Error> {
        let held_for = suspect.held_for();
        if held_for < SLICE {
            return Ok(());
        }
        let Some(pid) = self.pid_of_holder(suspect.name)? else {
            return Ok(());
        };
        match self.is_stopped(suspect.name) {
            Some(true) => Err(Error::Stopped { pid }),
            Some(false) if held_for < SLICE * 2 || platform::is_running(pid) => Ok(()),
            // It may have let go and slept since.
            Some(false) if self.segment.hot().lock.get() & !CONTENDED != suspect.name => Ok(()),
            None if held_for < SLICE * 2 => Ok(()),
            Some(false) | None => Err(Error::Stopped { pid }),
        }
    }

    /// What the caller hears whose time is over: the lock is taken, by a process that is stopped or by one that runs.
    fn why_in_vain(&self, taken: u32) -> Error {
        let holder = taken & !CONTENDED;
        match self.pid_of_holder(holder) {
            Ok(Some(pid)) if self.is_stopped(holder) == Some(true) => Error::Stopped { pid },
            _ => Error::Busy,
        }
    }

    fn pid_of_holder(&self, holder: u32) -> Result<Option<u32>, Error> {
        if holder == 0 {
            return Ok(None);
        }
        Ok(self.participant_named(holder)?.map(Participant::pid))
    }

    /// Whether the process behind a name is stopped. `None` if the kernel does not tell this process.
    fn is_stopped(&self, holder: u32) -> Option<bool> {
        let record = self.participant_named(holder).ok()??;
        if self.is_neighbour(record) {
            platform::is_stopped(record.pid())
        } else {
            None
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
