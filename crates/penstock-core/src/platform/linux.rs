//! Linux: memfd and fallocate, futex, pidfd, /proc and open-file-description locks.
#![allow(unsafe_code)]

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::time::Duration;
pub(crate) use std::time::Instant;

pub(crate) use super::process::*;
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, poll};
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::{Errno, FdFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::pipe::PipeFlags;
use rustix::thread::futex;
use rustix::time::Timespec;

use crate::error::Error;
#[cfg(not(loom))]
use crate::sync::AtomicU32;
use crate::units::PAGE;

fn os(call: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| Error::Os {
        call,
        errno: errno.raw_os_error(),
    }
}

// ---------------------------------------------------------------------------------------------------- memory

/// Memory is taken and given back in steps of this size, so that a signal or a competitor never waits long for one.
const STEP: u64 = 16 << 20;

/// A sparse memory file of `length` bytes that can neither shrink nor grow, private to the user.
pub(crate) fn create_memory(name: &str, length: u64) -> Result<OwnedFd, Error> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .map_err(os("memfd_create"))?;
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).map_err(os("fchmod"))?;
    rustix::fs::ftruncate(&fd, length).map_err(os("ftruncate"))?;
    rustix::fs::fcntl_add_seals(&fd, REQUIRED_SEALS).map_err(os("fcntl(F_ADD_SEALS)"))?;
    Ok(fd)
}

const REQUIRED_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Whether a mapping of the file can be trusted: its length is fixed for ever, or it is a file in memory that belongs to
/// this user alone, who is trusted not to cut it short.
pub(crate) fn is_trustworthy(fd: BorrowedFd<'_>) -> bool {
    if rustix::fs::fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK)) {
        return true;
    }
    is_in_memory(fd)
        && rustix::fs::fstat(fd).is_ok_and(|stat| {
            stat.st_uid == rustix::process::geteuid().as_raw()
                && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && Mode::from_raw_mode(stat.st_mode)
                    .intersection(Mode::RWXG | Mode::RWXO)
                    .is_empty()
        })
}

/// Whether the file lies on a tmpfs, as memfds do.
fn is_in_memory(fd: BorrowedFd<'_>) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::fstatfs(fd).is_ok_and(|stat| stat.f_type as u64 == TMPFS_MAGIC)
}

/// The same as [`create_memory`] as a file in a folder on a tmpfs. It has no name until [`name_file`] gives it one.
pub(crate) fn create_file(folder: &Path, length: u64) -> Result<OwnedFd, Error> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR).map_err(os("open(O_TMPFILE)"))?;
    if !is_in_memory(fd.as_fd()) {
        return Err(Error::NotInMemory);
    }
    rustix::fs::ftruncate(&fd, length).map_err(os("ftruncate"))?;
    Ok(fd)
}

/// Gives a file its name, which nobody may have yet: whoever opens it finds it complete.
pub(crate) fn name_file(fd: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    let unnamed = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW).map_err(os("linkat"))
}

pub(crate) fn open_file(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(os("open"))
}

pub(crate) fn is_out_of_address_space(error: &Error) -> bool {
    matches!(error, Error::Os { errno, .. }
        if [Errno::NOMEM, Errno::FBIG, Errno::INVAL, Errno::OVERFLOW].iter().any(|known| known.raw_os_error() == *errno))
}

/// Which file a descriptor leads to, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

pub(crate) fn identify(fd: BorrowedFd<'_>) -> Result<(FileIdentity, u64), Error> {
    let stat = rustix::fs::fstat(fd).map_err(os("fstat"))?;
    Ok((
        FileIdentity {
            device: stat.st_dev,
            inode: stat.st_ino,
        },
        stat.st_size as u64,
    ))
}

/// Bytes of memory that stand behind the file now.
pub(crate) fn backed_bytes(fd: BorrowedFd<'_>) -> Result<u64, Error> {
    Ok(rustix::fs::fstat(fd).map_err(os("fstat"))?.st_blocks as u64 * 512)
}

