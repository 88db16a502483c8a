//! Participants are killed, at each fault point and at random: what they leave behind.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "fault-points")]
use penstock_core::{Batch, Buffer, Delivery, Remainder};
use penstock_core::{Error, Leave, Options, Patience, Queue};

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/get.rs"]
mod get;
#[path = "common/soon.rs"]
mod soon;

use child::Child;
use common::{PLAIN, wait};
use get::get;
use soon::soon;

const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    ..PLAIN
};

fn put(queue: &Queue, payload: &[u8]) -> Result<(), Error> {
    wait(Patience::Forever, |wait| queue.put(&[payload], wait)).map(|_| ())
}

impl Child {
    /// The signal that ended it, or its negated exit status.
    fn outcome(mut self) -> i32 {
        let status = self.reap();
        if libc::WIFSIGNALED(status) {
            libc::WTERMSIG(status)
        } else {
            -libc::WEXITSTATUS(status)
        }
    }
}

/// Begins to acknowledge, and waits for nothing.
#[cfg(feature = "fault-points")]
fn acknowledge(queue: &Queue) {
    assert!(matches!(
        wait(Patience::NoWait, |wait| queue.join(wait)),
        Ok(()) | Err(Error::Empty)
    ));
}

/// A child takes items, asks for one more each time, and dies.
#[cfg(feature = "fault-points")]
fn dies_with_items_aside(queue: &Arc<Queue>, items: u64) {
    let child = Child::run(|| {
        for _ in 0..items {
            get(queue, Patience::NoWait).unwrap();
        }
        assert_eq!(get(queue, Patience::NoWait), Err(Error::Empty));
    });
    assert_eq!(child.outcome(), 0);
}

fn books_balance(queue: &Queue) {
    assert_eq!(queue.check().unwrap().findings, []);
    let s = queue.statistics().unwrap();
    assert_eq!(s.puts, s.gets + s.queued + s.dead_letters, "{s:?}");
}

/// Numbers 8 bytes wide, at the head of payloads of several sizes.
fn numbered(number: u64, len: usize) -> Vec<u8> {
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(len.max(8), number as u8);
    payload
}

fn number_of(payload: &[u8]) -> u64 {
    let number = u64::from_le_bytes(payload[..8].try_into().unwrap());
    assert!(
        payload[8..].iter().all(|byte| *byte == number as u8),
        "a torn payload"
    );
    number
}

/// Splitmix64, so that a seed replays a storm.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// Trimmers are killed one after the other while other processes put and get: nothing is lost, the order
/// stays, and the memory comes back.
#[test]
fn trimmers_die_beside_putters_and_getters() {
    const PUTTERS: u64 = 2;
    const ROUNDS: u64 = 6;
    const EACH: u64 = 20_000;
    let queue = Queue::create(&PLAIN).unwrap();
    wait(Patience::NoWait, |wait| queue.watch(wait)).unwrap();
    let putters: Vec<_> = (0..PUTTERS)
        .map(|putter| {
            let queue = &queue;
            Child::run(move || {
                for i in 0..ROUNDS * EACH {
                    if i % EACH == 0 {
                        while !queue.is_empty() {
                            std::thread::yield_now();
                        }
                    }
                    let len = if i % 200 == 0 { 20_000 } else { 20 };
                    put(queue, &numbered(putter << 40 | i, len)).unwrap();
                }
            })
        })
        .collect();
    let trim = || {
        Child::run(|| {
            loop {
                queue.trim_if_due().unwrap();
                std::thread::yield_now();
            }
        })
    };
    let mut random = Random(7);
    let mut trimmer = trim();
    let mut next = [0; PUTTERS as usize];
    for count in 0..PUTTERS * ROUNDS * EACH {
        let number = number_of(&get(&queue, soon()).unwrap());
        let (putter, i) = ((number >> 40) as usize, number & ((1 << 40) - 1));
        assert_eq!(i, next[putter], "putter {putter} after {count} items");
        next[putter] += 1;
        if random.next(4000) == 0 {
            trimmer.signal(libc::SIGKILL);
            assert_eq!(trimmer.outcome(), libc::SIGKILL);
            trimmer = trim();
        }
    }
    for putter in putters {
        assert_eq!(putter.outcome(), 0);
    }
    trimmer.signal(libc::SIGKILL);
    assert_eq!(trimmer.outcome(), libc::SIGKILL);
    books_balance(&queue);
    put(&queue, b"x").unwrap();
    get(&queue, Patience::NoWait).unwrap();
    queue.trim_if_due().unwrap();
    let left = queue.statistics().unwrap().memory_bytes;
    assert!(left <= 16 << 20, "{left} bytes left");
    books_balance(&queue);
}

fn storm(options: &Options, rounds: usize, seed: u64) {
    println!("seed {seed}");
    let mut random = Random(seed);
    let queue = Queue::create(options).unwrap();
    let results = Queue::create(&PLAIN).unwrap();
    let acknowledged = options.acknowledged;
    let produce = |producer: u64, first: u64| {
        let queue = &queue;
        Child::run(move || {
            for i in first.. {
                let number = producer << 40 | i;
                let len = match i % 50 {
                    0 => 200_000,
                    1..5 => 3000,
                    5..10 => 500,
                    _ => 20,
                };
                put(queue, &numbered(number, len)).unwrap();
            }
        })
    };
    let consume = || {
        let (queue, results) = (&queue, &results);
        Child::run(move || {
            loop {
                let number = number_of(&get(queue, Patience::Forever).unwrap());
                put(results, &number.to_le_bytes()).unwrap();
                if acknowledged {
                    queue.task_done().unwrap();
                }
            }
        })
    };
    // Each life of a producer has its own range of numbers, so that a lost item shows as a gap.
    let mut lives = 3u64;
    let mut producers: Vec<_> = (0..3).map(|p| produce(p, 0)).collect();
    let mut consumers: Vec<_> = (0..3).map(|_| consume()).collect();
    let mut consumers_killed = 0;
    for _ in 0..rounds {
        for _ in 0..random.next(2000) {
            std::hint::spin_loop();
        }
        std::thread::sleep(Duration::from_micros(random.next(3000)));
        let victim = random.next(6) as usize;
        if victim < 3 {
            let child = std::mem::replace(&mut producers[victim], produce(lives, 0));
            lives += 1;
            child.signal(libc::SIGKILL);
            assert_eq!(child.outcome(), libc::SIGKILL);
        } else {
            let child = std::mem::replace(&mut consumers[victim - 3], consume());
            consumers_killed += 1;
            child.signal(libc::SIGKILL);
            assert_eq!(child.outcome(), libc::SIGKILL);
        }
    }
    for child in producers {
        child.signal(libc::SIGKILL);
        assert_eq!(child.outcome(), libc::SIGKILL);
    }
    // The survivors empty the queue.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !(queue.is_empty() && (!acknowledged || queue.statistics().unwrap().unfinished == 0)) {
        assert!(Instant::now() < deadline, "stuck: {:?}", queue.statistics());
        std::thread::sleep(Duration::from_millis(5));
    }
    for child in consumers {
        child.signal(libc::SIGKILL);
        assert_eq!(child.outcome(), libc::SIGKILL);
        consumers_killed += 1;
    }
    books_balance(&queue);
    let statistics = queue.statistics().unwrap();
    let mut seen = std::collections::HashMap::<u64, u64>::new();
    while let Ok(payload) = get(&results, Patience::NoWait) {
        *seen.entry(number_of(&payload)).or_default() += 1;
    }
    // The items that the last consumers held when they were killed have returned.
    while let Ok(payload) = get(&queue, Patience::NoWait) {
        *seen.entry(number_of(&payload)).or_default() += 1;
    }
    let doubled = seen.values().filter(|count| **count > 1).count() as u64;
    let lost = statistics.puts - seen.len() as u64 - statistics.dead_letters;
    println!(
        "{rounds} rounds, {} items, {lost} lost, {doubled} doubled, {statistics:?}",
        statistics.puts
    );
    if acknowledged {
        assert_eq!(lost, 0);
        assert!(doubled <= consumers_killed);
    } else {
        assert_eq!(doubled, 0);
        assert!(
            lost <= consumers_killed,
            "{lost} items lost with {consumers_killed} consumers killed"
        );
    }
    put(&queue, b"after").unwrap();
    assert_eq!(get(&queue, soon()).unwrap(), b"after");
}

