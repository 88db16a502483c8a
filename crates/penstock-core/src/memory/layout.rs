//! The shared layout: what lies where in a segment, and what each word means.
//!
//! ```text
//! near: mapped whole when the queue is made or opened
//! +---------+---------+---------------+--------------+-----------+--------+------------+------------+
//! | Header  | Hot     | Participant[] | WaiterCell[] | backing   | span   | SlotPage[] | SpanDesc[] | ...
//! | const   | lock... | 128 B each    | 64 B each    | u8 a span | bitmap | 8 B each   | 128 B each |
//! +---------+---------+---------------+--------------+-----------+--------+------------+------------+
//!     +----------+--------+
//! ... | heap     | Slot[] |
//!     | 64 spans | 2048   |
//!     +----------+--------+
//! far: mapped in ranges, as the queue grows (memory/ranges.rs)
//! +-----------------+--------------+----------------------------------------------+------------------------+
//! | Slot[]          | SlotPage[]   | books of spans, class by class: descriptors, | heap                   |
//! | from index 2048 | from page 64 | bitmap, backing bytes of the class           | from span 256          |
//! +-----------------+--------------+----------------------------------------------+------------------------+
//! ```
//!
//! The file has its full length from the start and is sparse: a region is backed with memory (`fallocate`)
//! before its pages are touched for the first time. Everything is found by offset or by index; index 0 means
//! "none", and element 0 of every indexed region is unused. All words are atomics, so a reference to one is
//! sound while other processes write it.
//!
//! A *class* is a quarter of a doubling: far slots and far spans are numbered in classes, of which the first
//! begins at `NEAR_SLOTS` and `FAR_SPANS`. Four classes double the index. So the class of an index follows
//! from its leading bits. Spans between the near ones and `FAR_SPANS` do not exist.
//!
//! Truth: `Slot::state` with the slot's own fields (of a FREE slot nothing else), `WaiterCell::word`,
//! `Participant::word`, the lock word, the backing bytes, the bits ABSENT and REMNANT of a page of slots,
//! the two counters that never repeat (`Hot::published`, `Hot::leases`), the counts of items that exist no
//! more but are unfinished (`Hot::orphans`, `Participant::given_up`), `Hot::discarded`, `Hot::phase`,
//! `Hot::acknowledging`, `Hot::timed`, who produces (`Participant::producing`, `Hot::producers_begun`,
//! `Hot::producers_expected`), and the marks that only grow or shrink by a single store (`slots_high`,
//! `slots_backed`, `pages_tracked`, `cells_high`, `cells_backed`, `ranges` with the bits of `heap_seams`
//! that it counts, `participants_high`). The rest is cache: the rebuild (state/rebuild.rs) computes it anew
//! from the truth.

use core::mem::{offset_of, size_of};
use core::ops::Range;

use crate::sync::{AtomicU32, AtomicU64, LockedU8, LockedU32, LockedU64, Word};
use crate::units::{INLINE, PAGE};

pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"PENSTOCK");
pub(crate) const VERSION: u32 = 5;

/// Slots are backed by whole pages, and there are whole pages of them.
pub(crate) const SLOTS_PER_PAGE: u32 = (PAGE / size_of::<Slot>() as u64) as u32;
/// Records and cells of a queue. Where the system allows small files or mappings only, there are fewer
/// (`Tables`).
pub(crate) const PARTICIPANTS: u32 = 4096;
pub(crate) const CELLS: u32 = 16384;

/// Slots that every process has mapped; the rest follows in ranges.
pub(crate) const NEAR_SLOTS: u32 = 2048;
pub(crate) const NEAR_PAGES: u32 = NEAR_SLOTS / SLOTS_PER_PAGE;

/// Near spans at most, and the index of the first far one: the bitmap's words then belong to one class each.
pub(crate) const NEAR_SPANS: u32 = 64;
pub(crate) const FAR_SPANS: u32 = 256;

pub(crate) const SLOT_CLASSES: usize = 64;
pub(crate) const SPAN_CLASSES: usize = 60;

/// A span is the unit of the heap's bookkeeping, a granule the unit of its addresses.
pub(crate) const SPAN: u64 = 64 * 1024;
pub(crate) const GRANULE: u64 = 128;
pub(crate) const GRANULES_PER_SPAN: u32 = (SPAN / GRANULE) as u32;
pub(crate) const PAGES_PER_SPAN: u8 = (SPAN / PAGE) as u8;

/// One more extent in `Hot::cached_sum`.
pub(crate) const ONE_CACHED: u32 = 1 << 20;

/// In the lock word: another thread sleeps until the lock is released.
pub(crate) const CONTENDED: u32 = 1 << 31;

/// A participant's id, as it stands in the lock word, in slots and in cells: index (bits 0..12), incarnation
/// (bits 12..31). 0 is no participant's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct ParticipantId(pub u32);

impl ParticipantId {
    pub(crate) const NONE: ParticipantId = ParticipantId(0);

    pub(crate) fn new(index: u32, incarnation: u32) -> ParticipantId {
        ParticipantId(index | incarnation << 12)
    }

