"""``agentdistill serve``: an agent behind OpenAI's chat completions API, so that any client can use it as a model.

Each request is an episode. The agent's answer is the completion's content. Its actions and observations are the
completion's ``reasoning_content`` (a field of DeepSeek's and vLLM's servers); with ``stream``, they are sent as they
arrive. All requests share one player, with its model, sandbox and tools.

An agent was trained on episodes of one question, with its own prompt. Instructions and earlier turns of a client are
therefore prepended to the last question as text, and each request starts from a fresh State. Sampling parameters are
the server's settings: ``temperature``, ``max_tokens``, ``seed`` and the like in a request have no effect. Not here:
the HTTP server (http_server.py), tools of the client, several completions per request.

Source: https://platform.openai.com/docs/api-reference/chat
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from agentdistill._core import Trajectory
from agentdistill.rollouts.player import FAILED, Player
from agentdistill.serving.api_server import ApiServer, ChatCompletion, Streamable, event, event_stream, joined_text
from agentdistill.serving.http_server import Json, Refused, json_response, unless_disconnected, validated
from agentdistill.tasks.task import Task

_log = logging.getLogger(__name__)


class ChatServer(ApiServer):
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
        if not seconds > 0:
            raise ValueError(f"a request may take {seconds} s: give more than 0")
        self._player = player
        self._seconds = seconds
        self._episodes = set[asyncio.Task[Trajectory]]()
        super().__init__(name or player.model_name, host, port, api_key)

    def _running(self) -> int:
        """Number of running episodes, plus steps of cancelled episodes that have not ended yet."""
        return len(self._episodes) + self._player.abandoned

    def health(self) -> Json:
        return {"episodes": self._running()}

    async def complete(self, body: Json, request: Request) -> Response:
        chat_request = _parse(body)
        question = as_question([(message.role, message.content) for message in chat_request.messages])
        if (running := self._running()) >= self._player.at_once:
            full = f"all {running} slots for requests are in use: try again later"
            raise Refused(429, full, code="rate_limit_exceeded", headers={"Retry-After": "1"})
        completion = ChatCompletion(self.name)
        output = asyncio.Queue[str | None]()
        play = self._player.play(Task(completion.id, question), show=output.put_nowait)
        episode = asyncio.create_task(asyncio.wait_for(play, self._seconds))
        self._episodes.add(episode)

        def ended(_: object) -> None:
            self._episodes.discard(episode)
            output.put_nowait(None)

        episode.add_done_callback(ended)
        if chat_request.stream:
            return event_stream(_events(completion, episode, output, usage=chat_request.wants_usage))
        trajectory = await _ended(episode, request)
        reasoning = "".join(iter(output.get_nowait, None))  # None is the end
        message = {
            "role": "assistant",
            "content": _content(trajectory),
            "refusal": None,
            "reasoning_content": reasoning,
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(trajectory)}
        return json_response(completion.whole([choice], _usage(trajectory)))


class _Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(joined_text)] = ""


class _ChatRequest(Streamable):
    """The fields of a request's body that the server uses."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[_Message] = Field(min_length=1)


# Parameters that an agent does not support, each with the one value that is accepted because it has no effect.
_UNSUPPORTED: dict[str, object] = {
    "n": 1,
    "tools": [],
    "functions": [],
    "logprobs": False,
    "response_format": {"type": "text"},
    "modalities": ["text"],
}


def as_question(messages: list[tuple[str, str]]) -> str:
    """Turn a conversation into one question: instructions first, then the earlier turns, then the last question.

    A single question is returned unchanged. Raises Refused for a conversation that does not end with a question.

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
        raise Refused(400, "the last message must be the user's, and not empty", param="messages")
    instructions = [text for role, text in messages if role in ("system", "developer") and text]
    turns = [f"{role.capitalize()}: {text}" for role, text in messages[:-1] if role in ("user", "assistant")]
    if turns:
        question = "\n".join(["The conversation so far:", *turns, "", "Now answer this:", question])
    return "\n\n".join([*instructions, question])


async def _events(
    completion: ChatCompletion, episode: "asyncio.Task[Trajectory]", output: "asyncio.Queue[str | None]", *, usage: bool
) -> AsyncIterator[str]:
    """Yield a completion as server-sent events. If the client disconnects, the episode is cancelled."""
    try:
        yield event(completion.chunk({"role": "assistant", "content": ""}))
        while (text := await output.get()) is not None:
            yield event(completion.chunk({"reasoning_content": text}))
        trajectory = await _ended(episode)
        yield event(completion.chunk({"content": _content(trajectory)}))
        yield event(completion.chunk({}, _finish_reason(trajectory)))
        if usage:
            yield event(completion.usage_chunk(_usage(trajectory)))
    except Refused as refused:
        yield event(refused.body)
    finally:
        episode.cancel()
    yield "data: [DONE]\n\n"


async def _ended(episode: "asyncio.Task[Trajectory]", request: Request | None = None) -> Trajectory | None:
    """Wait for an episode's trajectory; None if it exceeded its time limit.

    If the client disconnects first, cancels the episode and raises ClientDisconnect. Raises Refused if the model or
    the sandbox fails.
    """
    try:
        trajectory = await (unless_disconnected(episode, request) if request else episode)
    except TimeoutError:
        return None
    if trajectory.outcome in FAILED:
        _log.error("%s: %s: %s", trajectory.task_id, trajectory.outcome, trajectory.error)
        what = {"model_error": "model", "sandbox_error": "sandbox"}.get(trajectory.outcome, "server")
        raise Refused(502, f"the {what} failed; see the server's log", code=trajectory.outcome)
    return trajectory


def _content(trajectory: Trajectory | None) -> str:
    """The agent's answer; "" if there is none."""
    return (trajectory.answer if trajectory else None) or ""


def _finish_reason(trajectory: Trajectory | None) -> str:
    """Return "stop" if there is an answer, or "length" if a limit was reached (steps, tokens, time, parse failures)."""
    return "stop" if trajectory and trajectory.answer else "length"


def _usage(trajectory: Trajectory | None) -> dict[str, int]:
    prompt, completion = trajectory.usage if trajectory else (0, 0)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _parse(body: Json) -> _ChatRequest:
    chat_request = validated(_ChatRequest, body)
    for name, nothing in _UNSUPPORTED.items():
        if (chat_request.model_extra or {}).get(name) not in (None, nothing):
            message = f"{name} is not supported: the agent gives one answer, as text, and uses its own tools"
            raise Refused(400, message, param=name, code="unsupported_parameter")
    return chat_request
