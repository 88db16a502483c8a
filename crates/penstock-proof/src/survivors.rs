//! What the survivors must be able to do after a death, and what the books must say then.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use penstock_core::{Awaited, Error, Patience};

use crate::ends;
use crate::item::{Item, get, has_extent, item_of, len_of, put, surely, try_put, with_patience};
use crate::operation::{Sleeper, TOLD};
use crate::scene::Scene;

/// What the survivor puts itself.
const OWN: [Item; 2] = [200, 35];

/// What was found after a death.
#[derive(Clone, Copy, Debug, Default)]
pub struct Findings {
    /// The longest that a survivor was held up in one call.
    pub stall: Duration,
    /// How many of the victim's items are there.
    pub put: usize,
    /// How many of the items that it may have taken are gone.
    pub taken: usize,
}

/// The events that `poll` reports, without waiting.
fn events(fd: RawFd, asked: i16) -> i16 {
    let mut polled = libc::pollfd {
        fd,
        events: asked,
        revents: 0,
    };
    // SAFETY: the call reads and writes one struct.
    unsafe { libc::poll(&raw mut polled, 1, 0) };
    polled.revents
}

struct Survivor {
    scene: Scene,
    found: Findings,
    collected: Vec<Item>,
    own: Vec<Item>,
    /// Calls of task_done that it took until all items were finished.
    finished: usize,
}

/// Goes on with the queue. `turn` chooses what is done first. Panics at whatever is not as promised.
pub fn go_on(scene: Scene, turn: usize) -> Findings {
    let collected = scene.log.got.clone();
    let mut survivor = Survivor {
        scene,
        found: Findings::default(),
        collected,
        own: Vec::new(),
        finished: 0,
    };
    if survivor.scene.operation.is_found_by_sleeper {
        assert_eq!(survivor.sleeper_finishes(), TOLD);
    } else if survivor.scene.operation.produces {
        // Sweeps the victim.
        survivor.timed(|scene| scene.queue.statistics().unwrap());
    }
    let is_shut_down = survivor.scene.queue.is_shut_down();
    if is_shut_down || survivor.shuts_down_itself() {
        survivor.end(turn);
        survivor.found.taken = usize::from(is_shut_down && survivor.scene.operation.shuts_down);
        return survivor.found;
    }
    survivor.act(turn);
    survivor.settle();
    survivor.close_books();
    survivor.found
}

impl Survivor {
    fn timed<T>(&mut self, call: impl FnOnce(&mut Scene) -> T) -> T {
        let start = Instant::now();
        let answer = call(&mut self.scene);
        self.found.stall = self.found.stall.max(start.elapsed());
        answer
    }

    /// Shuts the queue down if the victim was to, and no survivor can wait until the items are due.
    fn shuts_down_itself(&mut self) -> bool {
        if self.scene.log.is_far {
            self.timed(|scene| scene.queue.shut_down(true)).unwrap();
        }
        self.scene.log.is_far
    }

    fn get(&mut self) {
        let item = self.timed(|scene| get(&scene.queue, surely()));
        self.collected
            .push(item.unwrap_or_else(|error| panic!("get: {error}")));
        if self.scene.operation.sets_aside && self.scene.queue.statistics().unwrap().unfinished > 0 {
            // What it has taken must not keep it from putting.
            self.finish_one();
        }
    }

    fn finish_one(&mut self) {
        self.timed(|scene| scene.queue.task_done())
            .unwrap_or_else(|error| panic!("task_done: {error}"));
        self.finished += 1;
    }

    fn drain(&mut self) {
        loop {
            match get(&self.scene.queue, Patience::NoWait) {
                Ok(item) => self.collected.push(item),
                Err(Error::Empty) => return,
                Err(error) => panic!("get: {error}"),
            }
        }
    }

    fn put(&mut self, item: Item) {
        self.timed(|scene| put(&scene.queue, item));
        self.own.push(item);
    }

