//! Finds a final answer in plain text, when there is no code that gives one.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::tags::{ANSWER, Content, Tagged};
use super::text::trimmed_all;

/// Returns the start of a final answer's markup, and the range of the answer.
pub fn plain_answer(text: &str, from: usize) -> Option<(usize, Range<usize>)> {
    static LABELLED: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?im)^[ \t*#]*final answer[ \t]*\**[ \t]*:[ \t]*\**[ \t]*(?:(\S.*)|\n\s*((?:.*\S.*\n?)+))")
            .unwrap()
    });
    static OVER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?m)^[ \t*#]*(?:Observation|Thought|Code)[ \t]*\**:").unwrap());
    let labelled = || {
        let found = LABELLED.captures(&text[from..])?; // the text after the thinking starts a line
        let answer = found.get(1).or(found.get(2))?.range();
        Some((from + found.get(0)?.start(), from + answer.start..from + answer.end))
    };
    if let Some((whole, answer)) = tagged(text, from).or_else(labelled) {
        let end = OVER.find(&text[answer.clone()]).map_or(answer.end, |over| answer.start + over.start());
        let mut answer = trimmed_all(text, answer.start..end);
        if text[answer.clone()].matches("**").count() == 1 && text[answer.clone()].ends_with("**") {
            answer.end -= 2; // the closing stars of **Final answer: ...**
        }
        let answer = boxed(text, answer.clone()).unwrap_or(answer);
        return (!answer.is_empty()).then_some((whole, answer));
    }
    let answer = boxed(text, from..text.len())?;
    Some((answer.start - BOX.len(), answer))
}

/// Finds the first `<answer>` that is not empty. An unclosed tag counts only if a stop sequence may have cut it off;
/// otherwise the text only mentions the tag.
fn tagged(text: &str, from: usize) -> Option<(usize, Range<usize>)> {
    let mut at = from;
    loop {
        let found = Tagged::find(text, at, ANSWER, Content::Text)?;
        let starts_line = || text[from..found.start].rsplit('\n').next().unwrap_or_default().trim().is_empty();
        let is_meant = found.closed || found.content.end < found.end || starts_line();
        if is_meant && !text[found.content.clone()].trim().is_empty() {
            return Some((found.start, found.content));
        }
        at = found.end;
    }
}

const BOX: &str = r"\boxed{";

/// Returns the content of the first `\boxed{...}` in the range, if all boxes are closed and have the same content.
/// Boxes that only quote the instruction are ignored.
fn boxed(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    let mut first: Option<Range<usize>> = None;
    let mut at = range.start;
    while let Some(found) = text[at..range.end].find(BOX) {
        let start = at + found + BOX.len();
        let end = start + closing_brace(&text[start..range.end])?;
        at = end;
        let content = trimmed_all(text, start..end);
        if is_placeholder(&text[content.clone()]) {
            continue;
        }
        match &first {
            Some(first) if text[first.clone()] != text[content.clone()] => return None,
            Some(_) => {}
            None => first = Some(content),
        }
    }
    first
}

/// Returns whether the content of a box is a placeholder: nothing, dots, or a word like `answer`.
fn is_placeholder(content: &str) -> bool {
    const WORDS: [&str; 8] =
        ["", r"\ldots", r"\dots", r"\cdots", "answer", "your answer", "final answer", "your final answer"];
    let text = content.strip_prefix(r"\text{").and_then(|rest| rest.strip_suffix('}')).unwrap_or(content);
    let text = text.trim_matches(|c: char| c.is_whitespace() || ".\u{2026}_?<>[]".contains(c));
    WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}
