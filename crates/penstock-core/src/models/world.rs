//! One execution of a model: its processes, its virtual time, its sleepers, and where a process is to stop.
//!
//! Time. The clock stands still while any process can run. When all sleep, the clock advances to the end of
//! the slice that ends first, and that process goes on. So a run in which no process stops needs no slice at
//! all (a wake-up that is lost shows as time that has passed), and a run in which one stops shows how long
//! the others needed to find out. If they never find out, the clock runs past all bounds, which fails the
//! model.
//!
//! Stopping. One process may be told to stop before its n-th step; a step is a store to shared memory or a
//! call to the kernel. It then dies (it unwinds without a store, and the kernel reports it as gone), or it
//! pauses for a while of virtual time, as after SIGSTOP. The models try every n.
//!
//! What is kept here is no shared memory: the threads of a model take turns, and no access here is a point of
//! a switch.

use core::any::Any;
use core::cell::{Cell, RefCell};
use core::ops::Add;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::resume_unwind;
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Duration;

use ::loom::cell::UnsafeCell;
use ::loom::sync::atomic::AtomicU32;
use ::loom::thread::Thread;

use crate::error::Error;
use crate::platform::Slept;
use crate::sync::Ordering;
use crate::units::PAGE;

/// A process that sleeps longer than this sleeps for ever.
const FOR_EVER: Duration = Duration::from_secs(60);
/// Processes that a model can have, numbered from 1, and so participants.
const PROCESSES: usize = 5;

/// What a process does before the step at which it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Dies,
    Pauses(Duration),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub process: u32,
    /// The step before which it stops, counted from 1 since it began to run.
    pub at: u64,
    pub how: How,
}

/// The payload of the unwinding of a process that dies.
pub(crate) struct Died;

struct Sleeper {
    word: usize,
    process: u32,
    deadline: Duration,
    thread: Thread,
    slept: Rc<Cell<Option<Slept>>>,
}

#[derive(Default)]
struct World {
    clock: Duration,
    /// Slices that ended.
    timeouts: u64,
    /// Processes that run or could.
    awake: u32,
    sleepers: Vec<Sleeper>,
    cores: u32,
    stops: Vec<Stop>,
    /// Steps that each process has made, if one is to stop.
    steps: HashMap<u32, u64>,
    /// Whether a process is past the place where it could stop.
    is_past: [bool; PROCESSES + 1],
    /// Processes whose sleep [`disturb`] ends, and how their next sleep ends if they did not sleep then.
    disturbed: HashMap<u32, (Rc<AtomicU32>, Option<Slept>)>,
    /// Words of the shared memory that were touched, and the checker's objects behind all words.
    touched: Vec<usize>,
    objects: Vec<Box<dyn Any>>,
    payload: HashMap<usize, Rc<UnsafeCell<()>>>,
    lives: Vec<Rc<AtomicU32>>,
    gone: Vec<Rc<AtomicU32>>,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::default());
    /// The shared memory: whole pages, which stay from one execution to the next.
    static MEMORY: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static ANY_FILE: &'static File =
        Box::leak(Box::new(File::open("/dev/null").expect("/dev/null can be opened")));
}

::loom::thread_local! {
    static PROCESS: Cell<u32> = Cell::new(0);
    /// The time that this thread's reads of the clock have taken: so a spin ends.
    static DRIFT: Cell<u64> = Cell::new(0);
}

fn with<R>(f: impl FnOnce(&mut World) -> R) -> R {
    WORLD.with(|world| f(&mut world.borrow_mut()))
}

/// Begins an execution.
pub(crate) fn begin(cores: u32, stops: &[Stop]) {
    let old = with(|world| {
        let new = World {
            cores,
            stops: stops.to_vec(),
            awake: 1,
            lives: (0..=PROCESSES).map(|_| Rc::new(AtomicU32::new(0))).collect(),
            gone: (0..=PROCESSES).map(|_| Rc::new(AtomicU32::new(0))).collect(),
            ..World::default()
        };
        core::mem::replace(world, new)
    });
    for word in old.touched {
        // SAFETY: keep has noted the place of a word of 16 bytes in MEMORY, which is never freed while words
        // are used.
        unsafe { (word as *mut [u64; 2]).write([0; 2]) };
    }
}

/// Keeps the object behind a word until the execution ends.
pub(crate) fn keep<T: 'static>(object: T, word: usize) -> *const T {
    let object = Box::new(object);
    let place: *const T = &raw const *object;
    let is_shared = MEMORY.with(|memory| {
        let range = memory.borrow();
        range.as_ptr_range().start as usize <= word && word < range.as_ptr_range().end as usize
    });
    with(|world| {
        if is_shared {
            world.touched.push(word);
        }
        world.objects.push(object);
    });
    place
}

