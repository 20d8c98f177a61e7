"""Plain numbers, exactly: decimals, fractions, mixed and recurring ones, percentages, other bases, powers of ten.

Most answers are plain numbers, and are compared here at once, without sympy.
"""

import re
from decimal import Decimal
from fractions import Fraction

DIGITS = 9
"""An answer may be rounded, to so many significant digits or more."""
_FLOAT_DIGITS = 15
"""A text of so many digits is one that floating point wrote, and right to"""
_NOISE_DIGITS = 11

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d*)?|\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,9})?")
_BASE = re.compile(r"((?=[A-Z]*\d)[\dA-Z]+)_\{?(\d{1,2})\}?")
_LIST = re.compile(r"\[([^\[\](){}]*,[^\[\](){}]*)\]")
_POWER_OF_TEN = re.compile(r"(?:([-+]?[\d.,]+) ?(?:\\times|\\cdot|\*|x) ?)?10(?:\^|\*\*)(?:\{([-+]?\d+)\}|([-+]?\d+))")
_RECURRING = re.compile(r"([-+]?)(\d*)\.(\d*)\\(?:overline|bar)\{(\d+)\}")
_MIXED = re.compile(r"([-+]?)(\d+)(?: ?\\frac\{(\d+)\}\{(\d+)\}| (\d+)/(\d+))")


def alike(expected: str, given: str) -> tuple[str, str]:
    """Both, without what only one of them has and the other leaves to the question: a base, the brackets of a list. A
    list beside a matrix is its column."""
    if r"\begin{" in expected and (column := re.fullmatch(r"\[([^\[\]]*)\]", given)):
        given = "[[" + column[1].replace(",", "],[") + "]]"
    if (found := _LIST.fullmatch(given)) and "," in expected and not re.search(r"[\[\](){}]", expected):
        given = found[1]
    digits = re.compile(r"[\dA-Z]+")
    if (found := _BASE.fullmatch(expected)) and digits.fullmatch(given):
        expected = found[1]
    elif (found := _BASE.fullmatch(given)) and digits.fullmatch(expected):
        given = found[1]
    return expected, given


def number(value: str) -> tuple[Fraction, bool] | None:
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
    if not NUMBER.fullmatch(text := text.strip().removesuffix(".")):
        return None
    digits = Decimal(text.replace(",", ""))
    return Fraction(digits) if abs(digits.adjusted()) < 400 else None  # 1e999999999 would fill the memory


def close(a: Fraction, b: Fraction, expected: str, given: str) -> bool:
    """Whether two numbers are the same but for rounding, as far as their texts allow it."""
    if a == b:
        return True
    if a.denominator == b.denominator == 1 and (abs(a) < 2**53 or not re.search("[.eE]", expected + given)):
        return False  # integers, exact in floating point too, or never in it
    error = abs(a - b)
    (decimals, digits), (others, other_digits) = _precision(expected), _precision(given)
    is_long = max(digits, other_digits) >= _FLOAT_DIGITS or max(decimals, others) >= DIGITS
    if is_long and error <= max(abs(a), abs(b)) / 10**_NOISE_DIGITS:
        return True  # the noise of floating point
    if decimals >= 6 and error <= Fraction(1, 2 * 10**decimals):
        return True  # the reference was rounded
    return other_digits >= DIGITS and error <= Fraction(6, 10) / Fraction(10) ** others


def _precision(text: str) -> tuple[int, int]:
    """The decimals of a text, and its significant digits; none for what is no decimal."""
    text = text.removesuffix("%")
    if "." not in text or not NUMBER.fullmatch(text):
        return 0, 0
    number = Decimal(text.replace(",", "")).as_tuple()
    return -int(number.exponent), len(number.digits)
