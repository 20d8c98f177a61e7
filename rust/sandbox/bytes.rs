//! A State as bytes: what it has where its base has something else.
//!
//! Without a base that is the image, and the bytes stand alone: some 20 kB for a few variables. With the State before as its
//! base it is what one cell has changed. The bytes name the guest and the base they belong to, and are refused with any
//! other. They may come from anybody: what would need more memory than allowed is refused before memory is taken for it,
//! and nothing in them can do more than a cell could.
//!
//! Layout: magic; hash of the guest; identity of the base, zeros without one; SHA-256 of the rest. The rest, by zstd: five
//! numbers (world, memory size, count of pages); of each page that differs from the base's its index, the mask of its lines
//! that differ from the image's, the mask of those among them that the base has not; then the lines of the last masks. A
//! first mask of zeros says that the page is the image's again.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::engine::WASM_PAGE;
use super::guest::Guest;
use super::host::World;
use super::memory::{LINE, Line, NewDelta, PAGE, Page, bits, side_by_side};
use super::{Limits, Moment, SandboxError, State};
use crate::Error;

const MAGIC: &[u8; 8] = b"ADstate2";
const HASH: usize = 32;
const HEADER: usize = MAGIC.len() + 3 * HASH;
const NUMBERS: usize = 5;
/// An index and two masks.
const PAGE_HEADER: usize = 4 + 8 + 8;

impl State {
    /// The bytes that [`State::from_bytes`] takes with the same base: the more the base shares, the fewer.
    pub fn to_bytes(&self, base: Option<&Self>) -> Vec<u8> {
        let body = zstd::bulk::compress(&self.body(base), 12).expect("zstd compresses anything");
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend(MAGIC);
        bytes.extend(Guest::HASH);
        bytes.extend(base.map_or([0; HASH], Self::identity));
        bytes.extend(Sha256::digest(&body));
        bytes.extend(body);
        bytes
    }

    /// The State that [`State::to_bytes`] gave, if `limits` allow its memory.
    pub fn from_bytes(bytes: &[u8], base: Option<&Self>, limits: &Limits) -> crate::Result<Self> {
        let not_a_state = |why| Error::from(SandboxError::NotAState(why));
        let (header, body) = bytes.split_at_checked(HEADER).ok_or_else(|| not_a_state("there are too few"))?;
        let (magic, hashes) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(not_a_state("they begin with something else"));
        }
        let [guest, of_base, checksum] = [0, 1, 2].map(|place| &hashes[place * HASH..][..HASH]);
        if guest != Guest::HASH {
            return Err(SandboxError::OtherGuest.into());
        }
        if checksum != Sha256::digest(body).as_slice() {
            return Err(not_a_state("their checksum is wrong, so they are damaged or cut off"));
        }
        if of_base != base.map_or([0; HASH], Self::identity) {
            return Err(SandboxError::OtherBase.into());
        }
        let length = zstd::zstd_safe::get_frame_content_size(body).ok().flatten();
        let length = length.and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or_else(|| not_a_state("their length is not given"))?;
        let pages = limits.memory() / PAGE;
        if length > NUMBERS * 8 + pages * (PAGE_HEADER + PAGE) {
            return Err(SandboxError::TooLarge(limits.memory_mb).into());
        }
        let body = zstd::bulk::decompress(body, length).map_err(|_| not_a_state("they cannot be decompressed"))?;
        let state = parse(&body, base).ok_or_else(|| not_a_state("what they say does not fit together"))?;
        state.check(limits)?;
        Ok(state)
    }

    /// The same for the same State in every process, and for no other.
    fn identity(&self) -> [u8; HASH] {
        Sha256::digest(self.body(None)).into()
    }

    fn body(&self, base: Option<&Self>) -> Vec<u8> {
        let Moment { world, delta } = &*self.0;
        let changes = side_by_side(pages(base), &delta.pages);
        let changes: Vec<Change> = changes.filter_map(|(index, old, new)| Change::between(index, old, new)).collect();
        let mut body = Vec::with_capacity(delta.nbytes());
        for number in [world.seed, world.drawn, world.nanoseconds, delta.size as u64, changes.len() as u64] {
            body.extend(number.to_le_bytes());
        }
        body.extend(changes.iter().flat_map(|change| change.index.to_le_bytes()));
        body.extend(changes.iter().flat_map(|change| change.mask.to_le_bytes()));
        body.extend(changes.iter().flat_map(|change| change.fresh.to_le_bytes()));
        body.extend(changes.iter().flat_map(Change::fresh_lines).flatten());
        body
    }
}

