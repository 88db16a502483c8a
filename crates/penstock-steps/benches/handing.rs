//! What it costs to hand small messages from one process to another while both are at work, and what any
//! queue with one lock must pay for that here.
//!
//! Four ways, in turn, with the same work of both processes for each message (so many nanoseconds of it in a
//! process that is at work alone):
//!
//! - *no message*: both processes do their work at the same time and pass nothing, which may take longer than
//!   the work of one;
//! - the core of Penstock;
//! - *one lock*: the least that a queue with one lock can do. Under a spin lock a slot is taken from a free
//!   list, filled and appended, or read and given back; no deaths, no sleepers, no bounds, no memory to
//!   manage. What the next operation will touch is prefetched, as Penstock does it. All that the lock guards
//!   is in one cache line.
//! - *a ring*: of one producer and one consumer, without a lock. Each writes a counter of its own and reads
//!   the other's. It cannot have a second producer or consumer.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::hint::{black_box, spin_loop};
use std::mem::size_of;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use std::time::Instant;

use penstock_core::{Buffer, Options, Patience, Queue, Wait};

const MESSAGES: u32 = 200_000;
const ROUNDS: usize = 7;
const SLOTS: u32 = 4096;
const LEN: usize = 1000;

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        println!("Two processes at the same time need two cores; here is one.");
        return;
    }
    println!(
        "Nanoseconds a message from one process to another: the median of {ROUNDS} rounds (least to most)."
    );
    println!(
        "{:>6} {:>6}  {:<20}{:<20}{:<20}{:<20}",
        "bytes", "work", "no message", "Penstock", "one lock", "a ring"
    );
    let a_nanosecond = work_in_a_nanosecond();
    for len in [40, LEN] {
        for nanoseconds in [0.0, 100.0, 250.0, 400.0] {
            let work = (nanoseconds * a_nanosecond) as u64;
            let mut times = [const { Vec::new() }; 4];
            for _ in 0..ROUNDS {
                times[0].push(time(&NoMessage(Cell::new(0)), len, work));
                times[1].push(time(&Penstock::new(), len, work));
                times[2].push(time(&Shared::new(Kind::Lock), len, work));
                times[3].push(time(&Shared::new(Kind::Ring), len, work));
            }
            print!("{len:>6} {nanoseconds:>6}  ");
            for mut times in times {
                times.sort_by(f64::total_cmp);
                let spread = format!("({:.0} to {:.0})", times[0], times[ROUNDS - 1]);
                print!("{:<20}", format!("{:.0} {spread}", times[ROUNDS / 2]));
            }
            println!();
        }
    }
}

/// How many iterations of [`work`] take a nanosecond.
fn work_in_a_nanosecond() -> f64 {
    let start = Instant::now();
    work(20_000_000);
    20_000_000.0 / start.elapsed().as_nanos() as f64
}

