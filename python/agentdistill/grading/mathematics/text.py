r"""Remove what surrounds an answer (a box, dollar signs, a sentence, ``x =``, a unit), and convert Unicode to LaTeX.

Not here: parsing the answer itself (``reading.py``).
"""

import re
import unicodedata
from decimal import Decimal
from typing import NamedTuple

from agentdistill.grading.mathematics.numbers import NUMBER
from agentdistill.grading.mathematics.spelled import MULTIPLIERS, spelled_out
from agentdistill.grading.mathematics.units import leading_unit, split_unit
from agentdistill.grading.mathematics.words import TEXT, changes, ends_in_name, is_prose


class Dressed(NamedTuple):
    """The parts of an answer."""

    text: str
    """Its value, or its words if it is an answer in words."""
    unit: str = ""
    equation: str = ""
    """The complete equation, if there is one; ``text`` is then without a leading ``x =``."""


_GREEK = "alpha beta gamma delta epsilon theta lambda mu rho sigma tau phi omega Delta Omega"
_CHARACTERS: dict[str | int, str | None] = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63", "-"),
    **dict.fromkeys("\u00b7\u22c5\u2219\u2022", r"\cdot "),
    **dict.fromkeys("\u2223\u2758\uff5c", "|"),
    **dict.fromkeys("\u2044\u2215", "/"),
    "\N{MULTIPLICATION SIGN}": "*",
    "\N{DIVISION SIGN}": "/",
    "\N{GREEK SMALL LETTER PI}": " pi ",
    "\N{SQUARE ROOT}": "sqrt",
    "\N{CUBE ROOT}": r"\sqrt[3]",
    "\N{FOURTH ROOT}": r"\sqrt[4]",
    "\N{ANGLE}": r"\angle ",
    "\N{INFINITY}": "oo",
    "\N{UNION}": r"\cup ",
    "\N{EMPTY SET}": r"\emptyset ",
    "\N{PLUS-MINUS SIGN}": r"\pm ",
    "\N{MINUS-OR-PLUS SIGN}": r"\mp ",
    "\N{DEGREE SIGN}": r"^\circ ",
    "\N{ELEMENT OF}": r"\in ",
    "\N{SET MINUS}": r"\setminus ",
    "\N{LOGICAL AND}": r"\land ",
    "\N{LOGICAL OR}": r"\lor ",
    "\N{LESS-THAN OR EQUAL TO}": r"\le ",
    "\N{GREATER-THAN OR EQUAL TO}": r"\ge ",
    "\N{NOT EQUAL TO}": r"\ne ",
    "\N{ALMOST EQUAL TO}": r"\approx ",
    "\N{IDENTICAL TO}": r"\equiv ",
    "\N{LEFT FLOOR}": r"\lfloor ",
    "\N{RIGHT FLOOR}": r"\rfloor ",
    "\N{LEFT CEILING}": r"\lceil ",
    "\N{RIGHT CEILING}": r"\rceil ",
    **dict.fromkeys("\N{PRIME}\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}", "'"),
    **dict.fromkeys("\N{DOUBLE PRIME}\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}", '"'),
    "\N{CENT SIGN}": " cents",
    "\N{MICRO SIGN}": r"\mu ",
    "\N{IDEOGRAPHIC FULL STOP}": ".",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    **{letter: rf"\mathbb{{{name}}}" for letter, name in zip("\u211d\u2124\u2115\u211a\u2102", "RZNQC", strict=True)},
    **{
        fraction: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", fraction).split("\N{FRACTION SLASH}"))
        for fraction in "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
    },
    **{letter: rf"\{name} " for letter, name in zip("αβγδεθλμρστφωΔΩ", _GREEK.split(), strict=True)},
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if code != 0xFF5C},  # full width
}
_UNICODE = str.maketrans(_CHARACTERS)
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "₀₁₂₃₄₅₆₇₈₉"
_SCRIPTS = re.compile(f"([{_RAISED}]+)|([{_LOWERED}]+)")
_SPACES = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad\b|~|\s+")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!\s*|\\[,!])(?=\d{3}(?!\d))")
_DELIMITERS = re.compile(r"\\(?:left|right|middle)(?![a-z])|\\displaystyle\b|\\\(|\\\)|\\\[(?!\d+(pt|em))|\\\]|\$")
_SEGMENT = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)")
_AROUND = re.compile(r"[\s.,:;]*[A-Za-z]{2,}[A-Za-z\s.,:;]*")
"""Words around mathematics in dollar signs."""
_NAMED = re.compile(r"((?:[A-Za-z\s,']|\$[A-Za-z]\$)+)\b(?:is|are|was|were|equals?)\s*:?\s+(\S.*?)[\s.]*", re.DOTALL)
"""A sentence that names a value in its end: "The probability is 1/2."."""
_DEGREES = re.compile(r"(\\?(?:sin|cos|tan|cot|sec|csc|cis)\s*[({]?)([\d.]+)\s*\^\s*(?:\\circ|\{\\circ\})")
"""An angle in degrees in a trigonometric function. Elsewhere the degree sign is dropped."""
_INEQUALITY = re.compile(r"([A-Za-z])\s*([<>]=?|\\(?:le|ge)q?|\\[lg]t)(?![a-z])\s*([^<>,=]+)")
_PRINTED = re.compile(
    r"(?:(?:np|numpy)\.(?:u?int|float|longdouble|longlong|half|single|double)\d*|(?:sympy\.|sp\.)?(?:Integer|Float)|"
    r"(?:mpmath\.)?mpf|Decimal)\('?([-+\d.eE]*)'?\)"
)
"""A number as Python, numpy or sympy prints it."""
_MODULE = re.compile(r"\b(?:np|numpy|math|cmath|sympy|sp)\.(?=[A-Za-z])")
_KEY = re.compile(r"""(['"])([A-Za-z]\w*)\1(?=\s*:)""")
_WRAPPED = re.compile(r"""(\*{1,3}|`+|"|')((?:(?!\1).)+)\1\.?""", re.DOTALL)
"""Markdown emphasis, or quotes."""
_RESULT = re.compile(r"""\{\s*(['"])(?:final_)?(?:answer|result)\1\s*:\s*([^:{}]+?)\s*\}""")
"""A dictionary with only the answer."""
_DISPLAYED = re.compile(r"\\\[(?!.*\\\[)(.*)\\\]\.?|\\\((?!.*\\\()(.*)\\\)\.?|\$\$?([^$]+)\$?\$\.?")
_LAYOUT = re.compile(
    r"\\(?:textcolor|color|[hv]space\*?)\s*\{[^{}]*\}|\\underline(?![a-z])|"
    r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|checkmark|blacksquare|square|qed)(?![A-Za-z])|"
    r"^\s*\\(?:therefore|implies|Rightarrow|Longrightarrow)(?![A-Za-z])|(?:\\[,;:! ]|\\\\|\s)+$|"
    r"\\(?:begin|end)\s*\{(?:align|aligned|equation|gather|math|displaymath)\*?\}"
)
_TAGGED = re.compile(r"<((?:final_)?answer|b|strong)>(.+)</\1>", re.DOTALL | re.IGNORECASE)
_FRAMES = (_WRAPPED, TEXT, _DISPLAYED, _RESULT, _TAGGED)
_BOX = re.compile(r"\\(?:boxed|fbox)\{")
_LISTED = re.compile(r"[\s$]*(?:[,;]|,?\s*(?:and|or)\b|,?\s*\\text\s*\{\s*(?:and|or)\s*\})[\s$]*")
"""What is between boxes that are one answer together."""
_BRACKETS = {r"\lbrace": r"\{", r"\rbrace": r"\}", r"\langle": "(", r"\rangle": ")"}
_GROUPS = re.compile(r"([-+]?)(\d{1,3})((?:([ _'])\d{3})(?:\4\d{3})*)(\.\d+)?")
"""Thousands separated by spaces, by underscores as in Python, or by apostrophes as in Switzerland."""
_REPEATED = re.compile(r"([-+]?\d*\.\d*?)(?:(\d{1,6}?)\2{2,}(?:\.\.\.|\\l?dots)|\((\d+)\)$)")
_IN_BASE = re.compile(r"(\w+)\$?,?\s*\(?(?:in\s+)?base[\s-](\d{1,2})\)?\.?$")
_HALF = re.compile(r"(?<![\w.)}^/])(\d+/\d+)\s(?=[A-Za-z(]|\\(?:sqrt|pi)\b)")
"""A fraction before a factor: 1/2 x is (1/2)x, not 1/(2x)."""
_ANNOUNCED = re.compile(
    r"^(\*\*|__)?(?:(?:so|thus|hence|therefore),?\s+)?"
    r"(?:(?:(?:the|my)\s+)?(?:final\s+|correct\s+)?answer(?:\1)?\s*(?:is\b|[:\uff1a=])\s*:?|"
    r"\u7b54\u6848[\u662f\u4e3a:\uff1a]*|(?:it|this|that)\s+is\b)(?:\1)?\s*(?=\S)",
    re.IGNORECASE,
)
_ARRAY = re.compile(r"\[+[-+.\deE\s]*\d[\s.]+[-+.\deE\s\[\]]*\]+")
"""An array as numpy prints it, without commas."""
_ROWS = re.compile(r"\[(?:\s*[-+\d./]+(?:[,\s]+[-+\d./]+)+\s*;)+(?:\s*[-+\d./]+)(?:[,\s]+[-+\d./]+)+\s*\]")
"""A matrix as in MATLAB, with its rows parted by semicolons."""
_STRING = re.compile(r"""(?<=[\[{(,\s])(['"])([^'"\[\](){}]*)\1(?=\s*[,\])}])""")
"""A string in a Python list."""
_MAGNITUDE = re.compile(
    r"([-+]?(?:\\?\$)?\s*)(\d[\d,]*(?:\.\d+)?)(?:\s|~|\\[,; ])*(?:\\text\s*\{\s*)?"
    rf"((?:(?:{'|'.join(MULTIPLIERS)})s?\b\s*)+)",
    re.IGNORECASE,
)
_PHRASES = {
    **dict.fromkeys(("all real numbers", "all reals", "set of all real numbers", "real numbers"), r"\mathbb{R}"),
    **dict.fromkeys(
        ("no solution", "no solutions", "no real solution", "no real solutions", "empty set"), r"\emptyset"
    ),
    **dict.fromkeys(("all positive real numbers", "positive real numbers", "positive reals"), r"(0,\infty)"),
    **dict.fromkeys(
        ("all non-negative real numbers", "non-negative real numbers", "non-negative reals"), r"[0,\infty)"
    ),
    "dne": "does not exist",
}
_LETTERS = re.compile(r"\W*\w\W*(?:,\s*\(?\w\)?)*,?\s+(?:and|or)\s+\(?\w\)?\W*")
_EACH = r"(?:(?:where|for|with|and|all|any|some|every|each|an?|arbitrary|is|be|being)\s+)*"
_DOMAINS = [
    (re.compile(form, re.IGNORECASE), domain)
    for form, domain in (
        (rf"{_EACH}([A-Z])\s*\\in\s*\\?(?:mathbb|mathbf|Bbb)?\s*\{{?\s*([ZN])\s*\}}?\s*\)?", r"\2"),
        (rf"{_EACH}integers?\s+(?:values\s+of\s+)?([A-Z])\s*\)?", "Z"),
        (rf"{_EACH}([A-Z])\s+{_EACH}integer\s*\)?", "Z"),
        (r"([A-Z])\s*=\s*0,\s*\\pm\s*1,\s*\\pm\s*2(?:,\s*\\pm\s*3)?,?\s*(?:\\[lc]?dots|\.\.\.)\s*\)?", "Z"),
    )
]
"""Ways to write the domain of a parameter after a family of values."""
_LIMITS = r"[A-Za-z]\s*(?:[<>]|\\[lg]e|\\ne|!=)[^()]*"
_CONDITION = re.compile(
    r"(?<=[\w})])[,;]?\s*(?:\\q?quad)?\s*"
    rf"(?:(?<![A-Za-z])\(\s*({_LIMITS})\)|\b(?:for|where|when|if)\s+(?:all\s+)?({_LIMITS}))$"
)
"""A condition after a value, in brackets or in words."""


