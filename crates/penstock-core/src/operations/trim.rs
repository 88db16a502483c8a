//! Trim: memory that a queue has grown by and no longer needs goes back to the system.
//!
//! Each get notes under the lock whether there is memory to give back, and after the release checks whether a
//! trim is due. So do a task that is done, and the end of a borrow; the watcher asks at the end of its slice.
//! The check reads no word that a put writes: that would take the cache line from the next section. What is
//! kept beyond use is at most 16 MiB: 8 MiB of the heap, 3 MiB of spare pages of slots, 1024 free slots on
//! the lists (in as many pages at most), and the 1 MiB by which slots grow.
//!
//! A trim runs in portions. It claims a run of free spans, punches it outside the lock, and frees it. It
//! parks free slots, claims spare pages (state/pages.rs), punches them outside the lock, and releases them.
//! If its process is stopped, the others neither wait for it nor for what it has claimed.
//!
//! A queue in use keeps its memory warm: a page fault costs more than the copying of a page. So trims are
//! 0.7 seconds apart, and leave what was in use at any time since the last one.
//!
//! The trim of an empty queue leaves nothing but what a trim always leaves, and waits for nothing, if the
//! queue has not grown since the last such trim, or if that was 2 seconds ago.
//!
//! Behind a selector or an event loop no call may come that would give the memory back later. So the get that
//! empties a watched queue gives back what is more than 16 MiB, and waits for nothing. It leaves all of these
//! 16 MiB: the next burst uses them, and pays for new pages only beyond them.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | backing lowered, run CLAIMED | the sweep frees it; no put relies on its pages; a later trim finds them |
//! | run punched | the same |
//! | run noted as punched | the sweep frees it |
//! | words of pages backed, noted | they stay: the next trim, or the next growth of them, finds them so |
//! | slots parked | the rebuild puts them on the free lists |
//! | pages ABSENT and REMNANT, not yet claimed | their slots are FREE, a put takes them back, or a trim |
//! | **pages claimed** | the sweep releases them; they are REMNANT, so a later trim punches them |
//! | pages punched | the same |
//! | pages noted: REMNANT cleared | the sweep releases them; a put that needs slots takes them back |
//! | `slots_high` lowered, `slots_backed` not yet | the rebuild raises it again, over all absent pages |
//! | a put: absent pages REMNANT | another put takes them back, or a trim |
//! | a put: absent pages backed | the same: a trim punches what is there |
//! | a put: **page present** by one store | its slots are FREE, and the rebuild puts them on the lists |

use crate::error::Error;
use crate::fault::fault;
use crate::handle::put_off::is_stuck;
use crate::handle::queue::Queue;
use crate::handle::spare::{
    HEAP_SPARE, IS_FUZZED, SLOTS_LISTED, SpareMemory, most_spare_pages, spare_memory,
};
use crate::memory::layout::{Hot, NEAR_PAGES, PAGES_PER_SPAN, SLOTS_PER_PAGE, SlotPage};
use crate::memory::segment::Segment;
use crate::platform;
use crate::state::Section;
use crate::state::claim::BackedRun;
use crate::state::pages::{PAGES, Spare, slots_listed, slots_taken};
use crate::state::recovery::Portion;
use crate::sync::{AtomicU64, Word};
use crate::units::PAGE;

/// Free memory of the heap that a trim leaves.
const HEAP_LEFT: u64 = HEAP_SPARE / 4 * 3;
/// Pages of heap and slots that a watched queue keeps at most when it is emptied: 16 MiB less half a MiB for
/// its books. The heap, and the slots, have half of these in any case, and what the other does not need.
const KEPT: u64 = (2 * HEAP_SPARE - HEAP_SPARE / 16) / PAGE;
/// Spans given back at a time: 4 MiB.
const RUN: u64 = 64;
/// Slots that are parked in one critical section: it takes some 50 us.
const SLOTS: u32 = 1024;

/// The least time between two trims, in milliseconds.
const KEEP_WARM: u64 = if IS_FUZZED { 0 } else { 700 };
/// The least time between two trims that leave nothing, if memory has grown in between.
const RARELY: u64 = 2000;

#[cfg(all(test, not(any(loom, feature = "fuzzing"))))]
mod tests;

/// Whether a trim is due.
fn wants_trim(segment: &Segment) -> bool {
    is_time_to_trim(segment.hot(), spare_memory(segment))
}

#[inline(always)]
fn is_time_to_trim(hot: &Hot, spare: SpareMemory) -> bool {
    spare != SpareMemory::None && is_time(hot, spare == SpareMemory::OfEmptyQueue)
}

#[inline(never)]
fn is_time(hot: &Hot, is_empty: bool) -> bool {
    // One read of the clock: most of what this costs.
    let now = platform::coarse_millis();
    is_empty && (leaves_nothing(hot, now) || is_last_call(hot)) || since(&hot.trimmed_at, now) >= KEEP_WARM
}

