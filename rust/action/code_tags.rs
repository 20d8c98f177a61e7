//! Parses Python between tags: `<execute>...</execute>` (CodeAct), `<python>...</python>`, `<code>...</code>`, and
//! `<|code|>...<|endofblock|>` (MathCoder).
//!
//! - **Code** is the first such block after the thinking, with or without fences in it. The text after it is dropped,
//!   because the model invented it. The closing tag may be missing, because engines often cut off a stop sequence.
//! - **A final answer**, if there is no code, is `<solution>...</solution>` (CodeAct), or else text that is marked as
//!   an answer (`plain_answer.rs`).
//! - **Thought** is the text before the code or the answer.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::plain_answer::plain_answer;
use super::tags::{Content, Tagged};
use super::text::{loops, thought, trimmed, trimmed_all};
use super::thinking::{Reply, after_thinking};
use super::thought_code::fenced;
use super::{Act, Action, FailureReason, ParseFailureKind, ParseResult};

pub const INSTRUCTION: &str = "Think, then write Python between <execute> and </execute>, or the answer between <answer> and \
                       </answer>.";

const TAGS: [(&str, &str); 4] =
    [("<execute>", "</execute>"), ("<python>", "</python>"), ("<code>", "</code>"), ("<|code|>", "<|endofblock|>")];
const SOLUTION: (&str, &str) = ("<solution>", "</solution>");

pub fn read(completion: &str) -> ParseResult {
    let first_block = |from: usize| {
        let blocks = TAGS.into_iter().filter_map(|tags| Tagged::find(completion, from, tags, Content::Python));
        blocks.min_by_key(|block| block.start)
    };
    let Reply::Spoken { body, action } = after_thinking(completion, first_block, |block| block.start..block.end) else {
        return Err(FailureReason::endless_thinking());
    };
    if let Some(block) = action {
        if !block.closed && loops(completion) {
            return Err(FailureReason(ParseFailureKind::UnclosedCode, "Your code breaks off before its end.".into()));
        }
        let code = match fenced(completion, block.content.clone()) {
            fenced if fenced.is_empty() => vec![trimmed(completion, without_fence(completion, block.content))],
            fenced => fenced,
        };
        if code.iter().all(|code| code.is_empty()) {
            return Err(FailureReason(ParseFailureKind::EmptyCode, "Your code block is empty.".into()));
        }
        return Ok(Action::new(completion, thought(completion, 0..block.start), Act::cell(completion, code)));
    }
    let solution = Tagged::find(completion, body, SOLUTION, Content::Text)
        .map(|found| (found.start, trimmed_all(completion, found.content)))
        .filter(|(_, answer)| !answer.is_empty());
    let marked = solution.or_else(|| plain_answer(completion, body));
    let (start, answer) =
        marked.ok_or_else(|| FailureReason::no_action("Your reply has neither code nor a final answer."))?;
    Ok(Action::new(completion, thought(completion, 0..start), Act::Answer(answer)))
}

/// Returns the range inside a fence, if one surrounds it. The fence needs no language, because the tags already say
/// that this is code.
pub fn without_fence(text: &str, range: Range<usize>) -> Range<usize> {
    static FENCE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^\s*```[^\n]*\n(?s:(.*?))\n?[ \t]*(?:```)?\s*$").expect("it is valid"));
    let inside = FENCE.captures(&text[range.clone()]).and_then(|found| found.get(1));
    inside.map_or(range.clone(), |inside| range.start + inside.start()..range.start + inside.end())
}
