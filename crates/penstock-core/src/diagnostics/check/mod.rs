//! Check: whether everything in a segment is as the operations need it.
//!
//! Between two critical sections each cache (layout.rs says which words are caches) agrees with the truth
//! that it was computed from. A check reads all of it in one critical section and says in words what does not
//! agree:
//!
//! - slots.rs: each slot's state and fields, the lists, the counters, the records of the participants;
//! - pages.rs: the pages of slots, and which of them have memory;
//! - heap.rs: extents, the span bitmap, descriptors, the lists of spans with room, the backing bytes;
//! - waiters.rs: the cells, their lists, the notified waiters.
//!
//! It changes nothing, and trusts nothing: every index is checked, every walk is bounded. The memory that it
//! needs is taken before the lock. It holds the lock for about as long as a rebuild would: a tool for tests
//! and for the search for a fault, not for every day.

mod heap;
mod pages;
mod slots;
#[cfg(all(test, not(loom)))]
mod tests;
mod waiters;

use core::fmt;

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::memory::layout::{Hot, List};
use crate::memory::payload::Extent;
use crate::memory::segment::Segment;
use crate::operations::delivery::vec_with_room;
use crate::options::{Wait, uninterruptible};
use crate::state::Shared;
use crate::sync::Word;

/// Findings that a check reports one by one.
const MOST: usize = 100;

/// What a check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// The first findings, at most 100; empty if the queue is sound.
    pub findings: Vec<Finding>,
    /// The number of all findings.
    pub finding_count: u64,
    // Slots by state.
    pub free: u64,
    pub claimed: u64,
    pub ready: u64,
    pub leased: u64,
    /// Items that are unfinished for good, as their holders left in order.
    pub orphans: u64,
    pub dead: u64,
    pub delayed: u64,
    /// What is remembered of items that have failed.
    pub notes: u64,
    /// Payloads, and memory claimed for them, outside the slots.
    pub extents: u64,
    /// Spans of the heap that are taken.
    pub spans: u64,
    /// Waiters' cells in use, and those of waiters that sleep and have aged.
    pub cells: u64,
    pub aged: u64,
    /// Aged putters whose item is written, and is put as soon as there is room.
    pub written: u64,
    /// Participants not known to be dead.
    pub participants: u64,
}

/// One thing that is not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    place: &'static str,
    index: Option<u32>,
    what: &'static str,
    /// What stands there, and what would be right.
    numbers: Option<(u64, u64)>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if let Some(index) = self.index {
            write!(f, " {index}")?;
        }
        write!(f, ": {}", self.what)?;
        if let Some((found, right)) = self.numbers {
            write!(f, " ({found}, not {right})")?;
        }
        Ok(())
    }
}

/// An extent in use, and what it is used for.
#[derive(Clone, Copy)]
struct Use {
    extent: Extent,
    slot: u32,
    /// Bytes of it that surely have memory behind them: those of a published payload.
    backed: u64,
}

/// A check at work. All of its memory has its full size from the start.
struct Inspection<'q> {
    shared: &'q Shared,
    found: Check,
    /// Items that living participants took and whose payloads were given up.
    given_up: u64,
    /// Items that are handed to getters that are not back, and those of them that a getter's cell names.
    handed: u64,
    handed_and_named: u64,
    /// Slots found on a list so far.
    is_listed: Vec<bool>,
    /// Subtrees of the heap of returned items that are still to be walked, each with its root's parent.
    subtrees: Vec<(u32, u32)>,
    uses: Vec<Use>,
    /// Numbers that must be different from each other.
    numbers: Vec<u64>,
    /// Spans found on a list of spans with room.
    has_room: Vec<bool>,
    is_cell_listed: Vec<bool>,
    /// Pages of slots whose words say that they are claimed, and pages that are.
    taken_pages: u64,
    claimed_pages: u64,
}

