//! The plain model: lists of items in one process, without memory, locks or deaths in the middle of anything.

use std::collections::VecDeque;

use penstock_core::{Error, Leave, Options, SMALL};

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

    /// A slot of 128 bytes, and what does not fit into it: up to 32 KiB objects of 16 sizes, then runs of 64 KiB.
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

/// Something in a participant's hands.
#[derive(Clone, Copy, Debug)]
struct Held {
    item: Item,
    lease: u64,
    /// Delivered and unfinished; otherwise only memory.
    is_leased: bool,
    is_looked_at: bool,
    /// Leased by one who has left in order, but still looks at it.
    has_left: bool,
}

#[derive(Debug)]
pub struct Actor {
    /// Its place in the table of participants: the first that was free when it came.
    index: usize,
    /// In the order of taking.
    held: Vec<Held>,
    /// Leases whose payloads it looks at, in the same order.
    looks: VecDeque<u64>,
}

pub struct Plain {
    pub rules: Options,
    pub ready: VecDeque<Item>,
    pub actors: Vec<Actor>,
    /// In the order of dying.
    pub dead: Vec<Item>,
    pub orphans: u64,
    pub puts: u64,
    pub bytes: u64,
    pub redeliveries: u64,
    pub high_water: u64,
    leases: u64,
}

impl Plain {
    /// With the test's own process in it.
    pub fn new(rules: &Options) -> Plain {
        let mut plain = Plain {
            rules: rules.clone(),
            ready: VecDeque::new(),
            actors: Vec::new(),
            dead: Vec::new(),
            orphans: 0,
            puts: 0,
            bytes: 0,
            redeliveries: 0,
            high_water: 0,
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
            looks: VecDeque::new(),
        }
    }

