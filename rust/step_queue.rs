//! Runs the steps of many episodes in the background, so that no Python thread waits for a cell.
//!
//! A caller [pushes](StepQueue::push) a step with a ticket. Steps start in the order of arrival, up to a maximum at
//! once, and run on the threads that run cells. When steps have ended, a byte becomes readable from
//! [`StepQueue::ready_pipe`], which an event loop can wait for. [`StepQueue::take`] then returns the results. A step that is
//! no longer needed can be [withdrawn](StepQueue::withdraw).
//!
//! This module does not define a step (`self_consistency.rs`) and has no event loop (Python's is used).

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::action::ActionFormat;
use crate::error::{Error, Result};
use crate::observation::Observation;
use crate::sandbox::{Caller, CancelToken, CellThread, Sandbox, State};
use crate::self_consistency::{PendingStep, Runner, StepResult, self_consistent_steps};
use crate::vote::Compat;

/// A queue of steps, each with a ticket `T`.
pub struct StepQueue<T> {
    sandbox: Arc<Sandbox>,
    format: ActionFormat,
    compat: Option<Compat>,
    seed: u64,
    at_once: usize,
    queue: Mutex<Queue<T>>,
    idle: Condvar,
    ready_pipe: (PipeReader, PipeWriter),
}

struct Queue<T> {
    waiting: VecDeque<(T, PendingStep<State>)>,
    /// Steps that have started, each with the token that cancels it.
    running: Vec<(T, CancelToken)>,
    /// The number of threads that take steps.
    threads: usize,
    ended: Vec<(T, Result<StepResult<State>>)>,
}

impl<T: Send + 'static> StepQueue<T> {
    /// Creates a queue that runs at most `at_once` steps at once. `format`, `compat` and `seed` are those of
    /// [`self_consistent_steps`].
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if `at_once` is 0, and [`Error::Sandbox`] if the process cannot open more files.
    pub fn new(
        sandbox: Arc<Sandbox>,
        at_once: usize,
        format: ActionFormat,
        compat: Option<Compat>,
        seed: u64,
    ) -> Result<Self> {
        if at_once == 0 {
            return Err(Error::Argument("at_once is 0; at least one is needed".into()));
        }
        let ready_pipe =
            io::pipe().map_err(|error| Error::Sandbox(format!("no pipe for a queue of steps: {error}")))?;
        let queue = Queue { waiting: VecDeque::new(), running: Vec::new(), threads: 0, ended: Vec::new() };
        Ok(Self { sandbox, format, compat, seed, at_once, queue: Mutex::new(queue), idle: Condvar::new(), ready_pipe })
    }

    /// Returns the pipe from which a byte can be read when there is something to [take](Self::take).
    pub fn ready_pipe(&self) -> &PipeReader {
        &self.ready_pipe.0
    }

    /// Adds a step to the queue.
    ///
    /// # Errors
    ///
    /// [`Error::Sandbox`] if no thread can be started for it.
    pub fn push(self: &Arc<Self>, ticket: T, step: PendingStep<State>) -> Result<()> {
        let mut queue = self.lock();
        if queue.threads < self.at_once {
            let taking = self.clone();
            match CellThread::spawn(move |here| taking.take_steps(here)) {
                Ok(()) => queue.threads += 1,
                Err(error) if queue.threads == 0 => return Err(error),
                Err(_) => {} // the threads already running take this step
            }
        }
        queue.waiting.push_back((ticket, step));
        Ok(())
    }

    /// Returns the results that have arrived since the last call, in the order in which the steps ended.
    pub fn take(&self) -> Vec<(T, Result<StepResult<State>>)> {
        let mut queue = self.lock();
        if !queue.ended.is_empty() {
            let _ = (&self.ready_pipe.0).read_exact(&mut [0]); // one byte announces all of these
        }
        std::mem::take(&mut queue.ended)
    }

    /// Removes a step that has not started, or cancels one that has. A cancelled step ends in an error as soon as its
    /// cells have ended; a cell that is in a tool ends when the tool returns. Returns whether the step had started.
    pub fn withdraw(&self, is_it: impl Fn(&T) -> bool) -> bool {
        let mut queue = self.lock();
        let waiting = queue.waiting.iter().position(|(ticket, _)| is_it(ticket));
        let forgotten = waiting.and_then(|at| queue.waiting.remove(at));
        let running = queue.running.iter().find(|(ticket, _)| is_it(ticket));
        let has_begun = running.inspect(|(_, cancel)| cancel.cancel()).is_some();
        drop(queue);
        drop(forgotten);
        has_begun
    }

    /// The maximum time that [`StepQueue::close`] waits.
    const MAX_CLOSE: Duration = Duration::from_secs(3);

    /// Removes the steps that have not started, and cancels those that have. Waits for the latter for a limited time,
    /// because one may be in a tool that does not return.
    pub fn close(&self) {
        let mut queue = self.lock();
        let forgotten = std::mem::take(&mut queue.waiting);
        queue.running.iter().for_each(|(_, cancel)| cancel.cancel());
        let steps_run = |queue: &mut Queue<T>| queue.threads > 0;
        let waited = self.idle.wait_timeout_while(queue, Self::MAX_CLOSE, steps_run);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        drop(forgotten);
    }

    fn take_steps(&self, here: &CellThread) {
        let mut queue = self.lock();
        while let Some((ticket, step)) = queue.waiting.pop_front() {
            let cancel = CancelToken::default();
            queue.running.push((ticket, cancel.clone()));
            drop(queue);
            let runner = OnCellThread { sandbox: &self.sandbox, here, cancel: cancel.clone() };
            let take = || self_consistent_steps(&runner, [step], self.format, self.compat, self.seed);
            let result = panic::catch_unwind(AssertUnwindSafe(take))
                .unwrap_or_else(|_| Err(Error::Sandbox("a step of an episode panicked".into())));
            queue = self.lock();
            let at = queue.running.iter().position(|(_, other)| other.is_same(&cancel)).expect("it runs");
            let (ticket, _) = queue.running.swap_remove(at);
            if queue.ended.is_empty() {
                let _ = (&self.ready_pipe.1).write_all(&[0]);
            }
            queue.ended.push((ticket, result.map(|mut steps| steps.pop().expect("one step"))));
        }
        queue.threads -= 1;
        self.idle.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs cells in the sandbox, on a thread that can run cells itself.
struct OnCellThread<'a> {
    sandbox: &'a Sandbox,
    here: &'a CellThread,
    cancel: CancelToken,
}

impl Runner for OnCellThread<'_> {
    type State = State;

    fn run_many(&self, cells: Vec<(State, String)>) -> Result<Vec<(Observation, State)>> {
        self.sandbox.run_many(cells, Caller::CellThread(self.here, &self.cancel))
    }
}