    /// The id in a lock word, or in a handle's word of its own: the mark in bit 31 is none of it.
    #[inline(always)]
    pub(crate) fn in_word(word: u32) -> ParticipantId {
        ParticipantId(word & !CONTENDED)
    }

    #[inline(always)]
    pub(crate) fn index(self) -> u32 {
        self.0 & 0xfff
    }

    #[inline(always)]
    pub(crate) fn incarnation(self) -> u32 {
        self.0 >> 12
    }

    pub(crate) fn is_none(self) -> bool {
        self == ParticipantId::NONE
    }
}

/// Written once, by the queue's maker, before another process can open the segment.
#[repr(C)]
pub(crate) struct Header {
    pub magic: AtomicU64,
    pub version: AtomicU32,
    pub acknowledged: AtomicU32,
    pub fingerprint: AtomicU64,
    pub id: [AtomicU64; 2],
    pub length: AtomicU64,
    /// What `Geometry::new` is given.
    pub participants: AtomicU32,
    pub cells: AtomicU32,
    pub near_spans: AtomicU32,
    pub slot_classes: AtomicU32,
    pub span_classes: AtomicU32,
    pub maxsize: AtomicU64,
    pub max_bytes: AtomicU64,
    pub soft_bytes: AtomicU64,
    pub max_deliveries: AtomicU32,
    /// Queues in the file, each in a part of the same length. See memory/file.rs.
    pub parts: AtomicU32,
    /// The pid namespace of the process that made the queue.
    pub home: AtomicU64,
    /// The four numbers of a `Retry`, each as the bits of a float.
    pub retry: [AtomicU64; 4],
}

/// Everything that a put or a get touches under the lock, in a few cache lines.
#[repr(C, align(64))]
pub(crate) struct Hot {
    // Line 0: the queue itself.
    /// The lock: contended (bit 31), incarnation (19 bits), participant index (12 bits); 0 when free. See
    /// lock/word.rs.
    pub lock: AtomicU32,
    /// Extents cached in free slots: their bytes (bits 0..20), their number (bits 20..32). See state/slot.rs.
    pub cached_sum: LockedU32,
    /// Free slots without an extent, and those that cache one.
    pub free: FreeList,
    pub cached: FreeList,
    /// Items that a get would find now. Read without the lock by `len`, `is_empty`, `is_full` and by
    /// spinners.
    pub ready_count: AtomicU64,
    pub ready: List,
    /// The place in the order of the item published last, and so the number of puts.
    pub published: LockedU64,
    /// Items of an acknowledged queue that were put and not yet finished.
    pub unfinished: AtomicU64,
    /// Payload bytes put (bits 1..64), and the last bit of the place in the order up to which they are
    /// counted (bit 0). By it the rebuild tells whether the item published last is counted. See
    /// `Hot::count_bytes`.
    pub put_bytes: LockedU64,

    // Line 1: what small messages only read, and the lists of the rarer states.
    pub leases: LockedU64,
    pub redeliveries: LockedU64,
    pub dead_count: AtomicU64,
    pub dead: List,
    /// Root of the heap of items that came back, which a get takes before younger ones. See
    /// state/order/heap.rs.
    pub returned: LockedU32,
    /// Whether items are acknowledged: NOT_YET, BEGINNING or YES. See state/aside.rs.
    pub acknowledging: AtomicU32,
    /// Items that stay unfinished until `task_done` is called for them, because their holders left in order.
    pub orphans: AtomicU64,
    /// Slots in the hands of a participant (LEASED, ASIDE, LEFT or CLAIMED), those that dead participants had
    /// set aside, and the delayed ones.
    pub owned_count: AtomicU64,
    /// Payload bytes of the items that are ready; counted only if `soft_bytes` is set.
    pub ready_bytes: AtomicU64,

    // Waiters, see state/waiters.rs.
    pub waiters: [WaiterList; 3],
    pub cells_free: LockedU32,
    pub cells_high: LockedU32,

    // Memory, see state/heap.rs and state/slot.rs.
    /// Bytes of extents that have a payload or are cached. `max_bytes` limits these without the cached and
    /// the lent ones, plus 128 bytes for each slot in use.
    pub used_bytes: AtomicU64,
    /// Spans that are not free, and pages of the heap that may be backed.
    pub spans_used: AtomicU64,
    pub pages_backed: AtomicU64,
    /// No slot from this one on has memory behind it, but for at most 1 MiB that a put has left which died
    /// while it grew. See state/pages.rs for those below.
    pub slots_backed: AtomicU32,
    pub cells_backed: LockedU32,
    /// No span from this one on is taken or has memory behind it.
    pub spans_high: LockedU32,
    /// How many ranges of slots and of the heap there are, as a `Ranges`. Each section compares it with what
    /// its process has mapped. Only ever grows, under the lock.
    pub ranges: AtomicU32,
    /// No span below this one is free.
    pub span_hint: LockedU32,
    pub participants_high: AtomicU32,
    /// Not 0 if memory was extended, or parked slots were needed, since a trim left nothing.
    pub grown: AtomicU32,
    /// When a process last checked for the dead, in coarse milliseconds of the monotonic clock.
    pub reaped_at: AtomicU64,
    /// When the last trim began, by the same clock.
    pub trimmed_at: AtomicU64,
    /// How often slots were given back. A putter that backs more slots outside the lock compares it, and so
    /// notices a trim in between.
    pub slot_trims: LockedU64,

