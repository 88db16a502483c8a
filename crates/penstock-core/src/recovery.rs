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

use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::layout::{Hot, List, PARTICIPANTS, Slot};
use crate::lock::{Section, index_of};
use crate::participant::{free_record, has_left, name_of};
use crate::platform::{self, Instant};
use crate::queue::{Patience, Queue, Wait};
use crate::segment::Extent;
use crate::slot::{State, StateWord, lent_bytes};
use crate::sync::{Ordering, Word};
use crate::upkeep::{is_stuck, was_kept};

/// How often the callers of get look for the dead while there are leases, in milliseconds.
const LOOK_EVERY: u64 = if cfg!(feature = "fuzzing") { 1 } else { 100 };
/// How long a look for the dead waits for the lock.
const BRIEFLY: Duration = Duration::from_millis(10);

impl Queue {
    /// Looks for dead participants and returns what they held. `thorough` looks at everybody, not only at holders.
    /// True if any was found. Makes system calls; the caller does not hold the lock.
    ///
    /// Waits for the lock briefly only: the next look finds what this one could not sweep.
    pub(crate) fn look_for_dead(&self, thorough: bool) -> Result<bool, Error> {
        let patience = Patience::Until(Instant::now() + BRIEFLY);
        self.look_for_dead_within(
            thorough,
            &mut Wait {
                patience,
                interrupted: &mut || false,
            },
        )
    }

    /// The same, waiting for the lock as long as `wait` allows. If that is not long enough, the dead stay for now.
    pub(crate) fn look_for_dead_within(&self, thorough: bool, wait: &mut Wait<'_>) -> Result<bool, Error> {
        let hot = self.segment.hot();
        hot.looked_at.set(platform::coarse_millis());
        // Somebody chosen or spinning who never comes back may be dead without holding anything.
        let is_somebody_on_way = hot.spinning.getter.get() | hot.spinning.putter.get() != 0
            || hot.waiters.iter().any(|list| list.on_way.get() > 0);
        let mut from = 1;
        let mut found = false;
        while let Some((index, word)) = self.next_dead(from, !thorough && !is_somebody_on_way)? {
            let swept = match self.enter(wait) {
                Ok(mut section) => section.sweep(index, word),
                Err(error) if is_stuck(&error) => return Ok(found),
                Err(error) => Err(error),
            };
            self.report(swept)?;
            found = true;
            from = index + 1;
        }
        Ok(found)
    }

    /// The same for callers that come often: every 100 ms one of them, in whichever process, really looks.
    pub(crate) fn look_for_dead_at_times(&self) -> Result<(), Error> {
        let looked_at = &self.segment.hot().looked_at;
        let last = looked_at.get();
        if self.is_time_to_look()
            && looked_at
                .compare_exchange(
                    last,
                    platform::coarse_millis(),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
        {
            self.look_for_dead(false)?;
        }
        Ok(())
    }

    pub(crate) fn is_time_to_look(&self) -> bool {
        // Wraps, so that a clock of another namespace costs a look too many, not all of them.
        platform::coarse_millis().wrapping_sub(self.segment.hot().looked_at.get()) >= LOOK_EVERY
    }
}

/// What the rebuild counts. It is stored at the end, all at once: who looks without the lock sees the old number or the
/// new one, none in between.
#[derive(Default)]
struct Books {
    ready_count: u64,
    ready_bytes: u64,
    unfinished: u64,
    dead_count: u64,
    owned_count: u64,
    used_bytes: u64,
    lent_bytes: u64,
    orphan_count: u64,
}

impl Books {
    fn enter_into(&self, hot: &Hot) {
        // Release: pairs with the acquire in Queue::ready_count.
        hot.ready_count.store(self.ready_count, Ordering::Release);
        hot.ready_bytes.set(self.ready_bytes);
        hot.unfinished.set(self.unfinished);
        hot.dead_count.set(self.dead_count);
        hot.owned_count.set(self.owned_count);
        hot.used_bytes.set(self.used_bytes);
        hot.lent_bytes.set(self.lent_bytes);
        hot.orphan_count.set(self.orphan_count);
        hot.high_water.set(hot.high_water.get().max(self.ready_count));
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
        let mut walk = self.walk();
        for list in [&record.leased, &record.claimed] {
            while list.head.get() != 0 {
                self.step(&mut walk)?;
                let slot = list.head.get();
                let held = self.slot(slot)?.word();
                if held.owner() != name {
                    return Err(self.corrupt("a list of what is held holds what is another's"));
                }
                match held.state() {
                    Some(State::Leased) if was_kept(self.slot(slot)?, self.queue.options.acknowledged) => {
                        self.finish_held(slot)?;
                    }
                    Some(State::Leased) if has_left(word) && self.queue.options.acknowledged => {
                        self.orphan(slot)?
                    }
                    Some(State::Leased) => self.redeliver(slot)?,
                    Some(State::Left) => self.orphan(slot)?,
                    Some(State::Claimed) => self.finish_held(slot)?,
                    _ => return Err(self.corrupt("a list of what is held holds what nobody can hold")),
                }
            }
        }
        self.free_cells_of(name)?;
        self.discount_watchers_of(record);
        fault!("sweep.cells-freed");
        free_record(record, name);
        fault!("sweep.released");
        Ok(())
    }

