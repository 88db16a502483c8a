//! What unit tests share: the options of their queues, and a call that does not wait.

use super::{Options, Patience, Wait};

pub(crate) const PLAIN: Options = Options {
    maxsize: 0,
    max_bytes: None,
    soft_bytes: 0,
    acknowledged: false,
    max_deliveries: 3,
};

pub(crate) const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    ..PLAIN
};

pub(crate) fn now<T>(call: impl FnOnce(Wait<'_>) -> T) -> T {
    call(Wait {
        patience: Patience::NoWait,
        interrupted: &mut || false,
    })
}