    // Then, for each size class, the spans that have room.
    pub partial: [LockedU32; 16],

    /// Items that dead holders had set aside, in the order in which the holders were swept. See
    /// state/aside.rs.
    pub aside: List,
    /// Items whose payload was given up and whose holder has died since; and the sum of those of living
    /// holders.
    pub given_up: AtomicU64,
    pub given_up_of_living: AtomicU64,
    /// Bytes of the extents of items that are taken and not finished.
    pub taken_bytes: AtomicU64,
    /// Items on the ready list that are finished already; and of the one that was finished last, the slot and
    /// the place in the order.
    pub ready_done: LockedU64,
    pub marked_slot: LockedU32,
    pub marked_seq: LockedU64,
    /// One bit a participant: set if it may have leases, clear if it has none.
    pub lessees: [LockedU64; PARTICIPANTS as usize / 64],

    /// Bytes of the extents of borrowed payloads. They do not count for `max_bytes`, and have a limit of
    /// their own.
    pub lent_bytes: AtomicU64,
    /// Which pipe is the notifier: its inode's number, or 0.
    pub notifier: AtomicU64,
    /// Of a connection's queue: its line's ends for reading and for writing, by their numbers, and what lies
    /// in the line. See state/line.rs.
    pub line_ends: [AtomicU64; 2],
    pub line_state: AtomicU32,
    /// The participant that has promised a byte to the line.
    pub line_writer: AtomicU32,
    /// The watchers for room, of all participants together.
    pub watching_room: AtomicU32,
    /// How often a participant has noted where others may open the notifier.
    pub announced: AtomicU32,
    /// Watchers of the notifiers, or of the line, of all participants together, and a mark that the line is
    /// not as messages leave it (state/line.rs), or that a watcher is to be told when an item is due; and
    /// what the notifier's pipe holds. See state/notifier.rs.
    pub watching: AtomicU32,
    pub pipe_state: AtomicU32,
    /// What the queue admits: OPEN, DRAINING, CLOSED or DAMAGED; and whether items are delayed. It lies
    /// beside `watching`, because every operation reads both and hardly any writes them. See state/phase.rs.
    pub phase: AtomicU32,
    /// Whether puts note their time: items are held by name (operations/held.rs). It lies beside `phase`, so
    /// that a put has read its line.
    pub timed: AtomicU32,
    /// One bit a class of far spans: set if a range of the heap ends there. The bits of classes that
    /// `ranges` does not count mean nothing.
    pub heap_seams: AtomicU64,

    // Trims, see operations/trim.rs and state/pages.rs.
    /// Free slots that are on no list: they are parked, or in a page without memory.
    pub slots_parked: AtomicU32,
    /// Pages of slots with memory that no slot uses.
    pub pages_spare: AtomicU32,
    /// When the last trim began that left nothing.
    pub emptied_at: AtomicU64,
    /// The most spans used at once, and the fewest spare pages of slots, since the last trim began.
    pub spans_peak: LockedU64,
    pub pages_spare_least: LockedU32,
    /// Pages of slots whose words are backed themselves. Read without the lock by `is_pending`.
    pub pages_tracked: AtomicU32,
    /// Pages of slots without memory below `slots_backed`.
    pub pages_absent: LockedU32,
    /// No page below the one has a parked slot and memory; none below the other is without memory.
    pub parked_hint: LockedU32,
    pub absent_hint: LockedU32,

    /// Items that were discarded after a shutdown. See state/discard.rs.
    pub discarded: AtomicU64,
    /// Producers that have begun so far, and as how many have to before the queue ends by itself: the largest
    /// number that any process has named. See state/producers.rs.
    pub producers_begun: AtomicU32,
    pub producers_expected: AtomicU32,

    // Delayed items, see state/delay.rs.
    /// The root of their heap. The rebuild gathers them as a list.
    pub delayed: List,
    pub delayed_count: AtomicU64,
    /// When the first of them is due, in microseconds of the monotonic clock; 0 if there is none. Read
    /// without the lock.
    pub due_at: AtomicU64,
    /// The cell of the waiter that ends its sleep then, or 0.
    pub timekeeper: LockedU32,

    /// Slots that are notes (state/notes.rs).
    pub notes: AtomicU32,

    // What `notifier`, `pipe_state` and `watching_room` are, for the end of all work.
    pub finish_notifier: AtomicU64,
    pub finish_state: AtomicU32,
    pub watching_finish: AtomicU32,
    /// How often a section has ended with nothing unfinished, while a process watched for that, and the pipe
    /// did not say so yet. A joiner that finds another number than at its beginning returns.
    pub finishes: AtomicU64,

    // A cache line that only waiters write.
    pub spinning: Spinning,

    // A cache line that puts write while the queue grows longer than it ever was. Small gets read it only if
    // there is memory for more than 1,024 slots. In a line that every get reads, these two words would cost
    // each get a miss.
    /// The largest `ready_count` so far.
    pub high_water: LockedU64,
    /// Slots from this one on were never used, or not since their memory was given back.
    pub slots_high: LockedU32,
}