pub(crate) fn read_start(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Error> {
    rustix::io::pread(fd, buffer, 0).map_err(os("pread"))
}

/// Maps the whole file for reading and writing. No memory is taken, and a core dump leaves it out.
pub(crate) fn map(fd: BorrowedFd<'_>, length: u64) -> Result<NonNull<u8>, Error> {
    let length = usize::try_from(length).map_err(|_| Error::Os {
        call: "mmap",
        errno: libc::ENOMEM,
    })?;
    #[cfg(not(feature = "fuzzing"))]
    let (place, flags) = (ptr::null_mut(), MapFlags::SHARED | MapFlags::NORESERVE);
    #[cfg(feature = "fuzzing")]
    let (place, flags) = (
        guard::reserve(length).map_err(os("mmap"))?,
        MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED,
    );
    // SAFETY: the kernel chooses the place, or it was reserved for this mapping; no other memory is replaced.
    let base = unsafe { rustix::mm::mmap(place, length, ProtFlags::READ | ProtFlags::WRITE, flags, fd, 0) }
        .map_err(os("mmap"))?;
    // SAFETY: the range is the mapping just made; this advice changes no content. Refusal would cost only larger core dumps.
    let _ = unsafe { rustix::mm::madvise(base, length, Advice::LinuxDontDump) };
    NonNull::new(base.cast()).ok_or(Error::Os {
        call: "mmap",
        errno: libc::ENOMEM,
    })
}

/// # Safety
/// `base` and `length` are those of a mapping made by [`map`], to which no reference is left.
pub(crate) unsafe fn unmap(base: NonNull<u8>, length: u64) {
    #[cfg(feature = "fuzzing")]
    let (base, length) = guard::widen(base, length);
    // SAFETY: the caller's promise.
    let _ = unsafe { rustix::mm::munmap(base.as_ptr().cast(), length as usize) };
}

/// Maps pages of the file copy-on-write: the contents are there, and stores go to copies of this process's own.
pub(crate) fn map_privately(fd: BorrowedFd<'_>, start: u64, length: usize) -> Option<NonNull<u8>> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses the place, so no memory of this process is replaced.
    let pages =
        unsafe { rustix::mm::mmap(ptr::null_mut(), length, protection, MapFlags::PRIVATE, fd, start) };
    NonNull::new(pages.ok()?.cast())
}

/// # Safety
/// `pages` and `length` are those of a mapping made by [`map_privately`], to which no reference is left.
pub(crate) unsafe fn unmap_privately(pages: NonNull<u8>, length: usize) {
    // SAFETY: the caller's promise.
    let _ = unsafe { rustix::mm::munmap(pages.as_ptr().cast(), length) };
}

/// Makes private copies of all pages of a mapping made by [`map_privately`] that are not copies yet. Other threads may read
/// and write it meanwhile. False if the system has no memory for that: the rest stays as it is.
pub(crate) fn copy_privately(pages: usize, length: usize) -> bool {
    // SAFETY: the caller names a mapping of this process; making pages present as for a store changes no contents.
    let copied = unsafe { rustix::mm::madvise(pages as *mut _, length, Advice::LinuxPopulateWrite) };
    if copied == Err(Errno::INVAL) {
        // Linux before 5.14. An exchange that changes nothing, because other threads may store at the same place. (To add
        // nothing would not do: the compiler makes a load of it.)
        use std::sync::atomic::{AtomicU8, Ordering};
        for page in (0..length).step_by(page_size() as usize) {
            // SAFETY: as above, and one byte of an existing page is aligned for an atomic byte.
            let byte = unsafe { &*((pages + page) as *const AtomicU8) };
            let value = byte.load(Ordering::Relaxed);
            let _ = byte.compare_exchange(value, value, Ordering::Relaxed, Ordering::Relaxed);
        }
        return true;
    }
    copied.is_ok()
}

/// Leaves a mapping made by [`map_privately`] out of the children of this process from now on.
pub(crate) fn keep_from_children(pages: usize, length: usize) {
    // SAFETY: the caller names a mapping of this process, whose contents this advice does not change.
    let _ = unsafe { rustix::mm::madvise(pages as *mut _, length, Advice::LinuxDontFork) };
}

/// The system's page size, which is not everywhere that of the layout.
pub(crate) fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// Address space around a mapping that no access survives: the farthest that any offset of the layout can lead.
#[cfg(feature = "fuzzing")]
mod guard {
    use super::*;

    const GUARD: usize = 1 << 40;

    pub(super) fn reserve(length: usize) -> Result<*mut std::ffi::c_void, Errno> {
        // SAFETY: the kernel chooses the place, so no memory of this process is replaced.
        let start = unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            rustix::mm::mmap_anonymous(ptr::null_mut(), length + 2 * GUARD, ProtFlags::empty(), flags)
        }?;
        Ok(start.wrapping_byte_add(GUARD))
    }

    pub(super) fn widen(base: NonNull<u8>, length: u64) -> (NonNull<u8>, u64) {
        let start = NonNull::new(base.as_ptr().wrapping_sub(GUARD)).unwrap_or(base);
        (start, length + 2 * GUARD as u64)
    }
}

