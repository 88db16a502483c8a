//! No section calls the allocator: under memory pressure that takes long, and without memory it may end the
//! process.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::memory::layout::Kind;
use crate::operations::delivery::{Batch, Buffer};
use crate::operations::get::Delivery;
use crate::operations::iterate::InHand;
use crate::options::testing::{ACKNOWLEDGED, now};
use crate::state::held::{Held, Verdict};
use crate::sync::{AtomicU32, Word};
use crate::units::{BATCH, Leave};

/// The system's allocator, which notes calls under a lock.
struct Noting;

thread_local! {
    /// The lock of the queue that this thread, and no other, uses. Null for none.
    static LOCK: Cell<*const AtomicU32> = const { Cell::new(std::ptr::null()) };
    /// How often it has called the allocator with the lock held.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

fn note() {
    // SAFETY: null, or the lock word of a queue that lives until `calls_of` has set null again.
    if unsafe { LOCK.get().as_ref() }.is_some_and(|lock| lock.get() != 0) {
        CALLS.set(CALLS.get() + 1);
    }
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as the caller says.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as the caller says.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note();
        // SAFETY: as the caller says.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Noting = Noting;

/// How often a new thread calls the allocator with the lock held, in calls of its own that succeed.
fn calls_of(queue: &Arc<Queue>, calls: impl FnOnce(&Arc<Queue>) -> Result<(), Error> + Send) -> u32 {
    let run = || {
        LOCK.set(&raw const queue.shared.segment.hot().lock);
        let called = calls(queue);
        LOCK.set(std::ptr::null());
        called.map(|()| CALLS.get())
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap()).unwrap()
}

fn hold(queue: &Arc<Queue>) -> Result<Held, Error> {
    now(|wait| queue.hold(&mut Buffer::default(), wait)).map(|(_, held)| held)
}

fn next(queue: &Arc<Queue>, in_hand: &mut Option<InHand>) -> Result<(), Error> {
    now(|wait| queue.get_next(in_hand, &mut Buffer::default(), wait)).map(drop)
}

fn settle(queue: &Queue, held: &Held, verdict: Verdict, delay: Duration, text: &[u8]) -> Result<(), Error> {
    now(|wait| queue.settle_noting(held, verdict, (delay, text), wait)).map(drop)
}

type Call = fn(&Arc<Queue>) -> Result<(), Error>;

/// Each is the first call of its thread.
const CALLS_OF_A_THREAD: &[(&str, Call)] = &[
    ("put", |q| now(|wait| q.put(&[b"item"], wait)).map(drop)),
    ("put large", |q| {
        now(|wait| q.put(&[&[1; 100_000]], wait)).map(drop)
    }),
    ("put many", |q| {
        now(|wait| q.put_many(&[b"item".as_slice(); BATCH], wait)).1
    }),
    ("put delayed", |q| {
        let hour = Duration::from_secs(3600);
        now(|wait| q.put_delayed(&[b"item"], hour, wait)).map(drop)
    }),
    ("get", |q| {
        now(|wait| q.get(&mut Buffer::default(), wait)).map(drop)
    }),
    ("get twice", |q| {
        now(|wait| q.get(&mut Buffer::default(), wait))?;
        now(|wait| q.get(&mut Buffer::default(), wait)).map(drop)
    }),
    ("get and finish", |q| {
        now(|wait| q.get(&mut Buffer::default(), wait))?;
        q.task_done()?;
        now(|wait| q.get(&mut Buffer::default(), wait))?;
        q.task_done()
    }),
    ("get many", |q| {
        let mut batch = Batch::with_room_for(BATCH)?;
        now(|wait| q.get_many(&mut batch, wait))
    }),
    ("finish", |q| q.task_done()),
    ("loop", |q| {
        let mut in_hand = None;
        next(q, &mut in_hand)?;
        next(q, &mut in_hand)?;
        q.task_done()
    }),
    ("hold", |q| {
        let held = hold(q)?;
        settle(q, &held, Verdict::Done, Duration::ZERO, b"")
    }),
    ("fail", |q| {
        let held = hold(q)?;
        settle(q, &held, Verdict::Failed, Duration::from_secs(3600), b"why")
    }),
    ("hold many", |q| {
        let mut batch = Batch::with_room_for(BATCH)?;
        let mut held = Vec::with_capacity(BATCH);
        now(|wait| q.hold_many(&mut batch, &mut held, wait))
    }),
    ("letters", |q| {
        let held = hold(q)?;
        settle(q, &held, Verdict::Rejected, Duration::ZERO, &[b'x'; 1000])?;
        assert_eq!(q.dead_letters()?.len(), 1);
        now(|wait| q.requeue(None, wait))?;
        now(|wait| q.purge(None, wait)).map(drop)
    }),
    ("a large one", |q| {
        now(|wait| q.put(&[&[1; 100_000]], wait))?;
        loop {
            if let Delivery::Lent(lent) = now(|wait| q.get(&mut Buffer::default(), wait))? {
                lent.undeliver();
                return Ok(());
            }
        }
    }),
    ("produce", |q| q.end_producing(q.produce(1)?)),
    ("watch", |q| {
        for kind in [Kind::Item, Kind::Room, Kind::Finish] {
            now(|wait| q.watch_for(kind, wait))?;
        }
        now(|wait| q.put(&[b"item"], wait))?;
        q.tend(0)
    }),
    ("count", |q| q.statistics().map(drop)),
    ("rebuild", |q| now(|mut wait| q.enter(&mut wait))?.rebuild()),
    ("shut down", |q| q.shut_down(false)),
    ("close", |q| q.shut_down(true)),
    ("leave", |q| q.leave(Leave::Clean)),
];

#[test]
fn no_section_calls_the_allocator() {
    for (name, call) in CALLS_OF_A_THREAD {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        for _ in 0..300 {
            now(|wait| queue.put(&[b"item"], wait)).unwrap();
        }
        // This thread has the item of a loop in hand, so that others compare theirs.
        let mut in_hand = None;
        next(&queue, &mut in_hand).unwrap();
        assert_eq!(calls_of(&queue, call), 0, "{name}");
        now(|wait| queue.finish_in_hand(&mut in_hand, wait)).unwrap();
    }
}
