//! Delayed items: no get finds them before their time, and a waiter of whatever process has them then; and
//! what a process leaves that dies in a delay.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::thread;
use std::time::{Duration, Instant};

use penstock_core::{Batch, Error, Held, Options, Patience, Queue, Verdict};

#[path = "common/awaited.rs"]
mod awaited;
#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/get.rs"]
mod get;
#[path = "common/hold.rs"]
mod hold;
#[path = "common/soon.rs"]
mod soon;
#[path = "common/sound.rs"]
mod sound;

use awaited::{outcome, until};
use child::Child;
use common::{PLAIN, wait};
use get::get;
use hold::hold;
use soon::soon;
use sound::is_sound;

const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    max_deliveries: 2,
    ..PLAIN
};
const LARGE: usize = 100_000;
const SHORT: Duration = Duration::from_millis(20);
const HOUR: Duration = Duration::from_secs(3600);

fn put(queue: &Queue, payload: &[u8]) -> Result<(), Error> {
    wait(Patience::NoWait, |wait| queue.put(&[payload], wait)).map(drop)
}

fn put_delayed(queue: &Queue, payload: &[u8], delay: Duration) -> Result<(), Error> {
    wait(Patience::NoWait, |wait| {
        queue.put_delayed(&[payload], delay, wait)
    })
    .map(drop)
}

fn settle_after(queue: &Queue, held: &Held, verdict: Verdict, delay: Duration) {
    let settled = wait(soon(), |wait| queue.settle_after(held, verdict, delay, wait));
    assert_eq!(settled, Ok(true));
}

#[test]
fn no_get_finds_it_before_its_time() {
    for options in [&PLAIN, &ACKNOWLEDGED] {
        for len in [0, 1, 1000, LARGE] {
            let queue = Queue::create(options).unwrap();
            let began = Instant::now();
            put_delayed(&queue, &vec![7; len], SHORT).unwrap();
            if began.elapsed() < SHORT {
                let s = queue.statistics().unwrap();
                assert!((s.queued, s.delayed) == (0, 1) || began.elapsed() >= SHORT);
            }
            assert_eq!(get(&queue, soon()).unwrap().len(), len);
            assert!(began.elapsed() >= SHORT, "too early");
            let s = is_sound(&queue, "taken");
            assert_eq!((s.delayed, s.unfinished), (0, u64::from(options.acknowledged)));
        }
    }
}

#[test]
fn it_is_unfinished_and_not_queued() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    put_delayed(&queue, b"later", HOUR).unwrap();
    assert_eq!((queue.len(), queue.is_empty()), (0, true));
    let s = is_sound(&queue, "delayed");
    assert_eq!((s.queued, s.delayed, s.unfinished, s.gets), (0, 1, 1, 0));
    assert_eq!(get(&queue, Patience::NoWait), Err(Error::Empty));
    let join = |patience| wait(patience, |wait| queue.join(wait));
    assert_eq!(join(Patience::NoWait), Err(Error::Empty));
    assert_eq!(queue.task_done(), Err(Error::TooManyDone), "it is in no hand");
    assert!(queue.time_until_due().is_some_and(|left| left <= HOUR));
}

/// Those that wait for room and those that have a delay do not meet.
#[test]
fn it_takes_no_place() {
    let queue = Queue::create(&Options { maxsize: 1, ..PLAIN }).unwrap();
    put(&queue, b"first").unwrap();
    for _ in 0..3 {
        put_delayed(&queue, b"later", HOUR).unwrap();
        put_delayed(&queue, &[1; LARGE], HOUR).unwrap();
    }
    assert!(queue.is_full());
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"first");
    put(&queue, b"second").unwrap();
    assert_eq!(is_sound(&queue, "full").delayed, 6);
}