/// Puts memory behind a range of the file, so that touching it cannot fail. Safe to repeat.
pub(crate) fn back(fd: BorrowedFd<'_>, start: u64, length: u64) -> Result<(), Error> {
    in_steps(start, length, |start, length| {
        rustix::fs::fallocate(fd, FallocateFlags::empty(), start, length)
    })
    .map_err(|errno| Error::NoMemory {
        needed: length,
        errno: errno.raw_os_error(),
    })
}

/// The same through the mapping, for a process whose descriptor was closed behind its back.
pub(crate) fn back_mapped(base: NonNull<u8>, start: u64, length: u64) -> Result<(), Error> {
    in_steps(start, length, |start, length| {
        // SAFETY: `base + start` for `length` bytes lies inside the mapping (the segment checked it). Populating
        // changes no content: it makes present the pages that a store would.
        unsafe {
            rustix::mm::madvise(
                base.as_ptr().add(start as usize).cast(),
                length as usize,
                Advice::LinuxPopulateWrite,
            )
        }
    })
    .map_err(|errno| Error::NoMemory {
        needed: length,
        errno: errno.raw_os_error(),
    })
}

/// This process has no memory of its own for so many bytes.
pub(crate) fn no_memory(needed: u64) -> Error {
    Error::NoMemory {
        needed,
        errno: libc::ENOMEM,
    }
}

/// Gives the memory behind a range of the file back to the system; the range then reads as zeros.
pub(crate) fn punch(fd: BorrowedFd<'_>, start: u64, length: u64) -> Result<(), Error> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    in_steps(start, length, |start, length| {
        rustix::fs::fallocate(fd, mode, start, length)
    })
    .map_err(os("fallocate(FALLOC_FL_PUNCH_HOLE)"))
}

/// The same through the mapping.
pub(crate) fn punch_mapped(base: NonNull<u8>, start: u64, length: u64) -> Result<(), Error> {
    in_steps(start, length, |start, length| {
        // SAFETY: `base + start` for `length` bytes lies inside the mapping (the segment checked it), and the caller owns
        // the range: nobody has a reference to what is in it, or relies on it.
        unsafe {
            rustix::mm::madvise(
                base.as_ptr().add(start as usize).cast(),
                length as usize,
                Advice::LinuxRemove,
            )
        }
    })
    .map_err(os("madvise(MADV_REMOVE)"))
}

/// A signal undoes the step that it interrupts, and only that one.
fn in_steps(mut start: u64, length: u64, step: impl Fn(u64, u64) -> Result<(), Errno>) -> Result<(), Errno> {
    debug_assert!(start % PAGE == 0 && length % PAGE == 0);
    let end = start + length;
    while start < end {
        let size = STEP.min(end - start);
        match step(start, size) {
            Ok(()) => start += size,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A number that is found out once, and not 0. Not a `OnceLock`: if a thread were just inside of one when another forks,
/// the child would wait for that thread for ever.
struct Remembered(std::sync::atomic::AtomicU64);

impl Remembered {
    const fn new() -> Remembered {
        Remembered(std::sync::atomic::AtomicU64::new(0))
    }

    /// The number, or what `find_out` answers; several threads may find it out at once. A failure is not remembered.
    fn or_else(&self, find_out: impl FnOnce() -> Option<u64>) -> Option<u64> {
        use std::sync::atomic::Ordering::Relaxed; // nothing else is said by it
        match self.0.load(Relaxed) {
            0 => find_out().inspect(|number| self.0.store(*number, Relaxed)),
            number => Some(number),
        }
    }
}

/// The memory that this process may use at most: the machine's, or its control group's if that is less.
pub(crate) fn memory_limit() -> u64 {
    static LIMIT: Remembered = Remembered::new();
    let find_out = || {
        let info = rustix::system::sysinfo();
        let total = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit.max(1)));
        control_group_limits().fold(total, u64::min)
    };
    LIMIT.or_else(|| Some(find_out())).unwrap_or(0)
}

fn control_group_limits() -> impl Iterator<Item = u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut files = vec!["/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned()];
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/{file}"));
            match path.rfind('/') {
                Some(cut) => path = &path[..cut],
                None => break,
            }
        }
    }
    files
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
}

