"""Compare two parsed values (``values.py``), with a rule for each type.

Exact values are compared exactly. If one of the texts has a decimal, values are compared to nine digits, to allow for
floating-point errors. Expressions with variables are compared at fixed points, evaluated to thirty digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import sympy
from sympy import Expr, Float, Integer, Rational, Symbol, oo

from agentdistill.grading.mathematics.building import solved
from agentdistill.grading.mathematics.expressions import Reading
from agentdistill.grading.mathematics.reading import read
from agentdistill.grading.mathematics.sets import canonical, openness
from agentdistill.grading.mathematics.values import (
    FUNCTION_NAMES,
    All,
    Family,
    Interval,
    Listing,
    Matrix,
    Member,
    NumberSet,
    Ratio,
    Relation,
    Residue,
    Union,
    UnreadError,
    Value,
    Without,
)

_DIGITS = 30
_EXACT = Rational(1, 10**25)
_DECIMAL = Rational(1, 10**9)
_POINTS = [Rational(n, 1009) for n in (1777, -2741, 523, 3623, -911, 4937, 1231, -401)]
_INTEGERS = [2, 5, 3, 7, 4, 6, 11, 8]
_MAX_OFFSETS = 400


def equal(expected: str, given: str, error: float | None = None) -> bool:
    """Whether two texts have the same value. Raises UnreadError if one cannot be parsed completely.

    ``error``: the relative error allowed for numbers; by default it depends on the texts.
    """
    is_decimal = any("." in text.replace("...", "") or "e-" in text for text in (expected, given))
    percents = _percents(expected, given)
    logs = (sympy.E, Integer(10)) if re.search(r"\\log(?!\s*_)", expected + given) else (sympy.E,)
    compare = _Comparison(Rational(str(error)) if error else _DECIMAL if is_decimal else _EXACT)
    return any(
        compare.same(
            _read(expected, Reading(percent=percent, log=log)), _read(given, Reading(percent=percent, log=log))
        )
        for percent, log in product(percents, logs)
    )


def _percents(expected: str, given: str) -> tuple[Expr, ...]:
    """The factors that ``%`` may stand for: 1 if both sides have it or neither has. If only one side has it, 1/100
    inside a value, and 1 or 1/100 after complete values."""
    if ("%" in expected) == ("%" in given):
        return (Integer(1),)
    inner = re.search(r"%(?!\s*(?:[,;)\]]|\\\}|$))", expected + "," + given)
    return (Rational(1, 100),) if inner else (Integer(1), Rational(1, 100))


def _read(text: str, reading: Reading) -> Value:
    r"""Parse ``text``. If it has ``\pm``, return the values for both signs."""
    plus = read(text, reading)
    if r"\pm" not in text and r"\mp" not in text:
        return plus
    minus = read(text, replace(reading, plus_minus=-1))
    return Listing("", tuple(dict.fromkeys((*_items(plus), *_items(minus)))))


def _items(value: Value) -> tuple[Value, ...]:
    return value.items if isinstance(value, Listing) and value.brackets in ("", "{}") else (value,)


class _Comparison:
    """Compares values to a given relative error."""

    def __init__(self, error: Rational) -> None:
        self._error = error

    def same(self, one: Value, other: Value) -> bool:
        """Whether two complete answers are equal."""
        if one == other:
            return True
        if isinstance(one, Family) or isinstance(other, Family):
            return self._families(one, other)
        if isinstance(one, Relation) and isinstance(other, Relation) and self._relations(one, other):
            return True
        if not _may_share_names(one, other):
            return False
        one, other = _simple(one), _simple(other)
        if isinstance(one, Member) and isinstance(other, Member) and one.variable != other.variable:
            return False
        one, other = (side.values if isinstance(side, Member) else side for side in (one, other))
        if isinstance(one, Expr) and isinstance(other, Expr):
            return self.expressions(one, other)
        if _is_set(one) or _is_set(other):
            return self._sets(one, other)
        if isinstance(one, Matrix) or isinstance(other, Matrix):
            rows = _rows(one), _rows(other)
            if rows[0] is None or rows[1] is None or len(rows[0]) != len(rows[1]):
                return False
            return self._in_order(_flat(rows[0]), _flat(rows[1]))
        if isinstance(one, Listing) or isinstance(other, Listing):
            return self._listings(one, other)
        if isinstance(one, Residue) and isinstance(other, Residue):
            return bool(one.modulus == other.modulus and (one.value - other.value) % one.modulus == 0)
        if isinstance(one, Ratio) and isinstance(other, Ratio):
            terms = one.terms, other.terms
            return self._in_order(*(terms if one.is_time and other.is_time else map(_scaled, terms)))
        if isinstance(one, Ratio) or isinstance(other, Ratio):
            ratio, rest = (one, other) if isinstance(one, Ratio) else (other, one)
            if not isinstance(ratio, Ratio) or len(ratio.terms) != 2 or not isinstance(rest, Expr):
                return False
            above, below = ratio.terms
            if not isinstance(above, Expr) or not isinstance(below, Expr) or below == 0:
                return False
            return self.expressions(above / below, rest)
        if isinstance(one, Relation) and isinstance(other, Relation):
            return one.operator == other.operator and self._in_order((one.left, one.right), (other.left, other.right))
        return False

    def _in_order(self, some: Sequence[Value], others: Sequence[Value]) -> bool:
        return len(some) == len(others) and all(map(self.same, some, others))

    def _in_any_order(self, some: Iterable[Value], others: Iterable[Value], same: Callable[..., bool]) -> bool:
        some, rest = list(some), list(others)
        if len(some) != len(rest):
            return False
        for value in some:
            found = next((index for index, other in enumerate(rest) if same(value, other)), None)
            if found is None:
                return False
            del rest[found]
        return True

    # ---- expressions

    def expressions(self, one: Expr, other: Expr) -> bool:
        """Whether two expressions are equal at the sample points where both are real, or at all if these are few."""
        if one.is_Rational and other.is_Rational:
            is_near = self._error > _EXACT and abs(one - other) <= self._error * max(abs(one), abs(other))
            return bool(one == other or is_near)
        symbols = sorted(one.free_symbols | other.free_symbols, key=str)
        if not symbols:
            return self._close(_evaluated(one, {}), _evaluated(other, {}))
        if one.free_symbols != other.free_symbols and (isinstance(one, Symbol) or isinstance(other, Symbol)):
            return False
        both = [(a, b) for a, b in self._samples((one, other), symbols)]
        real = [(a, b) for a, b in both if _is_real(a) and _is_real(b)]
        chosen = real if len(real) >= 3 else both
        return len(chosen) >= 3 and all(self._close(a, b) for a, b in chosen)

    def _samples(self, values: tuple[Expr, ...], symbols: list[Symbol]) -> list[tuple[Expr, ...]]:
        """Evaluate the expressions at the sample points; keep the points at which all values are finite."""
        points = [
            {symbol: choices[(3 * at + number) % len(choices)] for at, symbol in enumerate(symbols)}
            for choices in (_POINTS, _INTEGERS)
            for number in range(len(choices))
        ]
        samples = [tuple(_evaluated(value, point) for value in values) for point in points]
        return [sample for sample in samples if None not in sample]

    def _close(self, a: Expr | None, b: Expr | None) -> bool:
        if a is None or b is None:
            return False
        if a in (oo, -oo) or b in (oo, -oo):
            return bool(a == b)
        difference, size = abs(a - b), max(abs(a), abs(b))
        return bool(difference == 0 or difference <= self._error * size or (_is_noise(a) and _is_noise(b)))

    # ---- equations and inequalities

    def _relations(self, one: Relation, other: Relation) -> bool:
        if one.operator != other.operator or one.operator == "~":
            return False
        return self._equations(one, other) if one.operator == "=" else self._inequalities(one, other)

    def _equations(self, one: Relation, other: Relation) -> bool:
        """Whether left minus right of one equation is a constant multiple of the other's."""
        ratios = self._ratios(one, other)
        return len(ratios) >= 3 and all(self._close(ratio, ratios[0]) for ratio in ratios)

    def _inequalities(self, one: Relation, other: Relation) -> bool:
        ratios = self._ratios(one, other)
        return len(ratios) >= 3 and all(ratio > 0 and self._close(ratio, ratios[0]) for ratio in ratios)

    def _ratios(self, one: Relation, other: Relation) -> list[Expr]:
        sides = []
        for relation in (one, other):
            if not isinstance(relation.left, Expr) or not isinstance(relation.right, Expr):
                return []
            difference = relation.left - relation.right
            sides.append(sympy.fraction(sympy.together(difference))[0] if relation.operator == "=" else difference)
        symbols = sides[0].free_symbols
        if not symbols or symbols != sides[1].free_symbols:
            return []
        samples = self._samples((sides[0], sides[1]), sorted(symbols, key=str))
        if any((a == 0) != (b == 0) for a, b in samples):
            return []
        return [a / b for a, b in samples if _is_real(a) and _is_real(b) and b != 0]

    # ---- sets, tuples, families

    def _listings(self, one: Value, other: Value) -> bool:
        brackets = [side.brackets if isinstance(side, Listing) else None for side in (one, other)]
        if None in brackets:
            listing, single = (one, other) if isinstance(one, Listing) else (other, one)
            assert isinstance(listing, Listing)
            return len(listing.items) == 1 and self.same(listing.items[0], single)
        assert isinstance(one, Listing) and isinstance(other, Listing)
        some, others = _deduplicated(one), _deduplicated(other)
        if named := (_assignments(one), _assignments(other)):
            if all(named):
                return named[0].keys() == named[1].keys() and all(
                    self.same(named[0][name], named[1][name]) for name in named[0]
                )
            if any(named):
                values, rest = (named[0], other) if named[0] else (named[1], one)
                in_order = [values[name] for name in sorted(values, key=str)]
                return rest.brackets in ("()", "") and self._in_order(in_order, rest.items)
        if one.brackets == "[]" and other.brackets == "{}" and len(some) == 2 and isinstance(some[0], Expr):
            return False  # the reference may be an interval
        if set(brackets) == {"", "()"} and len(one.items) > 2:  # (1, 2, 3) is no interval
            return self._in_order(one.items, other.items)
        if one.brackets in ("", "{}") or other.brackets in ("", "{}"):
            loose = {"", "{}", "[]"}
            if not set(brackets) <= loose:
                return False
            return self._in_any_order(some, others, self.same)
        if brackets[0] != brackets[1] and not set(brackets) <= {"()", "[]"}:
            return False
        if brackets[0] != brackets[1] and len(one.items) == 2 and all(isinstance(i, Expr) for i in one.items):
            return False  # [1, 2] and (1, 2) may be intervals
        return self._in_order(one.items, other.items)

    def _sets(self, one: Value, other: Value) -> bool:
        try:
            some, others = canonical(one), canonical(other)
        except UnreadError:
            return False
        return self._in_any_order(some, others, self._same_piece)

    def _same_piece(self, one: Value, other: Value) -> bool:
        if isinstance(one, Interval) and isinstance(other, Interval):
            return (
                openness(one) == openness(other)
                and self.expressions(one.low, other.low)
                and self.expressions(one.high, other.high)
            )
        if isinstance(one, Without) and isinstance(other, Without):
            return self._sets(one.whole, other.whole) and self._sets(one.part, other.part)
        return self.same(one, other) if type(one) is type(other) or isinstance(one, Expr) else False

    def _families(self, one: Value, other: Value) -> bool:
        """Families are equal if they have the same values: either as arithmetic progressions, or after renaming,
        negating or shifting the parameter."""
        if isinstance(one, Family) and isinstance(other, Family) and one.domain != other.domain:
            return False
        named = one if isinstance(one, Family) else other
        assert isinstance(named, Family)
        parameter, is_whole = named.parameter, named.domain == NumberSet("Z")
        sides = []
        for side in (one, other):
            values = _items(_simple(side.value if isinstance(side, Family) else side))
            old = side.parameter if isinstance(side, Family) else _only_symbol(values, parameter)
            if old is None or not all(isinstance(value, Expr) for value in values):
                return False
            if not isinstance(side, Family) and not is_whole and any(_expression(v).has(sympy.pi) for v in values):
                return False  # an angle with a parameter means all integers
            sides.append([_expression(value).subs(old, parameter) for value in values])
        progressions = [_progressions(side, parameter) for side in sides] if is_whole else [None, None]
        if progressions[0] and progressions[1]:
            return self._same_progressions(progressions[0], progressions[1])
        shifts, signs = (range(-3, 4), (1, -1)) if is_whole else ((0,), (1,))

        def same(some: Expr, others: Expr) -> bool:
            return any(
                self.expressions(some, others.subs(parameter, sign * parameter + shift))
                for sign, shift in product(signs, shifts)
            )

        return self._in_any_order(sides[0], sides[1], same)

    def _same_progressions(self, some: list[_Progression], others: list[_Progression]) -> bool:
        unit = some[0].step
        steps = [abs(sympy.simplify(p.step / unit)) for p in (*some, *others)]
        if not all(step.is_Rational for step in steps):
            return False
        period = sympy.ilcm(*(step.p for step in steps)) / sympy.igcd(*(step.q for step in steps))
        if sum(period / step for step in steps) > _MAX_OFFSETS:
            return False
        sides: list[list[Expr]] = [[], []]
        for at, (progression, step) in enumerate(zip((*some, *others), steps, strict=True)):
            start = (progression.start / unit).evalf(_DIGITS)
            sides[at >= len(some)] += [(start + n * step) % period for n in range(int(period / step))]
        error = max(self._error, _EXACT) * period

        def is_near(a: Expr, b: Expr) -> bool:
            return bool(min(abs(a - b), period - abs(a - b)) <= error)

        return all(any(is_near(a, b) for b in sides[1]) for a in sides[0]) and all(
            any(is_near(a, b) for b in sides[0]) for a in sides[1]
        )


