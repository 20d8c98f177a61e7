//! What stands between two tags, such as `<search>` and `</search>`.

use std::ops::Range;

use super::python::end_of_code;

/// A pair of tags and what stands between them.
pub struct Tagged {
    /// Where the first tag begins.
    pub start: usize,
    pub content: Range<usize>,
    /// Without the second tag, the content goes to the text's end, less a piece of the tag: a stop sequence is often
    /// kept back by the engine.
    pub closed: bool,
    /// Where the text goes on.
    pub end: usize,
}

/// What a pair of tags contains.
#[derive(Clone, Copy, PartialEq)]
pub enum Content {
    Text,
    /// In its strings a closing tag is text.
    Python,
    /// Calls in JSON or XML, which are told from prose by how they begin.
    Calls,
}

impl Tagged {
    /// The first such content at `from` or later. Tags that prose only names are passed over.
    pub fn find(text: &str, from: usize, (open, close): (&str, &str), content: Content) -> Option<Self> {
        let mut at = from;
        loop {
            let start = at + text[at..].find(open)?;
            let inside = start + open.len();
            // Up to the next such tag: more need not be looked at.
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

/// Whether an opening tag is only spoken of: `<search> and </search>`, or in quotes, or before the one that counts.
///
/// `window` is the text after it up to the next such tag; its closing tag may be in there.
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

/// How all models mark an answer.
pub const ANSWER: (&str, &str) = ("<answer>", "</answer>");

/// The length of the beginning of a tag that ends the text, without what is blank after it.
pub fn cut_tag(text: &str, tag: &str) -> usize {
    let trimmed = text.trim_end();
    let length = (1..tag.len()).rev().find(|&length| tag.is_char_boundary(length) && trimmed.ends_with(&tag[..length]));
    length.map_or(0, |length| length + text.len() - trimmed.len())
}
