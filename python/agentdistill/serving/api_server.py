"""The HTTP server behind ``agentdistill serve`` and ``agentdistill record``, with OpenAI's protocol.

It listens, checks the API key and the Host header, limits what a client may send, and answers errors in the protocol's
form. A server of something derives from :class:`ApiServer` and completes conversations. Limits on each connection are
in connection.py. Not here: TLS.
"""

import asyncio
import hmac
import json
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar
from uuid import uuid4

import uvicorn
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from agentdistill.event_loop import event_loop
from agentdistill.host_header import is_loopback, names_this_machine
from agentdistill.serving.connection import HEAD_BYTES, Connection

REQUEST_BYTES = 4 << 20
"""Maximum size of a request's body, in bytes."""

REQUEST_SECONDS = 30.0
"""Time limit for receiving a request's body."""

GRACE_SECONDS = 10
"""Time limit for running requests to finish when the server stops."""


Json = dict[str, Any]

_Endpoint = Callable[[Request], Awaitable[Response]]
_Body = TypeVar("_Body", bound=BaseModel)
_Result = TypeVar("_Result")


class ApiServer(ABC):
    """A server of one model, inside a ``with`` block, on the event loop that all rollouts share."""

    def __init__(self, name: str, host: str, port: int, api_key: str | None) -> None:
        """Listen on ``host`` and ``port``; port 0 selects a free port. ``name``: the model's name for clients.
        ``api_key``: the key that clients must send.

        Raises OSError if it cannot listen there. Raises ValueError if the key is empty, or if other machines can reach
        ``host`` and there is no key.
        """
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
        self.url = f"http://{at}:{self._socket.getsockname()[1]}/v1"
        """The base URL for clients."""
        self.name = name
        self._key = (api_key or "").encode()
        self._started = int(time.time())
        options: dict[str, Any] = {"ws": "none", "lifespan": "off", "log_config": None, "access_log": False}
        options |= {"http": Connection, "h11_max_incomplete_event_size": HEAD_BYTES}
        self._server = uvicorn.Server(uvicorn.Config(self._app(), timeout_graceful_shutdown=GRACE_SECONDS, **options))

    @abstractmethod
    async def complete(self, body: Json, request: Request) -> Response:
        """Answer a request for a chat completion. ``body`` is its JSON object. Raises Refused."""

    @abstractmethod
    def health(self) -> Json:
        """What ``GET /health`` reports besides the status."""

    def more_endpoints(self) -> dict[str, _Endpoint]:
        """Further endpoints by path, to which clients with the key can POST."""
        return {}

    def __enter__(self) -> Self:
        self._serving = asyncio.run_coroutine_threadsafe(self._server.serve([self._socket]), event_loop())
        return self

    def __exit__(self, *_: object) -> None:
        """Accept no more requests, and wait at most ``GRACE_SECONDS`` for running ones."""
        self._server.should_exit = True
        self._serving.result()

    def _app(self) -> Starlette:
        posts = {"/v1/chat/completions": self._completions, **self.more_endpoints()}
        routes = [
            Route("/health", self._protected(self._get_health)),
            Route("/v1/models", self._authorized(self._get_models)),
            Route("/v1/models/{name:path}", self._authorized(self._get_model)),
            *(Route(path, self._authorized(endpoint), methods=["POST"]) for path, endpoint in posts.items()),
        ]
        self._paths = ["GET /health", "GET /v1/models", *(f"POST {path}" for path in posts)]
        handlers = {
            Refused: _refuse,
            HTTPException: self._no_such_endpoint,
            ClientDisconnect: _client_disconnected,
            Exception: _internal_error,
        }
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False  # a redirect would go to the host that the Host header names
        return app

    def _authorized(self, endpoint: _Endpoint) -> _Endpoint:
        """Restrict ``endpoint`` to clients that send the API key or, if there is no key, to this machine."""

        async def guarded(request: Request) -> Response:
            given = request.headers.get("authorization", "").encode("latin-1")  # the bytes as sent
            if self._key and not hmac.compare_digest(given, b"Bearer " + self._key):
                message, wanted = "wrong API key: send the server's as a bearer token", {"WWW-Authenticate": "Bearer"}
                raise Refused(401, message, code="invalid_api_key", headers=wanted)
            return await endpoint(request)

        return self._protected(guarded)

    def _protected(self, endpoint: _Endpoint) -> _Endpoint:
        """If there is no API key, restrict ``endpoint`` to requests whose Host header names this machine.

        This prevents DNS rebinding: a web site that resolves to this machine's address can send requests, but their
        Host header names the site.
        """

        async def guarded(request: Request) -> Response:
            if not self._key and not names_this_machine(request.headers.getlist("host")):
                raise Refused(403, "the Host header must name this machine, because the server has no API key")
            return await endpoint(request)

        return guarded

    async def _get_health(self, request: Request) -> Response:
        return json_response({"status": "ok", **self.health()})

    async def _get_models(self, request: Request) -> Response:
        return json_response({"object": "list", "data": [self._model_object()]})

    async def _get_model(self, request: Request) -> Response:
        self._check_name(request.path_params["name"])
        return json_response(self._model_object())

    def _model_object(self) -> Json:
        return {"id": self.name, "object": "model", "created": self._started, "owned_by": "agentdistill"}

    def _check_name(self, name: Any) -> None:
        if name != self.name:
            message = f"no model {name!r} here; this server has only {self.name!r}"
            raise Refused(404, message, param="model", code="model_not_found")

    async def _completions(self, request: Request) -> Response:
        body = await json_object(request)
        self._check_name(validated(_Named, body).model)
        return await self.complete(body, request)

    async def _no_such_endpoint(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        message = f"there is no {request.method} {request.scope['path']}: there are {', '.join(self._paths)}"
        return await _refuse(request, Refused(error.status_code, message, headers=dict(error.headers or {})))


class Refused(Exception):
    """A request is answered with an error instead of a completion."""

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


class ChatCompletion:
    """The objects of one completion: as a whole, and as chunks of a stream."""

    def __init__(self, model: str) -> None:
        self.id = f"chatcmpl-{uuid4().hex}"
        self._model = model
        self._created = int(time.time())

    def whole(self, choices: Sequence[Json], usage: dict[str, int]) -> Json:
        return self._object("chat.completion", choices, usage=usage)

    def chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", [choice])

    def usage_chunk(self, usage: dict[str, int]) -> Json:
        return self._object("chat.completion.chunk", [], usage=usage)

    def _object(self, kind: str, choices: Sequence[Json], **more: object) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
            **more,
        }


class _Named(BaseModel):
    model: str


class _StreamOptions(BaseModel):
    include_usage: bool | None = None


class Streamable(BaseModel):
    """The fields of a request that say whether the completion is sent as a stream."""

    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


def validated(form: type[_Body], body: Any) -> _Body:
    """A request's body in the given form. Raises Refused with the first field that is wrong."""
    try:
        return form.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise Refused(400, f"{where}: {first['msg']}", param=where) from None


def joined_text(content: Any) -> Any:
    """Join a message's content if it consists of text parts. Raises ValueError for parts that are not text."""
    if not isinstance(content, list):
        return content or ""
    if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
        raise ValueError("it has parts that are not text; the model reads only text")
    return "\n".join(str(part.get("text", "")) for part in content)


def event(body: Json) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body)}\n\n"  # ASCII: some clients treat U+0085 and U+2028 as line ends


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


def event_stream(events: AsyncIterator[str], headers: dict[str, str] | None = None) -> Response:
    """A response of server-sent events."""
    return StreamingResponse(
        events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", **(headers or {})}
    )


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
