//! How is the precompiled guest loaded and checked, and what is a slot that it runs in? (unsafe)
//!
//! The guest is CPython, compiled to machine code by build.rs and loaded once per process. A [`Slot`] is one instance of
//! it, reused for cell after cell and State after State: between two cells all there is lies in the memory, since every
//! global of the code is a constant, or the stack pointer, which is back at its start. A slot whose guest trapped in the
//! middle of a call is never entered again.
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

/// Bytes of stack that a cell may use inside the guest; deeper recursion in C code kills the cell.
const GUEST_STACK: usize = 16 << 20;
/// Stack of a thread that runs cells.
pub const THREAD_STACK: usize = GUEST_STACK + (8 << 20);

/// The loaded guest.
pub struct Guest {
    engine: Engine,
    instance: InstancePre<Host>,
    pub image: Arc<Image>,
}

impl Guest {
    /// Its hash: States belong to one guest and fit no other.
    pub const HASH: [u8; 32] = HASH;
    /// Bytes of memory that every State starts from.
    pub const IMAGE_LEN: usize = IMAGE_LEN;
    /// Names of the packages that cells can import besides the standard library.
    pub const PACKAGES: &[&str] = PACKAGES;

    /// Takes some 100 ms.
    pub fn load() -> Result<Self, SandboxError> {
        if Sha256::new().chain_update(CODE).chain_update(IMAGE).finalize().as_slice() != HASH {
            return Err(SandboxError::GuestDamaged);
        }
        let mut config = engine::config();
        config.with_host_memory(Arc::new(memory::Creator));
        // Nothing here is async, but wasmtime checks the one against the other.
        config.async_stack_size(GUEST_STACK).max_wasm_stack(GUEST_STACK);
        // A fork does not inherit Mach ports, and memory/protection.rs needs signals.
        config.macos_use_mach_ports(false);
        let engine = trap_handlers::install(|| Engine::new(&config))?;
        let code = zstd::decode_all(CODE).map_err(SandboxError::Memory)?;
        // SAFETY: build.rs compiled it, and the hash says that it still is what build.rs wrote.
        let component = unsafe { Component::deserialize(&engine, &code)? };
        let image = zstd::bulk::decompress(IMAGE, IMAGE_LEN).map_err(SandboxError::Memory)?;
        let image = Arc::new(Image::new(&image).map_err(SandboxError::Memory)?);
        let instance = host::link(&engine, &component)?.instantiate_pre(&component)?;
        Ok(Self { engine, instance, image })
    }

    /// A new slot with a memory of `size` bytes that holds the image.
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
        #[cfg(not(miri))] // where wasmtime handles no signals
        // SAFETY: what the handler does is safe in one.
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

/// One instance of the guest.
pub struct Slot {
    store: Store<Host>,
    run: TypedFunc<(String, u32), (Report,)>,
    set_up: TypedFunc<(u64, Vec<String>), ()>,
    mapping: Arc<Mapping>,
    /// The pages that may differ from the image: the slot's own, which no other maps.
    written: Vec<u32>,
    /// Whether there may be more such pages by now.
    stale: bool,
    /// What the memory held at the last restore or capture.
    held: Arc<Delta>,
}

impl Slot {
    const MAX_SPARE_PAGES: usize = 512;

    /// Bytes of memory; it cannot shrink.
    pub fn size(&self) -> usize {
        self.mapping.len()
    }

    /// Whether the slot has few more pages of its own than `delta`. One that has many is emptied before it holds it, since
    /// each capture looks at all of them.
    pub fn is_near(&self, delta: &Delta) -> bool {
        self.written.len() <= (delta.pages.len() + Self::MAX_SPARE_PAGES) * self.mapping.granularity()
    }

    /// Makes the memory hold `delta`, which has the slot's size, where it holds what was restored or captured last.
    pub fn restore(&mut self, delta: &Arc<Delta>) -> Result<(), SandboxError> {
        if !self.is_near(delta) {
            // SAFETY: the guest runs only inside `enter`, which needs `&mut self` too.
            unsafe { self.mapping.empty() }.map_err(SandboxError::Memory)?;
            self.held = Arc::new(Delta { size: self.size(), pages: Vec::new() });
            self.stale = true;
        }
        let faults = self.mapping.writes();
        // SAFETY: as above; and `capture` follows each `enter`, or the slot is dropped.
        unsafe { self.mapping.restore(&self.held, delta) }.map_err(SandboxError::Memory)?;
        self.held = delta.clone();
        self.stale |= faults.is_none() || faults != self.mapping.writes();
        Ok(())
    }

    /// What the memory holds now.
    pub fn capture(&mut self) -> Arc<Delta> {
        // SAFETY: as in `restore`; `written` is as `enter` left it, and restoring has changed no other page.
        self.held = Arc::new(unsafe { self.mapping.capture(&self.written, &self.held) });
        self.held.clone()
    }

    /// How many pages of memory are the slot's own.
    pub fn written(&self) -> usize {
        self.written.len()
    }

    /// Runs a cell with this host; gives the host back with what the guest reported. After an [`AbnormalEnd`] the slot is
    /// not to be used again.
    pub fn run(&mut self, host: Host, code: &str, stdout_chars: u32) -> (Host, Result<Report, AbnormalEnd>) {
        // A cell can forge its report, so the size of an honest one is enforced here.
        let max = Report::max_bytes(stdout_chars);
        self.store.set_hostcall_fuel(max + host::MAX_LIFTED);
        let (host, outcome) =
            self.enter(host, |slot| Ok(slot.run.call(&mut slot.store, (code.to_string(), stdout_chars))?.0));
        (host, outcome.and_then(|report| if report.nbytes() <= max { Ok(report) } else { Err(AbnormalEnd::Trap) }))
    }

    /// Makes the first State of a sandbox out of the image.
    pub fn set_up(&mut self, host: Host, seed: u64, tools: Vec<String>) -> (Host, Result<(), AbnormalEnd>) {
        self.enter(host, |slot| slot.set_up.call(&mut slot.store, (seed, tools)))
    }

    /// Brings `written` up to date, if need be: the kernel walks through all pages for it.
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
        // The watchdog writes too, in a thread of its own.
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
