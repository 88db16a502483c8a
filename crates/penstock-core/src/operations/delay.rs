//! Put with a delay: bytes become an item that no get finds before its time has come (state/delay.rs has the
//! protocol and the crash table).
//!
//! Such a put does not wait for room, because the item takes no place yet. Memory limits it as any other put.

use std::time::Duration;

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::memory::layout::Kind;
use crate::options::Wait;
use crate::platform;
use crate::state::claim::Reserved;
use crate::state::delay::due_after;
use crate::state::waiters::Waiting;
use crate::sync::Word;
use crate::units::{SMALL, Ticket};

impl Queue {
    /// Puts one item that is ready after that time. When it returns, the item is in the queue, whatever
    /// becomes of this process.
    ///
    /// On any error nothing was put.
    pub fn put_delayed(
        &self,
        payload: &[&[u8]],
        delay: Duration,
        mut wait: Wait<'_>,
    ) -> Result<Ticket, Error> {
        let len = payload.iter().map(|part| part.len() as u64).sum();
        let mut waiting = Waiting::needing_no_room();
        let result = self.put_later(payload, len, delay, &mut waiting, &mut wait);
        self.end_put(result, &mut waiting, wait.patience)
    }

    fn put_later(
        &self,
        payload: &[&[u8]],
        len: u64,
        delay: Duration,
        waiting: &mut Waiting,
        wait: &mut Wait<'_>,
    ) -> Result<Ticket, Error> {
        let me = self.acquire_for(Some(Kind::Room), wait)?;
        let section = Guard::new(&self.shared, me);
        let (mut section, reserved) = self.reserve_from(section, len, waiting, wait)?;
        if len <= SMALL as u64 {
            let due = due_after(delay).unwrap_or(1);
            let ticket = section.publish_small_delayed(&reserved, payload, len, due)?;
            section.withdraw(waiting)?;
            return Ok(ticket);
        }
        section.slot(reserved.slot)?.fill(reserved.extent, len);
        let claim = section.claim(reserved.slot, 0)?;
        section.hold(reserved.slot)?;
        section.withdraw(waiting)?;
        fault!("claim.committed");
        drop(section);
        let written = self.write_claimed(&reserved, payload, len);
        let published = written.and_then(|()| self.publish_later(&reserved, len, delay, wait));
        if published.is_err() {
            self.give_back(&reserved, claim, wait.patience)?;
        }
        published
    }

    /// CLAIMED -> DELAYED.
    fn publish_later(
        &self,
        reserved: &Reserved,
        len: u64,
        delay: Duration,
        wait: &mut Wait<'_>,
    ) -> Result<Ticket, Error> {
        let mut section = self.enter(wait)?;
        if let (Some(extent), false) = (reserved.extent, reserved.is_backed) {
            section.note_backed(extent, len)?;
        }
        section.check_put()?;
        let me = section.me;
        section.let_go(reserved.slot, me)?;
        let slot = section.slot(reserved.slot)?;
        section.publish_delayed((reserved.slot, slot), len, due_after(delay).unwrap_or(1))
    }

    /// Time until the first delayed item is ready. `None` if none is delayed. For callers that wait with the
    /// queue's descriptor: a call of any process then makes it ready.
    pub fn time_until_due(&self) -> Option<Duration> {
        let due_at = self.shared.segment.hot().due_at.get();
        (due_at != 0).then(|| Duration::from_micros(due_at.saturating_sub(platform::micros())))
    }
}