/// Whether there is room or not, it waits for none.
#[test]
fn it_counts_for_max_bytes() {
    for (maxsize, len) in [(0, 1000), (1, 1000), (1, 10_000)] {
        let options = Options {
            maxsize,
            max_bytes: Some(65_536),
            ..PLAIN
        };
        let queue = Queue::create(&options).unwrap();
        put(&queue, b"first").unwrap();
        let mut bytes = 0;
        let error = loop {
            let put = wait(soon(), |wait| queue.put_delayed(&[&vec![1; len]], HOUR, wait));
            match put {
                Ok(_) => bytes += len,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        assert!((40_000..64_000).contains(&bytes), "{bytes}");
        is_sound(&queue, "full");
    }
}

/// They come in the order of putting, once their time has come, before what was put later.
#[test]
fn it_comes_to_its_old_place() {
    let queue = Queue::create(&PLAIN).unwrap();
    put(&queue, b"1").unwrap();
    put_delayed(&queue, b"2", 2 * SHORT).unwrap();
    put_delayed(&queue, b"3", SHORT).unwrap();
    put(&queue, b"4").unwrap();
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"1");
    until("both are due", || queue.len() == 3);
    for right in [b"2", b"3", b"4"] {
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), right);
    }
    is_sound(&queue, "empty");
}

#[test]
fn a_call_of_any_process_shows_it() {
    let queue = Queue::create(&PLAIN).unwrap();
    put_delayed(&queue, b"x", SHORT).unwrap();
    let child = Child::run(|| until("it is shown", || queue.len() == 1));
    assert_eq!(outcome(child), 0);
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"x");
}

#[test]
fn getters_wait_until_it_is_due() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    let began = Instant::now();
    let getters: Vec<_> = (0..3)
        .map(|_| {
            let queue = queue.clone();
            thread::spawn(move || hold(&queue, soon()).map(|(item, _)| item))
        })
        .collect();
    until("getters", || queue.statistics().unwrap().waiting_getters == 3);
    for item in 0..3u8 {
        put_delayed(&queue, &[item], SHORT * u32::from(item + 1)).unwrap();
    }
    let mut got: Vec<_> = getters
        .into_iter()
        .map(|getter| getter.join().unwrap().unwrap()[0])
        .collect();
    got.sort_unstable();
    assert_eq!(got, [0, 1, 2]);
    assert!(began.elapsed() >= 3 * SHORT);
    is_sound(&queue, "taken");
}

/// The getter sleeps until the first one is due, and another one comes before it.
#[test]
fn a_getter_learns_of_an_earlier_one() {
    let queue = Queue::create(&PLAIN).unwrap();
    put_delayed(&queue, b"late", HOUR).unwrap();
    let there = queue.clone();
    let getter = thread::spawn(move || get(&there, soon()));
    until("a getter", || queue.statistics().unwrap().waiting_getters == 1);
    put_delayed(&queue, b"early", SHORT).unwrap();
    assert_eq!(getter.join().unwrap().unwrap(), b"early");
}

/// Getters come, and give up, beside one that waits for long.
#[test]
fn the_time_is_kept_whichever_getter_leaves() {
    let queue = Queue::create(&PLAIN).unwrap();
    put_delayed(&queue, b"x", 10 * SHORT).unwrap();
    let there = queue.clone();
    let getter = thread::spawn(move || get(&there, soon()));
    for _ in 0..5 {
        let patience = Patience::Until(Instant::now() + SHORT / 4);
        assert_eq!(get(&queue, patience), Err(Error::Empty));
    }
    assert_eq!(getter.join().unwrap().unwrap(), b"x");
}

#[test]
fn a_joiner_and_a_putter_wait_beside_it() {
    let queue = Queue::create(&Options {
        maxsize: 1,
        ..ACKNOWLEDGED
    })
    .unwrap();
    put(&queue, b"first").unwrap();
    put_delayed(&queue, b"later", SHORT).unwrap();
    let (here, there) = (queue.clone(), queue.clone());
    let joiner = thread::spawn(move || wait(soon(), |wait| here.join(wait)));
    let putter = thread::spawn(move || wait(soon(), |wait| there.put(&[b"last"], wait)).map(drop));
    until("waiters", || {
        let s = queue.statistics().unwrap();
        (s.waiting_joiners, s.waiting_putters) == (1, 1)
    });
    until("it is due", || queue.statistics().unwrap().queued == 2);
    let mut got = Vec::new();
    for _ in 0..3 {
        got.push(get(&queue, soon()).unwrap());
        queue.task_done().unwrap();
    }
    assert_eq!(got, [&b"first"[..], b"later", b"last"]);
    putter.join().unwrap().unwrap();
    joiner.join().unwrap().unwrap();
}

