//! Processes that see little of the others: without /proc, without pidfds, in another pid namespace, under
//! another user. Survivors that see as little prove their deaths all the same.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_core::{Buffer, Error, Options, Patience, Proof, Queue};

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/get.rs"]
mod get;
#[path = "common/soon.rs"]
mod soon;

use child::Child;
use common::{PLAIN, wait};
use get::get;
use soon::soon;

const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    max_deliveries: 255,
    ..PLAIN
};

fn put(queue: &Queue, payload: &[u8]) {
    wait(soon(), |wait| queue.put(&[payload], wait)).unwrap();
}

/// A queue with an item for a worker, and another one by which processes tell how far they are.
fn with_an_item() -> (Arc<Queue>, Arc<Queue>) {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    put(&queue, b"item");
    (queue, Queue::create(&PLAIN).unwrap())
}

impl Child {
    /// The same with a pid that is free. `None` if it is not.
    fn run_as(pid: i32, work: impl FnOnce()) -> Option<Child> {
        let wanted = [pid];
        // SAFETY: a plain C struct for which zeros are valid.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.set_tid = wanted.as_ptr() as u64;
        arguments.set_tid_size = 1;
        // SAFETY: as a fork, which the kernel alone does: the child has a copy of this thread and its memory.
        let made = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
        if made == 0 {
            work();
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(0) };
        }
        (made > 0).then_some(Child(pid))
    }

    fn kill(mut self) {
        self.signal(libc::SIGKILL);
        self.reap();
    }

    /// Its exit status. A death by a signal is none.
    fn status(mut self) -> i32 {
        let status = self.reap();
        assert!(libc::WIFEXITED(status), "it died by {}", libc::WTERMSIG(status));
        libc::WEXITSTATUS(status)
    }
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

/// An empty folder, removed when dropped.
struct Folder(CString);

impl Folder {
    fn new() -> Folder {
        let mut template = *b"/tmp/penstock-empty-XXXXXX\0";
        // SAFETY: the template ends with a zero, and the call writes inside it.
        assert!(!unsafe { libc::mkdtemp(template.as_mut_ptr().cast()) }.is_null());
        Folder(CString::from_vec_with_nul(template.to_vec()).unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // SAFETY: a path that ends with a zero.
        unsafe { libc::rmdir(self.0.as_ptr()) };
    }
}

fn lose_proc(folder: &Folder) {
    // SAFETY: both calls only read their paths.
    unsafe {
        assert_eq!(libc::chroot(folder.0.as_ptr()), 0);
        assert_eq!(libc::chdir(c"/".as_ptr()), 0);
    }
}

/// From now on `pidfd_open` returns that answer; except, if `but_own`, for the own pid.
fn answer_pidfd_open(answer: u32, but_own: bool) {
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let unless_equal = |k: u32, skipped: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: skipped,
        k,
    };
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let own = if but_own { std::process::id() } else { 0 };
    let mut filter = [
        statement(LOAD, 0), // the call's number
        unless_equal(libc::SYS_pidfd_open as u32, 4),
        statement(LOAD, 16), // its first argument
        unless_equal(own, 1),
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
        statement(RETURN, answer),
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the calls only read the program, which lives until they return.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program), 0);
    }
}

fn lose_pidfds() {
    answer_pidfd_open(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, false);
}

/// What a process cannot see. It loses that before it joins a queue.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Blind {
    No,
    WithoutProc,
    WithoutPidfds,
    WithoutBoth,
}

impl Blind {
    const ALL: [Blind; 4] = [
        Blind::No,
        Blind::WithoutProc,
        Blind::WithoutPidfds,
        Blind::WithoutBoth,
    ];

    fn become_so(self, folder: &Folder) {
        if matches!(self, Blind::WithoutProc | Blind::WithoutBoth) {
            lose_proc(folder);
        }
        if matches!(self, Blind::WithoutPidfds | Blind::WithoutBoth) {
            lose_pidfds();
        }
    }
}

fn is_root() -> bool {
    // SAFETY: only asks.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root {
        println!("NOT TESTED: only root may chroot, change its user, and make pid namespaces");
    }
    is_root
}

