//! Runs some cells in parallel on the threads of the process, and turns each one's end into an [`Observation`].

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::deadline::{self, CancelToken, CellDeadline};
use super::host::Host;
use super::process::{self, Process};
use super::report::{AbnormalEnd, Report, ReportKind};
use super::{Caller, Limits, SandboxError, State, Tools};
use crate::observation::{Observation, ObservationKind};

/// Cells that run together. Each worker takes one cell after another.
pub struct Batch {
    cells: Vec<(State, String)>,
    tools: Arc<Tools>,
    limits: Limits,
    next: AtomicUsize,
    cancel: CancelToken,
    pub deadlines: Vec<Arc<CellDeadline>>,
    results: Mutex<Results>,
    finished: Condvar,
}

struct Results {
    cells: Vec<Option<(Observation, State)>>,
    missing: usize,
    error: Option<SandboxError>,
}

impl Batch {
    /// How often the waiting thread checks for an interruption.
    const INTERRUPT_INTERVAL: Duration = Duration::from_millis(50);
    /// The maximum time that a cancelled batch waits for its cells to end.
    const MAX_CANCEL: Duration = Duration::from_secs(2);

    pub fn new(
        cells: Vec<(State, String)>,
        workers: usize,
        tools: Arc<Tools>,
        limits: Limits,
        cancel: CancelToken,
    ) -> Self {
        let (soft, hard) = (Duration::from_secs_f64(limits.seconds), Duration::from_secs_f64(limits.hard_seconds));
        let deadlines = (0..workers).map(|_| Arc::new(CellDeadline::new(soft, hard, cancel.clone()))).collect();
        let results = Results { cells: vec![None; cells.len()], missing: cells.len(), error: None };
        let (results, finished) = (Mutex::new(results), Condvar::new());
        Self { cells, tools, limits, next: AtomicUsize::new(0), cancel, deadlines, results, finished }
    }

