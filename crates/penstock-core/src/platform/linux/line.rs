//! Linux: the line of a connection (state/line.rs): a pair of sockets, or a pipe if messages go one way only.
//!
//! | what is asked | socket | pipe |
//! |---|---|---|
//! | bytes in it, at the end for reading | FIONREAD | FIONREAD |
//! | the same, at the end for writing | SIOCOUTQ, in bytes of the kernel's memory | FIONREAD |
//! | no process is left on the other side | POLLHUP | POLLHUP or POLLERR |
//! | it is full | no POLLOUT: a quarter of the send buffer is in use | no POLLOUT: each of its pages is |
//!
//! The kernel keeps each write to a socket apart, and frees it when all of its bytes were read. So what fills
//! a socket is one large write, and the byte that stays when it is emptied is another.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::pipe::PipeFlags;
use rustix::time::Timespec;

use super::futex::Slept;
use super::pipe::pipe_device;
use super::{Remembered, os};
use crate::error::Error;
use crate::units::PAGE;

/// The state of an end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndState {
    /// It has a byte.
    Ready,
    Quiet,
    /// No process is left on the other side, whether there is a byte or not.
    HungUp,
    /// This end is not open.
    Closed,
}

/// The result of filling a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// `poll` reports it to no process as writable.
    Full,
    NoReader,
    Not,
}

/// What lies in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Nothing,
    Bytes,
    /// Enough that it cannot be written to.
    Full,
}

/// Which end of a line a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Reading,
    Writing,
}

/// Bytes that one write puts into a line as a whole or not at all: into a pipe in pages that no other write
/// uses, and into a socket so that it is full.
const CHUNK: usize = PAGE as usize;

/// The send buffer of a socket, which the kernel doubles. A write of a chunk takes more than a quarter of it,
/// five single bytes do not.
const SEND_BUFFER: usize = 2 * CHUNK;