fn for_each_pair(test: impl Fn(Blind, Blind, &Folder)) {
    if is_root() {
        for worker in Blind::ALL {
            for survivor in Blind::ALL {
                println!("worker {worker:?}, survivor {survivor:?}");
                test(worker, survivor, &Folder::new());
            }
        }
    }
}

#[test]
fn item_of_a_dead_worker_comes_back() {
    for_each_pair(|blind, blind_survivor, folder| {
        let (queue, told) = with_an_item();
        let worker = Child::run(|| {
            blind.become_so(folder);
            assert_eq!(queue.take_part().unwrap(), Proof::Possible);
            get(&queue, Patience::Forever).unwrap();
            put(&told, b"taken");
            sleep_for_ever();
        });
        get(&told, soon()).unwrap();
        let survivor = Child::run(|| {
            blind_survivor.become_so(folder);
            let so_soon = Patience::Until(Instant::now() + Duration::from_millis(300));
            assert_eq!(get(&queue, so_soon), Err(Error::Empty), "the worker lives");
            put(&told, b"looked");
            assert_eq!(get(&queue, soon()).unwrap(), b"item");
            queue.task_done().unwrap();
        });
        get(&told, soon()).unwrap();
        worker.kill();
        assert_eq!(survivor.status(), 0);
        assert_eq!(queue.statistics().unwrap().redeliveries, 1);
    });
}

#[test]
fn workers_are_killed_inside_their_operations() {
    for_each_pair(|blind, blind_survivor, folder| {
        if blind == Blind::No {
            return; // as in death.rs
        }
        let (queue, told) = (Queue::create(&PLAIN).unwrap(), Queue::create(&PLAIN).unwrap());
        let busy = || {
            Child::run(|| {
                blind.become_so(folder);
                queue.take_part().unwrap();
                put(&told, b"joined");
                let batch: [&[&[u8]]; 40] = [&[b"x"]; 40];
                loop {
                    for payload in batch {
                        wait(Patience::Forever, |wait| queue.put(payload, wait)).unwrap();
                    }
                    for _ in batch {
                        let _ = get(&queue, Patience::NoWait);
                    }
                }
            })
        };
        let survivor = Child::run(|| {
            blind_survivor.become_so(folder);
            loop {
                // Takes the lock after each dead holder, or ends by its patience.
                put(&queue, b"survivor");
                let _ = get(&queue, Patience::NoWait);
            }
        });
        for _ in 0..15 {
            let worker = busy();
            get(&told, soon()).unwrap();
            std::thread::sleep(Duration::from_millis(2));
            worker.kill();
            put(&queue, b"y");
        }
        survivor.kill();
        put(&queue, b"y");
        assert_eq!(queue.check().unwrap().findings, []);
        assert_eq!(queue.statistics().unwrap().participants, 1);
    });
}

#[test]
fn a_watcher_without_proc_dies() {
    for_each_pair(|blind, blind_survivor, folder| {
        let (queue, told) = (Queue::create(&PLAIN).unwrap(), Queue::create(&PLAIN).unwrap());
        let watcher = Child::run(|| {
            blind.become_so(folder);
            wait(soon(), |wait| queue.watch(wait)).unwrap();
            put(&told, b"watching");
            sleep_for_ever();
        });
        get(&told, soon()).unwrap();
        watcher.kill();
        let survivor = Child::run(|| {
            blind_survivor.become_so(folder);
            assert_eq!(queue.statistics().unwrap().participants, 1, "the watcher is dead");
            let fd = wait(soon(), |wait| queue.watch(wait)).unwrap();
            for _ in 0..2 {
                assert!(!is_readable(fd, 0));
                put(&queue, b"x");
                assert!(is_readable(fd, 0));
                get(&queue, Patience::NoWait).unwrap();
            }
        });
        assert_eq!(survivor.status(), 0);
    });
}

