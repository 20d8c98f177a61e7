"""Select a grader by name, and grade many recorded answers.

A rollout grades by the task's kind. A judge or a user's function runs after the rollout, because an answer is expensive
and its grade is cheap and may be repeated. Not here: the graders themselves (grade.py, judge.py), and the use of the
grades (evaluation.py, regrading.py).
"""

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from agentdistill._core import Trajectory
from agentdistill.event_loop import run_blocking
from agentdistill.grading.grade import Grade, Grader, function_grader, grade_as_reference, grade_by_kind
from agentdistill.grading.judge import Judge
from agentdistill.models.loading import opened
from agentdistill.models.model import ModelError
from agentdistill.progress import RESUME_HINT, GradeProgress
from agentdistill.tasks.task import Task

_REFERENCE = "math-reference"
_JUDGE = re.compile(rf"({_REFERENCE}\+)?judge:(.*)", re.DOTALL)


def grader_of(grader: Grader | str | None, output: Path | None) -> AbstractContextManager[Grader]:
    """Return the named grader as a context manager.

    - None: the grader of rollouts
    - ``"math-reference"``: mathematics as in the paper's code
    - ``"judge:MODEL"``: a language model. It is loaded when the context begins. Its prompts and replies are logged
      beside ``output``, a trajectory file, as ``*.judge.jsonl``
    - ``"math-reference+judge:MODEL"``: both, mathematics by the first and facts by the second
    - ``"FILE.py:FUNCTION"`` or ``"MODULE:FUNCTION"``: a user's function (see ``grade.function_grader``)

    Raises ValueError for an unknown name, and for a judge without ``output``.
    """
    if not isinstance(grader, str):
        return nullcontext(grader or grade_by_kind)
    if grader == _REFERENCE:
        return nullcontext(grade_as_reference)
    if (judge := _JUDGE.fullmatch(grader)) is None:
        return nullcontext(function_grader(grader))
    if output is None:
        raise ValueError("what a judge was asked and replied is kept beside the output: give one")
    mathematics = grade_as_reference if judge[1] else grade_by_kind
    return _judge(judge[2], output.with_suffix(".judge.jsonl"), mathematics)


def judge_of(grader: str | None) -> str | None:
    """The model that judges facts for the named grader, if there is one."""
    judge = _JUDGE.fullmatch(grader or "")
    return judge[2] if judge else None


@contextmanager
def _judge(model: str, log: Path, mathematics: Grader) -> Iterator[Grader]:
    with opened(model) as loaded:
        try:
            yield Judge(loaded, log, mathematics)
        except ModelError as error:
            raise ModelError(f"{error}\nWhat was judged is kept. {RESUME_HINT}") from error


def graded(
    trajectories: Sequence[Trajectory],
    tasks: Sequence[Task],
    grader: Grader,
    *,
    concurrency: int = 64,
    progress: bool = True,
) -> list[Trajectory]:
    """Return the trajectories with new grades. ``tasks`` has one task for each trajectory; if it has no reference
    answer, its trajectory is unchanged. Raises what the grader raises."""
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}: give at least 1")
    grades = run_blocking(_grades(trajectories, tasks, grader, concurrency, progress))
    return [_with(grade, trajectory) for grade, trajectory in zip(grades, trajectories, strict=True)]


async def _grades(
    trajectories: Sequence[Trajectory], tasks: Sequence[Task], grader: Grader, concurrency: int, progress: bool
) -> list[Grade | None]:
    slots = asyncio.Semaphore(concurrency)
    with GradeProgress(len(trajectories), visible=progress) as shown:

        async def grade(trajectory: Trajectory, task: Task) -> Grade | None:
            async with slots:
                grade = await grader(task, trajectory.answer) if task.answer is not None else None
            shown.advance()
            return grade

        try:
            async with asyncio.TaskGroup() as group:
                pairs = zip(trajectories, tasks, strict=True)
                grades = [group.create_task(grade(trajectory, task)) for trajectory, task in pairs]
        except ExceptionGroup as errors:  # the first error cancels the other grades
            raise errors.exceptions[0] from None
    return [grade.result() for grade in grades]


def _with(grade: Grade | None, trajectory: Trajectory) -> Trajectory:
    if grade is None:
        return trajectory
    return Trajectory.from_json(json.dumps(json.loads(trajectory.to_json()) | grade._asdict()))
