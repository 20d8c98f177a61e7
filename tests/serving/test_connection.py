"""The agent's server and clients that break HTTP: sockets, byte by byte."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agentdistill.models.scripted import ScriptedModel
from agentdistill.rollouts.player import Player, RolloutConfig
from agentdistill.tools.tool import Tool, python_tool
from slow_run import code

pytest.importorskip("uvicorn", reason="needs agentdistill[serve]")
from agentdistill.serving import connection
from agentdistill.serving.chat_server import ChatServer


def policy(messages: list[tuple[str, str]], prefix: str, index: int) -> str:
    question = next(content for role, content in reversed(messages) if role == "user")
    return code({"spin": "while True: pass", "wait": "wait()"}.get(question, "final_answer('ok')"))


@contextmanager
def serving(
    *tools: Tool, key: str | None = None, concurrency: int = 64, cell_seconds: float = 5.0, host: str = "127.0.0.1"
) -> Iterator[int]:
    config = RolloutConfig(concurrency=concurrency, cell_seconds=cell_seconds)
    with (
        Player(ScriptedModel("m", policy), tools, config) as player,
        ChatServer(player, host, 0, api_key=key) as server,
    ):
        yield int(server.url.rsplit(":", 1)[1].split("/")[0])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits short enough for a test."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(connection, "READ_SECONDS", 0.2)
    monkeypatch.setattr(connection, "_CHECK_SECONDS", 0.02)


def connect(port: int, sent: bytes = b"", *, small: bool = False) -> socket.socket:
    made = socket.socket()
    if small:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", port))
    made.settimeout(60)
    made.sendall(sent)
    return made


def request(question: str, *more: str) -> bytes:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": question}]}).encode()
    lines = ("POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", *more)
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def read_all(client: socket.socket) -> bytes:
    """Everything sent until the connection closes."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    client.close()
    return b"".join(parts)


def asked(port: int, question: str) -> bytes:
    return read_all(connect(port, request(question, "Connection: close")))


