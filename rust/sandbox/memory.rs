//! Captures a State from a guest's memory, and restores it. (unsafe)
//!
//! A memory is a private mapping of one shared [`Image`]. All slots map the image copy-on-write. A fresh memory
//! therefore costs nothing, and a page costs something only when a cell writes to it. Linux reports the pages that were
//! written to (`pagemap.rs`), and is asked only after page faults. Where it cannot report them, pages are protected,
//! and the first write to each is counted (`protection.rs`). The difference to the image is a [`Delta`] (`delta.rs`).
//!
//! Invariants: A mapping never moves, and stays mapped while any [`Mapping`] handle lives (its slot's or the
//! watchdog's). Only the slot's owner reads or writes the memory as a whole, and only while no guest code runs
//! ([`Mapping::capture`], [`Mapping::restore`]). All others access single words, atomically.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::io;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType, bail};

use super::delta::{Delta, LINE, NewDelta, PAGE, bits, side_by_side};

mod image;
mod pagemap;
mod protection;

pub use image::Image;
use protection::Protection;
pub use protection::allow_write;

/// The address space of a memory in bytes. It is what engine.rs asks for: 4 GiB and a guard, so that no access needs a
/// bounds check.
const RESERVED: usize = (4 << 30) + (32 << 20);

const ZEROS: [u8; PAGE] = [0; PAGE];

/// A guest's memory.
pub struct Mapping {
    image: Arc<Image>,
    base: NonNull<u8>,
    reserved: usize,
    len: AtomicUsize,
    /// Present if the kernel cannot report which pages were written to.
    protection: Option<Protection>,
}

