//! Builds an index on all cores.
//!
//! Passages are divided into runs, in order. One thread for each run indexes it as a part. The parts are then merged
//! into one in the same order, so the index does not depend on the number of threads.
//!
//! All files are created in a hidden folder next to the index's path. The folder is moved to that path when it is
//! complete and synced. A build that ends earlier leaves the old index untouched.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use rustix::process::geteuid;
use tantivy::directory::MmapDirectory;
use tantivy::indexer::{SingleSegmentIndexWriter, merge_indices};
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::TokenizerManager;
use tantivy::{Index, TantivyDocument, TantivyError};

use super::block_bounds::BlockBounds;
use super::passages::{Encoded, PassageWriter};
use super::{
    BODY, Bm25Index, Language, Lines, METADATA, Metadata, Parameters, Passage, VERSION, checksums, segment,
    write_metadata,
};
use crate::error::{AtPath, Error, Place, Result};
use crate::file_lock::{FileLock, beside};
use crate::threads;

/// Options of a build.
#[derive(Clone, Copy, Debug)]
pub struct BuildOptions {
    pub language: Language,
    /// How many times the title is counted; at least 1.
    pub title_weight: u32,
    /// Whether to replace an existing index.
    pub overwrite: bool,
    /// Whether to leave out and count lines that do not parse, instead of failing at the first one.
    pub skip_bad: bool,
    /// The memory to use in bytes, at least [`Self::MIN_MEMORY`]. With more memory there are fewer parts to merge.
    pub memory: usize,
}

impl BuildOptions {
    pub const MIN_MEMORY: usize = 64 << 20;
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { language: Language::default(), title_weight: 1, overwrite: false, skip_bad: false, memory: 1 << 30 }
    }
}

/// Builds an index: call [`add`](Self::add) or [`add_lines`](Self::add_lines), then [`finish`](Self::finish). A builder
/// that is dropped before `finish` leaves nothing behind.
pub struct Bm25Builder {
    path: PathBuf,
    options: BuildOptions,
    max_running: usize,
    /// The oldest run first. This field comes before `build_folder`, so that the runs end before `build_folder` deletes their folder.
    running: RunningJobs,
    build_folder: BuildFolder,
    passages: PassageWriter,
    parts: Vec<Part>,
    /// The passages of the next run, and their size in bytes.
    waiting: (Vec<Passage>, usize),
    runs: usize,
    documents: u64,
    skipped: u64,
}

impl Bm25Builder {
    /// The maximum size of a run in bytes. More text gains nothing.
    const MAX_RUN: usize = 32 << 20;
    /// The minimum memory for a run in bytes; a third of it is used before there are any postings. With less memory in
    /// all, fewer runs are under way at once.
    const MIN_RUN_MEMORY: usize = 32 << 20;
    const MAX_TITLE_WEIGHT: u32 = 100;

    /// Starts an index that will be at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`] if `path` is something other than an index, or an index without `overwrite`, or if another
    /// process is building it; [`Error::Argument`] for too little memory or a title weight out of range; [`Error::Io`].
    pub fn new(path: &Path, options: BuildOptions) -> Result<Self> {
        if options.memory < BuildOptions::MIN_MEMORY {
            let least = BuildOptions::MIN_MEMORY >> 20;
            return Err(Error::Argument(format!("building an index needs at least {least} MB of memory")));
        }
        if !(1..=Self::MAX_TITLE_WEIGHT).contains(&options.title_weight) {
            return Err(Error::Argument(format!("the title's weight must be from 1 to {}", Self::MAX_TITLE_WEIGHT)));
        }
        check_free(path, options.overwrite)?;
        let build_folder = BuildFolder::open(path)?;
        let passages = PassageWriter::new(&build_folder.passages()).at(path)?;
        // One more than the number of cores, so that no core waits while the oldest run is written.
        let max_running = (threads::count() + 1).min(options.memory / Self::MIN_RUN_MEMORY);
        Ok(Self {
            path: path.to_owned(),
            options,
            max_running,
            running: RunningJobs::default(),
            build_folder,
            passages,
            parts: vec![],
            waiting: (vec![], 0),
            runs: 0,
            documents: 0,
            skipped: 0,
        })
    }

