//! A sound queue with something in every state, and every kind of damage to it: each must be found.

use std::sync::Arc;

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::memory::layout::*;
use crate::memory::payload::Extent;
use crate::operations::delivery::Buffer;
use crate::operations::get::Delivery;
use crate::operations::lease::Lent;
use crate::options::Options;
use crate::options::testing::{ACKNOWLEDGED, PLAIN, now};
use crate::platform;
use crate::state::Section;
use crate::state::holding::Lease;
use crate::state::notes::Death;
use crate::state::pages::{ALL_PARKED, REMNANT, Spare, TAKEN};
use crate::state::pipe_word::{DRAINED, FULL, SIGNALLED};
use crate::state::recovery::Portion;
use crate::state::slot::{ENDED, Past, State, StateWord};
use crate::state::waiters::{ABANDONED, FREE, HANDED, LATE, SLEEPING, WOKEN, Waiting};
use crate::sync::{Count, Word};
use crate::units::{Ended, Leave, PAGE};

const RUN: usize = 100_000;

fn put(queue: &Queue, len: usize) {
    now(|wait| queue.put(&[&vec![7; len]], wait)).unwrap();
}

fn get(queue: &Arc<Queue>) -> Option<Lent> {
    match now(|wait| queue.get(&mut Buffer::default(), wait)).unwrap() {
        Delivery::Copied => None,
        Delivery::Lent(lent) => Some(lent),
    }
}

fn plain(max_bytes: u64) -> Arc<Queue> {
    Queue::create(&Options {
        max_bytes: Some(max_bytes),
        ..PLAIN
    })
    .unwrap()
}

fn acknowledged() -> Arc<Queue> {
    Queue::create(&Options {
        max_bytes: Some(4 << 20),
        soft_bytes: 1 << 20,
        max_deliveries: 1,
        ..ACKNOWLEDGED
    })
    .unwrap()
}

/// A queue with slots in every state, and with waiters.
struct Scene {
    queue: Arc<Queue>,
    lent: Vec<Lent>,
}

impl Scene {
    fn new() -> Scene {
        let queue = acknowledged();
        // Free slots, and such as keep memory; payloads of other sizes will take seven of those, and free it.
        for (count, len) in [(16, 20), (9, 500)] {
            for _ in 0..count {
                put(&queue, len);
            }
            for _ in 0..count {
                assert!(get(&queue).is_none());
                queue.task_done().unwrap();
            }
        }
        // A participant that watches the notifier.
        for awaited in [Kind::Item, Kind::Room, Kind::Finish] {
            now(|wait| queue.watch_for(awaited, wait)).unwrap();
        }
        // A dead letter and an orphan.
        put(&queue, 20);
        for _ in 0..2 {
            get(&queue);
            queue.leave(Leave::Crashed).unwrap();
        }
        put(&queue, 20);
        get(&queue);
        queue.leave(Leave::Clean).unwrap();
        // Finished while it is borrowed, so CLAIMED; lent; leased.
        let mut lent = Vec::new();
        put(&queue, RUN);
        lent.extend(get(&queue));
        queue.task_done().unwrap();
        put(&queue, RUN);
        lent.extend(get(&queue));
        put(&queue, 20);
        lent.extend(get(&queue));
        for len in [20, 20, 300, 300, 2000, RUN, 20] {
            put(&queue, len);
        }
        // What task_done does to an item that no getter has taken.
        let done = queue
            .shared
            .segment
            .slot(queue.shared.segment.hot().ready.tail.get())
            .unwrap();
        done.commit(StateWord::unowned(State::ReadyDone, 0));
        queue.shared.segment.hot().unfinished.sub(1);
        queue.shared.segment.hot().ready_done.add(1);
        let scene = Scene { queue, lent };
        scene.add_waiters();
        scene
    }

    /// A queue whose users acknowledge nothing: two items that a crashed holder had set aside, five that came
    /// back, one that is set aside, one in hand.
    fn without_acknowledgement() -> Scene {
        let queue = acknowledged();
        for _ in 0..9 {
            put(&queue, 200);
        }
        for most in [2, 5] {
            now(|wait| queue.get_many(&mut crate::Batch::with_room_for(most).unwrap(), wait)).unwrap();
        }
        queue.leave(Leave::Crashed).unwrap();
        // The oldest items have come back: they are taken again.
        for _ in 0..2 {
            assert!(get(&queue).is_none());
        }
        put(&queue, 20);
        let lent = Vec::new();
        Scene { queue, lent }
    }

    /// Two joiners that sleep, one of which has left, a notified getter, one that is late, a free cell.
    fn add_waiters(&self) {
        let (segment, hot) = (&self.queue.shared.segment, self.hot());
        segment.back(segment.geometry.cells_at, PAGE).unwrap();
        hot.cells_backed.set(64);
        hot.cells_high.set(6);
        for (index, word, kind) in [
            (1, SLEEPING, Kind::Finish),
            (2, ABANDONED, Kind::Finish),
            (3, WOKEN, Kind::Item),
            (4, LATE, Kind::Item),
            (5, FREE, Kind::Item),
        ] {
            let cell = segment.cell(index).unwrap();
            cell.owner.set(self.queue.shared.me.get());
            cell.kind.set(kind as u32);
            cell.word.set(word);
        }
        let joiners = &hot.waiters[Kind::Finish as usize];
        segment.cell(1).unwrap().next.set(2);
        segment.cell(2).unwrap().prev.set(1);
        joiners.head.set(1);
        joiners.tail.set(2);
        joiners.length.set(2);
        hot.waiters[Kind::Item as usize].notified.set(1);
        hot.cells_free.set(5);
    }

    /// A full queue with two putters, of which the first has aged and has written its item.
    fn with_putters() -> Scene {
        let queue = Queue::create(&Options {
            maxsize: 1,
            max_bytes: Some(4 << 20),
            ..PLAIN
        })
        .unwrap();
        put(&queue, 20);
        let mut waits = [Waiting::new(Kind::Room), Waiting::new(Kind::Room)];
        let mut section = queue.enter_uninterruptible().unwrap();
        for wait in &mut waits {
            section.enlist(wait).unwrap();
        }
        let reserved = section.try_reserve(20).unwrap().ok().unwrap();
        section.claim_small(&reserved, &[&[7; 20]], 20).unwrap();
        waits[0].note_age();
        waits[0].is_early = true;
        section.arrive(&mut waits[0]).unwrap();
        section.name_written(&mut waits[0], reserved.slot).unwrap();
        drop(section);
        let lent = Vec::new();
        Scene { queue, lent }
    }