/// Whether a trim of an empty queue gives back everything that is not in use now.
fn leaves_nothing(hot: &Hot, now: u64) -> bool {
    hot.grown.get() == 0 || since(&hot.emptied_at, now) >= RARELY
}

/// Whether no call may come that would give back what is more than an empty queue keeps.
fn is_last_call(hot: &Hot) -> bool {
    hot.watching.get() > 0 && free_heap(hot).saturating_add(free_slot_pages(hot)) > KEPT
}

/// Pages of the heap that are free and may have memory.
fn free_heap(hot: &Hot) -> u64 {
    let used = hot.spans_used.get().saturating_mul(u64::from(PAGES_PER_SPAN));
    hot.pages_backed.get().saturating_sub(used)
}

/// Pages of slots that no item uses, at most: each item in use may be in a page with 31 others.
fn free_slot_pages(hot: &Hot) -> u64 {
    let there = (hot.slots_backed.get() / SLOTS_PER_PAGE).saturating_sub(hot.pages_absent.get());
    u64::from(there).saturating_sub(slots_taken(hot).div_ceil(u64::from(SLOTS_PER_PAGE)))
}

fn since(time: &AtomicU64, now: u64) -> u64 {
    // Wraps, so that a clock of another namespace costs one trim too many, and does not prevent all trims.
    now.wrapping_sub(time.get())
}

/// What one trim gives back.
struct Plan {
    /// Pages of the heap that may have memory when it has ended.
    pages: u64,
    /// Spans from this one on have been searched.
    span_end: u32,
    /// Slots to park.
    slots: u64,
    /// Spare pages of slots that it leaves.
    spare_pages: u32,
    /// Pages of slots from this one on have been searched.
    page_end: u32,
    /// It gives back the pages, too, that become spare by it.
    parks_first: bool,
}

/// Begins a trim, if there is still memory to give back.
fn begin(section: &mut Section<'_>) -> Result<Option<Plan>, Error> {
    let hot = section.hot();
    if !wants_trim(&section.shared.segment) {
        return Ok(None);
    }
    let (now, is_empty) = (platform::coarse_millis(), hot.ready_count.get() == 0);
    let leaves_nothing = is_empty && leaves_nothing(hot, now);
    let is_last_call = is_empty && !leaves_nothing && is_last_call(hot);
    let (used, spare) = (hot.spans_used.get(), hot.pages_spare.get());
    let (peak, least) = if leaves_nothing || is_last_call {
        (used, spare)
    } else {
        (
            hot.spans_peak.get().max(used),
            hot.pages_spare_least.get().min(spare),
        )
    };
    let (heap_left, pages_left) = if is_last_call {
        let slots = free_slot_pages(hot);
        let heap_left = free_heap(hot).min(KEPT - slots.min(KEPT / 2));
        (heap_left, (slots > KEPT - heap_left).then_some(KEPT - heap_left))
    } else {
        let most = u64::from(most_spare_pages(&section.shared.segment) / 3 * 2);
        (HEAP_LEFT / PAGE, Some(u64::from(spare - least) + most))
    };
    hot.trimmed_at.set(now);
    if leaves_nothing {
        hot.emptied_at.set(now);
        hot.grown.set(0);
    }
    hot.spans_peak.set(used);
    section.release_cached()?;
    let listed = slots_listed(hot);
    Ok(Some(Plan {
        pages: peak
            .saturating_mul(u64::from(PAGES_PER_SPAN))
            .saturating_add(heap_left),
        span_end: u32::MAX,
        slots: if listed > SLOTS_LISTED && pages_left.is_some() {
            listed
        } else {
            0
        },
        spare_pages: pages_left.map_or(u32::MAX, |pages| u32::try_from(pages).unwrap_or(u32::MAX)),
        page_end: u32::MAX,
        parks_first: leaves_nothing || is_last_call,
    }))
}

impl Queue {
    /// Whether a trim is due, by the note of this process's last get, `task_done` or end of a borrow. For
    /// callers of [`trim_if_due`](Self::trim_if_due), after the release.
    #[inline(always)]
    pub fn is_trim_due(&self) -> bool {
        is_time_to_trim(self.shared.segment.hot(), self.spare.noted())
    }

    /// Gives memory back that the queue has grown by and no longer needs. Makes system calls; may take
    /// milliseconds. Waits for the lock briefly only.
    pub fn trim_if_due(&self) -> Result<(), Error> {
        if !wants_trim(&self.shared.segment) {
            return Ok(());
        }
        match self.shared.report(self.trim_now()) {
            // A later caller that finds the queue in need of trimming goes on.
            Err(error) if is_stuck(&error) => Ok(()),
            trimmed => trimmed,
        }
    }

