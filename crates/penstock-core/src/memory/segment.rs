//! The shared memory of one queue: made, opened, mapped, and read by checked index.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::error::{Error, hex};
use crate::memory::descriptor::InUse;
use crate::memory::file::{MemoryFile, Need};
use crate::memory::layout::*;
use crate::memory::ranges::Mapped;
use crate::options::Options;
use crate::platform::{self, FileIdentity};
use crate::sync::{LockedU8, LockedU64, Word};
use crate::units::{Id, PAGE};

pub(crate) struct Segment {
    /// Where the near memory is mapped.
    pub(super) base: NonNull<u8>,
    /// Where in it the slots and the heap begin, and the granules of that: each operation needs them.
    slots: NonNull<u8>,
    pub(super) heap: NonNull<u8>,
    pub(super) near_granules: u32,
    /// The ranges that `mapping` owns. Each operation reads them.
    pub(super) mapped: NonNull<Mapped>,
    pub geometry: Geometry,
    pub id: Id,
    /// Where the queue's part of the file begins.
    start: u64,
    /// Apart, because it changes: so the compiler takes the fields of a segment for constant, as they are.
    need: Box<Need>,
    #[cfg_attr(loom, allow(dead_code))]
    mapping: Arc<Mapping>,
}

/// What is mapped, the near memory and the ranges. The segments of one process may share it, and it ends with
/// the last of them.
struct Mapping {
    base: NonNull<u8>,
    /// Where in the file it begins.
    start: u64,
    length: u64,
    #[cfg_attr(loom, allow(dead_code))]
    ranges: Box<[Mapped; 1]>,
}

// SAFETY: the mapping stays valid until drop, whichever thread uses it; all shared words in it are atomics,
// and payload bytes are touched only by the participant that the protocol names (see copy_in).
unsafe impl Send for Segment {}

// SAFETY: as above.
unsafe impl Sync for Segment {}

// SAFETY: only its drop uses the address, whichever thread that runs in.
unsafe impl Send for Mapping {}

// SAFETY: as above; a shared reference gives no access.
unsafe impl Sync for Mapping {}

/// Of the address space that is left for queues, a new one takes at most this part at first: so the queues of
/// a process become smaller before there is none left.
const QUEUES: u64 = 64;

/// The geometries to try for a queue, the best one first, each with the bytes that it can promise. What the
/// file cannot hold must not be promised, be it in small items or in large ones.
fn geometries(max_bytes: u64) -> impl Iterator<Item = (Geometry, u64)> {
    let left = platform::address_space_left();
    let geometries = Tables::ALL.into_iter().flat_map(move |row| {
        let tables = row
            .into_iter()
            .filter(move |tables| left.is_none() || *tables != Tables::FULL);
        let ample = tables
            .clone()
            .filter_map(move |tables| Geometry::ample(tables, max_bytes))
            .map(move |geometry| (geometry, max_bytes.min(geometry.heap_bytes())));
        // Then four sizes to a doubling, as there are classes.
        let smaller = |size: &u64| {
            let quarter = (size - 1).ilog2() - 2;
            (*size > 2 * SPAN).then(|| (size - 1) >> quarter << quarter)
        };
        let tight = core::iter::successors(Some(max_bytes), smaller).flat_map(move |size| {
            tables
                .clone()
                .filter_map(move |tables| Geometry::tight(tables, size))
                .map(move |geometry| (geometry, size.min(geometry.bytes())))
        });
        ample.chain(tight)
    });
    geometries.filter(move |(geometry, _)| {
        let is_least = geometry.near_spans == Tables::LEAST.near_spans;
        is_least || left.is_none_or(|left| geometry.near_length <= left / QUEUES)
    })
}

impl Segment {
    /// Makes the memory of a queue, with a name in the file system if `path` is given.
    pub(crate) fn create(options: &Options, path: Option<&Path>) -> Result<(Segment, Options), Error> {
        let ([segment], options) = Segment::create_parts([platform::random_id()?], options, path)?;
        Ok((segment, options))
    }

