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
    /// JSON: `[[positional], {keyword}]`. Of this, as of the result, the middle is left out where it is very long.
    pub arguments: String,
    /// JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default)]
    pub seconds: f64,
}

impl ToolCall {
    /// Bytes that are recorded of each text of a call.
    pub const MAX_TEXT: usize = 32 << 10;
    /// Bytes that are recorded of the texts of all calls of a cell.
    pub const MAX_CELL: usize = 512 << 10;

    /// The call as it is recorded: its texts without their middle where they are too long. `room` is what is left of
    /// [`ToolCall::MAX_CELL`].
    pub(crate) fn recorded(mut self, room: &mut usize) -> Self {
        let texts = [Some(&mut self.arguments), self.result.as_mut(), self.error.as_mut()];
        for text in texts.into_iter().flatten() {
            clip(text, Self::MAX_TEXT.min(*room));
            *room = room.saturating_sub(text.len());
        }
        self
    }
}

/// Drops the middle of what is longer than `max` bytes, as of a cell's output.
fn clip(text: &mut String, max: usize) {
    if text.len() > max {
        let (start, end) = (text.floor_char_boundary(max / 2), text.ceil_char_boundary(text.len() - max / 2));
        let gap = format!("\n[... {} characters left out ...]\n", text[start..end].chars().count());
        text.replace_range(start..end, &gap);
    }
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cell_hands_to_tools_is_recorded_up_to_a_limit() {
        let mut room = ToolCall::MAX_CELL;
        let call = |text: &str| ToolCall { arguments: text.into(), result: Some(text.into()), ..ToolCall::default() };
        assert_eq!(call("é").recorded(&mut room), call("é"));
        let long = "é".repeat(1 << 20);
        let calls: Vec<ToolCall> = (0..64).map(|_| call(&long).recorded(&mut room)).collect();
        let texts = calls.iter().flat_map(|call| [Some(&call.arguments), call.result.as_ref()]).flatten();
        let bytes: usize = texts.map(String::len).sum();
        assert!(bytes < ToolCall::MAX_CELL + 64 * 2 * 60, "{bytes}");
        assert!(calls[0].arguments.starts_with("éé") && calls[0].arguments.ends_with("éé"));
        assert!(
            calls[0].arguments.contains("\n[... 1032192 characters left out ...]\n"),
            "{}",
            &calls[0].arguments[16380..]
        );
        assert_eq!(calls[63].arguments, "\n[... 1048576 characters left out ...]\n");
    }
}
