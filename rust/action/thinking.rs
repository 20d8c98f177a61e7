//! The thinking of reasoning models, within which no action is carried out.
//!
//! It stands between `<think>` and `</think>` or other models' tags; where the chat template wrote the opening tag, it
//! ends in a lone `</think>`. What stands between the tags belongs to the Thought.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::memmem;
use regex::Regex;

/// Qwen, DeepSeek and most others; Magistral; Seed-OSS.
const TAGS: [(&str, &str); 5] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
];

/// Any of the tags.
pub static TAG: LazyLock<Regex> = LazyLock::new(|| {
    let tags = TAGS.into_iter().flat_map(|(open, close)| [regex::escape(open), regex::escape(close)]);
    Regex::new(&tags.collect::<Vec<_>>().join("|")).expect("tags are escaped")
});

/// How many blocks of thinking may contain actions: each is a look at the rest of the text.
const MAX_LOOKS: usize = 20;

/// A reply without its thinking.
pub enum Reply<T> {
    /// Its first action, if there is one, and where the reply begins after the thinking.
    Spoken { body: usize, action: Option<T> },
    /// The thinking that begins there, and does not end, comes before any action.
    Unended { start: usize },
}

/// The first action that is not within the thinking.
///
/// `find` gives the first at a place or later; `range` says where that is.
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
            return Reply::Spoken { body, action }; // a text about tags, within the action
        }
        match tag.close {
            Some(_) if tag.start >= acts.start => return Reply::Spoken { body, action },
            Some(close) => match memmem::find(&text.as_bytes()[tag.end..], close.as_bytes()) {
                Some(length) => (body, has_ended) = (tag.end + length + close.len(), true),
                None => return Reply::Unended { start: tag.end },
            },
            // One more is about thinking, unless the thinking went on to it.
            None if has_ended && tag.start >= acts.start => return Reply::Spoken { body, action },
            None => {
                // What the template's tag had opened may have hidden what comes now.
                is_known &= has_ended;
                (body, has_ended) = (tag.end, true);
            }
        }
        next = Tag::find(text, body);
    }
}

/// A tag in a text.
struct Tag {
    start: usize,
    end: usize,
    /// What closes it, where it is an opening one.
    close: Option<&'static str>,
}

impl Tag {
    fn find(text: &str, from: usize) -> Option<Self> {
        let found = TAG.find_at(text, from)?;
        let close = TAGS.into_iter().find(|(open, _)| *open == found.as_str()).map(|(_, close)| close);
        Some(Self { start: found.start(), end: found.end(), close })
    }

    /// Whether it is all of its line.
    fn is_alone(&self, text: &str) -> bool {
        let before = text[..self.start].rsplit('\n').next().unwrap_or_default();
        let after = text[self.end..].split('\n').next().unwrap_or_default();
        before.trim().is_empty() && after.trim().is_empty()
    }
}
