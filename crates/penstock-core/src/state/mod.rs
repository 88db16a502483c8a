//! The state: all that changes under the lock. `Shared` is what a critical section works on, `Section` the
//! section itself.

#[cfg(not(loom))]
pub(crate) mod acting;
pub(crate) mod aside;
pub(crate) mod claim;
pub(crate) mod delay;
pub(crate) mod deliver;
pub(crate) mod discard;
pub(crate) mod hand;
pub(crate) mod heap;
pub(crate) mod held;
pub(crate) mod holding;
pub(crate) mod leases;
pub(crate) mod letters;
#[cfg_attr(loom, path = "../models/line.rs")]
pub(crate) mod line;
#[cfg(not(loom))]
pub(crate) mod line_end;
pub(crate) mod list;
pub(crate) mod notes;
#[cfg_attr(loom, path = "../models/notifier.rs")]
pub(crate) mod notifier;
mod order;
pub(crate) mod pages;
pub(crate) mod participant;
mod phase;
pub(crate) mod pipe_word;
pub(crate) mod producers;
mod put_off;
pub(crate) mod rebuild;
pub(crate) mod recovery;
pub(crate) mod slot;
pub(crate) mod sort;
mod transition;
pub(crate) mod waiters;

use crate::error::Error;
use crate::memory::layout::{CONTENDED, Hot, Kind, ParticipantId, Slot, WaiterCell};
use crate::memory::payload::Ahead;
use crate::memory::segment::Segment;
use crate::options::Options;
use crate::platform;
use crate::state::line::Line;
use crate::state::notifier::{AfterRelease, Notifier};
use crate::sync::{AtomicU32, Ordering, Word};

/// In `Shared::me`: this process has work to do in its next section. It is the bit that means contended in
/// the lock word, so the id with it is a lock word, too: at worst its release wakes a waiter in vain.
pub(crate) const WORK_PUT_OFF: u32 = CONTENDED;

/// So many waiters are woken after the release of the lock; the others of a section before it.
pub(crate) const WAKES: usize = 8;

/// A queue as a critical section of this process sees it.
pub(crate) struct Shared {
    pub segment: Segment,
    pub options: Options,
    /// Whether a put may find no room: the options limit what is queued.
    is_bounded: bool,
    /// This process's id in the queue, as in the lock word; 0 before it has registered. With the bit
    /// WORK_PUT_OFF if its next section has put-off work to do (handle/put_off.rs).
    pub me: AtomicU32,
    /// Of items and room, and of the end: see notifier.rs.
    pub notifiers: [Notifier; 2],
    pub line: Line,
}

impl Shared {
    pub(crate) fn new(segment: Segment, options: Options) -> Shared {
        Shared {
            segment,
            is_bounded: options.maxsize != 0 || options.soft_bytes != 0,
            options,
            me: AtomicU32::new(0),
            notifiers: [Notifier::new(), Notifier::new()],
            line: Line::new(),
        }
    }

    /// This process's id in the queue, if it has registered. A child after a fork may have its parent's
    /// still.
    #[inline(always)]
    pub(crate) fn member_if_any(&self) -> Option<ParticipantId> {
        self.member_word_if_any().map(ParticipantId::in_word)
    }

    /// The same with WORK_PUT_OFF, for a caller that takes the lock with it.
    #[inline(always)]
    pub(crate) fn member_word_if_any(&self) -> Option<u32> {
        // Acquire: pairs with the release in register. A holder of the lock under this id passes on what
        // its record says.
        Some(self.me.load(Ordering::Acquire)).filter(|me| *me != 0)
    }

    pub(crate) fn has_work_put_off(&self) -> bool {
        self.me.get() & WORK_PUT_OFF != 0
    }

    /// Marks the id, so that this process's next section calls `finish_put_off`.
    pub(crate) fn put_off_work(&self) {
        loop {
            let me = self.me.get();
            if me == 0 || me & WORK_PUT_OFF != 0 {
                return;
            }
            // Release: pairs with the acquire in member_word_if_any, so that the thread that does the work
            // sees the marks.
            if exchange(&self.me, me, me | WORK_PUT_OFF, Ordering::Release) {
                return;
            }
        }
    }

