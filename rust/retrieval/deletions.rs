//! Which passages of a segment are deleted, and what they contributed to its statistics.
//!
//! A segment never changes, so its postings still contain the deleted passages. BM25 needs statistics of the others
//! only: how many there are, how many of them have a word, and how long they are. The words of the deleted passages are
//! therefore counted here, and subtracted in a search.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, ErrorKind};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tantivy::DocId;
use tantivy::tokenizer::TextAnalyzer;

use super::Passage;

/// The file of deletions in a segment's folder. It does not exist if nothing is deleted.
pub(super) const FILE: &str = "deleted";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Deletions {
    pub(super) passages: BTreeSet<DocId>,
    /// The number of deleted passages that have a word.
    frequencies: BTreeMap<String, u32>,
    /// The number of words of all deleted passages.
    pub(super) total_words: u64,
}

impl Deletions {
    pub(super) fn open(folder: &Path) -> tantivy::Result<Self> {
        match File::open(folder.join(FILE)) {
            Ok(file) => Ok(serde_json::from_reader(BufReader::new(file)).map_err(std::io::Error::from)?),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn write(&self, folder: &Path) -> std::io::Result<()> {
        fs::write(folder.join(FILE), serde_json::to_vec(self)?)
    }

    pub(super) fn add(&mut self, number: DocId, passage: &Passage, title_weight: u32, analyzer: &mut TextAnalyzer) {
        let mut words = BTreeSet::new();
        for (text, weight) in [(&passage.title, title_weight), (&passage.text, 1)] {
            analyzer.token_stream(text).process(&mut |token| {
                self.total_words += u64::from(weight);
                words.insert(token.text.clone());
            });
        }
        words.into_iter().for_each(|word| *self.frequencies.entry(word).or_default() += 1);
        self.passages.insert(number);
    }

    /// Returns the number of deleted passages that have a word.
    pub(super) fn frequency(&self, word: &str) -> u32 {
        self.frequencies.get(word).copied().unwrap_or_default()
    }
}
