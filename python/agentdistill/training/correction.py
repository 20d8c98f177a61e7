"""First-error correction: the student rolls out, and where it goes wrong the teacher goes on (SCoRe, arXiv:2509.14257).

What a teacher shows from the start leads through States that a student seldom reaches. Here the episode is the
student's own up to its first critical error, and only what the teacher does from there is learnt (examples.py).

Where that error is, nobody is asked: it is tried. The teacher goes on from before the student's last step, else from
before the one before it, and so on back to the question, until its answer is right. From there the answer could still
be reached, and after the student's next step it could not: that step is the one corrected. So the judge is the grader,
the teacher never sees the right answer, and the student's part is the longest that was tried with success. A model
asked for the first wrong step would have to be shown the answer, and its word would not be checked. Bisection takes
fewer tries, and supposes that nothing can be made good again after an error; most episodes have five steps at most.

Not here: SCoRe's reinforcement learning from the same States.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agentdistill._core import Trajectory, read_trajectories
from agentdistill.grading.grade import task_of
from agentdistill.models.loading import opened
from agentdistill.models.model import Model
from agentdistill.rollouts.engine import date_of, record, run_of
from agentdistill.rollouts.player import FAILED, Begun, Player, RolloutConfig
from agentdistill.tasks.task import Task
from agentdistill.tools.tool import Tool
from agentdistill.trajectories import is_right


@dataclass(frozen=True)
class CorrectConfig(RolloutConfig):
    """How the teacher goes on: greedy, one candidate, under its long prompt. ``max_steps`` counts the student's steps
    too; ``seed`` must be that of the student's rollout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind != "agent":
            raise ValueError(f"kind is {self.kind!r}: only an agent's steps can be corrected")
        if self.ray or self.checkpoints:
            raise ValueError("corrections are made on one machine, each from its beginning: no ray, no checkpoints")

    @property
    def default_prompt(self) -> str:
        """That of a teacher."""
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
    """Let the teacher ``model`` correct what a student got wrong; return one trajectory for each of these, graded.

    ``trajectories`` are a student's, recorded with ``keep_states`` and with the same ``tools``; those that were right,
    not graded, or no agent's are passed over. Each that is returned begins with the student's steps before its first
    error, as many as ``sampling["given_steps"]`` says, and goes on with the teacher's. Where the teacher does not find
    the answer from anywhere, it is its try from the start, and wrong. Usage and seconds are those of the last try.

    Resumes and raises as ``rollout``, and has its ``metrics``. Also raises ValueError for trajectories without States.
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
    with opened(model) as teacher, Player(teacher, tools, config) as player:
        run = run_of(teacher.name, tools, config, corrected=student)
        corrector = _Corrector(player, wrong, config.max_steps)
        return record(tasks, corrector, run, output=output, progress=progress, metrics=metrics, title="correct")


def to_correct(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Those of an agent that ended by themselves, and were wrong."""
    return [
        trajectory
        for trajectory in trajectories
        if trajectory.kind == "agent" and trajectory.steps and trajectory.outcome not in FAILED
        if trajectory.score is not None and not is_right(trajectory)
    ]


class _Corrector:
    """Plays a task from the student's steps, as many of them as lead to the right answer."""

    def __init__(self, player: Player, wrong: Sequence[Trajectory], max_steps: int) -> None:
        self.model_name = player.model_name
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
            trajectory = await self._player.play(task, begun=Begun(wrong, steps))
            if trajectory.outcome in FAILED or is_right(trajectory):
                break
        return trajectory