    /// The same after a get: its item was published.
    fn with_a_handed_putter() -> Scene {
        let scene = Scene::with_putters();
        assert!(get(&scene.queue).is_none());
        assert_eq!((scene.queue.len(), scene.cell(1).word.get()), (1, HANDED));
        scene
    }

    /// Two getters that have aged and were handed an item each; the second item was finished before.
    fn with_handed_getters() -> Scene {
        let queue = acknowledged();
        let mut waits = [Waiting::new(Kind::Item), Waiting::new(Kind::Item)];
        let mut section = queue.enter_uninterruptible().unwrap();
        for wait in &mut waits {
            section.enlist(wait).unwrap();
            wait.note_age();
            wait.is_early = true;
            section.arrive(wait).unwrap();
        }
        drop(section);
        put(&queue, 20);
        put(&queue, 500);
        assert_eq!(queue.len(), 0);
        queue.task_done().unwrap();
        let lent = Vec::new();
        Scene { queue, lent }
    }

    fn hot(&self) -> &Hot {
        self.queue.shared.segment.hot()
    }

    fn findings(&self) -> Vec<String> {
        let check = self.queue.check().unwrap();
        assert!(check.finding_count >= check.findings.len() as u64);
        check.findings.iter().map(ToString::to_string).collect()
    }

    /// The first slot in a state, with an extent or without.
    fn slot(&self, state: State, has_extent: bool) -> &Slot {
        (1..self.hot().slots_high.get())
            .map(|index| self.queue.shared.segment.slot(index).unwrap())
            .find(|slot| slot.word().state() == Some(state) && (slot.extent.get() != 0) == has_extent)
            .unwrap()
    }

    fn ready_head(&self) -> &Slot {
        self.queue
            .shared
            .segment
            .slot(self.hot().ready.head.get())
            .unwrap()
    }

    fn cell(&self, index: u32) -> &WaiterCell {
        self.queue.shared.segment.cell(index).unwrap()
    }

    fn me(&self) -> &Participant {
        self.queue
            .shared
            .segment
            .participant(self.queue.shared.me.get() & 0xfff)
            .unwrap()
    }

    /// The slot with a payload of that length, and the span where it lies.
    fn payload(&self, len: usize) -> (&Slot, u32) {
        let slot = (1..self.hot().slots_high.get())
            .map(|index| self.queue.shared.segment.slot(index).unwrap())
            .find(|slot| slot.len.get() == len as u64 && slot.word().state() == Some(State::Ready))
            .unwrap();
        let extent = Extent::unpack(slot.extent.get()).unwrap();
        (slot, extent.start / GRANULES_PER_SPAN)
    }

    fn divided(&self) -> (&SpanDescriptor, u32) {
        let (_, span) = self.payload(300);
        (self.queue.shared.segment.descriptor(span).unwrap(), span)
    }
}

#[test]
fn a_sound_queue_has_no_finding() {
    let scene = Scene::new();
    let check = scene.queue.check().unwrap();
    assert_eq!(check.findings, []);
    assert_eq!(
        (
            check.claimed,
            check.ready,
            check.leased,
            check.orphans,
            check.dead,
            check.extents,
            check.cells,
            check.participants
        ),
        (1, 7, 2, 1, 1, 6, 4, 1),
    );
    assert_eq!(check.free, 5, "of sixteen, eleven are in use");
    assert_eq!(scene.hot().bytes_cached(), 2 * 512);
    assert_eq!(
        check.spans,
        3 * 2 + 3,
        "three runs of two spans, three divided spans"
    );
    // It changes nothing.
    assert_eq!(scene.queue.check().unwrap(), check);
    assert_eq!(scene.lent.len(), 2);
}

/// The second rebuild begins with the lists of the first, which it has to forget.
#[test]
fn a_queue_that_was_rebuilt_is_sound() {
    for scene in [
        Scene::new,
        Scene::without_acknowledgement,
        Scene::with_putters,
        Scene::with_a_handed_putter,
        Scene::with_handed_getters,
    ] {
        let scene = scene();
        for rebuilds in 1..=2 {
            let mut section = scene.queue.enter_uninterruptible().unwrap();
            section.rebuild().unwrap();
            drop(section);
            assert_eq!(scene.findings(), [""; 0], "after {rebuilds} rebuilds");
        }
    }
}

#[test]
fn an_empty_queue_and_one_that_has_grown_are_sound() {
    let queue = plain(64 << 20);
    assert_eq!(queue.check().unwrap().findings, []);
    for i in 0..3000 {
        put(&queue, i * 37 % 5000);
    }
    assert_eq!(queue.check().unwrap().findings, []);
    while !queue.is_empty() {
        drop(get(&queue));
    }
    assert_eq!(queue.check().unwrap().findings, []);
}

/// Memory that small payloads leave behind for others of their size is there for any other, once the heap is
/// full.
#[test]
fn what_is_kept_does_not_stand_in_the_way() {
    let queue = plain(1 << 20);
    for granules in crate::state::heap::CLASSES {
        for _ in 0..3 {
            put(&queue, (granules * 128) as usize);
            drop(get(&queue));
        }
    }
    let hot = queue.shared.segment.hot();
    let high = hot.spans_high.get();
    assert!(hot.bytes_cached() > 0 && hot.spans_used.get() == 16 && high == 16);
    // All that there may be of the heap, and is not in use.
    let segment = &queue.shared.segment;
    let rest = [
        high..segment.geometry.near_spans,
        FAR_SPANS..segment.geometry.spans,
    ];
    let mut range = segment
        .map_more_heap(segment.ranges(), rest[1].len() as u32)
        .unwrap();
    let mut section = queue.enter_uninterruptible().unwrap();
    while let Some(new) = range.take() {
        // Another test may keep the process from forking at this moment.
        range = segment.add_range(new).err();
    }
    for row in &rest {
        section.mark_run(row.start, row.len() as u32, true).unwrap();
    }
    drop(section);
    put(&queue, 900_000);
    let marked: usize = rest.iter().map(ExactSizeIterator::len).sum();
    assert_eq!(
        (hot.bytes_cached(), hot.spans_used.get()),
        (0, marked as u64 + 14)
    );
    let mut section = queue.enter_uninterruptible().unwrap();
    for row in &rest {
        section.mark_run(row.start, row.len() as u32, false).unwrap();
    }
    drop(section);
    assert_eq!(queue.check().unwrap().findings, []);
}

