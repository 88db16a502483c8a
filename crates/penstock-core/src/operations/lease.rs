//! Lease: a payload that its holder reads in shared memory (get.rs has the crash table).
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::fault::fault;
use crate::handle::put_off::is_stuck;
use crate::handle::queue::Queue;
#[cfg(not(loom))]
use crate::memory::descriptor::InUse;
use crate::memory::layout::ParticipantId;
use crate::state::deliver::Borrowed;
use crate::state::holding::{self, Lease};
use crate::state::slot::{ENDED, KEPT, UNDELIVERED};
use crate::sync::note_read;

/// A payload in shared memory. Dropping it ends the borrow: the item of a plain queue is gone then, that of
/// an acknowledged queue stays leased until `task_done`.
pub struct Lent {
    queue: Arc<Queue>,
    /// Its number tells the slot from the same slot used again.
    pub(crate) lease: Lease,
    /// The participant that took it; a child after a fork is another one.
    me: ParticipantId,
    bytes: *const u8,
    len: usize,
    is_undelivered: AtomicBool,
}

// SAFETY: the bytes are in a mapping that `queue` keeps, and no process writes them while the slot is held by
// this process and marked as borrowed; which thread reads them does not matter.
unsafe impl Send for Lent {}
// SAFETY: as above; the methods that take a shared reference only read the bytes.
unsafe impl Sync for Lent {}

impl Lent {
    pub(crate) fn new(queue: &Arc<Queue>, me: ParticipantId, borrowed: Borrowed) -> Lent {
        Lent {
            queue: queue.clone(),
            lease: borrowed.lease,
            me,
            bytes: borrowed.bytes,
            len: borrowed.len,
            is_undelivered: AtomicBool::new(false),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        note_read(self.bytes, self.len);
        // SAFETY: Segment::payload has checked place and length; the slot is LEASED, LEFT or CLAIMED by this
        // process and marked as borrowed until drop, so the extent is neither written nor given to another
        // item (state/transition.rs, state/leases.rs).
        unsafe { std::slice::from_raw_parts(self.bytes, self.len) }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes the item the caller's, however long it still borrows the payload. From then on an item of a
    /// plain queue does not return if this process dies, and is not pending. An item of an acknowledged queue
    /// still does and is, until `task_done`.
    pub fn keep(&self) -> Result<(), Error> {
        if self.queue.member_now() != Some(self.me) {
            return Ok(());
        }
        let kept = self.queue.keep_held(self.lease, self.me);
        self.queue.shared.report(kept)
    }

    /// Says that the caller has no memory for the item. When the borrow ends, the item returns to its old
    /// place in the queue, or becomes a dead letter if it was returned too often. Has no effect on an item
    /// that was [kept](Self::keep).
    pub fn undeliver(&self) {
        if !self.is_undelivered.swap(true, Ordering::Relaxed) {
            holding::count_finished();
        }
    }

    /// The memory file, and the offset of the payload in it. `None` in a forked child, which does not hold
    /// the lease, and if other code of this process has closed the file.
    #[cfg(not(loom))]
    pub(crate) fn place(&self) -> Option<(InUse<'_>, u64)> {
        if self.queue.member_now() != Some(self.me) {
            return None;
        }
        let segment = &self.queue.shared.segment;
        Some((segment.fd()?, segment.in_file(segment.offset_of(self.bytes)?)))
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
            let ended = self.queue.end_borrow(self.lease, self.me, mark);
            // A destructor cannot return an error. Damage is noted in the segment, and the next operation
            // reports it.
            let _ = self.queue.shared.report(ended);
        }
    }
}

impl Queue {
    /// Plain: LEASED -> CLAIMED: the item is the caller's for good, and only its memory is still held.
    fn keep_held(&self, lease: Lease, me: ParticipantId) -> Result<(), Error> {
        let mut section = match self.enter_briefly() {
            Ok(section) => section,
            Err(error) if is_stuck(&error) => return self.put_off_for_slot(lease, KEPT, me),
            Err(error) => return Err(error),
        };
        section.keep_lent(lease, me)
    }

    /// Ends the borrow of a lent payload. `mark` is ENDED or UNDELIVERED.
    fn end_borrow(&self, lease: Lease, me: ParticipantId, mark: u32) -> Result<(), Error> {
        let mut section = match self.enter_briefly() {
            Ok(section) => section,
            Err(error) if is_stuck(&error) => return self.put_off_for_slot(lease, mark, me),
            Err(error) => return Err(error),
        };
        if section.lent_to_me(lease, me)?.is_none() {
            return Ok(());
        }
        let index = lease.slot;
        if mark == UNDELIVERED {
            section.undeliver(index)?;
        } else {
            section.finish_borrow(index)?;
        }
        self.note_spare(&section);
        drop(section);
        if self.is_trim_due() {
            self.trim_if_due()?;
        }
        Ok(())
    }
}
