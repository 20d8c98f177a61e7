"""IDEA 2: the part of a chain of thought that begins an agent's first Thought."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill.first_thought_prefix import first_thought, first_thought_prefix
from agentdistill.models.model import Message, Sampling
from agentdistill.models.scripted import ScriptedModel

CHAINS = [
    ("Find the film first.\n\nThe film is X.\n\n<answer>Y</answer>", "Find the film first."),
    ("Two lines\nof one thought.\n\nMore.", "Two lines\nof one thought."),
    ("### Step 1: Plan\n\nFind the film first.\n\nMore.", "Find the film first."),
    ("**Plan**\n\nFind the film first.\n\nMore.", "Find the film first."),
    ("To solve this:\n\nFind the film first.\n\nMore.", "Find the film first."),
    ("Thought: Find the film first.\n\nMore.", "Find the film first."),
    ("<think>\nHm, a film.\n\nMore.</think>\n\nFind the film first.\n\nMore.", "Find the film first."),
    ("Hm, a film.\n</think>\n\nFind the film first.\n\nMore.", "Find the film first."),
    ("<think>\nHm, a film. It goes on", ""),
    ("Add 3 and 4. That is 7, so the answer is \\boxed{7}.", "Add 3 and 4."),
    ("Use code.\n```py\n1\n```\n\nMore.", "Use code."),
    ("Use 3.5 metres. Then stop. <answer>3</answer>", "Use 3.5 metres."),
    ("<answer>7</answer>", ""),
    ("\\boxed{7}", ""),
    ("the answer is \\boxed{7}", ""),
    ("", ""),
    ("# Only a heading", ""),
]


@pytest.mark.parametrize(("chain", "thought"), CHAINS)
def test_first_thought(chain: str, thought: str) -> None:
    assert first_thought(chain) == thought


@given(
    st.lists(
        st.sampled_from(["A b. ", "\n\n", "<answer>4</answer>", "\\boxed{4}", "```py\nf()\n```", "\nCode:\n", "# H"])
    )
)
def test_no_answer_and_no_code_leaks(pieces: list[str]) -> None:
    thought = first_thought("".join(pieces))
    assert not any(leak in thought for leak in ("<answer>", "boxed", "```", "Code:"))
    assert thought == thought.strip() and "\n\n" not in thought


def test_the_prefix_is_asked_for_as_a_chain_of_thought() -> None:
    question = [Message("system", "Reason."), Message("user", "Who?")]

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        assert (list(messages), prefix, index) == (question, "", 0)
        return "Find out who.\n\nIt is Ann.\n\n<answer>Ann</answer>"

    prefix = asyncio.run(first_thought_prefix(question, ScriptedModel("teacher", policy), Sampling()))
    assert prefix.text == "Thought: Find out who."