pub(crate) fn random_id() -> Result<[u8; 16], Error> {
    let mut id = [0; 16];
    let filled =
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty()).map_err(os("getrandom"))?;
    if filled == id.len() {
        Ok(id)
    } else {
        Err(Error::Os {
            call: "getrandom",
            errno: libc::EIO,
        })
    }
}

// --------------------------------------------------------------------------------------------- waiting and waking

/// How a sleep on a futex ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slept {
    /// Woken, or the word had another value already.
    Changed,
    TimedOut,
    /// A signal was delivered to this thread.
    Interrupted,
}

#[cfg(not(loom))]
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, at_most: Duration) -> Slept {
    let timeout = Timespec {
        tv_sec: at_most.as_secs() as i64,
        tv_nsec: i64::from(at_most.subsec_nanos()),
    };
    match futex::wait(word, futex::Flags::empty(), expected, Some(&timeout)) {
        Err(Errno::TIMEDOUT) => Slept::TimedOut,
        Err(Errno::INTR) => Slept::Interrupted,
        Ok(()) | Err(_) => Slept::Changed,
    }
}

#[cfg(not(loom))]
pub(crate) fn futex_wake(word: &AtomicU32, count: u32) {
    // The only possible error is a word that is not mapped, and a reference to it is mapped.
    let _ = futex::wake(word, futex::Flags::empty(), count);
}

/// Lets other threads run for that long.
pub(crate) fn sleep(time: Duration) {
    std::thread::sleep(time);
}

pub(crate) fn cores() -> u32 {
    static CORES: Remembered = Remembered::new();
    let find_out = || std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    CORES.or_else(|| Some(find_out())).unwrap_or(1) as u32
}

/// A number of the calling thread, not 0, which no other of this process has (until four thousand million have come and
/// gone). Counted here, because the kernel's own would cost a system call for each item that is acknowledged.
pub(crate) fn thread_id() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static LAST: AtomicU32 = AtomicU32::new(0);
    thread_local! {
        static NUMBER: u32 = LAST.fetch_add(1, Ordering::Relaxed) % (u32::MAX - 1) + 1;
    }
    // A thread whose locals are gone already acknowledges nothing that it could mistake for another's.
    NUMBER.try_with(|number| *number).unwrap_or(u32::MAX)
}

/// Milliseconds of the monotonic clock, the same in every process of the machine; coarse, and so nearly free.
pub(crate) fn coarse_millis() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

// ---------------------------------------------------------------------------------------------------- life bytes

/// A second, independent open file description of the same file: locks taken on it are this process's own.
pub(crate) fn reopen(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// The state of a participant's life byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Held,
    Free,
    Unknown,
}

fn byte_lock(index: u32, kind: i32) -> libc::flock {
    // SAFETY: flock is a plain C struct for which zeros are valid; Linux asks that l_pid is 0 for these commands.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = libc::off_t::from(index as i32);
    lock.l_len = 1;
    lock
}

/// Takes the life byte for this open file description. The kernel releases it when the description is closed, by
/// whatever death, after the last thread of the process has stopped.
pub(crate) fn hold_life(life: &OwnedFd, index: u32) -> bool {
    let lock = byte_lock(index, libc::F_WRLCK);
    // SAFETY: the descriptor is open and the pointer leads to a valid flock that the call only reads.
    unsafe { libc::fcntl(life.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) == 0 }
}

/// Whether another open file description holds the life byte.
pub(crate) fn look_at_life(fd: BorrowedFd<'_>, index: u32) -> Life {
    let mut lock = byte_lock(index, libc::F_WRLCK);
    // SAFETY: the descriptor is open and the pointer leads to a valid flock that the call may write.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 if i32::from(lock.l_type) == libc::F_UNLCK => Life::Free,
        0 => Life::Held,
        _ => Life::Unknown,
    }
}

