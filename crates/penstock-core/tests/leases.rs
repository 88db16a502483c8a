//! Items that their holders settle by name: finished, released, failed, rejected; and what a process leaves
//! that dies while it settles one.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use penstock_core::{
    Batch, Buffer, DeadLetter, Death, Delivery, Error, Held, Leave, LetterTicket, Options, Patience, Queue,
    Verdict,
};

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
#[path = "common/stops.rs"]
mod stops;

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

fn put(queue: &Queue, payload: &[u8]) -> Result<(), Error> {
    wait(Patience::NoWait, |wait| queue.put(&[payload], wait)).map(drop)
}

fn settle(queue: &Queue, held: &Held, verdict: Verdict) -> Result<bool, Error> {
    wait(soon(), |wait| queue.settle(held, verdict, wait))
}

fn with_items(options: &Options, items: u8) -> Arc<Queue> {
    let queue = Queue::create(options).unwrap();
    for item in 0..items {
        put(&queue, &[item]).unwrap();
    }
    queue
}

/// Stops a child, and waits until it is stopped.
fn stop(child: &Child) {
    child.signal(libc::SIGSTOP);
    assert!(child.stops());
}

#[test]
fn what_is_done_is_finished() {
    let queue = with_items(&ACKNOWLEDGED, 2);
    let (item, held) = hold(&queue, Patience::NoWait).unwrap();
    assert_eq!((item, held.id(), held.deliveries()), (vec![0], 1, 1));
    assert!(queue.holds(&held));
    assert_eq!(settle(&queue, &held, Verdict::Done), Ok(true));
    assert!(!queue.holds(&held));
    let s = is_sound(&queue, "done");
    assert_eq!((s.unfinished, s.queued, s.gets), (1, 1, 1));
    for verdict in [
        Verdict::Done,
        Verdict::Released,
        Verdict::Failed,
        Verdict::Rejected,
    ] {
        assert_eq!(settle(&queue, &held, verdict), Ok(false), "{verdict:?}");
    }
    assert_eq!(is_sound(&queue, "again"), s);
}

#[test]
fn any_of_several_is_settled() {
    let queue = with_items(&ACKNOWLEDGED, 5);
    let held: Vec<Held> = (0..5)
        .map(|_| hold(&queue, Patience::NoWait).unwrap().1)
        .collect();
    for place in [3, 0, 4] {
        assert_eq!(settle(&queue, &held[place], Verdict::Done), Ok(true));
        is_sound(&queue, "one of several");
    }
    assert_eq!(settle(&queue, &held[2], Verdict::Released), Ok(true));
    assert_eq!(settle(&queue, &held[1], Verdict::Released), Ok(true));
    // In their old places.
    assert_eq!(hold(&queue, Patience::NoWait).unwrap().0, [1]);
    assert_eq!(hold(&queue, Patience::NoWait).unwrap().0, [2]);
    assert_eq!(is_sound(&queue, "released").unfinished, 2);
}

#[test]
fn what_is_released_comes_back_uncounted() {
    for len in [1, 1000, LARGE] {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        put(&queue, &vec![7; len]).unwrap();
        put(&queue, b"next").unwrap();
        for _ in 0..10 {
            let (item, held) = hold(&queue, Patience::NoWait).unwrap();
            assert_eq!((item.len(), held.id(), held.deliveries()), (len, 1, 1));
            assert_eq!(settle(&queue, &held, Verdict::Released), Ok(true));
            let s = is_sound(&queue, "released");
            assert_eq!((s.queued, s.unfinished, s.redeliveries), (2, 2, 0));
        }
    }
}

#[test]
fn what_fails_comes_back_and_counts() {
    let queue = with_items(&ACKNOWLEDGED, 2);
    for deliveries in 1..=3 {
        let (item, held) = hold(&queue, Patience::NoWait).unwrap();
        assert_eq!((item, held.id(), held.deliveries()), (vec![0], 1, deliveries));
        assert_eq!(settle(&queue, &held, Verdict::Failed), Ok(true));
        is_sound(&queue, "failed");
    }
    let s = is_sound(&queue, "dead");
    assert_eq!(
        (s.dead_letters, s.queued, s.unfinished, s.redeliveries),
        (1, 1, 1, 2)
    );
    let letters = queue.dead_letters().unwrap();
    assert_eq!((letters.len(), &letters[0].payload[..]), (1, &[0][..]));
}

#[test]
fn what_is_rejected_is_a_dead_letter_at_once() {
    let queue = with_items(&ACKNOWLEDGED, 1);
    let (_, held) = hold(&queue, Patience::NoWait).unwrap();
    assert_eq!(settle(&queue, &held, Verdict::Rejected), Ok(true));
    let s = is_sound(&queue, "rejected");
    assert_eq!((s.dead_letters, s.queued, s.unfinished), (1, 0, 0));
    let letters = queue.dead_letters().unwrap();
    assert_eq!((letters.len(), &letters[0].payload[..]), (1, &[0][..]));
    wait(Patience::NoWait, |wait| queue.join(wait)).unwrap();
}

#[test]
fn deaths_count_as_failures_do() {
    let queue = with_items(&ACKNOWLEDGED, 1);
    let child = Child::run(|| {
        hold(&queue, Patience::NoWait).unwrap();
        // SAFETY: the child ends without running anything else.
        unsafe { libc::_exit(0) };
    });
    assert_eq!(outcome(child), 0);
    let (_, held) = hold(&queue, soon()).unwrap();
    assert_eq!((held.id(), held.deliveries()), (1, 2));
    assert_eq!(settle(&queue, &held, Verdict::Done), Ok(true));
}

/// From the first call on nothing is set aside: each item that a dead process has held comes back.
#[test]
fn holding_acknowledges() {
    let queue = with_items(&ACKNOWLEDGED, 3);
    let child = Child::run(|| {
        for _ in 0..3 {
            hold(&queue, Patience::NoWait).unwrap();
        }
    });
    assert_eq!(outcome(child), 0);
    let s = is_sound(&queue, "swept");
    assert_eq!((s.queued, s.redeliveries, s.taken), (3, 3, 0));
}

