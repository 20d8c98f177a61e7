//! Sandbox, State and Limits in Python. Everything that runs cells releases the GIL. A Python tool takes the GIL for
//! its own call, so no function here may wait while it holds the GIL.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

/// Limits of one cell. After ``seconds`` the cell gets a TimeoutError; after ``hard_seconds`` more it is killed. It may
/// use ``memory_mb`` MiB beyond the interpreter's own memory, print ``stdout_chars`` characters, and make
/// ``tool_calls`` calls of tools.
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

/// An immutable value: the whole interpreter after some cells. To fork it, use it more than once.
///
/// All States of a process take at most 1 GiB of memory. Beyond that, the least recently used ones are on disk, in the
/// folder of temporary files, and are read back when they are used.
#[pyclass(frozen, name = "State", module = "agentdistill._core")]
pub struct PyState(pub State);

#[pymethods]
impl PyState {
    /// Serialize the State: about 20 kB for a few variables. With a ``base``, only the difference to it.
    #[pyo3(signature = (base=None))]
    fn to_bytes<'py>(&self, py: Python<'py>, base: Option<&Bound<'_, PyState>>) -> PyResult<Bound<'py, PyBytes>> {
        let base = base.map(|base| &base.get().0);
        Ok(PyBytes::new(py, &without_gil(py, || self.0.to_bytes(base))??))
    }

    /// Restore a State from ``to_bytes`` with the same ``base``. Raises SandboxError if the bytes are damaged, are of
    /// another guest or base, or exceed ``limits``.
    #[staticmethod]
    #[pyo3(signature = (data, limits=None, *, base=None))]
    fn from_bytes(
        py: Python<'_>,
        data: &[u8],
        limits: Option<&Bound<'_, PyLimits>>,
        base: Option<&Bound<'_, PyState>>,
    ) -> PyResult<Self> {
        // Copied, because `data` belongs to Python and may only be read while this thread holds the GIL.
        let (data, limits, base) = (data.to_vec(), limits_or_default(limits), base.map(|base| &base.get().0));
        Ok(Self(without_gil(py, || State::from_bytes(&data, base, &limits))??))
    }

    /// Memory that the State takes beyond the base image, in bytes, whether it is in memory or on disk.
    #[getter]
    fn nbytes(&self) -> usize {
        self.0.nbytes()
    }

    fn __repr__(&self) -> String {
        format!("State(nbytes={})", self.0.nbytes())
    }
}

/// Isolated CPython 3.14 (WASM). Thread-safe. A cell can reach its tools and nothing else.
///
/// ``tools`` maps a name to a Bm25Index or a SearchTool (both run natively, without the GIL), or to a callable with
/// JSON-able arguments.
#[pyclass(frozen, name = "Sandbox", module = "agentdistill._core")]
pub struct PySandbox {
    pub sandbox: Arc<Sandbox>,
    pub tool_calls: Arc<ToolCalls>,
}

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
        let (mut named, tool_calls) = (Tools::new(), Arc::<ToolCalls>::default());
        for item in tools.map(|tools| tools.items()).transpose()?.iter().flat_map(|items| items.iter()) {
            let (name, value): (String, Bound<'_, PyAny>) = item.extract()?;
            let tool = tool_of(&name, value, &tool_calls)?;
            named.insert(name, tool);
        }
        let limits = limits_or_default(limits);
        let sandbox = Arc::new(without_gil(py, || Sandbox::new(named, limits, seed, threads))??);
        Ok(Self { sandbox, tool_calls })
    }

    /// Packages that cells can import besides Python's standard library.
    #[classattr]
    fn packages(py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        PyTuple::new(py, Sandbox::PACKAGES)
    }

    /// The limits of each cell.
    #[getter]
    fn limits(&self) -> PyLimits {
        PyLimits(self.sandbox.limits().clone())
    }

    /// The State before any cell.
    #[getter]
    fn initial(&self) -> PyState {
        PyState(self.sandbox.initial().clone())
    }

    /// Run one cell from ``state``. Return its Observation and the State after it. ``state`` does not change.
    fn run(&self, py: Python<'_>, state: &Bound<'_, PyState>, code: AnyText) -> PyResult<(Observation, PyState)> {
        let mut results = self.run_cells(py, vec![(state.get().0.clone(), code.into())])?;
        let (observation, state) = results.pop().expect("a result for the cell");
        Ok((observation, PyState(state)))
    }

    /// Run each cell from its State, in parallel. Several cells may use the same State.
    fn run_many(&self, py: Python<'_>, cells: Vec<(Py<PyState>, AnyText)>) -> PyResult<Vec<(Observation, PyState)>> {
        let cells = cells.into_iter().map(|(state, code)| (state.get().0.clone(), code.into())).collect();
        let results = self.run_cells(py, cells)?;
        Ok(results.into_iter().map(|(observation, state)| (observation, PyState(state))).collect())
    }
}

impl PySandbox {
    fn run_cells(&self, py: Python<'_>, cells: Vec<(State, String)>) -> PyResult<Vec<(Observation, State)>> {
        until_signal(py, |interrupted| self.sandbox.run_many(cells, Caller::Interruptible(interrupted)))
    }
}

/// Runs `work` without the GIL. `work` calls its argument to ask whether a signal (such as Ctrl-C) has arrived.
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

/// Returns the sandbox tool for a Python value. An index runs without the GIL.
fn tool_of(name: &str, value: Bound<'_, PyAny>, calls: &Arc<ToolCalls>) -> PyResult<Arc<dyn Tool>> {
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
    Ok(Arc::new(PythonTool { callable: value.unbind(), loads, dumps, calls: calls.clone() }))
}

/// A Python callable. Arguments and results are converted by Python's own json module.
struct PythonTool {
    callable: Py<PyAny>,
    loads: Py<PyAny>,
    dumps: Py<PyAny>,
    calls: Arc<ToolCalls>,
}

/// The calls of Python tools that the cells of one sandbox are making.
#[derive(Default)]
pub struct ToolCalls {
    count: Mutex<usize>,
    ended: Condvar,
}

/// One call, counted while it lives.
struct ToolCall<'a>(&'a ToolCalls);

impl ToolCalls {
    const MAX_WAIT: Duration = Duration::from_secs(20);

    fn begin(&self) -> ToolCall<'_> {
        *self.lock() += 1;
        ToolCall(self)
    }

    /// Waits until no cell is in a Python tool. The wait is limited, because a tool may never return. A thread that
    /// returns from a tool while the interpreter is being finalized aborts the process.
    pub fn wait(&self) {
        let waited = self.ended.wait_timeout_while(self.lock(), Self::MAX_WAIT, |count| *count > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ToolCall<'_> {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.ended.notify_all();
    }
}

impl Tool for PythonTool {
    fn call(&self, arguments: &str) -> Result<String, String> {
        let _call = self.calls.begin();
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
