//! Queues on their way inside a message.
//!
//! Such a message has only the queue's name, and the receiver opens the queue through a process that has it
//! open. So the sender pins the queue: it keeps it open, even if the program drops its handle at once, until
//! the receiver has rebuilt the message. The state of the item tells when: such a message is made too large
//! to be copied out, so it stays in its slot while it is rebuilt, and returns to the queue if the receiver
//! dies meanwhile.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use penstock_core::{KeptOpen, Queue, SMALL, Ticket};
use pyo3::prelude::*;

use crate::codec::Encoded;
use crate::interpreter::once::lock;
use crate::interpreter::reserve::make_room;

/// Messages with queues in them have at least this many bytes.
const NOT_SMALL: usize = SMALL + 1;

/// Makes a message with queues in it too large to be copied out.
pub fn enlarge(py: Python<'_>, message: &mut Encoded) -> PyResult<()> {
    static ZEROS: [u8; NOT_SMALL] = [0; NOT_SMALL];
    match message {
        Encoded::Array(_) => Ok(()), // has none
        Encoded::Pickled(pickled) => pickled.pad(py, &ZEROS[..NOT_SMALL.saturating_sub(pickled.len())]),
    }
}

thread_local! {
    /// The queues that were pickled so far in the running put of this thread.
    static PICKLED: RefCell<Option<Vec<KeptOpen>>> = const { RefCell::new(None) };
}

/// Runs `pickle` and returns which queues it pickled. A put inside a reducer collects its own.
pub fn collect<T>(pickle: impl FnOnce() -> T) -> (T, Vec<KeptOpen>) {
    let outer = PICKLED.replace(Some(Vec::new()));
    let answer = pickle();
    (answer, PICKLED.replace(outer).unwrap_or_default())
}

/// Notes that this thread pickles a handle of `queue`. Outside a put this does nothing: the program has to
/// keep the handle.
pub fn pickled(queue: &Arc<Queue>) -> PyResult<()> {
    PICKLED.with_borrow_mut(|pickled| {
        if let Some(pickled) = pickled {
            make_room(pickled, 1)?;
            pickled.push(queue.keep_open());
        }
        Ok(())
    })
}

/// A queue that is kept open for the receiver of a message.
struct Pin {
    /// Never read: holding it keeps the queue open.
    _carried: KeptOpen,
    carrier: Arc<Queue>,
    ticket: Ticket,
}

struct Pins {
    pins: Vec<Pin>,
    /// While many messages are under way, they are scanned only when there are this many: twice as many as
    /// after the last scan.
    scan_at: usize,
}

const FEW: usize = 64;

static PINS: Mutex<Pins> = Mutex::new(Pins {
    pins: Vec::new(),
    scan_at: 0,
});
/// The number of pins, to be read without the lock.
static PINNED: AtomicUsize = AtomicUsize::new(0);

impl Pins {
    fn take_finished(&mut self) -> Vec<Pin> {
        let count = self.pins.len();
        if FEW < count && count < self.scan_at {
            return Vec::new();
        }
        // If there is no memory for the list, the pins stay until the next scan.
        let mut finished = Vec::new();
        let _ = finished.try_reserve_exact(count);
        let mut index = 0;
        while index < self.pins.len() && finished.len() < finished.capacity() {
            let pin = &self.pins[index];
            if pin.carrier.is_pending(pin.ticket) {
                index += 1;
            } else {
                finished.push(self.pins.swap_remove(index));
            }
        }
        self.scan_at = self.pins.len() * 2;
        PINNED.store(self.pins.len(), Ordering::Relaxed);
        finished
    }
}

/// Keeps `carried` open for the receiver of the message `ticket`.
pub fn pin(carrier: &Arc<Queue>, ticket: Ticket, carried: Vec<KeptOpen>) {
    // The receiver of a message has the queue that the message came from.
    let foreign = carried
        .into_iter()
        .filter(|carried| !Arc::ptr_eq(carried.queue(), carrier));
    let pins = foreign.map(|carried| Pin {
        _carried: carried,
        carrier: Arc::clone(carrier),
        ticket,
    });
    let finished = {
        let mut held = lock(&PINS);
        for pin in pins {
            match held.pins.try_reserve(1) {
                Ok(()) => held.pins.push(pin),
                // The message is in the queue already, so the carried queue has to stay open: until this
                // process ends.
                Err(_) => std::mem::forget(pin),
            }
        }
        held.take_finished()
    };
    drop(finished); // outside the lock, because it may unmap memory
}

/// Unpins queues whose messages are finished. Called when a handle is opened, closed or dropped, so that what
/// the pins keep open goes soon.
pub fn let_go() {
    if PINNED.load(Ordering::Relaxed) > 0 {
        let finished = lock(&PINS).take_finished();
        drop(finished);
    }
}

/// Forgets all pins, in a child after a fork: the messages are its parent's.
#[pyfunction]
pub fn _forget_carried() {
    let inherited = std::mem::take(&mut lock(&PINS).pins);
    PINNED.store(0, Ordering::Relaxed);
    drop(inherited);
}
