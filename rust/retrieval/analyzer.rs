//! Splits text into words. There is one analyzer for each language, and it is used for passages and queries alike.
//!
//! Text is first normalised (NFKC), so that composed and decomposed characters, ligatures and full-width forms compare
//! equal, and characters that nobody sees, such as soft hyphens, are removed. For most languages, a word is a run of
//! letters, digits and their combining marks. It is case folded and reduced to its stem by Snowball; stop words are
//! dropped if Tantivy has a list for the language. [`Language::Cjk`] is for text without spaces between words: every
//! pair of neighbouring characters is a word, as in Lucene's CJKAnalyzer, and no dictionary is needed.
//! [`Language::None`] uses no knowledge of any language.
//!
//! Indexes of version 3 use the words of that version: not normalised, without combining marks, in lower case.
//!
//! Not supported: detecting the language, and matching simplified with traditional Chinese.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use caseless::Caseless;
use serde::{Deserialize, Serialize};
use tantivy::tokenizer::{
    Language as Snowball, RemoveLongFilter, Stemmer, StopWordFilter, TextAnalyzer, Token, TokenStream, Tokenizer,
};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::Error;

/// The language of passages and queries. Its name is in lower case: `english`, `cjk`, `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Language {
    /// A language with a Snowball stemmer.
    Stemmed(Snowball),
    /// Chinese, Japanese or Korean: pairs of characters. Text in other scripts is split into words.
    Cjk,
    /// Unstemmed words, case folded.
    None,
}

const STEMMED: [(&str, Snowball); 17] = [
    ("english", Snowball::English),
    ("arabic", Snowball::Arabic),
    ("danish", Snowball::Danish),
    ("dutch", Snowball::Dutch),
    ("finnish", Snowball::Finnish),
    ("french", Snowball::French),
    ("german", Snowball::German),
    ("greek", Snowball::Greek),
    ("hungarian", Snowball::Hungarian),
    ("italian", Snowball::Italian),
    ("norwegian", Snowball::Norwegian),
    ("portuguese", Snowball::Portuguese),
    ("romanian", Snowball::Romanian),
    ("russian", Snowball::Russian),
    ("spanish", Snowball::Spanish),
    ("swedish", Snowball::Swedish),
    ("turkish", Snowball::Turkish),
];

/// The maximum length of a word in bytes. Longer words are left out.
const MAX_WORD_BYTES: usize = 39;

impl Default for Language {
    fn default() -> Self {
        Self::Stemmed(Snowball::English)
    }
}

impl Language {
    /// Returns all languages.
    pub fn all() -> impl Iterator<Item = Self> {
        STEMMED.iter().map(|&(_, stems)| Self::Stemmed(stems)).chain([Self::Cjk, Self::None])
    }

    /// Describes how text becomes words.
    pub fn description(self) -> String {
        let kept = format!("words of at most {MAX_WORD_BYTES} bytes, case folded");
        match self {
            Self::Stemmed(stems) if StopWordFilter::new(stems).is_some() => {
                format!("{kept}, without stop words, Snowball stems")
            }
            Self::Stemmed(_) => format!("{kept}, Snowball stems"),
            Self::Cjk => format!("pairs of Chinese, Japanese and Korean characters; other {kept}"),
            Self::None => kept,
        }
    }

    /// Returns the analyzer for an index of this version.
    pub(super) fn analyzer(self, version: u32) -> TextAnalyzer {
        let normalised = version > 3;
        let split = if self == Self::Cjk { pairs } else { runs };
        let words = Words { split, normalised, ..Words::default() };
        let words = TextAnalyzer::builder(words).filter(RemoveLongFilter::limit(MAX_WORD_BYTES + 1));
        match self {
            Self::Stemmed(stems) => match StopWordFilter::new(stems) {
                Some(stop_words) => words.filter(stop_words).filter(Stemmer::new(stems)).build(),
                None => words.filter(Stemmer::new(stems)).build(),
            },
            Self::Cjk | Self::None => words.build(),
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stemmed(stems) => {
                STEMMED.iter().find(|(_, known)| known == stems).map_or("unknown", |&(name, _)| name)
            }
            Self::Cjk => "cjk",
            Self::None => "none",
        })
    }
}

impl FromStr for Language {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::all().find(|language| language.to_string() == name).ok_or_else(|| {
            let known: Vec<String> = Self::all().map(|language| language.to_string()).collect();
            Error::Argument(format!("the language is {name:?}, and must be one of {}", known.join(", ")))
        })
    }
}

impl TryFrom<String> for Language {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        name.parse()
    }
}

