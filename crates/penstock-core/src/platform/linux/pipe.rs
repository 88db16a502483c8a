//! Linux: the pipe of a notifier, which wakes programs that wait with `poll`, and the substitute for it.
#![allow(unsafe_code)]

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::time::Timespec;

use super::futex::Slept;
use super::process::take_descriptor_of;
use super::{Remembered, os};
use crate::error::Error;
use crate::units::PAGE;

/// The direction in which a pipe is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The state of an end of a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PipeState {
    Ready,
    Quiet,
    /// The other ends are all closed, and the pipe is empty.
    HungUp,
    /// This end is not open.
    Closed,
}

/// A pipe that another process has announced.
pub(crate) enum PipeOfAnother {
    Open(OpenPipe),
    /// That process does not have the pipe, or not at that descriptor.
    Elsewhere,
    /// The kernel does not let this process find out.
    OutOfReach,
}

/// A pipe that is open here in both directions.
pub(crate) struct OpenPipe {
    pub reading: OwnedFd,
    /// `None` if `reading` is open in both directions.
    pub writing: Option<OwnedFd>,
}

/// A new pipe, and its number. Without /proc, which opens a descriptor again, it has two descriptors.
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

/// Opens a pipe in both directions through a process that has it open: at `reading`, and at `writing` if that
/// is another.
pub(crate) fn open_pipe_of(pid: u32, (reading, writing): (u32, Option<u32>), number: u64) -> PipeOfAnother {
    match open_pipe_by_path(pid, reading, number) {
        PipeOfAnother::OutOfReach => duplicate_pipe_of(pid, (reading, writing), number),
        found => found,
    }
}

/// Without /proc: duplicates that process's own descriptors. The kernel allows that to fewer processes than
/// /proc does.
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
    // The descriptor may lead to anything by now. So its link is read first, which opens nothing, and the
    // opened file is checked again.
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
    // SAFETY: a descriptor number that is not open is answered by fstat with EBADF; the borrow is used for
    // that alone.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let stat = rustix::fs::fstat(borrowed).ok()?;
    let is_pipe =
        FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && Some(stat.st_dev) == pipe_device();
    is_pipe.then_some(stat.st_ino)
}

/// Makes the calls on an end of a pipe non-blocking, in every process that has this open file description.
pub(crate) fn never_block(fd: RawFd) -> Result<(), Error> {
    // SAFETY: a descriptor number that is not open is answered with EBADF; the borrow is used for that alone.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::ioctl_fionbio(borrowed, true).map_err(os("ioctl(FIONBIO)"))
}

/// Writes a byte into a pipe. A full pipe has a byte already, and a pipe without a reader needs none.
pub(crate) fn signal(fd: RawFd) -> bool {
    // SAFETY: the caller has just found the pipe behind this number. If other code has closed it since, the
    // call fails; if it has opened something else there, that gets a byte.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    matches!(
        rustix::io::write(pipe, &[1]),
        Ok(_) | Err(Errno::AGAIN | Errno::PIPE)
    )
}

/// Bytes that one write puts into a pipe as a whole or not at all, in pages that no other write uses.
const CHUNK: usize = PAGE as usize;

/// Limits a pipe to four pages, so that little fills it, and single bytes of the notifier, each of which may
/// use a page of its own beside the rest of a filling, do not. A pipe that must stay larger only takes longer
/// to fill.
pub(crate) fn make_narrow(fd: RawFd) {
    // SAFETY: as in never_block.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, 4 * rustix::param::page_size());
}

/// The result of filling a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// `poll` reports the pipe to no process as writable.
    Full,
    NoReader,
    Not,
}

/// Fills a pipe.
pub(crate) fn fill_pipe(fd: RawFd) -> Filled {
    // SAFETY: as in signal; the number of writes is bounded, and a file that is no pipe has no size.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    let Ok(size) = rustix::pipe::fcntl_getpipe_size(pipe) else {
        return Filled::Not;
    };
    for _ in 0..=size / CHUNK {
        match rustix::io::write(pipe, &[1; CHUNK]) {
            Ok(_) => {}
            // A pipe of a single page is full with one byte, and no process would know when to take that out.
            Err(Errno::AGAIN) if is_pipe_full(fd) => return Filled::Full,
            Err(Errno::PIPE) => return Filled::NoReader,
            Err(_) => break,
        }
    }
    Filled::Not
}

/// The bytes that a pipe holds; works on either end.
fn bytes_in_pipe(fd: RawFd) -> u64 {
    // SAFETY: as in signal.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::ioctl_fionread(pipe).unwrap_or(0)
}

