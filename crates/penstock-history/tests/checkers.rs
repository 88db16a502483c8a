//! The two checkers against each other: what proves the one for large histories is the exhaustive search.

use std::cell::Cell;

use penstock_core::Leave;
use penstock_history::history::LATER;
use penstock_history::random::Random;
use penstock_history::run::{Workload, record};
use penstock_history::{Answer, Call, Event, History, Rules, Time, Value, Violation, aspects, search};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const ACKNOWLEDGED: Rules = Rules {
    acknowledged: true,
    ..Rules::PLAIN
};

/// One operation of a drawn history: the moment at which it happens, and how much earlier and later the
/// caller saw it.
#[derive(Clone, Debug)]
struct Drawn {
    kind: u8,
    moment: u8,
    earlier: u8,
    later: u8,
    is_pending: bool,
    /// What a made-up answer is made of.
    answer: u8,
}

fn drawn(kinds: u8) -> impl Strategy<Value = Drawn> {
    (
        0..kinds,
        0u8..100,
        0u8..20,
        0u8..20,
        prop::bool::weighted(0.07),
        any::<u8>(),
    )
        .prop_map(|(kind, moment, earlier, later, is_pending, answer)| Drawn {
            kind,
            moment,
            earlier,
            later,
            is_pending,
            answer,
        })
}

/// What a queue answers to these operations at their moments, each by a caller of its own.
fn history_of(drawn: &[Drawn], rules: Rules) -> History {
    let mut order: Vec<(usize, &Drawn)> = drawn.iter().enumerate().collect();
    order.sort_by_key(|(_, drawn)| drawn.moment);
    let mut queue = std::collections::VecDeque::new();
    let mut events = Vec::new();
    for (index, drawn) in order {
        let is_full = rules.maxsize != 0 && queue.len() as u64 >= rules.maxsize;
        let value = Value::new(index as u64, 0);
        let (call, answer) = match drawn.kind {
            // A pending operation may not have happened.
            0 | 1 if drawn.is_pending && drawn.answer % 2 == 0 => (Call::Put(value), Answer::Done),
            2 | 3 if drawn.is_pending && drawn.answer % 2 == 0 => (Call::Get, Answer::Empty),
            0 | 1 if is_full => (Call::Put(value), Answer::Full),
            0 | 1 => {
                queue.push_back(value);
                (Call::Put(value), Answer::Done)
            }
            2 | 3 => (Call::Get, queue.pop_front().map_or(Answer::Empty, Answer::Got)),
            4 => (Call::Len, Answer::Count(queue.len() as u64)),
            5 => (Call::IsEmpty, Answer::Is(queue.is_empty())),
            _ => (Call::IsFull, Answer::Is(is_full)),
        };
        let is_pending = drawn.is_pending && drawn.kind < 4;
        events.push(Event {
            process: index as u32,
            thread: 0,
            call,
            answer: (!is_pending).then_some(answer),
            invoked: 1000 + Time::from(drawn.moment) * 10 - Time::from(drawn.earlier) * 10,
            responded: if is_pending {
                Time::MAX
            } else {
                1000 + Time::from(drawn.moment) * 10 + Time::from(drawn.later) * 10
            },
        });
    }
    History {
        rules,
        events,
        deaths: Vec::new(),
        dead_letters: None,
    }
}

/// Changes an answer, or a time.
fn disturb(history: &mut History, place: usize, how: u8) {
    let count = history.events.len();
    let other = history.events[usize::from(how / 4) % count];
    let event = &mut history.events[place % count];
    match (event.call, event.answer, how % 4) {
        (Call::Get, Some(_), 0) => event.answer = Some(Answer::Empty),
        (Call::Get, Some(_), 1 | 2) => {
            if let Call::Put(value) = other.call {
                event.answer = Some(Answer::Got(value));
            }
        }
        (Call::Len, Some(Answer::Count(count)), _) => event.answer = Some(Answer::Count(count ^ 1)),
        (Call::IsEmpty | Call::IsFull, Some(Answer::Is(is)), _) => event.answer = Some(Answer::Is(!is)),
        (Call::Put(_), Some(Answer::Full), _) => event.answer = Some(Answer::Done),
        _ => {
            event.invoked = other.invoked;
            event.responded = event.responded.max(other.invoked);
        }
    }
}

