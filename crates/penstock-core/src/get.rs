//! Get: an item becomes bytes.
//!
//! A small payload is copied in the critical section. A large one is lent: it stays where it is, LEASED, and the caller
//! looks at it there. The item of an acknowledged queue stays LEASED until `task_done` (done.rs) in either case.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | small, plain: payload copied | the item is READY still: nothing happened |
//! | small, plain: **state = FREE** | the item was in the hands of a caller that died |
//! | **state = LEASED** | the sweep puts it back to READY in its old place, one redelivery more |
//! | lent payload looked at | the same |
//! | plain: kept, **state = CLAIMED** | the item was in the hands of a caller that died; the sweep frees its memory |
//! | plain: look ended, state = FREE | the item was in the hands of a caller that died |
//! | undelivered: **state = READY** (or DEAD) | the item is in its old place |
//! | lists, counters | the rebuild computes them |
#![allow(unsafe_code)]

#[cfg(not(loom))]
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::delivery::{Batch, Buffer, Room};
use crate::error::Error;
use crate::fault::fault;
use crate::holding::{self, Lease};
use crate::layout::Slot;
use crate::lock::Section;
use crate::platform;
use crate::queue::{Patience, Queue, Wait};
use crate::slot::State;
use crate::sync::{Count, Word, note_read};
use crate::upkeep::{ENDED, KEPT, UNDELIVERED, is_stuck};
use crate::waiter::{Kind, Waiting};
use crate::{BATCH, SMALL};

/// How many items a caller asks for at most.
#[derive(Clone, Copy)]
pub(crate) enum Asks {
    /// What the thread took before is set aside, if nothing is acknowledged yet (aside.rs).
    Anew(usize),
    /// As part of what it asked for before.
    ForMore(usize),
}

/// What a get delivers.
pub enum Delivery {
    /// The payload was copied to the caller's room.
    Copied,
    /// The payload is in shared memory, to be looked at there.
    Lent(Lent),
}

/// A payload in shared memory. Dropping it ends the look: the item of a plain queue is gone then, that of an
/// acknowledged queue stays leased until `task_done`.
pub struct Lent {
    queue: Arc<Queue>,
    slot: u32,
    /// The lease's own number: a slot used again has another.
    lease: u64,
    /// The participant that took it; a child after a fork is another one.
    me: u32,
    bytes: *const u8,
    len: usize,
    is_undelivered: AtomicBool,
}

// SAFETY: the bytes are in a mapping that `queue` keeps, and nobody writes them while the slot is leased to this process
// and marked as read; which thread looks does not matter.
unsafe impl Send for Lent {}
// SAFETY: as above; a look through a shared reference only reads.
unsafe impl Sync for Lent {}

impl Lent {
    pub fn bytes(&self) -> &[u8] {
        note_read(self.bytes, self.len);
        // SAFETY: Segment::payload has checked place and length; the slot is LEASED, LEFT or CLAIMED by this process and marked
        // as read until drop, so the extent is neither written nor given to another item (slot.rs, done.rs).
        unsafe { std::slice::from_raw_parts(self.bytes, self.len) }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Says that the caller has the item now, however long it still looks at the payload: an item of a plain queue does
    /// not come back any more if this process dies, and is pending no more. One of an acknowledged queue does and is, until
    /// `task_done`.
    pub fn keep(&self) -> Result<(), Error> {
        if self.queue.member_now() != Some(self.me) {
            return Ok(());
        }
        let kept = self.queue.keep_held(self.slot, self.lease, self.me);
        self.queue.report(kept)
    }

    /// Says that the caller has no memory for the item: when the look ends, the item returns to its old place in the queue, or
    /// becomes a dead letter if it came back too often. No more, if it was [kept](Self::keep).
    pub fn undeliver(&self) {
        if !self.is_undelivered.swap(true, Ordering::Relaxed) {
            holding::count_finished();
        }
    }

    /// The memory file, and where in it the payload begins. `None` in a forked child, which has no part in the lease, and
    /// if the file was closed behind this process's back.
    #[cfg(not(loom))]
    pub(crate) fn place(&self) -> Option<(BorrowedFd<'_>, u64)> {
        if self.queue.member_now() != Some(self.me) {
            return None;
        }
        let fd = self.queue.segment.fd()?;
        Some((fd, self.queue.segment.offset_of(self.bytes)))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        fault!("lent.reading");
        // A forked child has a copy of this value but not the lease.
        if self.queue.member_now() == Some(self.me) {
            let mark = if *self.is_undelivered.get_mut() {
                UNDELIVERED
            } else {
                ENDED
            };
            let ended = self.queue.end_look(self.slot, self.lease, self.me, mark);
            // Nobody can be told here; damage is noted in the segment, and the next operation reports it.
            let _ = self.queue.report(ended);
        }
    }
}

impl Queue {
    /// Takes the oldest item. Waits for one as long as `wait` allows.
    pub fn get(self: &Arc<Self>, buffer: &mut Buffer, wait: Wait<'_>) -> Result<Delivery, Error> {
        self.take(wait, Asks::Anew(1), |section, head| {
            section.deliver(self, head, buffer)
        })
    }

