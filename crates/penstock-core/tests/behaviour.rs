//! The behaviour of a queue within one process.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use penstock_core::{Buffer, Delivery, Error, Leave, Lent, Options, Patience, Queue, View, Wait};

mod common;
#[path = "common/get.rs"]
mod get;

use common::{PLAIN, wait};
use get::get;

const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    ..PLAIN
};

fn create(options: &Options) -> Arc<Queue> {
    Queue::create(options).expect("a queue")
}

fn put(queue: &Queue, payload: &[u8]) -> Result<(), Error> {
    wait(Patience::NoWait, |wait| queue.put(&[payload], wait)).map(|_| ())
}

fn letters_of(queue: &Queue) -> Vec<Vec<u8>> {
    let letters = queue.dead_letters().unwrap();
    letters.into_iter().map(|letter| letter.payload).collect()
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed * 7 + i / 251) as u8).collect()
}

#[test]
fn payloads_of_every_size_arrive_in_order() {
    let queue = create(&PLAIN);
    let sizes = [
        0,
        1,
        71,
        72,
        73,
        128,
        129,
        1000,
        2047,
        2048,
        2049,
        5000,
        32768,
        32769,
        65536,
        65537,
        300_000,
        5 << 20,
    ];
    for round in 0..3 {
        for (i, size) in sizes.iter().enumerate() {
            put(&queue, &pattern(*size, i + round)).unwrap();
        }
        assert_eq!(queue.len(), sizes.len() as u64);
        for (i, size) in sizes.iter().enumerate() {
            assert!(
                get(&queue, Patience::NoWait).unwrap() == pattern(*size, i + round),
                "size {size}"
            );
        }
    }
    assert_eq!(get(&queue, Patience::NoWait), Err(Error::Empty));
    assert!(queue.is_empty());
}

#[test]
fn parts_are_written_one_after_the_other() {
    let queue = create(&PLAIN);
    for middle in [10, 100_000] {
        let middle = pattern(middle, 1);
        let parts: [&[u8]; 4] = [b"begin", &middle, b"", b"end"];
        wait(Patience::NoWait, |wait| queue.put(&parts, wait)).unwrap();
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), parts.concat());
    }
}

#[test]
fn maxsize_counts_queued_items() {
    let queue = create(&Options { maxsize: 2, ..PLAIN });
    put(&queue, b"a").unwrap();
    assert!(!queue.is_full());
    put(&queue, &pattern(10_000, 0)).unwrap();
    assert!(queue.is_full());
    assert_eq!(put(&queue, b"c"), Err(Error::Full));
    assert_eq!(put(&queue, &pattern(10_000, 0)), Err(Error::Full));
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"a");
    put(&queue, b"c").unwrap();
    assert_eq!(queue.len(), 2);
}

