//! Ranges: far slots and far spans, which a process maps piece by piece as the queue grows.
//!
//! `Hot::ranges` says how many classes (layout.rs) of slots and of spans there are. It only grows, under the
//! lock, and only by a participant that has mapped what it adds (operations/grow.rs). Each section compares
//! it with what its own process has mapped. A process that lacks a range leaves the section, maps it outside
//! the lock, and enters again (handle/enter.rs). If it has no address space for it, the operation ends with
//! an error and has taken nothing. (An item that a getter was handed before the range was added returns at
//! the next check for the dead: state/hand.rs.) So inside a section all that a sound queue names is mapped. A
//! process that takes the lock over from a dead holder maps all ranges first, because the rebuild reads all
//! slots; if it cannot, it leaves the lock to others.
//!
//! A range of the heap is some classes that each process maps as one piece, because a payload may take all of
//! it: `Hot::heap_seams` says where the ranges end. Slots are found one by one, so that processes may map
//! their classes in different pieces. With a class of slots a process maps the words of its pages
//! (state/pages.rs). A range never moves once it is mapped, and is unmapped with the handle.
//!
//! A range that a process has mapped and the queue does not have yet is its thread's alone: if another thread
//! forks, the child unmaps it.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | range mapped in this process | the kernel unmaps it: nothing happened |
//! | memory put behind its bitmap and its backing bytes | it stays, and the next growth does the same |
//! | seam noted | `ranges` does not count it: the next growth notes its own |
//! | **`ranges` raised** | the range is there, all of it free; the others map it before their next section |
//! | another process: range mapped | as above |
#![allow(unsafe_code)]

use core::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::fault::fault;
use crate::fork;
use crate::memory::layout::*;
use crate::memory::segment::Segment;
use crate::platform;
use crate::sync::{LockedU8, LockedU64, Ordering, Word};
use crate::units::PAGE;

/// The ranges that this process has mapped.
pub(super) struct Mapped {
    ranges: AtomicU32,
    slots_end: AtomicU32,
    slots: [Piece; SLOT_CLASSES],
    /// The words of the pages of those slots. Each piece begins at a whole span of the file.
    pages: [Piece; SLOT_CLASSES],
    heap: [Piece; SPAN_CLASSES],
    books: [Piece; SPAN_CLASSES],
    /// The end of the range in which each class of spans lies.
    ends: [AtomicU32; SPAN_CLASSES],
}

/// Where one class is mapped, or null.
struct Piece {
    base: AtomicPtr<u8>,
    /// The length of the mapping that begins here; 0 if this class lies in another's.
    length: AtomicU64,
}

impl Piece {
    const fn none() -> Piece {
        Piece {
            base: AtomicPtr::new(ptr::null_mut()),
            length: AtomicU64::new(0),
        }
    }

    #[inline(always)]
    fn base(&self) -> Option<NonNull<u8>> {
        // Acquire: pairs with the release in `place`.
        NonNull::new(self.base.load(Ordering::Acquire))
    }

    fn place(&self, base: *mut u8, length: u64) {
        self.length.store(length, Ordering::Relaxed);
        self.base.store(base, Ordering::Release);
    }
}

impl Mapped {
    /// Apart from the segment, so that the compiler takes the fields of that for constant, as they are.
    pub(super) fn boxed() -> Result<Box<[Mapped; 1]>, Error> {
        let mut mapped = Vec::new();
        let refused = || platform::no_memory(size_of::<Mapped>() as u64);
        mapped.try_reserve_exact(1).map_err(|_| refused())?;
        mapped.push(Mapped::empty());
        mapped.into_boxed_slice().try_into().map_err(|_| refused())
    }

