//! Dead letters: the payloads of items whose holders died too often.

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::memory::payload::Extent;
use crate::operations::delivery::vec_with_room;
use crate::options::{Wait, uninterruptible};
use crate::platform;
use crate::state::Section;
use crate::state::recovery::{PORTION, Portion};
use crate::state::slot::State;
use crate::sync::Word;

/// The part of the list of dead letters that was read.
#[derive(Default)]
struct DeadLetters {
    places: Vec<u32>,
    /// Memory of their payloads.
    bytes: u64,
}

impl Queue {
    /// The payloads of the dead letters, in the order in which they became dead letters. They stay in the
    /// queue.
    pub fn dead_letters(&self) -> Result<Vec<Vec<u8>>, Error> {
        uninterruptible(|wait| self.dead_letters_within(wait))
    }

    /// The same, waiting for the lock as long as `wait` allows.
    pub fn dead_letters_within(&self, mut wait: Wait<'_>) -> Result<Vec<Vec<u8>>, Error> {
        // A dead letter is never changed or freed, so its payload can be read without the lock.
        let letters = self.dead_letter_places(&mut wait).and_then(|places| {
            let mut letters = vec_with_room(places.len())?;
            for slot in places {
                letters.push(
                    self.shared
                        .segment
                        .read_payload(self.shared.segment.slot(slot)?)?,
                );
            }
            Ok(letters)
        });
        self.shared.report(letters)
    }

    /// Read in portions: the list may be long. Dead letters are only ever added at its end.
    fn dead_letter_places(&self, wait: &mut Wait<'_>) -> Result<Vec<u32>, Error> {
        let mut read = DeadLetters::default();
        loop {
            // Memory is taken before the lock, never under it.
            read.places
                .try_reserve(PORTION as usize)
                .map_err(|_| platform::no_memory(u64::from(PORTION) * size_of::<u32>() as u64))?;
            if read_dead_letters(&*self.enter(wait)?, &mut read)? == Portion::Last {
                return Ok(read.places);
            }
        }
    }
}

/// Reads a portion of the list.
fn read_dead_letters(section: &Section<'_>, read: &mut DeadLetters) -> Result<Portion, Error> {
    let hot = section.hot();
    let mut prev = match read.places[..] {
        [.., before, last] if section.slot(last)?.prev.get() == before => last,
        [last] if section.slot(last)?.prev.get() == 0 => last,
        // The beginning; or a rebuild has linked the list anew since the last portion.
        _ => {
            read.places.clear();
            read.bytes = 0;
            0
        }
    };
    for _ in 0..PORTION {
        let index = match prev {
            0 => hot.dead.head.get(),
            prev => section.slot(prev)?.next.get(),
        };
        if index == 0 {
            return Ok(Portion::Last);
        }
        let slot = section.slot(index)?;
        // A list whose links agree in both directions has each slot once, so this ends.
        if slot.word().state() != Some(State::Dead) || slot.prev.get() != prev {
            return Err(section.corrupt("the list of dead letters is torn"));
        }
        let bytes = Extent::unpack(slot.extent.get()).map_or(0, Extent::bytes);
        read.bytes = read.bytes.saturating_add(bytes);
        if read.bytes > hot.used_bytes.get() {
            return Err(section.corrupt("dead letters have more memory than all items"));
        }
        read.places.push(index);
        prev = index;
    }
    Ok(Portion::MoreToCome)
}