class _Progression(NamedTuple):
    """``start + k * step`` for all integers k."""

    start: Expr
    step: Expr


def _progressions(values: list[Expr], parameter: Symbol) -> list[_Progression] | None:
    found = []
    for value in values:
        start = value.subs(parameter, 0)
        step = sympy.expand(value.subs(parameter, 1) - start)
        if step == 0 or not (step.is_real and start.is_real) or sympy.expand(value - start - parameter * step) != 0:
            return None
        found.append(_Progression(start, step))
    return found


def _evaluated(value: Expr, point: dict[Symbol, Expr]) -> Expr | None:
    """Evaluate ``value`` to thirty digits, or exactly if it is rational. None if it has no numeric value."""
    if any(power.exp.free_symbols for power in value.atoms(sympy.Pow)):  # exact towers of powers may be too large
        value = value.evalf(_DIGITS, subs=point, maxn=400)
    elif point:
        value = value.subs(point)
    if value.is_Rational or value in (oo, -oo):
        return value
    number = value.evalf(_DIGITS, maxn=400)
    real, imaginary = number.as_real_imag()
    if not all(part.is_number and part.is_finite for part in (real, imaginary)) or number.has(sympy.nan, sympy.zoo):
        return None
    if not all(isinstance(part, Float | Rational) for part in (real, imaginary)):
        return None
    return number if not _is_noise(imaginary) else real


