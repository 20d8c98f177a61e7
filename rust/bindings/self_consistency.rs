//! Self-consistent steps in Python.

use pyo3::prelude::*;

use super::AnyText;
use super::sandbox::{PySandbox, PyState, until_signal};
use crate::Result;
use crate::action::Parsed;
use crate::observation::Observation;
use crate::sandbox::{Sandbox, State};
use crate::self_consistency::{self, Ran, Runner, Waiting};
use crate::vote::Vote;

/// ``(state, completions, earlier)``
type Episode = (Py<PyState>, Vec<AnyText>, Option<Py<StepResult>>);

/// Parse, run and vote for a batch of episodes, ``(state, completions, earlier)`` each, in one call without the GIL.
#[pyfunction]
#[pyo3(signature = (sandbox, episodes, *, compat = None, seed = 0))]
pub fn self_consistent_steps(
    py: Python<'_>,
    sandbox: &Bound<'_, PySandbox>,
    episodes: Vec<Episode>,
    compat: Option<&str>,
    seed: u64,
) -> PyResult<Vec<StepResult>> {
    let compat = super::compat(compat)?;
    let sandbox = &sandbox.get().0;
    let episodes: Vec<Waiting<State>> = episodes
        .into_iter()
        .map(|(state, completions, earlier)| Waiting {
            state: state.get().0.clone(),
            completions: completions.into_iter().map(|text| text.0).collect(),
            ran: earlier.map(|earlier| earlier.get().ran.clone()).unwrap_or_default(),
        })
        .collect();
    let steps = until_signal(py, |interrupted| {
        self_consistency::self_consistent_steps(&Interruptible { sandbox, interrupted }, episodes, compat, seed)
    })?;
    steps.into_iter().map(|step| StepResult::new(py, step)).collect()
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

/// The sandbox, as long as Python has no signal (Ctrl-C) to handle.
struct Interruptible<'a> {
    sandbox: &'a Sandbox,
    interrupted: &'a (dyn Fn() -> bool + Sync),
}

impl Runner for Interruptible<'_> {
    type State = State;

    fn run_many(&self, cells: Vec<(State, String)>) -> Result<Vec<(Observation, State)>> {
        self.sandbox.run_many_until(cells, self.interrupted)
    }
}
