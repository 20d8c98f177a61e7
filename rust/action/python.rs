//! A partial Python lexer, which finds the end of code that is embedded in a text.

use std::collections::HashSet;

use memchr::{memchr, memchr2, memchr3};

/// Returns the end of the code that starts at `from`, and the position after the delimiter that closed it. Returns
/// `None` if nothing closes the code.
///
/// `closer` returns the length of the closing delimiter at the start of the given text, if there is one. Its second
/// argument says whether the text starts a line, not counting indentation. It is called at `<`, at backticks and at
/// line starts. A delimiter inside a Python string counts only if no other follows: the quote before it then did not
/// start a string.
pub fn end_of_code(text: &str, from: usize, closer: impl Fn(&str, bool) -> Option<usize>) -> Option<(usize, usize)> {
    const LOOK_AHEAD: usize = 1 << 14; // how far to search for a delimiter outside strings; keeps the search linear
    let mut in_string: Option<(usize, usize)> = None;
    let mut lexer = Lexer::default();
    let mark_from = |at: usize| memchr2(b'<', b'`', &text.as_bytes()[at..]).map_or(text.len(), |length| at + length);
    let mut mark = mark_from(from); // the next possible fence or tag
    let mut at = from;
    let mut line_start = true;
    while at < text.len() && in_string.is_none_or(|(end, _)| at - end < LOOK_AHEAD) {
        let rest = &text[at..];
        if mark < at {
            mark = mark_from(at);
        }
        if (at == mark || line_start)
            && let Some(length) = closer(rest, line_start)
        {
            let end = (at, at + length);
            if !lexer.in_string() {
                return Some(end);
            }
            in_string.get_or_insert(end);
        }
        if at == mark {
            let fence = rest.bytes().take_while(|&byte| byte == b'`').count();
            mark = mark_from(at + fence.max(1)); // no fence starts inside a run of backticks that is not one
        }
        let blanks = |text: &str| text.len() - text.trim_start_matches([' ', '\t']).len();
        let indent = if line_start { blanks(rest) } else { 0 };
        let step = if indent > 0 { indent } else { lexer.step(rest, mark - at) };
        line_start = indent > 0 || rest.as_bytes()[step - 1] == b'\n';
        at += step;
    }
    in_string
}

/// Returns whether unclosed code can be complete: all brackets and strings are closed, and the last line needs no
/// continuation.
pub fn is_whole(code: &str) -> bool {
    let mut lexer = Lexer::default();
    let (mut at, mut last) = (0, b':');
    while at < code.len() {
        let step = lexer.step(&code[at..], code.len());
        let taken = &code.as_bytes()[at..at + step];
        if !lexer.comment {
            last = taken.iter().copied().rfind(|byte| !byte.is_ascii_whitespace()).unwrap_or(last);
        }
        at += step;
    }
    !lexer.in_string() && lexer.depth == 0 && !b":\\,=+-/.@".contains(&last)
}

/// Returns the end of the first brackets of the code, with all that they enclose. Returns `None` if they are not closed.
pub fn end_of_brackets(code: &str) -> Option<usize> {
    let mut lexer = Lexer::default();
    let mut at = 0;
    let mut opened = false;
    while at < code.len() {
        at += lexer.step(&code[at..], code.len());
        opened |= lexer.depth > 0;
        if opened && lexer.depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Returns the names that an expression uses, including those in f-strings.
pub fn names(code: &str) -> HashSet<&str> {
    let mut found = HashSet::new();
    let mut lexer = Lexer::default();
    let (mut at, mut in_f_string, mut braces) = (0, false, 0);
    while at < code.len() {
        let (was_in_string, rest) = (lexer.in_string(), &code[at..]);
        let piece = &rest[..lexer.step(rest, rest.len())];
        if lexer.in_string() && !was_in_string {
            let prefix = code[..at].rsplit(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
            in_f_string = prefix.contains(['f', 'F']);
            braces = 0;
        } else if was_in_string && in_f_string {
            for part in piece.split_inclusive(['{', '}']) {
                if braces > 0 {
                    found.extend(names_in(part));
                }
                braces += i32::from(part.ends_with('{')) - i32::from(part.ends_with('}'));
            }
        } else if !was_in_string && !lexer.comment {
            found.extend(names_in(piece));
        }
        at += piece.len();
    }
    found
}

/// Returns the names in code without strings. Attributes and names of keyword arguments are none.
fn names_in(code: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let mut rest = code;
    std::iter::from_fn(move || {
        rest = &rest[rest.find(is_word)?..];
        let (word, after) = rest.split_at(rest.find(|c| !is_word(c)).unwrap_or(rest.len()));
        rest = after;
        let after = after.trim_start();
        let is_keyword = after.starts_with('=') && !after.starts_with("==");
        Some(if is_keyword { "" } else { word.split('.').next().unwrap_or_default() })
    })
    .filter(|name| name.starts_with(|c: char| c.is_alphabetic() || c == '_'))
}

/// A lexer for Python's strings, comments and brackets only.
#[derive(Default)]
struct Lexer {
    /// The quotes that will end the current string.
    quotes: Option<&'static str>,
    comment: bool,
    depth: i64,
}

impl Lexer {
    fn in_string(&self) -> bool {
        self.quotes.is_some()
    }

    /// Bytes that matter outside strings and comments.
    const SIGNS: [bool; 256] = {
        let mut signs = [false; 256];
        let mut bytes: &[u8] = b"\"'\n#()[]{}";
        while let [byte, others @ ..] = bytes {
            signs[*byte as usize] = true;
            bytes = others;
        }
        signs
    };

    /// Consumes one token, or up to `most` bytes before the next significant byte. Returns the length in bytes, at
    /// least 1.
    fn step(&mut self, rest: &str, most: usize) -> usize {
        let run = &rest.as_bytes()[..most.min(rest.len())];
        let sign = match self.quotes {
            Some(quotes) => memchr3(quotes.as_bytes()[0], b'\\', b'\n', run),
            None if self.comment => memchr(b'\n', run),
            None => run.iter().position(|&byte| Self::SIGNS[usize::from(byte)]),
        };
        let meaningless = sign.unwrap_or(run.len());
        if meaningless > 0 {
            return meaningless;
        }
        let byte = rest.as_bytes()[0];
        if let Some(quotes) = self.quotes {
            if byte == b'\\' {
                return 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
            }
            if rest.starts_with(quotes) {
                self.quotes = None;
                return quotes.len();
            }
            if byte == b'\n' && quotes.len() == 1 {
                self.quotes = None; // an unterminated one-line string is an error of the code and ends here
            }
            return 1;
        }
        match byte {
            b'\n' => self.comment = false,
            b'#' => self.comment = true,
            b'"' | b'\'' => {
                self.quotes = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quotes| rest.starts_with(quotes));
                return self.quotes.map_or(1, str::len);
            }
            b'(' | b'[' | b'{' => self.depth += 1,
            b')' | b']' | b'}' => self.depth -= 1,
            _ => {}
        }
        1
    }
}
