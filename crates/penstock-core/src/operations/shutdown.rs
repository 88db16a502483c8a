//! Shutdown: no item is put any more; and either what is left is taken, or it is discarded at once.
//!
//! Requirements. In every process, a put raises from now on, also one that waits for room. A get takes what
//! is left, and then raises; after an immediate shutdown it raises at once, and what was queued leaves the
//! unfinished items. An item in hand is finished as usual, and `join` returns when none is left.
//!
//! Protocol. The commit is one store of the queue's phase (state/phase.rs), under the lock. The end of that
//! section notifies one of the waiters that will find nothing any more, and wakes another; each of them comes
//! back through a section, whose end does the same (state/waiters.rs). The first is the watcher, whose slice
//! is 100 ms, so that no lost wake-up call delays the others for long.
//!
//! An immediate shutdown discards what is queued, a portion of it in each section. Whatever comes back later
//! (its holder has died, its getter has given up) is discarded then. A section of any process that finds
//! items in a closed queue continues: the next section of each process discards a portion, a check for the
//! dead discards for some milliseconds, and a join discards all. (The join of an event loop discards as long
//! as a check does, and that of a caller which holds a lock not at all.) To `len` and `task_done` they are
//! gone from the commit on.
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
//!   getter that may wait does (state/phase.rs, `check_get`). A get does not in the process that has it: it
//!   may be what the getter is to finish. A getter of that process that sleeps already finds out at the end
//!   of its slice. A loop and a lease do not in the thread that has it: what other threads have is finished,
//!   or comes back, and either wakes them.
//!
//! A section of a process that has not mapped all that the queue has grown by (memory/ranges.rs) may not find
//! the slots of leases. It notifies putters, and getters of a closed queue. It cannot tell whether an item of
//! a draining queue may come back, and leaves getters as they are, to the next section.
//!
//! An item leaves its slot in three steps, so that it is counted once at whatever step the process dies
//! (state/aside.rs, `free_counted`).
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | **phase = DRAINING** or CLOSED | it took effect; the rebuild's section notifies the waiters |
//! | watcher marked, lock released, no wake-up made | its slice ends, and it notifies the next |
//! | closed: an item taken off the order | its slot is READY: the rebuild lists it, to be discarded later |
//! | closed: **slot = DISCARDED**, its number noted | the rebuild counts it and frees the slot |
//! | closed: counted, slot not FREE | the slot's note agrees with the counter: the rebuild frees the slot |
//! | closed: slot = FREE, `unfinished` not lowered | the rebuild counts the unfinished items |
//! | closed: a portion discarded, lock released | the queue is closed and has items: any section continues |
//! | putter back: the phase read, its slot not freed | the sweep frees slot and extent |

use crate::error::Error;
use crate::fault::fault;
#[cfg(not(loom))]
use crate::handle::put_off::is_stuck;
use crate::handle::queue::Queue;
use crate::memory::layout::{CLOSED, DRAINING};
#[cfg(not(loom))]
use crate::options::Own;
use crate::options::{Patience, Wait, uninterruptible};

impl Queue {
    /// Shuts the queue down, for all processes and for good: no item is put any more. If `is_immediate`,
    /// none is taken any more either, and what is queued is discarded. Of a queue that is draining, an
    /// immediate shutdown discards the rest; all other repetitions change nothing.
    ///
    /// Not for the queue of a connection, whose line says when a side has ended.
    pub fn shut_down(&self, is_immediate: bool) -> Result<(), Error> {
        uninterruptible(|wait| self.shut_down_within(is_immediate, wait))
    }

    /// The same, waiting for the lock as long as `wait` allows. After an error that ends the wait, the queue
    /// is as it was, or it is shut down and some items are still to be discarded. With [`Patience::TryLock`]
    /// it discards none: if any is left, the answer is [`Error::Busy`] with the queue shut down.
    pub fn shut_down_within(&self, is_immediate: bool, mut wait: Wait<'_>) -> Result<(), Error> {
        let phase = if is_immediate { CLOSED } else { DRAINING };
        let stored = self.enter(&mut wait).map(|section| {
            section.store_phase(phase);
            fault!("shutdown.committed");
        });
        let ended = stored.and_then(|()| match wait.patience {
            // The call that follows discards, for as long as that takes.
            Patience::TryLock if self.shared.segment.hot().has_leftovers() => Err(Error::Busy),
            _ => self.discard_leftovers(&mut || self.enter(&mut wait)),
        });
        self.shared.report(ended)?;
        // The queue is shut down, whatever becomes of the trim. Damage is noted in the segment.
        if self.is_trim_due() && wait.patience != Patience::TryLock {
            let _ = self.trim_if_due();
        }
        Ok(())
    }

