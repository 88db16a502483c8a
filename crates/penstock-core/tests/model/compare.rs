//! The comparison after every step: every counter of the queue, every reply to a process, and the memory.

use penstock_core::{Patience, Wait};
use proptest::prelude::*;

use crate::participant::{Command, Reply};
use crate::plain::{Phase, payload};
use crate::run::{Checked, Run, failed};

impl Run {
    pub fn compare(&mut self) -> Checked {
        let statistics = self.hands.queue.statistics().map_err(failed)?;
        if let Some(before) = self.high_water_before.take() {
            let most = self.plain.high_water;
            prop_assert!((before..=most).contains(&statistics.high_water), "high water");
            self.plain.high_water = statistics.high_water;
        }
        self.await_waiters()?;
        let (plain, queue) = (&self.plain, &self.hands.queue);
        let dead_letters = plain.dead.len() as u64;
        prop_assert_eq!(statistics.puts, plain.puts, "puts");
        let delayed = plain.delayed.len() as u64;
        let left = plain.len() + delayed + dead_letters + plain.discarded;
        prop_assert_eq!(statistics.gets, plain.puts - left, "gets");
        prop_assert_eq!(statistics.discarded, plain.discarded, "discarded");
        prop_assert_eq!(statistics.delayed, delayed, "delayed");
        prop_assert_eq!(queue.is_shut_down(), plain.phase != Phase::Open, "phase");
        prop_assert_eq!(statistics.bytes, plain.bytes, "bytes");
        prop_assert_eq!(statistics.queued, plain.len(), "queued");
        prop_assert_eq!(statistics.unfinished, plain.unfinished(), "unfinished");
        if plain.rules.acknowledged {
            let taken = (statistics.taken, statistics.taken_bytes);
            prop_assert_eq!(taken, (plain.taken(), plain.taken_bytes()), "taken");
        }
        prop_assert_eq!(statistics.given_up, plain.given_up, "given up");
        prop_assert_eq!(statistics.redeliveries, plain.redeliveries, "redeliveries");
        prop_assert_eq!(statistics.dead_letters, dead_letters, "dead letters");
        prop_assert_eq!(statistics.high_water, plain.high_water, "high water");
        prop_assert_eq!(statistics.participants, plain.actors.len() as u64, "participants");
        prop_assert_eq!(statistics.producers, plain.producers(), "producers");
        let numbers = Reply::Numbers {
            len: plain.len(),
            is_empty: plain.len() == 0,
            is_full: !plain.has_room(),
        };
        let found = queue.dead_letters().map_err(failed)?;
        let are_right = found.len() == plain.dead.len()
            && found.iter().zip(&plain.dead).all(|(letter, item)| {
                letter.payload == payload(item.number, item.len)
                    && letter.ticket.seq == item.number
                    && letter.deliveries == u32::from(item.redeliveries) + 1
            });
        prop_assert!(are_right, "other dead letters than {:?}", plain.dead);
        self.compare_memory(statistics.memory_bytes)?;
        let idle: Vec<usize> = (0..self.waiting.len())
            .filter(|actor| self.waiting[*actor].is_none())
            .collect();
        for actor in [0, idle[idle.len() - 1]] {
            self.expect(actor, Command::Ask, Ok(numbers.clone()))?;
        }
        Ok(())
    }

    /// The bytes in use, exactly, from an error that states them; and the bytes that back them, within
    /// bounds.
    fn compare_memory(&mut self, memory_bytes: u64) -> Checked {
        static ZEROS: [u8; 1 << 26] = [0; 1 << 26];
        self.peak = self.peak.max(self.plain.used_bytes());
        prop_assert!(
            memory_bytes >= self.plain.extent_payload_bytes(),
            "{} bytes behind it",
            memory_bytes
        );
        let most = 4 * self.peak + (8 << 20);
        prop_assert!(
            memory_bytes <= most,
            "{} bytes behind it, {} at most",
            memory_bytes,
            most
        );
        // Not while a waiter may be giving memory back. Nor while items are set aside, because a put without
        // memory gives them up.
        let is_open = self.plain.phase == Phase::Open;
        if !is_open || !self.plain.has_room() || !self.has_no_waiters() || self.plain.has_set_aside() {
            return Ok(());
        }
        let limit = self.plain.rules.max_bytes.unwrap_or(u64::MAX);
        let parts = vec![ZEROS.as_slice(); (limit >> 26) as usize + 1];
        let needed = 128 + ((parts.len() as u64) << 26);
        let wait = Wait {
            patience: Patience::NoWait,
            interrupted: &mut || false,
        };
        let result = self.hands.queue.put(&parts, wait);
        prop_assert_eq!(result, Err(self.plain.out_of_memory(needed)));
        Ok(())
    }
}
