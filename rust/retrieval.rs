//! BM25 search over passages on disk. Tantivy stores the postings, [`block_bounds`] searches them, and [`passages`]
//! stores the passages.
//!
//! An index has one field, which merges the title (once or several times) and the text. [`analyzer`] splits it into
//! words. A query is a bag of words: every string is a valid query, and a repeated word counts twice. Passages with equal
//! scores come in the order of indexing. The parameters k1 and b belong to a search, not to the index.
//!
//! An index is a [`folder`] that contains Tantivy's files, the files of the two modules, and metadata, which include
//! [`checksums`]. [`build`] creates it from passages or from [`jsonl`] files, as one memory-mapped segment. [`update`]
//! adds passages as further [`segments`], notes [`deletions`], and merges segments.
//!
//! Damage to an index is an error. Opening an index verifies all sizes and the contents of small files before it reads
//! them. [`Bm25Index::check`] verifies every byte. Panics caused by damaged files are caught. Each search first checks
//! that no file was truncated after it was mapped. There is one exception: if a file is truncated during a search,
//! reading past its new end kills the process (SIGBUS). Replace an index by building it again or by renaming folders,
//! never by writing into its files.
//!
//! Not supported: dense retrieval, and checking that the ids of a build are unique.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tantivy::tokenizer::TextAnalyzer;
use tantivy::{DocId, Index};

pub use self::analyzer::Language;
pub use self::build::BuildOptions;
pub use self::checksums::{Checksum, Checksums};
use self::folder::{files, read_metadata};
pub use self::jsonl::{Fields, Id, JsonlFile, Lines};
pub use self::page::MAX_PAGE_BYTES;
use self::segments::Segments;
pub use self::update::Bm25Builder;
use crate::error::{AtPath, Error, Result};
use crate::threads;

mod analyzer;
mod block_bounds;
mod build;
mod checksums;
mod deletions;
mod folder;
mod jsonl;
mod page;
mod passages;
mod segments;
mod update;

/// The version of the index format. It covers the analyzers, the schema, Tantivy's files and our own files.
///
/// Version 5 can have several segments and deletions. Version 4 normalises words (NFKC, case folding), keeps their
/// combining marks, and has checksums. Versions 3 and 4 can still be read.
pub const VERSION: u32 = 5;

const OLDEST_VERSION: u32 = 3;

/// The maximum number of distinct words and bytes of a query. The rest is ignored. These limits bound the time and
/// memory of a search.
const MAX_WORDS: usize = 1_024;
const MAX_QUERY_BYTES: usize = 1 << 20;

/// The maximum size in bytes of a file that is verified when the index is opened.
const VERIFIED_ON_OPEN: u64 = 4 << 20;

/// One passage. Its score belongs to the query that found it, and is 0 outside a search.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Passage {
    pub id: String,
    pub title: String,
    pub text: String,
    #[serde(default)]
    pub score: f32,
}

/// The properties of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    pub version: u32,
    /// The number of passages, without deleted ones.
    pub documents: u64,
    /// The number of passages left out because they could not be parsed.
    pub skipped: u64,
    pub language: Language,
    /// How many times the title is counted.
    pub title_weight: u32,
    /// The number of segments after the first one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub added_segments: usize,
    /// The checksums of all other files. Empty before version 4.
    #[serde(default)]
    pub checksums: Checksums,
}

/// Metadata of version 4 have no number of added segments, and their checksum does not cover one.
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The BM25 parameters of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// Term frequency saturation. With 0, only the presence of a word counts, not its frequency.
    pub k1: f32,
    /// Length normalisation, from 0 (none) to 1 (full).
    pub b: f32,
}

impl Default for Parameters {
    /// Returns the defaults of Lucene and Tantivy.
    fn default() -> Self {
        Self { k1: 1.2, b: 0.75 }
    }
}

impl Parameters {
    const MAX_K1: f32 = 100.0;

