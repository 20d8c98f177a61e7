//! Parses Python literals into a canonical form. Text that is not a literal stays text, and nothing is evaluated.
//!
//! Numbers are exact decimals of any size. A numpy scalar counts as the value that it holds (`np.float64(3.0)`). Not
//! parsed, and therefore compared as text: complex numbers, bytes, f-strings, tuples without parentheses, numbers with
//! leading zeros, and nesting deeper than 64 levels.

use std::fmt::{self, Write};

/// A parsed value. Its `Display` output is the canonical form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Literal {
    /// `None`, `True`, `False`, `nan`, `inf` or `-inf`, as Python spells them.
    Name(&'static str),
    Number(Decimal),
    Text(String),
    /// A list or a tuple.
    List(Vec<Literal>),
    /// Sorted, without duplicates.
    Set(Vec<Literal>),
    /// Sorted, without duplicate entries. Two entries can have equal keys, if only white space distinguished the keys.
    Dict(Vec<(Literal, Literal)>),
}

impl Literal {
    /// Parses the whole text as one literal, ignoring white space around it.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parser = Parser { rest: text.trim() };
        let literal = parser.value(0)?;
        parser.rest.is_empty().then_some(literal)
    }

    /// Converts a string: to a number if it spells one, and to text otherwise.
    fn text(text: &str) -> Self {
        match Decimal::parse(text.trim()) {
            Some(number) => Self::Number(number),
            None => Self::Text(collapse(text)),
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, nested: bool) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, open, items: &[Self], close| {
            f.write_char(open)?;
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    f.write_str(", ")?;
                }
                item.write(f, true)?;
            }
            f.write_char(close)
        };
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) if nested => write!(f, "{text:?}"),
            Self::Text(text) => f.write_str(text),
            Self::List(items) => list(f, '[', items, ']'),
            Self::Set(items) if items.is_empty() => f.write_str("set()"),
            Self::Set(items) => list(f, '{', items, '}'),
            Self::Dict(items) => {
                f.write_char('{')?;
                for (index, (key, value)) in items.iter().enumerate() {
                    if index > 0 {
                        f.write_str(", ")?;
                    }
                    key.write(f, true)?;
                    f.write_str(": ")?;
                    value.write(f, true)?;
                }
                f.write_char('}')
            }
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, false)
    }
}

