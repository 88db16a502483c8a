//! Slots: the state word that is the truth about an item, and the lists that are only caches of it.
//!
//! ```text
//!            put (small)                    get (plain, small)
//!    FREE ------------------------> READY ------------------------> FREE
//!      \  claim            publish  ^   \  get                 done ^
//!       +-------> CLAIMED ----------+    +-------> LEASED ----------+
//!                 |  ^ dies: FREE        dies: READY again, or DEAD after too many deliveries
//!                 |  |                   leaves in order: ORPHAN, then FREE (counted as unfinished),
//!                 |  |                                    or LEFT until the borrow of its payload ends,
//!                 |  |                                    or LEASED still, if it is settled by name
//!                 +--+ task_done while the payload is borrowed, or kept: CLAIMED until the borrow ends
//!    READY -- task_done before any get --> READY_DONE: delivered as usual, finished already
//!    READY -- a getter has waited for long (hand.rs) --> HANDED -- it is back --> as READY by its get
//!                 HANDED -- dies, is late, or gives up --> READY in its old place, as if it had never left
//!                 READY_DONE and HANDED_DONE are the same of an item that is finished already
//!    LEASED -- released by its holder (operations/held.rs) --> READY in its old place, as if never taken
//!    LEASED -- failed, or rejected, by its holder --> READY as after a death, or DEAD
//!    LEASED -- its thread asks for another item, nothing was acknowledged yet --> ASIDE (aside.rs)
//!    ASIDE -- memory is needed --> GIVEN_UP, then FREE (counted as unfinished)
//!    ASIDE -- items are acknowledged from now on: as LEASED
//!    put, or a lease that is released or fails, with a delay (delay.rs) --> DELAYED -- its time --> READY
//!    READY or DELAYED -- the queue is closed (operations/shutdown.rs) --> DISCARDED, then FREE (counted)
//!                 LEASED or HANDED of a closed queue -- comes back --> DISCARDED as well
//! ```
//!
//! Every change of state happens under the lock, as one store with release ordering after all fields that the
//! new state gives a meaning to. So at whatever instruction a process dies, the fields agree with the state.

use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{FreeList, Hot, ONE_CACHED, PARTICIPANTS, ParticipantId, SLOTS_PER_PAGE, Slot};
use crate::memory::payload::Extent;
use crate::platform;
use crate::state::Section;
use crate::state::heap::{Growth, is_object};
use crate::sync::{Count, LockedU64, Ordering, Word, compiler_fence};
use crate::units::SMALL;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    Free = 0,
    /// Memory that the owner holds, without an item in it (not yet, or no more).
    Claimed = 1,
    Ready = 2,
    /// Delivered to the owner, not yet acknowledged.
    Leased = 3,
    /// Ready, but finished: `task_done` was called before the item was taken.
    ReadyDone = 4,
    /// Unfinished, and its holder left in order: on its way to FREE, while `Hot::orphans` counts it.
    Orphan = 5,
    /// A dead letter: its holders died or failed too often, or one has rejected it.
    Dead = 6,
    /// Leased, but its holder has left in order and only borrows the payload still: an orphan once the borrow
    /// ends.
    Left = 7,
    /// Leased, and its holder has asked for another item since, on a queue without acknowledgements so far.
    /// If it has no owner, its holder has died.
    Aside = 8,
    /// It was set aside, and its memory is needed: on its way to FREE, while `Participant::given_up` or
    /// `Hot::given_up` counts it.
    GivenUp = 9,
    /// Taken for the owner, one of whose threads has waited for long and is not back yet. No caller has seen
    /// the item.
    Handed = 10,
    /// The same of an item that is finished already.
    HandedDone = 11,
    /// It was queued, or came back, when the queue was closed: on its way to FREE, while `Hot::discarded`
    /// counts it.
    Discarded = 12,
    /// No get finds it before its time has come.
    Delayed = 13,
    /// No item, but what is remembered of one (notes.rs).
    Note = 14,
}

impl State {
    /// How many states there are, numbered from 0.
    #[cfg(any(all(loom, test), feature = "fuzzing"))]
    pub(crate) const COUNT: usize = State::Note as usize + 1;
}

