//! The exhaustive check of a small history: is there an order in which it is a run of the sequential queue?
//!
//! J. M. Wing and C. Gong, "Testing and verifying concurrent objects", 1993: of the operations that no other
//! precedes, try each one next, and go back if it leads nowhere. G. Lowe, "Testing for linearizability",
//! 2017: a state of the search (the set of operations behind, and the state of the queue) is not tried twice.
//!
//! A pending operation can also be left out: it has not happened. What a dead process was about to do comes
//! before its sweep, because death is proven first.

use std::collections::HashSet;

use crate::history::{Call, Event, History};
use crate::specification::{State, Step};

/// Operations in a history that is searched; they are a set of bits.
pub const MOST: usize = 128;

/// What the search of a linearizable history took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Search {
    pub states: usize,
}

/// Why a history is rejected: how far the best order came, as indices of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    pub furthest: Vec<usize>,
    pub states: usize,
}

/// `Err` if the history is not linearizable.
///
/// # Panics
/// If it has more than [`MOST`] events.
pub fn check(history: &History) -> Result<Search, Stuck> {
    assert!(history.events.len() <= MOST, "too long to be searched");
    let mut searcher = Searcher {
        history,
        seen: HashSet::new(),
        order: Vec::new(),
        furthest: Vec::new(),
    };
    if searcher.is_linearizable_from(0, &State::default()) {
        Ok(Search {
            states: searcher.seen.len(),
        })
    } else {
        Err(Stuck {
            furthest: searcher.furthest,
            states: searcher.seen.len(),
        })
    }
}

struct Searcher<'h> {
    history: &'h History,
    seen: HashSet<(u128, State)>,
    order: Vec<usize>,
    furthest: Vec<usize>,
}

impl Searcher<'_> {
    fn is_linearizable_from(&mut self, behind: u128, state: &State) -> bool {
        if !self.seen.insert((behind, state.clone())) {
            return false;
        }
        let events = &self.history.events;
        if self.order.len() > self.furthest.len() {
            self.furthest.clone_from(&self.order);
        }
        let is_left = |index: &usize| behind >> index & 1 == 0;
        let Some(first_response) = (0..events.len())
            .filter(is_left)
            .map(|index| events[index].responded)
            .min()
        else {
            let dead_letters = self.history.dead_letters.as_ref();
            return dead_letters.is_none_or(|letters| *letters == state.dead_letters());
        };
        for index in (0..events.len()).filter(is_left) {
            let event = &events[index];
            if event.invoked > first_response || !self.may_be_next(event, behind) {
                continue;
            }
            self.order.push(index);
            for step in state.steps(&self.history.rules, event) {
                let is_linearizable = match &step {
                    Step::Done(next) => self.is_linearizable_from(behind | 1 << index, next),
                    Step::Part(next) => self.is_linearizable_from(behind, next),
                };
                if is_linearizable {
                    return true;
                }
            }
            self.order.pop();
            if event.is_pending() && self.is_linearizable_from(behind | 1 << index, state) {
                return true;
            }
        }
        false
    }

    fn may_be_next(&self, event: &Event, behind: u128) -> bool {
        event.call != Call::Sweep
            || self.history.events.iter().enumerate().all(|(index, other)| {
                other.process != event.process || other.call == Call::Sweep || behind >> index & 1 == 1
            })
    }
}