def _is_noise(number: Expr) -> bool:
    """Whether a number is zero, or only rounding noise after cancellation."""
    return bool(number == 0 or (isinstance(number, Float) and (number._prec == 1 or abs(number) < 1e-100)))


def _is_real(number: Expr) -> bool:
    return bool(number.is_real)


def _simple(value: Value) -> Value:
    """Simplify ``x = 5`` to its value and ``x > 3`` to its set, also for each item of a list."""
    if (chained := _chained(value)) is not None:
        return _simple(chained)
    if isinstance(value, Relation | All) and (member := solved(value)):
        return member
    if isinstance(value, Listing) and value.brackets in ("", "{}", "[]"):
        names = {item.left for item in value.items if isinstance(item, Relation) and item.operator == "="}
        if len(names) <= 1:
            is_set = bool(names) and len(value.items) > 1  # solutions of one variable: x = 1 or x = 2
            return Listing("{}" if is_set else value.brackets, tuple(map(_simple, value.items)))
    return value


def _chained(value: Value) -> Value | None:
    """The first value of a chain of equal ones: ``2^7`` for ``2^7 = 128``, 1/6 for ``x = 1/6 ~ 0.1667``. Else None."""
    relations = value.relations if isinstance(value, All) else (value,)
    if not all(isinstance(relation, Relation) and relation.operator in ("=", "~") for relation in relations):
        return None
    sides = [relation.left for relation in relations if isinstance(relation, Relation)]
    operators = [relation.operator for relation in relations if isinstance(relation, Relation)]
    last = relations[-1].right if isinstance(relations[-1], Relation) else None
    sides.append(last)
    if _is_name(sides[0]) or (isinstance(sides[0], Listing) and all(map(_is_name, sides[0].items))):
        del sides[0], operators[0]
    elif len(relations) == 1 and not (isinstance(sides[0], Expr) and sides[0].is_number):
        return None
    precise, rough = _Comparison(_EXACT), _Comparison(Rational(1, 20))
    for operator, other in zip(operators, sides[1:], strict=True):
        if not (precise if operator == "=" else rough).same(sides[0], other):
            return None
    return sides[0]


