"""What works in a process also works in its forked child, where the parent's threads do not exist."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

USE_EVERYTHING = """
import os, signal, sys
from agentdistill import (
    Bm25Index, RolloutConfig, Sandbox, ScriptedModel, Task, grade, python_tool, read_trajectories, rollout
)

sandbox = Sandbox()
index = Bm25Index.build([(str(n), f"title {n}", f"passage {n}") for n in range(100)], "index")

def use_everything(where):
    action = "Thought: now.\\nCode:\\n```py\\nfinal_answer(5)\\n```<end_code>"
    model = ScriptedModel("scripted", lambda messages, prefix, n: action)
    tasks = [Task(str(n), f"What is {n} - {n} + 5?", "5", "sums", "math") for n in range(8)]
    played = rollout(tasks, model, config=RolloutConfig(candidates=2), output=f"{where}.jsonl", progress=False)
    assert [t.score for t in played] == [1.0] * 8, played
    assert len(read_trajectories(f"{where}.jsonl")) == 8
    assert all(hits for hits in index.search_batch([f"passage {n}" for n in range(50)], 3))
    (one, _), (two, _) = sandbox.run_many([(sandbox.initial, "1 + 1"), (sandbox.initial, "2 + 2")])
    assert (one.value, two.value) == ("2", "4")

use_everything("parent")
child = os.fork()
if child == 0:
    signal.alarm(100)
    use_everything("child")
    os._exit(0)
use_everything("parent_again")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_searches_runs_cells_and_plays(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", USE_EVERYTHING], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
