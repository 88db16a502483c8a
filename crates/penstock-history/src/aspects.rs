//! The check of a large history, in O(n log n): instead of an order it searches for what no queue can do.
//!
//! T. A. Henzinger, A. Sezgin and V. Vafeiadis, "Aspect-oriented linearizability proofs", CONCUR 2013
//! (extended in Logical Methods in Computer Science 11(1), 2015): a history of puts, gets and gets that
//! answer "empty", whose values are unique, is linearizable as a FIFO queue if and only if it has none of
//!
//! | there | here | what |
//! |---|---|---|
//! | VFresh | [`Violation::Fresh`] | an item was got before its put had begun |
//! | VRepet | [`Violation::Repeated`] | an item was got twice |
//! | VOrd | [`Violation::Order`] | y was put after x, and got although x was there all the time |
//! | VWit | [`Violation::NotEmpty`] | "empty" was answered, although an item was surely there all the time |
//!
//! Pending operations: a pending put whose item was got has happened, another makes no difference. Pending
//! gets may have taken items that no other get answered (stays.rs says which). A lost item is then surely
//! there for ever, and the first "empty" after it is a violation. So a run that ends with an emptied queue
//! misses it.
//!
//! Beyond the theorem, and sound but not complete: answers of `len`, `is_full` and `put` are compared with
//! how many items were surely and possibly there. Items that come back after the death of their holder stay
//! again, in their old place. `join`, and `task_done` without an item in hand, are left to the search.

use std::collections::HashMap;

use crate::history::{Answer, Call, Event, History, Time, Value};
use crate::ranges::{Extremes, PrefixGreatest};
use crate::stays::Stays;
use crate::violation::Violation;

/// Whether this check can judge the history: no thread is in two calls at once, and in an acknowledged queue
/// only the holder of an item calls `task_done`.
pub fn applies(history: &History) -> bool {
    let mut order: Vec<&Event> = history.events.iter().collect();
    order.retain(|event| event.call != Call::Sweep);
    order.sort_by_key(|event| event.invoked);
    let mut threads = HashMap::new();
    order.iter().all(|event| {
        let (held, last): &mut (u64, Time) = threads.entry((event.process, event.thread)).or_default();
        if event.invoked <= std::mem::replace(last, event.responded) {
            return false;
        }
        match (event.call, event.answer) {
            (
                Call::Leave(_)
                | Call::ShutDown { .. }
                | Call::Produce { .. }
                | Call::EndProducing
                | Call::Hold
                | Call::Settle(..)
                | Call::SettleLater(..)
                | Call::PutLater(_)
                | Call::Requeue
                | Call::Purge,
                _,
            ) => return false,
            (Call::TaskDone, None | Some(Answer::Done)) if *held > 0 => *held -= 1,
            (Call::TaskDone, _) if history.rules.acknowledged => return false,
            (Call::Get, Some(Answer::Got(_))) => *held += 1,
            _ => {}
        }
        true
    })
}

/// `Err` if no queue can have done that.
pub fn check(history: &History) -> Result<(), Violation> {
    let stays = Stays::of(history)?;
    check_order(history, &stays)?;
    check_empty(history, &stays)?;
    check_counts(history, &stays)
}

fn check_order(history: &History, stays: &Stays) -> Result<(), Violation> {
    let events = &history.events;
    let mut sure: Vec<(Time, Time, Time, Value)> = stays
        .all
        .iter()
        .filter(|stay| stay.sure.0 < stay.sure.1)
        .map(|stay| (stay.put_responded, stay.sure.0, stay.sure.1, stay.value))
        .collect();
    sure.sort_unstable();
    let mut begins: Vec<Time> = sure.iter().map(|stay| stay.1).collect();
    begins.sort_unstable();
    let mut gets: Vec<(Time, Time, Time, Value)> = stays
        .gets
        .iter()
        .map(|(get, value)| {
            let (get, put) = (&events[*get], &events[stays.puts[value]]);
            // It happened after its put, whose invocation may be the later one.
            (put.invoked, get.invoked.max(put.invoked), get.responded, *value)
        })
        .collect();
    gets.sort_unstable();
    let mut longest = PrefixGreatest::new(begins.len());
    let mut entered = sure.iter().peekable();
    for (put_invoked, from, to, value) in gets {
        while let Some((_, begin, end, earlier)) = entered.next_if(|stay| stay.0 < put_invoked) {
            longest.enter(begins.partition_point(|other| other < begin), (*end, *earlier));
        }
        // Of the earlier items that were surely there when the get began: one that was still there when it
        // ended.
        let begun = begins.partition_point(|begin| *begin < from);
        if let Some((end, earlier)) = longest.of_first(begun) {
            if end > to && !stays.is_blind(from, to) {
                return Err(Violation::Order(earlier, value));
            }
        }
    }
    Ok(())
}

