r"""Compare mathematics as the paper's code does, for results that are comparable to the paper's.

It is more lenient than ``math_equality.py``. A number is correct within a relative error of 1e-4, and so are 1/100 and
100 times the number (percentages). Case, white space and brackets are ignored, so ``(0,1]`` equals ``[0,1)``; items are
compared one by one. Values that our grammar parses are compared to the same relative error.

One behaviour is not reproduced. The paper's code uses the parsers of sympy and latex2sympy, which parse only the
beginning of text that they do not understand. docs/evaluation.md reports how many verdicts on real answers differ from
ours.
"""

import re
from functools import cache
from importlib.metadata import version
from math import isclose

from agentdistill.grading.math_equality import math_equal
from agentdistill.grading.mathematics.text import undress_pair
from agentdistill.grading.mathematics.worker import WORKER

_ERROR = 1e-4
_IGNORED = re.compile(r"\\left|\\right|\\text|[{}()\s]")
_BRACKETED = re.compile(r"[(\[](.+)[)\]]", re.DOTALL)


def reference_equal(reference: str, answer: str, *, seconds: float = 5.0) -> bool:
    """Whether the paper's code accepts ``answer`` for ``reference``. Raises UndecidedError as ``math_equal`` does."""
    if not answer.strip():
        return False
    expected, given = (side.text for side in undress_pair(reference, answer))
    number, other = _number(expected), _number(given)
    if number is not None and other is not None:
        return any(isclose(scaled, other, rel_tol=_ERROR) for scaled in (number / 100, number, number * 100))
    if _IGNORED.sub("", expected).lower() == _IGNORED.sub("", given).lower():
        return True
    some, others = _BRACKETED.fullmatch(expected), _BRACKETED.fullmatch(given)
    if some and others and "," in some[1]:
        pairs = list(zip(some[1].split(","), others[1].split(","), strict=False))
        if len(pairs) == some[1].count(",") + 1 == others[1].count(",") + 1:
            return all(reference_equal(one, another, seconds=seconds) for one, another in pairs)
    return math_equal(reference, answer, seconds=seconds) or WORKER.equal(expected, given, seconds, _ERROR)


def _number(text: str) -> float | None:
    bare = text.replace(",", "").strip()
    try:
        return float(bare.removesuffix("%").removesuffix("\\")) / (100 if bare.endswith("%") else 1)
    except ValueError:
        return None


@cache
def reference_grader() -> str:
    """Name and version of this grader."""
    return f"math-reference-1+sympy-{version('sympy')}"
