//! Reads and writes the trajectory formats of other programs.
//!
//! Each format is a module with `read` and `write`. Its documentation names the source of its fields, and what it
//! leaves out. Every conversion goes through [`Trajectory`], and [`crate::action`] parses the completions. Imported
//! trajectories therefore have actions and observations, and can be selected, trained on, graded and viewed.
//!
//! Files are converted one block at a time on all cores, and records keep their order. The output file appears only
//! when it is complete.

mod assistant_turn;
mod atif;
mod chat;
mod conversation;
mod fields;
mod metadata;
mod python_tool;
mod reference;
mod sharegpt;
mod smolagents;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::conversation::Conversation;
use crate::error::{AtPath, Error, Result};
use crate::json;
use crate::threads;
use crate::trajectory::{Record, Records, Trajectory, header_line, is_header, is_unfinished, sync_folder};

/// A format of trajectories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// agentdistill's own format.
    Agentdistill,
    /// The logs of the paper's code.
    Reference,
    /// smolagents' memory.
    Smolagents,
    /// Messages with tool calls.
    Openai,
    /// Messages as text (TRL).
    Messages,
    /// A prompt and a completion for each step (TRL).
    PromptCompletion,
    Sharegpt,
    Atif,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 8] = [
        Self::Agentdistill,
        Self::Reference,
        Self::Smolagents,
        Self::Openai,
        Self::Messages,
        Self::PromptCompletion,
        Self::Sharegpt,
        Self::Atif,
    ];

    /// Detects the format of a record from its fields.
    ///
    /// # Errors
    ///
    /// The reason why no format matches.
    pub fn of(record: &[u8]) -> std::result::Result<Self, String> {
        if record.trim_ascii_start().first() == Some(&b'[') {
            return Ok(Self::Smolagents);
        }
        let fields: HashMap<String, IgnoredAny> = parse(record)?;
        let has = |name: &str| fields.contains_key(name);
        let found = match () {
            () if has("log_data") || has("response") && has("messages") => Self::Reference,
            () if has("conversations") => Self::Sharegpt,
            () if has("schema_version") && has("agent") => Self::Atif,
            () if has("messages") && has("steps") && has("task_id") => Self::Agentdistill,
            () if has("messages") => Self::Openai,
            () if has("prompt") && has("completion") => Self::PromptCompletion,
            () if has("steps") => Self::Smolagents,
            () if has("agentdistill") => Self::Agentdistill, // a header
            () => {
                let mut names: Vec<&str> = fields.keys().map(String::as_str).collect();
                names.sort_unstable();
                return Err(format!("no known format has the fields {}; say which one it is", names.join(", ")));
            }
        };
        Ok(found)
    }

    /// Parses one record.
    ///
    /// # Errors
    ///
    /// The reason why the record is not of this format.
    pub fn read(self, record: &[u8]) -> std::result::Result<Trajectory, String> {
        let conversation = match self {
            Self::Agentdistill => return parse(record),
            Self::Reference => parse::<reference::Record>(record)?.read(),
            Self::Smolagents => smolagents::read(record),
            Self::Openai | Self::Messages | Self::PromptCompletion => parse::<chat::Record>(record)?.read(),
            Self::Sharegpt => parse::<sharegpt::Record>(record)?.read(),
            Self::Atif => parse::<atif::Record>(record)?.read(),
        };
        conversation.and_then(Conversation::into_trajectory)
    }

    /// Returns the records of a trajectory. Most formats give one record, and `prompt-completion` gives one for each
    /// step. A format for training gives none if the trajectory has no turn of the model.
    pub fn write(self, trajectory: &Trajectory) -> Vec<String> {
        let for_training = !matches!(self, Self::Agentdistill | Self::Reference | Self::Smolagents | Self::Atif);
        if for_training && trajectory.steps.is_empty() {
            return vec![];
        }
        let record = match self {
            Self::Agentdistill => return vec![trajectory.to_json()],
            Self::PromptCompletion => {
                return chat::write_prompt_completion(trajectory).iter().map(to_json).collect();
            }
            Self::Reference => reference::write(trajectory),
            Self::Smolagents => smolagents::write(trajectory),
            Self::Openai => chat::write_openai(trajectory),
            Self::Messages => chat::write_messages(trajectory),
            Self::Sharegpt => sharegpt::write(trajectory),
            Self::Atif => atif::write(trajectory),
        };
        vec![to_json(&record)]
    }
}

/// Faster than `Value::to_string`.
fn to_json(record: &Value) -> String {
    serde_json::to_string(record).expect("a value is always JSON")
}

