"""Make values (``values.py``) from their parts, for the parser. What has no value raises UnreadError."""

import re

import sympy
from sympy import Expr, Integer, Rational, Symbol, oo

from agentdistill.grading.mathematics.values import (
    All,
    Family,
    Interval,
    Listing,
    Matrix,
    Member,
    NumberSet,
    Relation,
    Union,
    UnreadError,
    Value,
    Without,
)

_BITS = 40_000
"""Powers with more bits than this stay unevaluated. Their comparison may still reach the time limit."""
_MAX_ROWS = 6
"""Larger determinants are not evaluated."""


def expr(value: Value) -> Expr:
    if not isinstance(value, Expr):
        raise UnreadError(f"{type(value).__name__} where a number is expected")
    return value


def quotient(above: Expr, below: Expr) -> Expr:
    if below == 0:
        raise UnreadError("division by zero")
    return above / below


def times(one: Value, other: Value) -> Value:
    """Multiply two numbers, or a number and a matrix."""
    if isinstance(one, Matrix) and not isinstance(other, Matrix):
        one, other = other, one
    if isinstance(other, Matrix):
        return Matrix(tuple(tuple(expr(one) * expr(value) for value in row) for row in other.rows))
    return expr(one) * expr(other)


def remainder(value: Expr, modulus: Expr) -> Expr:
    if not isinstance(value, Integer) or not isinstance(modulus, Integer) or modulus <= 0:
        raise UnreadError("a remainder of no integer")
    return value % modulus


def determinant(matrix: Matrix) -> Expr:
    rows = [list(map(expr, row)) for row in matrix.rows]
    if len(rows) > _MAX_ROWS or any(len(row) != len(rows) for row in rows):
        raise UnreadError("no determinant")
    return sympy.Matrix(rows).det()


def raised(base: Expr, power: Expr) -> Expr:
    if base == 0 and power.is_negative:
        raise UnreadError("division by zero")
    if base.is_Rational and power.is_Rational:
        bits = max(base.p.bit_length(), base.q.bit_length())
        if bits * abs(power) > _BITS:
            return sympy.Pow(base, power, evaluate=False)
    return base**power


def recurring(token: str) -> Expr:
    whole, _, rest = token.partition(".")
    groups = re.split(r"\\(?:overline|bar|dot)\s*", rest)
    fixed, again = groups[0], "".join(re.sub(r"[{}]", "", group) for group in groups[1:])
    if not groups[-1].endswith("}"):
        raise UnreadError(token)
    tail = Rational(int(again), (10 ** len(again) - 1) * 10 ** len(fixed))
    return Rational(f"{whole or 0}.{fixed or 0}") + tail


def relate(operator: str, left: Value, right: Value) -> Relation:
    if operator in (">", ">="):
        return Relation(operator.replace(">", "<"), right, left)
    return Relation(operator, left, right)


def is_condition(value: Value) -> bool:
    return isinstance(value, Relation | All)


def bounded(items: list[Value]) -> All | None:
    """Combine ``x > 2, x < 5`` into an interval, where the comma means "and". None if they are not its two ends."""
    relations = tuple(item for item in items if isinstance(item, Relation) and item.operator in ("<", "<="))
    if len(relations) != len(items) or len(items) != 2:
        return None
    member = solved(All(relations))
    if member is None or not isinstance(member.values, Interval):
        return None
    low, high = member.values.low, member.values.high
    is_interval = low.is_number and high.is_number and low not in (-oo, oo) and high not in (-oo, oo) and low < high
    return All(relations) if is_interval else None


def either(parts: list[Value]) -> Value:
    """Join alternatives: equations become a list of solutions, inequalities a union of sets."""
    if all(isinstance(part, Relation) and part.operator == "=" for part in parts):
        return Listing("", tuple(parts))
    sets = [solved(part) for part in parts]
    if any(part is None for part in sets) or len({member.variable for member in sets if member}) != 1:
        raise UnreadError("alternatives")
    variable = next(member.variable for member in sets if member)
    return Member(variable, Union(tuple(p for member in sets if member for p in set_parts(member.values))))