/// Notifiers that were made with and without /proc, and are opened by processes with and without /proc.
#[test]
fn a_watcher_is_told_by_processes_that_see_less_or_more() {
    for_each_pair(|blind, blind_watcher, folder| {
        if blind == Blind::WithoutBoth {
            return; // such a process cannot open the notifier of another one
        }
        let (queue, told) = (Queue::create(&PLAIN).unwrap(), Queue::create(&PLAIN).unwrap());
        let watcher = Child::run(|| {
            blind_watcher.become_so(folder);
            let fd = wait(soon(), |wait| queue.watch(wait)).unwrap();
            for _ in 0..3 {
                assert!(!is_readable(fd, 0));
                put(&told, b"watching");
                assert!(is_readable(fd, 20_000));
                get(&queue, Patience::NoWait).unwrap();
            }
        });
        let producer = Child::run(|| {
            blind.become_so(folder);
            for _ in 0..3 {
                get(&told, soon()).unwrap();
                put(&queue, b"x");
            }
        });
        assert_eq!((producer.status(), watcher.status()), (0, 0));
    });
}

/// A receiver cannot write to its line, and nothing but /proc would let it. It needs not to.
#[test]
fn a_connection_is_watched_without_proc() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let child = Child::run(|| {
        let queue = Queue::create(&PLAIN).unwrap();
        let (reader, writer) = make_ends(&queue);
        let send = || {
            let sent = wait(soon(), |wait| queue.put_at(writer, &[b"x"], wait));
            sent.unwrap();
        };
        let watch = || {
            wait(soon(), |wait| queue.watch_at(reader, wait)).unwrap();
            reader
        };
        let receive = || {
            let mut buffer = Buffer::default();
            wait(Patience::NoWait, |wait| queue.get_at(reader, &mut buffer, wait)).map(|_| ())
        };
        send();
        send();
        lose_proc(&folder);
        let fd = watch();
        assert!(is_readable(fd, 0));
        receive().unwrap();
        assert!(is_readable(fd, 0));
        receive().unwrap();
        assert!(!is_readable(fd, 0));
        for _ in 0..3 {
            send();
            assert!(is_readable(fd, 0));
            receive().unwrap();
            assert!(!is_readable(fd, 0));
            assert_eq!(receive(), Err(Error::Empty));
        }
        send();
        let other = Child::run(|| {
            let fd = watch();
            assert!(is_readable(fd, 0));
            receive().unwrap();
            assert!(!is_readable(fd, 0));
            send();
        });
        assert_eq!(other.status(), 0);
        assert!(is_readable(watch(), 0));
        receive().unwrap();
        assert!(!is_readable(fd, 0));
        // SAFETY: nothing in this process uses the end any more.
        unsafe { libc::close(writer) };
        assert!(is_readable(fd, 0), "the end of all writers");
        assert_eq!(receive(), Err(Error::Ended));
    });
    assert_eq!(child.status(), 0);
}

fn make_ends(queue: &Queue) -> (i32, i32) {
    let [reader, writer] = Queue::make_line(true).unwrap().map(IntoRawFd::into_raw_fd);
    queue.set_line(reader, writer).unwrap();
    (reader, writer)
}

fn is_readable(fd: i32, timeout: i32) -> bool {
    let mut polled = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the call reads and writes one struct.
    unsafe { libc::poll(&raw mut polled, 1, timeout) > 0 }
}

/// Under another user, a process may open neither the memory file again nor what /proc shows of the others.
#[test]
fn a_worker_that_changed_its_user_dies() {
    if !is_root() {
        return;
    }
    let (queue, told) = with_an_item();
    let worker = Child::run(|| {
        // SAFETY: changes this process only.
        assert_eq!(unsafe { libc::setuid(65534) }, 0);
        assert_eq!(queue.take_part().unwrap(), Proof::Possible);
        get(&queue, Patience::Forever).unwrap();
        put(&told, b"taken");
        sleep_for_ever();
    });
    get(&told, soon()).unwrap();
    let so_soon = Patience::Until(Instant::now() + Duration::from_millis(300));
    assert_eq!(get(&queue, so_soon), Err(Error::Empty), "the worker lives");
    worker.kill();
    assert_eq!(get(&queue, soon()).unwrap(), b"item");
}

