//! Pages of slots: their words against the slots, the claims and the counters.

use super::Inspection;
use crate::memory::layout::{ABSENT, SLOTS_PER_PAGE, Slot};
use crate::state::pages::{ALL_PARKED, REMNANT, TAKEN, is_spare, pages_claimed};
use crate::state::slot::StateWord;
use crate::sync::Word;

impl Inspection<'_> {
    /// Pages of slots that have a word, among those that can be read.
    fn pages(&self) -> u32 {
        let hot = self.hot();
        let backed = hot.slots_backed.get().min(self.segment().slots_end());
        hot.pages_tracked.get().min(backed / SLOTS_PER_PAGE)
    }

    /// The word of a page of slots, if it has one.
    pub(super) fn page_word(&self, page: u32) -> Option<u64> {
        let page = (page < self.pages()).then(|| self.segment().slot_page(page))?;
        page.ok().map(|page| page.word.get())
    }

    /// Whether a slot may be read.
    pub(super) fn is_present(&self, slot: u32) -> bool {
        self.page_word(slot / SLOTS_PER_PAGE)
            .is_none_or(|word| word & ABSENT == 0)
    }

    /// Notes the parked slots as listed: each must be free, and on no list.
    pub(super) fn inspect_pages(&mut self) {
        let hot = self.hot();
        let high = self.sizes().0 as u32;
        let capacity = self.segment().slots_end() / SLOTS_PER_PAGE;
        self.at_most(
            "pages_tracked",
            u64::from(hot.pages_tracked.get()),
            u64::from(capacity),
        );
        let (mut parked, mut spare, mut absent) = (0, 0, 0);
        let (mut parked_hint, mut absent_hint) = (u32::MAX, u32::MAX);
        for page in 0..self.pages() {
            let Some(word) = self.page_word(page) else { return };
            let place = Some(page);
            let bits = word & ALL_PARKED;
            parked += u64::from(bits.count_ones());
            spare += u64::from(is_spare(word));
            if word & !(ALL_PARKED | ABSENT | REMNANT | TAKEN) != 0
                || word > ALL_PARKED && word & (ABSENT | ALL_PARKED) != ABSENT | ALL_PARKED
            {
                self.finding("page of slots", place, "its word is impossible");
            }
            if bits != 0 && (page + 1) * SLOTS_PER_PAGE > high && bits >> (high % SLOTS_PER_PAGE) != 0
                || page * SLOTS_PER_PAGE >= high && word != 0
            {
                self.finding("page of slots", place, "slots are parked that were never used");
                continue;
            }
            if word & ABSENT != 0 {
                absent += 1;
                absent_hint = absent_hint.min(page);
                self.taken_pages += u64::from(word & TAKEN != 0);
                continue;
            }
            if bits != 0 {
                parked_hint = parked_hint.min(page);
            }
            for bit in (0..SLOTS_PER_PAGE).filter(|bit| bits >> bit & 1 != 0) {
                self.inspect_parked(page * SLOTS_PER_PAGE + bit);
            }
        }
        self.compare("slots_parked", u64::from(hot.slots_parked.get()), parked);
        self.compare("pages_spare", u64::from(hot.pages_spare.get()), spare);
        self.compare("pages_absent", u64::from(hot.pages_absent.get()), absent);
        // A put that needs slots searches from there on only.
        for (name, found, right) in [
            ("parked_hint", hot.parked_hint.get(), parked_hint),
            ("absent_hint", hot.absent_hint.get(), absent_hint),
        ] {
            self.at_most(name, u64::from(found), u64::from(right));
        }
    }

    fn inspect_parked(&mut self, index: u32) {
        if !self.list_slot("parked slots", None, index) {
            return;
        }
        let is_free = self
            .segment()
            .slot(index)
            .is_ok_and(|slot| slot.word() == StateWord::FREE && slot.extent.get() == 0);
        if !is_free {
            self.finding("slot", Some(index), "it is parked but not free, or keeps memory");
        }
    }

    /// Counts the pages of slots that a CLAIMED slot without a payload claims. Without pages it is an empty
    /// item that waits for a place. False if it is neither.
    pub(super) fn claims_pages(&mut self, index: u32, slot: &Slot) -> bool {
        let Some(pages) = pages_claimed(slot) else {
            return true;
        };
        if pages.is_empty() {
            return false;
        }
        for page in pages {
            self.claimed_pages += 1;
            if self.page_word(page).is_none_or(|word| word & TAKEN == 0) {
                self.finding("slot", Some(index), "it claims a page of slots that is not taken");
                break;
            }
        }
        true
    }

    /// After all slots were read.
    pub(super) fn compare_claimed_pages(&mut self) {
        self.compare("pages of slots taken", self.taken_pages, self.claimed_pages);
    }
}
