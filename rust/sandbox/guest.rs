//! Loads and checks the precompiled guest, and runs cells in slots. (unsafe)
//!
//! The guest is CPython, compiled to machine code by build.rs and loaded once per process. A [`Slot`] is one instance
//! of the guest. It is reused for many cells and States: between two cells, its whole state is in the memory, because
//! every global of the code is either constant or the stack pointer, which is back at its start. A slot whose guest
//! trapped in the middle of a call is never entered again.
#![allow(unsafe_code)]

use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, InstancePre, TypedFunc};
#[cfg(not(miri))]
use wasmtime::unix::StoreExt;
use wasmtime::{CallHook, Engine, Store, bail};

use super::SandboxError;
use super::deadline::Interruption;
use super::delta::Delta;
use super::engine;
use super::host::{self, Host};
use super::image_facts::{HASH, IMAGE_LEN, PACKAGES};
use super::memory::{self, Image, Mapping};
use super::report::{AbnormalEnd, Report};
use super::trap_handlers;

static CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/code.zst"));
static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/image.zst"));

/// The stack in bytes that a cell may use inside the guest. Deeper recursion in C code kills the cell.
const GUEST_STACK: usize = 16 << 20;
/// The stack of a thread that runs cells, in bytes.
pub const THREAD_STACK: usize = GUEST_STACK + (8 << 20);

/// The loaded guest.
pub struct Guest {
    engine: Engine,
    instance: InstancePre<Host>,
    pub image: Arc<Image>,
}

impl Guest {
    /// The guest's hash. A State belongs to one guest and cannot be used with another.
    pub const HASH: [u8; 32] = HASH;
    /// The size in bytes of the memory from which every State starts.
    pub const IMAGE_LEN: usize = IMAGE_LEN;
    /// Names of the packages that cells can import besides the standard library.
    pub const PACKAGES: &[&str] = PACKAGES;

    /// Loads the guest. This takes about 100 ms.
    pub fn load() -> Result<Self, SandboxError> {
        if Sha256::new().chain_update(CODE).chain_update(IMAGE).finalize().as_slice() != HASH {
            return Err(SandboxError::GuestDamaged);
        }
        let mut config = engine::config();
        config.with_host_memory(Arc::new(memory::Creator));
        // Nothing here is async, but wasmtime checks these two sizes against each other.
        config.async_stack_size(GUEST_STACK).max_wasm_stack(GUEST_STACK);
        // A fork does not inherit Mach ports, and memory/protection.rs needs signals.
        config.macos_use_mach_ports(false);
        let engine = trap_handlers::install(|| Engine::new(&config))?;
        let code = zstd::decode_all(CODE).map_err(SandboxError::Memory)?;
        // SAFETY: build.rs compiled this code, and the hash proves that it still is what build.rs wrote.
        let component = unsafe { Component::deserialize(&engine, &code)? };
        let image = zstd::bulk::decompress(IMAGE, IMAGE_LEN).map_err(SandboxError::Memory)?;
        let image = Arc::new(Image::new(&image).map_err(SandboxError::Memory)?);
        let instance = host::link(&engine, &component)?.instantiate_pre(&component)?;
        Ok(Self { engine, instance, image })
    }

    /// Creates a slot with a memory of `size` bytes that holds the image.
    pub fn slot(&self, size: usize) -> Result<Slot, SandboxError> {
        let mut store = Store::new(&self.engine, Host::idle());
        store.limiter(|host| host);
        store.call_hook(|context, hook| {
            let deadline = &context.data().deadline;
            match hook {
                CallHook::CallingWasm | CallHook::ReturningFromHost if !deadline.enters_guest() => bail!("stopped"),
                CallHook::CallingWasm | CallHook::ReturningFromHost => {}
                CallHook::ReturningFromWasm | CallHook::CallingHost => deadline.leaves_guest(),
            }
            Ok(())
        });
        #[cfg(not(miri))] // under Miri, wasmtime handles no signals
        // SAFETY: everything that this handler does is safe in a signal handler.
        unsafe {
            store.set_signal_handler(|_, info, _| memory::allow_write((*info).si_addr() as usize));
        }
        let mapping = Arc::new(Mapping::new(self.image.clone(), size).map_err(SandboxError::Memory)?);
        let instantiate = || memory::with_memory(&mapping, || self.instance.instantiate(&mut store));
        let instance = mapping.while_written(instantiate)?;
        let run = instance.get_typed_func(&mut store, "run")?;
        let set_up = instance.get_typed_func(&mut store, "set-up")?;
        let (written, held) = (Vec::new(), Arc::new(Delta { size, pages: Vec::new() }));
        let mut slot = Slot { store, run, set_up, mapping, written, stale: true, held };
        slot.find_written();
        slot.capture();
        Ok(slot)
    }
}

