"""From which State does an episode of reinforcement learning start: that of its task, or one inside a recorded episode?

SCoRe (arXiv:2509.14257) trains on short horizons: after a teacher has corrected the student's first critical error
(correction.py), the student tries again from the State before that error, where the answer is known to be in reach.
Only what it samples from there on is learnt (reinforcement.py). No cell runs again to reach the State.

Not here: the reward that SCoRe gives the step at the error itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from agentdistill._core import Trajectory
from agentdistill.grading.grade import task_of
from agentdistill.models.model import Model
from agentdistill.rollouts.engine import date_of, record, run_of
from agentdistill.rollouts.player import GivenSteps, Player, RolloutConfig
from agentdistill.tasks.task import Task
from agentdistill.tools.tool import Tool
from agentdistill.trajectories import is_right, steps_given

Start = Task | GivenSteps
"""A task, or the first steps of a recorded episode, from which its task is continued."""


def before_errors(trajectories: Sequence[Trajectory]) -> list[GivenSteps]:
    """The States before a student's first critical errors: one for each episode that a teacher corrected
    successfully."""
    return [
        GivenSteps(trajectory, steps_given(trajectory))
        for trajectory in trajectories
        if "given_steps" in trajectory.sampling and is_right(trajectory)
    ]


def task_at(start: Start) -> Task:
    """The task that is solved from ``start``."""
    return start if isinstance(start, Task) else task_of(start.trajectory)


def check_starts(starts: Sequence[Start], config: RolloutConfig) -> None:
    """Raise ValueError for a start inside an episode that leaves no step to take, or whose State is not recorded."""
    for start in starts:
        if isinstance(start, Task):
            continue
        recorded = start.trajectory.steps[: start.steps]
        if not start.steps == len(recorded) < config.max_steps:
            raise ValueError(
                f"{start.trajectory.task_id} continues after {start.steps} of {len(start.trajectory.steps)} steps: "
                f"give steps that it has, and fewer than max_steps {config.max_steps}"
            )
        if any(step.state is None for step in recorded):
            raise ValueError(f"{start.trajectory.task_id} was recorded without its States: record it with keep_states")


def rollout_from(
    starts: Mapping[str, Start], model: Model, tools: Sequence[Tool], config: RolloutConfig, output: Path
) -> list[Trajectory]:
    """Let ``model`` play an episode from each start; return and write the graded trajectories as ``rollout`` does, in
    the order of ``starts``, whose keys are the episodes' ids."""
    config = replace(config, date=date_of(config, output))
    tasks = [replace(task_at(start), id=name) for name, start in starts.items()]

    @contextmanager
    def players() -> Iterator[_StartingPlayer]:
        with Player(model, tools, config) as player:
            yield _StartingPlayer(player, starts)

    run = run_of(model, tools, config)
    return record(tasks, players, run, output=output, progress=False, metrics=None, title="improve")


class _StartingPlayer:
    """A player whose episodes begin at ``starts``."""

    def __init__(self, player: Player, starts: Mapping[str, Start]) -> None:
        self.at_once = player.at_once
        self._player = player
        self._given = {name: start for name, start in starts.items() if isinstance(start, GivenSteps)}

    @property
    def retried(self) -> int:
        return self._player.retried

    async def play(self, task: Task) -> Trajectory:
        return await self._player.play(task, self._given.get(task.id))
