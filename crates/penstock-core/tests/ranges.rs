//! Address space: a queue maps little, grows in ranges, and a process that cannot map one takes nothing.
#![cfg(not(loom))]
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

#[cfg(feature = "fault-points")]
use penstock_core::fault;
use penstock_core::{Buffer, Check, Delivery, Error, Lent, Options, Patience, Queue, View};

#[path = "common/child.rs"]
mod child;
mod common;
#[path = "common/get.rs"]
mod get;
#[path = "common/soon.rs"]
mod soon;
#[path = "common/stops.rs"]
mod stops;

use common::{PLAIN, wait};
use soon::soon;

const ACKNOWLEDGED: Options = Options {
    acknowledged: true,
    ..PLAIN
};
const MIB: u64 = 1 << 20;
const LARGE: usize = 300_000;

fn limited_to(max_bytes: u64) -> Options {
    Options {
        max_bytes: Some(max_bytes),
        ..PLAIN
    }
}

fn put(queue: &Queue, payload: &[u8]) -> Result<(), Error> {
    wait(soon(), |wait| queue.put(&[payload], wait)).map(|_| ())
}

fn take(queue: &Arc<Queue>) -> Result<Delivery, Error> {
    wait(soon(), |wait| queue.get(&mut Buffer::default(), wait))
}

fn lent(queue: &Arc<Queue>) -> Lent {
    match take(queue).unwrap() {
        Delivery::Lent(lent) => lent,
        Delivery::Copied => panic!("it was copied"),
    }
}

fn get(queue: &Arc<Queue>) -> Result<Vec<u8>, Error> {
    get::get(queue, soon())
}

fn numbered(number: usize, len: usize) -> Vec<u8> {
    let mut payload = vec![number as u8; len];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload
}

fn is_sound(queue: &Queue) {
    assert_eq!(queue.check().unwrap().findings, []);
    let s = queue.statistics().unwrap();
    assert_eq!(s.puts, s.gets + s.queued + s.dead_letters, "{s:?}");
}

/// Bytes of address space that the queues of this process take.
fn mapped() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter(|line| line.contains("memfd:penstock"))
        .map(|line| {
            let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let number = |hex| u64::from_str_radix(hex, 16).unwrap();
            number(end) - number(start)
        })
        .sum()
}

/// Bytes of address space that this process takes.
fn used() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