    /// Adds one passage.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`], for example if the disk is full. The error may concern an earlier passage.
    pub fn add(&mut self, passage: Passage) -> Result<()> {
        let (passages, bytes) = &mut self.waiting;
        *bytes += passage.id.len() + passage.title.len() + passage.text.len() + size_of::<Passage>();
        passages.push(passage);
        if *bytes < self.run_bytes() { Ok(()) } else { self.start_waiting() }
    }

    /// Adds the passages of some lines. [`run_bytes`](Self::run_bytes) at once is the best amount.
    ///
    /// # Errors
    ///
    /// The errors of [`add`](Self::add), and the first line that does not parse, unless such lines are skipped. The
    /// error may concern the lines of an earlier call.
    pub fn add_lines(&mut self, lines: Lines) -> Result<()> {
        self.start_waiting()?;
        self.start(Run::Lines(lines))
    }

    /// Counts a passage that was left out because it could not be parsed.
    pub fn skip(&mut self) {
        self.skipped += 1;
    }

    /// Returns the size of a run in bytes of text. A run under way takes at most four times as much memory: its text,
    /// its passages, and twice that size for its postings.
    pub fn run_bytes(&self) -> usize {
        (self.options.memory / (4 * self.max_running + 1)).min(Self::MAX_RUN)
    }

    /// Returns the number of passages indexed so far.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Waits until everything that was added is indexed.
    ///
    /// # Errors
    ///
    /// The errors of [`add`](Self::add) and [`add_lines`](Self::add_lines).
    pub fn wait(&mut self) -> Result<()> {
        self.start_waiting()?;
        while !self.running.0.is_empty() {
            self.end_oldest()?;
        }
        Ok(())
    }

    /// Completes the index, moves it to its path, and opens it.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`] if there were no passages, or for the reasons of the other methods; [`Error::Io`].
    pub fn finish(mut self) -> Result<Bm25Index> {
        self.wait()?;
        if self.documents == 0 {
            return Err(Error::retrieval(self.path.as_path(), "no passages to index"));
        }
        let built = self.merge().and_then(|built| {
            let (segment, body) = segment(&built)?;
            BlockBounds::write(&segment, body, &built)?;
            self.passages.finish(&self.build_folder.passages(), &built)?;
            Ok(built)
        });
        let built = built.map_err(|error| failed(&self.path, error))?;
        let BuildOptions { language, title_weight, overwrite, .. } = self.options;
        let Self { documents, skipped, .. } = self;
        let checksums = checksums::compute(&built).at(&built)?;
        write_metadata(Metadata { version: VERSION, documents, skipped, language, title_weight, checksums }, &built)?;
        sync(&built)?;
        check_free(&self.path, overwrite)?;
        publish(&built, &self.path)?;
        Bm25Index::open(&self.path, Parameters::default())
    }

    fn start_waiting(&mut self) -> Result<()> {
        let (passages, _) = std::mem::take(&mut self.waiting);
        if passages.is_empty() { Ok(()) } else { self.start(Run::Passages(passages)) }
    }

    fn start(&mut self, run: Run) -> Result<()> {
        if self.running.0.len() == self.max_running {
            self.end_oldest()?;
        }
        let folder = self.build_folder.folder.join(format!("run-{}", self.runs));
        self.runs += 1;
        let (path, options, budget) = (self.path.clone(), self.options, 2 * self.run_bytes());
        let work = move || {
            let mut parts = PartsWriter::new(folder, options, budget).map_err(|error| failed(&path, error))?;
            let mut done = Done::default();
            let mut add = |passage: Result<Passage>| {
                match passage {
                    Ok(passage) => {
                        parts.add(&passage).map_err(|error| failed(&path, error))?;
                        done.passages.push(&passage);
                    }
                    Err(_) if options.skip_bad => done.skipped += 1,
                    Err(error) => return Err(error),
                }
                Ok(())
            };
            match run {
                Run::Passages(passages) => passages.into_iter().map(Ok).try_for_each(&mut add)?,
                Run::Lines(lines) => lines.passages().try_for_each(&mut add)?,
            }
            done.parts = parts.finish().map_err(|error| failed(&path, error))?;
            Ok(done)
        };
        self.running.0.push_back(thread::Builder::new().name("index".to_owned()).spawn(work).at(&self.path)?);
        Ok(())
    }