    pub(super) const fn empty() -> Mapped {
        Mapped {
            ranges: AtomicU32::new(0),
            slots_end: AtomicU32::new(NEAR_SLOTS),
            slots: [const { Piece::none() }; SLOT_CLASSES],
            pages: [const { Piece::none() }; SLOT_CLASSES],
            heap: [const { Piece::none() }; SPAN_CLASSES],
            books: [const { Piece::none() }; SPAN_CLASSES],
            ends: [const { AtomicU32::new(0) }; SPAN_CLASSES],
        }
    }

    #[inline(always)]
    fn ranges(&self) -> Ranges {
        Ranges(self.ranges.load(Ordering::Relaxed))
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let pieces = self.slots.iter().chain(&self.pages).chain(&self.heap);
        for piece in pieces.chain(&self.books) {
            let length = piece.length.load(Ordering::Relaxed);
            if let (Some(base), true) = (piece.base(), length > 0) {
                // SAFETY: the piece was made of a mapping of that place and length. Each reference into it
                // borrows a segment, and this is dropped with the last of them. (Of a start only matters
                // whether it is 0.)
                unsafe { platform::unmap(base, SPAN, length) };
            }
        }
    }
}

/// A part of the file that is mapped and not in use yet.
struct Mapping {
    base: NonNull<u8>,
    /// Where it begins in the file, in which the queue's own part may begin further on.
    start: u64,
    length: u64,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no reference leads into it.
        unsafe { platform::unmap(self.base, self.start, self.length) };
    }
}

/// A range that this process has mapped and the queue does not have yet. Dropped outside the lock.
pub(crate) struct NewRange {
    from: Ranges,
    to: Ranges,
    parts: Option<Parts>,
    /// What `fork::count` was: in a child of this thread the mappings are gone.
    forks: u32,
}

/// What of a new range is mapped.
enum Parts {
    Slots([Mapping; 2]),
    Heap([Mapping; 2]),
}

/// The mappings of new ranges: base, place in the file, length. Locked only while this process cannot fork,
/// or by the child's hook of a fork.
static PENDING: Mutex<Vec<(usize, u64, u64)>> = Mutex::new(Vec::new());

/// A panic elsewhere leaves the list whole, so poison means nothing.
fn pending() -> MutexGuard<'static, Vec<(usize, u64, u64)>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In a child after a fork: unmaps the new ranges of all threads of the parent.
#[cfg(not(loom))]
pub(crate) fn unmap_new_ranges() {
    for (base, start, length) in core::mem::take(&mut *pending()) {
        if let Some(base) = NonNull::new(base as *mut u8) {
            // SAFETY: a copy of the parent's mapping, into which no reference leads. The thread that has it
            // does not exist here, or finds by `fork::count` that the mapping is gone.
            unsafe { platform::unmap(base, start, length) };
        }
    }
}

impl Parts {
    fn mappings(&self) -> &[Mapping; 2] {
        match self {
            Parts::Slots(mappings) | Parts::Heap(mappings) => mappings,
        }
    }
}

impl NewRange {
    /// Of what was mapped under the same `_no_fork`.
    fn new(
        (from, to): (Ranges, Ranges),
        parts: Option<Parts>,
        _no_fork: &fork::NoFork,
    ) -> Result<NewRange, Error> {
        if let Some(parts) = &parts {
            let mut pending = pending();
            let size = size_of_val(pending.as_slice()) as u64;
            pending
                .try_reserve_exact(2)
                .map_err(|_| platform::no_memory(size))?;
            for mapping in parts.mappings() {
                pending.push((mapping.base.as_ptr() as usize, mapping.start, mapping.length));
            }
        }
        Ok(NewRange {
            from,
            to,
            parts,
            forks: fork::count(),
        })
    }

    /// Whether this is the child of a fork that a signal handler of this thread has made.
    fn is_inherited(&self) -> bool {
        self.forks != fork::count()
    }

    /// The mappings, which are no longer pending. The caller uses or drops them under the same `_no_fork`.
    fn take(&mut self, _no_fork: &fork::NoFork) -> Option<Parts> {
        let parts = self.parts.take()?;
        pending().retain(|(base, ..)| {
            let is_of = |mapping: &Mapping| mapping.base.as_ptr() as usize == *base;
            !parts.mappings().iter().any(is_of)
        });
        Some(parts)
    }
}

