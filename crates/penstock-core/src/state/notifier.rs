//! The notifiers: pipes that tell waiters that sleep in `poll` when an operation would not wait.
//!
//! A queue's own waiters sleep on futexes (waiters.rs), and no `select` takes a futex. A process that wants a
//! descriptor instead *watches*: for items, for room, or for the end of all work. While no process watches,
//! no section writes to a pipe, and a put costs what it costs without a notifier.
//!
//! A queue has two notifiers:
//!
//! | | readable | writable |
//! |---|---|---|
//! | of items and room | a get finds an item, or says at once that none comes | a put finds room, or raises |
//! | of the end | a join would return | always |
//!
//! One pipe serves for items and room, because a queue without items has room: it is drained, has a byte, or
//! is full (pipe_word.rs).
//!
//! A notifier's first watcher makes its pipe. A participant that has to signal and has not opened it yet
//! opens it through one that has: `/proc/<pid>/fd/<descriptor>`, or a duplicate of that descriptor. The
//! kernel frees the pipe with its last descriptor. (The queues of a connection have a line instead: line.rs.)
//!
//! A forked child inherits the descriptors of a process that watches, and may wait with them without any
//! other call. So it joins the queue at the fork, counts as a watcher, and the others find the pipes with it,
//! too (handle/registry.rs). It is woken when its parent has ended or left.
//!
//! Protocol. While a process watches, every critical section ends with this restored (`update_notifier`):
//!
//! > While a process watches for items, that pipe has a byte exactly if something is ready, or the queue was
//! > shut down and nothing is delayed, or a watcher is to be told of an earlier time, or a byte is promised.
//! > While a process watches for room, it is full exactly if the queue is open and has no room.
//! > While a process watches for the end, the other pipe has a byte exactly if nothing is unfinished, or a
//! > byte is promised.
//!
//! A byte says that the queue was shut down although an item may come back, for which a get that may wait
//! waits: a watcher's own process may have the last item in hand, and then no other section would tell it. No
//! byte says so while an item is delayed, and the queue was not shut down immediately. A get that does not
//! wait finds none then, and a program that polls would call it again and again until the item is due. The
//! section that makes it ready, or discards it, promises the byte.
//!
//! A watcher notes when the first delayed item is due (`time_until_due`) after each operation that was in
//! vain. A section that delays an item which is due before all others marks in `Hot::watching` that watchers
//! are to be told (`has_to_tell`). The pipe has a byte while the mark is there, whichever sections pass
//! meanwhile, as that of a forked child of the watcher. A watcher's operation that is in vain takes it away:
//! then one process knows the time. A shutdown takes it away, too: after it a byte says that a get finds an
//! item, or the end. If that comes before a watcher has run, or if the one that knows the time only polls, or
//! sleeps no more, the others learn of the item at the end of a slice.
//!
//! pipe_word.rs has the states of a pipe and their changes. While no process watches for what a pipe tells,
//! its word is not kept up; it still says what the pipe holds, and a process that begins to watch ends a
//! critical section.
//!
//! Waiters with a descriptor are on no list. They do not age, are not handed anything, and come after those
//! that have aged: what a section hands over or publishes is gone before its end updates the pipes. All of
//! them are woken at once, and the first that comes is served.
//!
//! | step | if the process dies, or is stopped, right after it |
//! |---|---|
//! | pipe made, its number noted | no participant has it: the next watcher makes another |
//! | its place noted in the participant's record | the sweep frees the record |
//! | the record counts a watcher, `Hot` does not | the rebuild adds the records up |
//! | pipe drained, filled, or byte promised, lock held | the rebuild stores UNKNOWN; its section restores |
//! | FULL stored, the pipe not filled, lock held | the same |
//! | all is done, not counted in `finishes` | the pipe is UNKNOWN then, and the rebuild's section counts it |
//! | counted, the pipe not changed | it is counted once more: joiners that begin meanwhile do not wait |
//! | byte promised, lock released | the next section that ends with the same wish writes a byte (*) |
//! | byte written, promise not compared | perhaps a byte too many: a watcher that finds no item drains it |
//! | byte written, drained again, state not compared | the sweep stores UNKNOWN; its section restores (*) |
//! | an earlier time, the mark not set | the rebuild sets it if anything is delayed |
//! | forked from a watcher, not counted yet | it waits no more; the parent's record counts for the parent |
//!
//! (*) Until then a watcher that only polls, and does not use the queue, is not woken. One that calls
//! `Queue::tend` now and then, as the loops of the package do every 100 ms, is.
//!
//! A process that cannot open the pipe of any watcher (in another pid namespace, or without a descriptor to
//! spare) leaves the state UNKNOWN, and the next participant that can restores it.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{Kind, Participant, ParticipantId};
use crate::platform;
use crate::state::line::{DUE, has_line, watchers};
use crate::state::line_end::Use;
use crate::state::pipe_word::{DRAINED, Pipe, PipeEnds, UNKNOWN, change, drain, next};
use crate::state::{Section, Shared};
use crate::sync::{AtomicU32, Count, Ordering, Word};