/// A worker in a pid namespace of its own. Its parent outside waits for it.
fn in_pid_namespace(work: impl FnOnce()) -> Child {
    Child::run(|| {
        // SAFETY: concerns this process's children only.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
        let first = Child::run(|| {
            // SAFETY: the first only asks. With the second, a test that fails leaves no process of the
            // namespace.
            unsafe {
                assert_eq!(libc::getpid(), 1);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            }
            work();
        });
        let status = first.status();
        // SAFETY: ends this process at once.
        unsafe { libc::_exit(status) };
    })
}

#[test]
fn in_another_pid_namespace_the_life_byte_decides() {
    if !is_root() {
        return;
    }
    let (queue, told) = with_an_item();
    let end = Queue::create(&PLAIN).unwrap();
    let worker = in_pid_namespace(|| {
        assert_eq!(queue.take_part().unwrap(), Proof::Possible);
        get(&queue, Patience::Forever).unwrap();
        put(&told, b"taken");
        get(&end, Patience::Forever).unwrap();
    });
    get(&told, soon()).unwrap();
    let so_soon = Patience::Until(Instant::now() + Duration::from_millis(300));
    assert_eq!(get(&queue, so_soon), Err(Error::Empty), "the worker lives");
    put(&end, b"end");
    assert_eq!(worker.status(), 0);
    // It has ended without leaving.
    assert_eq!(get(&queue, soon()).unwrap(), b"item");
}

/// Closes the only handle, of which the caller has a reference, with an item in hand.
fn take_and_close(queue: &Arc<Queue>) {
    let remainder = queue.open_handle().unwrap();
    get(queue, Patience::Forever).unwrap();
    let queue: *const Arc<Queue> = queue;
    // SAFETY: the caller's process ends without using that handle again.
    remainder.close(unsafe { queue.read() });
    std::mem::forget(remainder);
}

/// A worker that has closed the queue has an item in hand still. Survivors in another pid namespace, to which
/// its pid means nothing, do not take it for dead.
#[test]
fn in_another_pid_namespace_a_closed_queue_is_not_a_death() {
    if !is_root() {
        return;
    }
    let so_soon = || Patience::Until(Instant::now() + Duration::from_millis(300));
    for is_worker_at_home in [false, true] {
        let (queue, told) = with_an_item();
        let end = Queue::create(&PLAIN).unwrap();
        let work = || {
            take_and_close(&queue);
            put(&told, b"closed");
            get(&end, Patience::Forever).unwrap();
        };
        let worker = match is_worker_at_home {
            true => Child::run(work),
            false => in_pid_namespace(work),
        };
        get(&told, soon()).unwrap();
        let survive = || assert_eq!(get(&queue, so_soon()), Err(Error::Empty), "the worker lives");
        survive();
        assert_eq!(in_pid_namespace(survive).status(), 0);
        put(&end, b"end");
        assert_eq!(worker.status(), 0);
        // At home its pid proves the death, and else its life byte.
        assert_eq!(get(&queue, soon()).unwrap(), b"item");
    }
}

#[test]
fn nothing_proves_the_death_in_another_pid_namespace_without_proc() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let (queue, told) = with_an_item();
    // A process that was forked beside /proc has an open file description of its own, and keeps it. One that
    // is forked without has none.
    let in_such_a_process = |work: &dyn Fn()| {
        in_pid_namespace(|| {
            lose_proc(&folder);
            assert_eq!(Child::run(work).status(), 0);
        })
    };
    let worker = in_such_a_process(&|| {
        assert_eq!(queue.take_part().unwrap(), Proof::Impossible);
        get(&queue, Patience::Forever).unwrap();
        // Between two processes of the namespace the proof of death is as anywhere.
        put(&queue, b"second");
        let second = Child::run(|| {
            assert_eq!(queue.take_part().unwrap(), Proof::Impossible);
            get(&queue, Patience::Forever).unwrap();
        });
        assert_eq!(second.status(), 0);
        assert_eq!(get(&queue, soon()).unwrap(), b"second");
        queue.task_done().unwrap();
        queue.task_done().unwrap();
        put(&queue, b"item");
        get(&queue, soon()).unwrap();
        put(&told, b"taken");
    });
    get(&told, soon()).unwrap();
    assert_eq!(worker.status(), 0);
    // No proof of death is possible from outside, and no time-out takes its place: the item stays taken.
    let so_soon = Patience::Until(Instant::now() + Duration::from_millis(500));
    assert_eq!(get(&queue, so_soon), Err(Error::Empty));
    assert_eq!(queue.statistics().unwrap().participants, 2);
}

