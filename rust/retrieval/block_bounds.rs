//! Finds the exact top k of a segment by BM25 while reading few postings: block-max pruning over Tantivy's postings.
//!
//! Documents are divided into blocks of 512, in the order of indexing. For each frequent term and each block, the index
//! stores one byte. It bounds the share that the term can add to the score of any document in the block. A query first
//! adds up the bounds of its terms block by block, in one pass over a few kilobytes. This gives each block an upper
//! bound of its best score. The most promising blocks are scored first, and they give a k-th best score. A block whose
//! bound is below that score cannot contain a document of the top k, and none of its postings are read. Within a block,
//! terms are read by descending weight. Reading stops when the remaining bounds cannot raise the block's best document
//! above the k-th best score.
//!
//! Tantivy also prunes (block-max WAND). However, it visits documents in order, so its threshold stays low for long. It
//! also aligns its bounds, each for 128 postings of one term, document by document.
//!
//! The stored bounds are for the default k1 and b, and for the average length of the segment's documents. If the
//! parameters or the average length of the whole index differ, they are converted into valid bounds; see
//! [`Scorer::rescale`].
//!
//! The result is exact. Bounds are rounded up and widened by the maximum error of adding up in `f32`, so a skipped
//! document is strictly worse than the k-th. Documents with equal scores come in the order of indexing. The idea is
//! from "Faster Learned Sparse Retrieval with Block-Max Pruning" (Mallia, Suel and Tonellotto, SIGIR 2024).
//!
//! The bounds are in the memory-mapped file [`FILE`]: first the bounds of each term, then a table that locates them.
//! The start of its postings identifies a term, so one look-up in Tantivy's dictionary serves both. All numbers are
//! little-endian.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tantivy::directory::{Directory, MmapDirectory, OwnedBytes};
use tantivy::error::DataCorruption;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::index::InvertedIndexReader;
use tantivy::postings::{BlockSegmentPostings, TermInfo};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{DocId, Result, Score, SegmentReader, TantivyError, Term};

use super::Parameters;

/// The file of bounds in an index's folder.
const FILE: &str = "block_bounds";

/// The binary logarithm of the number of documents in a block. It is larger if block numbers would otherwise exceed two
/// bytes.
const BLOCK_BITS: u32 = 9;

/// Terms in fewer documents have no bounds in the file, because one Tantivy block holds all their postings.
const FREQUENT: u32 = 128;

/// The number of blocks to score before the threshold is checked again: a few, then more, then all that remain. In each
/// phase blocks are scored in order, because Tantivy's cursors only move forward.
const PHASES: [usize; 3] = [24, 128, usize::MAX];

/// The number of scores that are compared together.
const GROUP: usize = 16;

/// One segment, ready to be searched.
pub(super) struct BlockBounds {
    scorer: Scorer,
    bounds: OwnedBytes,
    table: OwnedBytes,
    /// Maps each bound of the file to a valid bound. `None` if the bounds of the file are valid.
    rescaled: Option<[u8; 256]>,
}

impl BlockBounds {
    /// Computes the bounds of a finished index and writes them to `folder`.
    pub(super) fn write(segment: &SegmentReader, field: Field, folder: &Path) -> Result<()> {
        let scorer = Scorer::open(segment, field)?;
        let mut file = BufWriter::new(File::create(folder.join(FILE))?);
        let mut table = Vec::new();
        let mut end = 0;
        let mut terms = scorer.inverted.terms().stream()?;
        while terms.advance() {
            let term = terms.value();
            if term.doc_freq < FREQUENT {
                continue;
            }
            let mut bounds = Vec::new();
            let mut postings = scorer.postings(term)?;
            while !postings.docs().is_empty() {
                scorer.bound(&postings, &mut bounds);
                postings.advance();
            }
            let bytes =
                if bounds.len() * SPARSE < scorer.blocks() { bounds.concat() } else { dense(&bounds, scorer.blocks()) };
            file.write_all(&bytes)?;
            end += bytes.len();
            table.extend([term.postings_range.start, end]);
        }
        table.push(table.len() / 2);
        table.into_iter().try_for_each(|number| file.write_all(&(number as u64).to_le_bytes()))?;
        file.flush()?;
        Ok(())
    }

