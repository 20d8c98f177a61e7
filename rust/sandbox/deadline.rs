//! When is a cell out of time, and how is it ended?
//!
//! A [`CellDeadline`] keeps the time limits of one worker's cells, one after the other. The watchdog (process.rs) asks it
//! regularly. First the interpreter is made to raise TimeoutError in the cell, as CPython's PyThreadState_SetAsyncExc
//! would; a cell that goes on regardless is stopped by a word of its memory that its code checks all the time
//! (guest/stop_checks.rs). Time in tools does not count.
//!
//! Both mean writing to the guest's memory from another thread. While the host reads or writes it (arguments of a tool
//! are copied out, a result is copied in), nobody else may: [`CellDeadline::enters_guest`] and
//! [`CellDeadline::leaves_guest`] tell apart who has the memory. What cannot be written at the moment is tried again
//! after [`RETRY`], and a cell that is to be stopped does not get back from the host into the guest.

use std::hint;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::engine::STOP_WORD;
use super::image_facts::{ASYNC_EXCEPTION, EVAL_BREAKER, IN_CELL, TIMEOUT_ERROR};
use super::memory::Mapping;
use super::trap_handlers;

/// A cell that can write anywhere in its memory may undo a stop before any code has checked the word. So it is stopped
/// again and again, each time with a good chance, until it has ended.
pub const RETRY: Duration = Duration::from_micros(100);

/// The time limits of one cell after the other.
#[derive(Default)]
pub struct CellDeadline {
    seconds: Duration,
    hard_seconds: Duration,
    cancel: CancelToken,
    running: Mutex<Running>,
    /// Who has the guest's memory: HOST, GUEST or WATCHDOG.
    owner: AtomicU8,
    /// Whether the cell is to be stopped.
    stop: AtomicBool,
}

const HOST: u8 = 0;
const GUEST: u8 = 1;
const WATCHDOG: u8 = 2;

/// Cancels cells from any thread: those that run, and those that would begin.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Within 50 ms the watchdog stops what runs.
    pub fn cancel(&self) {
        self.0.store(true, SeqCst);
    }

    /// Whether both cancel the same cells.
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
    /// When the cell is interrupted next: by TimeoutError first, then by a stop.
    deadline: Option<Instant>,
    timed_out: bool,
    paused: Option<Instant>,
}

impl CellDeadline {
    pub fn new(seconds: Duration, hard_seconds: Duration, cancel: CancelToken) -> Self {
        Self { seconds, hard_seconds, cancel, ..Self::default() }
    }

    /// The earliest time at which a cell that begins at `now` or later can be out of time.
    pub fn earliest(&self, now: Instant) -> Instant {
        now + self.seconds
    }

    /// Interrupts the cell if it is out of time or cancelled; gives when to check again.
    pub fn check(&self, now: Instant) -> Option<Instant> {
        let mut running = self.lock();
        let (mapping, deadline) = (running.mapping.clone()?, running.deadline?);
        if let Some(since) = running.paused {
            // It may be back from the tool at once, with so much time left.
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

    /// Stops the cell; true as long as it runs on. In a tool it ends when that returns.
    pub fn cancel(&self) -> bool {
        self.cancel.cancel();
        let running = self.lock();
        let Some(mapping) = running.mapping.as_ref().filter(|_| running.paused.is_none()) else { return false };
        self.stop(mapping);
        true
    }

    /// The cell enters a tool.
    pub fn pause(&self) {
        self.lock().paused = Some(Instant::now());
    }

    /// The cell is back from a tool.
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

    /// A cell begins in this memory; false when it must not.
    pub fn begin(&self, mapping: &Arc<Mapping>) -> bool {
        let mut running = self.lock();
        running.mapping = Some(mapping.clone());
        running.deadline = Instant::now().checked_add(self.seconds);
        running.timed_out = false;
        let cancelled = self.cancel.is_cancelled();
        self.stop.store(cancelled, SeqCst);
        !cancelled
    }

    /// The cell has ended.
    pub fn end(&self) -> Interruption {
        self.leaves_guest();
        let mut running = self.lock();
        running.deadline = None;
        running.paused = None;
        let Some(mapping) = running.mapping.take() else { return Interruption::None };
        // What was sent but did not arrive in time must not stay in the State.
        if running.timed_out {
            mapping.word(ASYNC_EXCEPTION).store(0, Release);
            mapping.word(EVAL_BREAKER).fetch_and(!ASYNC_EXCEPTION_BIT, AcqRel);
        }
        // Anybody may have written the word: an interpreter that is out of memory writes through null pointers.
        mapping.word(STOP_WORD).store(0, Release);
        match (self.stop.load(SeqCst), running.timed_out) {
            (true, _) => Interruption::Stop,
            (false, true) => Interruption::TimeoutError,
            (false, false) => Interruption::None,
        }
    }

    /// The guest's code goes on, and has the memory. False when it must not.
    pub fn enters_guest(&self) -> bool {
        self.owner.store(GUEST, SeqCst);
        let goes_on = !self.stop.load(SeqCst);
        if !goes_on {
            self.leaves_guest();
        }
        goes_on
    }

    /// The host goes on, and has the memory.
    pub fn leaves_guest(&self) {
        while self.owner.compare_exchange(GUEST, HOST, SeqCst, Relaxed) == Err(WATCHDOG) {
            hint::spin_loop(); // it writes a few words
        }
    }

    fn stop(&self, mapping: &Mapping) {
        self.stop.store(true, SeqCst);
        trap_handlers::keep();
        self.interrupt(|| mapping.word(STOP_WORD).store(1, Release));
    }

    /// Writes to the memory, if the guest has it at the moment.
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

/// In the byte after IN_CELL: the host is about to send TimeoutError. app.py knows it by the same number.
const SENDING: u8 = 2;

/// What PyThreadState_SetAsyncExc does, from outside: the interpreter raises it when it next checks, inside the cell.
fn raise_timeout_error(mapping: &Mapping) {
    // Announced before IN_CELL is read: when the guest leaves the cell, it waits until this is done.
    let timed_out = mapping.byte(IN_CELL + 1);
    timed_out.store(SENDING, SeqCst);
    if mapping.byte(IN_CELL).load(SeqCst) == 0 {
        timed_out.store(0, SeqCst);
        return; // not in the cell itself: TimeoutError would hit the code around it
    }
    mapping.word(ASYNC_EXCEPTION).store(TIMEOUT_ERROR, SeqCst);
    mapping.word(EVAL_BREAKER).fetch_or(ASYNC_EXCEPTION_BIT, SeqCst);
    timed_out.store(1, SeqCst);
}