    /// Clears that mark, before a section of this process does the work. False if there is no mark. Work that
    /// another thread puts off from now on is for the next section.
    pub(crate) fn take_up_work(&self, me: ParticipantId) -> bool {
        // Acquire: pairs with the release in put_off_work.
        exchange(&self.me, me.0 | WORK_PUT_OFF, me.0, Ordering::Acquire)
    }

    #[inline(always)]
    pub(crate) fn ready_count(&self) -> u64 {
        // Acquire: pairs with the release of each store of the number (state/order, rebuild.rs), so that the
        // caller's next reads see what the number says.
        self.segment.hot().ready_count.load(Ordering::Acquire)
    }

    /// Whether a put finds room now. `max_bytes` is another limit, checked when memory is reserved.
    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        !self.is_bounded || self.has_room_left()
    }

    #[inline(always)]
    fn has_room_left(&self) -> bool {
        let (maxsize, soft_bytes) = (self.options.maxsize, self.options.soft_bytes);
        (maxsize == 0 || self.ready_count() < maxsize)
            && (soft_bytes == 0 || self.segment.hot().ready_bytes.get() < soft_bytes)
    }

    /// The word that names the participant that spins for that. `None` for a joiner, which never spins.
    pub(crate) fn spinning_word(&self, kind: Kind) -> Option<&AtomicU32> {
        match kind {
            Kind::Item => Some(&self.segment.hot().spinning.getter),
            Kind::Room => Some(&self.segment.hot().spinning.putter),
            Kind::Finish => None,
        }
    }
}

fn exchange(word: &AtomicU32, old: u32, new: u32, success: Ordering) -> bool {
    word.compare_exchange(old, new, success, Ordering::Relaxed)
        .is_ok()
}

/// The critical section: a thread that has one holds the lock. The drop of the guard around it ends it
/// (lock/guard.rs).
///
/// Inside it there is no Python, no allocation, no logging and no panic.
pub(crate) struct Section<'q> {
    pub shared: &'q Shared,
    pub me: ParticipantId,
    wakes: [u32; WAKES],
    wake_count: usize,
    /// What is due at the notifiers once the lock is released. See notifier.rs.
    pub after_release: AfterRelease,
    pub ahead: Ahead,
}

impl<'q> Section<'q> {
    /// The section of a lock that was just acquired.
    #[inline(always)]
    pub(crate) fn new(shared: &'q Shared, me: ParticipantId) -> Section<'q> {
        Section {
            shared,
            me,
            wakes: [0; WAKES],
            wake_count: 0,
            after_release: AfterRelease::None,
            ahead: Ahead::Nothing,
        }
    }

    #[inline(always)]
    pub(crate) fn hot(&self) -> &'q Hot {
        self.shared.segment.hot()
    }

    #[inline(always)]
    pub(crate) fn slot(&self, index: u32) -> Result<&'q Slot, Error> {
        self.shared.segment.slot(index)
    }

    pub(crate) fn cell(&self, index: u32) -> Result<&'q WaiterCell, Error> {
        self.shared.segment.cell(index)
    }

    /// Whether another thread sleeps until the lock is released.
    pub(crate) fn is_contended(&self) -> bool {
        self.hot().lock.get() & CONTENDED != 0
    }

    pub(crate) fn my_index(&self) -> u32 {
        self.me.index()
    }

    /// Notes a cell whose waiter is woken once the lock is released.
    pub(crate) fn wake_later(&mut self, cell: u32) {
        match self.wakes.get_mut(self.wake_count) {
            Some(place) => {
                *place = cell;
                self.wake_count += 1;
            }
            None => self.wake(cell),
        }
    }

    /// Makes the wake-up calls that were noted.
    pub(crate) fn wake_chosen(&mut self) {
        for i in 0..core::mem::take(&mut self.wake_count).min(WAKES) {
            self.wake(self.wakes[i]);
        }
    }

    /// Cells whose waiters are woken after the release.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn wakes_noted(&self) -> &[u32] {
        &self.wakes[..self.wake_count]
    }

    pub(crate) fn has_wakes(&self) -> bool {
        self.wake_count > 0
    }

    fn wake(&self, cell: u32) {
        if let Ok(cell) = self.shared.segment.cell(cell) {
            platform::futex_wake(&cell.word, 1);
        }
    }
}
