//! The participants, each driven over a pair of sockets: one command, one reply.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_core::{
    Batch, Buffer, Delivery, Error, Held, InHand, Leave, Lent, Patience, Production, Queue, Taken, Verdict,
    Wait,
};

use crate::plain::payload;
use crate::program::Lens;

/// Time after which a reply counts as missing.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// The delay of an item whose time comes in the same step, and of one whose time never comes.
const AT_ONCE: Duration = Duration::from_millis(1);
const NEVER: Duration = Duration::from_secs(1 << 30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patient {
    No,
    Millis(u64),
    Forever,
}

impl Patient {
    fn within(self, interrupted: &mut dyn FnMut() -> bool) -> Wait<'_> {
        let patience = match self {
            Patient::No => Patience::NoWait,
            Patient::Millis(millis) => Patience::Until(Instant::now() + Duration::from_millis(millis)),
            Patient::Forever => Patience::Forever,
        };
        Wait {
            patience,
            interrupted,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Put {
        number: u64,
        len: usize,
        patient: Patient,
    },
    PutMany {
        /// The number of the first item.
        number: u64,
        lens: Lens,
        patient: Patient,
    },
    Get {
        keeps_borrow: bool,
        patient: Patient,
    },
    GetMany {
        most: usize,
        keeps_borrow: bool,
        patient: Patient,
    },
    EndBorrow,
    Keep,
    TaskDone,
    Hold(Patient),
    PutDelayed {
        number: u64,
        len: usize,
        comes: bool,
    },
    Settle {
        place: usize,
        verdict: Verdict,
        is_delayed: bool,
    },
    Join(Patient),
    Leave(Leave),
    ShutDown {
        is_immediate: bool,
    },
    Produce {
        expect: u32,
    },
    EndProducing,
    Next(Patient),
    LeaveLoop,
    Ask,
    /// Starts a thread that stops in a put, with memory claimed.
    StopInPut {
        len: usize,
    },
    /// Arms the fault point of that index; the next command is the last.
    Arm(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Done,
    /// The place of the item in the order of publication.
    Put {
        seq: u64,
    },
    /// How many were published, and the error if not all.
    PutMany {
        count: usize,
        result: Result<(), Error>,
    },
    Item {
        len: usize,
        head: u64,
        is_whole: bool,
    },
    Items(Sum),
    Numbers {
        len: u64,
        is_empty: bool,
        is_full: bool,
    },
    /// No payload was borrowed.
    NotBorrowed,
    /// An item taken by name: its number, and how often it was delivered.
    Held {
        id: u64,
        deliveries: u32,
        len: usize,
        head: u64,
        is_whole: bool,
    },
    Settled(bool),
    /// No item was taken by name.
    NotHeld,
}

/// A summary of several items, short enough for one reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    count: u64,
    bytes: u64,
    /// Depends on the description of each item, and on their order.
    hash: u64,
}

impl Sum {
    pub fn add(&mut self, item: Reply) {
        let words = pack_reply(&Ok(item));
        self.count += 1;
        self.bytes += words[1];
        for word in words {
            self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
}

pub type Replied = Result<Reply, Error>;

/// The handle and the borrowed payloads of one process, which performs commands with them.
pub struct Hands {
    pub queue: Arc<Queue>,
    borrows: std::collections::VecDeque<Lent>,
    productions: std::collections::VecDeque<Production>,
    in_loop: Option<InHand>,
    /// Items taken by name and not settled, the oldest first.
    held: Vec<Held>,
}

/// Length and head of a payload, and whether the rest is as it was put.
fn described(bytes: &[u8]) -> (usize, u64, bool) {
    let mut head = [0; 8];
    let known = bytes.len().min(8);
    head[..known].copy_from_slice(&bytes[..known]);
    let head = u64::from_le_bytes(head);
    let is_whole = bytes.len() < 8 || bytes == payload(head, bytes.len());
    (bytes.len(), head, is_whole)
}

fn describe(bytes: &[u8]) -> Reply {
    let (len, head, is_whole) = described(bytes);
    Reply::Item { len, head, is_whole }
}

impl Hands {
    pub fn new(queue: Arc<Queue>) -> Hands {
        Hands {
            queue,
            borrows: std::collections::VecDeque::new(),
            productions: std::collections::VecDeque::new(),
            in_loop: None,
            held: Vec::new(),
        }
    }

    pub fn end_borrows(&mut self) {
        self.borrows.clear();
    }

    pub fn perform(&mut self, command: Command) -> Replied {
        let never = &mut || false;
        match command {
            Command::Put { number, len, patient } => {
                let ticket = self.queue.put(&[&payload(number, len)], patient.within(never))?;
                Ok(Reply::Put { seq: ticket.seq })
            }
            Command::PutMany {
                number,
                lens,
                patient,
            } => {
                let payloads: Vec<Vec<u8>> = (number..)
                    .zip(lens.iter())
                    .map(|(number, len)| payload(number, len))
                    .collect();
                let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
                let (count, result) = self.queue.put_many(&payloads, patient.within(never));
                Ok(Reply::PutMany { count, result })
            }
            Command::GetMany {
                most,
                keeps_borrow,
                patient,
            } => {
                let mut batch = Batch::with_room_for(most).unwrap();
                self.queue.get_many(&mut batch, patient.within(never))?;
                let mut sum = Sum::default();
                batch.into_items(|item| match item {
                    Taken::Copied(bytes) => sum.add(describe(bytes)),
                    Taken::Lent(lent) => {
                        sum.add(describe(lent.bytes()));
                        if keeps_borrow {
                            self.borrows.push_back(lent);
                        }
                    }
                });
                Ok(Reply::Items(sum))
            }
            Command::Get {
                keeps_borrow,
                patient,
            } => {
                let mut buffer = Buffer::default();
                match self.queue.get(&mut buffer, patient.within(never))? {
                    Delivery::Copied => Ok(describe(buffer.bytes())),
                    Delivery::Lent(lent) => {
                        let reply = describe(lent.bytes());
                        if keeps_borrow {
                            self.borrows.push_back(lent);
                        }
                        Ok(reply)
                    }
                }
            }
            Command::Keep => match self.borrows.front() {
                Some(lent) => lent.keep().map(|()| Reply::Done),
                None => Ok(Reply::NotBorrowed),
            },
            Command::EndBorrow => Ok(match self.borrows.pop_front() {
                // The bytes are still those of the item.
                Some(lent) => describe(lent.bytes()),
                None => Reply::NotBorrowed,
            }),
            Command::Hold(patient) => {
                let mut buffer = Buffer::default();
                let (delivery, held) = self.queue.hold(&mut buffer, patient.within(never))?;
                let bytes = match &delivery {
                    Delivery::Copied => buffer.bytes(),
                    Delivery::Lent(lent) => lent.bytes(),
                };
                self.held.push(held);
                let (len, head, is_whole) = described(bytes);
                Ok(Reply::Held {
                    id: held.id(),
                    deliveries: held.deliveries(),
                    len,
                    head,
                    is_whole,
                })
            }
            Command::Settle { .. } if self.held.is_empty() => Ok(Reply::NotHeld),
            Command::Settle {
                place,
                verdict,
                is_delayed,
            } => {
                let held = self.held.remove(place % self.held.len());
                let delay = if is_delayed { NEVER } else { Duration::ZERO };
                let wait = Patient::Forever.within(never);
                let settled = self.queue.settle_after(&held, verdict, delay, wait);
                settled.map(Reply::Settled)
            }
            Command::PutDelayed { number, len, comes } => {
                let delay = if comes { AT_ONCE } else { NEVER };
                let payload = payload(number, len);
                let ticket = self
                    .queue
                    .put_delayed(&[&payload], delay, Patient::No.within(never))?;
                if comes {
                    std::thread::sleep(3 * AT_ONCE);
                }
                Ok(Reply::Put { seq: ticket.seq })
            }
            Command::TaskDone => self.queue.task_done().map(|()| Reply::Done),
            Command::Join(patient) => self.queue.join(patient.within(never)).map(|()| Reply::Done),
            Command::Leave(how) => self.queue.leave(how).map(|()| Reply::Done),
            Command::ShutDown { is_immediate } => self.queue.shut_down(is_immediate).map(|()| Reply::Done),
            Command::Produce { expect } => {
                self.productions.push_back(self.queue.produce(expect)?);
                Ok(Reply::Done)
            }
            Command::EndProducing => {
                let production = self.productions.pop_front().expect("it has begun");
                self.queue.end_producing(production).map(|()| Reply::Done)
            }
            Command::Next(patient) => {
                let mut buffer = Buffer::default();
                let next = self
                    .queue
                    .get_next(&mut self.in_loop, &mut buffer, patient.within(never));
                match next? {
                    Delivery::Copied => Ok(describe(buffer.bytes())),
                    Delivery::Lent(lent) => Ok(describe(lent.bytes())),
                }
            }
            Command::LeaveLoop => {
                if let Some(in_hand) = self.in_loop.take() {
                    in_hand.leave();
                }
                Ok(Reply::Done)
            }
            Command::Ask => Ok(Reply::Numbers {
                len: self.queue.len(),
                is_empty: self.queue.is_empty(),
                is_full: self.queue.is_full(),
            }),
            Command::StopInPut { len } => {
                self.stop_in_put(len);
                Ok(Reply::Done)
            }
            Command::Arm(point) => {
                arm(point);
                Ok(Reply::Done)
            }
        }
    }

    #[cfg(feature = "fault-points")]
    fn stop_in_put(&self, len: usize) {
        use penstock_core::fault;
        assert!(fault::stop_at("claim.copied"));
        let queue = self.queue.clone();
        std::thread::spawn(move || {
            queue.put(
                &[&payload(0, len)],
                Wait {
                    patience: Patience::Forever,
                    interrupted: &mut || false,
                },
            )
        });
        while !fault::is_stopped() {
            std::thread::yield_now();
        }
        // No other thread may stop: the process passed this point when it registered.
        assert!(fault::stop_at("register.alive"));
    }

    #[cfg(not(feature = "fault-points"))]
    fn stop_in_put(&self, _: usize) {}
}

#[cfg(feature = "fault-points")]
fn arm(point: usize) {
    assert!(penstock_core::fault::arm(penstock_core::fault::POINTS[point], 1));
}

#[cfg(not(feature = "fault-points"))]
fn arm(_: usize) {}

/// A process at the other end of a socket. Killed and reaped when dropped.
pub struct Remote {
    pid: i32,
    socket: UnixStream,
}

impl Remote {
    /// A fork of this process, which inherits its handle, and copies of its borrowed payloads: dropping those
    /// must end no borrow.
    pub fn fork(hands: &mut Hands) -> Remote {
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        // SAFETY: the child runs the loop alone and leaves by _exit or by a signal.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid == 0 {
            // SAFETY: asks the kernel to end this process with the test.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            drop(near);
            hands.end_borrows();
            let queue = hands.queue.clone();
            let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| serve(queue, far)));
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(if served.is_ok() { 0 } else { 3 }) };
        }
        Remote::met(pid, near)
    }

    /// A new program, which opens the queue by a descriptor, or by its name.
    // Reaped by its pid, as the forked ones.
    #[allow(clippy::zombie_processes)]
    pub fn spawn(queue: &Queue, name: Option<&Path>) -> Remote {
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        let memory = queue.duplicate_fd().expect("a descriptor");
        for fd in [far.as_raw_fd(), memory.as_raw_fd()] {
            // SAFETY: lets the descriptor live through exec.
            unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        }
        let mut command = std::process::Command::new(std::env::current_exe().expect("a path"));
        command
            .args(["--exact", "a_participant", "--nocapture", "--test-threads=1"])
            .env("PENSTOCK_MODEL_SOCKET", far.as_raw_fd().to_string())
            .stdout(std::process::Stdio::null());
        match name {
            Some(path) => command.env("PENSTOCK_MODEL_NAME", path),
            None => command.env("PENSTOCK_MODEL_MEMORY", memory.as_raw_fd().to_string()),
        };
        let child = command.spawn().expect("a process");
        Remote::met(child.id() as i32, near)
    }

    /// Waits until it is a member.
    fn met(pid: i32, socket: UnixStream) -> Remote {
        socket.set_read_timeout(Some(WATCHDOG)).expect("a socket");
        let mut remote = Remote { pid, socket };
        assert_eq!(remote.reply(), Ok(Ok(Reply::Done)), "it has not come");
        remote
    }

    pub fn send(&mut self, command: Command) {
        // If it dies, the socket ends, and the next reply fails.
        let _ = self.socket.write_all(&to_bytes(&pack_command(command)));
    }

    /// `Err` if none came: it has died, or it hangs.
    pub fn reply(&mut self) -> Result<Replied, std::io::ErrorKind> {
        let mut bytes = [0; 40];
        self.socket.read_exact(&mut bytes).map_err(|error| error.kind())?;
        Ok(unpack_reply(from_bytes(&bytes)))
    }

    pub fn has_replied(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd, and no waiting.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    /// Ends it by SIGKILL, unless it has died of SIGKILL already.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) -> i32 {
        let mut status = 0;
        // SAFETY: a child of this process that was not reaped, so the pid is its own.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, &raw mut status, 0);
        }
        self.pid = 0;
        status
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if self.pid != 0 {
            self.end();
        }
    }
}