/// Replaces each run of white space with one space, and trims both ends.
pub fn collapse(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An exact decimal: `digits` times ten to the power of `exponent`. `digits` has no zeros at either end, and is empty
/// for zero.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Parses an int or a float as written by Python's `repr` or in JSON, with an optional `+`.
    fn parse(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let padded = whole.len() > 1 && whole.starts_with('0');
        if padded || whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_end_matches('0');
        let exponent = i64::from(exponent) - fraction.len() as i64 + (digits.len() - significant.len()) as i64;
        let digits = significant.trim_start_matches('0').to_owned();
        Some(if digits.is_empty() {
            Self { negative: false, digits, exponent: 0 }
        } else {
            Self { negative, digits, exponent }
        })
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PLAIN: i64 = 40; // more zeros than this are written as an exponent
        let Self { negative, digits, exponent } = self;
        let point = digits.len() as i64 + exponent;
        f.write_str(if *negative { "-" } else { "" })?;
        match (*exponent, point) {
            _ if digits.is_empty() => f.write_str("0"),
            (0..PLAIN, _) => write!(f, "{digits}{:0<1$}", "", *exponent as usize),
            (_, 1..) if *exponent < 0 => write!(f, "{}.{}", &digits[..point as usize], &digits[point as usize..]),
            (_, ..=0) if -point < PLAIN => write!(f, "0.{:0<1$}{digits}", "", -point as usize),
            _ => write!(f, "{digits}e{exponent}"),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn value(&mut self, depth: usize) -> Option<Literal> {
        const DEEPEST: usize = 64;
        if depth > DEEPEST {
            return None;
        }
        let value = match self.rest.bytes().next()? {
            b'[' => Literal::List(self.items('[', ']', depth)?.0),
            b'(' => {
                let (mut items, comma) = self.items('(', ')', depth)?;
                if items.len() == 1 && !comma { items.pop()? } else { Literal::List(items) }
            }
            b'{' => self.braces(depth)?,
            b'"' | b'\'' => Literal::text(&self.string()?),
            b'n' if self.scalar_of_numpy() => {
                let value = self.value(depth + 1)?;
                self.eat(')').then_some(value)?
            }
            _ => self.atom()?,
        };
        self.blanks();
        Some(value)
    }

    /// Consumes the start of a numpy scalar's `repr`, up to its value.
    fn scalar_of_numpy(&mut self) -> bool {
        const TYPES: [&str; 9] = ["float", "int", "uint", "bool", "str", "longdouble", "longlong", "ulonglong", "intc"];
        let Some(name) = ["np.", "numpy."].iter().find_map(|prefix| self.rest.strip_prefix(prefix)) else {
            return false;
        };
        let Some((kind, value)) = name.split_once('(') else { return false };
        let known = TYPES.contains(&kind.trim_end_matches(|char: char| char.is_ascii_digit() || char == '_'));
        if known {
            self.rest = value.trim_start();
        }
        known
    }

    fn items(&mut self, open: char, close: char, depth: usize) -> Option<(Vec<Literal>, bool)> {
        self.eat(open).then_some(())?;
        let (mut items, mut comma) = (Vec::new(), false);
        while !self.eat(close) {
            if !items.is_empty() && !comma {
                return None;
            }
            items.push(self.value(depth + 1)?);
            comma = self.eat(',');
        }
        Some((items, comma))
    }

    fn braces(&mut self, depth: usize) -> Option<Literal> {
        self.eat('{').then_some(())?;
        let (mut dict, mut set) = (Vec::new(), Vec::new());
        let mut comma = true;
        while !self.eat('}') {
            if !comma {
                return None;
            }
            let key = self.value(depth + 1)?;
            if self.eat(':') {
                dict.push((key, self.value(depth + 1)?));
            } else {
                set.push(key);
            }
            comma = self.eat(',');
        }
        dict.sort();
        dict.dedup();
        set.sort();
        set.dedup();
        match (dict.is_empty(), set.is_empty()) {
            (false, false) => None,
            (true, false) => Some(Literal::Set(set)),
            _ => Some(Literal::Dict(dict)),
        }
    }

    /// Parses a number or a name.
    fn atom(&mut self) -> Option<Literal> {
        let length = self.rest.find([',', ':', ']', ')', '}', ' ', '\t', '\n', '\r']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(length);
        let literal = match word {
            "None" => Literal::Name("None"),
            "True" | "np.True_" => Literal::Name("True"),
            "False" | "np.False_" => Literal::Name("False"),
            "nan" => Literal::Name("nan"),
            "inf" => Literal::Name("inf"),
            "-inf" => Literal::Name("-inf"),
            "set()" => Literal::Set(Vec::new()),
            _ => Literal::Number(Decimal::parse(word)?),
        };
        self.rest = rest;
        Some(literal)
    }

    fn string(&mut self) -> Option<String> {
        let mut chars = self.rest.char_indices();
        let (_, quote) = chars.next()?;
        let mut text = String::new();
        loop {
            let (at, char) = chars.next()?;
            let unit = match char {
                '\\' => {
                    let (_, escape) = chars.next()?;
                    let mut hex =
                        |digits| (0..digits).try_fold(0, |code, _| Some(code * 16 + chars.next()?.1.to_digit(16)?));
                    match escape {
                        'n' => '\n'.into(),
                        't' => '\t'.into(),
                        'r' => '\r'.into(),
                        'b' => '\u{8}'.into(),
                        'f' => '\u{c}'.into(),
                        'x' => hex(2)?,
                        'u' => hex(4)?,
                        'U' => hex(8)?,
                        '\\' | '\'' | '"' => escape.into(),
                        _ => return None,
                    }
                }
                '\n' => return None,
                _ if char == quote => {
                    self.rest = &self.rest[at + 1..];
                    return Some(text);
                }
                _ => char.into(),
            };
            text.push(char::from_u32(unit)?);
        }
    }

    fn eat(&mut self, char: char) -> bool {
        let Some(rest) = self.rest.strip_prefix(char) else { return false };
        self.rest = rest;
        self.blanks();
        true
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }
}