    /// Whether a get that may wait would not raise, though the queue was shut down: an item is ready again,
    /// or may come back. True also if the lock stays taken, so that this cannot tell: then the caller asks
    /// again later. `own` as for that get, whose caller does not block its thread.
    #[cfg(not(loom))]
    pub fn may_return(&self, own: Own, mut wait: Wait<'_>) -> Result<bool, Error> {
        let entered = self.enter(&mut wait);
        let checked = entered.and_then(|section| match section.hot().has_items() {
            true => Ok(()),
            false => section.check_get(Patience::Forever, own),
        });
        let may_return = match checked {
            Err(Error::ShutDown) => Ok(false),
            Err(error) if is_stuck(&error) => Ok(true),
            checked => checked.map(|()| true),
        };
        self.shared.report(may_return)
    }

    /// Whether the queue was shut down, by whatever process.
    pub fn is_shut_down(&self) -> bool {
        self.shared.segment.hot().is_ended()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::memory::layout::{Kind, OPEN, ParticipantId};
    use crate::options::testing::ACKNOWLEDGED;
    use crate::state::recovery::PORTION;
    use crate::state::waiters::{WOKEN, Waiting};
    use crate::sync::Word;

    fn forever<T>(call: impl FnOnce(Wait<'_>) -> Result<T, Error>) -> Result<T, Error> {
        call(Wait {
            patience: Patience::Forever,
            interrupted: &mut || false,
        })
    }

    /// Items that are counted and on no list are damage: nothing tries for ever to discard them.
    #[test]
    fn what_cannot_be_discarded_is_damage() {
        for call in [Queue::join, |queue: &Queue, _: Wait<'_>| queue.shut_down(true)] {
            let queue = Queue::create(&ACKNOWLEDGED).unwrap();
            forever(|wait| queue.put(&[b"item"], wait)).unwrap();
            let hot = queue.shared.segment.hot();
            forever(|mut wait| queue.enter(&mut wait))
                .unwrap()
                .store_phase(CLOSED);
            hot.ready.head.set(0);
            hot.ready.tail.set(0);
            let called = forever(|wait| call(&queue, wait));
            assert!(matches!(called, Err(Error::Corrupt { .. })), "{called:?}");
        }
    }

    /// An immediate shutdown discards many delayed items in portions, of which each section has one, so that
    /// no section is long.
    #[test]
    fn many_delayed_items_are_discarded_in_portions() {
        const MANY: u32 = 3000;
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        for number in 0..MANY {
            let delay = Duration::from_secs(3600 + u64::from(number % 7));
            forever(|wait| queue.put_delayed(&[&number.to_le_bytes()], delay, wait)).unwrap();
        }
        let attempt = Wait {
            patience: Patience::TryLock,
            interrupted: &mut || false,
        };
        assert_eq!(
            queue.shut_down_within(true, attempt),
            Err(Error::Busy),
            "it discards none"
        );
        let hot = queue.shared.segment.hot();
        assert_eq!(hot.delayed_count.get(), u64::from(MANY));
        let (mut before, mut sections) = (hot.delayed_count.get(), 0);
        while before > 0 {
            drop(forever(|mut wait| queue.enter(&mut wait)).unwrap());
            let left = hot.delayed_count.get();
            assert!(
                (1..=u64::from(PORTION)).contains(&(before - left)),
                "{before}, {left}"
            );
            (before, sections) = (left, sections + 1);
        }
        assert!(sections >= MANY / PORTION, "{sections}");
        assert_eq!(hot.unfinished.get(), 0);
    }

    /// A process dies after it has notified a waiter, and before it has woken it: after the rebuild, or the
    /// sweep, of a queue that was shut down the waiter is woken.
    #[test]
    fn a_notified_waiter_is_woken_again_after_a_death() {
        for (phase, count) in [(DRAINING, 1), (OPEN, 0)] {
            let queue = Queue::create(&ACKNOWLEDGED).unwrap();
            let mut section = forever(|mut wait| queue.enter(&mut wait)).unwrap();
            let mut waiting = Waiting::new(Kind::Room);
            section.enlist(&mut waiting).unwrap();
            section.delist(Kind::Room, waiting.cell).unwrap();
            section.cell(waiting.cell).unwrap().word.set(WOKEN);
            section.store_phase(phase);
            let before = section.wakes_noted().len();
            section.rebuild_waiters().unwrap();
            assert_eq!(section.wakes_noted()[before..], [waiting.cell][..count]);
            section.free_cells_of(ParticipantId::new(9, 9)).unwrap();
            assert_eq!(section.wakes_noted().len(), before + 2 * count);
            section.withdraw(&mut waiting).unwrap();
        }
    }
}
