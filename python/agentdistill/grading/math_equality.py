r"""Have two mathematical answers the same value? ``13138980.0`` is ``13,138,980`` is ``\boxed{13138980}``.

First an answer is read: its dress (box, dollar signs, a sentence around it, ``x =``) comes off, and its unit. Most
pairs are then equal as text or are plain numbers, and are decided here at once, exactly; the rest goes to math-verify,
in a process of its own, since it can hang or run out of memory on what a model writes.

No text of a model is ever evaluated as Python. tests/golden/math_answers.tsv says what is to be equal, by examples.
"""

import atexit
import json
import logging
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from decimal import Decimal
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from itertools import product
from typing import IO, Any, NamedTuple

from agentdistill.grading.squad import normalize

_log = logging.getLogger(__name__)


def math_equal(reference: str, answer: str, *, seconds: float = 5.0) -> bool:
    r"""Whether two mathematical answers, in LaTeX, Python or plain writing, have the same value.

    ``x = 5``, ``$5$``, ``\boxed{5}``, ``5.0`` and ``5 apples`` are 5; ``50\%`` is 50 and 1/2; ``100 cm`` is ``1 m``.
    Decimals are equal to about nine digits, or as far as a reference of six or more decimals was rounded. A comparison
    that takes longer than ``seconds``, or that math-verify cannot make, counts as not equal.
    """
    if not answer.strip() or len(answer) > _LONGEST:
        return False
    expected, given = _read(reference), _read(answer)
    if expected == given:
        return True
    if _is_prose(expected.text) or _is_prose(given.text):
        return normalize(expected.text) == normalize(given.text)
    if (scales := _scales(expected.unit, given.unit)) is None:
        return False
    one, other = _alike(expected.text, given.text)
    if scales[0] == scales[1] and one == other:
        return True
    if (numbers := _number(one)) and (others := _number(other)):
        (a, a_percent), (b, b_percent) = numbers, others
        readings = [(a, b)]
        if a_percent != b_percent:
            readings.append((a / 100, b) if a_percent else (a, b / 100))
        return any(_close(a * scales[0], b * scales[1], one, other) for a, b in readings)
    if scales[0] != scales[1]:
        one, other = (rf"{scale}\cdot({text})" for scale, text in zip(scales, (one, other), strict=True))
    if _math_verify.equal(_latex(one), _latex(other), seconds):
        return True
    equations = expected.equation, given.equation  # y=2x+1 is y-2x=1, but 2x+1 is not
    return all(equations) and _math_verify.equal(_latex(equations[0]), _latex(equations[1]), seconds)


@cache
def math_grader() -> str:
    """Name and version of this rule."""
    return f"math-2+math-verify-{version('math-verify')}"


DIGITS = 9
"""To so many digits, floating point is trusted."""

_LONGEST = 2_000
"""An answer of more characters is no answer."""

# ---- reading an answer ---------------------------------------------------------------------------


class _Value(NamedTuple):
    """What an answer says."""

    text: str
    """Its value; or, of an answer in words, the words."""
    unit: str = ""
    equation: str = ""
    """The whole, where the value is what ``x =`` leaves of it."""


