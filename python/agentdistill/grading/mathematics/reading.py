r"""A parser for mathematical answers in LaTeX, Python, sympy's output and plain notation.

A text is parsed completely into a typed value (``values.py``), or :class:`UnreadError` is raised: nothing is dropped or
guessed. No text is ever evaluated as Python. Existing LaTeX parsers parse the beginning of text that they do not
understand and drop the rest, so this project has its own. The file is long because it is one grammar with mutually
recursive rules. Not here: removing the text around an answer (``text.py``).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import sympy
from sympy import E, Expr, I, Integer, Rational, Symbol, oo, pi

from agentdistill.grading.mathematics.values import (
    All,
    Ellipsis,
    Family,
    Interval,
    Listing,
    Matrix,
    Member,
    NumberSet,
    Ratio,
    Relation,
    Truth,
    Union,
    UnreadError,
    Value,
    Without,
)
from agentdistill.grading.mathematics.words import GREEK

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<recurring>\d*\.\d*(?:\\(?:overline|bar|dot)\s*\{\d+\}\d*)+)
  | (?P<number>\d+(?:\.\d*)?(?:[eE][-+]?\d{1,4}(?![\d.]))?|\.\d+(?:[eE][-+]?\d{1,4}(?!\d))?)
  | (?P<command>\\[A-Za-z]+|\\[{}%|\\])
  | (?P<logarithm>log(?:2|10)(?=\())
  | (?P<indexed>[A-Za-z]\d+(?![\w.]))
  | (?P<name>[A-Za-z\u0370-\u03ff]+)
  | (?P<mark>\*\*|<=|>=|==|!=|\.\.\.|\.(?=[A-Za-z])|[-+*/^_=<>(){}\[\],;:|&!%'~])
  )""",
    re.VERBOSE,
)
_GROUPED = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?![\d])")

_SYMPY_NAMES = (
    "sin cos tan cot sec csc sinh cosh tanh asin acos atan acot asec acsc asinh acosh atanh exp floor binomial "
    "factorial gamma cbrt re im arg conjugate sign gcd lcm "
)
_INVERTED = "sin cos tan cot sec csc sinh cosh tanh "

_FUNCTIONS: dict[str, Callable[..., Expr]] = {
    **{name: getattr(sympy, name) for name in _SYMPY_NAMES.split()},
    **{f"arc{name}": getattr(sympy, f"a{name}") for name in _INVERTED.split()},
    "sqrt": sympy.sqrt,
    "Abs": sympy.Abs,
    "abs": sympy.Abs,
    "ln": sympy.log,
    "log": sympy.log,
    "lg": lambda value: sympy.log(value, 10),
    "ceil": sympy.ceiling,
    "ceiling": sympy.ceiling,
    "min": sympy.Min,
    "max": sympy.Max,
    "Min": sympy.Min,
    "Max": sympy.Max,
    "root": lambda value, degree: value ** (1 / degree),
    "det": sympy.Function("det"),
    "deg": sympy.Function("deg"),
}
_BY_NAME = {"sqrt", "Abs", "abs", "floor", "ceil", "ceiling", "binomial", "factorial", "cbrt", "gamma", "Min", "Max"}
_PRINTED = {
    "Interval", "FiniteSet", "Union", "Complement", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Matrix",
    "Rational", "Fraction", "Integer", "Float", "EmptySet", "Reals", "Integers", "Naturals", "Tuple", "set", "Symbol",
    "ImageSet", "Lambda", "frozenset", "array",
}  # fmt: skip
_CONSTANTS: dict[str, Value] = {
    "pi": pi,
    "π": pi,
    "oo": oo,
    "inf": oo,
    "infty": oo,
    "infinity": oo,
    "emptyset": Union(()),
    "EmptySet": Union(()),
    "GoldenRatio": sympy.GoldenRatio,
    "Reals": NumberSet("R"),
    "Integers": NumberSet("Z"),
    "Naturals": NumberSet("N"),
    "ldots": Ellipsis(),
    "dots": Ellipsis(),
    "cdots": Ellipsis(),
    "...": Ellipsis(),
    **dict.fromkeys(("True", "true"), Truth(True)),
    **dict.fromkeys(("False", "false"), Truth(False)),
}
_NAMES = sorted({*_FUNCTIONS, *_PRINTED, *(name for name in _CONSTANTS if len(name) > 1)}, key=len, reverse=True)
_GREEK = set(GREEK)
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
_TIMES = {"*", r"\cdot", r"\times", r"\ast"}
_OVER = {"/", r"\div"}
_BITS = 40_000
"""Powers with more bits than this stay unevaluated. Their comparison may still reach the time limit."""


