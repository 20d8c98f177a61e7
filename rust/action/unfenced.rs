//! When is a call of `final_answer` without a code block an action? Small models forget the block most often for it.
//!
//! The call starts on its own line, and nothing follows it. Code before the call is part of the action only after a
//! `Code:` label. Without one, it is unclear where it starts, so a call that needs it is refused: alone, it would fail.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::python::{end_of_brackets, names};
use super::text::trimmed;
use super::thought_code::{CODE_LABEL, after_label, is_code_label, is_over};

pub enum Unfenced {
    /// `start`: the start of the call's line, or of the `Code:` label.
    Code { start: usize, code: Range<usize> },
    /// The call needs code before it.
    NeedsBlock,
}

/// Finds a call of `final_answer` at the start of a line, with nothing but the signs of an action's end after it.
pub fn unfenced_final_answer(text: &str, from: usize) -> Option<Unfenced> {
    const LONGEST_LABEL: usize = 80; // with indentation; keeps the search linear in a line of many calls
    let (mut at, mut start) = (from, from);
    loop {
        let found = at + text[at..].find("final_answer(")?;
        start = text[at..found].rfind('\n').map_or(start, |newline| at + newline + 1);
        let end = found + end_of_brackets(&text[found..])?;
        let before = &text[start..found];
        if before.len() <= LONGEST_LABEL && may_precede_call(before) && ends_action(&text[end..]) {
            let needs = |code: Range<usize>| needs_code(&text[code], before, &text[found..end]);
            let label = labelled(text, from..start);
            let lines = label.as_ref().map_or(from, |label| label.end)..start;
            return Some(match label {
                Some(label) if needs(lines.clone()) => {
                    Unfenced::Code { start: label.start, code: trimmed(text, label.end..end) }
                }
                Some(label) if needs(from..label.start) => Unfenced::NeedsBlock,
                None if needs(lines) => Unfenced::NeedsBlock,
                _ => Unfenced::Code { start, code: found..end },
            });
        }
        at = end;
    }
}

fn may_precede_call(before: &str) -> bool {
    let before = before.trim().trim_end_matches('`');
    before.is_empty() || is_code_label(before)
}

/// Returns whether the text after a call is empty, or shows that the action is over.
fn ends_action(after: &str) -> bool {
    let mut lines = after.trim_start_matches('`').split('\n');
    let is_blank = |line: &str| line.trim().is_empty();
    let is_comment = |line: &str| line.trim_start_matches([' ', '\t', ';']).starts_with('#');
    lines.next().is_none_or(|line| is_blank(line) || is_comment(line) || is_over(line))
        && lines.find(|line| !is_blank(line)).is_none_or(is_over)
}

/// Returns whether the code before a call defines a name that the call uses, or is a statement whose body is the call.
fn needs_code(code: &str, indentation: &str, call: &str) -> bool {
    static DEFINES: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?mx)^[\ \t`]*(?:
                ([^\W\d]\w*(?:[\ \t]*,[\ \t]*\*?[^\W\d]\w*)*)[\ \t]*(?::[^=\n]+)?(?:\*\*|//|[-+*/%|&])?=(?:[^=\n]|$)
                |(?:(?:async[\ ]+)?(?:def|class|for|with)\b([^\n]*):[\ \t\r]*(?:\#[^\n]*)?$)
                |(?:import\b|from\b.*\bimport\b)([^\n]*)
            )",
        )
        .expect("it is valid")
    });
    static OPENS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^\s*(?:if|elif|else|for|while|with|def|try|except|finally)\b.*:\s*$").expect("it is valid")
    });
    let used = names(call);
    let defines = |words: &str| !used.is_disjoint(&names(words));
    let last = code.trim_end().rfind('\n').map_or(0, |newline| newline + 1);
    DEFINES.captures_iter(code).any(|line| line.iter().skip(1).flatten().any(|words| defines(words.as_str())))
        || indentation.starts_with([' ', '\t']) && OPENS.is_match(&code[last..])
}

/// Returns the last `Code:` label in the range, from the start of its line.
fn labelled(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    let mut end = range.end;
    for line in text[range].split_inclusive('\n').rev() {
        let start = end - line.len();
        if let Some(code) = after_label(line, CODE_LABEL) {
            return Some(start..end - code.len());
        }
        end = start;
    }
    None
}
