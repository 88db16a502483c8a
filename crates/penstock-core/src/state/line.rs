//! The line: the socket or pipe of a connection, beside its queue. It says which processes are left on the
//! other side, and wakes programs that sleep in `poll`.
//!
//! A duplex connection has a pair of sockets, one socket a side, and a queue for each direction. A connection
//! of one direction has a pipe. The ends are open exactly where the connection's sides are, so the kernel
//! tells a process when no process is left on the other side (operations/connection.rs).
//!
//! What lies in the line says what a receiver and a sender would find:
//!
//! | | the reading end | the writing end |
//! |---|---|---|
//! | QUIET: nothing | not readable | writable |
//! | SIGNALLED: a byte, or a few | readable | writable |
//! | FULL: so many bytes that no more fit | readable | not writable |
//!
//! Only senders can write to a line, and only receivers can read from it: the kernel opens no socket again.
//! So each section of a sender that ends beside a message signals, each of a receiver's that ends beside none
//! drains, and a section of the wrong side leaves the line as it is. The invariants, restored at the end of
//! each critical section (`update_line`):
//!
//! > 1. If a message is ready, the line is SIGNALLED or FULL.
//! > 2. While a process *watches*, and no message is ready, the line is QUIET.
//! > 3. If there is room, the line is not FULL. While a process watches for room, or a sender sleeps, and
//! >    there is no room, the line is FULL.
//!
//! While no process watches, a byte stays in the line when the last message is taken, so that messages
//! between processes that spin cost no system call. A process that begins to watch ends a section, which
//! drains, or leaves the byte beside a message. To begin needs no writing, which a receiver could not do.
//!
//! The line is drained, filled and made writable under the lock. A byte is only promised there, and written
//! right after the release, because it wakes a receiver that wants the lock. It must not come after its
//! message was taken: a program that waits with `select` would call `recv`, and sleep there. So the writer
//! claims its promise before it writes, and a receiver that takes the message either cancels the promise, or
//! finds the byte, or waits for it, without the lock, for the microsecond that the writer takes:
//!
//! ```text
//! QUIET --sender's section--> PROMISED --claimed--> WRITING --byte written--> SIGNALLED
//!                               |                      \--the byte found by a receiver's section--> QUIET
//!                               |\--another sender's section--> PROMISED, its own
//!                               \--a receiver's section beside no message--> QUIET, nothing is written
//! ```
//!
//! The changes from PROMISED and WRITING are compare-and-swaps, because the writer makes its own without the
//! lock. Bits 3..32 of the word count the changes, so that a writer recognises its own promise.
//!
//! A message that was taken may come back, while its receiver rebuilds it in place or if that dies. A
//! receiver could not signal then, so the line is not drained while a message is leased.
//!
//! A sender that waits for room fills the line, and sleeps in `poll` until it is writable. It is on the list
//! of the putters like any other (waiters.rs). The section that notifies a sender makes room, and so makes
//! the line writable. `poll` checks again when it is woken, so no sender fills the line before the notified
//! ones are back; until then a sender sleeps on its cell. (A late one does not count: it may have to wait for
//! its slice's end.)
//!
//! `Hot::watching` has the mark DUE unless the line is SIGNALLED, so that sections update the line although
//! no process watches: in each other state a put or a get may have to change it.
//!
//! | step | if the process dies, or is stopped, right after it |
//! |---|---|
//! | ends made, their numbers noted | no other process has the queue yet |
//! | watcher counted in the record, not in `Hot` | the rebuild adds the records up |
//! | line drained, filled or made writable; state not noted | UNKNOWN (below) |
//! | byte promised, or claimed, not written | the sweep stores UNKNOWN; a receiver's slice ends (*) |
//! | byte written, state not noted | the sweep stores UNKNOWN |
//! | message taken, line not drained | the next section of a receiver drains: `select` wakes once too often |
//! | room made, line still full | the sender's slice ends; or no process is left there, and it wakes |
//!
//! A take-over stores UNKNOWN, and the next section of this connection asks the kernel what lies in the line.
//!
//! (*) Until a process of the sending side uses the connection. If none is left, the line is readable,
//! because the other side has ended.