    /// Opens a segment for searches with the default parameters and its own average length.
    pub(super) fn open(segment: &SegmentReader, field: Field, folder: &Path) -> Result<Self> {
        let file = MmapDirectory::open(folder)?.open_read(Path::new(FILE))?.read_bytes()?;
        let (rest, rows) = file.split_last_chunk().ok_or_else(damaged)?;
        let start =
            u64::from_le_bytes(*rows).checked_mul(ROW as u64).and_then(|bytes| rest.len().checked_sub(bytes as usize));
        let (bounds, table) = file.slice(0..rest.len()).split(start.ok_or_else(damaged)?);
        let end = table.as_chunks().0.last().map_or(0, ends);
        if end != bounds.len() {
            return Err(damaged());
        }
        Ok(Self { scorer: Scorer::open(segment, field)?, bounds, table, rescaled: None })
    }

    /// Selects the parameters of all searches, and the average length of the documents of the whole index.
    pub(super) fn set_norms(&mut self, average: Score, parameters: Parameters) {
        let scorer = &mut self.scorer;
        let norms = norms(average, parameters);
        self.rescaled = (scorer.norms != norms).then(|| scorer.rescale(&norms));
        scorer.norms = norms;
    }

    /// Returns the number of words of all documents, deleted ones included.
    pub(super) fn total_words(&self) -> u64 {
        self.scorer.inverted.total_num_tokens()
    }

    pub(super) fn documents(&self) -> usize {
        self.scorer.lengths.len()
    }

    /// Returns the postings of a word, and how many documents have it, deleted ones included.
    pub(super) fn term(&self, word: &str) -> Result<Option<TermInfo>> {
        Ok(self.scorer.inverted.get_term_info(&Term::from_field_text(self.scorer.field, word))?)
    }