/// Sets the limit of a resource, which can be raised again.
fn set_limit(resource: libc::__rlimit_resource_t, limit: u64) {
    let limit = libc::rlimit {
        rlim_cur: limit,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the call reads one struct.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

/// Leaves this process no address space for another mapping, and so none for large private memory either.
fn exhaust_address_space() {
    set_limit(libc::RLIMIT_AS, 16 * MIB);
}

fn free_address_space() {
    set_limit(libc::RLIMIT_AS, libc::RLIM_INFINITY);
}

/// A forked child that the test stops, lets go on, and judges by how it ended.
struct Child(child::Child);

impl Child {
    fn run(work: impl FnOnce()) -> Child {
        Child(child::Child::run(work))
    }

    /// The signal that ended it, or its negated exit status.
    fn reap(mut self) -> i32 {
        let status = self.0.reap();
        if libc::WIFSIGNALED(status) {
            libc::WTERMSIG(status)
        } else {
            -libc::WEXITSTATUS(status)
        }
    }

    fn signal(&self, signal: i32) {
        self.0.signal(signal);
    }

    /// Waits until it is stopped.
    fn is_stopped(&self) {
        assert!(self.0.stops(), "it has ended");
    }

    fn stop(&self) {
        self.signal(libc::SIGSTOP);
        self.is_stopped();
    }

    /// Lets it go on, and waits until it has ended.
    fn finish(self) -> i32 {
        self.signal(libc::SIGCONT);
        self.reap()
    }
}

/// A number that parent and children see.
#[derive(Clone, Copy)]
struct Step(&'static AtomicU32);

impl Step {
    fn new() -> Step {
        // SAFETY: a new mapping at a place that the kernel chooses, which stays; zeros are an atomic number.
        unsafe {
            let (protection, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            );
            let page = libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0);
            assert_ne!(page, libc::MAP_FAILED);
            Step(&*page.cast())
        }
    }

    fn reach(self, step: u32) {
        self.0.store(step, Ordering::SeqCst);
    }

    fn wait_for(self, step: u32) {
        let given_up = Instant::now() + Duration::from_secs(60);
        while self.0.load(Ordering::SeqCst) < step {
            assert!(Instant::now() < given_up, "step {step} was not reached");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn an_empty_queue_maps_little() {
    let child = Child::run(|| {
        for options in [PLAIN, ACKNOWLEDGED, limited_to(1 << 20), limited_to(512 << 30)] {
            let before = mapped();
            let queue = Queue::create(&options).unwrap();
            let first = mapped() - before;
            assert!(first <= 16 * MIB, "{first} bytes for {options:?}");
            put(&queue, b"x").unwrap();
            put(&queue, &[1; 2000]).unwrap();
            put(&queue, &[1; 100_000]).unwrap();
            assert_eq!(mapped() - before, first);
            let (fd, id) = (queue.duplicate_fd().unwrap(), queue.id());
            drop(queue);
            assert_eq!(mapped(), before);
            let queue = Queue::attach(fd).unwrap();
            assert_eq!((queue.id(), mapped() - before), (id, first));
        }
    });
    assert_eq!(child.reap(), 0);
}

/// One item of all of `max_bytes`; then many, of each size, until the limit stands in the way and not the
/// memory that is mapped.
#[test]
fn a_queue_grows_up_to_its_limit() {
    let limit = 96 * MIB;
    let queue = Queue::create(&limited_to(limit)).unwrap();
    let whole = numbered(1, limit as usize - 65536);
    for _ in 0..2 {
        put(&queue, &whole).unwrap();
        assert!(get(&queue).unwrap() == whole);
    }
    for len in [
        20,
        1000,
        30_000,
        65_536,
        1_000_000,
        10_000_000,
        limit as usize / 3,
    ] {
        let mut count = 0;
        let error = loop {
            match put(&queue, &numbered(count, len)) {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
        };
        let Error::OutOfMemory {
            needed, used, limit, ..
        } = error
        else {
            panic!("{len}: {error}");
        };
        assert!(used + needed > limit && used <= limit, "{len}: {error:?}");
        is_sound(&queue);
        for number in 0..count {
            assert!(
                get(&queue).unwrap() == numbered(number, len),
                "{len}: item {number}"
            );
        }
    }
    is_sound(&queue);
    put(&queue, &whole).unwrap();
    assert!(get(&queue).unwrap() == whole);
}

/// Items in slots and memory that another process has added: it made the ranges, this one maps them.
#[test]
fn others_map_what_one_has_added() {
    for options in [PLAIN, ACKNOWLEDGED] {
        let queue = Queue::create(&options).unwrap();
        queue.statistics().unwrap();
        let small = 30_000;
        let large = 60;
        let child = Child::run(|| {
            for number in 0..small {
                put(&queue, &numbered(number, 20 + number % 2000)).unwrap();
            }
            for number in 0..large {
                put(&queue, &numbered(number, LARGE * (1 + number % 7))).unwrap();
            }
        });
        assert_eq!(child.reap(), 0);
        is_sound(&queue);
        for number in 0..small {
            assert!(get(&queue).unwrap() == numbered(number, 20 + number % 2000));
        }
        for number in 0..large {
            assert!(get(&queue).unwrap() == numbered(number, LARGE * (1 + number % 7)));
        }
        if options.acknowledged {
            for _ in 0..small + large {
                queue.task_done().unwrap();
            }
        }
        is_sound(&queue);
    }
}

/// Two processes and four threads add ranges at once; each item arrives, and what two have mapped for the
/// same purpose is unmapped by one.
#[test]
fn ranges_are_added_at_the_same_time() {
    let queue = Queue::create(&PLAIN).unwrap();
    queue.statistics().unwrap();
    let fill = |producer: usize| {
        for number in 0..60 {
            put(&queue, &numbered(producer * 100 + number, 700_000)).unwrap();
            for _ in 0..100 {
                put(&queue, &numbered(producer * 100 + number, 20)).unwrap();
            }
        }
    };
    let child = Child::run(|| {
        std::thread::scope(|scope| (0..2).for_each(|i| drop(scope.spawn(move || fill(i)))));
    });
    std::thread::scope(|scope| (2..4).for_each(|i| drop(scope.spawn(move || fill(i)))));
    assert_eq!(child.reap(), 0);
    is_sound(&queue);
    let mut counts = [0; 400];
    for _ in 0..4 * 60 * 101 {
        let payload = get(&queue).unwrap();
        let number = usize::from_le_bytes(payload[..8].try_into().unwrap());
        assert!(payload == numbered(number, payload.len()));
        counts[number] += payload.len();
    }
    for (number, count) in counts.into_iter().enumerate() {
        let expected = if number % 100 < 60 { 700_000 + 100 * 20 } else { 0 };
        assert_eq!(count, expected, "{number}");
    }
    is_sound(&queue);
}

/// A run that fits in no range, and would in two together, gets a range of its own.
#[test]
fn a_run_lies_in_one_range() {
    let queue = Queue::create(&PLAIN).unwrap();
    for number in 0..4 {
        put(&queue, &numbered(number, 3_900_000)).unwrap();
    }
    for number in 0..4 {
        assert!(get(&queue).unwrap() == numbered(number, 3_900_000));
    }
    for number in 0..3 {
        put(&queue, &numbered(number, 7_000_000)).unwrap();
        is_sound(&queue);
        assert!(get(&queue).unwrap() == numbered(number, 7_000_000));
    }
    is_sound(&queue);
}

/// A payload that is read in place, and a view of it, stay where they are, however the queue grows.
#[test]
fn a_range_never_moves() {
    let queue = Queue::create(&PLAIN).unwrap();
    let mut held = Vec::new();
    for number in 0..40 {
        let payload = numbered(number, LARGE + number * 200_000);
        put(&queue, &payload).unwrap();
        let lent = Arc::new(lent(&queue));
        let view = View::new(&lent, 0..payload.len()).unwrap();
        held.push((lent.bytes().as_ptr(), view.pointer(), lent, view));
        for (number, (place, pages, lent, view)) in held.iter().enumerate() {
            assert_eq!(lent.bytes().as_ptr(), *place);
            assert_eq!(view.pointer(), *pages);
            assert!(lent.bytes()[..8] == number.to_le_bytes());
            // SAFETY: the view is readable as long as it lives.
            assert!(unsafe { std::slice::from_raw_parts(*pages, view.len()) } == lent.bytes());
        }
    }
    drop(held);
    is_sound(&queue);
}

/// Many queues under a limit become smaller, so that there are more of them, and some of them can grow.
#[test]
fn many_queues_have_room() {
    let child = Child::run(|| {
        // (The queues of other tests, which this process inherits, do not come back here.)
        set_limit(libc::RLIMIT_AS, 1024 * MIB + 4 * mapped());
        let queues: Vec<_> = (0..100)
            .flat_map(|_| Queue::create_pair(&PLAIN).unwrap())
            .collect();
        for queue in &queues {
            put(queue, &numbered(1, 30_000)).unwrap();
            assert!(get(queue).unwrap() == numbered(1, 30_000));
        }
        for queue in [&queues[0], &queues[199]] {
            put(queue, &numbered(2, 5_000_000)).unwrap();
            assert!(get(queue).unwrap() == numbered(2, 5_000_000));
            is_sound(queue);
        }
    });
    assert_eq!(child.reap(), 0);
}

/// All queues of a process take a quarter of its limit, at their creation and as they grow; and go on.
#[test]
fn queues_take_a_quarter_of_the_address_space() {
    let child = Child::run(|| {
        let before = mapped();
        // (Other tests may have queues at this moment, which this process inherits.)
        let limit = used() + 400 * MIB + 4 * before;
        set_limit(libc::RLIMIT_AS, limit);
        let mut queues: Vec<_> = (0..20)
            .map(|_| Queue::create(&limited_to(512 << 30)).unwrap())
            .collect();
        assert!(
            mapped() - before < 60 * MIB,
            "{} bytes for 20 queues",
            mapped() - before
        );
        let mut count = 0;
        let error = loop {
            match put(&queues[count % 3], &numbered(count, 5_000_000)) {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::NoAddressSpace { .. }), "{error:?}");
        assert!(count >= 5, "{count} items");
        assert!(mapped() <= limit / 4, "{} bytes of {limit}", mapped());
        for number in 0..count {
            assert!(get(&queues[number % 3]).unwrap() == numbered(number, 5_000_000));
        }
        queues.iter().for_each(|queue| is_sound(queue));
        let error = loop {
            match Queue::create(&PLAIN) {
                Ok(queue) => queues.push(queue),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::NoAddressSpace { .. }), "{error:?}");
        assert!(mapped() <= limit / 4, "{} bytes of {limit}", mapped());
        for queue in &queues {
            put(queue, b"still there").unwrap();
            assert_eq!(get(queue).unwrap(), b"still there");
        }
        // What a queue has taken comes back with its handle.
        queues.clear();
        assert_eq!(mapped(), before);
        let queue = Queue::create(&PLAIN).unwrap();
        put(&queue, &numbered(1, 40 << 20)).unwrap();
    });
    assert_eq!(child.reap(), 0);
}

/// A getter that cannot map what others have added gets an error, and has taken nothing; a waiting one, too.
/// With address space it goes on.
#[test]
fn without_address_space_nothing_is_taken() {
    /// How the getter waits: not at all, until the first item, or so long that it ages.
    #[derive(PartialEq)]
    enum Waits {
        Not,
        Briefly,
        UntilAged,
    }
    let len = |number| if number == 0 { 20 << 20 } else { LARGE };
    for options in [PLAIN, ACKNOWLEDGED] {
        for waits in [Waits::Not, Waits::Briefly, Waits::UntilAged] {
            let queue = Queue::create(&options).unwrap();
            queue.statistics().unwrap();
            let step = Step::new();
            let child = Child::run(|| {
                put(&queue, b"of the child").unwrap();
                assert_eq!(get(&queue).unwrap(), b"of the child");
                if options.acknowledged {
                    queue.task_done().unwrap();
                }
                exhaust_address_space();
                step.reach(1);
                if waits == Waits::Not {
                    step.wait_for(2);
                }
                let refused = |error| matches!(error, Some(Error::NoAddressSpace { .. }));
                assert!(refused(get(&queue).err()));
                step.wait_for(2);
                assert!(refused(get(&queue).err()));
                assert!(refused(put(&queue, b"y").err()));
                assert!(refused(queue.statistics().err()));
                assert_eq!(queue.len(), 40);
                step.reach(3);
                step.wait_for(4);
                free_address_space();
                assert!(get(&queue).unwrap() == numbered(1, LARGE));
                if options.acknowledged {
                    queue.task_done().unwrap();
                }
            });
            step.wait_for(1);
            if waits != Waits::Not {
                let given_up = Instant::now() + Duration::from_secs(20);
                while queue.statistics().unwrap().waiting_getters == 0 {
                    assert!(Instant::now() < given_up, "it does not wait");
                }
            }
            if waits == Waits::UntilAged {
                until(&queue, |check| check.aged == 1);
            }
            for number in 0..40 {
                put(&queue, &numbered(number, len(number))).unwrap();
            }
            step.reach(2);
            step.wait_for(3);
            let s = queue.statistics().unwrap();
            assert_eq!((s.queued, s.taken, s.waiting_getters), (40, 0, 0), "{s:?}");
            assert!(get(&queue).unwrap() == numbered(0, len(0)));
            step.reach(4);
            assert_eq!(child.reap(), 0);
            for number in 2..40 {
                assert!(get(&queue).unwrap() == numbered(number, LARGE));
            }
            is_sound(&queue);
        }
    }
}

/// Waits until a check of the queue finds that.
fn until(queue: &Queue, what: impl Fn(&Check) -> bool) {
    let given_up = Instant::now() + Duration::from_secs(20);
    while !what(&queue.check().unwrap()) {
        assert!(Instant::now() < given_up, "it does not come to that");
        std::thread::yield_now();
    }
}

fn is_refused<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::NoAddressSpace { .. }))
}

/// Adds a range, with an item that stays.
fn grow(queue: &Queue) {
    put(queue, &numbered(9, 20 << 20)).unwrap();
}

/// A getter that cannot map what is added meanwhile. It reaches step 1 when it is refused, and stays until
/// step 2.
fn refused_getter(queue: &Arc<Queue>, step: Step) -> Child {
    Child::run(|| {
        queue.statistics().unwrap();
        exhaust_address_space();
        assert!(is_refused(get(queue)));
        step.reach(1);
        step.wait_for(2);
    })
}

/// A getter that is notified, and cannot map what was added, leaves the list under the lock: the end of that
/// section notifies another.
#[test]
fn without_address_space_a_wake_up_is_passed_on() {
    for ages in [false, true] {
        let queue = Queue::create(&PLAIN).unwrap();
        queue.statistics().unwrap();
        let step = Step::new();
        let poor = refused_getter(&queue, step);
        until(&queue, |check| check.cells == 1 && check.aged == u64::from(ages));
        grow(&queue);
        step.wait_for(1);
        let check = queue.check().unwrap();
        assert_eq!((check.cells, check.ready), (0, 1));
        step.reach(2);
        assert_eq!(poor.reap(), 0);
        is_sound(&queue);
    }
}

/// Of getters that have aged and have not mapped what was added, no more are notified than there are items.
#[test]
fn an_item_wakes_one_getter_that_maps() {
    let queue = Queue::create(&PLAIN).unwrap();
    queue.statistics().unwrap();
    let getters = Child::run(|| {
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| get(&queue).unwrap());
            }
        });
    });
    until(&queue, |check| check.aged == 10);
    getters.stop();
    grow(&queue);
    assert_eq!(queue.check().unwrap().aged, 9);
    for number in 0..9 {
        put(&queue, &numbered(number, 20)).unwrap();
    }
    assert_eq!(getters.finish(), 0);
    assert_eq!(queue.len(), 0);
    is_sound(&queue);
}