use std::cell::Cell;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{Hot, Kind, Participant, ParticipantId};
use crate::platform::{self, Content, EndState, Filled, Instant, Side};
use crate::state::line_end::{self, Use};
use crate::state::notifier::AfterRelease;
use crate::state::{Section, Shared};
use crate::sync::{AtomicU32, Count, Ordering, Word};

// The values of `Hot::line_state`.
pub(crate) const QUIET: u32 = 0;
pub(crate) const SIGNALLED: u32 = 1;
pub(crate) const FULL: u32 = 2;
pub(crate) const UNKNOWN: u32 = 3;
/// A byte is to be written by the participant `Hot::line_writer`, and is being written.
const PROMISED: u32 = 4;
const WRITING: u32 = 5;

pub(crate) fn state_of(line_state: u32) -> u32 {
    line_state & 7
}

/// The next word, of that state.
fn next(line_state: u32, state: u32) -> u32 {
    (line_state & !7).wrapping_add(8) | state
}

/// In `Hot::watching`, beside the number of watchers: the line is not SIGNALLED.
pub(crate) const DUE: u32 = 1 << 31;

/// How long a receiver waits at most for a byte whose writer has claimed its promise, and the pauses
/// meanwhile.
const LONGEST: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_micros(20);

/// The watchers, without the mark.
pub(crate) fn watchers(hot: &Hot) -> u32 {
    hot.watching.get() & !DUE
}

/// Whether the queue is that of a connection.
pub(crate) fn has_line(hot: &Hot) -> bool {
    hot.line_ends[Side::Writing as usize].get() != 0
}

/// The line as one process knows it.
pub(crate) struct Line {
    /// The ends that this process used last, or -1. A section that is part of no call to the connection finds
    /// them here: the return of a payload that was read in place, a figure, the departure.
    ends: [AtomicI32; 2],
    /// The id under which this process watches for room, or 0.
    watched_as: AtomicU32,
}

impl Line {
    pub(crate) fn new() -> Line {
        Line {
            ends: [AtomicI32::new(-1), AtomicI32::new(-1)],
            watched_as: AtomicU32::new(0),
        }
    }

    /// Whether this process watches for room; or, after a fork, whether its parent did so.
    pub(crate) fn is_watched(&self) -> bool {
        self.watched_as.get() != 0
    }
}

/// The end that a call to a connection provides.
#[derive(Clone, Copy)]
struct CallEnd {
    use_: Use,
    side: Side,
}

thread_local! {
    /// What this thread's call provides.
    static CALL_END: Cell<Option<CallEnd>> = const { Cell::new(None) };
}

/// While it lives, the critical sections of this thread use that end of the line, and its number stays the
/// end's.
pub(crate) struct CallEnds {
    now: CallEnd,
    former: Option<CallEnd>,
}

impl CallEnds {
    /// `Error::EndClosed` if the end was closed, or is being closed.
    pub(crate) fn new(line: &Line, fd: RawFd, side: Side) -> Result<CallEnds, Error> {
        let use_ = line_end::begin(fd).ok_or(Error::EndClosed)?;
        line.ends[side as usize].store(fd, Relaxed);
        let now = CallEnd { use_, side };
        // A thread whose locals are gone already makes no more calls that provide an end.
        let former = CALL_END.try_with(|end| end.replace(Some(now))).ok().flatten();
        Ok(CallEnds { now, former })
    }
}

impl Drop for CallEnds {
    fn drop(&mut self) {
        let _ = CALL_END.try_with(|end| end.set(self.former));
        self.now.use_.end();
    }
}

