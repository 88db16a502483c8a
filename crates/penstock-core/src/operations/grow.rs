//! Growth: a put that lacks backed memory, or a range of it, extends it, outside the lock.
//!
//! memory/ranges.rs has the crash table of a new range.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | slots: memory put behind them | it stays: the next growth repeats that, the next trim finds it |
//! | span: CLAIMED | the sweep frees it |
//! | span: memory put behind it and its descriptor | the same; a later trim finds the memory |
//! | backing raised, span free | the next put divides it |

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::memory::layout::{GRANULES_PER_SPAN, SLOTS_PER_PAGE, SPAN, Slot};
use crate::memory::payload::Extent;
use crate::memory::ranges::NewRange;
use crate::options::Wait;
use crate::state::heap::Growth;
use crate::state::pages::SLOTS_AT_A_TIME;
use crate::sync::Word;
use crate::units::PAGE;

impl Queue {
    /// Extends what a put lacked, with the lock released, and enters again. Safe to repeat and to race.
    pub(crate) fn grow<'q>(
        &'q self,
        section: Guard<'q>,
        growth: Growth,
        wait: &mut Wait<'_>,
    ) -> Result<(), Error> {
        match growth {
            Growth::Slots => self.grow_slots(section, wait),
            Growth::Range(spans) => self.grow_heap(section, spans, wait),
            Growth::Span => self.grow_span(section, wait),
        }
    }

    /// Doubles the slots, in steps of at most 1 MiB. Those come first whose memory was given back.
    fn grow_slots<'q>(&'q self, mut section: Guard<'q>, wait: &mut Wait<'_>) -> Result<(), Error> {
        let (hot, segment) = (section.hot(), &self.shared.segment);
        let (old, mut trims) = (hot.slots_backed.get(), hot.slot_trims.get());
        let at = |slot: u32| segment.geometry.slot_at(slot);
        if let Some(pages) = section.find_absent_pages()? {
            drop(section);
            let (start, end) = (at(pages.start * SLOTS_PER_PAGE), at(pages.end * SLOTS_PER_PAGE));
            segment.back(start, end - start)?;
            fault!("grow.backed");
            return self.enter(wait)?.note_pages_backed(pages, trims);
        }
        let new = old.saturating_add(old.clamp(32, SLOTS_AT_A_TIME));
        let (mapped, ranges) = (segment.slots_end(), segment.ranges());
        if old < mapped {
            let new = new.min(mapped);
            loop {
                drop(section);
                segment.back(at(old), at(new) - at(old))?;
                fault!("grow.backed");
                section = self.enter(wait)?;
                section.note_slots_backed((old, new), trims)?;
                if section.is_growth_noted((old, new))? {
                    return Ok(());
                }
                trims = hot.slot_trims.get();
            }
        }
        let error = section.out_of_memory(size_of::<Slot>() as u64, hot.used_bytes.get());
        drop(section);
        let Some(range) = segment.map_more_slots(ranges, new)? else {
            return Err(error);
        };
        self.add_range(range, wait)
    }

    /// Gives the heap a range in which a run of so many spans fits.
    fn grow_heap(&self, section: Guard<'_>, spans: u32, wait: &mut Wait<'_>) -> Result<(), Error> {
        let ranges = self.shared.segment.ranges();
        let error = section.out_of_memory(u64::from(spans) * SPAN, section.hot().used_bytes.get());
        drop(section);
        let Some(range) = self.shared.segment.map_more_heap(ranges, spans)? else {
            return Err(error);
        };
        self.add_range(range, wait)
    }

    /// Gives the queue a range that this process has mapped. If another was quicker, its range may do as
    /// well: the caller's next attempt finds that out.
    fn add_range(&self, range: NewRange, wait: &mut Wait<'_>) -> Result<(), Error> {
        let section = self.enter(wait)?;
        let in_vain = self.shared.segment.add_range(range).err();
        // It is unmapped after the release of the lock.
        drop(section);
        drop(in_vain);
        Ok(())
    }

    /// Puts memory behind a free span and its descriptor. A slot claims the span meanwhile, as it claims a
    /// payload's memory.
    fn grow_span<'q>(&'q self, mut section: Guard<'q>, wait: &mut Wait<'_>) -> Result<(), Error> {
        // Something else may be missing by now, which the caller's next attempt finds.
        let Ok(span) = section.find_run(1)? else {
            return Ok(());
        };
        let Some(claim) = section.claim_span(span)? else {
            return self.grow_slots(section, wait);
        };
        let extent = Extent {
            start: span * GRANULES_PER_SPAN,
            granules: GRANULES_PER_SPAN,
        };
        drop(section);
        let descriptor_at = self.shared.segment.geometry.descriptor_at(span);
        let backed = self
            .shared
            .segment
            .back(self.shared.segment.extent_at(extent, SPAN)?, SPAN)
            .and_then(|()| self.shared.segment.back(descriptor_at / PAGE * PAGE, PAGE));
        fault!("grow.backed");
        let is_punched = backed.is_err()
            && self
                .shared
                .segment
                .punch(self.shared.segment.extent_at(extent, SPAN)?, SPAN);
        let entered = self.enter(wait);
        let in_vain = entered.as_ref().err().cloned();
        self.release_claim_or_put_off(claim, entered, |section| {
            if backed.is_ok() {
                section.note_backed(extent, SPAN)?;
                section.note_descriptor_backed(span)?;
            } else if is_punched {
                section.note_punched(extent)?;
            }
            Ok(())
        })?;
        in_vain.map_or(backed, Err)
    }
}
