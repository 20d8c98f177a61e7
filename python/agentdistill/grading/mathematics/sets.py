"""Write a set of numbers in one way: as intervals and points that do not overlap."""

import sympy
from sympy import Expr, oo

from agentdistill.grading.mathematics.values import (
    Interval,
    Listing,
    Member,
    NumberSet,
    Union,
    UnreadError,
    Value,
    Without,
)


def _pieces(value: Value) -> list[Value]:
    """Split a set into intervals, points, and parts that are neither. Raises UnreadError if it is no set."""
    if isinstance(value, Union):
        return [piece for part in value.parts for piece in _pieces(part)]
    if isinstance(value, Member):
        return _pieces(value.values)
    if isinstance(value, Interval):
        return [value]
    if value == NumberSet("R"):
        return [Interval(-oo, oo, True, True)]
    if isinstance(value, NumberSet | Without):
        return [value]
    if isinstance(value, Listing) and value.brackets == "{}":
        return list(value.items)
    if isinstance(value, Listing) and len(value.items) == 2 and value.brackets in ("()", "[]", "(]", "[)"):
        low, high = value.items
        if isinstance(low, Expr) and isinstance(high, Expr):
            return [Interval(low, high, value.brackets[0] == "(", value.brackets[1] == ")")]
    raise UnreadError("no set")


def canonical(value: Value) -> list[Value]:
    """The canonical intervals and points of a set of real numbers; for other sets, the pieces as written."""
    pieces = _pieces(value)
    number_set = _number_set(pieces)
    if number_set is None:
        return pieces
    parts = number_set.args if isinstance(number_set, sympy.Union) else (number_set,)
    found: list[Value] = []
    for part in parts:
        if isinstance(part, sympy.Interval):
            found.append(Interval(part.start, part.end, bool(part.left_open), bool(part.right_open)))
        elif isinstance(part, sympy.FiniteSet):
            found += part.args
        elif part is not sympy.S.EmptySet:
            return pieces
    return found


def _number_set(pieces: list[Value]) -> sympy.Set | None:
    """The pieces as a sympy set; None if their ends are not all real numbers."""
    sets = []
    for piece in pieces:
        if isinstance(piece, Interval) and all(_is_extended_real(end) for end in (piece.low, piece.high)):
            sets.append(sympy.Interval(piece.low, piece.high, piece.low_open, piece.high_open))
        elif isinstance(piece, Expr) and _is_extended_real(piece):
            sets.append(sympy.FiniteSet(piece))
        elif isinstance(piece, Without):
            whole, part = _number_set(_pieces(piece.whole)), _number_set(_pieces(piece.part))
            if whole is None or part is None:
                return None
            sets.append(sympy.Complement(whole, part))
        else:
            return None
    return sympy.Union(*sets)


def _is_extended_real(value: Expr) -> bool:
    return bool(value.is_number and value.is_extended_real)


def openness(interval: Interval) -> tuple[bool, bool]:
    """Whether each end is open. Infinite ends always are."""
    return interval.low_open or interval.low == -oo, interval.high_open or interval.high == oo
