//! A process is stopped inside the critical section, at a fault point, by SIGSTOP: what the others do
//! meanwhile.
#![cfg(all(not(loom), feature = "fault-points"))]
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use penstock_core::{
    Buffer, Delivery, Error, Leave, Lent, Options, Patience, Queue, Statistics, Wait, fault,
};

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/get.rs"]
mod get;
#[path = "common/soon.rs"]
mod soon;
#[path = "common/stops.rs"]
mod stops;

use child::Child;
use common::{PLAIN, wait};
use get::get;
use soon::soon;

const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    ..PLAIN
};
const LARGE: usize = 100_000;

/// Begins to acknowledge: from now on leases are redelivered at once if their holder dies.
fn acknowledge(queue: &Queue) {
    wait(Patience::NoWait, |wait| queue.join(wait)).unwrap();
}

fn put(queue: &Queue, payload: &[u8], patience: Patience) -> Result<(), Error> {
    wait(patience, |wait| queue.put(&[payload], wait)).map(drop)
}

fn take_lent(queue: &Arc<Queue>) -> Lent {
    let mut buffer = Buffer::default();
    match wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait)) {
        Ok(Delivery::Lent(lent)) => lent,
        _ => panic!("a large item was expected"),
    }
}

impl Child {
    /// A child that does `work` and is stopped when it passes `point`.
    fn stopped_at(point: &str, work: impl FnOnce()) -> Child {
        let child = Child::run(|| {
            assert!(fault::suspend_at(point));
            work();
        });
        assert!(child.stops(), "it passes {point}");
        child
    }

    /// Lets it go on. Returns its exit status. A death by a signal is none.
    fn finish(mut self) -> i32 {
        self.signal(libc::SIGCONT);
        let status = self.reap();
        assert!(libc::WIFEXITED(status), "it died by {}", libc::WTERMSIG(status));
        libc::WEXITSTATUS(status)
    }
}

/// The process is stopped after it has put that item, which the counters do not count yet.
fn stopped_in_put(queue: &Arc<Queue>) -> Child {
    Child::stopped_at("put.committed", || {
        put(queue, b"late", Patience::Forever).unwrap()
    })
}

fn is_sound(queue: &Queue) {
    assert_eq!(queue.check().unwrap().findings, []);
}

#[test]
fn numbers_are_told_without_waiting() {
    let queue = Queue::create(&Options { maxsize: 2, ..PLAIN }).unwrap();
    put(&queue, b"first", Patience::NoWait).unwrap();
    let stopped = stopped_in_put(&queue);
    let number = stopped.0 as u32;
    assert_eq!(
        (queue.len(), queue.is_empty(), queue.is_full()),
        (1, false, false)
    );
    assert_eq!(
        put(&queue, b"x", Patience::NoWait),
        Err(Error::FullBehindStopped { pid: number })
    );
    assert_eq!(stopped.finish(), 0);
    assert_eq!((queue.len(), queue.is_empty(), queue.is_full()), (2, false, true));
}

/// There is also a dead participant that holds an item: it is swept when the lock is free again.
#[test]
fn numbers_are_told_beside_a_dead_one() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    put(&queue, b"leased", Patience::NoWait).unwrap();
    let mut dead = Child::run(|| {
        get(&queue, Patience::NoWait).unwrap();
        loop {
            std::thread::park();
        }
    });
    while !queue.is_empty() {
        std::thread::yield_now();
    }
    let stopped = stopped_in_put(&queue);
    dead.signal(libc::SIGKILL);
    dead.reap();
    // Time for a check for the dead to become due.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(250) {
        assert_eq!(queue.len(), 0);
    }
    assert_eq!(stopped.finish(), 0);
    while queue.len() < 2 {
        std::thread::yield_now();
    }
    is_sound(&queue);
}

/// A survivor that only asks for counters takes over at once from a holder that was stopped and then killed.
#[test]
fn numbers_are_repaired_behind_a_dead_holder() {
    let queue = Queue::create(&PLAIN).unwrap();
    let mut stopped = stopped_in_put(&queue);
    assert_eq!(queue.len(), 0);
    stopped.signal(libc::SIGKILL);
    stopped.reap();
    assert_eq!(queue.len(), 1);
    is_sound(&queue);
}

