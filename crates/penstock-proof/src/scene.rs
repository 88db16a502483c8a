//! One stage: a queue, the survivor (this process), the sleeper, and the victims at their begin markers.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_core::{Patience, Queue};

use crate::item::{Item, WATCHDOG, get, put, surely, with_patience};
use crate::operation::{Log, Operation, SLEEPERS_ITEM, Sleeper, Victim};
use crate::process::{self, Child, Pipe};
use crate::trace::{Tracee, WhenAsleep, between_markers, trace_me};

pub struct Scene {
    pub operation: &'static Operation,
    pub queue: Arc<Queue>,
    pub log: Log,
    pub sleeper: Option<Asleep>,
}

/// Another process that sleeps on the queue.
pub struct Asleep {
    pub kind: Sleeper,
    child: Child,
    report: Pipe,
}

impl Asleep {
    fn new(kind: Sleeper, queue: &Arc<Queue>) -> Asleep {
        let report = Pipe::new();
        let child = Child::run(|| {
            let item: Item = match kind {
                Sleeper::Getter => get(queue, surely()).unwrap(),
                Sleeper::Putter | Sleeper::Sender => {
                    put(queue, SLEEPERS_ITEM);
                    SLEEPERS_ITEM
                }
                Sleeper::Joiner => {
                    with_patience(surely(), |wait| queue.join(wait)).unwrap();
                    0
                }
            };
            report.send(&item);
        });
        let is_listed = || {
            let statistics = queue.statistics().unwrap();
            0 < match kind {
                Sleeper::Getter => statistics.waiting_getters,
                Sleeper::Putter | Sleeper::Sender => statistics.waiting_putters,
                Sleeper::Joiner => statistics.waiting_joiners,
            }
        };
        // On the list, and then in the kernel.
        while !is_listed() || process::state_of(child.pid) != Some(b'S') {
            std::thread::yield_now();
        }
        Asleep { kind, child, report }
    }

    /// Waits until it has woken and done its part: the item, and how long that took from now.
    pub fn finish(self) -> (Item, Duration) {
        let start = Instant::now();
        let Some(item) = self.report.receive(WATCHDOG) else {
            panic!("the {:?} sleeps on", self.kind);
        };
        let waited = start.elapsed();
        assert_eq!(self.child.reap(), 0);
        (item, waited)
    }
}

impl Scene {
    /// Sets the stage, with the victims ready: the one of the operation, and another one that will recover.
    pub fn set(
        operation: &'static Operation,
        recovery: Option<&'static Operation>,
    ) -> (Scene, Tracee, Option<Tracee>) {
        let way_in = Pipe::new();
        let outsider = operation
            .attaches
            .then(|| Child::run(|| outsider(operation, &way_in)));
        let queue = Queue::create(&operation.options).unwrap();
        queue.statistics().unwrap();
        if operation.options.acknowledged && !operation.sets_aside {
            with_patience(Patience::NoWait, |wait| queue.join(wait)).unwrap();
        }
        let mut log = Log::default();
        (operation.prepare)(&queue, &mut log);
        let sleeper = operation.sleeper.map(|kind| Asleep::new(kind, &queue));
        let second = recovery.map(|recovery| victim(recovery, &queue));
        let first = match outsider {
            Some(child) => {
                way_in.send(&queue.fd().unwrap().as_raw_fd());
                Tracee::new(child)
            }
            None => victim(operation, &queue),
        };
        let scene = Scene {
            operation,
            queue,
            log,
            sleeper,
        };
        (scene, first, second)
    }

    /// What the survivor does once the victim sleeps.
    pub fn when_asleep(&mut self) -> WhenAsleep<'_> {
        let (queue, log) = (&self.queue, &mut self.log);
        WhenAsleep(
            self.operation
                .when_asleep
                .map(|call| Box::new(move || call(queue, &mut *log)) as Box<dyn FnMut()>),
        )
    }
}

fn victim(operation: &'static Operation, queue: &Arc<Queue>) -> Tracee {
    Tracee::new(Child::run(|| act(operation, queue.clone())))
}

/// A victim that was there before the queue, and opens it by its descriptor.
fn outsider(operation: &'static Operation, way_in: &Pipe) {
    let Some(fd) = way_in.receive::<i32>(WATCHDOG) else {
        return;
    };
    let path = format!("/proc/{}/fd/{fd}", std::os::unix::process::parent_id());
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    act(operation, Queue::attach(file.into()).unwrap());
}

fn act(operation: &Operation, queue: Arc<Queue>) {
    let mut victim = Victim::new(queue, operation.puts);
    assert!(trace_me(), "ptrace is forbidden");
    (operation.before)(&mut victim);
    between_markers(|| (operation.run)(&mut victim));
    process::exit(0);
}
