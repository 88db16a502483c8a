//! What a queue tells about itself.

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::memory::layout::{Kind, Slot};
use crate::memory::segment::Extent;
use crate::operations::acknowledge::taken_items;
use crate::operations::aside::unfinished_given_up;
use crate::operations::delivery::vec_with_room;
use crate::options::{Wait, surely};
use crate::platform;
use crate::state::Section;
use crate::state::recovery::{PORTION, Portion};
use crate::state::slot::State;
use crate::sync::Word;

/// A snapshot, taken in one critical section. `puts = gets + queued + dead_letters` holds in every snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Items put since the queue was created.
    pub puts: u64,
    /// Items delivered and not returned by a death.
    pub gets: u64,
    /// Payload bytes put.
    pub bytes: u64,
    /// Items that a get would find.
    pub queued: u64,
    /// Items put and not yet acknowledged; 0 for a queue without acknowledgement.
    pub unfinished: u64,
    /// Deliveries repeated because a holder died. Of one that dies during a sweep the last may go uncounted.
    pub redeliveries: u64,
    /// Items that became dead letters because their holders died too often.
    pub dead_letters: u64,
    /// Items that are taken and not finished, and the memory that they use, in bytes.
    pub taken: u64,
    pub taken_bytes: u64,
    /// Items whose payloads were given up for memory before anything was acknowledged, and whose holders have died since. Of a
    /// sweeper that dies meanwhile those of one holder may go uncounted.
    pub given_up: u64,
    pub waiting_getters: u64,
    pub waiting_putters: u64,
    pub waiting_joiners: u64,
    /// The most items that were queued at once.
    pub high_water: u64,
    /// Processes that take part.
    pub participants: u64,
    /// Memory that stands behind the queue now.
    pub memory_bytes: u64,
}

impl Queue {
    /// Counts, after the dead have been swept.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        surely(|wait| self.statistics_within(wait))
    }

    /// The same, waiting for the lock as long as `wait` allows.
    pub fn statistics_within(&self, mut wait: Wait<'_>) -> Result<Statistics, Error> {
        self.shared.report(self.count(&mut wait))
    }

    fn count(&self, wait: &mut Wait<'_>) -> Result<Statistics, Error> {
        self.member()?;
        self.look_for_dead_within(true, wait)?;
        let memory_bytes = self.shared.segment.fd().map_or(Ok(0), platform::backed_bytes)?;
        let section = self.enter(wait)?;
        let hot = section.hot();
        let (puts, queued, dead_letters) = (hot.published.get(), hot.ready_count.get(), hot.dead_count.get());
        let waiting = |kind: Kind| u64::from(hot.waiters[kind as usize].length.get());
        Ok(Statistics {
            puts,
            gets: puts.saturating_sub(queued).saturating_sub(dead_letters),
            bytes: hot.bytes_put(),
            queued,
            unfinished: hot.unfinished.get(),
            redeliveries: hot.redeliveries.get(),
            dead_letters,
            taken: taken_items(hot),
            taken_bytes: section.taken_bytes(),
            given_up: hot.given_up.get(),
            waiting_getters: waiting(Kind::Item),
            waiting_putters: waiting(Kind::Room),
            waiting_joiners: waiting(Kind::Finish),
            high_water: hot.high_water.get(),
            participants: self.shared.living()?,
            memory_bytes,
        })
    }

    /// The payloads of the dead letters, oldest first. They stay where they are.
    pub fn dead_letters(&self) -> Result<Vec<Vec<u8>>, Error> {
        surely(|wait| self.dead_letters_within(wait))
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
            if self.enter(wait)?.read_dead_letters(&mut read)? == Portion::Last {
                return Ok(read.places);
            }
        }
    }
}

/// The list of dead letters as far as it was read.
#[derive(Default)]
struct DeadLetters {
    places: Vec<u32>,
    /// Of their payloads.
    bytes: u64,
}

impl Section<'_> {
    fn read_dead_letters(&self, read: &mut DeadLetters) -> Result<Portion, Error> {
        let hot = self.hot();
        let mut prev = match read.places[..] {
            [.., before, last] if self.slot(last)?.prev.get() == before => last,
            [last] if self.slot(last)?.prev.get() == 0 => last,
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
                prev => self.slot(prev)?.next.get(),
            };
            if index == 0 {
                return Ok(Portion::Last);
            }
            let slot = self.slot(index)?;
            // Of a list whose links agree both ways no slot is met twice.
            if slot.word().state() != Some(State::Dead) || slot.prev.get() != prev {
                return Err(self.corrupt("the list of dead letters is torn"));
            }
            let bytes = Extent::unpack(slot.extent.get()).map_or(0, Extent::bytes);
            read.bytes = read.bytes.saturating_add(bytes);
            if read.bytes > hot.used_bytes.get() {
                return Err(self.corrupt("dead letters have more memory than all items"));
            }
            read.places.push(index);
            prev = index;
        }
        Ok(Portion::MoreToCome)
    }

    /// Memory of the items that are taken and not finished, in bytes: slots and extents. 0 for a plain queue.
    fn taken_bytes(&self) -> u64 {
        let hot = self.hot();
        if !self.shared.options.acknowledged {
            return 0;
        }
        let slots = taken_items(hot).saturating_sub(unfinished_given_up(hot));
        hot.taken_bytes
            .get()
            .saturating_add(slots.saturating_mul(size_of::<Slot>() as u64))
    }

    /// The queue's own limit is reached.
    #[cold]
    pub(crate) fn out_of_memory(&self, needed: u64, used: u64) -> Error {
        Error::OutOfMemory {
            needed,
            used,
            limit: self.shared.options.max_bytes.unwrap_or(u64::MAX),
            taken: u32::try_from(taken_items(self.hot())).unwrap_or(u32::MAX),
            taken_bytes: self.taken_bytes(),
        }
    }
}
