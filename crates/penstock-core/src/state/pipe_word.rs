//! The word of a notifier's pipe: what lies in the pipe, what is to lie there, and which byte is still to be
//! written. state/notifier.rs says what that means. models/notifying.rs runs this file in every interleaving.
//!
//! ```text
//! bits 0..3: state             bits 3..32: counts the changes, so that a writer recognises its own promise
//!
//! DRAINED: nothing             readable: no       writable: yes
//! SIGNALLED: a byte, or a few  readable: yes      writable: yes
//! FULL: both pages are in use  readable: yes      writable: no
//!
//! DRAINED --section--> PROMISED --byte written, without the lock--> SIGNALLED --section--> DRAINED
//!                      |  \--another section that wants a byte--> PROMISED, another byte
//!                      \--another section that wants none--> DRAINED, the pipe drained
//! any of them --section that wants it full--> FULL --section that does not--> DRAINED, or then PROMISED
//! ```
//!
//! The pipe is drained and filled under the lock. The byte is only promised there, and written right after
//! the release, because it wakes a thread that wants the lock.
//!
//! A second promise is a second byte: there may be too many, never too few. A full pipe takes no more, and
//! has a byte. After its write, a writer finds its promise as it was, or already replaced. Only if the state
//! is DRAINED again, the byte may have come too late, and the writer takes it out. It may take out more with
//! it: a byte of another writer, so it writes another; or what has filled the pipe meanwhile. FULL is stored
//! before the pipe is filled, so the writer finds it then, and says that the pipe is UNKNOWN.

use crate::fault::fault;
#[cfg(not(loom))]
use crate::memory::layout::Participant;
use crate::memory::layout::{Hot, Kind};
use crate::state::line::{DUE, has_line, watchers};
use crate::state::{Section, Shared};
use crate::sync::{AtomicU32, AtomicU64, Count, Ordering, Word};

/// The notifiers of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pipe {
    /// Of items and room.
    Traffic,
    /// Of the end of all work.
    Finish,
}

impl Pipe {
    pub(crate) const ALL: [Pipe; 2] = [Pipe::Traffic, Pipe::Finish];

    #[cfg_attr(all(loom, not(test)), allow(dead_code))]
    pub(crate) fn of(kind: Kind) -> Pipe {
        match kind {
            Kind::Item | Kind::Room => Pipe::Traffic,
            Kind::Finish => Pipe::Finish,
        }
    }

    /// The pipe's number, or 0.
    pub(crate) fn number(self, hot: &Hot) -> &AtomicU64 {
        match self {
            Pipe::Traffic => &hot.notifier,
            Pipe::Finish => &hot.finish_notifier,
        }
    }

    /// The pipe's word.
    pub(crate) fn word(self, hot: &Hot) -> &AtomicU32 {
        match self {
            Pipe::Traffic => &hot.pipe_state,
            Pipe::Finish => &hot.finish_state,
        }
    }

    /// Where a participant has it open: its descriptor plus one, or 0; and that of the writing end, if that
    /// is another.
    #[cfg(not(loom))]
    pub(crate) fn places(self, record: &Participant) -> [&AtomicU32; 2] {
        match self {
            Pipe::Traffic => [&record.notifier, &record.notifier_writing],
            Pipe::Finish => [&record.finish_notifier, &record.finish_notifier_writing],
        }
    }
}

// The states (bits 0..3).
pub(crate) const DRAINED: u32 = 0;
pub(crate) const SIGNALLED: u32 = 1;
pub(crate) const PROMISED: u32 = 2;
pub(crate) const UNKNOWN: u32 = 3;
pub(crate) const FULL: u32 = 4;

pub(crate) fn state_of(word: u32) -> u32 {
    word & 7
}

/// The next word, of that state.
pub(crate) fn next(word: u32, state: u32) -> u32 {
    (word & !7).wrapping_add(8) | state
}

/// A pipe that is open in both directions.
pub(crate) trait PipeEnds {
    /// Writes a byte. True if the pipe has one now.
    fn signal(&self) -> bool;
    /// Takes all bytes out.
    fn drain(&self) -> bool;
    /// Fills it.
    fn fill(&self) -> bool;
}