#[test]
fn random_kills_harm_no_survivor() {
    storm(&PLAIN, 500, 1);
}

#[test]
fn random_kills_lose_nothing_that_is_acknowledged() {
    storm(
        &Options {
            max_deliveries: 255,
            ..ACKNOWLEDGED
        },
        500,
        2,
    );
}

#[test]
fn random_kills_on_a_small_queue() {
    storm(&Options { maxsize: 3, ..PLAIN }, 500, 3);
}

#[test]
fn an_idle_consumer_may_be_killed() {
    let queue = Queue::create(&PLAIN).unwrap();
    for _ in 0..5 {
        let idle = Child::run(|| {
            let _ = get(&queue, Patience::Forever);
        });
        while queue.statistics().unwrap().waiting_getters == 0 {
            std::thread::yield_now();
        }
        idle.signal(libc::SIGKILL);
        assert_eq!(idle.outcome(), libc::SIGKILL);
        put(&queue, b"x").unwrap();
        assert_eq!(get(&queue, soon()).unwrap(), b"x");
        let statistics = queue.statistics().unwrap();
        assert_eq!((statistics.waiting_getters, statistics.participants), (0, 1));
    }
}

#[test]
fn a_child_after_fork_is_another_participant() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    put(&queue, b"mine").unwrap();
    put(&queue, b"the child's").unwrap();
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"mine");
    let child = Child::run(|| {
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"the child's");
        assert_eq!(queue.statistics().unwrap().participants, 2);
        queue.leave(Leave::Clean).unwrap();
    });
    assert_eq!(child.outcome(), 0);
    let statistics = queue.statistics().unwrap();
    assert_eq!(
        (
            statistics.participants,
            statistics.unfinished,
            statistics.redeliveries
        ),
        (1, 2, 0)
    );
}

/// A process that has closed a queue with an item unfinished has no descriptor of it. It lives all the same,
/// until its pid proves its death.
#[test]
fn a_closed_queue_is_not_a_death() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    put(&queue, b"kept").unwrap();
    let pipe = Queue::create(&PLAIN).unwrap();
    let child = Child::run(|| {
        let remainder = queue.open_handle().unwrap();
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"kept");
        let queue: *const Arc<Queue> = &raw const queue;
        // SAFETY: the child does not use that handle again.
        remainder.close(unsafe { queue.read() });
        put(&pipe, b"closed").unwrap();
        loop {
            std::thread::park();
        }
    });
    assert_eq!(get(&pipe, soon()).unwrap(), b"closed");
    for _ in 0..3 {
        let statistics = queue.statistics().unwrap();
        assert_eq!((statistics.redeliveries, statistics.participants), (0, 2));
    }
    child.signal(libc::SIGKILL);
    assert_eq!(child.outcome(), libc::SIGKILL);
    assert_eq!(queue.statistics().unwrap().participants, 1);
    books_balance(&queue);
    // Nothing was acknowledged, so it was the item in hand.
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"kept");
}

#[test]
fn closed_descriptors_are_not_a_death() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    put(&queue, b"kept").unwrap();
    let pipe = Queue::create(&PLAIN).unwrap();
    let go_on = Queue::create(&PLAIN).unwrap();
    let child = Child::run(|| {
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"kept");
        put(&pipe, b"taken").unwrap();
        // SAFETY: closes everything but the standard streams, as other code might.
        unsafe { libc::close_range(3, u32::MAX, 0) };
        put(&pipe, b"closed").unwrap();
        assert_eq!(get(&go_on, Patience::Forever).unwrap(), b"go on");
        queue.task_done().unwrap();
        put(&queue, &[1; 500_000]).unwrap();
    });
    assert_eq!(get(&pipe, soon()).unwrap(), b"taken");
    assert_eq!(get(&pipe, soon()).unwrap(), b"closed");
    for _ in 0..3 {
        assert_eq!(queue.statistics().unwrap().redeliveries, 0, "the holder lives");
    }
    put(&go_on, b"go on").unwrap();
    assert_eq!(child.outcome(), 0);
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), [1; 500_000]);
    let statistics = queue.statistics().unwrap();
    assert_eq!((statistics.redeliveries, statistics.participants), (0, 1));
}

#[cfg(feature = "fault-points")]
mod points {
    use super::*;
    use penstock_core::{Awaited, fault};