    /// Items that must come out of the queue and have not yet.
    fn missing(&self) -> BTreeSet<Item> {
        let (takes, buries) = (self.scene.operation.takes, self.scene.operation.buries);
        let there = self.scene.log.put.iter().chain(&self.own);
        there
            .copied()
            .filter(|item| !takes.contains(item) && !buries.contains(item) && !self.collected.contains(item))
            .collect()
    }

    fn sound(&self, when: &str) {
        let check = match self.scene.queue.check() {
            Ok(check) => check,
            Err(error) => panic!("check {when}: {error}"),
        };
        let faults: Vec<String> = check.findings.iter().map(ToString::to_string).collect();
        assert!(faults.is_empty(), "{when}: {}", faults.join("; "));
    }

    /// The watcher's descriptor, from before the death or from now on, is readable exactly if there is an
    /// item, or the queue was shut down and none is delayed.
    fn notifier_is_right(&mut self) {
        let queue = &self.scene.queue;
        let notifier = match self.scene.log.notifier {
            Some(notifier) => notifier,
            None if ends::are_open() => ends::reading(),
            None => with_patience(surely(), |wait| queue.watch(wait)).unwrap(),
        };
        if ends::are_open() {
            // Only its own kind of process can set right what a sender or a receiver has left undone. This
            // one is both.
            with_patience(surely(), |wait| queue.watch_at(ends::reading(), wait)).unwrap();
            with_patience(surely(), |wait| queue.watch_room_at(ends::writing(), wait)).unwrap();
            let is_writable = events(ends::writing(), libc::POLLOUT) & libc::POLLOUT != 0;
            assert_eq!(is_writable, !queue.is_full(), "the line is wrong");
        }
        let has_ended = queue.is_shut_down() && queue.statistics().unwrap().delayed == 0;
        let is_ready = !queue.is_empty() || has_ended;
        let expected = if is_ready { libc::POLLIN } else { 0 };
        assert_eq!(events(notifier, libc::POLLIN), expected, "the notifier is wrong");
    }

    /// The same of the descriptors that tell of room and of the end, of one that watches from now on.
    fn notifiers_are_right(&mut self) {
        self.notifier_is_right();
        if ends::are_open() {
            return;
        }
        let queue = &self.scene.queue;
        let is_ready = |awaited, event| {
            let fd = with_patience(surely(), |wait| queue.watch_for(awaited, wait)).unwrap();
            events(fd, event) & event != 0
        };
        let has_room = is_ready(Awaited::Room, libc::POLLOUT);
        let ends_puts = !queue.is_full() || queue.is_shut_down();
        assert_eq!(has_room, ends_puts, "the notifier is wrong about room");
        let is_finished = queue.statistics().unwrap().unfinished == 0;
        assert_eq!(
            is_ready(Awaited::Finish, libc::POLLIN),
            is_finished,
            "it is wrong about the end"
        );
    }

    fn act(&mut self, turn: usize) {
        let options = &self.scene.operation.options;
        let has_limit = options.maxsize != 0 || options.soft_bytes != 0;
        if self.scene.operation.sets_aside {
            // What the victim had set aside comes back.
            let joined = self.timed(|scene| with_patience(Patience::NoWait, |wait| scene.queue.join(wait)));
            assert!(matches!(joined, Ok(()) | Err(Error::Empty)), "join: {joined:?}");
            self.sound("after the first join");
        }
        match turn % 3 {
            // A survivor must not put into a queue that may be full; so it enters the section otherwise.
            _ if has_limit && self.scene.sleeper.is_none() => {
                self.timed(|scene| scene.queue.statistics().unwrap());
            }
            _ if has_limit => {}
            // A survivor that takes first.
            0 if self.scene.sleeper.is_none() && !self.missing().is_empty() => self.get(),
            // A survivor that only asks first.
            1 => {
                self.timed(|scene| scene.queue.is_empty());
            }
            _ => {}
        }
        if !has_limit {
            self.put(OWN[0]);
        }
        self.sound("after the first operation");
        if !has_limit && self.scene.log.notifier.is_some() && !ends::are_open() {
            // No survivor has checked for the dead yet, and there is an item.
            self.notifier_is_right();
        }
        match self.scene.sleeper.as_ref().map(|sleeper| sleeper.kind) {
            Some(Sleeper::Getter | Sleeper::LateGetter) => {
                // There is an item for it by now.
                let item = self.sleeper_finishes();
                self.collected.push(item);
            }
            Some(Sleeper::Putter | Sleeper::Sender) => {
                // Either its item comes, or first the one that kept it waiting.
                self.get();
                let item = self.sleeper_finishes();
                self.own.push(item);
            }
            Some(Sleeper::Joiner) | None => {}
        }
        while !self.missing().is_empty() {
            self.get();
        }
        for item in OWN {
            if !self.own.contains(&item) {
                if has_limit {
                    self.drain();
                }
                self.put(item);
                self.get();
            }
        }
    }

