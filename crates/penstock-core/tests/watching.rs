//! Waiting with a descriptor for room, and for the end of all work: it is ready exactly if a put, or a join,
//! would not wait, whichever processes put, get, finish, fork, shut down and die.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use penstock_core::{Awaited, Error, Options, Patience, Queue};

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/get.rs"]
mod get;
#[path = "common/soon.rs"]
mod soon;

use child::Child;
use common::{PLAIN, wait};
use soon::soon;

const TWO: Options = Options { maxsize: 2, ..PLAIN };

const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    ..PLAIN
};

fn put(queue: &Queue, payload: &[u8]) -> Result<(), Error> {
    wait(Patience::NoWait, |wait| queue.put(&[payload], wait)).map(drop)
}

fn get(queue: &Arc<Queue>) -> Result<Vec<u8>, Error> {
    get::get(queue, Patience::NoWait)
}

fn watch(queue: &Queue, awaited: Awaited) -> RawFd {
    wait(soon(), |wait| queue.watch_for(awaited, wait)).unwrap()
}

fn events(fd: RawFd, timeout: i32, asked: i16) -> i16 {
    let mut polled = libc::pollfd {
        fd,
        events: asked,
        revents: 0,
    };
    // SAFETY: the call reads and writes one struct.
    assert!(unsafe { libc::poll(&raw mut polled, 1, timeout) } >= 0);
    polled.revents & asked
}

fn is_readable(fd: RawFd) -> bool {
    events(fd, 0, libc::POLLIN) != 0
}

fn is_writable(fd: RawFd) -> bool {
    events(fd, 0, libc::POLLOUT) != 0
}

/// Runs `work` in a forked child and waits for its end. False if it was killed or failed.
fn in_child(work: impl FnOnce()) -> bool {
    Child::run(work).reap() == 0
}

fn is_sound(queue: &Queue) {
    queue.statistics().unwrap();
    assert_eq!(queue.check().unwrap().findings, []);
}

#[test]
fn writable_exactly_while_there_is_room() {
    for watches_items in [false, true] {
        let queue = Queue::create(&TWO).unwrap();
        let room = watch(&queue, Awaited::Room);
        if watches_items {
            assert_eq!(watch(&queue, Awaited::Item), room, "one descriptor for both");
        }
        for len in [1, 500, 5000, 500_000] {
            assert!(is_writable(room));
            put(&queue, &vec![1; len]).unwrap();
            assert!(is_writable(room));
            put(&queue, b"and more").unwrap();
            assert!(!is_writable(room));
            is_sound(&queue);
            get(&queue).unwrap();
            assert!(is_writable(room));
            assert!(!watches_items || is_readable(room));
            get(&queue).unwrap();
            assert!(is_writable(room));
            assert!(!watches_items || !is_readable(room));
        }
        is_sound(&queue);
    }
}

#[test]
fn a_place_for_one() {
    let queue = Queue::create(&Options { maxsize: 1, ..PLAIN }).unwrap();
    let fd = watch(&queue, Awaited::Room);
    watch(&queue, Awaited::Item);
    for _ in 0..3 {
        assert!(is_writable(fd) && !is_readable(fd));
        put(&queue, b"x").unwrap();
        assert!(!is_writable(fd) && is_readable(fd));
        assert_eq!(put(&queue, b"y"), Err(Error::Full));
        get(&queue).unwrap();
    }
    // An item watcher that comes to a full queue, and one for room that comes to it.
    put(&queue, b"x").unwrap();
    for awaited in [Awaited::Item, Awaited::Room] {
        assert!(in_child(|| {
            let own = watch(&queue, awaited);
            assert!(is_readable(own) == (awaited == Awaited::Item) || is_readable(own));
            assert!(!is_writable(own));
        }));
    }
    is_sound(&queue);
}

#[test]
fn bytes_are_room_too() {
    let queue = Queue::create(&Options {
        soft_bytes: 1000,
        ..PLAIN
    })
    .unwrap();
    let fd = watch(&queue, Awaited::Room);
    put(&queue, &[1; 999]).unwrap();
    assert!(is_writable(fd));
    put(&queue, b"x").unwrap();
    assert!(!is_writable(fd));
    get(&queue).unwrap();
    assert!(is_writable(fd));
}

#[test]
fn readable_exactly_while_nothing_is_unfinished() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    let fd = watch(&queue, Awaited::Finish);
    assert_ne!(watch(&queue, Awaited::Item), fd);
    for _ in 0..3 {
        assert!(is_readable(fd));
        put(&queue, b"x").unwrap();
        put(&queue, b"y").unwrap();
        for _ in 0..2 {
            assert!(!is_readable(fd));
            get(&queue).unwrap();
            assert!(!is_readable(fd));
            assert!(in_child(|| queue.task_done().unwrap()));
        }
    }
    assert!(is_readable(fd));
    is_sound(&queue);
}

