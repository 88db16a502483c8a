//! Linux: memory files, their mappings, and descriptors of them.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed; // the counter stands for itself

use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::{Errno, FdFlags};
#[cfg(not(feature = "fuzzing"))]
use rustix::mm::MremapFlags;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use rustix::process::{Resource, getrlimit};

use super::process::take_descriptor_of;
use super::{Remembered, os};
use crate::error::Error;
use crate::units::PAGE;

/// Memory is taken and given back in steps of 16 MiB, so that a signal or another process never waits long
/// for one.
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

/// Whether a mapping of the file can be trusted: its length is fixed for ever, or it is a file in memory that
/// only this user may open. The user's processes are trusted not to truncate it.
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

/// The same as [`create_memory`] as a file in a folder on a tmpfs. It has no name until [`name_file`] gives
/// it one.
pub(crate) fn create_file(folder: &Path, length: u64) -> Result<OwnedFd, Error> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR).map_err(os("open(O_TMPFILE)"))?;
    if !is_in_memory(fd.as_fd()) {
        return Err(Error::NotInMemory);
    }
    rustix::fs::ftruncate(&fd, length).map_err(os("ftruncate"))?;
    Ok(fd)
}

/// Gives a complete file its name, which no other file may have. So a process that opens the name finds it
/// complete.
pub(crate) fn name_file(fd: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    let unnamed = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW).map_err(os("linkat"))
}

pub(crate) fn open_file(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(os("open"))
}

/// Whether the system refused a file for its length.
pub(crate) fn is_too_long(error: &Error) -> bool {
    matches!(error, Error::Os { errno, .. }
        if [Errno::FBIG, Errno::INVAL, Errno::OVERFLOW]
            .iter()
            .any(|known| known.raw_os_error() == *errno))
}

/// The file to which a descriptor leads.
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

/// Bytes of memory that back the file now.
pub(crate) fn backed_bytes(fd: BorrowedFd<'_>) -> Result<u64, Error> {
    Ok(rustix::fs::fstat(fd).map_err(os("fstat"))?.st_blocks as u64 * 512)
}

pub(crate) fn read_at(fd: BorrowedFd<'_>, buffer: &mut [u8], start: u64) -> Result<usize, Error> {
    rustix::io::pread(fd, buffer, start).map_err(os("pread"))
}

/// Bytes of address space that the mappings of [`map`] and [`map_again`] take in this process.
static MAPPED: AtomicU64 = AtomicU64::new(0);

/// All queues of a process together take at most this part of the address space that it may have.
const SHARE: u64 = 4;

/// What of the address space that this process's queues may take is left. `None` if it is not limited.
pub(crate) fn address_space_left() -> Option<u64> {
    let limit = getrlimit(Resource::As).current?;
    Some((limit / SHARE).saturating_sub(MAPPED.load(Relaxed)))
}

/// Address space that is counted for this process's queues.
struct Share(u64);

impl Share {
    fn take(length: u64) -> Result<Share, Error> {
        let limit = getrlimit(Resource::As).current;
        // Counted first, so that two threads cannot both take what is left.
        let mapped = MAPPED.fetch_add(length, Relaxed).saturating_add(length);
        let share = Share(length);
        if limit.is_some_and(|limit| mapped > limit / SHARE) {
            return Err(no_address_space(length));
        }
        Ok(share)
    }

    fn keep(self) {
        core::mem::forget(self);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        MAPPED.fetch_sub(self.0, Relaxed);
    }
}

#[cfg(test)]
pub(crate) fn mapped_bytes() -> u64 {
    MAPPED.load(Relaxed)
}

fn no_address_space(needed: u64) -> Error {
    Error::NoAddressSpace {
        needed,
        limit: getrlimit(Resource::As).current.unwrap_or(u64::MAX),
    }
}

/// Maps a part of the file for reading and writing. Takes no memory, also in a process that locks what it
/// maps (`mlockall(MCL_FUTURE)`). A core dump leaves the mapping out.
pub(crate) fn map(fd: BorrowedFd<'_>, start: u64, length: u64) -> Result<NonNull<u8>, Error> {
    let share = Share::take(length)?;
    let refused = |_| no_address_space(length);
    let size = usize::try_from(length).map_err(|_| no_address_space(length))?;
    #[cfg(not(feature = "fuzzing"))]
    let (place, flags) = (ptr::null_mut(), MapFlags::SHARED | MapFlags::NORESERVE);
    #[cfg(feature = "fuzzing")]
    let (place, flags) = (
        guard::reserve(start, size).map_err(refused)?,
        MapFlags::SHARED | MapFlags::NORESERVE | MapFlags::FIXED,
    );
    // Without access at first: the system puts memory behind all of an accessible mapping that it locks.
    // SAFETY: the kernel chooses the place, or it was reserved for this mapping; no other memory is replaced.
    let base =
        unsafe { rustix::mm::mmap(place, size, ProtFlags::empty(), flags, fd, start) }.map_err(refused)?;
    let mapping = NonNull::new(base.cast()).ok_or_else(|| no_address_space(length))?;
    share.keep();
    // SAFETY: the range is the mapping just made, which no other code knows.
    if unsafe { allow_access(base, size) }.is_err() {
        // SAFETY: as above.
        unsafe { unmap(mapping, start, length) };
        return Err(no_address_space(length));
    }
    Ok(mapping)
}