_UNICODE = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{MULTIPLICATION SIGN}": "*",
        "\N{GREEK SMALL LETTER PI}": "pi",
        "\N{SQUARE ROOT}": "sqrt",
        "\N{INFINITY}": "oo",
        "\N{UNION}": " U ",
        "\N{EMPTY SET}": r"\emptyset ",
        "\N{PLUS-MINUS SIGN}": r"\pm ",
        "\N{DEGREE SIGN}": None,
        **{
            fraction: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", fraction).split("\N{FRACTION SLASH}"))
            for fraction in "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
        },
    }
)
_SPACES = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad\b|~|\s+")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\[,!])(?=\d{3}(?!\d))")
_DELIMITERS = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\displaystyle\b|\\\(|\\\)|\\\[(?!\d+(pt|em))|\\\]|\$")
_TEXT_COMMAND = r"\\(?:text|textnormal|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}"
_TEXT = re.compile(_TEXT_COMMAND)
_SEGMENT = re.compile(r"\$([^$]+)\$|\\\((.+?)\\\)")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,9})?")
_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{3,}+(?!\()")
_NAMES = re.compile(r"(?:sqrt|sin|cos|tan|cot|sec|csc|log|exp|infinity|inf|infty|pi|pmatrix|cdot|frac)+", re.IGNORECASE)
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


def _read(text: str) -> _Value:
    """The value of an answer, without its dress: box, dollar signs, unit, ``x =``, blanks."""
    text = " ".join(_boxed(text).strip(" *`\n").split())
    text = _PRINTED.sub(r"\1", re.sub("\N{SQUARE ROOT}(\\w+)", r"sqrt(\1)", text).translate(_UNICODE))
    text, unit = _unit_of(re.sub(r"\s*\bper ?cent\b", "%", text))
    if _is_prose(_TEXT.sub(r" \1 ", text)):
        found = list(_SEGMENT.finditer(text)) or list(_NUMBER.finditer(text))
        if len(found) == 1 and not _BOUND.search(text[: found[0].start()]):
            return _read(next(filter(None, found[0].groups()), found[0].group()))  # the one value in a sentence
    text = _THOUSANDS.sub("", _DELIMITERS.sub("", text))
    text = _TEXT.sub(r" \1 ", text).replace("dfrac", "frac").replace("tfrac", "frac").replace(r"\%", "%")
    text = _DEGREES.sub(r"\1{\\frac{\2\\pi}{180}}", text.replace(r"\varnothing", r"\emptyset"))
    text = re.sub(r"\^\s*\{?\\circ\}?", "", text)
    if (word := text.strip().rstrip(".").lower()) in (counted := _COUNTED.split()):
        text = str(counted.index(word))
    text = _union(text)
    if re.search(r"\d", text):
        text = re.sub(r"\s*,?\s*\b(?:and|or)\b\s*", ", ", text)
    if _is_prose(text):
        return _Value(text.strip().rstrip("."))
    if re.search(r"\d,\s+\S", text):  # so other commas do not part numbers
        text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = _SPACES.sub(" ", text).strip().rstrip(".").strip()
    text = re.sub(r"\\frac ?(?:\{([^{}]*)\}|(\d)) ?(?:\{([^{}]*)\}|(\d))", r"\\frac{\1\2}{\3\4}", text)
    right = re.sub(r"^[A-Za-z]\s*=\s*(?!.*=)", "", text)
    equation = text if "=" in text else ""
    right = re.sub(r"\s*([-+*/^=,(){}\[\]])\s*", r"\1", right)
    return _Value(re.sub(r"^\(([A-Za-z])\)$", r"\1", right), unit, equation)


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


def _is_prose(text: str) -> bool:
    """Whether there are words in it that are not names of functions: such an answer is compared as words."""
    return any(not _NAMES.fullmatch(word) for word in _WORD.findall(text))


# ---- units -----------------------------------------------------------------------------------------

_SIZES = {
    "length": "mm .001, millimeter .001, cm .01, centimeter .01, m 1, meter 1, km 1000, kilometer 1000, in .0254, "
    "inch .0254, inches .0254, ft .3048, foot .3048, feet .3048, yd .9144, yard .9144, mi 1609.344, mile 1609.344",
    "time": "ms .001, millisecond .001, s 1, sec 1, second 1, min 60, minute 60, h 3600, hr 3600, hour 3600, "
    "day 86400, week 604800",
    "months": "month 1, yr 12, year 12",
    "mass": "mg .001, milligram .001, g 1, gram 1, kg 1000, kilogram 1000",
    "volume": "ml .001, mL .001, milliliter .001, l 1, L 1, liter 1",
    "US volume": "cup 1, pint 2, quart 4, gallon 16",
    "US mass": "oz 1, ounce 1, lb 16",
    "money": "cent .01, \N{CENT SIGN} .01, $ 1, dollar 1, USD 1",
    "euros": "\N{EURO SIGN} 1, EUR 1, euro 1",
    "pounds": "\N{POUND SIGN} 1, GBP 1",
    "speed": "mph .44704, kph 5/18",
    "angle": "degree 1, deg 1",
    "Fahrenheit": "F 1, Fahrenheit 1",
    "Celsius": "C 1, Celsius 1",
    "morning": "am 1, a.m 1, AM 1, A.M 1",
    "afternoon": "pm 1, p.m 1, PM 1, P.M 1",
}
_UNITS = {
    name: (Fraction(size), dimension)
    for dimension, sizes in _SIZES.items()
    for name, size in (unit.split() for unit in sizes.split(", "))
}
_NAME = "|".join(re.escape(name) + ("s?" if len(name) > 2 else "") for name in sorted(_UNITS, key=len, reverse=True))
_POWERED = rf"(?:(square|sq|cubic|cu)\.?\s+)?({_NAME})\.?\s*(?:\^?\s*\{{?([23])\}}?|([²³]))?"
_UNIT = re.compile(_POWERED)
_PLAIN = re.sub(r"\((?!\?)", "(?:", _POWERED)
_TAIL = re.compile(
    rf"(.*(?:[\d)}}!]|pi|circ))(?:\s|~|\\[,;: ])*(?:{_TEXT_COMMAND}\s*(\^\s*\{{?[23]\}}?)?"
    rf"|(?<=[\s~,;:])({_PLAIN}(?:\s*(?:/|per\b)\s*{_PLAIN})?))\s*(\$?)\.?",
    re.DOTALL,
)
_CURRENCY = re.compile(r"(\$?-?)\s*(\\\$|\$(?!.*\$)|€|£)(?=\s*-?[\d.])")


def _unit_of(text: str) -> tuple[str, str]:
    """What comes before the unit, and the unit: words in LaTeX's text behind a number are one, whatever they say; else
    those known here."""
    unit = ""
    if money := _CURRENCY.match(text):
        text, unit = money[1] + text[money.end() :], money[2].lstrip("\\")
    text = text.replace(r"\$", "")
    tail = _TAIL.fullmatch(text)
    if tail and not _is_prose(_TEXT.sub(r" \1 ", tail[1])):
        said = tail[4] or tail[2].strip() + (tail[3] or "")
        if len(said) > 1 or said in _UNITS:  # another letter is a variable, or the imaginary unit
            text, unit = tail[1] + tail[5], unit or said
    return text, unit


def _scales(expected: str, given: str) -> tuple[Fraction, Fraction] | None:
    """How large the units are beside one another; None for those of different things. Where one is missing, or is none
    that is known here, it is taken to be the other."""
    one, other = _measure(expected), _measure(given)
    if one is None or other is None:
        return Fraction(1), Fraction(1)
    return (one[0], other[0]) if one[1] == other[1] else None


def _measure(unit: str) -> tuple[Fraction, str] | None:
    """The size of a unit in the first of its dimension, and the dimension: length, length^2, length/time."""
    sizes, dimensions = [], []
    for part in re.split(r"\s*(?:/|\bper\b)\s*", unit):
        if not (found := _UNIT.fullmatch(part.strip(" ."))):
            return None
        word, name, digit, mark = found.groups()
        size, dimension = _UNITS.get(name) or _UNITS[name.removesuffix("s")]
        power = 2 if word in ("square", "sq") or mark == "²" else 3 if word or mark else int(digit or 1)
        sizes.append(size**power)
        dimensions.append(dimension if power == 1 else f"{dimension}^{power}")
    per = sizes[1] if len(sizes) > 1 else 1
    return sizes[0] / per, "/".join(dimensions).replace("length/time", "speed")


# ---- numbers ---------------------------------------------------------------------------------------

_BASE = re.compile(r"(\d+)_\{?(\d{1,2})\}?")
_LIST = re.compile(r"\[([^\[\](){}]*,[^\[\](){}]*)\]")
_POWER_OF_TEN = re.compile(r"(?:([-+]?[\d.,]+) ?(?:\\times|\\cdot|\*|x) ?)?10(?:\^|\*\*)(?:\{([-+]?\d+)\}|([-+]?\d+))")
_RECURRING = re.compile(r"([-+]?)(\d*)\.(\d*)\\(?:overline|bar)\{(\d+)\}")
_MIXED = re.compile(r"([-+]?)(\d+)(?: ?\\frac\{(\d+)\}\{(\d+)\}| (\d+)/(\d+))")


def _alike(expected: str, given: str) -> tuple[str, str]:
    """Both, without what only one of them has and the other leaves to the question: a base, the brackets of a list. A
    list beside a matrix is its column."""
    if r"\begin{" in expected and (column := re.fullmatch(r"\[([^\[\]]*)\]", given)):
        given = "[[" + column[1].replace(",", "],[") + "]]"
    for form, bare in ((_BASE, r"\d+"), (_LIST, r"[^\[\](){}]*,[^\[\](){}]*")):
        if (found := form.fullmatch(expected)) and re.fullmatch(bare, given):
            expected = found[1]
        elif (found := form.fullmatch(given)) and re.fullmatch(bare, expected):
            given = found[1]
    return expected, given


def _number(value: str) -> tuple[Fraction, bool] | None:
    """The number that ``value`` is, exactly, and whether it is a percentage; None when it is no plain number."""
    bare = value.removesuffix("%").strip()
    number = _recurring(bare) or _based(bare) or _fraction(bare)
    return None if number is None else (number, value.endswith("%"))


def _recurring(value: str) -> Fraction | None:
    if not (found := _RECURRING.fullmatch(value)):
        return None
    sign, whole, fixed, again = found.groups()
    tail = Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(fixed))
    return (Fraction(f"{whole}.{fixed}0") + tail) * (-1 if sign == "-" else 1)


