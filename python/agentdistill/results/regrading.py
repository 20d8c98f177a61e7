"""Grade recorded answers again, by another grader or a newer version, without a new rollout, and say what that changed.

Not here: which grader, and how many answers get their grade (graders.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from agentdistill._core import Trajectory, read_header, read_trajectories
from agentdistill.grading.grade import Grader, task_of
from agentdistill.grading.graders import graded, grader_of
from agentdistill.grading.squad import exact_match
from agentdistill.results.evaluation import Evaluation
from agentdistill.tasks.task import Kind
from agentdistill.terminal import in_columns
from agentdistill.trajectories import is_right, is_undecided, write_trajectories

_SHOWN = 20
"""So many changes are shown."""


class Change(NamedTuple):
    """An answer whose score is another now."""

    before: Trajectory
    after: Trajectory


class Agreement(NamedTuple):
    """How a judge's verdicts on facts agree with exact match."""

    judged: int
    both_right: int
    both_wrong: int
    judge_alone: int
    """Right for the judge, not for exact match."""
    match_alone: int
    """Right for exact match, not for the judge."""

    def __str__(self) -> str:
        same = self.both_right + self.both_wrong
        return (
            f"the judge and exact match agree on {same} of {self.judged} facts ({same / self.judged:.1%}); right for "
            f"the judge alone: {self.judge_alone}, for exact match alone: {self.match_alone}"
        )


class Regrading(NamedTuple):
    """What grading again came to. ``str()`` of it is a table, and the first changes."""

    trajectories: list[Trajectory]
    """All of them, in their order, with the new grades."""
    changes: list[Change]
    """Those whose score changed."""
    graders: list[str]
    """Names and versions of the new grades' graders."""
    agreement: Agreement | None = None
    """Of a judge with exact match; None where no judge graded."""

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
    """Grade ``trajectories`` again: some, those of a file, or those of a folder that ``evaluate`` made.

    ``grader``: None grades by the task's kind, as rollouts do; ``"judge:MODEL"`` has a model, named as for
    ``load_model``, judge facts, and needs an output, beside which it keeps what it was asked and replied
    (``*.judge.jsonl``): stopped, and run again, it goes on; ``"FILE.py:FUNCTION"`` and ``"MODULE:FUNCTION"`` name a
    function of one's own (see ``grading.function_grader``). ``kind`` is for all; else it is that of the old grader, or
    told as ``load_tasks`` does. ``output`` gets what ``trajectories`` named, file or folder, with the new grades, and
    is replaced whole; it may be the same. Raises TrajectoryError and OSError for files that cannot be read or written,
    ValueError for a grader that is none, ModelError for a judge that cannot be had.
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
        to = to / "trajectories.jsonl"
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
