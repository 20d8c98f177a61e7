"""Tasks, sandbox and tools as an environment of TRL's GRPOTrainer (``environment_factory``).

``improve`` trains on episodes in this package's form (reinforcement.py). Here TRL itself generates, in the form of tool
calls that the model's chat template has, with a single tool, ``python``. The code calls the other tools, and gives the
answer with ``final_answer``, as that of our agents does. Not here: settings of the trainer, and TRL itself, which this
module does not import.

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


class Environment:
    """One rollout at a time: the task that it is about, the State of its code, and its answer."""

    def __init__(self, tasks: dict[str, Task], sandbox: Sandbox) -> None:
        self._tasks = tasks
        self._sandbox = sandbox

    def reset(self, *, task_id: str, **_: Any) -> None:
        """Begin a task. TRL gives the fields of a row of the data set."""
        self._task = self._tasks[task_id]
        self._state = self._sandbox.initial
        self._answer: str | None = None

    def get_reward(self) -> float | None:
        """The grade of the last answer, 0 without one. None if it cannot be decided."""
        return 0.0 if self._answer is None else grade(self._task, self._answer).score

    def _run(self, code: str) -> str:
        observation, self._state = self._sandbox.run(self._state, code)
        if observation.final_answer is not None:
            self._answer = observation.final_answer
        return what_it_did(observation)


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
    if unknown := [task.id for task in tasks if task.answer is None]:
        raise ValueError(f"task {unknown[0]!r} has no answer, so its rollouts have no reward")
    known = {task.id: task for task in tasks}
    sandbox = Sandbox(sandbox_tools(tools, tool_seconds), limits)

    class SandboxEnvironment(Environment):  # TRL reads the tools from the class, and the annotations of their arguments
        def python(self, code: str) -> str:
            return self._run(code)

    SandboxEnvironment.python.__doc__ = _PYTHON.format(_SECTION.sub(r"\1\2 -", describe_tools(tools)))
    return lambda: SandboxEnvironment(known, sandbox)


def rows(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """The rows of the trainer's data set: ``Dataset.from_list(rows(tasks))``."""
    return [{"prompt": [{"role": "user", "content": task.question}], "task_id": task.id} for task in tasks]


_PYTHON = """\
Run Python code. It returns what the code prints, the value of its last line, and its error. Variables stay defined for
the next call. The code can also call these functions:

{}

Args:
    code: The code to run.
"""

_SECTION = re.compile(r"^( *)(Args|Returns|Raises):", re.MULTILINE)
"""Headings in a tool's docstring that transformers would take for those of ``python``."""
