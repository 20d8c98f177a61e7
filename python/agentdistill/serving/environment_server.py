"""``agentdistill serve-environment``: tasks, sandbox and tools as an environment over HTTP, for trainers elsewhere.

OpenEnv's clients connect to the WebSocket ``/ws``. Each connection is a session, which resets to one task after
another. Without a WebSocket, ``POST /reset`` begins an episode, ``POST /step`` runs code in it, ``GET /state`` tells
its number of steps, and ``POST /close`` gives it up. An episode ends with an answer, whose grade is its reward, or
after ``max_steps``. Sessions and episodes cannot see each other. Not here: HTTP itself (http_server.py), what an
episode is (training/environment.py), and the other parts of OpenEnv's servers (MCP, web pages, packaging).

Source: https://github.com/meta-pytorch/OpenEnv (core/env_server), openenv 0.10
"""

import asyncio
import json
import logging
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from agentdistill._core import AgentDistillError, Limits, Sandbox
from agentdistill.self_consistent_action import STEPS_WITH_SLOW_TOOLS
from agentdistill.serving.http_server import (
    Endpoint,
    HttpServer,
    Json,
    Refused,
    Socket,
    json_object,
    json_response,
    validated,
)
from agentdistill.tasks.task import Task
from agentdistill.tools.tool import TOOL_SECONDS, Tool, abandon, has_slow, sandbox_tools
from agentdistill.training.environment import Episode, describe_python, with_rewards

_log = logging.getLogger(__name__)


