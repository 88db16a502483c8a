//! The operations under proof: how the stage is set, what the victim does, and what may be gone afterwards.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::sync::Arc;

use penstock_core::{
    Awaited, Batch, Buffer, Error, Held, InHand, Leave, Lent, Options, Patience, Production, Queue,
    Remainder, Verdict, Wait,
};

use crate::ends;
use crate::item::{Item, get, payload, put, surely, take, with_patience};

/// The process that dies.
pub struct Victim {
    pub queue: Arc<Queue>,
    lent: Vec<Lent>,
    payloads: Vec<Vec<u8>>,
    buffer: Box<Buffer>,
    batch: Batch,
    remainder: Option<Arc<Remainder>>,
    held: Vec<Held>,
    productions: Vec<Production>,
    in_loop: Option<InHand>,
}

impl Victim {
    pub fn new(queue: Arc<Queue>, puts: &[Item]) -> Victim {
        Victim {
            queue,
            lent: Vec::with_capacity(4),
            payloads: puts.iter().copied().map(payload).collect(),
            buffer: Box::default(),
            batch: Batch::with_room_for(8).expect("there is memory"),
            remainder: None,
            held: Vec::with_capacity(8),
            productions: Vec::with_capacity(4),
            in_loop: None,
        }
    }

    /// Takes an item by name.
    fn hold(&mut self) {
        let taken = with_patience(Patience::Forever, |wait| self.queue.hold(&mut self.buffer, wait));
        if let Ok((delivery, held)) = std::hint::black_box(taken) {
            self.held.push(held);
            if let penstock_core::Delivery::Lent(lent) = delivery {
                self.lent.push(lent);
            }
        }
    }

    fn put_delayed(&mut self) {
        let parts: &[&[u8]] = &[&self.payloads[0]];
        let _ = std::hint::black_box(with_patience(Patience::Forever, |wait| {
            self.queue.put_delayed(parts, SOON, wait)
        }));
    }

    fn settle_later(&mut self, verdict: Verdict) {
        let held = self.held[0];
        let settled = with_patience(Patience::Forever, |wait| {
            self.queue.settle_after(&held, verdict, SOON, wait)
        });
        let _ = std::hint::black_box(settled);
    }

    fn requeue(&mut self) {
        let requeued = with_patience(Patience::Forever, |wait| self.queue.requeue(None, wait));
        let _ = std::hint::black_box(requeued);
    }

    fn purge(&mut self) {
        let purged = with_patience(Patience::Forever, |wait| self.queue.purge(None, wait));
        let _ = std::hint::black_box(purged);
    }

    fn fail_with_a_text(&mut self) {
        let (held, noted) = (
            self.held[0],
            (std::time::Duration::ZERO, &b"why it has failed"[..]),
        );
        let settled = with_patience(Patience::Forever, |wait| {
            self.queue.settle_noting(&held, Verdict::Failed, noted, wait)
        });
        let _ = std::hint::black_box(settled);
    }

    fn hold_many(&mut self) {
        let _ = std::hint::black_box(with_patience(Patience::Forever, |wait| {
            self.queue.hold_many(&mut self.batch, &mut self.held, wait)
        }));
    }

    fn settle(&mut self, verdict: Verdict) {
        let held = self.held[0];
        let settled = with_patience(Patience::Forever, |wait| self.queue.settle(&held, verdict, wait));
        let _ = std::hint::black_box(settled);
    }

    fn put(&mut self) {
        let parts: &[&[u8]] = &[&self.payloads[0]];
        let _ = std::hint::black_box(with_patience(Patience::Forever, |wait| {
            self.queue.put(parts, wait)
        }));
    }

    fn put_many(&mut self) {
        let payloads: Vec<&[u8]> = self.payloads.iter().map(Vec::as_slice).collect();
        let _ = std::hint::black_box(with_patience(Patience::Forever, |wait| {
            self.queue.put_many(&payloads, wait)
        }));
    }

    fn get_many(&mut self) {
        let _ = std::hint::black_box(with_patience(Patience::Forever, |wait| {
            self.queue.get_many(&mut self.batch, wait)
        }));
    }

    fn get(&mut self) {
        let delivery = with_patience(Patience::Forever, |wait| self.queue.get(&mut self.buffer, wait));
        if let Ok(penstock_core::Delivery::Lent(lent)) = std::hint::black_box(delivery) {
            self.lent.push(lent);
        }
    }

    /// Waits for one slice, and gives up.
    fn wait_in_vain(&mut self) {
        let mut give_up = || true;
        let wait = Wait {
            patience: Patience::Forever,
            interrupted: &mut give_up,
        };
        let _ = std::hint::black_box(self.queue.get(&mut self.buffer, wait).is_ok());
    }

    fn watch(&mut self) {
        let _ = std::hint::black_box(with_patience(Patience::Forever, |wait| self.queue.watch(wait)));
    }

    fn watch_all(&mut self) {
        for awaited in [Awaited::Item, Awaited::Room, Awaited::Finish] {
            let watched = with_patience(Patience::Forever, |wait| self.queue.watch_for(awaited, wait));
            let _ = std::hint::black_box(watched);
        }
    }

    /// Receives from the connection whose ends the survivor has made.
    fn receive(&mut self) {
        let end = ends::reading();
        let delivery = with_patience(Patience::Forever, |wait| {
            self.queue.get_at(end, &mut self.buffer, wait)
        });
        let _ = std::hint::black_box(delivery.is_ok());
    }

    fn send(&mut self) {
        let end = ends::writing();
        let parts: &[&[u8]] = &[&self.payloads[0]];
        let _ = std::hint::black_box(with_patience(Patience::Forever, |wait| {
            self.queue.put_at(end, parts, wait)
        }));
    }

    fn watch_room(&mut self) {
        let end = ends::writing();
        let _ = std::hint::black_box(with_patience(Patience::Forever, |wait| {
            self.queue.watch_room_at(end, wait)
        }));
    }

    fn keep(&mut self) {
        let _ = std::hint::black_box(self.lent[0].keep());
    }

    fn undeliver(&mut self) {
        self.lent[0].undeliver();
        self.lent.clear();
    }

    fn join(&mut self) {
        let _ = std::hint::black_box(with_patience(Patience::Forever, |wait| self.queue.join(wait)));
    }

