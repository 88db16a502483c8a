//! Damage: words of the shared memory overwritten through a mapping of its own.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use penstock_core::fuzzing::Region;
use rustix::mm::{MapFlags, ProtFlags};

/// One overwritten word.
#[derive(Clone, Debug)]
pub struct Damage {
    pub place: Place,
    /// 1, 4 or 8 bytes.
    pub width: u64,
    pub value: Value,
}

/// A word of an element, by numbers that are taken modulo what there is.
#[derive(Clone, Debug)]
pub struct Place {
    pub region: u8,
    pub element: u8,
    pub offset: u8,
    /// Counts the elements from the last one down.
    pub from_end: bool,
}

#[derive(Clone, Debug)]
pub enum Value {
    Is(u64),
    Flip(u8),
    Add(i64),
    /// The number of elements in the region, and a little more or less.
    Count(i64),
    Copy(Place),
    /// The name of the participant at work.
    Name {
        shift: u8,
    },
    /// A slot's state word.
    State {
        state: u8,
        is_mine: bool,
    },
    /// A slot's extent; far bits scale its start and its length.
    Extent {
        start: u16,
        granules: u16,
        far: u8,
    },
    /// A living record's word, of a process that does not exist.
    DeadPid,
}

/// The memory of a queue, for writing where one must not.
pub struct Memory {
    base: *mut u8,
    length: usize,
    regions: [Region; 9],
}

/// Elements that a short program uses: no operation reads those beyond them.
const NEAR: u64 = 24;
/// Bytes of the header that mean something.
const HEADER_USED: u64 = 80;

impl Memory {
    pub fn map(fd: BorrowedFd<'_>, regions: [Region; 9]) -> Memory {
        let length = rustix::fs::fstat(fd).expect("fstat").st_size as usize;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let base = unsafe {
            let flags = MapFlags::SHARED | MapFlags::NORESERVE;
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                fd,
                0,
            )
        };
        Memory {
            base: base.expect("mmap").cast(),
            length,
            regions,
        }
    }

    fn offset(&self, place: &Place, width: u64) -> u64 {
        // The hot lines and the slots matter most.
        const CHOICE: [usize; 16] = [0, 1, 1, 1, 1, 1, 2, 2, 3, 7, 4, 5, 6, 8, 8, 8];
        let region = CHOICE[usize::from(place.region) % CHOICE.len()];
        let Region { start, size, count } = self.regions[region];
        let used = match region {
            0 => HEADER_USED,
            _ => size,
        };
        let element = u64::from(place.element) % NEAR.min(count);
        let element = if place.from_end {
            count - 1 - element
        } else {
            element
        };
        // A byte counts 256 words: of a larger element, the number of the element tells which.
        let first = if size > 1024 {
            u64::from(place.element) % 2 * 1024
        } else {
            0
        };
        let in_element = (first + u64::from(place.offset) * 4) % used;
        (start + element * size + in_element) / width * width
    }

    fn load(&self, offset: u64, width: u64) -> u64 {
        assert!(offset + width <= self.length as u64);
        let word = self.base.wrapping_add(offset as usize);
        // SAFETY: the word lies inside the mapping, aligned, and every process uses the memory's words as
        // atomics.
        unsafe {
            match width {
                1 => u64::from((*word.cast::<AtomicU8>()).load(Ordering::Relaxed)),
                4 => u64::from((*word.cast::<AtomicU32>()).load(Ordering::Relaxed)),
                _ => (*word.cast::<AtomicU64>()).load(Ordering::Relaxed),
            }
        }
    }

    fn store(&self, offset: u64, width: u64, value: u64) {
        assert!(offset + width <= self.length as u64);
        let word = self.base.wrapping_add(offset as usize);
        // SAFETY: as in load.
        unsafe {
            match width {
                1 => (*word.cast::<AtomicU8>()).store(value as u8, Ordering::Relaxed),
                4 => (*word.cast::<AtomicU32>()).store(value as u32, Ordering::Relaxed),
                _ => (*word.cast::<AtomicU64>()).store(value, Ordering::Relaxed),
            }
        }
    }

    /// Overwrites one word. `name` is that of the participant at work.
    pub fn damage(&self, damage: &Damage, name: u32) {
        let width = damage.width;
        let offset = self.offset(&damage.place, width);
        let old = self.load(offset, width);
        let value = match &damage.value {
            Value::Is(value) => *value,
            Value::Flip(bit) => old ^ 1 << (u64::from(*bit) % (width * 8)),
            Value::Add(delta) => old.wrapping_add_signed(*delta),
            Value::Count(delta) => {
                let region = self.regions.iter().rev().find(|region| region.start <= offset);
                region
                    .map_or(0, |region| region.count)
                    .wrapping_add_signed(*delta)
            }
            Value::Copy(from) => self.load(self.offset(from, width), width),
            Value::Name { shift } => u64::from(name) << shift,
            Value::State { state, is_mine } => {
                u64::from(*state) | if *is_mine { u64::from(name) << 12 } else { 0 }
            }
            Value::Extent { start, granules, far } => {
                let (start, granules) = (
                    u64::from(*start) << (far % 17),
                    u64::from(*granules) << (far / 17 % 17),
                );
                start & 0xffff_ffff | granules << 32
            }
            Value::DeadPid => 1 | old & 0xf_fffe | 0x7fff_fff0 << 32,
        };
        self.store(offset, width, value);
    }

    /// Releases the lock, whichever process is said to hold it.
    pub fn unlock(&self) {
        self.store(self.regions[1].start, 4, 0);
    }

    /// What lies between the regions, and the elements that stand for none.
    pub fn gaps(&self) -> Vec<std::ops::Range<u64>> {
        let mut gaps = Vec::new();
        for (i, region) in self.regions.iter().enumerate() {
            let end = region.start + region.count * region.size;
            let next = match self.regions.get(i + 1) {
                // The heap lies between the descriptors and the slots.
                Some(next) if i != 7 => next.start,
                _ => end.div_ceil(1 << 16) << 16,
            };
            gaps.push(end.div_ceil(8) * 8..next);
            // Index 0 of these means none.
            if [2, 3, 8].contains(&i) {
                gaps.push(region.start..region.start + region.size);
            }
        }
        gaps
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no reference to it is left.
        unsafe { rustix::mm::munmap(self.base.cast(), self.length) }.expect("munmap");
    }
}
