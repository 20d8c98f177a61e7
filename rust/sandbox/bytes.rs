//! Serializes a State as its difference to a base.
//!
//! Without a base, the difference is to the image, and the bytes are self-contained: about 20 kB for a few variables.
//! With the previous State as base, they contain what one cell has changed. The bytes identify their guest and their
//! base, and are refused with any other. They may come from an untrusted source. If they need more memory than allowed,
//! they are refused before it is allocated, and nothing in them can do more than a cell could.
//!
//! Layout: magic; hash of the guest; identity of the base, zeros without one; SHA-256 of the rest. The rest is
//! compressed with zstd. It starts with five numbers (clock and random generator, memory size, number of pages). Then
//! come, for all pages that differ from the base's: their indexes; the masks of their lines that differ from the
//! image's; and the masks of those lines among them that the base does not have. For all lines in the last masks follow
//! the masks of their words that differ from the base's line, or from the image's line if the base has none. Finally
//! come these words. If the first mask of a page is zero, the page equals the image's page again.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::delta::{Delta, LINE, Line, NewDelta, PAGE, Page, bits, side_by_side};
use super::engine::WASM_PAGE;
use super::guest::Guest;
use super::host::Devices;
use super::memory::Image;
use super::process::Process;
use super::{Limits, SandboxError, State};
use crate::Error;

const MAGIC: &[u8; 8] = b"ADstate3";
const HASH: usize = 32;
const HEADER: usize = MAGIC.len() + 3 * HASH;
const NUMBERS: usize = 5;
/// An index, two masks, and a mask for each line.
const PAGE_HEADER: usize = 4 + 8 + 8 + 2 * (PAGE / LINE);
/// The unit of comparison in a line that differs. About half of the words of such a line are unchanged.
const WORD: usize = 4;

impl State {
    /// Returns bytes that [`State::from_bytes`] accepts with the same base. There are fewer of them the more the base
    /// shares.
    ///
    /// # Errors
    ///
    /// [`Error::Sandbox`] if a State was parked and cannot be read back.
    pub fn to_bytes(&self, base: Option<&Self>) -> crate::Result<Vec<u8>> {
        let body = self.body(base)?;
        let body = zstd::bulk::compress(&body, 6).expect("zstd compresses anything");
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend(MAGIC);
        bytes.extend(Guest::HASH);
        bytes.extend(base.map_or(Ok([0; HASH]), Self::identity)?);
        bytes.extend(Sha256::digest(&body));
        bytes.extend(body);
        Ok(bytes)
    }

    /// Restores the State from the bytes of [`State::to_bytes`], if `limits` allow its memory.
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
        if of_base != base.map_or(Ok([0; HASH]), Self::identity)? {
            return Err(SandboxError::OtherBase.into());
        }
        let length = zstd::zstd_safe::get_frame_content_size(body).ok().flatten();
        let length = length.and_then(|length| usize::try_from(length).ok());
        let length = length.ok_or_else(|| not_a_state("their length is not given"))?;
        let max_pages = limits.memory() / PAGE;
        if length > NUMBERS * 8 + max_pages * (PAGE_HEADER + PAGE) {
            return Err(SandboxError::TooLarge(limits.memory_mb).into());
        }
        let body = zstd::bulk::decompress(body, length).map_err(|_| not_a_state("they cannot be decompressed"))?;
        let misfit = || not_a_state("what they say does not fit together");
        let body = Body::split(&body).ok_or_else(misfit)?;
        limits.check_memory(body.size)?;
        let old = base.map(|base| base.0.delta.get()).transpose()?;
        let delta = body.delta(pages(old.as_deref()), image()).ok_or_else(misfit)?;
        Ok(Self::new(body.devices, Arc::new(delta))?)
    }

    /// Returns a hash that is the same for the same State in every process, and differs for any other State.
    fn identity(&self) -> Result<[u8; HASH], SandboxError> {
        if let Some(known) = self.0.identity.get() {
            return Ok(*known);
        }
        let identity = Sha256::digest(self.body(None)?).into();
        Ok(*self.0.identity.get_or_init(|| identity))
    }

    fn body(&self, base: Option<&Self>) -> Result<Vec<u8>, SandboxError> {
        let (delta, old) = (self.0.delta.get()?, base.map(|base| base.0.delta.get()).transpose()?);
        Ok(body(&self.0.devices, &delta, pages(old.as_deref())))
    }
}