impl Queue {
    /// Checks whether everything in the shared memory is as it must be. Returns the findings, and figures;
    /// changes nothing.
    ///
    /// Holds the lock meanwhile: about 0.1 s for a million items. Also checks a queue that is marked as
    /// damaged.
    pub fn check(&self) -> Result<Check, Error> {
        uninterruptible(|wait| self.check_within(wait))
    }

    /// The same, waiting for the lock as long as `wait` allows.
    pub fn check_within(&self, mut wait: Wait<'_>) -> Result<Check, Error> {
        self.member()?;
        loop {
            let mut inspection = Inspection::new(&self.shared)?;
            let section = match self.enter(&mut wait) {
                Ok(section) => Some(section),
                // No process changes a damaged queue any more.
                Err(Error::Corrupt { .. }) => None,
                Err(error) => return Err(error),
            };
            if inspection.has_grown_too_small() {
                continue;
            }
            inspection.inspect();
            drop(section);
            return Ok(inspection.found);
        }
    }
}

impl<'q> Inspection<'q> {
    fn new(shared: &'q Shared) -> Result<Inspection<'q>, Error> {
        let mut inspection = Inspection {
            shared,
            found: Check::default(),
            given_up: 0,
            handed: 0,
            handed_and_named: 0,
            is_listed: Vec::new(),
            subtrees: Vec::new(),
            uses: Vec::new(),
            numbers: Vec::new(),
            has_room: Vec::new(),
            is_cell_listed: Vec::new(),
            taken_pages: 0,
            claimed_pages: 0,
        };
        let (slots, spans, cells) = inspection.sizes();
        // Room for slots and cells that come into use until the lock is taken.
        let slots = slots + slots / 4 + 1024;
        let cells = cells + 64;
        inspection.found.findings = vec_with_room(MOST)?;
        inspection.is_listed = vec_with_room(slots)?;
        inspection.is_listed.resize(slots, false);
        inspection.subtrees = vec_with_room(slots)?;
        inspection.uses = vec_with_room(slots)?;
        inspection.numbers = vec_with_room(slots)?;
        inspection.has_room = vec_with_room(spans)?;
        inspection.has_room.resize(spans, false);
        inspection.is_cell_listed = vec_with_room(cells)?;
        inspection.is_cell_listed.resize(cells, false);
        Ok(inspection)
    }

    /// Slots, spans and cells that can be read: no more than are backed.
    fn sizes(&self) -> (usize, usize, usize) {
        let hot = self.hot();
        let segment = self.segment();
        let slots = hot
            .slots_high
            .get()
            .min(hot.slots_backed.get())
            .min(segment.slots_end());
        let spans = segment.spans_end();
        let cells = hot.cells_high.get().min(hot.cells_backed.get());
        (
            slots as usize,
            spans as usize,
            cells.min(segment.geometry.cells) as usize,
        )
    }

    fn has_grown_too_small(&self) -> bool {
        let (slots, spans, cells) = self.sizes();
        slots > self.is_listed.len() || spans > self.has_room.len() || cells > self.is_cell_listed.len()
    }

    fn inspect(&mut self) {
        if self.hot().is_damaged() {
            self.finding("queue", None, "it is marked as damaged");
        }
        self.found.orphans = self.hot().orphans.get();
        self.inspect_header();
        self.inspect_ranges();
        self.inspect_slots();
        self.inspect_heap();
        self.inspect_waiters();
        self.inspect_producers();
    }

    /// Each producer has a number of its own, which was counted; one that has none is in no block.
    fn inspect_producers(&mut self) {
        let begun = u64::from(self.hot().producers_begun.get());
        let mut numbers = 0;
        for index in self.shared.participants() {
            let Ok(record) = self.segment().participant(index) else {
                continue;
            };
            let producing = record.producing();
            if producing.number() == 0 && producing.blocks() > 0 {
                self.finding("producing", Some(index), "it is in a block and has not begun");
            }
            self.at_most("producing", u64::from(producing.number()), begun);
            numbers += u64::from(producing.number() > 0);
        }
        self.at_least("producers_begun", begun, numbers);
    }

    fn inspect_header(&mut self) {
        let header = self.segment().header();
        let (geometry, options) = (&self.segment().geometry, &self.shared.options);
        for (what, found, right) in [
            (
                "participants",
                u64::from(header.participants.get()),
                u64::from(geometry.participants),
            ),
            ("cells", u64::from(header.cells.get()), u64::from(geometry.cells)),
            (
                "near_spans",
                u64::from(header.near_spans.get()),
                u64::from(geometry.near_spans),
            ),
            (
                "slot_classes",
                u64::from(header.slot_classes.get()),
                geometry.slot_classes as u64,
            ),
            (
                "span_classes",
                u64::from(header.span_classes.get()),
                geometry.span_classes as u64,
            ),
            ("length", header.length.get(), geometry.length),
            (
                "acknowledged",
                u64::from(header.acknowledged.get()),
                u64::from(options.acknowledged),
            ),
            ("maxsize", header.maxsize.get(), options.maxsize),
            (
                "max_bytes",
                header.max_bytes.get(),
                options.max_bytes.unwrap_or(u64::MAX),
            ),
            ("soft_bytes", header.soft_bytes.get(), options.soft_bytes),
            (
                "max_deliveries",
                u64::from(header.max_deliveries.get()),
                u64::from(options.max_deliveries),
            ),
        ] {
            if found != right {
                self.finding_in_numbers("header", None, what, found, right);
            }
        }
    }

    /// A section has mapped what there is, unless the queue is damaged.
    fn inspect_ranges(&mut self) {
        let (hot, segment) = (self.hot(), self.segment());
        let (there, mapped) = (hot.ranges.get(), segment.ranges());
        if there != mapped.0 {
            self.finding_in_numbers(
                "ranges",
                None,
                "they are others than mapped",
                u64::from(there),
                u64::from(mapped.0),
            );
        }
        let seams = hot.heap_seams.get() & ((1 << mapped.span_classes()) - 1);
        if seams != segment.seams() {
            self.finding_in_numbers(
                "heap_seams",
                None,
                "they are others than mapped",
                seams,
                segment.seams(),
            );
        }
    }

    fn segment(&self) -> &'q Segment {
        &self.shared.segment
    }

