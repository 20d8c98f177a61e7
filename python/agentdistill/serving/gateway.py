"""``agentdistill record``: a model behind OpenAI's chat completions API that records what agents do with it.

Any agent that speaks the protocol can use it in place of its model: with tool calls, several completions per request,
and streams. A model on a server (``openai:``) gets each request as it is, and its response and errors are passed on. A
model in this process gets the conversation as texts (text_model.py). Both are asked for token ids and log
probabilities, which a client gets only if it asks for them too.

A client can name its session: in the header ``X-Session-ID``, in ``metadata.session_id``, or in ``user``. It can end a
session with ``POST /v1/sessions/NAME``, and tell its answer or score. Not here: the HTTP server (http_server.py), and
what is written to the file (recording.py). A stream is sent when the completion is complete.

Source: https://platform.openai.com/docs/api-reference/chat
"""

import logging
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from agentdistill._core import TrajectoryError
from agentdistill.event_loop import run_blocking
from agentdistill.models.model import DatedModel, ForwardingModel, Model, ModelError, ServerRefusal
from agentdistill.serving.api_server import ApiServer, Streamable, event, event_stream
from agentdistill.serving.http_server import (
    Endpoint,
    Json,
    Refused,
    json_object,
    json_response,
    unless_disconnected,
    validated,
)
from agentdistill.serving.recording import Recorder
from agentdistill.serving.text_model import completed
from agentdistill.tasks.task import Task

_log = logging.getLogger(__name__)

SESSION = "X-Session-ID"
"""The header that names a session, in requests and responses."""


class Gateway(ApiServer):
    """Serves and records a model over HTTP inside a ``with`` block. At its end, all conversations are written."""

    def __init__(
        self,
        model: Model,
        output: str | Path,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        name: str | None = None,
        api_key: str | None = None,
        tasks: Sequence[Task] = (),
        idle_seconds: float = 600.0,
    ) -> None:
        """``output``: the trajectory file. One that was recorded with the same model is appended to. ``tasks``: their
        reference answers go to the conversations about their questions. ``idle_seconds``: when a conversation without
        requests is written. The other arguments are those of ``ChatServer``.

        Raises TrajectoryError for a file of another run; else as ``ChatServer``.
        """
        super().__init__(name or model.name, host, port, api_key)
        self._model = model
        date = model.date.isoformat() if isinstance(model, DatedModel) else None
        self._recorder = Recorder(Path(output), model.name, tasks, idle_seconds=idle_seconds, date=date)

    @property
    def written(self) -> int:
        """Number of trajectories written so far."""
        return self._recorder.written

    def __exit__(self, *reason: object) -> None:
        try:
            super().__exit__(*reason)
        finally:
            run_blocking(self._recorder.close())

    def health(self) -> Json:
        return {"conversations": self._recorder.open_conversations}

    def endpoints(self) -> dict[str, Endpoint]:
        return super().endpoints() | {"POST /v1/sessions/{session:path}": self._end}

    async def complete(self, body: Json, request: Request) -> Response:
        chat_request = validated(_ChatRequest, body)
        try:
            given = self._recorder.check(body["messages"])
        except TrajectoryError as error:
            raise Refused(400, f"these messages cannot be recorded: {error}", param="messages") from None
        began = time.time()
        reply = await unless_disconnected(self._reply(body, chat_request), request)
        try:
            session = self._recorder.add(_session(chat_request, request), body, given, reply, began, time.time())
        except TrajectoryError as error:
            raise Refused(502, f"the reply of the model cannot be recorded: {error}") from None
        headers = {SESSION: session.encode("ascii", "replace").decode()}
        shown = _shown(reply, chat_request)
        if chat_request.stream:
            return event_stream(_chunks(shown, usage=chat_request.wants_usage), headers)
        return json_response(shown, headers=headers)

    async def _end(self, request: Request) -> Response:
        session = request.path_params["session"]
        details = validated(_Details, await json_object(request)).model_dump(exclude_none=True)
        if "score" in details:
            details["grader"] = "client"
        if not (written := self._recorder.end(session, details)):
            raise Refused(404, f"no session {session!r} with conversations that are not written yet")
        return json_response({"session": session, "trajectories": written})

    async def _reply(self, body: Json, chat_request: "_ChatRequest") -> Json:
        """The model's reply in the form of the protocol, with token ids and log probabilities. Raises Refused."""
        try:
            if isinstance(self._model, ForwardingModel):
                return await self._model.forward(body)
            return await completed(self._model, body)
        except ServerRefusal as error:
            _log.warning("%s", error)
            refused = Refused(error.status, str(error))
            refused.body = error.body
            raise refused from error
        except ModelError as error:
            _log.error("%s", error)
            raise Refused(502, "the model failed; see the server's log", code="model_error") from error


class _Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]


class _ChatRequest(Streamable):
    """The fields of a request that the gateway itself uses."""

    messages: list[_Message] = Field(min_length=1)
    logprobs: bool | None = None
    return_token_ids: bool | None = None
    user: str | None = None
    metadata: Json | None = None


class _Details(BaseModel):
    """What a client can tell at the end of its session."""

    model_config = ConfigDict(extra="forbid")

    answer: str | None = None
    score: float | None = Field(None, ge=0, le=1)
    reference: str | None = None
    task_id: str | None = Field(None, min_length=1)


def _session(chat_request: _ChatRequest, request: Request) -> str | None:
    """The name that the client gives its session."""
    named = (chat_request.metadata or {}).get("session_id")
    return request.headers.get(SESSION) or (named if isinstance(named, str) else None) or chat_request.user or None


# ---- what a client sees ----------------------------------------------------------------------------


def _shown(reply: Json, chat_request: _ChatRequest) -> Json:
    """A reply without what only the recording needs."""
    hidden = set[str]() if chat_request.return_token_ids else {"prompt_token_ids", "token_ids"}
    choices = [{name: value for name, value in choice.items() if name not in hidden} for choice in reply["choices"]]
    if not chat_request.logprobs:
        choices = [choice | {"logprobs": None} for choice in choices]
    return {name: value for name, value in reply.items() if name not in hidden} | {"choices": choices}


async def _chunks(reply: Json, *, usage: bool) -> AsyncIterator[str]:
    """A reply as server-sent events: a chunk for each choice, and one for its end."""
    about = {name: value for name, value in reply.items() if name not in ("choices", "usage")}
    about["object"] = "chat.completion.chunk"
    for choice in reply["choices"]:
        calls = [{"index": index, **call} for index, call in enumerate(choice["message"].get("tool_calls") or ())]
        delta = choice["message"] | ({"tool_calls": calls} if calls else {})
        begun = {name: value for name, value in choice.items() if name != "message"}
        yield event({**about, "choices": [begun | {"delta": delta, "finish_reason": None}]})
        ended = {"index": choice.get("index", 0), "delta": {}, "logprobs": None}
        yield event({**about, "choices": [ended | {"finish_reason": choice.get("finish_reason")}]})
    if usage:
        yield event({**about, "choices": [], "usage": reply.get("usage")})
    yield "data: [DONE]\n\n"
