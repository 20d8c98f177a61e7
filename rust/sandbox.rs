//! Runs the Python code that models write: isolated, stateful, and with its State as a value.
//!
//! # A State is a value
//!
//! Most sandboxes are processes that must be managed. Here, a [`State`] is an immutable value. Running a cell from a
//! State gives an [`Observation`] and the next State, and does not change the old one. To fork an episode, use a State
//! twice; to go back, use an older one. The N candidates of a step start from the same State in parallel and cannot see
//! one another. A State can be kept, written to disk, and resumed (`bytes.rs`).
//!
//! The guest is CPython 3.14 compiled to WASM. Between two cells, all of its state is in one linear memory, because the
//! code's globals are constant. A State is the difference between that memory and the image from which all States
//! start: about 20 kB for a few variables, stored in lines of 64 bytes (`delta.rs`). To run a cell, a worker takes an
//! idle slot, which is an instance of the guest (`guest.rs`). The worker makes the slot's memory hold the State, unless
//! it already does, calls `run` in it, and captures the new difference. Slots map the image copy-on-write and are
//! reused. A fresh instance for each cell would be ten times slower, and its page faults would prevent scaling. A slot
//! whose memory has grown serves only States of that size. A slot that trapped is never used again.
//!
//! Everything that the guest can observe comes from its State: its clock and its random bytes are computed (`host.rs`).
//! The same cells with the same seed therefore give the same observations, on any thread. The hash seed is fixed when
//! the guest is built.
//!
//! Cells run on this module's threads (`process.rs`), which have the stack that deep recursion needs. One more thread
//! is the watchdog. It raises TimeoutError in a cell that runs too long, like CPython's PyThreadState_SetAsyncExc. If
//! the cell continues regardless, the watchdog stops it by setting a word that the guest's code checks in every loop
//! and every recursion (`guest/stop_checks.rs`). A cell can overwrite that word, so the watchdog sets it again and
//! again, until a check has seen it.
//!
//! # Threat model
//!
//! A cell is hostile. It may do whatever WASM can do to its own memory, including to the interpreter and the code
//! around it; a few lines of Python suffice for that (tests/golden/attacks/memory_access.toml). It must not read or
//! write anything of the host or of another State, and it must not keep the host from making progress. Two things
//! enforce this: WASM (wasmtime checks that every access lies within the memory, and that every call has its type), and
//! the list of imports in `host.rs`. An import that is not listed kills the cell.
//!
//! A cell can use time, memory, stack and output up to [`Limits`]. It can call its tools a limited number of times,
//! with any JSON of up to 1 MiB. It can ruin its own State, and can forge anything there, including its report. An
//! Observation is therefore only a claim of the cell about itself, and is never trusted further. However, it is no
//! larger than an honest one, and the size of data that a cell passes at once is limited before the host allocates
//! memory for it. The bytes of a State are as hostile as a cell: their checksum detects damage but not malice, and they
//! get no more memory than the limits given with them.
//!
//! Not protected against: hardware side channels, and tools that do harm when they are called. (The guest's clock is
//! not a real clock, but a cell can count how far it gets until TimeoutError.) Memory is limited for each cell. The
//! memory of all States of a process is also limited; States beyond the limit are on disk (`parking.rs`).
//!
//! Differences from CPython: there are no files, sockets, threads or processes. `time.sleep` advances the clock and
//! does not wait. Warnings are silent, and stderr is stdout. `sys.maxsize` and `struct` have the integers and pointers
//! of a 32-bit platform. In a State whose memory is full, CPython does not survive a long cell, which has then run out
//! of memory; short cells run in memory that is reserved for them, so that they can free some. Besides the standard
//! library there are sympy and mpmath, and numpy if the build had it; recipes/numpy/README.md describes how it differs
//! from numpy elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use crate::Error;
use crate::observation::Observation;

mod batch;
mod bytes;
mod deadline;
mod delta;
mod engine;
mod guest;
mod host;
mod image_facts;
mod memory;
mod parking;
mod process;
mod report;
mod trap_handlers;

use batch::Batch;
pub use deadline::CancelToken;
use delta::Delta;
use guest::Guest;
use host::{Devices, Host};
use parking::ParkedDelta;
use process::Process;

/// A function that a cell can call by name.
pub trait Tool: Send + Sync {
    /// Takes JSON, `[[positional], {keyword}]`. Returns JSON, or the message of the ToolError that the cell gets.
    fn call(&self, arguments: &str) -> Result<String, String>;
}

impl<F: Fn(&str) -> Result<String, String> + Send + Sync> Tool for F {
    fn call(&self, arguments: &str) -> Result<String, String> {
        self(arguments)
    }
}

/// Tools by the names under which cells call them.
pub type Tools = BTreeMap<String, Arc<dyn Tool>>;

