"""Several processes train the same student as one process: replicated or sharded, killed or not."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from test_training import EXAMPLES, HELD_OUT, LORA, TINY, losses

from agentdistill.training.trainer import train

pytest.importorskip("trl")

PROCESS = """
import os, signal, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + '/training']
from accelerate import Accelerator
from transformers import Trainer
from test_processes import EXAMPLES, TOGETHER, train

Accelerator.end_training = lambda self: None  # processes that part cannot meet again
whole = Trainer._save_rng_state

def save_or_die(self, folder):
    if self.state.global_step == 40 and os.environ["RANK"] == os.environ.get("KILLED"):
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self, folder)

Trainer._save_rng_state = save_or_die
for name in sys.argv[3:]:
    train(EXAMPLES, sys.argv[2], name, TOGETHER[name], overwrite="OVERWRITE" in os.environ, progress=False)
"""
ADAPTER = replace(LORA, epochs=3, dropout=0.0)
TOGETHER = {
    "whole": TINY,
    "sharded": replace(TINY, shard=True),
    "sharded-lora": replace(ADAPTER, shard=True),
    "sharded-held-out": replace(HELD_OUT, shard=True),
    "sharded-long": replace(TINY, epochs=12, save_steps=20, shard=True),
}


def launch(base: Path, folder: Path, names: Sequence[str], processes: int = 2, killed: int | None = None) -> str | None:
    """Train the students together. Return the log if that fails, else None."""
    (folder / "process.py").write_text(PROCESS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launcher, "process.py", str(Path(__file__).parents[1]), str(base), *names]
    environment = os.environ | {"KILLED": str(killed)}
    log = folder / "log"
    with (
        log.open("w") as said,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said) as launched,
    ):
        try:
            status = launched.wait(timeout=300)
        finally:
            launched.terminate()  # the launcher ends its processes, which are in other process groups
    return log.read_text() if status else None


def test_two_processes_train_the_student_of_one(base: Path, tmp_path: Path) -> None:
    names = [name for name in TOGETHER if name != "sharded-long"]
    failed = launch(base, tmp_path, [*names, *names])  # the second time, they are already finished
    assert not failed, failed
    for name in names:
        config = replace(TOGETHER[name], shard=False)
        folder = tmp_path / f"alone-{config.method}-{config.held_out}"
        alone = train(EXAMPLES, base, folder, config, progress=False)
        together, single = (json.loads((run / "train.json").read_text())["result"] for run in (tmp_path / name, folder))
        assert together["steps"] == single["steps"] >= 12
        for logged in ("losses", "held_out_losses"):
            assert together[logged] == pytest.approx(single[logged], abs=1e-3)
        student = tmp_path / name / alone.relative_to(folder)
        assert losses(student, EXAMPLES) == pytest.approx(losses(alone, EXAMPLES), abs=1e-2)


def test_two_processes_overwrite_the_run_of_one(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(EXAMPLES, base, tmp_path / "whole", replace(TINY, epochs=1), progress=False)
    monkeypatch.setenv("OVERWRITE", "1")
    failed = launch(base, tmp_path, ["whole"])
    assert not failed, failed
    record = json.loads((tmp_path / "whole" / "train.json").read_text())
    assert record["run"]["epochs"] == TINY.epochs and record["result"]["steps"] == 12


def test_a_killed_sharded_run_goes_on_with_another_number_of_processes(base: Path, tmp_path: Path) -> None:
    """One of two processes is killed while they write the second checkpoint; four resume from the first."""
    name = "sharded-long"
    assert launch(base, tmp_path, [name], killed=1)
    assert json.loads((tmp_path / name / "train.json").read_text())["result"] is None
    failed = launch(base, tmp_path, [name], processes=4)
    assert not failed, failed
    straight = train(EXAMPLES, base, tmp_path / "straight", replace(TOGETHER[name], shard=False), progress=False)
    gone_on, single = (json.loads((run / "train.json").read_text())["result"] for run in (tmp_path / name, straight))
    assert gone_on["resumed_from"].endswith("checkpoint-20")
    assert gone_on["steps"] == single["steps"] == 48
    assert gone_on["losses"] == pytest.approx(single["losses"], abs=1e-3)


def test_a_batch_that_the_processes_cannot_share_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="3 processes that take 1 examples"):
        train(EXAMPLES, base, tmp_path / "student", TINY, progress=False)


def test_a_second_way_to_shard_is_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="accelerate is configured to shard"):
        train(EXAMPLES, base, tmp_path / "student", TINY, progress=False)
