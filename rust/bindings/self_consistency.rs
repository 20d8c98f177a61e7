//! Self-consistent steps in Python.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use pyo3::prelude::*;

use super::AnyText;
use super::sandbox::{PySandbox, PyState};
use crate::action::ActionFormat;
use crate::action::Parsed;
use crate::observation::Observation;
use crate::sandbox::State;
use crate::self_consistency::{self, Ran, Waiting};
use crate::step_queue::StepQueue;
use crate::vote::Vote;

/// Takes steps of many episodes in the background: parses, runs and votes, without the GIL.
#[pyclass(frozen, name = "StepQueue", module = "agentdistill._core")]
pub struct PyStepQueue(Arc<StepQueue<Py<PyAny>>>);

#[pymethods]
impl PyStepQueue {
    #[new]
    #[pyo3(signature = (sandbox, at_once, *, format = ActionFormat::Code, compat = None, seed = 0),
        text_signature = "(sandbox, at_once, *, format='code', compat=None, seed=0)")]
    fn new(
        sandbox: &Bound<'_, PySandbox>,
        at_once: usize,
        format: ActionFormat,
        compat: Option<&str>,
        seed: u64,
    ) -> PyResult<Self> {
        let sandbox = sandbox.get().0.clone();
        Ok(Self(Arc::new(StepQueue::new(sandbox, at_once, format, super::compat(compat)?, seed)?)))
    }

    /// Have a step taken: each of the candidates from ``state``, but for what ran in the ``earlier`` result.
    #[pyo3(signature = (ticket, state, completions, earlier = None))]
    fn push(
        &self,
        ticket: Py<PyAny>,
        state: &Bound<'_, PyState>,
        completions: Vec<AnyText>,
        earlier: Option<&Bound<'_, StepResult>>,
    ) -> PyResult<()> {
        let step = Waiting {
            state: state.get().0.clone(),
            completions: completions.into_iter().map(|text| text.0).collect(),
            ran: earlier.map(|earlier| earlier.get().ran.clone()).unwrap_or_default(),
        };
        Ok(self.0.push(ticket, step)?)
    }

    /// Readable when there is something to take: for ``loop.add_reader`` and ``select``.
    fn fileno(&self) -> RawFd {
        self.0.bell().as_raw_fd()
    }

    /// Tickets and results of the steps that have ended, each once; a SandboxError or ValueError where there is no result.
    fn take(&self, py: Python<'_>) -> PyResult<Vec<(Py<PyAny>, Py<PyAny>)>> {
        let ended = self.0.take().into_iter();
        ended
            .map(|(ticket, result)| match result {
                Ok(step) => Ok((ticket, Py::new(py, StepResult::new(py, step)?)?.into_any())),
                Err(error) => Ok((ticket, PyErr::from(error).into_value(py).into_any())),
            })
            .collect()
    }

    /// Forget the step with this ticket. One that has begun is cancelled, and is to be taken when it has ended: then True.
    fn withdraw(&self, ticket: &Bound<'_, PyAny>) -> bool {
        self.0.withdraw(|other| other.is(ticket))
    }

    /// Forget the steps that have not begun, cancel those that have, and wait for these, 3 s at most.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}

/// One step; the State is an object of its own, since Python may keep it when the rest is gone.
#[pyclass(frozen, module = "agentdistill._core")]
pub struct StepResult {
    #[pyo3(get)]
    actions: Vec<Parsed>,
    #[pyo3(get)]
    observations: Vec<Option<Observation>>,
    #[pyo3(get)]
    vote: Vote,
    #[pyo3(get)]
    winner: usize,
    #[pyo3(get)]
    state: Py<PyState>,
    ran: Ran<State>,
}

impl StepResult {
    fn new(py: Python<'_>, step: self_consistency::StepResult<State>) -> PyResult<Self> {
        let self_consistency::StepResult { actions, observations, vote, winner, state, ran } = step;
        Ok(Self { actions, observations, vote, winner, state: Py::new(py, PyState(state))?, ran })
    }
}

#[pymethods]
impl StepResult {
    fn __repr__(&self) -> String {
        format!("StepResult(candidates={}, winner={})", self.actions.len(), self.winner)
    }
}
