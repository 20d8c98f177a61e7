"""What a model's code can call besides Python: tools, and how they are described to the model.

A tool is shown as a Python function with its docstring, since code is how it will be called. The sandbox carries the
call out; what a tool may take and give is whatever JSON can say. ``final_answer`` is the sandbox's own, and is only
described here.

Not here: running a tool (the core), and MCP servers.
"""

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from agentdistill._core import Bm25Index

if TYPE_CHECKING:
    from agentdistill.http_retriever import HttpRetriever


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


def describe_tools(tools: Sequence[Tool]) -> str:
    """The tools as the model's prompt shows them: Python signatures with docstrings, ``final_answer`` last.

    >>> print(describe_tools([]))
    def final_answer(answer):
        \"\"\"Give the final answer to the question and end the work.\"\"\"
    """
    definitions = [_definition(tool.name, tool.signature, tool.description) for tool in tools]
    return "\n\n".join([*definitions, _definition("final_answer", "(answer)", _FINAL_ANSWER)])


def sandbox_tools(tools: Sequence[Tool]) -> Mapping[str, Bm25Index | Callable[..., Any]]:
    """The same tools as ``Sandbox`` takes them.

    Raises ValueError for two of one name, or one that hides ``final_answer``.
    """
    named = {tool.name: tool.function for tool in tools}
    if len(named) < len(tools) or "final_answer" in named:
        raise ValueError(f"tools must have different names, none of them final_answer: {[tool.name for tool in tools]}")
    return named


_WEB_SEARCH = """\
Search an encyclopaedia and return the passages that match best, each with its title.
Use a few key words and full names, not a whole question."""

_FINAL_ANSWER = "Give the final answer to the question and end the work."


def _definition(name: str, signature: str, description: str) -> str:
    return f"def {name}{signature}:\n" + textwrap.indent(f'"""{description}"""', "    ")
