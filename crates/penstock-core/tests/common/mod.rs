//! What all tests of the core share: a plain queue, and a call that is not interrupted.

use penstock_core::{Options, Patience, Wait};

pub const PLAIN: Options = Options {
    maxsize: 0,
    max_bytes: None,
    soft_bytes: 0,
    acknowledged: false,
    max_deliveries: 3,
};

pub fn wait<T>(patience: Patience, call: impl FnOnce(Wait<'_>) -> T) -> T {
    call(Wait {
        patience,
        interrupted: &mut || false,
    })
}