def _may_share_names(one: Value, other: Value) -> bool:
    """Whether two answers may be about the same variable: false for ``x = 5`` and ``y = 5``."""
    names, others = _solved_names(one), _solved_names(other)
    if names and others and names != others:
        return False
    lefts = [side.left for side in (one, other) if isinstance(side, Relation) and side.operator == "="]
    if len(lefts) < 2 or lefts[0] == lefts[1]:
        return True
    if isinstance(lefts[0], Listing) and isinstance(lefts[1], Listing):
        return False
    return not (_is_name(lefts[0]) and _is_name(lefts[1]) and type(lefts[0]) is type(lefts[1]))  # y = x is f(x) = x


def _solved_names(value: Value) -> set[str]:
    """The names of the variables that an answer gives numbers for, without the index of ``x_1`` in a list of several
    solutions. Empty if it is not certain that there are any."""
    items = value.items if isinstance(value, Listing) and value.brackets in ("", "{}", "[]") else (value,)
    equations = [item for item in items if isinstance(item, Relation) and item.operator == "="]
    if not all(_is_name(equation.left) and _is_number(equation.right) for equation in equations):
        return set()
    names = {str(equation.left) for equation in equations}
    return {name.partition("_")[0] for name in names} if len(equations) > 1 else names


def _is_number(value: Value) -> bool:
    return isinstance(value, Expr) and value.is_number