/// A getter was handed an item, and cannot map what was added since: the item is the next that others get.
#[test]
fn without_address_space_a_handed_item_returns() {
    let queue = Queue::create(&PLAIN).unwrap();
    queue.statistics().unwrap();
    let step = Step::new();
    let poor = refused_getter(&queue, step);
    until(&queue, |check| check.aged == 1);
    poor.stop();
    let larger_than_near = numbered(9, 6 << 20);
    put(&queue, &numbered(1, 20)).unwrap();
    // It checks for the dead, so that no check is due for a while.
    assert_eq!(queue.statistics().unwrap().queued, 0);
    put(&queue, &larger_than_near).unwrap();
    poor.signal(libc::SIGCONT);
    step.wait_for(1);
    let first = wait(Patience::NoWait, |wait| queue.get(&mut Buffer::default(), wait));
    assert!(matches!(first, Ok(Delivery::Copied)));
    assert_eq!(queue.check().unwrap().cells, 0);
    step.reach(2);
    assert_eq!(poor.reap(), 0);
    assert!(get(&queue).unwrap() == larger_than_near);
    is_sound(&queue);
}

/// A process that cannot enter has not checked for the dead: others do so at once.
#[test]
fn without_address_space_the_dead_are_left_to_others() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    queue.statistics().unwrap();
    let step = Step::new();
    let poor = Child::run(|| {
        queue.statistics().unwrap();
        exhaust_address_space();
        step.reach(1);
        step.wait_for(2);
        assert!(is_refused(get(&queue)));
        step.reach(3);
        step.wait_for(4);
    });
    step.wait_for(1);
    put(&queue, b"of the dead").unwrap();
    grow(&queue);
    let dead = Child::run(|| assert_eq!(get(&queue).unwrap(), b"of the dead"));
    assert_eq!(dead.reap(), 0);
    // Time after which a getter checks.
    std::thread::sleep(Duration::from_millis(300));
    step.reach(2);
    step.wait_for(3);
    let mut buffer = Buffer::default();
    wait(Patience::NoWait, |wait| queue.get(&mut buffer, wait)).unwrap();
    assert_eq!(buffer.bytes(), b"of the dead");
    step.reach(4);
    assert_eq!(poor.reap(), 0);
}

