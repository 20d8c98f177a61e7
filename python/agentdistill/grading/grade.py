"""Is this answer right? Exact match of facts, equality of mathematical values, or what a function of one's own says.

A grade says which grader gave it, and of which version, so that results can be compared, and recorded answers graded
again. Not here: how words (squad.py) and values (math_equality.py) are compared, a language model as judge (judge.py),
and grading recorded answers again (regrading.py).
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from agentdistill._core import Trajectory
from agentdistill.grading.math_equality import UndecidedError, math_equal, math_grader
from agentdistill.grading.reference_math import reference_equal, reference_grader
from agentdistill.grading.squad import exact_match
from agentdistill.named_function import named_function
from agentdistill.tasks.task import Kind, Task, kind_of

_log = logging.getLogger(__name__)


class Grade(NamedTuple):
    """How good an answer is, and who says so."""

    score: float | None
    """1 when it is right, else 0; None when the grader could not decide, which is neither. The paper keeps a teacher's
    trajectory when it is 1."""
    grader: str
    """Name and version of the rule: scores of different ones are not to be compared."""


Grader = Callable[[Task, str | None], Awaitable[Grade]]
"""Grades an answer to a task. None, or nothing but white space, is wrong."""


def grade(task: Task, answer: str | None) -> Grade:
    """Grade an answer to ``task`` by the task's kind: it is right when it is one of its answers; None, or nothing but
    white space, is wrong.

    A mathematical answer whose comparison runs into its limit of processor time or memory is not graded: its score is
    None, and a warning says so. May take seconds: not for an event loop's own thread. Raises ValueError for a task
    whose answer is not known.
    """
    if task.answer is None:
        raise ValueError(f"task {task.id!r} has no answer to compare with")
    if task.kind == "math":
        return Grade(_math_score(task, answer or "", math_equal), math_grader())
    return Grade(float(any(exact_match(right, answer or "") for right in task.answers)), "exact_match-2")


def _math_score(task: Task, answer: str, equal: Callable[[str, str], bool]) -> float | None:
    score: float | None = 0.0
    for right in task.answers:
        try:
            if equal(right, answer):
                return 1.0
        except UndecidedError as error:
            _log.warning("task %r: %s", task.id, error)
            score = None
    return score


def task_of(trajectory: Trajectory, kind: Kind | None = None) -> Task:
    """The task that was played, as far as its trajectory tells.

    ``kind``: by default that of its grader, or told as ``load_tasks`` does.
    """
    by = trajectory.grader or ""
    old: Kind | None = (
        "math" if by.startswith("math-") else "fact" if by.startswith(("exact_match-", "judge-")) else None
    )
    told = kind or old or kind_of(trajectory.task_set, trajectory.reference)
    aliases = tuple(trajectory.aliases)
    return Task(trajectory.task_id, trajectory.question, trajectory.reference, trajectory.task_set, told, aliases)


async def grade_by_kind(task: Task, answer: str | None) -> Grade:
    """:func:`grade`, as a Grader. Only mathematics written another way than the reference may take long, and gets a
    thread."""
    slow = task.kind == "math" and answer not in task.answers
    return await asyncio.to_thread(grade, task, answer) if slow else grade(task, answer)


async def grade_as_reference(task: Task, answer: str | None) -> Grade:
    """As the paper's code compares mathematics; facts by their words."""
    if task.kind != "math" or task.answer is None:
        return await grade_by_kind(task, answer)
    score = await asyncio.to_thread(_math_score, task, answer or "", reference_equal)
    return Grade(score, reference_grader())


def function_grader(name: str) -> Grader:
    """The grader that a function of one's own is, by its name: ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``.

    It is called with a task and an answer that is not empty, and returns a score, 0 to 1, or whether the answer is
    right. Its version is a hash of its file. Raises ValueError where there is no such function, OSError for a file that
    is not there; the grader raises ValueError for what is no score.
    """
    try:
        function, module = named_function(name)
    except ValueError as error:
        raise ValueError(f"no grader {name!r}: {error}, or judge:MODEL, or math-reference") from error
    assert module.__file__
    version = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()[:12]
    grader = f"{module.__name__}:{name.rpartition(':')[2]}@{version}"

    async def grade_by_function(task: Task, answer: str | None) -> Grade:
        if not answer or not answer.strip():
            return Grade(0.0, grader)
        score = await asyncio.to_thread(function, task, answer)
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"{name} says {score!r} of task {task.id!r}: it is to return a score from 0 to 1")
        return Grade(float(score), grader)

    return grade_by_function
