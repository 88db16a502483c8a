//! The log that outlives a SIGKILL: shared memory, in which each thread writes only its own lines.
//!
//! A line is committed in two steps: `invoked` before the operation, `responded` after it. A thread that is
//! killed in between leaves a line that was invoked only: a pending operation. The reader comes after the
//! writer's process was reaped.
//!
//! Times are taken inside the lines' stores, and with fences, so that no access to the queue's memory is
//! moved to before the invocation or behind the response.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use penstock_core::{Leave, Verdict};

use crate::history::{Answer, Call, Event, Time, Value};

/// Now, by the clock that all processes share.
pub fn now() -> Time {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a private timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// All atomics, because a line is read while its process may still live.
#[repr(C)]
struct Line {
    call: [AtomicU64; 2],
    answer: [AtomicU64; 2],
    /// 0 until then; the last store of each half.
    invoked: AtomicU64,
    responded: AtomicU64,
}

#[repr(C, align(64))]
struct Signals {
    ready: AtomicU64,
    go: AtomicU64,
}

/// The logs of several threads of several processes, and the signals between them and the recorder.
pub struct Log {
    base: NonNull<u8>,
    threads: usize,
    lines: usize,
}

// SAFETY: everything in the mapping is an atomic.
unsafe impl Send for Log {}
// SAFETY: as above.
unsafe impl Sync for Log {}

impl Log {
    /// Room for so many threads, each with so many lines. Memory stands behind what is written only.
    pub fn new(threads: usize, lines: usize) -> Log {
        let length = Log::length(threads, lines);
        // SAFETY: a new anonymous mapping; nothing is replaced.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert!(
            base != libc::MAP_FAILED,
            "no memory for a log of {length} bytes: {}",
            std::io::Error::last_os_error()
        );
        Log {
            base: NonNull::new(base.cast()).expect("a mapping is not at 0"),
            threads,
            lines,
        }
    }

    fn length(threads: usize, lines: usize) -> usize {
        size_of::<Signals>() + threads * (size_of::<AtomicU64>() + lines * size_of::<Line>())
    }

    fn signals(&self) -> &Signals {
        // SAFETY: the mapping begins with them, is page aligned, and lives as long as `self`; they are
        // atomics.
        unsafe { self.base.cast().as_ref() }
    }

    fn line(&self, thread: usize, line: usize) -> &Line {
        assert!(thread < self.threads && line < self.lines, "the log is full");
        let at = size_of::<Signals>() + (thread * self.lines + line) * size_of::<Line>();
        // SAFETY: `at` lies inside the mapping by the assertion and is a multiple of 8; lines are atomics,
        // for which the kernel's zeros are valid.
        unsafe { self.base.add(at).cast().as_ref() }
    }

    /// Behind the lines.
    fn done(&self, thread: usize) -> &AtomicU64 {
        assert!(thread < self.threads);
        let at = Log::length(self.threads, self.lines) - (thread + 1) * size_of::<AtomicU64>();
        // SAFETY: as in `line`.
        unsafe { self.base.add(at).cast().as_ref() }
    }

    /// Lines of all threads together.
    pub fn lines(&self) -> usize {
        self.threads * self.lines
    }

    /// Says that this thread is ready, and waits until all shall go.
    pub fn await_go(&self) {
        self.signals().ready.fetch_add(1, Ordering::SeqCst);
        while self.signals().go.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    }

    pub fn ready(&self) -> u64 {
        self.signals().ready.load(Ordering::SeqCst)
    }

    pub fn go(&self) {
        self.signals().go.store(1, Ordering::SeqCst);
    }

    /// Says that a thread has done its work.
    pub fn note_done(&self, thread: usize) {
        self.done(thread).store(1, Ordering::SeqCst);
    }

    pub fn is_done(&self, thread: usize) -> bool {
        self.done(thread).load(Ordering::SeqCst) != 0
    }

    pub fn writer(&self, thread: usize) -> Writer<'_> {
        Writer {
            log: self,
            thread,
            next: 0,
            last: 0,
        }
    }

    /// Whether a thread has begun its operation of that number.
    pub fn has_begun(&self, thread: usize, operation: usize) -> bool {
        self.line(thread, operation).invoked.load(Ordering::Relaxed) != 0
    }

    /// What a thread has logged. `death` bounds its pending operation.
    pub fn read(&self, thread: usize, process: u32, death: Time) -> Vec<Event> {
        let mut events = Vec::new();
        for at in 0..self.lines {
            let line = self.line(thread, at);
            // Acquire: pairs with the release in Writer::record.
            let invoked = line.invoked.load(Ordering::Acquire);
            if invoked == 0 {
                break;
            }
            let responded = line.responded.load(Ordering::Acquire);
            events.push(Event {
                process,
                thread: thread as u32,
                call: unpack_call(load(&line.call)),
                answer: (responded != 0).then(|| unpack_answer(load(&line.answer))),
                invoked,
                responded: if responded == 0 { death } else { responded },
            });
        }
        events
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no borrow of it is left.
        unsafe { libc::munmap(self.base.as_ptr().cast(), Log::length(self.threads, self.lines)) };
    }
}