/// A process that loses /proc after it was forked has an open file description of its own already.
#[test]
fn a_life_byte_outlasts_proc() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let (queue, told) = with_an_item();
    let worker = in_pid_namespace(|| {
        lose_proc(&folder);
        assert_eq!(queue.take_part().unwrap(), Proof::Possible);
        get(&queue, Patience::Forever).unwrap();
        put(&told, b"taken");
    });
    get(&told, soon()).unwrap();
    assert_eq!(worker.status(), 0);
    assert_eq!(get(&queue, soon()).unwrap(), b"item");
}

/// A process that has inherited or received the descriptor of a dead one, and does nothing with it, keeps no
/// lock of it. In another pid namespace only the lock tells of the death.
fn a_worker_dies_beside(idle: &dyn Fn(u32, &Arc<Queue>)) {
    if !is_root() {
        return;
    }
    let (queue, told) = with_an_item();
    let end = Queue::create(&PLAIN).unwrap();
    let namespace = in_pid_namespace(|| {
        let worker = Child::run(|| {
            assert_eq!(queue.take_part().unwrap(), Proof::Possible);
            get(&queue, Patience::Forever).unwrap();
            let me = std::process::id();
            std::mem::forget(Child::run(|| {
                idle(me, &queue);
                put(&told, b"idle");
                sleep_for_ever();
            }));
            get(&end, Patience::Forever).unwrap();
        });
        assert_eq!(worker.status(), 0);
        put(&told, b"dead");
        // With the first process of its namespace the idle one ends, too.
        get(&end, Patience::Forever).unwrap();
    });
    assert_eq!(get(&told, soon()).unwrap(), b"idle");
    put(&end, b"");
    assert_eq!(get(&told, soon()).unwrap(), b"dead");
    assert_eq!(get(&queue, soon()).unwrap(), b"item");
    put(&end, b"");
    assert_eq!(namespace.status(), 0);
}

#[test]
fn an_idle_child_does_not_keep_its_dead_parent_alive() {
    a_worker_dies_beside(&|_, _| {});
}

#[test]
fn an_idle_receiver_does_not_keep_the_dead_sender_alive() {
    a_worker_dies_beside(&|worker, queue| {
        let (id, fd) = (queue.id(), queue.fd().unwrap().as_raw_fd() as u32);
        let received = Queue::duplicate_of(worker, fd).unwrap();
        let inherited: *const Arc<Queue> = queue;
        // SAFETY: this process uses the handle no more, and never returns to where it lies.
        drop(unsafe { inherited.read() });
        let again = Queue::attach(received).unwrap();
        assert_eq!(again.id(), id);
        std::mem::forget(again);
    });
}

/// Whether another open file description has a lock on one of the life bytes that begin there.
fn is_any_life_byte_locked(queue: &Queue, start: i64) -> bool {
    // SAFETY: a plain C struct for which zeros are valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    lock.l_start = start;
    lock.l_len = 4096;
    let fd = queue.fd().unwrap().as_raw_fd();
    // SAFETY: the call reads and writes one struct.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_OFD_GETLK, &raw mut lock) }, 0);
    i32::from(lock.l_type) != libc::F_UNLCK
}

