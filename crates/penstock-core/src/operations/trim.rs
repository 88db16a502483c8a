//! Trim: memory that a queue has grown by and no longer needs goes back to the system.
//!
//! The cached extents of free slots are released first. Runs of free spans are claimed, punched outside the
//! lock, and freed; slots are given back when none is in use. A queue that is filled and drained again and
//! again keeps its memory: after a growth the next trim waits 1 second.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | backing lowered, run CLAIMED | the sweep frees it; no put relies on its pages; a later trim finds them |
//! | run punched | the same |
//! | slots: mark lowered | their pages stay backed: the next growth repeats that, the next trim finds them |

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::memory::layout::{Hot, SPAN, Slot};
use crate::platform;
use crate::state::Section;
use crate::state::slot::slots_in_use;
use crate::sync::Word;
use crate::units::PAGE;

/// Free memory that a queue keeps in any case.
const KEEP: u64 = 8 << 20;
/// Spans given back at a time: 4 MiB.
const RUN: u32 = 64;
/// Slots that a queue keeps, and gives back at a time: 1 MiB.
const SLOTS: u32 = (1 << 20) / size_of::<Slot>() as u32;
/// After a growth, how long the memory stays, in milliseconds.
const KEEP_WARM: u64 = 1000;

/// Whether there is memory to give back.
#[inline(always)]
fn wants_trim(hot: &Hot) -> bool {
    let backed = hot.pages_backed.get().saturating_mul(PAGE);
    let used = hot.spans_used.get().saturating_mul(SPAN);
    let spare_spans = backed > used.saturating_mul(2).saturating_add(KEEP);
    let spare_slots = hot.slots_backed.get() > 4 * SLOTS && slots_in_use(hot) == 0;
    (spare_spans || spare_slots)
        && (hot.grown.get() == 0 || platform::coarse_millis().wrapping_sub(hot.trimmed_at.get()) >= KEEP_WARM)
}

impl Queue {
    /// Whether a drained queue has memory to give back. Reads without the lock, for callers of
    /// [`trim_if_due`](Self::trim_if_due).
    #[inline(always)]
    pub fn is_trim_due(&self) -> bool {
        wants_trim(self.shared.segment.hot())
    }

    /// Gives memory back that the queue has grown by and no longer needs. Makes system calls; may take
    /// milliseconds. Waits for the lock briefly only.
    pub fn trim_if_due(&self) -> Result<(), Error> {
        let mut wants_trim = self.is_trim_due();
        while wants_trim {
            wants_trim = self.shared.report(self.trim_step())?;
        }
        Ok(())
    }

    /// Gives one piece back. True if there is more.
    pub(crate) fn trim_step(&self) -> Result<bool, Error> {
        let Ok(mut section) = self.enter_briefly() else {
            // The next caller that finds the queue in need of trimming does it, or reports the damage.
            return Ok(false);
        };
        if !wants_trim(section.hot()) {
            return Ok(false);
        }
        let hot = section.hot();
        section.begin_trim()?;
        if slots_in_use(hot) == 0 && hot.slots_backed.get() > 4 * SLOTS {
            return self.trim_slots(section);
        }
        let Some((slot, extent)) = section.claim_backed_run(RUN)? else {
            return Ok(false);
        };
        fault!("trim.claimed");
        drop(section);
        let is_punched = self
            .shared
            .segment
            .punch(self.shared.segment.extent_at(extent, 0)?, extent.bytes());
        fault!("trim.punched");
        let note = |section: &mut Section<'_>| {
            if is_punched {
                section.note_punched(extent)?;
            }
            fault!("trim.noted");
            Ok(())
        };
        self.release_claim_or_put_off(slot, self.enter_briefly(), note)?;
        // If the system has refused, the next call tries again.
        Ok(is_punched && self.is_trim_due())
    }

    /// Gives the last slots back. All are free. The lock is held during the punch, which is short.
    fn trim_slots(&self, mut section: Guard<'_>) -> Result<bool, Error> {
        let (kept, backed) = section.give_back_slots(SLOTS)?;
        fault!("trim.slots");
        let at =
            |slot: u32| self.shared.segment.geometry.slots_at + u64::from(slot) * size_of::<Slot>() as u64;
        self.shared.segment.punch(at(kept), at(backed) - at(kept));
        Ok(wants_trim(section.hot()))
    }
}
