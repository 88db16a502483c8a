//! Which waiters a section wakes, by the cells that it notes.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::memory::layout::{CLOSED, Hot, Kind, OPEN};
use crate::operations::delivery::{Batch, Buffer};
use crate::operations::wait::WAITING;
use crate::options::testing::{ACKNOWLEDGED, PLAIN, now};
use crate::options::{Options, Patience, Wait};
use crate::platform::{self, Instant};
use crate::state::WAKES;
use crate::state::hand::{LATE_AFTER, LateCheck};
use crate::state::recovery::{PORTION, Portion};
use crate::state::slot::State;
use crate::state::waiters::{HANDED, SLEEPING, WOKEN, Waiting};
use crate::sync::Word;
use crate::units::{BATCH, PAGE};

fn create(maxsize: u64) -> Arc<Queue> {
    Queue::create(&Options { maxsize, ..PLAIN }).unwrap()
}

fn enter(queue: &Queue) -> Guard<'_> {
    now(|mut wait| queue.enter(&mut wait)).unwrap()
}

fn put(queue: &Queue) {
    now(|wait| queue.put(&[b"x"], wait)).unwrap();
}

fn enlisted(queue: &Queue, mut waiting: Waiting) -> Waiting {
    enter(queue).enlist(&mut waiting).unwrap();
    waiting
}

/// It says that it has aged. Returns the cells that the section wakes.
fn ages(queue: &Queue, waiting: &mut Waiting) -> Vec<u32> {
    waiting.note_age();
    let mut section = enter(queue);
    section.arrive(waiting).unwrap();
    section.wakes_noted().to_vec()
}

/// A time that is no item's would wake its keeper again and again: it is damage.
#[test]
fn a_time_without_an_item_is_damage() {
    let nothing_delayed: fn(&Hot) = |hot| hot.due_at.set(1);
    let no_item: fn(&Hot) = |hot| hot.delayed.head.set(0);
    let no_mark: fn(&Hot) = |hot| hot.phase.set(OPEN);
    for (delayed, damage) in [(0, nothing_delayed), (1, no_item), (1, no_mark)] {
        for kind in [Kind::Item, Kind::Room] {
            let queue = create(1);
            if kind == Kind::Room {
                put(&queue);
            }
            let wait = || Wait {
                patience: Patience::Until(Instant::now() + Duration::from_millis(50)),
                interrupted: Box::leak(Box::new(|| false)),
            };
            for _ in 0..delayed {
                let an_hour = Duration::from_secs(3600);
                queue.put_delayed(&[b"later"], an_hour, wait()).unwrap();
            }
            damage(enter(&queue).hot());
            let ended = match kind {
                Kind::Item => queue.get(&mut Buffer::default(), wait()).map(drop),
                _ => queue.put(&[b"x"], wait()).map(drop),
            };
            assert!(matches!(ended, Err(Error::Corrupt { .. })), "{kind:?}: {ended:?}");
        }
    }
}

/// A poll never ages, so it may sleep for long when the getters before it have aged.
#[test]
fn the_watcher_that_ages_wakes_the_new_watcher() {
    let queue = create(0);
    let mut getters = [(); 2].map(|()| enlisted(&queue, Waiting::new(Kind::Item)));
    let poll = enlisted(&queue, Waiting::taking_nothing(Kind::Item));
    let [first, second] = &mut getters;
    assert_eq!(ages(&queue, first), [second.cell]);
    assert_eq!(ages(&queue, second), [poll.cell]);
    // It is the watcher still.
    let watcher = enter(&queue).place(&poll).unwrap();
    assert_eq!((watcher.position, watcher.length), (0, 3));
}

#[test]
fn the_watcher_that_stays_last_wakes_no_other() {
    let queue = create(1);
    let mut putters = [(); 2].map(|()| enlisted(&queue, Waiting::new(Kind::Room)));
    put(&queue);
    let [first, last] = &mut putters;
    assert_eq!(ages(&queue, first), []);
    assert_eq!(ages(&queue, last), []);
}