def health(port: int) -> int:
    answer = read_all(connect(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    episodes: int = json.loads(answer.split(b"\r\n\r\n")[1])["episodes"]
    return episodes


def until(condition: "object", seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- heads -----------------------------------------------------------------------------------------

ENDLESS = {
    "a value": (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ", b"a" * 65536),
    "names": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"X: a\r\n" * 10000),
    "a path": (b"GET /", b"a" * 65536),
    "a method": (b"", b"A" * 65536),
    "empty lines": (b"GET /health HTTP/1.1\r\nHost: localhost\r\n ", b" a\r\n" * 16384),
    "a chunk's size": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/json\r\n\r\n",
        b"0" * 65536,
    ),
    "a trailer": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/json\r\n\r\n0\r\nX: ",
        b"a" * 65536,
    ),
}


@pytest.mark.parametrize("key", [None, "secret"])
@pytest.mark.parametrize("what", ENDLESS)
def test_a_head_is_bounded(what: str, key: str | None) -> None:
    begun, more = ENDLESS[what]
    with serving(key=key) as port:
        client = connect(port, begun)
        with pytest.raises(OSError):
            for _ in range(1600):  # 100 MB
                client.sendall(more)
        client.close()
        assert health(port) == 0


HALF = {
    "nothing": b"",
    "half a line": b"GET /hea",
    "half a head": b"GET /health HTTP/1.1\r\nX: ",
    "a body that does not come": request("q", "Authorization: Bearer wrong")[:-5],
    "an answered request, and half of the next": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he",
    "an answered request whose body does not end": b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n",
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("what", HALF)
def test_what_does_not_come_is_not_waited_for(what: str) -> None:
    with serving(key="secret") as port:
        read_all(connect(port, HALF[what]))  # the connection ends


@pytest.mark.usefixtures("quick")
def test_a_head_that_drips_is_not_waited_for() -> None:
    with serving() as port:
        client = connect(port, b"GET /health HTTP/1.1\r\nX: ")
        with pytest.raises(OSError):
            while True:
                client.sendall(b"a")
                time.sleep(0.01)
        client.close()


def test_the_key_is_asked_for_before_the_body() -> None:
    with serving(key="secret") as port:
        client = connect(port, request("q")[:-5].replace(b"Content-Length: ", b"Content-Length: 99999"))
        assert client.recv(100).startswith(b"HTTP/1.1 401")
        client.close()


@pytest.mark.usefixtures("quick")
def test_an_answer_that_nobody_reads_is_dropped() -> None:
    with serving() as port:
        client = connect(port, small=True)
        asking = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"a" * 60_000)  # the response contains the path
        with pytest.raises(OSError):
            for _ in range(1000):
                client.sendall(asking)
        client.close()
        assert asked(port, "q").startswith(b"HTTP/1.1 200")


def test_idle_connections_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_CONNECTIONS", 8)
    with serving() as port:
        idle = [connect(port, b"GET") for _ in range(40)]
        assert asked(port, "q").startswith(b"HTTP/1.1 200")
        for client in idle:
            client.close()


# ---- requests that are abandoned -------------------------------------------------------------------


def test_abandoned_requests_are_taken_back() -> None:
    with serving(concurrency=4, cell_seconds=1e6) as port:
        for _ in range(20):
            client = connect(port, request("spin"))
            until(lambda: health(port) > 0)
            client.close()
            until(lambda: health(port) == 0)
        assert b'"ok"' in asked(port, "q")


def test_many_dropped_at_once_do_not_hold_up_the_next() -> None:
    with serving(concurrency=64, cell_seconds=1e6) as port:
        clients = [connect(port, request("spin")) for _ in range(20)]
        until(lambda: health(port) == 20)
        for client in clients:
            client.close()
        until(lambda: health(port) == 0)
        assert b'"ok"' in asked(port, "q")


def test_one_that_is_in_a_tool_counts_until_that_returns() -> None:
    called, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        """Wait."""
        called.set()
        go_on.wait()

    with serving(python_tool(wait), concurrency=1) as port:
        client = connect(port, request("wait"))
        called.wait(60)
        client.close()
        time.sleep(0.1)
        assert health(port) == 1
        assert asked(port, "q").startswith(b"HTTP/1.1 429")
        go_on.set()
        until(lambda: health(port) == 0)
        assert b'"ok"' in asked(port, "q")


# ---- who may ask -----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
@pytest.mark.parametrize("key", [None, "", " "])
def test_others_may_not_ask_without_a_key(host: str, key: str | None) -> None:
    with pytest.raises(ValueError, match="API key"), serving(host=host, key=key):
        pass


def test_an_empty_key_is_none() -> None:
    with pytest.raises(ValueError, match="API key is empty"), serving(key=""):
        pass


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/m", "/v1/chat/completions"])
@pytest.mark.parametrize("host", ["x{y.evil.com", "evil.com", "[", "localhost:80@evil.com", ""])
def test_other_hosts_are_refused(path: str, host: str) -> None:
    with serving() as port:
        method = "POST" if path.endswith("completions") else "GET"
        sent = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        assert read_all(connect(port, sent.encode())).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:9", "a.localhost", "LOCALHOST."])
def test_hosts_of_this_machine(host: str) -> None:
    with serving() as port:
        sent = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        assert read_all(connect(port, sent.encode())).startswith(b"HTTP/1.1 200")


def test_nobody_is_sent_elsewhere() -> None:
    with serving() as port:
        sent = b"GET /health/ HTTP/1.1\r\nHost: evil.com\r\nConnection: close\r\n\r\n"
        assert read_all(connect(port, sent)).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("text", ["q \u2028", "q \x85", "half \\ud83d", "q \u202e"])
@pytest.mark.parametrize("stream", [False, True])
def test_any_text_is_asked_and_answered_in_ascii(text: str, stream: bool) -> None:
    with serving() as port:
        sent = request("q").replace(b'"q"', json.dumps(text).replace("\\\\", "\\").encode())
        if stream:
            sent = sent.replace(b'{"model"', b'{"stream": true, "model"')
        head, body = sent.split(b"\r\n\r\n")
        head = head.split(b"Content-Length")[0] + f"Connection: close\r\nContent-Length: {len(body)}".encode()
        answer = read_all(connect(port, head + b"\r\n\r\n" + body))
    assert answer.startswith(b"HTTP/1.1 200") and b"ok" in answer
    assert answer.isascii()
