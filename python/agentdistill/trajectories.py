"""Helpers for the core's trajectories: write a whole file, and query one record."""

from collections.abc import Sequence
from pathlib import Path

from agentdistill._core import Trajectory, TrajectoryError, TrajectoryWriter, read_header
from agentdistill.files.replacing import refuse_foreign, replacing


def write_trajectories(trajectories: Sequence[Trajectory], run: str, output: Path) -> None:
    """Write a file with ``run`` (JSON) as its header. An existing file is replaced atomically."""
    with replacing(output) as new, TrajectoryWriter(new, run) as writer:
        writer.append(trajectories)


def refuse_other_files(output: str | Path) -> None:
    """Raise FileExistsError if the output is a file that is not of trajectories."""
    refuse_foreign(output, _is_of_trajectories)


def _is_of_trajectories(path: Path) -> bool:
    try:
        return read_header(path) is not None
    except TrajectoryError:
        return False


def steps_given(trajectory: Trajectory) -> int:
    """Number of steps that the episode was given at its start (correction.py). The others are its model's own."""
    return int(trajectory.sampling.get("given_steps", 0))


def is_undecided(trajectory: Trajectory) -> bool:
    """Whether a grader could not decide on its answer, because of a time limit or a judge without a verdict."""
    return trajectory.score is None and trajectory.grader is not None and trajectory.reference is not None


def is_right(trajectory: Trajectory) -> bool:
    """Whether its answer is entirely correct. An ungraded answer is not."""
    return (trajectory.score or 0) >= 1