/// The life of a participant.
fn serve(queue: Arc<Queue>, mut socket: UnixStream) {
    queue.statistics().expect("a queue");
    let mut hands = Hands::new(queue);
    let mut replied = Ok(Reply::Done);
    loop {
        if socket.write_all(&to_bytes(&pack_reply(&replied))).is_err() {
            return;
        }
        let mut bytes = [0; 40];
        if socket.read_exact(&mut bytes).is_err() {
            return;
        }
        replied = hands.perform(unpack_command(from_bytes(&bytes)));
    }
}

pub fn run_if_asked() {
    let Ok(socket) = std::env::var("PENSTOCK_MODEL_SOCKET") else {
        return;
    };
    let take = |number: &str| {
        let number = number.parse().expect("a number");
        // SAFETY: the numbers were handed over for this purpose, and nothing else in this program uses them.
        unsafe { OwnedFd::from_raw_fd(number) }
    };
    // SAFETY: asks the kernel to end this process with the test.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let queue = match std::env::var("PENSTOCK_MODEL_NAME") {
        Ok(path) => Queue::open_named(Path::new(&path)),
        Err(_) => Queue::attach(take(
            &std::env::var("PENSTOCK_MODEL_MEMORY").expect("a descriptor"),
        )),
    };
    serve(queue.expect("a queue"), UnixStream::from(take(&socket)));
    std::process::exit(0);
}

