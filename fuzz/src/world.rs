//! A queue at work, the damage to it, and what may come of that.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use penstock_core::{
    Batch, Buffer, Delivery, Error, Held, InHand, Leave, Lent, Options, Production, Queue, Statistics, Taken,
    Verdict, View, Wait, fuzzing,
};

use crate::Access;
use crate::damage::{Damage, Memory};
use crate::program::{Patience, Step};

pub struct World {
    fd: OwnedFd,
    memory: Memory,
    mapped: fn(*const u8, Access<'_>),
    /// `None` if the damage makes it impossible to open the queue.
    queue: Option<Arc<Queue>>,
    lents: VecDeque<Arc<Lent>>,
    productions: Vec<Production>,
    in_loop: Option<InHand>,
    /// Items taken by name. Some may be of a handle that is gone.
    held: VecDeque<Held>,
    puts: u64,
    is_damaged: bool,
    /// An operation has said so since the last damage.
    is_known_as_corrupt: bool,
    /// An operation has reported the damage, at any time.
    was_told: bool,
    /// Memory that may stand behind the queue.
    allowance: u64,
    /// Whether steps and errors are printed.
    tells: bool,
}

/// Whatever the queue is used for: tables, a step of slots, spans of several classes.
const ALLOWANCE: u64 = 6 << 20;
/// Pages that are read in a large payload.
const LOOKS: usize = 16;
const PAGE: usize = 4096;

impl World {
    pub fn new(options: &Options, mapped: fn(*const u8, Access<'_>)) -> World {
        let queue = Queue::create(options).expect("a queue");
        let fd = queue.duplicate_fd().expect("a descriptor");
        let memory = Memory::map(fd.as_fd(), fuzzing::regions(&queue));
        let world = World {
            fd,
            memory,
            mapped,
            queue: None,
            lents: VecDeque::new(),
            productions: Vec::new(),
            in_loop: None,
            held: VecDeque::new(),
            puts: 0,
            is_damaged: false,
            is_known_as_corrupt: false,
            was_told: false,
            allowance: ALLOWANCE,
            tells: std::env::var_os("PENSTOCK_FUZZ_TRACE").is_some(),
        };
        world.opened(queue)
    }

    fn opened(mut self, queue: Arc<Queue>) -> World {
        self.open(Ok(queue));
        self
    }

    fn open(&mut self, queue: Result<Arc<Queue>, Error>) {
        match queue {
            Ok(queue) => {
                (self.mapped)(fuzzing::base(&queue), Access::Forbidden(&self.memory.gaps()));
                self.queue = Some(queue);
            }
            Err(Error::NotAQueue { .. }) if self.is_damaged => self.was_told = true,
            Err(error) => panic!("attach: {error:?}"),
        }
    }

    /// Drops the handle, with everything that keeps it.
    fn close(&mut self) {
        self.lents.clear();
        self.productions.clear();
        self.in_loop = None;
        if let Some(queue) = self.queue.take() {
            (self.mapped)(fuzzing::base(&queue), Access::Allowed(&self.memory.gaps()));
            let id = queue.id();
            drop(queue);
            assert!(Queue::by_id(id).is_none(), "the handle is gone");
        }
    }

    fn reopen(&mut self) {
        self.close();
        let fd = self.fd.try_clone().expect("a descriptor");
        self.open(Queue::attach(fd));
    }

    pub fn step(&mut self, step: &Step) {
        if self.tells {
            eprintln!("{step:?}");
        }
        match step {
            Step::Reopen => return self.reopen(),
            Step::Damage(damage) => return self.damage(damage),
            _ => {}
        }
        let Some(queue) = self.queue.clone() else { return };
        match step {
            Step::Put { len, patience } => self.put(&queue, *len, *patience),
            Step::Get { patience, keep } => self.get(&queue, *patience, *keep),
            Step::PutMany {
                count,
                lens,
                patience,
            } => self.put_many(&queue, *count, lens, *patience),
            Step::GetMany { most, patience, keep } => self.get_many(&queue, *most, *patience, *keep),
            Step::EndBorrow => drop(self.lents.pop_front()),
            Step::Keep => {
                if let Some(lent) = self.lents.front().cloned() {
                    // It does not read what another participant was lent before this one took its place.
                    self.heed(lent.keep(), false);
                    drop(View::new(&lent, lent.len() / 3..lent.len()));
                }
            }
            Step::Watch(awaited) => {
                let watched = with(Patience::NoWait, |wait| queue.watch_for(*awaited, wait));
                self.heed(watched, true);
            }
            Step::Tend => {
                self.heed(queue.tend(0), false);
            }
            Step::TaskDone => {
                self.heed(queue.task_done(), true);
            }
            Step::Hold(patience) => self.hold(&queue, *patience),
            Step::PutDelayed { len, micros } => self.put_delayed(&queue, *len, *micros),
            Step::Settle {
                is_oldest,
                verdict,
                micros,
            } => {
                let held = if *is_oldest {
                    self.held.pop_front()
                } else {
                    self.held.pop_back()
                };
                if let Some(held) = held {
                    let delay = Duration::from_micros(*micros);
                    let settled = with(Patience::Wait, |wait| {
                        queue.settle_noting(&held, *verdict, (delay, b"why"), wait)
                    });
                    let is_settled = self.heed(settled, true);
                    assert!(is_settled != Some(true) || self.is_damaged || !queue.holds(&held));
                }
            }
            Step::Join(patience) => {
                let joined = with(*patience, |wait| queue.join(wait));
                self.heed(joined, *patience != Patience::TryLock);
            }
            Step::ShutDown { is_immediate } => {
                self.heed(queue.shut_down(*is_immediate), true);
            }
            Step::Next(patience) => self.next(&queue, *patience),
            Step::Produce { expect } => {
                let production = self.heed(queue.produce(*expect), true);
                self.productions.extend(production);
            }
            Step::EndProducing => {
                if let Some(production) = self.productions.pop() {
                    self.heed(queue.end_producing(production), false);
                }
            }
            Step::Leave(how) => {
                self.heed(queue.leave(*how), false);
            }
            Step::Statistics => self.statistics(&queue),
            Step::DeadLetters => {
                if let Some(letters) = self.heed(queue.dead_letters(), true) {
                    letters
                        .iter()
                        .for_each(|letter| self.check_payload(&letter.payload));
                }
            }
            Step::Decide { is_purge, one } => self.decide(&queue, *is_purge, *one),
            Step::Trim => {
                self.heed(queue.trim_if_due(), false);
            }
            Step::Ask => {
                let (is_empty, is_full, _) = (queue.is_empty(), queue.is_full(), queue.is_trim_due());
                assert!(self.is_damaged || !is_empty || !is_full, "empty and full");
            }
            Step::Die { in_section } => self.die(queue, *in_section),
            Step::Enlist(kind) => {
                self.heed(fuzzing::enlist(&queue, *kind), true);
            }
            Step::Reopen | Step::Damage(_) => {}
        }
        self.check_memory();
    }

    /// Everything once more, by the participant at work and by a new one. Whether an operation has reported
    /// damage.
    pub fn finish(mut self) -> bool {
        for _ in 0..2 {
            for step in [
                Step::EndBorrow,
                Step::Put {
                    len: 20,
                    patience: Patience::NoWait,
                },
                Step::Put {
                    len: 5000,
                    patience: Patience::NoWait,
                },
                Step::PutDelayed { len: 30, micros: 1 },
                Step::PutDelayed {
                    len: 3000,
                    micros: 3_600_000_000,
                },
                Step::Get {
                    patience: Patience::NoWait,
                    keep: false,
                },
                Step::Get {
                    patience: Patience::NoWait,
                    keep: false,
                },
                Step::Get {
                    patience: Patience::NoWait,
                    keep: true,
                },
                Step::Hold(Patience::NoWait),
                Step::Hold(Patience::NoWait),
                Step::Settle {
                    is_oldest: true,
                    verdict: Verdict::Released,
                    micros: 0,
                },
                Step::Settle {
                    is_oldest: false,
                    verdict: Verdict::Failed,
                    micros: 1,
                },
                Step::TaskDone,
                Step::Next(Patience::NoWait),
                Step::Next(Patience::NoWait),
                Step::Produce { expect: 2 },
                Step::Ask,
                Step::Join(Patience::NoWait),
                Step::Statistics,
                Step::EndProducing,
                Step::Leave(Leave::Crashed),
                Step::DeadLetters,
                Step::Decide {
                    is_purge: false,
                    one: true,
                },
                Step::Decide {
                    is_purge: true,
                    one: false,
                },
                Step::Trim,
            ] {
                self.step(&step);
            }
            self.reopen();
        }
        for step in [
            Step::ShutDown { is_immediate: false },
            Step::Put {
                len: 20,
                patience: Patience::Wait,
            },
            Step::Get {
                patience: Patience::Wait,
                keep: false,
            },
            Step::ShutDown { is_immediate: true },
            Step::Get {
                patience: Patience::Wait,
                keep: false,
            },
            Step::TaskDone,
            Step::Join(Patience::NoWait),
            Step::Statistics,
        ] {
            self.step(&step);
        }
        self.close();
        self.was_told
    }

    fn damage(&mut self, damage: &Damage) {
        let name = self.queue.as_ref().map_or(0, |queue| fuzzing::name(queue));
        self.memory.damage(damage, name);
        self.is_damaged = true;
        self.is_known_as_corrupt = false;
    }

    fn put(&mut self, queue: &Arc<Queue>, len: usize, patience: Patience) {
        self.puts += 1;
        self.allowance += 2 * len as u64;
        let payload = payload(self.puts, len);
        let (first, second) = payload.split_at(len / 3);
        let put = with(patience, |wait| queue.put(&[first, second], wait));
        if let Some(ticket) = self.heed(put, patience != Patience::TryLock) {
            assert!(self.is_damaged || queue.is_pending(ticket));
        }
    }

    fn put_delayed(&mut self, queue: &Arc<Queue>, len: usize, micros: u64) {
        self.puts += 1;
        self.allowance += 2 * len as u64;
        let payload = payload(self.puts, len);
        let delay = Duration::from_micros(micros);
        let put = with(Patience::Wait, |wait| queue.put_delayed(&[&payload], delay, wait));
        if let Some(ticket) = self.heed(put, true) {
            assert!(self.is_damaged || queue.is_pending(ticket));
            assert!(self.is_damaged || micros < 1000 || queue.time_until_due().is_some());
        }
    }

    fn get(&mut self, queue: &Arc<Queue>, patience: Patience, keep: bool) {
        let mut buffer = Buffer::default();
        let got = with(patience, |wait| queue.get(&mut buffer, wait));
        match self.heed(got, patience != Patience::TryLock) {
            Some(Delivery::Copied) => self.check_payload(buffer.bytes()),
            Some(Delivery::Lent(lent)) => {
                self.check_payload(lent.bytes());
                if keep {
                    self.lents.push_back(Arc::new(lent));
                }
            }
            None => {}
        }
    }

    fn next(&mut self, queue: &Arc<Queue>, patience: Patience) {
        let mut buffer = Buffer::default();
        let in_loop = &mut self.in_loop;
        let got = with(patience, |wait| queue.get_next(in_loop, &mut buffer, wait));
        match self.heed(got, patience != Patience::TryLock) {
            Some(Delivery::Copied) => self.check_payload(buffer.bytes()),
            Some(Delivery::Lent(lent)) => self.check_payload(lent.bytes()),
            None => {}
        }
    }

    /// The payload of an item taken by name is given back at once.
    fn hold(&mut self, queue: &Arc<Queue>, patience: Patience) {
        let mut buffer = Buffer::default();
        let taken = with(patience, |wait| queue.hold(&mut buffer, wait));
        if let Some((delivery, held)) = self.heed(taken, patience != Patience::TryLock) {
            match delivery {
                Delivery::Copied => self.check_payload(buffer.bytes()),
                Delivery::Lent(lent) => self.check_payload(lent.bytes()),
            }
            self.held.push_back(held);
        }
    }

    fn put_many(&mut self, queue: &Arc<Queue>, count: usize, lens: &[usize], patience: Patience) {
        let payloads: Vec<Vec<u8>> = (self.puts + 1..)
            .zip(lens.iter().cycle().take(count))
            .map(|(number, len)| payload(number, *len))
            .collect();
        let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        self.puts += count as u64;
        // A slot, and as much again for what its size class rounds up.
        self.allowance += payloads
            .iter()
            .map(|payload| 128 + 2 * payload.len() as u64)
            .sum::<u64>();
        let (put, result) = with(patience, |wait| queue.put_many(&payloads, wait));
        assert_eq!(put == count, result.is_ok(), "{put} of {count} were put");
        // Some may have been put before the damage was met.
        self.heed(result, patience != Patience::TryLock);
    }

    fn get_many(&mut self, queue: &Arc<Queue>, most: usize, patience: Patience, keep: bool) {
        let mut batch = Batch::with_room_for(most).expect("there is memory");
        let got = with(patience, |wait| queue.get_many(&mut batch, wait));
        assert!(batch.len() <= most);
        let is_got = self.heed(got, patience != Patience::TryLock).is_some();
        assert!(!is_got || !batch.is_empty(), "nothing was got");
        // What was taken before damage was met was taken.
        batch.into_items(|item| match item {
            Taken::Copied(bytes) => self.check_payload(bytes),
            Taken::Lent(lent) => {
                self.check_payload(lent.bytes());
                if keep {
                    self.lents.push_back(Arc::new(lent));
                }
            }
        });
    }

    /// Requeues or purges the first dead letter, or all.
    fn decide(&mut self, queue: &Queue, is_purge: bool, one: bool) {
        let Some(letters) = self.heed(queue.dead_letters(), true) else {
            return;
        };
        let tickets: Vec<_> = letters.iter().map(|letter| letter.ticket).take(1).collect();
        let tickets = one.then_some(&tickets[..]);
        let decided = with(Patience::Wait, |wait| match is_purge {
            true => queue.purge(tickets, wait),
            false => queue.requeue(tickets, wait),
        });
        let count = self.heed(decided, true);
        let right = if one { letters.len().min(1) } else { letters.len() };
        assert!(self.is_damaged || count.is_none_or(|count| count == right as u64));
    }

    fn statistics(&mut self, queue: &Queue) {
        if let Some(Statistics {
            puts,
            gets,
            queued,
            dead_letters,
            discarded,
            delayed,
            ..
        }) = self.heed(queue.statistics(), true)
        {
            let gone = dead_letters.wrapping_add(discarded);
            let left = queued.wrapping_add(delayed).wrapping_add(gone);
            let is_balanced = puts == gets.wrapping_add(left);
            assert!(
                self.is_damaged || is_balanced,
                "{puts} = {gets} + {queued} + {delayed} + {dead_letters} + {discarded}"
            );
        }
    }

    fn die(&mut self, queue: Arc<Queue>, in_section: bool) {
        if in_section {
            self.heed(fuzzing::vanish_in_section(&queue), true);
        }
        fuzzing::vanish(&queue);
        drop(queue);
        self.reopen();
    }

    /// Judges an answer. `None` for an error. `tells` if the operation always notices that the queue is
    /// damaged.
    fn heed<T>(&mut self, answer: Result<T, Error>, tells: bool) -> Option<T> {
        let error = match answer {
            Ok(value) => {
                assert!(!(tells && self.is_known_as_corrupt), "the damage was forgotten");
                return Some(value);
            }
            Err(error) => error,
        };
        if self.tells {
            eprintln!("    {error:?}");
        }
        match error {
            Error::Corrupt { .. } => {
                assert!(self.is_damaged, "nothing was damaged: {error}");
                self.is_known_as_corrupt = true;
                self.was_told = true;
            }
            Error::Interrupted => {
                let is_held = self
                    .queue
                    .as_ref()
                    .is_some_and(|queue| fuzzing::is_lock_held_by_the_living(queue));
                if is_held {
                    // That a living participant holds the lock is nothing impossible; so the test ends it.
                    assert!(self.is_damaged, "no process holds the lock: {error}");
                    self.memory.unlock();
                }
            }
            Error::Full
            | Error::Empty
            | Error::ShutDown
            | Error::Busy
            | Error::Stopped { .. }
            | Error::FullBehindStopped { .. }
            | Error::EmptyBehindStopped { .. }
            | Error::TooManyDone
            | Error::StillBorrowed
            | Error::OutOfMemory { .. } => {
                assert!(
                    !(tells && self.is_known_as_corrupt),
                    "the damage was forgotten: {error}"
                );
            }
            Error::TooManyParticipants { .. }
            | Error::TooManyWaiters { .. }
            | Error::NotifierUnreachable { .. }
                if self.is_damaged => {}
            _ => panic!("{error:?}"),
        }
        None
    }

    /// Touches all that was delivered, or some pages of much, and compares it with what was put.
    fn check_payload(&mut self, bytes: &[u8]) {
        if !self.is_damaged {
            let number = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
            assert!(bytes == payload(number, bytes.len()), "another payload");
            return;
        }
        let mut sum = 0u8;
        for i in 0..LOOKS {
            let at = bytes.len() / LOOKS * i;
            let end = bytes.len().min(at + PAGE / 4);
            sum = bytes[at..end].iter().fold(sum, |sum, byte| sum ^ byte);
        }
        sum = bytes.last().map_or(sum, |byte| sum ^ byte);
        std::hint::black_box(sum);
        self.allowance += (LOOKS * PAGE) as u64;
    }

    fn check_memory(&self) {
        let blocks = rustix::fs::fstat(&self.fd).expect("fstat").st_blocks as u64;
        assert!(
            blocks * 512 <= self.allowance,
            "{} bytes behind the queue",
            blocks * 512
        );
    }
}

fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(len.max(8), number as u8);
    bytes.truncate(len.max(8));
    bytes
}

/// What `interrupted` answers ends a wait for ever at the end of its second slice.
fn with<T>(patience: Patience, operation: impl FnOnce(Wait<'_>) -> T) -> T {
    let mut asked = 0;
    operation(Wait {
        patience: match patience {
            Patience::TryLock => penstock_core::Patience::TryLock,
            Patience::NoWait => penstock_core::Patience::NoWait,
            Patience::Wait => penstock_core::Patience::Forever,
        },
        interrupted: &mut || {
            asked += 1;
            asked > 2
        },
    })
}