#[test]
fn calls_that_do_not_block_name_the_stopped_process() {
    for len in [10, LARGE] {
        let queue = Queue::create(&PLAIN).unwrap();
        put(&queue, b"first", Patience::NoWait).unwrap();
        let stopped = stopped_in_put(&queue);
        let pid = stopped.0 as u32;
        let item = vec![1; len];
        assert_eq!(
            put(&queue, &item, Patience::NoWait),
            Err(Error::FullBehindStopped { pid })
        );
        assert_eq!(
            get(&queue, Patience::NoWait),
            Err(Error::EmptyBehindStopped { pid })
        );
        // The error comes in time, and it also names the process.
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(
            put(&queue, &item, Patience::Until(deadline)),
            Err(Error::FullBehindStopped { pid })
        );
        assert_eq!(
            get(&queue, Patience::Until(deadline)),
            Err(Error::EmptyBehindStopped { pid })
        );
        assert_eq!(put(&queue, b"x", Patience::TryLock), Err(Error::Busy));
        assert_eq!(stopped.finish(), 0);
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"first");
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"late");
        assert_eq!(get(&queue, Patience::NoWait), Err(Error::Empty));
        is_sound(&queue);
    }
}

/// The first call of a process registers it before it takes the lock.
#[test]
fn a_stranger_does_not_wait_either() {
    let queue = Queue::create(&PLAIN).unwrap();
    let stopped = stopped_in_put(&queue);
    let pid = stopped.0 as u32;
    let stranger = Child::run(|| {
        assert_eq!(
            put(&queue, b"x", Patience::NoWait),
            Err(Error::FullBehindStopped { pid })
        );
    });
    assert_eq!(stranger.finish(), 0);
    assert_eq!(stopped.finish(), 0);
    assert_eq!(queue.len(), 1);
}

/// Stops this process until the test lets it go on.
fn stop_here() {
    // SAFETY: raises a valid signal.
    unsafe { libc::raise(libc::SIGSTOP) };
}

impl Child {
    /// A child that stops itself in `work`.
    fn stopping(work: impl FnOnce()) -> Child {
        let child = Child::run(work);
        assert!(child.stops());
        child
    }

    /// Lets it go on until it stops again.
    fn go_on(&self) {
        self.signal(libc::SIGCONT);
        assert!(self.stops());
    }
}

/// Lets a stopped process go on while the lock is held, and the holder after that.
fn acts_behind_a_stopped_holder(queue: &Arc<Queue>, actor: &Child) {
    let stopped = stopped_in_put(queue);
    actor.go_on();
    assert_eq!(stopped.finish(), 0);
}

/// Kills it. Returns what a sweep leaves of it.
fn after_the_death_of(mut child: Child, queue: &Queue) -> Statistics {
    child.signal(libc::SIGKILL);
    child.reap();
    let statistics = queue.statistics().unwrap();
    is_sound(queue);
    statistics
}

/// The memory that was claimed for it is freed by the next call of its process.
#[test]
fn a_large_put_that_cannot_be_published_gives_its_memory_back() {
    let queue = Queue::create(&PLAIN).unwrap();
    let putter = Child::stopped_at("claim.copied", || {
        let put_large = put(&queue, &[1; LARGE], Patience::NoWait);
        assert!(
            matches!(put_large, Err(Error::FullBehindStopped { .. })),
            "{put_large:?}"
        );
        stop_here();
        assert_eq!(queue.check().unwrap().claimed, 0);
        is_sound(&queue);
    });
    acts_behind_a_stopped_holder(&queue, &putter);
    assert_eq!(queue.check().unwrap().claimed, 1);
    is_sound(&queue);
    assert_eq!(putter.finish(), 0);
}

/// The end of a borrow does not wait for the lock. The next call of the process ends it, or the sweep.
#[test]
fn the_end_of_a_borrow_is_put_off() {
    for (is_kept, dies) in [(false, false), (true, false), (false, true), (true, true)] {
        let queue = Queue::create(&PLAIN).unwrap();
        put(&queue, &[1; LARGE], Patience::NoWait).unwrap();
        let reader = Child::stopping(|| {
            let lent = take_lent(&queue);
            stop_here();
            if is_kept {
                lent.keep().unwrap();
            }
            drop(lent);
            stop_here();
            assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"late");
            let check = queue.check().unwrap();
            assert_eq!((check.leased, check.claimed), (0, 0));
            is_sound(&queue);
        });
        acts_behind_a_stopped_holder(&queue, &reader);
        is_sound(&queue);
        if !dies {
            assert_eq!(reader.finish(), 0);
            continue;
        }
        let s = after_the_death_of(reader, &queue);
        // The dead process had ended its borrow: no other process gets the item.
        assert_eq!((s.queued, s.redeliveries), (1, 0));
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"late");
        is_sound(&queue);
    }
}