fn parse(body: &[u8], base: Option<&State>) -> Option<State> {
    let (numbers, rest) = body.split_at_checked(NUMBERS * 8)?;
    let (numbers, _) = numbers.as_chunks::<8>();
    let [seed, drawn, nanoseconds, size, count]: [u64; NUMBERS] =
        std::array::from_fn(|i| u64::from_le_bytes(numbers[i]));
    let (size, count) = (usize::try_from(size).ok()?, usize::try_from(count).ok()?);
    let (indexes, rest) = rest.split_at_checked(count.checked_mul(4)?)?;
    let (masks, rest) = rest.split_at_checked(count.checked_mul(8)?)?;
    let (fresh, lines) = rest.split_at_checked(count.checked_mul(8)?)?;
    let indexes: Vec<u32> = indexes.as_chunks().0.iter().map(|&index| u32::from_le_bytes(index)).collect();
    let [masks, fresh] = [masks, fresh].map(|masks| masks.as_chunks().0.iter().map(|&mask| u64::from_le_bytes(mask)));
    let (mut lines, []) = lines.as_chunks::<LINE>() else { return None };

    let mut old = pages(base).iter().peekable();
    let mut new = NewDelta::with_capacity(old.len() + count);
    for ((&index, mask), fresh) in indexes.iter().zip(masks).zip(fresh) {
        while let Some(page) = old.next_if(|page| page.index < index) {
            new.keep(page);
        }
        let old = old.next_if(|page| page.index == index);
        let (own, rest) = lines.split_at_checked(fresh.count_ones() as usize)?;
        lines = rest;
        if fresh & !mask != 0 || mask & !fresh & !old.map_or(0, |old| old.mask) != 0 {
            return None;
        }
        let mut own = own.iter();
        let line = |line| if fresh >> line & 1 != 0 { own.next() } else { old.and_then(|old| old.line(line)) };
        if mask != 0 {
            new.add(index, mask, bits(mask).filter_map(line).copied());
        }
    }
    old.for_each(|page| new.keep(page));
    let new = new.finish(size);
    let ascending = indexes.is_sorted_by(|a, b| a < b);
    let inside = new.pages.last().is_none_or(|page| (page.index as usize + 1) * PAGE <= size);
    let sized = size.is_multiple_of(WASM_PAGE) && size >= Guest::IMAGE_LEN;
    if !lines.is_empty() || !ascending || !inside || !sized {
        return None;
    }
    Some(State::new(World { seed, drawn, nanoseconds }, Arc::new(new)))
}

/// A page that is not as in the base.
struct Change<'a> {
    index: u32,
    mask: u64,
    /// Those of its lines that the base has not.
    fresh: u64,
    lines: &'a [Line],
}

impl<'a> Change<'a> {
    fn between(index: u32, old: Option<&Page>, new: Option<&'a Page>) -> Option<Self> {
        let Some(new) = new else { return Some(Self { index, mask: 0, fresh: 0, lines: &[] }) };
        if old.is_some_and(|old| old.shares(new)) {
            return None;
        }
        let is_fresh = |(line, content): &(usize, &Line)| old.and_then(|old| old.line(*line)) != Some(content);
        let fresh = bits(new.mask).zip(new.lines()).filter(is_fresh).fold(0, |fresh, (line, _)| fresh | 1 << line);
        let same = fresh == 0 && old.is_some_and(|old| old.mask == new.mask);
        (!same).then_some(Self { index, mask: new.mask, fresh, lines: new.lines() })
    }

    fn fresh_lines(&self) -> impl Iterator<Item = Line> {
        let lines = bits(self.mask).zip(self.lines);
        lines.filter(|(line, _)| self.fresh >> line & 1 != 0).map(|(_, content)| *content)
    }
}

fn pages(base: Option<&State>) -> &[Page] {
    base.map_or(&[], |base| &base.0.delta.pages)
}
