//! Which pages of a memory were written to, where the kernel does not say: those that a write has made writable.
//!
//! A memory starts read-only. The first write to a page of it raises a signal. wasmtime hands that to us (guest.rs) while the
//! guest runs, and passes it on to us (trap_handlers.rs) while the host writes a call's arguments; we mark the page and make
//! it writable. The host makes writable what it restores. A page stays writable until the memory is emptied, so that a slot
//! which is used again and again hardly ever faults.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::ptr::{NonNull, null};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustix::mm::{MprotectFlags, mprotect};

use super::{Mapping, PAGE, bits};

pub struct Protection {
    base: NonNull<u8>,
    /// Bytes that become writable at once: a page of the machine.
    chunk: usize,
    /// A bit for each chunk.
    writable: Box<[AtomicU64]>,
    count: AtomicUsize,
}

impl Protection {
    /// Chunks that become writable at once where the chunks before were written to, as when a large object is made.
    const RUN: usize = 16;

    /// For a mapping at `base` of which at most `reserved` bytes are accessible, and nothing is writable.
    pub fn new(base: NonNull<u8>, reserved: usize) -> Self {
        let chunk = rustix::param::page_size().max(PAGE);
        let words = reserved.div_ceil(chunk).div_ceil(64);
        Self { base, chunk, writable: (0..words).map(|_| AtomicU64::new(0)).collect(), count: AtomicUsize::new(0) }
    }

    /// How many chunks are writable.
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

    /// Makes pages writable, which are given ascending.
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

    /// Makes everything read-only again.
    ///
    /// # Safety
    /// Nobody writes to the memory meanwhile.
    pub unsafe fn reset(&self, len: usize) -> io::Result<()> {
        // SAFETY: our own mapping, and its writers wait.
        unsafe { mprotect(self.base.as_ptr().cast(), len, MprotectFlags::READ)? };
        let words = self.writable.iter().take(len.div_ceil(64 * self.chunk));
        words.for_each(|word| word.store(0, Ordering::Relaxed));
        self.count.store(0, Ordering::Release);
        Ok(())
    }

    /// Pages that become writable at once.
    pub fn granularity(&self) -> usize {
        self.chunk / PAGE
    }

    /// Appends the pages that are writable, ascending.
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
        match self.make_writable(&chunks, len) {
            // Linux has no more regions of memory for this process (vm.max_map_count): this makes one of many.
            Err(_) => self.make_writable(&(0..len.div_ceil(self.chunk)), len),
            done => done,
        }
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
        // SAFETY: inside the accessible part of our own mapping. Marked first: what is writable is always known to be.
        Ok(unsafe { mprotect(self.base.as_ptr().add(start).cast(), end - start, access)? })
    }
}

thread_local! {
    /// The memory that this thread writes to.
    static WRITTEN: Cell<*const Mapping> = const { Cell::new(null()) };
}

/// Runs `run`, in which this thread may write to the protected pages of `mapping`.
pub fn handling_faults<T>(mapping: &Mapping, run: impl FnOnce() -> T) -> T {
    /// Puts back what was there, however `run` ends.
    struct Before(*const Mapping);

    impl Drop for Before {
        fn drop(&mut self) {
            WRITTEN.set(self.0);
        }
    }

    let _before = Before(WRITTEN.replace(mapping));
    run()
}

/// Lets a write happen that has raised a signal; false if that is none of the memory that this thread writes to. For signal
/// handlers.
pub fn allow_write(address: usize) -> bool {
    let mapping = WRITTEN.get();
    // SAFETY: the mapping outlives the call of `handling_faults` that has set it.
    !mapping.is_null() && unsafe { (*mapping).allow_write(address) }
}