/// # Safety
/// The range is a mapping of the file, which no other code knows.
unsafe fn allow_access(base: *mut c_void, size: usize) -> Result<(), Errno> {
    // SAFETY: the caller's promise. The first and the last advice change no content; their refusal would cost
    // memory, and larger core dumps.
    unsafe {
        let _ = rustix::mm::munlock(base, size);
        rustix::mm::mprotect(base, size, MprotectFlags::READ | MprotectFlags::WRITE)?;
        let _ = rustix::mm::madvise(base, size, Advice::LinuxDontDump);
    }
    Ok(())
}

/// The same for a process whose descriptor is closed. `known` is a page of another mapping of the file, and
/// lies in the file before `start`, at the distance `ahead`. If the process has locked that page, it is not
/// locked any more.
///
/// Takes no address space but that of the range. (A kernel without `remap_file_pages` needs for a moment what
/// lies between the two as well.)
#[cfg(not(feature = "fuzzing"))]
pub(crate) fn map_again(
    known: NonNull<u8>,
    ahead: u64,
    start: u64,
    length: u64,
) -> Result<NonNull<u8>, Error> {
    let share = Share::take(length)?;
    let refused = |_| no_address_space(length);
    let (Ok(skipped), Ok(size)) = (usize::try_from(ahead), usize::try_from(length)) else {
        return Err(no_address_space(length));
    };
    // SAFETY: the caller's promise for `known`; the other ranges are mappings that are made here.
    let base = unsafe {
        let mut base = repeat(known, size).map_err(refused)?;
        if turn(base, size, start).is_err() {
            let _ = rustix::mm::munmap(base, size);
            base = repeat(known, skipped.saturating_add(size)).map_err(refused)?;
            let _ = rustix::mm::munmap(base, skipped);
            base = base.byte_add(skipped);
        }
        if allow_access(base, size).is_err() {
            let _ = rustix::mm::munmap(base, size);
            return Err(no_address_space(length));
        }
        base
    };
    share.keep();
    NonNull::new(base.cast()).ok_or_else(|| no_address_space(length))
}

/// Maps the file from a page on that is mapped already, at a place that the kernel chooses, without access.
///
/// # Safety
/// The page belongs to a mapping of the file that stays.
#[cfg(not(feature = "fuzzing"))]
unsafe fn repeat(known: NonNull<u8>, size: usize) -> Result<*mut c_void, Errno> {
    let known = known.as_ptr().cast();
    // SAFETY: the caller's promise. An old length of 0 leaves the known mapping as it is.
    unsafe {
        // The copy of a locked page would be locked, too, and the system would put memory behind all of it.
        let _ = rustix::mm::munlock(known, page_size() as usize);
        let base = rustix::mm::mremap(known, 0, size, MremapFlags::MAYMOVE)?;
        let closed = rustix::mm::mprotect(base, size, MprotectFlags::empty());
        if closed.is_err() {
            let _ = rustix::mm::munmap(base, size);
        }
        closed.map(|()| base)
    }
}

/// Makes a mapping one of the same file from `start` on.
///
/// # Safety
/// No other code knows the mapping, and it is without access.
#[cfg(not(feature = "fuzzing"))]
unsafe fn turn(base: *mut c_void, size: usize, start: u64) -> Result<(), ()> {
    let page = usize::try_from(start / page_size()).map_err(|_| ())?;
    // SAFETY: the caller's promise. The call replaces that mapping alone, keeps its protection, and reads no
    // page (MAP_NONBLOCK).
    let turned = unsafe { libc::remap_file_pages(base, size, 0, page, libc::MAP_NONBLOCK) };
    if turned == 0 { Ok(()) } else { Err(()) }
}

/// Not with guards around the mappings.
#[cfg(feature = "fuzzing")]
pub(crate) fn map_again(_: NonNull<u8>, _: u64, _: u64, _: u64) -> Result<NonNull<u8>, Error> {
    Err(Error::Closed)
}

/// # Safety
/// `base`, `start` and `length` are those of a mapping made by [`map`] or [`map_again`], to which no
/// reference is left.
pub(crate) unsafe fn unmap(base: NonNull<u8>, start: u64, length: u64) {
    drop(Share(length));
    #[cfg(feature = "fuzzing")]
    let (base, length) = guard::widen(base, start, length);
    #[cfg(not(feature = "fuzzing"))]
    let _ = start;
    // SAFETY: the caller's promise.
    let _ = unsafe { rustix::mm::munmap(base.as_ptr().cast(), length as usize) };
}

/// Maps pages of the file copy-on-write: loads read the file's contents, and stores go to private copies.
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

