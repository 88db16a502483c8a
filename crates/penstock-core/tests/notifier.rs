//! Waiting with a descriptor: the notifier is readable exactly if a get would find an item, whichever
//! processes put, get and die.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use penstock_core::{Buffer, Delivery, Error, Options, Patience, Queue, Wait};

const PLAIN: Options = Options {
    maxsize: 0,
    max_bytes: None,
    soft_bytes: 0,
    acknowledged: false,
    max_deliveries: 3,
};

fn with<T>(patience: Patience, call: impl FnOnce(Wait<'_>) -> T) -> T {
    call(Wait {
        patience,
        interrupted: &mut || false,
    })
}

fn soon() -> Patience {
    Patience::Until(Instant::now() + Duration::from_secs(20))
}

fn put(queue: &Queue, payload: &[u8]) {
    with(Patience::Forever, |wait| queue.put(&[payload], wait)).unwrap();
}

fn get(queue: &Arc<Queue>) -> Result<Vec<u8>, Error> {
    let mut buffer = Buffer::default();
    Ok(
        match with(Patience::NoWait, |wait| queue.get(&mut buffer, wait))? {
            Delivery::Copied => buffer.bytes().to_vec(),
            Delivery::Lent(lent) => lent.bytes().to_vec(),
        },
    )
}

fn watch(queue: &Queue) -> RawFd {
    with(soon(), |wait| queue.watch(wait)).unwrap()
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
    // SAFETY: the child runs `work` alone and leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // SAFETY: ends this process at once.
        unsafe { libc::_exit(if ended.is_ok() { 0 } else { 3 }) };
    }
    let mut status = 0;
    // SAFETY: the process is a child of this one that has not been reaped.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status == 0
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
        with(soon(), |wait| may_end.await_item(wait)).unwrap();
        die();
    }
    with(soon(), |wait| has_watched.await_item(wait)).unwrap();
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
    assert_eq!(with(short(), |wait| queue.await_item(wait)), Err(Error::Empty));
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| with(soon(), |wait| queue.await_item(wait))))
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

/// The ends of a connection's pipe.
struct Ends([RawFd; 2]);

impl Ends {
    fn new(queue: &Queue) -> Ends {
        let mut ends = [0; 2];
        // SAFETY: the call writes two descriptors to the array.
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        queue.give_notifier(ends[0]).unwrap();
        queue.give_notifier(ends[1]).unwrap();
        Ends(ends)
    }

    fn close(&self, which: usize) {
        // SAFETY: the descriptor was made above, and is closed once.
        unsafe { libc::close(self.0[which]) };
    }
}

fn receive(queue: &Arc<Queue>, end: RawFd, patience: Patience) -> Result<Vec<u8>, Error> {
    let mut buffer = Buffer::default();
    Ok(
        match with(patience, |wait| queue.get_at(end, &mut buffer, wait))? {
            Delivery::Copied => buffer.bytes().to_vec(),
            Delivery::Lent(lent) => lent.bytes().to_vec(),
        },
    )
}

#[test]
fn a_connection_ends_with_its_last_writer() {
    let queue = Queue::create(&PLAIN).unwrap();
    let ends = Ends::new(&queue);
    let [reading, writing] = ends.0;
    assert_eq!(receive(&queue, reading, Patience::NoWait), Err(Error::Empty));
    assert!(!in_child(|| {
        with(soon(), |wait| queue.put_at((writing, -1), &[b"last words"], wait)).unwrap();
        die();
    }));
    assert_eq!(receive(&queue, reading, soon()).unwrap(), b"last words");
    with(soon(), |wait| queue.put_at((writing, -1), &[b"and again"], wait)).unwrap();
    ends.close(1);
    assert_eq!(receive(&queue, reading, soon()).unwrap(), b"and again");
    for patience in [Patience::NoWait, Patience::Forever, soon()] {
        assert_eq!(receive(&queue, reading, patience), Err(Error::Ended));
    }
    ends.close(0);
}

#[test]
fn a_connection_breaks_with_its_last_reader() {
    let queue = Queue::create(&Options {
        soft_bytes: 10,
        ..PLAIN
    })
    .unwrap();
    let ends = Ends::new(&queue);
    let writing = ends.0[1];
    let send = || {
        with(Patience::Forever, |wait| {
            queue.put_at((writing, -1), &[&[1; 20]], wait)
        })
    };
    send().unwrap();
    // The second message waits for room until the reader is gone.
    std::thread::scope(|scope| {
        let sender = scope.spawn(send);
        while queue.statistics().unwrap().waiting_putters == 0 {
            std::thread::yield_now();
        }
        ends.close(0);
        assert_eq!(sender.join().unwrap(), Err(Error::Broken));
    });
    assert_eq!(send(), Err(Error::Broken));
    ends.close(1);
}

