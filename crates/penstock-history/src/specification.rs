//! The sequential queue, as simply as possible: what an operation may answer, and what holds afterwards. An
//! operation with several possible outcomes has several states afterwards.
//!
//! - Items lie in the order in which they were put. One that comes back goes to its old place, in front of
//!   everything that was put later.
//! - `maxsize` bounds what a put finds; what comes back is not refused.
//! - In an acknowledged queue a get leases the item to its process and thread until `task_done`. In a plain
//!   one the item is gone, except that a process that dies while it reads a *lent* payload may have held a
//!   lease.
//! - An acknowledged queue begins in a phase in which nothing is acknowledged. In it a get first *sets aside*
//!   what its thread has taken before, also if it finds nothing then; a get that ran out of time may have or
//!   may not. What a dead process had set aside does not come back, but stays unfinished, without a holder.
//! - The first `task_done` or `join` of any process ends the phase, whatever it answers. Before it answers,
//!   what the dead had set aside comes back, one at a time. If its process dies before, a sweep returns the
//!   rest.
//! - What a dead process, or one that left crashed, had leased comes back, in the order of taking, one at a
//!   time: `len` takes no lock and may see it half done. After `max_deliveries` times an item becomes a dead
//!   letter instead.
//! - A process that leaves in order leaves its items unfinished, all at once for every other process. One
//!   that is killed meanwhile has left some, the ones taken first, and the rest comes back.
//! - `task_done` finishes the first of these that there is: the calling thread's oldest lease; the process's;
//!   any other process's; an item that was left unfinished; the oldest in the queue, which is still
//!   delivered.
//! - If waiters have aged, a get whose process dies may have been *handed* an item, which is then in no queue
//!   and no lease. It comes back by the sweep, after the process's leases, and no redelivery counts.
//!   `task_done` finishes it as the last one of its process, and it is still delivered. (The item that a
//!   living getter was handed is a lease from then on.)
//! - A get by name ends the first phase, as `task_done` does, and leases the item. The process that has the
//!   lease settles it, by any of its threads: the item is finished; or comes back to its old place, without a
//!   redelivery (released) or with one (failed); or is a dead letter (rejected). Of a process that has the
//!   lease no more, that does nothing, and it says so.
//! - A delayed item is unfinished and in no queue. It becomes ready, in its old place, between its time and
//!   the next operation that looks for an item. A get that ran out of time has not looked if it did not come
//!   to the lock. An item that is released or has failed may be delayed, too. Nothing but an immediate
//!   shutdown touches it before.
//! - The dead letters go back to their old places, as if never delivered, or they are gone: those that there
//!   are when the call begins, unless another one is quicker, and perhaps those that come while it goes on.
//! - After a shutdown no item is put, and a get that finds none says so. One that does not wait never says
//!   that the queue is empty, unless an item is delayed. (That a get which may wait does so while an item may
//!   come back is no question of the order, and has its own tests.) An immediate shutdown discards what is
//!   queued and delayed, all at once for every caller, and then none is taken; what comes back later is
//!   discarded, too.
//! - A process produces while it has begun more blocks than it has ended. When processes have begun, as many
//!   as any of them expects, and none produces any more, the queue is shut down, so that what is left is
//!   taken. What a dead process was producing ends by the sweep, after its leases have come back; that of a
//!   process that leaves ends before it gives up what it holds. One that dies as it begins may have named a
//!   number and not begun.

use penstock_core::{Leave, Verdict};

use crate::history::{Answer, Call, Event, LATER, Rules, Time, Value};

/// Nanoseconds by which the queue's clock, which counts microseconds, may be late.
const COARSE: Time = 2000;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Item {
    /// Its place in the order of puts.
    rank: u32,
    value: Value,
    redeliveries: u8,
    is_finished: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Lease {
    process: u32,
    thread: u32,
    item: Item,
    /// Its thread has asked for another one since, and nothing was acknowledged yet.
    is_aside: bool,
    /// It is no lease yet: its getter was handed it, and dies.
    is_handed: bool,
    /// It was taken by name.
    is_named: bool,
}

impl Lease {
    fn is_unfinished(&self) -> bool {
        !(self.is_handed && self.item.is_finished)
    }
}

/// It becomes ready not before the one time, and is so from the other one on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Delayed {
    item: Item,
    not_before: Time,
    at_last: Time,
}

