//! Items that their holder settles by name, beside processes that wait for them, and a holder that dies in
//! the middle.

use std::sync::Arc;

use Preemptions::AtMost;

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::models::run::*;
use crate::models::world::How;
use crate::operations::delivery::Buffer;
use crate::operations::get::Delivery;
use crate::options::Wait;
use crate::state::held::{Held, Verdict};

fn hold(queue: &Arc<Queue>, wait: Wait<'_>) -> Result<(u8, Held), Error> {
    let mut buffer = Buffer::default();
    let (delivery, held) = queue.hold(&mut buffer, wait)?;
    match delivery {
        Delivery::Copied => Ok((buffer.bytes()[0], held)),
        Delivery::Lent(lent) => Ok((lent.bytes()[0], held)),
    }
}

fn settle(queue: &Queue, held: &Held, verdict: Verdict) {
    assert_eq!(queue.settle(held, verdict, forever()), Ok(true));
}

#[test]
fn a_waiting_getter_takes_what_is_released() {
    Model::new("a lease is released beside a getter", AtMost(1)).check(|| {
        let queue = create(&ACKNOWLEDGED);
        put(&queue, 1);
        let done = Log::default();
        let mut processes = Processes::of(&queue);
        processes.start(1, |queue| {
            let (_, held) = hold(queue, forever()).expect("it comes back");
            settle(queue, &held, Verdict::Released);
        });
        let log = done.clone();
        processes.start(2, move |queue| {
            let (item, held) = hold(queue, forever()).expect("it comes back");
            settle(queue, &held, Verdict::Done);
            log.note(item);
            // The other one may be late.
            queue.put(&[&[2]], forever()).expect("there is room");
        });
        processes.finish();
        assert_eq!(done.items().len(), 1);
        assert_no_slice_ended();
    });
}

#[test]
fn a_joiner_learns_what_is_settled() {
    for verdict in [Verdict::Done, Verdict::Rejected] {
        Model::new("a lease is settled beside a joiner", AtMost(1)).check(move || {
            let queue = create(&ACKNOWLEDGED);
            put(&queue, 1);
            let mut processes = Processes::of(&queue);
            processes.start(1, move |queue| {
                let (_, held) = hold(queue, forever()).expect("it is there");
                settle(queue, &held, verdict);
            });
            processes.start(2, |queue| queue.join(forever()).expect("it is settled"));
            assert_eq!(processes.finish(), []);
            assert_no_slice_ended();
        });
    }
}

/// The other process finishes the item, whatever the dead one has done with it.
fn check_death(name: &'static str, verdict: Verdict) {
    Model::new(name, AtMost(1)).check_stopping(1, How::Dies, move || {
        let queue = create(&ACKNOWLEDGED);
        put(&queue, 1);
        let done = Log::default();
        let mut processes = Processes::of(&queue);
        processes.start(1, move |queue| {
            if let Ok((_, held)) = hold(queue, patient()) {
                settle(queue, &held, verdict);
            }
        });
        let log = done.clone();
        processes.start(2, move |queue| {
            if let Ok((item, held)) = hold(queue, patient()) {
                settle(queue, &held, Verdict::Done);
                log.note(item);
            }
        });
        assert_eq!(processes.finish(), []);
        assert_eq!(done.items(), [1]);
    });
}

#[test]
fn a_holder_dies_while_it_releases() {
    check_death("a holder dies while it releases", Verdict::Released);
}

#[test]
fn a_holder_dies_while_it_says_that_it_has_failed() {
    check_death("a holder dies while it fails", Verdict::Failed);
}