/// The limits of one cell.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Seconds until TimeoutError is raised in the cell. Its State survives. Time in tools does not count.
    pub seconds: f64,
    /// Seconds from then until a cell that has not ended is killed.
    pub hard_seconds: f64,
    /// MiB of memory for what cells create, without the interpreter's own memory. The range is [`Limits::MEMORY_MB`].
    pub memory_mb: usize,
    /// The maximum number of characters kept of the output, and of a value or an answer. The middle is dropped.
    pub stdout_chars: usize,
    /// The maximum number of tool calls.
    pub tool_calls: usize,
}

impl Limits {
    /// The valid memory limits. The image has 16 MiB to spare, and WASM's memory ends at 4 GiB.
    pub const MEMORY_MB: std::ops::RangeInclusive<usize> = SLACK_MB..=3840;

    /// The maximum size of the guest's memory in bytes.
    fn memory(&self) -> usize {
        Guest::IMAGE_LEN + ((self.memory_mb - SLACK_MB) << 20)
    }

    /// Checks that cells can create a State with this memory size in bytes.
    fn check_memory(&self, size: usize) -> Result<(), SandboxError> {
        if size <= self.memory() { Ok(()) } else { Err(SandboxError::TooLarge(self.memory_mb)) }
    }

    pub(crate) fn check(&self) -> crate::Result<()> {
        let invalid = |what: String| Err(Error::Argument(what));
        for (name, seconds) in [("seconds", self.seconds), ("hard_seconds", self.hard_seconds)] {
            if !(seconds > 0.0 && seconds <= 1e9) {
                return invalid(format!("Limits.{name} is {seconds}; it must be more than 0 and at most 1e9"));
            }
        }
        if !Self::MEMORY_MB.contains(&self.memory_mb) {
            let (least, most) = (Self::MEMORY_MB.start(), Self::MEMORY_MB.end());
            return invalid(format!("Limits.memory_mb is {}; it must be between {least} and {most}", self.memory_mb));
        }
        if u32::try_from(self.stdout_chars).is_err() {
            return invalid(format!("Limits.stdout_chars is {}; it must be below 2**32", self.stdout_chars));
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { seconds: 5.0, hard_seconds: 2.0, memory_mb: 256, stdout_chars: 20_000, tool_calls: 64 }
    }
}

/// The number of MiB that guest/app.py leaves free in the image.
const SLACK_MB: usize = 16;

/// A failure of the sandbox itself, never of the code that ran in it.
#[derive(Debug, thiserror::Error)]
enum SandboxError {
    #[error("the guest inside this build of agentdistill is damaged: install the package again")]
    GuestDamaged,
    #[error("the guest cannot be run on this machine: {0:#}")]
    Guest(#[from] wasmtime::Error),
    #[error("no memory for a slot of the sandbox: {0}")]
    Memory(std::io::Error),
    #[error(
        "no thread to run a cell on: {0}. The number of threads (`ulimit -u`, the cgroup's pids.max), address space \
         (`ulimit -v`) or mappings (vm.max_map_count) is used up"
    )]
    Thread(std::io::Error),
    #[error(
        "the States of this process take {} MiB of memory, and no more of them can be written to the temporary folder: \
         {source}. Set TMPDIR to a folder with room, or run fewer episodes at once",
        held >> 20
    )]
    Parking { held: usize, source: std::io::Error },
    #[error("a State that was written to the temporary folder cannot be read back: {0}")]
    Parked(std::io::Error),
    #[error("not the bytes of a State: {0}")]
    NotAState(&'static str),
    #[error("the State has more memory than Limits.memory_mb allows, which is {0}")]
    TooLarge(usize),
    #[error("the State is from another build of the guest: run its cells again with this one")]
    OtherGuest,
    #[error(
        "the bytes of a State need the base that they were made with, and this is another: give the State of the step \
         before, from a sandbox with the same tools and seed"
    )]
    OtherBase,
    #[error("interrupted while cells were running")]
    Interrupted,
    #[error("a worker of the sandbox panicked: {0}")]
    Panicked(String),
}

impl From<SandboxError> for Error {
    fn from(error: SandboxError) -> Self {
        Self::Sandbox(error.to_string())
    }
}

/// The whole interpreter after some cells: an immutable value, cheap to clone.
#[derive(Clone)]
pub struct State(Arc<Snapshot>);

struct Snapshot {
    devices: Devices,
    delta: ParkedDelta,
    /// Computed when the State is first the base of another State's bytes.
    identity: OnceLock<[u8; 32]>,
}

impl State {
    fn new(devices: Devices, delta: Arc<Delta>) -> Result<Self, SandboxError> {
        let (delta, identity) = (ParkedDelta::new(delta), OnceLock::new());
        let state = Self(Arc::new(Snapshot { devices, delta, identity }));
        Process::current()?.add_state(&state)?;
        Ok(state)
    }

    /// Returns the memory that the State takes beyond the image, in bytes. It includes memory shared with other States,
    /// and does not depend on whether the State is parked.
    pub fn nbytes(&self) -> usize {
        size_of::<Snapshot>() + self.0.delta.nbytes()
    }