#[test]
fn a_watcher_sees_it_at_the_next_call() {
    let queue = Queue::create(&PLAIN).unwrap();
    let notifier = wait(soon(), |wait| queue.watch(wait)).unwrap();
    let is_readable = || {
        let mut poll = libc::pollfd {
            fd: notifier,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd, and no waiting.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    };
    put_delayed(&queue, b"x", SHORT).unwrap();
    until("a call shows it", || queue.len() == 1);
    assert!(is_readable());
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"x");
    assert!(!is_readable());
}

#[test]
fn a_lease_goes_back_later() {
    for len in [1, LARGE] {
        for verdict in [Verdict::Released, Verdict::Failed] {
            let queue = Queue::create(&ACKNOWLEDGED).unwrap();
            put(&queue, &vec![7; len]).unwrap();
            put(&queue, b"next").unwrap();
            let (_, held) = hold(&queue, Patience::NoWait).unwrap();
            settle_after(&queue, &held, verdict, HOUR);
            assert!(!queue.holds(&held));
            let s = is_sound(&queue, "delayed");
            assert_eq!((s.queued, s.delayed, s.unfinished, s.taken), (1, 1, 2, 0));
            let counted = u64::from(verdict == Verdict::Failed);
            assert_eq!(s.redeliveries, counted);
            assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"next");
            assert_eq!(get(&queue, Patience::NoWait), Err(Error::Empty));
        }
    }
}

#[test]
fn the_deliveries_of_a_delayed_lease() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    put(&queue, b"x").unwrap();
    for (deliveries, verdict) in [
        (1, Verdict::Released),
        (1, Verdict::Failed),
        (2, Verdict::Released),
        (2, Verdict::Failed),
        (3, Verdict::Failed),
    ] {
        let (_, held) = hold(&queue, soon()).unwrap();
        assert_eq!((held.id(), held.deliveries()), (1, deliveries));
        settle_after(&queue, &held, verdict, Duration::from_millis(1));
    }
    let s = is_sound(&queue, "dead");
    assert_eq!((s.dead_letters, s.delayed, s.unfinished), (1, 0, 0));
}

/// An item that was set aside, or finished in advance, is no matter of the delayed ones.
#[test]
fn many_are_cheap() {
    const COUNT: u32 = 10_000;
    let queue = Queue::create(&PLAIN).unwrap();
    // In an order that is neither that of time nor its reverse.
    for number in 0..COUNT {
        let millis = u64::from(number.wrapping_mul(0x9e37_79b9) % 50);
        put_delayed(&queue, &number.to_le_bytes(), Duration::from_millis(millis + 1)).unwrap();
    }
    assert_eq!(queue.check().unwrap().findings, []);
    let mut next = 0;
    until("all are due", || queue.len() == u64::from(COUNT));
    while next < COUNT {
        let mut batch = Batch::with_room_for(64).unwrap();
        wait(Patience::NoWait, |wait| queue.get_many(&mut batch, wait)).unwrap();
        batch.into_items(|item| {
            let penstock_core::Taken::Copied(bytes) = item else {
                panic!("a small one");
            };
            assert_eq!(bytes, next.to_le_bytes());
            next += 1;
        });
    }
    is_sound(&queue, "taken");
}

#[test]
fn a_draining_queue_waits_for_it() {
    let queue = Queue::create(&PLAIN).unwrap();
    put_delayed(&queue, b"x", SHORT).unwrap();
    queue.shut_down(false).unwrap();
    assert_eq!(put_delayed(&queue, b"late", SHORT), Err(Error::ShutDown));
    assert_eq!(put_delayed(&queue, &[1; LARGE], SHORT), Err(Error::ShutDown));
    let now = get(&queue, Patience::NoWait);
    assert!(
        matches!(&now, Err(Error::Empty)) || now == Ok(b"x".to_vec()),
        "{now:?}"
    );
    if now.is_err() {
        assert_eq!(get(&queue, soon()).unwrap(), b"x");
    }
    assert_eq!(get(&queue, soon()), Err(Error::ShutDown));
    is_sound(&queue, "drained");
}

