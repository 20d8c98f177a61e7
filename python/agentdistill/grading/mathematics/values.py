"""The types of mathematical answers that are not plain sympy expressions.

A value is a sympy expression, or one of the classes below. Not here: how they are read (``reading.py``) and when two
are equal (``comparing.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from sympy import Expr


class UnreadError(ValueError):
    """A text that the grammar does not read whole."""


@dataclass(frozen=True)
class Listing:
    """Several values: a tuple, a list, a set, or items without brackets."""

    brackets: str
    """``()``, ``[]``, ``{}``, ``(]``, ``[)``, or nothing."""
    items: tuple[Value, ...]


@dataclass(frozen=True)
class Ellipsis:
    """The dots of a sequence that goes on."""


@dataclass(frozen=True)
class Truth:
    """``True`` or ``False``."""

    holds: bool


@dataclass(frozen=True)
class Ratio:
    """``1:2:3``."""

    terms: tuple[Value, ...]
    is_time: bool = False
    """Whether it may be a time of day: ``1:20``, which is not ``2:40``."""


@dataclass(frozen=True)
class Relation:
    """An equation or an inequality."""

    operator: str
    """``=``, ``!=``, ``<``, ``<=``, ``~`` (about); ``>`` is read with its sides exchanged."""
    left: Value
    right: Value


@dataclass(frozen=True)
class All:
    """Relations that hold together: ``1 < x < 2``."""

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
    """A set with a name: R, Z, N, Q, C."""

    name: str


@dataclass(frozen=True)
class Union:
    """A union of sets; of none, the empty set."""

    parts: tuple[Value, ...]


@dataclass(frozen=True)
class Without:
    """The first set without the second."""

    whole: Value
    part: Value


@dataclass(frozen=True)
class Member:
    """``x in S``; as an answer, the values of x."""

    variable: Expr
    values: Value


@dataclass(frozen=True)
class Matrix:
    """Rows of values."""

    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Family:
    """A value for each number in the domain of its parameter."""

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
    | Matrix
    | Family
)