impl Drop for NewRange {
    fn drop(&mut self) {
        if self.parts.is_some() {
            // First, because it notices a fork that no handler has seen.
            let no_fork = fork::hold_off();
            let parts = self.take(&no_fork);
            if self.is_inherited() {
                core::mem::forget(parts);
            }
        }
    }
}

impl Segment {
    #[inline(always)]
    fn mapped(&self) -> &Mapped {
        // SAFETY: the mapping of the same segment owns them, and nothing but atomics in them ever changes.
        unsafe { self.mapped.as_ref() }
    }

    /// Whether this process has mapped all ranges. In a section.
    #[inline(always)]
    pub(crate) fn is_all_mapped(&self) -> bool {
        // Acquire: pairs with the release of the store, so that what it counts is found.
        self.hot().ranges.get() == self.mapped().ranges.load(Ordering::Acquire)
    }

    /// The ranges that this process has mapped: in a section, those that there are.
    pub(crate) fn ranges(&self) -> Ranges {
        self.mapped().ranges()
    }

    /// The end of the slots that are mapped.
    #[inline(always)]
    pub(crate) fn slots_end(&self) -> u32 {
        self.mapped().slots_end.load(Ordering::Relaxed)
    }

    /// The end of the spans that are mapped and have books; 0 if none has.
    pub(crate) fn spans_end(&self) -> u32 {
        match self.mapped().ranges().heap() {
            0 => 0,
            1 => self.geometry.near_spans,
            _ => span_class_start(self.mapped().ranges().span_classes()),
        }
    }

    /// The spans below `end` that exist. Not all numbers are spans.
    pub(crate) fn spans_below(&self, end: u32) -> impl DoubleEndedIterator<Item = u32> + use<> {
        let end = end.min(self.spans_end());
        (0..end.min(self.geometry.near_spans)).chain(FAR_SPANS..end)
    }

    /// From `at` on, the next spans in a row in which a run may lie.
    pub(crate) fn next_row(&self, at: u32) -> Option<Range<u32>> {
        let end = self.spans_end();
        if at < end.min(self.geometry.near_spans) {
            return Some(at..self.geometry.near_spans);
        }
        let at = at.max(FAR_SPANS);
        (at < end).then(|| at..self.end_of_row(at))
    }

    #[inline(always)]
    fn end_of_row(&self, span: u32) -> u32 {
        let ends = &self.mapped().ends;
        ends.get(class_of_span(span))
            .map_or(0, |end| end.load(Ordering::Relaxed))
    }

    /// The row in which a span lies. Empty if there is no such span.
    pub(crate) fn row_of(&self, span: u32) -> Range<u32> {
        if span < self.geometry.near_spans {
            return 0..self.geometry.near_spans.min(self.spans_end());
        }
        if span < FAR_SPANS || span >= self.spans_end() {
            return 0..0;
        }
        let end = self.end_of_row(span);
        let mut first = class_of_span(span);
        while first > 0 && self.mapped().ends[first - 1].load(Ordering::Relaxed) == end {
            first -= 1;
        }
        span_class_start(first)..end
    }

    /// The bits of `Hot::heap_seams` for the ranges that are mapped.
    pub(crate) fn seams(&self) -> u64 {
        (0..self.mapped().ranges().span_classes())
            .filter(|class| self.end_of_row(span_class_start(*class)) == span_class_start(class + 1))
            .fold(0, |seams, class| seams | 1 << class)
    }

    // --------------------------------------------------------------------------------------------- mapping

