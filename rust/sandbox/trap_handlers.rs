//! Makes wasmtime's signal handlers coexist with those of other libraries. (unsafe)
//!
//! wasmtime learns of traps in a cell through signals. faulthandler, a JVM, Ray or another wasmtime handle the same
//! signals. They may install their handlers before ours, after ours, or while cells run. The handler in front decides,
//! and not all handlers pass on signals that are not theirs. Therefore [`keep`] puts wasmtime's handlers in front again
//! whenever a cell is about to trap, or may have given other code the time to act. Signals that they do not recognise
//! go to [`forward`], which passes them to the other handlers, the latest first.
//!
//! One case remains: another thread installs a handler less than 50 ms before a cell traps by itself.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::mem::{MaybeUninit, transmute, zeroed};
use std::ptr::{null, null_mut};
use std::slice;
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
use std::sync::atomic::{AtomicPtr, AtomicUsize};
use std::sync::{Mutex, PoisonError};

use super::memory;
use libc::{c_int, c_void, sigaction, siginfo_t};

/// The signals that wasmtime handles here.
const SIGNALS: [c_int; 4] = [libc::SIGILL, libc::SIGSEGV, libc::SIGFPE, libc::SIGBUS];
const MAX_OTHERS: usize = 16;

/// The handlers of one signal.
struct Handlers {
    /// wasmtime's handler; null before it has been installed.
    wasmtime: AtomicPtr<sigaction>,
    /// The other handlers, the latest last.
    others: [AtomicPtr<sigaction>; MAX_OTHERS],
    count: AtomicUsize,
}

static HANDLERS: [Handlers; SIGNALS.len()] = [const {
    Handlers {
        wasmtime: AtomicPtr::new(null_mut()),
        others: [const { AtomicPtr::new(null_mut()) }; MAX_OTHERS],
        count: AtomicUsize::new(0),
    }
}; SIGNALS.len()];
static CHANGES: Mutex<()> = Mutex::new(());

thread_local! {
    /// The number of other handlers that are running in this thread, each one called by the previous one.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// An address, and how many times in a row a fault there was passed on without effect.
    static IGNORED: Cell<(usize, u32)> = const { Cell::new((0, 0)) };
}

/// Creates an engine. With the first engine of the process, wasmtime installs its handlers.
pub fn install<T>(make_engine: impl FnOnce() -> T) -> T {
    let _guard = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
    if HANDLERS.iter().any(|handlers| !handlers.wasmtime.load(Acquire).is_null()) {
        return make_engine();
    }
    // wasmtime passes signals that it does not recognise to the previous handler. That must be ours.
    for (signal, handlers) in SIGNALS.into_iter().zip(&HANDLERS) {
        handlers.add(replace(signal, Some(&forwarding())));
    }
    let made = make_engine();
    for (signal, handlers) in SIGNALS.into_iter().zip(&HANDLERS) {
        let now = replace(signal, None);
        if now.sa_sigaction == forwarding().sa_sigaction {
            // SAFETY: `add` has stored a valid action there. wasmtime does not handle this signal here.
            replace(signal, Some(unsafe { &*handlers.others[0].load(Acquire) }));
        } else {
            handlers.wasmtime.store(Box::into_raw(Box::new(now)), Release);
        }
    }
    made
}

/// Puts wasmtime's handlers in front again.
pub fn keep() {
    for (signal, handlers) in SIGNALS.into_iter().zip(&HANDLERS) {
        // SAFETY: the pointer is null, or was leaked by `install`.
        let Some(ours) = (unsafe { handlers.wasmtime.load(Acquire).as_ref() }) else { continue };
        if replace(signal, None).sa_sigaction != ours.sa_sigaction {
            let _guard = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
            let other = replace(signal, Some(ours));
            if other.sa_sigaction != ours.sa_sigaction {
                handlers.add(other);
            }
        }
    }
}

