//! Fork: a lock under which this process does not fork, and the hooks that run around a fork.
//!
//! A child shares the parent's mappings and descriptors but is another participant (registry.rs), and its
//! views of lent payloads are copies (view.rs). `pthread_atfork` calls the hooks of both before any other
//! code runs in the child. A child that was made without them, by a bare `clone` system call or by a fork
//! that had begun before they were registered, is recognised by a word that the kernel wipes, and its first
//! operation calls the child's hook (if another thread held the lock at that moment, such a child cannot open
//! any queue).

use std::any::Any;
use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use crate::platform::{self, Hook};
use crate::sync::{AtomicU32, Ordering, Word};

static LOCK: Mutex<()> = Mutex::new(());

/// While it lives, this process does not fork.
pub(crate) type NoFork = MutexGuard<'static, ()>;

/// Prepares for a fork. The value that it returns keeps what was prepared as it is until it is dropped, in
/// parent and child.
pub(crate) type Before = fn() -> Box<dyn Any>;

type Prepared = Option<Box<dyn Any>>;

/// How many forks lie between the first process that has queues and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);

static BEFORE: OnceLock<Before> = OnceLock::new();
static IN_CHILD: Hook = Hook::new();
static THEN_IN_CHILD: Hook = Hook::new();

/// 1 once a call of `install` has returned in this process, or in one that it was forked from.
static IS_INSTALLED: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// Held from before a fork until after it, so that no other thread holds `LOCK` when the process is
    /// copied.
    static HELD: RefCell<Option<(NoFork, Prepared)>> = const { RefCell::new(None) };
}

/// Registers the handlers before this process has any queue: what a child calls first, under `LOCK`, and
/// what it calls then, without it, before any other code runs.
///
/// Takes no lock and waits for no thread: if another thread forked meanwhile, the child would wait for ever.
/// So several threads may register the handlers, and a child that was forked in between registers them again;
/// the second call of a handler at a fork does nothing.
pub(crate) fn install(in_child: fn(), then_in_child: fn()) {
    // Acquire: pairs with the release below.
    if IS_INSTALLED.load(Ordering::Acquire) == 0 {
        IN_CHILD.set(in_child);
        THEN_IN_CHILD.set(then_in_child);
        platform::make_word_wiped_on_fork();
        platform::at_fork(before, after_in_parent, after_in_child);
        IS_INSTALLED.store(1, Ordering::Release);
    }
}

/// Sets the function that is called before each fork from now on.
pub(crate) fn call_before(before: Before) {
    if BEFORE.get().is_none() {
        // A fork that is under way has not called `before`.
        let _no_fork = hold_off();
        BEFORE.get_or_init(|| before);
    }
}

/// Keeps this process from forking. A panic elsewhere leaves nothing half done, so poison means nothing.
pub(crate) fn hold_off() -> NoFork {
    let held = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    if is_word_wiped() {
        begin_as_child();
    }
    held
}

/// The same if no other thread keeps it from forking, or forks; for a caller that must not wait.
pub(crate) fn try_hold_off() -> Option<NoFork> {
    match LOCK.try_lock() {
        Ok(held) => Some(held),
        Err(TryLockError::Poisoned(held)) => Some(held.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Reacts to a fork that no handler has seen. One load, so that every operation can call it.
#[inline(always)]
pub(crate) fn notice() {
    if is_word_wiped() {
        drop(hold_off());
    }
}

/// A number that differs between a process and its children: what threads of the parent were in the middle of
/// at the fork never ends in the child.
#[inline(always)]
pub fn count() -> u32 {
    FORKS.get()
}

/// Whether this process is a child that has not called `begin_as_child` yet.
#[inline(always)]
fn is_word_wiped() -> bool {
    platform::word_wiped_on_fork().is_some_and(|word| word.get() == 0)
}

fn begin_as_child() {
    // First, so that no call below reacts to the fork again.
    if let Some(word) = platform::word_wiped_on_fork() {
        word.set(1);
    }
    FORKS.set(FORKS.get().wrapping_add(1));
    platform::inherit_pid_namespace();
    IN_CHILD.call();
}

extern "C" fn before() {
    if HELD.try_with(|held| held.borrow_mut().is_some()) == Ok(true) {
        return; // registered twice
    }
    let no_fork = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let prepared = BEFORE.get().map(|before| before());
    // If this thread's locals are gone already, the locks are simply not held across the fork.
    let _ = HELD.try_with(|held| *held.borrow_mut() = Some((no_fork, prepared)));
}

extern "C" fn after_in_parent() {
    let _ = HELD.try_with(|held| held.borrow_mut().take());
}

extern "C" fn after_in_child() {
    if let Some(held) = HELD.try_with(|held| held.borrow_mut().take()).ok().flatten() {
        begin_as_child();
        drop(held);
        THEN_IN_CHILD.call();
    }
}
