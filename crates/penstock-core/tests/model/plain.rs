//! The plain model: lists of items in one process, without memory, without locks, and without a death inside
//! an operation.

use std::collections::VecDeque;

use penstock_core::{Error, Leave, Options, SMALL, Verdict};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its place in the order of publication.
    pub number: u64,
    pub len: usize,
    pub is_finished: bool,
    pub redeliveries: u8,
}

impl Item {
    fn is_lent(&self) -> bool {
        self.len > SMALL
    }

    /// The bytes of its extent, if it does not fit into its slot: up to 32 KiB objects of 16 sizes, then runs
    /// of 64 KiB.
    fn extent_bytes(&self) -> u64 {
        const SIZES: [u64; 16] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];
        let len = self.len as u64;
        match SIZES.iter().find(|size| len <= *size * 128) {
            _ if len <= 72 => 0,
            Some(size) => size * 128,
            None => len.div_ceil(65_536) * 65_536,
        }
    }
}

/// The payload of an item: its number at the head, as far as it goes, then one byte.
pub fn payload(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![number as u8 ^ 0xa5; len];
    let head = len.min(8);
    bytes[..head].copy_from_slice(&number.to_le_bytes()[..head]);
    bytes
}

/// An item that a participant holds, or its memory.
#[derive(Clone, Copy, Debug)]
struct Held {
    item: Item,
    lease: u64,
    /// The item is delivered and unfinished; if false, only its memory is held.
    is_leased: bool,
    is_borrowed: bool,
    /// Its actor has asked for another item since, and nothing is acknowledged yet.
    is_aside: bool,
    /// Leased by an actor that has left in order, but still borrows it.
    has_left: bool,
    /// The item of its actor's loop, which `task_done` finishes last.
    is_in_loop: bool,
    /// It was taken by name: like the item of a loop, a leave in order does not give it up.
    is_named: bool,
}

#[derive(Debug)]
pub struct Actor {
    /// Its place in the table of participants: the first that was free when it registered.
    index: usize,
    /// In the order of taking.
    held: Vec<Held>,
    /// Leases whose payloads it borrows, in the same order.
    borrows: VecDeque<u64>,
    /// Items that it had set aside, and whose payloads were given up.
    given_up: u64,
    /// In how many blocks it produces, and whether it has ever.
    blocks: u32,
    has_begun: bool,
    /// The blocks that it has yet to end, also those that ended because it left.
    pub productions: u32,
    /// How many of these, the oldest, have ended because it left.
    late: u32,
    /// The lease of its loop's item.
    in_loop: Option<u64>,
    /// The leases that it has by name, the oldest first; 0 for an item that was finished before.
    named: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Open,
    Draining,
    Closed,
}

impl Actor {
    /// Whether it has an item that comes back if it dies.
    fn has_in_hand(&self) -> bool {
        self.held
            .iter()
            .any(|held| held.is_leased && !held.is_aside && !held.has_left)
    }
}

pub struct Plain {
    pub rules: Options,
    pub phase: Phase,
    /// Items that were queued, or came back, when the queue was closed.
    pub discarded: u64,
    pub ready: VecDeque<Item>,
    /// Items whose time has not come.
    pub delayed: Vec<Item>,
    pub actors: Vec<Actor>,
    /// In the order of dying.
    pub dead: Vec<Item>,
    pub orphans: u64,
    /// Whether `task_done` or `join` was called, or never need be.
    pub is_acknowledged: bool,
    /// Items that dead actors had set aside, with their leases.
    pub aside: Vec<(u64, Item)>,
    /// Items given up whose actors are dead.
    pub given_up: u64,
    pub puts: u64,
    pub bytes: u64,
    pub redeliveries: u64,
    pub high_water: u64,
    /// Producers that have begun, and as many as are expected.
    begun: u32,
    expected: u32,
    leases: u64,
}

