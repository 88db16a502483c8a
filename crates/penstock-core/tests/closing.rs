//! What a process keeps of a queue whose last handle it has closed.
#![cfg(not(loom))]

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use penstock_core::{Buffer, Delivery, Error, Id, Leave, Lent, Options, Patience, Queue, Remainder, View};

mod common;
#[path = "common/get.rs"]
mod get;

use common::{PLAIN, wait};

const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    ..PLAIN
};

const LARGE: usize = 300_000;

fn put(queue: &Queue, payload: &[u8]) {
    wait(Patience::NoWait, |wait| queue.put(&[payload], wait)).unwrap();
}

fn get(queue: &Arc<Queue>) -> Result<Vec<u8>, Error> {
    get::get(queue, Patience::NoWait)
}

fn get_lent(queue: &Arc<Queue>) -> Lent {
    let mut buffer = Buffer::default();
    match wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait)).unwrap() {
        Delivery::Lent(lent) => lent,
        Delivery::Copied => panic!("the payload is large"),
    }
}

/// A queue with one handle, as a binding opens it.
fn open(options: &Options) -> (Arc<Queue>, Arc<Remainder>) {
    let queue = Queue::create(options).unwrap();
    let remainder = queue.open_handle().unwrap();
    (queue, remainder)
}

fn hex(id: Id) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Descriptors that this process has of the queue's memory file.
fn descriptors(id: Id) -> usize {
    let name = format!("/memfd:penstock-{}", hex(id));
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|path| path.to_string_lossy().starts_with(&name))
        .count()
}

fn mappings(id: Id) -> usize {
    fs::read_to_string("/proc/self/maps")
        .unwrap()
        .matches(&hex(id))
        .count()
}

fn in_queue_and_unfinished(queue: &Queue) -> (u64, u64) {
    let statistics = queue.statistics().unwrap();
    (statistics.queued, statistics.unfinished)
}

/// Participants, as a process that comes later sees them. The caller has nothing in hand.
fn others(fd: OwnedFd) -> u64 {
    Queue::attach(fd).unwrap().statistics().unwrap().participants - 1
}

#[test]
fn with_nothing_in_hand_all_goes_but_the_mapping() {
    for options in [PLAIN, ACKNOWLEDGED] {
        let (queue, remainder) = open(&options);
        let id = queue.id();
        put(&queue, b"stays");
        wait(Patience::NoWait, |wait| queue.watch(wait)).unwrap();
        let fd = queue.duplicate_fd().unwrap();
        assert_eq!(descriptors(id), 2, "of the memory, and the test's");
        remainder.close(queue);
        assert_eq!(descriptors(id), 1);
        assert!(mappings(id) > 0);
        assert!(Queue::by_id(id).is_none());
        assert_eq!(others(fd), 0);
        // The remainder still answers, each time without a descriptor.
        for _ in 0..2 {
            let again = remainder.reopen().unwrap();
            assert_eq!(again.len(), 1);
            assert_eq!(in_queue_and_unfinished(&again).0, 1);
            assert_eq!(descriptors(id), 0);
            remainder.close(again);
        }
        assert_eq!(descriptors(id), 0);
        drop(remainder);
        assert_eq!(mappings(id), 0);
    }
}

#[test]
fn the_last_of_several_handles_closes() {
    let (queue, remainder) = open(&PLAIN);
    let id = queue.id();
    let second = Queue::by_id(id).unwrap();
    assert!(Arc::ptr_eq(&remainder, &second.open_handle().unwrap()));
    put(&queue, b"x");
    remainder.close(queue);
    assert_eq!(descriptors(id), 1);
    assert_eq!(get(&second).unwrap(), b"x");
    remainder.close(second);
    assert_eq!(descriptors(id), 0);
}

