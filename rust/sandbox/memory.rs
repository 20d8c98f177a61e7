//! The guest's memory: a private mapping of one shared image, and the difference to it.
//!
//! All slots map the same sealed image copy-on-write, so a fresh memory costs nothing and a page costs something only
//! when a cell writes to it. Linux tells which pages those are (/proc/self/pagemap), and is asked only when there were
//! page faults; where it does not, the whole memory is compared with the image. What differs is a [`Delta`] (delta.rs).
//!
//! Invariants. A mapping never moves and stays mapped as long as any [`Mapping`] handle lives, its slot's or the
//! watchdog's. Only the slot's owner reads or writes it while no guest code runs ([`Mapping::capture`],
//! [`Mapping::restore`]); everybody else touches single words, atomically.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::{NonNull, null_mut};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::delta::{Delta, LINE, NewDelta, PAGE, bits, side_by_side};

const ZEROS: [u8; PAGE] = [0; PAGE];

/// The memory that every State starts from.
pub struct Image {
    fd: OwnedFd,
    map: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is read-only, its file sealed (or unlinked), and it lives as long as the Image.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Image {
    /// `bytes` is a multiple of PAGE long.
    pub fn new(bytes: &[u8]) -> io::Result<Self> {
        assert!(bytes.len().is_multiple_of(PAGE));
        let fd = anonymous_file()?;
        let file = File::from(fd);
        file.set_len(bytes.len() as u64)?;
        for (index, page) in bytes.chunks_exact(PAGE).enumerate() {
            if page != ZEROS {
                file.write_all_at(page, (index * PAGE) as u64)?;
            }
        }
        let fd = OwnedFd::from(file);
        seal(&fd)?;
        // SAFETY: a new shared read-only mapping of a file whose length is fixed from here on.
        let map = unsafe { libc::mmap(null_mut(), bytes.len(), libc::PROT_READ, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        Ok(Self { fd, map: mapped(map)?, len: bytes.len() })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The page as it is at the start; zeros beyond the image.
    pub fn page(&self, index: u32) -> &[u8; PAGE] {
        let index = index as usize;
        if (index + 1) * PAGE > self.len {
            return &ZEROS;
        }
        // SAFETY: inside the mapping, which nobody can write to.
        unsafe { self.map.add(index * PAGE).cast().as_ref() }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: our own mapping; no reference into it outlives the Image.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.len) };
    }
}

/// A guest's memory.
pub struct Mapping {
    image: Arc<Image>,
    base: NonNull<u8>,
    reserved: usize,
    len: AtomicUsize,
}

// SAFETY: the mapping never moves and lives as long as the Mapping; who may access it when is the module's invariant.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(image: Arc<Image>, size: usize, reserved: usize) -> io::Result<Self> {
        if size < image.len() || size > reserved {
            return Err(io::Error::other("the guest's memory has another size than its image"));
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new address space that nothing else refers to.
        let base = mapped(unsafe { libc::mmap(null_mut(), reserved, libc::PROT_NONE, flags, -1, 0) })?;
        let mapping = Self { image, base, reserved, len: AtomicUsize::new(size) };
        #[cfg(target_os = "linux")]
        // SAFETY: advice about our own reservation. A page that is written to must fault, see `page_faults`; and 2 MB for
        // the first byte would be a State's whole size.
        unsafe {
            libc::madvise(base.as_ptr().cast(), reserved, libc::MADV_NOHUGEPAGE)
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let (len, fd) = (mapping.image.len(), mapping.image.fd.as_raw_fd());
        // SAFETY: replaces the first pages of our own reservation.
        let over = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
            libc::mmap(base.as_ptr().cast(), len, access, flags, fd, 0)
        };
        mapped(over)?;
        mapping.make_accessible(len, size)?;
        Ok(mapping)
    }

    pub fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// What the memory holds. `written` are the pages of [`Mapping::find_written`]; `held` is what it held before.
    ///
    /// # Safety
    /// No guest code has run in this memory since `written` was found, and none runs meanwhile.
    pub unsafe fn capture(&self, written: &[u32], held: &Delta) -> Delta {
        let mut new = NewDelta::with_capacity(written.len());
        let mut known = held.pages.iter().peekable();
        for &index in written {
            // SAFETY: inside the accessible part, and the caller keeps the guest from writing.
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

    /// Makes the memory hold `delta`, which has its size. Now it holds `held`; pages that both share stay untouched.
    ///
    /// # Safety
    /// No guest code has run in this memory since `held` was captured or restored, and none runs meanwhile.
    pub unsafe fn restore(&self, held: &Delta, delta: &Delta) {
        assert_eq!(delta.size, self.len(), "a State of another memory size");
        for (index, old, new) in side_by_side(&held.pages, &delta.pages) {
            if let (Some(old), Some(new)) = (old, new)
                && old.shares(new)
            {
                continue;
            }
            let before = self.image.page(index).as_chunks::<LINE>().0;
            // SAFETY: inside the accessible part, and the caller keeps the guest from running.
            let now = unsafe { &mut *self.page(index) }.as_chunks_mut::<LINE>().0;
            let mask = new.map_or(0, |new| new.mask);
            for line in bits(old.map_or(0, |old| old.mask) & !mask) {
                now[line] = before[line];
            }
            for (line, content) in bits(mask).zip(new.iter().flat_map(|new| new.lines())) {
                now[line] = *content;
            }
        }
    }

    /// Makes the memory the image again, and zeros behind it, by giving all written pages back to the kernel.
    ///
    /// # Safety
    /// No guest code runs in this memory meanwhile.
    pub unsafe fn empty(&self) -> io::Result<()> {
        // SAFETY: our own private mapping, with no reference into it.
        let done = unsafe { libc::madvise(self.base.as_ptr().cast(), self.len(), libc::MADV_DONTNEED) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        if !cfg!(target_os = "linux") {
            // There the advice need not have an effect.
            for page in 0..(self.len() / PAGE) as u32 {
                // SAFETY: inside the accessible part, and the caller keeps the guest from running.
                unsafe { *self.page(page) = *self.image.page(page) };
            }
        }
        Ok(())
    }

    /// Lists all pages that may differ from the image, ascending.
    pub fn find_written(&self, written: &mut Vec<u32>) {
        written.clear();
        let found = PAGEMAP.with_borrow_mut(|pagemap| pagemap.as_mut()?.find_private(self, written));
        if found.is_none() {
            written.clear();
            written.extend(0..(self.len() / PAGE) as u32);
        }
    }

    /// A word of the guest's memory, for reading and writing while the guest runs.
    pub fn word(&self, address: u32) -> &AtomicU32 {
        assert!(address.is_multiple_of(4) && address as usize + 4 <= self.len());
        // SAFETY: aligned, inside the accessible part, lives as long as `self`; only atomics refer to it.
        unsafe { AtomicU32::from_ptr(self.base.add(address as usize).cast().as_ptr()) }
    }

    /// A byte, likewise.
    pub fn byte(&self, address: u32) -> &AtomicU8 {
        assert!((address as usize) < self.len());
        // SAFETY: as for `word`.
        unsafe { AtomicU8::from_ptr(self.base.add(address as usize).as_ptr()) }
    }

    fn page(&self, index: u32) -> *mut [u8; PAGE] {
        let start = index as usize * PAGE;
        assert!(start + PAGE <= self.len());
        // SAFETY: inside the accessible part.
        unsafe { self.base.add(start).cast().as_ptr() }
    }

    fn make_accessible(&self, from: usize, to: usize) -> io::Result<()> {
        assert!(from <= to && to <= self.reserved);
        // SAFETY: a part of our own reservation that is not in use yet.
        let done = unsafe {
            libc::mprotect(self.base.add(from).as_ptr().cast(), to - from, libc::PROT_READ | libc::PROT_WRITE)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own reservation; handles keep it alive as long as anybody uses it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.reserved) };
    }
}

/// Page faults of this thread so far. A page becomes a memory's own by a fault of the thread that writes to it, so as long
/// as the count stays, so do the pages of [`Mapping::find_written`]. None where that is not so, or not known.
pub fn page_faults() -> Option<i64> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: all zeros are a valid rusage, which the kernel fills in.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let done = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
        (done == 0).then_some(usage.ru_minflt + usage.ru_majflt)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

thread_local! {
    static PAGEMAP: RefCell<Option<Pagemap>> = RefCell::new(Pagemap::open());
}

/// The kernel's table of this process's pages. One for each thread that runs cells: threads do not live through a fork,
/// so it is never that of another process.
struct Pagemap {
    file: File,
    regions: Vec<Region>,
    /// Whether the kernel has PAGEMAP_SCAN (Linux 6.7), which is quicker than reading the table.
    scans: bool,
}

/// Linux: struct page_region.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// Linux: struct pm_scan_arg.
#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    returned: u64,
}

impl Pagemap {
    // Bits of an entry of the table.
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_FILE: u64 = 1 << 61;
    // PAGEMAP_SCAN, and categories of pages for it.
    const SCAN: u64 = 0xc060_6610;
    const IS_FILE: u64 = 1 << 2;
    const IS_PRESENT: u64 = 1 << 3;
    const IS_SWAPPED: u64 = 1 << 4;
    const IS_ZERO: u64 = 1 << 5;

    fn open() -> Option<Self> {
        // SAFETY: no preconditions.
        let same_pages = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } == PAGE as i64;
        let file = File::open("/proc/self/pagemap").ok().filter(|_| same_pages)?;
        Some(Self { file, regions: vec![Region::default(); 1024], scans: cfg!(target_os = "linux") })
    }

    /// Appends the pages that are the mapping's own, no longer the image's.
    fn find_private(&mut self, mapping: &Mapping, written: &mut Vec<u32>) -> Option<()> {
        if self.scans {
            if self.scan(mapping, written).is_some() {
                return Some(());
            }
            self.scans = false;
            written.clear();
        }
        let first = mapping.base.as_ptr() as usize / PAGE;
        let mut entries = vec![0u64; mapping.len() / PAGE];
        // SAFETY: any bytes make a u64.
        let bytes = unsafe { slice::from_raw_parts_mut(entries.as_mut_ptr().cast(), size_of_val(&entries[..])) };
        self.file.read_exact_at(bytes, (first * 8) as u64).ok()?;
        for (page, entry) in entries.iter().enumerate() {
            if entry & (Self::PRESENT | Self::SWAPPED) != 0 && entry & Self::OF_FILE == 0 {
                written.push(page as u32);
            }
        }
        Some(())
    }

    fn scan(&mut self, mapping: &Mapping, written: &mut Vec<u32>) -> Option<()> {
        let base = mapping.base.as_ptr() as u64;
        let page = |address: u64| ((address - base) / PAGE as u64) as u32;
        let (mut start, end) = (base, base + mapping.len() as u64);
        while start < end {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                flags: 0,
                start,
                end,
                walk_end: 0,
                regions: self.regions.as_mut_ptr() as u64,
                regions_len: self.regions.len() as u64,
                max_pages: 0,
                inverted: Self::IS_FILE | Self::IS_ZERO,
                all_of: Self::IS_FILE | Self::IS_ZERO,
                any_of: Self::IS_PRESENT | Self::IS_SWAPPED,
                returned: Self::IS_PRESENT,
            };
            // SAFETY: the kernel writes into `scan` and into `regions`, up to its length.
            let found = unsafe { libc::ioctl(self.file.as_raw_fd(), Self::SCAN as _, &raw mut scan) };
            let found = usize::try_from(found).ok()?;
            for region in &self.regions[..found] {
                written.extend(page(region.start)..page(region.end));
            }
            // Not `walk_end`: the kernel sets that every 512 regions, but not when it reaches the end after that.
            start = if found < self.regions.len() { end } else { self.regions[found - 1].end };
        }
        Some(())
    }
}