// ---------------------------------------------------------------------------------------------------- descriptors

/// Borrows a descriptor by number if it still leads to `identity`; other code may have closed or replaced it.
pub(crate) fn borrow_checked(fd: RawFd, identity: FileIdentity) -> Option<BorrowedFd<'static>> {
    if fd < 0 {
        return None;
    }
    // SAFETY: a descriptor number that is not open is answered by fstat with EBADF; the borrow is used for that alone
    // until the identity has been proven.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    match identify(borrowed) {
        Ok((found, _)) if found == identity => Some(borrowed),
        _ => None,
    }
}

/// Closes a descriptor by number if it still leads to `identity`, and leaves it alone if it is somebody else's by now.
pub(crate) fn close_checked(fd: RawFd, identity: FileIdentity) {
    if borrow_checked(fd, identity).is_some() {
        // SAFETY: it leads to our file, and this process opened that number for it and keeps no other owner of it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// A descriptor that this process was started with is inherited by whatever program it may become.
pub(crate) fn close_on_exec(fd: BorrowedFd<'_>) -> Result<(), Error> {
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(os("fcntl(F_SETFD)"))
}

pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3).map_err(os("fcntl(F_DUPFD_CLOEXEC)"))
}

/// The same of another process's.
pub(crate) fn duplicate_of(pid: u32, fd: u32) -> Result<OwnedFd, Error> {
    take_descriptor_of(pid, fd).map_err(os("pidfd_getfd"))
}

// ---------------------------------------------------------------------------------------------------- the bell

/// What is to be done with a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// What an end of a pipe has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PipeState {
    Ready,
    Quiet,
    /// The other ends are all closed, and it holds nothing.
    HungUp,
    /// This end is not open.
    Closed,
}

/// A pipe that another process is said to have open.
pub(crate) enum PipeOfAnother {
    Open(OpenPipe),
    /// That process has it not, or not there.
    Elsewhere,
    /// It cannot be asked.
    OutOfReach,
}

/// A pipe that is open here in both directions.
pub(crate) struct OpenPipe {
    pub reading: OwnedFd,
    /// `None` if the other descriptor is open in both.
    pub writing: Option<OwnedFd>,
}

/// A new pipe, and its number. Where the kernel opens no descriptor again, it takes two.
pub(crate) fn make_pipe() -> Result<(OpenPipe, u64), Error> {
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (reading, writing) = rustix::pipe::pipe_with(flags).map_err(os("pipe2"))?;
    let number = pipe_number(reading.as_raw_fd()).ok_or(Error::Closed)?;
    let pipe = match reopen_in(reading.as_raw_fd(), OFlags::RDWR) {
        Ok(both) => OpenPipe {
            reading: both,
            writing: None,
        },
        Err(_) => OpenPipe {
            reading,
            writing: Some(writing),
        },
    };
    Ok((pipe, number))
}