    fn same(&self, other: &Weak<Snapshot>) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.0), other.as_ptr())
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("nbytes", &self.nbytes()).finish_non_exhaustive()
    }
}

/// Runs cells. It is thread-safe: any number of threads may run cells at once, each on its own worker.
pub struct Sandbox {
    tools: Arc<Tools>,
    limits: Limits,
    threads: usize,
    initial: State,
}

impl Sandbox {
    /// Names of the packages that cells can import in this build, besides Python's standard library.
    pub const PACKAGES: &[&str] = Guest::PACKAGES;

    /// Creates a sandbox. `seed` determines all randomness in the cells. `threads` is the number of cells of
    /// [`Sandbox::run_many`] that run at once; `None` means one for each core. The first Sandbox of a process loads the
    /// guest, which takes about 100 ms.
    pub fn new(tools: Tools, limits: Limits, seed: u64, threads: Option<usize>) -> crate::Result<Self> {
        limits.check()?;
        if threads == Some(0) {
            return Err(Error::Argument("threads is 0; at least one is needed".into()));
        }
        for name in tools.keys() {
            let mut chars = name.chars();
            let starts_well = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
            if !starts_well || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') {
                return Err(Error::Argument(format!("{name:?} cannot be a tool's name in Python")));
            }
            if name == "final_answer" {
                return Err(Error::Argument("final_answer is built in: give the tool another name".into()));
            }
        }
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let tools = Arc::new(tools);
        let initial = first_state(&tools, seed)?;
        Ok(Self { tools, limits, threads, initial })
    }

    /// Returns the State before the first cell.
    pub fn initial(&self) -> &State {
        &self.initial
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Runs one cell. Returns its observation and the State after it.
    pub fn run(&self, state: &State, code: &str) -> crate::Result<(Observation, State)> {
        let mut results = self.run_many(vec![(state.clone(), code.to_string())], Caller::Waiting)?;
        Ok(results.pop().expect("a result for the cell"))
    }

    /// Runs each cell from its own State, in parallel.
    pub fn run_many(
        &self,
        cells: Vec<(State, String)>,
        caller: Caller<'_>,
    ) -> crate::Result<Vec<(Observation, State)>> {
        if cells.is_empty() {
            return Ok(Vec::new());
        }
        for (state, _) in &cells {
            self.limits.check_memory(state.0.delta.size())?;
        }
        let process = Process::current()?;
        let workers = self.threads.min(cells.len());
        let (here, cancel) = match caller {
            Caller::CellThread(_, cancel) => (true, cancel.clone()),
            Caller::Waiting | Caller::Interruptible(_) => (false, CancelToken::default()),
        };
        let batch = Arc::new(Batch::new(cells, workers, self.tools.clone(), self.limits.clone(), cancel));
        process.watch(&batch.deadlines)?;
        for worker in usize::from(here)..workers {
            let working = batch.clone();
            match process.spawn(Box::new(move || working.work(process, worker))) {
                Err(error) if worker == 0 => return Err(error.into()),
                Err(_) => break, // the workers already running take its cells
                Ok(()) => {}
            }
        }
        if here {
            batch.work(process, 0);
        }
        Ok(batch.wait(&caller)?)
    }
}

/// The caller of [`Sandbox::run_many`], and what its thread does until the cells have ended.
#[derive(Clone, Copy)]
pub enum Caller<'a> {
    /// The thread waits.
    Waiting,
    /// The thread calls this function every 50 ms. When it returns true, running cells are killed and the call fails,
    /// without waiting for a tool that a cell is in.
    Interruptible(&'a dyn Fn() -> bool),
    /// The thread runs cells itself, because it has the necessary stack. If the token cancels the cells, the call
    /// fails.
    CellThread(&'a CellThread, &'a CancelToken),
}

/// Proof that the current thread has a stack on which cells can run.
pub struct CellThread(());

impl CellThread {
    /// Runs `job` on such a thread, without waiting for it.
    pub fn spawn(job: impl FnOnce(&Self) + Send + 'static) -> crate::Result<()> {
        Ok(Process::current()?.spawn(Box::new(move || job(&Self(()))))?)
    }
}

fn first_state(tools: &Arc<Tools>, seed: u64) -> Result<State, SandboxError> {
    let process = Process::current()?;
    let (tools, names) = (tools.clone(), tools.keys().cloned().collect());
    let (sender, receiver) = std::sync::mpsc::channel();
    process.spawn(Box::new(move || {
        let made = process.guest.slot(Guest::IMAGE_LEN).and_then(|mut slot| {
            let host = Host { devices: Devices { seed, ..Devices::default() }, tools, ..Host::idle() };
            let (host, outcome) = slot.set_up(host, seed, names);
            outcome.map_err(|_| SandboxError::GuestDamaged)?;
            let state = State::new(host.devices, slot.capture())?;
            process.return_slot(slot, &state);
            Ok(state)
        });
        let _ = sender.send(made);
    }))?;
    receiver.recv().unwrap_or_else(|_| Err(SandboxError::Panicked("while the first State was made".into())))
}