/// Applies `access` to the cell of each 64-byte block of the payload bytes.
pub(crate) fn track(start: usize, len: usize, access: impl Fn(&UnsafeCell<()>)) {
    if std::thread::panicking() || len == 0 {
        return;
    }
    const BLOCK: usize = 64;
    for block in start / BLOCK..=(start + len - 1) / BLOCK {
        let known = with(|world| world.payload.get(&block).cloned());
        let cell = known.unwrap_or_else(|| {
            let cell = Rc::new(UnsafeCell::new(()));
            with(|world| world.payload.insert(block, cell.clone()));
            cell
        });
        access(&cell);
    }
}

pub(crate) fn memory(length: usize) -> NonNull<u8> {
    MEMORY.with(|memory| {
        let mut memory = memory.borrow_mut();
        let words = (length + PAGE as usize) / 8;
        if memory.is_empty() {
            *memory = vec![0; words];
        }
        assert_eq!(memory.len(), words, "all models have one geometry");
        let unaligned = memory.as_ptr().addr() / 8;
        let first = unaligned.next_multiple_of(PAGE as usize / 8) - unaligned;
        NonNull::from(&mut memory[first]).cast()
    })
}

// ------------------------------------------------------------------------------------------------- processes

/// The process to which the running thread belongs.
pub(crate) fn process() -> u32 {
    PROCESS.with(Cell::get)
}

pub(crate) fn become_process(process: u32) {
    PROCESS.with(|own| own.set(process));
}

pub(crate) fn cores() -> u32 {
    with(|world| world.cores)
}

/// One more process can run.
pub(crate) fn wake_up() {
    with(|world| world.awake += 1);
}

/// The steps of this process count from now on.
pub(crate) fn count_steps() {
    let process = process();
    with(|world| world.steps.insert(process, 0));
}

/// A process has ended, in order or not.
pub(crate) fn end() {
    with(|world| world.awake -= 1);
    let_time_pass();
}

/// The kernel's note that a process is gone.
pub(crate) fn note_death() {
    let process = process() as usize;
    let gone = with(|world| {
        world.is_past[process] = true;
        world.gone[process].clone()
    });
    // Release: pairs with the acquire in is_gone. The kernel reports a death after the last store was made.
    gone.swap(1, Ordering::Release);
}

pub(crate) fn is_gone(process: u32) -> bool {
    let gone = with(|world| world.gone[process as usize].clone());
    newest(&gone) != 0
}

/// A kernel's answer is never out of date, so this reads as a read-modify-write does.
fn newest(word: &AtomicU32) -> u32 {
    word.fetch_add(0, Ordering::AcqRel)
}

/// Steps that a process has made.
pub(crate) fn steps_of(process: u32) -> u64 {
    with(|world| world.steps.get(&process).copied().unwrap_or(0))
}

/// A store or a call of the kernel comes next: a process that is to stop here stops.
pub(crate) fn step() {
    if std::thread::panicking() || with(|world| world.stops.is_empty()) {
        return;
    }
    let process = process();
    let how = with(|world| {
        if world.is_past[process as usize] {
            return None;
        }
        let steps = world.steps.get_mut(&process)?;
        *steps += 1;
        let stop = world
            .stops
            .iter()
            .find(|stop| stop.process == process && stop.at == *steps)?;
        Some(stop.how)
    });
    match how {
        None => {}
        Some(How::Dies) => resume_unwind(Box::new(Died)),
        Some(How::Pauses(while_)) => {
            sleep(0, while_);
        }
    }
}

// -------------------------------------------------------------------------------------------- time and sleep

/// A moment of the virtual clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    pub(crate) fn now() -> Moment {
        let drift = DRIFT.with(|drift| drift.replace(drift.get() + 10_000));
        Moment(with(|world| world.clock) + Duration::from_nanos(drift))
    }

    pub(crate) fn as_micros(self) -> u64 {
        1_000_000_000 + self.0.as_micros() as u64
    }

    pub(crate) fn as_millis(self) -> u64 {
        // Not from 0: in a queue whose words are 0 the last check for the dead is then long ago.
        1_000_000 + self.0.as_millis() as u64
    }

    pub(crate) fn saturating_duration_since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, duration: Duration) -> Moment {
        Moment(self.0 + duration)
    }
}

/// The virtual time since the execution began, and the slices that ended in it.
pub(crate) fn elapsed() -> (Duration, u64) {
    with(|world| (world.clock, world.timeouts))
}

