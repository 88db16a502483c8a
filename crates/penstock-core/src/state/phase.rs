//! Phase: what a queue admits. It is whole or damaged; and its items are acknowledged, or not yet.
//!
//! Every section asks here when it begins (lock/guard.rs, `is_welcome`). A phase only ever goes forwards:
//! damage stays, and state/aside.rs says how a queue begins to be acknowledged. A phase in which no item is
//! put any more would be another answer here.

use crate::error::Error;
use crate::memory::layout::{BEGINNING, Hot, NOT_YET, YES};
use crate::state::{Section, Shared};
use crate::sync::Word;

impl Hot {
    /// Whether an impossible value was found: then every operation answers `Corrupt`.
    #[inline(always)]
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.get() != 0
    }

    pub(crate) fn note_damage(&self) {
        self.damaged.set(1);
    }

    /// Whether taken items are set aside, as no process acknowledges any. Without the lock only a true answer
    /// may be out of date.
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
}
