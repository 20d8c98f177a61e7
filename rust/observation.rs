//! What running one cell did: data, never an exception.
//!
//! The sandbox makes observations; votes, filters and trajectories match on their kind. Nothing here runs code.

use serde::{Deserialize, Serialize};

/// How a cell ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObservationKind {
    /// It ran to its end.
    #[default]
    Value,
    /// It called `final_answer(...)`.
    FinalAnswer,
    /// It raised.
    Exception,
    /// It ran longer than its limit.
    Timeout,
    /// It wanted more memory than its limit: MemoryError, or a guest that trapped on it.
    OutOfMemory,
    /// A tool raised, and the cell did not catch it.
    ToolError,
    /// The guest trapped; the state after it is the state before it.
    Killed,
}

impl ObservationKind {
    /// Whether the cell did what it set out to do: such a candidate has a vote.
    pub fn succeeded(self) -> bool {
        matches!(self, Self::Value | Self::FinalAnswer)
    }
}

/// What a cell printed, returned, answered or raised. Strings are what Python's own `str`, `repr` and traceback give.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Observation {
    pub kind: ObservationKind,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// Characters dropped from the middle of `stdout`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub truncated: usize,
    /// `repr` of the last expression, when the cell ended in one that is not `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `str` of what `final_answer` was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_answer: Option<String>,
    /// The same as JSON, where JSON can say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_answer_json: Option<String>,
    /// Name of the exception's class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// The traceback, from the cell on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    #[serde(default)]
    pub seconds: f64,
}

/// One call of a tool by a cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct ToolCall {
    pub name: String,
    /// JSON: `[[positional], {keyword}]`.
    pub arguments: String,
    /// JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default)]
    pub seconds: f64,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}
