//! What the get that empties a watched queue gives back.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::operations::delivery::Buffer;
use crate::options::Options;
use crate::options::testing::{ACKNOWLEDGED, PLAIN, now};
use crate::state::heap::MAYBE_MORE;
use crate::state::held::Verdict;

const MIB: u64 = 1 << 20;

fn watched() -> Arc<Queue> {
    let queue = Queue::create(&Options {
        max_bytes: Some(1 << 30),
        ..PLAIN
    })
    .unwrap();
    now(|wait| queue.watch(wait)).unwrap();
    queue
}

/// Puts a burst and takes it again. Answers the memory of the full queue and of the empty one; `None` if
/// that took so long that a trim was due.
fn burst(queue: &Arc<Queue>, bytes: u64, size: usize) -> Option<(u64, u64)> {
    let hot = queue.shared.segment.hot();
    let payload = vec![7; size];
    let count = bytes / size as u64;
    let memory = || queue.statistics().unwrap().memory_bytes;
    for _ in 0..count {
        now(|wait| queue.put(&[&payload], wait)).unwrap();
    }
    let full = memory();
    hot.grown.set(1);
    let begun = platform::coarse_millis();
    for time in [&hot.trimmed_at, &hot.emptied_at] {
        time.set(begun);
    }
    for _ in 0..count {
        now(|wait| queue.get(&mut Buffer::default(), wait)).unwrap();
    }
    // Not by the time of the last trim, which may be one that was due.
    let is_quick = platform::coarse_millis() - begun < KEEP_WARM;
    assert_eq!(hot.ready_count.get(), 0);
    is_quick.then(|| (full, memory()))
}

/// A burst that is not larger than what a queue keeps costs no new page, neither of the heap nor of slots.
#[test]
fn a_burst_within_the_allowance_gives_nothing_back() {
    for (bytes, size) in [
        (15 * MIB, MIB as usize),
        (15 * MIB, 64 << 10),
        // Runs of two spans, of which the second has memory behind its first page only.
        (14 * MIB, 66_000),
        (12 * MIB, 1000),
        (4 * MIB, 40),
    ] {
        let queue = watched();
        let mut before = None;
        for _ in 0..3 {
            let Some((full, empty)) = burst(&queue, bytes, size) else {
                println!("NOT TESTED: the machine is too slow");
                return;
            };
            assert!(full <= 16 * MIB, "{full} bytes, {bytes} of {size}");
            assert!(full - empty < MIB / 4, "{full} and {empty}, {bytes} of {size}");
            assert!(before.is_none_or(|before| full <= before + MIB / 4));
            before = Some(full);
        }
    }
}

/// A larger one leaves all that a queue may keep, so that the next one pays for the rest only.
#[test]
fn a_larger_burst_gives_back_no_more_than_it_must() {
    for (bytes, size) in [
        (17 * MIB, MIB as usize),
        (40 * MIB, MIB as usize),
        (40 * MIB, 64 << 10),
        (40 * MIB, 66_000),
        (30 * MIB, 1000),
        (10 * MIB, 40),
    ] {
        let queue = watched();
        for _ in 0..3 {
            let Some((full, empty)) = burst(&queue, bytes, size) else {
                println!("NOT TESTED: the machine is too slow");
                return;
            };
            assert!(full > 16 * MIB, "{full} bytes, {bytes} of {size}");
            assert!(empty <= 16 * MIB, "{empty} of {full} bytes, {bytes} of {size}");
            assert!(empty >= 14 * MIB, "{empty} of {full} bytes, {bytes} of {size}");
        }
        assert_eq!(queue.check().unwrap().findings, []);
    }
}

/// A putter knows what lies behind a span that it has extended, unless another has died in that before.
#[test]
fn what_a_dead_putter_has_extended_is_not_forgotten() {
    for is_left in [false, true] {
        let queue = watched();
        let (segment, hot) = (&queue.shared.segment, queue.shared.segment.hot());
        now(|wait| queue.put(&[&vec![7; 66_000]], wait)).unwrap();
        assert_eq!(hot.pages_backed.get(), 17);
        if is_left {
            let section = queue.enter_uninterruptible().unwrap();
            section.set_backing(3, MAYBE_MORE).unwrap();
        }
        now(|wait| queue.put(&[&vec![7; 66_000]], wait)).unwrap();
        assert_eq!(
            hot.pages_backed.get(),
            if is_left { 17 + 16 + 16 } else { 17 + 17 }
        );
        let backing = segment.backing(3).unwrap().get();
        assert_eq!(backing & MAYBE_MORE != 0, is_left);
        assert_eq!(queue.check().unwrap().findings, []);
    }
}

/// More notes than a trim leaves free slots: they call for no trim.
#[test]
fn notes_are_no_free_slots() {
    let queue = Queue::create(&Options {
        max_bytes: Some(1 << 30),
        ..ACKNOWLEDGED
    })
    .unwrap();
    for _ in 0..2 * SLOTS_LISTED {
        now(|wait| queue.put(&[b"item"], wait)).unwrap();
        let (_, held) = now(|wait| queue.hold(&mut Buffer::default(), wait)).unwrap();
        let noted = (Duration::ZERO, &b"why"[..]);
        let settled = now(|wait| queue.settle_noting(&held, Verdict::Rejected, noted, wait));
        assert_eq!(settled, Ok(true));
    }
    let hot = queue.shared.segment.hot();
    assert_eq!(u64::from(hot.notes.get()), 2 * SLOTS_LISTED);
    hot.trimmed_at.set(0);
    queue.trim_if_due().unwrap();
    assert!(spare_memory(&queue.shared.segment) == SpareMemory::None);
    now(|wait| queue.purge(None, wait)).unwrap();
    assert_eq!((hot.notes.get(), queue.check().unwrap().findings), (0, vec![]));
}
