//! Observation and ToolCall in Python.

use pyo3::prelude::*;

use super::{AnyText, field, spelling};
use crate::observation::{Observation, ObservationKind, ToolCall};

#[pymethods]
impl Observation {
    #[new]
    #[pyo3(signature = (kind, *, stdout = AnyText::default(), truncated = 0, value = None, final_answer = None,
        final_answer_json = None, error_type = None, error = None, tool_calls = vec![], seconds = 0.0),
        text_signature = "(kind, *, stdout='', truncated=0, value=None, final_answer=None, final_answer_json=None, \
        error_type=None, error=None, tool_calls=(), seconds=0.0)")]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn py_new(
        kind: ObservationKind,
        stdout: AnyText,
        truncated: usize,
        value: Option<AnyText>,
        final_answer: Option<AnyText>,
        final_answer_json: Option<AnyText>,
        error_type: Option<AnyText>,
        error: Option<AnyText>,
        tool_calls: Vec<ToolCall>,
        seconds: f64,
    ) -> Self {
        let [value, final_answer, final_answer_json, error_type, error] =
            [value, final_answer, final_answer_json, error_type, error].map(|text| text.map(String::from));
        let stdout = stdout.into();
        Self { kind, stdout, truncated, value, final_answer, final_answer_json, error_type, error, tool_calls, seconds }
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists are always JSON")
    }

    fn __repr__(&self) -> String {
        format!(
            "Observation({:?}{}{}{}{}{})",
            spelling(&self.kind),
            field("final_answer", self.final_answer.as_deref()),
            field("value", self.value.as_deref()),
            field("stdout", Some(&self.stdout)),
            field("error_type", self.error_type.as_deref()),
            field("error", self.error.as_deref()),
        )
    }
}

#[pymethods]
impl ToolCall {
    fn __repr__(&self) -> String {
        let result = field("result", self.result.as_deref());
        format!(
            "ToolCall({:?}, arguments={}{result}{})",
            self.name,
            self.arguments,
            field("error", self.error.as_deref())
        )
    }
}