/// An item that its reader could not use returns with the next call of the process, or with the sweep.
#[test]
fn the_return_of_an_undelivered_item_is_put_off() {
    for (options, dies) in [
        (PLAIN, false),
        (PLAIN, true),
        (ACKNOWLEDGED, false),
        (ACKNOWLEDGED, true),
    ] {
        let queue = Queue::create(&options).unwrap();
        put(&queue, &[1; LARGE], Patience::NoWait).unwrap();
        let reader = Child::stopping(|| {
            let lent = take_lent(&queue);
            stop_here();
            lent.undeliver();
            drop(lent);
            stop_here();
            assert_eq!(get(&queue, Patience::NoWait).unwrap(), [1; LARGE]);
            is_sound(&queue);
        });
        acts_behind_a_stopped_holder(&queue, &reader);
        is_sound(&queue);
        if !dies {
            assert_eq!(reader.finish(), 0);
            continue;
        }
        let s = after_the_death_of(reader, &queue);
        assert_eq!((s.queued, s.redeliveries), (2, 1));
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), [1; LARGE]);
        is_sound(&queue);
    }
}

/// A reader keeps its item while the lock is taken, and is killed while it still borrows the payload.
#[test]
fn an_item_that_was_kept_does_not_come_back() {
    let queue = Queue::create(&PLAIN).unwrap();
    put(&queue, &[1; LARGE], Patience::NoWait).unwrap();
    let mut reader = Child::stopping(|| {
        let lent = take_lent(&queue);
        stop_here();
        lent.keep().unwrap();
        stop_here();
    });
    let stopped = stopped_in_put(&queue);
    reader.go_on();
    reader.signal(libc::SIGKILL);
    reader.reap();
    assert_eq!(stopped.finish(), 0);
    let statistics = queue.statistics().unwrap();
    assert_eq!((statistics.queued, statistics.redeliveries), (1, 0));
    is_sound(&queue);
}

/// Drops the last handle of a forked child.
fn let_go(queue: &Arc<Queue>) {
    let queue: *const Arc<Queue> = queue;
    // SAFETY: the child uses the handle no more.
    drop(unsafe { queue.read() });
}

/// A process leaves while another one is stopped inside the critical section.
#[test]
fn leaving_does_not_wait_and_is_honoured() {
    let clean: fn(&Arc<Queue>) = |queue| queue.leave(Leave::Clean).unwrap();
    let crashed: fn(&Arc<Queue>) = |queue| queue.leave(Leave::Crashed).unwrap();
    let crashed_and_let_go: fn(&Arc<Queue>) = |queue| {
        queue.leave(Leave::Crashed).unwrap();
        let_go(queue);
    };
    for (leave, comes_back) in [
        (clean, false),
        (let_go, false),
        (crashed, true),
        (crashed_and_let_go, true),
    ] {
        for dies in [true, false] {
            let queue = Queue::create(&ACKNOWLEDGED).unwrap();
            acknowledge(&queue);
            for item in [&[1; 10][..], &[1; LARGE]] {
                put(&queue, item, Patience::NoWait).unwrap();
            }
            let mut leaver = Child::stopping(|| {
                get(&queue, Patience::NoWait).unwrap();
                get(&queue, Patience::NoWait).unwrap();
                stop_here();
                leave(&queue);
                stop_here();
            });
            acts_behind_a_stopped_holder(&queue, &leaver);
            is_sound(&queue);
            if dies {
                leaver.signal(libc::SIGKILL);
                leaver.reap();
            } else {
                assert_eq!(leaver.finish(), 0);
            }
            let statistics = queue.statistics().unwrap();
            assert_eq!(
                (statistics.queued, statistics.redeliveries, statistics.unfinished),
                if comes_back { (3, 2, 3) } else { (1, 0, 3) },
            );
            assert_eq!(statistics.participants, 1);
            is_sound(&queue);
        }
    }
}

