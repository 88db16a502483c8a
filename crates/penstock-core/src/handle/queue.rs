//! The handle of one process to a queue: what its sections share, its membership, how long it spins.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use crate::error::Error;
use crate::handle::put_off::LeavePutOff;
use crate::handle::registry;
use crate::handle::spare::SpareNote;
use crate::handle::spin_budget::SpinBudget;
use crate::memory::descriptor::InUse;
use crate::memory::file::Need;
use crate::memory::segment::Segment;
use crate::options::Options;
use crate::platform;
use crate::state::Shared;
use crate::state::holding;
use crate::sync::Word;
use crate::units::Id;

/// A handle to a queue. One process has one for each queue, whatever the number of its threads.
pub struct Queue {
    pub(crate) shared: Shared,
    /// A leave of this process that was put off. See put_off.rs.
    pub(crate) leaving: LeavePutOff,
    pub(crate) spin_budgets: [SpinBudget; 2],
    #[cfg(not(loom))]
    pub(crate) memory_budget: SpinBudget,
    pub(crate) spare: SpareNote,
}

impl Queue {
    /// Creates a queue, which lives as long as any process has a handle to it.
    pub fn create(options: &Options) -> Result<Arc<Queue>, Error> {
        let (segment, options) = Segment::create(options, None)?;
        let mut open = registry::open_queues();
        Queue::enter_in_list(&mut open, segment, options)
    }

    /// Creates a queue with a name in a folder on a tmpfs. The name keeps it, with its items, until it is
    /// removed.
    pub fn create_named(path: &Path, options: &Options) -> Result<Arc<Queue>, Error> {
        let (segment, options) = Segment::create(options, Some(path))?;
        let mut open = registry::open_queues();
        Queue::enter_in_list(&mut open, segment, options)
    }

    /// Creates two queues in one memory file, those of a duplex connection.
    pub fn create_pair(options: &Options) -> Result<[Arc<Queue>; 2], Error> {
        let ([first, second], options) = Segment::create_pair(options)?;
        let (first, second) = {
            let mut open = registry::open_queues();
            let first = Queue::enter_in_list(&mut open, first, options.clone())?;
            // If this fails, the first one ends below, where its end may open the list again.
            (first, Queue::enter_in_list(&mut open, second, options))
        };
        Ok([first, second?])
    }

    /// Opens a queue by its name.
    pub fn open_named(path: &Path) -> Result<Arc<Queue>, Error> {
        Queue::attach(platform::open_file(path)?)
    }

    /// Opens the queue behind a descriptor, the first one of its file. Returns this process's handle if it
    /// has one already.
    pub fn attach(fd: OwnedFd) -> Result<Arc<Queue>, Error> {
        let attached = Queue::attach_any(fd, |_| true, |_, _| Ok(()))?;
        attached.map(|(queue, ())| queue).ok_or(Error::Closed)
    }

    /// The same for the queue of that id. `None` if it does not lie in that file.
    pub fn attach_as(fd: OwnedFd, id: Id) -> Result<Option<Arc<Queue>>, Error> {
        let attached = Queue::attach_any(fd, |found| found == id, |_, _| Ok(()))?;
        Ok(attached.map(|(queue, ())| queue))
    }

    /// Attaches, and calls `then` before another thread can close the queue.
    pub(super) fn attach_any<T>(
        fd: OwnedFd,
        is_wanted: impl Fn(Id) -> bool,
        then: impl FnOnce(&Arc<Queue>, &mut registry::OpenQueues) -> Result<T, Error>,
    ) -> Result<Option<(Arc<Queue>, T)>, Error> {
        let Some((id, start)) = Segment::read_ids(fd.as_fd())?.find(|(id, _)| is_wanted(*id)) else {
            return Ok(None);
        };
        // They outlive the list's lock, because a queue that ends opens the list again.
        let found;
        let attached = {
            let mut open = registry::open_queues_without_leaving(id);
            found = open.find(id);
            let attached = match &found {
                Some(queue) => queue.need_descriptor(fd).map(|()| Arc::clone(queue)),
                None => Queue::open_in_file(&mut open, fd, start),
            };
            attached.map(|queue| {
                let done = then(&queue, &mut open);
                (queue, done)
            })
        };
        let (queue, done) = attached?;
        Ok(Some((queue, done?)))
    }

