//! Begun: as the how-manieth producer this process has begun, queue by queue (state/producers.rs).
//!
//! A participant's record says so as long as the participant is there. A process that has closed its last
//! handle, and opens the queue anew, is another participant, but no other producer. So it remembers the
//! number for itself. A forked child has begun nothing.

use crate::units::Id;

#[cfg(not(loom))]
mod notes {
    use std::collections::VecDeque;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::Id;

    /// Queues of which a process remembers its number: the last ones in which it has begun.
    const MOST: usize = 1024;

    /// The oldest first.
    static BEGUN: Mutex<VecDeque<(Id, u32)>> = Mutex::new(VecDeque::new());

    fn lock() -> MutexGuard<'static, VecDeque<(Id, u32)>> {
        // A panic elsewhere leaves nothing half done, so poison means nothing.
        BEGUN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn number_of(queue: Id) -> u32 {
        let _no_fork = crate::fork::hold_off();
        let begun = lock();
        let found = begun.iter().find(|(id, _)| *id == queue);
        found.map_or(0, |(_, number)| *number)
    }

    /// Without memory for it the process counts once more when it opens the queue anew.
    pub(crate) fn remember(queue: Id, number: u32) {
        let _no_fork = crate::fork::hold_off();
        let mut begun = lock();
        if begun.iter().any(|(id, _)| *id == queue) {
            return;
        }
        if begun.len() >= MOST {
            begun.pop_front();
        }
        if begun.try_reserve(1).is_ok() {
            begun.push_back((queue, number));
        }
    }

    /// In a child after a fork.
    pub(crate) fn forget() {
        lock().clear();
    }
}

#[cfg(not(loom))]
pub(crate) use notes::{forget, number_of, remember};

/// The processes of a model share their private memory, and none opens a queue twice.
#[cfg(loom)]
pub(crate) fn number_of(_: Id) -> u32 {
    0
}

#[cfg(loom)]
pub(crate) fn remember(_: Id, _: u32) {}