/// A leave in order that is put off, or a last handle that goes, passes over what is settled by name.
#[test]
fn a_lease_outlasts_a_leave_that_is_put_off() {
    let leave: fn(&Arc<Queue>) = |queue| queue.leave(Leave::Clean).unwrap();
    for leave in [leave, let_go] {
        for len in [10, LARGE] {
            let queue = Queue::create(&ACKNOWLEDGED).unwrap();
            acknowledge(&queue);
            for _ in 0..2 {
                put(&queue, &vec![1; len], Patience::NoWait).unwrap();
            }
            let leaver = Child::stopping(|| {
                let mut buffer = Buffer::default();
                drop(wait(Patience::NoWait, |wait| queue.hold(&mut buffer, wait)).unwrap());
                get(&queue, Patience::NoWait).unwrap();
                stop_here();
                leave(&queue);
                stop_here();
            });
            acts_behind_a_stopped_holder(&queue, &leaver);
            let s = after_the_death_of(leaver, &queue);
            assert_eq!((s.queued, s.redeliveries, s.unfinished), (2, 1, 3));
        }
    }
}

/// What a process had by name that drops its last handle comes back with the sweep, though the process lives:
/// no death is noted.
#[test]
fn what_is_held_by_one_that_lets_go_tells_of_no_death() {
    for len in [10, LARGE] {
        let queue = Queue::create(&Options {
            max_deliveries: 0,
            ..ACKNOWLEDGED
        })
        .unwrap();
        acknowledge(&queue);
        put(&queue, &vec![1; len], Patience::NoWait).unwrap();
        let leaver = Child::stopping(|| {
            let mut buffer = Buffer::default();
            drop(wait(Patience::NoWait, |wait| queue.hold(&mut buffer, wait)).unwrap());
            stop_here();
            let_go(&queue);
            stop_here();
        });
        acts_behind_a_stopped_holder(&queue, &leaver);
        let statistics = queue.statistics().unwrap();
        assert_eq!((statistics.participants, statistics.dead_letters), (1, 1));
        let letters = queue.dead_letters().unwrap();
        assert_eq!((&letters[0].deaths[..], letters[0].died_last), (&[][..], false));
        is_sound(&queue);
        assert_eq!(leaver.finish(), 0);
    }
}

/// A process that has left in order without the lock dies with an item by name, and so does the sweeper that
/// discards it: the next one discards it, too.
#[test]
fn a_lease_by_name_is_discarded_though_its_sweeper_dies() {
    for point in ["aside.counting", "aside.noted", "aside.counted", "slot.freed"] {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        acknowledge(&queue);
        put(&queue, b"held", Patience::NoWait).unwrap();
        let mut leaver = Child::stopping(|| {
            let mut buffer = Buffer::default();
            drop(wait(Patience::NoWait, |wait| queue.hold(&mut buffer, wait)).unwrap());
            stop_here();
            queue.leave(Leave::Clean).unwrap();
            stop_here();
        });
        acts_behind_a_stopped_holder(&queue, &leaver);
        queue.shut_down(true).unwrap();
        leaver.signal(libc::SIGKILL);
        leaver.reap();
        let mut sweeper = child::Child::run(|| {
            fault::arm(point, 1);
            queue.statistics().unwrap();
        });
        assert_eq!(libc::WTERMSIG(sweeper.reap()), libc::SIGKILL, "{point}");
        let statistics = queue.statistics().unwrap();
        assert_eq!(
            (
                statistics.discarded,
                statistics.unfinished,
                statistics.participants
            ),
            (2, 0, 1),
            "{point}"
        );
        wait(Patience::NoWait, |wait| queue.join(wait)).unwrap();
        is_sound(&queue);
    }
}

/// A participant that has let go is swept though its process lives, and the process can register again.
#[test]
fn a_process_that_let_go_is_swept_while_it_lives() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    put(&queue, b"left", Patience::NoWait).unwrap();
    let leaver = Child::stopping(|| {
        get(&queue, Patience::NoWait).unwrap();
        let fd = queue.duplicate_fd().unwrap();
        stop_here();
        let_go(&queue);
        stop_here();
        let again = Queue::attach(fd).unwrap();
        assert_eq!(get(&again, Patience::NoWait).unwrap(), b"late");
        again.task_done().unwrap();
    });
    acts_behind_a_stopped_holder(&queue, &leaver);
    let statistics = queue.statistics().unwrap();
    assert_eq!((statistics.participants, statistics.unfinished), (1, 2));
    assert_eq!(leaver.finish(), 0);
    assert_eq!(queue.statistics().unwrap().unfinished, 1);
    is_sound(&queue);
}