/// The state word: state (bits 0..4), redeliveries (bits 4..12), owner as in the lock word (bits 12..43), and
/// the slot of the item's note, or 0 (bits 43..64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateWord(u64);

/// What a state word says of its item's past: how often it came back, and its note. As in the word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Past(u64);

const PAST: u64 = 0xff << 4 | u64::MAX << 43;

/// Slots from this one on are no notes: a state word cannot name them.
pub(crate) const NOTES: u32 = 1 << 21;

impl Past {
    pub(crate) const NONE: Past = Past(0);

    /// One redelivery more. There are fewer than 255 so far.
    pub(crate) fn once_more(self) -> Past {
        Past(self.0.wrapping_add(1 << 4))
    }

    /// The slot of the note, or 0.
    #[inline(always)]
    pub(crate) fn note(self) -> u32 {
        (self.0 >> 43) as u32
    }

    pub(crate) fn with_note(self, note: u32) -> Past {
        Past(self.0 & 0xff0 | u64::from(note) << 43)
    }
}

impl StateWord {
    pub(crate) const FREE: StateWord = StateWord(0);

    pub(crate) fn new(state: State, redeliveries: u8, owner: ParticipantId) -> StateWord {
        StateWord(state as u64 | u64::from(redeliveries) << 4 | u64::from(owner.0) << 12)
    }

    /// The same with all that is remembered of the item.
    #[inline(always)]
    pub(crate) fn with(state: State, past: Past, owner: ParticipantId) -> StateWord {
        StateWord(state as u64 | past.0 | u64::from(owner.0) << 12)
    }

    /// The word of an item that no participant has, or this owner, in another state of that owner's.
    #[inline(always)]
    pub(crate) fn given(self, state: State, owner: ParticipantId) -> StateWord {
        StateWord(self.0 & !0xf | state as u64 | u64::from(owner.0) << 12)
    }

    pub(crate) fn unowned_with(state: State, past: Past) -> StateWord {
        StateWord::with(state, past, ParticipantId::NONE)
    }

    /// The same word with another past.
    pub(crate) fn with_past(self, past: Past) -> StateWord {
        StateWord(self.0 & !PAST | past.0)
    }

    #[inline(always)]
    pub(crate) fn past(self) -> Past {
        Past(self.0 & PAST)
    }

    /// The word of a state in which no participant holds the slot.
    pub(crate) fn unowned(state: State, redeliveries: u8) -> StateWord {
        StateWord::new(state, redeliveries, ParticipantId::NONE)
    }

    pub(crate) fn state(self) -> Option<State> {
        Some(match self.0 & 0xf {
            0 => State::Free,
            1 => State::Claimed,
            2 => State::Ready,
            3 => State::Leased,
            4 => State::ReadyDone,
            5 => State::Orphan,
            6 => State::Dead,
            7 => State::Left,
            8 => State::Aside,
            9 => State::GivenUp,
            10 => State::Handed,
            11 => State::HandedDone,
            12 => State::Discarded,
            13 => State::Delayed,
            14 => State::Note,
            _ => return None,
        })
    }

    /// A get would find the item.
    pub(crate) fn is_ready(self) -> bool {
        matches!(self.state(), Some(State::Ready | State::ReadyDone))
    }

    /// A participant holds the slot, or a dead one has set it aside.
    pub(crate) fn is_held(self) -> bool {
        self.is_lease() || self.is_handed() || self.state() == Some(State::Claimed)
    }

    /// A getter has it that has waited for long and is not back yet.
    pub(crate) fn is_handed(self) -> bool {
        matches!(self.state(), Some(State::Handed | State::HandedDone))
    }

    /// It is taken and not finished.
    #[inline(always)]
    pub(crate) fn is_lease(self) -> bool {
        matches!(self.state(), Some(State::Leased | State::Aside | State::Left))
    }

    pub(crate) fn redeliveries(self) -> u8 {
        (self.0 >> 4) as u8
    }

    pub(crate) fn owner(self) -> ParticipantId {
        ParticipantId((self.0 >> 12) as u32 & 0x7fff_ffff)
    }
}

