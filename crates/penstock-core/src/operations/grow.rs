//! Growth: a put that lacks backed memory extends it, outside the lock.

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::memory::layout::{GRANULES_PER_SPAN, SPAN, Slot, SpanDescriptor};
use crate::memory::payload::Extent;
use crate::options::Wait;
use crate::state::heap::Growth;
use crate::state::pages::SLOTS_AT_A_TIME;
use crate::sync::Word;
use crate::units::PAGE;

/// Spans whose bitmap and backing bytes are extended at a time: one page of backing bytes.
const TRACKING_STEP: u32 = PAGE as u32;

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
            Growth::Tracking(spans) => self.grow_tracking(section, spans, wait),
            Growth::Span => self.grow_span(section, wait),
        }
    }

    /// Doubles the slots, in steps of at most 1 MiB. Those come first whose memory was given back.
    fn grow_slots<'q>(&'q self, mut section: Guard<'q>, wait: &mut Wait<'_>) -> Result<(), Error> {
        let hot = section.hot();
        let (old, capacity) = (hot.slots_backed.get(), self.shared.segment.geometry.slots);
        let mut trims = hot.slot_trims.get();
        if let Some(pages) = section.find_absent_pages()? {
            drop(section);
            let start = self.shared.segment.geometry.slots_at + u64::from(pages.start) * PAGE;
            self.shared
                .segment
                .back(start, (pages.end - pages.start) as u64 * PAGE)?;
            fault!("grow.backed");
            return self.enter(wait)?.note_pages_backed(pages, trims);
        }
        if old >= capacity {
            return Err(section.out_of_memory(size_of::<Slot>() as u64, hot.used_bytes.get()));
        }
        let new = old.saturating_add(old.clamp(32, SLOTS_AT_A_TIME)).min(capacity);
        let at =
            |slot: u32| self.shared.segment.geometry.slots_at + u64::from(slot) * size_of::<Slot>() as u64;
        loop {
            drop(section);
            self.shared.segment.back(at(old), at(new) - at(old))?;
            fault!("grow.backed");
            section = self.enter(wait)?;
            section.note_slots_backed((old, new), trims)?;
            if section.is_growth_noted((old, new))? {
                return Ok(());
            }
            trims = hot.slot_trims.get();
        }
    }

    /// Extends bitmap and backing bytes by at least `spans`, up to the number of spans that there are.
    fn grow_tracking(&self, section: Guard<'_>, spans: u32, wait: &mut Wait<'_>) -> Result<(), Error> {
        let hot = section.hot();
        let old = hot.spans_tracked.get();
        drop(section);
        let all = self.shared.segment.geometry.spans;
        let new = old
            .saturating_add(spans.div_ceil(TRACKING_STEP).saturating_mul(TRACKING_STEP))
            .min(all);
        if new <= old {
            return Err(Error::Corrupt {
                id: self.shared.segment.id,
                what: "more spans are tracked than there are",
            });
        }
        self.shared.segment.back(
            self.shared.segment.geometry.backing_at + u64::from(old),
            u64::from(new - old),
        )?;
        let words = |span: u32| self.shared.segment.geometry.bitmap_at + u64::from(span / 64) * 8;
        self.shared
            .segment
            .back(words(old), words(new - 1) + 8 - words(old))?;
        fault!("grow.backed");
        self.enter(wait)?.note_spans_tracked(old, new);
        Ok(())
    }

    /// Puts memory behind a free span and its descriptor. A slot claims the span meanwhile, as it claims a
    /// payload's memory.
    fn grow_span<'q>(&'q self, mut section: Guard<'q>, wait: &mut Wait<'_>) -> Result<(), Error> {
        // Something else may be missing by now, which the caller's next attempt finds.
        let Ok(span) = section.find_run(1)? else {
            return Ok(());
        };
        let Some(slot) = section.claim_span(span)? else {
            return self.grow_slots(section, wait);
        };
        let extent = Extent {
            start: span * GRANULES_PER_SPAN,
            granules: GRANULES_PER_SPAN,
        };
        drop(section);
        let descriptor_at = self.shared.segment.geometry.descriptors_at
            + u64::from(span) * size_of::<SpanDescriptor>() as u64;
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
        self.release_claim_or_put_off(slot, entered, |section| {
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
