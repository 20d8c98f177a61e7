//! Finds tool calls in the tokens of other models' chat templates, which servers without the right parser leave in
//! the text:
//!
//! - Mistral: `[TOOL_CALLS]web_search[ARGS]{"query": "..."}`
//! - DeepSeek: `<｜tool▁call▁begin｜>web_search<｜tool▁sep｜>{"query": "..."}<｜tool▁call▁end｜>`, and V3's form, with the
//!   word `function` before the name and a fence around the arguments
//! - Kimi: `<|tool_call_begin|>functions.web_search:0<|tool_call_argument_begin|>{"query": "..."}<|tool_call_end|>`
//! - gpt-oss: `<|channel|>commentary to=functions.web_search <|constrain|>json<|message|>{"query": "..."}<|call|>`

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::json::{Json, Reader};

/// Consecutive calls, as in the text.
pub struct NativeCalls {
    pub start: usize,
    /// The first call's arguments to the last one's.
    pub content: Range<usize>,
    /// Each tool's name and its arguments; `None` if the arguments of one of them are no JSON object.
    pub calls: Option<Vec<(String, Json)>>,
    /// Whether the last call has an end.
    pub closed: bool,
}

impl NativeCalls {
    /// Finds the first calls at or after `from`.
    pub fn find(text: &str, from: usize) -> Option<Self> {
        static HEAD: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(concat!(
                r"\[TOOL_CALLS\]\s*([\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*",
                r"|(?:<｜tool▁calls▁begin｜>\s*)?<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?",
                r"([\w.-]+)(?:<｜tool▁sep｜>|\s*```(?:json)?)\s*",
                r"|(?:<\|tool_calls_section_begin\|>\s*)?<\|tool_call_begin\|>",
                r"\s*([\w.-]+?)(?::\d+)?\s*<\|tool_call_argument_begin\|>\s*",
                r"|<\|channel\|>commentary\s+to=([\w.-]+)[^{}<]*(?:<\|constrain\|>\w+)?<\|message\|>\s*",
            ))
            .expect("it is valid")
        });
        static END: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(
                r"\A(?:\s|```|<[｜|](?:(?:tool[▁_]calls?|end)[▁_\w]*|call|im_end|start)[｜|]>(?:assistant)?|</s>)*",
            )
            .expect("it is valid")
        });
        let mut at = from;
        let mut head = loop {
            let head = HEAD.captures_at(text, at)?;
            at = head.get(0)?.end();
            // Otherwise prose only mentions the tokens.
            if text[at..].is_empty() || text[at..].starts_with(['{', '[']) {
                break head;
            }
        };
        let (start, first) = (head.get(0)?.start(), at);
        let mut calls = Vec::new();
        loop {
            let inside = head.get(0)?.end();
            let mut reader = Reader::new(&text[inside..]);
            let arguments = reader.value().filter(|value| matches!(value, Json::Object(_)));
            let (Some(arguments), 0) = (arguments, reader.lacking) else {
                let closed = text[inside..].contains("}");
                return Some(Self { start, content: first..text.len(), calls: None, closed });
            };
            calls.push((head.iter().skip(1).flatten().next()?.as_str().to_owned(), arguments));
            let end = inside + reader.position();
            let next = end + END.find(&text[end..]).map_or(0, |end| end.len());
            match HEAD.captures_at(text, end).filter(|head| head.get(0).is_some_and(|head| head.start() <= next)) {
                Some(another) => head = another,
                None => return Some(Self { start, content: first..end, calls: Some(calls), closed: true }),
            }
        }
    }
}
