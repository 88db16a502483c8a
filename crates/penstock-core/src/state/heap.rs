//! The heap for payloads that do not fit in a slot: size classes in spans of 64 KiB, and runs of whole spans.
//!
//! All of it is cache except the backing bytes: what is taken follows from the extents of the slots that are
//! not FREE, and the rebuild marks it anew. (Free slots may cache small extents, slot.rs.) No bookkeeping
//! lies inside the payload area.
//!
//! ```text
//! bitmap       one bit a span: taken (part of a run, or divided)
//! backing      one byte a span: pages backed (bits 0..5), descriptor backed (bit 5), maybe more (bit 6),
//!              more since before the putter that is extending it came (bit 7)
//! descriptor   of a divided span: its class, and one bit an object
//! ```
//!
//! A backing byte may say too little, never too much: it grows after `fallocate` has succeeded, and shrinks
//! before a hole is punched. So a page that it promises can be touched without a fault for want of memory.

use crate::error::Error;
use crate::memory::layout::*;
use crate::memory::payload::Extent;
use crate::state::Section;
use crate::state::list::{Links, prepend, remove};
use crate::sync::{Count, LockedU32, Word};
use crate::units::{INLINE, PAGE, SMALL};

/// Sizes of objects, in granules of 128 bytes: at most a third of an object is unused.
pub(crate) const CLASSES: [u32; 16] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];
pub(crate) const BACKED_PAGES: u8 = 0b1_1111;
pub(crate) const BACKED_DESCRIPTOR: u8 = 1 << 5;
/// A putter is extending the span, or has died or was refused in that: any of its pages may have memory.
pub(crate) const MAYBE_MORE: u8 = 1 << 6;
/// It was MAYBE_MORE when the putter came: that may be so behind the pages, too, that this one extends.
pub(crate) const MORE_BEFORE: u8 = 1 << 7;

/// How many spans of a class a put scans for an empty one, when the heap is full.
const PARTIAL_PROBES: u32 = 64;

pub(crate) fn class_of(granules: u32) -> Option<usize> {
    (granules <= CLASSES[CLASSES.len() - 1]).then(|| CLASSES.partition_point(|size| *size < granules))
}

pub(crate) fn pages_of(byte: u8) -> u8 {
    (byte & BACKED_PAGES).min(PAGES_PER_SPAN)
}

/// The pages that may be backed, for deciding when to give memory back.
pub(crate) fn pages_at_most(byte: u8) -> u8 {
    if byte & MAYBE_MORE != 0 {
        PAGES_PER_SPAN
    } else {
        pages_of(byte)
    }
}

/// The size of the object, in granules, for so many granules of a small payload.
const SMALL_SIZES: [u32; SMALL.div_ceil(GRANULE as usize) + 1] = {
    let mut sizes = [0; SMALL.div_ceil(GRANULE as usize) + 1];
    let (mut granules, mut class) = (1, 0);
    while granules < sizes.len() {
        if CLASSES[class] < granules as u32 {
            class += 1;
        }
        sizes[granules] = CLASSES[class];
        granules += 1;
    }
    sizes
};

/// The extent that a payload of this length needs. `None` if it fits in the slot.
#[inline(always)]
pub(crate) fn extent_for(len: u64) -> Option<u64> {
    if len <= INLINE as u64 {
        return None;
    }
    let granules = len.div_ceil(GRANULE);
    Some(match SMALL_SIZES.get(granules as usize) {
        Some(size) => u64::from(*size),
        None => large_extent_for(len),
    })
}

fn large_extent_for(len: u64) -> u64 {
    let granules = len.div_ceil(GRANULE);
    match class_of(granules.min(u64::from(u32::MAX)) as u32) {
        Some(class) => u64::from(CLASSES[class]),
        None => len.div_ceil(SPAN) * u64::from(GRANULES_PER_SPAN),
    }
}

/// Whether an extent can be the object of a payload of this length, by its place alone.
#[inline(always)]
pub(crate) fn is_object(extent: Extent, len: u64) -> bool {
    let (place, size) = (extent.start % GRANULES_PER_SPAN, extent.granules);
    extent_for(len) == Some(u64::from(size)) && place % size == 0 && place + size <= GRANULES_PER_SPAN
}