/// A dead letter, and by when it was one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Letter {
    item: Item,
    since: Time,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Phase {
    #[default]
    Open,
    Draining,
    Closed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// In the order of rank.
    ready: Vec<Item>,
    /// In the order of taking.
    leases: Vec<Lease>,
    /// In no order that matters.
    delayed: Vec<Delayed>,
    /// Set aside by processes that are dead, in the order of rank.
    aside: Vec<Item>,
    /// A process has called `task_done` or `join`.
    is_acknowledged: bool,
    orphans: u32,
    phase: Phase,
    /// The processes that have begun to produce, sorted, and in how many blocks each of them is.
    producers: Vec<(u32, u32)>,
    expected: u32,
    dead: Vec<Letter>,
    next_rank: u32,
}

/// What an operation leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// It has happened.
    Done(State),
    /// A part of it has happened.
    Part(State),
}

impl State {
    fn unfinished(&self) -> usize {
        let queued = self.ready.iter().filter(|item| !item.is_finished).count();
        let held = self.leases.iter().filter(|lease| lease.is_unfinished()).count();
        queued + held + self.aside.len() + self.orphans as usize + self.delayed.len()
    }

    /// The dead letters, sorted.
    pub fn dead_letters(&self) -> Vec<Value> {
        let mut dead: Vec<Value> = self.dead.iter().map(|letter| letter.item.value).collect();
        dead.sort_unstable();
        dead
    }

    /// The states in which `event` may find the queue: some of the delayed items are due.
    fn readied(&self, event: &Event) -> Vec<State> {
        let looks = matches!(event.call, Call::Get | Call::Hold)
            && !matches!(event.answer, None | Some(Answer::TimedOut));
        let mut states = vec![State {
            delayed: Vec::new(),
            ..self.clone()
        }];
        for delayed in &self.delayed {
            let may_be_due = delayed.not_before <= event.responded;
            let must_be_due = looks && delayed.at_last < event.invoked;
            let mut next = Vec::new();
            for mut state in states {
                if may_be_due {
                    let mut readied = state.clone();
                    readied.put_back(delayed.item.clone());
                    next.push(readied);
                }
                if !must_be_due {
                    state.delayed.push(delayed.clone());
                    next.push(state);
                }
            }
            states = next;
        }
        states
    }

    /// What `event` may lead to if it happens now; nothing if it cannot have answered so.
    pub fn steps(&self, rules: &Rules, event: &Event) -> Vec<Step> {
        if self.delayed.is_empty() {
            return self.steps_now(rules, event);
        }
        let states = self.readied(event);
        states
            .iter()
            .flat_map(|state| state.steps_now(rules, event))
            .collect()
    }

