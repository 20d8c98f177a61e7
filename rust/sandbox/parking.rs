//! Limits the memory of all States together, by moving the least recently used ones to disk.
//!
//! A rollout keeps a State for each running episode, and a hostile cell can make a State as large as its limit.
//! Therefore all States of a process share a budget. Beyond it, the least recently used States are parked: they are
//! compressed, written to an unnamed file in the folder of temporary files (TMPDIR), and read back when they are used.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::bytes;
use super::delta::{Delta, PAGE, held_bytes};
use super::{SandboxError, Snapshot, State};

/// A Delta, in memory or parked.
pub struct ParkedDelta {
    place: Mutex<Place>,
    nbytes: usize,
    size: usize,
    /// The sequence number of its last use.
    used: AtomicU64,
}

enum Place {
    Memory(Arc<Delta>),
    Disk(Region),
}

static USES: AtomicU64 = AtomicU64::new(0);

impl ParkedDelta {
    pub fn new(delta: Arc<Delta>) -> Self {
        let used = AtomicU64::new(USES.fetch_add(1, Ordering::Relaxed));
        Self { nbytes: delta.nbytes(), size: delta.size, used, place: Mutex::new(Place::Memory(delta)) }
    }

    /// Returns the size of the guest's memory in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns the size in bytes that the Delta has in memory.
    pub fn nbytes(&self) -> usize {
        self.nbytes
    }

    /// Returns the Delta, and reads it back if it was parked.
    pub fn get(&self) -> Result<Arc<Delta>, SandboxError> {
        self.used.store(USES.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let mut place = lock(&self.place);
        let delta = match &*place {
            Place::Memory(delta) => return Ok(delta.clone()),
            Place::Disk(region) => Arc::new(region.read().map_err(SandboxError::Parked)?),
        };
        *place = Place::Memory(delta.clone());
        Ok(delta)
    }

    fn park(&self, file: &Arc<SpillFile>) -> io::Result<()> {
        let mut place = lock(&self.place);
        if let Place::Memory(delta) = &*place {
            *place = Place::Disk(file.write(&bytes::pack(delta))?);
        }
        Ok(())
    }

    fn is_parked(&self) -> bool {
        matches!(&*lock(&self.place), Place::Disk(_))
    }
}

/// The States of a process, which share a memory budget.
pub struct LiveStates {
    max_bytes: usize,
    states: Mutex<Vec<Weak<Snapshot>>>,
    file: Mutex<Option<Arc<SpillFile>>>,
}

impl Default for LiveStates {
    fn default() -> Self {
        Self::with_budget(Self::MAX_BYTES)
    }
}

impl LiveStates {
    /// The maximum memory of all States of a process in bytes.
    pub const MAX_BYTES: usize = 1 << 30;

    fn with_budget(max_bytes: usize) -> Self {
        Self { max_bytes, states: Mutex::default(), file: Mutex::default() }
    }

    /// Adds a new State, and parks others if necessary. `release` is called for each parked State, so that nothing else
    /// keeps it in memory.
    pub fn add(&self, state: &State, release: impl Fn(&Weak<Snapshot>)) -> Result<(), SandboxError> {
        let mut states = lock(&self.states);
        if states.len() == states.capacity() {
            states.retain(|state| state.strong_count() > 0);
        }
        states.push(Arc::downgrade(&state.0));
        if held_bytes() > self.max_bytes {
            self.park(&states, state, release)
                .map_err(|source| SandboxError::Parking { held: held_bytes(), source })?;
        }
        Ok(())
    }

    fn park(&self, states: &[Weak<Snapshot>], newest: &State, release: impl Fn(&Weak<Snapshot>)) -> io::Result<()> {
        let mut file = lock(&self.file);
        let file = match &mut *file {
            Some(file) => file,
            none => none.insert(SpillFile::create()?),
        };
        let mut live: Vec<Arc<Snapshot>> = states.iter().filter_map(Weak::upgrade).collect();
        live.retain(|state| !newest.same(&Arc::downgrade(state)) && !state.delta.is_parked());
        live.sort_by_key(|state| state.delta.used.load(Ordering::Relaxed));
        for state in live {
            if held_bytes() <= self.max_bytes / 4 * 3 {
                break;
            }
            state.delta.park(file)?;
            release(&Arc::downgrade(&state));
        }
        Ok(())
    }
}

/// An unnamed file. Nothing of it remains when its process ends.
struct SpillFile {
    file: File,
    end: AtomicU64,
    process: u32,
}

impl SpillFile {
    fn create() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { file: tempfile::tempfile()?, end: AtomicU64::new(0), process: std::process::id() }))
    }

    fn write(self: &Arc<Self>, bytes: &[u8]) -> io::Result<Region> {
        let start = self.end.fetch_add(bytes.len().next_multiple_of(PAGE) as u64, Ordering::Relaxed);
        let region = Region { file: self.clone(), start, len: bytes.len() };
        self.file.write_all_at(bytes, start)?;
        Ok(region)
    }
}

/// A part of the file.
struct Region {
    file: Arc<SpillFile>,
    start: u64,
    len: usize,
}

impl Region {
    fn read(&self) -> io::Result<Delta> {
        let mut bytes = vec![0; self.len];
        self.file.file.read_exact_at(&mut bytes, self.start)?;
        bytes::unpack(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // A forked child shares the file, and its parent may still need this part.
        #[cfg(target_os = "linux")]
        if self.file.process == std::process::id() {
            use rustix::fs::{FallocateFlags, fallocate};

            let (flags, len) = (FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, self.len as u64);
            let _ = fallocate(&self.file.file, flags, self.start, len); // if this fails, the space is freed at the end
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Limits, Sandbox, Tools};

    #[test]
    fn states_beyond_the_budget_are_parked_and_come_back() {
        let sandbox = Sandbox::new(Tools::new(), Limits::default(), 0, Some(1)).unwrap();
        let cell = |n| format!("import random\nrandom.seed({n})\nx = random.randbytes(1_000_000)");
        let made = |n| sandbox.run(sandbox.initial(), &cell(n)).unwrap().1;
        let live = LiveStates::with_budget(held_bytes() + (4 << 20));
        let states: Vec<State> = (0..12).map(made).collect();
        let bytes: Vec<Vec<u8>> = states.iter().map(|state| state.to_bytes(None).unwrap()).collect();
        let process = super::super::process::Process::current().unwrap();
        for state in &states {
            live.add(state, |parked| process.release(parked)).unwrap();
        }
        let parked: Vec<bool> = states.iter().map(|state| state.0.delta.is_parked()).collect();
        assert!(parked[0] && !parked[11], "{parked:?}");
        assert!(held_bytes() <= live.max_bytes, "{} of {}", held_bytes(), live.max_bytes);
        for (state, bytes) in states.iter().zip(bytes) {
            assert!(state.to_bytes(None).unwrap() == bytes);
            assert!(state.nbytes() > 1_000_000 && !state.0.delta.is_parked());
            assert_eq!(sandbox.run(state, "len(x)").unwrap().0.value.as_deref(), Some("1000000"));
        }
    }
}