    #[cold]
    fn trim_now(&self) -> Result<(), Error> {
        let mut section = self.enter_briefly()?;
        let plan = begin(&mut section)?;
        drop(section);
        let Some(mut plan) = plan else {
            return Ok(());
        };
        self.give_runs_back(&mut plan)?;
        if plan.parks_first {
            self.park_slots(&plan)?;
            self.give_pages_back(&mut plan)?;
        } else {
            // What becomes spare now stays until the next trim, and may be used until then.
            self.give_pages_back(&mut plan)?;
            self.park_slots(&plan)?;
        }
        let section = self.enter_briefly()?;
        let hot = section.hot();
        hot.pages_spare_least.set(hot.pages_spare.get());
        Ok(())
    }

    /// Gives back the memory of free spans, from the top down.
    fn give_runs_back(&self, plan: &mut Plan) -> Result<(), Error> {
        loop {
            let mut section = self.enter_briefly()?;
            let excess = section.hot().pages_backed.get().saturating_sub(plan.pages);
            let spans = (excess / u64::from(PAGES_PER_SPAN)).min(RUN) as u32;
            if spans == 0 {
                return Ok(());
            }
            let (claim, extent) = match section.claim_backed_run(&mut plan.span_end, spans)? {
                BackedRun::Claimed(claim, extent) => (claim, extent),
                BackedRun::MoreToCome => continue,
                BackedRun::None => return Ok(()),
            };
            fault!("trim.claimed");
            drop(section);
            let segment = &self.shared.segment;
            let is_punched = segment.punch(segment.extent_at(extent, 0)?, extent.bytes());
            fault!("trim.punched");
            let note = |section: &mut Section<'_>| {
                if is_punched {
                    section.note_punched(extent)?;
                }
                fault!("trim.noted");
                Ok(())
            };
            self.release_claim_or_put_off(claim, self.enter_briefly(), note)?;
            if !is_punched {
                return Ok(()); // the system has refused; the next trim tries again
            }
        }
    }

    /// Parks the free slots, so that pages become spare.
    fn park_slots(&self, plan: &Plan) -> Result<(), Error> {
        if plan.slots == 0 || !self.track_pages()? {
            return Ok(());
        }
        let mut left = plan.slots;
        self.in_portions(&mut || self.enter_briefly(), &mut |section| {
            left = left.saturating_sub(u64::from(SLOTS));
            let portion = section.park_slots(SLOTS)?;
            Ok(if left == 0 { Portion::Last } else { portion })
        })
    }

    /// Puts memory behind the words of all pages of slots. False if there is none.
    fn track_pages(&self) -> Result<bool, Error> {
        const STEP: u32 = (PAGE / size_of::<SlotPage>() as u64) as u32;
        let section = self.enter_briefly()?;
        let (hot, segment) = (section.hot(), &self.shared.segment);
        let (old, end) = (hot.pages_tracked.get(), segment.slots_end());
        let backed = hot.slots_backed.get().min(end) / SLOTS_PER_PAGE;
        let new = backed.next_multiple_of(STEP).min(end / SLOTS_PER_PAGE);
        drop(section);
        if new <= old {
            return Ok(true);
        }
        // Near words and far ones lie apart.
        for words in [old..new.min(NEAR_PAGES), old.max(NEAR_PAGES)..new] {
            let Some(last) = words.clone().next_back() else {
                continue;
            };
            let start = segment.geometry.slot_page_at(words.start);
            let end = segment.geometry.slot_page_at(last) + size_of::<SlotPage>() as u64;
            if segment.back(start, end - start).is_err() {
                return Ok(false);
            }
        }
        fault!("trim.tracked");
        self.enter_briefly()?.note_pages_tracked(old, new);
        Ok(true)
    }

    /// Gives back the memory of spare pages of slots, from the top down.
    fn give_pages_back(&self, plan: &mut Plan) -> Result<(), Error> {
        loop {
            let mut section = self.enter_briefly()?;
            section.lower_slots()?;
            let excess = section.hot().pages_spare.get().saturating_sub(plan.spare_pages);
            if excess == 0 {
                return Ok(());
            }
            let (claim, pages) = match section.claim_spare_pages(&mut plan.page_end, excess.min(PAGES))? {
                Spare::Claimed(claim, pages) => (claim, pages),
                Spare::MoreToCome => continue,
                Spare::None => return Ok(()),
            };
            drop(section);
            fault!("trim.pages-claimed");
            let segment = &self.shared.segment;
            let start = segment.geometry.slot_at(pages.start * SLOTS_PER_PAGE);
            let is_punched = segment.punch(start, u64::from(pages.end - pages.start) * PAGE);
            fault!("trim.pages-punched");
            let note = |section: &mut Section<'_>| {
                if is_punched {
                    section.note_pages_punched(&pages)?;
                }
                fault!("trim.pages-noted");
                Ok(())
            };
            self.release_claim_or_put_off(claim, self.enter_briefly(), note)?;
            if !is_punched {
                return Ok(());
            }
        }
    }
}
