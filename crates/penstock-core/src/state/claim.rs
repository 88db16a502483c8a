//! Claims: memory that a participant takes for a payload, before the item exists or to give the memory back.
#![allow(unsafe_code)]

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{GRANULE, GRANULES_PER_SPAN, Slot};
use crate::memory::payload::{Ahead, Extent};
use crate::state::Section;
use crate::state::aside::unfinished_given_up;
use crate::state::heap::{BACKED_DESCRIPTOR, BACKED_PAGES, Growth, MAYBE_MORE, extent_for};
use crate::state::holding::Lease;
use crate::state::leases::taken_items;
use crate::state::slot::slots_in_use;
use crate::sync::Word;
use crate::units::{SMALL, Ticket};

/// What a put has in hand before the item exists.
pub(crate) struct Reserved {
    pub slot: u32,
    pub extent: Option<Extent>,
    pub is_backed: bool,
}

/// Spans that are read in one critical section in search of memory to give back.
const SPANS_AT_A_TIME: u32 = 8192;

/// What is tried to find the next free spans with memory.
pub(crate) enum BackedRun {
    /// What claims them.
    Claimed(Lease, Extent),
    /// None so far: spans further down have not been read yet.
    MoreToCome,
    None,
}

impl Section<'_> {
    /// An error if a payload of that length would exceed `max_bytes`.
    #[inline(always)]
    pub(crate) fn is_within_limit(&self, len: u64) -> Result<(), Error> {
        let hot = self.hot();
        let extent = extent_for(len).unwrap_or(0).saturating_mul(GRANULE);
        // Mostly there is enough left even if all extents counted, the lent and the cached ones, too.
        let left = self.max_bytes().saturating_sub(hot.used_bytes.get());
        let slots_left = left.saturating_sub(extent) / size_of::<Slot>() as u64;
        if slots_in_use(hot) < slots_left {
            return Ok(());
        }
        self.is_within_exact_limit(extent)
    }

    #[cold]
    fn is_within_exact_limit(&self, extent: u64) -> Result<(), Error> {
        let hot = self.hot();
        let slot = size_of::<Slot>() as u64;
        let needed = slot + extent;
        let extents = hot.used_bytes.get().saturating_sub(hot.lent_bytes.get());
        let payloads = extents.saturating_sub(hot.bytes_cached());
        let used = slots_in_use(hot).saturating_mul(slot).saturating_add(payloads);
        if used.saturating_add(needed) > self.max_bytes() {
            return Err(self.out_of_memory(needed, used));
        }
        Ok(())
    }

    #[inline(always)]
    fn max_bytes(&self) -> u64 {
        self.shared.options.max_bytes.unwrap_or(u64::MAX)
    }

    /// Takes a slot, and an extent if the payload does not fit in it. If there is none, answers what has to
    /// grow first.
    #[inline(always)]
    pub(crate) fn try_reserve(&mut self, len: u64) -> Result<Result<Reserved, Growth>, Error> {
        let needed = extent_for(len);
        let kept = match needed {
            Some(_) if len <= SMALL as u64 => self.pop_cached()?,
            _ => None,
        };
        let slot = match kept {
            Some((slot, extent)) if needed == Some(u64::from(extent.granules)) => {
                fault!("put.kept-popped");
                let start = self.slot(slot)?.prev.get();
                self.ahead = Ahead::to_write(start, len);
                return Ok(Ok(Reserved {
                    slot,
                    extent: Some(extent),
                    is_backed: true,
                }));
            }
            Some((slot, extent)) => {
                self.free_payload(extent)?;
                slot
            }
            // What `pop_slot` does. The compiler would pass its nested result through the stack.
            None => match self.pop_free(&self.hot().free)? {
                Some(slot) => slot,
                None => match self.pop_unlisted_slot()? {
                    Ok(slot) => slot,
                    Err(growth) => return Ok(Err(growth)),
                },
            },
        };
        fault!("put.slot-popped");
        if needed.is_none() {
            return Ok(Ok(Reserved {
                slot,
                extent: None,
                is_backed: true,
            }));
        }
        let mut allocated = self.allocate(len);
        if matches!(allocated, Err(Error::OutOfMemory { .. })) {
            // Cached extents and empty divided spans must not stand in the way.
            self.release_cached()?;
            self.release_spans()?;
            allocated = self.allocate(len);
        }
        match allocated {
            Ok(Ok(allocation)) => Ok(Ok(Reserved {
                slot,
                extent: Some(allocation.extent),
                is_backed: allocation.is_backed,
            })),
            Ok(Err(growth)) => {
                self.push_slot(slot)?;
                Ok(Err(growth))
            }
            Err(error) => {
                self.push_slot(slot)?;
                Err(error)
            }
        }
    }

    /// Copies a small payload into what was reserved for it, and claims that: the item waits for a place.
    pub(crate) fn claim_small(
        &mut self,
        reserved: &Reserved,
        payload: &[&[u8]],
        len: u64,
    ) -> Result<Lease, Error> {
        let slot = self.slot(reserved.slot)?;
        slot.fill(reserved.extent, len);
        let target = self.shared.segment.target(slot, reserved.extent, len)?;
        // SAFETY: as in publish_small.
        unsafe { self.shared.segment.copy_in(target, payload) };
        fault!("put.filled");
        let claim = self.claim(reserved.slot, 0)?;
        fault!("claim.committed");
        self.hold(reserved.slot)?;
        Ok(claim)
    }

    /// Copies a small payload into what was reserved for it, and publishes it.
    #[inline(always)]
    pub(crate) fn publish_small(
        &mut self,
        reserved: &Reserved,
        payload: &[&[u8]],
        len: u64,
    ) -> Result<Ticket, Error> {
        let slot = self.slot(reserved.slot)?;
        slot.fill(reserved.extent, len);
        let segment = &self.shared.segment;
        let target = segment.target(slot, reserved.extent, len)?;
        // SAFETY: the slot is off the free list and its extent, allocated now or cached in the slot, is
        // marked as taken, so no other thread uses either while this thread holds the lock; `len` is the sum
        // of the parts.
        unsafe { segment.copy_in(target, payload) };
        fault!("put.filled");
        let ticket = self.publish((reserved.slot, slot), len)?;
        let hot = self.hot();
        let next = if reserved.extent.is_some() {
            &hot.cached.next
        } else {
            &hot.free.next
        };
        if next.get() != 0 {
            segment.prefetch_slot(next.get());
        }
        Ok(ticket)
    }

    /// The same, and its time has not come until `due`.
    pub(crate) fn publish_small_delayed(
        &mut self,
        reserved: &Reserved,
        payload: &[&[u8]],
        len: u64,
        due: u64,
    ) -> Result<Ticket, Error> {
        let slot = self.slot(reserved.slot)?;
        slot.fill(reserved.extent, len);
        let target = self.shared.segment.target(slot, reserved.extent, len)?;
        // SAFETY: as in publish_small.
        unsafe { self.shared.segment.copy_in(target, payload) };
        fault!("put.filled");
        self.publish_delayed((reserved.slot, slot), len, due)
    }

    /// The error of a put for which the queue has no memory.
    #[cold]
    pub(crate) fn out_of_memory(&self, needed: u64, used: u64) -> Error {
        Error::OutOfMemory {
            needed,
            used,
            limit: self.max_bytes(),
            taken: u32::try_from(taken_items(self.hot())).unwrap_or(u32::MAX),
            taken_bytes: self.taken_bytes(),
        }
    }

    /// Memory of the items that are taken and not finished, in bytes: slots and extents. 0 for a plain queue.
    pub(crate) fn taken_bytes(&self) -> u64 {
        let hot = self.hot();
        if !self.shared.options.acknowledged {
            return 0;
        }
        let slots = taken_items(hot).saturating_sub(unfinished_given_up(hot));
        hot.taken_bytes
            .get()
            .saturating_add(slots.saturating_mul(size_of::<Slot>() as u64))
    }

    /// Claims a free span, so that memory can be put behind it. `None` if there is no slot for the claim.
    pub(crate) fn claim_span(&mut self, span: u32) -> Result<Option<Lease>, Error> {
        let Ok(slot) = self.pop_slot()? else {
            return Ok(None);
        };
        let extent = Extent {
            start: span * GRANULES_PER_SPAN,
            granules: GRANULES_PER_SPAN,
        };
        self.mark_run(span, 1, true)?;
        self.set_backing(span, self.shared.segment.backing(span)?.get() | MAYBE_MORE)?;
        self.slot(slot)?.fill(Some(extent), 0);
        let claim = self.claim(slot, 0)?;
        self.hold(slot)?;
        Ok(Some(claim))
    }

    /// Claims free spans that have memory behind them, at most `most`, so that it can be given back: the next
    /// ones below `end`, which it lowers.
    pub(crate) fn claim_backed_run(&mut self, end: &mut u32, most: u32) -> Result<BackedRun, Error> {
        let (first, last) = self.find_backed_run(*end, most)?;
        *end = first;
        if first == last {
            return Ok(if first == 0 {
                BackedRun::None
            } else {
                BackedRun::MoreToCome
            });
        }
        let Ok(slot) = self.pop_slot()? else {
            return Ok(BackedRun::None);
        };
        let extent = Extent {
            start: first * GRANULES_PER_SPAN,
            granules: (last - first) * GRANULES_PER_SPAN,
        };
        self.mark_run(first, last - first, true)?;
        for span in first..last {
            // From here on these pages do not count as backed. If this process dies before it punches,
            // MAYBE_MORE lets a later trim find them again.
            self.set_backing(
                span,
                self.shared.segment.backing(span)?.get() & BACKED_DESCRIPTOR | MAYBE_MORE,
            )?;
        }
        self.slot(slot)?.fill(Some(extent), 0);
        let claim = self.claim(slot, 0)?;
        self.hold(slot)?;
        Ok(BackedRun::Claimed(claim, extent))
    }

    /// The highest run of free spans below `end` that have memory: where it begins, and where it ends. Both
    /// are the same if there is none among the next [`SPANS_AT_A_TIME`], and 0 if there are no more spans.
    fn find_backed_run(&self, end: u32, most: u32) -> Result<(u32, u32), Error> {
        let (hot, segment) = (self.hot(), &self.shared.segment);
        let high = hot.spans_high.get().min(segment.spans_end());
        let mut left = SPANS_AT_A_TIME;
        let is_taken = |span: u32| Ok(segment.bitmap(span)?.get() >> (span % 64) & 1 != 0);
        let has_memory = |span: u32| Ok(segment.backing(span)?.get() & (BACKED_PAGES | MAYBE_MORE) != 0);
        // Not all numbers are spans: the end of the highest ones below `end`.
        let spans_end = |end: u32| segment.spans_below(end).next_back().map_or(0, |span| span + 1);
        let is_first = end >= high;
        let mut end = spans_end(end.min(high));
        if is_first {
            while left > 0 && end > 0 && !is_taken(end - 1)? && !has_memory(end - 1)? {
                (end, left) = (spans_end(end - 1), left - 1);
            }
            // The spans above are free and have nothing behind them: no trim needs to read them again.
            hot.spans_high.set(end);
        }
        while left > 0 && end > 0 && (is_taken(end - 1)? || !has_memory(end - 1)?) {
            (end, left) = (spans_end(end - 1), left - 1);
        }
        if end == 0 {
            return Ok((0, 0));
        }
        let (row, mut first) = (segment.row_of(end - 1), end);
        while left > 0
            && first > row.start
            && end - first < most
            && !is_taken(first - 1)?
            && has_memory(first - 1)?
        {
            (first, left) = (first - 1, left - 1);
        }
        Ok((first, end))
    }
}