def _based(value: str) -> Fraction | None:
    try:
        return Fraction(int(found[1], int(found[2]))) if (found := _BASE.fullmatch(value)) else None
    except ValueError:  # a digit that the base has not
        return None


def _fraction(value: str) -> Fraction | None:
    """That of a decimal, a fraction, a mixed number, or one in scientific notation."""
    value = re.sub(r"^(?:Fraction|Rational)\((-?\d+),(\d+)\)$", r"\1/\2", value)
    if power := _POWER_OF_TEN.fullmatch(value):
        value = f"{power[1] or 1}e{power[2] or power[3]}"
    if mixed := _MIXED.fullmatch(value):
        sign, whole, above, below = (part for part in mixed.groups() if part is not None)
        value = f"{sign}{int(whole) * int(below) + int(above)}/{below}"
    value = re.sub(r"^([-+]?)\\frac\{(-?[\d.,]+)\}\{([\d.,]+)\}$", r"\1\2/\3", value)
    above, slash, below = value.partition("/")
    numerator, denominator = _decimal(above), _decimal(below) if slash else Fraction(1)
    return numerator / denominator if numerator is not None and denominator else None


def _decimal(text: str) -> Fraction | None:
    if not _NUMBER.fullmatch(text := text.strip().removesuffix(".")):
        return None
    digits = Decimal(text.replace(",", ""))
    return Fraction(digits) if abs(digits.adjusted()) < 400 else None  # 1e999999999 would fill the memory


