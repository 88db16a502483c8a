//! When each item of a history was in the queue: surely, and possibly.
//!
//! An item is surely there from the response of its put to the invocation of the get that answers it. It is
//! possibly there from the invocation of the one to the response of the other. One that comes back after its
//! holder's death stays again, surely from the moment when the sweep was over.
//!
//! *Pending gets of a plain queue* may each have taken an item that no other get answered. Which one took
//! which is chosen so that as little as possible is surely there. The items, in the order of the responses of
//! their puts, are paired with the pending gets, in the order of their invocations; what is left was never
//! taken.
//!
//! Of two pairs (a, c) and (a', c') with a < a' and c < c', the stays from a to c and from a' to c' together
//! cover nothing that the crossed ones would not, and at no moment are they more. An item that was put later
//! may be taken later without breaking the order. So this choice is as good as any.
//!
//! *While nothing is acknowledged*, an item that its dead holder had set aside (specification.rs) comes back
//! no earlier than the first `task_done` or `join` began, and surely when one of them was over. If that get
//! or that call may have come first, the earliest possible time and the latest sure one count.
//!
//! *If items can come back* (an acknowledged queue, lent payloads, or getters that are handed items), a
//! pending get may have taken any item
//! for a while. From its invocation to the end of the sweep nothing is sure: a *blind* time, in which nothing
//! is concluded from it.

use std::collections::HashMap;

use crate::history::{Answer, Call, Event, History, Time, Value};
use crate::violation::Violation;

/// One stay of one item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stay {
    pub value: Value,
    pub put_responded: Time,
    /// An open interval: at its ends the put or the get may happen at the same moment as something else.
    pub sure: (Time, Time),
    /// A closed one.
    pub possible: (Time, Time),
    pub is_first: bool,
}

pub(crate) struct Stays {
    pub all: Vec<Stay>,
    /// Answered gets, with their values.
    pub gets: Vec<(usize, Value)>,
    pub puts: HashMap<Value, usize>,
    /// Sorted, not touching each other.
    blind: Vec<(Time, Time)>,
    /// By how much the bound of `maxsize` may be exceeded because of what came back unseen.
    pub slack: u64,
}

/// Whether a delivered item was set aside before anything was acknowledged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aside {
    Surely,
    Maybe,
    No,
}

/// What became of a delivered item in its holder's hands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finish {
    Surely,
    Maybe,
    No,
}

/// An operation that is pending may respond at any later time.
fn responded(event: &Event) -> Time {
    if event.is_pending() {
        Time::MAX
    } else {
        event.responded
    }
}

impl Stays {
    pub(crate) fn of(history: &History) -> Result<Stays, Violation> {
        let events = &history.events;
        let mut puts = HashMap::new();
        let mut gets = Vec::new();
        let mut pending_gets = Vec::new();
        for (index, event) in events.iter().enumerate() {
            match (event.call, event.answer) {
                (Call::Put(value), None | Some(Answer::Done)) if puts.contains_key(&value) => {
                    return Err(Violation::NotUnique(value));
                }
                (Call::Put(value), None | Some(Answer::Done)) => drop(puts.insert(value, index)),
                (Call::Get, Some(Answer::Got(value))) => gets.push((index, value)),
                (Call::Get, None) => pending_gets.push(index),
                _ => {}
            }
        }
        for (get, value) in &gets {
            let put = puts.get(value).ok_or(Violation::Fresh(*value))?;
            if events[*get].precedes(&events[*put]) {
                return Err(Violation::Fresh(*value));
            }
        }
        let can_come_back = history.rules.acknowledged
            || !pending_gets.is_empty()
                && (history.rules.hands_over || puts.keys().any(|value| value.is_lent()));
        let mut stays = Stays {
            all: Vec::new(),
            gets,
            puts,
            blind: Vec::new(),
            slack: 0,
        };
        if can_come_back {
            stays.with_returns(history, &pending_gets)?;
        } else {
            stays.without_returns(history, &pending_gets)?;
        }
        Ok(stays)
    }

