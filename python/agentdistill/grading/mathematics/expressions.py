r"""Parse a single value: sums, products, powers, functions, and LaTeX's commands for them.

Not here: what contains several values, such as lists, relations and sets (``reading.py``), and sums with an index,
integrals and limits (``calculus.py``).
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import sympy
from sympy import E, Expr, I, Integer, Rational, Symbol

from agentdistill.grading.mathematics.building import (
    as_set,
    determinant,
    expr,
    quotient,
    raised,
    recurring,
    remainder,
    times,
    union,
)
from agentdistill.grading.mathematics.tokens import CONSTANTS, FUNCTIONS, GREEK_NAMES, PRINTED, Cursor
from agentdistill.grading.mathematics.values import (
    Ellipsis,
    Interval,
    Matrix,
    NumberSet,
    Union,
    UnreadError,
    Value,
    Without,
)

_BY_NAME = {"sqrt", "Abs", "abs", "floor", "ceil", "ceiling", "binomial", "factorial", "cbrt", "gamma", "Min", "Max"}
_TIMES = {"*", r"\cdot", r"\times", r"\ast"}
_OVER = {"/", r"\div"}


@dataclass(frozen=True)
class Reading:
    """How to parse ambiguous notation."""

    plus_minus: int = 1
    r"""The sign that ``\pm`` stands for."""
    percent: Expr = sympy.S.One
    """The factor that ``%`` stands for: 1 or 1/100."""
    log: Expr = E
    r"""The base of ``\log``."""


class Expressions(Cursor, ABC):
    """The rules for a single value."""

    def __init__(self, text: str, reading: Reading) -> None:
        super().__init__(text)
        self._reading = reading
        self._depth = 0
        self._bars = 0
        """Number of open bars of absolute values."""
        self._braces = 0
        """Number of open braces of sets."""
        self._bound: frozenset[str] = frozenset()
        """The indices of the sums around the position. They are variables, even ``i``."""

    @abstractmethod
    def _relation(self) -> Value:
        """Parse a value or a relation between values."""

    @abstractmethod
    def _items(self, closing: str) -> list[Value]:
        """Parse items separated by commas."""

    @abstractmethod
    def _bracketed(self, opening: str) -> Value:
        """Parse what follows an opening bracket."""

    @abstractmethod
    def _environment(self) -> Value:
        r"""Parse what follows ``\begin``."""

    @abstractmethod
    def _printed(self, name: str) -> Value:
        """Parse an object that sympy prints by its constructor's name."""

    @abstractmethod
    def _large_operator(self, name: str) -> Value:
        """Parse a sum, a product, an integral or a limit."""

    def _sum(self) -> Value:
        value = self._product()
        while token := self._take("+", "-", r"\pm", r"\mp", r"\cup", r"\setminus", r"\backslash", "U"):
            other = self._product()
            if token in (r"\cup", "U"):
                value = union([value, other])
            elif token in (r"\setminus", r"\backslash"):
                value = Without(as_set(value), as_set(other))
            elif token == "-" and isinstance(value, NumberSet | Interval | Union):
                value = Without(value, as_set(other))
            else:
                value = expr(value) + self._signed(token, expr(other))
        return value

    def _signed(self, token: str, value: Expr) -> Expr:
        sign = {"+": 1, "-": -1, r"\pm": self._reading.plus_minus, r"\mp": -self._reading.plus_minus}[token]
        return value if sign == 1 else -value

    def _product(self) -> Value:
        value = self._unary()
        while token := self._take(*_TIMES, *_OVER, "%"):
            other = self._unary()
            if token == "%":
                value = remainder(expr(value), expr(other))
            else:
                value = quotient(expr(value), expr(other)) if token in _OVER else times(value, other)
        return value

    def _unary(self) -> Value:
        self._depth += 1
        if self._depth > 60:
            raise UnreadError("too deep")
        try:
            if token := self._take("-", "+", r"\pm", r"\mp"):
                return times(self._signed(token, Integer(1)), self._unary())
            return self._implicit()
        finally:
            self._depth -= 1

    def _implicit(self) -> Value:
        was_number, begin = self._kind() == "number", self._at
        value = self._power()
        while self._starts_factor():
            # Factors such as 2^{10} 3^5 are clear. Other numbers in a row may be anything.
            are_powers = any(token == "^" for _, token in self._tokens[begin : self._at]) and self._peek(1) == "^"
            if self._kind() in ("number", "recurring") and not are_powers:
                raise UnreadError("two numbers in a row")
            is_mixed = was_number and isinstance(value, Integer) and self._peek() in (r"\frac", r"\dfrac", r"\tfrac")
            begin = self._at
            other = self._power()
            digits = "".join(token for _, token in self._tokens[begin + 1 : self._at])
            if is_mixed and re.fullmatch(r"\{?\d+\}?\{?\d+\}?", digits):
                value = expr(value) + expr(other)
            else:
                value = times(value, other)
            was_number = False
        return value

    def _starts_factor(self) -> bool:
        kind, token = self._kind(), self._peek()
        if kind in ("number", "recurring", "name"):
            return token not in ("U", "in", "mod", *(name for name in PRINTED))
        if token == "|":
            return self._bars == 0 and self._braces == 0 and self._closes_bar()
        if kind == "command":
            name = token[1:]
            return name in FUNCTIONS or name in GREEK_NAMES or name in _OTHER_FACTORS
        is_end = self._peek(1) in (r"\cup", r"\setminus", "U")  # ]0, 1[ \cup ...
        return token in ("(", "{") or (token == "[" and not is_end and self._closes_group())

    def _closes_bar(self) -> bool:
        return any(token == "|" for _, token in self._tokens[self._at + 1 :])

    def _closes_group(self) -> bool:
        """Whether the square brackets that open here hold a single value, so they are a factor and not a list."""
        depth = 0
        for _, token in self._tokens[self._at :]:
            depth += (token in ("[", "(")) - (token in ("]", ")"))
            if token == "," and depth == 1:
                return False
            if depth == 0:
                return True
        return False

    def _power(self) -> Value:
        value = self._postfix(self._primary())
        if self._take("^", "**"):
            power = expr(self._exponent())
            value = self._postfix(raised(expr(value), power))
        return value

    def _exponent(self) -> Value:
        if token := self._take("-", "+"):
            return self._signed(token, expr(self._exponent()))
        if self._take("{"):
            value = self._relation()
            self._expect("}")
            return self._continued(value)
        return self._continued(self._primary())

    def _continued(self, value: Value) -> Value:
        return raised(expr(value), expr(self._exponent())) if self._take("^", "**") else value

    def _postfix(self, value: Value) -> Value:
        while self._peek() != "%" or self._kind(1) != "number":  # 17 % 5 is a remainder
            if not (token := self._take("!", "!!", "%", r"\%")):
                break
            if token != "%" and token != r"\%":
                if isinstance(value, Integer) and value > 2000:
                    raise UnreadError("a factorial too large")
                value = (sympy.factorial if token == "!" else sympy.factorial2)(expr(value))
            else:
                value = expr(value) * self._reading.percent
        return value

    # ---- single values

    def _primary(self) -> Value:
        kind, token = self._kind(), self._next()
        if kind == "number":
            return self._number(token)
        if kind == "recurring":
            return recurring(token)
        if kind == "name":
            return self._name(token)
        if token in ("(", "[", "]", "{", r"\{"):
            return self._bracketed(token)
        if token in ("|", r"\lvert", r"\vert", r"\|") and token != r"\|":
            return self._absolute(token)
        if kind == "command":
            return self._command(token[1:])
        if token == "...":
            return Ellipsis()
        if token == "_" and self._kind() == "name":  # a sympy Dummy
            return self._symbol("_" + self._next())
        raise UnreadError(token)

    def _number(self, token: str) -> Value:
        if self._peek() == "_":
            self._next()
            base = self._argument()
            if not isinstance(base, Integer) or not 2 <= base <= 36:
                raise UnreadError("no base")
            try:
                return Integer(int(token, int(base)))
            except ValueError as error:
                raise UnreadError(token) from error
        if len(token) > 4000:
            raise UnreadError("a number too long")
        return Rational(token)

    def _name(self, name: str) -> Value:
        if name in FUNCTIONS and (name not in ("gamma", "re", "im", "arg", "sign") or self._peek() == "("):
            return self._function(name)
        if name in PRINTED and self._peek() in ("(", "."):
            return self._printed(name)
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in self._bound:
            return self._symbol(name)
        if name == "i" or (name == "I" and not self._is_latex) or (name == "j" and self._is_behind_number()):
            return I
        if name == "e" or (name == "E" and not self._is_latex):
            return E
        return self._symbol(name)

    def _is_behind_number(self) -> bool:
        return self._at >= 2 and self._tokens[self._at - 2][0] == "number"

    def _symbol(self, name: str) -> Value:
        if self._take("_"):
            start = self._at
            self._argument_tokens()
            name += "_" + "".join(token for _, token in self._tokens[start : self._at]).strip("{}")
        while self._take("'", r"\prime"):
            name += "'"
        return Symbol(name)

    def _argument_tokens(self) -> None:
        """Skip a subscript."""
        if not self._take("{"):
            self._next()
            return
        depth = 1
        while depth:
            token = self._next()
            depth += (token == "{") - (token == "}")

    def _argument(self) -> Value:
        r"""Parse the argument of ``\frac``, ``\sqrt`` or ``_``: a group, one digit or one letter."""
        kind, token = self._kind(), self._peek()
        if token == "{":
            self._next()
            value = self._relation()
            self._expect("}")
            return value
        if kind == "number" and len(token) > 1:
            if not token.isdigit():
                raise UnreadError(token)
            self._tokens[self._at] = ("number", token[1:])
            return Integer(int(token[0]))
        return self._primary()

    def _function(self, name: str) -> Value:
        function = FUNCTIONS[name]
        is_latex = self._tokens[self._at - 1][0] == "command"
        base: Expr | None = None
        power: Expr | None = None
        while token := self._take("_", "^", "**"):
            if token == "_":
                base = expr(self._argument())
            else:
                power = expr(self._exponent())
        if self._peek() in ("(", "{") or (self._peek() == r"\{" and name in ("min", "max")):
            opening = self._next()
            arguments = [expr(item) for item in self._within(lambda: self._items(")"))]
            self._expect({"(": ")", "{": "}", r"\{": r"\}"}[opening])
        elif name in _BY_NAME and name != "sqrt":
            raise UnreadError(name)
        else:
            arguments = [self._bare_argument()]
        if name == "log" and (base is not None or is_latex):
            arguments.append(base if base is not None else self._reading.log)
        elif base is not None:
            raise UnreadError("a base of no logarithm")
        if power == -1 and f"a{name}" in FUNCTIONS:
            return self._apply(FUNCTIONS[f"a{name}"], arguments)
        value = self._apply(function, arguments)
        return value if power is None else raised(value, power)

    @staticmethod
    def _apply(function: Callable[..., Expr], arguments: list[Expr]) -> Expr:
        try:
            value = function(*arguments)
        except (TypeError, ValueError) as error:
            raise UnreadError(str(error)) from error
        if not isinstance(value, Expr):
            raise UnreadError("no expression")
        return value

    def _bare_argument(self) -> Expr:
        r"""Parse an argument without brackets, as in ``\sin 2x``: factors up to the next function, bracket or sign."""
        value = expr(self._power() if self._peek() != "-" else self._unary())
        while self._starts_factor() and self._peek().lstrip("\\") not in FUNCTIONS and self._peek() != "(":
            value *= expr(self._power())
        return value

    def _within(self, read_it: Callable[[], list[Value]]) -> list[Value]:
        """Parse inside brackets, where bars and braces that were opened outside do not count."""
        bars, braces, self._bars, self._braces = self._bars, self._braces, 0, 0
        items = read_it()
        self._bars, self._braces = bars, braces
        return items

    def _absolute(self, opening: str) -> Value:
        self._bars += 1
        braces, self._braces = self._braces, 0
        value = self._sum()
        self._expect({"|": "|", r"\lvert": r"\rvert", r"\vert": r"\vert"}[opening])
        self._bars -= 1
        self._braces = braces
        return determinant(value) if isinstance(value, Matrix) else sympy.Abs(expr(value))

    # ---- LaTeX commands

    def _command(self, name: str) -> Value:
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            above = expr(self._argument())
            return quotient(above, expr(self._argument()))
        if name in ("binom", "dbinom", "tbinom"):
            above = expr(self._argument())
            return self._apply(sympy.binomial, [above, expr(self._argument())])
        if name == "sqrt":
            return self._root()
        if name in ("lfloor", "lceil"):
            value = expr(self._sum())
            self._expect(rf"\r{name[1:]}")
            return (sympy.floor if name == "lfloor" else sympy.ceiling)(value)
        if name in ("sum", "prod", "int", "lim"):
            return self._large_operator(name)
        if name == "begin":
            return self._environment()
        if name in (
            "mathbb",
            "mathbf",
            "Bbb",
            "boldsymbol",
            "vec",
            "overrightarrow",
            "overline",
            "hat",
            "mathcal",
            "bar",
        ):
            return self._styled(name)
        if name in ("R", "Z", "N", "Q", "C"):
            return self._number_set(name)
        if name == "det" and self._peek() in ("(", r"\begin"):
            at = self._at
            if isinstance(value := self._primary(), Matrix):
                return determinant(value)
            self._at = at
        if name in FUNCTIONS and (name not in GREEK_NAMES):
            return self._function(name)
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name in GREEK_NAMES:
            return self._symbol(name)
        raise UnreadError(name)

    def _root(self) -> Expr:
        degree: Expr = Integer(2)
        if self._take("["):
            degree = expr(self._sum())
            self._expect("]")
        value = expr(self._argument())
        if value.is_negative and degree.is_odd:
            return -raised(-value, quotient(Integer(1), degree))
        return raised(value, quotient(Integer(1), degree))

    def _styled(self, name: str) -> Value:
        is_group = bool(self._take("{"))
        inside = ""
        while is_group and self._peek() != "}":
            inside += self._next()
        inside = inside if is_group else self._next()
        if is_group:
            self._expect("}")
        if name in ("mathbb", "Bbb", "mathbf") and inside in ("R", "Z", "N", "Q", "C"):
            return self._number_set(inside)
        if not re.fullmatch(r"\\?[A-Za-z0-9]+", inside):
            raise UnreadError(inside)
        if name in ("mathbf", "boldsymbol", "vec") and inside.isdigit():
            return Integer(int(inside))
        return self._symbol(inside if name in ("mathbf", "boldsymbol") else f"{name}({inside})")

    def _number_set(self, name: str) -> Value:
        if self._take("^"):
            name += "^" + str(self._exponent()) if self._peek() not in ("+", "-", "*") else self._next()
        elif self._take("_"):
            start = self._at
            self._argument_tokens()
            name += "_" + "".join(token for _, token in self._tokens[start : self._at]).strip("{}")
        return NumberSet(name)


_OTHER_FACTORS = {
    "frac", "dfrac", "tfrac", "cfrac", "binom", "dbinom", "tbinom", "sqrt", "mathbf", "vec", "overline", "hat",
    "overrightarrow", "boldsymbol", "mathcal", "lvert", "bar", "infty", "pi", "lfloor", "lceil", "begin",
    "sum", "prod", "int", "lim",
}  # fmt: skip
