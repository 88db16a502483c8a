//! The waiters' cells against their lists.

use super::Inspection;
use crate::memory::layout::*;
use crate::state::Section;
use crate::state::line::{self, DUE, has_line};
use crate::state::pipe_word::{DRAINED, FULL, SIGNALLED, has_to_tell, state_of};
use crate::state::waiters::{
    ABANDONED, FREE, HANDED, HANDED_LEFT, LATE, LATE_LEFT, SLEEPING, WOKEN, WOKEN_LEFT,
};
use crate::sync::Word;

impl Inspection<'_> {
    pub(super) fn inspect_waiters(&mut self) {
        let hot = self.hot();
        let high = self.sizes().2 as u32;
        let (marked, backed) = (hot.cells_high.get(), hot.cells_backed.get());
        self.at_least("cells_high", u64::from(marked), 1);
        self.at_most("cells_high", u64::from(marked), u64::from(high.max(1)));
        self.at_most(
            "cells_backed",
            u64::from(backed),
            u64::from(self.segment().geometry.cells),
        );

        let mut index = hot.cells_free.get();
        while index != 0 && self.list_cell(index, high) {
            let Ok(cell) = self.segment().cell(index) else {
                return;
            };
            if cell.word.get() != FREE {
                self.finding("cell", Some(index), "it is on the free list but not free");
            }
            index = cell.next.get();
        }
        let names = ["list of getters", "list of putters", "list of joiners"];
        for (kind, name) in Kind::ALL.into_iter().zip(names) {
            self.walk_waiters(kind, name, high);
        }
        let mut notified = [0; 3];
        let mut handed = [0; 3];
        for index in 1..high {
            self.inspect_cell(index, &mut notified, &mut handed);
        }
        for (i, aged) in hot.spinning.aged.iter().enumerate() {
            let name = ["getters handed", "putters handed"][i];
            self.compare(name, u64::from(aged.handed.get()), handed[i]);
        }
        let counters = ["getters notified", "putters notified", "joiners notified"];
        for (i, list) in hot.waiters.iter().enumerate() {
            self.compare(counters[i], u64::from(list.notified.get()), notified[i]);
        }
        for (name, spinner) in [
            ("getter_spinning", hot.spinning.getter.get()),
            ("putter_spinning", hot.spinning.putter.get()),
        ] {
            if spinner != 0 && !self.is_participant(ParticipantId(spinner)) {
                self.finding(name, None, "it names no participant");
            }
        }
        self.compare("items handed", self.handed, self.handed_and_named);
        self.inspect_notifier();
        if hot.unfinished.get() == 0 && hot.waiters[Kind::Finish as usize].length.get() != 0 {
            self.finding(
                "list of joiners",
                None,
                "they sleep although nothing is unfinished",
            );
        }
    }

    fn inspect_notifier(&mut self) {
        let hot = self.hot();
        let (mut watching, mut for_room, mut for_finish) = (0, 0, 0);
        for index in self.shared.participants() {
            if let Ok(record) = self.segment().participant(index) {
                for_room += u64::from(record.watching_room.get());
                watching += u64::from(record.watching.get());
                for_finish += u64::from(record.watching_finish.get());
            }
        }
        self.compare("watching_room", u64::from(hot.watching_room.get()), for_room);
        let finish = u64::from(hot.watching_finish.get());
        self.compare("watching_finish", finish, for_finish);
        let mark = hot.watching.get() & DUE;
        self.compare(
            "watching",
            u64::from(hot.watching.get() - mark),
            watching + for_room + for_finish,
        );
        // The writer of a byte cannot clear the mark.
        let is_due = line::state_of(hot.line_state.get()) != line::SIGNALLED;
        if mark == 0 && has_line(hot) && is_due || has_to_tell(hot) && !hot.has_delayed() {
            self.finding("line_state", None, "the mark for updates disagrees with it");
        }
        if has_line(hot) {
            return;
        }
        let pipe_state = state_of(hot.pipe_state.get());
        let is_readable = Section::new(self.shared, ParticipantId::NONE).is_readable();
        let is_wrong = match pipe_state {
            DRAINED => is_readable || has_to_tell(hot),
            // A byte may tell when a delayed item is due.
            SIGNALLED => !is_readable && !hot.has_delayed(),
            _ => false,
        };
        if watching > 0 && is_wrong {
            self.finding("pipe_state", None, "it disagrees with the number of items");
        }
        let is_full = !self.shared.has_room() && hot.is_open();
        if for_room > 0
            && (matches!(pipe_state, DRAINED | SIGNALLED) && is_full || pipe_state == FULL && !is_full)
        {
            self.finding("pipe_state", None, "it disagrees with the room for items");
        }
        let (finish_state, is_finished) = (state_of(hot.finish_state.get()), hot.unfinished.get() == 0);
        if for_finish > 0
            && (finish_state == DRAINED && is_finished || finish_state == SIGNALLED && !is_finished)
        {
            self.finding("finish_state", None, "it disagrees with the unfinished items");
        }
    }

    /// Notes that a cell was found on a list. False if the walk must end here.
    fn list_cell(&mut self, index: u32, high: u32) -> bool {
        if index >= high {
            self.finding("cell", Some(index), "a list leads out of the cells");
            return false;
        }
        if core::mem::replace(&mut self.is_cell_listed[index as usize], true) {
            self.finding("cell", Some(index), "it is on two lists, or twice on one");
            return false;
        }
        true
    }

    fn walk_waiters(&mut self, kind: Kind, name: &'static str, high: u32) {
        let list = &self.hot().waiters[kind as usize];
        let (mut prev, mut index, mut length) = (0, list.head.get(), 0);
        let (mut aged, mut last_aged) = (0, 0);
        while index != 0 {
            if !self.list_cell(index, high) {
                return;
            }
            let Ok(cell) = self.segment().cell(index) else {
                return;
            };
            if !matches!(cell.word.get(), SLEEPING | ABANDONED) {
                self.finding("cell", Some(index), "it is listed but does not wait");
            }
            if cell.kind.get() != kind as u32 {
                self.finding("cell", Some(index), "it is on the list of another kind");
            }
            if cell.prev.get() != prev {
                let found = u64::from(cell.prev.get());
                self.finding_in_numbers(
                    "cell",
                    Some(index),
                    "the link back is wrong",
                    found,
                    u64::from(prev),
                );
            }
            if cell.since.get() != 0 {
                if last_aged != prev {
                    self.finding("cell", Some(index), "it has aged and is behind one that has not");
                }
                aged += 1;
                last_aged = index;
                self.found.written += u64::from(kind == Kind::Room && cell.slot.get() != 0);
            }
            length += 1;
            (prev, index) = (index, cell.next.get());
        }
        let (noted, noted_last) = self
            .hot()
            .aged(kind)
            .map_or((0, 0), |aged| (aged.count.get(), aged.tail.get()));
        self.found.aged += aged;
        if u64::from(noted) != aged {
            self.finding_in_numbers(
                name,
                None,
                "the number of the aged is wrong",
                u64::from(noted),
                aged,
            );
        }
        if noted_last != last_aged {
            let found = u64::from(noted_last);
            self.finding_in_numbers(
                name,
                None,
                "the last of the aged is wrong",
                found,
                u64::from(last_aged),
            );
        }
        if list.tail.get() != prev {
            let tail = u64::from(list.tail.get());
            self.finding_in_numbers(name, None, "its end is wrong", tail, u64::from(prev));
        }
        if list.length.get() != length {
            let found = u64::from(list.length.get());
            self.finding_in_numbers(name, None, "its length is wrong", found, u64::from(length));
        }
    }

    fn inspect_cell(&mut self, index: u32, notified: &mut [u64; 3], handed: &mut [u64; 3]) {
        let Ok(cell) = self.segment().cell(index) else {
            return;
        };
        let word = cell.word.get();
        let is_listed = self.is_cell_listed[index as usize];
        if is_listed == matches!(word, WOKEN | LATE | HANDED | WOKEN_LEFT | LATE_LEFT | HANDED_LEFT) {
            self.finding(
                "cell",
                Some(index),
                "it is on a list and must not, or the reverse",
            );
        }
        if word == FREE {
            return;
        }
        self.found.cells += 1;
        let kind = cell.kind.get() as usize;
        match word {
            SLEEPING | LATE | ABANDONED | LATE_LEFT => {}
            WOKEN | WOKEN_LEFT if kind < notified.len() => notified[kind] += 1,
            WOKEN | WOKEN_LEFT => {}
            HANDED | HANDED_LEFT => self.inspect_handed(index, cell, handed),
            _ => self.finding("cell", Some(index), "its word is impossible"),
        }
        if kind >= notified.len() {
            self.finding("cell", Some(index), "it waits for nothing known");
        }
        // A waiter that left the list without the lock may have left the queue since.
        if word != ABANDONED && !self.is_participant(ParticipantId(cell.owner.get())) {
            self.finding("cell", Some(index), "its waiter is no participant");
        }
    }

    /// A handed waiter's cell: it names an item that is handed to its participant, or one that was published.
    fn inspect_handed(&mut self, index: u32, cell: &WaiterCell, handed: &mut [u64; 3]) {
        if let Some(count) = handed.get_mut(cell.kind.get() as usize) {
            *count += u64::from(cell.number.get() != 0);
        }
        if cell.kind.get() == Kind::Room as u32 {
            if cell.seq.get() == 0 {
                self.finding(
                    "cell",
                    Some(index),
                    "its place was handed and its item not published",
                );
            }
            return;
        }
        let slot = cell.slot.get();
        let is_there = slot < self.sizes().0 as u32
            && slot != 0
            && self.is_present(slot)
            && self.segment().slot(slot).is_ok_and(|slot| {
                let word = slot.word();
                word.is_handed()
                    && word.owner().0 == cell.owner.get()
                    && slot.lease.get() == cell.number.get()
            });
        // A sweep in portions returns a dead getter's item before it frees the cell.
        self.handed_and_named += u64::from(is_there);
    }
}