/// The first hold returns what dead processes had set aside.
#[test]
fn the_first_hold_returns_what_was_set_aside() {
    let queue = with_items(&ACKNOWLEDGED, 3);
    let child = Child::run(|| {
        for item in 0..2 {
            assert_eq!(get(&queue, Patience::NoWait).unwrap(), [item]);
        }
    });
    assert_eq!(outcome(child), 0);
    let s = is_sound(&queue, "swept");
    assert_eq!((s.queued, s.taken), (2, 1));
    assert_eq!(hold(&queue, Patience::NoWait).unwrap().0, [0]);
    assert_eq!(is_sound(&queue, "held").queued, 2);
}

#[test]
fn task_done_settles_the_oldest() {
    let queue = with_items(&ACKNOWLEDGED, 2);
    let (_, first) = hold(&queue, Patience::NoWait).unwrap();
    let (_, second) = hold(&queue, Patience::NoWait).unwrap();
    queue.task_done().unwrap();
    assert!(!queue.holds(&first) && queue.holds(&second));
    assert_eq!(settle(&queue, &first, Verdict::Failed), Ok(false));
    assert_eq!(settle(&queue, &second, Verdict::Failed), Ok(true));
    // The item is no lease of this thread any more.
    assert_eq!(is_sound(&queue, "failed").queued, 1);
    queue.task_done().unwrap();
    assert_eq!(queue.task_done(), Err(Error::TooManyDone));
}

/// It was done in advance, and is delivered as usual.
#[test]
fn what_was_finished_before_it_was_taken_is_not_held() {
    for len in [1, LARGE] {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        put(&queue, &vec![7; len]).unwrap();
        queue.task_done().unwrap();
        let (item, held) = hold(&queue, Patience::NoWait).unwrap();
        assert_eq!((item.len(), held.was_finished()), (len, true));
        assert_eq!(settle(&queue, &held, Verdict::Failed), Ok(false));
        assert_eq!(is_sound(&queue, "finished").queued, 0);
    }
}

#[test]
fn another_thread_settles() {
    let queue = with_items(&ACKNOWLEDGED, 3);
    let (_, first) = hold(&queue, Patience::NoWait).unwrap();
    let (_, second) = hold(&queue, Patience::NoWait).unwrap();
    let (_, third) = hold(&queue, Patience::NoWait).unwrap();
    let there = queue.clone();
    thread::spawn(move || {
        assert_eq!(settle(&there, &first, Verdict::Done), Ok(true));
        assert_eq!(settle(&there, &second, Verdict::Released), Ok(true));
    })
    .join()
    .unwrap();
    // The third is this thread's oldest.
    queue.task_done().unwrap();
    assert_eq!(settle(&queue, &third, Verdict::Done), Ok(false));
    assert_eq!(is_sound(&queue, "settled").unfinished, 1);
}

/// Its own lease stands behind many of another thread's, and it has settled some of those.
#[test]
fn a_thread_that_settles_for_others_finds_its_own() {
    let queue = with_items(&ACKNOWLEDGED, 101);
    let there = queue.clone();
    let others: Vec<Held> = thread::spawn(move || {
        let hold = |_| hold(&there, Patience::NoWait).unwrap().1;
        (0..100).map(hold).collect()
    })
    .join()
    .unwrap();
    let (item, own) = hold(&queue, Patience::NoWait).unwrap();
    assert_eq!(item, [100]);
    assert_eq!(settle(&queue, &others[99], Verdict::Done), Ok(true));
    queue.task_done().unwrap();
    assert!(!queue.holds(&own));
    assert!(others[..99].iter().all(|held| queue.holds(held)));
}

#[test]
fn a_forked_child_settles_nothing() {
    let queue = with_items(&ACKNOWLEDGED, 1);
    let (_, held) = hold(&queue, Patience::NoWait).unwrap();
    let child = Child::run(|| {
        assert!(!queue.holds(&held));
        for verdict in [
            Verdict::Done,
            Verdict::Released,
            Verdict::Failed,
            Verdict::Rejected,
        ] {
            assert_eq!(settle(&queue, &held, verdict), Ok(false));
        }
    });
    assert_eq!(outcome(child), 0);
    assert_eq!(settle(&queue, &held, Verdict::Done), Ok(true));
    is_sound(&queue, "done");
}

/// A reader of the payload would see another item there.
#[test]
fn what_is_borrowed_does_not_go_back() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    put(&queue, &[7; LARGE]).unwrap();
    let mut buffer = Buffer::default();
    let (delivery, held) = wait(Patience::NoWait, |wait| queue.hold(&mut buffer, wait)).unwrap();
    for verdict in [Verdict::Released, Verdict::Failed, Verdict::Rejected] {
        assert_eq!(settle(&queue, &held, verdict), Err(Error::StillBorrowed));
    }
    assert!(queue.holds(&held));
    drop(delivery);
    assert_eq!(settle(&queue, &held, Verdict::Released), Ok(true));
    let (delivery, held) = wait(Patience::NoWait, |wait| queue.hold(&mut buffer, wait)).unwrap();
    assert_eq!(settle(&queue, &held, Verdict::Done), Ok(true), "its memory stays");
    let Delivery::Lent(lent) = &delivery else {
        panic!("a large payload is lent");
    };
    assert_eq!(lent.bytes(), [7; LARGE]);
    drop(delivery);
    assert_eq!(is_sound(&queue, "done").unfinished, 0);
}

#[test]
fn many_are_held_together() {
    let queue = with_items(&ACKNOWLEDGED, 10);
    put(&queue, &[9; LARGE]).unwrap();
    let mut batch = Batch::with_room_for(20).unwrap();
    let mut held = Vec::with_capacity(8);
    wait(Patience::NoWait, |wait| {
        queue.hold_many(&mut batch, &mut held, wait)
    })
    .unwrap();
    assert_eq!((batch.len(), held.len()), (8, 8));
    assert_eq!(
        held.iter().map(Held::id).collect::<Vec<_>>(),
        (1..=8).collect::<Vec<_>>()
    );
    let mut rest = Batch::with_room_for(20).unwrap();
    let mut others = Vec::with_capacity(20);
    wait(Patience::NoWait, |wait| {
        queue.hold_many(&mut rest, &mut others, wait)
    })
    .unwrap();
    assert_eq!((rest.len(), others.len()), (3, 3));
    rest.into_items(|taken| drop(taken));
    for held in held.iter().chain(&others) {
        assert_eq!(settle(&queue, held, Verdict::Released), Ok(true));
    }
    let s = is_sound(&queue, "released");
    assert_eq!((s.queued, s.taken), (11, 0));
    assert_eq!(hold(&queue, Patience::NoWait).unwrap().0, [0]);
}

