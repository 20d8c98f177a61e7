//! Finds the pages of a memory that were written to, where the kernel cannot report them: those that a write made
//! writable.
//!
//! A memory starts read-only, and the first write to a page raises a signal. While the guest runs, wasmtime calls our
//! handler (`guest.rs`). While the host writes a call's arguments, wasmtime passes the signal on to us
//! (`trap_handlers.rs`). The handler marks the page and makes it writable. The host makes the pages that it restores
//! writable. A page stays writable until the memory is emptied, so a slot that is reused hardly ever faults.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::ptr::{NonNull, null};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::mm::{MprotectFlags, mprotect};

use super::{Mapping, PAGE, bits};

pub struct Protection {
    base: NonNull<u8>,
    /// The number of bytes that become writable at once: a page of the machine.
    chunk: usize,
    /// One bit for each chunk.
    writable: Box<[AtomicU64]>,
    count: AtomicUsize,
    /// The number of ranges that were made writable one by one.
    ranges: AtomicUsize,
}

/// The number of ranges of all memories of the process.
static RANGES: AtomicUsize = AtomicUsize::new(0);

impl Protection {
    /// The number of chunks that become writable at once if the preceding chunks were written to, as when a large
    /// object is created.
    const RUN: usize = 16;
    /// The maximum number of ranges of all memories. Each one adds up to two regions to the process, which Linux allows
    /// 65,530 by default (vm.max_map_count), and allocators, threads and other libraries also need some.
    const MAX_RANGES: usize = 16 << 10;

    /// Creates the protection of a mapping at `base`. At most `reserved` bytes of it are accessible, and nothing is
    /// writable.
    pub fn new(base: NonNull<u8>, reserved: usize) -> Self {
        let chunk = rustix::param::page_size().max(PAGE);
        let words = reserved.div_ceil(chunk).div_ceil(64);
        let writable = (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { base, chunk, writable, count: AtomicUsize::new(0), ranges: AtomicUsize::new(0) }
    }

    /// Returns the number of writable chunks.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Makes the chunk at `offset` writable, in a memory of `len` bytes. Safe in a signal handler.
    pub fn allow(&self, offset: usize, len: usize) -> io::Result<()> {
        let chunk = offset / self.chunk;
        let before = chunk.saturating_sub(4)..chunk;
        let is_run = before.len() == 4 && before.clone().all(|chunk| self.is_writable(chunk));
        let end = chunk + if is_run { Self::RUN } else { 1 };
        self.allow_chunks(chunk..end.min(len.div_ceil(self.chunk)), len)
    }

    /// Makes pages writable. They must be in ascending order.
    pub fn allow_pages(&self, pages: impl Iterator<Item = u32>, len: usize) -> io::Result<()> {
        let mut run = 0..0;
        for chunk in pages.map(|page| page as usize * PAGE / self.chunk).filter(|&chunk| !self.is_writable(chunk)) {
            if chunk > run.end {
                self.allow_chunks(run, len)?;
                run = chunk..chunk;
            }
            run.end = run.end.max(chunk + 1);
        }
        self.allow_chunks(run, len)
    }

    /// Makes the whole memory read-only again.
    ///
    /// # Safety
    /// Nobody writes to the memory during the call.
    pub unsafe fn reset(&self, len: usize) -> io::Result<()> {
        // SAFETY: this is our own mapping, and nobody writes to it during the call.
        unsafe { mprotect(self.base.as_ptr().cast(), len, MprotectFlags::READ)? };
        let words = self.writable.iter().take(len.div_ceil(64 * self.chunk));
        words.for_each(|word| word.store(0, Ordering::Relaxed));
        self.count.store(0, Ordering::Release);
        self.forget_ranges();
        Ok(())
    }

    /// Returns the number of pages that become writable at once.
    pub fn granularity(&self) -> usize {
        self.chunk / PAGE
    }

    /// Appends the writable pages in ascending order.
    pub fn find_writable(&self, len: usize, written: &mut Vec<u32>) {
        let words = self.writable.iter().take(len.div_ceil(64 * self.chunk)).enumerate();
        let chunks = words.flat_map(|(word, mask)| bits(mask.load(Ordering::Acquire)).map(move |bit| word * 64 + bit));
        let pages = chunks.flat_map(|chunk| chunk * self.granularity()..(chunk + 1) * self.granularity());
        written.extend(pages.take_while(|page| page * PAGE < len).map(|page| page as u32));
    }

    fn is_writable(&self, chunk: usize) -> bool {
        self.writable[chunk / 64].load(Ordering::Acquire) >> (chunk % 64) & 1 != 0
    }

    fn allow_chunks(&self, chunks: Range<usize>, len: usize) -> io::Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        self.ranges.fetch_add(1, Ordering::Relaxed);
        if RANGES.fetch_add(1, Ordering::Relaxed) < Self::MAX_RANGES && self.make_writable(&chunks, len).is_ok() {
            return Ok(());
        }
        // There are too many regions, so merge those of this memory into one.
        self.make_writable(&(0..len.div_ceil(self.chunk)), len)?;
        self.forget_ranges();
        Ok(())
    }

    fn forget_ranges(&self) {
        RANGES.fetch_sub(self.ranges.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    fn make_writable(&self, chunks: &Range<usize>, len: usize) -> io::Result<()> {
        for chunk in chunks.clone() {
            let bit = 1 << (chunk % 64);
            if self.writable[chunk / 64].fetch_or(bit, Ordering::AcqRel) & bit == 0 {
                self.count.fetch_add(1, Ordering::AcqRel);
            }
        }
        let (start, end) = (chunks.start * self.chunk, (chunks.end * self.chunk).min(len));
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range is inside the accessible part of our own mapping. The chunks are marked first, so that
        // every writable chunk is known.
        unsafe { mprotect(self.base.as_ptr().add(start).cast(), end - start, access) }?;
        Ok(())
    }
}

impl Drop for Protection {
    fn drop(&mut self) {
        self.forget_ranges();
    }
}

thread_local! {
    /// The memory that this thread writes to.
    static WRITTEN: Cell<*const Mapping> = const { Cell::new(null()) };
}

/// Runs `run`. During the call, this thread may write to the protected pages of `mapping`.
pub fn handling_faults<T>(mapping: &Mapping, run: impl FnOnce() -> T) -> T {
    /// Restores the previous value, however `run` ends.
    struct Before(*const Mapping);

    impl Drop for Before {
        fn drop(&mut self) {
            WRITTEN.set(self.0);
        }
    }

    let _before = Before(WRITTEN.replace(mapping));
    run()
}

/// Allows a write that has raised a signal. Returns false if the address is outside the memory that this thread writes
/// to. For signal handlers.
pub fn allow_write(address: usize) -> bool {
    let mapping = WRITTEN.get();
    // SAFETY: the mapping outlives the call of `handling_faults` that set the pointer.
    !mapping.is_null() && unsafe { (*mapping).allow_write(address) }
}