/// Takes bytes out of a full pipe until it can be written to again, and leaves a byte at least. Two threads
/// must not call it at once.
pub(crate) fn make_writable(fd: RawFd) -> bool {
    // SAFETY: as in signal.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    while is_pipe_full(fd) {
        match rustix::io::read(pipe, &mut [0; CHUNK]) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Whether a pipe holds what only [`fill_pipe`] puts there.
pub(crate) fn is_pipe_full(fd: RawFd) -> bool {
    bytes_in_pipe(fd) > CHUNK as u64
}

/// Sleeps until a pipe can be written to, its readers are all gone, or the writers of `back` are all gone;
/// `at_most` so long.
pub(crate) fn await_writable((writing, back): (RawFd, RawFd), at_most: Duration) -> Slept {
    let (_, polled) = poll_ends((writing, PollFlags::OUT), back, at_most);
    match polled {
        Ok(0) => Slept::TimedOut,
        Err(Errno::INTR) => Slept::Interrupted,
        _ => Slept::Changed,
    }
}

/// Takes all bytes out of a pipe.
pub(crate) fn drain(fd: RawFd) -> bool {
    // SAFETY: as in signal.
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

/// Waits until the reading end of a pipe is readable, hung up or closed, `at_most` so long. A signal ends the
/// wait early, with `Quiet`.
pub(crate) fn poll_pipe(fd: RawFd, at_most: Duration) -> PipeState {
    if fd < 0 {
        return PipeState::Closed;
    }
    // SAFETY: a descriptor number that is not open is answered by poll with NVAL; the borrow is used for that
    // alone.
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

/// Whether any process reads from a pipe, given its writing end. `back` is the reading end of a second pipe,
/// by which the same processes answer, or -1: a process that dies closes one of the two first.
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

/// The events that poll reports for a writing end and for the reading end `back` (or -1), together, and its
/// result.
fn poll_ends(
    (writing, asked): (RawFd, PollFlags),
    back: RawFd,
    at_most: Duration,
) -> (PollFlags, Result<usize, Errno>) {
    // SAFETY: as in poll_pipe; -1 is not borrowed.
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

/// Closes a descriptor by number if it still leads to that pipe. Leaves it alone if other code has replaced
/// it.
pub(crate) fn close_pipe(fd: RawFd, number: u64) {
    if pipe_number(fd) == Some(number) {
        // SAFETY: it leads to our pipe, and this process opened that number for it and keeps no other owner
        // of it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

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

/// Whether two descriptor numbers still lead to an epoll descriptor and its counter, as [`make_substitute`]
/// made.
pub(crate) fn is_substitute(epoll: RawFd, counter: RawFd) -> bool {
    if epoll < 0 || counter < 0 {
        return false;
    }
    // SAFETY: numbers that are not open, or not those of an epoll descriptor and its counter, are answered
    // with an error; the borrows are used for that alone.
    let (epoll, counter) = unsafe { (BorrowedFd::borrow_raw(epoll), BorrowedFd::borrow_raw(counter)) };
    epoll::modify(
        epoll,
        counter,
        epoll::EventData::new_u64(0),
        epoll::EventFlags::IN,
    )
    .is_ok()
}

/// Makes the epoll descriptor also readable while that end of a pipe is.
pub(crate) fn watch_end_too(epoll: RawFd, end: RawFd) -> Result<(), Error> {
    // SAFETY: as in is_substitute.
    let (epoll, end) = unsafe { (BorrowedFd::borrow_raw(epoll), BorrowedFd::borrow_raw(end)) };
    match epoll::add(epoll, end, epoll::EventData::new_u64(1), epoll::EventFlags::IN) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(os("epoll_ctl")(errno)),
    }
}

pub(crate) fn set_counter(counter: RawFd, is_set: bool) -> bool {
    // SAFETY: the caller has just called is_substitute; if other code has replaced the counter since, that
    // file gets eight bytes, or loses eight.
    let counter = unsafe { BorrowedFd::borrow_raw(counter) };
    let done = if is_set {
        rustix::io::write(counter, &1u64.to_ne_bytes())
    } else {
        rustix::io::read(counter, &mut [0; 8])
    };
    matches!(done, Ok(_) | Err(Errno::AGAIN))
}

/// Closes both descriptors, which [`is_substitute`] has just recognised.
pub(crate) fn close_substitute(epoll: RawFd, counter: RawFd) {
    for fd in [epoll, counter] {
        // SAFETY: the number leads to what this process made, and this process keeps no other owner of it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}