#[test]
fn a_waiting_getter_takes_what_comes_back() {
    for verdict in [Verdict::Released, Verdict::Failed] {
        let queue = with_items(&ACKNOWLEDGED, 1);
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        let there = queue.clone();
        let getter = thread::spawn(move || hold(&there, soon()).map(|(item, _)| item));
        until("a getter", || queue.statistics().unwrap().waiting_getters == 1);
        assert_eq!(settle(&queue, &held, verdict), Ok(true));
        assert_eq!(getter.join().unwrap(), Ok(vec![0]));
    }
}

#[test]
fn a_joiner_learns_what_is_settled() {
    for verdict in [Verdict::Done, Verdict::Rejected] {
        let queue = with_items(&ACKNOWLEDGED, 1);
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        let there = queue.clone();
        let joiner = thread::spawn(move || wait(soon(), |wait| there.join(wait)));
        until("a joiner", || queue.statistics().unwrap().waiting_joiners == 1);
        assert_eq!(settle(&queue, &held, verdict), Ok(true));
        joiner.join().unwrap().unwrap();
    }
}

/// What comes back may exceed `maxsize`.
#[test]
fn a_full_queue_takes_back() {
    let queue = with_items(
        &Options {
            maxsize: 1,
            ..ACKNOWLEDGED
        },
        1,
    );
    let (_, held) = hold(&queue, Patience::NoWait).unwrap();
    put(&queue, b"next").unwrap();
    assert_eq!(settle(&queue, &held, Verdict::Released), Ok(true));
    assert_eq!((queue.len(), queue.is_full()), (2, true));
    assert_eq!(put(&queue, b"late"), Err(Error::Full));
    is_sound(&queue, "full");
}

#[test]
fn a_closed_queue_discards_what_comes_back() {
    for (verdict, discarded, buried) in [
        (Verdict::Done, 0, 0),
        (Verdict::Released, 1, 0),
        (Verdict::Failed, 1, 0),
        (Verdict::Rejected, 0, 1),
    ] {
        let queue = with_items(&ACKNOWLEDGED, 1);
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        queue.shut_down(true).unwrap();
        assert_eq!(settle(&queue, &held, verdict), Ok(true));
        // Nothing comes back for a moment, either.
        assert_eq!(queue.len(), 0);
        let s = is_sound(&queue, "closed");
        assert_eq!(
            (s.discarded, s.dead_letters, s.unfinished),
            (discarded, buried, 0)
        );
        wait(Patience::NoWait, |wait| queue.join(wait)).unwrap();
    }
}

/// A getter of another process waits for what may come back, and takes it.
#[test]
fn a_draining_queue_delivers_what_comes_back() {
    for verdict in [Verdict::Released, Verdict::Failed] {
        let queue = with_items(&ACKNOWLEDGED, 1);
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        queue.shut_down(false).unwrap();
        let child = Child::run(|| {
            let (item, held) = hold(&queue, soon()).unwrap();
            assert_eq!(item, [0]);
            assert_eq!(settle(&queue, &held, Verdict::Done), Ok(true));
            assert_eq!(hold(&queue, soon()).err(), Some(Error::ShutDown));
        });
        until("a getter", || queue.statistics().unwrap().waiting_getters == 1);
        assert_eq!(settle(&queue, &held, verdict), Ok(true));
        assert_eq!(outcome(child), 0);
        assert_eq!(is_sound(&queue, "drained").unfinished, 0);
    }
}

/// Threads go on after it, as a daemon thread does at the end of its process.
#[test]
fn a_lease_outlasts_a_leave_in_order() {
    for len in [1, LARGE] {
        for verdict in [
            Verdict::Done,
            Verdict::Released,
            Verdict::Failed,
            Verdict::Rejected,
        ] {
            let queue = Queue::create(&ACKNOWLEDGED).unwrap();
            for _ in 0..3 {
                put(&queue, &vec![7; len]).unwrap();
            }
            let (_, held) = hold(&queue, Patience::NoWait).unwrap();
            let mut buffer = Buffer::default();
            drop(wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait)).unwrap());
            queue.leave(Leave::Clean).unwrap();
            let s = is_sound(&queue, "left");
            assert_eq!((s.unfinished, s.taken, s.queued), (3, 1, 1));
            assert!(queue.holds(&held));
            assert_eq!(settle(&queue, &held, verdict), Ok(true), "{verdict:?}");
            let s = is_sound(&queue, "settled");
            let is_back = matches!(verdict, Verdict::Released | Verdict::Failed);
            assert_eq!(s.queued, 1 + u64::from(is_back));
            // That of the get is nobody's any more.
            assert_eq!(s.unfinished, 1 + s.queued);
        }
    }
}

/// Nothing can settle it any more: it returns with the last handle, and not with a sweep. No death is noted,
/// and what an earlier failure has told is void.
#[test]
fn what_is_held_returns_with_the_last_handle() {
    for (items, len) in [(1, 1), (1, LARGE), (600, 1)] {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        for _ in 0..=items {
            put(&queue, &vec![7; len]).unwrap();
        }
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        fail(&queue, &held, b"former");
        let has_let_go = Queue::create(&PLAIN).unwrap();
        let child = Child::run(|| {
            for _ in 0..items {
                hold(&queue, Patience::NoWait).unwrap();
            }
            let mut buffer = Buffer::default();
            drop(wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait)).unwrap());
            let queue: *const Arc<Queue> = &raw const queue;
            // SAFETY: the child uses the handle no more.
            drop(unsafe { queue.read() });
            put(&has_let_go, b"x").unwrap();
            loop {
                thread::park();
            }
        });
        until("it has let go", || !has_let_go.is_empty());
        // This finds no dead ones.
        let check = queue.check().unwrap();
        assert_eq!((check.leased, check.notes, check.participants), (0, 0, 1));
        let s = is_sound(&queue, "let go");
        assert_eq!(
            (s.queued, s.redeliveries, s.unfinished),
            (items, items + 1, items + 1)
        );
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        assert_eq!((held.id(), held.deliveries()), (1, 3));
        drop(child);
    }
}

