//! Phase: what a queue admits. It is open, draining, closed or damaged; and its items are acknowledged, or
//! not yet.
//!
//! ```text
//! OPEN --shutdown--> DRAINING --shutdown, immediate--> CLOSED   any --impossible value--> DAMAGED
//!   \--------------- shutdown, immediate -------------/
//! ```
//!
//! While a queue is draining no item is put, and what is left is taken. In a closed one no item is taken
//! either: what was queued is discarded (operations/shutdown.rs has the crash table). A phase never goes
//! back.
//!
//! Beside the phase stands the mark that items are delayed (delay.rs), so that a queue without any pays
//! nothing for it.
//!
//! Every section asks here when it begins, by one comparison (lock/guard.rs, `is_welcome`): a queue that is
//! open pays nothing for the other phases. A put or a get that begins in another phase asks `check_put` or
//! `check_get` at once (handle/enter.rs); one that goes on after a wait, or after it has copied a payload,
//! asks again. state/aside.rs says how a queue begins to be acknowledged.

use crate::error::Error;
use crate::memory::layout::{
    BEGINNING, CLOSED, DAMAGED, DELAYING, DRAINING, Hot, Kind, NOT_YET, OPEN, Slot, YES,
};
use crate::options::{Own, Patience};
use crate::platform;
use crate::state::holding;
use crate::state::recovery::PORTION;
use crate::state::slot::{State, was_kept};
use crate::state::{Section, Shared};
use crate::sync::{Ordering, Word};

/// Leases that [`Section::may_return_to`] reads at most beyond the youngest of each participant, of all
/// participants together.
const LEASES_READ: u32 = 16 * PORTION;

impl Hot {
    /// Whether items are put and taken, none is delayed, and no impossible value was found.
    #[inline(always)]
    pub(crate) fn is_plainly_open(&self) -> bool {
        self.phase.get() == OPEN
    }

    fn phase_alone(&self) -> u32 {
        self.phase.get() & !DELAYING
    }

    /// Whether items are put and taken, and no impossible value was found.
    #[inline(always)]
    pub(crate) fn is_open(&self) -> bool {
        self.phase_alone() == OPEN
    }

    /// Whether an impossible value was found: then every operation answers `Corrupt`. A value that is no
    /// phase is damage, too.
    #[inline(always)]
    pub(crate) fn is_damaged(&self) -> bool {
        self.phase_alone() >= DAMAGED
    }

    /// Whether no item is put any more, and those that are queued are still taken.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase_alone() == DRAINING
    }

    /// Whether no item is put or taken any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.phase_alone() == CLOSED
    }

    /// Whether it was shut down.
    pub(crate) fn is_ended(&self) -> bool {
        self.is_draining() || self.is_closed()
    }

    /// Whether a get that does not wait, and finds no item, raises another error than that there is none: the
    /// queue was shut down and none of its items is delayed, or it is damaged. Without the lock it may be out
    /// of date.
    pub(crate) fn is_at_its_end(&self) -> bool {
        !(self.is_open() || self.is_draining() && self.has_delayed())
    }

    /// Whether items are queued that a get takes.
    #[cfg(not(loom))]
    pub(crate) fn has_items(&self) -> bool {
        !self.is_closed() && self.ready_count.get() > 0
    }

    /// Whether items are queued that are to be discarded.
    pub(crate) fn has_leftovers(&self) -> bool {
        self.is_closed() && (self.ready_count.get() > 0 || self.has_delayed())
    }

    /// Without the lock, too: it may come at any moment.
    pub(crate) fn note_damage(&self) {
        self.phase.set(DAMAGED);
    }

    /// Whether taken items are set aside, as no process acknowledges any. Without the lock only a true
    /// answer may be out of date.
    #[inline(always)]
    pub(crate) fn sets_aside(&self) -> bool {
        self.acknowledging.get() == NOT_YET
    }

    /// Whether a process has acknowledged for the first time, and what dead holders had set aside has not all
    /// come back.
    pub(crate) fn begins_to_acknowledge(&self) -> bool {
        self.acknowledging.get() == BEGINNING
    }

    /// Whether items that were set aside are leases like any other, and nothing of dead holders is left.
    #[inline(always)]
    pub(crate) fn acknowledges(&self) -> bool {
        self.acknowledging.get() == YES
    }

    pub(super) fn store_beginning(&self) {
        self.acknowledging.set(BEGINNING);
    }

    pub(super) fn store_acknowledged(&self) {
        self.acknowledging.set(YES);
    }
}

impl Shared {
    /// Passes a result on; damage is noted in the segment, so that every process learns of it.
    #[inline(always)]
    pub(crate) fn report<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| self.noted(error))
    }

    /// The same of an error.
    #[cold]
    pub(crate) fn noted(&self, error: Error) -> Error {
        if let Error::Corrupt { .. } = error {
            self.segment.hot().note_damage();
        }
        error
    }
}

