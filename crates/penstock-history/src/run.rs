//! A recorded run: processes, each with some threads, do random operations on one queue, and some are killed.
//!
//! Every worker ends by SIGKILL, in the middle of its work or after it, so that there is one way to die. The
//! recorder then empties the queue, which is part of the history too: what was lost is missed there.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use penstock_core::{Error, Held, Leave, Options, Patience, Queue, Verdict, Wait, age_waiters_after};

use crate::history::{Answer, Call, Death, Event, History, LATER, Rules, Time, Value};
use crate::log::{Log, Writer, now};
use crate::random::Random;
use crate::subject::{Broken, Fault, Penstock, Subject, Waits, dead_letters};

/// The recorder's own operations carry this number; the workers' numbers begin with 1.
const RECORDER: u32 = 0;
/// A run that has not ended by then hangs.
const WATCHDOG: Duration = Duration::from_secs(120);

/// How likely each kind of operation is, in proportion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    pub put: u64,
    pub get: u64,
    /// Waits for a short time, instead of not at all.
    pub waits: u64,
    pub asks: u64,
    pub task_done: u64,
    pub join: u64,
    pub leave: u64,
    pub shutdown: u64,
    pub produce: u64,
    /// Gets by name.
    pub hold: u64,
    /// Puts with a delay, and settlements of items taken by name.
    pub later: u64,
    /// Requeues and purges all dead letters.
    pub letters: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub rules: Rules,
    pub processes: u32,
    pub threads: u32,
    /// Of each thread.
    pub operations: usize,
    pub mix: Mix,
    /// Kinds of payloads, see [`Value`], from the shortest on.
    pub kinds: u64,
    /// Processes killed before their work is done.
    pub kills: u32,
    /// Those killed are replaced by new processes, which do the rest.
    pub replaces: bool,
    /// The longest time from one kill to the next, if they are replaced; otherwise a kill waits for an
    /// operation to begin.
    pub kill_every: Duration,
    /// Only the holder of an item calls `task_done`, so that the history says which item it finished.
    pub is_disciplined: bool,
    /// Operations of each thread before it first calls `task_done`.
    pub silent: usize,
    pub fault: Option<(Fault, u64)>,
}

impl Workload {
    /// Some operations of a few processes, few enough to be searched.
    pub fn small(random: &mut Random, acknowledged: bool, kills: bool) -> Workload {
        let processes = 2 + random.below(3) as u32;
        let threads = if random.one_in(3) { 2 } else { 1 };
        let hands_over = random.one_in(2);
        let mix = Mix {
            put: 4 + random.below(4),
            get: 4 + random.below(4),
            waits: random.below(3),
            asks: random.below(4),
            // If no worker does, the recorder is the first: what was set aside comes back at the end.
            task_done: u64::from(acknowledged) * random.below(5),
            join: u64::from(acknowledged) * random.below(2),
            // A payload that another thread reads in place stays when its process leaves.
            leave: u64::from(acknowledged && threads == 1) * random.below(2),
            shutdown: u64::from(random.one_in(3)),
            produce: u64::from(random.one_in(2)),
            hold: u64::from(acknowledged) * random.below(5),
            later: random.below(3),
            letters: random.below(3),
        };
        Workload {
            rules: Rules {
                maxsize: if random.one_in(2) { 1 + random.below(3) } else { 0 },
                acknowledged,
                max_deliveries: random.below(3) as u8,
                hands_over,
            },
            processes,
            threads,
            operations: ((4 + random.below(3)) / u64::from(threads)) as usize,
            mix,
            kinds: 1 + random.below(8),
            kills: if kills { 1 + random.below(2) as u32 } else { 0 },
            replaces: false,
            kill_every: Duration::ZERO,
            is_disciplined: false,
            silent: 0,
            fault: None,
        }
    }

    /// Many operations. In an acknowledged queue the item of a dead holder comes back. In a plain one the
    /// item is gone, because its payload is small.
    pub fn large(random: &mut Random, acknowledged: bool, kills: u32, operations: usize) -> Workload {
        let threads = 1 + random.below(2) as u32;
        let operations = operations / (4 * threads as usize);
        let is_silent = acknowledged && random.one_in(2);
        Workload {
            rules: Rules {
                maxsize: if random.one_in(2) { 1 + random.below(20) } else { 0 },
                acknowledged,
                max_deliveries: 255,
                hands_over: random.one_in(2),
            },
            processes: 4,
            threads,
            operations,
            mix: Mix {
                put: 10,
                get: 10,
                waits: 3,
                asks: 2,
                task_done: 10 * u64::from(acknowledged),
                join: 0,
                leave: 0,
                shutdown: 0,
                produce: 0,
                hold: 0,
                later: 0,
                letters: 0,
            },
            kinds: if acknowledged || kills == 0 { 8 } else { 6 },
            kills,
            replaces: true,
            kill_every: Duration::from_millis(4),
            is_disciplined: true,
            silent: 0,
            fault: None,
        }
        .silenced(is_silent)
    }

