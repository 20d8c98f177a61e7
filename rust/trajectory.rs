//! Trajectories: what an episode was, complete, and the JSONL files they live in.
//!
//! A file begins with a header line, `{"agentdistill": "trajectories", "version": 1, "run": {...}}`; every other line
//! is one [`Trajectory`]. A line is whole or it is not there: the [`TrajectoryWriter`] syncs whole lines. A killed writer
//! can leave an unfinished last line, which readers leave out and the next writer cuts off. A writer changes no byte of a
//! file that does not begin with a header of its own run. Files of all versions up to ours can be read; a newer one is
//! refused.
//!
//! Not here: reading files of trajectories (they come in other formats too, so [`crate::formats`] does); making trajectories (the agent loop, in Python), choosing among them, turning them into training
//! examples.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::mem::replace;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rayon::prelude::*;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::action::Parsed;
use crate::error::{AtPath, Error, Place, Result};
use crate::file_lock::FileLock;
use crate::json;
use crate::observation::Observation;
use crate::text_file::TextFile;
use crate::threads;

/// The version of the format that this build writes, and the highest that it reads.
pub const VERSION: u32 = 1;

/// Bytes of a line. A longer one is refused rather than held in memory.
const LONGEST_LINE: u64 = 1 << 30;

/// One episode: enough to train on, to grade again, and to enter again at any step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Trajectory {
    #[serde(deserialize_with = "known_version")]
    pub version: u32, // stays the first field: a newer format is recognised before it is misread
    pub task_id: String,
    pub question: String,
    /// The task's own answer.
    pub reference: Option<String>,
    /// Other answers that are as right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    pub task_set: String,
    pub kind: TrajectoryKind,
    pub model: String,
    /// `(role, content)` of what stood before the first step.
    pub messages: Vec<(String, String)>,
    #[serde(deserialize_with = "with_winners")]
    pub steps: Vec<Step>,
    pub outcome: Outcome,
    pub answer: Option<String>,
    pub score: Option<f64>,
    pub grader: Option<String>,
    pub error: Option<String>,
    pub sampling: Sampling,
    /// Prompt and completion tokens.
    pub usage: (u64, u64),
    #[serde(deserialize_with = "null_as_nan")]
    pub seconds: f64,
}

/// The sampling settings of the model, as JSON. A run has the same in each trajectory, and they are there once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling(Arc<Map<String, Value>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrajectoryKind {
    #[default]
    Agent,
    /// A chain of thought, for the baseline: one step, no actions.
    Cot,
}

/// How an episode ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    #[default]
    FinalAnswer,
    OutOfSteps,
    /// Its last step could not be parsed.
    ParseFailure,
    /// Its last completion hit the token limit.
    CutCompletion,
    /// The model could not be had; `error` says why.
    ModelError,
    SandboxError,
    Error,
}

/// One turn of the model: all its candidates, and the one that went on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Step {
    #[serde(deserialize_with = "without_room")]
    pub candidates: Vec<Candidate>,
    pub winner: usize,
    pub votes: Vec<(String, usize)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// What the model was told after this step; "" after the last.
    pub message: String,
    /// The State after the winner, as bytes whose base is the State before this step; where it was asked for.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "to_base64",
        deserialize_with = "from_base64"
    )]
    pub state: Option<Vec<u8>>,
    #[serde(deserialize_with = "null_as_nan")]
    pub seconds: f64,
    /// Of `seconds`, those that passed until the model had answered.
    #[serde(default, deserialize_with = "null_as_nan")]
    pub model_seconds: f64,
    /// Tokens of the prompt that the model's engine had read before, and did not read again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached_tokens: u64,
}

/// One completion of a step, and what it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Candidate {
    pub text: String,
    /// What the model was given as the beginning of `text` (the first-thought prefix).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// What a reasoning model thought before `text`, without the tags; `token_ids` have it too.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// One per token. JSON has no infinities: what is not finite is written as null, and read back as NaN.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "nulls_as_nan")]
    pub logprobs: Option<Vec<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    /// `None` in a chain of thought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Parsed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation: Option<Observation>,
}

impl Trajectory {
    /// One line of JSON, without the newline.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists are always JSON")
    }

    /// # Errors
    ///
    /// [`Error::Trajectory`] when the line is no trajectory, or one of a newer version.
    pub fn from_json(line: &str) -> Result<Self> {
        parse(line.as_bytes(), || Place::Nowhere)
    }
}

impl Sampling {
    pub fn settings(&self) -> &Map<String, Value> {
        &self.0
    }

    pub fn settings_mut(&mut self) -> &mut Map<String, Value> {
        Arc::make_mut(&mut self.0)
    }
}

impl From<Map<String, Value>> for Sampling {
    fn from(settings: Map<String, Value>) -> Self {
        Self(settings.into())
    }
}