#[test]
fn the_memory_limit_is_an_error_and_the_queue_goes_on() {
    let queue = create(&Options {
        max_bytes: Some(1 << 20),
        ..PLAIN
    });
    for size in [10, 1500, 40_000, 300_000] {
        let payload = pattern(size, 3);
        let mut count = 0;
        let error = loop {
            match put(&queue, &payload) {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(
            matches!(error, Error::OutOfMemory { limit, .. } if limit == 1 << 20),
            "{error}"
        );
        assert!(count * size <= 1 << 20 && count > 0);
        for _ in 0..count {
            assert!(get(&queue, Patience::NoWait).unwrap() == payload);
        }
    }
    assert_eq!(queue.len(), 0);
}

/// Consecutive payloads have different sizes, and the memory is full.
#[test]
fn payloads_of_many_sizes_take_turns() {
    let queue = create(&Options {
        max_bytes: Some(1 << 20),
        ..PLAIN
    });
    let size_of = |index: usize| [10, 1000, 90, 2000, 20, 400][index % 6];
    let (mut first, mut last) = (0, 0);
    for round in 0..15 {
        while put(&queue, &pattern(size_of(last), last)).is_ok() {
            last += 1;
        }
        assert!(last - first > 500, "{} items in 1 MiB", last - first);
        for _ in 0..last - first - round {
            assert!(get(&queue, Patience::NoWait).unwrap() == pattern(size_of(first), first));
            first += 1;
        }
        assert_eq!(queue.check().unwrap().findings, []);
    }
}

#[test]
fn a_time_out_lasts_as_long_as_asked() {
    let queue = create(&Options { maxsize: 1, ..PLAIN });
    for patience in [Duration::from_millis(30), Duration::from_millis(150)] {
        let start = Instant::now();
        assert_eq!(get(&queue, Patience::Until(start + patience)), Err(Error::Empty));
        assert!(start.elapsed() >= patience);
    }
    put(&queue, b"x").unwrap();
    let start = Instant::now();
    let until = Patience::Until(start + Duration::from_millis(30));
    assert_eq!(wait(until, |wait| queue.put(&[b"y"], wait)), Err(Error::Full));
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert_eq!(queue.len(), 1);
}

#[test]
fn an_interrupt_ends_a_wait() {
    let queue = create(&PLAIN);
    let mut buffer = Buffer::default();
    let mut asked = 0;
    let mut interrupted = || {
        asked += 1;
        asked == 2
    };
    let result = queue.get(
        &mut buffer,
        Wait {
            patience: Patience::Forever,
            interrupted: &mut interrupted,
        },
    );
    assert_eq!(result.err(), Some(Error::Interrupted));
    assert_eq!(asked, 2);
    put(&queue, b"x").unwrap();
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"x");
}

#[test]
fn threads_exchange_every_item_once() {
    for maxsize in [0, 1, 7] {
        let queue = create(&Options { maxsize, ..PLAIN });
        let sum = Arc::new(AtomicU64::new(0));
        const EACH: u64 = 20_000;
        let producers: Vec<_> = (0..3u64)
            .map(|p| {
                let queue = queue.clone();
                thread::spawn(move || {
                    for i in 0..EACH {
                        let payload = pattern(if i % 100 == 0 { 4000 } else { 20 }, 0);
                        let number = (p * EACH + i).to_le_bytes();
                        wait(Patience::Forever, |wait| queue.put(&[&number, &payload], wait)).unwrap();
                    }
                })
            })
            .collect();
        let consumers: Vec<_> = (0..3)
            .map(|_| {
                let (queue, sum) = (queue.clone(), sum.clone());
                thread::spawn(move || {
                    let mut last = [None::<u64>; 3];
                    loop {
                        let item = get(&queue, Patience::Forever).unwrap();
                        let number = u64::from_le_bytes(item[..8].try_into().unwrap());
                        if number == u64::MAX {
                            return;
                        }
                        let (producer, i) = ((number / EACH) as usize, number % EACH);
                        assert!(
                            last[producer].is_none_or(|last| last < i),
                            "a producer's items stay in order"
                        );
                        last[producer] = Some(i);
                        sum.fetch_add(number, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for producer in producers {
            producer.join().unwrap();
        }
        for _ in 0..3 {
            wait(Patience::Forever, |wait| {
                queue.put(&[&u64::MAX.to_le_bytes()], wait)
            })
            .unwrap();
        }
        for consumer in consumers {
            consumer.join().unwrap();
        }
        let all = 3 * EACH;
        assert_eq!(sum.load(Ordering::Relaxed), all * (all - 1) / 2);
        let statistics = queue.statistics().unwrap();
        assert_eq!(
            (statistics.puts, statistics.gets, statistics.queued),
            (all + 3, all + 3, 0)
        );
        assert_eq!(statistics.participants, 1);
    }
}

#[test]
fn task_done_finishes_the_oldest_lease() {
    let queue = create(&ACKNOWLEDGED);
    assert_eq!(queue.task_done(), Err(Error::TooManyDone));
    put(&queue, b"first").unwrap();
    put(&queue, &pattern(9000, 1)).unwrap();
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"first");
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), pattern(9000, 1));
    assert_eq!(wait(Patience::NoWait, |wait| queue.join(wait)), Err(Error::Empty));
    queue.task_done().unwrap();
    assert_eq!(queue.statistics().unwrap().unfinished, 1);
    queue.task_done().unwrap();
    assert_eq!(queue.task_done(), Err(Error::TooManyDone));
    wait(Patience::NoWait, |wait| queue.join(wait)).unwrap();
}

#[test]
fn task_done_before_get_finishes_the_item_but_delivers_it() {
    let queue = create(&ACKNOWLEDGED);
    for payload in [pattern(10, 0), pattern(10_000, 0)] {
        put(&queue, &payload).unwrap();
        queue.task_done().unwrap();
        wait(Patience::NoWait, |wait| queue.join(wait)).unwrap();
        assert_eq!(queue.len(), 1);
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), payload);
        assert_eq!(queue.task_done(), Err(Error::TooManyDone));
    }
}

#[test]
fn task_done_beside_a_reader_leaves_the_payload_to_it() {
    let queue = create(&ACKNOWLEDGED);
    let payload = pattern(100_000, 5);
    put(&queue, &payload).unwrap();
    let mut buffer = Buffer::default();
    let Ok(Delivery::Lent(lent)) = wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait)) else {
        panic!("not lent")
    };
    queue.task_done().unwrap();
    for i in 0..5 {
        put(&queue, &pattern(100_000, i)).unwrap();
    }
    assert!(lent.bytes() == payload);
    drop(lent);
    assert_eq!(queue.len(), 5);
}