/// Hands wasmtime the mapping of the slot that is being made; see [`with_memory`].
pub struct Creator;

thread_local! {
    static NEXT: RefCell<Next> = const { RefCell::new(Next::None) };
}

enum Next {
    None,
    Wanted(Arc<Image>, usize),
    Made(Arc<Mapping>),
}

/// Runs `instantiate`, in which wasmtime makes one instance of the guest, with a memory of `size` bytes over `image`.
pub fn with_memory<T>(image: Arc<Image>, size: usize, instantiate: impl FnOnce() -> T) -> (T, Option<Arc<Mapping>>) {
    NEXT.set(Next::Wanted(image, size));
    let made = instantiate();
    match NEXT.replace(Next::None) {
        Next::Made(mapping) => (made, Some(mapping)),
        _ => (made, None),
    }
}

// SAFETY: memories have the size wasmtime asks for or more, never move, and the rest of the reservation and the guard
// behind it stay without access. They are not zeroed: the image is what the guest's own data segments, cut out by
// build.rs, made.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let Next::Wanted(image, size) = NEXT.replace(Next::None) else {
            return Err("the guest has a second memory".into());
        };
        let capacity = reserved.ok_or("the engine reserves no address space")?;
        if size < minimum || size > capacity {
            return Err(format!("a memory of {size} bytes, where {minimum} to {capacity} are possible"));
        }
        let mapping = Arc::new(Mapping::new(image, size, capacity + guard).map_err(not_reserved)?);
        NEXT.set(Next::Made(mapping.clone()));
        Ok(Box::new(Handle { mapping, capacity }))
    }
}

