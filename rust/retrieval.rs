//! BM25 over passages on disk: Tantivy's postings, searched by [`block_bounds`]; the passages themselves are in
//! [`passages`].
//!
//! One merged field, title and text, with Tantivy's k1 1.2 and b 0.75; English stop words dropped, Porter2 stems; one
//! segment, memory-mapped. A query is a bag of words: every string is one, and a word said twice counts twice. Equal
//! scores come in the order of indexing.
//!
//! Not here: dense retrieval, other languages, changing an index (build it again), and making sure that ids are
//! unique.
//!
//! An index is a folder: Tantivy's files, those of the two modules, and [`METADATA`]. It is built in a hidden folder
//! beside its place, and moved there when complete and synced.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tantivy::directory::MmapDirectory;
use tantivy::error::DataCorruption;
use tantivy::indexer::{SingleSegmentIndexWriter, merge_indices};
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{
    Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer, TokenizerManager,
};
use tantivy::{Index, ReloadPolicy, SegmentReader, TantivyDocument};

use self::block_bounds::BlockBounds;
use self::passages::{PassageWriter, Passages};
use crate::error::{AtPath, Error, Place, Result};

mod block_bounds;
mod passages;

/// The version of the index format: of the analyzer, the schema, Tantivy's files and ours together.
pub const VERSION: u32 = 2;

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
    pub analyzer: String,
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
        let (path, bytes) = (path.to_owned(), bytes_of(path)?);
        Ok(Self { path, metadata, bytes, passages, bounds, analyzer: analyzer() })
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

/// Builds an index: [`add`](Self::add) passages, then [`finish`](Self::finish). Dropped before that, it leaves
/// nothing behind.
///
/// Postings are kept in memory up to a budget, then put aside on disk; memory does not grow with the number of
/// passages.
pub struct Bm25Builder {
    path: PathBuf,
    overwrite: bool,
    site: BuildingSite,
    passages: PassageWriter,
    body: Field,
    part: SingleSegmentIndexWriter,
    parts: Vec<Index>,
    budget: usize,
    documents: u64,
}

impl Bm25Builder {
    const BUDGET: usize = 512 << 20; // bytes of postings in memory

    /// Begins an index that will be at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`] when something else is at `path`, or an index and not `overwrite`, or another build of it
    /// is under way; [`Error::Io`].
    pub fn new(path: &Path, overwrite: bool) -> Result<Self> {
        Self::with_budget(path, overwrite, Self::BUDGET)
    }

    /// The same with another budget, for tests.
    #[doc(hidden)]
    pub fn with_budget(path: &Path, overwrite: bool, budget: usize) -> Result<Self> {
        check_free(path, overwrite)?;
        let site = BuildingSite::open(path)?;
        let passages = PassageWriter::new(&site.passages()).at(path)?;
        let part = site.part(0, budget).map_err(|error| failed(path, error))?;
        let (path, (_, body)) = (path.to_owned(), schema());
        Ok(Self { path, overwrite, site, passages, body, part, parts: vec![], budget, documents: 0 })
    }

    /// Adds one passage.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`], a full disk for one.
    pub fn add(&mut self, passage: &Passage) -> Result<()> {
        self.passages.add(passage).at(&self.path)?;
        let mut document = TantivyDocument::default();
        document.add_text(self.body, &passage.title);
        document.add_text(self.body, &passage.text);
        self.documents += 1;
        let added = self.part.add_document(document).and_then(|()| {
            if self.part.mem_usage() < self.budget {
                return Ok(());
            }
            let next = self.site.part(self.parts.len() + 1, self.budget)?;
            self.parts.push(std::mem::replace(&mut self.part, next).finalize()?);
            Ok(())
        });
        added.map_err(|error| failed(&self.path, error))
    }

