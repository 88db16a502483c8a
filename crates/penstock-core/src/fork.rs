//! This process's handles, and what `fork` does to them.
//!
//! A child shares the mapping and the descriptors but is another participant: it forgets the parent's membership, closes
//! its copy of the parent's life descriptor (which would keep the parent's life byte locked after its death), and
//! registers on first use. `pthread_atfork` does that before any other code runs in the child. A child made by a bare
//! `clone` system call is recognised by a page that the kernel wipes, and does the same on its first operation.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError, Weak};

use crate::Id;
use crate::platform;
use crate::queue::Queue;
use crate::sync::{AtomicU32, Word};

/// All queues that this process has open: one handle a queue, so that one process is one participant.
static OPEN: Mutex<Vec<(Id, Weak<Queue>)>> = Mutex::new(Vec::new());

/// Reads 1, and 0 in a child that was forked without the handlers below. `None` if the kernel has no such pages.
static FORK_PAGE: OnceLock<Option<&'static AtomicU32>> = OnceLock::new();

thread_local! {
    /// Held from before a fork until after it, so that no other thread is inside when the process is copied.
    static HELD: RefCell<Option<OpenQueues>> = const { RefCell::new(None) };
}

pub(crate) type OpenQueues = MutexGuard<'static, Vec<(Id, Weak<Queue>)>>;

/// The list of open queues, locked. A panic elsewhere leaves it whole, so poison means nothing.
pub(crate) fn open_queues() -> OpenQueues {
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(|| platform::at_fork(before, after_in_parent, after_in_child));
    FORK_PAGE.get_or_init(platform::wiped_on_fork);
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if is_page_wiped() {
        forget_memberships(&open);
    }
    open
}

/// Also true before the page was written for the first time, when there is no membership to forget.
#[inline(always)]
fn is_page_wiped() -> bool {
    matches!(FORK_PAGE.get(), Some(Some(page)) if page.get() == 0)
}

pub(crate) fn find(open: &OpenQueues, id: Id) -> Option<Arc<Queue>> {
    open.iter().find(|(known, _)| *known == id)?.1.upgrade()
}

/// Cheap enough for every operation.
#[inline(always)]
pub(crate) fn notice_fork() {
    if is_page_wiped() {
        drop(open_queues());
    }
}

fn forget_memberships(open: &OpenQueues) {
    // First, so that nothing below notices the fork again.
    if let Some(Some(page)) = FORK_PAGE.get() {
        page.set(1);
    }
    for (_, queue) in open.iter() {
        if let Some(queue) = queue.upgrade() {
            queue.forget_membership();
        }
    }
}

extern "C" fn before() {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    // If this thread's locals are gone already, the lock is simply not held across the fork.
    let _ = HELD.try_with(|held| *held.borrow_mut() = Some(open));
}

extern "C" fn after_in_parent() {
    let _ = HELD.try_with(|held| held.borrow_mut().take());
}

extern "C" fn after_in_child() {
    if let Some(open) = HELD.try_with(|held| held.borrow_mut().take()).ok().flatten() {
        forget_memberships(&open);
    }
}
