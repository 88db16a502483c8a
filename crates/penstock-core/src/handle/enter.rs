//! Entering a critical section under this participant's id, which is registered on first use.

use std::time::Duration;

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::memory::layout::{Kind, ParticipantId};
use crate::options::{Patience, Wait};
use crate::platform::{self, Instant};
use crate::state::Section;
use crate::state::recovery::Portion;

/// Time that work which can be put off waits for the lock.
const BRIEFLY: Duration = Duration::from_millis(10);

/// Pause between two portions if other threads wait for the lock: long enough for one of them to wake up and
/// take it.
const PAUSE: Duration = Duration::from_micros(50);

impl Queue {
    /// Takes the lock. `Error::Busy` if the wait's patience ended first.
    #[inline(always)]
    pub(crate) fn enter(&self, wait: &mut Wait<'_>) -> Result<Guard<'_>, Error> {
        self.acquire(wait).map(|me| Guard::new(&self.shared, me))
    }

    /// The same without the guard, which the caller makes of the participant id that this returns. So the
    /// guard is made in its place: moving it costs as much as all the rest of this function.
    #[inline(always)]
    pub(crate) fn acquire(&self, wait: &mut Wait<'_>) -> Result<ParticipantId, Error> {
        self.acquire_for(None, wait)
    }

    /// The same for the first section of a call that puts an item (`Kind::Room`) or takes one (`Kind::Item`).
    /// An error if the queue was shut down, so that it does neither.
    #[inline(always)]
    pub(crate) fn acquire_for(
        &self,
        kind: Option<Kind>,
        wait: &mut Wait<'_>,
    ) -> Result<ParticipantId, Error> {
        let me = match self.member_word_now() {
            Some(me) => me,
            // Registering makes system calls, and may have to sweep.
            None if wait.patience == Patience::TryLock => return Err(Error::Busy),
            None => {
                let me = self.join_in(wait)?;
                // With the mark of what registering has put off.
                self.shared.member_word_if_any().unwrap_or(me.0)
            }
        };
        self.shared.acquire_as(me, wait)?;
        if self.shared.is_welcome(me) {
            return Ok(ParticipantId(me));
        }
        self.enter_in_vain(kind, me, wait)
    }

    /// The slow path of entering, with the lock held. Returns an error if the queue is damaged or shut down,
    /// makes delayed items ready whose time has come, maps what the queue has grown by, registers anew if
    /// this process was swept, or does the work that it has put off. `me` may have the bit of work put off
    /// (handle/put_off.rs).
    ///
    /// Each section of a queue that is shut down comes here, and continues what an immediate shutdown has
    /// left.
    #[cold]
    fn enter_in_vain(
        &self,
        kind: Option<Kind>,
        me: u32,
        wait: &mut Wait<'_>,
    ) -> Result<ParticipantId, Error> {
        let me = ParticipantId::in_word(me);
        let mut section = Guard::new(&self.shared, me);
        if self.shared.segment.hot().is_damaged() {
            return Err(section.corrupt("found damaged before"));
        }
        if !self.shared.segment.is_all_mapped() {
            // Outside the lock, and before anything is taken: this process may have no address space for it.
            drop(section);
            self.shared
                .segment
                .map_ranges(wait.patience != Patience::TryLock)?;
            return self.acquire_for(kind, wait);
        }
        if self.shared.participant_of(me)?.is_none() {
            // Wrongly taken for dead (participant.rs says when that can happen): what this process held is
            // gone, and it goes on under a new id.
            drop(section);
            self.forget_id(me);
            return self.acquire_for(kind, wait);
        }
        self.finish_put_off(&mut section)?;
        if section.hot().is_closed() {
            section.discard()?;
            self.note_spare(&section);
        } else if section.hot().has_delayed() {
            section.ready_due()?;
        }
        match kind {
            Some(Kind::Room) => section.check_put()?,
            Some(Kind::Item) if section.hot().is_closed() => return Err(Error::ShutDown),
            _ => {}
        }
        core::mem::forget(section);
        Ok(me)
    }

    /// Takes the lock without a time limit, for work that must be finished.
    pub(crate) fn enter_uninterruptible(&self) -> Result<Guard<'_>, Error> {
        crate::options::uninterruptible(|mut wait| self.enter(&mut wait))
    }

    /// Takes the lock, or gives up soon: for work that can be put off (handle/put_off.rs), or that another
    /// participant does if this one does not. Waits 10 ms at most for the lock, and not at all while other
    /// work of this process is put off already. It may also map what the queue has grown by.
    pub(crate) fn enter_briefly(&self) -> Result<Guard<'_>, Error> {
        self.enter_briefly_until(&mut None)
    }

    /// The same for work of several sections, which wait 10 ms together. `until` is `None` at first.
    pub(crate) fn enter_briefly_until(&self, until: &mut Option<Instant>) -> Result<Guard<'_>, Error> {
        let mut wait = Wait {
            patience: Patience::TryLock,
            interrupted: &mut || false,
        };
        match self.enter(&mut wait) {
            Err(Error::Busy) if !self.shared.has_work_put_off() => {
                let until = until.get_or_insert_with(|| Instant::now() + BRIEFLY);
                wait.patience = Patience::Until(*until);
                self.enter(&mut wait)
            }
            entered => entered,
        }
    }

    /// Takes the lock, or gives up soon, in a process that has not mapped all that the queue has grown by.
    /// Such a section uses near memory alone, and so does its end. `None` if there is no section: the lock
    /// stays taken, the queue is damaged, or this process was swept.
    #[cold]
    pub(crate) fn enter_unmapped(&self) -> Option<Guard<'_>> {
        let me = self.shared.member_if_any()?;
        let mut wait = Wait {
            patience: Patience::Until(Instant::now() + BRIEFLY),
            interrupted: &mut || false,
        };
        self.shared.acquire_as(me.0, &mut wait).ok()?;
        let section = Guard::new(&self.shared, me);
        let is_whole = !section.hot().is_damaged() && matches!(self.shared.participant_of(me), Ok(Some(_)));
        is_whole.then_some(section)
    }

    /// Repeats `portion`, each time in another critical section, until it returns `Last`. Waiters for the
    /// lock get it in between.
    pub(crate) fn in_portions<'q>(
        &'q self,
        enter: &mut dyn FnMut() -> Result<Guard<'q>, Error>,
        portion: &mut dyn FnMut(&mut Section<'q>) -> Result<Portion, Error>,
    ) -> Result<(), Error> {
        loop {
            let mut section = enter()?;
            let done = portion(&mut section);
            let is_contended = section.is_contended();
            drop(section);
            if self.shared.report(done)? == Portion::Last {
                return Ok(());
            }
            if is_contended {
                platform::sleep(PAUSE);
            }
        }
    }
}
