//! In the place of operations/watch.rs: to watch needs no descriptor.
#![cfg_attr(not(test), allow(dead_code))]

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::memory::layout::Kind;
use crate::options::{Patience, Wait, uninterruptible};

impl Queue {
    pub(crate) fn watch_for(&self, awaited: Kind) -> Result<(), Error> {
        uninterruptible(|mut wait| self.enter(&mut wait))?.watch_for_good(awaited)
    }

    /// As the real one.
    pub(crate) fn was_in_vain(&self, kind: Kind) {
        if !self.shared.is_watched() {
            return;
        }
        let attempt = self.enter(&mut Wait {
            patience: Patience::TryLock,
            interrupted: &mut || false,
        });
        if let Ok(mut section) = attempt {
            section.correct_notifier(kind);
        }
    }
}
