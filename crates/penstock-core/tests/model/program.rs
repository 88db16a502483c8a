//! A program: a queue's rules, and steps of several participants.

use penstock_core::{Leave, Options, Verdict};
use proptest::prelude::*;

pub type Rules = Options;

#[derive(Clone)]
pub struct Program {
    pub rules: Rules,
    /// It has a name in a folder, by which participants open it.
    pub is_named: bool,
    pub steps: Vec<Step>,
}

/// One line a step, as in `kept`.
impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:?}, is_named: {}, [", self.rules, self.is_named)?;
        for step in &self.steps {
            writeln!(f, "    ({}, {:?}),", step.by, step.action)?;
        }
        write!(f, "]")
    }
}

#[derive(Clone, Debug)]
pub struct Step {
    /// The participant that does it, modulo their number; 0 is the test's own process.
    pub by: usize,
    pub action: Action,
}

/// How a new participant opens the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A fork, which inherits the handle, and copies of what the test borrows.
    Forked,
    /// A new program with a descriptor.
    Attached,
    /// A new program with the name, if the queue has one.
    Named,
}

/// The fault point at which a participant dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "fault-points"), allow(dead_code))]
pub enum Place {
    PutFilled,
    PutCommitted,
    LargePutCopied,
    GetCopied,
    GetLeased,
    DoneCommitted,
}

/// The lengths of items that are put together, short enough for one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lens {
    pub count: usize,
    pub usual: usize,
    /// The length of every `every`-th item.
    pub other: usize,
    pub every: usize,
}

impl Lens {
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (1..=self.count).map(move |place| {
            if place % self.every == 0 {
                self.other
            } else {
                self.usual
            }
        })
    }
}

#[derive(Clone, Debug)]
pub enum Action {
    Put {
        len: usize,
        waits: bool,
    },
    PutMany {
        lens: Lens,
        waits: bool,
    },
    /// Many puts by the test itself.
    Fill {
        count: usize,
        len: usize,
    },
    Get {
        waits: bool,
    },
    GetMany {
        most: usize,
        keeps_borrow: bool,
        waits: bool,
    },
    /// Many gets by the test itself, each finished at once.
    Drain {
        count: usize,
    },
    /// Takes an item and goes on borrowing it, if it is lent.
    Borrow,
    EndBorrow,
    /// Keeps the item of the oldest borrow.
    Keep,
    TaskDone,
    /// Puts an item whose time comes in the same step, or in this program never.
    PutDelayed {
        len: usize,
        comes: bool,
    },
    /// Takes an item by name.
    Hold {
        waits: bool,
    },
    /// Settles one of the items that were taken by name, counted modulo their number.
    Settle {
        place: usize,
        verdict: Verdict,
        /// An item that goes back is delayed, and its time never comes.
        is_delayed: bool,
    },
    /// Puts a dead letter back, or purges it; all of them if `place` is `None`.
    Decide {
        place: Option<usize>,
        is_purge: bool,
    },
    Join {
        waits: bool,
    },
    Leave(Leave),
    ShutDown {
        is_immediate: bool,
    },
    Produce {
        expect: u32,
    },
    /// Ends the oldest block that it has begun.
    EndProducing,
    /// Takes the next item of a loop that each participant has.
    Next {
        waits: bool,
    },
    /// Leaves that loop, and begins another.
    LeaveLoop,
    /// Waits without a limit, while others go on.
    WaitForItem,
    WaitForRoom {
        len: usize,
    },
    WaitForFinish,
    Start(Origin),
    Kill,
    /// The test drops its handle, and attaches again.
    Reopen,
    /// Stops in a put, with memory claimed.
    #[cfg_attr(not(feature = "fault-points"), allow(dead_code))]
    StopInPut {
        len: usize,
    },
    /// Dies in the critical section.
    #[cfg_attr(not(feature = "fault-points"), allow(dead_code))]
    DieAt(Place),
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0usize..100,
        4 => 0usize..5000,
        2 => 30_000usize..200_000,
        1 => prop::sample::select(vec![
            0, 71, 72, 73, 128, 129, 2047, 2048, 2049, 32_768, 32_769, 65_536, 65_537,
        ]),
        1 => 1_000_000usize..5_000_000,
    ]
}

/// Counts up to 200, many of them around the 64 that a batch takes at most.
fn lens() -> impl Strategy<Value = Lens> {
    let count = prop_oneof![6 => 0usize..10, 2 => 10usize..60, 3 => 62usize..67, 1 => 67usize..200];
    (count, 0usize..3000, len(), 1usize..40).prop_map(|(count, usual, other, every)| Lens {
        count,
        usual,
        // Two hundred of the largest would be a gigabyte.
        other: if count / every > 20 {
            other.min(100_000)
        } else {
            other
        },
        every,
    })
}

fn origin() -> impl Strategy<Value = Origin> {
    prop_oneof![6 => Just(Origin::Forked), 1 => Just(Origin::Attached), 1 => Just(Origin::Named)]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop::sample::select(vec![
        Verdict::Done,
        Verdict::Released,
        Verdict::Failed,
        Verdict::Rejected,
    ])
}