/// Its numbers are those of an item of another queue.
#[test]
fn a_lease_is_of_its_queue() {
    let (queue, other) = (with_items(&ACKNOWLEDGED, 1), with_items(&ACKNOWLEDGED, 1));
    let (_, held) = hold(&queue, Patience::NoWait).unwrap();
    let (_, theirs) = hold(&other, Patience::NoWait).unwrap();
    assert!(!other.holds(&held));
    assert_eq!(settle(&other, &held, Verdict::Done), Ok(false));
    assert!(other.holds(&theirs) && queue.holds(&held));
}

/// A text is of no use to an item that is finished.
#[test]
fn an_item_that_is_finished_with_a_text() {
    let queue = with_items(&ACKNOWLEDGED, 1);
    let (_, held) = hold(&queue, Patience::NoWait).unwrap();
    let noted = (Duration::ZERO, &b"a text"[..]);
    let settled = wait(soon(), |wait| {
        queue.settle_noting(&held, Verdict::Done, noted, wait)
    });
    assert_eq!(settled, Ok(true));
    is_sound(&queue, "finished");
    let check = queue.check().unwrap();
    assert_eq!((check.notes, check.claimed, check.extents), (0, 0, 0));
}

/// As after `task_done`.
#[test]
fn what_is_finished_gives_its_memory_back() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    for verdict in [Verdict::Done, Verdict::Released] {
        put(&queue, &vec![7; 64 << 20]).unwrap();
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        assert_eq!(settle(&queue, &held, verdict), Ok(true));
        let left = queue.statistics().unwrap().memory_bytes;
        let is_there = verdict == Verdict::Released;
        assert_eq!(left > 32 << 20, is_there, "{verdict:?}: {left}");
    }
}

/// A process that has left by a failure has given everything up.
#[test]
fn nothing_is_settled_after_a_crash() {
    let queue = with_items(&ACKNOWLEDGED, 1);
    let (_, held) = hold(&queue, Patience::NoWait).unwrap();
    queue.leave(Leave::Crashed).unwrap();
    assert!(!queue.holds(&held));
    assert_eq!(settle(&queue, &held, Verdict::Failed), Ok(false));
    is_sound(&queue, "left");
}

/// The thread that had it did not come to its end.
#[test]
fn a_lease_ends_with_its_process() {
    for len in [1, LARGE] {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        for _ in 0..3 {
            put(&queue, &vec![7; len]).unwrap();
        }
        let child = Child::run(|| {
            hold(&queue, Patience::NoWait).unwrap();
            let mut buffer = Buffer::default();
            drop(wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait)).unwrap());
            hold(&queue, Patience::NoWait).unwrap();
            queue.leave(Leave::Clean).unwrap();
            is_sound(&queue, "left");
        });
        assert_eq!(outcome(child), 0);
        let s = is_sound(&queue, "swept");
        assert_eq!((s.queued, s.redeliveries, s.unfinished), (2, 2, 3));
        let (_, first) = hold(&queue, Patience::NoWait).unwrap();
        let (_, last) = hold(&queue, Patience::NoWait).unwrap();
        assert_eq!((first.id(), first.deliveries()), (1, 2));
        assert_eq!((last.id(), last.deliveries()), (3, 2));
    }
}

/// A queue with dead letters of several sizes, and an item between the first two.
fn with_letters(options: &Options) -> Arc<Queue> {
    let queue = Queue::create(options).unwrap();
    for (item, len) in [1, 10, 1000, LARGE, 200_000].into_iter().enumerate() {
        put(&queue, &vec![item as u8; len]).unwrap();
    }
    let (_, first) = hold(&queue, Patience::NoWait).unwrap();
    let (_, kept) = hold(&queue, Patience::NoWait).unwrap();
    for _ in 0..3 {
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        assert_eq!(settle(&queue, &held, Verdict::Rejected), Ok(true));
    }
    assert_eq!(settle(&queue, &first, Verdict::Rejected), Ok(true));
    assert_eq!(settle(&queue, &kept, Verdict::Released), Ok(true));
    queue
}

fn requeue(queue: &Queue, tickets: Option<&[LetterTicket]>) -> Result<u64, Error> {
    wait(Patience::NoWait, |wait| queue.requeue(tickets, wait))
}

fn purge(queue: &Queue, tickets: Option<&[LetterTicket]>) -> u64 {
    wait(Patience::NoWait, |wait| queue.purge(tickets, wait)).unwrap()
}

#[test]
fn dead_letters_are_read() {
    let queue = with_letters(&ACKNOWLEDGED);
    let letters = queue.dead_letters().unwrap();
    let found: Vec<_> = letters
        .iter()
        .map(|letter| (letter.ticket.seq, letter.deliveries, letter.payload.len()))
        .collect();
    assert_eq!(found, [(3, 1, 1000), (4, 1, LARGE), (5, 1, 200_000), (1, 1, 1)]);
    for letter in letters {
        let right = letter.ticket.seq as u8 - 1;
        assert!(letter.payload.iter().all(|byte| *byte == right));
    }
    assert_eq!(is_sound(&queue, "read").dead_letters, 4);
}

#[test]
fn dead_letters_are_requeued() {
    let queue = with_letters(&ACKNOWLEDGED);
    let letters = queue.dead_letters().unwrap();
    assert_eq!(requeue(&queue, Some(&[letters[1].ticket])), Ok(1));
    let s = is_sound(&queue, "one");
    assert_eq!((s.queued, s.dead_letters, s.unfinished), (2, 3, 2));
    let all: Vec<LetterTicket> = letters.iter().map(|letter| letter.ticket).collect();
    assert_eq!(requeue(&queue, Some(&all)), Ok(3), "one is none any more");
    assert_eq!(requeue(&queue, None), Ok(0));
    let s = is_sound(&queue, "all");
    assert_eq!((s.queued, s.dead_letters, s.unfinished), (5, 0, 5));
    for item in 0..5u8 {
        let (payload, held) = hold(&queue, Patience::NoWait).unwrap();
        assert_eq!((payload[0], held.deliveries()), (item, 1));
        assert_eq!(held.id(), u64::from(item) + 1);
    }
}

/// Their deliveries count anew.
#[test]
fn a_requeued_letter_dies_again() {
    let queue = with_items(&ACKNOWLEDGED, 1);
    for _ in 0..2 {
        for deliveries in 1..=3 {
            let (_, held) = hold(&queue, Patience::NoWait).unwrap();
            assert_eq!(held.deliveries(), deliveries);
            assert_eq!(settle(&queue, &held, Verdict::Failed), Ok(true));
        }
        assert_eq!(is_sound(&queue, "dead").dead_letters, 1);
        assert_eq!(requeue(&queue, None), Ok(1));
    }
}

