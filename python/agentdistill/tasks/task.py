"""A task: a question whose answer is known.

Not here: where tasks are read from (``loading.py``), and whether an answer is right (``grading/``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["fact", "math"]
"""How an answer is compared: words of a fact, or a mathematical value."""


@dataclass(frozen=True)
class Task:
    """One question to work on."""

    id: str
    """Known by this in trajectory files, so unique within a run."""
    question: str
    answer: str | None = None
    """The right answer, as the file has it; None for a question that is only asked, and cannot be graded."""
    task_set: str = ""
    """Where it is from; accuracy is reported for each. Paper: eight sets, HotpotQA, ..., OlymMATH."""
    kind: Kind = "fact"
    aliases: tuple[str, ...] = ()
    """Other answers that are as right. MuSiQue has some, and its own script counts the best of all."""
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Whatever else the file says: level, type, split, ..."""

    @property
    def answers(self) -> tuple[str, ...]:
        """All right answers; none of a question that is only asked."""
        return () if self.answer is None else (self.answer, *self.aliases)


_MATHS = re.compile(r"math|gsm|aime|olym|asdiv|svamp|arithmetic", re.IGNORECASE)
_FACTS = re.compile(r"hotpot|2wiki|musique|bamboogle|trivia|nq|qa", re.IGNORECASE)


_NUMBER = re.compile(r"\$?[-+]?\d[\d,]*(\.\d+)?([eE][-+]?\d+)?(\s*/\s*\d[\d,]*)?\s*(\\?%)?\$?")
_LATEX = re.compile(
    r"\\(?:d?frac|sqrt|boxed|left|pi|infty|cdot|times|text|mathbb|begin|cup|circ|l?og|sin|cos|tan|pm)|\^"
)


def kind_of(task_set: str, answer: str | None) -> Kind:
    """The kind of a task that does not say it: by the name of its set, or else by its answer."""
    if _MATHS.search(task_set):
        return "math"
    if _FACTS.search(task_set) or answer is None:
        return "fact"
    return "math" if _NUMBER.fullmatch(answer.strip()) or _LATEX.search(answer) else "fact"