/// Changes the pipe, under the lock, so that it will be DRAINED, SIGNALLED or FULL, as wanted. Returns the
/// promise of a byte that is to be written after the release.
pub(crate) fn change(word: &AtomicU32, pipe: &impl PipeEnds, wanted: u32) -> Option<u32> {
    match wanted {
        DRAINED => drain(word, pipe),
        FULL => fill(word, pipe),
        _ => {
            // A promise needs no room in the pipe, but `poll` has to call it writable.
            if matches!(state_of(word.get()), FULL | UNKNOWN) {
                drain(word, pipe);
            }
            let promise = next(word.get(), PROMISED);
            word.set(promise);
            return Some(promise);
        }
    }
    None
}

/// Takes out what is in the pipe, under the lock. Again, if a writer has kept its promise meanwhile: then its
/// byte may have come after the pipe was drained.
pub(crate) fn drain(word: &AtomicU32, pipe: &impl PipeEnds) {
    let mut seen = word.load(Ordering::SeqCst);
    loop {
        let is_drained = pipe.drain();
        let state = if is_drained { DRAINED } else { UNKNOWN };
        // SeqCst: see keep_promise. A writer changes the word once for each of its promises, so this ends.
        match word.compare_exchange(seen, next(seen, state), Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
}

fn fill(word: &AtomicU32, pipe: &impl PipeEnds) {
    // SeqCst: a writer that takes any of what follows out of the pipe finds this state. See keep_promise.
    word.store(next(word.get(), FULL), Ordering::SeqCst);
    fault!("notifier.filling");
    if !pipe.fill() {
        word.store(next(word.get(), UNKNOWN), Ordering::SeqCst);
    }
}

/// Writes the byte that `change` has promised, without the lock. True if the pipe is UNKNOWN now, and the
/// end of a section has to change it.
#[must_use]
pub(crate) fn keep_promise(word: &AtomicU32, pipe: &impl PipeEnds, mut promise: u32) -> bool {
    loop {
        fault!("notifier.owed");
        let is_signalled = pipe.signal();
        fault!("notifier.updated");
        let kept = promise & !7 | if is_signalled { SIGNALLED } else { UNKNOWN };
        // SeqCst: the byte is written before the state is read, and a section changes the state after it has
        // drained the pipe. The kernel's lock of the pipe orders the two.
        match word.compare_exchange(promise, kept, Ordering::SeqCst, Ordering::SeqCst) {
            // DRAINED again: the byte may have come too late. In each other case nothing is left to do: the
            // promise still stood, no byte was written, or another section has found an item, whose byte this
            // one may be.
            Err(now) if is_signalled && state_of(now) == DRAINED => {}
            _ => return false,
        }
        // The queue was emptied between promise and byte, and the pipe perhaps drained before the byte came.
        let is_drained = pipe.drain();
        promise = loop {
            let now = word.load(Ordering::SeqCst);
            let is_unsure = match state_of(now) {
                DRAINED if is_drained => return false,
                // Perhaps a byte too many: the next section that can drains it.
                DRAINED => true,
                // What was to fill the pipe is perhaps out of it again.
                FULL => true,
                // Another section has promised a byte meanwhile, or another writer has written it, and it may
                // be the one that was drained.
                _ => false,
            };
            if !is_unsure {
                break now;
            }
            // If this exchange fails, a section was quicker.
            let unknown = next(now, UNKNOWN);
            let is_noted = word.compare_exchange(now, unknown, Ordering::SeqCst, Ordering::SeqCst);
            if is_noted.is_ok() {
                return state_of(now) == FULL;
            }
        };
    }
}

fn watchers_for_items(hot: &Hot) -> u32 {
    watchers(hot)
        .saturating_sub(hot.watching_room.get())
        .saturating_sub(hot.watching_finish.get())
}

/// Whether the pipe of items is to have a byte because a delayed item is due before all others, and no
/// watcher has found out yet.
pub(crate) fn has_to_tell(hot: &Hot) -> bool {
    hot.watching.get() & DUE != 0 && !has_line(hot)
}

impl Shared {
    /// Whether a byte may be promised that no thread writes any more, or a pipe could not be changed.
    #[cfg_attr(all(loom, not(test)), allow(dead_code))]
    pub(crate) fn is_notifier_unsettled(&self) -> bool {
        let hot = self.segment.hot();
        let for_finish = hot.watching_finish.get();
        let for_traffic = watchers(hot).saturating_sub(for_finish);
        let is_unsettled = |word: &AtomicU32| matches!(state_of(word.get()), PROMISED | UNKNOWN);
        !has_line(hot)
            && (for_traffic != 0 && is_unsettled(&hot.pipe_state)
                || for_finish != 0 && is_unsettled(&hot.finish_state))
    }

    /// Whether a join would return, or find damage.
    fn is_finished(&self) -> bool {
        let hot = self.segment.hot();
        hot.unfinished.get() == 0 || hot.is_damaged()
    }
}

impl Section<'_> {
    /// The state that a pipe is to have, if that is another than it has and a process watches for it.
    pub(crate) fn wanted_change(&self, pipe: Pipe) -> Option<u32> {
        let hot = self.hot();
        let (for_room, for_finish) = (hot.watching_room.get(), hot.watching_finish.get());
        let state = state_of(pipe.word(hot).get());
        if pipe == Pipe::Finish {
            let wanted = if self.shared.is_finished() {
                SIGNALLED
            } else {
                DRAINED
            };
            return (for_finish != 0 && state != wanted).then_some(wanted);
        }
        let for_items = watchers_for_items(hot);
        let is_without_room = for_room != 0 && hot.is_open() && !self.shared.has_room();
        let wanted = match for_items {
            _ if is_without_room => FULL,
            // It need not be readable.
            0 if for_room == 0 || matches!(state, DRAINED | SIGNALLED | PROMISED) => return None,
            0 => DRAINED,
            _ if self.is_readable() || has_to_tell(hot) => SIGNALLED,
            _ => DRAINED,
        };
        (state != wanted).then_some(wanted)
    }

    /// A delayed item is due before all others: who watches for items is to learn when. Not with a line,
    /// because a connection delays nothing.
    #[cold]
    pub(crate) fn tell_of_earlier_due(&self) {
        let hot = self.hot();
        if !has_line(hot) && watchers_for_items(hot) > 0 {
            hot.watching.set(hot.watching.get() | DUE);
        }
    }

    /// A watcher has found that there is no item, and reads next when one is due. Or there is nothing to be
    /// told any more.
    pub(crate) fn end_telling(&self) {
        let hot = self.hot();
        if has_to_tell(hot) {
            hot.watching.set(watchers(hot));
        }
    }

    /// Tells nothing to watchers that have left. Part of the end of a section.
    pub(crate) fn end_telling_if_unwatched(&self) {
        if watchers_for_items(self.hot()) == 0 {
            self.end_telling();
        }
    }

    /// Counts that nothing is unfinished, when the pipe does not say so yet. Until it does, each section
    /// counts it: joiners that begin meanwhile do not wait.
    pub(crate) fn count_finish(&self, pipe: Pipe) {
        let hot = self.hot();
        if pipe == Pipe::Finish && hot.unfinished.get() == 0 {
            hot.finishes.add(1);
        }
    }

    /// A dead writer may have taken out more than its own byte. The end of the section restores the pipes.
    pub(crate) fn forget_pipes(&self) {
        let hot = self.hot();
        if hot.watching.get() != 0 && !has_line(hot) {
            for word in Pipe::ALL.map(|pipe| pipe.word(hot)) {
                word.set(next(word.get(), UNKNOWN));
            }
        }
    }

    /// Whether a get that does not wait finds an item, or another error than that there is none.
    pub(crate) fn is_readable(&self) -> bool {
        let hot = self.hot();
        hot.ready_count.get() > 0 || hot.is_at_its_end()
    }
}
