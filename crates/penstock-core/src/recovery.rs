//! Recovery: what survivors do about the dead.
//!
//! *Sweep*: a participant is proven dead while nobody is harmed. Under the lock, all that it held is returned: claimed
//! memory is freed, leased items become READY again in their old place, its waiters' cells are freed, and last its record.
//!
//! *Rebuild*: a participant died inside the critical section, and its successor has taken the lock over. Lists, counters
//! and the heap's marks may be half changed; they are all computed anew from the slots' state words. Then the sweep.
//!
//! Both can be run again from the start by anybody, because they only ever store what the truth says, and because a
//! participant's record is freed last.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | lock taken over | the next survivor takes it over from this one, and rebuilds |
//! | rebuild: caches cleared, slots read, done | the same |
//! | sweep: one slot returned | its state says so; the next sweep returns the rest |
//! | sweep: cells freed, record freed | the next survivor rebuilds, and sweeps this one |

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::fault::fault;
use crate::layout::{List, PARTICIPANTS, Slot};
use crate::lock::{Section, index_of};
use crate::participant::name_of;
use crate::platform;
use crate::queue::{Patience, Queue, Wait};
use crate::segment::Extent;
use crate::slot::{State, StateWord};
use crate::sync::{Count, Ordering, Word};

/// How often the callers of get look for the dead while there are leases, in milliseconds.
const LOOK_EVERY: u64 = 100;

impl Queue {
    /// Looks for dead participants and returns what they held. `thorough` looks at everybody, not only at holders.
    /// True if any was found. Makes system calls; the caller does not hold the lock.
    pub(crate) fn look_for_dead(&self, thorough: bool) -> Result<bool, Error> {
        let hot = self.segment.hot();
        hot.looked_at.set(platform::coarse_millis());
        // Somebody chosen or spinning who never comes back may be dead without holding anything.
        let is_somebody_on_way = hot.getter_spinning.get() | hot.putter_spinning.get() != 0
            || hot.waiters.iter().any(|list| list.on_way.get() > 0);
        let mut from = 1;
        let mut found = false;
        while let Some((index, word)) = self.next_dead(from, !thorough && !is_somebody_on_way)? {
            let swept = self.enter_surely()?.sweep(index, word);
            self.report(swept)?;
            found = true;
            from = index + 1;
        }
        Ok(found)
    }

    /// The same for callers that come often: every 100 ms one of them, in whichever process, really looks.
    pub(crate) fn look_for_dead_at_times(&self) -> Result<(), Error> {
        let looked_at = &self.segment.hot().looked_at;
        let (last, now) = (looked_at.get(), platform::coarse_millis());
        if now.saturating_sub(last) >= LOOK_EVERY
            && looked_at
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            self.look_for_dead(false)?;
            // Its holder may be dead as well. To take the lock is to find out; a stopped holder is not waited for.
            let soon = Patience::Until(Instant::now() + Duration::from_millis(LOOK_EVERY));
            return match self.enter(&mut Wait {
                patience: soon,
                interrupted: &mut || false,
            }) {
                Ok(_) | Err(Error::Busy) => Ok(()),
                Err(error) => Err(error),
            };
        }
        Ok(())
    }
}