class EnvironmentServer(HttpServer):
    """Serves tasks over HTTP inside a ``with`` block."""

    def __init__(
        self,
        tasks: Sequence[Task],
        tools: Sequence[Tool] = (),
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        limits: Limits | None = None,
        tool_seconds: float = TOOL_SECONDS,
        max_steps: int = 5,
        sessions: int = 256,
        idle_seconds: float = 600.0,
        api_key: str | None = None,
    ) -> None:
        """``tools``, ``limits`` and ``tool_seconds`` are those of ``environment``. ``max_steps``: an episode without an
        answer ends after so many. ``sessions``: maximum number of WebSockets and other episodes that are open.
        ``idle_seconds``: when one without requests is closed. The other arguments are those of ``HttpServer``.

        Raises ValueError for numbers that are not positive, no tasks, a task without an answer, and tools with the same
        name; else as ``HttpServer``.
        """
        for name, number in {"max_steps": max_steps, "sessions": sessions, "idle_seconds": idle_seconds}.items():
            if not number > 0:
                raise ValueError(f"{name} is {number}: give more than 0")
        if not tasks:
            raise ValueError("an environment needs at least one task")
        self._tasks = with_rewards(tasks)
        self._functions = sandbox_tools(tools, tool_seconds)
        self._sandbox = Sandbox(self._functions, limits)
        self._schema = _schema(tools)
        self._max_steps, self._sessions, self._idle_seconds = max_steps, sessions, idle_seconds
        self._connected = 0
        self._episodes = dict[str, _Episode]()
        self._threads = ThreadPoolExecutor(STEPS_WITH_SLOW_TOOLS if has_slow(tools) else os.cpu_count())
        super().__init__(host, port, api_key)

    def __exit__(self, *reason: object) -> None:
        try:
            super().__exit__(*reason)
        finally:
            abandon(self._functions)
            self._threads.shutdown(wait=False, cancel_futures=True)

    def health(self) -> Json:
        return {"sessions": self._open()}

    def endpoints(self) -> dict[str, Endpoint]:
        return {
            "GET /schema": self._get_schema,
            "POST /reset": self._reset,
            "POST /step": self._step,
            "GET /state": self._state,
            "POST /close": self._close,
        }

    def sockets(self) -> dict[str, Socket]:
        return {"/ws": self._session}

    # ---- what both kinds of clients can do -------------------------------------------------------------

    def _begin(self, wanted: "_Reset") -> "_Episode":
        """Begin the task that is wanted. Raises Refused if there is none."""
        if wanted.task_id is not None:
            task = self._tasks.get(wanted.task_id)
        else:
            number = random.randrange(len(self._tasks)) if wanted.seed is None else wanted.seed % len(self._tasks)
            task = list(self._tasks.values())[number]
        if task is None:
            raise Refused(404, f"no task {wanted.task_id!r} among the {len(self._tasks)} here", code=_INVALID)
        return _Episode(wanted.episode_id or uuid4().hex, task, self._sandbox, self._max_steps)

    async def _run(self, episode: "_Episode", action: "_Action") -> Json:
        return await asyncio.get_running_loop().run_in_executor(self._threads, episode.step, action.code)

    def _open(self) -> int:
        """Number of open sessions and episodes. Closes those episodes that have been idle for too long."""
        limit = time.monotonic() - self._idle_seconds
        for name in [name for name, episode in self._episodes.items() if episode.used < limit and not episode.busy]:
            del self._episodes[name]
        return self._connected + len(self._episodes)

    def _check_room(self) -> None:
        if (number := self._open()) >= self._sessions:
            full = f"all {number} sessions are in use: close one, or try again later"
            raise Refused(429, full, code="CAPACITY_REACHED", headers={"Retry-After": "1"})

    # ---- plain HTTP ------------------------------------------------------------------------------------

    async def _get_schema(self, request: Request) -> Response:
        return json_response(self._schema)

    async def _reset(self, request: Request) -> Response:
        wanted = validated(_Reset, await json_object(request))
        self._check_room()
        episode = self._begin(wanted)
        if episode.id in self._episodes:
            raise Refused(409, f"there is an episode {episode.id!r} already", param="episode_id")
        self._episodes[episode.id] = episode
        return json_response(episode.opening())

    async def _step(self, request: Request) -> Response:
        wanted = validated(_Step, await json_object(request))
        episode = self._episode(wanted.episode_id)
        episode.busy = True
        try:
            result = await self._run(episode, wanted.action)
        finally:
            episode.busy, episode.used = False, time.monotonic()
        if episode.done:
            del self._episodes[episode.id]
        return json_response(result)

    async def _state(self, request: Request) -> Response:
        return json_response(self._episode(request.query_params.get("episode_id", "")).state())

    async def _close(self, request: Request) -> Response:
        episode = self._episode(validated(_Named, await json_object(request)).episode_id)
        del self._episodes[episode.id]
        return json_response(episode.state())

    def _episode(self, name: str) -> "_Episode":
        """The episode with this name, if it is not running code. Raises Refused."""
        self._open()
        if (episode := self._episodes.get(name)) is None:
            ended = f"it is over, was closed, or was not used for {self._idle_seconds:g} s"
            raise Refused(404, f"no episode {name!r}: {ended}. POST /reset begins one", param="episode_id")
        if episode.busy:
            raise Refused(409, f"the episode {name!r} is running code: wait for the answer", param="episode_id")
        episode.used = time.monotonic()
        return episode

    # ---- WebSockets ------------------------------------------------------------------------------------

    async def _session(self, socket: WebSocket) -> None:
        await socket.accept()
        with suppress(WebSocketDisconnect):
            try:
                self._check_room()
            except Refused as refused:
                await socket.send_text(_error(refused))
            else:
                self._connected += 1
                try:
                    await self._converse(socket)
                finally:
                    self._connected -= 1
            await socket.close()

    async def _converse(self, socket: WebSocket) -> None:
        """Answer messages until the client closes its session or has been idle for too long."""
        episode: _Episode | None = None
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds):
                    received = await socket.receive()
            except TimeoutError:
                idle = f"the session was not used for {self._idle_seconds:g} s"
                return await socket.send_text(_error(Refused(408, idle, code="SESSION_ERROR")))
            if received["type"] == "websocket.disconnect":
                return None
            try:
                message = _message(received.get("text") or received.get("bytes") or "")
                if message.type == "close":
                    return None
                if message.type == "reset":
                    episode = self._begin(validated(_Reset, message.data))
                    answer = {"type": "observation", "data": episode.opening()}
                elif message.type == "state":
                    answer = {"type": "state", "data": episode.state() if episode else _NO_STATE}
                else:
                    action = validated(_Action, message.data)
                    if episode is None or episode.done:
                        raise Refused(409, "there is no episode, or it is over: reset first", code="EXECUTION_ERROR")
                    answer = {"type": "observation", "data": await self._run(episode, action)}
            except Refused as refused:
                await socket.send_text(_error(refused))
            except AgentDistillError as error:
                _log.error("%s", error)
                failed = Refused(500, "the sandbox failed; see the server's log", code="EXECUTION_ERROR")
                await socket.send_text(_error(failed))
            else:
                await socket.send_text(json.dumps(answer))


