//! The run: what is recorded, which deaths are died, in which order.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use crate::budget;
use crate::case::{Death, Report, Request, What};
use crate::crew::Crew;
use crate::operation::OPERATIONS;
use crate::path::{Paths, Step, is_certain};
use crate::report::{self, Progress, Row};
use crate::trace;

const USAGE: &str = "\
usage: kill [--only NAME] [--sample NUMBER [--seed NUMBER]] [--replay CASE] [--jobs NUMBER] [--markdown]
            [--no-recoveries]
       kill --count

Kills a process at every instruction of every operation, or of those whose name begins with NAME; or at
NUMBER places chosen at random; or in the one CASE that a fault has named. With --markdown the table is that
of docs/evidence.md. With --no-recoveries no second process dies in the recovery, which takes most of the
time.

With --count it kills none: it prints the instructions of the fast paths beside their budgets, and fails if
one is exceeded.";

/// Cases at once. Most of them sleep.
const JOBS: usize = 48;
/// Recordings at once.
const RECORDINGS: usize = 2;
/// A death that held the survivors up for so long left the lock taken.
const IN_SECTION: u32 = 45_000;
/// The longest that a survivor may be held up, in microseconds: a slice of the watcher's, one more for each
/// further sleeper that died, and what a machine that does this alone needs for the rest.
const LONG: u32 = 300_000;
/// Faults told in full.
const TOLD: usize = 20;

#[derive(Default)]
struct Arguments {
    only: String,
    sample: Option<usize>,
    seed: Option<u64>,
    replay: Option<String>,
    jobs: Option<usize>,
    count: bool,
    markdown: bool,
    no_recoveries: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
        let mut arguments = Arguments::default();
        while let Some(word) = words.next() {
            let flag = match word.as_str() {
                "--count" => Some(&mut arguments.count),
                "--markdown" => Some(&mut arguments.markdown),
                "--no-recoveries" => Some(&mut arguments.no_recoveries),
                _ => None,
            };
            if let Some(flag) = flag {
                *flag = true;
                continue;
            }
            let value = words.next()?;
            match word.as_str() {
                "--only" => arguments.only = value,
                "--sample" => arguments.sample = Some(value.parse().ok()?),
                "--seed" => arguments.seed = Some(value.parse().ok()?),
                "--replay" => arguments.replay = Some(value),
                "--jobs" => arguments.jobs = Some(value.parse().ok().filter(|jobs| *jobs > 0)?),
                _ => return None,
            }
        }
        Some(arguments)
    }
}

pub fn main() -> ExitCode {
    let Some(arguments) = Arguments::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let replayed = match arguments.replay.as_deref().map(report::parse) {
        Some(None) => {
            eprintln!("There is no such case. {USAGE}");
            return ExitCode::from(2);
        }
        Some(case) => case,
        None => None,
    };
    if let Err(reason) = trace::try_out() {
        println!("Skipped: {reason}");
        return ExitCode::SUCCESS;
    }
    let mut proof = Proof {
        crew: Crew::new(arguments.jobs.unwrap_or(JOBS)),
        rows: BTreeMap::new(),
        faults: Vec::new(),
        slow: Vec::new(),
    };
    if arguments.count {
        return proof.count();
    }
    let started = Instant::now();
    match (replayed, arguments.sample) {
        (Some(case), _) => proof.replay(case),
        (None, Some(number)) => proof.sample(&arguments.only, number, arguments.seed),
        (None, None) => proof.everything(&arguments.only, !arguments.no_recoveries),
    }
    proof.judge_stalls();
    let code = proof.conclude(if arguments.markdown {
        report::print_markdown
    } else {
        report::print
    });
    println!("{} s", started.elapsed().as_secs());
    code
}

struct Proof {
    crew: Crew,
    /// By place of the path, so that operations come before recoveries.
    rows: BTreeMap<u32, Row>,
    faults: Vec<(Request, String)>,
    /// Cases that held a survivor up for long, while many others ran.
    slow: Vec<(Request, u32)>,
}

const fn request(operation: usize, what: What) -> Request {
    let nowhere = Death { k: 0, asleep: 0 };
    Request {
        id: 0,
        operation: operation as u32,
        path: operation as u32 * 2,
        recovery: 0,
        what,
        first: nowhere,
        death: nowhere,
    }
}

