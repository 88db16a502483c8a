//! Lease: a payload that its holder reads in shared memory (get.rs has the crash table).
#![allow(unsafe_code)]

#[cfg(not(loom))]
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::fault::fault;
use crate::handle::put_off::is_stuck;
use crate::handle::queue::Queue;
use crate::state::deliver::Borrowed;
use crate::state::holding;
use crate::state::slot::{ENDED, KEPT, UNDELIVERED};
use crate::sync::note_read;

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

// SAFETY: the bytes are in a mapping that `queue` keeps, and no process writes them while the slot is leased
// to this process and marked as borrowed, whichever thread reads.
unsafe impl Send for Lent {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for Lent {}

impl Lent {
    pub(crate) fn new(queue: &Arc<Queue>, me: u32, borrowed: Borrowed) -> Lent {
        Lent {
            queue: queue.clone(),
            slot: borrowed.lease.slot,
            lease: borrowed.lease.number,
            me,
            bytes: borrowed.bytes,
            len: borrowed.len,
            is_undelivered: AtomicBool::new(false),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        note_read(self.bytes, self.len);
        // SAFETY: Segment::payload has checked place and length; the slot is LEASED, LEFT or CLAIMED by this
        // process and marked as read until drop, so the extent is neither written nor given to another item
        // (state/transition.rs, state/leases.rs).
        unsafe { std::slice::from_raw_parts(self.bytes, self.len) }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Says that the caller has the item now, however long it still looks at the payload: an item of a plain
    /// queue does not come back any more if this process dies, and is pending no more. One of an acknowledged
    /// queue does and is, until `task_done`.
    pub fn keep(&self) -> Result<(), Error> {
        if self.queue.member_now() != Some(self.me) {
            return Ok(());
        }
        let kept = self.queue.keep_held(self.slot, self.lease, self.me);
        self.queue.shared.report(kept)
    }

    /// Says that the caller has no memory for the item: when the look ends, the item returns to its old place
    /// in the queue, or becomes a dead letter if it came back too often. No more, if it was
    /// [kept](Self::keep).
    pub fn undeliver(&self) {
        if !self.is_undelivered.swap(true, Ordering::Relaxed) {
            holding::count_finished();
        }
    }

    /// The memory file, and where in it the payload begins. `None` in a forked child, which has no part in
    /// the lease, and if the file was closed behind this process's back.
    #[cfg(not(loom))]
    pub(crate) fn place(&self) -> Option<(BorrowedFd<'_>, u64)> {
        if self.queue.member_now() != Some(self.me) {
            return None;
        }
        let fd = self.queue.shared.segment.fd()?;
        Some((fd, self.queue.shared.segment.offset_of(self.bytes)))
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
            // No caller can be told here; damage is noted in the segment, and the next operation reports it.
            let _ = self.queue.shared.report(ended);
        }
    }
}

impl Queue {
    /// Plain: LEASED -> CLAIMED, because the item was delivered for good, and only its memory is held.
    fn keep_held(&self, index: u32, lease: u64, me: u32) -> Result<(), Error> {
        let mut section = match self.enter_briefly() {
            Ok(section) => section,
            Err(error) if is_stuck(&error) => return self.put_off_for_slot(index, KEPT, me),
            Err(error) => return Err(error),
        };
        section.keep_lent(index, lease)
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
