//! Holding: which leases a thread has, noted by the thread for itself.
//!
//! All of it is private to one thread of one process, and serves only to find its leases in its process's
//! list:
//!
//! - while nothing is acknowledged (state/aside.rs), the items that the thread has in hand, which it sets
//!   aside when it asks for more;
//! - afterwards, the leases that other threads' leases keep it from finding quickly
//!   (operations/acknowledge.rs), and how many it may have;
//! - the items of its loops, which `task_done` finishes after all others (operations/iterate.rs);
//! - that it has not ended: what an ended thread has in hand, no wait of its process is to last for
//!   (state/phase.rs).
//!
//! A note may be out of date, and in a forked child all are: an operation that uses one compares the slot's
//! state, owner and lease under the lock.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::error::Error;
use crate::memory::layout::ParticipantId;
use crate::platform;
use crate::units::Id;

/// A lease, by its slot and its number, which never repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lease {
    pub slot: u32,
    pub number: u64,
}

/// The leases of one thread of a queue whose process holds many, as far as it has read the process's list.
#[derive(Default)]
pub(crate) struct Found {
    /// The participant whose list was read, for which thread or task, and the last lease that was.
    pub participant: ParticipantId,
    pub thread: u32,
    pub last_read: Lease,
    /// How far the list is being read backwards, from the youngest lease to the last one that was read.
    pub backwards: Option<Lease>,
    /// This thread's among them, the oldest first.
    pub leases: VecDeque<Lease>,
}

#[derive(Default)]
struct Notes {
    in_hand: Vec<(Id, Lease)>,
    found: Vec<(Id, Found)>,
    /// Items of loops, the youngest last.
    in_loops: Vec<(Id, Lease)>,
}

impl Notes {
    fn retain_in_loops(&mut self, is_kept: impl FnMut(&(Id, Lease)) -> bool) {
        let before = self.in_loops.len();
        self.in_loops.retain(is_kept);
        IN_LOOPS.fetch_sub(before - self.in_loops.len(), Ordering::Relaxed);
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        IN_LOOPS.fetch_sub(self.in_loops.len(), Ordering::Relaxed);
        // The thread ends, and asks for no more items. If another thread is here, or was when this process
        // was forked, then these items stay in hand until the process ends.
        if let Ok(mut left) = LEFT_BY_THREADS.try_lock() {
            if left.try_reserve(self.in_hand.len()).is_ok() {
                left.append(&mut self.in_hand);
            }
        }
    }
}

/// What this thread needs memory for, together, so that the memory is taken once.
struct Own {
    notes: RefCell<Notes>,
    _life: Life,
}

thread_local! {
    static OWN: Own = Own {
        notes: RefCell::default(),
        _life: Life::begin(),
    };
}

thread_local! {
    /// At least as many leases as this thread holds, of all queues together: those that it took, without
    /// those that it finished.
    static HELD: Cell<u64> = const { Cell::new(0) };
}

thread_local! {
    /// Whether this thread has its place among the living, and its notes: both take memory, which no section
    /// does.
    static HAS_BEGUN: Cell<bool> = const { Cell::new(false) };
}

/// The bit of the numbers of tasks (acting.rs). The numbers of threads are below 2^30.
pub(crate) const OF_TASK: u32 = 1 << 31;

/// Whether that is the number of a task, and not of a thread.
pub(crate) fn is_task(number: u32) -> bool {
    number & OF_TASK != 0
}

/// How many threads of a process can be known to live.
const PLACES: usize = 4096;

/// The threads of this process that may have items in hand. Each stands, by its number
/// (platform::thread_id), in the place that the number says; 0 is a free place. So one load says whether a
/// thread lives. Without a lock, because it is read in critical sections, and may be in a forked child.
struct Living([AtomicU32; PLACES]);

static LIVING: Living = Living([const { AtomicU32::new(0) }; PLACES]);