// SAFETY: the mapping never moves and lives as long as the Mapping; the module's invariants say who may access it when.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Creates a memory of `size` bytes that holds the image, and can grow as far as the engine allows.
    pub fn new(image: Arc<Image>, size: usize) -> io::Result<Self> {
        let is_protected = !pagemap_works(&image);
        Self::map(image, size, RESERVED, is_protected)
    }

    fn map(image: Arc<Image>, size: usize, reserved: usize, is_protected: bool) -> io::Result<Self> {
        if size < image.len() || size > reserved {
            return Err(io::Error::other("the guest's memory has another size than its image"));
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: this is new address space that nothing else refers to.
        let base = unsafe { mmap_anonymous(null_mut(), reserved, ProtFlags::empty(), flags) };
        let base = base.map_err(|error| no_address_space(reserved, error.into()))?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let protection = is_protected.then(|| Protection::new(base, reserved));
        let mapping = Self { image, base, reserved, len: AtomicUsize::new(size), protection };
        #[cfg(target_os = "linux")]
        // SAFETY: this is advice about our own reservation. Huge pages must be off, because a page that is written to
        // must fault (see `page_faults`), and because 2 MB for the first byte would be as much as a whole State.
        let _ = unsafe { rustix::mm::madvise(base.as_ptr().cast(), reserved, rustix::mm::Advice::LinuxNoHugepage) };
        mapping.map_image()?;
        mapping.make_accessible(mapping.image.len(), size)?;
        Ok(mapping)
    }

    /// Maps the image at the start of the memory, in place of what is there.
    fn map_image(&self) -> io::Result<()> {
        let access = match self.protection {
            None => ProtFlags::READ | ProtFlags::WRITE,
            Some(_) => ProtFlags::READ,
        };
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: this replaces the first pages of our own reservation, which nobody refers to.
        unsafe { mmap(self.base.as_ptr().cast(), self.image.len(), access, flags, self.image.fd(), 0)? };
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Returns the difference between the memory and the image. `written` are the pages of [`Mapping::find_written`],
    /// and `held` is what the memory held before.
    ///
    /// # Safety
    /// No guest code has run in this memory since `written` was found, and none runs during the call.
    pub unsafe fn capture(&self, written: &[u32], held: &Delta) -> Delta {
        let mut new = NewDelta::with_capacity(written.len());
        let mut known = held.pages.iter().peekable();
        for &index in written {
            // SAFETY: the page is inside the accessible part, and the caller keeps the guest from writing.
            let now = unsafe { &*self.page(index) }.as_chunks::<LINE>().0;
            let before = self.image.page(index).as_chunks::<LINE>().0;
            let known = known.next_if(|page| page.index == index);
            match known {
                Some(page) if page.is(now, before) => new.keep(page),
                _ if now.as_flattened() == before.as_flattened() => {}
                _ => {
                    let lines = now.iter().zip(before).rev();
                    let mask = lines.fold(0u64, |mask, (now, before)| mask << 1 | u64::from(now != before));
                    new.add(index, mask, bits(mask).map(|line| now[line]));
                }
            }
        }
        debug_assert!(known.next().is_none(), "a held page that is not among the written");
        new.finish(self.len())
    }

    /// Makes the memory hold `delta`, which has its size. It holds `held` before. Pages that both share are not
    /// touched.
    ///
    /// # Safety
    /// No guest code has run in this memory since `held` was captured or restored, and none runs during the call.
    pub unsafe fn restore(&self, held: &Delta, delta: &Delta) -> io::Result<()> {
        assert_eq!(delta.size, self.len(), "a State of another memory size");
        let differing = || {
            let pages = side_by_side(&held.pages, &delta.pages);
            pages.filter(|(_, old, new)| !old.is_some_and(|old| new.is_some_and(|new| old.shares(new))))
        };
        if let Some(protection) = &self.protection {
            protection.allow_pages(differing().map(|(index, ..)| index), self.len())?;
        }
        for (index, old, new) in differing() {
            let before = self.image.page(index).as_chunks::<LINE>().0;
            // SAFETY: the page is inside the accessible part, and the caller keeps the guest from running.
            let now = unsafe { &mut *self.page(index) }.as_chunks_mut::<LINE>().0;
            let mask = new.map_or(0, |new| new.mask);
            for line in bits(old.map_or(0, |old| old.mask) & !mask) {
                now[line] = before[line];
            }
            for (line, content) in bits(mask).zip(new.iter().flat_map(|new| new.lines())) {
                now[line] = *content;
            }
        }
        Ok(())
    }

    /// Resets the memory to the image, followed by zeros, by returning all written pages to the kernel.
    ///
    /// # Safety
    /// No guest code runs in this memory during the call.
    pub unsafe fn empty(&self) -> io::Result<()> {
        if let Some(protection) = &self.protection {
            // SAFETY: the caller keeps the guest from running.
            unsafe { protection.reset(self.len())? };
        }
        #[cfg(target_os = "linux")]
        // SAFETY: this is our own private mapping, with no reference into it.
        unsafe {
            rustix::mm::madvise(self.base.as_ptr().cast(), self.len(), rustix::mm::Advice::LinuxDontNeed)?;
        }
        #[cfg(not(target_os = "linux"))]
        {
            // On other systems the advice may have no effect.
            self.map_image()?;
            let (start, rest) = (self.image.len(), self.len() - self.image.len());
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            // SAFETY: this replaces a part of our own reservation, which nobody refers to.
            unsafe { mmap_anonymous(self.base.as_ptr().add(start).cast(), rest, ProtFlags::empty(), flags)? };
            self.make_accessible(start, self.len())?;
        }
        Ok(())
    }

    /// Lists all pages that may differ from the image, in ascending order.
    pub fn find_written(&self, written: &mut Vec<u32>) {
        written.clear();
        if let Some(protection) = &self.protection {
            protection.find_writable(self.len(), written);
            return;
        }
        let start = self.base.as_ptr() as usize;
        if !pagemap::find_private(&(start..start + self.len()), written) {
            written.clear();
            written.extend(0..(self.len() / PAGE) as u32);
        }
    }

    /// Returns a counter of writes. While it does not change for the thread that writes, the list of
    /// [`Mapping::find_written`] does not change. Returns `None` if the counter is not known.
    pub fn writes(&self) -> Option<i64> {
        match &self.protection {
            Some(protection) => Some(protection.count() as i64),
            None => pagemap::page_faults(),
        }
    }

    /// Returns the maximum number of pages that [`Mapping::find_written`] lists for each page that was written to.
    pub fn granularity(&self) -> usize {
        self.protection.as_ref().map_or(1, Protection::granularity)
    }

    /// Runs code that writes to this memory: the guest, or the host on its behalf. Protected pages become writable only
    /// on this thread, and only during the call.
    pub fn while_written<T>(&self, run: impl FnOnce() -> T) -> T {
        match &self.protection {
            Some(_) => protection::handling_faults(self, run),
            None => run(),
        }
    }

    /// Allows a write to this host address. Returns false if it is outside this memory, or cannot be made writable. For
    /// signal handlers.
    fn allow_write(&self, address: usize) -> bool {
        let Some(protection) = &self.protection else { return false };
        let offset = address.wrapping_sub(self.base.as_ptr() as usize);
        offset < self.len() && protection.allow(offset, self.len()).is_ok()
    }

    /// Returns a word of the guest's memory. It can be read and written while the guest runs.
    pub fn word(&self, address: u32) -> &AtomicU32 {
        assert!(address.is_multiple_of(4) && address as usize + 4 <= self.len());
        self.allow_host_writes(address);
        // SAFETY: the word is aligned, inside the accessible part, and lives as long as `self`; only atomics refer to
        // it.
        unsafe { AtomicU32::from_ptr(self.base.add(address as usize).cast().as_ptr()) }
    }

    /// Returns a byte of the guest's memory, like [`Mapping::word`].
    pub fn byte(&self, address: u32) -> &AtomicU8 {
        assert!((address as usize) < self.len());
        self.allow_host_writes(address);
        // SAFETY: as for `word`.
        unsafe { AtomicU8::from_ptr(self.base.add(address as usize).as_ptr()) }
    }

    fn allow_host_writes(&self, address: u32) {
        if let Some(protection) = &self.protection {
            let page = address / PAGE as u32;
            let allowed = protection.allow_pages([page].into_iter(), self.len());
            allowed.expect("a page of a memory can be made writable");
        }
    }

    fn page(&self, index: u32) -> *mut [u8; PAGE] {
        let start = index as usize * PAGE;
        assert!(start + PAGE <= self.len());
        // SAFETY: the page is inside the accessible part.
        unsafe { self.base.add(start).cast().as_ptr() }
    }

    fn make_accessible(&self, from: usize, to: usize) -> io::Result<()> {
        assert!(from <= to && to <= self.reserved);
        let access = match self.protection {
            None => MprotectFlags::READ | MprotectFlags::WRITE,
            Some(_) => MprotectFlags::READ,
        };
        // SAFETY: this is a part of our own reservation that is not in use yet.
        unsafe { mprotect(self.base.add(from).as_ptr().cast(), to - from, access) }?;
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is our own reservation, and handles keep it alive as long as anybody uses it.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.reserved) };
    }
}

