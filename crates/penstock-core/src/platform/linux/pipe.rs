//! Linux: the pipe of a notifier (state/notifier.rs), which wakes programs that wait with `poll`.
//!
//! A pipe of two pages is readable while it has a byte. It is writable until both of its pages are in use:
//! single bytes share the first one, and a write of pages takes the other.
#![allow(unsafe_code)]

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::line::{drain_end, poll_for};
use super::process::take_descriptor_of;
use super::{Remembered, os};
use crate::error::Error;
use crate::units::PAGE;

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
    // A larger one, if the system insists, only takes longer to fill.
    let _ = rustix::pipe::fcntl_setpipe_size(&writing, 2 * rustix::param::page_size());
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
pub(super) fn pipe_device() -> Option<u64> {
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

/// More than the pages of a pipe.
const PAGES: [u8; 3 * PAGE as usize] = [1; 3 * PAGE as usize];

/// Fills a pipe, so that it has a byte, and `poll` calls it writable in no process.
pub(crate) fn fill(fd: RawFd) -> bool {
    // SAFETY: as in signal.
    let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
    // Bounded by the largest pipe, in case that this one could not be made smaller.
    for _ in 0..=256 {
        match rustix::io::write(pipe, &PAGES) {
            Ok(count) if count == PAGES.len() => {}
            Err(Errno::INTR) => {}
            // It takes no more.
            Ok(_) | Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
    false
}

/// Takes all bytes out of a pipe.
pub(crate) fn drain(fd: RawFd) -> bool {
    // SAFETY: as in signal.
    drain_end(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Whether `poll` calls a pipe readable.
pub(crate) fn is_pipe_readable(fd: RawFd) -> bool {
    is_ready(fd, PollFlags::IN)
}

/// Whether `poll` calls a pipe writable.
pub(crate) fn is_pipe_writable(fd: RawFd) -> bool {
    is_ready(fd, PollFlags::OUT)
}

fn is_ready(fd: RawFd, asked: PollFlags) -> bool {
    poll_for(fd, asked, Duration::ZERO).0.contains(asked)
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
