"""A student for your own API: a teacher uses the tools, and a tiny model learns from its trajectories.

The teacher is a script and the student is the demo's smallest base (0.26 million parameters), so this takes seconds on
a CPU. The student is evaluated on parts that do not occur in training.
"""

import random
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agentdistill import Task, evaluate, generate, select, train
from agentdistill.demo.run import BASE
from agentdistill.demo.world import Names
from agentdistill.distillation import GenerateConfig
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import RolloutConfig
from agentdistill.tools.tool import python_tool
from agentdistill.training.config import TrainConfig

rng = random.Random(1)
NAMES = {owner: Names(rng, owner) for owner in ("train", "test")}
PARTS = {owner: [names.thing() for _ in range(n)] for (owner, names), n in zip(NAMES.items(), (160, 30), strict=True)}
STOCK = {part: rng.randint(1, 999) for parts in PARTS.values() for part in parts}
PRICE = {part: rng.randint(1, 99) for part in STOCK}


def stock(part: str) -> int:
    """How many pieces of a part are in stock."""
    return STOCK[part]


def price(part: str) -> int:
    """Price of one piece of a part, in cents."""
    return PRICE[part]


QUESTIONS = {
    "How many pieces of {} are there?": ('stock("{}")', lambda part: STOCK[part]),
    "What does one {} cost?": ('price("{}")', lambda part: PRICE[part]),
    "What are all pieces of {} worth?": ('stock("{0}") * price("{0}")', lambda part: STOCK[part] * PRICE[part]),
}
"""Question -> the code that answers it, and the answer."""


def tasks(parts: Sequence[str]) -> list[Task]:
    """One task for each part, with the kinds of questions in turn."""
    kinds = [list(QUESTIONS.items())[i % len(QUESTIONS)] for i in range(len(parts))]
    return [
        Task(part, question.format(part), str(answer(part)), "parts", "math")
        for part, (question, (_, answer)) in zip(parts, kinds, strict=True)
    ]


def teacher(messages: Sequence[Message], prefix: str, index: int) -> str:
    """Answer with the code for a question."""
    for question, (code, _) in QUESTIONS.items():
        if found := re.fullmatch(re.escape(question).replace(r"\{\}", "(.+)"), messages[-1].content):
            return f"Thought: I ask the API.\nCode:\n```py\nfinal_answer({code.format(found[1])})\n```<end_code>"
    raise ValueError(f"unknown question: {messages[-1].content!r}")


def main() -> None:
    tools = [python_tool(stock), python_tool(price)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = ScriptedModel("teacher", teacher)
        generate(tasks(PARTS["train"]), model, tools, GenerateConfig(), output=folder / "trajectories.jsonl")
        print(select(folder / "trajectories.jsonl", folder / "kept.jsonl"))
        training = TrainConfig(method="full", learning_rate=2e-3, epochs=3, batch_size=4, max_length=512, prompt="")
        student = train(folder / "kept.jsonl", BASE / "S", folder / "student", training)
        for who, path in (("before", BASE / "S"), ("after", student)):
            config = RolloutConfig(prompt="", max_tokens=60, max_steps=1)
            print(who, evaluate(tasks(PARTS["test"]), f"transformers:{path}", tools, config), sep="\n")


if __name__ == "__main__":
    main()