/// The place of the path on which it kills.
fn row_of(request: &Request) -> u32 {
    match request.what {
        What::RecordRecovery | What::KillInRecovery => request.recovery,
        What::RecordOperation | What::KillInOperation => request.path,
    }
}

/// Every death on a path: before each instruction, at the end, and in each sleep.
fn deaths(path: &[Step]) -> impl Iterator<Item = Death> {
    path.iter().enumerate().flat_map(|(k, step)| {
        (0..=u32::from(step.may_sleep != 0)).map(move |asleep| Death { k: k as u32, asleep })
    })
}

impl Proof {
    // --------------------------------------------------------------------------------------------- recording

    /// Records the paths of operations, each twice, and says where the two differ.
    fn record(&mut self, operations: &[usize]) {
        let requests: Vec<Request> = operations
            .iter()
            .flat_map(|operation| {
                let first = request(*operation, What::RecordOperation);
                let again = Request {
                    path: first.path + 1,
                    ..first
                };
                [first, again]
            })
            .collect();
        self.perform("recording the operations", requests);
        for operation in operations {
            let place = *operation as u32 * 2;
            let (path, again) = (
                self.crew.paths.get(place as usize),
                self.crew.paths.get(place as usize + 1),
            );
            let name = OPERATIONS[*operation].name;
            let same = path
                .iter()
                .zip(again)
                .take_while(|(a, b)| a.instruction == b.instruction)
                .count();
            if same < path.len().max(again.len()) {
                println!(
                    "{name}: two recordings of {} and {} instructions part after {same}, at {}",
                    path.len().saturating_sub(1),
                    again.len().saturating_sub(1),
                    path.get(same)
                        .map_or_else(String::new, |step| report::symbolise(step.instruction))
                );
            }
            self.rows
                .insert(place, Row::new(name.to_owned(), path.len().saturating_sub(1)));
        }
    }

    /// Records recoveries after first deaths; answers the requests to kill in them, without their deaths.
    fn record_recoveries(&mut self, firsts: &[(usize, Death)]) -> Vec<Request> {
        let mut next = 2 * OPERATIONS.len() as u32;
        let requests: Vec<Request> = firsts
            .iter()
            .map(|(operation, first)| {
                next += 1;
                Request {
                    recovery: next,
                    first: *first,
                    ..request(*operation, What::RecordRecovery)
                }
            })
            .collect();
        self.perform("recording the recoveries", requests.clone());
        for recovery in &requests {
            let length = self.crew.paths.get(recovery.recovery as usize).len();
            let name = format!(
                "  recovery after {}",
                report::name_of(&Request {
                    what: What::KillInOperation,
                    death: recovery.first,
                    ..*recovery
                })
            );
            self.rows
                .insert(recovery.recovery, Row::new(name, length.saturating_sub(1)));
        }
        requests
            .into_iter()
            .map(|recovery| Request {
                what: What::KillInRecovery,
                ..recovery
            })
            .collect()
    }

    // ------------------------------------------------------------------------------------------------ runs

    fn perform(&mut self, what: &'static str, requests: Vec<Request>) -> Vec<(Request, Report)> {
        let mut progress = Progress::new(what, requests.len());
        let mut done = Vec::with_capacity(requests.len());
        let (rows, faults, slow) = (&mut self.rows, &mut self.faults, &mut self.slow);
        // A path recorded under load differs from the path met later: the process waits longer, and is
        // scheduled otherwise.
        let is_recording = requests
            .first()
            .is_some_and(|request| matches!(request.what, What::RecordOperation | What::RecordRecovery));
        let at_once = if is_recording { RECORDINGS } else { usize::MAX };
        self.crew.run(requests, at_once, |request, report| {
            let is_sound = report.is_sound != 0;
            progress.step(is_sound);
            let is_kill = matches!(request.what, What::KillInOperation | What::KillInRecovery);
            if let Some(row) = rows.get_mut(&row_of(request)).filter(|_| is_kill) {
                row.add(request.death, report);
            }
            if !is_sound {
                if faults.len() < TOLD {
                    println!("{}: {}", report::name_of(request), report.text());
                }
                faults.push((*request, report.text()));
            } else if report.stall_micros > LONG {
                slow.push((*request, report.stall_micros));
            }
            done.push((*request, *report));
        });
        progress.end();
        done
    }

