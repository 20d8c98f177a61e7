//! The paper's form: `Thought:`, then `Code:` and a block of Python. It is also smolagents'.
//!
//! - **Thought**: the text before the code, with an optional `Thought:` in front. A `<think>...</think>` at the start
//!   (or what ends in a lone `</think>`, where the template wrote the opening tag) belongs to it; nothing inside is
//!   code. One that never ends is all thought, up to a block announced by `Code:`.
//! - **Code**: blocks that begin, on a line of their own, with ```` ```py ````, ```` ```python ````,
//!   ```` ```python3 ```` or `<code>`. A fence without a language counts only right after `Code:`. They end at their closing fence or
//!   tag, at `<end_code>`, or at a line `Observation:`; what looks like an end inside a Python string is none. A
//!   fence that the text does not close is accepted when what it holds is whole Python as far as brackets and strings
//!   tell: a stop sequence (`<end_code>`, the fence itself) is often kept back by the engine. Whoever knows that the
//!   completion was cut by its token limit should not trust such an action.
//! - **Several blocks** are joined by an empty line, as smolagents does, up to the first sign that the action is
//!   over: `<end_code>`, a line `Observation:` or `Thought:`, or a block in another language (```` ```output ````).
//!   All that follows the action is dropped: the model made it up. When a block follows `Code:`, blocks before it are
//!   part of the Thought.
//! - **A final answer in plain text**, where there is no code: `<answer>...</answer>`, else what follows a line's
//!   `Final answer:` (that line, or the lines under it), else `\boxed{...}` when all boxes of the text agree. A box
//!   is taken off its answer.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::{memchr, memchr2, memchr3, memmem};

use super::plain_answer::plain_answer;
use super::text::{dedent, joined, loops, trimmed, trimmed_all};
use super::{Act, Action, ParseFailureKind, Read, Unread};

pub const HOW: &str = "Write `Thought:` and what you think, then `Code:` and Python between ```py and ```<end_code>; \
                       give the answer with final_answer(...) in the code.";

/// What the model ends its code with.
const END_CODE: &str = "<end_code>";

pub fn read(completion: &str) -> Read {
    let thinking = Thinking::find(completion);
    let found = match thinking.body {
        Some(start) => Blocks::find(completion, start),
        None => Blocks::default(),
    };
    if let Some(unclosed) = found.blocks.last().filter(|block| !block.closed)
        && (loops(completion) || !is_whole(&completion[unclosed.code.clone()]))
    {
        let what = "Your code breaks off before its end. Write shorter code, and close it with ``` and <end_code>.";
        return Err(Unread(ParseFailureKind::UnclosedCode, what.into()));
    }
    let code: Vec<Range<usize>> = found
        .blocks
        .iter()
        .map(|block| trimmed(completion, block.code.clone()))
        .filter(|code| !code.is_empty())
        .collect();
    if let Some(first) = found.blocks.first().filter(|_| !code.is_empty()) {
        let cell = joined(code.iter().map(|range| dedent(&completion[range.clone()])), "\n\n");
        return Ok(Action::new(completion, thinking.thought(completion, first.start), Act::Cell(cell, code)));
    }
    if let Some((start, answer)) = thinking.body.and_then(|body| plain_answer(completion, body)) {
        return Ok(Action::new(completion, thinking.thought(completion, start), Act::Answer(answer)));
    }
    Err(if !found.blocks.is_empty() {
        Unread(ParseFailureKind::EmptyCode, "Your code block is empty.".into())
    } else if thinking.body.is_none() {
        Unread::no_action("Your thinking did not end: <think> without </think>. Think less, then act.")
    } else if let Some(language) = found.foreign {
        Unread::no_action(if language.is_empty() {
            "Your code block does not say that it is Python.".to_owned()
        } else {
            format!("Your code block is marked `{language}`; only Python can be run.")
        })
    } else {
        Unread::no_action("Your reply has neither code nor a final answer.")
    })
}

// ---- the thinking of reasoning models ----------------------------------------------------------

struct Thinking {
    /// What stands between the tags, trimmed.
    inside: Option<Range<usize>>,
    /// Where the reply proper begins; `None` when the thinking never ends.
    body: Option<usize>,
}

