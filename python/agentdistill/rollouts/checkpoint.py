"""Checkpoints of unfinished episodes (messages, steps and State), so that a killed run resumes them in the middle.

Each checkpoint is a file, which is replaced after each step and removed once the trajectory is recorded. The files are
not synced: they survive the death of the process, but perhaps not of the machine. An episode whose file is damaged
starts again.
"""

import base64
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from agentdistill._core import Limits, SandboxError, State, Trajectory, TrajectoryError
from agentdistill.files.replacing import replacing


class UnfinishedEpisode(NamedTuple):
    """An episode up to some step."""

    trajectory: Trajectory
    """Its opening messages, its steps so far, and their token usage."""
    state: State
    """The State after the last of these steps."""


class Checkpoints:
    """The checkpoints of one run, in a folder beside its output."""

    def __init__(self, output: Path, run: str, limits: Limits) -> None:
        """``run`` identifies the run. Checkpoints of another run, or with a State beyond ``limits``, are ignored."""
        self._folder = output.with_name(f".{output.name}.half-done")
        self._run = hashlib.sha256(run.encode()).hexdigest()
        self._limits = limits
        if self._folder.is_symlink():  # the folder is deleted in the end
            raise FileExistsError(17, "the folder of checkpoints must not be a symbolic link", str(self._folder))
        self._folder.mkdir(exist_ok=True)

    def keep(self, half_done: UnfinishedEpisode) -> None:
        """Replace the checkpoint of this episode. Raises OSError (full disk)."""
        file = self._file(half_done.trajectory.task_id)
        state = base64.b64encode(half_done.state.to_bytes()).decode()
        with replacing(file) as new:
            new.write_text(f"{self._run}\n{state}\n{half_done.trajectory.to_json()}\n", encoding="utf-8")

    def load(self, task_id: str, question: str) -> UnfinishedEpisode | None:
        """Load the checkpoint of an episode. Return None if this run has none, or if it is damaged."""
        try:
            # Not splitlines: JSON does not escape U+2028 and similar characters.
            run, state, line = self._file(task_id).read_text(encoding="utf-8").split("\n", 2)
            trajectory = Trajectory.from_json(line)
            if (run, trajectory.task_id, trajectory.question) != (self._run, task_id, question):
                return None
            return UnfinishedEpisode(trajectory, State.from_bytes(base64.b64decode(state), self._limits))
        except (OSError, ValueError, TrajectoryError, SandboxError):
            return None

    def drop(self, task_ids: Iterable[str]) -> None:
        """Remove the checkpoints of recorded episodes."""
        for task_id in task_ids:
            self._file(task_id).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder if it holds no checkpoints."""
        if not any(self._folder.glob("*.episode")):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, task_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(task_id.encode()).hexdigest()[:32]}.episode"
