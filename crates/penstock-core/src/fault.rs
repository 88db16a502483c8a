//! Places at which a test kills the process, compiled in with the feature `fault-points` only.

/// Marks a place: a process that armed it dies there by SIGKILL. Compiles to nothing without the feature.
macro_rules! fault {
    ($point:literal) => {
        #[cfg(feature = "fault-points")]
        {
            const _: () = assert!(
                $crate::fault::is_listed($point),
                "add the fault point to fault::POINTS"
            );
            $crate::fault::pass($point);
        }
    };
}
pub(crate) use fault;

#[cfg(feature = "fault-points")]
mod armed {
    use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    /// Every place, in the order of the data's way.
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
        "grow.backed",
        "claim.copying",
        "claim.copied",
        "unlock.before-wake",
        "wait.enlisted",
        "wait.asleep",
        "wait.back",
        "wait.left",
        "get.leased",
        "get.copied",
        "get.freed",
        "slot.freed",
        "get.unlinked",
        "lent.reading",
        "lent.kept",
        "done.committed",
        "aside.committed",
        "aside.disowned",
        "aside.beginning",
        "aside.noted",
        "aside.counted",
        "aside.settling",
        "leave.orphaned",
        "leave.released",
        "trim.claimed",
        "trim.punched",
        "trim.noted",
        "trim.slots",
        "leave.marked",
        "upkeep.slot-marked",
        "upkeep.slot-finished",
        "depart.marked",
        "unregister.checked",
        "unregister.freed",
        "bell.made",
        "bell.counted",
        "bell.watching",
        "bell.plugged",
        "bell.unplugged",
        "put.pausing",
        "bell.changed",
        "bell.owed",
        "bell.rung",
        "takeover.taken",
        "rebuild.cleared",
        "rebuild.scanned",
        "rebuild.done",
        "sweep.started",
        "sweep.slot-returned",
        "sweep.cells-freed",
        "sweep.released",
    ];

    pub(crate) const fn is_listed(point: &str) -> bool {
        let mut i = 0;
        while i < POINTS.len() {
            let (a, b) = (POINTS[i].as_bytes(), point.as_bytes());
            if a.len() == b.len() {
                let mut j = 0;
                while j < a.len() && a[j] == b[j] {
                    j += 1;
                }
                if j == a.len() {
                    return true;
                }
            }
            i += 1;
        }
        false
    }

    /// Index of the armed point in POINTS, plus one.
    static ARMED: AtomicUsize = AtomicUsize::new(0);
    static HITS_LEFT: AtomicU64 = AtomicU64::new(0);

    /// Lets this process die by SIGKILL when it passes `point` for the `hits`-th time. False if there is no
    /// such point.
    pub fn arm(point: &str, hits: u64) -> bool {
        let Some(index) = POINTS.iter().position(|name| *name == point) else {
            return false;
        };
        HITS_LEFT.store(hits.max(1), Ordering::SeqCst);
        ARMED.store(index + 1, Ordering::SeqCst);
        true
    }

    /// Index of the point at which a thread stays for ever, plus one; and whether one does.
    static STOP_AT: AtomicUsize = AtomicUsize::new(0);
    static STOPPED: AtomicBool = AtomicBool::new(false);

    /// Lets the next thread of this process that passes `point` stay there. False if there is no such point.
    pub fn stop_at(point: &str) -> bool {
        let Some(index) = POINTS.iter().position(|name| *name == point) else {
            return false;
        };
        STOP_AT.store(index + 1, Ordering::SeqCst);
        true
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
        let Some(index) = POINTS.iter().position(|name| *name == point) else {
            return false;
        };
        SUSPEND_AT.store(index + 1, Ordering::SeqCst);
        true
    }

    pub(crate) fn pass(point: &str) {
        let suspend_at = SUSPEND_AT.load(Ordering::Relaxed);
        if suspend_at != 0 && POINTS[suspend_at - 1] == point {
            SUSPEND_AT.store(0, Ordering::SeqCst);
            crate::platform::stop_self();
        }
        let armed = ARMED.load(Ordering::Relaxed);
        if armed != 0 && POINTS[armed - 1] == point && HITS_LEFT.fetch_sub(1, Ordering::SeqCst) == 1 {
            crate::platform::kill_self();
        }
        let stop_at = STOP_AT.load(Ordering::Relaxed);
        if stop_at != 0 && POINTS[stop_at - 1] == point {
            STOPPED.store(true, Ordering::SeqCst);
            loop {
                std::thread::park();
            }
        }
    }
}

#[cfg(feature = "fault-points")]
pub use armed::{POINTS, arm, is_stopped, stop_at, suspend_at};
#[cfg(feature = "fault-points")]
pub(crate) use armed::{is_listed, pass};
