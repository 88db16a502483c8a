//! Beside a process that watches: whatever the others do, and wherever one of them dies, the pipes say in the
//! end what a get, a put and a join would find.

use std::sync::Arc;

use Preemptions::AtMost;

use crate::handle::queue::Queue;
use crate::memory::layout::Kind;
use crate::models::run::*;
use crate::models::world::How;
use crate::options::Options;
use crate::state::notifier::BRIM;
use crate::state::pipe_word::{PROMISED, Pipe, UNKNOWN, state_of};
use crate::sync::Word;

const NARROW_ACKNOWLEDGED: Options = Options {
    maxsize: 1,
    ..ACKNOWLEDGED
};

/// The pipes disagree with the queue. `is_settled` if no process has died: then no byte is owed either.
fn assert_pipes_are_right(queue: &Arc<Queue>, kinds: &[Kind], is_settled: bool) {
    let hot = queue.shared.segment.hot();
    for pipe in Pipe::ALL {
        let state = state_of(pipe.word(hot).get());
        assert!(
            !is_settled || !matches!(state, PROMISED | UNKNOWN),
            "{pipe:?}: a byte is owed"
        );
    }
    let (traffic, finish) = (hot.notifier.get(), hot.finish_notifier.get());
    for kind in kinds {
        match kind {
            Kind::Item => assert_eq!(traffic > 0, hot.ready_count.get() > 0, "items"),
            Kind::Room => assert_eq!(traffic < BRIM, queue.shared.has_room(), "room"),
            Kind::Finish => assert_eq!(finish > 0, hot.unfinished.get() == 0, "the end"),
        }
    }
}

/// The work of two processes beside watchers of these kinds.
fn check(name: &'static str, options: &'static Options, kinds: &'static [Kind], work: fn(&Arc<Queue>, u32)) {
    Model::new(name, AtMost(3)).check(move || {
        let queue = create(options);
        for kind in kinds {
            queue.watch_for(*kind).expect("it can watch");
        }
        let mut processes = Processes::of(&queue);
        for process in [1, 2] {
            processes.start(process, move |queue| work(queue, process));
        }
        processes.finish();
        assert_pipes_are_right(&queue, kinds, true);
    });
}

/// The same, and one of them dies. The end of one more section, as that of a process that tends the queue,
/// writes what the dead one owes.
fn check_death(
    name: &'static str,
    options: &'static Options,
    kinds: &'static [Kind],
    work: fn(&Arc<Queue>, u32),
) {
    Model::new(name, AtMost(1)).check_stopping(1, How::Dies, move || {
        let queue = create(options);
        for kind in kinds {
            queue.watch_for(*kind).expect("it can watch");
        }
        let mut processes = Processes::of(&queue);
        for process in [1, 2] {
            processes.start(process, move |queue| work(queue, process));
        }
        processes.finish();
        if queue.shared.is_notifier_unsettled() {
            queue.reap_dead(true).expect("the queue is whole");
            drop(queue.enter_briefly().expect("the queue is whole"));
        }
        assert_pipes_are_right(&queue, kinds, true);
    });
}

fn put_or_get(queue: &Arc<Queue>, process: u32) {
    match process {
        1 => put(queue, 1),
        _ => drop(try_get(queue, at_once())),
    }
}

fn put_and_get(queue: &Arc<Queue>, _: u32) {
    let _ = queue.put(&[&[1]], at_once());
    let _ = try_get(queue, at_once());
}

fn put_get_and_finish(queue: &Arc<Queue>, process: u32) {
    put_and_get(queue, process);
    let _ = queue.task_done();
}

#[test]
fn items_are_shown() {
    check(
        "a put and a get beside a watcher",
        &PLAIN,
        &[Kind::Item],
        put_or_get,
    );
}

#[test]
fn items_of_two_are_shown() {
    check(
        "two put and get beside a watcher",
        &PLAIN,
        &[Kind::Item],
        put_and_get,
    );
}

#[test]
fn room_is_shown() {
    check(
        "two put and get, one watches for room",
        &NARROW,
        &[Kind::Room],
        put_and_get,
    );
}

#[test]
fn items_and_room_are_shown() {
    check(
        "two put and get, watched for items and room",
        &NARROW,
        &[Kind::Item, Kind::Room],
        put_and_get,
    );
}

#[test]
fn the_end_is_shown() {
    check(
        "two put, get and finish beside a watcher",
        &NARROW_ACKNOWLEDGED,
        &[Kind::Room, Kind::Finish],
        put_get_and_finish,
    );
}

#[test]
fn items_and_room_are_shown_after_a_death() {
    check_death(
        "one dies, watched for items and room",
        &NARROW,
        &[Kind::Item, Kind::Room],
        put_and_get,
    );
}

#[test]
fn the_end_is_shown_after_a_death() {
    check_death(
        "one dies, watched for the end",
        &NARROW_ACKNOWLEDGED,
        &[Kind::Finish],
        put_get_and_finish,
    );
}
