//! Finds the records of a JSON file, one block at a time: one record for each line, a list of records, or records one
//! after another.
//!
//! Records are only located here. They are parsed elsewhere, on all cores. A file may be compressed.

use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memchr::memchr_iter;
use serde::de::IgnoredAny;

use crate::error::{AtPath, Error, Result};
use crate::text_file::TextFile;
use crate::threads;

/// The number of bytes read at once for each thread. The data parsed from them fits into a core's cache, so it is still
/// cached when it is used and freed.
const BLOCK: usize = 256 << 10;

/// The maximum size of a record in bytes. Records are read whole, and a compressed file can contain one of any size.
const MAX_RECORD: usize = 64 << 20;

/// How a file is divided into records.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    Lines,
    /// JSON values one after another. Each may span several lines.
    Values,
    /// The elements of a list.
    Elements,
}

/// A file of records.
pub struct Records {
    path: PathBuf,
    file: TextFile,
    /// The data read from the file: the current block, then the start of the next one, then free space.
    buffer: Vec<u8>,
    given: usize,
    end: usize,
    /// The range of each record of the block in the buffer, and its line number.
    block: Vec<(Range<usize>, u64)>,
    /// Whether the last record of the block may be incomplete.
    torn: bool,
    line: u64,
    layout: Layout,
    scan: Scan,
}

/// A record. `torn` is set if the file ends right after it, without a newline.
pub struct Record<'a> {
    pub json: &'a [u8],
    pub line: u64,
    pub torn: bool,
}

impl Records {
    /// Opens a file. `is_one` gets a list's first element, and returns whether the list itself is one record rather
    /// than a list of records.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Io`]; [`crate::Error::Trajectory`] if the file is a table.
    pub fn open(path: &Path, is_one: impl Fn(&[u8]) -> bool) -> Result<Self> {
        let mut records = Self::lines(path)?;
        if let Some(kind) = table(&records.buffer[..records.end]) {
            let why = format!("this is a table ({kind}), and no text: `convert` reads tables");
            return Err(Error::trajectory((path, 1), why));
        }
        records.layout = find_layout(&records.buffer[..records.end], is_one);
        Ok(records)
    }

    /// Opens a file with one record for each line.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Io`].
    pub fn lines(path: &Path) -> Result<Self> {
        let mut records = Self {
            path: path.to_owned(),
            file: TextFile::open(path)?,
            buffer: Vec::new(),
            given: 0,
            end: 0,
            block: Vec::new(),
            torn: false,
            line: 1,
            layout: Layout::Lines,
            scan: Scan::default(),
        };
        records.read()?;
        if records.buffer[..records.end].starts_with(b"\xef\xbb\xbf") {
            records.given = 3;
            records.drop_given();
        }
        Ok(records)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_compressed(&self) -> bool {
        self.file.is_compressed()
    }

    pub fn bytes_read(&self) -> u64 {
        self.file.bytes_read()
    }

    /// Advances to the next block of records. Returns false at the end of the file.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Io`]; [`crate::Error::Trajectory`] if a record is too long.
    pub fn next_block(&mut self) -> Result<bool> {
        self.block.clear();
        loop {
            self.drop_given();
            let ended = !self.read()?;
            let text = &self.buffer[..self.end];
            self.given = match self.layout {
                Layout::Lines => lines(text, &mut self.line, &mut self.block, ended),
                Layout::Values => self.scan.find(text, 0, &mut self.line, &mut self.block, ended),
                Layout::Elements => self.scan.find(text, 1, &mut self.line, &mut self.block, ended),
            };
            let unfinished = (self.given..self.end, self.scan.start.map_or(self.line, |(_, line)| line));
            let mut all = self.block.iter().chain([&unfinished]);
            if let Some((_, line)) = all.find(|(range, _)| range.len() > MAX_RECORD) {
                let why = format!("a record of more than {} MiB, which is the most that is read", MAX_RECORD >> 20);
                return Err(Error::trajectory((self.path.as_path(), *line), why));
            }
            self.torn = ended && text.last().is_some_and(|&last| last != b'\n');
            if !self.block.is_empty() || ended {
                return Ok(!self.block.is_empty());
            }
        }
    }

    /// Returns the number of records in the block.
    pub fn len(&self) -> usize {
        self.block.len()
    }

    /// Returns a record of the block.
    pub fn get(&self, index: usize) -> Record<'_> {
        let (range, line) = &self.block[index];
        Record { json: &self.buffer[range.clone()], line: *line, torn: self.torn && index + 1 == self.block.len() }
    }

    fn drop_given(&mut self) {
        self.buffer.copy_within(self.given..self.end, 0);
        self.end -= self.given;
        self.scan.moved(self.given);
        self.given = 0;
    }