fn drawn_history(kinds: u8, maxsize: impl Strategy<Value = u64>) -> impl Strategy<Value = History> {
    (
        prop::collection::vec(drawn(kinds), 2..14),
        prop::collection::vec((any::<usize>(), any::<u8>()), 0..6),
        maxsize,
    )
        .prop_map(|(drawn, disturbances, maxsize)| {
            let rules = Rules {
                maxsize,
                ..Rules::PLAIN
            };
            let mut history = history_of(&drawn, rules);
            for (place, how) in disturbances {
                disturb(&mut history, place, how);
            }
            history
        })
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    })
}

/// The theorem: for puts, gets and "empty" the two agree, whether the history is one of a queue or not.
#[test]
fn the_checkers_agree() {
    let (accepted, rejected, crashed) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let cases = 20_000;
    runner(cases)
        .run(&drawn_history(4, Just(0)), |history| {
            let found = search::check(&history).is_ok();
            let aspects = aspects::check(&history);
            prop_assert_eq!(found, aspects.is_ok(), "{:?} of\n{}", aspects, history);
            let counter = if found { &accepted } else { &rejected };
            counter.set(counter.get() + 1);
            crashed.set(crashed.get() + history.pending());
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    println!(
        "{} accepted, {} rejected, {} operations crashed",
        accepted.get(),
        rejected.get(),
        crashed.get()
    );
    assert!(accepted.get() > cases / 5 && rejected.get() > cases / 5 && crashed.get() > 1000);
}

/// With counts and bounds the fast one is sound: what it rejects, no order explains.
#[test]
fn what_the_counts_reject_is_rejected_by_the_search() {
    let (rejected, missed) = (Cell::new(0), Cell::new(0));
    runner(20_000)
        .run(&drawn_history(7, 0u64..4), |history| {
            let found = search::check(&history).is_ok();
            let aspects = aspects::check(&history);
            prop_assert!(!(found && aspects.is_err()), "{:?} of\n{}", aspects, history);
            if !found {
                let counter = if aspects.is_err() { &rejected } else { &missed };
                counter.set(counter.get() + 1);
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    println!(
        "{} rejected by both, {} by the search alone",
        rejected.get(),
        missed.get()
    );
    assert!(rejected.get() > 2000 && missed.get() < rejected.get() / 4);
}

/// The same for items that come back: real histories of dying holders, with answers changed.
#[test]
fn what_the_returns_reject_is_rejected_by_the_search() {
    let seed = 21;
    let mut random = Random::new(seed);
    let (mut rejected, mut missed, mut returned, mut from_aside) = (0, 0, 0, 0);
    for round in 0..150 {
        let mut workload = Workload::small(&mut random, round % 4 != 0, true);
        workload.is_disciplined = true;
        workload.mix.leave = 0;
        workload.mix.shutdown = 0;
        workload.mix.produce = 0;
        workload.mix.hold = 0;
        workload.mix.later = 0;
        workload.mix.letters = 0;
        workload.rules.maxsize = 0;
        let history = record(&workload, random.draw());
        assert!(aspects::applies(&history), "{history}");
        assert_eq!(
            aspects::check(&history),
            Ok(()),
            "seed {seed}, round {round}:\n{history}"
        );
        let gets = history.events.iter().filter_map(|event| match event.answer {
            Some(Answer::Got(value)) => Some(value),
            _ => None,
        });
        let mut values: Vec<Value> = gets.collect();
        let deliveries = values.len();
        values.sort_unstable();
        values.dedup();
        returned += deliveries - values.len();
        from_aside += history.came_back_from_aside();
        for _ in 0..20 {
            let mut mutant = history.clone();
            // The sweeps stay as they are: they are not a caller's answers.
            let place = random.below(mutant.events.len() as u64) as usize;
            if mutant.events[place].call == Call::Sweep {
                continue;
            }
            disturb(&mut mutant, place, random.below(256) as u8);
            if !aspects::applies(&mutant) {
                continue;
            }
            let found = search::check(&mutant).is_ok();
            let aspects = aspects::check(&mutant);
            assert!(
                !(found && aspects.is_err()),
                "seed {seed}: {aspects:?} of\n{mutant}"
            );
            rejected += u32::from(aspects.is_err());
            missed += u32::from(!found && aspects.is_ok());
        }
    }
    println!(
        "{returned} items came back, {from_aside} of them after they were set aside; \
         {rejected} rejected by both, {missed} by the search alone"
    );
    assert!(rejected > 100 && returned > 20 && from_aside > 10);
}

fn event(process: u32, call: Call, answer: Answer, invoked: Time, responded: Time) -> Event {
    Event {
        process,
        thread: 0,
        call,
        answer: Some(answer),
        invoked,
        responded,
    }
}

fn is_accepted(events: Vec<Event>, rules: Rules) -> bool {
    let history = History {
        rules,
        events,
        deaths: Vec::new(),
        dead_letters: None,
    };
    let found = search::check(&history).is_ok();
    assert_eq!(found, aspects::check(&history).is_ok());
    found
}

/// Process 2 was killed at 30, and swept by 40.
fn with_a_death(rules: Rules, events: Vec<Event>, was_handed: bool) -> History {
    History {
        rules,
        events,
        deaths: vec![penstock_history::Death {
            process: 2,
            killed: 30,
            swept: 40,
            was_handed,
        }],
        dead_letters: Some(Vec::new()),
    }
}

/// Whether the search accepts it, and whether the aspects do.
fn verdicts_of(history: &History) -> (bool, bool) {
    (search::check(history).is_ok(), aspects::check(history).is_ok())
}

/// Whether the search accepts a history without a death.
fn search_accepts(rules: Rules, events: Vec<Event>, dead_letters: Option<Vec<Value>>) -> bool {
    let history = History {
        rules,
        events,
        deaths: Vec::new(),
        dead_letters,
    };
    search::check(&history).is_ok()
}

/// "Empty" while no single item was there all the time, but always one or another.
#[test]
fn items_that_relieve_each_other_cover_an_empty() {
    let (a, b) = (Value::new(1, 0), Value::new(2, 0));
    let with_empty = |from, to| {
        vec![
            event(1, Call::Put(a), Answer::Done, 10, 20),
            event(1, Call::Put(b), Answer::Done, 30, 40),
            event(2, Call::Get, Answer::Got(a), 50, 60),
            event(2, Call::Get, Answer::Got(b), 70, 80),
            event(3, Call::Get, Answer::Empty, from, to),
        ]
    };
    assert!(!is_accepted(with_empty(25, 65), Rules::PLAIN));
    assert!(is_accepted(with_empty(25, 70), Rules::PLAIN));
    assert!(is_accepted(with_empty(20, 65), Rules::PLAIN));
}

#[test]
fn a_redelivered_item_comes_before_younger_ones() {
    let (a, b) = (Value::new(1, 0), Value::new(2, 0));
    let history = |first, second| {
        let events = vec![
            event(1, Call::Put(a), Answer::Done, 10, 11),
            event(1, Call::Put(b), Answer::Done, 12, 13),
            event(2, Call::Get, Answer::Got(a), 20, 21),
            event(2, Call::Sweep, Answer::Done, 30, 40),
            event(3, Call::Get, Answer::Got(first), 50, 51),
            event(3, Call::TaskDone, Answer::Done, 52, 53),
            event(3, Call::Get, Answer::Got(second), 60, 61),
            event(3, Call::TaskDone, Answer::Done, 62, 63),
        ];
        with_a_death(ACKNOWLEDGED, events, false)
    };
    assert!(search::check(&history(a, b)).is_ok());
    assert_eq!(aspects::check(&history(a, b)), Ok(()));
    assert!(search::check(&history(b, a)).is_err());
    assert_eq!(aspects::check(&history(b, a)), Err(Violation::Order(a, b)));
}

/// A dead getter was handed an item, another took a younger one meanwhile: the first comes back. Only if
/// waiters have aged, and only while that getter was in its call.
#[test]
fn what_a_dead_getter_was_handed_comes_back() {
    let (a, b) = (Value::new(1, 0), Value::new(2, 0));
    for acknowledged in [false, true] {
        let verdicts = |hands_over, asked, emptied| {
            let rules = Rules {
                acknowledged,
                // A redelivery would make it a dead letter.
                max_deliveries: 0,
                hands_over,
                maxsize: 0,
            };
            let mut events = vec![
                event(1, Call::Put(a), Answer::Done, 10, 11),
                event(1, Call::Put(b), Answer::Done, 12, 13),
                event(3, Call::Get, Answer::Got(b), 20, 21),
                event(3, Call::Get, Answer::Empty, 22, 23),
                event(2, Call::Sweep, Answer::Done, 30, 40),
                event(3, Call::Get, Answer::Got(a), 50, 51),
            ];
            if acknowledged {
                events.insert(3, event(3, Call::TaskDone, Answer::Done, 21, 22));
                events.push(event(3, Call::TaskDone, Answer::Done, 52, 53));
            }
            if emptied {
                events.push(event(3, Call::Get, Answer::Empty, 45, 46));
            }
            events.push(Event {
                answer: None,
                ..event(2, Call::Get, Answer::Empty, asked, 40)
            });
            verdicts_of(&with_a_death(rules, events, true))
        };
        assert_eq!(verdicts(true, 5, false), (true, true), "{acknowledged}");
        assert!(!verdicts(false, 5, false).0, "{acknowledged}: no item is handed");
        assert_eq!(
            verdicts(true, 25, false),
            (false, false),
            "{acknowledged}: it asked later"
        );
        assert_eq!(
            verdicts(true, 5, true),
            (false, false),
            "{acknowledged}: it is back by then"
        );
    }
}

/// What a dead process had set aside comes back when a process acknowledges for the first time, and no
/// earlier.
#[test]
fn what_was_set_aside_comes_back_with_the_first_acknowledgement() {
    let (a, b) = (Value::new(1, 0), Value::new(2, 0));
    let (got, empty) = (
        |value| (Call::Get, Answer::Got(value)),
        (Call::Get, Answer::Empty),
    );
    let (join, done) = ((Call::Join, Answer::Empty), (Call::TaskDone, Answer::Done));
    // The dead process has asked again after `a`, and not after `b`.
    let verdicts = |calls: &[(Call, Answer)]| {
        let mut events = vec![
            event(1, Call::Put(a), Answer::Done, 10, 11),
            event(1, Call::Put(b), Answer::Done, 12, 13),
            event(2, Call::Get, Answer::Got(a), 20, 21),
            event(2, Call::Get, Answer::Got(b), 22, 23),
            event(2, Call::Sweep, Answer::Done, 30, 40),
        ];
        for (place, (call, answer)) in calls.iter().enumerate() {
            let time = 50 + 2 * place as Time;
            events.push(event(3, *call, *answer, time, time + 1));
        }
        verdicts_of(&with_a_death(ACKNOWLEDGED, events, false))
    };
    let right = [got(b), empty, join, got(a), done, done, empty];
    assert_eq!(verdicts(&right), (true, true));
    assert_eq!(verdicts(&[got(b), done, got(a), done, empty]), (true, true));
    let too_early = [got(a), done, got(b), done, empty];
    assert_eq!(verdicts(&too_early), (false, false), "before any acknowledgement");
    let too_early = [got(b), got(a), join, done, done, empty];
    assert_eq!(verdicts(&too_early), (false, false), "before any acknowledgement");
    let never = [got(b), join, empty, done, empty];
    assert_eq!(verdicts(&never), (false, false), "it never comes back");
    let never = [got(b), done, empty];
    assert_eq!(verdicts(&never), (false, false), "it never comes back");
}

/// A process that is killed while it leaves in order has given up the items that it took first, and no
/// others.
#[test]
fn a_leave_cut_short_gives_up_the_oldest_leases() {
    let (a, b) = (Value::new(1, 0), Value::new(2, 0));
    let is_accepted = |is_cut_short: bool, back: &[Value]| {
        let mut leave = event(2, Call::Leave(Leave::Clean), Answer::Done, 30, 40);
        let mut sweep = event(2, Call::Sweep, Answer::Done, 35, 40);
        if is_cut_short {
            leave.answer = None;
        } else {
            leave.responded = 34;
            sweep.invoked = 35;
        }
        let mut events = vec![
            event(1, Call::Put(a), Answer::Done, 10, 11),
            event(1, Call::Put(b), Answer::Done, 12, 13),
            // From here on a lease is a lease, also after its holder has asked for the next item.
            event(1, Call::Join, Answer::Empty, 14, 15),
            event(2, Call::Get, Answer::Got(a), 20, 21),
            event(2, Call::Get, Answer::Got(b), 22, 23),
            leave,
            sweep,
        ];
        // Whatever has come back, both are unfinished.
        let answers = back.iter().map(|value| (Call::Get, Answer::Got(*value)));
        let rest = [
            (Call::Get, Answer::Empty),
            (Call::TaskDone, Answer::Done),
            (Call::TaskDone, Answer::Done),
            (Call::TaskDone, Answer::TooManyDone),
        ];
        for (place, (call, answer)) in answers.chain(rest).enumerate() {
            let time = 50 + 2 * place as Time;
            events.push(event(3, call, answer, time, time + 1));
        }
        search_accepts(ACKNOWLEDGED, events, Some(Vec::new()))
    };
    assert!(is_accepted(true, &[a, b]), "killed before");
    assert!(is_accepted(true, &[b]), "killed meanwhile");
    assert!(is_accepted(true, &[]), "killed after");
    assert!(!is_accepted(true, &[a]), "the younger one first");
    assert!(is_accepted(false, &[]));
    assert!(!is_accepted(false, &[b]), "killed after the answer");
}

/// What callers see of a shutdown. The search alone judges it.
#[test]
fn a_shutdown_is_one_moment() {
    let (a, b) = (Value::new(1, 0), Value::new(2, 0));
    let (drains, closes) = (
        Call::ShutDown { is_immediate: false },
        Call::ShutDown { is_immediate: true },
    );
    let is_possible = |rules: Rules, calls: &[(Call, Answer)]| {
        let first = [(Call::Put(a), Answer::Done)];
        let events = first
            .iter()
            .chain(calls)
            .enumerate()
            .map(|(place, (call, answer))| {
                let time = 10 * (place as Time + 1);
                event(1, *call, *answer, time, time + 5)
            });
        search_accepts(rules, events.collect(), None)
    };
    let plain = |calls: &[(Call, Answer)]| is_possible(Rules::PLAIN, calls);
    let got = (Call::Get, Answer::Got(a));
    let told = (Call::Get, Answer::ShutDown);
    let done = |call| (call, Answer::Done);

    assert!(plain(&[
        done(drains),
        (Call::Put(b), Answer::ShutDown),
        got,
        told
    ]));
    assert!(plain(&[
        done(closes),
        told,
        (Call::Len, Answer::Count(0)),
        (Call::Put(b), Answer::ShutDown)
    ]));
    assert!(plain(&[done(drains), done(closes), told]));
    assert!(plain(&[done(closes), done(drains), told]), "it stays closed");
    for impossible in [
        &[done(drains), done(Call::Put(b))][..],
        &[done(drains), (Call::Put(b), Answer::Full)],
        &[done(drains), told],
        &[done(drains), got, (Call::Get, Answer::Empty)],
        &[done(closes), got],
        &[done(closes), done(drains), got],
        &[done(closes), (Call::IsEmpty, Answer::Is(false))],
        &[(Call::Put(b), Answer::ShutDown), done(drains)],
        &[got, told, done(drains)],
    ] {
        assert!(!plain(impossible), "{impossible:?}");
    }

    let with_one_in_hand = [done(Call::Put(b)), got, done(closes)];
    let then = |calls: &[(Call, Answer)]| is_possible(ACKNOWLEDGED, &[&with_one_in_hand[..], calls].concat());
    assert!(then(&[
        (Call::Join, Answer::Empty),
        done(Call::TaskDone),
        done(Call::Join)
    ]));
    assert!(then(&[
        done(Call::TaskDone),
        (Call::TaskDone, Answer::TooManyDone)
    ]));
    assert!(!then(&[done(Call::Join)]), "one is in hand");
    assert!(
        !then(&[done(Call::TaskDone), done(Call::TaskDone)]),
        "the other was discarded"
    );
}

/// What callers see of producers. The search alone judges it.
#[test]
fn the_last_producer_shuts_the_queue_down() {
    let (a, b) = (Value::new(1, 0), Value::new(2, 0));
    let is_possible = |calls: &[(u32, Call, Option<Answer>)], sweeps: &[u32]| {
        let mut events: Vec<Event> = calls
            .iter()
            .enumerate()
            .map(|(place, (process, call, answer))| {
                let time = 10 * (place as Time + 1);
                Event {
                    answer: *answer,
                    ..event(*process, *call, Answer::Done, time, time + 5)
                }
            })
            .collect();
        let time = 10 * (calls.len() as Time + 1);
        events.extend(
            sweeps
                .iter()
                .map(|process| event(*process, Call::Sweep, Answer::Done, time, time + 5)),
        );
        // What is seen after the sweeps.
        events.push(event(9, Call::Put(b), Answer::ShutDown, time + 10, time + 15));
        search_accepts(Rules::PLAIN, events, None)
    };
    let done = |process, call| (process, call, Some(Answer::Done));
    let begins = |process, expect| done(process, Call::Produce { expect });
    let ends = |process| done(process, Call::EndProducing);
    let late = (1, Call::Produce { expect: 0 }, Some(Answer::ShutDown));

    assert!(is_possible(&[begins(1, 0), done(1, Call::Put(a)), ends(1)], &[]));
    assert!(is_possible(
        &[begins(1, 2), ends(1), begins(2, 0), ends(2), late],
        &[]
    ));
    assert!(is_possible(&[begins(1, 0), begins(1, 0), ends(1), ends(1)], &[]));
    assert!(
        is_possible(&[begins(1, 0), begins(2, 0), ends(1)], &[2]),
        "killed"
    );
    assert!(is_possible(
        &[begins(1, 0), done(1, Call::Leave(Leave::Clean))],
        &[]
    ));
    let begins_and_dies = (2, Call::Produce { expect: 1 }, None);
    assert!(is_possible(&[begins_and_dies], &[2]));
    for impossible in [
        &[begins(1, 0)][..],
        &[begins(1, 0), begins(1, 0), ends(1)],
        &[begins(1, 0), begins(2, 0), ends(1)],
        &[begins(1, 2), ends(1)],
        &[begins(1, 2), ends(1), begins(1, 0), ends(1)],
        &[late],
        &[begins(1, 0), ends(1), done(2, Call::Put(a))],
        &[
            begins(1, 0),
            done(2, Call::Put(a)),
            ends(1),
            begins(2, 0),
            ends(2),
        ],
    ] {
        assert!(!is_possible(impossible, &[]), "{impossible:?}");
    }
    assert!(
        !is_possible(&[begins(1, 2), begins_and_dies], &[2]),
        "the first one is left"
    );
}

/// What a process says of an item that it has taken by name. The search alone judges it.
#[test]
fn a_named_item_is_settled_once() {
    use penstock_core::Verdict::{Done, Failed, Rejected, Released};
    let (a, b) = (Value::new(1, 0), Value::new(2, 0));
    let is_possible = |letters: &[Value], calls: &[(u32, Call, Answer)]| {
        let first = [
            (1, Call::Put(a), Answer::Done),
            (1, Call::Put(b), Answer::Done),
            (1, Call::Hold, Answer::Got(a)),
        ];
        let events = first.iter().chain(calls).enumerate();
        let events = events.map(|(place, (process, call, answer))| {
            let time = 10 * (place as Time + 1);
            event(*process, *call, *answer, time, time + 5)
        });
        let rules = Rules {
            max_deliveries: 1,
            ..ACKNOWLEDGED
        };
        search_accepts(rules, events.collect(), Some(letters.to_vec()))
    };
    let settled = |verdict| (1, Call::Settle(a, verdict), Answer::Is(true));
    let again = (1, Call::Settle(a, Done), Answer::Is(false));
    let got = |value| (2, Call::Hold, Answer::Got(value));
    let none = (2, Call::Hold, Answer::Empty);
    let empty_but_for = |count| (2, Call::Len, Answer::Count(count));

    assert!(is_possible(&[], &[settled(Done), again, got(b), none]));
    assert!(is_possible(&[], &[settled(Released), again, got(a), got(b)]));
    assert!(is_possible(&[], &[settled(Failed), got(a), got(b)]));
    assert!(is_possible(&[a], &[settled(Rejected), again, got(b), none]));
    assert!(is_possible(
        &[a],
        &[
            settled(Failed),
            (1, Call::Hold, Answer::Got(a)),
            settled(Failed),
            got(b),
            none
        ]
    ));
    assert!(is_possible(&[], &[(1, Call::TaskDone, Answer::Done), again]));
    assert!(is_possible(
        &[],
        &[(2, Call::Settle(a, Done), Answer::Is(false)), settled(Done)]
    ));
    for (letters, impossible) in [
        (&[][..], &[settled(Done), settled(Done)][..]),
        (&[], &[again]),
        (&[], &[(2, Call::Settle(a, Done), Answer::Is(true))]),
        (&[], &[settled(Done), got(a)]),
        (&[], &[settled(Released), got(b)]),
        (&[], &[settled(Released), empty_but_for(1)]),
        (
            &[a],
            &[
                settled(Released),
                (1, Call::Hold, Answer::Got(a)),
                settled(Released),
            ],
        ),
        (&[], &[settled(Rejected), got(b)]),
        (&[a], &[settled(Failed), got(a), got(b)]),
        (
            &[],
            &[
                settled(Failed),
                (1, Call::Hold, Answer::Got(a)),
                settled(Failed),
                got(b),
            ],
        ),
    ] {
        assert!(!is_possible(letters, impossible), "{impossible:?}");
    }
}

/// Delayed items, and dead letters that go back or are gone. The search alone judges them.
#[test]
fn delayed_items_and_dead_letters() {
    use penstock_core::Verdict::{Done, Failed, Rejected};
    let a = Value::new(1, 0);
    // Each call begins so many nanoseconds after the first one, and takes 5.
    let is_possible = |letters: &[Value], calls: &[(Time, Call, Answer)]| {
        let events = calls
            .iter()
            .map(|(time, call, answer)| event(1, *call, *answer, *time, time + 5));
        let rules = Rules {
            max_deliveries: 0,
            ..ACKNOWLEDGED
        };
        search_accepts(rules, events.collect(), Some(letters.to_vec()))
    };
    let soon = LATER / 2;
    // The queue's clock counts microseconds.
    let late = 2 * LATER;
    let put = (0, Call::PutLater(a), Answer::Done);
    let got = |time| (time, Call::Hold, Answer::Got(a));
    let none = |time| (time, Call::Hold, Answer::Empty);
    let timed_out = |time| (time, Call::Get, Answer::TimedOut);
    let ended = |time| (time, Call::Hold, Answer::ShutDown);
    let done = |time| (time, Call::Settle(a, Done), Answer::Is(true));
    let len = |time, count| (time, Call::Len, Answer::Count(count));
    let unfinished = |time| (time, Call::Join, Answer::Empty);
    let shut_down = |time, is_immediate| (time, Call::ShutDown { is_immediate }, Answer::Done);

    for possible in [
        &[
            put,
            none(soon),
            len(soon + 10, 0),
            unfinished(soon + 20),
            got(late),
        ][..],
        &[put, none(LATER - 10), got(LATER)],
        // No getter has looked for an item yet.
        &[put, len(late, 0), len(late + 10, 1), got(late + 20)],
        // Neither has one whose time ended while another process had the lock.
        &[put, timed_out(late), len(late + 10, 0), got(late + 20)],
        &[put, got(late), done(late + 10), none(late + 20)],
        &[put, shut_down(10, false), none(soon), got(late), ended(late + 10)],
        &[put, shut_down(10, true), ended(20), ended(late)],
        &[put, (soon, Call::TaskDone, Answer::TooManyDone)],
    ] {
        assert!(is_possible(&[], possible), "{possible:?}");
    }
    for impossible in [
        &[put, got(soon)][..],
        &[put, len(soon, 1)],
        &[put, none(late)],
        &[put, (soon, Call::Join, Answer::Done)],
        &[put, (soon, Call::TaskDone, Answer::Done)],
        &[put, shut_down(10, false), ended(soon)],
        &[put, shut_down(10, true), none(20)],
        &[put, shut_down(10, true), got(late)],
    ] {
        assert!(!is_possible(&[], impossible), "{impossible:?}");
    }

    let first = [(0, Call::Put(a), Answer::Done), got(10)];
    let rejected = (20, Call::Settle(a, Rejected), Answer::Is(true));
    let failed_for_later = (20, Call::SettleLater(a, Failed), Answer::Is(true));
    let requeued = |time, count| (time, Call::Requeue, Answer::Count(count));
    let purged = |time, count| (time, Call::Purge, Answer::Count(count));
    let is_possible = |letters: &[Value], calls: &[(Time, Call, Answer)]| {
        is_possible(letters, &[&first[..], calls].concat())
    };
    for (letters, possible) in [
        (&[a][..], &[rejected, none(30)][..]),
        // Its last failure, whatever the delay.
        (&[a], &[failed_for_later, none(late)]),
        (&[], &[rejected, requeued(30, 1), got(40), done(50)]),
        (&[], &[rejected, requeued(30, 1), unfinished(40)]),
        (&[], &[rejected, purged(30, 1), none(40), purged(50, 0)]),
        (
            &[a],
            &[
                rejected,
                requeued(30, 1),
                got(40),
                (50, Call::Settle(a, Failed), Answer::Is(true)),
            ],
        ),
        (
            &[a],
            &[
                rejected,
                shut_down(30, false),
                (40, Call::Requeue, Answer::ShutDown),
            ],
        ),
    ] {
        assert!(is_possible(letters, possible), "{possible:?}");
    }
    for (letters, impossible) in [
        (&[][..], &[rejected, none(30)][..]),
        (&[], &[rejected, requeued(30, 0), got(40)]),
        (&[a], &[rejected, requeued(30, 0)]),
        (&[], &[rejected, requeued(30, 1), none(40)]),
        (&[], &[rejected, requeued(30, 1), (40, Call::Join, Answer::Done)]),
        (&[], &[rejected, purged(30, 1), got(40)]),
        (&[a], &[rejected, purged(30, 1)]),
        (&[a], &[rejected, shut_down(30, false), requeued(40, 1)]),
    ] {
        assert!(!is_possible(letters, impossible), "{impossible:?}");
    }
}
