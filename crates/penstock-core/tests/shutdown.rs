//! A queue is shut down: what putters, getters and joiners of all processes find then; and what a process
//! leaves that dies in a shutdown, or beside one.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use penstock_core::{
    Acting, Awaited, Buffer, Delivery, Error, Held, InHand, Leave, Options, Own, Patience, Queue, Retry,
    Statistics, Verdict,
};

#[path = "common/awaited.rs"]
mod awaited;
#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/get.rs"]
mod get;
#[path = "common/soon.rs"]
mod soon;
#[path = "common/sound.rs"]
mod sound;
#[path = "common/stops.rs"]
mod stops;
#[path = "common/waiters.rs"]
mod waiters;

use awaited::{outcome, until};
use child::Child;
use common::{PLAIN, wait};
use get::get;
use soon::soon;
use sound::is_sound;
use waiters::{getter, putter};

const ONE: Options = Options { maxsize: 1, ..PLAIN };
const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    ..PLAIN
};
const LARGE: usize = 100_000;

fn put(queue: &Queue, payload: &[u8], patience: Patience) -> Result<(), Error> {
    wait(patience, |wait| queue.put(&[payload], wait)).map(drop)
}

fn join(queue: &Queue, patience: Patience) -> Result<(), Error> {
    wait(patience, |wait| queue.join(wait))
}

/// A queue with items of one byte each, from 0 on.
fn with_items(options: &Options, items: u8) -> Arc<Queue> {
    let queue = Queue::create(options).unwrap();
    for item in 0..items {
        put(&queue, &[item], Patience::NoWait).unwrap();
    }
    queue
}

/// Begins to acknowledge, and waits for nothing.
fn acknowledge(queue: &Queue) {
    assert!(matches!(
        join(queue, Patience::NoWait),
        Ok(()) | Err(Error::Empty)
    ));
}

fn until_waiting(queue: &Queue, of: impl Fn(&Statistics) -> u64, count: u64) {
    until("waiters", || of(&queue.statistics().unwrap()) == count);
}

fn joiner(queue: &Arc<Queue>) -> JoinHandle<Result<(), Error>> {
    let queue = queue.clone();
    thread::spawn(move || join(&queue, soon()))
}

const KILLED: i32 = -libc::SIGKILL;

#[test]
fn what_is_left_is_taken_and_then_each_get_says_so() {
    for options in [&PLAIN, &ACKNOWLEDGED] {
        let queue = with_items(options, 3);
        assert!(!queue.is_shut_down());
        queue.shut_down(false).unwrap();
        assert!(queue.is_shut_down());
        for patience in [Patience::NoWait, Patience::Forever] {
            assert_eq!(put(&queue, b"late", patience), Err(Error::ShutDown));
            assert_eq!(put(&queue, &[1; LARGE], patience), Err(Error::ShutDown));
        }
        assert_eq!(queue.len(), 3);
        for item in 0..3 {
            assert_eq!(get(&queue, Patience::Forever).unwrap(), [item]);
        }
        for patience in [Patience::NoWait, Patience::Forever] {
            assert_eq!(get(&queue, patience), Err(Error::ShutDown));
        }
        assert!(queue.is_empty() && !queue.is_full());
        let s = is_sound(&queue, "drained");
        assert_eq!((s.puts, s.gets, s.discarded), (3, 3, 0));
    }
}

#[test]
fn an_immediate_shutdown_discards_what_is_queued() {
    for options in [&PLAIN, &ACKNOWLEDGED] {
        let queue = with_items(options, 3);
        for len in [500, LARGE] {
            put(&queue, &vec![1; len], Patience::NoWait).unwrap();
        }
        queue.shut_down(true).unwrap();
        assert!(queue.is_shut_down() && queue.is_empty() && !queue.is_full());
        for patience in [Patience::TryLock, Patience::NoWait, Patience::Forever] {
            assert_eq!(get(&queue, patience), Err(Error::ShutDown));
            assert_eq!(put(&queue, b"late", patience), Err(Error::ShutDown));
        }
        join(&queue, Patience::NoWait).unwrap();
        let s = is_sound(&queue, "closed");
        assert_eq!((s.puts, s.gets, s.discarded, s.unfinished), (5, 0, 5, 0));
        let found = queue.check().unwrap();
        assert_eq!((found.ready, found.extents), (0, 0));
    }
}

/// More items than one section discards, among them some that are finished already and some that came back.
#[test]
fn many_items_are_discarded_in_portions() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    for item in 0..2000u32 {
        put(&queue, &item.to_le_bytes(), Patience::NoWait).unwrap();
    }
    let child = Child::run(|| {
        for _ in 0..10 {
            get(&queue, Patience::NoWait).unwrap();
        }
        queue.leave(Leave::Crashed).unwrap();
    });
    assert_eq!(outcome(child), 0);
    for _ in 0..5 {
        queue.task_done().unwrap();
    }
    queue.shut_down(true).unwrap();
    let s = is_sound(&queue, "closed");
    assert_eq!((s.queued, s.discarded, s.unfinished), (0, 2000, 0));
    assert_eq!(queue.task_done(), Err(Error::TooManyDone));
}

#[test]
fn a_shutdown_is_for_good() {
    let queue = with_items(&PLAIN, 2);
    queue.shut_down(false).unwrap();
    queue.shut_down(false).unwrap();
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), [0]);
    queue.shut_down(true).unwrap();
    assert_eq!(get(&queue, Patience::NoWait), Err(Error::ShutDown));
    queue.shut_down(false).unwrap();
    assert_eq!(
        get(&queue, Patience::NoWait),
        Err(Error::ShutDown),
        "it stays closed"
    );
    assert_eq!(is_sound(&queue, "closed").discarded, 1);
}

#[test]
fn waiting_putters_learn_it() {
    for is_immediate in [false, true] {
        let queue = with_items(&ONE, 1);
        let putters: Vec<_> = (0..100).map(|_| putter(&queue, b"late")).collect();
        let large = putter(&queue, &[7; LARGE]);
        let here = Arc::clone(&queue);
        let child = Child::run(move || {
            assert_eq!(put(&here, b"late", Patience::Forever), Err(Error::ShutDown));
        });
        until_waiting(&queue, |s| s.waiting_putters, 102);
        queue.shut_down(is_immediate).unwrap();
        for putter in putters.into_iter().chain([large]) {
            assert_eq!(putter.join().unwrap(), Err(Error::ShutDown));
        }
        assert_eq!(outcome(child), 0);
        let s = is_sound(&queue, "no putter is left");
        assert_eq!((s.puts, s.queued), (1, u64::from(!is_immediate)));
        assert_eq!(
            queue.check().unwrap().claimed,
            0,
            "what putters have written is freed"
        );
    }
}

