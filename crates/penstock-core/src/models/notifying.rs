//! Beside a process that watches: whatever the others do, and wherever one of them dies, the pipes say in the
//! end what a get, a put and a join would find.

use std::sync::Arc;
use std::time::Duration;

use Preemptions::AtMost;

use crate::error::Error;
use crate::handle::queue::Queue;
use crate::memory::layout::Kind;
use crate::models::run::*;
use crate::models::world::How;
use crate::options::Options;
use crate::state::notifier::{BRIM, Contents};
use crate::state::pipe_word::{PROMISED, Pipe, UNKNOWN, has_to_tell, state_of};
use crate::sync::Word;

const NARROW_ACKNOWLEDGED: Options = Options {
    maxsize: 1,
    ..ACKNOWLEDGED
};

/// Room for two: an item alone is one for which a byte is promised, and two fill the pipe.
const ROOM_FOR_TWO: Options = Options { maxsize: 2, ..PLAIN };

const DELAY: Duration = Duration::from_millis(7);

/// No byte is owed any more, and what lies in the pipes agrees with the queue.
fn assert_pipes_are_right(queue: &Arc<Queue>, kinds: &[Kind]) {
    let hot = queue.shared.segment.hot();
    let [traffic, finish] = Pipe::ALL.map(|pipe| Contents::of(pipe, hot).bytes());
    for kind in kinds {
        let state = state_of(Pipe::of(*kind).word(hot).get());
        assert!(!matches!(state, PROMISED | UNKNOWN), "{kind:?}: a byte is owed");
        match kind {
            Kind::Item => {
                let is_told = hot.ready_count.get() > 0 || hot.is_at_its_end() || has_to_tell(hot);
                assert_eq!(traffic > 0, is_told, "items");
            }
            Kind::Room => assert_eq!(traffic < BRIM, queue.shared.has_room(), "room"),
            Kind::Finish => assert_eq!(
                finish > 0,
                hot.unfinished.get() == 0,
                "the end; {state}, {finish} bytes"
            ),
        }
    }
}

struct Watched {
    name: &'static str,
    options: &'static Options,
    kinds: &'static [Kind],
    work: fn(&Arc<Queue>, u32),
}

impl Watched {
    /// The work of two processes beside watchers. `tend` is done before the pipes are compared.
    fn run(&self, tend: fn(&Queue)) {
        let queue = create(self.options);
        for kind in self.kinds {
            queue.watch_for(*kind).expect("it can watch");
        }
        let mut processes = Processes::of(&queue);
        for process in [1, 2] {
            let work = self.work;
            processes.start(process, move |queue| work(queue, process));
        }
        // Before the audit, which sweeps: that writes every pipe anew.
        processes.finish_and(|| {
            tend(&queue);
            assert_pipes_are_right(&queue, self.kinds);
        });
    }

    fn check(self, preemptions: usize) {
        Model::new(self.name, AtMost(preemptions)).check(move || self.run(|_| {}));
    }

    /// One of the processes dies. A section, as a process passes one that tends the queue, writes what the
    /// dead one owes.
    fn check_death(self) {
        Model::new(self.name, AtMost(1)).check_stopping(1, How::Dies, move || {
            self.run(|queue| {
                queue.reap_dead(true).expect("the queue is whole");
                if queue.shared.is_notifier_unsettled() {
                    drop(queue.enter_briefly().expect("the queue is whole"));
                }
            });
        });
    }
}

fn put_or_get(queue: &Arc<Queue>, process: u32) {
    match process {
        1 => put(queue, 1),
        _ => drop(try_get(queue, at_once())),
    }
}

