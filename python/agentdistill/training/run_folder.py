"""The folder of a training run: which run owns it, whether that is finished, and the checkpoint to resume from.

Not here: what is trained (``trainer.py``), and the checkpoints of a sharded run (``shares.py``).
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from agentdistill.files.replacing import replacing

RECORD = "train.json"
"""The settings and data of a run, and its result, which is null until the run is finished."""

ONLY_SPEED = {"device_batch_size", "save_steps", "max_length", "gradient_checkpointing", "forms"}
"""Settings that change the cost of a run but not what it learns: a run may resume with other values. (If ``max_length``
cuts other examples, the fingerprint of the data changes; the same holds for ``forms``.)"""


def claim(output: Path, run: dict[str, Any]) -> bool:
    """Claim the folder for this run; return whether the run is already finished.

    A folder of another run that has neither a result nor a checkpoint is replaced, since nothing is lost: a run that
    ran out of memory can be repeated with other settings. Raises ValueError for any other folder of another run.
    """
    record = output / RECORD
    if record.exists():
        try:
            known = json.loads(record.read_text(encoding="utf-8"))
            other = {name for name in run if known["run"].get(name) != run[name]} - ONLY_SPEED
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{record} is damaged: remove the folder, or give another output") from error
        is_begun = known.get("result") is not None or last_checkpoint(output) is not None
        if other and is_begun:
            differences = ", ".join(f"{name} {known['run'].get(name)!r}, not {run[name]!r}" for name in sorted(other))
            raise ValueError(f"{output} contains another run ({differences}): give another output, or overwrite it")
        if is_begun:
            return known.get("result") is not None
    elif is_first() and output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty and contains no training run: give another output")
    if is_first():
        output.mkdir(parents=True, exist_ok=True)
        write_record(output, run, None)
    return False


def clear(output: Path) -> None:
    """Remove a training run and its student. Raises ValueError if the folder holds no training run."""
    if output.exists() and any(output.iterdir()):
        if not (output / RECORD).is_file():
            raise ValueError(f"{output} contains no training run, and is not overwritten: give another output")
        shutil.rmtree(output)


def write_record(output: Path, run: dict[str, Any], result: dict[str, Any] | None) -> None:
    """Write ``train.json``."""
    with replacing(output / RECORD) as new:
        new.write_text(json.dumps({"run": run, "result": result}, indent=2) + "\n", encoding="utf-8")


def checkpoints(output: Path) -> Path:
    """The folder of a run's checkpoints, which are kept until the run is finished."""
    return output / "checkpoints"


def last_checkpoint(output: Path) -> str | None:
    """The newest complete checkpoint. A kill can cut one off; its ``trainer_state.json`` is written last."""

    def is_whole(checkpoint: Path) -> bool:
        try:
            return bool(json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return False

    whole = (checkpoint for checkpoint in checkpoints(output).glob("checkpoint-*") if is_whole(checkpoint))
    last = max(whole, key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]), default=None)
    return None if last is None else str(last)


def processes() -> int:
    """Number of processes that train together, as set by torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process writes the files."""
    return int(os.environ.get("RANK", 0)) == 0