    /// The same, with the delayed items as they are.
    fn steps_now(&self, rules: &Rules, event: &Event) -> Vec<Step> {
        let len = self.ready.len() as u64;
        let is_full = rules.maxsize != 0 && len >= rules.maxsize;
        let is_open = self.phase == Phase::Open;
        let is_over = !is_open && self.delayed.is_empty();
        let holds = |claim: bool| {
            if claim {
                vec![Step::Done(self.clone())]
            } else {
                Vec::new()
            }
        };
        let acknowledges = matches!(event.call, Call::TaskDone | Call::Join | Call::Hold);
        if rules.acknowledged && acknowledges && self.is_beginning() {
            let mut steps = self.begin_to_acknowledge(rules, event);
            if (event.call, event.answer) == (Call::Hold, Some(Answer::TimedOut)) {
                steps.push(Step::Done(self.clone()));
            }
            return steps;
        }
        match (event.call, event.answer) {
            (Call::Settle(value, verdict), answer) => {
                self.settle(rules, event, (value, verdict, false), answer)
            }
            (Call::SettleLater(value, verdict), answer) => {
                self.settle(rules, event, (value, verdict, true), answer)
            }
            (Call::Requeue, Some(Answer::ShutDown)) => holds(!is_open),
            (Call::Requeue, _) if !is_open => Vec::new(),
            (Call::Requeue | Call::Purge, None) => self.decide_on_letters(event, None),
            (Call::Requeue | Call::Purge, Some(Answer::Count(count))) => {
                self.decide_on_letters(event, Some(count))
            }
            (Call::Get | Call::Hold, Some(Answer::TimedOut)) => {
                vec![Step::Done(self.clone()), Step::Done(self.asked(rules, event))]
            }
            (_, Some(Answer::TimedOut)) => holds(true),
            (Call::ShutDown { is_immediate }, None | Some(Answer::Done)) => {
                vec![Step::Done(self.shut_down(is_immediate))]
            }
            (Call::Produce { .. }, Some(Answer::ShutDown)) => holds(!is_open),
            (Call::Produce { .. }, _) if !is_open => Vec::new(),
            (Call::Produce { expect }, Some(Answer::Done)) => vec![Step::Done(self.produce(event, expect))],
            (Call::Produce { expect }, None) => {
                let mut named = self.clone();
                named.expected = named.expected.max(expect);
                vec![Step::Done(self.produce(event, expect)), Step::Done(named)]
            }
            (Call::EndProducing, None | Some(Answer::Done)) => {
                vec![Step::Done(self.end_producing(event, 1))]
            }
            (Call::Put(_) | Call::PutLater(_), Some(Answer::ShutDown)) => holds(!is_open),
            (Call::Put(_) | Call::PutLater(_), _) if !is_open => Vec::new(),
            (Call::PutLater(value), None | Some(Answer::Done)) => {
                let mut next = self.with(value);
                if let Some(item) = next.ready.pop() {
                    next.delay(event, item);
                }
                vec![Step::Done(next)]
            }
            (Call::Put(value), None | Some(Answer::Done)) if !is_full => vec![Step::Done(self.with(value))],
            (Call::Put(_), Some(Answer::Full)) => holds(is_full),
            (Call::Get | Call::Hold, Some(Answer::Empty)) if len == 0 && !is_over => {
                vec![Step::Done(self.asked(rules, event))]
            }
            (Call::Get | Call::Hold, Some(Answer::ShutDown)) if len == 0 && is_over => {
                vec![Step::Done(self.asked(rules, event))]
            }
            (Call::Get | Call::Hold, answer) => self.get(rules, event, answer),
            (Call::Len, Some(Answer::Count(count))) => holds(count == len),
            (Call::IsEmpty, Some(Answer::Is(is))) => holds(is == (len == 0)),
            (Call::IsFull, Some(Answer::Is(is))) => holds(is == is_full),
            (Call::Join, Some(Answer::Done)) => holds(!rules.acknowledged || self.unfinished() == 0),
            (Call::Join, Some(Answer::Empty)) => holds(rules.acknowledged && self.unfinished() > 0),
            (Call::TaskDone, answer) => {
                // What is delayed is not there yet.
                let can_finish = rules.acknowledged && self.unfinished() > self.delayed.len();
                match answer {
                    Some(Answer::TooManyDone) => holds(!can_finish),
                    None | Some(Answer::Done) if can_finish => self.task_done(event),
                    _ => Vec::new(),
                }
            }
            (Call::Leave(Leave::Clean), None | Some(Answer::Done)) => self.leave_in_order(event),
            (Call::Leave(Leave::Crashed), None | Some(Answer::Done)) if self.produces(event) => {
                vec![Step::Part(self.end_producing(event, u32::MAX))]
            }
            (Call::Leave(Leave::Crashed), None | Some(Answer::Done)) => vec![self.give_up_one(rules, event)],
            (Call::Sweep, _) => match self.give_up_one(rules, event) {
                Step::Done(_) if self.produces(event) => {
                    vec![Step::Part(self.end_producing(event, u32::MAX))]
                }
                Step::Done(_) if self.is_acknowledged && !self.aside.is_empty() => {
                    self.return_one_aside(rules, event)
                }
                step => vec![step],
            },
            _ => Vec::new(),
        }
    }

