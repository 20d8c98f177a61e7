"""Which requests of an agent belong to one conversation, and how does a conversation become a trajectory?

A client of OpenAI's protocol sends the whole conversation with each request. A request continues a recorded
conversation if its messages begin with those of an earlier request and the reply to it; the longest such beginning
counts. Any other request starts a new conversation. If two requests continue the same reply, the conversation has two
branches. A session is what a client marks as such (an episode, say), and conversations in it are its own; without a
mark, each conversation is a session.

A conversation is written when it has been idle, when its session is ended, or when the recorder closes: a trajectory
for each branch. It is then forgotten. Steps that an earlier trajectory contains count as given, so that they are learnt
once. The core converts the messages (rust/formats/chat.rs), and each step gets the ids and log probabilities that the
model returned. Not here: HTTP, and asking the model (gateway.py).
"""

import asyncio
import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import dropwhile
from pathlib import Path
from typing import Any
from uuid import uuid4

from agentdistill._core import AgentDistillError, Trajectory, TrajectoryWriter
from agentdistill.models.thoughts import reasoning, split_thinking
from agentdistill.serving.http_server import Json
from agentdistill.tasks.task import Task
from agentdistill.trajectories import steps_given
from agentdistill.well_formed import well_formed

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Conversation:
    session: str
    is_named: bool
    """Whether the client named the session."""
    given: int
    """Turns of a model in the first request. They were not recorded here."""
    exchanges: "list[_Exchange]" = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


@dataclass(eq=False)
class _Exchange:
    """A request and the reply to it."""

    key: bytes
    """Identifies the messages of the request."""
    messages: list[Json]
    """The messages since the reply that it continues, or all."""
    sampling: Json
    reply: Json
    """The response to it, in the protocol's form."""
    began: float
    ended: float
    parent: "_Exchange | None" = None
    chosen: int = 0
    """The choice of the parent that it continues."""
    children: int = 0
    is_written: bool = False

    @property
    def choices(self) -> list[Json]:
        return list(self.reply["choices"])

    def usage(self, name: str) -> int:
        used = self.reply.get("usage") or {}
        return int(used.get(name) or 0)


