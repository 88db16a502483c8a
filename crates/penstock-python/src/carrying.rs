//! Queues on their way inside a message.
//!
//! Such a message holds only a name: the receiver opens the queue through a process that has it. So the sender keeps the
//! queue open from the put on, even if the program drops its handle at once.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, Weak};

use penstock_core::{Queue, Ticket};
use pyo3::prelude::*;

use crate::sync::lock;

thread_local! {
    /// The queues that were pickled so far in the running put of this thread.
    static PICKLED: RefCell<Option<Vec<Arc<Queue>>>> = const { RefCell::new(None) };
}

/// Runs `pickle` and tells which queues it pickled. A reducer that itself puts something is a world of its own.
pub fn collect<T>(pickle: impl FnOnce() -> T) -> (T, Vec<Arc<Queue>>) {
    let outer = PICKLED.replace(Some(Vec::new()));
    let answer = pickle();
    (answer, PICKLED.replace(outer).unwrap_or_default())
}

/// A handle of `queue` is being pickled by this thread. Outside a put this means nothing: the program keeps the handle.
pub fn pickled(queue: &Arc<Queue>) {
    PICKLED.with_borrow_mut(|pickled| {
        if let Some(pickled) = pickled {
            pickled.push(Arc::clone(queue));
        }
    });
}

/// A queue that is kept open for the receiver of a message.
struct Pin {
    /// Never looked at: holding it is the point.
    #[allow(dead_code)]
    carried: Arc<Queue>,
    /// Weak, because two queues that carry each other would otherwise live for ever.
    carrier: Weak<Queue>,
    ticket: Ticket,
}

impl Pin {
    /// Whether the message still lies in its queue, as far as this process can tell.
    fn is_pending(&self) -> bool {
        self.carrier.upgrade().is_some_and(|carrier| carrier.is_pending(self.ticket))
    }
}

/// Delivered messages whose queues are still kept: between taking a message and opening what it names, the receiver may be
/// slow or stopped.
const DELIVERED: usize = 64;

struct Pins {
    pins: Vec<Pin>,
    /// Looked through when there are this many, so that a put costs the same however many messages wait.
    look_at: usize,
}

static PINS: Mutex<Pins> = Mutex::new(Pins { pins: Vec::new(), look_at: 0 });

impl Pins {
    /// Takes out the oldest of the delivered, all but `DELIVERED`.
    fn surplus(&mut self) -> Vec<Pin> {
        if self.pins.len() < self.look_at {
            return Vec::new();
        }
        let (mut delivered, pending): (Vec<Pin>, Vec<Pin>) =
            self.pins.drain(..).partition(|pin| !pin.is_pending());
        let kept = delivered.split_off(delivered.len().saturating_sub(DELIVERED));
        self.pins = kept.into_iter().chain(pending).collect();
        self.look_at = DELIVERED.max(self.pins.len()) * 2;
        delivered
    }
}

/// Keeps `carried` open for the receiver of the message `ticket`, and lets go of what has been delivered long ago.
pub fn pin(carrier: &Arc<Queue>, ticket: Ticket, carried: Vec<Arc<Queue>>) {
    // Who receives a message has the queue that it came from.
    let foreign = carried.into_iter().filter(|queue| !Arc::ptr_eq(queue, carrier));
    let pins = foreign.map(|carried| Pin { carried, carrier: Arc::downgrade(carrier), ticket });
    let surplus = {
        let mut held = lock(&PINS);
        held.pins.extend(pins);
        held.surplus()
    };
    drop(surplus); // outside the lock, because it may unmap memory
}

/// In a child after a fork: the messages are its parent's.
#[pyfunction]
pub fn _forget_carried() {
    let inherited = std::mem::take(&mut lock(&PINS).pins);
    drop(inherited);
}
