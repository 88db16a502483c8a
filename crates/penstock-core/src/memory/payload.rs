//! Payload bytes: where they lie, checked, and how they are copied in and out.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use crate::error::Error;
use crate::memory::layout::{GRANULE, GRANULES_PER_SPAN, Slot};
use crate::memory::segment::Segment;
use crate::sync::{Word, note_read, note_write};
use crate::units::{INLINE, SMALL};

/// Granules of the heap that belong to one payload. Packed: first granule (bits 0..32), granules (bits
/// 32..64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub start: u32,
    pub granules: u32,
}

impl Extent {
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.start) | u64::from(self.granules) << 32
    }

    pub(crate) fn unpack(word: u64) -> Option<Extent> {
        (word != 0).then_some(Extent {
            start: word as u32,
            granules: (word >> 32) as u32,
        })
    }

    pub(crate) fn bytes(self) -> u64 {
        u64::from(self.granules) * GRANULE
    }
}

/// The place where the next operation of this kind will probably read or write its payload. It is prefetched
/// after the release of the lock, from the cache of the core that wrote or read it last. A miss inside the
/// next critical section would take longer than the rest of that section. The length is that of the present
/// payload, as good a guess as any. [`to_read`](Ahead::to_read) and [`to_write`](Ahead::to_write) keep to
/// small payloads outside of their slots.
#[derive(Clone, Copy)]
pub(crate) enum Ahead {
    Nothing,
    ToRead { start: u32, len: u64 },
    ToWrite { start: u32, len: u64 },
}

impl Ahead {
    #[inline(always)]
    pub(crate) fn to_read(start: u32, len: u64) -> Ahead {
        if is_object_at(start, len) {
            Ahead::ToRead { start, len }
        } else {
            Ahead::Nothing
        }
    }

    #[inline(always)]
    pub(crate) fn to_write(start: u32, len: u64) -> Ahead {
        if is_object_at(start, len) {
            Ahead::ToWrite { start, len }
        } else {
            Ahead::Nothing
        }
    }
}

/// Whether a payload of that length may lie at that granule.
#[inline(always)]
fn is_object_at(start: u32, len: u64) -> bool {
    start != 0 && (INLINE as u64 + 1..=SMALL as u64).contains(&len)
}

impl Segment {
    /// Prefetches the two lines of a slot that will be written next, while the caller goes on. They come from
    /// the cache of the core that wrote them last, which takes as long as the rest of a put or a get.
    #[inline(always)]
    pub(crate) fn prefetch_slot(&self, index: u32) {
        // An index out of range is reported by the operation that takes the slot.
        if let Ok(slot) = self.slot(index) {
            let place = core::ptr::from_ref(slot).cast::<u8>();
            prefetch::<true>(place);
            prefetch::<true>(place.wrapping_add(64));
        }
    }

    /// The same for the place of the next payload.
    #[inline(always)]
    pub(crate) fn fetch_ahead(&self, ahead: Ahead) {
        let (start, len) = match ahead {
            Ahead::Nothing => return,
            Ahead::ToRead { start, len } | Ahead::ToWrite { start, len } => (start, len),
        };
        let place = if start < self.near_granules {
            // Not compared with the heap's end: to prefetch a line that is not mapped has no effect.
            let place = u64::from(start) * GRANULE;
            self.heap.as_ptr().wrapping_add(place as usize)
        } else {
            match self.far_granules(start, 1) {
                Some(place) => place.as_ptr(),
                None => return,
            }
        };
        match ahead {
            Ahead::ToWrite { .. } => prefetch_lines::<true>(place, len as usize),
            _ => prefetch_lines::<false>(place, len as usize),
        }
    }

    /// Where in the file an extent lies that can hold `len` bytes.
    pub(crate) fn extent_at(&self, extent: Extent, len: u64) -> Result<u64, Error> {
        self.extent_pointer(extent, len)?;
        let (span, rest) = (extent.start / GRANULES_PER_SPAN, extent.start % GRANULES_PER_SPAN);
        Ok(self.geometry.span_at(span) + u64::from(rest) * GRANULE)
    }

    /// Where an extent lies that can hold `len` bytes; the one place that checks extents.
    #[inline(always)]
    fn extent_pointer(&self, extent: Extent, len: u64) -> Result<*mut u8, Error> {
        let end = u64::from(extent.start) + u64::from(extent.granules);
        if len > extent.bytes() {
            return Err(self.corrupt("an extent lies outside the heap"));
        }
        if end > u64::from(self.near_granules) {
            let place = self.far_granules(extent.start, extent.granules);
            return place
                .map(NonNull::as_ptr)
                .ok_or_else(|| self.corrupt("an extent lies outside the heap"));
        }
        let place = u64::from(extent.start) * GRANULE;
        debug_assert!(len <= self.geometry.slots_at - self.geometry.heap_at - place);
        debug_assert!(len <= extent.bytes(), "a payload lies in its extent");
        // SAFETY: the extent lies inside the near heap.
        Ok(unsafe { self.heap.as_ptr().add(place as usize) })
    }

