//! Held: one item that this participant has in hand, by its lease, and how its holder settles it.
//!
//! operations/held.rs has the crash table.

use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::ParticipantId;
use crate::platform;
use crate::state::Section;
use crate::state::discard::Discarded;
use crate::state::holding::{self, Lease};
use crate::state::slot::{State, StateWord};
use crate::sync::{Count, Word};
use crate::units::Id;

/// An item that was taken from an acknowledged queue, and the lease by which its holder settles it.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The numbers of another queue may be the same.
    pub(crate) queue: Id,
    /// Its number tells this delivery from every other one.
    pub(crate) lease: Lease,
    /// The participant that took it; a child after a fork is another one.
    pub(crate) me: ParticipantId,
    said: Said,
    /// `task_done` was called for it before it was taken: it never was in hand.
    was_finished: bool,
}

/// What a slot says of its item before it is delivered: a finished item's slot is free afterwards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    seq: u64,
    redeliveries: u8,
    waited: Option<Duration>,
}

impl Held {
    /// The item's place in the order of publication, which it has at each delivery.
    pub fn id(&self) -> u64 {
        self.said.seq
    }

    /// How often the item was delivered, this time included. What its holders gave back without a failure
    /// does not count.
    pub fn deliveries(&self) -> u32 {
        u32::from(self.said.redeliveries) + 1
    }

    /// How long the item was in the queue or in other hands, from its put to this delivery, in steps of 16
    /// ms; more than 99 days are 99 days too few. `None` if it was put before the queue's first get by name.
    pub fn waited(&self) -> Option<Duration> {
        self.said.waited
    }

    /// Whether the item is finished already, so that there is nothing to settle.
    pub fn was_finished(&self) -> bool {
        self.was_finished
    }
}

/// What a holder says of its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is finished.
    Done,
    /// It goes back to the queue as if it had not been taken.
    Released,
    /// It goes back to the queue, and counts as redelivered, as after the holder's death.
    Failed,
    /// It becomes a dead letter at once.
    Rejected,
}

impl Verdict {
    /// Whether a dead letter tells of it.
    pub(crate) fn is_failure(self) -> bool {
        matches!(self, Verdict::Failed | Verdict::Rejected)
    }
}

impl Section<'_> {
    pub(crate) fn said(&self, index: u32) -> Result<Said, Error> {
        let slot = self.slot(index)?;
        Ok(Said {
            seq: slot.seq.get(),
            redeliveries: slot.word().redeliveries(),
            waited: slot.time_since_put(),
        })
    }

    /// The item in that slot, which was delivered in this section.
    pub(crate) fn held(&self, index: u32, said: Said) -> Result<Held, Error> {
        let slot = self.slot(index)?;
        let word = slot.word();
        Ok(Held {
            queue: self.shared.segment.id,
            lease: Lease {
                slot: index,
                number: slot.lease.get(),
            },
            me: self.me,
            said,
            was_finished: word.state() != Some(State::Leased),
        })
    }

    /// Whether this participant has that item in hand still.
    pub(crate) fn has_held(&self, held: &Held) -> Result<bool, Error> {
        Ok(held.queue == self.shared.segment.id
            && held.me == self.me
            && !held.was_finished
            && self.is_mine(&held.lease)
            && self.slot(held.lease.slot)?.word().is_finishable())
    }

    /// Settles an item that this participant has in hand. False if it has not any more: it is finished, or
    /// was settled.
    /// `due` is when it is ready again, if it goes back and not at once. `note` is a slot that this
    /// participant has claimed, with the text of a failure. It is the caller's still if the item is not
    /// settled. Without it a failure tells nothing.
    pub(crate) fn settle_held(
        &mut self,
        held: &Held,
        verdict: Verdict,
        due: Option<u64>,
        note: Option<u32>,
    ) -> Result<bool, Error> {
        if !self.has_held(held)? {
            return Ok(false);
        }
        let index = held.lease.slot;
        let slot = self.slot(index)?;
        if slot.mark() != 0 && verdict != Verdict::Done {
            return Err(Error::StillBorrowed);
        }
        match note {
            Some(note) => self.attach_note(note, index)?,
            None if verdict.is_failure() => self.note_silence(index)?,
            None => {}
        }
        let is_own = slot.is_leased_by(platform::thread_id());
        match verdict {
            Verdict::Done => self.finish_lease(index)?,
            verdict => {
                self.let_go_of_lease(index, slot)?;
                fault!("held.unlinked");
                match verdict {
                    Verdict::Released => self.release(index, due)?,
                    Verdict::Rejected => self.bury(index)?,
                    _ => self.return_or_delay(index, due)?,
                }
            }
        }
        fault!("held.settled");
        if is_own {
            holding::count_finished();
        }
        Ok(true)
    }

    /// To READY in its old place, or to DELAYED, and that is no redelivery; or it is discarded, if the queue
    /// is closed. The slot is on no list.
    fn release(&mut self, index: u32, due: Option<u64>) -> Result<(), Error> {
        if self.hot().is_closed() {
            return self.discard_one(index, Discarded::Unfinished);
        }
        let slot = self.slot(index)?;
        if let Some(due) = due {
            return self.delay((index, slot), due, slot.word().past());
        }
        slot.commit(StateWord::unowned_with(State::Ready, slot.word().past()));
        fault!("held.released");
        self.put_back(index, slot.len.get())
    }

    /// To DEAD. The slot is on no list. Its place among the dead letters is a number like that of a lease,
    /// which also tells this burial from others of the same item.
    pub(crate) fn bury(&mut self, index: u32) -> Result<(), Error> {
        let (hot, slot) = (self.hot(), self.slot(index)?);
        let word = StateWord::unowned_with(State::Dead, slot.word().past());
        self.give_as(slot, word);
        fault!("held.buried");
        self.push_back(&hot.dead, index)?;
        hot.dead_count.add(1);
        // A dead letter counts as finished: join() must not wait for it.
        if self.shared.options.acknowledged {
            hot.unfinished.sub(1);
        }
        Ok(())
    }
}
