//! The bell of a model: there is none, and nobody watches.

use crate::error::Error;
use crate::memory::layout::{Kind, Participant};
use crate::state::Section;

#[derive(Clone, Copy, Default)]
pub(crate) enum Errand {
    #[default]
    None,
}

pub(crate) const SILENT: u32 = 0;
pub(crate) const RUNG: u32 = 1;

pub(crate) fn state_of(rung: u32) -> u32 {
    rung
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Cell,
    #[allow(dead_code)]
    CellForNow,
    #[allow(dead_code)]
    Pipe(i32, i32),
}

pub(crate) struct Bell;

impl Bell {
    pub(crate) fn new() -> Bell {
        Bell
    }

    pub(crate) fn close(&self) {}

    pub(crate) fn is_known(&self) -> bool {
        false
    }

    pub(crate) fn is_watched(&self) -> bool {
        false
    }
}

impl Section<'_> {
    pub(crate) fn toll(&mut self) {}

    pub(crate) fn place_to_sleep(&mut self, _: Kind) -> Place {
        Place::Cell
    }

    pub(crate) fn call_senders(&mut self) {}

    pub(crate) fn discount_watchers_of(&mut self, _: &Participant) {}

    pub(crate) fn rebuild_bell(&mut self) -> Result<(), Error> {
        Ok(())
    }

    pub(crate) fn announce_bell(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