    /// Takes the oldest items, as many as are there and `batch` has room for, in one critical section. Waits for the first
    /// as long as `wait` allows.
    pub fn get_many(self: &Arc<Self>, batch: &mut Batch, wait: Wait<'_>) -> Result<(), Error> {
        self.take_batch(batch, wait, Asks::Anew(BATCH))
    }

    /// The same as part of the caller's last [`get_many`](Self::get_many): what that has taken is in hand still (aside.rs).
    pub fn get_more(self: &Arc<Self>, batch: &mut Batch, wait: Wait<'_>) -> Result<(), Error> {
        self.take_batch(batch, wait, Asks::ForMore(BATCH))
    }

    fn take_batch(self: &Arc<Self>, batch: &mut Batch, wait: Wait<'_>, asks: Asks) -> Result<(), Error> {
        self.take(wait, asks, |section, mut head| {
            while head != 0 && batch.has_room() {
                if let Delivery::Lent(lent) = section.deliver(self, head, batch)? {
                    batch.push_lent(lent);
                }
                head = section.oldest()?;
            }
            Ok(())
        })
    }

    /// Waits for an item, and has those delivered that the caller asks for.
    #[inline(always)]
    fn take<T>(
        &self,
        mut wait: Wait<'_>,
        asks: Asks,
        deliver: impl FnOnce(&mut Section<'_>, u32) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut waiting = Waiting::new(Kind::Item);
        let result = self.take_in_section(&mut waiting, &mut wait, asks, deliver);
        self.report(result.map_err(|error| {
            let was_empty = error == Error::Empty;
            let error = self.end_in_vain(error, &mut waiting, wait.patience);
            if was_empty && self.bell.is_watched() {
                self.found_nothing();
            }
            error
        }))
    }

    #[inline(always)]
    fn take_in_section<T>(
        &self,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
        asks: Asks,
        deliver: impl FnOnce(&mut Section<'_>, u32) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.sets_aside() {
            self.set_aside(asks, wait)?;
        }
        // What is in dead hands comes back even if nobody ever waits, because there is always another item.
        // (And a dead watcher of the bell costs everybody system calls.)
        let hot = self.segment.hot();
        if (hot.owned_count.get() > 0 || hot.watching.get() > 0) && self.is_time_to_look() {
            if wait.patience == Patience::Try {
                return Err(Error::Busy);
            }
            self.look_for_dead_at_times(wait)?;
        }
        let mut section = self.approach(waiting, wait)?;
        loop {
            let head = section.oldest()?;
            if head != 0 {
                let delivered = deliver(&mut section, head)?;
                section.withdraw(waiting)?;
                drop(section);
                if wait.patience != Patience::Try && self.is_untidy() {
                    self.tidy()?;
                }
                return Ok(delivered);
            }
            // Nobody shall wait, or be woken again and again, for an item that no get can find.
            if section.hot().ready_count.get() != 0 {
                return Err(section.corrupt("items are counted that are on no list"));
            }
            section = self.wait_for(section, waiting, wait)?;
        }
    }

    /// Plain: LEASED -> CLAIMED, because the item was delivered for good, and only its memory is held.
    fn keep_held(&self, index: u32, lease: u64, me: u32) -> Result<(), Error> {
        let mut section = match self.enter_briefly() {
            Ok(section) => section,
            Err(error) if is_stuck(&error) => return self.put_off_for_slot(index, KEPT, me),
            Err(error) => return Err(error),
        };
        let Some(slot) = section.lent_to_me(index, lease)? else {
            return Ok(());
        };
        slot.reading.set(KEPT);
        if slot.word().state() == Some(State::Leased) && !self.options.acknowledged {
            section.keep_memory(index)?;
            fault!("lent.kept");
        }
        Ok(())
    }

    /// Ends the look at a lent payload, whose item is ENDED or UNDELIVERED by that.
    fn end_look(&self, index: u32, lease: u64, me: u32, mark: u32) -> Result<(), Error> {
        let mut section = match self.enter_briefly() {
            Ok(section) => section,
            Err(error) if is_stuck(&error) => return self.put_off_for_slot(index, mark, me),
            Err(error) => return Err(error),
        };
        if section.lent_to_me(index, lease)?.is_none() {
            return Ok(());
        }
        if mark == UNDELIVERED {
            section.undeliver(index)?;
        } else {
            section.finish_look(index)?;
        }
        drop(section);
        self.tidy()?;
        Ok(())
    }
}

impl<'q> Section<'q> {
    /// A slot that this participant was lent. Leases have numbers that never repeat, so another one says that this process
    /// was wrongly taken for dead (see participant.rs) and the item given to somebody else.
    fn lent_to_me(&self, index: u32, lease: u64) -> Result<Option<&'q Slot>, Error> {
        let slot = self.slot(index)?;
        let is_mine = slot.lease.get() == lease && slot.word().owner() == self.me;
        Ok(is_mine.then_some(slot))
    }

