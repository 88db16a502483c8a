//! Participants: how a process becomes known to a queue, and how its death is proven.
//!
//! A process registers on its first operation. It takes the lock on its *life byte*, a byte range of the
//! memory file locked through an open file description that belongs to this process alone; the kernel
//! releases it when the process dies, by whatever death, once none of its threads can store any more. Then it
//! publishes its record's word.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | life byte locked | the kernel unlocks it: nothing happened |
//! | word = ALIVE, with the pid | its life byte is free and its pid is gone: it is swept, and holds nothing |
//! | pid namespace, birth, moment noted | the same |
//! | a record of its life before `exec` swept | what is left of that is found by the others |
//!
//! Death is a fact that the kernel states, never a time-out. Two facts prove it, and either is enough:
//!
//! - *The pid*, in the same pid namespace: no process has it, it has ended, or it is another process's by
//!   now, which the noted birth tells. Needs no /proc on either side (platform/linux/process.rs).
//! - *The life byte*, in any namespace: it is free. But a live process may have had its descriptors closed
//!   behind its back: a process that still maps the queue's memory lives, one that called `exec` does not map
//!   it any more.
//!
//! A process that has no descriptor to lock (without /proc, under another user than the queue's, or after it
//! has closed the queue, see handle/remainder.rs) is *lifeless*: only its pid can prove its death. If it is
//! in another pid namespace than the queue's maker, too, nothing can, and
//! [`take_part`](crate::Queue::take_part) says so. Its record, and what it holds, stay until the queue ends.
//!
//! A process that joins makes no system call for another process, so a queue of n processes costs n joins.
//! The places of the dead are freed by the waiting participants, which ask the kernel about all others once a
//! second, and by `statistics`; in a queue without either, by the processes that get one of the last places.
//! A lifeless record that is between its word and its birth, and whose pid is used again, keeps its place
//! until the queue ends.
//!
//! A survivor without /proc does not see that a process called `exec`: what that held comes back when the new
//! program ends.
//!
//! A record is freed after everything that its owner held has been given up: by a sweeper under the lock, or
//! by its owner, which departs, after it has released the lock (handle/put_off.rs).

use std::os::fd::BorrowedFd;

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{Participant, ParticipantId};
use crate::platform::{self, Life, Seen};
use crate::state::Shared;
use crate::sync::{Ordering, Word};
use crate::units::PAGE;

/// A record's word: alive (bit 0), incarnation (bits 1..20), lifeless (bit 20), at home (bit 21), left and
/// gone (bits 30 and 31, see handle/put_off.rs), pid (bits 32..64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordWord(pub u64);

const INCARNATIONS: u32 = 1 << 19;

/// Whether the death of this process could be proven by the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By its pid or its life byte.
    Possible,
    /// By neither: it had no /proc when it joined, and is in another pid namespace than the queue's maker.
    Impossible,
}

/// No life byte is locked for it: its pid alone can prove the death of its owner.
pub(crate) const LIFELESS: u64 = 1 << 20;

/// Its owner has left in order: what it has taken and not acknowledged stays unfinished.
pub(crate) const LEFT: u64 = 1 << 30;

/// Its owner does not take part under this id any more, so that it can be swept though the process lives.
pub(crate) const GONE: u64 = 1 << 31;

impl RecordWord {
    pub(crate) fn is_alive(self) -> bool {
        self.0 & 1 != 0
    }

    /// It is alive and that incarnation of its place.
    #[inline(always)]
    fn is_alive_as(self, incarnation: u32) -> bool {
        let alive = |incarnation: u32| 1 | u64::from(incarnation) << 1;
        self.0 & alive(INCARNATIONS - 1) == alive(incarnation)
    }

    pub(crate) fn incarnation(self) -> u32 {
        (self.0 >> 1) as u32 & (INCARNATIONS - 1)
    }

    /// It had no descriptor to lock when it registered, or has closed it since.
    pub(crate) fn is_lifeless(self) -> bool {
        self.0 & LIFELESS != 0
    }

    /// Its pid is one of the namespace in which the queue was made.
    pub(crate) fn is_at_home(self) -> bool {
        self.0 & 1 << 21 != 0
    }