#[test]
fn a_lease_keeps_the_membership_without_descriptors() {
    let (queue, remainder) = open(&ACKNOWLEDGED);
    let id = queue.id();
    for item in [b"a", b"b"] {
        put(&queue, item);
        get(&queue).unwrap();
    }
    wait(Patience::NoWait, |wait| queue.watch(wait)).unwrap();
    wait(Patience::NoWait, |wait| queue.join(wait)).unwrap_err();
    let fd = queue.duplicate_fd().unwrap();
    remainder.close(queue);
    assert_eq!(descriptors(id), 1, "the test's");
    let queue = remainder.reopen().unwrap();
    let statistics = queue.statistics().unwrap();
    assert_eq!((statistics.participants, statistics.taken), (1, 2));
    queue.task_done().unwrap();
    remainder.close(queue);
    let queue = remainder.reopen().unwrap();
    assert_eq!(in_queue_and_unfinished(&queue), (0, 1));
    queue.task_done().unwrap();
    wait(Patience::NoWait, |wait| queue.join(wait)).unwrap();
    remainder.close(queue);
    // The last lease has given the membership back.
    assert_eq!(others(fd), 0);
    assert_eq!(descriptors(id), 0);
}

#[test]
fn a_lease_ends_with_the_remainder() {
    let (queue, remainder) = open(&ACKNOWLEDGED);
    put(&queue, b"x");
    get(&queue).unwrap();
    let fd = queue.duplicate_fd().unwrap();
    remainder.close(queue);
    drop(remainder);
    let again = Queue::attach(fd).unwrap();
    let statistics = again.statistics().unwrap();
    // As if the process had dropped its handle: it has left in order.
    assert_eq!((statistics.participants, statistics.unfinished), (1, 1));
    assert_eq!(get(&again), Err(Error::Empty));
}

#[test]
fn a_leave_at_the_end_of_the_process_finds_what_is_in_hand() {
    for (how, queued) in [(Leave::Clean, 0), (Leave::Crashed, 1)] {
        let (queue, remainder) = open(&ACKNOWLEDGED);
        let id = queue.id();
        put(&queue, b"x");
        get(&queue).unwrap();
        wait(Patience::NoWait, |wait| queue.join(wait)).unwrap_err();
        remainder.close(queue);
        penstock_core::leave_by_id(id, how).unwrap();
        let queue = remainder.reopen().unwrap();
        assert_eq!(in_queue_and_unfinished(&queue), (queued, 1));
        remainder.close(queue);
    }
}

#[test]
fn a_lent_payload_keeps_the_queue_and_gives_it_back() {
    for is_remainder_dropped_first in [false, true] {
        let (queue, remainder) = open(&PLAIN);
        let id = queue.id();
        put(&queue, &[7; LARGE]);
        let lent = Arc::new(get_lent(&queue));
        lent.keep().unwrap();
        let view = View::new(&lent, 0..LARGE).unwrap();
        let fd = queue.duplicate_fd().unwrap();
        remainder.close(queue);
        assert_eq!(descriptors(id), 1, "the test's");
        assert!(lent.bytes().iter().all(|byte| *byte == 7));
        let mut remainder = Some(remainder);
        if is_remainder_dropped_first {
            remainder = None;
        }
        // A write goes to this process's own copy.
        // SAFETY: the view is this test's own.
        #[allow(unsafe_code)]
        unsafe {
            view.pointer().write(1);
        }
        drop((view, lent));
        assert_eq!(others(fd), 0);
        drop(remainder);
        assert_eq!((descriptors(id), mappings(id)), (0, 0));
    }
}

#[test]
fn a_lent_payload_of_an_unfinished_item_may_go_first_or_last() {
    for is_done_first in [false, true] {
        let (queue, remainder) = open(&ACKNOWLEDGED);
        put(&queue, &[7; LARGE]);
        let mut lent = Some(get_lent(&queue));
        let fd = queue.duplicate_fd().unwrap();
        remainder.close(queue);
        if !is_done_first {
            lent = None;
        }
        let queue = remainder.reopen().unwrap();
        queue.task_done().unwrap();
        remainder.close(queue);
        drop(lent);
        let again = Queue::attach(fd).unwrap();
        let statistics = again.statistics().unwrap();
        assert_eq!((statistics.participants, statistics.unfinished), (1, 0));
        assert_eq!(again.check().unwrap().findings, []);
    }
}