/// The participant that spins for an item, or for room; it counts as a waiter on its way. And which waiters
/// have aged. See state/waiters.rs.
#[repr(C, align(64))]
pub(crate) struct Spinning {
    pub getter: AtomicU32,
    pub putter: AtomicU32,
    /// Of the getters and of the putters.
    pub aged: [Aged; 2],
}

/// The waiters of one kind that have waited for long: they are the first of their list.
#[repr(C)]
pub(crate) struct Aged {
    pub count: LockedU32,
    /// The last one of them in the list.
    pub tail: LockedU32,
    /// Waiters that were handed an item, or whose item was published for them, and that are not back under
    /// the lock yet. A putter that is late does not count.
    pub handed: AtomicU32,
}

// The values of `Hot::phase`, which only grow; and the mark beside them.
pub(crate) const OPEN: u32 = 0;
/// Shut down: no item is put any more.
pub(crate) const DRAINING: u32 = 1;
/// Shut down at once: none is taken any more, either, and what was queued is discarded.
pub(crate) const CLOSED: u32 = 2;
/// An impossible value was found.
pub(crate) const DAMAGED: u32 = 3;
/// Items are delayed (state/delay.rs). This bit alone is a cache.
pub(crate) const DELAYING: u32 = 1 << 8;

// The values of `Hot::acknowledging`.
/// No process has called `task_done` or `join` yet.
pub(crate) const NOT_YET: u32 = 0;
/// A process has, and what dead holders had set aside comes back.
pub(crate) const BEGINNING: u32 = 1;
/// Everything has come back; or the queue is a plain one.
pub(crate) const YES: u32 = 2;

/// Slots that puts take from `next`, and gets give back to `freed`. See state/slot.rs.
#[repr(C)]
pub(crate) struct FreeList {
    pub next: LockedU32,
    pub freed: LockedU32,
}

impl Hot {
    /// Counts the payload of the item that was published just now. Those before it are counted.
    #[inline(always)]
    pub(crate) fn count_bytes(&self, len: u64) {
        // One store: the number grows, and its last bit is that of the next place.
        self.put_bytes
            .set(self.put_bytes.get().wrapping_add(len << 1) ^ 1);
    }

    /// The same for the item in place `seq`, which was published last, unless it is counted. Safe to repeat.
    pub(crate) fn count_bytes_once(&self, seq: u64, len: u64) {
        if self.put_bytes.get() & 1 != seq & 1 {
            self.count_bytes(len);
        }
    }

    pub(crate) fn bytes_cached(&self) -> u64 {
        u64::from(self.cached_sum.get() & (ONE_CACHED - 1))
    }

    /// Payload bytes put so far.
    pub(crate) fn bytes_put(&self) -> u64 {
        self.put_bytes.get() >> 1
    }
}

/// A list of slots through `Slot::next` and `Slot::prev`. The ready list is linked forwards only.
#[repr(C)]
pub(crate) struct List {
    pub head: AtomicU32,
    pub tail: AtomicU32,
}

/// A doubly linked list of waiter cells.
#[repr(C)]
pub(crate) struct WaiterList {
    pub head: LockedU32,
    pub tail: LockedU32,
    pub length: LockedU32,
    /// Notified waiters that are not LATE and not back under the lock yet.
    pub notified: AtomicU32,
}

/// A process that takes part. See state/participant.rs.
#[repr(C, align(64))]
pub(crate) struct Participant {
    /// alive (bit 0), incarnation (bits 1..20), lifeless (bit 20), at home (bit 21), left and gone (bits 30,
    /// 31), pid (bits 32..64).
    pub word: AtomicU64,
    /// What tells its process from others with the same pid, and the namespace of that pid. See
    /// platform/linux/process.rs.
    pub birth: AtomicU64,
    /// When it joined: a process with that pid that started later is another one.
    pub since: AtomicU64,
    pub pid_namespace: AtomicU64,
    /// Items delivered to it and not finished, in the order in which it took them.
    pub leased: List,
    /// Memory that it owns without an item: being written, being given back, or borrowed although the item
    /// was finished or kept.
    pub claimed: List,
    /// Its watchers for items, at the notifier or the line; and those for room. Its descriptor of the
    /// notifier plus one, if others may open it there; and the same of the writing end, if that is another
    /// descriptor. See state/notifier.rs.
    pub watching: AtomicU32,
    pub watching_room: AtomicU32,
    pub notifier: AtomicU32,
    pub notifier_writing: AtomicU32,
    /// Items that it took and whose payloads were given up since. They stay unfinished while it lives. See
    /// state/aside.rs.
    pub given_up: AtomicU64,
    /// In how many blocks it produces (bits 0..32), and as the how-manieth producer it has begun (bits
    /// 32..64), or 0. See state/producers.rs.
    pub producing: AtomicU64,
    /// Its watchers for the end of all work, and where it has that notifier open, in the same way.
    pub watching_finish: AtomicU32,
    pub finish_notifier: AtomicU32,
    pub finish_notifier_writing: AtomicU32,
}

