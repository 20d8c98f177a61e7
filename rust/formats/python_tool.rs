//! How is a step's code written in formats whose actions are calls of tools, and how does a call become code?

use serde_json::{Value, json};

use crate::action::call::cell_of_json;
use crate::action::json::Json;

/// Name of the tool that runs a step's code, in formats where actions are calls.
pub const PYTHON: &str = "python";

/// That tool, as OpenAI's protocol describes tools.
pub fn python_tool() -> Value {
    let code = json!({"type": "string", "description": "Python code. Variables stay from call to call."});
    let parameters = json!({"type": "object", "properties": {"code": code}, "required": ["code"]});
    let description = "Run Python. Print what you want to see; final_answer(...) ends the work.";
    json!({"type": "function", "function": {"name": PYTHON, "description": description, "parameters": parameters}})
}

/// A call of a tool as code. A call that cannot be written as Python is kept as it was.
pub fn call_code(name: &str, arguments: &Json) -> String {
    cell_of_json(name, arguments).unwrap_or_else(|| format!("{name}({})", arguments.literal()))
}
