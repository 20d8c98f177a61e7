//! Just enough of Python's lexer to know where code ends that stands in a text.

use memchr::{memchr, memchr2, memchr3};

/// Where the code that begins at `from` ends, and where the text goes on after what closed it. `None` when nothing does.
///
/// `closer` gives the length of what closes the code at the beginning of a text, if anything does, and is told whether
/// that is the start of a line but for blanks. It is asked at `<`, backticks and starts of lines. An end inside a Python
/// string counts only when no other comes, for then the string was never one.
pub fn end_of_code(text: &str, from: usize, closer: impl Fn(&str, bool) -> Option<usize>) -> Option<(usize, usize)> {
    const LOOK_AHEAD: usize = 1 << 14; // bytes searched for an end outside strings: keeps the whole linear
    let mut in_string: Option<(usize, usize)> = None;
    let mut lexer = Lexer::default();
    let mark_from = |at: usize| memchr2(b'<', b'`', &text.as_bytes()[at..]).map_or(text.len(), |length| at + length);
    let mut mark = mark_from(from); // where the next fence or tag may be
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
            mark = mark_from(at + fence.max(1)); // what no fence is at its beginning is none further on
        }
        let blanks = |text: &str| text.len() - text.trim_start_matches([' ', '\t']).len();
        let indent = if line_start { blanks(rest) } else { 0 };
        let step = if indent > 0 { indent } else { lexer.step(rest, mark - at) };
        line_start = indent > 0 || rest.as_bytes()[step - 1] == b'\n';
        at += step;
    }
    in_string
}

/// Whether code that nothing closed can be all there was: brackets and strings closed, no line that must go on.
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

/// Just enough of Python's lexer to know strings, comments and brackets.
#[derive(Default)]
struct Lexer {
    /// The quotes that the string we are in will end with.
    quotes: Option<&'static str>,
    comment: bool,
    depth: i64,
}

impl Lexer {
    fn in_string(&self) -> bool {
        self.quotes.is_some()
    }

    /// Bytes that mean something to it outside strings and comments.
    const SIGNS: [bool; 256] = {
        let mut signs = [false; 256];
        let mut bytes: &[u8] = b"\"'\n#()[]{}";
        while let [byte, others @ ..] = bytes {
            signs[*byte as usize] = true;
            bytes = others;
        }
        signs
    };

    /// Takes one token, or at most so many bytes up to the next sign; returns their length in bytes, at least 1.
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
                self.quotes = None; // a one-line string left open is an error of the code, not of the text
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