/// They have written their items, which wait for a place.
#[test]
fn aged_putters_learn_it() {
    let queue = with_items(&ONE, 1);
    let putters = [putter(&queue, b"late"), putter(&queue, &[7; LARGE])];
    until("written", || queue.check().unwrap().written == 2);
    queue.shut_down(false).unwrap();
    for putter in putters {
        assert_eq!(putter.join().unwrap(), Err(Error::ShutDown));
    }
    assert_eq!(queue.check().unwrap().claimed, 0);
    assert_eq!(get(&queue, soon()).unwrap(), [0]);
    assert_eq!(get(&queue, soon()), Err(Error::ShutDown));
    assert_eq!(is_sound(&queue, "drained").puts, 1);
}

#[test]
fn waiting_getters_learn_it() {
    for is_immediate in [false, true] {
        let queue = Queue::create(&PLAIN).unwrap();
        let getters: Vec<_> = (0..100).map(|_| getter(&queue)).collect();
        let here = Arc::clone(&queue);
        let child = Child::run(move || {
            assert_eq!(get(&here, Patience::Forever), Err(Error::ShutDown));
        });
        until_waiting(&queue, |s| s.waiting_getters, 101);
        until("aged", || queue.check().unwrap().aged > 0);
        queue.shut_down(is_immediate).unwrap();
        for getter in getters {
            assert_eq!(getter.join().unwrap(), Err(Error::ShutDown));
        }
        assert_eq!(outcome(child), 0);
        is_sound(&queue, "no getter is left");
    }
}

#[test]
fn joiners_return_when_all_in_hand_is_done() {
    let queue = with_items(&ACKNOWLEDGED, 3);
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), [0]);
    let joiners = [joiner(&queue), joiner(&queue)];
    until_waiting(&queue, |s| s.waiting_joiners, 2);
    queue.shut_down(true).unwrap();
    assert_eq!(is_sound(&queue, "one in hand").unfinished, 1);
    assert_eq!(join(&queue, Patience::NoWait), Err(Error::Empty));
    queue.task_done().unwrap();
    for joiner in joiners {
        joiner.join().unwrap().unwrap();
    }
    assert_eq!(queue.task_done(), Err(Error::TooManyDone));
}

#[test]
fn joiners_return_after_a_drain() {
    let queue = with_items(&ACKNOWLEDGED, 2);
    let joined = joiner(&queue);
    until_waiting(&queue, |s| s.waiting_joiners, 1);
    queue.shut_down(false).unwrap();
    for item in 0..2 {
        assert_eq!(get(&queue, Patience::Forever).unwrap(), [item]);
        queue.task_done().unwrap();
    }
    joined.join().unwrap().unwrap();
    assert_eq!(get(&queue, Patience::Forever), Err(Error::ShutDown));
}

/// A joiner sleeps, and what is queued is discarded: it returns.
#[test]
fn an_immediate_shutdown_ends_a_join() {
    let queue = with_items(&ACKNOWLEDGED, 3);
    let joined = joiner(&queue);
    until_waiting(&queue, |s| s.waiting_joiners, 1);
    queue.shut_down(true).unwrap();
    joined.join().unwrap().unwrap();
}

#[test]
fn a_put_of_many_says_how_many_were_put() {
    let queue = Queue::create(&Options { maxsize: 3, ..PLAIN }).unwrap();
    let here = Arc::clone(&queue);
    let put = thread::spawn(move || {
        let payloads: Vec<&[u8]> = vec![b"item"; 5];
        wait(soon(), |wait| here.put_many(&payloads, wait))
    });
    until_waiting(&queue, |s| s.waiting_putters, 1);
    queue.shut_down(false).unwrap();
    assert_eq!(put.join().unwrap(), (3, Err(Error::ShutDown)));
    assert_eq!(queue.len(), 3);
}

/// A worker that holds an item may die: the others wait for that, and lose nothing.
#[test]
fn an_item_that_comes_back_is_waited_for() {
    for begins in [false, true] {
        let queue = with_items(&ACKNOWLEDGED, 1);
        if begins {
            acknowledge(&queue);
        }
        let holder = Child::run(|| {
            assert_eq!(get(&queue, Patience::NoWait).unwrap(), [0]);
            loop {
                thread::park();
            }
        });
        until("taken", || queue.is_empty());
        queue.shut_down(false).unwrap();
        assert_eq!(
            get(&queue, Patience::NoWait),
            Err(Error::ShutDown),
            "a get that does not wait says so at once"
        );
        let in_a_moment = Patience::Until(Instant::now() + Duration::from_millis(50));
        assert_eq!(
            get(&queue, in_a_moment),
            Err(Error::Empty),
            "it may come back yet"
        );
        let others = [getter(&queue), getter(&queue)];
        until_waiting(&queue, |s| s.waiting_getters, 2);
        holder.signal(libc::SIGKILL);
        assert_eq!(outcome(holder), KILLED);
        // One gets it; the other one is in the same process, and waits no longer.
        let mut got: Vec<_> = others.map(|other| other.join().unwrap()).into();
        got.sort_by_key(Result::is_err);
        assert_eq!(got, [Ok(vec![0]), Err(Error::ShutDown)]);
        queue.task_done().unwrap();
        join(&queue, Patience::NoWait).unwrap();
        assert_eq!(is_sound(&queue, "all done").redeliveries, 1);
    }
}

