//! Connections: the line says which processes are left on the other side, wakes the others, and is readable
//! and writable exactly if `get_at` and `put_at` would not wait. Each test runs with a pair of sockets and
//! with a pipe.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, IntoRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use penstock_core::{
    Buffer, Delivery, EndInUse, Error, Id, LineEnd, Options, Patience, Queue, Remainder, Wait,
};

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/soon.rs"]
mod soon;

use child::Child;
use common::{PLAIN, wait};
use soon::soon;

/// The events that `poll` reports, of those that were asked for and of those that it always reports.
fn events(fd: RawFd, asked: i16, timeout: i32) -> i16 {
    let mut polled = libc::pollfd {
        fd,
        events: asked,
        revents: 0,
    };
    // SAFETY: the call reads and writes one struct.
    assert!(unsafe { libc::poll(&raw mut polled, 1, timeout) } >= 0);
    polled.revents
}

fn is_readable(fd: RawFd, timeout: i32) -> bool {
    events(fd, libc::POLLIN, timeout) & libc::POLLIN != 0
}

fn is_writable(fd: RawFd) -> bool {
    events(fd, libc::POLLOUT, 0) & libc::POLLOUT != 0
}

/// Runs `work` in a forked child and waits for its end. False if it was killed or failed.
fn in_child(work: impl FnOnce()) -> bool {
    Child::run(work).reap() == 0
}

/// A process that has the ends open, and does nothing until it is killed, at the latest when this is dropped.
fn bystander() -> Child {
    Child::run(|| {
        loop {
            // SAFETY: waits for the kill.
            unsafe { libc::pause() };
        }
    })
}

fn die() {
    // SAFETY: ends this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
}

const KINDS: [bool; 2] = [true, false];

/// The ends of a connection's line, for reading and for writing.
struct Ends([RawFd; 2]);

impl Ends {
    fn new(queue: &Queue, is_duplex: bool) -> Ends {
        let ends = Queue::make_line(is_duplex).unwrap().map(IntoRawFd::into_raw_fd);
        queue.set_line(ends[0], ends[1]).unwrap();
        Ends(ends)
    }

    fn close(&self, which: usize) {
        // SAFETY: the descriptor was made above, and is closed once.
        unsafe { libc::close(self.0[which]) };
    }
}

fn send(queue: &Queue, end: RawFd, payload: &[u8]) {
    wait(soon(), |wait| queue.put_at(end, &[payload], wait)).unwrap();
}

fn receive(queue: &Arc<Queue>, end: RawFd, patience: Patience) -> Result<Vec<u8>, Error> {
    let mut buffer = Buffer::default();
    Ok(
        match wait(patience, |wait| queue.get_at(end, &mut buffer, wait))? {
            Delivery::Copied => buffer.bytes().to_vec(),
            Delivery::Lent(lent) => lent.bytes().to_vec(),
        },
    )
}

#[test]
fn a_connection_ends_with_its_last_writer() {
    for is_duplex in KINDS {
        let queue = Queue::create(&PLAIN).unwrap();
        let ends = Ends::new(&queue, is_duplex);
        let [reading, writing] = ends.0;
        assert_eq!(receive(&queue, reading, Patience::NoWait), Err(Error::Empty));
        assert!(!in_child(|| {
            wait(soon(), |wait| queue.put_at(writing, &[b"last words"], wait)).unwrap();
            die();
        }));
        assert_eq!(receive(&queue, reading, soon()).unwrap(), b"last words");
        wait(soon(), |wait| queue.put_at(writing, &[b"and again"], wait)).unwrap();
        ends.close(1);
        assert_eq!(receive(&queue, reading, soon()).unwrap(), b"and again");
        for patience in [Patience::Forever, Patience::NoWait, soon()] {
            assert_eq!(receive(&queue, reading, patience), Err(Error::Ended));
        }
        ends.close(0);
    }
}

