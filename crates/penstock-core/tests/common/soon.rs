//! The patience of a call that is expected to succeed.

use std::time::{Duration, Instant};

use penstock_core::Patience;

pub fn soon() -> Patience {
    Patience::Until(Instant::now() + Duration::from_secs(20))
}