#[test]
fn dead_letters_are_purged() {
    let queue = with_letters(&ACKNOWLEDGED);
    let letters = queue.dead_letters().unwrap();
    assert_eq!(purge(&queue, Some(&[letters[2].ticket, letters[0].ticket])), 2);
    let s = is_sound(&queue, "two");
    assert_eq!((s.queued, s.dead_letters, s.unfinished, s.gets), (1, 2, 1, 2));
    assert_eq!(purge(&queue, Some(&[letters[2].ticket])), 0);
    assert_eq!(purge(&queue, None), 2);
    let s = is_sound(&queue, "all");
    assert_eq!((s.queued, s.dead_letters, s.unfinished, s.gets), (1, 0, 1, 4));
    assert_eq!(queue.check().unwrap().extents, 0);
}

/// The slot is another item's by now.
#[test]
fn an_old_ticket_means_nothing() {
    let queue = with_items(&ACKNOWLEDGED, 1);
    let reject = || {
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        assert_eq!(settle(&queue, &held, Verdict::Rejected), Ok(true));
    };
    reject();
    let old = queue.dead_letters().unwrap()[0].ticket;
    assert_eq!(purge(&queue, None), 1);
    put(&queue, b"other").unwrap();
    reject();
    let there = queue.dead_letters().unwrap()[0].ticket;
    for ticket in [
        old,
        LetterTicket { slot: 0, ..there },
        LetterTicket {
            slot: u32::MAX,
            ..there
        },
    ] {
        assert_eq!(requeue(&queue, Some(&[ticket])), Ok(0));
        assert_eq!(purge(&queue, Some(&[ticket])), 0);
    }
    assert_eq!(is_sound(&queue, "there").dead_letters, 1);
}

/// A decision about what was read is none about a later failure of the same item, in the same slot.
#[test]
fn a_letter_that_died_again_is_another_one() {
    let queue = with_items(&ACKNOWLEDGED, 1);
    let reject = || {
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        assert_eq!(settle(&queue, &held, Verdict::Rejected), Ok(true));
        queue.dead_letters().unwrap()[0].ticket
    };
    let old = reject();
    assert_eq!(requeue(&queue, Some(&[old])), Ok(1));
    let new = reject();
    assert_eq!((new.slot, new.seq), (old.slot, old.seq));
    assert_eq!(requeue(&queue, Some(&[old])), Ok(0));
    assert_eq!(purge(&queue, Some(&[old, old])), 0);
    assert_eq!(is_sound(&queue, "there").dead_letters, 1);
    assert_eq!(purge(&queue, Some(&[new])), 1);
}

#[test]
fn nothing_is_requeued_after_a_shutdown() {
    for is_immediate in [false, true] {
        let queue = with_letters(&ACKNOWLEDGED);
        queue.shut_down(is_immediate).unwrap();
        assert_eq!(requeue(&queue, None), Err(Error::ShutDown));
        assert_eq!(is_sound(&queue, "ended").dead_letters, 4);
        assert_eq!(purge(&queue, None), 4);
        is_sound(&queue, "purged");
    }
}

#[test]
fn many_letters_are_decided_on_in_portions() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    for item in 0..1000u32 {
        put(&queue, &item.to_le_bytes()).unwrap();
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        assert_eq!(settle(&queue, &held, Verdict::Rejected), Ok(true));
    }
    assert_eq!(queue.dead_letters().unwrap().len(), 1000);
    assert_eq!(requeue(&queue, None), Ok(1000));
    assert_eq!(is_sound(&queue, "requeued").queued, 1000);
    for item in 0..1000u32 {
        let (payload, held) = hold(&queue, Patience::NoWait).unwrap();
        assert_eq!(payload, item.to_le_bytes());
        assert_eq!(settle(&queue, &held, Verdict::Rejected), Ok(true));
    }
    assert_eq!(purge(&queue, None), 1000);
    is_sound(&queue, "purged");
}

#[test]
fn a_waiting_getter_takes_what_is_requeued() {
    let queue = with_items(&ACKNOWLEDGED, 1);
    let (_, held) = hold(&queue, Patience::NoWait).unwrap();
    assert_eq!(settle(&queue, &held, Verdict::Rejected), Ok(true));
    let there = queue.clone();
    let getter = thread::spawn(move || hold(&there, soon()).map(|(item, _)| item));
    until("a getter", || queue.statistics().unwrap().waiting_getters == 1);
    assert_eq!(requeue(&queue, None), Ok(1));
    assert_eq!(getter.join().unwrap(), Ok(vec![0]));
}

/// From its put on, whatever has become of it since. It is not known of what was put before the first lease.
#[test]
fn how_long_an_item_has_waited() {
    const TIME: Duration = Duration::from_millis(100);
    // A step of each of the clocks.
    const STEPS: Duration = Duration::from_millis(36);
    for len in [1, 1000, LARGE] {
        let queue = with_items(&ACKNOWLEDGED, 1);
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        assert_eq!(held.waited(), None);
        assert_eq!(settle(&queue, &held, Verdict::Failed), Ok(true));
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        assert_eq!((held.waited(), held.deliveries()), (None, 2));
        assert_eq!(settle(&queue, &held, Verdict::Done), Ok(true));

        let began = Instant::now();
        put(&queue, &vec![7; len]).unwrap();
        let is_right = |held: &Held, least: Duration| {
            let waited = held.waited().unwrap();
            assert!((least.saturating_sub(STEPS)..=began.elapsed() + STEPS).contains(&waited));
        };
        thread::sleep(TIME);
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        is_right(&held, TIME);
        assert_eq!(settle(&queue, &held, Verdict::Released), Ok(true));
        die_holding(&queue);
        thread::sleep(TIME);
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        is_right(&held, 2 * TIME);
        let delayed = wait(soon(), |wait| {
            queue.settle_after(&held, Verdict::Failed, TIME, wait)
        });
        assert_eq!(delayed, Ok(true));
        let (_, held) = hold(&queue, soon()).unwrap();
        is_right(&held, 3 * TIME);
        assert_eq!(settle(&queue, &held, Verdict::Rejected), Ok(true));
        assert_eq!(requeue(&queue, None), Ok(1));
        let (_, held) = hold(&queue, soon()).unwrap();
        is_right(&held, 3 * TIME);
        assert_eq!(settle(&queue, &held, Verdict::Done), Ok(true));

        // Its slot is used again, also for an item that is handed to a getter that has aged, or delayed.
        let there = queue.clone();
        let getter = thread::spawn(move || hold(&there, soon()).unwrap().1);
        until("it has aged", || queue.check().unwrap().aged == 1);
        let began = Instant::now();
        put(&queue, &vec![7; len]).unwrap();
        let waited = getter.join().unwrap().waited().unwrap();
        assert!(waited <= began.elapsed() + STEPS);
        let began = Instant::now();
        wait(soon(), |wait| queue.put_delayed(&[b"later"], TIME, wait)).unwrap();
        let (_, held) = hold(&queue, soon()).unwrap();
        let waited = held.waited().unwrap();
        assert!((TIME.saturating_sub(STEPS)..=began.elapsed() + STEPS).contains(&waited));
        is_sound(&queue, "taken");
    }
}