/// Sleeps until woken at that word, or until the time has passed.
pub(crate) fn sleep(word: usize, at_most: Duration) -> Slept {
    let slept = Rc::new(Cell::new(None));
    let sleeper = Sleeper {
        word,
        process: process(),
        deadline: elapsed().0 + at_most,
        thread: ::loom::thread::current(),
        slept: slept.clone(),
    };
    let outside = with(|world| {
        world
            .disturbed
            .get(&sleeper.process)
            .and_then(|(_, slept)| *slept)
    });
    with(|world| {
        if outside.is_some() {
            if let Some((_, slept)) = world.disturbed.get_mut(&sleeper.process) {
                *slept = None;
            }
            return;
        }
        world.sleepers.push(sleeper);
        world.awake -= 1;
    });
    if let Some(slept) = outside {
        return slept;
    }
    let_time_pass();
    loop {
        if let Some(slept) = slept.get() {
            return slept;
        }
        ::loom::thread::park();
    }
}

/// Wakes up to `count` sleepers at that word, in the order in which they fell asleep.
pub(crate) fn wake(word: usize, count: u32) {
    for _ in 0..count {
        let first = |world: &World| world.sleepers.iter().position(|sleeper| sleeper.word == word);
        if let Some(process) = with(|world| Some(world.sleepers[first(world)?].process)) {
            mark_disturbance(process);
        }
        let Some(sleeper) = with(|world| Some(world.sleepers.remove(first(world)?))) else {
            return;
        };
        let_go(&sleeper, Slept::Changed);
    }
}

/// Begins an execution in which [`disturb`] will be called for that process.
pub(crate) fn expect_disturbance(process: u32) {
    with(|world| {
        world
            .disturbed
            .insert(process, (Rc::new(AtomicU32::new(0)), None))
    });
}

/// Orders a sleep or a wake-up of a process against its disturbance.
pub(crate) fn mark_disturbance(process: u32) {
    if let Some(order) = with(|world| world.disturbed.get(&process).map(|(order, _)| order.clone())) {
        order.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends the sleep of a process, or the next one if it does not sleep: a signal, or a slice that ends early.
pub(crate) fn disturb(process: u32, how: Slept) {
    mark_disturbance(process);
    let sleeper = with(|world| {
        let Some(place) = world
            .sleepers
            .iter()
            .position(|sleeper| sleeper.process == process)
        else {
            if let Some((_, slept)) = world.disturbed.get_mut(&process) {
                *slept = Some(how);
            }
            return None;
        };
        Some(world.sleepers.remove(place))
    });
    if let Some(sleeper) = sleeper {
        let_go(&sleeper, how);
    }
}

fn let_go(sleeper: &Sleeper, slept: Slept) {
    sleeper.slept.set(Some(slept));
    with(|world| world.awake += 1);
    sleeper.thread.unpark();
}

/// If no process runs, time passes until the next slice ends.
fn let_time_pass() {
    let next = with(|world| {
        if world.awake > 0 {
            return None;
        }
        let sleepers = world.sleepers.iter().enumerate();
        let (first, _) = sleepers.min_by_key(|(_, sleeper)| (sleeper.deadline, sleeper.process))?;
        let sleeper = world.sleepers.remove(first);
        world.clock = world.clock.max(sleeper.deadline);
        world.timeouts += 1;
        Some((sleeper, world.clock))
    });
    if let Some((sleeper, clock)) = next {
        assert!(clock < FOR_EVER, "all processes sleep for ever");
        let_go(&sleeper, Slept::TimedOut);
    }
}

// ----------------------------------------------------------------------------------------------- descriptors

pub(crate) fn borrow_any_file() -> Option<BorrowedFd<'static>> {
    Some(ANY_FILE.with(|file| {
        let file: &'static File = file;
        file.as_fd()
    }))
}

/// A descriptor that the caller owns; it stands for the queue's memory file, or for an open file description
/// of it.
pub(crate) fn any_file() -> Result<OwnedFd, Error> {
    let file = ANY_FILE.with(|file| {
        let file: &'static File = file;
        file.as_fd()
    });
    file.try_clone_to_owned().map_err(|error| Error::Os {
        call: "fcntl(F_DUPFD_CLOEXEC)",
        errno: error.raw_os_error().unwrap_or(0),
    })
}

/// Takes a participant's life byte, if no living process has it.
pub(crate) fn hold_life(index: usize) -> bool {
    step();
    let life = with(|world| world.lives[index].clone());
    let holder = newest(&life);
    let is_free = holder == 0 || is_gone(holder);
    is_free
        && life
            .compare_exchange(holder, process(), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
}

/// Unlocks a life byte of this process.
pub(crate) fn release_life(index: usize) {
    let life = with(|world| world.lives[index].clone());
    let _ = life.compare_exchange(process(), 0, Ordering::Release, Ordering::Relaxed);
}

pub(crate) fn is_life_held(index: usize) -> bool {
    let life = with(|world| world.lives[index].clone());
    let holder = newest(&life);
    holder != 0 && !is_gone(holder)
}

/// Closes a descriptor.
pub(crate) fn close(fd: RawFd) {
    if fd < 0 {
        return;
    }
    // SAFETY: the number was taken from a descriptor of any_file, whose only owner the model's queue was.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}
