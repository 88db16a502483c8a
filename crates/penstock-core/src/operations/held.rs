//! Held: a get that names what it has taken, so that its holder settles that very item.
//!
//! The holder finishes it, releases it, lets it fail or rejects it, by any thread of its process. A lease
//! ends with its process, and never with a clock: so a slow holder loses nothing. A leave in order does not
//! end it, because threads go on after it: its slot is marked (state/slot.rs `BY_NAME`), and the leave passes
//! over it. Its holder can settle it until the process has ended, and then it comes back as after any death.
//! If the process drops its last handle before, no thread can name the item any more: it comes back then, as
//! after a failure that tells nothing.
//!
//! A lease is named by its slot and its number. The number never repeats: an item that was settled already,
//! by `task_done` or by another thread, is left alone. Neither does a forked child settle its parent's items,
//! as it is another participant.
//!
//! An item can go back to the queue, or become a dead letter, only while its payload is not borrowed: another
//! getter could finish it, and so free the payload under its reader.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | **`timed` set** | puts note their time from then on |
//! | taken: as get.rs | |
//! | marked as settled by name | it comes back also if the process leaves in order before it dies |
//! | leave in order: passed over | the same; the sweep returns it, whether the record is marked LEFT or not |
//! | last handle dropped: **state = READY**, as failed | it is in its old place |
//! | last handle dropped: the record marked GONE | the sweep returns it, though the process lives |
//! | lease found, off the holder's list | the slot is LEASED: the sweep returns the item, a redelivery |
//! | done: as acknowledge.rs | |
//! | released: **state = READY**, its redeliveries as before | the item is in its old place |
//! | with a delay: as state/delay.rs | |
//! | failed: **state = READY**, one redelivery more (or DEAD) | the same; the counter of redeliveries lags |
//! | rejected: **state = DEAD** | it is a dead letter |
//! | closed queue: state = DISCARDED (shutdown.rs) | the rebuild counts it, and frees the slot |
//! | order, lists, counters, waiters marked | the rebuild computes them |

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::memory::layout::Kind;
use crate::operations::delivery::{Batch, Buffer};
use crate::operations::get::{Asks, Delivery};
use crate::operations::put::is_without_memory;
use crate::options::{Own, Patience, Retry, Wait};
use crate::platform;
use crate::state::Section;
use crate::state::claim::Reserved;
use crate::state::delay::due_after;
use crate::state::held::{Held, Verdict};
use crate::state::holding::Lease;
use crate::state::slot::State;
use crate::sync::{AtomicU64, Word};
use crate::units::INLINE;

/// How often memory is extended for one text.
const GROWTHS: u32 = 3;

impl Queue {
    /// Takes the oldest item of an acknowledged queue, as [`get`](Self::get) does, and says by which lease.
    /// The queue is acknowledged from then on: no item is set aside. After a shutdown it waits while others
    /// have items in hand, also by name in the calling process, but not while the calling thread has one.
    pub fn hold(
        self: &Arc<Self>,
        buffer: &mut Buffer,
        mut wait: Wait<'_>,
    ) -> Result<(Delivery, Held), Error> {
        self.begin_to_hold(&mut wait)?;
        self.take(wait, (Asks::Anew(0), Own::OfCaller), |section, head| {
            let before = section.said(head)?;
            let delivered = section.deliver(head, buffer)?;
            section.mark_by_name(head)?;
            Ok((self.delivery(section.me, delivered), section.held(head, before)?))
        })
    }

    /// The same of the oldest items, as many as are ready and fit into `batch`, in one critical section.
    /// `held` gets their leases, in the same order, as far as it has capacity. Waits for the first as long as
    /// `wait` allows.
    pub fn hold_many(
        self: &Arc<Self>,
        batch: &mut Batch,
        held: &mut Vec<Held>,
        mut wait: Wait<'_>,
    ) -> Result<(), Error> {
        self.begin_to_hold(&mut wait)?;
        self.take(wait, (Asks::Anew(0), Own::OfCaller), |section, head| {
            self.hold_batch(section, head, (batch, held))
        })
    }

    /// An item, and those behind it, as far as they fit.
    #[inline(always)]
    pub(crate) fn hold_batch(
        self: &Arc<Self>,
        section: &mut Section<'_>,
        mut head: u32,
        (batch, held): (&mut Batch, &mut Vec<Held>),
    ) -> Result<(), Error> {
        // Then the first one was handed to this getter before, and the others are to be discarded.
        let is_closed = section.hot().is_closed();
        // Within its capacity: a section allocates nothing.
        while head != 0 && batch.has_room() && held.len() < held.capacity() {
            let before = section.said(head)?;
            let delivered = section.deliver(head, batch)?;
            section.mark_by_name(head)?;
            held.push(section.held(head, before)?);
            if let Delivery::Lent(lent) = self.delivery(section.me, delivered) {
                batch.push_lent(lent);
            }
            head = if is_closed { 0 } else { section.oldest()? };
        }
        Ok(())
    }

    /// The queue is acknowledged from now on, and puts note their time.
    pub(crate) fn begin_to_hold(&self, wait: &mut Wait<'_>) -> Result<(), Error> {
        let begun = self
            .acknowledge_from_now_on(wait)
            .and_then(|()| self.note_times_from_now_on(wait));
        let begun = begun.map_err(|error| Kind::Item.map_timeout(error, wait.patience));
        self.shared.report(begun)
    }

    /// From now on puts note their time, for [`Held::waited`].
    fn note_times_from_now_on(&self, wait: &mut Wait<'_>) -> Result<(), Error> {
        let timed = &self.shared.segment.hot().timed;
        if timed.get() == 0 {
            let _section = self.enter(wait)?;
            timed.set(1);
            fault!("held.timed");
        }
        Ok(())
    }