fn fail(queue: &Queue, held: &Held, text: &[u8]) {
    let noted = (Duration::ZERO, text);
    let settled = wait(soon(), |wait| {
        queue.settle_noting(held, Verdict::Failed, noted, wait)
    });
    assert_eq!(settled, Ok(true));
}

/// The text of the last failure, without the zeros behind it, and the deaths.
fn note_of(queue: &Queue) -> (Vec<u8>, Vec<Death>) {
    let mut letters = queue.dead_letters().unwrap();
    assert_eq!(letters.len(), 1);
    let DeadLetter { mut text, deaths, .. } = letters.remove(0);
    while text.last() == Some(&0) {
        text.pop();
    }
    (text, deaths)
}

#[test]
fn the_last_failure_is_noted() {
    for len in [1, 100, 2048, 4096] {
        let queue = with_items(&ACKNOWLEDGED, 1);
        for fill in 1..=3u8 {
            let (_, held) = hold(&queue, Patience::NoWait).unwrap();
            fail(&queue, &held, &vec![fill; len]);
            assert_eq!(is_sound(&queue, "failed").unfinished, u64::from(fill < 3));
            assert_eq!(queue.check().unwrap().notes, 1);
        }
        assert_eq!(note_of(&queue), (vec![3; len], vec![]));
        assert_eq!(purge(&queue, None), 1);
        is_sound(&queue, "purged");
        let check = queue.check().unwrap();
        assert_eq!((check.notes, check.extents), (0, 0));
    }
}

#[test]
fn what_is_finished_has_no_note() {
    let finishes: [fn(&Arc<Queue>); 5] = [
        |queue| {
            hold(queue, Patience::NoWait).unwrap();
            queue.task_done().unwrap();
        },
        |queue| {
            queue.task_done().unwrap();
            hold(queue, Patience::NoWait).unwrap();
        },
        |queue| queue.shut_down(true).unwrap(),
        |queue| {
            let mut buffer = Buffer::default();
            drop(wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait)).unwrap());
            queue.leave(Leave::Clean).unwrap();
        },
        |queue| {
            let (_, held) = hold(queue, Patience::NoWait).unwrap();
            assert_eq!(settle(queue, &held, Verdict::Rejected), Ok(true));
            assert_eq!(requeue(queue, None), Ok(1));
        },
    ];
    for len in [1, LARGE] {
        for finish in finishes {
            let queue = Queue::create(&ACKNOWLEDGED).unwrap();
            put(&queue, &vec![7; len]).unwrap();
            let (_, held) = hold(&queue, Patience::NoWait).unwrap();
            fail(&queue, &held, b"why");
            assert_eq!(queue.check().unwrap().notes, 1);
            finish(&queue);
            is_sound(&queue, "finished");
            assert_eq!(queue.check().unwrap().notes, 0);
        }
    }
}

/// A getter that has waited for long is handed the item, and is stopped before it comes for it.
#[test]
fn what_is_finished_on_its_way_has_no_note() {
    for len in [1, LARGE] {
        for is_killed in [false, true] {
            let queue = Queue::create(&ACKNOWLEDGED).unwrap();
            put(&queue, &vec![7; len]).unwrap();
            let (_, held) = hold(&queue, Patience::NoWait).unwrap();
            let mut getter = Child::run(|| drop(hold(&queue, soon()).unwrap()));
            until("it has aged", || queue.check().unwrap().aged == 1);
            stop(&getter);
            fail(&queue, &held, b"why");
            queue.task_done().unwrap();
            let check = queue.check().unwrap();
            assert_eq!((check.findings, check.notes), (vec![], 1));
            getter.signal(if is_killed { libc::SIGKILL } else { libc::SIGCONT });
            getter.reap();
            if is_killed {
                is_sound(&queue, "swept");
                hold(&queue, Patience::NoWait).unwrap();
            }
            assert_eq!(is_sound(&queue, "taken").unfinished, 0);
            assert_eq!(queue.check().unwrap().notes, 0);
        }
    }
}

/// A process takes an item and ends without a word. Returns its pid.
fn die_holding(queue: &Arc<Queue>) -> u32 {
    let child = Child::run(|| drop(hold(queue, Patience::NoWait).unwrap()));
    let pid = child.0 as u32;
    assert_eq!(outcome(child), 0);
    is_sound(queue, "swept");
    pid
}

/// A holder's deaths, the last six, and a text in between.
#[test]
fn deaths_are_noted() {
    let queue = with_items(
        &Options {
            max_deliveries: 9,
            ..ACKNOWLEDGED
        },
        1,
    );
    let mut pids = Vec::new();
    for number in 0..8 {
        pids.push(die_holding(&queue));
        if number == 4 {
            fail(&queue, &hold(&queue, soon()).unwrap().1, b"why");
        }
    }
    let (_, held) = hold(&queue, soon()).unwrap();
    assert_eq!(settle(&queue, &held, Verdict::Rejected), Ok(true));
    let (_, deaths) = note_of(&queue);
    let noted: Vec<u32> = deaths.iter().map(|death| death.pid).collect();
    assert_eq!(noted, pids[2..]);
    assert_eq!(queue.check().unwrap().notes, 1);
}

