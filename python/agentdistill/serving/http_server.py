"""The HTTP server under ``agentdistill serve``, ``record`` and ``serve-environment``.

It listens, checks the API key and the Host header, limits what a client may send, and answers errors as JSON, in the
form of OpenAI's protocol. A server of something derives from :class:`HttpServer` and adds its endpoints. Limits on each
connection are in connection.py. Not here: TLS.
"""

import asyncio
import hmac
import json
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

import uvicorn
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from agentdistill.event_loop import event_loop
from agentdistill.host_header import is_loopback, names_this_machine
from agentdistill.serving.connection import HEAD_BYTES, Connection, WebSocketConnection

REQUEST_BYTES = 4 << 20
"""Maximum size of a request's body, or of a WebSocket's message, in bytes."""

REQUEST_SECONDS = 30.0
"""Time limit for receiving a request's body."""

GRACE_SECONDS = 10
"""Time limit for running requests to finish when the server stops."""

Json = dict[str, Any]

_Body = TypeVar("_Body", bound=BaseModel)
_Asked = TypeVar("_Asked", bound=HTTPConnection)
_Result = TypeVar("_Result")
_Guarded = Callable[[_Asked], Awaitable[_Result]]
Endpoint = _Guarded[Request, Response]
Socket = _Guarded[WebSocket, None]


