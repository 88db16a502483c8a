//! The notifier: a pipe that holds a byte exactly while a get would find an item, or the queue is shut down,
//! for waiters that sleep in `poll`.
//!
//! A queue's own waiters sleep on futexes (waiters.rs), and no `select` takes a futex. A process that wants a
//! descriptor instead *watches*. While no process watches, no section writes to the pipe, and a put costs
//! what it costs without a notifier.
//!
//! A queue's first watcher makes the pipe. A participant that has to signal and has not opened it yet opens
//! it through one that has: `/proc/<pid>/fd/<descriptor>`, or a duplicate of that descriptor. The kernel
//! frees the pipe with its last descriptor. (The queues of a connection have a line instead: line.rs.)
//!
//! A forked child inherits the descriptors of a process that watches, and may wait with them without any
//! other call. So it joins the queue at the fork, counts as a watcher, and the others find the pipe with it,
//! too (handle/registry.rs). It is woken when its parent has ended or left.
//!
//! Protocol. While a process watches, every critical section ends with this restored (`update_notifier`):
//!
//! > The pipe holds a byte exactly if something is ready, or the queue is shut down, or a byte is promised.
//!
//! That is so although an item may come back to a queue that was shut down, for which a get that may wait
//! waits: a watcher's own process may have the last item in hand, and then no other section would tell it.
//!
//! The pipe is drained under the lock. The byte is only promised there, and written right after the release
//! (lock/after_release.rs), because it wakes a thread that wants the lock. `Hot::pipe_state` has the state:
//!
//! ```text
//! bits 0..2: state             bits 2..32: counts the changes, so that a writer recognises its own promise
//!
//! DRAINED --update--> PROMISED --byte written, without the lock--> SIGNALLED --update--> DRAINED
//!                     |  \--update of another section that ends beside an item--> PROMISED, another byte
//!                     \--update of one that leaves nothing--> DRAINED, the pipe drained
//! ```
//!
//! A second promise is a second byte: there may be too many, never too few. After its write, a writer finds
//! its promise as it was, or already replaced. Only if the state is DRAINED again, the byte may have come too
//! late, and the writer takes it out. While no process watches, `pipe_state` is not kept up; it still says
//! what the pipe holds, and a process that begins to watch ends a critical section.
//!
//! | step | if the process dies, or is stopped, right after it |
//! |---|---|
//! | pipe made, its number noted | no participant has it: the next watcher makes another |
//! | its place noted in the participant's record | the sweep frees the record |
//! | the record counts a watcher, `Hot::watching` does not | the rebuild adds the records up |
//! | pipe drained, or byte promised, lock held | the rebuild stores UNKNOWN; its section's end restores it |
//! | byte promised, lock released | the next section that ends beside an item writes a byte (*) |
//! | byte written, promise not compared | perhaps a byte too many: a watcher that finds no item drains it |
//! | forked from a watcher, not counted yet | it waits no more; the parent's record counts for the parent |
//!
//! (*) Until then a watcher that only polls, and does not use the queue, is not woken.
//!
//! A process that cannot open the pipe of any watcher (in another pid namespace, or without a descriptor to
//! spare) leaves the state UNKNOWN, and the next participant that can restores it.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{Participant, ParticipantId};
use crate::platform;
use crate::state::Section;
use crate::state::line::{DUE, has_line, watchers};
use crate::state::line_end::Use;
use crate::sync::{AtomicU32, Count, Ordering, Word};

// The states of `Hot::pipe_state` (bits 0..2).
pub(crate) const DRAINED: u32 = 0;
pub(crate) const SIGNALLED: u32 = 1;
pub(crate) const PROMISED: u32 = 2;
pub(crate) const UNKNOWN: u32 = 3;

pub(crate) fn state_of(pipe_state: u32) -> u32 {
    pipe_state & 3
}

/// The next word, of that state.
pub(crate) fn next(pipe_state: u32, state: u32) -> u32 {
    (pipe_state & !3).wrapping_add(4) | state
}

/// The notifier as one process has opened it for itself.
pub(crate) struct Notifier {
    /// Open in both directions, or -1; and the number of the pipe behind it. Without /proc two descriptors
    /// are needed: then `fd` is the reading end, and `writing` the other one, else -1.
    pub fd: AtomicI32,
    pub writing: AtomicI32,
    pub number: AtomicU64,
    /// The id under which this process watches for good, or 0.
    watched_as: AtomicU32,
    /// When it could not be opened, and what `Hot::announced` was then.
    pub failed_at: AtomicU64,
    /// Promises of this process whose bytes are not written yet. Their threads use the descriptors without
    /// the lock.
    promises: AtomicU32,
    pub failed_with: AtomicU32,
}

