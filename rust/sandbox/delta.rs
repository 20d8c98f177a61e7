//! What is kept of a memory, and what do States share?
//!
//! The lines of 64 bytes that differ from the image: small to keep, quick to put back.
//! Deltas share the pages that a cell left as they were, so a State costs what its last cell has changed.
//!
//! Not here: the memory itself (memory.rs), and a Delta as bytes (bytes.rs).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustc_hash::FxHashMap;

/// Deltas count in these pages on every host. One has 64 lines, as many as a u64 has bits.
pub const PAGE: usize = 4096;
pub const LINE: usize = 64;

/// The difference.
#[derive(Debug, Default)]
pub struct Delta {
    /// Bytes of memory, the image's part included.
    pub size: usize,
    /// Those that differ, ascending.
    pub pages: Vec<Page>,
}

/// A page of a [`Delta`].
#[derive(Clone, Debug)]
pub struct Page {
    pub index: u32,
    /// A bit for each line that differs.
    pub mask: u64,
    /// Where those lines are in `block`, one after the other.
    start: u32,
    /// The lines that were new in one Delta: of all its pages, since to allocate and free each page's costs as much as to
    /// find them.
    block: Arc<Block>,
}

pub type Line = [u8; LINE];

/// Lines that Deltas share.
#[derive(Debug)]
struct Block(Box<[Line]>);

/// Bytes of all blocks.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Bytes that all Deltas of this process hold, what they share counted once.
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
    /// Bytes held, those included that are shared with others.
    pub fn nbytes(&self) -> usize {
        self.pages.iter().map(|page| size_of::<Page>() + size_of_val(page.lines())).sum()
    }
}

impl Page {
    /// The lines that differ, in order.
    pub fn lines(&self) -> &[Line] {
        &self.block.0[self.start as usize..][..self.mask.count_ones() as usize]
    }

    /// One of them, by its place in the page.
    pub fn line(&self, line: usize) -> Option<&Line> {
        let before = (self.mask & ((1 << line) - 1)).count_ones() as usize;
        (self.mask >> line & 1 != 0).then(|| &self.lines()[before])
    }

    /// Whether two pages of the same index share their lines, and so are the same.
    pub fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.block, &other.block) && self.start == other.start
    }

    /// Whether `now` is this page, where `before` is the image's. Compares run by run, since there are few.
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

/// A [`Delta`] in the making, out of pages that another has and of new ones.
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
    /// A Delta that uses less than this fraction of a block (1 / MIN_SHARE) copies that, so that the rest can be freed.
    const MIN_SHARE: usize = 4;

    pub fn with_capacity(pages: usize) -> Self {
        Self { pages: Vec::with_capacity(pages), lines: Vec::new() }
    }

    /// Goes on with a page that stays as it is.
    pub fn keep(&mut self, page: &'a Page) {
        self.pages.push(NewPage::Known(page));
    }

    /// Goes on with a new page; `lines` are those of `mask`.
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

/// The pages of both, ascending, each beside that of the other at the same place.
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

/// The places of the bits that are set, ascending.
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