/// A process that leaves, and goes on, gives up what it held then, and holds what it takes later.
#[test]
fn a_leaving_that_was_put_off_is_done_by_the_next_call() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    put(&queue, b"before", Patience::NoWait).unwrap();
    let leaver = Child::stopping(|| {
        get(&queue, Patience::NoWait).unwrap();
        stop_here();
        queue.leave(Leave::Clean).unwrap();
        stop_here();
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"late");
        stop_here();
    });
    acts_behind_a_stopped_holder(&queue, &leaver);
    leaver.go_on();
    let s = after_the_death_of(leaver, &queue);
    assert_eq!((s.queued, s.redeliveries, s.unfinished), (1, 1, 2));
}

/// However much a process has in hand by name, no section of it reads all of that for a leave that was put
/// off. What it takes before all is done, it has in hand.
#[test]
fn a_leave_that_was_put_off_is_done_part_by_part() {
    const MANY: u64 = 10_000;
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    for _ in 0..MANY + 2 {
        put(&queue, b"item", Patience::NoWait).unwrap();
    }
    let leaver = Child::stopping(|| {
        let mut buffer = Buffer::default();
        for _ in 0..MANY {
            drop(wait(Patience::NoWait, |wait| queue.hold(&mut buffer, wait)).unwrap());
        }
        get(&queue, Patience::NoWait).unwrap();
        stop_here();
        queue.leave(Leave::Clean).unwrap();
        stop_here();
        get(&queue, Patience::NoWait).unwrap();
        stop_here();
        for _ in 0..10 {
            put(&queue, b"more", Patience::NoWait).unwrap();
        }
        stop_here();
    });
    acts_behind_a_stopped_holder(&queue, &leaver);
    let taken = || queue.statistics().unwrap().taken;
    leaver.go_on();
    assert_eq!(taken(), MANY + 2, "the last of them is not read yet");
    leaver.go_on();
    assert_eq!(taken(), MANY + 1);
    let s = after_the_death_of(leaver, &queue);
    assert_eq!(
        (s.redeliveries, s.queued, s.unfinished),
        (MANY + 1, MANY + 12, MANY + 13)
    );
}

/// Another thread does what the process has put off while a thread leaves: the record says no longer that the
/// process has left than it has not.
#[test]
fn no_mark_of_a_leave_stays() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    acknowledge(&queue);
    put(&queue, b"left", Patience::NoWait).unwrap();
    put(&queue, &[1; LARGE], Patience::NoWait).unwrap();
    let leaver = Child::stopping(|| {
        get(&queue, Patience::NoWait).unwrap();
        let lent = take_lent(&queue);
        stop_here();
        drop(lent); // is put off
        assert!(fault::stop_at("leave.marked"));
        let here = queue.clone();
        let leaves = std::thread::spawn(move || here.leave(Leave::Clean).unwrap());
        wait_until(fault::is_stopped);
        stop_here();
        put(&queue, b"more", Patience::NoWait).unwrap();
        fault::go_on();
        leaves.join().unwrap();
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), b"late");
        stop_here();
    });
    acts_behind_a_stopped_holder(&queue, &leaver);
    leaver.go_on();
    let s = after_the_death_of(leaver, &queue);
    assert_eq!((s.queued, s.redeliveries, s.unfinished), (2, 1, 4));
}

/// A getter was notified and its time is over, but the lock is taken: it leaves without the lock, and the
/// next getter gets the item.
#[test]
fn a_chosen_waiter_leaves_without_the_lock() {
    for (dies, at_once) in [(true, false), (true, true), (false, false)] {
        let queue = Queue::create(&PLAIN).unwrap();
        let mut getter = Child::stopped_at("wait.asleep", || {
            if at_once {
                fault::arm("wait.left", 1);
            }
            let patience = Patience::Until(Instant::now() + Duration::from_millis(200));
            let got = get(&queue, patience);
            assert!(matches!(got, Err(Error::EmptyBehindStopped { .. })), "{got:?}");
            stop_here();
            assert_eq!(queue.len(), 2);
        });
        put(&queue, b"first", Patience::NoWait).unwrap();
        let stopped = stopped_in_put(&queue);
        if at_once {
            getter.signal(libc::SIGCONT);
        } else {
            getter.go_on();
        }
        if dies {
            if !at_once {
                getter.signal(libc::SIGKILL);
            }
            assert_eq!(libc::WTERMSIG(getter.reap()), libc::SIGKILL);
        }
        assert_eq!(stopped.finish(), 0);
        is_sound(&queue);
        if dies {
            is_sound(&queue);
        } else {
            assert_eq!(getter.finish(), 0);
        }
        // A getter that comes now waits for the third item, though the first getter may still count as on its
        // way.
        assert_eq!(get(&queue, soon()).unwrap(), b"first");
        assert_eq!(get(&queue, soon()).unwrap(), b"late");
        let waiter = Child::run(|| assert_eq!(get(&queue, soon()).unwrap(), b"third"));
        while queue.statistics().unwrap().waiting_getters == 0 {
            std::thread::yield_now();
        }
        put(&queue, b"third", Patience::NoWait).unwrap();
        assert_eq!(waiter.finish(), 0);
        is_sound(&queue);
    }
}