impl Slot {
    #[inline(always)]
    pub(crate) fn word(&self) -> StateWord {
        StateWord(self.state.get())
    }

    /// Commits: everything stored before belongs to the new state.
    #[inline(always)]
    pub(crate) fn commit(&self, word: StateWord) {
        // Release: pairs with the acquire of the next holder of the lock, also of one that takes it over from
        // a dead holder. It also keeps the compiler from moving the stores of the fields behind the commit.
        // The fence keeps it from moving later stores before the commit: a death before the commit must find
        // the old fields with the old state.
        self.state.store(word.0, Ordering::Release);
        compiler_fence(Ordering::SeqCst);
    }
}

// The marks in `Slot::borrowed`.
pub(crate) const BORROWED: u32 = 1;

/// The reader could not use the item, which returns to the queue.
pub(crate) const UNDELIVERED: u32 = 2;

/// The payload is borrowed, and the item is its reader's for good.
pub(crate) const KEPT: u32 = 3;

/// The borrow has ended.
pub(crate) const ENDED: u32 = 4;

/// Claimed memory that its owner does not need any more.
pub(crate) const RELEASED: u32 = 5;

/// Their bits.
pub(crate) const MARK: u32 = 7;

/// In `Slot::holder` of a lease, beside the thread: it is settled by name, or by its loop. It stays its
/// participant's when that leaves in order, and comes back when the process has ended.
pub(crate) const BY_NAME: u32 = 1 << 30;

// The time in `Slot::borrowed` counts steps of the coarse monotonic clock, from 1 on, and begins anew after
// 99 days.
const STEP: u64 = 16; // milliseconds
const STEPS: u64 = (1 << 29) - 1;

impl Slot {
    /// Whether that thread has leased it.
    #[inline(always)]
    pub(crate) fn is_leased_by(&self, thread: u32) -> bool {
        (self.holder.get() ^ thread) & !BY_NAME == 0
    }

    /// The thread, or the task, that has leased it.
    pub(crate) fn leasing_thread(&self) -> u32 {
        self.holder.get() & !BY_NAME
    }

    /// Whether it is a lease that outlasts a leave in order.
    pub(crate) fn is_by_name(&self) -> bool {
        self.word().is_lease() && self.holder.get() & BY_NAME != 0
    }

    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        self.borrowed.get() & MARK
    }

    #[inline(always)]
    pub(crate) fn set_mark(&self, mark: u32) {
        self.borrowed.set(self.marked(mark));
    }

    /// What `borrowed` is with that mark.
    #[inline(always)]
    pub(crate) fn marked(&self, mark: u32) -> u32 {
        self.borrowed.get() & !MARK | mark
    }

    /// Notes that the item is put now. The slot has no mark.
    #[cold]
    pub(crate) fn note_time(&self) {
        let step = platform::coarse_millis() / STEP % STEPS + 1;
        self.borrowed.set((step as u32) << 3);
    }

    /// How long ago the item was put. `None` if that was not noted.
    pub(crate) fn time_since_put(&self) -> Option<Duration> {
        let put = u64::from(self.borrowed.get() >> 3).checked_sub(1)?;
        let now = platform::coarse_millis() / STEP % STEPS;
        let steps = (now + STEPS - put) % STEPS;
        Some(Duration::from_millis(steps * STEP))
    }
}

/// Whether a dead participant was done with a slot that is still LEASED to it, so that the item does not come
/// back.
pub(crate) fn was_kept(slot: &Slot, acknowledged: bool) -> bool {
    !acknowledged && matches!(slot.mark(), KEPT | ENDED)
}

/// Bytes of a slot's extent if its payload is borrowed, else 0.
pub(crate) fn lent_bytes(slot: &Slot) -> u64 {
    match Extent::unpack(slot.extent.get()) {
        Some(extent) if (BORROWED..=ENDED).contains(&slot.mark()) => extent.bytes(),
        _ => 0,
    }
}

impl Slot {
    pub(crate) fn extent_bytes(&self) -> u64 {
        Extent::unpack(self.extent.get()).map_or(0, Extent::bytes)
    }
}

