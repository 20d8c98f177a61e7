//! Parses the paper's format: `Thought:`, then `Code:` and a block of Python. smolagents uses the same format.
//!
//! - **Thought** is the text before the code, with an optional `Thought:` label. It includes a `<think>...</think>` at
//!   the start (`thinking.rs`), in which nothing counts as code. Thinking that never ends extends to the first block
//!   that `Code:` announces.
//! - **Code** is one or more blocks. A block starts on its own line with ```` ```py ````, ```` ```python ````,
//!   ```` ```python3 ```` or `<code>`, or with one of these inside another. A fence without a language counts only
//!   right after `Code:`. A block ends at its closing fence or tag, at `<end_code>`, or at an `Observation:` line;
//!   these do not count inside a Python string. An unclosed block is accepted if its brackets and strings are closed,
//!   because engines often cut off a stop sequence (`<end_code>`, or the fence itself). If the token limit cut the
//!   completion off, the caller should not trust such an action.
//! - **Several blocks** are joined with an empty line, as in smolagents, up to the first sign that the action is over:
//!   `<end_code>`, an `Observation:` or `Thought:` line, or a block in another language (```` ```output ````). The text
//!   after the action is dropped, because the model invented it. If a block follows `Code:`, earlier blocks belong to
//!   the Thought.
//! - **A call of `final_answer` without a block** counts as code, if there is no block (`unfenced.rs`).
//! - **A final answer in plain text**, if there is no code at all, is `<answer>...</answer>`; else the text after
//!   `Final answer:`, on the same line or the lines below it; else `\boxed{...}`, if all boxes of the text agree. The
//!   box is removed from the answer.

use std::ops::Range;

use memchr::{memchr, memchr2};

use super::plain_answer::plain_answer;
use super::python::{end_of_code, is_whole};
use super::tags::cut_tag;
use super::text::{loops, thought, trimmed};
use super::thinking::{Reply, after_thinking};
use super::unfenced::{Unfenced, unfenced_final_answer};
use super::{Act, Action, FailureReason, ParseFailureKind, ParseResult};

pub const INSTRUCTION: &str = "Write `Thought:` and what you think, then `Code:` and Python between ```py and ```<end_code>; \
                       give the answer with final_answer(...) in the code.";

/// The tag with which the model ends its code.
const END_CODE: &str = "<end_code>";
const END_TAG: &str = "</code>";

pub fn read(completion: &str) -> ParseResult {
    let blocks = |from| Some(Blocks::find(completion, from));
    let range = |found: &Blocks| found.blocks.first().map_or(completion.len()..completion.len(), Block::range);
    let (body, found) = match after_thinking(completion, blocks, range) {
        Reply::Spoken { body, action } => (Some(body), action.unwrap_or_default()),
        // Models forget to end their thinking, but a block after `Code:` is not a thought.
        Reply::Unended { start } => {
            let found = Blocks::find(completion, start);
            if found.blocks.iter().any(|block| block.announced) {
                (Some(start), found)
            } else {
                (None, Blocks::default())
            }
        }
    };
    if let Some(unclosed) = found.blocks.last().filter(|block| !block.closed)
        && (loops(completion) || !is_whole(&completion[unclosed.code.clone()]))
    {
        let what = "Your code breaks off before its end. Write shorter code, and close it with ``` and <end_code>.";
        return Err(FailureReason(ParseFailureKind::UnclosedCode, what.into()));
    }
    let code = found.code(completion);
    if let Some(first) = found.blocks.first().filter(|_| !code.is_empty()) {
        return Ok(Action::new(completion, thought(completion, 0..first.start), Act::cell(completion, code)));
    }
    match body.and_then(|body| unfenced_final_answer(completion, body)) {
        Some(Unfenced::Code { start, code }) => {
            return Ok(Action::new(completion, thought(completion, 0..start), Act::cell(completion, vec![code])));
        }
        Some(Unfenced::NeedsBlock) => return Err(FailureReason::no_action("Your code is not in a block.")),
        None => {}
    }
    if let Some((start, answer)) = body.and_then(|body| plain_answer(completion, body)) {
        return Ok(Action::new(completion, thought(completion, 0..start), Act::Answer(answer)));
    }
    Err(if !found.blocks.is_empty() {
        FailureReason(ParseFailureKind::EmptyCode, "Your code block is empty.".into())
    } else if body.is_none() {
        FailureReason::endless_thinking()
    } else if let Some(language) = found.foreign {
        FailureReason::no_action(if language.is_empty() {
            "Your code block does not say that it is Python.".to_owned()
        } else {
            format!("Your code block is marked `{language}`; only Python can be run.")
        })
    } else {
        FailureReason::no_action("Your reply has neither code nor a final answer.")
    })
}

