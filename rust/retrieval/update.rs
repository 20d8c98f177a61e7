//! Creates an index, and changes it: passages are added and deleted, and segments are merged.
//!
//! A segment never changes. A change makes a new folder, which shares the files of old segments through hard links, and
//! exchanges it with the index's folder in one step. Whoever has the old index open continues to search it. Only one
//! process can change an index at a time.
//!
//! Passages that are added become a new segment. The segments before it are merged into it as long as they have no more
//! passages than it has. Each remaining segment is therefore larger than the next, so there are few, and a passage is
//! indexed again a few times only.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::build::{BuildOptions, Built, SegmentBuilder};
use super::deletions::{self, Deletions};
use super::folder::{BuildFolder, check_free, link, publish, read_metadata, sync, write_metadata};
use super::passages::{self, Passages};
use super::segments::{folder, segment_of};
use super::{Bm25Index, Checksums, Lines, Metadata, OLDEST_VERSION, Parameters, Passage, VERSION, checksums, damaged};
use crate::error::{AtPath, Error, Result};

/// The oldest version whose words are those of a new segment.
const OLDEST_CHANGEABLE: u32 = 4;

/// Builds an index, or adds passages to one: call [`add`](Self::add) or [`add_lines`](Self::add_lines), then
/// [`finish`](Self::finish). A builder that is dropped before `finish` leaves nothing behind.
pub struct Bm25Builder {
    path: PathBuf,
    options: BuildOptions,
    /// This field comes before `build_folder`, so that the builder's threads end before their folder is deleted.
    segment: SegmentBuilder,
    build_folder: BuildFolder,
    /// The index to add to. `None` for a new one.
    old: Option<Bm25Index>,
}

impl Bm25Builder {
    /// Starts an index that will be at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`] if `path` is something other than an index, or an index without `overwrite`, or if another
    /// process is building it; [`Error::Argument`] for too little memory or a title weight out of range; [`Error::Io`].
    pub fn new(path: &Path, options: BuildOptions) -> Result<Self> {
        options.check()?;
        check_free(path, options.overwrite)?;
        Self::start(path, options, BuildFolder::open(path)?, None)
    }

    /// Starts to add passages to the index at `path`. An added passage replaces those of the index with the same id.
    /// Language and title weight are those of the index. The result is opened with `parameters`.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`] if there is no index, if it is damaged or older than version 4, or if another process is
    /// changing it; [`Error::Argument`] for too little memory; [`Error::Io`].
    pub fn extend(path: &Path, parameters: Parameters, options: BuildOptions) -> Result<Self> {
        let (build_folder, old) = lock(path, parameters, OLDEST_CHANGEABLE)?;
        let Metadata { language, title_weight, .. } = old.metadata;
        Self::start(path, BuildOptions { language, title_weight, ..options }, build_folder, Some(old))
    }

    fn start(path: &Path, options: BuildOptions, build_folder: BuildFolder, old: Option<Bm25Index>) -> Result<Self> {
        let segment = SegmentBuilder::new(path, build_folder.join("segment"), options)?;
        Ok(Self { path: path.to_owned(), options, segment, build_folder, old })
    }

    /// Adds one passage.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`], for example if the disk is full. The error may concern an earlier passage.
    pub fn add(&mut self, passage: Passage) -> Result<()> {
        self.segment.add(passage)
    }

    /// Adds the passages of some lines. [`run_bytes`](Self::run_bytes) at once is the best amount.
    ///
    /// # Errors
    ///
    /// The errors of [`add`](Self::add), and the first line that does not parse, unless such lines are skipped. The
    /// error may concern the lines of an earlier call.
    pub fn add_lines(&mut self, lines: Lines) -> Result<()> {
        self.segment.add_lines(lines)
    }

    /// Counts a passage that was left out because it could not be parsed.
    pub fn skip(&mut self) {
        self.segment.skip();
    }

    /// Returns the best size of [`Lines`] in bytes.
    pub fn run_bytes(&self) -> usize {
        self.segment.run_bytes()
    }

