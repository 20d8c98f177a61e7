"""Terminal control characters in untrusted text have no effect, in every command that prints such text."""

import ast
import json
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentdistill
from agentdistill import Bm25Index, Task, rollout
from agentdistill.models.scripted import ScriptedModel
from agentdistill.terminal import json_for_people, printable
from scripted_server import serving, status

HOSTILE = "\x1b]0;pwned\x07\x9b31m\u202eevil\u2066\u2028\x85"
SHOWN = "\\x1b]0;pwned\\x07\\x9b31m\\u202eevil\\u2066\\u2028\\x85"
FORBIDDEN = {*map(chr, (*range(9), *range(11, 32), *range(127, 160))), *"\u202e\u2066\u2028"}


def on_a_terminal(*arguments: str, typed: bytes = b"", cwd: Path | None = None) -> str:
    """What a command writes to a terminal, stdout and stderr together, with the terminal's line ends normalized.
    ``typed`` is sent over a pipe, since a terminal would echo it."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "agentdistill", *arguments]
    environment = os.environ | {"TERM": "dumb", "NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=theirs, stderr=theirs, cwd=cwd, env=environment) as process:
        os.close(theirs)
        assert process.stdin is not None
        process.stdin.write(typed)
        process.stdin.close()
        said = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the process has ended
                break
            if not part:
                break
            said += part
        assert process.wait(timeout=60) in (0, 1, 2)
    os.close(ours)
    return said.decode().replace("\r\n", "\n")


def assert_safe(said: str) -> None:
    assert not FORBIDDEN.intersection(said), said


@given(st.text())
def test_what_is_printable_moves_nothing_and_hides_nothing(text: str) -> None:
    shown = printable(text)
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") or c in "\n\t" for c in shown)
    assert json.loads(json_for_people({"text": text}))["text"] == text
    assert not FORBIDDEN.intersection(json_for_people(text))


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    model = ScriptedModel("m", lambda *_: f"Thought: {HOSTILE}\nCode:\n```py\nfinal_answer(1)\n```<end_code>")
    rollout([Task(HOSTILE, HOSTILE, "1", HOSTILE)], model, output=tmp_path / "t.jsonl", progress=False)
    return tmp_path / "t.jsonl"


def test_inspect(recorded: Path, tiny_model: Path) -> None:
    said = on_a_terminal("inspect", str(recorded), "--model", str(tiny_model))
    assert_safe(said)
    assert "pwned" in said


def test_index_search(tmp_path: Path) -> None:
    Bm25Index.build([(HOSTILE, HOSTILE, f"alpha {HOSTILE}")], tmp_path / "index")
    said = on_a_terminal("index", "search", str(tmp_path / "index"), "alpha")
    assert_safe(said)
    assert SHOWN in said
    said = on_a_terminal("index", "search", str(tmp_path / "index"), "alpha", "--json")
    assert_safe(said)
    assert json.loads(said)["text"] == f"alpha {HOSTILE}"


@pytest.mark.parametrize("place", ["name", "value", "flag", "nonsense"])
def test_run(place: str, tmp_path: Path) -> None:
    name, value, flag = (HOSTILE if at == place else "x" for at in ("name", "value", "flag"))
    flags = {"trajectories": "t.jsonl", "output": f"{value}.jsonl"} | ({flag: HOSTILE} if place == "flag" else {})
    table = "\n".join(f"{json.dumps(name)} = {json.dumps(value)}" for name, value in flags.items())
    text = f"[select.{json.dumps(name)}]\n{table}\n".replace("\x7f", "\\u007f")
    (tmp_path / "r.toml").write_text(HOSTILE if place == "nonsense" else text, encoding="utf-8")
    for more in [["--dry-run"], []]:
        assert_safe(on_a_terminal("run", "r.toml", *more, cwd=tmp_path))


BAD_FILES = {
    "a file of tasks": ["generate", "--tasks", "{}", "--model", "openai:http://127.0.0.1:9/v1:m", "-o", "o"],
    "trajectories": ["select", "{}", "-o", "o.jsonl"],
    "an input of convert": ["convert", "{}", "-o", "o.jsonl"],
    "a corpus": ["index", "build", "{}", "-o", "index"],
    "a file to view": ["view", "{}", "--no-browser"],
    "a file to grade": ["grade", "{}"],
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_errors_that_quote_a_file(what: str, tmp_path: Path) -> None:
    for content in (json.dumps({HOSTILE: HOSTILE}, ensure_ascii=False), json.dumps({"outcome": HOSTILE}), HOSTILE):
        (tmp_path / f"{HOSTILE[:9]}.jsonl").write_text(f"{content}\n", encoding="utf-8")
        arguments = [part.replace("{}", f"{HOSTILE[:9]}.jsonl") for part in BAD_FILES[what]]
        assert_safe(on_a_terminal(*arguments, cwd=tmp_path))


def test_what_a_server_says_is_wrong() -> None:
    with serving(status(400, HOSTILE)) as server:
        model = f"openai:http://127.0.0.1:{server.server_port}/v1:m"
        assert_safe(on_a_terminal("ask", "q", "--model", model))
        said = on_a_terminal("chat", "--model", model, typed=b"q\n")
    assert_safe(said)
    assert "\\x1b]0;pwned" in said


@pytest.mark.parametrize("cell", ["print({!r})", "raise ValueError({!r})", "{!r}.swapcase()"])
def test_what_a_cell_says(cell: str, tmp_path: Path) -> None:
    (tmp_path / "cell.py").write_text(cell.format(HOSTILE), encoding="utf-8")
    assert_safe(on_a_terminal("sandbox", "cell.py", cwd=tmp_path))


def test_nothing_is_printed_by_other_ways() -> None:
    package = Path(agentdistill.__file__).parent
    for path in [path for path in package.rglob("*.py") if "demo" not in path.parts]:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert not [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], path
