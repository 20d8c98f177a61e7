"""Half-done episodes on disk, so that a run that was killed goes on mid-episode: its messages and steps, and the State.

Each is a file of its own, replaced whole after each step and removed when its trajectory is recorded. They are not
synced: what survives the process may not survive the machine, and an episode whose file is damaged begins anew.
"""

import base64
import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from agentdistill._core import Limits, SandboxError, State, Trajectory, TrajectoryError
from agentdistill.files.replacing import replacing


class HalfDone(NamedTuple):
    """An episode up to some step."""

    trajectory: Trajectory
    """Its opening messages, its steps so far, and the tokens that they took."""
    state: State
    """After the last of these steps."""


class Checkpoints:
    """The half-done episodes of one run, in a folder beside its output."""

    def __init__(self, output: Path, run: str, limits: Limits) -> None:
        """``run`` says which run: half-done episodes of another one are forgotten, as are those that ``limits`` do not
        allow."""
        self._folder = output.with_name(f".{output.name}.half-done")
        self._run = hashlib.sha256(run.encode()).hexdigest()
        self._limits = limits
        if self._folder.is_symlink():  # what is half-done is deleted in the end
            raise FileExistsError(17, "half-done episodes are kept here, and this is a link", str(self._folder))
        self._folder.mkdir(exist_ok=True)

    def keep(self, half_done: HalfDone) -> None:
        """Replace what was kept of this episode. Raises OSError (a full disk)."""
        file = self._file(half_done.trajectory.task_id)
        state = base64.b64encode(half_done.state.to_bytes()).decode()
        with replacing(file) as new:
            new.write_text(f"{self._run}\n{state}\n{half_done.trajectory.to_json()}\n", encoding="utf-8")

    def load(self, task_id: str, question: str) -> HalfDone | None:
        """The episode as far as it was kept; None when there is nothing of this run, or it is damaged."""
        try:
            # Not splitlines: a text may hold U+2028 and the like, which JSON does not escape.
            run, state, line = self._file(task_id).read_text(encoding="utf-8").split("\n", 2)
            trajectory = Trajectory.from_json(line)
            if (run, trajectory.task_id, trajectory.question) != (self._run, task_id, question):
                return None
            return HalfDone(trajectory, State.from_bytes(base64.b64decode(state), self._limits))
        except (OSError, ValueError, TrajectoryError, SandboxError):
            return None

    def drop(self, task_ids: Iterable[str]) -> None:
        """Forget episodes that are recorded."""
        for task_id in task_ids:
            self._file(task_id).unlink(missing_ok=True)

    def close(self) -> None:
        """Leave nothing behind when nothing is half-done."""
        if not any(self._folder.glob("*.episode")):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, task_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(task_id.encode()).hexdigest()[:32]}.episode"
