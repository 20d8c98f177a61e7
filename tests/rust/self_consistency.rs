//! The combined step, on a runner with trivial cells: a State is the list of cells that led to it.

use std::cell::RefCell;

use agentdistill::action::ActionFormat;
use agentdistill::action::Parsed;
use agentdistill::observation::{Observation, ObservationKind};
use agentdistill::self_consistency::{PendingStep, Runner, StepResult, self_consistent_steps};
use agentdistill::vote::Compat;
use agentdistill::{Error, Result};

/// A runner whose cells print their own code. The cell `raise` raises an exception.
#[derive(Default)]
struct Echo {
    ran: RefCell<Vec<(Vec<String>, String)>>,
    batches: RefCell<usize>,
}

impl Runner for Echo {
    type State = Vec<String>;

    fn run_many(&self, cells: Vec<(Vec<String>, String)>) -> Result<Vec<(Observation, Vec<String>)>> {
        *self.batches.borrow_mut() += 1;
        self.ran.borrow_mut().extend(cells.clone());
        let run = |(mut state, code): (Vec<String>, String)| {
            let kind = if code == "raise" { ObservationKind::Exception } else { ObservationKind::Value };
            state.push(code.clone());
            (Observation { kind, stdout: code, ..Observation::default() }, state)
        };
        Ok(cells.into_iter().map(run).collect())
    }
}

fn code(code: &str) -> String {
    format!("Thought: so\nCode:\n```py\n{code}\n```<end_code>")
}

fn step(completions: &[String], compat: Option<Compat>, seed: u64) -> StepResult<Vec<String>> {
    let episode = (vec!["before".to_owned()], completions.to_vec());
    self_consistent_steps(&Echo::default(), vec![episode], ActionFormat::Code, compat, seed).unwrap().remove(0)
}

#[test]
fn a_second_look_runs_only_what_is_new() {
    let echo = Echo::default();
    let completions = vec![code("a"), code("b"), code("b"), code("c")];
    let first = self_consistent_steps(&echo, [(vec![], completions[..2].to_vec())], ActionFormat::Code, None, 0)
        .unwrap()
        .remove(0);
    let again = PendingStep { state: vec![], completions: completions.clone(), ran: first.ran };
    let second = self_consistent_steps(&echo, [again], ActionFormat::Code, None, 0).unwrap().remove(0);
    assert_eq!(echo.ran.borrow().len(), 3, "a, b, c, each once");
    let at_once = self_consistent_steps(&Echo::default(), [(vec![], completions)], ActionFormat::Code, None, 0)
        .unwrap()
        .remove(0);
    assert_eq!((second.winner, &second.vote, &second.state), (at_once.winner, &at_once.vote, &at_once.state));
    assert_eq!(second.observations, at_once.observations);
}

#[test]
fn the_majority_goes_on_and_nothing_runs_twice() {
    let echo = Echo::default();
    let first = vec![code("a"), code("b"), "no action".to_owned(), code("b"), code("raise"), code("b ")];
    let second = vec![code("a"), "Final answer: a".to_owned(), "\\boxed{a}".to_owned()];
    let steps =
        self_consistent_steps(&echo, vec![(vec![], first), (vec!["x".into()], second)], ActionFormat::Code, None, 0)
            .unwrap();

    assert_eq!(*echo.batches.borrow(), 1, "all candidates of all episodes in one batch");
    let ran: Vec<String> = echo.ran.borrow().iter().map(|(state, code)| format!("{}|{code}", state.concat())).collect();
    assert_eq!(ran, ["|a", "|b", "|raise", "x|a"], "identical code is run once in a step, and never again");

    let [first, second] = steps.try_into().unwrap();
    assert_eq!((first.winner, first.vote.winner, first.state), (1, Some(1), vec!["b".to_owned()]));
    assert_eq!(first.vote.dropped, [2, 4]);
    assert_eq!(first.vote.counts, [("b".to_owned(), 3), ("a".to_owned(), 1)]);
    assert!(matches!(first.actions[2], Parsed::Failure(_)) && first.observations[2].is_none());
    assert_eq!(first.observations[5].as_ref().unwrap().stdout, "b");

    assert_eq!(
        (second.winner, second.state),
        (1, vec!["x".to_owned()]),
        "a plain answer is voted on, and runs nothing"
    );
    assert_eq!(second.observations[2].as_ref().unwrap().final_answer.as_deref(), Some("a"));
}

#[test]
fn when_all_fail_one_is_drawn() {
    let ran = [code("raise"), "no".to_owned(), code("raise"), "no".to_owned(), code("raise")];
    let draws: Vec<usize> = (0..40).map(|seed| step(&ran, None, seed).winner).collect();
    assert!([0, 2, 4].iter().all(|winner| draws.contains(winner)), "any of those that ran: {draws:?}");
    assert!(![1, 3].iter().any(|winner| draws.contains(winner)), "none that did not parse: {draws:?}");
    assert_eq!(draws, (0..40).map(|seed| step(&ran, None, seed).winner).collect::<Vec<_>>(), "the seed decides");
    assert_eq!(step(&ran, None, 0).state, ["before", "raise"], "the State after the one drawn");

    let unread = ["no".to_owned(), "never".to_owned()];
    let draws: Vec<usize> = (0..40).map(|seed| step(&unread, None, seed).winner).collect();
    assert!(draws.contains(&0) && draws.contains(&1));
    assert_eq!(step(&unread, None, 0).state, ["before"]);

    assert_eq!(
        step(&["no".to_owned(), code("raise")], Some(Compat::Reference), 3).winner,
        0,
        "the reference takes the first"
    );
}

#[test]
fn a_step_needs_a_completion() {
    let error =
        self_consistent_steps(&Echo::default(), vec![(vec![], vec![])], ActionFormat::Code, None, 0).unwrap_err();
    assert!(matches!(error, Error::Argument(_)), "{error}");
    assert!(
        self_consistent_steps(&Echo::default(), Vec::<PendingStep<_>>::new(), ActionFormat::Code, None, 0)
            .unwrap()
            .is_empty()
    );
}
