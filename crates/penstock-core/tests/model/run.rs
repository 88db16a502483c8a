//! A program on a real queue and on the plain model; compare.rs compares the two after every step.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use penstock_core::{Error, Patience, Queue, Wait};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::participant::{Command, Hands, Patient, Remote, Replied, Reply, Sum, WATCHDOG};
use crate::plain::{Item, Phase, Plain, payload};
use crate::program::{Action, Lens, Origin, Place, Program};

/// Participants at a time, with the test itself.
const MOST: usize = 5;
/// Long, for a call that succeeds at once.
const LONG: Patient = Patient::Millis(30_000);
/// Short, for a call that must not succeed.
const SHORT: Patient = Patient::Millis(2);

pub type Checked<T = ()> = Result<T, TestCaseError>;

pub fn failed(error: impl std::fmt::Display) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

/// What a process waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    Item,
    Room { len: usize },
    Finish,
}

pub struct Run {
    pub hands: Hands,
    /// Participant `i` of the model is `remotes[i - 1]`; 0 is this process.
    remotes: Vec<Remote>,
    pub waiting: Vec<Option<Waiting>>,
    has_stopped: Vec<bool>,
    pub plain: Plain,
    /// The most memory in use so far.
    pub peak: u64,
    /// `high_water` before a step in which getters took items while others were put.
    pub high_water_before: Option<u64>,
    name: Option<PathBuf>,
}

pub fn run(program: &Program) -> Checked {
    static NAMES: AtomicU64 = AtomicU64::new(0);
    let number = NAMES.fetch_add(1, Ordering::Relaxed);
    let name = PathBuf::from(format!("/dev/shm/penstock-model-{}-{number}", std::process::id()));
    let name = program.is_named.then_some(name);
    let queue = match &name {
        Some(name) => Queue::create_named(name, &program.rules),
        None => Queue::create(&program.rules),
    };
    let queue = queue.map_err(failed)?;
    let mut run = Run {
        plain: Plain::new(queue.options()),
        hands: Hands::new(queue),
        remotes: Vec::new(),
        waiting: vec![None],
        has_stopped: vec![false],
        peak: 0,
        high_water_before: None,
        name,
    };
    run.compare()?;
    for (number, step) in program.steps.iter().enumerate() {
        let actor = step.by % run.plain.actors.len();
        run.step(actor, &step.action)
            .and_then(|()| run.settle())
            .and_then(|()| run.compare())
            .map_err(|error| failed(format!("step {number}, {step:?}: {error}")))?;
    }
    // A drain takes large items beside a putter that waits for room.
    if !run.is_room_promised() {
        let putter = run.waiter(|waiting| matches!(waiting, Waiting::Room { .. }));
        putter.map_or(Ok(()), |actor| run.kill(actor))?;
    }
    // Takes all items that are left, and those of putters that wait for room.
    while run.plain.len() > 0 {
        run.drain(1)?;
    }
    run.get(0, false, false).and_then(|()| run.compare())
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = std::fs::remove_file(name);
        }
    }
}

fn described(item: Item) -> Reply {
    let bytes = payload(item.number, item.len.min(8));
    let mut head = [0; 8];
    head[..bytes.len()].copy_from_slice(&bytes);
    Reply::Item {
        len: item.len,
        head: u64::from_le_bytes(head),
        is_whole: true,
    }
}

impl Run {
    fn tell(&mut self, actor: usize, command: Command) -> Checked<Replied> {
        let Some(remote) = actor.checked_sub(1) else {
            return Ok(self.hands.perform(command));
        };
        self.remotes[remote].send(command);
        self.remotes[remote]
            .reply()
            .map_err(|error| failed(format!("{actor} did not answer to {command:?}: {error:?}")))
    }

    pub fn expect(&mut self, actor: usize, command: Command, expected: Replied) -> Checked {
        let actual = self.tell(actor, command)?;
        prop_assert_eq!(actual, expected, "{} answers to {:?}", actor, command);
        Ok(())
    }

    pub fn has_no_waiters(&self) -> bool {
        self.waiting.iter().all(Option::is_none)
    }