/// A process dies at each step of putting work off, or of doing that work.
#[test]
fn death_of_a_process_that_puts_work_off() {
    for (point, second) in [
        ("upkeep.slot-marked", false),
        ("leave.marked", false),
        ("depart.marked", false),
        ("upkeep.slot-finished", true),
    ] {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        acknowledge(&queue);
        put(&queue, b"leased", Patience::NoWait).unwrap();
        put(&queue, &[1; LARGE], Patience::NoWait).unwrap();
        let mut doomed = Child::stopping(|| {
            get(&queue, Patience::NoWait).unwrap();
            let lent = take_lent(&queue);
            stop_here();
            if !second {
                fault::arm(point, 1);
            }
            drop(lent);
            if point != "depart.marked" {
                queue.leave(Leave::Clean).unwrap();
            } else {
                let_go(&queue);
            }
            stop_here();
            fault::arm(point, 1);
            let _ = get(&queue, Patience::NoWait);
        });
        let mut stopped = Some(stopped_in_put(&queue));
        if second {
            doomed.go_on();
            assert_eq!(stopped.take().unwrap().finish(), 0);
        }
        doomed.signal(libc::SIGCONT);
        assert_eq!(libc::WTERMSIG(doomed.reap()), libc::SIGKILL, "{point}");
        if let Some(stopped) = stopped {
            assert_eq!(stopped.finish(), 0);
        }
        let statistics = queue.statistics().unwrap();
        let has_left = point != "upkeep.slot-marked";
        assert_eq!(
            (statistics.queued, statistics.redeliveries, statistics.unfinished),
            if has_left { (1, 0, 3) } else { (3, 2, 3) },
            "{point}"
        );
        assert_eq!(statistics.participants, 1, "{point}");
        is_sound(&queue);
    }
}

// -------------------------------------------------------------------------------------------- signals

static SIGNALS: AtomicU32 = AtomicU32::new(0);

/// A wait that 3,500 signals end. At one every 3 ms that is a hundred times as long as it takes to find a
/// dead process.
fn under_signals<T>(call: impl FnOnce(Wait<'_>) -> T) -> T {
    call(Wait {
        patience: Patience::Forever,
        interrupted: &mut || SIGNALS.load(Ordering::Relaxed) > 3500,
    })
}

/// Sends this process a signal every 3 ms from now on.
fn be_interrupted() {
    extern "C" fn count(_: i32) {
        SIGNALS.fetch_add(1, Ordering::Relaxed);
    }
    let period = libc::timeval {
        tv_sec: 0,
        tv_usec: 3000,
    };
    let timer = libc::itimerval {
        it_interval: period,
        it_value: period,
    };
    // SAFETY: the handler only counts; the structs are complete. Without SA_RESTART each signal ends a sleep.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as *const () as usize;
        assert_eq!(
            libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()),
            0
        );
        assert_eq!(
            libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()),
            0
        );
    }
}

/// A waiter that is interrupted all the time finds out that the holder of what it waits for is dead.
fn is_found_though_interrupted(
    options: &Options,
    before: fn(&Arc<Queue>),
    hold: fn(&Arc<Queue>),
    wait_for: fn(&Arc<Queue>),
    waits: fn(&Arc<Queue>) -> bool,
) {
    let queue = Queue::create(options).unwrap();
    before(&queue);
    let waiter = Child::stopping(|| {
        queue.statistics().unwrap();
        be_interrupted();
        stop_here();
        wait_for(&queue);
    });
    let mut holder = Child::stopping(|| hold(&queue));
    waiter.signal(libc::SIGCONT);
    while !waits(&queue) {
        std::thread::yield_now();
    }
    holder.signal(libc::SIGKILL);
    holder.reap();
    assert_eq!(waiter.finish(), 0);
}

fn put_one(queue: &Arc<Queue>) {
    put(queue, b"item", Patience::NoWait).unwrap();
}