#[test]
fn a_connection_breaks_with_its_last_reader() {
    for is_duplex in KINDS {
        let queue = Queue::create(&Options {
            soft_bytes: 10,
            ..PLAIN
        })
        .unwrap();
        let ends = Ends::new(&queue, is_duplex);
        let writing = ends.0[1];
        let send = || wait(Patience::Forever, |wait| queue.put_at(writing, &[&[1; 20]], wait));
        send().unwrap();
        // The second message waits for room until the reader is gone.
        std::thread::scope(|scope| {
            let sender = scope.spawn(send);
            await_putters(&queue, 1);
            ends.close(0);
            assert_eq!(sender.join().unwrap(), Err(Error::Broken));
        });
        assert_eq!(send(), Err(Error::Broken));
        ends.close(1);
    }
}

#[test]
fn a_receiver_that_sleeps_is_woken_by_each_message_and_by_the_end() {
    for is_duplex in KINDS {
        let queue = Queue::create(&PLAIN).unwrap();
        let ends = Ends::new(&queue, is_duplex);
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
                wait(soon(), |wait| queue.put_at(writing, &[b"x"], wait)).unwrap();
            }
            ends.close(1);
            assert_eq!(receiver.join().unwrap(), (500, Error::Ended));
        });
        assert_eq!(queue.check().unwrap().findings, []);
        ends.close(0);
    }
}

const FULL_AT_TEN: Options = Options {
    soft_bytes: 10,
    ..PLAIN
};

/// Sends a message that fills the queue. Also returns how many slices of its wait have ended.
fn send_counting(queue: &Queue, ends: &Ends) -> (Result<(), Error>, u32) {
    let mut slices = 0;
    let sent = queue.put_at(
        ends.0[1],
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

/// A sender of such a message waits for room in a thread, until `meanwhile` ends its wait.
fn wait_for_room_until(queue: &Queue, ends: &Ends, meanwhile: impl FnOnce()) -> (Result<(), Error>, u32) {
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send_counting(queue, ends));
        await_putters(queue, 1);
        meanwhile();
        sender.join().unwrap()
    })
}

const ROUNDS: u32 = 20;

#[test]
fn a_sender_that_waits_for_room_is_woken_by_room() {
    for is_duplex in KINDS {
        let queue = Queue::create(&FULL_AT_TEN).unwrap();
        let ends = Ends::new(&queue, is_duplex);
        let mut slices = 0;
        for _ in 0..ROUNDS {
            assert_eq!(send_counting(&queue, &ends).0, Ok(()));
            let (sent, ended) = wait_for_room_until(&queue, &ends, || {
                receive(&queue, ends.0[0], soon()).unwrap();
            });
            assert_eq!(sent, Ok(()));
            slices += ended;
            receive(&queue, ends.0[0], soon()).unwrap();
            assert!(is_writable(ends.0[1]));
        }
        // A sender that was not woken would have ended a slice each time.
        assert!(slices < ROUNDS, "{slices} slices ended");
        assert_eq!(queue.check().unwrap().findings, []);
        ends.close(0);
        ends.close(1);
    }
}

#[test]
fn a_sender_that_waits_for_room_is_woken_by_the_death_of_the_last_reader() {
    for is_duplex in KINDS {
        let mut slices = 0;
        for _ in 0..ROUNDS {
            let queue = Queue::create(&FULL_AT_TEN).unwrap();
            let ends = Ends::new(&queue, is_duplex);
            assert_eq!(send_counting(&queue, &ends).0, Ok(()));
            let reader = bystander();
            ends.close(0);
            let (sent, ended) = wait_for_room_until(&queue, &ends, || drop(reader));
            assert_eq!(sent, Err(Error::Broken));
            slices += ended;
            ends.close(1);
        }
        assert!(slices < ROUNDS, "{slices} slices ended");
    }
}

#[test]
fn a_receiver_that_sleeps_is_woken_by_the_death_of_the_last_writer() {
    for is_duplex in KINDS {
        let mut slices = 0;
        for _ in 0..ROUNDS {
            let queue = Queue::create(&PLAIN).unwrap();
            let ends = Ends::new(&queue, is_duplex);
            let writer = bystander();
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
                drop(writer);
                let (received, ended) = receiver.join().unwrap();
                assert_eq!(received, Err(Error::Ended));
                slices += ended;
            });
            ends.close(0);
        }
        // A receiver that polled only at the ends of its slices would have ended one each time.
        assert!(slices < ROUNDS, "{slices} slices ended");
    }
}

