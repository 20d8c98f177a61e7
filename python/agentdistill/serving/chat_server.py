"""``agentdistill serve``: an agent behind OpenAI's chat completions API, so that any client can use it as a model.

Each request is an episode. The agent's answer is the completion's content. Its actions and observations are the
completion's ``reasoning_content`` (a field of DeepSeek's and vLLM's servers); with ``stream``, they are sent as they
arrive. All requests share one player, with its model, sandbox and tools.

An agent was trained on episodes of one question, with its own prompt. Instructions and earlier turns of a client are
therefore prepended to the last question as text, and each request starts from a fresh State. Sampling parameters are
the server's settings: ``temperature``, ``max_tokens``, ``seed`` and the like in a request have no effect. Not here:
tools of the client, several completions per request, TLS.

Source: https://platform.openai.com/docs/api-reference/chat
"""

import asyncio
import hmac
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, Literal
from uuid import uuid4

import uvicorn
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from agentdistill._core import Trajectory
from agentdistill.event_loop import event_loop
from agentdistill.host_header import is_loopback, names_this_machine
from agentdistill.rollouts.player import FAILED, Player
from agentdistill.serving.connection import HEAD_BYTES, Connection
from agentdistill.tasks.task import Task

_log = logging.getLogger(__name__)

REQUEST_BYTES = 4 << 20
"""Maximum size of a request's body, in bytes."""

REQUEST_SECONDS = 30.0
"""Time limit for receiving a request's body."""

GRACE_SECONDS = 10
"""Time limit for running episodes to finish when the server stops."""


_Endpoint = Callable[[Request], Awaitable[Response]]


class ChatServer:
    """Serves an agent over HTTP inside a ``with`` block, on the event loop that all rollouts share."""

    def __init__(
        self,
        player: Player,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        name: str | None = None,
        api_key: str | None = None,
        seconds: float = 600.0,
    ) -> None:
        """Listen on ``host`` and ``port``; port 0 selects a free port. ``name``: the model's name for clients (default:
        its own). ``api_key``: the key that clients must send. ``seconds``: time limit of a request.

        Raises OSError if it cannot listen there. Raises ValueError if ``seconds`` is not positive, the key is empty, or
        other machines can reach ``host`` and there is no key.
        """
        if seconds <= 0:
            raise ValueError(f"a request may take {seconds} s: give more than 0")
        if api_key is not None and not api_key.strip():
            raise ValueError("the API key is empty: give a key, or none")
        try:
            family, _, _, _, (address, *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            local = is_loopback(str(address))
            if not local and api_key is None:
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
        self.name = name or player.model_name
        app = _Api(player, self.name, api_key, seconds, local=local).app()
        options: dict[str, Any] = {"ws": "none", "lifespan": "off", "log_config": None, "access_log": False}
        options |= {"http": Connection, "h11_max_incomplete_event_size": HEAD_BYTES}
        self._server = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=GRACE_SECONDS, **options))

    def __enter__(self) -> "ChatServer":
        self._serving = asyncio.run_coroutine_threadsafe(self._server.serve([self._socket]), event_loop())
        return self

    def __exit__(self, *_: object) -> None:
        """Accept no more requests, and wait at most ``GRACE_SECONDS`` for running ones."""
        self._server.should_exit = True
        self._serving.result()


def _as_text(content: Any) -> Any:
    """Join a message's content if it consists of text parts. Raises ValueError for parts that are not text."""
    if not isinstance(content, list):
        return content or ""
    if any(not isinstance(part, dict) or part.get("type") != "text" for part in content):
        raise ValueError("it has parts that are not text; the agent reads only text")
    return "\n".join(str(part.get("text", "")) for part in content)


class _Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_as_text)] = ""


class _StreamOptions(BaseModel):
    include_usage: bool | None = None