impl Plain {
    /// A model with one actor, the test's own process.
    pub fn new(rules: &Options) -> Plain {
        let mut plain = Plain {
            rules: rules.clone(),
            phase: Phase::Open,
            discarded: 0,
            ready: VecDeque::new(),
            delayed: Vec::new(),
            actors: Vec::new(),
            dead: Vec::new(),
            orphans: 0,
            is_acknowledged: !rules.acknowledged,
            aside: Vec::new(),
            given_up: 0,
            puts: 0,
            bytes: 0,
            redeliveries: 0,
            high_water: 0,
            begun: 0,
            expected: 0,
            leases: 0,
        };
        plain.enter();
        plain
    }

    pub fn enter(&mut self) {
        let actor = self.new_actor();
        self.actors.push(actor);
    }

    fn new_actor(&self) -> Actor {
        let is_free = |index: &usize| self.actors.iter().all(|actor| actor.index != *index);
        Actor {
            index: (1..).find(is_free).unwrap_or(0),
            held: Vec::new(),
            borrows: VecDeque::new(),
            given_up: 0,
            blocks: 0,
            has_begun: false,
            productions: 0,
            late: 0,
            in_loop: None,
            named: Vec::new(),
        }
    }

    // --------------------------------------------------------------------------------------------- questions

    pub fn len(&self) -> u64 {
        self.ready.len() as u64
    }

    pub fn has_room(&self) -> bool {
        let queued: usize = self.ready.iter().map(|item| item.len).sum();
        (self.rules.maxsize == 0 || self.len() < self.rules.maxsize)
            && (self.rules.soft_bytes == 0 || (queued as u64) < self.rules.soft_bytes)
    }

    pub fn unfinished(&self) -> u64 {
        if !self.rules.acknowledged {
            return 0;
        }
        let queued = self.ready.iter().filter(|item| !item.is_finished).count();
        (queued + self.delayed.len()) as u64 + self.taken() + self.orphans
    }

    /// Items of an acknowledged queue that are taken and not finished.
    pub fn taken(&self) -> u64 {
        let leased = self.actors.iter().flat_map(|actor| &actor.held);
        let given_up: u64 = self.actors.iter().map(|actor| actor.given_up).sum();
        let of_the_dead = if self.is_acknowledged { 0 } else { self.given_up };
        (leased.filter(|held| held.is_leased).count() + self.aside.len()) as u64 + given_up + of_the_dead
    }

    /// Their memory: extents, and the slots of all that were not given up.
    pub fn taken_bytes(&self) -> u64 {
        let held = self.actors.iter().flat_map(|actor| &actor.held);
        let leased = held.filter(|held| held.is_leased).map(|held| &held.item);
        let items = leased.chain(self.aside.iter().map(|(_, item)| item));
        items.map(|item| 128 + item.extent_bytes()).sum()
    }

    /// The bytes that count against `max_bytes`: all but those of borrowed extents.
    pub fn used_bytes(&self) -> u64 {
        let held = self.actors.iter().flat_map(|actor| &actor.held);
        let borrowed = held.clone().filter(|held| held.is_borrowed);
        let all = self
            .ready
            .iter()
            .chain(&self.dead)
            .chain(&self.delayed)
            .chain(held.map(|held| &held.item))
            .chain(self.aside.iter().map(|(_, item)| item));
        all.map(|item| 128 + item.extent_bytes()).sum::<u64>()
            - borrowed.map(|held| held.item.extent_bytes()).sum::<u64>()
    }

    /// Payload bytes that lie outside of slots.
    pub fn extent_payload_bytes(&self) -> u64 {
        let held = self
            .actors
            .iter()
            .flat_map(|actor| &actor.held)
            .map(|held| &held.item);
        let aside = self.aside.iter().map(|(_, item)| item);
        let rest = self.dead.iter().chain(&self.delayed);
        let all = self.ready.iter().chain(rest).chain(held).chain(aside);
        all.filter(|item| item.extent_bytes() > 0)
            .map(|item| item.len as u64)
            .sum()
    }

    pub fn is_borrowing(&self, actor: usize) -> bool {
        !self.actors[actor].borrows.is_empty()
    }

    // -------------------------------------------------------------------------------------------- operations

