//! Watching: descriptors that tell when an operation would not wait (state/notifier.rs), and the upkeep of
//! those that wait with them.

use std::os::fd::RawFd;

use crate::error::Error;
use crate::fault::fault;
use crate::handle::put_off::is_stuck;
use crate::handle::queue::Queue;
use crate::memory::layout::Kind;
use crate::options::{Patience, Wait};
use crate::platform;
use crate::state::pipe_word::Pipe;
use crate::sync::Word;

/// At each such slice a process that tends a queue checks all participants, not only holders.
const THOROUGH: u32 = 10;

impl Queue {
    /// A descriptor that is readable exactly while a get that does not wait would find an item, or would say
    /// that the queue was shut down; level triggered. The descriptor
    /// stays the queue's: the caller only waits with it, and neither reads from it nor closes it. From now on
    /// a call that fills or empties the queue makes one or two system calls more, until this process leaves
    /// the queue.
    pub fn watch(&self, wait: Wait<'_>) -> Result<RawFd, Error> {
        self.watch_for(Kind::Item, wait)
    }

    /// The same for what is awaited. Of room the descriptor is writable exactly while a put would find some,
    /// also once the queue was shut down, so that the put would raise. Of the end of all work it is readable
    /// exactly while a join would return. A call that changes that makes one or two system calls more.
    pub fn watch_for(&self, awaited: Kind, mut wait: Wait<'_>) -> Result<RawFd, Error> {
        let watched = self.open_and_watch(awaited, &mut wait);
        self.shared.report(watched)
    }

    fn open_and_watch(&self, kind: Kind, wait: &mut Wait<'_>) -> Result<RawFd, Error> {
        self.join_in(wait)?;
        let pipe = Pipe::of(kind);
        loop {
            let number = pipe.number(self.shared.segment.hot()).get();
            let found = match self.shared.notifier(pipe).current(number) {
                Some(end) => Some(end),
                None => self.shared.open_notifier_of_another(pipe, number)?,
            };
            let mut section = self.enter(wait)?;
            if pipe.number(section.hot()).get() != number {
                // Another process has made a notifier meanwhile.
                continue;
            }
            let end = match found {
                Some(end) => end,
                None => {
                    let (opened, number) = platform::make_pipe()?;
                    section.set_notifier(pipe, number);
                    fault!("notifier.made");
                    self.shared.keep_notifier(pipe, opened, number)
                }
            };
            section.announce_notifier()?;
            section.watch_for_good(kind)?;
            return Ok(if kind == Kind::Room {
                end.writing
            } else {
                end.reading
            });
        }
    }

    /// Whether an operation would not wait, by an unlocked read.
    pub fn is_ready(&self, awaited: Kind) -> bool {
        let hot = self.shared.segment.hot();
        let is_over = match awaited {
            Kind::Item => hot.is_at_its_end(),
            Kind::Room => !hot.is_open(),
            Kind::Finish => false,
        };
        is_over || self.looks_ready(awaited)
    }

    /// Whether [`tend`](Self::tend) has anything to do in that slice.
    pub fn is_tending_due(&self, slices: u32) -> bool {
        self.is_reaping_due() || slices % THOROUGH == 0 || self.is_trim_due() || self.has_to_enter()
    }

    /// Whether a section, of whatever process, has something to do: a byte that a dead process was to write,
    /// or an item that is delayed no more (state/delay.rs).
    fn has_to_enter(&self) -> bool {
        self.shared.is_notifier_unsettled() || self.shared.segment.hot().is_any_due()
    }

    /// Upkeep at the end of a slice of 100 ms, for a process that sleeps with a descriptor: what the watcher
    /// among the waiters does (state/waiters.rs). And a byte that a dead process was to write is written, and
    /// what is due becomes ready.
    ///
    /// Waits for the lock 10 ms at most.
    pub fn tend(&self, slices: u32) -> Result<(), Error> {
        let tended = match self.tend_in_section(slices % THOROUGH == 0) {
            Err(error) if is_stuck(&error) => Ok(()),
            tended => tended,
        };
        self.shared.report(tended)
    }

    fn tend_in_section(&self, is_thorough: bool) -> Result<(), Error> {
        if is_thorough || self.is_reaping_due() {
            self.reap_dead(is_thorough)?;
        }
        self.trim_if_due()?;
        if self.has_to_enter() {
            drop(self.enter_briefly()?);
        }
        Ok(())
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
