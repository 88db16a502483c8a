//! The path of an operation: the place before each of its instructions, recorded once by single steps, and
//! then how to come to the k-th place again quickly.
//!
//! A step costs some 70 us here, so to step to each k anew would be quadratic. Instead the process runs
//! freely to a breakpoint at a *landmark*: the best place at or before k that the process seldom passes. From
//! there it is stepped, and each step is compared with the recording. The recorded process and the killed one
//! are forked from the same image, so addresses are the same.
//!
//! A `rep` instruction would stop after each of its thousands of repetitions, all alike: it is recorded as
//! two places, before it and after its first repetition. A process may leave the path (a read of the clock
//! takes another branch, a number has one digit more). The case then reports that, and the process dies at
//! the next passage of the right instruction, or if there is none after k steps of its own way.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::trace::{Ended, Tracee, WhenAsleep, end};

/// The place before one instruction.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Step {
    pub instruction: u64,
    pub depth: i32,
    /// How often the path has come by this instruction, this time included.
    pub occurrence: u32,
    /// Not 0 before a system call that may sleep.
    pub may_sleep: u32,
    reserved: u32,
}

/// Paths in memory that all processes of the harness share.
pub struct Paths {
    base: *mut u8,
}

const PLACES: usize = 4096;
const STEPS: u64 = 16 << 20;
const HEADER: usize = (PLACES + 1) * 16;

impl Paths {
    pub fn new() -> Paths {
        let length = HEADER + STEPS as usize * size_of::<Step>();
        // SAFETY: a new anonymous mapping; nothing of this process is replaced.
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
        assert_ne!(base, libc::MAP_FAILED);
        Paths { base: base.cast() }
    }

    /// The start of a path and its length; the last entry is the number of steps used so far.
    fn entry(&self, place: usize) -> &[AtomicU64; 2] {
        assert!(place <= PLACES);
        // SAFETY: inside the mapping, aligned, and atomics only.
        unsafe { &*self.base.add(place * 16).cast() }
    }

    pub fn get(&self, place: usize) -> &[Step] {
        let [start, length] = self.entry(place);
        let length = length.load(Ordering::Acquire) as usize;
        let start = start.load(Ordering::Relaxed) as usize;
        // SAFETY: inside the mapping; written once, before the length was, and never again.
        unsafe { std::slice::from_raw_parts(self.base.add(HEADER).cast::<Step>().add(start), length) }
    }

    fn set(&self, place: usize, path: &[Step]) {
        let used = &self.entry(PLACES)[0];
        let start = used.fetch_add(path.len() as u64, Ordering::Relaxed);
        assert!(start + path.len() as u64 <= STEPS, "no room for more paths");
        // SAFETY: inside the mapping, in a part that belongs to this call alone.
        unsafe {
            let target = self.base.add(HEADER).cast::<Step>().add(start as usize);
            std::ptr::copy_nonoverlapping(path.as_ptr(), target, path.len());
        }
        self.entry(place)[0].store(start, Ordering::Relaxed);
        self.entry(place)[1].store(path.len() as u64, Ordering::Release);
    }

    /// Steps a process through its operation and keeps the path.
    pub fn record(&self, place: usize, mut tracee: Tracee, mut when_asleep: WhenAsleep<'_>) {
        let mut path: Vec<Step> = Vec::new();
        let mut passed: HashMap<u64, u32> = HashMap::new();
        loop {
            let at = tracee.place();
            let occurrence = passed.entry(at.instruction).or_default();
            *occurrence += 1;
            let may_sleep = tracee.is_before_sleep();
            let is_repeating = path.last().is_some_and(|step| step.instruction == at.instruction);
            path.push(Step {
                instruction: at.instruction,
                depth: at.depth as i32,
                occurrence: *occurrence,
                may_sleep: u32::from(may_sleep),
                reserved: 0,
            });
            if at.instruction == end() {
                break;
            }
            if is_repeating {
                let length = tracee.rep_length(at.instruction);
                assert!(length > 0, "it stays where it is");
                tracee
                    .run_to(at.instruction + length, 1, &mut when_asleep)
                    .unwrap();
            } else if may_sleep {
                tracee.step_asleep(&mut when_asleep);
            } else {
                tracee.step();
            }
        }
        self.set(place, &path);
        tracee.kill();
    }
}