#[test]
fn a_closed_queue_discards_it() {
    for options in [&PLAIN, &ACKNOWLEDGED] {
        let queue = Queue::create(options).unwrap();
        for item in 0..1000u32 {
            put_delayed(&queue, &item.to_le_bytes(), HOUR).unwrap();
        }
        put(&queue, b"ready").unwrap();
        queue.shut_down(true).unwrap();
        let s = is_sound(&queue, "closed");
        assert_eq!((s.discarded, s.delayed, s.unfinished), (1001, 0, 0));
        assert_eq!(get(&queue, soon()), Err(Error::ShutDown));
        wait(Patience::NoWait, |wait| queue.join(wait)).unwrap();
    }
}

#[test]
fn a_closed_queue_discards_what_was_to_come_back_later() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    put(&queue, b"x").unwrap();
    let (_, held) = hold(&queue, Patience::NoWait).unwrap();
    queue.shut_down(true).unwrap();
    settle_after(&queue, &held, Verdict::Failed, HOUR);
    let s = is_sound(&queue, "closed");
    assert_eq!((s.discarded, s.delayed, s.unfinished), (1, 0, 0));
}

/// A death is no failure: what was in hand comes back at once, and what is delayed stays so.
#[test]
fn a_death_changes_no_delay() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    put(&queue, b"in hand").unwrap();
    let child = Child::run(|| {
        hold(&queue, Patience::NoWait).unwrap();
        put_delayed(&queue, b"later", HOUR).unwrap();
    });
    assert_eq!(outcome(child), 0);
    let s = is_sound(&queue, "swept");
    assert_eq!((s.queued, s.delayed, s.unfinished), (1, 1, 2));
}

#[cfg(feature = "fault-points")]
mod points {
    use std::sync::Arc;

    use super::*;
    use penstock_core::fault;

    const KILLED: i32 = -libc::SIGKILL;

    fn killed_at(point: &str, hit: u64, queue: &Arc<Queue>, victim: impl FnOnce(&Arc<Queue>)) {
        let child = Child::run(|| {
            queue.statistics().unwrap();
            assert!(fault::arm(point, hit));
            victim(queue);
        });
        assert_eq!(outcome(child), KILLED, "it did not pass {point}");
    }

    /// It has noted the time of a lease that comes back later than any clock shows. Leases go on.
    #[test]
    fn death_before_the_longest_delay() {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        put(&queue, b"x").unwrap();
        killed_at("delay.timed", 1, &queue, |queue| {
            let (_, held) = hold(queue, Patience::NoWait).unwrap();
            settle_after(queue, &held, Verdict::Failed, Duration::MAX);
        });
        is_sound(&queue, "swept");
        for _ in 0..3 {
            let (_, held) = hold(&queue, soon()).unwrap();
            settle_after(&queue, &held, Verdict::Released, Duration::ZERO);
        }
        put_delayed(&queue, b"never", Duration::MAX).unwrap();
        is_sound(&queue, "released");
    }

    #[test]
    fn death_in_a_put() {
        for len in [20, 1000, LARGE] {
            let points = if len == LARGE {
                &[
                    ("claim.committed", 0),
                    ("claim.copied", 0),
                    ("delay.committed", 1),
                ][..]
            } else {
                &[("lock.taken", 0), ("put.filled", 0), ("delay.committed", 1)]
            };
            for (point, delayed) in points {
                let queue = Queue::create(&ACKNOWLEDGED).unwrap();
                put_delayed(&queue, b"before", HOUR).unwrap();
                put(&queue, b"ready").unwrap();
                killed_at(point, 1, &queue, |queue| {
                    put_delayed(queue, &vec![7; len], HOUR / 2).unwrap();
                });
                let s = is_sound(&queue, point);
                assert_eq!((s.delayed, s.queued), (1 + delayed, 1), "{point}");
                assert_eq!(s.unfinished, s.delayed + s.queued, "{point}");
                let left = queue.time_until_due().unwrap();
                assert_eq!(left <= HOUR / 2, *delayed == 1, "{point}: the first one's time");
            }
        }
    }