/// A putter that has aged cannot write its item before there is room, for want of address space: it waits on.
#[test]
fn without_address_space_a_putter_waits_for_room() {
    let queue = Queue::create(&Options { maxsize: 1, ..PLAIN }).unwrap();
    put(&queue, b"first").unwrap();
    let large = numbered(7, 20 << 20);
    let poor = Child::run(|| {
        queue.statistics().unwrap();
        exhaust_address_space();
        put(&queue, &large).unwrap();
    });
    until(&queue, |check| check.aged == 1);
    // Time for its attempt.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        (queue.check().unwrap().aged, queue.check().unwrap().written),
        (1, 0)
    );
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the call reads one struct.
    let set = unsafe {
        libc::prlimit(
            poor.0.0,
            libc::RLIMIT_AS,
            &raw const unlimited,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(set, 0);
    assert_eq!(get(&queue).unwrap(), b"first");
    assert!(get(&queue).unwrap() == large);
    assert_eq!(poor.reap(), 0);
    is_sound(&queue);
}

/// A section has left aged getters unserved, and items in slots that the next process has not mapped: that
/// process maps them first, and finds no damage.
#[cfg(feature = "fault-points")]
#[test]
fn a_process_that_maps_serves_none_before() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    queue.statistics().unwrap();
    let (step, taken) = (Step::new(), Step::new());
    let fresh = Child::run(|| {
        step.wait_for(1);
        queue.statistics().unwrap();
    });
    for number in 0..2300 {
        put(&queue, &numbered(number, 20)).unwrap();
    }
    for number in 0..2100 {
        assert!(get(&queue).unwrap() == numbered(number, 20));
        queue.task_done().unwrap();
    }
    let holder = Child::run(|| {
        for number in 2100..2300 {
            assert!(get(&queue).unwrap() == numbered(number, 20));
        }
        taken.reach(1);
        loop {
            std::thread::park();
        }
    });
    taken.wait_for(1);
    let getters = Child::run(|| {
        std::thread::scope(|scope| {
            for _ in 0..70 {
                scope.spawn(|| {
                    get(&queue).unwrap();
                    queue.task_done().unwrap();
                });
            }
        });
    });
    until(&queue, |check| check.aged == 70);
    // Not in a critical section: the sweeper would wait for the lock.
    loop {
        getters.stop();
        let tried = wait(Patience::NoWait, |wait| {
            queue.get(&mut Buffer::default(), wait).map(drop)
        });
        if tried == Err(Error::Empty) {
            break;
        }
        getters.signal(libc::SIGCONT);
    }
    drop(holder);
    // Stopped at the end of the section that has returned 200 items, and has handed 64 of them over.
    let sweeper = Child::run(|| {
        assert!(fault::suspend_at("unlock.before-wake"));
        queue.statistics().unwrap();
    });
    sweeper.is_stopped();
    step.reach(1);
    assert_eq!(fresh.reap(), 0);
    assert_eq!(queue.check().unwrap().aged, 0);
    assert_eq!(sweeper.finish(), 0);
    assert_eq!(getters.finish(), 0);
    assert_eq!(queue.statistics().unwrap().queued, 130);
    is_sound(&queue);
}

