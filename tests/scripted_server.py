"""A server that fails as scripted, for tests of its clients."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler", dict[str, Any]], None]


def status(
    code: int, message: str = "no", headers: dict[str, str] | None = None, kind: str | None = None, **extra: str
) -> Answer:
    body = json.dumps({"error": {"message": message, "code": kind} | extra})
    return lambda handler, request: handler.send(code, body, headers=headers)


def raw(body: str, content_type: str = "application/json") -> Answer:
    return lambda handler, request: handler.send(200, body, content_type)


def cut(handler: "Handler", request: dict[str, Any]) -> None:
    """Announce more bytes than are sent, then close the connection."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def hang_up(handler: "Handler", request: dict[str, Any]) -> None:
    handler.close_connection = True


def too_slow(handler: "Handler", request: dict[str, Any]) -> None:
    time.sleep(1.5)


class Server(ThreadingHTTPServer):
    """Follows the script, one entry per request; the last entry repeats. Records the requests."""

    script: list[Answer]
    requests: list[dict[str, Any]]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # some tests let clients disconnect
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request["key"] = self.headers["Authorization"]
        self.server.requests.append(request)
        script = self.server.script
        (script.pop(0) if len(script) > 1 else script[0])(self, request)

    def do_GET(self) -> None:
        self.send(200, json.dumps({"object": "list", "data": [{"id": "small"}, {"id": "large"}]}))

    def send(
        self, code: int, body: str, content_type: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body.encode())))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(*script: Answer, port: int = 0) -> Iterator[Server]:
    server = Server(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.script, server.requests = list(script), []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


FLEETING = {
    **{str(code): status(code) for code in (408, 409, 425, 429, 500, 502, 503, 504, 529)},
    "retry-after in seconds": status(429, headers={"Retry-After": "0"}),
    "retry-after as a date": status(503, headers={"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}),
    "retry-after as nonsense": status(503, headers={"Retry-After": "soon"}),
    "error page": lambda handler, request: handler.send(502, "<html>Bad gateway</html>", "text/html"),
    "connection cut": cut,
    "no answer": hang_up,
    "too slow": too_slow,
    "garbage": raw("{]"),
    "web page": raw("<html>Welcome</html>", "text/html"),
    "empty": raw(""),
    "null": raw("null"),
    "a list": raw("[1, 2]"),
    "an object": raw('{"hello": 1}'),
}
"""Temporary failures, which are worth a retry."""