    /// With a first half in which nothing is acknowledged, or as it was. The longest payloads would be given
    /// up then, as at most 64 MiB stay set aside, and the checkers know nothing of that.
    pub fn silenced(self, is_silent: bool) -> Workload {
        if !is_silent {
            return self;
        }
        Workload {
            silent: self.operations / 2,
            kinds: self.kinds.min(7),
            ..self
        }
    }
}

/// A worker process, killed and reaped when dropped.
struct Worker {
    pid: i32,
    process: u32,
    /// Of each thread.
    operations: Vec<usize>,
}

impl Worker {
    fn start(process: u32, operations: &[usize], work: impl FnOnce()) -> Worker {
        // SAFETY: no handler runs between here and the child's work; the child leaves by _exit or by a
        // signal.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            // SAFETY: asks the kernel to end this process with its recorder.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(if ended.is_ok() { 0 } else { 3 }) };
        }
        Worker {
            pid,
            process,
            operations: operations.to_vec(),
        }
    }

    /// Whether it has ended by itself, which no worker does unless it has failed.
    fn has_failed(&mut self) -> bool {
        let mut status = 0;
        // SAFETY: a child of this process that was not reaped.
        let ended = unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) };
        if ended == self.pid {
            self.pid = 0;
        }
        ended != 0
    }

    /// Whether a SIGKILL was its end.
    fn kill(&mut self) -> bool {
        let mut status = 0;
        // SAFETY: a child of this process that was not reaped, so the pid is its own.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, &raw mut status, 0);
        }
        self.pid = 0;
        libc::WIFSIGNALED(status)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.pid != 0 {
            self.kill();
        }
    }
}

struct Recorder<'w> {
    workload: &'w Workload,
    seed: u64,
    queue: Arc<Queue>,
    log: Log,
    workers: Vec<Worker>,
    deaths: Vec<Death>,
    events: Vec<Event>,
    started: u32,
    hangs_at: Time,
}

/// Runs a workload and answers what its callers saw. The seed says what they do and when they are killed. How
/// they overlap is up to the machine.
///
/// # Panics
/// If a worker fails, if the queue's own books do not balance at the end, or if the run hangs.
pub fn record(workload: &Workload, seed: u64) -> History {
    let rules = workload.rules;
    let overfills = matches!(workload.fault, Some((Fault::Overfills, _)));
    let queue = Queue::create(&Options {
        maxsize: if overfills { 0 } else { rules.maxsize },
        max_bytes: None,
        soft_bytes: 0,
        acknowledged: rules.acknowledged,
        max_deliveries: rules.max_deliveries,
    })
    .expect("a queue");
    // So that the recorder becomes a participant before any worker.
    queue.statistics().expect("a new queue");
    let processes = workload.processes + if workload.replaces { workload.kills } else { 0 };
    let threads = (processes * workload.threads) as usize;
    let mut recorder = Recorder {
        workload,
        seed,
        queue,
        log: Log::new(threads, workload.operations),
        workers: Vec::new(),
        deaths: Vec::new(),
        events: Vec::new(),
        started: 0,
        hangs_at: now() + WATCHDOG.as_nanos() as u64,
    };
    for _ in 0..workload.processes {
        recorder.start(&vec![workload.operations; workload.threads as usize]);
    }
    recorder.await_until(|recorder| recorder.log.ready() >= u64::from(workload.processes * workload.threads));
    recorder.log.go();
    recorder.kill_some();
    recorder.await_until(|recorder| {
        recorder.workers.iter().all(|worker| {
            recorder
                .threads_of(worker.process)
                .all(|thread| recorder.log.is_done(thread))
        })
    });
    // Now no process holds an item of a plain queue. So it can be emptied while all putters and getters still
    // live: what they might have forgotten to give back does not come back by their death.
    if !rules.acknowledged {
        recorder.drain();
        recorder.check_nothing_is_in_use();
    }
    while !recorder.workers.is_empty() {
        recorder.kill(0);
    }
    if rules.acknowledged {
        recorder.drain();
        recorder.check_nothing_is_in_use();
    }
    recorder.finish()
}

