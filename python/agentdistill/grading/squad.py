"""SQuAD's metrics for short textual answers, exact match and F1, as in HotpotQA's evaluation script."""

import html
import re
import string
import unicodedata
from collections import Counter


def exact_match(reference: str, answer: str) -> bool:
    """Whether the texts are equal except for case, punctuation, articles and white space, as in SQuAD's script.

    Unlike there, signs that distinguish numbers and names count ("-5", "5.5", "C++"). An empty answer is wrong.
    """
    return bool(answer.strip()) and normalize(reference) == normalize(answer)


def f1(reference: str, answer: str) -> float:
    """Harmonic mean of the precision and recall of the answer's words, from 0 to 1, after the normalization of
    ``exact_match``. As in HotpotQA's script, "yes", "no" and "noanswer" match only themselves."""
    expected, given = normalize(reference).split(), normalize(answer).split()
    if expected != given and any(words in (["yes"], ["no"], ["noanswer"]) for words in (expected, given)):
        return 0.0
    common = (Counter(expected) & Counter(given)).total()
    return 2 * common / (len(expected) + len(given)) if common else 0.0


def normalize(text: str) -> str:
    """SQuAD's normalization: lower case, no punctuation, no articles, single spaces.

    Text that would become empty keeps its articles ("The The"), or else its punctuation ("!!!"), so that such texts are
    not all equal. Unlike SQuAD's script, which only considers ASCII, it also removes other punctuation, such as dashes
    and curly quotes, and compares letters however Unicode encodes them. Numbers keep their signs and what stands
    between their digits, so that 5.5 is not 55, except for thousands separators. A last "A" is a label and no article
    ("Vitamin A"), and signs that distinguish names and limits stay ("C++", "C#", "A-", "<5"). LaTeX's commands for text
    and boxes do not count, and HTML's entities are characters.
    """
    for _ in range(_MAX_NESTING):
        text, removed = _LATEX.subn(r"\1", text)
        if not removed:
            break
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text).translate(_SIGNS)
    folded = unicodedata.normalize("NFC", "".join(map(_digit, _COMPATIBLE.sub(_decomposed, text).casefold())))
    folded = _THOUSANDS.sub(lambda number: re.sub(r"\D", "", number[0]), folded).replace("$", "")
    for form, plain in _SPELLINGS:
        folded = form.sub(plain, folded)
    bare = re.sub(r"(?<=\d)\s+(?=°)", "", _PIECES.sub(_without_punctuation, folded))
    words = _ARTICLES.sub(" ", bare).split()
    return " ".join(words) or " ".join(bare.split()) or " ".join(folded.split())


_LATEX = re.compile(r"\\(?:boxed|text(?:bf|it|rm)?|math(?:bf|rm))\s*\{([^{}]*)\}")
_MAX_NESTING = 50
"""LaTeX's commands in each other; deeper ones stay, since each level costs a pass over the text."""
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[\da-f]{1,6}|[a-z]{2,31}\d{0,2});", re.IGNORECASE)
_SIGNS = str.maketrans({**dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"), "\u2044": "/", "\u266f": "#"})
_COMPATIBLE = re.compile("[\u00bc-\u00be\u2080-\u209c\u2103\u2109\u2116\u2150-\u217f\u2460-\u249b\uff00-\uffef]+")
"""Full-width and half-width forms, indices, fractions, Roman and circled numbers. Not exponents: 10² is not 102."""
_SPACE = "\u00a0\u2009\u202f"
_THOUSANDS = re.compile(
    r"(?<=\d),(?=\d{3}(?!\d))|(?<![\d.,])\d{1,2}(?:,\d\d)+,\d{3}(?![\d,])"  # 1,234 and, in India, 12,34,567
    rf"|(?<![\d.,{_SPACE}])\d{{1,3}}(?:[{_SPACE}]\d{{3}})+(?![\d{_SPACE}])"
)
_SPELLINGS = [
    (re.compile(form), plain)
    for form, plain in (
        (r"(?<=\w),\s*(?:an?|the)(?=\W*$)", ""),  # Beatles, The
        (r"(?<=\d)\s+-\s+(?=\d)", "-"),
        (r"(?<![\w.])\.(?=\d)", "0."),
        (r"(?<!\S)&(?!\S)", "and"),
    )
]
"""Spellings that do not count, and what they are replaced by."""
_PIECES = re.compile(
    r"(?P<kept>(?:(?<![\w.-])-)?\d+(?:[^\w\s]\d+)*"  # a number
    r"|(?:(?<=\b[a-z])|(?<=\bab))-(?=[^\w\s-]*(?:\s|$))"  # A-, AB-
    r"|(?<=\w)\+{1,2}(?=[^\w+\s]*(?:\s|$))|(?<=[^\W\d_])#(?=[^\w#\s]*(?:\s|$))"  # C++, 18+, C#
    r"|(?<!\S)[<>]\s*(?=-?\d))"  # <5
    r"|.",
    re.DOTALL,
)
_ARTICLES = re.compile(r"(?<!\S)(?:a(?!\s*$)|an|the)(?!\S)")


def _decomposed(characters: re.Match[str]) -> str:
    plain = (unicodedata.normalize("NFKC", character) for character in characters[0])
    return "".join(f" {each} ".replace("\u2044", "/") if "\u2044" in each else each for each in plain)


def _digit(character: str) -> str:
    """Digits of all scripts as ASCII's, nothing for an invisible character, and any other character as it is."""
    if unicodedata.category(character) == "Cf":
        return ""
    return str(unicodedata.decimal(character)) if character.isdecimal() else character


def _without_punctuation(piece: re.Match[str]) -> str:
    if piece["kept"]:
        return f" {piece['kept']}" if re.match(r"-\d", piece["kept"]) else piece["kept"].rstrip()
    character = piece[0]
    return "" if character in string.punctuation or unicodedata.category(character).startswith("P") else character
