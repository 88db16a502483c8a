//! What is wrong is rejected: recorded histories changed on purpose, and queues broken on purpose that run
//! live.

use penstock_history::mutation::Mutation;
use penstock_history::random::Random;
use penstock_history::run::{Workload, record};
use penstock_history::subject::Fault;
use penstock_history::{aspects, search};

#[test]
fn mutated_small_histories_are_rejected_by_both() {
    let seed = 31;
    let mut random = Random::new(seed);
    let mut rejected = [0; Mutation::ALL.len()];
    for round in 0..150 {
        let mut workload = Workload::small(&mut random, false, round % 3 == 0);
        workload.mix.put = 8;
        workload.mix.shutdown = 0;
        workload.mix.produce = 0;
        workload.mix.hold = 0;
        workload.mix.later = 0;
        workload.mix.letters = 0;
        let history = record(&workload, random.draw());
        for (mutation, count) in Mutation::ALL.iter().zip(&mut rejected) {
            if let Some(mutant) = mutation.apply(&history, &mut random) {
                assert!(
                    search::check(&mutant).is_err(),
                    "seed {seed}: {mutation:?} not seen in\n{mutant}"
                );
                assert!(
                    aspects::check(&mutant).is_err(),
                    "seed {seed}: {mutation:?} not seen in\n{mutant}"
                );
                *count += 1;
            }
        }
    }
    println!("seed {seed}: {:?} rejected {rejected:?} times", Mutation::ALL);
    assert!(rejected.iter().all(|count| *count >= 20), "{rejected:?}");
}

#[test]
fn mutated_large_histories_are_rejected() {
    let seed = 32;
    let mut random = Random::new(seed);
    let mut rejected = [0; Mutation::ALL.len()];
    for (acknowledged, kills) in [(false, 0), (false, 10), (true, 0), (true, 10)] {
        let workload = Workload::large(&mut random, acknowledged, kills, 20_000);
        let history = record(&workload, random.draw());
        for (mutation, count) in Mutation::ALL.iter().zip(&mut rejected) {
            for _ in 0..5 {
                if let Some(mutant) = mutation.apply(&history, &mut random) {
                    assert!(
                        aspects::check(&mutant).is_err(),
                        "seed {seed}: {mutation:?} not seen"
                    );
                    *count += 1;
                }
            }
        }
    }
    println!("seed {seed}: {:?} rejected {rejected:?} times", Mutation::ALL);
    assert!(rejected.iter().all(|count| *count > 0), "{rejected:?}");
}

/// Whether a fault shows in a small history is a matter of chance, so there are as many as it takes.
fn broken(fault: Fault) {
    let seed = 33;
    let mut random = Random::new(seed);
    let mut histories = 0;
    let mut rejected = 0;
    while rejected < 3 {
        let mut workload = Workload::small(&mut random, false, false);
        workload.rules.maxsize = u64::from(fault == Fault::Overfills);
        workload.mix.put = 12;
        workload.mix.asks = 3;
        workload.fault = Some((fault, 2));
        let history = record(&workload, random.draw());
        histories += 1;
        rejected += u32::from(search::check(&history).is_err());
        assert!(histories < 1000, "{fault:?} is not seen");
    }
    println!("seed {seed}: {fault:?}: {rejected} of {histories} small histories rejected");
    let mut histories = 0;
    loop {
        let mut workload = Workload::large(&mut random, false, 0, 10_000);
        workload.rules.maxsize = fault.showing_maxsize();
        workload.fault = Some((fault, 20));
        let history = record(&workload, random.draw());
        histories += 1;
        if aspects::check(&history).is_err() {
            break;
        }
        assert!(histories < 100, "{fault:?} is not seen");
    }
    println!("seed {seed}: {fault:?}: large history {histories} rejected");
}

/// What only small histories have.
fn broken_small(fault: Fault, acknowledged: bool) {
    let seed = 34;
    let mut random = Random::new(seed);
    let (mut histories, mut rejected) = (0, 0);
    while rejected < 3 {
        let mut workload = Workload::small(&mut random, acknowledged, false);
        workload.rules.maxsize = 0;
        workload.rules.max_deliveries = 0;
        workload.mix.shutdown = 0;
        workload.mix.produce = 0;
        workload.mix.later = 10;
        workload.mix.letters = 5;
        workload.mix.hold = 10 * u64::from(acknowledged);
        workload.fault = Some((fault, 1));
        let history = record(&workload, random.draw());
        histories += 1;
        rejected += u32::from(search::check(&history).is_err());
        assert!(histories < 1000, "{fault:?} is not seen");
    }
    println!("seed {seed}: {fault:?}: {rejected} of {histories} small histories rejected");
}

#[test]
fn a_queue_that_delivers_a_delayed_item_too_soon_is_rejected() {
    broken_small(Fault::Hurries, false);
}

#[test]
fn a_queue_that_forgets_a_delayed_item_is_rejected() {
    broken_small(Fault::Forgets, false);
}

#[test]
fn a_queue_that_purges_what_it_is_to_requeue_is_rejected() {
    broken_small(Fault::Purges, true);
}

#[test]
fn a_queue_that_miscounts_dead_letters_is_rejected() {
    broken_small(Fault::Miscounts, true);
}

#[test]
fn a_queue_that_swaps_a_pair_is_rejected() {
    broken(Fault::Swaps);
}

#[test]
fn a_queue_that_loses_an_item_is_rejected() {
    broken(Fault::Loses);
}

#[test]
fn a_queue_that_doubles_an_item_is_rejected() {
    broken(Fault::Doubles);
}

#[test]
fn a_queue_that_says_empty_too_late_is_rejected() {
    broken(Fault::SaysEmpty);
    broken(Fault::IsEmptyLate);
}

#[test]
fn a_queue_that_exceeds_its_maxsize_is_rejected() {
    broken(Fault::Overfills);
}
