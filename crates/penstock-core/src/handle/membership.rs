//! Membership: how this process registers with a queue, and how it leaves.
//!
//! state/participant.rs has the crash table of registering. put_off.rs has that of a leave that is put off.

#[cfg(not(loom))]
use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::fork;
use crate::handle::put_off::is_stuck;
use crate::handle::queue::Queue;
use crate::memory::descriptor::InUse;
use crate::memory::layout::ParticipantId;
use crate::options::{Patience, Wait};
use crate::platform;
#[cfg(not(loom))]
use crate::platform::Instant;
use crate::state::leases::Leaving;
#[cfg(not(loom))]
use crate::state::line::has_line;
use crate::state::participant::{GONE, LEFT, Proof, free_record, read};
use crate::sync::{Ordering, Word};
use crate::units::Leave;

/// The last 64 records of the table. A process that gets one of them sweeps the dead, and so many may do so
/// at once.
const LATE_PLACES: u32 = 64;

/// Time that a forked child waits at most for the lock of a queue that its parent watches.
#[cfg(not(loom))]
const AT_FORK: Duration = Duration::from_millis(200);

/// Set when this process joins a queue whose other processes could not prove its death.
static IS_UNTOLD: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Whether this process has joined such a queue since the last call. For bindings, which warn their user.
pub fn joined_without_proof() -> bool {
    IS_UNTOLD.swap(false, std::sync::atomic::Ordering::Relaxed)
}

impl Queue {
    /// This process's participant id in the queue, registered on first use.
    #[inline]
    pub(crate) fn member(&self) -> Result<ParticipantId, Error> {
        fork::notice();
        match self.shared.member_if_any() {
            None => self.register(),
            Some(me) => Ok(me),
        }
    }

    /// The same, or `None` if this process has not registered.
    #[inline(always)]
    pub(crate) fn member_now(&self) -> Option<ParticipantId> {
        fork::notice();
        self.shared.member_if_any()
    }

    /// The participant id with the bit of work put off, for taking the lock.
    #[inline(always)]
    pub(crate) fn member_word_now(&self) -> Option<u32> {
        fork::notice();
        self.shared.member_word_if_any()
    }

    /// Forgets the participant id, in a child after a fork: the parent goes on under it.
    pub(crate) fn forget_membership(&self) {
        self.shared.me.set(0);
        self.leaving.forget();
    }

    /// Forgets the participant id, under which this process takes part no more, and unlocks its life byte.
    fn end_membership(&self, me: ParticipantId) {
        self.forget_membership();
        self.unlock_life_byte(me);
    }

    pub(crate) fn unlock_life_byte(&self, me: ParticipantId) {
        let segment = &self.shared.segment;
        segment
            .file()
            .release_life(segment.in_file(u64::from(me.index())));
    }

    /// Joins in a forked child whose parent watches with a notifier: the child has inherited the descriptor,
    /// and may wait with it without any other call. (A line wakes its watchers whether they are counted or
    /// not, so the child's first call to a connection counts it.)
    #[cfg(not(loom))]
    pub(crate) fn join_as_child_of_watcher(&self) {
        if !self.shared.is_watched() || has_line(self.shared.segment.hot()) {
            return;
        }
        let mut wait = Wait {
            patience: Patience::Until(Instant::now() + AT_FORK),
            interrupted: &mut || false,
        };
        // Registering puts off the rest, and the section does it (handle/put_off.rs). If the lock stays taken
        // for longer, because its holder is stopped, the child's next section does it.
        if self.enter(&mut wait).is_ok() {
            fault!("notifier.inherited");
        }
    }

    /// Forgets the participant id `old` after this process was wrongly taken for dead: it names no
    /// participant any more. Another thread may have registered anew already.
    #[cold]
    pub(crate) fn forget_id(&self, old: ParticipantId) {
        let _no_fork = fork::hold_off(); // no thread registers meanwhile
        if self.shared.member_if_any() == Some(old) {
            self.end_membership(old);
        }
    }

    /// Registers this process unless it has registered. Every operation does so by itself. This is for a
    /// caller that must know beforehand whether others could prove this process's death.
    pub fn take_part(&self) -> Result<Proof, Error> {
        let me = self.shared.report(self.member())?;
        self.shared.proof_of(me)
    }

    /// The same for an operation, whose caller may interrupt it here.
    #[cold]
    pub(crate) fn join_in(&self, wait: &mut Wait<'_>) -> Result<ParticipantId, Error> {
        let me = self.member()?;
        if IS_UNTOLD.load(std::sync::atomic::Ordering::Relaxed) && (wait.interrupted)() {
            return Err(Error::Interrupted);
        }
        Ok(me)
    }