fn parse<T: DeserializeOwned>(record: &[u8]) -> std::result::Result<T, String> {
    json::parse(record).map_err(|error| error.to_string())
}

/// Reads a file of agentdistill's own format on all cores. An unfinished last line is skipped, and so are header lines,
/// of which concatenated files have several.
///
/// # Errors
///
/// [`Error::Io`]; [`Error::Trajectory`] with the path and line number.
pub fn read_trajectories(path: &Path) -> Result<Vec<Trajectory>> {
    let mut reader = Reader::new(&[path.to_owned()], Some(Format::Agentdistill));
    let mut all = Vec::new();
    while let Some(block) = reader.next_block(|trajectory| trajectory)? {
        all.extend(block);
    }
    Ok(all)
}

/// Reads files of trajectories one after another. It reads one block at a time on all cores, so memory use is bounded.
pub struct Reader {
    /// The remaining files, in reverse order.
    files: Vec<PathBuf>,
    /// The file that is being read, and its format.
    open: Option<(Records, Format)>,
    from: Option<Format>,
    bytes_before: u64,
}

impl Reader {
    /// Creates a reader. `from` is the format of the files; by default it is detected for each file.
    pub fn new(files: &[PathBuf], from: Option<Format>) -> Self {
        Self { files: files.iter().rev().cloned().collect(), open: None, from, bytes_before: 0 }
    }

    /// Returns the result of `take` for each trajectory of the next block, in order. Returns `None` at the end.
    ///
    /// `take` runs on the thread that parsed the trajectory, so that memory is freed on the thread that allocated it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Trajectory`] with the file and line number of a record that cannot be read.
    pub fn next_block<T: Send>(&mut self, take: impl Fn(Trajectory) -> T + Sync) -> Result<Option<Vec<T>>> {
        loop {
            let Some((records, format)) = &mut self.open else {
                let Some(path) = self.files.pop() else { return Ok(None) };
                self.open = self.open(&path)?;
                continue;
            };
            if !records.next_block()? {
                self.bytes_before += records.bytes_read();
                self.open = None;
                continue;
            }
            let (records, format) = (&*records, *format);
            let all = (0..records.len()).into_par_iter();
            let all = all.filter_map(|index| read(records.get(index), format, records.path()).transpose());
            let all: Vec<Result<T>> = threads::share(|| all.map(|read| read.map(&take)).collect());
            return all.into_iter().collect::<Result<_>>().map(Some); // the first of several errors
        }
    }

    /// Opens a file. Returns `None` if it has no records, because such a file has no format.
    fn open(&self, path: &Path) -> Result<Option<(Records, Format)>> {
        let is_step = |element: &[u8]| {
            serde_json::from_slice::<HashMap<String, IgnoredAny>>(element).is_ok_and(|fields| {
                ["step_number", "task", "system_prompt"].iter().any(|name| fields.contains_key(*name))
                    && !fields.contains_key("messages")
            })
        };
        let mut first = Records::open(path, is_step)?;
        if !first.next_block()? {
            return Ok(None);
        }
        let Record { json, line, .. } = first.get(0);
        let found = self.from.map_or_else(|| Format::of(json), Ok);
        let format = found.map_err(|why| Error::trajectory((path, line), why))?;
        Ok(Some((Records::open(path, is_step)?, format)))
    }

    /// Returns the number of bytes read so far from the files.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_before + self.open.as_ref().map_or(0, |(records, _)| records.bytes_read())
    }
}

/// A conversion of files from one format to another.
pub struct Conversion<'a> {
    input: Reader,
    output: Output<'a>,
    to: Format,
    /// The number of trajectories for each task id. agentdistill's own format allows one for each.
    seen: HashMap<String, usize>,
    read: usize,
}

/// The number of trajectories read, and of records written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub read: usize,
    pub written: usize,
}

impl<'a> Conversion<'a> {
    /// Starts a conversion. `from` is the format of the inputs; by default it is detected for each file. `run` goes
    /// into the header, if the output is in agentdistill's own format.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Argument`] if the output is one of the inputs.
    pub fn new(
        inputs: &[PathBuf],
        output: &'a Path,
        from: Option<Format>,
        to: Format,
        run: Map<String, Value>,
    ) -> Result<Self> {
        for input in inputs {
            let input = fs::canonicalize(input).at(input)?;
            if fs::canonicalize(output).is_ok_and(|output| output == input) {
                return Err(Error::Argument(format!("{} would be written over itself", output.display())));
            }
        }
        let mut output = Output::create(output)?;
        if to == Format::Agentdistill {
            if output.is_list {
                let message =
                    format!("{}: trajectories are kept in lines; name the file .jsonl", output.path.display());
                return Err(Error::Argument(message));
            }
            output.file.write_all(header_line(run).as_bytes()).at(&output.new)?;
        }
        Ok(Self { input: Reader::new(inputs, from), output, to, seen: HashMap::new(), read: 0 })
    }