/// What is waited for; also the index of the waiters' list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// An item to take.
    Item = 0,
    /// Room for another item.
    Room = 1,
    /// That every item was finished.
    Finish = 2,
}

impl Kind {
    pub(crate) const ALL: [Kind; 3] = [Kind::Item, Kind::Room, Kind::Finish];
}

/// A thread that waits. See state/waiters.rs.
#[repr(C, align(64))]
pub(crate) struct WaiterCell {
    /// Its state: the futex that the thread sleeps on.
    pub word: AtomicU32,
    /// Its participant, as in the lock word.
    pub owner: LockedU32,
    pub kind: LockedU32,
    pub next: LockedU32,
    pub prev: LockedU32,
    /// The item that an aged getter was handed, or that an aged putter has written: its slot, and the number
    /// of the lease or of the claim. 0 if there is none. A putter that was handed its place and is late has
    /// the number 0.
    pub slot: LockedU32,
    pub number: LockedU64,
    /// The publication number of a putter's item that was published for it, else 0. Read without the lock by
    /// the putter.
    pub seq: AtomicU64,
    /// When the wait began and when the waiter was handed something, in coarse milliseconds of the monotonic
    /// clock. `since` is 0 until the waiter has aged.
    pub since: LockedU64,
    pub handed_at: LockedU64,
    /// The ranges (memory/ranges.rs) that the waiter's process had mapped when it was last under the lock.
    pub ranges: LockedU32,
}

/// One item, or memory that one participant has claimed. See state/slot.rs for the states.
#[repr(C, align(64))]
pub(crate) struct Slot {
    /// state (bits 0..4), redeliveries (bits 4..12), owner's index (bits 12..24), owner's incarnation (bits
    /// 24..43).
    pub state: AtomicU64,
    /// The item's place in the order of publication.
    pub seq: AtomicU64,
    pub next: AtomicU32,
    /// The one before it. In the ready list, which is linked forwards only, it is a hint: the granule at
    /// which the next one's extent begins, or anything else. Of a returned item, `next` and `prev` are the
    /// subtrees. The rebuild uses it as scratch.
    pub prev: AtomicU32,
    pub len: LockedU64,
    /// first granule (bits 0..32), granules (bits 32..64); 0 if the payload is inline. A free slot's is
    /// cached.
    pub extent: LockedU64,
    /// The thread of its process that leased it (bit 30: the lease outlasts a leave in order, see slot.rs
    /// `BY_NAME`), and the lease's place in the order of leases. Of a returned or a delayed item, its rank;
    /// of a delayed one, `lease` is when it is due; of a dead letter, its place among them.
    pub holder: LockedU32,
    /// The mark (bits 0..3): not 0 while the holder borrows the payload, or has put off the next step of the
    /// slot (handle/put_off.rs). Read without the lock by `is_pending`. When the item was put (bits 3..32),
    /// or 0: see state/slot.rs.
    pub borrowed: AtomicU32,
    pub lease: LockedU64,
    pub inline: [AtomicU64; INLINE / 8],
}

/// In the word of a page of slots: it is without memory, and no slot of it may be read.
pub(crate) const ABSENT: u64 = 1 << 32;

/// A page of slots. See state/pages.rs.
#[repr(C)]
pub(crate) struct SlotPage {
    /// One bit a slot that is parked (bits 0..32); whether the page is without memory (bit 32), may have some
    /// nevertheless (bit 33), and is claimed (bit 34).
    pub word: AtomicU64,
}

/// A span that is divided into objects of one size class. See state/heap.rs.
#[repr(C, align(64))]
pub(crate) struct SpanDescriptor {
    /// Size class + 1, or 0 if the span is free or part of a run.
    pub class: LockedU32,
    pub used: LockedU32,
    pub next: LockedU32,
    pub prev: LockedU32,
    pub reserved: [AtomicU64; 6],
    /// One bit an object.
    pub taken: [LockedU64; 8],
}

const _: () = {
    assert!(size_of::<Header>() <= PAGE as usize);
    assert!(size_of::<Hot>() <= PAGE as usize);
};

// The model checker's words are larger.
#[cfg(not(loom))]
const _: () = {
    // All that a small put and a small get write beside the slot is in one cache line.
    assert!(offset_of!(Hot, leases) == 64);
    // No other word is in the line of the two that a growing queue writes.
    assert!(offset_of!(Hot, high_water) % 64 == 0);
    assert!(size_of::<Hot>() == offset_of!(Hot, high_water) + 64);
    assert!(size_of::<Participant>() == 128);
    assert!(size_of::<WaiterCell>() == 64);
    assert!(size_of::<Slot>() == 128);
    assert!(size_of::<SlotPage>() == 8);
    assert!(offset_of!(Slot, inline) + INLINE == 128);
    assert!(size_of::<SpanDescriptor>() == 128);
    // Far slots follow the near ones.
    assert!(NEAR_SLOTS as u64 * size_of::<Slot>() as u64 % SPAN == 0);
};

