"""``agentdistill mcp``: the sandbox and search as tools for any client of the Model Context Protocol (MCP).

The server uses standard input and output, so each process serves one client and one session. Cells run one after
another. Each result gives its step number, and a call may continue from any earlier step. A failed cell is also
returned as a result.

Not here: serving several clients over HTTP.
"""

import threading
from typing import Annotated, Any, TypedDict

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import Field

from agentdistill._core import AgentDistillError, Limits, Observation, Sandbox, __version__
from agentdistill.rollouts.prompt import IMPORTS, what_it_did
from agentdistill.rollouts.session import Session
from agentdistill.tools.tool import Search, Tool, sandbox_tools

_RUN_PYTHON = """\
Run Python in a sandbox and return what it prints and the value of its last expression.
Variables persist between calls. A call is limited to {seconds:g} s and {memory_mb} MB.
There are no files and no network.
Each result has a step number. To discard later steps, pass from_step to continue from an earlier one.
Available imports: {imports}."""

_SEARCH_TOO = "\nThe code can also call web_search(query, k)."


class CellResult(TypedDict):
    """The result of running code."""

    step: Annotated[int, Field(description="Number of this step; pass it as from_step.")]
    kind: Annotated[
        str, Field(description="value, final_answer, exception, timeout, out_of_memory, tool_error or killed.")
    ]
    stdout: str
    value: Annotated[str | None, Field(description="repr of the last expression.")]
    final_answer: str | None
    error_type: Annotated[str | None, Field(description="Name of the exception.")]
    error: Annotated[str | None, Field(description="The traceback.")]


def make_server(limits: Limits, web_search: Tool | None = None) -> MCPServer[Any]:
    """Create a server with the tool ``run_python`` and, if given, ``web_search``.

    Its ``run()`` serves standard input and output until the client disconnects.
    """
    server = MCPServer[Any]("agentdistill", version=__version__, log_level="WARNING")
    tools = [] if web_search is None else [web_search]
    session, turn = Session(Sandbox(sandbox_tools(tools), limits)), threading.Lock()

    def run_python(
        code: Annotated[str, Field(description="Python code, one line or more.")],
        from_step: Annotated[
            int | None,
            Field(description="Continue from the State after this step. Default: the last step; 0: an empty State."),
        ] = None,
    ) -> Annotated[CallToolResult, CellResult]:
        try:
            with turn:
                return _result(session.run(code, from_step), session.step)
        except (AgentDistillError, ValueError) as error:
            raise ToolError(str(error)) from error

    description = _RUN_PYTHON.format(seconds=limits.seconds, memory_mb=limits.memory_mb, imports=IMPORTS)
    server.add_tool(
        run_python,
        description=description + (_SEARCH_TOO if tools else ""),
        annotations=ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False),
    )
    if web_search is not None and isinstance(web_search.function, Search):
        found = web_search.function

        def search(
            query: str, k: Annotated[int, Field(ge=1, le=100, description="Number of passages.")] = found.k
        ) -> str:
            return found.text(query, k)

        server.add_tool(
            search,
            name=web_search.name,
            description=web_search.description,
            annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
        )
    return server


def _result(observation: Observation, step: int) -> CallToolResult:
    result = CellResult(
        step=step,
        kind=observation.kind,
        stdout=observation.stdout,
        value=observation.value,
        final_answer=observation.final_answer,
        error_type=observation.error_type,
        error=observation.error,
    )
    return CallToolResult(
        content=[TextContent(text=f"Step {step}:\n{what_it_did(observation)}")],
        structured_content=dict(result),
        is_error=observation.kind not in ("value", "final_answer"),
    )