def _is_name(value: Value) -> bool:
    """Whether a value is a variable, ``f(x)``, parsed as the product of ``f`` and ``x``, or a length ``AB``."""
    if not isinstance(value, Expr) or not value.is_Mul:
        return isinstance(value, Symbol)
    if all(isinstance(part, Symbol) and re.fullmatch("[A-Z]", str(part)) for part in value.args):
        return len(value.args) <= 3
    named = [part for part in value.args if isinstance(part, Symbol) and str(part)[0] in FUNCTION_NAMES]
    return len(value.args) == 2 and len(named) == 1 and all(isinstance(part, Symbol) for part in value.args)


def _is_set(value: Value) -> bool:
    return isinstance(value, Interval | Union | NumberSet | Without)


def _assignments(value: Value) -> dict[Expr, Value]:
    """The values by name for a list such as ``x = 1, y = 2``; empty for anything else."""
    items = value.items if isinstance(value, Listing) else ()
    named = {i.left: i.right for i in items if isinstance(i, Relation) and i.operator == "=" and _is_name(i.left)}
    return named if len(named) == len(items) else {}


def _deduplicated(value: Listing) -> list[Value]:
    return list(dict.fromkeys(value.items)) if value.brackets == "{}" else list(value.items)


def _only_symbol(values: Iterable[Value], preferred: Symbol) -> Symbol | None:
    symbols = set().union(*(value.free_symbols for value in values if isinstance(value, Expr)))
    return preferred if preferred in symbols else next(iter(symbols)) if len(symbols) == 1 else None


def _scaled(terms: tuple[Value, ...]) -> tuple[Value, ...]:
    """Scale a ratio so that its first term is 1: 2:4 becomes 1:2."""
    if not all(isinstance(term, Rational) and term > 0 for term in terms):
        return terms
    return tuple(_expression(term) / _expression(terms[0]) for term in terms)


def _rows(value: Value) -> tuple[tuple[Value, ...], ...] | None:
    """The rows of a matrix or a list of lists. A plain list is a column. None for other values."""
    if isinstance(value, Matrix):
        return value.rows
    if isinstance(value, Listing) and value.brackets in ("[]", "()"):
        if all(isinstance(item, Listing) for item in value.items):
            return tuple(item.items for item in value.items if isinstance(item, Listing))
        return tuple((item,) for item in value.items)
    return None


def _expression(value: Value) -> Expr:
    assert isinstance(value, Expr)
    return value


def _flat(rows: tuple[tuple[Value, ...], ...]) -> list[Value]:
    return [value for row in rows for value in row]
