//! The errors of the operations, with the facts and the remedy.

use core::fmt;

use crate::units::Id;

/// Why an operation had no effect. The queue is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// No room for another item within the time allowed.
    Full,
    /// No item within the time allowed, or items still unfinished (`join`).
    Empty,
    /// The lock stayed taken during the bounded attempt of [`Patience::TryLock`](crate::Patience::TryLock).
    Busy,
    /// The process that holds the lock does not run, and the caller does not wait for one that does not.
    Stopped {
        pid: u32,
    },
    /// The same, of a put.
    FullBehindStopped {
        pid: u32,
    },
    /// The same, of a get, a poll or a join.
    EmptyBehindStopped {
        pid: u32,
    },
    /// The caller's `interrupted` returned true.
    Interrupted,
    /// `task_done` without an unfinished item.
    TooManyDone,
    /// The payload of an item that is to go back is still borrowed.
    StillBorrowed,
    /// The queue's own limit, `max_bytes`, is reached.
    OutOfMemory {
        needed: u64,
        used: u64,
        limit: u64,
        /// Items of an acknowledged queue that are taken and not finished, and their part of `used`. (The
        /// number has 32 bits so that this variant is no larger than the others: every result of an operation
        /// has room for an error.)
        taken: u32,
        taken_bytes: u64,
    },
    /// The system has no memory to give.
    NoMemory {
        needed: u64,
        errno: i32,
    },
    /// This process has no address space for memory that the queue has or needs.
    NoAddressSpace {
        needed: u64,
        /// Bytes that the process may map (`RLIMIT_AS`), or `u64::MAX`. Its queues take a quarter at most.
        limit: u64,
    },
    TooManyParticipants {
        limit: u32,
    },
    TooManyWaiters {
        limit: u32,
    },
    /// The shared memory holds an impossible value.
    Corrupt {
        id: Id,
        what: &'static str,
    },
    /// The descriptor does not lead to a queue of this version.
    NotAQueue {
        what: &'static str,
    },
    /// Other code of this process has closed the queue's descriptor.
    Closed,
    /// The queue was shut down: no item is put any more; and to a getter: none is taken any more.
    ShutDown,
    /// No process can put any more, and everything was taken (a connection whose other side is closed or
    /// dead).
    Ended,
    /// No process can get any more (the same).
    Broken,
    /// The descriptor of a connection was closed.
    EndClosed,
    /// A process watches the queue, and its descriptor cannot be opened.
    NotifierUnreachable {
        pid: u32,
    },
    /// The folder for a named queue lies on a disk.
    NotInMemory,
    Os {
        call: &'static str,
        errno: i32,
    },
}

const _: () = assert!(size_of::<Error>() == 40);

/// An id as it stands in the name of the queue's memory file.
pub(crate) fn hex(id: &Id) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mib(bytes: u64) -> String {
    if bytes < 1 << 20 {
        format!("{bytes} bytes")
    } else {
        format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let os = |errno: &i32| std::io::Error::from_raw_os_error(*errno);
        match self {
            Error::Full => write!(f, "the queue is full"),
            Error::Empty => write!(f, "the queue is empty"),
            Error::Busy => write!(f, "the queue's lock is taken"),
            Error::Stopped { pid } | Error::FullBehindStopped { pid } | Error::EmptyBehindStopped { pid } => {
                write!(f, "process {pid} is stopped inside the queue's critical section")
            }
            Error::Interrupted => write!(f, "interrupted"),
            Error::TooManyDone => write!(f, "task_done() called too many times"),
            Error::StillBorrowed => write!(f, "the item's payload is still borrowed by its holder"),
            Error::OutOfMemory {
                needed,
                used,
                limit,
                taken,
                taken_bytes,
            } => {
                let (needed, used, limit) = (mib(*needed), mib(*used), mib(*limit));
                write!(
                    f,
                    "the queue's memory limit is reached: the item needs {needed}, {used} are in use, \
                     max_bytes is {limit}; "
                )?;
                match taken {
                    0 => write!(f, "take items out, or create the queue with a larger max_bytes"),
                    taken => write!(
                        f,
                        "{taken} items of {} are taken and not done: call task_done() for each item that is, \
                         take items out, or create the queue with a larger max_bytes",
                        mib(*taken_bytes)
                    ),
                }
            }
            Error::NoMemory { needed, errno } => write!(
                f,
                "the system has no memory for {} of a queue ({}); take items out, or free memory",
                mib(*needed),
                os(errno)
            ),
            Error::NoAddressSpace { needed, limit } => {
                let needed = mib(*needed);
                write!(f, "this process has no address space for {needed} of a queue; ")?;
                match limit {
                    &u64::MAX => write!(f, "free memory that it has mapped"),
                    limit => write!(
                        f,
                        "its queues may take a quarter of its limit of {} (RLIMIT_AS, ulimit -v): raise the \
                         limit, or use fewer queues",
                        mib(*limit)
                    ),
                }
            }
            Error::TooManyParticipants { limit } => {
                write!(
                    f,
                    "{limit} processes use this queue already, which is the most it can have; \
                     use a second queue"
                )
            }
            Error::TooManyWaiters { limit } => {
                write!(
                    f,
                    "{limit} threads wait on this queue already, which is the most it can have; \
                     use a second queue"
                )
            }
            Error::Corrupt { id, what } => write!(
                f,
                "the shared memory of queue {} is damaged ({what}); some process has written where it must \
                 not: create a new queue",
                hex(id)
            ),
            Error::NotAQueue { what } => write!(
                f,
                "the descriptor is not a queue of this Penstock version: {what}"
            ),
            Error::Closed => write!(
                f,
                "the queue's file descriptor was closed by other code in this process (closerange?); \
                 the queue still works here but cannot be sent to another process"
            ),
            Error::ShutDown => write!(f, "the queue was shut down"),
            Error::Ended => write!(
                f,
                "the other side is closed or dead, and everything it sent was received"
            ),
            Error::Broken => write!(f, "the other side is closed or dead"),
            Error::EndClosed => write!(f, "the connection's descriptor was closed"),
            Error::NotifierUnreachable { pid } => write!(
                f,
                "process {pid} (by its own count) waits for this queue with a descriptor that this process \
                 cannot open: both must be in the same pid namespace and belong to the same user, and this \
                 one must see /proc or be allowed to debug the other"
            ),
            Error::NotInMemory => write!(
                f,
                "the folder for a named queue must lie on a tmpfs, as /dev/shm and /run/user do; a disk \
                 would be far slower"
            ),
            Error::Os { call, errno } => write!(f, "{call} failed: {}", os(errno)),
        }
    }
}

impl std::error::Error for Error {}
