"""The baseline: where the answer of a chain of thought is, and what its one completion becomes."""

import asyncio

import pytest

from agentdistill.chain_of_thought import extract_answer, run_chain_of_thought
from agentdistill.model import ScriptedModel
from agentdistill.player import RolloutConfig

CHAINS = [
    ("So it is Ann.\n\n<answer>Ann</answer>", "Ann"),
    ("<answer> Ann\n</answer>", "Ann"),
    ("<answer>Ann</answer> no, <answer>Bob</answer>", "Bob"),
    ("<answer>Ann", "Ann"),
    (r"<answer>\boxed{\frac{1}{2}}</answer>", r"\frac{1}{2}"),
    (r"Thus \boxed{7} or rather \boxed{8}.", "8"),
    (r"\boxed{1} <answer>2</answer>", "2"),
    (r"\boxed{\frac{1}{2", None),
    ("It is Ann.", None),
    ("<answer></answer>", None),
    ("", None),
]


@pytest.mark.parametrize(("chain", "answer"), CHAINS)
def test_extract_answer(chain: str, answer: str | None) -> None:
    assert extract_answer(chain) == answer


def test_one_completion_is_one_step() -> None:
    model = ScriptedModel("m", lambda messages, prefix, index: "Think.\n\n<answer>Ann</answer>")
    episode = asyncio.run(run_chain_of_thought("Who?", model, RolloutConfig(kind="cot")))
    assert [message.role for message in episode.messages] == ["system", "user"]
    assert (len(episode.steps), episode.outcome, episode.answer) == (1, "final_answer", "Ann")
    assert episode.steps[0].candidates[0].text == "Think.\n\n<answer>Ann</answer>"
