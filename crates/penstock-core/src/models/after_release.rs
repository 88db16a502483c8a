//! In the place of after_release.rs: a model has no bell.

use crate::bell::Errand;
use crate::state::Shared;

impl Shared {
    pub(crate) fn run(&self, _: Errand, _: u32) {}
}