#[test]
fn senders_that_share_an_end_all_get_their_room() {
    for is_duplex in KINDS {
        const SENDERS: u32 = 4;
        const EACH: u32 = 500;
        let queue = Queue::create(&FULL_AT_TEN).unwrap();
        let ends = Ends::new(&queue, is_duplex);
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
        // The first watcher drains the line, in which a byte may have stayed.
        wait(soon(), |wait| queue.watch_at(ends.0[0], wait)).unwrap();
        assert!(!is_readable(ends.0[0], 0) && is_writable(ends.0[1]));
        assert_eq!(queue.check().unwrap().findings, []);
        ends.close(0);
        ends.close(1);
    }
}

/// The message of a sender that has waited for long is put for it. It finds the line writable, though the
/// queue is full again.
#[test]
fn a_sender_whose_message_was_put_for_it_is_woken() {
    for is_duplex in KINDS {
        let queue = Queue::create(&FULL_AT_TEN).unwrap();
        let ends = Ends::new(&queue, is_duplex);
        assert_eq!(send_counting(&queue, &ends).0, Ok(()));
        // SAFETY: the child sends and ends.
        let sender = unsafe { libc::fork() };
        if sender == 0 {
            let sent = wait(Patience::Forever, |wait| {
                queue.put_at(ends.0[1], &[&[1; 20]], wait)
            });
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(i32::from(sent.is_err())) };
        }
        while queue.check().unwrap().written == 0 || is_writable(ends.0[1]) {
            std::thread::yield_now();
        }
        let mut status = 0;
        // SAFETY: a child of this process, not reaped yet.
        unsafe {
            libc::kill(sender, libc::SIGSTOP);
            libc::waitpid(sender, &raw mut status, libc::WUNTRACED);
        }
        receive(&queue, ends.0[0], soon()).unwrap();
        assert_eq!(queue.len(), 1, "the sender's message");
        assert!(is_writable(ends.0[1]), "the sender sleeps on");
        // SAFETY: as above.
        unsafe {
            libc::kill(sender, libc::SIGCONT);
            libc::waitpid(sender, &raw mut status, 0);
        }
        assert_eq!(status, 0);
        receive(&queue, ends.0[0], soon()).unwrap();
        assert_eq!(queue.check().unwrap().findings, []);
        ends.close(0);
        ends.close(1);
    }
}