fn take_lent(queue: &Arc<Queue>) -> Lent {
    let mut buffer = Buffer::default();
    match wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait)) {
        Ok(Delivery::Lent(lent)) => lent,
        _ => panic!("not lent"),
    }
}

/// There are more dead letters than one critical section reads.
#[test]
fn many_dead_letters_are_read_in_the_order_of_their_deaths() {
    let queue = create(&Options {
        max_deliveries: 0,
        ..ACKNOWLEDGED
    });
    put(&queue, b"done").unwrap();
    get(&queue, Patience::NoWait).unwrap();
    queue.task_done().unwrap(); // from now on nothing is set aside
    let letters: Vec<Vec<u8>> = (0..1000_u32)
        .map(|number| number.to_be_bytes().to_vec())
        .collect();
    for letter in &letters {
        put(&queue, letter).unwrap();
        get(&queue, Patience::NoWait).unwrap();
    }
    queue.leave(Leave::Crashed).unwrap();
    assert_eq!(letters_of(&queue), letters);
}

#[test]
fn an_undelivered_item_returns_to_its_old_place_until_it_is_a_dead_letter() {
    for options in [PLAIN, ACKNOWLEDGED] {
        let queue = create(&options);
        let payload = pattern(100_000, 5);
        put(&queue, &payload).unwrap();
        put(&queue, b"younger").unwrap();
        for returns in 0..=u64::from(options.max_deliveries) {
            assert_eq!(queue.statistics().unwrap().redeliveries, returns);
            let lent = take_lent(&queue);
            lent.undeliver();
            drop(lent);
        }
        assert_eq!(letters_of(&queue), [payload]);
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"younger");
        assert_eq!(queue.check().unwrap().findings, []);
    }
}

#[test]
fn an_item_that_was_kept_does_not_return() {
    let queue = create(&PLAIN);
    put(&queue, &pattern(100_000, 5)).unwrap();
    let lent = take_lent(&queue);
    lent.keep().unwrap();
    lent.undeliver();
    drop(lent);
    assert_eq!(get(&queue, Patience::NoWait), Err(Error::Empty));
    let statistics = queue.statistics().unwrap();
    assert_eq!((statistics.gets, statistics.redeliveries), (1, 0));
}

fn bytes_of(view: &View) -> &[u8] {
    // SAFETY: the view's own memory is that long, and no other code writes to it meanwhile.
    unsafe { std::slice::from_raw_parts(view.pointer(), view.len()) }
}

