"""Parse and compare plain numbers exactly: decimals, fractions, mixed numbers, recurring decimals, percentages, other
bases and scientific notation.

Most answers are plain numbers, and are compared here without sympy.
"""

import re
from decimal import Decimal
from fractions import Fraction

DIGITS = 9
"""An answer may be rounded to this many significant digits or more."""
_FLOAT_DIGITS = 15
"""A text with this many digits or more is taken for a printed float."""
_NOISE_DIGITS = 11
"""A printed float is taken to be correct to this many digits."""

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,9})?")
_BASE = re.compile(r"((?=[A-Z]*\d)[\dA-Z]+)_\{?(\d{1,2})\}?")
_LIST = re.compile(r"\[([^\[\](){}]*,[^\[\](){}]*)\]")
_TRANSPOSED = re.compile(r"^[(\[]([^\[\](){}]*,[^\[\](){}]*)[)\]]\^\{?(?:T|\\top)\}?$")
"""A column written as a row."""
_POWER_OF_TEN = re.compile(r"(?:([-+]?[\d.,]+) ?(?:\\times|\\cdot|\*|x) ?)?10(?:\^|\*\*)(?:\{([-+]?\d+)\}|([-+]?\d+))")
_RECURRING = re.compile(r"([-+]?)(\d*)\.(\d*)\\(?:overline|bar)\{(\d+)\}")
_MIXED = re.compile(r"([-+]?)(\d+)(?: ?\\frac\{(\d+)\}\{(\d+)\}| (\d+)/(\d+))")


def alike(expected: str, given: str) -> tuple[str, str]:
    """Remove what only one text has because the question implies it: a number base, the brackets of a list. If the
    reference is a matrix, an answer that is a list becomes a column."""
    if r"\begin{" in expected and (column := re.fullmatch(r"\[([^\[\]]*)\]", given)):
        given = "[[" + column[1].replace(",", "],[") + "]]"
    expected, given = (_TRANSPOSED.sub(r"[\1]", text) for text in (expected, given))
    if (found := _LIST.fullmatch(given)) and "," in expected and not re.search(r"[\[\](){}]", expected):
        given = found[1]
    digits = re.compile(r"[\dA-Z]+")
    if (found := _BASE.fullmatch(expected)) and digits.fullmatch(given):
        expected = found[1]
    elif (found := _BASE.fullmatch(given)) and digits.fullmatch(expected):
        given = found[1]
    return expected, given


def number(value: str) -> tuple[Fraction, bool] | None:
    """Parse a plain number exactly. Return it, and whether it is a percentage; None if it is no plain number."""
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
    except ValueError:  # a digit that the base does not have
        return None


def _fraction(value: str) -> Fraction | None:
    """Parse a decimal, a fraction, a mixed number or scientific notation."""
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
    if not NUMBER.fullmatch(text := text.strip().removesuffix(".")):
        return None
    digits = Decimal(text.replace(",", ""))
    return Fraction(digits) if abs(digits.adjusted()) < 400 else None  # 1e999999999 would fill the memory


def close(a: Fraction, b: Fraction, expected: str, given: str) -> bool:
    """Whether two numbers are equal except for the rounding that their texts allow."""
    if a == b:
        return True
    if a.denominator == b.denominator == 1 and (abs(a) < 2**53 or not re.search("[.eE]", expected + given)):
        return False  # integers that floats represent exactly, or that were not printed from floats
    error = abs(a - b)
    (decimals, digits), (others, other_digits) = _precision(expected), _precision(given)
    is_long = max(digits, other_digits) >= _FLOAT_DIGITS or max(decimals, others) >= DIGITS
    if is_long and error <= max(abs(a), abs(b)) / 10**_NOISE_DIGITS:
        return True  # floating-point noise
    if decimals >= 6 and error <= Fraction(1, 2 * 10**decimals):
        return True  # the reference was rounded
    return other_digits >= DIGITS and error <= Fraction(6, 10) / Fraction(10) ** others


def _precision(text: str) -> tuple[int, int]:
    """The number of decimals and of significant digits in a text; (0, 0) if it is no decimal."""
    text = text.removesuffix("%")
    if "." not in text or not NUMBER.fullmatch(text):
        return 0, 0
    number = Decimal(text.replace(",", "")).as_tuple()
    return -int(number.exponent), len(number.digits)
