//! Finds the passages of a page: those that have its title.
//!
//! An index has no list of titles. A search for the title's words finds some passages of the page. The others are
//! usually before and after them, because a page is indexed from its beginning to its end.

use std::collections::BTreeMap;
use std::iter;

use tantivy::DocId;

use super::{Bm25Index, Passage};
use crate::error::Result;

/// The number of passages of the search that may be of the page.
const CANDIDATES: usize = 1_000;

/// The approximate maximum size of a page in bytes.
pub const MAX_PAGE_BYTES: usize = 4 << 20;

impl Bm25Index {
    /// Returns the passages with this title in the order of indexing, and ignores case.
    ///
    /// These are all passages with the title among the best 1,000 for its words, and the passages before and after
    /// these that have it, too. The result ends at about 4 MiB. It is empty if the title has only stop words.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieval`](crate::Error::Retrieval) if the index can no longer be read.
    pub fn page(&self, title: &str) -> Result<Vec<Passage>> {
        let title = folded(title);
        let of_page = |number: DocId| match self.passage(number, 0.0) {
            Ok(passage) if folded(&passage.title) != title => None,
            read => Some(read.map(|passage| (number, passage))),
        };
        let (mut page, mut bytes) = (BTreeMap::new(), 0);
        for (_, candidate) in self.find(&mut self.analyzer.clone(), &title, CANDIDATES)? {
            if page.contains_key(&candidate) {
                continue;
            }
            let Some(found) = of_page(candidate) else { continue };
            let before = self.segments.before(candidate).map_while(of_page);
            let after = self.segments.from(candidate + 1).map_while(of_page);
            for passage in iter::once(found).chain(before).chain(after) {
                if bytes > MAX_PAGE_BYTES {
                    break;
                }
                let (number, passage) = passage?;
                bytes += passage.id.len() + passage.title.len() + passage.text.len();
                page.insert(number, passage);
            }
        }
        Ok(page.into_values().collect())
    }
}

fn folded(title: &str) -> String {
    title.trim().to_lowercase()
}