fn reopen_in(fd: RawFd, access: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{fd}");
    rustix::fs::open(path, access | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

/// Another description of the same pipe, in one direction.
pub(crate) fn reopen_pipe(fd: RawFd, access: Access) -> Option<OwnedFd> {
    let access = match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::WRONLY,
    };
    reopen_in(fd, access).ok()
}

/// Opens a pipe in both directions through a process that has it open: at `reading`, and at `writing` if that is another.
pub(crate) fn open_pipe_of(pid: u32, (reading, writing): (u32, Option<u32>), number: u64) -> PipeOfAnother {
    match open_pipe_by_path(pid, reading, number) {
        PipeOfAnother::OutOfReach => duplicate_pipe_of(pid, (reading, writing), number),
        found => found,
    }
}

/// Without /proc: a duplicate of that process's own descriptors. The kernel allows that to fewer than /proc does.
fn duplicate_pipe_of(pid: u32, (reading, writing): (u32, Option<u32>), number: u64) -> PipeOfAnother {
    let duplicate = |fd| match take_descriptor_of(pid, fd) {
        Ok(fd) if pipe_number(fd.as_raw_fd()) == Some(number) => Ok(fd),
        Ok(_) | Err(Errno::BADF | Errno::SRCH) => Err(PipeOfAnother::Elsewhere),
        Err(_) => Err(PipeOfAnother::OutOfReach),
    };
    let opened = duplicate(reading).and_then(|reading| {
        let writing = writing.map(duplicate).transpose()?;
        Ok(OpenPipe { reading, writing })
    });
    match opened {
        Ok(pipe) => PipeOfAnother::Open(pipe),
        Err(not_opened) => not_opened,
    }
}

fn open_pipe_by_path(pid: u32, fd: u32, number: u64) -> PipeOfAnother {
    let path = format!("/proc/{pid}/fd/{fd}");
    // What is there by now may be anything: it is looked at by its link, which opens nothing, and again afterwards.
    match fs::read_link(&path) {
        Ok(target) if target.as_os_str() == format!("pipe:[{number}]").as_str() => {}
        Ok(_) => return PipeOfAnother::Elsewhere,
        Err(_) if fs::read_dir(format!("/proc/{pid}/fd")).is_ok() => return PipeOfAnother::Elsewhere,
        Err(_) => return PipeOfAnother::OutOfReach,
    }
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(both) if pipe_number(both.as_raw_fd()) == Some(number) => PipeOfAnother::Open(OpenPipe {
            reading: both,
            writing: None,
        }),
        Ok(_) => PipeOfAnother::Elsewhere,
        Err(_) => PipeOfAnother::OutOfReach,
    }
}

/// The device of all pipes that have no name.
fn pipe_device() -> Option<u64> {
    static DEVICE: Remembered = Remembered::new();
    DEVICE.or_else(|| {
        let (reading, _) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).ok()?;
        Some(rustix::fs::fstat(reading).ok()?.st_dev)
    })
}

/// The number by which the kernel knows a pipe. `None` if the descriptor leads to none.
pub(crate) fn pipe_number(fd: RawFd) -> Option<u64> {
    if fd < 0 {
        return None;
    }
    // SAFETY: a descriptor number that is not open is answered by fstat with EBADF; the borrow is used for that alone.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let stat = rustix::fs::fstat(borrowed).ok()?;
    let is_pipe =
        FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && Some(stat.st_dev) == pipe_device();
    is_pipe.then_some(stat.st_ino)
}

/// Has the calls on an end of a pipe never block, in every process that has this description.
pub(crate) fn never_block(fd: RawFd) -> Result<(), Error> {
    // SAFETY: a descriptor number that is not open is answered with EBADF; the borrow is used for that alone.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::ioctl_fionbio(borrowed, true).map_err(os("ioctl(FIONBIO)"))
}

/// Puts a byte into a pipe. A full one has enough of them, and one that nobody can read needs none.
pub(crate) fn ring(fd: RawFd) -> bool {
    // SAFETY: the caller has found the pipe behind this number a moment ago. Should other code have closed it since, the call
    // fails, or, if it has opened something else there, that gets a byte.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    matches!(
        rustix::io::write(pipe, &[1]),
        Ok(_) | Err(Errno::AGAIN | Errno::PIPE)
    )
}

/// What a write puts into a pipe as a whole or not at all, in pages of its own.
const CHUNK: usize = PAGE as usize;

/// Has a pipe hold four pages, so that it takes little to fill it; and bytes of the bell, which may share no page with what is
/// left of a filling, do not. One that must stay larger only takes longer.
pub(crate) fn make_narrow(fd: RawFd) {
    // SAFETY: as in never_block.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, 4 * rustix::param::page_size());
}

/// What came of filling a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plugged {
    /// Nobody who asks whether it can be written to is told that it can.
    Full,
    NoReader,
    Not,
}

/// Fills a pipe.
pub(crate) fn plug(fd: RawFd) -> Plugged {
    // SAFETY: as in ring; the number of writes is bounded, and what is no pipe has no size.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    let Ok(size) = rustix::pipe::fcntl_getpipe_size(pipe) else {
        return Plugged::Not;
    };
    for _ in 0..=size / CHUNK {
        match rustix::io::write(pipe, &[1; CHUNK]) {
            Ok(_) => {}
            // One that has a single page is full with a byte, and nobody would know when to take it out.
            Err(Errno::AGAIN) if is_plugged(fd) => return Plugged::Full,
            Err(Errno::PIPE) => return Plugged::NoReader,
            Err(_) => break,
        }
    }
    Plugged::Not
}