    #[cold]
    pub(crate) fn register(&self) -> Result<ParticipantId, Error> {
        let (pid, namespace) = (platform::process_id(), platform::pid_namespace());
        let (birth, since) = (platform::own_birth(), platform::ticks_since_boot());
        for attempt in 0..2 {
            // One thread of the process at a time.
            let no_fork = fork::hold_off();
            if let Some(me) = self.shared.member_if_any() {
                return Ok(me);
            }
            let life = self.shared.segment.need().own();
            let life = life.as_ref().map(InUse::get);
            let Some(me) = self.shared.claim_record(life, pid, namespace)? else {
                break;
            };
            let record = self.shared.segment.participant(me.index())?;
            record.pid_namespace.set(namespace);
            record.birth.set(birth);
            record.since.set(since);
            // Release: pairs with the acquire in member_if_any.
            self.shared.me.store(me.0, Ordering::Release);
            drop(no_fork);
            if self.shared.has_to_announce() {
                // The section that follows announces the notifiers.
                self.shared.put_off_work();
            }
            self.sweep_former_self(me.index(), pid, birth, namespace)?;
            if me.index() > self.shared.last_place() - LATE_PLACES {
                self.reap_dead(true)?;
            }
            if me.index() < self.shared.last_place() {
                if self.shared.proof_of(me)? == Proof::Impossible {
                    IS_UNTOLD.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                return Ok(me);
            }
            // The last record serves only to sweep, so that a table full of dead participants can be freed.
            self.depart();
            if attempt == 1 {
                break;
            }
        }
        Err(Error::TooManyParticipants {
            limit: self.shared.last_place() - 1,
        })
    }

    /// Sweeps the participant that this process was before a call of `exec`, which no longer exists.
    fn sweep_former_self(&self, mine: u32, pid: u32, birth: u64, namespace: u64) -> Result<(), Error> {
        for index in self.shared.participants() {
            let record = self.shared.segment.participant(index)?;
            let seen = read(record);
            if index != mine
                && seen.is_alive()
                && seen.pid() == pid
                && record.birth.get() == birth
                && record.pid_namespace.get() == namespace
            {
                match self.sweep_in_portions(index, seen.0, &mut || self.enter_briefly()) {
                    // The next check for the dead finds it.
                    Err(error) if !is_stuck(&error) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Leaves the queue: items that this process has taken and not acknowledged are given up as `how` says.
    /// The process may go on using the queue. Does not wait for a holder of the lock that does not run.
    pub fn leave(&self, how: Leave) -> Result<(), Error> {
        fork::notice();
        let Some(me) = self.shared.member_if_any() else {
            return Ok(());
        };
        self.stop_producing();
        let mut leaving = Leaving::new(how);
        let left = self.in_portions(&mut || self.enter_briefly(), &mut |section| {
            section.end_if_unproduced()?;
            section.give_up_leases(&mut leaving)
        });
        match left {
            Err(error) if is_stuck(&error) => {
                // First, because another thread's section ends the leave as soon as it finds it noted, and
                // with it the mark.
                if how == Leave::Clean {
                    if let Ok(Some(record)) = self.shared.participant_of(me) {
                        record.mark(me, LEFT);
                        fault!("leave.marked");
                    }
                }
                self.put_off_leave(how);
                Ok(())
            }
            left => self.shared.report(left),
        }
    }

    /// Ends the blocks in which this process produces. The section that follows shuts the queue down if no
    /// producer is left, or the next check for the dead does. False if there were none.
    pub(crate) fn stop_producing(&self) -> bool {
        let record = self
            .shared
            .member_if_any()
            .map(|me| self.shared.participant_of(me));
        match record {
            Some(Ok(Some(record))) => record.end_blocks(),
            _ => false,
        }
    }

    /// Ends the membership of a handle that no thread uses any more. Nothing can settle by name what the
    /// process has still: it returns. Never waits: if the lock is taken, it marks the record, and others
    /// sweep it.
    pub(crate) fn depart(&self) {
        fork::notice();
        let Some(me) = self.shared.member_if_any() else {
            return;
        };
        self.stop_producing();
        let how = self.how_to_leave();
        let mut try_once = Wait {
            patience: Patience::TryLock,
            interrupted: &mut || false,
        };
        let mut leaving = Leaving::for_good(how);
        let mut holds_nothing = false;
        let left = self.in_portions(&mut || self.enter(&mut try_once), &mut |section| {
            section.end_if_unproduced()?;
            section.give_up_everything(&mut leaving, &mut holds_nothing)
        });
        match left {
            Err(error) if is_stuck(&error) => {
                if let Ok(Some(record)) = self.shared.participant_of(me) {
                    record.mark(me, if how == Leave::Clean { LEFT | GONE } else { GONE });
                    fault!("depart.marked");
                }
            }
            // Payloads are left that are borrowed for good, or what a leave by a failure leaves of items that
            // were given up (aside.rs): a sweeper does the rest.
            Ok(()) if !holds_nothing => {
                if let Ok(Some(record)) = self.shared.participant_of(me) {
                    record.mark(me, GONE);
                }
            }
            // An error is damage, which the other participants report as well.
            _ => {}
        }
        fault!("unregister.checked");
        // The record is freed after the lock was released: a lock word must never name a record that is free.
        // No other process writes the record of a living participant, and this one takes nothing any more.
        if let (true, Ok(Some(record))) = (holds_nothing, self.shared.participant_of(me)) {
            free_record(record, me);
            fault!("unregister.freed");
        }
        self.end_membership(me);
    }
}
