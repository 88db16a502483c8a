//! Runs a model: all its executions, for each step at which a process can stop.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::handle::put_off::LeavePutOff;
use crate::handle::queue::Queue;
use crate::handle::spare::SpareNote;
use crate::handle::spin_budget::SpinBudget;
use crate::models::audit::audit;
use crate::models::world::{self, Died, How, Stop};
use crate::operations::delivery::Buffer;
use crate::operations::get::Delivery;
use crate::operations::lease::Lent;
use crate::options::{Options, Patience, Wait};
use crate::state::Shared;
use crate::sync::Word;
use crate::units::SMALL;

/// The process that makes the queue, and audits it when the others have ended.
pub(crate) const AUDITOR: u32 = 5;

/// How often loom may preempt a running thread in one execution; `LOOM_MAX_PREEMPTIONS` overrides it.
#[derive(Clone, Copy)]
pub(crate) enum Preemptions {
    /// Any number: the search is exhaustive.
    Any,
    AtMost(usize),
}

pub(crate) struct Model {
    name: &'static str,
    cores: u32,
    preemptions: Preemptions,
    stops: Vec<Stop>,
}

impl Model {
    pub(crate) fn new(name: &'static str, preemptions: Preemptions) -> Model {
        Model {
            name,
            cores: 1,
            preemptions,
            stops: Vec::new(),
        }
    }

    /// With more than one core processes spin before they sleep, and more waiters are woken at once.
    pub(crate) fn on_cores(self, cores: u32) -> Model {
        Model { cores, ..self }
    }

    /// A process dies before that step in all executions.
    pub(crate) fn with_death(mut self, process: u32, at: u64) -> Model {
        self.stops.push(Stop {
            process,
            at,
            how: How::Dies,
        });
        self
    }

    /// Explores all executions.
    pub(crate) fn check(self, model: impl Fn() + Send + Sync + 'static) {
        let begun = Clocks::now();
        let (executions, _) = self.explore(Arc::new(model));
        self.report(executions, None, begun);
    }

    /// Explores all executions in which `process` stops before its n-th step, for every n that it can reach.
    /// `PENSTOCK_STOP_AT` chooses one n.
    pub(crate) fn check_stopping(mut self, process: u32, how: How, model: impl Fn() + Send + Sync + 'static) {
        let model = Arc::new(model);
        let only: Option<u64> = std::env::var("PENSTOCK_STOP_AT")
            .ok()
            .and_then(|at| at.parse().ok());
        let begun = Clocks::now();
        let (mut total, mut at) = (0, only.unwrap_or(1));
        loop {
            self.stops.push(Stop { process, at, how });
            let (executions, was_reached) = self.explore(model.clone());
            self.stops.pop();
            total += executions;
            if !was_reached || only.is_some() {
                return self.report(total, Some(at - 1), begun);
            }
            at += 1;
        }
    }

    fn most_preemptions(&self) -> Option<usize> {
        match (std::env::var("LOOM_MAX_PREEMPTIONS"), self.preemptions) {
            (Ok(most), _) => most.parse().ok(),
            (Err(_), Preemptions::Any) => None,
            (Err(_), Preemptions::AtMost(most)) => Some(most),
        }
    }

    /// The number of executions, and whether any of them reached the last stop.
    fn explore(&self, model: Arc<impl Fn() + Send + Sync + 'static>) -> (u64, bool) {
        let executions = Arc::new(AtomicU64::new(0));
        let steps = Arc::new(AtomicU64::new(0));
        let mut builder = ::loom::model::Builder::new();
        builder.max_branches = 20_000;
        builder.preemption_bound = self.most_preemptions();
        let failure = Failure {
            name: self.name,
            executions: executions.clone(),
            stops: self.stops.clone(),
        };
        let (cores, stops, last) = (self.cores, self.stops.clone(), self.stops.last().copied());
        let (count, most) = (executions.clone(), steps.clone());
        builder.check(move || {
            count.fetch_add(1, Ordering::Relaxed);
            world::begin(cores, &stops);
            world::become_process(AUDITOR);
            model();
            if let Some(stop) = last {
                most.fetch_max(world::steps_of(stop.process), Ordering::Relaxed);
            }
        });
        core::mem::forget(failure);
        let was_reached = last.is_some_and(|stop| steps.load(Ordering::Relaxed) >= stop.at);
        (executions.load(Ordering::Relaxed), was_reached)
    }