/// Serializes a Delta for parking: with fast compression and no checksum. Only this process unpacks it.
pub fn pack(delta: &Delta) -> Vec<u8> {
    zstd::bulk::compress(&body(&Devices::default(), delta, &[]), 1).expect("zstd compresses anything")
}

/// Restores a Delta from [`pack`]. Returns `None` if the bytes are damaged.
pub fn unpack(packed: &[u8]) -> Option<Delta> {
    Body::split(&zstd::decode_all(packed).ok()?)?.delta(&[], image())
}

fn image() -> &'static Image {
    &Process::current().expect("a State comes from a guest that is loaded").guest.image
}

fn body(devices: &Devices, delta: &Delta, old: &[Page]) -> Vec<u8> {
    let image = image();
    let changes = side_by_side(old, &delta.pages);
    let changes: Vec<Change> = changes.filter_map(|(index, old, new)| Change::between(index, old, new)).collect();
    let lines: Vec<(&Line, u64)> = changes.iter().flat_map(|change| change.fresh_lines(image)).collect();
    let mut body = Vec::with_capacity(delta.nbytes());
    for number in [devices.seed, devices.drawn, devices.nanoseconds, delta.size as u64, changes.len() as u64] {
        body.extend(number.to_le_bytes());
    }
    body.extend(changes.iter().flat_map(|change| change.index.to_le_bytes()));
    body.extend(changes.iter().flat_map(|change| change.mask.to_le_bytes()));
    body.extend(changes.iter().flat_map(|change| change.fresh.to_le_bytes()));
    body.extend(lines.iter().flat_map(|(_, differing)| (*differing as u16).to_le_bytes()));
    body.extend(lines.iter().flat_map(|(line, differing)| bits(*differing).flat_map(|word| words(line)[word])));
    body
}

/// The unpacked content of the bytes, not yet checked against a base.
struct Body<'a> {
    devices: Devices,
    size: usize,
    indexes: Vec<u32>,
    masks: &'a [[u8; 8]],
    fresh: &'a [[u8; 8]],
    differing: &'a [[u8; 2]],
    words: &'a [[u8; WORD]],
}

impl<'a> Body<'a> {
    fn split(body: &'a [u8]) -> Option<Self> {
        let (numbers, rest) = body.split_at_checked(NUMBERS * 8)?;
        let (numbers, _) = numbers.as_chunks::<8>();
        let [seed, drawn, nanoseconds, size, count]: [u64; NUMBERS] =
            std::array::from_fn(|i| u64::from_le_bytes(numbers[i]));
        let (size, count) = (usize::try_from(size).ok()?, usize::try_from(count).ok()?);
        let (indexes, rest) = rest.split_at_checked(count.checked_mul(4)?)?;
        let (masks, rest) = rest.split_at_checked(count.checked_mul(8)?)?;
        let (fresh, rest) = rest.split_at_checked(count.checked_mul(8)?)?;
        let fresh = fresh.as_chunks().0;
        let lines: usize = fresh.iter().map(|&fresh| u64::from_le_bytes(fresh).count_ones() as usize).sum();
        let (differing, words) = rest.split_at_checked(lines * 2)?;
        let differing = differing.as_chunks().0;
        let (words, []) = words.as_chunks() else { return None };
        let indexes: Vec<u32> = indexes.as_chunks().0.iter().map(|&index| u32::from_le_bytes(index)).collect();

        let ascending = indexes.is_sorted_by(|a, b| a < b);
        // Checked before lines are allocated. A page that equals the image again may lie in the base's larger memory.
        let masks = masks.as_chunks().0;
        let last = indexes.iter().zip(masks).rfind(|(_, mask)| **mask != [0; 8]);
        let inside = last.is_none_or(|(&index, _)| (index as usize + 1) * PAGE <= size);
        let sized = size.is_multiple_of(WASM_PAGE) && size >= Guest::IMAGE_LEN;
        let counted: usize = differing.iter().map(|&words| u16::from_le_bytes(words).count_ones() as usize).sum();
        let devices = Devices { seed, drawn, nanoseconds };
        (ascending && inside && sized && counted == words.len()).then_some(Self {
            devices,
            size,
            indexes,
            masks,
            fresh,
            differing,
            words,
        })
    }

