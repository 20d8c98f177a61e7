//! ReAct's lines: `Thought: ...`, then `Action: Search[...]` or `Action: Finish[...]`; numbered or not, and LangChain's
//! two lines `Action: search` and `Action Input: ...`.
//!
//! - **An action**, the first after the thinking, is a call of the tool of that name, in small letters, with the text as
//!   its argument; `search` is `web_search`. An `Action Input` goes on to the next label (`Observation:` and the like);
//!   one that is an object of JSON has the arguments by name. What follows the action is dropped: the model made it up.
//! - **A final answer**: that of `Finish`, else what is marked as one.
//! - **Thought**: what stands before either, without its label.

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
use super::{Act, Action, ParseFailureKind, Read, Unread};

pub const HOW: &str = "Write `Thought:` and what you think, then `Action: Search[...]`, another tool, or \
                       `Action: Finish[the answer]`.";

pub fn read(completion: &str) -> Read {
    let first_call = |from| Call::find(completion, from);
    let Reply::Spoken { body, action } = after_thinking(completion, first_call, |call| call.start..call.end) else {
        return Err(Unread::endless_thinking());
    };
    let Some(Call { start, name, argument, is_input, .. }) = action else {
        let (start, answer) = plain_answer(completion, body)
            .ok_or_else(|| Unread::no_action("Your reply has neither an action nor a final answer."))?;
        return Ok(Action::new(completion, thought(completion, 0..start), Act::Answer(answer)));
    };
    let argument = argument.ok_or_else(|| {
        Unread(ParseFailureKind::UnclosedCode, "Your action breaks off before its closing bracket.".into())
    })?;
    if argument.is_empty() {
        return Err(Unread(ParseFailureKind::EmptyCode, format!("Your action says nothing to {name}.")));
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
    let cell = cell.ok_or_else(|| Unread(ParseFailureKind::BadCall, format!("No tool can be called {name}.")))?;
    Ok(Action::new(completion, thought, Act::Cell(cell, vec![argument])))
}

/// `Action: name[argument]`, or the same in two lines.
struct Call {
    start: usize,
    /// In small letters.
    name: String,
    /// `None` where its bracket is not closed.
    argument: Option<Range<usize>>,
    /// Whether it is an `Action Input`.
    is_input: bool,
    end: usize,
}

impl Call {
    /// The first at `from` or later.
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
        let found = ACTION.captures(&text[from..])?; // what follows the thinking begins a line
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

/// Where the text's first line begins that is labelled as something other than an action's argument.
fn next_label(text: &str) -> usize {
    static LABEL: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?ix) \n [\ \t*]* (?: observation | thought | action | final[\ \t]+answer ) (?:[\ \t]*\d+)? [\ \t]*\**[\ \t]* (?: : | \z )")
            .expect("it is valid")
    });
    LABEL.find(text).map_or(text.len(), |label| label.start())
}

/// Where the argument ends whose opening bracket stands before the text: at the bracket that closes it, on whichever line
/// that is; else, or when more than the argument follows on its line, at the last bracket of the line.
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
