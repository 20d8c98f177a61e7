//! Parses the text of a completion into an [`Action`] or a [`ParseFailure`].
//!
//! Parsing is total: every text gives one of the two, in time that is nearly linear in its length.
//!
//! Models write actions in several formats ([`ActionFormat`]), and each format has its own file, which documents its
//! rules. In every format, an action is a Thought plus either a cell to run or a final answer in plain text. A tool
//! call becomes the cell that makes the call (`call.rs`), so the sandbox, the vote and States treat all formats alike.
//!
//! This module does not check whether a cell is valid Python; the sandbox has the real parser. Shell and SQL blocks
//! give `no_action`.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use text::{dedent, in_characters, joined, loops};

pub mod call;
mod code_tags;
pub mod json;
mod native_calls;
mod plain_answer;
mod python;
mod react;
mod search_tags;
mod tags;
mod text;
mod thinking;
mod thought_code;
mod tool_call;
mod unfenced;

/// A parsed completion: a Thought, and either code to run or a final answer in plain text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Action {
    pub thought: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_answer: Option<String>,
    /// Ranges of the completion in characters, sorted and disjoint. Labels, fences and tags belong to no range.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spans: Vec<(SpanKind, usize, usize)>,
    /// The format in which the completion was parsed.
    #[serde(default, skip_serializing_if = "ActionFormat::is_code")]
    pub format: ActionFormat,
}

/// The part of an action that a range of the completion holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanKind {
    Thought,
    Code,
    FinalAnswer,
}

/// The reason why a completion is not an action. The message is addressed to the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct ParseFailure {
    pub kind: ParseFailureKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParseFailureKind {
    /// The completion is empty or white space.
    Empty,
    /// The completion has neither code nor a final answer.
    NoAction,
    /// The completion ends before its code does.
    UnclosedCode,
    /// The completion has code blocks, but all of them are empty.
    EmptyCode,
    /// A call names no tool, or its arguments cannot be parsed.
    BadCall,
    /// The completion ends in a loop, with no action before it.
    Repetition,
}

/// The result of [`parse_action`]. In JSON it is untagged: the fields of an action or those of a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, try_from = "Fields")]
#[cfg_attr(feature = "python", derive(pyo3::FromPyObject, pyo3::IntoPyObject))]
pub enum Parsed {
    Action(Action),
    Failure(ParseFailure),
}

/// The fields of both variants. They are deserialized once, and then decide the variant.
#[derive(Deserialize)]
struct Fields {
    thought: Option<String>,
    code: Option<String>,
    final_answer: Option<String>,
    #[serde(default)]
    spans: Vec<(SpanKind, usize, usize)>,
    #[serde(default)]
    format: ActionFormat,
    kind: Option<ParseFailureKind>,
    message: Option<String>,
}

impl TryFrom<Fields> for Parsed {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        let Fields { thought, code, final_answer, spans, format, kind, message } = fields;
        match (thought, kind, message) {
            (Some(thought), ..) => Ok(Self::Action(Action { thought, code, final_answer, spans, format })),
            (None, Some(kind), Some(message)) => Ok(Self::Failure(ParseFailure { kind, message })),
            _ => Err("an action has a thought, and a failure to parse one a kind and a message"),
        }
    }
}

/// The format in which a model writes its actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionFormat {
    /// The paper's `Thought:` and `Code:`.
    #[default]
    Code,
    /// JSON between `<tool_call>` tags (Hermes, Qwen).
    ToolCall,
    /// A query between `<search>` tags (Search-R1, R1-Searcher).
    SearchTags,
    /// Python between `<execute>`, `<python>` or `<code>` tags (CodeAct, MathCoder).
    CodeTags,
    /// `Action: Search[...]` (ReAct).
    React,
}

impl ActionFormat {
    fn is_code(&self) -> bool {
        *self == Self::Code
    }

    fn read(self, completion: &str) -> ParseResult {
        match self {
            Self::Code => thought_code::read(completion),
            Self::ToolCall => tool_call::read(completion),
            Self::SearchTags => search_tags::read(completion),
            Self::CodeTags => code_tags::read(completion),
            Self::React => react::read(completion),
        }
    }

    /// Instructions for a model that wrote something else.
    fn instruction(self) -> &'static str {
        match self {
            Self::Code => thought_code::INSTRUCTION,
            Self::ToolCall => tool_call::INSTRUCTION,
            Self::SearchTags => search_tags::INSTRUCTION,
            Self::CodeTags => code_tags::INSTRUCTION,
            Self::React => react::INSTRUCTION,
        }
    }
}

/// Parses one completion. The module of each format documents its rules.
pub fn parse_action(completion: &str, format: ActionFormat) -> Parsed {
    let read = if completion.trim().is_empty() {
        Err(FailureReason(ParseFailureKind::Empty, "Your reply was empty.".into()))
    } else {
        format.read(completion)
    };
    let FailureReason(kind, what) = match read {
        Ok(action) => return Parsed::Action(Action { format, ..action }),
        Err(_) if loops(completion) => FailureReason(
            ParseFailureKind::Repetition,
            "Your reply repeats itself without end. Try another way.".into(),
        ),
        Err(reason) => reason,
    };
    Parsed::Failure(ParseFailure { kind, message: format!("{what} {}", format.instruction()) })
}

/// Returns the text without thinking tags and `Thought:` labels.
pub fn thought_text(text: &str) -> String {
    joined(text::thought(text, 0..text.len()).into_iter().map(|range| text[range].into()), "\n")
}

/// The result of a format's parser.
type ParseResult = Result<Action, FailureReason>;

/// The kind of a failure, and a sentence about it for the model.
struct FailureReason(ParseFailureKind, String);

impl FailureReason {
    fn no_action(what: impl Into<String>) -> Self {
        Self(ParseFailureKind::NoAction, what.into())
    }

    fn endless_thinking() -> Self {
        Self::no_action("Your thinking did not end: <think> without </think>. Think less, then act.")
    }
}

/// The cell or the answer of an action, and its ranges in the text.
enum Act {
    Cell(String, Vec<Range<usize>>),
    Answer(Range<usize>),
}

impl Act {
    /// Returns the cell whose code is these ranges of the text, joined in order.
    fn cell(text: &str, ranges: Vec<Range<usize>>) -> Self {
        Self::Cell(joined(ranges.iter().map(|range| dedent(&text[range.clone()])), "\n\n"), ranges)
    }
}

impl Action {
    fn new(text: &str, thought: Vec<Range<usize>>, act: Act) -> Self {
        let (code, code_ranges, answer) = match act {
            Act::Cell(code, ranges) => (Some(code), ranges, None),
            Act::Answer(range) => (None, vec![], Some(range)),
        };
        let spans = std::iter::empty()
            .chain(thought.iter().map(|range| (SpanKind::Thought, range)))
            .chain(code_ranges.iter().map(|range| (SpanKind::Code, range)))
            .chain(answer.iter().map(|range| (SpanKind::FinalAnswer, range)));
        Self {
            spans: in_characters(text, spans),
            thought: joined(thought.iter().map(|range| text[range.clone()].into()), "\n"),
            code,
            final_answer: answer.map(|range| text[range].to_owned()),
            format: ActionFormat::default(),
        }
    }
}
