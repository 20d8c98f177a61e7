"""MCP tools called by code: a real server like those of others, over both transports, and our own server."""

import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentdistill import AgentDistillError, Sandbox, Task, rollout
from agentdistill.models.model import Message
from agentdistill.models.scripted import ScriptedModel
from agentdistill.tools.tool import Tool, describe_tools, sandbox_tools
from slow_run import code

pytest.importorskip("mcp", reason="needs agentdistill[mcp]")
import mcp
from mcp.types import CallToolResult

from agentdistill.tools.json_schema import identifiers
from agentdistill.tools.mcp import _tool, mcp_tools

PEER = Path(__file__).parents[1] / "mcp_peer.py"
COMMAND = shlex.join([sys.executable, str(PEER)])
OURS = shlex.join([sys.executable, "-m", "agentdistill", "mcp"])
SECONDS = 1.0

SHOWN = '''def get_weather(town: str, days: int = 1, units: str | None = None) -> str:
    """The weather of a town.

    Args:
        town: Name of the town.
        units: metric or imperial."""

def route(start: str, mode: Literal['rail', 'road'] = 'rail', stops: list[str] | None = None) -> list[str]:
    """The way from a town."""

def total(numbers: list[float], start: float = 0.5) -> float:
    """The sum of numbers."""

def person(name: str) -> dict:
    """What is known of somebody."""

def picture() -> str:
    """A picture."""

def sleep(seconds: float) -> None:
    """Sleep."""'''


@pytest.fixture(scope="module")
def over_pipes() -> Iterator[tuple[Tool, ...]]:
    with mcp_tools([COMMAND], SECONDS) as tools:
        yield tools


@contextmanager
def http_server(port: int) -> Iterator[None]:
    with subprocess.Popen([sys.executable, str(PEER), str(port)]) as server:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield
        finally:
            server.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def over_http() -> Iterator[tuple[Tool, ...]]:
    port = free_port()
    with http_server(port), mcp_tools([f"http://127.0.0.1:{port}/mcp"], SECONDS) as tools:
        yield tools


@pytest.fixture(params=["over_pipes", "over_http"])
def tools(request: pytest.FixtureRequest) -> tuple[Tool, ...]:
    found: tuple[Tool, ...] = request.getfixturevalue(request.param)
    return found


def test_they_are_shown_as_python(tools: tuple[Tool, ...]) -> None:
    shown = describe_tools(tools)
    assert shown.startswith(SHOWN)
    compile(shown, "tools", "exec")


# A call -> its result.
CALLS = {
    "get_weather('Ulm')": "Ulm: 1 days of rain (metric)",
    "get_weather('Ulm', 2, 'imperial')": "Ulm: 2 days of rain (imperial)",
    "get_weather(town='Ulm', units=None)": "Ulm: 1 days of rain (metric)",
    "route('Ulm', stops=['Aalen'])": ["Ulm", "Aalen", "rail"],
    "route(start='Ulm', mode='road')": ["Ulm", "road"],
    "total([1, 2])": 3.5,
    "total(start=0, numbers=[])": 0.0,
    "person('Ada')": {"name": "Ada", "born": 1815, "works": ["Notes"]},
    "picture()": "here it is\n[image, which cannot be shown here]",
    "sleep(0)": None,
}

# A call -> the last line of its error.
WRONG = {
    "person('Nobody')": "RuntimeError: Error executing tool person: there is nobody of this name",
    "get_weather()": "TypeError: missing a required argument: 'town'",
    "get_weather('Ulm', day=1)": "TypeError: got an unexpected keyword argument 'day'",
    "total('many')": "RuntimeError",
    "sleep(60)": "timed out",
}


def test_code_calls_them(tools: tuple[Tool, ...]) -> None:
    sandbox = Sandbox(sandbox_tools(tools))
    for call, result in CALLS.items():
        observation, _ = sandbox.run(sandbox.initial, f"({call},)")
        assert observation.value == repr((result,)), observation.error
    for call, said in WRONG.items():
        observation, _ = sandbox.run(sandbox.initial, call)
        assert (observation.kind, said in str(observation.error)) == ("tool_error", True), observation.error


