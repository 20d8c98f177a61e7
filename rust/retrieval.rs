//! BM25 over passages on disk: Tantivy's postings, searched by [`block_bounds`]; the passages themselves are in
//! [`passages`].
//!
//! One merged field, title (once or oftener) and text, with Tantivy's k1 1.2 and b 0.75; words are what [`analyzer`]
//! makes of them; one segment, memory-mapped. A query is a bag of words: every string is one, and a word said twice
//! counts twice. Equal scores come in the order of indexing.
//!
//! Not here: dense retrieval, changing an index (build it again), and making sure that ids are unique.
//!
//! An index is a folder: Tantivy's files, those of the two modules, and [`METADATA`]. [`build`] makes it, from passages
//! or from [`jsonl`] files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tantivy::error::DataCorruption;
use tantivy::schema::Field;
use tantivy::tokenizer::TextAnalyzer;
use tantivy::{Index, ReloadPolicy, SegmentReader};

pub use self::analyzer::Language;
use self::block_bounds::BlockBounds;
pub use self::build::{Bm25Builder, BuildOptions};
pub use self::jsonl::{Fields, JsonlFile, Lines};
use self::passages::Passages;
use crate::error::{AtPath, Error, Result};

mod analyzer;
mod block_bounds;
mod build;
mod jsonl;
mod passages;

/// The version of the index format: of the analyzers, the schema, Tantivy's files and ours together.
pub const VERSION: u32 = 3;

/// The file that makes a folder an index.
const METADATA: &str = "agentdistill.json";

/// One passage. Its score is that of the query that found it, 0 outside a search.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Passage {
    pub id: String,
    pub title: String,
    pub text: String,
    #[serde(default)]
    pub score: f32,
}

/// What is known of an index besides its contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    pub version: u32,
    pub documents: u64,
    /// Passages left out because they could not be read.
    pub skipped: u64,
    pub language: Language,
    /// How often a title counts.
    pub title_weight: u32,
}

/// An open index. Shared freely between threads.
pub struct Bm25Index {
    path: PathBuf,
    metadata: Metadata,
    bytes: u64,
    passages: Passages,
    bounds: BlockBounds,
    analyzer: TextAnalyzer,
}

impl Bm25Index {
    /// Opens the index at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`] when there is none, or one of another version, or a damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        // What was opened may be files of two indexes, if another took the place meanwhile.
        let identity = || fs::metadata(path).map(|folder| (folder.dev(), folder.ino())).ok();
        loop {
            let before = identity();
            let index = Self::open_files(path);
            if identity() == before {
                return index;
            }
        }
    }

    fn open_files(path: &Path) -> Result<Self> {
        let metadata = read_metadata(path)?;
        let damaged = |error| Error::retrieval(path, format!("the index cannot be read ({error}); build it again"));
        let (segment, body) = segment(path).map_err(damaged)?;
        let passages = Passages::open(path).map_err(damaged)?;
        for held in [segment.num_docs() as usize, passages.len()] {
            if held as u64 != metadata.documents {
                let held = format!("it holds {held} of {} passages", metadata.documents);
                return Err(Error::retrieval(path, format!("the index is damaged: {held}; build it again")));
            }
        }
        let bounds = BlockBounds::open(&segment, body, path).map_err(damaged)?;
        let analyzer = metadata.language.analyzer();
        let (path, bytes) = (path.to_owned(), bytes_of(path)?);
        Ok(Self { path, metadata, bytes, passages, bounds, analyzer })
    }

    /// The `k` passages of highest score, best first; fewer when fewer share a word with the query.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for a `k` of 0; [`Error::Retrieval`] when the index cannot be read any more.
    pub fn search(&self, query: &str, k: usize) -> Result<Vec<Passage>> {
        self.search_with(&mut self.analyzer.clone(), query, k)
    }

    /// [`search`](Self::search) for each query, on all cores.
    ///
    /// # Errors
    ///
    /// As [`search`](Self::search).
    pub fn search_batch<Q: AsRef<str> + Sync>(&self, queries: &[Q], k: usize) -> Result<Vec<Vec<Passage>>> {
        queries
            .par_iter()
            .map_init(|| self.analyzer.clone(), |analyzer, query| self.search_with(analyzer, query.as_ref(), k))
            .collect()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Size on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn search_with(&self, analyzer: &mut TextAnalyzer, query: &str, k: usize) -> Result<Vec<Passage>> {
        if k == 0 {
            return Err(Error::Argument("k must be at least 1".to_owned()));
        }
        let broken = |error| Error::retrieval(self.path.as_path(), format!("the index cannot be read: {error}"));
        let top = self.bounds.top(&terms(analyzer, query), k.min(self.passages.len())).map_err(broken)?;
        let passage = |(score, document)| self.passages.get(document as usize, score);
        top.into_iter().map(|found| passage(found).map_err(|error| broken(error.into()))).collect()
    }
}

/// The query's words and how often it says each; in an order of their own, so that equal queries add up scores alike.
fn terms(analyzer: &mut TextAnalyzer, query: &str) -> BTreeMap<String, usize> {
    let mut terms = BTreeMap::new();
    let mut tokens = analyzer.token_stream(query);
    while tokens.advance() {
        *terms.entry(tokens.token().text.clone()).or_insert(0) += 1;
    }
    terms
}

/// The one field, of title and text. They are stored in [`Passages`], not here.
const BODY: &str = "body";

/// The only segment of the index at `path`, and its field.
fn segment(path: &Path) -> tantivy::Result<(SegmentReader, Field)> {
    let reader = Index::open_in_dir(path)?.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
    let searcher = reader.searcher();
    let segment = searcher.segment_readers().first().ok_or_else(|| DataCorruption::comment_only("it is empty"))?;
    Ok((segment.clone(), segment.schema().get_field(BODY)?))
}

// ---- the folder --------------------------------------------------------------------------------

fn read_metadata(path: &Path) -> Result<Metadata> {
    let again = "build it with Bm25Index.build or `agentdistill index build`";
    let file = path.join(METADATA);
    let json = match fs::read(&file) {
        Ok(json) => json,
        Err(_) if !path.exists() => return Err(Error::retrieval(path, format!("there is no index here; {again}"))),
        Err(_) if !file.exists() => return Err(Error::retrieval(path, format!("this is not an index; {again}"))),
        Err(error) => return Err(error).at(&file),
    };
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |error| Error::retrieval(file.as_path(), format!("damaged ({error}); {again}"));
    let Version { version } = serde_json::from_slice(&json).map_err(damaged)?;
    if version != VERSION {
        let message =
            format!("this index is of version {version}, and this agentdistill reads version {VERSION}; {again}");
        return Err(Error::retrieval(path, message));
    }
    serde_json::from_slice(&json).map_err(damaged)
}

fn bytes_of(folder: &Path) -> Result<u64> {
    let sizes = fs::read_dir(folder).at(folder)?.map(|entry| entry?.metadata());
    sizes.map(|metadata| metadata.map(|metadata| metadata.len())).sum::<std::io::Result<u64>>().at(folder)
}
