r"""A parser for mathematical answers in LaTeX, Python, sympy's output and plain notation.

A text is parsed completely into a typed value (``values.py``), or :class:`UnreadError` is raised: nothing is dropped or
guessed. No text is ever evaluated as Python. Existing LaTeX parsers parse the beginning of text that they do not
understand and drop the rest, so this project has its own. The rules for a whole answer are here: lists, relations,
sets, matrices and sympy's output. Not here: removing the text around an answer (``text.py``), tokens (``tokens.py``),
single values (``expressions.py``, ``calculus.py``), and what values are made of (``building.py``).
"""

import re

import sympy
from sympy import Expr, Symbol

from agentdistill.grading.mathematics.building import (
    as_set,
    bounded,
    described_family,
    determinant,
    either,
    expr,
    is_condition,
    quotient,
    relate,
    remainder,
    solutions,
    union,
)
from agentdistill.grading.mathematics.calculus import Calculus
from agentdistill.grading.mathematics.expressions import Reading
from agentdistill.grading.mathematics.values import (
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
    Truth,
    Union,
    UnreadError,
    Value,
    Without,
)

_OPEN = {"": (False, False), "open": (True, True), "Lopen": (True, False), "Ropen": (False, True)}
"""Which ends are open, by constructor of sympy's ``Interval``."""
_RELATIONS = {
    "=": "=",
    "==": "=",
    "!=": "!=",
    r"\ne": "!=",
    r"\neq": "!=",
    "<": "<",
    r"\lt": "<",
    ">": ">",
    r"\gt": ">",
    **dict.fromkeys((r"\approx", r"\simeq"), "~"),
    **dict.fromkeys(("<=", r"\le", r"\leq", r"\leqslant"), "<="),
    **dict.fromkeys((">=", r"\ge", r"\geq", r"\geqslant"), ">="),
}
_MODULO = (r"\bmod", r"\mod", "mod")


def read(text: str, reading: Reading | None = None) -> Value:
    """Parse ``text`` completely. Raises UnreadError if any part of it is not in the grammar."""
    return _Parser(text, reading or Reading()).whole()


