//! This process's handles, and what `fork` does to them.
//!
//! A child shares the mapping and the descriptors but is another participant: it forgets the parent's membership, closes
//! its copy of the parent's life descriptor (which would keep the parent's life byte locked after its death), and
//! registers on first use. Its views of lent payloads are copies (view.rs). `pthread_atfork` does that before any other code runs in the child. A child made by a bare
//! `clone` system call is recognised by a page that the kernel wipes, and does the same on its first operation (if another
//! thread was just opening or closing a queue at that moment, such a child cannot open any).

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError, Weak};

use crate::platform;
use crate::queue::Queue;
use crate::sync::{AtomicU32, Word};
use crate::units::Id;
use crate::view::{self, Views};

/// All queues that this process has open: one handle a queue, so that one process is one participant.
static OPEN: Mutex<Vec<(Id, Weak<Queue>)>> = Mutex::new(Vec::new());

/// Reads 1, and 0 in a child that was forked without the handlers below. `None` if the kernel has no such pages.
static FORK_PAGE: OnceLock<Option<&'static AtomicU32>> = OnceLock::new();

thread_local! {
    /// Held from before a fork until after it, so that no other thread is inside when the process is copied.
    static HELD: RefCell<Option<(OpenQueues, Views)>> = const { RefCell::new(None) };
}

pub(crate) type OpenQueues = MutexGuard<'static, Vec<(Id, Weak<Queue>)>>;

/// The list of open queues, locked. A panic elsewhere leaves it whole, so poison means nothing.
pub(crate) fn open_queues() -> OpenQueues {
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(|| platform::at_fork(before, after_in_parent, after_in_child));
    FORK_PAGE.get_or_init(platform::wiped_on_fork);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if is_page_wiped() {
        forget_memberships(&mut open);
    }
    open
}

/// Also true before the page was written for the first time, when there is no membership to forget.
#[inline(always)]
fn is_page_wiped() -> bool {
    matches!(FORK_PAGE.get(), Some(Some(page)) if page.get() == 0)
}

/// The same, once no handle of that queue is just being dropped: its membership must have ended before another begins.
pub(crate) fn open_queues_without_leaving(id: Id) -> OpenQueues {
    loop {
        let open = open_queues();
        if !open
            .iter()
            .any(|(known, queue)| *known == id && queue.strong_count() == 0)
        {
            return open;
        }
        drop(open);
        std::thread::yield_now();
    }
}

/// Takes a queue whose last handle is gone off the list.
pub(crate) fn forget(id: Id) {
    open_queues().retain(|(known, queue)| *known != id || queue.strong_count() > 0);
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

fn forget_memberships(open: &mut OpenQueues) {
    // First, so that nothing below notices the fork again.
    if let Some(Some(page)) = FORK_PAGE.get() {
        page.set(1);
    }
    platform::inherit_pid_namespace();
    // What another thread of the parent was just dropping will never be dropped here.
    open.retain(|(_, queue)| queue.strong_count() > 0);
    for (_, queue) in open.iter() {
        if let Some(queue) = queue.upgrade() {
            queue.forget_membership();
            queue.shared.bell.forget_watcher();
        }
    }
}

extern "C" fn before() {
    let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let views = view::before_fork();
    // If this thread's locals are gone already, the locks are simply not held across the fork.
    let _ = HELD.try_with(|held| *held.borrow_mut() = Some((open, views)));
}

extern "C" fn after_in_parent() {
    let _ = HELD.try_with(|held| held.borrow_mut().take());
}

extern "C" fn after_in_child() {
    if let Some((mut open, _views)) = HELD.try_with(|held| held.borrow_mut().take()).ok().flatten() {
        forget_memberships(&mut open);
    }
}