impl Notifier {
    pub(crate) fn new() -> Notifier {
        Notifier {
            fd: AtomicI32::new(-1),
            writing: AtomicI32::new(-1),
            number: AtomicU64::new(0),
            watched_as: AtomicU32::new(0),
            failed_at: AtomicU64::new(0),
            promises: AtomicU32::new(0),
            failed_with: AtomicU32::new(0),
        }
    }

    /// After a fork, in the child: the threads that have promised bytes do not exist here.
    pub(crate) fn forget_promises(&self) {
        self.promises.set(0);
    }

    /// Whether a new record of this process has to name the notifier's descriptors, or a watcher.
    pub(crate) fn is_known(&self) -> bool {
        self.fd.load(Relaxed) >= 0 || self.watched_as.get() != 0
    }

    /// Whether this process watches for good; or, after a fork, whether its parent did so.
    pub(crate) fn is_watched(&self) -> bool {
        self.watched_as.get() != 0
    }

    /// Closes the notifier of a queue that this process does not use any more.
    pub(crate) fn close(&self) {
        for place in [&self.fd, &self.writing] {
            platform::close_pipe(place.swap(-1, Relaxed), self.number.load(Relaxed));
        }
    }

    /// Closes descriptors that were taken out in a section.
    pub(crate) fn close_taken(&self, taken: [RawFd; 2]) {
        // A thread that has promised a byte has a copy of the numbers. It writes the byte at once.
        // Acquire: pairs with the release in end_promise.
        while self.promises.load(Ordering::Acquire) > 0 {
            std::thread::yield_now();
        }
        for fd in taken {
            platform::close_pipe(fd, self.number.load(Relaxed));
        }
    }

    pub(crate) fn end_promise(&self) {
        // Release: pairs with the acquire in close_taken.
        self.promises.fetch_sub(1, Ordering::Release);
    }

    /// The descriptors, if they lead to that pipe.
    pub(crate) fn current(&self, number: u64) -> Option<End> {
        let (reading, writing) = (self.fd.load(Relaxed), self.writing.load(Relaxed));
        let end = End {
            reading,
            writing: if writing < 0 { reading } else { writing },
        };
        let leads_there = |fd| platform::pipe_number(fd) == Some(number);
        (leads_there(reading) && (writing < 0 || leads_there(writing))).then_some(end)
    }
}

/// Where this process has the notifier open for reading and for writing.
#[derive(Clone, Copy)]
pub(crate) struct End {
    pub reading: RawFd,
    pub writing: RawFd,
}

/// What is due once the lock is released.
#[derive(Clone, Copy, Default)]
pub(crate) enum AfterRelease {
    #[default]
    None,
    /// A byte is to be written, on this promise.
    Signal(End, u32),
    /// The notifier is to be opened.
    Open,
    /// A byte is to be written to a connection's line, on this promise. The end stays in use until then.
    SignalLine(Use, u32),
    /// A byte that another thread writes to the line is to be taken out. The end stays in use until then.
    AwaitByte(Use, u32),
}