impl<'q> Section<'q> {
    /// The slot of an index that was noted earlier. `None` if slots were given back since: it may have no
    /// memory behind it.
    pub(crate) fn used_slot(&self, index: u32) -> Option<&'q Slot> {
        let is_used = index < self.hot().slots_high.get() && self.is_present(index).unwrap_or(false);
        is_used.then(|| self.slot(index).ok()).flatten()
    }
}

/// Slots that are not FREE, without the notes: `max_bytes` limits these. Under the lock; without it an
/// estimate.
#[inline(always)]
pub(crate) fn slots_in_use(hot: &Hot) -> u64 {
    let held = hot.owned_count.get().wrapping_add(hot.dead_count.get());
    hot.ready_count.get().wrapping_add(held)
}

/// The word and the bit that say whether a participant may have leases.
#[inline(always)]
pub(crate) fn lessee(hot: &Hot, index: u32) -> (&LockedU64, u64) {
    // The remainder keeps the compiler from a check that could only fail for an index out of range.
    let word = index as usize % PARTICIPANTS as usize / 64;
    (&hot.lessees[word], 1 << (index % 64))
}

/// After so many puts the free lists change places.
const SLOTS_FROM_A_LIST: u64 = 64;

/// So many free slots cache an extent at most: those that puts take until the lists change places, and those
/// freed meanwhile.
pub(crate) const CACHED_MOST: u32 = 128;
const _: () = assert!(CACHED_MOST as usize * SMALL < ONE_CACHED as usize);

