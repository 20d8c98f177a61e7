//! Parses tool calls between tags, as chat templates ask for them:
//!
//! - JSON (Hermes, Qwen): `<tool_call>{"name": "web_search", "arguments": {"query": "..."}}</tool_call>`
//! - XML (Qwen3-Coder, Qwen3.5):
//!   `<tool_call><function=web_search><parameter=query>...</parameter></function></tool_call>`
//! - the same as `<invoke name="web_search"><parameter name="query">...</parameter></invoke>` (MiniMax)
//! - pairs (GLM): `<tool_call>web_search<arg_key>query</arg_key><arg_value>...</arg_value></tool_call>`
//!
//! The rules:
//!
//! - **Calls** are all `<tool_call>` blocks after the thinking. A block holds one call, several calls or a list; they
//!   run in order. The arguments may be JSON in a string, as in OpenAI's protocol, or be named `parameters`. The last
//!   closing tag may be missing, because engines often cut off a stop sequence. In XML, a value that parses as a JSON
//!   number, constant, list or object is that value; any other value is a text, because the tool's schema is not known
//!   here.
//! - **Without tags**, a reply that is only JSON with a name and arguments is a call, and so is one that ends in a fence
//!   with such JSON. It may be in the marks of other templates, such as `[TOOL_CALLS]`. Other models' own tokens are
//!   also read (`native_calls.rs`).
//! - **Almost valid JSON** is accepted if it has only one meaning (`json.rs`). Brackets may be missing or surplus
//!   before the closing tag.
//! - **A final answer**, if there is no call, is text that is marked as an answer (`plain_answer.rs`), or else the
//!   whole reply, since these models answer without markup.
//! - **Thought** is the text before the first call or the answer.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem;
use regex::Regex;

use super::call::cell_of_json;
use super::json::{Json, Reader};
use super::native_calls::NativeCalls;
use super::plain_answer::plain_answer;
use super::tags::{Content, Tagged, cut_tag};
use super::text::{loops, thought, trimmed_all};
use super::thinking::{Reply, after_thinking};
use super::{Act, Action, FailureReason, ParseFailureKind, ParseResult};

pub const INSTRUCTION: &str = "Think, then call a tool: <tool_call>{\"name\": ..., \"arguments\": {...}}</tool_call>; or write \
                       the answer between <answer> and </answer>.";

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
/// Tokens that end a turn, which some servers leave in the text.
const END_OF_TURN: [&str; 6] = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "</s>"];

pub fn read(completion: &str) -> ParseResult {
    let first_call = |from| Block::find(completion, from);
    let (body, first) = match after_thinking(completion, first_call, |block| block.start..block.end) {
        Reply::Spoken { body, action } => (body, action),
        Reply::Unended { .. } => return Err(FailureReason::endless_thinking()),
    };
    let untagged = || Block::native(completion, body).or_else(|| Block::untagged(completion, body));
    let Some(first) = first.or_else(untagged) else { return answer(completion, body) };
    let start = first.start;
    let mut blocks = vec![first];
    while let Some(last) = blocks.last()
        && let Some(next) = Block::find(completion, last.end)
        // Only white space may separate two calls. With other text between them, the model invented the first call's
        // result.
        && completion[last.end..next.start].trim().is_empty()
        // An opening tag at the end is meant as the closing one.
        && !next.content.is_empty()
    {
        blocks.push(next);
    }
    let is_closed = blocks.last().is_some_and(|last| last.closed);
    let ranges = blocks.iter().map(|block| block.content.clone()).collect();
    let cells: Option<Vec<String>> =
        blocks.into_iter().map(|block| block.cells).collect::<Option<Vec<_>>>().map(|all| all.concat());
    match cells {
        Some(cells) if cells.iter().all(String::is_empty) => {
            Err(FailureReason(ParseFailureKind::EmptyCode, "The code in your call is empty.".into()))
        }
        Some(cells) => Ok(Action::new(completion, thought(completion, 0..start), Act::Cell(cells.join("\n"), ranges))),
        None if !is_closed => {
            Err(FailureReason(ParseFailureKind::UnclosedCode, "Your call breaks off before its end.".into()))
        }
        None => {
            let what = "Your call cannot be read: it must be JSON, an object with a tool's name and its arguments.";
            Err(FailureReason(ParseFailureKind::BadCall, what.into()))
        }
    }
}