fn take_and_stop(queue: &Arc<Queue>) {
    get(queue, Patience::NoWait).unwrap();
    stop_here();
}

fn stop_with_the_lock(queue: &Arc<Queue>) {
    assert!(fault::suspend_at("put.committed"));
    put(queue, b"item", Patience::NoWait).unwrap();
}

#[test]
fn an_interrupted_getter_finds_the_dead() {
    is_found_though_interrupted(
        &ACKNOWLEDGED,
        put_one,
        take_and_stop,
        |queue| {
            let mut buffer = Buffer::default();
            under_signals(|wait| queue.get(&mut buffer, wait)).unwrap();
            assert_eq!(buffer.bytes(), b"item");
        },
        |queue| queue.statistics().unwrap().waiting_getters == 1,
    );
}

#[test]
fn an_interrupted_joiner_finds_the_dead() {
    let undelivered = Options {
        max_deliveries: 0,
        ..ACKNOWLEDGED
    };
    is_found_though_interrupted(
        &undelivered,
        put_one,
        take_and_stop,
        |queue| {
            under_signals(|wait| queue.join(wait)).unwrap();
        },
        |queue| queue.statistics().unwrap().waiting_joiners == 1,
    );
}

#[test]
fn an_interrupted_caller_takes_the_lock_over() {
    let calls: [fn(&Arc<Queue>); 4] = [
        |queue| assert!(under_signals(|wait| queue.put(&[b"x"], wait)).is_ok()),
        |queue| drop(under_signals(|wait| queue.get(&mut Buffer::default(), wait)).unwrap()),
        |queue| {
            assert_eq!(
                under_signals(|wait| queue.statistics_within(wait)).unwrap().puts,
                1
            )
        },
        |queue| under_signals(|wait| queue.task_done_within(wait)).unwrap(),
    ];
    for call in calls {
        // Whether it waits for the lock by then or not, it must take the lock over.
        is_found_though_interrupted(&ACKNOWLEDGED, |_| (), stop_with_the_lock, call, |_| true);
    }
}

const ITEMS: u32 = 240_000;

fn put_numbers(queue: &Arc<Queue>) {
    for i in 0..ITEMS {
        put(queue, &i.to_le_bytes(), Patience::NoWait).unwrap();
    }
}

fn get_numbers(queue: &Arc<Queue>, what: &str) {
    for i in 0..ITEMS {
        assert_eq!(get(queue, Patience::NoWait).unwrap(), i.to_le_bytes(), "{what}");
    }
}

/// A queue whose slots are all free, and nothing of them was given back.
fn drained_without_a_trim() -> Arc<Queue> {
    let queue = Queue::create(&PLAIN).unwrap();
    put_numbers(&queue);
    let mut buffer = Buffer::default();
    for _ in 0..ITEMS {
        // A call that must not wait trims nothing.
        assert!(wait(Patience::TryLock, |wait| queue.get(&mut buffer, wait)).is_ok());
    }
    queue
}

/// A process is stopped while it gives the memory of slots back: the others put, get and trim meanwhile. When
/// it goes on, it takes nothing from them.
#[test]
fn a_stopped_trimmer_of_slots_holds_up_no_one() {
    for point in ["trim.pages-claimed", "trim.pages-punched"] {
        let queue = drained_without_a_trim();
        let full = queue.statistics().unwrap().memory_bytes;
        let stopped = Child::stopped_at(point, || queue.trim_if_due().unwrap());
        wait(Patience::NoWait, |wait| queue.watch(wait)).unwrap();
        put_numbers(&queue);
        get_numbers(&queue, point);
        // Beside what the stopped one has claimed, which is 1 MiB at most.
        let left = queue.statistics().unwrap().memory_bytes;
        assert!(
            left < full && left <= (16 << 20) + (1 << 20),
            "{point}: {left} of {full}"
        );
        is_sound(&queue);
        put_numbers(&queue);
        assert_eq!(stopped.finish(), 0, "{point}");
        is_sound(&queue);
        get_numbers(&queue, point);
        is_sound(&queue);
    }
}

