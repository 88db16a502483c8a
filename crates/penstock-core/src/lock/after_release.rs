//! After the release: the bytes that a section has promised to the notifiers (state/notifier.rs), and opening
//! them.

use std::os::fd::IntoRawFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::error::Error;
use crate::fork::{self, NoFork};
use crate::lock::guard::Guard;
use crate::memory::layout::ParticipantId;
use crate::options::{Patience, Wait};
use crate::platform::{self, Instant, OpenPipe, PipeOfAnother};
use crate::state::Shared;
use crate::state::notifier::{AfterRelease, Due, End};
use crate::state::pipe_word::{Pipe, keep_promise};
use crate::sync::Word;

/// How long this process waits at most for a lock that it needs only for the notifier.
const BRIEFLY: Duration = Duration::from_millis(20);
/// After a notifier could not be opened, how long this process does not try again, in milliseconds, unless
/// another participant has announced it since.
const PAUSE: u64 = 100;

impl Shared {
    /// Does what a section has left to do. The lock is released.
    #[cold]
    pub(crate) fn run_after_release(&self, after_release: AfterRelease, me: ParticipantId) {
        match after_release {
            AfterRelease::None => {}
            AfterRelease::Notify(due) => self.notify(&due, me),
            AfterRelease::SignalLine(end, promise) => self.keep_line_promise(end, promise),
            AfterRelease::AwaitByte(end, claimed) => {
                self.await_byte(end, claimed);
                self.pass_section(me, |_| {});
            }
        }
    }

    fn notify(&self, due: &Due, me: ParticipantId) {
        let mut is_unknown = false;
        for (pipe, promised) in Pipe::ALL.into_iter().zip(due.promises) {
            if let Some((end, promise)) = promised {
                is_unknown |= keep_promise(pipe.word(self.segment.hot()), &end, promise);
                self.notifier(pipe).end_promise();
            }
        }
        if is_unknown {
            self.pass_section(me, |_| {});
        }
        if due.opens {
            for pipe in Pipe::ALL {
                self.open_notifier(pipe, me);
            }
        }
    }

    /// Opens a notifier that this process has not open, and enters a section, whose end does what is due.
    fn open_notifier(&self, pipe: Pipe, me: ParticipantId) {
        let hot = self.segment.hot();
        let (notifier, number) = (self.notifier(pipe), pipe.number(hot).get());
        if number == 0 || notifier.current(number).is_some() {
            return;
        }
        let (now, announced) = (platform::coarse_millis(), hot.announced.get());
        let since = now.wrapping_sub(notifier.failed_at.load(Relaxed));
        if since < PAUSE && notifier.failed_with.get() == announced {
            return;
        }
        notifier.failed_at.store(now, Relaxed);
        notifier.failed_with.set(announced);
        if let Ok(Some(_)) = self.open_notifier_of_another(pipe, number) {
            self.pass_section(me, |section| {
                let _ = section.announce_notifier();
            });
        }
    }

    /// Passes a section, whose end does what is due.
    fn pass_section(&self, me: ParticipantId, work: impl FnOnce(&mut Guard<'_>)) {
        let mut wait = Wait {
            patience: Patience::Until(Instant::now() + BRIEFLY),
            interrupted: &mut || false,
        };
        // An error is damage, which other operations report as well, or a lock whose holder is stopped: then
        // the next section does what is due.
        if self.acquire_as(me.0, &mut wait).is_ok() {
            let mut section = Guard::new(self, me);
            if self.is_whole_for(me) {
                work(&mut section);
            }
        }
    }

    /// Opens a notifier through a participant that has it. An error if a living participant has it whose
    /// descriptors cannot be reached: not every participant would signal a second pipe. Makes system calls,
    /// and needs no lock.
    pub(crate) fn open_notifier_of_another(&self, pipe: Pipe, number: u64) -> Result<Option<End>, Error> {
        let own = self.member_if_any().map(ParticipantId::index);
        let mut unreachable = None;
        for index in self.participants() {
            let record = self.segment.participant(index)?;
            let [place, writing] = pipe.places(record).map(Word::get);
            if place == 0 || Some(index) == own {
                continue;
            }
            let places = (place - 1, writing.checked_sub(1));
            match platform::open_pipe_of(record.pid(), places, number) {
                PipeOfAnother::Open(opened) => {
                    // One thread at a time.
                    let no_fork = fork::hold_off();
                    return Ok(Some(self.keep_notifier(pipe, (opened, number), &no_fork)));
                }
                PipeOfAnother::Elsewhere => {}
                PipeOfAnother::OutOfReach if self.is_dead(index, record, true) => {}
                PipeOfAnother::OutOfReach => unreachable = Some(record.pid()),
            }
        }
        match unreachable {
            Some(pid) => Err(Error::NotifierUnreachable { pid }),
            None => Ok(None),
        }
    }

    /// Makes the open pipe of that number this process's notifier, unless another thread was quicker. One
    /// thread at a time does so, and none waits for another here: the caller may hold the lock.
    pub(crate) fn keep_notifier(&self, pipe: Pipe, (opened, number): (OpenPipe, u64), _: &NoFork) -> End {
        let notifier = self.notifier(pipe);
        if let Some(end) = notifier.current(number) {
            return end;
        }
        let reading = opened.reading.into_raw_fd();
        let writing = opened.writing.map_or(-1, IntoRawFd::into_raw_fd);
        let former = notifier.number.swap(number, Relaxed);
        for (place, fd) in [(&notifier.fd, reading), (&notifier.writing, writing)] {
            let former_fd = place.swap(fd, Relaxed);
            if former_fd != reading && former_fd != writing {
                platform::close_pipe(former_fd, former);
            }
        }
        let writing = if writing < 0 { reading } else { writing };
        End { reading, writing }
    }
}