#[test]
fn a_view_is_private_memory_with_the_payloads_contents() {
    for options in [PLAIN, ACKNOWLEDGED] {
        let queue = create(&options);
        let payload = pattern(200_000, 5);
        let ticket = wait(Patience::NoWait, |wait| queue.put(&[&payload], wait)).unwrap();
        let lent = Arc::new(take_lent(&queue));
        assert!(View::new(&lent, 0..0).is_none());
        assert!(View::new(&lent, 0..payload.len() + 1).is_none());
        let views: Vec<View> = [0..1, 100..200_000, 4096..8192, 5000..5001, 0..200_000]
            .into_iter()
            .map(|part| {
                let view = View::new(&lent, part.clone()).expect("a mapping");
                assert!(bytes_of(&view) == &payload[part]);
                view
            })
            .collect();
        // SAFETY: no other code uses this view's memory.
        unsafe { views[4].pointer().write_bytes(7, 200_000) };
        assert!(bytes_of(&views[4]).iter().all(|byte| *byte == 7));
        assert!(bytes_of(&views[1]) == &payload[100..]);
        assert!(lent.bytes() == payload);

        lent.keep().unwrap();
        assert_eq!(queue.is_pending(ticket), options.acknowledged);
        drop(lent);
        if options.acknowledged {
            queue.task_done().unwrap();
        }
        assert!(!queue.is_pending(ticket));
        for i in 0..5 {
            put(&queue, &pattern(200_000, i)).unwrap();
        }
        assert!(
            bytes_of(&views[1]) == &payload[100..],
            "no other item has this memory"
        );
        assert!(queue.check().unwrap().findings.is_empty());
        drop(views);
        assert_eq!(queue.check().unwrap().claimed, 0);
    }
}

#[test]
fn lent_payloads_do_not_count_for_the_bound() {
    let queue = create(&Options {
        max_bytes: Some(1 << 20),
        ..PLAIN
    });
    let large = vec![1; 400_000];
    put(&queue, &large).unwrap();
    assert!(!queue.is_lent_out());
    let lent = take_lent(&queue);
    assert!(queue.is_lent_out());
    put(&queue, &large).unwrap();
    put(&queue, &large).unwrap();
    assert!(matches!(put(&queue, &large), Err(Error::OutOfMemory { .. })));
    drop(lent);
    assert!(!queue.is_lent_out());
}

#[test]
fn leaving_in_order_while_borrowing_leaves_the_item_unfinished() {
    let queue = create(&ACKNOWLEDGED);
    for done_while_borrowing in [false, true] {
        put(&queue, &pattern(100_000, 5)).unwrap();
        let lent = take_lent(&queue);
        queue.leave(Leave::Clean).unwrap();
        assert_eq!(queue.statistics().unwrap().unfinished, 1);
        assert!(queue.check().unwrap().findings.is_empty());
        if done_while_borrowing {
            queue.task_done().unwrap();
            assert!(lent.bytes() == pattern(100_000, 5));
        }
        drop(lent);
        assert_eq!(queue.statistics().unwrap().redeliveries, 0);
        assert_eq!(queue.task_done().is_ok(), !done_while_borrowing);
        assert_eq!(queue.statistics().unwrap().unfinished, 0);
        assert!(queue.check().unwrap().findings.is_empty());
    }
}

#[test]
fn leaving_in_order_leaves_items_unfinished_and_a_crash_returns_them() {
    let queue = create(&ACKNOWLEDGED);
    put(&queue, b"x").unwrap();
    get(&queue, Patience::NoWait).unwrap();
    queue.leave(Leave::Clean).unwrap();
    assert_eq!(get(&queue, Patience::NoWait), Err(Error::Empty));
    assert_eq!(queue.statistics().unwrap().unfinished, 1);
    queue.task_done().unwrap();
    assert_eq!(queue.statistics().unwrap().unfinished, 0);

    put(&queue, b"y").unwrap();
    put(&queue, b"z").unwrap();
    for redelivery in 0..4 {
        assert_eq!(
            get(&queue, Patience::NoWait).unwrap(),
            b"y",
            "redelivery {redelivery} goes to the front"
        );
        queue.leave(Leave::Crashed).unwrap();
    }
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"z");
    queue.task_done().unwrap();
    wait(Patience::NoWait, |wait| queue.join(wait)).unwrap();
    let statistics = queue.statistics().unwrap();
    assert_eq!(
        (
            statistics.redeliveries,
            statistics.dead_letters,
            statistics.unfinished
        ),
        (3, 1, 0)
    );
    assert_eq!(letters_of(&queue), [b"y"]);
    assert_eq!(
        statistics.puts,
        statistics.gets + statistics.queued + statistics.dead_letters
    );
}