    fn delta(&self, old: &[Page], image: &Image) -> Option<Delta> {
        let mut old = old.iter().peekable();
        let mut new = NewDelta::with_capacity(old.len() + self.indexes.len());
        let mut differing = self.differing.iter().map(|&words| u64::from(u16::from_le_bytes(words)));
        let mut words = self.words.iter();
        let [masks, fresh] = [self.masks, self.fresh].map(|masks| masks.iter().map(|&mask| u64::from_le_bytes(mask)));
        for ((&index, mask), fresh) in self.indexes.iter().zip(masks).zip(fresh) {
            while let Some(page) = old.next_if(|page| page.index < index) {
                new.keep(page);
            }
            let old = old.next_if(|page| page.index == index);
            if fresh & !mask != 0 || mask & !fresh & !old.map_or(0, |old| old.mask) != 0 {
                return None;
            }
            let lines = bits(mask).map(|line| {
                let mut content = *before(old, image, index, line);
                let differing = if fresh >> line & 1 != 0 { differing.next() } else { None };
                for (word, now) in bits(differing.unwrap_or(0)).zip(&mut words) {
                    content[word * WORD..][..WORD].copy_from_slice(now);
                }
                content
            });
            if mask != 0 {
                new.add(index, mask, lines);
            }
        }
        old.for_each(|page| new.keep(page));
        let new = new.finish(self.size);
        let inside = new.pages.last().is_none_or(|page| (page.index as usize + 1) * PAGE <= self.size);
        inside.then_some(new)
    }
}

/// A page that differs from the base's page.
struct Change<'a> {
    index: u32,
    mask: u64,
    /// The mask of its lines that the base does not have.
    fresh: u64,
    lines: &'a [Line],
    old: Option<&'a Page>,
}

impl<'a> Change<'a> {
    fn between(index: u32, old: Option<&'a Page>, new: Option<&'a Page>) -> Option<Self> {
        let Some(new) = new else { return Some(Self { index, mask: 0, fresh: 0, lines: &[], old }) };
        if old.is_some_and(|old| old.shares(new)) {
            return None;
        }
        let is_fresh = |(line, content): &(usize, &Line)| old.and_then(|old| old.line(*line)) != Some(content);
        let fresh = bits(new.mask).zip(new.lines()).filter(is_fresh).fold(0, |fresh, (line, _)| fresh | 1 << line);
        let same = fresh == 0 && old.is_some_and(|old| old.mask == new.mask);
        (!same).then_some(Self { index, mask: new.mask, fresh, lines: new.lines(), old })
    }

    /// Returns each such line, with the mask of its words that differ.
    fn fresh_lines(&self, image: &Image) -> impl Iterator<Item = (&'a Line, u64)> {
        let lines = bits(self.mask).zip(self.lines).filter(|(line, _)| self.fresh >> line & 1 != 0);
        lines.map(|(line, now)| {
            let pairs = words(now).iter().zip(words(before(self.old, image, self.index, line))).rev();
            (now, pairs.fold(0, |mask, (now, before)| mask << 1 | u64::from(now != before)))
        })
    }
}

fn pages(base: Option<&Delta>) -> &[Page] {
    base.map_or(&[], |base| &base.pages)
}

/// Returns a line without the change: from the base's page or, if it is not there, from the image.
fn before<'a>(old: Option<&'a Page>, image: &'a Image, index: u32, line: usize) -> &'a Line {
    old.and_then(|old| old.line(line)).unwrap_or_else(|| &image.page(index).as_chunks().0[line])
}

fn words(line: &Line) -> &[[u8; WORD]] {
    line.as_chunks().0
}