// -------------------------------------------------------------------------------------------------- the wire

type Words = [u64; 5];

fn to_bytes(words: &Words) -> [u8; 40] {
    let mut bytes = [0; 40];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn from_bytes(bytes: &[u8; 40]) -> Words {
    std::array::from_fn(|i| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
        u64::from_le_bytes(word)
    })
}

fn pack_patient(patient: Patient) -> u64 {
    match patient {
        Patient::No => 0,
        Patient::Forever => u64::MAX,
        Patient::Millis(millis) => millis,
    }
}

fn unpack_patient(word: u64) -> Patient {
    match word {
        0 => Patient::No,
        u64::MAX => Patient::Forever,
        millis => Patient::Millis(millis),
    }
}

/// In the order of their numbers.
const VERDICTS: [Verdict; 4] = [
    Verdict::Done,
    Verdict::Released,
    Verdict::Failed,
    Verdict::Rejected,
];

fn pack_command(command: Command) -> Words {
    match command {
        Command::Put { number, len, patient } => [0, number, len as u64, pack_patient(patient), 0],
        Command::Get {
            keeps_borrow,
            patient,
        } => [1, u64::from(keeps_borrow), pack_patient(patient), 0, 0],
        Command::EndBorrow => [2, 0, 0, 0, 0],
        Command::TaskDone => [3, 0, 0, 0, 0],
        Command::Join(patient) => [4, pack_patient(patient), 0, 0, 0],
        Command::Leave(how) => [5, u64::from(how == Leave::Crashed), 0, 0, 0],
        Command::ShutDown { is_immediate } => [12, u64::from(is_immediate), 0, 0, 0],
        Command::Produce { expect } => [13, u64::from(expect), 0, 0, 0],
        Command::EndProducing => [14, 0, 0, 0, 0],
        Command::Next(patient) => [15, pack_patient(patient), 0, 0, 0],
        Command::LeaveLoop => [16, 0, 0, 0, 0],
        Command::Hold(patient) => [17, pack_patient(patient), 0, 0, 0],
        Command::Settle {
            place,
            verdict,
            is_delayed,
        } => [18, place as u64, verdict as u64, u64::from(is_delayed), 0],
        Command::PutDelayed { number, len, comes } => [19, number, len as u64, u64::from(comes), 0],
        Command::Ask => [6, 0, 0, 0, 0],
        Command::StopInPut { len } => [7, len as u64, 0, 0, 0],
        Command::Arm(point) => [8, point as u64, 0, 0, 0],
        Command::Keep => [9, 0, 0, 0, 0],
        Command::PutMany {
            number,
            lens,
            patient,
        } => [
            10 | (lens.count as u64) << 32,
            number,
            lens.usual as u64 | (lens.other as u64) << 32,
            lens.every as u64,
            pack_patient(patient),
        ],
        Command::GetMany {
            most,
            keeps_borrow,
            patient,
        } => [11, most as u64, u64::from(keeps_borrow), pack_patient(patient), 0],
    }
}

