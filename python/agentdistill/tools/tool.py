"""The Tool class, and how a tool is described to the model.

The model sees a tool as a Python function with a docstring, because it calls tools in code. The sandbox makes the call.
Arguments and results must be representable as JSON. ``final_answer`` belongs to the sandbox, and is only described
here.

Not here: running a tool (the core), and tools of MCP servers (mcp.py).
"""

import ast
import inspect
import json
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from agentdistill._core import Bm25Index
from agentdistill.redaction import redacted, redacted_value

if TYPE_CHECKING:
    from agentdistill._core import SearchTool
    from agentdistill._core import _ActionFormat as ActionFormat
    from agentdistill.tools.retriever import Retriever

TOOL_SECONDS = 60.0
"""Time limit of a call of a Python tool. After that, the code that called it gets a ToolError."""

MAX_HANGING_CALLS = 64
"""A tool with this many calls that have exceeded their time limit and not returned is not called again."""


Functions = Mapping[str, "SearchTool | Callable[..., Any]"]
"""Tools by name, as ``Sandbox`` takes them."""


class Search(NamedTuple):
    """What ``web_search`` does: it finds passages, and shows them as text."""

    retriever: "Bm25Index | Retriever"
    k: int = 3
    """Passages returned unless a call says otherwise (paper: 3)."""

    def text(self, query: str, k: int | None = None, *, compat: "Literal['reference'] | None" = None) -> str:
        """The best passages for a query, as text for a model to read."""
        return self.retriever.search_text(query, self.k if k is None else k, compat=compat)

    @property
    def is_slow(self) -> bool:
        """Whether it may wait for anything, as an index never does."""
        return not isinstance(self.retriever, Bm25Index)


class Tool(NamedTuple):
    """A function that a model's code can call. Create one with ``web_search``, ``open_page`` or ``python_tool``."""

    name: str
    signature: str
    """In Python's syntax, without the name: ``(query: str) -> str``."""
    description: str
    """What it does and returns, for the model to read."""
    function: Search | Callable[..., Any]
    """What the sandbox calls: a search (of an index natively, without the GIL), or a callable that takes JSON
    values."""


def web_search(retriever: "Bm25Index | Retriever", k: int = 3, *, dense: bool = False) -> Tool:
    """The tool ``web_search(query)``: it returns the ``k`` best passages of ``retriever`` as text (paper: 3).

    ``dense``: the retriever searches by meaning, as the paper's does, and the model is told to write its queries for
    that. Raises ValueError for ``k`` < 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}: a search returns at least 1 passage")
    return WEB_SEARCH._replace(description=_DENSE if dense else _WEB_SEARCH, function=Search(retriever, k))


def python_tool(function: Callable[..., Any]) -> Tool:
    """Make a tool from a Python function. The model reads its signature and docstring.

    The function runs on the host. Its arguments and its result must be representable as JSON. An exception in it is a
    ToolError in the model's code. Raises ValueError for a function without a name or a docstring.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if not name.isidentifier():
        raise ValueError(f"a tool needs a valid name, not {name}: give a function defined with def")
    if not (description := inspect.getdoc(function)):
        raise ValueError(f"the tool {name} has no docstring: describe there what it does, for the model to read")
    return Tool(name, str(inspect.signature(function)), description, function)


def describe_tools(tools: Sequence[Tool], action_format: "ActionFormat" = "code") -> str:
    """Describe tools for the model's prompt, as Python signatures with docstrings, with ``final_answer`` last.

    For "tool_call" each tool is a line of JSON, as in chat templates, including a Python interpreter.

    >>> print(describe_tools([]))
    def final_answer(answer):
        \"\"\"Give the final answer to the question and end the work.\"\"\"
    """
    if action_format == "tool_call":
        return "\n".join(json.dumps(schema(tool), ensure_ascii=False) for tool in (*tools, _INTERPRETER))
    definitions = [_definition(tool.name, tool.signature, tool.description) for tool in (*tools, FINAL_ANSWER)]
    return "\n\n".join(definitions)


def sandbox_tools(
    tools: Sequence[Tool], seconds: float = TOOL_SECONDS, *, compat: "Literal['reference'] | None" = None
) -> Functions:
    """The tools as arguments of ``Sandbox``. A call of a Python tool that takes longer than ``seconds`` is abandoned.
    ``compat``: the format of the passages that a search returns.

    Raises ValueError for two tools with the same name, or one called ``final_answer``.
    """

    def callable_of(tool: Tool) -> "SearchTool | Callable[..., Any]":
        match tool.function:
            case Search(Bm25Index() as index, k):
                return index.tool(k, compat=compat)
            case Search() as search:
                return _Timed(tool._replace(function=partial(search.text, compat=compat)), seconds)
            case _:
                return _Timed(tool, seconds)

    named = {tool.name: callable_of(tool) for tool in tools}
    if len(named) < len(tools) or "final_answer" in named:
        raise ValueError(
            f"tools need different names, and none may be called final_answer: {[tool.name for tool in tools]}"
        )
    return named


