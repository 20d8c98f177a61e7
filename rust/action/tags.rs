//! Finds the content between two tags, such as `<search>` and `</search>`.

use std::ops::Range;

use super::python::end_of_code;

/// The content between a pair of tags.
pub struct Tagged {
    /// The position of the opening tag.
    pub start: usize,
    pub content: Range<usize>,
    /// Whether the closing tag is present. Without it, the content extends to the end of the text, less a partial
    /// closing tag: engines often cut off a stop sequence.
    pub closed: bool,
    /// The position after the closing tag.
    pub end: usize,
}

/// The kind of content that a pair of tags holds.
#[derive(Clone, Copy, PartialEq)]
pub enum Content {
    Text,
    /// Python code. A closing tag in a string is part of the string.
    Python,
    /// Tool calls in JSON or XML. Their first character distinguishes them from prose.
    Calls,
}

impl Tagged {
    /// Finds the first pair at or after `from`. Tags that the prose only mentions are skipped.
    pub fn find(text: &str, from: usize, (open, close): (&str, &str), content: Content) -> Option<Self> {
        let mut at = from;
        loop {
            let start = at + text[at..].find(open)?;
            let inside = start + open.len();
            // The search stops at the next opening tag.
            let window = text[inside..].find(open).map_or(&text[inside..], |next| &text[inside..inside + next]);
            let first_close = window.find(close);
            if is_named(text, start..inside, window, first_close, content) {
                at = inside;
                continue;
            }
            let end = match content {
                Content::Text | Content::Calls => {
                    first_close.map(|length| (inside + length, inside + length + close.len()))
                }
                Content::Python => end_of_code(text, inside, |rest, _| rest.starts_with(close).then_some(close.len())),
            };
            return Some(match end {
                Some((until, end)) => Self { start, content: inside..until, closed: true, end },
                None => {
                    let until = text.len() - cut_tag(&text[inside..], close);
                    Self { start, content: inside..until, closed: false, end: text.len() }
                }
            });
        }
    }
}

/// Returns whether an opening tag is only mentioned: `<search> and </search>`, in quotes, or before the one that
/// counts.
///
/// `window` is the text up to the next opening tag, and `close` the position of the closing tag in it.
fn is_named(text: &str, tag: Range<usize>, window: &str, close: Option<usize>, content: Content) -> bool {
    const SIGNS: [char; 4] = ['`', '"', '\'', '*'];
    const BETWEEN: [&str; 8] = ["and", "or", "to", "&", "/", ",", "...", "\u{2026}"];
    let before = &text[..tag.start];
    let quote = before.chars().next_back().filter(|quote| SIGNS.contains(quote));
    if quote.is_some_and(|quote| window.starts_with(quote)) {
        return true;
    }
    if let Some(close) = close {
        let between = window[..close].trim_matches(|c: char| c.is_whitespace() || SIGNS.contains(&c));
        return BETWEEN.contains(&between);
    }
    let starts_line = |before: &str| before.rsplit('\n').next().unwrap_or_default().trim().is_empty();
    let is_last = tag.end + window.len() == text.len();
    match content {
        Content::Calls if is_last && window.trim().is_empty() => false,
        Content::Calls => !window.trim_start().starts_with(['{', '[', '<', '`']),
        _ if is_last => !starts_line(before) && &text[tag] != ANSWER.0 && window.contains(ANSWER.0),
        Content::Text => true,
        Content::Python => window.trim().is_empty() || !starts_line(before) && starts_line(window),
    }
}

/// The tags of an answer, in every format.
pub const ANSWER: (&str, &str) = ("<answer>", "</answer>");

/// Returns the length of a partial `tag` at the end of the text, including white space after it.
pub fn cut_tag(text: &str, tag: &str) -> usize {
    let trimmed = text.trim_end();
    let length = (1..tag.len()).rev().find(|&length| tag.is_char_boundary(length) && trimmed.ends_with(&tag[..length]));
    length.map_or(0, |length| length + text.len() - trimmed.len())
}