impl Handlers {
    /// Adds a handler as the latest. If it is already known, it was restored, so the handlers after it are gone. Beyond
    /// MAX_OTHERS, the oldest handlers are forgotten.
    fn add(&self, other: sigaction) {
        let count = self.count.load(SeqCst);
        let known = (0..count).find(|&at| {
            // SAFETY: there are valid actions below `count`, and they are never freed.
            unsafe { (*self.others[at].load(Acquire)).sa_sigaction == other.sa_sigaction }
        });
        let at = known.unwrap_or(count % MAX_OTHERS);
        if known.is_none() {
            self.others[at].store(Box::into_raw(Box::new(other)), Release);
        }
        self.count.store(at + 1, SeqCst);
    }
}

/// Passes on a signal that does not come from a cell.
extern "C" fn forward(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(at) = SIGNALS.iter().position(|&known| known == signal) else { return };
    if memory::allow_write(address_of(info)) {
        return;
    }
    let handlers = &HANDLERS[at];
    // A handler that calls the previous one, or raises the signal again, gets the next older handler.
    let depth = DEPTH.get();
    let other = handlers.count.load(SeqCst).checked_sub(depth + 1).map(|at| handlers.others[at].load(Acquire));
    // SAFETY: there are valid actions below `count`, and they are never freed.
    let action = other.map_or(libc::SIG_DFL, |other| unsafe { (*other).sa_sigaction });
    if matches!(action, libc::SIG_DFL | libc::SIG_IGN) || is_endless(info) {
        // The process ends as it would without handlers: the faulting instruction runs again, or the signal is raised
        // again.
        replace(signal, Some(&default()));
        // SAFETY: the pointer comes from the kernel, or from a handler that passes the kernel's pointer on.
        if unsafe { (*info).si_code } <= 0 {
            // SAFETY: this call has no preconditions.
            unsafe { libc::raise(signal) };
        }
        return;
    }
    DEPTH.set(depth + 1);
    let before = registers(context);
    // SAFETY: the kernel would call the handler with the same arguments.
    unsafe {
        if (*other.unwrap_or(null_mut())).sa_flags & libc::SA_SIGINFO != 0 {
            transmute::<usize, extern "C" fn(c_int, *mut siginfo_t, *mut c_void)>(action)(signal, info, context);
        } else {
            transmute::<usize, extern "C" fn(c_int)>(action)(signal);
        }
    }
    DEPTH.set(depth);
    let (address, times) = IGNORED.get();
    let now = address_of(info);
    let ignored = before == registers(context);
    IGNORED.set((now, if ignored { if address == now { times + 1 } else { 1 } } else { 0 }));
}

/// Returns whether this fault was passed on many times without effect. For example, faulthandler returns at once when
/// it is disabled. Handlers that make memory accessible do so the first or second time.
fn is_endless(info: *const siginfo_t) -> bool {
    const MAX_TIMES: u32 = 16;
    let (address, times) = IGNORED.get();
    address == address_of(info) && times >= MAX_TIMES
}

fn address_of(info: *const siginfo_t) -> usize {
    // SAFETY: the pointer comes from the kernel, or from a handler that passes the kernel's pointer on.
    unsafe { (*info).si_addr() as usize }
}

/// Returns a fingerprint of the registers with which the thread continues. It does not allocate, because the fault may
/// be in the allocator.
fn registers(context: *const c_void) -> u64 {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: this is the kernel's context, which lives as long as the handler runs; any bytes are valid as u8.
    unsafe {
        #[cfg(target_vendor = "apple")]
        let machine = (*context).uc_mcontext;
        #[cfg(not(target_vendor = "apple"))]
        let machine = &raw const (*context).uc_mcontext;
        let bytes = slice::from_raw_parts(machine.cast::<u8>(), size_of_val(&*machine));
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

fn forwarding() -> sigaction {
    let mut action = default();
    action.sa_sigaction = forward as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
    action
}

fn default() -> sigaction {
    // SAFETY: an action of all zeros is valid; it is the default action.
    unsafe { zeroed() }
}

/// Installs an action, if one is given. Returns the action that was in force.
fn replace(signal: c_int, action: Option<&sigaction>) -> sigaction {
    let mut before = MaybeUninit::zeroed();
    // SAFETY: an action of all zeros is valid, and the kernel fills in the rest or nothing; handlers are never
    // unloaded.
    unsafe {
        libc::sigaction(signal, action.map_or(null(), |action| action), before.as_mut_ptr());
        before.assume_init()
    }
}
