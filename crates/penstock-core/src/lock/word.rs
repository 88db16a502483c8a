//! The lock's word: how the lock is acquired, and taken over from a dead holder.
//!
//! Requirements. Held for tens of nanoseconds; the word always names its holder; taken over from a holder
//! that is proven dead, within one time slice; a stopped holder is alive and is waited for.
//!
//! Protocol. The lock word is a futex:
//!
//! ```text
//!    bit 31      bits 12..31    bits 0..12
//!    contended   incarnation    participant's index        all zero: free
//! ```
//!
//! A participant acquires it by one compare-and-swap from 0 to its own id, so at every instant the word
//! says which one holds it. If it is taken, the participant spins briefly, sets `contended`, and sleeps on
//! the word in slices of 50 ms (slice.rs). At the end of a slice it asks the kernel whether the holder lives
//! (state/participant.rs). If the holder is proven dead, one compare-and-swap from the dead id to its own
//! takes the lock over: of several survivors one wins. The winner learns the dead holder's id
//! (`Acquired::FromDead`) and rebuilds before it does anything else (guard.rs); if it dies meanwhile, the
//! next survivor starts again from the beginning.
//!
//! A caller that does not block (`Patience::NoWait`) waits for a holder that runs. Of a holder that kept the
//! lock for a whole slice it reads the state of the process: if it is stopped, the call ends with
//! `Error::Stopped`. If none of the process's threads runs, or the kernel does not tell (another pid
//! namespace), the call ends so after two slices with the same holder. An event loop has other work to do
//! meanwhile: its calls (`Patience::Briefly`) end after 5 ms, and it tries again later.
//!
//! Limits. The lock is a process's, not a thread's: threads of one process exclude each other by the same
//! compare-and-swap from 0. It is not fair.

use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{CONTENDED, Participant, ParticipantId};
use crate::options::{Patience, Wait};
use crate::platform::{self, Instant, Slept};
use crate::slice::Slice;
use crate::state::Shared;
use crate::sync::{Ordering, Word, spin_loop};

const SLICE: Duration = Duration::from_micros(if cfg!(feature = "fuzzing") { 50 } else { 50_000 });
/// Time that a caller waits for the lock which is to go on with other work soon ([`Patience::Briefly`]).
const BRIEFLY: Duration = Duration::from_millis(5);
/// Polls of a taken lock before sleeping: a few microseconds, some dozens of critical sections.
const SPINS: u32 = if cfg!(loom) { 1 } else { 100 };
/// The holder that the lock word has named at each of a waiter's reads since `since`.
struct Suspect {
    id: ParticipantId,
    since: Option<Instant>,
}

impl Suspect {
    fn new() -> Suspect {
        Suspect {
            id: ParticipantId::NONE,
            since: None,
        }
    }

