//! Histories: what the callers of a queue saw.

use std::collections::{HashMap, HashSet};
use std::fmt;

use penstock_core::{Leave, Verdict};

/// Nanoseconds of the monotonic clock, which all processes of a machine share.
pub type Time = u64;

/// How long a delayed item is: long enough that others look for it before it is due.
pub const LATER: Time = 400_000;

/// What is put: no two puts of a history have the same value. It also says how long the payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub u64);

impl Value {
    const LENGTHS: [usize; 8] = [8, 8, 24, 24, 72, 500, 3000, 70_000];

    /// `kind` is below 8 and stands for a length.
    pub fn new(number: u64, kind: u64) -> Value {
        Value(number << 3 | kind)
    }

    pub fn payload_len(self) -> usize {
        Value::LENGTHS[(self.0 & 7) as usize]
    }

    /// Whether a get reads it in shared memory, where it is leased meanwhile, even in a plain queue.
    pub fn is_lent(self) -> bool {
        self.payload_len() > penstock_core::SMALL
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Put(Value),
    /// No get finds the item before [`LATER`].
    PutLater(Value),
    Get,
    Len,
    IsEmpty,
    IsFull,
    TaskDone,
    /// A get by name: the queue is acknowledged from then on.
    Hold,
    /// The caller's process settles the item that it has taken by name.
    Settle(Value, Verdict),
    /// The same of an item that goes back, which is ready after [`LATER`].
    SettleLater(Value, Verdict),
    /// All dead letters go back to the queue, or are gone. The answer counts them.
    Requeue,
    Purge,
    /// `join` without patience: asks whether anything is unfinished.
    Join,
    Leave(Leave),
    /// At once, or so that what is left is taken first.
    ShutDown {
        is_immediate: bool,
    },
    /// Begins a block of its process as a producer.
    Produce {
        expect: u32,
    },
    EndProducing,
    /// What the queue does about a process that was killed. Between the kill and the end of the next sweep,
    /// everything comes back that the process had taken and not finished.
    Sweep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It happened. Of `Join`: nothing is unfinished.
    Done,
    Got(Value),
    Empty,
    Full,
    Count(u64),
    Is(bool),
    TooManyDone,
    /// The queue was shut down.
    ShutDown,
    /// The caller's time was over first: the operation changed nothing, and says nothing about the queue.
    TimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub process: u32,
    pub thread: u32,
    pub call: Call,
    /// `None` if the process was killed before: pending, it may have happened or not.
    pub answer: Option<Answer>,
    pub invoked: Time,
    /// Of a pending operation: by when it has happened, if it has.
    pub responded: Time,
}

impl Event {
    pub fn is_pending(&self) -> bool {
        self.answer.is_none()
    }

    /// Whether it was over before the other began.
    pub fn precedes(&self, other: &Event) -> bool {
        self.responded < other.invoked
    }
}

/// A process that was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    pub process: u32,
    /// Before the signal was sent.
    pub killed: Time,
    /// After the process was reaped and a survivor had checked for the dead.
    pub swept: Time,
    /// A getter that was handed an item did not come back for it, and so died. Of a recorded run.
    pub was_handed: bool,
}

/// What the queue promised to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// 0 for any number.
    pub maxsize: u64,
    pub acknowledged: bool,
    pub max_deliveries: u8,
    /// Waiters of some processes have aged: an item that such a getter was handed comes back if it dies
    /// before it has read it.
    pub hands_over: bool,
}

impl Rules {
    pub const PLAIN: Rules = Rules {
        maxsize: 0,
        acknowledged: false,
        max_deliveries: 3,
        hands_over: false,
    };
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub rules: Rules,
    pub events: Vec<Event>,
    pub deaths: Vec<Death>,
    /// The dead letters at the end, sorted. `None` if they were not read.
    pub dead_letters: Option<Vec<Value>>,
}

impl History {
    pub fn pending(&self) -> usize {
        self.events.iter().filter(|event| event.is_pending()).count()
    }

    /// How many operations were going on while another one was.
    pub fn overlapping(&self) -> usize {
        let mut calls: Vec<&Event> = self
            .events
            .iter()
            .filter(|event| event.call != Call::Sweep)
            .collect();
        calls.sort_by_key(|event| event.invoked);
        let mut overlapping = vec![false; calls.len()];
        let mut open: Vec<usize> = Vec::new();
        for (place, event) in calls.iter().enumerate() {
            open.retain(|other| calls[*other].responded >= event.invoked);
            for other in &open {
                overlapping[*other] = true;
                overlapping[place] = true;
            }
            open.push(place);
        }
        overlapping.into_iter().filter(|is| *is).count()
    }

    /// When the first `task_done` or `join` can have had its effect: from when on possibly, and from when on
    /// surely. `None` if there is none, or none that was answered.
    pub(crate) fn acknowledged_from(&self) -> (Option<Time>, Option<Time>) {
        let calls = self
            .events
            .iter()
            .filter(|event| matches!(event.call, Call::TaskDone | Call::Join | Call::Hold));
        let answered = calls.clone().filter(|event| !event.is_pending());
        (
            calls.map(|event| event.invoked).min(),
            answered.map(|event| event.responded).min(),
        )
    }

    /// Whether items were delayed, or dead letters put back.
    pub fn has_late_items(&self) -> bool {
        let is_late = |event: &Event| matches!(event.call, Call::PutLater(_) | Call::Requeue);
        self.events.iter().any(is_late)
    }

    /// Deaths of getters that were handed an item.
    pub fn died_handed(&self) -> usize {
        self.deaths.iter().filter(|death| death.was_handed).count()
    }

    /// Items that a process had surely set aside before it died, and that were delivered again.
    pub fn came_back_from_aside(&self) -> usize {
        let (Some(possibly), _) = self.acknowledged_from() else {
            return 0;
        };
        let mut gets: Vec<&Event> = self
            .events
            .iter()
            .filter(|event| event.call == Call::Get && !event.is_pending())
            .collect();
        gets.sort_by_key(|event| event.invoked);
        let mut in_hand = HashMap::new();
        let mut aside = HashSet::new();
        let mut returned = 0;
        for get in gets {
            if get.responded < possibly {
                aside.extend(in_hand.remove(&(get.process, get.thread)));
            }
            if let Some(Answer::Got(value)) = get.answer {
                returned += usize::from(aside.remove(&value));
                in_hand.insert((get.process, get.thread), value);
            }
        }
        returned
    }

    pub fn death_of(&self, process: u32) -> Option<&Death> {
        self.deaths.iter().find(|death| death.process == process)
    }
}

/// One line an operation, in the order of invocation; times are from the first one on.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}", self.rules)?;
        let mut events: Vec<&Event> = self.events.iter().collect();
        events.sort_by_key(|event| event.invoked);
        let start = events.first().map_or(0, |event| event.invoked);
        for event in events {
            let answer = event
                .answer
                .map_or_else(|| "pending".to_owned(), |answer| format!("{answer:?}"));
            writeln!(
                f,
                "{:>10} ..{:>10}  {}.{}  {:?} -> {answer}",
                event.invoked - start,
                event.responded.saturating_sub(start),
                event.process,
                event.thread,
                event.call,
            )?;
        }
        for death in &self.deaths {
            writeln!(
                f,
                "{:>10} ..{:>10}  {}    killed",
                death.killed.saturating_sub(start),
                death.swept.saturating_sub(start),
                death.process
            )?;
        }
        match &self.dead_letters {
            Some(letters) => writeln!(f, "dead letters: {letters:?}"),
            None => Ok(()),
        }
    }
}
