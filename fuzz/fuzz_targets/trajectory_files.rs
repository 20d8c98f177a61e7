//! Opens a file of any bytes as a trajectory file. It must be read or refused, and a writer that refuses it must not
//! change it.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use agentdistill::formats::{Format, Reader};
use agentdistill::trajectory::{TrajectoryWriter, read_header};
use libfuzzer_sys::fuzz_target;

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("fuzz-trajectories-{}.jsonl", std::process::id())));

fuzz_target!(|bytes: &[u8]| {
    fs::write(&*FILE, bytes).unwrap();
    for format in [None].into_iter().chain(Format::ALL.map(Some)) {
        let mut reader = Reader::new(&[FILE.clone()], format);
        while let Ok(Some(trajectories)) = reader.next_block(|trajectory| trajectory) {
            for trajectory in trajectories {
                let again = Format::Agentdistill.read(trajectory.to_json().as_bytes()).unwrap();
                assert!(again.to_json() == trajectory.to_json());
                let _ = Format::ALL.map(|format| format.write(&trajectory));
            }
        }
    }
    let _ = read_header(&FILE);
    if TrajectoryWriter::open(&FILE, "{}").is_err() {
        assert!(fs::read(&*FILE).unwrap() == bytes);
    } else {
        TrajectoryWriter::open(&FILE, "{}").unwrap();
    }
});
