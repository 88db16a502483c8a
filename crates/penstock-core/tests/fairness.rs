//! Waiters that have waited for long are served first; and what becomes of an item, or of a place, that a
//! waiter was handed which then dies, is stopped, gives up or is out of time.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use penstock_core::{Batch, Buffer, Error, Options, Patience, Queue, Taken, Wait};

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/get.rs"]
mod get;
#[path = "common/soon.rs"]
mod soon;
#[path = "common/stops.rs"]
mod stops;
#[path = "common/waiters.rs"]
mod waiters;

use child::Child;
use common::{PLAIN, wait};
use get::get;
use soon::soon;
use waiters::{getter, putter};

const ONE: Options = Options { maxsize: 1, ..PLAIN };
const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    ..PLAIN
};
const LARGE: usize = 100_000;

/// The time of a call that ends without its item, or place. Until then its waiter has to age, and to be
/// stopped.
const SHORT: Duration = Duration::from_millis(800);

fn put(queue: &Queue, payload: &[u8], patience: Patience) -> Result<(), Error> {
    wait(patience, |wait| queue.put(&[payload], wait)).map(drop)
}

fn at_once(queue: &Arc<Queue>) -> Result<Vec<u8>, Error> {
    get(queue, Patience::NoWait)
}

fn create(options: &Options) -> Arc<Queue> {
    Queue::create(options).unwrap()
}

fn is_sound(queue: &Queue) {
    assert_eq!(queue.check().unwrap().findings, []);
}

/// Waits until so many waiters have aged.
fn until_aged(queue: &Queue, count: u64) {
    while queue.check().unwrap().aged != count {
        thread::yield_now();
    }
}

/// Waits until so many putters have aged and have written their items. That may take the lock several times.
fn until_written(queue: &Queue, count: u64) {
    while queue.check().unwrap().written != count {
        thread::yield_now();
    }
}

/// The items of one byte that these getters have got, the smallest first.
fn got_by(getters: Vec<JoinHandle<Result<Vec<u8>, Error>>>) -> Vec<u8> {
    let mut got: Vec<u8> = getters
        .into_iter()
        .map(|getter| getter.join().unwrap().unwrap()[0])
        .collect();
    got.sort_unstable();
    got
}

impl Child {
    /// Stops it, and waits until it is stopped.
    fn stop(&self) {
        self.signal(libc::SIGSTOP);
        assert!(self.stops());
    }

    fn kill(mut self) {
        self.signal(libc::SIGKILL);
        self.reap();
    }

    /// Lets it go on, and waits until it has ended well.
    fn finish(mut self) {
        self.signal(libc::SIGCONT);
        assert_eq!(self.reap(), 0);
    }
}

/// A process that has waited for long in `work`, in a state that `until` waits for, and is stopped there.
fn stopped_in(queue: &Arc<Queue>, until: fn(&Queue, u64), work: impl FnOnce()) -> Child {
    let child = Child::run(work);
    until(queue, 1);
    child.stop();
    child
}

// --------------------------------------------------------------------------------------- who is served first

#[test]
fn a_getter_that_has_waited_gets_the_next_item() {
    let queue = create(&PLAIN);
    let waiting = getter(&queue);
    until_aged(&queue, 1);
    put(&queue, b"its own", Patience::NoWait).unwrap();
    // Taken, before the getter has run.
    assert_eq!((queue.len(), queue.is_empty()), (0, true));
    assert_eq!(at_once(&queue), Err(Error::Empty));
    assert_eq!(waiting.join().unwrap().unwrap(), b"its own");
    is_sound(&queue);
}

#[test]
fn getters_that_have_waited_are_served_in_the_order_of_their_age() {
    for len in [1, 500, LARGE] {
        let queue = create(&PLAIN);
        let mut waiting = Vec::new();
        for number in 1..=4 {
            waiting.push(getter(&queue));
            until_aged(&queue, number);
        }
        // One that has come just now.
        let young = getter(&queue);
        while queue.statistics().unwrap().waiting_getters < 5 {
            thread::yield_now();
        }
        for number in 0..5 {
            put(&queue, &vec![number; len], Patience::NoWait).unwrap();
        }
        for (number, getter) in (0..).zip(waiting.into_iter().chain([young])) {
            assert_eq!(getter.join().unwrap().unwrap(), vec![number; len]);
        }
        is_sound(&queue);
    }
}