/// Its slice is short, in case the wake-up call is lost with its waker.
#[test]
fn a_shutdown_notifies_the_watcher_first() {
    let queue = create(1);
    put(&queue);
    let putters = [(); 3].map(|()| enlisted(&queue, Waiting::new(Kind::Room)));
    let watcher = enter(&queue).watcher(Kind::Room).unwrap();
    queue.shut_down(false).unwrap();
    let section = enter(&queue);
    let is_notified = |cell: &u32| section.cell(*cell).unwrap().word.get() == WOKEN;
    let cells = putters.iter().map(|putter| putter.cell);
    assert_eq!(cells.filter(is_notified).collect::<Vec<_>>(), [watcher]);
}

/// The putters before it have aged, too, and could not write their items for want of memory.
#[test]
fn the_watcher_that_is_handed_a_place_wakes_the_new_watcher() {
    let queue = create(1);
    put(&queue);
    let mut putters = [(); 2].map(|()| enlisted(&queue, Waiting::new(Kind::Room)));
    for putter in &mut putters {
        ages(&queue, putter);
    }
    let [first, last] = &mut putters;
    let mut section = enter(&queue);
    let slot = section.pop_slot().unwrap().unwrap();
    section.slot(slot).unwrap().fill(None, 1);
    section.claim(slot, 0).unwrap();
    section.hold(slot).unwrap();
    section.name_written(last, slot).unwrap();
    let head = section.oldest().unwrap();
    let head = (head, section.slot(head).unwrap());
    section.pop_ready(head, 1).unwrap();
    section.free_slot(head).unwrap();
    section.hand_over().unwrap();
    assert_eq!(section.wakes_noted(), [first.cell, last.cell]);
}

/// It does not come back, because younger items may have been taken since: the getter waits for the lock,
/// though its time is over and the lock stays taken.
#[test]
fn what_was_handed_is_the_result_of_a_getter_out_of_time() {
    let queue = create(0);
    let mut getter = enlisted(&queue, Waiting::new(Kind::Item));
    ages(&queue, &mut getter);
    put(&queue);
    let holder = enter(&queue);
    std::thread::scope(|scope| {
        let getting = scope.spawn(|| {
            let section = queue.leave_or_arrive(&mut getter, Error::Busy)?;
            let is_mine = section.slot(getter.take_item())?.word().is_handed();
            Ok::<_, Error>(is_mine)
        });
        // Long enough for a getter that does not wait for the lock.
        let end = platform::Instant::now() + Duration::from_millis(300);
        while !getting.is_finished() && platform::Instant::now() < end {
            std::thread::yield_now();
        }
        drop(holder);
        assert_eq!(getting.join().unwrap(), Ok(true));
    });
}

/// However many are late, no section makes a wake-up call under the lock.
#[test]
fn late_waiters_are_woken_after_the_release() {
    const LATE_ONES: u32 = 3 * WAKES as u32 + 1;
    let queue = create(1);
    let (segment, me) = (&queue.shared.segment, queue.member().unwrap());
    let hot = segment.hot();
    segment.back(segment.geometry.cells_at, PAGE).unwrap();
    hot.cells_backed.set(64);
    hot.cells_high.set(LATE_ONES + 1);
    for index in 1..=LATE_ONES {
        let cell = segment.cell(index).unwrap();
        cell.owner.set(me.0);
        cell.kind.set(Kind::Room as u32);
        cell.number.set(1);
        cell.seq.set(1);
        cell.handed_at
            .set(platform::coarse_millis().wrapping_sub(2 * LATE_AFTER));
        cell.word.set(HANDED);
    }
    let handed = &hot.spinning.aged[Kind::Room as usize].handed;
    handed.set(LATE_ONES);
    let (mut check, mut portion) = (LateCheck::new(), Portion::MoreToCome);
    let mut left = LATE_ONES;
    while portion == Portion::MoreToCome {
        let mut section = enter(&queue);
        portion = section.wake_the_handed(&mut check).unwrap();
        let woken = section.wakes_noted().len() as u32;
        assert!(woken > 0 && woken <= WAKES as u32);
        assert_eq!(handed.get(), left - woken);
        left -= woken;
    }
    assert_eq!(left, 0);
}