    /// Whether a put that does not wait would succeed. It gives up what is set aside, if that is in the way.
    pub fn can_put(&mut self, len: usize) -> Result<Item, Error> {
        let item = self.new_item(len);
        if self.phase != Phase::Open {
            return Err(Error::ShutDown);
        }
        if !self.has_room() {
            return Err(Error::Full);
        }
        self.find_memory(item)
    }

    fn new_item(&self, len: usize) -> Item {
        Item {
            number: self.puts + 1,
            len,
            is_finished: false,
            redeliveries: 0,
        }
    }

    /// Puts an item whose time has come, or never comes. It needs no room; without memory it waits for room
    /// all the same.
    pub fn put_delayed(&mut self, len: usize, comes: bool) -> Result<u64, Error> {
        let item = self.new_item(len);
        if self.phase != Phase::Open {
            return Err(Error::ShutDown);
        }
        // It needs no room.
        self.find_memory(item)?;
        self.puts += 1;
        self.bytes += len as u64;
        if comes {
            self.ready.push_back(item);
            self.note_high_water();
        } else {
            self.delayed.push(item);
        }
        Ok(item.number)
    }

    fn find_memory(&mut self, item: Item) -> Result<Item, Error> {
        let len = item.len;
        let needed = 128 + item.extent_bytes();
        let limit = self.rules.max_bytes.unwrap_or(u64::MAX);
        while self.used_bytes() + needed > limit {
            // Giving up all that is taken may free too little.
            let is_possible = self.used_bytes().saturating_sub(self.taken_bytes()) + needed <= limit;
            if !is_possible || !self.give_up(128 + len as u64) {
                return Err(self.out_of_memory(needed));
            }
        }
        Ok(item)
    }

    pub fn out_of_memory(&self, needed: u64) -> Error {
        let is_counted = self.rules.acknowledged;
        Error::OutOfMemory {
            needed,
            used: self.used_bytes(),
            limit: self.rules.max_bytes.unwrap_or(u64::MAX),
            taken: if is_counted { self.taken() as u32 } else { 0 },
            taken_bytes: if is_counted { self.taken_bytes() } else { 0 },
        }
    }

    /// Whether something could be given up.
    pub fn has_set_aside(&self) -> bool {
        !self.is_acknowledged && !self.oldest_aside().is_empty()
    }

    /// The oldest lease of each actor, and of the dead, that is set aside and not borrowed, with its place:
    /// ascending.
    fn oldest_aside(&self) -> Vec<(u64, Option<usize>)> {
        let mut oldest: Vec<(u64, Option<usize>)> = self
            .aside
            .first()
            .map(|(lease, _)| (*lease, None))
            .into_iter()
            .collect();
        for (place, actor) in self.actors.iter().enumerate() {
            let first = actor.held.iter().find(|held| held.is_aside && !held.is_borrowed);
            oldest.extend(first.map(|held| (held.lease, Some(place))));
        }
        oldest.sort_unstable();
        oldest
    }

    /// Gives up what is set aside until `needed` bytes are freed, the oldest first. Of one actor it gives up,
    /// in a row, leases up to 64 after the oldest of the others.
    fn give_up(&mut self, needed: u64) -> bool {
        let needed = needed.max(self.most_aside() / 32);
        let mut freed = 0;
        while freed < needed && self.has_set_aside() {
            let oldest = self.oldest_aside();
            let until = oldest.get(1).map_or(u64::MAX, |(lease, _)| lease + 64);
            loop {
                let item = match oldest[0].1 {
                    None => {
                        self.given_up += 1;
                        self.aside.remove(0).1
                    }
                    Some(actor) => {
                        let actor = &mut self.actors[actor];
                        actor.given_up += 1;
                        let is_next = |held: &Held| held.is_aside && !held.is_borrowed;
                        let place = actor.held.iter().position(is_next).unwrap_or(0);
                        actor.held.remove(place).item
                    }
                };
                freed += 128 + item.extent_bytes();
                let next = self
                    .oldest_aside()
                    .into_iter()
                    .find(|(_, place)| *place == oldest[0].1);
                if freed >= needed || next.is_none_or(|(lease, _)| lease > until) {
                    break;
                }
            }
        }
        freed > 0
    }