    fn kills_in(&self, operation: usize) -> Vec<Request> {
        let kill = request(operation, What::KillInOperation);
        deaths(self.crew.paths.get(kill.path as usize))
            .map(|death| Request { death, ..kill })
            .collect()
    }

    fn kills_in_recovery(&self, kill: Request) -> Vec<Request> {
        deaths(self.crew.paths.get(kill.recovery as usize))
            .map(|death| Request { death, ..kill })
            .collect()
    }

    fn everything(&mut self, only: &str, has_recoveries: bool) {
        let operations = chosen(only);
        self.record(&operations);
        let kills = operations
            .iter()
            .flat_map(|operation| self.kills_in(*operation))
            .collect();
        let done = self.perform("killing in the operations", kills);
        let mut firsts = Vec::new();
        for operation in operations.into_iter().filter(|_| has_recoveries) {
            firsts.extend(
                first_deaths(operation, &done, self.crew.paths)
                    .into_iter()
                    .map(|death| (operation, death)),
            );
        }
        let recoveries = self.record_recoveries(&firsts);
        let kills = recoveries
            .into_iter()
            .flat_map(|recovery| self.kills_in_recovery(recovery))
            .collect();
        self.perform("killing in the recoveries", kills);
    }

    fn sample(&mut self, only: &str, number: usize, seed: Option<u64>) {
        let seed = seed.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.map_or(0, |now| now.as_nanos() as u64)
        });
        println!("seed {seed}");
        let mut random = Random(seed);
        let operations = chosen(only);
        self.record(&operations);
        let mut kills: Vec<Request> = operations
            .iter()
            .flat_map(|operation| self.kills_in(*operation))
            .collect();
        // One in four dies in a recovery after one of a few first deaths.
        let certain: Vec<Request> = kills
            .iter()
            .filter(|kill| {
                let path = self.crew.paths.get(kill.path as usize);
                !OPERATIONS[kill.operation as usize].is_rebuilt_slowly
                    && is_certain(path, kill.death.k as usize)
            })
            .copied()
            .collect();
        let firsts: Vec<(usize, Death)> = (0..if certain.is_empty() { 0 } else { 4 })
            .map(|_| random.choose(&certain))
            .map(|kill| (kill.operation as usize, kill.death))
            .collect();
        random.shuffle(&mut kills);
        kills.truncate(number - number / 4);
        let mut second: Vec<Request> = self
            .record_recoveries(&firsts)
            .into_iter()
            .flat_map(|recovery| self.kills_in_recovery(recovery))
            .collect();
        random.shuffle(&mut second);
        second.truncate(number / 4);
        kills.extend(second);
        self.perform("killing", kills);
    }

    /// Records the operations of the fast paths, and holds the sums of their instructions against the
    /// budgets.
    fn count(&mut self) -> ExitCode {
        let operations: Vec<usize> = (0..OPERATIONS.len())
            .filter(|i| {
                budget::BUDGETS
                    .iter()
                    .any(|budget| budget.operations.contains(&OPERATIONS[*i].name))
            })
            .collect();
        self.record(&operations);
        if let Some((request, text)) = self.faults.first() {
            println!("{}: not recorded: {text}", report::name_of(request));
            return ExitCode::FAILURE;
        }
        let count = |name: &str| {
            let operation = OPERATIONS.iter().position(|known| known.name == name);
            budget::Count::of(operation.map_or(&[], |index| self.crew.paths.get(2 * index)))
        };
        if budget::judge(count) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    fn replay(&mut self, (operation, death, second): (usize, Death, Option<Death>)) {
        self.record(&[operation]);
        match second {
            None => {
                let kill = request(operation, What::KillInOperation);
                self.perform("killing", vec![Request { death, ..kill }]);
            }
            Some(second) => {
                let kills = self
                    .record_recoveries(&[(operation, death)])
                    .into_iter()
                    .map(|kill| Request {
                        death: second,
                        ..kill
                    })
                    .collect();
                self.perform("killing", kills);
            }
        }
    }

    // ------------------------------------------------------------------------------------------- the verdict

    /// Repeats alone each case that held a survivor up for long. A case that is as slow twice more is a
    /// fault.
    fn judge_stalls(&mut self) {
        let slow = std::mem::take(&mut self.slow);
        let faults_before = self.faults.len();
        for (request, micros) in &slow {
            let mut stalls = vec![*micros];
            let mut fault = None;
            while stalls.len() < 3 && fault.is_none() {
                let mut answer = Report::failed(0, "the case was not repeated");
                self.crew.run([*request], 1, |_, report| answer = *report);
                if answer.is_sound == 0 {
                    fault = Some(answer.text());
                } else if answer.stall_micros > LONG {
                    stalls.push(answer.stall_micros);
                } else {
                    break;
                }
            }
            if let [first, again, once_more] = stalls.as_slice() {
                fault = Some(format!(
                    "a survivor was held up for {} ms, and alone for {} and {} ms",
                    first / 1000,
                    again / 1000,
                    once_more / 1000
                ));
            }
            if let Some(text) = fault {
                self.faults.push((*request, text));
                if let Some(row) = self.rows.get_mut(&row_of(request)) {
                    row.faults += 1;
                }
            }
        }
        if !slow.is_empty() {
            println!(
                "{} cases held a survivor up for more than {} ms; repeated alone, {} are faults",
                slow.len(),
                LONG / 1000,
                self.faults.len() - faults_before
            );
        }
    }

    fn conclude(mut self, print: fn(&mut [Row])) -> ExitCode {
        self.rows.retain(|_, row| row.kills > 0);
        let mut is_proven = self.faults.is_empty();
        let mut rows: Vec<Row> = std::mem::take(&mut self.rows).into_values().collect();
        print(&mut rows);
        for row in &mut rows {
            if let Err(k) = row.commit() {
                is_proven = false;
                println!(
                    "{}: at {k} an item is undone again, or two are committed at once",
                    row.name
                );
            }
        }
        for (request, text) in self.faults.iter().take(TOLD) {
            let place = row_of(request);
            let name = report::name_of(request);
            println!("\n{name}: {text}");
            if let Some(step) = self.crew.paths.get(place as usize).get(request.death.k as usize) {
                println!("  died at {}", report::symbolise(step.instruction));
            }
            println!("  again:  make test-kill ARGS='--replay {name}'");
        }
        if is_proven {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

fn chosen(only: &str) -> Vec<usize> {
    (0..OPERATIONS.len())
        .filter(|i| OPERATIONS[*i].name.starts_with(only))
        .collect()
}

/// After which deaths in an operation a second one is tried: some inside the critical section, evenly spread,
/// and if the operation says so one after it, with all that the victim holds then.
fn first_deaths(operation: usize, done: &[(Request, Report)], paths: &Paths) -> Vec<Death> {
    let most = OPERATIONS[operation].second_deaths;
    if most == 0 {
        return Vec::new();
    }
    let mut inside: Vec<u32> = done
        .iter()
        .filter(|(request, report)| {
            request.operation as usize == operation
                && request.death.asleep == 0
                && report.way == 0
                && report.stall_micros >= IN_SECTION
                && is_certain(paths.get(request.path as usize), request.death.k as usize)
        })
        .map(|(request, _)| request.death.k)
        .collect();
    inside.sort_unstable();
    let last = done
        .iter()
        .filter(|(request, _)| request.operation as usize == operation && OPERATIONS[operation].is_swept)
        .map(|(request, _)| request.death.k)
        .max();
    let spread = (0..most).filter_map(|i| inside.get((2 * i + 1) * inside.len() / (2 * most)));
    let mut deaths: Vec<u32> = spread.copied().chain(last).collect();
    deaths.dedup();
    deaths.into_iter().map(|k| Death { k, asleep: 0 }).collect()
}

/// Splitmix64, so that a seed replays a sample.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn choose<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for i in (1..all.len()).rev() {
            all.swap(i, self.below(i + 1));
        }
    }
}
