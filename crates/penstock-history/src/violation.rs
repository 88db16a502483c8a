//! What no queue can do, and a history shows all the same.

use crate::history::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    NotUnique(Value),
    Fresh(Value),
    Repeated(Value),
    /// The second was put after the first, and got although the first was there.
    Order(Value, Value),
    /// An answer of "empty" (the index of its event) from a queue that was never empty meanwhile.
    NotEmpty(usize),
    /// An answer (the index of its event) about how many items there are that was right at no moment
    /// meanwhile.
    Count(usize),
    /// More items were there than `maxsize`.
    Overfull {
        items: u64,
    },
    Lost(Vec<Value>),
    /// A dead letter that was finished, or was not delivered often enough.
    Undead(Value),
}