/// The last item in hand is finished, left or set aside: the getters of other processes end.
#[test]
fn getters_end_with_the_last_item_in_hand() {
    type Ends = fn(&Arc<Queue>);
    let ends: [(&str, Ends); 3] = [
        ("done", |queue| queue.task_done().unwrap()),
        ("left", |queue| queue.leave(Leave::Clean).unwrap()),
        ("set aside", |queue| {
            assert_eq!(get(queue, Patience::NoWait), Err(Error::ShutDown));
        }),
    ];
    for (what, end) in ends {
        let queue = with_items(&ACKNOWLEDGED, 1);
        let pipe = Queue::create(&PLAIN).unwrap();
        let holder = Child::run(|| {
            assert_eq!(get(&queue, Patience::NoWait).unwrap(), [0]);
            put(&pipe, b"taken", Patience::Forever).unwrap();
            until_waiting(&queue, |s| s.waiting_getters, 2);
            end(&queue);
            assert_eq!(get(&pipe, soon()).unwrap(), b"end");
        });
        assert_eq!(get(&pipe, soon()).unwrap(), b"taken");
        queue.shut_down(false).unwrap();
        for other in [getter(&queue), getter(&queue)] {
            assert_eq!(other.join().unwrap(), Err(Error::ShutDown), "{what}");
        }
        put(&pipe, b"end", Patience::Forever).unwrap();
        assert_eq!(outcome(holder), 0, "{what}");
        is_sound(&queue, what);
    }
}

/// A process that has an item in hand is not waited for by itself: its getter may be the one that finishes
/// it.
#[test]
fn a_get_beside_an_own_item_does_not_wait() {
    for begins in [false, true] {
        let queue = with_items(&ACKNOWLEDGED, 1);
        if begins {
            acknowledge(&queue);
        }
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), [0]);
        queue.shut_down(false).unwrap();
        assert_eq!(getter(&queue).join().unwrap(), Err(Error::ShutDown));
        assert_eq!(get(&queue, soon()), Err(Error::ShutDown));
    }
}

/// Neither for an item that another process has in hand.
#[test]
fn a_get_beside_an_own_item_waits_for_no_other() {
    let queue = with_items(&ACKNOWLEDGED, 2);
    acknowledge(&queue);
    assert_eq!(get(&queue, Patience::NoWait).unwrap(), [0]);
    let holder = Child::run(|| {
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), [1]);
        loop {
            thread::park();
        }
    });
    until("taken", || queue.is_empty());
    queue.shut_down(false).unwrap();
    // It has the patience to wait, and does not.
    assert_eq!(get(&queue, soon()), Err(Error::ShutDown));
    queue.task_done().unwrap();
    let in_a_moment = Patience::Until(Instant::now() + Duration::from_millis(50));
    assert_eq!(
        get(&queue, in_a_moment),
        Err(Error::Empty),
        "it has none any more"
    );
    holder.signal(libc::SIGKILL);
    assert_eq!(outcome(holder), KILLED);
    assert_eq!(get(&queue, soon()).unwrap(), [1]);
}

fn hold(queue: &Arc<Queue>, patience: Patience) -> Result<Held, Error> {
    let mut buffer = Buffer::default();
    wait(patience, |wait| queue.hold(&mut buffer, wait)).map(|(_, held)| held)
}

fn settle(queue: &Queue, held: &Held, verdict: Verdict) {
    assert_eq!(wait(soon(), |wait| queue.settle(held, verdict, wait)), Ok(true));
}

fn next(queue: &Arc<Queue>, in_hand: &mut Option<InHand>, patience: Patience) -> Result<Vec<u8>, Error> {
    let mut buffer = Buffer::default();
    match wait(patience, |wait| queue.get_next(in_hand, &mut buffer, wait))? {
        Delivery::Copied => Ok(buffer.bytes().to_vec()),
        Delivery::Lent(lent) => Ok(lent.bytes().to_vec()),
    }
}

/// Takes an item by a lease and finishes it; or by a loop, which then ends.
fn take_by(is_lease: bool, queue: &Arc<Queue>, patience: Patience) -> Result<(), Error> {
    if is_lease {
        let held = hold(queue, patience)?;
        settle(queue, &held, Verdict::Done);
        return Ok(());
    }
    let mut in_hand = None;
    next(queue, &mut in_hand, patience)?;
    assert_eq!(next(queue, &mut in_hand, patience), Err(Error::ShutDown));
    Ok(())
}

/// A lease and a loop wait for what another thread of their process has in hand, and take it if it comes
/// back.
#[test]
fn leases_and_loops_wait_for_the_items_of_other_threads() {
    for is_lease in [false, true] {
        for (verdict, found) in [
            (Verdict::Failed, Ok(())),
            (Verdict::Released, Ok(())),
            (Verdict::Done, Err(Error::ShutDown)),
            (Verdict::Rejected, Err(Error::ShutDown)),
        ] {
            let queue = with_items(&ACKNOWLEDGED, 1);
            let held = hold(&queue, Patience::NoWait).unwrap();
            queue.shut_down(false).unwrap();
            let others = [0; 3].map(|_| {
                let here = queue.clone();
                thread::spawn(move || take_by(is_lease, &here, Patience::Forever))
            });
            until_waiting(&queue, |s| s.waiting_getters, 3);
            settle(&queue, &held, verdict);
            let mut got = others.map(|other| other.join().unwrap());
            got.sort_by_key(Result::is_err);
            assert_eq!(
                got,
                [found, Err(Error::ShutDown), Err(Error::ShutDown)],
                "{verdict:?}"
            );
            join(&queue, Patience::NoWait).unwrap();
            is_sound(&queue, "all done");
        }
    }
}

/// A thread that has an item in hand waits for none: neither in a loop inside another, nor in a lease.
#[test]
fn no_lease_or_loop_waits_for_its_own_thread() {
    let queue = with_items(&ACKNOWLEDGED, 3);
    let mut outer = None;
    assert_eq!(next(&queue, &mut outer, soon()).unwrap(), [0]);
    let sibling = thread::spawn({
        let queue = queue.clone();
        move || {
            // Behind more items of this thread the other's is found, too.
            let first = hold(&queue, soon()).unwrap();
            let second = hold(&queue, soon()).unwrap();
            until("shut down", || queue.is_shut_down());
            assert_eq!(hold(&queue, Patience::Forever).map(drop), Err(Error::ShutDown));
            thread::park();
            settle(&queue, &first, Verdict::Done);
            settle(&queue, &second, Verdict::Failed);
        }
    });
    until("taken", || queue.is_empty());
    queue.shut_down(false).unwrap();
    let mut inner = None;
    assert_eq!(next(&queue, &mut inner, Patience::Forever), Err(Error::ShutDown));
    assert_eq!(hold(&queue, Patience::Forever).map(drop), Err(Error::ShutDown));
    sibling.thread().unpark();
    // It has none any more, and takes what comes back.
    assert_eq!(next(&queue, &mut outer, Patience::Forever).unwrap(), [2]);
    sibling.join().unwrap();
    assert_eq!(next(&queue, &mut outer, Patience::Forever), Err(Error::ShutDown));
    assert_eq!(is_sound(&queue, "all done").unfinished, 0);
}