fn unpack_command(words: Words) -> Command {
    match words {
        [0, number, len, patient, _] => Command::Put {
            number,
            len: len as usize,
            patient: unpack_patient(patient),
        },
        [1, keeps_borrow, patient, ..] => Command::Get {
            keeps_borrow: keeps_borrow != 0,
            patient: unpack_patient(patient),
        },
        [2, ..] => Command::EndBorrow,
        [9, ..] => Command::Keep,
        [3, ..] => Command::TaskDone,
        [4, patient, ..] => Command::Join(unpack_patient(patient)),
        [5, 0, ..] => Command::Leave(Leave::Clean),
        [5, ..] => Command::Leave(Leave::Crashed),
        [12, is_immediate, ..] => Command::ShutDown {
            is_immediate: is_immediate != 0,
        },
        [13, expect, ..] => Command::Produce {
            expect: expect as u32,
        },
        [14, ..] => Command::EndProducing,
        [15, patient, ..] => Command::Next(unpack_patient(patient)),
        [16, ..] => Command::LeaveLoop,
        [17, patient, ..] => Command::Hold(unpack_patient(patient)),
        [18, place, verdict, is_delayed, _] => Command::Settle {
            place: place as usize,
            verdict: VERDICTS[verdict as usize],
            is_delayed: is_delayed != 0,
        },
        [19, number, len, comes, _] => Command::PutDelayed {
            number,
            len: len as usize,
            comes: comes != 0,
        },
        [6, ..] => Command::Ask,
        [7, len, ..] => Command::StopInPut { len: len as usize },
        [8, point, ..] => Command::Arm(point as usize),
        [11, most, keeps_borrow, patient, _] => Command::GetMany {
            most: most as usize,
            keeps_borrow: keeps_borrow != 0,
            patient: unpack_patient(patient),
        },
        [many, number, lens, every, patient] if many as u32 == 10 => Command::PutMany {
            number,
            lens: Lens {
                count: (many >> 32) as usize,
                usual: lens as u32 as usize,
                other: (lens >> 32) as usize,
                every: every as usize,
            },
            patient: unpack_patient(patient),
        },
        _ => panic!("a command of {words:?}"),
    }
}

