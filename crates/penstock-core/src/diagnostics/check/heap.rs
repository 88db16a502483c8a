//! The heap's bitmap, descriptors and backing bytes against the extents in use.

use super::{Inspection, Use};
use crate::memory::layout::*;
use crate::state::heap::{
    BACKED_DESCRIPTOR, BACKED_PAGES, CLASSES, MAYBE_MORE, MORE_BEFORE, class_of, pages_at_most, pages_needed,
    pages_of,
};
use crate::sync::Word;

/// The bitmap, descriptor and backing byte of one span.
struct Span {
    index: u32,
    backing: u8,
    is_taken: bool,
    /// Size class + 1, or 0; also 0 if the descriptor is not backed.
    class: u32,
}

impl Inspection<'_> {
    pub(super) fn inspect_heap(&mut self) {
        let hot = self.hot();
        let spans = self.segment().geometry.spans;
        let tracked = self.sizes().1 as u32;
        self.walk_partial_lists(tracked);
        self.uses.sort_unstable_by_key(|used| used.extent.start);
        let segment = self.segment();
        let is_inside = |used: &Use| {
            let end = u64::from(used.extent.start) + u64::from(used.extent.granules);
            let row = segment.row_of(used.extent.start / GRANULES_PER_SPAN);
            used.extent.granules > 0 && end <= u64::from(row.end) * u64::from(GRANULES_PER_SPAN)
        };
        for i in 0..self.uses.len() {
            if !is_inside(&self.uses[i]) {
                self.finding(
                    "slot",
                    Some(self.uses[i].slot),
                    "its extent lies outside the heap",
                );
            }
        }
        self.uses.retain(is_inside);
        for i in 1..self.uses.len() {
            let (before, used) = (self.uses[i - 1], self.uses[i]);
            if used.extent.start < before.extent.start + before.extent.granules {
                self.finding("slot", Some(used.slot), "its extent overlaps another's");
            }
        }

        let (mut pages, mut hint, mut highest, mut next) = (0, u32::MAX, 0, 0);
        let mut run_end = 0;
        for index in segment.spans_below(u32::MAX) {
            let Some(span) = self.span(index) else { return };
            pages += u64::from(pages_at_most(span.backing));
            if span.is_taken {
                self.found.spans += 1;
            } else {
                hint = hint.min(index);
            }
            if span.is_taken || span.backing & (BACKED_PAGES | MAYBE_MORE) != 0 {
                highest = index + 1;
            }
            let first = next;
            while next < self.uses.len() && self.uses[next].extent.start / GRANULES_PER_SPAN == index {
                next += 1;
            }
            let is_run = next > first && class_of(self.uses[first].extent.granules).is_none();
            if is_run {
                run_end = self.inspect_run(first, index);
            }
            self.inspect_span(
                &span,
                index < run_end,
                if is_run { next..next } else { first..next },
            );
        }
        self.compare("spans_used", hot.spans_used.get(), self.found.spans);
        self.compare("pages_backed", hot.pages_backed.get(), pages);
        self.at_most(
            "span_hint",
            u64::from(hot.span_hint.get()),
            u64::from(hint.min(spans)),
        );
        // A trim searches below it only.
        self.at_least("spans_high", u64::from(hot.spans_high.get()), u64::from(highest));
        self.at_most("spans_high", u64::from(hot.spans_high.get()), u64::from(tracked));
    }

    fn span(&mut self, index: u32) -> Option<Span> {
        let segment = self.segment();
        let backing = segment.backing(index).ok()?.get();
        if backing & (MAYBE_MORE | MORE_BEFORE) == MORE_BEFORE || backing & BACKED_PAGES > PAGES_PER_SPAN {
            self.finding("span", Some(index), "its backing byte is impossible");
        }
        let has_descriptor = backing & BACKED_DESCRIPTOR != 0;
        Some(Span {
            index,
            backing,
            is_taken: segment.bitmap(index).ok()?.get() >> (index % 64) & 1 != 0,
            class: if has_descriptor {
                segment.descriptor(index).ok()?.class.get()
            } else {
                0
            },
        })
    }

    /// A run of whole spans: answers its end. `first` is its place among the uses.
    fn inspect_run(&mut self, first: usize, span: u32) -> u32 {
        let used = self.uses[first];
        if used.extent.start % GRANULES_PER_SPAN != 0 || used.extent.granules % GRANULES_PER_SPAN != 0 {
            self.finding("slot", Some(used.slot), "its run of spans is not whole");
        }
        let spans = used.extent.granules.div_ceil(GRANULES_PER_SPAN);
        for i in 0..spans {
            let backing = self
                .segment()
                .backing(span + i)
                .map_or(0, |backing| backing.get());
            if pages_of(backing) < pages_needed(used.backed, i) {
                self.finding("slot", Some(used.slot), "there is no memory behind its payload");
                break;
            }
        }
        span + spans
    }

    /// One span: `objects` are the uses of its parts.
    fn inspect_span(&mut self, span: &Span, is_in_run: bool, objects: core::ops::Range<usize>) {
        let index = Some(span.index);
        let is_divided = span.class != 0;
        if is_in_run && is_divided {
            self.finding("span", index, "it is divided and part of a run");
        }
        if span.is_taken && !is_in_run && !is_divided {
            self.finding("span", index, "it is taken but not in use");
        }
        if !span.is_taken && (is_in_run || is_divided) {
            self.finding("span", index, "it is in use but not taken");
        }
        if !is_divided {
            for used in objects.clone() {
                self.finding("slot", Some(self.uses[used].slot), "its span is not divided");
            }
        }
        if span.backing & BACKED_DESCRIPTOR == 0 {
            return;
        }
        let Ok(descriptor) = self.segment().descriptor(span.index) else {
            return;
        };
        let (size, mut taken) = match CLASSES.get((span.class as usize).wrapping_sub(1)) {
            Some(size) => (*size, self.objects_taken(*size, objects)),
            None if is_divided => return self.finding("span", index, "it has no known class"),
            None => (0, [0; 8]),
        };
        if is_divided && pages_of(span.backing) < PAGES_PER_SPAN {
            self.finding("span", index, "it is divided without memory behind it");
        }
        let mut used = 0;
        for (word, right) in descriptor.taken.iter().zip(&mut taken) {
            used += right.count_ones();
            if word.get() != *right {
                self.finding_in_numbers("span", index, "its objects taken are others", word.get(), *right);
            }
        }
        if descriptor.used.get() != used {
            let found = u64::from(descriptor.used.get());
            self.finding_in_numbers(
                "span",
                index,
                "a recount of its objects differs",
                found,
                u64::from(used),
            );
        }
        let has_room = is_divided && used < GRANULES_PER_SPAN / size;
        if self.has_room[span.index as usize] != has_room {
            self.finding("span", index, "it has room and is not listed, or the reverse");
        }
    }

    /// The bits of the objects in use; reports those that are none of the span's class.
    fn objects_taken(&mut self, size: u32, objects: core::ops::Range<usize>) -> [u64; 8] {
        let mut taken = [0; 8];
        for i in objects {
            let used = self.uses[i];
            let offset = used.extent.start % GRANULES_PER_SPAN;
            let object = offset / size;
            if used.extent.granules != size || offset % size != 0 || object >= GRANULES_PER_SPAN / size {
                self.finding("slot", Some(used.slot), "its extent is no object of its span");
                continue;
            }
            taken[(object / 64) as usize & 7] |= 1 << (object % 64);
        }
        taken
    }

    fn walk_partial_lists(&mut self, tracked: u32) {
        for (class, head) in self.hot().partial.iter().enumerate() {
            let class_index = Some(class as u32);
            let (mut prev, mut next) = (0, head.get());
            while next != 0 {
                let index = next - 1;
                let is_readable = index < tracked
                    && self
                        .segment()
                        .backing(index)
                        .is_ok_and(|backing| backing.get() & BACKED_DESCRIPTOR != 0);
                let Ok(descriptor) = self.segment().descriptor(index) else {
                    self.finding("spans of class", class_index, "the list leads out of the heap");
                    break;
                };
                if !is_readable {
                    self.finding("spans of class", class_index, "the list leads out of the heap");
                    break;
                }
                if core::mem::replace(&mut self.has_room[index as usize], true) {
                    self.finding("span", Some(index), "it is listed twice");
                    break;
                }
                if descriptor.class.get() != class as u32 + 1 {
                    self.finding("span", Some(index), "it is on the list of another class");
                }
                if descriptor.prev.get() != prev {
                    let found = u64::from(descriptor.prev.get());
                    self.finding_in_numbers(
                        "span",
                        Some(index),
                        "the link back is wrong",
                        found,
                        u64::from(prev),
                    );
                }
                (prev, next) = (next, descriptor.next.get());
            }
        }
    }
}
