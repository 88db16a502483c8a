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
//! The kernel is asked under the lock. So the line is exact: no byte comes after its message was taken. (A
//! queue's notifier, which wakes processes of many queues' users, writes after the release: notifier.rs.)
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
//! | byte written, line drained, filled or made writable; state not noted | UNKNOWN (below) |
//! | message committed, byte not written | a receiver sees it in its slice; `select` may not (*) |
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

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{Hot, Kind, PARTICIPANTS, Participant};
use crate::platform::{self, Content, Filled, Side};
use crate::state::Section;
use crate::sync::{AtomicU32, Count, Word};

// The values of `Hot::line_state`.
pub(crate) const QUIET: u32 = 0;
pub(crate) const SIGNALLED: u32 = 1;
pub(crate) const FULL: u32 = 2;
pub(crate) const UNKNOWN: u32 = 3;

/// In `Hot::watching`, beside the number of watchers: the line is not SIGNALLED.
pub(crate) const DUE: u32 = 1 << 31;

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
    /// The ends that this process used last, or -1: those of a call, whose section may end after the call.
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
    fd: RawFd,
    side: Side,
}

thread_local! {
    /// What this thread's call provides.
    static CALL_END: Cell<Option<CallEnd>> = const { Cell::new(None) };
}

/// While it lives, the critical sections of this thread use that end of the line.
pub(crate) struct CallEnds(Option<CallEnd>);

impl CallEnds {
    pub(crate) fn new(line: &Line, fd: RawFd, side: Side) -> CallEnds {
        line.ends[side as usize].store(fd, Relaxed);
        let now = Some(CallEnd { fd, side });
        // A thread whose locals are gone already makes no more calls that provide an end.
        CallEnds(CALL_END.try_with(|end| end.replace(now)).ok().flatten())
    }
}

impl Drop for CallEnds {
    fn drop(&mut self) {
        let _ = CALL_END.try_with(|end| end.set(self.0));
    }
}

/// Where a waiter sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SleepTarget {
    /// At its cell's word.
    Cell,
    /// At its cell's word for a moment only: the waiter is a sender that may not fill the line yet.
    CellForNow,
    /// Until the line, whose writing end this is, can be written to.
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
        hot.line_state.set(state);
        hot.watching
            .set(watchers(hot) | if state == SIGNALLED { 0 } else { DUE });
    }

    /// After a death it is unknown what lies in the line.
    pub(crate) fn forget_line(&self) {
        if has_line(self.hot()) {
            self.note_line(UNKNOWN);
        }
    }

    /// That end of the line, if this thread's call provides it, or this process has used it.
    fn end_of_line(&self, side: Side) -> Option<RawFd> {
        let number = self.hot().line_ends[side as usize].get();
        let leads_there = |fd: &RawFd| platform::end_number(*fd) == Some(number);
        // A signal handler's call, made inside another call's wait, finds that call's end here.
        let call_end = CALL_END.try_with(Cell::get).ok().flatten();
        let call_end = call_end.filter(|end| end.side == side).map(|end| end.fd);
        call_end
            .filter(leads_there)
            .or_else(|| Some(self.shared.line.ends[side as usize].load(Relaxed)).filter(leads_there))
    }

    /// Restores the invariants of the head comment, as far as this process has the ends for it.
    pub(crate) fn update_line(&mut self) {
        let hot = self.hot();
        let is_ready = hot.ready_count.get() > 0 || hot.is_damaged();
        let wants_full = self.wants_full();
        match (hot.line_state.get(), is_ready) {
            (SIGNALLED, true) | (QUIET, false) if !wants_full => return,
            (FULL, _) if wants_full => return,
            (UNKNOWN, _) => self.ask_for_line(),
            _ => {}
        }
        match (hot.line_state.get(), is_ready) {
            (QUIET | SIGNALLED, _) if wants_full => {
                if let Some(end) = self.end_of_line(Side::Writing) {
                    self.fill_line(end);
                }
            }
            (QUIET, true) => self.signal_line(),
            (SIGNALLED, false) if watchers(hot) > 0 && !self.may_come_back() => self.drain_line(),
            (FULL, false) if self.may_come_back() => self.make_line_writable(),
            (FULL, false) => self.drain_line(),
            (FULL, true) if self.shared.has_room() => self.make_line_writable(),
            _ => {}
        }
    }

    /// Whether `poll` must not call the line writable. A notified sender must find it writable.
    fn wants_full(&self) -> bool {
        let hot = self.hot();
        let putters = &hot.waiters[Kind::Room as usize];
        !self.shared.has_room()
            && !hot.is_damaged()
            && (hot.watching_room.get() > 0 || putters.length.get() > 0)
            && putters.notified.get() == 0
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

    fn signal_line(&mut self) {
        if let Some(end) = self.end_of_line(Side::Writing) {
            if platform::signal_line(end) {
                fault!("line.signalled");
                self.note_line(SIGNALLED);
            }
        }
    }

    fn drain_line(&mut self) {
        if let Some(end) = self.end_of_line(Side::Reading) {
            let is_drained = platform::drain_line(end);
            fault!("line.drained");
            self.note_line(if is_drained { QUIET } else { UNKNOWN });
        }
    }

    fn make_line_writable(&mut self) {
        if let Some(end) = self.end_of_line(Side::Reading) {
            let is_done = platform::make_writable(end);
            fault!("line.writable");
            self.note_line(if is_done { SIGNALLED } else { UNKNOWN });
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
            let content = self
                .end_of_line(side)
                .and_then(|end| platform::content_of_line(end, side));
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
        if hot.ready_count.get() == 0 && hot.line_state.get() != QUIET && !self.may_come_back() {
            self.drain_line();
        }
    }

    /// Where a waiter of that kind is to sleep: a connection's sender at its line, which is full from now on.
    pub(crate) fn sleep_target(&mut self, kind: Kind) -> SleepTarget {
        let hot = self.hot();
        if kind != Kind::Room || !has_line(hot) {
            return SleepTarget::Cell;
        }
        let call_end = CALL_END.try_with(Cell::get).ok().flatten();
        let number = hot.line_ends[Side::Writing as usize].get();
        let Some(end) = call_end
            .filter(|end| end.side == Side::Writing)
            .map(|end| end.fd)
            .filter(|fd| platform::end_number(*fd) == Some(number))
        else {
            return SleepTarget::Cell;
        };
        if hot.waiters[Kind::Room as usize].notified.get() > 0 {
            return SleepTarget::CellForNow;
        }
        if hot.line_state.get() == FULL {
            return SleepTarget::Line(end);
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
        for index in 1..=self.hot().participants_high.get().min(PARTICIPANTS - 1) {
            let record = self.shared.segment.participant(index)?;
            count = count.saturating_add(record.watching_room.get());
        }
        Ok(count)
    }
}
