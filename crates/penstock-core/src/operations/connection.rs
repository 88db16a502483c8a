//! Connections: a queue beside a pipe of the system, which says whether any end is open on the other side.
//!
//! The pipe's ends are open exactly where the connection's ends are, in every process that has one; so the
//! kernel tells a receiver of the end of all writers, and a sender of the end of all readers, whatever they
//! died of. The pipe is the queue's notifier, too (state/notifier.rs): a receiver that waits for a message
//! sleeps in `poll` on it, and is woken by a byte as by the end. A sender that waits for room fills the pipe
//! and sleeps in `poll` until it is writable, and is woken by room as by the end.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | sender: message committed | it is received, though the sender's end is gone |
//! | receiver: counted as a watcher, asleep | the sweep discounts it |
//! | sender: pipe filled, `pipe_state` changed or not, lock held | as a byte written under the lock (notifier.rs) |
//! | sender: on the list, asleep | the sweep frees its cell, and the pipe can be written to again |
//! | receiver: sender chosen, the pipe still full | the sender's slice ends, unless the receiver was the last, whose end wakes it |
//! | receiver: pipe no longer full, lock held | the sender wakes, and takes the lock over |

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::memory::layout::Kind;
use crate::operations::delivery::Buffer;
use crate::operations::get::Delivery;
use crate::options::{Patience, Wait};
use crate::platform::{self, Instant, PipeState};
use crate::slice::Slice;
use crate::state::notifier::CallEnds;
use crate::sync::Word;
use crate::units::Ticket;

/// How long a receiver sleeps before it reaps the dead.
const SLICE: Duration = Duration::from_millis(100);

impl Queue {
    /// Says of which pipe this end is that is the queue's notifier from now on. To be called for both ends
    /// when they are made.
    pub fn give_bell(&self, end: RawFd) -> Result<(), Error> {
        let number = platform::pipe_number(end).ok_or(Error::EndClosed)?;
        platform::never_block(end)?;
        platform::make_narrow(end);
        self.enter_uninterruptible()?.set_notifier(number);
        Ok(())
    }

    /// [`watch`](Self::watch) with the reading end of the queue's pipe. Answers that end, or a descriptor in
    /// its place.
    pub fn watch_at(&self, end: RawFd, mut wait: Wait<'_>) -> Result<RawFd, Error> {
        let _ends = CallEnds::reader(end);
        let watched = self.watch_at_end(end, &mut wait);
        self.shared.report(watched)
    }

    fn watch_at_end(&self, end: RawFd, wait: &mut Wait<'_>) -> Result<RawFd, Error> {
        let substitute = &self.shared.notifier.substitute;
        loop {
            self.enter(wait)?.watch_for_good()?;
            if !substitute.is_needed() {
                return Ok(end);
            }
            let (descriptor, is_new) = substitute.with_end(end)?;
            if !is_new {
                return Ok(descriptor);
            }
        }
    }

    /// Takes the oldest item. If there is none, waits for one at the reading end of the queue's pipe, as long
    /// as `wait` allows. `Error::Ended` once no writing end is open any more, in whichever process, and
    /// everything was taken.
    pub fn get_at(
        self: &Arc<Self>,
        end: RawFd,
        buffer: &mut Buffer,
        mut wait: Wait<'_>,
    ) -> Result<Delivery, Error> {
        let _ends = CallEnds::reader(end);
        let patience = match wait.patience {
            Patience::Try => Patience::Try,
            _ => Patience::Now,
        };
        loop {
            let attempt = Wait {
                patience,
                interrupted: wait.interrupted,
            };
            match self.get(buffer, attempt) {
                Err(Error::Empty) => self.await_at(end, &mut wait)?,
                // This caller does wait for a stopped process.
                Err(Error::EmptyBehindStopped { .. })
                    if !matches!(wait.patience, Patience::Try | Patience::Now) =>
                {
                    let entered = self.enter(&mut wait).map(drop);
                    self.shared
                        .report(entered.map_err(|error| Kind::Item.map_timeout(error, wait.patience)))?;
                }
                result => return result,
            }
        }
    }

