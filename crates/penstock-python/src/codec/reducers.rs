//! The reducers that programs have registered, and those that stand in their place.

use std::cell::Cell;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyComplex, PyDict, PyTuple};

use crate::codec::{forking_pickler, numpy};
use crate::interpreter::once::once;

/// The reducers in force: those of `ForkingPickler.register` take precedence, then those of `copyreg.pickle`,
/// then those of penstock/buffers.py. A ForkingPickler copies the first two when it is made, and a pickler
/// that is kept would miss later changes. So it gets a dict that is filled anew when one of the tables has
/// changed since the last object.
pub struct Reducers {
    pub dict: Py<PyDict>,
    /// What the program had registered when the dict was filled.
    known: Vec<(Py<PyAny>, Py<PyAny>)>,
    /// Whether NumPy had been imported then.
    had_arrays: bool,
    with_buffers: bool,
}

impl Reducers {
    pub fn new(py: Python<'_>, with_buffers: bool) -> Reducers {
        Reducers {
            dict: PyDict::new(py).unbind(),
            known: Vec::new(),
            had_arrays: false,
            with_buffers,
        }
    }

    pub fn refresh(&mut self, py: Python<'_>) -> PyResult<()> {
        let has_arrays = self.with_buffers && numpy::is_there(py);
        if has_arrays != self.had_arrays || !self.is_up_to_date(py)? {
            self.make(py)?;
            self.had_arrays = has_arrays;
        }
        Ok(())
    }

    fn is_up_to_date(&self, py: Python<'_>) -> PyResult<bool> {
        let (place, is_same) = (Cell::new(0), Cell::new(true));
        for table in registered(py)? {
            table.bind(py).locked_for_each(|class, reducer| {
                let known = self.known.get(place.replace(place.get() + 1));
                let is_known = known.is_some_and(|known| class.is(&known.0) && reducer.is(&known.1));
                is_same.set(is_same.get() && is_known);
                Ok(())
            })?;
        }
        Ok(is_same.get() && place.get() == self.known.len())
    }

    #[cold]
    fn make(&mut self, py: Python<'_>) -> PyResult<()> {
        // Copied first, because another thread may change them. The last update takes precedence.
        let [of_multiprocessing, of_copyreg] = registered(py)?;
        let (of_multiprocessing, of_copyreg) =
            (of_multiprocessing.bind(py).copy()?, of_copyreg.bind(py).copy()?);
        let dict = self.dict.bind(py);
        dict.clear();
        if self.with_buffers {
            let ours = py.import("penstock.buffers")?;
            dict.update(ours.getattr("_REDUCERS")?.cast::<PyDict>()?.as_mapping())?;
            if numpy::is_there(py) {
                dict.update(
                    ours.call_method0("_reducers_of_arrays")?
                        .cast::<PyDict>()?
                        .as_mapping(),
                )?;
            }
        }
        dict.update(of_copyreg.as_mapping())?;
        dict.update(of_multiprocessing.as_mapping())?;
        if self.with_buffers {
            for (class, reducer) in dict.copy()?.iter() {
                if let Some(ours) = in_place_of(&reducer)? {
                    dict.set_item(class, ours)?;
                }
            }
        }
        self.known.clear();
        for (class, reducer) in of_multiprocessing.iter().chain(of_copyreg.iter()) {
            self.known.push((class.unbind(), reducer.unbind()));
        }
        Ok(())
    }
}

/// The reducer that stands in for one which is not the program's own: torch's for tensors, and that of
/// `copyreg` for complex numbers, which takes half of the time of a put and a get of one.
fn in_place_of<'py>(reducer: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = reducer.py();
    let is = |attribute: &str, expected: &str| {
        let found = reducer.getattr(attribute);
        found.is_ok_and(|found| found.eq(expected).unwrap_or(false))
    };
    let is_from = |module: &str, name: &str| is("__module__", module) && is("__name__", name);
    if is_from("torch.multiprocessing.reductions", "reduce_tensor") {
        return py.import("penstock.buffers")?.getattr("_reduce_tensor").map(Some);
    }
    if is_from("copyreg", "pickle_complex") {
        return py
            .import("penstock._native")?
            .getattr("_reduce_complex")
            .map(Some);
    }
    Ok(None)
}

/// As `copyreg.pickle_complex` does it.
#[pyfunction]
pub fn _reduce_complex<'py>(number: &Bound<'py, PyComplex>) -> PyResult<Bound<'py, PyTuple>> {
    let parts = (number.real(), number.imag());
    (number.py().get_type::<PyComplex>(), parts).into_pyobject(number.py())
}

/// The tables of reducers that a program has registered.
fn registered(py: Python<'_>) -> PyResult<&[Py<PyDict>; 2]> {
    static TABLES: PyOnceLock<[Py<PyDict>; 2]> = PyOnceLock::new();
    once(&TABLES, py, || {
        let of_copyreg = py.import("copyreg")?.getattr("dispatch_table")?;
        Ok([forking_pickler::registered(py)?, of_copyreg.cast_into()?.unbind()])
    })
}

/// Whether a program has registered a reducer for this class.
pub fn is_registered(class: &Bound<'_, PyAny>) -> bool {
    let has = |table: &Py<PyDict>| table.bind(class.py()).contains(class).unwrap_or(true);
    // If that cannot be found out, the object goes to pickle.
    registered(class.py()).map_or(true, |tables| tables.iter().any(has))
}