fn answer(completion: &str, body: usize) -> ParseResult {
    if let Some((start, answer)) = plain_answer(completion, body) {
        return Ok(Action::new(completion, thought(completion, 0..start), Act::Answer(answer)));
    }
    let answer = trimmed_all(completion, body..completion.len());
    if answer.is_empty() || loops(completion) {
        return Err(FailureReason::no_action("Your reply has neither a call nor a final answer."));
    }
    Ok(Action::new(completion, thought(completion, 0..body), Act::Answer(answer)))
}

/// The content of a pair of tags.
struct Block {
    start: usize,
    content: Range<usize>,
    /// The cells that make the calls; `None` if a call cannot be made.
    cells: Option<Vec<String>>,
    closed: bool,
    end: usize,
}

impl Block {
    /// Finds the first block at or after `from`.
    fn find(text: &str, from: usize) -> Option<Self> {
        // Qwen3-Coder sometimes omits the tag around its functions.
        static BARE: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(
                r"(?m)^[ \t]*(?:<(?:minimax:tool_call|function_calls)>\s*)?<(?:function=[^\s<>]+|invoke name=[^\n<>]+)>",
            )
            .expect("it is valid")
        });
        let tagged = Tagged::find(text, from, (OPEN, CLOSE), Content::Calls);
        let until = tagged.as_ref().map_or(text.len(), |tagged| tagged.start);
        if let Some(bare) = BARE.find_at(&text[..until], from) {
            let start = bare.end() - bare.as_str().trim_start().len();
            let inside = bare.start() + bare.as_str().rfind('<').unwrap_or(0);
            return Some(Self::read(text, start, inside));
        }
        tagged.map(|tagged| Self::read(text, tagged.start, tagged.start + OPEN.len()))
    }

    /// Finds calls in JSON that are the whole text from `from` or from its first fence, in the marks of other
    /// templates or in none. Only JSON with arguments is a call, because an answer may be an object with a name.
    fn untagged(text: &str, from: usize) -> Option<Self> {
        const MARK: &str = r"(?:\[TOOL_CALLS\]|<\|python_tag\|>|<\|?(?:tool|function)_calls?\|?>)";
        static OPENS: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(&format!(r"\A\s*{MARK}?\s*(?:```\w*\s*)?[\[{{]|(?m:^){MARK}?[ \t]*```\w*\s*[\[{{]"))
                .expect("it is valid")
        });
        static CLOSES: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"(?:\s*(?:```|<\|?/(?:tool|function)_calls?\|?>|<\|eo[mt]_id\|>))*\s*\z").expect("it is valid")
        });
        let opens = OPENS.find(&text[from..])?;
        let inside = from + opens.end() - 1;
        let end = inside + CLOSES.find(&text[inside..])?.start();
        let named = ["arguments", "parameters"].iter().any(|name| text[inside..end].contains(name));
        let (calls, length) = named.then(|| whole_objects(&text[inside..end])).flatten()?;
        (inside + length == end).then_some(())?;
        let start = from + opens.start();
        Some(Self { start, content: inside..end, cells: cells(calls), closed: true, end: text.len() })
    }

    fn native(text: &str, from: usize) -> Option<Self> {
        let NativeCalls { start, content, calls, closed } = NativeCalls::find(text, from)?;
        Some(Self { start, content, cells: calls.and_then(cells), closed, end: text.len() })
    }

    fn read(text: &str, start: usize, inside: usize) -> Self {
        let begin = text[inside..].trim_start();
        let read = if begin.starts_with("<function") || begin.starts_with("<invoke ") {
            functions(text, inside)
        } else {
            pairs(text, inside).or_else(|| objects(text, inside))
        };
        let (calls, end) = match read {
            Some((calls, end)) => (Some(calls), end),
            None => {
                let close = memmem::find(&text.as_bytes()[inside..], CLOSE.as_bytes());
                (None, close.map_or(text.len(), |length| inside + length))
            }
        };
        let tag = text.len() - text[end..].trim_start().len();
        let closed = text[tag..].starts_with(CLOSE);
        Self {
            start,
            content: trimmed_all(text, inside..end),
            cells: calls.and_then(cells),
            closed,
            end: if closed { tag + CLOSE.len() } else { end },
        }
    }
}