/// A new line: a pair of sockets, each for both directions, or the reading and the writing end of a pipe.
pub(crate) fn make_line(is_duplex: bool) -> Result<[OwnedFd; 2], Error> {
    if !is_duplex {
        let (reading, writing) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(os("pipe2"))?;
        return Ok([reading, writing]);
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (first, second) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(os("socketpair"))?;
    Ok([first, second])
}

/// Borrows a descriptor by number for calls that answer with an error if it is not open.
fn borrow(fd: RawFd) -> Option<BorrowedFd<'static>> {
    // SAFETY: the number is not -1, and the use of its caller keeps it an end's (state/line_end.rs). If code
    // that is not Penstock's has closed it, the caller's next call on it fails. If such code has opened
    // something else there since the caller has checked it, the callers below may write to that file, or read
    // from it. They touch no memory of this process but their own buffers.
    (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Makes the calls on an end non-blocking, in every process that has this open file description, and lets
/// little fill the line. A line that must stay larger only takes longer to fill.
pub(crate) fn prepare_end(fd: RawFd) -> Result<(), Error> {
    let end = borrow(fd).ok_or(Error::EndClosed)?;
    rustix::io::ioctl_fionbio(end, true).map_err(os("ioctl(FIONBIO)"))?;
    if sockopt::set_socket_send_buffer_size(end, SEND_BUFFER).is_err() {
        // Four pages: single bytes, each of which may use a page of its own beside the rest of a filling, do
        // not fill it.
        let _ = rustix::pipe::fcntl_setpipe_size(end, 4 * rustix::param::page_size());
    }
    Ok(())
}

/// The device of all sockets.
fn socket_device() -> Option<u64> {
    static DEVICE: Remembered = Remembered::new();
    DEVICE.or_else(|| {
        let (socket, _) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .ok()?;
        Some(rustix::fs::fstat(socket).ok()?.st_dev)
    })
}

/// The number by which the kernel knows an end: both ends of a pipe have one, two sockets of a pair have two.
/// `None` if the descriptor leads to neither.
pub(crate) fn end_number(fd: RawFd) -> Option<u64> {
    let stat = rustix::fs::fstat(borrow(fd)?).ok()?;
    let number = stat.st_ino << 1;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket if Some(stat.st_dev) == socket_device() => Some(number | 1),
        FileType::Fifo if Some(stat.st_dev) == pipe_device() => Some(number),
        _ => None,
    }
}

/// Closes an end by number if the kernel knows it by that one. Leaves it alone if other code has replaced it.
pub(crate) fn close_end(fd: RawFd, number: u64) {
    if end_number(fd) == Some(number) {
        // SAFETY: it leads to the end that this process owns, and the last use of which has ended.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// Writes to an end. To a socket without raising SIGPIPE.
fn write(end: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    match rustix::net::send(end, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        Err(Errno::NOTSOCK) => rustix::io::write(end, bytes),
        sent => sent,
    }
}

/// Writes a byte into a line. A full line has a byte already, and one without a reader needs none.
pub(crate) fn signal_line(fd: RawFd) -> bool {
    borrow(fd).is_some_and(|end| matches!(write(end, &[1]), Ok(_) | Err(Errno::AGAIN | Errno::PIPE)))
}

/// Fills a line, so that it has a byte, and `poll` calls it writable in no process.
pub(crate) fn fill_line(fd: RawFd) -> Filled {
    let Some(end) = borrow(fd) else {
        return Filled::Not;
    };
    // Bounded by the largest send buffer, or pipe, that a system gives in the place of the one asked for.
    for _ in 0..=256 {
        match write(end, &[1; CHUNK]) {
            Err(Errno::PIPE | Errno::CONNRESET) => return Filled::NoReader,
            Ok(_) | Err(Errno::AGAIN) if !is_writable(end) => {
                // The byte that stays when the line is emptied. A pipe gives its chunks back page by page.
                let _ = rustix::net::send(end, &[1], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
                return Filled::Full;
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    Filled::Not
}

fn is_writable(end: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(&end, PollFlags::OUT)];
    let _ = poll(&mut polled, Some(&duration(Duration::ZERO)));
    polled[0].revents().contains(PollFlags::OUT)
}

/// Takes bytes out of a full line until it can be written to, and leaves one.
pub(crate) fn make_writable(fd: RawFd) -> bool {
    let Some(end) = borrow(fd) else {
        return false;
    };
    let mut left = rustix::io::ioctl_fionread(end).unwrap_or(0).saturating_sub(1);
    while left > 0 {
        let size = (CHUNK as u64).min(left) as usize;
        match rustix::io::read(end, &mut [0; CHUNK][..size]) {
            Ok(count @ 1..) => left = left.saturating_sub(count as u64),
            Err(Errno::INTR) => {}
            _ => return false,
        }
    }
    true
}

/// Takes all bytes out of a line.
pub(crate) fn drain_line(fd: RawFd) -> bool {
    borrow(fd).is_some_and(drain_end)
}

/// The same of whatever is behind that descriptor.
pub(super) fn drain_end(end: BorrowedFd<'_>) -> bool {
    let mut bytes = [0; CHUNK];
    loop {
        match rustix::io::read(end, &mut bytes) {
            Ok(count) if count == bytes.len() => {}
            Err(Errno::INTR) => {}
            Ok(_) | Err(Errno::AGAIN | Errno::CONNRESET) => return true,
            Err(_) => return false,
        }
    }
}

/// What lies in a line. `None` if the kernel does not tell.
pub(crate) fn content_of_line(fd: RawFd, side: Side) -> Option<Content> {
    let end = borrow(fd)?;
    let bytes = match side {
        Side::Writing => bytes_written(fd).or_else(|| rustix::io::ioctl_fionread(end).ok())?,
        Side::Reading => rustix::io::ioctl_fionread(end).ok()?,
    };
    Some(match side {
        _ if bytes == 0 => Content::Nothing,
        Side::Writing if !is_writable(end) => Content::Full,
        Side::Reading if bytes > CHUNK as u64 => Content::Full,
        _ => Content::Bytes,
    })
}

/// The kernel's memory for what a socket has sent and its peer has not read. `None` of a pipe.
fn bytes_written(fd: RawFd) -> Option<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one int, to the place given.
    let asked = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    (asked == 0).then_some(bytes as u64)
}

/// Forgets that the other side was closed with bytes unread, which a socket reports as an error.
pub(crate) fn clear_error(fd: RawFd) {
    if let Some(end) = borrow(fd) {
        let _ = sockopt::socket_error(end);
    }
}

fn duration(time: Duration) -> Timespec {
    Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

/// The events of an end, and the result of the call, after `at_most` so long.
pub(super) fn poll_for(fd: RawFd, asked: PollFlags, at_most: Duration) -> (PollFlags, Result<usize, Errno>) {
    let Some(end) = borrow(fd) else {
        return (PollFlags::NVAL, Ok(1));
    };
    let mut polled = [PollFd::new(&end, asked)];
    let result = poll(&mut polled, Some(&duration(at_most)));
    (polled[0].revents(), result)
}

fn state_of(seen: PollFlags) -> EndState {
    if seen.contains(PollFlags::NVAL) {
        EndState::Closed
    } else if seen.intersects(PollFlags::HUP | PollFlags::ERR) {
        EndState::HungUp
    } else if seen.contains(PollFlags::IN) {
        EndState::Ready
    } else {
        EndState::Quiet
    }
}

/// Waits until an end has a byte, is hung up or closed, `at_most` so long. A signal ends the wait early, with
/// `Quiet`.
pub(crate) fn poll_line(fd: RawFd, at_most: Duration) -> EndState {
    state_of(poll_for(fd, PollFlags::IN, at_most).0)
}

/// Whether any process is left on the other side: `Quiet` if so.
pub(crate) fn poll_peer(fd: RawFd) -> EndState {
    state_of(poll_for(fd, PollFlags::empty(), Duration::ZERO).0)
}

/// Sleeps until a line can be written to, or no process is left on the other side; `at_most` so long.
pub(crate) fn await_writable(fd: RawFd, at_most: Duration) -> Slept {
    match poll_for(fd, PollFlags::OUT, at_most).1 {
        Ok(0) => Slept::TimedOut,
        Err(Errno::INTR) => Slept::Interrupted,
        _ => Slept::Changed,
    }
}
