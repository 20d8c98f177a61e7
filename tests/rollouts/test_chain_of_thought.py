"""The baseline: the answer in a chain of thought, and the trajectory made from its one completion."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentdistill import Bm25Index, Task, generate, rollout, select
from agentdistill.answers import extract_answer
from agentdistill.distillation import GenerateConfig
from agentdistill.models.model import Message, Sampling
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.chain_of_thought import chain_sampling, run_chain_of_thought
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.tools.tool import web_search
from agentdistill.training.examples import to_examples
from chat_templates import CHATML
from samples import tokenizer

CHAINS = [
    ("So it is Ann.\n\n<answer>Ann</answer>", "Ann"),
    ("<answer> Ann\n</answer>", "Ann"),
    ("<answer>Ann</answer> no, <answer>Bob</answer>", "Bob"),
    ("<answer>Ann", "Ann"),
    (r"<answer>\boxed{\frac{1}{2}}</answer>", r"\frac{1}{2}"),
    (r"Thus \boxed{7} or rather \boxed{8}.", "8"),
    (r"\boxed{1} <answer>2</answer>", "2"),
    (r"\boxed{\frac{1}{2", None),
    (r"It is \boxed{7}. I put it in \boxed{} as told: \boxed{ }.", "7"),
    (r"In \boxed{}: <answer>7</answer>", "7"),
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


CHAINS_OF_FOUR = [
    (["Ann", "Bob", "bob.", None], "Bob", [("bob", 2), ("ann", 1)]),
    (["Ann", "Bob"], "Ann", [("ann", 1), ("bob", 1)]),
    ([None, None, "The"], "The", [("the", 1)]),
    ([None, None], None, []),
]


@pytest.mark.parametrize(("answers", "answer", "votes"), CHAINS_OF_FOUR)
def test_the_most_frequent_answer_of_several_chains_wins(
    answers: list[str | None], answer: str | None, votes: list[tuple[str, int]]
) -> None:
    chains = ["I do not know." if answer is None else f"<answer>{answer}</answer>" for answer in answers]
    model = ScriptedModel("m", lambda messages, prefix, index: chains[index])
    episode = asyncio.run(run_chain_of_thought("Who?", model, RolloutConfig(kind="cot", candidates=len(chains))))
    assert (episode.answer, episode.steps[0].votes) == (answer, votes)
    assert [candidate.text for candidate in episode.steps[0].candidates] == chains


def test_how_chains_are_drawn() -> None:
    one, several = RolloutConfig(kind="cot"), RolloutConfig(kind="cot", candidates=8)
    assert chain_sampling(one) == Sampling(max_tokens=4096)
    assert chain_sampling(several, 8) == Sampling(temperature=0.4, top_p=0.8, max_tokens=4096)
    assert chain_sampling(RolloutConfig(candidates=8)) == Sampling(max_tokens=4096)  # for a first-thought prefix
    assert chain_sampling(RolloutConfig(kind="cot", max_tokens=9)).max_tokens == 9
    assert (one.settings()["max_tokens"], RolloutConfig().settings()["max_tokens"]) == (4096, 1024)


PASSAGES = [("1", "Metropolis", "Metropolis is a film with music by Ann."), ("2", "Ann", "Ann writes music.")]
WHO = Task("q", "Who wrote the music of Metropolis?", "Ann", "facts")


def test_passages_stand_before_the_question_and_before_that_of_its_student(tmp_path: Path) -> None:
    """CoT + RAG: the model's messages are recorded, and the student is trained with the same ones."""
    index = Bm25Index.build(PASSAGES, tmp_path / "wiki")
    read = []

    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        read.append(messages[-1].content)
        return "Think.\n\n<answer>Ann</answer>"

    config = GenerateConfig(kind="cot", passages=1)
    [made] = generate([WHO], ScriptedModel("m", policy), [web_search(index)], config, progress=False)
    assert read == [f"Passages:\n\n{index.search_text(WHO.question, 1)}\n\nQuestion: {WHO.question}"]
    assert (made.question, made.score, made.messages[-1]) == (WHO.question, 1.0, ("user", read[0]))
    tokens = tokenizer(CHATML)
    [example] = to_examples(select([made]).kept, tokens, prompt="").examples
    said = tokens.decode(example["input_ids"])
    assert said.count("film with music") == 1 and f"<|im_start|>user\n{read[0]}<|im_end|>" in said


def test_passages_need_a_chain_of_thought_and_something_to_search() -> None:
    with pytest.raises(ValueError, match="passages is 3: give 0 or more"):
        RolloutConfig(passages=3)
    with pytest.raises(ValueError, match="give an index or a retriever"):
        rollout(
            [WHO],
            ScriptedModel("m", lambda messages, prefix, index: ""),
            config=RolloutConfig(kind="cot", passages=3),
            progress=False,
        )