/// One puts an item; the other one takes it, perhaps, and fills the queue.
fn put_or_fill(queue: &Arc<Queue>, process: u32) {
    if process == 1 {
        return drop(queue.put(&[&[1]], at_once()));
    }
    let _ = try_get(queue, at_once());
    for item in [2, 3] {
        let _ = queue.put(&[&[item]], at_once());
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

/// One shuts the queue down; the other one puts an item for later, and takes what is there.
fn end_or_delay(queue: &Arc<Queue>, process: u32) {
    if process == 1 {
        return queue.shut_down(false).expect("the queue is whole");
    }
    if queue.put_delayed(&[&[1]], DELAY, at_once()).is_ok() {
        let _ = try_get(queue, at_once());
        drop(try_get(queue, patient()));
    }
}

#[test]
fn the_end_is_shown_beside_a_delayed_item() {
    Watched {
        name: "a shutdown beside a delayed item and a watcher",
        options: &PLAIN,
        kinds: &[Kind::Item],
        work: end_or_delay,
    }
    .check(2);
}

#[test]
fn the_end_is_shown_beside_a_delayed_item_after_a_death() {
    Watched {
        name: "one dies in a shutdown beside a delayed item and a watcher",
        options: &PLAIN,
        kinds: &[Kind::Item],
        work: end_or_delay,
    }
    .check_death();
}

/// A watcher sleeps until an item is due. Another is put that is due before; then, or meanwhile, one that is
/// not, by a process that watches nothing.
fn delay_beside_a_watcher(how: Option<How>) {
    let model = Model::new("an item is due earlier beside a watcher", AtMost(2));
    let run = move || {
        let queue = create(&PLAIN);
        queue
            .put_delayed(&[&[1]], 3 * DELAY, at_once())
            .expect("a put succeeds");
        queue.watch_for(Kind::Item).expect("it can watch");
        let mut processes = Processes::of(&queue);
        for (process, delay) in [(1, DELAY), (2, 5 * DELAY)] {
            processes.start(process, move |queue| {
                drop(queue.put_delayed(&[&[2]], delay, at_once()));
            });
        }
        processes.finish_and(|| {
            let hot = queue.shared.segment.hot();
            if how.is_some() {
                queue.reap_dead(true).expect("the queue is whole");
                if queue.shared.is_notifier_unsettled() {
                    drop(queue.enter_briefly().expect("the queue is whole"));
                }
            }
            assert_pipes_are_right(&queue, &[Kind::Item]);
            let is_earlier = queue.time_until_due().is_some_and(|left| left <= DELAY);
            if is_earlier {
                let told = Contents::of(Pipe::Traffic, hot).bytes();
                assert!(told > 0, "the watcher sleeps until a later time");
                assert_eq!(try_get(&queue, at_once()), Err(Error::Empty));
                let told = Contents::of(Pipe::Traffic, hot).bytes();
                assert_eq!(told, 0, "it has found out");
            }
        });
    };
    match how {
        Some(how) => model.check_stopping(1, how, run),
        None => model.check(run),
    }
}

#[test]
fn an_earlier_time_is_told() {
    delay_beside_a_watcher(None);
}

#[test]
fn an_earlier_time_is_told_after_a_death() {
    delay_beside_a_watcher(Some(How::Dies));
}

#[test]
fn items_are_shown() {
    Watched {
        name: "a put and a get beside a watcher",
        options: &PLAIN,
        kinds: &[Kind::Item],
        work: put_or_get,
    }
    .check(3);
}

#[test]
fn items_of_two_are_shown() {
    Watched {
        name: "two put and get beside a watcher",
        options: &PLAIN,
        kinds: &[Kind::Item],
        work: put_and_get,
    }
    .check(2);
}

#[test]
fn room_is_shown() {
    Watched {
        name: "two put and get, one watches for room",
        options: &NARROW,
        kinds: &[Kind::Room],
        work: put_and_get,
    }
    .check(2);
}

#[test]
fn items_and_room_are_shown() {
    Watched {
        name: "two put and get, watched for items and room",
        options: &NARROW,
        kinds: &[Kind::Item, Kind::Room],
        work: put_and_get,
    }
    .check(2);
}

/// A byte that comes too late takes out what has filled the pipe meanwhile.
#[test]
fn a_full_pipe_beside_a_late_byte() {
    Watched {
        name: "one puts, one gets and fills, watched for both",
        options: &ROOM_FOR_TWO,
        kinds: &[Kind::Item, Kind::Room],
        work: put_or_fill,
    }
    .check(4);
}

#[test]
fn the_end_is_shown() {
    Watched {
        name: "two put, get and finish beside a watcher",
        options: &NARROW_ACKNOWLEDGED,
        kinds: &[Kind::Room, Kind::Finish],
        work: put_get_and_finish,
    }
    .check(1);
}

#[test]
fn items_and_room_are_shown_after_a_death() {
    Watched {
        name: "one dies, watched for items and room",
        options: &NARROW,
        kinds: &[Kind::Item, Kind::Room],
        work: put_and_get,
    }
    .check_death();
}

#[test]
fn the_end_is_shown_after_a_death() {
    Watched {
        name: "one dies, watched for the end",
        options: &NARROW_ACKNOWLEDGED,
        kinds: &[Kind::Finish],
        work: put_get_and_finish,
    }
    .check_death();
}