/// How many bytes a pipe holds; either end can tell.
fn bytes_in_pipe(fd: RawFd) -> u64 {
    // SAFETY: as in ring.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::ioctl_fionread(pipe).unwrap_or(0)
}

/// Takes so much out of a full pipe that it can be written to again, and leaves a byte at least. Not to be called by two at once.
pub(crate) fn unplug(fd: RawFd) -> bool {
    // SAFETY: as in ring.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    while is_plugged(fd) {
        match rustix::io::read(pipe, &mut [0; CHUNK]) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Whether a pipe holds what only [`plug`] puts there.
pub(crate) fn is_plugged(fd: RawFd) -> bool {
    bytes_in_pipe(fd) > CHUNK as u64
}

/// Sleeps until a pipe can be written to, `at_most` so long; or until its readers, or the writers of `back`, are all gone.
pub(crate) fn await_unplugged((writing, back): (RawFd, RawFd), at_most: Duration) -> Slept {
    let (_, polled) = poll_ends((writing, PollFlags::OUT), back, at_most);
    match polled {
        Ok(0) => Slept::TimedOut,
        Err(Errno::INTR) => Slept::Interrupted,
        _ => Slept::Changed,
    }
}

/// Takes all bytes out of a pipe.
pub(crate) fn silence(fd: RawFd) -> bool {
    // SAFETY: as in ring.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut bytes = [0; CHUNK];
    loop {
        match rustix::io::read(pipe, &mut bytes) {
            Ok(count) if count == bytes.len() => {}
            Err(Errno::INTR) => {}
            Ok(_) | Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
}

/// Waits until the reading end of a pipe has something to say, `at_most` so long. A signal ends the wait early, with `Quiet`.
pub(crate) fn look_at_pipe(fd: RawFd, at_most: Duration) -> PipeState {
    if fd < 0 {
        return PipeState::Closed;
    }
    // SAFETY: a descriptor number that is not open is answered by poll with NVAL; the borrow is used for that alone.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut polled = [PollFd::new(&borrowed, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: at_most.as_secs() as i64,
        tv_nsec: i64::from(at_most.subsec_nanos()),
    };
    let _ = poll(&mut polled, Some(&timeout));
    let seen = polled[0].revents();
    if seen.contains(PollFlags::NVAL) {
        PipeState::Closed
    } else if seen.contains(PollFlags::IN) {
        PipeState::Ready
    } else if seen.intersects(PollFlags::HUP | PollFlags::ERR) {
        PipeState::HungUp
    } else {
        PipeState::Quiet
    }
}

/// Whether somebody reads behind the writing end of a pipe. `back` is the reading end of a second pipe, by which the same
/// processes answer, or -1: a process that dies closes one of the two first.
pub(crate) fn has_reader(writing: RawFd, back: RawFd) -> PipeState {
    if writing < 0 {
        return PipeState::Closed;
    }
    let (seen, _) = poll_ends((writing, PollFlags::empty()), back, Duration::ZERO);
    if seen.contains(PollFlags::NVAL) {
        PipeState::Closed
    } else if seen.intersects(PollFlags::ERR | PollFlags::HUP) {
        PipeState::HungUp
    } else {
        PipeState::Ready
    }
}

/// What poll says of a writing end and of the reading end `back` (or -1), together, and its own result.
fn poll_ends(
    (writing, asked): (RawFd, PollFlags),
    back: RawFd,
    at_most: Duration,
) -> (PollFlags, Result<usize, Errno>) {
    // SAFETY: as in look_at_pipe; -1 is not borrowed.
    let (there, back) = unsafe {
        let back = if back < 0 { writing } else { back };
        (BorrowedFd::borrow_raw(writing), BorrowedFd::borrow_raw(back))
    };
    let mut polled = [PollFd::new(&there, asked), PollFd::new(&back, PollFlags::empty())];
    let timeout = Timespec {
        tv_sec: at_most.as_secs() as i64,
        tv_nsec: i64::from(at_most.subsec_nanos()),
    };
    let result = poll(&mut polled, Some(&timeout));
    (polled[0].revents() | polled[1].revents(), result)
}

/// Closes a descriptor by number if it still leads to that pipe, and leaves it alone if it is somebody else's by now.
pub(crate) fn close_pipe(fd: RawFd, number: u64) {
    if pipe_number(fd) == Some(number) {
        // SAFETY: it leads to our pipe, and this process opened that number for it and keeps no other owner of it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

// ------------------------------------------------------------------------------------------------ the substitute

/// An epoll descriptor that is readable while its counter, the second descriptor, is set.
pub(crate) fn make_substitute() -> Result<(OwnedFd, OwnedFd), Error> {
    let counter =
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(os("eventfd"))?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(os("epoll_create1"))?;
    epoll::add(
        &epoll,
        &counter,
        epoll::EventData::new_u64(0),
        epoll::EventFlags::IN,
    )
    .map_err(os("epoll_ctl"))?;
    Ok((epoll, counter))
}

/// Whether two descriptor numbers still lead to what [`make_substitute`] made.
pub(crate) fn is_substitute(epoll: RawFd, counter: RawFd) -> bool {
    if epoll < 0 || counter < 0 {
        return false;
    }
    // SAFETY: numbers that are not open, or not those of an epoll descriptor and its counter, are answered with an
    // error; the borrows are used for that alone.
    let (epoll, counter) = unsafe { (BorrowedFd::borrow_raw(epoll), BorrowedFd::borrow_raw(counter)) };
    epoll::modify(
        epoll,
        counter,
        epoll::EventData::new_u64(0),
        epoll::EventFlags::IN,
    )
    .is_ok()
}

/// Has the epoll descriptor be readable while that end of a pipe is, too.
pub(crate) fn look_at_end_too(epoll: RawFd, end: RawFd) -> Result<(), Error> {
    // SAFETY: as in is_substitute.
    let (epoll, end) = unsafe { (BorrowedFd::borrow_raw(epoll), BorrowedFd::borrow_raw(end)) };
    match epoll::add(epoll, end, epoll::EventData::new_u64(1), epoll::EventFlags::IN) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(os("epoll_ctl")(errno)),
    }
}

pub(crate) fn set_counter(counter: RawFd, is_set: bool) -> bool {
    // SAFETY: the caller has just asked is_substitute; should other code have replaced it since, that gets eight bytes.
    let counter = unsafe { BorrowedFd::borrow_raw(counter) };
    let done = if is_set {
        rustix::io::write(counter, &1u64.to_ne_bytes())
    } else {
        rustix::io::read(counter, &mut [0; 8])
    };
    matches!(done, Ok(_) | Err(Errno::AGAIN))
}

/// For numbers that [`is_substitute`] has just known.
pub(crate) fn close_substitute(epoll: RawFd, counter: RawFd) {
    for fd in [epoll, counter] {
        // SAFETY: it leads to what this process made, and this process keeps no other owner of it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

// ---------------------------------------------------------------------------------------------------- fork

/// A word that reads 0 in a child after `fork`, however the fork was made.
#[cfg(not(loom))]
pub(crate) fn wiped_on_fork() -> Option<&'static AtomicU32> {
    // SAFETY: a new anonymous mapping; nothing of this process is replaced.
    let page = unsafe {
        rustix::mm::mmap_anonymous(
            ptr::null_mut(),
            PAGE as usize,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }
    .ok()?;
    // SAFETY: the range is the mapping just made, which holds nothing yet.
    unsafe { rustix::mm::madvise(page, PAGE as usize, Advice::LinuxWipeOnFork) }.ok()?;
    // SAFETY: the page is mapped for the rest of the process's life, aligned, zeroed, and used as this atomic alone.
    Some(unsafe { &*page.cast::<AtomicU32>() })
}

/// Calls the functions around every `fork`: before it in the parent, after it in the parent, after it in the child.
pub(crate) fn at_fork(prepare: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) {
    // SAFETY: the three are functions of this library, which is never unloaded (CPython does not unload extensions).
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

#[cfg(feature = "fault-points")]
pub(crate) fn stop_self() {
    // SAFETY: raise with a valid signal number; the call returns once the process was continued.
    unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
}

#[cfg(feature = "fault-points")]
pub(crate) fn kill_self() {
    // SAFETY: raise with a valid signal number; SIGKILL does not return.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    loop {
        std::thread::park();
    }
}
