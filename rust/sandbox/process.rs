//! The state that all sandboxes of a process share.
//!
//! It contains the guest, idle slots, threads with stacks deep enough for the guest, and the watchdog. The watchdog is
//! a thread that enforces the time limits of all cells while any are running. A fork (Python's multiprocessing, data
//! loaders) copies none of the threads, so the child creates its own.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::deadline::CellDeadline;
use super::delta::PAGE;
use super::guest::{Guest, Slot, THREAD_STACK};
use super::parking::LiveStates;
use super::{SandboxError, Snapshot, State, trap_handlers};

pub type Job = Box<dyn FnOnce() + Send>;

pub struct Process {
    id: u32,
    pub guest: Arc<Guest>,
    /// Idle slots with the State that each one holds. The least recently used slot comes first.
    slots: Mutex<Vec<(Slot, Weak<Snapshot>)>>,
    max_slots: usize,
    states: LiveStates,
    idle_threads: Mutex<Vec<Sender<Job>>>,
    watchdog: Mutex<Watchdog>,
    wake_watchdog: Condvar,
}

#[derive(Default)]
struct Watchdog {
    deadlines: Vec<Weak<CellDeadline>>,
    /// The time of the next check. `None` if the watchdog's thread is not running.
    next: Option<Instant>,
}

/// Locked only briefly, so that it is very unlikely to be locked during a fork.
static CURRENT: Mutex<Option<&'static Process>> = Mutex::new(None);

impl Process {
    /// The maximum number of idle threads. Others end.
    const MAX_IDLE_THREADS: usize = 64;
    /// The maximum written memory of a slot that is kept, in bytes.
    const MAX_WRITTEN: usize = 64 << 20;
    /// The maximum written memory of all idle slots, in bytes.
    const MAX_WRITTEN_IDLE: usize = 512 << 20;
    /// The maximum interval between checks. A check also drops deadlines that nobody else holds.
    const MAX_INTERVAL: Duration = Duration::from_millis(50);

