//! Pages of slots: the memory behind free slots goes back a page at a time, and comes back when it is needed.
//!
//! A free list is linked through its slots, so the memory of a slot on a list must stay. A trim first
//! *parks* free slots: it takes them off the lists, and sets a bit for each in the word of its page. A page
//! of which all slots are parked is *spare*. A put whose free lists are empty unparks the slots of the lowest
//! page that has any. So high pages become spare by themselves.
//!
//! ```text
//!              park: all bits            claim, commit          punched, noted
//!   in use ----------------------> spare ------------> ABSENT, REMNANT ------> ABSENT
//!          <----------------------       <- - - - - - - - - - - - - - - - - -
//!              unpark                          backed: bits all set, one store
//! ```
//!
//! The memory of a spare page goes back outside the lock. Meanwhile a CLAIMED slot names the page, and no
//! put takes it. Such a claim has neither a payload nor an extent; its `seq` is the range of pages.
//!
//! ABSENT and REMNANT are truth, and the rest of a page's word is cache. ABSENT may be set for a page that
//! has memory, and is never clear for one that has none: it is set before the hole is punched, and cleared
//! after `fallocate` has succeeded. No slot of an absent page may be touched, not even read: the kernel would
//! put memory behind it. All of them are FREE. REMNANT says that an absent page may have memory: its trimmer
//! has not punched it yet, or a put is taking it back, or either has died. Then a later trim punches it.
//!
//! A page from `Hot::pages_tracked` on has no word yet. It is there, and none of its slots is parked.
//!
//! A put extends memory outside the lock, and a trim may come between. The put finds that out (`slot_trims`)
//! when it is back under the lock. What it has put behind pages that are absent is REMNANT then; what lies
//! behind pages that a claim names, or above the marks, it punches itself, still under the lock: 1 MiB at
//! most, which no process has touched. If it dies before that, memory stays above the marks. The next growth
//! begins there, and a trim that lowers the marks punches it.

use core::ops::Range;

use crate::error::Error;
use crate::fault::fault;
use crate::memory::layout::{ABSENT, Hot, SLOTS_PER_PAGE, Slot};
use crate::state::Section;
use crate::state::heap::Growth;
use crate::state::holding::Lease;
use crate::state::recovery::Portion;
use crate::state::slot::{State, StateWord, slots_in_use};
use crate::sync::{AtomicU64, Count, Word};
use crate::units::PAGE;

/// All slots of a page are parked. So are those of an absent page.
pub(crate) const ALL_PARKED: u64 = (1 << SLOTS_PER_PAGE) - 1;
/// The page may have memory behind it although it is absent.
pub(crate) const REMNANT: u64 = 1 << 33;
/// A claim names the page: its memory is being given back.
pub(crate) const TAKEN: u64 = 1 << 34;

/// Words of pages that are read in one critical section, where a caller can go on in the next one.
const PAGES_AT_A_TIME: u32 = 8192;
/// Pages whose memory is given or taken back at a time: 1 MiB.
pub(crate) const PAGES: u32 = 256;
/// Slots by which a queue grows at most.
pub(crate) const SLOTS_AT_A_TIME: u32 = PAGES * SLOTS_PER_PAGE;

/// Whether the memory of the page can be given back.
pub(crate) fn is_spare(word: u64) -> bool {
    word == ALL_PARKED || is_remnant(word)
}

/// It was to be given back, and its trimmer has died, or the system has refused.
fn is_remnant(word: u64) -> bool {
    word & (ABSENT | REMNANT | TAKEN) == ABSENT | REMNANT
}

/// In the number of a slot that claims pages. No item's number has it, and an item that is written before its
/// number is known has 0 (`claim`).
const OF_PAGES: u64 = 1 << 63;

