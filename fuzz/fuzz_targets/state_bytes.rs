//! Bytes of a State, from anybody: refused, or a State like any other.
#![no_main]

use std::sync::LazyLock;

use agentdistill::sandbox::{Limits, Sandbox, State, Tools};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    let limits = Limits { seconds: 0.5, hard_seconds: 0.5, memory_mb: 16, ..Limits::default() };
    Sandbox::new(Tools::new(), limits, 0, Some(1)).unwrap()
});

fuzz_target!(|data: &[u8]| {
    let _ = State::from_bytes(data, None, SANDBOX.limits());
    // No fuzzer guesses a checksum: as the body of a State, compressed, the same data get further.
    let body = zstd::bulk::compress(data, 1).unwrap();
    let mut bytes = SANDBOX.initial().to_bytes(None);
    bytes.truncate(72);
    bytes.extend_from_slice(&Sha256::digest(&body));
    bytes.extend(body);
    if let Ok(state) = State::from_bytes(&bytes, None, SANDBOX.limits()) {
        SANDBOX.run(&state, "1 + 1").unwrap();
        let bytes = state.to_bytes(None);
        assert_eq!(State::from_bytes(&bytes, None, SANDBOX.limits()).unwrap().to_bytes(None), bytes);
    }
});
