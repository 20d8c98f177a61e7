"""Use the tools of MCP servers: each tool becomes a Python function.

A server is a command, which communicates over standard input and output, or a URL. Not here: our own server
(serving/mcp_server.py). Not supported: resources, prompts, elicitation, and authentication.
"""

import inspect
import os
import re
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import mcp
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp.types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    CallToolResult,
    EmbeddedResource,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from agentdistill._core import AgentDistillError
from agentdistill.redaction import hide_in_environment, public_command, public_url, redacted
from agentdistill.retry import Retries
from agentdistill.tools import json_schema
from agentdistill.tools.tool import TOOL_SECONDS, Tool

START_SECONDS = 60.0
"""Time limit for the first response of a server; some are downloaded when they start."""

MAX_RESTARTS = 8
"""Attempts to restart or reconnect to a server that died, until it answers a call. The pauses add up to 90 seconds."""


@contextmanager
def mcp_tools(servers: Sequence[str], seconds: float = TOOL_SECONDS) -> Iterator[tuple[Tool, ...]]:
    """The tools of ``servers`` (commands and URLs). They can be called from any thread until the context exits.

    ``seconds`` is the time limit of a call. A command inherits the environment and the standard error of this process.
    A server that dies is restarted by the next call. Raises AgentDistillError if a server does not answer, ValueError
    for an empty command.
    """
    with ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal(name="mcp-tools"))
        remote: list[tuple[mcp.Tool, Callable[[str, dict[str, Any]], CallToolResult]]] = []
        hide_in_environment(os.environ)
        for number, server in enumerate(servers, 1):
            address, name = _address(server)
            connection = _Server(f"MCP server {number} ({name})", address, portal, seconds)
            stack.callback(connection.close)
            try:
                listed = connection.listed()
            except Exception as error:
                cause = redacted(_cause(error))
                raise AgentDistillError(f"MCP server {number} ({name}) does not answer: {cause}") from None
            remote += [(tool, partial(connection.call, again=_may_be_repeated(tool))) for tool in listed]
        names = json_schema.identifiers(tool.name for tool, _ in remote)
        yield tuple(_tool(name, tool, ask) for name, (tool, ask) in zip(names, remote, strict=True))


class _Server:
    """A server that can be called from any thread. If it died, the next call restarts it or reconnects."""

    def __init__(
        self, name: str, address: str | mcp.StdioServerParameters, portal: BlockingPortal, seconds: float
    ) -> None:
        self._address = address
        self._portal = portal
        self._seconds = seconds
        self._retries = Retries(name, MAX_RESTARTS, RuntimeError)
        self._connection = ExitStack()
        self._client: mcp.Client | None = None
        self._lost = ""  # reason for having no client
        self._tries = 0  # attempts to reconnect since the last answered call
        self._changing = threading.Lock()  # held while connecting and disconnecting
        self._closed = threading.Event()
        self._process = os.getpid()

    def listed(self) -> list[mcp.Tool]:
        """Start the server for the first time, and list its tools."""
        self._client = self._connect()
        self._retries.answered()
        return self._portal.call(_listed, self._client)

    def call(self, name: str, arguments: dict[str, Any], *, again: bool) -> CallToolResult:
        """Call a tool. If the server dies, raise RuntimeError, or retry once if ``again``."""
        client = self._connected()
        try:
            call = partial(client.call_tool, read_timeout_seconds=self._seconds)
            result = self._portal.call(call, name, arguments)
        except Exception as error:
            code = error.code if isinstance(error, mcp.MCPError) else None
            # After a restart, or a long time without calls, the server does not know the session: nothing was done.
            forgotten = code == INVALID_REQUEST and "session" in str(error).lower()
            if code != CONNECTION_CLOSED and not forgotten and self._client is client:
                raise
            self._lose(client, _cause(error))
            if not forgotten and not again:
                raise RuntimeError(
                    f"the server of {name} died during the call, which may or may not have run"
                ) from error
            return self.call(name, arguments, again=again and forgotten)
        self._retries.answered()
        self._tries = 0
        return result

    def close(self) -> None:
        self._closed.set()  # ends waiting for a restart
        with self._changing:
            self._disconnect("no longer in use")

    def _connected(self) -> mcp.Client:
        if os.getpid() != self._process:
            raise RuntimeError("this is a forked child of the process that started the MCP server: start it here, too")
        with self._changing:
            while self._client is None:
                pause = self._retries.pause(self._tries, self._lost, unreachable=True)
                if self._closed.wait(pause):
                    raise RuntimeError(self._lost)
                self._tries += 1
                try:
                    self._client = self._connect()
                except Exception as error:
                    self._lost = _cause(error)
            return self._client

    def _connect(self) -> mcp.Client:
        client = mcp.Client(self._address, read_timeout_seconds=START_SECONDS)
        self._connection.enter_context(self._portal.wrap_async_context_manager(client))
        return client

    def _lose(self, client: mcp.Client, why: str) -> None:
        with self._changing:
            if self._client is client:  # the first of the running calls
                self._disconnect(why)

    def _disconnect(self, why: str) -> None:
        self._client, self._lost = None, why
        with suppress(Exception):  # closing the connection to a dead server fails
            self._connection.close()


