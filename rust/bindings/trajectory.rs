//! Trajectories and their files in Python.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use super::{AnyText, field, short, spelling, without_gil};
use crate::action::Parsed;
use crate::error::{Error, Place};
use crate::formats::{self, Conversion, Counts, Format, Reader};
use crate::observation::Observation;
use crate::trajectory::{
    self, Candidate, Outcome, Sampling, Step, Trajectory, TrajectoryKind, TrajectoryWriter, VERSION,
};

/// Read a JSONL file in parallel. An unfinished last line, left by a killed writer, is skipped. Raises TrajectoryError.
#[pyfunction]
pub fn read_trajectories(py: Python<'_>, path: PathBuf) -> PyResult<Vec<Trajectory>> {
    Ok(without_gil(py, || formats::read_trajectories(&path))??)
}

/// Iterate over the trajectories of a file. They are read in blocks, in parallel, so memory use is bounded.
///
/// ``source`` is the format of the file, any that ``convert`` reads; by default the first record determines it. An
/// unfinished last line, left by a killed writer, is skipped. When the iterator reaches a record that cannot be read,
/// it raises TrajectoryError with file and line.
#[pyfunction]
#[pyo3(signature = (path, *, source = None))]
pub fn iter_trajectories(path: PathBuf, source: Option<Format>) -> PyTrajectoryIterator {
    PyTrajectoryIterator { reader: Reader::new(&[path], source), read: Vec::new().into_iter() }
}

/// The rest of the trajectories of a file.
#[pyclass(name = "_TrajectoryIterator", module = "agentdistill._core")]
pub struct PyTrajectoryIterator {
    reader: Reader,
    read: vec::IntoIter<Trajectory>,
}

#[pymethods]
impl PyTrajectoryIterator {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&mut self, py: Python<'_>) -> PyResult<Option<Trajectory>> {
        loop {
            if let Some(trajectory) = self.read.next() {
                return Ok(Some(trajectory));
            }
            py.check_signals()?;
            let more = without_gil(py, || self.reader.next_block(|trajectory| trajectory));
            let more = more.and_then(|more| Ok(more?)).inspect_err(|_| {
                self.reader = Reader::new(&[], None); // like a generator, it ends after an exception
            })?;
            let Some(more) = more else { return Ok(None) };
            self.read = more.into_iter();
        }
    }
}

/// The ``run`` (JSON) that a trajectory file was opened with; None for a file without a header.
#[pyfunction]
pub fn read_header(py: Python<'_>, path: PathBuf) -> PyResult<Option<String>> {
    Ok(without_gil(py, || trajectory::read_header(&path))??)
}

/// Convert files of trajectories from one format to another. See ``agentdistill.files.formats.convert``.
///
/// ``progress`` is called from time to time with the number of trajectories read and the fraction of the files read, 0
/// to 1. Returns the number of trajectories read, and of records written.
#[pyfunction]
#[pyo3(signature = (inputs, output, *, source = None, target = Format::Agentdistill, run = "{}", progress = None),
    text_signature = "(inputs, output, *, source=None, target='agentdistill', run='{}', progress=None)")]
