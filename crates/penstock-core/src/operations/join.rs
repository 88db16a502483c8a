//! Join: a call waits until every item of an acknowledged queue is finished.

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::memory::layout::Kind;
use crate::options::Wait;
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
                self.discard_leftovers(&mut || self.enter(wait))?;
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
}