/// A thread has failed with an item in hand, which no thread may come to settle: the loops and leases of its
/// process end, and the item comes back when the process ends.
#[test]
fn no_lease_or_loop_waits_for_a_thread_that_has_ended() {
    for is_lease in [false, true] {
        let queue = with_items(&ACKNOWLEDGED, 1);
        acknowledge(&queue);
        let here = queue.clone();
        let child = Child::run(move || {
            let last = here.clone();
            let failed = thread::spawn(move || hold(&last, soon()).map(drop));
            failed.join().unwrap().unwrap();
            here.shut_down(false).unwrap();
            assert_eq!(take_by(is_lease, &here, Patience::Forever), Err(Error::ShutDown));
            // SAFETY: ends this process, as a crash does.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        });
        assert_eq!(outcome(child), KILLED);
        assert_eq!(take_by(is_lease, &queue, soon()), Ok(()));
        is_sound(&queue, "all done");
    }
}

/// A thread has taken an item by a plain get, and finishes it when the loop, or the lease, has ended: they do
/// not wait for it, also if they wait since before the shutdown. Those of other processes do.
#[test]
fn no_lease_or_loop_waits_for_what_its_process_took_without_a_name() {
    for is_lease in [false, true] {
        for waits_before in [false, true] {
            let queue = with_items(&ACKNOWLEDGED, 1);
            acknowledge(&queue);
            assert_eq!(get(&queue, Patience::NoWait).unwrap(), [0]);
            let here = queue.clone();
            let ends = move || take_by(is_lease, &here, soon());
            let own = if waits_before {
                let own = thread::spawn(ends);
                until_waiting(&queue, |s| s.waiting_getters, 1);
                queue.shut_down(false).unwrap();
                own
            } else {
                queue.shut_down(false).unwrap();
                thread::spawn(ends)
            };
            assert_eq!(own.join().unwrap(), Err(Error::ShutDown));
            let other = Child::run(|| {
                assert_eq!(take_by(is_lease, &queue, soon()), Err(Error::ShutDown));
            });
            until_waiting(&queue, |s| s.waiting_getters, 1);
            queue.task_done().unwrap();
            assert_eq!(outcome(other), 0);
            is_sound(&queue, "all done");
        }
    }
}

/// Beside such an item it waits for those of others still.
#[test]
fn a_lease_or_loop_waits_for_others_beside_what_its_process_took() {
    for is_lease in [false, true] {
        let queue = with_items(&ACKNOWLEDGED, 2);
        acknowledge(&queue);
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), [0]);
        let worker = holder(&queue);
        queue.shut_down(false).unwrap();
        let here = queue.clone();
        let own = thread::spawn(move || take_by(is_lease, &here, soon()));
        until_waiting(&queue, |s| s.waiting_getters, 1);
        worker.signal(libc::SIGKILL);
        assert_eq!(outcome(worker), KILLED);
        assert_eq!(own.join().unwrap(), Ok(()));
        queue.task_done().unwrap();
        assert_eq!(is_sound(&queue, "all done").unfinished, 0);
    }
}

/// A process in which very many threads have taken items is forked: those threads are not in the child, whose
/// own ones are known to live. The forking process is one of its own, because meanwhile the threads of other
/// tests would have no place in the table of threads.
#[test]
fn a_child_does_not_count_the_threads_of_its_parent() {
    let parent = Child::run(fork_beside_many_threads);
    assert_eq!(outcome(parent), 0);
}

fn fork_beside_many_threads() {
    const MANY: usize = 4200;
    let queue = with_items(&ACKNOWLEDGED, 0);
    for _ in 0..MANY + 2 {
        put(&queue, b"item", Patience::NoWait).unwrap();
    }
    let (begun, gate) = (AtomicUsize::new(0), Mutex::new(()));
    let closed = gate.lock().unwrap();
    thread::scope(|scope| {
        for _ in 0..MANY {
            let small = thread::Builder::new().stack_size(128 << 10);
            let lives = || {
                let held = hold(&queue, soon()).unwrap();
                begun.fetch_add(1, Ordering::Relaxed);
                drop(gate.lock());
                settle(&queue, &held, Verdict::Done);
            };
            small.spawn_scoped(scope, lives).unwrap();
        }
        until("taken", || begun.load(Ordering::Relaxed) == MANY);
        let child = Child::run(|| {
            let here = with_items(&ACKNOWLEDGED, 1);
            let holder = here.clone();
            let taken = thread::spawn(move || {
                let held = hold(&holder, soon()).unwrap();
                until("shut down", || holder.is_shut_down());
                until_waiting(&holder, |s| s.waiting_getters, 1);
                settle(&holder, &held, Verdict::Failed);
            });
            until("taken", || here.is_empty());
            here.shut_down(false).unwrap();
            assert_eq!(take_by(true, &here, Patience::Forever), Ok(()));
            taken.join().unwrap();
        });
        let ended = outcome(child);
        drop(closed);
        assert_eq!(ended, 0);
    });
}

/// However many items its siblings have, a lease that cannot tell whether one is its own does not wait.
#[test]
fn a_lease_beside_very_many_of_its_siblings() {
    const MANY: usize = 5000;
    let queue = with_items(&ACKNOWLEDGED, 0);
    for _ in 0..=MANY {
        put(&queue, b"item", Patience::NoWait).unwrap();
    }
    let own = hold(&queue, soon()).unwrap();
    let here = queue.clone();
    let (tell, told) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    let holder = thread::spawn(move || {
        let holds: Vec<_> = (0..MANY).map(|_| hold(&here, soon()).unwrap()).collect();
        tell.send(holds).unwrap();
        // What a thread has taken that ends is not waited for.
        ends.recv().unwrap_err();
    });
    let holds = told.recv().unwrap();
    queue.shut_down(false).unwrap();
    assert_eq!(hold(&queue, Patience::Forever).map(drop), Err(Error::ShutDown));
    for held in holds.iter().chain([&own]) {
        settle(&queue, held, Verdict::Done);
    }
    assert_eq!(hold(&queue, Patience::Forever).map(drop), Err(Error::ShutDown));
    drop(end);
    holder.join().unwrap();
    assert_eq!(is_sound(&queue, "all done").unfinished, 0);
}

