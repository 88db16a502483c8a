//! A queue as one process holds it: its segment, its options, its membership.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicI32;
use std::sync::{Arc, Weak};

use crate::Id;
use crate::bell::Bell;
use crate::error::Error;
use crate::fork;
use crate::holding;
use crate::platform::{self, Instant};
use crate::segment::Segment;
use crate::sync::{AtomicU32, Ordering, Word};
use crate::waiter::SpinBudget;

/// What a queue is asked to be; fixed when it is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Items that may be queued at once; 0 for any number.
    pub maxsize: u64,
    /// Bytes of memory that items may take; `None` for half of what the machine or its control group has.
    pub max_bytes: Option<u64>,
    /// A put waits while at least this many bytes are queued; 0 for never.
    pub soft_bytes: u64,
    /// Items stay leased until `task_done`, and are redelivered if their holder dies.
    pub acknowledged: bool,
    /// How often an item is redelivered before it becomes a dead letter.
    pub max_deliveries: u8,
}

/// How long an operation may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A bounded attempt, for callers that must not block at all: it may end with [`Error::Busy`], and does whenever the
    /// queue needs care that takes longer (growth, a look for the dead, a dead holder of the lock). The caller then comes
    /// again with another patience.
    Try,
    /// Takes the lock, but does not wait for room or for an item. Ends with [`Error::Stopped`], as [`Error::FullBehindStopped`] or
    /// [`Error::EmptyBehindStopped`], if a stopped process holds the lock.
    Now,
    Until(Instant),
    Forever,
}

/// How long to wait, and what can end the wait earlier.
pub struct Wait<'a> {
    pub patience: Patience,
    /// Asked after a signal, at the end of each time slice, and in vain looks between; true ends the wait with [`Error::Interrupted`].
    /// And asked before the first operation of a process whose death nothing could prove: see
    /// [`joined_without_proof`](crate::joined_without_proof).
    pub interrupted: &'a mut dyn FnMut() -> bool,
}

/// A handle to a queue. One process has one for each queue, whatever the number of its threads.
pub struct Queue {
    pub(crate) segment: Segment,
    pub(crate) options: Options,
    /// This process's name in the queue, as in the lock word; 0 before it has registered. With WORK_PUT_OFF (upkeep.rs) if
    /// its next section has more to do.
    pub(crate) me: AtomicU32,
    /// A leaving of this process that was put off. See upkeep.rs.
    pub(crate) leaving: AtomicU32,
    /// The descriptor whose lock is this process's life byte, or -1.
    pub(crate) life: AtomicI32,
    pub(crate) spin_budgets: [SpinBudget; 2],
    #[cfg(not(loom))]
    pub(crate) memory_budget: SpinBudget,
    pub(crate) bell: Bell,
}

impl Queue {
    /// Creates a queue, which lives as long as any process has a handle to it.
    pub fn create(options: &Options) -> Result<Arc<Queue>, Error> {
        let (segment, options) = Segment::create(options, None)?;
        let mut open = fork::open_queues();
        Queue::enter_in_list(&mut open, segment, options)
    }

    /// Creates a queue with a name in a folder on a tmpfs. The name keeps it, with its items, until it is removed.
    pub fn create_named(path: &Path, options: &Options) -> Result<Arc<Queue>, Error> {
        let (segment, options) = Segment::create(options, Some(path))?;
        let mut open = fork::open_queues();
        Queue::enter_in_list(&mut open, segment, options)
    }

    /// Opens a queue by its name.
    pub fn open_named(path: &Path) -> Result<Arc<Queue>, Error> {
        Queue::attach(platform::open_file(path)?)
    }

    /// Opens the queue behind a descriptor; answers this process's handle if it has one already.
    pub fn attach(fd: OwnedFd) -> Result<Arc<Queue>, Error> {
        use std::os::fd::AsFd;
        let id = Segment::read_id(fd.as_fd())?;
        let mut open = fork::open_queues_without_leaving(id);
        if let Some(queue) = fork::find(&open, id) {
            return Ok(queue);
        }
        let (segment, options) = Segment::open(fd)?;
        Queue::enter_in_list(&mut open, segment, options)
    }

