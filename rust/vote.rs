//! Self-consistency's vote: a majority over what the candidates of a step *did* (the paper's idea 3, section on SAG).
//!
//! - **What is compared**: the final answer, if the cell gave one. Otherwise, the value of the cell's last expression
//!   and its printed output.
//! - **Canonical form**: numbers are compared by exact value, without rounding (`1`, `1.0`, `"1"` and `1e0` are equal).
//!   A run of white space counts as one space, and empty lines are dropped. Dictionaries are compared by key, sets are
//!   sorted, and tuples equal lists. Case is kept. A printed line that is a Python literal as a whole is parsed as one.
//! - **Dropped candidates**: those that did not parse, raised an exception, exceeded the limit of time or memory, or
//!   were killed.
//! - **Ties** go to the outcome whose first candidate has the lowest index. All candidates are sampled alike, so this
//!   is a fair draw.
//! - **If all candidates failed**, there is no winner.
//!
//! [`Compat::Reference`] votes as the paper's code does, so that differences in scores can be explained. It compares
//! the printed output only, and verbatim (so `final_answer(41)` and `final_answer(42)` look the same). If all
//! candidates failed, it picks the first one.

use std::collections::HashMap;
use std::fmt;

use crate::observation::Observation;
use literal::Literal;

/// The rules to vote by, where they differ from the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compat {
    /// The paper's published code.
    Reference,
}

/// The result of a vote.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, module = "agentdistill._core"))]
pub struct Vote {
    /// The first candidate with the most frequent outcome; `None` if there is no candidate to choose.
    pub winner: Option<usize>,
    /// Each outcome in canonical form with its votes, most votes first. Ties are in the order of their first
    /// candidates.
    pub counts: Vec<(String, usize)>,
    /// Indices of the candidates that failed, in order.
    pub dropped: Vec<usize>,
    /// The winner's votes divided by the number of candidates that were not dropped; 0 if all were dropped.
    pub agreement: f64,
}

/// Votes on the candidates of a step. `None` stands for a candidate that ran nothing.
pub fn vote<'a>(observations: impl IntoIterator<Item = Option<&'a Observation>>, compat: Option<Compat>) -> Vote {
    let mut dropped = Vec::new();
    let mut of: HashMap<Outcome, usize> = HashMap::new();
    let mut outcomes: Vec<(Outcome, usize, usize)> = Vec::new(); // outcome, its first candidate, votes
    let mut candidates = 0;
    for (index, observation) in observations.into_iter().enumerate() {
        candidates += 1;
        let Some(observation) = observation.filter(|observation| observation.kind.succeeded()) else {
            dropped.push(index);
            continue;
        };
        let outcome = match compat {
            None => Outcome::canonical(observation),
            Some(Compat::Reference) => Outcome::Ran { stdout: observation.stdout.clone(), value: None },
        };
        let at = *of.entry(outcome.clone()).or_insert(outcomes.len());
        match outcomes.get_mut(at) {
            Some((_, _, votes)) => *votes += 1,
            None => outcomes.push((outcome, index, 1)),
        }
    }
    outcomes.sort_by_key(|&(_, _, votes)| std::cmp::Reverse(votes)); // the sort is stable, so ties keep their order
    let best = outcomes.first();
    let fallback = (compat == Some(Compat::Reference) && candidates > 0).then_some(0);
    Vote {
        winner: best.map(|&(_, first, _)| first).or(fallback),
        agreement: best.map_or(0.0, |&(_, _, votes)| votes as f64 / (candidates - dropped.len()) as f64),
        counts: outcomes.iter().map(|(outcome, _, votes)| (outcome.to_string(), *votes)).collect(),
        dropped,
    }
}

/// A candidate's outcome in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Answered(String),
    Ran { stdout: String, value: Option<String> },
}

impl Outcome {
    fn canonical(observation: &Observation) -> Self {
        match &observation.final_answer {
            // The answer as text, because this text becomes the episode's answer. A cell can report any JSON next to
            // it.
            Some(answer) => Self::Answered(canonical_text(answer)),
            None => Self::Ran {
                stdout: canonical_text(&observation.stdout),
                value: observation.value.as_deref().map(canonical_text),
            },
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(answer) => write!(f, "final_answer({answer})"),
            Self::Ran { stdout, value: None } => f.write_str(stdout),
            Self::Ran { stdout, value: Some(value) } if stdout.is_empty() => write!(f, "=> {value}"),
            Self::Ran { stdout, value: Some(value) } => write!(f, "{stdout}\n=> {value}"),
        }
    }
}

fn canonical_text(text: &str) -> String {
    let line = |line: &str| match Literal::parse(line) {
        Some(literal) => literal.to_string(),
        None => literal::collapse(line),
    };
    match Literal::parse(text) {
        Some(literal) => literal.to_string(),
        None => text.lines().filter(|text| !text.trim().is_empty()).map(line).collect::<Vec<_>>().join("\n"),
    }
}

mod literal;