/// What a thread had taken before it began to run tasks, it settles after them: no task waits for it.
#[test]
fn a_task_does_not_wait_for_its_thread() {
    let queue = with_items(&ACKNOWLEDGED, 1);
    let held = hold(&queue, soon()).unwrap();
    queue.shut_down(false).unwrap();
    let may_return = || wait(Patience::NoWait, |wait| queue.may_return(Own::OfCaller, wait)).unwrap();
    {
        let _acting = Acting::of_task(1);
        assert!(!may_return());
    }
    let here = queue.clone();
    let of_another_thread = thread::spawn(move || {
        let _acting = Acting::of_task(2);
        wait(Patience::NoWait, |wait| here.may_return(Own::OfCaller, wait)).unwrap()
    });
    assert!(of_another_thread.join().unwrap());
    settle(&queue, &held, Verdict::Done);
}

/// A task that blocks its thread waits for no item of its process: the thread's other tasks could not finish
/// theirs. One that does not block may wait for them.
#[test]
fn a_task_that_blocks_its_thread_does_not_wait_for_its_siblings() {
    let queue = with_items(&ACKNOWLEDGED, 1);
    let held = {
        let _acting = Acting::of_task(1);
        hold(&queue, soon()).unwrap()
    };
    queue.shut_down(false).unwrap();
    let may_return = || wait(Patience::NoWait, |wait| queue.may_return(Own::OfCaller, wait)).unwrap();
    {
        let _acting = Acting::of_task(2);
        assert_eq!(hold(&queue, Patience::Forever).map(drop), Err(Error::ShutDown));
        assert!(may_return());
    }
    {
        let _acting = Acting::of_task(1);
        assert!(!may_return());
    }
    settle(&queue, &held, Verdict::Failed);
    assert!(may_return());
}

/// A program never acknowledges: what was set aside keeps no getter waiting.
#[test]
fn a_queue_that_is_never_acknowledged_ends() {
    let queue = with_items(&ACKNOWLEDGED, 200);
    let worker = Child::run(|| {
        for item in 0..200 {
            assert_eq!(get(&queue, Patience::NoWait).unwrap(), [item]);
        }
        assert_eq!(get(&queue, Patience::NoWait), Err(Error::Empty));
        queue.shut_down(false).unwrap();
        loop {
            thread::park();
        }
    });
    until("shut down", || queue.is_shut_down());
    assert_eq!(get(&queue, soon()), Err(Error::ShutDown));
    worker.signal(libc::SIGKILL);
    assert_eq!(outcome(worker), KILLED);
}

/// However many leases of others are set aside, a worker that has an item in hand is found behind them.
#[test]
fn an_item_in_hand_is_found_behind_many_that_are_set_aside() {
    const OF_EACH: usize = 256;
    let (queue, told) = (Queue::create(&ACKNOWLEDGED).unwrap(), with_items(&PLAIN, 0));
    let hoarders: Vec<_> = (0..17)
        .map(|_| {
            let hoarder = Child::run(|| {
                for _ in 0..OF_EACH {
                    put(&queue, b"aside", Patience::NoWait).unwrap();
                    get(&queue, Patience::NoWait).unwrap();
                }
                assert_eq!(get(&queue, Patience::NoWait), Err(Error::Empty));
                put(&told, b"done", Patience::NoWait).unwrap();
                loop {
                    thread::park();
                }
            });
            assert_eq!(get(&told, soon()).unwrap(), b"done");
            hoarder
        })
        .collect();
    put(&queue, b"item", Patience::NoWait).unwrap();
    let worker = holder(&queue);
    queue.shut_down(false).unwrap();
    let in_a_moment = Patience::Until(Instant::now() + Duration::from_millis(50));
    assert_eq!(get(&queue, in_a_moment), Err(Error::Empty), "it may come back");
    worker.signal(libc::SIGKILL);
    assert_eq!(outcome(worker), KILLED);
    assert_eq!(get(&queue, soon()).unwrap(), b"item");
    drop(hoarders);
}

/// A get that does not wait finds nothing, the item comes back, and only then its caller asks whether it may.
#[test]
fn an_item_that_has_come_back_may_return() {
    let may_return =
        |queue: &Queue| wait(Patience::NoWait, |wait| queue.may_return(Own::OfProcess, wait)).unwrap();
    let queue = with_items(&ACKNOWLEDGED, 2);
    queue.shut_down(false).unwrap();
    assert!(may_return(&queue));
    get(&queue, Patience::NoWait).unwrap();
    assert!(may_return(&queue), "an own item in hand, beside a ready one");
    get(&queue, Patience::NoWait).unwrap();
    assert!(!may_return(&queue));
    queue.shut_down(true).unwrap();
    assert!(!may_return(&queue));
}

/// An attempt discards nothing, however much is left: its caller may hold a lock of its own.
#[test]
fn an_attempt_leaves_the_discarding_to_the_next_call() {
    let shut_down = |queue: &Queue, patience| wait(patience, |wait| queue.shut_down_within(true, wait));
    let queue = with_items(&PLAIN, 200);
    assert_eq!(shut_down(&queue, Patience::TryLock), Err(Error::Busy));
    assert!(queue.is_shut_down() && queue.is_empty());
    assert_eq!(shut_down(&queue, Patience::Forever), Ok(()));
    assert_eq!(is_sound(&queue, "closed").discarded, 200);
    assert_eq!(shut_down(&queue, Patience::TryLock), Ok(()));
    let empty = with_items(&PLAIN, 1);
    get(&empty, Patience::NoWait).unwrap();
    assert_eq!(shut_down(&empty, Patience::TryLock), Ok(()));
}

/// What was discarded leaves memory, which goes back to the system: by the shutdown itself; or, if that left
/// items over, by a get that discards them.
#[test]
fn the_memory_of_what_is_discarded_is_given_back() {
    const MEBIBYTE: usize = 1 << 20;
    for is_cut_short in [false, true] {
        let queue = Queue::create(&PLAIN).unwrap();
        let payload = vec![1; MEBIBYTE];
        for _ in 0..50 {
            put(&queue, &payload, Patience::NoWait).unwrap();
        }
        if is_cut_short {
            let attempt = wait(Patience::TryLock, |wait| queue.shut_down_within(true, wait));
            assert_eq!(attempt, Err(Error::Busy));
            assert_eq!(get(&queue, Patience::NoWait), Err(Error::ShutDown));
        } else {
            queue.shut_down(true).unwrap();
        }
        let s = is_sound(&queue, "closed");
        assert!(s.memory_bytes < 20 * MEBIBYTE as u64, "{s:?}");
    }
}