class _Parser(Calculus):
    def whole(self) -> Value:
        items = self._items("")
        if self._at < len(self._tokens):
            raise UnreadError(self._peek())
        if len(items) == 1:
            return items[0]
        if isinstance(items[0], Member) and all(map(is_condition, items[1:])):
            items = [*items[1:], items[0]]  # x in Z, x > 2
        first, *others = items
        if isinstance(first, Relation) and first.operator == "!=" and all(isinstance(other, Expr) for other in others):
            return All((first, *(Relation("!=", first.left, other) for other in others)))
        if (interval := bounded(items)) is not None:
            return interval
        *values, last = items
        if isinstance(last, Member) and isinstance(last.values, NumberSet) and not isinstance(values[-1], Member):
            rest = values[0] if len(values) == 1 else Listing("", tuple(values))
            if is_condition(rest) and last.values == NumberSet("R"):
                return rest  # x > 2, x in R
            return Family(rest, last.variable, last.values)
        return Listing("", tuple(items))

    def _items(self, closing: str) -> list[Value]:
        items = [self._clause()]
        while self._take(",", ";"):
            if self._peek() in ("", ")", "]", "}", r"\}"):
                if closing != ")" or len(items) > 1:
                    raise UnreadError("nothing behind the last comma")
                break
            items.append(self._clause())
        return items

    def _clause(self) -> Value:
        """Parse relations joined by "and" and "or"."""
        parts = [self._conjunction()]
        while self._take(r"\lor", r"\vee") or (is_condition(parts[-1]) and self._take("|")):
            parts.append(self._conjunction())
        value = parts[0] if len(parts) == 1 else either(parts)
        if self._take(r"\choose"):
            return self._apply(sympy.binomial, [expr(value), expr(self._clause())])
        return quotient(expr(value), expr(self._clause())) if self._take(r"\over") else value

    def _conjunction(self) -> Value:
        parts = [self._relation()]
        while self._take("&", r"\land", r"\wedge"):
            parts.append(self._relation())
        if len(parts) == 1:
            return parts[0]
        if not all(is_condition(part) for part in parts):
            raise UnreadError("no conditions")
        return All(tuple(r for part in parts for r in (part.relations if isinstance(part, All) else (part,))))

    def _relation(self) -> Value:
        start = self._at
        left = self._sum()
        relations: list[Relation] = []
        is_congruence = False
        while True:
            if operator := self._take(*_RELATIONS):
                right = self._sum()
                relations.append(relate(_RELATIONS[operator], left, right))
                left = right
            elif self._take(r"\equiv"):
                is_congruence = True
                relations.append(Relation("=", left, self._sum()))
            elif self._take(r"\pmod") or (is_congruence and self._take(*_MODULO)):
                return _congruence(relations, left, expr(self._argument() if self._peek() == "{" else self._sum()))
            elif not relations and self._take(*_MODULO):
                self._require_one_term(start)
                left = remainder(expr(left), expr(self._unary()))
            elif self._take(r"\in"):
                name = self._peek()
                values = self._sum()
                if isinstance(values, Symbol) and name in ("R", "Z", "N", "Q", "C"):
                    values = NumberSet(name)
                if not isinstance(left, Symbol) or relations:
                    raise UnreadError("a member that is no variable")
                return Member(left, as_set(values))
            elif self._peek() == ":" and not relations and isinstance(left, Expr) and self._braces == 0:
                terms: list[Value] = [left]
                is_time = True
                while self._take(":"):
                    is_time = is_time and bool(re.fullmatch("[0-5][0-9]", self._peek()))
                    terms.append(self._sum())
                return Ratio(tuple(terms), is_time)
            else:
                break
        if is_congruence:
            raise UnreadError("a congruence without its modulus")
        if not relations:
            return left
        return relations[0] if len(relations) == 1 else All(tuple(relations))

    def _require_one_term(self, start: int) -> None:
        depth = 0
        for _, token in self._tokens[start + 1 : self._at - 1]:
            depth += (token in ("(", "[", "{")) - (token in (")", "]", "}"))
            if token in ("+", "-") and depth == 0:
                raise UnreadError("a remainder of a sum without brackets")

    def _bracketed(self, opening: str) -> Value:
        closings = {"(": (")", "]"), "[": ("]", ")", "["), "]": ("[", "]"), "{": ("}",), r"\{": (r"\}",)}[opening]
        if opening == "{" and self._take("}"):
            if self._is_latex:
                raise UnreadError("an empty group")
            return Union(())
        if self._take(closings[0]):
            return Union(()) if opening == r"\{" else Listing(opening + closings[0], ())
        if opening in ("{", r"\{"):
            return self._set(closings[0])
        items = self._within(lambda: self._items(")"))
        has_comma = self._tokens[self._at - 1][1] == ","
        closing = self._expect(*closings)
        if opening == "]" or closing == "[":  # ]0, 1] is (0, 1], and [0, 1[ is [0, 1)
            opening, closing = opening.replace("]", "("), closing.replace("[", ")")
            if len(items) != 2:
                raise UnreadError("an interval without two ends")
        if len(items) == 1 and closing == closings[0] and not has_comma:
            return items[0]
        if len(items) == 1 and closing != closings[0]:
            raise UnreadError("an interval with one end")
        if opening == "[" and all(isinstance(item, Listing) and item.brackets == "[]" for item in items):
            rows = tuple(item.items for item in items if isinstance(item, Listing))
            if len({len(row) for row in rows}) == 1:
                return Listing("[]", tuple(items))
        return Listing(opening + closing, tuple(items))

    def _set(self, closing: str) -> Value:
        """Parse what follows an opening brace: a set, a dictionary, a set builder, or a LaTeX group."""
        bars, self._bars = self._bars, 0
        self._braces += 1
        first = self._clause()
        if isinstance(first, Expr | Member | Listing) and self._take("|", r"\mid", ":", r"\vert"):
            value = self._described(first, closing)
        else:
            items = [first]
            while self._take(",", ";"):
                items.append(self._clause())
            self._expect(closing)
            is_group = closing == "}" and len(items) == 1
            value = items[0] if is_group else Listing("{}", tuple(items))
        self._braces -= 1
        self._bars = bars
        return value

    def _described(self, first: Value, closing: str) -> Value:
        """Parse the rest of a set builder after its bar, or of a dictionary after its first key."""
        second = self._clause()
        if is_condition(second) or isinstance(second, Member):
            conditions = [second]
            while self._take(","):
                conditions.append(self._clause())
            self._expect(closing)
            if (family := described_family(first, conditions)) is not None:
                return family
            if isinstance(first, Member) and isinstance(first.values, NumberSet) and first.values.name != "R":
                raise UnreadError("a set within another than the reals")
            return solutions(conditions)
        entries: list[Value] = [Relation("=", first, second)]
        while self._take(","):
            key = self._sum()
            self._expect(":")
            entries.append(Relation("=", key, self._sum()))
        self._expect(closing)
        return Listing("", tuple(entries)) if len(entries) > 1 else entries[0]

    def _environment(self) -> Value:
        self._expect("{")
        kind = ""
        while self._peek() != "}":
            kind += self._next()
        self._next()
        if kind == "cases":
            return self._cases()
        if (not kind.endswith("matrix") and kind != "array") or kind == "Vmatrix":
            raise UnreadError(kind)
        if kind == "array":
            self._argument_tokens()
        rows: list[list[Value]] = [[]]
        while True:
            rows[-1].append(self._sum())
            separator = self._expect("&", "\\\\", r"\end")
            if separator == "\\\\" and self._peek() != r"\end":
                rows.append([])
            elif separator == "\\\\":
                separator = self._next()
            if separator == r"\end":
                break
        self._expect("{")
        while self._next() != "}":
            pass
        if len({len(row) for row in rows}) != 1:
            raise UnreadError("rows of different lengths")
        matrix = Matrix(tuple(tuple(row) for row in rows))
        return determinant(matrix) if kind == "vmatrix" else matrix

    def _cases(self) -> Value:
        """Parse a system of equations, one per line."""
        items = [self._clause()]
        while self._expect("\\\\", ",", r"\end") != r"\end":
            if self._peek() not in (r"\end", "\\\\"):
                items.append(self._clause())
        self._expect("{")
        while self._next() != "}":
            pass
        return Listing("", tuple(items))

    # ---- sympy's output

    def _printed(self, name: str) -> Value:
        variant = ""
        if self._take("."):
            while self._peek() != "(":
                variant += self._next()
        self._expect("(")
        items = [] if self._peek() == ")" else self._within(lambda: self._items(")"))
        self._expect(")")
        if name in ("Rational", "Fraction", "Integer", "Float") and 1 <= len(items) <= 2:
            above = expr(items[0])
            return above if len(items) == 1 else quotient(above, expr(items[1]))
        if name in ("Eq", "Ne", "Lt", "Le", "Gt", "Ge") and len(items) == 2:
            operator = {"Eq": "=", "Ne": "!=", "Lt": "<", "Le": "<=", "Gt": ">", "Ge": ">="}[name]
            return relate(operator, *items)
        if name == "Interval" and len(items) in (2, 4):
            flags = [isinstance(item, Truth) and item.holds for item in items[2:]] or _OPEN.get(variant)
            if flags is None:
                raise UnreadError(variant)
            return Interval(expr(items[0]), expr(items[1]), *flags)
        if name in ("set", "frozenset", "array") and len(items) == 1 and isinstance(items[0], Listing):
            return items[0]
        if name in ("FiniteSet", "set", "frozenset"):
            return Listing("{}", tuple(items)) if items else Union(())
        if name == "Tuple":
            return Listing("()", tuple(items))
        if name == "Union":
            return union(items)
        if name == "Lambda" and len(items) == 2:
            return Family(items[1], expr(items[0]), NumberSet("C"))
        if name == "ImageSet" and len(items) == 2 and isinstance(items[0], Family):
            return Family(items[0].value, items[0].parameter, as_set(items[1]))
        if name == "Complement" and len(items) == 2:
            return Without(as_set(items[0]), as_set(items[1]))
        if name == "And":
            return All(tuple(items))
        if name == "Or":
            return either(items)
        if name == "Matrix" and len(items) == 1 and isinstance(items[0], Listing):
            rows = items[0].items
            listed = all(isinstance(row, Listing) for row in rows)
            return Matrix(tuple(row.items if isinstance(row, Listing) and listed else (row,) for row in rows))
        raise UnreadError(name)


def _congruence(relations: list[Relation], value: Value, modulus: Expr) -> Value:
    r"""``x \equiv 3 \pmod{7}`` is a member of a class, and ``3 \pmod{7}`` is the class."""
    if not relations:
        return Residue(expr(value), modulus)
    if len(relations) > 1 or relations[0].operator != "=" or not isinstance(relations[0].left, Symbol):
        raise UnreadError("a congruence of no variable")
    return Member(relations[0].left, Residue(expr(relations[0].right), modulus))