/// A hash of where the fields lie: two builds that disagree refuse to share a segment.
pub(crate) const FINGERPRINT: u64 = {
    let facts = [
        size_of::<Header>(),
        size_of::<Hot>(),
        offset_of!(Hot, ready),
        offset_of!(Hot, published),
        offset_of!(Hot, dead),
        offset_of!(Hot, returned),
        offset_of!(Hot, orphans),
        offset_of!(Hot, aside),
        offset_of!(Hot, lessees),
        offset_of!(Hot, waiters),
        offset_of!(Hot, used_bytes),
        offset_of!(Hot, partial),
        offset_of!(Hot, lent_bytes),
        offset_of!(Hot, watching),
        offset_of!(Hot, notifier),
        offset_of!(Hot, line_ends),
        offset_of!(Hot, phase),
        offset_of!(Hot, timed),
        offset_of!(Hot, discarded),
        offset_of!(Hot, producers_begun),
        offset_of!(Hot, delayed),
        offset_of!(Hot, timekeeper),
        offset_of!(Hot, notes),
        offset_of!(Hot, finish_notifier),
        offset_of!(Hot, finishes),
        offset_of!(Hot, ranges),
        offset_of!(Hot, heap_seams),
        offset_of!(Hot, cached_sum),
        offset_of!(Hot, free),
        offset_of!(Hot, slots_high),
        offset_of!(Hot, slots_parked),
        offset_of!(Hot, pages_tracked),
        offset_of!(Hot, spinning),
        size_of::<Spinning>(),
        offset_of!(Participant, leased),
        offset_of!(Participant, claimed),
        offset_of!(Participant, watching),
        offset_of!(Participant, given_up),
        offset_of!(Participant, producing),
        offset_of!(Participant, watching_finish),
        offset_of!(WaiterCell, next),
        offset_of!(WaiterCell, handed_at),
        offset_of!(WaiterCell, ranges),
        offset_of!(Slot, extent),
        offset_of!(Slot, inline),
        offset_of!(SpanDescriptor, taken),
        PARTICIPANTS as usize,
        CELLS as usize,
        SPAN as usize,
        GRANULE as usize,
        NEAR_SLOTS as usize,
        FAR_SPANS as usize,
    ];
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325; // FNV-1a
    let mut i = 0;
    while i < facts.len() {
        hash = (hash ^ facts[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
};

/// The first index of a class, if the first class begins at `first`, a power of two.
const fn class_start(first: u32, class: usize) -> u32 {
    ((4 + class as u32 % 4) << (class / 4)) * (first / 4)
}

/// The class of an index that is not below `first`.
#[inline(always)]
const fn class_of_index(first: u32, index: u32) -> usize {
    let doublings = index.ilog2() - first.ilog2();
    let quarter = index >> (index.ilog2() - 2) & 3;
    (doublings * 4 + quarter) as usize
}

pub(crate) const fn slot_class_start(class: usize) -> u32 {
    class_start(NEAR_SLOTS, class)
}

#[inline(always)]
pub(crate) const fn class_of_slot(index: u32) -> usize {
    class_of_index(NEAR_SLOTS, index)
}

pub(crate) const fn span_class_start(class: usize) -> u32 {
    class_start(FAR_SPANS, class)
}

#[inline(always)]
pub(crate) const fn class_of_span(span: u32) -> usize {
    class_of_index(FAR_SPANS, span)
}

/// How many classes hold so many slots, or as many of them as there can be.
pub(crate) fn slot_classes_for(slots: u64) -> usize {
    (0..SLOT_CLASSES)
        .find(|class| u64::from(slot_class_start(*class)) >= slots)
        .unwrap_or(SLOT_CLASSES)
}

/// How many classes hold so many far spans.
pub(crate) fn span_classes_for(spans: u64) -> usize {
    (0..SPAN_CLASSES)
        .find(|class| u64::from(span_class_start(*class) - FAR_SPANS) >= spans)
        .unwrap_or(SPAN_CLASSES)
}

/// The ranges that a queue has, or that a process has mapped: classes of far slots (bits 0..8); 0 if the
/// heap's near books have no memory yet, else classes of far spans + 1 (bits 8..16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Ranges(pub u32);

impl Ranges {
    pub(crate) fn new(slots: usize, heap: usize) -> Ranges {
        Ranges(slots as u32 | (heap as u32) << 8)
    }

    pub(crate) fn slot_classes(self) -> usize {
        (self.0 & 0xff) as usize
    }

    pub(crate) fn heap(self) -> usize {
        (self.0 >> 8 & 0xff) as usize
    }

    pub(crate) fn span_classes(self) -> usize {
        self.heap().saturating_sub(1)
    }

    /// Whether a process that has mapped these ranges needs no address space for those.
    pub(crate) fn cover(self, those: Ranges) -> bool {
        self.slot_classes() >= those.slot_classes() && self.span_classes() >= those.span_classes()
    }
}

/// Where the regions of a segment begin; a function of its sizes alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub participants: u32,
    pub cells: u32,
    /// The end of the slots that there may be.
    pub slots: u32,
    pub slot_classes: usize,
    /// The end of the spans that there may be.
    pub spans: u32,
    pub near_spans: u32,
    pub span_classes: usize,
    pub participants_at: u64,
    pub cells_at: u64,
    pub backing_at: u64,
    pub bitmap_at: u64,
    pub descriptors_at: u64,
    pub pages_at: u64,
    pub heap_at: u64,
    pub slots_at: u64,
    /// The end of what each process has mapped. Far slots, books and heap follow.
    pub near_length: u64,
    pub far_pages_at: u64,
    pub far_books_at: u64,
    pub far_heap_at: u64,
    pub length: u64,
}

/// Sizes of what each process has mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tables {
    pub participants: u32,
    pub cells: u32,
    pub near_spans: u32,
}

impl Tables {
    pub(crate) const FULL: Tables = Tables {
        participants: PARTICIPANTS,
        cells: CELLS,
        near_spans: NEAR_SPANS,
    };

    /// For a process whose address space is limited, or whose files may be small only: 2.3 MiB.
    pub(crate) const LESS: Tables = Tables {
        near_spans: 8,
        ..Tables::FULL
    };

    /// Where the system allows no files or mappings of that size: 0.9 MiB.
    pub(crate) const FEW: Tables = Tables {
        participants: 256,
        cells: 1024,
        near_spans: 8,
    };

    /// The least: 512 KiB, so that both queues of a connection lie in a file of 1 MiB.
    pub(crate) const LEAST: Tables = Tables {
        near_spans: 2,
        ..Tables::FEW
    };

    /// All of them, in the order in which they are tried. Those of a row differ in the near heap alone.
    pub(crate) const ALL: [[Tables; 2]; 2] = [[Tables::FULL, Tables::LESS], [Tables::FEW, Tables::LEAST]];

    fn are_possible(self) -> bool {
        // More than the last places of a table (handle/membership.rs).
        (128..=PARTICIPANTS).contains(&self.participants)
            && (64..=CELLS).contains(&self.cells)
            && (1..=NEAR_SPANS).contains(&self.near_spans)
    }
}

pub(crate) const HEADER_AT: u64 = 0;
pub(crate) const HOT_AT: u64 = PAGE;

/// What the words of a segment are read as, each in a near region of its own; without the element that stands
/// for none.
pub(crate) trait Element {
    fn region(geometry: &Geometry) -> Range<u64>;
}

macro_rules! elements {
    ($($element:ty: $start:ident + $unused:literal .. $end:ident),+ $(,)?) => {
        $(impl Element for $element {
            fn region(geometry: &Geometry) -> Range<u64> {
                geometry.$start + $unused * size_of::<$element>() as u64..geometry.$end
            }
        })+
    };
}
elements! {
    Participant: participants_at + 1 .. cells_at,
    WaiterCell: cells_at + 1 .. backing_at,
    LockedU8: backing_at + 0 .. bitmap_at,
    LockedU64: bitmap_at + 0 .. pages_at,
    SlotPage: pages_at + 0 .. descriptors_at,
    SpanDescriptor: descriptors_at + 0 .. heap_at,
    Slot: slots_at + 1 .. near_length,
}

impl Element for Header {
    fn region(_: &Geometry) -> Range<u64> {
        HEADER_AT..HOT_AT
    }
}

impl Element for Hot {
    fn region(geometry: &Geometry) -> Range<u64> {
        HOT_AT..geometry.participants_at
    }
}

const fn to_page(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE) * PAGE
}