    pub(crate) fn pid(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn alive(incarnation: u32, (is_lifeless, is_at_home): (bool, bool), pid: u32) -> RecordWord {
        let marks = (if is_lifeless { LIFELESS } else { 0 }) | u64::from(is_at_home) << 21;
        RecordWord(1 | u64::from(incarnation) << 1 | marks | u64::from(pid) << 32)
    }

    fn free(incarnation: u32) -> RecordWord {
        RecordWord(u64::from(incarnation) << 1)
    }
}

#[inline(always)]
pub(crate) fn read(record: &Participant) -> RecordWord {
    // Acquire: pairs with the release in register, so that what a living record says is complete.
    RecordWord(record.word.load(Ordering::Acquire))
}

impl Shared {
    pub(crate) fn proof_of(&self, me: ParticipantId) -> Result<Proof, Error> {
        let word = read(self.segment.participant(me.index())?);
        Ok(if word.is_lifeless() && !word.is_at_home() {
            Proof::Impossible
        } else {
            Proof::Possible
        })
    }

    /// Takes the first free record. `None` if there is none.
    pub(crate) fn claim_record(
        &self,
        life: Option<BorrowedFd<'_>>,
        pid: u32,
        namespace: u64,
    ) -> Result<Option<ParticipantId>, Error> {
        let hot = self.segment.hot();
        let marks = (life.is_none(), namespace == self.home());
        let per_page = (PAGE / size_of::<Participant>() as u64) as u32;
        for index in 1..=self.last_place() {
            if index > hot.participants_high.get() && index % per_page == 0 {
                let start = self.segment.geometry.participants_at + u64::from(index / per_page) * PAGE;
                self.segment.back(start, PAGE)?;
            }
            let record = self.segment.participant(index)?;
            let seen = read(record);
            let at = self.life_byte(index);
            if seen.is_alive() || life.is_some_and(|life| !platform::hold_life(life, at)) {
                continue;
            }
            fault!("register.life-held");
            // Before the word: a record beyond the mark would never be read.
            hot.participants_high.fetch_max(index, Ordering::Relaxed);
            let incarnation = (seen.incarnation() + 1) % INCARNATIONS;
            let word = RecordWord::alive(incarnation, marks, pid);
            // Release: pairs with the acquire in read.
            if record
                .word
                .compare_exchange(seen.0, word.0, Ordering::Release, Ordering::Relaxed)
                .is_ok()
            {
                fault!("register.alive");
                return Ok(Some(ParticipantId::new(index, incarnation)));
            }
            // Another process was quicker, or was alive and left between the read of its record and the lock
            // on its byte. This byte stays locked until this process ends. That does no harm: each process
            // that registers passes over it.
        }
        Ok(None)
    }

    /// Where in the file the life byte of a participant lies.
    fn life_byte(&self, index: u32) -> u64 {
        self.segment.in_file(u64::from(index))
    }

    /// The pid namespace in which the queue was made.
    fn home(&self) -> u64 {
        self.segment.header().home.get()
    }

    /// Whether a participant is proven dead, or has departed. Makes system calls, and needs no lock.
    ///
    /// A check that is not `thorough` believes a held life byte of another namespace. Else the process's
    /// state is read as well: another process may keep the life byte locked for a while (memory/file.rs).
    pub(crate) fn is_dead(&self, index: u32, record: &Participant, thorough: bool) -> bool {
        let word = read(record);
        if word.is_alive() && word.0 & GONE != 0 {
            return true;
        }
        if !word.is_alive() || Some(index) == self.member_if_any().map(ParticipantId::index) {
            return false;
        }
        let life = match self.segment.fd() {
            Some(fd) if !word.is_lifeless() => platform::probe_life(fd.get(), self.life_byte(index)),
            _ => Life::Unknown,
        };
        let is_neighbour = self.is_neighbour(record);
        if life == Life::Held && !thorough && !is_neighbour {
            return false;
        }
        let noted = (record.birth.get(), record.since.get());
        let seen = platform::probe_process(word.pid(), noted);
        if seen == Seen::Ended || seen == Seen::Absent && is_neighbour {
            return true;
        }
        let is_here = is_neighbour || seen == Seen::Running;
        // It no longer maps the memory, or it does so under a new id: it has called exec.
        let has_changed =
            || !platform::maps_file(word.pid(), self.segment.identity()) || self.has_successor(index, record);
        match life {
            Life::Held => false,
            Life::Unknown => is_here && word.is_lifeless() && has_changed(),
            Life::Free => !is_here || has_changed(),
        }
    }

    /// Whether the same process takes part under another id as well, with its life byte held.
    fn has_successor(&self, index: u32, record: &Participant) -> bool {
        let word = read(record);
        self.participants().any(|other| {
            let Ok(candidate) = self.segment.participant(other) else {
                return false;
            };
            let seen = read(candidate);
            other != index
                && seen.is_alive()
                && seen.pid() == word.pid()
                && candidate.birth.get() == record.birth.get()
                && candidate.pid_namespace.get() == record.pid_namespace.get()
                && (Some(other) == self.member_if_any().map(ParticipantId::index)
                    || self.segment.fd().is_some_and(|fd| {
                        platform::probe_life(fd.get(), self.life_byte(other)) == Life::Held
                    }))
        })
    }

