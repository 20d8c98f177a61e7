//! Steps of many episodes, taken in the background: nobody waits for a cell, and no thread of Python is needed.
//!
//! Who wants a step taken [pushes](StepQueue::push) it with a ticket. Steps are taken first come, first served, so many
//! at once, on the threads that cells run on. When some have ended, a byte can be read from [`StepQueue::bell`], as an
//! event loop waits for; [`StepQueue::take`] then gives them. A step that nobody wants any more is
//! [withdrawn](StepQueue::withdraw).
//!
//! Not here: what a step is (self_consistency.rs), and the event loop (Python's).

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::action::ActionFormat;
use crate::error::{Error, Result};
use crate::observation::Observation;
use crate::sandbox::{Caller, CancelToken, CellThread, Sandbox, State};
use crate::self_consistency::{Runner, StepResult, Waiting, self_consistent_steps};
use crate::vote::Compat;

/// Takes steps, each with a ticket `T`, and gives their results.
pub struct StepQueue<T> {
    sandbox: Arc<Sandbox>,
    format: ActionFormat,
    compat: Option<Compat>,
    seed: u64,
    at_once: usize,
    queue: Mutex<Queue<T>>,
    idle: Condvar,
    bell: (PipeReader, PipeWriter),
}

struct Queue<T> {
    waiting: VecDeque<(T, Waiting<State>)>,
    /// Steps that have begun, each with what cancels it.
    running: Vec<(T, CancelToken)>,
    /// Threads that take steps.
    threads: usize,
    ended: Vec<(T, Result<StepResult<State>>)>,
}

impl<T: Send + 'static> StepQueue<T> {
    /// `at_once`: steps under way at once. `format`, `compat` and `seed`: as of [`self_consistent_steps`].
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for none at once; [`Error::Sandbox`] when the process can open no more files.
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
        let bell = io::pipe().map_err(|error| Error::Sandbox(format!("no pipe for a queue of steps: {error}")))?;
        let queue = Queue { waiting: VecDeque::new(), running: Vec::new(), threads: 0, ended: Vec::new() };
        Ok(Self { sandbox, format, compat, seed, at_once, queue: Mutex::new(queue), idle: Condvar::new(), bell })
    }

    /// Where a byte can be read when there is something to [take](Self::take).
    pub fn bell(&self) -> &PipeReader {
        &self.bell.0
    }

    /// Has a step taken.
    ///
    /// # Errors
    ///
    /// [`Error::Sandbox`] when there is no thread for it.
    pub fn push(self: &Arc<Self>, ticket: T, step: Waiting<State>) -> Result<()> {
        let mut queue = self.lock();
        if queue.threads < self.at_once {
            let taking = self.clone();
            match CellThread::spawn(move |here| taking.take_steps(here)) {
                Ok(()) => queue.threads += 1,
                Err(error) if queue.threads == 0 => return Err(error),
                Err(_) => {} // the others do it
            }
        }
        queue.waiting.push_back((ticket, step));
        Ok(())
    }

    /// What has ended, in the order in which it did, each once.
    pub fn take(&self) -> Vec<(T, Result<StepResult<State>>)> {
        let mut queue = self.lock();
        if !queue.ended.is_empty() {
            let _ = (&self.bell.0).read_exact(&mut [0]); // rung once for all of these
        }
        std::mem::take(&mut queue.ended)
    }

    /// Forgets a step that has not begun. One that has is cancelled, and ends in an error when its cells have ended, for a
    /// cell in a tool when that returns: then this is true.
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

    /// How long [`StepQueue::close`] waits.
    const MAX_CLOSE: Duration = Duration::from_secs(3);

    /// Forgets the steps that have not begun, and cancels those that have. Waits for these, but not long: one may be in a
    /// tool that does not return.
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
                let _ = (&self.bell.1).write_all(&[0]);
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

/// The sandbox, on a thread that can run cells itself.
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