    /// Completes the index, moves it to its place, and opens it. `skipped` is for the record.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`] when there were no passages, or as for [`new`](Self::new); [`Error::Io`].
    pub fn finish(mut self, skipped: u64) -> Result<Bm25Index> {
        if self.documents == 0 {
            return Err(Error::retrieval(self.path.as_path(), "there were no passages to index"));
        }
        let built = self.part.finalize().and_then(|last| {
            if self.parts.is_empty() {
                return Ok(self.site.part_path(0));
            }
            self.parts.push(last); // parts are merged in the order they were made, which keeps that of passages
            let whole = self.site.folder.join("whole");
            fs::create_dir(&whole)?;
            merge_indices(&self.parts, MmapDirectory::open(&whole)?)?;
            Ok(whole)
        });
        let built = built.and_then(|built| {
            let (segment, body) = segment(&built)?;
            BlockBounds::write(&segment, body, &built)?;
            self.passages.finish(&self.site.passages(), &built)?;
            Ok(built)
        });
        let built = built.map_err(|error| failed(&self.path, error))?;
        let metadata = Metadata { version: VERSION, documents: self.documents, skipped, analyzer: ANALYZER.to_owned() };
        let file = built.join(METADATA);
        fs::write(&file, serde_json::to_vec_pretty(&metadata).expect("metadata is JSON")).at(&file)?;
        sync(&built)?;
        check_free(&self.path, self.overwrite)?;
        self.site.publish(&built, &self.path)?;
        Bm25Index::open(&self.path)
    }
}

/// Reads passages from JSONL: `id` or `_id`, `title`, `text`; or Search-R1's `contents`, `"Title"\ntext`.
///
/// Blank lines are passed over. Of bad lines the first ends it with an error, or with `skip_bad` each is counted.
pub struct JsonlPassages {
    path: PathBuf,
    file: BufReader<File>,
    buffer: Vec<u8>,
    line: u64,
    skip_bad: bool,
    skipped: u64,
}

impl JsonlPassages {
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn open(path: &Path, skip_bad: bool) -> Result<Self> {
        let file = BufReader::with_capacity(1 << 20, File::open(path).at(path)?);
        Ok(Self { path: path.to_owned(), file, buffer: Vec::new(), line: 0, skip_bad, skipped: 0 })
    }

    /// Bad lines so far.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

impl Iterator for JsonlPassages {
    type Item = Result<Passage>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.buffer.clear();
            match self.file.read_until(b'\n', &mut self.buffer).at(&self.path) {
                Ok(0) => return None,
                Ok(_) => self.line += 1,
                Err(error) => return Some(Err(error)),
            }
            let line = match self.line {
                1 => self.buffer.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.buffer), // a byte order mark
                _ => &self.buffer,
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            match passage(line) {
                Ok(passage) => return Some(Ok(passage)),
                Err(_) if self.skip_bad => self.skipped += 1,
                Err(message) => return Some(Err(Error::retrieval((self.path.as_path(), self.line), message))),
            }
        }
    }
}

// ---- what is indexed ---------------------------------------------------------------------------

/// Names what [`analyzer`] does, in the metadata of each index.
const ANALYZER: &str = "english: words of at most 39 bytes, lower case, without stop words, Porter2 stems";

fn analyzer() -> TextAnalyzer {
    TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(40))
        .filter(LowerCaser)
        .filter(StopWordFilter::new(Language::English).expect("Tantivy has English stop words"))
        .filter(Stemmer::new(Language::English))
        .build()
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

const TOKENIZER: &str = "english";

fn schema() -> (Schema, Field) {
    let mut schema = Schema::builder();
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(TOKENIZER)
        .set_index_option(IndexRecordOption::WithFreqs)
        .set_fieldnorms(true);
    let body = schema.add_text_field(BODY, TextOptions::default().set_indexing_options(indexing));
    (schema.build(), body)
}

fn passage(line: &[u8]) -> std::result::Result<Passage, String> {
    let json: Json = serde_json::from_slice(line).map_err(|error| {
        let message = error.to_string();
        format!("not JSON: {} (column {})", message.split(" at line ").next().unwrap_or_default(), error.column())
    })?;
    let Json::Object(fields) = json else { return Err(format!("not a JSON object but {}", kind(&json))) };
    let text_of = |name: &str| match fields.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(format!("`{name}` is {}, not a string", kind(other))),
    };
    let id = match fields.get("id").or_else(|| fields.get("_id")) {
        Some(Json::String(id)) => id.clone(),
        Some(Json::Number(id)) => id.to_string(),
        Some(other) => return Err(format!("its id is {}, not a string", kind(other))),
        None => return Err("no field `id` or `_id`".to_owned()),
    };
    let title = text_of("title")?;
    match (text_of("text")?, text_of("contents")?) {
        (Some(text), _) => Ok(Passage { id, title: title.unwrap_or_default(), text, score: 0.0 }),
        (None, Some(contents)) => {
            let (heading, text) = contents.split_once('\n').unwrap_or(("", &contents));
            let heading = heading.trim();
            let heading = heading.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(heading);
            Ok(Passage { id, title: title.unwrap_or_else(|| heading.to_owned()), text: text.to_owned(), score: 0.0 })
        }
        (None, None) => Err("no field `text` or `contents`".to_owned()),
    }
}

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}

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