    fn step(&mut self, actor: usize, action: &Action) -> Checked {
        if self.waiting[actor].is_some() && !matches!(action, Action::Kill) {
            return Ok(());
        }
        match *action {
            Action::Put { len, waits } => self.put(actor, len, waits),
            Action::PutMany { lens, waits } if self.is_count_promised() => self.put_many(actor, lens, waits),
            Action::GetMany {
                most,
                keeps_borrow,
                waits,
            } if self.is_room_promised() => self.get_many(actor, most, keeps_borrow, waits),
            Action::Fill { count, len } if self.has_no_waiters() => {
                (0..count).try_for_each(|_| self.put(0, len, false))
            }
            Action::Get { waits } if self.is_room_promised() => self.get(actor, false, waits),
            Action::Borrow if self.is_room_promised() => self.get(actor, true, false),
            Action::Drain { count } if self.has_no_waiters() => self.drain(count),
            Action::EndBorrow => {
                let expected = self
                    .plain
                    .end_borrow(actor, 0)
                    .map_or(Reply::NotBorrowed, described);
                self.expect(actor, Command::EndBorrow, Ok(expected))
            }
            Action::Keep => {
                let expected = if self.plain.keep(actor) {
                    Reply::Done
                } else {
                    Reply::NotBorrowed
                };
                self.expect(actor, Command::Keep, Ok(expected))
            }
            Action::TaskDone => {
                let expected = self.plain.task_done(actor).map(|()| Reply::Done);
                self.expect(actor, Command::TaskDone, expected)
            }
            Action::Hold { waits } if self.plain.rules.acknowledged && self.is_room_promised() => {
                self.hold(actor, waits)
            }
            Action::Settle {
                place,
                verdict,
                is_delayed,
            } => {
                let settled = self.plain.settle(actor, place, verdict, is_delayed);
                let expected = settled.map_or(Reply::NotHeld, Reply::Settled);
                let command = Command::Settle {
                    place,
                    verdict,
                    is_delayed,
                };
                self.expect(actor, command, Ok(expected))
            }
            Action::PutDelayed { len, comes } if self.is_room_promised() => {
                let number = self.plain.puts + 1;
                let expected = self.plain.put_delayed(len, comes);
                let expected = expected.map(|seq| Reply::Put { seq });
                self.expect(actor, Command::PutDelayed { number, len, comes }, expected)
            }
            Action::Decide { place, is_purge } => self.decide(place, is_purge),
            Action::Join { waits } => {
                self.plain.acknowledge();
                let is_finished = self.plain.unfinished() == 0;
                let patient = match (waits, is_finished) {
                    (true, true) => LONG,
                    (true, false) => SHORT,
                    (false, _) => Patient::No,
                };
                let expected = if is_finished {
                    Ok(Reply::Done)
                } else {
                    Err(Error::Empty)
                };
                self.expect(actor, Command::Join(patient), expected)
            }
            Action::Leave(how) => {
                self.plain.leave(actor, how);
                self.expect(actor, Command::Leave(how), Ok(Reply::Done))
            }
            Action::WaitForItem if actor > 0 && self.plain.len() > 0 => {
                if self.is_room_promised() {
                    self.get(actor, false, true)?;
                }
                Ok(())
            }
            Action::WaitForItem if actor > 0 => {
                self.plain.ask(actor);
                if self.plain.no_item(actor, true) != Error::Empty {
                    return self.get(actor, false, true);
                }
                let command = Command::Get {
                    keeps_borrow: false,
                    patient: Patient::Forever,
                };
                self.wait(actor, Waiting::Item, command)
            }
            Action::WaitForRoom { len }
                if actor > 0 && (self.plain.has_room() || self.plain.phase != Phase::Open) =>
            {
                self.put(actor, len, true)
            }
            // At most one putter waits for room: the order of two large puts would be open.
            Action::WaitForRoom { len } if actor > 0 && !self.is_somebody_waiting_for_room() => {
                let command = Command::Put {
                    number: self.plain.puts + 1,
                    len,
                    patient: Patient::Forever,
                };
                self.wait(actor, Waiting::Room { len }, command)
            }
            Action::WaitForFinish if actor > 0 && self.plain.unfinished() > 0 => {
                self.plain.acknowledge();
                self.wait(actor, Waiting::Finish, Command::Join(Patient::Forever))
            }
            Action::ShutDown { is_immediate } => {
                self.plain.shut_down(is_immediate);
                self.expect(actor, Command::ShutDown { is_immediate }, Ok(Reply::Done))
            }
            Action::Produce { expect } => {
                let expected = self.plain.produce(actor, expect).map(|()| Reply::Done);
                self.expect(actor, Command::Produce { expect }, expected)
            }
            Action::EndProducing if self.plain.actors[actor].productions > 0 => {
                self.plain.end_producing(actor);
                self.expect(actor, Command::EndProducing, Ok(Reply::Done))
            }
            Action::Next { waits } if self.is_room_promised() => self.next(actor, waits),
            Action::LeaveLoop => {
                self.plain.leave_loop(actor);
                self.expect(actor, Command::LeaveLoop, Ok(Reply::Done))
            }
            Action::Start(origin) if self.plain.actors.len() < MOST => {
                let remote = match origin {
                    Origin::Forked => Remote::fork(&mut self.hands),
                    Origin::Attached => Remote::spawn(&self.hands.queue, None),
                    Origin::Named => Remote::spawn(&self.hands.queue, self.name.as_deref()),
                };
                self.remotes.push(remote);
                self.waiting.push(None);
                self.has_stopped.push(false);
                self.plain.enter();
                Ok(())
            }
            Action::Kill if actor > 0 => self.kill(actor),
            Action::Reopen => self.reopen(),
            Action::StopInPut { len } if actor > 0 && !self.has_stopped[actor] => {
                let Ok(item) = self.plain.can_put(len) else {
                    return Ok(());
                };
                self.has_stopped[actor] = true;
                self.plain.claim(actor, item);
                self.expect(actor, Command::StopInPut { len }, Ok(Reply::Done))
            }
            Action::DieAt(place) if actor > 0 => self.die_at(actor, place),
            _ => Ok(()),
        }
    }