/// Where a waiter sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SleepTarget {
    /// At its cell's word.
    Cell,
    /// At its cell's word for a moment only: the waiter is a sender that may not fill the line yet.
    CellForNow,
    /// Until the line, whose writing end this is, can be written to. The waiter's call has it in use.
    Line(RawFd),
}

impl Section<'_> {
    /// Notes the ends of a new connection's line, by their numbers. They are empty.
    pub(crate) fn set_line(&mut self, numbers: [u64; 2]) {
        let hot = self.hot();
        for (end, number) in hot.line_ends.iter().zip(numbers) {
            end.set(number);
        }
        self.note_line(QUIET);
    }

    fn note_line(&self, state: u32) {
        let hot = self.hot();
        hot.line_state.set(next(hot.line_state.get(), state));
        self.mark_due(state);
    }

    fn mark_due(&self, state: u32) {
        let hot = self.hot();
        hot.watching
            .set(watchers(hot) | if state == SIGNALLED { 0 } else { DUE });
    }

    /// Changes the state from that word, unless the writer of a byte was quicker.
    fn exchange_line(&self, seen: u32, state: u32) -> bool {
        // SeqCst: the kernel's lock of the line orders the byte, and this word its writer and its taker.
        let word = &self.hot().line_state;
        word.compare_exchange(seen, next(seen, state), Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// The byte that a dead participant was to write.
    pub(crate) fn forget_line_of(&self, id: ParticipantId) {
        let hot = self.hot();
        let is_its_own = hot.line_writer.get() == id.0;
        if has_line(hot) && is_its_own && matches!(state_of(hot.line_state.get()), PROMISED | WRITING) {
            self.note_line(UNKNOWN);
        }
    }

    /// After a death it is unknown what lies in the line.
    pub(crate) fn forget_line(&self) {
        if has_line(self.hot()) {
            self.note_line(UNKNOWN);
        }
    }

    /// That end of the line, if this thread's call provides it. It stays in use until that call's end.
    fn end_of_call(&self, side: Side) -> Option<Use> {
        // A signal handler's call, made inside another call's wait, finds that call's end here.
        CALL_END
            .try_with(Cell::get)
            .ok()
            .flatten()
            .filter(|end| end.side == side && self.shared.leads_to_line(end.use_.fd(), side))
            .map(|end| end.use_)
    }

    /// That end of the line, in use, if this thread's call provides it, or this process has used it. The
    /// caller ends the use.
    fn end_of_line(&self, side: Side) -> Option<Use> {
        if let Some(end) = self.end_of_call(side).and_then(Use::another) {
            return Some(end);
        }
        let end = line_end::begin(self.shared.line.ends[side as usize].load(Relaxed))?;
        if self.shared.leads_to_line(end.fd(), side) {
            return Some(end);
        }
        end.end();
        None
    }

    /// Restores the invariants of the head comment, as far as this process has the ends for it.
    pub(crate) fn update_line(&mut self) {
        let hot = self.hot();
        let is_ready = hot.ready_count.get() > 0 || hot.is_damaged();
        let wants_full = self.wants_full();
        let seen = hot.line_state.load(Ordering::SeqCst);
        match (state_of(seen), is_ready) {
            (SIGNALLED, true) if !wants_full => return self.mark_due(SIGNALLED),
            (QUIET, false) | (WRITING, true) if !wants_full => return,
            (FULL, _) if wants_full => return,
            (UNKNOWN, _) => self.ask_for_line(),
            // Cancelled, unless it has been claimed since.
            (PROMISED, _) if !is_ready || wants_full => {
                self.exchange_line(seen, QUIET);
            }
            _ => {}
        }
        match (state_of(hot.line_state.load(Ordering::SeqCst)), is_ready) {
            (QUIET | SIGNALLED, _) if wants_full => {
                if let Some(end) = self.end_of_line(Side::Writing) {
                    self.fill_line(end.fd());
                    end.end();
                }
            }
            (QUIET | PROMISED, true) => self.promise_byte(),
            (WRITING, false) if watchers(hot) > 0 && !self.may_come_back() => self.take_byte_being_written(),
            (SIGNALLED, false) if watchers(hot) > 0 && !self.may_come_back() => self.drain_line(),
            (FULL, false) if self.may_come_back() => self.make_line_writable(),
            (FULL, false) => self.drain_line(),
            (FULL, true) if self.shared.has_room() || hot.is_putter_handed() => self.make_line_writable(),
            _ => {}
        }
    }

    /// Whether `poll` must not call the line writable. A sender that was notified, or whose message was put
    /// for it, must find it writable.
    fn wants_full(&self) -> bool {
        let hot = self.hot();
        let putters = &hot.waiters[Kind::Room as usize];
        !self.shared.has_room()
            && !hot.is_damaged()
            && (hot.watching_room.get() > 0 || putters.length.get() > 0)
            && putters.notified.get() == 0
            && !hot.is_putter_handed()
    }

    /// Whether a message that was taken may become ready again.
    fn may_come_back(&self) -> bool {
        let mut participant = 0;
        while let Some(index) = self.next_lessee(participant) {
            participant = index;
            match self.shared.segment.participant(index) {
                Ok(record) if record.leased.head.get() != 0 => return true,
                _ => {}
            }
        }
        false
    }

    fn promise_byte(&mut self) {
        let hot = self.hot();
        let seen = hot.line_state.load(Ordering::SeqCst);
        let Some(end) = self.end_of_line(Side::Writing) else {
            return;
        };
        if matches!(state_of(seen), QUIET | PROMISED) && self.exchange_line(seen, PROMISED) {
            hot.line_writer.set(self.me.0);
            fault!("line.promised");
            self.after_release = AfterRelease::SignalLine(end, next(seen, PROMISED));
        } else {
            end.end();
        }
    }

    /// Takes out a byte whose writer has claimed its promise, although its message was taken. If it is not
    /// there yet, this thread waits for it after the release.
    fn take_byte_being_written(&mut self) {
        let hot = self.hot();
        let seen = hot.line_state.load(Ordering::SeqCst);
        let Some(end) = self.end_of_line(Side::Reading) else {
            return;
        };
        if state_of(seen) == WRITING
            && platform::content_of_line(end.fd(), Side::Reading) == Some(Content::Nothing)
        {
            self.after_release = AfterRelease::AwaitByte(end, seen);
            return;
        }
        end.end();
        // The writer changes the word at most once more, to SIGNALLED.
        self.drain_line();
    }

    fn drain_line(&mut self) {
        if let Some(end) = self.end_of_line(Side::Reading) {
            let is_drained = platform::drain_line(end.fd());
            fault!("line.drained");
            self.note_line(if is_drained { QUIET } else { UNKNOWN });
            end.end();
        }
    }

    fn make_line_writable(&mut self) {
        if let Some(end) = self.end_of_line(Side::Reading) {
            let is_done = platform::make_writable(end.fd());
            fault!("line.writable");
            self.note_line(if is_done { SIGNALLED } else { UNKNOWN });
            end.end();
        }
    }

    fn fill_line(&mut self, end: RawFd) -> Filled {
        let filled = platform::fill_line(end);
        fault!("line.filled");
        self.note_line(if filled == Filled::Full { FULL } else { UNKNOWN });
        filled
    }

    /// Asks the kernel what lies in the line.
    fn ask_for_line(&self) {
        for side in [Side::Reading, Side::Writing] {
            let content = self.end_of_line(side).and_then(|end| {
                let content = platform::content_of_line(end.fd(), side);
                end.end();
                content
            });
            if let Some(content) = content {
                self.note_line(match content {
                    Content::Nothing => QUIET,
                    Content::Bytes => SIGNALLED,
                    Content::Full => FULL,
                });
                return;
            }
        }
    }

    /// Takes out what is in the line though no message is ready, for a process that closes its end: the
    /// kernel would tell the other side that something was unread.
    pub(crate) fn empty_line(&mut self) {
        let hot = self.hot();
        let seen = hot.line_state.load(Ordering::SeqCst);
        if hot.ready_count.get() == 0 && !self.may_come_back() {
            match state_of(seen) {
                QUIET | WRITING => {}
                PROMISED => {
                    self.exchange_line(seen, QUIET);
                }
                _ => self.drain_line(),
            }
        }
    }

    /// Where a waiter of that kind is to sleep: a connection's sender at its line, which is full from now on.
    pub(crate) fn sleep_target(&mut self, kind: Kind) -> SleepTarget {
        let hot = self.hot();
        if kind != Kind::Room || !has_line(hot) {
            return SleepTarget::Cell;
        }
        let Some(end) = self.end_of_call(Side::Writing).map(Use::fd) else {
            return SleepTarget::Cell;
        };
        if hot.waiters[Kind::Room as usize].notified.get() > 0 || hot.is_putter_handed() {
            return SleepTarget::CellForNow;
        }
        let seen = hot.line_state.load(Ordering::SeqCst);
        match state_of(seen) {
            FULL => return SleepTarget::Line(end),
            // No byte must come into a line that was filled and drained meanwhile.
            WRITING => return SleepTarget::CellForNow,
            PROMISED if !self.exchange_line(seen, QUIET) => return SleepTarget::CellForNow,
            _ => {}
        }
        match self.fill_line(end) {
            // Without a reader, `poll` says so at once.
            Filled::Full | Filled::NoReader => SleepTarget::Line(end),
            Filled::Not => SleepTarget::Cell,
        }
    }

    /// Counts a watcher for room that stays, unless this process has one already. True if it is new.
    pub(crate) fn watch_room_for_good(&mut self) -> Result<bool, Error> {
        let is_new = self.shared.line.watched_as.get() != self.me.0;
        if is_new {
            let record = self.shared.segment.participant(self.my_index())?;
            record.watching_room.add(1);
            fault!("line.counted");
            let hot = self.hot();
            hot.watching_room.add(1);
            hot.watching.add(1);
            self.shared.line.watched_as.set(self.me.0);
        }
        Ok(is_new)
    }

    /// Discounts the watcher for room that stays, of a process that has closed its last handle.
    pub(crate) fn watch_room_no_more(&self) -> Result<(), Error> {
        if self.shared.line.watched_as.get() == self.me.0 {
            self.shared.line.watched_as.set(0);
            let record = self.shared.segment.participant(self.my_index())?;
            self.discount_room_watchers_of(record);
        }
        Ok(())
    }

    /// Discounts the watchers for room of a participant that leaves, or is dead.
    pub(crate) fn discount_room_watchers_of(&self, record: &Participant) {
        let hot = self.hot();
        let count = record.watching_room.get();
        hot.watching_room.sub(count);
        hot.watching
            .set(hot.watching.get() & DUE | watchers(hot).saturating_sub(count));
        record.watching_room.set(0);
    }

    /// The watchers for room of all records.
    pub(crate) fn room_watchers(&self) -> Result<u32, Error> {
        let mut count = 0u32;
        for index in self.shared.participants() {
            let record = self.shared.segment.participant(index)?;
            count = count.saturating_add(record.watching_room.get());
        }
        Ok(count)
    }
}

impl Shared {
    /// Whether that number leads to that end of the line. The one check of it: each access to an end comes
    /// after this, because code that is not Penstock's may have closed it.
    fn leads_to_line(&self, fd: RawFd, side: Side) -> bool {
        platform::end_number(fd) == Some(self.segment.hot().line_ends[side as usize].get())
    }

    /// Whether a call can go on with the end that it provides.
    pub(crate) fn is_usable(&self, end: &CallEnds) -> bool {
        let CallEnd { use_, side } = end.now;
        use_.is_open() && self.leads_to_line(use_.fd(), side)
    }

    /// Sleeps until the end that a call provides has a byte, is hung up or closed, `at_most` so long.
    pub(crate) fn poll_line(&self, end: &CallEnds, at_most: Duration) -> EndState {
        if !self.is_usable(end) {
            return EndState::Closed;
        }
        platform::poll_line(end.now.use_.fd(), at_most)
    }

    /// Whether any process is left on the other side of the end that a call provides: `Quiet` if so.
    ///
    /// Each send asks, so the number is compared only if the answer is another: a send whose number leads
    /// elsewhere, where all is quiet, puts its message as if the end had been closed right after it.
    pub(crate) fn poll_peer(&self, end: &CallEnds) -> EndState {
        let use_ = end.now.use_;
        match use_.is_open().then(|| platform::poll_peer(use_.fd())) {
            Some(EndState::Quiet) => EndState::Quiet,
            Some(state) if self.is_usable(end) => state,
            _ => EndState::Closed,
        }
    }

    /// Forgets that the other side was closed with bytes unread, at the end that a call provides.
    pub(crate) fn clear_line_error(&self, end: &CallEnds) {
        if self.is_usable(end) {
            platform::clear_error(end.now.use_.fd());
        }
    }

    /// Whether that participant has promised a byte to the line that it has not written yet.
    pub(crate) fn owes_byte(&self, index: u32) -> bool {
        let hot = self.segment.hot();
        has_line(hot)
            && matches!(state_of(hot.line_state.get()), PROMISED | WRITING)
            && ParticipantId(hot.line_writer.get()).index() == index
    }

    /// Whether another participant than this process does.
    pub(crate) fn does_another_owe_byte(&self) -> bool {
        let writer = ParticipantId(self.segment.hot().line_writer.get());
        self.owes_byte(writer.index()) && self.member_if_any() != Some(writer)
    }

    /// Writes a byte that was promised, unless the promise was cancelled, and ends the use of the end. The
    /// lock is released.
    pub(crate) fn keep_line_promise(&self, end: Use, promise: u32) {
        self.write_line_byte(end.fd(), promise);
        end.end();
    }

    fn write_line_byte(&self, end: RawFd, promise: u32) {
        let word = &self.segment.hot().line_state;
        fault!("line.owed");
        let claimed = promise & !7 | WRITING;
        if word
            .compare_exchange(promise, claimed, Ordering::SeqCst, Ordering::SeqCst)
            .is_err()
        {
            return;
        }
        fault!("line.claimed");
        let is_signalled = platform::signal_line(end);
        fault!("line.signalled");
        let kept = promise & !7 | if is_signalled { SIGNALLED } else { UNKNOWN };
        // If this fails, a receiver has taken the byte, or a survivor does not know what lies in the line.
        let _ = word.compare_exchange(claimed, kept, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Waits for a byte that another thread is about to write, though its message was taken; not long if its
    /// writer is stopped or dead. Ends the use of the end.
    pub(crate) fn await_byte(&self, end: Use, claimed: u32) {
        self.await_byte_at(end.fd(), claimed);
        end.end();
    }

    fn await_byte_at(&self, end: RawFd, claimed: u32) {
        let word = &self.segment.hot().line_state;
        let start = Instant::now();
        loop {
            let is_over = start.elapsed() >= LONGEST;
            if word.load(Ordering::SeqCst) != claimed
                || platform::content_of_line(end, Side::Reading) != Some(Content::Nothing)
            {
                return;
            }
            if is_over {
                // It may come once more than there is a message.
                let unknown = next(claimed, UNKNOWN);
                let _ = word.compare_exchange(claimed, unknown, Ordering::SeqCst, Ordering::SeqCst);
                return;
            }
            platform::sleep(PAUSE);
        }
    }
}
