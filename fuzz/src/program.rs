//! Inputs: bytes to a program. Every sequence of bytes is a program, and a short change of the bytes is a
//! short change of the program.

use penstock_core::{Awaited, Leave, Options, Verdict};

use crate::damage::{Damage, Place, Value};

pub struct Program {
    pub options: Options,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub enum Step {
    Put {
        len: usize,
        patience: Patience,
    },
    /// `keep` a lent payload rather than return it at once.
    Get {
        patience: Patience,
        keep: bool,
    },
    /// The lengths in turn, so many items altogether.
    PutMany {
        count: usize,
        lens: [usize; 2],
        patience: Patience,
    },
    /// `keep` what was lent rather than return it at once.
    GetMany {
        most: usize,
        patience: Patience,
        keep: bool,
    },
    EndBorrow,
    /// Begins to watch, for an item, for room or for the end.
    Watch(Awaited),
    /// Upkeep of a process that sleeps with descriptors.
    Tend,
    /// Keeps a lent payload for good, and maps a part of it.
    Keep,
    TaskDone,
    /// Takes an item by name.
    Hold(Patience),
    /// Settles the oldest or the youngest item that was taken by name, perhaps with a delay.
    Settle {
        is_oldest: bool,
        verdict: Verdict,
        micros: u64,
    },
    PutDelayed {
        len: usize,
        micros: u64,
    },
    Join(Patience),
    ShutDown {
        is_immediate: bool,
    },
    /// Takes the next item of a loop.
    Next(Patience),
    Produce {
        expect: u32,
    },
    EndProducing,
    Leave(Leave),
    Statistics,
    DeadLetters,
    /// Requeues or purges dead letters: the first, or all.
    Decide {
        is_purge: bool,
        one: bool,
    },
    Trim,
    Ask,
    /// The handle is dropped and opened anew.
    Reopen,
    /// This participant dies, and another takes its place.
    Die {
        in_section: bool,
    },
    /// A waiter is enlisted behind which there is no thread.
    Enlist(usize),
    Damage(Damage),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    TryLock,
    NoWait,
    /// For ever, until it has been asked twice whether it is interrupted.
    Wait,
}

/// More than enough, and little enough that no program takes long.
const MOST_STEPS: usize = 40;

/// The bytes of an input; zeros when they are used up.
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else {
            return 0;
        };
        self.rest = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn long(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.byte() as usize % from.len()]
    }

    fn patience(&mut self) -> Patience {
        self.choose(&[
            Patience::NoWait,
            Patience::TryLock,
            Patience::NoWait,
            Patience::Wait,
        ])
    }

    /// Around every boundary that the core knows: inline, small, size classes, runs.
    fn len(&mut self) -> usize {
        let delta = self.byte();
        let base = self.choose(&[
            8, 72, 128, 300, 1000, 2048, 4096, 10_000, 32_768, 65_536, 131_072, 300_000,
        ]);
        (base + usize::from(delta % 8)).saturating_sub(usize::from(delta >> 4))
    }

    /// Up to a little more than a batch takes.
    fn count(&mut self) -> usize {
        1 + usize::from(self.byte()) % 70
    }

    fn value(&mut self) -> Value {
        match self.byte() % 16 {
            0 => Value::Is(0),
            1 => Value::Is(1),
            2 => Value::Is(u64::from(self.byte())),
            3 => Value::Is(u64::MAX),
            4 => Value::Is(u64::from(self.word())),
            5 => Value::Is(self.long()),
            6 => Value::Is(1 << (self.byte() % 64)),
            7 => Value::Flip(self.byte() % 64),
            8 | 9 => Value::Add(i64::from(self.byte() as i8)),
            10 => Value::Count(i64::from(self.byte() as i8 % 4)),
            11 => Value::Copy(self.place()),
            12 => Value::Name {
                shift: [0, 12, 12, 31][usize::from(self.byte() % 4)],
            },
            13 => Value::State {
                state: self.byte() % penstock_core::fuzzing::STATES,
                is_mine: self.byte() % 2 == 0,
            },
            14 => Value::Extent {
                start: self.word(),
                granules: self.word(),
                far: self.byte(),
            },
            _ => Value::DeadPid,
        }
    }

    fn place(&mut self) -> Place {
        Place {
            region: self.byte(),
            element: self.byte(),
            offset: self.byte(),
            from_end: self.byte() % 8 == 7,
        }
    }

    /// The steps of leases, delays and dead letters share one number.
    fn lease_step(&mut self) -> Step {
        match self.byte() % 8 {
            0..3 => Step::Hold(self.patience()),
            3 | 4 => Step::Settle {
                is_oldest: self.byte() % 2 == 0,
                verdict: self.choose(&[
                    Verdict::Done,
                    Verdict::Released,
                    Verdict::Failed,
                    Verdict::Rejected,
                ]),
                micros: self.choose(&[0, 0, 50, 3_600_000_000]),
            },
            5 | 6 => Step::PutDelayed {
                len: self.len(),
                micros: self.choose(&[50, 3_600_000_000, 0, u64::MAX]),
            },
            _ => Step::Decide {
                is_purge: self.byte() % 2 == 1,
                one: self.byte() % 2 == 1,
            },
        }
    }

    fn step(&mut self) -> Option<Step> {
        if self.rest.is_empty() {
            return None;
        }
        Some(match self.byte() % 32 {
            0..6 => Step::Put {
                len: self.len(),
                patience: self.patience(),
            },
            6..10 => Step::Get {
                patience: self.patience(),
                keep: self.byte() % 2 == 1,
            },
            10 => Step::EndBorrow,
            11 | 12 => Step::TaskDone,
            13 => Step::Join(self.patience()),
            14 => Step::Leave(self.choose(&[Leave::Clean, Leave::Crashed])),
            15 => Step::Statistics,
            16 => Step::DeadLetters,
            17 => Step::Trim,
            18 => Step::Ask,
            19 => Step::Reopen,
            20 => Step::Die { in_section: false },
            21 => Step::Die { in_section: true },
            22 => Step::Enlist(usize::from(self.byte() % 3)),
            23 => Step::ShutDown {
                is_immediate: self.byte() % 2 == 1,
            },
            24 => match self.byte() % 4 {
                0 => Step::Produce {
                    expect: u32::from(self.byte() % 3),
                },
                1 => Step::EndProducing,
                _ => Step::Next(self.patience()),
            },
            25 => self.lease_step(),
            26 => match self.byte() % 3 {
                0 => Step::Watch(Awaited::Room),
                1 => Step::Watch(Awaited::Finish),
                _ => Step::Tend,
            },
            28 => Step::Watch(Awaited::Item),
            29 => Step::PutMany {
                count: self.count(),
                lens: [self.len(), self.len()],
                patience: self.patience(),
            },
            30 => Step::GetMany {
                most: self.count(),
                patience: self.patience(),
                keep: self.byte() % 2 == 1,
            },
            31 => Step::Keep,
            _ => Step::Damage(Damage {
                place: self.place(),
                width: self.choose(&[4, 8, 4, 1]),
                value: self.value(),
            }),
        })
    }
}

impl Program {
    pub fn read(input: &mut Input<'_>) -> Program {
        let options = Options {
            acknowledged: input.byte() % 2 == 1,
            maxsize: input.choose(&[0, 1, 3, 1000]),
            soft_bytes: input.choose(&[0, 0, 1, 5000]),
            max_bytes: Some(input.choose(&[1 << 20, 1 << 16, 1 << 24, 1 << 30])),
            max_deliveries: input.choose(&[1, 0, 3]),
        };
        let mut steps = Vec::new();
        while let Some(step) = input.step().filter(|_| steps.len() < MOST_STEPS) {
            steps.push(step);
        }
        Program { options, steps }
    }
}