#[test]
fn memory_goes_back_after_a_flood() {
    let queue = create(&PLAIN);
    let at_start = queue.statistics().unwrap().memory_bytes;
    assert!(at_start <= 256 << 10, "{at_start} bytes for an empty queue");
    for (size, count) in [(1 << 20, 128), (1500, 40_000), (20, 400_000)] {
        let payload = pattern(size, 0);
        for _ in 0..count {
            put(&queue, &payload).unwrap();
        }
        assert!(queue.statistics().unwrap().memory_bytes > 32 << 20);
        for _ in 0..count {
            get(&queue, Patience::NoWait).unwrap();
        }
        let left = queue.statistics().unwrap().memory_bytes;
        assert!(
            left < 16 << 20,
            "{left} bytes left after {count} items of {size} bytes"
        );
        // The next round begins after the time in which a queue that grows again keeps its memory.
        assert_eq!(
            get(
                &queue,
                Patience::Until(Instant::now() + Duration::from_millis(2100))
            ),
            Err(Error::Empty)
        );
    }
}

/// Puts and gets one item now and then, until no more memory is left than that.
fn comes_down_to(queue: &Arc<Queue>, most: u64, what: &str) {
    let given_up = Instant::now() + Duration::from_secs(20);
    loop {
        let memory = queue.statistics().unwrap().memory_bytes;
        if memory <= most {
            assert_eq!(queue.check().unwrap().findings, [], "{what}");
            return;
        }
        assert!(
            Instant::now() < given_up,
            "{what}: {memory} bytes, more than {most}"
        );
        put(queue, b"x").unwrap();
        get(queue, Patience::NoWait).unwrap();
        if queue.options().acknowledged {
            queue.task_done().unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One thing that stays in use does not keep the memory of what was there before: neither a queued item, nor
/// a lease, nor a payload that is read in place.
#[test]
fn memory_goes_back_beside_what_is_in_use() {
    for what in ["an item", "a lease", "a dead letter", "a held payload"] {
        let queue = create(&Options {
            acknowledged: matches!(what, "a lease" | "a dead letter"),
            max_deliveries: 0,
            ..PLAIN
        });
        if queue.options().acknowledged {
            wait(Patience::NoWait, |wait| queue.join(wait)).unwrap();
        }
        let take = |count: usize, is_done: bool| {
            for _ in 0..count {
                get(&queue, Patience::NoWait).unwrap();
                if is_done {
                    queue.task_done().unwrap();
                }
            }
        };
        // What stays lies in the middle of the slots.
        for _ in 0..200_000 {
            put(&queue, b"before").unwrap();
        }
        put(&queue, &pattern(300_000, 1)).unwrap();
        for _ in 0..200_000 {
            put(&queue, b"after").unwrap();
        }
        for _ in 0..30 {
            put(&queue, &pattern(1 << 20, 2)).unwrap();
        }
        assert!(queue.statistics().unwrap().memory_bytes > 64 << 20);
        take(200_000, queue.options().acknowledged);
        let mut held = None;
        match what {
            "an item" => take(1, false),
            "a held payload" => {
                let Ok(Delivery::Lent(lent)) =
                    wait(Patience::NoWait, |wait| queue.get(&mut Buffer::default(), wait))
                else {
                    panic!("a large payload is lent");
                };
                held = Some(lent);
            }
            "a lease" => take(1, false),
            _ => {
                take(1, false);
                queue.leave(Leave::Crashed).unwrap();
                assert_eq!(queue.statistics().unwrap().dead_letters, 1);
            }
        }
        // Leases are finished in the order of taking, so the one that stays is another one at the end.
        take(200_000 + 29, queue.options().acknowledged);
        if what != "an item" {
            take(1, queue.options().acknowledged);
        }
        comes_down_to(&queue, (16 << 20) + (2 << 20), what);
        drop(held);
    }
}

/// A queue that is never empty and never asked to wait gives memory back, too.
#[test]
fn memory_goes_back_while_items_are_done() {
    let queue = create(&ACKNOWLEDGED);
    for _ in 0..300_000 {
        put(&queue, b"x").unwrap();
    }
    while !queue.is_empty() {
        get(&queue, Patience::NoWait).unwrap();
        queue.task_done().unwrap();
    }
    comes_down_to(&queue, 16 << 20, "in use");
}

/// Behind a selector no call follows the get that empties the queue.
#[test]
fn the_get_that_empties_a_watched_queue_gives_its_memory_back() {
    let queue = create(&PLAIN);
    wait(Patience::NoWait, |wait| queue.watch(wait)).unwrap();
    for (size, count) in [
        (1 << 20, 60),
        (1 << 20, 60),
        (1 << 20, 200),
        (20, 300_000),
        (900, 60_000),
    ] {
        for _ in 0..count {
            put(&queue, &pattern(size, 0)).unwrap();
        }
        assert!(queue.statistics().unwrap().memory_bytes > 32 << 20);
        for _ in 0..count {
            get(&queue, Patience::NoWait).unwrap();
        }
        let left = queue.statistics().unwrap().memory_bytes;
        assert!(
            left <= 16 << 20,
            "{left} bytes after {count} items of {size} bytes"
        );
    }
    assert_eq!(queue.check().unwrap().findings, []);
}

/// Slots whose memory was given back are there again when they are needed, and their items keep the order.
#[test]
fn slots_come_back_beside_a_held_payload() {
    let queue = create(&PLAIN);
    wait(Patience::NoWait, |wait| queue.watch(wait)).unwrap();
    for _ in 0..100_000 {
        put(&queue, b"x").unwrap();
    }
    put(&queue, &pattern(300_000, 1)).unwrap();
    for _ in 0..100_000 {
        get(&queue, Patience::NoWait).unwrap();
    }
    // The payload's slot lies above those that are given back.
    let Ok(Delivery::Lent(held)) = wait(Patience::NoWait, |wait| queue.get(&mut Buffer::default(), wait))
    else {
        panic!("a large payload is lent");
    };
    let low = queue.statistics().unwrap().memory_bytes;
    assert!(low <= 16 << 20, "{low} bytes");
    for round in 0..3_u32 {
        for i in 0..150_000_u32 {
            put(&queue, &(round + i).to_le_bytes()).unwrap();
        }
        assert_eq!(queue.check().unwrap().findings, []);
        for i in 0..150_000_u32 {
            assert_eq!(get(&queue, Patience::NoWait).unwrap(), (round + i).to_le_bytes());
        }
        assert_eq!(queue.check().unwrap().findings, []);
        // Neither a check nor a count touches the memory that was given back.
        let before = queue.statistics().unwrap().memory_bytes;
        queue.check().unwrap();
        assert_eq!(queue.statistics().unwrap().memory_bytes, before);
        assert!(before <= 16 << 20, "{before} bytes");
    }
    drop(held);
    assert!(queue.statistics().unwrap().memory_bytes <= 16 << 20);
}

#[test]
fn one_process_has_one_handle() {
    let queue = create(&Options {
        maxsize: 5,
        ..ACKNOWLEDGED
    });
    let again = Queue::attach(queue.duplicate_fd().unwrap()).unwrap();
    assert!(Arc::ptr_eq(&queue, &again));
    assert!(Arc::ptr_eq(&queue, &Queue::by_id(queue.id()).unwrap()));
    let fd = queue.duplicate_fd().unwrap();
    let (id, options) = (queue.id(), queue.options().clone());
    put(&queue, b"kept").unwrap();
    drop((queue, again));
    assert!(Queue::by_id(id).is_none());
    let reopened = Queue::attach(fd).unwrap();
    assert_eq!((reopened.id(), reopened.options()), (id, &options));
    assert_eq!(get(&reopened, Patience::NoWait).unwrap(), b"kept");
}

#[test]
fn a_named_queue_keeps_its_items_until_its_name_is_removed() {
    let path = std::path::PathBuf::from(format!("/dev/shm/penstock-test-{}", std::process::id()));
    let queue = Queue::create_named(&path, &ACKNOWLEDGED).unwrap();
    put(&queue, b"kept").unwrap();
    assert!(matches!(
        Queue::create_named(&path, &PLAIN),
        Err(Error::Os { call: "linkat", .. })
    ));
    assert!(Arc::ptr_eq(&queue, &Queue::open_named(&path).unwrap()));
    drop(queue);
    let again = Queue::open_named(&path).unwrap();
    assert!(again.options().acknowledged);
    assert_eq!(get(&again, Patience::NoWait).unwrap(), b"kept");
    assert_eq!(again.statistics().unwrap().participants, 1);

    // A process refuses a file that other users could write to.
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    drop(again);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).unwrap();
    assert!(matches!(Queue::open_named(&path), Err(Error::NotAQueue { .. })));
    let link = path.with_extension("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(
        Queue::open_named(&link),
        Err(Error::Os { call: "open", .. })
    ));
    std::fs::remove_file(&link).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(
        Queue::open_named(&path),
        Err(Error::Os { call: "open", .. })
    ));
    let on_disk = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("named");
    assert!(matches!(
        Queue::create_named(&on_disk, &PLAIN),
        Err(Error::NotInMemory)
    ));
}

