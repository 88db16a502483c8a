//! Join: a call waits until every item of an acknowledged queue is finished.

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::memory::layout::Kind;
use crate::options::{Patience, Wait};
use crate::state::recovery::Portion;
use crate::state::waiters::Waiting;
use crate::sync::Word;

impl Queue {
    /// Waits until every item that was put is finished.
    pub fn join(&self, wait: Wait<'_>) -> Result<(), Error> {
        self.join_since(&mut None, wait)
    }

    /// The same for a caller that waits with a descriptor ([`watch_for`](Self::watch_for)) and tries again
    /// and again: also returns if every item was finished at a moment since its first attempt, even if others
    /// were put since. `since` is the caller's own, `None` at first.
    pub fn join_since(&self, since: &mut Option<u64>, mut wait: Wait<'_>) -> Result<(), Error> {
        let mut waiting = Waiting::new(Kind::Finish);
        let joined = self
            .acknowledge_from_now_on(&mut wait)
            .and_then(|()| self.wait_until_finished(&mut waiting, since, &mut wait));
        self.shared.report(joined.map_err(|error| {
            self.abandon(&mut waiting);
            if error == Error::Empty {
                self.was_in_vain(Kind::Finish);
            }
            Kind::Finish.map_timeout(error, wait.patience)
        }))
    }

    /// The number that [`join_since`](Self::join_since) compares, by an unlocked read.
    pub fn finishes(&self) -> u64 {
        self.shared.segment.hot().finishes.get()
    }

    fn wait_until_finished(
        &self,
        waiting: &mut Waiting,
        since: &mut Option<u64>,
        wait: &mut Wait<'_>,
    ) -> Result<(), Error> {
        let mut section = self.enter(wait)?;
        // A joiner that was notified returns: every item was finished at that moment, even if others were put
        // since.
        while section.hot().unfinished.get() > 0 && !waiting.was_chosen() {
            if section.hot().has_leftovers() {
                drop(section);
                self.discard_within(wait)?;
                section = self.enter(wait)?;
                continue;
            }
            let finishes = section.hot().finishes.get();
            if *since.get_or_insert(finishes) != finishes {
                break;
            }
            section = self.wait_for(section, waiting, wait)?;
        }
        section.withdraw(waiting)
    }

    /// Discards what is left in a closed queue, as much as the caller has the patience for. If any is left,
    /// an error.
    #[cold]
    fn discard_within(&self, wait: &mut Wait<'_>) -> Result<(), Error> {
        match wait.patience {
            // The call that follows discards, for as long as that takes.
            Patience::TryLock => Err(Error::Busy),
            Patience::Briefly => match self.discard_some_leftovers(&mut || self.enter(wait))? {
                Portion::Last => Ok(()),
                // The queue's upkeep, or the next attempt, goes on.
                Portion::MoreToCome => Err(Error::Empty),
            },
            _ => self.discard_leftovers(&mut || self.enter(wait)),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::memory::layout::CLOSED;
    use crate::options::testing::ACKNOWLEDGED;
    use crate::state::recovery::PORTION;

    fn with<T>(patience: Patience, call: impl FnOnce(Wait<'_>) -> T) -> T {
        call(Wait {
            patience,
            interrupted: &mut || false,
        })
    }

    /// A process has closed a long queue, and died. An attempt that holds a lock meanwhile, that of an event
    /// loop, or a check for the dead does not discard all of it; a joiner that has time does.
    #[test]
    fn a_join_that_may_not_wait_does_not_discard_all() {
        // No process discards so many in the few milliseconds that each of the two has.
        const MANY: u64 = 400 * PORTION as u64;
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        with(Patience::NoWait, |wait| queue.join(wait)).unwrap();
        for _ in 0..MANY {
            with(Patience::NoWait, |wait| queue.put(&[b"item"], wait)).unwrap();
        }
        with(Patience::NoWait, |mut wait| queue.enter(&mut wait))
            .unwrap()
            .store_phase(CLOSED);
        let left = || queue.shared.segment.hot().ready_count.get();
        let join = |patience| with(patience, |wait| queue.join(wait));
        assert_eq!(join(Patience::TryLock), Err(Error::Busy));
        // Each section discards one portion by itself.
        assert!(MANY - left() <= 2 * u64::from(PORTION), "{}", left());
        let before = left();
        assert_eq!(join(Patience::Briefly), Err(Error::Empty));
        assert!(left() < before - u64::from(PORTION));
        queue.reap_dead(true).unwrap();
        assert!(left() > 0);
        assert_eq!(join(Patience::Forever), Ok(()));
        assert_eq!(left(), 0);
    }
}