/// An item in hand lies in a slot that another process has not mapped. A section of that process cannot tell
/// whether the queue, which is shut down, has come to its end: it finds no damage, and says nothing. The
/// section that finishes the item does.
#[test]
fn a_process_that_maps_says_of_no_end_before() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    queue.statistics().unwrap();
    let (joined, step) = (Step::new(), Step::new());
    let fresh = Child::run(|| {
        queue.statistics().unwrap();
        joined.reach(1);
        step.wait_for(1);
        queue.statistics().unwrap();
        assert_eq!(get(&queue), Err(Error::ShutDown));
    });
    joined.wait_for(1);
    for number in 0..2300 {
        put(&queue, &numbered(number, 20)).unwrap();
    }
    for number in 0..2300 {
        if number > 0 {
            queue.task_done().unwrap();
        }
        assert!(get(&queue).unwrap() == numbered(number, 20));
    }
    queue.shut_down(false).unwrap();
    let getter = Child::run(|| assert_eq!(get(&queue), Err(Error::ShutDown)));
    until(&queue, |check| check.cells == 1);
    step.reach(1);
    until(&queue, |check| check.cells == 2);
    queue.task_done().unwrap();
    assert_eq!((getter.reap(), fresh.reap()), (0, 0));
    is_sound(&queue);
}

/// A putter's time ends while the lock's holder is stopped between the two stores that publish its item, and
/// the putter's process cannot map what was added: it learns all the same whether its item was put. The same
/// if the holder dies there, and another repairs the queue.
#[cfg(feature = "fault-points")]
#[test]
fn without_address_space_a_putter_learns_what_was_put() {
    for point in ["hand.marked", "hand.published", "hand.numbered"] {
        for is_killed in [false, true] {
            let queue = Queue::create(&Options { maxsize: 1, ..PLAIN }).unwrap();
            put(&queue, b"first").unwrap();
            let step = Step::new();
            let deadline = Instant::now() + Duration::from_secs(1);
            let poor = Child::run(|| {
                queue.statistics().unwrap();
                exhaust_address_space();
                let put = wait(Patience::Until(deadline), |wait| queue.put(&[b"its own"], wait));
                step.reach(if put.is_ok() { 1 } else { 2 });
            });
            until(&queue, |check| check.written == 1);
            poor.stop();
            let another = std::thread::spawn({
                let queue = queue.clone();
                move || grow(&queue)
            });
            until(&queue, |check| check.written == 2);
            let publisher = Child::run(|| {
                assert!(fault::suspend_at(point));
                get(&queue).unwrap();
            });
            publisher.is_stopped();
            while Instant::now() < deadline {
                std::thread::yield_now();
            }
            poor.signal(libc::SIGCONT);
            // Time for what it does when its time is over.
            std::thread::sleep(Duration::from_millis(500));
            if is_killed {
                publisher.signal(libc::SIGKILL);
                assert_eq!(publisher.reap(), libc::SIGKILL);
            } else {
                assert_eq!(publisher.finish(), 0);
            }
            step.wait_for(1);
            let is_put = step.0.load(Ordering::SeqCst) == 1;
            assert_eq!(poor.reap(), 0);
            let first = get(&queue).unwrap();
            assert_eq!(first == b"its own", is_put, "{point}");
            assert!(is_put || is_killed && point == "hand.marked", "{point}");
            if is_put {
                assert_eq!(get(&queue).unwrap().len(), 20 << 20);
            }
            another.join().unwrap();
            assert_eq!(queue.len(), 0);
            is_sound(&queue);
        }
    }
}