impl Living {
    fn place(&self, number: u32) -> &AtomicU32 {
        &self.0[number as usize % PLACES]
    }

    fn has(&self, number: u32) -> bool {
        number != 0 && self.place(number).load(Ordering::Relaxed) == number
    }

    /// Replaces what stands in the place of that number. False if another thread has the place.
    fn replace(&self, number: u32, former: u32, new: u32) -> bool {
        self.place(number)
            .compare_exchange(former, new, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    #[cfg(not(loom))]
    fn keep_alone(&self, number: u32) {
        for place in &self.0 {
            let found = place.load(Ordering::Relaxed);
            if found != 0 && found != number {
                place.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// A thread's place among the living, by its number, which is free again when the thread ends; 0 for none.
struct Life(u32);

impl Life {
    /// If another thread has the place of this one's number, this one gets another number: it has no item
    /// yet.
    fn begin() -> Life {
        if cfg!(loom) {
            return Life(0);
        }
        let mut number = platform::own_thread_id();
        // So many numbers in a row have all places.
        for _ in 0..=PLACES {
            if LIVING.replace(number, 0, number) {
                platform::renumber(number);
                return Life(number);
            }
            number = platform::next_number();
        }
        Life(0)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.0 != 0 {
            LIVING.replace(self.0, self.0, 0);
        }
    }
}

/// Whether a thread of this process that has taken an item has ended. Nothing but the end of the process may
/// settle its item then. Of more threads than there are places some are taken for ended. Of a task this
/// cannot tell.
pub(crate) fn has_ended(thread: u32) -> bool {
    !cfg!(loom) && !is_task(thread) && !LIVING.has(thread)
}

/// Before a thread's first section that takes an item of an acknowledged queue, and before it acts as a task.
#[inline(always)]
pub(crate) fn begin() {
    if !HAS_BEGUN.get() {
        begin_thread();
    }
}

#[cold]
fn begin_thread() {
    // A thread that is ending already counts as ended, and notes nothing.
    let _ = OWN.try_with(|_| ());
    HAS_BEGUN.set(true);
}

/// In a child after a fork: the parent's other threads are not here, and the items of its loops are the
/// parent's.
#[cfg(not(loom))]
pub(crate) fn begin_in_child() {
    LIVING.keep_alone(platform::own_thread_id());
    with_own_notes(|notes| notes.in_loops.clear());
    IN_LOOPS.store(0, Ordering::Relaxed);
}

#[inline(always)]
pub(crate) fn note_taken() {
    HELD.set(HELD.get().wrapping_add(1));
}

#[inline(always)]
pub(crate) fn count_finished() {
    HELD.with(|held| held.set(held.get().saturating_sub(1)));
}

/// How many leases this thread may hold. If it is 0, the thread holds none.
pub(crate) fn held() -> u64 {
    HELD.with(Cell::get)
}

/// How many items of loops are noted, by all threads of this process: while there are none, no thread reads
/// its notes for them.
static IN_LOOPS: AtomicUsize = AtomicUsize::new(0);

/// Notes after which a thread removes those that are out of date.
const MANY_IN_LOOPS: usize = 16;

/// What ended threads of this process had in hand.
static LEFT_BY_THREADS: Mutex<Vec<(Id, Lease)>> = Mutex::new(Vec::new());

/// Runs `operation` on this thread's notes. `None` if the thread is ending. Not in a section: see
/// [`with_own_notes`].
fn with_notes<T>(operation: impl FnOnce(&mut Notes) -> T) -> Option<T> {
    begin();
    with_own_notes(operation)
}

/// The same in a section, which takes no memory. `None` also if the thread has never noted anything.
fn with_own_notes<T>(operation: impl FnOnce(&mut Notes) -> T) -> Option<T> {
    if !HAS_BEGUN.get() {
        return None;
    }
    OWN.try_with(|own| operation(&mut own.notes.borrow_mut())).ok()
}

/// Makes room for `count` notes, so that none has to be made under the lock.
pub(crate) fn reserve(count: usize) -> Result<(), Error> {
    let reserved = with_notes(|notes| notes.in_hand.try_reserve(count).is_ok());
    match reserved {
        Some(false) => Err(platform::no_memory((count * size_of::<(Id, Lease)>()) as u64)),
        Some(true) | None => Ok(()),
    }
}

/// Notes that this thread has an item in hand, if [`reserve`] has made room for the note.
pub(crate) fn note(queue: Id, lease: Lease) {
    with_own_notes(|notes| {
        if notes.in_hand.len() < notes.in_hand.capacity() {
            notes.in_hand.push((queue, lease));
        }
    });
}

/// Takes the notes on what this thread, and ended threads, have in hand of a queue. The vector is empty if
/// there is no memory for them: then they are taken the next time.
pub(crate) fn take(queue: Id) -> Vec<Lease> {
    let mut taken = Vec::new();
    let mut take_from = |notes: &mut Vec<(Id, Lease)>| {
        if taken.try_reserve(notes.len()).is_ok() {
            notes.retain(|(id, lease)| {
                if *id == queue {
                    taken.push(*lease);
                }
                *id != queue
            });
        }
    };
    with_notes(|notes| take_from(&mut notes.in_hand));
    if let Ok(mut left) = LEFT_BY_THREADS.try_lock() {
        take_from(&mut left);
    }
    taken
}

/// Notes again what was taken and is in hand still. Without memory for the notes these items stay in hand
/// until the process ends.
pub(crate) fn put_back(queue: Id, leases: Vec<Lease>) {
    with_notes(|notes| {
        if notes.in_hand.try_reserve(leases.len()).is_ok() {
            notes
                .in_hand
                .extend(leases.into_iter().map(|lease| (queue, lease)));
        }
    });
}

/// Removes this thread's notes, and those of ended threads, on a queue that this process has closed.
pub(crate) fn forget(queue: Id) {
    with_notes(|notes| {
        notes.in_hand.retain(|(id, _)| *id != queue);
        notes.found.retain(|(id, _)| *id != queue);
        notes.retain_in_loops(|(id, _)| *id != queue);
    });
    if let Ok(mut left) = LEFT_BY_THREADS.try_lock() {
        left.retain(|(id, _)| *id != queue);
    }
}

/// Takes what this thread has found in a queue's list of leases.
pub(crate) fn take_found(queue: Id, participant: ParticipantId) -> Found {
    let found = with_notes(|notes| {
        let place = notes.found.iter().position(|(id, _)| *id == queue)?;
        Some(notes.found.swap_remove(place).1)
    });
    let thread = platform::thread_id();
    match found.flatten() {
        Some(found) if (found.participant, found.thread) == (participant, thread) => found,
        _ => Found {
            participant,
            thread,
            ..Found::default()
        },
    }
}

/// Keeps it for the thread's next call. Without memory for the note the next call begins anew.
pub(crate) fn keep_found(queue: Id, found: Found) {
    with_notes(|notes| {
        if notes.found.try_reserve(1).is_ok() {
            notes.found.push((queue, found));
        }
    });
}

/// Makes room for the note on the item of a loop.
pub(crate) fn reserve_in_loop() -> Result<(), Error> {
    match with_notes(|notes| notes.in_loops.try_reserve(1).is_ok()) {
        Some(false) => Err(platform::no_memory(size_of::<(Id, Lease)>() as u64)),
        Some(true) | None => Ok(()),
    }
}

/// Notes that this thread has the item of a loop in hand, if [`reserve_in_loop`] has made room for the note.
pub(crate) fn note_in_loop(queue: Id, lease: Lease) {
    with_notes(|notes| {
        if notes.in_loops.len() < notes.in_loops.capacity() {
            notes.in_loops.push((queue, lease));
            IN_LOOPS.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Removes that note: the item is finished, or is in hand like any other, because the loop is over.
pub(crate) fn forget_in_loop(queue: Id, lease: Lease) {
    if IN_LOOPS.load(Ordering::Relaxed) > 0 {
        with_notes(|notes| notes.retain_in_loops(|noted| *noted != (queue, lease)));
    }
}

/// Whether that is the item of a loop of this thread.
#[inline(always)]
pub(crate) fn is_in_loop(queue: Id, lease: impl FnOnce() -> Lease) -> bool {
    IN_LOOPS.load(Ordering::Relaxed) > 0 && is_noted_in_loop(queue, lease())
}

#[cold]
fn is_noted_in_loop(queue: Id, lease: Lease) -> bool {
    with_own_notes(|notes| notes.in_loops.contains(&(queue, lease))).unwrap_or(false)
}

/// The item of this thread's, or task's (acting.rs), youngest loop over a queue. Removes the notes for which
/// `is_mine` is false: another thread or process has finished these.
#[cold]
pub(crate) fn last_in_loop(
    queue: Id,
    is_mine: impl Fn(&Lease) -> bool,
    is_of_task: impl Fn(&Lease) -> bool,
) -> Option<Lease> {
    if IN_LOOPS.load(Ordering::Relaxed) == 0 {
        return None;
    }
    with_own_notes(|notes| {
        notes.retain_in_loops(|(id, lease)| *id != queue || is_mine(lease));
        let mut noted = notes.in_loops.iter().rev();
        noted
            .find(|(id, lease)| *id == queue && is_of_task(lease))
            .map(|(_, lease)| *lease)
    })
    .flatten()
}

/// Whether notes may be out of date, since a loop is finished by another thread than the one that took the
/// item.
pub(crate) fn has_many_in_loops() -> bool {
    IN_LOOPS.load(Ordering::Relaxed) >= MANY_IN_LOOPS
        && with_own_notes(|notes| notes.in_loops.len() >= MANY_IN_LOOPS).unwrap_or(false)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const LARGE: u32 = PLACES as u32;

    #[test]
    fn a_place_is_one_threads_alone() {
        let living = Living([const { AtomicU32::new(0) }; PLACES]);
        assert!(living.replace(5, 0, 5) && living.replace(6, 0, 6) && living.replace(9, 0, 9));
        assert!(!living.replace(LARGE + 5, 0, LARGE + 5), "it is another's");
        let found = [0, 5, 6, 9, LARGE + 5].map(|number| living.has(number));
        assert_eq!(found, [false, true, true, true, false]);
        assert!(living.replace(5, 5, 0) && living.replace(LARGE + 5, 0, LARGE + 5));
        living.keep_alone(6);
        let found = [5, LARGE + 5, 6, 9].map(|number| living.has(number));
        assert_eq!(found, [false, false, true, false]);
    }

    /// To begin them takes memory, which a section may not have.
    #[test]
    fn a_section_begins_no_notes() {
        let begins = || with_own_notes(|_| ()).is_some() || HAS_BEGUN.get();
        assert!(!std::thread::scope(|scope| scope.spawn(begins).join().unwrap()));
    }

    /// A thread whose place is another's gets the number of a free place, and nothing that it has in hand
    /// counts as an ended thread's.
    #[test]
    fn a_thread_without_its_place_is_renumbered() {
        let run = || {
            let (before, other) = (platform::thread_id(), platform::thread_id() + LARGE);
            assert!(LIVING.replace(before, 0, other));
            begin();
            let after = platform::thread_id();
            assert_eq!(after, platform::own_thread_id());
            assert!(has_ended(before) && !has_ended(after));
            assert!(LIVING.replace(other, other, 0));
            after
        };
        let ended = std::thread::scope(|scope| scope.spawn(run).join().unwrap());
        assert!(has_ended(ended));
    }
}