impl From<Language> for String {
    fn from(language: Language) -> Self {
        language.to_string()
    }
}

/// The tokenizer of all languages.
#[derive(Clone)]
struct Words {
    /// Finds the words in a text.
    split: fn(&str, bool, &mut Vec<Range<usize>>),
    /// False for an index of version 3.
    normalised: bool,
    /// The normalised text, if it differs from the given text.
    text: String,
    ranges: Vec<Range<usize>>,
    token: Token,
}

impl Default for Words {
    fn default() -> Self {
        Self { split: runs, normalised: true, text: String::new(), ranges: vec![], token: Token::default() }
    }
}

impl Tokenizer for Words {
    type TokenStream<'a> = WordStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream<'a> {
        let text = if self.normalised && !text.is_ascii() {
            self.text.clear();
            self.text.extend(text.nfkc().filter(|&character| !is_invisible(character)));
            &self.text
        } else {
            text
        };
        self.ranges.clear();
        (self.split)(text, self.normalised, &mut self.ranges);
        self.token.reset();
        WordStream { text, normalised: self.normalised, ranges: self.ranges.iter(), token: &mut self.token }
    }
}

/// Finds runs of letters, digits and, if `marks` is set, the combining marks that follow them.
fn runs(text: &str, marks: bool, ranges: &mut Vec<Range<usize>>) {
    let mut start = None;
    for (at, character) in text.char_indices() {
        let is_part = character.is_alphanumeric() || marks && start.is_some() && is_combining_mark(character);
        match (start, is_part) {
            (None, true) => start = Some(at),
            (Some(first), false) => {
                ranges.push(first..at);
                start = None;
            }
            _ => {}
        }
    }
    ranges.extend(start.map(|start| start..text.len()));
}

/// Finds pairs of Chinese, Japanese and Korean characters, and runs of other letters and digits.
fn pairs(text: &str, _marks: bool, ranges: &mut Vec<Range<usize>>) {
    let mut before = (Kind::Other, 0);
    for (start, character) in text.char_indices() {
        let (kind, end) = (Kind::of(character), start + character.len_utf8());
        match (before, kind, ranges.last_mut()) {
            (_, Kind::Other, _) => {}
            ((Kind::Word, _), Kind::Word, Some(word)) => word.end = end,
            // The first character of a run stands alone only until the second one follows.
            ((Kind::Cjk, previous), Kind::Cjk, Some(alone)) if alone.start == previous => alone.end = end,
            ((Kind::Cjk, previous), Kind::Cjk, _) => ranges.push(previous..end),
            _ => ranges.push(start..end),
        }
        before = (kind, start);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Cjk,
    Word,
    Other,
}

impl Kind {
    fn of(character: char) -> Self {
        match character {
            _ if !character.is_alphanumeric() => Self::Other,
            '\u{1100}'..='\u{11ff}' | '\u{3005}'..='\u{9fff}' | '\u{ac00}'..='\u{d7ff}' => Self::Cjk,
            '\u{f900}'..='\u{faff}' | '\u{ff66}'..='\u{ffdc}' | '\u{20000}'..='\u{3ffff}' => Self::Cjk,
            _ => Self::Word,
        }
    }
}

struct WordStream<'a> {
    text: &'a str,
    normalised: bool,
    ranges: std::slice::Iter<'a, Range<usize>>,
    token: &'a mut Token,
}

impl TokenStream for WordStream<'_> {
    fn advance(&mut self) -> bool {
        let Some(range) = self.ranges.next() else { return false };
        self.token.position = self.token.position.wrapping_add(1);
        (self.token.offset_from, self.token.offset_to) = (range.start, range.end);
        let (word, folded) = (&self.text[range.clone()], &mut self.token.text);
        folded.clear();
        if word.is_ascii() {
            folded.push_str(word);
            folded.make_ascii_lowercase();
        } else if self.normalised {
            folded.extend(word.chars().default_case_fold().nfkc());
        } else {
            folded.extend(word.chars().map(narrow).flat_map(char::to_lowercase));
        }
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

/// Returns whether this character only says how its neighbours look or break. Two others end a word as a space does:
/// the zero-width space, and the zero-width non-joiner, which Persian has between the parts of a word.
fn is_invisible(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{200d}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0100}'..='\u{e01ef}')
}

/// Converts the wide form of an ASCII character, common in Chinese and Japanese text, into the ASCII character.
fn narrow(character: char) -> char {
    match character {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(character) - 0xfee0).unwrap_or(character),
        _ => character,
    }
}