# JSON schemas of servers, and the signatures that they become.
SCHEMAS: list[tuple[dict[str, Any], str]] = [
    ({"type": "object"}, "() -> str"),
    ({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}, "(n: int) -> str"),
    ({"type": "object", "properties": None, "required": None}, "() -> str"),
    ({"properties": {"a": None}, "required": None}, "(a: Any = None) -> str"),
    ({"properties": {"a": {"type": None, "default": None}}, "required": ["a", "b"]}, "(a: Any) -> str"),
    (
        {"properties": {"from": {"type": "string"}, "max-n": True, "1st": {"type": ["integer", "null"]}}},
        "(from_: str = None, max_n: Any = None, _1st: int | None = None) -> str",
    ),
    (
        {"properties": {"a": {"type": "object", "default": {}}, "b": {"type": "array"}}, "required": ["b"]},
        "(b: list, a: dict = {}) -> str",
    ),
    (
        {"properties": {"a": {"$ref": "#/$defs/A"}, "b": {"enum": ["x", 1]}}, "required": ["a", "b"]},
        "(a: Any, b: Literal['x', 1]) -> str",
    ),
    # As pydantic writes an enumeration, one that may be None, and a model.
    (
        {"properties": {"a": {"$ref": "#/$defs/A", "default": "r"}}, "$defs": {"A": {"enum": ["r", "g"]}}},
        "(a: Literal['r', 'g'] = 'r') -> str",
    ),
    (
        {
            "properties": {"a": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}], "default": None}},
            "$defs": {"A": {"enum": ["r", "g"], "type": "string"}},
        },
        "(a: Literal['r', 'g'] | None = None) -> str",
    ),
    (
        {
            "properties": {"a": {"type": "array", "items": {"$ref": "#/definitions/A"}}},
            "definitions": {"A": {"type": "object", "properties": {"b": {"$ref": "#/definitions/A"}}}},
            "required": ["a"],
        },
        "(a: list[dict]) -> str",
    ),
    (
        {
            "$ref": "#/$defs/Args",
            "$defs": {"Args": {"properties": {"a": {"allOf": [{"$ref": "#/$defs/A"}]}}}, "A": {"type": "number"}},
        },
        "(a: float = None) -> str",
    ),
    ({"properties": {"a": {"$ref": "#/properties/a"}}}, "(a: Any = None) -> str"),
    (
        {"properties": {"a": {"type": "array", "items": {"$ref": "#/properties/a"}}}},
        f"(a: {'list[' * 7}list{']' * 7} = None) -> str",
    ),
    # Alternatives, null, and what other clients understand.
    (
        {"properties": {"a": {"oneOf": [{"type": "string"}, {"type": "integer"}, {"type": "string"}]}}},
        "(a: str | int = None) -> str",
    ),
    ({"properties": {"a": {"anyOf": [{"type": "string"}, {}]}}}, "(a: Any = None) -> str"),
    ({"properties": {"a": {"type": "integer", "nullable": True}}}, "(a: int | None = None) -> str"),
    (
        {"properties": {"a": {"type": ["array", "null"], "items": {"type": ["string", "null"]}}}},
        "(a: list[str | None] | None = None) -> str",
    ),
    (
        {"properties": {"a": {"type": "array", "items": {"enum": ["x", None]}}}},
        "(a: list[Literal['x', None]] = None) -> str",
    ),
    ({"properties": {"a": {"const": "x"}}, "required": ["a"]}, "(a: Literal['x']) -> str"),
    ({"properties": {"a": {"type": "array", "items": [{"type": "string"}]}}}, "(a: list = None) -> str"),
    # What says nothing, or is of a wrong type.
    *(
        ({"properties": {"a": nothing}}, "(a: Any = None) -> str")
        for nothing in ({"anyOf": []}, {"enum": []}, {"type": []}, {"type": "any"}, {"type": 5}, [], "string", False)
    ),
    *(({"properties": nothing}, "() -> str") for nothing in ([], 5, "a", False)),
    *(({"properties": {"a": {"type": "string"}}, "required": it}, "(a: str = None) -> str") for it in (True, "a", {})),
    ({"properties": {"a": {"type": "string", "description": None}}}, "(a: str = None) -> str"),
    # Names that are one in Python.
    (
        {"properties": {"a-b": {}, "a_b": {}, "\ufb01": {}, "": {}, "self": {}}},
        "(a_b: Any = None, a_b_2: Any = None, fi: Any = None, _: Any = None, self: Any = None) -> str",
    ),
]


