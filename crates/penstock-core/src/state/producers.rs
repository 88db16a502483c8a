//! Producers: which processes have said that they put items, and when the queue ends by itself.
//!
//! Requirements. A participant is a producer from the moment at which it says so until its last block ends,
//! or it does, by whatever death, or it has closed the queue. When producers have begun, as many as any
//! process expects, and none is left, the queue is shut down as by a process (operations/shutdown.rs): it is
//! draining. A process counts as one producer however often it begins. A queue of which no process says so
//! never ends by itself, and no put or get pays for the others.
//!
//! Protocol. A block begins under the lock: one store into the participant's record says in how many blocks
//! it produces, and as the how-manieth producer it has begun. So the count of those that have begun is the
//! largest number in a record, or what it was before. A process that closes the queue and opens it anew is
//! another participant; it remembers its number in private memory (handle/begun.rs), and begins under it.
//!
//! A block ends by one exchange in the same word, without the lock, so that its end cannot fail. The section
//! that follows ends the queue: of two producers that end at once, the later section sees both ends, which
//! without the lock neither need see. If there is none, because the process dies or the lock stays taken, the
//! others find that no producer is left: at the end of a waiter's slice, or when a program asks for an item
//! or a number (handle/upkeep.rs).
//!
//! All blocks of a process end at once when it leaves or closes the queue. The word counts how often: so a
//! block that has ended like that does not end a newer one when its own end comes.
//!
//! Producers that are dead are swept as holders are, every 100 ms while a thread waits; the last step of
//! their sweep ends their production, and so may end the queue.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | the expected number raised | the queue does not end before so many have begun |
//! | **record: in one block, as producer n** | it has begun, and the sweep ends its production |
//! | the count of those that have begun raised | the rebuild reads it from the records |
//! | **record: in one block less** | if none is left, the others end the queue |
//! | sweep, departure: **record: in no block** | the same; after a death in the section the rebuild does |
//! | **phase = DRAINING** | as any shutdown: the waiters learn of it within their slice |

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{DRAINING, Participant};
use crate::state::{Section, Shared};
use crate::sync::{Ordering, Word};

/// A participant counts no more blocks than these at once.
const MOST_BLOCKS: u32 = (1 << 20) - 1;

const GENERATION: u64 = 0xfff << 20;

/// The word of a record that says whether its participant produces: the blocks in which it does (bits 0..20),
/// their generation (bits 20..32), and its number among those that have begun (bits 32..64).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Producing(pub u64);

impl Producing {
    /// As that producer, in one block more.
    fn in_one_more(self, number: u32) -> Producing {
        let blocks = (self.blocks() + 1).min(MOST_BLOCKS);
        Producing(u64::from(number) << 32 | self.0 & GENERATION | u64::from(blocks))
    }

    /// In one block less, if that block is of this generation.
    fn in_one_less(self, generation: u32) -> Producing {
        match self.generation() == generation && self.blocks() > 0 {
            true => Producing(self.0 - 1),
            false => self,
        }
    }

    /// In no block, and in the next generation of them.
    fn in_none(self) -> Producing {
        let generation = (self.0 & GENERATION).wrapping_add(u64::from(MOST_BLOCKS) + 1) & GENERATION;
        Producing(u64::from(self.number()) << 32 | generation)
    }

    /// As the how-manieth producer it has begun; 0 if it never has.
    pub(crate) fn number(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// How often all blocks were ended at once. It begins anew after 4096 times.
    pub(crate) fn generation(self) -> u32 {
        ((self.0 & GENERATION) >> MOST_BLOCKS.count_ones()) as u32
    }

    pub(crate) fn blocks(self) -> u32 {
        self.0 as u32 & MOST_BLOCKS
    }
}

impl Participant {
    pub(crate) fn producing(&self) -> Producing {
        // Acquire: pairs with the release in change_blocks. What the producer has put is there.
        Producing(self.producing.load(Ordering::Acquire))
    }

    /// Changes the word by one exchange, and returns it. Other threads of the same process may do so at once.
    fn change_blocks(&self, change: impl Fn(Producing) -> Producing) -> Producing {
        let mut word = self.producing.get();
        loop {
            let changed = change(Producing(word));
            // Release: pairs with the acquire in producing.
            match self
                .producing
                .compare_exchange(word, changed.0, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return changed,
                Err(newer) => word = newer,
            }
        }
    }

    /// Ends one block of that generation, unless all of these have ended.
    pub(crate) fn end_block(&self, generation: u32) {
        self.change_blocks(|word| word.in_one_less(generation));
        fault!("produce.left");
    }

    /// Ends all blocks. False if there are none.
    pub(crate) fn end_blocks(&self) -> bool {
        if self.producing().blocks() == 0 {
            return false;
        }
        self.change_blocks(Producing::in_none);
        fault!("produce.left");
        true
    }
}

impl Shared {
    /// Whether the queue is to end: producers have begun, and none is left. Without the lock an estimate.
    pub(crate) fn is_production_over(&self) -> Result<bool, Error> {
        let hot = self.segment.hot();
        let begun = hot.producers_begun.get();
        if begun == 0 || begun < hot.producers_expected.get() || !hot.is_open() {
            return Ok(false);
        }
        Ok(self.producers()? == 0)
    }

    /// How many participants produce.
    pub(crate) fn producers(&self) -> Result<u64, Error> {
        let mut count = 0;
        for index in self.participants() {
            count += u64::from(self.segment.participant(index)?.producing().blocks() > 0);
        }
        Ok(count)
    }
}

impl Section<'_> {
    /// Begins a block of this participant. `begun_as` is the number as which its process has begun before,
    /// as another participant; else 0. An error if the queue was shut down.
    pub(crate) fn begin_block(&self, expect: u32, begun_as: u32) -> Result<Producing, Error> {
        self.check_put()?;
        let hot = self.hot();
        if expect > hot.producers_expected.get() {
            hot.producers_expected.set(expect);
            fault!("produce.expected");
        }
        let record = self.shared.segment.participant(self.my_index())?;
        let next = hot.producers_begun.get().saturating_add(1);
        let begun = record.change_blocks(|word| {
            let known = [word.number(), begun_as].into_iter().find(|number| *number != 0);
            word.in_one_more(known.unwrap_or(next))
        });
        fault!("produce.begun");
        if begun.number() == next {
            hot.producers_begun.set(next);
            fault!("produce.counted");
        }
        Ok(begun)
    }

    /// Ends the queue if producers have begun and none is left.
    pub(crate) fn end_if_unproduced(&self) -> Result<(), Error> {
        if self.shared.is_production_over()? {
            self.store_phase(DRAINING);
            fault!("produce.ended");
        }
        Ok(())
    }

    /// Ends the production of a dead participant.
    pub(crate) fn end_production_of(&self, record: &Participant) -> Result<(), Error> {
        record.end_blocks();
        if record.producing().number() > 0 {
            // Also if it has ended its blocks itself, and did not come to this.
            self.end_if_unproduced()?;
        }
        Ok(())
    }

    /// Reads from the records how many producers have begun, and ends the queue if none is left.
    pub(crate) fn rebuild_producers(&self) -> Result<(), Error> {
        let begun = &self.hot().producers_begun;
        for index in self.shared.participants() {
            let number = self.shared.segment.participant(index)?.producing().number();
            begun.set(begun.get().max(number));
        }
        self.end_if_unproduced()
    }
}