    fn check(self) -> Result<Self> {
        let Self { k1, b } = self;
        if !(0.0..=Self::MAX_K1).contains(&k1) {
            return Err(Error::Argument(format!("k1 is {k1}, and must be from 0 to {}", Self::MAX_K1)));
        }
        if !(0.0..=1.0).contains(&b) {
            return Err(Error::Argument(format!("b is {b}, and must be from 0 to 1")));
        }
        Ok(self)
    }
}

/// An open index. Threads can share it.
pub struct Bm25Index {
    path: PathBuf,
    metadata: Metadata,
    parameters: Parameters,
    bytes: u64,
    segments: Segments,
    analyzer: TextAnalyzer,
    mapped: Vec<Mapped>,
}

impl Bm25Index {
    /// Opens the index at `path` for searches with these parameters.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`] if there is no index, or if it is damaged or of an unsupported version; [`Error::Argument`]
    /// for parameters out of range.
    pub fn open(path: &Path, parameters: Parameters) -> Result<Self> {
        let parameters = parameters.check()?;
        at_one_time(path, || caught(path, || Self::open_files(path, parameters)))
    }

    fn open_files(path: &Path, parameters: Parameters) -> Result<Self> {
        let metadata = read_metadata(path)?;
        let small = |_: &str, bytes| bytes <= VERIFIED_ON_OPEN;
        checksums::verify(path, &metadata.checksums, small).map_err(|found| damaged(path, found))?;
        let unreadable = |error: tantivy::TantivyError| damaged(path, error);
        let segments = Segments::open(path, 1 + metadata.added_segments, parameters).map_err(unreadable)?;
        if segments.len() as u64 != metadata.documents {
            return Err(damaged(path, format!("it holds {} of {} passages", segments.len(), metadata.documents)));
        }
        let analyzer = metadata.language.analyzer(metadata.version);
        let mapped = Mapped::all(path).at(path)?;
        let bytes = mapped.iter().map(|file| file.bytes).sum();
        Ok(Self { path: path.to_owned(), metadata, parameters, bytes, segments, analyzer, mapped })
    }

    /// Verifies every byte of the index that is now at the path. An index of version 3 has no checksums, so only
    /// Tantivy's own files are verified.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`], which names the damaged files.
    pub fn check(&self) -> Result<()> {
        let path = &*self.path;
        at_one_time(path, || {
            caught(path, || {
                let metadata = read_metadata(path)?;
                checksums::verify(path, &metadata.checksums, |_, _| true).map_err(|found| damaged(path, found))?;
                let unreadable = |error: tantivy::TantivyError| damaged(path, error);
                for segment in 0..=metadata.added_segments {
                    let tantivy = Index::open_in_dir(segments::folder(path, segment)).map_err(unreadable)?;
                    if let Some(name) = tantivy.validate_checksum().map_err(unreadable)?.iter().next() {
                        return Err(damaged(path, format!("{} is not what was written", name.display())));
                    }
                }
                Ok(())
            })
        })
    }

    /// Returns the `k` passages with the highest scores, best first. There are fewer if fewer passages share a word
    /// with the query.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if `k` is 0; [`Error::Retrieval`] if the index can no longer be read.
    pub fn search(&self, query: &str, k: usize) -> Result<Vec<Passage>> {
        self.search_with(&mut self.analyzer.clone(), query, k)
    }

    /// Runs [`search`](Self::search) for each query, on all cores.
    ///
    /// # Errors
    ///
    /// The errors of [`search`](Self::search).
    pub fn search_batch<Q: AsRef<str> + Sync>(&self, queries: &[Q], k: usize) -> Result<Vec<Vec<Passage>>> {
        let one = |analyzer: &mut TextAnalyzer, query: &Q| self.search_with(analyzer, query.as_ref(), k);
        threads::share(|| queries.par_iter().map_init(|| self.analyzer.clone(), one).collect())
    }