    fn see(&mut self, taken: u32) {
        let id = ParticipantId::in_word(taken);
        if self.since.is_none() || self.id != id {
            *self = Suspect {
                id,
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

/// How the lock came to its new holder.
pub(crate) enum Acquired {
    Clean,
    /// Taken over from a dead holder of that id, whose section may be half done.
    FromDead(ParticipantId),
}

impl Shared {
    /// Acquires a lock that another thread held a moment ago.
    pub(crate) fn await_lock(&self, me: u32, wait: &mut Wait<'_>) -> Result<Acquired, Error> {
        let word = &self.segment.hot().lock;
        if platform::cores() > 1 {
            for _ in 0..SPINS {
                if word.get() == 0
                    && word
                        .compare_exchange(0, me, Ordering::AcqRel, Ordering::Relaxed)
                        .is_ok()
                {
                    return Ok(Acquired::Clean);
                }
                spin_loop();
            }
        }
        let mut slice = Slice::new();
        let mut suspect = Suspect::new();
        let deadline = match wait.patience {
            Patience::Until(deadline) => Some(deadline),
            Patience::Briefly => Some(Instant::now() + BRIEFLY),
            _ => None,
        };
        loop {
            match wait.patience {
                Patience::TryLock => return Err(Error::Busy),
                _ if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    // However short the time was: otherwise a caller that retries with short time-outs would
                    // never take over.
                    if let Some(former) = self.take_over(me)? {
                        return Ok(Acquired::FromDead(former));
                    }
                    return Err(self.why_in_vain(word.load(Ordering::Acquire)));
                }
                _ => {}
            }
            let seen = word.get();
            if seen == 0 {
                // Others may sleep, so the word says contended: the release then wakes one, perhaps for
                // nothing.
                if word
                    .compare_exchange(0, me | CONTENDED, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
                {
                    return Ok(Acquired::Clean);
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
            let end = deadline.map_or(slice_end, |deadline| deadline.min(slice_end));
            let at_most = end.saturating_duration_since(Instant::now());
            let slept = platform::futex_wait(word, seen | CONTENDED, at_most);
            if slept == Slept::Changed {
                suspect.clear();
            }
            let is_over = slept == Slept::TimedOut || Instant::now() >= end;
            if is_over {
                slice.restart();
                if let Some(former) = self.take_over(me)? {
                    return Ok(Acquired::FromDead(former));
                }
            }
            if (is_over || slept != Slept::Changed) && (wait.interrupted)() {
                return Err(Error::Interrupted);
            }
            if is_over && wait.patience == Patience::NoWait {
                self.give_up_behind_stopped(&mut suspect)?;
            }
        }
    }

    /// Takes the lock over if its holder is proven dead. Answers the dead holder's id, whose changes are to
    /// be repaired. `None` if the holder is not proven dead, or another participant was quicker. Waits for no
    /// holder, but maps what the queue has grown by, which other threads of this process may be doing.
    pub(crate) fn take_over(&self, me: u32) -> Result<Option<ParticipantId>, Error> {
        let word = &self.segment.hot().lock;
        // Acquire: pairs with the release of the holder that stored its id (see Shared::acquire_as). Its
        // record is read now.
        let taken = word.load(Ordering::Acquire);
        let former = ParticipantId::in_word(taken);
        if former.is_none() || !self.is_dead_holder(former)? {
            return Ok(None);
        }
        // The rebuild reads all of the memory. A process that cannot map it leaves the lock to others. The
        // dead holder has added its last range; and if another takes over, the exchange below fails.
        self.segment.map_ranges(true)?;
        // Both: see Shared::acquire_as. Of all survivors that have read the dead id, one succeeds.
        if word
            .compare_exchange(taken, me | CONTENDED, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            return Ok(None);
        }
        fault!("takeover.taken");
        Ok(Some(former))
    }

    /// An error if the holder has kept the lock for a slice and is stopped; or for two, and none of its
    /// threads runs or the kernel does not tell.
    fn give_up_behind_stopped(&self, suspect: &mut Suspect) -> Result<(), Error> {
        let held_for = suspect.held_for();
        if held_for < SLICE {
            return Ok(());
        }
        let Some(pid) = self.pid_of_holder(suspect.id)? else {
            return Ok(());
        };
        match self.is_stopped(suspect.id) {
            Some(true) => Err(Error::Stopped { pid }),
            Some(false) if held_for < SLICE * 2 || platform::is_running(pid) => Ok(()),
            // The holder may have released the lock and gone to sleep since.
            Some(false) if self.named_holder() != suspect.id => Ok(()),
            None if held_for < SLICE * 2 => Ok(()),
            Some(false) | None => Err(Error::Stopped { pid }),
        }
    }

    /// The error of a caller whose time is over: the lock is held by a process that is stopped (`Stopped`),
    /// or by another (`Busy`).
    fn why_in_vain(&self, taken: u32) -> Error {
        let holder = ParticipantId::in_word(taken);
        match self.pid_of_holder(holder) {
            Ok(Some(pid)) if self.is_stopped(holder) == Some(true) => Error::Stopped { pid },
            _ => Error::Busy,
        }
    }

    /// The holder that the lock word names now; none if the lock is free.
    pub(crate) fn named_holder(&self) -> ParticipantId {
        ParticipantId::in_word(self.segment.hot().lock.get())
    }

    fn pid_of_holder(&self, holder: ParticipantId) -> Result<Option<u32>, Error> {
        if holder.is_none() {
            return Ok(None);
        }
        Ok(self.participant_of(holder)?.map(Participant::pid))
    }

    /// Whether the process of an id is stopped. `None` if the kernel does not tell this process.
    pub(crate) fn is_stopped(&self, holder: ParticipantId) -> Option<bool> {
        let record = self.participant_of(holder).ok()??;
        if self.is_neighbour(record) {
            platform::is_stopped(record.pid())
        } else {
            None
        }
    }

    /// Whether the participant named in the lock word is proven dead.
    fn is_dead_holder(&self, holder: ParticipantId) -> Result<bool, Error> {
        match self.participant_of(holder)? {
            Some(record) => Ok(self.is_dead(holder.index(), record, true)),
            // The holder released the lock and left, and its record was freed in the meantime; or the word is
            // damaged.
            None if self.named_holder() != holder => Ok(false),
            None => Err(Error::Corrupt {
                id: self.segment.id,
                what: "the lock word names no participant",
            }),
        }
    }
}
