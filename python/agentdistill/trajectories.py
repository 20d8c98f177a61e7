"""What Python adds to the core's trajectories: writing a whole file of them, and reading what a record says."""

from collections.abc import Sequence
from pathlib import Path

from agentdistill._core import Trajectory, TrajectoryWriter
from agentdistill.files.replacing import replacing


def write_trajectories(trajectories: Sequence[Trajectory], run: str, output: Path) -> None:
    """Make a file of them, with ``run`` (JSON) as its header, in one step: one that is there is replaced whole."""
    with replacing(output) as new, TrajectoryWriter(new, run) as writer:
        writer.append(trajectories)


def steps_given(trajectory: Trajectory) -> int:
    """How many steps a recorded episode was begun with; the others are its model's own (correction.py)."""
    return int(trajectory.sampling.get("given_steps", 0))


def is_undecided(trajectory: Trajectory) -> bool:
    """Whether a grader could not decide on its answer (a limit of time, a judge without a verdict)."""
    return trajectory.score is None and trajectory.grader is not None and trajectory.reference is not None


def is_right(trajectory: Trajectory) -> bool:
    """Whether its answer is right, all of it; one that nobody graded is not."""
    return (trajectory.score or 0) >= 1
