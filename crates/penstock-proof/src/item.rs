//! Items: a number says all about the payload.

use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_core::{Buffer, Delivery, Error, Lent, Patience, Queue, Wait};

use crate::ends;

pub type Item = u32;

const LOOKED_AT: usize = 16 << 10;

/// The longest wait of any process, unless the queue hangs.
pub const WATCHDOG: Duration = Duration::from_secs(40);

/// 10 to 19 fit in a slot, 20 to 24 in an object of a divided span, 25 to 29 in a larger one, 30 to 39 and
/// 500 to 599 in a run of one span. 40 to 49 are so large that their memory is given back.
pub fn len_of(item: Item) -> usize {
    match item {
        20..=24 => 300,
        25..=29 => 600,
        30..=39 | 500..=599 => 33_000,
        40..=49 => 9 << 20,
        _ => 20,
    }
}

/// Whether the payload lies outside the slot.
pub fn has_extent(item: Item) -> bool {
    len_of(item) > 20
}

pub fn payload(item: Item) -> Vec<u8> {
    let mut payload = vec![item as u8; len_of(item)];
    payload[..4].copy_from_slice(&item.to_le_bytes());
    payload
}

/// The item that has this payload. Panics if it is no item's whole payload.
pub fn item_of(payload: &[u8]) -> Item {
    let (number, rest) = payload.split_at(4);
    let item = u32::from_le_bytes([number[0], number[1], number[2], number[3]]);
    // Of the largest only the ends are compared, because comparing all of them takes longer than all the
    // rest.
    let middle = rest.len().saturating_sub(2 * LOOKED_AT);
    let (start, end) = (
        &rest[..LOOKED_AT.min(rest.len())],
        &rest[rest.len() - LOOKED_AT.min(rest.len())..],
    );
    let is_whole = |bytes: &[u8]| bytes.iter().all(|byte| *byte == item as u8);
    assert!(
        payload.len() == len_of(item)
            && is_whole(start)
            && is_whole(end)
            && (middle > 1 << 20 || is_whole(rest)),
        "the payload of {item} is torn"
    );
    item
}

pub fn with_patience<T>(patience: Patience, call: impl FnOnce(Wait<'_>) -> T) -> T {
    call(Wait {
        patience,
        interrupted: &mut || false,
    })
}

pub fn surely() -> Patience {
    Patience::Until(Instant::now() + WATCHDOG)
}

/// Puts an item, over the connection if there is one.
pub fn put(queue: &Queue, item: Item) {
    if let Err(error) = try_put(queue, item) {
        panic!("put: {error}");
    }
}

pub fn try_put(queue: &Queue, item: Item) -> Result<(), Error> {
    // One block many times: a large payload costs the queue's memory alone.
    let len = len_of(item);
    let block = vec![item as u8; len.min(LOOKED_AT)];
    let number = item.to_le_bytes();
    let mut parts: Vec<&[u8]> = vec![&number];
    let mut left = len - number.len();
    while left > 0 {
        let part = left.min(block.len());
        parts.push(&block[..part]);
        left -= part;
    }
    with_patience(surely(), |wait| {
        if ends::are_open() {
            queue.put_at(ends::writing(), &parts, wait)
        } else {
            queue.put(&parts, wait)
        }
    })
    .map(drop)
}

/// Takes an item, over the connection if there is one; keeps the payload if it was lent.
pub fn take(queue: &Arc<Queue>, patience: Patience) -> Result<(Item, Option<Lent>), Error> {
    let mut buffer = Buffer::default();
    let delivery = with_patience(patience, |wait| {
        if ends::are_open() {
            queue.get_at(ends::reading(), &mut buffer, wait)
        } else {
            queue.get(&mut buffer, wait)
        }
    });
    match delivery? {
        Delivery::Copied => Ok((item_of(buffer.bytes()), None)),
        Delivery::Lent(lent) => Ok((item_of(lent.bytes()), Some(lent))),
    }
}

pub fn get(queue: &Arc<Queue>, patience: Patience) -> Result<Item, Error> {
    take(queue, patience).map(|(item, _)| item)
}
