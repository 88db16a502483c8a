//! New ranges: where their books get memory, how many slots they have, and what a child has of them.

use super::*;
use crate::handle::queue::Queue;
use crate::options::Options;
use crate::options::testing::PLAIN;

const NONE: Ranges = Ranges(0);

fn limited_to(max_bytes: u64) -> Options {
    Options {
        max_bytes: Some(max_bytes),
        ..PLAIN
    }
}

/// The range of one queue takes memory in that queue's part of the file, behind all of its books.
#[test]
fn the_second_queue_grows_in_its_own_part() {
    let ([first, second], _) = Segment::create_pair(&limited_to(1 << 30)).unwrap();
    let fd = first.fd().unwrap();
    let memory = || platform::backed_bytes(fd.get()).unwrap();
    let geometry = &second.geometry;
    let near_books = geometry.descriptors_at - geometry.backing_at;
    second.back(geometry.backing_at, near_books).unwrap();
    let before = memory();
    let range = second.map_more_heap(NONE, 1000).unwrap().unwrap();
    assert!(range.to.span_classes() > 4);
    let mut expected = before;
    for class in 0..range.to.span_classes() {
        let books = Books::of(class);
        expected += books.end.next_multiple_of(PAGE) - books.bitmap_at / PAGE * PAGE;
    }
    assert_eq!(memory(), expected);
    // All of it lies there.
    for class in 0..range.to.span_classes() {
        assert!(second.punch(geometry.books_at(class), Books::of(class).length));
    }
    assert_eq!(memory(), before);
}

/// The last range has fewer slots than were asked for, if there may be no more.
#[test]
fn the_last_slots_are_fewer() {
    let (segment, _) = Segment::create(&limited_to(256 << 10), None).unwrap();
    let range = segment.map_more_slots(NONE, 3000).unwrap().unwrap();
    assert_eq!(range.to.slot_classes(), 2);
    let last = segment.map_more_slots(range.to, 1 << 20).unwrap().unwrap();
    assert_eq!(last.to.slot_classes(), segment.geometry.slot_classes);
    assert!(segment.map_more_slots(last.to, 1 << 20).unwrap().is_none());
}

/// Calls `work` in a forked child. Whether it returned true.
fn in_child(work: &dyn Fn() -> bool) -> bool {
    // SAFETY: the child calls `work` alone, and ends at once.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let is_right = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // SAFETY: as above.
        unsafe { libc::_exit(i32::from(!is_right.unwrap_or(false))) };
    }
    let mut status = 0;
    // SAFETY: the call writes one number.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    status == 0
}

/// Address space of the queues of this process that is not counted. Not 0 if it was forked while another
/// test mapped something.
fn uncounted() -> i64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let ours = maps.lines().filter(|line| line.contains("memfd:penstock"));
    let sizes = ours.map(|line| {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let number = |hex| i64::from_str_radix(hex, 16).unwrap();
        number(end) - number(start)
    });
    sizes.sum::<i64>() - platform::mapped_bytes() as i64
}

/// A child has no copy of a range that a thread of its parent is about to add, neither mapped nor counted.
/// Nor can it add that, if it is a child of that thread.
#[test]
fn a_child_has_no_new_range() {
    let queue = Queue::create(&limited_to(1 << 30)).unwrap();
    // Without the threads of other tests.
    assert!(in_child(&|| {
        let segment = &queue.shared.segment;
        let uncounted_here = uncounted();
        let range = segment.map_more_heap(NONE, 1000).unwrap().unwrap();
        let mappings = range.parts.as_ref().unwrap().mappings();
        let places = mappings.each_ref().map(|mapping| (mapping.base, mapping.length));
        let is_mapped = |(base, length): (NonNull<u8>, u64)| {
            // SAFETY: asks whether pages are mapped, and changes nothing.
            unsafe { libc::msync(base.as_ptr().cast(), length as usize, libc::MS_ASYNC) == 0 }
        };
        assert!(places.into_iter().all(is_mapped));
        let range = std::cell::Cell::new(Some(range));
        assert!(in_child(&|| {
            assert!(!places.into_iter().any(is_mapped));
            assert_eq!(uncounted(), uncounted_here);
            let not_added = segment.add_range(range.take().unwrap());
            assert!(not_added.is_err());
            drop(not_added);
            uncounted() == uncounted_here
        }));
        assert!(places.into_iter().all(is_mapped));
        assert!(segment.add_range(range.take().unwrap()).is_ok());
        assert!(in_child(&|| places.into_iter().all(is_mapped)));
        // One that is not added is unmapped at once, and no child misses it.
        let before = platform::mapped_bytes();
        drop(segment.map_more_slots(segment.ranges(), 5000).unwrap().unwrap());
        assert_eq!(platform::mapped_bytes(), before);
        in_child(&|| uncounted() == uncounted_here)
    }));
}