#[test]
fn other_files_are_refused() {
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(Queue::attach(file.into()), Err(Error::NotAQueue { .. })));
}

/// One waiter wakes up ten times a second to check for the dead; the others sleep longer.
#[test]
fn idle_waiters_wake_up_rarely() {
    let queue = Queue::create(&Options { maxsize: 1, ..PLAIN }).unwrap();
    put(&queue, b"first").unwrap();
    let waiters: Vec<_> = (0..50)
        .map(|_| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || wait(Patience::Forever, |wait| queue.put(&[b"next"], wait)).unwrap())
        })
        .collect();
    while queue.statistics().unwrap().waiting_putters < 50 {
        thread::yield_now();
    }
    let switches = || -> u64 {
        let of_thread = |entry: std::io::Result<std::fs::DirEntry>| -> u64 {
            let status = std::fs::read_to_string(entry.unwrap().path().join("status")).unwrap_or_default();
            let line = status
                .lines()
                .find(|line| line.starts_with("voluntary_ctxt_switches"));
            line.map_or(0, |line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
        };
        std::fs::read_dir("/proc/self/task").unwrap().map(of_thread).sum()
    };
    thread::sleep(Duration::from_millis(2500));
    let before = switches();
    let start = Instant::now();
    thread::sleep(Duration::from_secs(2));
    let per_second = (switches() - before) as f64 / start.elapsed().as_secs_f64();
    // 10 + 5 + 3 + 47 a second, and those of the other tests of this process. 50 watchers would wake up 500
    // times a second.
    assert!(per_second < 250.0, "{per_second} a second");
    for _ in 0..51 {
        get(&queue, Patience::Forever).unwrap();
    }
    for waiter in waiters {
        waiter.join().unwrap();
    }
}

