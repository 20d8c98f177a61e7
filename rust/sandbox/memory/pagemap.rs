//! Finds the pages of a memory that are no longer the image's, from Linux's /proc/self/pagemap.
//!
//! It is not available on other systems, in gVisor, or where /proc is hidden. [`super::protection`] is then used
//! instead.

use std::cell::RefCell;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::slice;

use super::PAGE;

/// Returns the number of page faults of this thread so far. A page becomes private to a memory by a fault of the thread
/// that writes to it. Returns `None` if faults are not counted.
pub fn page_faults() -> Option<i64> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: an rusage of all zeros is valid, and the kernel fills it in.
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

/// Appends to `written` the private pages of a private mapping, in ascending order, numbered from its start. Returns
/// false if they cannot be determined.
pub fn find_private(mapping: &Range<usize>, written: &mut Vec<u32>) -> bool {
    PAGEMAP
        .with_borrow_mut(|pagemap| pagemap.as_mut().and_then(|pagemap| pagemap.find_private(mapping, written)))
        .is_some()
}

/// The kernel's table of this process's pages. Each thread that runs cells has its own. Threads do not survive a fork,
/// so it never belongs to another process.
struct Pagemap {
    file: File,
    regions: Vec<Region>,
    /// Whether the kernel has PAGEMAP_SCAN (Linux 6.7), which is faster than reading the table.
    scans: bool,
}

/// Linux's struct page_region.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// Linux's struct pm_scan_arg.
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
    // Bits of an entry in the table.
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_FILE: u64 = 1 << 61;
    // PAGEMAP_SCAN, and its page categories.
    const SCAN: u64 = 0xc060_6610;
    const IS_FILE: u64 = 1 << 2;
    const IS_PRESENT: u64 = 1 << 3;
    const IS_SWAPPED: u64 = 1 << 4;
    const IS_ZERO: u64 = 1 << 5;

    fn open() -> Option<Self> {
        let same_pages = rustix::param::page_size() == PAGE;
        let file = File::open("/proc/self/pagemap").ok().filter(|_| same_pages)?;
        Some(Self { file, regions: vec![Region::default(); 1024], scans: cfg!(target_os = "linux") })
    }

    fn find_private(&mut self, mapping: &Range<usize>, written: &mut Vec<u32>) -> Option<()> {
        if self.scans {
            if self.scan(mapping, written).is_some() {
                return Some(());
            }
            self.scans = false;
            written.clear();
        }
        let mut entries = vec![0u64; mapping.len() / PAGE];
        // SAFETY: any bytes are a valid u64.
        let bytes = unsafe { slice::from_raw_parts_mut(entries.as_mut_ptr().cast(), size_of_val(&entries[..])) };
        self.file.read_exact_at(bytes, (mapping.start / PAGE * 8) as u64).ok()?;
        for (page, entry) in entries.iter().enumerate() {
            if entry & (Self::PRESENT | Self::SWAPPED) != 0 && entry & Self::OF_FILE == 0 {
                written.push(page as u32);
            }
        }
        Some(())
    }

    fn scan(&mut self, mapping: &Range<usize>, written: &mut Vec<u32>) -> Option<()> {
        let page = |address: u64| ((address - mapping.start as u64) / PAGE as u64) as u32;
        let (mut start, end) = (mapping.start as u64, mapping.end as u64);
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
            // SAFETY: the kernel writes into `scan`, and into `regions` up to its length.
            let found = unsafe { libc::ioctl(self.file.as_raw_fd(), Self::SCAN as _, &raw mut scan) };
            let found = usize::try_from(found).ok()?;
            for region in &self.regions[..found] {
                written.extend(page(region.start)..page(region.end));
            }
            // `walk_end` is not usable: the kernel sets it after every 512 regions, but not when it then reaches the
            // end.
            start = if found < self.regions.len() { end } else { self.regions[found - 1].end };
        }
        Some(())
    }
}