impl Section<'_> {
    /// Notes the damage, so that every later operation answers the same.
    #[cold]
    pub(crate) fn corrupt(&self, what: &'static str) -> Error {
        self.hot().note_damage();
        Error::Corrupt {
            id: self.shared.segment.id,
            what,
        }
    }

    /// The commit of a shutdown. A phase that is as far already stays.
    pub(crate) fn store_phase(&self, phase: u32) {
        // The end of the section takes the byte out, so that a descriptor is readable only for an item.
        self.end_telling();
        let word = &self.hot().phase;
        for earlier in OPEN..phase {
            for mark in [0, DELAYING] {
                // An exchange, so that damage that is noted meanwhile stays. Release: pairs with the acquire
                // of the next holder of the lock.
                if word
                    .compare_exchange(earlier | mark, phase | mark, Ordering::Release, Ordering::Relaxed)
                    .is_ok()
                {
                    return;
                }
            }
        }
    }

    /// An error if no item is put any more.
    #[inline(always)]
    pub(crate) fn check_put(&self) -> Result<(), Error> {
        if self.hot().is_open() {
            return Ok(());
        }
        Err(Error::ShutDown)
    }

    /// An error if no item is taken any more, from a queue without a ready item unless it is closed. A
    /// getter that may wait does so while an item may come back; not if what is in hand of `own` is one,
    /// for that could be what the getter is to finish next.
    #[inline(always)]
    pub(crate) fn check_get(&self, patience: Patience, own: Own) -> Result<(), Error> {
        if self.hot().is_open() {
            return Ok(());
        }
        self.check_get_of_ended(patience, own)
    }

    #[cold]
    fn check_get_of_ended(&self, patience: Patience, own: Own) -> Result<(), Error> {
        // What is delayed comes by itself.
        if self.hot().has_delayed() && !self.hot().is_closed() {
            return Ok(());
        }
        let is_hopeless = self.hot().is_closed()
            || matches!(patience, Patience::NoWait | Patience::Briefly)
            || self.has_own_in_hand(own)?
            || !self.may_return_to(Some(self.my_index()))?;
        match patience {
            _ if is_hopeless => Err(Error::ShutDown),
            // Its caller may have the patience to wait.
            Patience::TryLock => Err(Error::Busy),
            _ => Ok(()),
        }
    }

    /// Whether this process has an item in hand, or the calling thread or task, that comes back if the
    /// process dies. An ended thread's item is everybody's: no thread may come to settle it.
    fn has_own_in_hand(&self, own: Own) -> Result<bool, Error> {
        if own == Own::OfProcess {
            return self.find_in_hand(self.my_index(), PORTION, &mut { PORTION }, |_| true);
        }
        let (mut left, acting) = (LEASES_READ, platform::thread_id());
        // A task waits in its thread, which cannot settle what it has taken itself.
        let thread = platform::own_thread_id();
        let found = self.find_in_hand(self.my_index(), LEASES_READ, &mut left, |slot| {
            let holder = slot.leasing_thread();
            holder == acting || holder == thread || holding::has_ended(holder)
        })?;
        // Behind so many of its siblings' one of its own may stand. It does not wait for itself.
        Ok(found || left == 0)
    }

    /// Whether no getter finds an item now or later. The sleeping getters learn it.
    ///
    /// `None` if this process has not mapped all that the queue has grown by (memory/ranges.rs), so that it
    /// may not find the slots of leases: the next section of another process tells, or of this one.
    pub(crate) fn is_over(&self) -> Result<Option<bool>, Error> {
        let hot = self.hot();
        if !hot.is_draining() || hot.ready_count.get() > 0 || hot.has_delayed() {
            return Ok(Some(hot.is_closed()));
        }
        if !self.shared.segment.is_all_mapped() {
            return Ok(None);
        }
        // The getters of any process sleep.
        self.may_return_to(None).map(|may_return| Some(!may_return))
    }

    /// Whether an item that is taken may be ready again: a getter has it that is not back, or its holder
    /// dies, or settles it so.
    ///
    /// For a getter of the participant `own`, what that has taken without a name does not count. It is
    /// finished, or comes back by the death of the getter's own process: no thread that lives can take it
    /// then. And the thread that is to finish it may wait for the getter. A getter that sleeps learns that
    /// nothing else is left at the end of its slice.
    ///
    /// The youngest lease of each holder is read first: what is set aside is older than what the same thread
    /// has in hand. Then some more of each, because the youngest may be set aside and an older one in the
    /// hand of another thread. Behind so many a holder has never finished any, and is waited for no more.
    fn may_return_to(&self, own: Option<u32>) -> Result<bool, Error> {
        let hot = self.hot();
        let is_handed = hot.aged(Kind::Item).is_some_and(|aged| aged.handed.get() > 0);
        if is_handed || hot.begins_to_acknowledge() && hot.aside.head.get() != 0 {
            return Ok(true);
        }
        for (of_each, mut left) in [(1, u32::MAX), (PORTION, LEASES_READ)] {
            let mut participant = 0;
            while let Some(index) = self.next_lessee(participant) {
                participant = index;
                let is_own = own == Some(index);
                let suits = |slot: &Slot| !is_own || slot.is_by_name();
                if self.find_in_hand(index, of_each, &mut left, suits)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether a participant has an item that suits, and that comes back if it dies, among so many of its
    /// youngest leases.
    fn find_in_hand(
        &self,
        participant: u32,
        at_most: u32,
        left: &mut u32,
        suits: impl Fn(&Slot) -> bool,
    ) -> Result<bool, Error> {
        let hot = self.hot();
        let mut index = self.shared.segment.participant(participant)?.leased.tail.get();
        for _ in 0..at_most.min(*left) {
            if index == 0 {
                break;
            }
            *left -= 1;
            let slot = self.slot(index)?;
            let comes_back = match slot.word().state() {
                Some(State::Leased) => !was_kept(slot, self.shared.options.acknowledged),
                Some(State::Aside) => !hot.sets_aside(),
                _ => false,
            };
            if comes_back && suits(slot) {
                return Ok(true);
            }
            index = slot.prev.get();
        }
        Ok(false)
    }
}
