//! Memory that a queue has and does not use, and the note of a process about it (operations/trim.rs).

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;

use crate::handle::queue::Queue;
use crate::memory::layout::{Hot, PAGES_PER_SPAN, SLOTS_PER_PAGE};
use crate::memory::segment::Segment;
use crate::state::Section;
use crate::state::pages::slots_listed;
use crate::sync::Word;
use crate::units::PAGE;

/// The short programs of the fuzzer use little memory.
pub(crate) const IS_FUZZED: bool = cfg!(feature = "fuzzing");

/// Free memory of the heap that calls for a trim if there is more.
pub(crate) const HEAP_SPARE: u64 = if IS_FUZZED { 256 << 10 } else { 8 << 20 };
/// The same of spare pages of slots: 3 MiB, and less for a queue that cannot have many slots.
const PAGES_SPARE: u32 = if IS_FUZZED { 2 } else { 768 };
/// Free slots on the lists that call for a trim if there are more. A trim parks them all.
pub(crate) const SLOTS_LISTED: u64 = if IS_FUZZED { 8 } else { 1024 };

/// More spare pages of slots than these call for a trim.
pub(crate) fn most_spare_pages(segment: &Segment) -> u32 {
    (segment.geometry.slots / SLOTS_PER_PAGE / 8).min(PAGES_SPARE)
}

#[inline(always)]
pub(crate) fn spare_memory(segment: &Segment) -> SpareMemory {
    let hot = segment.hot();
    let used = hot.spans_used.get().wrapping_mul(u64::from(PAGES_PER_SPAN));
    let has_spare_spans = hot.pages_backed.get().wrapping_sub(used) as i64 > (HEAP_SPARE / PAGE) as i64;
    let has_spare_slots = u64::from(hot.slots_backed.get()) > SLOTS_LISTED
        && (hot.pages_spare.get() > most_spare_pages(segment) || has_slots_to_park(hot));
    match hot.ready_count.get() {
        _ if !(has_spare_spans || has_spare_slots) => SpareMemory::None,
        0 => SpareMemory::OfEmptyQueue,
        _ => SpareMemory::BesideItems,
    }
}

#[inline(always)]
fn has_slots_to_park(hot: &Hot) -> bool {
    slots_listed(hot) > SLOTS_LISTED
}

/// Memory that a queue has and does not use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpareMemory {
    /// No more than every queue keeps.
    None,
    BesideItems,
    OfEmptyQueue,
}

/// What a thread has found last, under the lock. A hint: each section may change it.
pub(crate) struct SpareNote(AtomicU8);

impl SpareNote {
    pub(crate) fn new() -> SpareNote {
        SpareNote(AtomicU8::new(SpareMemory::None as u8))
    }

    #[inline(always)]
    pub(crate) fn note(&self, found: SpareMemory) {
        // The threads of a process share its cache line, and find the same most of the time.
        if self.0.load(Relaxed) != found as u8 {
            self.0.store(found as u8, Relaxed);
        }
    }

    #[inline(always)]
    pub(crate) fn noted(&self) -> SpareMemory {
        match self.0.load(Relaxed) {
            1 => SpareMemory::BesideItems,
            2 => SpareMemory::OfEmptyQueue,
            _ => SpareMemory::None,
        }
    }
}

impl Queue {
    /// Notes whether there is memory to give back, for [`is_trim_due`](Self::is_trim_due).
    #[inline(always)]
    pub(crate) fn note_spare(&self, section: &Section<'_>) {
        self.spare.note(spare_memory(&section.shared.segment));
    }
}