#[test]
fn whichever_process_makes_room_and_finishes() {
    let queue = Queue::create(&Options {
        maxsize: 1,
        ..ACKNOWLEDGED
    })
    .unwrap();
    let (room, finish) = (watch(&queue, Awaited::Room), watch(&queue, Awaited::Finish));
    for _ in 0..3 {
        assert!(in_child(|| put(&queue, b"a child's").unwrap()));
        assert!(!is_writable(room) && !is_readable(finish));
        assert!(in_child(|| {
            let own = watch(&queue, Awaited::Room);
            assert!(!is_writable(own));
            get(&queue).unwrap();
            assert!(is_writable(own) && is_writable(room));
            queue.task_done().unwrap();
            assert!(is_readable(finish));
        }));
        assert!(is_writable(room) && is_readable(finish));
    }
    is_sound(&queue);
}

#[test]
fn a_shutdown_makes_all_ready() {
    for immediate in [false, true] {
        let queue = Queue::create(&Options {
            maxsize: 1,
            ..ACKNOWLEDGED
        })
        .unwrap();
        put(&queue, b"x").unwrap();
        let fd = watch(&queue, Awaited::Room);
        watch(&queue, Awaited::Item);
        let finish = watch(&queue, Awaited::Finish);
        assert!(!is_writable(fd) && !is_readable(finish));
        assert!(in_child(|| queue.shut_down(immediate).unwrap()));
        assert!(is_writable(fd), "a put raises");
        assert!(is_readable(fd), "there is an item, or a get raises");
        assert_eq!(is_readable(finish), immediate);
        if !immediate {
            get(&queue).unwrap();
            queue.task_done().unwrap();
            assert!(is_readable(fd) && is_readable(finish));
        }
        is_sound(&queue);
    }
}

#[test]
fn a_dead_watcher_is_discounted() {
    for awaited in [Awaited::Room, Awaited::Finish] {
        let queue = Queue::create(&TWO).unwrap();
        assert!(!in_child(|| {
            watch(&queue, awaited);
            // SAFETY: ends this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }));
        is_sound(&queue);
        put(&queue, b"x").unwrap();
        let fd = watch(&queue, awaited);
        assert!(events(fd, 0, libc::POLLIN | libc::POLLOUT) != 0);
    }
}

/// A process that watches for the end alone opens the pipe through another, and its child keeps it open.
#[test]
fn a_child_waits_with_what_it_has_inherited() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    put(&queue, b"x").unwrap();
    let mut parent = Child::run(|| {
        let fd = watch(&queue, Awaited::Finish);
        // SAFETY: the child makes no other call before it is woken.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let status = i32::from(events(fd, 20_000, libc::POLLIN) == 0);
            // SAFETY: ends this process.
            unsafe { libc::_exit(status) };
        }
        assert!(in_child(|| {
            get(&queue).unwrap();
            queue.task_done().unwrap();
        }));
        let mut status = 0;
        // SAFETY: a child of this process, not reaped yet.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!(status, 0);
    });
    assert_eq!(parent.reap(), 0);
    is_sound(&queue);
}

/// Putters and getters fill and empty a narrow queue all the time, and threads poll for each kind. None of
/// them sleeps beside what it waits for, and when all is quiet the descriptors say so.
#[test]
fn in_a_crowd() {
    let queue = Queue::create(&Options {
        maxsize: 1,
        ..ACKNOWLEDGED
    })
    .unwrap();
    let fd = watch(&queue, Awaited::Room);
    watch(&queue, Awaited::Item);
    let finish = watch(&queue, Awaited::Finish);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let putters: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..3000 {
                        while put(&queue, b"x").is_err() {
                            assert!(events(fd, 20_000, libc::POLLOUT) != 0, "it sleeps beside room");
                        }
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    match get(&queue) {
                        Ok(_) => queue.task_done().unwrap(),
                        Err(_) => drop(events(fd, 10, libc::POLLIN)),
                    }
                }
            });
        }
        for putter in putters {
            putter.join().unwrap();
        }
        assert!(
            events(finish, 20_000, libc::POLLIN) != 0,
            "it sleeps beside the end"
        );
        is_over.store(true, Ordering::Relaxed);
    });
    is_sound(&queue);
    assert!(!is_readable(fd) && is_writable(fd) && is_readable(finish));
}

#[test]
fn tending_a_queue_sweeps_the_dead() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    queue.task_done().unwrap_err();
    let fd = watch(&queue, Awaited::Item);
    put(&queue, b"x").unwrap();
    let mut worker = Child::run(|| {
        get(&queue).unwrap();
        // SAFETY: ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    });
    assert_ne!(worker.reap(), 0);
    for slices in 1.. {
        if queue.is_tending_due(slices) {
            queue.tend(slices).unwrap();
        }
        if is_readable(fd) {
            break;
        }
    }
    assert_eq!(get(&queue).unwrap(), b"x");
}

#[test]
fn tending_a_queue_makes_ready_what_is_due() {
    let queue = Queue::create(&PLAIN).unwrap();
    let fd = watch(&queue, Awaited::Item);
    let delay = Duration::from_millis(1);
    wait(Patience::NoWait, |wait| queue.put_delayed(&[b"x"], delay, wait)).unwrap();
    let began = Instant::now();
    for slices in 1.. {
        if queue.is_tending_due(slices) {
            queue.tend(slices).unwrap();
        }
        // It is also once when an item is due earlier than those before.
        if is_readable(fd) && get(&queue).is_ok_and(|item| item == b"x") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "it stays delayed");
    }
    is_sound(&queue);
}
