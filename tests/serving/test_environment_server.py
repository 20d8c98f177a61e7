"""Tasks as an environment over HTTP: plain requests and WebSockets, good and bad."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentdistill import Bm25Index, Limits, Task, web_search
from agentdistill.tools.tool import Tool, python_tool

pytest.importorskip("uvicorn", reason="needs agentdistill[serve]")
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from agentdistill.serving import connection, http_server
from agentdistill.serving.environment_server import EnvironmentServer
from agentdistill.serving.http_server import REQUEST_BYTES

TASKS = [
    Task("six", "What is 6 * 7?", "42", kind="math"),
    Task("capital", "What is the capital of France?", "Paris"),
    Task("four", "What is 2 + 2?", "4", kind="math"),
]
QUICK = Limits(seconds=2)
"""For code that never ends."""
PASSAGES = [("1", "France", "Paris is the capital of France."), ("2", "Rome", "Rome is a city in Italy.")]


@contextmanager
def serving(tools: Sequence[Tool] = (), **options: Any) -> Iterator[EnvironmentServer]:
    with EnvironmentServer(TASKS, tools, port=0, **options) as server:
        yield server


@contextmanager
def plain(server: EnvironmentServer, **headers: str) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, headers=headers, timeout=60) as client:
        yield client


def begin(client: httpx2.Client, **wanted: Any) -> str:
    """Begin an episode, and return its id."""
    reply = client.post("/reset", json=wanted)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["metadata"]["episode_id"])


def run(client: httpx2.Client, episode: str, code: str) -> tuple[str, float | None, bool]:
    """Run code in an episode: what it did, its reward, and whether the episode is over."""
    reply = client.post("/step", json={"episode_id": episode, "action": {"code": code}})
    assert reply.status_code == 200, reply.text
    result = reply.json()
    return result["observation"]["output"], result["reward"], result["done"]


def session(server: EnvironmentServer, **options: Any) -> ClientConnection:
    return connect(server.url.replace("http", "ws") + "/ws", proxy=None, **options)


def wait_until_none_is_open(client: httpx2.Client) -> None:
    deadline = time.monotonic() + 60
    while client.get("/health").json()["sessions"]:
        assert time.monotonic() < deadline, "a session is still open"
        time.sleep(0.01)


def tell(client: ClientConnection, message: object) -> tuple[str, Any]:
    """Send a message, and receive the type and the data of the answer."""
    client.send(message if isinstance(message, str | bytes) else json.dumps(message))
    answer = json.loads(client.recv(timeout=60))
    return answer["type"], answer["data"]


def step(code: str) -> dict[str, Any]:
    return {"type": "step", "data": {"code": code}}


# ---- plain HTTP ------------------------------------------------------------------------------------


def test_an_episode(tmp_path: Path) -> None:
    index = Bm25Index.build(PASSAGES, tmp_path / "wiki")
    with serving([web_search(index)]) as server, plain(server) as client:
        begun = client.post("/reset", json={"task_id": "capital"}).json()
        episode = begun["metadata"]["episode_id"]
        assert begun == {
            "observation": {"question": "What is the capital of France?"},
            "reward": None,
            "done": False,
            "metadata": {"episode_id": episode, "task_id": "capital"},
        }
        output, *rest = run(client, episode, "found = web_search('capital')\nprint(found)")
        assert "Paris is the capital of France." in output and rest == [0, False]
        known = {"episode_id": episode, "step_count": 1, "task_id": "capital"}
        assert client.get("/state", params={"episode_id": episode}).json() == known
        assert run(client, episode, "final_answer(found[found.index('Paris'):][:5])") == (
            "Final answer: Paris",
            1,
            True,
        )
        assert client.get("/state", params={"episode_id": episode}).status_code == 404
        assert client.get("/health").json() == {"status": "ok", "sessions": 0}


def test_the_schema_describes_the_code_to_a_model(tmp_path: Path) -> None:
    index = Bm25Index.build(PASSAGES, tmp_path / "wiki")
    with serving([web_search(index)]) as server, plain(server) as client:
        schema = client.get("/schema").json()
    assert list(schema) == ["action", "observation", "state"]
    assert schema["action"]["required"] == list(schema["action"]["properties"]) == ["code"]
    described = schema["action"]["properties"]["code"]["description"]
    assert "def web_search(query: str)" in described and "def final_answer(answer)" in described


def test_an_answer_that_is_wrong_and_one_that_does_not_come() -> None:
    with serving(max_steps=2) as server, plain(server) as client:
        assert run(client, begin(client, task_id="six"), "final_answer(43)")[1:] == (0, True)
        episode = begin(client, task_id="six")
        assert [run(client, episode, "6 * 7") for _ in range(2)] == [("Value: 42", 0, False), ("Value: 42", 0, True)]


def test_a_seed_chooses_the_task() -> None:
    with serving() as server, plain(server) as client:
        tasks = [client.post("/reset", json={"seed": seed}).json()["metadata"]["task_id"] for seed in range(6)]
        assert tasks == [task.id for task in TASKS] * 2
        assert client.post("/reset", json={}).json()["metadata"]["task_id"] in tasks


def test_episodes_cannot_see_each_other() -> None:
    with serving() as server, plain(server) as client:
        one, other = begin(client, task_id="six"), begin(client, task_id="six", episode_id="mine")
        assert other == "mine"
        assert run(client, one, "x = 42\nx")[0] == "Value: 42"
        assert "NameError" in run(client, other, "x")[0]
        assert run(client, one, "final_answer(x)") == ("Final answer: 42", 1, True)
        assert run(client, other, "final_answer(42)") == ("Final answer: 42", 1, True)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("while True: pass", "took too long"),
        ("x = 'x' * 2**28", "too much memory"),
        ("import os\nos._exit(1)", "had to be killed"),
        ("def", "SyntaxError"),
        ("", "Nothing was printed"),
        ("'\\ud800'", "ud800"),
    ],
)
def test_code_that_fails_is_an_observation(code: str, told: str) -> None:
    with serving(limits=QUICK) as server, plain(server) as client:
        episode = begin(client, task_id="six")
        output, reward, done = run(client, episode, code)
        assert told in output and (reward, done) == (0, False)
        assert run(client, episode, "final_answer(42)")[1:] == (1, True)


REFUSED: dict[str, tuple[str, object, int, str]] = {
    "unknown task": ("/reset", {"task_id": "seven"}, 404, "no task 'seven' among the 3"),
    "negative seed": ("/reset", {"seed": -1}, 400, "seed: "),
    "misspelt": ("/reset", {"task": "six"}, 400, "task: "),
    "a name that is taken": ("/reset", {"episode_id": "e"}, 409, "an episode 'e' already"),
    "unknown episode": ("/step", {"episode_id": "f", "action": {"code": "1"}}, 404, "no episode 'f'"),
    "no episode": ("/step", {"action": {"code": "1"}}, 400, "episode_id: "),
    "no code": ("/step", {"episode_id": "e", "action": {}}, 400, "action.code: "),
    "code that is no text": ("/step", {"episode_id": "e", "action": {"code": 1}}, 400, "action.code: "),
    "an action of another": ("/step", {"episode_id": "e", "action": {"code": "1", "tool": "x"}}, 400, "action.tool: "),
    "no object": ("/step", [1], 400, "not a JSON object"),
    "no JSON": ("/step", "{", 400, "not JSON"),
    "deep JSON": ("/step", "[" * 100_000, 400, "not JSON"),
    "too large": ("/step", "x" * (REQUEST_BYTES + 1), 413, "larger than"),
    "closing an unknown one": ("/close", {"episode_id": "f"}, 404, "no episode 'f'"),
    "another path": ("/tasks", {}, 404, "GET /schema, POST /reset, POST /step, GET /state, POST /close"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_request_is_refused_and_changes_nothing(case: str) -> None:
    path, body, status, message = REFUSED[case]
    with serving() as server, plain(server, **{"Content-Type": "application/json"}) as client:
        assert begin(client, task_id="six", episode_id="e") == "e"
        reply = client.post(path, content=body if isinstance(body, str) else json.dumps(body))
        assert (reply.status_code, message in reply.json()["error"]["message"]) == (status, True), reply.text
        assert client.get("/health").json()["sessions"] == 1
        assert run(client, "e", "final_answer(42)")[1:] == (1, True)


def test_a_step_during_a_step_is_refused() -> None:
    entered, leave = threading.Event(), threading.Event()

    def wait() -> int:
        """Wait."""
        entered.set()
        leave.wait()
        return 42

    with serving([python_tool(wait)]) as server, plain(server) as client:
        episode, other = begin(client, task_id="six"), begin(client, task_id="six")
        results: list[Any] = []
        waiting = threading.Thread(target=lambda: results.append(run(client, episode, "final_answer(wait())")))
        waiting.start()
        entered.wait()
        assert run(client, other, "final_answer(42)")[1:] == (1, True)  # others do not wait
        for path, more in {"/step": {"action": {"code": "1"}}, "/close": {}}.items():
            reply = client.post(path, json={"episode_id": episode, **more})
            assert (reply.status_code, "running code" in reply.text) == (409, True)
        leave.set()
        waiting.join()
    assert results == [("Final answer: 42", 1, True)]


def test_the_number_of_episodes_and_their_idle_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(sessions=2) as server, plain(server) as client:
        episode = begin(client)
        with session(server) as first:
            assert tell(first, {"type": "state"}) == ("state", {"episode_id": None, "step_count": 0})
            full = client.post("/reset", json={})
            assert (full.status_code, full.headers["retry-after"]) == (429, "1")
            with session(server) as second:
                kind, data = json.loads(second.recv(timeout=60)).values()
                assert (kind, data["code"]) == ("error", "CAPACITY_REACHED") and "all 2 sessions" in data["message"]
                with pytest.raises(ConnectionClosed):
                    tell(second, {"type": "reset"})
            assert client.post("/close", json={"episode_id": episode}).status_code == 200
            begin(client)
        monkeypatch.setattr(server, "_idle_seconds", -1)
        assert client.get("/health").json()["sessions"] == 0


# ---- WebSockets ------------------------------------------------------------------------------------


def test_a_session_resets_to_one_task_after_another() -> None:
    with serving() as server, session(server) as client, session(server) as other:
        for task_id, answer in [("six", "42"), ("four", "5"), ("four", "4")]:
            kind, begun = tell(client, {"type": "reset", "data": {"task_id": task_id, "episode_id": "mine"}})
            assert (kind, begun["reward"], begun["done"]) == ("observation", None, False)
            assert "NameError" in tell(client, step("x"))[1]["observation"]["output"]
            assert tell(client, step("x = 1\nx"))[1]["observation"] == {"output": "Value: 1"}
            assert tell(client, {"type": "state"})[1] == {"episode_id": "mine", "step_count": 2, "task_id": task_id}
            kind, ended = tell(client, step(f"final_answer({answer})"))
            assert (ended["reward"], ended["done"]) == (float(answer != "5"), True)
        assert tell(client, {"type": "reset", "data": {"task_id": "six"}})[0] == "observation"
        assert tell(client, {"type": "reset", "data": {"task_id": "four"}})[0] == "observation"  # without an end
        assert tell(client, step("final_answer(4)"))[1]["reward"] == 1
        assert tell(other, {"type": "state"})[1]["step_count"] == 0
        client.send(json.dumps({"type": "close"}))
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=60)


WRONG: dict[str, tuple[object, str, str]] = {
    "no JSON": ("{", "INVALID_JSON", "not JSON"),
    "bytes": (b"\xff\xfe", "INVALID_JSON", "not JSON"),
    "nothing": ("", "INVALID_JSON", "not JSON"),
    "deep": ("[" * 100_000, "INVALID_JSON", "not JSON"),
    "a list": ([1], "VALIDATION_ERROR", "the request"),
    "no type": ({}, "VALIDATION_ERROR", "type: "),
    "another type": ({"type": "mcp"}, "VALIDATION_ERROR", "'reset', 'step', 'state' or 'close'"),
    "no code": ({"type": "step", "data": {}}, "VALIDATION_ERROR", "code: "),
    "an unknown task": ({"type": "reset", "data": {"task_id": "x"}}, "VALIDATION_ERROR", "no task 'x'"),
    "an argument of another": ({"type": "reset", "data": {"level": 3}}, "VALIDATION_ERROR", "level: "),
}


def test_a_bad_message_is_an_error_and_changes_nothing() -> None:
    with serving() as server, session(server) as client:
        before = tell(client, step("1"))
        assert (before[0], before[1]["code"]) == ("error", "EXECUTION_ERROR") and "reset first" in before[1]["message"]
        tell(client, {"type": "reset", "data": {"task_id": "six"}})
        tell(client, step("x = 42"))
        for case, (message, code, told) in WRONG.items():
            kind, data = tell(client, message)
            assert (kind, data["code"], told in data["message"]) == ("error", code, True), (case, data)
        assert tell(client, step("'half a character: \ud800'"))[1]["observation"]["output"].endswith(
            "character: \ufffd"
        )
        assert tell(client, step("final_answer(x)"))[1]["reward"] == 1
        assert "reset first" in tell(client, step("final_answer(x)"))[1]["message"]


NAMES = ["type", "data", "reset", "step", "state", "task_id", "six", "seed", "episode_id", "e", "action", "code"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)


def test_any_value_is_answered() -> None:
    with serving() as server, session(server) as opened, plain(server) as client:

        @given(VALUES, st.sampled_from(["/reset", "/step", "/close"]))
        @example({"type": "reset", "data": {"task_id": "six", "seed": 10**4000}}, "/reset")
        @example({"type": "step", "data": {"code": "1", "metadata": {"x": float("nan")}}}, "/step")
        @example({"task_id": "\ud800"}, "/reset")
        def check(value: Any, path: str) -> None:
            assert tell(opened, json.dumps(value))[0] in ("observation", "state", "error")
            headers = {"Content-Type": "application/json"}
            assert client.post(path, content=json.dumps(value), headers=headers).status_code in (200, 400, 404, 409)

        check()
        assert tell(opened, {"type": "reset", "data": {"task_id": "six"}})[0] == "observation"
        assert tell(opened, step("final_answer(42)"))[1]["reward"] == 1


def test_a_message_that_is_too_large_ends_its_session_only() -> None:
    with serving() as server, session(server) as client, session(server) as other:
        with pytest.raises(ConnectionClosed):
            tell(client, "x" * (REQUEST_BYTES + 1))
        assert tell(other, {"type": "reset"})[0] == "observation"


def test_an_idle_session_is_closed() -> None:
    with serving(idle_seconds=1e-9) as server, session(server) as client:
        answer = json.loads(client.recv(timeout=60))
        assert (answer["type"], answer["data"]["code"]) == ("error", "SESSION_ERROR")
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=60)


def test_an_open_session_outlives_the_limits_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of an HTTP connection, for a head that does not come, end when it becomes a WebSocket."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.0)
    monkeypatch.setattr(connection, "_CHECK_SECONDS", 0.01)
    with serving(limits=QUICK) as server, session(server) as client:
        assert tell(client, {"type": "reset", "data": {"task_id": "six"}})[0] == "observation"
        assert "took too long" in tell(client, step("while True: pass"))[1]["observation"]["output"]
        assert tell(client, step("final_answer(42)"))[1]["reward"] == 1


def test_a_client_that_leaves_during_a_step_leaves_nothing() -> None:
    with serving(limits=QUICK) as server, plain(server) as client:
        with session(server) as leaving:
            tell(leaving, {"type": "reset"})
            leaving.send(json.dumps(step("while True: pass")))
        wait_until_none_is_open(client)


def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "READ_SECONDS", 0.2)
    with serving() as server, plain(server) as client, socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        lines = ("GET /ws HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade")
        lines += ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "", "")
        silent.sendall("\r\n".join(lines).encode())
        assert silent.recv(12) == b"HTTP/1.1 101"
        unknown = json.dumps({"type": "reset", "data": {"task_id": "x" * (REQUEST_BYTES - 100)}})  # is repeated
        for _ in range(2):
            silent.sendall(Frame(Opcode.TEXT, unknown.encode()).serialize(mask=True))
        wait_until_none_is_open(client)


def test_the_end_of_the_server_does_not_wait_for_a_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    entered = threading.Event()

    def wait() -> None:
        """Wait."""
        entered.set()
        threading.Event().wait()

    monkeypatch.setattr(http_server, "GRACE_SECONDS", 0.1)
    with ExitStack() as stack:
        with serving([python_tool(wait)], tool_seconds=1e6) as server:
            client = stack.enter_context(session(server))
            tell(client, {"type": "reset"})
            client.send(json.dumps(step("wait()")))
            entered.wait()
        with pytest.raises(ConnectionClosed):
            client.recv(timeout=60)
    ended = threading.Thread(target=server._threads.shutdown)
    ended.start()
    ended.join(timeout=60)
    assert not ended.is_alive()


# ---- who may use it --------------------------------------------------------------------------------


def test_only_clients_with_the_key() -> None:
    with serving(api_key="secret") as server:
        for headers, allowed in {"": False, "Bearer wrong": False, "Bearer secret": True}.items():
            given = {"Authorization": headers} if headers else {}
            with plain(server, **given) as client:
                assert client.post("/reset", json={}).status_code == (200 if allowed else 401)
            if allowed:
                with session(server, additional_headers=given) as opened:
                    assert tell(opened, {"type": "reset"})[0] == "observation"
            else:
                with pytest.raises(InvalidStatus, match="401"):
                    session(server, additional_headers=given)


def test_web_pages_cannot_open_a_session() -> None:
    with serving() as server:
        with pytest.raises(InvalidStatus, match="403"):
            session(server, origin="https://evil.example")
        port = int(server.url.rpartition(":")[2])
        with (
            socket.create_connection(("127.0.0.1", port)) as rebound,
            pytest.raises(InvalidStatus, match="403"),
        ):
            connect(f"ws://evil.example:{port}/ws", sock=rebound)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sessions": 0}, "sessions is 0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"idle_seconds": 0}, "idle_seconds is 0"),
        ({"idle_seconds": float("nan")}, "idle_seconds is nan"),
        ({"port": 65536}, "port is 65536: give 0"),
        ({"port": -1}, "port is -1: give 0"),
        ({"host": "0.0.0.0"}, "give an API key"),
        ({"tasks": []}, "at least one task"),
        ({"tasks": [Task("a", "Why?")]}, "'a' has no answer"),
    ],
)
def test_what_cannot_be_served(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnvironmentServer(**{"tasks": TASKS, "port": 0} | options)


# ---- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command(number: signal.Signals, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"id": "six", "question": "What is 6 * 7?", "answer": "42"}) + "\n")
    command = [sys.executable, "-m", "agentdistill", "serve-environment", "--tasks", str(tasks), "--port", "0"]
    environment, key = os.environ | {"AGENTDISTILL_API_KEY": "secret"}, {"Authorization": "Bearer secret"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
        try:
            assert running.stderr is not None
            found = re.search(r"serving 1 tasks at (\S+)", running.stderr.readline())
            assert found
            with httpx2.Client(base_url=found[1], headers=key) as client:
                assert run(client, begin(client), "final_answer(6 * 7)") == ("Final answer: 42", 1, True)
            with connect(found[1].replace("http", "ws") + "/ws", proxy=None, additional_headers=key):
                running.send_signal(number)
                assert (running.wait(timeout=60), running.stderr.read()) == (0, "")
        finally:
            running.kill()