def abandon(functions: Functions) -> None:
    """Wait no longer for calls of these, as :func:`sandbox_tools` made them, and have further ones fail at once."""
    for function in functions.values():
        if isinstance(function, _Timed):
            function.abandon()


def search_of(
    tools: Sequence[Tool], functions: Functions, *, compat: "Literal['reference'] | None" = None
) -> Callable[[str, int], str]:
    """The function behind ``web_search``: it maps a query and k to the best k passages, as text for a model to read.

    ``functions`` are the tools as :func:`sandbox_tools` made them. Raises ValueError if none of them is a search.
    """
    for tool in tools:
        if isinstance(tool.function, Search):
            timed: Any = functions[tool.name]
            return timed if tool.function.is_slow else partial(tool.function.text, compat=compat)
    raise ValueError("no tool searches for passages: give an index or a retriever")


def has_slow(tools: Sequence[Tool]) -> bool:
    """Whether any tool may have to wait; an index never does."""
    return any(not isinstance(tool.function, Search) or tool.function.is_slow for tool in tools)


class _Timed:
    """A tool with a time limit for calls. Python cannot stop a call that hangs; its thread is left behind."""

    def __init__(self, tool: Tool, seconds: float) -> None:
        self._tool = tool
        self._seconds = seconds
        self._under_way = set[Future[Any]]()
        self._hanging = set[Future[Any]]()
        self._abandoned = False

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if len(self._hanging) >= MAX_HANGING_CALLS:
            raise TimeoutError(f"{self._tool.name} hangs: {len(self._hanging)} calls have not returned")
        result: Future[Any] = Future()
        self._under_way.add(result)
        result.add_done_callback(self._under_way.discard)
        if self._abandoned:  # looked at when abandon can see the call
            self._under_way.discard(result)
            raise TimeoutError(f"{self._tool.name} was abandoned, because the run ended")
        threading.Thread(
            target=self._call, args=(result, args, kwargs), name=f"tool-{self._tool.name}", daemon=True
        ).start()
        try:
            return result.result(self._seconds)
        except TimeoutError:
            if result.done():  # the tool itself raised it
                raise
            self._hanging.add(result)
            result.add_done_callback(self._hanging.discard)
            raise TimeoutError(f"{self._tool.name} did not answer within {self._seconds:g} s") from None

    def abandon(self) -> None:
        self._abandoned = True
        for result in list(self._under_way):
            with suppress(InvalidStateError):
                result.set_exception(TimeoutError(f"{self._tool.name} was abandoned, because the run ended"))

    def _call(self, result: "Future[Any]", args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            answer = redacted_value(self._tool.function(*args, **kwargs))  # type: ignore[operator]  # not native
        except BaseException as error:
            shown = redacted(str(error))
            failed = error if shown == str(error) else RuntimeError(f"{type(error).__name__}: {shown}")
            with suppress(InvalidStateError):
                result.set_exception(failed)
        else:
            with suppress(InvalidStateError):  # the call was abandoned
                result.set_result(answer)


_WEB_SEARCH = """\
Search an encyclopaedia and return the passages that match best, each with its title.
Use a few key words and full names, not a whole question."""

_DENSE = """\
Search an encyclopaedia by meaning and return the passages that come closest, each with its title.
Write the query as a statement close to what you hope to read, with full names, not as a question."""

WEB_SEARCH = Tool("web_search", "(query: str) -> str", _WEB_SEARCH, str)
"""Its description in trajectories that other programs recorded."""

FINAL_ANSWER = Tool("final_answer", "(answer)", "Give the final answer to the question and end the work.", str)
"""The sandbox implements it."""

_INTERPRETER = Tool("python", "(code: str)", "Run Python and see what it prints. Variables stay.", str)
"""A call contains the code to run in the sandbox (rust/action/call.rs)."""

_JSON_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
}


def schema(tool: Tool) -> dict[str, Any]:
    """A tool as a function in OpenAI's protocol. Types that JSON does not have are left out."""
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
    return {"type": "function", "function": known}


def _definition(name: str, signature: str, description: str) -> str:
    return f"def {name}{signature}:\n" + textwrap.indent(f'"""{description}"""', "    ")
