"""Read trajectories in a browser: a local server, with an index of where each trajectory is in the files.

A thread fills the index while the page is already open. The index has less than a kilobyte per trajectory: what the
list shows, and what it can be filtered by. The lines stay on disk until someone looks at or searches them.

Trajectories contain untrusted text. The page shows them as text, never as HTML, which its Content Security Policy
enforces. The server listens only on this machine by default, and refuses requests for other host names, with which a
web page could otherwise read the trajectories (DNS rebinding).

Not here: the page (pages/viewer.html).
"""

import io
import json
import os
import secrets
import socket
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import parse_qs, urlsplit

from agentdistill._core import AgentDistillError, Trajectory, TrajectoryError, read_header
from agentdistill.host_header import address_of, host_name
from agentdistill.results.page import load

Verdict = Literal["right", "wrong", "failed", "ungraded"]
"""Whether an answer is right or wrong, the episode failed to give one, or it was not graded."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def trajectory_files(run: Path) -> list[Path]:
    """The trajectory files of a run: the file itself, or each ``trajectories.jsonl`` at any depth of a folder.

    Raises OSError for a missing path, ValueError for a folder without trajectories.
    """
    if not run.is_dir():
        run.stat()
        return [run]
    if not (found := sorted(run.rglob("trajectories.jsonl"))):
        raise ValueError(f"{run} has no trajectories.jsonl at any depth: give a folder that evaluate wrote, or a file")
    return found


# ---- the index -----------------------------------------------------------------------------------


class Filter(NamedTuple):
    """What a list is filtered by; "" matches everything."""

    verdict: str = ""
    kind: str = ""
    """An outcome of the episode, of its code ("exception"), or a kind of parse failure."""
    task_set: str = ""
    file: str = ""
    text: str = ""
    """Text in the question, the answers or the id, ignoring case."""
    everywhere: bool = False
    """Search ``text`` in the whole trajectory (ignoring the case of ASCII letters)."""


class TrajectoryIndex:
    """The places of trajectories in files, and what a list shows of each.

    One thread fills it with :meth:`fill`; others can read it at any time.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises OSError and TrajectoryError for files without trajectories."""
        for path in files:
            _check(path)
        self._files = [path.open("rb", buffering=1 << 20) for path in files]
        self._total = sum(path.stat().st_size for path in files)
        common = Path(os.path.commonpath([path.parent for path in files]))
        self.names = [_name(path.relative_to(common)) for path in files]
        """The displayed name of each file."""
        self.read = 0
        """Bytes that have been indexed."""
        self.done = False
        self.damaged: list[str] = []
        """Places of lines that are not trajectories."""
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in ("verdict", "kind", "task_set", "file")}
        """Number of trajectories for each value of a filter."""
        self._starts, self._lengths = array("Q"), array("Q")
        self._in_file, self._verdicts = array("H"), array("B")
        self._steps, self._sets, self._kinds = array("L"), array("L"), array("Q")
        self._texts: list[str] = []
        self._known_sets: dict[str, int] = {}
        self._known_kinds: dict[str, int] = {}
        self._stopped = False

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def share(self) -> float:
        """The share of the files that has been indexed, from 0 to 1."""
        return 1.0 if self.done else self.read / max(self._total, 1)

    def fill(self) -> None:
        """Index the files up to their current ends."""
        for number, file in enumerate(self._files):
            start = 0
            for line_number, line in enumerate(file, 1):
                if self._stopped:
                    return
                if not line.startswith(b'{"agentdistill":') and line.strip():
                    try:
                        self._add(number, start, line)
                    except (AgentDistillError, ValueError, KeyError, TypeError, OverflowError):
                        if line.endswith(b"\n"):  # else it is being written, or its writer was killed
                            self.damaged.append(f"{self.names[number]}:{line_number}")
                start += len(line)
                self.read += len(line)
        self.done = True

    def _add(self, file: int, start: int, line: bytes) -> None:
        length = len(line)
        if (known := _summary(line)) is None:  # written by another program, or by hand
            line = Trajectory.from_json(line.decode()).to_json().encode()
            known = _summary(line)
            assert known is not None
        verdict = _verdict(known["outcome"], known["score"])
        kinds = {known["outcome"], *_kinds(line)} - {"agent", "cot", "value", "final_answer"}
        bits = 0
        for kind in kinds:
            bits |= 1 << self._known_kinds.setdefault(kind, len(self._known_kinds))
        task_set = known["task_set"]
        texts = (known["question"][:300], known["answer"] or "", known["reference"] or "", known["task_id"])
        self._kinds.append(bits)  # first, because too many kinds raise OverflowError before anything is added
        self._starts.append(start)
        self._lengths.append(length)
        self._in_file.append(file)
        self._verdicts.append(VERDICTS.index(verdict))
        self._steps.append(line.count(b'{"candidates":['))
        self._sets.append(self._known_sets.setdefault(task_set, len(self._known_sets)))
        self.counts["verdict"][verdict] += 1
        self.counts["kind"].update(kinds)
        self.counts["task_set"][task_set] += 1
        self.counts["file"][self.names[file]] += 1
        self._texts.append(
            "\0".join(text.replace("\0", " ")[:300] for text in texts)
        )  # last, because __len__ counts these

    def row(self, number: int) -> dict[str, Any]:
        """The row of a trajectory in a list."""
        question, answer, reference, task_id = self._texts[number].split("\0")
        return {
            "number": number,
            "question": question,
            "answer": answer,
            "reference": reference,
            "task_id": task_id,
            "task_set": list(self._known_sets)[self._sets[number]],
            "verdict": VERDICTS[self._verdicts[number]],
            "steps": self._steps[number],
            "file": self.names[self._in_file[number]],
        }

    def line(self, number: int) -> bytes:
        """The line of a trajectory in its file (JSON)."""
        return os.pread(self._files[self._in_file[number]].fileno(), self._lengths[number], self._starts[number])

    def choose(self, chosen: Filter, end: int) -> "array[int]":
        """The numbers of the trajectories among the first ``end`` that pass the filter, in order."""
        numbers: Iterator[int] = iter(range(end))
        if chosen.verdict:
            verdict = VERDICTS.index(chosen.verdict)
            numbers = (i for i in numbers if self._verdicts[i] == verdict)
        if chosen.kind:
            bit = 1 << self._known_kinds[chosen.kind] if chosen.kind in self._known_kinds else 0
            numbers = (i for i in numbers if self._kinds[i] & bit)
        if chosen.task_set:
            task_set = self._known_sets.get(chosen.task_set)
            numbers = (i for i in numbers if self._sets[i] == task_set)
        if chosen.file:
            numbers = (i for i in numbers if self.names[self._in_file[i]] == chosen.file)
        if chosen.text and chosen.everywhere:
            sought = json.dumps(chosen.text, ensure_ascii=False)[1:-1].encode().lower()
            numbers = (i for i in numbers if sought in self.line(i).lower())
        elif chosen.text:
            needle = chosen.text.lower()
            numbers = (i for i in numbers if needle in self._texts[i].lower())
        return array("L", numbers)

    def stop(self) -> None:
        """Stop :meth:`fill`."""
        self._stopped = True

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def _check(path: Path) -> None:
    """Raise TrajectoryError for a file whose first line after the header is not a trajectory."""
    header = read_header(path) is not None
    with path.open("rb") as file:
        first = next(islice(file, header, None), b"")
    if first.endswith(b"\n"):
        try:
            Trajectory.from_json(first.decode())
        except (TrajectoryError, UnicodeDecodeError) as error:
            raise TrajectoryError(f"{path}:{header + 1}: {error}") from error


def _name(path: Path) -> str:
    """The displayed name of a file; that of an evaluation is its folder."""
    return str(path.parent if path.name == "trajectories.jsonl" and path.parent.name else path)


def _summary(line: bytes) -> dict[str, Any] | None:
    """The fields of a trajectory before its messages and after its steps; None if our writer did not write it.

    The long rest is not parsed. (In a JSON string, quotes are escaped, so no text can contain these markers.)
    """
    head, tail = line.find(b',"messages":['), line.rfind(b'],"outcome":"')
    end = line.find(b',"sampling":{', tail)
    if min(head, tail, end) == -1 or not line.rstrip().endswith(b"}"):
        return None
    try:
        known: dict[str, Any] = json.loads(line[:head] + b"," + line[tail + 2 : end] + b"}")
    except ValueError:
        return None
    texts = all(isinstance(known.get(name), str) for name in ("task_id", "question", "task_set", "outcome"))
    answers = all(isinstance(known.get(name, 0), str | None) for name in ("reference", "answer"))
    return known if texts and answers and isinstance(known.get("score", ""), float | int | None) else None


def _kinds(line: bytes) -> set[str]:
    """Every ``kind`` in a trajectory: its own, and those of its observations and parse failures."""
    return {part[:24].split(b'"')[0].decode() for part in line.split(b'"kind":"')[1:]}


def _verdict(outcome: str, score: float | None) -> Verdict:
    if score is not None and score >= 1:
        return "right"
    if outcome != "final_answer":
        return "failed"
    return "ungraded" if score is None else "wrong"


# ---- the server ----------------------------------------------------------------------------------

HEAD_SECONDS = 20.0
"""Time limit for a request to arrive, from the start of the connection or the previous response."""

ANSWER_SECONDS = 60.0
"""Time limit for a browser to read a part of a response."""

MAX_CONNECTIONS = 64
"""Maximum number of open connections. Each has a thread."""

Learnt = Callable[[Trajectory], list[tuple[str, str | None]]]
"""Maps a trajectory to pieces of text, each with the kind of its span, or None if it has no loss."""


@contextmanager
def viewer(
    files: Sequence[Path], *, host: str = "127.0.0.1", port: int = 0, learnt: Learnt | None = None
) -> Iterator[str]:
    """Serve the viewer for trajectory files while the block runs, and yield its address.

    With ``learnt``, the page shows which tokens a student learns. Port 0 picks a free port. Raises OSError if it cannot
    listen on the address, and what :class:`TrajectoryIndex` raises.
    """
    index = TrajectoryIndex(files)
    try:
        with _Server(index, host, port, learnt) as server:
            threads = [threading.Thread(target=work, daemon=True) for work in (index.fill, server.serve_forever)]
            for thread in threads:
                thread.start()
            try:
                yield server.url
            finally:
                index.stop()
                server.shutdown()
                for thread in threads:
                    thread.join()
    finally:
        index.close()


class _Server(ThreadingHTTPServer):
    def __init__(self, index: TrajectoryIndex, host: str, port: int, learnt: Learnt | None) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise OSError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from error
        self.index = index
        self.host = host
        self.learnt = learnt
        self._choose = lru_cache(8)(index.choose)
        self._choosing = threading.Lock()
        self._connections = set[socket.socket]()
        self._waiting = dict[socket.socket, None]()  # connections without a request, the longest-waiting first
        self._changing = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # ignore a browser that disconnected
            super().handle_error(request, client_address)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve the connection in its own thread. At the limit, close the one that has been idle longest."""
        with self._changing:
            if len(self._connections) >= MAX_CONNECTIONS and self._waiting:
                longest = next(iter(self._waiting))
                del self._waiting[longest]
                with suppress(OSError):
                    longest.shutdown(socket.SHUT_RDWR)
            elif len(self._connections) >= MAX_CONNECTIONS:
                self.shutdown_request(request)
                return
            self._connections.add(request)
            self._waiting[request] = None
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._changing:
                self._connections.discard(request)
                self._waiting.pop(request, None)

    @contextmanager
    def answering(self, connection: socket.socket) -> Iterator[None]:
        """While the block runs, the connection does not count as idle."""
        with self._changing:
            self._waiting.pop(connection, None)
        yield
        with self._changing:
            if connection in self._connections:
                self._waiting[connection] = None

    def choose(self, chosen: Filter) -> "array[int]":
        with self._choosing:  # one at a time: a page asks for several parts of a list at once
            return self._choose(chosen, len(self.index))