    fn end_oldest(&mut self) -> Result<()> {
        let Some(run) = self.running.0.pop_front() else { return Ok(()) };
        let Done { passages, parts, skipped } = run.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        self.passages.add(&passages).at(&self.path)?;
        self.documents += passages.len() as u64;
        self.skipped += skipped;
        self.parts.extend(parts);
        Ok(())
    }

    /// Merges all parts into one, and returns its folder.
    fn merge(&self) -> tantivy::Result<PathBuf> {
        if let [Part { folder, .. }] = &*self.parts {
            return Ok(folder.clone());
        }
        let whole = self.build_folder.folder.join("whole");
        fs::create_dir(&whole)?;
        let parts: Vec<Index> = self.parts.iter().map(|part| part.index.clone()).collect();
        merge_indices(&parts, MmapDirectory::open(&whole)?)?;
        Ok(whole)
    }
}

/// Passages that are indexed together.
enum Run {
    Passages(Vec<Passage>),
    Lines(Lines),
}

/// The result of a run.
#[derive(Default)]
struct Done {
    passages: Encoded,
    parts: Vec<Part>,
    skipped: u64,
}

#[derive(Default)]
struct RunningJobs(VecDeque<JoinHandle<Result<Done>>>);

impl Drop for RunningJobs {
    fn drop(&mut self) {
        self.0.drain(..).for_each(|run| drop(run.join()));
    }
}

/// An index of some of the passages.
struct Part {
    folder: PathBuf,
    index: Index,
}

/// Writes the parts of a run: one, unless its postings exceed the budget.
struct PartsWriter {
    folder: PathBuf,
    options: BuildOptions,
    /// The maximum size of postings in memory, in bytes.
    budget: usize,
    body: Field,
    part: Option<PartWriter>,
    parts: Vec<Part>,
}

/// A part that is being written. It is single-threaded, so that passages keep their order.
struct PartWriter {
    folder: PathBuf,
    writer: SingleSegmentIndexWriter,
    /// The writer's memory use at which the part ends, in bytes.
    max_memory: usize,
}

impl PartsWriter {
    fn new(folder: PathBuf, options: BuildOptions, budget: usize) -> tantivy::Result<Self> {
        fs::create_dir(&folder)?;
        Ok(Self { folder, options, budget, body: schema().1, part: None, parts: vec![] })
    }

    fn add(&mut self, passage: &Passage) -> tantivy::Result<()> {
        if self.part.is_none() {
            self.part = Some(self.begin()?);
        }
        let PartWriter { writer, max_memory, .. } = self.part.as_mut().expect("it has begun");
        let mut document = TantivyDocument::default();
        (0..self.options.title_weight).for_each(|_| document.add_text(self.body, &passage.title));
        document.add_text(self.body, &passage.text);
        writer.add_document(document)?;
        if writer.mem_usage() < *max_memory { Ok(()) } else { self.end() }
    }

    fn finish(mut self) -> tantivy::Result<Vec<Part>> {
        self.end()?;
        Ok(self.parts)
    }

    fn begin(&self) -> tantivy::Result<PartWriter> {
        let folder = self.folder.join(self.parts.len().to_string());
        fs::create_dir(&folder)?;
        let tokenizers = TokenizerManager::default();
        tokenizers.register(TOKENIZER, self.options.language.analyzer(VERSION));
        let index = Index::builder().schema(schema().0).tokenizers(tokenizers);
        let writer = index.single_segment_index_writer(MmapDirectory::open(&folder)?, self.budget)?;
        let max_memory = writer.mem_usage() + self.budget; // the writer uses some MB from the start
        Ok(PartWriter { folder, writer, max_memory })
    }

