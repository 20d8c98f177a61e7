//! Python between tags: `<execute>...</execute>` (CodeAct), `<python>...</python>`, `<code>...</code>`, and
//! `<|code|>...<|endofblock|>` (MathCoder).
//!
//! - **Code**: the first such block after the thinking, with or without a fence in it. What follows it is dropped: the
//!   model made it up. Its last tag may have been kept back as a stop sequence.
//! - **A final answer**, where there is no code: `<solution>...</solution>` (CodeAct), else what is marked as one.
//! - **Thought**: what stands before either.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::plain_answer::plain_answer;
use super::text::{Tagged, after_thinking, dedent, loops, thought, trimmed, trimmed_all};
use super::{Act, Action, ParseFailureKind, Read, Unread};

pub const HOW: &str = "Think, then write Python between <execute> and </execute>, or the answer between <answer> and \
                       </answer>.";

const TAGS: [(&str, &str); 4] =
    [("<execute>", "</execute>"), ("<python>", "</python>"), ("<code>", "</code>"), ("<|code|>", "<|endofblock|>")];

pub fn read(completion: &str) -> Read {
    let body = after_thinking(completion).unwrap_or(0);
    let blocks = TAGS.iter().filter_map(|(open, close)| Tagged::find(completion, body, open, close));
    if let Some(block) = blocks.min_by_key(|block| block.start) {
        if !block.closed && loops(completion) {
            return Err(Unread(ParseFailureKind::UnclosedCode, "Your code breaks off before its end.".into()));
        }
        let code = trimmed(completion, without_fence(completion, block.content));
        if code.is_empty() {
            return Err(Unread(ParseFailureKind::EmptyCode, "Your code block is empty.".into()));
        }
        let cell = dedent(&completion[code.clone()]).into_owned();
        return Ok(Action::new(completion, thought(completion, 0..block.start), Act::Cell(cell, vec![code])));
    }
    let solution = Tagged::find(completion, body, "<solution>", "</solution>")
        .map(|found| (found.start, trimmed_all(completion, found.content)))
        .filter(|(_, answer)| !answer.is_empty());
    let marked = solution.or_else(|| plain_answer(completion, body));
    let (start, answer) = marked.ok_or_else(|| Unread::no_action("Your reply has neither code nor a final answer."))?;
    Ok(Action::new(completion, thought(completion, 0..start), Act::Answer(answer)))
}

fn without_fence(text: &str, range: Range<usize>) -> Range<usize> {
    static FENCE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^\s*```[^\n]*\n(?s:(.*?))\n?[ \t]*(?:```)?\s*$").unwrap());
    let inside = FENCE.captures(&text[range.clone()]).and_then(|found| found.get(1));
    inside.map_or(range.clone(), |inside| range.start + inside.start()..range.start + inside.end())
}
