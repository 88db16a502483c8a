//! Done: items of an acknowledged queue are finished, and `join` waits for all of them.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | lease found | it is redelivered |
//! | leave in order, one lease after the other: **state = ORPHAN** | it is unfinished for good; the younger ones come back |
//! | the same while the payload is looked at: **state = LEFT** | the sweep makes it an orphan; the younger ones come back |
//! | **state = FREE** (or CLAIMED while the payload is looked at, or READY_DONE) | the item is finished |
//! | lists, counters, joiners marked | the rebuild computes them |

use crate::error::Error;
use crate::fault::fault;
use crate::layout::{PARTICIPANTS, Slot};
use crate::lock::Section;
use crate::platform;
use crate::queue::{Queue, Wait};
use crate::slot::{State, StateWord};
use crate::sync::{Count, Word};
use crate::upkeep::KEPT;
use crate::waiter::{Kind, Waiting};
use crate::{Leave, Ticket};

impl Queue {
    /// Finishes one item: the calling thread's oldest, else the process's oldest, else one that somebody else holds or
    /// left unfinished, else the oldest that nobody has taken yet (which is still delivered).
    pub fn task_done(&self) -> Result<(), Error> {
        let done = self.enter_surely().and_then(|mut section| section.finish_one());
        self.report(done)
    }

    /// The same, waiting for the lock as long as `wait` allows. If it ends in vain, the item is as it was.
    pub fn task_done_within(&self, mut wait: Wait<'_>) -> Result<(), Error> {
        let done = self.enter(&mut wait).and_then(|mut section| section.finish_one());
        self.report(done)
    }

    /// Waits until every item that was put is finished.
    pub fn join(&self, mut wait: Wait<'_>) -> Result<(), Error> {
        let mut waiting = Waiting::new(Kind::Finish);
        let joined = self.wait_until_finished(&mut waiting, &mut wait);
        self.report(joined.map_err(|error| {
            self.abandon(&mut waiting);
            Kind::Finish.conclude(error, wait.patience)
        }))
    }

    fn wait_until_finished(&self, waiting: &mut Waiting, wait: &mut Wait<'_>) -> Result<(), Error> {
        let mut section = self.enter(wait)?;
        // A joiner that was woken has seen its moment, even if new items have come since.
        while section.hot().unfinished.get() > 0 && !waiting.was_chosen() {
            section = self.wait_for(section, waiting, wait)?;
        }
        section.withdraw(waiting)
    }

    /// Whether the item put under that ticket is still queued, or in the hands of somebody who has not finished with it.
    pub fn is_pending(&self, ticket: Ticket) -> bool {
        let is_backed = ticket.slot < self.segment.hot().slots_backed.get();
        is_backed
            && self.segment.slot(ticket.slot).is_ok_and(|slot| {
                let state = slot.word().state();
                // One that was finished, or kept, may still be looked at.
                let is_at_work = slot.reading.get() < KEPT;
                slot.seq.get() == ticket.seq
                    && match state {
                        Some(State::Ready | State::ReadyDone) => true,
                        Some(State::Leased) => self.options.acknowledged || is_at_work,
                        Some(State::Claimed) => is_at_work,
                        _ => false,
                    }
            })
    }
}