/// A tool's name and its arguments.
type Call = (String, Json);

fn cells(calls: Vec<Call>) -> Option<Vec<String>> {
    calls.into_iter().map(|(name, arguments)| cell_of_json(&name, &arguments)).collect()
}

// ---- JSON --------------------------------------------------------------------------------------

/// Parses calls in JSON, and returns them with the end position. A closing tag in a JSON string is part of the string.
fn objects(text: &str, inside: usize) -> Option<(Vec<Call>, usize)> {
    let blanks = text[inside..].len() - text[inside..].trim_start().len();
    let begin = inside + blanks;
    let fence = if text[begin..].starts_with("```") { text[begin..].find('\n')? } else { 0 };
    let begin = begin + fence;
    whole_objects(&text[begin..])
        .or_else(|| {
            // The JSON does not parse past the closing tag: try it with the brackets missing there.
            let close = memmem::find(&text.as_bytes()[begin..], CLOSE.as_bytes())?;
            let mut reader = Reader::new(&text[begin..begin + close]);
            let value = reader.value()?;
            (reader.lacking > 0).then_some(())?;
            Some((calls(value)?, close))
        })
        .map(|(calls, length)| (calls, begin + length))
}

fn whole_objects(text: &str) -> Option<(Vec<Call>, usize)> {
    let mut reader = Reader::new(text);
    let mut all = Vec::new();
    loop {
        all.extend(calls(reader.value()?)?);
        if reader.lacking > 0 {
            return None;
        }
        let end = reader.position();
        let rest = text[end..].trim_start_matches(|c: char| c.is_whitespace() || "`;,]}".contains(c));
        let rest = &rest[..rest.len() - cut_tag(rest, CLOSE)];
        if rest.is_empty() || [CLOSE, OPEN].iter().chain(&END_OF_TURN).any(|tag| rest.starts_with(tag)) {
            let surplus = text.len()
                - end
                - text[end..].trim_start_matches(|c: char| c.is_whitespace() || "`;,]}".contains(c)).len();
            return Some((all, end + text[end..end + surplus].trim_end().len()));
        }
        if !rest.starts_with('{') {
            return None;
        }
        reader = Reader::starting_at(text, text.len() - rest.len());
    }
}

/// Converts a value into calls: the value is one call or a list of calls.
fn calls(value: Json) -> Option<Vec<Call>> {
    match value {
        Json::List(values) if !values.is_empty() => values.into_iter().map(call).collect(),
        value => Some(vec![call(value)?]),
    }
}

fn call(value: Json) -> Option<Call> {
    let Json::Object(fields) = value else { return None };
    let (mut name, mut arguments, mut others) = (None, None, false);
    for (field, value) in fields {
        match (&field[..], value) {
            ("function", function @ Json::Object(_)) => return call(function), // as in OpenAI's protocol
            ("name", Json::Text(text)) => name = Some(text),
            ("arguments", value) => arguments = Some(value),
            ("parameters", value) if arguments.is_none() => arguments = Some(value),
            ("id" | "type" | "index", _) => {}
            _ => others = true,
        }
    }
    // Without arguments, other fields may be meant as such: a call without them would be another one.
    (arguments.is_some() || !others).then_some((name?, arguments.unwrap_or_default()))
}

// ---- XML ---------------------------------------------------------------------------------------