    /// Makes the memory of two queues in one file.
    pub(crate) fn create_pair(options: &Options) -> Result<([Segment; 2], Options), Error> {
        Segment::create_parts([platform::random_id()?, platform::random_id()?], options, None)
    }

    fn create_parts<const PARTS: usize>(
        ids: [Id; PARTS],
        options: &Options,
        path: Option<&Path>,
    ) -> Result<([Segment; PARTS], Options), Error> {
        let max_bytes = options
            .max_bytes
            .unwrap_or_else(|| platform::memory_limit() / 2)
            .max(SPAN);
        let mut refused = Error::OutOfMemory {
            needed: max_bytes,
            used: 0,
            limit: 0,
            taken: 0,
            taken_bytes: 0,
        };
        // What each process has mapped must be less than this.
        let mut near_limit = u64::MAX;
        for (geometry, promised) in geometries(max_bytes) {
            if geometry.near_length >= near_limit {
                continue;
            }
            match Segment::make(ids, geometry, path) {
                Ok(segments) => {
                    let options = Options {
                        max_bytes: Some(promised),
                        ..options.clone()
                    };
                    for segment in &segments {
                        segment.initialise(&options, PARTS as u32);
                    }
                    if let (Some(path), Some(fd)) = (path, segments[0].fd()) {
                        platform::name_file(fd.get(), path)?;
                    }
                    return Ok((segments, options));
                }
                // The largest file is limited: a shorter one will do, with room for less.
                Err(error) if platform::is_too_long(&error) => refused = error,
                Err(error @ Error::NoAddressSpace { .. }) => {
                    near_limit = geometry.near_length;
                    refused = error;
                }
                Err(error) => return Err(error),
            }
        }
        Err(refused)
    }

    fn make<const PARTS: usize>(
        ids: [Id; PARTS],
        geometry: Geometry,
        path: Option<&Path>,
    ) -> Result<[Segment; PARTS], Error> {
        let length = geometry.length * PARTS as u64;
        let fd = match path {
            None => platform::create_memory(&format!("penstock-{}", hex(&ids[0])), length)?,
            Some(path) => platform::create_file(path.parent().unwrap_or(Path::new(".")), length)?,
        };
        let need = MemoryFile::open(fd)?;
        let mut segments = Vec::with_capacity(PARTS);
        for (part, id) in ids.into_iter().enumerate() {
            let segment = Segment::map(need.another(), part as u64 * geometry.length, id, geometry)?;
            // Header, hot lines and the first participants; then the first slots.
            segment.back(0, geometry.participants_at + PAGE)?;
            segment.back(geometry.slots_at, PAGE)?;
            segments.push(segment);
        }
        segments.try_into().map_err(|_| Error::Closed)
    }

    fn map(need: Need, start: u64, id: Id, geometry: Geometry) -> Result<Segment, Error> {
        let ranges = Mapped::boxed()?;
        let length = geometry.near_length;
        let base = platform::map(need.lend().ok_or(Error::Closed)?.get(), start, length)?;
        let mapping = Arc::new(Mapping {
            base,
            start,
            length,
            ranges,
        });
        Ok(Segment {
            base,
            // SAFETY: both lie in the near memory.
            slots: unsafe { base.add(geometry.slots_at as usize) },
            // SAFETY: as above.
            heap: unsafe { base.add(geometry.heap_at as usize) },
            near_granules: geometry.near_spans * GRANULES_PER_SPAN,
            mapped: NonNull::from(&mapping.ranges[0]),
            geometry,
            id,
            start,
            need: Box::new(need),
            mapping,
        })
    }

