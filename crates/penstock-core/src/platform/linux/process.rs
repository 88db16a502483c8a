//! Linux: the identity of processes, and whether they live. By pidfd, and by /proc where it is mounted.
//!
//! A worker in a chroot or in a sandbox has no /proc, so every question has an answer without it:
//!
//! | question | first answer | without that |
//! |---|---|---|
//! | which process was it | the inode of its pidfd (Linux 6.9), never used again | its start time (1) |
//! | which pid namespace is this | an `ioctl` of the own pidfd (Linux 6.11) | `/proc/self/ns/pid`, or (2) |
//! | does it live | its pidfd | `kill(pid, 0)` |
//! | does it still map the file | its `maps` in /proc | taken as true |
//!
//! 1. From /proc. A process that started after the note was made is another one. Without /proc nothing tells
//!    the two apart.
//! 2. The namespace that the parent knew, or else a random number that only children share.
#![allow(unsafe_code)]

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, WaitId, WaitIdOptions, waitid};
use rustix::time::Timespec;

use super::memory::{FileIdentity, random_id};
use crate::units::Ended;

/// Marks a birth that is the number of a pidfd's inode; without this mark it is a start time.
const BY_NUMBER: u64 = 1 << 63;
/// Marks a namespace's number that the kernel did not give.
const OWN_NUMBER: u64 = 1 << 63;

/// What the kernel tells about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is proven to be that process, and none of its threads can run any more.
    Ended,
    /// It is proven to be that process, and it has not ended.
    Running,
    /// No process that runs in this pid namespace is it.
    Absent,
    /// A process with its pid runs in this pid namespace, and nothing tells the two apart.
    Present,
}

pub(crate) fn process_id() -> u32 {
    rustix::process::getpid().as_raw_nonzero().get() as u32
}

fn pidfd_of(pid: u32) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Errno::SRCH)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
}

/// A duplicate of another process's descriptor.
pub(crate) fn take_descriptor_of(pid: u32, fd: u32) -> Result<OwnedFd, Errno> {
    let fd = i32::try_from(fd).map_err(|_| Errno::BADF)?;
    rustix::process::pidfd_getfd(pidfd_of(pid)?, fd, PidfdGetfdFlags::empty())
}

/// The number of a pidfd's inode. `None` before Linux 6.9, where all pidfds share one.
fn number_of(pidfd: &OwnedFd) -> Option<u64> {
    const PIDFS_MAGIC: u64 = 0x5049_4446;
    let is_pidfs = rustix::fs::fstatfs(pidfd).is_ok_and(|stat| stat.f_type as u64 == PIDFS_MAGIC);
    is_pidfs
        .then(|| rustix::fs::fstat(pidfd).ok())
        .flatten()
        .map(|stat| stat.st_ino)
}

/// A number that differs for every process that ever has this pid; 0 if the system gives none.
pub(crate) fn own_birth() -> u64 {
    let pid = process_id();
    let number = pidfd_of(pid).ok().and_then(|pidfd| number_of(&pidfd));
    number
        .map(|number| number | BY_NUMBER)
        .or_else(|| start_time(pid))
        .unwrap_or(0)
}

/// The time since boot, in the unit of [`start_time`].
pub(crate) fn ticks_since_boot() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let per_second = rustix::param::clock_ticks_per_second();
    now.tv_sec as u64 * per_second + now.tv_nsec as u64 * per_second / 1_000_000_000
}

/// Checks the process that had this pid, and noted this birth, at the moment `since` in ticks since boot.
/// Birth and moment may be 0.
pub(crate) fn probe_process(pid: u32, (birth, since): (u64, u64)) -> Seen {
    let pidfd = match pidfd_of(pid) {
        Ok(pidfd) => Some(pidfd),
        Err(Errno::SRCH) => return Seen::Absent,
        // Sandboxes may forbid pidfds.
        Err(_) if !exists(pid) => return Seen::Absent,
        Err(_) => None,
    };
    if let Some(pidfd) = &pidfd {
        let number = number_of(pidfd).map(|number| number | BY_NUMBER);
        let is_it = number
            .filter(|_| birth & BY_NUMBER != 0)
            .map(|number| number == birth);
        match (is_it, has_ended(pidfd)) {
            (Some(true), true) => return Seen::Ended,
            (Some(true), false) => return Seen::Running,
            (Some(false), _) | (None, true) => return Seen::Absent,
            (None, false) => {}
        }
    }
    if is_a_later_one(pid, birth, since) {
        Seen::Absent
    } else {
        Seen::Present
    }
}

fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(Errno::SRCH))
}

/// A pidfd is readable once every thread of the process has ended, also while it waits to be reaped.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// Whether /proc shows that the process with this pid is a later one.
fn is_a_later_one(pid: u32, birth: u64, since: u64) -> bool {
    start_time(pid).is_some_and(|start| {
        let is_known = birth != 0 && birth & BY_NUMBER == 0;
        is_known && start != birth || since != 0 && start > since
    })
}

/// The path of a file of /proc about a process of this pid namespace. `None` without /proc, or if /proc
/// belongs to another namespace.
fn proc_file(pid: u32, name: &str) -> Option<PathBuf> {
    let own = fs::read_link("/proc/self").ok()?;
    (own.as_os_str() == process_id().to_string().as_str()).then(|| format!("/proc/{pid}/{name}").into())
}

/// When the process started, in clock ticks since boot; a pid used again has another. `None` if /proc does
/// not say.
fn start_time(pid: u32) -> Option<u64> {
    status_field(pid, 19)?.parse().ok()
}

/// Whether the process is stopped, by a signal or by a tracer. `None` if /proc does not tell.
pub(crate) fn is_stopped(pid: u32) -> Option<bool> {
    status_field(pid, 0).map(|state| matches!(state.as_str(), "T" | "t"))
}

/// Whether a thread of the process runs, or could if it had a processor. True if /proc does not tell.
pub(crate) fn is_running(pid: u32) -> bool {
    let Some(threads) = proc_file(pid, "task").and_then(|path| fs::read_dir(path).ok()) else {
        return true;
    };
    let state = |thread: fs::DirEntry| state_of(&fs::read(thread.path().join("stat")).ok()?);
    threads
        .filter_map(Result::ok)
        .filter_map(state)
        .any(|state| state == b'R')
}

/// The state in a line of a /proc file `stat`.
fn state_of(stat: &[u8]) -> Option<u8> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(end + 2).copied()
}

/// A field of `/proc/<pid>/stat`, counted from the one behind the command's name.
fn status_field(pid: u32, field: usize) -> Option<String> {
    let stat = fs::read(proc_file(pid, "stat")?).ok()?;
    // The command's name may hold any bytes, even parentheses and newlines. The fields follow the last ')'.
    let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after..]).ok()?.split_ascii_whitespace();
    fields.nth(field).map(str::to_owned)
}

/// The pid namespace of this process, once it is known, and the pid of the process that knows it.
static NAMESPACE: AtomicU64 = AtomicU64::new(0);
static KNOWN_TO: AtomicU32 = AtomicU32::new(0);

/// The pid namespace of this process, in which it stays for all its life; pids of another one mean nothing
/// here. Not 0.
pub(crate) fn pid_namespace() -> u64 {
    match NAMESPACE.load(Relaxed) {
        0 => {
            let found = ask_for_namespace().unwrap_or_else(make_up_namespace);
            // Before the namespace: a child that another thread forks in between must not inherit a
            // namespace that is known to no process.
            KNOWN_TO.store(process_id(), Relaxed);
            // If several threads find it out at once, the first store decides: they may have made up
            // different numbers.
            let decided = NAMESPACE.compare_exchange(0, found, Relaxed, Relaxed);
            decided.err().unwrap_or(found)
        }
        known => known,
    }
}

/// After a fork, in the child: it is in the parent's pid namespace exactly if it sees the parent under the
/// pid that the parent knows itself by. (In a namespace below, the parent has no pid.)
pub(crate) fn inherit_pid_namespace() {
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as u32);
    if parent == KNOWN_TO.load(Relaxed) {
        KNOWN_TO.store(process_id(), Relaxed);
    } else {
        NAMESPACE.store(0, Relaxed);
    }
}

fn ask_for_namespace() -> Option<u64> {
    namespace_of_pidfd().or_else(|| {
        let path = proc_file(process_id(), "ns/pid")?;
        Some(rustix::fs::stat(path).ok()?.st_ino)
    })
}