/// What comes back after an immediate shutdown is discarded, and a join ends.
#[test]
fn what_comes_back_to_a_closed_queue_is_discarded() {
    let queue = with_items(&ACKNOWLEDGED, 2);
    acknowledge(&queue);
    let holder = Child::run(|| {
        assert_eq!(get(&queue, Patience::NoWait).unwrap(), [0]);
        loop {
            thread::park();
        }
    });
    until("taken", || queue.len() == 1);
    queue.shut_down(true).unwrap();
    let joined = joiner(&queue);
    until_waiting(&queue, |s| s.waiting_joiners, 1);
    holder.signal(libc::SIGKILL);
    assert_eq!(outcome(holder), KILLED);
    joined.join().unwrap().unwrap();
    let s = is_sound(&queue, "closed");
    assert_eq!((s.discarded, s.unfinished, s.redeliveries), (2, 0, 0));
    assert_eq!(get(&queue, soon()), Err(Error::ShutDown));
}

fn is_readable(fd: RawFd) -> bool {
    let mut polled = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the call reads and writes one struct.
    unsafe { libc::poll(&raw mut polled, 1, 0) == 1 }
}

/// A process takes the only item, and keeps it in hand.
fn holder(queue: &Arc<Queue>) -> Child {
    let holder = Child::run(|| {
        get(queue, Patience::NoWait).unwrap();
        loop {
            thread::park();
        }
    });
    until("taken", || queue.is_empty());
    holder
}

/// The descriptor is readable although an item may come back: the watcher's own process may have the last
/// item in hand, and waits for the descriptor before it says that it is done.
#[test]
fn a_watcher_learns_it_beside_an_item_in_hand() {
    for is_own in [false, true] {
        let queue = with_items(&ACKNOWLEDGED, 1);
        let fd = wait(soon(), |wait| queue.watch(wait)).unwrap();
        let _holder = (!is_own).then(|| holder(&queue));
        if is_own {
            get(&queue, Patience::NoWait).unwrap();
        }
        until("drained", || !is_readable(fd));
        queue.shut_down(false).unwrap();
        assert!(is_readable(fd));
        assert_eq!(get(&queue, Patience::NoWait), Err(Error::ShutDown));
        assert!(is_readable(fd), "the next get that does not wait says so, too");
        let may_return = wait(Patience::NoWait, |wait| queue.may_return(Own::OfProcess, wait));
        assert_eq!(may_return, Ok(!is_own));
        is_sound(&queue, "watched");
    }
}

/// A process that has learned of the notifier in its shutdown tells the others where it has it open.
#[test]
fn a_process_that_shuts_down_announces_the_notifier() {
    let pipe_of = |fd| {
        // SAFETY: the call writes one struct, for which all zeros are a value.
        let stat = unsafe {
            let mut stat = std::mem::zeroed::<libc::stat>();
            assert_eq!(libc::fstat(fd, &raw mut stat), 0);
            stat
        };
        stat.st_ino
    };
    let queue = with_items(&PLAIN, 0);
    let go_on = Queue::create(&PLAIN).unwrap();
    let other = Child::run(|| {
        assert_eq!(get(&go_on, soon()).unwrap(), b"go on");
        queue.shut_down(false).unwrap();
        put(&go_on, b"shut down", Patience::NoWait).unwrap();
        loop {
            thread::park();
        }
    });
    let first = Queue::create(&PLAIN).unwrap();
    let third = Child::run(|| {
        let pipe = get(&first, soon()).unwrap();
        let fd = wait(soon(), |wait| queue.watch(wait)).unwrap();
        assert_eq!(pipe, pipe_of(fd).to_le_bytes());
    });
    let told = Queue::create(&PLAIN).unwrap();
    let watcher = Child::run(|| {
        let fd = wait(soon(), |wait| queue.watch(wait)).unwrap();
        put(&told, &pipe_of(fd).to_le_bytes(), Patience::NoWait).unwrap();
        loop {
            thread::park();
        }
    });
    let pipe = get(&told, soon()).unwrap();
    put(&go_on, b"go on", Patience::NoWait).unwrap();
    until("shut down", || queue.is_shut_down());
    until("told", || {
        go_on.len() == 1 && get(&go_on, soon()).unwrap() == b"shut down"
    });
    watcher.signal(libc::SIGKILL);
    assert_eq!(outcome(watcher), KILLED);
    put(&first, &pipe, Patience::NoWait).unwrap();
    assert_eq!(outcome(third), 0);
    drop(other);
}

/// A descriptor is readable once a get would say that the queue was shut down.
#[test]
fn a_watcher_learns_it() {
    for is_immediate in [false, true] {
        let queue = with_items(&PLAIN, 1);
        let fd = wait(soon(), |wait| queue.watch(wait)).unwrap();
        queue.shut_down(is_immediate).unwrap();
        assert!(is_readable(fd));
        if !is_immediate {
            get(&queue, Patience::NoWait).unwrap();
            assert!(is_readable(fd), "the next get does not wait");
        }
        assert_eq!(get(&queue, Patience::NoWait), Err(Error::ShutDown));
        assert!(is_readable(fd));
        let awaited = wait(soon(), |wait| queue.await_item(wait));
        assert_eq!(awaited, Err(Error::ShutDown));
    }
}