    /// Puts an item. `Error::Broken` if no reading end of the queue's pipe is open any more, in whichever
    /// process, or if the pipe that leads back has no writing end any more (`back` is its reading end, or
    /// -1), also while it waits for room.
    pub fn put_at(
        &self,
        (end, back): (RawFd, RawFd),
        payload: &[&[u8]],
        wait: Wait<'_>,
    ) -> Result<Ticket, Error> {
        let _ends = CallEnds::writer(end, back);
        match platform::has_reader(end, back) {
            PipeState::HungUp => return Err(Error::Broken),
            PipeState::Closed => return Err(Error::EndClosed),
            _ => {}
        }
        let mut broken = None;
        let mut interrupted = || {
            broken = match platform::has_reader(end, back) {
                PipeState::HungUp => Some(Error::Broken),
                PipeState::Closed => Some(Error::EndClosed),
                _ => None,
            };
            broken.is_some() || (wait.interrupted)()
        };
        let put = self.put(
            payload,
            Wait {
                patience: wait.patience,
                interrupted: &mut interrupted,
            },
        );
        match (put, broken) {
            (Err(Error::Interrupted), Some(broken)) => Err(broken),
            (put, _) => put,
        }
    }

    /// Waits at the reading end of the queue's pipe until a get would find an item, without taking it;
    /// `Error::Ended` as of [`get_at`](Self::get_at).
    pub fn await_at(&self, end: RawFd, wait: &mut Wait<'_>) -> Result<(), Error> {
        let _ends = CallEnds::reader(end);
        let waited = self.await_readable(end, wait);
        self.shared
            .report(waited.map_err(|error| Kind::Item.map_timeout(error, wait.patience)))
    }

    fn await_readable(&self, end: RawFd, wait: &mut Wait<'_>) -> Result<(), Error> {
        if self.looks_ready(Kind::Item) {
            return Ok(());
        }
        if matches!(wait.patience, Patience::Try | Patience::Now) {
            let is_there = self.look_at_end(end, Duration::ZERO, wait)?;
            return if is_there { Ok(()) } else { Err(Error::Empty) };
        }
        if self.spin_without_lock(Kind::Item)? {
            return Ok(());
        }
        let name = self.enter(wait)?.count_watcher()?;
        fault!("bell.watching");
        let waited = self.sleep_at(end, wait);
        // Not for long, because the lock may be stuck behind a stopped process. A watcher that stays counted
        // only has others write a byte in vain.
        if let Ok(mut section) = self.enter_briefly() {
            section.discount_watcher(name)?;
        }
        waited
    }

    fn sleep_at(&self, end: RawFd, wait: &mut Wait<'_>) -> Result<(), Error> {
        let mut slice = Slice::new();
        let mut slices: u32 = 0;
        loop {
            if self.looks_ready(Kind::Item) {
                return Ok(());
            }
            // Another thread may have closed the end, and the number be another file's.
            if platform::pipe_number(end) != Some(self.shared.segment.hot().notifier.get()) {
                return Err(Error::EndClosed);
            }
            let slice_end = slice.end(SLICE);
            let sleep_end = match wait.patience {
                Patience::Until(deadline) => deadline.min(slice_end),
                _ => slice_end,
            };
            let at_most = sleep_end.saturating_duration_since(Instant::now());
            if self.look_at_end(end, at_most, wait)? {
                return Ok(());
            }
            // A slice has ended, or a signal has come.
            if (wait.interrupted)() {
                return Err(Error::Interrupted);
            }
            let now = Instant::now();
            if now >= sleep_end {
                slice.restart();
                slices += 1;
                self.reap_dead(slices % 10 == 0)?;
                self.tidy()?;
            }
            if matches!(wait.patience, Patience::Until(deadline) if now >= deadline) {
                return Err(Error::Empty);
            }
        }
    }

    /// Whether there is an item, after so long at most.
    fn look_at_end(&self, end: RawFd, at_most: Duration, wait: &mut Wait<'_>) -> Result<bool, Error> {
        let mut state = platform::look_at_pipe(end, at_most);
        if state == PipeState::Ready && self.shared.ready_count() == 0 {
            // Another receiver was quicker; or it is a byte too many, behind which the end may be.
            self.enter(wait)?.drain_if_empty();
            state = platform::look_at_pipe(end, Duration::ZERO);
        }
        match state {
            PipeState::Closed => Err(Error::EndClosed),
            PipeState::Quiet => Ok(false),
            PipeState::Ready => Ok(self.shared.ready_count() > 0),
            PipeState::HungUp => {
                // What was put before the last writer went is there by now, but for what dead hands hold: the
                // lock, or an item that they were given.
                drop(self.enter(wait)?);
                self.reap_dead_within(true, wait)?;
                if self.shared.ready_count() > 0 {
                    Ok(true)
                } else {
                    Err(Error::Ended)
                }
            }
        }
    }
}
