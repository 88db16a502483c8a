//! The real queue: every recorded history is one of a FIFO queue.

use penstock_history::random::Random;
use penstock_history::run::{Workload, record};
use penstock_history::{History, aspects, search};

fn search_histories(histories: u64, acknowledged: bool, kills: bool, seed: u64) {
    let mut random = Random::new(seed);
    let (mut operations, mut pending, mut from_aside, mut handed) = (0, 0, 0, 0);
    for _ in 0..histories {
        let workload = Workload::small(&mut random, acknowledged, kills);
        let history = record(&workload, random.draw());
        operations += history.events.len();
        pending += history.pending();
        from_aside += history.came_back_from_aside();
        handed += history.died_handed();
        if let Err(stuck) = search::check(&history) {
            panic!(
                "seed {seed}, {workload:?}: stuck after {:?} of\n{history}",
                stuck.furthest
            );
        }
    }
    println!(
        "seed {seed}: {histories} histories, {operations} operations, {pending} crashed, \
         {from_aside} items came back that were set aside, {handed} that dead getters were handed"
    );
    assert!(!kills || pending > 0, "no process was killed inside an operation");
    assert!(
        from_aside > 0 || !(kills && acknowledged),
        "nothing that was set aside came back"
    );
}

fn check_large(acknowledged: bool, kills: u32, maxsize: u64, seed: u64) -> History {
    let mut random = Random::new(seed);
    let mut workload = Workload::large(&mut random, acknowledged, kills, 100_000);
    workload.rules.maxsize = maxsize;
    if acknowledged && maxsize == 0 {
        workload = workload.silenced(true);
    }
    let history = record(&workload, random.draw());
    assert!(aspects::applies(&history));
    println!(
        "seed {seed}: {} operations, {} crashed, {} deaths, {} items came back that were set aside, {} that \
         dead getters were handed",
        history.events.len(),
        history.pending(),
        history.deaths.len(),
        history.came_back_from_aside(),
        history.died_handed()
    );
    if let Err(violation) = aspects::check(&history) {
        panic!("seed {seed}, {workload:?}: {violation:?}");
    }
    history
}

#[test]
fn small_histories_are_linearizable() {
    search_histories(400, false, false, 1);
}

#[test]
fn small_histories_with_deaths_are_linearizable() {
    search_histories(400, false, true, 2);
}

#[test]
fn small_histories_of_an_acknowledged_queue_are_linearizable() {
    search_histories(400, true, false, 3);
}

#[test]
fn small_histories_of_an_acknowledged_queue_with_deaths_are_linearizable() {
    search_histories(400, true, true, 4);
}

#[test]
fn large_histories_are_linearizable() {
    for (seed, maxsize) in [(5, 0), (6, 1), (7, 20)] {
        check_large(false, 0, maxsize, seed);
    }
}

#[test]
fn large_histories_with_deaths_are_linearizable() {
    let runs = [(8, 0), (9, 3), (10, 0)];
    let crashed: usize = runs
        .map(|(seed, maxsize)| check_large(false, 60, maxsize, seed).pending())
        .iter()
        .sum();
    assert!(crashed > 0, "no process was killed inside an operation");
}

#[test]
fn what_dead_holders_had_comes_back_in_large_histories() {
    let histories = [(11, 0), (12, 0), (13, 10)].map(|(seed, maxsize)| check_large(true, 60, maxsize, seed));
    let crashed: usize = histories.iter().map(History::pending).sum();
    assert!(crashed > 0, "no process was killed inside an operation");
    let from_aside: usize = histories.iter().map(History::came_back_from_aside).sum();
    assert!(from_aside > 0, "nothing that was set aside came back");
}
