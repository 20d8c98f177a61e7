//! The result of running one cell. It is data, never an exception.
//!
//! The sandbox creates observations. The vote, filters and trajectories match on their kind. Nothing in this module
//! runs code.

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
    /// It raised an exception.
    Exception,
    /// It ran longer than its time limit.
    Timeout,
    /// It needed more memory than its limit: `MemoryError`, or a trap of the guest for lack of memory.
    OutOfMemory,
    /// A tool raised an exception that the cell did not catch.
    ToolError,
    /// The guest trapped. The State after the cell is the State before it.
    Killed,
}

impl ObservationKind {
    /// Returns whether the cell completed. Only such a candidate has a vote.
    pub fn succeeded(self) -> bool {
        matches!(self, Self::Value | Self::FinalAnswer)
    }
}

/// What a cell printed, returned, answered or raised. The strings come from Python's own `str`, `repr` and traceback.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Observation {
    pub kind: ObservationKind,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// The number of characters dropped from the middle of `stdout`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub truncated: usize,
    /// The `repr` of the cell's last expression, if the cell ended in an expression whose value is not `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The `str` of the argument of `final_answer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_answer: Option<String>,
    /// The same argument as JSON, if JSON can represent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_answer_json: Option<String>,
    /// The name of the exception's class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// The traceback, starting at the cell.
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
    /// JSON: `[[positional], {keyword}]`. If the arguments or the result are very long, their middle is left out.
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
    /// The maximum number of bytes recorded of each text of a call.
    pub const MAX_TEXT: usize = 32 << 10;
    /// The maximum number of bytes recorded of all texts of a cell's calls.
    pub const MAX_CELL: usize = 512 << 10;

    /// Returns the call as it is recorded, with the middle of long texts left out. `room` is what remains of
    /// [`ToolCall::MAX_CELL`], and is reduced.
    pub(crate) fn recorded(mut self, room: &mut usize) -> Self {
        let texts = [Some(&mut self.arguments), self.result.as_mut(), self.error.as_mut()];
        for text in texts.into_iter().flatten() {
            clip(text, Self::MAX_TEXT.min(*room));
            *room = room.saturating_sub(text.len());
        }
        self
    }
}

/// Drops the middle of a text that is longer than `max` bytes, as is done for a cell's output.
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
