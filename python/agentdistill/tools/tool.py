"""What a model's code can call besides Python: tools, and how they are described to the model.

A tool is shown as a Python function with its docstring, since code is how it will be called. The sandbox carries the
call out; what a tool may take and give is whatever JSON can say. ``final_answer`` is the sandbox's own, and is only
described here.

Not here: running a tool (the core), and others' tools (mcp.py).
"""

import ast
import inspect
import json
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from agentdistill._core import Bm25Index

if TYPE_CHECKING:
    from agentdistill._core import _ActionFormat as ActionFormat
    from agentdistill.tools.http_retriever import HttpRetriever

TOOL_SECONDS = 60.0
"""Time that one call of a tool in Python may take; then the code that called it gets a ToolError, and goes on."""

MOST_STUCK = 64
"""A tool with so many calls that have not come back, though their time is over, is not called again."""


class Tool(NamedTuple):
    """A function that a model's code can call."""

    name: str
    signature: str
    """As Python has it, from the parenthesis on: ``(query: str) -> str``."""
    description: str
    """What it does and gives back, for the model to read."""
    function: Bm25Index | Callable[..., Any]
    """What the sandbox calls: an index (natively, without the GIL), or a callable of JSON-able arguments."""


def web_search(retriever: "Bm25Index | HttpRetriever") -> Tool:
    """The paper's only tool for facts: a search of an encyclopaedia that returns the best passages (paper: top 3)."""
    function = retriever if isinstance(retriever, Bm25Index) else retriever.search_text
    return Tool("web_search", "(query: str) -> str", _WEB_SEARCH, function)


def python_tool(function: Callable[..., Any]) -> Tool:
    """A Python function as a tool, described by its own signature and docstring.

    Raises ValueError for one without a name or a docstring.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if not name.isidentifier():
        raise ValueError(f"a tool needs a name to be called by, and {name} is none: give a function made with def")
    if not (description := inspect.getdoc(function)):
        raise ValueError(f"the tool {name} has no docstring: say there what it does, for the model to read")
    return Tool(name, str(inspect.signature(function)), description, function)


def describe_tools(tools: Sequence[Tool], action_format: "ActionFormat" = "code") -> str:
    """The tools as the model's prompt shows them: Python signatures with docstrings, ``final_answer`` last. For
    "tool_call", a line of JSON each, as chat templates show functions, with an interpreter of Python among them.

    >>> print(describe_tools([]))
    def final_answer(answer):
        \"\"\"Give the final answer to the question and end the work.\"\"\"
    """
    if action_format == "tool_call":
        return "\n".join(map(_schema, [*tools, _INTERPRETER]))
    definitions = [_definition(tool.name, tool.signature, tool.description) for tool in tools]
    return "\n\n".join([*definitions, _definition("final_answer", "(answer)", _FINAL_ANSWER)])


def sandbox_tools(tools: Sequence[Tool], seconds: float = TOOL_SECONDS) -> Mapping[str, Bm25Index | Callable[..., Any]]:
    """The same tools as ``Sandbox`` takes them; a call of one in Python that takes longer than ``seconds`` is given up.

    Raises ValueError for two of one name, or one that hides ``final_answer``.
    """
    named = {
        tool.name: tool.function if isinstance(tool.function, Bm25Index) else _Timed(tool, seconds) for tool in tools
    }
    if len(named) < len(tools) or "final_answer" in named:
        raise ValueError(f"tools must have different names, none of them final_answer: {[tool.name for tool in tools]}")
    return named


def search_of(tools: Sequence[Tool]) -> Callable[[str, int], str]:
    """What ``web_search`` does, by itself: a query and k to the best k passages, as text for a model to read.

    Raises ValueError where it is not among the tools.
    """
    for tool in tools:
        if tool.name == "web_search":
            return tool.function.search_text if isinstance(tool.function, Bm25Index) else tool.function
    raise ValueError("there is nothing to search for passages: give an index, or a retriever")


def has_slow(tools: Sequence[Tool]) -> bool:
    """Whether some of them may wait for anything, as an index never does."""
    return not all(isinstance(tool.function, Bm25Index) for tool in tools)


class _Timed:
    """A tool whose calls end in time. What is stuck cannot be stopped, in Python: it is left to its thread."""

    def __init__(self, tool: Tool, seconds: float) -> None:
        self._tool = tool
        self._seconds = seconds
        self._stuck = set[Future[Any]]()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(self._stuck) >= MOST_STUCK:
            raise TimeoutError(f"{self._tool.name} hangs: {len(self._stuck)} calls have not come back")
        result: Future[Any] = Future()
        threading.Thread(
            target=self._call, args=(result, args, kwargs), name=f"tool-{self._tool.name}", daemon=True
        ).start()
        try:
            return result.result(self._seconds)
        except TimeoutError:
            if result.done():  # the tool's own
                raise
            self._stuck.add(result)
            result.add_done_callback(self._stuck.discard)
            raise TimeoutError(f"{self._tool.name} did not answer within {self._seconds:g} s") from None

    def _call(self, result: "Future[Any]", args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            result.set_result(self._tool.function(*args, **kwargs))  # type: ignore[operator]  # not native
        except BaseException as error:
            result.set_exception(error)


_WEB_SEARCH = """\
Search an encyclopaedia and return the passages that match best, each with its title.
Use a few key words and full names, not a whole question."""

_FINAL_ANSWER = "Give the final answer to the question and end the work."

_INTERPRETER = Tool("python", "(code: str)", "Run Python and see what it prints. Variables stay.", str)
"""Calls of it are the code itself, and run in the sandbox (rust/action/call.rs)."""

_JSON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
}


def _schema(tool: Tool) -> str:
    """A tool as a function of OpenAI's protocol. A type that JSON has no word for is left out."""
    function: Any = ast.parse(f"def f{tool.signature}: ...").body[0]
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    with_default = len(function.args.defaults) + sum(default is not None for default in function.args.kw_defaults)
    properties = {}
    for argument in arguments:
        of = ast.unparse(argument.annotation).partition("[")[0] if argument.annotation else ""
        properties[argument.arg] = {"type": _JSON_TYPES[of]} if of in _JSON_TYPES else {}
    required = [argument.arg for argument in arguments[: len(arguments) - with_default]]
    parameters = {"type": "object", "properties": properties, "required": required}
    known = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return json.dumps({"type": "function", "function": known}, ensure_ascii=False)


def _definition(name: str, signature: str, description: str) -> str:
    return f"def {name}{signature}:\n" + textwrap.indent(f'"""{description}"""', "    ")