impl Section<'_> {
    fn finish_one(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        if hot.unfinished.get() == 0 || !self.queue.options.acknowledged {
            return Err(Error::TooManyDone);
        }
        if let Some(index) = self.lease_to_finish()? {
            if self.slot(index)?.reading.get() != 0 {
                // Somebody still looks at the payload: the item is finished, the memory stays until it has.
                self.keep_memory(index)?;
            } else {
                self.finish_held(index)?;
            }
        } else if hot.orphans.head.get() != 0 {
            let index = hot.orphans.head.get();
            self.unlink(&hot.orphans, index)?;
            hot.orphan_count.sub(1);
            self.free_slot(index)?;
        } else {
            let Some(index) = self.oldest_unfinished_ready()? else {
                return Err(Error::TooManyDone);
            };
            let slot = self.slot(index)?;
            slot.commit(StateWord::new(State::ReadyDone, slot.word().redeliveries(), 0));
        }
        fault!("done.committed");
        hot.unfinished.sub(1);
        Ok(())
    }

    fn lease_to_finish(&self) -> Result<Option<u32>, Error> {
        let thread = platform::thread_id();
        let mine = self.my_index();
        let is_this_threads =
            |slot: &Slot| slot.word().state() == Some(State::Leased) && slot.holder.get() == thread;
        let is_this_processes = |slot: &Slot| slot.word().state() == Some(State::Leased);
        if let Some(index) = self.first_lease(mine, is_this_threads)? {
            return Ok(Some(index));
        }
        if let Some(index) = self.first_lease(mine, is_this_processes)? {
            return Ok(Some(index));
        }
        if self.hot().owned_count.get() == 0 {
            return Ok(None);
        }
        for other in 1..=self.hot().participants_high.get().min(PARTICIPANTS - 1) {
            // One whose holder has left is unfinished, too.
            if let Some(index) = self.first_lease(other, |_| true)? {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// The oldest of a participant's leases that suits.
    fn first_lease(&self, participant: u32, suits: impl Fn(&Slot) -> bool) -> Result<Option<u32>, Error> {
        let mut index = self.queue.segment.participant(participant)?.leased.head.get();
        let mut walk = self.walk();
        while index != 0 {
            let slot = self.slot(index)?;
            if suits(slot) {
                return Ok(Some(index));
            }
            index = slot.next.get();
            self.step(&mut walk)?;
        }
        Ok(None)
    }

    fn oldest_unfinished_ready(&self) -> Result<Option<u32>, Error> {
        let mut index = self.hot().ready.head.get();
        let mut walk = self.walk();
        while index != 0 && self.slot(index)?.word().state() != Some(State::Ready) {
            index = self.slot(index)?.next.get();
            self.step(&mut walk)?;
        }
        Ok((index != 0).then_some(index))
    }

    /// Gives up what this participant has taken and not acknowledged. What it still looks at stays its own until it has.
    pub(crate) fn give_up_leases(&mut self, how: Leave) -> Result<(), Error> {
        let mut index = self.queue.segment.participant(self.my_index())?.leased.head.get();
        let mut walk = self.walk();
        while index != 0 {
            let slot = self.slot(index)?;
            let next = slot.next.get();
            let word = slot.word();
            if word.state() == Some(State::Leased) {
                match how {
                    Leave::Clean if slot.reading.get() == 0 => self.orphan(index)?,
                    Leave::Crashed if slot.reading.get() == 0 => self.redeliver(index)?,
                    Leave::Clean if self.queue.options.acknowledged => {
                        slot.commit(StateWord::new(State::Left, word.redeliveries(), word.owner()));
                    }
                    // It comes back when this process has ended.
                    Leave::Clean | Leave::Crashed => {}
                }
                fault!("leave.orphaned");
            }
            index = next;
            self.step(&mut walk)?;
        }
        fault!("leave.released");
        Ok(())
    }

    /// LEASED (or LEFT) -> ORPHAN: unfinished for good, unless somebody calls `task_done` for it. Nobody needs the payload.
    pub(crate) fn orphan(&mut self, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        self.let_go(index, slot.word().owner())?;
        slot.commit(StateWord::new(State::Orphan, 0, 0));
        self.drop_payload(index)?;
        self.hot().orphan_count.add(1);
        self.push_back(&self.hot().orphans, index)
    }

    /// LEASED -> READY in its old place, or DEAD if that happened too often.
    pub(crate) fn redeliver(&mut self, index: u32) -> Result<(), Error> {
        let hot = self.hot();
        let slot = self.slot(index)?;
        let word = slot.word();
        self.let_go(index, word.owner())?;
        if word.redeliveries() >= self.queue.options.max_deliveries {
            slot.commit(StateWord::new(State::Dead, word.redeliveries(), 0));
            self.push_back(&hot.dead, index)?;
            hot.dead_count.add(1);
            // A dead letter counts as finished: join() must not wait for it.
            if self.queue.options.acknowledged {
                hot.unfinished.sub(1);
            }
        } else {
            slot.commit(StateWord::new(State::Ready, word.redeliveries() + 1, 0));
            self.insert_ready(index)?;
            self.count_ready(slot.len.get());
            hot.redeliveries.add(1);
        }
        fault!("sweep.slot-returned");
        Ok(())
    }
}
