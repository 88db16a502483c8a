//! In the place of state/line.rs: no queue of a model is that of a connection.

use crate::memory::layout::{Hot, Kind, ParticipantId};
use crate::state::{Section, Shared};
use crate::sync::Word;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SleepTarget {
    Cell,
    CellForNow,
    Line(i32),
}

pub(crate) const DUE: u32 = 1 << 31;
pub(crate) const SIGNALLED: u32 = 1;

pub(crate) fn has_line(_: &Hot) -> bool {
    false
}

/// As the real one.
pub(crate) fn watchers(hot: &Hot) -> u32 {
    hot.watching.get() & !DUE
}

pub(crate) struct Line;

impl Line {
    pub(crate) fn new() -> Line {
        Line
    }
}

pub(crate) fn state_of(line_state: u32) -> u32 {
    line_state
}

impl Shared {
    pub(crate) fn owes_byte(&self, _: u32) -> bool {
        false
    }
}

impl Section<'_> {
    pub(crate) fn forget_line_of(&self, _: ParticipantId) {}

    /// By the same rule as the real one: the line is that of a connection, which no model has.
    pub(crate) fn sleep_target(&mut self, kind: Kind) -> SleepTarget {
        match (kind, has_line(self.hot())) {
            (Kind::Room, true) if self.shared.owes_byte(self.my_index()) => SleepTarget::CellForNow,
            (Kind::Room, true) => SleepTarget::Line(-1),
            _ => SleepTarget::Cell,
        }
    }
}