    /// The same memory without a descriptor.
    #[cfg(any(not(loom), test))]
    pub(crate) fn share(&self) -> Segment {
        #[cfg(not(loom))]
        let mapping = Arc::clone(&self.mapping);
        // Each process of a model has mapped its own ranges. (A model unmaps nothing.)
        #[cfg(loom)]
        let mapping = Arc::new(Mapping {
            base: self.base,
            start: self.start,
            length: self.geometry.near_length,
            ranges: Box::new([Mapped::empty()]),
        });
        Segment {
            base: self.base,
            slots: self.slots,
            heap: self.heap,
            near_granules: self.near_granules,
            mapped: NonNull::from(&mapping.ranges[0]),
            geometry: self.geometry,
            id: self.id,
            start: self.start,
            #[cfg(not(loom))]
            need: Box::new(self.need.none()),
            // Every process of a model has a descriptor.
            #[cfg(loom)]
            need: Box::new(self.need.another()),
            mapping,
        }
    }

    fn initialise(&self, options: &Options, parts: u32) {
        let header = self.header();
        header.version.set(VERSION);
        header.acknowledged.set(u32::from(options.acknowledged));
        header.fingerprint.set(FINGERPRINT);
        let (low, high) = self.id.split_at(8);
        header.id[0].set(u64::from_le_bytes(low.try_into().unwrap_or_default()));
        header.id[1].set(u64::from_le_bytes(high.try_into().unwrap_or_default()));
        header.length.set(self.geometry.length);
        header.participants.set(self.geometry.participants);
        header.cells.set(self.geometry.cells);
        header.near_spans.set(self.geometry.near_spans);
        header.slot_classes.set(self.geometry.slot_classes as u32);
        header.span_classes.set(self.geometry.span_classes as u32);
        header.maxsize.set(options.maxsize);
        header.max_bytes.set(options.max_bytes.unwrap_or(u64::MAX));
        header.soft_bytes.set(options.soft_bytes);
        header.max_deliveries.set(u32::from(options.max_deliveries));
        header.parts.set(parts);
        header.home.set(platform::pid_namespace());
        let hot = self.hot();
        // The models take every acknowledged queue for one whose users acknowledge.
        let sets_aside = options.acknowledged && cfg!(not(loom));
        hot.acknowledging.set(if sets_aside { NOT_YET } else { YES });
        hot.slots_high.set(1);
        hot.slots_backed.set(SLOTS_PER_PAGE);
        hot.cells_high.set(1);
        hot.ranges.set(0);
        hot.heap_seams.set(0);
        // No other process has the segment yet. A process that gets it gets it through the kernel, which
        // orders memory.
        header.magic.set(MAGIC);
    }

    /// A memory file that came from another process, if its mapping can be trusted.
    pub(crate) fn open_file(fd: OwnedFd) -> Result<Need, Error> {
        if !platform::is_trustworthy(fd.as_fd()) {
            return Err(Error::NotAQueue {
                what: "it is neither a sealed memory file nor a file on a tmpfs of this user alone",
            });
        }
        // Otherwise a program that this process executes would keep the memory without a handle.
        platform::close_on_exec(fd.as_fd())?;
        let need = MemoryFile::open(fd)?;
        let _ = need.own();
        Ok(need)
    }

