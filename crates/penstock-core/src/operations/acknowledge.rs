//! Acknowledge: `task_done` finishes items of an acknowledged queue, and `join` waits for all of them.
//!
//! The cost of `task_done` does not grow with leases, queued items or participants. A participant's leases
//! are one list, in the order of taking. Mostly the calling thread's oldest lease is among the first of the
//! list (`NEAR`), or all of the thread's are among its last. If not, the thread reads the list once, in
//! portions, and notes its own leases (state/holding.rs); afterwards it reads only what was added. A bitmap
//! says which other participants may have leases. `Hot::marked_slot` says up to which item the ready list is
//! finished.
//!
//! | step | if the process dies right after it |
//! |---|---|
//! | lease found | it is redelivered |
//! | leave in order, lease by lease: **state = ORPHAN** | the item is an orphan; younger ones return |
//! | leave in order: a lease that is settled by name passed over (held.rs) | it returns |
//! | the same while it is borrowed: **state = LEFT** | the sweep makes it an orphan; younger ones return |
//! | **state = FREE** (or CLAIMED while the payload is borrowed, or READY_DONE) | the item is finished |
//! | lists, counters, joiners marked | the rebuild computes them |

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::options::{Patience, Wait, uninterruptible};
use crate::platform;
use crate::state::holding::{self, Found, Lease};
use crate::state::leases::{Near, Whose};
use crate::state::recovery::{PORTION, Portion};
use crate::state::slot::{KEPT, State};
use crate::sync::Word;
use crate::units::Ticket;

impl Queue {
    /// Finishes one item: the calling thread's oldest, those of its loops last (iterate.rs), else the
    /// process's oldest, else one that another participant holds, else an orphan, else the oldest that no
    /// getter has taken yet (which is still delivered). An item that a getter was handed, and has not come
    /// back for, is the last one of its participant, and is still delivered, too.
    pub fn task_done(&self) -> Result<(), Error> {
        uninterruptible(|wait| self.task_done_within(wait))
    }

    /// The same, waiting for the lock as long as `wait` allows. After an error no item is finished.
    pub fn task_done_within(&self, mut wait: Wait<'_>) -> Result<(), Error> {
        let done = self
            .acknowledge_from_now_on(&mut wait)
            .and_then(|()| self.finish_one(&mut wait));
        self.shared.report(done)?;
        // The item is finished, whatever becomes of the trim. Damage is noted in the segment.
        if wait.patience != Patience::TryLock && self.is_trim_due() {
            let _ = self.trim_if_due();
        }
        Ok(())
    }

    fn finish_one(&self, wait: &mut Wait<'_>) -> Result<(), Error> {
        let mut section = self.enter(wait)?;
        section.check_unfinished()?;
        if section.hot().given_up_of_living.get() != 0 && section.forget_one_given_up(Whose::Mine)? {
            return Ok(());
        }
        match section.near_lease()? {
            Near::Mine(index) => section.finish_own_lease(index)?,
            Near::NoneOfMine => section.finish_any()?,
            Near::Unknown => {
                drop(section);
                return self.finish_distant_lease(wait);
            }
        }
        self.note_spare(&section);
        Ok(())
    }

    /// Finishes the calling thread's oldest lease if that lies behind many of other threads.
    #[cold]
    fn finish_distant_lease(&self, wait: &mut Wait<'_>) -> Result<(), Error> {
        let (id, me) = (self.shared.segment.id, self.member()?);
        let mut found = holding::take_found(id, me);
        let finished = self.read_leases(&mut found, wait).and_then(|()| {
            let mut section = self.enter(wait)?;
            section.finish_found(&mut found)?;
            self.note_spare(&section);
            Ok(())
        });
        holding::keep_found(id, found);
        finished
    }

    /// Notes those of the calling thread's leases that it has not noted yet, in portions.
    fn read_leases(&self, found: &mut Found, wait: &mut Wait<'_>) -> Result<(), Error> {
        loop {
            let room = PORTION as usize;
            found
                .leases
                .try_reserve(room)
                .map_err(|_| platform::no_memory((room * size_of::<Lease>()) as u64))?;
            if self.enter(wait)?.read_leases(found)? == Portion::Last {
                return Ok(());
            }
        }
    }

    /// Whether the item put under that ticket is still queued, or is taken by a holder that has not finished
    /// it.
    pub fn is_pending(&self, ticket: Ticket) -> bool {
        let segment = &self.shared.segment;
        let is_backed = ticket.slot < segment.hot().slots_backed.get();
        is_backed
            && segment.is_present(ticket.slot).unwrap_or(false)
            && self.shared.segment.slot(ticket.slot).is_ok_and(|slot| {
                let state = slot.word().state();
                // The payload of an item that was finished, or kept, may still be borrowed.
                let is_at_work = slot.mark() < KEPT;
                slot.seq.get() == ticket.seq
                    && match state {
                        Some(
                            State::Ready
                            | State::ReadyDone
                            | State::Handed
                            | State::HandedDone
                            | State::Delayed,
                        ) => true,
                        Some(State::Leased | State::Aside) => self.shared.options.acknowledged || is_at_work,
                        Some(State::Claimed) => is_at_work,
                        _ => false,
                    }
            })
    }
}