/// What a dead letter tells is of its last failure: no words of an earlier one, and no earlier death.
#[test]
fn an_earlier_failure_is_not_the_last() {
    type Step = fn(&Arc<Queue>);
    let dies: Step = |queue| assert_ne!(die_holding(queue), 0);
    let told: Step = |queue| fail(queue, &hold(queue, Patience::NoWait).unwrap().1, b"told");
    let silent: Step = |queue| {
        let (_, held) = hold(queue, Patience::NoWait).unwrap();
        assert_eq!(settle(queue, &held, Verdict::Failed), Ok(true));
    };
    let untold: Step = |queue| {
        let (_, held) = hold(queue, Patience::NoWait).unwrap();
        while put(queue, &[7; 1000]).is_ok() {}
        fail(queue, &held, &[1; 4096]);
    };
    let undelivered: Step = |queue| {
        let mut buffer = Buffer::default();
        let (delivery, _) = wait(Patience::NoWait, |wait| queue.hold(&mut buffer, wait)).unwrap();
        let Delivery::Lent(lent) = delivery else {
            panic!("a large payload is lent");
        };
        lent.undeliver();
    };
    let crashed: Step = |queue| {
        hold(queue, Patience::NoWait).unwrap();
        queue.leave(Leave::Crashed).unwrap();
    };
    let nothing = (&b""[..], false);
    // A name, the steps, what the letter tells and whether the item died last, and its deaths.
    type Case<'a> = (&'a str, &'a [Step], (&'a [u8], bool), usize);
    let cases: [Case<'_>; 10] = [
        ("told", &[told], (b"told", false), 0),
        ("told, silent", &[told, silent], nothing, 0),
        ("told, no memory", &[told, untold], nothing, 0),
        ("told, undelivered", &[told, undelivered], nothing, 0),
        ("told, crashed", &[told, crashed], nothing, 0),
        ("dies, silent", &[dies, silent], nothing, 1),
        ("dies, told", &[dies, told], (b"told", false), 1),
        ("dies, told, silent", &[dies, told, silent], nothing, 1),
        ("told, dies", &[told, dies], (b"", true), 1),
        ("told, dies, undelivered", &[told, dies, undelivered], nothing, 1),
    ];
    for (name, steps, (text, died_last), deaths) in cases {
        let queue = Queue::create(&Options {
            max_bytes: Some(1 << 20),
            max_deliveries: steps.len() as u8 - 1,
            ..ACKNOWLEDGED
        })
        .unwrap();
        put(&queue, &[7; LARGE]).unwrap();
        for step in steps {
            step(&queue);
            is_sound(&queue, name);
        }
        let letter = queue.dead_letters().unwrap().remove(0);
        assert_eq!(letter.died_last, died_last, "{name}");
        let (noted, there) = note_of(&queue);
        assert_eq!((&noted[..], there.len()), (text, deaths), "{name}");
        let notes = u64::from(deaths > 0 || !text.is_empty());
        assert_eq!(queue.check().unwrap().notes, notes, "{name}");
    }
}

/// The first of a process's two items is set aside: its death is noted of the second alone.
#[test]
fn what_is_set_aside_has_no_note() {
    let queue = with_items(&ACKNOWLEDGED, 2);
    let child = Child::run(|| {
        let mut buffer = Buffer::default();
        for _ in 0..2 {
            wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait)).unwrap();
        }
    });
    assert_eq!(outcome(child), 0);
    let s = is_sound(&queue, "swept");
    assert_eq!((s.queued, s.taken, queue.check().unwrap().notes), (1, 1, 1));
}

#[test]
fn without_memory_there_is_no_note() {
    let options = Options {
        max_bytes: Some(65_536),
        ..ACKNOWLEDGED
    };
    let queue = Queue::create(&options).unwrap();
    while put(&queue, &[7; 1000]).is_ok() {}
    let (_, held) = hold(&queue, Patience::NoWait).unwrap();
    fail(&queue, &held, &[1; 4096]);
    let s = is_sound(&queue, "full");
    assert_eq!((queue.check().unwrap().notes, s.redeliveries), (0, 1));
}

#[cfg(feature = "fault-points")]
mod points {
    use penstock_core::Statistics;

    use super::*;
    use penstock_core::fault;

    const KILLED: i32 = -libc::SIGKILL;
    const ONCE: Options = Options {
        max_deliveries: 1,
        ..ACKNOWLEDGED
    };

    /// The holder dies at that point while it settles the first of two items. Returns what is left.
    fn killed_at(point: &str, verdict: Verdict, len: usize, before: fn(&Queue)) -> Statistics {
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        put(&queue, &vec![7; len]).unwrap();
        put(&queue, b"next").unwrap();
        let child = Child::run(|| {
            let (_, held) = hold(&queue, Patience::NoWait).unwrap();
            before(&queue);
            assert!(fault::arm(point, 1));
            settle(&queue, &held, verdict).unwrap();
        });
        assert_eq!(outcome(child), KILLED, "it did not pass {point}");
        is_sound(&queue, point)
    }

    /// What is queued, how often it came back, and dead letters.
    fn left(s: &Statistics) -> (u64, u64, u64) {
        (s.queued, s.redeliveries, s.dead_letters)
    }

    #[test]
    fn death_at_each_step() {
        for len in [1, LARGE] {
            for (verdict, points) in [
                (
                    Verdict::Done,
                    &["slot.freed", "done.committed", "held.settled"][..],
                ),
                (Verdict::Released, &["held.released", "held.settled"]),
                (Verdict::Failed, &["sweep.slot-returned", "held.settled"]),
                (Verdict::Rejected, &["held.buried", "held.settled"]),
            ] {
                for point in ["lock.taken", "held.unlinked"] {
                    if point != "lock.taken" && verdict == Verdict::Done {
                        continue;
                    }
                    let s = killed_at(point, verdict, len, |_| ());
                    assert_eq!(left(&s), (2, 1, 0), "{verdict:?} at {point}: nothing was settled");
                }
                for point in points {
                    let s = killed_at(point, verdict, len, |_| ());
                    let right = match verdict {
                        Verdict::Done => (1, 0, 0),
                        Verdict::Released => (2, 0, 0),
                        Verdict::Failed => (2, 1, 0),
                        Verdict::Rejected => (1, 0, 1),
                    };
                    assert_eq!(left(&s), right, "{verdict:?} at {point}");
                    assert_eq!(s.unfinished, s.queued, "{verdict:?} at {point}");
                }
            }
        }
    }

