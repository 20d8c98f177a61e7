r"""What stands around an answer (a box, dollar signs, a sentence, ``x =``, a unit), and Unicode with a name in LaTeX.

Not here: what the answer itself says (``reading.py``).
"""

import re
import unicodedata
from typing import NamedTuple

from agentdistill.grading.mathematics.numbers import NUMBER
from agentdistill.grading.mathematics.units import split_unit
from agentdistill.grading.mathematics.words import TEXT, is_prose


class Dressed(NamedTuple):
    """What an answer says."""

    text: str
    """Its value; or, of an answer in words, the words."""
    unit: str = ""
    equation: str = ""
    """The whole, where the value is what ``x =`` leaves of it."""


_CHARACTERS: dict[str | int, str | None] = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63", "-"),
    **dict.fromkeys("\u00b7\u22c5\u2219\u2022", r"\cdot "),
    **dict.fromkeys("\u2223\u2758\uff5c", "|"),
    **dict.fromkeys("\u2044\u2215", "/"),
    "\N{MULTIPLICATION SIGN}": "*",
    "\N{DIVISION SIGN}": "/",
    "\N{GREEK SMALL LETTER PI}": "pi",
    "\N{SQUARE ROOT}": "sqrt",
    "\N{INFINITY}": "oo",
    "\N{UNION}": r"\cup ",
    "\N{EMPTY SET}": r"\emptyset ",
    "\N{PLUS-MINUS SIGN}": r"\pm ",
    "\N{MINUS-OR-PLUS SIGN}": r"\mp ",
    "\N{DEGREE SIGN}": None,
    "\N{ELEMENT OF}": r"\in ",
    "\N{SET MINUS}": r"\setminus ",
    "\N{LOGICAL AND}": r"\land ",
    "\N{LOGICAL OR}": r"\lor ",
    "\N{LESS-THAN OR EQUAL TO}": r"\le ",
    "\N{GREATER-THAN OR EQUAL TO}": r"\ge ",
    "\N{NOT EQUAL TO}": r"\ne ",
    "\N{ALMOST EQUAL TO}": r"\approx ",
    "\N{LEFT FLOOR}": r"\lfloor ",
    "\N{RIGHT FLOOR}": r"\rfloor ",
    "\N{LEFT CEILING}": r"\lceil ",
    "\N{RIGHT CEILING}": r"\rceil ",
    "\N{PRIME}": "'",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    **{letter: rf"\mathbb{{{name}}}" for letter, name in zip("\u211d\u2124\u2115\u211a\u2102", "RZNQC", strict=True)},
    **{
        fraction: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", fraction).split("\N{FRACTION SLASH}"))
        for fraction in "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
    },
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if code != 0xFF5C},  # full width
}
_UNICODE = str.maketrans(_CHARACTERS)
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "₀₁₂₃₄₅₆₇₈₉"
_SCRIPTS = re.compile(f"([{_RAISED}]+)|([{_LOWERED}]+)")
_SPACES = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad\b|~|\s+")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\[,!])(?=\d{3}(?!\d))")
_DELIMITERS = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\displaystyle\b|\\\(|\\\)|\\\[(?!\d+(pt|em))|\\\]|\$")
_SEGMENT = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)")
_AROUND = re.compile(r"[\s.,:;]*[A-Za-z]{2,}[A-Za-z\s.,:;]*")
"""Words beside mathematics between dollar signs."""
_BOUND = re.compile(
    r"(?:\b(?:not|than|least|most|over|under|above|below|except)|n't)(?:\s+be)?[\s$(\\]*$", re.IGNORECASE
)
"""What makes the number behind it a limit to the answer, and not the answer."""
_COUNTED = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
"""Words for numbers, in their order."""
_DEGREES = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc)\s*[({]?)([\d.]+)\s*\^\s*(?:\\circ|\{\\circ\})")
"""The angle of a trigonometric function; elsewhere degrees are read as their number."""
_INEQUALITY = re.compile(r"([A-Za-z])\s*([<>]=?|\\(?:le|ge)q?|\\[lg]t)(?![a-z])\s*([^<>,=]+)")
_PRINTED = re.compile(r"(?:(?:np|numpy)\.\w+|(?:sympy\.|sp\.)?(?:Integer|Float)|Decimal)\('?([^()']*)'?\)")
"""A number as Python shows it."""


def undress(text: str) -> Dressed:
    """The value of an answer, without its dress: box, dollar signs, unit, ``x =``, blanks."""
    text = _boxed(text.rpartition("####")[2])
    text = " ".join(text.strip(" *`\n").split())
    text = _PRINTED.sub(r"\1", re.sub("\N{SQUARE ROOT}(\\w+)", r"sqrt(\1)", text).translate(_UNICODE))
    text = re.sub(r"^(?:\\approx|~)\s*", "", text)
    text, unit = split_unit(re.sub(r"\s*\bper ?cent\b", "%", text))
    if is_prose(TEXT.sub(r" \1 ", text)) or _AROUND.fullmatch(_SEGMENT.sub("", text)):
        found = list(_SEGMENT.finditer(text)) or list(NUMBER.finditer(text))
        if len(found) == 1 and not _BOUND.search(text[: found[0].start()]):
            return undress(next(filter(None, found[0].groups()), found[0].group()))  # the one value in a sentence
    text = _SCRIPTS.sub(_script, text)
    text = _THOUSANDS.sub("", _DELIMITERS.sub("", text))
    text = TEXT.sub(r" \1 ", text).replace("dfrac", "frac").replace("tfrac", "frac").replace(r"\%", "%")
    text = _DEGREES.sub(r"\1{\\frac{\2\\pi}{180}}", text.replace(r"\varnothing", r"\emptyset"))
    text = re.sub(r"\^\s*\{?\\circ\}?", "", text)
    if (word := text.strip().rstrip(".").lower()) in (counted := _COUNTED.split()):
        text = str(counted.index(word))
    text = _union(text)
    if re.search(r"\d", text):
        text = re.sub(r"\s*,?\s*\b(?:and|or)\b\s*", ", ", text)
    if is_prose(text):
        return Dressed(text.strip().rstrip("."))
    if re.search(r"\d,\s+\S", text):  # so other commas do not part numbers
        text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = _SPACES.sub(" ", text).strip().rstrip(".").strip()
    text = re.sub(r"\\frac ?(?:\{([^{}]*)\}|(\d)) ?(?:\{([^{}]*)\}|(\d))", r"\\frac{\1\2}{\3\4}", text)
    right = re.sub(r"^[A-Za-z]\s*=\s*(?!.*=)", "", text)
    equation = text if "=" in text else ""
    right = re.sub(r"\s*([-+*/^=,(){}\[\]])\s*", r"\1", right)
    return Dressed(re.sub(r"^\(([A-Za-z])\)$", r"\1", right), unit, equation)


def _script(found: re.Match[str]) -> str:
    normal = unicodedata.normalize("NFKC", found[0]).replace("\N{MINUS SIGN}", "-")
    return f"^{{{normal}}}" if found[1] else f"_{{{normal}}}"


def _union(text: str) -> str:
    """Inequalities parted by "or" as intervals; anything else as it is."""
    parts = [_INEQUALITY.fullmatch(part.strip()) for part in re.split(r"\bor\b", text)]
    if len(parts) < 2 or len({part and part[1] for part in parts}) > 1:
        return text
    return r" \cup ".join(_interval(part[2], part[3].strip()) for part in parts if part) or text


def _interval(relation: str, end: str) -> str:
    is_open = relation in ("<", ">", r"\lt", r"\gt")
    if relation[0] == "<" or relation.startswith(r"\l"):
        return rf"(-\infty,{end}" + (")" if is_open else "]")
    return ("(" if is_open else "[") + rf"{end},\infty)"


def _boxed(text: str) -> str:
    r"""What stands in the last ``\boxed{...}``, or else the whole."""
    start = max(text.rfind(r"\boxed{"), text.rfind(r"\fbox{"))
    if start < 0:
        return text
    start = text.index("{", start)
    return text[start + 1 : _closing(text, start)]


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one at ``start``; the end of the text when there is none."""
    opening, closing = text[start], {"{": "}", "(": ")"}[text[start]]
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == opening) - (text[index] == closing)
        if not depth:
            return index
    return len(text)
