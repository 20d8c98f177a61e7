"""Read numbers in words: "twenty-one", "five hundred", "two dozen", "three quarters"."""

import re
from fractions import Fraction

_SMALL = {word: number for number, word in enumerate((
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
))}  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
MULTIPLIERS = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
"""Words that multiply the number before them."""
_PARTS = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "hundredth": 100, "thousandth": 1000,
}  # fmt: skip


def spelled_out(text: str) -> str | None:
    """The number that ``text`` consists of, in digits or as a LaTeX fraction; None if it is anything else."""
    words = re.sub(r"(?<=[a-z])-", " ", text.lower()).split()
    if not words or words[-1].isdecimal():
        return None
    sign = -1 if words[0] in ("minus", "negative") else 1
    number = _fraction(words[1:] if sign < 0 else words)
    if number is None or number.denominator == 1:
        return None if number is None else str(sign * number)
    return ("-" if sign < 0 else "") + rf"\frac{{{number.numerator}}}{{{number.denominator}}}"


def _fraction(words: list[str]) -> Fraction | None:
    """The value of "three", "three quarters", "half", or "two and a half"."""
    if not words:
        return None
    part = _PARTS.get("half" if words[-1] == "halves" else words[-1].removesuffix("s"))
    if part is None:
        whole = _integer(words)
        return None if whole is None else Fraction(whole)
    *before, last = words
    if "and" in before and before[-1] != "and":
        at = len(before) - 1 - before[::-1].index("and")
        whole, share = _integer(before[:at]), _fraction([*before[at + 1 :], last])
        return None if whole is None or share is None or share >= 1 else whole + share
    count = 1 if before in ([], ["a"], ["an"]) else _integer(before)
    return None if count is None else Fraction(count, part)


def _integer(words: list[str]) -> int | None:
    if len(words) == 1 and words[0].isdecimal() and len(words[0]) < 10:
        return int(words[0])
    if words and words[0] in ("a", "an") and len(words) > 1 and words[1] in MULTIPLIERS:
        words = ["one", *words[1:]]
    total, group, previous = 0, -1, ""
    smallest = 10**15
    for word in words:
        if word in _TENS and (group < 0 or (group % 100 == 0 and group)):
            group = max(group, 0) + _TENS[word]
        elif word in _SMALL and (group < 0 or group % 100 == 0 or (group % 10 == 0 and previous in _TENS)):
            if (group >= 0 and not _SMALL[word]) or (previous in _TENS and _SMALL[word] > 9):
                return None
            group = max(group, 0) + _SMALL[word]
        elif word == "hundred" and 0 < group < 100:
            group *= 100
        elif word in MULTIPLIERS and word != "hundred" and group > 0 and MULTIPLIERS[word] < smallest:
            smallest = MULTIPLIERS[word]
            total, group = total + group * smallest, -1
        elif word != "and" or previous not in MULTIPLIERS:
            return None
        previous = word
    return total + max(group, 0) if words and previous != "and" else None
