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
//! | step | if the process dies right after it |
//! |---|---|
//! | text written to claimed memory | the sweep frees it |
//! | state = NOTE | no item names it: the rebuild frees it |
//! | **the item's word names it** | it is the item's note |
//! | the former note freed | the same |
//! | the item is finished, its note not freed | no item names it: the rebuild frees it |
//! | a death added | the note may have half of it, which shows another pid or time |

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{ParticipantId, Slot};
use crate::platform;
use crate::state::Section;
use crate::state::slot::{NOTES, State, StateWord};
use crate::sync::Word;
use crate::units::Ended;

/// Deaths that a note has room for: the last ones.
pub(crate) const DEATHS: usize = 6;

/// In the first inline word of a note: the last failure was a death.
const BY_DEATH: u64 = 1 << 32;

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
            return self.release_claim(note);
        }
        let former = self.note_of(index)?;
        self.let_go(note, me)?;
        let slot = self.slot(note)?;
        for (place, word) in slot.inline.iter().enumerate() {
            let kept = match former {
                Some(former) => self.slot(former)?.inline[place].get(),
                None => 0,
            };
            word.set(if place == 0 { kept & !BY_DEATH } else { kept });
        }
        self.name_note((note, slot), index)?;
        match former {
            Some(former) => self.free_slot((former, self.slot(former)?)),
            None => Ok(()),
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
        Ok(())
    }

    /// Adds the death of its holder to an item that comes back, if there is a slot for it.
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
        let place = count as usize % DEATHS;
        words[1 + place].set(u64::from(death.pid) << 32 | u64::from(death.at));
        let shift = 10 * place;
        let rest = words[1 + DEATHS].get() & !(0x3ff << shift);
        words[1 + DEATHS].set(rest | death.ended.pack() << shift);
        words[0].set(u64::from(count.saturating_add(1)) | BY_DEATH);
        Ok(())
    }

    /// Frees the note of an item that was finished in this section, or whose deliveries count anew: its word
    /// has just named that note, and names it no more.
    #[cold]
    pub(crate) fn free_note(&mut self, note: u32, index: u32) -> Result<(), Error> {
        match self.used_slot(note).filter(|_| self.is_note_of(note, index)) {
            Some(slot) => self.free_slot((note, slot)),
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
        Ok(Death {
            pid,
            at: platform::seconds(),
            ended: platform::ended(pid),
        })
    }

    /// Rebuild: frees the notes that no item names. `gathered` is a list of all notes.
    pub(crate) fn rebuild_notes(&mut self, gathered: u32) -> Result<(), Error> {
        let mut index = gathered;
        let mut walk = self.walk();
        while index != 0 {
            self.step(&mut walk)?;
            let slot = self.slot(index)?;
            let (next, item) = (slot.next.get(), slot.holder.get());
            let is_named = item != 0 && self.used_slot(item).is_some() && self.note_of(item)? == Some(index);
            if !is_named {
                self.free_slot((index, slot))?;
            }
            index = next;
        }
        Ok(())
    }
}