    /// Converts the next block. Returns false at the end, when the output is in place.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Trajectory`] with the file and line number of a record that cannot be read.
    pub fn step(&mut self) -> Result<bool> {
        let to = self.to;
        let converted = self.input.next_block(|trajectory| (to.write(&trajectory), trajectory.task_id))?;
        let Some(converted) = converted else {
            self.output.finish()?;
            return Ok(false);
        };
        for (mut records, task_id) in converted {
            self.read += 1;
            if to == Format::Agentdistill {
                self.make_unique(&mut records, task_id)?;
            }
            records.iter().try_for_each(|record| self.output.write(record))?;
        }
        Ok(true)
    }

    /// Makes task ids unique. Several trajectories of a task are samples of it, and `select` later keeps one.
    fn make_unique(&mut self, records: &mut [String], task_id: String) -> Result<()> {
        let times = self.seen.entry(task_id).or_default();
        *times += 1;
        if *times > 1 {
            for record in records {
                let mut trajectory = Trajectory::from_json(record)?;
                trajectory.task_id = format!("{}#{times}", trajectory.task_id);
                trajectory.sampling.settings_mut().insert("samples".to_owned(), (*times).into());
                *record = trajectory.to_json();
            }
        }
        Ok(())
    }

    pub fn counts(&self) -> Counts {
        Counts { read: self.read, written: self.output.written }
    }

    /// Returns the number of bytes read so far from the inputs.
    pub fn bytes_read(&self) -> u64 {
        self.input.bytes_read()
    }
}

/// Parses a record. Returns `None` for a header, and for a line that a killed writer left unfinished.
fn read(record: Record<'_>, format: Format, path: &Path) -> Result<Option<Trajectory>> {
    let Record { json, line, torn } = record;
    if format == Format::Agentdistill && !(torn && is_unfinished::<Trajectory>(json)) && is_header(json, (path, line))?
    {
        return Ok(None);
    }
    match format.read(json) {
        Ok(trajectory) => Ok(Some(trajectory)),
        Err(_) if torn && format == Format::Agentdistill && is_unfinished::<Trajectory>(json) => Ok(None),
        Err(why) if format == Format::Agentdistill => {
            Err(Error::trajectory((path, line), format!("not a trajectory: {why}")))
        }
        Err(why) => Err(Error::trajectory((path, line), format!("not a record of {}: {why}", name(format)))),
    }
}

fn name(format: Format) -> String {
    serde_json::to_value(format).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A file that appears when it is complete.
struct Output<'a> {
    path: &'a Path,
    new: PathBuf,
    file: BufWriter<File>,
    /// Whether the file is a JSON list, as `.json` files are.
    is_list: bool,
    written: usize,
    done: bool,
}

impl<'a> Output<'a> {
    fn create(path: &'a Path) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| Error::Argument(format!("{} is no file", path.display())))?;
        let new = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
        let _ = fs::remove_file(&new); // left by a killed process, or a link that must not be followed
        let file = OpenOptions::new().write(true).create_new(true).open(&new).at(&new)?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self {
            path,
            new,
            file,
            is_list: path.extension().is_some_and(|end| end == "json"),
            written: 0,
            done: false,
        })
    }

    fn write(&mut self, record: &str) -> Result<()> {
        let before = match (self.is_list, self.written) {
            (false, _) => "",
            (true, 0) => "[\n",
            (true, _) => ",\n",
        };
        let after = if self.is_list { "" } else { "\n" };
        self.written += 1;
        [before, record, after].iter().try_for_each(|text| self.file.write_all(text.as_bytes())).at(&self.new)
    }

    fn finish(&mut self) -> Result<()> {
        if self.is_list {
            let end = if self.written == 0 { "[]\n" } else { "\n]\n" };
            self.file.write_all(end.as_bytes()).at(&self.new)?;
        }
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).at(&self.new)?;
        fs::rename(&self.new, self.path).at(self.path)?;
        self.done = true;
        sync_folder(self.path)
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.new); // best effort
        }
    }
}