class Recorder:
    """Collects the conversations of agents with a model, and writes them to a file. Use it from one event loop."""

    def __init__(
        self, output: Path, model: str, tasks: Sequence[Task] = (), *, idle_seconds: float = 600.0, date: str | None
    ) -> None:
        """``output``: a trajectory file. One that was recorded with the same model is appended to. ``tasks`` provide
        the reference answers. ``date``: the date in the model's prompts, if its chat template prints one.

        Raises TrajectoryError for a file of another run, OSError.
        """
        if idle_seconds <= 0:
            raise ValueError(f"a conversation may be idle for {idle_seconds} s: give more than 0")
        self._model = model
        self._date = {"date": date} if date else {}
        self._idle_seconds = idle_seconds
        self._tasks = {task.id: task for task in tasks}
        self._conversations: dict[_Conversation, None] = {}  # in the order in which they began
        self._asked: defaultdict[bytes, list[tuple[_Conversation, _Exchange]]] = defaultdict(list)
        self._writer = TrajectoryWriter(output, json.dumps({"record": {"model": model}}))
        self._ids = self._writer.done
        self.written = 0
        """Number of trajectories written so far."""

    @property
    def open_conversations(self) -> int:
        """Number of conversations that are not written yet."""
        return len(self._conversations)

    def check(self, messages: Sequence[Json]) -> int:
        """The number of turns of a model in a request. Raises TrajectoryError for messages that cannot be recorded."""
        reply = {"role": "assistant", "content": "-"}
        return steps_given(_as_trajectory(messages, [reply], {"question": "-"}))

    def add(self, session: str | None, request: Json, given: int, reply: Json, began: float, ended: float) -> str:
        """Record a reply to a request with valid messages, and return its session's name. ``session``: the name from
        the client. ``given``: what ``check`` returned. The times are in seconds. Raises TrajectoryError for a reply
        that cannot be recorded."""
        for choice in reply["choices"]:
            _as_trajectory([], [_reply_message(choice)], {"question": "-"})
        messages = request["messages"]
        keys = _keys(messages)
        sampling = {name: request[name] for name in _SAMPLING if request.get(name) is not None}
        exchange = _Exchange(keys[-1], messages, sampling, reply, began, ended)
        if found := self._continued(messages, keys, session):
            conversation, exchange.parent, exchange.chosen, exchange.messages = found
            exchange.parent.children += 1
        else:
            conversation = _Conversation(session or uuid4().hex, session is not None, given)
            self._conversations[conversation] = None
        conversation.exchanges.append(exchange)
        self._asked[exchange.key].append((conversation, exchange))
        self._wait(conversation)
        return conversation.session

    def end(self, session: str, details: Json | None = None) -> int:
        """Write the conversations of a session; return the number of trajectories. ``details`` are about its last
        reply: its ``answer``, ``score``, ``reference``, ``task_id``."""
        ended = [conversation for conversation in self._conversations if conversation.session == session]
        last = max((e for c in ended for e in c.exchanges), key=lambda exchange: exchange.ended, default=None)
        return sum(self._write(conversation, last, details or {}) for conversation in ended)

    async def close(self) -> None:
        """Write all conversations. Raises OSError if the file cannot be written."""
        try:
            for conversation in list(self._conversations):
                self._write(conversation)
        finally:
            self._writer.close()

    def _continued(
        self, messages: list[Json], keys: list[bytes], session: str | None
    ) -> tuple[_Conversation, _Exchange, int, list[Json]] | None:
        """The reply that a request continues: its conversation, its exchange, the choice, and the messages after it."""
        for at in range(len(messages) - 1, 0, -1):
            new = list(dropwhile(_is_reply, messages[at + 1 :]))  # some clients repeat calls as a message of their own
            if not _is_reply(messages[at]) or not new:
                continue
            found = [
                (conversation, exchange, number, new)
                for conversation, exchange in self._asked.get(keys[at], ())
                if (conversation.session == session if session else not conversation.is_named)
                for number, choice in enumerate(exchange.choices)
                if _repeats(messages[at], choice["message"])
            ]
            if found:
                return min(found, key=lambda each: each[1].children)  # of equal ones, one that nobody continued
        return None

    def _wait(self, conversation: _Conversation) -> None:
        """Write a conversation when it has been idle."""
        if conversation.timer:
            conversation.timer.cancel()

        def idle() -> None:
            try:
                self._write(conversation)
            except OSError as error:
                _log.error("a conversation is not written yet: %s", error)
                self._wait(conversation)

        conversation.timer = asyncio.get_running_loop().call_later(self._idle_seconds, idle)

    def _write(
        self, conversation: _Conversation, last: _Exchange | None = None, details: Mapping[str, Any] | None = None
    ) -> int:
        """Write a trajectory for each branch, and forget the conversation."""
        leaves = [exchange for exchange in conversation.exchanges if not exchange.children and not exchange.is_written]
        for leaf in leaves:
            about = details if details and leaf is last else {}
            try:
                trajectory = self._trajectory(conversation, _path(leaf), about)
            except AgentDistillError as error:  # not expected, since each message was checked; the others are written
                _log.error("session %s cannot be recorded: %s", conversation.session, error)
                continue
            self._writer.append([trajectory])
            self._ids.add(trajectory.task_id)
            self.written += 1
            for exchange in _path(leaf):
                exchange.is_written = True
        del self._conversations[conversation]
        if conversation.timer:
            conversation.timer.cancel()
        for exchange in conversation.exchanges:
            self._asked[exchange.key].remove((conversation, exchange))
            if not self._asked[exchange.key]:
                del self._asked[exchange.key]
        return len(leaves)

    def _trajectory(self, conversation: _Conversation, path: list[_Exchange], details: Mapping[str, Any]) -> Trajectory:
        """The trajectory of a branch."""
        chosen = [exchange.chosen for exchange in path[1:]] + [0]
        written = sum(exchange.is_written for exchange in path)
        prompt, completion = list(path[0].messages), list[Json]()
        for number, exchange in enumerate(path):
            part = prompt if number <= written else completion
            part += exchange.messages if number else []
            part = prompt if number < written else completion
            part.append(_reply_message(exchange.choices[chosen[number]]))
        metadata = {"model": self._model, "sampling": self._sampling(conversation, path[-1])}
        if not any(message["role"] == "user" for message in prompt):
            metadata["question"] = _text(prompt[-1])
        if path[-1].choices[0].get("finish_reason") == "length" and "answer" not in details:
            metadata["outcome"] = "cut_completion"
        metadata |= {name: value for name, value in details.items() if name != "task_id"}
        made = json.loads(_as_trajectory(prompt, completion, metadata).to_json())
        if len(made["steps"]) == conversation.given + len(path):
            for number, (step, exchange) in enumerate(zip(made["steps"][conversation.given :], path, strict=True)):
                then = path[number + 1].began if number + 1 < len(path) else exchange.ended
                step |= _recorded(step, exchange, chosen[number]) | {"seconds": then - exchange.began}
        new = path[written:]
        made["usage"] = [sum(exchange.usage(f"{name}_tokens") for exchange in new) for name in ("prompt", "completion")]
        made["seconds"] = new[-1].ended - new[0].began
        if task := self._task(details.get("task_id") or conversation.session, made["question"]):
            made |= {"task_id": task.id, "task_set": task.task_set, "aliases": list(task.aliases)}
            made["reference"] = made["reference"] or task.answer
        made["task_id"] = details.get("task_id") or made["task_id"]
        taken, number = made["task_id"], 1
        while made["task_id"] in self._ids:
            number += 1
            made["task_id"] = f"{taken}#{number}"
            made["sampling"]["samples"] = number
        return Trajectory.from_json(json.dumps(made))

    def _sampling(self, conversation: _Conversation, exchange: _Exchange) -> Json:
        return {**exchange.sampling, **self._date, "session": conversation.session}

    def _task(self, name: str, question: str) -> Task | None:
        """The task with this id, or else the longest one whose question was asked."""
        asked = [task for task in self._tasks.values() if task.question.strip() in question]
        return self._tasks.get(name) or max(asked, key=lambda task: len(task.question), default=None)