/// How a process came to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Step by step as recorded.
    Recorded,
    /// It took another way, at the end to the same instruction.
    Other,
    /// It never came there, and stands after as many steps of its own way.
    Own,
}

/// Furthest that a landmark lies back.
const FURTHEST: usize = 400;
/// What a passage of a breakpoint costs, in steps.
const PASSAGE: usize = 2;

fn landmark(path: &[Step], k: usize) -> usize {
    let is_repeated = |i: usize| {
        i > 0 && path[i - 1].instruction == path[i].instruction
            || path
                .get(i + 1)
                .is_some_and(|next| next.instruction == path[i].instruction)
    };
    (k.saturating_sub(FURTHEST)..=k)
        .filter(|i| path[*i].occurrence == 1 || !is_repeated(*i))
        .min_by_key(|i| (path[*i].occurrence as usize - 1) * PASSAGE + (k - i))
        .unwrap_or(0)
}

/// Whether every run of the operation comes to the k-th place at the same stage of its work: not so inside a
/// loop that waits, whose passages depend on the clock.
pub fn is_certain(path: &[Step], k: usize) -> bool {
    path[landmark(path, k)].occurrence == 1
}

/// Brings a process from the begin marker to the k-th place of a path. What is to be done once it sleeps is
/// done by then if it was in the recording, or it took another way: a loop that waits leads to the same
/// places before its sleep and after it.
pub fn go_to(
    tracee: &mut Tracee,
    path: &[Step],
    k: usize,
    when_asleep: &mut WhenAsleep<'_>,
) -> Result<Way, Ended> {
    let is_to_be_done = when_asleep.0.is_some();
    let way = follow(tracee, path, k, when_asleep)?;
    let was_asleep = path[..k].iter().any(|step| step.may_sleep != 0);
    Ok(match is_to_be_done && when_asleep.0.is_none() != was_asleep {
        true => Way::Other,
        false => way,
    })
}

fn follow(
    tracee: &mut Tracee,
    path: &[Step],
    k: usize,
    when_asleep: &mut WhenAsleep<'_>,
) -> Result<Way, Ended> {
    let from = landmark(path, k);
    let mut way = Way::Recorded;
    if from > 0 {
        tracee.run_to(path[from].instruction, path[from].occurrence, when_asleep)?;
        if tracee.place().depth != i64::from(path[from].depth) {
            way = Way::Other;
        }
    }
    for i in from..k {
        if i > 0 && path[i].instruction == path[i - 1].instruction {
            tracee.run_to(path[i + 1].instruction, 1, when_asleep)?;
        } else if path[i].may_sleep != 0 {
            tracee.step_asleep(when_asleep);
        } else {
            tracee.step();
        }
        let at = tracee.place().instruction;
        if at != path[i + 1].instruction {
            if at != path[k].instruction {
                tracee.run_to(path[k].instruction, 1, when_asleep)?;
            }
            return Ok(Way::Other);
        }
    }
    Ok(way)
}

/// The same by steps alone, wherever they lead: to the end of the operation at most.
pub fn step_to(tracee: &mut Tracee, k: usize, when_asleep: &mut WhenAsleep<'_>) -> Way {
    for _ in 0..k {
        let at = tracee.place().instruction;
        if at == end() {
            break;
        }
        if tracee.is_before_sleep() {
            tracee.step_asleep(when_asleep);
        } else {
            tracee.step();
        }
        let length = tracee.rep_length(at);
        if length > 0
            && tracee.place().instruction == at
            && tracee.run_to(at + length, 1, when_asleep).is_err()
        {
            break;
        }
    }
    Way::Own
}
