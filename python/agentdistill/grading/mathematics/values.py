"""The types of mathematical values that are not plain sympy expressions.

A value is a sympy expression or an instance of a class below. Not here: parsing (``reading.py``) and comparing values
(``comparing.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from sympy import Expr


class UnreadError(ValueError):
    """The grammar cannot parse a text completely."""


FUNCTION_NAMES = "fghpqaFGHPQTSV"
"""Letters that may name a function or a sequence when brackets follow."""


@dataclass(frozen=True)
class Listing:
    """Several values: a tuple, a list, a set, or a sequence without brackets."""

    brackets: str
    """``()``, ``[]``, ``{}``, ``(]``, ``[)``, or "" for no brackets."""
    items: tuple[Value, ...]


@dataclass(frozen=True)
class Ellipsis:
    """The dots in a sequence."""


@dataclass(frozen=True)
class Truth:
    """``True`` or ``False``."""

    holds: bool


@dataclass(frozen=True)
class Ratio:
    """``1:2:3``."""

    terms: tuple[Value, ...]
    is_time: bool = False
    """Whether it may be a time of day: as a time, ``1:20`` does not equal ``2:40``."""


@dataclass(frozen=True)
class Relation:
    """An equation or an inequality."""

    operator: str
    """``=``, ``!=``, ``<``, ``<=``, ``~`` (approximately). ``>`` and ``>=`` are parsed with their sides exchanged."""
    left: Value
    right: Value


@dataclass(frozen=True)
class All:
    """Relations that all hold: ``1 < x < 2``."""

    relations: tuple[Value, ...]


@dataclass(frozen=True)
class Interval:
    """A connected set of real numbers."""

    low: Expr
    high: Expr
    low_open: bool
    high_open: bool


@dataclass(frozen=True)
class NumberSet:
    """A named set of numbers: R, Z, N, Q, C."""

    name: str


@dataclass(frozen=True)
class Union:
    """A union of sets. Without parts, it is the empty set."""

    parts: tuple[Value, ...]


@dataclass(frozen=True)
class Without:
    """A set difference."""

    whole: Value
    part: Value


@dataclass(frozen=True)
class Member:
    """``x in S``. As an answer, it stands for the values of x."""

    variable: Expr
    values: Value


@dataclass(frozen=True)
class Residue:
    """A number up to multiples of a modulus: 3 (mod 7)."""

    value: Expr
    modulus: Expr


@dataclass(frozen=True)
class Matrix:
    """Rows of values."""

    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Family:
    """One value for each number in the domain of a parameter, such as ``2k`` for k in Z."""

    value: Value
    parameter: Expr
    domain: Value


Value: TypeAlias = (
    Expr
    | Listing
    | Ellipsis
    | Truth
    | Ratio
    | Relation
    | All
    | Interval
    | NumberSet
    | Union
    | Without
    | Member
    | Residue
    | Matrix
    | Family
)