    /// Learns that the queue was shut down, takes what is left, and finishes everything. `turn` chooses what
    /// is done first.
    fn end(&mut self, turn: usize) {
        let queue = self.scene.queue.clone();
        let kind = self.scene.sleeper.as_ref().map(|sleeper| sleeper.kind);
        if turn % 2 == 0 {
            let late = self.timed(|scene| try_put(&scene.queue, OWN[turn / 2 % 2]));
            assert_eq!(late, Err(Error::ShutDown));
        }
        if kind.is_some_and(|kind| kind != Sleeper::Joiner) {
            assert_eq!(self.sleeper_finishes(), TOLD);
        }
        loop {
            match self.timed(|scene| get(&scene.queue, surely())) {
                Ok(item) => self.collected.push(item),
                Err(error) => {
                    assert_eq!(error, Error::ShutDown);
                    break;
                }
            }
        }
        self.timed(|scene| scene.queue.statistics().unwrap());
        self.sound("after the shutdown");
        if self.scene.operation.takes.is_empty() {
            // Otherwise `task_done` below would be for what no process has finished.
            assert_eq!(queue.check().unwrap().orphans, 0, "an item was left in order");
        }
        if queue.options().acknowledged {
            while queue.statistics().unwrap().unfinished > 0 {
                self.finish_one();
            }
            self.timed(|scene| with_patience(surely(), |wait| scene.queue.join(wait)))
                .unwrap_or_else(|error| panic!("join: {error}"));
            self.sleeper_finishes();
        }
        if self.scene.log.notifier.is_none() {
            let notifier = with_patience(surely(), |wait| queue.watch(wait)).unwrap();
            assert_eq!(
                events(notifier, libc::POLLIN),
                libc::POLLIN,
                "a get would not wait"
            );
        }
        let statistics = queue.statistics().unwrap();
        assert!(
            statistics.discarded == 0 || self.collected.is_empty(),
            "some were discarded, and some taken"
        );
        let items: BTreeSet<Item> = self.collected.iter().copied().collect();
        assert_eq!(items.len(), self.collected.len(), "an item came twice");
        let there = self.scene.log.put.len() as u64;
        assert_eq!(
            (statistics.puts, statistics.gets + statistics.discarded),
            (there, there),
            "lost: {statistics:?}"
        );
        assert_eq!(statistics.gets, items.len() as u64);
        assert_eq!(
            (statistics.queued, statistics.unfinished, statistics.participants),
            (0, 0, 1),
            "something is left: {statistics:?}"
        );
        let check = queue.check().unwrap();
        assert_eq!(
            (
                check.claimed,
                check.leased,
                check.orphans,
                check.extents,
                check.cells
            ),
            (0, 0, 0, 0, 0),
            "something is still held: {check:?}"
        );
    }

    fn sleeper_finishes(&mut self) -> Item {
        let Some(sleeper) = self.scene.sleeper.take() else {
            return 0;
        };
        let (item, waited) = sleeper.finish();
        self.found.stall = self.found.stall.max(waited);
        item
    }

