//! Dead letters: reading them, putting them back into the queue, and freeing them.
//!
//! operations/letters.rs has the crash table.

use std::collections::TryReserveError;

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::Slot;
use crate::state::Section;
use crate::state::recovery::{PORTION, Portion};
use crate::state::slot::{State, StateWord};
use crate::sync::{Count, Word};
use crate::units::LetterTicket;

/// What becomes of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes back to the queue, and its deliveries count anew.
    Requeued,
    /// It is gone.
    Purged,
}

/// The part of the list of dead letters that was read.
#[derive(Default)]
pub(crate) struct Letters {
    pub tickets: Vec<LetterTicket>,
    /// The place of the last letter when the reading began: what is added later is not read.
    end: Option<u64>,
}

impl Letters {
    /// Takes memory for another portion.
    pub(crate) fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.tickets.try_reserve(PORTION as usize)
    }
}

impl<'q> Section<'q> {
    /// The dead letter of that ticket, if it still is one. An item that was requeued and buried again is a
    /// letter of another number: a decision about the old one is none about it.
    pub(crate) fn letter(&self, ticket: LetterTicket) -> Option<&'q Slot> {
        self.used_slot(ticket.slot).filter(|slot| {
            ticket.slot != 0
                && slot.word().state() == Some(State::Dead)
                && slot.seq.get() == ticket.seq
                && slot.lease.get() == ticket.burial
        })
    }

    /// Reads a portion of the list, for which memory was taken. Goes on behind the last letter that was read
    /// and is there still. Those behind that one are letters no more, or are so anew, at the list's end.
    pub(crate) fn read_letters(&self, letters: &mut Letters) -> Result<Portion, Error> {
        let hot = self.hot();
        let end = match (letters.end, hot.dead.tail.get()) {
            (Some(end), _) => end,
            (None, 0) => return Ok(Portion::Last),
            (None, tail) => self.slot(tail)?.lease.get(),
        };
        letters.end = Some(end);
        let (mut prev, mut before) = (0, 0);
        let mut left = PORTION;
        // Burials ascend along the list, and none repeats.
        while let Some(&last) = letters.tickets.last() {
            if self.letter(last).is_some() {
                (prev, before) = (last.slot, last.burial);
                break;
            }
            if left == 0 {
                return Ok(Portion::MoreToCome);
            }
            left -= 1;
            letters.tickets.pop();
        }
        for _ in 0..left {
            let index = match prev {
                0 => hot.dead.head.get(),
                prev => self.slot(prev)?.next.get(),
            };
            if index == 0 {
                return Ok(Portion::Last);
            }
            let slot = self.slot(index)?;
            let burial = slot.lease.get();
            // A list whose links agree in both directions has each slot once, so this ends.
            if slot.word().state() != Some(State::Dead) || slot.prev.get() != prev || burial < before {
                return Err(self.corrupt("the list of dead letters is torn"));
            }
            if burial > end {
                return Ok(Portion::Last);
            }
            letters.tickets.push(LetterTicket {
                slot: index,
                seq: slot.seq.get(),
                burial,
            });
            (prev, before) = (index, burial);
        }
        Ok(Portion::MoreToCome)
    }

    /// Decides on a portion of dead letters, from the place `next` on, which it moves. Those that are none
    /// any more are passed over. Adds to `count` how many there were.
    pub(crate) fn decide_on_letters(
        &mut self,
        tickets: &[LetterTicket],
        fate: Fate,
        (next, count): (&mut usize, &mut u64),
    ) -> Result<Portion, Error> {
        if fate == Fate::Requeued {
            self.check_put()?;
        }
        for _ in 0..PORTION {
            let Some(ticket) = tickets.get(*next) else {
                return Ok(Portion::Last);
            };
            *next += 1;
            if let Some(slot) = self.letter(*ticket) {
                match fate {
                    Fate::Requeued => self.requeue((ticket.slot, slot))?,
                    Fate::Purged => self.purge((ticket.slot, slot))?,
                }
                *count += 1;
            }
        }
        Ok(Portion::MoreToCome)
    }

    /// DEAD -> READY in its old place.
    fn requeue(&mut self, (index, slot): (u32, &Slot)) -> Result<(), Error> {
        let hot = self.hot();
        self.unlink(&hot.dead, index)?;
        hot.dead_count.sub(1);
        fault!("letter.unlinked");
        let note = slot.word().past().note();
        slot.commit(StateWord::unowned(State::Ready, 0));
        fault!("letter.requeued");
        self.put_back(index, slot.len.get())?;
        if self.shared.options.acknowledged {
            hot.unfinished.add(1);
        }
        if note != 0 {
            self.free_note(note, index)?;
        }
        Ok(())
    }

    /// DEAD -> FREE.
    fn purge(&mut self, (index, slot): (u32, &Slot)) -> Result<(), Error> {
        let hot = self.hot();
        self.unlink(&hot.dead, index)?;
        hot.dead_count.sub(1);
        fault!("letter.unlinked");
        let note = slot.word().past().note();
        self.free_slot((index, slot))?;
        if note != 0 {
            self.free_note(note, index)?;
        }
        Ok(())
    }
}
