"""SQuAD's metrics for short textual answers, exact match and F1, as in HotpotQA's evaluation script."""

import re
import string
import unicodedata
from collections import Counter


def exact_match(reference: str, answer: str) -> bool:
    """Whether the texts are equal except for case, punctuation, articles and white space."""
    return bool(answer.strip()) and normalize(reference) == normalize(answer)


def f1(reference: str, answer: str) -> float:
    """Harmonic mean of the precision and recall of the answer's words. As in HotpotQA, "yes", "no" and "noanswer" match
    only themselves."""
    expected, given = normalize(reference).split(), normalize(answer).split()
    if expected != given and any(words in (["yes"], ["no"], ["noanswer"]) for words in (expected, given)):
        return 0.0
    common = (Counter(expected) & Counter(given)).total()
    return 2 * common / (len(expected) + len(given)) if common else 0.0


def normalize(text: str) -> str:
    """SQuAD's normalization: lower case, no punctuation, no articles, single spaces.

    Text that would become empty keeps its articles ("The The"), or else its punctuation ("!!!"), so that such texts are
    not all equal. Unlike SQuAD's script, which only considers ASCII, it also removes other punctuation, such as dashes
    and curly quotes, and compares letters however Unicode encodes them. Numbers keep their minus sign and what stands
    between their digits, so that 5.5 is not 55, except for commas between thousands. LaTeX's commands for text and
    boxes do not count.
    """
    for _ in range(_MAX_NESTING):
        text, removed = _LATEX.subn(r"\1", text)
        if not removed:
            break
    folded = _WIDE.sub(lambda wide: unicodedata.normalize("NFKC", wide[0]), text.translate(_DASHES)).casefold()
    folded = unicodedata.normalize("NFC", "".join(c for c in folded if unicodedata.category(c) != "Cf"))
    pieces = _PIECES.findall(_THOUSANDS.sub("", folded).replace("$", ""))
    bare = "".join(piece for piece in pieces if not _is_punctuation(piece))
    words = re.sub(r"\b(a|an|the)\b", " ", bare).split()
    return " ".join(words) or " ".join(bare.split()) or " ".join(folded.split())


_LATEX = re.compile(r"\\(?:boxed|text(?:bf|it|rm)?|math(?:bf|rm))\s*\{([^{}]*)\}")
_MAX_NESTING = 50
"""LaTeX's commands in each other; deeper ones stay, since each level costs a pass over the text."""
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")
_WIDE = re.compile("[\uff00-\uffef]+")  # full-width and half-width forms
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_PIECES = re.compile(r"(?:(?<![\w.-])-)?\d+(?:[^\w\s]\d+)*|.", re.DOTALL)  # a number, or one character


def _is_punctuation(piece: str) -> bool:
    return len(piece) == 1 and (piece in string.punctuation or unicodedata.category(piece).startswith("P"))
