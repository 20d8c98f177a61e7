//! Searches the segments of an index as one collection.
//!
//! A built index is one segment. Passages that are added later form segments of their own. The statistics of BM25 are
//! those of all passages that are not deleted, so the scores are the same as those of an index built anew. Passages are
//! numbered through all segments, in the order of indexing. A search carries its k-th best score from segment to
//! segment, so later segments are pruned most.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use tantivy::error::DataCorruption;
use tantivy::postings::TermInfo;
use tantivy::schema::Field;
use tantivy::tokenizer::TextAnalyzer;
use tantivy::{DocId, Index, Result, Score, SegmentReader};

use super::block_bounds::{Best, BlockBounds};
use super::deletions::Deletions;
use super::passages::Passages;
use super::{Parameters, Passage};

/// The only field: title and text, indexed but not stored. [`Passages`] stores the texts.
pub(super) const BODY: &str = "body";

/// Returns the folder of a segment: the index's own for the first one, and a folder in it for each one added later.
pub(super) fn folder(index: &Path, segment: usize) -> PathBuf {
    if segment == 0 { index.to_owned() } else { index.join(segment.to_string()) }
}

/// Returns the segment to which a file of the index belongs, by the file's name.
pub(super) fn segment_of(file: &str) -> usize {
    file.split_once('/').and_then(|(segment, _)| segment.parse().ok()).unwrap_or(0)
}

/// Opens Tantivy's files in a segment's folder, and returns their field, too. A reader of the whole index would also
/// parse the store, which is not needed here. Wrong lengths in it end the process, because Tantivy allocates memory for
/// them without a check.
pub(super) fn open_postings(folder: &Path) -> Result<(SegmentReader, Field)> {
    let segments = Index::open_in_dir(folder)?.searchable_segments()?;
    let segment = segments.first().ok_or_else(|| DataCorruption::comment_only("it is empty"))?;
    Ok((SegmentReader::open(segment)?, segment.schema().get_field(BODY)?))
}

pub(super) struct Segments {
    segments: Vec<Segment>,
    parameters: Parameters,
}

struct Segment {
    bounds: BlockBounds,
    passages: Passages,
    deletions: Deletions,
    /// The number of its first passage.
    first: DocId,
}

impl Segments {
    /// Opens the `count` segments of an index.
    pub(super) fn open(index: &Path, count: usize, parameters: Parameters) -> Result<Self> {
        let mut segments: Vec<Segment> = Vec::new();
        for number in 0..count {
            let folder = folder(index, number);
            let (postings, body) = open_postings(&folder)?;
            let (bounds, passages) = (BlockBounds::open(&postings, body, &folder)?, Passages::open(&folder)?);
            if postings.num_docs() as usize != passages.len() {
                let message = format!("it indexes {} of {} passages", postings.num_docs(), passages.len());
                return Err(DataCorruption::comment_only(message).into());
            }
            let first = segments.last().map_or(0, |before| before.first + before.bounds.documents() as DocId);
            segments.push(Segment { bounds, passages, deletions: Deletions::open(&folder)?, first });
        }
        let words = |segment: &Segment| segment.bounds.total_words().saturating_sub(segment.deletions.total_words);
        let total_words: u64 = segments.iter().map(words).sum();
        let mut segments = Self { segments, parameters };
        let average = total_words as Score / segments.len() as Score;
        segments.segments.iter_mut().for_each(|segment| segment.bounds.set_norms(average, parameters));
        Ok(segments)
    }

    pub(super) fn count(&self) -> usize {
        self.segments.len()
    }

    /// Returns the number of passages of a segment that are not in `deletions`.
    pub(super) fn live_in(&self, segment: usize, deletions: &Deletions) -> usize {
        self.segments[segment].passages.len().saturating_sub(deletions.passages.len())
    }

    /// Returns the number of passages of the first segments that are not in their `deletions`.
    pub(super) fn live(&self, deletions: &[Deletions]) -> usize {
        deletions.iter().enumerate().map(|(segment, deletions)| self.live_in(segment, deletions)).sum()
    }

    /// Returns the number of passages that are not deleted.
    pub(super) fn len(&self) -> usize {
        let live = |segment: &Segment| segment.passages.len().saturating_sub(segment.deletions.passages.len());
        self.segments.iter().map(live).sum()
    }

    /// Returns the number of passages that are deleted.
    pub(super) fn deleted(&self) -> usize {
        self.segments.iter().map(|segment| segment.deletions.passages.len()).sum()
    }