    /// What the end of a look means for a slot in this participant's hands.
    pub(crate) fn finish_look(&mut self, index: u32) -> Result<(), Error> {
        match self.slot(index)?.word().state() {
            // Finished while it was looked at, or plain: the payload is needed no more.
            Some(State::Claimed) => self.finish_held(index),
            Some(State::Leased) if !self.queue.options.acknowledged => self.finish_held(index),
            Some(State::Leased | State::Aside) => self.end_of_look(index),
            Some(State::Left) => self.orphan(index),
            _ => Err(self.corrupt("a lent item was taken away")),
        }
    }

    /// The same for an item that its reader could not use.
    pub(crate) fn undeliver(&mut self, index: u32) -> Result<(), Error> {
        let word = self.slot(index)?.word();
        if !matches!(word.state(), Some(State::Leased | State::Aside)) {
            return self.finish_look(index);
        }
        self.let_go(index, word.owner())?;
        self.return_to_queue(index)
    }

    #[inline(always)]
    fn deliver(&mut self, queue: &Arc<Queue>, index: u32, room: &mut impl Room) -> Result<Delivery, Error> {
        let slot = self.slot(index)?;
        let word = slot.word();
        let is_finished = match word.state() {
            Some(State::Ready) => false,
            Some(State::ReadyDone) => true,
            _ => return Err(self.corrupt("an item on the ready list is not ready")),
        };
        let (source, len) = queue.segment.payload(slot)?;
        let stays_leased = queue.options.acknowledged && !is_finished;
        let is_small = len <= SMALL;
        if is_small {
            note_read(source, len);
            // SAFETY: `payload` has checked `len` bytes at `source`; the item is READY and this thread holds the lock,
            // so nobody writes them; `len` was compared with SMALL.
            unsafe { room.fill(source, len) };
            fault!("get.copied");
        }
        self.uncount_ready(index, len as u64)?;
        if is_small && !stays_leased {
            fault!("get.unlinked");
            if is_finished {
                self.hot().ready_done.sub(1);
            }
            self.free_slot(index)?;
            fault!("get.freed");
            return Ok(Delivery::Copied);
        }
        slot.holder.set(platform::thread_id());
        slot.reading.set(0);
        if !is_small {
            self.begin_of_look(index)?;
        }
        if is_finished {
            // It must not come back: only its memory is held.
            self.own(index, State::Claimed, word.redeliveries())?;
            fault!("get.leased");
            self.hold(index)?;
            self.hot().ready_done.sub(1);
        } else {
            self.own(index, State::Leased, word.redeliveries())?;
            fault!("get.leased");
            self.hold_lease(index, slot)?;
            holding::count_taken();
            if queue.sets_aside() {
                let number = slot.lease.get();
                holding::note(queue.segment.id, Lease { slot: index, number });
            }
        }
        if is_small {
            return Ok(Delivery::Copied);
        }
        let lent = Lent {
            queue: queue.clone(),
            slot: index,
            lease: slot.lease.get(),
            me: self.me,
            bytes: source,
            len,
            is_undelivered: AtomicBool::new(false),
        };
        Ok(Delivery::Lent(lent))
    }

    /// Frees what this participant holds.
    pub(crate) fn finish_held(&mut self, index: u32) -> Result<(), Error> {
        let owner = self.slot(index)?.word().owner();
        self.let_go(index, owner)?;
        self.free_slot(index)
    }
}