    fn hot(&self) -> &'q Hot {
        self.shared.segment.hot()
    }

    // -------------------------------------------------------------------------------------------- findings

    fn note(&mut self, finding: Finding) {
        self.found.finding_count += 1;
        if self.found.findings.len() < MOST {
            self.found.findings.push(finding);
        }
    }

    fn finding(&mut self, place: &'static str, index: Option<u32>, what: &'static str) {
        self.note(Finding {
            place,
            index,
            what,
            numbers: None,
        });
    }

    fn finding_in_numbers(
        &mut self,
        place: &'static str,
        index: Option<u32>,
        what: &'static str,
        found: u64,
        right: u64,
    ) {
        self.note(Finding {
            place,
            index,
            what,
            numbers: Some((found, right)),
        });
    }

    /// A counter against its recount.
    fn compare(&mut self, counter: &'static str, found: u64, recount: u64) {
        if found != recount {
            self.finding_in_numbers(counter, None, "a recount differs", found, recount);
        }
    }

    /// A mark that must not lie above another.
    fn at_most(&mut self, mark: &'static str, found: u64, limit: u64) {
        if found > limit {
            self.finding_in_numbers(mark, None, "it is too large", found, limit);
        }
    }

    fn at_least(&mut self, mark: &'static str, found: u64, limit: u64) {
        if found < limit {
            self.finding_in_numbers(mark, None, "it is too small", found, limit);
        }
    }
}

/// Whether a list is empty at both ends.
fn is_clear(list: &List) -> bool {
    list.head.get() | list.tail.get() == 0
}
