//! Watching: a descriptor that is readable while there is an item (state/notifier.rs).

use std::os::fd::RawFd;

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::options::{Patience, Wait};
use crate::platform;
use crate::sync::Word;

impl Queue {
    /// A descriptor that is readable exactly while a get would find an item, level triggered. The descriptor
    /// stays the queue's: the caller only waits with it, and neither reads from it nor closes it. From now on
    /// a call that fills or empties the queue makes one or two system calls more, until this process leaves
    /// the queue.
    pub fn watch(&self, mut wait: Wait<'_>) -> Result<RawFd, Error> {
        let watched = self.open_and_watch(&mut wait);
        self.shared.report(watched)
    }

    fn open_and_watch(&self, wait: &mut Wait<'_>) -> Result<RawFd, Error> {
        self.join_in(wait)?;
        loop {
            let number = self.shared.segment.hot().notifier.get();
            let found = match self.shared.notifier.current(number) {
                Some(end) => Some(end),
                None => self.shared.open_notifier_of_another(number)?,
            };
            let mut section = self.enter(wait)?;
            let hot = section.hot();
            if hot.notifier.get() != number {
                // Another process has made a notifier meanwhile.
                continue;
            }
            let end = match found {
                Some(end) => end,
                None => {
                    let (pipe, number) = platform::make_pipe()?;
                    section.set_notifier(number);
                    fault!("notifier.made");
                    self.shared.keep_notifier(pipe, number)
                }
            };
            section.announce_notifier()?;
            section.watch_for_good()?;
            return Ok(end.reading);
        }
    }

    /// Called after a get has found nothing. If the notifier was readable, it may hold a byte too many.
    #[cold]
    pub(crate) fn found_nothing(&self) {
        let attempt = self.enter(&mut Wait {
            patience: Patience::TryLock,
            interrupted: &mut || false,
        });
        // If the lock is taken now, the next get that finds nothing tries again.
        if let Ok(mut section) = attempt {
            section.drain_if_empty();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::operations::delivery::Buffer;
    use crate::options::Options;

    fn now<T>(call: impl FnOnce(Wait<'_>) -> Result<T, Error>) -> T {
        call(Wait {
            patience: Patience::NoWait,
            interrupted: &mut || false,
        })
        .unwrap()
    }

    /// A process that has closed the queue with an item in hand watches no more, so that puts and gets of the
    /// others do nothing at the notifier.
    #[test]
    fn a_closed_queue_is_not_watched() {
        let queue = Queue::create(&Options {
            maxsize: 0,
            max_bytes: None,
            soft_bytes: 0,
            acknowledged: true,
            max_deliveries: 3,
        })
        .unwrap();
        let remainder = queue.open_handle().unwrap();
        now(|wait| queue.put(&[b"item"], wait));
        now(|wait| queue.get(&mut Buffer::default(), wait));
        now(|wait| queue.watch(wait));
        assert_eq!(queue.shared.segment.hot().watching.get(), 1);
        remainder.close(queue);
        let closed = remainder.reopen().unwrap();
        assert!(closed.shared.member_if_any().is_some(), "the lease keeps it");
        assert_eq!(closed.shared.segment.hot().watching.get(), 0);
        remainder.close(closed);
    }
}
