//! Histories made wrong on purpose: each mutation turns a linearizable history into one that is not, so that
//! a checker which accepts it is broken.
//!
//! A mutation searches for a place where the result is surely wrong, away from pending gets, which may have
//! taken and returned anything. It answers `None` if the history has no such place.

use std::collections::HashMap;

use crate::history::{Answer, Call, Event, History, Time, Value};
use crate::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Two items, put one after the other and got one after the other, change places.
    SwappedPair,
    /// Items, one more than pending gets can have taken, are never got, nor discarded by a shutdown.
    LostItem,
    DoubledItem,
    /// A get answers "empty" while an item is there.
    StaleEmpty,
    /// `is_empty` answers yes while an item is there.
    StaleIsEmpty,
    /// `len` answers one too many, while nothing else happens.
    WrongLen,
    /// The queue had been promised to be smaller than it was.
    Overfull,
}

impl Mutation {
    pub const ALL: [Mutation; 7] = [
        Mutation::SwappedPair,
        Mutation::LostItem,
        Mutation::DoubledItem,
        Mutation::StaleEmpty,
        Mutation::StaleIsEmpty,
        Mutation::WrongLen,
        Mutation::Overfull,
    ];

    pub fn apply(self, history: &History, random: &mut Random) -> Option<History> {
        let items = Items::of(history);
        match self {
            Mutation::SwappedPair => items.swap(random),
            Mutation::LostItem => items.lose(random),
            Mutation::DoubledItem => items.double(random),
            Mutation::StaleEmpty => items.ask_while_there(random, Call::Get, Answer::Empty),
            Mutation::StaleIsEmpty => items.ask_while_there(random, Call::IsEmpty, Answer::Is(true)),
            Mutation::WrongLen => items.ask_alone(random),
            Mutation::Overfull => items.shrink(),
        }
    }
}

/// An item that was put and got once, with both answered.
#[derive(Clone, Copy)]
struct Item {
    value: Value,
    put: Event,
    get: usize,
}

struct Items<'h> {
    history: &'h History,
    once: Vec<Item>,
    /// Pending gets: from when to when.
    takers: Vec<(Time, Time)>,
}