/// Returns the code in fences, if the range starts with a fence. The range is the content of a pair of tags.
pub fn fenced(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    if !text[range.clone()].trim_start().starts_with("```") {
        return vec![];
    }
    let within = &text[..range.end];
    Blocks::find(within, range.start).code(within)
}

// ---- code blocks -------------------------------------------------------------------------------

struct Block {
    /// The start of the block's `Code:` label or, without a label, of its opening line.
    start: usize,
    code: Range<usize>,
    /// The position after the closing delimiter.
    end: usize,
    announced: bool,
    closed: bool,
}

impl Block {
    fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

#[derive(Default)]
struct Blocks<'a> {
    blocks: Vec<Block>,
    /// The language of a block that was skipped ("" if it has none).
    foreign: Option<&'a str>,
}

impl<'a> Blocks<'a> {
    /// Finds the blocks of the first action at or after `from`.
    fn find(text: &'a str, from: usize) -> Self {
        let mut found = Self::default();
        let mut at = from;
        let mut label = None; // the last `Code:` label, if only blank lines follow it
        while at < text.len() {
            let line_end = memchr(b'\n', &text.as_bytes()[at..]).map_or(text.len(), |length| at + length + 1);
            let line = &text[at..line_end];
            let Some(opener) = Opener::read(line) else {
                if !found.blocks.is_empty() && is_over(line) {
                    break;
                }
                if !line.trim_start().is_empty() {
                    label = is_code_label(line).then_some(at);
                }
                at = line_end;
                continue;
            };
            let announced = label.is_some() || opener.labelled;
            let start = label.take().unwrap_or(at);
            let inside = at + opener.length;
            if opener.contains_another(&text[inside..]) {
                label = Some(start);
                at = inside;
                continue;
            }
            if opener.is_python || opener.language.is_some_and(str::is_empty) && announced {
                let (code, next) = closing(text, inside, opener.ticks);
                if announced && !found.blocks.iter().any(|block| block.announced) {
                    found.blocks.clear();
                }
                let end = next.unwrap_or(text.len());
                found.blocks.push(Block { start, code: inside..code, end, announced, closed: next.is_some() });
                let Some(next) = next else { break };
                at = next;
                // `<end_code>` on the closing line ends the action; other text there is ignored.
                if text[at..].trim_start().starts_with(END_CODE) || text[code..at].ends_with(END_CODE) {
                    break;
                }
            } else {
                if !found.blocks.is_empty() {
                    break;
                }
                found.foreign = opener.language;
                at = foreign_end(text, inside, opener.ticks);
            }
        }
        found
    }

    fn code(&self, text: &str) -> Vec<Range<usize>> {
        let trimmed = self.blocks.iter().map(|block| trimmed(text, block.code.clone()));
        trimmed.filter(|code| !code.is_empty()).collect()
    }
}

struct Opener<'a> {
    /// The number of backticks of the fence; 0 for `<code>`.
    ticks: usize,
    is_python: bool,
    language: Option<&'a str>,
    labelled: bool,
    /// The number of bytes of the line before the code.
    length: usize,
}

impl<'a> Opener<'a> {
    fn read(line: &'a str) -> Option<Self> {
        memchr2(b'`', b'<', line.as_bytes())?; // most lines have neither
        let after_label = after_label(line, CODE_LABEL);
        let (rest, labelled) = (after_label.unwrap_or(line.trim_start()), after_label.is_some());
        if let Some(rest) = rest.strip_prefix("<code>") {
            let rest = rest.trim_start_matches([' ', '\t']);
            let length = line.len() - rest.strip_prefix('\n').unwrap_or(rest).len();
            return Some(Self { ticks: 0, is_python: true, language: None, labelled, length });
        }
        let marked = rest.trim_start_matches('`');
        let ticks = rest.len() - marked.len();
        // A fence fills the rest of its line. Text after `<code>` on the same line is code.
        if ticks < 3 || marked.contains('`') {
            return None;
        }
        let language = marked.trim_start_matches([' ', '\t']).split(char::is_whitespace).next().unwrap_or_default();
        Some(Self { ticks, is_python: is_python(language), language: Some(language), labelled, length: line.len() })
    }
}

impl Opener<'_> {
    /// Returns whether the next thing is a fence within `<code>`, or `<code>` within a fence. The inner one then holds
    /// the code.
    fn contains_another(&self, rest: &str) -> bool {
        let rest = rest.trim_start();
        let next = || Opener::read(rest.split_inclusive('\n').next().unwrap_or_default());
        match self.ticks {
            0 => rest.starts_with("```") && next().is_some_and(|next| next.is_python || next.language == Some("")),
            _ => self.is_python && rest.starts_with("<code>") && next().is_some(),
        }
    }
}

