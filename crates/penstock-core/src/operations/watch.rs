//! Watching: descriptors that tell when an operation would not wait (state/notifier.rs), and the upkeep of
//! those that wait with them.

use std::os::fd::RawFd;

use crate::error::Error;
use crate::fault::fault;
use crate::fork;
use crate::handle::put_off::is_stuck;
use crate::handle::queue::Queue;
use crate::memory::layout::Kind;
use crate::options::{Patience, Wait};
use crate::platform;
use crate::state::line::has_line;
use crate::state::pipe_word::Pipe;
use crate::sync::Word;

/// At each such slice a process that tends a queue checks all participants, not only holders.
const THOROUGH: u32 = 10;

impl Queue {
    /// A descriptor that is readable exactly while a get that does not wait would find an item, or would say
    /// that the queue was shut down; level triggered. The descriptor
    /// stays the queue's: the caller only waits with it, and neither reads from it nor closes it. From now on
    /// a call that fills or empties the queue makes one or two system calls more, until this process leaves
    /// the queue.
    pub fn watch(&self, wait: Wait<'_>) -> Result<RawFd, Error> {
        self.watch_for(Kind::Item, wait)
    }

    /// The same for what is awaited. Of room the descriptor is writable exactly while a put would find some,
    /// also once the queue was shut down, so that the put would raise. Of the end of all work it is readable
    /// exactly while a join would return. A call that changes that makes one or two system calls more.
    pub fn watch_for(&self, awaited: Kind, mut wait: Wait<'_>) -> Result<RawFd, Error> {
        let watched = self.open_and_watch(awaited, &mut wait);
        self.shared.report(watched)
    }

    fn open_and_watch(&self, kind: Kind, wait: &mut Wait<'_>) -> Result<RawFd, Error> {
        self.join_in(wait)?;
        let pipe = Pipe::of(kind);
        let mut made = None;
        loop {
            let number = pipe.number(self.shared.segment.hot()).get();
            let found = match self.shared.notifier(pipe).current(number) {
                Some(end) => Some(end),
                None => self.shared.open_notifier_of_another(pipe, number)?,
            };
            if found.is_none() && made.is_none() {
                made = Some(platform::make_pipe()?);
            }
            let mut section = self.enter(wait)?;
            if pipe.number(section.hot()).get() != number {
                // Another process has made a notifier meanwhile.
                continue;
            }
            let end = match (found, made.take()) {
                (Some(end), _) => end,
                (None, None) => continue,
                (None, Some((opened, number))) => {
                    let Some(no_fork) = fork::try_hold_off() else {
                        // Another thread of this process is forking, and takes long: others need the lock.
                        drop(section);
                        made = Some((opened, number));
                        drop(fork::hold_off());
                        continue;
                    };
                    section.set_notifier(pipe, number);
                    fault!("notifier.made");
                    self.shared.keep_notifier(pipe, (opened, number), &no_fork)
                }
            };
            section.announce_notifier()?;
            section.watch_for_good(kind)?;
            return Ok(if kind == Kind::Room {
                end.writing
            } else {
                end.reading
            });
        }
    }

    /// Whether an operation would not wait, by an unlocked read.
    pub fn is_ready(&self, awaited: Kind) -> bool {
        let hot = self.shared.segment.hot();
        let is_over = match awaited {
            Kind::Item => hot.is_at_its_end(),
            Kind::Room => !hot.is_open(),
            Kind::Finish => false,
        };
        is_over || self.looks_ready(awaited)
    }

    /// Whether [`tend`](Self::tend) has anything to do in that slice.
    pub fn is_tending_due(&self, slices: u32) -> bool {
        self.is_reaping_due() || slices % THOROUGH == 0 || self.is_trim_due() || self.has_to_enter()
    }

    /// Whether a section, of whatever process, has something to do: a byte that a dead process was to write,
    /// or an item that is delayed no more (state/delay.rs).
    fn has_to_enter(&self) -> bool {
        self.shared.is_notifier_unsettled() || self.shared.segment.hot().is_any_due()
    }

    /// Upkeep at the end of a slice of 100 ms, for a process that sleeps with a descriptor: what the watcher
    /// among the waiters does (state/waiters.rs). And a byte that a dead process was to write is written, and
    /// what is due becomes ready.
    ///
    /// Waits for the lock 10 ms at most.
    pub fn tend(&self, slices: u32) -> Result<(), Error> {
        let tended = match self.tend_in_section(slices % THOROUGH == 0) {
            Err(error) if is_stuck(&error) => Ok(()),
            tended => tended,
        };
        self.shared.report(tended)
    }