#[test]
fn a_receiver_that_sleeps_is_woken_by_each_message_and_by_the_end() {
    let queue = Queue::create(&PLAIN).unwrap();
    let ends = Ends::new(&queue);
    let [reading, writing] = ends.0;
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut count = 0;
            loop {
                match receive(&queue, reading, Patience::Forever) {
                    Ok(_) => count += 1,
                    Err(error) => return (count, error),
                }
            }
        });
        for i in 0..500 {
            if i % 10 == 0 {
                // The other may be asleep after that, or not: both must work.
                std::thread::sleep(Duration::from_micros(200));
            }
            with(soon(), |wait| queue.put_at((writing, -1), &[b"x"], wait)).unwrap();
        }
        ends.close(1);
        assert_eq!(receiver.join().unwrap(), (500, Error::Ended));
    });
    assert_eq!(queue.check().unwrap().findings, []);
    ends.close(0);
}

const FULL_AT_TEN: Options = Options {
    soft_bytes: 10,
    ..PLAIN
};

/// Sends a message that fills the queue. Also returns how many slices of its wait have ended.
fn send_counting(queue: &Queue, ends: &Ends) -> (Result<(), Error>, u32) {
    let mut slices = 0;
    let sent = queue.put_at(
        (ends.0[1], -1),
        &[&[1; 20]],
        Wait {
            patience: Patience::Forever,
            interrupted: &mut || {
                slices += 1;
                false
            },
        },
    );
    (sent.map(|_| ()), slices)
}

fn await_putters(queue: &Queue, count: u64) {
    while queue.statistics().unwrap().waiting_putters < count {
        std::thread::yield_now();
    }
}

fn is_writable(fd: RawFd) -> bool {
    let mut polled = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: the call reads and writes one struct.
    assert!(unsafe { libc::poll(&raw mut polled, 1, 0) } >= 0);
    polled.revents & libc::POLLOUT != 0
}

const ROUNDS: u32 = 20;

#[test]
fn a_sender_that_waits_for_room_is_woken_by_room() {
    let queue = Queue::create(&FULL_AT_TEN).unwrap();
    let ends = Ends::new(&queue);
    let mut slices = 0;
    for _ in 0..ROUNDS {
        assert_eq!(send_counting(&queue, &ends).0, Ok(()));
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| send_counting(&queue, &ends));
            await_putters(&queue, 1);
            receive(&queue, ends.0[0], soon()).unwrap();
            let (sent, ended) = sender.join().unwrap();
            assert_eq!(sent, Ok(()));
            slices += ended;
        });
        receive(&queue, ends.0[0], soon()).unwrap();
        assert!(is_writable(ends.0[1]));
    }
    // A sender that was not woken would have ended a slice each time.
    assert!(slices < ROUNDS, "{slices} slices ended");
    assert_eq!(queue.check().unwrap().findings, []);
    ends.close(0);
    ends.close(1);
}

#[test]
fn a_sender_that_waits_for_room_is_woken_by_the_death_of_the_last_reader() {
    let mut slices = 0;
    for _ in 0..ROUNDS {
        let queue = Queue::create(&FULL_AT_TEN).unwrap();
        let ends = Ends::new(&queue);
        assert_eq!(send_counting(&queue, &ends).0, Ok(()));
        // SAFETY: the child only sleeps and is killed.
        let reader = unsafe { libc::fork() };
        if reader == 0 {
            loop {
                // SAFETY: waits for the kill.
                unsafe { libc::pause() };
            }
        }
        ends.close(0);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| send_counting(&queue, &ends));
            await_putters(&queue, 1);
            // SAFETY: a child of this process, not reaped yet.
            unsafe {
                libc::kill(reader, libc::SIGKILL);
                libc::waitpid(reader, std::ptr::null_mut(), 0);
            }
            let (sent, ended) = sender.join().unwrap();
            assert_eq!(sent, Err(Error::Broken));
            slices += ended;
        });
        ends.close(1);
    }
    assert!(slices < ROUNDS, "{slices} slices ended");
}

#[test]
fn a_receiver_that_sleeps_is_woken_by_the_death_of_the_last_writer() {
    let mut slices = 0;
    for _ in 0..ROUNDS {
        let queue = Queue::create(&PLAIN).unwrap();
        let ends = Ends::new(&queue);
        // SAFETY: the child only sleeps and is killed.
        let writer = unsafe { libc::fork() };
        if writer == 0 {
            loop {
                // SAFETY: waits for the kill.
                unsafe { libc::pause() };
            }
        }
        ends.close(1);
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let (mut ended, mut buffer) = (0, Buffer::default());
                let wait = Wait {
                    patience: Patience::Forever,
                    interrupted: &mut || {
                        ended += 1;
                        false
                    },
                };
                let received = queue.get_at(ends.0[0], &mut buffer, wait).map(|_| ());
                (received, ended)
            });
            // Much longer than the receiver spins, and much shorter than its slice.
            std::thread::sleep(Duration::from_millis(5));
            // SAFETY: a child of this process, not reaped yet.
            unsafe {
                libc::kill(writer, libc::SIGKILL);
                libc::waitpid(writer, std::ptr::null_mut(), 0);
            }
            let (received, ended) = receiver.join().unwrap();
            assert_eq!(received, Err(Error::Ended));
            slices += ended;
        });
        ends.close(0);
    }
    // A receiver that polled only at the ends of its slices would have ended one each time.
    assert!(slices < ROUNDS, "{slices} slices ended");
}