/// Explains a failed reservation. The usual cause is a limit of the process (`ulimit -v`), although reserved address
/// space takes no memory. Rarely, it is the number of mappings.
fn no_address_space(reserved: usize, error: io::Error) -> io::Error {
    let message = format!(
        "{error}. A slot reserves {} GiB of address space, which takes no memory: raise the limit of this process \
         (`ulimit -v unlimited`) and bound its memory by a cgroup instead. If the process has very many mappings, raise \
         vm.max_map_count",
        reserved >> 30
    );
    io::Error::new(error.kind(), message)
}

/// Returns whether the kernel reports which pages of a memory were written to. AGENTDISTILL_PAGEMAP=0 disables this, to
/// test the alternative.
fn pagemap_works(image: &Arc<Image>) -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let says_what_is_written = || {
        let memory = Mapping::map(image.clone(), image.len(), image.len(), false).ok()?;
        memory.byte(PAGE as u32).load(Ordering::Relaxed);
        memory.byte(0).store(0, Ordering::Relaxed);
        let mut written = Vec::new();
        let start = memory.base.as_ptr() as usize;
        pagemap::find_private(&(start..start + memory.len()), &mut written).then_some(written)
    };
    *WORKS.get_or_init(|| {
        std::env::var("AGENTDISTILL_PAGEMAP").as_deref() != Ok("0") && says_what_is_written() == Some(vec![0])
    })
}

/// Gives wasmtime the mapping of the slot that is being created; see [`with_memory`].
pub struct Creator;

thread_local! {
    static NEXT: RefCell<Option<Arc<Mapping>>> = const { RefCell::new(None) };
}

/// Runs `instantiate`, in which wasmtime creates one instance of the guest, with this memory.
pub fn with_memory<T>(
    mapping: &Arc<Mapping>,
    instantiate: impl FnOnce() -> wasmtime::Result<T>,
) -> wasmtime::Result<T> {
    NEXT.set(Some(mapping.clone()));
    let instance = instantiate();
    match NEXT.take() {
        None => instance,
        Some(_) => instance.and_then(|_| bail!("the guest has no memory")),
    }
}

// SAFETY: memories have at least the size that wasmtime asks for and never move; the rest of the reservation and the
// guard behind it stay inaccessible. Memories are not zeroed: the image is the result of the guest's own data segments,
// which build.rs removed from the code.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let mapping = NEXT.take().ok_or("the guest has a second memory")?;
        let capacity = reserved.ok_or("the engine reserves no address space")?;
        let size = mapping.len();
        if size < minimum || size > capacity || mapping.reserved < capacity + guard {
            return Err(format!("a memory of {size} bytes, where {minimum} to {capacity} are possible"));
        }
        Ok(Box::new(Handle { mapping, capacity }))
    }
}

/// wasmtime's handle of a mapping.
struct Handle {
    mapping: Arc<Mapping>,
    capacity: usize,
}

// SAFETY: see Creator.
unsafe impl LinearMemory for Handle {
    fn byte_size(&self) -> usize {
        self.mapping.len()
    }