    fn tend_in_section(&self, is_thorough: bool) -> Result<(), Error> {
        if is_thorough || self.is_reaping_due() {
            self.reap_dead(is_thorough)?;
        }
        self.trim_if_due()?;
        if self.has_to_enter() {
            drop(self.enter_briefly()?);
        }
        Ok(())
    }

    /// To be called after an operation was in vain, also if an unlocked read has shown that. If this process
    /// watches for that, and the notifier says that it would not be, that may be an error: a byte too many,
    /// for example. Waits for nothing.
    #[cold]
    pub fn was_in_vain(&self, kind: Kind) {
        let is_watched = match kind {
            Kind::Room => self.shared.line.is_watched(),
            _ => self.shared.notifier(Pipe::of(kind)).is_watched(),
        };
        if !is_watched || has_line(self.shared.segment.hot()) {
            return;
        }
        let attempt = self.enter(&mut Wait {
            patience: Patience::TryLock,
            interrupted: &mut || false,
        });
        // If the lock is taken now, the next operation that is in vain tries again.
        if let Ok(mut section) = attempt {
            section.correct_notifier(kind);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicI32;
    use std::sync::atomic::Ordering::Relaxed;
    use std::time::Duration;

    use super::*;
    use crate::operations::delivery::Buffer;
    use crate::options::testing::{self, ACKNOWLEDGED};
    use crate::options::{Options, uninterruptible};

    fn now<T>(call: impl FnOnce(Wait<'_>) -> Result<T, Error>) -> T {
        testing::now(call).unwrap()
    }

    fn acknowledged(maxsize: u64) -> Arc<Queue> {
        Queue::create(&Options {
            maxsize,
            ..ACKNOWLEDGED
        })
        .unwrap()
    }

    fn try_once<T>(call: impl FnOnce(Wait<'_>) -> Result<T, Error>) -> Error {
        let tried = call(Wait {
            patience: Patience::Briefly,
            interrupted: &mut || false,
        });
        tried.err().expect("it would have to wait")
    }

    /// A writer that is stopped between its byte and the comparison leaves a byte too many, or a pipe that is
    /// not full: an operation that is in vain corrects it, so that its caller sleeps.
    #[test]
    fn an_operation_in_vain_corrects_the_pipe() {
        let queue = acknowledged(1);
        let [room, items, end] = [Kind::Room, Kind::Item, Kind::Finish].map(|kind| {
            let fd = now(|wait| queue.watch_for(kind, wait));
            assert!(fd >= 0);
            fd
        });
        for call in [
            (|queue, wait| queue.await_item(wait)) as fn(&Arc<Queue>, Wait<'_>) -> Result<(), Error>,
            |queue, wait| queue.get(&mut Buffer::default(), wait).map(drop),
        ] {
            assert!(platform::signal(room));
            assert!(platform::is_pipe_readable(items));
            assert_eq!(try_once(|wait| call(&queue, wait)), Error::Empty);
            assert!(!platform::is_pipe_readable(items));
        }
        now(|wait| queue.put(&[b"item"], wait));
        assert!(platform::drain(items));
        assert!(platform::is_pipe_writable(room) && !platform::is_pipe_readable(end));
        assert_eq!(try_once(|wait| queue.put(&[b"another"], wait)), Error::Full);
        assert!(!platform::is_pipe_writable(room));
        assert!(platform::signal(end));
        assert_eq!(try_once(|wait| queue.join(wait)), Error::Empty);
        assert!(!platform::is_pipe_readable(end));
    }

    /// A joiner with a descriptor may find that all was done, and others were put since.
    #[test]
    fn a_joiner_learns_that_all_was_done() {
        let queue = acknowledged(0);
        let end = now(|wait| queue.watch_for(Kind::Finish, wait));
        now(|wait| queue.put(&[b"first"], wait));
        now(|wait| queue.get(&mut Buffer::default(), wait));
        let (mut since, mut later) = (None, None);
        assert_eq!(try_once(|wait| queue.join_since(&mut since, wait)), Error::Empty);
        assert_eq!(try_once(|wait| queue.join_since(&mut since, wait)), Error::Empty);
        queue.task_done().unwrap();
        now(|wait| queue.put(&[b"second"], wait));
        assert!(!platform::is_pipe_readable(end));
        assert_eq!(try_once(|wait| queue.join_since(&mut later, wait)), Error::Empty);
        now(|wait| queue.join_since(&mut since, wait));
        assert_eq!(try_once(|wait| queue.join_since(&mut later, wait)), Error::Empty);
    }

    /// An item that is due before all others is told to a watcher by a byte, which stays until an operation
    /// in vain, whatever other sections pass.
    #[test]
    fn a_watcher_is_told_of_an_item_that_is_due_earlier() {
        let queue = acknowledged(0);
        let items = now(|wait| queue.watch(wait));
        let delay =
            |hours: u64| now(|wait| queue.put_delayed(&[b"item"], Duration::from_secs(3600 * hours), wait));
        for (hours, is_told) in [(3, true), (2, true), (4, false)] {
            delay(hours);
            for _ in 0..2 {
                assert_eq!(platform::is_pipe_readable(items), is_told, "{hours}");
                delay(5);
                now(|mut wait| queue.enter(&mut wait).map(drop));
            }
            assert_eq!(
                try_once(|wait| queue.get(&mut Buffer::default(), wait)),
                Error::Empty
            );
            assert!(!platform::is_pipe_readable(items));
        }
    }

    fn is_asleep(thread: i32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S"))
    }

    /// A fork of a large process takes long: a thread that waits for its end has no lock that other processes
    /// wait for.
    #[test]
    fn no_thread_waits_for_a_fork_under_the_lock() {
        for call in [
            (|queue| queue.produce(1).map(drop)) as fn(&Queue) -> Result<(), Error>,
            |queue| uninterruptible(|wait| queue.watch(wait)).map(drop),
        ] {
            let queue = acknowledged(0);
            now(|wait| queue.put(&[b"item"], wait));
            let forking = fork::hold_off();
            let caller = AtomicI32::new(0);
            std::thread::scope(|scope| {
                let calling = scope.spawn(|| {
                    caller.store(rustix::thread::gettid().as_raw_nonzero().get(), Relaxed);
                    call(&queue)
                });
                while caller.load(Relaxed) == 0 || !is_asleep(caller.load(Relaxed)) {
                    assert!(!calling.is_finished(), "it does not wait for the fork");
                    std::thread::yield_now();
                }
                let mut attempt = Wait {
                    patience: Patience::TryLock,
                    interrupted: &mut || false,
                };
                let entered = queue.enter(&mut attempt).map(drop);
                drop(forking);
                assert_eq!((entered, calling.join().unwrap()), (Ok(()), Ok(())));
            });
        }
    }

    /// After a shutdown a get that does not wait would find nothing while an item is delayed.
    #[test]
    fn a_shutdown_ends_the_byte_that_tells_of_an_item() {
        let queue = acknowledged(0);
        let items = now(|wait| queue.watch(wait));
        now(|wait| queue.put_delayed(&[b"item"], Duration::from_secs(3600), wait));
        assert!(platform::is_pipe_readable(items));
        queue.shut_down(false).unwrap();
        assert!(!platform::is_pipe_readable(items));
    }

    /// A participant that leaves, or is dead, watches no more, whatever it has watched for.
    #[test]
    fn all_watchers_of_a_participant_are_discounted() {
        let queue = acknowledged(1);
        for kind in [Kind::Item, Kind::Room, Kind::Finish] {
            now(|wait| queue.watch_for(kind, wait));
        }
        let counted = || {
            let hot = queue.shared.segment.hot();
            [&hot.watching, &hot.watching_room, &hot.watching_finish].map(|count| count.get())
        };
        assert_eq!(counted(), [3, 1, 1]);
        let mut section = now(|mut wait| queue.enter(&mut wait));
        let record = queue.shared.segment.participant(section.my_index()).unwrap();
        section.discount_watchers_of(record);
        drop(section);
        assert_eq!(counted(), [0, 0, 0]);
    }

    /// A process that has closed the queue with an item in hand watches no more, so that puts and gets of the
    /// others do nothing at the notifier.
    #[test]
    fn a_closed_queue_is_not_watched() {
        let queue = acknowledged(0);
        let remainder = queue.open_handle().unwrap();
        now(|wait| queue.put(&[b"item"], wait));
        now(|wait| queue.get(&mut Buffer::default(), wait));
        now(|wait| queue.watch(wait));
        assert_eq!(queue.shared.segment.hot().watching.get(), 1);
        remainder.close(queue);
        let closed = remainder.reopen().unwrap();
        assert!(closed.shared.member_if_any().is_some(), "the lease keeps it");
        assert_eq!(closed.shared.segment.hot().watching.get(), 0);
        remainder.close(closed);
    }
}