    /// Offers to `best` the documents with the highest scores above 0. `terms` are the query's words with their weights,
    /// by descending weight; heavy terms rule out a block soonest.
    pub(super) fn search(&self, terms: Vec<(Score, TermInfo)>, best: &mut Best<'_>) -> Result<()> {
        let open = |(weight, info)| {
            let postings = self.scorer.postings(&info)?;
            let bounds = self.bounds(&info, &postings)?;
            let unit = weight / 255.0;
            Ok(QueryTerm { weight, unit, bounds, info, postings, start: 0, next: 0, bound: 0, rest: 0.0 })
        };
        let mut terms = terms.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        // A sum of n rounded numbers has at most n rounding errors, and so has the sum of their bounds.
        let slack = 1.0 + (2 * terms.len() + 8) as Score * Score::EPSILON;
        let mut bounds = vec![0.0; self.scorer.blocks()];
        for term in &terms {
            term.bounds.add_to(&mut bounds, term.unit);
        }
        bounds.iter_mut().for_each(|bound| *bound *= slack);

        let mut scores = vec![0.0; 1 << self.scorer.block_bits];
        let mut promising = Vec::new();
        for most in PHASES {
            promising.clear();
            promising.extend((0..).zip(bounds.iter().copied()).filter(|&(_, bound)| bound > best.threshold));
            if promising.len() > most {
                promising.select_nth_unstable_by(most, |(_, a), (_, b)| b.total_cmp(a));
                promising.truncate(most);
                promising.sort_unstable_by_key(|&(block, _)| block);
            }
            for &(block, bound) in &promising {
                bounds[block] = 0.0; // so that the block is scored only once
                if bound > best.threshold {
                    self.score(block, &mut terms, slack, &mut scores, best)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the bounds of a term, from the file or, for a rare term, computed from its postings.
    fn bounds(&self, term: &TermInfo, postings: &BlockSegmentPostings) -> Result<Bounds<'_>> {
        if term.doc_freq < FREQUENT {
            let mut bounds = Vec::new();
            self.scorer.bound(postings, &mut bounds);
            return Ok(Bounds::Sparse(bounds.into()));
        }
        let rows = self.table.as_chunks().0;
        let row = rows.partition_point(|row| starts(row) < term.postings_range.start);
        let start = row.checked_sub(1).map_or(0, |before| ends(&rows[before]));
        let row = rows.get(row).filter(|row| starts(row) == term.postings_range.start).ok_or_else(damaged)?;
        let bytes = self.bounds.get(start..ends(row)).ok_or_else(damaged)?;
        let bounds = match bytes.as_chunks() {
            _ if bytes.len() == self.scorer.blocks() => Bounds::Dense(bytes.into()),
            (entries, []) => Bounds::Sparse(entries.into()),
            _ => return Err(damaged()),
        };
        Ok(match &self.rescaled {
            Some(rescaled) => bounds.rescaled(rescaled),
            None => bounds,
        })
    }

    /// Scores the documents of a block and offers them to `best`. Stops early once no document can be among the best.
    fn score(
        &self,
        block: usize,
        terms: &mut [QueryTerm<'_>],
        slack: Score,
        scores: &mut [Score],
        best: &mut Best<'_>,
    ) -> Result<()> {
        let mut rest = 0.0;
        for term in terms.iter_mut().rev() {
            term.bound = term.bounds.get(block);
            rest += term.unit * Score::from(term.bound);
            term.rest = rest;
        }
        let documents = self.scorer.documents(block);
        let mut highest: Score = 0.0;
        scores.fill(0.0);
        for term in terms {
            if (highest + term.rest) * slack <= best.threshold {
                return Ok(());
            }
            if term.bound > 0 {
                highest = highest.max(term.add(&self.scorer, documents.clone(), scores)?);
            }
        }
        if highest >= best.threshold {
            for (start, scores) in documents.step_by(GROUP).zip(scores.chunks(GROUP)) {
                // This has no branch for each score, so that the compiler can vectorise it.
                if scores.iter().fold(false, |any, &score| any | (score >= best.threshold)) {
                    (start..).zip(scores).for_each(|(document, &score)| best.offer(score, document));
                }
            }
        }
        Ok(())
    }
}

/// The data from which scores are computed.
struct Scorer {
    field: Field,
    inverted: Arc<InvertedIndexReader>,
    /// The length of each document, as Tantivy stores it: coarsely, in one byte.
    lengths: OwnedBytes,
    /// For each length byte, the term frequency at which a term adds half of its weight.
    norms: [Score; 256],
    /// The average length, before documents were deleted.
    average: Score,
    block_bits: u32,
}

impl Scorer {
    fn open(segment: &SegmentReader, field: Field) -> Result<Self> {
        let inverted = segment.inverted_index(field)?;
        let lengths = segment.fieldnorms_readers().get_inner_file().open_read(field);
        let lengths = lengths.ok_or_else(|| DataCorruption::comment_only("there are no lengths"))?.read_bytes()?;
        let average = inverted.total_num_tokens() as Score / lengths.len() as Score;
        let norms = norms(average, Parameters::default());
        let block_bits = (BLOCK_BITS..).find(|bits| lengths.len() >> bits <= u16::MAX.into()).expect("it gets 0");
        Ok(Self { field, inverted, lengths, norms, average, block_bits })
    }

    fn postings(&self, term: &TermInfo) -> Result<BlockSegmentPostings> {
        Ok(self.inverted.read_block_postings_from_terminfo(term, IndexRecordOption::WithFreqs)?)
    }

    fn blocks(&self) -> usize {
        self.lengths.len().div_ceil(1 << self.block_bits)
    }

    fn documents(&self, block: usize) -> Range<DocId> {
        let start = block << self.block_bits;
        start as DocId..(start + (1 << self.block_bits)).min(self.lengths.len()) as DocId
    }

    /// Returns the share of its weight that a term adds to a document's score. It is below 1.
    fn share(&self, frequency: u32, length: u8) -> Score {
        let frequency = frequency as Score;
        frequency / (frequency + self.norms[usize::from(length)])
    }

    /// Adds a bound for each block of the current documents of `postings`: the highest share, in 255ths, rounded up.
    fn bound(&self, postings: &BlockSegmentPostings, bounds: &mut Vec<Entry>) {
        for (&document, &frequency) in postings.docs().iter().zip(postings.freqs()) {
            let [low, high] = ((document >> self.block_bits) as u16).to_le_bytes();
            let bound = (255.0 * self.share(frequency, self.lengths[document as usize])).ceil() as u8;
            match bounds.last_mut() {
                Some([last_low, last_high, highest]) if [*last_low, *last_high] == [low, high] => {
                    *highest = bound.max(*highest);
                }
                _ => bounds.push([low, high, bound]),
            }
        }
    }

    /// Returns, for each bound of the file, a valid bound under `norms`.
    ///
    /// A share is f / (f + n), where n is the norm of the document's length. Other parameters, and another average
    /// length, give each length another norm. Let r be the smallest ratio of the new norm to the norm of the file over
    /// all lengths in the segment. A share of at most s means that n / f is at least (1 - s) / s. With the new norm, the
    /// share is therefore at most s / (s + r (1 - s)).
    fn rescale(&self, norms: &[Score; 256]) -> [u8; 256] {
        let mut is_there = [false; 256];
        self.lengths.iter().for_each(|&length| is_there[usize::from(length)] = true);
        let stored = self::norms(self.average, Parameters::default());
        let ratio = |length: usize| f64::from(norms[length]) / f64::from(stored[length]);
        let lowest = (0..256).filter(|&length| is_there[length]).map(ratio).fold(f64::INFINITY, f64::min);
        std::array::from_fn(|bound| match bound as f64 / 255.0 {
            0.0 => 0,
            share => (255.0 * share / (share + lowest * (1.0 - share)) + ROUNDING).ceil().min(255.0) as u8,
        })
    }
}

/// A margin in 255ths. It exceeds the `f32` errors that go into a share.
const ROUNDING: f64 = 1e-3;

/// Returns, for each length byte, the term frequency at which a term adds half of its weight.
fn norms(average: Score, Parameters { k1, b }: Parameters) -> [Score; 256] {
    std::array::from_fn(|length| k1 * (1.0 - b + b * FieldNormReader::id_to_fieldnorm(length as u8) as Score / average))
}

/// A word of the query, and the state of reading its postings.
struct QueryTerm<'a> {
    weight: Score,
    /// The score that one step of a bound stands for.
    unit: Score,
    bounds: Bounds<'a>,
    info: TermInfo,
    postings: BlockSegmentPostings,
    /// The first document of the block that was read last, and the position in `postings` after that block. Cursors
    /// only move forward.
    start: DocId,
    next: usize,
    /// Bounds for the block that is being scored: `bound` of this term, and `rest` of this term and all later terms.
    bound: u8,
    rest: Score,
}

impl QueryTerm<'_> {
    /// Adds the term's scores for one block of `documents`, and returns the highest score among those that it changed.
    fn add(&mut self, scorer: &Scorer, documents: Range<DocId>, scores: &mut [Score]) -> Result<Score> {
        if documents.start < self.start {
            self.postings = scorer.postings(&self.info)?;
            self.next = 0;
        }
        self.start = documents.start;
        self.next = match self.postings.docs().last() {
            Some(&last) if last < documents.start => self.postings.seek(documents.start),
            _ => self.next + self.postings.docs()[self.next..].partition_point(|&document| document < documents.start),
        };
        let lengths = &scorer.lengths[documents.start as usize..documents.end as usize];
        let mut highest: Score = 0.0;
        loop {
            let (docs, frequencies) = (&self.postings.docs()[self.next..], &self.postings.freqs()[self.next..]);
            for (passed, (&document, &frequency)) in docs.iter().zip(frequencies).enumerate() {
                if document >= documents.end {
                    self.next += passed;
                    return Ok(highest);
                }
                let place = (document - documents.start) as usize;
                let score = scores[place] + self.weight * scorer.share(frequency, lengths[place]);
                scores[place] = score;
                highest = if score > highest { score } else { highest }; // one instruction; f32::max also handles NaN
            }
            self.postings.advance();
            self.next = 0;
            if self.postings.docs().is_empty() {
                return Ok(highest);
            }
        }
    }
}

/// The best documents found so far.
pub(super) struct Best<'a> {
    k: usize,
    /// A heap with the worst document on top. The bits of scores above 0 have the order of the scores.
    heap: BinaryHeap<Reverse<(u32, Reverse<DocId>)>>,
    /// No document with a lower score is among the best.
    threshold: Score,
    /// The number of the first document of the segment that is being searched, and its deleted documents.
    first: DocId,
    deleted: &'a BTreeSet<DocId>,
}

impl<'a> Best<'a> {
    pub(super) fn new(k: usize) -> Self {
        const NONE: &BTreeSet<DocId> = &BTreeSet::new();
        Self { k, heap: BinaryHeap::with_capacity(k), threshold: Score::MIN_POSITIVE, first: 0, deleted: NONE }
    }