impl<'h> Items<'h> {
    fn of(history: &'h History) -> Items<'h> {
        let mut puts = HashMap::new();
        let mut gets: HashMap<Value, Vec<usize>> = HashMap::new();
        for (index, event) in history.events.iter().enumerate() {
            match (event.call, event.answer) {
                (Call::Put(value), Some(Answer::Done)) => drop(puts.insert(value, *event)),
                (Call::Get, Some(Answer::Got(value))) => gets.entry(value).or_default().push(index),
                _ => {}
            }
        }
        let mut once: Vec<Item> = puts
            .into_iter()
            .filter_map(|(value, put)| match gets.get(&value)?.as_slice() {
                [get] => Some(Item {
                    value,
                    put,
                    get: *get,
                }),
                _ => None,
            })
            .collect();
        once.sort_unstable_by_key(|item| (item.put.responded, item.value));
        let is_taker = |event: &&Event| event.call == Call::Get && event.is_pending();
        let takers = history.events.iter().filter(is_taker);
        Items {
            history,
            once,
            takers: takers.map(|event| (event.invoked, event.responded)).collect(),
        }
    }

    fn get(&self, item: &Item) -> &Event {
        &self.history.events[item.get]
    }

    /// Whether no caller, now dead, may have had an item in its hands.
    fn is_clear(&self, from: Time, to: Time) -> bool {
        self.takers.iter().all(|taker| taker.1 < from || to < taker.0)
    }

    fn pick(&self, random: &mut Random, is_fit: impl Fn(&Item) -> bool) -> Option<Item> {
        if self.once.is_empty() {
            return None;
        }
        let first = random.below(self.once.len() as u64) as usize;
        let (later, earlier) = self.once.split_at(first);
        earlier.iter().chain(later).find(|item| is_fit(item)).copied()
    }

    fn swap(&self, random: &mut Random) -> Option<History> {
        let follows = |first: &Item, second: &Item| {
            first.put.precedes(&second.put) && self.get(first).precedes(self.get(second))
        };
        // Neighbours in the order of puts, or nearly: a search among all pairs would take too long.
        let partner = |first: &Item| {
            let place = self
                .once
                .partition_point(|item| item.put.responded <= first.put.responded);
            let near = &self.once[place..(place + 20).min(self.once.len())];
            near.iter()
                .find(|second| {
                    follows(first, second) && self.is_clear(first.put.invoked, self.get(second).responded)
                })
                .copied()
        };
        let first = self.pick(random, |first| partner(first).is_some())?;
        let second = partner(&first)?;
        let mut mutant = self.history.clone();
        mutant.events[first.get].answer = Some(Answer::Got(second.value));
        mutant.events[second.get].answer = Some(Answer::Got(first.value));
        Some(mutant)
    }

    fn lose(&self, random: &mut Random) -> Option<History> {
        let takers = self.takers.len();
        let discards = |event: &Event| event.call == Call::ShutDown { is_immediate: true };
        if self.history.rules.acknowledged
            || self.once.len() <= takers
            || self.history.events.iter().any(discards)
        {
            return None;
        }
        let first = random.below((self.once.len() - takers) as u64) as usize;
        let mut gets: Vec<usize> = self.once[first..=first + takers]
            .iter()
            .map(|item| item.get)
            .collect();
        gets.sort_unstable();
        let mut mutant = self.history.clone();
        for get in gets.into_iter().rev() {
            mutant.events.remove(get);
        }
        Some(mutant)
    }

    fn double(&self, random: &mut Random) -> Option<History> {
        if self.history.rules.acknowledged {
            return None;
        }
        let item = self.pick(random, |item| {
            !item.value.is_lent() || self.history.pending() == 0
        })?;
        let after = self.get(&item).responded + 1;
        Some(self.with(Call::Get, Answer::Got(item.value), after, after + 1))
    }

    fn ask_while_there(&self, random: &mut Random, call: Call, answer: Answer) -> Option<History> {
        let item = self.pick(random, |item| {
            let (from, to) = (item.put.responded, self.get(item).invoked);
            from + 1 < to && self.is_clear(from, to)
        })?;
        let (from, to) = (item.put.responded + 1, self.get(&item).invoked - 1);
        Some(self.with(call, answer, from, to))
    }

    /// At a moment when no thread is in a call, the number is known exactly.
    fn ask_alone(&self, random: &mut Random) -> Option<History> {
        if self.history.events.iter().any(Event::is_pending) || self.history.rules.acknowledged {
            return None;
        }
        let mut events: Vec<&Event> = self.history.events.iter().collect();
        events.sort_by_key(|event| event.invoked);
        let (mut behind, mut len) = (0, 0i64);
        let mut moments = Vec::new();
        for event in events {
            if behind != 0 && behind + 1 < event.invoked {
                moments.push((behind + 1, u64::try_from(len).ok()?));
            }
            behind = behind.max(event.responded);
            match (event.call, event.answer) {
                (Call::Put(_), Some(Answer::Done)) => len += 1,
                (Call::Get, Some(Answer::Got(_))) => len -= 1,
                _ => {}
            }
        }
        if moments.is_empty() {
            return None;
        }
        let (moment, len) = moments[random.below(moments.len() as u64) as usize];
        Some(self.with(Call::Len, Answer::Count(len + 1), moment, moment))
    }

    fn shrink(&self) -> Option<History> {
        let mut changes: Vec<(Time, i32)> = Vec::new();
        for item in &self.once {
            let get = self.get(item);
            if self.is_clear(item.put.responded, get.invoked) && item.put.responded < get.invoked {
                // At the same moment, the one that goes goes first.
                changes.extend([(item.put.responded, 1), (get.invoked, -1)]);
            }
        }
        changes.sort_unstable();
        let (mut len, mut most) = (0, 0);
        for (_, change) in changes {
            len += change;
            most = most.max(len);
        }
        // Slack for what may come back while the queue is full.
        let maxsize = u64::try_from(most - 1).ok()?;
        (maxsize > 0 && self.history.pending() == 0 && !self.history.rules.acknowledged).then(|| {
            let mut mutant = self.history.clone();
            mutant.rules.maxsize = maxsize;
            mutant
        })
    }

    /// The history with one operation more, of another process.
    fn with(&self, call: Call, answer: Answer, invoked: Time, responded: Time) -> History {
        let mut mutant = self.history.clone();
        mutant.events.push(Event {
            process: u32::MAX,
            thread: u32::MAX,
            call,
            answer: Some(answer),
            invoked,
            responded,
        });
        mutant
    }
}
