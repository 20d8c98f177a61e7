//! The Python module `agentdistill._core`. It converts values, releases the GIL and maps errors; it has no logic of its
//! own.
//!
//! `python/agentdistill/_core.pyi` is its interface, checked by stubtest. No other module of the core imports this one.

mod action;
mod observation;
mod retrieval;
mod retrieval_server;
mod sandbox;
mod self_consistency;
mod trajectory;

use std::borrow::Cow;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as Unknown;

use crate::Error;
use crate::action::{Action, ActionFormat, ParseFailure, ParseFailureKind, SpanKind};
use crate::error::panic_message;
use crate::formats::Format;
use crate::observation::{Observation, ObservationKind, ToolCall};
use crate::retrieval::Passage;
use crate::trajectory::{Candidate, Outcome, Step, Trajectory, TrajectoryKind};
use crate::vote::{Compat, Vote};

create_exception!(
    agentdistill._core,
    AgentDistillError,
    PyException,
    "Base of the errors that are neither a wrong argument (ValueError) nor plain I/O (OSError)."
);
create_exception!(
    agentdistill._core,
    RetrievalError,
    AgentDistillError,
    "An index that cannot be built, opened or read."
);
create_exception!(
    agentdistill._core,
    SandboxError,
    AgentDistillError,
    "The sandbox itself failed (never: the code that ran in it)."
);
create_exception!(
    agentdistill._core,
    TrajectoryError,
    AgentDistillError,
    "A trajectory that cannot be read or written; names path and line."
);

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("AgentDistillError", py.get_type::<AgentDistillError>())?;
    module.add("RetrievalError", py.get_type::<RetrievalError>())?;
    module.add("SandboxError", py.get_type::<SandboxError>())?;
    module.add("TrajectoryError", py.get_type::<TrajectoryError>())?;
    module.add_class::<Passage>()?;
    module.add_class::<retrieval::PyBm25Index>()?;
    module.add_class::<retrieval::PySearchTool>()?;
    module.add_function(wrap_pyfunction!(retrieval::for_reading, module)?)?;
    module.add_class::<retrieval_server::PyRetrievalServer>()?;
    sandbox::register(module)?;
    module.add_class::<Observation>()?;
    module.add_class::<ToolCall>()?;
    module.add_class::<Action>()?;
    module.add_class::<ParseFailure>()?;
    module.add_function(wrap_pyfunction!(action::parse_action, module)?)?;
    module.add_class::<Vote>()?;
    module.add_function(wrap_pyfunction!(action::vote, module)?)?;
    module.add_class::<self_consistency::StepResult>()?;
    module.add_class::<self_consistency::PyStepQueue>()?;
    module.add_class::<Candidate>()?;
    module.add_class::<Step>()?;
    module.add_class::<Trajectory>()?;
    module.add_class::<trajectory::PyTrajectoryWriter>()?;
    module.add_function(wrap_pyfunction!(trajectory::read_trajectories, module)?)?;
    module.add_function(wrap_pyfunction!(trajectory::iter_trajectories, module)?)?;
    module.add_function(wrap_pyfunction!(trajectory::read_header, module)?)?;
    module.add_function(wrap_pyfunction!(trajectory::convert, module)?)?;
    Ok(())
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Argument(_) => PyValueError::new_err(message),
            // OSError selects its own subclass (FileNotFoundError, ...) from the number.
            Error::Io { path, source } => match source.raw_os_error() {
                Some(number) => {
                    let reason = source.to_string();
                    let reason = reason.split(" (os error").next().unwrap_or_default().to_owned();
                    PyOSError::new_err((number, reason, path.into_os_string()))
                }
                None => PyOSError::new_err(message),
            },
            Error::Retrieval { .. } => RetrievalError::new_err(message),
            Error::Sandbox(_) => SandboxError::new_err(message),
            Error::Trajectory { .. } => TrajectoryError::new_err(message),
        }
    }
}

/// Runs `work` of the core without the GIL. A panic in it is a bug in agentdistill. It becomes an AgentDistillError,
/// because `except Exception` does not catch PyO3's PanicException.
fn without_gil<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    py.detach(|| catch_unwind(AssertUnwindSafe(work))).map_err(|panic| {
        let message = panic_message(&*panic);
        AgentDistillError::new_err(format!("agentdistill itself failed, please report this: {message}"))
    })
}

/// A text from any Python string. Each lone surrogate, which UTF-8 cannot encode, becomes one U+FFFD.
#[derive(Default)]
struct AnyText(String);

impl From<AnyText> for String {
    fn from(AnyText(text): AnyText) -> Self {
        text
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for AnyText {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(any_text(&object.cast::<PyString>()?.to_owned())?.into_owned()))
    }
}

/// Converts like [`AnyText`], but borrows from the Python string where possible.
fn any_text<'a>(text: &'a Bound<'_, PyString>) -> PyResult<Cow<'a, str>> {
    if let Ok(text) = text.to_str() {
        return Ok(text.into());
    }
    let mut bytes: Vec<u8> = text.call_method1("encode", ("utf-8", "surrogatepass"))?.extract()?;
    for at in 0..bytes.len().saturating_sub(2) {
        if bytes[at] == 0xed && bytes[at + 1] >= 0xa0 {
            bytes[at..at + 3].copy_from_slice("\u{fffd}".as_bytes());
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned().into())
}

/// Implements the conversions for enums that are `Literal` strings in Python, with the same names as in JSON.
macro_rules! literals {
    ($($kind:ty),*) => {$(
        impl<'py> IntoPyObject<'py> for $kind {
            type Target = PyString;
            type Output = Bound<'py, PyString>;
            type Error = Infallible;

            fn into_pyobject(self, py: Python<'py>) -> Result<Self::Output, Infallible> {
                Ok(PyString::new(py, &spelling(&self)))
            }
        }

        impl<'a, 'py> FromPyObject<'a, 'py> for $kind {
            type Error = PyErr;

            fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
                let text: &str = object.extract()?;
                let unknown = |error: Unknown| PyValueError::new_err(error.to_string());
                Self::deserialize(text.into_deserializer()).map_err(unknown)
            }
        }
    )*};
}

literals!(ActionFormat, ObservationKind, SpanKind, ParseFailureKind, Outcome, TrajectoryKind, Format);

fn spelling(kind: &impl serde::Serialize) -> String {
    serde_json::to_value(kind).ok().and_then(|json| json.as_str().map(str::to_owned)).unwrap_or_default()
}

fn compat(name: Option<&str>) -> PyResult<Option<Compat>> {
    match name {
        None => Ok(None),
        Some("reference") => Ok(Some(Compat::Reference)),
        Some(other) => Err(PyValueError::new_err(format!("compat is \"reference\" or None, not {other:?}"))),
    }
}

/// For `__repr__`: returns the start of a text, in quotes.
fn short(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// For `__repr__`: returns `, name="..."`, or nothing if the text is absent or empty.
fn field(name: &str, text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).map(|text| format!(", {name}={}", short(text))).unwrap_or_default()
}