/// An instance of the guest.
pub struct Slot {
    store: Store<Host>,
    run: TypedFunc<(String, u32), (Report,)>,
    set_up: TypedFunc<(u64, Vec<String>), ()>,
    mapping: Arc<Mapping>,
    /// The pages that may differ from the image. They are private to the slot; no other slot maps them.
    written: Vec<u32>,
    /// Whether there may be more such pages by now.
    stale: bool,
    /// What the memory held after the last restore or capture.
    held: Arc<Delta>,
}

impl Slot {
    const MAX_SPARE_PAGES: usize = 512;

    /// Returns the size of the memory in bytes. It cannot shrink.
    pub fn size(&self) -> usize {
        self.mapping.len()
    }

    /// Returns whether the slot has few more private pages than `delta`. A slot with many more is emptied before it
    /// holds `delta`, because each capture looks at all private pages.
    pub fn is_near(&self, delta: &Delta) -> bool {
        self.written.len() <= (delta.pages.len() + Self::MAX_SPARE_PAGES) * self.mapping.granularity()
    }

    /// Makes the memory hold `delta`, which must have the slot's size. The memory must hold what was restored or
    /// captured last.
    pub fn restore(&mut self, delta: &Arc<Delta>) -> Result<(), SandboxError> {
        if !self.is_near(delta) {
            // SAFETY: the guest runs only inside `enter`, which also needs `&mut self`.
            unsafe { self.mapping.empty() }.map_err(SandboxError::Memory)?;
            self.held = Arc::new(Delta { size: self.size(), pages: Vec::new() });
            self.stale = true;
        }
        let faults = self.mapping.writes();
        // SAFETY: as above; also, `capture` follows each `enter`, or the slot is dropped.
        unsafe { self.mapping.restore(&self.held, delta) }.map_err(SandboxError::Memory)?;
        self.held = delta.clone();
        self.stale |= faults.is_none() || faults != self.mapping.writes();
        Ok(())
    }

    /// Returns what the memory holds now.
    pub fn capture(&mut self) -> Arc<Delta> {
        // SAFETY: as in `restore`; `written` is as `enter` left it, and restoring has changed no other page.
        self.held = Arc::new(unsafe { self.mapping.capture(&self.written, &self.held) });
        self.held.clone()
    }

    /// Returns the number of pages that are private to the slot.
    pub fn written(&self) -> usize {
        self.written.len()
    }

    /// Runs a cell with this host. Returns the host and the guest's report. After an [`AbnormalEnd`], the slot must not
    /// be used again.
    pub fn run(&mut self, host: Host, code: &str, stdout_chars: u32) -> (Host, Result<Report, AbnormalEnd>) {
        // A cell can forge its report, so this enforces the size of an honest one.
        let max = Report::max_bytes(stdout_chars);
        self.store.set_hostcall_fuel(max + host::MAX_LIFTED);
        let (host, outcome) =
            self.enter(host, |slot| Ok(slot.run.call(&mut slot.store, (code.to_string(), stdout_chars))?.0));
        (host, outcome.and_then(|report| if report.nbytes() <= max { Ok(report) } else { Err(AbnormalEnd::Trap) }))
    }

    /// Creates the first State of a sandbox from the image.
    pub fn set_up(&mut self, host: Host, seed: u64, tools: Vec<String>) -> (Host, Result<(), AbnormalEnd>) {
        self.enter(host, |slot| slot.set_up.call(&mut slot.store, (seed, tools)))
    }

    /// Updates `written` if necessary. This is costly, because the kernel walks through all pages.
    fn find_written(&mut self) {
        if std::mem::take(&mut self.stale) {
            self.mapping.find_written(&mut self.written);
        }
    }

    fn enter<T>(
        &mut self,
        host: Host,
        call: impl FnOnce(&mut Self) -> wasmtime::Result<T>,
    ) -> (Host, Result<T, AbnormalEnd>) {
        let deadline = host.deadline.clone();
        *self.store.data_mut() = host;
        trap_handlers::keep();
        let faults = self.mapping.writes();
        let outcome = if deadline.begin(&self.mapping) {
            let mapping = self.mapping.clone();
            mapping.while_written(|| call(self)).map_err(AbnormalEnd::from)
        } else {
            Err(AbnormalEnd::Stopped)
        };
        let interruption = deadline.end();
        // The watchdog also writes to the memory, and its page faults count for another thread.
        self.stale |= interruption != Interruption::None || faults.is_none() || faults != self.mapping.writes();
        self.find_written();
        let host = std::mem::replace(self.store.data_mut(), Host::idle());
        let outcome = outcome.map_err(|end| match end {
            _ if interruption == Interruption::Stop => AbnormalEnd::Stopped,
            AbnormalEnd::Trap if host.out_of_memory => AbnormalEnd::OutOfMemory,
            _ => end,
        });
        (host, outcome)
    }
}
