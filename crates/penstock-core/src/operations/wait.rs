//! Waiting: a thread sleeps until it is notified, and does upkeep at the end of its slices
//! (state/waiters.rs).

use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::handle::put_off::is_stuck;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::memory::layout::{Kind, ParticipantId};
use crate::options::{Own, Patience, Wait, uninterruptible};
use crate::platform::{self, Instant, Slept};
use crate::state::Section;
use crate::state::line::SleepTarget;
use crate::state::waiters::{
    ABANDONED, AGE, HANDED, HANDED_LEFT, LATE, LATE_LEFT, NEAR, Place, SLEEPING, WOKEN, WOKEN_LEFT, Waiting,
};
use crate::sync::{Ordering, Word};

#[cfg(all(test, not(loom)))]
mod tests;

impl Kind {
    /// The error that a caller gets when its patience has ended.
    fn missed(self) -> Error {
        match self {
            Kind::Room => Error::Full,
            Kind::Item | Kind::Finish => Error::Empty,
        }
    }

    /// The error that a caller gets when its operation failed. `Busy` is for [`Patience::TryLock`] and
    /// [`Patience::Briefly`] alone, whose callers call again.
    pub(crate) fn map_timeout(self, error: Error, patience: Patience) -> Error {
        match (error, self) {
            (Error::Busy, _) if !matches!(patience, Patience::TryLock | Patience::Briefly) => self.missed(),
            (Error::Stopped { pid }, Kind::Room) => Error::FullBehindStopped { pid },
            (Error::Stopped { pid }, Kind::Item | Kind::Finish) => Error::EmptyBehindStopped { pid },
            (error, _) => error,
        }
    }
}

const SLICE: Duration = AGE;

/// A waiter far from the end of its list sleeps so long at most for each waiter of the list: all of them
/// together wake up some 30 times a second.
const FAR: Duration = Duration::from_millis(50);

/// The watcher checks all participants at each tenth of its slices, or at each one for so many participants.
const THOROUGH: u32 = 10;

/// Poll interval of a sender that may not fill the line yet, because notified senders have not come back
/// (state/line.rs). After a slice it treats those as late.
const FOR_NOW: Duration = Duration::from_millis(1);

/// The words of a waiter's cell, and those with which the waiter leaves it without the lock.
const WAITING: [(u32, u32); 4] = [
    (SLEEPING, ABANDONED),
    (WOKEN, WOKEN_LEFT),
    (LATE, LATE_LEFT),
    (HANDED, HANDED_LEFT),
];

/// Those of a waiter that was handed nothing.
const UNHANDED: [(u32, u32); 3] = [WAITING[0], WAITING[1], WAITING[2]];

/// Poll interval of a putter that waits until another participant has repaired the queue, which it cannot.
const REPAIR: Duration = Duration::from_millis(10);

