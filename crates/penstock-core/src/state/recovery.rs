//! Recovery: what survivors do about the dead.
//!
//! *Sweep*: a participant is proven dead that did not hold the lock, or has dropped the queue while the lock
//! was taken. Under the lock, all that it held is returned: leased items become READY again in their old
//! place, claimed memory is freed, its waiters' cells are freed, its production ends, and last its record is
//! freed. The sweeper returns at most [`PORTION`] slots in one critical section, and releases the lock before
//! the next portion.
//!
//! *Rebuild*: a participant died inside the critical section, and its successor has taken the lock over.
//! Lists, counters and the heap's marks may be half changed; they are all computed anew from the slots' state
//! words. Then the sweep.
//!
//! Both can be run again from the start by any participant, because they only ever store what the truth says,
//! and because a participant's record is freed last.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | lock taken over | the next survivor takes it over from this one, and rebuilds |
//! | rebuild: caches cleared, slots read, done | the same |
//! | sweep: one slot returned | its state says so; the next sweep returns the rest |
//! | sweep: one portion returned, lock released | the record still stands; the next sweep returns the rest |
//! | sweep: cells freed, watchers, line and pipes forgotten | the next survivor rebuilds, and sweeps both |
//! | sweep: production ended (producers.rs) | the next survivor ends the queue, if no producer is left |
//! | sweep: record freed | the next survivor rebuilds, and sweeps this one |

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::ParticipantId;
use crate::state::Section;
use crate::state::participant::{free_record, has_gone, has_left, id_of};
use crate::state::slot::{State, was_kept};
use crate::sync::{Ordering, Word};

/// Slots that change hands in one critical section of a sweep, or of another operation on all that a
/// participant holds. In a queue of a million items a portion takes some 150 us.
pub(crate) const PORTION: u32 = if cfg!(loom) { 2 } else { 256 };

/// Whether a portion of work was the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Portion {
    Last,
    MoreToCome,
}

impl Section<'_> {
    /// Returns a portion of what a dead participant held; the last one frees its record. `word` is the record
    /// as it was when the death was proven.
    pub(crate) fn sweep(&mut self, index: u32, word: u64) -> Result<Portion, Error> {
        let record = self.shared.segment.participant(index)?;
        let Some(id) = id_of(index, word) else {
            return Ok(Portion::Last);
        };
        if record.word.load(Ordering::Acquire) != word {
            // Another sweeper was quicker.
            return Ok(Portion::Last);
        }
        fault!("sweep.started");
        let mut death = None;
        let mut left = PORTION;
        for list in [&record.leased, &record.claimed] {
            while list.head.get() != 0 {
                if left == 0 {
                    return Ok(Portion::MoreToCome);
                }
                left -= 1;
                let slot = list.head.get();
                let held = self.slot(slot)?.word();
                if held.owner() != id {
                    return Err(self.corrupt("a participant's list has a slot of another owner"));
                }
                match held.state() {
                    Some(State::Leased | State::Aside)
                        if was_kept(self.slot(slot)?, self.shared.options.acknowledged) =>
                    {
                        self.finish_held(slot)?;
                    }
                    Some(State::Leased | State::Aside)
                        if has_left(word)
                            && self.shared.options.acknowledged
                            && !self.slot(slot)?.is_by_name() =>
                    {
                        self.orphan(slot)?;
                    }
                    // It comes back only if items are acknowledged one day.
                    Some(State::Aside) if self.hot().sets_aside() => self.return_lease(slot)?,
                    Some(State::Leased | State::Aside) if has_gone(word) => {
                        self.note_silence(slot)?;
                        self.return_lease(slot)?;
                    }
                    Some(State::Leased | State::Aside) => {
                        let known = match death {
                            Some(known) => known,
                            None => self.death_of(id)?,
                        };
                        death = Some(known);
                        self.note_death(slot, known)?;
                        self.return_lease(slot)?;
                    }
                    Some(State::Left) => self.orphan(slot)?,
                    Some(State::Handed | State::HandedDone) => self.return_handed(slot)?,
                    Some(State::Claimed) => self.free_claim(slot)?,
                    _ => return Err(self.corrupt("a participant's list has a slot that is not held")),
                }
            }
        }
        self.settle_given_up(record, has_left(word));
        self.free_cells_of(id)?;
        self.discount_watchers_of(record);
        self.forget_line_of(id);
        self.forget_pipes();
        fault!("sweep.cells-freed");
        self.end_production_of(record)?;
        free_record(record, id);
        fault!("sweep.released");
        Ok(Portion::Last)
    }

    /// Sweeps a portion of what the participant of that id holds, if the id is still taken. The next
    /// check for the dead, which is due at once, sweeps the rest.
    pub(crate) fn sweep_holder(&mut self, holder: ParticipantId) -> Result<(), Error> {
        if let Some(record) = self.shared.participant_of(holder)? {
            let word = record.word.load(Ordering::Acquire);
            if self.sweep(holder.index(), word)? == Portion::MoreToCome {
                self.hot().reaped_at.set(0);
            }
        }
        Ok(())
    }
}
