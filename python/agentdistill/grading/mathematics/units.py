r"""Units of measurement: split the unit from a number, and convert between units. ``100 cm`` is ``1 m``.

Not here: removing anything else around an answer (``text.py``).
"""

import re
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

from agentdistill.grading.mathematics.words import TEXT, TEXT_COMMAND, changes, is_prose

_SIZES = {
    "length": "mm .001, millimeter .001, cm .01, centimeter .01, m 1, meter 1, km 1000, kilometer 1000, in .0254, "
    "inch .0254, inches .0254, ft .3048, foot .3048, feet .3048, yd .9144, yard .9144, mi 1609.344, mile 1609.344",
    "time": "ms .001, millisecond .001, s 1, sec 1, second 1, min 60, minute 60, h 3600, hr 3600, hour 3600, "
    "day 86400, week 604800, fortnight 1209600",
    "months": "month 1, yr 12, year 12, decade 120, century 1200, centuries 1200",
    "mass": "mg .001, milligram .001, g 1, gram 1, kg 1000, kilogram 1000",
    "volume": "ml .001, mL .001, milliliter .001, l 1, L 1, liter 1",
    "US volume": "cup 1, pint 2, pt 2, quart 4, qt 4, gallon 16, gal 16",
    "US mass": "oz 1, ounce 1, lb 16",
    "frequency": "Hz 1, hertz 1, kHz 1000, kilohertz 1000, MHz 1e6, megahertz 1e6",
    "force": "N 1, newton 1, kN 1000, kilonewton 1000",
    "energy": "J 1, joule 1, kJ 1000, kilojoule 1000",
    "power": "W 1, watt 1, kW 1000, kilowatt 1000",
    "pressure": "Pa 1, pascal 1, atm 101325, kPa 1000, kilopascal 1000",
    "voltage": "V 1, volt 1",
    "resistance": "ohm 1",
    "temperature": "K 1, kelvin 1",
    "amount": "mol 1, mole 1",
    "money": "cent .01, \N{CENT SIGN} .01, $ 1, dollar 1, USD 1",
    "euros": "\N{EURO SIGN} 1, EUR 1, euro 1",
    "pounds": "\N{POUND SIGN} 1, GBP 1",
    "yen": "\N{YEN SIGN} 1, JPY 1, yen 1",
    "rupees": "\N{INDIAN RUPEE SIGN} 1, INR 1, Rs 1, rupee 1",
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
_VARIABLES = set("NJWVK")
"""Symbols of units that are variables outside ``\\text{...}``."""


def _any_of(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) + ("s?" if len(name) > 2 else "") for name in sorted(names, key=len, reverse=True))


_NAME = _any_of(_UNITS)
_POWERED = rf"(?:(square|sq|cubic|cu)\.?\s+)?({_NAME})\.?\s*(?:\^?\s*\{{?([23])\}}?|([²³]))?"
_UNIT = re.compile(_POWERED)
_PLAIN = re.sub(r"\((?!\?)", "(?:", _POWERED.replace(_NAME, _any_of(_UNITS.keys() - _VARIABLES)))
_TAIL = re.compile(
    rf"(.*(?:[\d)}}!]|pi|circ))(?:\s|~|\\[,;: ])*(?:{TEXT_COMMAND}\s*(\^\s*\{{?[23]\}}?)?"
    rf"|(?<=[\s~,;:])({_PLAIN}(?:\s*(?:/|per\b)\s*{_PLAIN})?))\s*(\$?)\.?",
    re.DOTALL,
)
_CURRENCY = re.compile(r"(\$?-?)\s*(\\\$|\$(?!.*\$)|US\\?\$|€|£|¥|₹|Rs\.?)(?=\s*-?[\d.])")
_AMOUNT = re.compile(rf"(\d+(?:\.\d+)?)\s*({_NAME})(?![A-Za-z])\.?")
_JOINED = re.compile(r"\s*,?\s*(?:and\b)?\s*")
_FEET = re.compile(r"(\d+)\s*'\s*(\d+(?:\.\d+)?)\s*(?:\"|'')")
_LEADING = re.compile(rf"\s*(?:\\?%|{_PLAIN}(?:\s*(?:/|per\b)\s*{_PLAIN})?)(?![\w^])")
_TIME = re.compile(r"(\d{1,2})(?::([0-5]\d))?")


