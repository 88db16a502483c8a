//! A get of an item by name.

use std::sync::Arc;

use penstock_core::{Buffer, Delivery, Error, Held, Patience, Queue};

use crate::common::wait;

/// Takes an item by name. Its payload is borrowed no more.
pub fn hold(queue: &Arc<Queue>, patience: Patience) -> Result<(Vec<u8>, Held), Error> {
    let mut buffer = Buffer::default();
    let (delivery, held) = wait(patience, |wait| queue.hold(&mut buffer, wait))?;
    Ok(match delivery {
        Delivery::Copied => (buffer.bytes().to_vec(), held),
        Delivery::Lent(lent) => (lent.bytes().to_vec(), held),
    })
}
