"""A run in its own process, to be killed; forked from a process that has imported everything and loaded the guest."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentdistill import Sandbox, Task, rollout
from agentdistill.grading.grade import grade
from agentdistill.models.model import Generation, Message
from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import RolloutConfig


def sums(n: int) -> list[Task]:
    return [Task(f"t{i}", f"What is {i} + {i}?", str(2 * i), "sums", "math") for i in range(n)]


Sandbox()
grade(sums(1)[0], "0")


def code(text: str) -> str:
    return f"Thought: I act.\nCode:\n```py\n{text}\n```<end_code>"


def adds(messages: Sequence[Message], prefix: str, index: int) -> str:
    """Two steps: compute the sum, then answer with the observation."""
    question = next(message.content for message in messages if message.role == "user")
    if messages[-1].content == question:
        a, b = re.findall(r"\d+", question)
        return code(f"print({a} + {b})")
    return code(f"final_answer({messages[-1].content.removeprefix('Observation:').strip()})")


class Slow(ScriptedModel):
    async def generate(self, *args: Any, **kwargs: Any) -> Generation:
        await asyncio.sleep(0.02)
        return await super().generate(*args, **kwargs)


def add_slowly(output: Path, n: int) -> None:
    rollout(sums(n), Slow("adder", adds), config=RolloutConfig(concurrency=4), output=output)


def counts(messages: Sequence[Message], prefix: str, index: int) -> str:
    """Four steps, each of which needs the variables of the previous one."""
    turn = sum(message.role == "assistant" for message in messages)
    return code(["x = [0]", "x.append(1)\nx", "x.append(2)\nx", "final_answer(sum(x))"][turn])


class Logged(Slow):
    """Logs the steps that it is asked for."""

    def __init__(self, log: Path) -> None:
        super().__init__("counter", counts)
        self._log = log

    async def generate(self, messages: Sequence[Message], *args: Any, **kwargs: Any) -> Generation:
        with self._log.open("a") as log:
            log.write(f"{messages[1].content} {sum(message.role == 'assistant' for message in messages)}\n")
        return await super().generate(messages, *args, **kwargs)


THREES = [Task(f"t{i}", f"q{i}", "3", "sums", "math") for i in range(100)]  # more than are finished before ten kills
MID_EPISODE = RolloutConfig(concurrency=8, checkpoints=True)


def count_slowly(output: Path, log: Path) -> None:
    rollout(THREES, Logged(log), config=MID_EPISODE, output=output)
