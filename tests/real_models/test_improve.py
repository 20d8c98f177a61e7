"""A real model goes on learning from its own rollouts, for one step by each method, with itself as the teacher.

CI does not run this file: each method takes a minute or two.
"""

import json
from pathlib import Path

import pytest
from test_real_models import SHORT, SMALLEST, agentdistill, write_sums

from agentdistill import read_trajectories

pytestmark = pytest.mark.skipif(
    not SMALLEST, reason="no real models: `make models`, then AGENTDISTILL_MODELS=target/models says where they are"
)


@pytest.mark.parametrize("method", ["grpo", "distill", "dgpo"])
def test_a_student_is_improved_and_asked(method: str, tmp_path: Path) -> None:
    [model] = SMALLEST
    teacher = () if method == "grpo" else ("--teacher", model)
    agentdistill(
        *("improve", model, "--tasks", write_sums(tmp_path), "--method", method, *teacher, "--steps", 1, *SHORT),
        *("--tasks-per-step", 2, "--group", 2, "--max-steps", 2, "--max-tokens", 24, "-o", "improved"),
        cwd=tmp_path,
    )
    assert len(read_trajectories(tmp_path / "improved" / "rollouts" / "step-000001.jsonl")) == 4
    assert len(json.loads((tmp_path / "improved" / "train.json").read_text())["result"]["losses"]) == 1
    question = ("ask", "What is 1 + 4?", "--model", "transformers:improved/merged", "--max-tokens", 16)
    assert agentdistill(*question, "--max-steps", 1, *SHORT, cwd=tmp_path).strip()