impl Recorder<'_> {
    /// Starts a process, whose threads do so many operations each.
    fn start(&mut self, operations: &[usize]) {
        self.started += 1;
        let (process, this) = (self.started, &*self);
        let worker = Worker::start(process, operations, || {
            // The waiters of every second process have aged when they go to sleep: they are handed items and
            // places, beside processes whose waiters have not aged.
            if this.workload.rules.hands_over && process % 2 == 0 {
                age_waiters_after(Duration::ZERO);
            }
            let queue = Penstock::new(this.queue.clone());
            let subject: &dyn Subject = match this.workload.fault {
                Some((fault, every)) => &Broken::new(queue, fault, this.workload.rules.maxsize, every),
                None => &queue,
            };
            std::thread::scope(|scope| {
                for (thread, operations) in operations.iter().enumerate() {
                    scope.spawn(move || {
                        let work = || this.work(subject, process, thread, *operations);
                        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
                            // SAFETY: ends this process at once.
                            unsafe { libc::_exit(3) };
                        }
                        // What a worker has taken comes back when it is killed, not before. No thread ends
                        // before the others, because what it has in hand would be set aside when another
                        // thread asks for more.
                        loop {
                            std::thread::park();
                        }
                    });
                }
            });
        });
        self.workers.push(worker);
    }

    fn work(&self, subject: &dyn Subject, process: u32, thread: usize, operations: usize) {
        let log_of = self.threads_of(process).start + thread;
        let mut caller = Caller {
            workload: self.workload,
            subject,
            random: Random::new(self.seed ^ (u64::from(process) << 32 | thread as u64) << 8),
            writer: self.log.writer(log_of),
            next_value: (u64::from(process) << 8 | thread as u64) << 24,
            holds: 0,
            produces: 0,
            named: Vec::new(),
            silent: self
                .workload
                .silent
                .saturating_sub(self.workload.operations - operations),
        };
        self.log.await_go();
        for _ in 0..operations {
            caller.pause();
            caller.do_something();
            caller.silent = caller.silent.saturating_sub(1);
        }
        self.log.note_done(log_of);
    }

    /// The logs of a process.
    fn threads_of(&self, process: u32) -> std::ops::Range<usize> {
        let threads = self.workload.threads as usize;
        (process as usize - 1) * threads..process as usize * threads
    }

    fn await_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            std::thread::yield_now();
            let failed = self
                .workers
                .iter_mut()
                .find_map(|worker| worker.has_failed().then_some(worker.process));
            assert!(failed.is_none(), "worker {failed:?} has failed");
            assert!(now() < self.hangs_at, "it hangs: {:?}", self.queue.statistics());
        }
    }

    fn kill_some(&mut self) {
        let mut random = Random::new(self.seed ^ 0x6b69_6c6c);
        for _ in 0..self.workload.kills {
            if self.workload.replaces {
                std::thread::sleep(
                    self.workload
                        .kill_every
                        .mul_f64(random.below(1000) as f64 / 1000.0),
                );
            }
            if self.workers.is_empty() {
                return;
            }
            let victim = random.below(self.workers.len() as u64) as usize;
            if !self.workload.replaces {
                self.await_operation(victim, &mut random);
            }
            let (process, mut left) = (
                self.workers[victim].process,
                self.workers[victim].operations.clone(),
            );
            self.kill(victim);
            if self.workload.replaces {
                for (left, thread) in left.iter_mut().zip(self.threads_of(process)) {
                    *left -= self.log.read(thread, process, 0).len();
                }
                self.start(&left);
            }
        }
    }

    /// Waits until one of the worker's few operations has begun, and a little longer.
    fn await_operation(&self, worker: usize, random: &mut Random) {
        let threads = self.threads_of(self.workers[worker].process);
        let thread = threads.start + random.below(threads.len() as u64) as usize;
        let operation = random.below(self.workload.operations as u64) as usize;
        while !self.log.has_begun(thread, operation) && !self.log.is_done(thread) && now() < self.hangs_at {
            std::hint::spin_loop();
        }
        for _ in 0..random.below(40) {
            std::hint::spin_loop();
        }
    }

    /// Kills a worker, reads its log, and waits until what it held has come back.
    fn kill(&mut self, place: usize) {
        let mut worker = self.workers.swap_remove(place);
        let killed = now();
        assert!(worker.kill(), "worker {} has failed", worker.process);
        let was_handed = self.is_any_handed();
        self.queue.statistics().expect("a queue that is not damaged");
        let (process, swept) = (worker.process, now());
        self.deaths.push(Death {
            process,
            killed,
            swept,
            was_handed,
        });
        for thread in self.threads_of(process) {
            self.events.extend(self.log.read(thread, process, swept));
        }
        self.events.push(Event {
            process,
            thread: 0,
            call: Call::Sweep,
            answer: Some(Answer::Done),
            invoked: killed,
            responded: swept,
        });
    }

    /// Whether a getter was handed an item and does not come back for it. One that lives mostly does at once.
    fn is_any_handed(&self) -> bool {
        (0..100).all(|_| {
            std::thread::yield_now();
            self.queue.handed_getters() > 0
        })
    }

    /// Empties the queue, and finishes what the workers have left unfinished. The join comes first, so that
    /// what was set aside comes back.
    fn drain(&mut self) {
        let subject = Penstock::new(self.queue.clone());
        // A get and a task_done for each item, in the worst case.
        let log = Log::new(1, 2 * self.log.lines() + 8);
        let acknowledged = self.workload.rules.acknowledged;
        // No process delays an item any more.
        while self
            .queue
            .statistics()
            .expect("a queue that is not damaged")
            .delayed
            > 0
        {
            std::thread::sleep(Duration::from_nanos(LATER));
        }
        let mut writer = log.writer(0);
        writer.record(Call::Join, || subject.join());
        while let Answer::Got(_) = writer.record(Call::Get, || subject.get(Waits::No)) {
            if acknowledged {
                writer.record(Call::TaskDone, || subject.task_done());
            }
        }
        while acknowledged
            && !self.workload.is_disciplined
            && writer.record(Call::TaskDone, || subject.task_done()) == Answer::Done
        {}
        writer.record(Call::Join, || subject.join());
        writer.record(Call::Len, || Answer::Count(subject.len()));
        self.events.extend(log.read(0, RECORDER, Time::MAX));
    }

    /// An emptied queue has no memory in use: a put of more than there can be is refused with the number.
    fn check_nothing_is_in_use(&self) {
        if self.queue.is_shut_down() {
            let check = self.queue.check().expect("a queue that is not damaged");
            assert_eq!(
                (check.findings.len(), check.ready, check.claimed),
                (0, 0, 0),
                "{check:?}"
            );
            return;
        }
        static ZEROS: [u8; 1 << 26] = [0; 1 << 26];
        let limit = self.queue.options().max_bytes.unwrap_or(u64::MAX);
        let parts = vec![ZEROS.as_slice(); (limit >> 26) as usize + 1];
        let wait = Wait {
            patience: Patience::NoWait,
            interrupted: &mut || false,
        };
        match self.queue.put(&parts, wait) {
            Err(Error::OutOfMemory { used, .. }) => {
                let letters = dead_letters(&self.queue).len();
                assert!(
                    used == 0 || letters > 0,
                    "{used} bytes are in use in an empty queue"
                );
            }
            other => panic!("a put of {} times 64 MiB: {other:?}", parts.len()),
        }
    }

    /// Compares the queue's own books.
    fn finish(self) -> History {
        let statistics = self.queue.statistics().expect("a queue that is not damaged");
        let dead_letters = dead_letters(&self.queue);
        assert_eq!(statistics.queued, 0, "{statistics:?}");
        assert_eq!(statistics.unfinished, 0, "{statistics:?}");
        assert_eq!(statistics.participants, 1, "{statistics:?}");
        assert_eq!(
            statistics.dead_letters,
            dead_letters.len() as u64,
            "{statistics:?}"
        );
        assert_eq!(
            statistics.puts,
            statistics.gets + statistics.dead_letters + statistics.discarded,
            "{statistics:?}"
        );
        History {
            rules: self.workload.rules,
            events: self.events,
            deaths: self.deaths,
            dead_letters: Some(dead_letters),
        }
    }
}