/// Returns whether a fence's language is Python: `py`, `python3`, `{.python}`, or Gemma's `tool_code`.
fn is_python(language: &str) -> bool {
    let name = language.strip_prefix('{').unwrap_or(language);
    let name = name.strip_prefix('.').unwrap_or(name);
    let name = name.strip_suffix('}').unwrap_or(name);
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    ["py", "python", "ipython", "tool_code"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

pub const CODE_LABEL: &[&str] = &["code"];

/// Returns the text after a label such as `Code:`, if the text starts with one. Spaces and Markdown's `*` and `#`
/// around the label are ignored.
pub fn after_label<'a>(text: &'a str, words: &[&str]) -> Option<&'a str> {
    fn past_stars(text: &str) -> &str {
        text.trim_start().trim_start_matches('*').trim_start()
    }
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || c == '*' || c == '#');
    let length = text.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (word, rest) = text.split_at(length);
    words.iter().find(|known| known.eq_ignore_ascii_case(word))?;
    past_stars(rest).strip_prefix(':').map(past_stars)
}

pub fn is_code_label(line: &str) -> bool {
    line.trim_end().ends_with([':', '*']) && after_label(line, CODE_LABEL).is_some_and(str::is_empty)
}

/// Returns whether the line shows that the action before it is over.
pub fn is_over(line: &str) -> bool {
    let tag = line.trim_start().as_bytes().get(..END_CODE.len());
    tag.is_some_and(|tag| tag.eq_ignore_ascii_case(END_CODE.as_bytes()))
        || after_label(line, &["observation", "observations", "thought", "thoughts"]).is_some()
}

/// Returns the end of a block in another language: after its closing fence or, without one, before the next Python
/// block.
fn foreign_end(text: &str, from: usize, ticks: usize) -> usize {
    let mut at = from;
    let mut label = None;
    for line in text[from..].split_inclusive('\n') {
        if Opener::read(line).is_some_and(|opener| opener.is_python) {
            return label.unwrap_or(at);
        }
        let body = line.trim();
        if body.len() >= ticks && body.bytes().all(|byte| byte == b'`') {
            return at + line.len();
        }
        if !body.is_empty() {
            label = is_code_label(line).then_some(at);
        }
        at += line.len();
    }
    text.len()
}

/// Returns the end of the code that starts at `from`, and the position after its closing delimiter.
///
/// `ticks` backticks close a fence, at the start of a line or the end of a line of code. `</code>` closes `<code>`
/// (`ticks` is 0). Models mix the two, so at the start of a line each closes the other. `<end_code>` and an
/// `Observation:` line close both. A fence that opens another block closes this one, and is not consumed.
fn closing(text: &str, from: usize, ticks: usize) -> (usize, Option<usize>) {
    match end_of_code(text, from, |rest, line_start| closer(rest, line_start, ticks)) {
        Some((end, next)) => (end, Some(next)),
        None => (without_cut_closer(text, from, ticks), None),
    }
}

/// Returns the length of the closing delimiter at the start of the text, if there is one.
fn closer(rest: &str, line_start: bool, ticks: usize) -> Option<usize> {
    match rest.as_bytes()[0] {
        b'<' if rest.starts_with(END_CODE) => Some(END_CODE.len()),
        b'<' if (ticks == 0 || line_start) && rest.starts_with(END_TAG) => Some(END_TAG.len()),
        b'`' if ticks == 0 => {
            let count = rest.bytes().take_while(|&byte| byte == b'`').count();
            let line = rest[count..].split('\n').next().unwrap_or_default().trim();
            (line_start && count >= 3 && (line.is_empty() || line.starts_with('<'))).then_some(count)
        }
        b'`' => {
            let count = rest.bytes().take_while(|&byte| byte == b'`').count();
            let after = rest[count..].trim_start_matches([' ', '\t', '\r']);
            let ends_line = after.is_empty() || after.starts_with('\n');
            if count < ticks || !(line_start || ends_line || after.starts_with(END_CODE)) {
                None
            } else if !ends_line && !after.starts_with('<') {
                Some(0)
            } else {
                Some(count)
            }
        }
        b'O' if line_start && rest.starts_with("Observation:") => Some(0),
        _ => None,
    }
}

/// Returns the end of unclosed code, less a partial closing delimiter that a stop sequence left.
fn without_cut_closer(text: &str, from: usize, ticks: usize) -> usize {
    let code = text[from..].trim_end();
    let closers: &[&str] = if ticks == 0 { &[END_TAG, END_CODE] } else { &["```", END_CODE] };
    let last_line = code.rfind('\n').map_or(0, |newline| newline + 1);
    let tail = code[last_line..].trim_start();
    if !tail.is_empty() && closers.iter().any(|closer| closer.starts_with(tail)) {
        return from + code.len() - tail.len();
    }
    let cut = closers.iter().map(|closer| cut_tag(code, closer)).find(|&cut| cut > 1);
    from + code.len() - cut.unwrap_or(0)
}