@dataclass(frozen=True)
class Reading:
    """How to parse ambiguous notation."""

    plus_minus: int = 1
    r"""The sign that ``\pm`` stands for."""
    percent: Expr = sympy.S.One
    """The factor that ``%`` stands for: 1 or 1/100."""
    log: Expr = E
    r"""The base of ``\log``."""


def read(text: str, reading: Reading = Reading()) -> Value:
    """Parse ``text`` completely. Raises UnreadError if any part of it is not in the grammar."""
    return _Parser(text, reading).whole()


class _Parser:
    def __init__(self, text: str, reading: Reading) -> None:
        self._reading = reading
        self._tokens: list[tuple[str, str]] = []
        self._at = 0
        self._bars = 0
        self._depth = 0
        self._is_latex = bool(re.search(r"\\(?!cdot|times)", text))
        if not re.search(r"[(\[{]", text):  # in brackets, commas separate items
            text = _GROUPED.sub(lambda number: number[0].replace(",", ""), text)
        end = 0
        text = text.rstrip()
        while end < len(text):
            if not (found := _TOKEN.match(text, end)) or not found.lastgroup:
                raise UnreadError(text[end:])
            end, kind, token = found.end(), found.lastgroup, found[found.lastgroup]
            if kind == "name":
                self._tokens += [("name", name) for name in self._split(token)]
            elif kind in ("logarithm", "indexed"):  # log10(x) and x1, as in Python
                digits = token.lstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
                index = [("mark", "_"), ("mark", "{"), ("number", digits), ("mark", "}")]
                self._tokens += [("name", token.removesuffix(digits)), *index]
            elif token not in ("~", r"\quad"):
                self._tokens.append((kind, token))

    @staticmethod
    def _split(run: str) -> list[str]:
        """Split a run of letters into known names and single letters."""
        if run in _GREEK and run != "xi":
            return [run]
        names = []
        while run:
            name = next((name for name in _NAMES if run.startswith(name)), run[0])
            names.append(name)
            run = run[len(name) :]
        return names

    # ---- tokens

    def _peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at][1] if at < len(self._tokens) else ""

    def _kind(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at][0] if at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        if not token:
            raise UnreadError("the end comes too early")
        self._at += 1
        return token

    def _take(self, *tokens: str) -> str:
        """Consume and return the next token if it is one of ``tokens``, else return ""."""
        return self._next() if self._peek() in tokens and self._peek() else ""

    def _expect(self, *tokens: str) -> str:
        if token := self._take(*tokens):
            return token
        raise UnreadError(f"{self._peek()!r} where {tokens[0]!r} is expected")

    # ---- lists, relations, sets

    def whole(self) -> Value:
        items = self._items("")
        if self._at < len(self._tokens):
            raise UnreadError(self._peek())
        if len(items) == 1:
            return items[0]
        if isinstance(items[0], Member) and all(map(_is_condition, items[1:])):
            items = [*items[1:], items[0]]  # x in Z, x > 2
        first, *others = items
        if isinstance(first, Relation) and first.operator == "!=" and all(isinstance(other, Expr) for other in others):
            return All((first, *(Relation("!=", first.left, other) for other in others)))
        if (bounded := _bounded(items)) is not None:
            return bounded
        *values, last = items
        if isinstance(last, Member) and isinstance(last.values, NumberSet) and not isinstance(values[-1], Member):
            rest = values[0] if len(values) == 1 else Listing("", tuple(values))
            if _is_condition(rest) and last.values == NumberSet("R"):
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
        while self._take(r"\lor", r"\vee") or (_is_condition(parts[-1]) and self._take("|")):
            parts.append(self._conjunction())
        value = parts[0] if len(parts) == 1 else _either(parts)
        if self._take(r"\choose"):
            return self._apply(sympy.binomial, [_expr(value), _expr(self._clause())])
        return _quotient(_expr(value), _expr(self._clause())) if self._take(r"\over") else value

    def _conjunction(self) -> Value:
        parts = [self._relation()]
        while self._take("&", r"\land", r"\wedge"):
            parts.append(self._relation())
        if len(parts) == 1:
            return parts[0]
        if not all(_is_condition(part) for part in parts):
            raise UnreadError("no conditions")
        return All(tuple(r for part in parts for r in (part.relations if isinstance(part, All) else (part,))))

    def _relation(self) -> Value:
        left = self._sum()
        relations: list[Value] = []
        while True:
            if operator := self._take(*_RELATIONS):
                right = self._sum()
                relations.append(_relate(_RELATIONS[operator], left, right))
                left = right
            elif self._take(r"\in"):
                name = self._peek()
                values = self._sum()
                if isinstance(values, Symbol) and name in ("R", "Z", "N", "Q", "C"):
                    values = NumberSet(name)
                if not isinstance(left, Symbol) or relations:
                    raise UnreadError("a member that is no variable")
                return Member(left, _as_set(values))
            elif self._peek() == ":" and not relations and isinstance(left, Expr) and self._braces == 0:
                terms: list[Value] = [left]
                is_time = True
                while self._take(":"):
                    is_time = is_time and bool(re.fullmatch("[0-5][0-9]", self._peek()))
                    terms.append(self._sum())
                return Ratio(tuple(terms), is_time)
            else:
                break
        if not relations:
            return left
        return relations[0] if len(relations) == 1 else All(tuple(relations))

    _braces = 0
    """Number of open braces of sets."""

    def _sum(self) -> Value:
        value = self._product()
        while token := self._take("+", "-", r"\pm", r"\mp", r"\cup", r"\setminus", r"\backslash", "U"):
            other = self._product()
            if token in (r"\cup", "U"):
                value = _union([value, other])
            elif token in (r"\setminus", r"\backslash"):
                value = Without(_as_set(value), _as_set(other))
            elif token == "-" and isinstance(value, NumberSet | Interval | Union):
                value = Without(value, _as_set(other))
            else:
                value = _expr(value) + self._signed(token, _expr(other))
        return value

    def _signed(self, token: str, value: Expr) -> Expr:
        sign = {"+": 1, "-": -1, r"\pm": self._reading.plus_minus, r"\mp": -self._reading.plus_minus}[token]
        return value if sign == 1 else -value

    def _product(self) -> Value:
        value = self._unary()
        while token := self._take(*_TIMES, *_OVER):
            other = self._unary()
            value = _quotient(_expr(value), _expr(other)) if token in _OVER else _times(value, other)
        return value

    def _unary(self) -> Value:
        self._depth += 1
        if self._depth > 60:
            raise UnreadError("too deep")
        try:
            if token := self._take("-", "+", r"\pm", r"\mp"):
                return _times(self._signed(token, Integer(1)), self._unary())
            return self._implicit()
        finally:
            self._depth -= 1

    def _implicit(self) -> Value:
        was_number = self._kind() == "number"
        value = self._power()
        while self._starts_factor():
            if self._kind() in ("number", "recurring"):
                raise UnreadError("two numbers in a row")
            is_mixed = was_number and isinstance(value, Integer) and self._peek() in (r"\frac", r"\dfrac", r"\tfrac")
            before = self._at
            other = self._power()
            digits = "".join(token for _, token in self._tokens[before + 1 : self._at])
            if is_mixed and re.fullmatch(r"\{?\d+\}?\{?\d+\}?", digits):
                value = _expr(value) + _expr(other)
            else:
                value = _times(value, other)
            was_number = False
        return value

    def _starts_factor(self) -> bool:
        kind, token = self._kind(), self._peek()
        if kind in ("number", "recurring", "name"):
            return token not in ("U", "in", *(name for name in _PRINTED))
        if token == "|":
            return self._bars == 0 and self._braces == 0 and self._closes_bar()
        if kind == "command":
            name = token[1:]
            return name in _FUNCTIONS or name in _GREEK or name in _OTHER_FACTORS or name in ("pi", "lfloor", "lceil")
        return token in ("(", "{") or (token == "[" and self._closes_group())

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
            power = _expr(self._exponent())
            value = self._postfix(_raise(_expr(value), power))
        return value

    def _exponent(self) -> Value:
        if token := self._take("-", "+"):
            return self._signed(token, _expr(self._exponent()))
        if self._take("{"):
            value = self._relation()
            self._expect("}")
            return self._continued(value)
        return self._continued(self._primary())

    def _continued(self, value: Value) -> Value:
        return _raise(_expr(value), _expr(self._exponent())) if self._take("^", "**") else value

    def _postfix(self, value: Value) -> Value:
        while token := self._take("!", "%", r"\%"):
            if token == "!":
                if isinstance(value, Integer) and value > 2000:
                    raise UnreadError("a factorial too large")
                value = sympy.factorial(_expr(value))
            else:
                value = _expr(value) * self._reading.percent
        return value

    # ---- single values

    def _primary(self) -> Value:
        kind, token = self._kind(), self._next()
        if kind == "number":
            return self._number(token)
        if kind == "recurring":
            return _recurring(token)
        if kind == "name":
            return self._name(token)
        if token in ("(", "[", "{", r"\{"):
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
        if name in _FUNCTIONS and (name not in ("gamma", "re", "im", "arg", "sign") or self._peek() == "("):
            return self._function(name)
        if name in _PRINTED and self._peek() in ("(", "."):
            return self._printed(name)
        if name in _CONSTANTS:
            return _CONSTANTS[name]
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
        function = _FUNCTIONS[name]
        is_latex = self._tokens[self._at - 1][0] == "command"
        base: Expr | None = None
        power: Expr | None = None
        while token := self._take("_", "^", "**"):
            if token == "_":
                base = _expr(self._argument())
            else:
                power = _expr(self._exponent())
        if self._peek() in ("(", "{") or (self._peek() == r"\{" and name in ("min", "max")):
            opening = self._next()
            arguments = [_expr(item) for item in self._within(lambda: self._items(")"))]
            self._expect({"(": ")", "{": "}", r"\{": r"\}"}[opening])
        elif name in _BY_NAME and name != "sqrt":
            raise UnreadError(name)
        else:
            arguments = [self._bare_argument()]
        if name == "log" and (base is not None or is_latex):
            arguments.append(base if base is not None else self._reading.log)
        elif base is not None:
            raise UnreadError("a base of no logarithm")
        if power == -1 and f"a{name}" in _FUNCTIONS:
            return self._apply(_FUNCTIONS[f"a{name}"], arguments)
        value = self._apply(function, arguments)
        return value if power is None else _raise(value, power)

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
        value = _expr(self._power() if self._peek() != "-" else self._unary())
        while self._starts_factor() and self._peek().lstrip("\\") not in _FUNCTIONS and self._peek() != "(":
            value *= _expr(self._power())
        return value

    def _within(self, read_it: Callable[[], list[Value]]) -> list[Value]:
        """Parse inside brackets, where bars and braces that were opened outside do not count."""
        bars, braces, self._bars, self._braces = self._bars, self._braces, 0, 0
        items = read_it()
        self._bars, self._braces = bars, braces
        return items

    def _bracketed(self, opening: str) -> Value:
        closings = {"(": (")", "]"), "[": ("]", ")", "["), "{": ("}",), r"\{": (r"\}",)}[opening]
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
        if _is_condition(second) or isinstance(second, Member):
            conditions = [second]
            while self._take(","):
                conditions.append(self._clause())
            self._expect(closing)
            if (family := _described_family(first, conditions)) is not None:
                return family
            if isinstance(first, Member) and isinstance(first.values, NumberSet) and first.values.name != "R":
                raise UnreadError("a set within another than the reals")
            return _solutions(conditions)
        entries: list[Value] = [Relation("=", first, second)]
        while self._take(","):
            key = self._sum()
            self._expect(":")
            entries.append(Relation("=", key, self._sum()))
        self._expect(closing)
        return Listing("", tuple(entries)) if len(entries) > 1 else entries[0]

    def _absolute(self, opening: str) -> Value:
        self._bars += 1
        braces, self._braces = self._braces, 0
        value = _expr(self._sum())
        self._expect({"|": "|", r"\lvert": r"\rvert", r"\vert": r"\vert"}[opening])
        self._bars -= 1
        self._braces = braces
        return sympy.Abs(value)

    # ---- LaTeX commands

    def _command(self, name: str) -> Value:
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            above = _expr(self._argument())
            return _quotient(above, _expr(self._argument()))
        if name in ("binom", "dbinom", "tbinom"):
            above = _expr(self._argument())
            return self._apply(sympy.binomial, [above, _expr(self._argument())])
        if name == "sqrt":
            return self._root()
        if name in ("lfloor", "lceil"):
            value = _expr(self._sum())
            self._expect(rf"\r{name[1:]}")
            return (sympy.floor if name == "lfloor" else sympy.ceiling)(value)
        if name == "begin":
            return self._matrix()
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
        if name in _FUNCTIONS and (name not in _GREEK):
            return self._function(name)
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in _GREEK:
            return self._symbol(name)
        raise UnreadError(name)

    def _root(self) -> Expr:
        degree: Expr = Integer(2)
        if self._take("["):
            degree = _expr(self._sum())
            self._expect("]")
        value = _expr(self._argument())
        if value.is_negative and degree.is_odd:
            return -_raise(-value, _quotient(Integer(1), degree))
        return _raise(value, _quotient(Integer(1), degree))

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

    def _matrix(self) -> Value:
        self._expect("{")
        kind = ""
        while self._peek() != "}":
            kind += self._next()
        self._next()
        if kind == "cases":
            return self._cases()
        if (not kind.endswith("matrix") and kind != "array") or kind == "vmatrix":
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
        return Matrix(tuple(tuple(row) for row in rows))

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
            above = _expr(items[0])
            return above if len(items) == 1 else _quotient(above, _expr(items[1]))
        if name in ("Eq", "Ne", "Lt", "Le", "Gt", "Ge") and len(items) == 2:
            operator = {"Eq": "=", "Ne": "!=", "Lt": "<", "Le": "<=", "Gt": ">", "Ge": ">="}[name]
            return _relate(operator, *items)
        if name == "Interval" and len(items) in (2, 4):
            flags = [isinstance(item, Truth) and item.holds for item in items[2:]] or _OPEN.get(variant)
            if flags is None:
                raise UnreadError(variant)
            return Interval(_expr(items[0]), _expr(items[1]), *flags)
        if name in ("set", "frozenset", "array") and len(items) == 1 and isinstance(items[0], Listing):
            return items[0]
        if name in ("FiniteSet", "set", "frozenset"):
            return Listing("{}", tuple(items)) if items else Union(())
        if name == "Tuple":
            return Listing("()", tuple(items))
        if name == "Union":
            return _union(items)
        if name == "Lambda" and len(items) == 2:
            return Family(items[1], _expr(items[0]), NumberSet("C"))
        if name == "ImageSet" and len(items) == 2 and isinstance(items[0], Family):
            return Family(items[0].value, items[0].parameter, _as_set(items[1]))
        if name == "Complement" and len(items) == 2:
            return Without(_as_set(items[0]), _as_set(items[1]))
        if name == "And":
            return All(tuple(items))
        if name == "Or":
            return _either(items)
        if name == "Matrix" and len(items) == 1 and isinstance(items[0], Listing):
            rows = items[0].items
            listed = all(isinstance(row, Listing) for row in rows)
            return Matrix(tuple(row.items if isinstance(row, Listing) and listed else (row,) for row in rows))
        raise UnreadError(name)


