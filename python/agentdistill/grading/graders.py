"""A grader by its name, and what it says of many recorded answers.

A rollout grades by the task's kind. A judge, or a function of one's own, comes after it: an answer costs a model many
steps, its grade next to nothing, and may be wanted several times. Not here: the graders themselves (grading.py,
judge.py), and what becomes of the grades (evaluation.py, regrading.py).
"""

import asyncio
import json
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

_JUDGE = "judge:"


def grader_of(grader: Grader | str | None, output: Path | None) -> AbstractContextManager[Grader]:
    """The grader that is meant; None is that of rollouts, ``"math-reference"`` the paper's code's for mathematics.

    ``"judge:MODEL"`` is loaded when the context begins, and keeps what it was asked and replied beside ``output``, a
    file of trajectories (``*.judge.jsonl``); ``"FILE.py:FUNCTION"`` and ``"MODULE:FUNCTION"`` are a function of one's
    own (see ``grading.function_grader``). Raises ValueError for a name that is none, or a judge without an output.
    """
    if not isinstance(grader, str):
        return nullcontext(grader or grade_by_kind)
    if grader == "math-reference":
        return nullcontext(grade_as_reference)
    if not grader.startswith(_JUDGE):
        return nullcontext(function_grader(grader))
    if output is None:
        raise ValueError("what a judge was asked and replied is kept beside the output: give one")
    return _judge(grader.removeprefix(_JUDGE), output.with_suffix(".judge.jsonl"))


@contextmanager
def _judge(model: str, log: Path) -> Iterator[Grader]:
    with opened(model) as loaded:
        try:
            yield Judge(loaded, log)
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
    """The same with new grades, one task for each; those whose task has no answer stay as they are. Raises what the
    grader raises."""
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
        except ExceptionGroup as errors:  # the first ends the others
            raise errors.exceptions[0] from None
    return [grade.result() for grade in grades]


def _with(grade: Grade | None, trajectory: Trajectory) -> Trajectory:
    if grade is None:
        return trajectory
    return Trajectory.from_json(json.dumps(json.loads(trajectory.to_json()) | grade._asdict()))