fn check_empty(history: &History, stays: &Stays) -> Result<(), Violation> {
    let mut sure: Vec<(Time, Time)> = stays.all.iter().map(|stay| stay.sure).collect();
    sure.retain(|stay| stay.0 < stay.1);
    sure.sort_unstable();
    let mut covered: Vec<(Time, Time)> = Vec::new();
    for stay in sure {
        match covered.last_mut() {
            // Open intervals that only touch leave a moment between them.
            Some(last) if stay.0 < last.1 => last.1 = last.1.max(stay.1),
            _ => covered.push(stay),
        }
    }
    for (index, event) in history.events.iter().enumerate() {
        let says_empty = matches!(
            (event.call, event.answer),
            (Call::Get, Some(Answer::Empty))
                | (Call::IsEmpty, Some(Answer::Is(true)))
                | (Call::Len, Some(Answer::Count(0)))
        );
        if !says_empty || stays.is_blind(event.invoked, event.responded) {
            continue;
        }
        let next = covered.partition_point(|stay| stay.0 < event.invoked);
        if next > 0 && event.responded < covered[next - 1].1 {
            return Err(Violation::NotEmpty(index));
        }
    }
    Ok(())
}

/// Numbers of items as functions of time. A moment of the history is an even place, the time up to the next
/// an odd one.
struct Counts {
    moments: Vec<Time>,
    surely: Extremes,
    possibly: Extremes,
    most_at_first: i32,
}

impl Counts {
    fn of(history: &History, stays: &Stays) -> Counts {
        let mut moments: Vec<Time> = history
            .events
            .iter()
            .flat_map(|event| [event.invoked, event.responded])
            .collect();
        for stay in &stays.all {
            moments.extend([stay.sure.0, stay.sure.1, stay.possible.0, stay.possible.1]);
        }
        moments.sort_unstable();
        moments.dedup();
        let place = |time: Time| 2 * moments.partition_point(|moment| *moment < time);
        let places = 2 * moments.len() + 2;
        let (mut surely, mut possibly, mut at_first) = (vec![0; places], vec![0; places], vec![0; places]);
        for stay in &stays.all {
            if stay.sure.0 < stay.sure.1 {
                let (from, to) = (place(stay.sure.0) + 1, place(stay.sure.1));
                surely[from] += 1;
                surely[to] -= 1;
                at_first[from] += i32::from(stay.is_first);
                at_first[to] -= i32::from(stay.is_first);
            }
            possibly[place(stay.possible.0)] += 1;
            possibly[place(stay.possible.1) + 1] -= 1;
        }
        let at_first = Extremes::of_sums(&at_first);
        Counts {
            surely: Extremes::of_sums(&surely),
            possibly: Extremes::of_sums(&possibly),
            most_at_first: at_first.within(0, places - 1).1,
            moments,
        }
    }

    /// The least number that was there at some moment of an operation, and the greatest.
    fn during(&self, event: &Event) -> (u64, u64) {
        let place = |time: Time| 2 * self.moments.partition_point(|moment| *moment < time);
        let (from, to) = (place(event.invoked), place(event.responded));
        (
            self.surely.within(from, to).0.max(0) as u64,
            self.possibly.within(from, to).1.max(0) as u64,
        )
    }
}

fn check_counts(history: &History, stays: &Stays) -> Result<(), Violation> {
    let counts = Counts::of(history, stays);
    let maxsize = history.rules.maxsize;
    let most = counts.most_at_first.max(0) as u64;
    if maxsize != 0 && most > maxsize + stays.slack {
        return Err(Violation::Overfull { items: most });
    }
    for (index, event) in history.events.iter().enumerate() {
        let (mut least, greatest) = counts.during(event);
        if stays.is_blind(event.invoked, event.responded) {
            least = 0;
        }
        let can_be = match (event.call, event.answer) {
            (Call::Len, Some(Answer::Count(count))) => least <= count && count <= greatest,
            (Call::IsEmpty, Some(Answer::Is(false))) => greatest >= 1,
            (Call::IsFull, Some(Answer::Is(true))) => maxsize != 0 && greatest >= maxsize,
            (Call::Put(_), Some(Answer::Full)) => maxsize != 0 && greatest >= maxsize,
            (Call::IsFull, Some(Answer::Is(false))) | (Call::Put(_), Some(Answer::Done)) => {
                maxsize == 0 || least < maxsize
            }
            _ => true,
        };
        if !can_be {
            return Err(Violation::Count(index));
        }
    }
    Ok(())
}
