//! Waiters that have aged, and what they are handed: beside calls that have not waited, interrupted, dead and
//! stopped.

use std::time::Duration;

use Preemptions::AtMost;

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::models::run::*;
use crate::models::world::{self, How};
use crate::operations::delivery::{Batch, Taken};
use crate::options::{Patience, Wait};
use crate::platform::{Instant, Slept};

/// After this time every waiter that began with the model has aged.
const LONG_AGO: Duration = Duration::from_millis(150);

/// In virtual time, from the moment at which the others begin: the slice of the lock, the time after which a
/// handed waiter is late, and two slices of a watcher.
const SOON: Duration = Duration::from_millis(450);

fn until_others_have_aged() {
    world::sleep(0, LONG_AGO);
}

/// Where a process sleeps that goes on together with another one. Virtual time alone lets one go on only when
/// all others sleep.
const GATE: usize = 1;

fn until_let_in() {
    world::sleep(GATE, 10 * LONG_AGO);
}

fn let_another_in() {
    world::wake(GATE, 1);
}

#[test]
fn an_aged_getter() {
    Model::new("an aged getter, a putter, a getter that does not wait", AtMost(2)).check(|| {
        let queue = create(&PLAIN);
        let log = Log::default();
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| assert_eq!(get(queue), 1));
        processes.start(2, |queue| {
            until_others_have_aged();
            let_another_in();
            put(queue, 1);
            put(queue, 2);
        });
        let got = log.clone();
        processes.start(3, move |queue| {
            until_let_in();
            match try_get(queue, at_once()) {
                Ok(item) => got.note(item),
                Err(error) => assert_eq!(error, Error::Empty),
            }
        });
        let queued = processes.finish();
        assert_eq!([log.items(), queued].concat(), [2]);
    });
}

#[test]
fn two_aged_getters() {
    Model::new("two aged getters, items put together", AtMost(1)).check(|| {
        let queue = create(&PLAIN);
        let log = Log::default();
        let mut processes = Processes::of(&queue);
        for process in [1, 2] {
            let log = log.clone();
            processes.start(process, move |queue| {
                let mut batch = Batch::with_room_for(2).expect("there is memory");
                queue.get_many(&mut batch, forever()).expect("a get succeeds");
                batch.into_items(|item| match item {
                    Taken::Copied(bytes) => log.note(bytes[0]),
                    Taken::Lent(_) => unreachable!("it is small"),
                });
            });
        }
        processes.start(3, |queue| {
            until_others_have_aged();
            assert_eq!(queue.put_many(&[&[1], &[2], &[3]], forever()), (3, Ok(())));
        });
        let queued = processes.finish();
        let mut all = [log.items(), queued].concat();
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3]);
    });
}

#[test]
fn an_aged_putter() {
    Model::new("an aged putter, a getter, a putter that does not wait", AtMost(2)).check(|| {
        let queue = create(&NARROW);
        put(&queue, 0);
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| put(queue, 1));
        processes.start(2, |queue| {
            until_others_have_aged();
            let_another_in();
            assert_eq!(get(queue), 0);
        });
        processes.start(3, |queue| {
            until_let_in();
            assert_eq!(queue.put(&[&[9]], at_once()).map(drop), Err(Error::Full));
        });
        assert_eq!(processes.finish(), [1]);
    });
}

/// They have written their items without the lock.
#[test]
fn aged_putters_of_large_payloads() {
    Model::new("two aged putters of large payloads, a getter", AtMost(1)).check(|| {
        let queue = create(&NARROW);
        prepare_heap(&queue);
        put(&queue, 0);
        let log = Log::default();
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| put_large(queue, 1));
        processes.start(2, |queue| put_large(queue, 2));
        let got = log.clone();
        processes.start(3, move |queue| {
            until_others_have_aged();
            for _ in 0..3 {
                got.note(get(queue));
            }
        });
        assert_eq!(processes.finish(), []);
        let items = log.items();
        assert!(items == [0, 1, 2] || items == [0, 2, 1], "{items:?}");
    });
}

/// A signal comes at any moment. A put that ends with an error has put nothing.
#[test]
fn an_interrupted_aged_putter() {
    Model::new("an aged putter is interrupted, a getter makes room", AtMost(2)).check(|| {
        let queue = create(&NARROW);
        put(&queue, 0);
        let log = Log::default();
        world::expect_disturbance(1);
        let mut processes = Processes::of(&queue);
        let put_ = log.clone();
        processes.start(1, move |queue| {
            let wait = Wait {
                patience: Patience::Forever,
                interrupted: &mut || world::elapsed().0 >= LONG_AGO,
            };
            match queue.put(&[&[1]], wait) {
                Ok(_) => put_.note(1),
                Err(error) => assert_eq!(error, Error::Interrupted),
            }
        });
        processes.start(2, |queue| {
            until_others_have_aged();
            let_another_in();
            assert_eq!(get(queue), 0);
        });
        processes.start(3, |_| {
            until_let_in();
            world::disturb(1, Slept::Interrupted);
        });
        let queued = processes.finish();
        assert_eq!(log.items(), queued);
    });
}