impl Serialize for Sampling {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.settings().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sampling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        thread_local! {
            static LAST: RefCell<(Box<str>, Sampling)> = RefCell::default();
        }
        let json = <&RawValue>::deserialize(deserializer)?.get();
        LAST.with_borrow_mut(|(known, sampling)| {
            if **known != *json {
                let settings: Map<String, Value> = serde_json::from_str(json).map_err(de::Error::custom)?;
                (*known, *sampling) = (json.into(), settings.into());
            }
            Ok(sampling.clone())
        })
    }
}

/// The `run` of a file's header, as JSON; `None` when it has no header.
///
/// # Errors
///
/// [`Error::Io`]; [`Error::Trajectory`] for a header of a newer version, or of something else than trajectories.
pub fn read_header(path: &Path) -> Result<Option<String>> {
    let mut line = Vec::new();
    let file = BufReader::new(TextFile::open(path)?);
    file.take(LONGEST_LINE).read_until(b'\n', &mut line).at(path)?;
    let header = Header::read(&line, path, 1)?;
    Ok(header.map(|header| Value::Object(header.run).to_string()))
}

/// Appends trajectories durably. One writer a file, each task once.
#[derive(Debug)]
pub struct TrajectoryWriter {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    length: u64,
    done: HashSet<String>,
    /// Whether part of a line may be at the end of the file: nothing may follow it.
    broken: bool,
    _lock: FileLock,
}

impl TrajectoryWriter {
    /// Opens or creates the file for a run (its settings, a JSON object), and cuts off what a killed writer left. A file
    /// that is refused keeps every byte.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Argument`] when `run` is no JSON object; [`Error::Trajectory`] when another writer has
    /// the file, when it belongs to another run, or when it holds something else than trajectories.
    pub fn open(path: &Path, run: &str) -> Result<Self> {
        let run: Map<String, Value> = json::parse(run.as_bytes())
            .map_err(|error| Error::Argument(format!("run is not a JSON object: {error}")))?;
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).at(path)?;
        if !file.metadata().at(path)?.is_file() {
            return Err(Error::trajectory(path, "this is not a regular file; choose another path"));
        }
        let busy = || Error::trajectory(path, "another process is writing to this file; wait for it or end it");
        let lock = FileLock::acquire(&file, path)?.ok_or_else(busy)?;
        let found = Lines::open(path)?.parse_all::<TaskId>()?;
        match &found.header {
            Some(header) => header.check_run(&run, path)?,
            None if is_unfinished_header(&file).at(path)? => {}
            None => {
                return Err(Error::trajectory(
                    path,
                    "the file has no header line, so it cannot be told which run it belongs to; choose another path",
                ));
            }
        }
        let length = found.whole;
        let done = found.records.into_iter().map(|task| task.task_id).collect();
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

    /// Task ids in the file.
    pub fn done(&self) -> &HashSet<String> {
        &self.done
    }

    /// Writes them, whole and synced to disk.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] when one's task is in the file already, or twice among them: then none is written.
    /// [`Error::Io`], a full disk for one: then those before the first for which there was no room are.
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

    /// All of it or nothing.
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

/// Whether the file is empty, or the beginning of a header and nothing else: its writer was killed before the first line was
/// whole.
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

    /// Reads the line, when it is a header.
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

/// What a writer needs to know of a line.
#[derive(Deserialize)]
struct TaskId {
    #[serde(rename = "version", deserialize_with = "known_version")]
    _version: u32,
    task_id: String,
}

/// The first line of a file of trajectories: `run` is a JSON object.
pub(crate) fn header_line(run: Map<String, Value>) -> String {
    Header::new(run).to_line()
}

/// Whether the line is a header.
pub(crate) fn is_header(line: &[u8], place: (&Path, u64)) -> Result<bool> {
    Ok(Header::read(line, place.0, place.1)?.is_some())
}

/// A file, read a block of lines at a time so that memory holds little besides the records.
struct Lines<'a> {
    path: &'a Path,
    file: BufReader<TextFile>,
}

/// What is in a file.
struct Content<T> {
    header: Option<Header>,
    records: Vec<T>,
    /// Bytes up to the end of the last whole line.
    whole: u64,
    /// Whether that line lacks its newline, as when a person wrote it.
    open_ended: bool,
}

/// What a line is.
enum Line<T> {
    Record(T),
    Header(Header),
    Blank,
    /// The last line, which a killed writer left.
    Unfinished,
}

impl<'a> Lines<'a> {
    const BLOCK: usize = 16 << 20;

    fn open(path: &'a Path) -> Result<Self> {
        Ok(Self { path, file: BufReader::with_capacity(1 << 20, TextFile::open(path)?) })
    }

