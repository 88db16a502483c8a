//! Get: an item becomes bytes.
//!
//! A small payload is copied in the critical section. A large one is lent: it stays where it is, LEASED, and
//! the caller reads it in place. The item of an acknowledged queue stays LEASED until `task_done`
//! (acknowledge.rs) in either case.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | small, plain: payload copied | the item is READY still: nothing happened |
//! | small, plain: **state = FREE** | the item was delivered, and is gone with its getter |
//! | **state = LEASED** | the sweep puts it back to READY in its old place, one redelivery more |
//! | an aged getter: state = HANDED (hand.rs) | the sweep puts it back, and no redelivery counts |
//! | lent payload read | the same |
//! | plain: kept, **state = CLAIMED** | the item is gone with its getter; the sweep frees its memory |
//! | plain: borrow ended, state = FREE | the item is gone with its getter |
//! | undelivered: **state = READY** (or DEAD, or DISCARDED) | the item is in its old place, or is gone |
//! | lists, counters | the rebuild computes them |

use std::sync::Arc;

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::memory::layout::{Kind, ParticipantId};
use crate::operations::delivery::{Batch, Buffer};
use crate::operations::lease::Lent;
use crate::options::{Own, Patience, Wait};
use crate::platform;
use crate::state::Section;
use crate::state::deliver::Delivered;
use crate::state::holding::{self, is_task};
use crate::state::waiters::Waiting;
use crate::sync::Word;
use crate::units::BATCH;

/// How many items a caller asks for at most.
#[derive(Clone, Copy)]
pub(crate) enum Asks {
    /// Items that the thread took before are set aside, if nothing is acknowledged yet (state/aside.rs).
    Anew(usize),
    /// The items belong to those that the thread asked for before, which are not set aside.
    ForMore(usize),
}

/// What a get delivers.
pub enum Delivery {
    /// The payload was copied to the caller's memory.
    Copied,
    /// The payload is in shared memory, and the caller reads it there.
    Lent(Lent),
}

impl Queue {
    /// Takes the oldest item. Waits for one as long as `wait` allows.
    pub fn get(self: &Arc<Self>, buffer: &mut Buffer, wait: Wait<'_>) -> Result<Delivery, Error> {
        self.get_beside(Own::OfProcess, buffer, wait)
    }

    /// The same. Of a queue that was shut down it waits for no item that may come back if those have one in
    /// hand. A caller that finishes each item before it asks for the next (`Own::OfCaller`) acknowledges:
    /// what another task of its thread has in hand is not set aside.
    #[inline(always)]
    pub fn get_beside(
        self: &Arc<Self>,
        own: Own,
        buffer: &mut Buffer,
        mut wait: Wait<'_>,
    ) -> Result<Delivery, Error> {
        if own == Own::OfCaller && self.shared.options.acknowledged {
            self.begin_to_hold(&mut wait)?;
        }
        // Not in the result of `take`, which the compiler moves: the processor waits for a move of what was
        // just written byte by byte.
        let mut lent = None;
        self.take(wait, (Asks::Anew(1), own), |section, head| {
            if let Delivered::Borrowed(borrowed) = section.deliver(head, buffer)? {
                lent = Some(Lent::new(self, section.me, borrowed));
            }
            Ok(())
        })?;
        Ok(lent.map_or(Delivery::Copied, Delivery::Lent))
    }

    /// Takes the oldest items, as many as are ready and fit into `batch`, in one critical section. Waits for
    /// the first as long as `wait` allows.
    pub fn get_many(self: &Arc<Self>, batch: &mut Batch, wait: Wait<'_>) -> Result<(), Error> {
        self.take_batch(batch, wait, Asks::Anew(BATCH))
    }

    /// The same as part of the caller's last [`get_many`](Self::get_many), whose items are not set aside
    /// (state/aside.rs).
    pub fn get_more(self: &Arc<Self>, batch: &mut Batch, wait: Wait<'_>) -> Result<(), Error> {
        self.take_batch(batch, wait, Asks::ForMore(BATCH))
    }

    fn take_batch(self: &Arc<Self>, batch: &mut Batch, wait: Wait<'_>, asks: Asks) -> Result<(), Error> {
        self.take(wait, (asks, Own::OfProcess), |section, head| {
            self.deliver_batch(section, head, batch)
        })
    }

