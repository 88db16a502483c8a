//! Records histories for some minutes and proves each linearizable: `make test-history`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use penstock_history::mutation::Mutation;
use penstock_history::random::Random;
use penstock_history::run::{Workload, record};
use penstock_history::subject::Fault;
use penstock_history::{History, aspects, search};

const USAGE: &str = "usage: penstock-history [--minutes N] [--seed N]

Records runs of a queue by processes that are killed at random, and proves each history linearizable:
small ones by an exhaustive search, large ones by unique values. Queues broken on purpose and changed
histories must be rejected. The seed says what is done and when. How the operations overlap is up to the
machine, so a rejected history is printed.";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Small,
    Large,
}

/// A kind of histories, and what came out.
struct Row {
    name: &'static str,
    size: Size,
    acknowledged: bool,
    deaths: bool,
    fault: Option<Fault>,
    histories: u64,
    operations: u64,
    overlapping: u64,
    crashed: u64,
    rejected: u64,
    mutants: u64,
    mutants_rejected: u64,
}

impl Row {
    fn new(name: &'static str, size: Size, acknowledged: bool, deaths: bool) -> Row {
        Row {
            name,
            size,
            acknowledged,
            deaths,
            fault: None,
            histories: 0,
            operations: 0,
            overlapping: 0,
            crashed: 0,
            rejected: 0,
            mutants: 0,
            mutants_rejected: 0,
        }
    }

    fn broken(name: &'static str, fault: Fault) -> Row {
        Row {
            fault: Some(fault),
            ..Row::new(name, Size::Large, false, false)
        }
    }

    fn workload(&self, random: &mut Random) -> Workload {
        let mut workload = match self.size {
            Size::Small => Workload::small(random, self.acknowledged, self.deaths),
            Size::Large if self.fault.is_some() => Workload::large(random, false, 0, 10_000),
            Size::Large => {
                let kills = if self.deaths {
                    30 + random.below(100) as u32
                } else {
                    0
                };
                Workload::large(random, self.acknowledged, kills, 300_000)
            }
        };
        if let Some(fault) = self.fault {
            workload.rules.maxsize = fault.showing_maxsize();
            workload.fault = Some((fault, 20));
        }
        workload
    }

    fn is_rejected(&self, history: &History) -> Option<String> {
        match self.size {
            Size::Small => search::check(history)
                .err()
                .map(|stuck| format!("stuck after {:?} of\n{history}", stuck.furthest)),
            Size::Large => aspects::check(history)
                .err()
                .map(|violation| format!("{violation:?}")),
        }
    }

    /// Records and checks one history, and mutants of it. What is wrong with them, if anything is.
    fn run(&mut self, seed: u64) -> Option<String> {
        let mut random = Random::new(seed);
        let workload = self.workload(&mut random);
        let history = record(&workload, random.draw());
        self.histories += 1;
        self.operations += history.events.len() as u64;
        self.overlapping += history.overlapping() as u64;
        self.crashed += history.pending() as u64;
        let rejection = self.is_rejected(&history);
        self.rejected += u64::from(rejection.is_some());
        if self.fault.is_some() {
            return None;
        }
        let mut trouble =
            rejection.map(|why| format!("REJECTED {}: seed {seed}, {workload:?}: {why}", self.name));
        // Deaths and leases may explain what a mutation did to a small acknowledged history, and so may items
        // that come later.
        let is_explained = self.size == Size::Small && (self.acknowledged || history.has_late_items());
        for mutation in Mutation::ALL.iter().filter(|_| !is_explained) {
            if let Some(mutant) = mutation.apply(&history, &mut random) {
                let is_rejected = self.is_rejected(&mutant).is_some();
                self.mutants += 1;
                self.mutants_rejected += u64::from(is_rejected);
                if !is_rejected && self.size == Size::Small {
                    trouble = Some(format!("ACCEPTED {}: {mutation:?} of\n{history}", self.name));
                }
            }
        }
        trouble
    }

