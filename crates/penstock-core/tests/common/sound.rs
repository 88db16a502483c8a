//! The check of a queue in which no call is under way.

use penstock_core::{Queue, Statistics};

/// Its check finds nothing, and no item is counted twice or not at all.
pub fn is_sound(queue: &Queue, what: &str) -> Statistics {
    assert_eq!(queue.check().unwrap().findings, [], "{what}");
    let s = queue.statistics().unwrap();
    assert_eq!(
        s.puts,
        s.gets + s.queued + s.delayed + s.dead_letters + s.discarded,
        "{what}: {s:?}"
    );
    s
}