impl Section<'_> {
    /// Restores the invariant of the head comment. Called at the end of each critical section while a process
    /// watches.
    #[cold]
    pub(crate) fn update_notifier(&mut self) {
        let hot = self.hot();
        if has_line(hot) {
            return self.update_line();
        }
        let is_wanted = self.is_readable();
        if state_of(hot.pipe_state.get()) != if is_wanted { SIGNALLED } else { DRAINED } {
            self.change_notifier(is_wanted);
        }
    }

    /// Whether a get that does not wait finds an item, or another error than that there is none.
    pub(crate) fn is_readable(&self) -> bool {
        let hot = self.hot();
        hot.ready_count.get() > 0 || !hot.is_open()
    }

    fn change_notifier(&mut self, is_wanted: bool) {
        let hot = self.hot();
        let pipe_state = hot.pipe_state.get();
        let Some(end) = self.end_at_hand() else {
            hot.pipe_state.set(next(pipe_state, UNKNOWN));
            self.after_release = AfterRelease::Open;
            return;
        };
        if !is_wanted {
            self.drain(end);
        } else {
            let promise = next(pipe_state, PROMISED);
            hot.pipe_state.set(promise);
            self.shared.notifier.promises.fetch_add(1, Ordering::Relaxed);
            self.after_release = AfterRelease::Signal(end, promise);
        }
        fault!("notifier.changed");
    }

    fn drain(&mut self, end: End) {
        let pipe_state = &self.hot().pipe_state;
        let is_drained = platform::drain(end.reading);
        // SeqCst: see keep_promise.
        let state = if is_drained { DRAINED } else { UNKNOWN };
        pipe_state.store(next(pipe_state.get(), state), Ordering::SeqCst);
    }

    /// The pipe of that number, which is empty, is the notifier from now on.
    pub(crate) fn set_notifier(&mut self, number: u64) {
        let hot = self.hot();
        hot.pipe_state.set(next(hot.pipe_state.get(), DRAINED));
        hot.notifier.set(number);
    }

    /// Takes out what is in the pipe though there is no item.
    pub(crate) fn drain_if_empty(&mut self) {
        if !self.is_readable() {
            if let Some(end) = self.end_at_hand() {
                self.drain(end);
            }
        }
    }

    /// The notifier, if this process has it open.
    fn end_at_hand(&self) -> Option<End> {
        self.shared.notifier.current(self.hot().notifier.get())
    }

    /// Counts one watcher more of this process, and answers the id under which it counts. The end of the
    /// section restores the notifier.
    pub(crate) fn count_watcher(&mut self) -> Result<ParticipantId, Error> {
        self.my_record()?.watching.add(1);
        fault!("notifier.counted");
        self.hot().watching.add(1);
        Ok(self.me)
    }

    /// Counts one watcher less. Not if this process was taken for dead meanwhile, and has another id now.
    pub(crate) fn discount_watcher(&mut self, id: ParticipantId) -> Result<(), Error> {
        if id == self.me {
            self.my_record()?.watching.sub(1);
            self.uncount_watchers(1);
        }
        Ok(())
    }

    fn uncount_watchers(&self, count: u32) {
        let hot = self.hot();
        hot.watching
            .set(hot.watching.get() & DUE | watchers(hot).saturating_sub(count));
    }

    /// Counts a watcher that stays, unless this process has one already.
    pub(crate) fn watch_for_good(&mut self) -> Result<(), Error> {
        if self.shared.notifier.watched_as.get() != self.me.0 {
            self.count_watcher()?;
            self.shared.notifier.watched_as.set(self.me.0);
        }
        Ok(())
    }

    /// Discounts the watcher that stays, of a process that has closed its last handle: it hands out no
    /// descriptor any more. Takes the descriptors out.
    ///
    /// A later section of this process may open the notifier again, as one of a process that never watched: a
    /// payload that it has in hand comes back, and the watchers of the other processes sleep. It must not
    /// leave that to the next participant, which may be a watcher that only polls. The end of the next call
    /// of the closed queue comes here again, or the departure closes the notifier: at most one pipe is open
    /// until then.
    pub(crate) fn watch_no_more(&mut self) -> Result<[RawFd; 2], Error> {
        let Notifier {
            watched_as,
            fd,
            writing,
            ..
        } = &self.shared.notifier;
        if watched_as.get() == self.me.0 {
            watched_as.set(0);
            self.discount_watcher(self.me)?;
        }
        self.watch_room_no_more()?;
        let record = self.my_record()?;
        record.notifier.set(0);
        record.notifier_writing.set(0);
        Ok([fd.swap(-1, Relaxed), writing.swap(-1, Relaxed)])
    }

    /// Discounts all watchers of a participant that leaves, or is dead.
    pub(crate) fn discount_watchers_of(&mut self, record: &Participant) {
        self.uncount_watchers(record.watching.get());
        self.discount_room_watchers_of(record);
        record.watching.set(0);
        record.notifier.set(0);
        record.notifier_writing.set(0);
    }

    /// Adds up the watchers of all records. What pipe and line hold is unknown after a death.
    pub(crate) fn rebuild_notifier(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        let mut watching = 0u32;
        for index in self.shared.participants() {
            let record = self.shared.segment.participant(index)?;
            watching = watching.saturating_add(record.watching.get());
        }
        let for_room = self.room_watchers()?;
        hot.watching.set(watching.saturating_add(for_room) & !DUE);
        hot.watching_room.set(for_room);
        hot.pipe_state.set(next(hot.pipe_state.get(), UNKNOWN));
        self.forget_line();
        Ok(())
    }

    /// Writes to this process's new record where others find the notifier open, and counts its watchers
    /// again.
    pub(crate) fn announce_notifier(&mut self) -> Result<(), Error> {
        if let Some(end) = self.shared.notifier.current(self.hot().notifier.get()) {
            let is_one = end.reading == end.writing;
            let record = self.my_record()?;
            record
                .notifier_writing
                .set(if is_one { 0 } else { end.writing as u32 + 1 });
            if record.notifier.get() != end.reading as u32 + 1 {
                record.notifier.set(end.reading as u32 + 1);
                self.hot().announced.add(1);
            }
        }
        if self.shared.notifier.is_watched() {
            self.watch_for_good()?;
        }
        if self.shared.line.is_watched() {
            self.watch_room_for_good()?;
        }
        Ok(())
    }

    fn my_record(&self) -> Result<&Participant, Error> {
        self.shared.segment.participant(self.my_index())
    }
}
