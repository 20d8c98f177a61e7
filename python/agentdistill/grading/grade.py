"""Grade an answer: exact match for facts, equality of values for mathematics, or a user-defined function.

A grade records the name and version of its grader, so that results can be compared and recorded answers can be graded
again. Not here: comparing words (squad.py) and values (math_equality.py), a language model as judge (judge.py), and
regrading recorded answers (regrading.py).
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
from agentdistill.named_function import named_function, what_failed
from agentdistill.tasks.task import Kind, Task, kind_of

_log = logging.getLogger(__name__)


class Grade(NamedTuple):
    """A score and the grader that gave it."""

    score: float | None
    """1 if correct, 0 if wrong, None if the grader could not decide. A user's function may also return values between
    0 and 1. The paper keeps a teacher's trajectory if its score is 1."""
    grader: str
    """Name and version of the grader. Scores of different graders are not comparable."""


Grader = Callable[[Task, str | None], Awaitable[Grade]]
"""Grades an answer to a task. An answer that is None or only white space is wrong."""


def grade(task: Task, answer: str | None) -> Grade:
    """Grade an answer to ``task``: facts by ``exact_match``, mathematics by ``math_equal``.

    It is correct if it equals one of the task's answers. An answer that is None or only white space is wrong.

    If a mathematical comparison reaches its limit of CPU time or memory, the score is None and a warning is logged. The
    call may take seconds and blocks its thread. Raises ValueError if the task has no reference answer.
    """
    if task.answer is None:
        raise ValueError(f"task {task.id!r} has no answer to compare with")
    if task.kind == "math":
        return Grade(_math_score(task, answer or "", math_equal), math_grader())
    return Grade(float(any(exact_match(right, answer or "") for right in task.answers)), "exact_match-5")


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
    """Reconstruct the task of a trajectory.

    ``kind``: by default inferred from the trajectory's grader, or else as ``load_tasks`` infers it.
    """
    by = trajectory.grader or ""
    old: Kind | None = (
        "math" if by.startswith("math-") else "fact" if by.startswith(("exact_match-", "judge-")) else None
    )
    told = kind or old or kind_of(trajectory.task_set, trajectory.reference)
    aliases = tuple(trajectory.aliases)
    return Task(trajectory.task_id, trajectory.question, trajectory.reference, trajectory.task_set, told, aliases)


async def grade_by_kind(task: Task, answer: str | None) -> Grade:
    """:func:`grade` as a Grader. Mathematics that is not written exactly like a reference may be slow, so it runs in a
    thread."""
    slow = task.kind == "math" and answer not in task.answers
    return await asyncio.to_thread(grade, task, answer) if slow else grade(task, answer)


async def grade_as_reference(task: Task, answer: str | None) -> Grade:
    """Grade mathematics as the paper's code does, and facts by exact match."""
    if task.kind != "math" or task.answer is None:
        return await grade_by_kind(task, answer)
    score = await asyncio.to_thread(_math_score, task, answer or "", reference_equal)
    return Grade(score, reference_grader())


def function_grader(name: str) -> Grader:
    """Make a grader from a user's function, named ``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``.

    The function is called with a task and a non-empty answer. It returns a score from 0 to 1, or a bool. The grader's
    version is a hash of the function's file. Raises ValueError if the function does not exist, OSError if the file
    cannot be read. The grader raises ValueError if the function fails or returns anything else.
    """
    try:
        function, module = named_function(name)
    except ValueError as error:
        others = "judge:MODEL, math-reference, or math-reference+judge:MODEL"
        raise ValueError(f"no grader {name!r}: {error}, or {others}") from error
    assert module.__file__
    version = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()[:12]
    grader = f"{module.__name__}:{name.rpartition(':')[2]}@{version}"

    async def grade_by_function(task: Task, answer: str | None) -> Grade:
        if not answer or not answer.strip():
            return Grade(0.0, grader)
        try:
            score = await asyncio.to_thread(function, task, answer)
        except Exception as error:  # of the user's code
            raise ValueError(f"{name} fails on task {task.id!r}: {what_failed(error)}") from error
        if not isinstance(score, int | float) or not 0 <= score <= 1:
            raise ValueError(f"{name} says {score!r} of task {task.id!r}: it is to return a score from 0 to 1")
        return Grade(float(score), grader)

    return grade_by_function