_SAMPLING = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "n")
"""Parameters of a request that a trajectory records."""


def _path(leaf: _Exchange) -> list[_Exchange]:
    """The exchanges of a branch, from the first."""
    path = [leaf]
    while parent := path[-1].parent:
        path.append(parent)
    return path[::-1]


def _as_trajectory(prompt: Sequence[Json], completion: Sequence[Json], metadata: Json) -> Trajectory:
    """Raises TrajectoryError."""
    record = {"prompt": prompt, "completion": completion, "agentdistill": metadata}
    return Trajectory.from_json(well_formed(json.dumps(record, ensure_ascii=False)), source="prompt-completion")


def _recorded(step: Json, exchange: _Exchange, chosen: int) -> Json:
    """What a step of a trajectory gets from the exchange that it is: all choices as candidates, ids, times."""
    candidates = []
    for number, choice in enumerate(exchange.choices):
        made = step["candidates"][0]
        if number != chosen:
            other = _as_trajectory([], [_reply_message(choice)], {"question": "-", "kind": "agent"})
            [made] = json.loads(other.to_json())["steps"][0]["candidates"]
            made.pop("observation", None)  # it was not run
        given = {"token_ids": choice.get("token_ids") or None, "logprobs": _logprobs(choice)}
        candidates.append(made | given | {"finish_reason": choice.get("finish_reason")})
    details = (exchange.reply.get("usage") or {}).get("prompt_tokens_details") or {}
    return {
        "candidates": candidates,
        "winner": chosen,
        "prompt_token_ids": exchange.reply.get("prompt_token_ids") or None,
        "model_seconds": exchange.ended - exchange.began,
        "cached_tokens": details.get("cached_tokens") or 0,
    }


def _logprobs(choice: Json) -> list[float] | None:
    tokens = (choice.get("logprobs") or {}).get("content")
    return [token["logprob"] for token in tokens] if tokens else None


def _reply_message(choice: Json) -> Json:
    """The message of a reply, with the model's thinking apart from its content."""
    message = {**choice["message"], "role": "assistant"}
    content = message.get("content")
    if isinstance(content, str) and not (message.get("reasoning_content") or message.get("reasoning")):
        thought, message["content"] = split_thinking(content)
        message["reasoning_content"] = reasoning(thought)
    return message


# ---- messages --------------------------------------------------------------------------------------


def _keys(messages: Sequence[Json]) -> list[bytes]:
    """A key for each beginning of a conversation: for no message, for one, and so on."""
    keys = [b""]
    for message in messages:
        role = {"developer": "system"}.get(message["role"], message["role"])
        told = [role, _text(message), message.get("tool_calls") or None, message.get("tool_call_id")]
        keys.append(hashlib.sha256(keys[-1] + json.dumps(told, sort_keys=True).encode()).digest())
    return keys


def _text(message: Json) -> str:
    """The text of a message. Contents of other kinds are JSON."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(
            part["text"] if isinstance(part, dict) and isinstance(part.get("text"), str) else json.dumps(part)
            for part in content
        )
    return content if isinstance(content, str) else json.dumps(content) if content else ""


def _is_reply(message: Json) -> bool:
    return bool(message["role"] == "assistant")


def _repeats(sent: Json, said: Json) -> bool:
    """Whether a client's message repeats what the model said. Clients drop thinking, change white space, append the
    stop string that ended the reply, and write calls as text."""
    if calls := said.get("tool_calls"):
        repeated = json.dumps(sent)
        return all(json.dumps(str(call.get("id")))[1:-1] in repeated for call in calls)
    spoken, expected = ("".join(split_thinking(_text(message))[1].split()) for message in (sent, said))
    return spoken.startswith(expected) if expected else not spoken