/// What growth a put has to wait for, outside the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// More slots.
    Slots,
    /// A span for small payloads.
    Span,
    /// A range of the heap, with room for a run of so many spans.
    Range(u32),
}

/// An extent, and whether memory stands behind all of it already.
pub(crate) struct Allocation {
    pub extent: Extent,
    pub is_backed: bool,
}

impl Section<'_> {
    /// Takes room for a payload that does not fit in its slot. The commit of the slot's state makes it true:
    /// without it, the rebuild frees the room.
    pub(crate) fn allocate(&mut self, len: u64) -> Result<Result<Allocation, Growth>, Error> {
        let granules = extent_for(len).unwrap_or(1);
        let allocated = match class_of(granules.min(u64::from(u32::MAX)) as u32) {
            Some(class) => self.allocate_object(class)?.map(|extent| Allocation {
                extent,
                is_backed: true,
            }),
            None => {
                let spans = u32::try_from(granules / u64::from(GRANULES_PER_SPAN)).unwrap_or(u32::MAX);
                self.allocate_run(spans, len)?
            }
        };
        if let Ok(allocation) = &allocated {
            self.hot().used_bytes.add(allocation.extent.bytes());
        }
        Ok(allocated)
    }

    /// Whether room for a payload would be new memory.
    #[cfg(not(loom))]
    pub(crate) fn would_grow(&self, len: u64) -> Result<bool, Error> {
        let granules = extent_for(len).unwrap_or(1);
        let spans = match class_of(granules.min(u64::from(u32::MAX)) as u32) {
            Some(class) if self.hot().partial[class].get() != 0 => return Ok(false),
            Some(_) => 1,
            None => u32::try_from(granules / u64::from(GRANULES_PER_SPAN)).unwrap_or(u32::MAX),
        };
        let first = match self.find_run(spans) {
            Ok(Ok(first)) => first,
            Ok(Err(_)) | Err(Error::OutOfMemory { .. }) => return Ok(true),
            Err(error) => return Err(error),
        };
        let is_object = granules <= u64::from(CLASSES[CLASSES.len() - 1]);
        for i in 0..spans {
            let backing = self.shared.segment.backing(first + i)?.get();
            let is_backed = if is_object {
                pages_of(backing) == PAGES_PER_SPAN && backing & BACKED_DESCRIPTOR != 0
            } else {
                pages_of(backing) >= pages_needed(len, i)
            };
            if !is_backed {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn allocate_object(&mut self, class: usize) -> Result<Result<Extent, Growth>, Error> {
        let hot = self.hot();
        let mut span = hot.partial[class].get();
        if span == 0 {
            let found = match self.find_run(1)? {
                Ok(found) => found,
                Err(growth) => return Ok(Err(growth)),
            };
            let backing = self.shared.segment.backing(found)?.get();
            if pages_of(backing) < PAGES_PER_SPAN || backing & BACKED_DESCRIPTOR == 0 {
                return Ok(Err(Growth::Span));
            }
            self.mark_run(found, 1, true)?;
            let descriptor = self.shared.segment.descriptor(found)?;
            descriptor.class.set(class as u32 + 1);
            descriptor.used.set(0);
            for word in &descriptor.taken {
                word.set(0);
            }
            self.push_partial(class, found)?;
            span = found + 1;
        }
        let span = span - 1;
        let descriptor = self.shared.segment.descriptor(span)?;
        let (size, capacity) = (CLASSES[class], GRANULES_PER_SPAN / CLASSES[class]);
        if descriptor.class.get() != class as u32 + 1 {
            return Err(self.corrupt("a span is on the list of another class"));
        }
        for (i, word) in descriptor.taken.iter().enumerate() {
            let taken = word.get();
            let object = i as u32 * 64 + (!taken).trailing_zeros();
            if taken == u64::MAX || object >= capacity {
                continue;
            }
            word.set(taken | 1 << (object % 64));
            descriptor.used.add(1);
            if descriptor.used.get() == capacity {
                self.unlink_partial(class, span)?;
            }
            return Ok(Ok(Extent {
                start: span * GRANULES_PER_SPAN + object * size,
                granules: size,
            }));
        }
        Err(self.corrupt("a span on the list of those with room is full"))
    }

    fn allocate_run(&mut self, spans: u32, len: u64) -> Result<Result<Allocation, Growth>, Error> {
        let first = match self.find_run(spans)? {
            Ok(first) => first,
            Err(growth) => return Ok(Err(growth)),
        };
        self.mark_run(first, spans, true)?;
        let mut is_backed = true;
        for i in 0..spans {
            let backing = self.shared.segment.backing(first + i)?.get();
            if pages_of(backing) < pages_needed(len, i) {
                let before = if backing & MAYBE_MORE != 0 { MORE_BEFORE } else { 0 };
                self.set_backing(first + i, backing | MAYBE_MORE | before)?;
                is_backed = false;
            }
        }
        let extent = Extent {
            start: first * GRANULES_PER_SPAN,
            granules: spans * GRANULES_PER_SPAN,
        };
        Ok(Ok(Allocation { extent, is_backed }))
    }

    /// Changes what is known of a span's memory, and the sum of it.
    pub(crate) fn set_backing(&self, span: u32, new: u8) -> Result<(), Error> {
        let backing = self.shared.segment.backing(span)?;
        let pages = &self.hot().pages_backed;
        pages.sub(u64::from(pages_at_most(backing.get())));
        pages.add(u64::from(pages_at_most(new)));
        backing.set(new);
        Ok(())
    }

    /// Books that `fallocate` has put memory behind a run for a payload of `len` bytes.
    pub(crate) fn note_backed(&mut self, extent: Extent, len: u64) -> Result<(), Error> {
        for i in 0..extent.granules / GRANULES_PER_SPAN {
            let span = extent.start / GRANULES_PER_SPAN + i;
            let old = self.shared.segment.backing(span)?.get();
            let pages = pages_needed(len, i);
            if pages > pages_of(old) {
                let maybe = if pages == PAGES_PER_SPAN || old & MORE_BEFORE == 0 {
                    0
                } else {
                    MAYBE_MORE
                };
                self.set_backing(span, old & BACKED_DESCRIPTOR | maybe | pages)?;
            }
        }
        self.hot().grown.set(1);
        Ok(())
    }

    /// The same of a span's descriptor.
    pub(crate) fn note_descriptor_backed(&mut self, span: u32) -> Result<(), Error> {
        self.set_backing(span, self.shared.segment.backing(span)?.get() | BACKED_DESCRIPTOR)
    }

    /// The spans of an extent that is too large for a size class.
    fn spans_of(&self, extent: Extent) -> Result<u32, Error> {
        if extent.start % GRANULES_PER_SPAN != 0 || extent.granules % GRANULES_PER_SPAN != 0 {
            return Err(self.corrupt("a run is not made of whole spans"));
        }
        Ok(extent.granules / GRANULES_PER_SPAN)
    }

    /// Which object of its span an extent of a size class is.
    fn object_of(&self, extent: Extent, class: usize) -> Result<u32, Error> {
        let size = CLASSES[class];
        let (object, rest) = (
            extent.start % GRANULES_PER_SPAN / size,
            extent.start % GRANULES_PER_SPAN % size,
        );
        if size != extent.granules || rest != 0 || object >= GRANULES_PER_SPAN / size {
            return Err(self.corrupt("an extent is no object of its class"));
        }
        Ok(object)
    }

    /// Returns an extent. Its slot refers to it no more.
    pub(crate) fn free_extent(&mut self, extent: Extent) -> Result<(), Error> {
        self.shared.segment.extent_at(extent, 0)?;
        let span = extent.start / GRANULES_PER_SPAN;
        let Some(class) = class_of(extent.granules) else {
            let spans = self.spans_of(extent)?;
            return self.mark_run(span, spans, false);
        };
        let descriptor = self.shared.segment.descriptor(span)?;
        let capacity = GRANULES_PER_SPAN / CLASSES[class];
        let object = self.object_of(extent, class)?;
        let (word, bit) = (&descriptor.taken[(object / 64) as usize & 7], 1 << (object % 64));
        if descriptor.class.get() != class as u32 + 1 || word.get() & bit == 0 {
            return Err(self.corrupt("an extent is freed that was not taken"));
        }
        word.set(word.get() & !bit);
        descriptor.used.sub(1);
        if descriptor.used.get() + 1 == capacity {
            self.push_partial(class, span)?;
        }
        // One empty span a class is kept divided: a queue that is filled and drained does not divide it again
        // each time.
        if descriptor.used.get() == 0 && (descriptor.prev.get() != 0 || descriptor.next.get() != 0) {
            self.free_span(class, span)?;
        }
        Ok(())
    }

    /// Frees the empty spans that are kept divided. A class has one at most, and the scan for it is bounded.
    pub(crate) fn release_spans(&mut self) -> Result<(), Error> {
        for class in 0..CLASSES.len() {
            let mut next = self.hot().partial[class].get();
            for _ in 0..PARTIAL_PROBES {
                if next == 0 {
                    break;
                }
                let span = next - 1;
                let descriptor = self.shared.segment.descriptor(span)?;
                if descriptor.used.get() == 0 {
                    self.free_span(class, span)?;
                    break;
                }
                next = descriptor.next.get();
            }
        }
        Ok(())
    }

    /// A divided span, of which no object is taken, is free again.
    fn free_span(&mut self, class: usize, span: u32) -> Result<(), Error> {
        self.unlink_partial(class, span)?;
        self.shared.segment.descriptor(span)?.class.set(0);
        self.mark_run(span, 1, false)
    }

    /// The first free run of that many spans: low addresses first, because they are warm.
    pub(crate) fn find_run(&self, spans: u32) -> Result<Result<u32, Growth>, Error> {
        let hot = self.hot();
        let segment = &self.shared.segment;
        let mut at = hot.span_hint.get();
        while let Some(row) = segment.next_row(at) {
            at = row.start;
            let mut free = 0;
            while at < row.end {
                let left = 64 - at % 64;
                let word = segment.bitmap(at)?.get() >> (at % 64);
                if word & 1 == 0 {
                    let zeros = word.trailing_zeros().min(left).min(row.end - at);
                    free += zeros;
                    at += zeros;
                    if free >= spans {
                        return Ok(Ok(at - free));
                    }
                } else {
                    free = 0;
                    at += word.trailing_ones().min(left);
                }
            }
        }
        if segment.heap_after(segment.ranges(), spans).is_none() {
            return Err(self.out_of_memory(u64::from(spans) * SPAN, hot.used_bytes.get()));
        }
        Ok(Err(Growth::Range(spans)))
    }

    /// Marks a run of spans as taken or free.
    pub(crate) fn mark_run(&mut self, first: u32, spans: u32, taken: bool) -> Result<(), Error> {
        let hot = self.hot();
        let end = first.saturating_add(spans);
        let row = self.shared.segment.row_of(first);
        if !row.contains(&first) || end > row.end {
            return Err(self.corrupt("a run of spans lies outside the heap"));
        }
        let mut at = first;
        while at < end {
            let count = (64 - at % 64).min(end - at);
            let mask = (u64::MAX >> (64 - count)) << (at % 64);
            let word = self.shared.segment.bitmap(at)?;
            if word.get() & mask != if taken { 0 } else { mask } {
                return Err(self.corrupt("a span is taken twice, or freed twice"));
            }
            word.set(word.get() ^ mask);
            at += count;
        }
        if taken {
            hot.spans_used.add(u64::from(spans));
            hot.spans_peak.set(hot.spans_peak.get().max(hot.spans_used.get()));
            hot.spans_high.set(hot.spans_high.get().max(end));
            if first == hot.span_hint.get() {
                hot.span_hint.set(end);
            }
        } else {
            hot.spans_used.sub(u64::from(spans));
            hot.span_hint.set(hot.span_hint.get().min(first));
        }
        Ok(())
    }

    fn push_partial(&mut self, class: usize, span: u32) -> Result<(), Error> {
        let head = &self.hot().partial[class];
        prepend(head, span + 1, |link| self.links_of_span(link))
    }

    fn unlink_partial(&mut self, class: usize, span: u32) -> Result<(), Error> {
        let head = &self.hot().partial[class];
        if !remove((head, None), span + 1, |link| self.links_of_span(link))? {
            return Err(self.corrupt("a list of spans is torn"));
        }
        let (next, prev) = self.links_of_span(span + 1)?;
        next.set(0);
        prev.set(0);
        Ok(())
    }

    /// A link to a span is its index plus one.
    fn links_of_span(&self, link: u32) -> Result<Links<'_, LockedU32>, Error> {
        let descriptor = self.shared.segment.descriptor(link.wrapping_sub(1))?;
        Ok((&descriptor.next, &descriptor.prev))
    }

    /// Books that a claimed run has been punched.
    pub(crate) fn note_punched(&mut self, extent: Extent) -> Result<(), Error> {
        for i in 0..extent.granules / GRANULES_PER_SPAN {
            let span = extent.start / GRANULES_PER_SPAN + i;
            self.set_backing(span, self.shared.segment.backing(span)?.get() & BACKED_DESCRIPTOR)?;
        }
        Ok(())
    }

    /// Forgets what is taken; the backing bytes stay.
    pub(crate) fn clear_heap(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        let segment = &self.shared.segment;
        let (mut pages, mut high) = (0, 0);
        for span in segment.spans_below(u32::MAX) {
            if span % 64 == 0 {
                segment.bitmap(span)?.set(0);
            }
            let backing = segment.backing(span)?.get();
            if pages_at_most(backing) > 0 {
                pages += u64::from(pages_at_most(backing));
                high = span + 1;
            }
            if backing & BACKED_DESCRIPTOR != 0 {
                let descriptor = segment.descriptor(span)?;
                descriptor.class.set(0);
                descriptor.used.set(0);
                for word in &descriptor.taken {
                    word.set(0);
                }
            }
        }
        hot.pages_backed.set(pages);
        hot.spans_used.set(0);
        // Free spans with memory behind them lie below it too, or no trim would ever give that memory back.
        hot.spans_high.set(high);
        hot.span_hint.set(0);
        for head in &hot.partial {
            head.set(0);
        }
        Ok(())
    }

    /// Marks the extent of a slot as taken; two slots that claim the same memory are damage.
    pub(crate) fn mark_extent(&mut self, extent: Extent) -> Result<(), Error> {
        self.shared.segment.extent_at(extent, 0)?;
        let span = extent.start / GRANULES_PER_SPAN;
        let Some(class) = class_of(extent.granules) else {
            let spans = self.spans_of(extent)?;
            return self.mark_run(span, spans, true);
        };
        let object = self.object_of(extent, class)?;
        if span >= self.shared.segment.spans_end()
            || self.shared.segment.backing(span)?.get() & BACKED_DESCRIPTOR == 0
        {
            return Err(self.corrupt("an extent lies in a span without a descriptor"));
        }
        let descriptor = self.shared.segment.descriptor(span)?;
        if descriptor.class.get() == 0 {
            self.mark_run(span, 1, true)?;
            descriptor.class.set(class as u32 + 1);
        }
        let (word, bit) = (&descriptor.taken[(object / 64) as usize & 7], 1 << (object % 64));
        if descriptor.class.get() != class as u32 + 1 || word.get() & bit != 0 {
            return Err(self.corrupt("two items lie in the same memory"));
        }
        word.set(word.get() | bit);
        descriptor.used.add(1);
        Ok(())
    }

    /// After all extents are marked: the lists of divided spans with room.
    pub(crate) fn relist_spans(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        for span in self.shared.segment.spans_below(hot.spans_high.get()).rev() {
            if self.shared.segment.backing(span)?.get() & BACKED_DESCRIPTOR == 0 {
                continue;
            }
            let descriptor = self.shared.segment.descriptor(span)?;
            let Some(class) = descriptor.class.get().checked_sub(1) else {
                continue;
            };
            let Some(size) = CLASSES.get(class as usize) else {
                return Err(self.corrupt("a span's class is unknown"));
            };
            if descriptor.used.get() < GRANULES_PER_SPAN / size {
                self.push_partial(class as usize, span)?;
            }
        }
        Ok(())
    }
}

/// Pages of the `i`-th span of a run that a payload of `len` bytes touches.
pub(crate) fn pages_needed(len: u64, i: u32) -> u8 {
    len.saturating_sub(u64::from(i) * SPAN).min(SPAN).div_ceil(PAGE) as u8
}