    /// The actor asks for an item: its leases are set aside.
    pub fn ask(&mut self, actor: usize) {
        if !self.is_acknowledged {
            for held in &mut self.actors[actor].held {
                held.is_aside |= held.is_leased && !held.has_left;
            }
            let held = self.actors.iter().flat_map(|actor| &actor.held);
            let leased = held.filter(|held| held.is_leased).map(|held| &held.item);
            let aside = self.aside.iter().map(|(_, item)| item);
            if leased.chain(aside).map(Item::extent_bytes).sum::<u64>() > self.most_aside() {
                self.give_up(0);
            }
        }
    }

    /// Bytes of payloads that stay set aside at most.
    fn most_aside(&self) -> u64 {
        self.rules.max_bytes.unwrap_or(u64::MAX).min(64 << 20)
    }

    pub fn shut_down(&mut self, is_immediate: bool) {
        if is_immediate {
            self.phase = Phase::Closed;
            self.discarded += self.len() + self.delayed.len() as u64;
            self.ready.clear();
            self.delayed.clear();
        } else {
            self.phase = self.phase.max(Phase::Draining);
        }
    }

    pub fn producers(&self) -> u64 {
        self.actors.iter().filter(|actor| actor.blocks > 0).count() as u64
    }

    pub fn produce(&mut self, actor: usize, expect: u32) -> Result<(), Error> {
        if self.phase != Phase::Open {
            return Err(Error::ShutDown);
        }
        self.expected = self.expected.max(expect);
        let actor = &mut self.actors[actor];
        self.begun += u32::from(!actor.has_begun);
        actor.has_begun = true;
        actor.blocks += 1;
        actor.productions += 1;
        Ok(())
    }

    pub fn end_producing(&mut self, actor: usize) {
        let actor = &mut self.actors[actor];
        actor.productions -= 1;
        match actor.late {
            0 => actor.blocks -= 1,
            _ => actor.late -= 1,
        }
        self.end_if_unproduced();
    }

    fn end_if_unproduced(&mut self) {
        if self.begun > 0 && self.begun >= self.expected && self.producers() == 0 {
            self.phase = self.phase.max(Phase::Draining);
        }
    }

    /// The loop of the actor asks for its next item: the one before is finished, unless it is already.
    pub fn finish_for_loop(&mut self, actor: usize) {
        if !self.rules.acknowledged {
            return;
        }
        self.acknowledge();
        let actor = &mut self.actors[actor];
        let Some(lease) = actor.in_loop.take() else {
            return;
        };
        let is_its = |held: &Held| held.lease == lease && held.is_leased && !held.has_left;
        if let Some(place) = actor.held.iter().position(is_its) {
            if actor.held[place].is_borrowed {
                actor.held[place].is_leased = false;
                actor.held[place].is_in_loop = false;
            } else {
                actor.held.remove(place);
            }
        }
    }

    /// Takes the next item of the actor's loop, whose former one is finished.
    pub fn next(&mut self, actor: usize) -> Option<Item> {
        let item = self.get(actor, 0, false)?;
        if self.rules.acknowledged && !item.is_finished {
            let actor = &mut self.actors[actor];
            if let Some(held) = actor.held.last_mut() {
                held.is_in_loop = true;
            }
            actor.in_loop = Some(self.leases);
        }
        Some(item)
    }

    pub fn leave_loop(&mut self, actor: usize) {
        let actor = &mut self.actors[actor];
        if let Some(lease) = actor.in_loop.take() {
            for held in actor.held.iter_mut().filter(|held| held.lease == lease) {
                held.is_in_loop = false;
            }
        }
    }

    /// What a get answers that finds no item, or at the end of its time.
    pub fn no_item(&self, actor: usize, waits: bool) -> Error {
        match self.phase {
            Phase::Open => Error::Empty,
            Phase::Draining if !self.delayed.is_empty() => Error::Empty,
            Phase::Draining if waits && !self.actors[actor].has_in_hand() && self.is_any_in_hand() => {
                Error::Empty
            }
            Phase::Draining | Phase::Closed => Error::ShutDown,
        }
    }

