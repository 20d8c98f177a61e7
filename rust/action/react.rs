//! Parses ReAct's lines: `Thought: ...`, then `Action: Search[...]` or `Action: Finish[...]`, numbered or not.
//! LangChain's form in two lines, `Action: search` and `Action Input: ...`, is also accepted, and so is its structured
//! form, `Action:` and JSON with `action` and `action_input`.
//!
//! - **An action** is the first action after the thinking. It calls the tool with that name, in lower case, and passes
//!   the text as its argument; `search` means `web_search`. An `Action Input` extends to the next label (such as
//!   `Observation:`); if it is a JSON object, it holds keyword arguments. `Action: search("...")` is a call in Python.
//!   The text after the action is dropped, because the model invented it. `Action: None` is no action.
//! - **A final answer** is the argument of `Finish`, or else text that is marked as an answer (`plain_answer.rs`).
//! - **Thought** is the text before the action or the answer, without its label.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memchr2_iter;
use regex::{Captures, Regex};

use super::call::{cell, cell_of_json};
use super::code_tags::without_fence;
use super::json::{Json, Reader};
use super::plain_answer::plain_answer;
use super::python::end_of_brackets;
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
    let Some(Call { start, name, argument, form, .. }) = action else {
        if let Some(action) = structured(completion, body) {
            return action;
        }
        let (start, answer) = plain_answer(completion, body)
            .ok_or_else(|| FailureReason::no_action("Your reply has neither an action nor a final answer."))?;
        return Ok(Action::new(completion, thought(completion, 0..start), Act::Answer(answer)));
    };
    let argument = argument.ok_or_else(|| {
        FailureReason(ParseFailureKind::UnclosedCode, "Your action breaks off before its closing bracket.".into())
    })?;
    if argument.is_empty() && form != Form::Round {
        return Err(FailureReason(ParseFailureKind::EmptyCode, format!("Your action says nothing to {name}.")));
    }
    let thought = thought(completion, 0..start);
    if name == "finish" {
        let argument = if form == Form::Round { unquoted(completion, argument) } else { argument };
        return Ok(Action::new(completion, thought, Act::Answer(argument)));
    }
    let tool = tool(&name);
    let text = &completion[argument.clone()];
    let value = (form == Form::Input).then(|| Json::read_cut(text)).flatten();
    let cell = match value {
        _ if form == Form::Round && is_python(text) => Some(format!("print({tool}({text}))")),
        Some(named @ Json::Object(_)) => cell_of_json(tool, &named),
        Some(quoted @ Json::Text(_)) => cell(tool, &[quoted], &[]),
        _ => cell(tool, &[Json::from(text)], &[]),
    };
    let cell =
        cell.ok_or_else(|| FailureReason(ParseFailureKind::BadCall, format!("No tool can be called {name}.")))?;
    Ok(Action::new(completion, thought, Act::Cell(cell, vec![argument])))
}