fn pack_reply(replied: &Replied) -> Words {
    match replied {
        Ok(Reply::Done) => [0, 0, 0, 0, 0],
        Ok(Reply::Put { seq }) => [1, *seq, 0, 0, 0],
        Ok(Reply::Item { len, head, is_whole }) => [2, *len as u64, *head, u64::from(*is_whole), 0],
        Ok(Reply::Numbers {
            len,
            is_empty,
            is_full,
        }) => [3, *len, u64::from(*is_empty), u64::from(*is_full), 0],
        Ok(Reply::NotBorrowed) => [4, 0, 0, 0, 0],
        Ok(Reply::Held {
            id,
            deliveries,
            len,
            head,
            is_whole,
        }) => {
            let numbers = u64::from(*deliveries) | u64::from(*is_whole) << 32;
            [11, *id, *len as u64, *head, numbers]
        }
        Ok(Reply::Settled(is_settled)) => [12, u64::from(*is_settled), 0, 0, 0],
        Ok(Reply::NotHeld) => [13, 0, 0, 0, 0],
        Ok(Reply::Items(sum)) => [9, sum.count, sum.bytes, sum.hash, 0],
        // The result, and beside it the count, from 1 on.
        Ok(Reply::PutMany { count, result }) => {
            let mut words = pack_reply(&result.clone().map(|()| Reply::Done));
            words[0] |= (*count as u64 + 1) << 32;
            words
        }
        Err(Error::Full) => [5, 0, 0, 0, 0],
        Err(Error::Empty) => [6, 0, 0, 0, 0],
        Err(Error::TooManyDone) => [7, 0, 0, 0, 0],
        Err(Error::ShutDown) => [10, 0, 0, 0, 0],
        Err(Error::OutOfMemory {
            needed,
            used,
            limit,
            taken,
            taken_bytes,
        }) => [8, *needed, *used, *limit, u64::from(*taken) << 40 | taken_bytes],
        Err(error) => panic!("a participant's error: {error}"),
    }
}