fn work(iterations: u64) {
    let mut x = 1u64;
    for _ in 0..iterations {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

trait Way {
    /// False if there is no room.
    fn put(&self, payload: &[u8]) -> bool;
    /// Copies a message to `room`. False if there is none.
    fn get(&self, room: &mut [u8]) -> bool;
}

/// Nanoseconds a message, between the first and the last that arrives.
fn time(way: &impl Way, len: usize, work_each: u64) -> f64 {
    let mut payload = [7; LEN];
    // SAFETY: this process has one thread, so the child may go on as usual; it ends below without running any
    // destructor.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "cannot fork");
    if child == 0 {
        for number in 0..MESSAGES {
            work(work_each);
            payload[..4].copy_from_slice(&number.to_le_bytes());
            while !way.put(&payload[..len]) {
                spin_loop();
            }
        }
        // SAFETY: ends this process.
        unsafe { libc::_exit(0) };
    }
    let mut room = [0; LEN];
    let mut start = Instant::now();
    for number in 0..MESSAGES {
        while !way.get(&mut room[..len]) {
            spin_loop();
        }
        assert_eq!(room[..4], number.to_le_bytes(), "a message is lost");
        if number == 0 {
            start = Instant::now();
        }
        work(work_each);
    }
    let time = start.elapsed().as_nanos() as f64 / f64::from(MESSAGES - 1);
    let mut status = 0;
    // SAFETY: the child is this process's own, and `status` is written before the call returns.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0, "the producer has failed");
    time
}

/// Counts what it says to have got.
struct NoMessage(Cell<u32>);

impl Way for NoMessage {
    fn put(&self, payload: &[u8]) -> bool {
        black_box(payload);
        true
    }

    fn get(&self, room: &mut [u8]) -> bool {
        let number = self.0.get();
        room[..4].copy_from_slice(&number.to_le_bytes());
        self.0.set(number + 1);
        true
    }
}

struct Penstock(Arc<Queue>);

impl Penstock {
    fn new() -> Penstock {
        Penstock(
            Queue::create(&Options {
                maxsize: 0,
                max_bytes: Some(1 << 30),
                soft_bytes: 0,
                acknowledged: false,
                max_deliveries: 3,
            })
            .expect("a queue"),
        )
    }
}

impl Way for Penstock {
    fn put(&self, payload: &[u8]) -> bool {
        let wait = Wait {
            patience: Patience::Forever,
            interrupted: &mut || false,
        };
        self.0.put(&[payload], wait).is_ok()
    }

    fn get(&self, room: &mut [u8]) -> bool {
        let mut buffer = Buffer::default();
        let wait = Wait {
            patience: Patience::Forever,
            interrupted: &mut || false,
        };
        self.0.get(&mut buffer, wait).expect("a message");
        room.copy_from_slice(buffer.bytes());
        true
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Lock,
    Ring,
}

#[repr(C)]
struct Lines {
    guarded: Guarded,
    /// Of a ring: how many were put, and how many taken.
    put: Line,
    taken: Line,
    slots: [Slot; SLOTS as usize],
}

#[repr(C, align(128))]
struct Guarded {
    lock: AtomicU32,
    count: AtomicU32,
    head: AtomicU32,
    tail: AtomicU32,
    free: AtomicU32,
    freed: AtomicU32,
    used: AtomicU32,
}

#[repr(C, align(128))]
struct Line(AtomicU64);

/// The body of a small message is in the second line, that of a large one behind it.
#[repr(C, align(128))]
struct Slot {
    state: AtomicU64,
    next: AtomicU32,
    small: [AtomicU64; 8],
    large: [AtomicU64; 128],
}

const FREE: u64 = 0;
const READY: u64 = 2;

struct Shared {
    kind: Kind,
    lines: NonNull<Lines>,
}

impl Shared {
    fn new(kind: Kind) -> Shared {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a mapping of its own, at an address that the system chooses.
        let place = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Lines>(), protection, flags, -1, 0) };
        assert!(place != libc::MAP_FAILED, "no memory");
        // SAFETY: the mapping is as large.
        unsafe { std::ptr::write_bytes(place.cast::<u8>(), 0, size_of::<Lines>()) };
        let lines = NonNull::new(place.cast()).expect("not null");
        Shared { kind, lines }
    }

    fn lines(&self) -> &Lines {
        // SAFETY: the mapping lives as long as `self`, is aligned to pages, and consists of atomics, of which
        // any bits are valid.
        unsafe { self.lines.as_ref() }
    }

    fn lock(&self) {
        let lock = &self.lines().guarded.lock;
        while lock.compare_exchange(0, 1, Acquire, Relaxed).is_err() {
            loop {
                for _ in 0..4 {
                    spin_loop();
                }
                if lock.load(Relaxed) == 0 {
                    break;
                }
            }
        }
    }

    fn unlock(&self) {
        // An exchange, as of a lock on which other processes may sleep.
        self.lines().guarded.lock.swap(0, Release);
    }

    fn put_locked(&self, payload: &[u8]) -> bool {
        let Lines { guarded, slots, .. } = self.lines();
        self.lock();
        let mut index = guarded.free.load(Relaxed);
        if index == 0 {
            index = guarded.freed.swap(0, Relaxed);
        }
        if index == 0 {
            index = guarded.used.load(Relaxed) + 1;
            if index == SLOTS {
                self.unlock();
                return false;
            }
            guarded.used.store(index, Relaxed);
            slots[index as usize].next.store(0, Relaxed);
        }
        let slot = &slots[index as usize];
        let next = slot.next.load(Relaxed);
        guarded.free.store(next, Relaxed);
        slot.write(payload);
        slot.next.store(0, Relaxed);
        slot.state.store(READY, Release);
        let tail = guarded.tail.load(Relaxed);
        let end = if tail == 0 {
            &guarded.head
        } else {
            &slots[tail as usize].next
        };
        end.store(index, Relaxed);
        guarded.tail.store(index, Relaxed);
        guarded.count.store(guarded.count.load(Relaxed) + 1, Relaxed);
        self.unlock();
        if next != 0 {
            slots[next as usize].fetch(payload.len(), true);
        }
        true
    }

    fn get_locked(&self, room: &mut [u8]) -> bool {
        let Lines { guarded, slots, .. } = self.lines();
        // As rarely as Penstock reads the count of an empty queue.
        if guarded.count.load(Relaxed) == 0 {
            for _ in 0..64 {
                spin_loop();
            }
            return false;
        }
        self.lock();
        let index = guarded.head.load(Relaxed);
        let slot = &slots[index as usize];
        slot.read(room);
        let next = slot.next.load(Relaxed);
        guarded.head.store(next, Relaxed);
        if next == 0 {
            guarded.tail.store(0, Relaxed);
        }
        guarded.count.store(guarded.count.load(Relaxed) - 1, Relaxed);
        slot.state.store(FREE, Release);
        slot.next.store(guarded.freed.load(Relaxed), Relaxed);
        guarded.freed.store(index, Relaxed);
        self.unlock();
        if next != 0 {
            slots[next as usize].fetch(room.len(), false);
        }
        true
    }

    fn put_in_ring(&self, payload: &[u8]) -> bool {
        let Lines {
            put, taken, slots, ..
        } = self.lines();
        let place = put.0.load(Relaxed);
        if place - taken.0.load(Acquire) == u64::from(SLOTS) {
            return false;
        }
        slots[place as usize % SLOTS as usize].write(payload);
        put.0.store(place + 1, Release);
        slots[(place + 1) as usize % SLOTS as usize].fetch(payload.len(), true);
        true
    }

    fn get_from_ring(&self, room: &mut [u8]) -> bool {
        let Lines {
            put, taken, slots, ..
        } = self.lines();
        let place = taken.0.load(Relaxed);
        if put.0.load(Acquire) == place {
            for _ in 0..64 {
                spin_loop();
            }
            return false;
        }
        slots[place as usize % SLOTS as usize].read(room);
        taken.0.store(place + 1, Release);
        slots[(place + 1) as usize % SLOTS as usize].fetch(room.len(), false);
        true
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.lines.as_ptr().cast(), size_of::<Lines>()) };
    }
}

