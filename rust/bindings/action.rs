//! Actions and votes in Python.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::{AnyText, any_text, field, spelling, without_gil};
use crate::action::{Action, ActionFormat, ParseFailure, ParseFailureKind, Parsed, SpanKind};
use crate::observation::Observation;
use crate::vote::Vote;

/// Parse a completion. Total: any string gives an Action or a ParseFailure. A tool call becomes the code that makes it.
#[pyfunction]
#[pyo3(signature = (completion, format = ActionFormat::Code), text_signature = "(completion, format='code')")]
pub fn parse_action(py: Python<'_>, completion: &Bound<'_, PyString>, format: ActionFormat) -> PyResult<Parsed> {
    const LONG: usize = 1 << 14; // bytes; a shorter text is parsed faster than the GIL is released and taken again
    let completion = any_text(completion)?;
    let parse = || crate::action::parse_action(&completion, format);
    if completion.len() < LONG { Ok(parse()) } else { without_gil(py, parse) }
}

/// Majority vote over the candidates' outcomes; failed candidates have no vote. ``compat="reference"`` votes as the
/// paper's code does.
#[pyfunction]
#[pyo3(signature = (observations, *, compat = None))]
pub fn vote(py: Python<'_>, observations: Vec<Candidate>, compat: Option<&str>) -> PyResult<Vote> {
    let compat = super::compat(compat)?;
    without_gil(py, || crate::vote::vote(observations.iter().map(Candidate::observation), compat))
}

/// A candidate of a vote: the observation of its code, or the failure to parse it.
#[derive(FromPyObject)]
pub enum Candidate {
    Ran(Py<Observation>),
    #[allow(dead_code)] // only the variant matters, not its content
    Failed(Py<ParseFailure>),
}

impl Candidate {
    fn observation(&self) -> Option<&Observation> {
        match self {
            Self::Ran(observation) => Some(observation.get()),
            Self::Failed(_) => None,
        }
    }
}

#[pymethods]
impl Action {
    #[new]
    #[pyo3(signature = (thought, code = None, final_answer = None, spans = vec![], format = ActionFormat::Code),
        text_signature = "(thought, code=None, final_answer=None, spans=(), format='code')")]
    fn py_new(
        thought: AnyText,
        code: Option<AnyText>,
        final_answer: Option<AnyText>,
        spans: Vec<(SpanKind, usize, usize)>,
        format: ActionFormat,
    ) -> Self {
        let [code, final_answer] = [code, final_answer].map(|text| text.map(String::from));
        Self { thought: thought.into(), code, final_answer, spans, format }
    }

    fn __repr__(&self) -> String {
        let rest = field("code", self.code.as_deref()) + &field("final_answer", self.final_answer.as_deref());
        format!("Action({}{rest})", super::short(&self.thought))
    }
}

#[pymethods]
impl ParseFailure {
    #[new]
    fn py_new(kind: ParseFailureKind, message: AnyText) -> Self {
        Self { kind, message: message.into() }
    }

    fn __repr__(&self) -> String {
        format!("ParseFailure({:?}{})", spelling(&self.kind), field("message", Some(&self.message)))
    }
}

#[pymethods]
impl Vote {
    fn __repr__(&self) -> String {
        let winner = self.winner.map_or("None".to_owned(), |winner| winner.to_string());
        format!("Vote(winner={winner}, agreement={:.2}, dropped={:?})", self.agreement, self.dropped)
    }
}