#[test]
fn senders_that_share_an_end_all_get_their_room() {
    const SENDERS: u32 = 4;
    const EACH: u32 = 500;
    let queue = Queue::create(&FULL_AT_TEN).unwrap();
    let ends = Ends::new(&queue);
    std::thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    assert_eq!(send_counting(&queue, &ends).0, Ok(()));
                }
            });
        }
        for _ in 0..SENDERS * EACH {
            receive(&queue, ends.0[0], soon()).unwrap();
        }
    });
    assert_eq!(receive(&queue, ends.0[0], Patience::NoWait), Err(Error::Empty));
    assert!(!is_readable(ends.0[0], 0) && is_writable(ends.0[1]));
    assert_eq!(queue.check().unwrap().findings, []);
    ends.close(0);
    ends.close(1);
}

/// A notified sender polls the pipe again, however late, and must not find it filled by another sender.
#[test]
fn no_sender_fills_the_pipe_before_the_notified_one_is_back() {
    // SAFETY: a new page of memory, which the child shares.
    let polls: &AtomicU32 = unsafe {
        let shared = libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(shared, libc::MAP_FAILED);
        &*shared.cast()
    };
    let mut slices = 0;
    for _ in 0..ROUNDS {
        let queue = Queue::create(&FULL_AT_TEN).unwrap();
        let ends = Ends::new(&queue);
        assert_eq!(send_counting(&queue, &ends).0, Ok(()));
        // SAFETY: the child sends and ends.
        let first = unsafe { libc::fork() };
        if first == 0 {
            let sent = queue.put_at(
                (ends.0[1], -1),
                &[&[1; 20]],
                Wait {
                    patience: Patience::Forever,
                    interrupted: &mut || {
                        polls.fetch_add(1, Ordering::Relaxed);
                        false
                    },
                },
            );
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(i32::from(sent.is_err())) };
        }
        await_putters(&queue, 1);
        while is_writable(ends.0[1]) {
            std::thread::yield_now();
        }
        let mut status = 0;
        // SAFETY: a child of this process, not reaped yet.
        unsafe {
            libc::kill(first, libc::SIGSTOP);
            libc::waitpid(first, &raw mut status, libc::WUNTRACED);
        }
        receive(&queue, ends.0[0], soon()).unwrap();
        assert!(is_writable(ends.0[1]), "the first one was not called");
        // This process takes the room, and another sender waits for more.
        assert_eq!(send_counting(&queue, &ends).0, Ok(()));
        std::thread::scope(|scope| {
            let second = scope.spawn(|| send_counting(&queue, &ends).0);
            await_putters(&queue, 1);
            // SAFETY: as above.
            unsafe { libc::kill(first, libc::SIGCONT) };
            await_putters(&queue, 2);
            // So far the first sender has slept once, and only the receiver has woken it.
            slices += polls.swap(0, Ordering::Relaxed);
            for _ in 0..3 {
                receive(&queue, ends.0[0], soon()).unwrap();
            }
            assert_eq!(second.join().unwrap(), Ok(()));
        });
        // SAFETY: as above.
        unsafe { libc::waitpid(first, &raw mut status, 0) };
        assert_eq!(status, 0);
        polls.store(0, Ordering::Relaxed);
        ends.close(0);
        ends.close(1);
    }
    assert!(slices < ROUNDS, "{slices} slices ended");
}

#[test]
fn a_sender_that_is_killed_while_it_waits_leaves_the_pipe_in_order() {
    let queue = Queue::create(&FULL_AT_TEN).unwrap();
    let ends = Ends::new(&queue);
    assert_eq!(send_counting(&queue, &ends).0, Ok(()));
    // SAFETY: the child sends, which never ends, and is killed.
    let sender = unsafe { libc::fork() };
    if sender == 0 {
        let _ = send_counting(&queue, &ends);
        // SAFETY: ends this process at once.
        unsafe { libc::_exit(3) };
    }
    await_putters(&queue, 1);
    while is_writable(ends.0[1]) {
        std::thread::yield_now();
    }
    // SAFETY: a child of this process, not reaped yet.
    unsafe {
        libc::kill(sender, libc::SIGKILL);
        libc::waitpid(sender, std::ptr::null_mut(), 0);
    }
    // The pipe is full, because of the killed sender, and readable, because there is an item.
    assert!(is_readable(ends.0[0], 0));
    let watched = with(soon(), |wait| queue.watch_at(ends.0[0], wait));
    assert_eq!(watched.map(drop), Ok(()));
    assert_eq!(receive(&queue, ends.0[0], soon()).unwrap(), [1; 20]);
    assert!(!is_readable(ends.0[0], 0) && is_writable(ends.0[1]));
    assert_eq!(send_counting(&queue, &ends), (Ok(()), 0));
    assert!(is_readable(ends.0[0], 0));
    assert_eq!(queue.check().unwrap().findings, []);
    ends.close(0);
    ends.close(1);
}
