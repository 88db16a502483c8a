//! The remainder: what a process keeps of a queue after it has closed its last handle.
//!
//! A closed queue gives back its membership and its descriptors. Its mapping stays as long as the program
//! keeps an object of the queue, because a closed queue still answers how many items it has, and still counts
//! what is done. Each such call opens the queue anew over that mapping, without a descriptor, unless this
//! process has it still or again, and closes it at its end.
//!
//! What the process still has in hand keeps the membership:
//!
//! - Leases, and items given up: the remainder keeps the queue until `task_done` has finished the last one.
//! - Lent payloads: each keeps the queue by itself (operations/lease.rs).
//! - A queue on its way in a message: its sender keeps the queue and its descriptor (`KeptOpen`).
//!
//! So the queue goes with the last of them, and its drop is the departure (membership.rs). Until then its
//! memory is mapped, its pid proves its death, and it has no descriptor, with these exceptions:
//!
//! - The memory file, while a queue is on its way in a message, or another queue of the file needs it
//!   (memory/file.rs).
//! - The memory file, where a pid proves nothing, because the process is in another pid namespace than the
//!   queue's maker: the life byte stays locked in it.
//! - The notifier, from a section on that has to signal, until the next close or the departure
//!   (state/notifier.rs `watch_no_more`).
//!
//! | step of a close with something in hand | if the process dies right after it |
//! |---|---|
//! | its watcher discounted, its notifier closed | the sweep finds none to discount |
//! | **the record is marked LIFELESS** | its pid proves the death, as of any process without /proc |
//! | life byte unlocked | the same |
//! | memory file closed, unless another queue needs it | the same: nothing shared has changed |
//!
//! A survivor that has read the record before the mark, and asks for the life byte after it was unlocked,
//! takes this process for one whose descriptors were closed by other code: it maps the memory, so it lives.
//! In another pid namespace the survivor takes it for dead, but finds the word changed when it begins to
//! sweep.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::fault::fault;
use crate::handle::queue::Queue;
use crate::handle::registry::{self, OpenQueues};
use crate::memory::descriptor::Use;
use crate::memory::segment::Segment;
use crate::options::Options;
use crate::state::participant::{LIFELESS, read};
use crate::sync::Word;
use crate::units::{Id, Leave};

/// What the handles of this process to one queue have in common, open or closed.
pub struct Remainder {
    segment: Segment,
    options: Options,
    /// Locked only while the registry is.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Open handles, and calls of closed ones.
    handles: u32,
    /// The closed queue, while it has leases.
    member: Option<Arc<Queue>>,
}

/// A queue with a handle that is counted, and what counts it.
pub type OpenHandle = (Arc<Queue>, Arc<Remainder>);

/// A queue and its descriptor, which stay open until this is dropped, even if all handles are closed.
pub struct KeptOpen {
    queue: Arc<Queue>,
    use_: Option<Use>,
}

impl Queue {
    /// Counts a handle of this process, which ends by [`Remainder::close`]. For a queue that no other thread
    /// closes meanwhile.
    pub fn open_handle(self: &Arc<Self>) -> Result<Arc<Remainder>, Error> {
        let mut open = registry::open_queues_without_leaving(self.id());
        self.count_handle(&mut open)
    }

    /// Counts one more handle of a queue that this process has open, also beside a thread that closes the
    /// last one: that close comes first, and there is none, or it is not the last. `None` if this process
    /// does not have the queue, or has no descriptor of it.
    pub fn open_handle_by_id(id: Id) -> Result<Option<OpenHandle>, Error> {
        let mut open = registry::open_queues_without_leaving(id);
        let found = open.find(id);
        let counted = found
            .as_ref()
            .filter(|queue| queue.shared.segment.need().is_there())
            .map(|queue| queue.count_handle(&mut open));
        // First, because the queue may end below, and its end opens the list again.
        drop(open);
        Ok(found.zip(counted.transpose()?))
    }

    /// [`attach_as`](Self::attach_as), with a handle that is counted before another thread can close the
    /// queue.
    pub fn attach_handle(fd: OwnedFd, id: Id) -> Result<Option<OpenHandle>, Error> {
        Queue::attach_any(fd, |found| found == id, |queue, open| queue.count_handle(open))
    }

    fn count_handle(self: &Arc<Self>, open: &mut OpenQueues) -> Result<Arc<Remainder>, Error> {
        let id = self.id();
        let remainder = match open.find_remainder(id) {
            Some(remainder) => remainder,
            None => {
                open.reserve()?;
                let remainder = Arc::new(Remainder {
                    segment: self.shared.segment.share(),
                    options: self.shared.options.clone(),
                    state: Mutex::default(),
                });
                open.add_remainder(id, &remainder);
                remainder
            }
        };
        let mut state = remainder.state();
        state.handles += 1;
        // Not its last reference, because the caller has one.
        state.member = None;
        drop(state);
        Ok(remainder)
    }

