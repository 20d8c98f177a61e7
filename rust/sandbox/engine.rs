//! What compiler (build.rs, which includes this file) and runtime must agree on about the machine.

use wasmtime::Config;

/// Address of the word that stops the guest when it is not 0 (guest/stop_checks.rs). The first page of the image is unused.
pub const STOP_WORD: u32 = 8;

/// Pages of the guest are counted by this size in every State, whatever the host's page size is.
#[allow(dead_code)] // build.rs has no use for it
pub const WASM_PAGE: usize = 64 << 10;

pub fn config() -> Config {
    let mut config = Config::new();
    config.concurrency_support(false);
    // Time is limited by STOP_WORD, which costs less than wasmtime's epochs (27 %) or fuel (more).
    config.epoch_interruption(false).consume_fuel(false);
    // 4 GiB of address space and a guard behind it: no access needs a bounds check. Explicit checks and traps without signals
    // would cost 15 to 20 % and double the code.
    config.memory_reservation(4 << 30).memory_guard_size(32 << 20);
    config.wasm_backtrace_max_frames(None).native_unwind_info(false).generate_address_map(false);
    config
}
