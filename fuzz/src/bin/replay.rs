//! The same body without the fuzzer, for any compiler: runs a corpus, then random changes of its inputs.
//!
//! usage: replay [--mutations N] [--seed S] [--current FILE] FILE|FOLDER...
//!
//! The input at work stands in the file `--current`, so that whatever ends the process leaves it there; run
//! `replay` with that file to see it again, and with PENSTOCK_FUZZ_TRACE=1 to see its steps.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// An input takes about a millisecond; after this it hangs.
const HANG: Duration = Duration::from_secs(20);
const MOST_BYTES: usize = 400;

struct Arguments {
    mutations: u64,
    seed: u64,
    current: Option<PathBuf>,
    corpus: Vec<PathBuf>,
}

fn usage(problem: &str) -> ! {
    eprintln!("replay: {problem}\nusage: replay [--mutations N] [--seed S] [--current FILE] FILE|FOLDER...");
    std::process::exit(2);
}

fn arguments() -> Arguments {
    let now = std::time::UNIX_EPOCH
        .elapsed()
        .map_or(0, |time| time.as_nanos() as u64);
    let mut arguments = Arguments {
        mutations: 0,
        seed: now,
        current: None,
        corpus: Vec::new(),
    };
    let mut given = std::env::args().skip(1);
    while let Some(word) = given.next() {
        let mut value = || {
            given
                .next()
                .unwrap_or_else(|| usage(&format!("{word} needs a value")))
        };
        let number = |text: String| {
            text.parse()
                .unwrap_or_else(|_| usage(&format!("{text} is no number")))
        };
        match word.as_str() {
            "--mutations" => arguments.mutations = number(value()),
            "--seed" => arguments.seed = number(value()),
            "--current" => arguments.current = Some(value().into()),
            _ if word.starts_with('-') => usage(&format!("{word} is unknown")),
            _ => arguments.corpus.push(word.into()),
        }
    }
    arguments
}

/// All files, folders opened, in an order that does not depend on the file system.
fn inputs(paths: &[PathBuf]) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                files.push(entry?.path());
            }
        } else {
            files.push(path.clone());
        }
    }
    files.sort();
    let read = |path: PathBuf| Ok((path.clone(), fs::read(path)?));
    files.into_iter().map(read).collect()
}

/// Splitmix64, so that a seed replays a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// An input with some bytes changed, inserted, removed, or taken from another input.
    fn change(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..1 + self.below(6) {
            let at = self.below(input.len() + 1);
            match self.below(5) {
                0 => input.insert(at, self.next() as u8),
                1 if at < input.len() => {
                    input.remove(at);
                }
                2 => {
                    let other = &corpus[self.below(corpus.len())];
                    let from = self.below(other.len());
                    let count = self.below(16).min(other.len() - from);
                    input.splice(at..at, other[from..from + count].iter().copied());
                }
                3 if at < input.len() => input[at] = [0, 1, 255, 7][self.below(4)],
                _ if at < input.len() => input[at] = self.next() as u8,
                _ => {}
            }
        }
        input.truncate(MOST_BYTES);
        input
    }
}

/// Ends the process if one input takes too long.
fn watch(done: &'static AtomicU64) {
    let mut last = (0, Instant::now());
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = done.load(Ordering::Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            } else if last.1.elapsed() > HANG {
                eprintln!("replay: input {now} hangs");
                std::process::abort();
            }
        }
    });
}

fn run(input: &[u8], current: Option<&Path>) -> io::Result<bool> {
    if let Some(current) = current {
        fs::write(current, input)?;
    }
    Ok(penstock_fuzz::run(input))
}

/// Inputs with a name, in place of the fuzzer's hash, do damage that must be noticed.
fn has_name(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.contains('-'))
}

fn main() -> io::Result<()> {
    static DONE: AtomicU64 = AtomicU64::new(0);
    let arguments = arguments();
    let corpus = inputs(&arguments.corpus)?;
    if corpus.is_empty() {
        usage("no input");
    }
    let current = arguments.current.as_deref();
    if let Some(current) = current {
        println!(
            "If this ends badly, {} is the input that did it.",
            current.display()
        );
    }
    watch(&DONE);
    let start = Instant::now();
    for (path, input) in &corpus {
        let was_told = run(input, current)?;
        if has_name(path) && !was_told {
            eprintln!("replay: the damage of {} was overlooked", path.display());
            std::process::exit(1);
        }
        DONE.fetch_add(1, Ordering::Relaxed);
    }
    println!("{} inputs", corpus.len());
    if arguments.mutations > 0 {
        println!(
            "{} random changes of them, --seed {}",
            arguments.mutations, arguments.seed
        );
        let mut random = Random(arguments.seed);
        let corpus: Vec<Vec<u8>> = corpus.into_iter().map(|(_, input)| input).collect();
        let mut shown = Instant::now();
        for i in 0..arguments.mutations {
            run(&random.change(&corpus), current)?;
            DONE.fetch_add(1, Ordering::Relaxed);
            if io::stdout().is_terminal() && shown.elapsed() > Duration::from_millis(200) {
                print!("\r{:3} %", i * 100 / arguments.mutations);
                io::stdout().flush()?;
                shown = Instant::now();
            }
        }
        if io::stdout().is_terminal() {
            print!("\r     \r");
        }
    }
    println!("No finding, in {:.1} s.", start.elapsed().as_secs_f32());
    Ok(())
}
