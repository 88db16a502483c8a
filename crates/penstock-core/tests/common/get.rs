//! A get that copies the payload, however it is delivered.

use std::sync::Arc;

use penstock_core::{Buffer, Delivery, Error, Patience, Queue};

use crate::common::wait;

pub fn get(queue: &Arc<Queue>, patience: Patience) -> Result<Vec<u8>, Error> {
    let mut buffer = Buffer::default();
    match wait(patience, |wait| queue.get(&mut buffer, wait))? {
        Delivery::Copied => Ok(buffer.bytes().to_vec()),
        Delivery::Lent(lent) => Ok(lent.bytes().to_vec()),
    }
}
