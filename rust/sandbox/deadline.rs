//! Decides when a cell is out of time, and ends it.
//!
//! A [`CellDeadline`] enforces the time limits of one worker's cells, one after another. The watchdog (`process.rs`)
//! checks it regularly. It first makes the interpreter raise TimeoutError in the cell, as CPython's
//! PyThreadState_SetAsyncExc would. A cell that continues regardless is stopped by a word of its memory that its code
//! checks all the time (`guest/stop_checks.rs`). Time in tools does not count.
//!
//! Both actions write to the guest's memory from another thread. While the host reads or writes that memory (it copies
//! a tool's arguments out and a result in), no other thread may access it. [`CellDeadline::enters_guest`] and
//! [`CellDeadline::leaves_guest`] track who owns the memory. A write that is not possible at the moment is tried again
//! after [`RETRY`]. A cell that is to be stopped cannot return from the host into the guest.

use std::hint;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::engine::STOP_WORD;
use super::image_facts::{ASYNC_EXCEPTION, EVAL_BREAKER, IN_CELL, TIMEOUT_ERROR};
use super::memory::Mapping;
use super::trap_handlers;

/// The interval between attempts to stop a cell. A cell that can write anywhere in its memory may undo a stop before
/// any code has checked the word. Each attempt has a good chance of success, and attempts continue until the cell has
/// ended.
pub const RETRY: Duration = Duration::from_micros(100);

/// The time limits of a worker's cells, one after another.
#[derive(Default)]
pub struct CellDeadline {
    seconds: Duration,
    hard_seconds: Duration,
    cancel: CancelToken,
    running: Mutex<Running>,
    /// The owner of the guest's memory: HOST, GUEST or WATCHDOG.
    owner: AtomicU8,
    /// Whether the cell is to be stopped.
    stop: AtomicBool,
}

const HOST: u8 = 0;
const GUEST: u8 = 1;
const WATCHDOG: u8 = 2;

/// Cancels cells from any thread: those that are running and those that have not started.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Cancels the cells. The watchdog stops running ones within 50 ms.
    pub fn cancel(&self) {
        self.0.store(true, SeqCst);
    }

    /// Returns whether both tokens cancel the same cells.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(SeqCst)
    }
}

/// How a cell was interrupted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    None,
    TimeoutError,
    Stop,
}

#[derive(Default)]
struct Running {
    mapping: Option<Arc<Mapping>>,
    /// The time of the next interruption: TimeoutError first, then a stop.
    deadline: Option<Instant>,
    timed_out: bool,
    paused: Option<Instant>,
}

impl CellDeadline {
    pub fn new(seconds: Duration, hard_seconds: Duration, cancel: CancelToken) -> Self {
        Self { seconds, hard_seconds, cancel, ..Self::default() }
    }

    /// Returns the earliest time at which a cell that starts at `now` or later can be out of time.
    pub fn earliest(&self, now: Instant) -> Instant {
        now + self.seconds
    }

    /// Interrupts the cell if it is out of time or cancelled. Returns the time of the next check.
    pub fn check(&self, now: Instant) -> Option<Instant> {
        let mut running = self.lock();
        let (mapping, deadline) = (running.mapping.clone()?, running.deadline?);
        if let Some(since) = running.paused {
            // The cell may return from the tool at any moment, with this much time left.
            let due = deadline + now.saturating_duration_since(since);
            return Some(due.max(now + Duration::from_millis(1)));
        }
        let cancelled = self.cancel.is_cancelled();
        if now < deadline && !cancelled {
            return Some(deadline);
        }
        running.deadline = Some(now + RETRY);
        if running.timed_out || cancelled {
            self.stop(&mapping);
        } else if self.interrupt(|| raise_timeout_error(&mapping)) {
            running.timed_out = true;
            running.deadline = now.checked_add(self.hard_seconds);
        }
        running.deadline
    }

    /// Stops the cell. Returns true while it is still running. A cell in a tool does not count; it ends when the tool
    /// returns.
    pub fn cancel(&self) -> bool {
        self.cancel.cancel();
        let running = self.lock();
        let Some(mapping) = running.mapping.as_ref().filter(|_| running.paused.is_none()) else { return false };
        self.stop(mapping);
        true
    }