/// Reads an action in JSON: `{"action": "search", "action_input": ...}`. The input is a text or keyword arguments.
fn structured(completion: &str, from: usize) -> Option<ParseResult> {
    static JSON: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?mi)^[ \t*]*action[ \t]*\**[ \t]*:\**\s*(?:```(?:json)?\s*)?\{").expect("it is valid")
    });
    let found = JSON.find_at(completion, from)?;
    let inside = found.end() - 1;
    let mut reader = Reader::new(&completion[inside..]);
    let Some(Json::Object(fields)) = reader.value() else {
        let what = "Your action is not a JSON object that ends.";
        return Some(Err(FailureReason(ParseFailureKind::BadCall, what.into())));
    };
    let field = |names: [&str; 2]| fields.iter().find(|(name, _)| names.contains(&&name[..])).map(|(_, value)| value);
    let name = field(["action", "name"])?.as_text()?.trim().to_lowercase();
    let input = field(["action_input", "arguments"]).cloned().unwrap_or_default();
    let tool = tool(&name);
    let is_argument = matches!(input, Json::Text(_)) || tool == "final_answer";
    let cell = if is_argument { cell(tool, &[input], &[]) } else { cell_of_json(tool, &input) };
    let act = cell.map(|cell| {
        let content = inside..inside + reader.position();
        Action::new(completion, thought(completion, from..found.start()), Act::Cell(cell, vec![content]))
    });
    Some(act.ok_or_else(|| FailureReason(ParseFailureKind::BadCall, format!("No tool can be called {name}."))))
}

/// Returns the tool that a name in lower case means.
fn tool(name: &str) -> &str {
    match name {
        "search" => "web_search",
        "finish" | "final answer" => "final_answer",
        name => name,
    }
}

/// Returns whether the text between round brackets is Python's arguments, not a text without quotes.
fn is_python(arguments: &str) -> bool {
    static PYTHON: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"\A(?:\z|[\["'{\d.-]|[frbuFRBU]{1,2}["']|[^\W\d]\w*\s*=[^=])"#).expect("it is valid")
    });
    PYTHON.is_match(arguments)
}

fn unquoted(text: &str, range: Range<usize>) -> Range<usize> {
    let inside = |quote| text[range.clone()].strip_prefix(quote)?.strip_suffix(quote);
    match inside('"').or_else(|| inside('\'')) {
        Some(answer) => range.start + 1..range.start + 1 + answer.len(),
        None => range,
    }
}

#[derive(PartialEq)]
enum Form {
    /// `Action: name[argument]`
    Square,
    /// `Action: name(arguments)`
    Round,
    /// `Action: name` and `Action Input: argument`
    Input,
}

/// An action in one of the forms.
struct Call {
    start: usize,
    /// In lower case.
    name: String,
    /// `None` if the bracket is not closed.
    argument: Option<Range<usize>>,
    form: Form,
    end: usize,
}

impl Call {
    /// Finds the first action at or after `from`.
    fn find(text: &str, from: usize) -> Option<Self> {
        static ACTION: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(
                r"(?ximR) ^[\ \t*]* action (?:[\ \t]*\d+)? [\ \t]*\**[\ \t]*[:：][\ \t]*\** [\ \t]*
                  (?:\r?\n[\ \t]*)? (?P<quote>[`\[]?) (?P<name>[a-z_][a-z0-9_\ ./-]*?) [`\]\ \t*]*
                  (?: (?P<bracket>[\[(])
                    | (?:\r?\n[\ \t]*)+ [*]* (?:action[\ \t_]*)?input (?:[\ \t]*\d+)? [\ \t]*\**[\ \t]*[:：][\ \t]*\** )",
            )
            .expect("it is valid")
        });
        // The text after the thinking starts a line.
        ACTION.captures_iter(&text[from..]).find_map(|found| Self::of(text, from, &found))
    }

    /// Returns `None` if the line is no action.
    fn of(text: &str, from: usize, found: &Captures<'_>) -> Option<Self> {
        let name = lower(found);
        let whole = found.get(0)?.start() + from..found.get(0)?.end() + from;
        let rest = whole.end..whole.end + next_label(&text[whole.end..]);
        let (form, range) = match found.name("bracket").map(|bracket| bracket.as_str()) {
            None if NONE.contains(&&name[..]) => return None,
            None => (Form::Input, Some(rest.clone())),
            Some("[") => (Form::Square, closing_bracket(&text[rest.clone()]).map(|end| rest.start..rest.start + end)),
            Some(_) => {
                let opens = whole.end - 1;
                let end = opens + end_of_brackets(&text[opens..rest.end])?;
                let ends_line =
                    text[end..].split('\n').next().is_none_or(|after| after.trim_matches('`').trim().is_empty());
                // Prose may have brackets, too.
                if name.contains(|c: char| !c.is_alphanumeric() && c != '_')
                    || found.name("name")?.end() + from != opens
                    || !ends_line
                {
                    return None;
                }
                (Form::Round, Some(whole.end..end - 1))
            }
        };
        let end = range.as_ref().map_or(rest.end, |range| range.end);
        let argument = range.map(|range| {
            let range = if form == Form::Input { without_fence(text, range) } else { range };
            trimmed_all(text, range)
        });
        Some(Self { start: whole.start, name, argument, form, end })
    }
}

/// What models write for no action, before the answer.
const NONE: [&str; 5] = ["none", "n/a", "null", "no_action", "nothing"];

fn lower(found: &Captures<'_>) -> String {
    found["name"].to_lowercase().replace(' ', "_")
}

/// Returns the start of the first line with a label that ends an action's argument.
fn next_label(text: &str) -> usize {
    static LABEL: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?ix) \n [\ \t*]* (?: observation | thought | action | final[\ \t]+answer )
              (?:[\ \t]*\d+)? [\ \t]*\**[\ \t]* (?: : | \z )",
        )
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
