//! The statistics of a queue.

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::memory::layout::Kind;
use crate::options::{Wait, uninterruptible};
use crate::platform;
use crate::state::leases::taken_items;
use crate::sync::Word;

/// A snapshot, taken in one critical section. `puts = gets + queued + delayed + dead_letters + discarded`
/// holds in every snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Items put since the queue was created.
    pub puts: u64,
    /// Items delivered that have not come back.
    pub gets: u64,
    /// Payload bytes put.
    pub bytes: u64,
    /// Items that a get would find.
    pub queued: u64,
    /// Items put and not yet acknowledged; 0 for a queue without acknowledgement.
    pub unfinished: u64,
    /// Deliveries repeated because a holder died or failed. If a sweeper dies, the redelivery that it just
    /// made may go uncounted.
    pub redeliveries: u64,
    /// Items that are dead letters: their holders died or failed too often, or one has rejected them.
    pub dead_letters: u64,
    /// Items that are taken and not finished, and the memory that they use, in bytes.
    pub taken: u64,
    pub taken_bytes: u64,
    /// Items whose payloads were given up for memory before anything was acknowledged, and whose holders have
    /// died since. If a sweeper dies, the items of the holder that it just swept may go uncounted.
    pub given_up: u64,
    /// Items that were queued, or came back, after an immediate shutdown.
    pub discarded: u64,
    /// Items that no get finds before their time has come.
    pub delayed: u64,
    pub waiting_getters: u64,
    pub waiting_putters: u64,
    pub waiting_joiners: u64,
    /// The most items that were queued at once.
    pub high_water: u64,
    /// Processes that are participants.
    pub participants: u64,
    /// Those of them that produce.
    pub producers: u64,
    /// Memory that backs the queue now.
    pub memory_bytes: u64,
}

impl Queue {
    /// Counts, after the dead have been swept.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        uninterruptible(|wait| self.statistics_within(wait))
    }

    /// The same, waiting for the lock as long as `wait` allows.
    pub fn statistics_within(&self, mut wait: Wait<'_>) -> Result<Statistics, Error> {
        self.shared.report(self.count(&mut wait))
    }

    fn count(&self, wait: &mut Wait<'_>) -> Result<Statistics, Error> {
        self.member()?;
        self.reap_dead_within(true, wait)?;
        let memory_bytes = self
            .shared
            .segment
            .fd()
            .map_or(Ok(0), |fd| platform::backed_bytes(fd.get()))?;
        let section = self.enter(wait)?;
        let hot = section.hot();
        let (puts, queued, dead_letters) = (hot.published.get(), hot.ready_count.get(), hot.dead_count.get());
        let (discarded, delayed) = (hot.discarded.get(), hot.delayed_count.get());
        let left = queued.saturating_add(dead_letters).saturating_add(delayed);
        let waiting = |kind: Kind| u64::from(hot.waiters[kind as usize].length.get());
        Ok(Statistics {
            puts,
            gets: puts.saturating_sub(left).saturating_sub(discarded),
            bytes: hot.bytes_put(),
            queued,
            unfinished: hot.unfinished.get(),
            redeliveries: hot.redeliveries.get(),
            dead_letters,
            taken: taken_items(hot),
            taken_bytes: section.taken_bytes(),
            given_up: hot.given_up.get(),
            discarded,
            delayed,
            waiting_getters: waiting(Kind::Item),
            waiting_putters: waiting(Kind::Room),
            waiting_joiners: waiting(Kind::Finish),
            high_water: hot.high_water.get(),
            participants: self.shared.living()?,
            producers: self.shared.producers()?,
            memory_bytes,
        })
    }

    /// How many waiters sleep and have aged, by an unlocked read.
    #[cfg(feature = "early-aging")]
    pub fn aged_waiters(&self) -> u32 {
        self.shared.aged_waiters()
    }

    /// How many getters were handed an item and are not back, by an unlocked read.
    #[cfg(feature = "early-aging")]
    pub fn handed_getters(&self) -> u32 {
        self.shared.handed_getters()
    }
}
