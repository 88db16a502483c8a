"""Break the protocol on purpose, one change at a time, and see that a check notices.

The sources are copied to build/mutants/source, and only the copy is changed. Each mutant replaces one piece
of text there, which has to occur exactly once. A mutant whose text does not is out of date, which is an error
like a mutant that no check has caught. The checks of a mutant run in order until one fails or exceeds its
time limit. Their output stays in build/mutants/log.

A check that always fails catches nothing: --baseline runs all checks on the unchanged copy.
"""

import argparse
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutants"
SOURCE = BUILD / "source"
LOG = BUILD / "log"
# Not the checkout's own folder, so that no program of broken sources is taken for another.
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", BUILD / "target")).absolute() / "mutants"
COPIED = ["Cargo.toml", "Cargo.lock", "crates", "fuzz", "tools"]

# With these a change takes seconds to build, not a minute. The protocol is tested, not the compiler.
ENVIRONMENT = {
    "CARGO_TARGET_DIR": str(TARGET),
    "CARGO_INCREMENTAL": "1",
    "CARGO_PROFILE_PROOF_LTO": "off",
    "CARGO_PROFILE_PROOF_CODEGEN_UNITS": "16",
    "RUST_BACKTRACE": "0",
    # With the same programs of the state machine each time, a mutant is caught each time, or never.
    "PROPTEST_RNG_SEED": "1",
}
BUILD_SECONDS = 3600.0
CARGO = ["--quiet", "--locked"]


@dataclass(frozen=True)
class Check:
    """A command that fails when the protocol is broken."""

    name: str
    build: tuple[str, ...]
    """The command before it, which is no check: a change that does not compile is not caught."""
    run: tuple[str, ...]
    seconds: float
    """A check that takes longer hangs. Several times its duration on a busy machine."""
    environment: dict[str, str] = field(default_factory=dict, hash=False)


def cargo_test(
    name: str, options: Iterable[str], tests: Iterable[str], seconds: float, flags: str = ""
) -> Check:
    command = ("cargo", "test", *CARGO, *options)
    return Check(
        name,
        (*command, "--no-run"),
        (*command, "--", "--nocapture", *tests),
        seconds,
        {"RUSTFLAGS": flags} if flags else {},
    )


def models(*names: str, stop_at: int = 0) -> Check:
    """Every interleaving of small runs (src/models); `stop_at` chooses one of the places to stop."""
    options = ["-p", "penstock-core", "--lib", "--profile", "models"]
    check = cargo_test(f"models {' '.join(names)}", options, names, 600, "--cfg loom")
    if not stop_at:
        return check
    environment = {**check.environment, "PENSTOCK_STOP_AT": str(stop_at)}
    return replace(check, name=f"{check.name}, stop {stop_at}", environment=environment)


def core(file: str, *tests: str) -> Check:
    """The core's tests with fault points in one file."""
    options = ["-p", "penstock-core", "--features", "fault-points", "--test", file]
    return cargo_test(
        " ".join(["tests", file, *(test.removeprefix("points::") for test in tests)]), options, tests, 200
    )


def unit(*tests: str) -> Check:
    """The core's tests inside its sources."""
    return cargo_test(f"unit {' '.join(tests)}", ["-p", "penstock-core", "--lib"], tests, 300)


def histories(*tests: str) -> Check:
    """Recorded histories of real processes."""
    return cargo_test(
        f"histories {' '.join(tests)}", ["-p", "penstock-history", "--test", "real"], tests, 300
    )


def kill(operation: str, places: int) -> Check:
    """Deaths at `places` instructions of operations whose name begins so, a quarter of them in recoveries."""
    return Check(
        f"kill {operation}",
        ("cargo", "build", *CARGO, "--profile", "proof", "-p", "penstock-proof"),
        (str(TARGET / "proof" / "kill"), "--only", operation, "--sample", str(places), "--seed", "1"),
        600,
    )


def corpus() -> Check:
    """The core on the damaged memory of the fuzzer's corpus."""
    options = [
        *CARGO,
        "--release",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--target-dir",
        str(TARGET / "fuzz"),
    ]
    return Check(
        "fuzzer's corpus",
        ("cargo", "build", *options, "--bin", "replay"),
        (str(TARGET / "fuzz" / "release" / "replay"), "fuzz/corpus"),
        300,
    )


def thread_sanitizer() -> Check:
    # The tool builds with its own options, so the limit includes the build.
    return Check("ThreadSanitizer", (), (sys.executable, "tools/sanitizers.py", "thread"), 1200)


@dataclass(frozen=True)
class Mutant:
    name: str
    change: str
    file: str
    old: str
    new: str
    checks: tuple[Check, ...]


CORE = "crates/penstock-core/src"
DEATHS = core("death", "points::death_at_each_point")
STATE_MACHINE = core("model")
# More places than instructions, so that every instruction is among them.
DEATHS_IN_PUT = kill("put-inline", 3000)