#[test]
fn a_queue_on_its_way_keeps_its_descriptor() {
    let (queue, remainder) = open(&PLAIN);
    let id = queue.id();
    put(&queue, b"x");
    let kept = queue.keep_open();
    remainder.close(queue);
    assert_eq!(descriptors(id), 1);
    drop(kept);
    assert_eq!(descriptors(id), 0);
    assert!(Queue::by_id(id).is_none());
}

#[test]
fn what_is_in_hand_is_found_when_the_queue_is_opened_again() {
    let (queue, remainder) = open(&ACKNOWLEDGED);
    let id = queue.id();
    put(&queue, b"x");
    get(&queue).unwrap();
    let fd = queue.duplicate_fd().unwrap();
    remainder.close(queue);
    // It has no descriptor that could be passed on.
    assert!(Queue::by_id(id).is_none());
    let again = Queue::attach(fd).unwrap();
    assert!(Arc::ptr_eq(&remainder, &again.open_handle().unwrap()));
    assert!(Queue::by_id(id).is_some());
    again.task_done().unwrap();
    assert_eq!(again.statistics().unwrap().participants, 1);
    put(&again, &[1; LARGE]);
    assert_eq!(get(&again).unwrap(), [1; LARGE]);
    remainder.close(again);
    assert_eq!(descriptors(id), 0);
}

/// Two queues in one file, each with one handle.
fn open_pair(options: &Options) -> [(Arc<Queue>, Arc<Remainder>); 2] {
    Queue::create_pair(options).unwrap().map(|queue| {
        let remainder = queue.open_handle().unwrap();
        (queue, remainder)
    })
}

/// The two queues of a connection lie in one file: its descriptor goes with the last of them.
#[test]
fn a_queue_of_two_in_a_file_closes_for_itself() {
    let [(first, of_first), (second, of_second)] = open_pair(&ACKNOWLEDGED);
    let id = first.id();
    for queue in [&first, &second] {
        put(queue, b"x");
        get(queue).unwrap();
    }
    let fd = first.duplicate_fd().unwrap();
    assert_eq!(descriptors(id), 2, "of the memory, and the test's");
    of_first.close(first);
    assert_eq!(descriptors(id), 2);
    assert!(Queue::by_id(id).is_none());
    // The lease keeps the first one, without a descriptor, which the second one has.
    let again = of_first.reopen().unwrap();
    assert!(matches!(again.fd().err(), Some(Error::Closed)));
    assert_eq!(in_queue_and_unfinished(&again), (0, 1));
    put(&second, &[1; LARGE]);
    assert_eq!(get(&second).unwrap(), [1; LARGE]);
    again.task_done().unwrap();
    of_first.close(again);
    assert_eq!(descriptors(id), 2);
    second.task_done().unwrap();
    second.task_done().unwrap();
    let name = second.id();
    of_second.close(second);
    assert_eq!(descriptors(id), 1);
    // Each comes back with a descriptor of its own, and goes again.
    let second = Queue::attach_as(fd, name).unwrap().unwrap();
    let of_second = second.open_handle().unwrap();
    assert_eq!(descriptors(id), 1);
    let first = Queue::attach_as(second.duplicate_fd().unwrap(), id)
        .unwrap()
        .unwrap();
    let of_first = first.open_handle().unwrap();
    assert_eq!(descriptors(id), 1);
    for queue in [&first, &second] {
        put(queue, b"y");
        assert_eq!(get(queue).unwrap(), b"y");
        queue.task_done().unwrap();
        assert_eq!(queue.statistics().unwrap().participants, 1);
        assert_eq!(queue.check().unwrap().findings, []);
    }
    of_second.close(second);
    assert_eq!(descriptors(id), 1);
    of_first.close(first);
    assert_eq!(descriptors(id), 0);
}

/// A queue that is used without a descriptor grows through its mapping.
#[test]
fn reopened_over_the_mapping_it_puts_and_gets() {
    let (queue, remainder) = open(&PLAIN);
    remainder.close(queue);
    let queue = remainder.reopen().unwrap();
    for len in [20, 1000, LARGE, 4 << 20] {
        put(&queue, &vec![3; len]);
        assert_eq!(get(&queue).unwrap(), vec![3; len]);
    }
    assert!(matches!(queue.fd().err(), Some(Error::Closed)));
    remainder.close(queue);
}