    fn put(&mut self, actor: usize, len: usize, waits: bool) -> Checked {
        let number = self.plain.puts + 1;
        let expected = self.plain.put(len);
        let patient = match (&expected, waits) {
            (_, false) => Patient::No,
            (Err(Error::Full), true) => SHORT,
            (_, true) => LONG,
        };
        let expected = expected.map(|seq| Reply::Put { seq });
        self.expect(actor, Command::Put { number, len, patient }, expected)
    }

    fn get(&mut self, actor: usize, keeps_borrow: bool, waits: bool) -> Checked {
        let expected = self.plain.get(actor, 0, keeps_borrow);
        let no_item = self.plain.no_item(actor, waits);
        let patient = match (expected, waits) {
            (_, false) => Patient::No,
            (None, true) if no_item == Error::Empty => SHORT,
            (_, true) => LONG,
        };
        let expected = expected.map(described).ok_or(no_item);
        self.expect(
            actor,
            Command::Get {
                keeps_borrow,
                patient,
            },
            expected,
        )
    }

    fn next(&mut self, actor: usize, waits: bool) -> Checked {
        self.plain.finish_for_loop(actor);
        let expected = self.plain.next(actor);
        let no_item = self.plain.no_item(actor, waits);
        let patient = match (expected, waits) {
            (_, false) => Patient::No,
            (None, true) if no_item == Error::Empty => SHORT,
            (_, true) => LONG,
        };
        let expected = expected.map(described).ok_or(no_item);
        self.expect(actor, Command::Next(patient), expected)
    }

    /// By the test's own process, which has the tickets.
    fn decide(&mut self, place: Option<usize>, is_purge: bool) -> Checked {
        let queue = self.hands.queue.clone();
        let letters = queue.dead_letters().map_err(failed)?;
        let one = place.and_then(|place| letters.get(place % letters.len().max(1)));
        let tickets: Vec<_> = one.iter().map(|letter| letter.ticket).collect();
        let tickets = place.map(|_| &tickets[..]);
        let wait = Wait {
            patience: Patience::Forever,
            interrupted: &mut || false,
        };
        let decided = match is_purge {
            true => queue.purge(tickets, wait),
            false => queue.requeue(tickets, wait),
        };
        prop_assert_eq!(decided, self.plain.decide(place, is_purge));
        Ok(())
    }

    fn hold(&mut self, actor: usize, waits: bool) -> Checked {
        let expected = self.plain.hold(actor);
        let no_item = self.plain.no_item(actor, waits);
        let patient = match (expected, waits) {
            (_, false) => Patient::No,
            (None, true) if no_item == Error::Empty => SHORT,
            (_, true) => LONG,
        };
        let expected = expected.ok_or(no_item).map(|item| match described(item) {
            Reply::Item { len, head, is_whole } => Reply::Held {
                id: item.number,
                deliveries: u32::from(item.redeliveries) + 1,
                len,
                head,
                is_whole,
            },
            reply => reply,
        });
        self.expect(actor, Command::Hold(patient), expected)
    }