    /// Whether a `task_done` or a `join` has something else to do first.
    fn is_beginning(&self) -> bool {
        !self.is_acknowledged || !self.aside.is_empty()
    }

    fn begin_to_acknowledge(&self, rules: &Rules, event: &Event) -> Vec<Step> {
        if self.is_acknowledged {
            return self.return_one_aside(rules, event);
        }
        let mut next = self.clone();
        next.is_acknowledged = true;
        for lease in &mut next.leases {
            lease.is_aside = false;
        }
        vec![Step::Part(next)]
    }

    /// Which of the items that the dead had set aside comes next is not promised.
    fn return_one_aside(&self, rules: &Rules, event: &Event) -> Vec<Step> {
        let without = |place| {
            let mut next = self.clone();
            let item = next.aside.remove(place);
            next.come_back(rules, event, item);
            Step::Part(next)
        };
        (0..self.aside.len()).map(without).collect()
    }

    /// The event's thread asks for an item: what it has in hand is set aside.
    fn asked(&self, rules: &Rules, event: &Event) -> State {
        let mut next = self.clone();
        if rules.acknowledged && !self.is_acknowledged {
            for lease in &mut next.leases {
                lease.is_aside |= lease.process == event.process && lease.thread == event.thread;
            }
        }
        next
    }

    fn shut_down(&self, is_immediate: bool) -> State {
        let mut next = self.clone();
        if is_immediate {
            next.phase = Phase::Closed;
            next.ready.clear();
            next.delayed.clear();
        } else {
            next.phase = next.phase.max(Phase::Draining);
        }
        next
    }

    fn produces(&self, event: &Event) -> bool {
        self.producers
            .iter()
            .any(|(process, blocks)| *process == event.process && *blocks > 0)
    }

    fn produce(&self, event: &Event, expect: u32) -> State {
        let mut next = self.clone();
        next.expected = next.expected.max(expect);
        match next
            .producers
            .binary_search_by_key(&event.process, |(process, _)| *process)
        {
            Ok(place) => next.producers[place].1 += 1,
            Err(place) => next.producers.insert(place, (event.process, 1)),
        }
        next
    }

    /// Ends so many blocks of the event's process, or all that it is in.
    fn end_producing(&self, event: &Event, blocks: u32) -> State {
        let mut next = self.clone();
        for (process, count) in &mut next.producers {
            if *process == event.process {
                *count = count.saturating_sub(blocks);
            }
        }
        let has_begun = !next.producers.is_empty() && next.producers.len() >= next.expected as usize;
        if has_begun && next.producers.iter().all(|(_, count)| *count == 0) {
            next.phase = next.phase.max(Phase::Draining);
        }
        next
    }

    fn with(&self, value: Value) -> State {
        let mut next = self.clone();
        next.ready.push(Item {
            rank: self.next_rank,
            value,
            redeliveries: 0,
            is_finished: false,
        });
        next.next_rank += 1;
        next
    }

