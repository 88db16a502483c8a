//! In the place of lock/after_release.rs: the pipes of a model need not be opened.

use crate::lock::guard::Guard;
use crate::memory::layout::ParticipantId;
use crate::options::uninterruptible;
use crate::state::Shared;
use crate::state::notifier::{AfterRelease, Contents};
use crate::state::pipe_word::{Pipe, keep_promise};

impl Shared {
    pub(crate) fn run_after_release(&self, after_release: AfterRelease, me: ParticipantId) {
        let AfterRelease::Notify(promises) = after_release else {
            return;
        };
        let hot = self.segment.hot();
        for (pipe, promise) in Pipe::ALL.into_iter().zip(promises) {
            let Some(promise) = promise else {
                continue;
            };
            if keep_promise(pipe.word(hot), &Contents::of(pipe, hot), promise)
                && uninterruptible(|mut wait| self.acquire_as(me.0, &mut wait)).is_ok()
            {
                drop(Guard::new(self, me));
            }
        }
    }
}