TEXT = {"type": "text", "text": "t"}
RESULTS: list[tuple[dict[str, Any], Any, Any]] = [
    ({"content": [TEXT, TEXT]}, None, "t\nt"),
    ({"content": [TEXT], "structured_content": {"a": 1}}, None, "t"),
    ({"content": [], "structured_content": {"a": 1}}, None, {"a": 1}),
    ({"content": [TEXT], "structured_content": {"a": 1}}, {"type": "object"}, {"a": 1}),
    ({"content": [TEXT], "structured_content": {"result": 1}}, {"properties": {"result": None}}, 1),
    ({"content": [TEXT]}, {"properties": None}, "t"),
    ({"content": [{"type": "resource_link", "uri": "file:///a", "name": "a"}]}, None, "[file:///a]"),
    (
        {"content": [{"type": "image", "data": "", "mimeType": "image/png"}]},
        None,
        "[image, which cannot be shown here]",
    ),
]


@pytest.mark.parametrize(("result", "schema", "returned"), RESULTS)
def test_results_as_servers_write_them(result: dict[str, Any], schema: Any, returned: Any) -> None:
    remote = mcp.Tool(name="f", input_schema={"type": "object"}, output_schema=schema)
    assert _tool("f", remote, lambda name, arguments: CallToolResult(**result)).function() == returned


def test_a_failure_without_a_message() -> None:
    remote = mcp.Tool(name="f", input_schema={"type": "object"})
    tool = _tool("f", remote, lambda name, arguments: CallToolResult(content=[], is_error=True))
    with pytest.raises(RuntimeError, match="f failed without a message"):
        tool.function()


A, B = ({"properties": {name: {"type": "integer"}}, "required": [name]} for name in "ab")
SCHEMAS += [
    ({"type": "object", "allOf": [A, B]}, "(a: int, b: int) -> str"),
    ({"type": "object", "anyOf": [A, B]}, "(a: int = None, b: int = None) -> str"),
    ({"type": "object", "oneOf": [A | B, A]} | {"required": ["b"]}, "(b: int, a: int = None) -> str"),
    ({"oneOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": A}}, "(a: int) -> str"),
    ({"anyOf": [None, True, {"required": 5}]}, "() -> str"),
    ({"allOf": [{"$ref": "#"}]} | A, "(a: int) -> str"),
    ({"properties": {"a": {"type": "integer", "required": True}}}, "(a: int) -> str"),
]


@pytest.mark.parametrize(("schema", "signature"), SCHEMAS)
def test_schemas_become_signatures(schema: dict[str, Any], signature: str) -> None:
    tool = _tool("f", mcp.Tool(name="do.it", input_schema=schema), lambda name, arguments: CallToolResult(content=[]))
    assert (tool.signature, tool.description) == (signature, "do.it")
    compile(f"def f{signature}: pass", "", "exec")


def test_tools_of_servers_have_different_names() -> None:
    """Names that are one in Python, and those of two servers with the same tools."""
    assert identifiers(["do.it", "do-it", "do_it", "import", "1st"]) == [
        "do_it",
        "do_it_2",
        "do_it_3",
        "import_",
        "_1st",
    ]
    with mcp_tools([COMMAND, COMMAND]) as tools:
        sandbox = Sandbox(sandbox_tools(tools))
        observation, _ = sandbox.run(sandbox.initial, "total([1, 2]), total_2([3])")
        assert observation.value == "(3.5, 3.5)", observation.error


