//! Stores the passages of an index by number. A search returns them.
//!
//! [`FILE`] contains the passages one after another, and [`ENDS`] contains their end positions. Neither file is
//! compressed. Passages are read with system calls and are not memory-mapped. Compared with Tantivy's document store,
//! this is several times as fast, keeps nothing resident, and takes half as much disk space again. If the file shrinks,
//! reading it is an error and does not kill the process.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use tantivy::directory::{Directory, MmapDirectory, OwnedBytes};
use tantivy::error::DataCorruption;

use super::Passage;

/// For each passage: text, title, id, and then the lengths of text and title in eight bytes each. Numbers are
/// little-endian.
pub(super) const FILE: &str = "passages";

/// Eight bytes for each passage: its end in [`FILE`].
const ENDS: &str = "passage_ends";

/// Passages encoded as they will be in [`FILE`].
#[derive(Default)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
    /// The end of each passage.
    ends: Vec<usize>,
}

impl Encoded {
    pub(super) fn push(&mut self, Passage { id, title, text, .. }: &Passage) {
        [text, title, id].iter().for_each(|part| self.bytes.extend(part.as_bytes()));
        [text, title].iter().for_each(|part| self.bytes.extend((part.len() as u64).to_le_bytes()));
        self.ends.push(self.bytes.len());
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

pub(super) struct PassageWriter {
    file: BufWriter<File>,
    ends: BufWriter<File>,
    end: u64,
}

impl PassageWriter {
    /// Creates `folder` and writes into it.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        fs::create_dir(folder)?;
        let create = |name| Ok::<_, io::Error>(BufWriter::with_capacity(1 << 16, File::create_new(folder.join(name))?));
        Ok(Self { file: create(FILE)?, ends: create(ENDS)?, end: 0 })
    }

    pub(super) fn add(&mut self, passages: &Encoded) -> io::Result<()> {
        self.file.write_all(&passages.bytes)?;
        passages.ends.iter().try_for_each(|&end| self.ends.write_all(&(self.end + end as u64).to_le_bytes()))?;
        self.end += passages.bytes.len() as u64;
        Ok(())
    }

    /// Completes the files and moves them to the folder `to`.
    pub(super) fn finish(mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.file.flush()?;
        self.ends.flush()?;
        [FILE, ENDS].iter().try_for_each(|name| fs::rename(from.join(name), to.join(name)))
    }
}

pub(super) struct Passages {
    file: File,
    ends: OwnedBytes,
    bytes: u64,
}

impl Passages {
    pub(super) fn open(folder: &Path) -> tantivy::Result<Self> {
        let ends = MmapDirectory::open(folder)?.open_read(Path::new(ENDS))?.read_bytes()?;
        let file = File::open(folder.join(FILE))?;
        let bytes = file.metadata()?.len();
        let passages = Self { file, ends, bytes };
        let end = passages.ends().last().map_or(0, |&end| u64::from_le_bytes(end));
        if end != bytes || !passages.ends.len().is_multiple_of(8) {
            return Err(DataCorruption::comment_only(format!("{FILE} is damaged")).into());
        }
        Ok(passages)
    }

    pub(super) fn len(&self) -> usize {
        self.ends().len()
    }

    /// Returns the size of a passage in bytes.
    pub(super) fn size(&self, number: usize) -> io::Result<u64> {
        self.range(number).map(|range| range.end - range.start)
    }

    pub(super) fn get(&self, number: usize, score: f32) -> io::Result<Passage> {
        let range = self.range(number)?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.file.read_exact_at(&mut bytes, range.start)?;
        let passage = decode(bytes).ok_or_else(|| damaged(number))?;
        Ok(Passage { score, ..passage })
    }

    /// Reads all passages in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = io::Result<Passage>> {
        (0..self.len()).map(|number| self.get(number, 0.0))
    }

    /// Returns the range of a passage in the file.
    fn range(&self, number: usize) -> io::Result<Range<u64>> {
        let end = |number: usize| self.ends().get(number).map(|&end| u64::from_le_bytes(end));
        let start = number.checked_sub(1).map_or(Some(0), end);
        let range = start.zip(end(number)).map(|(start, end)| start..end);
        range.filter(|range| range.start <= range.end && range.end <= self.bytes).ok_or_else(|| damaged(number))
    }

    fn ends(&self) -> &[[u8; 8]] {
        self.ends.as_chunks().0
    }
}

fn damaged(number: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("passage {number} is damaged"))
}

/// The size of the two lengths in bytes.
const LENGTHS: usize = 16;

/// Decodes a passage from the bytes that [`Encoded::push`] wrote.
fn decode(mut bytes: Vec<u8>) -> Option<Passage> {
    let (rest, &lengths) = bytes.split_last_chunk::<LENGTHS>()?;
    let [text, title] = [&lengths[..8], &lengths[8..]]
        .map(|length| u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize);
    bytes.truncate(rest.len());
    let mut whole = String::from_utf8(bytes).ok()?;
    let (title, id) = whole.split_at_checked(text)?.1.split_at_checked(title)?;
    let (title, id) = (title.to_owned(), id.to_owned());
    whole.truncate(text);
    Some(Passage { id, title, text: whole, score: 0.0 })
}
