"""Grade recorded answers again, with another grader or version, without a new rollout.

Not here: which graders exist, and how answers are graded concurrently (grading/graders.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from agentdistill._core import Trajectory, read_header, read_trajectories
from agentdistill.grading.grade import Grader, task_of
from agentdistill.grading.graders import graded, grader_of
from agentdistill.grading.squad import exact_match
from agentdistill.results.evaluation import Evaluation, refuse_foreign_results
from agentdistill.tasks.task import Kind
from agentdistill.terminal import in_columns
from agentdistill.trajectories import is_right, is_undecided, refuse_other_files, write_trajectories

_SHOWN = 20
"""Maximum number of changes to show."""


class Change(NamedTuple):
    """An answer whose score changed."""

    before: Trajectory
    after: Trajectory


class Agreement(NamedTuple):
    """How a judge agrees with exact match on facts."""

    judged: int
    both_right: int
    both_wrong: int
    judge_alone: int
    """Correct for the judge only."""
    match_alone: int
    """Correct for exact match only."""

    def __str__(self) -> str:
        same = self.both_right + self.both_wrong
        return (
            f"the judge and exact match agree on {same} of {self.judged} facts ({same / self.judged:.1%}); right for "
            f"the judge alone: {self.judge_alone}, for exact match alone: {self.match_alone}"
        )


class Regrading(NamedTuple):
    """The result of regrading. ``str()`` shows a table and the first changes."""

    trajectories: list[Trajectory]
    """All trajectories with their new grades, in the same order."""
    changes: list[Change]
    """The answers whose score changed."""
    graders: list[str]
    """Names and versions of the new graders."""
    agreement: Agreement | None = None
    """Agreement of a judge with exact match; None without a judge."""

    def __str__(self) -> str:
        sets = dict.fromkeys(trajectory.task_set for trajectory in self.trajectories)
        rows: list[tuple[str, ...]] = [
            ("task set", "graded", "not graded", "correct before", "correct now", "now right", "now wrong")
        ]
        for name in sets:
            graded = [t for t in self.trajectories if t.task_set == name and t.score is not None]
            changed = [change for change in self.changes if change.after.task_set == name]
            right = sum(is_right(after) and not is_right(before) for before, after in changed)
            lost = sum(is_right(before) and not is_right(after) for before, after in changed)
            wrong = sum(
                is_right(before) and after.score is not None and not is_right(after) for before, after in changed
            )
            undecided = sum(t.task_set == name and is_undecided(t) for t in self.trajectories)
            now = sum(map(is_right, graded))
            counts = (len(graded), undecided, now - right + lost, now, right, wrong)
            rows.append((name, *(f"{count}" for count in counts)))
        lines = [in_columns(rows), f"graded by {', '.join(self.graders) or 'nobody: no task has an answer'}"]
        if self.agreement:
            lines.append(str(self.agreement))
        for before, after in self.changes[:_SHOWN]:
            scores = " -> ".join("none" if t.score is None else f"{t.score:g}" for t in (before, after))
            by = f" [{before.grader} -> {after.grader}]" if before.grader != after.grader else ""
            lines.append(f"{scores}  {after.task_id}: {after.answer!r} for {after.reference!r}{by}")
        if len(self.changes) > _SHOWN:
            lines.append(f"and {len(self.changes) - _SHOWN} more")
        return "\n".join(lines)


def regrade(
    trajectories: Sequence[Trajectory] | str | Path,
    grader: Grader | str | None = None,
    output: str | Path | None = None,
    *,
    kind: Kind | None = None,
    concurrency: int = 64,
    progress: bool = True,
) -> Regrading:
    """Grade ``trajectories`` again, without running the model again: a sequence, a file, or a folder that ``evaluate``
    wrote. Return all of them with their new grades, and the changes.

    ``grader=None`` grades by the task's kind, as rollouts do. ``"judge:MODEL"`` lets a model, named as for
    ``load_model``, judge facts. It needs an output, next to which it records prompts and replies (``*.judge.jsonl``);
    if it was stopped, it resumes. ``"math-reference"`` compares mathematics as the paper's code does;
    ``"math-reference+judge:MODEL"`` does both. ``"FILE.py:FUNCTION"`` and ``"MODULE:FUNCTION"`` name your own function
    of a task and an answer, which returns a score from 0 to 1. ``kind`` applies to all tasks; by default it is that of
    the old grader, or chosen as in ``load_tasks``. ``output`` is a file or folder, like ``trajectories``; existing
    output, which may be the input, is replaced.

    Raises TrajectoryError and OSError for files that cannot be read or written, ValueError for an invalid grader,
    ModelError for a judge that is not available.
    """
    folder = file = None
    if isinstance(trajectories, str | Path):
        file = Path(trajectories)
        if file.is_dir():
            folder, file = file, file / "trajectories.jsonl"
        trajectories = read_trajectories(file)
    evaluation = Evaluation.load(folder / "results.json") if folder else None
    to = Path(output) if output is not None else None
    if to and folder:
        to.mkdir(parents=True, exist_ok=True)
        refuse_foreign_results(to)
        to = to / "trajectories.jsonl"
    if to:
        refuse_other_files(to)
    tasks = [task_of(trajectory, kind) for trajectory in trajectories]
    with grader_of(grader, to) as grade:
        new = graded(trajectories, tasks, grade, concurrency=concurrency, progress=progress)
    result = Regrading(
        new,
        [Change(*pair) for pair in zip(trajectories, new, strict=True) if pair[0].score != pair[1].score],
        sorted({trajectory.grader for trajectory in new if trajectory.grader}),
        _agreement(new),
    )
    if to:
        write_trajectories(new, (read_header(file) if file else None) or "{}", to)
        if evaluation:
            evaluation.regraded(new).save(to.parent)
    return result


def _agreement(trajectories: Sequence[Trajectory]) -> Agreement | None:
    pairs = [
        (
            is_right(trajectory),
            any(exact_match(right, trajectory.answer or "") for right in task_of(trajectory).answers),
        )
        for trajectory in trajectories
        if (trajectory.grader or "").startswith("judge-") and trajectory.score is not None
    ]
    if not pairs:
        return None
    cells = [
        sum(pair == cell for pair in pairs) for cell in ((True, True), (False, False), (True, False), (False, True))
    ]
    return Agreement(len(pairs), *cells)