def undress_pair(reference: str, answer: str) -> tuple[Dressed, Dressed]:
    """Undress a reference and an answer to compare with it. If the reference is in words, so is the answer: "January 5"
    is not "May 5"."""
    expected = undress(reference, is_reference=True)
    if re.fullmatch("[A-Za-z]+", expected.unit):  # what the reference has as a unit is none of the answer's variables
        answer = re.sub(rf"(?<=\d)\s+{expected.unit}$", rf"\\text{{ {expected.unit}}}", answer)
    return expected, undress(answer, has_value=not is_prose(expected.text))


def undress(text: str, *, is_reference: bool = False, has_value: bool = True) -> Dressed:
    """Separate an answer's value from its box, dollar signs, unit, ``x =`` and white space.

    If it ``has_value``, a sentence stands for the only number in it. A reference has to begin with that number.
    """
    text = _respelled(_unwrapped(text))
    text, unit = split_unit(re.sub(r"\s*\bper ?cent\b", "%", text))
    if (
        has_value
        and text[:1] not in ("(", "[", "{", "<")
        and (is_prose(TEXT.sub(r" \1 ", text)) or _AROUND.fullmatch(_SEGMENT.sub("", text)))
    ):
        named = None if is_reference else _NAMED.fullmatch(text)
        if named and not changes(named[1], "") and not is_prose((value_named := undress(named[2])).text):
            return value_named
        found = list(_SEGMENT.finditer(text)) or list(NUMBER.finditer(text))
        if len(found) == 1 and not (is_reference and re.search("[A-Za-z]", text[: found[0].start()])):
            before, after = (TEXT.sub(r" \1 ", part) for part in text.split(found[0][0], 1))
            if "=" in found[0][0]:  # for $n = 5$
                before += found[0][0].partition("=")[0] + "="
            if not changes(before, after) and not ends_in_name(before):
                value = next(filter(None, found[0].groups()), found[0].group())
                return undress(value + leading_unit(after))
    text = _SCRIPTS.sub(_script, text)
    text = _THOUSANDS.sub("", _DELIMITERS.sub("", text))
    text = re.sub(r"\s+_", "_", TEXT.sub(r" \1 ", text))
    text = re.sub(r"\\[dt]frac", r"\\frac", text).replace(r"\%", "%")
    text = text.replace(r"\varnothing", r"\emptyset").replace(r"\varphi", r"\phi").replace(r"\varepsilon", r"\epsilon")
    text = _DEGREES.sub(r"\1{\\frac{\2\\pi}{180}}", text)
    if not unit and re.search(r"\d\s*\^\s*\{?\\circ\}?\s*$", text):
        unit = "degree"
    text = re.sub(r"\^\s*\{?\\circ\}?", "", text)
    word = text.strip().rstrip(".").lower()
    text = spelled_out(word) or text
    text = _PHRASES.get(word.removeprefix("the ").replace("nonneg", "non-neg"), text)
    text = _joined(_union(text))
    if re.search(r"[\d=]", text) or _LETTERS.fullmatch(text):
        text = re.sub(r"\s*,?\s*\b(?:and|or)\b\s*", ", ", text)
    if is_prose(text):
        return Dressed(text.strip().rstrip("."))
    if re.search(r"\d,\s+\S", text):  # items are separated by ", ", so a comma alone groups thousands
        text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(?<!\.)\.$", "", _SPACES.sub(" ", text).strip()).strip()
    text = re.sub(r"\\frac ?(?:\{([^{}]*)\}|(\d)) ?(?:\{([^{}]*)\}|(\d))", r"\\frac{\1\2}{\3\4}", text)
    text = _HALF.sub(r"(\1)*", text)
    right = re.sub(r"^[A-Za-z]\s*=\s*(?!.*=)", "", text)
    equation = text if "=" in text else ""
    right = re.sub(r"\s*([-+*/^=(){}\[\]]|,(?!\s+\d{3}(?!\d)))\s*", r"\1", right)
    return Dressed(re.sub(r"^\(([A-Za-z])\)$", r"\1", right), unit, equation)