/// While an item is delayed, a get that does not wait finds none, and does not say that the queue has ended:
/// then no descriptor is readable, however the item came to be delayed. It is when the item is due, and when
/// the last one is taken or discarded.
#[test]
fn a_watcher_waits_for_what_is_delayed() {
    const SHORT: Duration = Duration::from_millis(50);
    const HOUR: Duration = Duration::from_secs(3600);
    let queue = with_items(&ACKNOWLEDGED, 1);
    let fd = wait(soon(), |wait| queue.watch(wait)).unwrap();
    let agrees = |expected: &Result<Vec<u8>, Error>, what: &str| {
        let is_told = !matches!(expected, Err(Error::Empty));
        assert_eq!(
            (is_readable(fd), queue.is_ready(Awaited::Item)),
            (is_told, is_told),
            "{what}"
        );
    };
    wait(soon(), |wait| queue.put_delayed(&[b"later"], HOUR, wait)).unwrap();
    let held = hold(&queue, Patience::NoWait).unwrap();
    // The pipe tells of a time that is earlier than all, until a call has found no item.
    assert!(is_readable(fd) && !queue.is_ready(Awaited::Item));
    agrees(&get(&queue, Patience::NoWait), "open");
    queue.shut_down(false).unwrap();
    agrees(&get(&queue, Patience::NoWait), "one is delayed, one in hand");
    assert!(
        wait(soon(), |wait| queue.settle_after(
            &held,
            Verdict::Failed,
            SHORT,
            wait
        ))
        .unwrap()
    );
    // An item that is due earlier makes it readable once, and the get that finds nothing ends that.
    agrees(&get(&queue, Patience::NoWait), "two are delayed");
    until("due", || queue.len() == 1);
    assert!(is_readable(fd) && queue.is_ready(Awaited::Item));
    let held = hold(&queue, Patience::NoWait).unwrap();
    agrees(&Err(Error::Empty), "the other is delayed");
    settle(&queue, &held, Verdict::Done);
    agrees(
        &get(&queue, Patience::NoWait),
        "the other is delayed, none in hand",
    );
    queue.shut_down(true).unwrap();
    agrees(&get(&queue, Patience::NoWait), "it is discarded");
    assert_eq!(get(&queue, Patience::NoWait), Err(Error::ShutDown));
    is_sound(&queue, "closed");
}

/// The last delayed item goes: its taker's section tells the watchers that the queue has ended.
#[test]
fn a_watcher_learns_that_the_last_delayed_item_is_gone() {
    for options in [&PLAIN, &ACKNOWLEDGED] {
        let queue = with_items(options, 0);
        let fd = wait(soon(), |wait| queue.watch(wait)).unwrap();
        wait(soon(), |wait| {
            queue.put_delayed(&[b"later"], Duration::from_millis(20), wait)
        })
        .unwrap();
        queue.shut_down(false).unwrap();
        // It leaves in order, so that the item does not come back when it is found dead.
        let other = Child::run(|| {
            assert_eq!(get(&queue, soon()).unwrap(), b"later");
            queue.leave(Leave::Clean).unwrap();
        });
        assert_eq!(outcome(other), 0);
        assert!(is_readable(fd));
        assert_eq!(get(&queue, Patience::NoWait), Err(Error::ShutDown));
        // In the other order, and by a loop.
        let queue = with_items(options, 0);
        queue.shut_down(false).unwrap();
        let fd = wait(soon(), |wait| queue.watch(wait)).unwrap();
        assert!(is_readable(fd));
        assert_eq!(next(&queue, &mut None, Patience::Forever), Err(Error::ShutDown));
    }
}

/// A lease of a queue that was shut down is given back for later: a loop of another process waits until it is
/// due, and the descriptor is readable by then.
#[test]
fn what_is_to_come_back_later_is_waited_for() {
    let queue = with_items(&ACKNOWLEDGED, 1);
    queue.set_retry(Retry {
        first: 0.05,
        factor: 1.0,
        most: 1.0,
        jitter: 0.0,
    });
    let fd = wait(soon(), |wait| queue.watch(wait)).unwrap();
    let held = hold(&queue, Patience::NoWait).unwrap();
    queue.shut_down(false).unwrap();
    assert!(is_readable(fd), "a get that does not wait says that it has ended");
    let others: Vec<_> = (0..2)
        .map(|_| {
            Child::run(|| match take_by(false, &queue, Patience::Forever) {
                // SAFETY: ends this process.
                Ok(()) => unsafe { libc::_exit(7) },
                ended => assert_eq!(ended, Err(Error::ShutDown)),
            })
        })
        .collect();
    until_waiting(&queue, |s| s.waiting_getters, 2);
    let delay = queue.retry_delay(&held);
    assert!(
        wait(soon(), |wait| queue.settle_after(
            &held,
            Verdict::Failed,
            delay,
            wait
        ))
        .unwrap()
    );
    let mut ends: Vec<_> = others.into_iter().map(outcome).collect();
    ends.sort_unstable();
    assert_eq!(ends, [0, 7]);
    assert!(is_readable(fd));
    assert_eq!(is_sound(&queue, "all done").unfinished, 0);
}

/// A getter was handed an item before an immediate shutdown: it delivers it. If it dies instead, the item is
/// discarded.
#[test]
fn what_was_handed_is_taken_or_discarded() {
    for dies in [false, true] {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        acknowledge(&queue);
        let child = Child::run(|| {
            assert_eq!(get(&queue, Patience::Forever).unwrap(), b"item");
            queue.task_done().unwrap();
        });
        until("aged", || queue.check().unwrap().aged == 1);
        child.signal(libc::SIGSTOP);
        assert!(child.stops());
        put(&queue, b"item", Patience::NoWait).unwrap();
        assert!(queue.is_empty(), "it is handed");
        queue.shut_down(true).unwrap();
        child.signal(if dies { libc::SIGKILL } else { libc::SIGCONT });
        assert_eq!(outcome(child), if dies { KILLED } else { 0 });
        join(&queue, soon()).unwrap();
        let s = is_sound(&queue, "closed");
        assert_eq!((s.gets, s.discarded), if dies { (0, 1) } else { (1, 0) });
    }
}

#[cfg(feature = "fault-points")]
mod points {
    use super::*;
    use penstock_core::fault;

    const POINTS: &[&str] = &[
        "lock.taken",
        "shutdown.committed",
        "discard.unlinked",
        "aside.counting",
        "aside.noted",
        "aside.counted",
        "slot.freed",
        "discard.freed",
    ];

    fn killed_at(point: &str, hit: u64, queue: &Arc<Queue>, victim: impl FnOnce(&Arc<Queue>)) {
        let child = Child::run(|| {
            assert!(fault::arm(point, hit));
            victim(queue);
        });
        assert_eq!(outcome(child), KILLED, "it did not pass {point}");
    }

