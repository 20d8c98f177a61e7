"""Tasks as an environment of OpenEnv and verifiers: the real libraries, each in a Python of its own."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agentdistill import read_trajectories
from agentdistill.models.loading import opened
from agentdistill.models.model import Model
from agentdistill.models.scripted import ScriptedModel

pytest.importorskip("uvicorn", reason="needs agentdistill[serve]")
from test_environment_server import QUICK, TASKS, serving

from agentdistill.serving.gateway import Gateway


def peer(variable: str) -> Path:
    """The Python of another environment, which this one cannot share: OpenEnv and verifiers need older versions of
    libraries."""
    if not (python := os.environ.get(variable)):
        pytest.skip(f"needs another Python: {variable}")
    return Path(python)


OPENENV = """
import asyncio, json, sys
from openenv.core.generic_client import GenericEnvClient

async def main():
    made = [GenericEnvClient(base_url=sys.argv[1]) for _ in range(2)]
    async with made[0] as one, made[1] as other:
        told = []
        for client in (one, other):
            try:
                await client.step({"code": "1"})
            except RuntimeError as error:
                told.append(str(error))
        begun = await asyncio.gather(one.reset(task_id="six"), other.reset(seed=1, episode_id="mine"))
        told.append([result.observation for result in begun])
        for code in ("x = 42\\nx", "while True: pass", "final_answer(globals().get('x', 'Paris'))"):
            result = await one.step({"code": code})
            told.append([result.observation["output"], result.reward, result.done])
        result = await other.step({"code": "final_answer(globals().get('x', 'Paris'))", "metadata": {}})
        told.append([result.observation["output"], result.reward, result.done, await other.state()])
        result = await other.reset(task_id="four")
        told.append([result.observation["question"], result.done])
    with GenericEnvClient(base_url=sys.argv[1]).sync() as client:
        client.reset(task_id="four")
        told.append(client.step({"code": "final_answer(4)"}).reward)
    print(json.dumps(told))

asyncio.run(main())
"""


def test_the_clients_of_openenv() -> None:
    python = peer("AGENTDISTILL_OPENENV_PYTHON")
    with serving(limits=QUICK) as server:
        ran = subprocess.run([python, "-c", OPENENV, server.url], capture_output=True, text=True, timeout=900)
        assert ran.returncode == 0, ran.stderr
        *unready, questions, first, loop, answer, other, again, synchronous = json.loads(ran.stdout)
    assert len(unready) == 2 and all("reset first" in message for message in unready)
    assert questions == [{"question": "What is 6 * 7?"}, {"question": "What is the capital of France?"}]
    assert (first, answer) == (["Value: 42", 0, False], ["Final answer: 42", 1, True])
    assert "took too long" in loop[0] and loop[1:] == [0, False]
    assert other == ["Final answer: Paris", 1, True, {"episode_id": "mine", "step_count": 1, "task_id": "capital"}]
    assert (again, synchronous) == (["What is 2 + 2?", False], 1)


VERIFIERS = """\
model = "{name}"
push = false
output_dir = "runs"
client = {{base_url = "{model}", api_key_var = "MODEL_KEY"}}
sampling = {{max_tokens = 32, temperature = 0.0}}

[env.taskset]
id = "openenv"
base_url = "{environment}"
resets = [{{task_id = "six"}}, {{task_id = "capital"}}, {{task_id = "four"}}]

[env.player]
harness = {{id = "null"}}
runtime = {{type = "subprocess"}}
"""


def rewards_of(model: Model, folder: Path, **options: Any) -> dict[str, float]:
    """The rewards of a model's episodes with the taskset of verifiers, by task."""
    python = peer("AGENTDISTILL_VERIFIERS_PYTHON")
    with serving(**options) as server, Gateway(model, folder / "recorded.jsonl", port=0) as gateway:
        settings = VERIFIERS.format(name=gateway.name, model=gateway.url, environment=server.url)
        (folder / "eval.toml").write_text(settings)
        command = [python.parent / "vf-eval", "@", "eval.toml"]
        environment = os.environ | {"MODEL_KEY": "none"}
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, env=environment)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    [file] = (folder / "runs").rglob("traces.jsonl")
    traces = [trace for line in file.read_text().splitlines() for trace in json.loads(line)["traces"]]
    assert not [trace["errors"] for trace in traces if trace["errors"]]
    return {trace["task"]["data"]["reset"]["task_id"]: trace["rewards"]["openenv_reward"]["score"] for trace in traces}


def test_the_taskset_of_verifiers(tmp_path: Path) -> None:
    """It needs uv on the PATH, and what uv installs for its agents. The model answers in both forms that it reads."""

    def policy(messages: list[tuple[str, str]], prefix: str, index: int) -> str:
        told = json.loads(messages[-1][1])
        assert "def final_answer(answer)" in told["action_schema"]["properties"]["code"]["description"]
        return json.dumps({"code": "final_answer(x)"}) if "output" in told["observation"] else "```py\nx = 6 * 7\n```"

    assert rewards_of(ScriptedModel("scripted", policy), tmp_path) == {"six": 1, "capital": 0, "four": 0}


def test_the_taskset_of_verifiers_with_a_model_that_writes_nonsense(tiny_model: Path, tmp_path: Path) -> None:
    peer("AGENTDISTILL_VERIFIERS_PYTHON")
    with opened(f"transformers:{tiny_model}") as model:
        assert rewards_of(model, tmp_path, max_steps=2) == {task.id: 0 for task in TASKS}
    recorded = read_trajectories(tmp_path / "recorded.jsonl")
    assert [len(trajectory.steps) for trajectory in recorded] == [2] * len(TASKS)
    assert all(candidate.token_ids for trajectory in recorded for candidate in trajectory.steps[-1].candidates)
