//! Self-consistent steps in Python.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use pyo3::prelude::*;

use super::AnyText;
use super::sandbox::{PySandbox, PyState, ToolCalls};
use crate::action::ActionFormat;
use crate::action::Parsed;
use crate::observation::Observation;
use crate::sandbox::State;
use crate::self_consistency::{self, CellResults, PendingStep};
use crate::step_queue::StepQueue;
use crate::vote::Vote;

/// Runs the steps of many episodes in the background: parses, runs and votes, without the GIL.
#[pyclass(frozen, name = "StepQueue", module = "agentdistill._core")]
pub struct PyStepQueue(Arc<StepQueue<Py<PyAny>>>, Arc<ToolCalls>);

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
        let PySandbox { sandbox, tool_calls } = sandbox.get();
        let queue = StepQueue::new(sandbox.clone(), at_once, format, super::compat(compat)?, seed)?;
        Ok(Self(Arc::new(queue), tool_calls.clone()))
    }

    /// Queue a step that runs each completion from ``state``. Code that ran in the ``earlier`` result is not run again.
    #[pyo3(signature = (ticket, state, completions, earlier = None))]
    fn push(
        &self,
        ticket: Py<PyAny>,
        state: &Bound<'_, PyState>,
        completions: Vec<AnyText>,
        earlier: Option<&Bound<'_, StepResult>>,
    ) -> PyResult<()> {
        let step = PendingStep {
            state: state.get().0.clone(),
            completions: completions.into_iter().map(|text| text.0).collect(),
            ran: earlier.map(|earlier| earlier.get().ran.clone()).unwrap_or_default(),
        };
        Ok(self.0.push(ticket, step)?)
    }

    /// A file descriptor that is readable when there is something to take, for ``loop.add_reader`` and ``select``.
    fn fileno(&self) -> RawFd {
        self.0.ready_pipe().as_raw_fd()
    }

    /// Tickets and results of the steps that have ended since the last call. In place of a result there may be a
    /// SandboxError or a ValueError.
    fn take(&self, py: Python<'_>) -> PyResult<Vec<(Py<PyAny>, Py<PyAny>)>> {
        let ended = self.0.take().into_iter();
        ended
            .map(|(ticket, result)| match result {
                Ok(step) => Ok((ticket, Py::new(py, StepResult::new(py, step)?)?.into_any())),
                Err(error) => Ok((ticket, PyErr::from(error).into_value(py).into_any())),
            })
            .collect()
    }

    /// Withdraw the step with this ticket. Returns True if it has started: it is then cancelled, and must still be
    /// taken when it has ended.
    fn withdraw(&self, ticket: &Bound<'_, PyAny>) -> bool {
        self.0.withdraw(|other| other.is(ticket))
    }

    /// Withdraw all steps, cancel those that have started, and wait for them: at most 3 s for their cells, and at most
    /// 20 s for tools that have been told to give up.
    fn close(&self, py: Python<'_>) {
        py.detach(|| {
            self.0.close();
            self.1.wait();
        });
    }
}

/// The result of one self-consistent step. The State is a separate object, because Python may keep it longer than the
/// rest.
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
    ran: CellResults<State>,
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
