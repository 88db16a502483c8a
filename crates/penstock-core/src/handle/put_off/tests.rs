//! What a process does that was wrongly taken for dead.

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::lock::guard::Guard;
use crate::options::testing::{PLAIN, now};
use crate::state::holding::Lease;
use crate::state::participant::read;
use crate::state::recovery::Portion;
use crate::state::slot::State;

fn enter(queue: &Queue) -> Guard<'_> {
    now(|mut wait| queue.enter(&mut wait)).unwrap()
}

fn claim(queue: &Queue) -> Lease {
    let mut section = enter(queue);
    let slot = section.pop_slot().unwrap().unwrap();
    let claim = section.claim(slot, 0).unwrap();
    section.hold(slot).unwrap();
    claim
}

/// Memory that it had claimed is another call's when it gives that back, now or later.
#[test]
fn a_claim_that_was_swept_is_left_alone() {
    for is_taken in [false, true] {
        let queue = Queue::create(&PLAIN).unwrap();
        now(|wait| queue.put(&[b"x"], wait)).unwrap();
        let swept = claim(&queue);
        {
            let mut section = enter(&queue);
            let record = queue.shared.segment.participant(section.my_index()).unwrap();
            let (me, word) = (section.my_index(), read(record).0);
            let swept = section.sweep(me, word).unwrap();
            assert_eq!(swept, Portion::Last);
        }
        let anew = claim(&queue);
        assert_eq!(swept.slot, anew.slot, "it is free again");
        let entered = match is_taken {
            true => Err(Error::Busy),
            false => queue.enter_briefly(),
        };
        queue
            .release_claim_or_put_off(swept, entered, |_| panic!("it is not its own"))
            .unwrap();
        let mut section = enter(&queue);
        let word = section.slot(anew.slot).unwrap().word();
        assert_eq!(word.state(), Some(State::Claimed));
        assert!(section.is_my_claim(anew) && !section.is_my_claim(swept));
        section.release_claim(anew.slot).unwrap();
        drop(section);
        assert_eq!(queue.check().unwrap().findings, []);
    }
}
