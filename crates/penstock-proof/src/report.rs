//! What a run says: progress, the table, and how to come back to a fault.

use std::io::{IsTerminal, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::case::{Death, Report, Request, What};
use crate::operation::OPERATIONS;

/// One row of the table.
pub struct Row {
    pub name: String,
    pub instructions: usize,
    pub kills: u64,
    /// Kills made off the recorded path.
    pub off_path: u64,
    pub longest: Duration,
    pub faults: u64,
    /// Of each kill as recorded: k, and how many items were put or taken by then.
    pub outcomes: Vec<(u32, u32)>,
}

impl Row {
    pub fn new(name: String, instructions: usize) -> Row {
        Row {
            name,
            instructions,
            kills: 0,
            off_path: 0,
            longest: Duration::ZERO,
            faults: 0,
            outcomes: Vec::new(),
        }
    }

    pub fn add(&mut self, death: Death, report: &Report) {
        self.kills += 1;
        self.off_path += u64::from(report.way != 0);
        let stall = Duration::from_micros(report.stall_micros.into());
        self.longest = self.longest.max(stall);
        if report.is_sound == 0 {
            self.faults += 1;
        } else if report.way == 0 && death.asleep == 0 {
            self.outcomes.push((death.k, report.put + report.taken));
        }
    }

    /// The first place from which on something has happened, for good; `Err` where something is undone, or
    /// where one instruction commits two items.
    pub fn commit(&mut self) -> Result<Option<u32>, u32> {
        self.outcomes.sort_unstable();
        let (mut before, mut done) = (0, 0);
        for &(k, now) in &self.outcomes {
            if now < done || (k == before + 1 && now > done + 1) {
                return Err(k);
            }
            (before, done) = (k, now);
        }
        Ok(self.outcomes.iter().find(|(_, done)| *done > 0).map(|(k, _)| *k))
    }

    fn commit_in_words(&mut self, number: impl Fn(u32) -> String) -> String {
        match self.commit() {
            Ok(Some(k)) => number(k),
            Ok(None) => "-".to_owned(),
            Err(_) => "torn".to_owned(),
        }
    }
}

pub fn print(rows: &mut [Row]) {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(9);
    println!(
        "{:width$}  instructions   kills  commit at  off path  longest stall  faults",
        "operation"
    );
    let sum = sum_of(rows);
    for row in rows {
        let commit = row.commit_in_words(|k| k.to_string());
        println!(
            "{:width$}  {:12}  {:6}  {commit:>9}  {:8}  {:10.1} ms  {:6}",
            row.name,
            row.instructions,
            row.kills,
            row.off_path,
            row.longest.as_secs_f64() * 1e3,
            row.faults,
        );
    }
    println!(
        "{:width$}  {:12}  {:6}  {:9}  {:8}  {:10.1} ms  {:6}",
        "all",
        "",
        sum.kills,
        "",
        sum.off_path,
        sum.longest.as_secs_f64() * 1e3,
        sum.faults
    );
}

/// The same as the table of docs/evidence.md.
pub fn print_markdown(rows: &mut [Row]) {
    println!("| operation | instructions | kills | commit at | off path | longest stall | faults |");
    println!("|---|---|---|---|---|---|---|");
    let sum = sum_of(rows);
    for row in rows {
        let commit = row.commit_in_words(|k| with_commas(k.into()));
        print_markdown_row(row, &with_commas(row.instructions as u64), &commit);
    }
    print_markdown_row(&sum, "", "");
}

fn print_markdown_row(row: &Row, instructions: &str, commit: &str) {
    let tenths = row.longest.as_micros().div_ceil(100) as u64;
    println!(
        "| {} | {instructions} | {} | {commit} | {} | {}.{} ms | {} |",
        row.name.trim_start(),
        with_commas(row.kills),
        with_commas(row.off_path),
        with_commas(tenths / 10),
        tenths % 10,
        with_commas(row.faults),
    );
}

fn sum_of(rows: &[Row]) -> Row {
    let mut sum = Row::new("all".to_owned(), 0);
    for row in rows {
        sum.kills += row.kills;
        sum.off_path += row.off_path;
        sum.faults += row.faults;
        sum.longest = sum.longest.max(row.longest);
    }
    sum
}

fn with_commas(number: u64) -> String {
    if number < 1000 {
        return number.to_string();
    }
    format!("{},{:03}", with_commas(number / 1000), number % 1000)
}

/// How far a phase has come: a line that is written over on a terminal, and a line now and then elsewhere.
pub struct Progress {
    what: &'static str,
    all: usize,
    done: usize,
    faults: u64,
    started: Instant,
    told: Instant,
}

impl Progress {
    pub fn new(what: &'static str, all: usize) -> Progress {
        let now = Instant::now();
        Progress {
            what,
            all,
            done: 0,
            faults: 0,
            started: now,
            told: now,
        }
    }

    pub fn step(&mut self, is_sound: bool) {
        self.done += 1;
        self.faults += u64::from(!is_sound);
        let is_terminal = std::io::stdout().is_terminal();
        let pause = Duration::from_millis(if is_terminal { 200 } else { 20_000 });
        if self.told.elapsed() >= pause {
            self.told = Instant::now();
            self.tell(
                if is_terminal { "\r" } else { "" },
                if is_terminal { "" } else { "\n" },
            );
        }
    }

    fn tell(&self, start: &str, end: &str) {
        print!(
            "{start}{}: {} of {}, {} faults, {} s{end}",
            self.what,
            self.done,
            self.all,
            self.faults,
            self.started.elapsed().as_secs()
        );
        let _ = std::io::stdout().flush();
    }

    pub fn end(self) {
        self.tell(if std::io::stdout().is_terminal() { "\r" } else { "" }, "\n");
    }
}

fn write_death(death: Death) -> String {
    format!("{}{}", death.k, if death.asleep == 0 { "" } else { "s" })
}

/// A case by name, as `--replay` takes it: `put-inline@241`, or `put-inline@241+1033` for a death in the
/// recovery. An `s` after a number: asleep in the system call there.
pub fn name_of(request: &Request) -> String {
    let operation = OPERATIONS[request.operation as usize].name;
    if request.what == What::KillInRecovery {
        format!(
            "{operation}@{}+{}",
            write_death(request.first),
            write_death(request.death)
        )
    } else {
        format!("{operation}@{}", write_death(request.death))
    }
}

/// The case of that name: the operation's index, the death in it, and the one in the recovery.
pub fn parse(name: &str) -> Option<(usize, Death, Option<Death>)> {
    let (operation, deaths) = name.split_once('@')?;
    let operation = OPERATIONS.iter().position(|known| known.name == operation)?;
    let death = |text: &str| {
        let (number, asleep) = match text.strip_suffix('s') {
            Some(number) => (number, 1),
            None => (text, 0),
        };
        Some(Death {
            k: number.parse().ok()?,
            asleep,
        })
    };
    match deaths.split_once('+') {
        None => Some((operation, death(deaths)?, None)),
        Some((first, second)) => Some((operation, death(first)?, Some(death(second)?))),
    }
}

/// What lies at an address of this image, which is the victims' as well: file and offset, and function and
/// line if known.
pub fn symbolise(address: u64) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let Some((start, end)) = fields.next().and_then(|range| range.split_once('-')) else {
            continue;
        };
        let number = |text: &str| u64::from_str_radix(text, 16).unwrap_or(0);
        if !(number(start)..number(end)).contains(&address) {
            continue;
        }
        let in_file = fields.nth(1).map_or(0, number);
        let file = fields.nth(2).unwrap_or("?");
        let offset = address - number(start) + in_file;
        let place = format!("{}+{offset:#x}", file.rsplit('/').next().unwrap_or(file));
        let lines = Command::new("addr2line")
            .args([
                "-f",
                "-C",
                "-p",
                "-s",
                "-e",
                file,
                &format!("{:#x}", vaddr(file, offset)),
            ])
            .output();
        return match lines {
            Ok(output) if output.status.success() && !output.stdout.starts_with(b"??") => {
                format!("{place} {}", String::from_utf8_lossy(&output.stdout).trim())
            }
            _ => place,
        };
    }
    format!("{address:#x}")
}

/// The address that an ELF file of 64 bits gives to what lies at an offset in it.
fn vaddr(file: &str, offset: u64) -> u64 {
    let Ok(bytes) = std::fs::read(file) else {
        return offset;
    };
    let at = |place: usize, size: usize| {
        bytes.get(place..place + size).map_or(0, |bytes| {
            bytes
                .iter()
                .rev()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        })
    };
    let (table, size, count) = (at(32, 8) as usize, at(54, 2) as usize, at(56, 2) as usize);
    for header in (0..count).map(|i| table + i * size) {
        let (start, address, length) = (at(header + 8, 8), at(header + 16, 8), at(header + 32, 8));
        if at(header, 4) == 1 && (start..start + length).contains(&offset) {
            return offset - start + address;
        }
    }
    offset
}
