//! How text becomes words: one analyzer for each language, used on passages and on queries alike.
//!
//! For most languages a word is a run of letters and digits, in lower case; stop words are dropped where Tantivy has a
//! list of them, and Snowball takes the stem. [`Language::Cjk`] is for text that has no spaces between words: each two
//! neighbouring characters are a word, as in Lucene's CJKAnalyzer, which needs no dictionary. [`Language::None`] knows
//! nothing of any language.
//!
//! Not here: telling the language from the text; Tamil, whose words Tantivy's tokenizer breaks at the pulli; simplified
//! and traditional Chinese as one.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tantivy::tokenizer::{
    Language as Snowball, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, StopWordFilter, TextAnalyzer, Token,
    TokenStream, Tokenizer,
};

use crate::Error;

/// What passages and queries are written in. Its name is lower case: `english`, `cjk`, `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Language {
    /// One with a Snowball stemmer.
    Stemmed(Snowball),
    /// Chinese, Japanese or Korean: pairs of characters; what else there is, by words.
    Cjk,
    /// Words as they are, in lower case.
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

/// Longer words, in bytes, are left out.
const LONGEST: usize = 39;

impl Default for Language {
    fn default() -> Self {
        Self::Stemmed(Snowball::English)
    }
}

impl Language {
    /// Every language there is.
    pub fn all() -> impl Iterator<Item = Self> {
        STEMMED.iter().map(|&(_, stems)| Self::Stemmed(stems)).chain([Self::Cjk, Self::None])
    }

    /// What becomes of text, in words.
    pub fn description(self) -> String {
        let kept = format!("words of at most {LONGEST} bytes, lower case");
        match self {
            Self::Stemmed(stems) if StopWordFilter::new(stems).is_some() => {
                format!("{kept}, without stop words, Snowball stems")
            }
            Self::Stemmed(_) => format!("{kept}, Snowball stems"),
            Self::Cjk => format!("pairs of Chinese, Japanese and Korean characters; other {kept}"),
            Self::None => kept,
        }
    }

    pub(super) fn analyzer(self) -> TextAnalyzer {
        let long = RemoveLongFilter::limit(LONGEST + 1);
        let words = || TextAnalyzer::builder(SimpleTokenizer::default()).filter(long.clone()).filter(LowerCaser);
        match self {
            Self::Stemmed(stems) => match StopWordFilter::new(stems) {
                Some(stop_words) => words().filter(stop_words).filter(Stemmer::new(stems)).build(),
                None => words().filter(Stemmer::new(stems)).build(),
            },
            Self::Cjk => TextAnalyzer::builder(Pairs::default()).filter(long).filter(LowerCaser).build(),
            Self::None => words().build(),
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

/// Tokens of [`Language::Cjk`].
#[derive(Clone, Default)]
struct Pairs {
    /// Where they are in the text.
    ranges: Vec<Range<usize>>,
    token: Token,
}

impl Tokenizer for Pairs {
    type TokenStream<'a> = PairStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> PairStream<'a> {
        find(text, &mut self.ranges);
        self.token.reset();
        PairStream { text, ranges: self.ranges.iter(), token: &mut self.token }
    }
}

fn find(text: &str, ranges: &mut Vec<Range<usize>>) {
    ranges.clear();
    let mut before = (Kind::Other, 0);
    for (start, character) in text.char_indices() {
        let (kind, end) = (Kind::of(character), start + character.len_utf8());
        match (before, kind, ranges.last_mut()) {
            (_, Kind::Other, _) => {}
            ((Kind::Word, _), Kind::Word, Some(word)) => word.end = end,
            // The first character of several stands alone only until the second comes.
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

struct PairStream<'a> {
    text: &'a str,
    ranges: std::slice::Iter<'a, Range<usize>>,
    token: &'a mut Token,
}

impl TokenStream for PairStream<'_> {
    fn advance(&mut self) -> bool {
        let Some(range) = self.ranges.next() else { return false };
        self.token.position = self.token.position.wrapping_add(1);
        (self.token.offset_from, self.token.offset_to) = (range.start, range.end);
        self.token.text.clear();
        self.token.text.extend(self.text[range.clone()].chars().map(narrow));
        true
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

/// Of the wide forms of ASCII, which such text uses, the plain one.
fn narrow(character: char) -> char {
    match character {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(character) - 0xfee0).unwrap_or(character),
        _ => character,
    }
}