_OTHER_FACTORS = {
    "frac", "dfrac", "tfrac", "cfrac", "binom", "dbinom", "tbinom", "sqrt", "mathbf", "vec", "overline", "hat",
    "overrightarrow", "boldsymbol", "mathcal", "lvert", "bar", "infty", "begin",
}  # fmt: skip


# ---- constructing values -----------------------------------------------------------------------


def _expr(value: Value) -> Expr:
    if not isinstance(value, Expr):
        raise UnreadError(f"{type(value).__name__} where a number is expected")
    return value


def _quotient(above: Expr, below: Expr) -> Expr:
    if below == 0:
        raise UnreadError("division by zero")
    return above / below


def _times(one: Value, other: Value) -> Value:
    """Multiply two numbers, or a number and a matrix."""
    if isinstance(one, Matrix) and not isinstance(other, Matrix):
        one, other = other, one
    if isinstance(other, Matrix):
        return Matrix(tuple(tuple(_expr(one) * _expr(value) for value in row) for row in other.rows))
    return _expr(one) * _expr(other)


def _raise(base: Expr, power: Expr) -> Expr:
    if base == 0 and power.is_negative:
        raise UnreadError("division by zero")
    if base.is_Rational and power.is_Rational:
        bits = max(base.p.bit_length(), base.q.bit_length())
        if bits * abs(power) > _BITS:
            return sympy.Pow(base, power, evaluate=False)
    return base**power


