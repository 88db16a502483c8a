//! Waiting with a descriptor: the notifier is readable exactly if a get would find an item, whichever
//! processes put, get, fork and die.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use penstock_core::{Buffer, Delivery, Error, Patience, Queue};

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

fn put(queue: &Queue, payload: &[u8]) {
    wait(Patience::Forever, |wait| queue.put(&[payload], wait)).unwrap();
}

fn get(queue: &Arc<Queue>) -> Result<Vec<u8>, Error> {
    get::get(queue, Patience::NoWait)
}

fn watch(queue: &Queue) -> RawFd {
    wait(soon(), |wait| queue.watch(wait)).unwrap()
}

fn is_readable(fd: RawFd, timeout: i32) -> bool {
    let mut polled = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the call reads and writes one struct.
    assert!(unsafe { libc::poll(&raw mut polled, 1, timeout) } >= 0);
    polled.revents & libc::POLLIN != 0
}

/// Runs `work` in a forked child and waits for its end. False if it was killed or failed.
fn in_child(work: impl FnOnce()) -> bool {
    Child::run(work).reap() == 0
}

fn die() {
    // SAFETY: ends this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

#[test]
fn readable_exactly_while_there_is_an_item() {
    let queue = Queue::create(&PLAIN).unwrap();
    put(&queue, b"before");
    let fd = watch(&queue);
    assert_eq!(watch(&queue), fd, "one descriptor a process");
    for len in [1, 500, 5000, 500_000] {
        assert!(is_readable(fd, 0));
        get(&queue).unwrap();
        assert!(!is_readable(fd, 0));
        put(&queue, &vec![1; len]);
        put(&queue, b"and more");
        assert!(is_readable(fd, 0));
        get(&queue).unwrap();
        assert!(is_readable(fd, 0));
    }
}

#[test]
fn whoever_fills_and_empties_it() {
    let queue = Queue::create(&PLAIN).unwrap();
    let fd = watch(&queue);
    for _ in 0..3 {
        assert!(in_child(|| put(&queue, b"a child's")));
        assert!(is_readable(fd, 0));
        assert!(in_child(|| {
            let own = watch(&queue);
            assert!(is_readable(own, 0) && is_readable(fd, 0));
            get(&queue).unwrap();
            assert!(!is_readable(own, 0) && !is_readable(fd, 0));
        }));
        assert!(!is_readable(fd, 0));
    }
}

#[test]
fn a_dead_watcher_is_discounted() {
    let queue = Queue::create(&PLAIN).unwrap();
    assert!(!in_child(|| {
        watch(&queue);
        die();
    }));
    queue.statistics().unwrap();
    assert_eq!(queue.check().unwrap().findings, []);
    // No process has the notifier any more, so the next watcher makes another.
    put(&queue, b"x");
    let fd = watch(&queue);
    assert!(is_readable(fd, 0));
    get(&queue).unwrap();
    assert!(!is_readable(fd, 0));
}

#[test]
fn the_notifier_outlives_its_maker() {
    let queue = Queue::create(&PLAIN).unwrap();
    let (has_watched, may_end) = (Queue::create(&PLAIN).unwrap(), Queue::create(&PLAIN).unwrap());
    // SAFETY: as in `in_child`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        watch(&queue);
        put(&has_watched, b"");
        wait(soon(), |wait| may_end.await_item(wait)).unwrap();
        die();
    }
    wait(soon(), |wait| has_watched.await_item(wait)).unwrap();
    // The notifier is opened through the child.
    let fd = watch(&queue);
    put(&may_end, b"");
    let mut status = 0;
    // SAFETY: as above.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    // A third process opens it through this one.
    assert!(in_child(|| put(&queue, b"x")));
    assert!(is_readable(fd, 0));
}

#[test]
fn a_thread_that_polls_is_woken() {
    let queue = Queue::create(&PLAIN).unwrap();
    let fd = watch(&queue);
    for _ in 0..200 {
        std::thread::scope(|scope| {
            let poller = scope.spawn(|| is_readable(fd, 20_000));
            put(&queue, b"x");
            assert!(poller.join().unwrap());
        });
        get(&queue).unwrap();
    }
}

/// Putters and getters fill and empty the queue all the time, and one thread polls. It never sleeps beside an
/// item. When the queue stays empty, the notifier is not readable.
#[test]
fn in_a_crowd() {
    let queue = Queue::create(&PLAIN).unwrap();
    let fd = watch(&queue);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..5000 {
                    put(&queue, b"x");
                }
            });
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = get(&queue);
                }
            });
        }
        let mut got = 0;
        while queue.statistics().unwrap().puts < 10_000 || !queue.is_empty() {
            if is_readable(fd, 10) {
                got += usize::from(get(&queue).is_ok());
            }
        }
        is_over.store(true, Ordering::Relaxed);
        println!("{got} items by polling");
    });
    assert_eq!(queue.check().unwrap().findings, []);
    assert!(!is_readable(fd, 0));
    put(&queue, b"x");
    assert!(is_readable(fd, 0));
}

