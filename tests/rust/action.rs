//! Parsing of completions: golden cases (which tests/core/test_action.py also reads), real model outputs, and
//! properties.

use agentdistill::action::{Action, ActionFormat, ParseFailureKind, Parsed, SpanKind, parse_action};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    name: String,
    /// The paper's format by default.
    #[serde(default)]
    format: ActionFormat,
    completion: String,
    action: Option<Action>,
    failure: Option<ParseFailureKind>,
}

#[test]
fn golden() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/actions");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let cases: Vec<Golden> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for Golden { name, format, completion, action, failure } in cases {
            let action = action.map(|action| Action { format, ..action });
            match parse_action(&completion, format) {
                Parsed::Action(found) => assert_eq!(Some(found), action, "{name} in {}", path.display()),
                Parsed::Failure(found) => assert_eq!(Some(found.kind), failure, "{name} in {}", path.display()),
            }
        }
    }
}

/// Pieces of completions similar to what models write.
const PIECES: &[&str] = &[
    "```py\n",
    "```python\n",
    "```\n",
    "```",
    "``",
    "````py\n",
    "```output\n",
    "<code>",
    "</code>",
    "<end_code>",
    "<end_co",
    "Thought: ",
    "\nThought:",
    "Code:\n",
    "Code: ",
    "\nObservation: ",
    "<think>",
    "</think>",
    "Final answer: ",
    "**",
    "<answer>",
    "</answer>",
    "\\boxed{",
    "}",
    "{",
    "(",
    ")",
    "'",
    "\"",
    "'''",
    "\"\"\"",
    "\\",
    "#",
    "\n",
    "\n\n",
    "  ",
    "\r\n",
    "x = 1",
    "print(2)",
    "final_answer(3)",
    "é",
    "日本",
    "🙂",
    "\u{300}",
    "\u{0}",
    "for x in y:",
    "it's",
    "<tool_call>",
    "</tool_call>",
    r#"{"name": "web_search", "arguments": {"query": "é", "class": [1.5, true, null, {}]}}"#,
    r#"{"name": "python", "arguments": {"code": "x = 1\nx"}}"#,
    r#"{"name": "f", "parameters": "{\"a\": 2}"}"#,
    "<function=f>\n",
    "</function>",
    "<parameter=a>\n",
    "\n</parameter>\n",
    "</tool_c",
    "[THINK]",
    "[/THINK]",
    "<search>",
    "</search>",
    "<|begin_of_query|>",
    "<|end_of_query|>",
    "<execute>",
    "</execute>",
    "<python>",
    "</python>",
    "<|code|>",
    "<|endofblock|>",
    "<solution>",
    "</solution>",
    "\nAction: ",
    "\nAction 2: ",
    "\nAction Input: ",
    "Search[",
    "Finish[",
    "]",
];

const FORMATS: [ActionFormat; 5] =
    [ActionFormat::Code, ActionFormat::ToolCall, ActionFormat::SearchTags, ActionFormat::CodeTags, ActionFormat::React];

fn completions() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::collection::vec(prop::sample::select(PIECES), 0..40).prop_map(|pieces| pieces.concat()),
        any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_text_is_understood_consistently(completion in completions(), format in prop::sample::select(&FORMATS)) {
        let Parsed::Action(action) = parse_action(&completion, format) else { return Ok(()) };
        prop_assert!(action.code.is_some() != action.final_answer.is_some(), "either code or an answer: {action:?}");
        let characters: Vec<char> = completion.chars().collect();
        let mut end = 0;
        let mut said = [String::new(), String::new(), String::new()];
        for &(kind, from, to) in &action.spans {
            prop_assert!(end <= from && from < to && to <= characters.len(), "spans in order: {action:?}");
            end = to;
            let said = &mut said[kind as usize];
            let glue = match kind { _ if said.is_empty() => "", SpanKind::Code => "\n\n", _ => "\n" };
            said.push_str(glue);
            said.extend(&characters[from..to]);
        }
        prop_assert_eq!(&said[0], &action.thought);
        let without_blanks = |text: &str| text.replace([' ', '\t'], "");
        let code = action.code.unwrap_or_default();
        if matches!(format, ActionFormat::Code | ActionFormat::CodeTags) {
            prop_assert_eq!(without_blanks(&said[1]), without_blanks(&code), "but for indentation, code is what was said");
        }
        prop_assert_eq!(&said[2], &action.final_answer.unwrap_or_default());
    }

    /// A well-formed completion is parsed back exactly, whatever its parts contain.
    #[test]
    fn the_format_round_trips(
        thought in "[a-zA-Z0-9 .,\u{e9}\u{1f642}]{1,40}",
        lines in prop::collection::vec("[a-z=+()0-9][a-z =+()0-9]{0,20}", 1..5),
    ) {
        let code = lines.join("\n");
        let code = code.trim();
        let completion = format!("Thought: {thought}\nCode:\n```py\n{code}\n```<end_code>");
        let parsed = parse_action(&completion, ActionFormat::Code);
        let Parsed::Action(action) = parsed else { return Err(TestCaseError::fail(completion)) };
        prop_assert_eq!(action.thought, thought.trim());
        prop_assert_eq!(action.code.as_deref(), Some(code));
    }
}

/// Returns the processor time of this thread so far, in seconds. Other work on the machine does not count.
fn thread_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap(); // the name before it may contain anything
    let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u32>().unwrap()); // user, system
    f64::from(ticks.sum::<u32>()) / 100.0
}

/// Parsing takes time proportional to the length of the completion: milliseconds, where quadratic time is many seconds.
#[test]
fn hostile_completions_are_read_quickly() {
    let pieces = ["```py\n'''\n```\n", "```py\n", "`", "<code>", "\\boxed{", "<think>", "``` x", "a", "Code:\n", "'''"];
    let tags = [
        "<tool_call>",
        "<tool_call>[",
        "<tool_call>{\"a\":1}",
        "<function=f>\n",
        "<function=f><parameter=a>x",
        "</parameter>x",
        "<think></think>a",
        "<think>```py\n1\n```</think>x",
        "<think><search></think>x",
        "<answer></answer>",
        "Action: a\n\n",
        "Action: a\nAction Input: [",
        "</think>",
        "<search>",
        "<answer>",
        "<execute>\n```\n",
        "Action: a\n",
        "Action: a[",
        "final_answer()",
        "final_answer()*",
        "final_answer()\n",
        "\n\nfinal_answer()`",
        "final_answer(\n",
        "<answer></answer>\n",
        "<answer> ",
        "Final answer:\n",
        "\\boxed{}",
        "\\boxed{1}",
    ];
    for (piece, format) in pieces.into_iter().chain(tags).flat_map(|piece| FORMATS.map(|format| (piece, format))) {
        let completion = piece.repeat(1_000_000 / piece.len());
        let start = thread_seconds();
        parse_action(&completion, format);
        let seconds = thread_seconds() - start;
        assert!(seconds < 2.0, "{piece:?} as {format:?} took {seconds} s");
    }
}