fn namespace_of_pidfd() -> Option<u64> {
    // PIDFD_GET_PID_NAMESPACE = _IO(0xFF, 5)
    const GET_PID_NAMESPACE: u64 = 0xff05;
    let own = pidfd_of(process_id()).ok()?;
    // SAFETY: the descriptor is open, and this request reads no argument. A kernel that does not know it
    // answers ENOTTY.
    let namespace = unsafe { libc::ioctl(own.as_raw_fd(), GET_PID_NAMESPACE as _, 0) };
    if namespace < 0 {
        return None;
    }
    // SAFETY: the call has just opened this descriptor, and no other code knows of it.
    let namespace = unsafe { OwnedFd::from_raw_fd(namespace) };
    Some(rustix::fs::fstat(&namespace).ok()?.st_ino)
}

/// The number that this process and its children share, if nothing tells which namespace it is.
fn make_up_namespace() -> u64 {
    let id = random_id().unwrap_or_default();
    u64::from_le_bytes(*id.first_chunk().unwrap_or(&[0; 8])) | OWN_NUMBER
}

/// Whether the process still maps the file; it does not after `exec`. True if /proc does not say.
pub(crate) fn maps_file(pid: u32, identity: FileIdentity) -> bool {
    let (major, minor) = (
        rustix::fs::major(identity.device),
        rustix::fs::minor(identity.device),
    );
    let (device, inode) = (format!("{major:02x}:{minor:02x}"), identity.inode.to_string());
    // address perms offset dev inode pathname
    match proc_file(pid, "maps").map(fs::read) {
        Some(Ok(maps)) => String::from_utf8_lossy(&maps).lines().any(|line| {
            let mut fields = line.split_ascii_whitespace().skip(3);
            fields.next() == Some(&device) && fields.next() == Some(&inode)
        }),
        _ => true,
    }
}

// ------------------------------------------------------------------------------------------------ life bytes

/// Gives the descriptor a second, independent open file description of the same file, under the same number:
/// locks taken on it are this process's own. False if the kernel opens none.
pub(crate) fn own_description(fd: BorrowedFd<'_>) -> bool {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let Ok(own) = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    // SAFETY: both descriptors are open, and both lead to the same file. So for a thread that uses the number
    // meanwhile nothing changes.
    unsafe { libc::dup3(own.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) >= 0 }
}

/// The state of a participant's life byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Held,
    Free,
    Unknown,
}

fn byte_lock(at: u64, kind: i32) -> libc::flock {
    // SAFETY: flock is a plain C struct for which zeros are valid; Linux asks that l_pid is 0 for these
    // commands.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = at as libc::off_t;
    lock.l_len = 1;
    lock
}

/// Takes the life byte at that place of the file for this open file description. The kernel releases it when
/// the description is closed. After any death that is after the last thread of the process has stopped.
pub(crate) fn hold_life(fd: BorrowedFd<'_>, at: u64) -> bool {
    change_lock(fd, byte_lock(at, libc::F_WRLCK))
}

/// Releases it at once.
pub(crate) fn release_life(fd: BorrowedFd<'_>, at: u64) {
    change_lock(fd, byte_lock(at, libc::F_UNLCK));
}

fn change_lock(fd: BorrowedFd<'_>, lock: libc::flock) -> bool {
    // SAFETY: the descriptor is open and the pointer leads to a valid flock that the call only reads.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) == 0 }
}

/// Whether another open file description holds the life byte.
pub(crate) fn probe_life(fd: BorrowedFd<'_>, at: u64) -> Life {
    let mut lock = byte_lock(at, libc::F_WRLCK);
    // SAFETY: the descriptor is open and the pointer leads to a valid flock that the call may write.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) } {
        0 if i32::from(lock.l_type) == libc::F_UNLCK => Life::Free,
        0 => Life::Held,
        _ => Life::Unknown,
    }
}

/// How a process has ended. Does not wait, and does not reap it.
pub(crate) fn ended(pid: u32) -> Ended {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ended::Unknown;
    };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let Ok(Some(status)) = waitid(WaitId::Pid(pid), options) else {
        return Ended::Unknown;
    };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => Ended::Exited(status as u8),
        (None, Some(signal)) => Ended::Killed(signal as u8),
        (None, None) => Ended::Unknown,
    }
}

/// Seconds since the epoch.
pub(crate) fn seconds() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    u32::try_from(now.tv_sec).unwrap_or(0)
}
