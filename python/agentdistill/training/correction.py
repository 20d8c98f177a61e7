"""First-error correction: the teacher continues a student's episode from its first error (SCoRe, arXiv:2509.14257).

A teacher's own rollout passes through States that a student seldom reaches. Here, the episode is the student's own up
to its first critical error, and only the teacher's steps from there on are learnt (examples.py).

The error is found by trying. The teacher continues from before the student's last step. If its answer is wrong, it
continues from one step earlier, and so on back to the question, until its answer is correct. The answer was then still
within reach before that step of the student's, but no longer after it, so that step is corrected. The grader decides,
and the teacher never sees the reference answer. The alternative is to ask a model for the first wrong step: it would
need to see the answer, and its reply would not be checked. Bisection would need fewer tries, but assumes that an error
cannot be repaired later; most episodes have at most five steps.

Not here: SCoRe's reinforcement learning from the same States (starts.py).
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from agentdistill._core import Trajectory, read_trajectories
from agentdistill.grading.grade import task_of
from agentdistill.models.loading import opened
from agentdistill.models.model import Model
from agentdistill.rollouts.engine import date_of, record, run_of
from agentdistill.rollouts.player import FAILED, GivenSteps, Player, RolloutConfig
from agentdistill.tasks.task import Task
from agentdistill.tools.tool import Tool
from agentdistill.trajectories import is_right


@dataclass(frozen=True)
class CorrectConfig(RolloutConfig):
    """Settings of the teacher that continues an episode: greedy, one candidate, the teacher's prompt. ``max_steps``
    includes the student's steps. ``seed`` must be that of the student's rollout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind != "agent":
            raise ValueError(f"kind is {self.kind!r}: only an agent's steps can be corrected")
        if self.ray or self.checkpoints:
            raise ValueError(
                "corrections run on one machine and start from the beginning: give neither ray nor checkpoints"
            )

    @property
    def default_prompt(self) -> str:
        """The teacher's system prompt."""
        return self.wording.default_prompt("teacher", "agent", self.action_format)


def correct(
    trajectories: Sequence[Trajectory] | str | Path,
    model: Model | str,
    tools: Sequence[Tool] = (),
    config: CorrectConfig | None = None,
    *,
    output: str | Path | None = None,
    progress: bool = True,
    metrics: str | Path | None = None,
) -> list[Trajectory]:
    """Let the teacher ``model`` correct a student's wrong trajectories; return one graded trajectory for each of them.

    ``trajectories`` are a student's, recorded with ``keep_states`` and the same ``tools``. Those that are correct, not
    graded, failed, or not of an agent are skipped. A returned trajectory begins with the student's steps before its
    first error (``sampling["given_steps"]`` is their number) and continues with the teacher's. If the teacher finds the
    answer from no step, the returned trajectory is its attempt from the start, which is wrong. Usage and seconds are
    those of the last attempt.

    Resumes, raises and writes ``metrics`` as ``rollout`` does. Also raises ValueError for trajectories without States.
    """
    config = config or CorrectConfig()
    config = replace(config, date=date_of(config, output))
    if isinstance(trajectories, str | Path):
        trajectories = read_trajectories(trajectories)
    wrong = to_correct(trajectories)
    if without := [trajectory.task_id for trajectory in wrong if any(step.state is None for step in trajectory.steps)]:
        raise ValueError(f"{without[0]} was recorded without its States: record it with keep_states")
    tasks = [task_of(trajectory) for trajectory in wrong]
    student = hashlib.sha256("\n".join(trajectory.to_json() for trajectory in wrong).encode()).hexdigest()[:16]
    run = run_of(model, tools, config, corrected=student)

    @contextmanager
    def correctors() -> Iterator[_Corrector]:
        with opened(model) as teacher, Player(teacher, tools, config) as player:
            yield _Corrector(player, wrong, config.max_steps)

    return record(tasks, correctors, run, output=output, progress=progress, metrics=metrics, title="correct")


def to_correct(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """The graded, wrong trajectories of an agent, without the failed episodes."""
    return [
        trajectory
        for trajectory in trajectories
        if trajectory.kind == "agent" and trajectory.steps and trajectory.outcome not in FAILED
        if trajectory.score is not None and not is_right(trajectory)
    ]


class _Corrector:
    """Continues a student's episode from its last step that still leads to the correct answer."""

    def __init__(self, player: Player, wrong: Sequence[Trajectory], max_steps: int) -> None:
        self.at_once = player.at_once
        self._player = player
        self._wrong = {trajectory.task_id: trajectory for trajectory in wrong}
        self._max_steps = max_steps

    @property
    def retried(self) -> int:
        return self._player.retried

    async def play(self, task: Task) -> Trajectory:
        wrong = self._wrong[task.id]
        for steps in reversed(range(min(len(wrong.steps), self._max_steps))):
            trajectory = await self._player.play(task, given=GivenSteps(wrong, steps))
            if trajectory.outcome in FAILED or is_right(trajectory):
                break
        return trajectory