/// A notified sender polls the line again, however late, and must not find it filled by another sender.
#[test]
fn no_sender_fills_the_line_before_the_notified_one_is_back() {
    for is_duplex in KINDS {
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
            let ends = Ends::new(&queue, is_duplex);
            assert_eq!(send_counting(&queue, &ends).0, Ok(()));
            // SAFETY: the child sends and ends.
            let first = unsafe { libc::fork() };
            if first == 0 {
                let sent = queue.put_at(
                    ends.0[1],
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
}

#[test]
fn a_sender_that_is_killed_while_it_waits_leaves_the_line_in_order() {
    for is_duplex in KINDS {
        let queue = Queue::create(&FULL_AT_TEN).unwrap();
        let ends = Ends::new(&queue, is_duplex);
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
        // The line is full, because of the killed sender, and readable, because there is an item.
        assert!(is_readable(ends.0[0], 0));
        let watched = wait(soon(), |wait| queue.watch_at(ends.0[0], wait));
        assert_eq!(watched.map(drop), Ok(()));
        assert_eq!(receive(&queue, ends.0[0], soon()).unwrap(), [1; 20]);
        assert!(!is_readable(ends.0[0], 0) && is_writable(ends.0[1]));
        assert_eq!(send_counting(&queue, &ends), (Ok(()), 0));
        assert!(is_readable(ends.0[0], 0));
        assert_eq!(queue.check().unwrap().findings, []);
        ends.close(0);
        ends.close(1);
    }
}

const IN: i16 = libc::POLLIN;
const OUT: i16 = libc::POLLOUT;

/// What `poll` says of a standard connection in the same state.
#[test]
fn the_events_are_those_of_a_socket_or_a_pipe() {
    for is_duplex in KINDS {
        let (queue, back) = (
            Queue::create(&FULL_AT_TEN).unwrap(),
            Queue::create(&FULL_AT_TEN).unwrap(),
        );
        let ends = Ends::new(&queue, is_duplex);
        let [reading, writing] = ends.0;
        // Of a pipe, the other events are not reported at that end.
        let (read, write) = if is_duplex {
            back.set_line(writing, reading).unwrap();
            wait(soon(), |wait| back.watch_at(writing, wait)).unwrap();
            wait(soon(), |wait| back.watch_room_at(reading, wait)).unwrap();
            (OUT, 0)
        } else {
            (0, 0)
        };
        wait(soon(), |wait| queue.watch_at(reading, wait)).unwrap();
        wait(soon(), |wait| queue.watch_room_at(writing, wait)).unwrap();
        let seen = || (events(reading, IN | OUT, 0), events(writing, IN | OUT, 0));
        for _ in 0..3 {
            assert_eq!(seen(), (read, OUT | write));
            send(&queue, writing, &[1; 5]);
            assert_eq!(seen(), (IN | read, OUT | write), "there is room for more");
            send(&queue, writing, &[1; 5]);
            assert_eq!(seen(), (IN | read, write), "a send would wait");
            receive(&queue, reading, soon()).unwrap();
            assert_eq!(seen(), (IN | read, OUT | write));
            receive(&queue, reading, soon()).unwrap();
        }
        send(&queue, writing, &[1; 20]);
        if is_duplex {
            send(&back, reading, b"back");
            assert_eq!(seen(), (IN | OUT, IN), "one message each way");
            receive(&back, writing, soon()).unwrap();
        }
        receive(&queue, reading, soon()).unwrap();
        queue.before_closing(reading);
        ends.close(0);
        let end = if is_duplex {
            IN | OUT | libc::POLLHUP
        } else {
            OUT | libc::POLLERR
        };
        eventually(|| events(writing, IN | OUT, 0) == end);
        ends.close(1);
        assert_eq!(queue.check().unwrap().findings, []);
        assert_eq!(back.check().unwrap().findings, []);
    }
}

#[test]
fn the_end_of_the_senders_is_an_event() {
    for is_duplex in KINDS {
        let queue = Queue::create(&PLAIN).unwrap();
        let ends = Ends::new(&queue, is_duplex);
        let [reading, writing] = ends.0;
        wait(soon(), |wait| queue.watch_at(reading, wait)).unwrap();
        send(&queue, writing, b"last words");
        ends.close(1);
        let end = if is_duplex {
            IN | libc::POLLHUP
        } else {
            libc::POLLHUP
        };
        eventually(|| events(reading, IN, 0) == IN | libc::POLLHUP);
        receive(&queue, reading, soon()).unwrap();
        assert_eq!(events(reading, IN, 0), end);
        ends.close(0);
    }
}

/// Until it is so: a child that another test has forked keeps a copy of a closed end for a moment.
fn eventually(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20), "it does not become so");
        std::thread::yield_now();
    }
}

/// Counts the edges that an edge-triggered `epoll` reports until it reports none.
fn edges(epoll: RawFd) -> u32 {
    let mut count = 0;
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: the call writes one struct.
    while unsafe { libc::epoll_wait(epoll, &raw mut event, 1, 0) } == 1 {
        count += 1;
    }
    count
}

#[test]
fn each_message_into_an_empty_direction_is_an_edge() {
    for is_duplex in KINDS {
        let queue = Queue::create(&PLAIN).unwrap();
        let ends = Ends::new(&queue, is_duplex);
        let [reading, writing] = ends.0;
        send(&queue, writing, b"before anything was watched");
        receive(&queue, reading, soon()).unwrap();
        wait(soon(), |wait| queue.watch_at(reading, wait)).unwrap();
        // SAFETY: a new descriptor, which is closed below.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLET) as u32,
            u64: 0,
        };
        // SAFETY: the call reads one struct.
        let added = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, reading, &raw mut event) };
        assert_eq!((added, edges(epoll)), (0, 0));
        for len in [1, 5000, 500_000] {
            send(&queue, writing, &vec![1; len]);
            assert_eq!(edges(epoll), 1);
            receive(&queue, reading, soon()).unwrap();
            assert_eq!(edges(epoll), 0);
        }
        ends.close(1);
        eventually(|| edges(epoll) == 1);
        // SAFETY: made above, and closed once.
        unsafe { libc::close(epoll) };
        ends.close(0);
    }
}