impl Queue {
    /// Takes the lock for an operation that may have to wait. Spins first if an unlocked read shows that the
    /// operation could not proceed. This keeps idle waiters off the lock's cache line.
    #[inline(always)]
    pub(crate) fn enter_or_spin<'q>(
        &'q self,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
    ) -> Result<Guard<'q>, Error> {
        self.acquire_or_spin(waiting, wait)
            .map(|me| Guard::new(&self.shared, me))
    }

    #[inline(always)]
    fn acquire_or_spin(&self, waiting: &mut Waiting, wait: &mut Wait<'_>) -> Result<ParticipantId, Error> {
        if self.looks_unready(waiting.kind) {
            match wait.patience {
                Patience::TryLock => return Err(waiting.kind.missed()),
                Patience::NoWait | Patience::Briefly => {}
                Patience::Until(_) | Patience::Forever => {
                    let me = self.member()?;
                    if let Some(acquired) = self.spin_and_acquire(waiting, wait, me) {
                        return acquired;
                    }
                }
            }
        }
        self.acquire_for(Some(waiting.kind), wait)
    }

    /// Whether a waiter could not proceed, by an unlocked read. False while the lock is taken, whose holder
    /// may be dead, with the counters half changed, and if the queue is not open: then only a section can
    /// tell.
    #[inline(always)]
    fn looks_unready(&self, kind: Kind) -> bool {
        let hot = self.shared.segment.hot();
        !self.looks_ready(kind) && hot.lock.get() == 0 && hot.is_plainly_open()
    }

    /// The same, and the read sees every section that has ended. An unordered read may see old counters slice
    /// after slice.
    fn is_unready(&self, kind: Kind) -> bool {
        let lock = &self.shared.segment.hot().lock;
        // Exchanges 0 for 0, which does not take the lock: an exchange reads the newest value. Acquire: pairs
        // with the release in Guard::drop of the last holder.
        lock.compare_exchange(0, 0, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            && self.looks_unready(kind)
    }

    /// Whether a waiter could proceed, by an unlocked read: a hint.
    #[inline(always)]
    pub(crate) fn looks_ready(&self, kind: Kind) -> bool {
        match kind {
            Kind::Item => self.shared.ready_count() > 0,
            Kind::Room => self.shared.has_room(),
            Kind::Finish => self.shared.segment.hot().unfinished.get() == 0,
        }
    }

    /// Waits for a change, with the lock released meanwhile. The caller checks its condition again, in a
    /// loop.
    pub(crate) fn wait_for<'q>(
        &'q self,
        mut section: Guard<'q>,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
    ) -> Result<Guard<'q>, Error> {
        let timed_out = match wait.patience {
            Patience::TryLock | Patience::NoWait | Patience::Briefly => true,
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
                .map(|me| Guard::new(&self.shared, me));
        }
        if waiting.cell == 0 {
            section.free_abandoned(waiting.kind)?;
            section.enlist(waiting)?;
        }
        let place = section.place(waiting)?;
        let target = section.sleep_target(waiting.kind);
        let due_at = section.keep_time(waiting)?;
        drop(section);
        fault!("wait.enlisted");
        let entered = self
            .sleep(waiting, (place, target), due_at, wait)
            .and_then(|()| self.enter(wait));
        let mut section = match entered {
            Ok(section) => section,
            Err(error) => return self.leave_or_arrive(waiting, error),
        };
        fault!("wait.back");
        section.arrive(waiting)?;
        Ok(section)
    }

    /// Sleeps until notified, until the caller's patience ends, until the wait has aged, until a delayed item
    /// is due, if this waiter keeps the time (state/delay.rs), or until a slice has ended. Beside an idle
    /// queue the watcher goes on sleeping at the end of a slice, and returns after each tenth at the latest,
    /// once a second. The other waiters return after each of their slices. A waiter that returns reads its
    /// place and its sleep target anew.
    fn sleep(
        &self,
        waiting: &mut Waiting,
        (place, target): (Place, SleepTarget),
        due_at: Option<u64>,
        wait: &mut Wait<'_>,
    ) -> Result<(), Error> {
        let due = due_at.map(|due_at| {
            let left = due_at.saturating_sub(platform::micros());
            Instant::now() + Duration::from_micros(left)
        });
        let cell = self.shared.segment.cell(waiting.cell)?;
        let slice = if target == SleepTarget::CellForNow {
            SLICE
        } else {
            slice_at(waiting, place)
        };
        loop {
            let slice_end = waiting.slice.end(slice);
            let (end, is_last) = match wait.patience {
                Patience::Until(deadline) => (deadline.min(slice_end), deadline <= slice_end),
                _ => (slice_end, false),
            };
            let ages_at = waiting.ages_at();
            let sleep_end = [ages_at, due].into_iter().flatten().fold(end, Instant::min);
            let at_most = sleep_end.saturating_duration_since(Instant::now());
            fault!("wait.asleep");
            let slept = match target {
                SleepTarget::Cell => platform::futex_wait(&cell.word, SLEEPING, at_most),
                SleepTarget::CellForNow => platform::futex_wait(&cell.word, SLEEPING, at_most.min(FOR_NOW)),
                SleepTarget::Line(end) => platform::await_writable(end, at_most),
            };
            let is_whole = target != SleepTarget::CellForNow || at_most <= FOR_NOW;
            let has_ended = slept == Slept::TimedOut && is_whole || Instant::now() >= sleep_end;
            let has_aged = has_ended && ages_at.is_some_and(|ages_at| ages_at <= sleep_end);
            if has_aged {
                waiting.note_age();
            }
            let is_over = has_ended && sleep_end >= end;
            waiting.is_displaced = target == SleepTarget::CellForNow;
            waiting.is_early = !is_over;
            if is_over {
                waiting.slice.restart();
                waiting.slices += 1;
                self.end_slice(waiting.slices, place.position)?;
            }
            // The line is writable because there may be room, or because all readers are gone.
            let is_line_ready = matches!(target, SleepTarget::Line(_)) && cell.word.get() == SLEEPING;
            if (is_over || is_line_ready || slept != Slept::Changed) && (wait.interrupted)() {
                return Err(Error::Interrupted);
            }
            let is_watcher = place.position == 0 && waiting.slices % THOROUGH != 0;
            let sleeps_on = is_over && is_watcher && !is_last && !has_aged;
            if !sleeps_on || !self.is_unready(waiting.kind) {
                return Ok(());
            }
        }
    }

    /// Upkeep at the end of a waiter's slice. The watcher checks the holders at each slice, and all
    /// participants at each tenth, or less often if there are many. Any other waiter checks all participants
    /// if the watcher has not checked, because it is dead or stopped.
    fn end_slice(&self, slices: u32, position: u32) -> Result<(), Error> {
        if position == 0 {
            let participants = self.shared.segment.hot().participants_high.get();
            self.reap_dead(slices % (participants / THOROUGH).max(THOROUGH) == 0)?;
            self.trim_if_due()?;
        } else if self.is_reaping_overdue(position) {
            self.reap_dead(true)?;
        }
        Ok(())
    }

    /// Ends the wait of an operation that has failed. Returns the error for its caller.
    #[cold]
    pub(crate) fn end_in_vain(&self, error: Error, waiting: &mut Waiting, patience: Patience) -> Error {
        self.abandon(waiting);
        waiting.kind.map_timeout(error, patience)
    }

    /// Ends a sleep after which the lock could not be had in time. What the waiter was handed meanwhile is
    /// its result: younger items may have been taken since.
    #[cold]
    fn leave_or_arrive<'q>(&'q self, waiting: &mut Waiting, error: Error) -> Result<Guard<'q>, Error> {
        if is_stuck(&error) {
            if let Some(mut section) = self.enter_or_leave(waiting)? {
                let is_handed = section.cell(waiting.cell)?.word.get() == HANDED;
                if is_handed {
                    section.arrive(waiting)?;
                    return Ok(section);
                }
                section.withdraw(waiting)?;
                return Err(error);
            }
        }
        self.abandon(waiting);
        Err(error)
    }

    /// Takes the lock for a waiter whose time is over. If the lock stays taken, a getter that was handed an
    /// item waits on for the holder, unless that does not run. Any other getter leaves its cell. `None` if
    /// there is no section: the waiter has left, or is to leave.
    fn enter_or_leave(&self, waiting: &mut Waiting) -> Result<Option<Guard<'_>>, Error> {
        match self.enter_briefly() {
            Ok(section) => return Ok(Some(section)),
            Err(Error::NoAddressSpace { .. }) => return Ok(None),
            Err(_) if waiting.kind != Kind::Item => return Ok(None),
            Err(_) => {}
        }
        if !self.leave_cell(waiting, &UNHANDED)? {
            let entered = uninterruptible(|wait| {
                self.enter(&mut Wait {
                    patience: Patience::NoWait,
                    ..wait
                })
            });
            if let Ok(section) = entered {
                return Ok(Some(section));
            }
            self.leave_cell(waiting, &WAITING)?;
        }
        waiting.cell = 0;
        Ok(None)
    }

    /// Leaves the list, without the lock if that stays taken: a stopped process may hold it. What a getter
    /// was handed returns to the queue. A putter whose item was published has its ticket then.
    pub(crate) fn abandon(&self, waiting: &mut Waiting) {
        if waiting.cell == 0 {
            return;
        }
        let left = match self.enter_briefly() {
            Ok(mut section) => section.withdraw(waiting).map(|()| true),
            Err(Error::NoAddressSpace { .. }) => match self.withdraw_unmapped(waiting) {
                Ok(false) => self.leave_cell(waiting, &WAITING),
                withdrawn => withdrawn,
            },
            Err(_) => self.leave_cell(waiting, &WAITING),
        };
        // An error here means damage, and the caller has an error already.
        let _ = left;
        waiting.cell = 0;
    }

    /// Leaves under the lock, in a process that cannot map what the queue has grown by. The end of the
    /// section passes a wake-up on. False if the waiter has not left: the lock stays taken, or this getter
    /// was handed an item, whose slot may not be mapped.
    #[cold]
    fn withdraw_unmapped(&self, waiting: &mut Waiting) -> Result<bool, Error> {
        let Some(mut section) = self.enter_unmapped() else {
            return Ok(false);
        };
        if waiting.kind == Kind::Item && section.cell(waiting.cell)?.word.get() == HANDED {
            return Ok(false);
        }
        section.withdraw(waiting)?;
        Ok(true)
    }

    /// Leaves without the lock, from one of these words of its cell; false if it has another. If this waiter
    /// was notified or handed something already, the next section of this process passes that on. Or another
    /// waiter does at the end of its slice, which treats this one as late; or the next check for the dead
    /// does with an item.
    fn leave_cell(&self, waiting: &mut Waiting, words: &[(u32, u32)]) -> Result<bool, Error> {
        let cell = self.shared.segment.cell(waiting.cell)?;
        // Other participants change the word from one of these values to the next. Only a rebuild may change
        // it back, from HANDED to SLEEPING.
        for &(word, left) in words.iter().cycle().take(3 * words.len()) {
            // Acquire: pairs with the release in mark_handed.
            if word == HANDED && waiting.kind == Kind::Room {
                while cell.word.load(Ordering::Acquire) == HANDED && Section::ticket_of(cell).is_none() {
                    // The lock's holder is publishing the item, and is stopped or dead: only the lock tells.
                    match self.enter_uninterruptible() {
                        Ok(mut section) => return section.withdraw(waiting).map(|()| true),
                        Err(Error::NoAddressSpace { .. }) => {}
                        Err(error) => return Err(error),
                    }
                    if self.withdraw_unmapped(waiting)? {
                        return Ok(true);
                    }
                    // The holder is dead, and this process cannot map what the rebuild reads: another repairs
                    // the queue.
                    platform::futex_wait(&cell.word, HANDED, REPAIR);
                }
                let ticket = Section::ticket_of(cell);
                if cell.word.load(Ordering::Acquire) != HANDED || ticket.is_none() {
                    // A rebuild has changed it back. It may be HANDED anew at any moment.
                    continue;
                }
                waiting.note_ticket(ticket);
            }
            let has_left = cell
                .word
                .compare_exchange(word, left, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
            if has_left {
                fault!("wait.left");
                if left != ABANDONED {
                    self.shared.put_off_work();
                }
                if left == HANDED_LEFT && waiting.kind == Kind::Item {
                    // The next check, which is due at once, returns the item.
                    self.shared.segment.hot().reaped_at.set(0);
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until a get would find an item, and takes none.
    pub fn await_item(&self, mut wait: Wait<'_>) -> Result<(), Error> {
        let mut waiting = Waiting::taking_nothing(Kind::Item);
        let waited = self.await_in_section(&mut waiting, &mut wait);
        self.shared.report(waited.map_err(|error| {
            self.abandon(&mut waiting);
            if error == Error::Empty {
                self.was_in_vain(Kind::Item);
            }
            Kind::Item.map_timeout(error, wait.patience)
        }))
    }

    fn await_in_section(&self, waiting: &mut Waiting, wait: &mut Wait<'_>) -> Result<(), Error> {
        let mut section = self.enter_or_spin(waiting, wait)?;
        // What is still to be discarded is no item.
        while section.oldest()? == 0 || section.hot().is_closed() {
            section.check_get(wait.patience, Own::OfProcess)?;
            section = self.wait_for(section, waiting, wait)?;
        }
        // The end of the section wakes another waiter, because the item is still there.
        section.withdraw(waiting)
    }
}

/// How long the slices of a waiter are.
fn slice_at(waiting: &Waiting, place: Place) -> Duration {
    match (waiting.kind, place.position) {
        (_, position @ 0..3) => SLICE * (position + 1),
        // Joiners are woken all at once: a waker that dies before it has woken them leaves them all asleep.
        (Kind::Finish, _) => SLICE * 3,
        (_, position @ 3..10) => SLICE * (position + 1),
        (_, 10..NEAR) => SLICE * 10,
        // Between half of the time and all of it, so that those that came together do not wake up together:
        // multiples of the golden ratio spread evenly.
        _ => {
            let most = FAR * place.length.max(NEAR);
            let part = waiting.cell.wrapping_mul(0x9e37_79b9) >> 16;
            most / 2 + most / 2 * part / (1 << 16)
        }
    }
}
