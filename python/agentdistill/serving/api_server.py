"""OpenAI's protocol, for ``agentdistill serve`` and ``agentdistill record``: its endpoints, and its objects.

A server of something derives from :class:`ApiServer` and completes conversations. Not here: HTTP itself
(http_server.py).
"""

import json
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from agentdistill.serving.http_server import Endpoint, HttpServer, Json, Refused, json_object, json_response, validated


class ApiServer(HttpServer):
    """A server of one model."""

    def __init__(self, name: str, host: str, port: int, api_key: str | None) -> None:
        """``name``: the model's name for clients. The other arguments are those of ``HttpServer``."""
        super().__init__(host, port, api_key)
        self.url += "/v1"
        self.name = name
        self._started = int(time.time())

    @abstractmethod
    async def complete(self, body: Json, request: Request) -> Response:
        """Answer a request for a chat completion. ``body`` is its JSON object. Raises Refused."""

    def endpoints(self) -> dict[str, Endpoint]:
        return {
            "GET /v1/models": self._get_models,
            "GET /v1/models/{name:path}": self._get_model,
            "POST /v1/chat/completions": self._completions,
        }

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


def event_stream(events: AsyncIterator[str], headers: dict[str, str] | None = None) -> Response:
    """A response of server-sent events."""
    return StreamingResponse(
        events, media_type="text/event-stream", headers={"Cache-Control": "no-cache", **(headers or {})}
    )
