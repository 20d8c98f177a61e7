"""A task: a question with a known answer.

Not here: loading tasks (``loading.py``), and whether an answer is right (``grading/``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentdistill.well_formed import well_formed

Kind = Literal["fact", "math"]
"""How answers are compared: the words of a fact, or a mathematical value."""


@dataclass(frozen=True)
class Task:
    """One question to answer."""

    id: str
    """Identifies the task in trajectory files; unique within a run."""
    question: str
    answer: str | None = None
    """The correct answer as written in the file; None for a question that cannot be graded."""
    task_set: str = ""
    """The set that it belongs to; accuracy is reported per set. The paper has eight, from HotpotQA to OlymMATH."""
    kind: Kind = "fact"
    """How answers are compared: "fact" by words, "math" by value."""
    aliases: tuple[str, ...] = ()
    """Other correct answers. MuSiQue has some, and its own script counts the best match."""
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """All other fields of the file: level, type, split, ..."""

    def __post_init__(self) -> None:
        for name in ("id", "question", "answer", "task_set"):
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, well_formed(text))
        object.__setattr__(self, "aliases", tuple(map(well_formed, self.aliases)))

    @property
    def answers(self) -> tuple[str, ...]:
        """All correct answers; none for a question that cannot be graded."""
        return () if self.answer is None else (self.answer, *self.aliases)


_MATHS = re.compile(r"math|gsm|aime|olym|asdiv|svamp|arithmetic", re.IGNORECASE)
_FACTS = re.compile(r"hotpot|2wiki|musique|bamboogle|trivia|nq|qa", re.IGNORECASE)


_REAL = r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_MATHEMATICS = [
    re.compile(form)
    for form in (
        rf"\\?\$?{_REAL}(?:[eE][-+]?\d+)?(?:\s*/\s*\d[\d,]*)?\s*(?:\\?%)?\$?",  # a number
        r"[-+]?\d+_\{?\d+\}?",  # in another base
        rf"{_REAL}(?:\s*[,;]\s*{_REAL})+",  # numbers
        rf"(?:\\?\{{|[(\[])\s*{_REAL}(?:\s*[,;]\s*{_REAL})+\s*(?:\\?\}}|[)\]])",  # a point, an interval, a set
        # An expression of numbers and variables. A minus sign alone may be a hyphen, as in f-16.
        r"(?=.*(?:\d|=))(?=.*[a-z])(?=.*(?:[+*=]|\s-\s|\d[a-z]\)?-))(?!.*[a-z]{3})[-+*/=()\d.\sa-z]+",
    )
]
_LATEX = re.compile(r"\\[A-Za-z!,;]|\^")


def kind_of(task_set: str, answer: str | None) -> Kind:
    """The kind of a task without one: from the name of its set, or else from its answer."""
    if _MATHS.search(task_set):
        return "math"
    if _FACTS.search(task_set) or answer is None:
        return "fact"
    is_mathematics = _LATEX.search(answer) or any(form.fullmatch(answer.strip()) for form in _MATHEMATICS)
    return "math" if is_mathematics else "fact"