fn unpack_reply(words: Words) -> Replied {
    match words {
        [many, needed, used, limit, taken] if many >> 32 > 0 => Ok(Reply::PutMany {
            count: (many >> 32) as usize - 1,
            result: unpack_reply([many & 0xffff_ffff, needed, used, limit, taken]).map(drop),
        }),
        [0, ..] => Ok(Reply::Done),
        [1, seq, ..] => Ok(Reply::Put { seq }),
        [2, len, head, is_whole, _] => Ok(Reply::Item {
            len: len as usize,
            head,
            is_whole: is_whole != 0,
        }),
        [3, len, is_empty, is_full, _] => Ok(Reply::Numbers {
            len,
            is_empty: is_empty != 0,
            is_full: is_full != 0,
        }),
        [4, ..] => Ok(Reply::NotBorrowed),
        [11, id, len, head, numbers] => Ok(Reply::Held {
            id,
            deliveries: numbers as u32,
            len: len as usize,
            head,
            is_whole: numbers >> 32 != 0,
        }),
        [12, is_settled, ..] => Ok(Reply::Settled(is_settled != 0)),
        [13, ..] => Ok(Reply::NotHeld),
        [9, count, bytes, hash, _] => Ok(Reply::Items(Sum { count, bytes, hash })),
        [5, ..] => Err(Error::Full),
        [6, ..] => Err(Error::Empty),
        [7, ..] => Err(Error::TooManyDone),
        [10, ..] => Err(Error::ShutDown),
        [8, needed, used, limit, taken] => Err(Error::OutOfMemory {
            needed,
            used,
            limit,
            taken: (taken >> 40) as u32,
            taken_bytes: taken & ((1 << 40) - 1),
        }),
        _ => panic!("a reply of {words:?}"),
    }
}
