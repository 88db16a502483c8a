//! The ends of lines that this process has, by number, which one thread may close while others use them.
//!
//! A descriptor's number can be another file's as soon as it is closed. So each call that uses an end counts
//! itself, as a use of the memory file does (memory/descriptor.rs). A close lets no further use begin, and
//! the use that ends last closes the number, so no thread waits. A call in progress that would have to wait
//! on ends with `Error::EndClosed`.
//!
//! The program hands its ends over and waits with them by number, and a section finds the end that this
//! process used last by number, too. So the count has its place by the number, in a table that only grows:
//!
//! ```text
//! bits 32..64     bit 31     bit 30    bits 0..30
//! generation      closing    kept      uses
//! ```
//!
//! The generation tells two ends apart that have the same number one after the other. Whether the number
//! leads to the line is checked beside each use (`Shared::leads_to_line`), because code that is not
//! Penstock's may close it all the same.
//!
//! A forked child has the table as its parent had it, with uses of threads that do not exist there. The hook
//! of the fork (handle/registry.rs) forgets them, and closes what the parent was closing at that moment.

use std::os::fd::RawFd;
use std::sync::OnceLock;

use crate::error::Error;
use crate::fork;
use crate::platform;
use crate::sync::{AtomicU64, Ordering, Word};

const KEPT: u64 = 1 << 30;
const CLOSING: u64 = 1 << 31;
const USES: u64 = KEPT - 1;
const MARKS: u64 = KEPT | CLOSING;

struct Entry {
    word: AtomicU64,
    /// By which the kernel knows the end.
    number: AtomicU64,
}

/// Numbers in the first part of the table. Each part has twice as many as the one before.
const FIRST: usize = 64;

static TABLE: [OnceLock<Box<[Entry]>>; 26] = [const { OnceLock::new() }; 26];

/// An end of a line that this process has kept, for the one that closes it.
#[derive(Clone, Copy, Debug)]
pub struct LineEnd {
    fd: RawFd,
    generation: u32,
}

/// A use in progress: until [`end`](Self::end) the number stays this end's.
#[derive(Clone, Copy)]
pub(crate) struct Use {
    fd: RawFd,
    generation: u32,
    forks: u32,
}

/// An end in use, for a caller that does something else before it hands over the number, or after it.
pub struct EndInUse(Use);

/// The part of the table in which a number lies, and its place there.
fn place(fd: RawFd) -> Option<(usize, usize)> {
    let number = usize::try_from(fd).ok()?;
    let part = (number / FIRST + 1).ilog2() as usize;
    Some((part, number - FIRST * ((1 << part) - 1)))
}

fn entry(fd: RawFd) -> Option<&'static Entry> {
    let (part, index) = place(fd)?;
    TABLE[part].get()?.get(index)
}

/// One thread at a time, in a process that does not fork meanwhile.
fn entry_or_new(fd: RawFd) -> Result<&'static Entry, Error> {
    let (part, _) = place(fd).ok_or(Error::EndClosed)?;
    if TABLE[part].get().is_none() {
        let count = FIRST << part;
        let mut entries = Vec::new();
        entries
            .try_reserve_exact(count)
            .map_err(|_| platform::no_memory((count * size_of::<Entry>()) as u64))?;
        entries.resize_with(count, || Entry {
            word: AtomicU64::new(0),
            number: AtomicU64::new(0),
        });
        let _ = TABLE[part].set(entries.into_boxed_slice());
    }
    entry(fd).ok_or(Error::EndClosed)
}

fn generation(word: u64) -> u32 {
    (word >> 32) as u32
}

impl LineEnd {
    /// Begins to count the uses of an end, which the caller owns, until [`close`](Self::close). If that has
    /// begun already, this is the same end.
    pub fn keep(fd: RawFd) -> Result<LineEnd, Error> {
        let number = platform::end_number(fd).ok_or(Error::EndClosed)?;
        let _no_fork = fork::hold_off();
        let entry = entry_or_new(fd)?;
        let word = entry.word.load(Ordering::Acquire);
        if word & MARKS == KEPT && entry.number.get() == number {
            let generation = generation(word);
            return Ok(LineEnd { fd, generation });
        }
        let generation = generation(word).wrapping_add(1);
        entry.number.set(number);
        // Release: pairs with the acquire in `count_use` and `close`, which then find the number.
        entry
            .word
            .store(u64::from(generation) << 32 | KEPT, Ordering::Release);
        Ok(LineEnd { fd, generation })
    }

    pub fn fd(self) -> RawFd {
        self.fd
    }

    /// Whether it was neither closed, nor is being closed.
    pub fn is_open(self) -> bool {
        entry(self.fd).is_some_and(|entry| {
            let word = entry.word.get();
            word & MARKS == KEPT && generation(word) == self.generation
        })
    }

    /// Closes the end: now, or with the last call that uses it. Safe to repeat, also by several threads, and
    /// by a child that was forked meanwhile. Does not wait.
    pub fn close(self) {
        let Some(entry) = entry(self.fd) else {
            return;
        };
        // Both: after all uses that have ended, and before what the thread that closes the number does.
        let marked = entry
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
                let is_open = word & MARKS == KEPT && generation(word) == self.generation;
                is_open.then_some(word | CLOSING)
            });
        if let Ok(word) = marked {
            if word & USES == 0 {
                entry.close_number(self.fd, word | CLOSING);
            }
        }
    }
}