    // ------------------------------------------------------------------------------------------------ questions

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
        let leased = self.actors.iter().flat_map(|actor| &actor.held);
        (self.ready.iter().filter(|item| !item.is_finished).count()
            + leased.filter(|held| held.is_leased).count()) as u64
            + self.orphans
    }

    /// What counts against `max_bytes`: not what somebody looks at.
    pub fn used_bytes(&self) -> u64 {
        let held = self.actors.iter().flat_map(|actor| &actor.held);
        let looked_at = held.clone().filter(|held| held.is_looked_at);
        let all = self
            .ready
            .iter()
            .chain(&self.dead)
            .chain(held.map(|held| &held.item));
        all.map(|item| 128 + item.extent_bytes()).sum::<u64>() + 128 * self.orphans
            - looked_at.map(|held| held.item.extent_bytes()).sum::<u64>()
    }

    /// Payload bytes that lie outside of slots.
    pub fn extent_payload_bytes(&self) -> u64 {
        let held = self
            .actors
            .iter()
            .flat_map(|actor| &actor.held)
            .map(|held| &held.item);
        let all = self.ready.iter().chain(&self.dead).chain(held);
        all.filter(|item| item.extent_bytes() > 0)
            .map(|item| item.len as u64)
            .sum()
    }

    pub fn is_looking(&self, actor: usize) -> bool {
        !self.actors[actor].looks.is_empty()
    }

    // ------------------------------------------------------------------------------------------------ operations

    /// Whether a put that does not wait would succeed.
    pub fn can_put(&self, len: usize) -> Result<Item, Error> {
        let item = Item {
            number: self.puts + 1,
            len,
            is_finished: false,
            redeliveries: 0,
        };
        if !self.has_room() {
            return Err(Error::Full);
        }
        let (needed, used) = (128 + item.extent_bytes(), self.used_bytes());
        match self.rules.max_bytes {
            Some(limit) if used + needed > limit => Err(Error::OutOfMemory { needed, used, limit }),
            _ => Ok(item),
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

    /// Puts as many as there is room for, from the first on. Answers how many, and if not all, why.
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

    /// Takes the first items, as many as a batch has room for: 64, and 16 times the most that a small one can have. If it
    /// was asked to have room for fewer, for so many.
    pub fn get_many(&mut self, actor: usize, most: usize, keeps_looking: bool) -> Vec<Item> {
        let mut left = most.min(16) * SMALL;
        let mut items = Vec::new();
        while items.len() < most.min(64) && left >= SMALL {
            let Some(item) = self.get(actor, 0, keeps_looking) else {
                break;
            };
            if !item.is_lent() {
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
            is_looked_at: false,
            has_left: false,
        });
    }

    /// Takes the item at a place, which is 0 unless several take at once.
    pub fn get(&mut self, actor: usize, place: usize, keeps_looking: bool) -> Option<Item> {
        let item = self.ready.remove(place)?;
        let stays_leased = self.rules.acknowledged && !item.is_finished;
        if stays_leased || item.is_lent() {
            self.leases += 1;
            let actor = &mut self.actors[actor];
            actor.held.push(Held {
                item,
                lease: self.leases,
                is_leased: !item.is_finished,
                is_looked_at: item.is_lent(),
                has_left: false,
            });
            if item.is_lent() {
                actor.looks.push_back(self.leases);
            }
        }
        if item.is_lent() && !keeps_looking {
            self.end_look(actor, self.actors[actor].looks.len() - 1);
        }
        Some(item)
    }

    pub fn end_look(&mut self, actor: usize, look: usize) -> Option<Item> {
        let acknowledged = self.rules.acknowledged;
        let actor = &mut self.actors[actor];
        let lease = actor.looks.remove(look)?;
        let place = actor.held.iter().position(|held| held.lease == lease)?;
        let held = &mut actor.held[place];
        held.is_looked_at = false;
        let item = held.item;
        self.orphans += u64::from(held.has_left);
        if !acknowledged || !held.is_leased || held.has_left {
            actor.held.remove(place);
        }
        Some(item)
    }

    /// Has the item at its first look for good, if the queue is a plain one. False if it looks at none.
    pub fn keep(&mut self, actor: usize) -> bool {
        let actor = &mut self.actors[actor];
        let Some(lease) = actor.looks.front() else {
            return false;
        };
        if let Some(held) = actor.held.iter_mut().find(|held| held.lease == *lease) {
            held.is_leased &= self.rules.acknowledged;
        }
        true
    }

    pub fn task_done(&mut self, actor: usize) -> Result<(), Error> {
        if self.unfinished() == 0 {
            return Err(Error::TooManyDone);
        }
        // One's own first, then whoever's, those included that somebody has left.
        let mut all: Vec<(usize, bool)> = (0..self.actors.len()).map(|holder| (holder, true)).collect();
        all.sort_by_key(|(holder, _)| self.actors[*holder].index);
        for (holder, may_have_left) in std::iter::once((actor, false)).chain(all) {
            let held = &mut self.actors[holder].held;
            let suits = |held: &Held| held.is_leased && (may_have_left || !held.has_left);
            if let Some(place) = held.iter().position(suits) {
                if held[place].is_looked_at {
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
        } else if let Some(item) = self.ready.iter_mut().find(|item| !item.is_finished) {
            item.is_finished = true;
        }
        Ok(())
    }

    pub fn leave(&mut self, actor: usize, how: Leave) {
        let held = std::mem::take(&mut self.actors[actor].held);
        for held in held {
            if held.is_leased && held.is_looked_at && how == Leave::Clean && self.rules.acknowledged {
                self.actors[actor].held.push(Held {
                    has_left: true,
                    ..held
                });
            } else if !held.is_leased || held.is_looked_at {
                self.actors[actor].held.push(held);
            } else if how == Leave::Clean {
                self.orphans += 1;
            } else {
                self.redeliver(held.item);
            }
        }
    }

    /// The actor is gone; those after it move up.
    pub fn kill(&mut self, actor: usize) {
        let actor = self.actors.remove(actor);
        for held in actor.held.into_iter().filter(|held| held.is_leased) {
            if held.has_left {
                self.orphans += 1;
            } else {
                self.redeliver(held.item);
            }
        }
    }

    /// The test's own handle is dropped, and another one made.
    pub fn reopen(&mut self) {
        self.leave(0, Leave::Clean);
        self.actors[0].index = 0;
        self.actors[0].index = self.new_actor().index;
    }

    /// After a death in the critical section the dead letters are in the order of publication.
    #[cfg_attr(not(feature = "fault-points"), allow(dead_code))]
    pub fn rebuild(&mut self) {
        self.dead.sort_by_key(|item| item.number);
    }

    fn redeliver(&mut self, mut item: Item) {
        if item.redeliveries >= self.rules.max_deliveries {
            self.dead.push(item);
            return;
        }
        item.redeliveries += 1;
        self.redeliveries += 1;
        let place = self.ready.partition_point(|other| other.number < item.number);
        self.ready.insert(place, item);
        self.note_high_water();
    }
}
