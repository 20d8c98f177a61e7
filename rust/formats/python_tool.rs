//! Converts between a step's code and a tool call, for formats whose actions are tool calls.

use serde_json::{Value, json};

use crate::action::call::cell_of_json;
use crate::action::json::Json;

/// The name of the tool that runs a step's code.
pub const PYTHON: &str = "python";

/// Returns the tool's description in OpenAI's protocol.
pub fn python_tool() -> Value {
    let code = json!({"type": "string", "description": "Python code. Variables stay from call to call."});
    let parameters = json!({"type": "object", "properties": {"code": code}, "required": ["code"]});
    let description = "Run Python. Print what you want to see; final_answer(...) ends the work.";
    json!({"type": "function", "function": {"name": PYTHON, "description": description, "parameters": parameters}})
}

/// Returns a tool call as code. A call that cannot be written in Python is kept as text.
pub fn call_code(name: &str, arguments: &Json) -> String {
    cell_of_json(name, arguments).unwrap_or_else(|| format!("{name}({})", arguments.literal()))
}