    /// Reads more data. Returns whether there was any.
    fn read(&mut self) -> Result<bool> {
        // A record longer than a block is scanned again after each read, so the buffer doubles to keep this rare.
        let more = (BLOCK * threads::count()).max(self.end.min(MAX_RECORD));
        let before = self.end;
        self.buffer.resize(self.buffer.len().max(before + more), 0);
        while self.end < before + more {
            match self.file.read(&mut self.buffer[self.end..before + more]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).at(&self.path),
            }
        }
        Ok(self.end > before)
    }
}

/// Finds the records in whole lines, and returns the length of these lines.
fn lines(text: &[u8], line: &mut u64, found: &mut Vec<(Range<usize>, u64)>, ended: bool) -> usize {
    let mut start = 0;
    let ends = memchr_iter(b'\n', text).map(|newline| newline + 1);
    for end in ends.chain(ended.then_some(text.len())) {
        if !text[start..end].trim_ascii().is_empty() {
            found.push((start..end, *line));
        }
        start = end;
        *line += 1;
    }
    start
}

/// Returns the kind of table that starts with these bytes.
fn table(start: &[u8]) -> Option<&'static str> {
    match start {
        [b'P', b'A', b'R', b'1', ..] => Some("Parquet"),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] => Some("Arrow"),
        _ => None,
    }
}

fn find_layout(text: &[u8], is_one: impl Fn(&[u8]) -> bool) -> Layout {
    let text = text.trim_ascii_start();
    if text.first() == Some(&b'[') {
        let mut found = Vec::new();
        Scan::default().find(text, 1, &mut 0, &mut found, false);
        return match found.first() {
            Some((first, _)) if is_one(&text[first.clone()]) => Layout::Values,
            _ => Layout::Elements,
        };
    }
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let is_whole = line.len() < text.len() && serde_json::from_slice::<IgnoredAny>(line).is_ok();
    let is_several = text.get(line.len()..).is_some_and(|rest| rest.trim_ascii().first() == Some(&b'{'));
    if is_whole || is_several { Layout::Lines } else { Layout::Values }
}

/// The state of a scan through JSON that arrives in pieces.
#[derive(Default)]
struct Scan {
    at: usize,
    depth: usize,
    in_string: bool,
    /// The start of the current record, and its line number.
    start: Option<(usize, u64)>,
}

impl Scan {
    /// Scans to the end of `text`, and adds the records that start inside `level` brackets. Returns the number of bytes
    /// that are no longer needed.
    fn find(
        &mut self,
        text: &[u8],
        level: usize,
        line: &mut u64,
        found: &mut Vec<(Range<usize>, u64)>,
        ended: bool,
    ) -> usize {
        while let Some(&byte) = text.get(self.at) {
            let here = self.at;
            self.at += 1;
            if self.in_string {
                match byte {
                    b'\\' => self.at += 1, // skip the escaped character, whatever it is
                    b'"' => self.in_string = false,
                    b'\n' => *line += 1,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'\n' => *line += 1,
                b' ' | b'\t' | b'\r' => {}
                b',' | b'[' if self.start.is_none() && self.depth < level => {
                    self.depth += usize::from(byte == b'[');
                }
                b',' if self.depth == level && level > 0 => {
                    // A scalar ends here. It is not a valid record, and will be reported later.
                    found.extend(self.start.take().map(|(start, line)| (start..here, line)));
                }
                b']' if self.depth == level && level > 0 => {
                    found.extend(self.start.take().map(|(start, line)| (start..here, line)));
                    self.depth -= 1;
                }
                b'[' | b'{' => {
                    if self.depth == level && self.start.is_none() {
                        self.start = Some((here, *line));
                    }
                    self.depth += 1;
                }
                b']' | b'}' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.start.is_none() {
                        self.start = Some((here, *line)); // a surplus closing bracket
                    }
                    if self.depth <= level {
                        found.extend(self.start.take().map(|(start, line)| (start..self.at, line)));
                    }
                }
                _ => {
                    self.in_string = byte == b'"';
                    if self.start.is_none() {
                        self.start = Some((here, *line));
                    }
                }
            }
        }
        if ended {
            let open = self.depth > 0;
            match self.start.take() {
                Some((start, line)) => found.push((start..text.len(), line)),
                None if open => found.push((text.len()..text.len(), *line)), // a list without an end
                None => {}
            }
            self.depth = 0;
            return text.len();
        }
        self.start.map_or(text.len(), |(start, _)| start)
    }

    /// Adjusts positions after that many bytes were removed from the start of the text.
    fn moved(&mut self, bytes: usize) {
        self.at -= bytes.min(self.at);
        if let Some((start, _)) = &mut self.start {
            *start -= bytes;
        }
    }
}
