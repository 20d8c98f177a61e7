//! Sandbox, State and Limits for Python. The GIL is released around everything that runs cells; a Python tool takes it
//! for its own call, so nothing here waits while attached.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyMapping, PyTuple};

use super::retrieval::{PyBm25Index, PySearchTool};
use super::{AnyText, without_gil};
use crate::Error;
use crate::observation::Observation;
use crate::sandbox::{Caller, Limits, Sandbox, State, Tool, Tools};
use crate::search_tool::SearchTool;

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyLimits>()?;
    module.add_class::<PyState>()?;
    module.add_class::<PySandbox>()
}

/// What one cell may use: ``seconds`` of time (then TimeoutError is raised in it, and ``hard_seconds`` later it is killed),
/// ``memory_mb`` MiB beyond the interpreter's own, ``stdout_chars`` characters of output, ``tool_calls`` calls of tools.
#[pyclass(frozen, eq, name = "Limits", module = "agentdistill._core")]
#[derive(Clone, PartialEq)]
struct PyLimits(Limits);

#[pymethods]
impl PyLimits {
    #[new]
    #[pyo3(signature = (*, seconds=5.0, hard_seconds=2.0, memory_mb=256, stdout_chars=20_000, tool_calls=64))]
    fn new(
        seconds: f64,
        hard_seconds: f64,
        memory_mb: usize,
        stdout_chars: usize,
        tool_calls: usize,
    ) -> PyResult<Self> {
        let limits = Limits { seconds, hard_seconds, memory_mb, stdout_chars, tool_calls };
        limits.check()?;
        Ok(Self(limits))
    }

    #[getter]
    fn seconds(&self) -> f64 {
        self.0.seconds
    }

    #[getter]
    fn hard_seconds(&self) -> f64 {
        self.0.hard_seconds
    }

    #[getter]
    fn memory_mb(&self) -> usize {
        self.0.memory_mb
    }

    #[getter]
    fn stdout_chars(&self) -> usize {
        self.0.stdout_chars
    }

    #[getter]
    fn tool_calls(&self) -> usize {
        self.0.tool_calls
    }

    fn __repr__(&self) -> String {
        let Limits { seconds, hard_seconds, memory_mb, stdout_chars, tool_calls } = self.0;
        format!(
            "Limits(seconds={seconds}, hard_seconds={hard_seconds}, memory_mb={memory_mb}, \
             stdout_chars={stdout_chars}, tool_calls={tool_calls})"
        )
    }
}

fn limits_or_default(limits: Option<&Bound<'_, PyLimits>>) -> Limits {
    limits.map_or_else(Limits::default, |limits| limits.get().0.clone())
}

/// An immutable value: the whole interpreter after some cells. Using it twice is a fork.
#[pyclass(frozen, name = "State", module = "agentdistill._core")]
pub struct PyState(pub State);

#[pymethods]
impl PyState {
    /// The State as bytes, for this build's guest: about 20 kB for a few variables, or what differs from ``base``.
    #[pyo3(signature = (base=None))]
    fn to_bytes<'py>(&self, py: Python<'py>, base: Option<&Bound<'_, PyState>>) -> PyResult<Bound<'py, PyBytes>> {
        let base = base.map(|base| &base.get().0);
        Ok(PyBytes::new(py, &without_gil(py, || self.0.to_bytes(base))?))
    }

    /// The State that ``to_bytes`` gave with the same ``base``. Raises SandboxError when the bytes are damaged, of another
    /// guest or base, or need more memory than ``limits`` allow.
    #[staticmethod]
    #[pyo3(signature = (data, limits=None, *, base=None))]
    fn from_bytes(
        py: Python<'_>,
        data: &[u8],
        limits: Option<&Bound<'_, PyLimits>>,
        base: Option<&Bound<'_, PyState>>,
    ) -> PyResult<Self> {
        // Copied, since `data` is Python's and may only be read while attached.
        let (data, limits, base) = (data.to_vec(), limits_or_default(limits), base.map(|base| &base.get().0));
        Ok(Self(without_gil(py, || State::from_bytes(&data, base, &limits))??))
    }

    /// Memory held beyond the base image, in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.0.nbytes()
    }

    fn __repr__(&self) -> String {
        format!("State(nbytes={})", self.0.nbytes())
    }
}

/// Isolated CPython 3.14 (WASM). Thread-safe; a cell can reach its tools and nothing else.
///
/// ``tools``: name -> Bm25Index, or the tool that it gives (they answer natively, without the GIL), or a callable of JSON-able
/// arguments.
#[pyclass(frozen, name = "Sandbox", module = "agentdistill._core")]
pub struct PySandbox(pub Arc<Sandbox>);

