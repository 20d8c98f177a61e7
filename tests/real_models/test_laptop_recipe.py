"""The laptop recipe from end to end, on SmolLM2 and a few questions of GSM8K, with a scripted teacher on a server."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_real_models import SMALLEST, agentdistill

from agentdistill import load_tasks, read_trajectories
from samples import code
from scripted_server import Handler, serving

RECIPE = Path(__file__).parents[2] / "recipes" / "laptop" / "math.toml"
pytestmark = pytest.mark.skipif(
    not SMALLEST, reason="no real models: `make models`, then AGENTDISTILL_MODELS=target/models says where they are"
)


def test_the_laptop_recipe(shared_data: Path, tmp_path: Path) -> None:
    tasks = shared_data / "tasks"
    known = {task.question: task.answer for task in load_tasks(tasks / "gsm8k" / "train.jsonl", limit=4)}

    def teach(handler: Handler, request: dict[str, Any]) -> None:
        """Give the right answer, as an agent or as a chain of thought, and continue a prefix."""
        said = " ".join(message["content"] for message in request["messages"])
        answer = next((answer for question, answer in known.items() if question in said), "what the client tries first")
        turn = code(f"final_answer({answer})", "I know it.")
        if "final_answer" not in said:
            turn = f"It is known.\n\n<answer>{answer}</answer>"
        elif request["messages"][-1]["role"] == "assistant":
            turn = turn.removeprefix("Thought: ")
        body = {"choices": [{"message": {"role": "assistant", "content": turn}, "finish_reason": "stop"}]}
        handler.send(200, json.dumps(body | {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}))

    data = tmp_path / "data"
    data.mkdir()
    (data / "gsm8k").symlink_to(tasks / "gsm8k")
    (data / "gsm_hard.jsonl").symlink_to(tasks / "gsm_hard_1319.jsonl")
    (data / "svamp.jsonl").symlink_to(tasks / "svamp_1000.jsonl")
    with serving(teach) as server:
        variables = {
            "data": data,
            "output": tmp_path / "runs",
            "teacher": f"openai:http://127.0.0.1:{server.server_port}/v1:scripted",
            "student": SMALLEST[0],
            "size": "135m",
            "method": "full",
            "epochs": "1",
            "engine": "transformers",
            "train": "4",
            "test": "1",
            "turn_tokens": "24",
            "chain_tokens": "24",
        }
        sets = [f"{name}={value}" for name, value in variables.items()]
        agentdistill("run", RECIPE, "--set", *sets, cwd=tmp_path)
    teacher = {name: read_trajectories(tmp_path / "runs" / "teacher" / f"{name}.kept.jsonl") for name in TEACHER}
    assert {name: len(kept) for name, kept in teacher.items()} == dict.fromkeys(TEACHER, 4)
    assert all(t.steps[0].candidates[0].prefix for t in teacher["ftp"])
    results = sorted(path for path in (tmp_path / "runs" / "results").iterdir() if path.is_dir())
    assert [folder.name for folder in results] == TEACHER_ARMS + [f"135m-{arm}" for arm in ARMS]
    for folder in results:
        said = json.loads((folder / "results.json").read_text())
        assert {one["task_set"]: one["n"] for one in said["sets"]} == {"test": 1, "gsm_hard": 1, "svamp": 1}
    publish = [sys.executable, RECIPE.with_name("publish.py"), tmp_path / "runs", tmp_path / "published"]
    subprocess.run(publish, check=True)
    assert (tmp_path / "published" / "tables.md").read_text().count("| 135M |") == 2 * len(ARMS) + 9
    assert (tmp_path / "published" / "report.html").exists()
    assert str(tmp_path) not in (tmp_path / "published" / "results.json").read_text()


TEACHER = ("agent", "cot", "ftp")
ARMS = ["0-agent", "0-agent-sag", "0-cot", "0-ftp", "0-ftp-sag", "untrained-agent", "untrained-cot"]
TEACHER_ARMS = ["1.5b-untrained-agent", "1.5b-untrained-cot"]