/// Whether an index may be put at `path`: nothing is there, an empty folder, or an index that may be overwritten.
fn check_free(path: &Path, overwrite: bool) -> Result<()> {
    let is_index = path.join(METADATA).exists();
    let is_empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if is_index && !overwrite {
        Err(Error::retrieval(
            path,
            "there is an index here already; pass overwrite=True to replace it, or choose another path",
        ))
    } else if !is_index && path.symlink_metadata().is_ok() && !is_empty() {
        Err(Error::retrieval(path, "there is something here that is not an index; choose another path"))
    } else {
        Ok(())
    }
}

/// The hidden folder beside an index-to-be. A build that was killed leaves it, and the next one clears it.
struct BuildingSite {
    folder: PathBuf,
    _lock: File,
}

impl BuildingSite {
    fn open(path: &Path) -> Result<Self> {
        let name = path
            .file_name()
            .ok_or_else(|| Error::Argument(format!("{} does not name a folder to build in", path.display())))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".building");
        let folder = path.with_file_name(hidden);
        fs::create_dir_all(&folder).at(&folder)?;
        let lock_path = folder.join("lock");
        let lock = File::create(&lock_path).at(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::retrieval(path, "another process is building this index; wait for it or end it"));
            }
            Err(TryLockError::Error(error)) => return Err(error).at(&lock_path),
        }
        let site = Self { folder, _lock: lock };
        for entry in fs::read_dir(&site.folder).at(&site.folder)? {
            let entry = entry.at(&site.folder)?.path();
            if entry.is_dir() {
                fs::remove_dir_all(&entry).at(&entry)?;
            }
        }
        Ok(site)
    }

    fn part_path(&self, number: usize) -> PathBuf {
        self.folder.join(format!("part-{number}"))
    }

    /// The folder of the passages until they have an index to go to.
    fn passages(&self) -> PathBuf {
        self.folder.join("passages")
    }

    /// A writer that makes one segment, single-threaded, so that passages keep their order.
    fn part(&self, number: usize, budget: usize) -> tantivy::Result<SingleSegmentIndexWriter> {
        let path = self.part_path(number);
        fs::create_dir(&path)?;
        let tokenizers = TokenizerManager::default();
        tokenizers.register(TOKENIZER, analyzer());
        Index::builder()
            .schema(schema().0)
            .tokenizers(tokenizers)
            .single_segment_index_writer(MmapDirectory::open(&path)?, budget)
    }

    /// Moves what was built to its place; an index that is there is moved out of the way first, and back if that
    /// fails.
    fn publish(&self, built: &Path, path: &Path) -> Result<()> {
        let old = self.folder.join("old");
        let replaces = path.exists();
        if replaces {
            fs::rename(path, &old).at(path)?;
        }
        if let Err(error) = fs::rename(built, path) {
            if replaces {
                let _ = fs::rename(&old, path);
            }
            return Err(error).at(path);
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).at(parent)
    }
}

impl Drop for BuildingSite {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn sync(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).at(folder)? {
        let entry = entry.at(folder)?.path();
        File::open(&entry).and_then(|file| file.sync_all()).at(&entry)?;
    }
    File::open(folder).and_then(|folder| folder.sync_all()).at(folder)
}

fn bytes_of(folder: &Path) -> Result<u64> {
    let sizes = fs::read_dir(folder).at(folder)?.map(|entry| entry?.metadata());
    sizes.map(|metadata| metadata.map(|metadata| metadata.len())).sum::<std::io::Result<u64>>().at(folder)
}

fn failed(path: &Path, error: tantivy::TantivyError) -> Error {
    Error::Retrieval { place: Place::from(path), message: format!("the index cannot be built: {error}") }
}
