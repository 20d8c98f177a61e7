//! Locks that admit one process at a time. They guard trajectory files and the folders in which indexes are built.
//!
//! A lock is a `flock`, which the system releases when the process ends. File systems without `flock` (Lustre without
//! `-o flock`, some FUSE mounts) get a lock file next to the guarded file instead. The lock file names its owner. The
//! next process on the same machine takes the lock over if the owner is dead.
//!
//! Across machines, a file system without `flock` has only the lock file. A machine that crashes leaves it behind, and
//! the error names the file to delete.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{AtPath, Error, Result};

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct FileLock {
    /// The lock file, if the file system has no `flock`.
    fallback: Option<PathBuf>,
}

impl FileLock {
    /// Locks `file`, which was opened at `path`. Returns `None` if another process holds the lock.
    ///
    /// The system's lock belongs to `file` and lasts while it is open.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Argument`] for a lock file whose owner may still be alive elsewhere.
    pub fn acquire(file: &File, path: &Path) -> Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { fallback: None })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) if is_unsupported(&error) => Self::by_lock_file(path),
            Err(TryLockError::Error(error)) => Err(error).at(path),
        }
    }

    fn by_lock_file(path: &Path) -> Result<Option<Self>> {
        let lock = beside(path, ".lock")?;
        let ours = Owner { host: host_name(), process: std::process::id() };
        // The second attempt follows the removal of a dead owner's file.
        for _ in 0..2 {
            match OpenOptions::new().write(true).create_new(true).open(&lock) {
                Ok(mut file) => {
                    file.write_all(ours.to_string().as_bytes()).at(&lock)?;
                    return Ok(Some(Self { fallback: Some(lock) }));
                }
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error).at(&lock),
                Err(_) => {}
            }
            let owner = fs::read_to_string(&lock).ok().and_then(|text| Owner::parse(&text));
            match owner {
                Some(owner) if owner.host == ours.host && owner.is_alive() => return Ok(None),
                Some(owner) if owner.host == ours.host => fs::remove_file(&lock).at(&lock)?,
                _ => break,
            }
        }
        Err(Error::Argument(format!(
            "{} is locked by {}, and this file system has no locks (flock) that end with their process; delete that file if no \
             other process writes there",
            path.display(),
            lock.display()
        )))
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if let Some(lock) = &self.fallback {
            let _ = fs::remove_file(lock); // best effort: the next process sees that this one is dead
        }
    }
}

/// Returns the path of a hidden file next to `path`: a dot, the file's name, and `ending`.
pub(crate) fn beside(path: &Path, ending: &str) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::Argument(format!("{} does not name a file", path.display())))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(ending);
    Ok(path.with_file_name(hidden))
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Unsupported)
        || error.raw_os_error().is_some_and(|number| [libc::ENOLCK, libc::ENOSYS, libc::EINVAL].contains(&number))
}

/// The process that created a lock file.
struct Owner {
    host: String,
    process: u32,
}

impl Owner {
    fn parse(text: &str) -> Option<Self> {
        let (process, host) = text.trim().split_once('@')?;
        Some(Self { host: host.to_owned(), process: process.parse().ok()? })
    }

    fn is_alive(&self) -> bool {
        use rustix::process::{Pid, test_kill_process};
        let process = i32::try_from(self.process).ok().and_then(Pid::from_raw);
        process.is_some_and(|process| test_kill_process(process) != Err(rustix::io::Errno::SRCH))
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}@{}", self.process, self.host)
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
