//! What must hold when all processes of a model have ended: the invariants of the head comments of slot.rs,
//! waiters.rs, lock/word.rs and participant.rs, counted from the truth and compared with the caches.

use std::sync::Arc;

use crate::handle::queue::Queue;
use crate::memory::layout::{List, Slot};
use crate::state::Section;
use crate::state::slot::State;
use crate::state::waiters;
use crate::sync::Word;

/// Takes the lock, sweeps the dead, and checks everything. Returns the items that are queued.
pub(crate) fn audit(queue: &Arc<Queue>) -> Vec<u8> {
    // Twice, because a process that died in the critical section is found by the next holder of the lock.
    for _ in 0..2 {
        let statistics = queue.statistics().expect("the queue is whole");
        assert_eq!(
            statistics.puts,
            statistics.gets
                + statistics.queued
                + statistics.delayed
                + statistics.dead_letters
                + statistics.discarded,
            "the counters do not add up"
        );
        assert_eq!(statistics.participants, 1, "the auditor alone is left");
    }
    let section = queue.enter_uninterruptible().expect("the queue is whole");
    let hot = section.hot();
    assert!(!hot.is_damaged());

    let mut of_state = [const { Vec::new() }; State::COUNT];
    for index in 1..hot.slots_high.get() {
        let state = section
            .slot(index)
            .unwrap()
            .word()
            .state()
            .expect("a known state");
        of_state[state as usize].push(index);
    }
    let ready = walk(&section, &hot.ready);
    let is_ordered = ready
        .windows(2)
        .all(|pair| seq(&section, pair[0]) < seq(&section, pair[1]));
    assert!(is_ordered, "the ready list is out of order");
    let place: Key = |slot| slot.seq.get();
    let returned = walk_heap(&section, hot.returned.get(), 1, place);
    let mut delayed = walk_heap(&section, hot.delayed.head.get(), 1, |slot| slot.lease.get());
    delayed.sort_unstable();
    assert_eq!(delayed, of_state[State::Delayed as usize], "the delayed items");
    assert_eq!(hot.delayed_count.get(), delayed.len() as u64);
    assert_eq!(hot.timekeeper.get(), 0, "a timekeeper is left");
    let mut found = [&ready[..], &returned[..]].concat();
    found.sort_unstable();
    let mut expected = [
        &of_state[State::Ready as usize][..],
        &of_state[State::ReadyDone as usize][..],
    ]
    .concat();
    expected.sort_unstable();
    assert_eq!(found, expected, "the ready list and the returned items");
    assert_eq!(hot.ready_count.get(), found.len() as u64);
    for state in [
        State::Leased,
        State::Left,
        State::Claimed,
        State::Orphan,
        State::Handed,
        State::HandedDone,
        State::Discarded,
    ] {
        assert!(of_state[state as usize].is_empty());
    }
    let owned = delayed.len() as u64;
    assert_eq!((hot.owned_count.get(), hot.lent_bytes.get()), (owned, 0));
    let mut dead = walk(&section, &hot.dead);
    dead.sort_unstable();
    assert_eq!(dead, of_state[State::Dead as usize]);
    let last = found.iter().map(|index| seq(&section, *index)).max().unwrap_or(0);
    assert!(hot.published.get() >= last, "a publication number would repeat");
    if queue.shared.options.acknowledged {
        let unfinished = of_state[State::Ready as usize].len() as u64 + hot.orphans.get() + owned;
        assert_eq!(hot.unfinished.get(), unfinished);
    }

    // Every free slot is on a free list. A process that dies may have taken some off; the rebuild has
    // returned them.
    let mut free = Vec::new();
    for head in [
        &hot.free.next,
        &hot.free.freed,
        &hot.cached.next,
        &hot.cached.freed,
    ] {
        let mut index = head.get();
        while index != 0 {
            assert!(!free.contains(&index), "a free list has a cycle");
            free.push(index);
            index = section.slot(index).unwrap().next.get();
        }
    }
    free.sort_unstable();
    assert_eq!(free, of_state[State::Free as usize], "the free lists");
    let bytes: u64 = expected
        .iter()
        .chain(&dead)
        .chain(&delayed)
        .filter_map(|index| {
            crate::memory::payload::Extent::unpack(section.slot(*index).unwrap().extent.get())
        })
        .map(crate::memory::payload::Extent::bytes)
        .sum();
    assert_eq!(hot.used_bytes.get(), bytes, "an extent has leaked");

    for list in &hot.waiters {
        let all = [
            list.head.get(),
            list.tail.get(),
            list.length.get(),
            list.notified.get(),
        ];
        assert_eq!(all, [0; 4], "a waiter is left");
    }
    for aged in &hot.spinning.aged {
        let all = [aged.count.get(), aged.tail.get(), aged.handed.get()];
        assert_eq!(all, [0; 3], "an aged waiter is left");
    }
    assert_eq!(hot.spinning.getter.get() | hot.spinning.putter.get(), 0);
    for index in 1..hot.cells_high.get() {
        assert_eq!(
            section.cell(index).unwrap().word.get(),
            waiters::FREE,
            "a cell has leaked"
        );
    }
    found.sort_by_key(|index| seq(&section, *index));
    found
        .iter()
        .map(|index| {
            let mut copy = Vec::with_capacity(1);
            let segment = &queue.shared.segment;
            segment
                .copy_out(section.slot(*index).unwrap(), 1, &mut copy)
                .unwrap();
            copy[0]
        })
        .collect()
}

type Key = fn(&Slot) -> u64;

/// The slots of a heap, none of which comes before its parent.
fn walk_heap(section: &Section<'_>, index: u32, least: u64, key: Key) -> Vec<u32> {
    if index == 0 {
        return Vec::new();
    }
    let slot = section.slot(index).unwrap();
    assert!(key(slot) >= least, "a heap of items is out of order");
    let walked = slot
        .subtrees()
        .map(|subtree| walk_heap(section, subtree, key(slot), key));
    [&[index], &walked[0][..], &walked[1][..]].concat()
}

fn seq(section: &Section<'_>, index: u32) -> u64 {
    section.slot(index).unwrap().seq.get()
}

/// The slots of a list, whose links must agree in both directions; those of the ready list have one.
fn walk(section: &Section<'_>, list: &List) -> Vec<u32> {
    let mut found = Vec::new();
    let (mut prev, mut index) = (0, list.head.get());
    while index != 0 {
        assert!(!found.contains(&index), "a list has a cycle");
        let slot = section.slot(index).unwrap();
        let is_linked_back = !core::ptr::eq(list, &section.hot().ready);
        assert!(!is_linked_back || slot.prev.get() == prev, "a list is torn");
        found.push(index);
        (prev, index) = (index, slot.next.get());
    }
    assert_eq!(list.tail.get(), prev, "a list is torn");
    found
}
