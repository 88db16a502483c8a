//! `multiprocessing`'s ForkingPickler, and the pickler that a program has put in its place
//! (penstock/_multiprocessing/reducers.py).

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::interpreter::once::{lock, name, once};

/// The module of `multiprocessing` whose name `_ForkingPickler` takes precedence.
#[derive(Clone, Copy)]
pub enum Home {
    Queues,
    Connection,
}

impl Home {
    fn module(self) -> &'static str {
        match self {
            Home::Queues => "multiprocessing.queues",
            Home::Connection => "multiprocessing.connection",
        }
    }

    /// The value of that name now.
    fn pickler(self, py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
        static NAMES: [PyOnceLock<Py<PyDict>>; 2] = [PyOnceLock::new(), PyOnceLock::new()];
        let names = once(&NAMES[self as usize], py, || {
            Ok(py.import(self.module())?.dict().unbind())
        })?;
        names.bind(py).get_item(name!(py, "_ForkingPickler"))
    }
}

/// The standard library's own pickler.
pub fn standard(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(once(&CLASS, py, || attribute(py, "_STANDARD"))?.bind(py))
}

/// The reducers that programs have registered with it.
pub fn registered(py: Python<'_>) -> PyResult<Py<PyDict>> {
    Ok(attribute(py, "_REGISTERED")?.into_bound(py).cast_into()?.unbind())
}

fn attribute(py: Python<'_>, name: &str) -> PyResult<Py<PyAny>> {
    Ok(py
        .import("penstock._multiprocessing.reducers")?
        .getattr(name)?
        .unbind())
}

/// The pickler of a program that stands in the place of the standard one, for one handle.
pub struct Other {
    home: Home,
    /// Whether there is one, to be read without the lock.
    is_there: AtomicBool,
    class: Mutex<Option<Py<PyAny>>>,
}

impl Other {
    pub fn new(py: Python<'_>, home: Home) -> PyResult<Other> {
        let other = Other {
            home,
            is_there: AtomicBool::new(false),
            class: Mutex::new(None),
        };
        other.find(py)?;
        Ok(other)
    }

    /// Finds out whether there is one, in any of the places that penstock/_multiprocessing/reducers.py lists.
    pub fn find(&self, py: Python<'_>) -> PyResult<()> {
        static FIND: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let find = once(&FIND, py, || attribute(py, "_other"))?;
        let found = find.bind(py).call1((self.home.module(),))?;
        self.set((!found.is_none()).then(|| found.unbind()));
        Ok(())
    }

    fn set(&self, class: Option<Py<PyAny>>) {
        let is_there = class.is_some();
        let old = std::mem::replace(&mut *lock(&self.class), class);
        self.is_there.store(is_there, Ordering::Relaxed);
        drop(old); // when the lock is free
    }

    /// Whether there was one when that was last found out.
    #[inline]
    pub fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Relaxed)
    }

    /// The pickler. Reads the name in its module again, because a program may assign it at any time.
    pub fn class<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if let Some(found) = self.home.pickler(py)? {
            if !found.is(standard(py)?) {
                self.set(Some(found.clone().unbind()));
                return Ok(Some(found));
            }
        }
        if !self.is_there() {
            return Ok(None);
        }
        Ok(lock(&self.class).as_ref().map(|class| class.bind(py).clone()))
    }
}