/// A signal comes at any moment. What it was handed goes to the next, while its process goes on.
#[test]
fn an_interrupted_aged_getter() {
    Model::new("an aged getter is interrupted, another goes on", AtMost(1)).check(|| {
        let queue = create(&PLAIN);
        let (first, second) = (Log::default(), Log::default());
        world::expect_disturbance(1);
        let mut processes = Processes::of(&queue);
        let (got, of_another) = (first.clone(), second.clone());
        processes.start(1, move |queue| {
            let wait = Wait {
                patience: Patience::Forever,
                interrupted: &mut || world::elapsed().0 >= LONG_AGO,
            };
            match try_get(queue, wait) {
                Ok(item) => {
                    got.note(item);
                    put(queue, 2);
                }
                Err(error) => assert_eq!(error, Error::Interrupted),
            }
            // Its death would return what it has not.
            while of_another.items().is_empty() {
                until_others_have_aged();
            }
        });
        let got = second.clone();
        processes.start(2, move |queue| got.note(get(queue)));
        processes.start(3, |queue| {
            until_others_have_aged();
            let_another_in();
            put(queue, 1);
        });
        processes.start(4, |_| {
            until_let_in();
            world::disturb(1, Slept::Interrupted);
        });
        let queued = processes.finish();
        let mut all = [first.items(), second.items(), queued].concat();
        all.sort_unstable();
        assert_eq!(all, [1, 2][..=first.items().len()]);
    });
}

// ---------------------------------------------------------------------------------------------------- deaths

#[test]
fn a_putter_dies_beside_an_aged_getter_out_of_time() {
    let model = Model::new("an aged getter is out of time, a putter dies", AtMost(1));
    model.check_stopping(1, How::Dies, out_of_time);
}

/// The putter stops for longer than a getter whose time is over waits for the lock, unless it was handed an
/// item.
#[test]
fn a_putter_pauses_beside_an_aged_getter_out_of_time() {
    let pause = How::Pauses(Duration::from_millis(40));
    let model = Model::new("an aged getter is out of time, a putter pauses", AtMost(1));
    model.check_stopping(1, pause, out_of_time);
}

/// A getter's time is over soon after it was handed an item: no younger item comes before that one.
fn out_of_time() {
    let queue = create(&PLAIN);
    let (first, second) = (Log::default(), Log::default());
    let mut processes = Processes::of(&queue);
    processes.start(1, |queue| {
        until_others_have_aged();
        put(queue, 1);
        put(queue, 2);
    });
    let got = first.clone();
    processes.start(2, move |queue| {
        let wait = Wait {
            patience: Patience::Until(Instant::now() + LONG_AGO + Duration::from_millis(5)),
            interrupted: &mut || false,
        };
        match try_get(queue, wait) {
            Ok(item) => got.note(item),
            Err(error) => assert!(matches!(error, Error::Empty | Error::EmptyBehindStopped { .. })),
        }
        // Its death would return what it has not.
        world::sleep(0, 10 * LONG_AGO);
    });
    let got = second.clone();
    processes.start(3, move |queue| get_all(queue, &got, |_| ()));
    assert_eq!(processes.finish(), []);
    let all = [first.items(), second.items()].concat();
    assert!(
        [1, 2].starts_with(&all),
        "{:?} {:?}",
        first.items(),
        second.items()
    );
}

#[test]
fn an_aged_getter_dies() {
    Model::new("an aged getter dies, another goes on", AtMost(1)).check_stopping(1, How::Dies, || {
        let queue = create(&PLAIN);
        let (lost, got) = (Log::default(), Log::default());
        let mut processes = Processes::of(&queue);
        let log = lost.clone();
        processes.start(1, move |queue| {
            if let Ok(item) = try_get(queue, patient()) {
                log.note(item);
            }
        });
        let log = got.clone();
        processes.start(2, move |queue| get_all(queue, &log, |_| ()));
        processes.start(3, |queue| {
            until_others_have_aged();
            put(queue, 1);
            put(queue, 2);
        });
        assert_eq!(processes.finish(), []);
        is_whole(&lost, &got, LONG_AGO + SOON);
    });
}