pub fn convert(
    py: Python<'_>,
    inputs: Vec<PathBuf>,
    output: PathBuf,
    source: Option<Format>,
    target: Format,
    run: &str,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<(usize, usize)> {
    let run = crate::json::parse(run.as_bytes())
        .map_err(|error| PyValueError::new_err(format!("run is not a JSON object: {error}")))?;
    let mut conversion = Conversion::new(&inputs, &output, source, target, run)?;
    let total: u64 = inputs.iter().filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum();
    while without_gil(py, || conversion.step())?? {
        py.check_signals()?;
        let share = (total > 0).then(|| conversion.bytes_read() as f64 / total as f64);
        progress.map_or(Ok(()), |progress| progress.call1((conversion.counts().read, share)).map(drop))?;
    }
    let Counts { read, written } = conversion.counts();
    Ok((read, written))
}

#[pymethods]
impl Trajectory {
    #[new]
    #[pyo3(signature = (task_id, question, *, reference = None, aliases = vec![], task_set = AnyText::default(),
        kind = TrajectoryKind::Agent, model = AnyText::default(), messages = vec![], steps = vec![],
        outcome = Outcome::FinalAnswer, answer = None, score = None, grader = None, error = None,
        sampling = None, usage = (0, 0), seconds = 0.0),
        text_signature = "(task_id, question, *, reference=None, aliases=(), task_set='', kind='agent', \
        model='', messages=(), steps=(), outcome='final_answer', answer=None, score=None, grader=None, error=None, \
        sampling=None, usage=(0, 0), seconds=0.0)")]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn py_new(
        task_id: AnyText,
        question: AnyText,
        reference: Option<AnyText>,
        aliases: Vec<AnyText>,
        task_set: AnyText,
        kind: TrajectoryKind,
        model: AnyText,
        messages: Vec<(AnyText, AnyText)>,
        steps: Vec<Step>,
        outcome: Outcome,
        answer: Option<AnyText>,
        score: Option<f64>,
        grader: Option<AnyText>,
        error: Option<AnyText>,
        sampling: Option<Sampling>,
        usage: (u64, u64),
        seconds: f64,
    ) -> Self {
        Self {
            version: VERSION,
            task_id: task_id.into(),
            question: question.into(),
            reference: reference.map(String::from),
            aliases: aliases.into_iter().map(String::from).collect(),
            task_set: task_set.into(),
            kind,
            model: model.into(),
            messages: messages.into_iter().map(|(role, content)| (role.into(), content.into())).collect(),
            steps,
            outcome,
            answer: answer.map(String::from),
            score,
            grader: grader.map(String::from),
            error: error.map(String::from),
            sampling: sampling.unwrap_or_default(),
            usage,
            seconds,
        }
    }

    /// The trajectory as one line of JSON.
    #[pyo3(name = "to_json")]
    fn py_to_json(&self, py: Python<'_>) -> PyResult<String> {
        without_gil(py, || self.to_json())
    }

    /// Parse a trajectory from ``to_json``, or from a record of another format. Raises TrajectoryError.
    #[staticmethod]
    #[pyo3(name = "from_json", signature = (line, *, source = Format::Agentdistill),
        text_signature = "(line, *, source='agentdistill')")]
    fn py_from_json(py: Python<'_>, line: AnyText, source: Format) -> PyResult<Self> {
        let read = || match source {
            Format::Agentdistill => Self::from_json(&line.0),
            other => other.read(line.0.as_bytes()).map_err(|why| Error::trajectory(Place::Nowhere, why)),
        };
        Ok(without_gil(py, read)??)
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (String,))> {
        Ok((PyType::new::<Self>(py).getattr("from_json")?, (self.to_json(),)))
    }

    fn __repr__(&self) -> String {
        let score = self.score.map(|score| format!(", score={score}")).unwrap_or_default();
        format!(
            "Trajectory({}, {:?}, steps={}{}{score})",
            short(&self.task_id),
            spelling(&self.outcome),
            self.steps.len(),
            field("answer", self.answer.as_deref()),
        )
    }
}

#[pymethods]
impl Step {
    #[new]
    #[pyo3(signature = (candidates, *, winner = 0, votes = vec![], prompt_token_ids = None, message = AnyText::default(),
        state = None, seconds = 0.0, model_seconds = 0.0, cached_tokens = 0),
        text_signature = "(candidates, *, winner=0, votes=(), prompt_token_ids=None, message='', state=None, seconds=0.0, \
        model_seconds=0.0, cached_tokens=0)")]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn py_new(
        candidates: Vec<Candidate>,
        winner: usize,
        votes: Vec<(AnyText, usize)>,
        prompt_token_ids: Option<Vec<u32>>,
        message: AnyText,
        state: Option<Vec<u8>>,
        seconds: f64,
        model_seconds: f64,
        cached_tokens: u64,
    ) -> PyResult<Self> {
        if winner >= candidates.len() {
            let message = format!("winner is {winner}, but there are {} candidates", candidates.len());
            return Err(PyValueError::new_err(message));
        }
        let votes = votes.into_iter().map(|(outcome, votes)| (outcome.into(), votes)).collect();
        let message = message.into();
        Ok(Self { candidates, winner, votes, prompt_token_ids, message, state, seconds, model_seconds, cached_tokens })
    }

    fn __repr__(&self) -> String {
        format!(
            "Step(candidates={}, winner={}{})",
            self.candidates.len(),
            self.winner,
            field("message", Some(&self.message))
        )
    }
}

