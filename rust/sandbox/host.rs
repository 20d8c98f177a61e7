//! Defines everything that the guest can ask of the host.
//!
//! The guest has two imports of its own, call-tool and sleep. From WASI it gets a clock, random bytes, and empty lists
//! of arguments, environment variables and folders. Every other import traps, and a trap kills the cell. The clock and
//! the random bytes are computed from the State, so the same cells observe the same values.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, ComponentType, Lift, Linker, Lower, Val};
use wasmtime::{Engine, ResourceLimiter, StoreContextMut, bail};

use super::deadline::CellDeadline;
use super::{Tool, Tools};
use crate::observation::ToolCall;

/// The virtual clock and the random generator: the part of a State that is not memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    pub seed: u64,
    /// The number of requests for random bytes so far.
    pub drawn: u64,
    /// The time since [`Devices::EPOCH_SECONDS`].
    pub nanoseconds: u64,
}

impl Devices {
    /// 2026-01-01 00:00 UTC: the time at which every first State starts.
    const EPOCH_SECONDS: u64 = 1_767_225_600;
    /// Nanoseconds after that at which the clock stops, in the year 2247. Python's own clock ends in 2262.
    const END: u64 = 7_000_000_000_000_000_000;
    /// The time in nanoseconds by which each reading advances the clock, as if nothing else took time.
    const TICK: u64 = 1_000;

    fn now(&mut self) -> u64 {
        self.sleep(Self::TICK);
        self.nanoseconds
    }

    fn sleep(&mut self, nanoseconds: u64) {
        self.nanoseconds = self.nanoseconds.saturating_add(nanoseconds).min(Self::END);
    }

    fn random_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 32);
        for block in 0..count.div_ceil(32) as u64 {
            let hash =
                [self.seed, self.drawn, block].iter().fold(Sha256::new(), |h, n| h.chain_update(n.to_le_bytes()));
            bytes.extend_from_slice(&hash.finalize());
        }
        bytes.truncate(count);
        self.drawn = self.drawn.wrapping_add(1); // a State from bytes may have any value here
        bytes
    }
}

/// The host's side of one cell.
pub struct Host {
    pub devices: Devices,
    pub tools: Arc<Tools>,
    pub deadline: Arc<CellDeadline>,
    pub tool_calls: Vec<ToolCall>,
    pub tool_call_limit: usize,
    /// The number of bytes of arguments that the cell may still pass to tools.
    pub argument_room: usize,
    /// The number of bytes of tool calls that may still be recorded.
    pub record_room: usize,
    /// The maximum size of the memory in bytes.
    pub memory_limit: usize,
    /// Whether the cell needed more memory.
    pub out_of_memory: bool,
}

/// The maximum size in bytes of a tool call's arguments. Parsing them takes about fifty times as much memory, and they
/// are kept in the Observation.
const MAX_ARGUMENTS: usize = 1 << 20;
/// The maximum size in bytes of the arguments of all calls of a cell.
const MAX_CELL_ARGUMENTS: usize = 8 << 20;
/// The maximum size in bytes of all data of a call. Between this limit and MAX_ARGUMENTS, the cell gets an error; above
/// it, the cell is killed.
pub const MAX_LIFTED: usize = 16 << 20;

impl Host {
    /// Returns the host between cells: no tools, no time, no growth.
    pub fn idle() -> Self {
        Self {
            devices: Devices::default(),
            tools: Arc::new(BTreeMap::new()),
            deadline: Arc::default(),
            tool_calls: Vec::new(),
            tool_call_limit: 0,
            argument_room: MAX_CELL_ARGUMENTS,
            record_room: ToolCall::MAX_CELL,
            memory_limit: usize::MAX,
            out_of_memory: false,
        }
    }

