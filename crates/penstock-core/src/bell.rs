//! The bell: a pipe in which there is a byte exactly while a get would find an item, for those who wait with `poll`.
//!
//! A queue's own waiters sleep on futexes (waiter.rs), and a futex can stand in no `select`. Who wants a descriptor instead
//! *watches* the bell. While nobody watches, nobody rings, and a put costs what it costs without a bell.
//!
//! Two kinds of queue have one. A connection's is the pipe whose ends are open exactly where the connection's are, and which
//! so says whether the other side lives; each call brings the end that it has. Any other queue's is made by its first
//! watcher. Whoever has to ring and has not opened it yet does so through a participant that has:
//! /proc/<pid>/fd/<descriptor>. The kernel frees it with the last of them.
//!
//! Protocol. While somebody watches, every critical section ends with this restored (`toll`):
//!
//! > The pipe holds a byte exactly if something is ready.
//!
//! It is emptied under the lock. The byte is written right after the lock was released, because it wakes somebody who wants
//! the lock. Who has written and finds that the queue is empty again looks once more under the lock: another may have emptied
//! queue and pipe between. `Hot::rung` is what the pipe holds, or will hold in a moment, also while nobody watches and it is
//! not kept up: whoever begins to watch ends a critical section. So nobody polls beside an item, and nobody is told of one
//! that is gone.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | pipe made, its number noted | no participant has it: the next watcher makes another |
//! | its place noted in the participant's record | the sweep frees the record |
//! | the record counts a watcher, `Hot::watching` does not | the rebuild adds the records up |
//! | pipe emptied, or the byte promised, `Hot::rung` changed or not | the rebuild takes it as unknown: the next end of a section empties the pipe, and rings again if it must |
//! | lock released, byte not written | the sweep takes it as unknown. Until then who only polls, and asks the queue for nothing, is not woken (a look for the dead comes at the end of a slice of whoever waits in the queue) |
//! | byte written, not looked once more | the sweep takes it as unknown |
//!
//! A process that can open the bell of no watcher (in another pid namespace, or without a descriptor to spare) leaves it
//! *unknown*, and the next participant that can puts it right.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::Ticket;
use crate::delivery::Buffer;
use crate::error::Error;
use crate::fault::fault;
use crate::get::Delivery;
use crate::layout::{PARTICIPANTS, Participant};
use crate::lock::Section;
use crate::platform::{self, Access, Instant, PipeState};
use crate::queue::{Patience, Queue, Wait};
use crate::sync::{Count, Word};
use crate::waiter::{Kind, Waiting};

// What the pipe holds: nothing, a byte, or it cannot be told.
pub(crate) const SILENT: u32 = 0;
pub(crate) const RUNG: u32 = 1;
pub(crate) const UNKNOWN: u32 = 2;

/// How long a watcher sleeps before it looks for the dead, and how long a put waits for room before it looks whether
/// anybody still reads.
const SLICE: Duration = Duration::from_millis(100);
const LOOK_FOR_READER: Duration = Duration::from_millis(20);
/// How long who has rung waits for the lock to look once more.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// After a bell could not be opened, how long this process does not try again, in milliseconds.
const PAUSE: u64 = 100;

/// The bell as one process has opened it for itself.
pub(crate) struct Bell {
    /// Open in both directions, or -1.
    fd: AtomicI32,
    /// Whether `watch` was called in this process.
    is_watched: AtomicBool,
    /// When it could not be opened.
    failed_at: AtomicU64,
}

impl Bell {
    pub(crate) fn new() -> Bell {
        Bell {
            fd: AtomicI32::new(-1),
            is_watched: AtomicBool::new(false),
            failed_at: AtomicU64::new(0),
        }
    }

    /// After a fork, in the child: the descriptor is there, but nobody watches yet.
    pub(crate) fn forget_watcher(&self) {
        self.is_watched.store(false, Relaxed);
    }

