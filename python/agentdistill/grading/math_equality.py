r"""Decide whether two mathematical answers have the same value: ``13138980.0``, ``13,138,980``, ``\boxed{13138980}``.

First, everything around the value is removed (``mathematics/text.py``). Most pairs are then equal as text or are plain
numbers, and are compared here, exactly. The other texts are parsed completely by a grammar (``mathematics/reading.py``)
into typed values. Values are compared by type (``mathematics/comparing.py``), in a separate process
(``mathematics/worker.py``). A text that cannot be parsed completely equals only the same text.

No text of a model is ever evaluated as Python. tests/golden/math_answers.tsv specifies by example which answers are
equal.
"""

import re
from functools import cache
from importlib.metadata import version

from agentdistill.grading.mathematics.numbers import alike, close, number
from agentdistill.grading.mathematics.text import Dressed, is_range, named_words, undress_pair
from agentdistill.grading.mathematics.units import same_time, scales
from agentdistill.grading.mathematics.words import chosen, is_prose
from agentdistill.grading.mathematics.worker import WORKER, UndecidedError
from agentdistill.grading.squad import normalize

__all__ = ["UndecidedError", "math_equal", "math_grader"]

_LONGEST = 2_000
"""An answer with more characters than this is wrong."""
_LITERAL = re.compile(r"[EI]|\d{4}-\d{4}")
"""A reference that has no value: a letter, which is not what sympy prints for e and i, or a range of years."""


def math_equal(reference: str, answer: str, *, seconds: float = 5.0) -> bool:
    r"""Whether two mathematical answers, in LaTeX, Python or plain notation, have the same value.

    ``x = 5``, ``$5$``, ``\boxed{5}``, ``5.0`` and ``5 apples`` equal 5. ``50\%`` equals both 50 and 1/2. ``100 cm``
    equals ``1 m``. An answer may be rounded to nine or more digits, and a reference to six or more decimals. Exact
    values are compared exactly. Raises UndecidedError if the comparison takes more than ``seconds`` of CPU time, or too
    much memory.
    """
    if not answer.strip() or answer.strip() == reference.strip():
        return bool(answer.strip())
    if len(answer) > _LONGEST:
        return False
    expected, given = undress_pair(reference, answer)
    if expected == given or chosen(expected.text, given.text):
        return True
    if is_range(reference) or is_range(answer):
        return False
    are_words = is_prose(expected.text), is_prose(given.text)
    if any(are_words):
        words = (given.text, named_words(given.text))
        return all(are_words) and normalize(expected.text) in map(normalize, words)
    if _LITERAL.fullmatch(expected.text):
        return expected.text == given.text
    if (is_same := same_time((expected.text, expected.unit), (given.text, given.unit))) is not None:
        return is_same
    if (sizes := scales(expected.unit, given.unit)) is None:
        return False
    if _are_different_variables(expected, given):
        return WORKER.equal(expected.equation, given.equation, seconds)
    one, other = alike(expected.text, given.text)
    if sizes[0] == sizes[1] and _tokens(one) == _tokens(other):
        return True
    if (numbers := number(one)) and (others := number(other)):
        (a, a_percent), (b, b_percent) = numbers, others
        readings = [(a, b)]
        if a_percent != b_percent:
            readings.append((a / 100, b) if a_percent else (a, b / 100))
        return any(close(a * sizes[0], b * sizes[1], one, other) for a, b in readings)
    if expected.equation or given.equation:
        return WORKER.equal(expected.equation or one, given.equation or other, seconds)
    if sizes[0] != sizes[1]:
        one, other = (rf"({size})*({text})" for size, text in zip(sizes, (one, other), strict=True))
    return WORKER.equal(one, other, seconds)


def _are_different_variables(expected: Dressed, given: Dressed) -> bool:
    """Whether both texts were solutions of one variable, but not of the same: ``x = 5`` and ``y = 5``."""
    names = [side.equation.partition("=")[0].strip() for side in (expected, given) if "=" not in side.text]
    return len(names) == 2 and all(names) and names[0] != names[1]


def _tokens(text: str) -> list[str]:
    """Split text into tokens, so that white space matters only between digits, and ``x_{i}`` is ``x_i``."""
    text = re.sub(r"([_^])\{([^{}\\])\}", r"\1\2", text)
    return re.findall(r"\\[A-Za-z]+|\d{1,3}(?:,\d{3})+(?!\d)|\d+|\S", text)


@cache
def math_grader() -> str:
    """Name and version of this grader."""
    return f"math-5+sympy-{version('sympy')}"
