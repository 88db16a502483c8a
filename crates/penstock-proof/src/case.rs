//! One case: a process of its own, which sets the stage, records a path or kills at one place, survives and
//! reports.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use crate::operation::{OPERATIONS, Operation, REBUILD, SWEEP};
use crate::path::{Paths, Way, go_to, step_to};
use crate::process::Pipe;
use crate::scene::Scene;
use crate::survivors::go_on;
use crate::trace::{Tracee, WhenAsleep};

/// A place of death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Death {
    /// The k-th place of the recorded path.
    pub k: u32,
    /// Inside the system call that it stands before, asleep.
    pub asleep: u32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Request {
    pub id: u32,
    pub operation: u32,
    /// Where the operation's path lies, and that of the recovery after `first`.
    pub path: u32,
    pub recovery: u32,
    pub what: What,
    /// Where the operation's process dies, if the case kills in the recovery that follows.
    pub first: Death,
    /// Where the process dies on which the case reports.
    pub death: Death,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum What {
    RecordOperation,
    RecordRecovery,
    KillInOperation,
    KillInRecovery,
}

const TEXT: usize = 400;

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Report {
    pub id: u32,
    pub is_sound: u32,
    /// Whether the process came to its place as recorded (0), another way (1), by steps of its own (2).
    pub way: u32,
    pub stall_micros: u32,
    pub put: u32,
    pub taken: u32,
    length: u32,
    text: [u8; TEXT],
}

impl Report {
    fn new(id: u32) -> Report {
        Report {
            id,
            is_sound: 1,
            way: 0,
            stall_micros: 0,
            put: 0,
            taken: 0,
            length: 0,
            text: [0; TEXT],
        }
    }

    pub fn failed(id: u32, text: &str) -> Report {
        let mut report = Report::new(id);
        report.is_sound = 0;
        let length = text.len().min(TEXT);
        report.text[..length].copy_from_slice(&text.as_bytes()[..length]);
        report.length = length as u32;
        report
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text[..(self.length as usize).min(TEXT)]).into_owned()
    }
}

/// Does what is requested in this process, and reports. Called in a fresh child of the pristine image.
pub fn perform(request: &Request, paths: &Paths, reports: &Pipe) {
    start_watchdog(request.id, reports);
    let ended = std::panic::catch_unwind(|| attempt(request, paths));
    let report = match ended {
        Ok(report) => report,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without words");
            Report::failed(request.id, text)
        }
    };
    reports.send(&report);
}

fn attempt(request: &Request, paths: &Paths) -> Report {
    let operation: &'static Operation = &OPERATIONS[request.operation as usize];
    let is_recovery = matches!(request.what, What::RecordRecovery | What::KillInRecovery);
    let kills = match request.what {
        What::RecordOperation => Vec::new(),
        What::RecordRecovery => vec![(request.path, request.first)],
        What::KillInOperation => vec![(request.path, request.death)],
        What::KillInRecovery => vec![(request.path, request.first), (request.recovery, request.death)],
    };
    for (path, death) in kills {
        let length = paths.get(path as usize).len();
        assert!((death.k as usize) < length, "the path has {length} places only");
    }
    // A process that cannot come to its place by the recorded way is set on its way anew.
    for by_steps in [false, true] {
        // A process that dies after the operation does not have the lock.
        let is_over = paths.get(request.path as usize).len() == request.first.k as usize + 1;
        let recovery = if is_over { &SWEEP } else { &REBUILD };
        let (mut scene, mut tracee, second) = Scene::set(operation, is_recovery.then_some(recovery));
        if request.what == What::RecordOperation {
            paths.record(request.path as usize, tracee, scene.when_asleep());
            drop(scene.sleeper.take());
            return Report::new(request.id);
        }
        let path = paths.get(request.path as usize);
        let path_of_operation = path;
        let death = if is_recovery { request.first } else { request.death };
        let mut when_asleep = scene.when_asleep();
        let mut way = if by_steps && !is_recovery {
            step_to(&mut tracee, death.k as usize, &mut when_asleep)
        } else {
            match go_to(&mut tracee, path, death.k as usize, &mut when_asleep) {
                Ok(way) => way,
                Err(_) => continue,
            }
        };
        drop(when_asleep);
        way = die(tracee, death, path[death.k as usize].instruction, way);
        let way_of_first = way;
        if let Some(mut second) = second {
            if request.what == What::RecordRecovery {
                paths.record(request.recovery as usize, second, WhenAsleep::default());
                return Report::new(request.id);
            }
            let path = paths.get(request.recovery as usize);
            if by_steps {
                way = step_to(&mut second, request.death.k as usize, &mut WhenAsleep::default());
            } else {
                match go_to(
                    &mut second,
                    path,
                    request.death.k as usize,
                    &mut WhenAsleep::default(),
                ) {
                    Ok(found) => way = found,
                    Err(_) => continue,
                }
            }
            way = die(
                second,
                request.death,
                path[request.death.k as usize].instruction,
                way,
            );
        }
        let found = go_on(scene, request.death.k as usize);
        if death.k as usize + 1 == path_of_operation.len() && way == Way::Recorded {
            let all = (
                operation.puts.len(),
                operation.takes.len()
                    + operation.buries.len()
                    + usize::from(operation.finishes)
                    + usize::from(operation.shuts_down),
            );
            assert_eq!(
                (found.put, found.taken),
                all,
                "a process that dies at the end has put, taken and finished everything"
            );
        }
        // What the first had done where it died is not what is recorded, either.
        way = if way == Way::Recorded { way_of_first } else { way };
        return Report {
            way: way as u32,
            stall_micros: found.stall.as_micros() as u32,
            put: found.put as u32,
            taken: found.taken as u32,
            ..Report::new(request.id)
        };
    }
    Report::failed(request.id, "the first process never came to its place")
}

/// Kills it, if it is really where it is to die.
fn die(tracee: Tracee, death: Death, instruction: u64, way: Way) -> Way {
    let at = tracee.place().instruction;
    assert!(
        at == instruction || way == Way::Own,
        "it stands at {at:#x}, not at {instruction:#x}"
    );
    if death.asleep == 0 {
        tracee.kill();
        return way;
    }
    if tracee.kill_asleep() { way } else { Way::Other }
}

static WATCHED: AtomicU32 = AtomicU32::new(0);
static REPORTS: AtomicI32 = AtomicI32::new(-1);

/// A case that hangs reports so itself, and ends.
fn start_watchdog(id: u32, reports: &Pipe) {
    WATCHED.store(id, Ordering::Relaxed);
    REPORTS.store(reports.writer(), Ordering::Relaxed);
    // SAFETY: the handler makes async-signal-safe calls only.
    unsafe {
        libc::signal(libc::SIGALRM, on_alarm as *const () as usize);
        libc::alarm(60);
    }
}

extern "C" fn on_alarm(_: i32) {
    let report = Report::failed(WATCHED.load(Ordering::Relaxed), "it hangs");
    // SAFETY: plain data; write and _exit are async-signal-safe.
    unsafe {
        libc::write(
            REPORTS.load(Ordering::Relaxed),
            (&raw const report).cast(),
            size_of::<Report>(),
        );
        libc::_exit(4);
    }
}
