//! Put: bytes become an item.
//!
//! A small payload is copied and published in one critical section, as are many of them. A large one is
//! written outside the lock, to memory that the slot's state already names as this participant's. It takes
//! its place in the order when it is published.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | slot and extent taken off their lists, fields filled | the rebuild finds the slot FREE: no effect |
//! | large: state = CLAIMED | the sweep frees slot and extent |
//! | large: memory extended, half the bytes copied, all copied | the same |
//! | aged, no room yet: written, state = CLAIMED (hand.rs) | the same |
//! | **state = READY** | the item exists, though put never returned |
//! | order, lists, counters | the rebuild computes them |
//! | many: some published, others not | those exist, and the others do not |
//! | lock released, wake-up call not yet made | the sleeper's slice ends, and it finds the item |
//!
//! What a put does that finds the queue shut down: shutdown.rs.
#![allow(unsafe_code)]

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::memory::layout::{Kind, Slot};
use crate::options::{Patience, Wait};
use crate::state::Section;
use crate::state::claim::Reserved;
use crate::state::holding::Lease;
use crate::state::waiters::Waiting;
use crate::units::{BATCH, SMALL, Ticket};

/// Measured: new memory for 64 KiB costs its putter and its getter about 40 us of page faults.
#[cfg(not(loom))]
const BYTES_GROWN_IN_A_NANOSECOND: u64 = 2;

impl Queue {
    /// Puts one item, whose payload is the concatenation of the parts. When it returns, every process sees
    /// the item.
    ///
    /// Waits for room as long as `wait` allows. On any error nothing was put.
    pub fn put(&self, payload: &[&[u8]], mut wait: Wait<'_>) -> Result<Ticket, Error> {
        // A payload of one part, kept apart: the compiler makes a long loop of the sum, whatever the number
        // of parts.
        let len = match payload {
            [part] => part.len() as u64,
            parts => parts.iter().map(|part| part.len() as u64).sum(),
        };
        let mut waiting = Waiting::new(Kind::Room);
        let result = if len <= SMALL as u64 {
            self.put_small(payload, len, &mut waiting, &mut wait)
        } else {
            self.put_large(payload, len, &mut waiting, &mut wait)
        };
        self.end_put(result, &mut waiting, wait.patience)
    }

    /// Ends a put that may have failed while it waited.
    #[inline(always)]
    pub(crate) fn end_put<T>(
        &self,
        result: Result<T, Error>,
        waiting: &mut Waiting,
        patience: Patience,
    ) -> Result<T, Error> {
        self.shared
            .report(result.map_err(|error| self.put_in_vain(error, waiting, patience)))
    }

    /// Ends a put that has failed. Returns the error for its caller.
    #[cold]
    fn put_in_vain(&self, error: Error, waiting: &mut Waiting, patience: Patience) -> Error {
        let was_full = error == Error::Full;
        let error = self.end_in_vain(error, waiting, patience);
        if was_full {
            self.was_in_vain(Kind::Room);
        }
        error
    }

    /// Puts items, each of one part, in order. Consecutive small ones are put in one critical section, as far
    /// as there is room. Returns how many were put, from the first on, and the error if that is not all.
    pub fn put_many(&self, payloads: &[&[u8]], mut wait: Wait<'_>) -> (usize, Result<(), Error>) {
        let mut count = 0;
        while let Some(payload) = payloads.get(count) {
            let next = &payloads[count..payloads.len().min(count + BATCH)];
            let small = next.iter().take_while(|payload| payload.len() <= SMALL).count();
            let put = if small > 1 {
                self.put_batch(&next[..small], &mut wait)
            } else {
                let wait = Wait {
                    patience: wait.patience,
                    interrupted: wait.interrupted,
                };
                self.put(&[payload], wait).map(|_| 1)
            };
            match put {
                Ok(more) => count += more,
                Err(error) => return (count, Err(error)),
            }
        }
        (count, Ok(()))
    }