    /// Returns the number of passages indexed so far.
    pub fn documents(&self) -> u64 {
        self.segment.documents()
    }

    /// Waits until everything that was added is indexed.
    ///
    /// # Errors
    ///
    /// The errors of [`add`](Self::add) and [`add_lines`](Self::add_lines).
    pub fn wait(&mut self) -> Result<()> {
        self.segment.wait()
    }

    /// Completes the index, moves it to its path, and opens it.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`] if there were no passages, or for the reasons of the other methods; [`Error::Io`].
    pub fn finish(self) -> Result<Bm25Index> {
        let Self { path, options, segment, build_folder, old } = self;
        let built = segment.finish()?;
        if let Some(old) = old {
            return extended(&old, built, &build_folder, options);
        }
        let BuildOptions { language, title_weight, overwrite, .. } = options;
        let Built { folder, documents, skipped } = built;
        let checksums = Checksums::new();
        let metadata =
            Metadata { version: VERSION, documents, skipped, language, title_weight, added_segments: 0, checksums };
        place(&folder, &path, metadata, overwrite, Parameters::default())
    }
}

impl Bm25Index {
    /// Deletes all passages with these ids from the index that is now at the path, and opens the result.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`] if an id is not in the index, if no passage would remain, or for the reasons of
    /// [`Bm25Builder::extend`]. Then nothing is deleted.
    pub fn delete(&self, ids: impl IntoIterator<Item = String>) -> Result<Self> {
        let (build_folder, old) = lock(&self.path, self.parameters, OLDEST_CHANGEABLE)?;
        let mut ids: HashSet<String> = ids.into_iter().collect();
        let deletions = old.deletions_of(&mut ids)?;
        if let Some(id) = ids.iter().min() {
            let message = format!("{} ids are not in the index, for example {id:?}; nothing is deleted", ids.len());
            return Err(Error::retrieval(&*self.path, message));
        }
        if old.segments.live(&deletions) == 0 {
            return Err(Error::retrieval(&*self.path, "an index cannot be empty; remove its folder instead"));
        }
        changed(&old, &deletions, None, &build_folder)
    }

    /// Merges all segments of the index that is now at the path, without the deleted passages, and opens the result. It
    /// is the index that a build of the remaining passages makes.
    ///
    /// # Errors
    ///
    /// The errors of [`Bm25Builder`]'s methods.
    pub fn merge(&self, memory: usize) -> Result<Self> {
        let (build_folder, old) = lock(&self.path, self.parameters, OLDEST_VERSION)?;
        let Metadata { language, title_weight, .. } = old.metadata;
        let options = BuildOptions { language, title_weight, memory, ..BuildOptions::default() };
        let built = merged(&old, 0, &old.segments.deletions(), None, &build_folder, options)?;
        changed(&old, &[], Some(built), &build_folder)
    }

    /// Returns the deletions of each segment after those with these ids. Removes from `ids` those that were found.
    fn deletions_of(&self, ids: &mut HashSet<String>) -> Result<Vec<Deletions>> {
        let deletions = self.segments.delete(ids, self.metadata.title_weight, &mut self.analyzer.clone());
        deletions.map_err(|error| damaged(&self.path, error))
    }
}

/// Opens the index at `path`, which no other process changes meanwhile. Its passages are verified, because files that
/// are made of them get new checksums.
fn lock(path: &Path, parameters: Parameters, oldest_version: u32) -> Result<(BuildFolder, Bm25Index)> {
    read_metadata(path)?; // before anything is created
    let build_folder = BuildFolder::open(path)?;
    let index = Bm25Index::open(path, parameters)?;
    let Metadata { version, checksums, .. } = &index.metadata;
    if *version < oldest_version {
        let message = format!(
            "an index of version {version} cannot be changed; `agentdistill index merge` makes it one of version {VERSION}"
        );
        return Err(Error::retrieval(path, message));
    }
    let verified = checksums::verify(path, checksums, |name, _| name.ends_with(passages::FILE));
    verified.map_err(|damage| damaged(path, damage))?;
    Ok((build_folder, index))
}