impl Section<'_> {
    /// Takes a slot without an extent from the free lists; its state stays FREE until the caller commits
    /// another.
    #[inline(always)]
    pub(crate) fn pop_slot(&mut self) -> Result<Result<u32, Growth>, Error> {
        let hot = self.hot();
        if let Some(index) = self.pop_free(&hot.free)? {
            return Ok(Ok(index));
        }
        self.pop_unlisted_slot()
    }

    /// Takes a slot from one of the pairs of free lists.
    ///
    /// Puts take slots from one list of a pair, and gets give slots back to the other. So a put knows which
    /// slot the next put will take, whatever the gets free meanwhile, and prefetches it (see
    /// [`Ahead`](crate::memory::payload::Ahead)). The two change places when the first is used up, and every
    /// 64 puts, so that slots come back while they are warm, also if many more are free.
    #[inline(always)]
    pub(crate) fn pop_free(&self, list: &FreeList) -> Result<Option<u32>, Error> {
        let (mut index, freed) = (list.next.get(), list.freed.get());
        if freed != 0 && (index == 0 || self.hot().published.get() % SLOTS_FROM_A_LIST == 0) {
            list.freed.set(index);
            index = freed;
        }
        if index == 0 {
            return Ok(None);
        }
        let slot = self.slot(index)?;
        if slot.word().state() != Some(State::Free) {
            return Err(self.corrupt("a slot on a free list is not FREE"));
        }
        list.next.set(slot.next.get());
        Ok(Some(index))
    }

    /// Takes a free slot with the extent that it caches, which is the caller's from now on.
    #[inline(always)]
    pub(crate) fn pop_cached(&self) -> Result<Option<(u32, Extent)>, Error> {
        let Some(index) = self.pop_free(&self.hot().cached)? else {
            return Ok(None);
        };
        let slot = self.slot(index)?;
        let is_small = |extent: &Extent| extent.bytes() <= SMALL as u64;
        let Some(extent) = Extent::unpack(slot.extent.get()).filter(is_small) else {
            return Err(self.corrupt("a free slot's cached extent is missing or too large"));
        };
        slot.extent.set(0);
        self.hot().cached_sum.sub(ONE_CACHED + extent.bytes() as u32);
        Ok(Some((index, extent)))
    }

    /// The same, and frees the extent.
    pub(crate) fn pop_cached_slot(&mut self) -> Result<Option<u32>, Error> {
        let Some((index, extent)) = self.pop_cached()? else {
            return Ok(None);
        };
        self.free_payload(extent)?;
        Ok(Some(index))
    }

    /// Frees all extents that free slots cache. There are [`CACHED_MOST`] of them at most.
    pub(crate) fn release_cached(&mut self) -> Result<(), Error> {
        let mut walk = self.walk();
        while let Some(index) = self.pop_cached_slot()? {
            self.step(&mut walk)?;
            self.push_slot(index)?;
        }
        Ok(())
    }

    /// Below which slot there is memory, but behind absent pages: whole pages, and no more than there are.
    #[inline(always)]
    pub(crate) fn slots_backed(&self) -> Result<u32, Error> {
        let backed = self.hot().slots_backed.get();
        if backed > self.shared.segment.slots_end() || backed % SLOTS_PER_PAGE != 0 {
            return Err(self.corrupt("more slots are backed than there are"));
        }
        Ok(backed)
    }

    /// Books that there is memory behind more slots. Not if another thread or process has backed slots
    /// meanwhile, or a trim has given slots back (`trims` counts those): then the caller tries to take a slot
    /// again.
    pub(crate) fn note_slots_backed(&mut self, (old, new): (u32, u32), trims: u64) -> Result<(), Error> {
        let hot = self.hot();
        if hot.slots_backed.get() == old && hot.slot_trims.get() == trims {
            self.forget_pages(old..new)?;
            hot.slots_backed.set(new);
            hot.grown.set(1);
        }
        Ok(())
    }

    /// Puts a slot, already FREE and without an extent, back on a free list.
    #[inline(always)]
    pub(crate) fn push_slot(&mut self, index: u32) -> Result<(), Error> {
        self.list_free((index, self.slot(index)?));
        Ok(())
    }

    #[inline(always)]
    fn list_free(&self, (index, slot): (u32, &Slot)) {
        let freed = &self.hot().free.freed;
        slot.next.set(freed.get());
        freed.set(index);
    }

    /// Frees a slot with its payload: the acknowledgement of an item. The caller has taken it off its list.
    ///
    /// A small extent stays cached in the slot, for the next payload of that size. Then neither the put nor
    /// the get changes the heap's books, which are cache lines that both would write; and the put knows
    /// beforehand where it will write. The rebuild forgets cached extents.
    #[inline(always)]
    pub(crate) fn free_slot(&mut self, (index, slot): (u32, &Slot)) -> Result<(), Error> {
        slot.commit(StateWord::FREE);
        fault!("slot.freed");
        match Extent::unpack(slot.extent.get()) {
            None => {
                slot.len.set(0);
                self.list_free((index, slot));
                Ok(())
            }
            Some(extent) => self.free_slot_with((index, slot), extent),
        }
    }

    #[inline(always)]
    fn free_slot_with(&mut self, (index, slot): (u32, &Slot), extent: Extent) -> Result<(), Error> {
        let (hot, len) = (self.hot(), slot.len.get());
        let is_small = (1..=SMALL as u64).contains(&len);
        // An extent that cannot be an object is left to the heap, which reports the damage.
        if !is_small || hot.cached_sum.get() >= CACHED_MOST * ONE_CACHED || !is_object(extent, len) {
            self.drop_payload(slot)?;
            self.list_free((index, slot));
            return Ok(());
        }
        slot.len.set(0);
        hot.cached_sum.add(ONE_CACHED + extent.bytes() as u32);
        let freed = hot.cached.freed.get();
        slot.prev.set(match freed {
            0 => 0,
            _ => self.slot(freed)?.extent.get() as u32,
        });
        slot.next.set(freed);
        hot.cached.freed.set(index);
        Ok(())
    }

    /// Frees the payload of a slot that is FREE.
    fn drop_payload(&mut self, slot: &Slot) -> Result<(), Error> {
        if let Some(extent) = Extent::unpack(slot.extent.get()) {
            slot.extent.set(0);
            // Memory that was claimed to extend it or to give it back has no payload, and does not count.
            if slot.len.get() > 0 {
                self.free_payload(extent)?;
            } else {
                self.free_extent(extent)?;
            }
        }
        slot.len.set(0);
        Ok(())
    }

    /// Frees an extent that counts as used.
    pub(crate) fn free_payload(&mut self, extent: Extent) -> Result<(), Error> {
        self.hot().used_bytes.sub(extent.bytes());
        self.free_extent(extent)
    }
}