    pub fn is_any_in_hand(&self) -> bool {
        self.actors.iter().any(Actor::has_in_hand)
    }

    /// From now on what is set aside is leased.
    pub fn acknowledge(&mut self) {
        self.is_acknowledged = true;
        for held in self.actors.iter_mut().flat_map(|actor| &mut actor.held) {
            held.is_aside = false;
        }
        for (_, item) in std::mem::take(&mut self.aside) {
            self.redeliver(item);
        }
    }

    pub fn put(&mut self, len: usize) -> Result<u64, Error> {
        let item = self.can_put(len)?;
        self.puts += 1;
        self.bytes += len as u64;
        self.ready.push_back(item);
        self.note_high_water();
        Ok(item.number)
    }

    /// Puts as many as there is room for, from the first on. Returns how many, and the error if not all.
    pub fn put_many(&mut self, lens: impl Iterator<Item = usize>) -> (usize, Result<(), Error>) {
        let mut count = 0;
        for len in lens {
            if let Err(error) = self.put(len) {
                return (count, Err(error));
            }
            count += 1;
        }
        (count, Ok(()))
    }

    /// Takes the first items, as many as fit into a batch: at most 64 or `most`, small ones as long as 16 of
    /// the largest (or `most`) would fit, lent ones until they have 1 MiB together.
    pub fn get_many(&mut self, actor: usize, most: usize, keeps_borrow: bool) -> Vec<Item> {
        self.ask(actor);
        let (mut left, mut lent) = (most.min(16) * SMALL, 0);
        let mut items = Vec::new();
        while items.len() < most.min(64) && left >= SMALL && lent < 1 << 20 {
            let Some(item) = self.take(actor, 0, keeps_borrow) else {
                break;
            };
            if item.is_lent() {
                lent += item.len;
            } else {
                left -= item.len;
            }
            items.push(item);
        }
        items
    }

    fn note_high_water(&mut self) {
        self.high_water = self.high_water.max(self.len());
    }

    /// Memory for an item that is never published.
    #[cfg_attr(not(feature = "fault-points"), allow(dead_code))]
    pub fn claim(&mut self, actor: usize, item: Item) {
        self.leases += 1;
        self.actors[actor].held.push(Held {
            item,
            lease: self.leases,
            is_leased: false,
            is_borrowed: false,
            is_aside: false,
            has_left: false,
            is_in_loop: false,
            is_named: false,
        });
    }

    /// Takes the item at a place, which is 0 unless several take at once.
    pub fn get(&mut self, actor: usize, place: usize, keeps_borrow: bool) -> Option<Item> {
        self.ask(actor);
        self.take(actor, place, keeps_borrow)
    }

    fn take(&mut self, actor: usize, place: usize, keeps_borrow: bool) -> Option<Item> {
        let item = self.ready.remove(place)?;
        let stays_leased = self.rules.acknowledged && !item.is_finished;
        if stays_leased || item.is_lent() {
            self.leases += 1;
            let actor = &mut self.actors[actor];
            actor.held.push(Held {
                item,
                lease: self.leases,
                is_leased: !item.is_finished,
                is_borrowed: item.is_lent(),
                is_aside: false,
                has_left: false,
                is_in_loop: false,
                is_named: false,
            });
            if item.is_lent() {
                actor.borrows.push_back(self.leases);
            }
        }
        if item.is_lent() && !keeps_borrow {
            self.end_borrow(actor, self.actors[actor].borrows.len() - 1);
        }
        Some(item)
    }

    pub fn end_borrow(&mut self, actor: usize, borrow: usize) -> Option<Item> {
        let acknowledged = self.rules.acknowledged;
        let actor = &mut self.actors[actor];
        let lease = actor.borrows.remove(borrow)?;
        let place = actor.held.iter().position(|held| held.lease == lease)?;
        let held = &mut actor.held[place];
        held.is_borrowed = false;
        let item = held.item;
        self.orphans += u64::from(held.has_left);
        if !acknowledged || !held.is_leased || held.has_left {
            actor.held.remove(place);
        }
        Some(item)
    }