def _recurring(token: str) -> Expr:
    whole, _, rest = token.partition(".")
    groups = re.split(r"\\(?:overline|bar|dot)\s*", rest)
    fixed, again = groups[0], "".join(re.sub(r"[{}]", "", group) for group in groups[1:])
    if not groups[-1].endswith("}"):
        raise UnreadError(token)
    tail = Rational(int(again), (10 ** len(again) - 1) * 10 ** len(fixed))
    return Rational(f"{whole or 0}.{fixed or 0}") + tail


def _relate(operator: str, left: Value, right: Value) -> Relation:
    if operator in (">", ">="):
        return Relation(operator.replace(">", "<"), right, left)
    return Relation(operator, left, right)


def _is_condition(value: Value) -> bool:
    return isinstance(value, Relation | All)


def _bounded(items: list[Value]) -> All | None:
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


def _either(parts: list[Value]) -> Value:
    """Join alternatives: equations become a list of solutions, inequalities a union of sets."""
    if all(isinstance(part, Relation) and part.operator == "=" for part in parts):
        return Listing("", tuple(parts))
    sets = [solved(part) for part in parts]
    if any(part is None for part in sets) or len({member.variable for member in sets if member}) != 1:
        raise UnreadError("alternatives")
    variable = next(member.variable for member in sets if member)
    return Member(variable, Union(tuple(p for member in sets if member for p in _parts(member.values))))


