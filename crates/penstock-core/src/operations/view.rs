//! A view: a part of a lent payload as private memory that costs no copy.
//!
//! The pages of the payload are mapped a second time, copy-on-write. A read sees the item's own pages. A
//! write copies its page first, so the item stays as it was put, and can be delivered again. The payload
//! stays lent as long as there is a view of it.
//!
//! A fork copies a process's private memory, and a child's array must keep its contents whatever the parent
//! does with its own. The child does not hold the lease, so before a fork all pages of all views are copied;
//! after it, parent and child have their own copies. If the system has no memory for that, the child gets no
//! such pages: it dies at the first access, and does not compute with bytes that others have put there since.
//! (A child of a bare `clone` system call, which runs no handlers, must not use its parent's views.)
#![allow(unsafe_code)]

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fork;
use crate::operations::lease::Lent;
use crate::platform;

/// Views of one process at most: the system allows about 65,000 mappings, and the program needs some, too.
const MOST: usize = 16_384;

/// All views of this process, by the address of their pages.
static VIEWS: Mutex<BTreeMap<usize, Pages>> = Mutex::new(BTreeMap::new());

type Views = MutexGuard<'static, BTreeMap<usize, Pages>>;

struct Pages {
    len: usize,
    /// Every page is a copy. After a fork the copies are shared with the child, copy-on-write like all
    /// memory, and must not be copied once more for the next child.
    are_copies: bool,
}

/// Private memory with the contents of a part of a payload.
pub struct View {
    /// Whole pages.
    pages: NonNull<u8>,
    mapped: usize,
    /// Where the part begins in them, and how long it is.
    start: usize,
    len: usize,
    /// Never read, only kept: the pages that are not copied yet are the payload's.
    _lent: Arc<Lent>,
}

// SAFETY: the pages are this value's own mapping until drop, whichever thread uses it.
unsafe impl Send for View {}
// SAFETY: nothing here reads or writes through a shared reference; `pointer` hands out an address.
unsafe impl Sync for View {}

impl View {
    /// Maps a part of a payload. `None` if there are too many views, the system has no mapping left, or other
    /// code of this process has closed the descriptor: then the caller must copy the payload.
    pub fn new(lent: &Arc<Lent>, part: Range<usize>) -> Option<View> {
        let len = part.len();
        if len == 0 || part.end > lent.len() || lock().len() >= MOST {
            return None;
        }
        fork::call_before(before_fork);
        let (fd, offset) = lent.place()?;
        let offset = offset + part.start as u64;
        let page = platform::page_size();
        let first = offset / page * page;
        let mapped = ((offset + len as u64).next_multiple_of(page) - first) as usize;
        let pages = platform::map_privately(fd.get(), first, mapped)?;
        let new = Pages {
            len: mapped,
            are_copies: false,
        };
        lock().insert(pages.as_ptr() as usize, new);
        Some(View {
            pages,
            mapped,
            start: (offset - first) as usize,
            len,
            _lent: Arc::clone(lent),
        })
    }

    /// Where the part lies: readable and writable as long as this view lives, and no other code uses it.
    pub fn pointer(&self) -> *mut u8 {
        // SAFETY: `start` lies in the mapped pages.
        unsafe { self.pages.as_ptr().add(self.start) }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for View {
    fn drop(&mut self) {
        lock().remove(&(self.pages.as_ptr() as usize));
        // SAFETY: the mapping is this view's own, and a reader of it keeps the view.
        unsafe { platform::unmap_privately(self.pages, self.mapped) };
    }
}

fn lock() -> Views {
    VIEWS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Copies all pages that are not copies yet. No view is made or dropped until the returned value is dropped.
fn before_fork() -> Box<dyn Any> {
    let mut views = lock();
    for (&address, pages) in views.iter_mut().filter(|(_, pages)| !pages.are_copies) {
        pages.are_copies = platform::copy_privately(address, pages.len);
        if !pages.are_copies {
            platform::keep_from_children(address, pages.len);
        }
    }
    Box::new(views)
}