    /// Sweeps the participant of that name, if it still has it.
    pub(crate) fn sweep_named(&mut self, name: u32) -> Result<(), Error> {
        match self.queue.participant_named(name)? {
            Some(record) => self.sweep(index_of(name), record.word.load(Ordering::Acquire)),
            None => Ok(()),
        }
    }

    /// Computes every cache anew from the truth. Under the lock, after a take-over.
    pub(crate) fn rebuild(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        self.clear_caches()?;
        fault!("rebuild.cleared");

        let high = hot.slots_high.get();
        if high == 0 || high > self.slots_backed()? {
            return Err(self.corrupt("more slots are used than are backed"));
        }
        let mut books = Books::default();
        let held = &self.queue.segment.participant(self.my_index())?.leased;
        // Downwards, so that low slots are handed out first, and the lists come out nearly sorted.
        for index in (1..high).rev() {
            let slot = self.slot(index)?;
            let word = slot.word();
            let list = match word.state() {
                Some(State::Free) => {
                    slot.extent.set(0);
                    slot.next.set(hot.free.next.get());
                    hot.free.next.set(index);
                    continue;
                }
                Some(State::Ready | State::ReadyDone) => &hot.ready,
                // All held slots are gathered in one list first, and handed to their owners when sorted.
                Some(State::Leased | State::Left | State::Claimed) => held,
                Some(State::Orphan) => &hot.orphans,
                Some(State::Dead) => &hot.dead,
                None => return Err(self.corrupt("a slot is in no known state")),
            };
            slot.next.set(list.head.get());
            list.head.set(index);
            self.book(slot, word, &mut books)?;
        }
        fault!("rebuild.scanned");

        self.relist_spans()?;
        for list in [&hot.ready, &hot.orphans, &hot.dead] {
            self.sort(list, |slot| slot.seq.get())?;
        }
        self.sort(held, |slot| slot.lease.get())?;
        self.hand_out_held(held)?;
        self.rebuild_waiters()?;
        self.rebuild_bell()?;
        books.enter_into(hot);
        fault!("rebuild.done");
        Ok(())
    }

    fn clear_caches(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        for list in [&hot.ready, &hot.orphans, &hot.dead] {
            clear(list);
        }
        for index in 1..=hot.participants_high.get().min(PARTICIPANTS - 1) {
            let record = self.queue.segment.participant(index)?;
            clear(&record.leased);
            clear(&record.claimed);
        }
        for list in [&hot.free, &hot.kept] {
            list.next.set(0);
            list.freed.set(0);
        }
        hot.kept_sum.set(0);
        self.clear_heap()
    }