    /// Where a payload of `len` bytes is to be written: to the slot itself, or to the extent that the writer
    /// has taken. Nothing that another process could have changed goes into it.
    #[inline(always)]
    pub(crate) fn target(&self, slot: &Slot, extent: Option<Extent>, len: u64) -> Result<*mut u8, Error> {
        match extent {
            None if len <= INLINE as u64 => Ok(slot.inline.as_ptr().cast::<u8>().cast_mut()),
            None => Err(self.corrupt("a payload without an extent is too long")),
            Some(extent) => self.extent_pointer(extent, len),
        }
    }

    /// Where the payload of a slot lies, and its length, both checked.
    #[inline(always)]
    pub(crate) fn payload(&self, slot: &Slot) -> Result<(*mut u8, usize), Error> {
        let len = slot.len.get();
        let pointer = match Extent::unpack(slot.extent.get()) {
            None if len <= INLINE as u64 => slot.inline.as_ptr().cast::<u8>().cast_mut(),
            None => return Err(self.corrupt("an inline payload is too long")),
            Some(extent) => self.extent_pointer(extent, len)?,
        };
        Ok((pointer, len as usize))
    }

    /// Copies the parts, one after the other, to a place that [`target`](Self::target) gave.
    ///
    /// # Safety
    /// `target` came from `target` for a slot and an extent that this thread holds exclusively (under the
    /// lock, or CLAIMED by it), with the sum of the parts as its length.
    #[inline(always)]
    pub(crate) unsafe fn copy_in(&self, mut target: *mut u8, parts: &[&[u8]]) {
        // One part, kept apart: the compiler prepares a long loop, whatever the number of parts.
        if let [part] = parts {
            // SAFETY: the caller's promise.
            return unsafe { copy_part(target, part) };
        }
        for part in parts {
            // SAFETY: the caller's promise, for the part; `target` has checked room for all parts.
            unsafe {
                copy_part(target, part);
                target = target.add(part.len());
            }
        }
    }

    /// Appends the next bytes of a payload to those that were copied of it before: at most so many, and
    /// within the capacity. Under the lock, and of a slot that no process writes.
    pub(crate) fn copy_out(&self, slot: &Slot, most: usize, copy: &mut Vec<u8>) -> Result<(), Error> {
        let (source, len) = self.payload(slot)?;
        let left = len.saturating_sub(copy.len());
        let count = left.min(most).min(copy.capacity() - copy.len());
        if count > 0 {
            // SAFETY: `payload` has checked `len` bytes at `source`, of which `count` more than `copy` has.
            let bytes = unsafe {
                let start = source.add(copy.len());
                note_read(start, count);
                // No process writes them: the slot is DEAD or a NOTE, and this thread holds the lock.
                std::slice::from_raw_parts(start, count)
            };
            copy.extend_from_slice(bytes);
        }
        Ok(())
    }
}

/// # Safety
/// As [`Segment::copy_in`], for one part.
#[inline(always)]
unsafe fn copy_part(target: *mut u8, part: &[u8]) {
    note_write(target, part.len());
    // SAFETY: room for all parts was checked by `target`; no other thread or process reads or writes here, by
    // the caller's promise; private memory of this process does not overlap the mapping.
    unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), target, part.len()) };
}

#[inline(always)]
fn prefetch_lines<const TO_WRITE: bool>(start: *const u8, len: usize) {
    let mut at = 0;
    while at < len {
        prefetch::<TO_WRITE>(start.wrapping_add(at));
        at += 64;
    }
}

/// Prefetches a line, to be written or only to be read.
#[inline(always)]
fn prefetch<const TO_WRITE: bool>(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads and writes nothing a program can see, and has no faults.
    unsafe {
        if TO_WRITE {
            core::arch::asm!("prefetchw [{0}]", in(reg) place, options(nostack, preserves_flags, readonly));
        } else {
            core::arch::asm!("prefetcht0 [{0}]", in(reg) place, options(nostack, preserves_flags, readonly));
        }
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        if TO_WRITE {
            core::arch::asm!(
                "prfm pstl1keep, [{0}]",
                in(reg) place,
                options(nostack, preserves_flags, readonly),
            );
        } else {
            core::arch::asm!(
                "prfm pldl1keep, [{0}]",
                in(reg) place,
                options(nostack, preserves_flags, readonly),
            );
        }
    }
    let _ = place;
}