/// A notifier as one process has opened it for itself.
pub(crate) struct Notifier {
    /// Open in both directions, or -1; and the number of the pipe behind it. Without /proc two descriptors
    /// are needed: then `fd` is the reading end, and `writing` the other one, else -1.
    pub fd: AtomicI32,
    pub writing: AtomicI32,
    pub number: AtomicU64,
    /// The id under which this process watches it for good, or 0. (For room: `Line::watched_as`.)
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

impl PipeEnds for End {
    fn signal(&self) -> bool {
        platform::signal(self.writing)
    }

    fn drain(&self) -> bool {
        platform::drain(self.reading)
    }

    fn fill(&self) -> bool {
        platform::fill(self.writing)
    }
}

/// What is due at the notifiers once the lock is released.
#[derive(Clone, Copy, Default)]
pub(crate) struct Due {
    /// Bytes are to be written, on these promises.
    pub promises: [Option<(End, u32)>; 2],
    /// A notifier is to be opened.
    pub opens: bool,
}

/// What is due once the lock is released.
#[derive(Clone, Copy, Default)]
pub(crate) enum AfterRelease {
    #[default]
    None,
    Notify(Due),
    /// A byte is to be written to a connection's line, on this promise. The end stays in use until then.
    SignalLine(Use, u32),
    /// A byte that another thread writes to the line is to be taken out. The end stays in use until then.
    AwaitByte(Use, u32),
}

impl Shared {
    pub(crate) fn notifier(&self, pipe: Pipe) -> &Notifier {
        &self.notifiers[pipe as usize]
    }

    /// Whether this process watches for items or for the end, or for room; or, after a fork, its parent did.
    pub(crate) fn is_watched(&self) -> bool {
        self.notifiers.iter().any(Notifier::is_watched) || self.line.is_watched()
    }

    /// Whether a new record of this process has to name descriptors of a notifier, or a watcher.
    pub(crate) fn has_to_announce(&self) -> bool {
        self.notifiers.iter().any(Notifier::is_known) || self.line.is_watched()
    }
}

impl Section<'_> {
    /// Restores the invariant of the head comment. Called at the end of each critical section while a process
    /// watches.
    #[cold]
    pub(crate) fn update_notifier(&mut self) {
        if has_line(self.hot()) {
            return self.update_line();
        }
        self.end_telling_if_unwatched();
        for pipe in Pipe::ALL {
            if let Some(wanted) = self.wanted_change(pipe) {
                self.count_finish(pipe);
                self.change_notifier(pipe, wanted);
            }
        }
    }

    fn change_notifier(&mut self, pipe: Pipe, wanted: u32) {
        let word = pipe.word(self.hot());
        let Some(end) = self.end_at_hand(pipe) else {
            word.set(next(word.get(), UNKNOWN));
            self.note_due(|due| due.opens = true);
            return;
        };
        if let Some(promise) = change(word, &end, wanted) {
            self.shared
                .notifier(pipe)
                .promises
                .fetch_add(1, Ordering::Relaxed);
            self.note_due(|due| due.promises[pipe as usize] = Some((end, promise)));
        }
        fault!("notifier.changed");
    }

    fn note_due(&mut self, note: impl FnOnce(&mut Due)) {
        let mut due = match self.after_release {
            AfterRelease::Notify(due) => due,
            _ => Due::default(),
        };
        note(&mut due);
        self.after_release = AfterRelease::Notify(due);
    }

    /// The pipe of that number, which is empty, is a notifier from now on.
    pub(crate) fn set_notifier(&mut self, pipe: Pipe, number: u64) {
        let hot = self.hot();
        pipe.word(hot).set(next(pipe.word(hot).get(), DRAINED));
        pipe.number(hot).set(number);
    }

    /// Takes out what is in the pipe though there is no item.
    pub(crate) fn drain_if_empty(&mut self) {
        self.end_telling();
        if !self.is_readable() {
            if let Some(end) = self.end_at_hand(Pipe::Traffic) {
                drain(&self.hot().pipe_state, &end);
            }
        }
    }

    /// Compares what a pipe tells of that with the truth, after an operation was in vain. A writer that is
    /// stopped between its byte and the comparison may have left a byte too many, or have drained a full
    /// pipe. The end of the section restores what differs.
    pub(crate) fn correct_notifier(&mut self, kind: Kind) {
        let pipe = Pipe::of(kind);
        let word = pipe.word(self.hot());
        let Some(end) = self.end_at_hand(pipe) else {
            return;
        };
        let is_wrong = match kind {
            Kind::Item => return self.drain_if_empty(),
            Kind::Room => !self.shared.has_room() && platform::is_pipe_writable(end.writing),
            Kind::Finish => self.hot().unfinished.get() > 0 && platform::is_pipe_readable(end.reading),
        };
        if is_wrong {
            word.set(next(word.get(), UNKNOWN));
        }
    }

