//! Dead letters: items whose holders died or failed too often, or which one has rejected. They count as
//! finished and stay in the queue, until they are requeued or purged.
//!
//! No process borrows the payload of a dead letter: it is copied under the lock, in parts, so that another
//! process can purge it at any moment. To read it is no delivery.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | requeue, letter by letter: off the list | the slot is DEAD: the rebuild lists it again |
//! | **state = READY**, with no redelivery | it is in its old place, and unfinished |
//! | purge, letter by letter: off the list | as above |
//! | **state = FREE** | it is gone |
//! | order, list, counters | the rebuild computes them |
//! | a portion done, lock released | the others are dead letters still |

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::operations::delivery::vec_with_room;
use crate::options::{Wait, uninterruptible};
use crate::platform;
use crate::state::letters::{Fate, Letters};
use crate::state::notes::{DEATHS, Death};
use crate::state::recovery::{PORTION, Portion};
use crate::sync::Word;
use crate::units::LetterTicket;

/// Bytes of a payload that one section copies.
const PART: usize = 64 << 10;

/// Bytes of a text that are read at most.
const TEXT: usize = 8 << 10;

/// An item that is not delivered any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Names it; its `seq` is the item's number, which it had at each delivery.
    pub ticket: LetterTicket,
    /// How often it was delivered.
    pub deliveries: u32,
    pub payload: Vec<u8>,
    /// The text of its last failure, and perhaps some zeros. Empty if that has told nothing, or was a death.
    pub text: Vec<u8>,
    /// The deaths of its holders that are known, the last one at the end.
    pub deaths: Vec<Death>,
    /// Whether the last failure was a death.
    pub died_last: bool,
}

