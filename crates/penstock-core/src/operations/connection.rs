//! Connections: a queue beside a pipe of the system, which says whether any process is left on the other
//! side.
//!
//! The pipe's ends are open exactly in the processes that have the connection's ends. So the kernel tells a
//! receiver when no writer is left, and a sender when no reader is left, whatever they died of. The pipe is
//! also the queue's notifier (state/notifier.rs): a receiver that waits for a message sleeps in `poll` on it,
//! and wakes when a byte comes or no writer is left. A sender that waits for room fills the pipe, sleeps in
//! `poll` until it is writable, and wakes when there is room or no reader is left.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | sender: message committed | it is received, though the sender's end is gone |
//! | receiver: counted as a watcher, asleep | the sweep discounts it |
//! | sender: pipe filled, `pipe_state` set or not, lock held | as for a byte written there (notifier.rs) |
//! | sender: on the list, asleep | the sweep frees its cell, and the pipe can be written to again |
//! | receiver: sender chosen, pipe still full | the sender's slice ends; or no reader is left, and it wakes |
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

/// How long a receiver sleeps before it checks for the dead.
const SLICE: Duration = Duration::from_millis(100);

impl Queue {
    /// Makes the pipe of this end the queue's notifier. Must be called for both ends when they are made.
    pub fn give_notifier(&self, end: RawFd) -> Result<(), Error> {
        let number = platform::pipe_number(end).ok_or(Error::EndClosed)?;
        platform::never_block(end)?;
        platform::make_narrow(end);
        self.enter_uninterruptible()?.set_notifier(number);
        Ok(())
    }

    /// [`watch`](Self::watch) with the reading end of the queue's pipe. Returns that end, or a substitute for
    /// it.
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
            Patience::TryLock => Patience::TryLock,
            _ => Patience::NoWait,
        };
        loop {
            let attempt = Wait {
                patience,
                interrupted: wait.interrupted,
            };
            match self.get(buffer, attempt) {
                Err(Error::Empty) => self.await_at(end, &mut wait)?,
                // A caller with more patience waits for the stopped process.
                Err(Error::EmptyBehindStopped { .. })
                    if !matches!(wait.patience, Patience::TryLock | Patience::NoWait) =>
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

    /// Waits at the reading end of the queue's pipe until a get would find an item, and takes none.
    /// `Error::Ended` as in [`get_at`](Self::get_at).
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
        if matches!(wait.patience, Patience::TryLock | Patience::NoWait) {
            let is_there = self.poll_end(end, Duration::ZERO, wait)?;
            return if is_there { Ok(()) } else { Err(Error::Empty) };
        }
        if self.spin_without_lock(Kind::Item)? {
            return Ok(());
        }
        let watcher = self.enter(wait)?.count_watcher()?;
        fault!("notifier.watching");
        let waited = self.sleep_at(end, wait);
        // Briefly, because a stopped process may hold the lock. While a watcher stays counted, others only
        // write a byte in vain.
        if let Ok(mut section) = self.enter_briefly() {
            section.discount_watcher(watcher)?;
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
            // Another thread may have closed the end, and other code may have opened something else under its
            // number.
            if platform::pipe_number(end) != Some(self.shared.segment.hot().notifier.get()) {
                return Err(Error::EndClosed);
            }
            let slice_end = slice.end(SLICE);
            let sleep_end = match wait.patience {
                Patience::Until(deadline) => deadline.min(slice_end),
                _ => slice_end,
            };
            let at_most = sleep_end.saturating_duration_since(Instant::now());
            if self.poll_end(end, at_most, wait)? {
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
                self.trim_if_due()?;
            }
            if matches!(wait.patience, Patience::Until(deadline) if now >= deadline) {
                return Err(Error::Empty);
            }
        }
    }

    /// Polls the end for at most that long. Whether there is an item.
    fn poll_end(&self, end: RawFd, at_most: Duration, wait: &mut Wait<'_>) -> Result<bool, Error> {
        let mut state = platform::poll_pipe(end, at_most);
        if state == PipeState::Ready && self.shared.ready_count() == 0 {
            // Another getter took the item; or it is a byte too many, which may hide that all writers are
            // gone.
            self.enter(wait)?.drain_if_empty();
            state = platform::poll_pipe(end, Duration::ZERO);
        }
        match state {
            PipeState::Closed => Err(Error::EndClosed),
            PipeState::Quiet => Ok(false),
            PipeState::Ready => Ok(self.shared.ready_count() > 0),
            PipeState::HungUp => {
                // Every item of the writers is in the queue by now, unless a dead process holds the lock, or
                // an item that it had taken.
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