    fn task_done(&mut self) {
        let _ = std::hint::black_box(self.queue.task_done());
    }

    fn shut_down(&mut self, is_immediate: bool) {
        let _ = std::hint::black_box(self.queue.shut_down(is_immediate));
    }

    fn produce(&mut self, expect: u32) {
        self.productions.extend(self.queue.produce(expect));
    }

    fn end_producing(&mut self) {
        if let Some(production) = self.productions.pop() {
            let _ = std::hint::black_box(self.queue.end_producing(production));
        }
    }

    /// Finishes the item of its loop, and takes the next one.
    fn next(&mut self) {
        let delivery = with_patience(Patience::Forever, |wait| {
            self.queue.get_next(&mut self.in_loop, &mut self.buffer, wait)
        });
        if let Ok(penstock_core::Delivery::Lent(lent)) = std::hint::black_box(delivery) {
            self.lent.push(lent);
        }
    }

    fn leave(&mut self, how: Leave) {
        let _ = std::hint::black_box(self.queue.leave(how));
    }

    /// Checks for dead participants and sweeps them.
    fn sweep(&mut self) {
        let _ = std::hint::black_box(self.queue.statistics().is_ok());
    }

    /// Forgets that the survivor, of which this process is a copy, has handles too.
    fn become_last_holder(&mut self) {
        while Arc::strong_count(&self.queue) > 1 + self.lent.len() {
            // SAFETY: the other handles are the survivor's; this process never comes back to where they are
            // used.
            unsafe { Arc::decrement_strong_count(Arc::as_ptr(&self.queue)) };
        }
    }

    /// Closes the victim's handle. What it has in hand stays.
    fn close(&mut self) {
        let remainder = self.remainder.take().expect("open_handle was called");
        let queue: *const Arc<Queue> = &raw const self.queue;
        // SAFETY: the victim ends without touching the handle again.
        remainder.close(unsafe { queue.read() });
        self.remainder = Some(remainder);
    }

    fn open_handle(&mut self) {
        self.become_last_holder();
        self.remainder = Some(self.queue.open_handle().expect("there is memory"));
    }

    /// Finishes an item after the close.
    fn task_done_closed(&mut self) {
        let Some(remainder) = &self.remainder else { return };
        if let Ok(queue) = remainder.reopen() {
            let _ = std::hint::black_box(queue.task_done());
            remainder.close(queue);
        }
    }

    fn drop_last_handle(&mut self) {
        let queue: *const Arc<Queue> = &raw const self.queue;
        // SAFETY: the victim ends after this call without touching the handle again.
        drop(unsafe { queue.read() });
    }
}

/// The delay of an item: over before the survivors have found out what has happened.
const SOON: std::time::Duration = std::time::Duration::from_millis(1);

/// Another process, which sleeps on the queue from before the operation until after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleeper {
    /// Takes one item.
    Getter,
    /// The same. It has aged, is stopped, and was handed an item some time ago.
    LateGetter,
    /// Puts one item, for which there is no room yet.
    Putter,
    /// The same, over the connection.
    Sender,
    Joiner,
}

/// What the sleeping putter puts.
pub const SLEEPERS_ITEM: Item = 15;

/// What a sleeper reports that learned that the queue was shut down.
pub const TOLD: Item = Item::MAX;

/// What the surviving process has done so far.
#[derive(Default)]
pub struct Log {
    /// Items that it has put or got, one by one.
    pub put: Vec<Item>,
    pub got: Vec<Item>,
    /// Payloads that it reads in place.
    pub held: Vec<Lent>,
    /// The descriptor by which it watches the queue.
    pub notifier: Option<RawFd>,
    /// Items that it put and took again, and their bytes.
    pub passed: u64,
    pub passed_bytes: u64,
    /// It has put items that are not due before its own end.
    pub is_far: bool,
}

impl Log {
    pub fn put(&mut self, queue: &Queue, item: Item) {
        put(queue, item);
        self.put.push(item);
    }

    fn put_delayed(&mut self, queue: &Queue, item: Item) {
        self.put_delayed_for(queue, item, SOON);
        // So that the victim always finds that its time has come.
        std::thread::sleep(2 * SOON);
    }

    /// For longer than any survivor waits.
    fn put_far(&mut self, queue: &Queue, item: Item) {
        self.put_delayed_for(queue, item, std::time::Duration::from_secs(3600));
        self.is_far = true;
    }

    fn put_delayed_for(&mut self, queue: &Queue, item: Item, delay: std::time::Duration) {
        let payload = payload(item);
        with_patience(surely(), |wait| queue.put_delayed(&[&payload], delay, wait)).unwrap();
        self.put.push(item);
    }

    fn watch(&mut self, queue: &Queue) {
        self.notifier = Some(with_patience(surely(), |wait| queue.watch(wait)).unwrap());
    }

    /// For room and for the end, too.
    fn watch_all(&mut self, queue: &Queue) {
        self.watch(queue);
        for awaited in [Awaited::Room, Awaited::Finish] {
            with_patience(surely(), |wait| queue.watch_for(awaited, wait)).unwrap();
        }
    }

    /// Of a connection.
    fn watch_end(&mut self, queue: &Queue) {
        ends::connect(queue);
        let end = ends::reading();
        with_patience(surely(), |wait| queue.watch_at(end, wait)).unwrap();
        self.notifier = Some(end);
    }

    fn put_all(&mut self, queue: &Queue, items: &[Item]) {
        for item in items {
            self.put(queue, *item);
        }
    }

    fn take(&mut self, queue: &Arc<Queue>) {
        let (item, lent) = take(queue, Patience::NoWait).unwrap();
        self.got.push(item);
        self.held.extend(lent);
    }

    /// Puts items and one more, and takes all but the last: the queue has grown by then.
    fn pass_before(&mut self, queue: &Arc<Queue>, items: &[Item], last: Item) {
        for item in items {
            put(queue, *item);
        }
        self.put(queue, last);
        for item in items {
            assert_eq!(get(queue, Patience::NoWait), Ok(*item));
            self.passed += 1;
            self.passed_bytes += crate::item::len_of(*item) as u64;
        }
    }
}