    /// A notifier, if this process has it open.
    fn end_at_hand(&self, pipe: Pipe) -> Option<End> {
        self.shared.notifier(pipe).current(pipe.number(self.hot()).get())
    }

    /// Counts one watcher for items more of this process, and answers the id under which it counts. The end
    /// of the section restores the notifier.
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

    /// Counts a watcher that stays, unless this process has one of that kind already.
    pub(crate) fn watch_for_good(&mut self, kind: Kind) -> Result<(), Error> {
        if kind == Kind::Room {
            return self.watch_room_for_good().map(drop);
        }
        let watched_as = &self.shared.notifier(Pipe::of(kind)).watched_as;
        if watched_as.get() == self.me.0 {
            return Ok(());
        }
        if kind == Kind::Item {
            self.count_watcher()?;
        } else {
            self.my_record()?.watching_finish.add(1);
            fault!("notifier.counted");
            self.hot().watching_finish.add(1);
            self.hot().watching.add(1);
        }
        watched_as.set(self.me.0);
        Ok(())
    }

    /// Discounts the watchers that stay, of a process that has closed its last handle: it hands out no
    /// descriptor any more. Takes the descriptors out.
    ///
    /// A later section of this process may open a notifier again, as one of a process that never watched: a
    /// payload that it has in hand comes back, and the watchers of the other processes sleep. It must not
    /// leave that to the next participant, which may be a watcher that only polls. The end of the next call
    /// of the closed queue comes here again, or the departure closes the notifiers: at most one pipe of each
    /// is open until then.
    pub(crate) fn watch_no_more(&mut self) -> Result<[[RawFd; 2]; 2], Error> {
        let [traffic, finish] = &self.shared.notifiers;
        if traffic.watched_as.get() == self.me.0 {
            traffic.watched_as.set(0);
            self.discount_watcher(self.me)?;
        }
        if finish.watched_as.get() == self.me.0 {
            finish.watched_as.set(0);
            self.discount_finish_watchers_of(self.my_record()?);
        }
        self.watch_room_no_more()?;
        let record = self.my_record()?;
        Ok(Pipe::ALL.map(|pipe| {
            for place in pipe.places(record) {
                place.set(0);
            }
            let Notifier { fd, writing, .. } = self.shared.notifier(pipe);
            [fd.swap(-1, Relaxed), writing.swap(-1, Relaxed)]
        }))
    }

    fn discount_finish_watchers_of(&self, record: &Participant) {
        let count = record.watching_finish.get();
        self.uncount_watchers(count);
        self.hot().watching_finish.sub(count);
        record.watching_finish.set(0);
    }

    /// Discounts all watchers of a participant that leaves, or is dead.
    pub(crate) fn discount_watchers_of(&mut self, record: &Participant) {
        self.uncount_watchers(record.watching.get());
        self.discount_room_watchers_of(record);
        self.discount_finish_watchers_of(record);
        record.watching.set(0);
        for place in Pipe::ALL.into_iter().flat_map(|pipe| pipe.places(record)) {
            place.set(0);
        }
    }

    /// Adds up the watchers of all records. What pipes and line hold is unknown after a death.
    pub(crate) fn rebuild_notifier(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        let (mut watching, mut for_finish) = (0u32, 0u32);
        for index in self.shared.participants() {
            let record = self.shared.segment.participant(index)?;
            watching = watching.saturating_add(record.watching.get());
            for_finish = for_finish.saturating_add(record.watching_finish.get());
        }
        let for_room = self.room_watchers()?;
        let all = watching.saturating_add(for_room).saturating_add(for_finish);
        // Perhaps once too often.
        let tells = all != 0 && hot.has_delayed() && !has_line(hot);
        hot.watching.set(all & !DUE | if tells { DUE } else { 0 });
        hot.watching_room.set(for_room);
        hot.watching_finish.set(for_finish);
        for pipe in Pipe::ALL {
            pipe.word(hot).set(next(pipe.word(hot).get(), UNKNOWN));
        }
        self.forget_line();
        Ok(())
    }

    /// Writes to this process's new record where others find the notifiers open, and counts its watchers
    /// again.
    pub(crate) fn announce_notifier(&mut self) -> Result<(), Error> {
        for pipe in Pipe::ALL {
            if let Some(end) = self.end_at_hand(pipe) {
                let is_one = end.reading == end.writing;
                let [reading, writing] = pipe.places(self.my_record()?);
                writing.set(if is_one { 0 } else { end.writing as u32 + 1 });
                if reading.get() != end.reading as u32 + 1 {
                    reading.set(end.reading as u32 + 1);
                    self.hot().announced.add(1);
                }
            }
        }
        for kind in [Kind::Item, Kind::Finish] {
            if self.shared.notifier(Pipe::of(kind)).is_watched() {
                self.watch_for_good(kind)?;
            }
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