#[test]
fn items_put_together_go_to_those_that_have_waited() {
    let queue = create(&PLAIN);
    let waiting: Vec<_> = (0..20).map(|_| getter(&queue)).collect();
    until_aged(&queue, 20);
    let payloads: Vec<[u8; 1]> = (0..30).map(|number| [number]).collect();
    let payloads: Vec<&[u8]> = payloads.iter().map(<[u8; 1]>::as_slice).collect();
    assert_eq!(
        wait(Patience::NoWait, |wait| queue.put_many(&payloads, wait)),
        (30, Ok(()))
    );
    assert_eq!(at_once(&queue).unwrap(), [20]);
    assert_eq!(got_by(waiting), (0..20).collect::<Vec<u8>>());
    is_sound(&queue);
}

#[test]
fn a_batch_of_one_that_has_waited_begins_with_its_item() {
    let queue = create(&PLAIN);
    let waiting = thread::spawn({
        let queue = queue.clone();
        move || {
            let mut batch = Batch::with_room_for(3).unwrap();
            wait(soon(), |wait| queue.get_many(&mut batch, wait)).unwrap();
            let mut items = Vec::new();
            batch.into_items(|item| match item {
                Taken::Copied(bytes) => items.extend_from_slice(bytes),
                Taken::Lent(lent) => items.push(lent.bytes()[0]),
            });
            items
        }
    });
    until_aged(&queue, 1);
    let payloads: [&[u8]; 2] = [&[1], &[2]];
    assert_eq!(
        wait(Patience::NoWait, |wait| queue.put_many(&payloads, wait)),
        (2, Ok(()))
    );
    let rest = at_once(&queue);
    let mut items = waiting.join().unwrap();
    items.extend(rest.into_iter().flatten());
    assert_eq!(items, [1, 2]);
    is_sound(&queue);
}

#[test]
fn a_putter_that_has_waited_gets_the_next_place() {
    for payload in [&b"its own"[..], &[7; 500], &[7; LARGE]] {
        let queue = create(&ONE);
        put(&queue, b"first", Patience::NoWait).unwrap();
        let waiting = thread::spawn({
            let (queue, payload) = (queue.clone(), payload.to_vec());
            move || put(&queue, &payload, soon())
        });
        until_written(&queue, 1);
        assert_eq!((queue.len(), queue.is_full()), (1, true));
        assert_eq!(at_once(&queue).unwrap(), b"first");
        // The place is taken, before the putter has run.
        assert_eq!((queue.len(), queue.is_full()), (1, true));
        assert_eq!(put(&queue, b"later", Patience::NoWait), Err(Error::Full));
        assert_eq!(waiting.join().unwrap(), Ok(()));
        assert_eq!(at_once(&queue).unwrap(), payload);
        assert_eq!(at_once(&queue), Err(Error::Empty));
        is_sound(&queue);
    }
}

#[test]
fn putters_that_have_waited_are_served_in_the_order_of_their_age() {
    let queue = create(&ONE);
    put(&queue, &[0], Patience::NoWait).unwrap();
    let mut waiting = Vec::new();
    for (number, payload) in [[1], [2], [3]].iter().enumerate() {
        waiting.push(putter(&queue, payload));
        until_written(&queue, number as u64 + 1);
    }
    for number in 0..4 {
        assert_eq!(at_once(&queue).unwrap(), [number]);
    }
    for putter in waiting {
        assert_eq!(putter.join().unwrap(), Ok(()));
    }
    is_sound(&queue);
}

#[test]
fn the_first_of_many_that_were_put_together_gets_the_next_place() {
    let queue = create(&ONE);
    put(&queue, &[0], Patience::NoWait).unwrap();
    let waiting = thread::spawn({
        let queue = queue.clone();
        move || wait(soon(), |wait| queue.put_many(&[&[1], &[2], &[3]], wait))
    });
    until_written(&queue, 1);
    assert_eq!(at_once(&queue).unwrap(), [0]);
    assert_eq!(put(&queue, &[9], Patience::NoWait), Err(Error::Full));
    for number in 1..=3 {
        assert_eq!(get(&queue, soon()).unwrap(), [number]);
    }
    assert_eq!(waiting.join().unwrap(), (3, Ok(())));
    is_sound(&queue);
}

