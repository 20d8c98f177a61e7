//! The part of a memory that a State stores, and that States share.
//!
//! A Delta consists of the lines of 64 bytes that differ from the image. It is small to keep and fast to restore.
//! Deltas share the pages that a cell did not change, so a State costs only what its last cell changed.
//!
//! This module does not access the memory itself (`memory.rs`) and does not serialize a Delta (`bytes.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustc_hash::FxHashMap;

/// The page size of Deltas on every host. A page has 64 lines, one for each bit of a u64.
pub const PAGE: usize = 4096;
pub const LINE: usize = 64;

/// The difference between a memory and the image.
#[derive(Debug, Default)]
pub struct Delta {
    /// The size of the memory in bytes, including the image.
    pub size: usize,
    /// The pages that differ, in ascending order.
    pub pages: Vec<Page>,
}

/// A page of a [`Delta`].
#[derive(Clone, Debug)]
pub struct Page {
    pub index: u32,
    /// One bit for each line that differs.
    pub mask: u64,
    /// The index of the page's first line in `block`. Its lines are consecutive.
    start: u32,
    /// All new lines of the Delta that created this page. All pages of that Delta share one block, because allocating
    /// and freeing a block for each page would cost as much as finding the lines.
    block: Arc<Block>,
}

pub type Line = [u8; LINE];

/// Lines that Deltas share.
#[derive(Debug)]
struct Block(Box<[Line]>);

/// The size of all blocks in bytes.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Returns the memory of all Deltas of this process in bytes. Shared memory is counted once.
pub fn held_bytes() -> usize {
    HELD.load(Ordering::Relaxed)
}

impl Block {
    fn new(lines: Vec<Line>) -> Arc<Self> {
        let block = Self(lines.into());
        HELD.fetch_add(size_of_val(&*block.0), Ordering::Relaxed);
        Arc::new(block)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        HELD.fetch_sub(size_of_val(&*self.0), Ordering::Relaxed);
    }
}

impl Delta {
    /// Returns the memory held in bytes, including memory shared with other Deltas.
    pub fn nbytes(&self) -> usize {
        self.pages.iter().map(|page| size_of::<Page>() + size_of_val(page.lines())).sum()
    }
}

impl Page {
    /// Returns the lines that differ, in order.
    pub fn lines(&self) -> &[Line] {
        &self.block.0[self.start as usize..][..self.mask.count_ones() as usize]
    }

    /// Returns one of these lines by its position in the page.
    pub fn line(&self, line: usize) -> Option<&Line> {
        let before = (self.mask & ((1 << line) - 1)).count_ones() as usize;
        (self.mask >> line & 1 != 0).then(|| &self.lines()[before])
    }

    /// Returns whether two pages with the same index share their lines. If so, they are equal.
    pub fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.block, &other.block) && self.start == other.start
    }

    /// Returns whether `now` equals this page, where `before` is the image's page. It compares whole runs of lines,
    /// because there are few runs.
    pub fn is(&self, now: &[Line], before: &[Line]) -> bool {
        let (mut at, mut own) = (0, 0);
        while at < now.len() {
            let changed = self.mask >> at & 1 != 0;
            let run = if changed { self.mask >> at } else { !self.mask >> at }.trailing_ones() as usize;
            let end = (at + run).min(now.len());
            let wanted = if changed { &self.lines()[own..own + run] } else { &before[at..end] };
            if now[at..end].as_flattened() != wanted.as_flattened() {
                return false;
            }
            own += if changed { run } else { 0 };
            at = end;
        }
        true
    }
}

/// A builder of a [`Delta`], from pages of another Delta and new pages.
pub struct NewDelta<'a> {
    pages: Vec<NewPage<'a>>,
    lines: Vec<Line>,
}

#[derive(Clone, Copy)]
enum NewPage<'a> {
    Known(&'a Page),
    New { index: u32, mask: u64, start: usize },
}

impl<'a> NewDelta<'a> {
    /// A Delta that uses less than 1 / MIN_SHARE of a block copies those lines, so that the rest can be freed.
    const MIN_SHARE: usize = 4;

    pub fn with_capacity(pages: usize) -> Self {
        Self { pages: Vec::with_capacity(pages), lines: Vec::new() }
    }

    /// Adds a page that is unchanged.
    pub fn keep(&mut self, page: &'a Page) {
        self.pages.push(NewPage::Known(page));
    }

    /// Adds a new page. `lines` are the lines in `mask`.
    pub fn add(&mut self, index: u32, mask: u64, lines: impl Iterator<Item = Line>) {
        self.pages.push(NewPage::New { index, mask, start: self.lines.len() });
        self.lines.extend(lines);
    }

    pub fn finish(mut self, size: usize) -> Delta {
        let mut kept = FxHashMap::<*const Block, usize>::default();
        for page in &self.pages {
            if let NewPage::Known(known) = page {
                *kept.entry(Arc::as_ptr(&known.block)).or_default() += known.lines().len();
            }
        }
        for page in &mut self.pages {
            if let NewPage::Known(known) = *page
                && kept[&Arc::as_ptr(&known.block)] * Self::MIN_SHARE < known.block.0.len()
            {
                *page = NewPage::New { index: known.index, mask: known.mask, start: self.lines.len() };
                self.lines.extend(known.lines());
            }
        }
        let block = Block::new(self.lines);
        let pages = self.pages.into_iter().map(|page| match page {
            NewPage::Known(page) => page.clone(),
            NewPage::New { index, mask, start } => Page { index, mask, start: start as u32, block: block.clone() },
        });
        Delta { size, pages: pages.collect() }
    }
}

/// Iterates over the pages of both Deltas in ascending order, and pairs pages with the same index.
pub fn side_by_side<'a>(
    old: &'a [Page],
    new: &'a [Page],
) -> impl Iterator<Item = (u32, Option<&'a Page>, Option<&'a Page>)> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        let index = [old.peek(), new.peek()].into_iter().flatten().map(|page| page.index).min()?;
        Some((index, old.next_if(|page| page.index == index), new.next_if(|page| page.index == index)))
    })
}

/// Iterates over the positions of the bits that are set, in ascending order.
pub fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = (mask != 0).then_some(mask.trailing_zeros() as usize);
        mask &= mask.wrapping_sub(1);
        lowest
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_places_ascending() {
        for mask in [0, 1, 1 << 63, u64::MAX, 0x8000_0000_0001_0100] {
            assert!(bits(mask).eq((0..64).filter(|place| mask >> place & 1 != 0)), "{mask:#x}");
        }
    }
}
