r"""Units of measurement: split the unit from a number, and convert between units. ``100 cm`` is ``1 m``.

Not here: removing anything else around an answer (``text.py``).
"""

import re
from fractions import Fraction

from agentdistill.grading.mathematics.words import TEXT, TEXT_COMMAND, changes, is_prose

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
    "radians": "radian 1, rad 1",
    "units": "unit 1",
    **{word: f"{word} 1" for word in ("noon", "midnight", "north", "south", "east", "west", "profit", "loss")},
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
    rf"(.*(?:[\d)}}!]|pi|circ))(?:\s|~|\\[,;: ])*(?:{TEXT_COMMAND}\s*(\^\s*\{{?[23]\}}?)?"
    rf"|(?<=[\s~,;:])({_PLAIN}(?:\s*(?:/|per\b)\s*{_PLAIN})?))\s*(\$?)\.?",
    re.DOTALL,
)
_CURRENCY = re.compile(r"(\$?-?)\s*(\\\$|\$(?!.*\$)|€|£)(?=\s*-?[\d.])")


def split_unit(text: str) -> tuple[str, str]:
    r"""Split a text into the part before the unit, and the unit. After a number, any words in LaTeX's ``\text{...}``
    are a unit. Outside ``\text{...}``, only known units are recognized."""
    unit = ""
    if money := _CURRENCY.match(text):
        text, unit = money[1] + text[money.end() :], money[2].lstrip("\\")
    text = text.replace(r"\$", "")
    tail = _TAIL.fullmatch(text)
    if tail and not is_prose(TEXT.sub(r" \1 ", tail[1])):
        said = tail[4] or tail[2].strip() + (tail[3] or "")
        is_letter = len(said) == 1 and said not in _UNITS  # a variable or the imaginary unit
        if not is_letter and not changes("", said):
            text, unit = tail[1] + tail[5], unit or said
    return text, unit


def scales(expected: str, given: str) -> tuple[Fraction, Fraction] | None:
    """The relative sizes of two units; None if they have different dimensions. A missing or unknown unit is assumed to
    be the same as the other."""
    one, other = _measure(expected), _measure(given)
    if one is None or other is None:
        return Fraction(1), Fraction(1)
    return (one[0], other[0]) if one[1] == other[1] else None


def _measure(unit: str) -> tuple[Fraction, str] | None:
    """A unit's size relative to the other units of its dimension, and the dimension: length, length^2, length/time.
    None for an unknown unit."""
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