#[test]
fn a_putter_dies_that_hands_an_item() {
    let model = Model::new("a putter dies that hands an item to an aged getter", AtMost(1));
    model.check_stopping(1, How::Dies, || {
        let queue = create(&PLAIN);
        let (put_, got) = (Log::default(), Log::default());
        let mut processes = Processes::of(&queue);
        let log = put_.clone();
        processes.start(1, move |queue| {
            until_others_have_aged();
            put(queue, 1);
            log.note(1);
        });
        let log = got.clone();
        processes.start(2, move |queue| get_all(queue, &log, |_| ()));
        assert_eq!(processes.finish(), []);
        let (put_, items) = (put_.items(), got.items());
        assert!(
            items.starts_with(&put_) && [1].starts_with(&items),
            "{put_:?} {items:?}"
        );
        assert!(got.last_at() <= LONG_AGO + SOON, "{:?}", got.last_at());
    });
}

#[test]
fn a_getter_dies_that_publishes_an_item() {
    let model = Model::new("a getter dies that publishes an aged putter's item", AtMost(1));
    model.check_stopping(1, How::Dies, || {
        let queue = create(&NARROW);
        put(&queue, 0);
        let got = Log::default();
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| {
            until_others_have_aged();
            assert_eq!(get(queue), 0);
        });
        processes.start(2, |queue| put(queue, 1));
        let log = got.clone();
        processes.start(3, move |queue| {
            world::sleep(0, LONG_AGO * 2);
            get_all(queue, &log, |_| ());
        });
        assert_eq!(processes.finish(), []);
        let items = got.items();
        assert!(items == [0, 1] || items == [1], "{items:?}");
        assert!(got.last_at() <= LONG_AGO * 2 + SOON, "{:?}", got.last_at());
    });
}

#[test]
fn an_aged_putter_dies() {
    Model::new("an aged putter dies, another goes on", AtMost(1)).check_stopping(1, How::Dies, || {
        let queue = create(&NARROW);
        put(&queue, 0);
        let got = Log::default();
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| {
            let _ = queue.put(&[&[1]], patient());
        });
        processes.start(2, |queue| put(queue, 2));
        let log = got.clone();
        processes.start(3, move |queue| {
            until_others_have_aged();
            get_all(queue, &log, |_| ());
        });
        assert_eq!(processes.finish(), []);
        let mut items = got.items();
        items.sort_unstable();
        assert!(items == [0, 1, 2] || items == [0, 2], "{items:?}");
        assert!(got.last_at() <= LONG_AGO + SOON, "{:?}", got.last_at());
    });
}

/// An item that another has finished meanwhile is delivered, and none comes twice.
#[test]
fn an_aged_worker_dies() {
    Model::new("an aged worker dies, its item is done by another", AtMost(1)).check_stopping(
        1,
        How::Dies,
        || {
            let queue = create(&ACKNOWLEDGED);
            queue.join(forever()).expect("nothing is unfinished");
            let (given_up, done) = (Log::default(), Log::default());
            let mut processes = Processes::of(&queue);
            let log = given_up.clone();
            processes.start(1, move |queue| {
                if let Ok(item) = try_get(queue, patient()) {
                    queue.task_done().expect("it is unfinished");
                    log.note(item);
                }
            });
            let log = done.clone();
            processes.start(2, move |queue| {
                get_all(queue, &log, |queue: &Queue| {
                    queue.task_done().expect("it is unfinished");
                });
            });
            processes.start(3, |queue| {
                until_others_have_aged();
                put(queue, 1);
                queue.join(forever()).expect("all is finished");
            });
            assert_eq!(processes.finish(), []);
            let all = [given_up.items(), done.items()].concat();
            assert!(all == [1] || all.is_empty(), "{all:?}");
        },
    );
}

// ----------------------------------------------------------------------------------------------------- stops

/// It goes on when its item has gone to another, or before.
#[test]
fn an_aged_getter_pauses() {
    let pause = How::Pauses(Duration::from_millis(250));
    Model::new("an aged getter pauses, another goes on", AtMost(0)).check_stopping(1, pause, || {
        let queue = create(&PLAIN);
        let log = Log::default();
        let mut processes = Processes::of(&queue);
        for process in [1, 2] {
            let log = log.clone();
            processes.start(process, move |queue| log.note(get(queue)));
        }
        processes.start(3, |queue| {
            until_others_have_aged();
            put(queue, 1);
            put(queue, 2);
        });
        assert_eq!(processes.finish(), []);
        assert_eq!(log.items().iter().sum::<u8>(), 3);
    });
}
