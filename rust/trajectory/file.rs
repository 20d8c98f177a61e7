//! Writes files of trajectories such that none is lost or written twice.
//!
//! A file starts with a header line, `{"agentdistill": "trajectories", "version": 1, "run": {...}}`. Every other line
//! is one [`Trajectory`]. The [`TrajectoryWriter`] writes and syncs whole lines. A killed writer can leave an
//! unfinished last line; readers skip it, and the next writer removes it. A writer changes a file only if it starts
//! with a header of the writer's own run, or has only a header, because another run failed before its first trajectory.
//! All versions up to the current one can be read, and newer ones are refused.
//!
//! This module does not read trajectories from files, because files also come in other formats ([`crate::formats`]).

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize, de};
use serde_json::{Map, Value};

use super::{Record, Records, Trajectory, VERSION, known_version, parse};
use crate::error::{AtPath, Error, Place, Result};
use crate::file_lock::FileLock;
use crate::json;
use crate::threads;

/// Returns the `run` of a file's header as JSON, or `None` if the file has no header.
///
/// # Errors
///
/// [`Error::Io`]; [`Error::Trajectory`] for a header of a newer version, or of another kind of file.
pub fn read_header(path: &Path) -> Result<Option<String>> {
    let mut records = Records::lines(path)?;
    let first = records.next_block()?.then(|| records.get(0)).filter(|first| first.line == 1);
    let header = first.map_or(Ok(None), |first| Header::read(first.json, path, 1))?;
    Ok(header.map(|header| Value::Object(header.run).to_string()))
}

/// Appends trajectories durably. A file has one writer, and each task occurs once.
#[derive(Debug)]
pub struct TrajectoryWriter {
    path: PathBuf,
    file: File,
    /// The size of all whole lines in bytes.
    length: u64,
    done: HashSet<String>,
    /// Whether the file may end in a partial line. Nothing may be written after it.
    broken: bool,
    _lock: FileLock,
}

impl TrajectoryWriter {
    /// Opens or creates the file for a run, and removes what a killed writer left. `run` holds the run's settings as a
    /// JSON object. A file that is refused is not changed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Argument`] if `run` is not a JSON object; [`Error::Trajectory`] if another writer has
    /// the file open, or if the file belongs to another run or does not contain trajectories.
    pub fn open(path: &Path, run: &str) -> Result<Self> {
        let run: Map<String, Value> = json::parse(run.as_bytes())
            .map_err(|error| Error::Argument(format!("run is not a JSON object: {error}")))?;
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).at(path)?;
        if !file.metadata().at(path)?.is_file() {
            return Err(Error::trajectory(path, "this is not a regular file; choose another path"));
        }
        let busy = || Error::trajectory(path, "another process is writing to this file; wait for it or end it");
        let lock = FileLock::acquire(&file, path)?.ok_or_else(busy)?;
        let found = Content::of(&file, path)?;
        match &found.header {
            Some(_) if found.lines == 1 => {}
            Some(header) => header.check_run(&run, path)?,
            None if is_unfinished_header(&file).at(path)? => {}
            None => {
                return Err(Error::trajectory(
                    path,
                    "the file has no header line, so it cannot be told which run it belongs to; choose another path",
                ));
            }
        }
        let length = if found.lines > 1 { found.whole } else { 0 };
        let done = found.done;
        let mut writer = Self { path: path.to_owned(), file, length, done, broken: false, _lock: lock };
        writer.file.set_len(writer.length).at(path)?;
        if writer.length == 0 {
            writer.write(&Header::new(run).to_line())?;
            sync_folder(path)?;
        } else if found.open_ended {
            writer.write("\n")?;
        }
        Ok(writer)
    }

    /// Returns the task ids in the file.
    pub fn done(&self) -> &HashSet<String> {
        &self.done
    }

    /// Writes the trajectories as whole lines and syncs them to disk.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] if a task is already in the file, or occurs twice among `trajectories`; nothing is written
    /// then. [`Error::Io`], for example if the disk is full; the trajectories before the first one that did not fit are
    /// written then.
    pub fn append(&mut self, trajectories: &[&Trajectory]) -> Result<()> {
        let mut new = HashSet::new();
        for trajectory in trajectories {
            if self.done.contains(&trajectory.task_id) || !new.insert(&trajectory.task_id) {
                let path = self.path.display();
                return Err(Error::Argument(format!("task {:?} is already in {path}", trajectory.task_id)));
            }
        }
        let line = |trajectory: &&Trajectory| trajectory.to_json() + "\n";
        let lines: Vec<String> = threads::share(|| trajectories.par_iter().map(line).collect());
        let together = self.write(&lines.concat());
        for (trajectory, line) in trajectories.iter().zip(&lines) {
            if together.is_err() {
                self.write(line)?;
            }
            self.done.insert(trajectory.task_id.clone());
        }
        Ok(())
    }

    /// Writes all lines or none.
    fn write(&mut self, lines: &str) -> Result<()> {
        if self.broken {
            let message =
                "an earlier write failed and could not be undone; open the file anew, which cuts off what it left";
            return Err(Error::trajectory(self.path.as_path(), message));
        }
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.broken = self.file.set_len(self.length).is_err();
            return Err(error).at(&self.path);
        }
        self.length += lines.len() as u64;
        Ok(())
    }
}