#[pymethods]
impl Candidate {
    #[new]
    #[pyo3(signature = (text, *, prefix = AnyText::default(), reasoning = AnyText::default(), token_ids = None,
        logprobs = None, finish_reason = None, action = None, observation = None),
        text_signature = "(text, *, prefix='', reasoning='', token_ids=None, logprobs=None, finish_reason=None, \
        action=None, observation=None)")]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn py_new(
        text: AnyText,
        prefix: AnyText,
        reasoning: AnyText,
        token_ids: Option<Vec<u32>>,
        logprobs: Option<Vec<f64>>,
        finish_reason: Option<AnyText>,
        action: Option<Parsed>,
        observation: Option<Observation>,
    ) -> Self {
        let (text, prefix, reasoning) = (text.into(), prefix.into(), reasoning.into());
        let finish_reason = finish_reason.map(String::from);
        Self { text, prefix, reasoning, token_ids, logprobs, finish_reason, action, observation }
    }

    fn __repr__(&self) -> String {
        format!("Candidate({}{})", short(&self.text), field("finish_reason", self.finish_reason.as_deref()))
    }
}

/// Appends trajectories durably. A file has one writer, and each line is complete and synced before ``append`` returns.
#[pyclass(frozen, name = "TrajectoryWriter", module = "agentdistill._core")]
pub struct PyTrajectoryWriter(Mutex<Option<TrajectoryWriter>>);

#[pymethods]
impl PyTrajectoryWriter {
    #[new]
    fn new(py: Python<'_>, path: PathBuf, run: &str) -> PyResult<Self> {
        let writer = without_gil(py, || TrajectoryWriter::open(&path, run))??;
        Ok(Self(Mutex::new(Some(writer))))
    }

    #[getter]
    fn done(&self, py: Python<'_>) -> PyResult<HashSet<String>> {
        without_gil(py, || Ok(self.writer().as_ref().ok_or_else(closed)?.done().clone()))?
    }

    /// Append whole lines and sync. Raises OSError, for example if the disk is full; the trajectories that fitted are
    /// then in the file.
    fn append(&self, py: Python<'_>, trajectories: Vec<Py<Trajectory>>) -> PyResult<()> {
        without_gil(py, || {
            let trajectories: Vec<&Trajectory> = trajectories.iter().map(Py::get).collect();
            Ok(self.writer().as_mut().ok_or_else(closed)?.append(&trajectories)?)
        })?
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| *self.writer() = None);
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, pyo3::types::PyTuple>) {
        self.close(py);
    }
}

impl PyTrajectoryWriter {
    fn writer(&self) -> MutexGuard<'_, Option<TrajectoryWriter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> PyErr {
    PyValueError::new_err("the writer is closed")
}

impl<'py> IntoPyObject<'py> for Sampling {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        py.import("json")?
            .call_method1("loads", (serde_json::to_string(self.settings()).expect("a map is always JSON"),))
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for Sampling {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let dict = py.get_type::<PyDict>().call1((object,))?;
        let json: String = py.import("json")?.call_method1("dumps", (dict,))?.extract()?;
        let settings: serde_json::Map<String, serde_json::Value> = crate::json::parse(json.as_bytes())
            .map_err(|error| PyValueError::new_err(format!("sampling is not JSON: {error}")))?;
        Ok(settings.into())
    }
}