class _Episode(Episode):
    """An episode with a name and an end, for clients. ``busy``: whether it is running code. ``used``: when it was used
    last, in seconds."""

    def __init__(self, name: str, task: Task, sandbox: Sandbox, max_steps: int) -> None:
        super().__init__(task, sandbox)
        self.id, self.done, self.busy, self.used = name, False, False, time.monotonic()
        self._steps, self._max_steps = 0, max_steps

    def opening(self) -> Json:
        """The answer to a reset."""
        about = {"episode_id": self.id, "task_id": self.task.id}
        return {"observation": {"question": self.task.question}, "reward": None, "done": False, "metadata": about}

    def step(self, code: str) -> Json:
        """Run code, and grade the answer that it gives. The answer to a step."""
        output = self.run(code)
        self._steps += 1
        self.done = self.answer is not None or self._steps == self._max_steps
        return {"observation": {"output": output}, "reward": self.reward(), "done": self.done}

    def state(self) -> Json:
        return {"episode_id": self.id, "step_count": self._steps, "task_id": self.task.id}


# ---- messages --------------------------------------------------------------------------------------

_NO_STATE: Json = {"episode_id": None, "step_count": 0}

_INVALID = "VALIDATION_ERROR"


class _Message(BaseModel):
    type: Literal["reset", "step", "state", "close"]
    data: Json = Field(default_factory=dict)


class _Reset(BaseModel):
    """Which task to begin: by its id; or else by number, the seed; or else any."""

    model_config = ConfigDict(extra="forbid")

    task_id: str | None = None
    seed: int | None = Field(None, ge=0)
    episode_id: str | None = Field(None, min_length=1, max_length=255)


class _Action(BaseModel):
    model_config = ConfigDict(extra="forbid", title="RunPython")

    code: str
    metadata: SkipJsonSchema[Json] = Field(default_factory=dict)
    """A field of all actions of OpenEnv."""


class _Named(BaseModel):
    model_config = ConfigDict(extra="forbid")

    episode_id: str


class _Step(_Named):
    action: _Action


def _message(text: str | bytes) -> _Message:
    """A message of a WebSocket. Raises Refused."""
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the message is not JSON: {error}", code="INVALID_JSON") from None
    return validated(_Message, content)


def _error(refused: Refused) -> str:
    """A refusal as a message of a WebSocket."""
    return json.dumps(
        {"type": "error", "data": {"message": str(refused), "code": refused.body["error"]["code"] or _INVALID}}
    )


def _schema(tools: Sequence[Tool]) -> Json:
    """The answer to ``GET /schema``: JSON Schemas. Clients show that of an action to the model."""
    action = _Action.model_json_schema()
    action["properties"]["code"]["description"] = describe_python(tools)
    text = {"type": "string"}
    observation = {"type": "object", "properties": {"question": text, "output": text}}
    known = {"episode_id": text, "step_count": {"type": "integer"}, "task_id": text}
    return {"action": action, "observation": observation, "state": {"type": "object", "properties": known}}