    pub fn current() -> Result<&'static Self, SandboxError> {
        let id = std::process::id();
        let known = *lock(&CURRENT);
        if let Some(process) = known.filter(|process| process.id == id) {
            return Ok(process);
        }
        let guest = match known {
            Some(parent) => parent.guest.clone(),
            None => Arc::new(Guest::load()?),
        };
        let mut current = lock(&CURRENT);
        if let Some(process) = current.filter(|process| process.id == id) {
            return Ok(process); // another thread was faster
        }
        let max_slots = 2 * thread::available_parallelism().map_or(4, usize::from).max(4);
        Ok(current.insert(Box::leak(Box::new(Self {
            id,
            guest,
            slots: Mutex::default(),
            max_slots,
            states: LiveStates::default(),
            idle_threads: Mutex::default(),
            watchdog: Mutex::default(),
            wake_watchdog: Condvar::new(),
        }))))
    }

    /// Returns a slot that holds `state`.
    pub fn take_slot(&self, state: &State) -> Result<Slot, SandboxError> {
        let delta = &state.0.delta.get()?;
        let mut slots = lock(&self.slots);
        if let Some(index) = slots.iter().rposition(|(_, held)| state.same(held)) {
            return Ok(slots.remove(index).0);
        }
        // Prefers a slot whose State nobody holds any more. A slot that must be emptied is used only if there are
        // enough slots.
        let candidates = slots.iter().enumerate().filter(|(_, (slot, _))| slot.size() == delta.size);
        let best = candidates.min_by_key(|(_, (slot, held))| (!slot.is_near(delta), held.strong_count() > 0));
        let best = best.map(|(index, (slot, _))| (index, slot.is_near(delta)));
        let index = best.filter(|(_, near)| *near || slots.len() >= self.max_slots).map(|(index, _)| index);
        let slot = index.map(|index| slots.remove(index).0);
        drop(slots);
        let mut slot = match slot {
            Some(slot) => slot,
            None => self.guest.slot(delta.size)?,
        };
        slot.restore(delta)?;
        Ok(slot)
    }

    /// Keeps a slot for reuse. It must hold `state`.
    pub fn return_slot(&self, slot: Slot, state: &State) {
        if slot.written() * PAGE > Self::MAX_WRITTEN {
            return;
        }
        let mut slots = lock(&self.slots);
        slots.push((slot, Arc::downgrade(&state.0)));
        let mut written: usize = slots.iter().map(|(slot, _)| slot.written() * PAGE).sum();
        let mut oldest = Vec::new();
        while slots.len() > self.max_slots || written > Self::MAX_WRITTEN_IDLE {
            let (slot, _) = slots.remove(0);
            written -= slot.written() * PAGE;
            oldest.push(slot);
        }
        drop(slots);
        drop(oldest);
    }

    /// Adds a new State to the budget.
    pub fn add_state(&self, state: &State) -> Result<(), SandboxError> {
        self.states.add(state, |parked| self.release(parked))
    }

    /// Drops the idle slots that hold this State, or a State that nobody holds any more.
    pub fn release(&self, state: &Weak<Snapshot>) {
        let mut slots = lock(&self.slots);
        let released = slots.extract_if(.., |(_, held)| held.strong_count() == 0 || held.ptr_eq(state));
        let released: Vec<_> = released.collect();
        drop(slots);
        drop(released);
    }

    /// Runs `job` on an idle thread or a new one. Jobs never wait for one another.
    pub fn spawn(&'static self, mut job: Job) -> Result<(), SandboxError> {
        while let Some(thread) = { lock(&self.idle_threads).pop() } {
            match thread.send(job) {
                Ok(()) => return Ok(()),
                Err(refused) => job = refused.0, // that thread has panicked
            }
        }
        let thread = thread::Builder::new().name("agentdistill-cell".into()).stack_size(THREAD_STACK);
        thread.spawn(move || self.serve(job)).map(|_| ()).map_err(SandboxError::Thread)
    }

    /// Enforces these deadlines as long as somebody else holds them.
    pub fn watch(&'static self, deadlines: &[Arc<CellDeadline>]) -> Result<(), SandboxError> {
        let now = Instant::now();
        let mut watchdog = lock(&self.watchdog);
        match watchdog.next {
            None => self.spawn(Box::new(|| self.enforce_deadlines()))?,
            Some(next) if deadlines.iter().any(|deadline| deadline.earliest(now) < next) => {
                self.wake_watchdog.notify_one();
            }
            Some(_) => {}
        }
        watchdog.next.get_or_insert(now);
        watchdog.deadlines.extend(deadlines.iter().map(Arc::downgrade));
        Ok(())
    }

    fn enforce_deadlines(&self) {
        let mut watchdog = lock(&self.watchdog);
        loop {
            trap_handlers::keep();
            let now = Instant::now();
            let mut next = now + Self::MAX_INTERVAL;
            watchdog.deadlines.retain(|deadline| {
                let Some(deadline) = deadline.upgrade() else { return false };
                // A cell that starts after this check has all of its seconds left.
                next = next.min(deadline.check(now).unwrap_or_else(|| deadline.earliest(now)));
                true
            });
            if watchdog.deadlines.is_empty() {
                watchdog.next = None;
                return;
            }
            watchdog.next = Some(next);
            let pause = next.saturating_duration_since(now);
            watchdog = self.wake_watchdog.wait_timeout(watchdog, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn serve(&self, first: Job) {
        let (sender, jobs) = channel();
        let mut next = Some(first);
        while let Some(job) = next {
            job();
            let mut idle = lock(&self.idle_threads);
            if idle.len() >= Self::MAX_IDLE_THREADS {
                return;
            }
            idle.push(sender.clone());
            drop(idle);
            next = poll_briefly(|| jobs.try_recv().ok()).or_else(|| jobs.recv().ok());
        }
    }
}

/// Polls for as long as a small cell takes. Sleeping and waking up would cost half of that time on both sides. Other
/// threads can run between polls.
pub fn poll_briefly<T>(mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        match poll() {
            None if started.elapsed() < Duration::from_micros(300) => thread::yield_now(),
            result => return result,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