/// Parses the `<function=...>` calls that start here, and returns them with the end position.
fn functions(text: &str, inside: usize) -> Option<(Vec<Call>, usize)> {
    let mut calls = Vec::new();
    let mut at = Cursor { text, at: inside };
    while let Some(name) = at.opening("function").or_else(|| at.opening("invoke")) {
        let arguments = match at.rest().starts_with('{') {
            true => {
                let mut reader = Reader::new(at.rest());
                let value = reader.value()?;
                at.at += reader.position();
                value
            }
            false => parameters(&mut at)?,
        };
        if !at.closing("</function>") && !at.closing("</invoke>") && !at.rest().starts_with(CLOSE) {
            return None;
        }
        calls.push((name, arguments));
    }
    (!calls.is_empty()).then_some((calls, at.at))
}

fn parameters(at: &mut Cursor<'_>) -> Option<Json> {
    const END: &str = "</parameter>";
    let mut named = Vec::new();
    while let Some(name) = at.opening_raw("parameter") {
        let rest = &at.text[at.at..];
        let mut ends = memmem::find_iter(rest.as_bytes(), END);
        // A closing tag that is not followed by another tag is part of the value.
        let end = ends.find(|&end| {
            let next = rest[end + END.len()..].trim_start();
            let is_cut = || next.len() < CLOSE.len() && cut_tag(next, "</function>") == next.len();
            let tags = ["<parameter=", "<parameter ", "</function>", "<function=", "</invoke>", "<invoke ", CLOSE];
            tags.iter().any(|tag| next.starts_with(tag)) || is_cut()
        })?;
        named.push((name.clone(), value(&name, &rest[..end])));
        at.at += end + END.len();
    }
    Some(Json::Object(named))
}

/// Parses a name and pairs of keys and values, and returns the call with the end position.
fn pairs(text: &str, inside: usize) -> Option<(Vec<Call>, usize)> {
    static NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\A\s*([\w.-]+)\s*<arg_key>").expect("it is valid"));
    static PAIR: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\A\s*<arg_key>([^<]*)</arg_key>\s*<arg_value>(?s:(.*?))</arg_value>").expect("it is valid")
    });
    let name = NAME.captures(&text[inside..])?.get(1)?;
    let mut at = inside + name.end();
    let mut named = Vec::new();
    while let Some(found) = PAIR.captures(&text[at..]) {
        let key = found[1].trim().to_owned();
        named.push((key.clone(), value(&key, &found[2])));
        at += found[0].len();
    }
    (!named.is_empty()).then(|| (vec![(name.as_str().to_owned(), Json::Object(named))], at))
}

/// Returns a parameter's value. The template adds a line break before and after it.
fn value(name: &str, text: &str) -> Json {
    let text = text.strip_prefix('\r').unwrap_or(text);
    let text = text.strip_prefix('\n').unwrap_or(text);
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match Json::read(text) {
        Some(Json::Text(_)) | None => Json::from(text),
        Some(_) if name == "code" => Json::from(text),
        Some(value) => value,
    }
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Skips white space and returns the rest of the text.
    fn rest(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        rest.trim_start()
    }

    /// Consumes `<tag=name>` or `<tag name="name">`, and the white space after it, if they come next. Returns the name.
    fn opening(&mut self, tag: &str) -> Option<String> {
        let name = self.opening_raw(tag)?;
        self.rest();
        Some(name)
    }

    /// Like `opening`, but keeps the white space after the tag.
    fn opening_raw(&mut self, tag: &str) -> Option<String> {
        let all = self.rest();
        let rest = all.strip_prefix('<')?.strip_prefix(tag)?;
        let rest = rest.strip_prefix('=').or_else(|| rest.strip_prefix(" name="))?;
        let (name, rest) = rest.split_once('>').filter(|(name, _)| name.len() < 200 && !name.contains(['<', '\n']))?;
        self.at += all.len() - rest.len();
        Some(name.trim().trim_matches(['"', '\'']).to_owned())
    }

    /// Consumes the tag, if it comes next. A partial tag at the end of the text counts.
    fn closing(&mut self, tag: &str) -> bool {
        let rest = self.rest();
        if rest.starts_with(tag) {
            self.at += tag.len();
            return true;
        }
        let is_cut = rest.len() < tag.len() && tag.starts_with(rest.trim_end());
        self.at += if is_cut { rest.len() } else { 0 };
        is_cut
    }
}
