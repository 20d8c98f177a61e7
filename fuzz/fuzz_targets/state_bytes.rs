//! Reads the bytes of a State from an untrusted source. They must be refused, or give a State like any other.
//!
//! The same data is used in three ways, each of which gets further than the previous one: as the bytes; as the body of
//! a State, compressed and with the checksum that no fuzzer guesses; and as choices in a consistent body over the base
//! State (`rust/sandbox/bytes.rs` describes the layout).
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use agentdistill::sandbox::{Limits, Sandbox, State, Tools};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};

/// The number of bytes before the checksum, and before the body.
const CHECKSUM: usize = 72;
const BODY: usize = CHECKSUM + 32;
const WASM_PAGE: u64 = 64 << 10;

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    let limits = Limits { seconds: 0.05, hard_seconds: 0.05, memory_mb: 17, ..Limits::default() };
    Sandbox::new(Tools::new(), limits, 0, Some(1)).unwrap()
});
static BASE: LazyLock<Base> = LazyLock::new(|| {
    let (_, state) = SANDBOX.run(SANDBOX.initial(), "x = [str(i) for i in range(99)]").unwrap();
    Base::new(state)
});

fuzz_target!(|data: &[u8]| {
    let _ = State::from_bytes(data, None, SANDBOX.limits());
    let alone = SANDBOX.initial().to_bytes(None).unwrap();
    enter(&forged(&alone, data), None);
    let over_base = BASE.state.to_bytes(Some(&BASE.state)).unwrap();
    enter(&forged(&over_base, data), Some(&BASE.state));
    if let Ok(body) = BASE.changed(&mut Unstructured::new(data)) {
        assert!(enter(&forged(&over_base, &body), Some(&BASE.state)), "a body that fits together was refused");
    }
});

/// Returns genuine bytes with another body.
fn forged(genuine: &[u8], body: &[u8]) -> Vec<u8> {
    let body = zstd::bulk::compress(body, 1).unwrap();
    [&genuine[..CHECKSUM], &Sha256::digest(&body), &body].concat()
}

/// Runs a cell from these bytes if they are a State. Before and after the cell, the State is converted to bytes and
/// back.
fn enter(bytes: &[u8], base: Option<&State>) -> bool {
    let limits = SANDBOX.limits();
    let Ok(state) = State::from_bytes(bytes, base, limits) else { return false };
    let (_, next) = SANDBOX.run(&state, "y = 1 + 1").unwrap();
    for (state, base) in [(&state, None), (&next, Some(&state))] {
        let back = State::from_bytes(&state.to_bytes(base).unwrap(), base, limits).unwrap();
        assert!(back.to_bytes(Some(state)).unwrap() == state.to_bytes(Some(state)).unwrap(), "not the same any more");
    }
    true
}

/// A State whose pages are changed.
struct Base {
    state: State,
    size: u64,
    /// The index and mask of each page.
    pages: Vec<(u32, u64)>,
}

impl Base {
    fn new(state: State) -> Self {
        let body = zstd::decode_all(&state.to_bytes(None).unwrap()[BODY..]).unwrap();
        let (numbers, rest) = body.split_at(40);
        let number = |at: usize| u64::from_le_bytes(numbers[at * 8..][..8].try_into().unwrap());
        let (indexes, rest) = rest.split_at(number(4) as usize * 4);
        let indexes = indexes.as_chunks().0.iter().map(|&index| u32::from_le_bytes(index));
        let masks = rest.as_chunks().0.iter().map(|&mask| u64::from_le_bytes(mask));
        Self { size: number(3), pages: indexes.zip(masks).collect(), state }
    }

    fn changed(&self, data: &mut Unstructured) -> Result<Vec<u8>> {
        let world: [u64; 3] = data.arbitrary()?;
        let size = self.size + data.int_in_range(0..=16)? * WASM_PAGE;
        // One of the base's pages or a page that it does not have; the lines to keep, and the new lines.
        let choices: Vec<(u16, u64, u64)> = data.arbitrary()?;
        let old: BTreeMap<u32, u64> = self.pages.iter().copied().collect();
        let mut changes = BTreeMap::new();
        for (page, keep, fresh) in choices {
            let index = self.pages.get(page as usize).map_or(page.into(), |(index, _)| *index);
            if u64::from(index + 1) * 4096 <= size {
                changes.insert(index, (fresh | keep & old.get(&index).unwrap_or(&0), fresh));
            }
        }
        let lines = changes.values().map(|(_, fresh)| fresh.count_ones() as usize).sum();
        let differing: Vec<u16> = (0..lines).map(|_| data.arbitrary()).collect::<Result<_>>()?; // zero if data runs out
        let mut words = vec![0; 4 * differing.iter().map(|words| words.count_ones() as usize).sum::<usize>()];
        data.fill_buffer(&mut words)?;
        let numbers = world.into_iter().chain([size, changes.len() as u64]);
        let mut body: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
        body.extend(changes.keys().flat_map(|index| index.to_le_bytes()));
        body.extend(changes.values().flat_map(|(mask, _)| mask.to_le_bytes()));
        body.extend(changes.values().flat_map(|(_, fresh)| fresh.to_le_bytes()));
        body.extend(differing.iter().flat_map(|words| words.to_le_bytes()));
        body.extend(words);
        Ok(body)
    }
}