    /// Every item is got once at most: the plain queue of the theory.
    fn without_returns(&mut self, history: &History, pending_gets: &[usize]) -> Result<(), Violation> {
        let events = &history.events;
        let mut got = HashMap::new();
        for (get, value) in &self.gets {
            if got.insert(*value, *get).is_some() {
                return Err(Violation::Repeated(*value));
            }
        }
        let mut left = Vec::new();
        for (value, put) in &self.puts {
            let put = &events[*put];
            match got.get(value) {
                Some(get) => self.all.push(Stay {
                    value: *value,
                    put_responded: responded(put),
                    sure: (responded(put), events[*get].invoked),
                    possible: (put.invoked, events[*get].responded),
                    is_first: true,
                }),
                // A pending put whose item was never got has not happened, or it makes no difference.
                None if put.is_pending() => {}
                None => left.push((put.responded, put.invoked, *value)),
            }
        }
        for (value, put) in &self.puts {
            if events[*put].is_pending() && !got.contains_key(value) {
                self.all.push(Stay {
                    value: *value,
                    put_responded: Time::MAX,
                    sure: (Time::MAX, Time::MAX),
                    possible: (events[*put].invoked, Time::MAX),
                    is_first: true,
                });
            }
        }
        left.sort_unstable();
        let mut takers: Vec<Time> = pending_gets.iter().map(|get| events[*get].invoked).collect();
        takers.sort_unstable();
        for (place, (put_responded, put_invoked, value)) in left.into_iter().enumerate() {
            let taken = takers.get(place).copied().unwrap_or(Time::MAX);
            self.all.push(Stay {
                value,
                put_responded,
                sure: (put_responded, taken),
                possible: (put_invoked, Time::MAX),
                is_first: true,
            });
        }
        Ok(())
    }

    fn with_returns(&mut self, history: &History, pending_gets: &[usize]) -> Result<(), Violation> {
        let events = &history.events;
        let finishes = finishes(history);
        let asides = asides(history);
        let (possibly_acknowledged, surely_acknowledged) = history.acknowledged_from();
        let mut deliveries: HashMap<Value, Vec<usize>> = HashMap::new();
        for (get, value) in &self.gets {
            deliveries.entry(*value).or_default().push(*get);
        }
        let is_dead_letter = |value: &Value| {
            let letters = history.dead_letters.as_ref();
            letters.is_some_and(|letters| letters.binary_search(value).is_ok())
        };
        let mut lost = Vec::new();
        for (value, put) in &self.puts {
            let put = &events[*put];
            let mut gets = deliveries.remove(value).unwrap_or_default();
            gets.sort_by_key(|get| events[*get].responded);
            let mut stay = Stay {
                value: *value,
                put_responded: responded(put),
                sure: (responded(put), Time::MAX),
                possible: (put.invoked, Time::MAX),
                is_first: true,
            };
            let mut finish = Finish::No;
            let mut is_aside = Aside::No;
            for (place, get) in gets.iter().enumerate() {
                let get_event = &events[*get];
                stay.sure.1 = get_event.invoked;
                stay.possible.1 = get_event.responded;
                self.all.push(stay);
                finish = finishes.get(get).copied().unwrap_or(Finish::No);
                if !history.rules.acknowledged {
                    finish = Finish::Surely;
                }
                is_aside = asides.get(get).copied().unwrap_or(Aside::No);
                // From when on it can be there again, and from when on it is.
                let back = history.death_of(get_event.process).map(|death| {
                    let never = Time::MAX;
                    match is_aside {
                        Aside::No => (death.killed, death.swept),
                        Aside::Maybe => (
                            death.killed,
                            death.swept.max(surely_acknowledged.unwrap_or(never)),
                        ),
                        Aside::Surely => (
                            death.killed.max(possibly_acknowledged.unwrap_or(never)),
                            death.swept.max(surely_acknowledged.unwrap_or(never)),
                        ),
                    }
                });
                if let Some(next) = gets.get(place + 1) {
                    let can_be_back = back.is_some_and(|(possibly, _)| possibly <= events[*next].responded);
                    if finish == Finish::Surely || !can_be_back {
                        return Err(Violation::Repeated(*value));
                    }
                }
                if let (Some((possibly, surely)), true) = (back, finish != Finish::Surely) {
                    stay.sure = (surely, Time::MAX);
                    stay.possible = (possibly, Time::MAX);
                    stay.is_first = false;
                }
            }
            let known_deliveries = gets.len() + pending_gets.len();
            if is_dead_letter(value) {
                if finish == Finish::Surely || known_deliveries <= usize::from(history.rules.max_deliveries) {
                    return Err(Violation::Undead(*value));
                }
            } else if finish == Finish::No
                && !put.is_pending()
                && (is_aside == Aside::No || surely_acknowledged.is_some())
            {
                lost.push(*value);
            }
            if gets.len() > usize::from(history.rules.max_deliveries) + 1 {
                return Err(Violation::Repeated(*value));
            }
            // The stay that no get has ended: it may have been, but nothing says until when.
            if finish != Finish::Surely {
                stay.sure = (Time::MAX, Time::MAX);
                self.all.push(stay);
            }
        }
        // An item of a plain queue may have gone with the caller that took it. An acknowledged one cannot.
        let most = if history.rules.acknowledged {
            0
        } else {
            pending_gets.len()
        };
        if history.dead_letters.is_some() && lost.len() > most {
            lost.sort_unstable();
            return Err(Violation::Lost(lost));
        }
        self.slack = pending_gets.len() as u64;
        let mut windows: Vec<(Time, Time)> = pending_gets
            .iter()
            .map(|get| (events[*get].invoked, events[*get].responded))
            .collect();
        windows.sort_unstable();
        for (from, to) in windows {
            match self.blind.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => self.blind.push((from, to)),
            }
        }
        Ok(())
    }

    /// Whether at some moment of this time a caller may have held an item unseen.
    pub(crate) fn is_blind(&self, from: Time, to: Time) -> bool {
        let first = self.blind.partition_point(|window| window.1 < from);
        self.blind.get(first).is_some_and(|window| window.0 <= to)
    }
}