#[test]
fn waiting_takes_nothing() {
    let queue = Queue::create(&PLAIN).unwrap();
    let short = || Patience::Until(Instant::now() + Duration::from_millis(5));
    assert_eq!(wait(short(), |wait| queue.await_item(wait)), Err(Error::Empty));
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| wait(soon(), |wait| queue.await_item(wait))))
            .collect();
        put(&queue, b"x");
        // All waiters return for one item, because none takes it.
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
    });
    assert_eq!(get(&queue).unwrap(), b"x");
    let statistics = queue.statistics().unwrap();
    assert_eq!((statistics.queued, statistics.waiting_getters), (0, 0));
}

/// A process that could not open the notifier tries again as soon as another participant has it.
#[test]
fn a_watcher_that_comes_after_another_has_died_is_told_at_once() {
    for _ in 0..20 {
        let (queue, told) = (Queue::create(&PLAIN).unwrap(), Queue::create(&PLAIN).unwrap());
        assert!(!in_child(|| {
            watch(&queue);
            die();
        }));
        // The dead watcher is counted still, and its notifier cannot be opened.
        put(&queue, b"x");
        get(&queue).unwrap();
        // SAFETY: as in `in_child`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let fd = watch(&queue);
            put(&told, b"");
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(i32::from(!is_readable(fd, 20_000))) };
        }
        wait(soon(), |wait| told.await_item(wait)).unwrap();
        put(&queue, b"y");
        let mut status = 0;
        // SAFETY: a child of this process, not reaped yet.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0);
    }
}

/// What a child inherits wakes it, whatever becomes of its parent.
#[test]
fn a_child_waits_with_the_descriptor_that_it_has_inherited() {
    let told = Queue::create(&PLAIN).unwrap();
    for parent_dies in [false, true] {
        let queue = Queue::create(&PLAIN).unwrap();
        let opens_it_anew = queue.duplicate_fd().unwrap();
        // SAFETY: as in `in_child`. The parent of the waiting process.
        let parent = unsafe { libc::fork() };
        if parent == 0 {
            let fd = watch(&queue);
            // SAFETY: the child waits, and makes no other call before.
            if unsafe { libc::fork() } == 0 {
                let was_woken = is_readable(fd, 20_000);
                put(&told, &[u8::from(was_woken)]);
                // Now it uses the queue, whose notifier it drains.
                get(&queue).unwrap();
                put(&told, &[u8::from(is_readable(fd, 0))]);
                // SAFETY: ends this process at once.
                unsafe { libc::_exit(0) };
            }
            if parent_dies {
                die();
            }
            let queue: *const Arc<Queue> = &raw const queue;
            // SAFETY: this process ends right after, and uses the handle no more.
            drop(unsafe { queue.read() });
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: a child of this process, not reaped yet.
        unsafe { libc::waitpid(parent, &raw mut status, 0) };
        // The dead are swept, and what they watched with is gone.
        queue.statistics().unwrap();
        // A process that has never opened the notifier finds it with the child.
        assert!(in_child(|| {
            put(&Queue::attach(opens_it_anew).unwrap(), b"x");
        }));
        for expected in [1, 0] {
            wait(soon(), |wait| told.await_item(wait)).unwrap();
            assert_eq!(get(&told).unwrap(), [expected]);
        }
        queue.statistics().unwrap();
        assert_eq!(queue.check().unwrap().findings, []);
    }
}

/// A section of a closed queue that has to signal opens the notifier, because watchers of other processes
/// sleep. The departure closes it.
#[test]
fn a_closed_queue_signals_what_comes_back() {
    let pipes = || {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|path| path.to_string_lossy().starts_with("pipe:"))
            .count()
    };
    // In a child, where no other test opens pipes.
    assert!(in_child(|| {
        let (queue, told) = (Queue::create(&PLAIN).unwrap(), Queue::create(&PLAIN).unwrap());
        let remainder = queue.open_handle().unwrap();
        put(&queue, &[1; 500_000]);
        let mut buffer = Buffer::default();
        let taken = wait(soon(), |wait| queue.get(&mut buffer, wait)).unwrap();
        let mut watcher = Child::run(|| {
            let fd = watch(&queue);
            assert!(!is_readable(fd, 0));
            put(&told, b"it watches");
            assert!(is_readable(fd, 20_000));
        });
        while told.is_empty() {
            std::thread::yield_now();
        }
        let before = pipes();
        remainder.close(queue);
        let Delivery::Lent(lent) = taken else {
            unreachable!("a large payload is lent")
        };
        lent.undeliver();
        drop(lent);
        assert_eq!(watcher.reap(), 0);
        assert_eq!(pipes(), before);
    }));
}
