//! The bell of a model: there is none, and nobody watches.

use crate::error::Error;
use crate::layout::Participant;
use crate::lock::Section;
use crate::queue::Queue;

pub(crate) const SILENT: u32 = 0;
pub(crate) const RUNG: u32 = 1;
pub(crate) const UNKNOWN: u32 = 2;

pub(crate) struct Bell;

impl Bell {
    pub(crate) fn new() -> Bell {
        Bell
    }

    pub(crate) fn is_known(&self) -> bool {
        false
    }
}

impl Queue {
    pub(crate) fn drop_bell(&self) {}

    pub(crate) fn ring_now(&self, _: i32) {}
}

impl Section<'_> {
    pub(crate) fn toll(&mut self) {}

    pub(crate) fn discount_watchers_of(&mut self, _: &Participant) {}

    pub(crate) fn rebuild_bell(&mut self) -> Result<(), Error> {
        Ok(())
    }

    pub(crate) fn announce_bell(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
