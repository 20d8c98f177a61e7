//! The memory from which every State starts.
//!
//! It is one file in memory that nobody can change. The memories of all guests map it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::{PAGE, ZEROS};

pub struct Image {
    fd: OwnedFd,
    map: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is read-only, its file is sealed (or unlinked), and it lives as long as the Image.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

impl Image {
    /// Creates an image. The length of `bytes` must be a multiple of PAGE.
    pub fn new(bytes: &[u8]) -> io::Result<Self> {
        assert!(bytes.len().is_multiple_of(PAGE));
        let file = anonymous_file()?;
        file.set_len(bytes.len() as u64)?;
        for (index, page) in bytes.chunks_exact(PAGE).enumerate() {
            if page != ZEROS {
                file.write_all_at(page, (index * PAGE) as u64)?;
            }
        }
        let fd = OwnedFd::from(file);
        seal(&fd)?;
        // SAFETY: this is a new, shared, read-only mapping of a file whose length is fixed from here on.
        let map = unsafe { mmap(null_mut(), bytes.len(), ProtFlags::READ, MapFlags::SHARED, &fd, 0)? };
        let map = NonNull::new(map.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { fd, map, len: bytes.len() })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Returns the initial content of a page; zeros beyond the image.
    pub fn page(&self, index: u32) -> &[u8; PAGE] {
        let index = index as usize;
        if (index + 1) * PAGE > self.len {
            return &ZEROS;
        }
        // SAFETY: the page is inside the mapping, which nobody can write to.
        unsafe { self.map.add(index * PAGE).cast().as_ref() }
    }

    /// Creates an image for Miri, which maps no files: it is on the heap, and never freed.
    #[cfg(miri)]
    pub fn on_heap(bytes: &[u8]) -> std::mem::ManuallyDrop<Self> {
        let fd = File::open(file!()).unwrap().into();
        let map = NonNull::from(bytes.to_vec().leak()).cast();
        std::mem::ManuallyDrop::new(Self { fd, map, len: bytes.len() })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: this is our own mapping, and no reference into it outlives the Image.
        let _ = unsafe { munmap(self.map.as_ptr().cast(), self.len) };
    }
}

#[cfg(target_os = "linux")]
fn anonymous_file() -> io::Result<File> {
    use rustix::fs::{MemfdFlags, memfd_create};

    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let create = |flags| memfd_create("agentdistill-guest", flags);
    // With vm.memfd_noexec=2, only files that can never be executed are allowed. Kernels before 6.3 do not know the
    // flag.
    let fd = create(flags | MemfdFlags::NOEXEC_SEAL).or_else(|error| match error {
        rustix::io::Errno::INVAL => create(flags),
        error => Err(error),
    })?;
    Ok(fd.into())
}

/// Makes the file immutable. Nobody has mapped it for writing, so F_SEAL_FUTURE_WRITE (Linux 5.1) is sufficient.
/// F_SEAL_WRITE waits for pages that the kernel itself still uses, and fails with EBUSY on a busy machine.
#[cfg(target_os = "linux")]
fn seal(fd: &OwnedFd) -> io::Result<()> {
    use rustix::fs::{SealFlags, fcntl_add_seals};

    let seal = |write| fcntl_add_seals(fd, SealFlags::SHRINK | SealFlags::GROW | write | SealFlags::SEAL);
    let done = seal(SealFlags::FUTURE_WRITE).or_else(|error| match error {
        rustix::io::Errno::INVAL => seal(SealFlags::WRITE), // an older kernel
        error => Err(error),
    });
    Ok(done?)
}

#[cfg(not(target_os = "linux"))]
fn anonymous_file() -> io::Result<File> {
    tempfile::tempfile()
}

#[cfg(not(target_os = "linux"))]
fn seal(_: &OwnedFd) -> io::Result<()> {
    Ok(()) // the file has no name, so nobody else can open it
}

#[cfg(all(test, target_os = "linux", not(miri)))]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn the_file_can_be_neither_executed_nor_changed() {
        use rustix::fs::{MemfdFlags, memfd_create};

        let file = File::from(Image::new(&[1; PAGE]).unwrap().fd().try_clone().unwrap());
        let knows_the_flag = memfd_create("test", MemfdFlags::NOEXEC_SEAL).is_ok();
        assert!(!knows_the_flag || file.metadata().unwrap().mode() & 0o111 == 0);
        assert!(file.write_all_at(b"x", 0).is_err() && file.set_len(0).is_err());
    }
}