class _ChatRequest(BaseModel):
    """The fields of a request's body that the server uses."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[_Message] = Field(min_length=1)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None


# Parameters that an agent does not support, each with the one value that is accepted because it has no effect.
_UNSUPPORTED: dict[str, object] = {
    "n": 1,
    "tools": [],
    "functions": [],
    "logprobs": False,
    "response_format": {"type": "text"},
    "modalities": ["text"],
}


class _Refused(Exception):
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


class _Api:
    """The HTTP endpoints."""

    def __init__(self, player: Player, name: str, api_key: str | None, seconds: float, *, local: bool) -> None:
        self._player = player
        self._name = name
        self._key = (api_key or "").encode()
        self._seconds = seconds
        self._local = local
        self._started = int(time.time())
        self._episodes = set[asyncio.Task[Trajectory]]()

    def app(self) -> Starlette:
        routes = [
            Route("/health", self._protected(self._health)),
            Route("/v1/models", self._authorized(self._models)),
            Route("/v1/models/{name:path}", self._authorized(self._model)),
            Route("/v1/chat/completions", self._authorized(self._completions), methods=["POST"]),
        ]
        handlers = {
            _Refused: _refuse,
            HTTPException: _no_such_endpoint,
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
                raise _Refused(401, message, code="invalid_api_key", headers=wanted)
            return await endpoint(request)

        return self._protected(guarded)

    def _protected(self, endpoint: _Endpoint) -> _Endpoint:
        """If there is no API key, restrict ``endpoint`` to requests whose Host header names this machine.

        This prevents DNS rebinding: a web site that resolves to this machine's address can send requests, but their
        Host header names the site.
        """

        async def guarded(request: Request) -> Response:
            if not self._key and not names_this_machine(request.headers.getlist("host")):
                raise _Refused(403, "the Host header must name this machine, because the server has no API key")
            return await endpoint(request)

        return guarded

    def _running(self) -> int:
        """Number of running episodes, plus steps of cancelled episodes that have not ended yet."""
        return len(self._episodes) + self._player.abandoned

    async def _health(self, request: Request) -> Response:
        return _json({"status": "ok", "episodes": self._running()})

    async def _models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._model_object()]})

    async def _model(self, request: Request) -> Response:
        self._check_name(request.path_params["name"])
        return _json(self._model_object())

    def _model_object(self) -> dict[str, Any]:
        return {"id": self._name, "object": "model", "created": self._started, "owned_by": "agentdistill"}

    def _check_name(self, name: str) -> None:
        if name != self._name:
            message = f"no model {name!r} here; this server has only {self._name!r}"
            raise _Refused(404, message, param="model", code="model_not_found")

    async def _completions(self, request: Request) -> Response:
        chat_request = _parse(await _body(request))
        self._check_name(chat_request.model)
        question = as_question([(message.role, message.content) for message in chat_request.messages])
        if (running := self._running()) >= self._player.at_once:
            message = f"all {running} slots for requests are in use: try again later"
            raise _Refused(429, message, code="rate_limit_exceeded", headers={"Retry-After": "1"})
        completion = _Completion(self._name)
        output = asyncio.Queue[str | None]()
        play = self._player.play(Task(completion.id, question), show=output.put_nowait)
        episode = asyncio.create_task(asyncio.wait_for(play, self._seconds))
        self._episodes.add(episode)

        def ended(_: object) -> None:
            self._episodes.discard(episode)
            output.put_nowait(None)

        episode.add_done_callback(ended)
        if chat_request.stream:
            usage = bool(chat_request.stream_options and chat_request.stream_options.include_usage)
            events = _events(completion, episode, output, usage=usage)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        trajectory = await _ended(episode, request)
        reasoning = "".join(iter(output.get_nowait, None))  # None is the end
        return _json(completion.whole(trajectory, reasoning))


def as_question(messages: list[tuple[str, str]]) -> str:
    """Turn a conversation into one question: instructions first, then the earlier turns, then the last question.

    A single question is returned unchanged. Raises _Refused for a conversation that does not end with a question.

    >>> print(as_question([("user", "Who wrote Emma?"), ("assistant", "Jane Austen"), ("user", "When?")]))
    The conversation so far:
    User: Who wrote Emma?
    Assistant: Jane Austen
    <BLANKLINE>
    Now answer this:
    When?
    """
    role, question = messages[-1]
    if role != "user" or not question.strip():
        raise _Refused(400, "the last message must be the user's, and not empty", param="messages")
    instructions = [text for role, text in messages if role in ("system", "developer") and text]
    turns = [f"{role.capitalize()}: {text}" for role, text in messages[:-1] if role in ("user", "assistant")]
    if turns:
        question = "\n".join(["The conversation so far:", *turns, "", "Now answer this:", question])
    return "\n\n".join([*instructions, question])


class _Completion:
    """One completion in the formats of the API: as a whole, and as chunks of a stream."""

    def __init__(self, model: str) -> None:
        self.id = f"chatcmpl-{uuid4().hex}"
        self._model = model
        self._created = int(time.time())

    def whole(self, trajectory: Trajectory | None, reasoning: str) -> dict[str, Any]:
        message = {
            "role": "assistant",
            "content": _content(trajectory),
            "refusal": None,
            "reasoning_content": reasoning,
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(trajectory)}
        return self._object("chat.completion", [choice], usage=_usage(trajectory))

    def chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", [choice])

    def usage_chunk(self, trajectory: Trajectory | None) -> dict[str, Any]:
        return self._object("chat.completion.chunk", [], usage=_usage(trajectory))

    def _object(self, kind: str, choices: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
            **more,
        }


async def _events(
    completion: _Completion, episode: "asyncio.Task[Trajectory]", output: "asyncio.Queue[str | None]", *, usage: bool
) -> AsyncIterator[str]:
    """Yield a completion as server-sent events. If the client disconnects, the episode is cancelled."""
    try:
        yield _event(completion.chunk({"role": "assistant", "content": ""}))
        while (text := await output.get()) is not None:
            yield _event(completion.chunk({"reasoning_content": text}))
        trajectory = await _ended(episode)
        yield _event(completion.chunk({"content": _content(trajectory)}))
        yield _event(completion.chunk({}, _finish_reason(trajectory)))
        if usage:
            yield _event(completion.usage_chunk(trajectory))
    except _Refused as refused:
        yield _event(refused.body)
    finally:
        episode.cancel()
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"  # ASCII: some clients treat U+0085 and U+2028 as line ends


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response in ASCII; other characters are escaped."""
    return Response(json.dumps(body), status, headers, media_type="application/json")