    /// Keeps the item of its oldest borrow, if the queue is a plain one. False if it borrows none.
    pub fn keep(&mut self, actor: usize) -> bool {
        let actor = &mut self.actors[actor];
        let Some(lease) = actor.borrows.front() else {
            return false;
        };
        if let Some(held) = actor.held.iter_mut().find(|held| held.lease == *lease) {
            held.is_leased &= self.rules.acknowledged;
        }
        true
    }

    pub fn task_done(&mut self, actor: usize) -> Result<(), Error> {
        self.acknowledge();
        if self.unfinished() == 0 {
            return Err(Error::TooManyDone);
        }
        // Items that were given up are older than those that are held.
        if self.actors[actor].given_up > 0 {
            self.actors[actor].given_up -= 1;
            return Ok(());
        }
        // The actor's own leases first, then any actor's, those included that it has left.
        let mut all: Vec<(usize, bool)> = (0..self.actors.len()).map(|holder| (holder, true)).collect();
        all.sort_by_key(|(holder, _)| self.actors[*holder].index);
        let own =
            [(actor, Some(false)), (actor, Some(true))].map(|(holder, in_loop)| (holder, in_loop, false));
        let all = all
            .into_iter()
            .map(|(holder, may_have_left)| (holder, None, may_have_left));
        for (holder, in_loop, may_have_left) in own.into_iter().chain(all) {
            let held = &mut self.actors[holder].held;
            let suits = |held: &Held| {
                held.is_leased
                    && (may_have_left || !held.has_left)
                    && in_loop.is_none_or(|in_loop| held.is_in_loop == in_loop)
            };
            if let Some(place) = held.iter().position(suits) {
                if held[place].is_borrowed {
                    held[place].is_leased = false;
                    held[place].has_left = false;
                } else {
                    held.remove(place);
                }
                return Ok(());
            }
        }
        if self.orphans > 0 {
            self.orphans -= 1;
            return Ok(());
        }
        let given_up = self.actors.iter_mut().find(|actor| actor.given_up > 0);
        if let Some(actor) = given_up {
            actor.given_up -= 1;
        } else if let Some(item) = self.ready.iter_mut().find(|item| !item.is_finished) {
            item.is_finished = true;
        } else {
            // Those that are delayed are no holder's.
            return Err(Error::TooManyDone);
        }
        Ok(())
    }

    /// Takes the first item by name.
    pub fn hold(&mut self, actor: usize) -> Option<Item> {
        self.acknowledge();
        let item = self.take(actor, 0, false)?;
        let named = if item.is_finished { 0 } else { self.leases };
        let actor = &mut self.actors[actor];
        actor.named.push(named);
        if let Some(held) = actor.held.last_mut().filter(|held| held.lease == named) {
            held.is_named = true;
        }
        Some(item)
    }

    /// Settles one of the items that the actor has by name. `None` if it has none; else whether that item was
    /// in its hand still.
    pub fn settle(&mut self, actor: usize, place: usize, verdict: Verdict, is_delayed: bool) -> Option<bool> {
        let Actor { named, held, .. } = &mut self.actors[actor];
        if named.is_empty() {
            return None;
        }
        let lease = named.remove(place % named.len());
        let is_it = |held: &Held| held.lease == lease && held.is_leased && !held.has_left;
        let Some(place) = held.iter().position(is_it) else {
            return Some(false);
        };
        let item = held.remove(place).item;
        match verdict {
            Verdict::Done => {}
            Verdict::Released if self.phase == Phase::Closed => self.discarded += 1,
            Verdict::Released if is_delayed => self.delayed.push(item),
            Verdict::Released => self.put_back(item),
            Verdict::Failed => self.redeliver_or_delay(item, is_delayed),
            Verdict::Rejected => self.dead.push(item),
        }
        Some(true)
    }