impl Thinking {
    fn find(text: &str) -> Self {
        const OPEN: &str = "<think>";
        const CLOSE: &str = "</think>";
        static FIND_CLOSE: LazyLock<memmem::Finder> = LazyLock::new(|| memmem::Finder::new(CLOSE));
        let blank = text.len() - text.trim_start().len();
        let start = if text[blank..].starts_with(OPEN) { Some(blank + OPEN.len()) } else { None };
        match (start, FIND_CLOSE.find(text.as_bytes())) {
            (None, None) => Self { inside: None, body: Some(0) },
            // Models forget to end their thinking, but `Code:` and a block is no thought.
            (Some(start), None) if Blocks::find(text, start).blocks.iter().any(|block| block.announced) => {
                Self { inside: None, body: Some(start) }
            }
            (Some(start), None) => Self { inside: Some(trimmed_all(text, start..text.len())), body: None },
            // A `</think>` after the first code is text about thinking, not the end of it.
            (None, Some(end)) if Blocks::find(text, 0).blocks.first().is_some_and(|block| block.start < end) => {
                Self { inside: None, body: Some(0) }
            }
            (start, Some(end)) => Self {
                inside: Some(trimmed_all(text, start.unwrap_or(0).min(end)..end)),
                body: Some(end + CLOSE.len()),
            },
        }
    }

    /// The ranges of the Thought, given where the action begins.
    fn thought(&self, text: &str, action: usize) -> Vec<Range<usize>> {
        let start = self.body.unwrap_or(0).min(action);
        let mut spoken = trimmed_all(text, start..action);
        if let Some(rest) = after_label(&text[spoken.clone()], &["thought", "thoughts"]) {
            spoken.start = spoken.end - rest.len();
        }
        self.inside.clone().into_iter().chain([spoken]).filter(|range| !range.is_empty()).collect()
    }
}

// ---- code blocks -------------------------------------------------------------------------------

struct Block {
    /// Where its `Code:` label or, without one, its opening line begins.
    start: usize,
    code: Range<usize>,
    announced: bool,
    closed: bool,
}

#[derive(Default)]
struct Blocks<'a> {
    blocks: Vec<Block>,
    /// The language of a block that was passed over ("" for none).
    foreign: Option<&'a str>,
}

impl<'a> Blocks<'a> {
    fn find(text: &'a str, from: usize) -> Self {
        let mut found = Self::default();
        let mut at = from;
        let mut label = None; // a `Code:` seen on the lines just above, and nothing but blank lines since
        while at < text.len() {
            let line_end = memchr(b'\n', &text.as_bytes()[at..]).map_or(text.len(), |length| at + length + 1);
            let line = &text[at..line_end];
            let Some(opener) = Opener::read(line) else {
                if !found.blocks.is_empty() && is_over(line) {
                    break;
                }
                if !line.trim_start().is_empty() {
                    label = is_code_label(line).then_some(at);
                }
                at = line_end;
                continue;
            };
            let announced = label.is_some() || opener.labelled;
            let start = label.take().unwrap_or(at);
            let inside = at + opener.length;
            if opener.is_python || opener.language.is_some_and(str::is_empty) && announced {
                let (code, next) = closing(text, inside, opener.ticks);
                if announced && !found.blocks.iter().any(|block| block.announced) {
                    found.blocks.clear();
                }
                found.blocks.push(Block { start, code: inside..code, announced, closed: next.is_some() });
                let Some(next) = next else { break };
                at = next;
                // The rest of the closing line: `<end_code>`, or nothing that matters.
                if text[at..].trim_start().starts_with(END_CODE) || text[code..at].ends_with(END_CODE) {
                    break;
                }
            } else {
                if !found.blocks.is_empty() {
                    break;
                }
                found.foreign = opener.language;
                at = foreign_end(text, inside, opener.ticks);
            }
        }
        found
    }
}

struct Opener<'a> {
    /// Backticks of the fence; 0 for `<code>`.
    ticks: usize,
    is_python: bool,
    language: Option<&'a str>,
    labelled: bool,
    /// Bytes of the line up to the code.
    length: usize,
}

impl<'a> Opener<'a> {
    fn read(line: &'a str) -> Option<Self> {
        memchr2(b'`', b'<', line.as_bytes())?; // most lines have neither
        let after_label = after_label(line, CODE_LABEL);
        let (rest, labelled) = (after_label.unwrap_or(line.trim_start()), after_label.is_some());
        if let Some(rest) = rest.strip_prefix("<code>") {
            let rest = rest.trim_start_matches([' ', '\t']);
            let length = line.len() - rest.strip_prefix('\n').unwrap_or(rest).len();
            return Some(Self { ticks: 0, is_python: true, language: None, labelled, length });
        }
        let marked = rest.trim_start_matches('`');
        let ticks = rest.len() - marked.len();
        // A fence must end its line; what follows `<code>` on its line is code.
        if ticks < 3 || marked.contains('`') {
            return None;
        }
        let language = marked.trim_start_matches([' ', '\t']).split(char::is_whitespace).next().unwrap_or_default();
        Some(Self { ticks, is_python: is_python(language), language: Some(language), labelled, length: line.len() })
    }
}

