//! The instructions of the fast paths, summed, beside what they may be.
//!
//! A sum counts every instruction between the markers, in one process, with nothing to wait for: the same on
//! every run of the same build. The C library copies payloads by instructions that it chooses by the
//! processor, so its part is shown apart and not judged. The references are of rustc 1.95; another compiler
//! makes other code.

use std::ops::Range;

use crate::path::Step;

/// Operations that make up the path of one message, and what they took when the budget was set.
pub struct Budget {
    pub operations: &'static [&'static str],
    pub reference: usize,
}

/// How far a sum may lie above its reference, in percent.
pub const PERCENT: usize = 4;

pub const BUDGETS: [Budget; 3] = [
    Budget {
        operations: &["put-inline", "get-inline"],
        reference: 778,
    },
    Budget {
        operations: &["put-object-in-a-kept-one", "get-object"],
        reference: 900,
    },
    Budget {
        operations: &["put-inline-acknowledged", "get-inline-acknowledged", "task-done"],
        reference: 1189,
    },
];

impl Budget {
    pub const fn limit(&self) -> usize {
        self.reference * (100 + PERCENT) / 100
    }
}

/// Instructions of an operation.
#[derive(Clone, Copy)]
pub struct Count {
    pub all: usize,
    /// Those outside of this program's own image.
    pub library: usize,
}

impl Count {
    /// Counts a path, the place behind its last instruction left out.
    pub fn of(path: &[Step]) -> Count {
        let own = own_image();
        let steps = &path[..path.len().saturating_sub(1)];
        Count {
            all: steps.len(),
            library: steps
                .iter()
                .filter(|step| !own.iter().any(|range| range.contains(&step.instruction)))
                .count(),
        }
    }
}

/// Where this program's own file lies in memory.
fn own_image() -> Vec<Range<u64>> {
    let name = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let name = name.to_string_lossy();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines()
        .filter(|line| line.ends_with(&*name))
        .filter_map(|line| {
            let (start, end) = line.split_once(' ')?.0.split_once('-')?;
            Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
        })
        .collect()
}

/// Prints each sum beside its budget, given the count of an operation by its name. Answers whether all are
/// kept.
pub fn judge(count: impl Fn(&str) -> Count) -> bool {
    let names: Vec<String> = BUDGETS
        .iter()
        .map(|budget| budget.operations.join(" + "))
        .collect();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    println!(
        "{:width$}  instructions  reference    change  at most  and in the C library",
        "fast path"
    );
    let mut are_kept = true;
    for (budget, name) in BUDGETS.iter().zip(&names) {
        let counts: Vec<Count> = budget.operations.iter().map(|each| count(each)).collect();
        let own = |count: &Count| count.all - count.library;
        let sum: usize = counts.iter().map(own).sum();
        let library: usize = counts.iter().map(|count| count.library).sum();
        let is_kept = sum <= budget.limit();
        are_kept &= is_kept;
        let parts: Vec<String> = counts.iter().map(|count| own(count).to_string()).collect();
        println!(
            "{name:width$}  {sum:12}  {:9}  {:+6.1} %  {:7}  {library:20}   = {}{}",
            budget.reference,
            (sum as f64 / budget.reference as f64 - 1.0) * 100.0,
            budget.limit(),
            parts.join(" + "),
            if is_kept { "" } else { "  EXCEEDED" },
        );
    }
    are_kept
}

#[cfg(test)]
mod tests {
    use super::{BUDGETS, Count, judge};
    use crate::operation::OPERATIONS;

    #[test]
    fn budgets_name_operations() {
        for name in BUDGETS.iter().flat_map(|budget| budget.operations) {
            assert!(OPERATIONS.iter().any(|known| known.name == *name), "{name}");
        }
    }

    #[test]
    fn a_budget_is_kept_up_to_its_limit() {
        let first = &BUDGETS[0];
        let with = |total: usize| {
            move |name: &str| Count {
                all: if name == first.operations[0] { total } else { 0 },
                library: 0,
            }
        };
        assert!(judge(with(first.limit())));
        assert!(!judge(with(first.limit() + 1)));
    }
}