    /// Whether there is something to say in a new record.
    pub(crate) fn is_known(&self) -> bool {
        self.fd().is_some() || self.is_watched.load(Relaxed)
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.fd.load(Relaxed)).filter(|fd| *fd >= 0)
    }
}

/// An end of a connection's pipe, which stays the caller's.
#[derive(Clone, Copy)]
struct End(RawFd, Access);

thread_local! {
    /// The end that this thread's call has brought.
    static BROUGHT: Cell<Option<End>> = const { Cell::new(None) };
}

/// While it lives, the critical sections of this thread ring and silence the bell with that end.
struct Bringing(Option<End>);

impl Bringing {
    fn new(end: RawFd, access: Access) -> Bringing {
        // A thread whose locals are gone already makes no more calls that bring an end.
        Bringing(
            BROUGHT
                .try_with(|brought| brought.replace(Some(End(end, access))))
                .ok()
                .flatten(),
        )
    }
}

impl Drop for Bringing {
    fn drop(&mut self) {
        let _ = BROUGHT.try_with(|brought| brought.set(self.0));
    }
}

impl Queue {
    /// A descriptor that is readable exactly while a get would find an item, level triggered. It stays the queue's: others
    /// only wait with it, and neither read from it nor close it. From now on whoever fills or empties the queue makes
    /// a system call, until this process leaves the queue.
    pub fn watch(&self) -> Result<RawFd, Error> {
        let watched = self.watch_in_section();
        self.report(watched)
    }

    fn watch_in_section(&self) -> Result<RawFd, Error> {
        let mut section = self.enter_surely()?;
        let fd = section.open_bell_to_watch()?;
        section.watch_for_good()?;
        Ok(fd)
    }

    /// The same for a queue that has been given the pipe `end` is the reading end of.
    pub fn watch_at(&self, end: RawFd) -> Result<(), Error> {
        let _bringing = Bringing::new(end, Access::Read);
        let watched = self
            .enter_surely()
            .and_then(|mut section| section.watch_for_good());
        self.report(watched)
    }

    /// Says which pipe is the bell of this queue, a connection's, before anybody else has it.
    pub fn give_bell(&self, end: RawFd) -> Result<(), Error> {
        let number = platform::pipe_number(end).ok_or(Error::EndClosed)?;
        platform::never_block(end)?;
        self.enter_surely()?.hot().bell.set(number);
        Ok(())
    }

