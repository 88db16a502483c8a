//! Produce: a process says that it puts items, and the queue ends when no such process is left
//! (state/producers.rs has the protocol and the crash table).

use crate::error::Error;
use crate::handle::begun;
use crate::handle::put_off::is_stuck;
use crate::handle::queue::Queue;
#[cfg(not(loom))]
use crate::handle::registry;
use crate::memory::layout::ParticipantId;
use crate::options::{Wait, uninterruptible};
use crate::units::Id;

/// A block in which a process produces. It ends by [`Queue::end_producing`], or with the process.
#[derive(Debug)]
pub struct Production {
    queue: Id,
    me: ParticipantId,
    /// Of the participant's blocks: they may have ended all at once, and others begun.
    generation: u32,
}

impl Queue {
    /// Begins a block in which this process produces. The queue does not end before as many producers as
    /// `expect` have begun.
    pub fn produce(&self, expect: u32) -> Result<Production, Error> {
        uninterruptible(|wait| self.produce_within(expect, wait))
    }

    /// The same, waiting for the lock as long as `wait` allows. After an error no block has begun.
    pub fn produce_within(&self, expect: u32, mut wait: Wait<'_>) -> Result<Production, Error> {
        let queue = self.shared.segment.id;
        // Before the lock: another thread of this process may be forking, and takes long.
        let begun_as = begun::number_of(queue);
        let begun = self.enter(&mut wait).and_then(|section| {
            let begun = section.begin_block(expect, begun_as)?;
            Ok((section.me, begun))
        });
        let (me, begun) = self.shared.report(begun)?;
        begun::remember(queue, begun.number());
        Ok(Production {
            queue,
            me,
            generation: begun.generation(),
        })
    }

    /// Ends a block. If no process produces any more, the queue is shut down.
    pub fn end_producing(&self, production: Production) -> Result<(), Error> {
        uninterruptible(|wait| self.end_producing_within(production, wait))
    }

    /// The same, waiting for the lock as long as `wait` allows. The block has ended also after an error: if
    /// it was the last one, other processes shut the queue down when they check for the dead.
    ///
    /// In a forked child the block is its parent's, and nothing happens.
    pub fn end_producing_within(&self, production: Production, mut wait: Wait<'_>) -> Result<(), Error> {
        let is_mine = production.queue == self.shared.segment.id && self.member_now() == Some(production.me);
        let record = self.shared.participant_of(production.me);
        if let (true, Some(record)) = (is_mine, self.shared.report(record)?) {
            record.end_block(production.generation);
            let ended = self
                .enter(&mut wait)
                .and_then(|section| section.end_if_unproduced());
            return match self.shared.report(ended) {
                Err(error) if is_stuck(&error) => Ok(()),
                ended => ended,
            };
        }
        Ok(())
    }
}

#[cfg(not(loom))]
impl Production {
    /// Ends the block, if this process has its queue still, through whatever handle.
    pub fn end(self, wait: Wait<'_>) -> Result<(), Error> {
        let found = registry::open_queues_without_leaving(self.queue).find(self.queue);
        found.map_or(Ok(()), |queue| queue.end_producing_within(self, wait))
    }
}