impl Queue {
    /// The dead letters, in the order in which they became dead letters. They stay in the queue.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, Error> {
        uninterruptible(|wait| self.dead_letters_within(wait))
    }

    /// The same, waiting for the lock as long as `wait` allows.
    pub fn dead_letters_within(&self, mut wait: Wait<'_>) -> Result<Vec<DeadLetter>, Error> {
        let letters = self.read_dead_letters(&mut wait);
        self.shared.report(letters)
    }

    fn read_dead_letters(&self, wait: &mut Wait<'_>) -> Result<Vec<DeadLetter>, Error> {
        let mut letters = Vec::new();
        for ticket in self.letter_tickets(wait)? {
            if let Some(letter) = self.read_letter(ticket, wait)? {
                letters
                    .try_reserve(1)
                    .map_err(|_| platform::no_memory(size_of::<DeadLetter>() as u64))?;
                letters.push(letter);
            }
        }
        Ok(letters)
    }

    /// The tickets of all dead letters. Read in portions: the list may be long.
    fn letter_tickets(&self, wait: &mut Wait<'_>) -> Result<Vec<LetterTicket>, Error> {
        let mut read = Letters::default();
        loop {
            // Memory is taken before the lock, never under it.
            read.reserve()
                .map_err(|_| platform::no_memory(u64::from(PORTION) * size_of::<LetterTicket>() as u64))?;
            if self.enter(wait)?.read_letters(&mut read)? == Portion::Last {
                return Ok(read.tickets);
            }
        }
    }

    /// `None` if it is no dead letter any more.
    fn read_letter(&self, ticket: LetterTicket, wait: &mut Wait<'_>) -> Result<Option<DeadLetter>, Error> {
        let segment = &self.shared.segment;
        let mut payload = Vec::new();
        let mut text = vec_with_room(TEXT)?;
        let mut deaths = vec_with_room(DEATHS)?;
        let mut deliveries = None;
        loop {
            let section = self.enter(wait)?;
            let Some(slot) = section.letter(ticket) else {
                return Ok(None);
            };
            let (_, len) = segment.payload(slot)?;
            if len as u64 > section.hot().used_bytes.get().max(PART as u64) {
                return Err(section.corrupt("a dead letter has more memory than all items"));
            }
            // The lock is released while memory is taken.
            if deliveries.is_none() {
                deliveries = Some(u32::from(slot.word().redeliveries()) + 1);
                drop(section);
                payload
                    .try_reserve_exact(len)
                    .map_err(|_| platform::no_memory(len as u64))?;
                continue;
            }
            if payload.capacity() < len {
                return Err(section.corrupt("the length of a dead letter has changed"));
            }
            segment.copy_out(slot, PART, &mut payload)?;
            if payload.len() >= len {
                let mut died_last = false;
                if let Some(note) = section.note_of(ticket.slot)? {
                    if section.is_told(note)? {
                        segment.copy_out(section.slot(note)?, TEXT, &mut text)?;
                    }
                    died_last = section.deaths_in(note, &mut deaths)?;
                }
                return Ok(deliveries.map(|deliveries| DeadLetter {
                    ticket,
                    deliveries,
                    payload,
                    text,
                    deaths,
                    died_last,
                }));
            }
        }
    }

    /// Puts dead letters back into the queue, in their old places; all of them if `tickets` is `None`. Their
    /// deliveries count anew. Returns how many there were: the others are none any more, or were requeued
    /// since they were read and are other letters by now. `ShutDown` if no item is put any more.
    pub fn requeue(&self, tickets: Option<&[LetterTicket]>, wait: Wait<'_>) -> Result<u64, Error> {
        self.decide(tickets, Fate::Requeued, wait)
    }

    /// Frees dead letters; all of them if `tickets` is `None`. Returns how many there were.
    pub fn purge(&self, tickets: Option<&[LetterTicket]>, wait: Wait<'_>) -> Result<u64, Error> {
        self.decide(tickets, Fate::Purged, wait)
    }

    fn decide(&self, tickets: Option<&[LetterTicket]>, fate: Fate, mut wait: Wait<'_>) -> Result<u64, Error> {
        let decided = match tickets {
            Some(tickets) => self.decide_on(tickets, fate, &mut wait),
            None => self
                .letter_tickets(&mut wait)
                .and_then(|tickets| self.decide_on(&tickets, fate, &mut wait)),
        };
        let count = self.shared.report(decided)?;
        // Whatever becomes of the trim. Damage is noted in the segment.
        let _ = self.trim_if_due();
        Ok(count)
    }

    fn decide_on(&self, tickets: &[LetterTicket], fate: Fate, wait: &mut Wait<'_>) -> Result<u64, Error> {
        let (mut next, mut count) = (0, 0);
        self.in_portions(&mut || self.enter(wait), &mut |section| {
            section.decide_on_letters(tickets, fate, (&mut next, &mut count))
        })?;
        Ok(count)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::operations::delivery::Buffer;
    use crate::options::testing::{self, ACKNOWLEDGED};
    use crate::state::held::Verdict;

    fn now<T>(call: impl FnOnce(Wait<'_>) -> Result<T, Error>) -> T {
        testing::now(call).unwrap()
    }

    fn bury(queue: &Arc<Queue>) {
        let (_, held) = now(|wait| queue.hold(&mut Buffer::default(), wait));
        assert!(now(|wait| queue.settle(&held, Verdict::Rejected, wait)));
    }

    fn read(queue: &Queue, letters: &mut Letters) -> Portion {
        letters.reserve().unwrap();
        now(|mut wait| queue.enter(&mut wait)?.read_letters(letters))
    }

    fn lengths(letters: &Letters) -> (usize, usize) {
        let mut slots: Vec<u32> = letters.tickets.iter().map(|ticket| ticket.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        (letters.tickets.len(), slots.len())
    }

    /// However many letters others decide on meanwhile, also those read last, no letter is read twice, and
    /// none is missed that is one all the time.
    #[test]
    fn the_reading_of_letters_comes_to_its_end() {
        let portion = PORTION as usize;
        for gone in [1, 2, portion - 1, portion, 2 * portion] {
            let queue = Queue::create(&ACKNOWLEDGED).unwrap();
            for _ in 0..4 * portion {
                now(|wait| queue.put(&[b"item"], wait));
                bury(&queue);
            }
            let mut letters = Letters::default();
            for _ in 0..2 {
                assert_eq!(read(&queue, &mut letters), Portion::MoreToCome);
            }
            assert_eq!(lengths(&letters), (2 * portion, 2 * portion));
            let last = letters.tickets[2 * portion - gone..].to_vec();
            assert_eq!(now(|wait| queue.requeue(Some(&last), wait)), gone as u64);
            for _ in 0..gone {
                bury(&queue);
            }
            let mut sections = 0;
            while read(&queue, &mut letters) == Portion::MoreToCome {
                sections += 1;
                let (all, different) = lengths(&letters);
                // Two portions are left to be read, and those that have gone to be passed over.
                assert!(sections <= 2 + gone / portion, "{gone}: {sections} sections");
                assert_eq!(all, different, "{gone}");
            }
            assert_eq!(lengths(&letters).1, 4 * portion - gone);
        }
    }
}