    fn put_many(&mut self, actor: usize, lens: Lens, waits: bool) -> Checked {
        if self.waiting.contains(&Some(Waiting::Item)) {
            self.high_water_before = Some(self.plain.high_water);
        }
        let number = self.plain.puts + 1;
        let (count, result) = self.plain.put_many(lens.iter());
        let patient = match (&result, waits) {
            (_, false) => Patient::No,
            (Err(Error::Full), true) => SHORT,
            (_, true) => LONG,
        };
        let command = Command::PutMany {
            number,
            lens,
            patient,
        };
        self.expect(actor, command, Ok(Reply::PutMany { count, result }))
    }

    /// Getters that wait may take items between two critical sections, so that there is room for more.
    fn is_count_promised(&self) -> bool {
        let rules = &self.plain.rules;
        let is_limited = rules.maxsize > 0 || rules.soft_bytes > 0 || rules.max_bytes.is_some();
        !is_limited || !self.waiting.contains(&Some(Waiting::Item))
    }

    fn get_many(&mut self, actor: usize, most: usize, keeps_borrow: bool, waits: bool) -> Checked {
        let items = self.plain.get_many(actor, most, keeps_borrow);
        let no_item = self.plain.no_item(actor, waits);
        let patient = match (items.is_empty(), waits) {
            (_, false) => Patient::No,
            (true, true) if no_item == Error::Empty => SHORT,
            (_, true) => LONG,
        };
        let mut sum = Sum::default();
        items.iter().for_each(|item| sum.add(described(*item)));
        let expected = if items.is_empty() {
            Err(no_item)
        } else {
            Ok(Reply::Items(sum))
        };
        let command = Command::GetMany {
            most,
            keeps_borrow,
            patient,
        };
        self.expect(actor, command, expected)
    }

    /// A putter that waits for room may put before the memory of what was lent is free, and find too little.
    fn is_room_promised(&self) -> bool {
        self.plain.rules.max_bytes.is_none() || !self.is_somebody_waiting_for_room()
    }

    /// Gets by this process, each finished.
    fn drain(&mut self, count: usize) -> Checked {
        for _ in 0..count {
            let is_over = self.plain.len() == 0;
            // A putter that waited for room has it now, and puts before anything else happens.
            self.get(0, false, false).and_then(|()| self.settle())?;
            if is_over {
                break;
            }
            if self.plain.rules.acknowledged {
                let expected = self.plain.task_done(0).map(|()| Reply::Done);
                self.expect(0, Command::TaskDone, expected)
                    .and_then(|()| self.settle())?;
            }
        }
        Ok(())
    }

    fn is_somebody_waiting_for_room(&self) -> bool {
        self.waiting
            .iter()
            .any(|waiting| matches!(waiting, Some(Waiting::Room { .. })))
    }