/// Adds a segment to an index.
fn extended(old: &Bm25Index, built: Built, build_folder: &BuildFolder, options: BuildOptions) -> Result<Bm25Index> {
    let added = Passages::open(&built.folder).map_err(|error| damaged(&built.folder, error))?;
    let ids: io::Result<HashSet<String>> = added.iter().map(|passage| Ok(passage?.id)).collect();
    let mut deletions = old.deletions_of(&mut ids.at(&built.folder)?)?;
    let (mut kept, mut documents) = (deletions.len(), built.documents as usize);
    while kept > 0 {
        let live = old.segments.live_in(kept - 1, &deletions[kept - 1]);
        if live > documents {
            break;
        }
        documents += live;
        kept -= 1;
    }
    let built = if kept == deletions.len() {
        built
    } else {
        merged(old, kept, &deletions, Some((added, built.skipped)), build_folder, options)?
    };
    deletions.truncate(kept);
    changed(old, &deletions, Some(built), build_folder)
}

/// Builds a segment of the passages of an index's segments from `first` on, and of those that are added.
fn merged(
    old: &Bm25Index,
    first: usize,
    deletions: &[Deletions],
    added: Option<(Passages, u64)>,
    build_folder: &BuildFolder,
    options: BuildOptions,
) -> Result<Built> {
    let mut segment = SegmentBuilder::new(&old.path, build_folder.join("merged"), options)?;
    for (number, deletions) in deletions.iter().enumerate().skip(first) {
        for live in old.segments.passages(number, deletions) {
            segment.add(live.map_err(|error| damaged(&old.path, error))?.1)?;
        }
    }
    let Some((added, skipped)) = added else { return segment.finish() };
    added.iter().try_for_each(|passage| segment.add(passage.at(&old.path)?))?;
    Ok(Built { skipped, ..segment.finish()? })
}

/// Replaces an index by one of its first segments, as many as there are `deletions`, and of a built segment.
fn changed(
    old: &Bm25Index,
    deletions: &[Deletions],
    built: Option<Built>,
    build_folder: &BuildFolder,
) -> Result<Bm25Index> {
    let kept = deletions.len();
    let whole = build_folder.join("whole");
    let mut checksums = old.metadata.checksums.clone();
    checksums.retain(|name, _| segment_of(name) < kept && !name.ends_with(deletions::FILE));
    if kept > 0 {
        (0..kept).try_for_each(|number| fs::create_dir(folder(&whole, number))).at(&whole)?;
        checksums.keys().try_for_each(|name| link(&old.path.join(name), &whole.join(name))).at(&whole)?;
    }
    for (number, deletions) in deletions.iter().enumerate().filter(|(_, deletions)| !deletions.passages.is_empty()) {
        deletions.write(&folder(&whole, number)).at(&whole)?;
    }
    let mut metadata = Metadata {
        version: VERSION,
        documents: old.segments.live(deletions) as u64,
        added_segments: kept.saturating_sub(1),
        checksums,
        ..old.metadata.clone()
    };
    if let Some(built) = built {
        fs::rename(&built.folder, folder(&whole, kept)).at(&whole)?;
        metadata.documents += built.documents;
        metadata.skipped += built.skipped;
        metadata.added_segments = kept;
    }
    place(&whole, &old.path, metadata, true, old.parameters)
}

/// Moves a complete index to its path, and opens it there. `metadata` lack the checksums of new files.
fn place(
    folder: &Path,
    path: &Path,
    mut metadata: Metadata,
    overwrite: bool,
    parameters: Parameters,
) -> Result<Bm25Index> {
    metadata.checksums = checksums::compute(folder, metadata.checksums).at(folder)?;
    write_metadata(metadata, folder)?;
    sync(folder)?;
    check_free(path, overwrite)?;
    publish(folder, path)?;
    Bm25Index::open(path, parameters)
}
