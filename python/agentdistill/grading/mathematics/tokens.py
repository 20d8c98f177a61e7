"""Split an answer into tokens, and move through them.

The names of functions and constants are here, because a run of letters such as ``xsinx`` is split by them. Not here:
what the tokens mean (``expressions.py``, ``reading.py``).
"""

import re
from collections.abc import Callable

import sympy
from sympy import Expr, oo, pi

from agentdistill.grading.mathematics.values import Ellipsis, NumberSet, Truth, Union, UnreadError, Value
from agentdistill.grading.mathematics.words import GREEK

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<recurring>\d*\.\d*(?:\\(?:overline|bar|dot)\s*\{\d+\}\d*)+)
  | (?P<number>\d+(?:\.\d*)?(?:[eE][-+]?\d{1,4}(?![\d.]))?|\.\d+(?:[eE][-+]?\d{1,4}(?!\d))?)
  | (?P<command>\\[A-Za-z]+|\\[{}%|\\])
  | (?P<logarithm>log(?:2|10)(?=\())
  | (?P<indexed>[A-Za-z]\d+(?![\w.]))
  | (?P<name>[A-Za-z\u0370-\u03ff]+)
  | (?P<mark>\*\*|!!(?!=)|<=|>=|==|!=|\.\.\.|\.(?=[A-Za-z])|[-+*/^_=<>(){}\[\],;:|&!%'~])
  )""",
    re.VERBOSE,
)
_DERIVATIVE = re.compile(r"\bd\s*[a-z]?\s*/\s*d\s*[a-z]\b|frac\s*\{\s*d[^{}]*\}\s*\{\s*d\s*[a-z][^{}]*\}")
"""``dy/dx``, which is no quotient of products."""
_GROUPED = re.compile(r"(?<![\d.])\d{1,3}(?:,\d{3})+(?![\d])")

_SYMPY_NAMES = (
    "sin cos tan cot sec csc sinh cosh tanh asin acos atan acot asec acsc asinh acosh atanh exp floor binomial "
    "factorial gamma cbrt re im arg conjugate sign gcd lcm "
)
_INVERTED = "sin cos tan cot sec csc sinh cosh tanh "

FUNCTIONS: dict[str, Callable[..., Expr]] = {
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
    "comb": sympy.binomial,
    "root": lambda value, degree: value ** (1 / degree),
    "det": sympy.Function("det"),
    "deg": sympy.Function("deg"),
    "cis": lambda angle: sympy.exp(sympy.I * angle),
}
PRINTED = {
    "Interval", "FiniteSet", "Union", "Complement", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Matrix",
    "Rational", "Fraction", "Integer", "Float", "EmptySet", "Reals", "Integers", "Naturals", "Tuple", "set", "Symbol",
    "ImageSet", "Lambda", "frozenset", "array",
}  # fmt: skip
CONSTANTS: dict[str, Value] = {
    "pi": pi,
    "π": pi,
    "oo": oo,
    "inf": oo,
    "infty": oo,
    "infinity": oo,
    "Infinity": oo,
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
_NAMES = sorted({"mod", *FUNCTIONS, *PRINTED, *(name for name in CONSTANTS if len(name) > 1)}, key=len, reverse=True)
GREEK_NAMES = set(GREEK)


class Cursor:
    """The tokens of a text, each with its kind, and a position in them."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        self._at = 0
        self._is_latex = bool(re.search(r"\\(?!cdot|times)", text))
        if _DERIVATIVE.search(text):
            raise UnreadError("a derivative")
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
            elif kind == "indexed" and self._tokens and self._tokens[-1][1].endswith("frac"):  # \frac n2
                self._tokens += [("name", token[0]), ("number", token[1:])]
            elif kind in ("logarithm", "indexed"):  # log10(x) and x1, as in Python
                digits = token.lstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
                index = [("mark", "_"), ("mark", "{"), ("number", digits), ("mark", "}")]
                self._tokens += [("name", token.removesuffix(digits)), *index]
            elif token not in ("~", r"\quad", r"\limits", r"\nolimits"):
                self._tokens.append((kind, token))

    @staticmethod
    def _split(run: str) -> list[str]:
        """Split a run of letters into known names and single letters."""
        if run in GREEK_NAMES and run != "xi":
            return [run]
        names = []
        while run:
            name = next((name for name in _NAMES if run.startswith(name)), run[0])
            names.append(name)
            run = run[len(name) :]
        return names

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
