//! Self-consistent action generation (the paper's idea 3): parses N completions, runs each of them from the same State,
//! and votes.
//!
//! Candidates cannot see one another. The winner's State is kept, and nothing runs twice. Identical code within a step
//! runs only once, because cells are repeatable: their clock and randomness come from the State, and tools are assumed
//! to give the same answer to the same call.
//!
//! This module does not generate completions (models do) or run cells ([`Runner`], which the sandbox implements).

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use crate::action::{Action, ActionFormat, Parsed, parse_action};
use crate::error::{Error, Result};
use crate::observation::{Observation, ObservationKind};
use crate::vote::{Compat, Vote, vote};

/// Runs cells. Each cell starts from its own State and gives a new State.
pub trait Runner {
    type State: Clone + Send + Sync;

    /// Returns one result for each cell, in order. An error is a failure of the runner, never of a cell.
    fn run_many(&self, cells: Vec<(Self::State, String)>) -> Result<Vec<(Observation, Self::State)>>;
}

/// The result of one self-consistent step: all candidates, the vote, and the State after the winner.
#[derive(Clone, Debug)]
pub struct StepResult<State> {
    pub actions: Vec<Parsed>,
    /// What each candidate did: the observation of its code, or its final answer in plain text. `None` if the
    /// completion did not parse.
    pub observations: Vec<Option<Observation>>,
    pub vote: Vote,
    /// The index of the candidate that won the vote. If all candidates failed, the seed draws one, among those with
    /// code if there are any.
    pub winner: usize,
    /// The State after the winner, or the State before the step if the winner ran nothing.
    pub state: State,
    pub ran: CellResults<State>,
}

/// The observation of each code string of a step, and the State after it.
pub type CellResults<State> = HashMap<String, (Observation, State)>;

/// An episode that waits for its next step.
pub struct PendingStep<State> {
    pub state: State,
    pub completions: Vec<String>,
    /// The results of an earlier attempt at the same step with fewer completions. Code in it does not run again.
    pub ran: CellResults<State>,
}

impl<State> From<(State, Vec<String>)> for PendingStep<State> {
    fn from((state, completions): (State, Vec<String>)) -> Self {
        Self { state, completions, ran: HashMap::new() }
    }
}

/// Takes one step in each episode. All candidates of all episodes run in one batch.
///
/// If all candidates of an episode failed, `seed` and the episode's completions draw the winner. The draw is therefore
/// repeatable, however episodes are batched. The paper draws at random; its code picks the first candidate, and so does
/// [`Compat::Reference`].
///
/// # Errors
///
/// [`Error::Argument`] for an episode without completions, and any error of the runner.
pub fn self_consistent_steps<R: Runner>(
    runner: &R,
    episodes: impl IntoIterator<Item: Into<PendingStep<R::State>>>,
    format: ActionFormat,
    compat: Option<Compat>,
    seed: u64,
) -> Result<Vec<StepResult<R::State>>> {
    let mut steps: Vec<Step<R::State>> =
        episodes.into_iter().map(|episode| Step::parse(episode.into(), format, seed)).collect();
    if let Some(at) = steps.iter().position(|step| step.actions.is_empty()) {
        return Err(Error::Argument(format!("episode {at} has no completions: a step needs at least one")));
    }
    let mut cells = Vec::new();
    let mut of = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let mut seen: HashSet<&str> = step.ran.keys().map(String::as_str).collect();
        for code in step.actions.iter().filter_map(code).filter(|code| seen.insert(code)) {
            cells.push((step.state.clone(), code.to_owned()));
            of.push((at, code.to_owned()));
        }
    }
    for ((at, code), result) in of.into_iter().zip(runner.run_many(cells)?) {
        steps[at].ran.insert(code, result);
    }
    Ok(steps.into_iter().map(|step| step.vote(compat)).collect())
}

struct Step<State> {
    state: State,
    draw: u64,
    actions: Vec<Parsed>,
    ran: CellResults<State>,
}

impl<State: Clone> Step<State> {
    fn parse(PendingStep { state, completions, ran }: PendingStep<State>, format: ActionFormat, seed: u64) -> Self {
        let actions = completions.iter().map(|completion| parse_action(completion, format)).collect();
        Self { state, draw: draw(seed, &completions), actions, ran }
    }

    /// Votes. All code of the step must have run.
    fn vote(self, compat: Option<Compat>) -> StepResult<State> {
        let Self { state, draw, actions, ran } = self;
        let observe = |action: &Parsed| match action {
            Parsed::Action(Action { code: Some(code), .. }) => Some(ran[code].0.clone()),
            Parsed::Action(Action { final_answer: Some(answer), .. }) => Some(answered(answer)),
            _ => None,
        };
        let observations: Vec<Option<Observation>> = actions.iter().map(observe).collect();
        let vote = vote(observations.iter().map(Option::as_ref), compat);
        let winner = vote.winner.unwrap_or_else(|| {
            let with_code: Vec<usize> = (0..actions.len()).filter(|&index| code(&actions[index]).is_some()).collect();
            let among = if with_code.is_empty() { (0..actions.len()).collect() } else { with_code };
            among[(draw % among.len() as u64) as usize]
        });
        let state = code(&actions[winner]).map_or(state, |code| ran[code].1.clone());
        StepResult { actions, observations, vote, winner, state, ran }
    }
}

fn code(action: &Parsed) -> Option<&str> {
    match action {
        Parsed::Action(action) => action.code.as_deref(),
        Parsed::Failure(_) => None,
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