    /// Opens the queue whose part of the file begins at `start`, trusting nothing that it finds.
    pub(crate) fn open(need: Need, start: u64) -> Result<(Segment, Options), Error> {
        let not_a_queue = |what| Error::NotAQueue { what };
        let mut head = [0; size_of::<Header>()];
        let length = {
            let fd = need.lend().ok_or(Error::Closed)?;
            if platform::read_at(fd.get(), &mut head, start)? != head.len() {
                return Err(not_a_queue("it is too short"));
            }
            platform::identify(fd.get())?.1
        };
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap_or_default());
        let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap_or_default());
        use core::mem::offset_of;
        if u64_at(offset_of!(Header, magic)) != MAGIC {
            return Err(not_a_queue("it does not begin as one"));
        }
        if u32_at(offset_of!(Header, version)) != VERSION
            || u64_at(offset_of!(Header, fingerprint)) != FINGERPRINT
        {
            return Err(not_a_queue(
                "another version of Penstock made it; use one version in all processes",
            ));
        }
        let tables = Tables {
            participants: u32_at(offset_of!(Header, participants)),
            cells: u32_at(offset_of!(Header, cells)),
            near_spans: u32_at(offset_of!(Header, near_spans)),
        };
        let (slots, spans) = (
            u32_at(offset_of!(Header, slot_classes)) as usize,
            u32_at(offset_of!(Header, span_classes)) as usize,
        );
        let Some(geometry) = Geometry::new(tables, slots, spans) else {
            return Err(not_a_queue("its sizes are impossible"));
        };
        let parts = u64::from(u32_at(offset_of!(Header, parts)));
        if geometry.length.checked_mul(parts) != Some(length)
            || u64_at(offset_of!(Header, length)) != geometry.length
            || start % geometry.length != 0
        {
            return Err(not_a_queue("its length is not the one it states"));
        }
        let mut id = [0; 16];
        id.copy_from_slice(&head[offset_of!(Header, id)..offset_of!(Header, id) + 16]);
        let options = Options {
            maxsize: u64_at(offset_of!(Header, maxsize)),
            max_bytes: Some(u64_at(offset_of!(Header, max_bytes))),
            soft_bytes: u64_at(offset_of!(Header, soft_bytes)),
            acknowledged: u32_at(offset_of!(Header, acknowledged)) != 0,
            max_deliveries: u32_at(offset_of!(Header, max_deliveries)).min(255) as u8,
        };
        Ok((Segment::map(need, start, id, geometry)?, options))
    }

    /// The ids of the queues in a memory file, and where their parts begin, without mapping it.
    pub(crate) fn read_ids(fd: BorrowedFd<'_>) -> Result<impl Iterator<Item = (Id, u64)>, Error> {
        let (first, length) = Segment::read_id(fd, 0)?;
        let second = Segment::read_id(fd, length).ok();
        Ok([Some((first, 0)), second.map(|(id, _)| (id, length))]
            .into_iter()
            .flatten())
    }

    /// The id of the queue whose part begins there, and the length of the part.
    fn read_id(fd: BorrowedFd<'_>, start: u64) -> Result<(Id, u64), Error> {
        let mut head = [0; size_of::<Header>()];
        let (id_at, length_at) = (
            core::mem::offset_of!(Header, id),
            core::mem::offset_of!(Header, length),
        );
        if i64::try_from(start).is_err()
            || platform::read_at(fd, &mut head, start)? != head.len()
            || head[..8] != MAGIC.to_le_bytes()
        {
            return Err(Error::NotAQueue {
                what: "it does not begin as one",
            });
        }
        let (mut id, mut length) = ([0; 16], [0; 8]);
        id.copy_from_slice(&head[id_at..id_at + 16]);
        length.copy_from_slice(&head[length_at..length_at + 8]);
        Ok((id, u64::from_le_bytes(length)))
    }

    /// The descriptor, if this queue needs it, and it still leads to the file. Other threads do not close it
    /// while it is in use.
    pub(crate) fn fd(&self) -> Option<InUse<'_>> {
        self.need.lend()
    }

    pub(crate) fn need(&self) -> &Need {
        &self.need
    }

    pub(crate) fn file(&self) -> &Arc<MemoryFile> {
        self.need.file()
    }

    pub(crate) fn identity(&self) -> FileIdentity {
        self.file().identity()
    }

    /// Where an offset of this segment lies in the file. The life byte of a participant is that of its index.
    pub(crate) fn in_file(&self, offset: u64) -> u64 {
        self.start + offset
    }

    /// Puts memory behind whole pages. Safe to repeat, and needs no lock.
    pub(crate) fn back(&self, start: u64, length: u64) -> Result<(), Error> {
        let end = start
            .checked_add(length)
            .map_or(u64::MAX, |end| end.div_ceil(PAGE).saturating_mul(PAGE));
        if end > self.geometry.length {
            return Err(self.corrupt("a range to back lies outside the segment"));
        }
        let start = start / PAGE * PAGE;
        match self.fd() {
            Some(fd) => platform::back(fd.get(), self.in_file(start), end - start),
            None => self.in_pieces(start, end, platform::back_mapped),
        }
    }

    /// Gives the memory behind whole pages back. False if the system refuses: the memory stays.
    pub(crate) fn punch(&self, start: u64, length: u64) -> bool {
        debug_assert!(start + length <= self.geometry.length);
        match self.fd() {
            Some(fd) => platform::punch(fd.get(), self.in_file(start), length).is_ok(),
            None => self
                .in_pieces(start, start + length, platform::punch_mapped)
                .is_ok(),
        }
    }

    /// Calls `step` for each piece of a part of the segment, with where it is mapped, and its length.
    fn in_pieces(
        &self,
        mut start: u64,
        end: u64,
        step: fn(NonNull<u8>, u64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while start < end {
            let Some((place, mapped)) = self.address_of(start) else {
                return Err(self.corrupt("a range to back is not mapped"));
            };
            let length = mapped.min(end - start);
            step(place, length)?;
            start += length;
        }
        Ok(())
    }

    /// The element at `offset` of the near memory as a `T`.
    ///
    /// # Safety
    /// `T` consists of atomics only, and the `T` at `offset` lies aligned inside its region of the mapping.
    unsafe fn at<T: Element>(&self, offset: u64) -> &T {
        debug_assert!({
            let region = T::region(&self.geometry);
            region.start <= offset && offset + size_of::<T>() as u64 <= region.end
        });
        debug_assert!(offset % align_of::<T>() as u64 == 0);
        // SAFETY: the caller's promise; the mapping lives as long as `self`, and atomics may change under a
        // reference.
        unsafe { &*self.base.as_ptr().add(offset as usize).cast::<T>() }
    }

    pub(crate) fn header(&self) -> &Header {
        // SAFETY: every geometry has a header at its start.
        unsafe { self.at(HEADER_AT) }
    }

    #[inline(always)]
    pub(crate) fn hot(&self) -> &Hot {
        // SAFETY: every geometry has the hot lines in its second page.
        unsafe { self.at(HOT_AT) }
    }

    pub(super) fn corrupt(&self, what: &'static str) -> Error {
        Error::Corrupt { id: self.id, what }
    }

    #[inline(always)]
    pub(crate) fn participant(&self, index: u32) -> Result<&Participant, Error> {
        if index == 0 || index >= self.geometry.participants {
            return Err(self.corrupt("a participant's index is out of range"));
        }
        // SAFETY: the index was checked against the region's size.
        Ok(unsafe {
            self.at(self.geometry.participants_at + u64::from(index) * size_of::<Participant>() as u64)
        })
    }

    pub(crate) fn cell(&self, index: u32) -> Result<&WaiterCell, Error> {
        if index == 0 || index >= self.geometry.cells {
            return Err(self.corrupt("a waiter's index is out of range"));
        }
        // SAFETY: the index was checked against the region's size.
        Ok(unsafe { self.at(self.geometry.cells_at + u64::from(index) * size_of::<WaiterCell>() as u64) })
    }

    #[inline(always)]
    pub(crate) fn slot(&self, index: u32) -> Result<&Slot, Error> {
        if index == 0 || index >= NEAR_SLOTS {
            return match self.far_slot(index) {
                Some(slot) => Ok(slot),
                None => Err(self.corrupt("a slot's index is out of range")),
            };
        }
        // SAFETY: the index was checked against the region's size, and a slot consists of atomics.
        Ok(unsafe { self.slots.cast::<Slot>().add(index as usize).as_ref() })
    }

    fn no_span(&self) -> Error {
        self.corrupt("a span's index is out of range")
    }

    /// What is known of a page of slots; only below `Hot::pages_tracked` is there memory behind it.
    pub(crate) fn slot_page(&self, page: u32) -> Result<&SlotPage, Error> {
        if page >= NEAR_PAGES {
            return self
                .far_slot_page(page)
                .ok_or_else(|| self.corrupt("a page of slots is out of range"));
        }
        // SAFETY: the index was checked against the region's size.
        Ok(unsafe { self.at(self.geometry.pages_at + u64::from(page) * size_of::<SlotPage>() as u64) })
    }

    /// Whether there is memory behind a slot that is backed: its page was not given back since.
    pub(crate) fn is_present(&self, slot: u32) -> Result<bool, Error> {
        let page = slot / SLOTS_PER_PAGE;
        Ok(page >= self.hot().pages_tracked.get() || self.slot_page(page)?.word.get() & ABSENT == 0)
    }

    pub(crate) fn descriptor(&self, span: u32) -> Result<&SpanDescriptor, Error> {
        if span >= self.geometry.near_spans {
            return self.far_descriptor(span).ok_or_else(|| self.no_span());
        }
        // SAFETY: the index was checked against the region's size.
        Ok(unsafe {
            self.at(self.geometry.descriptors_at + u64::from(span) * size_of::<SpanDescriptor>() as u64)
        })
    }

    /// The backing byte of a span; see state/heap.rs for its bits.
    pub(crate) fn backing(&self, span: u32) -> Result<&LockedU8, Error> {
        if span >= self.geometry.near_spans {
            return self.far_backing(span).ok_or_else(|| self.no_span());
        }
        // SAFETY: the index was checked against the region's size.
        Ok(unsafe { self.at(self.geometry.backing_at + u64::from(span) * size_of::<LockedU8>() as u64) })
    }

    /// The word of the span bitmap that holds the bit of `span`; a set bit means taken.
    pub(crate) fn bitmap(&self, span: u32) -> Result<&LockedU64, Error> {
        if span >= self.geometry.near_spans {
            return self.far_bitmap(span).ok_or_else(|| self.no_span());
        }
        // SAFETY: the near spans have one word.
        Ok(unsafe { self.at(self.geometry.bitmap_at) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: each reference into the mapping borrows a segment, and this is dropped with the last of
        // them.
        unsafe { platform::unmap(self.base, self.start, self.length) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// No geometry promises more small or large items than it can hold, and the participants become fewer
    /// only where the least heap for all of them does not fit.
    #[test]
    fn a_shorter_file_promises_what_it_holds() {
        for max_bytes in [SPAN, 300_000, 8 << 20, 1 << 30, (40 << 30) + 12345] {
            let mut shortest = u64::MAX;
            for (geometry, promised) in geometries(max_bytes) {
                assert!(promised <= geometry.heap_bytes() && promised <= max_bytes);
                assert!(promised > 0 && promised <= geometry.bytes(), "{geometry:?}");
                if geometry.participants == PARTICIPANTS {
                    shortest = shortest.min(geometry.length);
                } else {
                    assert!(shortest < 5 << 19, "{shortest} bytes before {geometry:?}");
                }
            }
            let of_length = |length| {
                let mut all = geometries(max_bytes);
                all.find(|(geometry, _)| geometry.length <= length).unwrap()
            };
            for (length, least) in [
                (1 << 19, 1 << 17),
                (1 << 20, 5 << 16),
                (3 << 20, 1 << 19),
                (20 << 20, 8 << 20),
            ] {
                let (geometry, promised) = of_length(length);
                assert!(promised + 128 >= max_bytes.min(least), "{promised} of {length}");
                assert_eq!(geometry.participants == PARTICIPANTS, length >= 3 << 20);
            }
        }
    }

    #[test]
    fn a_table_has_last_places() {
        let tables = |participants| Tables {
            participants,
            ..Tables::LEAST
        };
        assert!(Geometry::new(tables(64), 0, 0).is_none());
        assert!(Geometry::new(tables(128), 0, 0).is_some());
    }
}