def split_unit(text: str) -> tuple[str, str]:
    r"""Split a text into the part before the unit, and the unit. After a number, any words in LaTeX's ``\text{...}``
    are a unit. Outside ``\text{...}``, only known units are recognized."""
    if (total := _total(text)) is not None:
        return total
    unit = ""
    if money := _CURRENCY.match(text):
        text, unit = money[1] + text[money.end() :], money[2].removeprefix("US").lstrip("\\")
    text = text.replace(r"\$", "")
    tail = _TAIL.fullmatch(text)
    if tail and not is_prose(TEXT.sub(r" \1 ", tail[1])):
        said = tail[4] or tail[2].strip() + (tail[3] or "")
        is_letter = len(said) == 1 and said not in _UNITS  # a variable or the imaginary unit
        if not is_letter and not changes("", said):
            text, unit = tail[1] + tail[5], unit or said
    return text, unit


def leading_unit(text: str) -> str:
    """The unit that a text after a number begins with; "" if there is none."""
    found = _LEADING.match(text)
    return found[0] if found else ""


def _total(text: str) -> tuple[str, str] | None:
    """An amount in several units, such as ``1 hour 30 minutes``, in the last of them; None for any other text."""
    bare = re.sub(r"\\[,;: ]|~", " ", TEXT.sub(r" \1 ", text)).strip()
    bare = _FEET.sub(r"\1 ft \2 in", bare)
    parts = list(_AMOUNT.finditer(bare))
    if len(parts) < 2 or parts[0].start() or parts[-1].end() < len(bare):
        return None
    if any(not _JOINED.fullmatch(bare[a.end() : b.start()]) for a, b in pairwise(parts)):
        return None
    minutes = parts[0][2] in ("h", "hr", "hrs")  # in 1 h 20 m
    names = ["min" if part[2] == "m" and minutes else part[2] for part in parts]
    measures = [measure for name in names if (measure := _measure(name))]
    sizes = [size for size, _ in measures]
    is_whole = all(part[1].isdigit() for part in parts[:-1])
    if not is_whole or len({dimension for _, dimension in measures}) != 1 or sizes != sorted(set(sizes), reverse=True):
        return None
    amount = sum(Fraction(part[1]) * size for part, size in zip(parts, sizes, strict=True))
    return str(amount / sizes[-1]), names[-1]


def same_time(expected: tuple[str, str], given: tuple[str, str]) -> bool | None:
    """Whether two texts with their units are the same time of day: ``5:30 p.m.`` is ``17:30``. None if they are not two
    times, or neither says a.m. or p.m."""
    times = _time(*expected), _time(*given)
    if times[0] is None or times[1] is None or not any(_half(unit) for _, unit in (expected, given)):
        return None
    return not times[0].isdisjoint(times[1])


def _time(text: str, unit: str) -> set[int] | None:
    """The minutes since midnight that a time of day may mean. None for any other text."""
    found, half = _TIME.fullmatch(text), _half(unit)
    if not found or (unit and not half) or (not half and not found[2]):
        return None
    hour, minute = int(found[1]), int(found[2] or 0)
    if hour > (12 if half else 23) or (half and not hour):
        return None
    hours = {"morning": {hour % 12}, "afternoon": {hour % 12 + 12}}.get(half, {hour, (hour + 12) % 24})
    return {60 * each + minute for each in (hours if half or 0 < hour <= 12 else {hour})}


def _half(unit: str) -> str:
    """The half of the day that a unit says, "morning" or "afternoon"; "" for any other unit."""
    dimension = _UNITS.get(unit.strip(" ."), (0, ""))[1]
    return dimension if dimension in ("morning", "afternoon") else ""


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