async def _ended(episode: "asyncio.Task[Trajectory]", request: Request | None = None) -> Trajectory | None:
    """Wait for an episode's trajectory; None if it exceeded its time limit.

    If the client disconnects first, cancels the episode and raises ClientDisconnect. Raises _Refused if the model or
    the sandbox fails.
    """
    gone = asyncio.ensure_future(_left(request) if request else asyncio.Event().wait())
    try:
        await asyncio.wait([episode, gone], return_when=asyncio.FIRST_COMPLETED)
        if not episode.done():
            raise ClientDisconnect
        trajectory = await episode
    except TimeoutError:
        return None
    finally:
        gone.cancel()
        episode.cancel()
    if trajectory.outcome in FAILED:
        _log.error("%s: %s: %s", trajectory.task_id, trajectory.outcome, trajectory.error)
        what = {"model_error": "model", "sandbox_error": "sandbox"}.get(trajectory.outcome, "server")
        raise _Refused(502, f"the {what} failed; see the server's log", code=trajectory.outcome)
    return trajectory


async def _left(request: Request) -> None:
    """Wait until the client disconnects. Its request must have been read completely."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _content(trajectory: Trajectory | None) -> str:
    """The agent's answer; "" if there is none."""
    return (trajectory.answer if trajectory else None) or ""


def _finish_reason(trajectory: Trajectory | None) -> str:
    """Return "stop" if there is an answer, or "length" if a limit was reached (steps, tokens, time, parse failures)."""
    return "stop" if trajectory and trajectory.answer else "length"


def _usage(trajectory: Trajectory | None) -> dict[str, int]:
    prompt, completion = trajectory.usage if trajectory else (0, 0)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def _body(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # Browsers let pages of other sites send simple content types without a CORS preflight.
        raise _Refused(415, "send application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > REQUEST_BYTES:
                    raise _Refused(413, f"the request is larger than {REQUEST_BYTES} bytes")
    except TimeoutError:
        raise _Refused(408, f"the request did not arrive within {REQUEST_SECONDS:g} s") from None
    return bytes(body)


def _parse(body: bytes) -> _ChatRequest:
    try:
        chat_request = _ChatRequest.model_validate(json.loads(body))
    except (ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise _Refused(400, f"the request is not JSON: {error}") from None
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise _Refused(400, f"{where}: {first['msg']}", param=where) from None
    for name, nothing in _UNSUPPORTED.items():
        if (chat_request.model_extra or {}).get(name) not in (None, nothing):
            message = f"{name} is not supported: the agent gives one answer, as text, and uses its own tools"
            raise _Refused(400, message, param=name, code="unsupported_parameter")
    return chat_request


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, _Refused)
    return _json(error.body, error.status, error.headers)


async def _no_such_endpoint(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    there_are = "GET /health, GET /v1/models, POST /v1/chat/completions"
    message = f"there is no {request.method} {request.scope['path']}: there are {there_are}"
    return await _refuse(request, _Refused(error.status_code, message, headers=dict(error.headers or {})))


async def _client_disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the client is gone


async def _internal_error(request: Request, error: Exception) -> Response:
    return await _refuse(request, _Refused(500, "internal error; see the server's log"))
