r"""Parse and evaluate sums, products, definite integrals and limits: ``\sum_{k=1}^{10} k`` is 55.

An operator is evaluated by sympy. What sympy does not evaluate, what it evaluates to another number than its own
numerical methods do, and notation that could mean two things raise UnreadError, so such a text equals only itself.
"""

from abc import ABC

import sympy
from sympy import Expr, Integer, Symbol, oo

from agentdistill.grading.mathematics.building import expr
from agentdistill.grading.mathematics.expressions import Expressions, Reading
from agentdistill.grading.mathematics.values import FUNCTION_NAMES, Relation, UnreadError, Value

_MAX_TERMS = 2_000
"""Sums with more terms are evaluated by a formula."""
_UNEVALUATED = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit, sympy.AccumBounds, sympy.nan, sympy.zoo)
_ARROWS = (r"\to", r"\rightarrow", r"\longrightarrow")


class Calculus(Expressions, ABC):
    """The rules for operators with a bound variable."""

    def __init__(self, text: str, reading: Reading) -> None:
        super().__init__(text, reading)
        if r"\int" in text:
            self._tokens = _with_differentials(self._tokens)

    def _large_operator(self, name: str) -> Value:
        if name == "int":
            return self._integral()
        return self._limit() if name == "lim" else self._series(name)

    def _series(self, name: str) -> Expr:
        """Parse a sum or product over an index."""
        if self._peek() == "_" and self._peek(1) == "{":
            index = self._peek(2)
        else:
            raise UnreadError("an operator without a lower bound")
        with_index = self._bound | {index}
        outer, self._bound = self._bound, with_index
        self._next()
        lower = self._argument()
        self._expect("^")
        upper = expr(self._exponent())
        body = self._body(index, is_product=name == "prod")
        self._bound = outer
        if not isinstance(lower, Relation) or lower.operator != "=" or lower.left != Symbol(index):
            raise UnreadError("an index without a first value")
        return _series(name, body, Symbol(index), expr(lower.right), upper)

    def _body(self, variable: str, *, is_product: bool = False) -> Expr:
        """Parse the term of an operator, which extends to the next plus or minus. Whether it extends further must not
        be a question."""
        start = self._at
        body = expr(self._implicit() if is_product else self._product())
        self._require_known(start, variable, body)
        if self._peek() in ("+", "-", "*", "/", r"\cdot", r"\times"):
            rest = {token for _, token in self._tokens[self._at :]}
            if variable in rest or self._peek() not in ("+", "-"):
                raise UnreadError("where the term ends is not clear")
        return body

    def _require_known(self, start: int, variable: str, body: Expr) -> None:
        """Raise UnreadError if a body has a function or an indexed name that is not known, such as f(x) or a_k."""
        names = [token for _, token in self._tokens[start : self._at]]
        for name, following in zip(names, [*names[1:], ""], strict=True):
            if following == "(" and name in FUNCTION_NAMES and name not in self._bound:
                raise UnreadError(f"{name} may be a function")
        if any(variable in str(symbol).partition("_")[2] or "'" in str(symbol) for symbol in body.free_symbols):
            raise UnreadError("a sequence that is not given")

    def _integral(self) -> Expr:
        bounds: dict[str, Expr] = {}
        while token := self._take("_", "^"):
            bounds[token] = expr(self._argument() if token == "_" else self._exponent())
        if len(bounds) != 2:
            raise UnreadError("an integral without bounds")
        start = self._at
        body = Integer(1) if self._kind() == "differential" else expr(self._sum())
        if self._kind() != "differential":
            raise UnreadError("an integral without a variable")
        variable = self._next()
        self._require_known(start, variable, body)
        return _checked(sympy.Integral(body, (Symbol(variable), bounds["_"], bounds["^"])))

    def _limit(self) -> Expr:
        self._expect("_")
        self._expect("{")
        variable = self._next()
        if self._kind(-1) not in ("name", "command") or not self._take(*_ARROWS):
            raise UnreadError("a limit of no variable")
        direction = self._direction()
        point = expr(self._sum())
        self._expect("}")
        body = self._body(variable)
        try:
            value = sympy.limit(body, Symbol(variable), point, "-" if point == oo else direction)
        except (ValueError, NotImplementedError) as error:  # the limits from both sides differ
            raise UnreadError(str(error)) from error
        return _settled(value)

    def _direction(self) -> str:
        """Remove ``^+`` or ``^-`` from the end of the group that is open, and return the side it names."""
        end = next((at for at in range(self._at, len(self._tokens)) if self._tokens[at][1] == "}"), len(self._tokens))
        marks = [token for _, token in self._tokens[end - 2 : end]]
        if marks in (["^", "+"], ["^", "-"]):
            del self._tokens[end - 2 : end]
            return marks[1]
        if marks in (["{", "+"], ["{", "-"]) and self._tokens[end - 3][1] == "^":
            del self._tokens[end - 3 : end + 1]
            return marks[1]
        return "+-"


def _with_differentials(tokens: list[tuple[str, str]]) -> list[tuple[str, str]]:
    r"""Replace ``d`` and a variable by one token, and move it from a fraction's numerator to behind the fraction."""
    found: list[tuple[str, str]] = []
    for kind, token in tokens:
        is_variable = (kind == "name" and len(token) == 1) or token in (r"\theta", r"\phi", r"\varphi", r"\alpha")
        if is_variable and found and found[-1] == ("name", "d"):
            found[-1] = ("differential", token.lstrip("\\"))
        else:
            found.append((kind, token))
    for at in reversed([at for at, (_, token) in enumerate(found) if token in (r"\frac", r"\dfrac", r"\tfrac")]):
        middle = _end_of_group(found, at + 1)
        end = _end_of_group(found, middle)
        if middle - at > 2 and found[middle - 2][0] == "differential":
            moved = found[middle - 2]
            found[end:end] = [moved]
            found[middle - 2 : middle - 1] = [] if middle - at > 4 else [("number", "1")]
    return found


def _end_of_group(tokens: list[tuple[str, str]], at: int) -> int:
    """The position after the group or single token at ``at``."""
    depth = 0
    for end in range(at, len(tokens)):
        depth += (tokens[end][1] == "{") - (tokens[end][1] == "}")
        if depth == 0:
            return end + 1
    return len(tokens)


def _series(name: str, body: Expr, index: Symbol, low: Expr, high: Expr) -> Expr:
    if isinstance(low, Integer) and isinstance(high, Integer):
        if high < low:
            raise UnreadError("a sum of nothing")
        if high - low < _MAX_TERMS:
            terms = [body.subs(index, number) for number in range(int(low), int(high) + 1)]
            return _settled(sympy.Add(*terms) if name == "sum" else sympy.Mul(*terms))
    return _checked((sympy.Sum if name == "sum" else sympy.Product)(body, (index, low, high)))


def _checked(operation: Expr) -> Expr:
    """Evaluate an operation, and compare the result with sympy's numerical methods if it is a number."""
    value = _settled(operation.doit())
    if not value.free_symbols and value.is_finite:
        number, expected = operation.evalf(15), value.evalf(15)
        if abs(number - expected) > 1e-8 * max(1, abs(expected)):
            raise UnreadError("two methods that disagree")
    return value


def _settled(value: Expr) -> Expr:
    if not isinstance(value, Expr) or value.has(*_UNEVALUATED):
        raise UnreadError("an operation that is not evaluated")
    return value
