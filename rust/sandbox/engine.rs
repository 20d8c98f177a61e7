//! The settings that the compiler of the guest (build.rs, which includes this file) and its runtime share.

use wasmtime::Config;

/// The address of the word that stops the guest if it is not 0 (guest/stop_checks.rs). It is in the first page of the
/// image, which is unused.
pub const STOP_WORD: u32 = 8;

/// The page size of WASM. It does not depend on the host's page size.
#[allow(dead_code)] // build.rs does not use it
pub const WASM_PAGE: usize = 64 << 10;

pub fn config() -> Config {
    let mut config = Config::new();
    config.concurrency_support(false);
    // STOP_WORD limits the time. Wasmtime's epochs would cost 27 %, and its fuel more.
    config.epoch_interruption(false).consume_fuel(false);
    // With 4 GiB of address space and a guard after it, accesses need no bounds checks. Explicit checks, which need no
    // signal handlers, would cost 15 to 20 % and double the code.
    config.memory_reservation(4 << 30).memory_guard_size(32 << 20);
    config.wasm_backtrace_max_frames(None).native_unwind_info(false).generate_address_map(false);
    config
}