/// The items that are still leased. The process leaves by a failure, and they return.
fn left_of(queue: &Arc<Queue>) -> Vec<u8> {
    queue.leave(Leave::Crashed).unwrap();
    let mut left = Vec::new();
    while let Ok(payload) = get(queue, Patience::NoWait) {
        left.push(payload[0]);
    }
    left
}

#[test]
fn task_done_finds_the_threads_lease_among_many_of_others() {
    let of_many = |finishes: fn(&Arc<Queue>)| {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        wait(Patience::NoWait, |wait| queue.join(wait)).unwrap();
        for item in 0..200 {
            put(&queue, &[item]).unwrap();
        }
        for _ in 0..100 {
            get(&queue, Patience::NoWait).unwrap();
        }
        std::thread::scope(|scope| {
            scope.spawn(|| finishes(&queue)).join().unwrap();
        });
        for _ in 100..200 {
            let _ = get(&queue, Patience::NoWait);
        }
        left_of(&queue)
    };
    let all_but = |gone: &[u8]| -> Vec<u8> { (0..200).filter(|item| !gone.contains(item)).collect() };
    // A thread without a lease finishes the process's oldest.
    assert_eq!(of_many(|queue| queue.task_done().unwrap()), all_but(&[0]));
    // A thread with a lease finishes its own.
    let takes_one: fn(&Arc<Queue>) = |queue| {
        get(queue, Patience::NoWait).unwrap();
        queue.task_done().unwrap();
        queue.task_done().unwrap();
    };
    assert_eq!(of_many(takes_one), all_but(&[0, 100]));
    // With more leases than `task_done` reads at the ends of the list, it reads the whole list.
    let takes_many: fn(&Arc<Queue>) = |queue| {
        for _ in 0..50 {
            get(queue, Patience::NoWait).unwrap();
        }
        for _ in 0..3 {
            queue.task_done().unwrap();
        }
    };
    assert_eq!(of_many(takes_many), all_but(&[100, 101, 102]));
}
