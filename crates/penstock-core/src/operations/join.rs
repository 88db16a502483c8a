//! Join: a call waits until every item of an acknowledged queue is finished.

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::memory::layout::Kind;
use crate::options::Wait;
use crate::state::waiters::Waiting;
use crate::sync::Word;

impl Queue {
    /// Waits until every item that was put is finished.
    pub fn join(&self, mut wait: Wait<'_>) -> Result<(), Error> {
        let mut waiting = Waiting::new(Kind::Finish);
        let joined = self
            .acknowledge_from_now_on(&mut wait)
            .and_then(|()| self.wait_until_finished(&mut waiting, &mut wait));
        self.shared.report(joined.map_err(|error| {
            self.abandon(&mut waiting);
            Kind::Finish.map_timeout(error, wait.patience)
        }))
    }

    fn wait_until_finished(&self, waiting: &mut Waiting, wait: &mut Wait<'_>) -> Result<(), Error> {
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
            section = self.wait_for(section, waiting, wait)?;
        }
        section.withdraw(waiting)
    }
}