    fn report(&self, executions: u64, steps: Option<u64>, begun: Clocks) {
        let steps = steps.map_or(String::new(), |steps| format!("{steps} places to stop"));
        let bound = match self.most_preemptions() {
            None => "exhaustive".to_owned(),
            Some(most) => format!("{most} preemptions"),
        };
        let (time, cpu) = (begun.real.elapsed().as_secs_f64(), Clocks::now().cpu - begun.cpu);
        println!(
            "{:<52} {bound:<13} {steps:<18} {executions:>7} executions {time:>6.1} s, {cpu:>5.1} s of CPU",
            self.name
        );
    }
}

struct Clocks {
    real: Instant,
    /// Seconds that this thread has run.
    cpu: f64,
}

impl Clocks {
    fn now() -> Clocks {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Clocks {
            real: Instant::now(),
            cpu: cpu.tv_sec as f64 + cpu.tv_nsec as f64 * 1e-9,
        }
    }
}

/// Says where a model failed.
struct Failure {
    name: &'static str,
    executions: Arc<AtomicU64>,
    stops: Vec<Stop>,
}

impl Drop for Failure {
    fn drop(&mut self) {
        let execution = self.executions.load(Ordering::Relaxed);
        eprintln!("{}: failed in execution {execution}; {:?}", self.name, self.stops);
    }
}

pub(crate) const PLAIN: Options = Options {
    maxsize: 0,
    max_bytes: None,
    soft_bytes: 0,
    acknowledged: false,
    max_deliveries: 3,
};

/// A place for one item.
pub(crate) const NARROW: Options = Options { maxsize: 1, ..PLAIN };

pub(crate) const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    ..PLAIN
};

/// Makes the queue of a model.
pub(crate) fn create(options: &Options) -> Arc<Queue> {
    let queue = Queue::create(options).expect("a queue can be made");
    touch_shared_words(&queue);
    queue
}

/// Reads the words that are read without the lock, so that they exist before the processes do, as fresh
/// memory does.
fn touch_shared_words(queue: &Queue) {
    let segment = &queue.shared.segment;
    let hot = segment.hot();
    let words = [
        &hot.lock,
        &hot.spinning.getter,
        &hot.spinning.putter,
        &hot.phase,
        &hot.slots_backed,
        &hot.participants_high,
        &hot.grown,
        &hot.slots_parked,
        &hot.pages_spare,
        &hot.pages_tracked,
        &hot.watching,
        &hot.watching_room,
        &hot.watching_finish,
        &hot.pipe_state,
        &hot.finish_state,
        &hot.acknowledging,
        &hot.producers_begun,
        &hot.producers_expected,
        &hot.timed,
        &hot.notes,
    ];
    let notified = hot.waiters.iter().map(|list| &list.notified);
    let handed = hot.spinning.aged.iter().map(|aged| &aged.handed);
    let lists = [&hot.ready, &hot.dead, &hot.aside, &hot.delayed]
        .into_iter()
        .flat_map(|list| [&list.head, &list.tail]);
    for word in words.into_iter().chain(notified).chain(handed).chain(lists) {
        word.get();
    }
    for word in [
        &hot.ready_count,
        &hot.unfinished,
        &hot.dead_count,
        &hot.orphans,
        &hot.owned_count,
        &hot.ready_bytes,
        &hot.used_bytes,
        &hot.lent_bytes,
        &hot.taken_bytes,
        &hot.given_up,
        &hot.given_up_of_living,
        &hot.discarded,
        &hot.delayed_count,
        &hot.due_at,
        &hot.spans_used,
        &hot.pages_backed,
        &hot.reaped_at,
        &hot.trimmed_at,
        &hot.emptied_at,
        &hot.notifier,
        &hot.finish_notifier,
        &hot.finishes,
    ] {
        word.get();
    }
    for index in 1..=4 {
        let record = segment.participant(index).expect("it exists");
        for word in [
            &record.word,
            &record.birth,
            &record.since,
            &record.pid_namespace,
            &record.given_up,
            &record.producing,
        ] {
            word.get();
        }
        let cell = segment.cell(index).expect("it exists");
        let slot = segment.slot(index).expect("it exists");
        for word in [
            &record.leased.head,
            &record.leased.tail,
            &record.claimed.head,
            &record.claimed.tail,
            &record.watching,
            &record.watching_room,
            &record.watching_finish,
            &cell.word,
            &slot.next,
            &slot.prev,
        ] {
            word.get();
        }
        slot.state.get();
        slot.seq.get();
        cell.seq.get();
    }
}

