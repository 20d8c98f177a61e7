"""``agentdistill serve-retrieval`` from its clients' side: a process that is queried over HTTP."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill import Bm25Index, HttpRetriever, Passage, RetrievalServer

PASSAGES = [
    ("1", "Paris", "Paris is the capital of France."),
    ("2", 'The "Eternal" City', "Rome is the capital of Italy.\nIt has \u2028 hills."),
    ("3", "", "The Tiber flows through Rome."),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Bm25Index:
    return Bm25Index.build(PASSAGES, tmp_path_factory.mktemp("server") / "index")


@contextmanager
def process(index: Bm25Index) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "agentdistill", "serve-retrieval", index.info()["path"], "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        said = server.stderr.readline()
        found = re.search(r"at (http://127\.0\.0\.1:\d+)/retrieve\n", said)
        assert found, said
        yield server, found[1]
    finally:
        server.kill()
        server.communicate()


@pytest.fixture(scope="module")
def url(index: Bm25Index) -> Iterator[str]:
    with process(index) as (_, url):
        yield url


def retrieve(url: str, **request: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/retrieve", json=request)


def test_answers_are_those_of_search_r1(url: str, index: Bm25Index) -> None:
    queries = ["capital of Italy", "Rome", "nothing known", "AND ( \u2028"]
    found = index.search_batch(queries, 2)
    documents = [[{"id": each.id, "contents": f'"{each.title}"\n{each.text}'} for each in one] for one in found]
    answer = retrieve(url, queries=queries, topk=2, return_scores=True)
    assert answer.headers["content-type"] == "application/json"
    scored = answer.json()["result"]
    assert [[each["document"] for each in one] for one in scored] == documents
    assert [[each["score"] for each in one] for one in scored] == [
        pytest.approx([each.score for each in one]) for one in found
    ]
    assert retrieve(url, queries=queries, topk=2).json() == {"result": documents}
    for k in ({}, {"topk": None}, {"topk": 0}):  # Search-R1's default: three
        assert (
            retrieve(url, queries=["the Rome Paris capital"], **k).json()
            == retrieve(url, queries=["the Rome Paris capital"], topk=3).json()
        )
    assert retrieve(url, queries=[]).json() == {"result": []}


def test_a_page_is_answered(url: str) -> None:
    answer = httpx2.post(f"{url}/page", json={"title": 'the "eternal" city'})
    identifier, title, text = PASSAGES[1]
    assert answer.json() == {"result": [[{"id": identifier, "contents": f'"{title}"\n{text}'}]]}
    assert httpx2.post(f"{url}/page", json={"title": "Rome"}).json() == {"result": [[]]}


REFUSED = [
    ("POST", "/retrieve", b"junk", 422, "expected value"),
    ("POST", "/retrieve", b"", 422, "EOF"),
    ("POST", "/retrieve", b"[]", 422, "invalid length 0"),
    ("POST", "/retrieve", b'{"topk": 3}', 422, "missing field `queries`"),
    ("POST", "/retrieve", b'{"queries": "one"}', 422, "invalid type"),
    ("POST", "/retrieve", b'{"queries": ["one", 2]}', 422, "invalid type"),
    ("POST", "/retrieve", b'{"queries": ["one"], "topk": -1}', 422, "invalid value"),
    ("POST", "/retrieve", b'{"queries": ["\xff"]}', 422, "invalid unicode"),
    ("POST", "/retrieve", b'{"queries": ["one"], "topk": 100001}', 413, "more than 100000 passages"),
    ("POST", "/retrieve", json.dumps({"queries": ["x"] * 50_000, "topk": 3}).encode(), 413, "more than 100000"),
    ("POST", "/retrieve", b'{"queries": ["' + b"x" * (16 << 20) + b'"]}', 413, "larger than 16777216 bytes"),
    ("POST", "/page", b"{}", 422, "missing field `title`"),
    ("POST", "/page", b'{"title": 1}', 422, "invalid type"),
    ("GET", "/retrieve", b"", 405, "accepts only POST"),
    ("GET", "/page", b"", 405, "accepts only POST"),
    ("POST", "/health", b"", 405, "accepts only GET"),
    ("GET", "/", b"", 404, "use POST /retrieve, POST /page or GET /health"),
]


@pytest.mark.parametrize("method, path, body, status, detail", REFUSED)
def test_what_makes_no_sense_is_refused(
    url: str, method: str, path: str, body: bytes, status: int, detail: str
) -> None:
    answer = httpx2.request(method, url + path, content=body)
    assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), answer.text
    assert httpx2.get(f"{url}/health").json() == {"status": "ok", "documents": 3, "language": "english"}


@given(junk=st.binary(max_size=200))
def test_junk_is_not_its_end(url: str, junk: bytes) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(junk)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    assert httpx2.get(f"{url}/health").status_code == 200


def test_many_at_once(url: str, index: Bm25Index) -> None:
    expected = index.search("capital", 2)
    wrong: list[object] = []

    def ask() -> None:
        retriever = HttpRetriever(url)
        for size in (1, 1, 7, 200):
            found = retriever.search_batch(["capital"] * size, 2)
            wrong.extend(each for each in found if [p.id for p in each] != [p.id for p in expected])
        retriever.close()

    threads = [threading.Thread(target=ask) for _ in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


@pytest.mark.parametrize("ends", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_the_requests_under_way_are_answered(ends: signal.Signals, index: Bm25Index) -> None:
    body = json.dumps({"queries": ["Rome"], "topk": 1}).encode()
    head = f"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    with process(index) as (server, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head.encode())
            assert b"100 Continue" in connection.recv(1 << 16)  # the request is running
            server.send_signal(ends)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    socket.create_connection((host, int(port)), timeout=1).close()
                except ConnectionRefusedError:
                    break
                except OSError:  # it was in the backlog when the listener closed
                    continue
            else:
                pytest.fail("it still takes connections")
            assert server.poll() is None
            connection.sendall(body)
            assert b"200 OK" in connection.recv(1 << 16)
        assert server.wait(20) == 0


def test_it_is_a_value_in_python_too(index: Bm25Index) -> None:
    with RetrievalServer(index, port=0) as server:
        [passage] = HttpRetriever(server.url).search("France", 1)
        assert passage == Passage("1", "Paris", "Paris is the capital of France.", index.search("France")[0].score)
        with pytest.raises(OSError, match="in use"):
            RetrievalServer(index, port=int(server.url.rpartition(":")[2]))
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(server.url)
    with pytest.raises(ValueError, match=r"no-such-host\.invalid is not an address to listen at"):
        RetrievalServer(index, "no-such-host.invalid", 0)


# ---- limits ----------------------------------------------------------------------------------------


def raw(url: str, sent: bytes) -> bytes:
    """The response to the bytes ``sent``, until the connection closes."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as client:
        answer = b""
        with suppress(ConnectionResetError, BrokenPipeError):
            client.sendall(sent)
        with suppress(ConnectionResetError):
            while part := client.recv(65536):
                answer += part
    return answer