/// Processes that do not watch leave a byte in the line. That is no message for those who begin.
#[test]
fn a_process_that_begins_to_watch_sees_what_is_there() {
    for is_duplex in KINDS {
        let queue = Queue::create(&PLAIN).unwrap();
        let ends = Ends::new(&queue, is_duplex);
        let [reading, writing] = ends.0;
        let watch = || wait(soon(), |wait| queue.watch_at(reading, wait)).unwrap();
        send(&queue, writing, b"first");
        assert!(in_child(|| {
            watch();
            assert!(is_readable(reading, 0), "beside a message");
            receive(&queue, reading, soon()).unwrap();
            assert!(!is_readable(reading, 0));
        }));
        queue.statistics().unwrap();
        send(&queue, writing, b"second");
        receive(&queue, reading, soon()).unwrap();
        assert!(in_child(|| {
            watch();
            assert!(!is_readable(reading, 0), "beside none");
            send(&queue, writing, b"third");
            assert!(is_readable(reading, 0));
        }));
        receive(&queue, reading, soon()).unwrap();
    }
}

/// A payload that is read in place comes back if its reader cannot use it, or dies.
#[test]
fn a_message_that_comes_back_is_readable() {
    for is_duplex in KINDS {
        // One message fills the queue, and with a watcher the line.
        let queue = Queue::create(&FULL_AT_TEN).unwrap();
        let ends = Ends::new(&queue, is_duplex);
        let [reading, writing] = ends.0;
        wait(soon(), |wait| queue.watch_at(reading, wait)).unwrap();
        wait(soon(), |wait| queue.watch_room_at(writing, wait)).unwrap();
        let take = || {
            let mut buffer = Buffer::default();
            match wait(soon(), |wait| queue.get_at(reading, &mut buffer, wait)).unwrap() {
                Delivery::Lent(lent) => lent,
                Delivery::Copied => unreachable!("a large payload is lent"),
            }
        };
        // A process of the receiving side alone, which could not write to the line.
        let in_receiver = |work: &dyn Fn()| {
            in_child(|| {
                // SAFETY: a copy of the descriptor that this process does not use.
                unsafe { libc::close(writing) };
                work();
            })
        };
        send(&queue, writing, &[1; 100_000]);
        assert!(in_receiver(&|| {
            let lent = take();
            lent.undeliver();
            drop(lent);
            assert!(is_readable(reading, 0), "its reader had no memory");
        }));
        assert!(!in_receiver(&|| {
            let _lent = take();
            die();
        }));
        assert!(in_receiver(&|| {
            queue.statistics().unwrap();
            assert!(is_readable(reading, 0), "its reader died");
        }));
        drop(take());
        assert!(!is_readable(reading, 0), "it was read");
        send(&queue, writing, &[1; 100_000]);
        let kept = take();
        kept.keep().unwrap();
        assert!(!is_readable(reading, 0), "it is the reader's own");
        drop(kept);
        assert_eq!(queue.check().unwrap().findings, []);
    }
}

/// The line stays readable while a payload is read in place, because its message may come back. A receiver
/// that waits beside it sleeps between its polls, a millisecond each.
#[test]
fn a_receiver_waits_beside_a_payload_that_another_one_reads() {
    const POLLS: u32 = 100;
    for is_duplex in KINDS {
        let queue = Queue::create(&PLAIN).unwrap();
        let ends = Ends::new(&queue, is_duplex);
        let [reading, writing] = ends.0;
        send(&queue, writing, &[1; 100_000]);
        let mut buffer = Buffer::default();
        let lent = wait(soon(), |wait| queue.get_at(reading, &mut buffer, wait)).unwrap();
        let polls = AtomicU32::new(0);
        let start = Instant::now();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let mut buffer = Buffer::default();
                let wait = Wait {
                    patience: soon(),
                    interrupted: &mut || {
                        polls.fetch_add(1, Ordering::Relaxed);
                        false
                    },
                };
                let received = queue.get_at(reading, &mut buffer, wait).map(drop);
                (received, buffer.bytes().to_vec())
            });
            eventually(|| polls.load(Ordering::Relaxed) >= POLLS);
            // Some polls end early, with a slice.
            assert!(start.elapsed() >= Duration::from_millis(u64::from(POLLS / 2)));
            send(&queue, writing, b"for the second");
            assert_eq!(second.join().unwrap(), (Ok(()), b"for the second".to_vec()));
        });
        drop(lent);
    }
}