    /// Puts a dead letter back, or purges it; or all. Returns how many.
    pub fn decide(&mut self, place: Option<usize>, is_purge: bool) -> Result<u64, Error> {
        if !is_purge && self.phase != Phase::Open {
            return Err(Error::ShutDown);
        }
        let letters = match place {
            Some(_) if self.dead.is_empty() => Vec::new(),
            Some(place) => vec![self.dead.remove(place % self.dead.len())],
            None => std::mem::take(&mut self.dead),
        };
        let count = letters.len() as u64;
        for mut item in letters.into_iter().filter(|_| !is_purge) {
            item.redeliveries = 0;
            self.put_back(item);
        }
        Ok(count)
    }

    pub fn leave(&mut self, actor: usize, how: Leave) {
        self.actors[actor].blocks = 0;
        self.actors[actor].late = self.actors[actor].productions;
        self.end_if_unproduced();
        if how == Leave::Clean {
            self.orphans += std::mem::take(&mut self.actors[actor].given_up);
        }
        let held = std::mem::take(&mut self.actors[actor].held);
        for held in held {
            if held.is_leased && (held.is_in_loop || held.is_named) && how == Leave::Clean {
                self.actors[actor].held.push(held);
            } else if held.is_leased && held.is_borrowed && how == Leave::Clean && self.rules.acknowledged {
                self.actors[actor].held.push(Held {
                    has_left: true,
                    is_aside: false,
                    ..held
                });
            } else if !held.is_leased || held.is_borrowed {
                self.actors[actor].held.push(held);
            } else if how == Leave::Clean {
                self.orphans += 1;
            } else {
                self.come_back(held);
            }
        }
    }

    /// Returns a lease of a dead or failed actor.
    fn come_back(&mut self, held: Held) {
        if held.is_aside {
            self.aside.push((held.lease, held.item));
        } else {
            self.redeliver(held.item);
        }
    }

    /// The actor is gone; those after it move up.
    pub fn kill(&mut self, actor: usize) {
        let actor = self.actors.remove(actor);
        self.given_up += actor.given_up;
        for held in actor.held.into_iter().filter(|held| held.is_leased) {
            if held.has_left {
                self.orphans += 1;
            } else {
                self.come_back(held);
            }
        }
        self.end_if_unproduced();
    }

    /// The test's own handle is dropped, and another one made.
    pub fn reopen(&mut self) {
        self.leave(0, Leave::Clean);
        // What is settled by name comes back, because no handle can settle it any more.
        let held = std::mem::take(&mut self.actors[0].held).into_iter();
        let (named, rest): (Vec<_>, Vec<_>) =
            held.partition(|held| held.is_leased && (held.is_named || held.is_in_loop));
        self.actors[0].held = rest;
        for held in named {
            self.come_back(held);
        }
        let actor = &mut self.actors[0];
        actor.named.clear();
        // It has begun still: it is the same process.
        (actor.productions, actor.late, actor.in_loop) = (0, 0, None);
        self.actors[0].index = 0;
        self.actors[0].index = self.new_actor().index;
    }

    /// After a death in the critical section the dead letters are in the order of publication.
    #[cfg_attr(not(feature = "fault-points"), allow(dead_code))]
    pub fn rebuild(&mut self) {
        self.dead.sort_by_key(|item| item.number);
        self.aside.sort_by_key(|(lease, _)| *lease);
    }

    fn redeliver(&mut self, item: Item) {
        self.redeliver_or_delay(item, false);
    }

    fn redeliver_or_delay(&mut self, mut item: Item, is_delayed: bool) {
        if self.phase == Phase::Closed {
            self.discarded += 1;
            return;
        }
        if item.redeliveries >= self.rules.max_deliveries {
            self.dead.push(item);
            return;
        }
        item.redeliveries += 1;
        self.redeliveries += 1;
        if is_delayed {
            self.delayed.push(item);
            return;
        }
        self.put_back(item);
    }

    fn put_back(&mut self, item: Item) {
        let place = self.ready.partition_point(|other| other.number < item.number);
        self.ready.insert(place, item);
        self.note_high_water();
    }
}
