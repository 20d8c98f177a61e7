//! Completion text -> [`Action`] or [`ParseFailure`]. Total: any text gives one of the two, quickly.
//!
//! Models write actions in several forms ([`ActionFormat`]); each has a file that says what is understood. Whatever the
//! form, an action is a Thought and either a cell to run or a final answer in plain text: a call of a tool is the cell
//! that makes the call (call.rs), so that sandbox, vote and States are the same for all.
//!
//! Not here: whether a cell is valid Python (the sandbox has the real parser); shell and SQL, which give `no_action`.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use text::{dedent, in_characters, joined, loops};

pub mod call;
mod code_tags;
pub mod json;
mod plain_answer;
mod python;
mod react;
mod search_tags;
mod tags;
mod text;
mod thinking;
mod thought_code;
mod tool_call;

/// A completion understood: a Thought, and either code to run or a final answer in plain text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Action {
    pub thought: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_answer: Option<String>,
    /// Ranges of the completion in characters, in order, disjoint; labels, fences and tags are outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spans: Vec<(SpanKind, usize, usize)>,
    /// What it was read as.
    #[serde(default, skip_serializing_if = "ActionFormat::is_code")]
    pub format: ActionFormat,
}

/// What a range of a completion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanKind {
    Thought,
    Code,
    FinalAnswer,
}

/// Why a completion is no action. The message is written for the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct ParseFailure {
    pub kind: ParseFailureKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParseFailureKind {
    /// Nothing but white space.
    Empty,
    /// Neither code nor a final answer.
    NoAction,
    /// The text ends within the code.
    UnclosedCode,
    /// Code blocks, but nothing in them.
    EmptyCode,
    /// A call that names no tool, or whose arguments cannot be read.
    BadCall,
    /// The text ends in a loop, without an action before it.
    Repetition,
}

/// What [`parse_action`] makes of a completion. In JSON, the one or the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, try_from = "Fields")]
#[cfg_attr(feature = "python", derive(pyo3::FromPyObject, pyo3::IntoPyObject))]
pub enum Parsed {
    Action(Action),
    Failure(ParseFailure),
}

/// The fields of both: which of the two it is shows when all are read, so that nothing need be read twice.
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

/// The form in which a model writes its actions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionFormat {
    /// the paper's Thought and Code.
    #[default]
    Code,
    /// JSON between `<tool_call>` tags (Hermes, Qwen).
    ToolCall,
    /// a query between `<search>` tags (Search-R1, R1-Searcher).
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

    fn read(self, completion: &str) -> Read {
        match self {
            Self::Code => thought_code::read(completion),
            Self::ToolCall => tool_call::read(completion),
            Self::SearchTags => search_tags::read(completion),
            Self::CodeTags => code_tags::read(completion),
            Self::React => react::read(completion),
        }
    }

    /// What to tell a model that wrote something else.
    fn how(self) -> &'static str {
        match self {
            Self::Code => thought_code::HOW,
            Self::ToolCall => tool_call::HOW,
            Self::SearchTags => search_tags::HOW,
            Self::CodeTags => code_tags::HOW,
            Self::React => react::HOW,
        }
    }
}

/// Reads one completion; see the format's own file for the rules.
pub fn parse_action(completion: &str, format: ActionFormat) -> Parsed {
    let read = if completion.trim().is_empty() {
        Err(Unread(ParseFailureKind::Empty, "Your reply was empty.".into()))
    } else {
        format.read(completion)
    };
    let Unread(kind, what) = match read {
        Ok(action) => return Parsed::Action(Action { format, ..action }),
        Err(_) if loops(completion) => {
            Unread(ParseFailureKind::Repetition, "Your reply repeats itself without end. Try another way.".into())
        }
        Err(unread) => unread,
    };
    Parsed::Failure(ParseFailure { kind, message: format!("{what} {}", format.how()) })
}

/// A text without the tags around thinking and without labels `Thought:`.
pub fn spoken(text: &str) -> String {
    joined(text::thought(text, 0..text.len()).into_iter().map(|range| text[range].into()), "\n")
}

/// What a format makes of a completion.
type Read = Result<Action, Unread>;

/// Why it is no action, in a sentence for the model.
struct Unread(ParseFailureKind, String);

impl Unread {
    fn no_action(what: impl Into<String>) -> Self {
        Self(ParseFailureKind::NoAction, what.into())
    }

    fn endless_thinking() -> Self {
        Self::no_action("Your thinking did not end: <think> without </think>. Think less, then act.")
    }
}

/// What to do, and where that stands.
enum Act {
    Cell(String, Vec<Range<usize>>),
    Answer(Range<usize>),
}

impl Act {
    /// The cell that is these ranges of the text, one after another.
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