/// Which delivery each `task_done` has finished, if only holders call it: the thread's oldest.
fn finishes(history: &History) -> HashMap<usize, Finish> {
    let mut order: Vec<usize> = (0..history.events.len()).collect();
    order.sort_by_key(|index| history.events[*index].invoked);
    let mut held: HashMap<(u32, u32), std::collections::VecDeque<usize>> = HashMap::new();
    let mut finishes = HashMap::new();
    for index in order {
        let event = &history.events[index];
        let mine = held.entry((event.process, event.thread)).or_default();
        match (event.call, event.answer) {
            (Call::Get, Some(Answer::Got(_))) => mine.push_back(index),
            (Call::TaskDone, None | Some(Answer::Done)) => {
                if let Some(get) = mine.pop_front() {
                    let finish = if event.is_pending() {
                        Finish::Maybe
                    } else {
                        Finish::Surely
                    };
                    finishes.insert(get, finish);
                }
            }
            _ => {}
        }
    }
    finishes
}

/// Which deliveries were set aside: the thread has asked for its next item, and nothing was acknowledged
/// before.
fn asides(history: &History) -> HashMap<usize, Aside> {
    let mut asides = HashMap::new();
    if !history.rules.acknowledged {
        return asides;
    }
    let (possibly, surely) = history.acknowledged_from();
    let mut gets: Vec<usize> = (0..history.events.len()).collect();
    gets.retain(|index| history.events[*index].call == Call::Get);
    gets.sort_by_key(|index| history.events[*index].invoked);
    let mut in_hand: HashMap<(u32, u32), usize> = HashMap::new();
    for index in gets {
        let event = &history.events[index];
        let thread = (event.process, event.thread);
        if let Some(earlier) = in_hand.remove(&thread) {
            let has_asked = !matches!(event.answer, None | Some(Answer::TimedOut));
            let aside = if surely.is_some_and(|surely| surely < event.invoked) {
                Aside::No
            } else if has_asked && possibly.is_none_or(|possibly| event.responded < possibly) {
                Aside::Surely
            } else {
                Aside::Maybe
            };
            if aside == Aside::Surely {
                asides.insert(earlier, aside);
            } else {
                // If it was not set aside now, then perhaps by the thread's next get.
                asides.entry(earlier).or_insert(aside);
                in_hand.insert(thread, earlier);
            }
        }
        if matches!(event.answer, Some(Answer::Got(_))) {
            in_hand.insert(thread, index);
        }
    }
    asides
}