/// The processes of an execution.
pub(crate) struct Processes<'q> {
    queue: &'q Arc<Queue>,
    /// None runs before all are known: otherwise time would pass in between.
    starting: Vec<(u32, Arc<Queue>, Body)>,
}

type Body = Box<dyn FnOnce(&Arc<Queue>) + Send>;

impl<'q> Processes<'q> {
    pub(crate) fn of(queue: &'q Arc<Queue>) -> Processes<'q> {
        Processes {
            queue,
            starting: Vec::new(),
        }
    }

    /// Starts a process that is a member already when it begins.
    pub(crate) fn start(&mut self, process: u32, body: impl FnOnce(&Arc<Queue>) + Send + 'static) {
        let own = handle(self.queue);
        world::become_process(process);
        own.member().expect("it can register");
        world::become_process(AUDITOR);
        self.starting.push((process, own, Box::new(body)));
    }

    /// A process that was started begins to produce, before any of them runs.
    pub(crate) fn begin_to_produce(&mut self, process: u32) {
        let started = self.starting.iter().find(|(known, ..)| *known == process);
        let (_, own, _) = started.expect("it was started");
        world::become_process(process);
        let _ = own.produce(0).expect("the queue is open");
        world::become_process(AUDITOR);
    }

    /// Starts a process that registers by its first operation.
    pub(crate) fn start_stranger(&mut self, process: u32, body: impl FnOnce(&Arc<Queue>) + Send + 'static) {
        self.starting.push((process, handle(self.queue), Box::new(body)));
    }

    fn run((process, own, body): (u32, Arc<Queue>, Body)) -> ::loom::thread::JoinHandle<()> {
        let thread = ::loom::thread::Builder::new().stack_size(0x8000).spawn(move || {
            world::become_process(process);
            world::count_steps();
            let ended = catch_unwind(AssertUnwindSafe(|| {
                body(&own);
            }));
            if let Some(reason) = ended.err().filter(|reason| !reason.is::<Died>()) {
                resume_unwind(reason);
            }
            world::note_death();
            // A process that is gone makes no call any more, so its handle must not leave the queue.
            own.forget_membership();
            drop(own);
            world::end();
        });
        thread.expect("a thread can be made")
    }

    /// Runs the first of them alone, until it has ended or died.
    pub(crate) fn run_first(&mut self) {
        let first = self.starting.remove(0);
        Processes::run_together(vec![first]);
    }

    fn run_together(starting: Vec<(u32, Arc<Queue>, Body)>) {
        starting.iter().for_each(|_| world::wake_up());
        let running: Vec<_> = starting.into_iter().map(Processes::run).collect();
        // Meanwhile the auditor takes no part.
        world::end();
        for thread in running {
            thread.join().expect("a process does not panic");
        }
        world::wake_up();
    }

    /// Runs them until all have ended or died, and audits the queue. Returns the items that are still queued.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.finish_and(|| {})
    }

    /// The same, and calls `then` before the audit.
    pub(crate) fn finish_and(self, then: impl FnOnce()) -> Vec<u8> {
        Processes::run_together(self.starting);
        then();
        audit(self.queue)
    }
}

/// Another process's handle.
fn handle(queue: &Queue) -> Arc<Queue> {
    Arc::new(Queue {
        shared: Shared::new(queue.shared.segment.share(), queue.shared.options.clone()),
        leaving: LeavePutOff::new(),
        spin_budgets: [SpinBudget::new(), SpinBudget::new()],
        spare: SpareNote::new(),
    })
}

