//! Parses JSON that other programs wrote, and locates errors in it.
//!
//! A lone surrogate (`"\ud83d"`) is legal in JSON but is not Unicode text. It is data, not an error, and becomes
//! U+FFFD, the replacement character. `bindings` treats Python's strings in the same way.
//!
//! This module does not read files, and does not find the records in them.

use std::borrow::Cow;
use std::fmt;

use serde::de::DeserializeOwned;

/// A JSON error and its position.
#[derive(Debug)]
pub(crate) struct JsonError {
    pub message: String,
    /// The position in bytes, starting at 1.
    pub column: usize,
    /// Whether the only error is that the text ends too early, for example because its writer was killed.
    pub is_unfinished: bool,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (column {})", self.message, self.column)
    }
}

impl JsonError {
    fn new(error: &serde_json::Error, json: &[u8]) -> Self {
        let message = error.to_string();
        let position = format!(" at line {} column {}", error.line(), error.column());
        let message = message.strip_suffix(&position).unwrap_or(&message).to_owned();
        // serde_json reports a number cut off at `1.` or `1e` as a syntax error, not as an unexpected end.
        let ends_in_number = error.is_syntax() && error.column() == json.len() && json.last() != Some(&b'}');
        Self { message, column: error.column(), is_unfinished: error.is_eof() || ends_in_number }
    }
}

/// Parses JSON text, which may contain lone surrogates.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, JsonError> {
    serde_json::from_slice(json).or_else(|error| match without_lone_surrogates(json) {
        Cow::Borrowed(_) => Err(JsonError::new(&error, json)),
        Cow::Owned(json) => serde_json::from_slice(&json).map_err(|error| JsonError::new(&error, &json)),
    })
}

/// Replaces each escape of a lone surrogate with `\ufffd`. The length stays the same, so column numbers stay correct.
fn without_lone_surrogates(json: &[u8]) -> Cow<'_, [u8]> {
    let mut json = Cow::Borrowed(json);
    let mut at = 0;
    while let Some(escape) = memchr::memchr(b'\\', &json[at..]) {
        at += escape;
        at += match (surrogate(&json[at..]), json.get(at + 6..).and_then(surrogate)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(_), _) => {
                json.to_mut()[at..at + 6].copy_from_slice(br"\ufffd");
                6
            }
            (None, _) => 2,
        };
        at = at.min(json.len());
    }
    json
}

/// Returns the surrogate whose escape starts the text.
fn surrogate(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(br"\u")?.get(..4)?;
    let unit = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    (0xd800..=0xdfff).contains(&unit).then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_surrogates_become_the_replacement_character() {
        let cases = [
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\ud83d\ude00 \uD83D!""#, "\u{1f600} \u{fffd}!"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\\ud83d \udc00""#, "\\ud83d \u{fffd}"),
        ];
        for (json, text) in cases {
            assert_eq!(parse::<String>(json.as_bytes()).unwrap(), text, "{json}");
        }
        let error = parse::<Vec<String>>(br#"["\ud83d", 1]"#).unwrap_err();
        assert_eq!((error.column, error.is_unfinished), (12, false), "{error}");
        for unfinished in [r#"["\ud83d", "#, r#"["\ud83"#, "[1.", "[-", "[1e", "[tru"] {
            assert!(parse::<serde_json::Value>(unfinished.as_bytes()).unwrap_err().is_unfinished, "{unfinished}");
        }
        for wrong in ["important", "[1}", r#"{"a": 1}}"#] {
            assert!(!parse::<serde_json::Value>(wrong.as_bytes()).unwrap_err().is_unfinished, "{wrong}");
        }
    }
}