MUTANTS = [
    # ----------------------------------------------------------------------------------------------- the lock
    Mutant(
        "lock-release-relaxed",
        "the release of the lock is relaxed",
        f"{CORE}/lock/guard.rs",
        "word.swap(0, Ordering::Release) & CONTENDED",
        "word.swap(0, Ordering::Relaxed) & CONTENDED",
        (models("one_putter_one_getter"), thread_sanitizer()),
    ),
    Mutant(
        "lock-acquire-relaxed",
        "taking the lock does not acquire",
        f"{CORE}/lock/guard.rs",
        """\
            .compare_exchange(0, me, Ordering::AcqRel, Ordering::Relaxed)
            .is_err()
""",
        """\
            .compare_exchange(0, me, Ordering::Release, Ordering::Relaxed)
            .is_err()
""",
        (thread_sanitizer(), models("one_putter_one_getter")),
    ),
    Mutant(
        "lock-wake-left-out",
        "the releaser of the lock wakes no waiter",
        f"{CORE}/lock/guard.rs",
        "            platform::futex_wake(word, 1);\n",
        "",
        (models("one_putter_one_getter"),),
    ),
    Mutant(
        "dead-by-time",
        "the lock's holder counts as dead when a waiter's slice ends",
        f"{CORE}/lock/word.rs",
        "if former.is_none() || !self.is_dead_holder(former)? {",
        "if former.is_none() {",
        (models("a_putter_pauses"),),
    ),
    Mutant(
        "slice-begins-anew",
        "each sleep begins a new slice, also after a signal",
        f"{CORE}/slice.rs",
        "self.begin() + length",
        "Instant::now() + length",
        (core("stopped", "an_interrupted_joiner_finds_the_dead"),),
    ),
    # ------------------------------------------------------------------------------------------------- upkeep
    Mutant(
        "left-in-order-ignored",
        "the sweep redelivers leases that their holder left in order without the lock",
        f"{CORE}/state/recovery.rs",
        "                        if has_left(word)\n",
        "                        if false && has_left(word)\n",
        (core("stopped", "leaving_does_not_wait_and_is_honoured"),),
    ),
    Mutant(
        "kept-ignored",
        "the sweep redelivers items of a plain queue that their dead getter had read or kept",
        f"{CORE}/state/slot.rs",
        "!acknowledged && matches!(slot.mark(), KEPT | ENDED)",
        "!acknowledged && matches!(slot.mark(), KEPT | ENDED) && false",
        (core("stopped", "the_end_of_a_borrow_is_put_off"),),
    ),
    Mutant(
        "put-off-forgotten",
        "no mark says that work was put off",
        f"{CORE}/state/mod.rs",
        "if me == 0 || me & WORK_PUT_OFF != 0 {",
        "if me == 0 || me & WORK_PUT_OFF != 0 || me != 0 {",
        (core("stopped", "a_leaving_that_was_put_off_is_done_by_the_next_call"),),
    ),
    # ---------------------------------------------------------------------------------------------------- put
    Mutant(
        "publish-before-copy",
        "a putter publishes a small item before it copies the payload",
        f"{CORE}/state/claim.rs",
        """\
        unsafe { segment.copy_in(target, payload) };
        fault!("put.filled");
        let ticket = self.publish((reserved.slot, slot), len)?;
""",
        """\
        let ticket = self.publish((reserved.slot, slot), len)?;
        unsafe { segment.copy_in(target, payload) };
        fault!("put.filled");
""",
        (DEATHS, DEATHS_IN_PUT),
    ),
    Mutant(
        "publish-before-write",
        "a putter publishes a large item before it writes the payload",
        f"{CORE}/operations/put.rs",
        """\
            let written = self.write_claimed(&reserved, payload, len);
            let is_written = written.is_ok();
            let published = written.and_then(|()| self.publish_claimed(&reserved, len, waiting, wait));
""",
        """\
            let written = self.publish_claimed(&reserved, len, waiting, wait);
            let is_written = written.is_ok();
            let published =
                written.and_then(|ticket| self.write_claimed(&reserved, payload, len).map(|()| ticket));
""",
        (models("large_payloads"),),
    ),
    Mutant(
        "commit-before-number",
        "a putter commits an item before it numbers it",
        f"{CORE}/state/transition.rs",
        """\
        slot.seq.set(seq);
        self.note_time(slot);
        fault!("put.numbered");
        slot.commit(StateWord::unowned(State::Ready, 0));
""",
        """\
        slot.commit(StateWord::unowned(State::Ready, 0));
        fault!("put.numbered");
        slot.seq.set(seq);
""",
        (DEATHS_IN_PUT, models("a_putter_dies")),
    ),
    Mutant(
        "number-reused",
        "two items get the same publication number, because the counter does not move",
        f"{CORE}/state/transition.rs",
        "        hot.published.set(seq);\n",
        "",
        (STATE_MACHINE,),
    ),
    Mutant(
        "no-second-read-for-room",
        "a putter does not check for room again after it wrote a large payload",
        f"{CORE}/operations/put.rs",
        "            if self.shared.has_room() {\n                break;\n",
        "            if true {\n                break;\n",
        (histories("large_histories_are_linearizable"),),
    ),
    # ------------------------------------------------------------------------------------------------- leases
    Mutant(
        "released-counts",
        "a released item counts as redelivered",
        f"{CORE}/state/held.rs",
        "StateWord::unowned_with(State::Ready, slot.word().past())",
        "StateWord::unowned_with(State::Ready, slot.word().past().once_more())",
        (core("leases", "what_is_released_comes_back_uncounted"),),
    ),
    Mutant(
        "released-before-its-commit",
        "a released item is listed while its slot is leased still",
        f"{CORE}/state/held.rs",
        "        slot.commit(StateWord::unowned_with(State::Ready, slot.word().past()));\n"
        '        fault!("held.released");\n        self.put_back(index, slot.len.get())\n',
        "        self.put_back(index, slot.len.get())?;\n"
        '        fault!("held.released");\n'
        "        slot.commit(StateWord::unowned_with(State::Ready, slot.word().past()));\n"
        "        Ok(())\n",
        (core("leases", "points::death_at_each_step"),),
    ),
    Mutant(
        "rejected-stays-unfinished",
        "a rejected item stays unfinished",
        f"{CORE}/state/held.rs",
        "            hot.unfinished.sub(1);\n",
        "",
        (core("leases", "what_is_rejected_is_a_dead_letter_at_once"),),
    ),
    Mutant(
        "borrowed-goes-back",
        "an item goes back to the queue while its payload is borrowed",
        f"{CORE}/state/held.rs",
        "        if slot.mark() != 0 && verdict != Verdict::Done {\n",
        "        if false {\n",
        (core("leases", "what_is_borrowed_does_not_go_back"),),
    ),
    Mutant(
        "child-settles",
        "a forked child settles its parent's items",
        f"{CORE}/state/held.rs",
        "            && held.me == self.me\n            && !held.was_finished\n"
        "            && self.is_mine(&held.lease)\n",
        "            && !held.was_finished\n            && self.slot(held.lease.slot)?.word().is_lease()\n",
        (core("leases", "a_forked_child_settles_nothing"),),
    ),
    Mutant(
        "others-lease-forgotten",
        "a thread that settles another's item counts one of its own less",
        f"{CORE}/state/held.rs",
        "        let is_own = slot.is_leased_by(platform::thread_id());\n",
        "        let is_own = true;\n",
        (core("leases", "a_thread_that_settles_for_others_finds_its_own"),),
    ),
    Mutant(
        "holding-does-not-acknowledge",
        "a get by name does not end the phase in which items are set aside",
        f"{CORE}/operations/held.rs",
        "            .acknowledge_from_now_on(wait)\n"
        "            .and_then(|()| self.note_times_from_now_on(wait));\n",
        "            .note_times_from_now_on(wait);\n",
        (core("leases", "the_first_hold_returns_what_was_set_aside"),),
    ),
    Mutant(
        "released-to-a-closed-queue",
        "a released item is queued in a closed queue",
        f"{CORE}/state/held.rs",
        "        if self.hot().is_closed() {\n",
        "        if false {\n",
        (core("leases", "a_closed_queue_discards_what_comes_back"),),
    ),
    Mutant(
        "note-left",
        "the note of a finished item is left",
        f"{CORE}/state/leases.rs",
        "        self.free_note(note, index)\n",
        "        let _ = note;\n        Ok(())\n",
        (core("leases", "what_is_finished_has_no_note"),),
    ),
    Mutant(
        "note-lost-on-the-way",
        "an item that fails loses its note",
        f"{CORE}/state/slot.rs",
        "        Past(self.0.wrapping_add(1 << 4))\n",
        "        Past((self.0 & 0xff0).wrapping_add(1 << 4))\n",
        (core("leases", "the_last_failure_is_noted"),),
    ),
    Mutant(
        "unnamed-notes-stay",
        "the rebuild keeps notes that no item names",
        f"{CORE}/state/notes.rs",
        "            if !is_named {\n",
        "            if false {\n",
        (core("leases", "points::death_while_a_failure_is_noted"),),
    ),
    Mutant(
        "deaths-not-noted",
        "the sweep does not note the death",
        f"{CORE}/state/recovery.rs",
        "                        self.note_death(slot, known)?;\n",
        "",
        (core("leases", "deaths_are_noted"),),
    ),
    Mutant(
        "handed-loses-its-note",
        "an item that is finished while it is handed loses its note",
        f"{CORE}/state/leases.rs",
        "                slot.commit(word.given(State::HandedDone, word.owner()));\n",
        "                slot.commit(StateWord::new(State::HandedDone, 0, word.owner()));\n",
        (core("leases", "what_is_finished_on_its_way_has_no_note"),),
    ),
    Mutant(
        "earlier-words-stay",
        "a failure that tells nothing leaves what an earlier one has told",
        f"{CORE}/state/held.rs",
        "            None if verdict.is_failure() => self.note_silence(index)?,\n",
        "",
        (core("leases", "an_earlier_failure_is_not_the_last"),),
    ),
    Mutant(
        "earlier-words-beside-a-death",
        "a death leaves what an earlier failure has told",
        f"{CORE}/state/notes.rs",
        "        words[0].set(u64::from(count.saturating_add(1)) | BY_DEATH | returns);\n",
        "        words[0].set(u64::from(count.saturating_add(1)) | BY_DEATH | returns | TOLD);\n",
        (core("leases", "an_earlier_failure_is_not_the_last"),),
    ),
    Mutant(
        "death-noted-twice",
        "a sweep notes a death again that an earlier one has noted",
        f"{CORE}/state/notes.rs",
        "        if words[0].get() & !COUNT == BY_DEATH | returns {\n",
        "        if false {\n",
        (core("leases", "points::a_death_is_noted_once"),),
    ),
    Mutant(
        "set-aside-is-noted",
        "a death is noted of items that are set aside",
        f"{CORE}/state/recovery.rs",
        "                    Some(State::Aside) if self.hot().sets_aside() => self.return_lease(slot)?,\n",
        "",
        (core("leases", "what_is_set_aside_has_no_note"),),
    ),
    Mutant(
        "notes-count-as-free",
        "notes call for a trim, as free slots do",
        f"{CORE}/state/pages.rs",
        "    slots_in_use(hot).saturating_add(u64::from(hot.notes.get()))\n",
        "    slots_in_use(hot)\n",
        (unit("notes_are_no_free_slots"),),
    ),
    Mutant(
        "letters-lose-their-order",
        "a dead letter gets no place of its own",
        f"{CORE}/state/held.rs",
        "        self.give_as(slot, word);\n",
        "        slot.commit(word);\n",
        (core("leases", "points::a_rebuild_keeps_the_order_of_letters"),),
    ),
    Mutant(
        "any-burial-will-do",
        "a decision about a dead letter holds for a later failure of its item, too",
        f"{CORE}/state/letters.rs",
        "                && slot.lease.get() == ticket.burial\n",
        "",
        (core("leases", "a_letter_that_died_again_is_another_one"),),
    ),
    Mutant(
        "put-without-its-time",
        "a put does not note its time though items are leased",
        f"{CORE}/state/transition.rs",
        "        self.note_time(slot);\n",
        "",
        (core("leases", "how_long_an_item_has_waited"),),
    ),
    Mutant(
        "time-lost-on-the-way",
        "the mark of a borrow takes the place of an item's time",
        f"{CORE}/state/slot.rs",
        "        self.borrowed.get() & !MARK | mark\n",
        "        mark\n",
        (core("leases", "how_long_an_item_has_waited"),),
    ),
    # ------------------------------------------------------------------------------------------------- delays
    Mutant(
        "due-too-early",
        "a delayed item is ready before its time",
        f"{CORE}/state/delay.rs",
        "            if due_at == 0 || due_at > now {\n",
        "            if due_at == 0 {\n",
        (core("delays", "it_is_unfinished_and_not_queued"),),
    ),
    Mutant(
        "no-timekeeper",
        "no getter is notified that is to wake up when a delayed item is due",
        f"{CORE}/state/waiters.rs",
        "        if hot.has_delayed() {\n            self.appoint_timekeeper()?;\n        }\n",
        "",
        (models("a_getter_has_it_in_time"),),
    ),
    Mutant(
        "timekeeper-sleeps-on",
        "the timekeeper does not learn of an item that is due earlier",
        f"{CORE}/state/delay.rs",
        "            // It sleeps until a later time.\n            hot.timekeeper.set(0);\n",
        "",
        (models("an_earlier_one_is_had_in_time"),),
    ),
    Mutant(
        "timekeeper-leaves",
        "a timekeeper that has left stays one",
        f"{CORE}/state/delay.rs",
        "            cell => Ok(self.cell(cell)?.word.get() == SLEEPING),\n",
        "            cell => self.cell(cell).map(|_| true),\n",
        (unit("one_that_has_left_keeps_no_time"), models("the_time_is_kept_when_a_getter_leaves")),
    ),
    Mutant(
        "timekeeper-behind-one-that-left",
        "no getter is notified beside one that has left without the lock",
        f"{CORE}/state/delay.rs",
        "            if getters.notified.get() != 0 {\n                return Ok(());\n            }\n",
        "            return Ok(());\n",
        (unit("one_that_has_left_keeps_no_time"),),
    ),
    Mutant(
        "putters-lose-their-places",
        "a putter is notified to keep the time, and so goes to the end of its list",
        f"{CORE}/state/delay.rs",
        "        for kind in [Kind::Room, Kind::Finish] {\n",
        "        if putters.length.get() > 0 {\n"
        "            return self.choose(Kind::Room, putters.head.get());\n        }\n"
        "        for kind in [Kind::Room, Kind::Finish] {\n",
        (unit("a_putter_keeps_the_time_in_its_place"),),
    ),
    Mutant(
        "delayed-put-needs-room",
        "a put with a delay waits for room if there is no memory",
        f"{CORE}/operations/put.rs",
        "waiting.needs_no_room || self.shared.has_room()",
        "self.shared.has_room()",
        (core("delays", "it_counts_for_max_bytes"),),
    ),
    Mutant(
        "due-beyond-all-leases",
        "a time is so late that no lease can be numbered behind it",
        f"{CORE}/state/delay.rs",
        "            .saturating_add(1)\n            .min(NEVER),\n",
        "            .saturating_add(u64::MAX),\n",
        (unit("the_longest_delay_leaves_numbers"),),
    ),
    Mutant(
        "heaps-lost-in-a-rebuild",
        "the rebuild loses delayed items when it merges them",
        f"{CORE}/state/order/heap.rs",
        "                heap = self.merge_heaps(other, heap, TIME)?;\n",
        "                let _ = other;\n",
        (core("delays", "points::the_rebuild_orders_them"),),
    ),
    Mutant(
        "delayed-not-marked",
        "the phase does not say that items are delayed",
        f"{CORE}/state/delay.rs",
        "        hot.mark_delaying(true);\n",
        "",
        (core("delays", "a_call_of_any_process_shows_it"),),
    ),
    Mutant(
        "delayed-not-rebuilt",
        "the rebuild does not say when the first delayed item is due",
        f"{CORE}/state/delay.rs",
        "        hot.due_at.set(first);\n        hot.timekeeper.set(0);\n"
        "        hot.mark_delaying(count > 0);\n",
        "        hot.timekeeper.set(0);\n        hot.mark_delaying(count > 0);\n",
        (core("delays", "points::the_rebuild_orders_them"), core("delays", "points::death_in_a_put")),
    ),
    Mutant(
        "delayed-takes-its-time-after-the-commit",
        "a delayed item's time is noted after its commit",
        f"{CORE}/state/delay.rs",
        "        slot.lease.set(due.max(1));\n",
        "",
        (core("delays", "no_get_finds_it_before_its_time"),),
    ),
    Mutant(
        "drained-before-its-time",
        "a draining queue is over though items are delayed",
        f"{CORE}/state/phase.rs",
        "        if self.hot().has_delayed() && !self.hot().is_closed() {\n",
        "        if false {\n",
        (core("delays", "a_draining_queue_waits_for_it"),),
    ),
    Mutant(
        "delayed-survives-a-shutdown",
        "an immediate shutdown leaves what is delayed",
        f"{CORE}/state/phase.rs",
        "self.is_closed() && (self.ready_count.get() > 0 || self.has_delayed())",
        "self.is_closed() && self.ready_count.get() > 0",
        (core("delays", "a_closed_queue_discards_it"),),
    ),
    Mutant(
        "delayed-failure-uncounted",
        "a lease that fails with a delay does not count",
        f"{CORE}/state/transition.rs",
        "            self.delay((index, slot), due, word.past().once_more())?;\n",
        "            self.delay((index, slot), due, word.past())?;\n",
        (core("delays", "the_deliveries_of_a_delayed_lease"),),
    ),
    # ----------------------------------------------------------------------------------------------- shutdown
    Mutant(
        "put-after-a-shutdown",
        "items are put into a queue that is shut down",
        f"{CORE}/state/phase.rs",
        "            return Ok(());\n        }\n        Err(Error::ShutDown)\n",
        "            return Ok(());\n        }\n        Ok(())\n",
        (core("shutdown", "what_is_left_is_taken_and_then_each_get_says_so"),),
    ),
    Mutant(
        "phase-goes-back",
        "a shutdown opens what an immediate one has closed",
        f"{CORE}/state/phase.rs",
        "        for earlier in OPEN..phase {\n",
        "        for earlier in OPEN..=CLOSED {\n",
        (core("shutdown", "a_shutdown_is_for_good"),),
    ),
    Mutant(
        "putters-not-told",
        "a shutdown does not notify the putters that wait",
        f"{CORE}/state/waiters.rs",
        "        self.notify_from_the_end(Kind::Room)?;\n",
        "",
        (models("a_waiting_putter_learns_it"),),
    ),
    Mutant(
        "getters-not-told",
        "a shutdown does not notify the getters that wait",
        f"{CORE}/state/waiters.rs",
        "            self.notify_from_the_end(Kind::Item)?;\n",
        "",
        (models("a_waiting_getter_learns_it"),),
    ),
    Mutant(
        "due-not-tended",
        "a process that sleeps with descriptors makes nothing ready whose time has come",
        f"{CORE}/operations/watch.rs",
        "self.shared.is_notifier_unsettled() || self.shared.segment.hot().is_any_due()",
        "self.shared.is_notifier_unsettled()",
        (core("watching", "tending_a_queue_makes_ready_what_is_due"),),
    ),
    Mutant(
        "earlier-due-not-told",
        "a section that delays an item before all others does not tell the watchers",
        f"{CORE}/state/delay.rs",
        "                self.tell_of_earlier_due();\n",
        "",
        (unit("a_watcher_is_told_of_an_item_that_is_due_earlier"),),
    ),
    Mutant(
        "told-and-drained",
        "a section drains the byte that tells of an earlier item",
        f"{CORE}/state/pipe_word.rs",
        "self.is_readable() || has_to_tell(hot) => SIGNALLED",
        "self.is_readable() => SIGNALLED",
        (unit("a_watcher_is_told_of_an_item_that_is_due_earlier"),),
    ),
    Mutant(
        "told-for-ever",
        "an operation in vain does not end that watchers are told of an earlier item",
        f"{CORE}/state/notifier.rs",
        "    pub(crate) fn drain_if_empty(&mut self) {\n        self.end_telling();\n",
        "    pub(crate) fn drain_if_empty(&mut self) {\n",
        (unit("a_watcher_is_told_of_an_item_that_is_due_earlier"),),
    ),
    Mutant(
        "finish-not-counted",
        "a joiner with a descriptor does not learn that all was done, if others were put since",
        f"{CORE}/state/pipe_word.rs",
        "            hot.finishes.add(1);\n",
        "",
        (unit("a_joiner_learns_that_all_was_done"),),
    ),
    Mutant(
        "pipe-not-corrected",
        "a byte too many of a stopped writer stays in the notifier of the end",
        f"{CORE}/state/notifier.rs",
        "Kind::Finish => self.hot().unfinished.get() > 0 && platform::is_pipe_readable(end.reading),",
        "Kind::Finish => false,",
        (unit("an_operation_in_vain_corrects_the_pipe"),),
    ),
    Mutant(
        "batch-of-a-closed-queue",
        "a get of many takes more than it was handed from a queue that was closed",
        f"{CORE}/operations/get.rs",
        "            head = if is_closed { 0 } else { section.oldest()? };\n",
        "            head = section.oldest()?;\n",
        (unit("a_batch_ends_at_an_immediate_shutdown"),),
    ),
    Mutant(
        "leases-of-a-closed-queue",
        "a lease of many takes more than it was handed from a queue that was closed",
        f"{CORE}/operations/held.rs",
        "            head = if is_closed { 0 } else { section.oldest()? };\n",
        "            head = section.oldest()?;\n",
        (unit("a_batch_ends_at_an_immediate_shutdown"),),
    ),
    Mutant(
        "all-discarded-with-a-lock",
        "a join whose caller holds a lock discards all that is left",
        f"{CORE}/operations/join.rs",
        "            Patience::TryLock => Err(Error::Busy),\n",
        "            Patience::TryLock => self.discard_leftovers(&mut || self.enter(wait)),\n",
        (unit("a_join_that_may_not_wait_does_not_discard_all"),),
    ),
    Mutant(
        "all-discarded-briefly",
        "a check for the dead, and a join of an event loop, discard all that is left",
        f"{CORE}/handle/upkeep.rs",
        "            Ok(if Instant::now() < end { last } else { Portion::Last })\n",
        "            Ok(last)\n",
        (unit("a_join_that_may_not_wait_does_not_discard_all"),),
    ),
    Mutant(
        "number-asked-under-the-lock",
        "a producer waits for a fork of its process with the lock held",
        f"{CORE}/operations/produce.rs",
        """\
        let begun_as = begun::number_of(queue);
        let begun = self.enter(&mut wait).and_then(|section| {
""",
        """\
        let begun = self.enter(&mut wait).and_then(|section| {
            let begun_as = begun::number_of(queue);
""",
        (unit("no_thread_waits_for_a_fork_under_the_lock"),),
    ),
    Mutant(
        "pipe-kept-under-the-lock",
        "a watcher waits for a fork of its process with the lock held",
        f"{CORE}/operations/watch.rs",
        "let Some(no_fork) = fork::try_hold_off() else {",
        "let Some(no_fork) = Some(fork::hold_off()) else {",
        (unit("no_thread_waits_for_a_fork_under_the_lock"),),
    ),
    Mutant(
        "letters-read-anew",
        "the reading of dead letters begins anew if the last one that was read has gone",
        f"{CORE}/state/letters.rs",
        "            letters.tickets.pop();\n",
        "            letters.tickets.clear();\n",
        (unit("the_reading_of_letters_comes_to_its_end"),),
    ),
    Mutant(
        "letters-read-twice",
        "dead letters that are requeued, and become dead letters again, are read again",
        f"{CORE}/state/letters.rs",
        "            if burial > end {\n",
        "            if false {\n",
        (unit("the_reading_of_letters_comes_to_its_end"),),
    ),
    Mutant(
        "watchers-not-told",
        "the notifier does not show that a queue is shut down",
        f"{CORE}/state/pipe_word.rs",
        "hot.ready_count.get() > 0 || hot.is_at_its_end()",
        "hot.ready_count.get() > 0",
        (core("shutdown", "a_watcher_learns_it"),),
    ),
    Mutant(
        "end-told-unmapped",
        "a section reads leases that its process has not mapped, to tell whether the queue has ended",
        f"{CORE}/state/phase.rs",
        "        if !self.shared.segment.is_all_mapped() {\n",
        "        if false {\n",
        (core("ranges", "a_process_that_maps_says_of_no_end_before"),),
    ),
    Mutant(
        "returns-not-awaited",
        "a getter of a queue that is shut down does not wait for what may come back",
        f"{CORE}/state/phase.rs",
        "            || !self.may_return_to(Some(self.my_index()))?;\n",
        "            || !self.may_return_to(Some(self.my_index()))?\n            || true;\n",
        (core("shutdown", "an_item_that_comes_back_is_waited_for"),),
    ),
    Mutant(
        "own-item-awaited",
        "a getter of a queue that is shut down waits for an item of its own process",
        f"{CORE}/state/phase.rs",
        "            || self.has_own_in_hand(own)?\n",
        "",
        (core("shutdown", "a_get_beside_an_own_item_waits_for_no_other"),),
    ),
    Mutant(
        "siblings-not-awaited",
        "a loop or a lease ends while another thread of its process has an item in hand",
        f"{CORE}/state/phase.rs",
        "        if own == Own::OfProcess {\n",
        "        if true {\n",
        (core("shutdown", "leases_and_loops_wait_for_the_items_of_other_threads"),),
    ),
    Mutant(
        "own-thread-awaited",
        "a loop or a lease waits for an item of its own thread",
        f"{CORE}/state/phase.rs",
        "holder == acting || holder == thread ||",
        "",
        (core("shutdown", "no_lease_or_loop_waits_for_its_own_thread"),),
    ),
    Mutant(
        "ended-thread-awaited",
        "a loop or a lease waits for an item of a thread that has ended",
        f"{CORE}/state/phase.rs",
        " || holding::has_ended(holder)",
        "",
        (core("shutdown", "no_lease_or_loop_waits_for_a_thread_that_has_ended"),),
    ),
    Mutant(
        "threads-of-the-parent-counted",
        "a forked child keeps the places of its parent's threads",
        f"{CORE}/state/holding.rs",
        "    LIVING.keep_alone(platform::own_thread_id());\n",
        "",
        (core("shutdown", "a_child_does_not_count_the_threads_of_its_parent"),),
    ),
    Mutant(
        "place-without-a-number",
        "a thread keeps its number though another thread has the place of that number",
        f"{CORE}/state/holding.rs",
        "                platform::renumber(number);\n",
        "",
        (unit("a_thread_without_its_place_is_renumbered"),),
    ),
    Mutant(
        "life-not-begun",
        "a thread that takes an item is not among the living",
        f"{CORE}/operations/get.rs",
        "            holding::begin();\n",
        "",
        (core("shutdown", "leases_and_loops_wait_for_the_items_of_other_threads"),),
    ),
    Mutant(
        "notes-begun-in-a-section",
        "a section begins the notes of its thread, which takes memory",
        f"{CORE}/state/holding.rs",
        "    if !HAS_BEGUN.get() {\n        return None;\n    }\n",
        "    begin();\n",
        (unit("a_section_begins_no_notes"),),
    ),
    Mutant(
        "many-siblings-awaited",
        "a lease waits although its own item may stand behind those of very many siblings",
        f"{CORE}/state/phase.rs",
        "        Ok(found || left == 0)\n",
        "        Ok(found)\n",
        (core("shutdown", "a_lease_beside_very_many_of_its_siblings"),),
    ),
    Mutant(
        "thread-awaited-by-its-task",
        "a task waits for an item that its thread has taken before",
        f"{CORE}/state/phase.rs",
        " || holder == thread ||",
        " ||",
        (core("shutdown", "a_task_does_not_wait_for_its_thread"),),
    ),
    Mutant(
        "tasks-awaited-by-a-thread",
        "a task that blocks its thread waits for the items of the thread's other tasks",
        f"{CORE}/operations/get.rs",
        "            true => Own::OfProcess,\n",
        "            true => own,\n",
        (core("shutdown", "a_task_that_blocks_its_thread_does_not_wait_for_its_siblings"),),
    ),
    Mutant(
        "readable-while-delayed",
        "the descriptor of a draining queue is readable although what is left is delayed",
        f"{CORE}/state/phase.rs",
        "        !(self.is_open() || self.is_draining() && self.has_delayed())\n",
        "        !self.is_open()\n",
        (core("shutdown", "a_watcher_waits_for_what_is_delayed"),),
    ),
    Mutant(
        "hand-overlooked",
        "a getter overlooks an item in hand behind many leases that are set aside",
        f"{CORE}/state/phase.rs",
        "[(1, u32::MAX), (PORTION, LEASES_READ)]",
        "[(PORTION, LEASES_READ)]",
        (core("shutdown", "an_item_in_hand_is_found_behind_many_that_are_set_aside"),),
    ),
    Mutant(
        "ended-notified-from-the-front",
        "a shutdown notifies the putters first that sleep longest",
        f"{CORE}/state/waiters.rs",
        "            match self.watcher(kind)? {\n",
        "            match self.hot().waiters[kind as usize].head.get() {\n",
        (unit("a_shutdown_notifies_the_watcher_first"),),
    ),
    Mutant(
        "ended-not-woken-again",
        "a waiter whose waker has died in a shutdown sleeps on until its slice ends",
        f"{CORE}/state/waiters.rs",
        "        if !self.hot().is_open() && *left > 0 {\n",
        "        if false {\n",
        (unit("a_notified_waiter_is_woken_again_after_a_death"),),
    ),
    Mutant(
        "attempt-discards",
        "an attempt discards all that is left, with the lock of the interpreter held",
        f"{CORE}/operations/shutdown.rs",
        "            Patience::TryLock if self.shared",
        "            Patience::NoWait if self.shared",
        (core("shutdown", "an_attempt_leaves_the_discarding_to_the_next_call"),),
    ),
    Mutant(
        "discarded-memory-not-noted",
        "the memory of what a shutdown has discarded is not given back",
        f"{CORE}/handle/enter.rs",
        "            self.note_spare(&section);\n",
        "",
        (core("shutdown", "the_memory_of_what_is_discarded_is_given_back"),),
    ),
    Mutant(
        "not-announced-after-a-shutdown",
        "a section of a queue that was shut down does not announce the notifier that its process has opened",
        f"{CORE}/lock/after_release.rs",
        "            if self.is_whole_for(me) {\n",
        "            if self.is_welcome(me.0) {\n",
        (core("shutdown", "a_process_that_shuts_down_announces_the_notifier"),),
    ),
    Mutant(
        "aside-awaited",
        "a getter waits for what was set aside on a queue that is never acknowledged",
        f"{CORE}/state/phase.rs",
        "                Some(State::Aside) => !hot.sets_aside(),\n",
        "                Some(State::Aside) => true,\n",
        (core("shutdown", "a_queue_that_is_never_acknowledged_ends"),),
    ),
    Mutant(
        "returned-to-a-closed-queue",
        "what comes back to a closed queue is queued again",
        f"{CORE}/state/transition.rs",
        "        if hot.is_closed() {\n",
        "        if false {\n",
        (core("shutdown", "what_comes_back_to_a_closed_queue_is_discarded"),),
    ),
    Mutant(
        "discarded-stays-unfinished",
        "an item that is discarded stays unfinished",
        f"{CORE}/state/discard.rs",
        "            hot.unfinished.sub(1);\n",
        "",
        (core("shutdown", "an_immediate_shutdown_discards_what_is_queued"),),
    ),
    Mutant(
        "discarded-counted-as-left",
        "the rebuild counts what was being discarded among the items that were left",
        f"{CORE}/state/aside.rs",
        "            Some(State::Discarded) => &self.hot().discarded,\n",
        "            Some(State::Discarded) => &self.hot().orphans,\n",
        (core("shutdown", "points::death_at_each_step"),),
    ),
    Mutant(
        "leftovers-are-counted",
        "a closed queue tells a number until all is discarded",
        f"{CORE}/handle/queue.rs",
        "        if self.shared.segment.hot().is_closed() {\n            0\n",
        "        if self.shared.segment.hot().is_closed() {\n            ready\n",
        (core("shutdown", "points::death_at_each_step"),),
    ),
    Mutant(
        "leftovers-are-finished",
        "`task_done` finishes what is still to be discarded",
        f"{CORE}/state/leases.rs",
        "        if hot.is_closed() {\n            // What",
        "        if false {\n            // What",
        (core("shutdown", "points::what_is_left_over_is_not_finished"),),
    ),
    Mutant(
        "left-by-name",
        "a process that leaves in order gives up what its threads will settle by name",
        f"{CORE}/state/leases.rs",
        "                    Leave::Clean if slot.is_by_name() && !leaving.is_for_good => {}\n",
        "",
        (core("leases", "a_lease_outlasts_a_leave_in_order"),),
    ),
    Mutant(
        "held-for-good",
        "a process that has dropped its last handle keeps what it has by name",
        f"{CORE}/state/leases.rs",
        "                    Leave::Clean if slot.is_by_name() && !leaving.is_for_good => {}\n",
        "                    Leave::Clean if slot.is_by_name() => {}\n",
        (core("leases", "what_is_held_returns_with_the_last_handle"),),
    ),
    Mutant(
        "gone-is-dead",
        "the sweep notes the death of a process that has only dropped its last handle",
        f"{CORE}/state/recovery.rs",
        "                    Some(State::Leased | State::Aside) if has_gone(word) => {\n",
        "                    Some(State::Leased | State::Aside) if false && has_gone(word) => {\n",
        (core("stopped", "what_is_held_by_one_that_lets_go_tells_of_no_death"),),
    ),
    Mutant(
        "name-lost-while-counting",
        "a slot forgets how it is settled before its item leaves it",
        f"{CORE}/state/aside.rs",
        "        slot.next.set(count as u32);\n",
        "        slot.next.set(count as u32);\n        slot.holder.set(count as u32);\n",
        (
            core("stopped", "a_lease_by_name_is_discarded_though_its_sweeper_dies"),
            kill("leave-put-off-of-a-closed-queue", 3000),
        ),
    ),
    Mutant(
        "left-all-at-once",
        "one section reads all that a process has, for a leave that was put off",
        f"{CORE}/handle/put_off.rs",
        "        for _ in 0..PORTIONS {\n",
        "        loop {\n",
        (core("stopped", "a_leave_that_was_put_off_is_done_part_by_part"),),
    ),
    Mutant(
        "leave-begun-anew",
        "each section begins anew with a leave that was put off",
        f"{CORE}/handle/put_off.rs",
        "        if noted & BEGUN != 0 {\n",
        "        if false {\n",
        (core("stopped", "a_leave_that_was_put_off_is_done_part_by_part"),),
    ),
    Mutant(
        "left-what-was-taken-later",
        "a leave that was put off gives up what was taken since",
        f"{CORE}/state/leases.rs",
        "            if index == 0 || self.slot(index)?.lease.get() > until {\n",
        "            let _ = until;\n            if index == 0 {\n",
        (core("stopped", "a_leave_that_was_put_off_is_done_part_by_part"),),
    ),
    Mutant(
        "left-before-the-mark",
        "a leave is noted before its mark, so that another thread ends it and leaves the mark",
        f"{CORE}/handle/membership.rs",
        """\
                if how == Leave::Clean {
                    if let Ok(Some(record)) = self.shared.participant_of(me) {
                        record.mark(me, LEFT);
                        fault!("leave.marked");
                    }
                }
                self.put_off_leave(how);
""",
        """\
                self.put_off_leave(how);
                fault!("leave.marked");
                if how == Leave::Clean {
                    if let Ok(Some(record)) = self.shared.participant_of(me) {
                        record.mark(me, LEFT);
                    }
                }
""",
        (core("stopped", "no_mark_of_a_leave_stays"),),
    ),
    Mutant(
        "claim-of-another",
        "a process that was wrongly taken for dead frees a slot that another call has claimed since",
        f"{CORE}/state/transition.rs",
        "slot.lease.get() == claim.number && slot.word().owner() == self.me",
        "slot.word().owner() == self.me",
        (unit("a_claim_that_was_swept_is_left_alone"),),
    ),
    Mutant(
        "mark-of-another",
        "a process that was wrongly taken for dead marks a slot that another call has claimed since",
        f"{CORE}/handle/put_off.rs",
        "slot.word().owner() == me && slot.lease.get() == held.number",
        "slot.word().owner() == me",
        (unit("a_claim_that_was_swept_is_left_alone"),),
    ),
    Mutant(
        "unnamed-awaited",
        "a loop or a lease waits for what its process has taken by a get",
        f"{CORE}/state/phase.rs",
        "|slot: &Slot| !is_own || slot.is_by_name();",
        "|slot: &Slot| !is_own || slot.is_by_name() || true;",
        (core("shutdown", "no_lease_or_loop_waits_for_what_its_process_took_without_a_name"),),
    ),
    Mutant(
        "no-item-due",
        "a waiter keeps a time at which no item is due",
        f"{CORE}/state/delay.rs",
        "        if !hot.has_delayed() || !hot.marks_delaying() || hot.delayed.head.get() == 0 {\n",
        "        if false {\n",
        (unit("a_time_without_an_item_is_damage"),),
    ),
    Mutant(
        "left-by-name-orphaned",
        "the sweep of a process that has left in order forgets what was to be settled by name",
        f"{CORE}/state/recovery.rs",
        "                            && !self.slot(slot)?.is_by_name() =>\n",
        "                        =>\n",
        (core("stopped", "a_lease_outlasts_a_leave_that_is_put_off"),),
    ),
    Mutant(
        "loop-left-by-name",
        "what a loop that was left has in hand comes back at an orderly end",
        f"{CORE}/state/leases.rs",
        "            slot.holder.set(slot.holder.get() & !BY_NAME);\n",
        "",
        (core("iterate", "what_an_orderly_end_leaves_of_loops"),),
    ),
    Mutant(
        "lease-of-another-queue",
        "a lease settles the item of another queue that has the same numbers",
        f"{CORE}/state/held.rs",
        "        Ok(held.queue == self.shared.segment.id\n            && held.me == self.me\n",
        "        Ok(held.me == self.me\n",
        (core("leases", "a_lease_is_of_its_queue"),),
    ),
    # ------------------------------------------------------------------------------- loops and producers
    Mutant(
        "loop-finishes-nothing",
        "a loop that asks for its next item does not finish the one before",
        f"{CORE}/operations/iterate.rs",
        "            self.enter(wait)?.finish_in_loop(lease)?;\n",
        "            drop(self.enter(wait)?);\n",
        (core("iterate", "it_finishes_the_item_before"),),
    ),
    Mutant(
        "loop-finishes-another",
        "a loop whose item is finished already finishes another one",
        f"{CORE}/state/leases.rs",
        "        if !self.is_mine_to_finish(&lease) {\n            return Ok(());\n        }\n",
        "        if !self.is_mine_to_finish(&lease) {\n            return self.finish_any();\n        }\n",
        (core("iterate", "an_item_finished_by_another_process"),),
    ),
    Mutant(
        "loop-item-first",
        "`task_done` finishes the item of a loop before what the loop's body has taken",
        f"{CORE}/state/leases.rs",
        "slot.is_leased_by(thread) && !self.is_in_loop(index, slot) {\n",
        "slot.is_leased_by(thread) {\n",
        (core("iterate", "the_body_finishes_what_it_has_taken"),),
    ),
    Mutant(
        "loop-item-first-far-away",
        "the same, if its leases lie behind those of other threads",
        f"{CORE}/state/leases.rs",
        "            } else if holding::is_in_loop(self.shared.segment.id, || lease) {\n",
        "            } else if false {\n",
        (core("iterate", "the_body_finishes_its_own_among_those_of_other_threads"),),
    ),
    Mutant(
        "loop-left-not-forgotten",
        "the item of a loop that was left is still finished last",
        f"{CORE}/operations/iterate.rs",
        "        holding::forget_in_loop(self.queue, self.lease);\n",
        "        let _ = self;\n",
        (core("iterate", "a_loop_that_is_left"),),
    ),
    Mutant(
        "producers-not-counted",
        "the end of one producer ends the queue, though another one is left",
        f"{CORE}/state/producers.rs",
        "        Ok(self.producers()? == 0)\n",
        "        Ok(self.producers()? < 2)\n",
        (core("producers", "a_fork_in_a_block"),),
    ),
    Mutant(
        "expected-producers-ignored",
        "the queue ends before as many producers have begun as are expected",
        f"{CORE}/state/producers.rs",
        "begun == 0 || begun < hot.producers_expected.get()",
        "begun == 0",
        (core("producers", "it_waits_for_those_that_are_expected"),),
    ),
    Mutant(
        "begun-not-rebuilt",
        "a producer that died as it began is not counted",
        f"{CORE}/state/producers.rs",
        "            begun.set(begun.get().max(number));\n",
        "            let _ = (begun, number);\n",
        (core("producers", "points::death_at_each_step"),),
    ),
    Mutant(
        "producer-begins-twice",
        "a process that begins again is counted as another producer",
        f"{CORE}/state/producers.rs",
        "known.unwrap_or(next)",
        "known.map_or(next, |_| next)",
        (core("producers", "a_process_that_begins_again_is_the_same_producer"),),
    ),
    Mutant(
        "producer-begins-anew",
        "a process that opens the queue anew is counted as another producer",
        f"{CORE}/operations/produce.rs",
        "begun::number_of(queue)",
        "0",
        (core("producers", "a_process_that_opens_the_queue_anew_is_the_same_producer"),),
    ),
    Mutant(
        "late-end-of-a-block",
        "a block that ended with all others ends a newer one",
        f"{CORE}/state/producers.rs",
        "match self.generation() == generation && self.blocks() > 0 {",
        "match self.blocks() > 0 || self.generation() == generation {",
        (core("producers", "the_late_end_of_a_block"),),
    ),
    Mutant(
        "last-producer-not-last",
        "the end of the last producer does not end the queue",
        f"{CORE}/operations/produce.rs",
        "                .and_then(|section| section.end_if_unproduced());\n            return match",
        "                .map(drop);\n            return match",
        (core("producers", "the_last_one_shuts_the_queue_down"),),
    ),
    Mutant(
        "ends-not-seen",
        "a producer that ends decides without the lock whether another one is left",
        f"{CORE}/operations/produce.rs",
        "            record.end_block(production.generation);\n            let ended = self\n",
        "            record.end_block(production.generation);\n"
        "            if !self.shared.is_production_over()? {\n                return Ok(());\n            }\n"
        "            let ended = self\n",
        (models("the_last_producer_ends_it"),),
    ),
    Mutant(
        "child-ends-its-parents-block",
        "a forked child ends the block of its parent",
        f"{CORE}/operations/produce.rs",
        "self.member_now() == Some(production.me);\n",
        "self.member_now().is_some();\n",
        (core("producers", "a_fork_in_a_block"),),
    ),
    Mutant(
        "dead-producer-holds-nothing",
        "the watcher does not check whether producers live that hold no item",
        f"{CORE}/state/participant.rs",
        " && record.producing().blocks() == 0\n",
        "\n",
        (models("a_producer_dies"),),
    ),
    Mutant(
        "closed-block-goes-on",
        "a process that has closed the queue, with an item in hand, is still a producer",
        f"{CORE}/handle/remainder.rs",
        "        if self.stop_producing() {\n",
        "        if false {\n",
        (core("producers", "a_handle_that_is_closed_in_a_block"),),
    ),
    Mutant(
        "left-block-goes-on",
        "a process that has left is still a producer",
        f"{CORE}/handle/membership.rs",
        "        self.stop_producing();\n        let mut leaving = Leaving::new(how);\n",
        "        let mut leaving = Leaving::new(how);\n",
        (core("producers", "a_process_that_leaves_in_a_block"),),
    ),
    Mutant(
        "poller-not-told",
        "a get that does not wait never checks whether the producers live",
        f"{CORE}/operations/get.rs",
        "        if was_empty && self.shared.segment.hot().producers_begun.get() > 0 {\n",
        "        if false {\n",
        (core("producers", "a_consumer_that_does_not_wait_learns_of_a_death"),),
    ),
    Mutant(
        "asker-not-told",
        "`len` never checks whether the producers live",
        f"{CORE}/handle/upkeep.rs",
        "        (hot.owned_count.get() > 0 || hot.producers_begun.get() > 0) && self.is_reaping_due()\n",
        "        hot.owned_count.get() > 0 && self.is_reaping_due()\n",
        (core("producers", "a_consumer_that_does_not_wait_learns_of_a_death"),),
    ),
    # ------------------------------------------------------------------------------------------------- waking
    Mutant(
        "wake-left-out",
        "the wake-ups of a section are skipped",
        f"{CORE}/state/mod.rs",
        "            self.wake(self.wakes[i]);\n",
        "            let _ = i;\n",
        (models("one_putter_one_getter"),),
    ),
    Mutant(
        "wake-before-mark",
        "a waiter is woken before its cell is marked",
        f"{CORE}/state/waiters.rs",
        """\
        // Relaxed: the woken waiter learns what happened from the lock, which it takes next.
        match cell
            .word
            .compare_exchange(SLEEPING, WOKEN, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => {
                list.notified.add(1);
                self.wake_later(index);
""",
        """\
        platform::futex_wake(&cell.word, 1);
        match cell
            .word
            .compare_exchange(SLEEPING, WOKEN, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => {
                list.notified.add(1);
""",
        (models("one_putter_one_getter"),),
    ),
    Mutant(
        "no-settling",
        "no waiter is notified at the end of a section",
        f"{CORE}/lock/guard.rs",
        "        self.settle();\n",
        "",
        (models("one_putter_one_getter"),),
    ),
    Mutant(
        "joiners-not-woken",
        "joiners are not notified when all items are finished",
        f"{CORE}/state/waiters.rs",
        "            while joiners.length.get() > 0 {\n",
        "            while joiners.length.get() > 0 && false {\n",
        (models("a_joiner"),),
    ),
    Mutant(
        "withdrawn-stays-chosen",
        "a notified waiter that gives up counts as notified",
        f"{CORE}/state/waiters.rs",
        """\
                self.leave_list(waiting.kind, index)?;
            }
            WOKEN => list.notified.sub(1),
""",
        """\
                self.leave_list(waiting.kind, index)?;
            }
            WOKEN => {}
""",
        (models("an_interrupted_getter"),),
    ),
    Mutant(
        "dead-spinner-kept",
        "a dead participant still counts as spinning",
        f"{CORE}/state/waiters.rs",
        "                let _ = word.compare_exchange(owner.0, 0, Ordering::Relaxed, Ordering::Relaxed);\n",
        "                let _ = word;\n",
        # The whole model takes a quarter of an hour on a busy machine.
        (models("a_spinner_dies", stop_at=2),),
    ),
    # ------------------------------------------------------------------------------------------- aged waiters
    Mutant(
        "aged-not-served",
        "aged waiters are notified like all others, and nothing is handed to them",
        f"{CORE}/state/waiters.rs",
        "        self.hand_over()?;\n",
        "",
        (core("fairness", "a_getter_that_has_waited_gets_the_next_item"),),
    ),
    Mutant(
        "aged-in-any-order",
        "a getter that has aged goes to the front of those that have aged before it",
        f"{CORE}/state/waiters.rs",
        "        while before != 0 && self.cell(before)?.since.get() > since {\n",
        "        while before != 0 && self.cell(before)?.since.get() <= since {\n",
        (core("fairness", "getters_that_have_waited_are_served_in_the_order_of_their_age"),),
    ),
    Mutant(
        "place-not-published",
        "an aged putter's item is not published for it",
        f"{CORE}/state/hand.rs",
        "        if !is_there {\n            return Ok(false);\n",
        "        if !is_there || true {\n            return Ok(false);\n",
        (core("fairness", "a_putter_that_has_waited_gets_the_next_place"),),
    ),
    Mutant(
        "only-the-first-aged-putter",
        "an aged putter that has not written its item keeps those behind it from their places",
        f"{CORE}/state/hand.rs",
        "            index = next;\n",
        "            index = next * 0;\n            break;\n",
        (core("fairness", "a_putter_behind_one_without_memory_is_served"),),
    ),
    Mutant(
        "hands-what-is-not-mapped",
        "an aged getter is handed an item though its process has not mapped what the queue has grown by",
        f"{CORE}/state/hand.rs",
        "if !Ranges(cell.ranges.get()).cover(Ranges(hot.ranges.get())) {",
        "if !Ranges(cell.ranges.get()).cover(Ranges(0)) {",
        (core("ranges", "without_address_space_nothing_is_taken"),),
    ),
    Mutant(
        "unmapped-serves-the-aged",
        "a section of a process that has not mapped what the queue has grown by hands items over",
        f"{CORE}/state/hand.rs",
        "        if !self.shared.segment.is_all_mapped() {\n            return Ok(());\n        }\n",
        "",
        (core("ranges", "a_process_that_maps_serves_none_before"),),
    ),
    Mutant(
        "one-item-wakes-all-that-map",
        "an item notifies every aged getter that has not mapped what the queue has grown by",
        f"{CORE}/state/hand.rs",
        "            let lacks_getters = self.lacks_getters(most_on_their_way());\n",
        "            let lacks_getters = most_on_their_way() > 0;\n",
        (core("ranges", "an_item_wakes_one_getter_that_maps"),),
    ),
    Mutant(
        "unmapped-leaves-without-the-lock",
        "a notified waiter that cannot map what the queue has grown by does not pass its wake-up on",
        f"{CORE}/operations/wait.rs",
        "match self.withdraw_unmapped(waiting) {",
        "match Ok::<bool, Error>(false) {",
        (core("ranges", "without_address_space_a_wake_up_is_passed_on"),),
    ),
    Mutant(
        "unmapped-putter-learns-nothing",
        "a putter that cannot map what the queue has grown by does not learn that its item was published",
        f"{CORE}/operations/wait.rs",
        "                        Err(Error::NoAddressSpace { .. }) => {}\n",
        "",
        (core("ranges", "without_address_space_a_putter_learns_what_was_put"),),
    ),
    Mutant(
        "getter-out-of-time-leaves-its-item",
        "a getter out of time does not wait for the lock, though it was handed an item",
        f"{CORE}/operations/wait.rs",
        "self.leave_cell(waiting, &UNHANDED)?",
        "self.leave_cell(waiting, &WAITING)?",
        (unit("what_was_handed_is_the_result"), models("out_of_time")),
    ),
    Mutant(
        "gone-getter-is-waited-for",
        "the item of a getter that has left returns only when that getter is late",
        f"{CORE}/state/hand.rs",
        "        if word == HANDED_LEFT && cell.kind.get() == Kind::Item as u32 {\n",
        "        if false {\n",
        (core("ranges", "without_address_space_a_handed_item_returns"),),
    ),
    Mutant(
        "gone-getter-is-not-told",
        "a getter that leaves with an item in its hands does not let others check at once",
        f"{CORE}/operations/wait.rs",
        "                    self.shared.segment.hot().reaped_at.set(0);\n",
        "",
        (core("ranges", "without_address_space_a_handed_item_returns"),),
    ),
    Mutant(
        "unmapped-putter-ends",
        "an aged putter ends without address space for its item, though there is no room yet",
        f"{CORE}/operations/put.rs",
        "Err(Error::OutOfMemory { .. } | Error::NoMemory { .. } | Error::NoAddressSpace { .. }) => Ok(true),",
        "Err(Error::OutOfMemory { .. } | Error::NoMemory { .. }) => Ok(true),",
        (core("ranges", "without_address_space_a_putter_waits_for_room"),),
    ),
    Mutant(
        "unmapped-has-checked",
        "a check for the dead counts as done though its process could not enter",
        f"{CORE}/handle/upkeep.rs",
        "                hot.reaped_at.set(0);\n",
        "",
        (core("ranges", "without_address_space_the_dead_are_left_to_others"),),
    ),
    Mutant(
        "claim-keeps-a-mark",
        "a claimed slot keeps the mark of a borrow that its last item has left",
        f"{CORE}/state/transition.rs",
        "        slot.borrowed.set(0);\n",
        "",
        (core("behaviour", "memory_goes_back_beside_what_is_in_use"),),
    ),
    Mutant(
        "handed-is-delivered",
        "the return of a dead getter's item counts as a redelivery",
        f"{CORE}/state/recovery.rs",
        "Some(State::Handed | State::HandedDone) => self.return_handed(slot)?,",
        """\
Some(State::Handed | State::HandedDone) => {
                        self.let_go(slot, id)?;
                        self.return_to_queue(slot)?;
                    }""",
        (core("fairness", "the_item_of_a_dead_getter_returns_and_was_not_delivered"),),
    ),
    Mutant(
        "handed-is-lost",
        "an interrupted getter keeps what it was handed",
        f"{CORE}/state/waiters.rs",
        """\
                self.return_handed_by(index)?;
                self.end_handed(waiting.kind, index)?;
                waiting.note_ticket""",
        """\
                self.end_handed(waiting.kind, index)?;
                waiting.note_ticket""",
        (models("an_interrupted_aged_getter"),),
    ),
    Mutant(
        "published-is-no-success",
        "a putter that gives up does not learn that its item was published",
        f"{CORE}/state/waiters.rs",
        "                waiting.note_ticket(Self::ticket_of(cell));\n",
        "",
        (models("an_interrupted_aged_putter"),),
    ),
    Mutant(
        "late-keeps-its-item",
        "what a stopped getter was handed is not taken back",
        f"{CORE}/state/hand.rs",
        "        self.return_handed_by(index)?;\n        self.end_handed(Kind::Item, index)?;\n",
        "        self.end_handed(Kind::Item, index)?;\n",
        (core("fairness", "the_item_of_a_stopped_getter_goes_to_the_next"),),
    ),
    Mutant(
        "late-woken-at-once",
        "all late waiters are woken in one section, most of them under the lock",
        f"{CORE}/state/hand.rs",
        "            if left == 0 {\n",
        "            if left == 0 && check.from == 0 {\n",
        (unit("late_waiters_are_woken_after_the_release"),),
    ),
    Mutant(
        "finishes-past-the-handed",
        "task_done finishes a queued item though a getter was handed an older one",
        f"{CORE}/state/leases.rs",
        "if self.finish_handed(Whose::Mine)? {",
        "if hot.unfinished.get() == 0 {",
        (unit("what_was_handed_is_finished_before_what_is_queued"),),
    ),
    Mutant(
        "aged-watcher-tells-none",
        "a watcher that ages does not wake the new watcher",
        f"{CORE}/state/waiters.rs",
        "                self.pass_watch(waiting.kind, waiting.cell)?;\n",
        "",
        (unit("the_watcher_that_ages_wakes_the_new_watcher"),),
    ),
    Mutant(
        "handed-watcher-tells-none",
        "a watcher that is handed a place does not wake the new watcher",
        f"{CORE}/state/hand.rs",
        "        self.leave_list(kind, index)?;\n",
        "        self.delist(kind, index)?;\n",
        (unit("the_watcher_that_is_handed_a_place_wakes_the_new_watcher"),),
    ),
    Mutant(
        "lent-slot-not-checked",
        "the end of a borrow reads a slot without memory",
        f"{CORE}/state/deliver.rs",
        "        let Some(slot) = self.used_slot(lease.slot) else {\n",
        "        let Some(slot) = self.slot(lease.slot).ok() else {\n",
        (unit("a_lent_slot_without_memory_is_damage"),),
    ),
    Mutant(
        "rebuild-forgets-a-ticket",
        "the rebuild does not note the number of an item that a dead process has published",
        f"{CORE}/state/hand.rs",
        "        cell.seq.store(slot.seq.get(), Ordering::Release);\n        Ok(true)\n",
        "        Ok(true)\n",
        (core("fairness", "deaths::of_a_getter_that_publishes_an_item"),),
    ),
    Mutant(
        "asking-is-handed",
        "a wait that takes nothing ages",
        f"{CORE}/operations/wait.rs",
        "Waiting::taking_nothing(Kind::Item)",
        "Waiting::new(Kind::Item)",
        (core("fairness", "a_wait_that_takes_nothing_is_handed_nothing"),),
    ),
    # ----------------------------------------------------------------------------------------------- recovery
    Mutant(
        "no-rebuild",
        "the process that takes the lock over does not rebuild",
        f"{CORE}/lock/guard.rs",
        "section.rebuild().and_then(|()| section.sweep_holder(former))",
        "section.sweep_holder(former)",
        (DEATHS,),
    ),
    Mutant(
        "no-sweep-of-former",
        "the process that takes the lock over does not sweep the dead holder",
        f"{CORE}/lock/guard.rs",
        "section.rebuild().and_then(|()| section.sweep_holder(former))",
        "section.rebuild().and_then(|()| section.shared.participant_of(former).map(|_| ()))",
        (core("death", "points::what_the_locks_dead_holder_had_comes_back_at_once"),),
    ),
    Mutant(
        "freed-slots-lost",
        "slots that getters freed do not return to putters",
        f"{CORE}/state/slot.rs",
        "            list.freed.set(index);\n            index = freed;\n",
        "            list.freed.set(index);\n",
        (DEATHS,),
    ),
    Mutant(
        "rebuild-keeps-freed-list",
        "the rebuild does not empty the list of slots that getters freed",
        f"{CORE}/state/rebuild.rs",
        "            list.freed.set(0);\n        }\n        hot.cached_sum",
        "        }\n        hot.cached_sum",
        (DEATHS,),
    ),
    Mutant(
        "rebuild-keeps-extents",
        "the rebuild frees cached extents, and leaves them to their slots",
        f"{CORE}/state/rebuild.rs",
        "                Some(State::Free) => {\n                    slot.extent.set(0);\n",
        "                Some(State::Free) => {\n",
        (DEATHS, kill("put-object-in-a-kept-one", 3000)),
    ),
    Mutant(
        "kept-extents-count",
        "cached extents count for max_bytes",
        f"{CORE}/state/claim.rs",
        "let payloads = extents.saturating_sub(hot.bytes_cached());",
        "let payloads = extents;",
        (STATE_MACHINE,),
    ),
    Mutant(
        "kept-of-any-size",
        "a putter uses a cached extent of any size",
        f"{CORE}/state/claim.rs",
        "Some((slot, extent)) if needed == Some(u64::from(extent.granules)) => {",
        "Some((slot, extent)) if needed.is_some() => {",
        (STATE_MACHINE,),
    ),
    Mutant(
        "last-ready-keeps-tail",
        "the ready list's tail stays when its last item is taken",
        f"{CORE}/state/order/mod.rs",
        "            list.tail.set(0);\n            return Ok(());\n",
        "            return Ok(());\n",
        (STATE_MACHINE,),
    ),
    Mutant(
        "wakes-one-an-item",
        "a putter notifies a getter for each item, although one is notified",
        f"{CORE}/state/waiters.rs",
        "                list.notified.add(1);\n                self.wake_later(index);\n",
        "                self.wake_later(index);\n",
        (core("death", "points::a_burst_wakes_few"),),
    ),
    Mutant(
        "rebuild-forgets-number",
        "the rebuild does not raise the publication number to that of a dead putter's item",
        f"{CORE}/state/rebuild.rs",
        "            hot.published.set(seq);\n",
        "",
        (core("death", "points::an_item_of_a_dead_putter_is_counted_once"),),
    ),
    Mutant(
        "rebuild-does-not-sort",
        "the rebuild leaves the items in the order of their slots",
        f"{CORE}/state/order/mod.rs",
        "                key: |slot: &Slot| slot.seq.get(),\n",
        "                key: |_: &Slot| 0,\n",
        (STATE_MACHINE,),
    ),
    Mutant(
        "redelivered-at-end",
        "a redelivered item goes to the end, not to its old place",
        f"{CORE}/state/order/mod.rs",
        "        self.insert_returned(index)?;\n        self.count_ready(len);\n",
        "        self.push_ready((index, self.slot(index)?), len)?;\n",
        (
            histories("small_histories_of_an_acknowledged_queue_with_deaths_are_linearizable"),
            STATE_MACHINE,
        ),
    ),
    Mutant(
        "redelivery-not-counted",
        "an item's redeliveries are not counted",
        f"{CORE}/state/transition.rs",
        "StateWord::unowned_with(State::Ready, word.past().once_more())",
        "StateWord::unowned_with(State::Ready, word.past())",
        (STATE_MACHINE,),
    ),
    Mutant(
        "one-redelivery-too-many",
        "an item is redelivered once more than max_deliveries",
        f"{CORE}/state/transition.rs",
        "word.redeliveries() >= self.shared.options.max_deliveries",
        "word.redeliveries() > self.shared.options.max_deliveries",
        (STATE_MACHINE,),
    ),
    Mutant(
        "claimed-not-freed",
        "the sweep takes a dead participant's claim and does not free its memory",
        f"{CORE}/state/recovery.rs",
        "Some(State::Claimed) => self.free_claim(slot)?,",
        "Some(State::Claimed) => self.let_go(slot, held.owner())?,",
        (DEATHS,),
    ),
    Mutant(
        "record-freed-first",
        "the sweep frees a dead participant's record before its held list is empty",
        f"{CORE}/state/recovery.rs",
        '        fault!("sweep.started");\n',
        '        fault!("sweep.started");\n        record.word.store(word & !1, Ordering::Release);\n',
        (core("death", "points::a_sweep_in_portions_is_finished_by_the_next"),),
    ),
    # -------------------------------------------------------------------------------------------------- aside
    Mutant(
        "phase-not-stored",
        "the first acknowledgement returns items set aside before it stores the phase",
        f"{CORE}/state/aside.rs",
        "            hot.store_beginning();\n",
        "",
        (core("death", "points::a_return_in_portions_is_finished_by_the_next"),),
    ),
    Mutant(
        "aside-redelivered",
        "items that a dead participant had set aside return before any acknowledgement",
        f"{CORE}/state/transition.rs",
        "if word.state() == Some(State::Aside) && self.hot().sets_aside() {",
        "if word.state() == Some(State::Aside) && self.hot().sets_aside() && false {",
        (
            histories("small_histories_of_an_acknowledged_queue_with_deaths_are_linearizable"),
            STATE_MACHINE,
        ),
    ),
    Mutant(
        "aside-forgotten",
        "items that dead participants had set aside do not return",
        f"{CORE}/state/aside.rs",
        "            let index = hot.aside.head.get();\n",
        "            let index = 0;\n",
        (
            histories("small_histories_of_an_acknowledged_queue_with_deaths_are_linearizable"),
            STATE_MACHINE,
        ),
    ),
    Mutant(
        "set-aside-by-the-same-call",
        "a batch of a call sets aside the items of the batches before it",
        f"{CORE}/operations/aside.rs",
        "            Asks::ForMore(count) => return holding::reserve(count),\n",
        "            Asks::ForMore(count) => holding::reserve(count)?,\n",
        (core("death", "points::what_was_taken_together_is_in_hand"),),
    ),
    Mutant(
        "counted-twice",
        "the rebuild counts an item given up or left that the dead holder had counted",
        f"{CORE}/state/aside.rs",
        "        if counter.get() as u32 != slot.next.get() {\n",
        "        if true {\n",
        (core("death", "points::what_was_given_up_is_counted_once"),),
    ),
    Mutant(
        "not-counted",
        "the rebuild does not count an item given up or left that the dead holder had not counted",
        f"{CORE}/state/aside.rs",
        "        if counter.get() as u32 != slot.next.get() {\n",
        "        if false {\n",
        (core("death", "points::what_was_left_is_counted_once"),),
    ),
    Mutant(
        "given-up-never-finished",
        "items given up by dead participants stay unfinished after the first acknowledgement",
        f"{CORE}/state/aside.rs",
        "            hot.unfinished.sub(hot.given_up.get());\n",
        "",
        (core("death", "points::what_was_given_up_is_counted_once"),),
    ),
    Mutant(
        "portion-forgets-the-rest",
        "a sweep ends after its first portion",
        f"{CORE}/state/recovery.rs",
        "                if left == 0 {\n                    return Ok(Portion::MoreToCome);\n",
        "                if left == 0 {\n                    return Ok(Portion::Last);\n",
        (core("death", "points::a_sweep_in_portions_is_finished_by_the_next"),),
    ),
    Mutant(
        "lessee-not-noted",
        "a participant's first lease does not set its bit among the lessees",
        f"{CORE}/state/transition.rs",
        "            lessees.set(lessees.get() | bit);\n",
        "            lessees.set(lessees.get() & !bit);\n",
        (STATE_MACHINE,),
    ),
    # ----------------------------------------------------------------------------------------- returned items
    Mutant(
        "heap-rank-not-updated",
        "the heap of returned items does not update its ranks",
        f"{CORE}/state/order/heap.rs",
        "            slot.holder.set(first.min(second).saturating_add(1));\n",
        "",
        (core("death", "points::a_sweep_in_portions_is_finished_by_the_next"),),
    ),
    Mutant(
        "heap-of-the-youngest",
        "the heap of returned items has the youngest item at its root",
        f"{CORE}/state/order/heap.rs",
        "if key(self.slot(b)?) < key(self.slot(a)?) {",
        "if key(self.slot(b)?) > key(self.slot(a)?) {",
        (core("death", "points::a_sweep_in_portions_is_finished_by_the_next"),),
    ),
    Mutant(
        "linked-back-too-early",
        "the rebuild links a list back before it has sorted the others",
        f"{CORE}/state/rebuild.rs",
        """\
        self.sort(
            held,
            &Order {
                length: books.owned_count,
                numbered,
                greatest: hot.leases.get(),
                belongs: StateWord::is_held,
                key: |slot: &Slot| slot.lease.get(),
            },
        )?;
        self.rebuild_delayed(books.delayed)?;
        self.unnumber_pages()?;
        // Only now, because to sort a list overwrites the links back of any.
        self.link_back(&hot.dead)?;
""",
        """\
        self.link_back(&hot.dead)?;
        self.sort(
            held,
            &Order {
                length: books.owned_count,
                numbered,
                greatest: hot.leases.get(),
                belongs: StateWord::is_held,
                key: |slot: &Slot| slot.lease.get(),
            },
        )?;
        self.rebuild_delayed(books.delayed)?;
        self.unnumber_pages()?;
""",
        (core("death", "points::a_rebuild_links_dead_letters_beside_many_leases"),),
    ),
    # -------------------------------------------------------------------------------------------------- death
    Mutant(
        "life-byte-not-probed",
        "the proof of a death ignores the life byte",
        f"{CORE}/state/participant.rs",
        "Some(fd) if !word.is_lifeless() => platform::probe_life(fd.get(), self.life_byte(index)),",
        "Some(_) if !word.is_lifeless() => Life::Unknown,",
        (core("death", "points::exec_inside_the_critical_section"),),
    ),
    Mutant(
        "closed-with-a-life-byte",
        "a process that closes with an item in hand unlocks its life byte, and its record does not say so",
        f"{CORE}/handle/remainder.rs",
        "                    record.mark(me, LIFELESS);\n",
        "",
        (core("liveness", "in_another_pid_namespace_a_closed_queue"),),
    ),
    Mutant(
        "closed-without-a-proof",
        "a process in another pid namespace gives up its life byte, too, when it closes",
        f"{CORE}/handle/remainder.rs",
        "                if word.is_at_home() {\n",
        "                if word.is_alive() {\n",
        (core("liveness", "in_another_pid_namespace_a_closed_queue"),),
    ),
    Mutant(
        "close-forgets-leases",
        "a close gives up the items in hand",
        f"{CORE}/handle/remainder.rs",
        "        let member = queue.has_leases().then(|| Arc::clone(&queue));\n",
        "        let member: Option<Arc<Queue>> = None;\n",
        (core("closing", "a_lease_keeps"),),
    ),
    Mutant(
        "close-by-any-handle",
        "the close of one handle closes the queue for the others",
        f"{CORE}/handle/remainder.rs",
        "        let is_last = state.handles == 0;\n",
        "        let is_last = true;\n",
        (core("closing", "the_last_of_several"),),
    ),
    Mutant(
        "close-keeps-watching",
        "a process that has closed the queue is a watcher still",
        f"{CORE}/handle/remainder.rs",
        "                .and_then(|mut section| section.watch_no_more());\n",
        "                .map(|_| [-1; 2]);\n",
        (unit("a_closed_queue_is_not_watched"),),
    ),
    Mutant(
        "need-of-the-parent",
        "a forked child does not count which queues need the descriptor of a memory file",
        f"{CORE}/handle/registry.rs",
        "                need.file().descriptor().count();\n",
        "",
        (core("connection", "a_child_closes_for_itself"),),
    ),
    Mutant(
        "close-beside-the-other-queue",
        "the close of one queue closes the file for the other one of a connection",
        f"{CORE}/memory/file.rs",
        "let is_there = self.is_there() && self.file.descriptor.acquire();",
        "let is_there = self.is_there();",
        (core("closing", "a_queue_of_two_in_a_file_closes_for_itself"),),
    ),
    Mutant(
        "close-under-a-use",
        "a close closes a descriptor that another thread uses",
        f"{CORE}/memory/file.rs",
        "            self.file.descriptor.release();\n",
        """\
            self.file.descriptor.forget_uses();
            self.file.descriptor.close_if_unused();
""",
        (core("closing", "a_queue_on_its_way"),),
    ),
    Mutant(
        "dead-by-descriptor",
        "an unlocked life byte proves a death although the process may have closed its descriptor",
        f"{CORE}/state/participant.rs",
        "            Life::Free => !is_here || has_changed(),\n",
        "            Life::Free => true,\n",
        (core("death", "closed_descriptors_are_not_a_death"),),
    ),
    Mutant(
        "reused-pid-taken-for-the-process",
        "a process with a reused pid counts as the participant that had it",
        f"{CORE}/platform/linux/process.rs",
        ".map(|number| number == birth);",
        ".map(|_| true);",
        (core("liveness", "a_pid_that_is_used_again"),),
    ),
    Mutant(
        "home-not-noted-with-the-pid",
        "a participant notes the namespace of its pid after it has published its record",
        f"{CORE}/state/participant.rs",
        "let marks = (life.is_none(), namespace == self.home());",
        "let marks = (life.is_none(), false);",
        (core("death", "points::death_at_each_point_without_proc"),),
    ),
    Mutant(
        "joiner-probes-all",
        "a process that registers tests all participants for death",
        f"{CORE}/handle/membership.rs",
        "if me.index() > self.shared.last_place() - LATE_PLACES {",
        "if me.index() > 1 {",
        (core("liveness", "joining_asks_for_no_other_process"),),
    ),
    Mutant(
        "last-places-not-swept",
        "a process that registers in one of the last places does not sweep the dead",
        f"{CORE}/handle/membership.rs",
        "if me.index() > self.shared.last_place() - LATE_PLACES {",
        "if false {",
        (core("liveness", "a_full_table_of_the_dead_is_no_dead_end"),),
    ),
    Mutant(
        "namespace-inherited-by-strangers",
        "a child in a pid namespace of its own counts as in its parent's",
        f"{CORE}/platform/linux/process.rs",
        "if parent == KNOWN_TO.load(Relaxed) {",
        "if parent == parent {",
        (core("liveness", "nothing_proves_the_death_in_another_pid_namespace_without_proc"),),
    ),
    Mutant(
        "description-of-the-parent",
        "a forked child keeps the open file description through which its parent's life byte is locked",
        f"{CORE}/memory/file.rs",
        "            let _ = self.own();\n",
        "",
        (core("liveness", "an_idle_child_does_not_keep_its_dead_parent_alive"),),
    ),
    Mutant(
        "description-of-the-sender",
        "a process that is given a memory file keeps the sender's open file description",
        f"{CORE}/memory/segment.rs",
        "        let _ = need.own();\n",
        "",
        (core("liveness", "an_idle_receiver_does_not_keep_the_dead_sender_alive"),),
    ),
    Mutant(
        "life-byte-not-released",
        "a process that leaves keeps its life byte locked",
        f"{CORE}/handle/membership.rs",
        """\
            .release_life(segment.in_file(u64::from(me.index())));
""",
        """\
            .release_life(segment.in_file(0));
""",
        (core("liveness", "one_queue_of_two_in_a_file_may_be_left"),),
    ),
    Mutant(
        "notifier-not-tried-again",
        "a process that could not open the notifier does not notice another that has it",
        f"{CORE}/lock/after_release.rs",
        "PAUSE && notifier.failed_with.get() == announced {",
        "PAUSE {",
        (core("notifier", "a_watcher_that_comes_after_another_has_died_is_told_at_once"),),
    ),
    Mutant(
        "child-does-not-watch",
        "a forked child does not watch what its parent watches",
        f"{CORE}/handle/registry.rs",
        "        queue.join_as_child_of_watcher();\n",
        "",
        (core("notifier", "a_child_waits_with_the_descriptor_that_it_has_inherited"),),
    ),
    # ------------------------------------------------------------------------------------------------- memory
    Mutant(
        "backed-before-fallocate",
        "a backing byte is raised before memory is behind it",
        f"{CORE}/state/heap.rs",
        "                self.set_backing(first + i, backing | MAYBE_MORE | before)?;\n",
        "                self.set_backing(first + i, before | pages_needed(len, i))?;\n",
        (core("death", "points::memory_is_promised_after_it_was_extended"),),
    ),
    Mutant(
        "punched-before-lowered",
        "a backing byte is not lowered before the hole is punched",
        f"{CORE}/state/claim.rs",
        """\
            self.set_backing(
                span,
                self.shared.segment.backing(span)?.get() & BACKED_DESCRIPTOR | MAYBE_MORE,
            )?;
""",
        "            self.shared.segment.backing(span)?;\n",
        (core("death", "points::memory_is_promised_no_more_before_it_is_given_back"),),
    ),
    Mutant(
        "punched-pages-forgotten",
        "pages of slots do not count as memory to give back until they are punched",
        f"{CORE}/state/pages.rs",
        "            word.set(ALL_PARKED | ABSENT | REMNANT | TAKEN);\n",
        "            word.set(ALL_PARKED | ABSENT | TAKEN);\n",
        (core("death", "points::slots_go_back_beside_a_held_payload_though_trimmers_die"),),
    ),
    Mutant(
        "claimed-pages-taken-back",
        "a put takes slots back whose memory another process is about to punch",
        f"{CORE}/state/pages.rs",
        "        let is_there_for_all = |word: u64| word & (ABSENT | TAKEN) == ABSENT;\n",
        "        let is_there_for_all = |word: u64| word & ABSENT == ABSENT;\n",
        (core("stopped", "a_stopped_trimmer_of_slots_holds_up_no_one"),),
    ),
    Mutant(
        "trims-not-compared",
        "a put books memory behind slots that a trim has given back meanwhile",
        f"{CORE}/state/pages.rs",
        "        let is_sure = hot.slot_trims.get() == trims;\n",
        "        let is_sure = hot.slot_trims.get() >= trims;\n",
        (core("stopped", "memory_that_was_given_back_meanwhile_is_extended_again"),),
    ),
    Mutant(
        "taken-back-not-remnant",
        "pages whose memory a put takes back do not count as memory to give back until it is noted",
        f"{CORE}/state/pages.rs",
        "        for page in first..end {\n            self.mark_remnant(page)?;\n        }\n",
        "",
        (unit("memory_that_a_put_has_extended_in_vain_is_punched_or_remnant"),),
    ),
    Mutant(
        "extended-in-vain-stays",
        "memory stays that a put has extended behind pages which a trim has claimed meanwhile",
        f"{CORE}/state/pages.rs",
        "                    let _ = self.punch_pages(page, page + 1);\n",
        "",
        (unit("memory_that_a_put_has_extended_in_vain_is_punched_or_remnant"),),
    ),
    Mutant(
        "memory-above-marks-stays",
        "a trim leaves what a dead put has left above the marks",
        f"{CORE}/state/pages.rs",
        "        self.punch_above_marks(backed, backed.saturating_add(SLOTS_AT_A_TIME))\n",
        "        self.punch_above_marks(backed, backed)\n",
        (core("death", "points::memory_above_the_marks_goes_back"),),
    ),
    Mutant(
        "last-call-leaves-little",
        "the get that empties a watched queue gives back memory that a queue may keep",
        f"{CORE}/operations/trim.rs",
        "        let heap_left = free_heap(hot).min(KEPT - slots.min(KEPT / 2));\n",
        "        let heap_left = HEAP_LEFT / PAGE;\n",
        (unit("a_larger_burst_gives_back_no_more_than_it_must"),),
    ),
    Mutant(
        "get-notes-no-spare-memory",
        "a get does not note that there is memory to give back",
        f"{CORE}/operations/get.rs",
        "        self.note_spare(&section);\n",
        "",
        (unit("a_larger_burst_gives_back_no_more_than_it_must"),),
    ),
    Mutant(
        "last-call-not-made",
        "the get that empties a watched queue gives nothing back before a trim is due",
        f"{CORE}/operations/trim.rs",
        "    is_empty && (leaves_nothing(hot, now) || is_last_call(hot)) || since",
        "    is_empty && leaves_nothing(hot, now) || since",
        (unit("a_larger_burst_gives_back_no_more_than_it_must"),),
    ),
    Mutant(
        "extended-by-the-dead-forgotten",
        "a putter that extends part of a span forgets what a dead one may have extended behind it",
        f"{CORE}/state/heap.rs",
        "                let before = if backing & MAYBE_MORE != 0 { MORE_BEFORE } else { 0 };\n",
        "                let before = 0;\n",
        (unit("what_a_dead_putter_has_extended_is_not_forgotten"),),
    ),
    Mutant(
        "absent-slots-read",
        "the rebuild reads slots without memory",
        f"{CORE}/state/rebuild.rs",
        "            if !self.is_present(index)? {\n                continue;",
        "            if !self.is_present(index)? && index == 0 {\n                continue;",
        (core("death", "points::a_rebuild_beside_absent_slots"),),
    ),
    Mutant(
        "marks-not-raised",
        "the rebuild leaves slots without memory above the mark of those in use",
        f"{CORE}/state/pages.rs",
        "            hot.slots_high.set(hot.slots_high.get().max(end));\n",
        "            hot.slots_high.set(hot.slots_high.get().max(end.min(1)));\n",
        (DEATHS,),
    ),
    Mutant(
        "length-not-validated",
        "a payload's length is not compared with its extent",
        f"{CORE}/memory/payload.rs",
        "        if len > extent.bytes() {\n            return",
        "        if false {\n            return",
        (corpus(),),
    ),
    Mutant(
        "slot-index-not-validated",
        "a slot's index is not compared with the number of slots",
        f"{CORE}/memory/segment.rs",
        "if index == 0 || index >= NEAR_SLOTS {",
        "if index == 0 {",
        (corpus(),),
    ),
    Mutant(
        "waiter-index-not-validated",
        "a waiter's index is not compared with the number of cells",
        f"{CORE}/memory/segment.rs",
        "if index == 0 || index >= self.geometry.cells {",
        "if index == 0 {",
        (corpus(),),
    ),
    Mutant(
        "span-index-not-validated",
        "a span's index is not compared with the number of spans",
        f"{CORE}/memory/segment.rs",
        "-> Result<&SpanDescriptor, Error> {\n        if span >= self.geometry.near_spans {",
        "-> Result<&SpanDescriptor, Error> {\n        if false {",
        (corpus(),),
    ),
    Mutant(
        "ranges-of-others-not-mapped",
        "a section does not compare the ranges with what its process has mapped",
        f"{CORE}/lock/guard.rs",
        "        self.segment.is_all_mapped() && matches!",
        "        matches!",
        (core("ranges", "others_map_what_one_has_added"),),
    ),
    Mutant(
        "lock-taken-over-unmapped",
        "a process takes the lock over without having mapped what the rebuild reads",
        f"{CORE}/lock/word.rs",
        "        self.segment.map_ranges(true)?;\n",
        "",
        (core("ranges", "without_address_space_the_lock_is_left_to_others"),),
    ),
    Mutant(
        "range-without-an-end",
        "a range of the heap is added without a note where it ends",
        f"{CORE}/memory/ranges.rs",
        "            hot.heap_seams.set(hot.heap_seams.get() & counted | seam);\n",
        "            let _ = (counted, seam);\n",
        (core("ranges", "others_map_what_one_has_added"),),
    ),
    Mutant(
        "range-leads-on-into-the-next",
        "a run may lie in two ranges",
        f"{CORE}/memory/ranges.rs",
        "(at < end).then(|| at..self.end_of_row(at))",
        "(at < end).then_some(at..end)",
        (core("ranges", "a_run_lies_in_one_range"),),
    ),
    Mutant(
        "address-space-without-a-limit",
        "a process's queues may take all of its address space",
        f"{CORE}/platform/linux/memory.rs",
        "const SHARE: u64 = 4;",
        "const SHARE: u64 = 1;",
        (core("ranges", "queues_take_a_quarter_of_the_address_space"),),
    ),
    Mutant(
        "locked-mappings-filled",
        "what a process maps that locks its memory is filled by the system",
        f"{CORE}/platform/linux/memory.rs",
        "rustix::mm::mmap(place, size, ProtFlags::empty(), flags, fd, start)",
        "rustix::mm::mmap(place, size, ProtFlags::READ | ProtFlags::WRITE, flags, fd, start)",
        (core("ranges", "a_process_that_locks_its_memory"),),
    ),
    Mutant(
        "second-queue-backs-the-first",
        "the second queue of a file puts memory behind the first one's books",
        f"{CORE}/memory/ranges.rs",
        "platform::back(fd.get(), mapping.start + at, length)",
        "platform::back(fd.get(), mapping.start - self.in_file(0) + at, length)",
        (unit("the_second_queue_grows_in_its_own_part"),),
    ),
    Mutant(
        "closed-queue-maps-what-it-skips",
        "a process without a descriptor needs address space for all that lies before a range",
        f"{CORE}/platform/linux/memory.rs",
        "if turn(base, size, start).is_err() {",
        "if size > 0 {",
        (core("ranges", "ranges_without_a_descriptor_and_with_little_address_space"),),
    ),
    Mutant(
        "closed-queue-fills-what-it-skips",
        "what a process without a descriptor maps from a locked page is filled by the system",
        f"{CORE}/platform/linux/memory.rs",
        "        let _ = rustix::mm::munlock(known, page_size() as usize);\n",
        "",
        (core("ranges", "ranges_without_a_descriptor_of_a_process_that_locks_its_memory"),),
    ),
    Mutant(
        "child-keeps-new-ranges",
        "a child keeps what other threads of its parent were about to add",
        f"{CORE}/handle/registry.rs",
        "    unmap_new_ranges();\n",
        "",
        (unit("a_child_has_no_new_range"),),
    ),
    Mutant(
        "child-adds-what-it-has-not",
        "a child adds a range that its parent has mapped",
        f"{CORE}/memory/ranges.rs",
        " || new.is_inherited()",
        "",
        (unit("a_child_has_no_new_range"),),
    ),
    Mutant(
        "more-promised-than-there-are-slots",
        "a queue in a short file promises more small items than it has slots",
        f"{CORE}/memory/segment.rs",
        "size.min(geometry.bytes())",
        "size.min(geometry.heap_bytes())",
        (unit("a_shorter_file_promises_what_it_holds"),),
    ),
    Mutant(
        "queues-as-large-as-the-first",
        "each queue takes as much address space as the first one",
        f"{CORE}/memory/segment.rs",
        "const QUEUES: u64 = 64;",
        "const QUEUES: u64 = 1;",
        (core("ranges", "many_queues_have_room"),),
    ),
    Mutant(
        "last-slots-not-added",
        "a queue that has fewer slots left than it is to grow by does not grow",
        f"{CORE}/memory/ranges.rs",
        "        if first >= last {\n",
        "        if slot_classes_for(u64::from(slots)) > last {\n",
        (unit("the_last_slots_are_fewer"),),
    ),
    Mutant(
        "put-off-not-without-address-space",
        "a process that cannot map the queue's ranges does not put its work off",
        f"{CORE}/handle/put_off.rs",
        " | Error::NoAddressSpace { .. }",
        "",
        (core("ranges", "without_address_space_work_is_put_off"),),
    ),
    Mutant(
        "pause-never-ends",
        "a waiter that has paused for memory counts as spinning for ever",
        f"{CORE}/operations/spin.rs",
        "        self.stop_spinning(kind);\n        if acquired.is_err() {",
        "        if acquired.is_err() {",
        (core("pausing", "a_waiting_putter_is_woken_after_another_has_paused_for_memory"),),
    ),
    Mutant(
        "line-stays-full",
        "a receiver that makes room leaves the line full at which a sender sleeps",
        f"{CORE}/state/line.rs",
        "(FULL, true) if self.shared.has_room() || hot.is_putter_handed() => self.make_line_writable(),",
        "(FULL, true) => {}",
        (core("connection", "the_events_are_those_of_a_socket_or_a_pipe"),),
    ),
    Mutant(
        "line-full-for-the-handed",
        "the line stays full for a sender whose message was put for it",
        f"{CORE}/state/line.rs",
        "self.shared.has_room() || hot.is_putter_handed() =>",
        "self.shared.has_room() =>",
        (core("connection", "a_sender_whose_message_was_put_for_it_is_woken"),),
    ),
    Mutant(
        "line-not-full",
        "the line stays writable although a send would wait",
        f"{CORE}/state/line.rs",
        "            && (hot.watching_room.get() > 0 || putters.length.get() > 0)\n",
        "            && putters.length.get() > 0\n",
        (core("connection", "the_events_are_those_of_a_socket_or_a_pipe"),),
    ),
    Mutant(
        "line-not-drained-for-the-first-watcher",
        "a byte that stayed in the line while no process watched is a message for the first that does",
        f"{CORE}/state/line.rs",
        "(SIGNALLED, false) if watchers(hot) > 0 &&",
        "(SIGNALLED, false) if watchers(hot) > 1 &&",
        (core("connection", "a_process_that_begins_to_watch_sees_what_is_there"),),
    ),
    Mutant(
        "line-drained-beside-a-lease",
        "the line is drained although a message may come back",
        f"{CORE}/state/line.rs",
        "                Ok(record) if record.leased.head.get() != 0 => return true,\n",
        "                Ok(record) if record.leased.head.get() != 0 => return false,\n",
        (core("connection", "a_message_that_comes_back_is_readable"),),
    ),
    Mutant(
        "byte-not-claimed",
        "a sender writes its byte although its message was taken",
        f"{CORE}/state/line.rs",
        """\
            .compare_exchange(promise, claimed, Ordering::SeqCst, Ordering::SeqCst)
            .is_err()
""",
        """\
            .compare_exchange(promise, claimed, Ordering::SeqCst, Ordering::SeqCst)
            .is_err_and(|_| false)
""",
        (core("stopped", "no_byte_comes_after_its_message"),),
    ),
    Mutant(
        "claimed-byte-left",
        "a receiver does not wait for a byte that is being written although its message was taken",
        f"{CORE}/state/line.rs",
        "self.after_release = AfterRelease::AwaitByte(end, seen);",
        "self.after_release = AfterRelease::None;",
        (core("stopped", "no_byte_comes_after_its_message"),),
    ),
    Mutant(
        "byte-of-the-dead",
        "a byte that a dead sender has promised still counts as on its way",
        f"{CORE}/state/recovery.rs",
        "        self.forget_line_of(id);\n",
        "",
        (core("death", "points::death_at_each_point_of_a_line"),),
    ),
    Mutant(
        "line-known-after-a-death",
        "what lies in the line counts as known although its last changer died",
        f"{CORE}/state/line.rs",
        "            self.note_line(UNKNOWN);\n        }\n    }\n\n    /// That end",
        "            self.note_line(self.hot().line_state.get());\n        }\n    }\n\n    /// That end",
        (core("death", "points::death_at_each_point_of_a_line"),),
    ),
    Mutant(
        "end-closed-in-use",
        "a close closes the end of a line that another thread uses",
        f"{CORE}/state/line_end.rs",
        "            if word & USES == 0 {\n",
        "            if word & USES < USES {\n",
        (core("connection", "an_end_is_closed_while_others_use_it"),),
    ),
    Mutant(
        "end-of-another-generation",
        "a second close closes the end that has the number by then",
        f"{CORE}/state/line_end.rs",
        "let is_open = word & MARKS == KEPT && generation(word) == self.generation;",
        "let is_open = word & MARKS == KEPT;",
        (core("connection", "an_end_is_closed_once"),),
    ),
    Mutant(
        "end-lost-at-a-fork",
        "a child keeps the end open that a thread of its parent was closing",
        f"{CORE}/handle/registry.rs",
        "    line_end::begin_in_child();\n",
        "",
        (core("connection", "a_child_closes_what_its_parent_was_closing"),),
    ),
    Mutant(
        "end-not-compared",
        "a call uses the number of its end although it leads elsewhere",
        f"{CORE}/state/line.rs",
        "use_.is_open() && self.leads_to_line(use_.fd(), side)",
        "use_.is_open()",
        (core("connection", "an_end_whose_number_leads_elsewhere_is_closed"),),
    ),
    Mutant(
        "close-not-noticed",
        "a call goes on with an end that another thread has closed",
        f"{CORE}/state/line.rs",
        "use_.is_open() && self.leads_to_line(use_.fd(), side)",
        "self.leads_to_line(use_.fd(), side)",
        (core("connection", "an_end_is_closed_while_others_use_it"),),
    ),
    Mutant(
        "handle-not-counted-at-once",
        "a handle is counted after another thread could close the queue in which it was found",
        f"{CORE}/handle/remainder.rs",
        """\
            .map(|queue| queue.count_handle(&mut open));
        // First, because the queue may end below, and its end opens the list again.
        drop(open);
""",
        """\
            .cloned();
        drop(open);
        std::thread::yield_now();
        let counted = counted.map(|queue| queue.open_handle());
""",
        (core("closing", "a_handle_is_opened_while_the_last_one_is_closed"),),
    ),
    Mutant(
        "line-filled-beside-the-notified",
        "a sender fills the line although a notified sender is not back",
        f"{CORE}/state/line.rs",
        """\
        if hot.waiters[Kind::Room as usize].notified.get() > 0 || hot.is_putter_handed() {
            return SleepTarget::CellForNow;
""",
        """\
        if false {
            return SleepTarget::CellForNow;
""",
        (core("connection", "no_sender_fills_the_line_before_the_notified_one_is_back"),),
    ),
    # ------------------------------------------------------------------------------------------ payloads lent
    Mutant(
        "done-frees-what-is-read",
        "task_done() frees a payload that is still lent",
        f"{CORE}/state/leases.rs",
        "        if slot.mark() != 0 {\n            // The payload",
        "        if slot.mark() != 0 && false {\n            // The payload",
        (STATE_MACHINE,),
    ),
    Mutant(
        "keep-not-committed",
        "an item whose payload was kept stays leased, and is redelivered",
        f"{CORE}/state/deliver.rs",
        """\
        slot.set_mark(KEPT);
        if slot.word().state() == Some(State::Leased) && !self.shared.options.acknowledged {
            self.keep_memory(index)?;
""",
        """\
        if slot.word().state() == Some(State::Leased) && !self.shared.options.acknowledged {
""",
        (core("death", "points::what_was_kept_does_not_come_back"),),
    ),
    Mutant(
        "notifier-not-updated",
        "the byte owed to the notifier is not written",
        f"{CORE}/state/pipe_word.rs",
        """\
        let is_signalled = pipe.signal();
        fault!("notifier.updated");
""",
        "        let is_signalled = true;\n",
        (core("notifier"),),
    ),
    Mutant(
        "notifier-owed-by-the-dead",
        "a byte owed to the notifier counts as written before it is",
        f"{CORE}/state/pipe_word.rs",
        "            let promise = next(word.get(), PROMISED);\n",
        "            let promise = next(word.get(), SIGNALLED);\n",
        (DEATHS,),
    ),
    Mutant(
        "dead-watchers-counted",
        "the watchers of a dead participant stay counted",
        f"{CORE}/state/notifier.rs",
        "        self.uncount_watchers(record.watching.get());\n",
        "",
        (core("notifier"),),
    ),
    Mutant(
        "dead-finish-watchers-counted",
        "the watchers for the end of a dead participant stay counted",
        f"{CORE}/state/notifier.rs",
        "        self.discount_finish_watchers_of(record);\n        record",
        "        record",
        (unit("all_watchers_of_a_participant_are_discounted"),),
    ),
    Mutant(
        "full-without-room-watchers",
        "the notifier is never full",
        f"{CORE}/state/pipe_word.rs",
        "        let is_without_room = for_room != 0 && hot.is_open() && !self.shared.has_room();\n",
        "        let is_without_room = false;\n",
        (core("watching", "writable_exactly_while_there_is_room"),),
    ),
    Mutant(
        "full-after-a-shutdown",
        "a watcher for room is not told that the queue is shut down",
        f"{CORE}/state/pipe_word.rs",
        "for_room != 0 && hot.is_open() && !self.shared.has_room();",
        "for_room != 0 && !self.shared.has_room();",
        (core("watching", "a_shutdown_makes_all_ready"),),
    ),
    Mutant(
        "full-stays-unwritable",
        "a byte is promised to a pipe that is full, and it stays full",
        f"{CORE}/state/pipe_word.rs",
        "            if matches!(state_of(word.get()), FULL | UNKNOWN) {\n",
        "            if matches!(state_of(word.get()), UNKNOWN) {\n",
        (core("watching", "writable_exactly_while_there_is_room"),),
    ),
    Mutant(
        "filled-before-it-is-said",
        "a pipe is filled before its word says so",
        f"{CORE}/state/pipe_word.rs",
        """\
    word.store(next(word.get(), FULL), Ordering::SeqCst);
    fault!("notifier.filling");
    if !pipe.fill() {
        word.store(next(word.get(), UNKNOWN), Ordering::SeqCst);
    }
""",
        """\
    let state = if pipe.fill() { FULL } else { UNKNOWN };
    word.store(next(word.get(), state), Ordering::SeqCst);
""",
        (models("a_full_pipe"),),
    ),
    Mutant(
        "drained-full-is-not-unknown",
        "a late writer that has drained what filled the pipe leaves the word as it is",
        f"{CORE}/state/pipe_word.rs",
        "                FULL => true,\n",
        "                FULL => return false,\n",
        (models("a_full_pipe"),),
    ),
    Mutant(
        "the-end-is-not-shown",
        "the end of all work is not shown to its watchers",
        f"{CORE}/state/pipe_word.rs",
        "            let wanted = if self.shared.is_finished() {\n",
        "            let wanted = if false {\n",
        (core("watching", "readable_exactly_while_nothing_is_unfinished"),),
    ),
    Mutant(
        "tends-without-sweeping",
        "a process that tends a queue does not check for the dead",
        f"{CORE}/operations/watch.rs",
        "        if is_thorough || self.is_reaping_due() {\n",
        "        if false {\n",
        (core("watching", "tending_a_queue_sweeps_the_dead"),),
    ),
]


