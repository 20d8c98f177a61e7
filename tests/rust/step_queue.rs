//! Steps in the background, compared with the same steps one after another. tests/test_self_consistent_action.py covers
//! an event loop that waits for the ready pipe.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use agentdistill::Error;
use agentdistill::action::ActionFormat;
use agentdistill::observation::{Observation, ObservationKind};
use agentdistill::sandbox::{Limits, Sandbox, State, Tool, Tools};
use agentdistill::self_consistency::{PendingStep, Runner, StepResult, self_consistent_steps};
use agentdistill::step_queue::StepQueue;

type Ended = agentdistill::Result<StepResult<State>>;

/// Runs one cell after another.
struct Slow<'a>(&'a Sandbox);

impl Runner for Slow<'_> {
    type State = State;

    fn run_many(&self, cells: Vec<(State, String)>) -> agentdistill::Result<Vec<(Observation, State)>> {
        cells.iter().map(|(state, code)| self.0.run(state, code)).collect()
    }
}

fn sandbox(limits: Limits) -> Arc<Sandbox> {
    Arc::new(Sandbox::new(Tools::new(), limits, 0, None).unwrap())
}

fn queue(sandbox: &Arc<Sandbox>, at_once: usize) -> Arc<StepQueue<usize>> {
    Arc::new(StepQueue::new(sandbox.clone(), at_once, ActionFormat::Code, None, 0).unwrap())
}

fn step(sandbox: &Sandbox, codes: &[String]) -> PendingStep<State> {
    let completions = codes.iter().map(|code| format!("Thought: so\nCode:\n```py\n{code}\n```<end_code>")).collect();
    (sandbox.initial().clone(), completions).into()
}

fn take(queue: &StepQueue<usize>, many: usize) -> BTreeMap<usize, Ended> {
    let mut ended = BTreeMap::new();
    while ended.len() < many {
        for (ticket, result) in queue.take() {
            assert!(ended.insert(ticket, result).is_none(), "each once");
        }
        sleep(Duration::from_millis(1));
    }
    ended
}

#[test]
fn steps_are_what_they_are_one_after_the_other() {
    let sandbox = sandbox(Limits::default());
    for at_once in [1, 2, 64] {
        let queue = queue(&sandbox, at_once);
        let codes = |i: usize| -> Vec<String> { (0..i % 9 + 1).map(|j| format!("{i} // ({j} % 3)")).collect() };
        for i in 0..100 {
            queue.push(i, step(&sandbox, &codes(i))).unwrap();
        }
        for (i, result) in take(&queue, 100) {
            let result = result.unwrap();
            let steps =
                self_consistent_steps(&Slow(&sandbox), [step(&sandbox, &codes(i))], ActionFormat::Code, None, 0)
                    .unwrap();
            assert_eq!((result.winner, &result.vote), (steps[0].winner, &steps[0].vote));
            assert_eq!(result.state.to_bytes(None).unwrap(), steps[0].state.to_bytes(None).unwrap());
        }
    }
}

#[test]
fn limits_are_kept_although_nobody_waits() {
    let sandbox = sandbox(Limits { seconds: 0.3, hard_seconds: 0.2, ..Limits::default() });
    let queue = queue(&sandbox, 2);
    let stubborn = "while True:\n    try:\n        while True: pass\n    except TimeoutError: pass";
    queue.push(0, step(&sandbox, &["while True: pass".into(), stubborn.into(), "1".into()])).unwrap();
    let step = take(&queue, 1).remove(&0).unwrap().unwrap();
    let kinds: Vec<_> = step.observations.iter().flatten().map(|observation| observation.kind).collect();
    assert_eq!(kinds, [ObservationKind::Timeout, ObservationKind::Killed, ObservationKind::Value]);
}

#[test]
fn what_is_wrong_with_one_step_is_its_own_affair() {
    let sandbox = sandbox(Limits::default());
    assert!(matches!(
        StepQueue::<usize>::new(sandbox.clone(), 0, ActionFormat::Code, None, 0),
        Err(Error::Argument(_))
    ));
    let queue = queue(&sandbox, 1);
    queue.push(0, step(&sandbox, &[])).unwrap();
    queue.push(1, step(&sandbox, &["1".into()])).unwrap();
    let ended = take(&queue, 2);
    assert!(matches!(ended[&0], Err(Error::Argument(_))) && ended[&1].is_ok());
}

#[test]
fn closing_cancels_what_runs_and_forgets_what_waits() {
    let (entered, begun) = std::sync::mpsc::channel();
    let tool: Arc<dyn Tool> = Arc::new(move |_: &str| {
        entered.send(()).unwrap();
        Ok("null".to_owned())
    });
    let limits = Limits { seconds: 3600.0, hard_seconds: 3600.0, ..Limits::default() };
    let sandbox = Arc::new(Sandbox::new(Tools::from([("enter".into(), tool)]), limits, 0, None).unwrap());
    let queue = queue(&sandbox, 1);
    for i in 0..20 {
        queue.push(i, step(&sandbox, &["enter()\nwhile True: pass".into(), "2".into()])).unwrap();
    }
    begun.recv().unwrap();
    queue.close();
    let ended = queue.take();
    assert!(matches!(&ended[..], [(0, Err(Error::Sandbox(why)))] if why.contains("interrupted")), "{ended:?}");
    queue.push(20, step(&sandbox, &["1".into()])).unwrap();
    assert!(take(&queue, 1)[&20].is_ok());
}

#[test]
fn closing_does_not_wait_for_a_tool() {
    let (entered, begun) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let tool: Arc<dyn Tool> = Arc::new(move |_: &str| {
        entered.send(()).unwrap();
        let _ = released.lock().unwrap().recv();
        Ok("null".to_owned())
    });
    let sandbox = Sandbox::new(Tools::from([("stuck".into(), tool)]), Limits::default(), 0, None).unwrap();
    let sandbox = Arc::new(sandbox);
    let queue = queue(&sandbox, 1);
    queue.push(0, step(&sandbox, &["stuck()".into()])).unwrap();
    begun.recv().unwrap();
    queue.close();
    assert!(queue.take().is_empty());
    drop(release);
    assert!(take(&queue, 1)[&0].is_err());
}