const fn to_span(bytes: u64) -> u64 {
    bytes.div_ceil(SPAN) * SPAN
}

/// Where the parts of the books of one class of far spans begin, and their length. Whole spans, because the
/// system's pages may be larger than the layout's.
#[derive(Clone, Copy)]
pub(crate) struct Books {
    pub bitmap_at: u64,
    pub backing_at: u64,
    pub end: u64,
    /// Until the books of the next class.
    pub length: u64,
}

impl Books {
    pub(crate) const fn of(class: usize) -> Books {
        let spans = (span_class_start(class + 1) - span_class_start(class)) as u64;
        let bitmap_at = spans * size_of::<SpanDescriptor>() as u64;
        let backing_at = bitmap_at + spans / 64 * size_of::<LockedU64>() as u64;
        let end = backing_at + spans * size_of::<LockedU8>() as u64;
        Books {
            bitmap_at,
            backing_at,
            end,
            length: to_span(end),
        }
    }
}

impl Geometry {
    pub(crate) fn new(tables: Tables, slot_classes: usize, span_classes: usize) -> Option<Geometry> {
        if !tables.are_possible() || slot_classes > SLOT_CLASSES || span_classes > SPAN_CLASSES {
            return None;
        }
        let Tables {
            participants,
            cells,
            near_spans,
        } = tables;
        let slots = slot_class_start(slot_classes);
        let spans = match span_classes {
            0 => near_spans,
            classes => span_class_start(classes),
        };
        let participants_at = HOT_AT + PAGE;
        let cells_at = participants_at + to_page(u64::from(participants) * size_of::<Participant>() as u64);
        let backing_at = cells_at + to_page(u64::from(cells) * size_of::<WaiterCell>() as u64);
        // The near books are one page.
        let aligned = |bytes: u64| bytes.next_multiple_of(128);
        let bitmap_at = backing_at + aligned(u64::from(near_spans) * size_of::<LockedU8>() as u64);
        let pages_at = bitmap_at + aligned(size_of::<LockedU64>() as u64);
        let descriptors_at = pages_at + aligned(u64::from(NEAR_PAGES) * size_of::<SlotPage>() as u64);
        let heap_at = to_span(descriptors_at + u64::from(near_spans) * size_of::<SpanDescriptor>() as u64);
        let slots_at = heap_at + u64::from(near_spans) * SPAN;
        let near_length = to_span(slots_at + u64::from(NEAR_SLOTS) * size_of::<Slot>() as u64);
        let far_pages_at = near_length + to_span(u64::from(slots - NEAR_SLOTS) * size_of::<Slot>() as u64);
        let far_pages = u64::from(slots / SLOTS_PER_PAGE - NEAR_PAGES);
        let far_books_at = far_pages_at + to_span(far_pages * size_of::<SlotPage>() as u64);
        let mut geometry = Geometry {
            participants,
            cells,
            slots,
            slot_classes,
            spans,
            near_spans,
            span_classes,
            participants_at,
            cells_at,
            backing_at,
            bitmap_at,
            descriptors_at,
            pages_at,
            heap_at,
            slots_at,
            near_length,
            far_pages_at,
            far_books_at,
            far_heap_at: 0,
            length: 0,
        };
        geometry.far_heap_at = geometry.books_at(span_classes);
        geometry.length = geometry.span_at(spans.max(FAR_SPANS));
        Some(geometry)
    }