pub struct Operation {
    pub name: &'static str,
    pub options: Options,
    /// What the survivor does before.
    pub prepare: fn(&Arc<Queue>, &mut Log),
    /// What the victim does before, unobserved. It takes part from then on.
    pub before: fn(&mut Victim),
    /// What the survivor does after that.
    pub meanwhile: fn(&Arc<Queue>, &mut Log),
    pub run: fn(&mut Victim),
    /// Waiters have aged when they go to sleep.
    pub ages: bool,
    /// What the survivor does once the victim sleeps.
    pub when_asleep: Option<fn(&Arc<Queue>, &mut Log)>,
    pub sleeper: Option<Sleeper>,
    /// It comes when the victim has done what it does before.
    pub sleeper_is_last: bool,
    /// What the victim puts, in this order: each is in the queue whole, or not at all, and not without those
    /// before it.
    pub puts: &'static [Item],
    /// What may be gone with the victim; everything else must come out of the queue exactly once.
    pub takes: &'static [Item],
    /// What is a dead letter if the victim has taken it, and else comes out of the queue.
    pub buries: &'static [Item],
    /// What the victim buries are dead letters from the start: it puts them back, or it frees them.
    pub requeues: bool,
    pub purges: bool,
    /// Whether the victim finishes an item that another process has in hand, or that has not been taken yet.
    pub finishes: bool,
    /// Whether the victim shuts the queue down. Afterwards the survivors only learn that.
    pub shuts_down: bool,
    /// Whether the victim produces: its death shuts the queue down, too, and is found before all else.
    pub produces: bool,
    /// No survivor makes a call before the sleeper has found the victim dead.
    pub is_found_by_sleeper: bool,
    /// No process has called `task_done` or `join` before the operation; elsewhere one has.
    pub sets_aside: bool,
    /// The victim opens the queue anew instead of inheriting it.
    pub attaches: bool,
    /// At how many places inside the critical section a second death is tried, in the rebuild that follows.
    /// Each costs as many kills as the proof of the first death, take-over, rebuild and sweep have
    /// instructions. So only those operations have one that leave something of their own to recover.
    pub second_deaths: usize,
    /// The rebuild after it reads so many slots that stepping through it takes too long.
    pub is_rebuilt_slowly: bool,
    /// Whether one is tried in the sweep that follows a death right after the operation.
    pub is_swept: bool,
}

const PLAIN: Options = Options {
    maxsize: 0,
    max_bytes: Some(256 << 10),
    soft_bytes: 0,
    acknowledged: false,
    max_deliveries: 3,
};
const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    ..PLAIN
};
/// An item whose holder dies once becomes a dead letter.
const BURYING: Options = Options {
    max_deliveries: 0,
    ..ACKNOWLEDGED
};
/// Full when more bytes than these are queued. A payload of a divided span has more than half of them.
const SOFT: Options = Options {
    soft_bytes: 500,
    ..PLAIN
};
const ONE: Options = Options { maxsize: 1, ..PLAIN };
/// Memory for more than each process has mapped from the start.
const ROOMY: Options = Options {
    max_bytes: Some(16 << 20),
    ..PLAIN
};

/// Items that use up the near heap.
const NEAR_HEAP: std::ops::Range<Item> = 500..564;

const DEFAULT: Operation = Operation {
    name: "",
    options: PLAIN,
    prepare: |_, _| {},
    before: take_part,
    meanwhile: |_, _| {},
    run: |_| {},
    ages: false,
    when_asleep: None,
    sleeper: None,
    sleeper_is_last: false,
    puts: &[],
    takes: &[],
    buries: &[],
    requeues: false,
    purges: false,
    finishes: false,
    shuts_down: false,
    produces: false,
    is_found_by_sleeper: false,
    sets_aside: false,
    attaches: false,
    second_deaths: 0,
    is_rebuilt_slowly: false,
    is_swept: false,
};

fn take_part(victim: &mut Victim) {
    victim.queue.statistics().unwrap();
}

/// What the victim tries to put is not put: the queue is shut down meanwhile.
fn hold_one_to_put(victim: &mut Victim) {
    take_part(victim);
    victim.payloads.push(payload(21));
}

fn hold_one(victim: &mut Victim) {
    victim.hold();
    victim.lent.clear();
}