/// What a process holds when it cannot enter any more returns: the end of its borrow is put off, and done by
/// its next section, or by the sweep.
#[test]
fn without_address_space_work_is_put_off() {
    for dies in [false, true] {
        let queue = Queue::create(&PLAIN).unwrap();
        queue.statistics().unwrap();
        put(&queue, &numbered(0, LARGE)).unwrap();
        let step = Step::new();
        let child = Child::run(|| {
            let (lent, expected) = (lent(&queue), numbered(0, LARGE));
            exhaust_address_space();
            step.reach(1);
            step.wait_for(2);
            assert!(lent.bytes() == expected);
            drop(lent);
            step.reach(3);
            step.wait_for(4);
            if !dies {
                free_address_space();
                put(&queue, b"of the child").unwrap();
            }
        });
        step.wait_for(1);
        for number in 1..40 {
            put(&queue, &numbered(number, LARGE)).unwrap();
        }
        step.reach(2);
        step.wait_for(3);
        step.reach(4);
        assert_eq!(child.reap(), 0);
        is_sound(&queue);
        assert_eq!(queue.check().unwrap().claimed + queue.check().unwrap().leased, 0);
        for number in 1..40 {
            assert!(get(&queue).unwrap() == numbered(number, LARGE));
        }
        assert_eq!(queue.len(), u64::from(!dies));
    }
}

/// A process that cannot map all of the queue does not take the lock over, which it could not repair.
#[cfg(feature = "fault-points")]
#[test]
fn without_address_space_the_lock_is_left_to_others() {
    let queue = Queue::create(&PLAIN).unwrap();
    queue.statistics().unwrap();
    let step = Step::new();
    let poor = Child::run(|| {
        queue.statistics().unwrap();
        exhaust_address_space();
        step.reach(1);
        step.wait_for(2);
        for _ in 0..3 {
            assert!(is_refused(put(&queue, b"y")));
            assert!(is_refused(get(&queue)));
        }
        // The number of items is the one of the last section that ended.
        assert_eq!(queue.len(), 40);
        assert!(!queue.is_settled());
    });
    step.wait_for(1);
    let doomed = Child::run(|| {
        for number in 0..40 {
            put(&queue, &numbered(number, LARGE)).unwrap();
        }
        assert!(fault::arm("put.committed", 1));
        put(&queue, b"x").unwrap();
    });
    assert_eq!(doomed.reap(), libc::SIGKILL);
    step.reach(2);
    assert_eq!(poor.reap(), 0);
    for number in 0..40 {
        assert!(get(&queue).unwrap() == numbered(number, LARGE));
    }
    assert_eq!(get(&queue).unwrap(), b"x");
    is_sound(&queue);
}

/// A process dies at each step of the growth by a range, of slots and of the heap, and of mapping a range
/// that another has added. The others go on, and grow by another range, larger or not.
#[cfg(feature = "fault-points")]
#[test]
fn death_at_each_step_of_a_range() {
    let slots: fn(&Queue) = |queue| {
        for number in 0..2100 {
            put(queue, &numbered(number, 20)).unwrap();
        }
    };
    let heap: fn(&Queue) = |queue| {
        for number in 0..20 {
            put(queue, &numbered(number, LARGE)).unwrap();
        }
    };
    for (grow, points) in [
        (slots, &["range.mapped", "range.noted", "range.added"][..]),
        (
            heap,
            &["range.mapped", "range.backed", "range.noted", "range.added"][..],
        ),
    ] {
        for point in points {
            for next in [slots, heap] {
                let queue = Queue::create(&PLAIN).unwrap();
                put(&queue, &numbered(0, 2000)).unwrap();
                get(&queue).unwrap();
                let child = Child::run(|| {
                    assert!(fault::arm(point, 1));
                    grow(&queue);
                });
                assert_eq!(child.reap(), libc::SIGKILL, "it did not pass {point}");
                is_sound(&queue);
                while !queue.is_empty() {
                    get(&queue).unwrap();
                }
                next(&queue);
                let large = numbered(7, 20 << 20);
                put(&queue, &large).unwrap();
                is_sound(&queue);
                while queue.len() > 1 {
                    get(&queue).unwrap();
                }
                assert!(get(&queue).unwrap() == large, "{point}");
                is_sound(&queue);
            }
        }
    }

    let queue = Queue::create(&PLAIN).unwrap();
    let step = Step::new();
    let getter = Child::run(|| {
        queue.statistics().unwrap();
        step.reach(1);
        step.wait_for(2);
        assert!(fault::arm("range.mapped", 2));
        get(&queue).unwrap();
    });
    step.wait_for(1);
    slots(&queue);
    heap(&queue);
    step.reach(2);
    assert_eq!(getter.reap(), libc::SIGKILL);
    assert_eq!(queue.statistics().unwrap().queued, 2120);
    is_sound(&queue);
}

/// A process that was killed in the section beside far slots and a far heap: the rebuild reads all of them.
#[cfg(feature = "fault-points")]
#[test]
fn a_rebuild_reads_all_ranges() {
    let queue = Queue::create(&ACKNOWLEDGED).unwrap();
    for number in 0..5000 {
        put(
            &queue,
            &numbered(
                number,
                if number % 50 == 0 {
                    LARGE
                } else {
                    20 + number % 1000
                },
            ),
        )
        .unwrap();
    }
    let held: Vec<_> = (0..300).map(|_| take(&queue).unwrap()).collect();
    let child = Child::run(|| {
        assert!(fault::arm("put.committed", 1));
        put(&queue, b"x").unwrap();
    });
    assert_eq!(child.reap(), libc::SIGKILL);
    is_sound(&queue);
    assert_eq!(queue.statistics().unwrap().unfinished, 5001);
    drop(held);
    for number in 300..5000 {
        let len = if number % 50 == 0 {
            LARGE
        } else {
            20 + number % 1000
        };
        assert!(get(&queue).unwrap() == numbered(number, len));
    }
    assert_eq!(get(&queue).unwrap(), b"x");
    is_sound(&queue);
}

