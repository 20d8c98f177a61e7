"""Secrets in addresses, commands and the environment do not appear in output or files."""

import json
import logging
import sys
from pathlib import Path

import pytest

from agentdistill import AgentDistillError, HttpRetriever, RetrievalError, Sandbox, Task, rollout
from agentdistill.cli.commands import main
from agentdistill.models.loading import load_model
from agentdistill.models.scripted import ScriptedModel
from agentdistill.redaction import hide, public_command, public_url, redacted
from agentdistill.tools.tool import python_tool, sandbox_tools, web_search
from scripted_server import Answer, Handler, cut, hang_up, raw, serving, status

URLS = {
    "http://user:hunter2@h:80/retrieve": "http://h:80/retrieve",
    "http://hunter2@h/": "http://h/",
    "https://u:hunter%32@[::1]:8/x": "https://[::1]:8/x",
    "http://h/x?api_key=hunter2&b=1": "http://h/x",
    "http://h/mcp/hunter2hunter2hunter2": "http://h/mcp/***",
    "http://u:p@hunter2:x": "an invalid URL",
}


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_known_by_its_host(url: str) -> None:
    assert public_url(url) == URLS[url]
    if URLS[url].startswith("http"):
        assert "hunter" not in redacted(f"GET {url} failed")


COMMANDS = [
    "npx -y server --token hunter2",
    "env API_KEY=hunter2 server",
    "server --api-key=hunter2",
    "server --header Authorization:Bearer\\ hunter2",
    "server postgres://u:hunter2@h/db",
    "DB_PASSWORD=hunter2 server",
    "/opt/hunter22hunter22hunter22/server",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_known_by_its_program(command: str) -> None:
    assert "hunter" not in public_command(command.replace("\\ ", " ").split(" "))


def echo(handler: Handler, request: dict[str, str]) -> None:
    """A server that says what it was sent."""
    handler.send(403, json.dumps({"error": f"no {request['key']} and hunter2"}))


@pytest.mark.parametrize("answer", [status(403, "hunter2 is wrong"), echo, cut, hang_up, raw("hunter2")])
@pytest.mark.usefixtures("quick_retries")
def test_a_retriever_s_password_stays_here(
    answer: Answer, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(answer) as server:
        url = f"http://user:hunter2@127.0.0.1:{server.server_port}"
        retriever = HttpRetriever(url, retries=1)
        with pytest.raises(RetrievalError) as raised:
            retriever.search("x")
        sandbox = Sandbox(sandbox_tools([web_search(retriever)]))
        cell = "try:\n    web_search('a')\nexcept ToolError as e: print(e)"
        seen = sandbox.run(sandbox.initial, cell)[0].stdout
        with pytest.raises(SystemExit):
            main(["ask", "q", "--model", "recorded:none", "--retriever", url])
    written = capsys.readouterr()
    for text in (str(raised.value), seen, caplog.text, written.out, written.err):
        assert "hunter2" not in text
        assert "dXNlcjpodW50ZXIy" not in text  # in base64
    assert server.requests[0]["key"] == "Basic dXNlcjpodW50ZXIy"


def test_what_a_tool_says_has_no_secrets(tmp_path: Path) -> None:
    hide("hunter2")

    def told(how: str) -> list[str]:
        """Say it."""
        if how == "raise":
            raise OSError("the password is hunter2")
        return ["it is hunter2"]

    policy = "Thought: x\nCode:\n```py\nprint(told('{}'))\n```<end_code>"
    model = ScriptedModel("m", lambda messages, *_: policy.format("raise" if len(messages) % 4 else "say"))
    rollout([Task("1", "q", "1")], model, [python_tool(told)], output=tmp_path / "t.jsonl", progress=False)
    recorded = (tmp_path / "t.jsonl").read_text()
    assert "hunter2" not in recorded
    assert "the password is ***" in recorded and "it is ***" in recorded


@pytest.mark.usefixtures("quick_retries")
def test_a_model_s_password_stays_here() -> None:
    with serving(status(403, "no hunter2")) as server:
        model = f"openai:http://user:hunter2@127.0.0.1:{server.server_port}/v1:m"
        assert load_model(model).name == "m"
        with pytest.raises(AgentDistillError, match="rejects the API key") as raised:
            rollout([Task("1", "q", "1")], model, progress=False)
    assert "hunter2" not in str(raised.value)
    with pytest.raises(ValueError, match="no model") as raised:
        load_model("openai:http://user:hunter2@127.0.0.1/v1")
    assert "hunter2" not in str(raised.value)


def test_a_recipe_shows_no_secrets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tasks.jsonl").write_text('{"id": "1", "question": "q", "answer": "1"}\n')
    (tmp_path / "r.toml").write_text(
        f'[generate]\ntasks = "{tmp_path}/tasks.jsonl"\nmodel = "openai:http://h/v1:m"\n'
        f'retriever = "http://user:hunter2@h"\noutput = "{tmp_path}/o.jsonl"\n'
    )
    main(["run", str(tmp_path / "r.toml"), "--dry-run"])
    assert "hunter2" not in capsys.readouterr().out


def test_an_mcp_command_s_token_stays_here(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="needs agentdistill[mcp]")
    from agentdistill.tools.mcp import mcp_tools

    server = tmp_path / "server.py"
    server.write_text(
        "import os, sys\nfrom mcp.server import MCPServer\ns = MCPServer('x')\n"
        "def say(how: str) -> str:\n    'Say.'\n    assert how == 'say', sys.argv\n    return str(sys.argv)\n"
        "s.add_tool(say); s.run()\n"
    )
    with mcp_tools([f"{sys.executable} {server} --token hunter2"]) as tools:
        sandbox = Sandbox(sandbox_tools(tools))
        cell = "print(say('say'))\ntry:\n    say('raise')\nexcept ToolError as e: print(e)"
        seen = sandbox.run(sandbox.initial, cell)[0].stdout
    assert "--token', '***'" in seen and "hunter2" not in seen
    for wrong in (f"{sys.executable} -c pass --token hunter2", "no-such-program --token hunter2", "TOKEN=hunter2 x"):
        with pytest.raises(AgentDistillError, match="MCP server 1") as raised, mcp_tools([wrong]):
            pass
        assert "hunter2" not in str(raised.value)