    fn parse_all<T: de::DeserializeOwned + Send>(mut self) -> Result<Content<T>> {
        let mut all = Content { header: None, records: Vec::new(), whole: 0, open_ended: false };
        let mut block = Vec::new();
        let mut lines_before = 0;
        loop {
            block.clear();
            let mut ends = Vec::new();
            while block.len() < Self::BLOCK && self.next_line(&mut block, lines_before + ends.len() as u64 + 1)? {
                ends.push(block.len());
            }
            if block.is_empty() {
                return Ok(all);
            }
            let mut start = 0;
            let lines: Vec<&[u8]> = ends.into_iter().map(|end| &block[replace(&mut start, end)..end]).collect();
            let numbered = lines.par_iter().enumerate();
            let read = numbered.map(|(index, line)| self.read(line, lines_before + index as u64 + 1));
            let read: Vec<Result<Line<T>>> = threads::share(|| read.collect());
            let ends_with_newline = block.ends_with(b"\n");
            for (index, (read, line)) in read.into_iter().zip(&lines).enumerate() {
                let read = read?; // of several errors the first
                all.open_ended = !ends_with_newline && matches!(read, Line::Record(_) | Line::Header(_));
                all.whole += if matches!(read, Line::Unfinished) { 0 } else { line.len() as u64 };
                match read {
                    Line::Record(record) => all.records.push(record),
                    Line::Header(header) if lines_before == 0 && index == 0 => all.header = Some(header),
                    Line::Header(_) | Line::Blank | Line::Unfinished => {}
                }
            }
            lines_before += lines.len() as u64;
        }
    }

    /// Appends the next line to the block. False at the end of the file.
    fn next_line(&mut self, block: &mut Vec<u8>, number: u64) -> Result<bool> {
        let read = self.file.by_ref().take(LONGEST_LINE).read_until(b'\n', block).at(self.path)?;
        if read as u64 == LONGEST_LINE && !block.ends_with(b"\n") {
            let message = format!("the line is longer than {} MiB", LONGEST_LINE >> 20);
            return Err(Error::trajectory((self.path, number), message));
        }
        Ok(read > 0)
    }

    fn read<T: de::DeserializeOwned>(&self, line: &[u8], number: u64) -> Result<Line<T>> {
        if line.trim_ascii().is_empty() {
            return Ok(Line::Blank);
        }
        if is_unfinished::<T>(line) {
            return Ok(Line::Unfinished);
        }
        if let Some(header) = Header::read(line, self.path, number)? {
            return Ok(Line::Header(header));
        }
        parse(line, || Place::from((self.path, number))).map(Line::Record)
    }
}

/// Whether this is a last line that was not written to its end: JSON that breaks off, or holds the zeros that a power cut can
/// leave.
pub(crate) fn is_unfinished<T: de::DeserializeOwned>(line: &[u8]) -> bool {
    !line.ends_with(b"\n") && (line.contains(&0) || json::parse::<T>(line).is_err_and(|error| error.is_unfinished))
}

fn parse<T: de::DeserializeOwned>(line: &[u8], place: impl FnOnce() -> Place) -> Result<T> {
    json::parse(line).map_err(|error| Error::trajectory(place(), format!("not a trajectory: {error}")))
}

/// So that the file's name, too, survives a power cut.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).at(folder)
}

fn known_version<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        version @ 1..=VERSION => Ok(version),
        version => Err(de::Error::custom(format!(
            "it is of version {version}, and this agentdistill reads versions up to {VERSION}: update agentdistill"
        ))),
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn to_base64<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    bytes.as_ref().map(|bytes| BASE64_STANDARD.encode(bytes)).serialize(serializer)
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Vec<u8>>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| BASE64_STANDARD.decode(text)).transpose().map_err(de::Error::custom)
}

/// Lists grow with room for four, and most steps have one candidate: of a file, this is a fifth of what it takes.
fn without_room<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<T>, D::Error> {
    let mut list = Vec::deserialize(deserializer)?;
    list.shrink_to_fit();
    Ok(list)
}

/// Steps whose winner is one of their candidates.
fn with_winners<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<Step>, D::Error> {
    let steps = Vec::<Step>::deserialize(deserializer)?;
    match (1..).zip(&steps).find(|(_, step)| step.winner >= step.candidates.len()) {
        None => Ok(steps),
        Some((number, Step { winner, candidates, .. })) => Err(de::Error::custom(format!(
            "the winner of step {number} is {winner}, but there are {} candidates",
            candidates.len()
        ))),
    }
}

fn null_as_nan<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn nulls_as_nan<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Vec<f64>>, D::Error> {
    let numbers: Option<Vec<Option<f64>>> = Option::deserialize(deserializer)?;
    Ok(numbers.map(|numbers| numbers.into_iter().map(|number| number.unwrap_or(f64::NAN)).collect()))
}