    /// The process that shuts the queue down dies at each step: either nothing has happened, or the shutdown
    /// took effect, and others complete it.
    #[test]
    fn death_at_each_step() {
        for options in [&PLAIN, &ACKNOWLEDGED] {
            for (point, hit) in POINTS.iter().flat_map(|point| [(point, 1), (point, 2)]) {
                if hit == 2 && *point == "shutdown.committed" {
                    continue;
                }
                let what = format!("{point}, time {hit}");
                let queue = with_items(options, 3);
                put(&queue, &[1; LARGE], Patience::NoWait).unwrap();
                if options.acknowledged {
                    acknowledge(&queue);
                    assert_eq!(get(&queue, Patience::NoWait).unwrap(), [0]);
                }
                killed_at(point, hit, &queue, |queue| queue.shut_down(true).unwrap());
                if *point == "lock.taken" && hit == 1 {
                    assert!(!queue.is_shut_down(), "{what}");
                    queue.shut_down(true).unwrap();
                }
                assert!(queue.is_shut_down() && queue.is_empty(), "{what}");
                assert_eq!(get(&queue, soon()), Err(Error::ShutDown), "{what}");
                assert_eq!(put(&queue, b"late", soon()), Err(Error::ShutDown), "{what}");
                if options.acknowledged {
                    queue.task_done().unwrap();
                    assert_eq!(queue.task_done(), Err(Error::TooManyDone), "{what}");
                }
                join(&queue, Patience::NoWait).unwrap();
                let s = is_sound(&queue, &what);
                let taken = u64::from(options.acknowledged);
                assert_eq!((s.discarded, s.gets), (4 - taken, taken), "{what}: {s:?}");
            }
        }
    }

    /// It dies right after the commit, in the critical section and before its wake-up calls: the waiters
    /// learn it all the same.
    #[test]
    fn death_before_the_waiters_are_woken() {
        for point in ["shutdown.committed", "unlock.before-wake"] {
            for is_immediate in [false, true] {
                let queue = with_items(
                    &Options {
                        maxsize: 1,
                        ..ACKNOWLEDGED
                    },
                    1,
                );
                let putters = [putter(&queue, b"late"), putter(&queue, b"late")];
                until_waiting(&queue, |s| s.waiting_putters, 2);
                killed_at(point, 1, &queue, |queue| queue.shut_down(is_immediate).unwrap());
                for putter in putters {
                    assert_eq!(putter.join().unwrap(), Err(Error::ShutDown), "{point}");
                }

                let queue = Queue::create(&PLAIN).unwrap();
                let getters = [getter(&queue), getter(&queue)];
                until_waiting(&queue, |s| s.waiting_getters, 2);
                killed_at(point, 1, &queue, |queue| queue.shut_down(is_immediate).unwrap());
                for getter in getters {
                    assert_eq!(getter.join().unwrap(), Err(Error::ShutDown), "{point}");
                }
            }
        }
    }

    /// The same beside many waiters, most of which have slices of 20 s and more: the one whose wake-up call
    /// is lost has a short one.
    #[test]
    fn death_before_many_waiters_are_woken() {
        const WAITERS: u64 = 800;
        for kind in ["putters", "getters"] {
            let queue = with_items(&ONE, u8::from(kind == "putters"));
            // No wait ends by itself.
            let for_long = Patience::Until(Instant::now() + Duration::from_secs(600));
            let waiters: Vec<_> = (0..WAITERS)
                .map(|_| {
                    let queue = queue.clone();
                    thread::spawn(move || match kind {
                        "putters" => put(&queue, b"late", for_long),
                        _ => get(&queue, for_long).map(drop),
                    })
                })
                .collect();
            until_waiting(&queue, |s| s.waiting_putters + s.waiting_getters, WAITERS);
            // They have aged, and have learned their places.
            until("aged", || queue.check().unwrap().aged == WAITERS);
            thread::sleep(Duration::from_secs(1));
            killed_at("unlock.before-wake", 1, &queue, |queue| {
                queue.shut_down(false).unwrap();
            });
            let end = Instant::now() + Duration::from_secs(12);
            while !waiters.iter().all(JoinHandle::is_finished) {
                assert!(Instant::now() < end, "{kind}: some sleep on");
                thread::yield_now();
            }
            let in_vain = waiters.into_iter().map(|waiter| waiter.join().unwrap());
            assert!(in_vain.eq(vec![Err(Error::ShutDown); WAITERS as usize]), "{kind}");
        }
    }

    /// It dies with items left over, beside a joiner that sleeps: the joiner discards the rest.
    #[test]
    fn a_joiner_completes_a_shutdown() {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        for item in 0..2000u32 {
            put(&queue, &item.to_le_bytes(), Patience::NoWait).unwrap();
        }
        let joined = joiner(&queue);
        until_waiting(&queue, |s| s.waiting_joiners, 1);
        killed_at("discard.freed", 300, &queue, |queue| {
            queue.shut_down(true).unwrap()
        });
        joined.join().unwrap().unwrap();
        assert_eq!(is_sound(&queue, "closed").discarded, 2000);
    }

    /// `task_done` for an item that is not in hand finishes none of those that are still to be discarded.
    #[test]
    fn what_is_left_over_is_not_finished() {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        for item in 0..2000u32 {
            put(&queue, &item.to_le_bytes(), Patience::NoWait).unwrap();
        }
        killed_at("discard.freed", 300, &queue, |queue| {
            queue.shut_down(true).unwrap()
        });
        assert_eq!(queue.task_done(), Err(Error::TooManyDone));
        // Other calls discard for some milliseconds only, and a joiner all that is left.
        join(&queue, soon()).unwrap();
        assert_eq!(is_sound(&queue, "closed").discarded, 2000);
    }

    /// A putter dies that found the queue shut down, with its payload written: its memory is freed.
    #[test]
    fn what_a_dead_putter_has_written_is_freed() {
        let queue = Queue::create(&PLAIN).unwrap();
        let child = Child::run(|| {
            assert!(fault::stop_at("claim.copied"));
            let here = Arc::clone(&queue);
            thread::spawn(move || put(&here, &[7; LARGE], Patience::NoWait));
            until("copied", fault::is_stopped);
            queue.shut_down(true).unwrap();
            assert!(fault::arm("lock.taken", 1));
            let _ = put(&queue, b"late", Patience::NoWait);
        });
        assert_eq!(outcome(child), KILLED);
        is_sound(&queue, "swept");
        assert_eq!(queue.check().unwrap().claimed, 0);
    }
}