    fn end(&mut self) -> tantivy::Result<()> {
        if let Some(PartWriter { folder, writer, .. }) = self.part.take() {
            self.parts.push(Part { folder, index: writer.finalize()? });
        }
        Ok(())
    }
}

const TOKENIZER: &str = "words";

fn schema() -> (Schema, Field) {
    let mut schema = Schema::builder();
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(TOKENIZER)
        .set_index_option(IndexRecordOption::WithFreqs)
        .set_fieldnorms(true);
    let body = schema.add_text_field(BODY, TextOptions::default().set_indexing_options(indexing));
    (schema.build(), body)
}

// ---- the folder --------------------------------------------------------------------------------

/// Checks that an index may be placed at `path`: nothing is there, or an empty folder, or an index that may be
/// overwritten.
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

/// The hidden folder next to the future index. A killed build leaves it behind, and the next build clears it.
struct BuildFolder {
    folder: PathBuf,
    _lock: FileLock,
    _lock_file: File,
}

impl BuildFolder {
    fn open(path: &Path) -> Result<Self> {
        let folder = beside(path, ".building")?;
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).at(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_ours(&folder)?,
            created => created.at(&folder)?,
        }
        let lock_path = folder.join("lock");
        let lock_file = OpenOptions::new().write(true).create(true).custom_flags(libc::O_NOFOLLOW).open(&lock_path);
        let lock_file = lock_file.at(&lock_path)?;
        let busy = || Error::retrieval(path, "another process is building this index; wait for it or end it");
        let lock = FileLock::acquire(&lock_file, &lock_path)?.ok_or_else(busy)?;
        let opened = Self { folder, _lock: lock, _lock_file: lock_file };
        for entry in fs::read_dir(&opened.folder).at(&opened.folder)? {
            let entry = entry.at(&opened.folder)?;
            if entry.file_type().at(&entry.path())?.is_dir() {
                fs::remove_dir_all(entry.path()).at(&entry.path())?;
            } else if entry.path() != lock_path {
                fs::remove_file(entry.path()).at(&entry.path())?; // for example, a symbolic link
            }
        }
        Ok(opened)
    }

    /// Returns the folder that holds the passages until the index's folder exists.
    fn passages(&self) -> PathBuf {
        self.folder.join("passages")
    }
}

impl Drop for BuildFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Rejects a build folder that another user may have prepared, because its contents will be deleted.
fn check_ours(folder: &Path) -> Result<()> {
    let found = folder.symlink_metadata().at(folder)?;
    if found.is_dir() && found.uid() == geteuid().as_raw() {
        return Ok(());
    }
    Err(Error::retrieval(
        folder,
        "an index is built here, but this is not a folder of yours; remove it or choose another path",
    ))
}

/// Moves the built index to its path. An existing index is exchanged with it in one step, and is deleted with the
/// build folder.
fn publish(built: &Path, path: &Path) -> Result<()> {
    if path.symlink_metadata().is_err() {
        fs::rename(built, path).at(path)?;
    } else {
        match renameat_with(CWD, built, CWD, path, RenameFlags::EXCHANGE) {
            // Not every file system supports the exchange.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => swap(built, path).at(path)?,
            other => other.map_err(io::Error::from).at(path)?,
        }
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).at(parent)
}

/// Does the same in two steps. In between, nothing is at `path`.
fn swap(built: &Path, path: &Path) -> io::Result<()> {
    let old = built.with_extension("old");
    fs::rename(path, &old)?;
    fs::rename(built, path).inspect_err(|_| drop(fs::rename(&old, path)))
}

fn sync(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).at(folder)? {
        let entry = entry.at(folder)?.path();
        File::open(&entry).and_then(|file| file.sync_all()).at(&entry)?;
    }
    File::open(folder).and_then(|folder| folder.sync_all()).at(folder)
}

fn failed(path: &Path, error: TantivyError) -> Error {
    Error::Retrieval { place: Place::from(path), message: format!("the index cannot be built: {error}") }
}