def union(parts: list[Value]) -> Value:
    """Unite sets, or families of values."""
    if not all(isinstance(part, Family) for part in parts):
        return Union(tuple(piece for part in parts for piece in set_parts(part)))
    families = [part for part in parts if isinstance(part, Family)]
    first, values = families[0], []
    for family in families:
        if family.domain != first.domain:
            raise UnreadError("families over different domains")
        for value in family.value.items if isinstance(family.value, Listing) else (family.value,):
            values.append(expr(value).subs(family.parameter, first.parameter))
    return Family(Listing("", tuple(values)), first.parameter, first.domain)


def described_family(first: Value, conditions: list[Value]) -> Family | None:
    """Make the family of ``{2k | k in Z}`` or ``{x | x = 2k, k in Z}``. None for other set builders."""
    *others, last = conditions
    if not isinstance(last, Member) or not isinstance(last.values, NumberSet) or not isinstance(first, Expr):
        return None
    if not others and not isinstance(first, Symbol):
        return Family(first, last.variable, last.values)
    if len(others) == 1 and isinstance(others[0], Relation) and others[0].operator == "=" and others[0].left == first:
        return Family(others[0].right, last.variable, last.values)
    return None


def solutions(conditions: list[Value]) -> Value:
    relations = tuple(
        relation for part in conditions for relation in (part.relations if isinstance(part, All) else (part,))
    )
    member = solved(relations[0] if len(relations) == 1 else All(relations))
    if member is None:
        raise UnreadError("conditions")
    return member.values


def solved(value: Value) -> Member | None:
    """Solve inequalities in which a single variable, or its absolute value, stands alone on one side; None for other
    relations."""
    if isinstance(value, Member):
        return value
    if isinstance(value, Relation) and (member := _distance(value)):
        return member
    relations = value.relations if isinstance(value, All) else (value,)
    low, high, low_open, high_open, names, holes = -oo, oo, True, True, set(), []
    for relation in relations:
        if isinstance(relation, Member) and relation.values == NumberSet("R"):
            names.add(relation.variable)
            continue
        if not isinstance(relation, Relation):
            return None
        left, right = relation.left, relation.right
        if not isinstance(left, Expr) or not isinstance(right, Expr):
            return None
        if relation.operator == "!=" and isinstance(left, Symbol):
            names.add(left)
            holes.append(right)
        elif relation.operator in ("<", "<=") and isinstance(left, Symbol) and left not in right.free_symbols:
            if high is not oo and high != right:
                return None
            names.add(left)
            high, high_open = right, relation.operator == "<"
        elif relation.operator in ("<", "<=") and isinstance(right, Symbol) and right not in left.free_symbols:
            if low is not -oo and low != left:
                return None
            names.add(right)
            low, low_open = left, relation.operator == "<"
        else:
            return None
    if len(names) != 1:
        return None
    whole: Value = Interval(low, high, low_open, high_open)
    return Member(names.pop(), Without(whole, Listing("{}", tuple(holes))) if holes else whole)


def _distance(relation: Relation) -> Member | None:
    """Solve ``|x| < a`` and ``|x| > a`` for a positive number a."""
    left, right, is_open = relation.left, relation.right, relation.operator == "<"
    if relation.operator not in ("<", "<="):
        return None
    match left, right:
        case sympy.Abs(args=(Symbol() as name,)), Expr(is_positive=True):
            return Member(name, Interval(-right, right, is_open, is_open))
        case Expr(is_positive=True), sympy.Abs(args=(Symbol() as name,)):
            outside: list[Value] = [Interval(-oo, -left, True, is_open), Interval(left, oo, is_open, True)]
            return Member(name, union(outside))
    return None


def as_set(value: Value) -> Value:
    if isinstance(value, Listing) and value.brackets in ("()", "[]", "(]", "[)", "]["):
        if len(value.items) != 2:
            raise UnreadError("an interval with other than two ends")
        low, high = map(expr, value.items)
        return Interval(low, high, value.brackets[0] == "(", value.brackets[1] == ")")
    if isinstance(value, Listing | Interval | NumberSet | Union | Without) and getattr(value, "brackets", "{}") == "{}":
        return value
    if isinstance(value, Member):
        return value.values
    raise UnreadError("no set")


def set_parts(value: Value) -> tuple[Value, ...]:
    if isinstance(value, Expr):  # {2} is parsed as a LaTeX group
        return (Listing("{}", (value,)),)
    if isinstance(value, Union):
        return value.parts
    if is_condition(value):
        member = solved(value)
        if member is None:
            raise UnreadError("no set")
        return set_parts(member.values)
    return (as_set(value),)
