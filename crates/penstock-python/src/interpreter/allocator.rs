//! Small allocations that do not fail.
//!
//! Rust ends the process when the system has no memory for a box, a short string or an `Arc`. Allocations
//! that grow with their input can fail (`try_reserve`). All others get one of the blocks here when the system
//! has no memory, so that the exception can be raised.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

const BLOCK: usize = 4096;
const COUNT: usize = 64;
const ALIGNMENT: usize = 64;

#[repr(C, align(64))]
struct Blocks(UnsafeCell<[u8; BLOCK * COUNT]>);

// SAFETY: a block belongs to the thread that has set its bit in TAKEN, until the bit is cleared.
unsafe impl Sync for Blocks {}

static BLOCKS: Blocks = Blocks(UnsafeCell::new([0; BLOCK * COUNT]));
/// A bit for each block.
static TAKEN: AtomicU64 = AtomicU64::new(0);

fn start() -> *mut u8 {
    BLOCKS.0.get().cast()
}

/// The number of the block at an address, if it is one of these.
#[inline(always)]
fn number(place: *mut u8) -> Option<usize> {
    let offset = (place as usize).wrapping_sub(start() as usize);
    (offset < BLOCK * COUNT).then_some(offset / BLOCK)
}

/// A block, or null if there is none for that size.
#[cold]
fn take(layout: Layout) -> *mut u8 {
    if layout.size() > BLOCK || layout.align() > ALIGNMENT {
        return std::ptr::null_mut();
    }
    let lowest_free = |taken: u64| (taken != u64::MAX).then_some(taken | (taken + 1));
    // Acquire: pairs with the release in `give_back` of the owner before.
    match TAKEN.fetch_update(Ordering::Acquire, Ordering::Relaxed, lowest_free) {
        Ok(taken) => start().wrapping_add(taken.trailing_ones() as usize * BLOCK),
        Err(_) => std::ptr::null_mut(),
    }
}

#[cold]
fn give_back(number: usize) {
    TAKEN.fetch_and(!(1 << number), Ordering::Release);
}

pub struct Small;

// SAFETY: memory comes from the system's allocator, which keeps this trait's rules; or it is a block, which
// has one owner until it is given back, and which is as large and as aligned as the layout demands.
unsafe impl GlobalAlloc for Small {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let place = unsafe { System.alloc(layout) };
        if place.is_null() { take(layout) } else { place }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let place = unsafe { System.alloc_zeroed(layout) };
        if !place.is_null() {
            return place;
        }
        let place = take(layout);
        if !place.is_null() {
            // SAFETY: the block has that size, and is this caller's alone.
            unsafe { place.write_bytes(0, layout.size()) };
        }
        place
    }

    #[inline]
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        match number(place) {
            Some(number) => give_back(number),
            // SAFETY: the caller's promise; it came from there.
            None => unsafe { System.dealloc(place, layout) },
        }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if number(place).is_none() {
            // SAFETY: the caller's promise; it came from there.
            let moved = unsafe { System.realloc(place, layout, size) };
            if !moved.is_null() {
                return moved;
            }
        }
        // SAFETY: the caller's promise: the size is not 0, and with this alignment no overflow.
        let moved = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !moved.is_null() {
            // SAFETY: both are at least so large, and they are different; the old one is the caller's to
            // free.
            unsafe {
                std::ptr::copy_nonoverlapping(place, moved, layout.size().min(size));
                self.dealloc(place, layout);
            }
        }
        moved
    }
}