    fn byte_capacity(&self) -> usize {
        self.capacity
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        self.mapping.make_accessible(self.mapping.len(), size)?;
        self.mapping.len.store(size, Ordering::Release);
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.mapping.base.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE_PAGES: usize = 38;
    const PAGES: usize = 50; // at least three pages of 64 KiB

    #[cfg(not(miri))]
    fn memory(image: &[u8], is_protected: bool) -> Mapping {
        Mapping::map(Arc::new(Image::new(image).unwrap()), PAGES * PAGE, PAGES * PAGE, is_protected).unwrap()
    }

    /// Creates the memory for Miri, which maps no files: it is on the heap, and nothing needs to be unmapped.
    #[cfg(miri)]
    fn memory(image: &[u8], _: bool) -> std::mem::ManuallyDrop<Mapping> {
        let mut bytes = image.to_vec();
        bytes.resize(PAGES * PAGE, 0);
        let base = NonNull::from(bytes.leak()).cast();
        let image = Arc::new(std::mem::ManuallyDrop::into_inner(Image::on_heap(image)));
        let (reserved, len) = (PAGES * PAGE, AtomicUsize::new(PAGES * PAGE));
        std::mem::ManuallyDrop::new(Mapping { image, base, reserved, len, protection: None })
    }

    #[test]
    fn a_memory_holds_again_what_was_captured() {
        for is_protected in [false, true] {
            captures_and_restores(is_protected);
        }
    }

    fn captures_and_restores(is_protected: bool) {
        let image: Vec<u8> = (0..IMAGE_PAGES * PAGE).map(|at| (at / LINE) as u8).collect();
        let memory = memory(&image, is_protected);
        // SAFETY: nobody else has this memory.
        let contents = || (0..PAGES as u32).map(|page| unsafe { *memory.page(page) }).collect::<Vec<_>>();
        let mut written = Vec::new();
        let empty = Arc::new(Delta { size: PAGES * PAGE, pages: Vec::new() });
        let mut held = empty.clone();
        let mut snapshots = vec![(held.clone(), contents())];
        let mut random = 12_345_usize;
        let mut draw = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..60 {
            // Write like a guest, at random places, often with the previous value or the image's.
            for _ in 0..draw(6) {
                let address = draw(PAGES) * PAGE + draw(4) * LINE + draw(2) * 4;
                let byte = if draw(2) == 0 { image.get(address).copied().unwrap_or(0) } else { draw(3) as u8 };
                memory.byte(address as u32).store(byte, Ordering::SeqCst);
            }
            memory.find_written(&mut written);
            // SAFETY: as above.
            held = Arc::new(unsafe { memory.capture(&written, &held) });
            snapshots.push((held.clone(), contents()));
            if draw(8) == 0 && !cfg!(miri) {
                // SAFETY: as above.
                unsafe { memory.empty().unwrap() };
                assert!(contents() == snapshots[0].1);
                held = empty.clone();
            }
            let (delta, before) = &snapshots[draw(snapshots.len())];
            // SAFETY: as above.
            unsafe { memory.restore(&held, delta).unwrap() };
            assert!(contents() == *before);
            held = delta.clone();
        }
    }

    #[test]
    #[cfg(not(miri))]
    fn only_what_was_written_is_listed() {
        let memory = memory(&[7; IMAGE_PAGES * PAGE], true);
        let mut written = vec![1];
        memory.find_written(&mut written);
        assert!(written.is_empty(), "{written:?}");
        memory.byte(0).store(1, Ordering::SeqCst);
        assert!(memory.allow_write(memory.base.as_ptr() as usize + (PAGES - 1) * PAGE));
        assert!(!memory.allow_write(memory.base.as_ptr() as usize + PAGES * PAGE));
        memory.find_written(&mut written);
        let listed = |page: usize| written.contains(&(page as u32));
        assert!(listed(0) && listed(PAGES - 1) && !listed(PAGES / 2), "{written:?}");
    }

    #[test]
    #[cfg(all(target_os = "linux", not(miri)))]
    fn many_memories_leave_the_process_regions() {
        const LARGE: usize = 40_000;
        let image = Arc::new(Image::new(&[7; PAGE]).unwrap());
        let memory = || Mapping::map(image.clone(), LARGE * PAGE, LARGE * PAGE, true).unwrap();
        let memories = [memory(), memory(), memory()];
        for memory in &memories {
            for page in (0..LARGE).step_by(2) {
                assert!(memory.allow_write(memory.base.as_ptr() as usize + page * PAGE));
            }
        }
        let regions = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        assert!(regions < 40_000, "{regions}");
    }
}