impl Section<'_> {
    /// Returns everything that a dead participant held. `word` is its record as it was when its death was proven.
    pub(crate) fn sweep(&mut self, index: u32, word: u64) -> Result<(), Error> {
        let record = self.queue.segment.participant(index)?;
        let Some(name) = name_of(index, word) else {
            return Ok(());
        };
        if record.word.load(Ordering::Acquire) != word {
            // Somebody else has swept it already.
            return Ok(());
        }
        fault!("sweep.started");
        let mut steps = 0;
        while record.held.head.get() != 0 {
            let slot = record.held.head.get();
            match self.slot(slot)?.word().state() {
                Some(State::Leased) => self.redeliver(slot)?,
                Some(State::Claimed) => self.finish_held(slot)?,
                _ => return Err(self.corrupt("a held list holds what nobody can hold")),
            }
            steps += 1;
            if steps > self.hot().slots_high.get() {
                return Err(self.corrupt("a held list has a cycle"));
            }
        }
        self.free_cells_of(name)?;
        fault!("sweep.cells-freed");
        self.free_record(name)?;
        fault!("sweep.released");
        Ok(())
    }

    /// After a take-over: the former holder is dead, and others may be.
    pub(crate) fn sweep_all_dead(&mut self) -> Result<(), Error> {
        let mut from = 1;
        while let Some((index, word)) = self.queue.next_dead(from, false)? {
            self.sweep(index, word)?;
            from = index + 1;
        }
        Ok(())
    }

    /// Computes every cache anew from the truth. Under the lock, after a take-over.
    pub(crate) fn rebuild(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        self.clear_caches()?;
        fault!("rebuild.cleared");

        let high = hot.slots_high.get().clamp(1, self.queue.segment.geometry.slots);
        if high != hot.slots_high.get() {
            return Err(self.corrupt("more slots are used than there are"));
        }
        let published_before = hot.published.get();
        let held = &self.queue.segment.participant(self.my_index())?.held;
        // Downwards, so that the free list hands out low slots first, and the lists come out nearly sorted.
        for index in (1..high).rev() {
            let slot = self.slot(index)?;
            let word = slot.word();
            let list = match word.state() {
                Some(State::Free) => {
                    slot.next.set(hot.free_head.get());
                    hot.free_head.set(index);
                    continue;
                }
                Some(State::Ready | State::ReadyDone) => &hot.ready,
                // All held slots are gathered in one list first, and handed to their owners when sorted.
                Some(State::Leased | State::Claimed) => held,
                Some(State::Orphan) => &hot.orphans,
                Some(State::Dead) => &hot.dead,
                None => return Err(self.corrupt("a slot is in no known state")),
            };
            slot.next.set(list.head.get());
            list.head.set(index);
            self.book(slot, word, published_before)?;
        }
        fault!("rebuild.scanned");

        self.relist_spans()?;
        for list in [&hot.ready, &hot.orphans, &hot.dead] {
            self.sort(list, |slot| slot.seq.get())?;
        }
        self.sort(held, |slot| slot.lease.get())?;
        self.hand_out_held(held)?;
        self.rebuild_waiters()?;
        fault!("rebuild.done");
        Ok(())
    }

    fn clear_caches(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        for list in [&hot.ready, &hot.orphans, &hot.dead] {
            clear(list);
        }
        for index in 1..=hot.participants_high.get().min(PARTICIPANTS - 1) {
            clear(&self.queue.segment.participant(index)?.held);
        }
        hot.free_head.set(0);
        hot.ready_count.set(0);
        hot.ready_bytes.set(0);
        hot.unfinished.set(0);
        hot.dead_count.set(0);
        hot.owned_count.set(0);
        hot.used_bytes.set(0);
        hot.slots_used.set(0);
        self.clear_heap()
    }

    /// Counts one slot that is not FREE, and marks its extent.
    fn book(&mut self, slot: &Slot, word: StateWord, published_before: u64) -> Result<(), Error> {
        let hot = self.hot();
        let acknowledged = self.queue.options.acknowledged;
        hot.slots_used.add(1);
        if word.state() == Some(State::Orphan) {
            // Its payload is free, even if its holder died before it could say so.
            slot.extent.set(0);
            slot.len.set(0);
        }
        let (_, len) = self.queue.segment.payload(slot)?;
        if let Some(extent) = Extent::unpack(slot.extent.get()) {
            self.mark_extent(extent)?;
            if len > 0 {
                hot.used_bytes.add(extent.bytes());
            }
        }
        let seq = slot.seq.get();
        match word.state() {
            Some(State::Ready) => {
                self.count_ready(len as u64);
                hot.unfinished.add(u64::from(acknowledged));
            }
            Some(State::ReadyDone) => self.count_ready(len as u64),
            Some(State::Leased) => {
                hot.owned_count.add(1);
                hot.unfinished.add(u64::from(acknowledged));
            }
            Some(State::Claimed) => hot.owned_count.add(1),
            Some(State::Orphan) => hot.unfinished.add(1),
            Some(State::Dead) => hot.dead_count.add(1),
            Some(State::Free) | None => {}
        }
        if seq > published_before {
            // Its putter died between the commit and the books.
            hot.published.set(hot.published.get().max(seq));
            hot.put_bytes.add(len as u64);
        }
        if matches!(word.state(), Some(State::Leased | State::Claimed)) {
            hot.leases.set(hot.leases.get().max(slot.lease.get()));
        }
        Ok(())
    }

    /// Gives each held slot to the list of its owner, in the order of taking.
    fn hand_out_held(&mut self, gathered: &List) -> Result<(), Error> {
        let mut index = gathered.head.get();
        clear(gathered);
        while index != 0 {
            let slot = self.slot(index)?;
            let next = slot.next.get();
            let owner = slot.word().owner();
            if self.queue.participant_named(owner)?.is_none() {
                return Err(self.corrupt("a slot is held by nobody"));
            }
            self.push_back(&self.queue.segment.participant(index_of(owner))?.held, index)?;
            index = next;
        }
        Ok(())
    }

    /// Sorts a list that is linked forwards only, and links it backwards too. A bottom-up merge sort: it needs no memory
    /// but a few words of stack, and little time where the list is in order already.
    fn sort(&mut self, list: &List, key: impl Fn(&Slot) -> u64) -> Result<(), Error> {
        let mut runs = [0u32; 32];
        let mut rest = list.head.get();
        while rest != 0 {
            // One ascending run.
            let mut run = rest;
            let mut last = rest;
            rest = self.slot(rest)?.next.get();
            while rest != 0 && key(self.slot(rest)?) >= key(self.slot(last)?) {
                last = rest;
                rest = self.slot(rest)?.next.get();
            }
            self.slot(last)?.next.set(0);
            // runs[i] is empty or the merge of 2^i runs, as in a binary counter.
            for (i, place) in runs.iter_mut().enumerate() {
                if *place == 0 || i == 31 {
                    *place = if *place == 0 {
                        run
                    } else {
                        self.merge(*place, run, &key)?
                    };
                    break;
                }
                run = self.merge(*place, run, &key)?;
                *place = 0;
            }
        }
        let mut all = 0;
        for run in runs {
            all = match (all, run) {
                (0, run) => run,
                (all, 0) => all,
                (all, run) => self.merge(run, all, &key)?,
            };
        }
        list.head.set(all);
        let (mut prev, mut index) = (0, all);
        while index != 0 {
            self.slot(index)?.prev.set(prev);
            prev = index;
            index = self.slot(index)?.next.get();
        }
        list.tail.set(prev);
        Ok(())
    }

    fn merge(&self, mut a: u32, mut b: u32, key: &impl Fn(&Slot) -> u64) -> Result<u32, Error> {
        let (mut head, mut last) = (0, 0);
        while a != 0 || b != 0 {
            let takes_a = b == 0 || a != 0 && key(self.slot(a)?) <= key(self.slot(b)?);
            let side = if takes_a { &mut a } else { &mut b };
            let index = *side;
            *side = self.slot(index)?.next.get();
            if last == 0 {
                head = index
            } else {
                self.slot(last)?.next.set(index)
            }
            last = index;
        }
        Ok(head)
    }
}

fn clear(list: &List) {
    list.head.set(0);
    list.tail.set(0);
}
