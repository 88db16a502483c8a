//! Delays: items that no get finds until their time has come.
//!
//! A delayed item is DELAYED. It is unfinished, and it counts for `max_bytes` and not for `maxsize`. When its
//! time has come, some section makes it READY, in its old place in the order of publication.
//!
//! The order by time is a heap like that of the returned items (order/heap.rs), so an item costs a time that
//! grows with the logarithm of their number. A section makes a portion ready; the next one goes on. The heap
//! is a cache: the rebuild makes it anew from the slots, which have their own times (`Slot::lease`).
//!
//! While items are delayed, the word of the phase says so (DELAYING). So a queue without them pays nothing:
//! each section of one that has some takes the slow path (handle/enter.rs), where it reads the clock.
//!
//! *The timekeeper* is a waiter that ends its sleep when the next item is due (`Hot::timekeeper` names its
//! cell). Each waiter that goes to sleep becomes it if there is none. At the end of a section that leaves
//! delayed items and sleeping getters without one, a getter is notified, as if an item had come (waiters.rs):
//! it finds none, sleeps again, and is the timekeeper. If no getter sleeps, a putter becomes the timekeeper,
//! or a joiner: the watcher, which is only woken. (A notified putter would lose its place in the list, and a
//! notified joiner would return.) Either wake-up is lost if the process that makes it dies between the
//! release of the lock and the call. Then a watcher learns it at the end of its slice. The same if the
//! timekeeper is stopped or killed: any other waiter makes the items ready at the end of its slice, 100 ms
//! later at most.
//!
//! Who waits with a descriptor reads when the next item is due before it sleeps (`time_until_due`). A byte in
//! the pipe tells it of an item that is due before that, until one that waits so has found out (notifier.rs).
//!
//! Times are microseconds of the monotonic clock, which all processes of a machine share. In a time namespace
//! of its own a process delays by another clock.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | put: slot filled, its number and its time noted | it is FREE (or CLAIMED) still: nothing happened |
//! | **state = DELAYED** | the item exists, and is delayed |
//! | a lease released or failed: its time noted | LEASED still: a redelivery, at once (*) |
//! | **state = DELAYED** | it is delayed |
//! | heap, counters, `due_at`, DELAYING, the timekeeper | the rebuild computes them; it names no timekeeper |
//! | due: off the heap | DELAYED still: the rebuild lists it again |
//! | **state = READY** | it is in its old place |
//! | closed: as any item that is discarded (operations/shutdown.rs) | |
//!
//! (*) The time stands where the number of the lease stood. The rebuild numbers further leases from there.

use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{DELAYING, Hot, Kind, Slot};
use crate::platform;
use crate::state::Section;
use crate::state::slot::{Past, State, StateWord};
use crate::state::waiters::{SLEEPING, Waiting};
use crate::sync::{Count, Ordering, Word};
use crate::units::Ticket;

/// Items that one section makes ready. With a million delayed ones an item takes 9 us, because most of the
/// slots on its way through both heaps are in no cache; with ten thousand it takes 1.4 us.
pub(crate) const DUE: u32 = if cfg!(loom) { 2 } else { 64 };

/// No item is due later.
const NEVER: u64 = 1 << 62;

impl Hot {
    pub(crate) fn has_delayed(&self) -> bool {
        self.delayed_count.get() > 0
    }

    /// Whether the time of a delayed item has come. Without the lock, too.
    pub(crate) fn is_any_due(&self) -> bool {
        let due_at = self.due_at.get();
        due_at != 0 && due_at <= platform::micros()
    }

    fn marks_delaying(&self) -> bool {
        self.phase.get() & DELAYING != 0
    }

    /// Adds the mark to the phase that items are delayed, or removes it.
    fn mark_delaying(&self, is_delaying: bool) {
        // Damage may be noted meanwhile, without the lock. It stays.
        while !self.is_damaged() {
            let phase = self.phase.get();
            let marked = if is_delaying {
                phase | DELAYING
            } else {
                phase & !DELAYING
            };
            let exchanged = self
                .phase
                .compare_exchange(phase, marked, Ordering::Relaxed, Ordering::Relaxed);
            if exchanged.is_ok() {
                return;
            }
        }
    }
}

/// When that time has passed. `None` for no time.
pub(crate) fn due_after(delay: Duration) -> Option<u64> {
    if delay.is_zero() {
        return None;
    }
    // A time that no clock reaches is as good as any other. It leaves room for more leases than there can be,
    // which the rebuild may have to number from there.
    let micros = u64::try_from(delay.as_nanos().div_ceil(1000)).unwrap_or(NEVER);
    Some(
        platform::micros()
            .saturating_add(micros)
            .saturating_add(1)
            .min(NEVER),
    )
}