# ---------------------------------------------------------------------------------------------------- running


@dataclass
class Outcome:
    failed: bool
    how: str = ""
    """The first failure, or the reason why the check did not run."""
    trouble: str = ""
    """Set if the check did not run: it could not be built, or has no such test."""


def run(command: Sequence[str], seconds: float, environment: dict[str, str]) -> tuple[int | None, str]:
    """The status of a command and its output; None as the status if it was killed at its limit."""
    with subprocess.Popen(
        command,
        cwd=SOURCE,
        env={**os.environ, **ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,  # to kill all processes of a check
    ) as process:
        status: int | None
        try:
            output, _ = process.communicate(timeout=seconds)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            status = None
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return status, output


def first_failure(output: str) -> str:
    """The first failure in one line, with the execution if it was a model's."""
    lines = [line.strip() for line in output.splitlines()]
    where = ""
    if execution := re.search(r": failed in execution (\d+); \[(.*)\]$", output, re.MULTILINE):
        stops = re.findall(r"process: (\d+), at: (\d+)", execution[2])
        stopped = "".join(f", process {process} stopped at {at}" for process, at in stops)
        where = f" (execution {execution[1]}{stopped})"
    for i, line in enumerate(lines):
        if re.search(r"^thread .* panicked at ", line):
            told = next((later for later in lines[i + 1 :] if later and not later.startswith("note:")), line)
            # The compared values say more than the assertion.
            compared = [later for later in lines[i + 1 : i + 6] if re.match(r"(left|right): ", later)]
            return ", ".join(part.rstrip(" ,") for part in [shorten(told), *map(shorten, compared)]) + where
        if re.search(r"^SUMMARY: |^replay: |^[a-z-]+@[0-9+s]+: |an item is undone again", line):
            return shorten(line)
    return next((line for line in reversed(lines) if line), "it said nothing") + where


def shorten(told: str) -> str:
    """The text without the workload of a history and the program of a state machine, which the log has."""
    told = re.sub(r", Workload \{.*?fault: \w+ \}: ", ": ", told)
    told = re.sub(r"(Test|Case) failed: |, Step \{.*\}(?=: )", "", told)
    told = re.sub(r"(?<=data race )/\S+/(?=\S+ in )", "", told)
    return re.sub(r" at crates/\S+$", "", told)


def perform(check: Check, log: Path) -> Outcome:
    with log.open("a") as out:
        if check.build:
            status, output = run(check.build, BUILD_SECONDS, check.environment)
            out.write(f"== building: {check.name}\n{output}")
            if status != 0:
                error = re.search(r"^error.*", output, re.MULTILINE)
                return Outcome(False, error[0] if error else first_failure(output), "DOES NOT BUILD")
        status, output = run(check.run, check.seconds, check.environment)
        out.write(f"== {check.name}: status {status}\n{output}")
    if "error: could not compile" in output:
        return Outcome(False, "error: could not compile", "DOES NOT BUILD")
    if status is None:
        return Outcome(True, f"hung: did not end within {check.seconds:.0f} s")
    if status != 0:
        return Outcome(True, first_failure(output))
    if check.run[:2] == ("cargo", "test") and not re.search(r"^running [1-9]", output, re.MULTILINE):
        return Outcome(False, f"there is no test of that name: {check.name}", "OUT OF DATE")
    skipped = re.search(r"^Skipped: .*", output, re.MULTILINE)
    return Outcome(False, skipped[0] if skipped else "")


def copy_sources() -> None:
    """Make the copy equal to the checkout. Only files that differ are written, so that little is rebuilt."""
    wanted = set()
    for name in COPIED:
        top = ROOT / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if (
                path.is_file()
                and "target" not in path.relative_to(top).parts[:1]
                and "__pycache__" not in path.parts
            ):
                copy = SOURCE / path.relative_to(ROOT)
                wanted.add(copy)
                if not copy.exists() or copy.read_bytes() != path.read_bytes():
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    # Without its time: a file that was restored has to be newer than its build.
                    shutil.copyfile(path, copy)
    for path in SOURCE.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()


@dataclass
class Row:
    """A line of the table: a change and the check that caught it, or a check and whether it passes."""

    change: str
    caught_by: str
    how: str
    seconds: float
    is_fine: bool


def times_found(mutant: Mutant, sources: Path) -> int:
    """The number of times that the mutant's piece of text occurs; 0 if there is no such file."""
    file = sources / mutant.file
    return file.read_text().count(mutant.old) if file.exists() else 0


def say_which_do_not_fit(chosen: list[Mutant]) -> int:
    """Print the mutants that are out of date. Returns the exit status."""
    out_of_date = [mutant for mutant in chosen if times_found(mutant, ROOT) != 1]
    for mutant in out_of_date:
        print(
            f"mutants.py: {mutant.name}: its text occurs {times_found(mutant, ROOT)} times in {mutant.file}",
            file=sys.stderr,
        )
    return bool(out_of_date)


def try_out(mutant: Mutant) -> Row:
    """Make the change, run its checks until one fails, and undo it."""
    start = time.monotonic()

    def row(caught_by: str, how: str, is_fine: bool) -> Row:
        return Row(mutant.change, caught_by, how, time.monotonic() - start, is_fine)

    found = times_found(mutant, SOURCE)
    if found != 1:
        return row("OUT OF DATE", f"its text occurs {found} times in {mutant.file}", False)
    file = SOURCE / mutant.file
    text = file.read_text()
    log = LOG / f"{mutant.name}.log"
    log.write_text(f"{mutant.name}: {mutant.change}\n--- {mutant.old}+++ {mutant.new}")
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        for check in mutant.checks:
            outcome = perform(check, log)
            if outcome.trouble:
                return row(outcome.trouble, outcome.how, False)
            if outcome.failed:
                return row(check.name, outcome.how, True)
    finally:
        file.write_text(text)
    return row("NOTHING", f"passed: {', '.join(check.name for check in mutant.checks)}", False)


def pass_unchanged(check: Check, number: int) -> Row:
    start = time.monotonic()
    log = LOG / f"baseline-{number}.log"
    log.write_text("")
    outcome = perform(check, log)
    is_fine = not outcome.trouble and not outcome.failed
    verdict = "passes" if is_fine else outcome.trouble or "FAILS"
    return Row(check.name, verdict, outcome.how, time.monotonic() - start, is_fine)


def cut(text: str, most: int = 110) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


HEAD = ("change", "caught by", "how", "seconds")


def print_table(rows: list[Row], head: tuple[str, str, str, str]) -> None:
    cells = [head, *((row.change, row.caught_by, cut(row.how), f"{row.seconds:.0f}") for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    cells.insert(1, ("-" * widths[0], "-" * widths[1], "-" * widths[2], "-" * widths[3]))
    for change, caught_by, how, seconds in cells:
        line = f"{change:{widths[0]}} | {caught_by:{widths[1]}} | {how:{widths[2]}} | {seconds:>{widths[3]}}"
        print(line.rstrip())


def progress(text: str) -> None:
    """Print a line that the next one replaces, if the output is a terminal."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/mutants.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit status: 0 if each mutant was caught (or each check passes unchanged), 1 if one was\n"
        "not caught, is out of date or does not build, 2 if the arguments are wrong.",
    )
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="the mutants whose name begins so; may be given again"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--baseline",
        action="store_true",
        help="run the checks of the chosen mutants on the unchanged sources",
    )
    instead.add_argument(
        "--fit", action="store_true", help="only check that each piece of text still occurs exactly once"
    )
    instead.add_argument("--list", action="store_true", help="only print the mutants and their checks")
    arguments = parser.parse_args()
    if arguments.only:
        for name in arguments.only:
            if not any(mutant.name.startswith(name) for mutant in MUTANTS):
                parser.error(f"no mutant's name begins with {name!r}; --list prints the names")
    return arguments


def main() -> int:
    arguments = parse()
    only = tuple(arguments.only or [""])
    chosen = [mutant for mutant in MUTANTS if mutant.name.startswith(only)]
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.name:24} {mutant.change} [{'; '.join(check.name for check in mutant.checks)}]")
        return 0
    if arguments.fit:
        return say_which_do_not_fit(chosen)
    LOG.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Two runs would change each other's sources.
            print("mutants.py: another run uses build/mutants", file=sys.stderr)
            return 2
        copy_sources()
        return report(chosen, arguments.baseline)


def report(chosen: list[Mutant], baseline: bool) -> int:
    """Try all, and print the table. Returns the exit status."""
    rows: list[Row] = []
    start = time.monotonic()
    if baseline:
        for old in LOG.glob("baseline-*.log"):
            old.unlink()
        checks = list(dict.fromkeys(check for mutant in chosen for check in mutant.checks))
        for number, check in enumerate(checks):
            progress(f"{number + 1}/{len(checks)} unchanged: {check.name}")
            rows.append(pass_unchanged(check, number))
    else:
        for number, mutant in enumerate(chosen):
            progress(f"{number + 1}/{len(chosen)} {mutant.name}")
            rows.append(try_out(mutant))
            if not sys.stdout.isatty():
                # The table comes only after minutes.
                print(f"{mutant.name}: {rows[-1].caught_by}, {rows[-1].seconds:.0f} s", flush=True)
    progress("")
    head = ("check", "unchanged", "how", "seconds") if baseline else HEAD
    print_table(rows, head)
    bad = [row for row in rows if not row.is_fine]
    verdict = "do not pass" if baseline else "not caught"
    print(f"\n{len(rows)} in {time.monotonic() - start:.0f} s; {len(bad) or 'none'} {verdict}. Logs: {LOG}")
    return 1 if bad else 0


if __name__ == "__main__":
    # As an exception, so that the check ends, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
