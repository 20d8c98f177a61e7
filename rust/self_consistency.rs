//! Self-consistent action generation (the paper's IDEA 3): parse N completions, run each from the same State, vote.
//!
//! Candidates cannot see one another, and the winner's State is kept as it came out: nothing is run twice. Identical
//! code within one step is even run once and shared, since a cell is repeatable (its clock and its randomness come
//! from the State, and tools are taken to answer alike).
//!
//! Not here: where completions come from (the models), and how a cell runs ([`Runner`], which the sandbox implements).

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::action::{Action, Parsed, parse_action};
use crate::error::{Error, Result};
use crate::observation::{Observation, ObservationKind};
use crate::vote::{Compat, Vote, vote};

/// What runs cells: each from its own State, giving the State after it.
pub trait Runner {
    type State: Clone + Send + Sync;

    /// One result per cell, in order. An error is the runner's own, never a cell's.
    fn run_many(&self, cells: Vec<(Self::State, String)>) -> Result<Vec<(Observation, Self::State)>>;
}

/// One self-consistent step: every candidate, the vote, and the State after the winner.
#[derive(Clone, Debug)]
pub struct StepResult<State> {
    pub actions: Vec<Parsed>,
    /// What each candidate did: what its code did when run, or the final answer it gave in plain text. `None` where
    /// the completion did not parse.
    pub observations: Vec<Option<Observation>>,
    pub vote: Vote,
    /// The vote's winner. When all failed: one drawn by the seed, of those that ran if any did.
    pub winner: usize,
    /// After the winner; as it was when the winner ran nothing.
    pub state: State,
}

/// Takes one step in each episode: `(state, completions)`. All candidates of all episodes run in one batch.
///
/// When all candidates of an episode failed, `seed` and its completions draw the winner, so the draw is repeatable
/// however episodes are batched (the paper draws at random; [`Compat::Reference`] takes the first, as its code does).
///
/// # Errors
///
/// [`Error::Argument`] for an episode without completions; whatever the runner raises.
pub fn self_consistent_steps<R: Runner>(
    runner: &R,
    episodes: Vec<(R::State, Vec<String>)>,
    compat: Option<Compat>,
    seed: u64,
) -> Result<Vec<StepResult<R::State>>> {
    if let Some(at) = episodes.iter().position(|(_, completions)| completions.is_empty()) {
        return Err(Error::Argument(format!("episode {at} has no completions: a step needs at least one")));
    }
    let mut cells = Vec::new();
    let mut steps = Vec::with_capacity(episodes.len());
    for (state, completions) in episodes {
        let actions: Vec<Parsed> = completions.iter().map(|completion| parse_action(completion)).collect();
        let mut cell_of: HashMap<String, usize> = HashMap::new();
        let runs = actions
            .iter()
            .map(|action| {
                let Parsed::Action(Action { code: Some(code), .. }) = action else { return None };
                Some(*cell_of.entry(code.clone()).or_insert_with(|| {
                    cells.push((state.clone(), code.clone()));
                    cells.len() - 1
                }))
            })
            .collect();
        steps.push(Step { state, draw: draw(seed, &completions), actions, runs });
    }
    let results = runner.run_many(cells)?;
    Ok(steps.into_iter().map(|step| step.finish(&results, compat)).collect())
}

struct Step<State> {
    state: State,
    draw: u64,
    actions: Vec<Parsed>,
    /// Which cell of the batch each candidate ran.
    runs: Vec<Option<usize>>,
}

impl<State: Clone> Step<State> {
    fn finish(self, results: &[(Observation, State)], compat: Option<Compat>) -> StepResult<State> {
        let observations: Vec<Option<Observation>> = self
            .actions
            .iter()
            .zip(&self.runs)
            .map(|(action, run)| match (action, run) {
                (_, Some(cell)) => Some(results[*cell].0.clone()),
                (Parsed::Action(Action { final_answer: Some(answer), .. }), None) => Some(answered(answer)),
                _ => None,
            })
            .collect();
        let vote = vote(observations.iter().map(Option::as_ref), compat);
        let winner = vote.winner.unwrap_or_else(|| {
            let ran: Vec<usize> = (0..self.runs.len()).filter(|&index| self.runs[index].is_some()).collect();
            let among = if ran.is_empty() { (0..self.runs.len()).collect() } else { ran };
            among[(self.draw % among.len() as u64) as usize]
        });
        let state = self.runs[winner].map_or(self.state, |cell| results[cell].1.clone());
        StepResult { actions: self.actions, observations, vote, winner, state }
    }
}

fn answered(answer: &str) -> Observation {
    Observation { kind: ObservationKind::FinalAnswer, final_answer: Some(answer.to_owned()), ..Observation::default() }
}

fn draw(seed: u64, completions: &[String]) -> u64 {
    let mut hash = Sha256::new_with_prefix(seed.to_le_bytes());
    for completion in completions {
        hash.update((completion.len() as u64).to_le_bytes());
        hash.update(completion);
    }
    let digest = hash.finalize();
    u64::from_le_bytes(std::array::from_fn(|index| digest[index]))
}