/// The same of runs of the heap.
#[test]
fn a_stopped_trimmer_of_runs_holds_up_no_one() {
    let queue = Queue::create(&PLAIN).unwrap();
    for _ in 0..200 {
        put(&queue, &[1; LARGE], Patience::NoWait).unwrap();
    }
    let stopped = Child::stopped_at("trim.punched", || while get(&queue, Patience::NoWait).is_ok() {});
    while get(&queue, Patience::NoWait).is_ok() {}
    for round in 0..3 {
        for _ in 0..200 {
            put(&queue, &[round; LARGE], Patience::NoWait).unwrap();
        }
        for _ in 0..200 {
            assert_eq!(get(&queue, Patience::NoWait).unwrap(), [round; LARGE]);
        }
        is_sound(&queue);
    }
    assert_eq!(stopped.finish(), 0);
    is_sound(&queue);
}

/// A putter is stopped when it has put memory behind slots again, and has not said so. Others use that memory
/// and give it back meanwhile: when the putter goes on, it puts memory behind the slots once more.
#[test]
fn memory_that_was_given_back_meanwhile_is_extended_again() {
    let queue = drained_without_a_trim();
    // Holds up the marks, so that the slots below are absent, not gone.
    put(&queue, &[1; LARGE], Patience::NoWait).unwrap();
    put_numbers(&queue);
    put(&queue, &[2; LARGE], Patience::NoWait).unwrap();
    wait(Patience::NoWait, |wait| queue.watch(wait)).unwrap();
    let mut held = vec![take_lent(&queue)];
    get_numbers(&queue, "before");
    held.push(take_lent(&queue));
    // More than the low pages that a trim leaves: the putter needs others, which are given back again.
    for _ in 0..ITEMS / 3 * 2 {
        put(&queue, b"x", Patience::NoWait).unwrap();
    }
    let mut stopped = Child::stopped_at("grow.backed", || {
        assert!(fault::arm("grow.page-present", 1));
        for i in 0..ITEMS {
            put(&queue, &i.to_le_bytes(), Patience::Forever).unwrap();
        }
    });
    while get(&queue, Patience::NoWait).is_ok() {}
    put_numbers(&queue);
    get_numbers(&queue, "meanwhile");
    let before = queue.statistics().unwrap().memory_bytes;
    assert!(before <= (16 << 20) + (1 << 20), "{before} bytes");
    stopped.signal(libc::SIGCONT);
    let status = stopped.reap();
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL);
    let after = queue.statistics().unwrap().memory_bytes;
    // Many pages at a time, and not only the one that the rebuild reads.
    assert!(after >= before + (64 << 10), "{after} bytes after {before}");
    is_sound(&queue);
    while get(&queue, Patience::NoWait).is_ok() {}
    put_numbers(&queue);
    get_numbers(&queue, "after");
    is_sound(&queue);
    drop(held);
}

/// A sender is stopped before it writes the byte of its message, and the message is taken meanwhile.
#[test]
fn no_byte_comes_after_its_message() {
    use std::os::fd::IntoRawFd;
    for point in ["line.owed", "line.claimed"] {
        for is_duplex in [true, false] {
            let what = format!("{point}, duplex {is_duplex}");
            let queue = Queue::create(&PLAIN).unwrap();
            let ends = Queue::make_line(is_duplex).unwrap();
            let [reading, writing] = ends.map(IntoRawFd::into_raw_fd);
            queue.set_line(reading, writing).unwrap();
            wait(soon(), |wait| queue.watch_at(reading, wait)).unwrap();
            let sender = Child::stopped_at(point, || {
                wait(soon(), |wait| queue.put_at(writing, &[b"x"], wait)).unwrap();
            });
            let start = Instant::now();
            let status = std::thread::scope(|scope| {
                let sender = scope.spawn(|| {
                    // At line.claimed the receiver waits for the byte from then on.
                    wait_until(|| queue.is_empty());
                    sender.finish()
                });
                let mut buffer = Buffer::default();
                wait(soon(), |wait| queue.get_at(reading, &mut buffer, wait))
                    .map(drop)
                    .unwrap();
                let waited = start.elapsed();
                (sender.join().unwrap(), waited)
            });
            assert_eq!(status.0, 0, "{what}");
            if status.1 > Duration::from_millis(90) {
                println!("NOT TESTED: the machine is too slow, and the receiver has waited long enough");
                continue;
            }
            let mut polled = libc::pollfd {
                fd: reading,
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: the call reads and writes one struct.
            assert_eq!(unsafe { libc::poll(&raw mut polled, 1, 0) }, 0, "{what}");
            for end in [reading, writing] {
                // SAFETY: opened above, and closed once.
                unsafe { libc::close(end) };
            }
        }
    }
}

fn wait_until(is_so: impl Fn() -> bool) {
    while !is_so() {
        std::thread::yield_now();
    }
}