    /// What the victim does, and the points that it passes.
    struct Scene {
        name: &'static str,
        options: Options,
        /// Run before by the test itself.
        before: fn(&Arc<Queue>),
        victim: fn(&Arc<Queue>),
        points: &'static [&'static str],
    }

    const LARGE: usize = 300_000;
    /// Memory for two large items, and some small ones.
    const TWO_LARGE: Options = Options {
        max_bytes: Some(700_000),
        ..ACKNOWLEDGED
    };

    fn put_eights(queue: &Queue, items: u64, len: usize) {
        for _ in 0..items {
            put(queue, &numbered(8, len)).unwrap();
        }
    }

    fn get_and_finish(queue: &Arc<Queue>) {
        get(queue, Patience::Forever).unwrap();
        queue.task_done().unwrap();
    }

    const SCENES: &[Scene] = &[
        Scene {
            name: "put small",
            options: PLAIN,
            before: |_| {},
            victim: |queue| put(queue, &numbered(7, 20)).unwrap(),
            points: &[
                "register.life-held",
                "register.alive",
                "lock.taken",
                "put.slot-popped",
                "put.filled",
                "put.numbered",
                "put.committed",
                "put.ordered",
                "put.linked",
            ],
        },
        Scene {
            name: "put small with an extent",
            options: PLAIN,
            before: |_| {},
            victim: |queue| put(queue, &numbered(7, 1000)).unwrap(),
            points: &[
                "grow.backed",
                "put.slot-popped",
                "put.filled",
                "put.numbered",
                "put.committed",
                "put.ordered",
                "put.linked",
            ],
        },
        Scene {
            name: "put large",
            options: PLAIN,
            before: |_| {},
            victim: |queue| put(queue, &numbered(7, LARGE)).unwrap(),
            points: &[
                "claim.committed",
                "grow.backed",
                "claim.copying",
                "claim.copied",
                "put.committed",
                "put.ordered",
                "put.linked",
            ],
        },
        Scene {
            name: "get small",
            options: PLAIN,
            before: |queue| put(queue, &numbered(8, 20)).unwrap(),
            victim: |queue| drop(get(queue, Patience::Forever).unwrap()),
            points: &[
                "lock.taken",
                "get.copied",
                "get.unlinked",
                "slot.freed",
                "get.freed",
            ],
        },
        Scene {
            name: "get large",
            options: PLAIN,
            before: |queue| put(queue, &numbered(8, LARGE)).unwrap(),
            victim: |queue| drop(get(queue, Patience::Forever).unwrap()),
            points: &["get.leased", "lent.reading", "slot.freed"],
        },
        Scene {
            name: "keep large",
            options: PLAIN,
            before: |queue| put(queue, &numbered(8, LARGE)).unwrap(),
            victim: |queue| {
                let mut buffer = Buffer::default();
                let Ok(Delivery::Lent(lent)) = wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait))
                else {
                    panic!("a large payload is lent");
                };
                lent.keep().unwrap();
            },
            points: &["get.leased", "lent.kept", "lent.reading", "slot.freed"],
        },
        Scene {
            name: "get small, acknowledged",
            options: ACKNOWLEDGED,
            before: |queue| put(queue, &numbered(8, 20)).unwrap(),
            victim: get_and_finish,
            points: &["get.copied", "get.leased", "done.committed"],
        },
        Scene {
            name: "get large, acknowledged",
            options: ACKNOWLEDGED,
            before: |queue| put(queue, &numbered(8, LARGE)).unwrap(),
            victim: get_and_finish,
            points: &["get.leased", "lent.reading", "done.committed"],
        },
        Scene {
            name: "leave",
            options: ACKNOWLEDGED,
            before: |queue| put(queue, &numbered(8, LARGE)).unwrap(),
            victim: |queue| {
                get(queue, Patience::Forever).unwrap();
                queue.leave(Leave::Clean).unwrap();
            },
            points: &["leave.orphaned", "leave.released"],
        },
        Scene {
            name: "ask for the next item",
            options: ACKNOWLEDGED,
            before: |queue| put_eights(queue, 2, 20),
            victim: |queue| while get(queue, Patience::NoWait).is_ok() {},
            points: &["aside.committed", "get.copied", "get.leased"],
        },
        Scene {
            name: "sweep what was set aside",
            options: ACKNOWLEDGED,
            before: |queue| {
                put_eights(queue, 2, 20);
                dies_with_items_aside(queue, 2);
            },
            victim: |queue| drop(queue.statistics()),
            points: &[
                "sweep.started",
                "aside.disowned",
                "sweep.cells-freed",
                "sweep.released",
            ],
        },
        Scene {
            name: "acknowledge for the first time",
            options: ACKNOWLEDGED,
            before: |queue| {
                put_eights(queue, 2, 20);
                dies_with_items_aside(queue, 2);
                queue.statistics().unwrap();
            },
            victim: |queue| acknowledge(queue),
            points: &["aside.beginning", "sweep.slot-returned"],
        },
        Scene {
            name: "give up what a dead process had set aside",
            options: TWO_LARGE,
            before: |queue| {
                put_eights(queue, 2, LARGE);
                dies_with_items_aside(queue, 2);
                queue.statistics().unwrap();
            },
            victim: |queue| put(queue, &numbered(7, LARGE)).unwrap(),
            points: &["aside.noted", "aside.counted", "slot.freed", "claim.committed"],
        },
        Scene {
            name: "give up what the putter has set aside itself",
            options: TWO_LARGE,
            before: |queue| put_eights(queue, 2, LARGE),
            victim: |queue| {
                while get(queue, Patience::NoWait).is_ok() {}
                put(queue, &numbered(7, LARGE)).unwrap();
            },
            points: &["aside.noted", "aside.counted", "slot.freed", "claim.committed"],
        },
        Scene {
            name: "leave what was given up",
            options: TWO_LARGE,
            before: |queue| put_eights(queue, 2, LARGE),
            victim: |queue| {
                while get(queue, Patience::NoWait).is_ok() {}
                put(queue, &numbered(7, LARGE)).unwrap();
                queue.leave(Leave::Clean).unwrap();
            },
            points: &["aside.settling", "leave.released"],
        },
        Scene {
            name: "leave what was set aside",
            options: ACKNOWLEDGED,
            before: |queue| put_eights(queue, 2, 20),
            victim: |queue| {
                while get(queue, Patience::NoWait).is_ok() {}
                queue.leave(Leave::Clean).unwrap();
            },
            points: &[
                "aside.counting",
                "aside.noted",
                "aside.counted",
                "slot.freed",
                "leave.orphaned",
                "leave.released",
            ],
        },
        Scene {
            name: "leave what was set aside by a failure",
            options: ACKNOWLEDGED,
            before: |queue| put_eights(queue, 2, 20),
            victim: |queue| {
                while get(queue, Patience::NoWait).is_ok() {}
                queue.leave(Leave::Crashed).unwrap();
            },
            points: &["aside.disowned", "leave.orphaned", "leave.released"],
        },
        Scene {
            name: "put beside an item, to new memory",
            options: PLAIN,
            before: |queue| put(queue, &numbered(8, 30)).unwrap(),
            victim: |queue| put(queue, &numbered(7, LARGE)).unwrap(),
            points: &["put.pausing", "claim.committed"],
        },
        Scene {
            name: "wait",
            options: PLAIN,
            before: |_| {},
            victim: |queue| {
                let _ = get(
                    queue,
                    Patience::Until(Instant::now() + Duration::from_millis(150)),
                );
            },
            points: &["wait.enlisted", "wait.asleep", "wait.back"],
        },
        Scene {
            name: "give memory back",
            options: PLAIN,
            before: |queue| put_eights(queue, 100, LARGE),
            victim: |queue| while get(queue, Patience::NoWait).is_ok() {},
            points: &["trim.claimed", "trim.punched", "trim.noted"],
        },
        Scene {
            name: "give slots back",
            options: PLAIN,
            before: |queue| put_eights(queue, 50_000, 20),
            victim: |queue| while get(queue, Patience::NoWait).is_ok() {},
            points: &[
                "trim.tracked",
                "trim.parked",
                "trim.pages-absent",
                "trim.pages-claimed",
                "trim.pages-punched",
                "trim.pages-noted",
                "trim.lowered",
            ],
        },
        Scene {
            name: "watch",
            options: PLAIN,
            before: |queue| put(queue, &numbered(8, 20)).unwrap(),
            victim: |queue| drop(wait(soon(), |wait| queue.watch(wait))),
            points: &[
                "notifier.made",
                "notifier.counted",
                "notifier.changed",
                "notifier.owed",
                "notifier.updated",
            ],
        },
        Scene {
            name: "signal and drain",
            options: PLAIN,
            before: |queue| {
                wait(soon(), |wait| queue.watch(wait)).unwrap();
            },
            victim: |queue| {
                put(queue, &numbered(7, 20)).unwrap();
                get(queue, Patience::NoWait).unwrap();
            },
            points: &[
                "notifier.changed",
                "notifier.owed",
                "notifier.updated",
                "slot.freed",
            ],
        },
        Scene {
            name: "let go of the last handle",
            options: ACKNOWLEDGED,
            before: |queue| put(queue, &numbered(8, 20)).unwrap(),
            victim: |queue| {
                get(queue, Patience::Forever).unwrap();
                let queue: *const Arc<Queue> = queue;
                // SAFETY: the child ends right after this call, so no other code uses the handle that is
                // dropped here.
                drop(unsafe { queue.read() });
            },
            points: &["leave.orphaned", "unregister.checked", "unregister.freed"],
        },
        Scene {
            name: "close with an item unfinished",
            options: ACKNOWLEDGED,
            before: |queue| put(queue, &numbered(8, 20)).unwrap(),
            victim: |queue| {
                let remainder = queue.open_handle().unwrap();
                get(queue, Patience::Forever).unwrap();
                wait(Patience::Forever, |wait| queue.watch(wait)).unwrap();
                close(queue, &remainder);
            },
            points: &[
                "close.unwatched",
                "close.marked",
                "close.unlocked",
                "close.descriptors-closed",
            ],
        },
        Scene {
            name: "close, and finish the last item then",
            options: ACKNOWLEDGED,
            before: |queue| put(queue, &numbered(8, 20)).unwrap(),
            victim: |queue| {
                let remainder = queue.open_handle().unwrap();
                get(queue, Patience::Forever).unwrap();
                close(queue, &remainder);
                let queue = remainder.reopen().unwrap();
                queue.task_done().unwrap();
                remainder.close(queue);
            },
            points: &["done.committed", "unregister.checked", "unregister.freed"],
        },
        Scene {
            name: "close with a payload in hand",
            options: PLAIN,
            before: |queue| put(queue, &numbered(8, LARGE)).unwrap(),
            victim: |queue| {
                let remainder = queue.open_handle().unwrap();
                let mut buffer = Buffer::default();
                let lent = wait(Patience::Forever, |wait| queue.get(&mut buffer, wait)).unwrap();
                close(queue, &remainder);
                drop(lent);
            },
            points: &[
                "close.marked",
                "close.unlocked",
                "close.descriptors-closed",
                "lent.reading",
                "slot.freed",
                "unregister.checked",
                "unregister.freed",
            ],
        },
        Scene {
            name: "close with nothing in hand",
            options: PLAIN,
            before: |queue| put(queue, &numbered(8, 20)).unwrap(),
            victim: |queue| {
                let remainder = queue.open_handle().unwrap();
                get(queue, Patience::Forever).unwrap();
                close(queue, &remainder);
            },
            points: &["unregister.checked", "unregister.freed"],
        },
    ];

    /// Closes the victim's only handle, of which the scene has a reference.
    fn close(queue: &Arc<Queue>, remainder: &Remainder) {
        let queue: *const Arc<Queue> = queue;
        // SAFETY: the child ends without using that handle again.
        remainder.close(unsafe { queue.read() });
    }

    /// Runs a test in a process of its own. Other tests of this process fork, and a child joins each queue
    /// that its parent watches.
    fn alone(test: impl FnOnce()) {
        assert_eq!(Child::run(test).outcome(), 0, "the child has said why");
    }

    /// The notifier is readable exactly if there is an item.
    fn notifier_is_right(queue: &Queue, what: &str) {
        let mut polled = libc::pollfd {
            fd: wait(soon(), |wait| queue.watch(wait)).unwrap(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: the call reads and writes one struct.
        let ready = unsafe { libc::poll(&raw mut polled, 1, 0) };
        assert_eq!(
            ready,
            i32::from(!queue.is_empty()),
            "{what}: the notifier is wrong"
        );
    }

    fn survivors_go_on(queue: &Arc<Queue>, what: &str) {
        let acknowledged = queue.options().acknowledged;
        // Reaps the dead at once, so that what they held comes before what is put now.
        queue.statistics().unwrap();
        notifier_is_right(queue, what);
        if acknowledged {
            // Items that were set aside also return.
            acknowledge(queue);
        }
        put(queue, &numbered(9, 30)).unwrap();
        put(queue, &numbered(9, LARGE)).unwrap();
        loop {
            let number = number_of(&get(queue, soon()).unwrap_or_else(|error| panic!("{what}: {error}")));
            if acknowledged {
                queue.task_done().unwrap();
            }
            assert!((7..=9).contains(&number), "{what}");
            if number == 9 {
                break;
            }
        }
        assert_eq!(number_of(&get(queue, soon()).unwrap()), 9, "{what}");
        if acknowledged {
            queue.task_done().unwrap();
            // An item that was left in order stays unfinished: the test finishes it.
            while queue.statistics().unwrap().unfinished > 0 {
                queue.task_done().unwrap();
            }
            wait(soon(), |wait| queue.join(wait)).unwrap();
        }
        notifier_is_right(queue, what);
        books_balance(queue);
        let statistics = queue.statistics().unwrap();
        assert_eq!(
            (statistics.queued, statistics.participants),
            (0, 1),
            "{what}: {statistics:?}"
        );
    }

    #[test]
    fn death_at_each_point() {
        alone(|| die_at_each_point(|| {}));
    }

    /// The same for a process whose death only its pid proves.
    #[test]
    fn death_at_each_point_without_proc() {
        // SAFETY: only asks.
        if unsafe { libc::geteuid() } != 0 {
            println!("NOT TESTED: only root may chroot");
            return;
        }
        // SAFETY: a path that ends with a zero. The folder below /proc serves as an empty one: it has no
        // /proc itself.
        alone(|| die_at_each_point(|| assert_eq!(unsafe { libc::chroot(c"/proc/self/task".as_ptr()) }, 0)));
    }

    fn die_at_each_point(first: fn()) {
        for scene in SCENES {
            for point in scene.points {
                let what = format!("{}, killed at {point}", scene.name);
                let queue = Queue::create(&scene.options).unwrap();
                (scene.before)(&queue);
                let child = Child::run(|| {
                    first();
                    assert!(fault::arm(point, 1));
                    (scene.victim)(&queue);
                });
                assert_eq!(child.outcome(), libc::SIGKILL, "{what}: it did not pass there");
                survivors_go_on(&queue, &what);
            }
        }
    }

    /// A process of a connection dies at each point of its line. The line is as it should be as soon as a
    /// process of the right side has used it.
    #[test]
    fn death_at_each_point_of_a_line() {
        alone(|| {
            use std::os::fd::{IntoRawFd, RawFd};
            let options = Options {
                soft_bytes: 10,
                ..PLAIN
            };
            // Two messages fill the queue.
            let send = |queue: &Queue, end| wait(soon(), |wait| queue.put_at(end, &[&numbered(7, 8)], wait));
            let receive = |queue: &Arc<Queue>, end| {
                let mut buffer = Buffer::default();
                wait(soon(), |wait| queue.get_at(end, &mut buffer, wait)).map(|_| ())
            };
            let events = |fd: RawFd| {
                let mut polled = libc::pollfd {
                    fd,
                    events: libc::POLLIN | libc::POLLOUT,
                    revents: 0,
                };
                // SAFETY: the call reads and writes one struct.
                unsafe { libc::poll(&raw mut polled, 1, 0) };
                polled.revents
            };
            for is_duplex in [true, false] {
                for point in [
                    "line.counted",
                    "line.watching",
                    "line.promised",
                    "line.owed",
                    "line.claimed",
                    "line.signalled",
                    "line.drained",
                    "line.filled",
                    "line.writable",
                ] {
                    let what = format!("{point}, duplex {is_duplex}");
                    let queue = Queue::create(&options).unwrap();
                    let [reading, writing] = Queue::make_line(is_duplex).unwrap().map(IntoRawFd::into_raw_fd);
                    queue.set_line(reading, writing).unwrap();
                    let is_there = matches!(point, "line.drained" | "line.filled" | "line.writable");
                    if is_there {
                        send(&queue, writing).unwrap();
                    }
                    if matches!(point, "line.filled" | "line.writable") {
                        send(&queue, writing).unwrap();
                    }
                    wait(soon(), |wait| queue.watch_at(reading, wait)).unwrap();
                    if point == "line.writable" {
                        wait(soon(), |wait| queue.watch_room_at(writing, wait)).unwrap();
                        assert_eq!(events(writing) & libc::POLLOUT, 0, "{what}");
                    }
                    let child = Child::run(|| {
                        assert!(fault::arm(point, 1));
                        match point {
                            "line.counted" | "line.filled" => {
                                wait(soon(), |wait| queue.watch_room_at(writing, wait)).unwrap();
                            }
                            "line.promised" | "line.owed" | "line.claimed" | "line.signalled" => {
                                drop(send(&queue, writing));
                            }
                            _ => receive(&queue, reading).unwrap(),
                        }
                    });
                    assert_eq!(child.outcome(), libc::SIGKILL, "{what}: it did not pass there");
                    if point == "line.drained" {
                        // The line holds nothing, whatever was noted of it.
                        send(&queue, writing).unwrap();
                        assert_ne!(events(reading) & libc::POLLIN, 0, "{what}");
                    }
                    queue.statistics().unwrap();
                    // The survivor has both ends, as a process that made a connection.
                    wait(soon(), |wait| queue.watch_at(reading, wait)).unwrap();
                    wait(soon(), |wait| queue.watch_room_at(writing, wait)).unwrap();
                    let is_right = || {
                        assert_eq!(events(reading) & libc::POLLIN == 0, queue.is_empty(), "{what}");
                        assert_eq!(events(writing) & libc::POLLOUT == 0, queue.is_full(), "{what}");
                    };
                    is_right();
                    while !queue.is_empty() {
                        receive(&queue, reading).unwrap();
                        is_right();
                    }
                    for _ in 0..2 {
                        send(&queue, writing).unwrap();
                        is_right();
                    }
                    for _ in 0..2 {
                        receive(&queue, reading).unwrap();
                        is_right();
                    }
                    books_balance(&queue);
                    assert_eq!(queue.statistics().unwrap().participants, 1, "{what}");
                    for end in [reading, writing] {
                        // SAFETY: opened above, and closed once.
                        unsafe { libc::close(end) };
                    }
                }
            }
        });
    }

    /// The victim fills a queue for one item, makes room, and finishes the item. The survivor only polls, but
    /// that it tends the queue, as one does that sleeps with a descriptor.
    #[test]
    fn death_beside_watchers_for_room_and_the_end() {
        alone(|| {
            for point in [
                "notifier.filling",
                "notifier.changed",
                "notifier.owed",
                "notifier.updated",
                "put.committed",
                "get.leased",
                "done.committed",
            ] {
                for hits in [1, 2] {
                    die_beside_watchers(point, hits);
                }
            }
        });
    }

    fn die_beside_watchers(point: &str, hits: u64) {
        let what = format!("killed at {point}, pass {hits}");
        let queue = Queue::create(&Options {
            maxsize: 1,
            ..ACKNOWLEDGED
        })
        .unwrap();
        queue.task_done().unwrap_err();
        let descriptors = [Awaited::Item, Awaited::Room, Awaited::Finish]
            .map(|awaited| wait(soon(), |wait| queue.watch_for(awaited, wait)).unwrap());
        let child = Child::run(|| {
            assert!(fault::arm(point, hits));
            for _ in 0..2 {
                put(&queue, &numbered(7, 20)).unwrap();
                get(&queue, Patience::NoWait).unwrap();
                queue.task_done().unwrap();
            }
        });
        let outcome = child.outcome();
        assert!(
            outcome == libc::SIGKILL || outcome == 0 && hits == 2,
            "{what}: {outcome}"
        );
        let are_right = || {
            let [items, room, finish] = descriptors;
            let polled = [
                (items, libc::POLLIN),
                (room, libc::POLLOUT),
                (finish, libc::POLLIN),
            ];
            let ready = polled.map(|(fd, events)| {
                let mut polled = libc::pollfd {
                    fd,
                    events,
                    revents: 0,
                };
                // SAFETY: the call reads and writes one struct.
                (unsafe { libc::poll(&raw mut polled, 1, 0) }) != 0
            });
            let is_finished = queue.statistics().unwrap().unfinished == 0;
            assert_eq!(
                ready,
                [!queue.is_empty(), !queue.is_full(), is_finished],
                "{what}"
            );
        };
        queue.tend(0).unwrap();
        are_right();
        while get(&queue, Patience::NoWait).is_ok() {}
        while queue.task_done().is_ok() {}
        are_right();
        assert_eq!(queue.check().unwrap().findings, [], "{what}");
    }

    /// A child dies as it joins the queue that its parent watches, at the fork.
    #[test]
    fn death_at_a_fork_beside_a_watcher() {
        alone(|| {
            for point in [
                "register.life-held",
                "register.alive",
                "lock.taken",
                "notifier.counted",
                "notifier.inherited",
            ] {
                let queue = Queue::create(&PLAIN).unwrap();
                let parent = Child::run(|| {
                    wait(soon(), |wait| queue.watch(wait)).unwrap();
                    assert!(fault::arm(point, 1));
                    let child = Child::run(|| {});
                    assert!(fault::arm("wait.left", u64::MAX));
                    assert_eq!(child.outcome(), libc::SIGKILL, "{point}: it did not pass there");
                });
                assert_eq!(parent.outcome(), 0);
                survivors_go_on(&queue, point);
            }
        });
    }

    /// A sweeper dies after a portion of what a dead process held, or within one: all returns, each item
    /// once.
    #[test]
    fn a_sweep_in_portions_is_finished_by_the_next() {
        for (point, hit) in [
            ("sweep.started", 2),
            ("sweep.started", 3),
            ("sweep.slot-returned", 256),
            ("sweep.slot-returned", 300),
        ] {
            let what = format!("killed at {point}, time {hit}");
            let queue = many(1000);
            acknowledge(&queue);
            let holder = Child::run(|| {
                for number in 0..600 {
                    assert_eq!(number_of(&get(&queue, Patience::NoWait).unwrap()), number);
                }
            });
            assert_eq!(holder.outcome(), 0);
            killed_in(&queue, point, hit, &what, |queue| drop(queue.statistics()));
            queue.statistics().unwrap();
            assert_eq!(queue.len(), 1000, "{what}: one sweep returns all");
            all_is_there_once(&queue, 0..1000, 600, &what);
        }
    }

    /// The first process that acknowledges dies after a portion of what it returns, or within one: the rest
    /// returns, too.
    #[test]
    fn a_return_in_portions_is_finished_by_the_next() {
        for (point, hit) in [
            ("aside.beginning", 1),
            ("sweep.slot-returned", 1),
            ("sweep.slot-returned", 256),
            ("sweep.slot-returned", 300),
            ("sweep.slot-returned", 600),
        ] {
            let what = format!("killed at {point}, time {hit}");
            let queue = many(600);
            dies_with_items_aside(&queue, 600);
            assert_eq!(queue.statistics().unwrap().redeliveries, 0);
            assert_eq!((queue.len(), queue.statistics().unwrap().taken), (0, 600));
            killed_in(&queue, point, hit, &what, |queue| queue.task_done().unwrap());
            queue.statistics().unwrap();
            assert_eq!(queue.len(), 600, "{what}: it was acknowledged already");
            all_is_there_once(&queue, 0..600, 600, &what);
        }
    }

    /// Items that the dead had set aside return with the first acknowledgement; their other leases return
    /// before.
    #[test]
    fn what_is_set_aside_in_portions_is_set_aside_once() {
        for hit in [1, 256, 257, 300] {
            let what = format!("killed when {hit} were set aside");
            let queue = many(400);
            killed_in(&queue, "aside.committed", hit, &what, |queue| {
                take_together(queue, 400);
                let _ = get(queue, Patience::NoWait);
            });
            queue.statistics().unwrap();
            assert_eq!(queue.len(), 400 - hit, "{what}");
            all_is_there_once(&queue, 0..400, 400, &what);
        }
    }

    /// Takes so many items, and sets none of them aside.
    fn take_together(queue: &Arc<Queue>, items: usize) {
        let mut taken = 0;
        while taken < items {
            let mut batch = Batch::with_room_for(items - taken).unwrap();
            wait(Patience::NoWait, |wait| queue.get_more(&mut batch, wait)).unwrap();
            batch.into_items(|_| taken += 1);
        }
    }

    /// The batches of one call do not set each other aside.
    #[test]
    fn what_was_taken_together_is_in_hand() {
        let queue = many(400);
        assert_eq!(Child::run(|| take_together(&queue, 400)).outcome(), 0);
        queue.statistics().unwrap();
        assert_eq!(queue.len(), 400);
        all_is_there_once(&queue, 0..400, 400, "taken together");
    }

    /// The rebuild uses the links back for sorting, and restores them afterwards.
    #[test]
    fn a_rebuild_links_dead_letters_beside_many_leases() {
        let queue = Queue::create(&Options {
            max_deliveries: 0,
            ..ACKNOWLEDGED
        })
        .unwrap();
        put_eights(&queue, 800, 20);
        acknowledge(&queue);
        let take = |items| {
            for _ in 0..items {
                get(&queue, Patience::NoWait).unwrap();
            }
        };
        take(350);
        assert_eq!(Child::run(|| take(100)).outcome(), 0);
        assert_eq!(queue.statistics().unwrap().dead_letters, 100);
        take(350);
        // So that the order of the slots differs from the order of the leases in them.
        for _ in 0..50 {
            put_eights(&queue, 1, 20);
            take(1);
            queue.task_done().unwrap();
        }
        killed_in(&queue, "lock.taken", 1, "with many leases", |queue| {
            put(queue, b"x").unwrap();
        });
        books_balance(&queue);
        assert_eq!(queue.dead_letters().unwrap().len(), 100);
    }

    /// A process that leaves more than a portion, in order or by a failure, is killed meanwhile. In order:
    /// the oldest items are unfinished for good, and the rest returns. By a failure: all return.
    #[test]
    fn leaving_in_portions_gives_up_the_oldest() {
        let take = |queue: &Arc<Queue>| {
            for _ in 0..600 {
                get(queue, Patience::NoWait).unwrap();
            }
        };
        for hit in [1, 256, 257, 300, 600] {
            let what = format!("killed when {hit} were left");
            let queue = many(600);
            acknowledge(&queue);
            killed_in(&queue, "leave.orphaned", hit, &what, |queue| {
                take(queue);
                queue.leave(Leave::Clean).unwrap();
            });
            assert_eq!(queue.statistics().unwrap().unfinished, 600, "{what}");
            all_is_there_once(&queue, hit..600, 600 - hit, &what);

            let queue = many(600);
            acknowledge(&queue);
            killed_in(&queue, "leave.orphaned", hit, &what, |queue| {
                take(queue);
                queue.leave(Leave::Crashed).unwrap();
            });
            all_is_there_once(&queue, 0..600, 600, &what);
        }
    }

    /// A put that needs memory gives up payloads that were set aside, the oldest first, and each is counted
    /// once.
    #[test]
    fn what_was_given_up_is_counted_once() {
        alone(|| {
            for holder_dies_first in [true, false] {
                for point in ["aside.noted", "aside.counted", "slot.freed"] {
                    for second in [
                        "takeover.taken",
                        "rebuild.cleared",
                        "rebuild.scanned",
                        "rebuild.done",
                    ] {
                        let what = format!("{holder_dies_first}, {point}, {second}");
                        let queue = Queue::create(&TWO_LARGE).unwrap();
                        put_eights(&queue, 2, LARGE);
                        if holder_dies_first {
                            dies_with_items_aside(&queue, 2);
                            queue.statistics().unwrap();
                        }
                        killed_in(&queue, point, 1, &what, |queue| {
                            while get(queue, Patience::NoWait).is_ok() {}
                            put(queue, &numbered(7, LARGE)).unwrap();
                        });
                        killed_in(&queue, second, 1, &what, |queue| drop(queue.statistics()));
                        let statistics = queue.statistics().unwrap();
                        assert_eq!(
                            (statistics.unfinished, statistics.taken, statistics.given_up),
                            (2, 2, 1),
                            "{what}"
                        );
                        books_balance(&queue);
                        survivors_go_on(&queue, &what);
                    }
                }
            }
        });
    }

    /// An item that its holder leaves is counted once, whatever the step at which the holder dies.
    #[test]
    fn what_was_left_is_counted_once() {
        for point in ["aside.noted", "aside.counted", "slot.freed", "leave.orphaned"] {
            for second in [
                "takeover.taken",
                "rebuild.cleared",
                "rebuild.scanned",
                "rebuild.done",
            ] {
                let what = format!("{point}, {second}");
                let queue = many(3);
                acknowledge(&queue);
                killed_in(&queue, point, 1, &what, |queue| {
                    while get(queue, Patience::NoWait).is_ok() {}
                    queue.leave(Leave::Clean).unwrap();
                });
                killed_in(&queue, second, 1, &what, |queue| drop(queue.statistics()));
                let statistics = queue.statistics().unwrap();
                assert_eq!((statistics.unfinished, statistics.queued), (3, 2), "{what}");
                all_is_there_once(&queue, 1..3, 2, &what);
            }
        }
    }

    /// An acknowledged queue with items numbered from 0 on.
    fn many(items: u64) -> Arc<Queue> {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        for number in 0..items {
            put(&queue, &numbered(number, 20)).unwrap();
        }
        queue
    }

    /// A child dies at that point. The test itself survives, and is registered.
    fn killed_in(queue: &Arc<Queue>, point: &str, hit: u64, what: &str, victim: impl FnOnce(&Arc<Queue>)) {
        let child = Child::run(|| {
            assert!(fault::arm(point, hit));
            victim(queue);
        });
        assert_eq!(child.outcome(), libc::SIGKILL, "{what}: it did not pass there");
    }

    /// Begins to acknowledge, and checks that each item is there once.
    fn all_is_there_once(queue: &Arc<Queue>, numbers: std::ops::Range<u64>, redeliveries: u64, what: &str) {
        queue.statistics().unwrap();
        acknowledge(queue);
        books_balance(queue);
        let statistics = queue.statistics().unwrap();
        let expected = (numbers.end - numbers.start, redeliveries);
        assert_eq!(
            (statistics.queued, statistics.redeliveries),
            expected,
            "{what}: {statistics:?}"
        );
        for number in numbers {
            assert_eq!(
                number_of(&get(queue, Patience::NoWait).unwrap()),
                number,
                "{what}"
            );
        }
        assert_eq!(get(queue, Patience::NoWait), Err(Error::Empty), "{what}");
        while queue.statistics().unwrap().unfinished > 0 {
            queue.task_done().unwrap();
        }
        wait(soon(), |wait| queue.join(wait)).unwrap();
        books_balance(queue);
    }

    /// A survivor that takes the lock over sweeps the dead holder at once, and leaves that to no later check
    /// for the dead.
    #[test]
    fn what_the_locks_dead_holder_had_comes_back_at_once() {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        put(&queue, &numbered(8, 20)).unwrap();
        let child = Child::run(|| {
            get(&queue, Patience::NoWait).unwrap();
            // It checks for the dead, so that the next check is not due yet.
            queue.statistics().unwrap();
            assert!(fault::arm("lock.taken", 1));
            put(&queue, &numbered(7, 20)).unwrap();
        });
        assert_eq!(child.outcome(), libc::SIGKILL);
        put(&queue, &numbered(9, 20)).unwrap();
        assert_eq!(queue.len(), 2);
        assert_eq!(number_of(&get(&queue, Patience::NoWait).unwrap()), 8);
    }

    /// An item that its getter has kept does not return when the getter dies; its memory is freed.
    #[test]
    fn what_was_kept_does_not_come_back() {
        let queue = Queue::create(&PLAIN).unwrap();
        put(&queue, &numbered(8, LARGE)).unwrap();
        let child = Child::run(|| {
            let mut buffer = Buffer::default();
            let delivery = wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait));
            let Ok(Delivery::Lent(lent)) = delivery else {
                panic!("a large payload is lent");
            };
            lent.keep().unwrap();
            assert!(fault::arm("lent.reading", 1));
        });
        assert_eq!(child.outcome(), libc::SIGKILL);
        let statistics = queue.statistics().unwrap();
        assert_eq!(
            (statistics.gets, statistics.redeliveries),
            (1, 0),
            "{statistics:?}"
        );
        assert_eq!(get(&queue, Patience::NoWait), Err(Error::Empty));
        books_balance(&queue);
    }

    #[test]
    fn death_between_publishing_and_waking() {
        alone(|| {
            let queue = Queue::create(&PLAIN).unwrap();
            let sleeper = Child::run(|| assert_eq!(number_of(&get(&queue, Patience::Forever).unwrap()), 7));
            while queue.statistics().unwrap().waiting_getters == 0 {
                std::thread::yield_now();
            }
            let child = Child::run(|| {
                assert!(fault::arm("unlock.before-wake", 1));
                put(&queue, &numbered(7, 20)).unwrap();
            });
            assert_eq!(child.outcome(), libc::SIGKILL);
            assert_eq!(sleeper.outcome(), 0, "the sleeper finds the item");
            survivors_go_on(&queue, "between publishing and waking");
        });
    }

    /// A burst costs one system call for each waiter that is notified. It notifies no more waiters than can
    /// run beside the putter, however many items there are and however long the waiters take to come. Here a
    /// putter that made one call more would die of it.
    #[test]
    fn a_burst_wakes_few() {
        let beside = std::thread::available_parallelism().map_or(1, |cores| (cores.get() - 1).max(1));
        for getters in [1, 4] {
            for (calls, ending) in [(getters.min(beside), libc::SIGKILL), (getters.min(beside) + 1, 0)] {
                let queue = Queue::create(&PLAIN).unwrap();
                let sleepers: Vec<Child> = (0..getters)
                    .map(|_| Child::run(|| drop(get(&queue, Patience::Forever))))
                    .collect();
                while queue.statistics().unwrap().waiting_getters < getters as u64 {
                    std::thread::yield_now();
                }
                for sleeper in &sleepers {
                    // SAFETY: as in Child::kill.
                    unsafe { libc::kill(sleeper.0, libc::SIGSTOP) };
                }
                let putter = Child::run(|| {
                    assert!(fault::arm("unlock.before-wake", calls as u64));
                    for number in 0..1000 {
                        put(&queue, &numbered(number, 20)).unwrap();
                    }
                });
                assert_eq!(putter.outcome(), ending, "{getters} getters, call {calls}");
                // The others are still asleep.
                let asleep = queue.statistics().unwrap().waiting_getters;
                assert_eq!(asleep, (getters - getters.min(beside)) as u64);
            }
        }
    }

    /// A number that was written but not committed has no effect.
    #[test]
    fn an_item_that_was_never_published_is_not_counted() {
        let queue = Queue::create(&PLAIN).unwrap();
        let child = Child::run(|| {
            assert!(fault::arm("put.numbered", 1));
            put(&queue, &numbered(7, LARGE)).unwrap();
        });
        assert_eq!(child.outcome(), libc::SIGKILL);
        put(&queue, &numbered(9, 20)).unwrap();
        let statistics = queue.statistics().unwrap();
        assert_eq!(
            (statistics.puts, statistics.gets, statistics.bytes),
            (1, 0, 20),
            "{statistics:?}"
        );
    }

    /// Its bytes are counted once, also if the process that rebuilds the caches dies too.
    #[test]
    fn an_item_of_a_dead_putter_is_counted_once() {
        for point in ["put.committed", "put.ordered", "put.linked"] {
            for second in ["takeover.taken", "rebuild.scanned", "rebuild.done"] {
                let queue = Queue::create(&PLAIN).unwrap();
                put(&queue, &numbered(7, 100)).unwrap();
                let child = Child::run(|| {
                    assert!(fault::arm(point, 1));
                    put(&queue, &numbered(7, 20)).unwrap();
                });
                assert_eq!(child.outcome(), libc::SIGKILL);
                let child = Child::run(|| {
                    assert!(fault::arm(second, 1));
                    let _ = queue.statistics();
                });
                assert_eq!(child.outcome(), libc::SIGKILL);
                let statistics = queue.statistics().unwrap();
                assert_eq!((statistics.puts, statistics.bytes), (2, 120), "{point}, {second}");
                books_balance(&queue);
            }
        }
    }

    #[test]
    fn memory_extended_by_the_dead_goes_back() {
        let queue = Queue::create(&PLAIN).unwrap();
        let child = Child::run(|| {
            assert!(fault::arm("grow.backed", 1));
            put(&queue, &vec![0; 100 << 20]).unwrap();
        });
        assert_eq!(child.outcome(), libc::SIGKILL);
        assert!(queue.statistics().unwrap().memory_bytes > 100 << 20);
        assert_eq!(
            get(
                &queue,
                Patience::Until(Instant::now() + Duration::from_millis(1500))
            ),
            Err(Error::Empty)
        );
        let left = queue.statistics().unwrap().memory_bytes;
        assert!(left < 16 << 20, "{left} bytes left");
    }

    const SMALL_ITEMS: u64 = 40_000;

    /// A queue of which many slots are free, all below the one of a payload that is held; and nothing of it
    /// was given back.
    fn drained_below_a_held_payload() -> (Arc<Queue>, penstock_core::Lent) {
        let queue = Queue::create(&PLAIN).unwrap();
        for _ in 0..SMALL_ITEMS {
            put(&queue, &numbered(1, 20)).unwrap();
        }
        put(&queue, &numbered(2, LARGE)).unwrap();
        let mut buffer = Buffer::default();
        for _ in 0..SMALL_ITEMS {
            // A call that must not wait trims nothing.
            assert!(wait(Patience::TryLock, |wait| queue.get(&mut buffer, wait)).is_ok());
        }
        let Ok(Delivery::Lent(held)) = wait(Patience::TryLock, |wait| queue.get(&mut buffer, wait)) else {
            panic!("a large payload is lent");
        };
        (queue, held)
    }

    /// Memory of the slots of all the small items.
    const SLOTS_BYTES: u64 = SMALL_ITEMS * 128;

    /// Puts small items and takes them again, in order, though slots were given back and come back.
    fn slots_are_all_there(queue: &Arc<Queue>, what: &str) {
        for i in 0..SMALL_ITEMS {
            put(queue, &i.to_le_bytes()).unwrap();
        }
        assert_eq!(queue.check().unwrap().findings, [], "{what}");
        for i in 0..SMALL_ITEMS {
            let got = get(queue, Patience::NoWait).unwrap();
            assert_eq!(got, i.to_le_bytes(), "{what}");
        }
        books_balance(queue);
    }

    /// Trimmers of slots die one after the other; what the first ones have not given back the last one does.
    #[test]
    fn slots_go_back_beside_a_held_payload_though_trimmers_die() {
        for (point, hit) in [
            ("trim.tracked", 1),
            ("trim.parked", 1),
            ("trim.parked", 20),
            ("trim.pages-absent", 1),
            ("trim.pages-absent", 2),
            ("trim.pages-claimed", 1),
            ("trim.pages-claimed", 3),
            ("trim.pages-punched", 2),
            ("trim.pages-noted", 1),
        ] {
            let what = format!("killed at pass {hit} of {point}");
            let (queue, held) = drained_below_a_held_payload();
            let before = queue.statistics().unwrap().memory_bytes;
            for _ in 0..2 {
                let child = Child::run(|| {
                    assert!(fault::arm(point, hit));
                    queue.trim_if_due().unwrap();
                });
                let ended = child.outcome();
                // What the first has given back the second does not pass again.
                assert!([libc::SIGKILL, 0].contains(&ended), "{what}: {ended}");
                books_balance(&queue);
            }
            queue.trim_if_due().unwrap();
            let given_up = Instant::now() + Duration::from_secs(20);
            // All but the spare pages that a queue keeps.
            while queue.statistics().unwrap().memory_bytes + SLOTS_BYTES - (3 << 20) - (256 << 10) > before {
                assert!(Instant::now() < given_up, "{what}: {:?}", queue.statistics());
                std::thread::sleep(Duration::from_millis(50));
                queue.trim_if_due().unwrap();
            }
            books_balance(&queue);
            slots_are_all_there(&queue, &what);
            drop(held);
            slots_are_all_there(&queue, &what);
        }
    }

    /// Putters die while they take back the memory of slots.
    #[test]
    fn slots_come_back_though_putters_die() {
        for (point, hit) in [
            ("grow.pages-remnant", 1),
            ("grow.backed", 1),
            ("grow.page-present", 1),
            ("grow.page-present", 7),
            ("slot.unparked", 1),
            ("slot.unparked", 600),
        ] {
            let what = format!("killed at pass {hit} of {point}");
            let (queue, held) = drained_below_a_held_payload();
            queue.trim_if_due().unwrap();
            let child = Child::run(|| {
                assert!(fault::arm(point, hit));
                for _ in 0..SMALL_ITEMS {
                    put(&queue, &numbered(3, 20)).unwrap();
                }
            });
            assert_eq!(child.outcome(), libc::SIGKILL, "{what}: it did not pass there");
            books_balance(&queue);
            while let Ok(payload) = get(&queue, Patience::NoWait) {
                assert_eq!(number_of(&payload), 3, "{what}");
            }
            slots_are_all_there(&queue, &what);
            drop(held);
        }
    }

    /// A putter dies that has put memory behind new slots, and has not said so. Then all is given back.
    #[test]
    fn memory_above_the_marks_goes_back() {
        let bytes_left = |queue: &Arc<Queue>| {
            while get(queue, Patience::TryLock).is_ok() {}
            // More slots than a queue keeps, so that the trim lowers the marks.
            queue.trim_if_due().unwrap();
            let statistics = queue.statistics().unwrap();
            assert!(statistics.memory_bytes < 4 << 20, "{statistics:?}");
            books_balance(queue);
            statistics.memory_bytes
        };
        let (queue, whole) = (Queue::create(&PLAIN).unwrap(), Queue::create(&PLAIN).unwrap());
        for _ in 0..SMALL_ITEMS {
            put(&queue, &numbered(1, 20)).unwrap();
        }
        let before = queue.statistics().unwrap().memory_bytes;
        let child = Child::run(|| {
            assert!(fault::arm("grow.backed", 1));
            loop {
                put(&queue, &numbered(2, 20)).unwrap();
            }
        });
        assert_eq!(child.outcome(), libc::SIGKILL);
        assert_eq!(queue.statistics().unwrap().memory_bytes, before + (1 << 20));
        for _ in 0..queue.len() {
            put(&whole, &numbered(1, 20)).unwrap();
        }
        assert_eq!(bytes_left(&queue), bytes_left(&whole));
    }

    /// The rebuild sorts items by their slots, of which many have no memory. It touches none of those, and a
    /// second one begins where the first has died.
    #[test]
    fn a_rebuild_beside_absent_slots() {
        let (queue, held) = drained_below_a_held_payload();
        queue.trim_if_due().unwrap();
        // Many more than an eighth of the slots that are left.
        for i in 0..12_000_u64 {
            put(&queue, &i.to_le_bytes()).unwrap();
        }
        for i in 0..2000_u64 {
            assert_eq!(get(&queue, Patience::NoWait).unwrap(), i.to_le_bytes());
        }
        let before = queue.statistics().unwrap().memory_bytes;
        for point in ["put.linked", "rebuild.numbered", "rebuild.done"] {
            let child = Child::run(|| {
                assert!(fault::arm(point, 1));
                put(&queue, &12_000_u64.to_le_bytes()).unwrap();
            });
            assert_eq!(child.outcome(), libc::SIGKILL, "killed at {point}");
        }
        books_balance(&queue);
        let after = queue.statistics().unwrap().memory_bytes;
        assert!(after <= before + 4096, "{after} bytes after {before}");
        for i in 2000..=12_000_u64 {
            assert_eq!(get(&queue, Patience::NoWait).unwrap(), i.to_le_bytes());
        }
        assert_eq!(get(&queue, Patience::NoWait), Err(Error::Empty));
        slots_are_all_there(&queue, "after rebuilds");
        drop(held);
    }

    /// A child puts so many bytes, and dies when it has their memory and has not written to it. Returns how
    /// much memory backs the queue.
    fn memory_before_the_first_byte(queue: &Arc<Queue>, len: usize) -> u64 {
        let child = Child::run(|| {
            assert!(fault::arm("claim.copying", 1));
            // Half of the empty part is written before the point.
            let _ = wait(Patience::Forever, |wait| queue.put(&[&[], &vec![1; len]], wait));
        });
        assert_eq!(child.outcome(), libc::SIGKILL);
        queue.statistics().unwrap().memory_bytes
    }

    /// A putter that dies before it has extended the memory has not noted it as backed: the next putter
    /// extends it.
    #[test]
    fn memory_is_promised_after_it_was_extended() {
        let queue = Queue::create(&PLAIN).unwrap();
        let len = 16 << 20;
        let child = Child::run(|| {
            assert!(fault::arm("claim.committed", 1));
            put(&queue, &vec![0; len]).unwrap();
        });
        memory_is_there_though_it_dies(child, &queue, len);
    }

    fn memory_is_there_though_it_dies(child: Child, queue: &Arc<Queue>, len: usize) {
        assert_eq!(child.outcome(), libc::SIGKILL);
        assert!(queue.statistics().unwrap().memory_bytes < len as u64);
        let there = memory_before_the_first_byte(queue, len);
        assert!(there >= len as u64, "{there} bytes are there of {len}");
        books_balance(queue);
    }

    /// A process that dies when it has given memory back has not left it noted as backed: the next putter
    /// extends it.
    #[test]
    fn memory_is_promised_no_more_before_it_is_given_back() {
        let queue = Queue::create(&PLAIN).unwrap();
        let len = 32 << 20;
        put(&queue, &vec![0; len]).unwrap();
        let child = Child::run(|| {
            assert!(fault::arm("trim.punched", 1));
            drop(get(&queue, Patience::NoWait).unwrap());
        });
        memory_is_there_though_it_dies(child, &queue, len);
    }

    #[test]
    fn a_rebuild_does_not_forget_memory_to_give_back() {
        let queue = Queue::create(&PLAIN).unwrap();
        // So little memory is free that it stays; and it lies above what is used.
        let mut held = Vec::new();
        for len in [10 << 20, 10 << 20, 7 << 20] {
            put(&queue, &vec![0; len]).unwrap();
        }
        for i in 0..3 {
            let mut buffer = Buffer::default();
            let lent = wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait)).unwrap();
            if i < 2 {
                held.push(lent);
            }
        }
        assert!(queue.statistics().unwrap().memory_bytes > 27 << 20);
        let child = Child::run(|| {
            assert!(fault::arm("put.committed", 1));
            put(&queue, b"x").unwrap();
        });
        assert_eq!(child.outcome(), libc::SIGKILL);
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"x");
        drop(held);
        let given_up = Instant::now() + Duration::from_secs(20);
        while queue.statistics().unwrap().memory_bytes > 8 << 20 {
            assert!(Instant::now() < given_up, "{:?}", queue.statistics());
            let patience = Patience::Until(Instant::now() + Duration::from_millis(200));
            assert_eq!(get(&queue, patience), Err(Error::Empty));
        }
        books_balance(&queue);
    }

    /// The waiters that would check for the dead die themselves; one of the others takes their place.
    #[test]
    fn dead_watchers_are_replaced() {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        put(&queue, b"x").unwrap();
        let holder = Child::run(|| {
            get(&queue, Patience::Forever).unwrap();
            loop {
                std::thread::park();
            }
        });
        while !queue.is_empty() {
            std::thread::yield_now();
        }
        let mut waiters = Vec::new();
        for i in 1..=5 {
            waiters.push(Child::run(|| {
                assert_eq!(get(&queue, Patience::Forever).unwrap(), b"x")
            }));
            while queue.statistics().unwrap().waiting_getters < i {
                std::thread::yield_now();
            }
        }
        for watcher in waiters.drain(..3) {
            watcher.signal(libc::SIGKILL);
            assert_eq!(watcher.outcome(), libc::SIGKILL);
        }
        holder.signal(libc::SIGKILL);
        assert_eq!(holder.outcome(), libc::SIGKILL);
        // This process makes no call: the two waiters that are left must find the dead, and one of them gets
        // the item.
        let mut status = 0;
        // SAFETY: waits for any child of this process's group; the tests of this file run one at a time in a
        // process.
        let ended = unsafe { libc::waitpid(waiters[1].0, &raw mut status, 0) };
        assert_eq!(ended, waiters[1].0);
        waiters[1].0 = 0;
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
    }

    /// Another thread of the process is inside the critical section when it calls exec, and the new program
    /// opens the queue again: its former self is dead although process and mapping are there.
    #[test]
    fn exec_inside_the_critical_section() {
        if let Ok(fd) = std::env::var("PENSTOCK_TEST_EXEC_FD") {
            use std::os::fd::FromRawFd;
            // SAFETY: the number was handed over for this purpose by the process that this one was.
            let fd = unsafe { std::os::fd::OwnedFd::from_raw_fd(fd.parse().unwrap()) };
            let queue = Queue::attach(fd).unwrap();
            put(&queue, b"from the new program").unwrap();
            loop {
                std::thread::park();
            }
        }
        let queue = Queue::create(&PLAIN).unwrap();
        let _child = Child::run(|| {
            let fd = queue.duplicate_fd().unwrap();
            use std::os::fd::AsRawFd;
            // SAFETY: makes the copy survive exec.
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) };
            let inside = queue.clone();
            fault::stop_at("put.linked");
            std::thread::spawn(move || put(&inside, b"from the old program"));
            while !fault::is_stopped() {
                std::thread::yield_now();
            }
            use std::os::unix::process::CommandExt;
            let error = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "points::exec_inside_the_critical_section",
                    "--nocapture",
                ])
                .env("PENSTOCK_TEST_EXEC_FD", fd.as_raw_fd().to_string())
                .exec();
            panic!("{error}");
        });
        assert_eq!(get(&queue, soon()).unwrap(), b"from the old program");
        assert_eq!(get(&queue, soon()).unwrap(), b"from the new program");
    }

    /// A process dies with the caches half changed, or while it holds an item; the survivor never waits.
    #[test]
    fn a_survivor_that_only_asks_finds_out() {
        for (options, len, point) in [
            (PLAIN, 20, "get.unlinked"),
            (PLAIN, 20, "put.committed"),
            (PLAIN, LARGE, "lent.reading"),
            (ACKNOWLEDGED, 20, "get.leased"),
        ] {
            let asks: [fn(&Arc<Queue>) -> bool; 2] = [
                |queue| queue.is_empty(),
                |queue| get(queue, Patience::NoWait).is_err(),
            ];
            for ask in asks {
                let queue = Queue::create(&options).unwrap();
                // Registers this process, so that a later registration does not sweep the dead.
                queue.statistics().unwrap();
                let child = Child::run(|| {
                    assert!(fault::arm(point, 1));
                    put(&queue, &numbered(7, len)).unwrap();
                    let _ = get(&queue, Patience::NoWait);
                });
                assert_eq!(child.outcome(), libc::SIGKILL, "{point}");
                while ask(&queue) {
                    std::thread::yield_now();
                }
            }
        }
    }

    /// A first process dies in the critical section; a second one takes the lock over and dies in the
    /// recovery; then a third; the test itself is the survivor.
    #[test]
    fn death_inside_the_recovery() {
        alone(|| {
            let points = [
                "takeover.taken",
                "rebuild.cleared",
                "rebuild.scanned",
                "rebuild.numbered",
                "rebuild.done",
                "sweep.started",
                "sweep.slot-returned",
                "sweep.cells-freed",
                "sweep.released",
            ];
            for options in [PLAIN, ACKNOWLEDGED] {
                for point in points {
                    for second in points {
                        let what = format!("killed at {point}, then at {second}");
                        let queue = Queue::create(&options).unwrap();
                        for len in [20, 1000, LARGE, 20] {
                            put(&queue, &numbered(8, len)).unwrap();
                        }
                        let first = Child::run(|| {
                            // Three leases, of which the large one is also lent, which the sweep has to
                            // return.
                            let mut buffer = Buffer::default();
                            let mut lent = Vec::new();
                            for _ in 0..3 {
                                lent.push(
                                    wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait)).unwrap(),
                                );
                            }
                            assert!(fault::arm("put.linked", 1));
                            put(&queue, &numbered(7, 1000)).unwrap();
                        });
                        assert_eq!(first.outcome(), libc::SIGKILL, "{what}");
                        for point in [point, second] {
                            let next = Child::run(|| {
                                assert!(fault::arm(point, 1));
                                let _ = queue.statistics();
                            });
                            let ended = next.outcome();
                            // After a complete sweep the second process may not pass its point.
                            assert!([libc::SIGKILL, 0].contains(&ended), "{what}: {ended}");
                        }
                        survivors_go_on(&queue, &what);
                    }
                }
            }
        });
    }
}