/// Puts another file under that number, as code that is not Penstock's may do.
fn replace(fd: RawFd, by: RawFd) {
    // SAFETY: both numbers are the caller's own.
    assert_eq!(unsafe { libc::dup2(by, fd) }, fd);
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: asks for the flags of a descriptor, if there is one.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Each call notices it: one that need not wait, and one that sleeps.
#[test]
fn an_end_whose_number_leads_elsewhere_is_closed() {
    assert!(in_child(|| {
        for is_duplex in KINDS {
            // Files that `poll` calls readable, quiet, and hung up.
            for kind in 0..3 {
                let queue = Queue::create(&FULL_AT_TEN).unwrap();
                let ends = Ends::new(&queue, is_duplex);
                let [reading, writing] = ends.0;
                let [other, its_writer] = Queue::make_line(false).unwrap();
                let mut kept = Some(its_writer);
                if kind == 0 {
                    use std::io::Write;
                    std::fs::File::from(kept.as_ref().unwrap().try_clone().unwrap())
                        .write_all(b"x")
                        .unwrap();
                } else if kind == 2 {
                    kept = None;
                }
                let kept_ends = ends.0.map(|end| LineEnd::keep(end).unwrap());
                replace(reading, other.as_raw_fd());
                for patience in [Patience::NoWait, soon(), Patience::Forever] {
                    assert_eq!(receive(&queue, reading, patience), Err(Error::EndClosed));
                    let awaited = wait(patience, |mut wait| queue.await_at(reading, &mut wait));
                    assert_eq!(awaited, Err(Error::EndClosed));
                }
                assert_eq!(is_readable(reading, 0), kind == 0, "its byte is left alone");
                replace(writing, other.as_raw_fd());
                let send = |patience| {
                    let sent = wait(patience, |wait| queue.put_at(writing, &[&[1; 20]], wait));
                    sent.map(drop)
                };
                // A send compares the number only if the file there is hung up, or if it has to wait.
                let unasked = if kind == 2 { Err(Error::EndClosed) } else { Ok(()) };
                assert_eq!(send(Patience::NoWait), unasked);
                assert_eq!(queue.len(), u64::from(unasked.is_ok()));
                for patience in [soon(), Patience::Forever] {
                    assert_eq!(send(patience), Err(Error::EndClosed));
                }
                for (which, end) in kept_ends.into_iter().enumerate() {
                    end.close();
                    assert!(is_open(end.fd()), "it is not Penstock's to close");
                    ends.close(which);
                }
                drop(kept);
            }
        }
    }));
}

/// The calls in progress end, and the last use closes the number; no other call begins.
#[test]
fn an_end_is_closed_while_others_use_it() {
    let close_beside_calls = |is_duplex| {
        let queue = Queue::create(&FULL_AT_TEN).unwrap();
        let ends = Ends::new(&queue, is_duplex);
        let [reading, writing] = ends.0;
        let kept = ends.0.map(|end| LineEnd::keep(end).unwrap());
        let in_use = kept.map(|end| EndInUse::begin(end).unwrap());
        let slices = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let wait = Wait {
                    patience: soon(),
                    interrupted: &mut || {
                        slices.fetch_add(1, Ordering::Relaxed);
                        false
                    },
                };
                queue.get_at(reading, &mut Buffer::default(), wait).map(drop)
            });
            eventually(|| slices.load(Ordering::Relaxed) > 0);
            queue.before_closing(reading);
            kept[0].close();
            assert_eq!(receiver.join().unwrap(), Err(Error::EndClosed));
        });
        send_counting(&queue, &ends).0.unwrap();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| send_counting(&queue, &ends).0);
            await_putters(&queue, 1);
            kept[1].close();
            assert_eq!(sender.join().unwrap(), Err(Error::EndClosed));
        });
        assert!(kept.into_iter().all(|end| EndInUse::begin(end).is_none()));
        assert_eq!(receive(&queue, reading, Patience::NoWait), Err(Error::EndClosed));
        assert_eq!(send_counting(&queue, &ends).0, Err(Error::EndClosed));
        assert!(is_open(reading) && is_open(writing));
        drop(in_use);
        assert!(!is_open(reading) && !is_open(writing));
        assert_eq!(queue.check().unwrap().findings, []);
    };
    assert!(in_child(|| KINDS.into_iter().for_each(close_beside_calls)));
}