    /// Returns the numbers of the `k` passages with the highest scores above 0, best first, for words with their counts.
    pub(super) fn top(&self, words: &BTreeMap<String, usize>, k: usize) -> Result<Vec<(Score, DocId)>> {
        let documents = self.len();
        let mut terms = Vec::with_capacity(words.len());
        for (word, &count) in words {
            let found: Vec<_> = self.segments.iter().map(|segment| segment.bounds.term(word)).collect::<Result<_>>()?;
            let frequency = |(info, segment): (&Option<_>, &Segment)| segment.frequency(word, info.as_ref());
            let frequency: usize = found.iter().zip(&self.segments).map(frequency).sum();
            if frequency > 0 {
                let idf =
                    (1.0 + (documents.saturating_sub(frequency) as Score + 0.5) / (frequency as Score + 0.5)).ln();
                terms.push((count as Score * idf * (1.0 + self.parameters.k1), found));
            }
        }
        terms.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut best = Best::new(k.min(documents));
        for (number, segment) in self.segments.iter().enumerate() {
            let terms = terms.iter_mut().filter_map(|(weight, found)| Some((*weight, found[number].take()?))).collect();
            best.enter(segment.first, &segment.deletions.passages);
            segment.bounds.search(terms, &mut best)?;
        }
        Ok(best.into_sorted())
    }

    /// Returns the size of a passage in bytes.
    pub(super) fn size(&self, number: DocId) -> io::Result<u64> {
        let segment = self.segment(number);
        segment.passages.size((number - segment.first) as usize)
    }

    pub(super) fn get(&self, number: DocId, score: Score) -> io::Result<Passage> {
        let segment = self.segment(number);
        segment.passages.get((number - segment.first) as usize, score)
    }

    /// Returns the numbers of the passages before this one that are not deleted, the nearest first.
    pub(super) fn before(&self, number: DocId) -> impl Iterator<Item = DocId> {
        (0..number).rev().filter(|&number| self.is_live(number))
    }

    /// Returns the numbers of the passages from this one on that are not deleted.
    pub(super) fn from(&self, number: DocId) -> impl Iterator<Item = DocId> {
        let end = self.segments.last().map_or(0, |last| last.first + last.passages.len() as DocId);
        (number..end).filter(|&number| self.is_live(number))
    }

    /// Returns the passages of a segment that are not in `deletions`, with their numbers in the segment, in order.
    pub(super) fn passages(
        &self,
        segment: usize,
        deletions: &Deletions,
    ) -> impl Iterator<Item = io::Result<(DocId, Passage)>> {
        let passages = &self.segments[segment].passages;
        let live = (0..passages.len() as DocId).filter(|number| !deletions.passages.contains(number));
        live.map(|number| Ok((number, passages.get(number as usize, 0.0)?)))
    }

    /// Returns the deletions of each segment.
    pub(super) fn deletions(&self) -> Vec<Deletions> {
        self.segments.iter().map(|segment| segment.deletions.clone()).collect()
    }

    /// Returns the deletions of each segment after all passages with these ids are deleted, too. Removes from `ids` those
    /// that were found.
    pub(super) fn delete(
        &self,
        ids: &mut HashSet<String>,
        title_weight: u32,
        analyzer: &mut TextAnalyzer,
    ) -> io::Result<Vec<Deletions>> {
        let mut found = HashSet::new();
        let mut all = self.deletions();
        for (segment, deletions) in all.iter_mut().enumerate() {
            let old = &self.segments[segment].deletions;
            for live in self.passages(segment, old) {
                let (number, passage) = live?;
                if ids.contains(&passage.id) {
                    deletions.add(number, &passage, title_weight, analyzer);
                    found.insert(passage.id);
                }
            }
        }
        ids.retain(|id| !found.contains(id));
        Ok(all)
    }

    fn is_live(&self, number: DocId) -> bool {
        let segment = self.segment(number);
        !segment.deletions.passages.contains(&(number - segment.first))
    }

    fn segment(&self, number: DocId) -> &Segment {
        &self.segments[self.segments.partition_point(|segment| segment.first <= number) - 1]
    }
}

impl Segment {
    /// Returns the number of passages that have a word and are not deleted.
    fn frequency(&self, word: &str, info: Option<&TermInfo>) -> usize {
        info.map_or(0, |info| info.doc_freq.saturating_sub(self.deletions.frequency(word)) as usize)
    }
}