/// In a process that locks what it maps, a queue takes the memory that it uses, and no more.
#[test]
fn a_process_that_locks_its_memory() {
    let child = Child::run(|| {
        // SAFETY: locks no page yet.
        if unsafe { libc::mlockall(libc::MCL_FUTURE) } != 0 {
            println!("NOT TESTED: mlockall is forbidden");
            return;
        }
        let queue = Queue::create(&limited_to(512 << 30)).unwrap();
        let memory = || queue.statistics().unwrap().memory_bytes;
        assert!(memory() <= 16384, "{} bytes", memory());
        put(&queue, &numbered(1, 1_000_000)).unwrap();
        put(&queue, &numbered(2, 20 << 20)).unwrap();
        assert!(memory() < 22 * MIB, "{} bytes", memory());
        assert!(get(&queue).unwrap() == numbered(1, 1_000_000));
        assert!(get(&queue).unwrap() == numbered(2, 20 << 20));
        is_sound(&queue);
        // Another handle, opened under the same rule.
        let fd = queue.duplicate_fd().unwrap();
        drop(queue);
        let queue = Queue::attach(fd).unwrap();
        assert!(queue.statistics().unwrap().memory_bytes < 22 * MIB);
    });
    assert_eq!(child.reap(), 0);
}

/// Such a process may lock little: growth is refused with an error, and the queue goes on.
#[test]
fn a_process_that_may_lock_little() {
    let child = Child::run(|| {
        let large = numbered(2, 40 << 20);
        // SAFETY: locks no page yet; and gives up the right to lock without limit, with all others.
        let is_limited = unsafe {
            libc::mlockall(libc::MCL_FUTURE) == 0
                && libc::geteuid() == 0
                && libc::setresuid(65534, 65534, 65534) == 0
        };
        if !is_limited {
            println!("NOT TESTED: only root can give its rights up");
            return;
        }
        set_soft_limit(libc::RLIMIT_MEMLOCK, 16 * MIB);
        let queue = Queue::create(&PLAIN).unwrap();
        put(&queue, &numbered(1, 1_000_000)).unwrap();
        assert!(matches!(put(&queue, &large), Err(Error::NoAddressSpace { .. })));
        assert!(get(&queue).unwrap() == numbered(1, 1_000_000));
        is_sound(&queue);
    });
    assert_eq!(child.reap(), 0);
}

/// The same without the right to raise the limit again.
fn set_soft_limit(resource: libc::__rlimit_resource_t, limit: u64) {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the calls write and read one struct.
    unsafe {
        assert_eq!(libc::getrlimit(resource, &raw mut limits), 0);
        limits.rlim_cur = limit.min(limits.rlim_max);
        assert_eq!(libc::setrlimit(resource, &raw const limits), 0);
    }
}

/// Where files may be small only, a queue is as large as they may be; beyond that, an error.
#[test]
fn small_files() {
    let child = Child::run(|| {
        // SAFETY: changes only what a signal does that this process would get for too large a file.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        for limit in [1, 3, 20, 300] {
            set_soft_limit(libc::RLIMIT_FSIZE, limit * MIB);
            let queue = Queue::create(&PLAIN).unwrap();
            put(&queue, b"x").unwrap();
            put(&queue, &numbered(1, 200_000)).unwrap();
            assert!(matches!(
                put(&queue, &numbered(2, limit as usize * MIB as usize)),
                Err(Error::OutOfMemory { .. })
            ));
            assert_eq!(get(&queue).unwrap(), b"x");
            assert!(get(&queue).unwrap() == numbered(1, 200_000));
            let mut count = 0;
            while put(&queue, &numbered(count, 100_000)).is_ok() {
                count += 1;
            }
            assert!(
                count >= 2 && count as u64 * 100_000 < limit * MIB,
                "{count} items"
            );
            for number in 0..count {
                assert!(get(&queue).unwrap() == numbered(number, 100_000));
            }
            // As many small items as it promises.
            for len in if limit < 100 { &[20, 1000][..] } else { &[] } {
                let (len, mut count) = (*len, 0);
                let error = loop {
                    match put(&queue, &numbered(count, len)) {
                        Ok(()) => count += 1,
                        Err(error) => break error,
                    }
                };
                let Error::OutOfMemory {
                    needed,
                    used,
                    limit: promised,
                    ..
                } = error
                else {
                    panic!("{error}");
                };
                assert!(used + needed > promised, "{limit} MiB, {len}: {error:?}");
                assert!(promised >= limit * MIB / 8, "{limit} MiB: {promised}");
                for number in 0..count {
                    assert!(get(&queue).unwrap() == numbered(number, len));
                }
            }
            is_sound(&queue);
        }
        // A queue whose file has its length already grows.
        set_soft_limit(libc::RLIMIT_FSIZE, u64::MAX);
        let queue = Queue::create(&PLAIN).unwrap();
        set_soft_limit(libc::RLIMIT_FSIZE, MIB);
        put(&queue, &numbered(2, 20 << 20)).unwrap();
        assert!(get(&queue).unwrap() == numbered(2, 20 << 20));
        is_sound(&queue);
    });
    assert_eq!(child.reap(), 0);
}

/// A range takes no address space but its own, also in a process without a descriptor: what lies before it in
/// the file may be larger than all that the process can have.
#[test]
fn ranges_without_a_descriptor_and_with_little_address_space() {
    let child = Child::run(|| {
        let queue = Queue::create(&limited_to(512 << 30)).unwrap();
        queue.statistics().unwrap();
        let fd = queue.fd().unwrap().as_raw_fd();
        let other = Child::run(|| fill_far(&queue));
        assert_eq!(other.reap(), 0);
        // SAFETY: the test's own descriptor, which no other code uses.
        unsafe { libc::close(fd) };
        limit_to_more(512 * MIB);
        take_far(&queue);
        fill_far(&queue);
        take_far(&queue);
        put(&queue, &numbered(1, 30 << 20)).unwrap();
        assert!(get(&queue).unwrap() == numbered(1, 30 << 20));
        assert_eq!(queue.check().unwrap().findings, []);
        free_address_space();
    });
    assert_eq!(child.reap(), 0);
}