#[test]
fn a_putter_at_the_soft_limit_is_served_as_well() {
    let queue = create(&Options {
        soft_bytes: 500,
        ..PLAIN
    });
    put(&queue, &[0; 600], Patience::NoWait).unwrap();
    let waiting = putter(&queue, &[1; 600]);
    until_written(&queue, 1);
    assert_eq!(at_once(&queue).unwrap(), [0; 600]);
    assert_eq!(put(&queue, &[9], Patience::NoWait), Err(Error::Full));
    assert_eq!(waiting.join().unwrap(), Ok(()));
    assert_eq!(at_once(&queue).unwrap(), [1; 600]);
    is_sound(&queue);
}

/// It cannot write its item before there is room. It waits on, and puts it then.
#[test]
fn a_putter_without_memory_waits_for_room() {
    for payload in [&[1; 50][..], &[1; LARGE]] {
        let queue = create(&Options {
            max_bytes: Some(200_000),
            ..ONE
        });
        put(&queue, &[0; 150_000], Patience::NoWait).unwrap();
        let waiting = thread::spawn({
            let (queue, payload) = (queue.clone(), payload.to_vec());
            move || put(&queue, &payload, soon())
        });
        until_aged(&queue, 1);
        assert_eq!(get(&queue, soon()).unwrap(), [0; 150_000]);
        assert_eq!(waiting.join().unwrap(), Ok(()));
        assert_eq!(at_once(&queue).unwrap(), payload);
        is_sound(&queue);
    }
}

/// A putter that cannot write its item does not keep the others from the service of the aged.
#[test]
fn a_putter_behind_one_without_memory_is_served() {
    let queue = create(&Options {
        max_bytes: Some(70_000),
        ..ONE
    });
    put(&queue, b"first", Patience::NoWait).unwrap();
    // Stopped, so that it does not come back at once when it is notified.
    let too_large = stopped_in(&queue, until_aged, || {
        let put = put(&queue, &[1; LARGE], soon());
        assert!(matches!(put, Err(Error::OutOfMemory { .. })));
    });
    let second = putter(&queue, b"second");
    until_aged(&queue, 2);
    until_written(&queue, 1);
    assert_eq!(at_once(&queue).unwrap(), b"first");
    // The place was taken in the same section.
    assert_eq!(put(&queue, b"later", Patience::NoWait), Err(Error::Full));
    assert_eq!(at_once(&queue).unwrap(), b"second");
    assert_eq!(second.join().unwrap(), Ok(()));
    // Now there is room for it, and it learns that there is no memory.
    too_large.finish();
    is_sound(&queue);
}

/// A wait that takes nothing does not keep an item from others.
#[test]
fn a_wait_that_takes_nothing_is_handed_nothing() {
    let queue = create(&PLAIN);
    let asking = thread::spawn({
        let queue = queue.clone();
        move || wait(soon(), |wait| queue.await_item(wait))
    });
    let waiting = getter(&queue);
    until_aged(&queue, 1);
    put(&queue, b"one", Patience::NoWait).unwrap();
    assert_eq!(waiting.join().unwrap().unwrap(), b"one");
    put(&queue, b"another", Patience::NoWait).unwrap();
    assert_eq!(queue.len(), 1);
    assert_eq!(asking.join().unwrap(), Ok(()));
    assert_eq!(at_once(&queue).unwrap(), b"another");
    is_sound(&queue);
}

/// More waiters than have a place of their own in the order of slices.
#[test]
fn a_hundred_waiters_are_all_served() {
    let queue = create(&PLAIN);
    let waiting: Vec<_> = (0..100).map(|_| getter(&queue)).collect();
    until_aged(&queue, 100);
    is_sound(&queue);
    for number in 0..100 {
        put(&queue, &[number], Patience::NoWait).unwrap();
        assert!(queue.is_empty());
    }
    assert_eq!(got_by(waiting), (0..100).collect::<Vec<u8>>());
    is_sound(&queue);
}