def _close(a: Fraction, b: Fraction, expected: str, given: str) -> bool:
    """Whether two numbers are the same but for rounding, as far as their texts allow it."""
    if a == b:
        return True
    if a.denominator == b.denominator == 1 and (abs(a) < 2**53 or not re.search("[.eE]", expected + given)):
        return False  # integers, exact in floating point too, or never in it
    error = abs(a - b)
    if error <= max(abs(a), abs(b)) / 10**DIGITS:  # the noise of floating point
        return True
    decimals = -int(Decimal(expected.replace(",", "")).as_tuple().exponent) if _NUMBER.fullmatch(expected) else 0
    return decimals >= 6 and error <= Fraction(1, 2 * 10**decimals)


# ---- math-verify's own form -------------------------------------------------------------------------


_MATRIX = re.compile(r"(?:Matrix\()?\[(\[[^\[\]]*\](?:,\[[^\[\]]*\])*)\]\)?")


def _latex(value: str) -> str:
    """The same value as LaTeX, where it is written as Python would: ``3*sqrt(2)``, ``x**5``, ``6 - 5*I``, ``oo``."""
    if "\\" in value:
        return value
    value = value.replace("**", "^")
    if matrix := _MATRIX.fullmatch(value):
        rows = matrix[1].strip("[]").split("],[")
        return r"\begin{pmatrix}" + r"\\".join(_latex(row).replace(",", "&") for row in rows) + r"\end{pmatrix}"
    for name, start, end in (
        ("sqrt", r"\sqrt{", "}"),
        ("cbrt", r"\sqrt[3]{", "}"),
        ("exp", "e^{", "}"),
        ("^", "^{", "}"),
    ):
        at = value.find(f"{name}(")
        while at >= 0:
            close = _closing(value, at + len(name))
            value = f"{value[:at]}{start}{value[at + len(name) + 1 : close]}{end}{value[close + 1 :]}"
            at = value.find(f"{name}(", at + 1)
    value = re.sub(r"(?<![A-Za-z\\])log\(", "ln(", value)  # Python's, and sympy's
    value = re.sub(r"(?<![A-Za-z\\])a(sin|cos|tan)\(", r"\\arc\1(", value)
    value = re.sub(r"(?<=\d)j\b", "i", value)
    value = re.sub(r"\^(-?\d{2,}|-\d)", r"^{\1}", value)
    value = re.sub(r"(?<![A-Za-z\\])(sin|cos|tan|log|ln|pi)(?![A-Za-z])", r"\\\1 ", value)
    value = re.sub(r"(?<![A-Za-z])(?:oo|inf|infinity)(?![A-Za-z])", r"\\infty ", value)
    value = re.sub(r"(?<![A-Za-z])I(?![A-Za-z])", "i", value)
    value = re.sub(r"\s*\bU\b\s*(?=[(\[])", r"\\cup ", value)
    value = re.sub(r"(?<=\d)\*(?=[A-Za-z])", "", value)
    return re.sub(r"\*(?=[A-Za-z\\])", " ", value).replace("*", r"\cdot ")