    /// For a queue of so many bytes: a heap of four times the size, because it becomes fragmented, and twice
    /// as many slots as there may be items.
    pub(crate) fn ample(tables: Tables, max_bytes: u64) -> Option<Geometry> {
        if cfg!(loom) {
            // The models map the near memory only.
            return Geometry::new(tables, 0, 0);
        }
        let spans = max_bytes.saturating_mul(4) / SPAN;
        Geometry::new(tables, slot_classes_for(max_bytes / 64), span_classes_for(spans))
    }

    /// For a queue of so many bytes in a file that must be short: a heap of that size, and as many slots as
    /// there may be items.
    pub(crate) fn tight(tables: Tables, max_bytes: u64) -> Option<Geometry> {
        let spans = (max_bytes / SPAN).saturating_sub(u64::from(tables.near_spans));
        let slots = max_bytes / size_of::<Slot>() as u64;
        Geometry::new(tables, slot_classes_for(slots), span_classes_for(spans))
    }

    /// Bytes of payloads that the heap can hold.
    pub(crate) fn heap_bytes(&self) -> u64 {
        let far = span_class_start(self.span_classes) - FAR_SPANS;
        u64::from(self.near_spans + far) * SPAN
    }

    /// What `max_bytes` can be, so that neither the heap nor the slots stand in the way before. Not if there
    /// are as many slots as any queue can have: more small items than these no queue promises.
    pub(crate) fn bytes(&self) -> u64 {
        let slots = match self.slot_classes {
            SLOT_CLASSES => u64::MAX,
            _ => u64::from(self.slots - 1) * size_of::<Slot>() as u64,
        };
        self.heap_bytes().min(slots)
    }

    /// Where a slot lies in the file: far ones behind near ones.
    pub(crate) fn slot_at(&self, index: u32) -> u64 {
        self.slots_at + u64::from(index) * size_of::<Slot>() as u64
    }

    /// Where the word of a page of slots lies in the file: far ones in a row of their own.
    pub(crate) fn slot_page_at(&self, page: u32) -> u64 {
        let (at, index) = match page.checked_sub(NEAR_PAGES) {
            Some(far) => (self.far_pages_at, far),
            None => (self.pages_at, page),
        };
        at + u64::from(index) * size_of::<SlotPage>() as u64
    }

    /// Where the words of some classes of far slots lie in the file. Whole spans, because the system's pages
    /// may be larger than the layout's; so neighbours have the first and the last one in common.
    pub(crate) fn slot_pages_of(&self, classes: Range<usize>) -> Range<u64> {
        let at = |class: usize| self.slot_page_at(slot_class_start(class) / SLOTS_PER_PAGE);
        at(classes.start) / SPAN * SPAN..to_span(at(classes.end))
    }

    /// Where a span's memory lies in the file.
    pub(crate) fn span_at(&self, span: u32) -> u64 {
        match span.checked_sub(FAR_SPANS) {
            Some(far) => self.far_heap_at + u64::from(far) * SPAN,
            None => self.heap_at + u64::from(span) * SPAN,
        }
    }

    /// Where the books of a class of far spans begin in the file.
    pub(crate) fn books_at(&self, class: usize) -> u64 {
        (0..class).fold(self.far_books_at, |at, class| at + Books::of(class).length)
    }

    /// Where a span's descriptor lies in the file.
    pub(crate) fn descriptor_at(&self, span: u32) -> u64 {
        let (at, index) = if span < FAR_SPANS {
            (self.descriptors_at, span)
        } else {
            let class = class_of_span(span);
            (self.books_at(class), span - span_class_start(class))
        };
        at + u64::from(index) * size_of::<SpanDescriptor>() as u64
    }
}