fn common() -> impl Strategy<Value = Action> {
    prop_oneof![
        20 => (len(), any::<bool>()).prop_map(|(len, waits)| Action::Put { len, waits }),
        1 => (1usize..1500, prop_oneof![0usize..20, 100usize..1000])
            .prop_map(|(count, len)| Action::Fill { count, len }),
        8 => (lens(), any::<bool>()).prop_map(|(lens, waits)| Action::PutMany { lens, waits }),
        8 => (prop_oneof![1usize..8, 8usize..80], any::<bool>(), any::<bool>())
            .prop_map(|(most, keeps_borrow, waits)| Action::GetMany { most, keeps_borrow, waits }),
        14 => any::<bool>().prop_map(|waits| Action::Get { waits }),
        1 => (1usize..1500).prop_map(|count| Action::Drain { count }),
        8 => any::<bool>().prop_map(|waits| Action::Next { waits }),
        2 => Just(Action::LeaveLoop),
        5 => Just(Action::Borrow),
        4 => Just(Action::EndBorrow),
        3 => Just(Action::Keep),
        12 => Just(Action::TaskDone),
        8 => any::<bool>().prop_map(|waits| Action::Hold { waits }),
        10 => (0usize..8, verdict(), prop::bool::weighted(0.2))
            .prop_map(|(place, verdict, is_delayed)| Action::Settle { place, verdict, is_delayed }),
        2 => (prop::option::weighted(0.8, 0usize..8), any::<bool>())
            .prop_map(|(place, is_purge)| Action::Decide { place, is_purge }),
        3 => (len(), prop::bool::weighted(0.7)).prop_map(|(len, comes)| Action::PutDelayed { len, comes }),
        1 => any::<bool>().prop_map(|waits| Action::Join { waits }),
        2 => Just(Action::Leave(Leave::Clean)),
        2 => Just(Action::Leave(Leave::Crashed)),
        4 => Just(Action::WaitForItem),
        3 => len().prop_map(|len| Action::WaitForRoom { len }),
        2 => Just(Action::WaitForFinish),
        6 => origin().prop_map(Action::Start),
        4 => Just(Action::Kill),
        1 => Just(Action::Reopen),
    ]
}

#[cfg(not(feature = "fault-points"))]
fn action() -> impl Strategy<Value = Action> {
    common()
}

#[cfg(feature = "fault-points")]
fn action() -> impl Strategy<Value = Action> {
    let places = vec![
        Place::PutFilled,
        Place::PutCommitted,
        Place::LargePutCopied,
        Place::GetCopied,
        Place::GetLeased,
        Place::DoneCommitted,
    ];
    prop_oneof![
        20 => common(),
        1 => (2049usize..300_000).prop_map(|len| Action::StopInPut { len }),
        2 => prop::sample::select(places).prop_map(Action::DieAt),
    ]
}

fn rules() -> impl Strategy<Value = Rules> {
    (
        prop_oneof![3 => Just(0u64), 2 => 1u64..8],
        prop_oneof![3 => Just(None), 2 => (65_536u64..2_000_000).prop_map(Some)],
        prop_oneof![3 => Just(0u64), 1 => 1u64..100_000],
        any::<bool>(),
        0u8..4,
    )
        .prop_map(
            |(maxsize, max_bytes, soft_bytes, acknowledged, max_deliveries)| Rules {
                maxsize,
                max_bytes,
                soft_bytes,
                acknowledged,
                max_deliveries,
            },
        )
}

pub fn program(steps: std::ops::Range<usize>) -> impl Strategy<Value = Program> {
    let step = (0usize..12, action()).prop_map(|(by, action)| Step { by, action });
    (
        rules(),
        prop::bool::weighted(0.2),
        prop::collection::vec(step, steps),
        // A program that is shut down has little to do afterwards.
        prop::option::weighted(0.3, (0usize..12, 0usize..60, any::<bool>(), any::<bool>())),
        prop::option::weighted(
            0.3,
            prop::collection::vec((0usize..12, 0u32..4, 0usize..40, 0usize..30), 1..4),
        ),
    )
        .prop_map(|(rules, is_named, mut steps, shutdown, producers)| {
            for (by, expect, place, later) in producers.into_iter().flatten() {
                for (place, action) in [
                    (place, Action::Produce { expect }),
                    (place + later, Action::EndProducing),
                ] {
                    steps.insert(place.min(steps.len()), Step { by, action });
                }
            }
            if let Some((by, place, is_immediate, again)) = shutdown {
                let mut insert = |place: usize, is_immediate| {
                    let action = Action::ShutDown { is_immediate };
                    steps.insert(place.min(steps.len()), Step { by, action });
                };
                insert(place, is_immediate);
                if again {
                    insert(place + 5, !is_immediate);
                }
            }
            Program {
                rules,
                is_named,
                steps,
            }
        })
}