/// A child has an end open, or closed, whatever a thread of its parent was doing with it.
#[test]
fn a_child_closes_what_its_parent_was_closing() {
    assert!(in_child(|| {
        for is_duplex in KINDS {
            let queue = Queue::create(&PLAIN).unwrap();
            let ends = Ends::new(&queue, is_duplex);
            let [reading, writing] = ends.0;
            let [of_reading, of_writing] = ends.0.map(|end| LineEnd::keep(end).unwrap());
            let in_use = [of_reading, of_writing].map(|end| EndInUse::begin(end).unwrap());
            of_reading.close();
            assert!(is_open(reading) && is_open(writing));
            assert!(in_child(|| {
                assert!(!is_open(reading), "its parent's uses do not end here");
                assert!(is_open(writing));
                of_writing.close();
                assert!(!is_open(writing));
            }));
            assert!(is_open(reading));
            drop(in_use);
            assert!(!is_open(reading) && is_open(writing));
            ends.close(1);
        }
    }));
}

/// Of two closes of an end the second is none of what has its number by then.
#[test]
fn an_end_is_closed_once() {
    assert!(in_child(|| {
        for is_duplex in KINDS {
            let queue = Queue::create(&PLAIN).unwrap();
            let ends = Ends::new(&queue, is_duplex);
            let number = ends.0[0];
            let first = LineEnd::keep(number).unwrap();
            let late = EndInUse::begin(first).unwrap();
            let [other, writing] = Queue::make_line(is_duplex).unwrap();
            replace(number, other.as_raw_fd());
            let next = LineEnd::keep(number).unwrap();
            assert!(next.is_open() && !first.is_open());
            assert!(EndInUse::begin(first).is_none(), "the number is another end's");
            let in_use = EndInUse::begin(next).unwrap();
            first.close();
            assert!(next.is_open());
            next.close();
            drop(late);
            assert!(is_open(number), "in use");
            drop(in_use);
            assert!(!is_open(number));
            drop(writing);
            ends.close(1);
        }
    }));
}

/// Both directions in one file and by one pair of sockets.
#[test]
fn two_queues_in_one_file() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    // One test of this process at a time may count; the others fork, which is no matter.
    assert!(in_child(|| {
        let before = descriptors();
        let [there, back] = Queue::create_pair(&PLAIN).unwrap();
        let [first, second] = Queue::make_line(true).unwrap().map(IntoRawFd::into_raw_fd);
        there.set_line(second, first).unwrap();
        back.set_line(first, second).unwrap();
        for len in [10, 5000, 100_000] {
            send(&there, first, &vec![1; len]);
            send(&back, second, &vec![2; len]);
            assert_eq!(receive(&there, second, soon()).unwrap(), vec![1; len]);
            assert_eq!(receive(&back, first, soon()).unwrap(), vec![2; len]);
        }
        assert_eq!(descriptors() - before, 3, "two sockets, and the file");
        // Another process that is given the file opens both.
        let files = [there.duplicate_fd().unwrap(), back.duplicate_fd().unwrap()];
        let ids = [there.id(), back.id()];
        assert!(in_child(|| {
            for (fd, (queue, id)) in files.into_iter().zip([(&there, ids[0]), (&back, ids[1])]) {
                let again = Queue::attach_as(fd, id).unwrap().unwrap();
                assert!(Arc::ptr_eq(&again, queue));
            }
            send(&there, first, b"a child's");
        }));
        assert_eq!(receive(&there, second, soon()).unwrap(), b"a child's");
        for queue in [&there, &back] {
            queue.statistics().unwrap();
            assert_eq!(queue.check().unwrap().findings, []);
        }
        assert!(
            Queue::attach_as(there.duplicate_fd().unwrap(), [0; 16])
                .unwrap()
                .is_none()
        );
        drop((there, back));
        assert_eq!(descriptors() - before, 2, "the sockets");
    }));
}

