//! The folder of an index: its metadata, and how it is replaced in one step.
//!
//! All files are created in a hidden folder next to the index's path. The folder is moved to that path when it is
//! complete and synced. A build or a change that ends earlier leaves the old index untouched.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::{Metadata, OLDEST_VERSION, VERSION};
use crate::error::{AtPath, Error, Result};
use crate::file_lock::{FileLock, beside};
use crate::json;

/// The file that marks a folder as an index.
pub(super) const METADATA: &str = "agentdistill.json";

pub(super) fn read_metadata(path: &Path) -> Result<Metadata> {
    let again = "build it with Bm25Index.build or `agentdistill index build`";
    let file = path.join(METADATA);
    let json = match fs::read(&file) {
        Ok(json) => json,
        Err(_) if !path.exists() => return Err(Error::retrieval(path, format!("there is no index here; {again}"))),
        Err(_) if !file.exists() => return Err(Error::retrieval(path, format!("this is not an index; {again}"))),
        Err(error) => return Err(error).at(&file),
    };
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |found: String| Error::retrieval(file.as_path(), format!("damaged ({found}); {again}"));
    let Version { version } = json::parse(&json).map_err(|error| damaged(error.to_string()))?;
    if !(OLDEST_VERSION..=VERSION).contains(&version) {
        let message = format!(
            "this index is of version {version}, and this agentdistill reads versions {OLDEST_VERSION} to {VERSION}; {again}"
        );
        return Err(Error::retrieval(path, message));
    }
    let Stored { metadata, crc32 } = json::parse(&json).map_err(|error| damaged(error.to_string()))?;
    if crc32.is_some_and(|crc32| crc32 != metadata.crc32()) || crc32.is_none() && version > OLDEST_VERSION {
        return Err(damaged("it is not what was written".to_owned()));
    }
    Ok(metadata)
}

pub(super) fn write_metadata(metadata: Metadata, folder: &Path) -> Result<()> {
    let file = folder.join(METADATA);
    let crc32 = Some(metadata.crc32());
    let json = serde_json::to_vec_pretty(&Stored { metadata, crc32 }).expect("metadata is JSON");
    fs::write(&file, json).at(&file)
}

/// The metadata as stored in their file.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    metadata: Metadata,
    /// The checksum of the metadata themselves. `None` before version 4.
    crc32: Option<u32>,
}

impl Metadata {
    fn crc32(&self) -> u32 {
        crc32fast::hash(&serde_json::to_vec(self).expect("metadata is JSON"))
    }
}

/// Returns the names of an index's files. Those of later segments contain the name of the segment's folder.
pub(super) fn files(folder: &Path) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_file() {
            files.push(name);
        } else if name.parse::<usize>().is_ok() {
            files.extend(self::files(&entry.path())?.into_iter().map(|file| format!("{name}/{file}")));
        }
    }
    Ok(files)
}

/// Puts a file into another folder, without copying it if the file system can do that.
pub(super) fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}

/// Checks that an index may be placed at `path`: nothing is there, or an empty folder, or an index that may be
/// overwritten.
pub(super) fn check_free(path: &Path, overwrite: bool) -> Result<()> {
    let is_index = path.join(METADATA).exists();
    let is_empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if is_index && !overwrite {
        Err(Error::retrieval(
            path,
            "there is an index here already; pass overwrite=True to replace it, or choose another path",
        ))
    } else if !is_index && path.symlink_metadata().is_ok() && !is_empty() {
        Err(Error::retrieval(path, "there is something here that is not an index; choose another path"))
    } else {
        Ok(())
    }
}

/// The hidden folder next to the future index. A killed build leaves it behind, and the next build clears it.
pub(super) struct BuildFolder {
    folder: PathBuf,
    _lock: FileLock,
    _lock_file: File,
}

impl BuildFolder {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let folder = beside(path, ".building")?;
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent).at(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check_ours(&folder)?,
            created => created.at(&folder)?,
        }
        let lock_path = folder.join("lock");
        let lock_file = OpenOptions::new().write(true).create(true).custom_flags(libc::O_NOFOLLOW).open(&lock_path);
        let lock_file = lock_file.at(&lock_path)?;
        let busy = || Error::retrieval(path, "another process is building this index; wait for it or end it");
        let lock = FileLock::acquire(&lock_file, &lock_path)?.ok_or_else(busy)?;
        let opened = Self { folder, _lock: lock, _lock_file: lock_file };
        for entry in fs::read_dir(&opened.folder).at(&opened.folder)? {
            let entry = entry.at(&opened.folder)?;
            if entry.file_type().at(&entry.path())?.is_dir() {
                fs::remove_dir_all(entry.path()).at(&entry.path())?;
            } else if entry.path() != lock_path {
                fs::remove_file(entry.path()).at(&entry.path())?; // for example, a symbolic link
            }
        }
        Ok(opened)
    }

    /// Returns the path of a folder in this one, which does not exist yet.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for BuildFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Rejects a build folder that another user may have prepared, because its contents will be deleted.
fn check_ours(folder: &Path) -> Result<()> {
    let found = folder.symlink_metadata().at(folder)?;
    if found.is_dir() && found.uid() == geteuid().as_raw() {
        return Ok(());
    }
    Err(Error::retrieval(
        folder,
        "an index is built here, but this is not a folder of yours; remove it or choose another path",
    ))
}

/// Moves the built index to its path. An existing index is exchanged with it in one step, and is deleted with the
/// build folder.
pub(super) fn publish(built: &Path, path: &Path) -> Result<()> {
    if path.symlink_metadata().is_err() {
        fs::rename(built, path).at(path)?;
    } else {
        match renameat_with(CWD, built, CWD, path, RenameFlags::EXCHANGE) {
            // Not every file system supports the exchange.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => swap(built, path).at(path)?,
            other => other.map_err(io::Error::from).at(path)?,
        }
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).at(parent)
}

/// Does the same in two steps. In between, nothing is at `path`.
fn swap(built: &Path, path: &Path) -> io::Result<()> {
    let old = built.with_extension("old");
    fs::rename(path, &old)?;
    fs::rename(built, path).inspect_err(|_| drop(fs::rename(&old, path)))
}

/// Makes the files of an index, and the folders that hold them, durable.
pub(super) fn sync(folder: &Path) -> Result<()> {
    let mut written: Vec<PathBuf> = files(folder).at(folder)?.into_iter().map(|name| folder.join(name)).collect();
    let folders: BTreeSet<PathBuf> = written.iter().filter_map(|file| file.parent().map(Path::to_owned)).collect();
    written.extend(folders);
    written.iter().try_for_each(|path| File::open(path).and_then(|file| file.sync_all()).at(path))
}
