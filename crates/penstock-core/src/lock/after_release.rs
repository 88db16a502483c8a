//! After the release: the byte that a section has promised to the notifier (state/notifier.rs), and opening
//! it.

use std::os::fd::IntoRawFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::fork;
use crate::lock::guard::Guard;
use crate::memory::layout::ParticipantId;
use crate::options::{Patience, Wait};
use crate::platform::{self, Instant, OpenPipe, PipeOfAnother};
use crate::state::Shared;
use crate::state::notifier::{AfterRelease, DRAINED, End, SIGNALLED, UNKNOWN, next, state_of};
use crate::sync::{Ordering, Word};

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
            AfterRelease::Signal(end, promise) => {
                self.keep_promise(end, promise);
                self.notifier.end_promise();
            }
            AfterRelease::Open => self.open_notifier(me),
            AfterRelease::SignalLine(end, promise) => self.keep_line_promise(end, promise),
            AfterRelease::AwaitByte(end, claimed) => {
                self.await_byte(end, claimed);
                self.pass_section(me, |_| {});
            }
        }
    }

    /// Writes the byte that `update_notifier` has promised.
    fn keep_promise(&self, end: End, mut promise: u32) {
        let pipe_state = &self.segment.hot().pipe_state;
        loop {
            fault!("notifier.owed");
            let is_signalled = platform::signal(end.writing);
            fault!("notifier.updated");
            let kept = promise & !3 | if is_signalled { SIGNALLED } else { UNKNOWN };
            // SeqCst: the byte is written before the state is read, and `update_notifier` changes the state
            // after it has drained the pipe. The kernel's lock of the pipe orders the two.
            match pipe_state.compare_exchange(promise, kept, Ordering::SeqCst, Ordering::SeqCst) {
                // DRAINED again: the byte may have come too late. In each other case nothing is left to do:
                // the promise still stood, no byte was written, or another section has found an item, whose
                // byte this one may be.
                Err(now) if is_signalled && state_of(now) == DRAINED => {}
                _ => return,
            }
            // The queue was emptied between promise and byte, and the pipe perhaps drained before the byte
            // came.
            let is_drained = platform::drain(end.reading);
            promise = pipe_state.load(Ordering::SeqCst);
            if !is_drained && state_of(promise) == DRAINED {
                // Perhaps a byte too many: the next section that can drains it. If this exchange fails, such
                // a section was quicker.
                let unknown = next(promise, UNKNOWN);
                let _ = pipe_state.compare_exchange(promise, unknown, Ordering::SeqCst, Ordering::SeqCst);
                return;
            }
            if state_of(promise) == DRAINED {
                return;
            }
            // Another section has signalled, or promised, a byte meanwhile, and its byte may be the one that
            // was drained.
        }
    }

    /// Opens the notifier, and enters a section, whose end does what is due.
    fn open_notifier(&self, me: ParticipantId) {
        let (failed_at, now) = (&self.notifier.failed_at, platform::coarse_millis());
        let (failed_with, announced) = (&self.notifier.failed_with, self.segment.hot().announced.get());
        if now.wrapping_sub(failed_at.load(Relaxed)) < PAUSE && failed_with.get() == announced {
            return;
        }
        failed_at.store(now, Relaxed);
        failed_with.set(announced);
        if let Ok(Some(_)) = self.open_notifier_of_another(self.segment.hot().notifier.get()) {
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
            let is_whole = !section.hot().is_damaged() && self.segment.is_all_mapped();
            if is_whole && matches!(self.participant_of(me), Ok(Some(_))) {
                work(&mut section);
            }
        }
    }

    /// Opens the notifier through a participant that has it. An error if a living participant has it whose
    /// descriptors cannot be reached: not every participant would signal a second notifier. Makes system
    /// calls, and needs no lock.
    pub(crate) fn open_notifier_of_another(&self, number: u64) -> Result<Option<End>, Error> {
        let own = self.member_if_any().map(ParticipantId::index);
        let mut unreachable = None;
        for index in self.participants() {
            let record = self.segment.participant(index)?;
            let place = record.notifier.get();
            if place == 0 || Some(index) == own {
                continue;
            }
            let places = (place - 1, record.notifier_writing.get().checked_sub(1));
            match platform::open_pipe_of(record.pid(), places, number) {
                PipeOfAnother::Open(pipe) => return Ok(Some(self.keep_notifier(pipe, number))),
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

    /// Makes an open pipe this process's notifier, unless another thread was quicker.
    pub(crate) fn keep_notifier(&self, pipe: OpenPipe, number: u64) -> End {
        // One thread at a time.
        let _no_fork = fork::hold_off();
        if let Some(end) = self.notifier.current(number) {
            return end;
        }
        let reading = pipe.reading.into_raw_fd();
        let writing = pipe.writing.map_or(-1, IntoRawFd::into_raw_fd);
        let former = self.notifier.number.swap(number, Relaxed);
        for (place, fd) in [(&self.notifier.fd, reading), (&self.notifier.writing, writing)] {
            let former_fd = place.swap(fd, Relaxed);
            if former_fd != reading && former_fd != writing {
                platform::close_pipe(former_fd, former);
            }
        }
        let writing = if writing < 0 { reading } else { writing };
        End { reading, writing }
    }
}