#[test]
fn one_queue_of_two_in_a_file_may_be_left() {
    let [first, second] = Queue::create_pair(&PLAIN).unwrap();
    let (told, end) = (Queue::create(&PLAIN).unwrap(), Queue::create(&PLAIN).unwrap());
    put(&first, b"the parent takes part");
    let child = Child::run(|| {
        put(&first, b"x");
        put(&second, b"x");
        put(&told, b"takes part");
        get(&end, Patience::Forever).unwrap();
        let left: *const Arc<Queue> = &raw const first;
        // SAFETY: this process uses the handle no more.
        drop(unsafe { left.read() });
        put(&told, b"has left");
        get(&end, Patience::Forever).unwrap();
    });
    get(&told, soon()).unwrap();
    assert!(is_any_life_byte_locked(&first, 0));
    put(&end, b"");
    get(&told, soon()).unwrap();
    assert!(!is_any_life_byte_locked(&first, 0));
    assert_eq!(first.statistics().unwrap().participants, 1);
    assert_eq!(second.statistics().unwrap().participants, 2);
    put(&end, b"");
    assert_eq!(child.status(), 0);
    assert_eq!(second.statistics().unwrap().participants, 1);
}

/// A later process has the pid of the dead participant.
#[test]
fn a_pid_that_is_used_again() {
    if !is_root() {
        return;
    }
    for (blind, blind_survivor) in [
        (Blind::WithoutProc, Blind::No),
        (Blind::WithoutProc, Blind::WithoutProc),
        (Blind::WithoutProc, Blind::WithoutPidfds),
        (Blind::WithoutPidfds, Blind::No),
        (Blind::WithoutBoth, Blind::No),
        (Blind::WithoutBoth, Blind::WithoutPidfds),
    ] {
        println!("worker {blind:?}, survivor {blind_survivor:?}");
        let folder = Folder::new();
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        put(&queue, b"item");
        let worker = Child::run(|| {
            blind.become_so(&folder);
            get(&queue, Patience::Forever).unwrap();
        });
        let pid = worker.0;
        assert_eq!(worker.status(), 0);
        // The start time of a process is exact to 10 ms.
        std::thread::sleep(Duration::from_millis(30));
        let Some(_other) = Child::run_as(pid, || sleep_for_ever()) else {
            println!("NOT TESTED: another process has got the pid {pid}");
            continue;
        };
        let survivor = Child::run(|| {
            blind_survivor.become_so(&folder);
            assert_eq!(get(&queue, soon()).unwrap(), b"item");
        });
        assert_eq!(survivor.status(), 0);
    }
}

/// Without /proc, and on a kernel that does not tell the namespace, a child learns from its parent which one
/// it is in.
#[test]
fn children_of_a_process_that_never_saw_anything() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let parent = Child::run(|| {
        Blind::WithoutBoth.become_so(&folder);
        let queue = Queue::create(&ACKNOWLEDGED).unwrap();
        put(&queue, b"item");
        let worker = Child::run(|| {
            assert_eq!(queue.take_part().unwrap(), Proof::Possible);
            get(&queue, Patience::Forever).unwrap();
        });
        assert_eq!(worker.status(), 0);
        assert_eq!(get(&queue, soon()).unwrap(), b"item");
    });
    assert_eq!(parent.status(), 0);
}

/// The participants here are killed if they open the pidfd of another process.
#[test]
fn joining_asks_for_no_other_process() {
    let (queue, told) = (Queue::create(&PLAIN).unwrap(), Queue::create(&PLAIN).unwrap());
    let mut others = Vec::new();
    for _ in 0..150 {
        others.push(Child::run(|| {
            answer_pidfd_open(libc::SECCOMP_RET_KILL_PROCESS, true);
            put(&queue, b"x");
            put(&told, b"joined");
            sleep_for_ever();
        }));
        get(&told, soon()).unwrap();
    }
    assert_eq!(queue.statistics().unwrap().participants, 151);
}

#[test]
fn a_full_table_of_the_dead_is_no_dead_end() {
    let queue = Queue::create(&PLAIN).unwrap();
    for i in 0..4200 {
        let child = Child::run(|| put(&queue, b"x"));
        assert_eq!(child.status(), 0, "child {i}");
    }
    assert_eq!(queue.len(), 4200);
    assert_eq!(queue.statistics().unwrap().participants, 1);
}