    /// Counts one slot that is not FREE, and marks its extent.
    fn book(&mut self, slot: &Slot, word: StateWord, books: &mut Books) -> Result<(), Error> {
        let hot = self.hot();
        let acknowledged = u64::from(self.queue.options.acknowledged);
        if word.state() == Some(State::Orphan) {
            // Its payload is free, even if its holder died before it could say so.
            slot.extent.set(0);
            slot.len.set(0);
        }
        let (_, len) = self.queue.segment.payload(slot)?;
        let len = len as u64;
        if let Some(extent) = Extent::unpack(slot.extent.get()) {
            self.mark_extent(extent)?;
            if len > 0 {
                books.used_bytes += extent.bytes();
            }
        }
        match word.state() {
            Some(state @ (State::Ready | State::ReadyDone)) => {
                books.ready_count += 1;
                books.ready_bytes += len;
                if state == State::Ready {
                    books.unfinished += acknowledged;
                }
                let seq = slot.seq.get();
                if seq >= hot.published.get() {
                    // Its putter may have died between the commit and the books.
                    hot.published.set(seq);
                    hot.count_bytes(seq, len);
                }
            }
            Some(State::Leased | State::Left) => {
                books.owned_count += 1;
                books.unfinished += acknowledged;
            }
            Some(State::Claimed) => books.owned_count += 1,
            Some(State::Orphan) => {
                books.orphan_count += 1;
                books.unfinished += 1;
            }
            Some(State::Dead) => books.dead_count += 1,
            Some(State::Free) | None => {}
        }
        if matches!(word.state(), Some(State::Leased | State::Left | State::Claimed)) {
            books.lent_bytes += lent_bytes(slot);
            hot.leases.set(hot.leases.get().max(slot.lease.get()));
        }
        Ok(())
    }

    /// Gives each held slot to the list of its owner, in the order of taking.
    fn hand_out_held(&mut self, gathered: &List) -> Result<(), Error> {
        let mut index = gathered.head.get();
        clear(gathered);
        let mut walk = self.walk();
        while index != 0 {
            self.step(&mut walk)?;
            let slot = self.slot(index)?;
            let next = slot.next.get();
            let owner = slot.word().owner();
            let Some(holder) = self.queue.participant_named(owner)? else {
                return Err(self.corrupt("a slot is held by nobody"));
            };
            self.push_back(self.list_of_holder(holder, index)?, index)?;
            index = next;
        }
        Ok(())
    }

    /// Sorts a list that is linked forwards only, and links it backwards too. A bottom-up merge sort: it needs no memory
    /// but a few words of stack, and little time where the list is in order already.
    fn sort(&mut self, list: &List, key: impl Fn(&Slot) -> u64) -> Result<(), Error> {
        let mut runs = [0u32; 32];
        let mut rest = list.head.get();
        let mut walk = self.walk();
        while rest != 0 {
            // One ascending run.
            self.step(&mut walk)?;
            let mut run = rest;
            let mut last = rest;
            rest = self.slot(rest)?.next.get();
            while rest != 0 && key(self.slot(rest)?) >= key(self.slot(last)?) {
                self.step(&mut walk)?;
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
        let mut walk = self.walk();
        while index != 0 {
            self.step(&mut walk)?;
            self.slot(index)?.prev.set(prev);
            prev = index;
            index = self.slot(index)?.next.get();
        }
        list.tail.set(prev);
        Ok(())
    }

    fn merge(&self, mut a: u32, mut b: u32, key: &impl Fn(&Slot) -> u64) -> Result<u32, Error> {
        let (mut head, mut last) = (0, 0);
        let mut walk = self.walk();
        while a != 0 || b != 0 {
            self.step(&mut walk)?;
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