    /// An item, and those behind it, as far as they fit.
    #[inline(always)]
    pub(crate) fn deliver_batch(
        self: &Arc<Self>,
        section: &mut Section<'_>,
        mut head: u32,
        batch: &mut Batch,
    ) -> Result<(), Error> {
        // Then the first one was handed to this getter before, and the others are to be discarded.
        let is_closed = section.hot().is_closed();
        while head != 0 && batch.has_room() {
            let delivered = section.deliver(head, batch)?;
            if let Delivered::Borrowed(borrowed) = delivered {
                batch.push_lent(Lent::new(self, section.me, borrowed));
            }
            head = if is_closed { 0 } else { section.oldest()? };
        }
        Ok(())
    }

    #[inline(always)]
    pub(crate) fn delivery(self: &Arc<Self>, me: ParticipantId, delivered: Delivered) -> Delivery {
        match delivered {
            Delivered::Copied => Delivery::Copied,
            Delivered::Borrowed(borrowed) => Delivery::Lent(Lent::new(self, me, borrowed)),
        }
    }

    /// Waits for an item, and calls `deliver` under the lock with the oldest one, or with that which it was
    /// handed.
    #[inline(always)]
    pub(crate) fn take<T>(
        &self,
        mut wait: Wait<'_>,
        (asks, own): (Asks, Own),
        deliver: impl FnOnce(&mut Section<'_>, u32) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut waiting = Waiting::new(Kind::Item);
        let error = match self.take_in_section(&mut waiting, &mut wait, (asks, own), deliver) {
            Ok(taken) if wait.patience == Patience::TryLock || !self.is_trim_due() => return Ok(taken),
            Ok(taken) => match self.trim_if_due() {
                Ok(()) => return Ok(taken),
                Err(error) => error,
            },
            Err(error) => error,
        };
        Err(self.take_in_vain(error, &mut waiting, wait.patience))
    }

    /// Ends a get that has failed. Returns the error for its caller.
    #[cold]
    fn take_in_vain(&self, error: Error, waiting: &mut Waiting, patience: Patience) -> Error {
        let (was_empty, has_ended) = (error == Error::Empty, error == Error::ShutDown);
        let error = self.end_in_vain(error, waiting, patience);
        if was_empty {
            self.was_in_vain(Kind::Item);
        }
        // What was discarded, perhaps by this call's section, has left memory.
        if has_ended && patience != Patience::TryLock && self.is_trim_due() {
            let _ = self.trim_if_due();
        }
        if was_empty && self.shared.segment.hot().producers_begun.get() > 0 {
            return self.shared.noted(self.check_producers(error, patience));
        }
        self.shared.noted(error)
    }

    #[inline(always)]
    fn take_in_section<T>(
        &self,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
        (asks, own): (Asks, Own),
        deliver: impl FnOnce(&mut Section<'_>, u32) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.shared.options.acknowledged {
            holding::begin();
            if self.shared.segment.hot().sets_aside() {
                self.set_aside(asks, wait)?;
            }
        }
        // Getters that always find an item never wait, so what the dead hold must return here. (And a dead
        // watcher of the notifier costs every putter and getter system calls.)
        let hot = self.shared.segment.hot();
        if (hot.owned_count.get() > 0 || hot.watching.get() > 0) && self.is_reaping_due() {
            if wait.patience == Patience::TryLock {
                return Err(Error::Busy);
            }
            self.reap_dead_if_due(wait)?;
        }
        let mut section = self.enter_or_spin(waiting, wait)?;
        let mut item = section.oldest()?;
        if item == 0 {
            (section, item) = self.wait_for_item(section, waiting, (wait, own))?;
        }
        // The only call, so that the compiler makes one function of all.
        let delivered = deliver(&mut section, item)?;
        section.withdraw(waiting)?;
        self.note_spare(&section);
        Ok(delivered)
    }

    /// Waits for an item: the oldest one, or that which this getter was handed. Kept apart, because each move
    /// of a guard costs as much as all the rest.
    #[cold]
    fn wait_for_item<'q>(
        &'q self,
        mut section: Guard<'q>,
        waiting: &mut Waiting,
        (wait, own): (&mut Wait<'_>, Own),
    ) -> Result<(Guard<'q>, u32), Error> {
        // A task that blocks its thread keeps the thread's other tasks from finishing their items.
        let own = match is_task(platform::thread_id()) {
            true => Own::OfProcess,
            false => own,
        };
        loop {
            // No getter may wait, or be woken again and again, for an item that no get can find.
            if section.hot().ready_count.get() != 0 {
                return Err(section.corrupt("items are counted that are on no list"));
            }
            section.check_get(wait.patience, own)?;
            section = self.wait_for(section, waiting, wait)?;
            let item = match waiting.take_item() {
                0 if section.hot().is_closed() => return Err(Error::ShutDown),
                0 => section.oldest()?,
                // It was taken before a shutdown.
                handed => handed,
            };
            if item != 0 {
                return Ok((section, item));
            }
        }
    }
}