/// Returns whether the file is empty or contains only the start of a header. Its writer was then killed before the
/// first line was complete.
fn is_unfinished_header(file: &File) -> std::io::Result<bool> {
    let mut start = Vec::new();
    file.take(1 << 20).read_to_end(&mut start)?;
    let begins = start.starts_with(Header::START) || Header::START.starts_with(&start);
    Ok(begins && (start.is_empty() || is_unfinished::<Header>(&start)))
}

// ---- the file format ---------------------------------------------------------------------------

#[derive(Serialize, Deserialize)]
struct Header {
    agentdistill: String,
    #[serde(deserialize_with = "known_version")]
    version: u32,
    #[serde(default)]
    run: Map<String, Value>,
}

impl Header {
    const KIND: &str = "trajectories";
    const START: &[u8] = br#"{"agentdistill":"#;

    fn new(run: Map<String, Value>) -> Self {
        Self { agentdistill: Self::KIND.to_owned(), version: VERSION, run }
    }

    fn to_line(&self) -> String {
        serde_json::to_string(self).expect("a header is always JSON") + "\n"
    }

    /// Parses the line if it is a header.
    fn read(line: &[u8], path: &Path, number: u64) -> Result<Option<Self>> {
        if !line.starts_with(Self::START) {
            return Ok(None);
        }
        let header: Self = parse(line, || Place::from((path, number)))?;
        if header.agentdistill != Self::KIND {
            let message = format!("this is a file of {}, not of trajectories", header.agentdistill);
            return Err(Error::trajectory((path, number), message));
        }
        Ok(Some(header))
    }

    fn check_run(&self, run: &Map<String, Value>, path: &Path) -> Result<()> {
        let show = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
        let mut keys: Vec<&String> = self.run.keys().chain(run.keys()).collect();
        keys.sort();
        keys.dedup();
        let differing: Vec<String> = keys
            .into_iter()
            .filter(|key| self.run.get(*key) != run.get(*key))
            .map(|key| format!("{key} (there {}, now {})", show(self.run.get(key)), show(run.get(key))))
            .collect();
        if differing.is_empty() {
            return Ok(());
        }
        let differing = differing.join(", ");
        Err(Error::trajectory(
            path,
            format!("the file belongs to a run with other settings: {differing}; choose another path"),
        ))
    }
}

/// The fields of a line that a writer needs.
#[derive(Deserialize)]
struct TaskId {
    #[serde(rename = "version", deserialize_with = "known_version")]
    _version: u32,
    task_id: String,
}

/// Returns the first line of a file of trajectories. `run` becomes a JSON object.
pub(crate) fn header_line(run: Map<String, Value>) -> String {
    Header::new(run).to_line()
}

/// Returns whether the line is a header.
pub(crate) fn is_header(line: &[u8], place: (&Path, u64)) -> Result<bool> {
    Ok(Header::read(line, place.0, place.1)?.is_some())
}

/// The content that a writer finds in a file.
struct Content {
    header: Option<Header>,
    lines: usize,
    done: HashSet<String>,
    /// The number of bytes up to the end of the last whole line.
    whole: u64,
    /// Whether that line lacks its newline, for example in a file edited by hand.
    open_ended: bool,
}

/// The kind of a line.
enum Line {
    Task(TaskId),
    Header(Header),
    /// The last line, left unfinished by a killed writer.
    Unfinished,
}

impl Content {
    fn of(file: &File, path: &Path) -> Result<Self> {
        let whole = file.metadata().at(path)?.len();
        let mut content = Self { header: None, lines: 0, done: HashSet::new(), whole, open_ended: false };
        let mut records = Records::lines(path)?;
        if records.is_compressed() {
            return Err(Error::trajectory(path, "the file is compressed; decompress it first, or choose another path"));
        }
        while records.next_block()? {
            let all = (0..records.len()).into_par_iter();
            let lines = all.map(|index| Line::read(&records.get(index), path));
            let lines: Vec<Result<Line>> = threads::share(|| lines.collect());
            for (index, line) in lines.into_iter().enumerate() {
                let record = records.get(index);
                content.lines += 1;
                content.open_ended = !record.json.ends_with(b"\n");
                match line? {
                    Line::Task(task) => _ = content.done.insert(task.task_id),
                    Line::Header(header) if record.line == 1 => content.header = Some(header),
                    Line::Header(_) => {}
                    Line::Unfinished => {
                        content.whole -= record.json.len() as u64;
                        content.open_ended = false;
                    }
                }
            }
        }
        Ok(content)
    }
}

impl Line {
    fn read(record: &Record<'_>, path: &Path) -> Result<Self> {
        let place = (path, record.line);
        if is_unfinished::<TaskId>(record.json) {
            return Ok(Self::Unfinished);
        }
        if let Some(header) = Header::read(record.json, path, record.line)? {
            return Ok(Self::Header(header));
        }
        parse(record.json, || Place::from(place)).map(Self::Task)
    }
}

/// Returns whether this is a last line that was not fully written: JSON that ends early, or zeros that a power failure
/// can leave.
pub(crate) fn is_unfinished<T: de::DeserializeOwned>(line: &[u8]) -> bool {
    !line.ends_with(b"\n") && (line.contains(&0) || json::parse::<T>(line).is_err_and(|error| error.is_unfinished))
}

/// Syncs the folder, so that the file's name also survives a power failure.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).at(folder)
}
