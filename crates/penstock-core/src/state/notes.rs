//! Notes: what is remembered of an item's failures, for the program that reads it as a dead letter.
//!
//! A note is a slot of its own (NOTE), with the text of the last failure as its payload, and the last deaths
//! of the item's holders in its inline words. The item's state word names the note's slot, and so keeps it
//! through all of the item's states (`Past`). The note says of which item it is, by slot and by number. Only
//! if both agree, it is the item's note: otherwise it means nothing.
//!
//! A note is a help, and no promise: without memory for it, or beyond the slots that a state word can name,
//! an item has none. A note's slot does not count for `max_bytes`, and its text does.
//!
//! A note tells of the last failure only. A death, and a failure that tells nothing, make an earlier text
//! void (TOLD); the deaths stay. Without deaths the note is freed then.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | text written to claimed memory | the sweep frees it |
//! | state = NOTE | no item names it: the rebuild frees it |
//! | **the item's word names it** | it is the item's note |
//! | the former note freed | the same |
//! | a failure without a text: the item names no note, or **TOLD removed** | the sweep adds the death |
//! | the item is finished, its note not freed | no item names it: the rebuild frees it |
//! | a death written, not counted | the next sweep writes it again |
//! | **the death counted** | the next sweep finds it noted: the item has not come back since |

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{ParticipantId, Slot};
use crate::platform;
use crate::state::Section;
use crate::state::slot::{NOTES, State, StateWord};
use crate::sync::{Count, Word};
use crate::units::Ended;

/// Deaths that a note has room for: the last ones.
pub(crate) const DEATHS: usize = 6;

// The first inline word of a note: how many deaths (bits 0..32), marks, and how often the item had come back
// when the last death was noted (bits 40..48).
const COUNT: u64 = u32::MAX as u64;
/// The last failure was a death.
const BY_DEATH: u64 = 1 << 32;
/// The text is that of the last failure.
const TOLD: u64 = 1 << 33;
const RETURNS_AT: u32 = 40;

/// The death of a holder, as far as the process that found it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    pub pid: u32,
    /// In seconds since the epoch.
    pub at: u32,
    pub ended: Ended,
}