/// The load of one worker, on four: each has its share, because each has waited when an item comes.
#[test]
fn workers_share_a_small_load() {
    let queue = create(&PLAIN);
    let (report, reports) = mpsc::channel();
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let (queue, report) = (queue.clone(), report.clone());
            thread::spawn(move || {
                while get(&queue, soon()).unwrap() != b"end" {
                    report.send(worker).unwrap();
                }
            })
        })
        .collect();
    let mut shares = [0; 4];
    for _ in 0..3 {
        until_aged(&queue, 4);
        for _ in 0..4 {
            put(&queue, b"work", Patience::NoWait).unwrap();
        }
        for _ in 0..4 {
            shares[reports.recv().unwrap()] += 1;
        }
    }
    assert_eq!(shares, [3; 4]);
    for _ in 0..4 {
        put(&queue, b"end", Patience::NoWait).unwrap();
    }
    for worker in workers {
        worker.join().unwrap();
    }
}

// ----------------------------------------------------------------------------------- what may happen to them

/// It has no time left when it goes on, and its item is there.
#[test]
fn a_getter_out_of_time_has_the_item_that_it_was_handed() {
    let queue = create(&PLAIN);
    let deadline = Instant::now() + SHORT;
    let stopped = stopped_in(&queue, until_aged, || {
        assert_eq!(get(&queue, Patience::Until(deadline)).unwrap(), b"its own");
    });
    put(&queue, b"its own", Patience::NoWait).unwrap();
    // Meanwhile no process asks for anything: that would take the item back.
    while Instant::now() < deadline {
        thread::yield_now();
    }
    stopped.finish();
    assert!(queue.is_empty());
    is_sound(&queue);
}

#[test]
fn a_putter_out_of_time_learns_that_its_item_was_put() {
    let queue = create(&ONE);
    put(&queue, b"first", Patience::NoWait).unwrap();
    let deadline = Instant::now() + SHORT;
    let stopped = stopped_in(&queue, until_written, || {
        assert_eq!(put(&queue, b"its own", Patience::Until(deadline)), Ok(()));
    });
    assert_eq!(at_once(&queue).unwrap(), b"first");
    assert_eq!(queue.len(), 1);
    while Instant::now() < deadline {
        thread::yield_now();
    }
    stopped.finish();
    assert_eq!(at_once(&queue).unwrap(), b"its own");
    is_sound(&queue);
}

#[test]
fn a_putter_out_of_time_has_put_nothing() {
    for payload in [&b"in vain"[..], &[1; LARGE]] {
        let queue = create(&ONE);
        put(&queue, b"first", Patience::NoWait).unwrap();
        let until = Patience::Until(Instant::now() + Duration::from_millis(250));
        assert_eq!(put(&queue, payload, until), Err(Error::Full));
        assert_eq!(queue.check().unwrap().claimed, 0);
        assert_eq!(at_once(&queue).unwrap(), b"first");
        assert_eq!(at_once(&queue), Err(Error::Empty));
        is_sound(&queue);
    }
}