/// Threads open, use, close and drop what they have in hand at once; the queue is whole afterwards, and
/// nothing is left.
#[test]
fn threads_close_and_open_at_once() {
    let (queue, remainder) = open(&ACKNOWLEDGED);
    let id = queue.id();
    let fd = queue.duplicate_fd().unwrap();
    remainder.close(queue);
    let end = Instant::now() + Duration::from_secs(2);
    thread::scope(|scope| {
        for number in 0..4 {
            let (remainder, fd) = (&remainder, &fd);
            scope.spawn(move || {
                let mut in_hand = None;
                while Instant::now() < end {
                    let queue = match number {
                        0 => {
                            let queue = Queue::attach(fd.try_clone().unwrap()).unwrap();
                            queue.open_handle().unwrap();
                            queue
                        }
                        _ => remainder.reopen().unwrap(),
                    };
                    if number == 0 {
                        wait(Patience::NoWait, |wait| queue.watch(wait)).unwrap();
                    }
                    put(&queue, &[number; LARGE]);
                    let next = get_lent(&queue);
                    assert!(next.bytes().iter().all(|byte| *byte == next.bytes()[0]));
                    queue.task_done().unwrap();
                    remainder.close(queue);
                    // After the close: the queue lives by it alone, or with the other threads.
                    in_hand = Some(next);
                }
                drop(in_hand);
            });
        }
    });
    let queue = remainder.reopen().unwrap();
    assert_eq!(queue.check().unwrap().findings, []);
    let statistics = queue.statistics().unwrap();
    assert_eq!((statistics.queued, statistics.participants), (0, 1));
    remainder.close(queue);
    assert_eq!(descriptors(id), 1, "the test's");
    drop(remainder);
    drop(fd);
    assert_eq!((descriptors(id), mappings(id)), (0, 0));
}

/// A handle that is opened beside the close of the last one finds the queue closed, or keeps it open with its
/// descriptor.
#[test]
fn a_handle_is_opened_while_the_last_one_is_closed() {
    const ROUNDS: u32 = 3000;
    let (queue, remainder) = open(&PLAIN);
    let id = queue.id();
    let fd = queue.duplicate_fd().unwrap();
    remainder.close(queue);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                let handle = Queue::attach_handle(fd.try_clone().unwrap(), id).unwrap();
                let (queue, of_queue) = handle.expect("the file is there");
                assert!(queue.fd().is_ok());
                of_queue.close(queue);
            }
            is_over.store(true, Relaxed);
        });
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                if let Some((queue, of_queue)) = Queue::open_handle_by_id(id).unwrap() {
                    assert!(queue.fd().is_ok());
                    assert!(Arc::ptr_eq(&of_queue, &remainder));
                    of_queue.close(queue);
                }
            }
        });
    });
    assert!(Queue::open_handle_by_id(id).unwrap().is_none());
    assert!(
        Queue::attach_handle(fd.try_clone().unwrap(), [0; 16])
            .unwrap()
            .is_none()
    );
    assert_eq!(descriptors(id), 1, "the test's");
    let again = remainder.reopen().unwrap();
    assert_eq!(again.check().unwrap().findings, []);
    remainder.close(again);
}

/// A notifier, too, goes while a payload is in hand, and the end of the loan does without it.
#[test]
fn the_notifier_goes_at_once() {
    let (queue, remainder) = open(&PLAIN);
    put(&queue, &[7; LARGE]);
    let number = wait(Patience::NoWait, |wait| queue.watch(wait)).unwrap();
    let pipe = || fs::read_link(format!("/proc/self/fd/{number}")).ok();
    let watched = pipe().unwrap();
    let lent = get_lent(&queue);
    remainder.close(queue);
    assert_ne!(pipe(), Some(watched));
    drop(lent);
    let again = remainder.reopen().unwrap();
    assert_eq!(again.check().unwrap().findings, []);
    remainder.close(again);
}
