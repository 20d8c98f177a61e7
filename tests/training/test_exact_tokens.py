"""The token ids in a trajectory are those that the engine read and sampled, and decode to its text.

These are real rollouts of the demo's smallest base, whose chat template has the form of Qwen2.5's. A sampled completion
often has other tokens than its encoded text. So each step keeps the ids of both its prompt and its completions: the
next prompt has the same text, in other tokens.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from agentdistill import Bm25Index, Trajectory, load_model, rollout
from agentdistill.demo import run as demo
from agentdistill.event_loop import run_blocking
from agentdistill.models.model import Message
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.rollouts.prompt import assistant_turn
from agentdistill.tools.tool import web_search

WORLD = demo.make_world(demo.QUICK)
BASE = demo.BASE / "S"


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def trajectories(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Trajectory]]:
    pytest.importorskip(request.param)
    index = Bm25Index.build([entity.passage for entity in WORLD.entities], tmp_path_factory.mktemp("index") / "i")
    model = load_model(f"transformers:{BASE},dtype=float32")
    config = RolloutConfig(prompt="", max_tokens=60, candidates=2)
    yield rollout(WORLD.test[:20], model, [web_search(index)], config, progress=False)
    run_blocking(model.close())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(BASE)


def test_prompts_and_completions_are_kept_to_the_token(trajectories: list[Trajectory], tokenizer: Any) -> None:
    steps = 0
    for trajectory in trajectories:
        messages = [Message(role, content) for role, content in trajectory.messages]
        for step in trajectory.steps:
            text = tokenizer.apply_chat_template(
                [message._asdict() for message in messages], tokenize=False, add_generation_prompt=True
            )
            assert step.prompt_token_ids == tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(step.prompt_token_ids) == text
            for candidate in step.candidates:
                written = tokenizer.decode(candidate.token_ids, skip_special_tokens=True)
                assert written.startswith(candidate.text)
                assert written.removeprefix(candidate.text) in ("", "<end_code>", "\nObservation:")
            messages += [Message("assistant", assistant_turn(step.candidates[step.winner]))]
            messages += [Message("user", step.message)]
            steps += 1
    assert steps > len(trajectories)  # also in later turns