def test_arguments_are_sent_by_their_own_names() -> None:
    sent = []

    def ask(name: str, arguments: dict[str, Any]) -> CallToolResult:
        sent.append((name, arguments))
        return CallToolResult(content=[])

    schema = {"properties": {"from": {}, "n-th": {"default": 1}}}
    call: Any = _tool("do_it", mcp.Tool(name="do.it", input_schema=schema), ask).function
    assert call(from_="a", n_th=2) == call(None) == ""
    assert sent == [("do.it", {"from": "a", "n-th": 2}), ("do.it", {})]


def test_episodes_at_once_call_them(over_pipes: tuple[Tool, ...]) -> None:
    def policy(messages: Sequence[Message], prefix: str, index: int) -> str:
        return code(f"sleep(0.05)\nfinal_answer(total([{messages[1].content}], 0))")

    tasks = [Task(f"t{number}", str(number), f"{number}.0") for number in range(20)]
    assert all(done.score == 1 for done in rollout(tasks, ScriptedModel("m", policy), over_pipes, progress=False))


@pytest.mark.usefixtures("quick_retries")
def test_a_server_that_dies_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentdistill.tools.mcp.MAX_RESTARTS", 1)
    with mcp_tools([COMMAND]) as tools:
        sandbox = Sandbox(sandbox_tools(tools), threads=2)

        def run(*cells: str) -> list[str]:
            done = sandbox.run_many([(sandbox.initial, cell) for cell in cells])
            return [o.value or f"{o.kind}: {str(o.error).split('RuntimeError: ')[-1]}" for o, _ in done]

        died = "tool_error: the server of die died during the call, which may or may not have run"
        assert run("die('a', 2)", "die('b', 2)") == [died, died], "one death for all that wait"
        assert run("total([1, 2])", "total([3])") == ["3.5", "3.5"]
        assert run(f"look({str(tmp_path / 'mark')!r})") == ["'seen'"], "what only reads is asked again"
        assert len(caplog.records) == 2, "each death is said once"
        assert run("die('c')") == run("die('d')") == [died]
        assert "does not answer after 2 tries: Connection closed" in run("total([1, 2])")[0]
        assert len(caplog.records) == 3


@pytest.mark.usefixtures("quick_retries")
def test_a_server_that_does_not_know_its_session_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server was restarted, or dropped an idle session. It has not done anything, so the call is repeated."""
    monkeypatch.setattr(mcp, "Client", partial(mcp.Client, mode="legacy"))  # the protocol with sessions
    port = free_port()
    with ExitStack() as stack:
        with http_server(port):
            tools = stack.enter_context(mcp_tools([f"http://127.0.0.1:{port}/mcp"], SECONDS))
            total = next(tool.function for tool in tools if tool.name == "total")
            assert callable(total) and total([1, 2]) == 3.5
        with http_server(port):
            assert total([1, 3]) == 4.5
            assert total([1, 4]) == 5.5


def test_the_command_line_takes_several_servers_and_ours_is_one_too() -> None:
    command = [sys.executable, "-m", "agentdistill", "sandbox", "-", "--mcp", OURS, COMMAND]
    cell = "run_python('x = 41')\nrun_python('x + 1')['value'], total([1, 2])"
    done = subprocess.run(command, input=cell, capture_output=True, text=True, timeout=120)
    assert done.stdout == "('42', 3.5)\n", done.stderr


# What is not a server -> the error.
NONE = {
    "no-such-command": "no-such-command",
    f"{sys.executable} -c pass": r"MCP server 1 \(python[0-9.]*\) does not answer",
    "http://127.0.0.1:1/mcp": r"MCP server 1 \(http://127.0.0.1:1/mcp\) does not answer",
}


@pytest.mark.parametrize("server", NONE)
def test_a_server_that_is_none(server: str) -> None:
    with pytest.raises(AgentDistillError, match=NONE[server]), mcp_tools([server]):
        pass


def test_a_server_that_is_nothing() -> None:
    with pytest.raises(ValueError, match="a command or a URL"), mcp_tools([" "]):
        pass