    #[test]
    fn death_when_it_is_due() {
        for (point, hit) in [
            ("lock.taken", 1),
            ("delay.ended", 1),
            ("delay.ended", 2),
            ("get.copied", 1),
        ] {
            let queue = Queue::create(&ACKNOWLEDGED).unwrap();
            for item in 0..3u8 {
                put_delayed(&queue, &[item], Duration::from_millis(1)).unwrap();
            }
            put_delayed(&queue, &[3], HOUR).unwrap();
            thread::sleep(Duration::from_millis(5));
            let child = Child::run(|| {
                assert!(fault::arm(point, hit));
                let _ = hold(&queue, soon());
            });
            assert_eq!(outcome(child), KILLED, "it did not pass {point}");
            let s = is_sound(&queue, point);
            assert_eq!((s.queued, s.delayed, s.unfinished), (3, 1, 4), "{point}");
            for item in 0..3u8 {
                assert_eq!(hold(&queue, Patience::NoWait).unwrap().0, [item], "{point}");
            }
        }
    }

    #[test]
    fn death_when_a_lease_goes_back_later() {
        for verdict in [Verdict::Released, Verdict::Failed] {
            for (point, delayed) in [("lock.taken", 0), ("delay.committed", 1), ("held.settled", 1)] {
                let queue = Queue::create(&ACKNOWLEDGED).unwrap();
                put(&queue, b"x").unwrap();
                let child = Child::run(|| {
                    let (_, held) = hold(&queue, Patience::NoWait).unwrap();
                    assert!(fault::arm(point, 1));
                    settle_after(&queue, &held, verdict, HOUR);
                });
                assert_eq!(outcome(child), KILLED, "it did not pass {point}");
                let s = is_sound(&queue, point);
                assert_eq!(
                    (s.delayed, s.queued),
                    (delayed, 1 - delayed),
                    "{verdict:?} {point}"
                );
                assert_eq!(s.unfinished, 1);
            }
        }
    }

    /// The waiter that keeps the time dies, or its waker does: another waiter has the item all the same.
    #[test]
    fn death_of_a_timekeeper() {
        for point in ["delay.kept", "wait.asleep", "wait.back"] {
            let queue = Queue::create(&PLAIN).unwrap();
            put_delayed(&queue, b"x", 3 * SHORT).unwrap();
            let doomed = Child::run(|| {
                assert!(fault::arm(point, 1));
                let _ = get(&queue, soon());
            });
            let there = queue.clone();
            let getter = thread::spawn(move || get(&there, soon()));
            assert_eq!(getter.join().unwrap().unwrap(), b"x", "{point}");
            // It may have been late, and died as the only getter.
            doomed.signal(libc::SIGKILL);
            assert_eq!(outcome(doomed), KILLED);
            is_sound(&queue, point);
        }
    }

    #[test]
    fn death_before_the_getters_are_woken() {
        for point in ["delay.committed", "unlock.before-wake"] {
            let queue = Queue::create(&PLAIN).unwrap();
            let there = queue.clone();
            let getter = thread::spawn(move || get(&there, soon()));
            until("a getter", || queue.statistics().unwrap().waiting_getters == 1);
            killed_at(point, 1, &queue, |queue| put_delayed(queue, b"x", SHORT).unwrap());
            assert_eq!(getter.join().unwrap().unwrap(), b"x", "{point}");
        }
    }

    /// After a death in the critical section the heap is made anew.
    #[test]
    fn the_rebuild_orders_them() {
        let queue = Queue::create(&PLAIN).unwrap();
        for number in 0..500u32 {
            let seconds = u64::from(number.wrapping_mul(0x9e37_79b9) % 1000) + 100;
            put_delayed(&queue, &number.to_le_bytes(), Duration::from_secs(seconds)).unwrap();
        }
        let before = queue.time_until_due().unwrap();
        killed_at("put.filled", 1, &queue, |queue| put(queue, b"x").unwrap());
        let s = is_sound(&queue, "rebuilt");
        assert_eq!((s.delayed, s.queued), (500, 0));
        let after = queue.time_until_due().unwrap();
        assert!(after <= before && after + Duration::from_secs(60) > before);
        queue.shut_down(true).unwrap();
        assert_eq!(is_sound(&queue, "closed").discarded, 500);
    }
}
