//! Reads passages from files of JSON lines, plain or compressed, in runs that can be parsed independently.
//!
//! A line has the fields `id` or `_id`, `title` and `text`, as in BEIR, or Search-R1's `contents` (`"Title"\ntext`).
//! Blank lines are skipped.

use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::Passage;
use crate::error::{AtPath, Error, Result};
use crate::json::{self, JsonError};
use crate::text_file::TextFile;

/// The maximum length of a line in bytes. A longer line is an error.
const MAX_LINE: u64 = 256 << 20;

/// A file of passages.
pub struct JsonlFile {
    path: Arc<Path>,
    text: TextFile,
    line: u64,
}

impl JsonlFile {
    /// Opens a file, plain or compressed by gzip or Zstandard.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.into(), text: TextFile::open(path)?, line: 1 })
    }

    /// Returns the next lines, about `size` bytes. Lines are never split. Returns `None` at the end of the file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], for example for a damaged compressed file.
    pub fn next_lines(&mut self, size: usize) -> Result<Option<Lines>> {
        let mut text = Vec::with_capacity(size + (1 << 16));
        self.text.by_ref().take(size as u64).read_to_end(&mut text).at(&self.path)?;
        if text.last().is_none_or(|&last| last != b'\n') {
            self.text.by_ref().take(MAX_LINE).read_until(b'\n', &mut text).at(&self.path)?;
        }
        let first = self.line;
        self.line += text.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let last_line = text.len() - text.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        if last_line as u64 >= MAX_LINE {
            let message = format!("the line is longer than {} MiB", MAX_LINE >> 20);
            return Err(Error::retrieval((&*self.path, self.line), message));
        }
        if first == 1 && text.trim_ascii_start().first() == Some(&b'[') {
            let message =
                "the file is one JSON list, and must have an object a line: `jq -c '.[]' LIST > LINES` makes them";
            return Err(Error::retrieval((&*self.path, 1), message));
        }
        Ok((!text.is_empty()).then(|| Lines { path: self.path.clone(), first, text }))
    }

    /// Returns the number of bytes read so far from the file on disk.
    pub fn bytes_read(&self) -> u64 {
        self.text.bytes_read()
    }
}

/// Lines of a file that have not been parsed yet.
pub struct Lines {
    path: Arc<Path>,
    first: u64,
    text: Vec<u8>,
}

impl Lines {
    /// Returns the passage of each line, or an error with its line number.
    pub fn passages(&self) -> impl Iterator<Item = Result<Passage>> {
        (self.first..).zip(self.text.split(|&byte| byte == b'\n')).filter_map(|(number, line)| {
            let line = if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
            let line = line.trim_ascii();
            let wrong = |message| Error::retrieval((&*self.path, number), message);
            (!line.is_empty()).then(|| passage(line).map_err(wrong))
        })
    }
}

fn passage(line: &[u8]) -> std::result::Result<Passage, String> {
    let not_json = |error: JsonError| format!("not JSON: {error}");
    if line.first() != Some(&b'{') {
        let json = json::parse(line).map_err(not_json)?;
        return Err(format!("not a JSON object but {}", kind(&json)));
    }
    json::parse::<Fields>(line).map_err(not_json)?.passage()
}

/// The fields of a line, or of another record, that make a passage. Other fields are ignored.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Fields {
    pub id: Id,
    pub _id: Id,
    pub title: Json,
    pub text: Json,
    pub contents: Json,
}

impl Fields {
    /// # Errors
    ///
    /// A message that names the field that is missing or has a wrong type.
    pub fn passage(self) -> std::result::Result<Passage, String> {
        let text_of = |name: &str, field| match field {
            Json::Null => Ok(None),
            Json::String(text) => Ok(Some(text)),
            other => Err(format!("`{name}` is {}, not a string", kind(&other))),
        };
        let id = match (self.id, self._id) {
            (Id::Absent, Id::Absent) => return Err("no field `id` or `_id`".to_owned()),
            (Id::Other(kind), _) | (Id::Absent, Id::Other(kind)) => {
                return Err(format!("its id is {kind}; it must be a string or a number"));
            }
            (Id::Text(id), _) | (Id::Absent, Id::Text(id)) => id,
        };
        let title = text_of("title", self.title)?;
        match (text_of("text", self.text)?, text_of("contents", self.contents)?) {
            (Some(text), _) => Ok(Passage { id, title: title.unwrap_or_default(), text, score: 0.0 }),
            (None, Some(contents)) => {
                let (heading, text) = contents.split_once('\n').unwrap_or(("", &contents));
                let heading = heading.trim();
                let heading = heading.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(heading);
                let title = title.unwrap_or_else(|| heading.to_owned());
                Ok(Passage { id, title, text: text.to_owned(), score: 0.0 })
            }
            (None, None) => Err("no field `text` or `contents`".to_owned()),
        }
    }
}

/// An id: a string, or a number of any size, kept as written.
#[derive(Default)]
pub enum Id {
    #[default]
    Absent,
    Text(String),
    /// The type found instead.
    Other(&'static str),
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(deserializer)?.get();
        match json.as_bytes()[0] {
            b'-' | b'0'..=b'9' => return Ok(Self::Text(json.to_owned())),
            b'"' => {}
            b'n' => return Ok(Self::Absent),
            b'[' => return Ok(Self::Other("a list")),
            b'{' => return Ok(Self::Other("an object")),
            _ => return Ok(Self::Other("a boolean")),
        }
        serde_json::from_str(json).map(Self::Text).map_err(de::Error::custom)
    }
}

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}