impl Section<'_> {
    /// To DELAYED: from here on the item exists. The slot is on no list.
    pub(crate) fn publish_delayed(
        &mut self,
        (index, slot): (u32, &Slot),
        len: u64,
        due: u64,
    ) -> Result<Ticket, Error> {
        let hot = self.hot();
        let seq = hot.published.get().wrapping_add(1);
        slot.seq.set(seq);
        self.note_time(slot);
        self.delay((index, slot), due, Past::NONE)?;
        hot.published.set(seq);
        hot.count_bytes(len);
        if self.shared.options.acknowledged {
            hot.unfinished.add(1);
        }
        Ok(Ticket { slot: index, seq })
    }

    /// To DELAYED until then. The slot is on no list, and `unfinished` counts the item.
    pub(crate) fn delay(&mut self, (index, slot): (u32, &Slot), due: u64, past: Past) -> Result<(), Error> {
        slot.lease.set(due.max(1));
        fault!("delay.timed");
        slot.set_mark(0);
        slot.commit(StateWord::unowned_with(State::Delayed, past));
        fault!("delay.committed");
        self.insert_delayed(index)?;
        let hot = self.hot();
        hot.owned_count.add(1);
        hot.delayed_count.add(1);
        let first = self.slot(hot.delayed.head.get())?.lease.get();
        if hot.due_at.get() != first {
            hot.due_at.set(first);
            // It sleeps until a later time.
            hot.timekeeper.set(0);
            if hot.watching.get() != 0 {
                self.tell_of_earlier_due();
            }
        }
        hot.mark_delaying(true);
        Ok(())
    }

    /// Takes the item off the heap whose time comes first, before its state changes.
    pub(crate) fn pop_delayed(&mut self) -> Result<u32, Error> {
        let hot = self.hot();
        let index = hot.delayed.head.get();
        if index == 0 || self.slot(index)?.word().state() != Some(State::Delayed) {
            return Err(self.corrupt("an item on the heap of delayed ones is not delayed"));
        }
        self.remove_first_delayed()?;
        hot.owned_count.sub(1);
        hot.delayed_count.sub(1);
        match hot.delayed.head.get() {
            0 => {
                if hot.delayed_count.get() > 0 {
                    return Err(self.corrupt("delayed items are counted that are on no heap"));
                }
                hot.due_at.set(0);
                hot.timekeeper.set(0);
                hot.mark_delaying(false);
                self.end_telling();
            }
            first => {
                hot.due_at.set(self.slot(first)?.lease.get());
                hot.timekeeper.set(0);
            }
        }
        Ok(index)
    }

    /// DELAYED -> READY in its old place: a portion of those whose time has come. Not if the queue is closed:
    /// there they are discarded.
    pub(crate) fn ready_due(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        if hot.is_closed() {
            return Ok(());
        }
        let now = platform::micros();
        for _ in 0..DUE {
            let due_at = hot.due_at.get();
            if due_at == 0 || due_at > now {
                return Ok(());
            }
            let index = self.pop_delayed()?;
            let slot = self.slot(index)?;
            slot.commit(StateWord::unowned_with(State::Ready, slot.word().past()));
            fault!("delay.ended");
            self.put_back(index, slot.len.get())?;
        }
        Ok(())
    }

    /// Makes a waiter that goes to sleep the timekeeper, if there is none. Returns when that waiter is to
    /// wake up.
    pub(crate) fn keep_time(&self, waiting: &Waiting) -> Result<Option<u64>, Error> {
        let hot = self.hot();
        let due_at = hot.due_at.get();
        if due_at == 0 {
            return Ok(None);
        }
        self.check_delayed()?;
        if !self.has_timekeeper()? {
            hot.timekeeper.set(waiting.cell);
            fault!("delay.kept");
        }
        Ok((hot.timekeeper.get() == waiting.cell).then_some(due_at))
    }

    /// An error unless an item is delayed, as its time says. A waiter that kept the time of none would wake
    /// up again and again, and no section would make an item ready.
    fn check_delayed(&self) -> Result<(), Error> {
        let hot = self.hot();
        if !hot.has_delayed() || !hot.marks_delaying() || hot.delayed.head.get() == 0 {
            return Err(self.corrupt("an item is due, and none is delayed"));
        }
        Ok(())
    }

    /// Whether a waiter keeps the time. One that sleeps no more does not: it was notified, or has left. If
    /// its cell is another waiter's by now, that one has become the timekeeper.
    fn has_timekeeper(&self) -> Result<bool, Error> {
        match self.hot().timekeeper.get() {
            0 => Ok(false),
            cell => Ok(self.cell(cell)?.word.get() == SLEEPING),
        }
    }

    /// Notifies a waiter that is to be the timekeeper, if items are delayed and none of the waiters keeps the
    /// time, or is on its way and will. Part of `settle`.
    #[cold]
    pub(crate) fn appoint_timekeeper(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        if hot.due_at.get() == 0 {
            return Ok(());
        }
        self.check_delayed()?;
        if self.has_timekeeper()? {
            return Ok(());
        }
        let [getters, putters, _] = &hot.waiters;
        let spinning = &hot.spinning;
        if getters.notified.get() | putters.notified.get() | spinning.getter.get() | spinning.putter.get()
            != 0
        {
            return Ok(());
        }
        // One that has left is freed, and the next is notified.
        while getters.length.get() > 0 {
            self.choose(Kind::Item, getters.tail.get())?;
            if getters.notified.get() != 0 {
                return Ok(());
            }
        }
        for kind in [Kind::Room, Kind::Finish] {
            self.free_abandoned(kind)?;
            let watcher = self.watcher(kind)?;
            if watcher != 0 {
                hot.timekeeper.set(watcher);
                self.wake_later(watcher);
                return Ok(());
            }
        }
        Ok(())
    }

    // ---------------------------------------------------------------------------------------------- rebuild

    /// Makes the heap of delayed items anew, from slots that are gathered in its list in any order.
    pub(crate) fn rebuild_delayed(&mut self, count: u64) -> Result<(), Error> {
        let hot = self.hot();
        let root = self.delayed_heap_of(hot.delayed.head.get())?;
        hot.delayed.head.set(root);
        hot.delayed.tail.set(0);
        let first = match root {
            0 => 0,
            root => self.slot(root)?.lease.get(),
        };
        hot.delayed_count.set(count);
        hot.due_at.set(first);
        hot.timekeeper.set(0);
        hot.mark_delaying(count > 0);
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::{Duration, due_after};

    /// The rebuild may number leases from there.
    #[test]
    fn the_longest_delay_leaves_numbers_for_leases() {
        assert!(due_after(Duration::MAX).unwrap() < u64::MAX / 2);
    }
}
