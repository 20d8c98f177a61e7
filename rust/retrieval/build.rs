//! Builds a segment on all cores.
//!
//! Passages are divided into runs, in order. One thread for each run indexes it as a part. The parts are then merged
//! into one in the same order, so the segment does not depend on the number of threads.

use std::collections::VecDeque;
use std::fs;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use tantivy::directory::MmapDirectory;
use tantivy::indexer::{SingleSegmentIndexWriter, merge_indices};
use tantivy::schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::TokenizerManager;
use tantivy::{Index, TantivyDocument, TantivyError};

use super::block_bounds::BlockBounds;
use super::passages::{Encoded, PassageWriter};
use super::segments::{BODY, open_postings};
use super::{Language, Lines, Passage, VERSION};
use crate::error::{AtPath, Error, Place, Result};
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
    const MAX_TITLE_WEIGHT: u32 = 100;

    pub(super) fn check(&self) -> Result<()> {
        if self.memory < Self::MIN_MEMORY {
            let least = Self::MIN_MEMORY >> 20;
            return Err(Error::Argument(format!("building an index needs at least {least} MB of memory")));
        }
        if !(1..=Self::MAX_TITLE_WEIGHT).contains(&self.title_weight) {
            return Err(Error::Argument(format!("the title's weight must be from 1 to {}", Self::MAX_TITLE_WEIGHT)));
        }
        Ok(())
    }
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { language: Language::default(), title_weight: 1, overwrite: false, skip_bad: false, memory: 1 << 30 }
    }
}

/// Builds a segment from passages and lines.
pub(super) struct SegmentBuilder {
    /// The path of the index, which errors name.
    path: PathBuf,
    /// The folder to work in. It is created here, and its owner removes it.
    folder: PathBuf,
    options: BuildOptions,
    max_running: usize,
    /// The oldest run first.
    running: RunningJobs,
    passages: PassageWriter,
    parts: Vec<Part>,
    /// The passages of the next run, and their size in bytes.
    waiting: (Vec<Passage>, usize),
    runs: usize,
    documents: u64,
    skipped: u64,
}

/// A finished segment.
pub(super) struct Built {
    pub(super) folder: PathBuf,
    pub(super) documents: u64,
    pub(super) skipped: u64,
}

impl SegmentBuilder {
    /// The maximum size of a run in bytes. More text gains nothing.
    const MAX_RUN: usize = 32 << 20;
    /// The minimum memory for a run in bytes; a third of it is used before there are any postings. With less memory in
    /// all, fewer runs are under way at once.
    const MIN_RUN_MEMORY: usize = 32 << 20;

    pub(super) fn new(path: &Path, folder: PathBuf, options: BuildOptions) -> Result<Self> {
        options.check()?;
        fs::create_dir(&folder).at(&folder)?;
        let passages = PassageWriter::new(&folder.join("passages")).at(path)?;
        // One more than the number of cores, so that no core waits while the oldest run is written.
        let max_running = (threads::count() + 1).min(options.memory / Self::MIN_RUN_MEMORY);
        Ok(Self {
            path: path.to_owned(),
            folder,
            options,
            max_running,
            running: RunningJobs::default(),
            passages,
            parts: vec![],
            waiting: (vec![], 0),
            runs: 0,
            documents: 0,
            skipped: 0,
        })
    }

    /// Adds one passage. An error may concern an earlier one.
    pub(super) fn add(&mut self, passage: Passage) -> Result<()> {
        let (passages, bytes) = &mut self.waiting;
        *bytes += passage.id.len() + passage.title.len() + passage.text.len() + size_of::<Passage>();
        passages.push(passage);
        if *bytes < self.run_bytes() { Ok(()) } else { self.start_waiting() }
    }

    /// Adds the passages of some lines. [`run_bytes`](Self::run_bytes) at once is the best amount.
    pub(super) fn add_lines(&mut self, lines: Lines) -> Result<()> {
        self.start_waiting()?;
        self.start(Run::Lines(lines))
    }

    /// Counts a passage that was left out because it could not be parsed.
    pub(super) fn skip(&mut self) {
        self.skipped += 1;
    }

    /// Returns the size of a run in bytes of text. A run under way takes at most four times as much memory: its text,
    /// its passages, and twice that size for its postings.
    pub(super) fn run_bytes(&self) -> usize {
        (self.options.memory / (4 * self.max_running + 1)).min(Self::MAX_RUN)
    }

    /// Returns the number of passages indexed so far.
    pub(super) fn documents(&self) -> u64 {
        self.documents
    }

    /// Waits until everything that was added is indexed.
    pub(super) fn wait(&mut self) -> Result<()> {
        self.start_waiting()?;
        while !self.running.0.is_empty() {
            self.end_oldest()?;
        }
        Ok(())
    }

    /// Completes the segment. There must be passages.
    pub(super) fn finish(mut self) -> Result<Built> {
        self.wait()?;
        if self.documents == 0 {
            return Err(Error::retrieval(self.path.as_path(), "no passages to index"));
        }
        let built = self.merge().and_then(|built| {
            let (segment, body) = open_postings(&built)?;
            BlockBounds::write(&segment, body, &built)?;
            self.passages.finish(&self.folder.join("passages"), &built)?;
            Ok(built)
        });
        let folder = built.map_err(|error| failed(&self.path, error))?;
        Ok(Built { folder, documents: self.documents, skipped: self.skipped })
    }

    fn start_waiting(&mut self) -> Result<()> {
        let (passages, _) = std::mem::take(&mut self.waiting);
        if passages.is_empty() { Ok(()) } else { self.start(Run::Passages(passages)) }
    }

    fn start(&mut self, run: Run) -> Result<()> {
        if self.running.0.len() == self.max_running {
            self.end_oldest()?;
        }
        let folder = self.folder.join(format!("run-{}", self.runs));
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
        let whole = self.folder.join("whole");
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

fn failed(path: &Path, error: TantivyError) -> Error {
    Error::Retrieval { place: Place::from(path), message: format!("the index cannot be built: {error}") }
}