# ---- math-verify, in a process of its own ----------------------------------------------------------


class _MathVerify:
    """One worker process, started when first needed, and again after it had to be killed."""

    _START_SECONDS = 120.0
    """It imports sympy, which can take long on a busy machine; the time limit of a comparison begins after that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self._stop)

    def equal(self, expected: str, given: str, seconds: float) -> bool:
        with self._lock:
            try:
                process = self._process or self._start()
                _send(process.stdin, [expected, given, seconds])
                answer = _receive(process.stdout, seconds)
            except BrokenPipeError:
                answer = None
            if answer is None:
                _log.warning("math-verify did not decide whether %r is %r: counted as not equal", given, expected)
                self._stop()
            return answer is True

    def _start(self) -> subprocess.Popen[bytes]:
        start = "import json, sys; sys.path[:] = json.loads(sys.argv[1])"
        serve = "from agentdistill.grading.math_equality import _serve; _serve()"
        command = [sys.executable, "-c", f"{start}; {serve}", json.dumps(sys.path)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        if _receive(self._process.stdout, self._START_SECONDS) != "ready":
            self._stop()
            raise RuntimeError("math-verify does not start: try `python -c 'import math_verify'`")
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


_math_verify = _MathVerify()


def _serve() -> None:
    """The worker: pairs in, verdicts out, a line of JSON each, until its standard input ends."""
    from math_verify import parse, verify
    from sympy import Expr, I, Symbol, log, simplify

    def with_i(part: Any) -> Any:
        """With the imaginary unit, which math-verify takes for a variable."""
        return part.subs({s: I for s in part.free_symbols if s.name == "i"}) if isinstance(part, Expr) else part

    def same(expected: Any, given: Any) -> bool:
        number = isinstance(expected, Expr) and expected.is_number and expected.is_finite and expected != 0
        digits = DIGITS - int(log(abs(expected), 10).evalf()) if number else DIGITS
        if verify(expected, given, max(1, digits), timeout_seconds=None, allow_set_relation_comp=True):
            return True
        if not (isinstance(expected, Expr) and isinstance(given, Expr)):
            return False
        names = isinstance(expected, Symbol) or isinstance(given, Symbol)  # by which math-verify compares symbols
        return names and bool(simplify(expected - given) == 0)

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever prints must not get between the answers
    logging.disable()
    _send(answers, "ready")
    for line in sys.stdin:
        expected, given, seconds = json.loads(line)
        signal.alarm(int(seconds) + 5)  # its default ends this process, should the one that asked be gone
        try:
            sides = [[with_i(part) for part in parse(f"${side}$", parsing_timeout=None)] for side in (expected, given)]
            equal = all(sides) and any(same(*pair) for pair in product(*sides))
        except Exception:  # also MemoryError and RecursionError: it is not for us to say what can go wrong there
            equal = False
        signal.alarm(0)
        _send(answers, equal)


def _send(pipe: IO[bytes] | None, message: object) -> None:
    assert pipe is not None
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()


def _receive(pipe: IO[bytes] | None, seconds: float) -> object:
    """The next message; None when it does not come in time, or the other side is gone."""
    assert pipe is not None
    line, deadline = b"", time.monotonic() + seconds
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        part = os.read(pipe.fileno(), 4096) if ready else b""
        if not part:
            return None
        line += part
    message: object = json.loads(line)
    return message