    /// At least one of each, and as many of the broken ones as it takes, within reason.
    fn wants_more(&self) -> bool {
        self.histories == 0 || self.fault.is_some() && self.rejected == 0 && self.histories < 100
    }

    fn is_as_it_should_be(&self) -> bool {
        (self.rejected > 0) == self.fault.is_some() && self.mutants_rejected == self.mutants
    }
}

fn main() -> ExitCode {
    let (mut minutes, mut seed) = (3.0, std::process::id() as u64 ^ penstock_history::log::now());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments.next();
        match (argument.as_str(), value.as_deref().map(str::parse::<f64>)) {
            ("--minutes", Some(Ok(value))) if value > 0.0 => minutes = value,
            ("--seed", _) if value.as_deref().is_some_and(|value| value.parse::<u64>().is_ok()) => {
                seed = value.and_then(|value| value.parse().ok()).unwrap_or(seed);
            }
            _ => {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            }
        }
    }
    println!("seed {seed}, {minutes} minutes");
    let mut rows = [
        Row::new("small, plain", Size::Small, false, false),
        Row::new("small, plain, deaths", Size::Small, false, true),
        Row::new("small, acknowledged", Size::Small, true, false),
        Row::new("small, acknowledged, deaths", Size::Small, true, true),
        Row::new("large, plain", Size::Large, false, false),
        Row::new("large, plain, deaths", Size::Large, false, true),
        Row::new("large, acknowledged", Size::Large, true, false),
        Row::new("large, acknowledged, deaths", Size::Large, true, true),
        Row::broken("broken: swaps a pair", Fault::Swaps),
        Row::broken("broken: loses an item", Fault::Loses),
        Row::broken("broken: doubles an item", Fault::Doubles),
        Row::broken("broken: get says empty", Fault::SaysEmpty),
        Row::broken("broken: is_empty too late", Fault::IsEmptyLate),
        Row::broken("broken: exceeds maxsize", Fault::Overfills),
    ];
    let mut random = Random::new(seed);
    let (start, end) = (Instant::now(), Duration::from_secs_f64(minutes * 60.0));
    let mut told = Duration::ZERO;
    let mut troubles = Vec::new();
    while start.elapsed() < end || rows.iter().any(Row::wants_more) {
        for row in &mut rows {
            let batch = match row.size {
                Size::Small => 100,
                Size::Large if row.fault.is_some() && !row.wants_more() => u64::from(random.one_in(20)),
                Size::Large => 1,
            };
            for _ in 0..batch {
                troubles.extend(row.run(random.draw()));
            }
            let elapsed = start.elapsed();
            let is_terminal = std::io::stdout().is_terminal();
            if elapsed - told > Duration::from_secs(if is_terminal { 1 } else { 30 }) {
                told = elapsed;
                let part = (elapsed.as_secs_f64() / end.as_secs_f64()).min(1.0);
                let line = format!(
                    "{:3.0} %  {} wrong, now: {}",
                    part * 100.0,
                    troubles.len(),
                    row.name
                );
                print!(
                    "{}{line:<70}{}",
                    if is_terminal { "\r" } else { "" },
                    if is_terminal { "" } else { "\n" }
                );
                let _ = std::io::stdout().flush();
            }
        }
    }
    println!();
    for trouble in troubles.iter().take(5) {
        println!("{trouble}");
    }
    table(&rows);
    if rows.iter().all(Row::is_as_it_should_be) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn table(rows: &[Row]) {
    println!(
        "{:<28} {:>9} {:>11} {:>11} {:>8} {:>9} {:>17}",
        "", "histories", "operations", "overlapping", "crashed", "rejected", "mutants rejected"
    );
    for row in rows {
        println!(
            "{:<28} {:>9} {:>11} {:>11} {:>8} {:>9} {:>17}{}",
            row.name,
            row.histories,
            row.operations,
            row.overlapping,
            row.crashed,
            row.rejected,
            if row.mutants > 0 {
                format!("{} of {}", row.mutants_rejected, row.mutants)
            } else {
                "-".to_owned()
            },
            if row.is_as_it_should_be() { "" } else { "  WRONG" }
        );
    }
}