    fn call_tool(&mut self, name: String, arguments: String) -> Result<String, String> {
        if self.tool_calls.len() >= self.tool_call_limit {
            return Err(format!("a cell may call tools {} times, and this one has", self.tool_call_limit));
        }
        let Some(tool) = self.tools.get(&name).cloned() else {
            let known = self.tools.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(format!("no such tool here; the tools are: {known}"));
        };
        if arguments.len() > MAX_ARGUMENTS {
            return Err(format!("the arguments are {} bytes of JSON, more than {MAX_ARGUMENTS}", arguments.len()));
        }
        let Some(room) = self.argument_room.checked_sub(arguments.len()) else {
            return Err(format!("the arguments of all calls of a cell are at most {MAX_CELL_ARGUMENTS} bytes of JSON"));
        };
        self.argument_room = room;
        let started = Instant::now();
        self.deadline.pause();
        let outcome = checked_call(&*tool, &arguments);
        self.deadline.resume();
        let (result, error) = match outcome.clone() {
            Ok(result) => (Some(result), None),
            Err(error) => (None, Some(error)),
        };
        let seconds = started.elapsed().as_secs_f64();
        let call = ToolCall { name, arguments, result, error, seconds };
        self.tool_calls.push(call.recorded(&mut self.record_room));
        outcome
    }
}

/// Checks the arguments before a tool sees them, because the guest can forge a call.
fn checked_call(tool: &dyn Tool, arguments: &str) -> Result<String, String> {
    type Arguments = (Vec<serde_json::Value>, serde_json::Map<String, serde_json::Value>);
    if let Err(error) = serde_json::from_str::<Arguments>(arguments) {
        return Err(format!("the arguments are not JSON that every language can read: {error}"));
    }
    tool.call(arguments)
}

impl ResourceLimiter for Host {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.out_of_memory |= desired > self.memory_limit;
        Ok(desired <= self.memory_limit)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 100_000)
    }
}

/// Defines all imports of the guest.
pub fn link(engine: &Engine, component: &Component) -> wasmtime::Result<Linker<Host>> {
    type Context<'a> = StoreContextMut<'a, Host>;

    let mut linker = Linker::new(engine);
    linker.define_unknown_imports_as_traps(component)?;
    linker.allow_shadowing(true);

    let mut root = linker.root();
    root.func_wrap("call-tool", |mut context: Context, (name, arguments): (String, String)| {
        Ok((context.data_mut().call_tool(name, arguments),))
    })?;
    root.func_wrap("sleep", |mut context: Context, (nanoseconds,): (u64,)| {
        context.data_mut().devices.sleep(nanoseconds);
        Ok(())
    })?;

    let ty = component.component_type();
    for (name, _) in ty.imports(engine) {
        let Some((interface, _version)) = name.split_once('@') else { continue };
        let mut instance = linker.instance(name)?;
        match interface {
            "wasi:cli/environment" => {
                instance.func_wrap("get-environment", |_: Context, ()| Ok((Vec::<(String, String)>::new(),)))?;
                instance.func_wrap("get-arguments", |_: Context, ()| Ok((Vec::<String>::new(),)))?;
            }
            "wasi:clocks/monotonic-clock" => {
                instance.func_wrap("now", |mut context: Context, ()| Ok((context.data_mut().devices.now(),)))?;
                instance.func_wrap("resolution", |_: Context, ()| Ok((Devices::TICK,)))?;
            }
            "wasi:clocks/wall-clock" => {
                instance.func_wrap("now", |mut context: Context, ()| {
                    let now = context.data_mut().devices.now();
                    Ok((WallTime {
                        seconds: Devices::EPOCH_SECONDS + now / 1_000_000_000,
                        nanoseconds: (now % 1_000_000_000) as u32,
                    },))
                })?;
                instance.func_wrap("resolution", |_: Context, ()| {
                    Ok((WallTime { seconds: 0, nanoseconds: Devices::TICK as u32 },))
                })?;
            }
            "wasi:filesystem/preopens" => {
                instance.func_new("get-directories", |_, _, _, results| {
                    results[0] = Val::List(Vec::new());
                    Ok(())
                })?;
            }
            "wasi:random/random" => {
                instance.func_wrap("get-random-bytes", |mut context: Context, (count,): (u64,)| {
                    if count > 1 << 20 {
                        bail!("more than a MiB of random bytes at once");
                    }
                    Ok((context.data_mut().devices.random_bytes(count as usize),))
                })?;
            }
            _ => {}
        }
    }
    Ok(linker)
}

#[derive(Clone, Copy, ComponentType, Lift, Lower)]
#[component(record)]
struct WallTime {
    seconds: u64,
    nanoseconds: u32,
}