    /// Maps a part of the file.
    fn map_part(&self, part: Range<u64>) -> Result<Mapping, Error> {
        let (start, length) = (self.in_file(part.start), part.end - part.start);
        debug_assert!(part.end <= self.geometry.length && part.start >= self.geometry.near_length);
        let base = match self.fd() {
            Some(fd) => platform::map(fd.get(), start, length)?,
            None => {
                // Whole pages of any system.
                let page = self.geometry.near_length - SPAN;
                // SAFETY: the near memory is longer than a span.
                let known = unsafe { self.base.add(page as usize) };
                platform::map_again(known, part.start - page, start, length)?
            }
        };
        Ok(Mapping { base, start, length })
    }

    fn map_slots(&self, classes: Range<usize>) -> Result<[Mapping; 2], Error> {
        let at = |class: usize| self.geometry.slot_at(slot_class_start(class));
        Ok([
            self.map_part(at(classes.start)..at(classes.end))?,
            self.map_part(self.geometry.slot_pages_of(classes))?,
        ])
    }

    fn map_heap(&self, classes: Range<usize>) -> Result<[Mapping; 2], Error> {
        let at = |class: usize| self.geometry.span_at(span_class_start(class));
        let books_at = |class: usize| self.geometry.books_at(class);
        Ok([
            self.map_part(at(classes.start)..at(classes.end))?,
            self.map_part(books_at(classes.start)..books_at(classes.end))?,
        ])
    }

    fn use_slots(&self, classes: Range<usize>, [slots, pages]: [Mapping; 2]) {
        let end = slot_class_start(classes.end);
        let at = |class: usize| self.geometry.slot_at(slot_class_start(class));
        use_mapping(&self.mapped().slots[classes.clone()], classes.clone(), slots, at);
        let at = |class: usize| self.geometry.slot_pages_of(class..class + 1).start;
        use_mapping(&self.mapped().pages[classes.clone()], classes, pages, at);
        self.mapped().slots_end.store(end, Ordering::Release);
    }

    fn use_heap(&self, classes: Range<usize>, [heap, books]: [Mapping; 2]) {
        let end = span_class_start(classes.end);
        for class in classes.clone() {
            self.mapped().ends[class].store(end, Ordering::Relaxed);
        }
        let at = |class: usize| self.geometry.span_at(span_class_start(class));
        use_mapping(&self.mapped().heap[classes.clone()], classes.clone(), heap, at);
        let at = |class: usize| self.geometry.books_at(class);
        use_mapping(&self.mapped().books[classes.clone()], classes, books, at);
    }

    /// Maps the ranges that others have added. Outside the lock: it makes system calls. `Error::Busy` if the
    /// caller must not wait for another thread that does so, or forks.
    #[cold]
    pub(crate) fn map_ranges(&self, may_wait: bool) -> Result<(), Error> {
        // One thread at a time; and no child with a table that is half filled in.
        let _no_fork = if may_wait {
            fork::hold_off()
        } else {
            fork::try_hold_off().ok_or(Error::Busy)?
        };
        // Acquire: pairs with the release in add_range, for the seams that it counts.
        let there = Ranges(self.hot().ranges.load(Ordering::Acquire));
        let mut mine = self.mapped().ranges();
        if there.0 >> 16 != 0
            || !(mine.slot_classes()..=self.geometry.slot_classes).contains(&there.slot_classes())
            || !(mine.heap()..=self.geometry.span_classes + 1).contains(&there.heap())
        {
            return Err(self.corrupt("the number of ranges is impossible"));
        }
        let slots = mine.slot_classes()..there.slot_classes();
        if !slots.is_empty() {
            self.use_slots(slots.clone(), self.map_slots(slots.clone())?);
            mine = Ranges::new(slots.end, mine.heap());
            self.mapped().ranges.store(mine.0, Ordering::Release);
            fault!("range.mapped");
        }
        let seams = self.hot().heap_seams.get();
        while mine.heap() < there.heap() {
            let first = mine.span_classes();
            let mut heap = 1;
            if there.heap() > 1 {
                let range = first..first + (seams >> first).trailing_zeros() as usize + 1;
                if range.end > there.span_classes() {
                    return Err(self.corrupt("a range of the heap has no end"));
                }
                heap = range.end + 1;
                self.use_heap(range.clone(), self.map_heap(range)?);
            }
            mine = Ranges::new(mine.slot_classes(), heap);
            self.mapped().ranges.store(mine.0, Ordering::Release);
            fault!("range.mapped");
        }
        Ok(())
    }

