//! Self-consistency's vote: the majority over what the candidates of a step *did* (the paper's IDEA 3, section on
//! SAG).
//!
//! **What is compared.** The final answer, if the cell gave one; else the value of its last expression and what it
//! printed.
//! **Canonical form.** Numbers by value (`1`, `1.0`, `"1"` and `1e0` are one, exactly: no rounding), runs of white
//! space as one blank, empty lines dropped, dictionaries by key, sets sorted, tuples as lists; case is kept. Each
//! printed line that is a Python literal as a whole is read as one.
//! **Dropped.** Candidates that did not parse, raised, ran out of time or memory, or were killed.
//! **Ties** go to the outcome whose first candidate came first: candidates are drawn alike, so the first is a fair
//! draw.
//! **All failed:** there is no winner.
//!
//! [`Compat::Reference`] votes as the paper's code does, so that differences in scores can be explained: over the
//! printed output alone, as it is (so `final_answer(41)` and `final_answer(42)` look the same), and the first
//! candidate when all fail.

use std::collections::HashMap;
use std::fmt;

use crate::observation::Observation;
use literal::Literal;

/// Whose rules to vote by, other than ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compat {
    /// The paper's published code.
    Reference,
}

/// The result of a vote.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, module = "agentdistill._core"))]
pub struct Vote {
    /// The first candidate that did what most did; `None` when there was none to choose.
    pub winner: Option<usize>,
    /// Canonical outcome and its votes, most first; of equals, the earlier first.
    pub counts: Vec<(String, usize)>,
    /// Candidates that failed, in order.
    pub dropped: Vec<usize>,
    /// The winner's votes by the number of candidates not dropped; 0 when all were.
    pub agreement: f64,
}

/// Votes; `None` stands for a candidate of which nothing was run.
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
    outcomes.sort_by_key(|&(_, _, votes)| std::cmp::Reverse(votes)); // stable: the earlier first
    let best = outcomes.first();
    let fallback = (compat == Some(Compat::Reference) && candidates > 0).then_some(0);
    Vote {
        winner: best.map(|&(_, first, _)| first).or(fallback),
        agreement: best.map_or(0.0, |&(_, _, votes)| votes as f64 / (candidates - dropped.len()) as f64),
        counts: outcomes.iter().map(|(outcome, _, votes)| (outcome.to_string(), *votes)).collect(),
        dropped,
    }
}

/// What a candidate did, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Answered(String),
    Ran { stdout: String, value: Option<String> },
}

impl Outcome {
    fn canonical(observation: &Observation) -> Self {
        match &observation.final_answer {
            // As text, which is what becomes the episode's answer. A cell can report any JSON beside it.
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
