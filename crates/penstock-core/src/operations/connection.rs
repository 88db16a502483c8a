//! Connections: a queue beside a line, which says whether any process is left on the other side.
//!
//! The line (state/line.rs) is a pair of sockets, or a pipe. Its ends are open exactly in the processes that
//! have the connection's sides. So the kernel tells a receiver when no sender is left, and a sender when no
//! receiver is left, whatever they died of. A receiver that waits for a message sleeps in `poll` on its end,
//! and wakes when a byte comes or no sender is left. A sender that waits for room fills the line, sleeps in
//! `poll` until it is writable, and wakes when there is room or no receiver is left.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | sender: message committed | it is received, though the sender's end is gone |
//! | receiver: counted as a watcher, asleep | the sweep discounts it |
//! | sender: line filled, noted or not, lock held | as in each change of a line (line.rs) |
//! | sender: on the list, asleep | the sweep frees its cell; the line stays full until there is room |
//! | receiver: sender notified, line still full | the sender's slice ends; or no receiver is left: it wakes |
//! | receiver: line writable, lock held | the sender wakes, and takes the lock over |

use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::memory::layout::Kind;
use crate::operations::delivery::Buffer;
use crate::operations::get::Delivery;
use crate::options::{Patience, Wait};
use crate::platform::{self, EndState, Instant, Side};
use crate::slice::Slice;
use crate::state::line::CallEnds;
use crate::state::line_end::LineEnd;
use crate::units::Ticket;

/// How long a receiver sleeps before it checks for the dead.
const SLICE: Duration = Duration::from_millis(100);

/// Poll interval of a receiver at a line that has a byte but no message, because another receiver has a
/// message in its hands that may come back.
const FOR_NOW: Duration = Duration::from_millis(1);

/// Whether an operation waits neither for room nor for a message.
fn waits_for_nothing(patience: Patience) -> bool {
    matches!(patience, Patience::TryLock | Patience::NoWait | Patience::Briefly)
}

impl Queue {
    /// A new line. For a duplex connection a pair of sockets, each of which is the reading end of one queue's
    /// line and the writing end of the other's. Else the reading and the writing end of a pipe.
    pub fn make_line(is_duplex: bool) -> Result<[OwnedFd; 2], Error> {
        platform::make_line(is_duplex)
    }

    /// Makes the queue that of a connection with these ends, which are new, and keeps them.
    pub fn set_line(&self, reading: RawFd, writing: RawFd) -> Result<(), Error> {
        let mut numbers = [0; 2];
        for (number, end) in numbers.iter_mut().zip([reading, writing]) {
            LineEnd::keep(end)?;
            *number = platform::end_number(end).ok_or(Error::EndClosed)?;
            platform::prepare_end(end)?;
        }
        self.enter_uninterruptible()?.set_line(numbers);
        Ok(())
    }

    fn receiving(&self, end: RawFd) -> Result<CallEnds, Error> {
        CallEnds::new(&self.shared.line, end, Side::Reading)
    }

    fn sending(&self, end: RawFd) -> Result<CallEnds, Error> {
        CallEnds::new(&self.shared.line, end, Side::Writing)
    }

    /// From now on the reading end is readable exactly while a get would find an item, or the other side has
    /// ended, until this process leaves the queue. A call that fills or empties the queue makes a system call
    /// more.
    pub fn watch_at(&self, end: RawFd, mut wait: Wait<'_>) -> Result<(), Error> {
        let _end = self.receiving(end)?;
        let watched = self
            .enter(&mut wait)
            .and_then(|mut section| section.watch_for_good(Kind::Item));
        self.shared.report(watched)
    }

    /// From now on the writing end is writable exactly while a put would find room, or the other side has
    /// ended, until this process leaves the queue. A call that takes the last room, or makes room again,
    /// makes some system calls more.
    pub fn watch_room_at(&self, end: RawFd, mut wait: Wait<'_>) -> Result<(), Error> {
        let end = self.sending(end)?;
        let watched = self
            .enter(&mut wait)
            .and_then(|mut section| section.watch_room_for_good());
        if self.shared.report(watched)? && self.shared.ready_count() == 0 {
            // A byte that the other side left unread when it died was no message.
            self.shared.clear_line_error(&end);
        }
        Ok(())
    }

    /// To be called by a receiver before it closes its end. What is left in the line is no message then.
    pub fn before_closing(&self, end: RawFd) {
        let Ok(_end) = self.receiving(end) else {
            return;
        };
        if self.shared.member_if_any().is_some() {
            if let Ok(mut section) = self.enter_briefly() {
                section.empty_line();
            }
        }
    }