    /// More slots: maps the classes up to `slots` of them, or as many as there may be. `None` if there are no
    /// more. Outside the lock.
    pub(crate) fn map_more_slots(&self, from: Ranges, slots: u32) -> Result<Option<NewRange>, Error> {
        let (first, last) = (from.slot_classes(), self.geometry.slot_classes);
        if first >= last {
            return Ok(None);
        }
        let classes = first..slot_classes_for(u64::from(slots)).clamp(first + 1, last);
        let to = Ranges::new(classes.end, from.heap());
        let no_fork = fork::hold_off();
        let parts = Parts::Slots(self.map_slots(classes)?);
        let new = NewRange::new((from, to), Some(parts), &no_fork)?;
        drop(no_fork);
        fault!("range.mapped");
        Ok(Some(new))
    }

    /// More heap: maps a range in which a run of so many spans fits. `None` if there is no such range.
    /// Outside the lock.
    pub(crate) fn map_more_heap(&self, from: Ranges, spans: u32) -> Result<Option<NewRange>, Error> {
        let Some(to) = self.heap_after(from, spans) else {
            return Ok(None);
        };
        let to = Ranges::new(from.slot_classes(), to);
        if from.heap() == 0 {
            // The near heap is mapped, and its books have no memory yet.
            let books = self.geometry.backing_at..self.geometry.descriptors_at;
            self.back(books.start, books.end - books.start)?;
        }
        let classes = from.span_classes()..to.span_classes();
        let no_fork = fork::hold_off();
        let parts = if classes.is_empty() {
            None
        } else {
            Some(Parts::Heap(self.map_heap(classes.clone())?))
        };
        let new = NewRange::new((from, to), parts, &no_fork)?;
        drop(no_fork);
        if let Some(Parts::Heap([_, mapping])) = &new.parts {
            fault!("range.mapped");
            for class in classes.clone() {
                let (books, start) = (Books::of(class), self.geometry.books_at(classes.start));
                let at = self.geometry.books_at(class) + books.bitmap_at / PAGE * PAGE - start;
                let end = self.geometry.books_at(class) + books.end - start;
                self.back_new(mapping, at, end.next_multiple_of(PAGE) - at)?;
            }
        }
        fault!("range.backed");
        Ok(Some(new))
    }

    /// Puts memory behind pages of a mapping that is not in use yet.
    fn back_new(&self, mapping: &Mapping, at: u64, length: u64) -> Result<(), Error> {
        debug_assert!(at + length <= mapping.length);
        match self.fd() {
            Some(fd) => platform::back(fd.get(), mapping.start + at, length),
            // SAFETY: the pages lie in the mapping.
            None => platform::back_mapped(unsafe { mapping.base.add(at as usize) }, length),
        }
    }

    /// What the heap's part of `Ranges` is after it has grown by as little as holds a run of so many spans.
    pub(crate) fn heap_after(&self, from: Ranges, spans: u32) -> Option<usize> {
        if from.heap() == 0 && spans <= self.geometry.near_spans {
            return Some(1);
        }
        let first = span_class_start(from.span_classes());
        let end = span_classes_for(u64::from(first - FAR_SPANS) + u64::from(spans));
        let end = end.max(from.span_classes() + 1);
        let is_enough = end <= self.geometry.span_classes && span_class_start(end) - first >= spans;
        is_enough.then_some(end + 1)
    }

