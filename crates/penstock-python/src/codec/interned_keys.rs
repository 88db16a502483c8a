//! Strings that were keys of dicts lately. The messages of a queue often have the same keys, and a string
//! that is kept need not be made, nor hashed, for each message. Strings are immutable, so sharing one has no
//! effect but that.

use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::interpreter::once::Exclusive;

/// Bytes of the longest key that is kept.
const LONGEST: usize = 32;
const PLACES: usize = 256;

struct Known {
    bytes: [u8; LONGEST],
    len: usize,
    string: Py<PyString>,
}

static KNOWN: Exclusive<[Option<Known>; PLACES]> = Exclusive::new([const { None }; PLACES]);

/// The place of a key.
fn place_of(contents: &[u8]) -> usize {
    let (mut head, mut tail) = ([0; 8], [0; 8]);
    let few = contents.len().min(8);
    head[..few].copy_from_slice(&contents[..few]);
    tail[8 - few..].copy_from_slice(&contents[contents.len() - few..]);
    let mixed = u64::from_le_bytes(head)
        .wrapping_add(u64::from_le_bytes(tail).rotate_left(29))
        .wrapping_add(contents.len() as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as usize % PLACES
}

/// The string of these bytes. `None` if they are no UTF-8.
#[inline]
pub fn string<'py>(py: Python<'py>, contents: &[u8]) -> Option<Bound<'py, PyString>> {
    // Without a GIL, threads would wait for each other's cache lines at each key.
    if contents.len() > LONGEST || cfg!(Py_GIL_DISABLED) {
        return PyString::from_bytes(py, contents).ok();
    }
    let place = place_of(contents);
    let known = KNOWN.with(|known| {
        let known = known[place].as_ref()?;
        (known.bytes[..known.len] == *contents).then(|| known.string.clone_ref(py).into_bound(py))
    });
    if let Some(Some(string)) = known {
        return Some(string);
    }
    let string = PyString::from_bytes(py, contents).ok()?;
    let mut new = Known {
        bytes: [0; LONGEST],
        len: contents.len(),
        string: string.clone().unbind(),
    };
    new.bytes[..contents.len()].copy_from_slice(contents);
    let old = KNOWN.with(|known| known[place].replace(new));
    drop(old); // outside `with`, where it would keep other threads from the keys
    Some(string)
}