/// Items that the processes note for the model, outside the memory that it checks.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<(u8, Duration)>>>);

impl Log {
    pub(crate) fn note(&self, item: u8) {
        self.0
            .lock()
            .expect("nobody panics here")
            .push((item, world::elapsed().0));
    }

    pub(crate) fn items(&self) -> Vec<u8> {
        self.0
            .lock()
            .expect("nobody panics here")
            .iter()
            .map(|(item, _)| *item)
            .collect()
    }

    /// When the last item was noted.
    pub(crate) fn last_at(&self) -> Duration {
        self.0
            .lock()
            .expect("nobody panics here")
            .iter()
            .map(|(_, at)| *at)
            .max()
            .unwrap_or_default()
    }
}

/// A wait without a limit.
pub(crate) fn forever() -> Wait<'static> {
    // Nothing is allocated: the closure has no size.
    Wait {
        patience: Patience::Forever,
        interrupted: Box::leak(Box::new(|| false)),
    }
}

/// A call that waits for nothing.
pub(crate) fn at_once() -> Wait<'static> {
    Wait {
        patience: Patience::NoWait,
        interrupted: Box::leak(Box::new(|| false)),
    }
}

/// Puts one byte.
pub(crate) fn put(queue: &Queue, byte: u8) {
    queue.put(&[&[byte]], forever()).expect("a put succeeds");
}

/// Puts so many bytes that they are written without the lock.
pub(crate) fn put_large(queue: &Queue, byte: u8) {
    queue
        .put(&[&[byte; SMALL + 1]], forever())
        .expect("a put succeeds");
}

/// Extends the heap for large payloads, and leaves the queue empty.
pub(crate) fn prepare_heap(queue: &Arc<Queue>) {
    put_large(queue, 0);
    assert_eq!(get(queue), 0);
}

pub(crate) fn try_get(queue: &Arc<Queue>, wait: Wait<'_>) -> Result<u8, Error> {
    let mut buffer = Buffer::default();
    match queue.get(&mut buffer, wait)? {
        Delivery::Copied => Ok(buffer.bytes()[0]),
        Delivery::Lent(lent) => Ok(lent.bytes()[0]),
    }
}

/// Gets an item.
pub(crate) fn get(queue: &Arc<Queue>) -> u8 {
    try_get(queue, forever()).expect("a get succeeds")
}

/// A wait that is longer than anything in the queue takes.
pub(crate) fn patient() -> Wait<'static> {
    Wait {
        patience: Patience::Until(crate::platform::Instant::now() + LONG),
        // Nothing is allocated: the closure has no size.
        interrupted: Box::leak(Box::new(|| false)),
    }
}

/// Takes a large item, if one comes.
pub(crate) fn take_large(queue: &Arc<Queue>) -> Option<Lent> {
    let mut buffer = Buffer::default();
    match queue.get(&mut buffer, patient()) {
        Ok(Delivery::Lent(lent)) => Some(lent),
        Ok(Delivery::Copied) => panic!("it is large"),
        Err(Error::Empty) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Gets and notes items until none has come for as long as anything in the queue may take.
pub(crate) fn get_all(queue: &Arc<Queue>, log: &Log, mut then: impl FnMut(&Queue)) {
    loop {
        match try_get(queue, patient()) {
            Ok(item) => log.note(item),
            Err(Error::Empty) => return,
            Err(error) => panic!("{error}"),
        }
        then(queue);
    }
}

/// Longer than the queue needs for anything.
pub(crate) const LONG: Duration = Duration::from_millis(400);

/// Of the items 1 and 2 the dead process held at most one, and the others came by then.
pub(crate) fn is_whole(lost: &Log, got: &Log, by: Duration) {
    let mut all = [lost.items(), got.items()].concat();
    all.sort_unstable();
    let is_whole = all == [1, 2] || lost.items().is_empty() && matches!(all[..], [1] | [2]);
    assert!(is_whole, "{:?} {:?}", lost.items(), got.items());
    assert!(got.last_at() <= by, "{:?}", got.last_at());
}

/// No slice has ended: every wake-up came.
pub(crate) fn assert_no_slice_ended() {
    assert_eq!(world::elapsed().1, 0, "a wake-up was lost");
}