    /// Gives the queue a range. Under the lock, by a participant that has mapped all others. Returns the
    /// range if another was quicker, if another thread of this process is about to fork, or in a child that
    /// has no copy of it. The caller drops that after the release of the lock.
    pub(crate) fn add_range(&self, mut new: NewRange) -> Result<(), NewRange> {
        let hot = self.hot();
        // No thread of this process maps the range as well while it is entered here.
        let Some(no_fork) = fork::try_hold_off() else {
            return Err(new);
        };
        if hot.ranges.get() != new.from.0 || new.is_inherited() {
            return Err(new);
        }
        let (from, to) = (new.from, new.to);
        match new.take(&no_fork) {
            Some(Parts::Slots(mappings)) => {
                self.use_slots(from.slot_classes()..to.slot_classes(), mappings);
            }
            Some(Parts::Heap(mappings)) => {
                let classes = from.span_classes()..to.span_classes();
                let seam = 1 << (classes.end - 1);
                let counted = (1 << classes.start) - 1;
                hot.heap_seams.set(hot.heap_seams.get() & counted | seam);
                self.use_heap(classes, mappings);
            }
            None => {}
        }
        fault!("range.noted");
        self.mapped().ranges.store(to.0, Ordering::Release);
        // Release: pairs with the acquire in map_ranges.
        hot.ranges.store(to.0, Ordering::Release);
        fault!("range.added");
        Ok(())
    }

    // ------------------------------------------------------------------------------------- checked access

    /// A slot that is not near.
    #[cold]
    #[inline(never)]
    pub(super) fn far_slot(&self, index: u32) -> Option<&Slot> {
        if index < NEAR_SLOTS {
            return None;
        }
        let class = class_of_slot(index);
        let base = self.mapped().slots.get(class)?.base()?;
        let place = (index - slot_class_start(class)) as usize;
        // SAFETY: the class of this index is mapped there, whole and aligned; a slot consists of atomics.
        Some(unsafe { base.cast::<Slot>().add(place).as_ref() })
    }

    /// The word of a page of slots that are not near.
    #[cold]
    pub(super) fn far_slot_page(&self, page: u32) -> Option<&SlotPage> {
        if !(NEAR_PAGES..self.geometry.slots / SLOTS_PER_PAGE).contains(&page) {
            return None;
        }
        let class = class_of_slot(page * SLOTS_PER_PAGE);
        let base = self.mapped().pages.get(class)?.base()?;
        let place = self.geometry.slot_page_at(page) - self.geometry.slot_pages_of(class..class + 1).start;
        // SAFETY: the words of this class are mapped there, from that place in the file on, whole and
        // aligned; a word is an atomic.
        Some(unsafe { base.add(place as usize).cast::<SlotPage>().as_ref() })
    }

    /// The class of a far span, its place in the class, and where the books of the class are mapped.
    fn far_books(&self, span: u32) -> Option<(Books, usize, NonNull<u8>)> {
        if span < FAR_SPANS {
            return None;
        }
        let class = class_of_span(span);
        let base = self.mapped().books.get(class)?.base()?;
        Some((Books::of(class), (span - span_class_start(class)) as usize, base))
    }

    #[cold]
    pub(super) fn far_descriptor(&self, span: u32) -> Option<&SpanDescriptor> {
        let (_, place, base) = self.far_books(span)?;
        // SAFETY: the books of the span's class are mapped there, and begin with a descriptor for each span;
        // it consists of atomics.
        Some(unsafe { base.cast::<SpanDescriptor>().add(place).as_ref() })
    }

    #[cold]
    pub(super) fn far_backing(&self, span: u32) -> Option<&LockedU8> {
        let (books, place, base) = self.far_books(span)?;
        // SAFETY: as above, with a byte for each span.
        Some(unsafe {
            base.add(books.backing_at as usize)
                .cast::<LockedU8>()
                .add(place)
                .as_ref()
        })
    }

    #[cold]
    pub(super) fn far_bitmap(&self, span: u32) -> Option<&LockedU64> {
        let (books, place, base) = self.far_books(span)?;
        // SAFETY: as above, with a bit for each span; a class is a multiple of 64 spans.
        Some(unsafe {
            base.add(books.bitmap_at as usize)
                .cast::<LockedU64>()
                .add(place / 64)
                .as_ref()
        })
    }