    /// Waits for room for the first item, and puts as many as there is room for.
    fn put_batch(&self, payloads: &[&[u8]], wait: &mut Wait<'_>) -> Result<usize, Error> {
        let mut waiting = Waiting::new(Kind::Room);
        let result = self.put_together(payloads, &mut waiting, wait);
        self.end_put(result, &mut waiting, wait.patience)
    }

    fn put_together(
        &self,
        payloads: &[&[u8]],
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
    ) -> Result<usize, Error> {
        let len = payloads[0].len() as u64;
        let (mut section, mut reserved) = self.reserve(len, waiting, wait)?;
        if !self.shared.has_room() {
            return self
                .put_aged(section, &reserved, (&payloads[..1], len), waiting, wait)
                .map(|_| 1);
        }
        let mut count = 0;
        loop {
            section.publish_small(&reserved, &payloads[count..=count], payloads[count].len() as u64)?;
            count += 1;
            let Some(payload) = payloads.get(count).filter(|_| self.shared.has_room()) else {
                break;
            };
            let len = payload.len() as u64;
            match section
                .is_within_limit(len)
                .and_then(|()| section.try_reserve(len))
            {
                Ok(Ok(next)) => reserved = next,
                // The next batch begins with this item, and then extends the memory or reports the error.
                Ok(Err(_)) | Err(Error::OutOfMemory { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        section.withdraw(waiting)?;
        Ok(count)
    }

    #[inline(always)]
    fn put_small(
        &self,
        payload: &[&[u8]],
        len: u64,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
    ) -> Result<Ticket, Error> {
        // Fast path, kept apart so that the guard is never moved: moving it costs as much as all the rest.
        let mut section = self.enter_or_spin(waiting, wait)?;
        if self.shared.has_room() && section.is_within_limit(len).is_ok() {
            match section.try_reserve(len) {
                Ok(Ok(reserved)) => {
                    let ticket = section.publish_small(&reserved, payload, len)?;
                    section.withdraw(waiting)?;
                    return Ok(ticket);
                }
                Ok(Err(_)) | Err(Error::OutOfMemory { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let (mut section, reserved) = self.reserve_from(section, len, waiting, wait)?;
        if !self.shared.has_room() {
            return self.put_aged(section, &reserved, (payload, len), waiting, wait);
        }
        let ticket = section.publish_small(&reserved, payload, len)?;
        section.withdraw(waiting)?;
        Ok(ticket)
    }

    /// Puts a small item that has aged in its putter's hands: it is written now, and published once there is
    /// room.
    #[cold]
    fn put_aged<'q>(
        &'q self,
        mut section: Guard<'q>,
        reserved: &Reserved,
        (payload, len): (&[&[u8]], u64),
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
    ) -> Result<Ticket, Error> {
        let claim = section.claim_small(reserved, payload, len)?;
        let published = self.publish_written(section, reserved.slot, len, waiting, wait);
        if published.is_err() {
            self.give_back(reserved, claim, wait.patience)?;
        }
        published
    }

    fn put_large(
        &self,
        payload: &[&[u8]],
        len: u64,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
    ) -> Result<Ticket, Error> {
        loop {
            let (mut section, reserved) = self.reserve(len, waiting, wait)?;
            section.slot(reserved.slot)?.fill(reserved.extent, len);
            let claim = section.claim(reserved.slot, 0)?;
            section.hold(reserved.slot)?;
            section.withdraw(waiting)?;
            fault!("claim.committed");
            let had_room = self.shared.has_room();
            drop(section);
            let written = self.write_claimed(&reserved, payload, len);
            let is_written = written.is_ok();
            let published = written.and_then(|()| self.publish_claimed(&reserved, len, waiting, wait));
            if published.is_err() {
                self.give_back(&reserved, claim, wait.patience)?;
            }
            if is_written || published.is_ok() {
                return published;
            }
            let failed = published.map(|_| ());
            if had_room {
                self.unless_given_up(failed, len, wait)?;
            } else {
                // It waits for room as if it had not aged.
                waiting.note_memory(is_without_memory(failed)?);
            }
        }
    }

    /// Waits for room and takes a slot and an extent, extending the memory if need be. A wait that has aged
    /// takes them without room, if there is memory: the caller writes its item then, and waits on.
    fn reserve<'q>(
        &'q self,
        len: u64,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
    ) -> Result<(Guard<'q>, Reserved), Error> {
        let section = self.enter_or_spin(waiting, wait)?;
        self.reserve_from(section, len, waiting, wait)
    }

    pub(crate) fn reserve_from<'q>(
        &'q self,
        mut section: Guard<'q>,
        len: u64,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
    ) -> Result<(Guard<'q>, Reserved), Error> {
        let mut has_reaped = false;
        #[cfg(not(loom))]
        let mut has_paused = len <= SMALL as u64;
        loop {
            section.check_put()?;
            let has_room = waiting.needs_no_room || self.shared.has_room();
            if !has_room && !waiting.writes_early() {
                section.check_full()?;
                section = self.wait_for(section, waiting, wait)?;
                // Perhaps there is memory by now.
                waiting.note_memory(false);
                continue;
            }
            // A putter that runs ahead of its getters would write each large message to new memory.
            #[cfg(not(loom))]
            if has_room && !has_paused && self.shared.ready_count() > 0 && section.would_grow(len)? {
                if wait.patience == Patience::TryLock {
                    return Err(Error::Busy);
                }
                has_paused = true;
                section = self.pause_for_memory(section, len / BYTES_GROWN_IN_A_NANOSECOND, wait)?;
                continue;
            }
            let reserved = section
                .is_within_limit(len)
                .and_then(|()| section.try_reserve(len));
            match reserved {
                Ok(Ok(reserved)) => return Ok((section, reserved)),
                Ok(Err(_)) if wait.patience == Patience::TryLock => return Err(Error::Busy),
                Ok(Err(growth)) => {
                    let grown = self.grow(section, growth, wait);
                    if has_room {
                        self.unless_given_up(grown, len, wait)?;
                    } else {
                        waiting.note_memory(is_without_memory(grown)?);
                    }
                }
                // Once there is room, there may be memory.
                Err(Error::OutOfMemory { .. }) if !has_room => {
                    waiting.note_memory(true);
                    continue;
                }
                Err(Error::OutOfMemory { .. }) if wait.patience == Patience::TryLock => {
                    return Err(Error::Busy);
                }
                Err(error @ Error::OutOfMemory { .. }) => {
                    drop(section);
                    // Items that are set aside may use the memory; or the dead may hold it.
                    match self.unless_given_up(Err(error), len, wait) {
                        Err(Error::OutOfMemory { .. }) if !has_reaped => {
                            has_reaped = true;
                            self.reap_dead_within(false, wait)?;
                        }
                        result => result?,
                    }
                }
                Err(error) => return Err(error),
            }
            section = self.enter(wait)?;
        }
    }

    /// Returns the result, unless it is a lack of memory and giving up what is set aside has freed some
    /// (state/aside.rs).
    fn unless_given_up(&self, result: Result<(), Error>, len: u64, wait: &mut Wait<'_>) -> Result<(), Error> {
        let is_possible = match result {
            // Hopeless if the item did not fit even without all that is taken.
            Err(Error::OutOfMemory {
                needed,
                used,
                limit,
                taken_bytes,
                ..
            }) => used.saturating_sub(taken_bytes).saturating_add(needed) <= limit,
            Err(Error::NoMemory { .. } | Error::NoAddressSpace { .. }) => true,
            _ => false,
        };
        let needed = len.saturating_add(size_of::<Slot>() as u64);
        if is_possible && self.give_up_aside(needed, wait)? {
            return Ok(());
        }
        result
    }

    /// After a failure: frees the claimed slot, and gives memory back that was extended for it.
    pub(crate) fn give_back(
        &self,
        reserved: &Reserved,
        claim: Lease,
        patience: Patience,
    ) -> Result<(), Error> {
        if let (Some(extent), false) = (reserved.extent, reserved.is_backed) {
            let is_punched = self
                .shared
                .segment
                .punch(self.shared.segment.extent_at(extent, 0)?, extent.bytes());
            let note = |section: &mut Section<'_>| {
                if is_punched {
                    section.note_punched(extent)?;
                }
                Ok(())
            };
            return self.release_claim_or_put_off(claim, self.enter_again(patience), note);
        }
        self.release_claim_or_put_off(claim, self.enter_again(patience), |_| Ok(()))
    }

    /// Takes the lock to free what a failed call has claimed: waits briefly, and not at all if the call must
    /// not wait.
    fn enter_again(&self, patience: Patience) -> Result<Guard<'_>, Error> {
        if patience != Patience::TryLock {
            return self.enter_briefly();
        }
        self.enter(&mut Wait {
            patience,
            interrupted: &mut || false,
        })
    }

    /// Copies a payload to memory that the slot's state names as this participant's, without the lock.
    pub(crate) fn write_claimed(
        &self,
        reserved: &Reserved,
        payload: &[&[u8]],
        len: u64,
    ) -> Result<(), Error> {
        if let (Some(extent), false) = (reserved.extent, reserved.is_backed) {
            self.shared
                .segment
                .back(self.shared.segment.extent_at(extent, len)?, len)?;
            fault!("grow.backed");
        }
        let segment = &self.shared.segment;
        let mut target = segment.target(segment.slot(reserved.slot)?, reserved.extent, len)?;
        for part in payload {
            let (first, second) = part.split_at(part.len() / 2);
            // SAFETY: the slot is CLAIMED by this call and its extent by the slot, so no other thread or
            // process uses them; `len`, which `target` has checked against the extent, is the sum of all
            // parts.
            unsafe {
                segment.copy_in(target, &[first]);
                fault!("claim.copying");
                segment.copy_in(target.add(first.len()), &[second]);
                target = target.add(part.len());
            }
        }
        fault!("claim.copied");
        Ok(())
    }

    /// CLAIMED -> READY, once there is room: other putters may have filled the queue during the copy.
    fn publish_claimed(
        &self,
        reserved: &Reserved,
        len: u64,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
    ) -> Result<Ticket, Error> {
        let mut section = self.enter(wait)?;
        if let (Some(extent), false) = (reserved.extent, reserved.is_backed) {
            section.note_backed(extent, len)?;
        }
        self.publish_written(section, reserved.slot, len, waiting, wait)
    }

    /// CLAIMED -> READY of an item that is written, once there is room; or another section has published it
    /// (hand.rs).
    fn publish_written<'q>(
        &'q self,
        mut section: Guard<'q>,
        slot: u32,
        len: u64,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
    ) -> Result<Ticket, Error> {
        loop {
            section.check_put()?;
            if self.shared.has_room() {
                break;
            }
            section.check_full()?;
            section.name_written(waiting, slot)?;
            let waited = self.wait_for(section, waiting, wait);
            if let Some(ticket) = waiting.take_ticket() {
                return Ok(ticket);
            }
            section = waited?;
        }
        let me = section.me;
        section.let_go(slot, me)?;
        let written = section.slot(slot)?;
        let ticket = section.publish((slot, written), len)?;
        section.withdraw(waiting)?;
        Ok(ticket)
    }
}

/// Whether memory, or address space for it, could not be had.
pub(crate) fn is_without_memory(result: Result<(), Error>) -> Result<bool, Error> {
    match result {
        Err(Error::OutOfMemory { .. } | Error::NoMemory { .. } | Error::NoAddressSpace { .. }) => Ok(true),
        result => result.map(|()| false),
    }
}