/// Whether a fence's mark means Python: `py`, `python3`, `{.python}`.
fn is_python(language: &str) -> bool {
    let name = language.strip_prefix('{').unwrap_or(language);
    let name = name.strip_prefix('.').unwrap_or(name);
    let name = name.strip_suffix('}').unwrap_or(name);
    let name = name.strip_suffix(['2', '3']).unwrap_or(name);
    name.eq_ignore_ascii_case("py") || name.eq_ignore_ascii_case("python")
}

const CODE_LABEL: &[&str] = &["code"];

/// What follows the label, `Code:` for one, with blanks and Markdown's stars and `#` around it, that the text begins with.
fn after_label<'a>(text: &'a str, words: &[&str]) -> Option<&'a str> {
    fn past_stars(text: &str) -> &str {
        text.trim_start().trim_start_matches('*').trim_start()
    }
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || c == '*' || c == '#');
    let length = text.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (word, rest) = text.split_at(length);
    words.iter().find(|known| known.eq_ignore_ascii_case(word))?;
    past_stars(rest).strip_prefix(':').map(past_stars)
}

fn is_code_label(line: &str) -> bool {
    line.trim_end().ends_with([':', '*']) && after_label(line, CODE_LABEL).is_some_and(str::is_empty)
}

/// Whether the line says that the action before it is over.
fn is_over(line: &str) -> bool {
    let tag = line.trim_start().as_bytes().get(..END_CODE.len());
    tag.is_some_and(|tag| tag.eq_ignore_ascii_case(END_CODE.as_bytes()))
        || after_label(line, &["observation", "observations", "thought", "thoughts"]).is_some()
}

/// Where a block that is not for us ends: after its closing fence or, should it have none, before the next Python
/// block.
fn foreign_end(text: &str, from: usize, ticks: usize) -> usize {
    let mut at = from;
    let mut label = None;
    for line in text[from..].split_inclusive('\n') {
        if Opener::read(line).is_some_and(|opener| opener.is_python) {
            return label.unwrap_or(at);
        }
        let body = line.trim();
        if body.len() >= ticks && body.bytes().all(|byte| byte == b'`') {
            return at + line.len();
        }
        if !body.is_empty() {
            label = is_code_label(line).then_some(at);
        }
        at += line.len();
    }
    text.len()
}

/// Where the code that begins at `from` ends, and where the text goes on after what closed it.
///
/// `ticks` backticks close a fence, at the start of a line or the end of a line of code; `</code>` closes a tag
/// (`ticks` 0); `<end_code>` and a line `Observation:` close both. A fence that opens another block closes this one
/// and is left to be read again. An end inside a Python string counts only when no other comes, for then the string
/// was never one.
fn closing(text: &str, from: usize, ticks: usize) -> (usize, Option<usize>) {
    const LOOK_AHEAD: usize = 1 << 14; // bytes searched for an end outside strings: keeps the whole linear
    let mut in_string: Option<(usize, Option<usize>)> = None;
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
            && let Some(next) = closer(rest, line_start, ticks)
        {
            let end = (at, Some(at + next));
            if !lexer.in_string() {
                return end;
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
    in_string.unwrap_or((without_cut_closer(text, from, ticks), None))
}

/// The length of what closes the code here, if anything does.
fn closer(rest: &str, line_start: bool, ticks: usize) -> Option<usize> {
    match rest.as_bytes()[0] {
        b'<' if rest.starts_with(END_CODE) => Some(END_CODE.len()),
        b'<' if ticks == 0 && rest.starts_with("</code>") => Some("</code>".len()),
        b'`' if ticks > 0 => {
            let count = rest.bytes().take_while(|&byte| byte == b'`').count();
            let after = rest[count..].trim_start_matches([' ', '\t', '\r']);
            let ends_line = after.is_empty() || after.starts_with('\n');
            if count < ticks || !(line_start || ends_line || after.starts_with(END_CODE)) {
                None
            } else if !ends_line && !after.starts_with('<') {
                Some(0)
            } else {
                Some(count)
            }
        }
        b'O' if line_start && rest.starts_with("Observation:") => Some(0),
        _ => None,
    }
}

/// The end of code that nothing closed, less the piece of a closing tag that a stop sequence left.
fn without_cut_closer(text: &str, from: usize, ticks: usize) -> usize {
    let code = text[from..].trim_end();
    let closers: &[&str] = if ticks == 0 { &["</code>", END_CODE] } else { &["```", END_CODE] };
    let last_line = code.rfind('\n').map_or(0, |newline| newline + 1);
    let tail = code[last_line..].trim_start();
    if !tail.is_empty() && closers.iter().any(|closer| closer.starts_with(tail)) {
        return from + code.len() - tail.len();
    }
    from + code.len()
}

/// Whether code that nothing closed can be all there was: brackets and strings closed, no line that must go on.
fn is_whole(code: &str) -> bool {
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