impl Way for Shared {
    fn put(&self, payload: &[u8]) -> bool {
        match self.kind {
            Kind::Lock => self.put_locked(payload),
            Kind::Ring => self.put_in_ring(payload),
        }
    }

    fn get(&self, room: &mut [u8]) -> bool {
        match self.kind {
            Kind::Lock => self.get_locked(room),
            Kind::Ring => self.get_from_ring(room),
        }
    }
}

impl Slot {
    fn body(&self, len: usize) -> *mut u8 {
        if len <= size_of_val(&self.small) {
            self.small.as_ptr().cast::<u8>().cast_mut()
        } else {
            self.large.as_ptr().cast::<u8>().cast_mut()
        }
    }

    fn write(&self, payload: &[u8]) {
        // SAFETY: there is room, inside of atomics. No other process reads or writes it meanwhile: the slot
        // was taken off the free list under the lock, or lies between the ring's two counters.
        unsafe { std::ptr::copy_nonoverlapping(payload.as_ptr(), self.body(payload.len()), payload.len()) };
    }

    fn read(&self, room: &mut [u8]) {
        // SAFETY: as above, of a slot that was filled before.
        unsafe { std::ptr::copy_nonoverlapping(self.body(room.len()), room.as_mut_ptr(), room.len()) };
    }

    /// Prefetches what the next operation of this process will touch.
    fn fetch(&self, len: usize, for_writing: bool) {
        let start = std::ptr::from_ref(self).cast::<u8>();
        let lines = if len <= 64 { 2 } else { 2 + len.div_ceil(64) };
        for line in 0..lines {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a hint, which reads and writes nothing a program can see, and has no faults.
            unsafe {
                let line = start.wrapping_add(line * 64);
                if for_writing {
                    std::arch::asm!(
                        "prefetchw [{0}]",
                        in(reg) line,
                        options(nostack, preserves_flags, readonly)
                    );
                } else {
                    std::arch::asm!(
                        "prefetcht0 [{0}]",
                        in(reg) line,
                        options(nostack, preserves_flags, readonly)
                    );
                }
            }
            let _ = (start, line, for_writing);
        }
    }
}