    /// Where a run of granules of the far heap lies, if all of it lies in one range that is mapped.
    #[cold]
    #[inline(never)]
    pub(super) fn far_granules(&self, start: u32, granules: u32) -> Option<NonNull<u8>> {
        let span = start / GRANULES_PER_SPAN;
        if span < FAR_SPANS {
            return None;
        }
        let class = class_of_span(span);
        let base = self.mapped().heap.get(class)?.base()?;
        let end = u64::from(self.end_of_row(span)) * u64::from(GRANULES_PER_SPAN);
        if u64::from(start) + u64::from(granules) > end {
            return None;
        }
        let first = u64::from(span_class_start(class)) * u64::from(GRANULES_PER_SPAN);
        let place = (u64::from(start) - first) * GRANULE;
        // SAFETY: the granules lie in the class, or in the classes of the same range behind it, which are
        // mapped in a row.
        Some(unsafe { base.add(place as usize) })
    }

    /// Where a place of the file is mapped, and how many bytes from there on are mapped in a row.
    pub(super) fn address_of(&self, offset: u64) -> Option<(NonNull<u8>, u64)> {
        let found = self
            .pieces()
            .find(|(part, _)| part.contains(&offset))
            .map(|(part, base)| (base, part, offset));
        let (base, part, offset) = found?;
        // SAFETY: `part` of the file is mapped at `base`.
        let place = unsafe { base.add((offset - part.start) as usize) };
        Some((place, part.end - offset))
    }

    /// The inverse: where in the file an address lies.
    #[cfg(not(loom))]
    pub(crate) fn offset_of(&self, address: *const u8) -> Option<u64> {
        self.pieces().find_map(|(part, base)| {
            let distance = (address as u64).checked_sub(base.as_ptr() as u64)?;
            (distance < part.end - part.start).then(|| part.start + distance)
        })
    }

    /// Parts of the file, and where they are mapped.
    fn pieces(&self) -> impl Iterator<Item = (Range<u64>, NonNull<u8>)> {
        let geometry = &self.geometry;
        let slot_at = |class: usize| geometry.slot_at(slot_class_start(class));
        let span_at = |class: usize| geometry.span_at(span_class_start(class));
        let ranges = self.mapped().ranges();
        let slots = (0..ranges.slot_classes())
            .map(move |class| (slot_at(class)..slot_at(class + 1), &self.mapped().slots[class]));
        let pages = (0..ranges.slot_classes()).map(move |class| {
            (
                geometry.slot_pages_of(class..class + 1),
                &self.mapped().pages[class],
            )
        });
        let heap = (0..ranges.span_classes())
            .map(move |class| (span_at(class)..span_at(class + 1), &self.mapped().heap[class]));
        let books = (0..ranges.span_classes()).map(move |class| {
            let at = geometry.books_at(class);
            (at..at + Books::of(class).length, &self.mapped().books[class])
        });
        let far = heap.chain(slots).chain(pages).chain(books);
        let far = far.filter_map(|(part, piece)| Some((part, piece.base()?)));
        core::iter::once((0..geometry.near_length, self.base)).chain(far)
    }
}

/// Notes where the classes of a mapping lie. `at` says where a class begins in the file.
fn use_mapping(pieces: &[Piece], classes: Range<usize>, mapping: Mapping, at: impl Fn(usize) -> u64) {
    let (start, first) = (at(classes.start), classes.start);
    for (piece, class) in pieces.iter().zip(classes) {
        let place = at(class) - start;
        // SAFETY: the mapping holds all of the classes.
        let base = unsafe { mapping.base.add(place as usize) };
        piece.place(base.as_ptr(), if class == first { mapping.length } else { 0 });
    }
    core::mem::forget(mapping);
}

#[cfg(all(test, not(loom)))]
mod tests;
