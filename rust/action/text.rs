//! Text functions that all parsers share.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::SpanKind;
use super::thinking::TAG;

/// Returns whether the text ends in a loop: at least five copies of one piece, 120 bytes or more in all.
///
/// It computes the period of each prefix of the reversed text with the Knuth-Morris-Pratt failure function.
pub fn loops(text: &str) -> bool {
    const WINDOW: usize = 8192;
    const COPIES: usize = 5;
    const BYTES: usize = 120;
    let tail: Vec<u8> = text.trim_end().bytes().rev().take(WINDOW).collect();
    let mut border = vec![0; tail.len()];
    for end in 1..tail.len() {
        let mut length = border[end - 1];
        while length > 0 && tail[end] != tail[length] {
            length = border[length - 1];
        }
        border[end] = length + usize::from(tail[end] == tail[length]);
        let (covered, period) = (end + 1, end + 1 - border[end]);
        if covered >= BYTES && covered >= COPIES * period {
            return true;
        }
    }
    false
}

/// Trims blank lines around the range and white space at its end. The first line keeps its indentation.
pub fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let all = trimmed_all(text, range.clone());
    let start = text[range.start..all.start].rfind('\n').map_or(range.start, |newline| range.start + newline + 1);
    if all.is_empty() { all } else { start..all.end }
}

pub fn trimmed_all(text: &str, range: Range<usize>) -> Range<usize> {
    let inside = &text[range.clone()];
    let start = range.start + inside.len() - inside.trim_start().len();
    start..start + inside.trim().len()
}

/// Removes the indentation that all lines share. A fence in a list or a quotation is indented as a whole.
pub fn dedent(code: &str) -> Cow<'_, str> {
    if !code.starts_with(char::is_whitespace) {
        return code.into();
    }
    let indent = |line: &str| line.len() - line.trim_start_matches([' ', '\t']).len();
    let lines = || code.lines().filter(|line| !line.trim().is_empty());
    let Some(first) = lines().next() else { return "".into() };
    let mut common = &first[..indent(first)];
    for line in lines() {
        let shared = common.bytes().zip(line.bytes()).take_while(|(a, b)| a == b).count();
        common = &common[..shared];
    }
    let lines = code.split('\n').map(|line| line.strip_prefix(common).unwrap_or(line.trim_start()));
    lines.collect::<Vec<_>>().join("\n").into()
}

/// Joins the pieces that are not empty.
pub fn joined<'a>(pieces: impl Iterator<Item = Cow<'a, str>>, between: &str) -> String {
    let mut whole = String::new();
    for piece in pieces {
        if !whole.is_empty() {
            whole.push_str(between);
        }
        whole.push_str(&piece);
    }
    whole
}

pub fn in_characters<'a>(
    text: &str,
    ranges: impl Iterator<Item = (SpanKind, &'a Range<usize>)>,
) -> Vec<(SpanKind, usize, usize)> {
    let (mut bytes, mut characters) = (0, 0);
    let mut to_character = |byte: usize| {
        let passed = &text[bytes..byte];
        characters += if passed.is_ascii() { passed.len() } else { passed.chars().count() };
        bytes = byte;
        characters
    };
    ranges.map(|(kind, range)| (kind, to_character(range.start), to_character(range.end))).collect()
}

/// Splits the range at thinking tags, and removes `Thought:` labels. Returns the trimmed pieces.
pub fn thought(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    static LABEL: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^(?i:[\s*#]*thoughts?(?:[ \t]*\d+)?\s*\**\s*:\s*\**\s*)").expect("it is valid"));
    let mut pieces = Vec::new();
    let mut at = range.start;
    for tag in TAG.find_iter(&text[range.clone()]) {
        pieces.push(at..range.start + tag.start());
        at = range.start + tag.end();
    }
    pieces.push(at..range.end);
    let label = |piece: &Range<usize>| LABEL.find(&text[piece.clone()]).map_or(0, |label| label.end());
    let pieces = pieces.into_iter().map(|piece| trimmed_all(text, piece.start + label(&piece)..piece.end));
    pieces.filter(|piece| !piece.is_empty()).collect()
}
