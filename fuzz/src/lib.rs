//! Operations on a queue whose shared memory is damaged meanwhile.
//!
//! An input is a small program (program.rs): what the queue is like, then steps, of which some damage the
//! memory (damage.rs) and the others use the queue, die, or open it anew (world.rs). Whatever the damage, an
//! operation ends, and with an answer or an honest error: no access outside the memory, no panic, no hang, no
//! flood of memory. Without damage there is no `Corrupt` either, and every payload is what was put.

mod damage;
mod program;
mod world;

use program::{Input, Program};
use world::World;

/// Runs one input. Panics, crashes or hangs if something is wrong with the core. Whether the damage was
/// noticed.
pub fn run(input: &[u8]) -> bool {
    run_with(input, |_, _| {})
}

/// The same, with `mapped` called for each mapping of the queue's memory: its start, and ranges in it that no
/// operation may touch, which change to accessible before it is unmapped.
pub fn run_with(input: &[u8], mapped: fn(*const u8, Access<'_>)) -> bool {
    let program = Program::read(&mut Input::new(input));
    let mut world = World::new(&program.options, mapped);
    for step in &program.steps {
        world.step(step);
    }
    world.finish()
}

/// Whether ranges of offsets may be touched.
pub enum Access<'a> {
    Forbidden(&'a [std::ops::Range<u64>]),
    Allowed(&'a [std::ops::Range<u64>]),
}