    /// Takes the oldest item. If there is none, waits for one at the reading end of the queue's pipe, as long as `wait`
    /// allows. `Error::Ended` once no writing end is open any more, in whichever process, and everything was taken.
    pub fn get_at(
        self: &Arc<Self>,
        end: RawFd,
        buffer: &mut Buffer,
        mut wait: Wait<'_>,
    ) -> Result<Delivery, Error> {
        let _bringing = Bringing::new(end, Access::Read);
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
                result => return result,
            }
        }
    }

    /// Puts an item. `Error::Broken` if no reading end of the queue's pipe is open any more, in whichever process, or if
    /// the pipe that leads back has no writing end any more (`back` is its reading end, or -1); who waits for room learns
    /// of that soon.
    pub fn put_at(
        &self,
        (end, back): (RawFd, RawFd),
        payload: &[&[u8]],
        wait: Wait<'_>,
    ) -> Result<Ticket, Error> {
        let _bringing = Bringing::new(end, Access::Write);
        loop {
            match platform::has_reader(end, back) {
                PipeState::HungUp => return Err(Error::Broken),
                PipeState::Closed => return Err(Error::EndClosed),
                _ => {}
            }
            let (patience, is_last) = match wait.patience {
                Patience::Try | Patience::Now => (wait.patience, true),
                Patience::Until(deadline) => {
                    let soon = Instant::now() + LOOK_FOR_READER;
                    (Patience::Until(deadline.min(soon)), deadline <= soon)
                }
                Patience::Forever => (Patience::Until(Instant::now() + LOOK_FOR_READER), false),
            };
            let attempt = Wait {
                patience,
                interrupted: wait.interrupted,
            };
            match self.put(payload, attempt) {
                Err(Error::Full) if !is_last => {}
                result => return result,
            }
        }
    }

    /// Waits until a get would find an item, without taking it.
    pub fn await_item(&self, mut wait: Wait<'_>) -> Result<(), Error> {
        let waited = self.wait_without_taking(&mut wait);
        self.report(waited)
    }

    /// Waits until there is an item, and leaves it there.
    fn wait_without_taking(&self, wait: &mut Wait<'_>) -> Result<(), Error> {
        let mut waiting = Waiting::new(Kind::Item);
        let result = self.wait_in_section(&mut waiting, wait);
        result.map_err(|error| {
            self.abandon(&mut waiting);
            if error == Error::Busy && wait.patience != Patience::Try {
                Error::Empty
            } else {
                error
            }
        })
    }

    fn wait_in_section(&self, waiting: &mut Waiting, wait: &mut Wait<'_>) -> Result<(), Error> {
        let mut section = self.approach(waiting, wait)?;
        while section.hot().ready.head.get() == 0 {
            section = self.wait_for(section, waiting, wait)?;
        }
        // The end of the section wakes another waiter: the item is still there.
        section.withdraw(waiting)
    }

    /// The same at the reading end of the queue's pipe; `Error::Ended` as of [`get_at`](Self::get_at).
    pub fn await_at(&self, end: RawFd, wait: &mut Wait<'_>) -> Result<(), Error> {
        let _bringing = Bringing::new(end, Access::Read);
        let waited = self.await_readable(end, wait);
        self.report(waited)
    }

    fn await_readable(&self, end: RawFd, wait: &mut Wait<'_>) -> Result<(), Error> {
        if self.promises(Kind::Item) {
            return Ok(());
        }
        if matches!(wait.patience, Patience::Try | Patience::Now) {
            return self.look_at_end(end, Duration::ZERO).and_then(|seen| match seen {
                Some(()) => Ok(()),
                None => Err(Error::Empty),
            });
        }
        if self.spin_without_lock(Kind::Item)? {
            return Ok(());
        }
        self.enter(wait)?.count_watcher()?;
        fault!("bell.watching");
        let waited = self.sleep_at(end, wait);
        self.enter_surely()?.discount_watcher()?;
        waited
    }

    fn sleep_at(&self, end: RawFd, wait: &mut Wait<'_>) -> Result<(), Error> {
        let mut slices: u32 = 0;
        loop {
            if self.promises(Kind::Item) {
                return Ok(());
            }
            let slice = match wait.patience {
                Patience::Until(deadline) => deadline.saturating_duration_since(Instant::now()).min(SLICE),
                _ => SLICE,
            };
            match self.look_at_end(end, slice) {
                Ok(Some(())) => return Ok(()),
                // A slice has ended, or a signal has come.
                Ok(None) if (wait.interrupted)() => return Err(Error::Interrupted),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
            if matches!(wait.patience, Patience::Until(deadline) if Instant::now() >= deadline) {
                return Err(Error::Empty);
            }
            slices += 1;
            self.look_for_dead(slices % 10 == 0)?;
            self.tidy()?;
        }
    }

    /// Some(()) if there is an item, None if not yet.
    fn look_at_end(&self, end: RawFd, slice: Duration) -> Result<Option<()>, Error> {
        match platform::look_at_pipe(end, Access::Read, slice) {
            PipeState::Closed => Err(Error::EndClosed),
            // What was put before the last writer went is there by now.
            PipeState::HungUp if self.ready_count() == 0 => Err(Error::Ended),
            PipeState::Ready if self.ready_count() == 0 => {
                // Somebody was quicker and has silenced it since; or it was rung by no rule of ours.
                self.enter_surely()?.mistrust_bell(true);
                Ok(None)
            }
            PipeState::HungUp | PipeState::Ready => Ok(Some(())),
            PipeState::Quiet => Ok(None),
        }
    }

    /// Writes the byte that `toll` has promised. The lock is released.
    #[cold]
    pub(crate) fn ring_now(&self, fd: RawFd) {
        fault!("bell.owed");
        let number = self.segment.hot().bell.get();
        let is_rung = platform::borrow_pipe(fd, number).is_some_and(platform::ring);
        fault!("bell.rung");
        if !is_rung || self.ready_count() == 0 {
            // Not for long: who calls this may not wait, and has done its work. Behind a stopped holder of the lock the bell
            // may be wrong until that goes on. An error is damage, which the others report as well.
            let mut wait = Wait {
                patience: Patience::Until(Instant::now() + LOOK_AGAIN),
                interrupted: &mut || false,
            };
            let _ = self
                .enter(&mut wait)
                .map(|mut section| section.mistrust_bell(is_rung));
        }
    }

    /// Closes the bell of a queue that this process does not use any more.
    pub(crate) fn drop_bell(&self) {
        if let Some(fd) = self.bell.fd() {
            self.bell.fd.store(-1, Relaxed);
            if platform::pipe_number(fd) == Some(self.segment.hot().bell.get()) {
                platform::close(fd);
            }
        }
    }
}