/// It is interrupted with the item in its hands: the item is in its old place again, and was not delivered.
#[test]
fn an_interrupted_getter_gives_its_item_back() {
    let queue = create(&ACKNOWLEDGED);
    let (is_asked, is_handed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let waiting = thread::spawn({
        let (queue, is_asked, is_handed) = (queue.clone(), is_asked.clone(), is_handed.clone());
        move || {
            let mut slices = 0;
            let mut interrupted = || {
                slices += 1;
                if slices < 2 {
                    return false;
                }
                // At the end of a slice, after it has aged.
                is_asked.store(true, Ordering::SeqCst);
                while !is_handed.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                true
            };
            let wait = Wait {
                patience: Patience::Forever,
                interrupted: &mut interrupted,
            };
            queue.get(&mut Buffer::default(), wait).map(drop)
        }
    });
    until_aged(&queue, 1);
    while !is_asked.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    put(&queue, &[1], Patience::NoWait).unwrap();
    put(&queue, &[2], Patience::NoWait).unwrap();
    assert_eq!(queue.len(), 1);
    is_handed.store(true, Ordering::SeqCst);
    assert_eq!(waiting.join().unwrap(), Err(Error::Interrupted));
    assert_eq!(queue.len(), 2);
    assert_eq!(
        (at_once(&queue).unwrap(), at_once(&queue).unwrap()),
        (vec![1], vec![2])
    );
    let statistics = queue.statistics().unwrap();
    assert_eq!((statistics.redeliveries, statistics.unfinished), (0, 2));
    is_sound(&queue);
}

#[test]
fn the_item_of_a_dead_getter_returns_and_was_not_delivered() {
    // With `max_deliveries` 0 an item that was delivered would be a dead letter.
    for options in [
        PLAIN,
        Options {
            max_deliveries: 0,
            ..ACKNOWLEDGED
        },
    ] {
        let queue = create(&options);
        let stopped = stopped_in(&queue, until_aged, || drop(get(&queue, soon())));
        put(&queue, &[1], Patience::NoWait).unwrap();
        assert_eq!(queue.len(), 0);
        put(&queue, &[2], Patience::NoWait).unwrap();
        stopped.kill();
        assert_eq!(queue.statistics().unwrap().gets, 0);
        assert_eq!(
            (at_once(&queue).unwrap(), at_once(&queue).unwrap()),
            (vec![1], vec![2])
        );
        let statistics = queue.statistics().unwrap();
        assert_eq!((statistics.redeliveries, statistics.dead_letters), (0, 0));
        is_sound(&queue);
    }
}

/// Other waiters get the item, in the order of their age, though no process asks for anything.
#[test]
fn the_item_of_a_dead_getter_goes_to_the_next() {
    let queue = create(&PLAIN);
    let first = stopped_in(&queue, until_aged, || drop(get(&queue, soon())));
    let second = getter(&queue);
    until_aged(&queue, 2);
    put(&queue, b"one", Patience::NoWait).unwrap();
    first.kill();
    assert_eq!(second.join().unwrap().unwrap(), b"one");
    is_sound(&queue);
}

#[test]
fn the_item_of_a_stopped_getter_goes_to_the_next() {
    let queue = create(&ACKNOWLEDGED);
    let first = stopped_in(&queue, until_aged, || {
        assert_eq!(get(&queue, soon()).unwrap(), b"another")
    });
    let second = getter(&queue);
    until_aged(&queue, 2);
    put(&queue, b"one", Patience::NoWait).unwrap();
    assert_eq!(second.join().unwrap().unwrap(), b"one");
    assert_eq!(queue.statistics().unwrap().redeliveries, 0);
    put(&queue, b"another", Patience::NoWait).unwrap();
    first.finish();
    // The process has ended with the item in hand, and nothing was acknowledged.
    is_sound(&queue);
}

/// A caller that never waits finds the item soon.
#[test]
fn the_item_of_a_stopped_getter_is_found_without_waiting() {
    let queue = create(&PLAIN);
    let stopped = stopped_in(&queue, until_aged, || {
        assert_eq!(get(&queue, soon()).unwrap(), b"another")
    });
    put(&queue, b"one", Patience::NoWait).unwrap();
    while queue.is_empty() {
        thread::yield_now();
    }
    assert_eq!(at_once(&queue).unwrap(), b"one");
    put(&queue, b"another", Patience::NoWait).unwrap();
    stopped.finish();
    is_sound(&queue);
}

#[test]
fn a_stopped_putters_item_is_put() {
    let queue = create(&ONE);
    put(&queue, b"first", Patience::NoWait).unwrap();
    let stopped = stopped_in(&queue, until_written, || put(&queue, b"its own", soon()).unwrap());
    let second = putter(&queue, b"second");
    until_written(&queue, 2);
    for item in [&b"first"[..], b"its own", b"second"] {
        assert_eq!(at_once(&queue).unwrap(), item);
    }
    assert_eq!(second.join().unwrap(), Ok(()));
    stopped.finish();
    is_sound(&queue);
}

#[test]
fn a_dead_putters_place_goes_to_the_next() {
    let queue = create(&ONE);
    put(&queue, b"first", Patience::NoWait).unwrap();
    let stopped = stopped_in(&queue, until_written, || put(&queue, b"lost", soon()).unwrap());
    let second = putter(&queue, b"second");
    until_written(&queue, 2);
    stopped.kill();
    queue.statistics().unwrap();
    assert_eq!(at_once(&queue).unwrap(), b"first");
    assert_eq!(at_once(&queue).unwrap(), b"second");
    assert_eq!(second.join().unwrap(), Ok(()));
    assert_eq!(queue.check().unwrap().claimed, 0);
    is_sound(&queue);
}

/// `task_done` for the only item, which is on its way to a getter: that gets it all the same.
#[test]
fn an_item_on_its_way_can_be_finished() {
    for is_killed in [false, true] {
        let queue = create(&ACKNOWLEDGED);
        let stopped = stopped_in(&queue, until_aged, || {
            assert_eq!(get(&queue, soon()).unwrap(), b"one")
        });
        put(&queue, b"one", Patience::NoWait).unwrap();
        queue.task_done().unwrap();
        assert_eq!(queue.task_done(), Err(Error::TooManyDone));
        assert_eq!(wait(Patience::NoWait, |wait| queue.join(wait)), Ok(()));
        is_sound(&queue);
        if is_killed {
            stopped.kill();
            assert_eq!(queue.statistics().unwrap().unfinished, 0);
            assert_eq!(at_once(&queue).unwrap(), b"one");
        } else {
            stopped.finish();
        }
        assert_eq!(queue.statistics().unwrap().unfinished, 0);
        assert_eq!(queue.task_done(), Err(Error::TooManyDone));
        is_sound(&queue);
    }
}

/// An item that was finished before any get.
#[test]
fn a_finished_item_is_handed_and_returned_as_such() {
    let queue = create(&ACKNOWLEDGED);
    put(&queue, b"one", Patience::NoWait).unwrap();
    queue.task_done().unwrap();
    assert_eq!(at_once(&queue).unwrap(), b"one");
    let stopped = stopped_in(&queue, until_aged, || drop(get(&queue, soon())));
    let payloads: [&[u8]; 2] = [b"two", b"three"];
    assert_eq!(
        wait(Patience::NoWait, |wait| queue.put_many(&payloads, wait)),
        (2, Ok(()))
    );
    queue.task_done().unwrap();
    queue.task_done().unwrap();
    stopped.kill();
    let statistics = queue.statistics().unwrap();
    assert_eq!((statistics.queued, statistics.unfinished), (2, 0));
    is_sound(&queue);
    assert_eq!(at_once(&queue).unwrap(), b"two");
    assert_eq!(at_once(&queue).unwrap(), b"three");
    is_sound(&queue);
}

/// Getters and putters with time-outs, more than there are items and places for a while: nothing is lost or
/// doubled, and the books balance.
#[test]
fn time_outs_and_hand_overs_lose_nothing() {
    let queue = create(&Options { maxsize: 2, ..PLAIN });
    let is_over = Arc::new(AtomicBool::new(false));
    let getters: Vec<_> = (0..6)
        .map(|number| {
            let (queue, is_over) = (queue.clone(), is_over.clone());
            thread::spawn(move || {
                let mut got = Vec::new();
                while !is_over.load(Ordering::SeqCst) {
                    let patience = Patience::Until(Instant::now() + Duration::from_millis(90 + 7 * number));
                    match get(&queue, patience) {
                        Ok(item) => got.push(u64::from_le_bytes(item.try_into().unwrap())),
                        Err(error) => assert_eq!(error, Error::Empty),
                    }
                }
                got
            })
        })
        .collect();
    let mut put_ = Vec::new();
    for number in 0..200u64 {
        thread::sleep(Duration::from_millis(number % 20));
        if put(&queue, &number.to_le_bytes(), Patience::NoWait).is_ok() {
            put_.push(number);
        }
    }
    while !queue.is_empty() {
        thread::yield_now();
    }
    is_over.store(true, Ordering::SeqCst);
    let mut got: Vec<u64> = getters
        .into_iter()
        .flat_map(|getter| getter.join().unwrap())
        .collect();
    got.extend(
        at_once(&queue)
            .ok()
            .map(|item| u64::from_le_bytes(item.try_into().unwrap())),
    );
    got.sort_unstable();
    assert_eq!(got, put_);
    is_sound(&queue);
}

// ------------------------------------------------------------------------------------ deaths at fault points

#[cfg(feature = "fault-points")]
mod deaths {
    use penstock_core::fault;

    use super::*;

    /// A child that dies at `point`.
    fn dies_at(point: &str, work: impl FnOnce()) {
        let mut child = Child::run(|| {
            assert!(fault::arm(point, 1));
            work();
        });
        assert!(libc::WIFSIGNALED(child.reap()), "{point}: it did not pass there");
    }

    /// The process that hands an item dies. Its getter gets that item, or the next.
    #[test]
    fn of_a_putter_that_hands_its_item() {
        for (point, is_there) in [
            ("put.committed", true),
            ("put.linked", true),
            ("hand.marked", true),
            ("hand.committed", true),
            ("unlock.before-wake", true),
            ("put.numbered", false),
        ] {
            for options in [PLAIN, ACKNOWLEDGED] {
                let queue = create(&options);
                let first = getter(&queue);
                until_aged(&queue, 1);
                let second = getter(&queue);
                until_aged(&queue, 2);
                dies_at(point, || put(&queue, b"the dead one's", soon()).unwrap());
                put(&queue, b"another", Patience::NoWait).unwrap();
                let mut expected = vec![&b"the dead one's"[..], b"another"];
                if !is_there {
                    put(&queue, b"a third", Patience::NoWait).unwrap();
                    expected = vec![b"another", b"a third"];
                }
                let mut got = [first.join().unwrap().unwrap(), second.join().unwrap().unwrap()];
                // After a rebuild the order of the waiters may be another.
                got.sort();
                expected.sort_unstable();
                assert_eq!(got.each_ref().map(Vec::as_slice), expected[..], "{point}");
                assert_eq!(queue.statistics().unwrap().redeliveries, 0, "{point}");
                is_sound(&queue);
            }
        }
    }

    /// The getter that was handed an item dies on its way, in which `point` lies.
    #[test]
    fn of_a_getter_that_was_handed_an_item() {
        for (options, point, returns, redeliveries) in [
            (PLAIN, "wait.back", true, 0),
            (PLAIN, "get.copied", true, 0),
            (PLAIN, "get.unlinked", true, 0),
            (PLAIN, "slot.freed", false, 0),
            (PLAIN, "get.freed", false, 0),
            (ACKNOWLEDGED, "get.copied", true, 0),
            (ACKNOWLEDGED, "get.leased", true, 1),
        ] {
            let queue = create(&options);
            wait(Patience::NoWait, |wait| queue.join(wait)).unwrap();
            let mut child = Child::run(|| {
                // It comes back twice: to say that it has aged, and for the item.
                assert!(fault::arm(point, if point == "wait.back" { 2 } else { 1 }));
                drop(get(&queue, soon()));
            });
            until_aged(&queue, 1);
            child.stop();
            put(&queue, &[1], Patience::NoWait).unwrap();
            put(&queue, &[2], Patience::NoWait).unwrap();
            child.signal(libc::SIGCONT);
            assert!(libc::WIFSIGNALED(child.reap()), "{point}: it did not pass there");
            let expected: &[u8] = if returns { &[1, 2] } else { &[2] };
            queue.statistics().unwrap();
            let got: Vec<u8> = expected.iter().map(|_| get(&queue, soon()).unwrap()[0]).collect();
            assert_eq!(got, expected, "{point}");
            assert_eq!(at_once(&queue), Err(Error::Empty), "{point}");
            assert_eq!(queue.statistics().unwrap().redeliveries, redeliveries, "{point}");
            is_sound(&queue);
        }
    }

    /// The process that makes room dies while it publishes a putter's item.
    #[test]
    fn of_a_getter_that_publishes_an_item() {
        for point in [
            "slot.freed",
            "hand.marked",
            "put.numbered",
            "put.committed",
            "put.ordered",
            "put.linked",
            "hand.published",
            "hand.numbered",
            "unlock.before-wake",
        ] {
            for payload in [&b"its own"[..], &[7; 500], &[7; LARGE]] {
                let queue = create(&ONE);
                put(&queue, b"first", Patience::NoWait).unwrap();
                let waiting = thread::spawn({
                    let (queue, payload) = (queue.clone(), payload.to_vec());
                    move || put(&queue, &payload, soon())
                });
                until_written(&queue, 1);
                dies_at(point, || drop(at_once(&queue)));
                assert_eq!(get(&queue, soon()).unwrap(), payload, "{point}");
                assert_eq!(waiting.join().unwrap(), Ok(()), "{point}");
                assert_eq!(at_once(&queue), Err(Error::Empty), "{point}");
                let statistics = queue.statistics().unwrap();
                assert_eq!((statistics.puts, statistics.queued), (2, 0), "{point}");
                is_sound(&queue);
            }
        }
    }

    #[test]
    fn of_a_putter_that_has_aged() {
        for point in ["wait.aged", "put.filled", "claim.committed", "put.named"] {
            let queue = create(&ONE);
            put(&queue, b"first", Patience::NoWait).unwrap();
            dies_at(point, || put(&queue, b"lost", soon()).unwrap());
            queue.statistics().unwrap();
            assert_eq!(at_once(&queue).unwrap(), b"first", "{point}");
            assert_eq!(at_once(&queue), Err(Error::Empty), "{point}");
            let check = queue.check().unwrap();
            assert_eq!((check.claimed, check.cells), (0, 0), "{point}");
            is_sound(&queue);
        }
    }

    /// A process dies while it takes the item of a stopped getter back, or while it rebuilds beside it.
    #[test]
    fn of_a_participant_that_gives_up_on_a_stopped_getter() {
        for point in [
            "hand.returned",
            "hand.late",
            "rebuild.cleared",
            "rebuild.scanned",
            "rebuild.done",
        ] {
            let queue = create(&ACKNOWLEDGED);
            let stopped = stopped_in(&queue, until_aged, || drop(get(&queue, soon())));
            put(&queue, b"one", Patience::NoWait).unwrap();
            if point.starts_with("rebuild") {
                dies_at("lock.taken", || put(&queue, b"in vain", soon()).unwrap());
            }
            dies_at(point, || {
                while queue.is_empty() {
                    queue.statistics().unwrap();
                }
            });
            assert_eq!(get(&queue, soon()).unwrap(), b"one", "{point}");
            assert_eq!(queue.statistics().unwrap().redeliveries, 0, "{point}");
            is_sound(&queue);
            stopped.kill();
            queue.statistics().unwrap();
            is_sound(&queue);
        }
    }

    /// The same for a getter that has left its cell without the lock, because the lock's holder is stopped.
    #[test]
    fn of_a_getter_that_left_without_the_lock() {
        let queue = create(&PLAIN);
        let deadline = Instant::now() + SHORT;
        let waiting = stopped_in(&queue, until_aged, || {
            assert_eq!(
                get(&queue, Patience::Until(deadline))
                    .map_err(|error| matches!(error, Error::Empty | Error::EmptyBehindStopped { .. })),
                Err(true)
            );
            // SAFETY: raises a valid signal.
            unsafe { libc::raise(libc::SIGSTOP) };
            // Its next section gives back what it was handed.
            while at_once(&queue) != Ok(b"one".to_vec()) {
                thread::yield_now();
            }
        });
        // This process holds the lock: it is stopped in a section that ends later.
        let holder = Child::run(|| {
            assert!(fault::suspend_at("unlock.before-wake"));
            put(&queue, b"one", soon()).unwrap();
        });
        assert!(holder.stops());
        let blocker = Child::run(|| {
            assert!(fault::suspend_at("lock.taken"));
            drop(at_once(&queue));
        });
        assert!(blocker.stops());
        waiting.signal(libc::SIGCONT);
        assert!(waiting.stops());
        holder.finish();
        blocker.finish();
        waiting.finish();
        is_sound(&queue);
    }

    /// A putter's time ends while the lock's holder is stopped between the two stores that publish its item:
    /// it waits for the holder, and learns that its item was put. The same if the holder dies there.
    #[test]
    fn of_a_publisher_beside_a_putter_out_of_time() {
        for point in ["hand.marked", "hand.published", "hand.numbered"] {
            for is_killed in [false, true] {
                let queue = create(&ONE);
                put(&queue, b"first", Patience::NoWait).unwrap();
                let waiting = thread::spawn({
                    let queue = queue.clone();
                    let until = Patience::Until(Instant::now() + SHORT);
                    move || put(&queue, b"its own", until)
                });
                until_written(&queue, 1);
                let publisher = Child::run(|| {
                    assert!(fault::suspend_at(point));
                    drop(at_once(&queue));
                });
                assert!(publisher.stops(), "{point}");
                // Time for its deadline, and for what it does then.
                thread::sleep(SHORT);
                if is_killed {
                    publisher.kill();
                } else {
                    publisher.finish();
                }
                let put = waiting.join().unwrap();
                let is_there = get(&queue, soon_or_at_once(put.is_ok())).is_ok();
                assert_eq!(put.is_ok(), is_there, "{point}: {put:?}");
                assert!(
                    is_there || is_killed && point == "hand.marked",
                    "{point}: {put:?}"
                );
                assert_eq!(at_once(&queue), Err(Error::Empty), "{point}");
                is_sound(&queue);
            }
        }
    }

    fn soon_or_at_once(is_soon: bool) -> Patience {
        if is_soon { soon() } else { Patience::NoWait }
    }
}
