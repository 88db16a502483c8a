//! A message with buffers beside its pickle, as pickle's protocol 5 keeps them out of band.
//!
//! ```text
//! 0      1         4       8               16
//! +------+---------+-------+---------------+--------------------+--------+-----+----------+-----+---
//! | 0xff | 0, 0, 0 | count | pickle length | count x (start,    | pickle | pad | buffer 0 | pad |...
//! |      |         | u32   | u64           |   length+flag) u64 |        |     |          |     |
//! +------+---------+-------+---------------+--------------------+--------+-----+----------+-----+---
//! ```
//!
//! No pickle begins with 0xff. Starts are counted from the message's own start, which lies on a boundary of
//! 128 bytes, and buffers begin on boundaries of 64. The highest bit of a length says that the buffer is
//! read-only. Numbers have the lowest byte first.

use std::ops::Range;

/// Buffers of at least this many bytes lie beside the pickle. A put copies them once, and a get seldom.
/// Smaller ones cost less inside the pickle.
pub const OUT_OF_BAND: usize = 4096;

const MARK: u8 = 0xff;
/// Comes before bytes that are to arrive as they are (of `send_bytes`, or of another pickler), if they begin
/// with one of the two marks.
const RAW: [u8; 1] = [0xfe];
const HEAD: usize = 16;
const ENTRY: usize = 16;
const ALIGNMENT: usize = 64;
const READ_ONLY: u64 = 1 << 63;

static PADDING: [u8; ALIGNMENT] = [0; ALIGNMENT];

/// A buffer of a message: its place there, and whether the receiver may write to it.
pub struct Part {
    pub range: Range<usize>,
    pub is_read_only: bool,
}

/// What [`open`] finds in a message.
pub struct Envelope<'a> {
    pub pickle: Range<usize>,
    message: &'a [u8],
    table: &'a [u8],
}

impl Envelope<'_> {
    /// The buffers in their order. `None` in the place of one that lies outside the message.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = Option<Part>> {
        self.table.chunks_exact(ENTRY).map(|entry| {
            let (start, len) = (number(entry, 0)?, number(entry, 8)?);
            Some(Part {
                range: range(self.message, start, len & !READ_ONLY)?,
                is_read_only: len & READ_ONLY != 0,
            })
        })
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    let number = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*number))
}

fn range(message: &[u8], start: u64, len: u64) -> Option<Range<usize>> {
    let start = usize::try_from(start).ok()?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    (end <= message.len()).then_some(start..end)
}

/// Writes what comes before the pickle, and computes where each buffer starts. `None` if there is no memory
/// for that.
pub fn seal(
    pickle_len: usize,
    buffers: impl ExactSizeIterator<Item = (usize, bool)>,
) -> Option<(Vec<u8>, Vec<usize>)> {
    let (mut head, mut starts) = (Vec::new(), Vec::new());
    head.try_reserve_exact(HEAD + buffers.len() * ENTRY).ok()?;
    starts.try_reserve_exact(buffers.len()).ok()?;
    head.extend_from_slice(&[MARK, 0, 0, 0]);
    head.extend_from_slice(&(buffers.len() as u32).to_le_bytes());
    head.extend_from_slice(&(pickle_len as u64).to_le_bytes());
    let mut end = HEAD + buffers.len() * ENTRY + pickle_len;
    for (len, is_read_only) in buffers {
        let start = end.next_multiple_of(ALIGNMENT);
        head.extend_from_slice(&(start as u64).to_le_bytes());
        let flag = if is_read_only { READ_ONLY } else { 0 };
        head.extend_from_slice(&(len as u64 | flag).to_le_bytes());
        starts.push(start);
        end = start + len;
    }
    Some((head, starts))
}

/// The bytes between a piece that ends at `end` and a buffer that starts at `start`.
pub fn padding(end: usize, start: usize) -> &'static [u8] {
    &PADDING[..start - end]
}

/// Whether a message has buffers beside its pickle.
#[inline]
pub fn is_sealed(message: &[u8]) -> bool {
    message.first() == Some(&MARK)
}

/// The mark that must come before bytes which the codec has not written; empty if they need none.
pub fn raw_mark(bytes: &[u8]) -> &'static [u8] {
    match bytes.first() {
        Some(first) if *first == MARK || *first == RAW[0] => &RAW,
        _ => &[],
    }
}

/// The bytes without that mark.
pub fn open_raw(message: &[u8]) -> &[u8] {
    message.strip_prefix(&RAW).unwrap_or(message)
}

/// Reads the head of a message with buffers. `None` if it is damaged.
pub fn open(message: &[u8]) -> Option<Envelope<'_>> {
    let count = usize::try_from(number(message, 0)? >> 32).ok()?;
    let after = HEAD.checked_add(count.checked_mul(ENTRY)?)?;
    let table = message.get(HEAD..after)?;
    let pickle = range(message, after as u64, number(message, 8)?)?;
    Some(Envelope {
        pickle,
        message,
        table,
    })
}