impl Section<'_> {
    /// Restores the invariant of the head comment. Called at the end of each critical section while somebody watches.
    #[cold]
    pub(crate) fn toll(&mut self) {
        let hot = self.hot();
        let wanted = if hot.ready_count.get() > 0 || hot.damaged.get() != 0 {
            RUNG
        } else {
            SILENT
        };
        if hot.rung.get() == wanted {
            return;
        }
        let is_done = if wanted == SILENT {
            self.with_end(Access::Read, platform::silence)
        } else if let Some(End(fd, _)) = self.end_at_hand(Access::Write) {
            self.ring_later = fd;
            true
        } else {
            self.with_end(Access::Write, platform::ring)
        };
        fault!("bell.changed");
        hot.rung.set(if is_done { wanted } else { UNKNOWN });
    }

    /// A descriptor for that direction which needs no system call to be had.
    fn end_at_hand(&self, access: Access) -> Option<End> {
        let brought = BROUGHT.try_with(Cell::get).ok().flatten();
        brought
            .filter(|End(_, direction)| *direction == access)
            .or_else(|| self.queue.bell.fd().map(|fd| End(fd, access)))
    }

    /// The pipe may hold something else than `Hot::rung` says: the end of the section puts it right.
    fn mistrust_bell(&mut self, is_rung: bool) {
        let hot = self.hot();
        if !is_rung || hot.rung.get() == SILENT {
            hot.rung.set(UNKNOWN);
        }
    }

    /// One watcher more among this process's. The end of the section has the bell tell the truth.
    fn count_watcher(&mut self) -> Result<(), Error> {
        self.my_record()?.watching.add(1);
        fault!("bell.counted");
        self.hot().watching.add(1);
        Ok(())
    }

    /// Unless this process does so already.
    fn watch_for_good(&mut self) -> Result<(), Error> {
        if !self.queue.bell.is_watched.swap(true, Relaxed) {
            self.count_watcher()?;
        }
        Ok(())
    }

    fn discount_watcher(&mut self) -> Result<(), Error> {
        let record = self.my_record()?;
        // Not if this process was taken for dead meanwhile, and has another record now.
        if record.watching.get() > 0 {
            record.watching.sub(1);
            self.hot().watching.sub(1);
        }
        Ok(())
    }

    /// All watchers of a participant that goes, or is dead: in that case it may have owed the bell a byte.
    pub(crate) fn discount_watchers_of(&mut self, record: &Participant) {
        self.hot().rung.set(UNKNOWN);
        self.hot().watching.sub(record.watching.get());
        record.watching.set(0);
        record.bell.set(0);
    }

    /// Adds the records up. What the pipe holds may be known to nobody any more.
    pub(crate) fn rebuild_bell(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        let mut watching = 0u32;
        for index in 1..=hot.participants_high.get().min(PARTICIPANTS - 1) {
            let record = self.queue.segment.participant(index)?;
            watching = watching.saturating_add(record.watching.get());
        }
        hot.watching.set(watching);
        hot.rung.set(UNKNOWN);
        Ok(())
    }

    /// This process is a participant under a new name: its watchers are counted again, and its bell can be found.
    pub(crate) fn announce_bell(&mut self) -> Result<(), Error> {
        if let Some(fd) = self.queue.bell.fd() {
            self.my_record()?.bell.set(fd as u32 + 1);
        }
        if self.queue.bell.is_watched.load(Relaxed) {
            self.count_watcher()?;
        }
        Ok(())
    }

    fn my_record(&self) -> Result<&Participant, Error> {
        self.queue.segment.participant(self.my_index())
    }

    /// The descriptor that a watcher of this process polls.
    fn open_bell_to_watch(&mut self) -> Result<RawFd, Error> {
        let number = self.hot().bell.get();
        if let Some(fd) = self
            .queue
            .bell
            .fd()
            .filter(|fd| platform::pipe_number(*fd) == Some(number))
        {
            return Ok(fd);
        }
        if let Some(fd) = self.open_bell_of_another()? {
            return Ok(fd);
        }
        let (pipe, number) = platform::make_pipe()?;
        let hot = self.hot();
        hot.rung.set(SILENT);
        hot.bell.set(number);
        fault!("bell.made");
        self.keep_bell(pipe)
    }

    /// Opens the bell through a participant that has it. An error if somebody has it and cannot be reached: a second bell
    /// would not be rung by everybody.
    fn open_bell_of_another(&mut self) -> Result<Option<RawFd>, Error> {
        let number = self.hot().bell.get();
        let mut unreachable = None;
        for index in 1..=self.hot().participants_high.get().min(PARTICIPANTS - 1) {
            let record = self.queue.segment.participant(index)?;
            let place = record.bell.get();
            if place == 0 || index == self.my_index() {
                continue;
            }
            match platform::open_pipe_of(record.pid(), place - 1, number) {
                Some(pipe) => return self.keep_bell(pipe).map(Some),
                None if self.queue.is_dead(index, record, true) => {}
                None => unreachable = Some(record.pid()),
            }
        }
        match unreachable {
            Some(pid) => Err(Error::BellUnreachable { pid }),
            None => Ok(None),
        }
    }

    fn keep_bell(&mut self, pipe: OwnedFd) -> Result<RawFd, Error> {
        let fd = pipe.into_raw_fd();
        let former = self.queue.bell.fd();
        self.queue.bell.fd.store(fd, Relaxed);
        self.my_record()?.bell.set(fd as u32 + 1);
        if let Some(former) = former {
            platform::close(former);
        }
        Ok(fd)
    }

    /// Lends an end of the bell's pipe to `operation`, however it can be had. False if it cannot.
    fn with_end(&mut self, access: Access, operation: fn(BorrowedFd<'_>) -> bool) -> bool {
        let number = self.hot().bell.get();
        let bell = &self.queue.bell;
        if let Some(End(fd, direction)) = BROUGHT.try_with(Cell::get).ok().flatten() {
            if let Some(fd) = platform::borrow_pipe(fd, number) {
                if direction == access {
                    return operation(fd);
                }
                // The kernel opens the same pipe again in the other direction, for this moment.
                return platform::reopen_pipe(fd, access).is_some_and(|fd| operation(fd.as_fd()));
            }
        }
        if let Some(fd) = bell.fd().and_then(|fd| platform::borrow_pipe(fd, number)) {
            return operation(fd);
        }
        let now = platform::coarse_millis();
        if now.wrapping_sub(bell.failed_at.load(Relaxed)) < PAUSE {
            return false;
        }
        match self.open_bell_of_another() {
            Ok(Some(fd)) => platform::borrow_pipe(fd, number).is_some_and(operation),
            _ => {
                self.queue.bell.failed_at.store(now, Relaxed);
                false
            }
        }
    }
}