/// The victim maps nothing any more.
fn exhaust_address_space() {
    let limit = libc::rlimit {
        rlim_cur: 1 << 20,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the call reads one struct.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
}

fn take_one(victim: &mut Victim) {
    let (_, lent) = take(&victim.queue, surely()).unwrap();
    victim.lent.extend(lent);
}

fn set_all_aside(victim: &mut Victim) {
    while get(&victim.queue, Patience::NoWait).is_ok() {}
}

/// A second victim's, which finds the lock in dead hands: it takes the lock over, rebuilds and sweeps.
pub const REBUILD: Operation = Operation {
    name: "rebuild",
    run: |victim| victim.leave(Leave::Crashed),
    ..DEFAULT
};

/// A second victim's, which finds a dead participant that holds up no other.
pub const SWEEP: Operation = Operation {
    name: "sweep",
    run: Victim::sweep,
    ..DEFAULT
};

pub const OPERATIONS: &[Operation] = &[
    Operation {
        name: "put-inline",
        prepare: |queue, log| log.put(queue, 10),
        run: Victim::put,
        puts: &[11],
        ..DEFAULT
    },
    Operation {
        name: "put-inline-acknowledged",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put(queue, 10),
        run: Victim::put,
        puts: &[11],
        ..DEFAULT
    },
    Operation {
        name: "put-object",
        prepare: |queue, log| log.put(queue, 20),
        run: Victim::put,
        puts: &[21],
        ..DEFAULT
    },
    Operation {
        name: "put-object-in-a-kept-one",
        prepare: |queue, log| log.pass_before(queue, &[22, 23], 20),
        run: Victim::put,
        puts: &[21],
        ..DEFAULT
    },
    Operation {
        name: "put-object-that-fits-no-kept-one",
        prepare: |queue, log| log.pass_before(queue, &[22, 25], 26),
        run: Victim::put,
        puts: &[21],
        ..DEFAULT
    },
    Operation {
        name: "put-run",
        prepare: |queue, log| log.pass_before(queue, &[30], 20),
        run: Victim::put,
        puts: &[31],
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "put-first-object",
        prepare: |queue, log| log.put(queue, 10),
        run: Victim::put,
        puts: &[21],
        ..DEFAULT
    },
    Operation {
        name: "put-growing-run",
        prepare: |queue, log| log.put(queue, 20),
        run: Victim::put,
        puts: &[31],
        ..DEFAULT
    },
    Operation {
        name: "put-growing-slots",
        prepare: |queue, log| log.put_all(queue, &(100..131).collect::<Vec<_>>()),
        run: Victim::put,
        puts: &[11],
        ..DEFAULT
    },
    // All spans that each process has mapped are in use.
    Operation {
        name: "put-growing-the-heap-by-a-range",
        options: ROOMY,
        prepare: |queue, log| log.put_all(queue, &NEAR_HEAP.collect::<Vec<_>>()),
        run: Victim::put,
        puts: &[31],
        second_deaths: 1,
        ..DEFAULT
    },
    // The victim has mapped no range yet.
    Operation {
        name: "get-mapping-a-range",
        options: ROOMY,
        prepare: |queue, log| {
            log.put_all(queue, &[32]);
            log.put_all(queue, &NEAR_HEAP.collect::<Vec<_>>());
        },
        before: |_| {},
        run: Victim::get,
        attaches: true,
        ..DEFAULT
    },
    // The only slot that is free keeps an extent.
    Operation {
        name: "put-inline-in-a-kept-one",
        prepare: |queue, log| {
            log.pass_before(queue, &[20], 10);
            log.put_all(queue, &(100..129).collect::<Vec<_>>());
        },
        run: Victim::put,
        puts: &[11],
        ..DEFAULT
    },
    Operation {
        name: "put-many",
        prepare: |queue, log| log.put(queue, 20),
        run: Victim::put_many,
        puts: &[11, 21, 12, 31, 13],
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "get-many",
        prepare: |queue, log| log.put_all(queue, &[10, 20, 11, 12]),
        run: Victim::get_many,
        takes: &[10, 20, 11, 12],
        ..DEFAULT
    },
    Operation {
        name: "get-many-acknowledged",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[10, 30, 11]),
        run: Victim::get_many,
        ..DEFAULT
    },
    Operation {
        name: "get-inline",
        prepare: |queue, log| log.put_all(queue, &[10, 11]),
        run: Victim::get,
        takes: &[10],
        ..DEFAULT
    },
    Operation {
        name: "get-object",
        prepare: |queue, log| log.put_all(queue, &[20, 21]),
        run: Victim::get,
        takes: &[20],
        ..DEFAULT
    },
    Operation {
        name: "get-run",
        prepare: |queue, log| log.put_all(queue, &[30, 10]),
        run: Victim::get,
        ..DEFAULT
    },
    Operation {
        name: "keep-run",
        prepare: |queue, log| log.put_all(queue, &[30, 10]),
        before: take_one,
        run: Victim::keep,
        takes: &[30],
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        name: "release-run",
        prepare: |queue, log| log.put_all(queue, &[30, 10]),
        before: take_one,
        run: |victim| victim.lent.clear(),
        takes: &[30],
        ..DEFAULT
    },
    Operation {
        // Its reader could not use it.
        name: "undeliver-run",
        prepare: |queue, log| log.put_all(queue, &[30, 10]),
        before: take_one,
        run: Victim::undeliver,
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        name: "undeliver-run-acknowledged",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[30, 10]),
        before: take_one,
        run: Victim::undeliver,
        ..DEFAULT
    },
    Operation {
        name: "get-inline-acknowledged",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[10, 11]),
        run: Victim::get,
        ..DEFAULT
    },
    Operation {
        name: "get-run-acknowledged",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[30, 10]),
        run: Victim::get,
        ..DEFAULT
    },
    Operation {
        name: "bury-inline",
        options: BURYING,
        prepare: |queue, log| log.put_all(queue, &[10, 11]),
        run: Victim::get,
        buries: &[10],
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        name: "bury-run",
        options: BURYING,
        prepare: |queue, log| log.put_all(queue, &[30, 10]),
        run: Victim::get,
        buries: &[30],
        ..DEFAULT
    },
    Operation {
        name: "release-run-acknowledged",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[30, 10]),
        before: take_one,
        run: |victim| victim.lent.clear(),
        ..DEFAULT
    },
    Operation {
        name: "task-done",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: take_one,
        run: Victim::task_done,
        takes: &[20],
        ..DEFAULT
    },
    Operation {
        name: "hold",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        run: Victim::hold,
        ..DEFAULT
    },
    Operation {
        name: "hold-many",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11, 30]),
        run: Victim::hold_many,
        ..DEFAULT
    },
    Operation {
        name: "lease-done",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: |victim| {
            hold_one(victim);
            hold_one(victim);
        },
        run: |victim| victim.settle(Verdict::Done),
        takes: &[20],
        ..DEFAULT
    },
    Operation {
        name: "lease-released",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[30, 11]),
        before: hold_one,
        run: |victim| victim.settle(Verdict::Released),
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "lease-failed",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11, 12]),
        before: |victim| {
            hold_one(victim);
            hold_one(victim);
        },
        run: |victim| victim.settle(Verdict::Failed),
        second_deaths: 1,
        ..DEFAULT
    },
    // It has a note by then, which is replaced.
    Operation {
        name: "lease-failed-with-a-text",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: |victim| {
            hold_one(victim);
            victim.fail_with_a_text();
            victim.held.clear();
            hold_one(victim);
        },
        run: Victim::fail_with_a_text,
        second_deaths: 1,
        ..DEFAULT
    },
    // Its note, which has nothing but an earlier text, is freed.
    Operation {
        name: "lease-failed-without-a-text",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: |victim| {
            hold_one(victim);
            victim.fail_with_a_text();
            victim.held.clear();
            hold_one(victim);
        },
        run: |victim| victim.settle(Verdict::Failed),
        second_deaths: 1,
        ..DEFAULT
    },
    // It notes its time.
    Operation {
        name: "put-beside-leases",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put(queue, 20),
        before: hold_one,
        run: Victim::put,
        puts: &[11],
        ..DEFAULT
    },
    // Whether it fails for the last time, or its holder dies before.
    Operation {
        name: "lease-failed-for-the-last-time",
        options: BURYING,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: hold_one,
        run: |victim| victim.settle(Verdict::Failed),
        buries: &[20],
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        name: "lease-rejected",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[30, 11]),
        before: hold_one,
        run: |victim| victim.settle(Verdict::Rejected),
        buries: &[30],
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "lease-released-to-getter",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put(queue, 10),
        before: hold_one,
        run: |victim| victim.settle(Verdict::Released),
        sleeper: Some(Sleeper::Getter),
        sleeper_is_last: true,
        second_deaths: 1,
        ..DEFAULT
    },
    // An item is a dead letter, or comes again.
    Operation {
        name: "letter-requeued",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[30, 11]),
        before: |victim| {
            hold_one(victim);
            victim.settle(Verdict::Rejected);
        },
        run: Victim::requeue,
        buries: &[30],
        requeues: true,
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "letter-purged",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: |victim| {
            hold_one(victim);
            victim.settle(Verdict::Rejected);
        },
        run: Victim::purge,
        buries: &[20],
        purges: true,
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "put-delayed-inline",
        prepare: |queue, log| log.put(queue, 10),
        run: Victim::put_delayed,
        puts: &[11],
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "put-delayed-run",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put(queue, 10),
        run: Victim::put_delayed,
        puts: &[31],
        ..DEFAULT
    },
    Operation {
        name: "put-delayed-beside-getter",
        run: Victim::put_delayed,
        puts: &[11],
        sleeper: Some(Sleeper::Getter),
        second_deaths: 1,
        ..DEFAULT
    },
    // Watchers are to be told that an item is due before all others.
    Operation {
        name: "put-delayed-beside-watcher",
        prepare: |queue, log| log.watch(queue),
        run: Victim::put_delayed,
        puts: &[11],
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "lease-released-later",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[30, 11]),
        before: hold_one,
        run: |victim| victim.settle_later(Verdict::Released),
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "lease-failed-later",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: hold_one,
        run: |victim| victim.settle_later(Verdict::Failed),
        ..DEFAULT
    },
    // The victim takes an item whose time has come, behind one that came back.
    Operation {
        name: "get-when-due",
        options: ACKNOWLEDGED,
        prepare: |queue, log| {
            log.put_delayed(queue, 20);
            log.put_delayed(queue, 10);
            log.put(queue, 11);
        },
        run: Victim::hold,
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "shutdown-discards-the-delayed",
        options: ACKNOWLEDGED,
        prepare: |queue, log| {
            log.put_far(queue, 10);
            log.put_far(queue, 20);
        },
        run: |victim| victim.shut_down(true),
        shuts_down: true,
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "lease-released-to-a-closed-queue",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 10]),
        before: |victim| {
            hold_one(victim);
            victim.shut_down(true);
        },
        run: |victim| victim.settle(Verdict::Released),
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "task-done-while-lent",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[30, 11]),
        before: take_one,
        run: Victim::task_done,
        takes: &[30],
        ..DEFAULT
    },
    Operation {
        name: "task-done-before-get",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[10, 11]),
        run: Victim::task_done,
        finishes: true,
        ..DEFAULT
    },
    Operation {
        name: "task-done-of-anothers",
        options: ACKNOWLEDGED,
        prepare: |queue, log| {
            log.put_all(queue, &[10, 11]);
            log.take(queue);
        },
        run: Victim::task_done,
        finishes: true,
        ..DEFAULT
    },
    Operation {
        name: "task-done-of-anothers-while-lent",
        options: ACKNOWLEDGED,
        prepare: |queue, log| {
            log.put_all(queue, &[30, 11]);
            log.take(queue);
        },
        run: Victim::task_done,
        finishes: true,
        ..DEFAULT
    },
    Operation {
        // Cut short, the older item is left unfinished, and the younger comes back.
        name: "leave",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11, 12]),
        before: |victim| {
            take_one(victim);
            take_one(victim);
        },
        run: |victim| victim.leave(Leave::Clean),
        takes: &[20, 11],
        ..DEFAULT
    },
    Operation {
        name: "leave-while-lent",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[30, 11]),
        before: take_one,
        run: |victim| victim.leave(Leave::Clean),
        takes: &[30],
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        // What is settled by name comes back, however much of the leave is done.
        name: "leave-while-held",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: |victim| {
            victim.hold();
            take_one(victim);
        },
        run: |victim| victim.leave(Leave::Clean),
        takes: &[11],
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        // The queue has grown by what the victim cannot map, so it leaves without the lock. What it has by
        // name is discarded by the sweep, and never an orphan.
        name: "leave-put-off-of-a-closed-queue",
        options: Options {
            acknowledged: true,
            ..ROOMY
        },
        prepare: |queue, log| log.put(queue, 20),
        before: |victim| {
            hold_one(victim);
            exhaust_address_space();
        },
        meanwhile: |queue, log| {
            log.put_all(queue, &NEAR_HEAP.collect::<Vec<_>>());
            log.put(queue, 31);
            queue.shut_down(true).unwrap();
        },
        run: |victim| victim.leave(Leave::Clean),
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        // What is settled by name comes back: nothing can settle it any more.
        name: "drop-last-handle-while-held",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: |victim| {
            hold_one(victim);
            take_one(victim);
            victim.become_last_holder();
        },
        run: Victim::drop_last_handle,
        takes: &[11],
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        name: "leave-crashed",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: take_one,
        run: |victim| victim.leave(Leave::Crashed),
        ..DEFAULT
    },
    Operation {
        name: "drop-last-handle",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: |victim| {
            take_one(victim);
            victim.become_last_holder();
        },
        run: Victim::drop_last_handle,
        takes: &[20],
        ..DEFAULT
    },
    Operation {
        name: "close",
        prepare: |queue, log| log.put_all(queue, &[10, 11]),
        before: |victim| {
            take_part(victim);
            victim.open_handle();
        },
        run: Victim::close,
        ..DEFAULT
    },
    Operation {
        // The lease stays, and comes back.
        name: "close-with-a-lease",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: |victim| {
            take_one(victim);
            victim.open_handle();
        },
        run: Victim::close,
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        name: "close-with-a-lease-and-a-notifier",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: |victim| {
            take_one(victim);
            victim.watch();
            victim.open_handle();
        },
        run: Victim::close,
        ..DEFAULT
    },
    Operation {
        name: "task-done-after-close",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: |victim| {
            take_one(victim);
            victim.open_handle();
            victim.close();
        },
        run: Victim::task_done_closed,
        takes: &[20],
        ..DEFAULT
    },
    Operation {
        // Kept, it is gone with its holder.
        name: "end-of-loan-after-close",
        prepare: |queue, log| log.put_all(queue, &[30, 11]),
        before: |victim| {
            take_one(victim);
            victim.keep();
            victim.open_handle();
            victim.close();
        },
        run: |victim| victim.lent.clear(),
        takes: &[30],
        ..DEFAULT
    },
    Operation {
        name: "set-aside",
        options: ACKNOWLEDGED,
        sets_aside: true,
        prepare: |queue, log| log.put_all(queue, &[20, 10, 11]),
        before: take_one,
        run: Victim::get,
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        // Four payloads are more than the queue may have.
        name: "give-up",
        options: ACKNOWLEDGED,
        sets_aside: true,
        prepare: |queue, log| log.put_all(queue, &[30, 31, 32]),
        before: set_all_aside,
        run: Victim::put,
        puts: &[33],
        takes: &[30],
        second_deaths: 2,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        name: "give-up-of-the-dead",
        options: ACKNOWLEDGED,
        sets_aside: true,
        prepare: |queue, log| {
            log.put_all(queue, &[30, 31, 32]);
            for _ in 0..3 {
                let _ = get(queue, Patience::NoWait);
            }
            assert_eq!(get(queue, Patience::NoWait), Err(Error::Empty));
            queue.leave(Leave::Crashed).unwrap();
        },
        run: Victim::put,
        puts: &[33],
        takes: &[30],
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "leave-what-is-set-aside",
        options: ACKNOWLEDGED,
        sets_aside: true,
        prepare: |queue, log| log.put_all(queue, &[20, 10, 11]),
        before: |victim| {
            take_one(victim);
            take_one(victim);
        },
        run: |victim| victim.leave(Leave::Clean),
        takes: &[20, 10],
        ..DEFAULT
    },
    Operation {
        // What a dead process had set aside comes back, and is finished before it is taken.
        name: "first-task-done",
        options: ACKNOWLEDGED,
        sets_aside: true,
        prepare: |queue, log| {
            log.put_all(queue, &[20, 10, 11]);
            for _ in 0..2 {
                let _ = get(queue, Patience::NoWait);
            }
            queue.leave(Leave::Crashed).unwrap();
        },
        run: Victim::task_done,
        finishes: true,
        second_deaths: 2,
        ..DEFAULT
    },
    Operation {
        name: "register-after-fork",
        prepare: |queue, log| log.put(queue, 10),
        before: |_| {},
        run: Victim::put,
        puts: &[11],
        ..DEFAULT
    },
    Operation {
        name: "register-after-attach",
        prepare: |queue, log| log.put(queue, 10),
        before: |_| {},
        run: Victim::put,
        puts: &[11],
        attaches: true,
        ..DEFAULT
    },
    Operation {
        name: "wait-in-vain",
        run: Victim::wait_in_vain,
        ..DEFAULT
    },
    Operation {
        name: "getter-sleeps-and-is-woken",
        run: Victim::get,
        when_asleep: Some(|queue, log| log.put(queue, 10)),
        takes: &[10],
        ..DEFAULT
    },
    Operation {
        name: "putter-sleeps-and-is-woken",
        options: ONE,
        prepare: |queue, log| log.put(queue, 10),
        run: Victim::put,
        when_asleep: Some(|queue, log| log.got.extend(get(queue, Patience::NoWait))),
        puts: &[11],
        ..DEFAULT
    },
    Operation {
        name: "joiner-sleeps-and-is-woken",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put(queue, 10),
        run: Victim::join,
        when_asleep: Some(|queue, log| {
            log.got.extend(get(queue, Patience::NoWait));
            queue.task_done().unwrap();
        }),
        ..DEFAULT
    },
    Operation {
        name: "put-wakes-getter",
        run: Victim::put,
        sleeper: Some(Sleeper::Getter),
        puts: &[11],
        ..DEFAULT
    },
    Operation {
        name: "get-wakes-putter",
        options: ONE,
        prepare: |queue, log| log.put(queue, 10),
        run: Victim::get,
        sleeper: Some(Sleeper::Putter),
        takes: &[10],
        ..DEFAULT
    },
    Operation {
        name: "task-done-wakes-joiner",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put(queue, 10),
        before: take_one,
        run: Victim::task_done,
        sleeper: Some(Sleeper::Joiner),
        takes: &[10],
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "shutdown",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[10, 20]),
        run: |victim| victim.shut_down(false),
        shuts_down: true,
        second_deaths: 1,
        ..DEFAULT
    },
    // Two of the items came back before, of which one is finished already.
    Operation {
        name: "shutdown-immediate",
        options: ACKNOWLEDGED,
        prepare: |queue, log| {
            log.put_all(queue, &[10, 20, 31]);
        },
        before: |victim| {
            take_one(victim);
            take_one(victim);
            victim.leave(Leave::Crashed);
            victim.task_done();
        },
        run: |victim| victim.shut_down(true),
        shuts_down: true,
        second_deaths: 3,
        ..DEFAULT
    },
    Operation {
        name: "shutdown-wakes-getter",
        run: |victim| victim.shut_down(false),
        sleeper: Some(Sleeper::Getter),
        shuts_down: true,
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "shutdown-wakes-aged-getter",
        run: |victim| victim.shut_down(true),
        ages: true,
        sleeper: Some(Sleeper::Getter),
        shuts_down: true,
        ..DEFAULT
    },
    Operation {
        name: "shutdown-wakes-putter",
        options: ONE,
        prepare: |queue, log| log.put(queue, 10),
        run: |victim| victim.shut_down(false),
        sleeper: Some(Sleeper::Putter),
        shuts_down: true,
        second_deaths: 1,
        ..DEFAULT
    },
    // It has written its item.
    Operation {
        name: "shutdown-wakes-aged-putter",
        options: ONE,
        prepare: |queue, log| log.put(queue, 10),
        run: |victim| victim.shut_down(true),
        ages: true,
        sleeper: Some(Sleeper::Putter),
        shuts_down: true,
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "shutdown-wakes-joiner",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[10, 11]),
        run: |victim| victim.shut_down(true),
        sleeper: Some(Sleeper::Joiner),
        shuts_down: true,
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "putter-sleeps-until-a-shutdown",
        options: ONE,
        prepare: |queue, log| log.put(queue, 10),
        before: hold_one_to_put,
        run: Victim::put,
        when_asleep: Some(|queue, _| queue.shut_down(false).unwrap()),
        ..DEFAULT
    },
    Operation {
        name: "getter-sleeps-until-a-shutdown",
        run: Victim::get,
        when_asleep: Some(|queue, _| queue.shut_down(true).unwrap()),
        ..DEFAULT
    },
    // The item of the loop is finished, and the next one taken.
    Operation {
        name: "next",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[10, 20]),
        before: Victim::next,
        run: Victim::next,
        takes: &[10],
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        name: "next-large",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[31, 32]),
        before: Victim::next,
        run: Victim::next,
        takes: &[31],
        is_swept: true,
        ..DEFAULT
    },
    // From the moment at which it has begun, the death of the victim ends the queue.
    Operation {
        name: "produce",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[10, 20]),
        run: |victim| victim.produce(1),
        shuts_down: true,
        produces: true,
        second_deaths: 2,
        is_swept: true,
        ..DEFAULT
    },
    // The number that it names is never reached: the queue stays open, whether it has begun or not.
    Operation {
        name: "produce-expecting",
        prepare: |queue, log| log.put_all(queue, &[10, 20]),
        run: |victim| victim.produce(9),
        produces: true,
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        name: "end-producing",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[10, 20]),
        before: |victim| victim.produce(0),
        run: Victim::end_producing,
        shuts_down: true,
        produces: true,
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        name: "end-producing-wakes-getter",
        before: |victim| victim.produce(0),
        run: Victim::end_producing,
        sleeper: Some(Sleeper::Getter),
        shuts_down: true,
        produces: true,
        second_deaths: 1,
        ..DEFAULT
    },
    // Whether the production has ended or its process has, a getter that sleeps learns it, and no other
    // process makes a call meanwhile.
    Operation {
        name: "end-producing-beside-sleepers-alone",
        before: |victim| victim.produce(0),
        run: Victim::end_producing,
        sleeper: Some(Sleeper::Getter),
        shuts_down: true,
        produces: true,
        is_found_by_sleeper: true,
        ..DEFAULT
    },
    Operation {
        name: "watch-while-producing-beside-a-putter-alone",
        options: ONE,
        prepare: |queue, log| log.put(queue, 11),
        before: |victim| victim.produce(0),
        run: |victim| victim.watch_all(),
        sleeper: Some(Sleeper::Putter),
        produces: true,
        is_found_by_sleeper: true,
        ..DEFAULT
    },
    // The survivor is a producer, too.
    Operation {
        name: "end-producing-beside-another",
        prepare: |queue, log| {
            log.put_all(queue, &[10, 20]);
            queue.produce(0).unwrap();
        },
        before: |victim| victim.produce(0),
        run: Victim::end_producing,
        produces: true,
        ..DEFAULT
    },
    Operation {
        name: "getter-sleeps-until-the-last-producer-ends",
        run: Victim::get,
        when_asleep: Some(|queue, _| {
            let production = queue.produce(0).unwrap();
            queue.end_producing(production).unwrap();
        }),
        ..DEFAULT
    },
    Operation {
        name: "leave-while-producing",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[10, 20]),
        before: |victim| victim.produce(0),
        run: |victim| victim.leave(Leave::Clean),
        shuts_down: true,
        produces: true,
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "drop-last-handle-while-producing",
        prepare: |queue, log| log.put_all(queue, &[10, 20]),
        before: |victim| {
            victim.become_last_holder();
            victim.produce(0);
        },
        run: Victim::drop_last_handle,
        shuts_down: true,
        produces: true,
        second_deaths: 1,
        ..DEFAULT
    },
    // The membership stays for the lease, and is no producer's.
    Operation {
        name: "close-with-a-lease-while-producing",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 11]),
        before: |victim| {
            take_one(victim);
            victim.open_handle();
            victim.produce(0);
        },
        run: Victim::close,
        shuts_down: true,
        produces: true,
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    // What comes back to a closed queue is discarded.
    Operation {
        name: "leave-a-closed-queue",
        options: ACKNOWLEDGED,
        prepare: |queue, log| log.put_all(queue, &[20, 10]),
        before: |victim| {
            take_one(victim);
            victim.shut_down(true);
        },
        run: |victim| victim.leave(Leave::Crashed),
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        name: "watch",
        prepare: |queue, log| log.put(queue, 10),
        run: Victim::watch,
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        name: "watch-anothers-notifier",
        prepare: |queue, log| {
            log.put(queue, 10);
            log.watch(queue);
        },
        run: Victim::watch,
        attaches: true,
        ..DEFAULT
    },
    Operation {
        name: "put-signals",
        prepare: |queue, log| log.watch(queue),
        run: Victim::put,
        puts: &[11],
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "put-opens-the-notifier-and-updates",
        prepare: |queue, log| log.watch(queue),
        run: Victim::put,
        puts: &[11],
        attaches: true,
        ..DEFAULT
    },
    Operation {
        name: "get-drains",
        prepare: |queue, log| {
            log.watch(queue);
            log.put(queue, 10);
        },
        run: Victim::get,
        takes: &[10],
        ..DEFAULT
    },
    Operation {
        name: "watch-for-all",
        options: ONE,
        prepare: |queue, log| log.put(queue, 10),
        run: Victim::watch_all,
        second_deaths: 1,
        is_swept: true,
        ..DEFAULT
    },
    Operation {
        name: "put-fills",
        options: ONE,
        prepare: |queue, log| log.watch_all(queue),
        run: Victim::put,
        puts: &[11],
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "get-makes-room",
        options: ONE,
        prepare: |queue, log| {
            log.watch_all(queue);
            log.put(queue, 10);
        },
        run: Victim::get,
        takes: &[10],
        ..DEFAULT
    },
    Operation {
        name: "task-done-signals-the-end",
        options: ACKNOWLEDGED,
        prepare: |queue, log| {
            log.watch_all(queue);
            log.put(queue, 10);
        },
        before: take_one,
        run: Victim::task_done,
        takes: &[10],
        ..DEFAULT
    },
    Operation {
        name: "receiver-sleeps-and-is-signalled",
        prepare: |queue, _| ends::connect(queue),
        run: Victim::receive,
        when_asleep: Some(|queue, log| {
            log.put(queue, 10);
        }),
        takes: &[10],
        ..DEFAULT
    },
    Operation {
        name: "send-signals",
        prepare: |queue, log| log.watch_end(queue),
        run: Victim::send,
        puts: &[11],
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "receive-drains",
        prepare: |queue, log| {
            log.watch_end(queue);
            log.put(queue, 10);
        },
        run: Victim::receive,
        takes: &[10],
        ..DEFAULT
    },
    Operation {
        name: "watch-for-room",
        options: ONE,
        prepare: |queue, log| {
            ends::connect(queue);
            log.put(queue, 10);
        },
        run: Victim::watch_room,
        ..DEFAULT
    },
    Operation {
        name: "sender-sleeps-and-is-notified",
        options: ONE,
        prepare: |queue, log| {
            ends::connect(queue);
            log.put(queue, 10);
        },
        run: Victim::send,
        when_asleep: Some(|queue, log| log.got.extend(get(queue, Patience::NoWait))),
        puts: &[11],
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "receive-notifies-the-sender",
        options: ONE,
        prepare: |queue, log| {
            ends::connect(queue);
            log.put(queue, 10);
        },
        run: Victim::receive,
        sleeper: Some(Sleeper::Sender),
        takes: &[10],
        ..DEFAULT
    },
    Operation {
        name: "aged-getter-is-handed",
        run: Victim::get,
        ages: true,
        when_asleep: Some(|queue, log| log.put(queue, 10)),
        takes: &[10],
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "aged-getter-is-handed-a-run",
        options: ACKNOWLEDGED,
        run: Victim::get,
        ages: true,
        when_asleep: Some(|queue, log| log.put(queue, 30)),
        ..DEFAULT
    },
    Operation {
        name: "aged-putter-is-published",
        options: ONE,
        prepare: |queue, log| log.put(queue, 10),
        run: Victim::put,
        ages: true,
        when_asleep: Some(|queue, log| log.got.extend(get(queue, Patience::NoWait))),
        puts: &[11],
        ..DEFAULT
    },
    Operation {
        name: "put-hands-to-aged-getter",
        run: Victim::put,
        ages: true,
        sleeper: Some(Sleeper::Getter),
        puts: &[11],
        second_deaths: 2,
        ..DEFAULT
    },
    Operation {
        name: "get-publishes-for-aged-putter",
        options: ONE,
        prepare: |queue, log| log.put(queue, 10),
        run: Victim::get,
        ages: true,
        sleeper: Some(Sleeper::Putter),
        takes: &[10],
        second_deaths: 2,
        ..DEFAULT
    },
    Operation {
        name: "receive-publishes-for-aged-sender",
        options: ONE,
        prepare: |queue, log| {
            ends::connect(queue);
            log.put(queue, 10);
        },
        run: Victim::receive,
        ages: true,
        sleeper: Some(Sleeper::Sender),
        takes: &[10],
        ..DEFAULT
    },
    // The item of a stopped getter goes back.
    Operation {
        name: "sweep-takes-back-from-a-late-getter",
        prepare: |_, _| {},
        run: Victim::sweep,
        ages: true,
        sleeper: Some(Sleeper::LateGetter),
        second_deaths: 1,
        ..DEFAULT
    },
    Operation {
        name: "put-soft-limit",
        options: SOFT,
        prepare: |queue, log| log.put(queue, 20),
        run: Victim::put,
        puts: &[21],
        ..DEFAULT
    },
    Operation {
        name: "putter-sleeps-at-soft-limit",
        options: SOFT,
        prepare: |queue, log| log.put_all(queue, &[20, 21]),
        run: Victim::put,
        when_asleep: Some(|queue, log| log.got.extend(get(queue, Patience::NoWait))),
        puts: &[22],
        ..DEFAULT
    },
    Operation {
        name: "get-wakes-putter-at-soft-limit",
        options: SOFT,
        prepare: |queue, log| log.put_all(queue, &[20, 21]),
        run: Victim::get,
        sleeper: Some(Sleeper::Putter),
        takes: &[20],
        ..DEFAULT
    },
    Operation {
        name: "give-runs-back",
        options: Options {
            max_bytes: Some(10 << 20),
            ..PLAIN
        },
        prepare: |queue, log| log.pass_before(queue, &[20], 42),
        before: take_one,
        run: |victim| victim.lent.clear(),
        takes: &[42],
        second_deaths: 1,
        ..DEFAULT
    },
    // No second deaths here and below: the rebuild reads 2,000 slots, which is 80,000 instructions and more.
    Operation {
        name: "give-slots-back",
        prepare: |queue, log| log.pass_before(queue, &MANY.collect::<Vec<_>>(), 10),
        run: Victim::get,
        takes: &[10],
        ..DEFAULT
    },
    // Its payload is in a slot above those that are given back.
    Operation {
        name: "give-slots-back-beside-one",
        prepare: |queue, log| {
            log.pass_before(queue, &MANY.collect::<Vec<_>>(), 30);
            log.put(queue, 10);
        },
        before: take_one,
        run: Victim::get,
        takes: &[10],
        ..DEFAULT
    },
    // The survivor has given slots back below the one that it holds, and has used up all that are left.
    Operation {
        name: "take-slots-back",
        prepare: |queue, log| {
            log.pass_before(queue, &MANY.collect::<Vec<_>>(), 30);
            log.take(queue);
            let memory = queue.statistics().unwrap().memory_bytes;
            log.put_all(queue, &(3000..4406).collect::<Vec<_>>());
            assert_eq!(
                queue.statistics().unwrap().memory_bytes,
                memory,
                "a slot was there for each"
            );
        },
        run: Victim::put,
        puts: &[11],
        is_rebuilt_slowly: true,
        ..DEFAULT
    },
];

/// More small items than a queue keeps slots for.
const MANY: std::ops::Range<Item> = 1000..2500;
