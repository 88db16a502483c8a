//! Shutdown: no item is put any more; and either what is left is taken, or it is discarded at once.
//!
//! Requirements. In every process, a put raises from now on, also one that waits for room. A get takes what
//! is left, and then raises; after an immediate shutdown it raises at once, and what was queued leaves the
//! unfinished items. An item in hand is finished as usual, and `join` returns when none is left.
//!
//! Protocol. The commit is one store of the queue's phase (state/phase.rs), under the lock. The end of that
//! section notifies the waiters that will find nothing any more, `BATCH` of a kind at most; each of them
//! comes back through a section, whose end notifies the next ones (state/waiters.rs).
//!
//! An immediate shutdown discards what is queued, a portion of it in each section. Whatever comes back later
//! (its holder has died, its getter has given up) is discarded then. A section of any process that finds
//! items in a closed queue continues: the next section of each process discards a portion, and a check for
//! the dead, a join and a `task_done` discard all. To `len` they are gone from the commit on.
//!
//! What the commit finds in the middle:
//!
//! - A put has not published its item: it raises, and its slot is freed. That is also so if the payload was
//!   copied already, outside the lock or by a putter that has aged (CLAIMED). A put of many that has
//!   published some says how many.
//! - A put has published its item, or a section has for it (state/hand.rs), and the putter is not back: it
//!   was put before the shutdown, and the put succeeds. If the shutdown is immediate, the item is discarded.
//! - A getter was handed an item and is not back (HANDED): it was taken before the shutdown, and the getter
//!   delivers it. If it gives up or dies instead, the item comes back.
//! - An item may come back after all getters have found the queue empty. So while an item is in hand, a
//!   getter that may wait does (state/phase.rs, `check_get`), except in the process that has it.
//!
//! An item leaves its slot in three steps, so that it is counted once at whatever step the process dies
//! (state/aside.rs, `free_counted`).
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | **phase = DRAINING** or CLOSED | it took effect; the rebuild's section notifies the waiters |
//! | waiters marked, lock released, no wake-up call made | each learns it at the end of its slice |
//! | closed: an item taken off the order | its slot is READY: the rebuild lists it, to be discarded later |
//! | closed: **slot = DISCARDED**, its number noted | the rebuild counts it and frees the slot |
//! | closed: counted, slot not FREE | the slot's note agrees with the counter: the rebuild frees the slot |
//! | closed: slot = FREE, `unfinished` not lowered | the rebuild counts the unfinished items |
//! | closed: a portion discarded, lock released | the queue is closed and has items: any section continues |
//! | putter back: the phase read, its slot not freed | the sweep frees slot and extent |

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::memory::layout::{CLOSED, DRAINING};
use crate::options::{Patience, Wait, uninterruptible};

impl Queue {
    /// Shuts the queue down, for all processes and for good: no item is put any more. If `is_immediate`,
    /// none is taken any more either, and what is queued is discarded. Of a queue that is draining, an
    /// immediate shutdown discards the rest; all other repetitions change nothing.
    pub fn shut_down(&self, is_immediate: bool) -> Result<(), Error> {
        uninterruptible(|wait| self.shut_down_within(is_immediate, wait))
    }

    /// The same, waiting for the lock as long as `wait` allows. After an error that ends the wait, the queue
    /// is as it was, or it is shut down and some items are still to be discarded.
    pub fn shut_down_within(&self, is_immediate: bool, mut wait: Wait<'_>) -> Result<(), Error> {
        let phase = if is_immediate { CLOSED } else { DRAINING };
        let stored = self.enter(&mut wait).map(|section| {
            section.store_phase(phase);
            fault!("shutdown.committed");
        });
        let ended = stored.and_then(|()| self.discard_leftovers(&mut || self.enter(&mut wait)));
        self.shared.report(ended)?;
        // The queue is shut down, whatever becomes of the trim. Damage is noted in the segment.
        if self.is_trim_due() && wait.patience != Patience::TryLock {
            let _ = self.trim_if_due();
        }
        Ok(())
    }

    /// Whether a get that may wait would do so, though the queue was shut down: an item may come back.
    #[cfg(not(loom))]
    pub fn may_return(&self, mut wait: Wait<'_>) -> Result<bool, Error> {
        let entered = self.enter(&mut wait);
        let may_return = entered.and_then(|section| match section.check_get(Patience::Forever) {
            Err(Error::ShutDown) => Ok(false),
            checked => checked.map(|()| true),
        });
        self.shared.report(may_return)
    }

    /// Whether the queue was shut down, by whatever process.
    pub fn is_shut_down(&self) -> bool {
        self.shared.segment.hot().is_ended()
    }
}
