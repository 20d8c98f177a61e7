"""Adapters for smolagents: the sandbox as its Python executor, any of our models as its model, and a distilled student
as a complete ``CodeAgent``.

Not here: its ToolCallingAgent (students write code), managed agents in the student's prompt, images, streaming.
"""

import ast
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from smolagents import ChatMessage, CodeAgent, MessageRole
from smolagents import Model as SmolModel
from smolagents import Tool as SmolTool
from smolagents.local_python_executor import CodeOutput, InterpreterError, PythonExecutor
from smolagents.monitoring import TokenUsage
from smolagents.serialization import SafeSerializer

from agentdistill._core import Limits, Observation, Sandbox
from agentdistill.event_loop import run_blocking
from agentdistill.models.loading import load_model
from agentdistill.models.model import Message, Model, Sampling
from agentdistill.rollouts.prompt import load_prompt, opening, what_went_wrong
from agentdistill.tools.tool import TOOL_SECONDS, Tool, describe_tools, sandbox_tools


class SandboxExecutor(PythonExecutor):  # type: ignore[misc]  # smolagents has no types
    """Runs an agent's code in the sandbox: ``CodeAgent(..., executor=SandboxExecutor())``.

    Code runs on CPython, and its only access to the outside is the tools, which run in this process. It can import the
    standard library and ``Sandbox.packages``; ``additional_authorized_imports`` changes only the prompt. Arguments and
    results of tools and the final answer must be JSON values.
    """

    def __init__(self, limits: Limits | None = None, *, tool_seconds: float = TOOL_SECONDS) -> None:
        """``limits``: limits of each cell. ``tool_seconds``: time limit of one call of a tool or a managed agent."""
        self._limits = limits
        self._tool_seconds = tool_seconds
        self._tools: dict[str, Callable[..., Any]] = {}
        self._variables: dict[str, Any] = {}
        self.state = {"_print_outputs": ""}
        """Holds the last cell's output under the key from which CodeAgent reads it after a failed cell."""
        self._begin()

    def send_tools(self, tools: dict[str, SmolTool]) -> None:
        """Set the tools that code can call. If their names change, the State is reset, and only variables from
        ``send_variables`` are kept."""
        others = tools.keys() != self._tools.keys()
        self._tools = dict(tools)
        if others:
            self._begin()

    def send_variables(self, variables: dict[str, Any]) -> None:
        """Set variables for the code. Raises smolagents' SerializationError for values that cannot be serialized."""
        if variables:
            data = SafeSerializer.dumps(variables, allow_pickle=False)
            self._run(f"{SafeSerializer.get_deserializer_code(False)}\nglobals().update(_deserialize({data!r}))")
            self._variables |= variables

    def __call__(self, code_action: str) -> CodeOutput:
        """Run a cell. If it fails, raises InterpreterError with the text that the model should read."""
        observation = self._run(code_action)
        self.state["_print_outputs"] = observation.stdout
        if observation.kind == "final_answer":
            return CodeOutput(self._final_answer(observation), observation.stdout, True)
        if problem := what_went_wrong(observation):
            raise InterpreterError(problem)
        return CodeOutput(_object(observation.value), observation.stdout, False)

    def _begin(self) -> None:
        tools = [Tool(name, "", "", self._caller(name)) for name in self._tools if name != "final_answer"]
        self._sandbox = Sandbox(sandbox_tools(tools, self._tool_seconds), self._limits)
        self._state = self._sandbox.initial
        self.send_variables(self._variables)  # CodeAgent sends these before its tools

    def _caller(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._tools[name](*args, **kwargs)

    def _run(self, code: str) -> Observation:
        observation, self._state = self._sandbox.run(self._state, code)
        return observation

    def _final_answer(self, observation: Observation) -> Any:
        """The final answer, passed through the agent's ``final_answer`` tool if there is one."""
        answer: Any = observation.final_answer
        with contextlib.suppress(ValueError, RecursionError):  # a cell can forge the JSON
            answer = json.loads(observation.final_answer_json or "")
        return self._tools["final_answer"](answer) if "final_answer" in self._tools else answer


class AgentModel(SmolModel):  # type: ignore[misc]  # smolagents has no types
    """Makes one of our models, such as a distilled student, a model of smolagents."""

    def __init__(self, model: Model | str, sampling: Sampling | None = None) -> None:
        """``model``: a model, or a spec for ``load_model``. ``sampling``: greedy by default."""
        self._model = load_model(model) if isinstance(model, str) else model
        self._sampling = sampling or Sampling()
        super().__init__(model_id=self._model.name)

    def generate(
        self,
        messages: list[ChatMessage],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, str] | None = None,
        tools_to_call_from: list[SmolTool] | None = None,
        **sampling: Any,
    ) -> ChatMessage:
        """Generate the next message. ``sampling`` overrides fields of the model's ``Sampling``.

        Raises ModelError if the model fails. Raises ValueError for images, structured outputs and tool calls: the model
        reads text and writes code.
        """
        if response_format or tools_to_call_from:
            raise ValueError("the model writes code, as text: use CodeAgent, without structured outputs")
        how = replace(self._sampling, stop=tuple(stop_sequences or ()), **sampling)
        generation = run_blocking(self._model.generate(_conversation(messages), how))
        return ChatMessage(
            MessageRole.ASSISTANT,
            content=generation.completions[0].text,
            raw=generation,
            token_usage=TokenUsage(generation.prompt_tokens, generation.completion_tokens),
        )


def code_agent(model: Model | str, tools: Sequence[SmolTool] = (), **options: Any) -> CodeAgent:
    """Create a ``CodeAgent`` that runs a student in the sandbox. ``options`` are passed to ``CodeAgent``.

    The student gets the prompt and the code block tags that it was trained with. smolagents words the observations,
    in a form that the student did not see in training.
    """
    ours = {"executor": SandboxExecutor(), "code_block_tags": ("```py", "```<end_code>")}
    agent = CodeAgent(tools=list(tools), model=AgentModel(model), **ours | options)
    described = [tool.to_code_prompt() for name, tool in agent.tools.items() if name != "final_answer"]
    shown = "\n\n".join([*described, describe_tools([])])
    prompt = opening("", load_prompt("student_agent"), tools=shown, max_steps=agent.max_steps)[0].content
    agent.prompt_templates["system_prompt"] = f"{{% raw %}}{prompt}{{% endraw %}}\n\n{{{{custom_instructions or ''}}}}"
    return agent


def _conversation(messages: Sequence[ChatMessage | dict[str, Any]]) -> list[Message]:
    """Convert smolagents' messages to ours. Consecutive messages of one role are merged. Tool calls are left out,
    because the code in the preceding message contains them."""
    turns = []
    for message in messages:
        message = ChatMessage.from_dict(message) if isinstance(message, dict) else message
        if message.role != MessageRole.TOOL_CALL:
            role = "user" if message.role == MessageRole.TOOL_RESPONSE else MessageRole(message.role).value
            turns.append((role, _text(message.content)))
    return [Message(role, "\n".join(text for _, text in turn)) for role, turn in groupby(turns, lambda turn: turn[0])]


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if other := {part["type"] for part in content} - {"text"}:
        raise ValueError(f"the model reads text, not {other.pop()}")
    return "\n".join(part["text"] for part in content)


def _object(value: str | None) -> Any:
    """The value of a cell's last expression: the object if its repr is a literal, else the repr."""
    try:
        return ast.literal_eval(value or "None")
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return value