/// A process that closes a queue with an item in hand has no descriptor of it any more, and finishes the item
/// beside ranges that others have added since.
#[test]
fn a_closed_queue_needs_the_address_space_of_its_ranges_only() {
    let child = Child::run(|| {
        let queue = Queue::create(&Options {
            max_bytes: Some(32 << 30),
            ..ACKNOWLEDGED
        })
        .unwrap();
        put(&queue, b"in hand").unwrap();
        let step = Step::new();
        let worker = Child::run(|| {
            let mine = queue.clone();
            let remainder = mine.open_handle().unwrap();
            get(&mine).unwrap();
            // The test's own reference.
            // SAFETY: it is not used any more.
            let inherited = unsafe { std::ptr::read(&raw const queue) };
            drop(inherited);
            remainder.close(mine);
            limit_to_more(512 * MIB);
            step.reach(1);
            step.wait_for(2);
            let closed = remainder.reopen().unwrap();
            assert!(closed.fd().is_err());
            closed.task_done().unwrap();
            remainder.close(closed);
            std::mem::forget(remainder);
        });
        step.wait_for(1);
        fill_far(&queue);
        step.reach(2);
        assert_eq!(worker.reap(), 0);
        let unfinished = queue.statistics().unwrap().unfinished;
        assert_eq!(unfinished, queue.len());
    });
    assert_eq!(child.reap(), 0);
}

/// A process that has locked its memory when the queue was there, and has no descriptor of it any more, takes
/// no memory for the ranges that it maps.
#[test]
fn ranges_without_a_descriptor_of_a_process_that_locks_its_memory() {
    let child = Child::run(|| {
        let queue = Queue::create(&limited_to(1 << 30)).unwrap();
        queue.statistics().unwrap();
        let other = Child::run(|| fill_far(&queue));
        assert_eq!(other.reap(), 0);
        // SAFETY: locks what is mapped, and what will be; it puts memory behind the near memory.
        if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
            println!("NOT TESTED: mlockall is forbidden");
            return;
        }
        let memory = || queue.statistics().unwrap().memory_bytes;
        let before = memory();
        let kept = queue.duplicate_fd().unwrap();
        let fd = queue.fd().unwrap().as_raw_fd();
        // SAFETY: the test's own descriptor, which no other code uses.
        unsafe { libc::close(fd) };
        take_far(&queue);
        put(&queue, &numbered(1, 30 << 20)).unwrap();
        let backed = || {
            let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
            // SAFETY: the call fills one struct.
            unsafe {
                assert_eq!(libc::fstat(kept.as_raw_fd(), stat.as_mut_ptr()), 0);
                stat.assume_init().st_blocks as u64 * 512
            }
        };
        let limit = before + 32 * MIB;
        assert!(backed() < limit, "{} of {limit} bytes", backed());
        assert!(get(&queue).unwrap() == numbered(1, 30 << 20));
        assert_eq!(queue.check().unwrap().findings, []);
    });
    assert_eq!(child.reap(), 0);
}

/// Limits the address space to what this process takes, and so much more. (Other tests may have queues at
/// this moment, which it inherits.)
fn limit_to_more(more: u64) {
    set_limit(libc::RLIMIT_AS, used() + more + 4 * mapped());
}

/// Items in ranges of slots and of the heap.
fn fill_far(queue: &Queue) {
    for number in 0..3000 {
        put(queue, &numbered(number, 20)).unwrap();
    }
    for number in 0..40 {
        put(queue, &numbered(number, LARGE)).unwrap();
    }
}

fn take_far(queue: &Arc<Queue>) {
    for number in 0..3000 {
        assert!(get(queue).unwrap() == numbered(number, 20));
    }
    for number in 0..40 {
        assert!(get(queue).unwrap() == numbered(number, LARGE));
    }
}

/// Other code has closed the queue's descriptor: ranges of others are mapped, and ranges are added, all the
/// same.
#[test]
fn ranges_without_a_descriptor() {
    let child = Child::run(|| {
        let queue = Queue::create(&PLAIN).unwrap();
        queue.statistics().unwrap();
        let fd = queue.fd().unwrap().as_raw_fd();
        let other = Child::run(|| {
            for number in 0..3000 {
                put(&queue, &numbered(number, 20)).unwrap();
            }
            for number in 0..40 {
                put(&queue, &numbered(number, LARGE)).unwrap();
            }
        });
        assert_eq!(other.reap(), 0);
        // SAFETY: the test's own descriptor, which no other code uses.
        unsafe { libc::close(fd) };
        assert!(queue.fd().is_err());
        for number in 0..3000 {
            assert!(get(&queue).unwrap() == numbered(number, 20));
        }
        for number in 0..40 {
            assert!(get(&queue).unwrap() == numbered(number, LARGE));
        }
        let large = numbered(3, 100 << 20);
        put(&queue, &large).unwrap();
        for number in 0..10_000 {
            put(&queue, &numbered(number, 20)).unwrap();
        }
        assert_eq!(queue.check().unwrap().findings, []);
        assert!(get(&queue).unwrap() == large);
        for number in 0..10_000 {
            assert!(get(&queue).unwrap() == numbered(number, 20));
        }
        let mapped = mapped();
        assert!(mapped < 400 * MIB, "{mapped} bytes");
    });
    assert_eq!(child.reap(), 0);
}