/// Makes private copies of all pages of a mapping made by [`map_privately`] that are not copies yet. Other
/// threads may read and write it meanwhile. False if the system has no memory for that; then some pages are
/// not copied.
pub(crate) fn copy_privately(pages: usize, length: usize) -> bool {
    // SAFETY: the caller names a mapping of this process; making pages present as for a store changes no
    // contents.
    let copied = unsafe { rustix::mm::madvise(pages as *mut _, length, Advice::LinuxPopulateWrite) };
    if copied == Err(Errno::INVAL) {
        // Linux before 5.14. An exchange that changes nothing, because other threads may store at the same
        // place. (The compiler would turn an addition of 0 into a load.)
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

/// Children of this process get no copy of a mapping made by [`map_privately`] from now on.
pub(crate) fn keep_from_children(pages: usize, length: usize) {
    // SAFETY: the caller names a mapping of this process, whose contents this advice does not change.
    let _ = unsafe { rustix::mm::madvise(pages as *mut _, length, Advice::LinuxDontFork) };
}

/// The system's page size, which may differ from that of the layout.
pub(crate) fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// Address space around a mapping in which each access kills the process: as wide as any offset of the layout
/// can lead around the near memory, and less around a range, into which no index leads unchecked.
#[cfg(feature = "fuzzing")]
mod guard {
    use super::*;

    fn width(start: u64) -> usize {
        if start == 0 { 1 << 40 } else { 1 << 34 }
    }

    pub(super) fn reserve(start: u64, length: usize) -> Result<*mut c_void, Errno> {
        let guard = width(start);
        // SAFETY: the kernel chooses the place, so no memory of this process is replaced.
        let place = unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            rustix::mm::mmap_anonymous(ptr::null_mut(), length + 2 * guard, ProtFlags::empty(), flags)
        }?;
        Ok(place.wrapping_byte_add(guard))
    }

    pub(super) fn widen(base: NonNull<u8>, start: u64, length: u64) -> (NonNull<u8>, u64) {
        let guard = width(start);
        let place = NonNull::new(base.as_ptr().wrapping_sub(guard)).unwrap_or(base);
        (place, length + 2 * guard as u64)
    }
}

/// Backs a range of the file with memory, so that an access cannot fail. Safe to repeat.
pub(crate) fn back(fd: BorrowedFd<'_>, start: u64, length: u64) -> Result<(), Error> {
    in_steps(start, length, |start, length| {
        rustix::fs::fallocate(fd, FallocateFlags::empty(), start, length)
    })
    .map_err(|errno| Error::NoMemory {
        needed: length,
        errno: errno.raw_os_error(),
    })
}

/// The same through a mapping, for a process whose descriptor other code has closed.
pub(crate) fn back_mapped(base: NonNull<u8>, length: u64) -> Result<(), Error> {
    in_steps(0, length, |start, length| {
        // SAFETY: `base` for `length` bytes lies inside a mapping (the segment checked it). Populating
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

/// The error of a process that has no private memory for so many bytes.
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

/// The same through a mapping.
pub(crate) fn punch_mapped(base: NonNull<u8>, length: u64) -> Result<(), Error> {
    in_steps(0, length, |start, length| {
        // SAFETY: `base` for `length` bytes lies inside a mapping (the segment checked it), and the caller
        // owns the range: no process has a reference into it, or relies on its contents.
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

/// Calls `step` for 16 MiB at most at a time. A signal undoes only the step that it interrupts, which is
/// repeated.
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

/// Borrows a descriptor by number if it still leads to `identity`; other code may have closed or replaced it.
pub(crate) fn borrow_checked(fd: RawFd, identity: FileIdentity) -> Option<BorrowedFd<'static>> {
    if fd < 0 {
        return None;
    }
    // SAFETY: a descriptor number that is not open is answered by fstat with EBADF; the borrow is used for
    // that alone until the identity has been proven.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    match identify(borrowed) {
        Ok((found, _)) if found == identity => Some(borrowed),
        _ => None,
    }
}

/// Closes a descriptor by number if it still leads to `identity`. Leaves it alone if other code has replaced
/// it.
pub(crate) fn close_checked(fd: RawFd, identity: FileIdentity) {
    if borrow_checked(fd, identity).is_some() {
        // SAFETY: it leads to our file, and this process opened that number for it and keeps no other owner
        // of it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// Sets the close-on-exec flag. Without it, a descriptor with which this process was started is inherited by
/// the program of its next `exec`.
pub(crate) fn close_on_exec(fd: BorrowedFd<'_>) -> Result<(), Error> {
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(os("fcntl(F_SETFD)"))
}

pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3).map_err(os("fcntl(F_DUPFD_CLOEXEC)"))
}

/// A duplicate of another process's descriptor.
pub(crate) fn duplicate_of(pid: u32, fd: u32) -> Result<OwnedFd, Error> {
    take_descriptor_of(pid, fd).map_err(os("pidfd_getfd"))
}