def is_range(text: str) -> bool:
    r"""Whether it has two numbers with LaTeX's dash between them, which is no minus sign: ``\text{5--3}``."""
    return any(re.search(r"\d\s*--\s*\d", words[1]) for words in TEXT.finditer(text))


def named_words(text: str) -> str:
    """The words that a sentence ends in, after "is": "odd" for "The function is odd". "" for any other text."""
    named = _NAMED.fullmatch(text)
    return named[2] if named and not changes(named[1], "") else ""


def _unwrapped(text: str) -> str:
    """Remove a box, "The answer is", emphasis, quotes or dollar signs that surround the whole text."""
    text = " ".join(_LAYOUT.sub(" ", _boxed(text.rpartition("####")[2])).split())
    text = re.sub(r"\\[lr](?:brace|angle)(?![a-z])", lambda found: _BRACKETS[found[0]], text)
    return _bare(_ANNOUNCED.sub("", _bare(text)))


def _bare(text: str) -> str:
    """Remove emphasis, quotes or dollar signs that surround the whole text."""
    while inner := next(filter(None, (form.fullmatch(text) for form in _FRAMES)), None):
        text = inner[inner.lastindex or 0].strip()
    return text


def _respelled(text: str) -> str:
    """Normalize spelling: Unicode, the output of Python and numpy, and numbers and domains in words."""
    text = re.sub("\N{SQUARE ROOT}(\\w+)", r"sqrt(\1)", re.sub(r"\bPoint[23]D\(", "(", text)).translate(_UNICODE)
    text = _KEY.sub(r"\2", _MODULE.sub("", _PRINTED.sub(r"\1", text)))
    if _GROUPS.fullmatch(text):
        text = re.sub("[ _']", "", text)
    text = re.sub(r"[\s,;?]+$|(?<!\\)\\$|^=\s*", "", text)
    text = re.sub(r"^(?:so|thus|hence|therefore),?\s+(?=\$|\\|[a-z]\s*=)", "", text, flags=re.IGNORECASE)
    text = re.sub(r"^(?:minus|negative)\s+(?=[\d$\\])", "-", text, flags=re.IGNORECASE)
    text = _magnitude(_IN_BASE.sub(r"\1_{\2}", text))
    text = _domain(_REPEATED.sub(r"\1\\overline{\2\3}", text))
    text = re.sub(r"^\((\w+)\)_", r"\1_", text)
    text = re.sub(r"(?<=:\d\d)(?=[ap]\.?m\b)", " ", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<=\d)\s*X\s*(?=10\s*\^)", r"\\times ", text).replace("+/-", r"\pm ")
    text = re.sub(r"^(\d+)\s*(?:\s|\\text\s*\{\s*)to(?:\s*\}|\s)\s*(\d+)$", r"\1:\2", text)
    text = re.sub(r"^(\d+)\s+(?:out\s+of|in)\s+(\d+)$", r"\1/\2", text)
    text = re.sub(r"\(\s*\\?mod\s+(\w+)\s*\)", r"\\pmod{\1}", text)
    if _ROWS.fullmatch(text):
        text = "[" + re.sub(r"[^;]+", lambda row: "[" + ",".join(re.split(r"[,\s]+", row[0].strip())) + "]", text[1:-1])
        text = text.replace(";", ",") + "]"
    if _ARRAY.fullmatch(text):
        text = re.sub(r"\]\s*\[", "],[", re.sub(r"(?<=[\d.])\s+(?=[-+.\d])", ",", text))
    if "[" in text or "{" in text:
        text = _STRING.sub(r"\2", text)
    return re.sub(r"^(?:\\approx|~)\s*", "", text)


