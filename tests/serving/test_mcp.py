"""The MCP server from its clients' side: a process, called by the mcp package's own client."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentdistill import Bm25Index, Candidate, Limits, Sandbox
from agentdistill.rollouts.prompt import observation_message

mcp = pytest.importorskip("mcp", reason="needs agentdistill[mcp]")

PASSAGES = [
    ("1", "Paris", "Paris is the capital of France."),
    ("2", "Rome", "Rome is the capital of Italy."),
    ("3", "Tiber", "The Tiber flows through Rome."),
]


@asynccontextmanager
async def connected(*arguments: object) -> AsyncIterator[Any]:
    command = ["-m", "agentdistill", "mcp", *map(str, arguments)]
    server = mcp.StdioServerParameters(command=sys.executable, args=command)
    async with mcp.Client(mcp.stdio_client(server)) as client:
        yield client


async def run(client: Any, code: str, **arguments: object) -> Any:
    return await client.call_tool("run_python", {"code": code, **arguments})


async def test_the_tools_are_described() -> None:
    async with connected("--seconds", 1.5, "--memory-mb", 64) as client:
        assert client.server_info.name == "agentdistill"
        (tool,) = (await client.list_tools()).tools
    assert tool.name == "run_python"
    assert "1.5 s and 64 MB" in tool.description and "sympy" in tool.description
    assert "web_search" not in tool.description
    assert tool.input_schema["required"] == ["code"]
    assert tool.input_schema["properties"].keys() == {"code", "from_step"}
    assert {"step", "kind", "stdout", "value", "error"} <= tool.output_schema["properties"].keys()


# Cells of one session: the code, other arguments, and what the structured result must contain.
CELLS: list[tuple[str, dict[str, object], dict[str, object]]] = [
    ("x = 41\nprint('hello')\nx", {}, {"step": 1, "kind": "value", "stdout": "hello\n", "value": "41", "error": None}),
    ("x += 1\nx", {}, {"step": 2, "value": "42"}),
    ("x", {"from_step": 1}, {"step": 3, "value": "41"}),
    ("1 / 0", {}, {"step": 4, "kind": "exception", "error_type": "ZeroDivisionError", "value": None}),
    ("while True: x += 1", {}, {"step": 5, "kind": "timeout", "error_type": "TimeoutError"}),
    ("x > 41", {}, {"step": 6, "value": "True"}),
    ("'a' * (1 << 30)", {}, {"step": 7, "kind": "out_of_memory"}),
    ("try:\n    while True: pass\nexcept BaseException:\n    while True: pass", {}, {"step": 8, "kind": "killed"}),
    ("x", {"from_step": 2}, {"step": 9, "value": "42"}),
    ("x", {"from_step": 0}, {"step": 10, "kind": "exception", "error_type": "NameError"}),
    ("'\\ud800'", {}, {"step": 11, "kind": "value", "value": "'\\ud800'"}),
    ("[1, 2]", {}, {"step": 12, "value": "[1, 2]"}),
    ("final_answer(7)", {}, {"step": 13, "kind": "final_answer", "final_answer": "7"}),
    ("import sys; sys.exit(3)", {}, {"step": 14, "kind": "exception", "error_type": "SystemExit"}),
    ("", {}, {"step": 15, "kind": "value", "stdout": "", "value": None}),
]


async def test_a_session_is_cells_that_share_their_state() -> None:
    async with connected("--seconds", 1, "--memory-mb", 64) as client:
        for code, arguments, expected in CELLS:
            result = await run(client, code, **arguments)
            structured = result.structured_content
            assert {name: structured[name] for name in expected} == expected, code
            assert result.is_error == (structured["kind"] not in ("value", "final_answer")), code
            (text,) = [content.text for content in result.content]
            assert text.startswith(f"Step {structured['step']}:\n"), code


async def test_a_result_reads_as_agents_read_it() -> None:
    sandbox = Sandbox(limits=Limits(seconds=1))
    async with connected("--seconds", 1) as client:
        for code in ("print(1)\n'a\\nb'", "1 / 0", "x = 1", "while True: pass"):
            result = await run(client, code, from_step=0)
            observation, _ = sandbox.run(sandbox.initial, code)
            said = observation_message(Candidate(code, observation=observation)).removeprefix("Observation:\n")
            assert result.content[0].text.partition("\n")[2] == said


WRONG = [
    ("run_python", {"code": "1", "from_step": 5}, "no step 5"),
    ("run_python", {"code": "1", "from_step": "x"}, "from_step"),
    ("run_python", {}, "code"),
    ("nothing", {}, "nothing"),
    ("web_search", {"query": "Rome", "k": 0}, "k"),
]


async def test_a_wrong_call_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    Bm25Index.build(PASSAGES, tmp_path / "index")
    async with connected("--index", tmp_path / "index") as client:
        for tool, arguments, said in WRONG:
            result = await client.call_tool(tool, arguments)
            assert result.is_error and said in result.content[0].text
        assert (await run(client, "1 + 1")).structured_content["step"] == 1


async def test_search_is_a_tool_and_is_in_the_cells(tmp_path: Path) -> None:
    Bm25Index.build(PASSAGES, tmp_path / "index")
    async with connected("--index", tmp_path / "index") as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["run_python", "web_search"]
        found = await client.call_tool("web_search", {"query": "Rome", "k": 1})
        assert found.content[0].text in (
            "[1] Rome\nRome is the capital of Italy.",
            "[1] Tiber\nThe Tiber flows through Rome.",
        )
        result = await run(client, "print(web_search('Rome', 1), end='')")
        assert result.structured_content["stdout"] == found.content[0].text
        assert (await client.call_tool("web_search", {"query": "Paris?"})).content[0].text.startswith("[1] Paris\n")
        assert "No passage" in (await client.call_tool("web_search", {"query": "xyzzy"})).content[0].text


async def test_calls_at_once_are_cells_one_after_another() -> None:
    async with connected() as client:
        await run(client, "x = 0")
        results = await asyncio.gather(*(run(client, "x += 1\nx") for _ in range(8)))
        assert sorted(result.structured_content["value"] for result in results) == list("12345678")