def _union(parts: list[Value]) -> Value:
    """Unite sets, or families of values."""
    if not all(isinstance(part, Family) for part in parts):
        return Union(tuple(piece for part in parts for piece in _parts(part)))
    families = [part for part in parts if isinstance(part, Family)]
    first, values = families[0], []
    for family in families:
        if family.domain != first.domain:
            raise UnreadError("families over different domains")
        for value in family.value.items if isinstance(family.value, Listing) else (family.value,):
            values.append(_expr(value).subs(family.parameter, first.parameter))
    return Family(Listing("", tuple(values)), first.parameter, first.domain)


def _described_family(first: Value, conditions: list[Value]) -> Family | None:
    """Make the family of ``{2k | k in Z}`` or ``{x | x = 2k, k in Z}``. None for other set builders."""
    *others, last = conditions
    if not isinstance(last, Member) or not isinstance(last.values, NumberSet) or not isinstance(first, Expr):
        return None
    if not others and not isinstance(first, Symbol):
        return Family(first, last.variable, last.values)
    if len(others) == 1 and isinstance(others[0], Relation) and others[0].operator == "=" and others[0].left == first:
        return Family(others[0].right, last.variable, last.values)
    return None


def _solutions(conditions: list[Value]) -> Value:
    relations = tuple(
        relation for part in conditions for relation in (part.relations if isinstance(part, All) else (part,))
    )
    member = solved(relations[0] if len(relations) == 1 else All(relations))
    if member is None:
        raise UnreadError("conditions")
    return member.values


def solved(value: Value) -> Member | None:
    """Solve inequalities in which a single variable stands alone on one side; None for other relations."""
    if isinstance(value, Member):
        return value
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


def _as_set(value: Value) -> Value:
    if isinstance(value, Listing) and value.brackets in ("()", "[]", "(]", "[)", "]["):
        if len(value.items) != 2:
            raise UnreadError("an interval with other than two ends")
        low, high = map(_expr, value.items)
        return Interval(low, high, value.brackets[0] == "(", value.brackets[1] == ")")
    if isinstance(value, Listing | Interval | NumberSet | Union | Without) and getattr(value, "brackets", "{}") == "{}":
        return value
    if isinstance(value, Member):
        return value.values
    raise UnreadError("no set")


def _parts(value: Value) -> tuple[Value, ...]:
    if isinstance(value, Expr):  # {2} is parsed as a LaTeX group
        return (Listing("{}", (value,)),)
    if isinstance(value, Union):
        return value.parts
    if _is_condition(value):
        member = solved(value)
        if member is None:
            raise UnreadError("no set")
        return _parts(member.values)
    return (_as_set(value),)
