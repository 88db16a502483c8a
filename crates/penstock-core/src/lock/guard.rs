//! Guard: the lock, held, and what the end of a critical section does.

use core::ops::{Deref, DerefMut};

use crate::error::Error;
use crate::fault::fault;
use crate::lock::word::Acquired;
use crate::memory::layout::{CONTENDED, ParticipantId};
use crate::options::Wait;
use crate::platform;
use crate::state::notifier::AfterRelease;
use crate::state::{Section, Shared};
use crate::sync::Ordering;

#[cfg(all(test, not(loom)))]
mod tests;

/// The lock, held. Dropping it restores the waiters' invariant (state/waiters.rs), releases the lock,
/// prefetches the next operation's place, makes the wake-up calls, and does what is due at the notifier.
///
/// It contains the section and no pointer of its own: a second pointer would cost every operation.
pub(crate) struct Guard<'q>(Section<'q>);

impl<'q> Guard<'q> {
    /// The guard of a lock that was just acquired.
    #[inline(always)]
    pub(crate) fn new(shared: &'q Shared, me: ParticipantId) -> Guard<'q> {
        Guard(Section::new(shared, me))
    }
}

impl<'q> Deref for Guard<'q> {
    type Target = Section<'q>;
    #[inline(always)]
    fn deref(&self) -> &Section<'q> {
        &self.0
    }
}

impl<'q> DerefMut for Guard<'q> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Section<'q> {
        &mut self.0
    }
}

impl Drop for Guard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.settle();
        let word = &self.hot().lock;
        // Release: pairs with the acquire in Shared::acquire_as of the next holder.
        if word.swap(0, Ordering::Release) & CONTENDED != 0 {
            platform::futex_wake(word, 1);
        }
        self.shared.segment.fetch_ahead(self.ahead);
        if self.has_wakes() || !matches!(self.after_release, AfterRelease::None) {
            self.follow_release();
        }
    }
}

impl Guard<'_> {
    /// Makes the calls that are due once the lock is released. Apart, so that other sections stay short.
    #[inline(never)]
    fn follow_release(&mut self) {
        if self.has_wakes() {
            fault!("unlock.before-wake");
            self.wake_chosen();
        }
        if !matches!(self.after_release, AfterRelease::None) {
            self.shared.run_after_release(self.after_release, self.me);
        }
    }
}

impl Shared {
    /// Takes the lock. `me` is a participant's id, perhaps with the bit of work put off. If the holder was
    /// dead, its changes are repaired first.
    #[inline(always)]
    pub(crate) fn acquire_as(&self, me: u32, wait: &mut Wait<'_>) -> Result<(), Error> {
        // Acquire: pairs with the release in Guard::drop of the holder before, or with the release of the
        // commits of a dead holder, whose stores the kernel made visible before it reported the death.
        // Release: pairs with the acquire in take_over: a survivor that reads this id finds the record that
        // belongs to it.
        if self
            .segment
            .hot()
            .lock
            .compare_exchange(0, me, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
        {
            self.acquire_taken(me, wait)?;
        }
        fault!("lock.taken");
        Ok(())
    }

    /// Whether the new holder may go on: the queue is open and whole, nothing is delayed, all of the queue is
    /// mapped, and `me` is the id of a participant without work put off.
    #[inline(always)]
    pub(crate) fn is_welcome(&self, me: u32) -> bool {
        self.segment.hot().is_plainly_open() && self.has_in_reach(ParticipantId(me))
    }

    /// The same of a queue that may have been shut down, for a section that puts and takes nothing.
    #[cfg(not(loom))]
    pub(crate) fn is_whole_for(&self, me: ParticipantId) -> bool {
        !self.segment.hot().is_damaged() && self.has_in_reach(me)
    }

    #[inline(always)]
    fn has_in_reach(&self, me: ParticipantId) -> bool {
        self.segment.is_all_mapped() && matches!(self.participant_of(me), Ok(Some(_)))
    }

    #[cold]
    fn acquire_taken(&self, me: u32, wait: &mut Wait<'_>) -> Result<(), Error> {
        match self.await_lock(me, wait)? {
            Acquired::Clean => Ok(()),
            Acquired::FromDead(former) => self.recover(ParticipantId::in_word(me), former),
        }
    }

    /// Repairs the queue if the lock's holder is dead. Never waits for a holder that lives.
    pub(crate) fn take_over_from_dead(&self, me: ParticipantId) -> Result<(), Error> {
        if let Some(former) = self.take_over(me.0)? {
            self.recover(me, former)?;
            drop(Guard::new(self, me));
        }
        Ok(())
    }

    /// The first step of the new holder after a take-over: it rebuilds, and sweeps the former holder. Other
    /// dead participants are found as usual, outside the lock. On damage the queue is marked and the lock
    /// released.
    fn recover(&self, me: ParticipantId, former: ParticipantId) -> Result<(), Error> {
        let mut section = Guard::new(self, me);
        let recovered = section.rebuild().and_then(|()| section.sweep_holder(former));
        if recovered.is_err() {
            self.segment.hot().note_damage();
            return recovered;
        }
        section.wake_chosen();
        // The caller goes on under the lock: it makes its own guard.
        core::mem::forget(section);
        Ok(())
    }
}