    /// Runs cells until none are left.
    pub fn work(&self, process: &Process, worker: usize) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((state, code)) = self.cells.get(index) else { return };
            let run = || self.run_cell(process, &self.deadlines[worker], state, code);
            let result = panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
                self.deadlines[worker].end();
                let message = panic.downcast_ref::<&str>().map(ToString::to_string);
                let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
                Err(SandboxError::Panicked(message.unwrap_or_default()))
            });
            let mut results = self.lock();
            match result {
                Ok(result) => results.cells[index] = Some(result),
                Err(error) => {
                    self.next.store(self.cells.len(), Ordering::Relaxed);
                    results.error.get_or_insert(error);
                }
            }
            results.missing -= 1;
            if results.missing == 0 || results.error.is_some() {
                self.finished.notify_all();
            }
        }
    }

    /// Waits for all results.
    pub fn wait(&self, caller: &Caller<'_>) -> Result<Vec<(Observation, State)>, SandboxError> {
        let over = |results: &Results| results.missing == 0 || results.error.is_some() || self.cancel.is_cancelled();
        // With more cells than workers, the wait is longer, and the workers need the cores: do not poll then.
        if self.cells.len() <= self.deadlines.len() {
            process::poll_briefly(|| self.results.try_lock().ok().filter(|results| over(results)).map(drop));
        }
        let mut results = self.lock();
        while !over(&results) {
            let (woken, waited) =
                self.finished.wait_timeout(results, Self::INTERRUPT_INTERVAL).unwrap_or_else(PoisonError::into_inner);
            results = woken;
            if let Caller::Interruptible(interrupted) = caller
                && waited.timed_out()
            {
                drop(results); // this can take long, because Python's check needs the GIL
                if interrupted() {
                    self.cancel.cancel();
                }
                results = self.lock();
            }
        }
        if self.cancel.is_cancelled() {
            drop(results);
            self.cancel();
            return Err(SandboxError::Interrupted);
        }
        match results.error.take() {
            None => Ok(results.cells.drain(..).flatten().collect()),
            Some(error) => {
                drop(results);
                self.cancel();
                Err(error)
            }
        }
    }

    /// Waits until the running cells have ended. It does not wait for tools, or for a single operation that takes very
    /// long (such as a copy of gigabytes). Such a cell ends by itself soon after, and its result is dropped.
    fn cancel(&self) {
        self.next.store(self.cells.len(), Ordering::Relaxed);
        let started = Instant::now();
        while self.deadlines.iter().filter(|deadline| deadline.cancel()).count() > 0
            && started.elapsed() < Self::MAX_CANCEL
        {
            std::thread::sleep(deadline::RETRY);
        }
    }

    fn run_cell(
        &self,
        process: &Process,
        deadline: &Arc<CellDeadline>,
        state: &State,
        code: &str,
    ) -> Result<(Observation, State), SandboxError> {
        let started = Instant::now();
        let mut slot = process.take_slot(state)?;
        let host = Host {
            devices: state.0.devices,
            tools: self.tools.clone(),
            deadline: deadline.clone(),
            tool_call_limit: self.limits.tool_calls,
            memory_limit: self.limits.memory(),
            ..Host::idle()
        };
        let (host, outcome) = slot.run(host, code, self.limits.stdout_chars as u32);
        let (mut observation, next) = match outcome {
            Ok(report) => {
                let next = State::new(host.devices, slot.capture())?;
                process.return_slot(slot, &next);
                (reported(report, host.out_of_memory), next)
            }
            Err(end) => (self.killed(end), state.clone()),
        };
        observation.tool_calls = host.tool_calls;
        observation.seconds = started.elapsed().as_secs_f64();
        Ok((observation, next))
    }

    fn killed(&self, end: AbnormalEnd) -> Observation {
        let reason = match end {
            AbnormalEnd::Stopped => format!(
                "it ran for another {} s after the TimeoutError at {} s",
                self.limits.hard_seconds, self.limits.seconds
            ),
            AbnormalEnd::StackOverflow => "it recursed too deeply".to_string(),
            AbnormalEnd::OutOfMemory => "it ran out of memory and could not recover".into(),
            AbnormalEnd::Trap => {
                "it broke the interpreter, called a system function that the sandbox does not have, or passed more data \
                 than the host accepts"
                    .into()
            }
        };
        let error = format!("The cell was killed: {reason}. Its changes are undone.");
        let out_of_memory = end == AbnormalEnd::OutOfMemory;
        let kind = if out_of_memory { ObservationKind::OutOfMemory } else { ObservationKind::Killed };
        Observation { kind, error: Some(error), ..Observation::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Results> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reported(report: Report, out_of_memory: bool) -> Observation {
    let (final_answer, final_answer_json) =
        report.answer.map_or((None, None), |answer| (Some(answer.text), answer.json));
    let (error_type, error) =
        report.failure.map_or((None, None), |failure| (Some(failure.name), Some(failure.traceback)));
    // CPython sometimes reports SystemError where it should report MemoryError.
    let out_of_memory = out_of_memory && error_type.as_deref() == Some("SystemError");
    Observation {
        kind: match report.kind {
            ReportKind::Exception if out_of_memory => ObservationKind::OutOfMemory,
            ReportKind::Value => ObservationKind::Value,
            ReportKind::FinalAnswer => ObservationKind::FinalAnswer,
            ReportKind::Exception => ObservationKind::Exception,
            ReportKind::Timeout => ObservationKind::Timeout,
            ReportKind::OutOfMemory => ObservationKind::OutOfMemory,
            ReportKind::ToolError => ObservationKind::ToolError,
        },
        stdout: report.stdout,
        truncated: usize::try_from(report.truncated).unwrap_or(usize::MAX),
        value: report.value,
        final_answer,
        final_answer_json,
        error_type,
        error,
        ..Observation::default()
    }
}