    fn get(&self, rules: &Rules, event: &Event, answer: Option<Answer>) -> Vec<Step> {
        let mut taken = self.asked(rules, event);
        // It died before it took anything.
        let asked = answer.is_none().then(|| Step::Done(taken.clone()));
        let Some(first) = self.ready.first() else {
            return asked.into_iter().collect();
        };
        match answer {
            Some(Answer::Got(value)) if value != first.value => return Vec::new(),
            None | Some(Answer::Got(_)) => {}
            Some(_) => return Vec::new(),
        }
        let item = taken.ready.remove(0);
        let mut leased = taken.clone();
        leased.leases.push(Lease {
            process: event.process,
            thread: event.thread,
            item: item.clone(),
            is_aside: false,
            is_handed: false,
            is_named: event.call == Call::Hold,
        });
        let handed = (answer.is_none() && rules.hands_over).then(|| {
            let mut handed = leased.clone();
            if let Some(lease) = handed.leases.last_mut() {
                lease.is_handed = true;
            }
            Step::Done(handed)
        });
        let mut steps = if rules.acknowledged && !item.is_finished {
            vec![Step::Done(leased)]
        } else if answer.is_none() && item.value.is_lent() && !item.is_finished {
            // It died while it read the payload, or had just returned it.
            vec![Step::Done(leased), Step::Done(taken)]
        } else {
            vec![Step::Done(taken)]
        };
        steps.extend(asked);
        steps.extend(handed);
        steps
    }

    /// A settlement that was cut short has happened, or not.
    fn settle(
        &self,
        rules: &Rules,
        event: &Event,
        (value, verdict, is_later): (Value, Verdict, bool),
        answer: Option<Answer>,
    ) -> Vec<Step> {
        let is_it =
            |lease: &Lease| lease.process == event.process && lease.item.value == value && !lease.is_handed;
        let place = self.leases.iter().position(is_it);
        let Some(place) = place.filter(|_| answer != Some(Answer::Is(false))) else {
            // Of two threads that settle the same item, one comes first.
            let can_be = place.is_none() && answer != Some(Answer::Is(true));
            return can_be.then(|| Step::Done(self.clone())).into_iter().collect();
        };
        let mut next = self.clone();
        let item = next.leases.remove(place).item;
        match verdict {
            Verdict::Done => {}
            Verdict::Released | Verdict::Failed if next.phase == Phase::Closed => {}
            Verdict::Released if is_later => next.delay(event, item),
            Verdict::Released => next.put_back(item),
            Verdict::Failed if is_later && item.redeliveries < rules.max_deliveries => {
                let redeliveries = item.redeliveries + 1;
                next.delay(event, Item { redeliveries, ..item });
            }
            Verdict::Failed => next.come_back(rules, event, item),
            Verdict::Rejected => next.bury(event, item),
        }
        let untouched = answer.is_none().then(|| Step::Done(self.clone()));
        std::iter::once(Step::Done(next)).chain(untouched).collect()
    }

    fn task_done(&self, event: &Event) -> Vec<Step> {
        let without = |place: usize| {
            let mut next = self.clone();
            next.leases.remove(place);
            Step::Done(next)
        };
        let first = |is_meant: &dyn Fn(&Lease) -> bool| {
            let is_meant = |lease: &Lease| !lease.is_handed && is_meant(lease);
            self.leases.iter().position(is_meant)
        };
        let mine = first(&|lease| lease.process == event.process && lease.thread == event.thread)
            .or_else(|| first(&|lease| lease.process == event.process));
        if let Some(place) = mine {
            return vec![without(place)];
        }
        let handed = self.finish_one_handed(&|lease| lease.process == event.process);
        if !handed.is_empty() {
            return handed;
        }
        if first(&|_| true).is_some() {
            // The oldest of one of the others; which one is not promised.
            let is_oldest_of_its_process =
                |place: &usize| first(&|lease| lease.process == self.leases[*place].process) == Some(*place);
            return (0..self.leases.len())
                .filter(is_oldest_of_its_process)
                .map(without)
                .collect();
        }
        let handed = self.finish_one_handed(&|_| true);
        if !handed.is_empty() {
            return handed;
        }
        let mut next = self.clone();
        if next.orphans > 0 {
            next.orphans -= 1;
        } else if let Some(item) = next.ready.iter_mut().find(|item| !item.is_finished) {
            item.is_finished = true;
        }
        vec![Step::Done(next)]
    }