    /// Called when the cell enters a tool.
    pub fn pause(&self) {
        self.lock().paused = Some(Instant::now());
    }

    /// Called when the cell returns from a tool.
    pub fn resume(&self) {
        trap_handlers::keep();
        let mut running = self.lock();
        if let Some(since) = running.paused.take() {
            running.deadline = running.deadline.and_then(|deadline| deadline.checked_add(since.elapsed()));
        }
        if self.cancel.is_cancelled() {
            self.stop.store(true, SeqCst);
        }
    }

    /// Called when a cell starts in this memory. Returns false if it must not start.
    pub fn begin(&self, mapping: &Arc<Mapping>) -> bool {
        let mut running = self.lock();
        running.mapping = Some(mapping.clone());
        running.deadline = Instant::now().checked_add(self.seconds);
        running.timed_out = false;
        let cancelled = self.cancel.is_cancelled();
        self.stop.store(cancelled, SeqCst);
        !cancelled
    }

    /// Called when the cell has ended.
    pub fn end(&self) -> Interruption {
        self.leaves_guest();
        let mut running = self.lock();
        running.deadline = None;
        running.paused = None;
        let Some(mapping) = running.mapping.take() else { return Interruption::None };
        // An exception that was sent but not raised in time must not remain in the State.
        if running.timed_out {
            mapping.word(ASYNC_EXCEPTION).store(0, Release);
            mapping.word(EVAL_BREAKER).fetch_and(!ASYNC_EXCEPTION_BIT, AcqRel);
        }
        // Anything may have written this word: an interpreter that is out of memory writes through null pointers.
        mapping.word(STOP_WORD).store(0, Release);
        match (self.stop.load(SeqCst), running.timed_out) {
            (true, _) => Interruption::Stop,
            (false, true) => Interruption::TimeoutError,
            (false, false) => Interruption::None,
        }
    }

    /// Gives the memory to the guest's code, which then continues. Returns false if it must not continue.
    pub fn enters_guest(&self) -> bool {
        self.owner.store(GUEST, SeqCst);
        let goes_on = !self.stop.load(SeqCst);
        if !goes_on {
            self.leaves_guest();
        }
        goes_on
    }

    /// Gives the memory back to the host.
    pub fn leaves_guest(&self) {
        while self.owner.compare_exchange(GUEST, HOST, SeqCst, Relaxed) == Err(WATCHDOG) {
            hint::spin_loop(); // the watchdog only writes a few words
        }
    }

    fn stop(&self, mapping: &Mapping) {
        self.stop.store(true, SeqCst);
        trap_handlers::keep();
        self.interrupt(|| mapping.word(STOP_WORD).store(1, Release));
    }

    /// Writes to the memory, if the guest owns it at the moment.
    fn interrupt(&self, write: impl FnOnce()) -> bool {
        let taken = self.owner.compare_exchange(GUEST, WATCHDOG, SeqCst, Relaxed).is_ok();
        if taken {
            write();
            self.owner.store(GUEST, SeqCst);
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// CPython's _PY_ASYNC_EXCEPTION_BIT.
const ASYNC_EXCEPTION_BIT: u32 = 1 << 3;

/// A value of the byte after IN_CELL: the host is about to send TimeoutError. app.py uses the same number.
const SENDING: u8 = 2;

/// Does what PyThreadState_SetAsyncExc does, from outside: the interpreter raises the exception at its next check in
/// the cell.
fn raise_timeout_error(mapping: &Mapping) {
    // Announced before IN_CELL is read: a guest that leaves the cell waits until this is done.
    let timed_out = mapping.byte(IN_CELL + 1);
    timed_out.store(SENDING, SeqCst);
    if mapping.byte(IN_CELL).load(SeqCst) == 0 {
        timed_out.store(0, SeqCst);
        return; // not in the cell: TimeoutError would hit the code around it
    }
    mapping.word(ASYNC_EXCEPTION).store(TIMEOUT_ERROR, SeqCst);
    mapping.word(EVAL_BREAKER).fetch_or(ASYNC_EXCEPTION_BIT, SeqCst);
    timed_out.store(1, SeqCst);
}
