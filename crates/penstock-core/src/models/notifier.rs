//! In the place of state/notifier.rs: a model has no notifier, and no watchers.

use crate::error::Error;
use crate::memory::layout::Participant;
use crate::state::Section;

#[derive(Clone, Copy, Default)]
pub(crate) enum AfterRelease {
    #[default]
    None,
}

pub(crate) const DRAINED: u32 = 0;
pub(crate) const SIGNALLED: u32 = 1;

pub(crate) fn state_of(pipe_state: u32) -> u32 {
    pipe_state
}

pub(crate) struct Notifier;

impl Notifier {
    pub(crate) fn new() -> Notifier {
        Notifier
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
    pub(crate) fn update_notifier(&mut self) {}

    pub(crate) fn is_readable(&self) -> bool {
        false
    }

    pub(crate) fn discount_watchers_of(&mut self, _: &Participant) {}

    pub(crate) fn rebuild_notifier(&mut self) -> Result<(), Error> {
        Ok(())
    }

    pub(crate) fn announce_notifier(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
