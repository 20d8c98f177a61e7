//! Parses JSON as models write it. A value is parsed completely or not at all.
//!
//! The parser also accepts syntax that has only one meaning: Python's `True`, `False` and `None`, single quotes, raw
//! line breaks and unknown escapes in strings, unquoted names, and a comma before a closing bracket. Numbers keep their
//! digits, so integers of any size are exact, and may be `NaN` and `Infinity`. The caller decides about closing brackets
//! that are missing or surplus at the end ([`Reader::lacking`]). Comments are not supported.
//!
//! This module uses no JSON repair crate. Those crates guess where strings end, and drop or invent text, but an action
//! is carried out and must not be a guess.

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use serde_json::value::RawValue;

/// A JSON value that can be written as a Python literal.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// A number, `True`, `False` or `None`.
    Constant(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// The maximum nesting depth. The parser is recursive, so deeper values are rejected.
const MAX_DEPTH: usize = 100;

impl Json {
    pub const NONE: &str = "None";

    /// Parses a text that is exactly one value.
    pub fn read(text: &str) -> Option<Self> {
        let mut reader = Reader::new(text);
        let value = reader.value()?;
        reader.is_at_end().then_some(value)
    }

    /// Like [`Json::read`], but brackets may be missing at the end of the text.
    pub fn read_cut(text: &str) -> Option<Self> {
        let mut reader = Reader::new(text);
        let value = reader.value()?;
        reader.peek().is_none().then_some(value)
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the value as a Python literal.
    pub fn literal(&self) -> String {
        let joined = |parts: Vec<String>| parts.join(", ");
        match self {
            Self::Constant(word) => word.clone(),
            Self::Text(text) => quoted(text),
            Self::List(values) => format!("[{}]", joined(values.iter().map(Self::literal).collect())),
            Self::Object(fields) => {
                let pair = |(name, value): &(String, Self)| format!("{}: {}", quoted(name), value.literal());
                format!("{{{}}}", joined(fields.iter().map(pair).collect()))
            }
        }
    }
}

/// Returns the text as a JSON string, which is also a Python string literal.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

impl Default for Json {
    fn default() -> Self {
        Self::Constant(Self::NONE.to_owned())
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::default(),
            Value::Bool(true) => Self::Constant("True".to_owned()),
            Value::Bool(false) => Self::Constant("False".to_owned()),
            Value::Number(number) => Self::Constant(number.to_string()),
            Value::String(text) => Self::Text(text),
            Value::Array(values) => Self::List(values.into_iter().map(Self::from).collect()),
            Value::Object(fields) => {
                Self::Object(fields.into_iter().map(|(name, value)| (name, value.into())).collect())
            }
        }
    }
}

/// Deserializes from JSON text only, because it keeps the digits of numbers.
impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        Self::read(raw.get()).ok_or_else(|| de::Error::custom(format!("nested deeper than {MAX_DEPTH} levels")))
    }
}

fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c == '-' || c.is_ascii_digit())
}

/// A parser that reads one value after another.
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// The number of open brackets.
    open: usize,
    /// The number of brackets still open at the end of the text, after a value that is otherwise complete.
    pub lacking: usize,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str) -> Self {
        Self::starting_at(text, 0)
    }

    pub fn starting_at(text: &'a str, at: usize) -> Self {
        Self { text, at, open: 0, lacking: 0 }
    }

    /// Returns the number of bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn is_at_end(&mut self) -> bool {
        self.peek().is_none() && self.lacking == 0
    }

    /// Parses the next value.
    pub fn value(&mut self) -> Option<Json> {
        match self.peek()? {
            b'{' => self.object(),
            b'[' => {
                let mut values = Vec::new();
                self.items(b']', |reader| {
                    values.push(reader.value()?);
                    Some(())
                })?;
                Some(Json::List(values))
            }
            b'"' | b'\'' => self.string().map(Json::Text),
            _ => self.constant(),
        }
    }

    fn object(&mut self) -> Option<Json> {
        let mut fields: Vec<(String, Json)> = Vec::new();
        self.items(b'}', |reader| {
            let name = match reader.peek()? {
                b'"' | b'\'' => reader.string()?,
                _ => reader.word(|byte| byte.is_ascii_alphanumeric() || byte == b'_')?.to_owned(),
            };
            reader.take(b':')?;
            let value = reader.value()?;
            match fields.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => *known = value, // the last one wins, as in other JSON parsers
                None => fields.push((name, value)),
            }
            Some(())
        })?;
        Some(Json::Object(fields))
    }

    /// Parses the items between brackets, up to `end`.
    fn items(&mut self, end: u8, mut item: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.at += 1;
        self.open += 1;
        if self.open > MAX_DEPTH {
            return None;
        }
        let mut first = true;
        loop {
            match self.peek() {
                Some(byte) if byte == end => {
                    self.at += 1;
                    break;
                }
                Some(_) if first => {}
                Some(b',') => {
                    self.at += 1;
                    if self.peek() == Some(end) {
                        self.at += 1;
                        break;
                    }
                }
                None if !first => {
                    self.lacking += 1;
                    break;
                }
                _ => return None,
            }
            item(self)?;
            first = false;
        }
        self.open -= 1;
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.peek()?;
        let mut text = String::new();
        self.at += 1;
        loop {
            let rest = &self.text[self.at..];
            let length = memchr::memchr2(quote, b'\\', rest.as_bytes())?;
            text.push_str(&rest[..length]);
            self.at += length + 1;
            if rest.as_bytes()[length] == quote {
                return Some(text);
            }
            self.escape(&mut text)?;
        }
    }

    fn escape(&mut self, text: &mut String) -> Option<()> {
        let escaped = self.text[self.at..].chars().next()?;
        self.at += escaped.len_utf8();
        match escaped {
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            '"' | '\'' | '\\' | '/' => text.push(escaped),
            'u' => {
                let first = self.unit()?;
                let pair = (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u");
                let units = if pair {
                    self.at += 2;
                    vec![first, self.unit()?]
                } else {
                    vec![first]
                };
                text.push_str(&String::from_utf16_lossy(&units));
            }
            other => text.extend(['\\', other]), // as in Python; models write LaTeX like this
        }
        Some(())
    }

    fn unit(&mut self) -> Option<u16> {
        let digits =
            self.text.get(self.at..self.at + 4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        self.at += 4;
        u16::from_str_radix(digits, 16).ok()
    }

    fn constant(&mut self) -> Option<Json> {
        let word = self.word(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))?;
        let python = match word {
            "true" | "True" => "True",
            "false" | "False" => "False",
            "null" | "None" => Json::NONE,
            "NaN" => r#"float("nan")"#, // as Python's JSON encoder writes it
            "Infinity" => r#"float("inf")"#,
            "-Infinity" => r#"float("-inf")"#,
            number => serde_json::from_str::<&RawValue>(number).ok().filter(|_| is_number(number))?.get(),
        };
        Some(Json::Constant(python.to_owned()))
    }

    fn word(&mut self, belongs: impl Fn(u8) -> bool) -> Option<&'a str> {
        let rest = &self.text[self.at..];
        let length = rest.bytes().position(|byte| !belongs(byte)).unwrap_or(rest.len());
        self.at += length;
        (length > 0).then(|| &rest[..length])
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Skips white space and returns the next byte.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text.as_bytes().get(self.at).copied()
    }
}
