//! In the place of fork.rs: the processes of a model do not fork.

pub(crate) type NoFork = Box<()>;

pub(crate) fn hold_off() -> NoFork {
    Box::new(())
}

pub(crate) fn try_hold_off() -> Option<NoFork> {
    Some(hold_off())
}

pub(crate) fn notice() {}

pub fn count() -> u32 {
    0
}