    /// Which one is not promised.
    fn finish_one_handed(&self, is_meant: &dyn Fn(&Lease) -> bool) -> Vec<Step> {
        let finished = |place: usize| {
            let mut next = self.clone();
            next.leases[place].item.is_finished = true;
            Step::Done(next)
        };
        (0..self.leases.len())
            .filter(|place| {
                let lease = &self.leases[*place];
                lease.is_handed && !lease.item.is_finished && is_meant(lease)
            })
            .map(finished)
            .collect()
    }

    /// Leaves all leases of the event's process unfinished, but those by name; of a process that was killed,
    /// so many of the oldest.
    fn leave_in_order(&self, event: &Event) -> Vec<Step> {
        let is_its = |lease: &Lease| lease.process == event.process && !lease.is_handed && !lease.is_named;
        let held = self.leases.iter().filter(|lease| is_its(lease)).count();
        let ended = self.end_producing(event, u32::MAX);
        let least = match event.is_pending() {
            true if self.produces(event) => 0,
            true => held.min(1),
            false => held,
        };
        (least..=held)
            .map(|given_up| {
                let mut next = ended.clone();
                let mut left = given_up;
                next.leases.retain(|lease| {
                    let is_given_up = is_its(lease) && left > 0;
                    left -= usize::from(is_given_up);
                    !is_given_up
                });
                next.orphans += given_up as u32;
                Step::Done(next)
            })
            .collect()
    }

    /// Returns the oldest lease of the event's process, if it has one; or leaves it set aside.
    fn give_up_one(&self, rules: &Rules, event: &Event) -> Step {
        let mut next = self.clone();
        let first = |is_handed: bool| {
            let is_meant = |lease: &Lease| lease.process == event.process && lease.is_handed == is_handed;
            self.leases.iter().position(is_meant)
        };
        let Some(place) = first(false).or_else(|| first(true)) else {
            return Step::Done(next);
        };
        let Lease {
            item,
            is_aside,
            is_handed,
            ..
        } = next.leases.remove(place);
        if is_handed {
            if next.phase != Phase::Closed {
                next.put_back(item);
            }
        } else if is_aside {
            let place = next.aside.partition_point(|other| other.rank < item.rank);
            next.aside.insert(place, item);
        } else {
            next.come_back(rules, event, item);
        }
        Step::Part(next)
    }

    fn come_back(&mut self, rules: &Rules, event: &Event, mut item: Item) {
        if self.phase == Phase::Closed {
            return;
        }
        if item.redeliveries >= rules.max_deliveries {
            self.bury(event, item);
        } else {
            item.redeliveries += 1;
            self.put_back(item);
        }
    }

    fn bury(&mut self, event: &Event, item: Item) {
        let since = event.responded;
        self.dead.push(Letter { item, since });
    }

    fn delay(&mut self, event: &Event, item: Item) {
        self.delayed.push(Delayed {
            item,
            not_before: event.invoked + LATER,
            at_last: event.responded.saturating_add(LATER + COARSE),
        });
    }

    fn put_back(&mut self, item: Item) {
        let place = self.ready.partition_point(|other| other.rank < item.rank);
        self.ready.insert(place, item);
    }

    /// Puts dead letters back, or removes them. Those that were there before the call began, and that no
    /// other process has decided on, are among them; of a call that was cut short any of them.
    fn decide_on_letters(&self, event: &Event, count: Option<u64>) -> Vec<Step> {
        let mut chosen = vec![(self.clone(), 0u64)];
        for letter in &self.dead {
            let is_meant = count.is_some() && letter.since < event.invoked;
            let mut next = Vec::new();
            for (state, decided) in chosen {
                let mut without = state.clone();
                without.dead.retain(|other| other != letter);
                if event.call == Call::Requeue {
                    without.put_back(Item {
                        redeliveries: 0,
                        ..letter.item.clone()
                    });
                }
                next.push((without, decided + 1));
                if !is_meant {
                    next.push((state, decided));
                }
            }
            chosen = next;
        }
        chosen.retain(|(_, decided)| count.is_none_or(|count| count == *decided));
        chosen.into_iter().map(|(state, _)| Step::Done(state)).collect()
    }
}
