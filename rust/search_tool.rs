//! Search as a sandbox tool: a [`Bm25Index`] answers a cell's `web_search(query)`, without Python.
//!
//! The result is text for a model to read: passages by rank, as `[1] Title`, the text, `[2] Title`, and so on, or in
//! the format of the paper's code. Cells that run in parallel search in parallel.

use std::fmt::Write;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::retrieval::{Bm25Index, Passage};
use crate::sandbox::Tool;
use crate::vote::Compat;

/// A search tool. It takes `query` and, optionally, `k`, as positional or keyword arguments.
pub struct SearchTool {
    pub index: Arc<Bm25Index>,
    /// The number of passages returned if a call gives no `k`.
    pub k: usize,
    /// The format of the passages.
    pub compat: Option<Compat>,
}

impl SearchTool {
    /// The paper's number of passages.
    pub const K: usize = 3;
    pub const MOST: usize = 100;
}

impl Tool for SearchTool {
    fn call(&self, arguments: &str) -> Result<String, String> {
        let Arguments { query, k } = Arguments::read(arguments)?;
        let passages =
            self.index.search(&query, k.unwrap_or(self.k).min(Self::MOST)).map_err(|error| error.to_string())?;
        Ok(Value::String(for_reading(&passages, self.compat)).to_string())
    }
}

struct Arguments {
    query: String,
    k: Option<usize>,
}

impl Arguments {
    fn read(json: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Named {
            query: Option<Value>,
            k: Option<Value>,
        }
        const USAGE: &str = "call it with one string, the query";
        let usage = |_| USAGE.to_owned();
        let (positional, Named { query, k }): (Vec<Value>, Named) = serde_json::from_str(json).map_err(usage)?;
        let given = positional.len();
        let mut positional = positional.into_iter();
        let query = query.or_else(|| positional.next());
        let k = k.or_else(|| positional.next());
        let left = positional.next();
        let (Some(Value::String(query)), None, 0..=2) = (query, left, given) else { return Err(USAGE.to_owned()) };
        let k = match k {
            None | Some(Value::Null) => None,
            Some(k) => Some(serde_json::from_value(k).map_err(|_| "k must be a positive whole number".to_owned())?),
        };
        Ok(Self { query, k })
    }
}

/// The maximum number of characters shown of a passage: about six times the usual length for Wikipedia (100 words).
const MAX_CHARS: usize = 4_000;

/// Formats passages for a model, best first. The default format cuts long passages at the end of a sentence.
pub fn for_reading(passages: &[Passage], compat: Option<Compat>) -> String {
    let mut reading = String::new();
    if compat == Some(Compat::Reference) {
        reading.push_str("\nRetrieved documents:");
        for (rank, Passage { title, text, score, .. }) in passages.iter().enumerate() {
            let _ = write!(reading, "\n\n===== Document {rank}, similarity: {score:.2} =====\n\"{title}\"\n{text}");
        }
        return reading;
    }
    if passages.is_empty() {
        return "No passage has any of these words.".to_owned();
    }
    for (index, Passage { title, text, .. }) in passages.iter().enumerate() {
        let newline = if index > 0 { "\n" } else { "" };
        let (shown, more) = shorten(text.trim_end());
        let _ = write!(reading, "{newline}[{}] {title}\n{shown}{more}", index + 1); // writing to a String cannot fail
    }
    reading
}

/// Returns the sentences of `text` that fit, and a mark that stands for the rest. If no sentence ends in the second
/// half of what fits, the text is cut after a word, or else after a character.
fn shorten(text: &str) -> (&str, &'static str) {
    let Some((most, _)) = text.char_indices().nth(MAX_CHARS) else { return (text, "") };
    let fits = &text[..most];
    let second_half = |end: &usize| *end > most / 2;
    let mut ends: Vec<usize> = Vec::new();
    ends.extend([". ", "! ", "? ", ".\n", "!\n", "?\n"].iter().filter_map(|end| Some(fits.rfind(end)? + 1)));
    ends.extend(['。', '！', '？'].iter().filter_map(|&end| Some(fits.rfind(end)? + end.len_utf8())));
    let sentence = ends.into_iter().max().filter(second_half);
    let end = sentence.or_else(|| fits.rfind(char::is_whitespace).filter(second_half)).unwrap_or(most);
    (&fits[..end], " [...]")
}