/// The pages that a claim names. `None` if the slot holds anything else.
pub(crate) fn pages_claimed(slot: &Slot) -> Option<Range<u32>> {
    let is_claim =
        slot.word().state() == Some(State::Claimed) && slot.extent.get() == 0 && slot.len.get() == 0;
    let named = slot.seq.get();
    let (first, count) = (named as u32, ((named & !OF_PAGES) >> 32) as u32);
    (is_claim && named & OF_PAGES != 0).then(|| first..first.saturating_add(count))
}

/// Slots on the free lists, and those never used. Under the lock; without it an estimate.
pub(crate) fn slots_listed(hot: &Hot) -> u64 {
    let backed = hot.slots_backed.get().saturating_sub(hot.slots_parked.get());
    u64::from(backed).saturating_sub(slots_taken(hot))
}

/// Slots that are not FREE. Under the lock; without it an estimate.
pub(crate) fn slots_taken(hot: &Hot) -> u64 {
    slots_in_use(hot).saturating_add(u64::from(hot.notes.get()))
}

/// What is tried to find the next spare pages.
pub(crate) enum Spare {
    /// The slot that claims them.
    Claimed(Lease, Range<u32>),
    /// None so far: pages further down have not been read yet.
    MoreToCome,
    None,
}

impl Section<'_> {
    /// Pages that have a word: no more than are backed, and than there are.
    fn pages(&self) -> u32 {
        let hot = self.hot();
        let backed = hot.slots_backed.get().min(self.shared.segment.slots_end());
        hot.pages_tracked.get().min(backed / SLOTS_PER_PAGE)
    }

    fn page(&self, page: u32) -> Result<&AtomicU64, Error> {
        Ok(&self.shared.segment.slot_page(page)?.word)
    }

    pub(crate) fn is_present(&self, slot: u32) -> Result<bool, Error> {
        self.shared.segment.is_present(slot)
    }

    // -------------------------------------------------------------------------------------- park and unpark

    /// Parks free slots, at most that many; but all that were never used.
    pub(crate) fn park_slots(&mut self, most: u32) -> Result<Portion, Error> {
        self.park_unused()?;
        for _ in 0..most {
            let Some(index) = self.pop_free(&self.hot().free)? else {
                return Ok(Portion::Last);
            };
            if index / SLOTS_PER_PAGE >= self.pages() {
                // Slots have come since the trim began.
                self.push_slot(index)?;
                return Ok(Portion::Last);
            }
            self.park(index)?;
        }
        fault!("trim.parked");
        Ok(Portion::MoreToCome)
    }

    fn park(&mut self, index: u32) -> Result<(), Error> {
        let page = index / SLOTS_PER_PAGE;
        let word = self.page(page)?;
        let bit = 1 << (index % SLOTS_PER_PAGE);
        if word.get() & (bit | ABSENT) != 0 {
            return Err(self.corrupt("a slot is parked twice"));
        }
        self.note_parked(page, word, bit);
        Ok(())
    }

    fn note_parked(&self, page: u32, word: &AtomicU64, bits: u64) {
        let hot = self.hot();
        word.set(word.get() | bits);
        hot.slots_parked.add(bits.count_ones());
        hot.parked_hint.set(hot.parked_hint.get().min(page));
        if word.get() == ALL_PARKED {
            hot.pages_spare.add(1);
        }
    }

    /// Parks the slots that were never used. Growth adds 8192 at a time, so there are no more.
    fn park_unused(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        let end = self.slots_backed()?;
        while hot.slots_high.get() < end && hot.slots_high.get() / SLOTS_PER_PAGE < self.pages() {
            let high = hot.slots_high.get();
            let page = high / SLOTS_PER_PAGE;
            let bits = ALL_PARKED & (ALL_PARKED << (high % SLOTS_PER_PAGE));
            let word = self.page(page)?;
            if word.get() & (bits | ABSENT) != 0 {
                return Err(self.corrupt("a slot that was never used is parked"));
            }
            self.note_parked(page, word, bits);
            hot.slots_high.set((page + 1) * SLOTS_PER_PAGE);
        }
        Ok(())
    }

    /// Links the parked slots of the lowest page that has any and that is there. False if there is none.
    #[cold]
    pub(crate) fn unpark(&mut self) -> Result<bool, Error> {
        let hot = self.hot();
        if hot.slots_parked.get() <= hot.pages_absent.get().saturating_mul(SLOTS_PER_PAGE) {
            return Ok(false);
        }
        let pages = self.pages();
        let mut page = hot.parked_hint.get();
        while page < pages && !matches!(self.page(page)?.get(), 1..=ALL_PARKED) {
            page += 1;
        }
        hot.parked_hint.set(page);
        if page >= pages {
            return Err(self.corrupt("slots are counted as parked that are not"));
        }
        let word = self.page(page)?;
        let bits = word.get();
        // Downwards, so that the lowest is taken first.
        for place in (0..SLOTS_PER_PAGE).rev().filter(|place| bits >> place & 1 != 0) {
            let index = page * SLOTS_PER_PAGE + place;
            let slot = self.slot(index)?;
            if slot.word() != StateWord::FREE {
                return Err(self.corrupt("a parked slot is not FREE"));
            }
            slot.next.set(hot.free.next.get());
            hot.free.next.set(index);
        }
        word.set(0);
        fault!("slot.unparked");
        hot.grown.set(1);
        hot.slots_parked.sub(bits.count_ones());
        if bits == ALL_PARKED {
            hot.pages_spare.sub(1);
            let least = hot.pages_spare_least.get().min(hot.pages_spare.get());
            hot.pages_spare_least.set(least);
        }
        Ok(true)
    }

    // ----------------------------------------------------------------------------------------------- claims

    /// Claims spare pages, at most that many: the next ones below `end`, which it lowers.
    pub(crate) fn claim_spare_pages(&mut self, end: &mut u32, most: u32) -> Result<Spare, Error> {
        // Before the search, because it may need a spare page itself.
        let Ok(slot) = self.pop_slot()? else {
            return Ok(Spare::None);
        };
        let (first, last) = self.find_spare_pages(*end, most)?;
        *end = first;
        if first == last {
            self.push_slot(slot)?;
            return Ok(if first == 0 {
                Spare::None
            } else {
                Spare::MoreToCome
            });
        }
        let hot = self.hot();
        for page in first..last {
            let word = self.page(page)?;
            if word.get() & ABSENT == 0 {
                hot.pages_absent.add(1);
            }
            hot.pages_spare.sub(1);
            word.set(ALL_PARKED | ABSENT | REMNANT | TAKEN);
        }
        hot.absent_hint.set(hot.absent_hint.get().min(first));
        hot.slot_trims.add(1);
        fault!("trim.pages-absent");
        self.slot(slot)?.fill(None, 0);
        let claim = self.claim(slot, OF_PAGES | u64::from(first) | u64::from(last - first) << 32)?;
        self.hold(slot)?;
        Ok(Spare::Claimed(claim, first..last))
    }

    /// The highest run of spare pages below `end`: where it begins, and where it ends. Both are the same if
    /// there is none among the next [`PAGES_AT_A_TIME`].
    fn find_spare_pages(&self, end: u32, most: u32) -> Result<(u32, u32), Error> {
        let mut end = end.min(self.pages());
        let lowest = end.saturating_sub(PAGES_AT_A_TIME);
        while end > lowest && !is_spare(self.page(end - 1)?.get()) {
            end -= 1;
        }
        let mut first = end;
        while first > lowest && end - first < most && is_spare(self.page(first - 1)?.get()) {
            first -= 1;
        }
        Ok((first, end))
    }

    /// Books that claimed pages have been punched.
    pub(crate) fn note_pages_punched(&mut self, pages: &Range<u32>) -> Result<(), Error> {
        for page in pages.clone() {
            let word = self.page(page)?;
            word.set(word.get() & !REMNANT);
        }
        Ok(())
    }

    /// The claim of a slot ends. Pages that were not punched are for a later trim.
    pub(crate) fn release_pages(&mut self, index: u32) -> Result<(), Error> {
        let Some(pages) = pages_claimed(self.slot(index)?) else {
            return Ok(());
        };
        self.check_claim(&pages)?;
        for page in pages {
            let word = self.page(page)?;
            word.set(word.get() & !TAKEN);
            if is_remnant(word.get()) {
                self.hot().pages_spare.add(1);
            }
        }
        Ok(())
    }

    fn check_claim(&self, pages: &Range<u32>) -> Result<(), Error> {
        // Absent pages below the marks keep these up, so a claim lies below them.
        if pages.is_empty() || pages.end - pages.start > PAGES || pages.end > self.pages() {
            return Err(self.corrupt("a claim of slots has an impossible range"));
        }
        Ok(())
    }

    /// Lowers the marks above which no slot is there, as far as the pages below them are absent.
    pub(crate) fn lower_slots(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        let backed = self.slots_backed()?;
        let end = backed / SLOTS_PER_PAGE;
        // Slots that were never used lie above what is absent.
        if hot.slots_high.get() != backed || end > self.pages() {
            return Ok(());
        }
        let lowest = end.saturating_sub(PAGES_AT_A_TIME);
        let is_gone = |word: u64| word & (ABSENT | REMNANT | TAKEN) == ABSENT;
        let mut first = end;
        while first > lowest && is_gone(self.page(first - 1)?.get()) {
            first -= 1;
        }
        if first == end {
            return Ok(());
        }
        hot.slot_trims.add(1);
        hot.slots_high.set(first * SLOTS_PER_PAGE);
        fault!("trim.lowered");
        hot.slots_backed.set(first * SLOTS_PER_PAGE);
        hot.pages_absent.sub(end - first);
        hot.slots_parked.sub((end - first) * SLOTS_PER_PAGE);
        // What a put has left there that died before it could say so.
        self.punch_above_marks(backed, backed.saturating_add(SLOTS_AT_A_TIME))
    }

    /// Punches what lies behind these slots as far as they are above the marks. It counts as a trim, so that
    /// a put that is extending memory there does so again.
    fn punch_above_marks(&mut self, from: u32, to: u32) -> Result<(), Error> {
        let (hot, segment) = (self.hot(), &self.shared.segment);
        let first = from.max(self.slots_backed()?) / SLOTS_PER_PAGE;
        let end = to.min(segment.slots_end()) / SLOTS_PER_PAGE;
        if first < end {
            hot.slot_trims.add(1);
            // The system may refuse: then the next growth takes what is there.
            let _ = self.punch_pages(first, end);
        }
        Ok(())
    }

    fn punch_pages(&self, first: u32, end: u32) -> bool {
        let start = self.shared.segment.geometry.slot_at(first * SLOTS_PER_PAGE);
        self.shared.segment.punch(start, u64::from(end - first) * PAGE)
    }

    // ----------------------------------------------------------------------------------------------- growth

    /// Absent pages that a put takes back, the lowest ones. They are REMNANT from now on.
    pub(crate) fn find_absent_pages(&mut self) -> Result<Option<Range<u32>>, Error> {
        let hot = self.hot();
        if hot.pages_absent.get() == 0 {
            return Ok(None);
        }
        let (mut first, pages) = (hot.absent_hint.get(), self.pages());
        let is_there_for_all = |word: u64| word & (ABSENT | TAKEN) == ABSENT;
        while first < pages && self.page(first)?.get() & ABSENT == 0 {
            first += 1;
        }
        hot.absent_hint.set(first);
        while first < pages && !is_there_for_all(self.page(first)?.get()) {
            first += 1;
        }
        let present = (hot.slots_backed.get() / SLOTS_PER_PAGE).saturating_sub(hot.pages_absent.get());
        let most = present.clamp(1, PAGES);
        let mut end = first;
        while end < pages && end - first < most && is_there_for_all(self.page(end)?.get()) {
            end += 1;
        }
        for page in first..end {
            self.mark_remnant(page)?;
        }
        fault!("grow.pages-remnant");
        Ok((first < end).then_some(first..end))
    }

    /// Says of an absent page that no claim names that it may have memory. So it counts as spare.
    fn mark_remnant(&self, page: u32) -> Result<(), Error> {
        let word = self.page(page)?;
        if !is_remnant(word.get()) {
            word.set(word.get() | REMNANT);
            self.hot().pages_spare.add(1);
        }
        Ok(())
    }

    /// Books that there is memory behind pages again. Not if pages were given back meanwhile, these perhaps
    /// among them (`trims` counts that): then the caller tries to take a slot again.
    pub(crate) fn note_pages_backed(&mut self, pages: Range<u32>, trims: u64) -> Result<(), Error> {
        let hot = self.hot();
        let is_sure = hot.slot_trims.get() == trims;
        let (there, end) = (self.pages(), pages.end);
        for page in pages.start..end.min(there) {
            let word = self.page(page)?;
            match word.get() & (ABSENT | TAKEN) {
                ABSENT => self.mark_remnant(page)?,
                // Its trimmer may have punched it before the memory was there. No other process uses it.
                word if word & ABSENT != 0 => {
                    let _ = self.punch_pages(page, page + 1);
                    continue;
                }
                _ => continue, // another putter was quicker
            }
            if !is_sure {
                continue;
            }
            word.set(ALL_PARKED);
            fault!("grow.page-present");
            hot.grown.set(1);
            hot.pages_absent.sub(1);
            hot.parked_hint.set(hot.parked_hint.get().min(page));
        }
        self.punch_above_marks(pages.start.max(there) * SLOTS_PER_PAGE, end * SLOTS_PER_PAGE)
    }

    /// Whether memory that a put has put behind new slots is of use: they are there, or a trim has lowered
    /// the marks since. If only trims came between, the put extends the memory again.
    pub(crate) fn is_growth_noted(&mut self, (old, new): (u32, u32)) -> Result<bool, Error> {
        let backed = self.slots_backed()?;
        if backed < old {
            self.punch_above_marks(old, new)?;
        }
        Ok(backed != old)
    }

    /// Clears what the words of pages say that lie above the mark, before it rises.
    pub(crate) fn forget_pages(&self, slots: Range<u32>) -> Result<(), Error> {
        let tracked = self.hot().pages_tracked.get();
        for page in slots.start / SLOTS_PER_PAGE..(slots.end / SLOTS_PER_PAGE).min(tracked) {
            self.page(page)?.set(0);
        }
        Ok(())
    }

    /// Books that there is memory behind the words of more pages, unless another has done so.
    pub(crate) fn note_pages_tracked(&mut self, old: u32, new: u32) {
        let tracked = &self.hot().pages_tracked;
        if tracked.get() == old {
            tracked.set(new);
        }
    }

    // ---------------------------------------------------------------------------------------------- rebuild

    /// Computes anew what is known of the pages, without the claims. No slot is parked that is there.
    pub(crate) fn clear_pages(&mut self) -> Result<(), Error> {
        let hot = self.hot();
        let (mut absent, mut spare) = (0, 0);
        for page in 0..self.pages() {
            let word = self.page(page)?;
            let truth = word.get() & (ABSENT | REMNANT);
            if truth & ABSENT == 0 {
                word.set(0);
                continue;
            }
            word.set(truth | ALL_PARKED);
            absent += 1;
            spare += u32::from(truth & REMNANT != 0);
            // The trimmer may have died between the two marks.
            let end = (page + 1).saturating_mul(SLOTS_PER_PAGE);
            hot.slots_high.set(hot.slots_high.get().max(end));
        }
        hot.pages_absent.set(absent);
        hot.pages_spare.set(spare);
        hot.slots_parked.set(absent.saturating_mul(SLOTS_PER_PAGE));
        hot.pages_spare_least.set(0);
        hot.parked_hint.set(0);
        hot.absent_hint.set(0);
        Ok(())
    }

    /// Marks the pages of a claim as taken.
    pub(crate) fn mark_claim(&mut self, slot: &Slot) -> Result<(), Error> {
        let Some(pages) = pages_claimed(slot) else {
            return Ok(());
        };
        self.check_claim(&pages)?;
        for page in pages {
            let word = self.page(page)?;
            if word.get() & (ABSENT | TAKEN) != ABSENT {
                return Err(self.corrupt("a claim of slots names pages that are in use"));
            }
            if is_remnant(word.get()) {
                self.hot().pages_spare.sub(1);
            }
            word.set(word.get() | TAKEN);
        }
        Ok(())
    }

    /// Numbers the pages that are there, for [`numbered_slot`](Self::numbered_slot): the word of each number
    /// names a page, in the bits of the parked slots. Answers how many slots those pages have.
    pub(crate) fn number_pages(&mut self) -> Result<u32, Error> {
        let hot = self.hot();
        let high = hot.slots_high.get();
        if hot.pages_absent.get() == 0 {
            return Ok(high);
        }
        let mut number = 0;
        for page in 0..self.pages() {
            if self.page(page)?.get() & ABSENT == 0 {
                let word = self.page(number)?;
                word.set(word.get() & !u64::from(u32::MAX) | u64::from(page));
                number += 1;
            }
        }
        Ok(high.saturating_sub(hot.pages_absent.get().saturating_mul(SLOTS_PER_PAGE)))
    }

    /// The slot in that place among those that are there, while the pages are numbered.
    pub(crate) fn numbered_slot(&self, place: u32) -> Result<&Slot, Error> {
        let absent = self.hot().pages_absent.get();
        if absent == 0 {
            return self.slot(place);
        }
        let number = place / SLOTS_PER_PAGE;
        let page = if number < self.pages().saturating_sub(absent) {
            self.page(number)?.get() as u32
        } else {
            number.saturating_add(absent)
        };
        let slot = page
            .saturating_mul(SLOTS_PER_PAGE)
            .saturating_add(place % SLOTS_PER_PAGE);
        self.slot(slot)
    }

    /// Ends the numbering.
    pub(crate) fn unnumber_pages(&mut self) -> Result<(), Error> {
        if self.hot().pages_absent.get() == 0 {
            return Ok(());
        }
        for page in 0..self.pages() {
            let word = self.page(page)?;
            let parked = if word.get() & ABSENT == 0 { 0 } else { ALL_PARKED };
            word.set(word.get() & !u64::from(u32::MAX) | parked);
        }
        Ok(())
    }

    // --------------------------------------------------------------------------------- behind the free lists

    /// Takes a slot when the free lists are empty: a parked one, one that was never used, or one that caches
    /// an extent.
    pub(crate) fn pop_unlisted_slot(&mut self) -> Result<Result<u32, Growth>, Error> {
        let hot = self.hot();
        if hot.slots_parked.get() != 0 && self.unpark()? {
            if let Some(index) = self.pop_free(&hot.free)? {
                return Ok(Ok(index));
            }
        }
        let index = hot.slots_high.get();
        let backed = self.slots_backed()?;
        if index > backed {
            return Err(self.corrupt("more slots are used than are backed"));
        }
        if index == backed {
            return self.pop_cached_slot().map(|slot| slot.ok_or(Growth::Slots));
        }
        if self.slot(index)?.word() != StateWord::FREE {
            return Err(self.corrupt("a slot that was never used is not FREE"));
        }
        hot.slots_high.set(index + 1);
        Ok(Ok(index))
    }
}