    /// Selects the segment whose documents are offered next.
    pub(super) fn enter(&mut self, first: DocId, deleted: &'a BTreeSet<DocId>) {
        (self.first, self.deleted) = (first, deleted);
    }

    /// Offers a document by its number in the segment.
    fn offer(&mut self, score: Score, document: DocId) {
        if score < self.threshold || self.deleted.contains(&document) {
            return;
        }
        let candidate = Reverse((score.to_bits(), Reverse(self.first + document)));
        if self.heap.len() < self.k {
            self.heap.push(candidate);
        } else if let Some(mut worst) = self.heap.peek_mut().filter(|worst| candidate < **worst) {
            *worst = candidate;
        }
        if let Some(Reverse((worst, _))) = self.heap.peek().filter(|_| self.heap.len() == self.k) {
            self.threshold = Score::from_bits(*worst);
        }
    }

    /// Returns the documents, best first, by their numbers in the index.
    pub(super) fn into_sorted(self) -> Vec<(Score, DocId)> {
        let best = self.heap.into_sorted_vec();
        best.into_iter().map(|Reverse((score, Reverse(document)))| (Score::from_bits(score), document)).collect()
    }
}

/// The bounds of a term, in 255ths of its weight.
enum Bounds<'a> {
    /// One bound for each block.
    Dense(Cow<'a, [u8]>),
    /// Bounds of the blocks that contain the term, in order.
    Sparse(Cow<'a, [Entry]>),
}

/// A block's number, little-endian, and its bound.
type Entry = [u8; SPARSE];
const SPARSE: usize = 3;

impl Bounds<'_> {
    fn get(&self, block: usize) -> u8 {
        match self {
            Self::Dense(bounds) => bounds[block],
            Self::Sparse(entries) => {
                entries.binary_search_by_key(&block, block_of).map_or(0, |found| entries[found][SPARSE - 1])
            }
        }
    }

    /// Adds each bound, multiplied by `unit`, to the sum of its block.
    fn add_to(&self, sums: &mut [Score], unit: Score) {
        match self {
            Self::Dense(bounds) => {
                sums.iter_mut().zip(&**bounds).for_each(|(sum, &bound)| *sum += unit * Score::from(bound));
            }
            Self::Sparse(entries) => {
                for entry in &**entries {
                    if let Some(sum) = sums.get_mut(block_of(entry)) {
                        *sum += unit * Score::from(entry[SPARSE - 1]);
                    }
                }
            }
        }
    }

    fn rescaled(self, to: &[u8; 256]) -> Self {
        let bound = |bound: u8| to[usize::from(bound)];
        match self {
            Self::Dense(bounds) => Self::Dense(bounds.iter().copied().map(bound).collect()),
            Self::Sparse(entries) => {
                Self::Sparse(entries.iter().map(|&[low, high, old]| [low, high, bound(old)]).collect())
            }
        }
    }
}

fn block_of(&[low, high, _]: &Entry) -> usize {
    u16::from_le_bytes([low, high]).into()
}

/// Returns a bound for each of `blocks`. It is 0 for blocks that `entries` does not contain.
fn dense(entries: &[Entry], blocks: usize) -> Vec<u8> {
    let mut dense = vec![0; blocks];
    entries.iter().for_each(|entry| dense[block_of(entry)] = entry[SPARSE - 1]);
    dense
}

fn damaged() -> TantivyError {
    DataCorruption::comment_only(format!("{FILE} is damaged")).into()
}

/// The number of bytes of a row of the table. Rows are sorted by [`starts`].
const ROW: usize = 16;

/// Returns the start of the term's postings.
fn starts(row: &[u8; ROW]) -> usize {
    u64::from_le_bytes(*row.first_chunk().expect("it is longer")) as usize
}

/// Returns the end of the term's bounds. They start at the end of the previous term's bounds.
fn ends(row: &[u8; ROW]) -> usize {
    u64::from_le_bytes(*row.last_chunk().expect("it is longer")) as usize
}