#[pymethods]
impl PySandbox {
    #[new]
    #[pyo3(signature = (tools=None, limits=None, *, seed=0, threads=None))]
    fn new(
        py: Python<'_>,
        tools: Option<&Bound<'_, PyMapping>>,
        limits: Option<&Bound<'_, PyLimits>>,
        seed: u64,
        threads: Option<usize>,
    ) -> PyResult<Self> {
        let mut named = Tools::new();
        for item in tools.map(|tools| tools.items()).transpose()?.iter().flat_map(|items| items.iter()) {
            let (name, value): (String, Bound<'_, PyAny>) = item.extract()?;
            let tool = tool_of(&name, value)?;
            named.insert(name, tool);
        }
        let limits = limits_or_default(limits);
        Ok(Self(Arc::new(without_gil(py, || Sandbox::new(named, limits, seed, threads))??)))
    }

    /// Names of the packages that cells can import besides Python's standard library.
    #[classattr]
    fn packages(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        PyTuple::new(py, Sandbox::PACKAGES)
    }

    /// The limits of each cell.
    #[getter]
    fn limits(&self) -> PyLimits {
        PyLimits(self.0.limits().clone())
    }

    /// The State before any cell.
    #[getter]
    fn initial(&self) -> PyState {
        PyState(self.0.initial().clone())
    }

    /// Run one cell from ``state``; return what it did and the State after it. ``state`` stays as it is.
    fn run(&self, py: Python<'_>, state: &Bound<'_, PyState>, code: AnyText) -> PyResult<(Observation, PyState)> {
        let mut results = self.run_cells(py, vec![(state.get().0.clone(), code.into())])?;
        let (observation, state) = results.pop().expect("a result for the cell");
        Ok((observation, PyState(state)))
    }

    /// Run each cell from its own State, in parallel; the same State may stand in many.
    fn run_many(&self, py: Python<'_>, cells: Vec<(Py<PyState>, AnyText)>) -> PyResult<Vec<(Observation, PyState)>> {
        let cells = cells.into_iter().map(|(state, code)| (state.get().0.clone(), code.into())).collect();
        let results = self.run_cells(py, cells)?;
        Ok(results.into_iter().map(|(observation, state)| (observation, PyState(state))).collect())
    }
}

impl PySandbox {
    fn run_cells(&self, py: Python<'_>, cells: Vec<(State, String)>) -> PyResult<Vec<(Observation, State)>> {
        until_signal(py, |interrupted| self.0.run_many(cells, Caller::Interruptible(interrupted)))
    }
}

/// Runs `work` without the GIL; it asks its argument whether a signal (Ctrl-C) wants it to end.
fn until_signal<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&(dyn Fn() -> bool + Sync)) -> crate::Result<T> + Send,
) -> PyResult<T> {
    let signal = Mutex::new(None);
    let interrupted = || match Python::attach(|py| py.check_signals()) {
        Ok(()) => false,
        Err(error) => {
            *signal.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            true
        }
    };
    let outcome = without_gil(py, || work(&interrupted))?;
    match signal.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(outcome?),
    }
}

/// What the sandbox calls for a tool given from Python: an index answers without the GIL.
fn tool_of(name: &str, value: Bound<'_, PyAny>) -> PyResult<Arc<dyn Tool>> {
    if let Ok(index) = value.cast::<PyBm25Index>() {
        return Ok(Arc::new(SearchTool { index: index.get().0.clone(), k: SearchTool::K, compat: None }));
    }
    if let Ok(search) = value.cast::<PySearchTool>() {
        return Ok(search.get().0.clone());
    }
    if !value.is_callable() {
        let kind = value.get_type();
        return Err(Error::Argument(format!("the tool {name:?} is a {kind}, which cannot be called")).into());
    }
    let json = value.py().import("json")?;
    let (loads, dumps) = (json.getattr("loads")?.unbind(), json.getattr("dumps")?.unbind());
    Ok(Arc::new(PythonTool { callable: value.unbind(), loads, dumps }))
}

/// A Python callable; what goes in and out is JSON by Python's own json module.
struct PythonTool {
    callable: Py<PyAny>,
    loads: Py<PyAny>,
    dumps: Py<PyAny>,
}

impl Tool for PythonTool {
    fn call(&self, arguments: &str) -> Result<String, String> {
        Python::attach(|py| {
            let call = || -> PyResult<String> {
                let arguments = self.loads.bind(py).call1((arguments,))?;
                let (positional, keyword) = (arguments.get_item(0)?, arguments.get_item(1)?);
                let positional = positional.cast::<PyList>()?.to_tuple();
                let result = self.callable.bind(py).call(positional, Some(keyword.cast::<PyDict>()?))?;
                self.dumps.bind(py).call1((result,))?.extract()
            };
            call().map_err(|error| error.to_string())
        })
    }
}
