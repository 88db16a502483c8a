//! Delivery: the private memory to which a get copies small payloads.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use crate::error::Error;
use crate::operations::lease::Lent;
use crate::platform;
use crate::state::deliver::CopyTarget;
use crate::units::{BATCH, SMALL};

/// The memory to which a get copies a small payload. A new one is not initialised: only what was filled in
/// can be read.
pub struct Buffer {
    room: [MaybeUninit<u8>; SMALL],
    /// Bytes from the start that have been written.
    len: usize,
}

impl Default for Buffer {
    #[inline]
    fn default() -> Buffer {
        Buffer {
            room: [const { MaybeUninit::uninit() }; SMALL],
            len: 0,
        }
    }
}

impl Buffer {
    /// The payload that the last get has copied.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` is at most SMALL, and so many bytes were written (`fill`).
        unsafe { std::slice::from_raw_parts(self.room.as_ptr().cast(), self.len) }
    }
}

impl CopyTarget for Buffer {
    unsafe fn fill(&mut self, source: *const u8, len: usize) {
        debug_assert!(len <= SMALL);
        // SAFETY: the caller's promise; `room` is private, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(source, self.room.as_mut_ptr().cast(), len) };
        self.len = len;
    }
}

/// Items taken together.
pub struct Batch {
    bytes: Vec<u8>,
    items: Vec<Item>,
    /// Bytes of the lent ones.
    lent: usize,
}

/// Bytes of lent payloads after which a batch is full: the objects that are made of them need memory, too.
const LENT: usize = 1 << 20;

enum Item {
    /// The payload's end in `bytes`. It begins where the copied one before it ends.
    Copied(usize),
    Lent(Lent),
}

/// One item of a [`Batch`].
pub enum Taken<'a> {
    Copied(&'a [u8]),
    Lent(Lent),
}

impl Batch {
    /// Room for `most` items at most, and for fewer if they are large or more than [`BATCH`]. The memory is
    /// allocated here, because a section allocates none.
    pub fn with_room_for(most: usize) -> Result<Batch, Error> {
        let most = most.min(BATCH);
        Ok(Batch {
            bytes: vec_with_room(SMALL * most.min(BATCH / 4))?,
            items: vec_with_room(most)?,
            lent: 0,
        })
    }

    /// The items, oldest first.
    pub fn into_items(self, mut operation: impl FnMut(Taken<'_>)) {
        let mut start = 0;
        for item in self.items {
            match item {
                Item::Copied(end) => {
                    operation(Taken::Copied(&self.bytes[start..end]));
                    start = end;
                }
                Item::Lent(lent) => operation(Taken::Lent(lent)),
            }
        }
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn push_lent(&mut self, lent: Lent) {
        debug_assert!(self.has_room());
        self.lent += lent.len();
        self.items.push(Item::Lent(lent));
    }

    pub(crate) fn has_room(&self) -> bool {
        self.bytes.capacity() - self.bytes.len() >= SMALL
            && self.items.len() < self.items.capacity()
            && self.lent < LENT
    }
}

/// An empty vector with room for `most` elements, or an error where `Vec::with_capacity` ends the process.
pub(crate) fn vec_with_room<T>(most: usize) -> Result<Vec<T>, Error> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(most)
        .map_err(|_| platform::no_memory((most * size_of::<T>()) as u64))?;
    Ok(vec)
}

impl CopyTarget for Batch {
    unsafe fn fill(&mut self, source: *const u8, len: usize) {
        debug_assert!(self.has_room() && len <= SMALL);
        // SAFETY: the caller's promise; this memory is private, so the two do not overlap.
        self.bytes
            .extend_from_slice(unsafe { std::slice::from_raw_parts(source, len) });
        self.items.push(Item::Copied(self.bytes.len()));
    }
}