    /// Takes over a descriptor, if it is of this queue's file and this process has none: then it has closed
    /// its handles, and has something in hand.
    fn need_descriptor(&self, fd: OwnedFd) -> Result<(), Error> {
        let segment = &self.shared.segment;
        if platform::identify(fd.as_fd())?.0 == segment.identity() {
            segment.need().begin(fd)?;
        }
        Ok(())
    }

    fn open_in_file(open: &mut registry::OpenQueues, fd: OwnedFd, start: u64) -> Result<Arc<Queue>, Error> {
        let (identity, _) = platform::identify(fd.as_fd())?;
        let need = match open.find_file(identity) {
            Some(file) => Need::of(file, fd)?,
            None => Segment::open_file(fd)?,
        };
        let (segment, options) = Segment::open(need, start)?;
        Queue::enter_in_list(open, segment, options)
    }

    /// A duplicate of another process's descriptor, whatever that leads to, for a process that has no /proc
    /// to open it by. The kernel allows it where it would allow a debugger.
    #[cfg(not(loom))]
    pub fn duplicate_of(pid: u32, fd: u32) -> Result<OwnedFd, Error> {
        platform::duplicate_of(pid, fd)
    }

    /// This process's handle to a queue, if it has one with a descriptor.
    pub fn by_id(id: Id) -> Option<Arc<Queue>> {
        let found = registry::open_queues_without_leaving(id).find(id)?;
        found.shared.segment.need().is_there().then_some(found)
    }

    pub(super) fn enter_in_list(
        open: &mut registry::OpenQueues,
        segment: Segment,
        options: Options,
    ) -> Result<Arc<Queue>, Error> {
        let id = segment.id;
        open.reserve()?;
        // Sections ask for it, and the first to ask reads files.
        platform::cores();
        let queue = Arc::new(Queue {
            shared: Shared::new(segment, options),
            leaving: LeavePutOff::new(),
            spin_budgets: [SpinBudget::new(), SpinBudget::new()],
            #[cfg(not(loom))]
            memory_budget: SpinBudget::new(),
            spare: SpareNote::new(),
        });
        open.add(id, &queue);
        Ok(queue)
    }

    pub fn id(&self) -> Id {
        self.shared.segment.id
    }

    /// The options, with the default of `max_bytes` filled in.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// The descriptor of the memory file, by which another process can attach. It stays open while the caller
    /// keeps it.
    pub fn fd(&self) -> Result<InUse<'_>, Error> {
        self.shared.segment.fd().ok_or(Error::Closed)
    }

    /// A new descriptor of the same memory file, which the caller owns.
    pub fn duplicate_fd(&self) -> Result<OwnedFd, Error> {
        platform::duplicate(self.fd()?.get())
    }

    /// Items that a get would find at this moment, as of the last committed change if another process is in
    /// its section. Does not wait. If the holder of the lock is dead, it repairs the queue first.
    pub fn len(&self) -> u64 {
        self.maintain();
        // In this order: a number that a discard has lowered is read after its commit, and then not returned.
        let ready = self.shared.ready_count();
        if self.shared.segment.hot().is_closed() {
            0
        } else {
            ready
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a put would have to wait; as [`len`](Self::len).
    pub fn is_full(&self) -> bool {
        self.maintain();
        !self.shared.has_room() && !self.shared.segment.hot().is_closed()
    }

    /// Whether anything was ever put. Does not wait.
    #[cfg(not(loom))]
    pub fn was_used(&self) -> bool {
        self.shared.segment.hot().published.get() > 0
    }

    /// Whether borrowed payloads exceed their budget of a quarter of `max_bytes`, for which they do not
    /// count. If so, a caller that wants to hold a payload for long should copy it. An estimate, read without
    /// the lock.
    pub fn is_lent_out(&self) -> bool {
        self.shared.segment.hot().lent_bytes.get() > self.shared.options.max_bytes.unwrap_or(u64::MAX) / 4
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.depart();
        for notifier in &self.shared.notifiers {
            notifier.close();
        }
        self.shared.segment.need().end();
        holding::forget(self.shared.segment.id);
        // Last, so that no thread of this process opens the queue anew while this handle is still a member.
        registry::forget(self.shared.segment.id);
    }
}