def _domain(text: str) -> str:
    r"""Write a parameter's domain in symbols: "where k is an integer" becomes ``, k \in \mathbb{Z}``."""
    bare = _DELIMITERS.sub("", TEXT.sub(r" \1 ", text)).strip(" .")
    condition = _CONDITION.search(bare)
    if condition and not re.search(r"\\[a-z]+\s*$", re.sub(r"\\q?quad", "", bare[: condition.start()])):
        return f"{bare[: condition.start()]}, {condition[1] or condition[2]}"
    for form, domain in _DOMAINS:
        for found in form.finditer(bare):
            before = re.sub(r"(?:\\q?quad|\\[,;: ]|[\s,;(~])+$", "", bare[: found.start()])
            if (
                found.end() == len(bare)
                and before != bare[: found.start()]
                and not before.endswith((r"\mid", "|", ":"))
            ):
                return rf"{before}, {found[1]} \in \mathbb{{{found.expand(domain)}}}"
    return text


def _magnitude(text: str) -> str:
    """Expand ``2 million`` or ``5 dozen`` to digits if the answer has no further number."""
    found = _MAGNITUDE.match(text)
    if not found or re.search(r"\d|\b(?:and|or|to)\b", text[found.end() :]):
        return text
    value = Decimal(found[2].replace(",", ""))
    for word in found[3].lower().split():
        value *= MULTIPLIERS[word.removesuffix("s")]
    rest = " " + text[found.end() :].replace("}", "", 1) if "\\text" in found[0] else " " + text[found.end() :]
    return f"{found[1]}{value:f}{rest}".rstrip()