    #[test]
    fn death_while_a_closed_queue_discards_it() {
        for point in [
            "held.unlinked",
            "aside.counting",
            "aside.noted",
            "aside.counted",
            "slot.freed",
            "discard.freed",
        ] {
            for verdict in [Verdict::Released, Verdict::Failed] {
                let s = killed_at(point, verdict, 1, |queue| queue.shut_down(true).unwrap());
                assert_eq!(
                    (left(&s), s.discarded, s.unfinished),
                    ((0, 0, 0), 2, 0),
                    "{point}"
                );
            }
        }
    }

    /// The holder dies while its text is noted, over an earlier one. Its death is the last failure then, or
    /// what it has told.
    #[test]
    fn death_while_a_failure_is_noted() {
        for (point, text) in [
            ("claim.copied", None),
            ("note.committed", None),
            ("note.named", None),
            ("held.settled", Some(b"latest")),
        ] {
            let queue = with_items(&ONCE, 2);
            let (_, held) = hold(&queue, Patience::NoWait).unwrap();
            fail(&queue, &held, b"former");
            let child = Child::run(|| {
                let (_, held) = hold(&queue, Patience::NoWait).unwrap();
                assert!(fault::arm(point, 1));
                fail(&queue, &held, b"latest");
            });
            assert_eq!(outcome(child), KILLED, "it did not pass {point}");
            is_sound(&queue, point);
            assert_eq!(queue.check().unwrap().notes, 1, "{point}");
            let died_last = queue.dead_letters().unwrap()[0].died_last;
            let (noted, deaths) = note_of(&queue);
            let told = text.map_or(&b""[..], |text| &text[..]);
            assert_eq!((&noted[..], died_last), (told, text.is_none()), "{point}");
            assert_eq!(deaths.len(), usize::from(died_last), "{point}");
        }
    }

    /// The holder dies in a failure that tells nothing.
    #[test]
    fn death_while_an_earlier_failure_is_forgotten() {
        let queue = with_items(&ONCE, 1);
        let (_, held) = hold(&queue, Patience::NoWait).unwrap();
        fail(&queue, &held, b"former");
        let child = Child::run(|| {
            let (_, held) = hold(&queue, Patience::NoWait).unwrap();
            // Of the note.
            assert!(fault::arm("slot.freed", 1));
            settle(&queue, &held, Verdict::Failed).unwrap();
        });
        let pid = child.0 as u32;
        assert_eq!(outcome(child), KILLED);
        is_sound(&queue, "swept");
        let (text, deaths) = note_of(&queue);
        assert_eq!((&text[..], deaths[0].pid, deaths.len()), (&b""[..], pid, 1));
    }

    /// A sweeper dies when it has noted the death, or half of it: the next one does not note it again.
    #[test]
    fn a_death_is_noted_once() {
        for point in ["note.committed", "note.named", "note.died"] {
            let queue = with_items(&ONCE, 1);
            let mut pids = Vec::new();
            for _ in 0..2 {
                let held = Queue::create(&PLAIN).unwrap();
                let child = Child::run(|| {
                    hold(&queue, Patience::NoWait).unwrap();
                    put(&held, b"held").unwrap();
                    thread::sleep(Duration::from_secs(60));
                });
                until("it holds the item", || !held.is_empty());
                pids.push(child.0 as u32);
                let sweeper = Child::run(|| {
                    queue.statistics().unwrap();
                    assert!(fault::arm(point, 1));
                    child.signal(libc::SIGKILL);
                    until("it has swept", || queue.statistics().unwrap().taken == 0);
                });
                let ended = outcome(sweeper);
                // The second death is added to the note that is there.
                assert!(
                    ended == KILLED || point != "note.died" && pids.len() == 2,
                    "{point}"
                );
                drop(child);
                is_sound(&queue, point);
            }
            let noted: Vec<u32> = note_of(&queue).1.iter().map(|death| death.pid).collect();
            assert_eq!(noted, pids, "{point}");
        }
    }

    /// They became dead letters in another order than that in which they were put.
    #[test]
    fn a_rebuild_keeps_the_order_of_letters() {
        let queue = with_letters(&ACKNOWLEDGED);
        let before = queue.dead_letters().unwrap();
        let child = Child::run(|| {
            queue.statistics().unwrap();
            assert!(fault::arm("lock.taken", 1));
            put(&queue, b"last").unwrap();
        });
        assert_eq!(outcome(child), KILLED);
        is_sound(&queue, "rebuilt");
        assert_eq!(queue.dead_letters().unwrap(), before);
    }

    #[test]
    fn death_while_letters_are_decided_on() {
        type Decide = fn(&Queue);
        let requeues: Decide = |queue| {
            requeue(queue, None).unwrap();
        };
        let purges: Decide = |queue| {
            purge(queue, None);
        };
        for (decide, is_requeue, point, gone) in [
            (requeues, true, "letter.unlinked", 0),
            (requeues, true, "letter.requeued", 1),
            (purges, false, "letter.unlinked", 0),
            (purges, false, "slot.freed", 1),
        ] {
            for hit in [1, 3] {
                let queue = with_letters(&ACKNOWLEDGED);
                let child = Child::run(|| {
                    queue.statistics().unwrap();
                    assert!(fault::arm(point, hit));
                    decide(&queue);
                });
                assert_eq!(outcome(child), KILLED, "it did not pass {point}");
                let s = is_sound(&queue, point);
                let gone = hit - 1 + gone;
                assert_eq!(s.dead_letters, 4 - gone, "{point}");
                let requeued = if is_requeue { gone } else { 0 };
                assert_eq!((s.queued, s.unfinished), (1 + requeued, 1 + requeued), "{point}");
            }
        }
    }

    /// The waiters learn it though their waker dies.
    #[test]
    fn death_before_the_waiters_are_woken() {
        for point in ["held.released", "unlock.before-wake"] {
            let queue = with_items(&ACKNOWLEDGED, 1);
            let taken = Queue::create(&PLAIN).unwrap();
            let child = Child::run(|| {
                let (_, held) = hold(&queue, Patience::NoWait).unwrap();
                put(&taken, b"taken").unwrap();
                until("a getter", || queue.statistics().unwrap().waiting_getters == 1);
                assert!(fault::arm(point, 1));
                settle(&queue, &held, Verdict::Released).unwrap();
            });
            until("taken", || !taken.is_empty());
            let there = queue.clone();
            let getter = thread::spawn(move || hold(&there, soon()).map(|(item, _)| item));
            assert_eq!(outcome(child), KILLED);
            assert_eq!(getter.join().unwrap(), Ok(vec![0]), "{point}");
        }
    }
}