def _may_be_repeated(tool: mcp.Tool) -> bool:
    """Whether the server marks the tool as safe to call twice."""
    hints = tool.annotations
    return bool(hints and (hints.read_only_hint or hints.idempotent_hint))


def _address(server: str) -> tuple[str | mcp.StdioServerParameters, str]:
    """The server's address, and its name in messages, without secrets."""
    if re.match("https?://", server):
        return server, public_url(server)
    try:
        words = shlex.split(server)
    except ValueError as error:
        raise ValueError(f"an MCP server's command cannot be read: {error}") from None
    if not words:
        raise ValueError("an MCP server is empty: give a command or a URL")
    return mcp.StdioServerParameters(command=words[0], args=words[1:], env=dict(os.environ)), public_command(words)


async def _listed(client: mcp.Client) -> list[mcp.Tool]:
    page = await client.list_tools()
    tools = page.tools
    while page.next_cursor:
        page = await client.list_tools(cursor=page.next_cursor)
        tools += page.tools
    return tools


def _cause(error: BaseException) -> str:
    """The first error; task groups raise all errors of their tasks as one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


def _tool(name: str, remote: mcp.Tool, ask: Callable[[str, dict[str, Any]], CallToolResult]) -> Tool:
    arguments = json_schema.arguments(remote.input_schema)
    known = {parameter.name: in_schema for in_schema, parameter, _ in arguments}
    output = remote.output_schema or {"type": "string"}
    result = output["properties"]["result"] if _is_wrapped(remote) else output
    returned = json_schema.annotation(result, output)
    signature = inspect.Signature([parameter for _, parameter, _ in arguments], return_annotation=returned)

    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        # Optional parameters are shown with the default None, which not every schema accepts as a value.
        sent = {
            known[name]: value
            for name, value in given.items()
            if value is not None or signature.parameters[name].default is not None
        }
        return _result(remote, ask(remote.name, sent))

    description = remote.description or remote.title or remote.name
    described = [f"    {parameter.name}: {text}" for _, parameter, text in arguments if text]
    if described:
        description = "\n".join([description.strip(), "", "Args:", *described])
    return Tool(name, str(signature), description, call)


def _is_wrapped(remote: mcp.Tool) -> bool:
    """Whether the result is not an object and is therefore wrapped in one with only the field "result"."""
    properties = (remote.output_schema or {}).get("properties")
    return isinstance(properties, dict) and list(properties) == ["result"]


def _result(remote: mcp.Tool, result: CallToolResult) -> Any:
    """The result for the code that made the call. Raises RuntimeError with the server's error message."""
    text = "\n".join(map(_text, result.content))
    if result.is_error:
        raise RuntimeError(text or f"{remote.name} failed without a message")
    content = result.structured_content
    if content is None or (text and not remote.output_schema):  # without a schema, a text was promised
        return text
    return content["result"] if _is_wrapped(remote) and "result" in content else content


def _text(block: Any) -> str:
    match block:
        case TextContent(text=text) | EmbeddedResource(resource=TextResourceContents(text=text)):
            return text
        case ResourceLink(uri=uri):
            return f"[{uri}]"
    return f"[{block.type}, which cannot be shown here]"