/// One thread at work.
struct Caller<'w> {
    workload: &'w Workload,
    subject: &'w dyn Subject,
    random: Random,
    writer: Writer<'w>,
    next_value: u64,
    /// Items taken and not finished, of a disciplined caller.
    holds: u32,
    /// Blocks that it has begun and not ended.
    produces: u32,
    /// Operations until it calls `task_done`.
    silent: usize,
    /// Items taken by name.
    named: Vec<(Value, Held)>,
}

impl Caller<'_> {
    /// So that the operations of different threads meet in all ways.
    fn pause(&mut self) {
        // Where there are many operations, the scheduler interrupts them often enough. It must interrupt them
        // and not the pauses, because then a kill hits an operation.
        if self.random.one_in(if self.workload.replaces { 200 } else { 8 }) {
            std::thread::yield_now();
        } else if self.random.one_in(3) {
            for _ in 0..self.random.below(200) {
                std::hint::spin_loop();
            }
        }
    }

    fn do_something(&mut self) {
        let Mix {
            put,
            get,
            waits,
            asks,
            mut task_done,
            join,
            leave,
            shutdown,
            produce,
            hold,
            later,
            letters,
        } = self.workload.mix;
        if self.silent > 0 {
            task_done = 0;
        } else if self.workload.is_disciplined {
            if self.holds >= 3 {
                return self.finish_one();
            }
            task_done *= u64::from(self.holds > 0);
        }
        let (subject, time) = (self.subject, Duration::from_micros(self.random.below(300)));
        let end = 2 * u64::from(self.produces > 0);
        match self.random.weighted(&[
            put, get, waits, waits, asks, asks, asks, task_done, join, leave, shutdown, produce, end, hold,
            hold, hold, later, letters, letters,
        ]) {
            0 => self.put(Waits::No),
            1 => self.get(Waits::No),
            2 => self.put(Waits::For(time)),
            3 => self.get(Waits::For(time)),
            4 => drop(self.writer.record(Call::Len, || Answer::Count(subject.len()))),
            5 => drop(
                self.writer
                    .record(Call::IsEmpty, || Answer::Is(subject.is_empty())),
            ),
            6 => drop(self.writer.record(Call::IsFull, || Answer::Is(subject.is_full()))),
            7 => self.finish_one(),
            8 => drop(self.writer.record(Call::Join, || subject.join())),
            13 => self.hold(Waits::No),
            14 => self.settle(),
            16 => {
                let value = self.new_value();
                self.writer
                    .record(Call::PutLater(value), || subject.put_later(value));
            }
            17 => drop(self.writer.record(Call::Requeue, || subject.requeue())),
            18 => drop(self.writer.record(Call::Purge, || subject.purge())),
            15 => self.hold(Waits::For(time)),
            10 => {
                let is_immediate = self.random.one_in(2);
                self.writer.record(Call::ShutDown { is_immediate }, || {
                    subject.shut_down(is_immediate)
                });
            }
            11 => {
                let expect = self.random.below(4) as u32;
                let call = Call::Produce { expect };
                let answer = self.writer.record(call, || subject.produce(expect));
                self.produces += u32::from(answer == Answer::Done);
            }
            12 => {
                self.produces -= 1;
                self.writer.record(Call::EndProducing, || subject.end_producing());
            }
            _ => {
                let how = if self.random.one_in(2) {
                    Leave::Clean
                } else {
                    Leave::Crashed
                };
                self.writer.record(Call::Leave(how), || subject.leave(how));
                if how == Leave::Crashed {
                    // They are in its hand no more, and may come to it again under other names.
                    self.named.clear();
                }
            }
        }
    }

    fn new_value(&mut self) -> Value {
        let value = Value::new(self.next_value, self.random.below(self.workload.kinds));
        self.next_value += 1;
        value
    }

    fn put(&mut self, waits: Waits) {
        let value = self.new_value();
        let subject = self.subject;
        self.writer.record(Call::Put(value), || subject.put(value, waits));
    }

    fn get(&mut self, waits: Waits) {
        let subject = self.subject;
        if let Answer::Got(_) = self.writer.record(Call::Get, || subject.get(waits)) {
            self.holds += u32::from(self.workload.rules.acknowledged);
        }
    }

    fn hold(&mut self, waits: Waits) {
        let (subject, mut taken) = (self.subject, None);
        let answer = self.writer.record(Call::Hold, || {
            let (answer, held) = subject.hold(waits);
            taken = held;
            answer
        });
        if let (Answer::Got(value), Some(held)) = (answer, taken) {
            self.named.push((value, held));
        }
    }

    /// Settles one of the items that it has by name, if it has any.
    fn settle(&mut self) {
        if self.named.is_empty() {
            return;
        }
        let place = self.random.below(self.named.len() as u64) as usize;
        let (value, held) = self.named.swap_remove(place);
        let verdicts = [
            Verdict::Done,
            Verdict::Released,
            Verdict::Failed,
            Verdict::Rejected,
        ];
        let verdict = verdicts[self.random.below(4) as usize];
        let subject = self.subject;
        let goes_back = matches!(verdict, Verdict::Released | Verdict::Failed);
        let is_later = goes_back && self.workload.mix.later > 0 && self.random.one_in(2);
        let call = match is_later {
            true => Call::SettleLater(value, verdict),
            false => Call::Settle(value, verdict),
        };
        self.writer
            .record(call, || subject.settle(&held, verdict, is_later));
    }

    fn finish_one(&mut self) {
        let subject = self.subject;
        self.writer.record(Call::TaskDone, || subject.task_done());
        self.holds = self.holds.saturating_sub(1);
    }
}