#[test]
fn a_put_does_not_take_what_no_slot_can_keep() {
    let queue = plain(1 << 20);
    put(&queue, 1000);
    drop(get(&queue));
    let kept = queue
        .shared
        .segment
        .slot(queue.shared.segment.hot().cached.freed.get())
        .unwrap();
    kept.extent.set(u64::MAX << 32);
    assert!(matches!(
        now(|wait| queue.put(&[&[7; 1000]], wait)),
        Err(crate::Error::Corrupt { .. })
    ));
}

#[test]
fn no_more_than_a_hundred_findings_are_told() {
    let scene = Scene::new();
    for _ in 0..300 {
        put(&scene.queue, 20);
    }
    for index in 1..scene.hot().slots_high.get() {
        scene.queue.shared.segment.slot(index).unwrap().state.set(15);
    }
    let check = scene.queue.check().unwrap();
    assert_eq!(check.findings.len(), 100);
    assert!(check.finding_count > 300);
}

/// Damage, and what the check must say of it.
type Damage = (fn(&Scene), &'static str);

fn each_is_found(damages: &[Damage]) {
    each_is_found_in(Scene::new, damages);
}

fn each_is_found_in(scene: fn() -> Scene, damages: &[Damage]) {
    for (damage, said) in damages {
        let scene = scene();
        assert_eq!(scene.findings(), [""; 0], "before: {said}");
        damage(&scene);
        let findings = scene.findings();
        assert!(
            findings.iter().any(|finding| finding.contains(said)),
            "not found: {said}; but: {findings:#?}"
        );
    }
}

#[test]
fn damage_to_states_is_found() {
    each_is_found(&[
        (|s| s.hot().note_damage(), "queue: it is marked as damaged"),
        (|s| s.ready_head().state.set(15), "it is in no known state"),
        (
            |s| s.ready_head().commit(StateWord::FREE),
            "it is on a list that is not its state's",
        ),
        (
            |s| s.ready_head().commit(StateWord::unowned(State::Ready, 2)),
            "it was redelivered too often",
        ),
        (
            |s| {
                s.ready_head().commit(StateWord::new(
                    State::Ready,
                    0,
                    s.queue.shared.member_if_any().unwrap(),
                ))
            },
            "it names a holder in a state without one",
        ),
        (
            |s| {
                let slot = s.slot(State::Leased, false);
                slot.commit(StateWord::new(State::Leased, 0, ParticipantId(77)));
            },
            "its holder is no participant",
        ),
        (
            |s| s.slot(State::Free, false).state.set(16),
            "its state has bits without a meaning",
        ),
        (
            |s| s.ready_head().state.set(2 | 1 << 50),
            "it names a note that is none of its own",
        ),
        (
            |s| {
                s.slot(State::Free, false)
                    .commit(StateWord::unowned(State::Dead, 0))
            },
            "it is on a free list but not free",
        ),
        (
            |s| {
                let slot = s.queue.shared.segment.slot(s.hot().slots_high.get()).unwrap();
                slot.state.set(State::Ready as u64);
            },
            "it was never used but is not free",
        ),
        (
            |s| s.slot(State::Leased, false).holder.set(0),
            "no thread holds it",
        ),
        (
            |s| s.slot(State::Leased, false).borrowed.set(1),
            "not as a get does it",
        ),
        (
            |s| s.slot(State::Leased, false).lease.set(0),
            "its lease has an impossible number",
        ),
        (
            |s| s.slot(State::Leased, false).lease.set(1 << 40),
            "its lease has an impossible number",
        ),
        (
            |s| {
                let lease = s.slot(State::Leased, false).lease.get();
                s.slot(State::Leased, true).lease.set(lease);
            },
            "two leases have the same number",
        ),
        (
            |s| s.ready_head().seq.set(1 << 40),
            "its place in the order is impossible",
        ),
        (
            |s| s.ready_head().seq.set(s.slot(State::Dead, false).seq.get()),
            "two items have the same place",
        ),
        (|s| s.ready_head().len.set(100), "do not fit each other"),
        (|s| s.payload(300).0.len.set(20), "do not fit each other"),
        (|s| s.payload(RUN).0.len.set(1 << 20), "do not fit each other"),
        (
            |s| s.queue.shared.segment.header().max_bytes.set(5),
            "header: max_bytes",
        ),
        (
            |s| s.queue.shared.segment.header().acknowledged.set(0),
            "header: acknowledged",
        ),
    ]);
}

#[test]
fn damage_to_lists_is_found() {
    each_is_found(&[
        (
            |s| {
                s.hot().free.next.set(0);
                s.hot().free.freed.set(0);
            },
            "it is on no list",
        ),
        (
            |s| s.hot().free.next.set(s.hot().ready.head.get()),
            "it is on two lists",
        ),
        (
            |s| s.hot().free.freed.set(s.hot().ready.head.get()),
            "it is on two lists",
        ),
        (
            |s| s.hot().free.next.set(1 << 30),
            "free list: it leads out of the slots",
        ),
        (
            |s| s.hot().free.freed.set(1 << 30),
            "list of the freed: it leads out of the slots",
        ),
        (
            |s| {
                s.hot().cached.next.set(0);
                s.hot().cached.freed.set(0);
            },
            "it is on no list",
        ),
        (
            |s| s.hot().cached.next.set(1 << 30),
            "list of the kept: it leads out of the slots",
        ),
        (
            |s| s.hot().cached.freed.set(1 << 30),
            "list of the freed that are kept: it leads out of the slots",
        ),
        (
            |s| s.slot(State::Free, true).extent.set(0),
            "it keeps memory and should not, or the reverse",
        ),
        (
            |s| {
                s.slot(State::Free, false)
                    .extent
                    .set(s.payload(300).0.extent.get())
            },
            "it keeps memory and should not, or the reverse",
        ),
        (
            |s| {
                s.slot(State::Free, true)
                    .extent
                    .set(s.payload(300).0.extent.get())
            },
            "its extent overlaps another's",
        ),
        (
            |s| {
                let slot = s.ready_head();
                s.hot().ready.head.set(slot.next.get());
            },
            "it is on no list",
        ),
        (
            |s| {
                let last = s.me().leased.tail.get();
                s.queue.shared.segment.slot(last).unwrap().prev.set(0);
            },
            "the link back is wrong",
        ),
        (
            |s| s.hot().ready.tail.set(s.hot().ready.head.get()),
            "ready list: its end is wrong",
        ),
        (
            |s| s.ready_head().next.set(s.hot().ready.head.get()),
            "twice on one",
        ),
        (|s| s.ready_head().next.set(0), "ready list: its end is wrong"),
        (
            |s| {
                let (first, second) = (
                    s.ready_head(),
                    s.queue.shared.segment.slot(s.ready_head().next.get()).unwrap(),
                );
                let seq = first.seq.get();
                first.seq.set(second.seq.get());
                second.seq.set(seq);
            },
            "ready list: the order is wrong",
        ),
        (
            |s| {
                let held = &s.me().leased;
                let lease = |slot: u32| &s.queue.shared.segment.slot(slot).unwrap().lease;
                let first = lease(held.head.get()).get();
                lease(held.head.get()).set(lease(held.tail.get()).get());
                lease(held.tail.get()).set(first);
            },
            "the order is wrong",
        ),
        (
            |s| s.hot().dead.tail.set(0),
            "list of dead letters: its end is wrong",
        ),
        (|s| s.hot().dead.head.set(0), "it is on no list"),
        (|s| s.me().leased.head.set(0), "list of leases"),
        (
            |s| {
                s.queue.shared.segment.participant(2).unwrap().leased.head.set(1);
                s.hot().participants_high.set(2);
            },
            "participant 2: it is free but holds something",
        ),
        (
            |s| s.me().word.set(s.me().word.get() & 0xffff_ffff),
            "it has no pid",
        ),
        (
            |s| s.me().word.set(s.me().word.get() | 1 << 25),
            "its word is impossible",
        ),
    ]);
}

#[test]
fn damage_to_what_is_set_aside_and_what_came_back_is_found() {
    let returned = |s: &Scene| s.hot().returned.get();
    assert_ne!(returned(&Scene::without_acknowledgement()), 0);
    each_is_found_in(
        Scene::without_acknowledgement,
        &[
            (|s| s.hot().returned.set(0), "it is on no list"),
            (
                |s| s.hot().returned.set(1 << 30),
                "heap of returned items: it leads out of the slots",
            ),
            (
                |s| {
                    s.queue
                        .shared
                        .segment
                        .slot(s.hot().returned.get())
                        .unwrap()
                        .holder
                        .add(1)
                },
                "its rank is wrong",
            ),
            (
                |s| {
                    s.queue
                        .shared
                        .segment
                        .slot(s.hot().returned.get())
                        .unwrap()
                        .seq
                        .set(100)
                },
                "the order is wrong",
            ),
            (
                |s| {
                    let root = s.queue.shared.segment.slot(s.hot().returned.get()).unwrap();
                    root.next.set(s.hot().returned.get());
                },
                "it is on two lists, or twice on one",
            ),
            (
                |s| s.hot().aside.head.set(0),
                "list of what dead holders set aside: its end is wrong",
            ),
            (
                |s| {
                    let slot = s.queue.shared.segment.slot(s.hot().aside.head.get()).unwrap();
                    slot.commit(StateWord::new(
                        State::Aside,
                        0,
                        s.queue.shared.member_if_any().unwrap(),
                    ));
                },
                "it is on a list that is not its state's",
            ),
            (
                |s| {
                    s.slot(State::Leased, true)
                        .commit(StateWord::unowned(State::GivenUp, 0))
                },
                "its item is only counted, and the slot is not free",
            ),
            (|s| s.hot().given_up.set(1), "unfinished: a recount differs"),
            (
                |s| s.hot().lessees[0].set(0),
                "it has leases and is not noted for them",
            ),
        ],
    );
}

/// A queue with items that are delayed.
fn with_delayed() -> Scene {
    let scene = Scene::new();
    for seconds in [300, 100, 200, 50, 400] {
        let delay = std::time::Duration::from_secs(seconds);
        now(|wait| scene.queue.put_delayed(&[b"later"], delay, wait)).unwrap();
    }
    scene
}

#[test]
fn damage_to_what_is_delayed_is_found() {
    fn root(s: &Scene) -> &Slot {
        let index = s.hot().delayed.head.get();
        s.queue.shared.segment.slot(index).unwrap()
    }
    assert_eq!(with_delayed().findings(), [""; 0]);
    assert_eq!(root(&with_delayed()).word().state(), Some(State::Delayed));
    each_is_found_in(
        with_delayed,
        &[
            (|s| s.hot().delayed.head.set(0), "it is on no list"),
            (
                |s| s.hot().delayed.head.set(1 << 30),
                "heap of delayed items: it leads out of the slots",
            ),
            (
                |s| s.hot().delayed_count.add(1),
                "delayed_count: a recount differs",
            ),
            (|s| s.hot().due_at.add(1), "due_at: a recount differs"),
            (|s| s.hot().timekeeper.set(1 << 20), "timekeeper: it is too large"),
            (
                |s| s.hot().phase.set(OPEN),
                "phase's mark of delays: a recount differs",
            ),
            (|s| root(s).lease.set(u64::MAX), "heap of delayed items"),
            (|s| root(s).holder.add(1), "its rank is wrong"),
            (
                |s| root(s).commit(StateWord::unowned(State::Ready, 0)),
                "it is on a list that is not its state's",
            ),
        ],
    );
    let scene = with_delayed();
    let mut section = scene.queue.enter_uninterruptible().unwrap();
    section.rebuild().unwrap();
    drop(section);
    assert_eq!(scene.findings(), [""; 0], "after a rebuild");
}

/// A queue with a note of the item at the ready list's head.
fn with_a_note() -> Scene {
    let scene = Scene::new();
    let head = scene.hot().ready.head.get();
    let death = Death {
        pid: 7,
        at: 0,
        ended: Ended::Killed(9),
    };
    let mut section = scene.queue.enter_uninterruptible().unwrap();
    section.note_death(head, death).unwrap();
    drop(section);
    scene
}

#[test]
fn damage_to_notes_is_found() {
    fn note(s: &Scene) -> &Slot {
        let index = s.ready_head().word().past().note();
        s.queue.shared.segment.slot(index).unwrap()
    }
    assert_eq!(with_a_note().findings(), [""; 0]);
    assert_eq!(with_a_note().queue.check().unwrap().notes, 1);
    each_is_found_in(
        with_a_note,
        &[
            (
                |s| note(s).holder.add(1),
                "it names a note that is none of its own",
            ),
            (|s| note(s).seq.set(1 << 40), "it is a note, and no item names it"),
            (
                |s| {
                    let word = s.ready_head().word();
                    s.ready_head().commit(word.with_past(Past::NONE));
                },
                "it is a note, and no item names it",
            ),
            (|s| note(s).commit(StateWord::FREE), "it is on no list"),
            (|s| s.hot().notes.add(1), "notes: a recount differs"),
        ],
    );
    // The rebuild keeps a note that an item names, and frees any other.
    let scene = with_a_note();
    for notes in [1, 0] {
        if notes == 0 {
            scene.ready_head().commit(StateWord::unowned(State::Ready, 0));
        }
        let mut section = scene.queue.enter_uninterruptible().unwrap();
        section.rebuild().unwrap();
        drop(section);
        assert_eq!(scene.findings(), [""; 0], "after a rebuild");
        assert_eq!(scene.queue.check().unwrap().notes, notes);
    }
}

#[test]
fn damage_to_counters_is_found() {
    each_is_found(&[
        (|s| s.hot().ready_count.add(1), "ready_count: a recount differs"),
        (|s| s.hot().ready_bytes.add(1), "ready_bytes: a recount differs"),
        (|s| s.hot().discarded.set(1), "discarded: a recount differs"),
        (|s| s.hot().unfinished.add(1), "unfinished: a recount differs"),
        (|s| s.hot().owned_count.sub(1), "owned_count: a recount differs"),
        (|s| s.hot().dead_count.set(0), "dead_count: a recount differs"),
        (|s| s.hot().orphans.set(2), "unfinished: a recount differs"),
        (
            |s| s.me().given_up.set(1),
            "given_up_of_living: a recount differs",
        ),
        (|s| s.me().producing.set(1), "it is in a block and has not begun"),
        (|s| s.me().producing.set(5 << 32), "producing: it is too large"),
        (|s| s.hot().taken_bytes.add(128), "taken_bytes: a recount differs"),
        (|s| s.hot().ready_done.set(3), "ready_done: a recount differs"),
        (|s| s.hot().used_bytes.sub(128), "used_bytes: a recount differs"),
        (|s| s.hot().cached_sum.sub(512), "kept_bytes: a recount differs"),
        (|s| s.hot().cached_sum.add(ONE_CACHED), "kept: a recount differs"),
        (|s| s.hot().lent_bytes.add(128), "lent_bytes: a recount differs"),
        (|s| s.hot().published.set(3), "published: it is too small"),
        (|s| s.hot().high_water.set(1), "high_water: it is too small"),
        (|s| s.hot().high_water.set(1 << 40), "high_water: it is too large"),
        (
            |s| s.hot().put_bytes.set(100 | s.hot().published.get() & 1),
            "put_bytes: it is too small",
        ),
        (
            |s| s.hot().put_bytes.set(s.hot().put_bytes.get() ^ 1),
            "put_bytes: a recount differs",
        ),
        (|s| s.hot().slots_high.set(1 << 20), "slots_high: it is too large"),
        (|s| s.hot().slots_high.set(0), "slots_high: it is too small"),
        (|s| s.hot().slots_backed.set(3), "slots_high: it is too large"),
        (
            |s| s.hot().slots_backed.set(u32::MAX),
            "slots_backed: it is too large",
        ),
        (
            |s| s.hot().participants_high.set(PARTICIPANTS),
            "participants_high: it is too large",
        ),
    ]);
}

#[test]
fn damage_to_the_heap_is_found() {
    fn at(start: u32, granules: u32) -> u64 {
        Extent { start, granules }.pack()
    }
    each_is_found(&[
        (
            |s| s.payload(300).0.extent.set(at(u32::MAX, 3)),
            "its extent lies outside the heap",
        ),
        (
            |s| {
                let (slot, span) = s.payload(300);
                slot.extent.set(at(span * GRANULES_PER_SPAN + 1, 3));
            },
            "its extent is no object of its span",
        ),
        (
            |s| s.payload(300).0.extent.set(s.payload(2000).0.extent.get()),
            "its extent overlaps another's",
        ),
        (
            |s| {
                let (slot, span) = s.payload(RUN);
                slot.extent
                    .set(at(span * GRANULES_PER_SPAN + 1, 2 * GRANULES_PER_SPAN));
            },
            "its run of spans is not whole",
        ),
        (
            |s| {
                let (slot, span) = s.payload(300);
                slot.extent.set(at((span + 20) * GRANULES_PER_SPAN, 3));
            },
            "its span is not divided",
        ),
        (
            |s| s.divided().0.taken[0].set(u64::MAX),
            "its objects taken are others",
        ),
        (|s| s.divided().0.used.add(1), "a recount of its objects differs"),
        (|s| s.divided().0.class.set(40), "it has no known class"),
        (
            |s| s.divided().0.class.set(6),
            "it is on the list of another class",
        ),
        (|s| s.divided().0.prev.set(5), "the link back is wrong"),
        (
            |s| s.divided().0.next.set(s.divided().1 + 1),
            "it is listed twice",
        ),
        (
            |s| s.divided().0.next.set(1 << 30),
            "the list leads out of the heap",
        ),
        (
            |s| s.hot().partial.iter().for_each(|head| head.set(0)),
            "it has room and is not listed",
        ),
        (
            |s| s.hot().partial[0].set(s.payload(RUN).1 + 1),
            "the list leads out of the heap",
        ),
        (
            |s| s.queue.shared.segment.bitmap(0).unwrap().set(0),
            "it is in use but not taken",
        ),
        (
            |s| s.queue.shared.segment.bitmap(0).unwrap().set(u64::MAX),
            "it is taken but not in use",
        ),
        (
            |s| s.queue.shared.segment.backing(s.payload(RUN).1).unwrap().set(3),
            "there is no memory behind its payload",
        ),
        (
            |s| {
                let backing = s.queue.shared.segment.backing(s.divided().1).unwrap();
                backing.set(backing.get() & !31 | 3);
            },
            "it is divided without memory behind it",
        ),
        (
            |s| s.queue.shared.segment.backing(s.divided().1).unwrap().set(0x80),
            "its backing byte is impossible",
        ),
        (
            |s| s.queue.shared.segment.backing(30).unwrap().set(31),
            "its backing byte is impossible",
        ),
        (
            |s| s.queue.shared.segment.backing(30).unwrap().set(16),
            "spans_high: it is too small",
        ),
        (
            |s| {
                let (run, divided) = (s.payload(RUN).1, s.divided());
                let backing = s.queue.shared.segment.backing(divided.1).unwrap().get();
                s.queue.shared.segment.backing(run).unwrap().set(backing);
                s.queue.shared.segment.descriptor(run).unwrap().class.set(1);
            },
            "it is divided and part of a run",
        ),
        (|s| s.hot().spans_used.add(1), "spans_used: a recount differs"),
        (|s| s.hot().pages_backed.sub(1), "pages_backed: a recount differs"),
        (|s| s.hot().span_hint.set(60), "span_hint: it is too large"),
        (|s| s.hot().spans_high.set(1), "spans_high: it is too small"),
        (|s| s.hot().spans_high.set(1 << 20), "spans_high: it is too large"),
    ]);
}

#[test]
fn damage_to_ranges_is_found() {
    each_is_found(&[
        (|s| s.hot().ranges.set(0), "ranges: they are others than mapped"),
        (
            |s| s.hot().ranges.set(0xffff_ffff),
            "ranges: they are others than mapped",
        ),
        // One more, which has no end.
        (
            |s| s.hot().ranges.set(s.hot().ranges.get() + (1 << 8)),
            "ranges: they are others than mapped",
        ),
        (
            |s| s.hot().slots_backed.set(1 << 12),
            "slots_backed: it is too large",
        ),
    ]);
    let queue = plain(64 << 20);
    put(&queue, 20 << 20);
    assert_eq!(queue.check().unwrap().findings, []);
    queue.shared.segment.hot().heap_seams.set(0);
    let findings = queue.check().unwrap().findings;
    assert!(
        findings
            .iter()
            .any(|finding| finding.to_string().starts_with("heap_seams: ")),
        "{findings:?}"
    );
}

#[test]
fn damage_to_waiters_is_found() {
    fn joiners(s: &Scene) -> &WaiterList {
        &s.hot().waiters[Kind::Finish as usize]
    }
    each_is_found(&[
        (|s| s.cell(1).word.set(77), "cell 1: its word is impossible"),
        (|s| s.cell(1).word.set(WOKEN), "it is listed but does not wait"),
        (
            |s| s.cell(3).word.set(SLEEPING),
            "it is on a list and must not, or the reverse",
        ),
        (
            |s| s.cell(5).word.set(LATE),
            "it is on the free list but not free",
        ),
        (|s| s.cell(3).kind.set(7), "it waits for nothing known"),
        (|s| s.cell(1).kind.set(0), "it is on the list of another kind"),
        (
            |s| s.cell(1).owner.set(77),
            "cell 1: its waiter is no participant",
        ),
        (|s| s.cell(2).prev.set(0), "the link back is wrong"),
        (|s| s.cell(2).next.set(1), "twice on one"),
        (|s| s.cell(2).next.set(9), "a list leads out of the cells"),
        (|s| joiners(s).tail.set(1), "list of joiners: its end is wrong"),
        (
            |s| joiners(s).length.set(5),
            "list of joiners: its length is wrong",
        ),
        (
            |s| s.hot().cells_free.set(0),
            "it is on a list and must not, or the reverse",
        ),
        (|s| s.hot().cells_free.set(1), "it is on two lists"),
        (|s| s.hot().cells_high.set(0), "cells_high: it is too small"),
        (|s| s.hot().cells_high.set(1000), "cells_high: it is too large"),
        (
            |s| s.hot().cells_backed.set(CELLS + 1),
            "cells_backed: it is too large",
        ),
        (
            |s| s.hot().waiters[Kind::Item as usize].notified.set(0),
            "getters notified: a recount differs",
        ),
        (
            |s| s.hot().spinning.getter.set(0x5_0001),
            "getter_spinning: it names no participant",
        ),
        (
            |s| s.hot().unfinished.set(0),
            "they sleep although nothing is unfinished",
        ),
        (|s| s.hot().watching.set(2), "watching: a recount differs"),
        (
            |s| s.hot().watching_finish.set(0),
            "watching_finish: a recount differs",
        ),
        (
            |s| s.hot().pipe_state.set(FULL),
            "pipe_state: it disagrees with the room for items",
        ),
        (
            |s| s.hot().finish_state.set(SIGNALLED),
            "finish_state: it disagrees with the unfinished items",
        ),
        (
            |s| s.queue.shared.segment.participant(1).unwrap().watching.set(0),
            "watching: a recount differs",
        ),
        (
            |s| s.hot().pipe_state.set(DRAINED),
            "pipe_state: it disagrees with the number of items",
        ),
    ]);
}

/// A queue with parked slots, spare pages, absent pages, and pages that are being given back.
fn with_absent_pages() -> Scene {
    let queue = plain(64 << 20);
    for _ in 0..3000 {
        put(&queue, 20);
    }
    // Three items stay, the last of them above all slots that are free.
    put(&queue, RUN);
    for _ in 0..2990 {
        get(&queue);
    }
    let scene = Scene {
        queue: queue.clone(),
        lent: Vec::new(),
    };
    let hot = scene.hot();
    // The trim in the course of these gets has tracked the pages.
    assert!(hot.pages_tracked.get() >= 100);
    let mut section = queue.enter_uninterruptible().unwrap();
    section.release_cached().unwrap();
    while section.park_slots(1000).unwrap() == Portion::MoreToCome {}
    let claim = |section: &mut Section<'_>, most| match section.claim_spare_pages(&mut u32::MAX.clone(), most)
    {
        Ok(Spare::Claimed(claim, pages)) => (claim.slot, pages),
        _ => panic!("there are spare pages"),
    };
    let (slot, pages) = claim(&mut section, 20);
    section.note_pages_punched(&pages).unwrap();
    section.release_claim(slot).unwrap();
    // Its trimmer was refused by the system.
    let (slot, _) = claim(&mut section, 5);
    section.release_claim(slot).unwrap();
    // Above these, so that the next claim names others.
    let (_, pages) = claim(&mut section, 5);
    assert_eq!(pages.len(), 5);
    drop(section);
    scene
}

#[test]
fn a_queue_with_absent_pages_is_sound_and_so_it_is_when_rebuilt() {
    let scene = with_absent_pages();
    assert_eq!(scene.findings(), [""; 0]);
    let hot = scene.hot();
    let absent = hot.pages_absent.get();
    assert!(absent >= 25, "{absent} pages");
    for rebuilds in 1..=2 {
        let mut section = scene.queue.enter_uninterruptible().unwrap();
        section.rebuild().unwrap();
        drop(section);
        assert_eq!(scene.findings(), [""; 0], "after {rebuilds} rebuilds");
        assert_eq!(hot.pages_absent.get(), absent);
        assert_eq!(hot.slots_parked.get(), absent * SLOTS_PER_PAGE);
    }
    // All of them can be had again: those that are claimed, too, once their claim has ended.
    let claimed = scene.me().claimed.head.get();
    let mut section = scene.queue.enter_uninterruptible().unwrap();
    section.release_claim(claimed).unwrap();
    drop(section);
    for _ in 0..4000 {
        put(&scene.queue, 20);
    }
    assert_eq!(hot.pages_absent.get(), 0);
    assert_eq!(scene.findings(), [""; 0]);
}

/// A trim comes between a put's extension of memory and its return under the lock.
#[test]
fn memory_that_a_put_has_extended_in_vain_is_punched_or_remnant() {
    for is_claimed in [false, true] {
        let scene = with_absent_pages();
        let (queue, hot) = (&scene.queue, scene.hot());
        let segment = &queue.shared.segment;
        let mut section = queue.enter_uninterruptible().unwrap();
        let trims = hot.slot_trims.get();
        let pages = section.find_absent_pages().unwrap().unwrap();
        let words = || {
            pages
                .clone()
                .map(|page| segment.slot_page(page).unwrap().word.get())
        };
        assert!(words().all(|word| word == ABSENT | ALL_PARKED | REMNANT));
        let claimed = is_claimed.then(|| {
            let most = pages.end - pages.start;
            let claimed = section.claim_spare_pages(&mut pages.end.clone(), most).unwrap();
            let Spare::Claimed(Lease { slot, .. }, claimed) = claimed else {
                panic!("they are spare");
            };
            assert_eq!(claimed, pages);
            slot
        });
        if claimed.is_none() {
            // A trimmer has come and gone.
            section.note_pages_punched(&pages).unwrap();
            hot.pages_spare.sub(pages.end - pages.start);
            hot.slot_trims.add(1);
        }
        let bytes = || platform::backed_bytes(segment.fd().unwrap().get()).unwrap();
        let start = segment.geometry.slots_at + u64::from(pages.start) * PAGE;
        let length = u64::from(pages.end - pages.start) * PAGE;
        assert!(segment.punch(start, length));
        let before = bytes();
        segment.back(start, length).unwrap();
        assert_eq!(bytes(), before + length);
        section.note_pages_backed(pages.clone(), trims).unwrap();
        match claimed {
            Some(slot) => {
                assert_eq!(bytes(), before);
                section.note_pages_punched(&pages).unwrap();
                section.release_claim(slot).unwrap();
                assert!(words().all(|word| word == ABSENT | ALL_PARKED));
            }
            None => assert!(words().all(|word| word == ABSENT | ALL_PARKED | REMNANT)),
        }
        drop(section);
        assert_eq!(scene.findings(), [""; 0]);
    }
}

#[test]
fn memory_above_the_marks_that_a_trim_has_lowered_is_punched() {
    let queue = plain(64 << 20);
    let (segment, hot) = (&queue.shared.segment, queue.shared.segment.hot());
    put(&queue, 20);
    let mut section = queue.enter_uninterruptible().unwrap();
    let backed = hot.slots_backed.get();
    let (old, new) = (backed + 4 * SLOTS_PER_PAGE, backed + 8 * SLOTS_PER_PAGE);
    let bytes = || platform::backed_bytes(segment.fd().unwrap().get()).unwrap();
    let before = bytes();
    let start = segment.geometry.slots_at + u64::from(old / SLOTS_PER_PAGE) * PAGE;
    segment.back(start, 4 * PAGE).unwrap();
    let trims = hot.slot_trims.get();
    // The marks are where the put has found them, but a trim has come between.
    assert!(!section.is_growth_noted((backed, new)).unwrap());
    assert_eq!((bytes(), hot.slot_trims.get()), (before + 4 * PAGE, trims));
    assert!(section.is_growth_noted((old, new)).unwrap());
    assert_eq!((bytes(), hot.slot_trims.get()), (before, trims + 1));
}

#[test]
fn damage_to_pages_of_slots_is_found() {
    fn word(s: &Scene, belongs: fn(u64) -> bool) -> &crate::sync::AtomicU64 {
        (0..s.hot().pages_tracked.get())
            .map(|page| &s.queue.shared.segment.slot_page(page).unwrap().word)
            .find(|word| belongs(word.get()))
            .unwrap()
    }
    fn absent(s: &Scene) -> &crate::sync::AtomicU64 {
        word(s, |word| word == ABSENT | ALL_PARKED)
    }
    each_is_found_in(
        with_absent_pages,
        &[
            (
                |s| absent(s).set(absent(s).get() | 1 << 60),
                "its word is impossible",
            ),
            (|s| absent(s).set(ABSENT), "its word is impossible"),
            (|s| absent(s).set(0), "it is on no list"),
            (
                |s| word(s, |word| word == ALL_PARKED).set(ABSENT | ALL_PARKED),
                "pages_absent: a recount differs",
            ),
            (
                |s| word(s, |word| word == 0).set(ABSENT | ALL_PARKED),
                "it is on a list but has no memory",
            ),
            (
                |s| {
                    let ready = s.hot().ready.head.get();
                    let page = s.queue.shared.segment.slot_page(ready / SLOTS_PER_PAGE).unwrap();
                    page.word.set(page.word.get() | 1 << (ready % SLOTS_PER_PAGE));
                },
                "it is on two lists, or twice on one",
            ),
            (
                |s| {
                    let word = word(s, |word| word == ALL_PARKED);
                    word.set(word.get() & !4);
                },
                "it is on no list",
            ),
            (
                |s| {
                    let word = word(s, |word| word & TAKEN != 0);
                    word.set(word.get() & !TAKEN);
                },
                "it claims a page of slots that is not taken",
            ),
            (
                |s| absent(s).set(absent(s).get() | TAKEN),
                "pages of slots taken: a recount differs",
            ),
            (
                |s| {
                    let slot = s.queue.shared.segment.slot(s.me().claimed.head.get()).unwrap();
                    slot.seq.set(0);
                },
                "pages of slots taken: a recount differs",
            ),
            (|s| s.hot().slots_parked.add(1), "slots_parked: a recount differs"),
            (|s| s.hot().pages_spare.sub(1), "pages_spare: a recount differs"),
            (|s| s.hot().pages_absent.set(0), "pages_absent: a recount differs"),
            (
                |s| s.hot().parked_hint.set(1 << 20),
                "parked_hint: it is too large",
            ),
            (
                |s| s.hot().absent_hint.set(1 << 20),
                "absent_hint: it is too large",
            ),
            (
                |s| s.hot().pages_tracked.set(1 << 30),
                "pages_tracked: it is too large",
            ),
            (
                |s| s.hot().slots_high.set(40),
                "slots are parked that were never used",
            ),
        ],
    );
}

#[test]
fn damage_to_aged_waiters_is_found() {
    each_is_found_in(
        Scene::with_putters,
        &[
            (
                |s| s.hot().spinning.aged[1].count.set(2),
                "list of putters: the number of the aged is wrong",
            ),
            (
                |s| s.hot().spinning.aged[1].tail.set(2),
                "list of putters: the last of the aged is wrong",
            ),
            (
                |s| {
                    s.cell(1).since.set(0);
                    s.cell(2).since.set(1);
                },
                "cell 2: it has aged and is behind one that has not",
            ),
            (
                |s| s.hot().spinning.aged[1].handed.set(1),
                "putters handed: a recount differs",
            ),
        ],
    );
    each_is_found_in(
        Scene::with_a_handed_putter,
        &[(
            |s| s.cell(1).seq.set(0),
            "cell 1: its place was handed and its item not published",
        )],
    );
    each_is_found_in(
        Scene::with_handed_getters,
        &[
            (
                |s| s.slot(State::Handed, true).borrowed.set(1),
                "it is handed and borrowed",
            ),
            (|s| s.cell(1).number.set(99), "items handed: a recount differs"),
            (
                |s| s.hot().spinning.aged[0].handed.set(0),
                "getters handed: a recount differs",
            ),
            (
                |s| {
                    let slot = s.slot(State::HandedDone, false);
                    slot.commit(StateWord::unowned(State::HandedDone, 0));
                },
                "its holder is no participant",
            ),
        ],
    );
}

/// The slot of a lent payload has no memory, as the damaged words say: the end of the borrow reports that,
/// and does not touch the slot, which would put memory behind it.
#[test]
fn a_lent_slot_without_memory_is_damage() {
    type Change = fn(&Hot);
    let damages: [(bool, Change); 4] = [
        (false, |hot| hot.slots_high.set(1)),
        (false, |hot| hot.pages_tracked.set(1)),
        (true, |hot| hot.slots_backed.set(1)),
        (true, |hot| hot.pages_tracked.set(1)),
    ];
    for (is_put_off, damage) in damages {
        let queue = plain(4 << 20);
        put(&queue, RUN);
        let lent = get(&queue).unwrap();
        let (segment, me) = (&queue.shared.segment, queue.member().unwrap());
        assert!(lent.lease.slot < SLOTS_PER_PAGE);
        segment.back(segment.geometry.pages_at, PAGE).unwrap();
        segment.slot_page(0).unwrap().word.set(ABSENT | ALL_PARKED);
        assert!(segment.punch(segment.geometry.slots_at, PAGE));
        damage(segment.hot());
        let bytes = || platform::backed_bytes(segment.fd().unwrap().get()).unwrap();
        let before = bytes();
        if is_put_off {
            let put_off = queue.put_off_for_slot(lent.lease, ENDED, me);
            assert!(matches!(put_off, Err(Error::Corrupt { .. })), "{put_off:?}");
            core::mem::forget(lent);
        } else {
            drop(lent);
            assert!(segment.hot().is_damaged());
        }
        assert_eq!(bytes(), before);
    }
}

/// A process that was wrongly taken for dead has another id, and the slot that it was lent may be gone.
#[test]
fn what_a_former_self_was_lent_is_not_touched() {
    let queue = plain(4 << 20);
    let me = queue.member().unwrap();
    let former = ParticipantId::new(me.index(), me.incarnation() + 1);
    let gone = Lease {
        slot: queue.shared.segment.geometry.slots - 1,
        number: 1,
    };
    for former in [former, ParticipantId::NONE] {
        assert_eq!(queue.put_off_for_slot(gone, ENDED, former), Ok(()));
        let section = now(|mut wait| queue.enter(&mut wait)).unwrap();
        assert!(section.lent_to_me(gone, former).unwrap().is_none());
    }
    assert!(!queue.shared.segment.hot().is_damaged());
}
