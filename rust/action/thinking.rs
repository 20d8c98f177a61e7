//! Finds where the thinking of a reasoning model ends. Actions inside the thinking do not count.
//!
//! The thinking is enclosed in `<think>` and `</think>`, or in the tags of another model. If the chat template wrote
//! the opening tag, only `</think>` appears in the completion. The text between the tags belongs to the Thought.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem;
use regex::Regex;

/// The tags of Qwen, DeepSeek and most other models; then variants, Magistral, Seed-OSS, Kimi-VL and
/// OpenThinker.
const TAGS: [(&str, &str); 8] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<reasoning>", "</reasoning>"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
];

/// Matches any of the tags.
pub static TAG: LazyLock<Regex> = LazyLock::new(|| {
    let tags = TAGS.into_iter().flat_map(|(open, close)| [regex::escape(open), regex::escape(close)]);
    Regex::new(&tags.collect::<Vec<_>>().join("|")).expect("tags are escaped")
});

/// The maximum number of searches for an action. Each block of thinking that contains an action causes one more search
/// of the rest of the text.
const MAX_LOOKS: usize = 20;

/// The result of skipping the thinking.
pub enum Reply<T> {
    /// The start of the reply after the thinking, and the first action in it, if there is one.
    Spoken { body: usize, action: Option<T> },
    /// The thinking that starts here has no end, and no action comes before it.
    Unended { start: usize },
}

/// Finds the first action outside the thinking.
///
/// `find` returns the first action at or after a position, and `range` returns an action's range.
pub fn after_thinking<T>(
    text: &str,
    find: impl Fn(usize) -> Option<T>,
    range: impl Fn(&T) -> Range<usize>,
) -> Reply<T> {
    let mut body = 0;
    let mut has_ended = false;
    let mut action = None;
    let mut is_known = false;
    let mut next = Tag::find(text, 0);
    let mut looks = 0;
    loop {
        let is_first_word =
            next.as_ref().is_some_and(|tag| tag.close.is_some() && text[body..tag.start].trim().is_empty());
        if !is_first_word && (!is_known || action.as_ref().is_some_and(|action| range(action).start < body)) {
            (action, is_known) = (find(body), true);
            looks += 1;
            if looks > MAX_LOOKS {
                return Reply::Unended { start: body };
            }
        }
        let Some(tag) = next.take() else { return Reply::Spoken { body, action } };
        let acts = if is_first_word { None } else { action.as_ref().map(&range) };
        let acts = acts.unwrap_or(text.len()..text.len());
        if tag.start >= acts.start && tag.start < acts.end && !tag.is_alone(text) {
            return Reply::Spoken { body, action }; // the action's own text contains the tag
        }
        match tag.close {
            Some(_) if tag.start >= acts.start => return Reply::Spoken { body, action },
            Some(close) => match memmem::find(&text.as_bytes()[tag.end..], close.as_bytes()) {
                Some(length) => (body, has_ended) = (tag.end + length + close.len(), true),
                None => return Reply::Unended { start: tag.end },
            },
            // A second closing tag after the action only mentions thinking, unless the thinking extends to it.
            None if has_ended && tag.start >= acts.start => return Reply::Spoken { body, action },
            None => {
                // The thinking that the template opened may have hidden the next action from `find`, so search again.
                is_known &= has_ended;
                (body, has_ended) = (tag.end, true);
            }
        }
        next = Tag::find(text, body);
    }
}

/// A thinking tag in a text.
struct Tag {
    start: usize,
    end: usize,
    /// The matching closing tag, if this is an opening tag.
    close: Option<&'static str>,
}

impl Tag {
    fn find(text: &str, from: usize) -> Option<Self> {
        let found = TAG.find_at(text, from)?;
        let close = TAGS.into_iter().find(|(open, _)| *open == found.as_str()).map(|(_, close)| close);
        Some(Self { start: found.start(), end: found.end(), close })
    }

    /// Returns whether the tag is alone on its line.
    fn is_alone(&self, text: &str) -> bool {
        let before = text[..self.start].rsplit('\n').next().unwrap_or_default();
        let after = text[self.end..].split('\n').next().unwrap_or_default();
        before.trim().is_empty() && after.trim().is_empty()
    }
}