impl Section<'_> {
    /// The note of the item in that slot.
    pub(crate) fn note_of(&self, index: u32) -> Result<Option<u32>, Error> {
        let note = self.slot(index)?.word().past().note();
        Ok(Some(note).filter(|note| *note != 0 && self.is_note_of(*note, index)))
    }

    /// CLAIMED by this participant, with a text in it -> NOTE of that item, in the place of its former one.
    pub(crate) fn attach_note(&mut self, note: u32, index: u32) -> Result<(), Error> {
        let me = self.me;
        if note >= NOTES {
            self.release_claim(note)?;
            return self.note_silence(index);
        }
        let former = self.note_of(index)?;
        self.let_go(note, me)?;
        let slot = self.slot(note)?;
        for (place, word) in slot.inline.iter().enumerate() {
            let kept = match former {
                Some(former) => self.slot(former)?.inline[place].get(),
                None => 0,
            };
            word.set(if place == 0 { kept & COUNT | TOLD } else { kept });
        }
        self.name_note((note, slot), index)?;
        match former {
            Some(former) => self.drop_note((former, self.slot(former)?)),
            None => Ok(()),
        }
    }

    /// Notes a failure that tells nothing: what an earlier one has told is not of the last one.
    pub(crate) fn note_silence(&mut self, index: u32) -> Result<(), Error> {
        let slot = self.slot(index)?;
        if slot.word().past().note() == 0 {
            return Ok(());
        }
        let Some(note) = self.note_of(index)? else {
            return Ok(());
        };
        let word = &self.slot(note)?.inline[0];
        match word.get() & COUNT {
            0 => self.forget_note((index, slot)),
            deaths => {
                word.set(deaths);
                Ok(())
            }
        }
    }

    /// To NOTE of that item. The slot is on no list.
    fn name_note(&self, (note, slot): (u32, &Slot), index: u32) -> Result<(), Error> {
        let item = self.slot(index)?;
        slot.seq.set(item.seq.get());
        slot.holder.set(index);
        slot.commit(StateWord::unowned(State::Note, 0));
        fault!("note.committed");
        let word = item.word();
        item.commit(word.with_past(word.past().with_note(note)));
        fault!("note.named");
        self.hot().notes.add(1);
        Ok(())
    }

    /// Frees a note that no item names any more.
    fn drop_note(&mut self, note: (u32, &Slot)) -> Result<(), Error> {
        self.free_slot(note)?;
        self.hot().notes.sub(1);
        Ok(())
    }

    /// Adds the death of its holder to an item that comes back, if there is a slot for it. Safe to repeat
    /// until the item has come back.
    pub(crate) fn note_death(&mut self, index: u32, death: Death) -> Result<(), Error> {
        // The models' words are no memory for payloads.
        if cfg!(loom) {
            return Ok(());
        }
        let note = match self.note_of(index)? {
            Some(note) => note,
            None => {
                let Ok(note) = self.pop_slot()? else {
                    return Ok(());
                };
                if note >= NOTES {
                    return self.push_slot(note);
                }
                let slot = self.slot(note)?;
                slot.fill(None, 0);
                slot.inline.iter().for_each(|word| word.set(0));
                self.name_note((note, slot), index)?;
                note
            }
        };
        let words = &self.slot(note)?.inline;
        let count = words[0].get() as u32;
        let returns = u64::from(self.slot(index)?.word().redeliveries()) << RETURNS_AT;
        if words[0].get() & !COUNT == BY_DEATH | returns {
            // By a sweeper that died before the item came back.
            return Ok(());
        }
        let place = count as usize % DEATHS;
        words[1 + place].set(u64::from(death.pid) << 32 | u64::from(death.at));
        let shift = 10 * place;
        let rest = words[1 + DEATHS].get() & !(0x3ff << shift);
        words[1 + DEATHS].set(rest | death.ended.pack() << shift);
        words[0].set(u64::from(count.saturating_add(1)) | BY_DEATH | returns);
        fault!("note.died");
        Ok(())
    }

    /// Frees the note of an item that was finished in this section, or whose deliveries count anew: its word
    /// has just named that note, and names it no more.
    #[cold]
    pub(crate) fn free_note(&mut self, note: u32, index: u32) -> Result<(), Error> {
        match self.used_slot(note).filter(|_| self.is_note_of(note, index)) {
            Some(slot) => self.drop_note((note, slot)),
            None => Ok(()),
        }
    }

    /// Frees the note of an item that is finished already.
    #[cold]
    pub(crate) fn forget_note(&mut self, (index, slot): (u32, &Slot)) -> Result<(), Error> {
        let word = slot.word();
        let note = word.past().note();
        if note == 0 {
            return Ok(());
        }
        slot.commit(word.with_past(word.past().with_note(0)));
        self.free_note(note, index)
    }

    /// Whether a slot says that it is the note of that item.
    fn is_note_of(&self, note: u32, index: u32) -> bool {
        let (note, item) = (self.used_slot(note), self.slot(index));
        note.zip(item.ok()).is_some_and(|(note, item)| {
            note.word().state() == Some(State::Note)
                && note.holder.get() == index
                && note.seq.get() == item.seq.get()
        })
    }

    /// Whether the text of a note is that of the last failure.
    pub(crate) fn is_told(&self, note: u32) -> Result<bool, Error> {
        Ok(self.slot(note)?.inline[0].get() & TOLD != 0)
    }

    /// The deaths in a note, the oldest first, and whether the last failure was one.
    pub(crate) fn deaths_in(&self, note: u32, deaths: &mut Vec<Death>) -> Result<bool, Error> {
        let words = &self.slot(note)?.inline;
        let count = words[0].get() as u32 as usize;
        for number in count.saturating_sub(DEATHS)..count {
            let place = number % DEATHS;
            let word = words[1 + place].get();
            // Within the capacity: a section allocates nothing.
            if deaths.len() < deaths.capacity() {
                deaths.push(Death {
                    pid: (word >> 32) as u32,
                    at: word as u32,
                    ended: Ended::unpack(words[1 + DEATHS].get() >> (10 * place) & 0x3ff),
                });
            }
        }
        Ok(words[0].get() & BY_DEATH != 0)
    }

    /// What is known of the death of that participant.
    pub(crate) fn death_of(&self, id: ParticipantId) -> Result<Death, Error> {
        let record = self.shared.segment.participant(id.index())?;
        let pid = record.pid();
        // In another pid namespace that number is another process's.
        let ended = match self.shared.is_neighbour(record) {
            true => platform::ended(pid),
            false => Ended::Unknown,
        };
        Ok(Death {
            pid,
            at: platform::seconds(),
            ended,
        })
    }

    /// Rebuild: counts the notes, and frees those that no item names. `gathered` is a list of all.
    pub(crate) fn rebuild_notes(&mut self, gathered: u32) -> Result<(), Error> {
        let hot = self.hot();
        hot.notes.set(0);
        let mut index = gathered;
        let mut walk = self.walk();
        while index != 0 {
            self.step(&mut walk)?;
            let slot = self.slot(index)?;
            let (next, item) = (slot.next.get(), slot.holder.get());
            let is_named = item != 0 && self.used_slot(item).is_some() && self.note_of(item)? == Some(index);
            hot.notes.add(1);
            if !is_named {
                self.drop_note((index, slot))?;
            }
            index = next;
        }
        Ok(())
    }
}
