//! Iterate: a loop takes the items of a queue, one after the other.
//!
//! Requirements. Of an acknowledged queue, the item is finished when the next one is asked for. So a loop
//! that waits has nothing in hand, and two loops never wait for each other. After a shutdown a loop waits
//! while others have items in hand, also those of its own process that took them in a loop or by name; it
//! ends if its own thread has one, of a loop around it or of a get. An item that the loop's body has
//! settled by `task_done` is not finished twice, also if the body has taken and finished others. What a loop
//! that is left has in hand stays in hand, as after a get.
//!
//! A loop that is under way when its process leaves in order goes on: daemon threads outlive the leave. It
//! can finish its item until the process has ended, and then the item comes back (state/slot.rs `BY_NAME`).
//!
//! Protocol. A loop keeps the name of its item ([`InHand`]): the lease, whose number never repeats. So it
//! finishes that item and no other, and none if a `task_done` has. `task_done` names no item; it finishes the
//! item of the calling thread's loop after all others that the thread has. Without that, the body's
//! `task_done` for an item that it took itself would finish the loop's, and the loop would finish none.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | the item before: **state = FREE** (acknowledge.rs) | it is finished; the loop has none |
//! | waiting | the loop has nothing in hand |
//! | the next one: **state = LEASED** (get.rs) | it comes back, one redelivery more |
//! | marked as settled by its loop | it comes back also if the process leaves in order before it dies |
//! | noted as that of a loop, in private memory | the same |
//! | the loop is left: no mark any more | it is in hand as after a get |

use std::sync::Arc;

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::handle::registry;
use crate::memory::layout::Kind;
use crate::operations::delivery::Buffer;
use crate::operations::get::{Asks, Delivery};
use crate::options::{Own, Wait};
use crate::state::holding::{self, Lease};
use crate::sync::Word;
use crate::units::Id;

/// The item that a loop over an acknowledged queue has in hand.
#[derive(Clone, Copy, Debug)]
pub struct InHand {
    queue: Id,
    lease: Lease,
}

impl InHand {
    /// The loop is over, and the item stays in hand as after a get.
    ///
    /// Waits 10 ms at most for the lock. If it stays taken, the mark stays: then the item comes back at the
    /// end of the process, also if that leaves in order.
    pub fn leave(self) {
        holding::forget_in_loop(self.queue, self.lease);
        // The list is not locked any more: the queue may end below, and its end opens the list again.
        let found = registry::open_queues_without_leaving(self.queue).find(self.queue);
        if let Some(queue) = found {
            queue.leave_loop(self);
        }
    }
}

impl Queue {
    /// Finishes the item that a loop has in hand, and takes the loop's next one. Waits for one as long as
    /// `wait` allows. `in_hand` is the loop's own; after an error it is `None`, or the loop has the item
    /// still.
    pub fn get_next(
        self: &Arc<Self>,
        in_hand: &mut Option<InHand>,
        buffer: &mut Buffer,
        mut wait: Wait<'_>,
    ) -> Result<Delivery, Error> {
        if !self.shared.options.acknowledged {
            return self.get_beside(Own::OfCaller, buffer, wait);
        }
        let finished = self
            .acknowledge_from_now_on(&mut wait)
            .and_then(|()| self.finish_for_loop(in_hand, &mut wait))
            .and_then(|()| holding::reserve_in_loop());
        self.shared
            .report(finished.map_err(|error| Kind::Item.map_timeout(error, wait.patience)))?;
        let mut taken = None;
        let delivered = self.take(wait, (Asks::Anew(1), Own::OfCaller), |section, head| {
            let delivered = section.deliver(head, buffer)?;
            section.mark_by_name(head)?;
            taken = Some(Lease {
                slot: head,
                number: section.slot(head)?.lease.get(),
            });
            Ok(self.delivery(section.me, delivered))
        });
        if let Some(lease) = taken {
            let queue = self.shared.segment.id;
            holding::note_in_loop(queue, lease);
            *in_hand = Some(InHand { queue, lease });
        }
        delivered
    }

    /// Finishes the item that a loop has in hand, if it is not finished: the loop has asked for its next one,
    /// which this process cannot take.
    pub fn finish_in_hand(&self, in_hand: &mut Option<InHand>, mut wait: Wait<'_>) -> Result<(), Error> {
        self.shared.report(self.finish_for_loop(in_hand, &mut wait))
    }

    /// Unmarks the item of a loop that is over.
    pub(crate) fn leave_loop(&self, in_hand: InHand) {
        // In a forked child it is the parent's.
        if self.member_now().is_some() {
            let unmarked = self
                .enter_briefly()
                .and_then(|mut section| section.unmark_by_name(in_hand.lease));
            // Damage is noted in the segment.
            let _ = self.shared.report(unmarked);
        }
    }

    fn finish_for_loop(&self, in_hand: &mut Option<InHand>, wait: &mut Wait<'_>) -> Result<(), Error> {
        let Some(InHand { queue, lease }) = *in_hand else {
            return Ok(());
        };
        // In a forked child it is the parent's.
        if queue == self.shared.segment.id && self.member_now().is_some() {
            self.enter(wait)?.finish_in_loop(lease)?;
        }
        holding::forget_in_loop(queue, lease);
        *in_hand = None;
        Ok(())
    }
}