def request(body: bytes, *lines: str, host: str = "localhost", kind: str = "application/json") -> bytes:
    head = ("POST /retrieve HTTP/1.1", f"Host: {host}", f"Content-Type: {kind}", "Connection: close", *lines)
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def resident(process: subprocess.Popen[str]) -> int:
    """Resident memory of a process, in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s*(\d+)", status)[0]) >> 10


QUERY = json.dumps({"queries": ["rome"]}).encode()


@pytest.mark.parametrize(
    "host", ["evil.com", "x{y.evil.com", "localhost.evil.com", "127.0.0.1.evil.com", "a@localhost", "0.0.0.0"]
)
def test_other_hosts_are_refused(host: str, url: str) -> None:
    assert raw(url, request(QUERY, host=host)).split()[1] in (b"403", b"400")
    assert raw(url, request(QUERY, "Host: localhost", host=host)).split()[1] in (b"403", b"400")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]", "LOCALHOST."])
def test_this_machine_may_ask(host: str, url: str) -> None:
    assert raw(url, request(QUERY, host=host)).split()[1] == b"200"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonp"]
)
def test_what_a_web_page_can_send_is_refused(kind: str, url: str) -> None:
    assert raw(url, request(QUERY, kind=kind)).split()[1] == b"415"
    assert raw(url, request(QUERY, "Origin: http://evil.com")).split()[1] == b"403"


@pytest.mark.parametrize("endless", [b"X: ", b"X: y\r\n", b" "])
def test_heads_are_bounded(endless: bytes, url: str) -> None:
    answer = raw(url, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + endless + b"a" * (4 << 20))
    assert b" 200 " not in answer[:20]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Bm25Index:
    """Twenty passages of one megabyte that share a word."""
    passages = [(str(i), "", "alpha " + "lorem ipsum " * 83_000) for i in range(20)]
    return Bm25Index.build(passages, tmp_path_factory.mktemp("large") / "index")


def test_answers_are_bounded_by_their_bytes(large: Bm25Index) -> None:
    with process(large) as (server, url):
        before = resident(server)
        wanted = json.dumps({"queries": ["alpha"] * 20, "topk": 20}).encode()
        for _ in range(4):
            assert raw(url, request(wanted)).split()[1] == b"413"
        assert resident(server) - before < 200
        assert len(retrieve(url, queries=["alpha"], topk=20).json()["result"][0]) == 20


def test_answers_that_nobody_reads_are_bounded_together(large: Bm25Index) -> None:
    with process(large) as (server, url):
        parts, before = urlsplit(url), resident(server)
        clients = [socket.create_connection((parts.hostname, parts.port), timeout=60) for _ in range(40)]
        for client in clients:
            client.sendall(request(json.dumps({"queries": ["alpha"], "topk": 20}).encode()))
        statuses = {client.recv(12).split()[1] for client in clients}
        assert statuses <= {b"200", b"503"}
        assert resident(server) - before < 900
        assert httpx2.get(f"{url}/health").json()["status"] == "ok"
        for client in clients:
            client.close()


def test_bodies_are_bounded_together(index: Bm25Index) -> None:
    with process(index) as (server, url):
        parts, before = urlsplit(url), resident(server)
        clients = [socket.create_connection((parts.hostname, parts.port), timeout=60) for _ in range(40)]
        head = request(b"").replace(b"Content-Length: 0", b"Content-Length: 16000000")
        for client in clients:
            with suppress(OSError):  # the connection is refused
                client.sendall(head + b" " * 15_000_000)
        assert resident(server) - before < 600
        assert httpx2.get(f"{url}/health").json()["status"] == "ok"
        for client in clients:
            client.close()
        assert retrieve(url, queries=["rome"]).status_code == 200


def test_health_answers_while_large_queries_run(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(1_000)]
    passages = ((str(i), "", " ".join(words[i % 7 :: 3])) for i in range(3_000))
    with process(Bm25Index.build(passages, tmp_path / "index")) as (_, url):
        parts = urlsplit(url)
        wanted = json.dumps({"queries": [" ".join(words)] * 200, "topk": 100}).encode()
        clients = [socket.create_connection((parts.hostname, parts.port), timeout=60) for _ in range(4)]
        for client in clients:
            client.sendall(request(wanted))
        for _ in range(20):
            assert httpx2.get(f"{url}/health", timeout=30).json()["documents"] == 3_000
        for client in clients:
            client.close()


def test_who_drops_it_does_not_wait(index: Bm25Index) -> None:
    """A running request keeps its connection for a while. Dropping the server must not wait until it closes."""
    program = (
        "import socket, sys\nfrom agentdistill import Bm25Index, RetrievalServer\n"
        "server = RetrievalServer(Bm25Index.open(sys.argv[1]), port=0)\n"
        "client = socket.create_connection(('127.0.0.1', int(server.url.rsplit(':', 1)[1])))\n"
        "client.sendall(b'POST /retrieve HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 10\\r\\n\\r\\n')\n"
        "del server\nclient.setblocking(False)\n"
        "try: print(client.recv(1))\nexcept BlockingIOError: print('open', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, index.info()["path"]], capture_output=True, timeout=60)
    assert done.stdout == b"open\n", done.stderr
