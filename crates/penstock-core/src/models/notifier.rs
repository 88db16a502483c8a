//! In the place of state/notifier.rs: the pipes of a model are words of the segment, and every process has
//! them open. What is written to them, and when, is the real pipe_word.rs.
#![cfg_attr(not(test), allow(dead_code))]

use crate::error::Error;
use crate::memory::layout::{Hot, Kind, Participant};
use crate::state::line::DUE;
use crate::state::pipe_word::{Pipe, PipeEnds, UNKNOWN, change, drain, next};
use crate::state::{Section, Shared};
use crate::sync::{AtomicU64, Count, Ordering, Word};

#[derive(Clone, Copy, Default)]
pub(crate) enum AfterRelease {
    #[default]
    None,
    Notify([Option<u32>; 2]),
}

pub(crate) struct Notifier;

impl Notifier {
    pub(crate) fn new() -> Notifier {
        Notifier
    }

    pub(crate) fn close(&self) {}
}

/// A pipe with both pages in use.
pub(crate) const BRIM: u64 = 1 << 32;

/// What lies in a pipe, where the real queue has the pipe's number.
pub(crate) struct Contents<'a>(&'a AtomicU64);

impl Contents<'_> {
    pub(crate) fn of(pipe: Pipe, hot: &Hot) -> Contents<'_> {
        Contents(pipe.number(hot))
    }

    /// What `poll` finds: every exchange reads the newest value, also one that fails.
    pub(crate) fn bytes(&self) -> u64 {
        let read = self
            .0
            .compare_exchange(u64::MAX, u64::MAX, Ordering::SeqCst, Ordering::SeqCst);
        read.unwrap_or_else(|newest| newest)
    }

    /// One call of the kernel.
    fn update(&self, change: impl Fn(u64) -> u64) -> bool {
        let mut bytes = self.0.load(Ordering::SeqCst);
        loop {
            match self
                .0
                .compare_exchange(bytes, change(bytes), Ordering::SeqCst, Ordering::SeqCst)
            {
                Ok(_) => return true,
                Err(newest) => bytes = newest,
            }
        }
    }
}

impl PipeEnds for Contents<'_> {
    fn signal(&self) -> bool {
        self.update(|bytes| if bytes < BRIM { bytes + 1 } else { bytes })
    }

    fn drain(&self) -> bool {
        self.update(|_| 0)
    }

    fn fill(&self) -> bool {
        self.update(|_| BRIM)
    }
}

impl Shared {
    pub(crate) fn is_watched(&self) -> bool {
        self.segment.hot().watching.get() != 0
    }

    /// Nothing has to be opened.
    pub(crate) fn has_to_announce(&self) -> bool {
        let _ = &self.line;
        false
    }
}

impl Section<'_> {
    pub(crate) fn update_notifier(&mut self) {
        self.end_telling_if_unwatched();
        for pipe in Pipe::ALL {
            let Some(wanted) = self.wanted_change(pipe) else {
                continue;
            };
            self.count_finish(pipe);
            let hot = self.hot();
            if let Some(promise) = change(pipe.word(hot), &Contents::of(pipe, hot), wanted) {
                let mut promises = match self.after_release {
                    AfterRelease::Notify(promises) => promises,
                    AfterRelease::None => [None; 2],
                };
                promises[pipe as usize] = Some(promise);
                self.after_release = AfterRelease::Notify(promises);
            }
        }
    }

    pub(crate) fn correct_notifier(&mut self, kind: Kind) {
        if kind == Kind::Item {
            self.drain_if_empty();
        }
    }

    pub(crate) fn drain_if_empty(&mut self) {
        self.end_telling();
        if !self.is_readable() {
            let hot = self.hot();
            drain(&hot.pipe_state, &Contents::of(Pipe::Traffic, hot));
        }
    }

    /// Counts a watcher of this process. The end of the section restores the notifier.
    pub(crate) fn watch_for_good(&mut self, kind: Kind) -> Result<(), Error> {
        let (hot, record) = (self.hot(), self.shared.segment.participant(self.my_index())?);
        match kind {
            Kind::Item => record.watching.add(1),
            Kind::Room => {
                record.watching_room.add(1);
                hot.watching_room.add(1);
            }
            Kind::Finish => {
                record.watching_finish.add(1);
                hot.watching_finish.add(1);
            }
        }
        hot.watching.add(1);
        Ok(())
    }

    pub(crate) fn discount_watchers_of(&mut self, record: &Participant) {
        let hot = self.hot();
        let (room, finish) = (record.watching_room.get(), record.watching_finish.get());
        hot.watching.sub(record.watching.get() + room + finish);
        hot.watching_room.sub(room);
        hot.watching_finish.sub(finish);
        for word in [&record.watching, &record.watching_room, &record.watching_finish] {
            word.set(0);
        }
    }

    pub(crate) fn rebuild_notifier(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        let mut sums = [0; 3];
        for index in self.shared.participants() {
            let record = self.shared.segment.participant(index)?;
            let counts = [&record.watching, &record.watching_room, &record.watching_finish];
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count.get();
            }
        }
        let all: u32 = sums.iter().sum();
        let tells = all != 0 && hot.has_delayed();
        hot.watching.set(all | if tells { DUE } else { 0 });
        hot.watching_room.set(sums[1]);
        hot.watching_finish.set(sums[2]);
        for pipe in Pipe::ALL {
            pipe.word(hot).set(next(pipe.word(hot).get(), UNKNOWN));
        }
        Ok(())
    }

    pub(crate) fn announce_notifier(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
