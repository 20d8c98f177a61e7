"""A rollout on a real Ray cluster: two nodes on this machine, one of which is killed during the run."""

import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentdistill import AgentDistillError, Bm25Index, read_trajectories, rollout
from agentdistill.demo.run import BASE
from agentdistill.distillation import GenerateConfig, generate
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.tools.tool import python_tool, web_search
from slow_run import code, sums

ray = pytest.importorskip("ray", reason="needs agentdistill[ray]")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_teacher_has_its_first_thoughts_on_a_cluster_too(cluster: Any, tmp_path: Path) -> None:
    config = GenerateConfig(first_thought_prefix=True, max_tokens=20, ray=cluster.address)
    made = generate(sums(3), f"transformers:{BASE / 'S'}", config=config, output=tmp_path / "t.jsonl", progress=False)
    assert [t.outcome for t in made if t.error] == []
    assert all(t.model == str(BASE / "S") and t.steps[0].prompt_token_ids for t in made)
    with pytest.raises(ValueError, match="each player loads its own model"):
        generate(sums(1), ScriptedModel("m", lambda *_: ""), config=config, progress=False)


def test_a_node_that_dies_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1)
    index = Bm25Index.build([("1", "Paris", "Paris is the capital of France.")], tmp_path / "index")

    def slow(text: str) -> str:
        """Take some time."""
        time.sleep(0.1)
        return text

    model = ScriptedModel("m", lambda messages, prefix, index: code("final_answer(slow(web_search('capital')[:20]))"))
    tasks, tools = sums(200), [python_tool(slow), web_search(index)]
    record, output = tmp_path / "record.jsonl", tmp_path / "t.jsonl"
    here = rollout(tasks, model, tools, output=record, progress=False)
    assert all(t.outcome == "final_answer" for t in here)
    config = RolloutConfig(ray=cluster.address, concurrency=4)
    done: list[Any] = []

    def run() -> None:
        done.extend(rollout(tasks, f"recorded:{record}", tools, config, output=output, progress=False))

    running = threading.Thread(target=run)
    running.start()
    while not output.exists() or output.read_bytes().count(b"\n") < 20:
        assert running.is_alive()
        time.sleep(0.02)
    cluster.remove_node(node, allow_graceful=False)
    running.join()
    assert [(t.task_id, t.answer) for t in done] == [(t.task_id, t.answer) for t in here]
    assert sorted(t.task_id for t in read_trajectories(output)) == sorted(task.id for task in tasks)


def test_what_is_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(AgentDistillError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        rollout(sums(1), "recorded:x", config=RolloutConfig(ray="127.0.0.1:1"), progress=False)


def test_a_tool_that_stays_here() -> None:
    lock = threading.Lock()

    def tied(text: str) -> str:
        """Nobody else has this lock."""
        with lock:
            return text

    with pytest.raises(ValueError, match="the tool tied cannot be sent to other machines: cannot pickle"):
        rollout(sums(1), "recorded:x", [python_tool(tied)], RolloutConfig(ray="127.0.0.1:1"), progress=False)
    with pytest.raises(ValueError, match="either checkpoints or ray"):
        RolloutConfig(ray="auto", checkpoints=True)


def test_an_index_goes_to_other_processes_by_its_path(tmp_path: Path) -> None:
    index = Bm25Index.build([("1", "Paris", "Paris is the capital of France.")], tmp_path / "index")
    assert pickle.loads(pickle.dumps(index)).search("capital", 1)[0].title == "Paris"
