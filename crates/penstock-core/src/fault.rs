//! Fault points: named places at which a test kills or stops the process, compiled in with the feature
//! `fault-points` only.

/// Marks a fault point: a process that armed it dies there by SIGKILL. Compiles to nothing without the
/// feature.
macro_rules! fault {
    ($point:literal) => {
        #[cfg(feature = "fault-points")]
        {
            const POINT: usize =
                $crate::fault::index_of($point).expect("add the fault point to fault::POINTS");
            $crate::fault::pass(POINT);
        }
    };
}
pub(crate) use fault;

#[cfg(feature = "fault-points")]
mod armed {
    use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    /// Every place, roughly in the order in which an item passes them.
    pub const POINTS: &[&str] = &[
        "register.life-held",
        "register.alive",
        "lock.taken",
        "put.kept-popped",
        "put.slot-popped",
        "put.filled",
        "put.numbered",
        "put.committed",
        "put.ordered",
        "put.linked",
        "claim.committed",
        "range.mapped",
        "range.backed",
        "range.noted",
        "range.added",
        "grow.pages-remnant",
        "grow.backed",
        "grow.page-present",
        "claim.copying",
        "claim.copied",
        "unlock.before-wake",
        "wait.enlisted",
        "wait.asleep",
        "wait.back",
        "wait.left",
        "wait.aged",
        "put.named",
        "hand.marked",
        "hand.committed",
        "hand.published",
        "hand.numbered",
        "hand.returned",
        "hand.late",
        "get.leased",
        "get.copied",
        "get.freed",
        "slot.freed",
        "slot.unparked",
        "get.unlinked",
        "lease.named",
        "lease.unnamed",
        "lent.reading",
        "lent.kept",
        "done.committed",
        "held.timed",
        "held.unlinked",
        "held.released",
        "held.buried",
        "held.settled",
        "note.committed",
        "note.named",
        "note.died",
        "letter.requeued",
        "letter.unlinked",
        "delay.timed",
        "delay.committed",
        "delay.kept",
        "delay.ended",
        "shutdown.committed",
        "produce.expected",
        "produce.begun",
        "produce.counted",
        "produce.left",
        "produce.ended",
        "discard.unlinked",
        "discard.freed",
        "aside.committed",
        "aside.disowned",
        "aside.beginning",
        "aside.counting",
        "aside.noted",
        "aside.counted",
        "aside.settling",
        "leave.orphaned",
        "leave.released",
        "trim.claimed",
        "trim.punched",
        "trim.noted",
        "trim.tracked",
        "trim.parked",
        "trim.pages-absent",
        "trim.pages-claimed",
        "trim.pages-punched",
        "trim.pages-noted",
        "trim.lowered",
        "leave.marked",
        "upkeep.slot-marked",
        "upkeep.slot-finished",
        "depart.marked",
        "close.unwatched",
        "close.marked",
        "close.unlocked",
        "close.descriptors-closed",
        "unregister.checked",
        "unregister.freed",
        "notifier.made",
        "notifier.counted",
        "put.pausing",
        "notifier.changed",
        "notifier.filling",
        "notifier.owed",
        "notifier.updated",
        "notifier.inherited",
        "line.counted",
        "line.watching",
        "line.promised",
        "line.owed",
        "line.claimed",
        "line.signalled",
        "line.drained",
        "line.filled",
        "line.writable",
        "takeover.taken",
        "rebuild.cleared",
        "rebuild.scanned",
        "rebuild.numbered",
        "rebuild.done",
        "sweep.started",
        "sweep.slot-returned",
        "sweep.cells-freed",
        "sweep.released",
    ];

    pub(crate) const fn index_of(point: &str) -> Option<usize> {
        let mut i = 0;
        while i < POINTS.len() {
            let (a, b) = (POINTS[i].as_bytes(), point.as_bytes());
            if a.len() == b.len() {
                let mut j = 0;
                while j < a.len() && a[j] == b[j] {
                    j += 1;
                }
                if j == a.len() {
                    return Some(i);
                }
            }
            i += 1;
        }
        None
    }

    /// Index of the armed point in POINTS, plus one.
    static ARMED: AtomicUsize = AtomicUsize::new(0);
    static HITS_LEFT: AtomicU64 = AtomicU64::new(0);

    /// Lets this process die by SIGKILL when it passes `point` for the `hits`-th time. False if there is no
    /// such point.
    pub fn arm(point: &str, hits: u64) -> bool {
        let Some(index) = index_of(point) else {
            return false;
        };
        HITS_LEFT.store(hits.max(1), Ordering::SeqCst);
        ARMED.store(index + 1, Ordering::SeqCst);
        true
    }

    /// Index of the point at which a thread stays, plus one; and whether a thread stays there.
    static STOP_AT: AtomicUsize = AtomicUsize::new(0);
    static STOPPED: AtomicBool = AtomicBool::new(false);

    /// Lets the next thread of this process that passes `point` stay there until [`go_on`]. False if there
    /// is no such point.
    pub fn stop_at(point: &str) -> bool {
        let Some(index) = index_of(point) else {
            return false;
        };
        STOP_AT.store(index + 1, Ordering::SeqCst);
        true
    }

    /// Lets it go on.
    pub fn go_on() {
        STOP_AT.store(0, Ordering::SeqCst);
        STOPPED.store(false, Ordering::SeqCst);
    }

    /// Whether a thread stays where [`stop_at`] said.
    pub fn is_stopped() -> bool {
        STOPPED.load(Ordering::SeqCst)
    }

    /// Index of the point at which the process stops itself, plus one.
    static SUSPEND_AT: AtomicUsize = AtomicUsize::new(0);

    /// Lets this process stop itself by SIGSTOP the next time it passes `point`. After SIGCONT it goes on.
    /// False if there is no such point.
    pub fn suspend_at(point: &str) -> bool {
        let Some(index) = index_of(point) else {
            return false;
        };
        SUSPEND_AT.store(index + 1, Ordering::SeqCst);
        true
    }

    /// Whether this process has passed each point of POINTS since the last call of `passed_points`.
    static PASSED: [AtomicBool; POINTS.len()] = [const { AtomicBool::new(false) }; POINTS.len()];

    /// The points that this process has passed since this was last called.
    pub fn passed_points() -> Vec<&'static str> {
        let passed = |(point, passed): (&&'static str, &AtomicBool)| {
            passed.swap(false, Ordering::SeqCst).then_some(*point)
        };
        POINTS.iter().zip(&PASSED).filter_map(passed).collect()
    }

    pub(crate) fn pass(point: usize) {
        PASSED[point].store(true, Ordering::Relaxed);
        let suspend_at = SUSPEND_AT.load(Ordering::Relaxed);
        if suspend_at == point + 1 {
            SUSPEND_AT.store(0, Ordering::SeqCst);
            crate::platform::stop_self();
        }
        let armed = ARMED.load(Ordering::Relaxed);
        if armed == point + 1 && HITS_LEFT.fetch_sub(1, Ordering::SeqCst) == 1 {
            crate::platform::kill_self();
        }
        let stop_at = STOP_AT.load(Ordering::Relaxed);
        if stop_at == point + 1 {
            STOPPED.store(true, Ordering::SeqCst);
            while STOP_AT.load(Ordering::SeqCst) == point + 1 {
                std::thread::park_timeout(core::time::Duration::from_millis(1));
            }
        }
    }
}

#[cfg(feature = "fault-points")]
pub use armed::{POINTS, arm, go_on, is_stopped, passed_points, stop_at, suspend_at};
#[cfg(feature = "fault-points")]
pub(crate) use armed::{index_of, pass};