pub struct Writer<'l> {
    log: &'l Log,
    thread: usize,
    next: usize,
    last: Time,
}

impl Writer<'_> {
    pub fn is_full(&self) -> bool {
        self.next == self.log.lines
    }

    /// Does an operation, and logs it.
    pub fn record(&mut self, call: Call, operation: impl FnOnce() -> Answer) -> Answer {
        let line = self.log.line(self.thread, self.next);
        self.next += 1;
        store(&line.call, pack_call(call));
        let invoked = self.tick();
        line.invoked.store(invoked, Ordering::Release);
        fence(Ordering::SeqCst);
        let answer = operation();
        fence(Ordering::SeqCst);
        store(&line.answer, pack_answer(answer));
        let responded = self.tick();
        line.responded.store(responded, Ordering::Release);
        answer
    }

    /// A later time than the last one, so that a thread's own operations are never taken to overlap.
    fn tick(&mut self) -> Time {
        let mut time = now();
        while time == self.last {
            time = now();
        }
        self.last = time;
        time
    }
}

fn store(place: &[AtomicU64; 2], words: [u64; 2]) {
    for (place, word) in place.iter().zip(words) {
        place.store(word, Ordering::Relaxed);
    }
}

fn load(place: &[AtomicU64; 2]) -> [u64; 2] {
    [place[0].load(Ordering::Relaxed), place[1].load(Ordering::Relaxed)]
}

/// By their numbers.
const VERDICTS: [Verdict; 4] = [
    Verdict::Done,
    Verdict::Released,
    Verdict::Failed,
    Verdict::Rejected,
];

fn pack_call(call: Call) -> [u64; 2] {
    match call {
        Call::Put(value) => [0, value.0],
        Call::Get => [1, 0],
        Call::Len => [2, 0],
        Call::IsEmpty => [3, 0],
        Call::IsFull => [4, 0],
        Call::TaskDone => [5, 0],
        Call::Join => [6, 0],
        Call::Leave(Leave::Clean) => [7, 0],
        Call::Leave(Leave::Crashed) => [7, 1],
        Call::Sweep => [8, 0],
        Call::ShutDown { is_immediate } => [9, u64::from(is_immediate)],
        Call::Produce { expect } => [10, u64::from(expect)],
        Call::EndProducing => [11, 0],
        Call::Hold => [12, 0],
        Call::Settle(value, verdict) => [13 + verdict as u64, value.0],
        Call::SettleLater(value, verdict) => [17 + verdict as u64, value.0],
        Call::PutLater(value) => [21, value.0],
        Call::Requeue => [22, 0],
        Call::Purge => [23, 0],
    }
}

fn unpack_call(words: [u64; 2]) -> Call {
    match words {
        [0, value] => Call::Put(Value(value)),
        [1, _] => Call::Get,
        [2, _] => Call::Len,
        [3, _] => Call::IsEmpty,
        [4, _] => Call::IsFull,
        [5, _] => Call::TaskDone,
        [6, _] => Call::Join,
        [7, 0] => Call::Leave(Leave::Clean),
        [7, _] => Call::Leave(Leave::Crashed),
        [8, _] => Call::Sweep,
        [12, _] => Call::Hold,
        [kind @ 13..17, value] => Call::Settle(Value(value), VERDICTS[kind as usize - 13]),
        [kind @ 17..21, value] => Call::SettleLater(Value(value), VERDICTS[kind as usize - 17]),
        [21, value] => Call::PutLater(Value(value)),
        [22, _] => Call::Requeue,
        [23, _] => Call::Purge,
        [9, is_immediate] => Call::ShutDown {
            is_immediate: is_immediate != 0,
        },
        [10, expect] => Call::Produce {
            expect: expect as u32,
        },
        [11, _] => Call::EndProducing,
        _ => panic!("a log line says {words:?}"),
    }
}

fn pack_answer(answer: Answer) -> [u64; 2] {
    match answer {
        Answer::Done => [0, 0],
        Answer::Got(value) => [1, value.0],
        Answer::Empty => [2, 0],
        Answer::Full => [3, 0],
        Answer::Count(count) => [4, count],
        Answer::Is(is) => [5, u64::from(is)],
        Answer::TooManyDone => [6, 0],
        Answer::TimedOut => [7, 0],
        Answer::ShutDown => [8, 0],
    }
}

fn unpack_answer(words: [u64; 2]) -> Answer {
    match words {
        [0, _] => Answer::Done,
        [1, value] => Answer::Got(Value(value)),
        [2, _] => Answer::Empty,
        [3, _] => Answer::Full,
        [4, count] => Answer::Count(count),
        [5, is] => Answer::Is(is != 0),
        [6, _] => Answer::TooManyDone,
        [7, _] => Answer::TimedOut,
        [8, _] => Answer::ShutDown,
        _ => panic!("a log line says {words:?}"),
    }
}
