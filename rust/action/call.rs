//! Converts a tool call into the cell that makes the call and prints its result.
//!
//! `web_search` with `{"query": "x", "k": 2}` becomes `print(web_search(query="x", k=2))`. A call of a Python
//! interpreter becomes the code that it passes, without the fence around it, if there is one. A call of `final_answer`
//! is not printed, because it ends the episode.

use super::code_tags::without_fence;
use super::json::Json;
use super::text::dedent;

/// Names under which agents are offered a Python interpreter. A tool whose only argument is `code` counts as one, too.
const INTERPRETERS: [&str; 5] = ["python", "python_interpreter", "code_interpreter", "run_python", "execute_python"];

/// Python's keywords, which cannot be argument names.
const KEYWORDS: &str = " False None True and as assert async await break class continue def del elif else except finally \
                        for from global if import in is lambda nonlocal not or pass raise return try while with yield ";

/// Returns the cell for a call whose arguments come from JSON: an object, an object in a string (brackets may be
/// missing at its end), or a single text. Returns `None` if the call cannot be written in Python.
pub fn cell_of_json(name: &str, arguments: &Json) -> Option<String> {
    match arguments {
        Json::Object(named) => cell(name, &[], named),
        Json::Text(text) if text.trim().is_empty() => cell(name, &[], &[]),
        Json::Text(text) => match Json::read_cut(text).or_else(|| Json::read(without_token(text)?)) {
            Some(Json::Object(named)) => cell(name, &[], &named),
            Some(inner @ Json::Text(_)) => cell_of_json(name, &inner), // a text that was encoded twice
            Some(Json::Constant(word)) if word == Json::NONE => cell(name, &[], &[]),
            _ => cell(name, std::slice::from_ref(arguments), &[]),
        },
        Json::Constant(word) if word == Json::NONE => cell(name, &[], &[]),
        Json::List(values) if values.is_empty() => cell(name, &[], &[]),
        _ => None,
    }
}

/// Returns a text without the control token that a server left at its end, such as `<|call|>`; `None` without one.
fn without_token(text: &str) -> Option<&str> {
    Some(text.trim_end().strip_suffix("|>")?.rsplit_once("<|")?.0)
}

/// Returns the cell that calls `name` with these positional and keyword arguments.
pub fn cell(name: &str, positional: &[Json], named: &[(String, Json)]) -> Option<String> {
    let name = name.trim();
    let name = name.strip_prefix("functions.").unwrap_or(name); // the namespace of all tools, of gpt-oss and Kimi
    let mut arguments = positional.iter().chain(named.iter().map(|(_, value)| value));
    let only = arguments.next().filter(|_| arguments.next().is_none());
    if INTERPRETERS.contains(&name) || only.is_some() && named.iter().any(|(key, _)| key == "code") {
        let code = only.and_then(Json::as_text)?;
        let code = &code[without_fence(code, 0..code.len())];
        return Some(dedent(code.trim_matches(['\r', '\n'])).trim_end().to_owned());
    }
    let name = identifier(name)?;
    let (plain, odd): (Vec<_>, Vec<_>) = named.iter().partition(|(key, _)| is_name(key));
    let plain = plain.into_iter().map(|(key, value)| format!("{key}={}", value.literal()));
    let odd: Vec<(String, Json)> = odd.into_iter().cloned().collect();
    let odd = (!odd.is_empty()).then(|| format!("**{}", Json::Object(odd).literal()));
    let arguments: Vec<String> = positional.iter().map(Json::literal).chain(plain).chain(odd).collect();
    let call = format!("{name}({})", arguments.join(", "));
    Some(if name == "final_answer" { call } else { format!("print({call})") })
}

/// Converts a tool's name into a Python identifier, by the same rule as `tools/mcp.py`: `get-weather` becomes
/// `get_weather`.
///
/// Returns `None` if no protocol allows the name.
fn identifier(name: &str) -> Option<String> {
    let is_sign = |c: char| "-./: ".contains(c);
    if !name.chars().all(|c| c.is_alphanumeric() || c == '_' || is_sign(c)) || name.chars().all(is_sign) {
        return None;
    }
    let name = name.replace(is_sign, "_");
    Some(match () {
        () if is_name(&name) => name,
        () if is_keyword(&name) => format!("{name}_"),
        () => format!("_{name}"), // it begins with a digit
    })
}

fn is_keyword(name: &str) -> bool {
    KEYWORDS.contains(&format!(" {name} "))
}

fn is_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
        && characters.all(|c| c.is_alphanumeric() || c == '_')
        && !is_keyword(name)
}
