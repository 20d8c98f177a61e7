//! The passages of an index, by number: what a search returns.
//!
//! [`FILE`] holds them one after the other; [`ENDS`] where each ends. Neither is compressed, and a passage is read, not
//! mapped: that is several times as fast as Tantivy's document store, leaves nothing resident, and a file that has
//! shrunk is an error instead of the process's end. It takes half as much disk again.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use tantivy::directory::{Directory, MmapDirectory, OwnedBytes};
use tantivy::error::DataCorruption;

use super::Passage;

/// Each passage: text, title, id, then the lengths of text and title in eight bytes each. Numbers are little-endian.
const FILE: &str = "passages";

/// For each passage eight bytes.
const ENDS: &str = "passage_ends";

pub(super) struct PassageWriter {
    file: BufWriter<File>,
    ends: BufWriter<File>,
    end: u64,
}

impl PassageWriter {
    /// Writes into `folder`, which it makes.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        fs::create_dir(folder)?;
        let create = |name| Ok::<_, io::Error>(BufWriter::with_capacity(1 << 16, File::create_new(folder.join(name))?));
        Ok(Self { file: create(FILE)?, ends: create(ENDS)?, end: 0 })
    }

    pub(super) fn add(&mut self, Passage { id, title, text, .. }: &Passage) -> io::Result<()> {
        for part in [text, title, id] {
            self.file.write_all(part.as_bytes())?;
        }
        for part in [text, title] {
            self.file.write_all(&(part.len() as u64).to_le_bytes())?;
        }
        self.end += (text.len() + title.len() + id.len() + LENGTHS) as u64;
        self.ends.write_all(&self.end.to_le_bytes())
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
}

impl Passages {
    pub(super) fn open(folder: &Path) -> tantivy::Result<Self> {
        let ends = MmapDirectory::open(folder)?.open_read(Path::new(ENDS))?.read_bytes()?;
        let passages = Self { file: File::open(folder.join(FILE))?, ends };
        let end = passages.ends().last().map_or(0, |&end| u64::from_le_bytes(end));
        if end != passages.file.metadata()?.len() {
            return Err(DataCorruption::comment_only(format!("{FILE} is damaged")).into());
        }
        Ok(passages)
    }

    pub(super) fn len(&self) -> usize {
        self.ends().len()
    }

    pub(super) fn get(&self, number: usize, score: f32) -> io::Result<Passage> {
        let ends = self.ends();
        let end = |number: usize| u64::from_le_bytes(ends[number]);
        let start = number.checked_sub(1).map_or(0, end);
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("passage {number} is damaged"));
        let mut bytes = vec![0; end(number).checked_sub(start).ok_or_else(damaged)? as usize];
        self.file.read_exact_at(&mut bytes, start)?;
        let (rest, &lengths) = bytes.split_last_chunk::<LENGTHS>().ok_or_else(damaged)?;
        let [text, title] = [&lengths[..8], &lengths[8..]]
            .map(|length| u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize);
        bytes.truncate(rest.len());
        let mut whole = String::from_utf8(bytes).map_err(|_| damaged())?;
        let (_, rest) = whole.split_at_checked(text).ok_or_else(damaged)?;
        let (title, id) = rest.split_at_checked(title).ok_or_else(damaged)?;
        let (title, id) = (title.to_owned(), id.to_owned());
        whole.truncate(text);
        Ok(Passage { id, title, text: whole, score })
    }

    fn ends(&self) -> &[[u8; 8]] {
        self.ends.as_chunks().0
    }
}

/// Bytes of the two lengths.
const LENGTHS: usize = 16;