fn not_reserved(error: io::Error) -> String {
    if error.raw_os_error() != Some(libc::ENOMEM) {
        return error.to_string();
    }
    format!(
        "{error}: each cell that runs reserves 4 GiB of address space, of which it uses little. Where `ulimit -v` bounds \
         that, allow 8 GiB and 4 more for each core, or lift it with `ulimit -v unlimited`"
    )
}

/// wasmtime's share in a mapping.
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

fn mapped(address: *mut libc::c_void) -> io::Result<NonNull<u8>> {
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap gave address 0"))
}

#[cfg(target_os = "linux")]
fn anonymous_file() -> io::Result<OwnedFd> {
    // SAFETY: a C string and flags; the descriptor it gives is ours.
    unsafe {
        let fd = libc::memfd_create(c"agentdistill-guest".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Makes the file unchangeable. Nobody has it mapped for writing, so F_SEAL_FUTURE_WRITE (Linux 5.1) does; F_SEAL_WRITE
/// waits for pages that the kernel itself is still busy with, and on a busy machine it fails for them (EBUSY).
#[cfg(target_os = "linux")]
fn seal(fd: &OwnedFd) -> io::Result<()> {
    let seal = |write: libc::c_int| {
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | write | libc::F_SEAL_SEAL;
        // SAFETY: no memory is passed.
        let done = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    match seal(libc::F_SEAL_FUTURE_WRITE) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => seal(libc::F_SEAL_WRITE), // an older kernel
        done => done,
    }
}

#[cfg(not(target_os = "linux"))]
fn anonymous_file() -> io::Result<OwnedFd> {
    let mut path = std::env::temp_dir().join("agentdistill-guest-XXXXXX").into_os_string().into_encoded_bytes();
    path.push(0);
    // SAFETY: a writable C string that ends in XXXXXX; the descriptor it gives is ours, and so is the name.
    unsafe {
        let fd = libc::mkstemp(path.as_mut_ptr().cast());
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::unlink(path.as_ptr().cast());
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

#[cfg(not(target_os = "linux"))]
fn seal(_: &OwnedFd) -> io::Result<()> {
    Ok(()) // unlinked: nobody else can open it
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE_PAGES: usize = 2;
    const PAGES: usize = 3;

    #[cfg(not(miri))]
    fn memory(image: &[u8]) -> Mapping {
        Mapping::new(Arc::new(Image::new(image).unwrap()), PAGES * PAGE, PAGES * PAGE).unwrap()
    }

    /// Miri maps no files: the same on the heap, where nothing is to be unmapped.
    #[cfg(miri)]
    fn memory(image: &[u8]) -> std::mem::ManuallyDrop<Mapping> {
        let leak = |mut bytes: Vec<u8>, len| {
            bytes.resize(len, 0);
            NonNull::from(bytes.leak()).cast()
        };
        let (map, base) = (leak(image.to_vec(), image.len()), leak(image.to_vec(), PAGES * PAGE));
        let fd = File::open(file!()).unwrap().into();
        let image = Arc::new(Image { fd, map, len: image.len() });
        let (reserved, len) = (PAGES * PAGE, AtomicUsize::new(PAGES * PAGE));
        std::mem::ManuallyDrop::new(Mapping { image, base, reserved, len })
    }

    #[test]
    fn a_memory_holds_again_what_was_captured() {
        let image: Vec<u8> = (0..IMAGE_PAGES * PAGE).map(|at| (at / LINE) as u8).collect();
        let memory = memory(&image);
        // SAFETY: nobody else has this memory.
        let contents = || (0..PAGES as u32).map(|page| unsafe { *memory.page(page) }).collect::<Vec<_>>();
        let written: Vec<u32> = (0..PAGES as u32).collect();
        let mut held = Arc::new(Delta { size: PAGES * PAGE, pages: Vec::new() });
        let mut moments = vec![(held.clone(), contents())];
        let mut random = 12_345_usize;
        let mut draw = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..60 {
            // As a guest does, here and there; often what was there before, or is in the image.
            for _ in 0..draw(6) {
                let address = draw(PAGES) * PAGE + draw(4) * LINE + draw(2) * 4;
                let byte = if draw(2) == 0 { image.get(address).copied().unwrap_or(0) } else { draw(3) as u8 };
                memory.byte(address as u32).store(byte, Ordering::SeqCst);
            }
            // SAFETY: as above.
            held = Arc::new(unsafe { memory.capture(&written, &held) });
            moments.push((held.clone(), contents()));
            let (delta, before) = &moments[draw(moments.len())];
            // SAFETY: as above.
            unsafe { memory.restore(&held, delta) };
            assert!(contents() == *before);
            held = delta.clone();
        }
    }
}