impl Entry {
    /// One more use, if `may_begin` says so of the word.
    fn count_use(&self, fd: RawFd, may_begin: impl Fn(u64) -> bool) -> Option<Use> {
        let counted = self
            .word
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |word| {
                may_begin(word).then_some(word + 1)
            });
        counted.ok().map(|word| Use {
            fd,
            generation: generation(word),
            forks: fork::count(),
        })
    }

    /// Called by the one thread that has made `word` closing and unused. A process that forks in between has
    /// a child that does the same for itself.
    fn close_number(&self, fd: RawFd, word: u64) {
        platform::close_end(fd, self.number.get());
        // Fails if the number is another end's already.
        let _ =
            self.word
                .compare_exchange(word, word & !(MARKS | USES), Ordering::Release, Ordering::Relaxed);
    }
}

/// Begins a use. `None` if the end was closed, or is being closed, or was never kept.
pub(crate) fn begin(fd: RawFd) -> Option<Use> {
    entry(fd)?.count_use(fd, |word| word & MARKS == KEPT)
}

impl Use {
    pub(crate) fn fd(self) -> RawFd {
        self.fd
    }

    /// Whether the end was neither closed, nor is being closed.
    pub(crate) fn is_open(self) -> bool {
        LineEnd {
            fd: self.fd,
            generation: self.generation,
        }
        .is_open()
    }

    /// One use more, also while the end is being closed: what a call in progress still owes the line is done.
    /// In a child that was forked in the middle of the call, as [`begin`].
    pub(crate) fn another(self) -> Option<Use> {
        let is_same = |word| generation(word) == self.generation;
        entry(self.fd)?.count_use(self.fd, |word| {
            is_same(word) && (word & MARKS == KEPT || word & KEPT != 0 && word & USES != 0)
        })
    }

    /// Ends the use, in the process that has begun it. The last use of an end that was closed meanwhile
    /// closes the number.
    pub(crate) fn end(self) {
        let Some(entry) = entry(self.fd) else {
            return;
        };
        if self.forks != fork::count() {
            return;
        }
        // Both: the last use that ends comes after all others.
        let ended = entry
            .word
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |word| {
                (generation(word) == self.generation && word & USES != 0).then_some(word - 1)
            });
        if let Ok(word) = ended {
            if word & (CLOSING | USES) == CLOSING | 1 {
                entry.close_number(self.fd, word - 1);
            }
        }
    }
}

impl EndInUse {
    /// `None` if the end was closed, or is being closed. Then its number may be another end's already.
    pub fn begin(end: LineEnd) -> Option<EndInUse> {
        let is_same = |word| word & MARKS == KEPT && generation(word) == end.generation;
        entry(end.fd)?.count_use(end.fd, is_same).map(EndInUse)
    }

    pub fn fd(&self) -> RawFd {
        self.0.fd
    }
}

impl Drop for EndInUse {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// In a child after a fork, before other code runs: forgets the uses of its parent, and closes what its
/// parent was closing.
pub(crate) fn begin_in_child() {
    for (part, entries) in TABLE.iter().enumerate() {
        let Some(entries) = entries.get() else {
            continue;
        };
        let first = FIRST * ((1 << part) - 1);
        for (index, entry) in entries.iter().enumerate() {
            let found = entry.word.get();
            // Others are only read, so that the child copies no page for them.
            if found & (USES | CLOSING) == 0 {
                continue;
            }
            let word = found & !USES;
            entry.word.set(word);
            if word & CLOSING != 0 {
                entry.close_number((first + index) as RawFd, word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    /// An end, its number by which the kernel knows it, and the other end of its line.
    fn kept(is_duplex: bool) -> (LineEnd, u64, RawFd) {
        let [end, other] = platform::make_line(is_duplex)
            .unwrap()
            .map(IntoRawFd::into_raw_fd);
        let number = platform::end_number(end).unwrap();
        (LineEnd::keep(end).unwrap(), number, other)
    }

    fn leads_there(end: LineEnd, number: u64) -> bool {
        platform::end_number(end.fd()) == Some(number)
    }

    #[test]
    fn each_number_has_its_place() {
        let mut expected = (0, 0);
        for fd in 0..10_000 {
            assert_eq!(place(fd), Some(expected), "{fd}");
            expected.1 += 1;
            if expected.1 == FIRST << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        assert!(place(RawFd::MAX).unwrap().0 < TABLE.len());
        assert_eq!(place(-1), None);
    }

    #[test]
    fn a_use_keeps_the_number_until_its_end() {
        for is_duplex in [true, false] {
            let (end, number, _) = kept(is_duplex);
            let (first, second) = (begin(end.fd()).unwrap(), begin(end.fd()).unwrap());
            end.close();
            assert!(leads_there(end, number) && !first.is_open() && !end.is_open());
            assert!(begin(end.fd()).is_none(), "it is being closed");
            first.end();
            assert!(leads_there(end, number));
            let owing = second.another().unwrap();
            second.end();
            assert!(leads_there(end, number));
            owing.end();
            assert!(!leads_there(end, number));
        }
    }
}