    /// A duplicate of another process's descriptor, whatever that leads to, for a process that has no /proc to open it by.
    /// The kernel allows it where it would allow a debugger.
    #[cfg(not(loom))]
    pub fn duplicate_of(pid: u32, fd: u32) -> Result<OwnedFd, Error> {
        platform::duplicate_of(pid, fd)
    }

    /// This process's handle to a queue, if it has one.
    pub fn by_id(id: Id) -> Option<Arc<Queue>> {
        fork::find(&fork::open_queues(), id)
    }

    fn enter_in_list(
        open: &mut fork::OpenQueues,
        segment: Segment,
        options: Options,
    ) -> Result<Arc<Queue>, Error> {
        let id = segment.id;
        open.try_reserve(1)
            .map_err(|_| platform::no_memory(size_of_val(open.as_slice()) as u64))?;
        let queue = Arc::new(Queue {
            segment,
            options,
            me: AtomicU32::new(0),
            leaving: AtomicU32::new(0),
            life: AtomicI32::new(-1),
            spin_budgets: [SpinBudget::new(), SpinBudget::new()],
            #[cfg(not(loom))]
            memory_budget: SpinBudget::new(),
            bell: Bell::new(),
        });
        open.push((id, Arc::downgrade(&queue) as Weak<Queue>));
        Ok(queue)
    }

    pub fn id(&self) -> Id {
        self.segment.id
    }

    /// The options, with the default of `max_bytes` filled in.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The descriptor of the memory file, by which another process can attach.
    pub fn fd(&self) -> Result<BorrowedFd<'_>, Error> {
        self.segment.fd().ok_or(Error::Closed)
    }

    /// A descriptor of one's own for the same memory file.
    pub fn duplicate_fd(&self) -> Result<OwnedFd, Error> {
        platform::duplicate(self.fd()?)
    }

    /// Items that a get would find at this moment: by the last change that is complete if another process is at work, or
    /// stopped. Does not wait; only for a dead holder of the lock it repairs the queue first.
    pub fn len(&self) -> u64 {
        self.look_after();
        self.ready_count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a put would have to wait; as [`len`](Self::len).
    pub fn is_full(&self) -> bool {
        self.look_after();
        !self.has_room()
    }

    /// Whether anything was ever put. Does not wait.
    #[cfg(not(loom))]
    pub fn was_used(&self) -> bool {
        self.segment.hot().published.get() > 0
    }

    #[inline(always)]
    pub(crate) fn ready_count(&self) -> u64 {
        // Acquire: pairs with the release in count_ready and uncount_ready, so that what the caller does next sees
        // what the number says.
        self.segment.hot().ready_count.load(Ordering::Acquire)
    }

    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        let (maxsize, soft_bytes) = (self.options.maxsize, self.options.soft_bytes);
        (maxsize == 0 || self.ready_count() < maxsize)
            && (soft_bytes == 0 || self.segment.hot().ready_bytes.get() < soft_bytes)
    }

    /// Whether so many payloads are looked at in place that whoever wants to hold one for long should copy it: more than a
    /// quarter of `max_bytes`, for which they do not count. A moment's estimate, without the lock.
    pub fn is_lent_out(&self) -> bool {
        self.segment.hot().lent_bytes.get() > self.options.max_bytes.unwrap_or(u64::MAX) / 4
    }

    /// Passes a result on; damage is noted in the segment, so that everybody learns of it.
    #[inline(always)]
    pub(crate) fn report<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Corrupt { .. }) = result {
            self.segment.hot().damaged.set(1);
        }
        result
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.depart();
        self.drop_bell();
        holding::forget(self.segment.id);
        // Last, so that nobody in this process opens the queue anew while it is still a member.
        fork::forget(self.segment.id);
    }
}