class _InTime(io.RawIOBase):
    """What a connection sends, until its deadline."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises TimeoutError."""
        self._connection.settimeout(max(self.deadline - time.monotonic(), 1e-3))
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._requests = _InTime(self.connection)
        self.rfile = io.BufferedReader(self._requests)

    def handle_one_request(self) -> None:
        self._requests.deadline = time.monotonic() + HEAD_SECONDS
        super().handle_one_request()

    def do_GET(self) -> None:
        self.connection.settimeout(ANSWER_SECONDS)
        with self.server.answering(self.connection):
            self._get()

    def _get(self) -> None:
        if not self._names_this_server():
            return self._answer(b"this name is not that of the viewer\n", "text/plain", HTTPStatus.FORBIDDEN)
        try:
            url = urlsplit(self.path)
            match url.path.split("/")[1:]:
                case [""]:
                    self._page()
                case ["state"]:
                    self._json(self._state())
                case ["list"]:
                    self._json(self._list({name: values[0] for name, values in parse_qs(url.query).items()}))
                case ["trajectory", number]:
                    self._answer(self.server.index.line(int(number)), "application/json")
                case ["learnt", number] if self.server.learnt:
                    line = self.server.index.line(int(number)).decode()
                    self._json(self.server.learnt(Trajectory.from_json(line)))
                case _:
                    self._answer(b"not found\n", "text/plain", HTTPStatus.NOT_FOUND)
        except (ValueError, TypeError, IndexError, OverflowError, AgentDistillError) as error:
            self._answer(f"{error}\n".encode(), "text/plain", HTTPStatus.BAD_REQUEST)

    def _names_this_server(self) -> bool:
        """Whether the Host header names this server: as an IP address, as localhost, or by the name it listens at. A
        web page that resolves its own name to this machine (DNS rebinding) still sends its own name."""
        name = host_name(self.headers.get_all("Host", []))
        return name is not None and (name in ("localhost", self.server.host.lower()) or address_of(name) is not None)

    def _page(self) -> None:
        nonce = secrets.token_urlsafe(16)
        page = load("viewer.html").replace("NONCE", nonce).replace("/* style.css */", load("style.css"))
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
            "trusted-types 'none'"
        )
        self._answer(page.encode(), "text/html", policy=policy)

    def _state(self) -> dict[str, Any]:
        index = self.server.index
        return {
            "count": len(index),
            "share": index.share,
            "done": index.done,
            "damaged": index.damaged[:3] + ["..."] * (len(index.damaged) > 3),
            "counts": {name: dict(counter) for name, counter in index.counts.items()},
            "learnt": self.server.learnt is not None,
        }

    def _list(self, query: dict[str, str]) -> dict[str, Any]:
        """The trajectories chosen, ``count`` of them from ``start`` on."""
        start, count = int(query.pop("start", 0)), min(int(query.pop("count", 100)), 1000)
        chosen = Filter(**{**query, "everywhere": "everywhere" in query})  # type: ignore[arg-type]  # others are a TypeError
        numbers = self.server.choose(chosen)
        return {"total": len(numbers), "rows": [self.server.index.row(i) for i in numbers[start : start + count]]}

    def _json(self, value: Any) -> None:
        self._answer(json.dumps(value).encode(), "application/json")

    def _answer(
        self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, policy: str = "default-src 'none'"
    ) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", policy),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing to the user's terminal."""