    /// Settles an item that this process has in hand, waiting for the lock as long as `wait` allows. False if
    /// it has not any more: the item is finished or was settled, or this is a forked child. After an error
    /// the item is in hand still.
    pub fn settle(&self, held: &Held, verdict: Verdict, wait: Wait<'_>) -> Result<bool, Error> {
        self.settle_after(held, verdict, Duration::ZERO, wait)
    }

    /// The same. An item that goes back is ready after that time (state/delay.rs), and not at once.
    pub fn settle_after(
        &self,
        held: &Held,
        verdict: Verdict,
        delay: Duration,
        wait: Wait<'_>,
    ) -> Result<bool, Error> {
        self.settle_noting(held, verdict, (delay, &[]), wait)
    }

    /// The same, and the text says why the item has failed, or is rejected: a reader of its dead letter finds
    /// the text of the last failure. Without memory for the text the item is settled without it. No
    /// text of any other verdict is noted.
    pub fn settle_noting(
        &self,
        held: &Held,
        verdict: Verdict,
        (delay, text): (Duration, &[u8]),
        mut wait: Wait<'_>,
    ) -> Result<bool, Error> {
        let due = due_after(delay);
        let claimed = if text.is_empty() || !verdict.is_failure() || !self.holds(held) {
            None
        } else {
            let claimed = self.claim_text(text, &mut wait);
            self.shared.report(claimed)?
        };
        let note = claimed.as_ref().map(|(_, claim)| *claim);
        let settled = self.enter(&mut wait).and_then(|mut section| {
            if let Some((reserved, _)) = claimed.as_ref().filter(|(reserved, _)| !reserved.is_backed) {
                if let Some(extent) = reserved.extent {
                    let len = section.slot(reserved.slot)?.len.get();
                    section.note_backed(extent, len)?;
                }
            }
            let is_settled = section.settle_held(held, verdict, due, note.map(|claim| claim.slot))?;
            self.note_spare(&section);
            Ok(is_settled)
        });
        if let Some(note) = note.filter(|_| settled != Ok(true)) {
            self.release_claim_or_put_off(note, self.enter_briefly(), |_| Ok(()))?;
        }
        let is_settled = self.shared.report(settled)?;
        // The item is settled, whatever becomes of the trim. Damage is noted in the segment.
        if self.is_trim_due() && wait.patience != Patience::TryLock {
            let _ = self.trim_if_due();
        }
        Ok(is_settled)
    }

    /// Writes a text to memory that it claims. `None` if there is no memory for it.
    fn claim_text(&self, text: &[u8], wait: &mut Wait<'_>) -> Result<Option<(Reserved, Lease)>, Error> {
        // Outside its slot, where the deaths stand.
        let padding = [0; INLINE + 1];
        let padding = &padding[text.len().min(padding.len())..];
        let len = (text.len() + padding.len()) as u64;
        for _ in 0..GROWTHS {
            let mut section = self.enter(wait)?;
            if section.is_within_limit(len).is_err() {
                return Ok(None);
            }
            match section.try_reserve(len) {
                Ok(Ok(reserved)) => {
                    section.slot(reserved.slot)?.fill(reserved.extent, len);
                    let claim = section.claim(reserved.slot, 0)?;
                    section.hold(reserved.slot)?;
                    drop(section);
                    let written = self.write_claimed(&reserved, &[text, padding], len);
                    if written.is_ok() {
                        return Ok(Some((reserved, claim)));
                    }
                    self.give_back(&reserved, claim, wait.patience)?;
                    return is_without_memory(written).map(|_| None);
                }
                Ok(Err(_)) if wait.patience == Patience::TryLock => return Err(Error::Busy),
                Ok(Err(growth)) => {
                    if is_without_memory(self.grow(section, growth, wait))? {
                        return Ok(None);
                    }
                }
                Err(Error::OutOfMemory { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Says how long items that have failed wait. Only by the maker of the queue, before any other process
    /// has it.
    pub fn set_retry(&self, retry: Retry) {
        let numbers = [retry.first, retry.factor, retry.most, retry.jitter];
        for (word, number) in self.shared.segment.header().retry.iter().zip(numbers) {
            word.set(number.to_bits());
        }
    }

    /// How long items that have failed wait, as the queue's maker has said.
    pub fn retry(&self) -> Retry {
        let [first, factor, most, jitter] = self.shared.segment.header().retry.each_ref();
        let number = |word: &AtomicU64| f64::from_bits(word.get());
        Retry {
            first: number(first),
            factor: number(factor),
            most: number(most),
            jitter: number(jitter),
        }
    }

    /// How long this item waits if it fails now.
    pub fn retry_delay(&self, held: &Held) -> Duration {
        // Any number that differs from one failure to the next will do.
        let mixed = (platform::micros() ^ held.id().rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let chance = (mixed >> 11) as f64 / (1u64 << 53) as f64;
        self.retry().delay(held.deliveries(), chance)
    }

    /// Whether this process has that item in hand, by an unlocked read.
    pub fn holds(&self, held: &Held) -> bool {
        let segment = &self.shared.segment;
        held.queue == segment.id
            && !held.was_finished()
            && self.member_now() == Some(held.me)
            && held.lease.slot < segment.hot().slots_backed.get()
            && segment.is_present(held.lease.slot).unwrap_or(false)
            && segment.slot(held.lease.slot).is_ok_and(|slot| {
                let word = slot.word();
                slot.lease.get() == held.lease.number
                    && matches!(word.state(), Some(State::Leased | State::Aside))
                    && word.owner() == held.me
            })
    }
}