class HttpServer(ABC):
    """A server inside a ``with`` block, on the event loop that all rollouts share."""

    def __init__(self, host: str, port: int, api_key: str | None) -> None:
        """Listen on ``host`` and ``port``; port 0 selects a free port. ``api_key``: the key that clients must send.

        Raises OSError if it cannot listen there. Raises ValueError for a port out of range, if the key is empty, or if
        other machines can reach ``host`` and there is no key.
        """
        if not 0 <= port < 1 << 16:
            raise ValueError(f"port is {port}: give 0 (any that is free) to 65535")
        if api_key is not None and not api_key.strip():
            raise ValueError("the API key is empty: give a key, or none")
        try:
            family, _, _, _, (address, *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            if not is_loopback(str(address)) and api_key is None:
                raise ValueError(
                    f"{host} is open to all who can reach this machine: give an API key (AGENTDISTILL_API_KEY), or "
                    "listen at 127.0.0.1"
                )
            self._socket = socket.create_server((str(address), port), family=family)
        except OSError as error:
            raise OSError(f"cannot listen at {host}:{port}: {error}") from error
        at = f"[{host}]" if family == socket.AF_INET6 else host
        self.url = f"http://{at}:{self._socket.getsockname()[1]}"
        """The base URL for clients."""
        self._key = (api_key or "").encode()
        options: dict[str, Any] = {"lifespan": "off", "log_config": None, "access_log": False}
        options |= {"http": Connection, "h11_max_incomplete_event_size": HEAD_BYTES}
        options |= {"ws": WebSocketConnection if self.sockets() else "none"}
        options |= {"ws_max_size": REQUEST_BYTES, "ws_per_message_deflate": False}
        options |= {"ws_ping_interval": None}  # a trainer may be busy for longer than a ping waits
        self._server = uvicorn.Server(uvicorn.Config(self._app(), timeout_graceful_shutdown=GRACE_SECONDS, **options))

    @abstractmethod
    def health(self) -> Json:
        """What ``GET /health`` reports besides the status."""

    @abstractmethod
    def endpoints(self) -> dict[str, Endpoint]:
        """The endpoints for clients with the key, by method and path ("POST /reset"). They may raise Refused."""

    def sockets(self) -> dict[str, Socket]:
        """The WebSockets for clients with the key, by path."""
        return {}

    def __enter__(self) -> Self:
        self._serving = asyncio.run_coroutine_threadsafe(self._server.serve([self._socket]), event_loop())
        return self

    def __exit__(self, *_: object) -> None:
        """Accept no more requests, and wait at most ``GRACE_SECONDS`` for running ones."""
        self._server.should_exit = True
        self._serving.result()

    def _app(self) -> Starlette:
        endpoints = self.endpoints()
        self._paths = ["GET /health", *endpoints]
        routes: list[BaseRoute] = [Route("/health", self._protected(self._get_health))]
        for path, endpoint in endpoints.items():
            method, _, place = path.partition(" ")
            routes.append(Route(place, self._authorized(endpoint), methods=[method]))
        routes += [WebSocketRoute(path, self._authorized(socket)) for path, socket in self.sockets().items()]
        handlers: Any = {
            Refused: _refuse,
            HTTPException: self._no_such_endpoint,
            ClientDisconnect: _client_disconnected,
            Exception: _internal_error,
        }
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False  # a redirect would go to the host that the Host header names
        return app

    def _authorized(self, endpoint: _Guarded[_Asked, _Result]) -> _Guarded[_Asked, _Result]:
        """Restrict ``endpoint`` to clients that send the API key or, if there is no key, to this machine."""

        async def guarded(request: _Asked) -> _Result:
            given = request.headers.get("authorization", "").encode("latin-1")  # the bytes as sent
            if self._key and not hmac.compare_digest(given, b"Bearer " + self._key):
                message, wanted = "wrong API key: send the server's as a bearer token", {"WWW-Authenticate": "Bearer"}
                raise Refused(401, message, code="invalid_api_key", headers=wanted)
            return await endpoint(request)

        return self._protected(guarded)

    def _protected(self, endpoint: _Guarded[_Asked, _Result]) -> _Guarded[_Asked, _Result]:
        """If there is no API key, restrict ``endpoint`` to requests whose Host header names this machine, and
        WebSockets to programs.

        This prevents DNS rebinding: a web site that resolves to this machine's address can send requests, but their
        Host header names the site. It can also open a WebSocket to this machine's own name; browsers then send Origin.
        """

        async def guarded(request: _Asked) -> _Result:
            if not self._key and not names_this_machine(request.headers.getlist("host")):
                raise Refused(403, "the Host header must name this machine, because the server has no API key")
            if not self._key and isinstance(request, WebSocket) and "origin" in request.headers:
                raise Refused(403, "web pages cannot open a WebSocket here, because the server has no API key")
            return await endpoint(request)

        return guarded

    async def _get_health(self, request: Request) -> Response:
        return json_response({"status": "ok", **self.health()})

    async def _no_such_endpoint(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"there is no {request.method} {request.scope['path']}: there are {', '.join(self._paths)}"
        return await _refuse(request, Refused(error.status_code, message, headers=dict(error.headers or {})))


class Refused(Exception):
    """A request is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


def validated(form: type[_Body], body: Any) -> _Body:
    """A request's body in the given form. Raises Refused with the first field that is wrong."""
    try:
        return form.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise Refused(400, f"{where}: {first['msg']}", param=where) from None


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response in ASCII; other characters are escaped."""
    return Response(json.dumps(body), status, headers, media_type="application/json")


async def json_object(request: Request) -> Json:
    """The JSON object in a request's body. Raises Refused."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # Browsers let pages of other sites send simple content types without a CORS preflight.
        raise Refused(415, "send application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > REQUEST_BYTES:
                    raise Refused(413, f"the request is larger than {REQUEST_BYTES} bytes")
    except TimeoutError:
        raise Refused(408, f"the request did not arrive within {REQUEST_SECONDS:g} s") from None
    try:
        content = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the request is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise Refused(400, "the request is not a JSON object")
    return content


async def unless_disconnected(work: Awaitable[_Result], request: Request) -> _Result:
    """Await ``work``. If the client, whose request was read completely, disconnects first, cancels the work and raises
    ClientDisconnect."""
    asked, gone = asyncio.ensure_future(work), asyncio.ensure_future(_until_disconnected(request))
    try:
        await asyncio.wait([asked, gone], return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            raise ClientDisconnect
        return await asked
    finally:
        gone.cancel()
        asked.cancel()


async def _until_disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return json_response(error.body, error.status, error.headers)


async def _client_disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the client is gone


async def _internal_error(request: Request, error: Exception) -> Response:
    return await _refuse(request, Refused(500, "internal error; see the server's log"))