    /// Takes the oldest item. If there is none, waits for one at the reading end of the queue's line, as long
    /// as `wait` allows. `Error::Ended` once no process can put any more, and everything was taken.
    pub fn get_at(
        self: &Arc<Self>,
        end: RawFd,
        buffer: &mut Buffer,
        mut wait: Wait<'_>,
    ) -> Result<Delivery, Error> {
        let call_end = self.receiving(end)?;
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
                Err(Error::Empty) => self.await_at_end(&call_end, &mut wait)?,
                // A caller with more patience waits for the stopped process.
                Err(Error::EmptyBehindStopped { .. }) if !waits_for_nothing(wait.patience) => {
                    let entered = self.enter(&mut wait).map(drop);
                    self.shared
                        .report(entered.map_err(|error| Kind::Item.map_timeout(error, wait.patience)))?;
                }
                result => return result,
            }
        }
    }

    /// Puts an item by the writing end of the queue's line. `Error::Broken` if no process can get any more,
    /// also while it waits for room.
    pub fn put_at(&self, end: RawFd, payload: &[&[u8]], mut wait: Wait<'_>) -> Result<Ticket, Error> {
        let end = self.sending(end)?;
        // If its writer is dead, no byte comes for the messages that follow, either.
        if self.shared.does_another_owe_byte() && self.is_reaping_due() {
            if wait.patience == Patience::TryLock {
                return Err(Error::Busy);
            }
            let reaped = self.reap_dead_if_due(&mut wait);
            self.shared.report(reaped)?;
        }
        let ended = || match self.shared.poll_peer(&end) {
            EndState::HungUp => Some(Error::Broken),
            EndState::Closed => Some(Error::EndClosed),
            _ => None,
        };
        if let Some(error) = ended() {
            return Err(error);
        }
        let mut broken = None;
        let mut interrupted = || {
            broken = match self.shared.is_usable(&end) {
                true => ended(),
                false => Some(Error::EndClosed),
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

    /// Waits at the reading end of the queue's line until a get would find an item, and takes none.
    /// `Error::Ended` as in [`get_at`](Self::get_at).
    pub fn await_at(&self, end: RawFd, wait: &mut Wait<'_>) -> Result<(), Error> {
        self.await_at_end(&self.receiving(end)?, wait)
    }

    fn await_at_end(&self, end: &CallEnds, wait: &mut Wait<'_>) -> Result<(), Error> {
        let waited = self.await_readable(end, wait);
        self.shared
            .report(waited.map_err(|error| Kind::Item.map_timeout(error, wait.patience)))
    }

    fn await_readable(&self, end: &CallEnds, wait: &mut Wait<'_>) -> Result<(), Error> {
        if self.looks_ready(Kind::Item) {
            return Ok(());
        }
        if waits_for_nothing(wait.patience) {
            let is_there = self.poll_end(end, Duration::ZERO, wait)?;
            return if is_there { Ok(()) } else { Err(Error::Empty) };
        }
        if self.spin_without_lock(Kind::Item)? {
            return Ok(());
        }
        // The end of this section drains the line, if there is still no message.
        let watcher = self.enter(wait)?.count_watcher()?;
        fault!("line.watching");
        let waited = self.sleep_at(end, wait);
        // Briefly, because a stopped process may hold the lock. While a watcher stays counted, others only
        // write a byte in vain.
        if let Ok(mut section) = self.enter_briefly() {
            section.discount_watcher(watcher)?;
        }
        waited
    }

    fn sleep_at(&self, end: &CallEnds, wait: &mut Wait<'_>) -> Result<(), Error> {
        let mut slice = Slice::new();
        let mut slices: u32 = 0;
        loop {
            if self.looks_ready(Kind::Item) {
                return Ok(());
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
    fn poll_end(&self, end: &CallEnds, at_most: Duration, wait: &mut Wait<'_>) -> Result<bool, Error> {
        match self.shared.poll_line(end, at_most) {
            EndState::Closed => Err(Error::EndClosed),
            EndState::Quiet => Ok(false),
            EndState::Ready if self.shared.ready_count() > 0 || at_most.is_zero() => {
                Ok(self.shared.ready_count() > 0)
            }
            EndState::Ready => {
                // Another receiver took the message, or a sender died beside its byte. The end of a section
                // drains the line then. Or the other receiver is not done with the message.
                drop(self.enter(wait)?);
                if self.shared.poll_line(end, Duration::ZERO) == EndState::Ready
                    && self.shared.ready_count() == 0
                {
                    platform::sleep(FOR_NOW.min(at_most));
                }
                Ok(self.shared.ready_count() > 0)
            }
            EndState::HungUp => {
                // Every item of the senders is in the queue by now, unless a dead process holds the lock, or
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
