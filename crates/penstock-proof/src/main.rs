//! kill: the proof that no participant's death, at any instruction, harms the others.
//!
//! A process is brought to the k-th instruction of an operation under ptrace and killed there by SIGKILL.
//! That is done for every k from the operation's first instruction to its last, and inside each system call
//! in which it sleeps. A system call is one instruction, so one death lies right before it and one right
//! after.
//!
//! Then survivors put, get and join. Every item must come out exactly once and whole, the counters must be
//! exact, and the check of the whole shared memory (`Queue::check`) must find nothing. Of a sample of those
//! places a second process, which finds the first one dead and recovers, is killed at every instruction of
//! its recovery, and a third one survives.
//!
//! What a death leaves, by the rule of the books: put = got + still queued + dead letters, plus at most the
//! one in the dead hands.
//!
//! | operation | before its commit | after it | the commit |
//! |---|---|---|---|
//! | put, of any size | nothing: slot and extent are free again | the item, in its place | state = READY |
//! | put that extends memory | nothing; the memory may stay, for later use | the item | the same |
//! | put of many | the items before it, and not this one | this one too | each item's own state = READY |
//! | get of a small item, plain | the item, in its place | the item is gone with the victim | state = FREE |
//! | get of many, plain | the items from this one on | this one is gone too | each item's own state = FREE |
//! | get of a large item, plain | the item | the item again, once redelivered | none: the release is |
//! | keeping a large item, plain | the item again | the item is gone with the victim | state = CLAIMED |
//! | release of a large item, plain | the item again | the item is gone | state = FREE |
//! | get, acknowledged | the item | the item again | none: task_done is |
//! | get, acknowledged, last delivery | the item | the item is a dead letter, finished | state = LEASED |
//! | release, acknowledged | the item again | the item again | none |
//! | task_done | the item again, unfinished | the item is finished | state = FREE, CLAIMED or READY_DONE |
//! | a lease done | the item again, unfinished | the item is finished | state = FREE |
//! | a lease released, or failed | the item again | the item again | state = READY |
//! | a lease rejected | the item again | the item is a dead letter | state = DEAD |
//! | a dead letter requeued | it is a dead letter | the item again | state = READY |
//! | a dead letter purged | it is a dead letter | it is gone | state = FREE |
//! | put with a delay | nothing | the item, after its time | state = DELAYED |
//! | a lease released or failed, with a delay | the item again | the same, after its time | state = DELAYED |
//! | an item's time comes | the item | the item | state = READY |
//! | leave in order, also with a loan | the item again | unfinished, without a holder | state = ORPHAN |
//! | leave by a crash | the item again | the item again | none |
//! | shutdown | nothing | the queue is shut down for all | phase = DRAINING or CLOSED |
//! | begin to produce | nothing | the queue is shut down once it is swept | the record's number and block |
//! | end as the last producer | the queue is shut down once it is swept | the queue is shut down | none |
//! | next of a loop | the item before again | the item before is finished | state = FREE |
//! | register, wait, give memory back, recover | nothing | nothing | none |
//!
//! The commit is one instruction: from some k on the item is there (or gone), and before it is not. That is
//! verified, too. Kills made off the recorded path (path.rs says when) are counted and shown; each is a death
//! at an instruction of the operation all the same. A process that dies at the end of the operation must have
//! committed everything.
//!
//! A survivor's longest wait in one call is judged as well. The promise is about 100 ms for one death, and a
//! slice more for each further sleeper. Many cases run at once, and a busy machine is slow. So a case in
//! which a survivor waited for more than 300 ms is repeated alone at the end; if it is as slow in each of two
//! repetitions, that is a fault. A watchdog ends a survivor that hangs, which is a fault at once.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod budget;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod case;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod crew;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod ends;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod item;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod operation;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod path;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod process;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod proof;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod report;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod scene;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod survivors;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod trace;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> std::process::ExitCode {
    proof::main()
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    println!("Skipped: the proof by single steps knows the instructions of Linux on x86-64 only.");
}