    /// The record of an id from the lock word or a state word, if it is still that participant's.
    #[inline(always)]
    pub(crate) fn participant_of(&self, id: ParticipantId) -> Result<Option<&Participant>, Error> {
        let record = self.segment.participant(id.index())?;
        let word = read(record);
        Ok(word.is_alive_as(id.incarnation()).then_some(record))
    }

    /// Dead participants, from `from` on: index and record word.
    pub(crate) fn next_dead(&self, from: u32, only_holders: bool) -> Result<Option<(u32, u64)>, Error> {
        let hot = self.segment.hot();
        for index in from..=hot.participants_high.get().min(self.last_place()) {
            let record = self.segment.participant(index)?;
            let word = read(record);
            if only_holders && holds_nothing(record) && !self.owes_byte(index) {
                continue;
            }
            if self.is_dead(index, record, !only_holders) {
                return Ok(Some((index, word.0)));
            }
        }
        Ok(None)
    }

    /// Whether a participant is in the pid namespace of this process, where its pid means the same.
    pub(crate) fn is_neighbour(&self, record: &Participant) -> bool {
        let namespace = if read(record).is_at_home() {
            self.home()
        } else {
            record.pid_namespace.get()
        };
        namespace == platform::pid_namespace()
    }

    /// The places of all that may take part.
    pub(crate) fn participants(&self) -> core::ops::RangeInclusive<u32> {
        1..=self.segment.hot().participants_high.get().min(self.last_place())
    }

    /// The last record of the table, which serves only to sweep (handle/membership.rs).
    pub(crate) fn last_place(&self) -> u32 {
        self.segment.geometry.participants - 1
    }

    pub(crate) fn living(&self) -> Result<u64, Error> {
        let mut count = 0;
        for index in self.participants() {
            count += u64::from(read(self.segment.participant(index)?).is_alive());
        }
        Ok(count)
    }
}

pub(crate) fn holds_nothing(record: &Participant) -> bool {
    let lists = record.leased.head.get() | record.claimed.head.get();
    let watching = record.watching.get() | record.watching_room.get() | record.watching_finish.get();
    lists == 0 && watching == 0 && record.given_up.get() == 0 && record.producing().blocks() == 0
}

/// Frees a record whose owner holds nothing any more, not even the lock.
pub(crate) fn free_record(record: &Participant, id: ParticipantId) {
    record.leased.tail.set(0);
    record.claimed.tail.set(0);
    record.birth.set(0);
    record.since.set(0);
    record.pid_namespace.set(0);
    record.producing.set(0);
    // Release: pairs with the acquire in read of the next process that registers here.
    record
        .word
        .store(RecordWord::free(id.incarnation()).0, Ordering::Release);
}

/// Whether the owner of a record left in order before it was swept.
pub(crate) fn has_left(word: u64) -> bool {
    word & LEFT != 0
}

/// Whether the owner of a record has let go of all: it has not died with what it held.
pub(crate) fn has_gone(word: u64) -> bool {
    word & GONE != 0
}

impl Participant {
    pub(crate) fn pid(&self) -> u32 {
        read(self).pid()
    }

    /// Sets bits in the record of the participant `me`, all by one compare-and-swap. Not if the record is
    /// another's by now, because this process was wrongly taken for dead.
    pub(crate) fn mark(&self, me: ParticipantId, bits: u64) {
        let mut word = self.word.get();
        while id_of(me.index(), word) == Some(me) {
            // Release: what this process did before is complete for the sweeper of the record.
            match self
                .word
                .compare_exchange(word, word | bits, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                // Another thread of this process has set its bits, or a section has cleared some.
                Err(newer) => word = newer,
            }
        }
    }

    /// Clears bits of the record of the participant whose process is in the critical section.
    pub(crate) fn unmark(&self, bits: u64) {
        let mut word = self.word.get();
        while word & bits != 0 {
            match self
                .word
                .compare_exchange(word, word & !bits, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(newer) => word = newer,
            }
        }
    }
}

/// The id of a living record's owner.
pub(crate) fn id_of(index: u32, word: u64) -> Option<ParticipantId> {
    let word = RecordWord(word);
    word.is_alive()
        .then(|| ParticipantId::new(index, word.incarnation()))
}