    /// Sends a process into a wait, and waits until it is listed.
    fn wait(&mut self, actor: usize, waiting: Waiting, command: Command) -> Checked {
        self.remotes[actor - 1].send(command);
        self.waiting[actor] = Some(waiting);
        let deadline = Instant::now() + WATCHDOG;
        while self.waiters()? != self.expected_waiters() {
            prop_assert!(
                Instant::now() < deadline,
                "{:?}: {:?}",
                command,
                self.hands.queue.statistics()
            );
            prop_assert!(
                !self.remotes[actor - 1].has_replied(),
                "{} did not wait for {:?}",
                actor,
                waiting
            );
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Waits until all waiters are listed. A waiter whose slice had ended may have been quicker than the
    /// notified one, which is on no list until it has found nothing and waits again.
    pub fn await_waiters(&self) -> Checked {
        let deadline = Instant::now() + WATCHDOG;
        let expected = self.expected_waiters();
        while self.waiters()? != expected {
            prop_assert!(
                Instant::now() < deadline,
                "waiters: {:?} instead of {:?}",
                self.waiters()?,
                expected
            );
            std::thread::yield_now();
        }
        Ok(())
    }

    fn waiters(&self) -> Checked<[u64; 3]> {
        let statistics = self.hands.queue.statistics().map_err(failed)?;
        Ok([
            statistics.waiting_getters,
            statistics.waiting_putters,
            statistics.waiting_joiners,
        ])
    }

    pub fn expected_waiters(&self) -> [u64; 3] {
        let mut waiters = [0; 3];
        for waiting in self.waiting.iter().flatten() {
            waiters[match waiting {
                Waiting::Item => 0,
                Waiting::Room { .. } => 1,
                Waiting::Finish => 2,
            }] += 1;
        }
        waiters
    }

    fn forget(&mut self, actor: usize) -> Remote {
        self.waiting.remove(actor);
        self.has_stopped.remove(actor);
        self.remotes.remove(actor - 1)
    }

    fn kill(&mut self, actor: usize) -> Checked {
        self.forget(actor).kill();
        self.plain.kill(actor);
        // Sweeps it.
        self.hands.queue.statistics().map(drop).map_err(failed)
    }

    fn reopen(&mut self) -> Checked {
        self.hands.end_borrows();
        while self.plain.is_borrowing(0) {
            self.plain.end_borrow(0, 0);
        }
        let fd = self.hands.queue.duplicate_fd().map_err(failed)?;
        let id = self.hands.queue.id();
        // The last handle of this process ends its part, in order, before there is another.
        let again = move |old: Hands| {
            drop(old);
            prop_assert!(Queue::by_id(id).is_none());
            Queue::attach(fd).map_err(failed)
        };
        let placeholder = Queue::create(&self.plain.rules).map_err(failed)?;
        let old = std::mem::replace(&mut self.hands, Hands::new(placeholder));
        self.hands = Hands::new(again(old)?);
        self.plain.reopen();
        prop_assert_eq!(self.hands.queue.options(), &self.plain.rules);
        Ok(())
    }

    /// Lets a process die in the middle of an operation that would succeed.
    #[cfg(feature = "fault-points")]
    fn die_at(&mut self, actor: usize, place: Place) -> Checked {
        let head = self.plain.ready.front().copied();
        let is_small = |item: &Item| item.len <= penstock_core::SMALL;
        let (point, command) = match place {
            Place::PutFilled | Place::PutCommitted if self.plain.can_put(20).is_ok() => (
                if place == Place::PutFilled {
                    "put.filled"
                } else {
                    "put.committed"
                },
                Command::Put {
                    number: self.plain.puts + 1,
                    len: 20,
                    patient: Patient::No,
                },
            ),
            Place::LargePutCopied if self.plain.can_put(70_000).is_ok() => (
                "claim.copied",
                Command::Put {
                    number: self.plain.puts + 1,
                    len: 70_000,
                    patient: Patient::No,
                },
            ),
            Place::GetCopied if head.as_ref().is_some_and(is_small) => ("get.copied", GET),
            Place::GetLeased
                if head.is_some_and(|item| {
                    !is_small(&item) || self.plain.rules.acknowledged && !item.is_finished
                }) =>
            {
                ("get.leased", GET)
            }
            Place::DoneCommitted if self.plain.unfinished() > 0 => ("done.committed", Command::TaskDone),
            _ => return Ok(()),
        };
        let index = penstock_core::fault::POINTS
            .iter()
            .position(|name| *name == point);
        let index = index.ok_or_else(|| failed(point))?;
        self.expect(actor, Command::Arm(index), Ok(Reply::Done))?;
        self.remotes[actor - 1].send(command);
        let reply = self.remotes[actor - 1].reply();
        prop_assert!(reply.is_err(), "{} did not die at {}: {:?}", actor, point, reply);
        match place {
            Place::GetCopied => self.plain.ask(actor),
            Place::PutCommitted => drop(self.plain.put(20)),
            Place::GetLeased => drop(self.plain.get(actor, 0, true)),
            Place::DoneCommitted => drop(self.plain.task_done(actor)),
            Place::PutFilled | Place::LargePutCopied => {}
        }
        if place != Place::LargePutCopied {
            self.plain.rebuild();
        }
        self.kill(actor)
    }

    #[cfg(not(feature = "fault-points"))]
    fn die_at(&mut self, _: usize, _: Place) -> Checked {
        Ok(())
    }

    // ----------------------------------------------------------------------------------------------- waiters

    /// Reads the replies of all waiters that no longer have to wait.
    fn settle(&mut self) -> Checked {
        loop {
            self.check_wakeups()?;
            let finished = self.plain.unfinished() == 0;
            while let (true, Some(actor)) = (finished, self.waiter(|waiting| waiting == Waiting::Finish)) {
                let reply = self.reply_of(actor)?;
                prop_assert_eq!(reply, Ok(Reply::Done), "{} has joined", actor);
            }
            if self.plain.len() > 0 && self.waiter(|waiting| waiting == Waiting::Item).is_some() {
                self.serve_getters()?;
                continue;
            }
            self.end_getters()?;
            let putter = self.waiter(|waiting| matches!(waiting, Waiting::Room { .. }));
            let can_end = self.plain.has_room() || self.plain.phase != Phase::Open;
            let (Some(actor), true) = (putter, can_end) else {
                return Ok(());
            };
            let Some(Waiting::Room { len }) = self.waiting[actor] else {
                return Ok(());
            };
            let expected = self.plain.put(len).map(|seq| Reply::Put { seq });
            let reply = self.reply_of(actor)?;
            prop_assert_eq!(reply, expected, "{} has waited for room", actor);
        }
    }

    /// A waiter that can go on was notified by the critical section that made it possible, and is on no list
    /// any more. Without a wake-up it would find out at the end of its slice, so a lost wake-up shows only
    /// here.
    fn check_wakeups(&self) -> Checked {
        let [getters, putters, joiners] = self.expected_waiters();
        let can_go_on = [
            getters > 0 && (self.plain.len() > 0 || self.is_over_for_all()),
            putters > 0 && (self.plain.has_room() || self.plain.phase != Phase::Open),
            joiners > 0 && self.plain.unfinished() == 0,
        ];
        if can_go_on == [false; 3] {
            return Ok(());
        }
        let [still_getters, still_putters, still_joiners] = self.waiters()?;
        prop_assert!(!can_go_on[0] || still_getters < getters, "no getter was woken");
        prop_assert!(!can_go_on[1] || still_putters < putters, "no putter was woken");
        prop_assert!(!can_go_on[2] || still_joiners == 0, "joiners were not woken");
        Ok(())
    }

    fn waiter(&self, is_meant: impl Fn(Waiting) -> bool) -> Option<usize> {
        self.waiting
            .iter()
            .position(|waiting| waiting.is_some_and(&is_meant))
    }

    fn reply_of(&mut self, actor: usize) -> Checked<Replied> {
        let waited = self.waiting[actor].take();
        self.remotes[actor - 1]
            .reply()
            .map_err(|error| failed(format!("{actor} still waits for {waited:?}: {error:?}")))
    }

    /// Whether no getter finds an item any more, of whatever process.
    fn is_over_for_all(&self) -> bool {
        (0..self.waiting.len()).all(|actor| self.plain.no_item(actor, true) == Error::ShutDown)
            && !self.plain.is_any_in_hand()
    }

    /// Getters that wait for no item any more learn that the queue was shut down.
    fn end_getters(&mut self) -> Checked {
        for actor in 0..self.waiting.len() {
            let is_getter = self.waiting[actor] == Some(Waiting::Item);
            if is_getter && self.plain.no_item(actor, true) == Error::ShutDown {
                let reply = self.reply_of(actor)?;
                prop_assert_eq!(reply, Err(Error::ShutDown), "{} has waited for an item", actor);
            }
        }
        Ok(())
    }

    /// The waiting getters get the first items, in any order.
    fn serve_getters(&mut self) -> Checked {
        let getters = self
            .waiting
            .iter()
            .filter(|waiting| **waiting == Some(Waiting::Item))
            .count();
        let mut items: Vec<Item> = self.plain.ready.iter().copied().take(getters).collect();
        let deadline = Instant::now() + WATCHDOG;
        while !items.is_empty() {
            let is_served = |actor: &usize| {
                self.waiting[*actor] == Some(Waiting::Item) && self.remotes[*actor - 1].has_replied()
            };
            let Some(actor) = (1..self.waiting.len()).find(is_served) else {
                prop_assert!(Instant::now() < deadline, "getters still wait for {:?}", items);
                std::thread::yield_now();
                continue;
            };
            let reply = self.reply_of(actor)?;
            let Some(place) = items.iter().position(|item| reply == Ok(described(*item))) else {
                return Err(failed(format!("{actor} got {reply:?} and not one of {items:?}")));
            };
            let item = items.remove(place);
            let place = self.plain.ready.iter().position(|other| *other == item);
            self.plain.get(actor, place.unwrap_or(0), false);
        }
        Ok(())
    }
}

#[cfg(feature = "fault-points")]
const GET: Command = Command::Get {
    keeps_borrow: false,
    patient: Patient::No,
};
