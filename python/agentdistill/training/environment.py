"""Tasks, sandbox and tools as an environment for the trainers of others: an episode, and TRL's ``environment_factory``.

``improve`` trains on episodes in this package's form (reinforcement.py). Here another program generates, and runs code.
The code calls the tools, and gives the answer with ``final_answer``, as that of our agents does. For TRL, running code
is a tool, ``python``, that the model calls in the form of its chat template. Not here: settings of TRL's trainer, TRL
itself, which this module does not import, and the environment over HTTP (serving/environment_server.py).

Source: https://huggingface.co/docs/trl/grpo_trainer (environments), TRL 1.16
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from agentdistill._core import Limits, Sandbox
from agentdistill.grading.grade import grade
from agentdistill.rollouts.prompt import what_it_did
from agentdistill.tasks.task import Task
from agentdistill.tools.tool import TOOL_SECONDS, Tool, describe_tools, sandbox_tools


class Episode:
    """A task, the State of the code that solves it, and the last answer."""

    def __init__(self, task: Task, sandbox: Sandbox) -> None:
        self.task = task
        self.answer: str | None = None
        self._sandbox = sandbox
        self._state = sandbox.initial

    def run(self, code: str) -> str:
        """Run code after the earlier code, and say what it did."""
        observation, self._state = self._sandbox.run(self._state, code)
        if observation.final_answer is not None:
            self.answer = observation.final_answer
        return what_it_did(observation)

    def reward(self) -> float | None:
        """The grade of the last answer, 0 without one. None if it cannot be decided."""
        return 0.0 if self.answer is None else grade(self.task, self.answer).score


def with_rewards(tasks: Sequence[Task]) -> dict[str, Task]:
    """The tasks by id. Raises ValueError for a task without an answer, because it has no reward."""
    if unknown := [task.id for task in tasks if task.answer is None]:
        raise ValueError(f"task {unknown[0]!r} has no answer, so its rollouts have no reward")
    return {task.id: task for task in tasks}


def describe_python(tools: Sequence[Tool]) -> str:
    """Describe to a model the code that it can run."""
    return _PYTHON.format(describe_tools(tools))


class Environment:
    """One rollout at a time."""

    def __init__(self, tasks: dict[str, Task], sandbox: Sandbox) -> None:
        self._tasks = tasks
        self._sandbox = sandbox

    def reset(self, *, task_id: str, **_: Any) -> None:
        """Begin a task. TRL gives the fields of a row of the data set."""
        self._episode = Episode(self._tasks[task_id], self._sandbox)

    def get_reward(self) -> float | None:
        """The reward of the episode so far."""
        return self._episode.reward()


def environment(
    tasks: Sequence[Task],
    tools: Sequence[Tool] = (),
    *,
    limits: Limits | None = None,
    tool_seconds: float = TOOL_SECONDS,
) -> Callable[[], Environment]:
    """The ``environment_factory`` for ``tasks``. ``tools`` are what the code can call besides ``final_answer``;
    ``limits`` are those of each cell.

    Raises ValueError for a task without an answer, because it has no reward, and for tools with the same name.
    """
    known = with_rewards(tasks)
    sandbox = Sandbox(sandbox_tools(tools, tool_seconds), limits)

    class SandboxEnvironment(Environment):  # TRL reads the tools from the class, and the annotations of their arguments
        def python(self, code: str) -> str:
            return self._episode.run(code)

    described = _SECTION.sub(r"\1\2 -", describe_python(tools))
    SandboxEnvironment.python.__doc__ = f"{described}\n\nArgs:\n    code: The code to run.\n"
    return lambda: SandboxEnvironment(known, sandbox)


def rows(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """The rows of the trainer's data set: ``Dataset.from_list(rows(tasks))``."""
    return [{"prompt": [{"role": "user", "content": task.question}], "task_id": task.id} for task in tasks]


_PYTHON = """\
Run Python code. It returns what the code prints, the value of its last line, and its error. Variables stay defined for
the next call. The code can also call these functions:

{}"""

_SECTION = re.compile(r"^( *)(Args|Returns|Raises):", re.MULTILINE)
"""Headings in a tool's docstring that transformers would take for those of ``python``."""
