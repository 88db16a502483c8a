//! Threads that wait in a get or a put, and how that ends.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use penstock_core::{Error, Queue};

use crate::common::wait;
use crate::get::get;
use crate::soon::soon;

pub fn getter(queue: &Arc<Queue>) -> JoinHandle<Result<Vec<u8>, Error>> {
    let queue = queue.clone();
    thread::spawn(move || get(&queue, soon()))
}

pub fn putter(queue: &Arc<Queue>, payload: &'static [u8]) -> JoinHandle<Result<(), Error>> {
    let queue = queue.clone();
    thread::spawn(move || wait(soon(), |wait| queue.put(&[payload], wait)).map(drop))
}
