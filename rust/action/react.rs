//! Parses ReAct's lines: `Thought: ...`, then `Action: Search[...]` or `Action: Finish[...]`, numbered or not.
//! LangChain's form in two lines, `Action: search` and `Action Input: ...`, is also accepted.
//!
//! - **An action** is the first action after the thinking. It calls the tool with that name, in lower case, and passes
//!   the text as its argument; `search` means `web_search`. An `Action Input` extends to the next label (such as
//!   `Observation:`); if it is a JSON object, it holds keyword arguments. The text after the action is dropped, because
//!   the model invented it.
//! - **A final answer** is the argument of `Finish`, or else text that is marked as an answer (`plain_answer.rs`).
//! - **Thought** is the text before the action or the answer, without its label.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memchr2_iter;
use regex::{Captures, Regex};

use super::call::{cell, cell_of_json};
use super::code_tags::without_fence;
use super::json::Json;
use super::plain_answer::plain_answer;
use super::text::{thought, trimmed_all};
use super::thinking::{Reply, after_thinking};
use super::{Act, Action, FailureReason, ParseFailureKind, ParseResult};

pub const INSTRUCTION: &str = "Write `Thought:` and what you think, then `Action: Search[...]`, another tool, or \
                       `Action: Finish[the answer]`.";

pub fn read(completion: &str) -> ParseResult {
    let first_call = |from| Call::find(completion, from);
    let Reply::Spoken { body, action } = after_thinking(completion, first_call, |call| call.start..call.end) else {
        return Err(FailureReason::endless_thinking());
    };
    let Some(Call { start, name, argument, is_input, .. }) = action else {
        let (start, answer) = plain_answer(completion, body)
            .ok_or_else(|| FailureReason::no_action("Your reply has neither an action nor a final answer."))?;
        return Ok(Action::new(completion, thought(completion, 0..start), Act::Answer(answer)));
    };
    let argument = argument.ok_or_else(|| {
        FailureReason(ParseFailureKind::UnclosedCode, "Your action breaks off before its closing bracket.".into())
    })?;
    if argument.is_empty() {
        return Err(FailureReason(ParseFailureKind::EmptyCode, format!("Your action says nothing to {name}.")));
    }
    let thought = thought(completion, 0..start);
    if name == "finish" {
        return Ok(Action::new(completion, thought, Act::Answer(argument)));
    }
    let tool = if name == "search" { "web_search" } else { &name };
    let text = &completion[argument.clone()];
    let cell = match Json::read(text).filter(|_| is_input) {
        Some(named @ Json::Object(_)) => cell_of_json(tool, &named),
        Some(quoted @ Json::Text(_)) => cell(tool, &[quoted], &[]),
        _ => cell(tool, &[Json::from(text)], &[]),
    };
    let cell =
        cell.ok_or_else(|| FailureReason(ParseFailureKind::BadCall, format!("No tool can be called {name}.")))?;
    Ok(Action::new(completion, thought, Act::Cell(cell, vec![argument])))
}

/// An action: `Action: name[argument]`, or the same in two lines.
struct Call {
    start: usize,
    /// In lower case.
    name: String,
    /// `None` if the bracket is not closed.
    argument: Option<Range<usize>>,
    /// Whether the argument is an `Action Input`.
    is_input: bool,
    end: usize,
}

impl Call {
    /// Finds the first action at or after `from`.
    fn find(text: &str, from: usize) -> Option<Self> {
        static ACTION: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(
                r"(?ximR) ^[\ \t*]* action (?:[\ \t]*\d+)? [\ \t]*\**[\ \t]*:[\ \t]*\** [\ \t]*
                  (?P<name>[a-z_][a-z0-9_\ ./-]*?) [\ \t*]*
                  (?: (?P<bracket>\[)
                    | (?:\r?\n[\ \t]*)+ [*]* action[\ \t]+input (?:[\ \t]*\d+)? [\ \t]*\**[\ \t]*:[\ \t]*\** )",
            )
            .expect("it is valid")
        });
        let found = ACTION.captures(&text[from..])?; // the text after the thinking starts a line
        let whole = found.get(0)?.start() + from..found.get(0)?.end() + from;
        let is_input = found.name("bracket").is_none();
        let rest = whole.end..whole.end + next_label(&text[whole.end..]);
        let argument = if is_input {
            Some(rest.clone())
        } else {
            closing_bracket(&text[rest.clone()]).map(|end| rest.start..rest.start + end)
        };
        let end = argument.as_ref().map_or(rest.end, |argument| argument.end);
        let argument = argument.map(|range| {
            let range = if is_input { without_fence(text, range) } else { range };
            trimmed_all(text, range)
        });
        Some(Self { start: whole.start, name: lower(&found), argument, is_input, end })
    }
}

fn lower(found: &Captures<'_>) -> String {
    found["name"].to_lowercase().replace(' ', "_")
}

/// Returns the start of the first line with a label that ends an action's argument.
fn next_label(text: &str) -> usize {
    static LABEL: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?ix) \n [\ \t*]* (?: observation | thought | action | final[\ \t]+answer ) (?:[\ \t]*\d+)? [\ \t]*\**[\ \t]* (?: : | \z )")
            .expect("it is valid")
    });
    LABEL.find(text).map_or(text.len(), |label| label.start())
}

/// Returns the end of the argument whose opening bracket is just before the text. The argument ends at the matching
/// bracket, on any line. If there is none, or if other text follows on the same line, it ends at the last bracket of
/// that line.
fn closing_bracket(text: &str) -> Option<usize> {
    let mut depth = 1;
    let balanced = memchr2_iter(b'[', b']', text.as_bytes()).find(|&at| {
        if text.as_bytes()[at] == b'[' {
            depth += 1
        } else {
            depth -= 1
        }
        depth == 0
    });
    let from = balanced.unwrap_or(0);
    let line_end = text[from..].find('\n').map_or(text.len(), |length| from + length);
    text[..line_end].rfind(']').filter(|&last| balanced.is_none_or(|balanced| last >= balanced))
}