/// A sender that has not written its byte yet is too late when its message was taken.
#[test]
fn no_byte_comes_after_its_message() {
    const EACH: u64 = 20_000;
    for is_duplex in KINDS {
        let queue = Queue::create(&PLAIN).unwrap();
        let ends = Ends::new(&queue, is_duplex);
        let [reading, writing] = ends.0;
        wait(soon(), |wait| queue.watch_at(reading, wait)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..EACH).for_each(|_| send(&queue, writing, b"x")));
            let mut received = 0;
            while received < EACH {
                // As fast as possible, so that it is often not the byte that tells.
                while receive(&queue, reading, Patience::NoWait).is_ok() {
                    received += 1;
                }
                if is_readable(reading, 0) {
                    // It is the only receiver, so the message is there.
                    assert_eq!(receive(&queue, reading, Patience::NoWait).unwrap(), b"x");
                    received += 1;
                }
            }
        });
        assert!(!is_readable(reading, 0));
        assert_eq!(queue.check().unwrap().findings, []);
    }
}

/// Where files may be small only, both queues of a connection are small.
#[test]
fn two_queues_in_a_small_file() {
    for largest in [1 << 20, 4 << 20] {
        assert!(in_child(|| {
            let limit = libc::rlimit {
                rlim_cur: largest,
                rlim_max: largest,
            };
            // SAFETY: the calls read one struct, and ignore a signal as Python does.
            unsafe {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
                assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
            }
            for queue in Queue::create_pair(&PLAIN).unwrap() {
                for len in [1000, 20_000, 1000] {
                    wait(soon(), |wait| queue.put(&[&vec![1; len]], wait)).unwrap();
                    let mut buffer = Buffer::default();
                    let item = wait(soon(), |wait| queue.get(&mut buffer, wait)).unwrap();
                    match item {
                        Delivery::Copied => assert_eq!(buffer.bytes(), vec![1; len]),
                        Delivery::Lent(lent) => assert_eq!(lent.bytes(), vec![1; len]),
                    }
                }
                assert_eq!(queue.check().unwrap().findings, []);
            }
        }));
    }
}

/// Descriptors that this process has of the memory file that is named after that queue.
fn descriptors(id: Id) -> usize {
    let name: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|path| path.to_string_lossy().contains(&name))
        .count()
}

/// A child counts anew which queues need a descriptor: what its parent's threads were doing with it does not
/// go on there.
#[test]
fn a_child_closes_for_itself() {
    let mut handles = Queue::create_pair(&PLAIN).unwrap().map(|queue| {
        let remainder = queue.open_handle().unwrap();
        Some((queue, remainder))
    });
    let first = &handles[0].as_ref().unwrap().0;
    let (id, kept) = (first.id(), first.keep_open());
    wait(soon(), |wait| first.put(&[b"x"], wait)).unwrap();
    let close = |handle: &mut Option<(Arc<Queue>, Arc<Remainder>)>| {
        let (queue, remainder) = handle.take().unwrap();
        remainder.close(queue);
    };
    assert!(in_child(|| {
        close(&mut handles[0]);
        assert_eq!(descriptors(id), 1);
        wait(soon(), |wait| handles[1].as_ref().unwrap().0.put(&[b"y"], wait)).unwrap();
        close(&mut handles[1]);
        // Its copy of what its parent keeps open keeps the first queue, not the descriptor.
        assert_eq!(descriptors(id), 0);
    }));
    assert_eq!(handles[1].as_ref().unwrap().0.len(), 1);
    handles.iter_mut().for_each(close);
    assert_eq!(descriptors(id), 1);
    drop(kept);
    assert_eq!(descriptors(id), 0);
}