    /// Returns the first passage whose number is at least `number`, with its number; `None` after the last passage.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`] if the index can no longer be read.
    pub fn next_passage(&self, number: DocId) -> Result<Option<(DocId, Passage)>> {
        let read = |number| self.passage(number, 0.0).map(|passage| (number, passage));
        self.segments.from(number).next().map(read).transpose()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub fn parameters(&self) -> Parameters {
        self.parameters
    }

    pub fn segments(&self) -> usize {
        self.segments.count()
    }

    /// Returns the number of deleted passages that the segments still contain.
    pub fn deleted(&self) -> usize {
        self.segments.deleted()
    }

    /// Returns the size on disk in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn search_with(&self, analyzer: &mut TextAnalyzer, query: &str, k: usize) -> Result<Vec<Passage>> {
        self.find(analyzer, query, k)?.into_iter().map(|(score, number)| self.passage(number, score)).collect()
    }

    /// Like [`search`](Self::search), but first passes the total size of the passages in bytes to `accept`. If `accept`
    /// returns false, no passage is read and the result is `None`.
    ///
    /// # Errors
    ///
    /// The errors of [`search`](Self::search).
    pub fn search_if(&self, query: &str, k: usize, accept: impl FnOnce(u64) -> bool) -> Result<Option<Vec<Passage>>> {
        let found = self.find(&mut self.analyzer.clone(), query, k)?;
        let size = |&(_, number): &(f32, DocId)| self.segments.size(number).map_err(|error| damaged(&self.path, error));
        if !accept(found.iter().map(size).sum::<Result<u64>>()?) {
            return Ok(None);
        }
        found.into_iter().map(|(score, number)| self.passage(number, score)).collect::<Result<_>>().map(Some)
    }

    fn find(&self, analyzer: &mut TextAnalyzer, query: &str, k: usize) -> Result<Vec<(f32, DocId)>> {
        if k == 0 {
            return Err(Error::Argument("k must be at least 1".to_owned()));
        }
        if let Some(cut) = self.mapped.iter().find(|file| file.is_cut()) {
            return Err(damaged(&self.path, format!("{} was cut while it was open", cut.name)));
        }
        caught(&self.path, || self.segments.top(&terms(analyzer, query), k).map_err(|error| damaged(&self.path, error)))
    }

    fn passage(&self, number: DocId, score: f32) -> Result<Passage> {
        self.segments.get(number, score).map_err(|error| damaged(&self.path, error))
    }
}

/// A file of an index, and its size when it was mapped.
struct Mapped {
    name: String,
    file: File,
    bytes: u64,
}

impl Mapped {
    fn all(folder: &Path) -> io::Result<Vec<Self>> {
        let open = |name: String| {
            let file = File::open(folder.join(&name))?;
            let bytes = file.metadata()?.len();
            Ok(Self { name, file, bytes })
        };
        files(folder)?.into_iter().map(open).collect()
    }

    fn is_cut(&self) -> bool {
        self.file.metadata().is_ok_and(|file| file.len() < self.bytes)
    }
}

/// Reads files of the index at `path`, and repeats this if another index replaced it meanwhile. The result never mixes
/// the files of two indexes.
fn at_one_time<T>(path: &Path, read: impl Fn() -> T) -> T {
    let identity = || fs::metadata(path).map(|folder| (folder.dev(), folder.ino())).ok();
    loop {
        let before = identity();
        let read = read();
        if identity() == before {
            return read;
        }
    }
}

/// Runs code that reads the files of an index. Tantivy and other libraries assume that files are intact, so a panic
/// means that the index is damaged.
fn caught<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(damaged(path, crate::error::panic_message(&*panic))))
}

fn damaged(path: &Path, found: impl std::fmt::Display) -> Error {
    let advice = "`agentdistill index check` says which files; build it again";
    Error::retrieval(path, format!("the index is damaged ({found}); {advice}"))
}

/// Returns the query's words with their counts. They are sorted, so that equal queries add up their scores in the same
/// order.
fn terms(analyzer: &mut TextAnalyzer, query: &str) -> BTreeMap<String, usize> {
    let mut terms = BTreeMap::new();
    let mut tokens = analyzer.token_stream(&query[..query.floor_char_boundary(MAX_QUERY_BYTES)]);
    while tokens.advance() {
        let word = &tokens.token().text;
        if let Some(count) = terms.get_mut(word) {
            *count += 1;
        } else if terms.len() < MAX_WORDS {
            terms.insert(word.clone(), 1);
        } else {
            break;
        }
    }
    terms
}