/// An item that a getter was handed is that getter's: `task_done` finishes it before those in the queue.
#[test]
fn what_was_handed_is_finished_before_what_is_queued() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    let mut getter = enlisted(&queue, Waiting::new(Kind::Item));
    ages(&queue, &mut getter);
    put(&queue);
    put(&queue);
    queue.task_done().unwrap();
    let section = enter(&queue);
    let (_, handed) = section.handed_by(getter.cell).unwrap().unwrap();
    let queued = section.slot(section.oldest().unwrap()).unwrap();
    let states = [handed, queued].map(|slot| slot.word().state());
    assert_eq!(states, [Some(State::HandedDone), Some(State::Ready)]);
    drop(section);
    queue.task_done().unwrap();
    assert_eq!(queue.task_done(), Err(Error::TooManyDone));
}

/// An immediate shutdown finds a getter that was handed the first item of its batch: the getter delivers that
/// one alone, and the others are discarded.
#[test]
fn a_batch_ends_at_an_immediate_shutdown() {
    for is_by_name in [false, true] {
        let queue = create(0);
        let mut getter = enlisted(&queue, Waiting::new(Kind::Item));
        ages(&queue, &mut getter);
        for _ in 0..3 * PORTION {
            put(&queue);
        }
        enter(&queue).store_phase(CLOSED);
        let mut section = queue.leave_or_arrive(&mut getter, Error::Busy).unwrap();
        let handed = getter.take_item();
        let mut batch = Batch::with_room_for(BATCH).unwrap();
        let mut held = Vec::with_capacity(BATCH);
        let delivered = match is_by_name {
            true => queue.hold_batch(&mut section, handed, (&mut batch, &mut held)),
            false => queue.deliver_batch(&mut section, handed, &mut batch),
        };
        assert_eq!((delivered, batch.len()), (Ok(()), 1));
        assert!(section.hot().has_leftovers());
    }
}

fn put_delayed(queue: &Queue, hours: u64) {
    let delay = Duration::from_secs(3600 * hours);
    now(|wait| queue.put_delayed(&[b"x"], delay, wait)).unwrap();
}

fn word(queue: &Queue, waiting: &Waiting) -> u32 {
    queue.shared.segment.cell(waiting.cell).unwrap().word.get()
}

/// A waiter that has left without the lock is no timekeeper, and none of the others is passed over for it.
#[test]
fn one_that_has_left_keeps_no_time() {
    let queue = create(0);
    let [first, second, third] = [(); 3].map(|()| enlisted(&queue, Waiting::new(Kind::Item)));
    queue.leave_cell(&mut { third }, &WAITING).unwrap();
    put_delayed(&queue, 2);
    assert_eq!([word(&queue, &first), word(&queue, &second)], [SLEEPING, WOKEN]);

    let mut second = second;
    let mut section = enter(&queue);
    section.arrive(&mut second).unwrap();
    section.enlist(&mut second).unwrap();
    assert!(section.keep_time(&second).unwrap().is_some());
    assert!(section.keep_time(&first).unwrap().is_none());
    drop(section);
    queue.leave_cell(&mut second, &WAITING).unwrap();
    assert!(enter(&queue).keep_time(&first).unwrap().is_some());
}

/// It stays in its place: only the last one is woken, to learn when it is to wake up.
#[test]
fn a_putter_keeps_the_time_in_its_place() {
    let queue = create(1);
    put(&queue);
    let putters = [(); 3].map(|()| enlisted(&queue, Waiting::new(Kind::Room)));
    for hours in [3, 2, 1] {
        put_delayed(&queue, hours);
        assert_eq!(queue.shared.segment.hot().timekeeper.get(), putters[2].cell);
        assert_eq!(enter(&queue).wakes_noted(), [], "one wake-up is enough");
    }
    for (putter, later) in putters.iter().zip([2, 1, 0]) {
        assert_eq!(word(&queue, putter), SLEEPING);
        assert_eq!(enter(&queue).place(putter).unwrap().position, later);
    }
}
