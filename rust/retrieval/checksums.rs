//! Checksums of an index's files. They turn a changed byte into an error, instead of a wrong result.
//!
//! CRC-32 detects damage but not forgery: anyone who can write to an index controls its content.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::folder::{METADATA, files};

/// The size and checksum of a file when the index was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    bytes: u64,
    crc32: u32,
}

/// Checksums by file name.
pub type Checksums = BTreeMap<String, Checksum>;

/// Computes the checksums of all files of an index, except for those that are `known` and for the metadata file that
/// will hold them.
pub(super) fn compute(folder: &Path, mut known: Checksums) -> io::Result<Checksums> {
    for name in files(folder)? {
        if name != METADATA && !name.ends_with(".lock") && !known.contains_key(&name) {
            let checksum = compute_one(&folder.join(&name))?;
            known.insert(name, checksum);
        }
    }
    Ok(known)
}

/// Verifies the sizes of all files, and the contents of those for which `counts` returns true. It gets the file's name
/// and size.
///
/// # Errors
///
/// A message that names the files that have changed.
pub(super) fn verify(folder: &Path, expected: &Checksums, counts: impl Fn(&str, u64) -> bool) -> Result<(), String> {
    let differs = |(name, expected): (&String, &Checksum)| {
        let path = folder.join(name);
        let found = fs::metadata(&path).and_then(|file| match counts(name, expected.bytes) {
            true => compute_one(&path),
            false => Ok(Checksum { bytes: file.len(), ..*expected }),
        });
        match found {
            Ok(found) if found == *expected => None,
            Ok(_) => Some(format!("{name} is not what was written")),
            Err(error) => Some(format!("{name}: {error}")),
        }
    };
    let found: Vec<String> = expected.iter().filter_map(differs).collect();
    if found.is_empty() { Ok(()) } else { Err(found.join("; ")) }
}

fn compute_one(path: &Path) -> io::Result<Checksum> {
    let mut file = File::open(path)?;
    let mut crc32 = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Checksum { bytes, crc32: crc32.finalize() }),
            read => {
                crc32.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}
