//! One stage: a queue, the survivor (this process), the sleeper, and the victims at their begin markers.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_core::{Error, Patience, Queue, age_waiters_after};

use crate::item::{Item, WATCHDOG, get, surely, try_put, with_patience};
use crate::operation::{Log, Operation, SLEEPERS_ITEM, Sleeper, TOLD, Victim};
use crate::process::{self, Child, Pipe};
use crate::trace::{Tracee, WhenAsleep, between_markers, trace_me};

/// What a getter was handed that is late by now, and a time after which it is.
const LATE_ITEM: Item = 10;
const LATE_AFTER: Duration = Duration::from_millis(60);

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
    fn new(kind: Sleeper, ages: bool, queue: &Arc<Queue>, log: &mut Log) -> Asleep {
        let report = Pipe::new();
        let child = Child::run(|| {
            if ages {
                age_waiters_after(Duration::ZERO);
            }
            let done = match kind {
                Sleeper::Getter | Sleeper::LateGetter => get(queue, surely()).inspect(|_| {
                    if queue.options().acknowledged {
                        queue.task_done().unwrap(); // or the item comes again after the sleeper's end
                    }
                }),
                Sleeper::Putter | Sleeper::Sender => try_put(queue, SLEEPERS_ITEM).map(|()| SLEEPERS_ITEM),
                Sleeper::Joiner => with_patience(surely(), |wait| queue.join(wait)).map(|()| 0),
            };
            let item: Item = match done {
                Err(Error::ShutDown) => TOLD,
                done => done.unwrap(),
            };
            report.send(&item);
        });
        let is_listed = || {
            let statistics = queue.statistics().unwrap();
            0 < match kind {
                Sleeper::Getter | Sleeper::LateGetter => statistics.waiting_getters,
                Sleeper::Putter | Sleeper::Sender => statistics.waiting_putters,
                Sleeper::Joiner => statistics.waiting_joiners,
            }
        };
        // On the list, and then in the kernel.
        while !is_listed() || ages && queue.aged_waiters() == 0 || process::state_of(child.pid) != Some(b'S')
        {
            std::thread::yield_now();
        }
        if kind == Sleeper::LateGetter {
            process::stop(child.pid);
            log.put(queue, LATE_ITEM);
            std::thread::sleep(LATE_AFTER);
        }
        Asleep { kind, child, report }
    }

    /// Waits until it has woken and done its part: the item, and how long that took from now.
    pub fn finish(self) -> (Item, Duration) {
        process::go_on(self.child.pid);
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
        if operation.sleeper_is_last {
            // Finds out how many processors there are, as a sleeper that comes first makes the survivor do.
            // The victim knows it, then.
            let none = get(&queue, Patience::Until(Instant::now() + Duration::from_millis(1)));
            assert_eq!(none, Err(Error::Empty));
        }
        (operation.prepare)(&queue, &mut log);
        let fall_asleep = |log: &mut Log| {
            operation
                .sleeper
                .map(|kind| Asleep::new(kind, operation.ages, &queue, log))
        };
        let first_asleep = (!operation.sleeper_is_last).then(|| fall_asleep(&mut log));
        let second = recovery.map(|recovery| victim(recovery, &queue));
        let first = match outsider {
            Some(child) => {
                way_in.send(&queue.fd().unwrap().as_raw_fd());
                Tracee::new(child)
            }
            None => victim(operation, &queue),
        };
        (operation.meanwhile)(&queue, &mut log);
        let sleeper = first_asleep.unwrap_or_else(|| fall_asleep(&mut log));
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
    if operation.ages {
        age_waiters_after(Duration::ZERO);
    }
    let mut victim = Victim::new(queue, operation.puts);
    assert!(trace_me(), "ptrace is forbidden");
    (operation.before)(&mut victim);
    between_markers(|| (operation.run)(&mut victim));
    process::exit(0);
}