    /// Keeps the queue open for a receiver that will find it by this process's descriptor.
    pub fn keep_open(self: &Arc<Self>) -> KeptOpen {
        KeptOpen {
            queue: Arc::clone(self),
            use_: self.shared.segment.file().descriptor().begin(),
        }
    }

    /// Whether this process has taken items that it has not acknowledged.
    fn has_leases(&self) -> bool {
        self.shared.options.acknowledged
            && self.shared.member_if_any().is_some_and(|me| {
                self.shared
                    .segment
                    .participant(me.index())
                    .is_ok_and(|record| record.leased.head.get() != 0 || record.given_up.get() != 0)
            })
    }

    /// Gives back what a queue without open handles does not need. Other threads may drop what they have in
    /// hand meanwhile.
    fn keep_membership_alone(&self) {
        let mut until = None;
        if self.stop_producing() {
            if let Ok(section) = self.enter_briefly_until(&mut until) {
                let ended = section.end_if_unproduced();
                // Damage is noted in the segment.
                let _ = self.shared.report(ended);
            }
        }
        if self.shared.has_to_announce() {
            // Briefly: the departure discounts the watchers, and closes the notifiers, too.
            let taken = self
                .enter_briefly_until(&mut until)
                .and_then(|mut section| section.watch_no_more());
            fault!("close.unwatched");
            if let Ok(taken) = taken {
                for (notifier, taken) in self.shared.notifiers.iter().zip(taken) {
                    notifier.close_taken(taken);
                }
            }
        }
        if let Some(me) = self.shared.member_if_any() {
            if let Ok(Some(record)) = self.shared.participant_of(me) {
                let word = read(record);
                if word.is_at_home() {
                    record.mark(me, LIFELESS);
                    fault!("close.marked");
                    self.unlock_life_byte(me);
                    fault!("close.unlocked");
                } else if !word.is_lifeless() {
                    // Only the life byte can prove its death: what locks it stays open.
                    return;
                }
            }
        }
        self.shared.segment.need().end();
        fault!("close.descriptors-closed");
    }
}

impl Remainder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn id(&self) -> Id {
        self.segment.id
    }

    /// Closes a handle: an open one, or that of a [`reopen`](Self::reopen). No call uses it any more. With
    /// the last one the process gives back what it has of the queue, as far as it has nothing in hand.
    ///
    /// Waits 10 ms at most, for a lock that another process holds.
    pub fn close(&self, queue: Arc<Queue>) {
        let mut open = registry::open_queues();
        let mut state = self.state();
        state.handles = state.handles.saturating_sub(1);
        let is_last = state.handles == 0;
        if is_last {
            open.begin_closing(self.id());
        }
        drop(state);
        drop(open);
        if !is_last {
            return drop(queue);
        }
        let member = queue.has_leases().then(|| Arc::clone(&queue));
        let in_hand = Arc::downgrade(&queue);
        drop(queue); // departs, if nothing is in hand
        if let Some(queue) = in_hand.upgrade() {
            queue.keep_membership_alone();
        }
        let mut open = registry::open_queues();
        self.state().member = member;
        open.end_closing(self.id());
    }

    /// Opens the queue again: as another handle of this process has it, or over the mapping alone. The caller
    /// ends it by [`close`](Self::close).
    pub fn reopen(&self) -> Result<Arc<Queue>, Error> {
        let mut open = registry::open_queues_without_leaving(self.id());
        let mut state = self.state();
        let found = match state.member.take() {
            Some(member) => member,
            None => match open.find(self.id()) {
                Some(queue) => queue,
                None => Queue::enter_in_list(&mut open, self.segment.share(), self.options.clone())?,
            },
        };
        state.handles += 1;
        Ok(found)
    }
}

impl Drop for Remainder {
    fn drop(&mut self) {
        // A lease whose queue has no object any more: the queue departs. Its item stays unfinished; or it
        // returns, if it was taken by name.
        let member = self.state().member.take();
        drop(member);
        registry::forget_remainder(self.id());
    }
}

impl KeptOpen {
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }
}

impl Drop for KeptOpen {
    fn drop(&mut self) {
        if let Some(use_) = &self.use_ {
            self.queue.shared.segment.file().descriptor().end(use_);
        }
    }
}

/// Leaves a queue at the end of the process, if it is open or has something in hand.
pub fn leave_by_id(id: Id, how: Leave) -> Result<(), Error> {
    let found = registry::open_queues_without_leaving(id).find(id);
    found.map_or(Ok(()), |queue| queue.leave(how))
}