def _script(found: re.Match[str]) -> str:
    normal = unicodedata.normalize("NFKC", found[0]).replace("\N{MINUS SIGN}", "-")
    return f"^{{{normal}}}" if found[1] else f"_{{{normal}}}"


def _joined(text: str) -> str:
    r"""Replace "and" and "or" between inequalities by ``\land`` and ``\lor``."""
    parts = re.split(r"\b(and|or)\b", text)
    if not all(re.search(r"[<>]|\\[lg]e", part) for part in parts[::2]):
        return text
    return "".join({"and": r"\land ", "or": r"\lor "}.get(part, part) for part in parts)


def _union(text: str) -> str:
    """Write inequalities separated by "or" as a union of intervals. Other text is unchanged."""
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
    r"""The content of the last ``\boxed{...}``, or of several that are listed, or else the whole text."""
    opened = [found.end() - 1 for found in _BOX.finditer(text)]
    if not opened:
        bare = re.search(r"\\boxed\s+([^\s$\\{}]+)", text)
        return bare[1] if bare else text
    contents, following = [""], len(text)
    for start in reversed(opened):
        end = _closing(text, start)
        if contents != [""] and not _LISTED.fullmatch(text[end + 1 : following]):
            break
        contents.append(text[start + 1 : end])
        following = text.rindex("\\", 0, start)
    return ", ".join(dict.fromkeys(reversed(contents[1:])))


def _closing(text: str, start: int) -> int:
    """The index of the bracket that closes the one at ``start``, or the length of the text if there is none."""
    opening, closing = text[start], {"{": "}", "(": ")"}[text[start]]
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == opening) - (text[index] == closing)
        if not depth:
            return index
    return len(text)