    /// Finds all the dead, takes what came back from them, and finishes everything.
    fn settle(&mut self) {
        let queue = self.scene.queue.clone();
        self.timed(|scene| scene.queue.statistics().unwrap());
        self.sound("after the sweep");
        while queue.statistics().unwrap().delayed > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.notifiers_are_right();
        self.drain();
        self.notifiers_are_right();
        for lent in self.scene.log.held.drain(..) {
            // The death has not touched the payloads that the survivor itself reads.
            assert!(self.collected.contains(&item_of(lent.bytes())));
        }
        if !queue.options().acknowledged {
            return;
        }
        while queue.statistics().unwrap().unfinished > 0 {
            self.finish_one();
        }
        self.timed(|scene| with_patience(surely(), |wait| scene.queue.join(wait)))
            .unwrap_or_else(|error| panic!("join: {error}"));
        // A joiner was released by the last task_done.
        self.sleeper_finishes();
    }

    fn close_books(&mut self) {
        let operation = self.scene.operation;
        let there: Vec<Item> = self.scene.log.put.iter().chain(&self.own).copied().collect();
        let mut collected = BTreeSet::new();
        for item in &self.collected {
            assert!(collected.insert(*item), "item {item} came twice");
            assert!(
                there.contains(item) || operation.puts.contains(item),
                "item {item} was never put"
            );
        }
        assert!(self.missing().is_empty(), "lost: {:?}", self.missing());
        let is_there = |item: &Item| collected.contains(item);
        self.found.put = operation.puts.iter().take_while(|item| is_there(item)).count();
        let later = operation.puts[self.found.put..]
            .iter()
            .find(|item| is_there(item));
        assert_eq!(later, None, "an item came without the one put before it");
        let takes: Vec<Item> = operation
            .takes
            .iter()
            .copied()
            .filter(|item| there.contains(item))
            .collect();
        self.found.taken = takes.iter().take_while(|item| !is_there(item)).count();
        let later = takes[self.found.taken..].iter().find(|item| !is_there(item));
        assert_eq!(later, None, "an item is gone, and not the one before it");

        let queue = &self.scene.queue;
        let letters: Vec<Item> = queue
            .dead_letters()
            .unwrap()
            .iter()
            .map(|letter| item_of(&letter.payload))
            .collect();
        assert!(operation.buries.starts_with(&letters), "buried: {letters:?}");
        for item in operation.buries.iter().filter(|_| !operation.purges) {
            assert_ne!(
                letters.contains(item),
                is_there(item),
                "item {item} is lost, or came although it is a dead letter"
            );
        }
        self.found.taken += if operation.purges || operation.requeues {
            operation.buries.len() - letters.len()
        } else {
            letters.len()
        };
        if operation.finishes {
            let others = there.len() - self.finished;
            assert!(
                others <= 1,
                "{others} items are finished that no process has finished"
            );
            self.found.taken += others;
        }

        let statistics = queue.statistics().unwrap();
        let victims = &operation.puts[..self.found.put];
        let puts = self.scene.log.passed + (there.len() + victims.len()) as u64;
        let bytes = there
            .iter()
            .chain(victims)
            .map(|item| len_of(*item) as u64)
            .sum::<u64>();
        assert_eq!(statistics.puts, puts, "the number of puts is wrong");
        let buried = letters.len() as u64;
        assert_eq!(
            statistics.gets,
            puts - buried - statistics.discarded,
            "the number of gets is wrong"
        );
        assert_eq!(
            statistics.bytes,
            bytes + self.scene.log.passed_bytes,
            "the number of bytes is wrong"
        );
        assert_eq!(
            (statistics.queued, statistics.unfinished, statistics.dead_letters),
            (0, 0, buried),
            "something is left: {statistics:?}"
        );
        assert_eq!(statistics.participants, 1, "a dead process still takes part");
        self.sound("at the end");
        let check = queue.check().unwrap();
        let buried_extents = letters.iter().filter(|item| has_extent(**item)).count() as u64;
        assert_eq!(
            (
                check.claimed,
                check.leased,
                check.orphans,
                check.dead,
                check.extents,
                check.cells
            ),
            (0, 0, 0, buried, buried_extents, 0),
            "something is still held: {check:?}"
        );
    }
}
